//! A worker: one thread, one runtime, and the connections it owns for their lives.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::connection;
use super::listener::{self, Accepted, Dispatch, Opening};
use super::walk;
use crate::control::{Command, Mailbox, Order, Registry};
use crate::ending::{Ending, Reason};
use crate::metrics::WorkerTally;
use crate::net::Scratch;
use crate::policy::Banned;
use crate::proxy;
use crate::snapshot::{Fate, Snapshot};
use crate::tunnel::{BacklogShare, Shared};
use crate::ws::CloseCode;

/// What a worker is made of.
pub struct Setup {
    pub id: u16,
    /// Its share of `backlog_total`.
    pub backlog: usize,
    /// The snapshot that all workers go by.
    pub published: Arc<ArcSwap<Snapshot>>,
    /// Sockets to accept from.
    pub openings: mpsc::UnboundedReceiver<Opening>,
    pub dispatch: Dispatch,
    pub sockets: mpsc::UnboundedReceiver<Accepted>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// What it counts.
    pub tally: Arc<WorkerTally>,
    /// Whom an operator keeps out.
    pub banned: Arc<Banned>,
}

/// Runs a worker on this thread until its commands end.
pub fn run(setup: Setup) -> io::Result<()> {
    LocalRuntime::new()?.block_on(work(setup));
    Ok(())
}

async fn work(setup: Setup) {
    let Setup { id, backlog, published, mut openings, dispatch, mut sockets, mut commands, .. } =
        setup;
    let shared = Rc::new(Shared {
        scratch: Scratch::new().into(),
        backlog: BacklogShare::new(backlog, setup.tally.backlog.clone()),
        tally: setup.tally,
        drain_code: None.into(),
    });
    let worker = proxy::Worker::new(published.load_full(), Registry::new(id), shared, setup.banned);
    let dispatch = Rc::new(dispatch);
    let serve = serve_by(worker.clone());
    loop {
        tokio::select! {
            Some(opening) = openings.recv() => {
                let (draining, serve) = (worker.draining.subscribe(), serve_by(worker.clone()));
                spawn_local(listener::accept(opening, dispatch.clone(), draining, serve));
            }
            Some(accepted) = sockets.recv() => serve(accepted),
            command = commands.recv() => match command {
                Some(Command::Adopt { window, backlog }) => {
                    worker.shared.backlog.resize(backlog);
                    adopt(&worker, published.load_full(), window);
                }
                Some(Command::Drain { window, code }) => drain(&worker, window, code),
                Some(Command::Cut) => cut(&worker),
                Some(Command::List(listing, reply)) => {
                    spawn_local(walk::list(worker.registry.clone(), listing, reply));
                }
                Some(Command::Rank(limit, reply)) => {
                    spawn_local(walk::rank(worker.registry.clone(), limit, reply));
                }
                Some(Command::Kick(kick, reply)) => {
                    spawn_local(walk::kick(worker.registry.clone(), kick, reply));
                }
                None => return,
            },
        }
    }
}

fn serve_by(worker: Rc<proxy::Worker>) -> impl Fn(Accepted) {
    move |accepted| {
        spawn_local(connection::serve(worker.clone(), accepted));
    }
}

/// From now on `next` is gone by: each tunnel is told its plan, and those whose route or endpoint
/// is gone end one after the other over `window`.
fn adopt(worker: &Rc<proxy::Worker>, next: Arc<Snapshot>, window: Duration) {
    let before = worker.adopt(next.clone());
    let mut ending = Vec::new();
    for (mailbox, about) in worker.registry.standing() {
        match next.fate(&about, &before) {
            Fate::Adopts(plan) => mailbox.post(Order::Adopt(plan)),
            Fate::Stays => {}
            Fate::Ends(reason) => ending.push((mailbox, reason.into())),
        }
    }
    end_spread(ending, window);
}

/// Ends the k-th of n tunnels within the k-th part of `window`.
fn end_spread(tunnels: Vec<(Rc<Mailbox>, Ending)>, window: Duration) {
    let start = Instant::now();
    spawn_local(async move {
        let count = tunnels.len() as f64;
        for (index, (mailbox, ending)) in tunnels.into_iter().enumerate() {
            let share = (index as f64 + rand::random::<f64>()) / count;
            sleep_until(start + window.mul_f64(share)).await;
            mailbox.post(Order::End(ending));
        }
    });
}

/// From now on nothing is admitted, and the sockets end one after the other over `window`.
fn drain(worker: &Rc<proxy::Worker>, window: Duration, code: CloseCode) {
    if worker.is_draining() {
        return;
    }
    worker.shared.drain_code.set(Some(code));
    worker.window_end.set(Some(Instant::now() + window));
    worker.draining.send_replace(true);
    let mailboxes = worker.registry.mailboxes();
    debug!(sockets = mailboxes.len(), window_s = window.as_secs_f64(), "draining");
    let ending = Ending::from(Reason::Drain).telling_client(code);
    end_spread(mailboxes.into_iter().map(|mailbox| (mailbox, ending)).collect(), window);
}

/// What is left ends now, and nothing new begins.
fn cut(worker: &proxy::Worker) {
    worker.draining.send_replace(true);
    for mailbox in worker.registry.mailboxes() {
        mailbox.post(Order::Cut(Reason::Drain.into()));
    }
}

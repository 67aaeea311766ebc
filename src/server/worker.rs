//! A worker: one thread, one runtime, and the connections it owns for their lives.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::connection;
use super::listener::{self, Accepted, Dispatch, Listener};
use super::occupancy::Occupant;
use crate::control::{Command, Order, Registry};
use crate::ending::{Ending, Reason};
use crate::net::Scratch;
use crate::proxy;
use crate::snapshot::Snapshot;
use crate::tunnel::{BacklogShare, Shared};
use crate::ws::CloseCode;

/// What a worker is made of.
pub struct Setup {
    pub id: u16,
    pub snapshot: Arc<Snapshot>,
    /// Its share of `backlog_total`.
    pub backlog: usize,
    /// The listeners it accepts for.
    pub listeners: Vec<(TcpListener, Arc<Listener>, Occupant)>,
    pub dispatch: Dispatch,
    pub sockets: mpsc::UnboundedReceiver<Accepted>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Runs a worker on this thread until its commands end.
pub fn run(setup: Setup) -> io::Result<()> {
    LocalRuntime::new()?.block_on(work(setup));
    Ok(())
}

async fn work(setup: Setup) {
    let Setup { id, snapshot, backlog, listeners, dispatch, mut sockets, mut commands } = setup;
    let shared = Rc::new(Shared {
        scratch: Scratch::new().into(),
        backlog: BacklogShare::new(backlog),
        drain_code: None.into(),
    });
    let worker = proxy::Worker::new(snapshot, Registry::new(id), shared);
    let dispatch = Rc::new(dispatch);
    for (socket, listener, present) in listeners {
        let serve = serve_by(worker.clone());
        let draining = worker.draining.subscribe();
        spawn_local(listener::accept(socket, listener, dispatch.clone(), present, draining, serve));
    }
    let serve = serve_by(worker.clone());
    loop {
        tokio::select! {
            Some(accepted) = sockets.recv() => serve(accepted),
            command = commands.recv() => match command {
                Some(Command::Drain { window, code }) => drain(&worker, window, code),
                Some(Command::Cut) => cut(&worker),
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

/// From now on nothing is admitted, and the sockets end one after the other over `window`.
fn drain(worker: &Rc<proxy::Worker>, window: Duration, code: CloseCode) {
    if worker.is_draining() {
        return;
    }
    worker.shared.drain_code.set(Some(code));
    worker.draining.send_replace(true);
    let mailboxes = worker.registry.mailboxes();
    debug!(sockets = mailboxes.len(), window_s = window.as_secs_f64(), "draining");
    let ending = Ending::from(Reason::Drain).telling_client(code);
    let start = Instant::now();
    spawn_local(async move {
        let count = mailboxes.len() as f64;
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let share = (index as f64 + rand::random::<f64>()) / count;
            sleep_until(start + window.mul_f64(share)).await;
            mailbox.post(Order::End(ending));
        }
    });
}

/// What is left ends now, and nothing new begins.
fn cut(worker: &proxy::Worker) {
    worker.draining.send_replace(true);
    for mailbox in worker.registry.mailboxes() {
        mailbox.post(Order::Cut(Reason::Drain.into()));
    }
}

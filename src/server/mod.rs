//! The running program: listeners and workers, and the control thread that starts them, changes
//! their configuration and stops them.
//!
//! [`Server::bind`] does all that can fail; [`Server::run`] serves until it is told to stop, and
//! returns when nothing is left.

mod connection;
mod listener;
mod listeners;
mod occupancy;
mod reload;
mod slots;
pub mod source;
mod watch;
mod worker;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

pub use self::listener::BindError;
use self::listener::{Accepted, Dispatch, Opening};
use self::listeners::{Fresh, Listeners};
use self::occupancy::Occupancy;
pub use self::reload::Reloading;
use self::reload::Trigger;
use crate::config::{self, Config, Drain};
use crate::control::Command;
use crate::net::tls::Connector;
use crate::snapshot::Snapshot;
use crate::upstream::Cluster;
use crate::ws::CloseCode;

/// How long a socket that was cut may take to be gone.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// A configuration whose listeners are bound.
pub struct Server {
    config: Config,
    snapshot: Arc<Snapshot>,
    listeners: Listeners,
    fresh: Vec<Fresh>,
}

/// What happens to the process from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The first stops in good order, the second at once.
    Stop,
    /// The configuration is to be read again.
    Reload,
    /// A file of the configuration may have changed.
    Look,
}

impl Server {
    /// Binds the listeners, and reads the certificates of both sides and the upstreams' seeds.
    /// `page` is served at `/` where no route is.
    pub fn bind(config: &Config, page: Option<&'static str>) -> Result<Server, BindError> {
        let mut listeners = Listeners::default();
        let next = listeners.prepare(&config.listeners)?;
        let fresh = listeners.replace(next);
        config.routes.iter().try_for_each(read_authorities)?;
        let snapshot = Arc::new(Snapshot::new(config, None, page)?);
        Ok(Server { config: config.clone(), snapshot, listeners, fresh })
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Serves until `signals` says stop, drains, and returns when nothing is left. Without
    /// `reloading` the configuration stays as it is.
    pub async fn run(
        self,
        signals: mpsc::Receiver<Signal>,
        reloading: Option<Reloading>,
    ) -> io::Result<()> {
        self.snapshot.clusters().for_each(Cluster::watch);
        let occupancy = Occupancy::new(workers(&self.config));
        let published = Arc::new(ArcSwap::from(self.snapshot));
        let workers = Workers::start(&self.config, &occupancy, &published)?;
        workers.accept_from(self.fresh, &occupancy);
        let Server { config, listeners, .. } = self;
        let control = Control { config, listeners, published, occupancy, workers, draining: false };
        control.run(signals, reloading).await;
        Ok(())
    }
}

/// The worker threads, as the control thread reaches them.
#[derive(Clone)]
struct Workers {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    openings: Vec<mpsc::UnboundedSender<Opening>>,
}

impl Workers {
    fn start(
        config: &Config,
        occupancy: &Arc<Occupancy>,
        published: &Arc<ArcSwap<Snapshot>>,
    ) -> io::Result<Workers> {
        let count = workers(config);
        let (sockets, inlets): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel::<Accepted>()).unzip();
        let mut started = Workers { commands: Vec::new(), openings: Vec::new() };
        for (own, inlet) in inlets.into_iter().enumerate() {
            let (command, commands) = mpsc::unbounded_channel();
            let (opening, openings) = mpsc::unbounded_channel();
            started.commands.push(command);
            started.openings.push(opening);
            let setup = worker::Setup {
                id: u16::try_from(own).expect("workers are counted in 16 bits"),
                backlog: config.server.backlog_total / count,
                published: published.clone(),
                openings,
                dispatch: Dispatch { own, occupancy: occupancy.clone(), workers: sockets.clone() },
                sockets: inlet,
                commands,
            };
            thread::Builder::new().name(format!("worker-{own}")).spawn(|| worker::run(setup))?;
        }
        Ok(started)
    }

    /// Has the workers in turn accept from these.
    fn accept_from(&self, fresh: Vec<Fresh>, occupancy: &Arc<Occupancy>) {
        for (index, (socket, listener)) in fresh.into_iter().enumerate() {
            // Present before its worker knows of it: a signal at once finds somebody to wait for.
            let present = occupancy.enter(None);
            let (address, tls) = (listener.borrow().local, listener.borrow().acceptor.is_some());
            info!(%address, tls, "listening");
            let opening = Opening { socket, listener, present };
            // Fails only for a worker that has ended.
            let _ = self.openings[index % self.openings.len()].send(opening);
        }
    }

    fn command(&self, command: Command) {
        for worker in &self.commands {
            // Fails only for a worker that has ended.
            let _ = worker.send(command);
        }
    }
}

/// The system's authorities are read before a worker needs them, and missed at once.
fn read_authorities(route: &config::Route) -> Result<(), BindError> {
    let authorizer = route.admittance.authorize.as_ref();
    if authorizer.is_some_and(|it| it.url.scheme() == Some(&http::uri::Scheme::HTTPS)) {
        Connector::system().map_err(|fault| BindError::Authorizer {
            route: route.name.clone(),
            fault: Box::new(fault),
        })?;
    }
    Ok(())
}

fn workers(config: &Config) -> usize {
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    config.server.workers.unwrap_or_else(cores).get().min(usize::from(u16::MAX))
}

/// The control thread's part of a life: wait and reload, drain, cut.
struct Control {
    config: Config,
    listeners: Listeners,
    published: Arc<ArcSwap<Snapshot>>,
    occupancy: Arc<Occupancy>,
    workers: Workers,
    /// Stopping has begun, and is never undone.
    draining: bool,
}

impl Control {
    async fn run(mut self, mut signals: mpsc::Receiver<Signal>, mut reloading: Option<Reloading>) {
        self.until_stop(&mut signals, reloading.as_mut()).await;
        self.draining = true;
        let start = Instant::now();
        let Drain { delay, window, timeout: limit, code } = self.config.server.drain;
        info!(
            connections = self.occupancy.connections(),
            delay_s = delay.as_secs_f64(),
            window_s = window.as_secs_f64(),
            timeout_s = limit.as_secs_f64(),
            "stopping; a second signal cuts at once"
        );
        let (workers, occupancy) = (self.workers.clone(), self.occupancy.clone());
        let drain = async {
            // Until then all is accepted as before.
            sleep_until(start + delay).await;
            workers.command(Command::Drain { window, code: CloseCode::from(code) });
            occupancy.emptied().await;
        };
        let drained = tokio::select! {
            () = drain => true,
            () = sleep_until(start + limit) => false,
            () = self.until_stop(&mut signals, reloading.as_mut()) => false,
        };
        if !drained {
            info!(connections = self.occupancy.connections(), "cutting what is left");
            self.workers.command(Command::Cut);
            let _ = timeout(AFTER_CUT, self.occupancy.emptied()).await;
        }
        info!("stopped");
    }

    /// Reloads when it is asked to, and returns when it is to stop.
    async fn until_stop(
        &mut self,
        signals: &mut mpsc::Receiver<Signal>,
        mut reloading: Option<&mut Reloading>,
    ) {
        loop {
            let retry = reloading.as_ref().and_then(|reloading| reloading.retry_at());
            let retry = async {
                match retry {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let trigger = tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Stop) | None => return,
                    Some(Signal::Reload) => Trigger::Asked,
                    Some(Signal::Look) => Trigger::Seen,
                },
                () = retry => Trigger::Again,
            };
            if let Some(reloading) = &mut reloading {
                self.reload(reloading, trigger);
            }
        }
    }
}

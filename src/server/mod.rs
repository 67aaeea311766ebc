//! The running program: listeners and workers, and the control thread that starts and stops them.
//!
//! [`Server::bind`] does all that can fail; [`Server::run`] serves until it is told to stop, and
//! returns when nothing is left.

mod connection;
mod listener;
mod occupancy;
mod slots;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

pub use self::listener::BindError;
use self::listener::{Accepted, Dispatch, Listener};
use self::occupancy::Occupancy;
use crate::config::{Config, Drain};
use crate::control::Command;
use crate::snapshot::Snapshot;
use crate::ws::CloseCode;

/// How long a socket that was cut may take to be gone.
const AFTER_CUT: Duration = Duration::from_secs(1);

/// A configuration whose listeners are bound.
pub struct Server {
    snapshot: Arc<Snapshot>,
    listeners: Vec<(TcpListener, Arc<Listener>)>,
    workers: usize,
    backlog_total: usize,
    drain: Drain,
}

/// What happens to the process from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The first stops in good order, the second at once.
    Stop,
}

impl Server {
    /// Binds the listeners, and reads the certificates of both sides and the upstreams' seeds.
    /// `page` is served at `/` where no route is.
    pub fn bind(config: &Config, page: Option<&'static str>) -> Result<Server, BindError> {
        let listeners = config.listeners.iter().map(listener::bind).collect::<Result<_, _>>()?;
        Ok(Server {
            snapshot: Arc::new(Snapshot::new(config, page)?),
            listeners,
            workers: workers(config),
            backlog_total: config.server.backlog_total,
            drain: config.server.drain,
        })
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, listener)| listener.local).collect()
    }

    /// Serves until `signals` says stop, drains, and returns when nothing is left.
    pub async fn run(self, signals: mpsc::Receiver<Signal>) -> io::Result<()> {
        let drain = self.drain;
        for (_, listener) in &self.listeners {
            info!(address = %listener.local, tls = listener.acceptor.is_some(), "listening");
        }
        for cluster in &self.snapshot.clusters {
            cluster.watch();
        }
        let occupancy = Occupancy::new(self.workers);
        let commands = self.start(&occupancy)?;
        Control { drain, occupancy, commands }.run(signals).await;
        Ok(())
    }

    /// Starts the worker threads.
    fn start(self, occupancy: &Arc<Occupancy>) -> io::Result<Vec<mpsc::UnboundedSender<Command>>> {
        let (sockets, inlets): (Vec<_>, Vec<_>) =
            (0..self.workers).map(|_| mpsc::unbounded_channel::<Accepted>()).unzip();
        let mut listeners: Vec<Vec<_>> = (0..self.workers).map(|_| Vec::new()).collect();
        for (index, (socket, listener)) in self.listeners.into_iter().enumerate() {
            // Present before its worker is: a signal at once finds somebody to wait for.
            let present = occupancy.enter(None);
            listeners[index % self.workers].push((socket, listener, present));
        }
        let mut commands = Vec::new();
        for (own, (inlet, listeners)) in inlets.into_iter().zip(listeners).enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            commands.push(sender);
            let setup = worker::Setup {
                id: u16::try_from(own).expect("workers are counted in 16 bits"),
                snapshot: self.snapshot.clone(),
                backlog: self.backlog_total / self.workers,
                listeners,
                dispatch: Dispatch { own, occupancy: occupancy.clone(), workers: sockets.clone() },
                sockets: inlet,
                commands: receiver,
            };
            thread::Builder::new().name(format!("worker-{own}")).spawn(|| worker::run(setup))?;
        }
        Ok(commands)
    }
}

fn workers(config: &Config) -> usize {
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    config.server.workers.unwrap_or_else(cores).get().min(usize::from(u16::MAX))
}

/// The control thread's part of a life: wait, drain, cut.
struct Control {
    drain: Drain,
    occupancy: Arc<Occupancy>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
}

impl Control {
    async fn run(self, mut signals: mpsc::Receiver<Signal>) {
        signals.recv().await;
        let start = Instant::now();
        let Drain { delay, window, timeout: limit, code } = self.drain;
        info!(
            connections = self.occupancy.connections(),
            delay_s = delay.as_secs_f64(),
            window_s = window.as_secs_f64(),
            timeout_s = limit.as_secs_f64(),
            "stopping; a second signal cuts at once"
        );
        let drained = tokio::select! {
            () = self.drained(start + delay, window, CloseCode::from(code)) => true,
            () = sleep_until(start + limit) => false,
            Some(Signal::Stop) = signals.recv() => false,
        };
        if !drained {
            info!(connections = self.occupancy.connections(), "cutting what is left");
            self.command(Command::Cut);
            let _ = timeout(AFTER_CUT, self.occupancy.emptied()).await;
        }
        info!("stopped");
    }

    /// Accepts as before until `begin`, then drains, and returns when all have gone.
    async fn drained(&self, begin: Instant, window: Duration, code: CloseCode) {
        sleep_until(begin).await;
        self.command(Command::Drain { window, code });
        self.occupancy.emptied().await;
    }

    fn command(&self, command: Command) {
        for worker in &self.commands {
            // Fails only for a worker that has ended.
            let _ = worker.send(command);
        }
    }
}

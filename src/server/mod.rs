//! The running program: listeners and workers, and the control thread that starts them, changes
//! their configuration and stops them.
//!
//! [`Server::bind`] does all that can fail, [`Server::start`] has the workers accept, and
//! [`Running::run`] serves until it is told to stop and returns when nothing is left.

mod connection;
mod http2;
mod listener;
mod listeners;
mod occupancy;
mod reload;
mod slots;
pub mod source;
mod walk;
mod watch;
mod worker;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::info;

pub use self::listener::BindError;
use self::listener::{Accepted, Dispatch, Opening};
use self::listeners::{Binds, Fresh, Listeners};
use self::occupancy::Occupancy;
pub use self::reload::{Reloading, Start};
use self::reload::{Reloads, Trigger};
use crate::config::{self, Config, Drain};
use crate::control::{self, Command, Draining, Request};
use crate::metrics::Tallies;
use crate::net::tls::Connector;
use crate::policy::Banned;
use crate::snapshot::Snapshot;
use crate::ws::CloseCode;

/// How long a socket that was cut may take to be gone.
const AFTER_CUT: Duration = Duration::from_secs(1);
/// Requests of operators that may wait for the control thread.
const REQUESTS: usize = 16;

/// A configuration whose listeners are bound.
pub struct Server {
    config: Config,
    snapshot: Arc<Snapshot>,
    listeners: Listeners,
    fresh: Vec<Fresh>,
    tallies: Arc<Tallies>,
}

/// A server that accepts, and what others can know and ask of it.
pub struct Running {
    pub published: Arc<ArcSwap<Snapshot>>,
    pub tallies: Arc<Tallies>,
    pub banned: Arc<Banned>,
    pub workers: control::Workers,
    /// To the control thread.
    pub requests: mpsc::Sender<Request>,
    asked: mpsc::Receiver<Request>,
    control: Control,
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
    /// Binds the listeners, and reads the certificates of both sides, the upstreams' seeds and the
    /// keys of tokens. `page` is served at `/` where no route is.
    pub fn bind(config: &Config, page: Option<&'static str>) -> Result<Server, BindError> {
        let tallies = Arc::<Tallies>::default();
        let mut listeners = Listeners::new(tallies.clone());
        let next = listeners.prepare(&config.listeners, Binds::WhatIsNew)?;
        let fresh = listeners.replace(next);
        config.routes.iter().try_for_each(read_authorities)?;
        let snapshot = Arc::new(Snapshot::new(config, None, page)?);
        Ok(Server { config: config.clone(), snapshot, listeners, fresh, tallies })
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Starts the workers, which accept from then on. Called on the control thread's runtime.
    pub fn start(self) -> io::Result<Running> {
        let Server { config, snapshot, listeners, fresh, tallies } = self;
        snapshot.begin();
        let occupancy = Occupancy::new(workers(&config));
        let common = Common {
            occupancy: occupancy.clone(),
            published: Arc::new(ArcSwap::from(snapshot)),
            tallies: tallies.clone(),
            banned: Arc::default(),
        };
        let workers = Workers::start(&config, &common)?;
        workers.accept_from(fresh, &occupancy);
        let (requests, asked) = mpsc::channel(REQUESTS);
        let Common { published, banned, .. } = common;
        Ok(Running {
            published: published.clone(),
            tallies: tallies.clone(),
            banned,
            workers: workers.commands.clone(),
            requests,
            asked,
            control: Control {
                config,
                listeners,
                published,
                occupancy,
                workers,
                tallies,
                draining: false,
                reloads: Reloads::default(),
            },
        })
    }
}

impl Running {
    /// Serves until `signals` says stop, drains, and returns when nothing is left. Without
    /// `reloading` the configuration stays as it is.
    pub async fn run(self, signals: mpsc::Receiver<Signal>, reloading: Option<Reloading>) {
        let Running { asked, control, .. } = self;
        control.run(Events { signals, asked, reloading }).await;
    }
}

/// What all workers share.
struct Common {
    occupancy: Arc<Occupancy>,
    published: Arc<ArcSwap<Snapshot>>,
    tallies: Arc<Tallies>,
    banned: Arc<Banned>,
}

/// The worker threads, as the control thread reaches them.
#[derive(Clone)]
struct Workers {
    commands: control::Workers,
    openings: Vec<mpsc::UnboundedSender<Opening>>,
}

impl Workers {
    fn start(config: &Config, common: &Common) -> io::Result<Workers> {
        let count = workers(config);
        let (sockets, inlets): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel::<Accepted>()).unzip();
        let (mut all_commands, mut all_openings) = (Vec::new(), Vec::new());
        for (own, inlet) in inlets.into_iter().enumerate() {
            let (command, commands) = mpsc::unbounded_channel();
            let (opening, openings) = mpsc::unbounded_channel();
            all_commands.push(command);
            all_openings.push(opening);
            let dispatch =
                Dispatch { own, occupancy: common.occupancy.clone(), workers: sockets.clone() };
            let setup = worker::Setup {
                id: u16::try_from(own).expect("workers are counted in 16 bits"),
                backlog: config.server.backlog_total / count,
                published: common.published.clone(),
                openings,
                dispatch,
                sockets: inlet,
                commands,
                tally: common.tallies.worker(),
                banned: common.banned.clone(),
            };
            thread::Builder::new().name(format!("worker-{own}")).spawn(|| worker::run(setup))?;
        }
        Ok(Workers { commands: all_commands.into_iter().collect(), openings: all_openings })
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
    tallies: Arc<Tallies>,
    /// Stopping has begun, and is never undone.
    draining: bool,
    reloads: Reloads,
}

/// What the control thread waits for.
struct Events {
    signals: mpsc::Receiver<Signal>,
    asked: mpsc::Receiver<Request>,
    reloading: Option<Reloading>,
}

/// What a drain begins for, and whether the process is to end with it.
#[derive(Debug)]
enum Stop {
    Signal,
    /// An operator wants it, and is told how far it is.
    Asked(oneshot::Sender<Draining>),
}

impl Control {
    async fn run(mut self, mut events: Events) {
        let stop = self.until_stop(&mut events).await;
        let start = Instant::now();
        let mut ends = self.begin_drain(stop);
        let Drain { delay, window, timeout: limit, code } = self.config.server.drain;
        let (workers, occupancy) = (self.workers.commands.clone(), self.occupancy.clone());
        let drain = async move {
            // Until then all is accepted as before.
            sleep_until(start + delay).await;
            workers.tell_all(|| Command::Drain { window, code: CloseCode::from(code) });
            occupancy.emptied().await;
        };
        let mut drain = pin!(timeout_at(start + limit, drain));
        let mut over = false;
        while !(over && ends) {
            tokio::select! {
                drained = &mut drain, if !over => {
                    over = true;
                    if drained.is_err() {
                        self.cut().await;
                    }
                }
                _ = self.until_stop(&mut events) => {
                    if ends {
                        self.cut().await;
                        break;
                    }
                    ends = true;
                    info!(
                        connections = self.occupancy.connections(),
                        "stopping when the drain is over; a second signal cuts at once"
                    );
                }
            }
        }
        info!("stopped");
    }

    /// From now on nobody shall come, and everybody go. Gives whether the process ends then.
    fn begin_drain(&mut self, stop: Stop) -> bool {
        self.draining = true;
        self.tallies.draining.store(true, Ordering::Release);
        let Drain { delay, window, timeout, .. } = self.config.server.drain;
        let (connections, ends) = (self.occupancy.connections(), matches!(stop, Stop::Signal));
        info!(
            connections,
            delay_s = delay.as_secs_f64(),
            window_s = window.as_secs_f64(),
            timeout_s = timeout.as_secs_f64(),
            "{}",
            if ends { "stopping; a second signal cuts at once" } else { "draining" }
        );
        if let Stop::Asked(reply) = stop {
            // Who asked may have gone.
            let _ = reply.send(Draining { connections });
        }
        ends
    }

    async fn cut(&self) {
        info!(connections = self.occupancy.connections(), "cutting what is left");
        self.workers.commands.tell_all(|| Command::Cut);
        let _ = timeout(AFTER_CUT, self.occupancy.emptied()).await;
    }

    /// Reloads and answers when it is asked to, and returns when it is to stop.
    async fn until_stop(&mut self, events: &mut Events) -> Stop {
        let Events { signals, asked, reloading } = events;
        loop {
            let retry = reloading.as_ref().and_then(Reloading::retry_at);
            let retry = async {
                match retry {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Stop) | None => return Stop::Signal,
                    Some(Signal::Reload) => self.reload(reloading.as_mut(), Trigger::Asked),
                    Some(Signal::Look) => self.reload(reloading.as_mut(), Trigger::Seen),
                },
                Some(request) = asked.recv() => {
                    if let Some(stop) = self.answer(request, reloading.as_mut()) {
                        return stop;
                    }
                }
                () = retry => self.reload(reloading.as_mut(), Trigger::Again),
            }
        }
    }

    /// Does what an operator asks; who asks may have gone before the answer.
    fn answer(&mut self, request: Request, reloading: Option<&mut Reloading>) -> Option<Stop> {
        match request {
            Request::Reload(reply) => {
                self.reloads.await_next(reply);
                self.reload(reloading, Trigger::Asked);
            }
            Request::Show(reply) => {
                let _ = reply.send(self.show(reloading));
            }
            Request::Drain(reply) if self.draining => {
                let _ = reply.send(Draining { connections: self.occupancy.connections() });
            }
            Request::Drain(reply) => return Some(Stop::Asked(reply)),
        }
        None
    }
}

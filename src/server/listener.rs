//! Listening sockets: bound at the start, accepted from by a task on a worker.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tracing::warn;

use super::occupancy::{Occupancy, Occupant};
use super::slots::{Slot, Slots};
use crate::config;
use crate::net::socket;
use crate::net::tls::{Acceptor, TlsFault};
use crate::snapshot::UpstreamFault;

/// Connections accepted in one turn before others of the worker have theirs.
const BATCH: usize = 64;
/// How long accepting rests when the process or the system has run out of something.
const PAUSE: Duration = Duration::from_millis(200);

/// A listener that is bound, as its connections know it.
pub struct Listener {
    pub config: config::Listener,
    pub acceptor: Option<Acceptor>,
    pub slots: Arc<Slots>,
    /// Where it listens: the configured address, with the port that the kernel gave.
    pub local: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address}: {error}{}", advice(.error))]
    Listen { address: SocketAddr, error: io::Error },
    #[error("listener {address}: {fault}")]
    Tls { address: SocketAddr, fault: Box<TlsFault> },
    #[error(transparent)]
    Upstream(#[from] Box<UpstreamFault>),
    #[error("route {route}: its authorizer cannot be asked by https: {fault}")]
    Authorizer { route: Arc<str>, fault: Box<TlsFault> },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has it (`ss -ltnp` tells which), or set reuse_port = true to share"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// A connection on its way to its worker.
pub struct Accepted {
    pub socket: TcpStream,
    pub peer: SocketAddr,
    pub listener: Arc<Listener>,
    pub slot: Slot,
    pub occupant: Occupant,
}

/// How accepted connections reach their workers.
pub struct Dispatch {
    /// The worker that accepts.
    pub own: usize,
    pub occupancy: Arc<Occupancy>,
    pub workers: Vec<mpsc::UnboundedSender<Accepted>>,
}

impl Dispatch {
    /// Gives a connection to the worker with the fewest; `serve` takes one that is its own.
    fn hand_over(&self, accepted: Accepted, serve: &impl Fn(Accepted)) {
        match accepted.occupant.worker() {
            Some(worker) if worker != self.own => {
                // Fails only when that worker has ended, and the process with it.
                let _ = self.workers[worker].send(accepted);
            }
            _ => serve(accepted),
        }
    }
}

/// A socket to accept from, and the listener it is for, as it is at the moment; once that is no
/// longer published the socket is closed.
pub struct Opening {
    pub socket: TcpListener,
    pub listener: watch::Receiver<Arc<Listener>>,
    pub present: Occupant,
}

/// Accepts until the drain, or until its listener is removed; then accepts what the queue still
/// holds, and closes the socket.
pub async fn accept(
    opening: Opening,
    dispatch: Rc<Dispatch>,
    mut draining: watch::Receiver<bool>,
    serve: impl Fn(Accepted),
) {
    let Opening { socket, listener, present: _present } = opening;
    let socket = match watched(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(address = %listener.borrow().local, %error, "cannot listen"),
    };
    let mut removed = listener.clone();
    let mut accepting = Accepting { listener, dispatch, spare: Spare::take() };
    loop {
        tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => break,
            Err(_) = removed.changed() => break,
            () = accepting.one_turn(&socket, &serve) => yield_now().await,
        }
    }
    while accepting.accept_one(socket.get_ref(), &serve).is_ok() {}
}

/// A socket whose connections are accepted raw: one that goes to another worker is never known
/// to this one's runtime.
#[expect(deprecated, reason = "unsound only for a descriptor that can change; this one is owned")]
fn watched(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

struct Accepting {
    listener: watch::Receiver<Arc<Listener>>,
    dispatch: Rc<Dispatch>,
    spare: Spare,
}

impl Accepting {
    /// Waits for connections and for room, and accepts a batch.
    async fn one_turn(&mut self, socket: &AsyncFd<TcpListener>, serve: &impl Fn(Accepted)) {
        let Ok(mut ready) = socket.readable().await else { return };
        let slots = self.now().slots.clone();
        if !slots.has_room() {
            if !socket::has_waiting(socket.get_ref()) {
                return ready.clear_ready();
            }
            slots.room().await;
        }
        for _ in 0..BATCH {
            match self.accept_one(socket.get_ref(), serve) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return;
                }
                Err(error) => {
                    slots.count_error();
                    if is_exhaustion(&error) {
                        return self.rest(socket.get_ref(), &error).await;
                    }
                }
            }
            if !slots.has_room() {
                return;
            }
        }
    }

    /// The listener as connections that are accepted now shall know it.
    fn now(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }

    fn accept_one(&self, socket: &TcpListener, serve: &impl Fn(Accepted)) -> io::Result<()> {
        let (socket, peer) = socket::accept(socket)?;
        let listener = self.now();
        let slot = listener.slots.take();
        let occupant = self.dispatch.occupancy.seat(self.dispatch.own);
        let accepted = Accepted { socket, peer, listener, slot, occupant };
        self.dispatch.hand_over(accepted, serve);
        Ok(())
    }

    /// Out of descriptors or memory: one client is told at once, by a close, and the others wait
    /// in the kernel's queue until something is free again.
    async fn rest(&mut self, socket: &TcpListener, error: &io::Error) {
        self.spare.release();
        drop(socket::accept(socket));
        self.spare = Spare::take();
        warn!(address = %self.now().local, %error, pause_ms = PAUSE.as_millis() as u64,
            "accepting rests: raise the limit of open files (ulimit -n) or close connections");
        tokio::time::sleep(PAUSE).await;
    }
}

/// One descriptor kept for the moment when there is no other.
struct Spare(Option<File>);

impl Spare {
    fn take() -> Spare {
        Spare(File::open("/dev/null").ok())
    }

    fn release(&mut self) {
        self.0 = None;
    }
}

/// Errors that will be there again at the next accept (accept(2)); all others concern only the
/// connection that was accepted.
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|one| one.raw_os_error() == code))
}

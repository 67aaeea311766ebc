//! The sockets of the interface: few connections, short ones, and none that shuts out another.
//!
//! It must answer when the clients have taken every descriptor, so it keeps some of its own in
//! reserve; and when somebody opens connections and says nothing, so the oldest makes room.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::answer::Answer;
use super::guard::Peers;
use crate::config::AdminAddress;
use crate::net::socket;

/// Connections at the same time; the oldest makes room for one more.
const MOST: usize = 32;
/// Descriptors kept for connections that come when there are no others.
const RESERVE: usize = 4;
/// For a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// The size of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// For a request and its answer, and of a stream between two of its parts, which its reader must
/// take.
const EXCHANGE: Duration = Duration::from_secs(60);
const TAKING: Duration = Duration::from_secs(10);
/// What the kernel keeps of an answer for a reader.
const SEND_BUFFER: usize = 64 << 10;
/// How long accepting rests when the system has run out of something.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenFault {
    #[error("cannot listen on {address}: {error}")]
    Socket { address: AdminAddress, error: io::Error },
    #[error("{} is no socket; take it away, or write another path", .0.display())]
    NoSocket(PathBuf),
    #[error("another process listens on unix:{}", .0.display())]
    Taken(PathBuf),
}

/// A socket that is bound.
pub struct Listening {
    socket: Socket,
    address: AdminAddress,
    reserve: Reserve,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Removed),
}

impl Listening {
    pub fn bind(address: &AdminAddress) -> Result<Listening, ListenFault> {
        let fault = |error| ListenFault::Socket { address: address.clone(), error };
        let reserve = Reserve::take();
        match address {
            AdminAddress::Tcp(wanted) => {
                let socket = socket::listen(*wanted, false).map_err(fault)?;
                let address = AdminAddress::Tcp(socket.local_addr().map_err(fault)?);
                Ok(Listening { socket: Socket::Tcp(socket), address, reserve })
            }
            AdminAddress::Unix(path) => {
                refuse_taken(path)?;
                let socket = bind_unix(path).map_err(fault)?;
                let socket = Socket::Unix(socket, Removed(path.clone()));
                Ok(Listening { socket, address: address.clone(), reserve })
            }
        }
    }

    /// The address, with the port that the kernel gave.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }

    pub fn peers(&self) -> Peers {
        match &self.address {
            AdminAddress::Unix(_) => Peers::OfTheFile,
            AdminAddress::Tcp(address) if is_loopback(*address) => Peers::OfThisMachine,
            AdminAddress::Tcp(_) => Peers::Anybody,
        }
    }

    /// Serves for as long as the task lives.
    pub async fn serve<F, A>(self, answer: F)
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let Listening { socket, address, reserve } = self;
        let served = match socket {
            Socket::Tcp(socket) => TcpListener::from_std(socket).map(Watched::Tcp),
            Socket::Unix(socket, file) => {
                UnixListener::from_std(socket).map(|socket| Watched::Unix(socket, file))
            }
        };
        let error = match served {
            Ok(socket) => accept_from(socket, &reserve, answer).await,
            Err(error) => error,
        };
        warn!(%address, %error, "admin no longer listens");
    }
}

/// A socket that this thread's runtime watches.
enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "its file goes with it")] Removed),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Watched {
    async fn accept(&self) -> io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Watched::Tcp(socket) => {
                let stream = socket.accept().await?.0;
                // It is only a wish.
                let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
                Box::new(stream)
            }
            Watched::Unix(socket, _) => Box::new(socket.accept().await?.0),
        })
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Accepts until that cannot be done at all.
async fn accept_from<F, A>(socket: Watched, reserve: &Reserve, answer: F) -> io::Error
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let mut connections = Connections::default();
    loop {
        match socket.accept().await {
            Ok(stream) => {
                let (answer, reserve, pace) = (answer.clone(), reserve.clone(), Pace::new());
                let exchange = exchange(stream, answer, pace.clone());
                let connection = tokio::spawn(async move {
                    exchange.await;
                    reserve.refill();
                });
                connections.add(connection.abort_handle(), pace);
            }
            Err(error) if is_exhaustion(&error) => {
                // One who waits gets a descriptor of the reserve.
                if !reserve.release() {
                    sleep(PAUSE).await;
                    reserve.refill();
                }
            }
            // It concerned only the connection that was accepted.
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                debug!(%error, "an admin connection was lost");
            }
            Err(error) => return error,
        }
    }
}

/// One request and its answer.
async fn exchange<F, A>(stream: Box<dyn Duplex>, answer: F, pace: Arc<Pace>)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    let paced = pace.clone();
    let service = service_fn(move |request| {
        let (answer, pace) = (answer(request), paced.clone());
        async move { Ok::<_, Infallible>(answer.await.map(|body| Paced { body, pace })) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => if let Err(error) = served {
            debug!(%error, "an admin connection failed");
        },
        () = pace.lost() => debug!("an admin connection took too long"),
    }
}

/// Until when a connection must have got on.
struct Pace(Mutex<(Instant, Kind)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Short,
    Stream,
}

impl Pace {
    fn new() -> Arc<Pace> {
        Arc::new(Pace(Mutex::new((Instant::now() + EXCHANGE, Kind::Short))))
    }

    /// Something was taken of a stream, and more is to come.
    fn goes_on(&self) {
        *self.lock() = (Instant::now() + TAKING, Kind::Stream);
    }

    fn kind(&self) -> Kind {
        self.lock().1
    }

    /// Waits until it has not got on in time.
    async fn lost(&self) {
        loop {
            let (due, now) = (self.lock().0, Instant::now());
            if due <= now {
                return;
            }
            // A stream that has begun meanwhile has less time.
            sleep_until(due.min(now + TAKING)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Instant, Kind)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that says when something is taken of it.
struct Paced<B> {
    body: B,
    pace: Arc<Pace>,
}

impl<B: Body + Unpin> Body for Paced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Paced { body, pace } = self.get_mut();
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if frame.is_some() && !body.is_end_stream() {
            pace.goes_on();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Those that are being served, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<(AbortHandle, Arc<Pace>)>);

impl Connections {
    /// A stream makes no room: of those there are few.
    fn add(&mut self, connection: AbortHandle, pace: Arc<Pace>) {
        self.0.retain(|(connection, _)| !connection.is_finished());
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().position(|(_, pace)| pace.kind() == Kind::Short)
            && let Some((oldest, _)) = self.0.remove(oldest)
        {
            oldest.abort();
        }
        self.0.push_back((connection, pace));
    }
}

/// Descriptors for a time when there are no others. Clones share them.
#[derive(Clone)]
struct Reserve(Arc<Mutex<Vec<File>>>);

impl Reserve {
    fn take() -> Reserve {
        let reserve = Reserve(Arc::default());
        reserve.refill();
        reserve
    }

    fn refill(&self) {
        let mut files = self.lock();
        while files.len() < RESERVE {
            let Ok(file) = File::open("/dev/null") else { return };
            files.push(file);
        }
    }

    /// Frees one; `false` where none is left.
    fn release(&self) -> bool {
        self.lock().pop().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|one| one.raw_os_error() == code))
}

/// A socket that nobody listens on any more is taken away by who binds it anew.
fn refuse_taken(path: &Path) -> Result<(), ListenFault> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(ListenFault::NoSocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(ListenFault::Taken(path.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Binds beside its place and is renamed into it, so that nobody finds it with another mode.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id() % 100_000));
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    let socket = std::os::unix::net::UnixListener::bind(&fresh)?;
    let placed = fs::set_permissions(&fresh, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| socket.set_nonblocking(true));
    if let Err(error) = placed {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(socket)
}

/// The file of a socket, which goes with it.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

//! One client's connection until it is a tunnel or closed: the PROXY header where one is due, TLS,
//! then HTTP by hyper: HTTP/1.1, or HTTP/2, of which [`http2`] has what is its own.
//!
//! hyper answers requests; the clock is kept here, since it differs between a first head, a later
//! one, an idle connection and an answer that its reader does not take.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{debug, info};

use super::http2;
use super::listener::{Accepted, Listener};
use super::occupancy::Occupant;
use super::slots::Slot;
use crate::ending::Blame;
use crate::metrics::{NO_ROUTE, TlsFailure};
use crate::net::proxy_protocol::{self, Origin};
use crate::net::{Stream, Watch, tls};
use crate::proxy::body::Body;
use crate::proxy::headers::{RequestId, Scheme};
use crate::proxy::rejection::{Outcome, Rejection};
use crate::proxy::{Downstream, HasFragment, SlowConsumer, ToldOfPeer, Worker, call};
use crate::upstream::Upload;
use crate::ws::handshake::Http;

/// How long what is said last may take to write.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long an answer of the edge's own may wait for its reader.
const UNREAD: Option<Duration> = Some(Duration::from_secs(60));
/// How many more requests may be given up than were answered. A page that is left takes what it
/// had asked for with it; a hundred times in a row nobody means it (CVE-2023-44487).
const GIVEN_UP: usize = 100;

/// Serves a connection to its end, or until a tunnel takes it over.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { socket, peer, listener, slot, occupant } = accepted;
    let evicted = slot.evicted();
    let accepted = tokio::select! {
        stream = accept(&worker, &listener, socket, peer) => stream,
        () = evicted.notified() => Err(io::Error::other("it had to make room for another")),
    };
    let (stream, ends) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return debug!(%peer, %error, "connection ended before a request"),
    };
    let http = if stream.speaks_http2() { Http::Two } else { Http::One };
    let exchanges = Rc::new(Exchanges::new(http, slot, occupant, stream.watch()));
    let downstream = Rc::new(Downstream {
        peer: ends.peer,
        local: ends.local,
        told_of_peer: ends.told,
        listener: listener.config.listen,
        scheme: if listener.acceptor.is_some() { Scheme::Https } else { Scheme::Http },
        uri_limit: listener.config.limits.uri,
        hold: Box::new(exchanges.clone()),
    });
    let served = Served { worker, downstream, exchanges, listener };
    match http {
        Http::One => served.run(stream).await,
        Http::Two => Box::pin(http2::run(Rc::new(served), stream)).await,
    }
}

/// The two ends of a connection as the client knows them.
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
    told: ToldOfPeer,
}

/// The stream that HTTP is spoken on, and whose it is.
async fn accept(
    worker: &Worker,
    listener: &Listener,
    socket: std::net::TcpStream,
    peer: SocketAddr,
) -> io::Result<(Stream, Ends)> {
    let mut socket = TcpStream::from_std(socket)?;
    let timeouts = &listener.config.timeouts;
    // One deadline for the header and TLS together.
    let limit = if listener.acceptor.is_some() { timeouts.tls } else { timeouts.header };
    let deadline = Instant::now() + limit;
    let mut ends = Ends { peer, local: listener.local, told: ToldOfPeer::NotAsked };
    if listener.config.proxy_protocol {
        let said = timeout_at(deadline, introduced(worker, &mut socket, peer)).await;
        match said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Origin::Client { source, destination }) => {
                ends = Ends { peer: source, local: destination, told: ToldOfPeer::Address };
            }
            Ok(Origin::Socket) => ends.told = ToldOfPeer::Nothing,
            Err(error) => {
                listener.slots.count_error();
                info!(%peer, detail = %error, "connection without a PROXY header closed");
                return Err(error);
            }
        }
    }
    let Some(acceptor) = &listener.acceptor else { return Ok((Stream::tcp(socket), ends)) };
    let (failure, error) = match timeout_at(deadline, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => return Ok((stream, ends)),
        Ok(Err(error)) => (tls::failure(&error), error),
        Err(_) => (TlsFailure::Timeout, io::ErrorKind::TimedOut.into()),
    };
    listener.slots.tallies.tls_failures(failure).add(1);
    Err(error)
}

/// What the PROXY header says, which only a trusted proxy may send.
async fn introduced(
    worker: &Worker,
    socket: &mut TcpStream,
    peer: SocketAddr,
) -> io::Result<Origin> {
    if !worker.snapshot().trusts(peer.ip()) {
        return Err(io::Error::other("its peer is not in trusted_proxies"));
    }
    proxy_protocol::read(socket).await
}

pub(super) struct Served {
    pub(super) worker: Rc<Worker>,
    pub(super) downstream: Rc<Downstream>,
    pub(super) exchanges: Rc<Exchanges>,
    pub(super) listener: Arc<Listener>,
}

/// How HTTP on a connection came to its end.
pub(super) enum End {
    /// Upgraded, closed by the client, or closed after an answer.
    Done,
    Failed(hyper::Error),
    /// The time for a head was up.
    HeadTimeout,
    /// Idle for long, unread for long, in the way of another, or up to no good.
    Dropped,
}

impl Served {
    async fn run(self, stream: Stream) {
        let service = service_fn(|request| self.answer(request));
        let mut connection = http1::Builder::new()
            .max_buf_size(self.listener.config.limits.header_bytes)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let end = self.drive(&mut connection).await;
        match end {
            End::Done => {}
            End::Dropped => {
                if let Some(parts) = connection.into_parts() {
                    let _ = timeout(LAST_WORDS, parts.io.into_inner().shutdown()).await;
                }
            }
            End::Failed(error) => self.failed(&error),
            End::HeadTimeout => {
                let begun = self.exchanges.head_begun.get();
                let stream = connection.into_parts().map(|parts| parts.io.into_inner());
                if let Some(stream) = stream.filter(|_| begun) {
                    self.head_timeout(stream).await;
                }
            }
        }
    }

    /// Polls HTTP and keeps its clock.
    pub(super) async fn drive<C>(&self, connection: &mut C) -> End
    where
        C: Future<Output = hyper::Result<()>> + Graceful + Unpin,
    {
        let mut draining = self.worker.draining.subscribe();
        let mut drained = pin!(draining.wait_for(|draining| *draining));
        let mut told = false;
        let evicted = self.exchanges.slot.evicted();
        let mut evicted = pin!(evicted.notified());
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            if evicted.as_mut().poll(cx).is_ready() || self.exchanges.overdone(cx) {
                return Poll::Ready(End::Dropped);
            }
            if let Poll::Ready(end) = poll_connection(connection, cx) {
                return Poll::Ready(end);
            }
            // Behind the first read: a request that has arrived is still answered.
            if !told && drained.as_mut().poll(cx).is_ready() {
                told = true;
                self.exchanges.told.set(Some(Instant::now()));
                connection.finish();
                if let Poll::Ready(end) = poll_connection(connection, cx) {
                    return Poll::Ready(end);
                }
            }
            let Some((deadline, end)) = self.deadline() else { return Poll::Pending };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx).map(|()| end)
        })
        .await
    }

    /// When the present stage ends, and how.
    fn deadline(&self) -> Option<(Instant, End)> {
        let now = Instant::now();
        let timeouts = &self.listener.config.timeouts;
        match self.exchanges.observe(now) {
            Stage::Head(since) => Some((since + timeouts.header, End::HeadTimeout)),
            Stage::Idle(since) => {
                let told = self.exchanges.told.get().map(|told| told.max(since) + LAST_WORDS);
                let kept = since + timeouts.keepalive;
                Some((told.map_or(kept, |told| told.min(kept)), End::Dropped))
            }
            Stage::Busy => None,
            Stage::Unread(since) => {
                self.exchanges.patience.get().map(|patience| (since + patience, End::Dropped))
            }
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Tracked>, Infallible> {
        if self.exchanges.watch.saw_fragment() {
            request.extensions_mut().insert(HasFragment);
        }
        let exchange = self.exchanges.begin();
        let request = Upload::of(request, exchange.clone());
        let response = call(self.worker.clone(), self.downstream.clone(), request).await;
        exchange.upgrades.set(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        self.exchanges.answered(&response);
        Ok(response.map(|body| Tracked { body, _exchange: exchange }))
    }

    /// hyper has answered what it could not read with a 400, 414 or 431 of its own.
    fn failed(&self, error: &hyper::Error) {
        let outcome = match () {
            () if error.is_parse_too_large() => Outcome::TooLarge,
            () if error.is_parse() => Outcome::Malformed,
            () => return debug!(client = %self.downstream.peer.ip(), %error, "connection failed"),
        };
        self.log_refusal(outcome, None, &error.to_string());
    }

    /// Answers 408, which hyper does not.
    async fn head_timeout(&self, mut stream: Stream) {
        let id = RequestId::new(rand::random());
        let rejection = Rejection::HeadTimeout;
        let status = rejection.status().as_u16();
        self.log_refusal(rejection.outcome(), Some(status), &rejection.to_string());
        let wire = on_the_wire(rejection.response(id.as_str()));
        let _ = timeout(LAST_WORDS, async {
            stream.write_all(&wire).await?;
            stream.shutdown().await
        })
        .await;
    }

    fn log_refusal(&self, outcome: Outcome, status: Option<u16>, detail: &str) {
        let by = outcome.by().map(Blame::as_str);
        let client = self.downstream.peer.ip().to_canonical();
        self.worker.tally.route(NO_ROUTE).handshakes(outcome.as_str()).add(1);
        info!(outcome = outcome.as_str(), status, by, %client, route = NO_ROUTE, detail,
            "handshake refused");
    }
}

fn poll_connection<C>(connection: &mut C, cx: &mut Context<'_>) -> Poll<End>
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    Pin::new(connection).poll(cx).map(|result| result.map_or_else(End::Failed, |()| End::Done))
}

/// A response written by hand, for a connection that HTTP has given up.
fn on_the_wire(response: Response<bytes::Bytes>) -> BytesMut {
    let (head, body) = response.into_parts();
    let mut wire = BytesMut::new();
    wire.put_slice(
        format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", head.status, body.len()).as_bytes(),
    );
    for (name, value) in &head.headers {
        wire.put_slice(name.as_str().as_bytes());
        wire.put_slice(b": ");
        wire.put_slice(value.as_bytes());
        wire.put_slice(b"\r\n");
    }
    wire.put_slice(b"\r\n");
    wire.put_slice(&body);
    wire
}

/// What hyper calls the graceful shutdown of a connection.
pub(super) trait Graceful {
    /// Answers what is under way, and takes no further request.
    fn finish(&mut self);
}

impl<S> Graceful for http1::UpgradeableConnection<TokioIo<Stream>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Tracked>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

/// Where a connection stands between its requests.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A head is awaited or under way since then.
    Head(Instant),
    /// A request is being answered.
    Busy,
    /// An answer waits since then for its reader.
    Unread(Instant),
    /// All is answered since then.
    Idle(Instant),
}

/// The requests of one connection.
pub(super) struct Exchanges {
    http: Http,
    slot: Slot,
    occupant: Occupant,
    watch: Arc<Watch>,
    stage: Cell<Stage>,
    /// Under way at once: in HTTP/1.1 one at most.
    open: Cell<usize>,
    /// Requests that their client gave up before the answer, less those that were answered.
    given_up: Cell<usize>,
    head_begun: Cell<bool>,
    /// How long an answer may wait for its reader.
    patience: Cell<Option<Duration>>,
    /// When the client was told to make no further requests.
    told: Cell<Option<Instant>>,
    /// Of the task that drives the connection: in HTTP/2 exchanges end in tasks of their own.
    waker: RefCell<Option<Waker>>,
}

impl Exchanges {
    fn new(http: Http, slot: Slot, occupant: Occupant, watch: Arc<Watch>) -> Exchanges {
        watch.expect_first_line();
        Exchanges {
            http,
            slot,
            occupant,
            watch,
            stage: Cell::new(Stage::Head(Instant::now())),
            open: Cell::new(0),
            given_up: Cell::new(0),
            head_begun: Cell::new(false),
            patience: Cell::new(UNREAD),
            told: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    pub(super) fn begin(self: &Rc<Exchanges>) -> Rc<Exchange> {
        self.slot.set_busy();
        self.stage.set(Stage::Busy);
        self.open.set(self.open.get() + 1);
        self.occupant.weigh(self.open.get());
        Rc::new(Exchange { of: self.clone(), upgrades: Cell::new(false) })
    }

    pub(super) fn answered<B>(&self, response: &Response<B>) {
        let patience = response.extensions().get().map(|SlowConsumer(patience)| *patience);
        let patience = patience.unwrap_or(UNREAD);
        // Of several answers on a connection the most patient counts; `None` waits for ever.
        let others = self.http == Http::Two && self.open.get() > 1;
        let kept = match (self.patience.get(), patience) {
            _ if !others => patience,
            (Some(before), Some(now)) => Some(before.max(now)),
            _ => None,
        };
        self.patience.set(kept);
        self.given_up.set(self.given_up.get().saturating_sub(1));
    }

    /// A request was given up before its answer.
    pub(super) fn gave_up(&self) {
        self.given_up.set(self.given_up.get() + 1);
        self.wake();
    }

    /// Whether the client has asked too much for nothing; has `cx` woken when that may change.
    fn overdone(&self, cx: &Context<'_>) -> bool {
        if self.http == Http::Two {
            self.waker.replace(Some(cx.waker().clone()));
        }
        self.given_up.get() > GIVEN_UP
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn ended(&self) {
        self.open.set(self.open.get() - 1);
        self.occupant.weigh(self.open.get());
        if self.open.get() == 0 {
            self.head_begun.set(false);
            self.watch.take_read();
            self.watch.expect_first_line();
            self.stage.set(Stage::Idle(Instant::now()));
            self.slot.set_idle();
        }
        self.wake();
    }

    /// Takes in what the stream saw since the last look.
    fn observe(&self, now: Instant) -> Stage {
        let watch = &self.watch;
        let (read, wrote) = (watch.take_read(), watch.take_wrote());
        let stage = match self.stage.get() {
            // Of what HTTP/2 brings only a new stream begins anything.
            Stage::Idle(_) if read && self.http == Http::One => Stage::Head(now),
            Stage::Busy if watch.is_blocked() => Stage::Unread(now),
            Stage::Unread(_) if wrote && watch.is_blocked() => Stage::Unread(now),
            Stage::Unread(_) if !watch.is_blocked() => Stage::Busy,
            stage => stage,
        };
        if read && matches!(stage, Stage::Head(_)) {
            self.head_begun.set(true);
        }
        self.stage.set(stage);
        stage
    }
}

/// A request under way; dropping it, with the bodies of both request and answer, ends it.
pub(super) struct Exchange {
    of: Rc<Exchanges>,
    /// Its answer is a 101: the connection is never idle again.
    upgrades: Cell<bool>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.upgrades.get() {
            self.of.ended();
        }
    }
}

/// A body that keeps its exchange open until it is sent.
struct Tracked {
    body: Body,
    _exchange: Rc<Exchange>,
}

impl hyper::body::Body for Tracked {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

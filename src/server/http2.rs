//! HTTP/2 on a client's connection: what differs from HTTP/1.1.
//!
//! A connection carries many exchanges at once, each a stream with a window of its own, and a
//! WebSocket is a stream that an extended CONNECT began (RFC 8441). hyper hands every stream to a
//! [`Spawner`], a task each, so that one waits for nobody: a tunnel that stalls fills its own
//! window. What a client can make the edge hold is bounded by [`STREAMS`] and [`WINDOW`]; what
//! it can make the edge do, by the streams that it may give up.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2::{Builder, Connection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::connection::{End, Exchange, Exchanges, Graceful, Served};
use crate::net::{Stream, mux};
use crate::proxy::body::Body;
use crate::proxy::{SlowConsumer, call};
use crate::upstream::Upload;

/// Streams of one connection at once.
const STREAMS: u32 = 100;
/// What a client may send on a stream before it is read. The connection's own window has room for
/// that of every stream: whatever is not read holds up nothing else.
const WINDOW: u32 = 64 << 10;
/// What h2 holds of a stream for its client at most, and of a write.
const PIECE: usize = 16 << 10;

/// Serves HTTP/2 until the connection ends.
pub(super) async fn run(served: Rc<Served>, stream: Stream) {
    let spawner = Spawner::default();
    let service = service_fn(|request| answer(&served, &spawner, request));
    let header_bytes = served.listener.config.limits.header_bytes;
    let connection = Builder::new(spawner.clone())
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * STREAMS)
        .max_send_buf_size(PIECE)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = Box::pin(connection);
    let client = served.downstream.peer.ip();
    match served.drive(&mut connection).await {
        End::Done => {}
        End::Failed(error) => debug!(%client, %error, "connection failed"),
        End::Dropped | End::HeadTimeout => {
            connection.finish();
            let _ = timeout(mux::LINGER, connection).await;
        }
    }
}

impl<S> Graceful for Pin<Box<Connection<TokioIo<Stream>, S, Spawner>>>
where
    S: HttpService<Incoming, ResBody = Paced>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
{
    fn finish(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}

/// Takes a stream's request to its answer. Dropped, when the client gives it up.
fn answer(
    served: &Rc<Served>,
    spawner: &Spawner,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Paced>, Infallible>> + 'static {
    let exchange = served.exchanges.begin();
    let (pace, (hold, overseer)) = (Rc::<Pace>::default(), mux::tie());
    spawner.oversee_next(pace.clone().lost());
    let (served, spawner) = (served.clone(), spawner.clone());
    async move {
        let unanswered = Unanswered(Some(served.exchanges.clone()));
        join_cookies(request.headers_mut());
        let method = request.method().clone();
        if method == Method::CONNECT {
            request.extensions_mut().insert(hold);
        }
        let downstream = served.downstream.stream(exchange.clone());
        let request = Upload::of(request, exchange.clone());
        let response = call(served.worker.clone(), downstream, request).await;
        unanswered.answered(&response);
        if method == Method::CONNECT && response.status().is_success() {
            spawner.oversee_next(overseer.dismissal());
        }
        if let Some(SlowConsumer(patience)) = response.extensions().get() {
            pace.patience.set(*patience);
        }
        let response = if method == Method::HEAD { without_body(response) } else { response };
        Ok(response.map(|body| Paced { body, pace, _exchange: exchange }))
    }
}

/// RFC 9113 §8.2.3: a client may split its cookies, and HTTP/1.1 has one line for them.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) {
        let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let joined = crumbs.collect::<Vec<_>>().join(b"; ".as_slice());
        let joined = HeaderValue::from_bytes(&joined).expect("values make a value");
        headers.insert(header::COOKIE, joined);
    }
}

/// The answer to a HEAD has its body's length and no body (RFC 9110 §9.3.2), which hyper sees to
/// in HTTP/1.1 alone.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length @ 1..) = response.body().size_hint().exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    response.map(|_| Body::from(Bytes::new()))
}

/// Gives each stream a task.
///
/// hyper asks for a task twice in a stream's life: for the exchange, right behind the call of the
/// service, and, where that opened a tunnel, for the writer of what goes to the client, right
/// behind the end of the service's future. Nothing else of the connection runs in between, so what
/// oversees a task is left here just before, and ends it by dropping it.
#[derive(Clone, Default)]
struct Spawner(Rc<RefCell<Option<Overseer>>>);

type Overseer = Pin<Box<dyn Future<Output = ()>>>;

impl Spawner {
    fn oversee_next(&self, overseer: impl Future<Output = ()> + 'static) {
        self.0.replace(Some(Box::pin(overseer)));
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let overseer = self.0.take();
        spawn_local(async move {
            let Some(mut overseer) = overseer else { return task.await };
            let mut task = pin!(task);
            // Asked before, it keeps a task from what it may do no more; asked behind, it sees what
            // the task has done.
            poll_fn(|cx| {
                if overseer.as_mut().poll(cx).is_ready() || task.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                overseer.as_mut().poll(cx)
            })
            .await;
        });
    }
}

/// A request that has no answer yet.
struct Unanswered(Option<Rc<Exchanges>>);

impl Unanswered {
    fn answered<B>(mut self, response: &Response<B>) {
        if let Some(exchanges) = self.0.take() {
            exchanges.answered(response);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(exchanges) = self.0.take() {
            exchanges.gave_up();
        }
    }
}

/// How an answer gets on. hyper asks its body for more when the client's window has taken what
/// there was; so who does not read is known by the time since the last piece.
#[derive(Debug)]
struct Pace {
    /// Since when a piece waits.
    since: Cell<Option<Instant>>,
    /// How long it may.
    patience: Cell<Option<Duration>>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { since: Cell::new(None), patience: Cell::new(Some(Duration::from_secs(60))) }
    }
}

impl Pace {
    /// Returns when a piece has waited too long. Whoever polls the body polls this behind it.
    async fn lost(self: Rc<Pace>) {
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            let (Some(since), Some(patience)) = (self.since.get(), self.patience.get()) else {
                return Poll::Pending;
            };
            let deadline = since + patience;
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx)
        })
        .await;
    }
}

/// A body that keeps its exchange open until it is sent, and tells how that gets on.
struct Paced {
    body: Body,
    pace: Rc<Pace>,
    _exchange: Rc<Exchange>,
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.pace.since.set(frame.is_ready().then(Instant::now));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! One request from its head to its answer: find the route, read the upgrade, dial, commit.
//!
//! [`call`] runs on the worker that owns the connection. Every failure up to the commit is a
//! [`Rejection`] and so an HTTP status; behind the commit there is a 101 (in HTTP/2 a 200) and a tunnel, which is a
//! task of its own. A plain request, where its route takes any, goes through the same policy to
//! the same endpoints, and its answer is passed on.

mod admission;
mod attempt;
mod authorize;
pub mod body;
pub mod headers;
mod plain_http;
pub mod rejection;
mod stickiness;
mod token;
mod trace;
mod turn_away;
mod websocket;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use self::attempt::Attempt;
use self::authorize::Asking;
use self::body::Body;
use self::headers::{Facts, RequestId, Scheme, client_address};
use self::rejection::{Rejection, RetryAfter};
use self::trace::TraceId;
use crate::config::PlainHttp;
use crate::control::Registry;
use crate::metrics::WorkerTally;
use crate::policy::Banned;
use crate::route::{Target, TargetFault, rewritten};
use crate::snapshot::{Route, Served, Snapshot};
use crate::tunnel::Shared;
use crate::upstream::{Pool, Upload};
use crate::ws::handshake;

/// What the connections of one worker have in common. It never leaves its thread.
pub struct Worker {
    snapshot: RefCell<Arc<Snapshot>>,
    pub registry: Rc<Registry>,
    pub shared: Rc<Shared>,
    /// Turns true once, when the drain has reached this worker.
    pub draining: watch::Sender<bool>,
    /// When the last of what a drain ends is to have ended; set before `draining` is.
    pub window_end: Cell<Option<Instant>>,
    pool: Rc<Pool>,
    pub tally: Arc<WorkerTally>,
    banned: Arc<Banned>,
    asking: Asking,
}

impl Worker {
    pub fn new(
        snapshot: Arc<Snapshot>,
        registry: Rc<Registry>,
        shared: Rc<Shared>,
        banned: Arc<Banned>,
    ) -> Rc<Worker> {
        Rc::new(Worker {
            snapshot: snapshot.into(),
            registry,
            tally: shared.tally.clone(),
            shared,
            draining: watch::Sender::new(false),
            window_end: Cell::new(None),
            pool: Rc::default(),
            banned,
            asking: Asking::default(),
        })
    }

    /// What this worker goes by at the moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Goes by `next` from now on, and gives what was before.
    pub fn adopt(&self, next: Arc<Snapshot>) -> Arc<Snapshot> {
        self.snapshot.replace(next)
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

/// A client's connection, as far as its requests need to know it.
pub struct Downstream {
    /// Who is connected, or whom a PROXY header names.
    pub peer: SocketAddr,
    /// What a balancer's PROXY header said of it.
    pub told_of_peer: ToldOfPeer,
    /// The address it reached.
    pub local: SocketAddr,
    /// The listener's address as the configuration writes it.
    pub listener: SocketAddr,
    pub scheme: Scheme,
    /// The longest target that is read.
    pub uri_limit: usize,
    /// What lives as long as the connection, or the stream of it, its tunnel included.
    pub hold: Box<dyn Any>,
}

impl Downstream {
    /// The same for one of several streams of the connection, which `hold` is of.
    pub fn stream(&self, hold: impl Any) -> Rc<Downstream> {
        let Downstream { peer, local, listener, scheme, uri_limit, told_of_peer, hold: _ } = *self;
        let hold = Box::new(hold);
        Rc::new(Downstream { peer, local, listener, scheme, uri_limit, told_of_peer, hold })
    }
}

/// What is known of a peer by a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldOfPeer {
    /// The listener takes no such header: the peer is who connected.
    NotAsked,
    /// The peer is whom the header named.
    Address,
    /// The header named nobody (LOCAL, UNKNOWN): the peer is the balancer.
    Nothing,
}

/// How long the body of an answer may wait for its reader: an extension of the answer.
#[derive(Clone, Copy, Debug)]
pub struct SlowConsumer(pub Option<Duration>);

/// The target had a fragment, which hyper dropped: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct HasFragment;

/// Answers one request.
pub async fn call(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<Upload>,
) -> Response<Body> {
    let snapshot = worker.snapshot();
    // Behind a balancer that named nobody it is anybody who writes the headers.
    let trusted = match downstream.told_of_peer {
        ToldOfPeer::Nothing => &[][..],
        ToldOfPeer::NotAsked | ToldOfPeer::Address => &snapshot.trusted_proxies[..],
    };
    let client = client_address(downstream.peer.ip(), request.headers(), trusted);
    let id = RequestId::of(request.headers(), client, rand::random());
    let progress = request.body().progress();
    let trace = TraceId::of(request.headers());
    let mut attempt = Attempt::new(client, id, trace, request.uri().path(), worker.tally.clone());
    let result = answer(&worker, &snapshot, downstream, request, &mut attempt).await;
    let rejection = match result {
        Ok(response) => return response,
        Err(rejection) => rejection,
    };
    let mut response = attempt.refused(&rejection);
    // Nobody wants the rest of the body; and what follows a malformed request may be part of it.
    if !progress.is_over() || matches!(rejection, Rejection::Malformed(_)) {
        response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    downstream: Rc<Downstream>,
    request: Request<Upload>,
    attempt: &mut Attempt,
) -> Result<Response<Body>, Rejection> {
    let target_size = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target_size > downstream.uri_limit {
        return Err(Rejection::TargetTooLong);
    }
    if request.extensions().get::<HasFragment>().is_some() {
        return Err(malformed(TargetFault::Fragment));
    }
    let target =
        Target::read(request.uri(), request.headers().get_all(header::HOST)).map_err(malformed)?;
    let route = match snapshot.routes.find(downstream.listener, &target) {
        Some(Served::Route(route)) => route.clone(),
        Some(Served::Redirect(name)) => {
            attempt.found(name);
            return Ok(redirect(worker, name, &target, &request, attempt));
        }
        None => return page(snapshot, &request, attempt).ok_or(Rejection::NoRoute),
    };
    attempt.found(&route.name);
    match route.plain_http {
        PlainHttp::Proxy if !asks_for_websocket(&request) => {
            plain_http::pass(worker, &downstream, &route, request, attempt).await
        }
        PlainHttp::Proxy | PlainHttp::Reject => {
            websocket::open(worker, downstream, route, request, attempt).await
        }
    }
}

fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    handshake::asks_for_websocket(request.version(), request.extensions(), request.headers())
}

/// The way to the same host and path by https. The port that the client called is that of plain
/// HTTP, so it is left out.
fn redirect(
    worker: &Worker,
    name: &Arc<str>,
    target: &Target,
    request: &Request<Upload>,
    attempt: &mut Attempt,
) -> Response<Body> {
    attempt.done();
    worker.tally.route(name).answered(StatusCode::MOVED_PERMANENTLY).add(1);
    let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
    debug!(client = %attempt.client().addr, route = &**name, "request redirected to https");
    let response = Response::builder()
        .status(StatusCode::MOVED_PERMANENTLY)
        .header(header::LOCATION, format!("https://{}{path}", target.host()))
        .body(Body::from(""));
    response.expect("a name and a path that were read make a header")
}

/// The page at `/`, where there is one.
fn page(
    snapshot: &Snapshot,
    request: &Request<Upload>,
    attempt: &mut Attempt,
) -> Option<Response<Body>> {
    let page = snapshot.page?;
    let asked =
        request.uri().path() == "/" && matches!(*request.method(), Method::GET | Method::HEAD);
    if !asked {
        return None;
    }
    attempt.done();
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from(page));
    Some(response.expect("two well-known fields make a response"))
}

fn malformed(fault: TargetFault) -> Rejection {
    Rejection::Malformed(format!("{fault}."))
}

/// The name by which the client called; an absolute-form target needs no Host.
fn host_of(parts: &request::Parts) -> Result<HeaderValue, Rejection> {
    let named = || parts.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    let host = parts.headers.get(header::HOST).cloned().or_else(named);
    host.ok_or_else(|| Rejection::Malformed("no Host.".to_owned()))
}

/// What the edge itself knows of a request, for its headers to the upstream.
fn facts<'a>(downstream: &Downstream, attempt: &'a Attempt, host: &'a HeaderValue) -> Facts<'a> {
    Facts {
        peer: downstream.peer.ip(),
        client: attempt.client(),
        request_id: attempt.id(),
        scheme: downstream.scheme,
        port: downstream.local.port(),
        host,
    }
}

/// The target as the upstream gets it.
fn upstream_target(parts: &request::Parts, route: &Route) -> Result<Uri, Rejection> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let rewrite = &route.rewrite;
    let target = rewritten(target, rewrite.strip_prefix.as_deref(), rewrite.add_prefix.as_deref());
    Uri::try_from(target)
        .map_err(|_| Rejection::Malformed("the target cannot be rewritten.".to_owned()))
}

fn retry_after() -> RetryAfter {
    RetryAfter::by_chance(rand::random())
}

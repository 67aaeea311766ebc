//! A plain request passed through: event streams, long polling, Socket.IO's polling transport,
//! uploads and downloads.
//!
//! The request is written anew as an upgrade is, and of what frames a body only what hyper read is
//! written: `Expect` stays here, since the client is told to go on as soon as there is a
//! connection to the upstream. An answer goes to the client as it comes, and has no deadline.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::upgrade;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::admission::{Admitted, Purpose, admit};
use super::attempt::Attempt;
use super::body::{Body, Passed};
use super::headers::{Claims, Facts, plain_answer_headers, plain_request_headers};
use super::rejection::Rejection;
use super::stickiness::{Sticky, append_cookie};
use super::websocket::let_go;
use super::{Downstream, SlowConsumer, Worker, facts, host_of, upstream_target};
use crate::plan::OnExpiry;
use crate::snapshot::Route;
use crate::tunnel::{EXPIRY_JITTER, LOOK};
use crate::upstream::{ExchangeError, Upload};

/// Takes a request to the head of its answer, and counts it.
pub(super) async fn pass(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    route: &Arc<Route>,
    mut request: Request<Upload>,
    attempt: &mut Attempt,
) -> Result<Response<Body>, Rejection> {
    attempt.plain();
    if request.headers().contains_key(UPGRADE) || request.method() == Method::CONNECT {
        tokio::task::spawn_local(let_go(upgrade::on(&mut request)));
    }
    let result = exchange(worker, downstream, route, request, attempt).await;
    let status = match &result {
        Ok(response) => response.status(),
        Err(rejection) => rejection.status(),
    };
    worker.tally.route(&route.name).answered(status).add(1);
    result
}

async fn exchange(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    route: &Arc<Route>,
    request: Request<Upload>,
    attempt: &mut Attempt,
) -> Result<Response<Body>, Rejection> {
    let (mut parts, body) = request.into_parts();
    well_shaped(&parts)?;
    let host = host_of(&parts)?;
    let facts = facts(downstream, attempt, &host);
    let purpose = Purpose::of(&parts);
    let Admitted { mut admission, claims, .. } =
        admit(worker, route, &mut parts, &facts, purpose).await?;
    let outgoing = outgoing(&parts, body, &facts, route, &claims)?;
    let claim = |name: &str| admission.claim(name);
    let sticky = Sticky::of(&parts, facts.scheme, facts.client, &claim, &route.cluster);
    let patience = route.response_timeout;
    let (answer, lease) =
        route.cluster.exchange(&admission, sticky.wish(), &worker.pool, outgoing, patience).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rejection::UpstreamInvalid("a 101 that nobody asked for".to_owned()));
    }
    attempt.done();
    debug!(
        client = %attempt.client().addr, route = &*route.name, request_id = attempt.id().as_str(),
        endpoint = &**lease.endpoint().label(), status = answer.status().as_u16(),
        "request answered"
    );
    let cookie = sticky.cookie(lease.endpoint());
    let expires = admission.settle();
    let mut response = passed(answer, (lease, admission), worker, route, expires);
    append_cookie(response.headers_mut(), cookie);
    Ok(response)
}

/// What hyper lets pass and another server may read otherwise.
fn well_shaped(parts: &request::Parts) -> Result<(), Rejection> {
    let malformed = |fault: &str| Err(Rejection::Malformed(fault.to_owned()));
    if parts.method == Method::CONNECT {
        return malformed("CONNECT is not served.");
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => malformed("Transfer-Encoding must be chunked, and nothing else."),
    }
}

/// The request to the upstream, written anew.
fn outgoing(
    parts: &request::Parts,
    body: Upload,
    facts: &Facts<'_>,
    route: &Route,
    claims: &[(HeaderName, HeaderValue)],
) -> Result<Request<Upload>, Rejection> {
    let headers = plain_request_headers(
        &parts.headers,
        facts,
        hyper::body::Body::size_hint(&body).exact(),
        route.cluster.host(),
        Claims { names: &route.claimed, fields: claims },
        &route.request_headers,
    );
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = upstream_target(parts, route)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The answer as it goes to the client. `hold` is what lives until it is read; `expires` is when
/// the client's token does.
fn passed(
    answer: Response<Incoming>,
    hold: impl std::any::Any,
    worker: &Rc<Worker>,
    route: &Route,
    expires: Option<SystemTime>,
) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    let mut body = Passed::new(body, hold);
    if is_event_stream(&head.headers) {
        let expires = expires.filter(|_| route.plan.on_expiry == OnExpiry::Close);
        body = body.until(over(worker.clone(), expires));
    }
    head.headers = plain_answer_headers(&head, &route.response_headers);
    head.extensions.insert(SlowConsumer(route.plan.slow_consumer));
    head.version = Version::HTTP_11;
    Response::from_parts(head, Body::Passed(body))
}

/// What its client takes up again where it ended; any other answer runs on, through a drain and
/// past its token.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(b"".as_slice(), |kind| kind.as_bytes());
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Returns when an event stream has to end.
async fn over(worker: Rc<Worker>, expires: Option<SystemTime>) {
    tokio::select! {
        () = drained(worker) => {}
        () = expired(expires) => {}
    }
}

/// Returns soon behind a token's expiry. The timers stand still while the machine sleeps, and the
/// clock on the wall can be set, so it is looked at again and again.
async fn expired(at: Option<SystemTime>) {
    let Some(at) = at else { return pending().await };
    let at = at + EXPIRY_JITTER.mul_f64(rand::random());
    while let Ok(left) = at.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(LOOK)).await;
    }
}

/// Returns at a moment by chance within the drain's window.
async fn drained(worker: Rc<Worker>) {
    let mut draining = worker.draining.subscribe();
    if draining.wait_for(|draining| *draining).await.is_ok() {
        let end = worker.window_end.get().unwrap_or_else(Instant::now);
        sleep(end.saturating_duration_since(Instant::now()).mul_f64(rand::random())).await;
    }
}

impl From<ExchangeError> for Rejection {
    fn from(error: ExchangeError) -> Rejection {
        match error {
            ExchangeError::Connect(error) => error.into(),
            ExchangeError::BodyPaused => Rejection::BodyTimeout,
            ExchangeError::BodyBrokenOff => Rejection::ClientGone,
            ExchangeError::BodyMalformed => {
                Rejection::Malformed("The body is malformed.".to_owned())
            }
        }
    }
}

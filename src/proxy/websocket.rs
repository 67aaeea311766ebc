//! A WebSocket's handshake on both sides, and the tunnel that comes of it.

use std::any::Any;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::field::display;
use tracing::{debug, info, warn};

use super::admission::{Admitted, Purpose, admit, refuse_banned};
use super::attempt::{Attempt, clean};
use super::authorize::{Question, Recheck, Rechecking};
use super::body::{Body, Passed};
use super::headers::{
    Claims, Facts, client_headers, passed_headers, permitted_offer, upstream_headers,
};
use super::rejection::{Outcome, Rejection};
use super::stickiness::{Sticky, append_cookie};
use super::token;
use super::trace::TraceId;
use super::turn_away::turn_away;
use super::{Downstream, SlowConsumer, Worker, facts, host_of, retry_after, upstream_target};
use crate::config::TokenSource;
use crate::control::{About, Progress, Seat};
use crate::ending::{Blame, Reason, Side};
use crate::metrics::{RouteTally, WorkerTally};
use crate::net::mux::{self, Mux};
use crate::net::{Leg, Stream};
use crate::plan::Plan;
use crate::policy::Admission;
use crate::snapshot::Route;
use crate::tunnel::{Entrance, Report, Tunnel};
use crate::upstream::{ConnectError, Connected, Lease, Upload};
use crate::ws::CloseCode;
use crate::ws::handshake::{Http, Offer, UpgradeRequest};

/// How long the end of a stream that was not upgraded may take to write.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes a request through its handshake. A 101, or HTTP/2's 200, is returned only when nothing
/// more can fail.
pub(super) async fn open(
    worker: &Rc<Worker>,
    downstream: Rc<Downstream>,
    route: Arc<Route>,
    mut request: Request<Upload>,
    attempt: &mut Attempt,
) -> Result<Response<Body>, Rejection> {
    let on_upgrade = upgrade::on(&mut request);
    let hold = request.extensions_mut().remove::<mux::Hold>();
    let mut parts = request.into_parts().0;
    let upgrade = UpgradeRequest::parse(&parts);
    let shaken = match &upgrade {
        Ok(upgrade) => shake(worker, &downstream, &route, &mut parts, upgrade, attempt).await,
        Err(fault) => Err(Rejection::no_upgrade(*fault, Http::of(parts.version))),
    };
    match shaken {
        Ok((response, Some(prepared))) => {
            tokio::task::spawn_local(prepared.run(worker.clone(), on_upgrade, hold));
            Ok(response)
        }
        Ok((response, None)) => {
            tokio::task::spawn_local(let_go(on_upgrade));
            Ok(response)
        }
        Err(rejection) => match told_by_close(&route, upgrade.as_ref().ok(), &rejection) {
            Some((response, code)) => {
                attempt.refused_by_close(&rejection);
                let patience = route.plan.close;
                tokio::task::spawn_local(turn_away(on_upgrade, code, patience, (downstream, hold)));
                Ok(response)
            }
            None => {
                tokio::task::spawn_local(let_go(on_upgrade));
                Err(rejection)
            }
        },
    }
}

/// The answer and the close code by which the route tells a refusal, if it does.
fn told_by_close(
    route: &Route,
    upgrade: Option<&UpgradeRequest>,
    rejection: &Rejection,
) -> Option<(Response<Body>, CloseCode)> {
    let code = rejection.close_code(route.plan.unauthorized_code);
    let code = code.filter(|_| route.rejects_by_close)?;
    let upgrade = upgrade?;
    Some((switching(upgrade, upgrade.accept_to_close(), route), code))
}

fn switching(upgrade: &UpgradeRequest, headers: HeaderMap, route: &Route) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::new()));
    *response.status_mut() = upgrade.http().status_of_success();
    *response.headers_mut() = headers;
    response.extensions_mut().insert(SlowConsumer(route.plan.slow_consumer));
    response
}

/// hyper hands over the stream of a request that asked for an upgrade and did not get it, once
/// its connection is to close: that is done here, so that TLS ends with its close_notify.
pub(super) async fn let_go(on_upgrade: OnUpgrade) {
    if let Ok(stream) = on_upgrade.await {
        let _ = timeout(LAST_WORDS, TokioIo::new(stream).shutdown()).await;
    }
}

/// Both handshakes: what comes of them is the 101 and a tunnel, or the upstream's own answer.
async fn shake(
    worker: &Worker,
    downstream: &Rc<Downstream>,
    route: &Arc<Route>,
    parts: &mut http::request::Parts,
    upgrade: &UpgradeRequest,
    attempt: &mut Attempt,
) -> Result<(Response<Body>, Option<Prepared>), Rejection> {
    if worker.is_draining() {
        return Err(Rejection::Draining(retry_after()));
    }
    let host = host_of(parts)?;
    let facts = facts(downstream, attempt, &host);
    let admitted = admit(worker, route, parts, &facts, Purpose::WebSocket).await?;
    let Admitted { mut admission, claims, question } = admitted;
    let seat = worker.registry.take_seat();
    let carriers = carriers(route, upgrade);
    let offer = permitted_offer(upgrade, route.subprotocols.as_deref(), route.compression)
        .without_subprotocols(&carriers);
    let outgoing = outgoing(parts, &facts, route, &offer, &claims)?;
    let claim = |name: &str| admission.claim(name);
    let sticky = Sticky::of(parts, facts.scheme, facts.client, &claim, &route.cluster);
    let opened = match route.cluster.connect(&admission, sticky.wish(), outgoing, &offer).await? {
        Connected::Open(opened) => opened,
        Connected::Refused(answer, _) if is_taken_for_success(answer.status(), upgrade.http()) => {
            let fault = format!("a {} where a 101 was due", answer.status().as_u16());
            return Err(Rejection::UpstreamInvalid(fault));
        }
        Connected::Refused(answer, lease) => {
            admission.settle();
            attempt.refused_by_upstream(answer.status().as_u16());
            let cookie = sticky.cookie(lease.endpoint());
            let mut response = passed(answer, (lease, admission), route);
            append_cookie(response.headers_mut(), cookie);
            return Ok((response, None));
        }
    };
    // Between here and the 101 nothing is awaited: a drain or a reload that comes now finds the
    // seat taken.
    let plan = commit(worker, route, &opened.lease)?;
    refuse_banned(worker, &admission)?;
    let about = Rc::new(About {
        client: attempt.client().addr,
        subject: admission.subject().map(|subject| subject.as_str().into()),
        route: route.name.clone(),
        upstream: route.cluster.name().clone(),
        endpoint: opened.lease.endpoint().identity().clone(),
        address: opened.lease.endpoint().label().clone(),
        began: Instant::now(),
        progress: Progress::default(),
    });
    seat.stand(about.clone());
    attempt.done();
    let instead = token::chosen(upgrade.subprotocols()).filter(|_| !carriers.is_empty());
    let answer = opened.answer.or_subprotocol(instead);
    let upstreams = &opened.head.headers;
    let headers = client_headers(upstreams, upgrade.accept(), &answer, &route.response_headers);
    let mut response = switching(upgrade, headers, route);
    append_cookie(response.headers_mut(), sticky.cookie(opened.lease.endpoint()));
    let upstream = Entrance {
        leg: opened.leg,
        early: unpinned(&opened.early),
        deflate: answer.compresses(),
        check_utf8: route.check_utf8,
        rates: None,
    };
    let expires = admission.settle();
    let (lease, downstream, route) = (opened.lease, downstream.clone(), route.clone());
    let (took, trace) = (attempt.age(), attempt.trace());
    let prepared = Prepared {
        upstream,
        lease,
        admission,
        expires,
        question,
        seat,
        about,
        plan,
        route,
        downstream,
        http: upgrade.http(),
        took,
        trace,
    };
    Ok((response, Some(prepared)))
}

/// An extended CONNECT takes any 2xx for the beginning of its WebSocket (RFC 8441 §5, RFC 9110
/// §9.3.6), so that of an upstream that did not upgrade cannot be passed on.
fn is_taken_for_success(status: StatusCode, http: Http) -> bool {
    http == Http::Two && status.is_success()
}

/// What has changed since the request came: the plan of its route as it is now, or a refusal
/// where a drain has begun, or the route or the endpoint is no longer there.
fn commit(worker: &Worker, route: &Route, lease: &Lease) -> Result<Arc<Plan>, Rejection> {
    if worker.is_draining() {
        return Err(Rejection::Draining(retry_after()));
    }
    let now = worker.snapshot();
    let gone = || Rejection::NoEndpoint(retry_after());
    let plan = now.route(&route.name).ok_or_else(gone)?.plan.clone();
    let before = &route.cluster;
    let after = now.cluster(before.name()).ok_or_else(gone)?;
    let identity = lease.endpoint().identity();
    let removed = !Arc::ptr_eq(before, after) && before.loses(identity, Some(after));
    if removed { Err(gone()) } else { Ok(plan) }
}

/// What of a client's subprotocols only carries its token.
fn carriers(route: &Route, upgrade: &UpgradeRequest) -> Vec<String> {
    let from = route.token.as_ref().map_or(&[][..], |asked| &asked.from);
    match from.contains(&TokenSource::Subprotocol) {
        true => token::carriers(upgrade.subprotocols()),
        false => Vec::new(),
    }
}

/// The request to the upstream, written anew.
fn outgoing(
    parts: &http::request::Parts,
    facts: &Facts<'_>,
    route: &Route,
    offer: &Offer,
    claims: &[(HeaderName, HeaderValue)],
) -> Result<Request<Empty<Bytes>>, Rejection> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = upstream_target(parts, route)?;
    *request.headers_mut() = upstream_headers(
        &parts.headers,
        facts,
        offer,
        route.cluster.host(),
        Claims { names: &route.claimed, fields: claims },
        &route.request_headers,
    );
    Ok(request)
}

/// An upstream's own answer as it goes to the client, whose connection then closes. `hold` is what
/// lives until it is read.
fn passed(answer: Response<Incoming>, hold: impl Any, route: &Route) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    head.headers = passed_headers(&head, &route.response_headers);
    head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
    head.extensions.clear();
    head.extensions.insert(SlowConsumer(route.plan.slow_consumer));
    head.version = http::Version::HTTP_11;
    Response::from_parts(head, Body::Passed(Passed::new(body, hold)))
}

impl From<ConnectError> for Rejection {
    fn from(error: ConnectError) -> Rejection {
        match error {
            ConnectError::NoEndpoint(_) => Rejection::NoEndpoint(retry_after()),
            ConnectError::Dial { .. } => Rejection::DialFailed(error.to_string()),
            ConnectError::Handshake { .. } | ConnectError::Answer { .. } => {
                Rejection::UpstreamInvalid(error.to_string())
            }
            ConnectError::Timeout { .. } => Rejection::UpstreamTimeout,
        }
    }
}

/// A tunnel that lacks only the client's stream.
struct Prepared {
    upstream: Entrance,
    lease: Lease,
    admission: Admission,
    /// When its token expires.
    expires: Option<SystemTime>,
    question: Option<Question>,
    seat: Seat,
    about: Rc<About>,
    plan: Arc<Plan>,
    route: Arc<Route>,
    downstream: Rc<Downstream>,
    http: Http,
    /// From the request's head to its 101.
    took: Duration,
    trace: Option<TraceId>,
}

impl Prepared {
    /// Waits for the 101 to be written; the tunnel is a task of its own, so that nothing of the
    /// handshake lives as long as it does.
    async fn run(self, worker: Rc<Worker>, on_upgrade: OnUpgrade, hold: Option<mux::Hold>) {
        match on_upgrade.await {
            Ok(upgraded) => {
                let (leg, early) = into_leg(upgraded, hold);
                tokio::task::spawn_local(self.live(&worker, leg, early));
            }
            Err(_) => {
                let outcome = Outcome::ClientGone.as_str();
                worker.tally.route(&self.about.route).handshakes(outcome).add(1);
                let trace_id = self.trace.map(display);
                info!(id = %self.seat.id(), client = %self.about.client, trace_id,
                    route = &*self.about.route, by = "client", outcome, "handshake refused");
            }
        }
    }

    fn live(self, worker: &Rc<Worker>, leg: Leg, early: Bytes) -> Life {
        let Prepared { upstream, lease, admission, expires, question, seat, .. } = self;
        let (about, plan, route, downstream) = (self.about, self.plan, self.route, self.downstream);
        let client_end = Entrance {
            leg,
            early,
            deflate: upstream.deflate,
            check_utf8: upstream.check_utf8,
            rates: admission.rates(),
        };
        let tally = worker.tally.route(&about.route);
        let tunnel = Tunnel::new(
            client_end,
            upstream,
            plan,
            seat.mailbox(),
            worker.shared.clone(),
            tally.clone(),
            rand::random(),
        )
        .expiring(expires, rand::random());
        tally.handshakes(Outcome::Ok.as_str()).add(1);
        worker.tally.handshakes.observe(self.took);
        let present = Present::new(worker.tally.clone(), about.clone());
        let recheck = question.map(|question| {
            let (worker, mailbox) = (worker.clone(), seat.mailbox());
            Recheck { worker, route, question, mailbox }.begin()
        });
        let life = Life {
            tunnel,
            tally,
            _present: present,
            seat,
            lease,
            admission,
            recheck,
            _downstream: downstream,
            about,
            trace: self.trace,
            http: self.http,
        };
        life.log_opened();
        life
    }
}

/// The client's side of a tunnel, and what it has sent already. A stream of HTTP/2 has a `hold`.
fn into_leg(upgraded: Upgraded, hold: Option<mux::Hold>) -> (Leg, Bytes) {
    if let Some(hold) = hold {
        return (Leg::Mux(Box::new(Mux::new(upgraded, hold))), Bytes::new());
    }
    let parts =
        upgraded.downcast::<TokioIo<Stream>>().expect("a listener serves HTTP/1.1 over a Stream");
    (parts.io.into_inner().into_leg(), unpinned(&parts.read_buf))
}

/// A copy that does not keep the whole of hyper's buffer alive.
fn unpinned(read: &[u8]) -> Bytes {
    Bytes::copy_from_slice(read)
}

/// A tunnel, what it keeps alive, and what the log says of it. Written as a future by hand: an
/// async block would hold the tunnel twice.
struct Life {
    tunnel: Tunnel,
    tally: Arc<RouteTally>,
    _present: Present,
    seat: Seat,
    lease: Lease,
    /// Who it is, and its places under the caps.
    admission: Admission,
    /// The authorizer is asked again.
    recheck: Option<Rechecking>,
    /// Its place at its listener.
    _downstream: Rc<Downstream>,
    about: Rc<About>,
    trace: Option<TraceId>,
    http: Http,
}

/// A tunnel that is counted among those that live.
struct Present {
    tally: Arc<WorkerTally>,
    about: Rc<About>,
}

impl Present {
    fn new(tally: Arc<WorkerTally>, about: Rc<About>) -> Present {
        tally.came(&about.route, &about.upstream, &about.address);
        Present { tally, about }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.tally.left(&self.about.route, &self.about.upstream, &self.about.address);
    }
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.tunnel).poll(cx);
        if let Some(recheck) = &self.recheck {
            recheck.follow(self.tunnel.plan());
        }
        self.about.progress.set(self.tunnel.figures());
        let report = ready!(polled);
        self.tally.ended(report.ending.reason).add(1);
        self.log_ended(&report);
        Poll::Ready(())
    }
}

impl Life {
    fn log_opened(&self) {
        let (id, client) = (self.seat.id(), self.about.client);
        let (route, endpoint) = (&*self.about.route, &**self.lease.endpoint().label());
        let (subject, protocol) = (self.subject(), self.http.as_str());
        let trace_id = self.trace.map(display);
        debug!(%id, %client, subject, route, endpoint, protocol, trace_id, "tunnel opened");
    }

    fn subject(&self) -> Option<String> {
        self.admission.subject().map(|subject| clean(subject.as_str()))
    }

    fn log_ended(&self, report: &Report) {
        let (id, client) = (self.seat.id(), self.about.client);
        let (route, endpoint) = (&*self.about.route, &**self.lease.endpoint().label());
        let duration_ms = u64::try_from(self.about.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (subject, trace_id) = (self.subject(), self.trace.map(display));
        let [frames_upstream, frames_downstream] = report.frames;
        let [bytes_upstream, bytes_downstream] = report.bytes;
        let rtt_ms = report.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
        let (reason, by) = (report.ending.reason.as_str(), report.ending.reason.by());
        let (close_sent, code) = (close_sent(report), report.code);
        let protocol = self.http.as_str();
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    %id, %client, subject, route, endpoint, protocol, duration_ms,
                    frames_upstream, frames_downstream, bytes_upstream, bytes_downstream, rtt_ms,
                    reason, by = by.as_str(), close_sent, code, trace_id, "tunnel ended"
                )
            };
        }
        match by {
            Blame::Upstream if report.ending.reason != Reason::Closed(Side::Upstream) => {
                line!(warn);
            }
            Blame::Client | Blame::Upstream | Blame::Edge => line!(info),
        }
    }
}

fn close_sent(report: &Report) -> &'static str {
    match report.told {
        [true, true] => "both",
        [true, false] => "client",
        [false, true] => "upstream",
        [false, false] => "none",
    }
}

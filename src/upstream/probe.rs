//! One probe of one endpoint: over the way that clients' connections take, and no further than
//! it must.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Cluster, Endpoint, Place, handshake};
use crate::config::{self, Probe};
use crate::net::Stream;
use crate::ws::handshake::{Key, Offer};
use crate::ws::{CloseCode, ControlFrame};

/// How probes call themselves.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("wsgate/", env!("CARGO_PKG_VERSION"), " (health probe)"));
/// What of an answer's body is read, so that the endpoint is not reset while it writes.
const BODY: usize = 64 << 10;
/// How long an endpoint has for that, or to answer the Close that ends a probe.
const GOODBYE: Duration = Duration::from_secs(1);

/// Probes `endpoint`, within `health.timeout`; a failure is told in words.
pub(super) async fn probe(
    cluster: &Cluster,
    endpoint: &Endpoint,
    health: &config::Health,
) -> Result<(), String> {
    let probing = async {
        let dialled = cluster.dialler.dial(endpoint).await;
        let stream = dialled.map_err(|fault| fault.to_string())?;
        match &health.probe {
            Probe::Tcp => Ok(()),
            Probe::Http(target) => http(stream, request(cluster, endpoint, target)).await,
            Probe::WebSocket(target) => websocket(stream, request(cluster, endpoint, target)).await,
        }
    };
    match timeout(health.timeout, probing).await {
        Ok(result) => result,
        Err(_) => Err(format!("the probe was not done within {:?}", health.timeout)),
    }
}

fn request(cluster: &Cluster, endpoint: &Endpoint, target: &str) -> Request<Empty<Bytes>> {
    let host = cluster.host.clone().unwrap_or_else(|| own_host(endpoint));
    Request::get(target)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .body(Empty::new())
        .expect("a target that the configuration's check let pass")
}

/// What an endpoint is called by where no client says it.
fn own_host(endpoint: &Endpoint) -> HeaderValue {
    let localhost = HeaderValue::from_static("localhost");
    match endpoint.place() {
        Place::Unix(_) => localhost,
        Place::Ip(_) | Place::Name(_) => {
            HeaderValue::try_from(&**endpoint.label()).unwrap_or(localhost)
        }
    }
}

/// Well is who answers 2xx or 3xx.
async fn http(stream: Stream, mut request: Request<Empty<Bytes>>) -> Result<(), String> {
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let mut driver = JoinSet::new();
    let (head, body) = ask(stream, request, &mut driver).await?.into_parts();
    let status = head.status;
    let rest = async move {
        let _driver = driver;
        Limited::new(body, BODY).collect().await.map(drop)
    };
    tokio::spawn(timeout(GOODBYE, rest));
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("the probe was answered {}", status.as_u16())),
    }
}

/// Well is who shakes hands as RFC 6455 wants it.
async fn websocket(stream: Stream, mut request: Request<Empty<Bytes>>) -> Result<(), String> {
    let offer = Offer::plain(Key::random());
    offer.write(request.headers_mut());
    let mut driver = JoinSet::new();
    let answer = ask(stream, request, &mut driver).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the probe was answered {}", answer.status().as_u16()));
    }
    let (head, answer) = handshake::split(answer);
    offer.verify(&head).map_err(|fault| fault.to_string())?;
    let upgraded = upgrade::on(answer).await.map_err(|fault| handshake::describe(&fault))?;
    tokio::spawn(timeout(GOODBYE, say_goodbye(TokioIo::new(upgraded))));
    Ok(())
}

/// Sends a request over a connection that lives as long as `driver`.
async fn ask(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    driver: &mut JoinSet<()>,
) -> Result<Response<Incoming>, String> {
    let broken = |fault: hyper::Error| handshake::describe(&fault);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    driver.spawn(async move { drop(connection.with_upgrades().await) });
    sender.send_request(request).await.map_err(broken)
}

/// Ends a WebSocket in good order, so that nothing in the endpoint's log looks like a fault.
async fn say_goodbye(mut socket: TokioIo<upgrade::Upgraded>) -> std::io::Result<()> {
    let mut close = Vec::new();
    ControlFrame::close(CloseCode::Normal, "").encode(Some(rand::random()), &mut close);
    socket.write_all(&close).await?;
    socket.flush().await?;
    let mut ignored = [0; 1024];
    while socket.read(&mut ignored).await? > 0 {}
    socket.shutdown().await
}

//! The edge as a client: its request to an endpoint, and the answer held against the offer.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade;
use hyper_util::rt::TokioIo;

use super::{ConnectError, Connected, Lease, Opened};
use crate::net::Stream;
use crate::ws::handshake::Offer;

/// The largest head of an answer; also what an endpoint may send behind its 101 before the
/// tunnel stands.
pub(super) const HEAD: usize = 64 << 10;

/// Sends `request` and checks what comes back. 1xx answers before the final one are skipped.
pub(super) async fn shake(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    offer: &Offer,
    lease: Lease,
) -> Result<Connected, ConnectError> {
    let endpoint = lease.endpoint().label().clone();
    let broken = |fault: hyper::Error| ConnectError::Handshake {
        endpoint: endpoint.clone(),
        fault: describe(&fault),
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends by itself: at the upgrade, when the answer's body is read, or with `sender`.
    tokio::task::spawn_local(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Connected::Refused(response, lease));
    }
    let (head, response) = split(response);
    let answer = offer
        .verify(&head)
        .map_err(|fault| ConnectError::Answer { endpoint: endpoint.clone(), fault })?;
    let upgraded = upgrade::on(response).await.map_err(broken)?;
    let parts = upgraded
        .downcast::<TokioIo<Stream>>()
        .expect("the connection was made over a Stream a few lines above");
    let leg = parts.io.into_inner().into_leg();
    Ok(Connected::Open(Opened { leg, early: parts.read_buf, answer, head, lease }))
}

/// The head of a response, and the response that still carries the upgrade.
pub(super) fn split(response: Response<Incoming>) -> (http::response::Parts, Response<Incoming>) {
    let (mut head, body) = response.into_parts();
    let mut carrier = Response::new(body);
    std::mem::swap(carrier.extensions_mut(), &mut head.extensions);
    (head, carrier)
}

pub(super) fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

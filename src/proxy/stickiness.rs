//! Where a request wants to go, and the cookie that brings its browser back there.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::headers::{ClientAddress, Scheme};
use crate::upstream::{Asking, Cluster, Endpoint, Wish};

/// What one request has to do with the stickiness of its upstream.
pub(super) struct Sticky<'a> {
    cluster: &'a Cluster,
    wish: Wish,
    secure: bool,
}

impl<'a> Sticky<'a> {
    pub(super) fn of(
        parts: &Parts,
        scheme: Scheme,
        client: ClientAddress,
        claim: &dyn Fn(&str) -> Option<String>,
        cluster: &'a Cluster,
    ) -> Sticky<'a> {
        let (headers, uri) = (&parts.headers, &parts.uri);
        let asking = Asking { headers, uri, client: client.addr, claim };
        let secure = scheme == Scheme::Https || came_by_tls(&parts.headers, client);
        Sticky { cluster, wish: cluster.wish(&asking), secure }
    }

    pub(super) fn wish(&self) -> &Wish {
        &self.wish
    }

    /// The Set-Cookie of an answer by `endpoint`, if the client has no cookie for it.
    pub(super) fn cookie(&self, endpoint: &Arc<Endpoint>) -> Option<HeaderValue> {
        self.cluster.affinity_cookie(&self.wish, endpoint, self.secure)
    }
}

/// Whether a trusted proxy in front says that the client has TLS.
fn came_by_tls(headers: &HeaderMap, client: ClientAddress) -> bool {
    let proto = headers.get("x-forwarded-proto").filter(|_| client.trusted_hop);
    proto.is_some_and(|proto| matches!(proto.as_bytes(), b"https" | b"wss"))
}

pub(super) fn append_cookie(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(SET_COOKIE, cookie);
    }
}

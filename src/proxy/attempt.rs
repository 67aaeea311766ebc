//! The record of one request until it is answered: it ends in exactly one log line, or in none
//! when all went well, and is counted once.
//!
//! hyper drops a request's future when its client leaves; that is seen here, by the drop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use tracing::Level;

use super::body::Body;
use super::headers::{ClientAddress, RequestId};
use super::rejection::{Outcome, Rejection};
use super::trace::TraceId;
use crate::ending::Blame;
use crate::metrics::{NO_ROUTE, WorkerTally};

/// Bytes of a field in a log line.
const FIELD: usize = 256;

pub(super) struct Attempt {
    client: ClientAddress,
    id: RequestId,
    trace: Option<TraceId>,
    path: String,
    route: Option<Arc<str>>,
    tally: Arc<WorkerTally>,
    began: Instant,
    /// It asks for no WebSocket, and need not; whoever passes it on counts it.
    plain: bool,
    open: bool,
}

impl Attempt {
    pub(super) fn new(
        client: ClientAddress,
        id: RequestId,
        trace: Option<TraceId>,
        path: &str,
        tally: Arc<WorkerTally>,
    ) -> Attempt {
        let (path, began) = (clean(path), Instant::now());
        Attempt { client, id, trace, path, route: None, tally, began, plain: false, open: true }
    }

    /// How long it has taken so far.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn client(&self) -> ClientAddress {
        self.client
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    pub(super) fn trace(&self) -> Option<TraceId> {
        self.trace
    }

    pub(super) fn found(&mut self, route: &Arc<str>) {
        self.route = Some(route.clone());
    }

    /// It asks for no WebSocket, and need not.
    pub(super) fn plain(&mut self) {
        self.plain = true;
    }

    /// It was answered as it should be.
    pub(super) fn done(&mut self) {
        self.open = false;
    }

    /// It was refused by the edge.
    pub(super) fn refused(&mut self, rejection: &Rejection) -> Response<Body> {
        self.refused_by_close(rejection);
        rejection.response(self.id.as_str()).map(Body::from)
    }

    /// It was refused by the edge, and told by a Close.
    pub(super) fn refused_by_close(&mut self, rejection: &Rejection) {
        let status = rejection.status().as_u16();
        self.log(rejection.outcome(), Some(status), &rejection.to_string());
    }

    /// It was answered by the upstream, with no 101.
    pub(super) fn refused_by_upstream(&mut self, status: u16) {
        self.log(
            Outcome::UpstreamRefused,
            Some(status),
            "the upstream answered without an upgrade",
        );
    }

    fn log(&mut self, outcome: Outcome, status: Option<u16>, detail: &str) {
        self.open = false;
        let by = outcome.by().map_or("-", Blame::as_str);
        let route = self.route.as_deref().unwrap_or(NO_ROUTE);
        let message = if self.plain { "request refused" } else { "handshake refused" };
        if !self.plain {
            self.tally.route(route).handshakes(outcome.as_str()).add(1);
        }
        let (client, request_id, path) = (self.client.addr, self.id.as_str(), &self.path);
        let trace_id = self.trace.map(tracing::field::display);
        let (outcome, level, detail) = (outcome.as_str(), outcome.level(), clean(detail));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    outcome, status, by, %client, route, path, request_id, trace_id, detail,
                    "{message}"
                )
            };
        }
        match level {
            Level::ERROR => line!(error),
            Level::WARN => line!(warn),
            _ => line!(info),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.open {
            self.log(Outcome::ClientGone, None, "the client left before the answer");
        }
    }
}

/// A field as it may stand in a log: control characters escaped, 256 bytes at most.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(FIELD));
    for character in text.chars() {
        let before = clean.len();
        match character.is_control() {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
        if clean.len() > FIELD {
            clean.truncate(before);
            break;
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_no_control_characters_and_an_end() {
        assert_eq!(clean("/a\r\n\u{1b}[31m"), "/a\\r\\n\\u{1b}[31m");
        assert_eq!(clean(&"ü".repeat(200)), "ü".repeat(128));
        assert_eq!(clean(&"\n".repeat(200)).len(), 256);
    }
}

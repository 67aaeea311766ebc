//! What goes wrong before the 101, and the one map from it to an HTTP answer.
//!
//! As long as nothing has been answered, every failure can still be a status that clients,
//! monitors and load balancers understand. The body is a problem document (RFC 9457) that tells
//! the client what it can mend and the request id under which the operator finds the rest; what
//! happened behind the edge is for the log only, and is what [`Rejection`] displays as.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use tracing::Level;

use crate::ending::Blame;
use crate::policy::authorize::Refusal;
use crate::policy::token::{Invalid, Refused};
use crate::policy::{Denied, OriginRefused};
use crate::ws::CloseCode;
use crate::ws::handshake::{AnswerFault, Http, NotUpgrade};

/// A handshake, or a plain request, refused by the edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("no route serves this host and path")]
    NoRoute,
    /// Plain HTTP on a route for WebSockets.
    #[error("the request asks for no WebSocket")]
    NotUpgrade(Http),
    #[error("Sec-WebSocket-Version is not 13")]
    WrongVersion(Http),
    /// The text goes to the client as it is.
    #[error("{0}")]
    Malformed(String),
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the request's head was not whole in time")]
    HeadTimeout,
    /// A plain request's body paused for too long.
    #[error("the client paused too long within the request's body")]
    BodyTimeout,
    #[error("the client's network may not come here")]
    Network,
    #[error("{0}")]
    Origin(OriginRefused),
    #[error("too many handshakes of this client")]
    ClientRate(RetryAfter),
    #[error("too many handshakes in all")]
    TotalRate(RetryAfter),
    #[error("too many connections of this client")]
    ClientCap(RetryAfter),
    #[error("too many connections of this subject")]
    SubjectCap(RetryAfter),
    #[error("too many connections in all")]
    TotalCap(RetryAfter),
    #[error("an operator has sent this subject away")]
    Kicked,
    /// The route counts by subject.
    #[error("nothing names the subject that this route counts by")]
    NoSubject,
    #[error("the request has no token")]
    NoToken(Realm),
    #[error("{1}")]
    BadToken(Realm, Refused),
    /// A good one, of somebody who may not come.
    #[error("{1}")]
    TokenLacks(Realm, Refused),
    #[error("{0}")]
    NoKeys(Refused, RetryAfter),
    #[error("the authorizer answered {}", .0.status)]
    Unauthorized(Refusal),
    #[error("the authorizer gave no verdict: {0}")]
    NoVerdict(String, RetryAfter),
    #[error("the edge is draining")]
    Draining(RetryAfter),
    #[error("no endpoint is usable")]
    NoEndpoint(RetryAfter),
    /// Every dial failed; the last one in this way.
    #[error("no endpoint could be reached: {0}")]
    DialFailed(String),
    /// The answer was no HTTP, or a 101 that is none.
    #[error("the upstream answered wrongly: {0}")]
    UpstreamInvalid(String),
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    /// The answer is for nobody; only the log sees it.
    #[error("the client left before the answer")]
    ClientGone,
}

impl Rejection {
    pub fn status(&self) -> StatusCode {
        match self {
            // To HTTP/2 an upgrade means nothing (RFC 9113 §8.6).
            Rejection::NoRoute | Rejection::NotUpgrade(Http::Two) => StatusCode::NOT_FOUND,
            Rejection::NotUpgrade(Http::One) | Rejection::WrongVersion(Http::One) => {
                StatusCode::UPGRADE_REQUIRED
            }
            Rejection::Malformed(_)
            | Rejection::WrongVersion(Http::Two)
            | Rejection::ClientGone => StatusCode::BAD_REQUEST,
            Rejection::TargetTooLong => StatusCode::URI_TOO_LONG,
            Rejection::HeadTimeout | Rejection::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Rejection::NoToken(_) | Rejection::BadToken(..) => StatusCode::UNAUTHORIZED,
            Rejection::Network
            | Rejection::Origin(_)
            | Rejection::TokenLacks(..)
            | Rejection::NoSubject
            | Rejection::Kicked => StatusCode::FORBIDDEN,
            Rejection::ClientRate(_) | Rejection::ClientCap(_) | Rejection::SubjectCap(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Rejection::Draining(_)
            | Rejection::NoEndpoint(_)
            | Rejection::NoKeys(..)
            | Rejection::NoVerdict(..)
            | Rejection::TotalRate(_)
            | Rejection::TotalCap(_) => StatusCode::SERVICE_UNAVAILABLE,
            Rejection::Unauthorized(refusal) => refusal.status,
            Rejection::DialFailed(_) | Rejection::UpstreamInvalid(_) => StatusCode::BAD_GATEWAY,
            Rejection::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match self {
            Rejection::NoRoute => Outcome::NoRoute,
            Rejection::NotUpgrade(_) | Rejection::WrongVersion(_) => Outcome::NotUpgrade,
            Rejection::Malformed(_) => Outcome::Malformed,
            Rejection::TargetTooLong => Outcome::TooLarge,
            Rejection::HeadTimeout | Rejection::BodyTimeout => Outcome::Timeout,
            Rejection::Network => Outcome::Network,
            Rejection::Origin(_) => Outcome::Origin,
            Rejection::ClientRate(_) => Outcome::Rate(Of::Client),
            Rejection::TotalRate(_) => Outcome::Rate(Of::All),
            Rejection::ClientCap(_) | Rejection::SubjectCap(_) => Outcome::Cap(Of::Client),
            Rejection::TotalCap(_) => Outcome::Cap(Of::All),
            Rejection::Kicked => Outcome::Kicked,
            Rejection::NoToken(_) => Outcome::TokenMissing,
            Rejection::BadToken(..) => Outcome::TokenInvalid,
            Rejection::TokenLacks(..) | Rejection::NoSubject => Outcome::TokenScope,
            Rejection::NoKeys(..) => Outcome::KeysUnavailable,
            Rejection::Unauthorized(_) => Outcome::Unauthorized,
            Rejection::NoVerdict(..) => Outcome::NoVerdict,
            Rejection::Draining(_) => Outcome::Draining,
            Rejection::NoEndpoint(_) => Outcome::NoEndpoint,
            Rejection::DialFailed(_) => Outcome::DialFailed,
            Rejection::UpstreamInvalid(_) => Outcome::UpstreamInvalid,
            Rejection::UpstreamTimeout => Outcome::UpstreamTimeout,
            Rejection::ClientGone => Outcome::ClientGone,
        }
    }

    /// The answer to the client. `request_id` is the one under which the log has this refusal.
    pub fn response(&self, request_id: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.problem(request_id)));
        *response.status_mut() = self.status();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        for (name, value) in self.fields() {
            response.headers_mut().append(name, value);
        }
        response
    }

    fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let text = HeaderValue::from_static;
        match self {
            // RFC 9110 §15.5.22: a 426 names what to upgrade to; RFC 6455 §4.4: and its version.
            Rejection::NotUpgrade(Http::One) | Rejection::WrongVersion(Http::One) => vec![
                (UPGRADE, text("websocket")),
                (CONNECTION, text("upgrade")),
                (SEC_WEBSOCKET_VERSION, text("13")),
            ],
            Rejection::WrongVersion(Http::Two) => vec![(SEC_WEBSOCKET_VERSION, text("13"))],
            Rejection::HeadTimeout => vec![(CONNECTION, text("close"))],
            Rejection::NoToken(realm) => vec![realm.challenge("")],
            Rejection::BadToken(realm, _) => vec![realm.challenge(", error=\"invalid_token\"")],
            Rejection::TokenLacks(realm, refused) => vec![realm.challenge(&wanting(refused))],
            Rejection::Unauthorized(refusal) => {
                let challenges = refusal.challenges.iter();
                challenges.map(|challenge| (WWW_AUTHENTICATE, challenge.clone())).collect()
            }
            Rejection::Draining(RetryAfter(seconds))
            | Rejection::NoKeys(_, RetryAfter(seconds))
            | Rejection::NoVerdict(_, RetryAfter(seconds))
            | Rejection::NoEndpoint(RetryAfter(seconds))
            | Rejection::ClientRate(RetryAfter(seconds))
            | Rejection::TotalRate(RetryAfter(seconds))
            | Rejection::ClientCap(RetryAfter(seconds))
            | Rejection::SubjectCap(RetryAfter(seconds))
            | Rejection::TotalCap(RetryAfter(seconds)) => {
                vec![(RETRY_AFTER, HeaderValue::from(*seconds))]
            }
            _ => Vec::new(),
        }
    }

    fn problem(&self, request_id: &str) -> Vec<u8> {
        let status = self.status();
        let problem = Problem {
            kind: "about:blank",
            // RFC 9457 §4.2.1: of about:blank the title is the status's own phrase.
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
            request_id,
        };
        serde_json::to_vec(&problem).expect("strings and a number are JSON")
    }

    /// What the client may know.
    fn detail(&self) -> &str {
        match self {
            Rejection::NoRoute => "Nothing is served at this host and path.",
            Rejection::NotUpgrade(_) => "This address speaks WebSocket only.",
            Rejection::WrongVersion(_) => "This address speaks WebSocket version 13 only.",
            Rejection::Malformed(reason) => reason,
            Rejection::TargetTooLong => "The request target is too long.",
            Rejection::HeadTimeout | Rejection::BodyTimeout => {
                "The request did not arrive in time."
            }
            Rejection::Network => "Your network may not connect here.",
            Rejection::Origin(_) => "Pages of this origin may not connect here.",
            Rejection::ClientRate(_) => "Too many handshakes; connect again later.",
            Rejection::ClientCap(_) | Rejection::SubjectCap(_) => {
                "Too many connections; close one first."
            }
            Rejection::TotalRate(_) | Rejection::TotalCap(_) => {
                "The server is busy; connect again later."
            }
            Rejection::NoSubject => "Nothing says who you are.",
            Rejection::Kicked => "You may not connect here for a while.",
            Rejection::NoToken(_) => "A token is needed here.",
            Rejection::BadToken(_, Refused::Invalid(Invalid::Expired(_))) => {
                "The token has expired."
            }
            Rejection::BadToken(..) => "The token is not valid.",
            Rejection::TokenLacks(..) => "The token does not allow this.",
            Rejection::NoKeys(..) => "Tokens cannot be verified at the moment; connect again.",
            Rejection::Unauthorized(_) => "You may not connect here.",
            Rejection::NoVerdict(..) => "Nobody can say who you are at the moment; connect again.",
            Rejection::Draining(_) => "The server is going away; connect again.",
            Rejection::NoEndpoint(_) => "No server is free at the moment; connect again.",
            Rejection::DialFailed(_) => "The server behind this address could not be reached.",
            Rejection::UpstreamInvalid(_) => "The server behind this address answered wrongly.",
            Rejection::UpstreamTimeout => "The server behind this address did not answer in time.",
            Rejection::ClientGone => "The request was given up.",
        }
    }
}

impl Rejection {
    /// What a request in this HTTP comes to that is no handshake.
    pub fn no_upgrade(reason: NotUpgrade, http: Http) -> Rejection {
        match reason {
            NotUpgrade::PlainHttp => Rejection::NotUpgrade(http),
            NotUpgrade::WrongVersion => Rejection::WrongVersion(http),
            NotUpgrade::Malformed(fault) => Rejection::Malformed(format!("{fault}.")),
        }
    }

    /// What a refusal by policy comes to; caps are told a time by chance.
    pub fn denied(denied: Denied, route: &Arc<str>, random: u8) -> Rejection {
        match denied {
            Denied::Network => Rejection::Network,
            Denied::Origin(refused) => Rejection::Origin(refused),
            Denied::ClientRate { wait } => Rejection::ClientRate(RetryAfter::after(wait)),
            Denied::TotalRate { wait } => Rejection::TotalRate(RetryAfter::after(wait)),
            Denied::ClientCap => Rejection::ClientCap(RetryAfter::by_chance(random)),
            Denied::NoSubject => Rejection::NoSubject,
            Denied::SubjectCap => Rejection::SubjectCap(RetryAfter::by_chance(random)),
            Denied::TotalCap => Rejection::TotalCap(RetryAfter::by_chance(random)),
            Denied::NoToken => Rejection::NoToken(Realm(route.clone())),
            Denied::TwoTokens => Rejection::Malformed("The token is there twice.".to_owned()),
            Denied::Token(refused) => Rejection::token(refused, route, random),
            Denied::Unauthorized(refusal) => Rejection::Unauthorized(refusal),
            Denied::NoVerdict(fault) => Rejection::NoVerdict(fault, RetryAfter::by_chance(random)),
        }
    }

    fn token(refused: Refused, route: &Arc<str>, random: u8) -> Rejection {
        let realm = Realm(route.clone());
        match refused {
            Refused::Invalid(_) | Refused::UnknownKey { .. } => Rejection::BadToken(realm, refused),
            Refused::Lacks { .. } => Rejection::TokenLacks(realm, refused),
            Refused::NoKeys => Rejection::NoKeys(refused, RetryAfter::by_chance(random)),
        }
    }

    /// The code by which a browser, which cannot see a status, can be told: 4000 and the status,
    /// and for a 401 the route's own. None for what is no WebSocket handshake, and for a client's
    /// handshake rate, which must stay cheap to refuse.
    pub fn close_code(&self, unauthorized: CloseCode) -> Option<CloseCode> {
        match self.status().as_u16() {
            400 | 404 | 408 | 414 | 426 => None,
            _ if matches!(self, Rejection::ClientRate(_)) => None,
            401 => Some(unauthorized),
            status => Some(CloseCode::from(4000 + status)),
        }
    }
}

impl From<AnswerFault> for Rejection {
    fn from(fault: AnswerFault) -> Rejection {
        Rejection::UpstreamInvalid(fault.to_string())
    }
}

/// What a token is for: a route, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm(Arc<str>);

impl Realm {
    /// RFC 6750 §3: asks for a bearer token; `more` are further parameters.
    fn challenge(&self, more: &str) -> (HeaderName, HeaderValue) {
        let text = format!("Bearer realm={}{more}", quoted(&self.0));
        let value = HeaderValue::try_from(text);
        (WWW_AUTHENTICATE, value.unwrap_or_else(|_| HeaderValue::from_static("Bearer")))
    }
}

/// RFC 6750 §3.1.
fn wanting(refused: &Refused) -> String {
    match refused {
        Refused::Lacks { scope: Some(scope), .. } => {
            format!(", error=\"insufficient_scope\", scope={}", quoted(scope))
        }
        _ => ", error=\"insufficient_scope\"".to_owned(),
    }
}

/// A quoted-string (RFC 9110 §5.6.4).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Seconds after which a client may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(u64);

impl RetryAfter {
    /// 1 to 5 by chance, so that those who were refused together do not return together. Any
    /// random number will do.
    pub fn by_chance(random: u8) -> RetryAfter {
        RetryAfter(1 + u64::from(random % 5))
    }

    /// A true one: waiting that long gets in.
    pub fn after(wait: Duration) -> RetryAfter {
        RetryAfter(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }
}

/// Whose rate or cap was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    Client,
    All,
}

/// How a handshake ended: the one word of its log line and of its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    NoRoute,
    NotUpgrade,
    Malformed,
    Timeout,
    TooLarge,
    Network,
    Origin,
    TokenMissing,
    TokenInvalid,
    TokenScope,
    KeysUnavailable,
    Rate(Of),
    Cap(Of),
    /// An operator has sent the subject away.
    Kicked,
    /// The authorizer refused.
    Unauthorized,
    /// The authorizer did not answer, or in no way that could be understood.
    NoVerdict,
    Draining,
    NoEndpoint,
    DialFailed,
    UpstreamInvalid,
    UpstreamTimeout,
    /// The upstream's own answer, which is not a 101, went to the client.
    UpstreamRefused,
    ClientGone,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::NoRoute => "no_route",
            Outcome::NotUpgrade => "not_upgrade",
            Outcome::Malformed => "malformed",
            Outcome::Timeout => "timeout",
            Outcome::TooLarge => "too_large",
            Outcome::Network => "network",
            Outcome::Origin => "origin",
            Outcome::TokenMissing => "token_missing",
            Outcome::TokenInvalid => "token_invalid",
            Outcome::TokenScope => "token_scope",
            Outcome::KeysUnavailable => "keys_unavailable",
            Outcome::Rate(_) => "rate",
            Outcome::Cap(_) => "cap",
            Outcome::Kicked => "kicked",
            Outcome::Unauthorized | Outcome::NoVerdict => "authorize",
            Outcome::Draining => "draining",
            Outcome::NoEndpoint => "no_endpoint",
            Outcome::DialFailed => "dial_failed",
            Outcome::UpstreamInvalid => "upstream_invalid",
            Outcome::UpstreamTimeout => "upstream_timeout",
            Outcome::UpstreamRefused => "upstream_refused",
            Outcome::ClientGone => "client_gone",
        }
    }

    /// Whose doing it was; nobody's when all went well.
    pub fn by(self) -> Option<Blame> {
        match self {
            Outcome::Ok => None,
            Outcome::NoRoute
            | Outcome::NotUpgrade
            | Outcome::Malformed
            | Outcome::Timeout
            | Outcome::TooLarge
            | Outcome::Network
            | Outcome::Origin
            | Outcome::TokenMissing
            | Outcome::TokenInvalid
            | Outcome::TokenScope
            | Outcome::Rate(Of::Client)
            | Outcome::Cap(Of::Client)
            | Outcome::Unauthorized
            | Outcome::ClientGone => Some(Blame::Client),
            Outcome::NoEndpoint
            | Outcome::DialFailed
            | Outcome::UpstreamInvalid
            | Outcome::UpstreamTimeout
            | Outcome::UpstreamRefused => Some(Blame::Upstream),
            Outcome::NoVerdict
            | Outcome::KeysUnavailable
            | Outcome::Kicked
            | Outcome::Draining
            | Outcome::Rate(Of::All)
            | Outcome::Cap(Of::All) => Some(Blame::Edge),
        }
    }

    /// The level of its log line. A drain or a kick is the edge's doing, but an order and no
    /// failure; a bound on all clients that is met, an authorizer that fails or an issuer without keys is a
    /// warning.
    pub fn level(self) -> Level {
        match (self, self.by()) {
            (_, None) => Level::DEBUG,
            (Outcome::Draining | Outcome::Kicked, _) => Level::INFO,
            (Outcome::NoVerdict | Outcome::KeysUnavailable, _)
            | (Outcome::Rate(Of::All) | Outcome::Cap(Of::All), _) => Level::WARN,
            (_, Some(Blame::Client)) => Level::INFO,
            (_, Some(Blame::Upstream)) => Level::WARN,
            (_, Some(Blame::Edge)) => Level::ERROR,
        }
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::extensions::ExtensionFault;
    use crate::ws::handshake::Malformed;

    const INSIDE: &str = "10.0.0.7:9001 refused";

    fn every() -> Vec<(Rejection, u16, &'static str, Blame)> {
        let soon = RetryAfter::by_chance(0);
        vec![
            (Rejection::NoRoute, 404, "no_route", Blame::Client),
            (Rejection::NotUpgrade(Http::One), 426, "not_upgrade", Blame::Client),
            (Rejection::NotUpgrade(Http::Two), 404, "not_upgrade", Blame::Client),
            (Rejection::WrongVersion(Http::One), 426, "not_upgrade", Blame::Client),
            (Rejection::WrongVersion(Http::Two), 400, "not_upgrade", Blame::Client),
            (Rejection::Malformed("The key is bad.".into()), 400, "malformed", Blame::Client),
            (Rejection::TargetTooLong, 414, "too_large", Blame::Client),
            (Rejection::HeadTimeout, 408, "timeout", Blame::Client),
            (Rejection::BodyTimeout, 408, "timeout", Blame::Client),
            (Rejection::NoToken(realm()), 401, "token_missing", Blame::Client),
            (Rejection::BadToken(realm(), EXPIRED), 401, "token_invalid", Blame::Client),
            (Rejection::TokenLacks(realm(), EXPIRED), 403, "token_scope", Blame::Client),
            (Rejection::NoKeys(Refused::NoKeys, soon), 503, "keys_unavailable", Blame::Edge),
            (Rejection::Unauthorized(refusal(401)), 401, "authorize", Blame::Client),
            (Rejection::Unauthorized(refusal(403)), 403, "authorize", Blame::Client),
            (Rejection::NoVerdict(INSIDE.into(), soon), 503, "authorize", Blame::Edge),
            (Rejection::Draining(soon), 503, "draining", Blame::Edge),
            (Rejection::NoEndpoint(soon), 503, "no_endpoint", Blame::Upstream),
            (Rejection::DialFailed(INSIDE.into()), 502, "dial_failed", Blame::Upstream),
            (Rejection::UpstreamInvalid(INSIDE.into()), 502, "upstream_invalid", Blame::Upstream),
            (Rejection::UpstreamTimeout, 504, "upstream_timeout", Blame::Upstream),
            (Rejection::ClientGone, 400, "client_gone", Blame::Client),
        ]
    }

    #[test]
    fn each_refusal_has_its_status_its_word_and_its_culprit() {
        for (rejection, status, outcome, by) in every() {
            assert_eq!(rejection.status().as_u16(), status, "{rejection:?}");
            assert_eq!(rejection.outcome().as_str(), outcome, "{rejection:?}");
            assert_eq!(rejection.outcome().by(), Some(by), "{rejection:?}");
            let level = match by {
                _ if matches!(rejection, Rejection::NoVerdict(..) | Rejection::NoKeys(..)) => {
                    Level::WARN
                }
                Blame::Upstream => Level::WARN,
                Blame::Client | Blame::Edge => Level::INFO,
            };
            assert_eq!(rejection.outcome().level(), level, "{rejection:?}");
        }
    }

    #[test]
    fn the_body_is_a_problem_document_that_tells_nothing_of_the_inside() {
        for (rejection, status, ..) in every() {
            let response = rejection.response("id-\"1\"");
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["type"], "about:blank");
            assert_eq!(body["status"], status);
            assert_eq!(body["title"], rejection.status().canonical_reason().unwrap());
            assert_eq!(body["request_id"], "id-\"1\"");
            assert!(!body["detail"].as_str().unwrap().contains("10.0"), "{body}");
            assert_eq!(body.as_object().unwrap().len(), 5);
        }
        let log = Rejection::DialFailed(INSIDE.into()).to_string();
        assert!(log.contains(INSIDE));
    }

    #[test]
    fn a_426_names_the_protocol_and_its_version() {
        for rejection in [Http::One]
            .into_iter()
            .flat_map(|http| [Rejection::NotUpgrade(http), Rejection::WrongVersion(http)])
        {
            let response = rejection.response("1");
            assert_eq!(response.headers()[UPGRADE], "websocket");
            assert_eq!(response.headers()[CONNECTION], "upgrade");
            assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
        }
    }

    fn refusal(status: u16) -> Refusal {
        let challenges = ["Basic", "Bearer"].map(HeaderValue::from_static).to_vec();
        Refusal { status: StatusCode::from_u16(status).unwrap(), challenges }
    }

    const EXPIRED: Refused = Refused::Invalid(Invalid::Expired(Duration::from_secs(60)));

    fn realm() -> Realm {
        Realm("a \"route\" \\ ü".into())
    }

    #[test]
    fn a_401_asks_for_a_token_of_its_route() {
        let challenge = |rejection: Rejection| {
            let response = rejection.response("1");
            String::from_utf8(response.headers()[WWW_AUTHENTICATE].as_bytes().to_vec()).unwrap()
        };
        let asks = r#"Bearer realm="a \"route\" \\ ü""#;
        assert_eq!(challenge(Rejection::NoToken(realm())), asks);
        let told = challenge(Rejection::BadToken(realm(), EXPIRED));
        assert_eq!(told, format!("{asks}, error=\"invalid_token\""));
    }

    #[test]
    fn the_challenges_of_an_authorizer_are_passed_on() {
        let response = Rejection::Unauthorized(refusal(401)).response("1");
        let challenges: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(challenges, ["Basic", "Bearer"]);
    }

    #[test]
    fn of_refusals_told_by_a_close_only_a_401_has_a_code_of_the_routes_own() {
        let own = CloseCode::from(4100);
        let code = |rejection: Rejection| rejection.close_code(own).map(u16::from);
        assert_eq!(code(Rejection::Unauthorized(refusal(401))), Some(4100));
        assert_eq!(code(Rejection::Unauthorized(refusal(403))), Some(4403));
        let soon = RetryAfter::by_chance(0);
        assert_eq!(code(Rejection::NoVerdict(String::new(), soon)), Some(4503));
        assert_eq!(code(Rejection::ClientRate(soon)), None);
        assert_eq!(code(Rejection::NotUpgrade(Http::One)), None);
    }

    #[test]
    fn a_late_head_is_answered_and_closed() {
        assert_eq!(Rejection::HeadTimeout.response("1").headers()[CONNECTION], "close");
    }

    #[test]
    fn the_refused_come_back_after_1_to_5_seconds() {
        for random in 0..=u8::MAX {
            let seconds = RetryAfter::by_chance(random);
            assert!((1..=5).contains(&seconds.0));
            for rejection in [Rejection::Draining(seconds), Rejection::NoEndpoint(seconds)] {
                let response = rejection.response("1");
                assert_eq!(response.headers()[RETRY_AFTER], seconds.0.to_string().as_str());
            }
        }
    }

    #[test]
    fn faults_of_either_handshake_become_refusals() {
        for http in [Http::One, Http::Two] {
            let of = |reason| Rejection::no_upgrade(reason, http);
            assert_eq!(of(NotUpgrade::PlainHttp), Rejection::NotUpgrade(http));
            assert_eq!(of(NotUpgrade::WrongVersion), Rejection::WrongVersion(http));
        }
        let malformed = NotUpgrade::Malformed(Malformed::Key);
        let body = Rejection::no_upgrade(malformed, Http::Two).response("1");
        let body: serde_json::Value = serde_json::from_slice(body.body()).unwrap();
        assert_eq!(body["detail"], "Sec-WebSocket-Key must be 16 bytes in base64.");
        let fault = AnswerFault::Extensions(ExtensionFault::NotOffered("mux".to_owned()));
        let text = Rejection::from(fault).to_string();
        assert_eq!(text, "the upstream answered wrongly: the extension mux was not offered");
    }
}

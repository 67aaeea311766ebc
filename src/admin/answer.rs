//! Answers: JSON, the dashboard, or what went wrong as a problem document (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::guard::{Refused, challenges};
use super::live::Events;
use super::route::Unasked;

/// Whole, or a stream of events.
pub type Answer = Response<Either<Full<Bytes>, Events>>;

pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("what is answered has text for keys");
    answer(status, "application/json", body)
}

pub fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    answer(status, kind, body.into_bytes())
}

/// A part of the dashboard: a page that loads from here alone, and that no other page holds.
pub fn page(kind: &'static str, body: &'static str) -> Answer {
    const FIELDS: [(&str, &str); 5] = [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    let mut answer = answer(StatusCode::OK, kind, body.into());
    for (name, value) in FIELDS {
        let name = HeaderName::from_static(name);
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

pub fn stream(events: Events) -> Answer {
    answered(StatusCode::OK, "text/event-stream", Either::Right(events))
}

pub fn problem(status: StatusCode, detail: &str) -> Answer {
    #[derive(Serialize)]
    struct Problem<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        title: &'a str,
        status: u16,
        detail: &'a str,
    }
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem { kind: "about:blank", title, status: status.as_u16(), detail };
    let body = serde_json::to_vec(&problem).expect("strings and a number are JSON");
    answer(status, "application/problem+json", body)
}

fn answer(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    answered(status, kind, Either::Left(body.into()))
}

fn answered(status: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Events>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// What somebody who may not is told. A script's own request gets no challenge that would have the
/// browser ask for a password.
pub fn refusal(refused: Refused, headers: &HeaderMap) -> Answer {
    let status = match refused {
        Refused::NoHost => StatusCode::BAD_REQUEST,
        Refused::ForeignHost | Refused::ForeignOrigin | Refused::ChangesAreOff => {
            StatusCode::FORBIDDEN
        }
        Refused::NoToken | Refused::WrongToken => StatusCode::UNAUTHORIZED,
    };
    let mut answer = problem(status, &refused.to_string());
    if status == StatusCode::UNAUTHORIZED {
        for challenge in challenges(headers) {
            answer.headers_mut().append(WWW_AUTHENTICATE, challenge);
        }
    }
    answer
}

impl From<Unasked> for Answer {
    fn from(unasked: Unasked) -> Answer {
        match unasked {
            Unasked::NotFound => problem(StatusCode::NOT_FOUND, "there is nothing at this path"),
            Unasked::Value(fault) => problem(StatusCode::BAD_REQUEST, &fault),
            Unasked::Method(allowed) => {
                let words = format!("this path knows {allowed} alone");
                let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &words);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                answer
            }
        }
    }
}

//! The route's policy, stage by stage, and whom it has to ask on the way.

use std::time::Instant;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, request};

use super::Worker;
use super::authorize::{Question, ask};
use super::headers::{Facts, question_headers};
use super::rejection::Rejection;
use crate::policy::{Admission, Applicant, Identity};
use crate::snapshot::Route;

/// What a request comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    WebSocket,
    /// Plain HTTP that only reads (RFC 9110 §9.2.1).
    Read,
    /// Plain HTTP that may change something.
    Change,
    /// A browser asks what a page may send. It sends nothing with it by which anybody is known.
    Preflight,
}

impl Purpose {
    /// That of a plain request.
    pub(super) fn of(parts: &request::Parts) -> Purpose {
        let has = |name| parts.headers.contains_key(name);
        let is_preflight = parts.method == Method::OPTIONS
            && has(header::ORIGIN)
            && has(header::ACCESS_CONTROL_REQUEST_METHOD);
        match parts.method.is_safe() {
            _ if is_preflight => Purpose::Preflight,
            true => Purpose::Read,
            false => Purpose::Change,
        }
    }
}

/// A request that was admitted, and what came of it on the way.
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// What the upstream is told of the client.
    pub(super) claims: Vec<(HeaderName, HeaderValue)>,
    /// What to ask again while it lives, where that is to be.
    pub(super) question: Option<Question>,
}

impl From<Admission> for Admitted {
    fn from(admission: Admission) -> Admitted {
        Admitted { admission, claims: Vec::new(), question: None }
    }
}

/// Admits a request to its route, or says why not.
pub(super) async fn admit(
    worker: &Worker,
    route: &Route,
    parts: &request::Parts,
    facts: &Facts<'_>,
    purpose: Purpose,
) -> Result<Admitted, Rejection> {
    let origins = parts.headers.get_all(header::ORIGIN);
    let origins: Vec<&[u8]> = origins.iter().map(HeaderValue::as_bytes).collect();
    let host = called_host(parts, facts).as_bytes();
    let only_reads = purpose == Purpose::Read;
    let client = facts.client.addr;
    let applicant = Applicant { client, origins: &origins, host, only_reads };
    let now = Instant::now();
    let denied = |denied| Rejection::denied(denied, rand::random());
    let entered = route.policy.enter(applicant, now).map_err(denied)?;
    if purpose == Purpose::Preflight {
        return Ok(Admitted::from(entered.anonymous()));
    }
    let identified = entered.identify(Identity::default(), now).map_err(denied)?;
    let Some(rules) = identified.authorizer() else {
        let admission = identified.admit(None, now).map_err(denied)?;
        return Ok(Admitted::from(admission));
    };
    let fields = question_headers(&parts.headers, facts, &parts.method, target(parts)?);
    let question = route.plan.recheck.map(|_| Question::new(&fields));
    let mut approval = ask(worker, route, rules, fields).await.map_err(denied)?;
    let claims = approval.take_fields();
    let admission = identified.admit(Some(approval), Instant::now()).map_err(denied)?;
    Ok(Admitted { admission, claims, question })
}

/// The target as it came, as a field may have it.
fn target(parts: &request::Parts) -> Result<HeaderValue, Rejection> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    HeaderValue::from_bytes(target.as_bytes())
        .map_err(|_| Rejection::Malformed("The target has a control character.".to_owned()))
}

/// The name by which the client called the proxy in front, if that one is trusted and tells it.
fn called_host<'a>(parts: &'a request::Parts, facts: &Facts<'a>) -> &'a HeaderValue {
    let told = parts.headers.get("x-forwarded-host").filter(|_| facts.client.trusted_hop);
    told.unwrap_or(facts.host)
}

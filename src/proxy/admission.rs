//! The route's policy, stage by stage, and whom it has to ask on the way.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, request};

use super::Worker;
use super::authorize::{Question, ask};
use super::headers::{Claims, Facts, question_headers};
use super::rejection::Rejection;
use super::token;
use crate::keyring::Ring;
use crate::policy::keys::KeySet;
use crate::policy::token::{Refused, TokenRule, Verified};
use crate::policy::{Admission, Applicant, Denied, Entered, Identity};
use crate::snapshot::Route;

/// What a request comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    WebSocket,
    /// Plain HTTP that only reads (RFC 9110 §9.2.1).
    Read,
    /// Plain HTTP that may change something.
    Change,
    /// A browser asks what a page may send. It sends nothing with it by which anybody is known,
    /// and no body.
    Preflight,
}

impl Purpose {
    /// That of a plain request.
    pub(super) fn of(parts: &request::Parts) -> Purpose {
        let has = |name| parts.headers.contains_key(name);
        let is_preflight = parts.method == Method::OPTIONS
            && has(header::ORIGIN)
            && has(header::ACCESS_CONTROL_REQUEST_METHOD)
            && !has(header::TRANSFER_ENCODING)
            && parts.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
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
    parts: &mut request::Parts,
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
    let denied = |denied| Rejection::denied(denied, &route.name, rand::random());
    let entered = route.policy.enter(applicant, now).map_err(denied)?;
    if purpose == Purpose::Preflight {
        if let Some(asked) = &route.token {
            // Whatever the route does with tokens, nobody verifies this one.
            token::strip(&asked.from, true, parts);
        }
        return Ok(Admitted::from(entered.anonymous()));
    }
    let (identity, claims) = match verified(&entered, route, parts).await.map_err(denied)? {
        Some(mut token) => {
            let claims = token.take_fields();
            (Identity::from(token), claims)
        }
        None => (Identity::default(), Vec::new()),
    };
    let identified = entered.identify(identity, Instant::now()).map_err(denied)?;
    let Some(rules) = identified.authorizer() else {
        let admission = identified.admit(None, now).map_err(denied)?;
        refuse_banned(worker, &admission)?;
        return Ok(Admitted { admission, claims, question: None });
    };
    let names = route.token.as_ref().map_or(&[][..], |asked| &asked.forwarded);
    let told = Claims { names, fields: &claims };
    let fields = question_headers(&parts.headers, facts, &parts.method, target(parts)?, told);
    let question = route.plan.recheck.map(|_| Question::new(&fields));
    let mut approval = ask(worker, route, rules, fields).await.map_err(denied)?;
    let claims = [claims, approval.take_fields()].concat();
    let admission = identified.admit(Some(approval), Instant::now()).map_err(denied)?;
    refuse_banned(worker, &admission)?;
    Ok(Admitted { admission, claims, question })
}

/// Refuses a subject that an operator has sent away for a time.
pub(super) fn refuse_banned(worker: &Worker, admission: &Admission) -> Result<(), Rejection> {
    let banned = |subject| worker.banned.holds(subject, Instant::now());
    match admission.subject().is_some_and(banned) {
        true => Err(Rejection::Kicked),
        false => Ok(()),
    }
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

/// What the request's token says, where the route asks for one and there is one. From then on the
/// request is without it, unless the route passes it on.
async fn verified(
    entered: &Entered<'_>,
    route: &Route,
    parts: &mut request::Parts,
) -> Result<Option<Verified>, Denied> {
    let (Some(rule), Some(asked)) = (entered.token_rule(), &route.token) else { return Ok(None) };
    let found = token::find(&asked.from, parts).map_err(|token::Twice| Denied::TwoTokens)?;
    let found = found.map(Cow::into_owned);
    token::strip(&asked.from, asked.strip, parts);
    let Some(token) = found else { return Ok(None) };
    judged(rule, &asked.keys, &token).await.map(Some).map_err(Denied::Token)
}

/// A token of an unknown key is judged once more when there may be newer keys.
async fn judged(rule: &TokenRule, ring: &Ring, token: &str) -> Result<Verified, Refused> {
    let judge = |keys: Option<Arc<KeySet>>| rule.judge(token, keys.as_deref(), SystemTime::now());
    match judge(ring.keys()) {
        Err(Refused::UnknownKey { .. }) => judge(ring.look_again().await),
        judged => judged,
    }
}

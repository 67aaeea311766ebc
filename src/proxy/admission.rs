//! The route's policy, stage by stage, and whom it has to ask on the way.

use std::time::Instant;

use http::header::{self, HeaderValue};
use http::request;

use super::attempt::Attempt;
use super::headers::ClientAddress;
use super::host_of;
use super::rejection::Rejection;
use crate::policy::{Admission, Applicant, Identity};
use crate::snapshot::Route;

/// Admits a request to its route, or says why not.
pub(super) fn admit(
    parts: &request::Parts,
    route: &Route,
    attempt: &Attempt,
) -> Result<Admission, Rejection> {
    let client = attempt.client();
    let host = called_host(parts, client)?;
    let origins = parts.headers.get_all(header::ORIGIN);
    let origins: Vec<&[u8]> = origins.iter().map(HeaderValue::as_bytes).collect();
    let applicant = Applicant { client: client.addr, origins: &origins, host: host.as_bytes() };
    let now = Instant::now();
    let denied = |denied| Rejection::denied(denied, rand::random());
    let entered = route.policy.enter(applicant, now).map_err(denied)?;
    let identified = entered.identify(Identity::default(), now).map_err(denied)?;
    Ok(identified.admit())
}

/// The name by which the client called the proxy in front, if that one is trusted and tells it.
fn called_host(parts: &request::Parts, client: ClientAddress) -> Result<HeaderValue, Rejection> {
    let told = parts.headers.get("x-forwarded-host").filter(|_| client.trusted_hop);
    told.cloned().map_or_else(|| host_of(parts), Ok)
}

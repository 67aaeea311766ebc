//! The trace that a request belongs to, by its `traceparent` (W3C Trace Context, level 1).
//!
//! It is passed on and logged whoever sent it, as nginx and Envoy do: it names a trace and claims
//! nothing more. Only what is well-formed and there once goes further; none is ever made up here.

use std::fmt;
use std::num::NonZeroU128;

use http::HeaderMap;
use http::header::HeaderName;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `version "-" trace-id "-" parent-id "-" trace-flags`, in hex digits of this many.
const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// What all spans of one trace have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// `None` where there is no `traceparent`, a malformed one, or more than one.
    pub fn of(headers: &HeaderMap) -> Option<TraceId> {
        let mut sent = headers.get_all(TRACEPARENT).into_iter();
        let only = sent.next().filter(|_| sent.next().is_none())?;
        TraceId::parse(only.as_bytes())
    }

    /// §3.2.2, and §3.2.4 for versions to come: what is longer goes on behind another dash.
    fn parse(text: &[u8]) -> Option<TraceId> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let mut part = |digits| parts.next().and_then(|part| hex(part, digits));
        let (version, id, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let ends = more.is_empty() || (version > 0 && more[0] == b'-');
        (version != 0xff && parent != 0 && ends).then(|| NonZeroU128::new(id).map(TraceId))?
    }
}

/// So many hex digits, in lower case as they must be.
fn hex(digits: &[u8], count: usize) -> Option<u128> {
    let fit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = digits.len() == count && digits.iter().all(fit);
    let text = std::str::from_utf8(digits).ok().filter(|_| fits)?;
    u128::from_str_radix(text, 16).ok()
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parsed(text: &str) -> Option<String> {
        TraceId::parse(text.as_bytes()).map(|id| id.to_string())
    }

    #[test]
    fn a_trace_is_read_of_this_version_and_those_to_come() {
        for text in [
            format!("00-{ID}-00f067aa0ba902b7-01"),
            format!("01-{ID}-00f067aa0ba902b7-00"),
            format!("cc-{ID}-00f067aa0ba902b7-01-what-the-future-brings"),
        ] {
            assert_eq!(parsed(&text).as_deref(), Some(ID), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_trace() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            "garbage".into(),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("cc-{ID}-00f067aa0ba902b7-01.more"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{ID}x00f067aa0ba902b7-01"),
            format!("+0-{ID}-00f067aa0ba902b7-01"),
            format!("00--{}-00f067aa0ba902b7-01", &ID[1..]),
        ] {
            assert_eq!(parsed(&text), None, "{text}");
        }
    }

    #[test]
    fn of_two_neither_counts() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from(format!("00-{ID}-00f067aa0ba902b7-01")).unwrap();
        headers.append(TRACEPARENT, value.clone());
        assert!(TraceId::of(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(TraceId::of(&headers), None);
    }
}

//! Which pages may connect. A browser sends the origin of its page (RFC 6454, RFC 6455 §10.2),
//! and cookies whoever wrote the page: so by default only a page of the very host it calls may.

use std::fmt;

use crate::config::{Origin, OriginPattern};

/// Bytes of an origin that a log shows.
const SHOWN: usize = 256;

/// An origin that may not come; it displays as the line of a log, with the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRefused {
    origin: Option<String>,
    host: String,
}

impl fmt::Display for OriginRefused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.origin {
            Some(origin) => write!(
                out,
                "origin {origin} may not connect to {host}; \
                 origin = {{ allow = [\"{origin}\"] }} would allow it"
            ),
            None => write!(
                out,
                "no single origin was sent to {host}; \
                 origin = {{ allow = [...], missing = \"allow\" }} would allow a request without"
            ),
        }
    }
}

/// Judges the `Origin` fields of a request that calls `host`.
pub(super) fn judge(rule: &Origin, origins: &[&[u8]], host: &[u8]) -> Result<(), OriginRefused> {
    let allowed = match (rule, origins) {
        (Origin::Any, _) | (Origin::Same, []) => true,
        (Origin::Listed { missing_allowed, .. }, []) => *missing_allowed,
        (Origin::Same, [origin]) => Sent::parse(origin).is_some_and(|sent| sent.is_of(host)),
        (Origin::Listed { allow, .. }, [origin]) => is_listed(allow, origin),
        (_, [_, _, ..]) => false,
    };
    if allowed {
        return Ok(());
    }
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    let origin = match origins {
        [origin] => Some(text(origin)),
        _ => None,
    };
    Err(OriginRefused { origin, host: text(host) })
}

fn is_listed(allow: &[OriginPattern], origin: &[u8]) -> bool {
    let sent = Sent::parse(origin);
    allow.iter().any(|pattern| match (pattern, &sent) {
        (OriginPattern::Null, _) => origin == b"null",
        (OriginPattern::Host { scheme, host, below, port }, Some(sent)) => {
            sent.scheme == *scheme && sent.port == *port && sent.is_host(host, *below)
        }
        (OriginPattern::Host { .. }, None) => false,
    })
}

/// An origin as a browser serialises it (RFC 6454 §6.2): scheme, host, and the port unless it is
/// the scheme's own.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    scheme: String,
    host: String,
    /// `None`: the scheme has no port of its own, and none was sent.
    port: Option<u16>,
}

impl Sent {
    fn parse(origin: &[u8]) -> Option<Sent> {
        let text = std::str::from_utf8(origin).ok()?.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        let port = port.or(default_port(scheme));
        Some(Sent { scheme: scheme.to_owned(), host: host.to_owned(), port })
    }

    /// Whether the page is of the host that is called; a port left out is that of the origin's
    /// scheme, on both sides.
    fn is_of(&self, called: &[u8]) -> bool {
        let Ok(called) = std::str::from_utf8(called) else { return false };
        let called = called.to_ascii_lowercase();
        let Some((host, port)) = split_port(&called) else { return false };
        host.trim_end_matches('.') == self.host.trim_end_matches('.')
            && port.or(default_port(&self.scheme)) == self.port
    }

    fn is_host(&self, host: &str, below: bool) -> bool {
        if !below {
            return self.host == host;
        }
        let labels = self.host.strip_suffix(host).and_then(|rest| rest.strip_suffix('.'));
        labels.is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()))
    }
}

/// Host and port of an authority that has nothing else.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    if authority.bytes().any(|byte| matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b' ')) {
        return None;
    }
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[after_host..].rfind(':') {
        None => (authority, None),
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            (host, Some(port[1..].parse().ok()?))
        }
    };
    (!host.is_empty()).then_some((host, port))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(rule: &Origin, origins: &[&str], host: &str) -> bool {
        let origins: Vec<&[u8]> = origins.iter().map(|origin| origin.as_bytes()).collect();
        judge(rule, &origins, host.as_bytes()).is_ok()
    }

    #[test]
    fn by_default_a_page_may_call_only_its_own_host_and_port() {
        let table: &[(&[&str], &str, bool)] = &[
            (&[], "example.com", true),
            (&["https://example.com"], "example.com", true),
            (&["https://example.com"], "example.com:443", true),
            (&["https://example.com:443"], "example.com", true),
            (&["http://example.com"], "example.com", true),
            (&["https://EXAMPLE.com"], "Example.COM", true),
            (&["https://example.com:8443"], "example.com:8443", true),
            (&["https://[::1]:8443"], "[::1]:8443", true),
            (&["https://example.com:8443"], "example.com", false),
            (&["https://example.com"], "example.com:8443", false),
            (&["http://example.com"], "example.com:443", false),
            (&["https://example.com.evil.example"], "example.com", false),
            (&["https://evil.example"], "example.com", false),
            (&["https://sub.example.com"], "example.com", false),
            (&["null"], "example.com", false),
            (&[""], "example.com", false),
            (&["example.com"], "example.com", false),
            (&["https://example.com/"], "example.com", false),
            (&["https://user@example.com"], "example.com", false),
            (&["https://example.com", "https://example.com"], "example.com", false),
        ];
        for (origins, host, allowed) in table {
            assert_eq!(judged(&Origin::Same, origins, host), *allowed, "{origins:?} to {host}");
        }
    }

    fn listed() -> Origin {
        let host = |host: &str, below, port| OriginPattern::Host {
            scheme: "https".into(),
            host: host.into(),
            below,
            port: Some(port),
        };
        let allow = vec![
            host("app.example.com", false, 443),
            host("example.net", true, 443),
            host("example.org", false, 8443),
        ];
        Origin::Listed { allow, missing_allowed: false }
    }

    #[test]
    fn a_list_is_taken_at_its_word() {
        let table: &[(&[&str], bool)] = &[
            (&["https://app.example.com"], true),
            (&["https://APP.example.com"], true),
            (&["https://app.example.com:443"], true),
            (&["https://a.example.net"], true),
            (&["https://a.b.example.net"], true),
            (&["https://example.org:8443"], true),
            (&[], false),
            (&["http://app.example.com"], false),
            (&["https://app.example.com:8443"], false),
            (&["https://app.example.com.evil.example"], false),
            (&["https://evilapp.example.com"], false),
            (&["https://example.net"], false),
            (&["https://.example.net"], false),
            (&["https://evilexample.net"], false),
            (&["https://example.org"], false),
            (&["null"], false),
            (&["https://app.example.com", "https://app.example.com"], false),
        ];
        for (origins, allowed) in table {
            assert_eq!(judged(&listed(), origins, "edge"), *allowed, "{origins:?}");
        }
    }

    #[test]
    fn null_and_a_missing_origin_come_only_when_listed() {
        let rule = Origin::Listed { allow: vec![OriginPattern::Null], missing_allowed: true };
        assert!(judged(&rule, &["null"], "edge") && judged(&rule, &[], "edge"));
        assert!(!judged(&rule, &["https://example.com"], "edge"));
    }

    #[test]
    fn a_refusal_tells_both_and_the_mend() {
        let refused = judge(&Origin::Same, &[b"https://a.example"], b"b.example").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "origin https://a.example may not connect to b.example; \
             origin = { allow = [\"https://a.example\"] } would allow it"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(origin in prop::collection::vec(any::<u8>(), 0..60), host in prop::collection::vec(any::<u8>(), 0..60)) {
            for rule in [Origin::Same, Origin::Any, listed()] {
                let _ = judge(&rule, &[&origin], &host);
            }
        }
    }
}

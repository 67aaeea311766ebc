//! Values that are URLs: the services that the edge asks.

use http::Uri;

use super::names::{is_host, port_number};
use super::reader::{Complaint, Text};

/// The URL of a service: `http` or `https`, a host, a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url(pub Uri);

impl Text for Url {
    const NAME: &'static str = "a URL";
    const EXAMPLE: &'static str = "http://127.0.0.1:7000/auth";

    fn parse(text: &str) -> Result<Url, Complaint> {
        let help = "write a scheme, a host and a path, such as \"http://127.0.0.1:7000/auth\"";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Complaint::malformed("it does not begin with http:// or https://", help));
        };
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Complaint::malformed("its scheme is neither http nor https", help));
        }
        if let Some(label) = fault_of_rest(rest) {
            return Err(Complaint::malformed(label, help));
        }
        text.parse().map(Url).map_err(|_| {
            Complaint::malformed("it has a character that a URL can only have encoded", help)
        })
    }
}

/// What is wrong behind the scheme.
fn fault_of_rest(rest: &str) -> Option<&'static str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    match port.map(port_number) {
        _ if rest.contains('#') => Some("a fragment goes to no server"),
        _ if authority.contains('@') => Some("a name or password here would stand in logs"),
        Some(None | Some(0)) => Some("its port is not a number from 1 to 65535"),
        _ if !is_host(host) => Some("its host is neither a name nor an IP address"),
        _ if !rest.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("it has a character that a URL can only have encoded")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let good = [
            "http://127.0.0.1:7000/auth",
            "https://auth.internal",
            "HTTPS://Auth.Internal/?a=b",
            "http://[::1]:7000/a/b%20c",
        ];
        for text in good {
            assert!(Url::parse(text).is_ok(), "{text}");
        }
        let bad = [
            "",
            "auth.internal/auth",
            "unix:/run/auth.sock",
            "ftp://auth.internal/",
            "http://",
            "http:///auth",
            "http://a:b@auth.internal/",
            "http://auth.internal:0/",
            "http://auth.internal:70000/",
            "http://auth.internal:/",
            "http://::1/",
            "http://auth.internal/#a",
            "http://auth.internal/a b",
            "http://auth.internal/ü",
        ];
        for text in bad {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}

//! Which pages may connect, as a file says it: `"any"`, or a list of origins.
//!
//! An origin is kept in the form in which a browser sends it, so that the handshake compares texts.

use std::net::Ipv6Addr;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::OriginPattern;
use super::diagnostics::Diagnostic;
use super::file::ListedOrigins;
use super::names::{is_host, is_host_name, port_number};
use super::reader::{Complaint, Faults, Node, Read, Text, wrong_type};

/// `origin = "any"`, or a table.
#[derive(Debug)]
pub(super) enum StatedOrigin {
    Any,
    Listed(ListedOrigins),
}

impl Read for StatedOrigin {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<StatedOrigin> {
        let listed = "write { allow = [\"https://app.example.com\"] }, or \"any\" for all pages";
        match node.get_ref() {
            DeValue::Table(_) => ListedOrigins::read(node, faults).map(StatedOrigin::Listed),
            DeValue::String(text) if text == "any" => Some(StatedOrigin::Any),
            DeValue::String(text) => {
                let help = match OriginPattern::parse(text) {
                    Ok(_) => format!("write origin = {{ allow = [{text:?}] }}"),
                    Err(_) if text == "*" => "write origin = \"any\"".to_owned(),
                    Err(_) => listed.to_owned(),
                };
                let message = format!("{text:?} is neither \"any\" nor a table");
                let fault = Diagnostic::fault(node.span(), message);
                faults.push(fault.label("a text here can only be \"any\"").help(help));
                None
            }
            _ => {
                faults.push(wrong_type(node, "\"any\" or a table", listed));
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "any" }, ListedOrigins::schema()] })
    }
}

const ORIGIN_HELP: &str = "write \"https://app.example.com\" or \"https://*.example.com\"";

/// `scheme://host`, `scheme://host:port` (RFC 6454 §6.2), `*.` before a name, or `null`.
impl Text for OriginPattern {
    const NAME: &'static str = "an origin";
    const EXAMPLE: &'static str = "https://app.example.com";

    fn parse(text: &str) -> Result<OriginPattern, Complaint> {
        match text {
            "null" => return Ok(OriginPattern::Null),
            "*" | "any" => {
                let help = "write origin = \"any\" in place of the whole table";
                return Err(Complaint::malformed("this list names pages one by one", help));
            }
            _ => {}
        }
        let lower = text.to_ascii_lowercase();
        let Some((scheme, authority)) = lower.split_once("://") else {
            return Err(Complaint::malformed("its scheme is missing", with_scheme(&lower)));
        };
        if !is_scheme(scheme) {
            return Err(Complaint::malformed("its scheme cannot be", ORIGIN_HELP));
        }
        let (authority, path) =
            authority.split_at(authority.find(['/', '?', '#']).unwrap_or(authority.len()));
        if authority.contains('@') {
            let help = "take out what stands before the @";
            return Err(Complaint::malformed("an origin has no user", help));
        }
        let (host, below, port) = origin_authority(authority)?;
        if !path.is_empty() {
            let help = format!("write {:?}", format!("{scheme}://{authority}"));
            return Err(Complaint::malformed("an origin has no path", help));
        }
        let port = port.or(default_port(scheme));
        Ok(OriginPattern::Host { scheme: scheme.to_owned(), host, below, port })
    }
}

/// What was probably meant by an origin without a scheme.
fn with_scheme(text: &str) -> String {
    match origin_authority(text) {
        Ok(_) => format!("write {:?}", format!("https://{text}")),
        Err(_) => ORIGIN_HELP.to_owned(),
    }
}

/// RFC 3986 §3.1, in lower case.
fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(rest)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// The host as a browser writes it, without its `*.`; whether it had one; its port.
fn origin_authority(text: &str) -> Result<(String, bool, Option<u16>), Complaint> {
    if text.parse::<Ipv6Addr>().is_ok() {
        let help = format!("write it in brackets: \"[{text}]\"");
        return Err(Complaint::malformed("an IPv6 address stands in brackets", help));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port.map(port_number) {
        Some(None | Some(0)) => {
            let help = "write a port from 1 to 65535, or none for the scheme's own";
            return Err(Complaint::malformed("its port cannot be", help));
        }
        port => port.flatten(),
    };
    let (name, below) = match host.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (host, false),
    };
    if name.contains('*') {
        let help = "a star stands only first and for whole labels: \"https://*.example.com\"";
        return Err(Complaint::malformed("a star cannot stand there", help));
    }
    match origin_host(name).filter(|_| !below || is_host_name(name)) {
        Some(host) => Ok((host, below, port)),
        None if host.is_empty() => Err(Complaint::malformed("its host is missing", ORIGIN_HELP)),
        None => {
            let help = format!("{ORIGIN_HELP}; other alphabets as punycode, no dot at the end");
            Err(Complaint::malformed("its host is neither a name nor an address", help))
        }
    }
}

/// A browser writes an IPv6 address in its shortest form, without dots (WHATWG URL §3.5).
fn origin_host(name: &str) -> Option<String> {
    let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return (is_host(name) && !name.ends_with('.')).then(|| name.to_owned());
    };
    let address: Ipv6Addr = address.parse().ok()?;
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("[::ffff:{high:x}:{low:x}]"),
        _ => format!("[{address}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Option<(String, String, bool, Option<u16>)> {
        match OriginPattern::parse(text).ok()? {
            OriginPattern::Null => None,
            OriginPattern::Host { scheme, host, below, port } => Some((scheme, host, below, port)),
        }
    }

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let table = [
            ("https://app.example.com", "https", "app.example.com", false, 443),
            ("HTTPS://App.Example.COM", "https", "app.example.com", false, 443),
            ("http://localhost", "http", "localhost", false, 80),
            ("http://localhost:3000", "http", "localhost", false, 3000),
            ("https://*.example.com:8443", "https", "example.com", true, 8443),
            ("ws://example.com", "ws", "example.com", false, 80),
            ("wss://example.com", "wss", "example.com", false, 443),
            ("https://127.0.0.1", "https", "127.0.0.1", false, 443),
            ("https://[::1]", "https", "[::1]", false, 443),
            ("https://[0:0:0:0:0:0:0:A]:8443", "https", "[::a]", false, 8443),
            ("https://[::ffff:127.0.0.1]", "https", "[::ffff:7f00:1]", false, 443),
            ("capacitor://localhost:1", "capacitor", "localhost", false, 1),
        ];
        for (text, scheme, host, below, port) in table {
            let wanted = Some((scheme.to_owned(), host.to_owned(), below, Some(port)));
            assert_eq!(origin(text), wanted, "{text}");
        }
        let app = Some(("capacitor".to_owned(), "localhost".to_owned(), false, None));
        assert_eq!(origin("capacitor://localhost"), app, "a scheme without a port of its own");
        assert_eq!(OriginPattern::parse("null"), Ok(OriginPattern::Null));
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for bad in [
            "",
            "*",
            "any",
            "Null",
            "app.example.com",
            "//app.example.com",
            "://app.example.com",
            "*://app.example.com",
            "https://",
            "https://:443",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?query",
            "https://app.example.com#fragment",
            "https://user@app.example.com",
            "https://app.example.com:",
            "https://app.example.com:0",
            "https://app.example.com:+1",
            "https://app.example.com:65536",
            "https://app.example.com.",
            "https://app..example.com",
            "https://*",
            "https://*.",
            "https://*.*.example.com",
            "https://app.*.com",
            "https://*example.com",
            "https://*.127.0.0.1",
            "https://*.[::1]",
            "https://::1",
            "https://[::1",
            "https://[example.com]",
            "https://b\u{fc}cher.example",
            "https://a b",
            "https://a\\b",
            "https:/app.example.com",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}

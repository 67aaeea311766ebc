//! Values that are names: words to choose from, addresses, hosts, paths, headers, files.
//!
//! Each refuses what could never work where it is used, and says what would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::DeValue;

use super::quantities::Count;
use super::reader::{Complaint, Faults, Node, Read, Text, choice, refuse_twins, wrong_type};
use super::{Compression, EndpointAddress, LogFormat, OnRemoved, PlainHttp, Reject, Utf8};
use crate::plan::{Action, OnExpiry, Payer};
use crate::route::{HostPattern, HostPatternFault, PathPattern, PathPatternFault};

// ---- words ----

/// An enum whose values a file writes as words.
macro_rules! words {
    ($type:ty, $name:literal, [$(($word:literal, $value:expr)),* $(,)?]) => {
        impl Text for $type {
            const NAME: &'static str = $name;
            const EXAMPLE: &'static str = [$($word),*][0];

            fn parse(text: &str) -> Result<$type, Complaint> {
                choice(text, &[$(($word, $value)),*])
            }

            fn schema() -> Json {
                json!({ "enum": [$($word),*] })
            }
        }
    };
}

pub(super) use words;

words!(LogFormat, "a log format", [("json", LogFormat::Json), ("text", LogFormat::Text)]);
words!(
    tracing::Level,
    "a log level",
    [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ]
);
words!(
    Compression,
    "a compression mode",
    [("pass", Compression::Pass), ("strip", Compression::Strip)]
);
words!(Utf8, "a UTF-8 mode", [("pass", Utf8::Pass), ("check", Utf8::Check)]);
words!(
    PlainHttp,
    "a plain HTTP mode",
    [("reject", PlainHttp::Reject), ("proxy", PlainHttp::Proxy)]
);

/// Where a route without an upstream sends its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Https,
}

words!(Redirect, "a redirect", [("https", Redirect::Https)]);

/// Whether a client must show a certificate, or is only asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientCertificate {
    Require,
    Request,
}

words!(
    ClientCertificate,
    "a client certificate mode",
    [("require", ClientCertificate::Require), ("request", ClientCertificate::Request)]
);

words!(OnRemoved, "a fate of sockets", [("close", OnRemoved::Close), ("keep", OnRemoved::Keep)]);

words!(Reject, "a way to refuse", [("status", Reject::Status), ("close", Reject::Close)]);

words!(
    Payer,
    "a holder of a rate",
    [("connection", Payer::Connection), ("subject", Payer::Subject)]
);

words!(
    OnExpiry,
    "what becomes of an expired token's connection",
    [("close", OnExpiry::Close), ("keep", OnExpiry::Keep)]
);

words!(
    Action,
    "an action",
    [("close", Action::Close), ("throttle", Action::Throttle), ("drop", Action::Drop)]
);

/// What becomes of a client over its byte rate: part of a message cannot be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteAction(pub Action);

impl Text for ByteAction {
    const NAME: &'static str = "an action on bytes";
    const EXAMPLE: &'static str = "throttle";

    fn parse(text: &str) -> Result<ByteAction, Complaint> {
        if text == "drop" {
            let label = "a message that lacks some of its bytes is broken";
            let help = "write \"throttle\" or \"close\", or drop whole messages by `messages`";
            return Err(Complaint::unfit("does not go with bytes", label, help));
        }
        let words = [("throttle", Action::Throttle), ("close", Action::Close)];
        choice(text, &words).map(ByteAction)
    }

    fn schema() -> Json {
        json!({ "enum": ["throttle", "close"] })
    }
}

/// Whether a request without an Origin may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingOrigin {
    Reject,
    Allow,
}

words!(
    MissingOrigin,
    "a way to judge a missing Origin",
    [("reject", MissingOrigin::Reject), ("allow", MissingOrigin::Allow)]
);

/// The name of a route or an upstream, which stands in logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub String);

impl Text for Name {
    const NAME: &'static str = "a name";
    const EXAMPLE: &'static str = "chat";

    fn parse(text: &str) -> Result<Name, Complaint> {
        const LONGEST: usize = 128;
        let label = match text {
            "" => "it is empty",
            "-" => "a dash alone stands for no route in logs and metrics",
            _ if text.len() > LONGEST => "it is too long",
            _ if text.contains(char::is_control) => "it has a control character",
            _ => return Ok(Name(text.to_owned())),
        };
        Err(Complaint::malformed(
            label,
            format!("write one to {LONGEST} letters, such as \"chat\""),
        ))
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": 128, "examples": [Self::EXAMPLE] })
    }
}

/// A file's name, as it is written: relative to the folder of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName(pub PathBuf);

impl Text for FileName {
    const NAME: &'static str = "a file name";
    const EXAMPLE: &'static str = "file.pem";

    fn parse(text: &str) -> Result<FileName, Complaint> {
        if text.is_empty() || text.contains('\0') {
            let help = "write a path; a relative one begins at the folder of this file";
            return Err(Complaint::malformed("no file can have this name", help));
        }
        Ok(FileName(text.into()))
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "examples": [Self::EXAMPLE] })
    }
}

/// A subprotocol: a token of RFC 6455 §4.1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subprotocol(pub String);

impl Text for Subprotocol {
    const NAME: &'static str = "a subprotocol";
    const EXAMPLE: &'static str = "graphql-transport-ws";

    fn parse(text: &str) -> Result<Subprotocol, Complaint> {
        if !is_token(text) {
            let help = "write one name an entry, without spaces, commas or quotes";
            return Err(Complaint::malformed(
                "it has a character that no subprotocol may have",
                help,
            ));
        }
        Ok(Subprotocol(text.to_owned()))
    }
}

/// One or more characters of RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fits)
}

// ---- addresses ----

/// A network, or one address as the network of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(pub IpNet);

impl Text for Network {
    const NAME: &'static str = "a network";
    const EXAMPLE: &'static str = "10.0.0.0/8";

    fn parse(text: &str) -> Result<Network, Complaint> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => Ok(Network(network.trunc())),
            Err(_) => Err(Complaint::malformed(
                "neither an address nor a network",
                "write an address and a prefix length, such as \"10.0.0.0/8\" or \"fd00::/8\"",
            )),
        }
    }
}

/// Where a listener listens; port 0 lets the kernel choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenAddress(pub SocketAddr);

impl Text for ListenAddress {
    const NAME: &'static str = "an address to listen on";
    const EXAMPLE: &'static str = "0.0.0.0:8443";

    fn parse(text: &str) -> Result<ListenAddress, Complaint> {
        text.parse()
            .map(ListenAddress)
            .map_err(|_| Complaint::malformed(address_fault(text), address_help(text)))
    }
}

/// What was probably meant, with the port that stands there if it is one.
fn address_help(text: &str) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port = port_number(port).unwrap_or(8443);
    match host {
        "" | "*" => format!("for all addresses write \"0.0.0.0:{port}\" or \"[::]:{port}\""),
        "localhost" => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        _ => format!("write an IP address and a port, such as \"0.0.0.0:{port}\""),
    }
}

/// Which half of an `address:port` is wrong.
fn address_fault(text: &str) -> &'static str {
    if text.parse::<IpAddr>().is_ok() {
        return "its port is missing";
    }
    match text.rsplit_once(':') {
        None => "its port is missing",
        Some(("", _)) => "its IP address is missing",
        Some((_, port)) if port.parse::<u16>().is_err() => "its port is not a number up to 65535",
        Some(_) => "its first part is not an IP address",
    }
}

/// `ip:port`, `[v6]:port`, `name:port` or `unix:/path`.
impl Text for EndpointAddress {
    const NAME: &'static str = "an endpoint's address";
    const EXAMPLE: &'static str = "127.0.0.1:9001";

    fn parse(text: &str) -> Result<EndpointAddress, Complaint> {
        let help =
            "write \"127.0.0.1:9001\", \"[::1]:9001\", \"name:9001\" or \"unix:/run/app.sock\"";
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(EndpointAddress::Unix);
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            let help = format!("write the address alone, without a scheme or path: {host:?}");
            return Err(Complaint::malformed("this is a URL", help));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            refuse_port_zero(address.port())?;
            return Ok(EndpointAddress::Ip(address));
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            let help = format!("write it in brackets with its port: \"[{address}]:9001\"");
            return Err(Complaint::malformed("its port is missing", help));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Complaint::malformed("its port is missing", help));
        };
        let Some(port) = port_number(port) else {
            return Err(Complaint::malformed("its port is not a number up to 65535", help));
        };
        refuse_port_zero(port)?;
        if !is_host_name(host) {
            return Err(Complaint::malformed("its host is neither an IP address nor a name", help));
        }
        Ok(EndpointAddress::Name { host: host.to_ascii_lowercase(), port })
    }
}

fn refuse_port_zero(port: u16) -> Result<(), Complaint> {
    if port == 0 {
        return Err(Complaint::unfit(
            "cannot be reached",
            "nothing listens on port 0",
            "write the port it listens on",
        ));
    }
    Ok(())
}

/// Digits only: the standard library takes `+80` too.
pub(super) fn port_number(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The path of a unix socket: absolute, and short enough for the kernel (`sun_path`, unix(7)).
pub(super) fn socket_path(path: &str) -> Result<PathBuf, Complaint> {
    const LONGEST: usize = 107;
    let help = "write the whole path, such as \"unix:/run/app.sock\"";
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Complaint::malformed("the path of a socket begins with a slash", help));
    }
    if path.len() > LONGEST {
        return Err(Complaint::malformed(
            format!("a socket's path has at most {LONGEST} bytes"),
            help,
        ));
    }
    Ok(path.into())
}

/// A name as DNS and `/etc/hosts` know it; four numbers with dots are an address that failed.
pub(super) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= 253 && !numeric && name.split('.').all(label)
}

/// An endpoint: its address, or a table with it.
#[derive(Debug)]
pub(super) struct Endpoint(pub super::Endpoint);

impl Endpoint {
    fn of(table: super::file::Endpoint) -> Option<Endpoint> {
        Some(Endpoint(super::Endpoint {
            address: table.address.value?,
            id: table.id.value?.map(|id| id.0.into()),
            weight: table.weight.value?.0,
            max_connections: table.max_connections.value?.map(Count::as_usize),
            backup: table.backup.value?,
        }))
    }
}

impl Read for Endpoint {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Endpoint> {
        if let DeValue::Table(_) = node.get_ref() {
            return Endpoint::of(super::file::Endpoint::read(node, faults)?);
        }
        EndpointAddress::read(node, faults).map(|address| Endpoint(address.into()))
    }

    fn schema() -> Json {
        let address = <EndpointAddress as Text>::schema();
        json!({ "anyOf": [address, super::file::Endpoint::schema()] })
    }
}

/// The Host that an upstream sees: `None` is the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SentHost(pub Option<HeaderValue>);

impl Text for SentHost {
    const NAME: &'static str = "a host to send";
    const EXAMPLE: &'static str = "chat.internal";

    fn parse(text: &str) -> Result<SentHost, Complaint> {
        if text == "pass" {
            return Ok(SentHost(None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port_is_good = port.is_none_or(|port| port_number(port).is_some_and(|port| port > 0));
        match HeaderValue::from_str(text) {
            Ok(value) if port_is_good && is_host(host) => Ok(SentHost(Some(value))),
            _ => Err(Complaint::malformed(
                "neither a name nor an address, with or without a port",
                "write \"pass\" to send the client's Host, or a name such as \"chat.internal\"",
            )),
        }
    }
}

pub(super) fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok() || is_host_name(host),
    }
}

// ---- hosts and paths ----

impl Text for HostPattern {
    const NAME: &'static str = "a host";
    const EXAMPLE: &'static str = "chat.example.com";

    fn parse(text: &str) -> Result<HostPattern, Complaint> {
        HostPattern::parse(text).map_err(|fault| {
            let help = match fault {
                HostPatternFault::Empty => "leave `host` out for any host",
                HostPatternFault::Scheme => "write the name alone, without a scheme or path",
                HostPatternFault::Port => "take the port out: a route is found by the name alone",
                HostPatternFault::Wildcard => {
                    "a star stands only first and for whole labels: \"*.example.com\""
                }
                HostPatternFault::Name => {
                    "write \"chat.example.com\" or \"*.example.com\"; other alphabets as punycode"
                }
            };
            Complaint::malformed(fault.to_string(), help)
        })
    }
}

impl Text for PathPattern {
    const NAME: &'static str = "a path";
    const EXAMPLE: &'static str = "/ws";

    fn parse(text: &str) -> Result<PathPattern, Complaint> {
        PathPattern::parse(text).map_err(|fault| {
            let help = match fault {
                PathPatternFault::NoSlash => {
                    "begin it with a slash: \"/ws\" for /ws and below, \"=/ws\" for /ws alone"
                }
                PathPatternFault::Query => "leave `?` and `#` out: a route is found by the path",
                PathPatternFault::Encoded => {
                    "write the character itself: paths are compared after decoding"
                }
                PathPatternFault::DotSegment => {
                    "take `.` and `..` out: requests with them are refused"
                }
                PathPatternFault::DoubleSlash => {
                    "write one slash: paths are compared with slashes merged"
                }
                PathPatternFault::Forbidden => {
                    "take backslashes and control characters out: such requests are refused"
                }
                PathPatternFault::Wildcard => {
                    "leave the star out: \"/ws\" already matches all below it"
                }
            };
            Complaint::malformed(fault.to_string(), help)
        })
    }
}

/// A path that is taken off, or goes before, as the request line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPrefix(pub String);

impl Text for PathPrefix {
    const NAME: &'static str = "a path prefix";
    const EXAMPLE: &'static str = "/ws";

    fn parse(text: &str) -> Result<PathPrefix, Complaint> {
        let label = match text {
            _ if !text.starts_with('/') => "it does not begin with a slash",
            _ if text.contains(['?', '#']) => "a query or fragment is no part of a path",
            _ if text.contains("//") => "it has two slashes in a row",
            _ if text.split('/').any(|segment| matches!(segment, "." | "..")) => {
                "it has a `.` or `..` segment"
            }
            _ if text
                .bytes()
                .any(|byte| !byte.is_ascii_graphic() || b"\\\"<>^`{|}".contains(&byte)) =>
            {
                "it has a character that a path can only have encoded"
            }
            _ => return Ok(PathPrefix(text.to_owned())),
        };
        Err(Complaint::malformed(
            label,
            "write a path as it stands in a request line, such as \"/ws\"",
        ))
    }
}

// ---- headers ----

/// Headers that the edge itself writes, and those of one hop (RFC 9110 §7.6.1).
const OWNED: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The name of a header that a route may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header(pub HeaderName);

impl Text for Header {
    const NAME: &'static str = "a header's name";
    const EXAMPLE: &'static str = "x-edge";

    fn parse(text: &str) -> Result<Header, Complaint> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            let help = "write letters, digits and dashes, without a colon or space";
            return Err(Complaint::malformed("it has a character that no name may have", help));
        };
        if name == http::header::HOST {
            let help = "to send another Host, write `host` in the [[upstream]]";
            return Err(Complaint::unfit(
                "may not be changed",
                "the edge writes this one itself",
                help,
            ));
        }
        if OWNED.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") {
            let help = "take it out: the handshake rests on it";
            return Err(Complaint::unfit(
                "may not be changed",
                "the edge writes this one itself",
                help,
            ));
        }
        Ok(Header(name))
    }
}

/// A header's value: visible ASCII, spaces and tabs.
struct Value(HeaderValue);

impl Text for Value {
    const NAME: &'static str = "a header's value";
    const EXAMPLE: &'static str = "wsgate";

    fn parse(text: &str) -> Result<Value, Complaint> {
        match HeaderValue::from_str(text) {
            Ok(value) if text.is_ascii() => Ok(Value(value)),
            _ => Err(Complaint::malformed(
                "it has a control character or one beyond ASCII",
                "write visible ASCII characters and spaces",
            )),
        }
    }
}

/// `{ "x-edge" = "wsgate" }`
#[derive(Debug)]
pub(super) struct Headers(pub Vec<(HeaderName, HeaderValue)>);

impl Read for Headers {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Headers> {
        let DeValue::Table(table) = node.get_ref() else {
            faults.push(wrong_type(
                node,
                "a table of headers",
                "write { \"x-edge\" = \"wsgate\" }",
            ));
            return None;
        };
        let mut headers = Vec::new();
        let mut names = Vec::new();
        for (key, value) in table {
            let text = DeValue::String(key.get_ref().clone());
            let name = Header::read(&Spanned::new(key.span(), text), faults);
            let value = Value::read(value, faults);
            let Some(Header(name)) = name else { continue };
            names.push((name.as_str().to_owned(), key.span()));
            headers.extend(value.map(|Value(value)| (name, value)));
        }
        names.sort_by_key(|(_, span)| span.start);
        refuse_twins(names, faults, |name| {
            let help = "keep one of them: upper and lower case are the same in a header's name";
            (format!("the header `{name}` is set twice"), help.to_owned())
        });
        Some(Headers(headers))
    }

    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

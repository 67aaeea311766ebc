//! The values that stand behind keys, each read from its text by itself.
//!
//! A number says its unit in the file (`"30s"`, `"64KiB"`, `"10/s"`), so nobody has to remember
//! one. A value type holds only what makes sense where it is used: a [`Lasting`] is never zero, a
//! [`CloseCode`] may be sent.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Complaint, Faults, Node, Read, Text, choice, refuse_twins, wrong_type};
use super::{Compression, EndpointAddress, LogFormat, Utf8};
use crate::plan::Rate;
use crate::route::{HostPattern, HostPatternFault, PathPattern, PathPatternFault};

// ---- time ----

const MILLISECOND: u64 = 1;
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", MILLISECOND), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Far beyond any sense, and far below what a clock overflows at.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

impl Text for Duration {
    const NAME: &'static str = "a duration";
    const EXAMPLE: &'static str = "30s";

    fn parse(text: &str) -> Result<Duration, Complaint> {
        let help =
            "write a whole number and a unit (ms, s, m, h or d), such as \"500ms\" or \"30s\"";
        let (number, unit) = number_and_unit(text, help)?;
        let Some((_, scale)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(unit, help));
        };
        match number.checked_mul(*scale).map(Duration::from_millis) {
            Some(duration) if duration <= LONGEST => Ok(duration),
            _ => Err(Complaint::new("too long", "366d is the most")),
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// A duration over zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lasting(pub Duration);

impl Text for Lasting {
    const NAME: &'static str = "a duration over zero";
    const EXAMPLE: &'static str = Duration::EXAMPLE;

    fn parse(text: &str) -> Result<Lasting, Complaint> {
        let duration = Duration::parse(text)?;
        if duration.is_zero() {
            return Err(Complaint::new("nothing can be done in no time", "write \"1ms\" or more"));
        }
        Ok(Lasting(duration))
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*(ms|s|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// Splits `30s` behind its digits.
fn number_and_unit<'a>(text: &'a str, help: &str) -> Result<(u64, &'a str), Complaint> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Complaint::new("it does not begin with a whole number", help));
    }
    if unit.is_empty() {
        return Err(Complaint::new("its unit is missing", help));
    }
    match number.parse() {
        Ok(number) => Ok((number, unit)),
        Err(_) => Err(Complaint::new("the number is too large", help)),
    }
}

fn unknown_unit(unit: &str, help: &str) -> Complaint {
    Complaint::new(format!("no such unit: {unit:?}"), help)
}

// ---- sizes and counts ----

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const TEBIBYTE: u64 = 1 << 40;

/// Bytes, from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes<const MIN: u64 = 1, const MAX: u64 = TEBIBYTE>(pub u64);

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    /// As a size in memory; a `MAX` is under every 64-bit machine's.
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Text for Bytes<MIN, MAX> {
    const NAME: &'static str = "a size";
    const EXAMPLE: &'static str = "64KiB";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let help =
            "write a whole number and a unit (B, KB, MB, GB, KiB, MiB or GiB), such as \"64KiB\"";
        let (number, unit) = number_and_unit(text, help)?;
        let Some((_, scale)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(unit, help));
        };
        match number.checked_mul(*scale) {
            Some(0) if MIN <= 1 => {
                Err(Complaint::new("nothing fits in it", "write \"1B\" or more"))
            }
            Some(bytes) if bytes < MIN => {
                Err(Complaint::new("too small here", format!("{} is the least", show_bytes(MIN))))
            }
            Some(bytes) if bytes <= MAX => Ok(Bytes(bytes)),
            _ => Err(Complaint::new("too large here", format!("{} is the most", show_bytes(MAX)))),
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*([KMG]i?)?B$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// In the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    match bytes {
        whole if whole >= 1 << 30 && whole.is_multiple_of(1 << 30) => format!("{}GiB", whole >> 30),
        whole if whole >= 1 << 20 && whole.is_multiple_of(1 << 20) => format!("{}MiB", whole >> 20),
        whole if whole >= 1 << 10 && whole.is_multiple_of(1 << 10) => format!("{}KiB", whole >> 10),
        bytes => format!("{bytes}B"),
    }
}

/// A number of things, from 1 to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count<const MAX: u32 = { u32::MAX }>(pub u32);

impl<const MAX: u32> Count<MAX> {
    fn out_of(node: &Node<'_>, faults: &mut Faults) {
        let fault = wrong_type(node, &format!("a number from 1 to {MAX}"), "");
        let message = match node.get_ref() {
            DeValue::Integer(_) => format!("expected a number from 1 to {MAX}"),
            _ => fault.message,
        };
        let label = match node.get_ref() {
            DeValue::Integer(number) if number.as_str() == "0" => "zero would let nothing pass",
            DeValue::Integer(_) => "out of bounds",
            _ => &fault.label,
        };
        let fault = super::Diagnostic::fault(node.span(), message).label(label);
        faults.push(fault.help("write a whole number, without quotes"));
    }
}

impl<const MAX: u32> Read for Count<MAX> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Self> {
        match integer(node) {
            Some(number @ 1..) if number <= MAX => Some(Count(number)),
            _ => {
                Self::out_of(node, faults);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": MAX })
    }
}

fn integer(node: &Node<'_>) -> Option<u32> {
    match node.get_ref() {
        DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// Threads: a number, or `"auto"` (`None`) for one a core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workers(pub Option<NonZeroUsize>);

impl Read for Workers {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Workers> {
        match node.get_ref() {
            DeValue::String(text) if text == "auto" => Some(Workers(None)),
            DeValue::Integer(_) => {
                let count = Count::<1024>::read(node, faults)?;
                let threads = usize::try_from(count.0).ok()?;
                Some(Workers(NonZeroUsize::new(threads)))
            }
            _ => {
                let help = "write \"auto\" for one thread a core, or a number without quotes";
                faults.push(
                    super::Diagnostic::fault(node.span(), "expected \"auto\" or a number")
                        .label("neither of these")
                        .help(help),
                );
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, Count::<1024>::schema()] })
    }
}

/// A close code that may stand in a Close frame (RFC 6455 §7.4, and IANA's 1012 to 1014).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseCode(pub u16);

impl Read for CloseCode {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<CloseCode> {
        let help = "write 1000 to 1003, 1007 to 1014, or a code of your own from 3000 to 4999";
        let DeValue::Integer(_) = node.get_ref() else {
            faults.push(wrong_type(node, "a close code", help));
            return None;
        };
        match integer(node).and_then(|code| u16::try_from(code).ok()) {
            Some(code @ (1000..=1003 | 1007..=1014 | 3000..=4999)) => Some(CloseCode(code)),
            code => {
                let label = match code {
                    Some(1004..=1006 | 1015) => "reserved: never sent in a frame",
                    _ => "no frame may carry it",
                };
                let fault = super::Diagnostic::fault(node.span(), "not a close code to send");
                faults.push(fault.label(label).help(help));
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "anyOf": [
            { "minimum": 1000, "maximum": 1003 },
            { "minimum": 1007, "maximum": 1014 },
            { "minimum": 3000, "maximum": 4999 },
        ] })
    }
}

/// `"10/s"`: so many in a second, minute, hour or day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerTime {
    pub count: u32,
    pub period: Duration,
}

impl PerTime {
    /// The rate with a burst of so many times its number.
    pub fn with_burst(self, times: u32) -> Rate {
        Rate { interval: self.period / self.count, burst: self.count.saturating_mul(times) }
    }
}

const RATE_UNITS: &[(&str, u64)] =
    &[("s", 1), ("sec", 1), ("min", 60), ("m", 60), ("h", 3_600), ("d", 86_400)];

impl Text for PerTime {
    const NAME: &'static str = "a rate";
    const EXAMPLE: &'static str = "10/s";

    fn parse(text: &str) -> Result<PerTime, Complaint> {
        /// Keeps the time one of them costs at 100 ns or more.
        const MOST: u32 = 10_000_000;
        let help =
            "write a whole number, a slash and s, min, h or d, such as \"10/s\" or \"100/min\"";
        let Some((count, unit)) = text.split_once('/') else {
            return Err(Complaint::new("there is no slash in it", help));
        };
        let Some((_, seconds)) = RATE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(unit, help));
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Complaint::new("it does not begin with a whole number", help));
        }
        match count.parse() {
            Ok(0) => Err(Complaint::new("zero would let nothing pass", help)),
            Ok(count @ ..=MOST) => Ok(PerTime { count, period: Duration::from_secs(*seconds) }),
            _ => Err(Complaint::new("too large", format!("{MOST} is the largest number"))),
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*/(s|sec|min|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// `"off"` or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: Copy> OrOff<T> {
    pub fn on(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::On(value) => Some(value),
        }
    }
}

impl<T: Text> Text for OrOff<T> {
    const NAME: &'static str = T::NAME;
    const EXAMPLE: &'static str = T::EXAMPLE;

    fn parse(text: &str) -> Result<OrOff<T>, Complaint> {
        if text == "off" {
            return Ok(OrOff::Off);
        }
        match T::parse(text) {
            Ok(value) => Ok(OrOff::On(value)),
            Err(complaint) => {
                Err(Complaint { help: format!("{}; or \"off\"", complaint.help), ..complaint })
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "off" }, <T as Text>::schema()] })
    }
}

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
    "a way with compression",
    [("pass", Compression::Pass), ("strip", Compression::Strip)]
);
words!(Utf8, "a way with UTF-8", [("pass", Utf8::Pass), ("check", Utf8::Check)]);

/// Whether a client must show a certificate, or is only asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientCertificate {
    Require,
    Request,
}

words!(
    ClientCertificate,
    "a way with client certificates",
    [("require", ClientCertificate::Require), ("request", ClientCertificate::Request)]
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
        Err(Complaint::new(label, format!("write one to {LONGEST} letters, such as \"chat\"")))
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
    const EXAMPLE: &'static str = "certs/server.pem";

    fn parse(text: &str) -> Result<FileName, Complaint> {
        if text.is_empty() || text.contains('\0') {
            let help = "write a path; a relative one begins at the folder of this file";
            return Err(Complaint::new("no file can have this name", help));
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
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_token) {
            let help = "write one name an entry, without spaces, commas or quotes";
            return Err(Complaint::new("it has a character that no subprotocol may have", help));
        }
        Ok(Subprotocol(text.to_owned()))
    }
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
            Err(_) => Err(Complaint::new(
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
        let error = match text.parse() {
            Ok(address) => return Ok(ListenAddress(address)),
            Err(_) => address_fault(text),
        };
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
        let port = port.parse::<u16>().unwrap_or(8443);
        let help = match text.rsplit_once(':') {
            Some(("" | "*", _)) => {
                format!("for all addresses write \"0.0.0.0:{port}\" or \"[::]:{port}\"")
            }
            _ => format!(
                "write an IP address and a port, such as \"0.0.0.0:{port}\" or \"[::1]:{port}\""
            ),
        };
        Err(Complaint::new(error, help))
    }
}

/// Which half of an `address:port` is wrong.
fn address_fault(text: &str) -> &'static str {
    if text.parse::<IpAddr>().is_ok() {
        return "its port is missing";
    }
    match text.rsplit_once(':') {
        None => "its port is missing",
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
            return socket_path(path);
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            let help = format!("write the address alone, without a scheme or path: {host:?}");
            return Err(Complaint::new("this is a URL", help));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            refuse_port_zero(address.port())?;
            return Ok(EndpointAddress::Ip(address));
        }
        if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
            let help = format!("write it in brackets with its port: \"[{address}]:9001\"");
            return Err(Complaint::new("its port is missing", help));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Complaint::new("its port is missing", help));
        };
        let Some(port) = port_number(port) else {
            return Err(Complaint::new("its port is not a number up to 65535", help));
        };
        refuse_port_zero(port)?;
        if !is_host_name(host) {
            return Err(Complaint::new("its host is neither an IP address nor a name", help));
        }
        Ok(EndpointAddress::Name { host: host.to_ascii_lowercase(), port })
    }
}

fn refuse_port_zero(port: u16) -> Result<(), Complaint> {
    if port == 0 {
        return Err(Complaint::new(
            "nothing can be reached on port 0",
            "write the port it listens on",
        ));
    }
    Ok(())
}

/// Digits only: the standard library takes `+80` too.
fn port_number(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The path of a unix socket: absolute, and short enough for the kernel (`sun_path`, unix(7)).
fn socket_path(path: &str) -> Result<EndpointAddress, Complaint> {
    const LONGEST: usize = 107;
    let help = "write the whole path, such as \"unix:/run/app.sock\"";
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Complaint::new("the path of a socket begins with a slash", help));
    }
    if path.len() > LONGEST {
        return Err(Complaint::new(format!("a socket's path has at most {LONGEST} bytes"), help));
    }
    Ok(EndpointAddress::Unix(path.into()))
}

/// A name as DNS and `/etc/hosts` know it; four numbers with dots are an address that failed.
fn is_host_name(host: &str) -> bool {
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
pub(super) struct Endpoint(pub EndpointAddress);

impl Read for Endpoint {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Endpoint> {
        if let DeValue::Table(_) = node.get_ref() {
            return super::file::Endpoint::read(node, faults)?.address.value.map(Endpoint);
        }
        EndpointAddress::read(node, faults).map(Endpoint)
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
            _ => Err(Complaint::new(
                "neither a name nor an address, with or without a port",
                "write \"pass\" to send the client's Host, or a name such as \"chat.internal\"",
            )),
        }
    }
}

fn is_host(host: &str) -> bool {
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host),
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
            Complaint::new(fault.to_string(), help)
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
            Complaint::new(fault.to_string(), help)
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
        Err(Complaint::new(label, "write a path as it stands in a request line, such as \"/ws\""))
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
    const NAME: &'static str = "a header that can be changed";
    const EXAMPLE: &'static str = "x-edge";

    fn parse(text: &str) -> Result<Header, Complaint> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            let help = "a header's name has letters, digits and dashes, without a colon or space";
            return Err(Complaint::new("not the name of a header", help));
        };
        if name == http::header::HOST {
            let help = "to send another Host, write `host` in the [[upstream]]";
            return Err(Complaint::new("the edge writes this one itself", help));
        }
        if OWNED.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") {
            let help = "take it out: the handshake rests on it";
            return Err(Complaint::new("the edge writes this one itself", help));
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
            _ => Err(Complaint::new(
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

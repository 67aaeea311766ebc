//! Values that say how endpoints are found, reached and judged.

use std::net::IpAddr;

use serde_json::{Value as Json, json};

use super::names::{is_host_name, port_number};
use super::reader::{Complaint, Text};
use super::{HostAndPort, Probe};

/// `"chat.default.svc:9001"`: a name whose every address is an endpoint.
impl Text for HostAndPort {
    const NAME: &'static str = "a name to resolve";
    const EXAMPLE: &'static str = "chat.default.svc:9001";

    fn parse(text: &str) -> Result<HostAndPort, Complaint> {
        let help = "write a host name and a port, such as \"chat.default.svc:9001\"";
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Complaint::malformed("its port is missing", help));
        };
        if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
            let help = "write it in `endpoints`: an address needs no resolving";
            return Err(Complaint::malformed("this is an address", help));
        }
        if !is_host_name(host) {
            return Err(Complaint::malformed("its first part is not a host name", help));
        }
        match port_number(port) {
            Some(port @ 1..) => Ok(HostAndPort { host: host.to_ascii_lowercase(), port }),
            _ => Err(Complaint::malformed("its port is not a number from 1 to 65535", help)),
        }
    }
}

/// A local address to dial from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceAddress(pub IpAddr);

impl Text for SourceAddress {
    const NAME: &'static str = "an address to dial from";
    const EXAMPLE: &'static str = "10.0.0.5";

    fn parse(text: &str) -> Result<SourceAddress, Complaint> {
        let help = "write an IP address of this machine, without a port, such as \"10.0.0.5\"";
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => {
                let label = "it stands for any address, which is what is dialled from anyway";
                Err(Complaint::unfit("is no single address", label, help))
            }
            Ok(address) if address.is_multicast() => {
                let label = "nothing can be dialled from a multicast address";
                Err(Complaint::unfit("is no address of a machine", label, help))
            }
            Ok(address) => Ok(SourceAddress(address)),
            Err(_) => Err(Complaint::malformed("this is no IP address", help)),
        }
    }
}

/// The name that an endpoint's certificate must be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName(pub String);

impl Text for ServerName {
    const NAME: &'static str = "a server's name";
    const EXAMPLE: &'static str = "chat.internal";

    fn parse(text: &str) -> Result<ServerName, Complaint> {
        let help = "write the DNS name that its certificate is for, such as \"chat.internal\"; \
                    other alphabets as punycode";
        let name = text.strip_suffix('.').unwrap_or(text);
        if text.parse::<IpAddr>().is_ok() {
            let help = "take `server_name` out: an endpoint that is an address must show a \
                        certificate for that address";
            return Err(Complaint::malformed("this is an address", help));
        }
        // RFC 1123 §2.1: no label begins or ends with a dash.
        let dashed = |label: &str| label.starts_with('-') || label.ends_with('-');
        if !is_host_name(name) || name.split('.').any(dashed) {
            return Err(Complaint::malformed("this is no DNS name", help));
        }
        Ok(ServerName(name.to_ascii_lowercase()))
    }
}

/// `tcp`, `http:/healthz` or `websocket:/ws`.
impl Text for Probe {
    const NAME: &'static str = "a probe";
    const EXAMPLE: &'static str = "http:/healthz";

    fn parse(text: &str) -> Result<Probe, Complaint> {
        let help = "write \"tcp\", \"http:/healthz\" or \"websocket:/ws\"";
        match text.split_once(':') {
            None if text == "tcp" => Ok(Probe::Tcp),
            None if matches!(text, "http" | "websocket") => {
                Err(Complaint::malformed("its path is missing", help))
            }
            Some(("http", path)) => target(path, help).map(Probe::Http),
            Some(("websocket", path)) => target(path, help).map(Probe::WebSocket),
            _ => Err(Complaint::malformed("no such choice", help)),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(tcp|(http|websocket):/.*)$",
            "examples": [Self::EXAMPLE] })
    }
}

/// A path and a query as they stand in a request line.
fn target(path: &str, help: &str) -> Result<String, Complaint> {
    if path.starts_with("//") {
        let help = "write the path alone: TLS is used where the upstream has `tls`";
        return Err(Complaint::malformed("this is a URL", help));
    }
    if !path.starts_with('/') {
        return Err(Complaint::malformed("its path does not begin with a slash", help));
    }
    if path.contains('#') || path.parse::<http::uri::PathAndQuery>().is_err() {
        let help = "write the path as it stands in a request line, with other characters encoded";
        return Err(Complaint::malformed("its path has a character that no path may have", help));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes() {
        let http = |path: &str| Some(Probe::Http(path.to_owned()));
        assert_eq!(Probe::parse("tcp").ok(), Some(Probe::Tcp));
        assert_eq!(Probe::parse("http:/healthz?deep=1").ok(), http("/healthz?deep=1"));
        let websocket = Probe::WebSocket("/ws".to_owned());
        assert_eq!(Probe::parse("websocket:/ws").ok(), Some(websocket));
        for bad in [
            "",
            "TCP",
            "tcp:",
            "tcp:80",
            "http",
            "http:",
            "http:healthz",
            "http://a/b",
            "ws:/ws",
            "http:/a b",
            "http:/a#b",
            "http:/a\r\nx: y",
            "websocket",
        ] {
            assert!(Probe::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_to_resolve() {
        let name = HostAndPort { host: "chat.default.svc".into(), port: 9001 };
        assert_eq!(HostAndPort::parse("Chat.default.svc:9001").ok(), Some(name));
        for bad in [
            "",
            "chat",
            ":1",
            "chat:",
            "chat:0",
            "chat:65536",
            "chat:+1",
            "127.0.0.1:80",
            "[::1]:80",
            "::1:80",
            "http://chat:80",
            "unix:/run/a.sock",
            "a b:80",
        ] {
            assert!(HostAndPort::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_to_dial_from() {
        for good in ["127.0.0.2", "10.0.0.5", "::1", "fd00::7"] {
            assert!(SourceAddress::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "localhost", "127.0.0.1:0", "[::1]", "10.0.0.0/8", "0.0.0.0", "::", "224.0.0.1"]
        {
            assert!(SourceAddress::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn server_names() {
        let name = |text| ServerName::parse(text).ok().map(|name| name.0);
        assert_eq!(name("Chat.internal."), Some("chat.internal".to_owned()));
        assert_eq!(name("chat_1.internal"), Some("chat_1.internal".to_owned()));
        for bad in [
            "",
            ".",
            "127.0.0.1",
            "::1",
            "a b",
            "-a.example",
            "a-.example",
            "*.a.example",
            "bücher.example",
            "chat:443",
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}

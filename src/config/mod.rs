//! From the text of a file to a validated [`Config`], or to every fault in it at once.
//!
//! `file` is the shape of the TOML, `diagnostics` what a person reads when it is wrong, `schema`
//! what an editor reads. Only a `Config` leaves this module, and one exists only when it passed.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::plan::Plan;
use crate::route::{HostPattern, PathPattern};

/// A whole configuration that has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// `None` is `"auto"`: one for each core.
    pub workers: Option<NonZeroUsize>,
    pub trusted_proxies: Vec<IpNet>,
    pub drain: Drain,
    /// Wire bytes that all backlogs together may hold.
    pub backlog_total: usize,
    pub log: Log,
}

/// How sockets are told to go: see `server::drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub delay: Duration,
    pub window: Duration,
    pub timeout: Duration,
    pub code: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: tracing::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub listen: SocketAddr,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
    pub reuse_port: bool,
    pub tls: Option<ListenerTls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    pub tls: Duration,
    pub header: Duration,
    pub keepalive: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Bytes of a request's head; at least 8 KiB.
    pub header_bytes: usize,
    /// Bytes of a request's target.
    pub uri: usize,
    pub connections: usize,
    /// Connections whose TLS handshake or first head is not yet whole.
    pub pending: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one; the first serves clients that name no or another server.
    pub certificates: Vec<CertificateFiles>,
    pub client_auth: Option<ClientAuth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// Client certificates: by which authority, and whether one must be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    pub ca: PathBuf,
    pub required: bool,
}

#[derive(Clone, Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoints: Vec<EndpointAddress>,
    pub connect_timeout: Duration,
    pub handshake_timeout: Duration,
    /// The Host that upstreams see; `None` is `"pass"`: the client's.
    pub host: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// A name, resolved at each dial.
    Name {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub host: HostPattern,
    pub path: PathPattern,
    /// An index into [`Config::upstreams`].
    pub upstream: usize,
    /// Where the route is served; empty: on all listeners.
    pub listeners: Vec<SocketAddr>,
    pub rewrite: Rewrite,
    /// `None`: as the client and the upstream agree.
    pub subprotocols: Option<Vec<String>>,
    pub compression: Compression,
    pub utf8: Utf8,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub plan: Arc<Plan>,
}

/// `strip_prefix` takes whole segments off the path, `add_prefix` goes before what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub strip_prefix: Option<String>,
    pub add_prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Pass,
    Strip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utf8 {
    Pass,
    Check,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

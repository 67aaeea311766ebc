//! From the text of a file to a validated [`Config`], or to every fault in it at once.
//!
//! `file` declares the shape of the TOML, `reader` reads it and goes on after a fault, `quantities`,
//! `names`, `origins`, `urls`, `tokens` and `balancing` read what stands behind one key, `validate`
//! knows what keys have to do with each other, `build` makes the final types, `diagnostics` is what
//! a person reads when a file is wrong, `schema` what an editor reads. Only a `Config` leaves this
//! module, and one exists only when it passed.

mod admin;
mod balancing;
mod build;
mod diagnostics;
mod diff;
mod endpoints;
mod file;
pub mod import;
mod names;
mod origins;
mod quantities;
mod reader;
mod schema;
mod tokens;
mod urls;
mod validate;
mod validate_balancing;
mod validate_token;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use thiserror::Error;

pub use self::admin::{TokenFault, admin_address, read_token};
pub use self::diagnostics::{Diagnostic, Paint, Report, Severity, Span};
pub use self::diff::{Change, Effect, changes};
pub use self::quantities::duration;
pub use self::schema::schema;
pub use self::tokens::algorithm;
use crate::plan::{Plan, Rate};
use crate::route::{HostPattern, PathPattern};

/// A whole configuration that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub server: Server,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
    pub routes: Vec<Route>,
    pub redirects: Vec<Redirect>,
    pub admin: Option<Admin>,
}

/// Where operators look and act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub listen: Option<AdminAddress>,
    /// For probes and metrics alone.
    pub probes: Option<AdminAddress>,
    pub token_file: Option<PathBuf>,
    /// In lower case.
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => write!(out, "{address}"),
            AdminAddress::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Config {
    /// Checks the text of a file. `origin` is the file's name: relative names in it begin at its
    /// folder. No other file is read; see [`unreadable`].
    pub fn parse(text: &str, origin: &Path) -> Result<Parsed, Vec<Diagnostic>> {
        let (file, faults) = reader::document(text)?;
        validate::config(file, faults, origin.parent().unwrap_or(Path::new("")))
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Loaded, LoadError> {
        Config::load_for(path, path)
    }

    /// The same for a file that is to be put in the place of another: relative names in it begin
    /// there.
    pub fn load_for(path: &Path, place: &Path) -> Result<Loaded, LoadError> {
        let bytes = std::fs::read(path)
            .map_err(|error| LoadError::Unreadable { path: path.to_owned(), error })?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return Err(LoadError::Faulty(not_utf8(path, &error))),
        };
        match Config::parse(&text, place) {
            Ok(Parsed { config, warnings, files, variables }) => {
                let warnings = Report::new(path, &text, warnings);
                Ok(Loaded { config, files, variables, warnings })
            }
            Err(faults) => Err(LoadError::Faulty(Report::new(path, &text, faults))),
        }
    }
}

/// What a good text holds.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    pub files: Vec<NamedFile>,
    pub variables: Vec<NamedVariable>,
}

/// What a good file holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Report,
    /// Every file that the configuration names.
    pub files: Vec<NamedFile>,
    /// Every environment variable that it names.
    pub variables: Vec<NamedVariable>,
}

impl Loaded {
    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.warnings.text
    }

    /// The faults of the files and variables it names; empty when all can be read.
    pub fn check_files(&self) -> Report {
        let mut faults = unreadable(&self.files);
        faults.extend(self.variables.iter().filter_map(NamedVariable::fault));
        self.report(faults)
    }

    /// Diagnostics of this text.
    pub fn report(&self, diagnostics: Vec<Diagnostic>) -> Report {
        Report::new(&self.warnings.origin, &self.warnings.text, diagnostics)
    }
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// Displays as the plain rendering of its diagnostics.
    #[error("{0}")]
    Faulty(Report),
}

/// The text is kept, with marks where it is not UTF-8; bytes before the first one stay in place.
fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Report {
    let start = error.utf8_error().valid_up_to();
    let fault = Diagnostic::fault(start..start + '\u{fffd}'.len_utf8(), "the file is not UTF-8")
        .label("the first byte that is not")
        .help("save the file as UTF-8");
    Report::new(path, &String::from_utf8_lossy(error.as_bytes()), vec![fault])
}

/// A file that the configuration names, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    pub path: PathBuf,
    pub span: Span,
    /// What it is for: "certificate chain".
    pub purpose: &'static str,
}

/// An environment variable that the configuration names, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVariable {
    pub name: String,
    pub span: Span,
}

impl NamedVariable {
    fn fault(&self) -> Option<Diagnostic> {
        if std::env::var_os(&self.name).is_some() {
            return None;
        }
        let message = format!("the environment has no variable {}", self.name);
        let help = "set it for the process that runs wsgate, or put the secret into a file and \
                    write secret_file = \"…\"";
        Some(Diagnostic::fault(self.span.clone(), message).label("not set here").help(help))
    }
}

/// A fault for each file that is not there or cannot be read.
pub fn unreadable(files: &[NamedFile]) -> Vec<Diagnostic> {
    let fault = |file: &NamedFile| match readable(&file.path) {
        Ok(()) => None,
        Err(error) => {
            let message = format!("cannot read the {}: {error}", file.purpose);
            let help = format!("wsgate looks for it at {}", file.path.display());
            Some(Diagnostic::fault(file.span.clone(), message).label("this file").help(help))
        }
    };
    files.iter().filter_map(fault).collect()
}

/// A pipe is taken as readable: to open it would wait for its writer.
fn readable(path: &Path) -> io::Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_file() {
        std::fs::File::open(path)?;
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Each connection begins with a PROXY header.
    pub proxy_protocol: bool,
    pub timeouts: ListenerTimeouts,
    pub limits: ListenerLimits,
    /// HTTP/2 is spoken to clients whose TLS asks for it.
    pub http2: bool,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoints: Vec<Endpoint>,
    pub balance: Balance,
    /// What hashes and cookies are keyed with, if a file says it.
    pub hash_seed_file: Option<PathBuf>,
    pub affinity_cookie: Option<AffinityCookie>,
    pub connect_timeout: Duration,
    pub handshake_timeout: Duration,
    /// The Host that upstreams see; `None` is `"pass"`: the client's.
    pub host: Option<HeaderValue>,
    /// `None`: all endpoints are listed.
    pub resolve: Option<Resolve>,
    /// Local addresses to dial from, in turn; empty: as the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// `None`: endpoints are spoken to in plain.
    pub tls: Option<UpstreamTls>,
    /// `None`: nothing is probed.
    pub health: Option<Health>,
    pub passive: Passive,
    pub on_removed: OnRemoved,
}

/// A name whose every address is an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    pub name: HostAndPort,
    pub refresh: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAndPort {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// `None`: the endpoint's own host or address.
    pub server_name: Option<String>,
    /// `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    pub certificate: Option<CertificateFiles>,
}

/// How endpoints are probed, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub interval: Duration,
    pub timeout: Duration,
    pub probe: Probe,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
    pub slow_start: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Tcp,
    /// The path and query of a GET.
    Http(String),
    /// The path and query of an upgrade.
    WebSocket(String),
}

/// When failed handshakes make an endpoint be passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// So many in a row.
    pub failures: u32,
    pub eject: Duration,
}

/// How a connection's endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    Hash {
        /// At least one; the first that a request has is its key.
        keys: Vec<HashKey>,
        /// How far over its share an endpoint may be, in millionths, from 1,000,000.
        bounded_load: Option<u64>,
    },
    LeastConnections,
    RoundRobin,
}

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    Cookie(String),
    Query(String),
    Header(HeaderName),
    /// Of the client's token.
    Claim(String),
    Path,
    /// So many leading bits of the address.
    ClientIp {
        v4: u8,
        v6: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityCookie {
    pub name: String,
    pub same_site: SameSite,
}

/// RFC 6265bis §5.6.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// What it is known by besides its address.
    pub id: Option<Arc<str>>,
    /// At least 1.
    pub weight: u32,
    /// `None`: unbounded.
    pub max_connections: Option<usize>,
    pub backup: bool,
}

impl Endpoint {
    /// What it is the same endpoint by, in another process and after a change of the file: its
    /// `id`, or its address.
    pub fn identity(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| self.address.to_string().into())
    }
}

impl From<EndpointAddress> for Endpoint {
    /// An address alone has every default.
    fn from(address: EndpointAddress) -> Endpoint {
        Endpoint { address, id: None, weight: 1, max_connections: None, backup: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// A name, resolved at each dial.
    Name {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// `10.0.0.1:9001`, `[::1]:9001`, `chat:9001` or `unix:/run/chat.sock`.
impl fmt::Display for EndpointAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Ip(address) => write!(out, "{address}"),
            EndpointAddress::Name { host, port } => write!(out, "{host}:{port}"),
            EndpointAddress::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

/// A route to no upstream: whoever asks here is sent to the same host and path by https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub name: Arc<str>,
    pub host: HostPattern,
    pub path: PathPattern,
    /// Where it is served; empty: on all listeners.
    pub listeners: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: Arc<str>,
    pub host: HostPattern,
    pub path: PathPattern,
    /// An index into [`Config::upstreams`].
    pub upstream: usize,
    /// Where the route is served; empty: on all listeners.
    pub listeners: Vec<SocketAddr>,
    pub rewrite: Rewrite,
    pub plain_http: PlainHttp,
    /// Of plain HTTP: for the head of an answer, and for each pause of a request's body.
    pub response_timeout: Duration,
    /// `None`: as the client and the upstream agree.
    pub subprotocols: Option<Vec<String>>,
    pub compression: Compression,
    pub utf8: Utf8,
    pub admittance: Admittance,
    pub on_removed: OnRemoved,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub plan: Arc<Plan>,
}

/// Who may come to a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admittance {
    pub clients: Networks,
    pub origin: Origin,
    pub token: Option<Token>,
    /// Handshakes of one client (an IPv4 address or an IPv6 /64).
    pub handshakes_per_client: Option<Rate>,
    /// Handshakes of all clients together.
    pub handshakes_total: Option<Rate>,
    /// Live connections of all clients together, and of one.
    pub connections_total: Option<usize>,
    pub connections_per_client: Option<usize>,
    /// Of one subject.
    pub connections_per_subject: Option<usize>,
    /// Messages or bytes have a rate that a subject's connections share.
    pub rates_per_subject: bool,
    /// Whom to ask.
    pub authorize: Option<Authorize>,
    pub reject: Reject,
}

impl Admittance {
    /// Whether the route must know who comes, to count it.
    pub fn counts_subjects(&self) -> bool {
        self.connections_per_subject.is_some() || self.rates_per_subject
    }
}

/// A service that says whether a client may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorize {
    /// `http` or `https`, with a host.
    pub url: Uri,
    /// For its answer's head.
    pub timeout: Duration,
    /// Fields of its answer that go to the upstream.
    pub copy_headers: Vec<HeaderName>,
    /// The field of its answer that names the subject.
    pub subject: Option<HeaderName>,
}

/// `deny` goes before `allow`; an empty `allow` allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
}

/// Which pages may connect (RFC 6454).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An Origin, if sent, names the host and port that the request calls.
    #[default]
    Same,
    /// `origin = "any"`.
    Any,
    Listed {
        allow: Vec<OriginPattern>,
        /// Whether a request without an Origin, which is no browser's, may come.
        missing_allowed: bool,
    },
}

/// Who may come by a signed token (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Where it may be: the first that is present decides. At least one.
    pub from: Vec<TokenSource>,
    /// How it may be signed. At least one.
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    pub issuer: Option<String>,
    /// Empty: any.
    pub audience: Vec<String>,
    /// Claims that must be equal to a text, whole number or truth value, or contain it.
    pub required: Vec<(String, serde_json::Value)>,
    pub leeway: Duration,
    /// Claims, and the headers that tell them to the upstream.
    pub forward: Vec<(String, HeaderName)>,
    /// The token goes no further.
    pub strip: bool,
}

/// Where a request may have its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// Of `authorization` what follows `Bearer`, of any other header its value.
    Header(HeaderName),
    Cookie(String),
    Query(String),
    /// `bearer, <token>` or `bearer.<token>` among the subprotocols.
    Subprotocol,
}

/// As a file writes it.
impl fmt::Display for TokenSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::Header(name) => write!(out, "header:{name}"),
            TokenSource::Cookie(name) => write!(out, "cookie:{name}"),
            TokenSource::Query(name) => write!(out, "query:{name}"),
            TokenSource::Subprotocol => write!(out, "subprotocol:bearer"),
        }
    }
}

/// What signatures are verified by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWKS (RFC 7517) that an issuer publishes.
    JwksUrl(Uri),
    JwksFile(PathBuf),
    PublicKeyFile(PathBuf),
    SecretFile(PathBuf),
    /// The name of an environment variable.
    SecretEnv(String),
}

/// `https://app.example.com`, `https://*.example.com:8443` or `null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    Null,
    Host {
        /// In lower case.
        scheme: String,
        /// In lower case; of `*.example.com` only what follows `*.`.
        host: String,
        /// The host is a suffix: one or more whole labels go before it.
        below: bool,
        /// The scheme's own where the file names none; `None`: it has none either.
        port: Option<u16>,
    },
}

/// What becomes of the sockets of a route or an endpoint that is deleted from the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoved {
    #[default]
    Close,
    Keep,
}

/// How a refused handshake is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reject {
    #[default]
    Status,
    /// The upgrade is accepted and closed at once with 4000 + status.
    Close,
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

/// What becomes of a request that asks for no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    Reject,
    /// It goes to the upstream, under the same policy.
    Proxy,
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

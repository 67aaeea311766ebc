//! TLS: the one file that names the library.
//!
//! A listener's files become an [`Acceptor`], what is known of servers a [`Connector`]; what
//! either makes of a socket is a [`Session`].

mod session;

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{
    UnbufferedClientConnection, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, Ticketer};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, UnbufferedServerConnection,
    WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

pub use self::session::Session;
use super::Stream;
use crate::config::{CertificateFiles, ClientAuth, ListenerTls, UpstreamTls};
use crate::metrics::TlsFailure;

const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Why TLS cannot be set up: which file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} holds no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} holds no private key in PEM form", .0.display())]
    NoKey(PathBuf),
    #[error("{} is not the key of the first certificate in {}", key.display(), chain.display())]
    Mismatch { chain: PathBuf, key: PathBuf },
    #[error("{}: {detail}", path.display())]
    Unusable { path: PathBuf, detail: String },
    #[error("the certificate in {} expired {} ago", path.display(), days(.since))]
    Expired { path: PathBuf, since: Duration },
    #[error("this system knows no certificate authority{0}; install its ca-certificates package")]
    NoSystemRoots(String),
}

impl TlsFault {
    /// The file of the configuration that is to blame.
    pub fn path(&self) -> Option<&Path> {
        match self {
            TlsFault::Unreadable { path, .. } | TlsFault::Unusable { path, .. } => Some(path),
            TlsFault::Expired { path, .. } => Some(path),
            TlsFault::NoCertificate(path) | TlsFault::NoKey(path) => Some(path),
            TlsFault::Mismatch { key, .. } => Some(key),
            TlsFault::NoSystemRoots(_) => None,
        }
    }
}

/// Everything that is wrong with the files of a listener.
pub fn faults(tls: &ListenerTls) -> Vec<TlsFault> {
    let provider = aws_lc_rs::default_provider();
    let certificates = tls.certificates.iter();
    let certificates = certificates.filter_map(|files| Certificate::load(files, &provider).err());
    let clients = tls.client_auth.iter().filter_map(|auth| authorities(&auth.ca).err());
    certificates.chain(clients).collect()
}

/// The certificates of a listener that are no longer valid, of those that can be read.
pub fn expired(tls: &ListenerTls, now: SystemTime) -> Vec<TlsFault> {
    let provider = aws_lc_rs::default_provider();
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expired = |files: &CertificateFiles| {
        let certificate = Certificate::load(files, &provider).ok()?;
        let since = certificate.expired_since(UnixTime::since_unix_epoch(since_epoch))?;
        Some(TlsFault::Expired { path: files.chain.clone(), since })
    };
    tls.certificates.iter().filter_map(expired).collect()
}

fn days(since: &Duration) -> String {
    match since.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Everything that is wrong with the files of an upstream.
pub fn upstream_faults(tls: &UpstreamTls) -> Vec<TlsFault> {
    let provider = aws_lc_rs::default_provider();
    let authorities = tls.ca.iter().filter_map(|path| authorities(path).err());
    let certificate = tls.certificate.iter();
    let certificate = certificate.filter_map(|files| Certificate::load(files, &provider).err());
    authorities.chain(certificate).collect()
}

/// Accepts TLS on one listener.
#[derive(Clone)]
pub struct Acceptor {
    tls: Arc<ServerConfig>,
    expires: Option<SystemTime>,
}

impl Acceptor {
    /// Reads the listener's files. TLS 1.2 and 1.3, ALPN `http/1.1`, session tickets.
    pub fn new(tls: &ListenerTls) -> Result<Acceptor, TlsFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has suites for TLS 1.2 and 1.3");
        let builder = match &tls.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => {
                let roots = Arc::new(authorities(&auth.ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                builder.with_client_cert_verifier(verify_clients(verifier, auth)?)
            }
        };
        let certificates = tls
            .certificates
            .iter()
            .map(|files| Certificate::load(files, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        let expires = certificates.iter().filter_map(Certificate::expires).min();
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.ticketer = Ticketer::new().expect("the system's random numbers can be had");
        Ok(Acceptor { tls: Arc::new(config), expires })
    }

    /// Lets clients choose HTTP/2, by ALPN.
    pub fn offering_http2(mut self) -> Acceptor {
        Arc::make_mut(&mut self.tls).alpn_protocols.insert(0, HTTP_2.to_vec());
        self
    }

    /// When the first of its certificates ends.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Shakes hands as a server.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<Stream> {
        let tls = UnbufferedServerConnection::new(self.tls.clone()).map_err(io::Error::other)?;
        let mut session = Session::server(socket, tls);
        poll_fn(|cx| session.poll_handshake(cx)).await?;
        Ok(Stream::tls(session))
    }
}

type ClientVerifier = Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>;

fn verify_clients(
    builder: tokio_rustls::rustls::server::ClientCertVerifierBuilder,
    auth: &ClientAuth,
) -> Result<ClientVerifier, TlsFault> {
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| unusable(&auth.ca, error))
}

/// The certificates of a listener in the order of its file.
#[derive(Debug)]
struct Certificates(Vec<Certificate>);

#[derive(Debug)]
struct Certificate(Arc<CertifiedKey>);

impl ResolvesServerCert for Certificates {
    /// The first that is good for the name the client asks for, else the first of all (RFC 6066
    /// §3 lets a server go on without a match).
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let matching = asked.and_then(|name| self.0.iter().find(|known| known.is_for(&name)));
        matching.or(self.0.first()).map(|certificate| certificate.0.clone())
    }
}

impl Certificate {
    fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsFault> {
        let chain = certificates(&files.chain)?;
        let key = private_key(&files.key)?;
        let pair = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                TlsFault::Mismatch { chain: files.chain.clone(), key: files.key.clone() }
            }
            Error::InvalidCertificate(_) => unusable(&files.chain, error),
            _ => unusable(&files.key, error),
        })?;
        let certificate = Certificate(Arc::new(pair));
        match certificate.parsed() {
            Ok(_) => Ok(certificate),
            Err(error) => Err(unusable(&files.chain, error)),
        }
    }

    fn parsed(&self) -> Result<ParsedCertificate<'_>, Error> {
        ParsedCertificate::try_from(self.0.end_entity_cert()?)
    }

    /// How long it has been invalid.
    fn expired_since(&self, now: UnixTime) -> Option<Duration> {
        let ended = now.as_secs().checked_sub(self.ends_before(now)?.as_secs())?;
        Some(Duration::from_secs(ended))
    }

    /// When it ends.
    fn expires(&self) -> Option<SystemTime> {
        // A verifier tells only of what has ended: it is asked in the year 9999, and of one that
        // lasts longer (RFC 5280 §4.1.2.5) nothing is told.
        const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);
        let ends = self.ends_before(UnixTime::since_unix_epoch(END_OF_TIME))?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.as_secs()))
    }

    /// When it ends, if that is before `now`. Of all that a verifier asks, the dates come first,
    /// so no authority needs to be known.
    fn ends_before(&self, now: UnixTime) -> Option<UnixTime> {
        let parsed = self.parsed().ok()?;
        let nobody = RootCertStore::empty();
        match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, &[]) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => Some(not_after),
            _ => None,
        }
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        self.parsed().is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
    }
}

/// Why a handshake as a server failed, for the counters.
pub fn failure(error: &io::Error) -> TlsFailure {
    use tokio_rustls::rustls::AlertDescription as Alert;
    let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match fault {
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => TlsFailure::NoShared,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            TlsFailure::BadCertificate
        }
        Some(Error::AlertReceived(
            Alert::HandshakeFailure
            | Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::NoApplicationProtocol,
        )) => TlsFailure::NoShared,
        Some(Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA,
        )) => TlsFailure::BadCertificate,
        Some(Error::AlertReceived(Alert::CloseNotify | Alert::UserCanceled)) => TlsFailure::Closed,
        Some(_) => TlsFailure::Other,
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => TlsFailure::Closed,
            _ => TlsFailure::Other,
        },
    }
}

fn unusable(path: &Path, error: impl ToString) -> TlsFault {
    TlsFault::Unusable { path: path.to_owned(), detail: error.to_string() }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let pem = read_file(path)?;
    let found: io::Result<Vec<_>> = rustls_pemfile::certs(&mut &pem[..]).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsFault::NoCertificate(path.to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFault> {
    let pem = read_file(path)?;
    match rustls_pemfile::private_key(&mut &pem[..]) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(TlsFault::NoKey(path.to_owned())),
        Err(error) => Err(unusable(path, error)),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|error| TlsFault::Unreadable { path: path.to_owned(), error })
}

/// Connects by TLS to servers whose authorities it trusts.
#[derive(Clone)]
pub struct Connector {
    tls: Arc<ClientConfig>,
    /// What faults call the authorities.
    roots: Arc<str>,
}

impl Connector {
    /// Trusts the authorities in the file `ca`, else those of the system, which are read once; and
    /// shows `certificate` to a server that asks. TLS 1.2 and 1.3, ALPN `http/1.1`; the sessions
    /// of one connector are resumed.
    pub fn new(
        ca: Option<&Path>,
        certificate: Option<&CertificateFiles>,
    ) -> Result<Connector, TlsFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = certificate.map(|files| Certificate::load(files, &provider));
        let (roots, called) = match ca {
            Some(path) => (Arc::new(authorities(path)?), path.display().to_string()),
            None => (system_roots()?, "this system's list".to_owned()),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = match certificate.transpose()? {
            None => builder.with_no_client_auth(),
            Some(Certificate(pair)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Connector { tls: Arc::new(config), roots: called.into() })
    }

    /// One for all that trust the system's authorities and show no certificate.
    pub fn system() -> Result<Connector, TlsFault> {
        static SYSTEM: OnceLock<Connector> = OnceLock::new();
        if let Some(connector) = SYSTEM.get() {
            return Ok(connector.clone());
        }
        let connector = Connector::new(None, None)?;
        Ok(SYSTEM.get_or_init(|| connector).clone())
    }

    /// Shakes hands as a client with the server of this name, a DNS name or an IP address without
    /// brackets. A fault says in words what is wrong with whom.
    pub async fn connect(&self, socket: TcpStream, name: &str) -> io::Result<Stream> {
        // A DNS name that ends in a dot is the same name (RFC 6066 §3 sends it without).
        let Ok(server) = ServerName::try_from(name.trim_end_matches('.').to_owned()) else {
            let fault = format!("{name:?} is neither a DNS name nor an IP address");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
        };
        let tls = UnbufferedClientConnection::new(self.tls.clone(), server);
        let mut session = Session::client(socket, tls.map_err(io::Error::other)?);
        let shaken = poll_fn(|cx| session.poll_handshake(cx)).await;
        shaken.map_err(|error| self.explain(name, error))?;
        Ok(Stream::tls(session))
    }

    fn explain(&self, name: &str, error: io::Error) -> io::Error {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some(fault) = fault else { return in_handshake(name, error) };
        let words = match fault {
            Error::InvalidCertificate(fault) => self.distrust(name, fault),
            Error::InvalidMessage(_) => format!("{name} does not speak TLS"),
            Error::AlertReceived(alert) => format!("{name} refused TLS with the alert {alert:?}"),
            other => format!("TLS with {name} failed: {other}"),
        };
        io::Error::new(io::ErrorKind::InvalidData, words)
    }

    fn distrust(&self, name: &str, fault: &CertificateError) -> String {
        match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {name} has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of {name} is not valid yet")
            }
            // A bad signature is an authority's of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("the certificate of {name} is by no authority in {}", self.roots)
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                format!("the certificate is for {} and not for {name}", names(presented))
            }
            other => format!("the certificate of {name} is not good: {other}"),
        }
    }
}

/// A handshake that broke off below TLS.
fn in_handshake(name: &str, error: io::Error) -> io::Error {
    let words = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("TLS with {name} failed: {words}"))
}

/// Of `DnsName("a.example")` and `IpAddress(10.0.0.1)` the names themselves.
fn names(presented: &[String]) -> String {
    let bare = |shown: &String| {
        let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(shown).trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name".to_owned(),
        some => some.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

/// The authorities that this system trusts, read when they are first asked for.
fn system_roots() -> Result<Arc<RootCertStore>, TlsFault> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let first = found.errors.first().map(|error| format!(" ({error})"));
        return Err(TlsFault::NoSystemRoots(first.unwrap_or_default()));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, date_time_ymd,
    };
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::{Leg, Scratch, Wire};
    use crate::ws::head::HEADROOM;

    /// An authority with a folder for what it signs.
    struct Authority {
        folder: TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Authority {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "an authority");
            let folder = tempfile::tempdir().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
            Authority { folder, issuer: Issuer::new(params, key) }
        }

        fn ca(&self) -> PathBuf {
            self.folder.path().join("ca.pem")
        }

        fn sign(&self, names: &[&str], last_year: i32) -> CertificateFiles {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(last_year, 12, 31);
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let files = CertificateFiles {
                chain: self.folder.path().join("chain.pem"),
                key: self.folder.path().join("key.pem"),
            };
            std::fs::write(&files.chain, params.signed_by(&key, &self.issuer).unwrap().pem())
                .unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }

        fn listener(&self, names: &[&str], clients: Option<&Authority>) -> Acceptor {
            let client_auth =
                clients.map(|authority| ClientAuth { ca: authority.ca(), required: true });
            let certificates = vec![self.sign(names, 4000)];
            Acceptor::new(&ListenerTls { certificates, client_auth }).unwrap()
        }
    }

    /// Both ends of a connection, as far as each got.
    async fn meet(
        acceptor: &Acceptor,
        connector: &Connector,
        name: &str,
    ) -> (io::Result<Stream>, io::Result<Stream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let client = async {
            let socket = TcpStream::connect(address).await.unwrap();
            connector.connect(socket, name).await
        };
        let both = async { tokio::join!(server, client) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("both come to an end")
    }

    async fn refused(acceptor: &Acceptor, connector: &Connector, name: &str) -> String {
        meet(acceptor, connector, name).await.1.err().expect("a fault").to_string()
    }

    async fn send(leg: &mut Leg, plain: &[u8]) {
        let mut out = Wire::default();
        let wire = leg.seal(plain, &mut out).unwrap();
        let mut sent = 0;
        while sent < wire.len() {
            sent += poll_fn(|cx| leg.poll_write(cx, &wire[sent..])).await.unwrap();
        }
    }

    async fn receive(leg: &mut Leg, most: usize) -> Vec<u8> {
        let (mut scratch, mut received) = (Scratch::new(), Vec::new());
        while received.len() < most {
            let read = poll_fn(|cx| leg.poll_read(cx, &mut scratch, most)).await.unwrap();
            assert!(read > 0, "it ended after {} bytes", received.len());
            received.extend_from_slice(&scratch.plain[HEADROOM..HEADROOM + read]);
        }
        received
    }

    #[test]
    fn a_listener_knows_when_its_first_certificate_ends() {
        let [soon, late] = [Authority::new(), Authority::new()];
        let certificates = vec![late.sign(&["a.example"], 2999), soon.sign(&["b.example"], 2099)];
        let acceptor = Acceptor::new(&ListenerTls { certificates, client_auth: None }).unwrap();
        let ends = acceptor.expires().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(ends, Duration::from_secs(4_102_358_400)); // 2099-12-31
    }

    #[tokio::test]
    async fn a_tunnel_drives_the_clients_end_of_a_connection_as_it_does_the_servers() {
        let authority = Authority::new();
        let acceptor = authority.listener(&["chat.internal"], None);
        let connector = Connector::new(Some(&authority.ca()), None).unwrap();
        // The second connection resumes the session of the first.
        for _ in 0..2 {
            let (server, client) = meet(&acceptor, &connector, "chat.internal").await;
            let (mut server, client) = (server.unwrap(), client.unwrap());
            let data: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[1]).collect();
            let echo = async {
                let mut bytes = vec![0; data.len()];
                server.read_exact(&mut bytes).await.unwrap();
                server.write_all(&bytes).await.unwrap();
                server.flush().await.unwrap();
            };
            let mut leg = client.into_leg();
            let (back, ()) = tokio::join!(
                async {
                    send(&mut leg, &data).await;
                    receive(&mut leg, data.len()).await
                },
                echo
            );
            assert!(back == data);
        }
    }

    #[tokio::test]
    async fn what_a_full_socket_did_not_take_of_http_goes_before_a_tunnel() {
        let authority = Authority::new();
        let acceptor = authority.listener(&["a.example"], None);
        let connector = Connector::new(Some(&authority.ca()), None).unwrap();
        let (server, client) = meet(&acceptor, &connector, "a.example").await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let (piece, mut said) = (vec![7; 60_000], 0);
        // The client reads nothing: a piece is taken whole, and the next finds the last one waiting.
        while let Poll::Ready(taken) =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_write(cx, &piece))).await
        {
            said += taken.unwrap();
        }
        let mut leg = server.into_leg();
        let unsent = leg.take_unsent();
        assert!(!unsent.is_empty() && leg.take_unsent().is_empty());
        let write = async {
            let mut rest = unsent.bytes();
            while !rest.is_empty() {
                let taken = poll_fn(|cx| leg.poll_write(cx, rest)).await.unwrap();
                rest = &rest[taken..];
            }
            send(&mut leg, b"the end").await;
        };
        let read = async {
            let mut read = vec![0; said + 7];
            client.read_exact(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(write, read);
        assert!(read[..said].iter().all(|byte| *byte == 7) && read.ends_with(b"the end"));
    }

    #[tokio::test]
    async fn a_server_is_called_by_its_name_or_its_address() {
        let authority = Authority::new();
        let acceptor = authority.listener(&["chat.internal", "127.0.0.1", "::1"], None);
        let connector = Connector::new(Some(&authority.ca()), None).unwrap();
        for name in ["chat.internal", "CHAT.internal.", "127.0.0.1", "::1"] {
            let (_, client) = meet(&acceptor, &connector, name).await;
            assert!(client.is_ok(), "{name}: {:?}", client.err());
        }
        let words = refused(&acceptor, &connector, "chat internal").await;
        assert_eq!(words, "\"chat internal\" is neither a DNS name nor an IP address");
    }

    #[tokio::test]
    async fn faults_of_a_certificate_are_told_in_words() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let acceptor = authority.listener(&["a.example", "10.0.0.1"], None);
        let ca = authority.ca();
        let connector = Connector::new(Some(&ca), None).unwrap();
        let words = refused(&acceptor, &connector, "b.example").await;
        assert_eq!(words, "the certificate is for a.example, 10.0.0.1 and not for b.example");

        let other = Connector::new(Some(&stranger.ca()), None).unwrap();
        let words = refused(&acceptor, &other, "a.example").await;
        let file = stranger.ca();
        let wanted =
            format!("the certificate of a.example is by no authority in {}", file.display());
        assert_eq!(words, wanted);

        let certificates = vec![authority.sign(&["a.example"], 2001)];
        let expired = Acceptor::new(&ListenerTls { certificates, client_auth: None }).unwrap();
        let words = refused(&expired, &connector, "a.example").await;
        assert_eq!(words, "the certificate of a.example has expired");
    }

    #[tokio::test]
    async fn a_server_that_asks_is_shown_a_certificate() {
        let authority = Authority::new();
        let acceptor = authority.listener(&["a.example"], Some(&authority));
        let own = authority.sign(&["edge"], 4000);
        let known = Connector::new(Some(&authority.ca()), Some(&own)).unwrap();
        let (server, _) = meet(&acceptor, &known, "a.example").await;
        assert!(server.is_ok(), "{:?}", server.err());
        let nobody = Connector::new(Some(&authority.ca()), None).unwrap();
        let (server, _) = meet(&acceptor, &nobody, "a.example").await;
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn a_server_that_closes_is_told_from_one_that_lies() {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        let connector = Connector::new(Some(&authority.ca()), None).unwrap();
        let words = connector.connect(socket, "a.example").await.err().unwrap().to_string();
        assert!(words.starts_with("TLS with a.example failed: "), "{words}");
    }

    #[test]
    fn files_that_are_no_good_are_named() {
        let authority = Authority::new();
        let fault = Connector::new(Some(Path::new("/none/ca.pem")), None).err().unwrap();
        assert_eq!(fault.path(), Some(Path::new("/none/ca.pem")));
        let mut files = authority.sign(&["edge"], 4000);
        files.key = authority.ca();
        let fault = Connector::new(Some(&authority.ca()), Some(&files)).err().unwrap();
        assert!(matches!(fault, TlsFault::NoKey(path) if path == authority.ca()));
    }

    #[test]
    fn a_leg_is_no_larger_for_what_tls_needs() {
        assert_eq!(size_of::<Leg>(), size_of::<TcpStream>() + size_of::<usize>());
    }
}

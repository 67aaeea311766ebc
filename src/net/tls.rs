//! TLS: the one file that names the library.
//!
//! A listener's files become an [`Acceptor`]. A handshake runs on tokio-rustls; afterwards a
//! tunnel takes the parts and drives them itself as a [`Session`]: one large read from the socket
//! into the worker's scratch, opened there, and records sealed into the worker's scratch.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, Ticketer};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig, ServerConnection};

use super::leg;
use crate::config::{CertificateFiles, ClientAuth, ListenerTls};

/// A TLS connection whose handshake is done, as HTTP reads and writes it.
pub type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Why a listener's TLS cannot be set up: which file, and what is wrong with it.
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
}

impl TlsFault {
    /// The file that is to blame.
    pub fn path(&self) -> &Path {
        match self {
            TlsFault::Unreadable { path, .. } | TlsFault::Unusable { path, .. } => path,
            TlsFault::NoCertificate(path) | TlsFault::NoKey(path) => path,
            TlsFault::Mismatch { key, .. } => key,
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

/// Accepts TLS on one listener.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

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
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new().expect("the system's random numbers can be had");
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands as a server.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<ServerStream> {
        self.0.accept(socket).await
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

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        self.parsed().is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
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

/// A TLS connection in the hands of a tunnel.
pub struct Session {
    socket: TcpStream,
    tls: ServerConnection,
}

impl From<ServerStream> for Session {
    fn from(stream: ServerStream) -> Session {
        let (socket, tls) = stream.into_inner();
        Session { socket, tls }
    }
}

impl Session {
    /// Reads from the socket through `wire` and opens records into `plain`, which has room for
    /// all of `wire` and one record more. 0 is the peer's end, with close_notify or without.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut [u8],
        plain: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut opened = 0;
        loop {
            let ended = self.take_plain(plain, &mut opened)?;
            if opened > 0 || ended {
                return Poll::Ready(Ok(opened));
            }
            let read = ready!(leg::read(&mut self.socket, cx, wire))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            self.open(&wire[..read], plain, &mut opened)?;
        }
    }

    /// Gives wire bytes to TLS, which takes a few KiB at a time, and takes what it opens.
    fn open(&mut self, mut wire: &[u8], plain: &mut [u8], opened: &mut usize) -> io::Result<()> {
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire)?;
            self.tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if self.take_plain(plain, opened)? {
                break;
            }
        }
        Ok(())
    }

    /// Appends opened bytes to `plain[..*opened]`; `true` once the peer has said close_notify.
    fn take_plain(&mut self, plain: &mut [u8], opened: &mut usize) -> io::Result<bool> {
        loop {
            match self.tls.reader().read(&mut plain[*opened..]) {
                Ok(0) => return Ok(*opened < plain.len()),
                Ok(read) => *opened += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends the records of `plain` to `out`, behind whatever TLS has to say for itself.
    pub(super) fn seal(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !plain.is_empty() {
            let taken = self.tls.writer().write(plain)?;
            plain = &plain[taken..];
            self.take_wire(out)?;
        }
        self.take_wire(out)
    }

    pub(super) fn seal_end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.tls.send_close_notify();
        self.take_wire(out)
    }

    fn take_wire(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(out)?;
        }
        Ok(())
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        wire: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, wire)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

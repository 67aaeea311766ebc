//! Certificates of an authority made for the test, and clients that trust it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority, its certificates in files as the edge reads them.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

/// One per test program; its files stay until the program ends.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

/// A client of the test's authority that shows no certificate.
pub fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| Arc::new(authority().client(&[]))).clone()
}

pub async fn connect_tls(
    address: SocketAddr,
    name: &'static str,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(name).expect("a server's name");
    TlsConnector::from(config).connect(name, socket).await
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority's parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named("wsgate test authority");
        let certificate = params.self_signed(&key).expect("a self-signed certificate");
        let folder = tempfile::tempdir().expect("a folder for certificates");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("ca.pem");
        let certificate = certificate.der().clone();
        Authority { issuer: Issuer::new(params, key), certificate, folder }
    }

    /// One that nobody trusts who was not told to.
    pub fn unknown() -> Authority {
        Authority::new()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `{ chain = …, key = … }` of a new server certificate for `name` and the listeners' addresses.
    pub fn server(&self, name: &str) -> String {
        self.files(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// `{ chain = …, key = … }` of a new certificate that a client may show.
    pub fn client_files(&self, name: &str) -> String {
        self.files(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server with a certificate for these names and no others.
    pub fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        self.acceptor_of(names, |_| {}, false)
    }

    pub fn expired_acceptor(&self, name: &str) -> TlsAcceptor {
        let expire = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        };
        self.acceptor_of(&[name], expire, false)
    }

    /// A server that wants a certificate of this authority.
    pub fn demanding_acceptor(&self, name: &str) -> TlsAcceptor {
        self.acceptor_of(&[name], |_| {}, true)
    }

    fn acceptor_of(
        &self,
        names: &[&str],
        change: impl Fn(&mut CertificateParams),
        demanding: bool,
    ) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("a certificate's parameters");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
        let builder = ServerConfig::builder();
        let builder = match demanding {
            false => builder.with_no_client_auth(),
            true => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots())).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(vec![certificate.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.expect("a certificate and its key")))
    }

    fn files(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> String {
        let (certificate, key) = self.issue(name, usage);
        let chain = self.file(&format!("{name}.{}.pem", serial()));
        let key_file = chain.with_extension("key");
        std::fs::write(&chain, certificate.pem()).expect("a certificate's file");
        std::fs::write(&key_file, key.serialize_pem()).expect("a key's file");
        format!("{{ chain = {chain:?}, key = {key_file:?} }}")
    }

    /// A client that takes only `versions` (empty: the usual ones) and shows no certificate.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let builder = if versions.is_empty() {
            ClientConfig::builder()
        } else {
            ClientConfig::builder_with_protocol_versions(versions)
        };
        builder.with_root_certificates(self.roots()).with_no_client_auth()
    }

    /// A client that shows a certificate of this authority.
    pub fn client_with_certificate(&self, name: &str) -> ClientConfig {
        self.client_shown(self.issue(name, ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// A client that shows a certificate of an authority that nobody knows.
    pub fn client_with_foreign_certificate(&self, name: &str) -> ClientConfig {
        self.client_shown(Authority::new().issue(name, ExtendedKeyUsagePurpose::ClientAuth))
    }

    fn client_shown(&self, (certificate, key): (rcgen::Certificate, KeyPair)) -> ClientConfig {
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
        ClientConfig::builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority's certificate");
        roots
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let names = [name, "127.0.0.1", "127.0.0.2"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names).expect("a certificate's parameters");
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).expect("a signature"), key)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Keeps the files of certificates for one name apart.
fn serial() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

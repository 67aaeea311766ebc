//! The certificate all proxies serve, and the TLS the load speaks to them.
//!
//! The client offers exactly one protocol version, one cipher suite and one group, so that no
//! proxy wins or loses by what its library prefers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An ECDSA P-256 certificate for localhost, signed by itself, in files.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in `folder`: chain, key, and both in one file as HAProxy wants them.
    pub fn make(folder: &Path) -> anyhow::Result<Certificate> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let at = Certificate { chain: folder.join("chain.pem"), key: folder.join("key.pem") };
        fs::write(&at.chain, &chain)?;
        fs::write(&at.key, &key)?;
        fs::write(at.both(), chain + &key)?;
        Ok(at)
    }

    pub fn both(&self) -> PathBuf {
        self.chain.with_file_name("both.pem")
    }

    /// A client that trusts this certificate and resumes nothing.
    pub fn connector(&self) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.chain).context("the chain")?)?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// A server with this certificate and rustls' defaults: the bare relay's.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let chain = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .context("the chain")?;
        let key = PrivateKeyDer::from_pem_file(&self.key).context("the key")?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

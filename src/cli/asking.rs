//! Asking the admin interface of a running process, for the commands that do.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::{Admin, AdminAddress, Config, admin_address, read_token};

/// For one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer: the metrics of some thousand routes.
const LARGEST: usize = 16 << 20;

/// Whom to ask.
#[derive(clap::Args)]
pub struct Whom {
    /// The configuration whose [admin] says where the process listens
    #[arg(long, short, value_name = "FILE", required_unless_present = "admin")]
    config: Option<PathBuf>,
    /// Where it listens, in place of what the configuration says: "ip:port" or "unix:/path"
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// The file of the token, in place of what the configuration says
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Where a process listens, and what opens its door.
pub struct Door {
    pub address: AdminAddress,
    token: Option<String>,
}

/// Nobody listens there, or whoever did has closed.
#[derive(Debug, thiserror::Error)]
#[error("nobody answers at {0}: {1}")]
pub struct Gone(String, String);

impl Door {
    pub fn of(whom: Whom) -> anyhow::Result<Door> {
        let Whom { config, admin, token_file } = whom;
        let configured = config.as_deref().map(configured).transpose()?.flatten();
        let (listen, file) = match configured {
            Some(admin) => (admin.listen, admin.token_file),
            None => (None, None),
        };
        let address = admin.or(listen).context("the configuration has no `listen` in [admin]")?;
        let token = token_file.or(file).as_deref().map(read_token).transpose()?;
        Ok(Door { address, token })
    }

    /// The body of an answer of this status; any other is an error that says what it said.
    pub async fn ask(
        &self,
        method: Method,
        target: &str,
        wanted: StatusCode,
    ) -> anyhow::Result<Bytes> {
        let asking = async {
            match &self.address {
                AdminAddress::Tcp(at) => {
                    let stream = TcpStream::connect(at).await.map_err(|fault| self.gone(fault))?;
                    self.exchange(stream, &at.to_string(), method, target).await
                }
                AdminAddress::Unix(path) => {
                    let stream =
                        UnixStream::connect(path).await.map_err(|fault| self.gone(fault))?;
                    self.exchange(stream, "localhost", method, target).await
                }
            }
        };
        let answer = timeout(PATIENCE, asking).await;
        let (status, body) =
            answer.with_context(|| format!("{} does not answer", self.address))??;
        if status != wanted {
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = answer["detail"].as_str().unwrap_or("that is not wsgate");
            bail!("{} answered {status}: {detail}", self.address);
        }
        Ok(body)
    }

    fn gone(&self, fault: impl Display) -> Gone {
        Gone(self.address.to_string(), fault.to_string())
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        method: Method,
        target: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|fault| self.gone(fault))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await.map_err(|fault| self.gone(fault))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|fault| self.gone(fault))?;
        Ok((head.status, body.to_bytes()))
    }
}

fn configured(file: &Path) -> anyhow::Result<Option<Admin>> {
    Ok(Config::load(file)?.config.admin)
}

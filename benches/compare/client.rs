//! A client of the proxy under test: connects, upgrades, sends, and checks what comes back.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wsgate::net::socket::bind_source;

use crate::backend::header;
use crate::frame::{self, broken};
use crate::link::{End, KEY, Link};

/// A nonce, the same for all: the key proves a handshake, it keeps no secret (RFC 6455 §4.1).
const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Where the proxy listens, and whether it speaks TLS there.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// The local address to connect from; the kernel chooses where there is none.
    pub source: Option<Ipv4Addr>,
    pub tls: Option<TlsConnector>,
    /// What it shows of itself.
    pub token: Option<String>,
}

impl Target {
    /// Connects, shakes hands and upgrades.
    pub async fn connect(&self) -> io::Result<Link> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.source {
            bind_source(&socket, source.into())?;
        }
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let mut link = match &self.tls {
            None => Link::new(Box::new(socket), End::Client),
            Some(tls) => {
                let name = ServerName::try_from("localhost").expect("a valid name");
                Link::new(Box::new(tls.connect(name, socket).await?), End::Client)
            }
        };
        self.upgrade(&mut link).await?;
        Ok(link)
    }

    async fn upgrade(&self, link: &mut Link) -> io::Result<()> {
        let token = self.token.as_ref();
        let token =
            token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {NONCE}\r\n{token}\r\n",
            self.address.port()
        );
        link.send(request.as_bytes()).await?;
        let answer = link.http_head().await?;
        if !answer.starts_with("HTTP/1.1 101 ") {
            let line = answer.lines().next().unwrap_or_default();
            return Err(broken(&format!("the upgrade was answered {line:?}")));
        }
        match header(&answer, "sec-websocket-accept") {
            Some(accept) if accept == derive_accept_key(NONCE.as_bytes()) => Ok(()),
            _ => Err(broken("a wrong Sec-WebSocket-Accept")),
        }
    }
}

/// Closes in order: Close, its answer, and the end of the connection by the proxy.
pub async fn close(mut link: Link) -> io::Result<()> {
    let mut farewell = Vec::new();
    frame::write(&mut farewell, frame::CLOSE, Some(KEY), &1000u16.to_be_bytes());
    link.send(&farewell).await?;
    let answer = link.next().await?;
    if answer.opcode != frame::CLOSE || *link.payload(answer) != 1000u16.to_be_bytes() {
        return Err(broken("a Close was not answered by the like"));
    }
    link.consume(answer);
    match link.next().await {
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => link.shutdown().await,
        Err(error) => Err(error),
        Ok(_) => Err(broken("a frame behind a Close")),
    }
}

/// One message to be echoed, made once and stamped anew each time it goes out.
///
/// Its first eight payload bytes are a number, the rest is a pattern, so that a lost, doubled,
/// swapped or damaged echo shows by one comparison.
#[derive(Clone)]
pub struct Message {
    masked: Vec<u8>,
    expected: Vec<u8>,
    /// Where the stamp is: `masked` has the longer head, by its key.
    stamp: usize,
}

impl Message {
    /// A binary message of `size` payload bytes, at least 8.
    pub fn new(size: usize) -> Message {
        let payload: Vec<u8> = (0..size).map(|at| (at * 31 + at / 251) as u8).collect();
        let (mut masked, mut expected) = (Vec::new(), Vec::new());
        frame::write(&mut masked, frame::BINARY, Some(KEY), &payload);
        frame::write(&mut expected, frame::BINARY, None, &payload);
        let stamp = masked.len() - size;
        Message { masked, expected, stamp }
    }

    /// The bytes that send this message as number `number`.
    pub fn stamped(&mut self, number: u64) -> &[u8] {
        let mut stamp = number.to_be_bytes();
        frame::mask(&mut stamp, KEY);
        self.masked[self.stamp..self.stamp + 8].copy_from_slice(&stamp);
        &self.masked
    }

    /// Checks a frame received, head and all, and gives its number.
    pub fn number(&self, received: &[u8]) -> io::Result<u64> {
        let at = self.stamp - KEY.len();
        let Some(stamp) = received.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return Err(broken("an echo too short"));
        };
        if received[..at] != self.expected[..at] || received[at + 8..] != self.expected[at + 8..] {
            return Err(broken("an echo that differs from what was sent"));
        }
        Ok(u64::from_be_bytes(*stamp))
    }
}

//! The upstream: a listener whose every answer is the test's.

use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::http::{Message, accept_of};
use super::peer::Peer;
use super::soon;

pub struct Backend {
    listener: Listener,
    /// As an upstream's `endpoints` names it.
    pub address: String,
    _folder: Option<TempDir>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What the edge asked of its upstream, not yet answered.
pub struct Request {
    pub head: Message,
    peer: Peer,
}

impl Backend {
    pub async fn tcp() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the backend");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        Backend { listener: Listener::Tcp(listener), address, _folder: None }
    }

    pub async fn unix() -> Backend {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).expect("a unix socket");
        let address = format!("unix:{}", path.display());
        Backend { listener: Listener::Unix(listener), address, _folder: Some(folder) }
    }

    /// An address where nobody listens.
    pub async fn nobody() -> String {
        Backend::tcp().await.address.clone()
    }

    /// The next connection of the edge, with nothing read from it.
    pub async fn connection(&self) -> Peer {
        soon("the edge dials its upstream", async {
            match &self.listener {
                Listener::Tcp(listener) => {
                    let (socket, _) = listener.accept().await.expect("accept");
                    socket.set_nodelay(true).expect("TCP_NODELAY");
                    Peer::upstream(socket)
                }
                Listener::Unix(listener) => {
                    Peer::upstream(listener.accept().await.expect("accept").0)
                }
            }
        })
        .await
    }

    /// The next connection of the edge, with its request read.
    pub async fn accept(&self) -> Request {
        let mut peer = self.connection().await;
        let head = peer.reader.head().await;
        Request { head, peer }
    }

    /// The same where the edge speaks TLS.
    pub async fn accept_tls(&self, acceptor: &TlsAcceptor) -> Request {
        let mut peer = soon("the edge dials its upstream by TLS", async {
            match &self.listener {
                Listener::Tcp(listener) => {
                    let socket = listener.accept().await.expect("accept").0;
                    Peer::upstream(acceptor.accept(socket).await.expect("a TLS handshake"))
                }
                Listener::Unix(listener) => {
                    let socket = listener.accept().await.expect("accept").0;
                    Peer::upstream(acceptor.accept(socket).await.expect("a TLS handshake"))
                }
            }
        })
        .await;
        let head = peer.reader.head().await;
        Request { head, peer }
    }
}

impl Request {
    /// A proper 101, with further header lines (each ending in CRLF).
    pub fn switching(&self, lines: &str) -> String {
        let key = self.head.header("sec-websocket-key").expect("the edge sends a key");
        let accept = accept_of(key);
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
        )
    }

    pub async fn upgrade(self, lines: &str) -> Peer {
        let answer = self.switching(lines);
        self.answer(answer).await
    }

    pub async fn answer(mut self, bytes: impl AsRef<[u8]>) -> Peer {
        self.peer.send(bytes.as_ref()).await;
        self.peer
    }

    /// Answers nothing yet.
    pub fn silent(self) -> Peer {
        self.peer
    }
}

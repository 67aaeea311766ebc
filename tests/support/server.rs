//! A server that may be ill, be killed and come back, and that counts who comes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::http::{Message, accept_of};
use super::soon;

/// How a server answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// An upgrade with a 101, anything else with 200.
    Well,
    Status(u16),
    /// A 101 whose accept is of another key.
    Lies,
    /// A 200 whose body has no end.
    Endless,
    /// It reads and says nothing.
    Silent,
}

pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// All its connections; `None` while it is down.
    running: Option<JoinSet<()>>,
}

struct Shared {
    manner: Mutex<Manner>,
    tls: Option<TlsAcceptor>,
    /// From where it was dialled.
    dials: Mutex<Vec<SocketAddr>>,
    /// Upgrades of clients.
    upgrades: AtomicUsize,
    probes: Mutex<Vec<Message>>,
    /// What probes sent behind their upgrade.
    goodbyes: Mutex<Vec<Vec<u8>>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::at("127.0.0.1:0".parse().expect("an address"), None).await
    }

    pub async fn start_tls(tls: TlsAcceptor) -> Server {
        Server::at("127.0.0.1:0".parse().expect("an address"), Some(tls)).await
    }

    /// A server whose port nobody listens on yet.
    pub async fn down() -> Server {
        let mut server = Server::start().await;
        server.kill().await;
        server
    }

    pub async fn at(address: SocketAddr, tls: Option<TlsAcceptor>) -> Server {
        let shared = Arc::new(Shared {
            manner: Mutex::new(Manner::Well),
            tls,
            dials: Mutex::default(),
            upgrades: AtomicUsize::new(0),
            probes: Mutex::default(),
            goodbyes: Mutex::default(),
        });
        let mut server = Server { address, shared, running: None };
        server.come_back().await;
        server
    }

    /// Listens (again), at the port it had.
    pub async fn come_back(&mut self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind(self.address).expect("the server's port is free");
        let listener = socket.listen(128).expect("a listening socket");
        self.address = listener.local_addr().expect("it is bound");
        let mut running = JoinSet::new();
        running.spawn(accept(listener, self.shared.clone()));
        self.running = Some(running);
    }

    /// Stops listening and drops every connection.
    pub async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            soon("the server ends", running.shutdown()).await;
        }
    }

    pub fn behaves(&self, manner: Manner) {
        *self.shared.manner.lock().expect("the manner") = manner;
    }

    /// As an upstream's `endpoints` names it.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub fn upgrades(&self) -> usize {
        self.shared.upgrades.load(Ordering::SeqCst)
    }

    pub fn dials(&self) -> Vec<SocketAddr> {
        self.shared.dials.lock().expect("the dials").clone()
    }

    pub fn probes(&self) -> Vec<Message> {
        self.shared.probes.lock().expect("the probes").clone()
    }

    pub fn goodbyes(&self) -> Vec<Vec<u8>> {
        self.shared.goodbyes.lock().expect("the goodbyes").clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, from) = listener.accept().await.expect("accept");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        while connections.try_join_next().is_some() {}
        shared.dials.lock().expect("the dials").push(from);
        let shared = shared.clone();
        connections.spawn(async move {
            match shared.tls.clone() {
                None => serve(socket, &shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(stream, &shared).await;
                    }
                }
            }
        });
    }
}

/// Answers one request; an upgraded connection stays until the edge ends it.
async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let Some(head) = head(&mut socket).await else { return };
    let agent = head.header("user-agent").unwrap_or_default();
    let is_probe = agent.contains("health probe");
    let key = head.header("sec-websocket-key");
    match key {
        _ if is_probe => shared.probes.lock().expect("the probes").push(head.clone()),
        Some(_) => drop(shared.upgrades.fetch_add(1, Ordering::SeqCst)),
        None => {}
    }
    let manner = *shared.manner.lock().expect("the manner");
    let answer = match (manner, key) {
        (Manner::Silent, _) => return drop(socket.read_u8().await),
        (Manner::Status(status), _) => plain(status),
        (Manner::Endless, _) => {
            let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
            let _ = socket.write_all(begun.as_bytes()).await;
            return drop(socket.read_u8().await);
        }
        (Manner::Well, None) => plain(200),
        (Manner::Well, Some(key)) => switching(key),
        (Manner::Lies, _) => switching("AAAAAAAAAAAAAAAAAAAAAA=="),
    };
    let _ = socket.write_all(answer.as_bytes()).await;
    if manner == Manner::Well && key.is_some() {
        let mut rest = vec![0; 1024];
        while let Ok(size @ 1..) = socket.read(&mut rest).await {
            if is_probe {
                shared.goodbyes.lock().expect("the goodbyes").push(rest[..size].to_vec());
                break;
            }
        }
    }
    let _ = socket.shutdown().await;
}

async fn head(socket: &mut (impl AsyncRead + Unpin)) -> Option<Message> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(socket.read_u8().await.ok()?);
    }
    Some(Message::parse(&read[..read.len() - 4]))
}

fn plain(status: u16) -> String {
    format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
}

fn switching(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key)
    )
}

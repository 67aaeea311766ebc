//! The app server behind the proxy: accepts every upgrade, echoes every message, answers a Close.
//!
//! It runs in the load's own thread. A message is read whole before it is echoed, so that a client
//! which writes before it reads cannot lock itself up against full socket buffers.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frame::{self, Head, broken};
use crate::link::{End, Link};

/// An echo server on a port of the kernel's choice; it ends when this is dropped.
pub struct Backend {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Backend {
    pub async fn start() -> io::Result<Backend> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Backend { address, accepting: tokio::spawn(accept(listener)) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        // An error ends its own connection only: the load sees it from the other side and says so.
        connections.spawn(serve(socket));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut link = Link::new(Box::new(socket), End::Server);
    upgrade(&mut link).await?;
    let mut answer = Vec::new();
    loop {
        let head = link.next().await?;
        answer.clear();
        echo(&mut link, head, &mut answer)?;
        link.send(&answer).await?;
        if head.opcode == frame::CLOSE {
            return link.shutdown().await;
        }
    }
}

async fn upgrade(link: &mut Link) -> io::Result<()> {
    let head = link.http_head().await?;
    let key = header(&head, "sec-websocket-key").ok_or_else(|| broken("no Sec-WebSocket-Key"))?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    link.send(answer.as_bytes()).await
}

fn echo(link: &mut Link, head: Head, answer: &mut Vec<u8>) -> io::Result<()> {
    let key = head.key.ok_or_else(|| broken("a client's frame without a mask"))?;
    let payload = link.payload(head);
    frame::mask(payload, key);
    frame::write(answer, head.opcode, None, payload);
    link.consume(head);
    Ok(())
}

/// The value of a header of this HTTP head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

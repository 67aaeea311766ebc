//! A service that a route asks whom it lets in.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An authorizer that names, as `x-user-id`, whom the client names as `x-user`.
pub async fn naming_authorizer() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = socket.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let user = head.lines().find_map(|line| line.strip_prefix("x-user: "));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nx-user-id: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    user.unwrap_or("nobody")
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

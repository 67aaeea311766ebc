//! What the tests of the whole program stand on.
//!
//! The built program is started with a file of its own and driven over real sockets: [`Edge`] is
//! the process and its log, [`Peer`] a connection to it whose every byte is the test's to choose,
//! [`Backend`] the upstream, which may lie. Nothing here uses the library under test. Everything
//! has a deadline, and none of it waits for longer than it must.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

mod admin;
mod authorizer;
mod backend;
mod edge;
mod frame;
mod http;
mod peer;
mod program;
mod server;
mod streams;
mod tls;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use admin::{Admin, samples};
pub use authorizer::naming_authorizer;
pub use backend::{Backend, Request};
pub use edge::{Config, Edge, Line, can_have_hosts, ended, not_reloaded, reloaded};
pub use frame::{BINARY, CLOSE, CONTINUATION, Close, Frame, Head, Length, PING, PONG, TEXT};
pub use http::{KEY, Message, Upgrade, accept_of};
pub use peer::{End, Event, Peer, Reader, Writer};
pub use program::{
    Ended, Program, chromium, has_packages, node, python, python_knows, run, wsgate,
};
pub use server::{Manner, Server};
pub use streams::{Answer, Over, Stream, Streams, connect, connect_with};
pub use tls::{Authority, Pair, authority, client_config, connect_tls};

/// How long a test waits for what must happen soon. Long, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` gives, or a panic that names what did not happen in time.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("within {limit:?} this did not happen: {what}"),
    }
}

/// Says that a test, or a part of one, was not run, and why: past libtest, which keeps what a test
/// that passes has printed.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(PATIENCE, what, future).await
}

/// Both ends of one tunnel: a client over TLS and the upstream it reached.
pub async fn open(edge: &Edge, backend: &Backend) -> (Peer, Peer) {
    open_as(edge, backend, Upgrade::to("/"), "").await
}

/// The same for a request of the test's own; `answer` are further lines of the upstream's 101.
pub async fn open_as(
    edge: &Edge,
    backend: &Backend,
    request: Upgrade,
    answer: &str,
) -> (Peer, Peer) {
    let client = async {
        let mut client = edge.connect().await;
        client.upgrade(request).await;
        client
    };
    let upstream = async { backend.accept().await.upgrade(answer).await };
    tokio::join!(client, upstream)
}

/// Sends a text through a tunnel and takes it out on the other side, both ways.
pub async fn relay(client: &mut Peer, upstream: &mut Peer, text: &str) {
    client.send_frame(Frame::text(text)).await;
    assert_eq!(upstream.frame().await.payload, text.as_bytes());
    upstream.send_frame(Frame::text(text)).await;
    assert_eq!(client.frame().await.payload, text.as_bytes());
}

/// Waits until a count that others raise has stood still for a while.
pub async fn stalled(count: &AtomicU64) {
    soon("the count comes to a stand", async {
        let mut last = (0, Instant::now());
        while last.0 == 0 || last.1.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = count.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    })
    .await;
}

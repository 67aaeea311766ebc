//! Peers that stall, leak, flood and babble: each ends at its deadline, nothing stays behind, and
//! the process serves on.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{
    Backend, Config, Edge, End, Frame, Peer, Upgrade, client_config, connect_tls, open, python,
    python_knows, skip, soon, within,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a thousand connections may leave in the process: less than 4 KiB each, which is the
/// allocator's. A leak of anything that a connection owns would be more.
const SLACK: usize = 4 << 20;

/// A peer that stops somewhere.
#[derive(Clone, Copy, Debug)]
enum Stall {
    /// Connected to the plain listener, and silent.
    Plain,
    /// Connected to the TLS listener, and silent.
    Tls,
    /// Half a ClientHello.
    MidHello,
    /// TLS spoken, no request.
    NoHead,
    /// TLS spoken, half a head.
    MidHead,
}

#[tokio::test]
async fn a_thousand_half_open_connections_end_at_their_deadline() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .workers(2)
        .listener("timeouts = { tls = \"2s\", header = \"2s\" }")
        .listener("limits.pending = 5000")
        .start()
        .await;
    warm(&edge, &backend).await;
    let (descriptors, memory) = (edge.descriptors(), edge.resident());
    half_open(&edge).await;
    edge.descriptors_fall_to(descriptors).await;
    edge.resident_falls_to(memory + SLACK).await;
    open(&edge, &backend).await;
}

/// A thousand connections that stall, to their end.
async fn half_open(edge: &Edge) {
    let mut stalls = JoinSet::new();
    for number in 0..1000 {
        let stall = match number % 5 {
            0 => Stall::Plain,
            1 => Stall::Tls,
            2 => Stall::MidHello,
            3 => Stall::NoHead,
            _ => Stall::MidHead,
        };
        let mut peer = stalled(edge, stall).await;
        let started = Instant::now();
        stalls.spawn(async move {
            within(Duration::from_secs(15), "the edge hangs up", async {
                while peer.reader.next_bytes().await.is_some() {}
            })
            .await;
            (stall, started.elapsed())
        });
    }
    for (stall, lasted) in stalls.join_all().await {
        assert!(lasted < Duration::from_secs(10), "{stall:?} lasted {lasted:?}");
    }
}

#[tokio::test]
async fn nobody_is_cut_before_the_deadline() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("timeouts = { tls = \"1500ms\", header = \"1500ms\" }")
        .start()
        .await;
    for stall in [Stall::Plain, Stall::Tls, Stall::MidHello, Stall::NoHead, Stall::MidHead] {
        let mut peer = stalled(&edge, stall).await;
        assert!(peer.reader.silent_for(Duration::from_millis(1000)).await, "{stall:?}");
        soon("the edge hangs up", async { while peer.reader.next_bytes().await.is_some() {} })
            .await;
    }
}

#[tokio::test]
async fn a_thousand_tunnels_leave_nothing_behind() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).workers(2).close("500ms").start().await;
    warm(&edge, &backend).await;
    let (descriptors, memory) = (edge.descriptors(), edge.resident());
    for round in 0..10 {
        let mut pairs = Vec::new();
        for _ in 0..100 {
            pairs.push(open(&edge, &backend).await);
        }
        for (number, (mut client, mut upstream)) in pairs.into_iter().enumerate() {
            match number % 5 {
                0 => client.reset(),
                1 => upstream.reset(),
                2 => client.send_frame(Frame::close(1000, "")).await,
                3 => upstream.send(&[0xFF; 20]).await,
                _ => client.send(&Frame::binary(vec![0; 5000]).masked(true).encode()[..999]).await,
            }
        }
        edge.wait_for_logs((round + 1) * 100, |line| {
            support::ended(line) && line["endpoint"] == backend.address.as_str()
        })
        .await;
    }
    edge.descriptors_fall_to(descriptors).await;
    edge.resident_falls_to(memory + SLACK).await;
}

#[tokio::test]
async fn over_the_pending_limit_the_oldest_goes() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("limits.pending = 10\ntimeouts = { tls = \"60s\", header = \"60s\" }")
        .start()
        .await;
    let mut pending = Vec::new();
    for _ in 0..10 {
        pending.push(stalled(&edge, Stall::MidHead).await);
    }
    // Handshakes must be over before the next one is counted against the ten.
    let mut served = Vec::new();
    for oldest in pending.iter_mut().take(3) {
        let client = edge.connect().await;
        soon("the oldest is closed", async { while oldest.reader.next_bytes().await.is_some() {} })
            .await;
        served.push(client);
    }
    for younger in &mut pending[3..] {
        assert!(younger.reader.silent_for(Duration::from_millis(50)).await);
    }
    // One whose head is whole is pending no more.
    let mut client = served.pop().expect("three were served");
    let upstream = async { backend.accept().await.upgrade("").await };
    tokio::join!(client.upgrade(Upgrade::to("/")), upstream);
}

#[tokio::test]
async fn over_the_connection_limit_accepting_pauses() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).listener("limits.connections = 5").start().await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        kept.push(open(&edge, &backend).await);
    }
    let mut sixth = Peer::client(TcpStream::connect(edge.tls).await.expect("the backlog takes it"));
    assert!(sixth.reader.silent_for(Duration::from_millis(300)).await);
    drop(sixth);
    let waiting = async {
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
    };
    let leaving = async {
        drop(kept.pop());
        backend.accept().await.upgrade("").await
    };
    soon("the sixth is served once another has left", async { tokio::join!(waiting, leaving) })
        .await;
}

#[tokio::test]
async fn over_the_connection_limit_idle_ones_go_first() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("limits.connections = 5")
        .route("path = \"/ws\"")
        .start()
        .await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        let mut client = edge.connect().await;
        assert_eq!(client.ask(Upgrade::to("/")).await.status(), 404);
        idle.push(client);
    }
    let mut client = edge.connect().await;
    let upstream = async { backend.accept().await.upgrade("").await };
    tokio::join!(client.upgrade(Upgrade::to("/ws")), upstream);
    let mut gone = 0;
    for client in &mut idle {
        gone += usize::from(!client.reader.silent_for(Duration::from_millis(50)).await);
    }
    assert_eq!(gone, 1, "one made room for one");
}

#[tokio::test]
async fn a_tunnel_is_not_asked_to_make_room() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("limits.connections = 2")
        .route("path = \"/ws\"")
        .start()
        .await;
    let mut tunnel = edge.connect().await;
    let upstream = async { backend.accept().await.upgrade("").await };
    let (_, _upstream) = tokio::join!(tunnel.upgrade(Upgrade::to("/ws")), upstream);
    let mut idle = edge.connect().await;
    assert_eq!(idle.ask(Upgrade::to("/")).await.status(), 404);
    let mut third = edge.connect().await;
    assert_eq!(third.ask(Upgrade::to("/")).await.status(), 404, "the idle one made room");
}

#[tokio::test]
async fn out_of_descriptors_accepting_pauses_and_goes_on() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).descriptors(64).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        // What the edge cannot accept waits in the kernel's queue.
        flood.push(TcpStream::connect(edge.plain).await.expect("the queue takes it"));
    }
    let (clock, used) = (Instant::now(), edge.processor_time());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = edge.processor_time() - used;
    assert!(busy < clock.elapsed() / 2, "{busy:?} of a second spent on nothing");
    client.send_frame(Frame::text("those inside go on")).await;
    assert_eq!(upstream.frame().await.payload, b"those inside go on");
    drop(flood);
    // As long as descriptors are short, a client may be turned away at once.
    soon("accepting goes on", async {
        while connect_tls(edge.tls, "localhost", client_config()).await.is_err() {}
    })
    .await;
    open(&edge, &backend).await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_only_so_long() {
    let edge = Config::new(&Backend::nobody().await)
        .listener("timeouts.keepalive = \"500ms\"")
        .route("path = \"/ws\"")
        .start()
        .await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        assert_eq!(client.ask(Upgrade::to("/")).await.status(), 404);
    }
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn random_bytes_at_every_stage_do_no_harm() {
    let backend = Arc::new(Backend::tcp().await);
    let mut edge = Config::new(&backend.address)
        .workers(2)
        .close("200ms")
        .upstream("handshake_timeout = \"300ms\"")
        .listener("timeouts = { tls = \"500ms\", header = \"500ms\" }")
        .route("limits.frame_stall = \"300ms\"")
        .start()
        .await;
    let seed = seed();
    println!("seed {seed:#x}");
    let until = Instant::now() + Duration::from_secs(5);
    tokio::join!(
        babble_at_tcp(&edge, Random(seed ^ 1), until),
        babble_as_request(&edge, Random(seed ^ 2), until),
        babble_in_tunnels(&edge, &backend, Random(seed ^ 3), until),
    );
    assert!(edge.is_running());
    let panics = edge.logged(|line| line.to_string().contains("panicked"));
    assert!(panics.is_empty(), "{panics:?}");
    // Both workers still serve. The backend's queue holds requests of clients that have left.
    let serving = tokio::spawn(async move {
        let mut served = Vec::new();
        loop {
            let mut upstream = backend.accept().await.upgrade("").await;
            let _ = upstream.writer.try_send(&Frame::text("alive").encode()).await;
            served.push(upstream);
        }
    });
    for _ in 0..8 {
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
        assert_eq!(client.frame().await, Frame::text("alive"));
    }
    serving.abort();
}

/// Of a message of TLS nothing can be used before it is whole, and padding may make it as long as one
/// likes: what waits must have a bound, whoever reads.
#[tokio::test]
async fn a_message_of_tls_that_does_not_end_is_cut_off() {
    if !python_knows("tlslite.api") {
        return skip("tlslite-ng is not installed; see the head of tests/peers.rs");
    }
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    for stage in ["head", "dial", "tunnel"] {
        let mut client = python();
        client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/padding.py"));
        client.args([&edge.tls.ip().to_string(), &edge.tls.port().to_string(), stage]);
        let client = tokio::task::spawn_blocking(move || client.output().expect("it runs"));
        if stage != "head" {
            let request = backend.accept().await;
            if stage == "dial" {
                // Long enough for all that the client has to say.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            tokio::spawn(async move { request.upgrade("").await.end().await });
        }
        let said = soon("the client is cut off", client).await.expect("a thread");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    let panics = edge.logged(|line| line.to_string().contains("panicked"));
    assert!(panics.is_empty(), "{panics:?}");
}

/// Bytes instead of TLS, and instead of HTTP on a plain listener.
async fn babble_at_tcp(edge: &Edge, mut random: Random, until: Instant) {
    while Instant::now() < until {
        let address = if random.below(2) == 0 { edge.tls } else { edge.plain };
        let mut peer = Peer::client(TcpStream::connect(address).await.expect("still accepting"));
        let mut bytes = random.bytes(2000);
        if random.below(2) == 0 {
            // A record's head keeps a TLS server reading.
            bytes.splice(..0, [22, 3, 1, random.next() as u8 & 0x3F, random.next() as u8]);
        }
        let _ = peer.writer.try_send(&bytes).await;
        let _ = tokio::time::timeout(Duration::from_millis(5), peer.reader.next_bytes()).await;
    }
}

/// Requests with damage of a few bytes, and no requests at all, within TLS.
async fn babble_as_request(edge: &Edge, mut random: Random, until: Instant) {
    while Instant::now() < until {
        let mut peer = edge.connect().await;
        let mut bytes = match random.below(3) {
            0 => random.bytes(3000),
            _ => Upgrade::to("/a/b?c=d").add("X-Forwarded-For", "1.2.3.4").bytes(),
        };
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        let _ = peer.writer.try_send(&bytes).await;
        let _ = tokio::time::timeout(Duration::from_millis(5), peer.reader.next_bytes()).await;
    }
}

/// What comes behind a good upgrade, from either side, and answers of the upstream that are none.
async fn babble_in_tunnels(edge: &Edge, backend: &Backend, mut random: Random, until: Instant) {
    while Instant::now() < until {
        let mut client = edge.connect().await;
        let asking = Upgrade::to("/").bytes();
        let _ = client.writer.try_send(&asking).await;
        // The others' requests come here too; whichever this is, it is answered.
        let asked = backend.accept().await;
        let mut answer = asked.switching("").into_bytes();
        match random.below(4) {
            0 => answer = random.bytes(500),
            1 => {
                let at = random.below(answer.len());
                answer[at] = random.next() as u8;
            }
            _ => {}
        }
        let mut upstream = asked.silent();
        let _ = upstream.writer.try_send(&answer).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), client.reader.next_bytes()).await;
        let from_client = frames(&mut random, true);
        let from_upstream = frames(&mut random, false);
        let _ = tokio::join!(
            client.writer.try_send(&from_client),
            upstream.writer.try_send(&from_upstream),
        );
        let _ = tokio::time::timeout(Duration::from_millis(5), client.reader.next_bytes()).await;
    }
}

/// Good frames, then damage.
fn frames(random: &mut Random, masked: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(4) {
        let payload = random.bytes(300);
        bytes.extend(Frame::binary(payload).masked(masked).encode());
    }
    bytes.extend(random.bytes(200));
    bytes
}

/// Opens a connection that goes so far and no further.
async fn stalled(edge: &Edge, stall: Stall) -> Peer {
    let tcp = async |address| Peer::client(TcpStream::connect(address).await.expect("connects"));
    match stall {
        Stall::Plain => tcp(edge.plain).await,
        Stall::Tls => tcp(edge.tls).await,
        Stall::MidHello => {
            let mut peer = tcp(edge.tls).await;
            peer.send(&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]).await;
            peer
        }
        Stall::NoHead => edge.connect().await,
        Stall::MidHead => {
            let mut peer = edge.connect().await;
            peer.send(b"GET / HTTP/1.1\r\nHost: local").await;
            peer
        }
    }
}

/// Goes through every stage once, so that what is allocated once is allocated.
async fn warm(edge: &Edge, backend: &Backend) {
    for count in 0..20 {
        let (mut client, mut upstream) = open(edge, backend).await;
        client.send_frame(Frame::close(1000, "")).await;
        upstream.closes(1000).await;
        assert_eq!(client.close().await.code, Some(1000));
        assert_eq!(client.end().await, End::CloseNotify);
        edge.wait_for_logs(count + 1, support::ended).await;
    }
}

/// A seed to be told when a test fails: the clock's, or that of `WSGATE_SEED`.
fn seed() -> u64 {
    match std::env::var("WSGATE_SEED") {
        Ok(text) => text.parse().expect("WSGATE_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64,
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most) + 1).map(|_| self.next() as u8).collect()
    }
}

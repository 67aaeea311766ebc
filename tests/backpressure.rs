//! A side that does not take what it is sent costs the edge one backlog, and its neighbours
//! nothing.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{BINARY, Backend, Config, Edge, Frame, PING, Peer, open, stalled, within};

/// What one connection may add to the process beside its backlog: the worker's scratch, sealed
/// records, the allocator's rounding.
const SLACK: usize = 1536 << 10;

const BACKLOG: usize = 256 << 10;

/// Every frame of a flood is as large as this, and says which it is.
const FRAME: usize = 64 << 10;

/// MiB that flow in one test; the whole GiB of the promise takes `WSGATE_FLOOD_MIB=1024`.
fn flood_frames() -> u64 {
    let mebibytes = match std::env::var("WSGATE_FLOOD_MIB") {
        Ok(text) => text.parse().expect("WSGATE_FLOOD_MIB is a number"),
        Err(_) => 256,
    };
    (mebibytes << 20) / FRAME as u64
}

#[tokio::test]
async fn a_client_that_stops_reading_costs_one_backlog_and_loses_nothing() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (client, upstream) = warm(&edge, &backend).await;
    flood(&edge, upstream, client, false).await;
}

#[tokio::test]
async fn an_upstream_that_stops_reading_costs_one_backlog_and_loses_nothing() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (client, upstream) = warm(&edge, &backend).await;
    flood(&edge, client, upstream, true).await;
}

#[tokio::test]
async fn a_slow_client_does_not_slow_its_neighbours() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).workers(1).start().await;
    let (mut neighbour, mut app) = warm(&edge, &backend).await;
    let alone = round_trip(&mut neighbour, &mut app).await;

    let (slow, upstream) = open(&edge, &backend).await;
    let sent = AtomicU64::new(0);
    let Peer { writer: mut flooding, .. } = upstream;
    let frame = Frame::binary(vec![0; FRAME]).encode();
    let endless = async {
        loop {
            flooding.try_send(&frame).await.expect("the flood is not cut");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let beside = async {
        stalled(&sent).await;
        round_trip(&mut neighbour, &mut app).await
    };
    let beside = tokio::select! {
        beside = beside => beside,
        never = endless => match never {},
    };
    drop(slow);
    assert!(beside < alone * 3 + Duration::from_millis(2), "{alone:?} became {beside:?}");
}

#[tokio::test]
async fn a_fast_flood_leaves_its_neighbours_their_turn() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).workers(1).start().await;
    let (mut neighbour, mut app) = warm(&edge, &backend).await;
    let (client, upstream) = open(&edge, &backend).await;
    let Peer { writer: mut flooding, .. } = upstream;
    let Peer { mut reader, .. } = client;
    let frame = Frame::binary(vec![0; FRAME]).encode();
    let flood = async {
        loop {
            flooding.try_send(&frame).await.expect("the flood is not cut");
        }
    };
    let drain = async {
        loop {
            reader.next_event().await;
        }
    };
    let beside = tokio::select! {
        beside = round_trip(&mut neighbour, &mut app) => beside,
        never = flood => match never {},
        never = drain => match never {},
    };
    assert!(beside < Duration::from_millis(50), "a round trip beside a flood: {beside:?}");
}

#[tokio::test]
async fn pongs_that_nobody_reads_are_not_hoarded() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = warm(&edge, &backend).await;
    let before = edge.resident();
    let pings = Frame::new(PING, [0; 125]).encode().repeat(500);
    let flood = async {
        for _ in 0..1000 {
            if upstream.writer.try_send(&pings).await.is_err() {
                break;
            }
        }
    };
    // Whether the edge stops reading or answers only the last: either bounds it.
    let _ = tokio::time::timeout(Duration::from_secs(5), flood).await;
    let grown = edge.resident().saturating_sub(before);
    assert!(grown <= BACKLOG + SLACK, "{grown} bytes of pongs");
    client.send_frame(Frame::text("alive")).await;
    while upstream.frame().await.payload != b"alive" {}
}

#[tokio::test]
async fn when_all_backlogs_are_spent_tunnels_go_on_with_less() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).server("backlog_total = \"1MiB\"").start().await;
    let (mut neighbour, mut app) = warm(&edge, &backend).await;
    let before = edge.resident();
    let mut kept = Vec::new();
    let sent = std::sync::Arc::new(AtomicU64::new(0));
    for _ in 0..20 {
        let (client, mut upstream) = open(&edge, &backend).await;
        let sent = sent.clone();
        let flood = tokio::spawn(async move {
            let frame = Frame::binary(vec![0; FRAME]).encode();
            while upstream.writer.try_send(&frame).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        kept.push((client, flood));
    }
    stalled(&sent).await;
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < (1 << 20) + SLACK + 20 * (80 << 10), "{grown} bytes for 20 slow clients");
    let large = Frame::binary(vec![1; 1 << 20]);
    let sending = app.writer.send_frame(large.clone());
    let ((), got) = tokio::join!(sending, neighbour.reader.frame());
    assert!(got == large, "a tunnel that is read goes on");
    let ended = edge.logged(support::ended);
    assert!(ended.is_empty(), "nothing is closed for that: {ended:?}");
}

/// Sends all frames while nobody reads, watches the edge's memory, then reads all of them.
async fn flood(edge: &Edge, from: Peer, mut to: Peer, masked: bool) {
    let total = flood_frames();
    let before = edge.resident();
    let sent = AtomicU64::new(0);
    let Peer { mut writer, reader: _reader } = from;
    let sending = async {
        for number in 0..total {
            let frame = numbered(number).masked(masked).encode();
            writer.try_send(&frame).await.expect("the edge takes it in the end");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let reading = async {
        stalled(&sent).await;
        assert!(sent.load(Ordering::Relaxed) < total, "the flood never stalled");
        let used = edge.processor_time();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let busy = edge.processor_time() - used;
        assert!(busy < Duration::from_millis(100), "half a second of waiting cost {busy:?}");
        let grown = edge.resident().saturating_sub(before);
        assert!(grown <= BACKLOG + SLACK, "stalled, the edge grew by {grown} bytes");
        for number in 0..total {
            let frame = to.frame().await;
            assert!(frame == numbered(number).masked(masked), "frame {number} is not what it was");
            if number % 256 == 0 {
                let grown = edge.resident().saturating_sub(before);
                assert!(grown <= BACKLOG + SLACK, "at {number} the edge grew by {grown} bytes");
            }
        }
    };
    let both = async { tokio::join!(sending, reading) };
    within(Duration::from_secs(300), "the flood arrives", both).await;
}

/// A frame that no other is like.
fn numbered(number: u64) -> Frame {
    let mut payload = vec![number as u8; FRAME];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    Frame::new(BINARY, payload)
}

/// A tunnel through which something went already, so that first-time costs are paid.
async fn warm(edge: &Edge, backend: &Backend) -> (Peer, Peer) {
    let (mut client, mut upstream) = open(edge, backend).await;
    let frame = Frame::binary(vec![0; 128 << 10]);
    client.send_frame(frame.clone()).await;
    upstream.frame().await;
    upstream.send_frame(frame).await;
    client.frame().await;
    (client, upstream)
}

/// The median time of a small message there and back.
async fn round_trip(client: &mut Peer, upstream: &mut Peer) -> Duration {
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        client.send_frame(Frame::text("there")).await;
        assert_eq!(upstream.frame().await.payload, b"there");
        upstream.send_frame(Frame::text("back")).await;
        assert_eq!(client.frame().await.payload, b"back");
        times.push(started.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

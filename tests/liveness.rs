//! The edge owns liveness: it pings, it answers pings, it measures, and it counts no silence
//! that is of its own making.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Backend, Config, Edge, Frame, PING, PONG, Peer, open, stalled};

async fn beating(backend: &Backend, heartbeat: &str) -> Edge {
    Config::new(&backend.address).heartbeat(heartbeat).start().await
}

#[tokio::test]
async fn the_edge_answers_pings_and_passes_none() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for payload in [vec![], vec![7; 5], vec![0xFF; 125]] {
        client.send_frame(Frame::new(PING, payload.clone())).await;
        assert_eq!(client.frame().await, Frame::new(PONG, payload.clone()));
        upstream.send_frame(Frame::new(PING, payload.clone())).await;
        assert_eq!(upstream.frame().await, Frame::new(PONG, payload).masked(true));
    }
    client.send_frame(Frame::new(PONG, "nobody asked")).await;
    upstream.send_frame(Frame::new(PONG, "nobody asked")).await;
    assert_only_data_passes(&mut client, &mut upstream).await;
}

#[tokio::test]
async fn pings_within_a_message_are_answered_within_it() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::text("one ").not_final()).await;
    client.send_frame(Frame::new(PING, "?")).await;
    client.send_frame(Frame::new(0, "two")).await;
    assert_eq!(client.frame().await, Frame::new(PONG, "?"));
    assert_eq!(upstream.frame().await, Frame::text("one ").not_final().masked(true));
    assert_eq!(upstream.frame().await, Frame::new(0, "two").masked(true));
}

#[tokio::test]
async fn a_pong_waits_for_the_frame_that_is_under_way() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let frame = Frame::binary(vec![3; 1000]);
    let bytes = frame.encode();
    // In one segment with a message, so that the edge has the half when the client has that.
    upstream.send(&[&Frame::text("begin").encode(), &bytes[..500]].concat()).await;
    assert_eq!(client.frame().await, Frame::text("begin"));
    client.send_frame(Frame::new(PING, "now")).await;
    // A fence: once the upstream has this, the edge has seen the ping before it.
    client.send_frame(Frame::text("fence")).await;
    assert_eq!(upstream.frame().await.payload, b"fence");
    upstream.send(&bytes[500..]).await;
    assert_eq!(client.frame().await, frame, "no pong within a frame");
    assert_eq!(client.frame().await, Frame::new(PONG, "now"));
}

#[tokio::test]
async fn the_edge_pings_both_sides_and_measures_the_client() {
    let backend = Backend::tcp().await;
    let edge = beating(
        &backend,
        "heartbeat = { interval = \"200ms\", timeout = \"10s\", upstream = { interval = \"200ms\" } }",
    )
    .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let mut nonces = HashSet::new();
    for _ in 0..3 {
        for peer in [&mut client, &mut upstream] {
            let ping = peer.frame().await;
            assert_eq!(ping.opcode, PING);
            assert!(nonces.insert(ping.payload.clone()), "a nonce of its own each time");
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.send_frame(Frame::new(PONG, ping.payload)).await;
        }
    }
    let line = close_and_read_log(&edge, client, upstream).await;
    let rtt = line["rtt_ms"].as_f64().unwrap_or_else(|| panic!("a round trip: {line}"));
    assert!((15.0..5000.0).contains(&rtt), "20 ms were asked for: {rtt}");
}

#[tokio::test]
async fn only_the_exact_echo_measures() {
    let backend = Backend::tcp().await;
    let edge = beating(
        &backend,
        "heartbeat = { interval = \"200ms\", timeout = \"400ms\", upstream = { interval = \"off\" } }",
    )
    .await;
    let (mut client, upstream) = open(&edge, &backend).await;
    for _ in 0..5 {
        assert_eq!(client.frame().await.opcode, PING, "any byte is life");
        client.send_frame(Frame::new(PONG, "not what you sent")).await;
    }
    let line = close_and_read_log(&edge, client, upstream).await;
    assert!(line.get("rtt_ms").is_none_or(serde_json::Value::is_null), "{line}");
}

#[tokio::test]
async fn answers_to_the_edges_own_pings_are_free() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .heartbeat("heartbeat = { interval = \"50ms\", upstream = { interval = \"off\" } }")
        .route("limits.control_frames = \"1/min\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for _ in 0..30 {
        let ping = client.frame().await;
        assert_eq!(ping.opcode, PING);
        client.send_frame(Frame::new(PONG, ping.payload)).await;
    }
    client.send_frame(Frame::text("still here")).await;
    assert_eq!(upstream.frame().await, Frame::text("still here").masked(true));
}

#[tokio::test]
async fn an_upstream_may_stay_silent_by_default() {
    let backend = Backend::tcp().await;
    let edge =
        beating(&backend, "heartbeat = { interval = \"off\", upstream = { interval = \"50ms\" } }")
            .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for _ in 0..5 {
        assert_eq!(upstream.frame().await.opcode, PING);
    }
    client.send_frame(Frame::text("still here")).await;
    while upstream.frame().await != Frame::text("still here").masked(true) {}
}

#[tokio::test]
async fn pings_go_end_to_end_where_that_is_asked_for() {
    let backend = Backend::tcp().await;
    let edge = beating(
        &backend,
        "heartbeat = { interval = \"off\", forward = true, upstream = { interval = \"off\" } }",
    )
    .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::new(PING, "from the client")).await;
    assert_eq!(upstream.frame().await, Frame::new(PING, "from the client").masked(true));
    upstream.send_frame(Frame::new(PONG, "from the client")).await;
    assert_eq!(client.frame().await, Frame::new(PONG, "from the client"));
    upstream.send_frame(Frame::new(PING, "from the upstream")).await;
    assert_eq!(client.frame().await, Frame::new(PING, "from the upstream"));
    client.send_frame(Frame::new(PONG, "unsolicited")).await;
    assert_eq!(upstream.frame().await, Frame::new(PONG, "unsolicited").masked(true));
}

#[tokio::test]
async fn with_forwarding_only_the_edges_own_echo_is_eaten() {
    let backend = Backend::tcp().await;
    let edge = beating(
        &backend,
        "heartbeat = { interval = \"200ms\", timeout = \"10s\", forward = true, \
         upstream = { interval = \"off\" } }",
    )
    .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    // A leg that talks is not pinged.
    let talking = Instant::now();
    while talking.elapsed() < Duration::from_millis(600) {
        client.send_frame(Frame::text("busy")).await;
        assert_eq!(upstream.frame().await.payload, b"busy");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    upstream.send_frame(Frame::text("fence")).await;
    assert_eq!(client.frame().await, Frame::text("fence"), "no ping came before it");
    let ping = client.frame().await;
    assert_eq!(ping.opcode, PING);
    client.send_frame(Frame::new(PONG, ping.payload)).await;
    client.send_frame(Frame::new(PONG, "mine")).await;
    assert_eq!(upstream.frame().await, Frame::new(PONG, "mine").masked(true));
}

#[tokio::test]
async fn a_client_that_the_edge_does_not_read_is_not_called_silent() {
    let backend = Backend::tcp().await;
    let edge = beating(
        &backend,
        "heartbeat = { interval = \"500ms\", timeout = \"1s\", upstream = { interval = \"off\" } }",
    )
    .await;
    let (client, mut upstream) = open(&edge, &backend).await;
    let message = Frame::binary(vec![8; 64 << 10]);
    let sent = AtomicU64::new(0);
    // Its reader is left alone: it answers no ping.
    let Peer { reader: _reader, mut writer } = client;
    let total = 1024;
    let flood = async {
        for _ in 0..total {
            let bytes = message.clone().masked(true).encode();
            writer.try_send(&bytes).await.expect("the edge takes it in the end");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    // The upstream reads nothing until the flood has long come to a stand.
    let taken = async {
        stalled(&sent).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ended = edge.logged(support::ended);
        assert!(ended.is_empty(), "its silence was the edge's doing: {ended:?}");
        assert!(sent.load(Ordering::Relaxed) < total, "the flood never stalled");
        for _ in 0..total {
            assert!(upstream.frame().await == message.clone().masked(true));
        }
    };
    tokio::join!(flood, taken);
}

#[tokio::test]
async fn pings_more_frequent_than_their_timeout_find_the_silent_too() {
    let backend = Backend::tcp().await;
    let edge = beating(&backend, "heartbeat = { interval = \"200ms\", timeout = \"600ms\" }").await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    let mut pings = 0;
    loop {
        let frame = client.frame().await;
        if frame.opcode != PING {
            break assert_eq!(frame.closing().code, Some(1001));
        }
        pings += 1;
    }
    assert!((3..=5).contains(&pings), "{pings} pings went unanswered");
}

#[tokio::test]
async fn while_the_edge_does_not_read_a_frame_does_not_stall_nor_a_tunnel_idle() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route(
            "limits = { max_frame_size = \"64MiB\", max_message_size = \"64MiB\", \
                frame_stall = \"500ms\" }",
        )
        .route("timeouts.idle = \"500ms\"")
        .start()
        .await;
    // Made first: masking it takes longer than a tunnel may be idle.
    let large = Frame::binary(vec![7; 64 << 20]).masked(true);
    let bytes = large.encode();
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let sent = AtomicU64::new(0);
    let sending = async {
        for slice in bytes.chunks(64 << 10) {
            client.writer.try_send(slice).await.expect("the edge takes it in the end");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let reading = async {
        stalled(&sent).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = edge.logged(support::ended);
        assert!(ended.is_empty(), "it stalled because the edge did not read: {ended:?}");
        assert!(upstream.frame().await == large);
    };
    tokio::join!(sending, reading);
}

async fn assert_only_data_passes(client: &mut Peer, upstream: &mut Peer) {
    client.send_frame(Frame::text("data")).await;
    assert_eq!(upstream.frame().await, Frame::text("data").masked(true));
    upstream.send_frame(Frame::text("data")).await;
    assert_eq!(client.frame().await, Frame::text("data"));
}

/// Closes from the client, reads past pings under way, and gives the log's line.
async fn close_and_read_log(edge: &Edge, mut client: Peer, mut upstream: Peer) -> support::Line {
    client.send_frame(Frame::close(1000, "")).await;
    let close = loop {
        let frame = upstream.frame().await;
        if frame.opcode != PING {
            break frame;
        }
    };
    upstream.writer.answer(close).await;
    client.reader.rest().await;
    edge.assert_ended("client_close", "client").await
}

//! Every ending of DESIGN §5's table, over TLS, as both peers see it and as the log tells it.

mod support;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    BINARY, Backend, CLOSE, CONTINUATION, Close, Config, Edge, End, Event, Frame, Head, Length,
    PING, Peer, Upgrade, open,
};

/// The whole of `timeouts.close` in tests that wait for it to pass.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Upstream,
}

async fn edge(backend: &Backend) -> Edge {
    Config::new(&backend.address).start().await
}

/// An edge on which `route` holds, and whose peers have half a second for their Close.
async fn impatient_edge(backend: &Backend, route: &str) -> Edge {
    Config::new(&backend.address).close("500ms").route(route).start().await
}

/// The start of a binary frame of `length` bytes, with the first `sent` of them.
fn part_of_frame(masked: bool, length: u64, sent: usize) -> Vec<u8> {
    let head = Head { fin: true, rsv: 0, opcode: BINARY, masked, length: Length::Minimal(length) };
    let mut bytes = head.encode();
    bytes.resize(bytes.len() + sent, 0);
    bytes
}

// A side sent Close.

#[tokio::test]
async fn a_clients_close_is_relayed_and_so_is_its_answer() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::close(4001, "bye")).await;
    assert_eq!(upstream.frame().await, Frame::close(4001, "bye").masked(true));
    upstream.send_frame(Frame::close(4001, "so long")).await;
    assert_eq!(client.frame().await, Frame::close(4001, "so long"));
    assert_eq!(upstream.hang_up().await, End::Fin);
    assert_eq!(client.hang_up().await, End::CloseNotify);
    let line = edge.assert_ended("client_close", "client").await;
    assert_eq!(line["code"], 4001, "{line}");
    assert_eq!(line["level"], "INFO", "{line}");
}

#[tokio::test]
async fn an_upstreams_close_is_relayed_and_so_is_its_answer() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send_frame(Frame::close(3000, "done")).await;
    assert_eq!(client.frame().await, Frame::close(3000, "done"));
    client.send_frame(Frame::close(3000, "")).await;
    assert_eq!(upstream.frame().await, Frame::close(3000, "").masked(true));
    assert_eq!(upstream.hang_up().await, End::Fin);
    assert_eq!(client.hang_up().await, End::CloseNotify);
    let line = edge.assert_ended("upstream_close", "upstream").await;
    assert_eq!(line["code"], 3000, "{line}");
}

#[tokio::test]
async fn a_close_without_a_code_stays_without_one() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::new(CLOSE, [])).await;
    assert_eq!(upstream.close().await, Close { code: None, reason: String::new() });
    upstream.send_frame(Frame::new(CLOSE, [])).await;
    assert_eq!(client.close().await, Close { code: None, reason: String::new() });
    assert_eq!(client.end().await, End::CloseNotify);
    let line = edge.assert_ended("client_close", "client").await;
    assert!(line.get("code").is_none_or(serde_json::Value::is_null), "{line}");
}

#[tokio::test]
async fn what_the_upstream_had_yet_to_say_follows_a_clients_close() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(upstream.close().await.code, Some(1000));
    for number in 0..3 {
        upstream.send_frame(Frame::binary([number])).await;
    }
    upstream.send_frame(Frame::close(1000, "")).await;
    for number in 0..3 {
        assert_eq!(client.frame().await, Frame::binary([number]));
    }
    assert_eq!(client.close().await.code, Some(1000));
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn a_close_comes_behind_the_large_message_in_flight() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).close("5s").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let large = Frame::binary(vec![0xA5; 1 << 20]);
    let bytes = large.encode();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    upstream.send(first).await;
    client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(upstream.close().await.code, Some(1000));
    upstream.send(second).await;
    upstream.send_frame(Frame::close(1000, "")).await;
    assert!(client.frame().await == large);
    assert_eq!(client.close().await.code, Some(1000));
}

#[tokio::test]
async fn the_edge_answers_a_client_whose_upstream_does_not() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let sent = Instant::now();
    client.send_frame(Frame::close(4001, "bye")).await;
    assert_eq!(upstream.close().await.code, Some(4001));
    assert_eq!(client.close().await.code, Some(4001));
    assert!(sent.elapsed() >= CLOSE_TIMEOUT, "answered after {:?}", sent.elapsed());
    assert_eq!(client.hang_up().await, End::CloseNotify);
    upstream.end().await;
    edge.assert_ended("client_close", "client").await;
}

#[tokio::test]
async fn the_edge_answers_an_upstream_whose_client_does_not() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let sent = Instant::now();
    upstream.send_frame(Frame::close(4001, "bye")).await;
    assert_eq!(client.close().await.code, Some(4001));
    assert_eq!(upstream.close().await.code, Some(4001));
    assert!(sent.elapsed() >= CLOSE_TIMEOUT, "answered after {:?}", sent.elapsed());
    assert_eq!(upstream.hang_up().await, End::Fin);
    client.reader.rest().await;
    edge.assert_ended("upstream_close", "upstream").await;
}

#[tokio::test]
async fn who_closes_and_leaves_at_once_is_waited_on_without_toil() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).workers(1).close("3s").start().await;
    for leaver in [Side::Client, Side::Upstream] {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        let (leaving, staying) = match leaver {
            Side::Client => (&mut client, &mut upstream),
            Side::Upstream => (&mut upstream, &mut client),
        };
        leaving.send_frame(Frame::close(4000, "")).await;
        leaving.shutdown().await;
        let close = staying.frame().await;
        assert_eq!(close.closing().code, Some(4000));
        let used = edge.processor_time();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let busy = edge.processor_time() - used;
        assert!(busy < Duration::from_millis(300), "{leaver:?} left: a second cost {busy:?}");
        staying.writer.answer(close).await;
        staying.hang_up().await;
        let (mut client, mut upstream) = open(&edge, &backend).await;
        client.send_frame(Frame::text("the worker lives")).await;
        assert_eq!(upstream.frame().await.payload, b"the worker lives");
    }
}

#[tokio::test]
async fn closes_that_cross_end_the_tunnel_too() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    for round in 0..20 {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        tokio::join!(
            client.writer.send_frame(Frame::close(4001, "")),
            upstream.writer.send_frame(Frame::close(4002, "")),
        );
        let (to_client, to_upstream) = tokio::join!(client.close(), upstream.close());
        assert_eq!(to_client.code, Some(4002), "round {round}");
        assert_eq!(to_upstream.code, Some(4001), "round {round}");
        let ends = tokio::join!(client.hang_up(), upstream.hang_up());
        assert_eq!(ends, (End::CloseNotify, End::Fin), "round {round}");
    }
}

// A connection broke.

#[tokio::test]
async fn an_upstream_hears_no_close_that_its_client_did_not_send() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    for (count, way) in ["close_notify", "FIN", "reset"].into_iter().enumerate() {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        client.send_frame(Frame::text("last words")).await;
        assert_eq!(upstream.frame().await, Frame::text("last words").masked(true));
        match way {
            "close_notify" => client.shutdown().await,
            "FIN" => drop(client),
            _ => client.reset(),
        }
        upstream.end().await;
        let line = edge.wait_for_logs(count + 1, support::ended).await.remove(count);
        assert_eq!(line["reason"], "client_lost", "{way}: {line}");
        assert_eq!(line["by"], "client", "{way}: {line}");
        assert_eq!(line["close_sent"], "none", "{way}: {line}");
    }
}

#[tokio::test]
async fn what_a_client_sent_before_it_left_is_delivered() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let words = Frame::binary(vec![9; 300_000]);
    client.send_frame(words.clone()).await;
    client.shutdown().await;
    assert!(upstream.frame().await == words.masked(true));
    assert_eq!(upstream.end().await, End::Fin);
    edge.assert_ended("client_lost", "client").await;
}

#[tokio::test]
async fn a_client_hears_1012_when_its_upstream_is_gone() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    for (count, way) in ["FIN", "reset"].into_iter().enumerate() {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        upstream.send_frame(Frame::text("last words")).await;
        assert_eq!(client.frame().await, Frame::text("last words"));
        match way {
            "FIN" => upstream.shutdown().await,
            _ => upstream.reset(),
        }
        assert_eq!(client.closes(1012).await, End::CloseNotify, "{way}");
        let line = edge.wait_for_logs(count + 1, support::ended).await.remove(count);
        assert_eq!(line["reason"], "upstream_lost", "{way}: {line}");
        assert_eq!(line["by"], "upstream", "{way}: {line}");
        assert_eq!(line["close_sent"], "client", "{way}: {line}");
        assert_eq!(line["level"], "WARN", "{way}: {line}");
    }
}

#[tokio::test]
async fn what_an_upstream_sent_before_it_left_is_delivered() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let words = Frame::binary(vec![9; 300_000]);
    upstream.send_frame(words.clone()).await;
    upstream.shutdown().await;
    assert!(client.frame().await == words);
    assert_eq!(client.closes(1012).await, End::CloseNotify);
    edge.assert_ended("upstream_lost", "upstream").await;
}

#[tokio::test]
async fn all_that_an_upstream_left_behind_is_delivered_to_a_slow_client() {
    for last in [None, Some(Frame::close(4000, "done"))] {
        let backend = Backend::tcp().await;
        let edge = Config::new(&backend.address).close("10s").start().await;
        let (mut client, mut upstream) = open(&edge, &backend).await;
        let words = flood_frame();
        let wire = words.encode().repeat(1000);
        let code = last.as_ref().map_or(1012, |_| 4000);
        let leaving = async {
            upstream.send(&wire).await;
            if let Some(close) = last {
                upstream.send_frame(close).await;
            }
            upstream.shutdown().await;
        };
        let reading = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for number in 0..1000 {
                assert!(client.frame().await == words, "frame {number}");
            }
            assert_eq!(client.closes(code).await, End::CloseNotify);
        };
        tokio::join!(leaving, reading);
    }
}

#[tokio::test]
async fn all_that_a_client_said_before_its_close_is_delivered_to_a_slow_upstream() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).close("10s").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let words = flood_frame().masked(true);
    let wire = words.encode().repeat(1000);
    let leaving = async {
        client.send(&wire).await;
        client.send_frame(Frame::close(4000, "done")).await;
        client.shutdown().await;
    };
    let reading = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for number in 0..1000 {
            assert!(upstream.frame().await == words, "frame {number}");
        }
        assert_eq!(upstream.closes(4000).await, End::Fin);
    };
    tokio::join!(leaving, reading);
    edge.assert_ended("client_close", "client").await;
}

#[tokio::test]
async fn a_frame_whose_upstream_is_gone_ends_as_a_truncation() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send(&part_of_frame(false, 100_000, 50_000)).await;
    upstream.shutdown().await;
    let (frames, end, cut) = client.reader.rest().await;
    assert_eq!(frames, [], "neither the frame nor a Close");
    assert!(matches!(end, End::Truncated | End::Reset), "{end:?}");
    assert!(cut > 50_000 || end == End::Reset, "what was read is delivered first: {cut}");
    let line = edge.assert_ended("upstream_lost", "upstream").await;
    assert_eq!(line["close_sent"], "none", "{line}");
}

#[tokio::test]
async fn a_frame_whose_client_is_gone_ends_without_a_close() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send(&part_of_frame(true, 100_000, 50_000)).await;
    client.shutdown().await;
    let (frames, _, cut) = upstream.reader.rest().await;
    assert_eq!(frames, [], "neither the frame nor a Close");
    assert!(cut > 50_000, "what was read is delivered first: {cut}");
    let line = edge.assert_ended("client_lost", "client").await;
    assert_eq!(line["close_sent"], "none", "{line}");
}

#[tokio::test]
async fn between_the_frames_of_a_message_is_a_boundary_too() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send_frame(Frame::text("half a ").not_final()).await;
    upstream.shutdown().await;
    assert_eq!(client.frame().await, Frame::text("half a ").not_final());
    assert_eq!(client.closes(1012).await, End::CloseNotify);
}

#[tokio::test]
async fn during_a_drain_a_lost_upstream_is_told_with_the_drains_code() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .server("drain = { delay = \"0s\", window = \"10s\", timeout = \"30s\", code = 1001 }")
        .start()
        .await;
    let mut clients = Vec::new();
    let mut upstreams = Vec::new();
    for _ in 0..10 {
        let (client, upstream) = open(&edge, &backend).await;
        clients.push(client);
        upstreams.push(upstream);
    }
    edge.signal(Signal::TERM);
    // The listener's end shows that the drain has begun.
    support::soon("the listeners close", async {
        while tokio::net::TcpStream::connect(edge.plain).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(upstreams);
    for client in &mut clients {
        assert_eq!(client.closes(1001).await, End::CloseNotify);
    }
    let lines = edge.wait_for_logs(10, support::ended).await;
    let lost = lines.iter().filter(|line| line["reason"] == "upstream_lost").count();
    assert!(lost > 0, "the drain was over before an upstream was lost");
}

// A side fell silent.

#[tokio::test]
async fn a_client_that_answers_no_ping_is_ended() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .heartbeat(
            "heartbeat = { interval = \"300ms\", timeout = \"300ms\", \
             upstream = { interval = \"off\" } }",
        )
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    assert_eq!(client.frame().await.opcode, PING);
    assert_eq!(client.close().await.code, Some(1001));
    let (end, _) = tokio::join!(upstream.closes(1001), client.reader.rest());
    assert_eq!(end, End::Fin);
    let line = edge.assert_ended("heartbeat_timeout", "client").await;
    assert_eq!(line["close_sent"], "both", "{line}");
}

#[tokio::test]
async fn an_upstream_that_answers_no_ping_is_ended_where_that_is_asked_for() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .heartbeat(
            "heartbeat = { interval = \"off\", \
             upstream = { interval = \"300ms\", timeout = \"300ms\" } }",
        )
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    assert_eq!(upstream.frame().await.opcode, PING);
    assert_eq!(upstream.close().await.code, Some(1001));
    let (end, _) = tokio::join!(client.closes(1012), upstream.reader.rest());
    assert_eq!(end, End::CloseNotify);
    edge.assert_ended("heartbeat_timeout", "upstream").await;
}

#[tokio::test]
async fn a_client_that_stalls_within_a_head_is_closed() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.frame_stall = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send(&Frame::text("good").masked(true).encode()).await;
    client.send(&part_of_frame(true, 100_000, 0)[..5]).await;
    assert_eq!(upstream.frame().await, Frame::text("good").masked(true));
    let ends = tokio::join!(client.closes(1013), upstream.closes(1001));
    assert_eq!(ends, (End::CloseNotify, End::Fin));
    edge.assert_ended("frame_stalled", "client").await;
}

#[tokio::test]
async fn an_upstream_that_stalls_within_a_head_is_closed() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.frame_stall = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send(&part_of_frame(false, 100_000, 0)[..3]).await;
    let ends = tokio::join!(client.closes(1012), upstream.closes(1008));
    assert_eq!(ends, (End::CloseNotify, End::Fin));
    edge.assert_ended("frame_stalled", "upstream").await;
}

#[tokio::test]
async fn a_frame_that_its_client_does_not_finish_is_cut_short() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.frame_stall = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send(&part_of_frame(true, 100_000, 50_000)).await;
    assert_eq!(client.close().await.code, Some(1013));
    let (frames, _, cut) = upstream.reader.rest().await;
    assert_eq!((frames, cut > 50_000), (vec![], true), "the cut shows: {cut}");
    edge.assert_ended("frame_stalled", "client").await;
}

#[tokio::test]
async fn a_frame_that_its_upstream_does_not_finish_is_cut_short() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.frame_stall = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send(&part_of_frame(false, 100_000, 50_000)).await;
    assert_eq!(upstream.close().await.code, Some(1008));
    let (frames, end, cut) = client.reader.rest().await;
    assert_eq!((frames, cut > 50_000), (vec![], true), "the cut shows: {cut}");
    assert_eq!(end, End::Truncated);
    edge.assert_ended("frame_stalled", "upstream").await;
}

#[tokio::test]
async fn a_frame_finished_after_all_is_followed_by_its_close() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("10s")
        .route("limits.frame_stall = \"300ms\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let frame = Frame::binary(vec![5; 1000]).masked(true);
    let bytes = frame.encode();
    client.send(&bytes[..500]).await;
    let close = client.frame().await;
    assert_eq!(close.closing().code, Some(1013));
    client.send(&bytes[500..]).await;
    assert_eq!(upstream.frame().await, frame);
    assert_eq!(upstream.closes(1001).await, End::Fin);
    client.writer.answer(close).await;
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn a_frame_that_goes_on_slowly_does_not_stall() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.frame_stall = \"1s\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let frame = Frame::binary(vec![5; 20]).masked(true);
    for byte in frame.encode() {
        client.send(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(75)).await;
    }
    assert_eq!(upstream.frame().await, frame, "two seconds for a frame, but never one of silence");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_at_a_boundary() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("10s")
        .route("limits.slow_consumer = \"1s\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    flood_until_told(&mut upstream, 1001).await;
    assert_eq!(end_of_flood(&mut client, flood_frame(), 1013).await, End::CloseNotify);
    edge.assert_ended("slow_consumer", "client").await;
}

#[tokio::test]
async fn an_upstream_that_does_not_read_is_closed_at_a_boundary() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("10s")
        .route("limits.slow_consumer = \"1s\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    flood_until_told(&mut client, 1012).await;
    end_of_flood(&mut upstream, flood_frame().masked(true), 1008).await;
    edge.assert_ended("slow_consumer", "upstream").await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_is_kept() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.slow_consumer = \"1s\"").await;
    let (client, upstream) = open(&edge, &backend).await;
    let Peer { mut reader, writer: _to_edge } = client;
    let Peer { writer: mut flooding, reader: _from_edge } = upstream;
    let frame = flood_frame();
    let bytes = frame.encode();
    let flood = async {
        loop {
            flooding.try_send(&bytes).await.expect("the tunnel stays");
        }
    };
    // About 4 MiB a second for three times as long as it may stand still.
    let steadily = async {
        for _ in 0..60 {
            for _ in 0..12 {
                assert!(reader.frame().await == frame);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = steadily => {}
        never = flood => match never {},
    }
    assert_eq!(edge.logged(support::ended), Vec::<support::Line>::new());
}

#[tokio::test]
async fn a_consumer_that_never_reads_again_is_cut() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "limits.slow_consumer = \"500ms\"").await;
    let (client, mut upstream) = open(&edge, &backend).await;
    flood_until_told(&mut upstream, 1001).await;
    edge.assert_ended("slow_consumer", "client").await;
    drop(client);
}

/// Sends frames until the edge takes no more, waits to be told why, and leaves within a frame.
async fn flood_until_told(peer: &mut Peer, code: u16) {
    let bytes = flood_frame().masked(peer.writer.masks()).encode();
    let Peer { reader, writer } = peer;
    let flood = async {
        while writer.try_send(&bytes).await.is_ok() {}
        std::future::pending::<Infallible>().await
    };
    let close = tokio::select! {
        close = reader.close() => close,
        never = flood => match never {},
    };
    assert_eq!(close.code, Some(code));
    let _ = peer.writer.try_shutdown().await;
}

/// Reads what is left of a flood, every frame of it whole, and the Close behind it.
async fn end_of_flood(peer: &mut Peer, frame: Frame, code: u16) -> End {
    let mut next = peer.frame().await;
    while next.opcode != CLOSE {
        assert!(next == frame, "{}", next.describe());
        next = peer.frame().await;
    }
    assert_eq!(next.closing().code, Some(code));
    peer.writer.answer(next).await;
    peer.hang_up().await
}

fn flood_frame() -> Frame {
    Frame::binary(vec![0x5A; 16 << 10])
}

// It was time.

#[tokio::test]
async fn a_tunnel_without_data_is_idle() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("timeouts.idle = \"500ms\"").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let opened = Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        upstream.send_frame(Frame::text("still busy")).await;
        assert_eq!(client.frame().await, Frame::text("still busy"));
    }
    assert!(opened.elapsed() > Duration::from_millis(800));
    // Control frames are no data.
    client.send_frame(Frame::new(PING, "x")).await;
    assert_eq!(client.frame().await.payload, b"x");
    assert_eq!(client.closes(1001).await, End::CloseNotify);
    assert_eq!(upstream.closes(1001).await, End::Fin);
    let line = edge.assert_ended("idle_timeout", "edge").await;
    assert_eq!(line["close_sent"], "both", "{line}");
}

#[tokio::test]
async fn a_tunnel_grows_only_so_old() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("timeouts.max_age = \"1s\"").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let opened = Instant::now();
    assert_eq!(client.closes(1001).await, End::CloseNotify);
    let age = opened.elapsed();
    assert!(age > Duration::from_millis(400) && age < Duration::from_secs(5), "{age:?}");
    assert_eq!(upstream.closes(1001).await, End::Fin);
    edge.assert_ended("max_age", "edge").await;
}

#[tokio::test]
async fn a_drain_tells_both_sides() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .server("drain = { window = \"100ms\", timeout = \"20s\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    edge.signal(Signal::TERM);
    assert_eq!(client.closes(1012).await, End::CloseNotify);
    assert_eq!(upstream.closes(1001).await, End::Fin);
    let line = edge.assert_ended("drain", "edge").await;
    assert_eq!((&line["code"], &line["close_sent"]), (&1012.into(), &"both".into()), "{line}");
    assert_eq!(edge.exit(support::PATIENCE).await.code(), Some(0));
}

// Orderly endings end messages too.

#[tokio::test]
async fn an_orderly_close_waits_for_the_end_of_a_message() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("10s")
        .route("timeouts.max_age = \"500ms\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let first = Frame::binary(vec![1; 200_000]).not_final();
    let last = Frame::new(CONTINUATION, vec![2; 1000]);
    for slice in first.encode().chunks(20_000) {
        upstream.send(slice).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    upstream.send_frame(last.clone()).await;
    upstream.send_frame(Frame::text("no message after that")).await;
    assert!(client.frame().await == first);
    assert_eq!(client.frame().await, last);
    assert_eq!(client.closes(1001).await, End::CloseNotify);
    assert_eq!(upstream.closes(1001).await, End::Fin);
    edge.assert_ended("max_age", "edge").await;
}

#[tokio::test]
async fn an_orderly_close_waits_no_longer_than_it_may() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "timeouts.max_age = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let part = Frame::text("a message without an end").not_final();
    upstream.send_frame(part.clone()).await;
    assert_eq!(client.frame().await, part);
    assert_eq!(client.closes(1001).await, End::CloseNotify);
    assert_eq!(upstream.closes(1001).await, End::Fin);
}

#[tokio::test]
async fn an_orderly_close_never_cuts_into_a_frame() {
    let backend = Backend::tcp().await;
    let edge = impatient_edge(&backend, "timeouts.max_age = \"300ms\"").await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    upstream.send(&part_of_frame(false, 100_000, 50_000)).await;
    let (frames, end, cut) = client.reader.rest().await;
    assert_eq!(frames, []);
    assert_eq!(end, End::Truncated, "after {cut} bytes");
    edge.assert_ended("max_age", "edge").await;
    upstream.reader.rest().await;
}

#[tokio::test]
async fn a_client_may_finish_what_it_was_saying_when_told_to_go() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("10s")
        .route("timeouts.max_age = \"300ms\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::text("first half, ").not_final()).await;
    let close = client.frame().await;
    assert_eq!(close.closing().code, Some(1001));
    client.send_frame(Frame::new(CONTINUATION, "second half")).await;
    client.writer.answer(close).await;
    assert_eq!(upstream.frame().await.payload, b"first half, ");
    assert_eq!(upstream.frame().await.payload, b"second half");
    assert_eq!(upstream.closes(1001).await, End::Fin);
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn bytes_left_unread_do_not_destroy_a_close() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    // A bad frame with a megabyte behind it: the Close must survive what nobody wants to read.
    let mut bytes = Frame::text("bad").masked(false).encode();
    bytes.resize(1 << 20, 0);
    client.send(&bytes).await;
    let ends = tokio::join!(client.closes(1002), upstream.closes(1001));
    assert_eq!(ends, (End::CloseNotify, End::Fin));
}

#[tokio::test]
async fn who_broke_a_limit_is_let_go_when_it_has_closed() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .close("15s")
        .route("limits = { max_frame_size = \"1KiB\", control_frames = \"1/s\" }")
        .start()
        .await;
    let too_big = Frame::binary(vec![0; 5000]).masked(true).encode();
    let pings = Frame::new(PING, "?").masked(true).encode().repeat(100);
    for (offence, code, rest) in [(too_big, 1009, 4096), (pings, 1008, 300)] {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        let started = Instant::now();
        // In two parts, so that the edge answers in the middle of it.
        let (first, second) = offence.split_at(offence.len() - rest);
        client.send(first).await;
        client.send(second).await;
        let close = loop {
            let frame = client.frame().await;
            if frame.opcode == CLOSE {
                break frame;
            }
        };
        assert_eq!(close.closing().code, Some(code));
        client.writer.answer(close).await;
        assert_eq!(client.end().await, End::CloseNotify);
        assert_eq!(upstream.closes(1001).await, End::Fin);
        assert!(started.elapsed() < Duration::from_secs(5), "{code}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_peer_that_never_stops_talking_is_not_listened_to_for_ever() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).close("15s").start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    client.send(&Frame::text("bad").masked(false).encode()).await;
    let started = Instant::now();
    let junk = vec![0; 64 << 10];
    let mut sent = 0;
    support::soon("the edge hangs up", async {
        while client.writer.try_send(&junk).await.is_ok() {
            sent += junk.len();
        }
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(12), "after 4 MiB, not after `close`");
    assert!(sent >= 4 << 20, "only {sent} bytes were taken");
}

#[tokio::test]
async fn the_log_counts_what_passed() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    client.send_frame(Frame::text("12345")).await;
    upstream.frame().await;
    for _ in 0..2 {
        upstream.send_frame(Frame::binary(vec![0; 1000])).await;
        client.frame().await;
    }
    client.send_frame(Frame::close(1000, "")).await;
    let close = upstream.frame().await;
    upstream.writer.answer(close).await;
    upstream.hang_up().await;
    assert_eq!(client.close().await.code, Some(1000));
    let line = edge.assert_ended("client_close", "client").await;
    // The frames with the Closes, the bytes of data frames only.
    assert_eq!((&line["frames_upstream"], &line["bytes_upstream"]), (&2.into(), &5.into()));
    assert_eq!((&line["frames_downstream"], &line["bytes_downstream"]), (&3.into(), &2000.into()));
    assert_eq!((&line["route"], &line["level"]), (&"app".into(), &"INFO".into()), "{line}");
    assert_eq!(line["endpoint"], backend.address.as_str(), "{line}");
    assert!(line["client"].as_str().expect("client").starts_with("127.0.0.1"), "{line}");
    assert!(line["duration_ms"].is_number() && !line["id"].is_null(), "{line}");
    let opened = edge.logged(|line| line["message"] == "tunnel opened");
    assert_eq!((opened.len(), &opened[0]["id"]), (1, &line["id"]));
}

#[tokio::test]
async fn the_path_is_logged_and_never_the_query() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend).await;
    let request = Upgrade::to("/room?token=s3cret").add("Authorization", "Bearer s3cret");
    let (mut client, mut upstream) = support::open_as(&edge, &backend, request, "").await;
    client.send_frame(Frame::close(1000, "s3cret\u{7}\n")).await;
    let close = upstream.frame().await;
    upstream.writer.answer(close).await;
    edge.assert_ended("client_close", "client").await;
    let lines = edge.logged(|line| line.to_string().contains("s3cret"));
    assert_eq!(lines, Vec::<support::Line>::new());
    assert!(matches!(client.reader.event().await, Event::Frame(_)));
}

//! HTTP/2 beside HTTP/1.1: WebSockets as streams (RFC 8441), and what one client may do to a
//! connection that it shares with nobody but itself.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, client};
use http::{Method, Request};
use rustix::process::Signal;
use support::{
    BINARY, Backend, Config, Edge, Frame, Over, PATIENCE, PING, PONG, Peer, Stream, Streams,
    Upgrade, connect, connect_with, ended, open, relay, soon, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn start(backend: &Backend) -> Edge {
    Config::new(&backend.address).start().await
}

/// A WebSocket on a new connection, and the upstream it reached.
async fn open_stream(edge: &Edge, backend: &Backend) -> (Streams, Stream, Peer) {
    let mut streams = Streams::open(edge).await;
    let (stream, upstream) = another(&mut streams, backend, "/").await;
    (streams, stream, upstream)
}

async fn another(streams: &mut Streams, backend: &Backend, path: &str) -> (Stream, Peer) {
    let upstream = async { backend.accept().await.upgrade("").await };
    tokio::join!(streams.upgrade(connect(path)), upstream)
}

async fn echo(stream: &mut Stream, upstream: &mut Peer, text: &str) {
    stream.send_frame(Frame::text(text)).await;
    assert_eq!(upstream.frame().await.payload, text.as_bytes());
    upstream.send_frame(Frame::text(text)).await;
    assert_eq!(stream.frame().await.payload, text.as_bytes());
}

fn get(path: &str) -> Request<()> {
    request(Method::GET, path)
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("https://localhost{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

// ---- the handshake ----

#[tokio::test]
async fn a_websocket_is_a_stream_and_http_1_1_goes_on_beside_it() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut streams = Streams::open(&edge).await;
    let accepted = async {
        let asked = backend.accept().await;
        assert_eq!(asked.head.start, "GET /chat?a=b HTTP/1.1");
        assert_eq!(asked.head.header("host"), Some("localhost"));
        assert_eq!(asked.head.header("x-forwarded-proto"), Some("https"));
        assert_eq!(asked.head.header("cookie"), Some("a=1; b=2"));
        asked.upgrade("Set-Cookie: c=3\r\n").await
    };
    let mut asking = connect("/chat?a=b");
    for cookie in ["a=1", "b=2"] {
        asking.headers_mut().append("cookie", cookie.parse().expect("a value"));
    }
    let (mut stream, mut upstream) = tokio::join!(streams.upgrade(asking), accepted);
    assert_eq!(stream.header("set-cookie"), Some("c=3"));
    for none in ["sec-websocket-accept", "upgrade", "connection", "sec-websocket-protocol"] {
        assert_eq!(stream.header(none), None, "{:?}", stream.headers);
    }
    echo(&mut stream, &mut upstream, "over HTTP/2").await;

    let (mut old, mut old_upstream) = open(&edge, &backend).await;
    relay(&mut old, &mut old_upstream, "over HTTP/1.1").await;
    echo(&mut stream, &mut upstream, "and again").await;
    for (message, level) in [("tunnel opened", "DEBUG")] {
        let of = |protocol: &'static str| {
            move |line: &support::Line| line["message"] == message && line["protocol"] == protocol
        };
        assert_eq!(edge.wait_for_log(of("h2")).await["level"], level);
        edge.wait_for_log(of("http/1.1")).await;
    }
}

#[tokio::test]
async fn http2_is_not_offered_where_it_is_off() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).listener("http2 = false");
    let edge = config.start().await;
    let mut peer = offers_both(&edge).await;
    assert_eq!(peer.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    peer.shutdown().await.expect("an orderly end");

    edge.reconfigure(&Config::new(&backend.address).listener("http2 = true")).await;
    let peer = offers_both(&edge).await;
    assert_eq!(peer.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
}

async fn offers_both(edge: &Edge) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut config = (*support::client_config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connecting = support::connect_tls(edge.tls, "localhost", config.into());
    soon("a TLS handshake", connecting).await.expect("a TLS handshake")
}

#[tokio::test]
async fn subprotocols_and_compression_are_agreed_as_ever() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut streams = Streams::open(&edge).await;
    let mut asking = connect_with("/", "sec-websocket-protocol", "chat, superchat");
    let offered = "permessage-deflate; client_max_window_bits";
    asking.headers_mut().insert("sec-websocket-extensions", offered.parse().expect("a value"));
    let accepted = async {
        let asked = backend.accept().await;
        assert_eq!(asked.head.header("sec-websocket-protocol"), Some("chat, superchat"));
        assert!(asked.head.header("sec-websocket-extensions").is_some());
        asked
            .upgrade(
                "Sec-WebSocket-Protocol: superchat\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n",
            )
            .await
    };
    let (mut stream, mut upstream) = tokio::join!(streams.upgrade(asking), accepted);
    assert_eq!(stream.header("sec-websocket-protocol"), Some("superchat"));
    assert_eq!(stream.header("sec-websocket-extensions"), Some("permessage-deflate"));
    let compressed = Frame::text("x").with_rsv(4);
    stream.send_frame(compressed.clone()).await;
    assert_eq!(upstream.frame().await.rsv, compressed.rsv);
}

#[tokio::test]
async fn refusals_are_statuses_that_http2_has() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&Backend::nobody().await)
        .more(&format!(
            "[[upstream]]\nname = \"other\"\nendpoints = [{:?}]\n[[route]]\nname = \"other\"\n\
             path = \"/other\"\nupstream = \"other\"\norigin = {{ allow = [\"https://a.example\"] }}",
            backend.address
        ))
        .start()
        .await;
    let mut streams = Streams::open(&edge).await;
    let wrong = streams.ask(connect_with("/", "sec-websocket-version", "12"), b"").await;
    let wrong = wrong.expect("an answer");
    assert_eq!(
        (wrong.status, &wrong.headers["sec-websocket-version"]),
        (400, &"13".parse().unwrap())
    );

    let plain = streams.ask(get("/"), b"").await.expect("an answer");
    assert_eq!(plain.status, 404);
    assert!(!plain.headers.contains_key("upgrade") && !plain.headers.contains_key("connection"));
    assert!(String::from_utf8_lossy(&plain.body).contains("WebSocket only"));
    let head = streams.ask(request(Method::HEAD, "/"), b"").await.expect("an answer");
    assert_eq!((head.status, head.body.len()), (404, 0));

    let dead = streams.ask(connect("/"), b"").await.expect("an answer");
    assert_eq!(dead.status, 502);
    let foreign = streams.ask(connect_with("/other", "origin", "https://b.example"), b"").await;
    assert_eq!(foreign.expect("an answer").status, 403);
    let key = connect_with("/other", "origin", "https://a.example");
    let asked = async {
        let answer = "HTTP/1.1 401 Who\r\nContent-Length: 4\r\nX-Why: 1\r\n\r\nwho?";
        backend.accept().await.answer(answer).await
    };
    let (passed, _upstream) = tokio::join!(streams.ask(key, b""), asked);
    let passed = passed.expect("an answer");
    assert_eq!((passed.status, passed.body.as_slice()), (401, b"who?".as_slice()));
    assert_eq!(passed.headers["x-why"], "1");
    edge.wait_for_logs(6, |line| line["message"] == "handshake refused").await;
}

#[tokio::test]
async fn a_200_of_an_upstream_that_does_not_upgrade_opens_nothing() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut streams = Streams::open(&edge).await;
    let answer = async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        backend.accept().await.answer(answer).await
    };
    let (answered, _upstream) = tokio::join!(streams.ask(connect("/"), b""), answer);
    assert_eq!(answered.expect("an answer").status, 502);
    assert_eq!(edge.refused().await["outcome"], "upstream_invalid");
}

#[tokio::test]
async fn a_refusal_is_told_by_a_close_where_the_route_says_so() {
    let edge = Config::new(&Backend::nobody().await).route("reject = \"close\"").start().await;
    let mut streams = Streams::open(&edge).await;
    let mut stream = streams.upgrade(connect_with("/", "sec-websocket-protocol", "a, b")).await;
    assert_eq!(stream.header("sec-websocket-protocol"), Some("a"));
    assert_eq!(stream.closes(4502).await, Over::EndStream);
}

// ---- plain HTTP ----

#[tokio::test]
async fn plain_requests_pass_with_bodies_and_trailers() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("plain_http = \"proxy\"").start().await;
    let mut streams = Streams::open(&edge).await;
    let served = async {
        let mut upstream = backend.connection().await;
        let asked = upstream.reader.request().await;
        assert_eq!(asked.start, "POST /up HTTP/1.1");
        assert_eq!(asked.header("transfer-encoding"), Some("chunked"));
        assert_eq!(asked.body, b"hello");
        let answer = "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\
                      Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n\
                      2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        upstream.send(answer.as_bytes()).await;
        upstream
    };
    let posted = streams.ask(request(Method::POST, "/up"), b"hello");
    let (answer, _upstream) = tokio::join!(posted, served);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (201, b"hi".as_slice()));
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "7");
    for gone in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(gone), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn an_event_stream_comes_piece_by_piece_beside_a_websocket() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("plain_http = \"proxy\"").start().await;
    let mut streams = Streams::open(&edge).await;
    let (mut stream, mut upstream) = another(&mut streams, &backend, "/ws").await;
    let (response, _sender) = streams.send(get("/events"), true).await;
    let mut events = backend.accept().await.silent();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    events.send(head.as_bytes()).await;
    let mut body = soon("a head", response).await.expect("an answer").into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event.as_bytes()).await;
        let piece = soon("an event", body.data()).await.expect("an event").expect("an event");
        assert_eq!(piece, event);
        echo(&mut stream, &mut upstream, "meanwhile").await;
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("plain_http = \"proxy\"\nlimits.slow_consumer = \"1s\"")
        .start()
        .await;
    let builder = client::Builder::new().initial_connection_window_size(1 << 20).clone();
    let mut streams = Streams::open_by(&edge, &builder).await;
    let (mut stream, mut upstream) = another(&mut streams, &backend, "/ws").await;
    let (response, _sender) = streams.send(get("/large"), true).await;
    let mut large = backend.accept().await.silent();
    let body = vec![b'x'; 1 << 20];
    large.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n").await;
    let sending = tokio::spawn(async move { large.writer.try_send(&body).await });
    let mut unread = soon("a head", response).await.expect("an answer").into_body();
    let reset = soon("a reset", async {
        loop {
            // What is read is not taken out of the window.
            match unread.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason(),
                None => return None,
            }
        }
    })
    .await;
    assert_eq!(reset, Some(Reason::CANCEL));
    echo(&mut stream, &mut upstream, "unharmed").await;
    sending.abort();
}

// ---- endings ----

#[tokio::test]
async fn a_clean_end_is_end_stream_on_either_side() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (mut streams, mut stream, mut upstream) = open_stream(&edge, &backend).await;
    upstream.send_frame(Frame::close(1000, "bye")).await;
    let frame = stream.frame().await;
    assert_eq!(frame.closing().code, Some(1000));
    stream.send_frame(frame).await;
    assert_eq!(upstream.close().await.code, Some(1000));
    upstream.shutdown().await;
    assert_eq!(stream.over().await, Over::EndStream);
    stream.end();
    let line = edge.ended().await;
    assert_eq!((&line["reason"], &line["protocol"]), (&"upstream_close".into(), &"h2".into()));

    let (mut stream, mut upstream) = another(&mut streams, &backend, "/").await;
    stream.send_frame(Frame::close(1001, "")).await;
    let frame = upstream.frame().await;
    assert_eq!(frame.closing().code, Some(1001));
    upstream.writer.answer(frame).await;
    upstream.hang_up().await;
    assert_eq!(stream.frame().await.closing().code, Some(1001));
    assert_eq!(stream.over().await, Over::EndStream);
}

#[tokio::test]
async fn a_tunnel_that_is_cut_within_a_frame_is_reset() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (_streams, mut stream, mut upstream) = open_stream(&edge, &backend).await;
    let half = Frame::binary(vec![1; 1000]).encode();
    upstream.send(&half[..500]).await;
    upstream.reset();
    let (came, over) = stream.rest().await;
    assert!(half.starts_with(&came), "{} bytes", came.len());
    assert_eq!(over, Over::Reset(Reason::CANCEL));
    edge.assert_ended("upstream_lost", "upstream").await;
}

#[tokio::test]
async fn a_reset_by_the_client_is_a_lost_client() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (_streams, mut stream, mut upstream) = open_stream(&edge, &backend).await;
    echo(&mut stream, &mut upstream, "here").await;
    stream.sender.send_reset(Reason::CANCEL);
    upstream.end().await;
    edge.assert_ended("client_lost", "client").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_loses_all_its_streams() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (mut streams, first, mut one) = open_stream(&edge, &backend).await;
    let (second, mut two) = another(&mut streams, &backend, "/").await;
    streams.abort().await;
    drop((first, second));
    one.end().await;
    two.end().await;
    for line in edge.wait_for_logs(2, ended).await {
        assert_eq!(line["reason"], "client_lost");
    }
}

#[tokio::test]
async fn a_drain_is_goaway_after_its_delay_and_1012_on_each_stream() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .server("drain = { delay = \"500ms\", window = \"1s\", timeout = \"20s\" }")
        .start()
        .await;
    let (mut streams, first, one) = open_stream(&edge, &backend).await;
    let (second, two) = another(&mut streams, &backend, "/").await;
    let mut idle = Streams::open(&edge).await;
    edge.signal(Signal::TERM);
    let signalled = Instant::now();
    let mut farewells = JoinSet::new();
    for mut upstream in [one, two] {
        farewells.spawn(async move {
            upstream.closes(1001).await;
        });
    }
    for mut stream in [first, second] {
        farewells.spawn(async move {
            assert_eq!(stream.closes(1012).await, Over::EndStream);
            stream.end();
        });
    }
    idle.ended().await.expect("an end in good order");
    assert!(signalled.elapsed() >= Duration::from_millis(500), "{:?}", signalled.elapsed());
    within(PATIENCE, "all are told", farewells.join_all()).await;
    streams.ended().await.expect("an end in good order");
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(8), "{:?}", signalled.elapsed());
    for line in edge.wait_for_logs(2, ended).await {
        assert_eq!(line["reason"], "drain");
    }
}

#[tokio::test]
async fn a_reload_closes_the_streams_of_a_route_that_is_gone_and_no_others() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).server("drain.window = \"100ms\"");
    let other = "[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"app\"";
    let edge = config.clone().more(other).start().await;
    let (mut streams, mut stays, mut stays_upstream) = open_stream(&edge, &backend).await;
    let (mut goes, mut goes_upstream) = another(&mut streams, &backend, "/other").await;
    edge.reconfigure(&config).await;
    let (over, _) = tokio::join!(goes.closes(1012), goes_upstream.closes(1001));
    assert_eq!(over, Over::EndStream);
    edge.assert_ended("route_removed", "edge").await;
    echo(&mut stays, &mut stays_upstream, "unconcerned").await;
}

#[tokio::test]
async fn a_stream_given_up_while_it_dials_gives_back_its_places() {
    let backend = Backend::tcp().await;
    let edge =
        Config::new(&backend.address).route("limits.connections = { total = 1 }").start().await;
    let mut streams = Streams::open(&edge).await;
    for _ in 0..3 {
        let (response, mut sender) = streams.send(connect("/"), false).await;
        let mut upstream = backend.accept().await.silent();
        sender.send_reset(Reason::CANCEL);
        drop(response);
        upstream.end().await;
    }
    edge.wait_for_logs(3, |line| line["outcome"] == "client_gone").await;
    let (mut stream, mut upstream) = another(&mut streams, &backend, "/").await;
    echo(&mut stream, &mut upstream, "the only place was free").await;
    let full = streams.ask(connect("/"), b"").await.expect("an answer");
    assert_eq!(full.status, 503);
}

// ---- many streams, and their windows ----

#[tokio::test]
async fn a_hundred_sockets_share_a_connection_and_one_that_stalls_harms_none() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    // What a client lets lie takes room of its connection's window, too.
    let builder = client::Builder::new().initial_connection_window_size(1 << 20).clone();
    let mut streams = Streams::open_by(&edge, &builder).await;
    let (mut stalled, mut flooding) = another(&mut streams, &backend, "/").await;
    let mut others = Vec::new();
    for _ in 1..100 {
        others.push(another(&mut streams, &backend, "/").await);
    }
    let flood = tokio::spawn(async move {
        let frame = Frame::binary(vec![7; 60_000]).encode();
        while flooding.writer.try_send(&frame).await.is_ok() {}
    });
    // The stalled one takes nothing, and what it sends is not taken either.
    soon("the stalled stream's window is full", async {
        while stalled.receiver.flow_control().used_capacity() < 65_000 {
            let piece = soon("data", stalled.receiver.data()).await;
            piece.expect("data").expect("data");
        }
    })
    .await;
    let turn = async {
        for (stream, upstream) in &mut others {
            echo(stream, upstream, "one of ninety-nine").await;
        }
    };
    within(PATIENCE, "an echo on every other stream", turn).await;
    let before = edge.logged(ended).len();
    assert_eq!(before, 0, "nobody was harmed");

    // The edge admits no more, and says so to who asks all the same.
    let (response, _sender) = streams.send(connect("/"), false).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), response).await;
    assert!(waits.is_err(), "a client that knows the bound waits for a free stream");
    flood.abort();
}

#[tokio::test]
async fn the_hundred_and_first_stream_is_refused() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("plain_http = \"proxy\"").start().await;
    let mut socket = Streams::socket(&edge).await;
    let mut bytes = PREFACE.to_vec();
    bytes.extend(raw(4, 0, 0, &[]));
    for number in 0..101 {
        bytes.extend(headers(number * 2 + 1, 0x4));
    }
    socket.write_all(&bytes).await.expect("room");
    let mut read = Vec::new();
    let refused = soon("RST_STREAM(REFUSED_STREAM)", async {
        loop {
            if let Some(frame) = frames(&read).into_iter().find(|(kind, ..)| *kind == 3) {
                return frame;
            }
            assert!(socket.read_buf(&mut read).await.expect("more") > 0, "it hung up");
        }
    })
    .await;
    assert_eq!(refused, (3, 201, 7_u32.to_be_bytes().to_vec()));
}

/// HEADERS of a GET of https://localhost/, whole; further `flags` may be END_STREAM.
fn headers(stream: u32, flags: u8) -> Vec<u8> {
    // RFC 7541 appendix A: 2 is GET, 4 is /, 7 is https; 1 is :authority, its value literal.
    let mut block = vec![0x82, 0x84, 0x87, 0x01, 9];
    block.extend_from_slice(b"localhost");
    raw(1, 0x4 | flags, stream, &block)
}

/// The whole frames of HTTP/2 in `bytes`: type, stream, payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(payload) = rest.get(..length) else { break };
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        found.push((head[3], stream, payload.to_vec()));
        bytes = &rest[length..];
    }
    found
}

/// Through a tunnel and back, in messages of 256 KiB; `WSGATE_TRANSFER` sets another number of
/// MiB.
#[tokio::test]
async fn a_large_transfer_flows_both_ways_whole() {
    const MESSAGE: usize = 256 << 10;
    let megabytes = std::env::var("WSGATE_TRANSFER").ok().and_then(|text| text.parse().ok());
    let messages = megabytes.unwrap_or(64_usize) * 4;
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (_streams, stream, upstream) = open_stream(&edge, &backend).await;
    let Stream { mut sender, mut receiver, .. } = stream;
    let Peer { reader: mut up_reader, writer: mut up_writer } = upstream;
    let before = edge.resident();
    let sending = tokio::spawn(async move {
        for number in 0..messages {
            let frame = Frame::binary(vec![number as u8; MESSAGE]).masked(true).encode();
            let mut bytes = Bytes::from(frame);
            while !bytes.is_empty() {
                sender.reserve_capacity(bytes.len());
                let granted = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
                let granted = granted.expect("open").expect("open").min(bytes.len());
                sender.send_data(bytes.split_to(granted), false).expect("open");
            }
        }
        sender
    });
    let echoing = tokio::spawn(async move {
        for _ in 0..messages {
            let frame = up_reader.frame().await;
            assert_eq!((frame.opcode, frame.payload.len()), (BINARY, MESSAGE));
            up_writer.send_frame(frame).await;
        }
        (up_reader, up_writer)
    });
    let mut held = Vec::new();
    let mut came = 0;
    while came < messages {
        let piece = soon("data", receiver.data()).await.expect("data").expect("data");
        receiver.flow_control().release_capacity(piece.len()).expect("open");
        held.extend_from_slice(&piece);
        if held.len() >= MESSAGE
            && let Some((frame, used)) = Frame::decode(&held)
        {
            assert!(frame.payload.iter().all(|byte| *byte == came as u8), "message {came}");
            held.drain(..used);
            came += 1;
        }
    }
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    drop(within(PATIENCE, "the ends", async { tokio::join!(sending, echoing) }).await);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_reset() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("limits.slow_consumer = \"1s\"").start().await;
    let builder = client::Builder::new().initial_window_size(0).clone();
    let mut streams = Streams::open_by(&edge, &builder).await;
    let (mut stream, mut upstream) = another(&mut streams, &backend, "/").await;
    let frame = Frame::binary(vec![7; 60_000]).encode();
    let flood = async { while upstream.writer.try_send(&frame).await.is_ok() {} };
    within(PATIENCE, "the edge gives up", flood).await;
    assert_eq!(stream.over().await, Over::Reset(Reason::CANCEL));
    edge.assert_ended("slow_consumer", "client").await;
    let again = streams.ask(request(Method::HEAD, "/"), b"").await;
    assert_eq!(again.expect("the connection lives").status, 404);
}

#[tokio::test]
async fn the_edge_answers_pings_and_beats_itself() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .heartbeat("heartbeat = { interval = \"200ms\", timeout = \"1s\" }")
        .start()
        .await;
    let (_streams, mut stream, _upstream) = open_stream(&edge, &backend).await;
    stream.send_frame(Frame::new(PING, "mine")).await;
    let (mut beats, mut echoed) = (0, false);
    while beats < 2 || !echoed {
        let frame = stream.frame().await;
        match frame.opcode {
            PING => {
                beats += 1;
                stream.send_frame(Frame::new(PONG, frame.payload)).await;
            }
            PONG => echoed |= frame.payload == b"mine",
            _ => panic!("{}", frame.describe()),
        }
    }
    // And a client that is silent from now on is buried.
    edge.assert_ended("heartbeat_timeout", "client").await;
}

// ---- floods ----

/// Sends the preface and then `flood` again and again, reading what comes; gives the bytes sent
/// when the edge hung up.
async fn floods(edge: &Edge, flood: impl Fn(u32) -> Vec<u8>, most: usize) -> usize {
    let (mut read, mut write) = tokio::io::split(Streams::socket(edge).await);
    let mut hello = PREFACE.to_vec();
    hello.extend(raw(4, 0, 0, &[]));
    write.write_all(&hello).await.expect("room");
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while read.read(&mut buffer).await.is_ok_and(|size| size > 0) {}
    });
    let sent = within(Duration::from_secs(40), "the flood is over", async {
        let mut sent = 0;
        for number in 0.. {
            let bytes = flood(number);
            sent += bytes.len();
            if sent > most || write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        sent
    });
    let sent = sent.await;
    reading.abort();
    sent
}

#[tokio::test]
async fn floods_end_their_connection_or_cost_no_memory() {
    const MOST: usize = 8 << 20;
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("plain_http = \"proxy\"").start().await;
    let (_streams, mut stream, mut upstream) = open_stream(&edge, &backend).await;
    let before = edge.resident();

    let rapid_reset = |number: u32| {
        let stream = number * 2 + 1;
        let mut bytes = headers(stream, 0x1);
        bytes.extend(raw(3, 0, stream, &8_u32.to_be_bytes()));
        bytes
    };
    let sent = floods(&edge, rapid_reset, MOST).await;
    assert!(sent < MOST, "rapid resets went on for {sent} bytes");

    let continuation = |number: u32| match number {
        0 => raw(1, 0, 1, &[0x82, 0x84, 0x87]),
        // A literal field, never indexed.
        _ => raw(9, 0, 1, &[[0x00, 1, b'a', 1, b'b'].as_slice(); 1000].concat()),
    };
    let sent = floods(&edge, continuation, MOST).await;
    assert!(sent < MOST, "CONTINUATION went on for {sent} bytes");

    let empty_data = |number: u32| match number {
        0 => headers(1, 0),
        _ => raw(0, 0, 1, &[]).repeat(100),
    };
    let sent = floods(&edge, empty_data, MOST).await;
    assert!(sent < MOST, "empty DATA went on for {sent} bytes");

    let windows = |_: u32| raw(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    assert!(floods(&edge, windows, MOST).await < MOST, "a window over 2^31");
    let too_much = |number: u32| match number {
        0 => headers(1, 0),
        _ => raw(0, 0, 1, &[b'x'; 16 << 10]),
    };
    // What nobody upstream takes fills the stream's window; more is an error of the stream.
    floods(&edge, too_much, 4 * MOST).await;
    // These are answered one by one, and only as fast as the answers are taken.
    floods(&edge, |_| raw(6, 0, 0, &[0; 8]).repeat(100), 1 << 20).await;
    floods(&edge, |_| raw(4, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(100), 1 << 20).await;

    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more");
    echo(&mut stream, &mut upstream, "still here").await;
}

#[tokio::test]
async fn who_gives_up_everything_is_shown_out() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut streams = Streams::open(&edge).await;
    let (mut given_up, mut dialled) = (0, Vec::new());
    soon("the connection ends", async {
        while !streams.has_ended() && given_up < 400 {
            let Ok(mut sender) = ready(&mut streams).await else { break };
            let Ok((response, mut stream)) = sender.send_request(connect("/"), false) else {
                break;
            };
            // What is given up was begun.
            let dial = tokio::time::timeout(Duration::from_secs(1), backend.connection());
            dialled.extend(dial.await.ok());
            stream.send_reset(Reason::CANCEL);
            drop(response);
            given_up += 1;
        }
    })
    .await;
    let _ = streams.ended().await;
    assert!((100..200).contains(&given_up), "{given_up}");
}

async fn ready(streams: &mut Streams) -> Result<client::SendRequest<Bytes>, h2::Error> {
    streams.sender().ready().await
}

// ---- time ----

#[tokio::test]
async fn silent_idle_and_pending_connections_are_closed_in_time() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("timeouts = { header = \"1s\", keepalive = \"2s\" }\nlimits.pending = 2")
        .start()
        .await;
    let mut never = Streams::open(&edge).await;
    let began = Instant::now();
    let _ = never.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());

    let mut idle = Streams::open(&edge).await;
    assert_eq!(idle.ask(get("/"), b"").await.expect("an answer").status, 404);
    let began = Instant::now();
    let _ = idle.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());

    let mut first = Streams::socket(&edge).await;
    let _second = Streams::socket(&edge).await;
    let _third = Streams::socket(&edge).await;
    let mut rest = Vec::new();
    let _ = soon("the oldest has to go", first.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_tunnel_keeps_its_connection_and_an_ended_one_does_not() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .listener("timeouts = { header = \"500ms\", keepalive = \"500ms\" }")
        .start()
        .await;
    let (mut streams, mut stream, mut upstream) = open_stream(&edge, &backend).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    echo(&mut stream, &mut upstream, "still here").await;
    stream.send_frame(Frame::close(1000, "")).await;
    upstream.closes(1000).await;
    assert_eq!(stream.frame().await.closing().code, Some(1000));
    assert_eq!(stream.over().await, Over::EndStream);
    stream.end();
    let _ = streams.ended().await;
}

#[tokio::test]
async fn http_1_1_upgrades_on_the_listener_that_speaks_http2() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    let upstream = async { backend.accept().await.upgrade("").await };
    tokio::join!(client.upgrade(Upgrade::to("/")), upstream);
}

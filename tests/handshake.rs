//! From the first byte of a request to the 101, or to the status that says why there is none:
//! DESIGN §4, its rows that need no policy.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Backend, Config, Edge, End, Frame, KEY, Message, Peer, Upgrade, accept_of, authority,
    connect_tls, open, open_as, soon,
};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion};

// Refused by the edge itself.

#[tokio::test]
async fn no_route_is_404() {
    let edge = Config::new(&Backend::nobody().await)
        .route("host = \"chat.example.com\"\npath = \"/ws\"")
        .start()
        .await;
    let chat = |target| Upgrade::to(target).set("Host", "chat.example.com");
    let cases = [
        ("another host", Upgrade::to("/ws")),
        ("another path", chat("/other")),
        ("a prefix is a whole segment", chat("/wsx")),
    ];
    for (what, request) in cases {
        let answer = edge.connect().await.ask(request).await;
        assert_problem(&answer, 404, what);
    }
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["status"]), (&"no_route".into(), &404.into()), "{line}");
    assert_eq!((&line["by"], &line["path"]), (&"client".into(), &"/ws".into()), "{line}");
}

#[tokio::test]
async fn plain_http_on_a_websocket_route_is_426() {
    let edge = nowhere().await;
    let plain = Upgrade::to("/").without("Upgrade").without("Connection");
    for request in [plain.clone(), plain.without("Sec-WebSocket-Key").add("Accept", "*/*")] {
        let answer = edge.connect().await.ask(request).await;
        assert_problem(&answer, 426, "plain HTTP");
        assert_426(&answer);
    }
    assert_eq!(edge.refused().await["outcome"], "not_upgrade");
}

#[tokio::test]
async fn another_version_of_the_protocol_is_426() {
    let edge = nowhere().await;
    for version in ["0", "8", "12", "14"] {
        let request = Upgrade::to("/").set("Sec-WebSocket-Version", version);
        let answer = edge.connect().await.ask(request).await;
        assert_problem(&answer, 426, version);
        assert_426(&answer);
    }
}

#[tokio::test]
async fn a_malformed_upgrade_is_400() {
    let edge = nowhere().await;
    let upgrade = || Upgrade::to("/");
    let cases = [
        ("no key", upgrade().without("Sec-WebSocket-Key")),
        ("an empty key", upgrade().set("Sec-WebSocket-Key", "")),
        ("15 bytes of key", upgrade().set("Sec-WebSocket-Key", "AAECAwQFBgcICQoLDA0O")),
        ("17 bytes of key", upgrade().set("Sec-WebSocket-Key", "AAECAwQFBgcICQoLDA0ODxA=")),
        ("a key that is no base64", upgrade().set("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!==")),
        ("two keys", upgrade().add("Sec-WebSocket-Key", KEY)),
        ("two versions", upgrade().add("Sec-WebSocket-Version", "13")),
        ("two hosts", upgrade().add("Host", "localhost")),
        ("no host at all", upgrade().without("Host")),
        ("POST", upgrade().start("POST / HTTP/1.1")),
        ("PUT", upgrade().start("PUT / HTTP/1.1")),
        ("HTTP/1.0", upgrade().start("GET / HTTP/1.0")),
        ("a body by its length", upgrade().add("Content-Length", "5")),
        ("a body in chunks", upgrade().add("Transfer-Encoding", "chunked")),
    ];
    for (what, request) in cases {
        let answer = edge.connect().await.ask(request).await;
        assert_eq!(answer.status(), 400, "{what}: {answer:?}");
    }
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["status"]), (&"malformed".into(), &400.into()), "{line}");
}

#[tokio::test]
async fn an_empty_body_is_none() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    open_as(&edge, &backend, Upgrade::to("/").add("Content-Length", "0"), "").await;
}

#[tokio::test]
async fn the_words_of_an_upgrade_are_matched_as_http_matches_them() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let requests = [
        Upgrade::to("/").set("Connection", "keep-alive, Upgrade"),
        Upgrade::to("/").set("Connection", "UPGRADE").set("Upgrade", "WebSocket"),
        Upgrade::to("/").set("Connection", "keep-alive").add("Connection", "upgrade"),
    ];
    for request in requests {
        open_as(&edge, &backend, request, "").await;
    }
}

#[tokio::test]
async fn a_path_that_may_be_read_in_two_ways_is_400() {
    let edge = nowhere().await;
    let targets = [
        "/a/../b",
        "/..",
        "/a/.",
        "/./a",
        "/a/%2e%2e/b",
        "/%2E",
        "/a/.%2e/b",
        "/a/..%2fb",
        "/a%2f..%2fb",
        "/a\\b",
        "/a%5cb",
        "/a%5Cb",
        "/a%00b",
        "/a#b",
        "/#",
    ];
    for target in targets {
        let answer = edge.connect().await.ask(Upgrade::to(target)).await;
        assert_eq!(answer.status(), 400, "{target}: {answer:?}");
    }
}

#[tokio::test]
async fn a_target_and_a_host_that_disagree_are_400() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let other = Upgrade::to("http://elsewhere.example/a");
    assert_eq!(edge.connect().await.ask(other).await.status(), 400);
    let same = Upgrade::to("http://localhost/a?b=c");
    let mut client = edge.connect().await;
    let request = async { backend.accept().await };
    let bytes = same.bytes();
    let (_, request) = tokio::join!(client.send(&bytes), request);
    assert_eq!(request.head.target(), "/a?b=c", "the upstream gets a path");
}

#[tokio::test]
async fn a_head_that_is_not_whole_in_time_is_408() {
    let edge =
        Config::new(&Backend::nobody().await).listener("timeouts.header = \"2s\"").start().await;
    for tls in [true, false] {
        // The edge's clock begins when it has the connection, and a head of which nothing came in
        // time is answered nothing: the first bytes must not be late on a busy machine.
        let started = Instant::now();
        let mut client = if tls { edge.connect().await } else { edge.connect_plain().await };
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
        let answer = client.reader.answer().await;
        assert_eq!(answer.status(), 408, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(started.elapsed() >= Duration::from_secs(2), "after {:?}", started.elapsed());
        assert_eq!(client.end().await, if tls { End::CloseNotify } else { End::Fin });
    }
    assert_eq!(edge.refused().await["outcome"], "timeout");
}

#[tokio::test]
async fn a_head_that_trickles_in_does_not_gain_time() {
    let edge =
        Config::new(&Backend::nobody().await).listener("timeouts.header = \"1s\"").start().await;
    let mut client = edge.connect().await;
    let started = Instant::now();
    let trickle = async {
        let _ = client.writer.try_send(b"GET / HTTP/1.1\r\nX: ").await;
        while client.writer.try_send(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::select! {
        answer = client.reader.answer() => answer,
        () = trickle => panic!("the connection ended without a 408"),
    };
    assert_eq!(answer.status(), 408);
    assert!(started.elapsed() < Duration::from_secs(5), "after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_head_too_large_is_431_and_a_target_too_long_414() {
    let edge = Config::new(&Backend::nobody().await)
        .listener("limits.header_bytes = \"8KiB\"\nlimits.uri = \"1KiB\"")
        .start()
        .await;
    let large = Upgrade::to("/").add("X-Large", &"x".repeat(9 << 10));
    assert_eq!(edge.connect().await.ask(large).await.status(), 431);
    let long = Upgrade::to(&format!("/{}", "x".repeat(1025)));
    assert_eq!(edge.connect().await.ask(long).await.status(), 414);
    let fits = Upgrade::to(&format!("/{}", "x".repeat(1000)));
    assert_eq!(edge.connect().await.ask(fits).await.status(), 502, "1 KiB is not too long");
}

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("path = \"/ws\"").start().await;
    let mut client = edge.connect().await;
    assert_eq!(client.ask(Upgrade::to("/")).await.status(), 404);
    assert_eq!(client.ask(Upgrade::to("/ws").without("Upgrade")).await.status(), 426);
    let request = Upgrade::to("/ws");
    let upstream = async { backend.accept().await.upgrade("").await };
    let (_, mut upstream) = tokio::join!(client.upgrade(request), upstream);
    client.send_frame(Frame::text("third")).await;
    assert_eq!(upstream.frame().await.payload, b"third");
}

#[tokio::test]
async fn a_draining_edge_upgrades_nobody() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .server("drain = { delay = \"0s\", window = \"10s\", timeout = \"30s\" }")
        .start()
        .await;
    // Sockets that keep the process alive.
    let mut kept = Vec::new();
    for _ in 0..5 {
        kept.push(open(&edge, &backend).await);
    }
    let mut early = edge.connect().await;
    let request = Upgrade::to("/early").bytes();
    early.send(&request[..30]).await;
    let mut dialling = edge.connect().await;
    dialling.send(&Upgrade::to("/dialling").bytes()).await;
    let held = backend.accept().await;
    edge.signal(Signal::TERM);
    soon("the listeners close", async {
        while tokio::net::TcpStream::connect(edge.plain).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    early.send(&request[30..]).await;
    let answer = early.reader.answer().await;
    assert_problem(&answer, 503, "a head that was under way");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let _upstream = held.upgrade("").await;
    let answer = dialling.reader.answer().await;
    assert_problem(&answer, 503, "a dial that was under way");
    assert_eq!(edge.refused().await["outcome"], "draining");
}

// Refused for what the upstream did.

#[tokio::test]
async fn an_upstream_that_nobody_reaches_is_502() {
    let edge = nowhere().await;
    let answer = edge.connect().await.ask(Upgrade::to("/room?q=1")).await;
    assert_problem(&answer, 502, "nobody listens");
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"dial_failed".into(), &"upstream".into()));
    assert_eq!((&line["level"], &line["route"]), (&"WARN".into(), &"app".into()), "{line}");
    assert_eq!(line["path"], "/room", "{line}");
    let id = line["request_id"].as_str().expect("the line has the request's id");
    assert!(String::from_utf8_lossy(&answer.body).contains(id), "{line} {answer:?}");
    assert!(!String::from_utf8_lossy(&answer.body).contains("app.sock"), "nothing of the inside");
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_a_dial_fails() {
    let backend = Backend::tcp().await;
    let endpoints = format!("[{:?}, {:?}]", Backend::nobody().await, backend.address);
    let edge = Config::new("").endpoints(&endpoints).start().await;
    open(&edge, &backend).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_the_handshake_is_502() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\n";
    let wrong = accept_of("AAAAAAAAAAAAAAAAAAAAAA==");
    let lies = [
        (
            "a wrong accept",
            format!(
                "{switching}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {wrong}\r\n\r\n"
            ),
        ),
        ("no accept", format!("{switching}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")),
        ("no Upgrade", format!("{switching}Connection: Upgrade\r\nACCEPT\r\n\r\n")),
        (
            "another Upgrade",
            format!("{switching}Upgrade: h2c\r\nConnection: Upgrade\r\nACCEPT\r\n\r\n"),
        ),
        ("no Connection", format!("{switching}Upgrade: websocket\r\nACCEPT\r\n\r\n")),
        (
            "a subprotocol nobody offered",
            format!(
                "{switching}Upgrade: websocket\r\nConnection: Upgrade\r\nACCEPT\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
            ),
        ),
        (
            "two subprotocols",
            format!(
                "{switching}Upgrade: websocket\r\nConnection: Upgrade\r\nACCEPT\r\n\
             Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
            ),
        ),
        (
            "an extension nobody offered",
            format!(
                "{switching}Upgrade: websocket\r\nConnection: Upgrade\r\nACCEPT\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            ),
        ),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_owned()),
        ("nothing", String::new()),
    ];
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let request = Upgrade::to("/").add("Sec-WebSocket-Protocol", "chat");
    for (what, lie) in lies {
        let mut client = edge.connect().await;
        let upstream = async {
            let asked = backend.accept().await;
            let key = asked.head.header("sec-websocket-key").expect("a key");
            let accept = format!("Sec-WebSocket-Accept: {}", accept_of(key));
            drop(asked.answer(lie.replace("ACCEPT", &accept)).await);
        };
        let (answer, ()) = tokio::join!(client.ask(request.clone()), upstream);
        assert_problem(&answer, 502, what);
    }
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"upstream_invalid".into(), &"upstream".into()));
}

#[tokio::test]
async fn an_extensions_parameters_are_the_clients_to_offer() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let offer = "permessage-deflate; client_max_window_bits, permessage-deflate";
    let request = Upgrade::to("/").add("Sec-WebSocket-Extensions", offer);
    let agreed = "permessage-deflate; server_no_context_takeover; client_max_window_bits=12";
    let (client, upstream) = with_extension(&edge, &backend, request, agreed).await;
    assert_eq!((client.status(), client.header("sec-websocket-extensions")), (101, Some(agreed)));
    assert!(upstream.header("sec-websocket-extensions").is_some());
    let plain = Upgrade::to("/").add("Sec-WebSocket-Extensions", "permessage-deflate");
    for bad in [
        "permessage-deflate; client_max_window_bits=12",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; mystery",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "x-webkit-deflate-frame",
    ] {
        let (client, _) = with_extension(&edge, &backend, plain.clone(), bad).await;
        assert_eq!(client.status(), 502, "{bad}");
    }
}

/// What the client is answered and the upstream is asked, when it agrees to an extension.
async fn with_extension(
    edge: &Edge,
    backend: &Backend,
    request: Upgrade,
    agreed: &str,
) -> (Message, Message) {
    let mut client = edge.connect().await;
    let upstream = async {
        let asked = backend.accept().await;
        let head = asked.head.clone();
        asked.upgrade(&format!("Sec-WebSocket-Extensions: {agreed}\r\n")).await;
        head
    };
    tokio::join!(client.ask(request), upstream)
}

#[tokio::test]
async fn an_upstream_that_answers_too_late_is_504() {
    let backend = Backend::tcp().await;
    let edge =
        Config::new(&backend.address).upstream("handshake_timeout = \"500ms\"").start().await;
    let mut client = edge.connect().await;
    let started = Instant::now();
    let silent = async { backend.accept().await.silent() };
    let (answer, mut upstream) = tokio::join!(client.ask(Upgrade::to("/")), silent);
    assert_problem(&answer, 504, "no answer");
    assert!(started.elapsed() >= Duration::from_millis(500), "after {:?}", started.elapsed());
    upstream.end().await;
    assert_eq!(edge.refused().await["outcome"], "upstream_timeout");
}

#[tokio::test]
async fn an_upstreams_own_answer_is_passed_as_it_is() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let answers = [
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nX-Why: because\r\n\r\nno\r\n\r",
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nX-Why: because\r\n\r\n\
         5\r\nno\r\n\r\r\n0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nX-Why: because\r\n\r\nno\r\n\r",
    ];
    for own in answers {
        let mut client = edge.connect().await;
        let upstream = async { drop(backend.accept().await.answer(own).await) };
        let (answer, ()) = tokio::join!(client.ask(Upgrade::to("/")), upstream);
        assert_eq!(answer.status(), 403, "{own:?}");
        assert_eq!(answer.header("x-why"), Some("because"), "{own:?}");
        assert_eq!(answer.body, b"no\r\n\r", "{own:?}");
        assert_eq!(client.end().await, End::CloseNotify, "{own:?}");
    }
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["status"]), (&"upstream_refused".into(), &403.into()));
}

#[tokio::test]
async fn answers_before_the_answer_are_skipped() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let mut client = edge.connect().await;
    let upstream = async {
        let asked = backend.accept().await;
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let answer = format!("{early}{}", asked.switching(""));
        asked.answer(answer).await
    };
    let (answer, mut upstream) = tokio::join!(client.upgrade(Upgrade::to("/")), upstream);
    assert_eq!(answer.header("link"), None);
    upstream.send_frame(Frame::text("hello")).await;
    assert_eq!(client.frame().await, Frame::text("hello"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_dial_with_it() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let mut client = edge.connect().await;
    client.send(&Upgrade::to("/").bytes()).await;
    let mut upstream = backend.accept().await.silent();
    drop(client);
    upstream.end().await;
    assert_eq!(edge.refused().await["outcome"], "client_gone");
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let backend = Backend::tcp().await;
    let endpoints = format!("[{{ address = {:?}, max_connections = 1 }}]", backend.address);
    let edge = Config::new("")
        .endpoints(&endpoints)
        .upstream("handshake_timeout = \"2s\"")
        .route("limits.connections = { total = 1 }")
        .start()
        .await;
    // Behind early bytes hyper does not see that it left, and the deadline ends it.
    for early in [Vec::new(), Frame::text("early").masked(true).encode()] {
        let mut client = edge.connect().await;
        client.send(&[Upgrade::to("/").bytes(), early].concat()).await;
        let mut upstream = backend.accept().await.silent();
        drop(client);
        upstream.end().await;
        // One that leaves as it is answered.
        let mut client = edge.connect().await;
        client.send(&Upgrade::to("/").bytes()).await;
        let asked = backend.accept().await;
        drop(client);
        asked.upgrade("").await.reader.rest().await;
    }
    open(&edge, &backend).await;
}

// What the upstream is asked, and the client answered.

#[tokio::test]
async fn the_upstream_is_asked_anew() {
    let edge_of = |backend: &Backend| Config::new(&backend.address);
    let asked = asked_with(edge_of, |upgrade| {
        upgrade
            .set("Connection", "keep-alive, Upgrade, X-Hop")
            .add("X-Hop", "mine")
            .add("Keep-Alive", "timeout=5")
            .add("Proxy-Authorization", "Basic eA==")
            .add("TE", "trailers")
            .add("Proxy-Connection", "keep-alive")
            .set("Upgrade", "websocket")
            .add("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-mux")
            .add("Cookie", "session=1")
            .add("Origin", "https://localhost")
            .add("User-Agent", "probe")
    })
    .await;
    assert_eq!(asked.start, "GET /room%20a//b?q=%2e%2e HTTP/1.1", "the bytes go as they came");
    assert_eq!(asked.header("host"), Some("localhost"));
    assert_eq!(asked.header("upgrade"), Some("websocket"));
    assert_eq!(asked.header("connection").map(str::to_ascii_lowercase), Some("upgrade".into()));
    assert_eq!(asked.header("sec-websocket-version"), Some("13"));
    assert_ne!(asked.header("sec-websocket-key"), Some(KEY), "the edge's own key");
    assert_eq!(asked.header("cookie"), Some("session=1"));
    assert_eq!(asked.header("origin"), Some("https://localhost"));
    assert_eq!(asked.header("user-agent"), Some("probe"));
    let extensions = asked.header("sec-websocket-extensions").expect("deflate is passed on");
    assert!(extensions.contains("permessage-deflate; client_max_window_bits"), "{extensions}");
    assert!(!extensions.contains("x-mux"), "{extensions}");
    for gone in ["x-hop", "keep-alive", "proxy-authorization", "te", "proxy-connection"] {
        assert_eq!(asked.header(gone), None, "{gone} is hop by hop");
    }
}

#[tokio::test]
async fn the_upstream_is_told_who_asks_by_the_edge_alone() {
    let spoofed = |upgrade: Upgrade| {
        upgrade
            .set("Host", "localhost:9")
            .add("X-Forwarded-For", "6.6.6.6")
            .add("x-forwarded-for", "7.7.7.7")
            .add("X-Forwarded-Proto", "gopher")
            .add("X-Forwarded-Host", "evil.example")
            .add("X-Forwarded-Port", "666")
            .add("X-Forwarded-User", "root")
            .add("X_Forwarded_For", "6.6.6.6")
            .add("X-Forwarded_For", "6.6.6.6")
            .add("Forwarded", "for=6.6.6.6")
            .add("X-Real-IP", "6.6.6.6")
            .add("X_Real_IP", "6.6.6.6")
            .add("X-Request-Id", "spoofed")
            .add("X_Request_Id", "spoofed")
    };
    let asked = asked_with(|backend| Config::new(&backend.address), spoofed).await;
    assert_eq!(asked.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(asked.header("x-forwarded-proto"), Some("https"));
    assert_eq!(asked.header("x-forwarded-host"), Some("localhost:9"));
    assert_eq!(asked.header("forwarded"), None);
    for gone in ["x_forwarded_for", "x-forwarded_for", "x_real_ip", "x_request_id"] {
        assert_eq!(asked.header(gone), None, "{gone} reads like the edge's own to some servers");
    }
    let id = asked.header("x-request-id").expect("every request has an id");
    assert!(id != "spoofed" && !id.is_empty());
    let port = asked.header("x-forwarded-port").expect("the port");
    assert_ne!(port, "666");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let trusting = |backend: &Backend| {
        Config::new(&backend.address).server("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
    };
    let asked = asked_with(trusting, |upgrade| {
        upgrade
            .add("X-Forwarded-For", "6.6.6.6, 203.0.113.9")
            .add("X-Forwarded-For", "10.0.0.7")
            .add("X-Forwarded-Proto", "http")
            .add("X-Forwarded-Host", "chat.example.com")
            .add("X-Forwarded-Port", "80")
            .add("X-Real-IP", "10.0.0.7")
            .add("X-Request-Id", "their-own_1.0")
    })
    .await;
    let hops: Vec<_> =
        asked.all("x-forwarded-for").join(", ").split(", ").map(str::to_owned).collect();
    assert_eq!(hops, ["6.6.6.6", "203.0.113.9", "10.0.0.7", "127.0.0.1"]);
    assert_eq!(asked.header("x-real-ip"), Some("203.0.113.9"), "the rightmost that is no proxy");
    assert_eq!(asked.header("x-forwarded-proto"), Some("http"));
    assert_eq!(asked.header("x-forwarded-host"), Some("chat.example.com"));
    assert_eq!(asked.header("x-forwarded-port"), Some("80"));
    assert_eq!(asked.header("x-request-id"), Some("their-own_1.0"));
}

#[tokio::test]
async fn a_request_id_that_is_none_is_replaced_even_of_a_trusted_proxy() {
    for id in ["", "has space", "\u{e9}", &"x".repeat(129)] {
        let trusting = |backend: &Backend| {
            Config::new(&backend.address).server("trusted_proxies = [\"127.0.0.0/8\"]")
        };
        let asked = asked_with(trusting, |upgrade| upgrade.add("X-Request-Id", id)).await;
        let own = asked.header("x-request-id").expect("an id");
        assert!(own != id && !own.is_empty(), "{id:?} became {own:?}");
    }
}

#[tokio::test]
async fn a_route_edits_headers_both_ways() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("request_headers = { set = { x-edge = \"wsgate\" }, remove = [\"x-debug\"] }")
        .route("response_headers = { set = { x-served-by = \"edge\" }, remove = [\"server\"] }")
        .start()
        .await;
    let mut client = edge.connect().await;
    let request = Upgrade::to("/").add("X-Edge", "spoofed").add("X_Edge", "spoofed");
    let request = request.add("X-Debug", "1").add("X-Kept", "1");
    let upstream = async {
        let asked = backend.accept().await;
        let head = asked.head.clone();
        asked.upgrade("Server: secret/1\r\nX-Served-By: app\r\nSet-Cookie: a=b\r\n").await;
        head
    };
    let (answer, asked) = tokio::join!(client.upgrade(request), upstream);
    assert_eq!(asked.header("x-edge"), Some("wsgate"));
    assert_eq!((asked.header("x_edge"), asked.header("x-debug")), (None, None));
    assert_eq!(asked.header("x-kept"), Some("1"));
    assert_eq!(answer.header("x-served-by"), Some("edge"));
    assert_eq!(answer.header("server"), None);
    assert_eq!(answer.header("set-cookie"), Some("a=b"));
}

#[tokio::test]
async fn the_upstream_may_be_asked_by_another_name() {
    let named =
        |backend: &Backend| Config::new(&backend.address).upstream("host = \"chat.internal\"");
    let asked = asked_with(named, |upgrade| upgrade).await;
    assert_eq!(asked.header("host"), Some("chat.internal"));
    assert_eq!(asked.header("x-forwarded-host"), Some("localhost"));
}

#[tokio::test]
async fn a_path_is_rewritten_by_whole_segments() {
    let cases = [
        ("strip_prefix = \"/ws\"", "/ws/room?q=1", "/room?q=1"),
        ("strip_prefix = \"/ws\"", "/ws", "/"),
        ("strip_prefix = \"/ws\"", "/wsx/room", "/wsx/room"),
        ("strip_prefix = \"/ws/\"", "/ws/room", "/room"),
        ("add_prefix = \"/v1\"", "/room", "/v1/room"),
        ("add_prefix = \"/v1/\"", "/room", "/v1/room"),
        ("strip_prefix = \"/ws\", add_prefix = \"/\"", "/ws/a%2Fb?x=%20", "/a%2Fb?x=%20"),
        ("strip_prefix = \"/ws\", add_prefix = \"/v1\"", "/ws?x", "/v1?x"),
    ];
    for (rewrite, from, to) in cases {
        let backend = Backend::tcp().await;
        let edge = Config::new(&backend.address)
            .route(&format!("rewrite = {{ {rewrite} }}"))
            .start()
            .await;
        let mut client = edge.connect().await;
        let request = Upgrade::to(from).bytes();
        let (_, asked) = tokio::join!(client.send(&request), backend.accept());
        let target = asked.head.target();
        let same = target == to || (rewrite.contains("v1") && target.replace("v1/?", "v1?") == to);
        assert!(same, "{rewrite}: {from} became {target}");
    }
}

#[tokio::test]
async fn subprotocols_are_filtered_and_agreed_end_to_end() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("subprotocols = [\"graphql-transport-ws\", \"chat\"]")
        .start()
        .await;
    let offer = |protocols| Upgrade::to("/").add("Sec-WebSocket-Protocol", protocols);
    let (answer, asked) = subprotocol(&edge, &backend, offer("mqtt, chat, stomp"), "chat").await;
    assert_eq!(asked.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!((answer.status(), answer.header("sec-websocket-protocol")), (101, Some("chat")));

    let (answer, asked) = subprotocol(&edge, &backend, offer("mqtt"), "").await;
    assert_eq!(asked.header("sec-websocket-protocol"), None, "none left: it goes on without");
    assert_eq!((answer.status(), answer.header("sec-websocket-protocol")), (101, None));

    let two = offer("chat").add("Sec-WebSocket-Protocol", "graphql-transport-ws");
    let (answer, asked) = subprotocol(&edge, &backend, two, "graphql-transport-ws").await;
    let offered = asked.all("sec-websocket-protocol").join(", ");
    assert_eq!(offered, "chat, graphql-transport-ws", "the client's order");
    assert_eq!(answer.header("sec-websocket-protocol"), Some("graphql-transport-ws"));

    let (answer, _) = subprotocol(&edge, &backend, offer("mqtt, chat"), "mqtt").await;
    assert_eq!(answer.status(), 502, "mqtt was not offered to the upstream");
}

#[tokio::test]
async fn without_a_list_subprotocols_are_the_ends_own_affair() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let offer = Upgrade::to("/").add("Sec-WebSocket-Protocol", "mqtt, chat");
    let (answer, asked) = subprotocol(&edge, &backend, offer.clone(), "chat").await;
    assert_eq!(asked.header("sec-websocket-protocol"), Some("mqtt, chat"));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    let (answer, _) = subprotocol(&edge, &backend, offer, "").await;
    assert_eq!((answer.status(), answer.header("sec-websocket-protocol")), (101, None));
}

/// What the client is answered and the upstream asked, when it selects a subprotocol or none.
async fn subprotocol(
    edge: &Edge,
    backend: &Backend,
    request: Upgrade,
    selected: &str,
) -> (Message, Message) {
    let mut client = edge.connect().await;
    let upstream = async {
        let asked = backend.accept().await;
        let head = asked.head.clone();
        let line = match selected {
            "" => String::new(),
            selected => format!("Sec-WebSocket-Protocol: {selected}\r\n"),
        };
        asked.upgrade(&line).await;
        head
    };
    tokio::join!(client.ask(request), upstream)
}

#[tokio::test]
async fn compression_may_be_stripped() {
    let strip = |backend: &Backend| Config::new(&backend.address).route("compression = \"strip\"");
    let asked =
        asked_with(strip, |upgrade| upgrade.add("Sec-WebSocket-Extensions", "permessage-deflate"))
            .await;
    assert_eq!(asked.header("sec-websocket-extensions"), None);
}

/// What the upstream is asked for `/room%20a//b?q=%2e%2e` and headers of the test's own.
async fn asked_with(
    config: impl FnOnce(&Backend) -> Config,
    edit: impl FnOnce(Upgrade) -> Upgrade,
) -> Message {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let request = edit(Upgrade::to("/room%20a//b?q=%2e%2e"));
    let mut client = edge.connect().await;
    let bytes = request.bytes();
    let (_, asked) = tokio::join!(client.send(&bytes), backend.accept());
    asked.head
}

// Nothing sent early is lost.

#[tokio::test]
async fn frames_behind_the_request_reach_the_upstream() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    for size in [5, 4000, 60_000] {
        let mut client = edge.connect().await;
        let early = Frame::binary(vec![7; size]).masked(true);
        let mut bytes = Upgrade::to("/").bytes();
        bytes.extend(early.encode());
        // A frame cut in two: one half before the 101, one after it.
        let late = Frame::text("split").masked(true);
        bytes.extend(&late.encode()[..4]);
        client.send(&bytes).await;
        let mut upstream = backend.accept().await.upgrade("").await;
        assert_eq!(client.reader.head().await.status(), 101);
        client.send(&late.encode()[4..]).await;
        assert!(upstream.frame().await == early, "{size} bytes");
        assert_eq!(upstream.frame().await, late);
    }
}

#[tokio::test]
async fn frames_behind_the_101_reach_the_client() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    for size in [5, 4000, 60_000] {
        let mut client = edge.connect().await;
        let early = Frame::binary(vec![7; size]);
        let late = Frame::text("split");
        let upstream = async {
            let asked = backend.accept().await;
            let mut bytes = asked.switching("").into_bytes();
            bytes.extend(early.encode());
            bytes.extend(&late.encode()[..1]);
            let mut upstream = asked.answer(bytes).await;
            upstream.send(&late.encode()[1..]).await;
            upstream
        };
        let (_, _upstream) = tokio::join!(client.upgrade(Upgrade::to("/")), upstream);
        assert!(client.frame().await == early, "{size} bytes");
        assert_eq!(client.frame().await, late);
    }
}

#[tokio::test]
async fn a_client_that_sends_too_much_too_early_waits_or_goes() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let before = edge.resident();
    let mut client = edge.connect().await;
    client.send(&Upgrade::to("/").bytes()).await;
    let asked = backend.accept().await;
    let junk = vec![0; 64 << 10];
    let flood = async { while client.writer.try_send(&junk).await.is_ok() {} };
    // Either the edge stops reading and the flood stalls, or it hangs up; it does not hoard.
    let _ = tokio::time::timeout(Duration::from_secs(1), flood).await;
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes held for an upgrade that is not answered");
    drop(asked);
}

// TLS.

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let versions = [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)];
    for (version, spoken) in versions {
        let config = Arc::new(authority().client(&[version]));
        let socket = connect_tls(edge.tls, "localhost", config).await.expect("a TLS handshake");
        assert_eq!(socket.get_ref().1.protocol_version(), Some(spoken));
        let (mut client, mut upstream) = upgraded(Peer::client(socket), &backend).await;
        client.send_frame(Frame::text("there")).await;
        assert_eq!(upstream.frame().await.payload, b"there");
        upstream.send_frame(Frame::text("and back")).await;
        assert_eq!(client.frame().await.payload, b"and back");
        client.send_frame(Frame::close(1000, "")).await;
        upstream.closes(1000).await;
        assert_eq!(client.close().await.code, Some(1000));
        assert_eq!(client.end().await, End::CloseNotify);
    }
}

#[tokio::test]
async fn http_1_1_is_agreed_by_alpn() {
    let edge = nowhere().await;
    for offered in [vec!["http/1.1"], vec!["h3", "http/1.1"]] {
        let mut config = authority().client(&[]);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = connect_tls(edge.tls, "localhost", Arc::new(config)).await.expect("TLS");
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let edge = Config::new(&Backend::nobody().await)
        .certificate(authority().server("chat.example.com"))
        .certificate(authority().server("*.wild.example.com"))
        .start()
        .await;
    let config = || Arc::new(authority().client(&[]));
    let mut shown = Vec::new();
    for name in ["localhost", "chat.example.com", "any.wild.example.com"] {
        // The client checks the name itself.
        let socket = connect_tls(edge.tls, name, config()).await;
        let socket = socket.unwrap_or_else(|error| panic!("{name}: {error}"));
        shown.push(socket.get_ref().1.peer_certificates().expect("a chain")[0].to_vec());
    }
    // A client that names nobody is served the first: it is valid for the address too.
    let unnamed =
        connect_tls(SocketAddr::new([127, 0, 0, 2].into(), edge.tls.port()), "127.0.0.1", config());
    let unnamed = unnamed.await.expect("the first certificate names 127.0.0.1");
    assert_eq!(unnamed.get_ref().1.peer_certificates().expect("a chain")[0].to_vec(), shown[0]);
    assert!(shown[0] != shown[1] && shown[1] != shown[2]);
}

#[tokio::test]
async fn a_client_certificate_may_be_required_or_requested() {
    let ca = format!("client_ca = {:?}", authority().file("ca.pem"));
    for (auth, unknown_may_enter) in [("require", false), ("request", true)] {
        let backend = Backend::tcp().await;
        let edge = Config::new(&backend.address)
            .tls(&ca)
            .tls(&format!("client_auth = {auth:?}"))
            .route("origin = \"any\"")
            .start()
            .await;
        let known = authority().client_with_certificate("someone");
        assert!(enters(&edge, &backend, known).await, "{auth}: a certificate of the authority");
        let unknown = authority().client(&[]);
        assert_eq!(enters(&edge, &backend, unknown).await, unknown_may_enter, "{auth}: none");
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_even_where_none_is_required() {
    let ca = format!("client_ca = {:?}\nclient_auth = \"request\"", authority().file("ca.pem"));
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).tls(&ca).route("origin = \"any\"").start().await;
    let stranger = authority().client_with_foreign_certificate("someone");
    assert!(!enters(&edge, &backend, stranger).await);
}

/// Whether a client gets an answer at all. Under TLS 1.3 the refusal comes after its handshake.
async fn enters(edge: &Edge, backend: &Backend, config: ClientConfig) -> bool {
    let Ok(socket) = connect_tls(edge.tls, "localhost", Arc::new(config)).await else {
        return false;
    };
    let mut client = Peer::client(socket);
    if client.writer.try_send(&Upgrade::to("/").bytes()).await.is_err() {
        return false;
    }
    tokio::select! {
        asked = backend.accept() => {
            asked.upgrade("").await;
            client.reader.head().await.status() == 101
        }
        refused = client.reader.event() => match refused {
            support::Event::End { .. } => false,
            support::Event::Frame(frame) => panic!("{}", frame.describe()),
        },
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_listener_does_no_harm() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let socket = tokio::net::TcpStream::connect(edge.tls).await.expect("a TCP connection");
    let mut client = Peer::client(socket);
    client.send(&Upgrade::to("/").bytes()).await;
    client.reader.rest().await;
    open(&edge, &backend).await;
}

// Where it goes.

#[tokio::test]
async fn an_upstream_may_be_a_unix_socket() {
    let backend = Backend::unix().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let large = Frame::binary(vec![1; 1 << 20]);
    client.send_frame(large.clone()).await;
    assert!(upstream.frame().await == large.clone().masked(true));
    upstream.send_frame(large.clone()).await;
    assert!(client.frame().await == large);
    client.send_frame(Frame::close(1000, "")).await;
    upstream.closes(1000).await;
    assert_eq!(client.close().await.code, Some(1000));
    let line = edge.assert_ended("client_close", "client").await;
    assert_eq!(line["endpoint"], backend.address.as_str(), "{line}");
}

#[tokio::test]
async fn plain_listeners_upgrade_too() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = upgraded(edge.connect_plain().await, &backend).await;
    client.send_frame(Frame::text("plain")).await;
    assert_eq!(upstream.frame().await.payload, b"plain");
    client.send_frame(Frame::close(1000, "")).await;
    upstream.closes(1000).await;
    assert_eq!(client.close().await.code, Some(1000));
    assert_eq!(client.end().await, End::Fin);
}

#[tokio::test]
async fn the_most_particular_route_wins() {
    let mut routes = String::new();
    let mut backends = Vec::new();
    let table = [
        ("any", ""),
        ("ws", "path = \"/ws\""),
        ("ws-deep", "path = \"/ws/deep\""),
        ("ws-exact", "path = \"=/ws/deep\""),
        ("wild", "host = \"*.example.com\""),
        ("host", "host = \"chat.example.com\""),
        ("host-ws", "host = \"chat.example.com\"\npath = \"/ws\""),
        ("tls-only", "path = \"/secure\"\nlisteners = [\"127.0.0.2:0\"]"),
    ];
    // The most particular come last, so that order in the file cannot be what decides.
    for (name, keys) in table {
        let backend = Backend::tcp().await;
        let address = &backend.address;
        routes += &format!(
            "[[upstream]]\nname = \"{name}\"\nendpoints = [\"{address}\"]\n\
             [[route]]\nname = \"{name}\"\nupstream = \"{name}\"\n{keys}\n"
        );
        backends.push((name, backend));
    }
    let edge = Config::new(&Backend::nobody().await)
        .route("host = \"never.invalid\"")
        .more(&routes)
        .start()
        .await;
    let cases = [
        ("localhost", "/", "any"),
        ("localhost", "/wsx", "any"),
        ("localhost", "/ws", "ws"),
        ("localhost", "/ws/", "ws"),
        ("localhost", "//ws///a", "ws"),
        ("localhost", "/w%73/a", "ws"),
        ("localhost", "/ws/deep", "ws-exact"),
        ("localhost", "/ws/deep?q", "ws-exact"),
        ("localhost", "/ws/deep/er", "ws-deep"),
        ("a.example.com", "/", "wild"),
        ("a.b.example.com", "/ws", "wild"),
        ("example.com", "/", "any"),
        ("chat.example.com", "/", "host"),
        ("CHAT.Example.COM:8443", "/", "host"),
        ("chat.example.com.", "/", "host"),
        ("chat.example.com", "/ws/deep", "host-ws"),
        ("localhost", "/secure", "tls-only"),
    ];
    for (host, target, expected) in cases {
        let mut client = edge.connect().await;
        client.send(&Upgrade::to(target).set("Host", host).bytes()).await;
        assert_eq!(reached(&backends).await, expected, "{host}{target}");
    }
    let mut client = edge.connect_plain().await;
    client.send(&Upgrade::to("/secure").bytes()).await;
    assert_eq!(reached(&backends).await, "any", "tls-only is served on the TLS listener alone");
}

/// Which of the backends is asked.
async fn reached(backends: &[(&'static str, Backend)]) -> &'static str {
    let all = backends.iter().map(|(name, backend)| {
        Box::pin(async move {
            backend.connection().await;
            *name
        })
    });
    futures_util::future::select_all(all).await.0
}

async fn upgraded(mut client: Peer, backend: &Backend) -> (Peer, Peer) {
    let request = Upgrade::to("/");
    let upstream = async { backend.accept().await.upgrade("").await };
    let (_, upstream) = tokio::join!(client.upgrade(request), upstream);
    (client, upstream)
}

/// An edge whose upstream nobody reaches.
async fn nowhere() -> Edge {
    Config::new(&Backend::nobody().await).start().await
}

/// A refusal with its explanation (RFC 9457), which carries the request's id.
fn assert_problem(answer: &Message, status: u16, what: &str) {
    assert_eq!(answer.status(), status, "{what}: {answer:?}");
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{what}: {answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert!(problem["title"].is_string(), "{what}: {problem}");
    assert!(problem["request_id"].is_string(), "{what}: {problem}");
}

fn assert_426(answer: &Message) {
    assert_eq!(answer.header("upgrade").map(str::to_ascii_lowercase), Some("websocket".into()));
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    let connection = answer.header("connection").map(str::to_ascii_lowercase).unwrap_or_default();
    assert!(connection.contains("upgrade"), "RFC 9110 §7.8: Upgrade is hop by hop: {answer:?}");
}

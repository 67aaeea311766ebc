//! Who may come in, and how much they may say: networks, origins, rates and caps from outside.

mod support;

use std::time::{Duration, Instant};

use support::{Backend, Config, Edge, End, Frame, Peer, Upgrade, open};

/// The status of one request that is sent with these fields, and the answer's Retry-After.
async fn asked(edge: &Edge, fields: &[(&str, &str)]) -> (u16, Option<u64>) {
    let request =
        fields.iter().fold(Upgrade::to("/"), |request, (name, value)| request.add(name, value));
    let answer = edge.connect().await.ask(request).await;
    let retry = answer.header("retry-after").map(|seconds| seconds.parse().expect("a number"));
    (answer.status(), retry)
}

/// Opens a tunnel, or says which status came instead.
async fn try_open(edge: &Edge, backend: &Backend) -> Result<(Peer, Peer), u16> {
    let mut client = edge.connect().await;
    let upstream =
        async { tokio::time::timeout(Duration::from_millis(500), backend.accept()).await.ok() };
    let asking = client.ask(Upgrade::to("/"));
    let (answer, upstream) = tokio::join!(asking, async {
        match upstream.await {
            Some(request) => Some(request.upgrade("").await),
            None => None,
        }
    });
    match upstream {
        Some(upstream) => Ok((client, upstream)),
        None => Err(answer.status()),
    }
}

#[tokio::test]
async fn a_denied_network_is_403() {
    let backend = Backend::nobody().await;
    let denied =
        Config::new(&backend).route("clients = { deny = [\"127.0.0.0/8\"] }").start().await;
    assert_eq!(asked(&denied, &[]).await, (403, None));
    let line = denied.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"network".into(), &"client".into()));

    let others =
        Config::new(&backend).route("clients = { allow = [\"10.0.0.0/8\"] }").start().await;
    assert_eq!(asked(&others, &[]).await.0, 403);

    // Behind a trusted proxy the client is whom it names.
    let behind = Config::new(&backend)
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .route("clients = { deny = [\"192.0.2.0/24\"] }")
        .start()
        .await;
    assert_eq!(asked(&behind, &[("X-Forwarded-For", "192.0.2.7")]).await.0, 403);
    assert_eq!(asked(&behind, &[("X-Forwarded-For", "198.51.100.7")]).await.0, 502);
}

#[tokio::test]
async fn by_default_only_a_page_of_the_host_it_calls_may_connect() {
    let edge = Config::new(&Backend::nobody().await).start().await;
    let host = |name: &'static str| Upgrade::to("/").set("Host", name);
    let cases = [
        ("no origin", host("example.com"), 502),
        ("its own", host("example.com").add("Origin", "https://example.com"), 502),
        ("in capitals", host("example.com").add("Origin", "https://EXAMPLE.com"), 502),
        ("with its port", host("example.com:8443").add("Origin", "https://example.com:8443"), 502),
        ("another", host("example.com").add("Origin", "https://evil.example"), 403),
        (
            "a look-alike",
            host("example.com").add("Origin", "https://example.com.evil.example"),
            403,
        ),
        ("another port", host("example.com").add("Origin", "https://example.com:8443"), 403),
        ("null", host("example.com").add("Origin", "null"), 403),
        (
            "two",
            host("example.com")
                .add("Origin", "https://example.com")
                .add("Origin", "https://example.com"),
            403,
        ),
        (
            "a trusted host it is not",
            host("edge")
                .add("X-Forwarded-Host", "example.com")
                .add("Origin", "https://example.com"),
            403,
        ),
    ];
    for (what, request, status) in cases {
        assert_eq!(edge.connect().await.ask(request).await.status(), status, "{what}");
    }
    let line = edge.wait_for_log(|line| line["outcome"] == "origin").await;
    let detail = line["detail"].as_str().expect("a text");
    assert!(detail.contains("https://evil.example") && detail.contains("example.com"), "{detail}");
    assert!(detail.contains("origin = { allow = [\"https://evil.example\"] }"), "{detail}");
}

#[tokio::test]
async fn a_trusted_proxy_tells_the_host_that_was_called() {
    let edge = Config::new(&Backend::nobody().await)
        .server("trusted_proxies = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let told = [("X-Forwarded-Host", "example.com"), ("Origin", "https://example.com")];
    assert_eq!(asked(&edge, &told).await.0, 502);
    let other = [("X-Forwarded-Host", "example.com"), ("Origin", "https://localhost")];
    assert_eq!(asked(&edge, &other).await.0, 403);
}

#[tokio::test]
async fn listed_origins_may_connect_and_no_others() {
    let edge = Config::new(&Backend::nobody().await)
        .route("origin = { allow = [\"https://app.example.com\", \"https://*.example.net\"] }")
        .start()
        .await;
    let table: &[(&[(&str, &str)], u16)] = &[
        (&[("Origin", "https://app.example.com")], 502),
        (&[("Origin", "https://a.b.example.net")], 502),
        (&[("Origin", "https://example.net")], 403),
        (&[("Origin", "http://app.example.com")], 403),
        (&[("Origin", "https://app.example.com:8443")], 403),
        (&[("Origin", "https://app.example.com.evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[], 403),
    ];
    for (fields, status) in table {
        assert_eq!(asked(&edge, fields).await.0, *status, "{fields:?}");
    }
    let lax = Config::new(&Backend::nobody().await)
        .route("origin = { allow = [\"null\"], missing = \"allow\" }")
        .start()
        .await;
    assert_eq!(asked(&lax, &[]).await.0, 502);
    assert_eq!(asked(&lax, &[("Origin", "null")]).await.0, 502);
    let any = Config::new(&Backend::nobody().await).route("origin = \"any\"").start().await;
    assert_eq!(asked(&any, &[("Origin", "https://evil.example")]).await.0, 502);
}

#[tokio::test]
async fn a_client_over_its_handshake_rate_is_429_and_waiting_as_told_gets_in() {
    let edge = Config::new(&Backend::nobody().await)
        .route("limits.handshakes = { per_client = \"1/s\", burst = 3 }")
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(asked(&edge, &[]).await.0, 502);
    }
    let (status, retry) = asked(&edge, &[]).await;
    assert_eq!((status, retry), (429, Some(1)));
    assert_eq!(edge.wait_for_log(|line| line["outcome"] == "rate").await["by"], "client");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(&edge, &[]).await.0, 502);
}

#[tokio::test]
async fn over_the_rate_of_all_is_503() {
    let edge = Config::new(&Backend::nobody().await)
        .route("limits.handshakes = { total = \"2/min\" }")
        .start()
        .await;
    assert_eq!(asked(&edge, &[]).await.0, 502);
    assert_eq!(asked(&edge, &[]).await.0, 502);
    let (status, retry) = asked(&edge, &[]).await;
    assert_eq!(status, 503);
    assert!((25..=30).contains(&retry.expect("it is told when")), "{retry:?}");
    assert_eq!(edge.wait_for_log(|line| line["outcome"] == "rate").await["by"], "edge");
}

#[tokio::test]
async fn a_cap_holds_until_a_connection_ends() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.connections = { per_client = 2 }")
        .start()
        .await;
    let first = open(&edge, &backend).await;
    let _second = open(&edge, &backend).await;
    let (status, retry) = asked(&edge, &[]).await;
    assert_eq!(status, 429);
    assert!((1..=5).contains(&retry.expect("it is told when")), "{retry:?}");
    drop(first);
    edge.ended().await;
    assert!(try_open(&edge, &backend).await.is_ok());
}

#[tokio::test]
async fn the_cap_of_all_is_503() {
    let backend = Backend::tcp().await;
    let edge =
        Config::new(&backend.address).route("limits.connections = { total = 1 }").start().await;
    let _first = open(&edge, &backend).await;
    assert_eq!(try_open(&edge, &backend).await.err(), Some(503));
    let line = edge.wait_for_log(|line| line["outcome"] == "cap").await;
    assert_eq!((&line["by"], &line["level"]), (&"edge".into(), &"WARN".into()));
}

#[tokio::test]
async fn a_refusal_may_be_told_by_a_close() {
    let edge = Config::new(&Backend::nobody().await)
        .route("reject = \"close\"\norigin = { allow = [\"https://app.example.com\"] }")
        .start()
        .await;
    let mut client = edge.connect().await;
    let request = Upgrade::to("/")
        .add("Origin", "https://evil.example")
        .add("Sec-WebSocket-Protocol", "one, two");
    let answer = client.ask(request).await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("one"));
    assert_eq!(client.closes(4403).await, End::CloseNotify);
    assert_eq!(edge.refused().await["outcome"], "origin");

    // What no browser's script does stays a status.
    let plain = Upgrade::to("/").without("Upgrade");
    assert_eq!(edge.connect().await.ask(plain).await.status(), 426);
    let mut client = edge.connect().await;
    let allowed = Upgrade::to("/").add("Origin", "https://app.example.com");
    assert_eq!(client.ask(allowed).await.status(), 101);
    assert_eq!(client.closes(4502).await, End::CloseNotify);
}

#[tokio::test]
async fn the_message_over_the_rate_closes_with_1008() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.messages = { rate = \"100/min\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for number in 0..200 {
        let frame = Frame::text(&number.to_string()).masked(true);
        if client.writer.try_send(&frame.encode()).await.is_err() {
            break;
        }
    }
    for number in 0..100 {
        assert_eq!(upstream.frame().await.payload, number.to_string().as_bytes());
    }
    assert_eq!(upstream.closes(1001).await, End::Fin);
    assert_eq!(client.close().await.code, Some(1008));
    edge.assert_ended("rate_limited", "client").await;
}

#[tokio::test]
async fn a_throttled_client_loses_nothing_and_keeps_its_rate() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.messages = { rate = \"50/s\", burst = 10, action = \"throttle\" }\nlimits.frame_stall = \"300ms\"")
        .heartbeat("heartbeat = { interval = \"200ms\", timeout = \"400ms\", upstream = { interval = \"off\" } }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let started = Instant::now();
    let wire: Vec<u8> = (0..110)
        .flat_map(|number| Frame::text(&format!("{number}")).masked(true).encode())
        .collect();
    client.send(&wire).await;
    for number in 0..110 {
        assert_eq!(upstream.frame().await.payload, number.to_string().as_bytes());
    }
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_millis(1950), "100 over the burst at 50/s took {lasted:?}");
    assert!(lasted < Duration::from_secs(4), "{lasted:?}");
}

#[tokio::test]
async fn a_dropped_message_leaves_the_others_whole() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("compression = \"strip\"\nlimits.messages = { rate = \"1/min\", burst = 2, action = \"drop\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for text in ["one", "two", "three", "four"] {
        client.send_frame(Frame::text(text)).await;
    }
    client.send_frame(Frame::close(1000, "bye")).await;
    assert_eq!(upstream.frame().await.payload, b"one");
    assert_eq!(upstream.frame().await.payload, b"two");
    assert_eq!(upstream.close().await.code, Some(1000));
}

#[tokio::test]
async fn bytes_are_throttled_to_their_rate() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.bytes = { rate = \"100KB/s\", burst = \"50KB\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let started = Instant::now();
    let message = Frame::binary(vec![7; 10_000]);
    client.send(&message.clone().masked(true).encode().repeat(25)).await;
    for _ in 0..25 {
        assert_eq!(upstream.frame().await.payload, message.payload);
    }
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_millis(1850), "200 KB over the burst took {lasted:?}");
    assert!(lasted < Duration::from_secs(5), "{lasted:?}");
}

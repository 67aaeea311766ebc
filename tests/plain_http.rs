//! Plain HTTP through a route with `plain_http = "proxy"`: what passes, what is written anew, what
//! is refused, and how long anybody waits for anybody.

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Backend, Config, Edge, End, Frame, Message, PATIENCE, Peer, Upgrade, soon, within};

fn config(backend: &Backend) -> Config {
    Config::new(&backend.address).route("plain_http = \"proxy\"")
}

async fn start(backend: &Backend) -> Edge {
    config(backend).start().await
}

/// A request's head with these further lines, each ending in CRLF.
fn head(start: &str, lines: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

fn get(lines: &str) -> String {
    head("GET /", lines)
}

fn post(body: &str) -> String {
    head("POST /", &format!("Content-Length: {}\r\n", body.len())) + body
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Asks on a fresh connection, has the backend answer on one, and gives both heads and both ends.
async fn ask(
    edge: &Edge,
    backend: &Backend,
    request: &str,
    answer: &str,
) -> (Message, Message, Peer, Peer) {
    let mut client = edge.connect().await;
    client.send(request.as_bytes()).await;
    let mut upstream = backend.connection().await;
    let asked = upstream.reader.request().await;
    upstream.send(answer.as_bytes()).await;
    let answered = client.reader.answer().await;
    (asked, answered, client, upstream)
}

async fn is_silent(backend: &Backend) -> bool {
    tokio::time::timeout(Duration::from_millis(200), backend.connection()).await.is_err()
}

// ---- what passes ----

#[tokio::test]
async fn a_request_and_its_answer_pass_less_what_concerns_one_hop() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let request = head(
        "DELETE /a%2Fb?c=d",
        "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 9\r\nTE: gzip\r\nUpgrade: h2c\r\n\
         X-Forwarded-For: 1.2.3.4\r\nCookie: a=b\r\nX-End: 1\r\n",
    );
    let answer = "HTTP/1.1 404 Nowhere\r\nServer: app\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                  Keep-Alive: timeout=5\r\nConnection: x-gone\r\nX-Gone: 1\r\nX-End: 2\r\n\
                  Content-Length: 4\r\n\r\ngone";
    let (asked, answered, mut client, mut upstream) = ask(&edge, &backend, &request, answer).await;
    assert_eq!(asked.start, "DELETE /a%2Fb?c=d HTTP/1.1");
    for gone in ["connection", "x-hop", "keep-alive", "te", "upgrade", "content-length"] {
        assert_eq!(asked.header(gone), None, "{asked:?}");
    }
    assert_eq!(asked.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked.header("x-forwarded-proto"), Some("https"));
    assert_eq!(asked.header("host"), Some("localhost"));
    assert_eq!(asked.header("cookie"), Some("a=b"));
    assert_eq!(asked.header("x-end"), Some("1"));
    assert!(asked.header("x-request-id").is_some());

    assert_eq!(answered.start, "HTTP/1.1 404 Nowhere");
    assert_eq!(answered.header("server"), Some("app"));
    assert_eq!(answered.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(answered.header("x-end"), Some("2"));
    for gone in ["connection", "keep-alive", "x-gone"] {
        assert_eq!(answered.header(gone), None, "{answered:?}");
    }
    assert_eq!(answered.body, b"gone");

    // Both connections serve the next request too.
    client.send(get("").as_bytes()).await;
    upstream.reader.request().await;
    upstream.send(ok("again").as_bytes()).await;
    assert_eq!(client.reader.answer().await.body, b"again");
    assert_eq!(edge.logged(|line| line["message"] == "request refused"), [] as [support::Line; 0]);
}

#[tokio::test]
async fn connections_to_the_upstream_are_shared_by_clients_one_after_the_other() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (.., mut upstream) = ask(&edge, &backend, &get(""), &ok("1")).await;
    for _ in 0..5 {
        let mut client = edge.connect().await;
        client.send(get("Connection: close\r\n").as_bytes()).await;
        assert_eq!(upstream.reader.request().await.header("connection"), None);
        upstream.send(ok("x").as_bytes()).await;
        let answered = client.reader.answer().await;
        assert_eq!(answered.header("connection"), Some("close"));
        assert_eq!(client.end().await, End::CloseNotify);
    }
    // Two at once need two.
    let (mut first, mut second) = (edge.connect().await, edge.connect().await);
    first.send(get("").as_bytes()).await;
    upstream.reader.request().await;
    second.send(get("").as_bytes()).await;
    let other = backend.accept().await;
    let _other = other.answer(ok("second")).await;
    assert_eq!(second.reader.answer().await.body, b"second");
    upstream.send(ok("first").as_bytes()).await;
    assert_eq!(first.reader.answer().await.body, b"first");
}

#[tokio::test]
async fn bodies_pass_as_they_were_framed() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunks = "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
    for method in ["POST", "PUT", "GET", "DELETE"] {
        let start = format!("{method} /");
        let request = head(&start, chunked) + chunks;
        let (asked, ..) = ask(&edge, &backend, &request, &ok("")).await;
        assert_eq!(asked.body, b"abc0123456789", "{method}");
        assert_eq!(asked.all("transfer-encoding"), ["chunked"]);
        let request = head(&start, "Content-Length: 5\r\n") + "hello";
        let (asked, ..) = ask(&edge, &backend, &request, &ok("")).await;
        assert_eq!((&asked.body[..], asked.header("content-length")), (&b"hello"[..], Some("5")));
        let request = head(&start, "Content-Length: 0\r\n");
        let (asked, ..) = ask(&edge, &backend, &request, &ok("")).await;
        assert_eq!(asked.header("content-length"), Some("0"), "{method}");
    }
    let answers = [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
          HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nhi",
            "hi",
        ),
    ];
    for (answer, body) in answers {
        let (_, answered, ..) = ask(&edge, &backend, &get(""), answer).await;
        assert_eq!(answered.body, body.as_bytes());
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_ends_so_and_one_cut_short_shows_it() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    for (answer, cut) in [
        ("HTTP/1.1 200 OK\r\n\r\nall", false),
        ("HTTP/1.0 200 OK\r\n\r\nall", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n", true),
    ] {
        let mut client = edge.connect().await;
        client.send(get("").as_bytes()).await;
        let mut upstream = backend.accept().await.answer(answer).await;
        upstream.shutdown().await;
        if !cut {
            assert_eq!(client.reader.answer().await.body, b"all", "{answer}");
            continue;
        }
        let head = client.reader.head().await;
        assert_eq!(head.status(), 200);
        let mut rest = Vec::new();
        while let Some(more) = soon("the end", client.reader.next_bytes()).await {
            rest.extend(more);
        }
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{answer}: {rest:?}");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    let mut upstream = None;
    for (request, answer, length) in [
        ("HEAD /", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Some("1000")),
        ("HEAD /", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HEAD /", "HTTP/1.1 200 OK\r\n\r\n", None),
        ("GET /", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET /", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", None),
        ("OPTIONS /", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ] {
        client.send(head(request, "").as_bytes()).await;
        if upstream.is_none() {
            upstream = Some(backend.connection().await);
        }
        let upstream = upstream.as_mut().expect("the edge keeps its connection");
        assert!(upstream.reader.request().await.start.starts_with(request));
        upstream.send(answer.as_bytes()).await;
        let answered = client.reader.head().await;
        assert!(answer.starts_with(&answered.start), "{answered:?}");
        assert_eq!(answered.header("content-length"), length, "{answer}");
        assert_eq!(answered.header("transfer-encoding"), None, "{answer}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_to_who_asks_for_them() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    let request = head(
        "POST /",
        "TE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, X-Forwarded-For\r\n",
    ) + "1\r\na\r\n0\r\nX-Sum: 7\r\nX-Forwarded-For: 6.6.6.6\r\nX-Secret: 1\r\n\r\n";
    client.send(request.as_bytes()).await;
    let mut upstream = backend.connection().await;
    let asked = upstream.reader.head().await;
    assert_eq!((asked.header("te"), asked.header("trailer")), (Some("trailers"), Some("x-sum")));
    assert_eq!(until(&mut upstream, "\r\n\r\n").await, "1\r\na\r\n0\r\nx-sum: 7\r\n\r\n");
    let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                  1\r\nb\r\n0\r\nX-Sum: 8\r\n\r\n";
    upstream.send(answer.as_bytes()).await;
    let answered = client.reader.head().await;
    assert_eq!(answered.header("trailer"), Some("x-sum"));
    assert_eq!(until(&mut client, "\r\n\r\n").await, "1\r\nb\r\n0\r\nx-sum: 8\r\n\r\n");
    // Who does not ask gets none.
    client.send(get("").as_bytes()).await;
    assert_eq!(upstream.reader.head().await.header("te"), None);
    upstream.send(answer.as_bytes()).await;
    client.reader.head().await;
    assert_eq!(until(&mut client, "0\r\n\r\n").await, "1\r\nb\r\n0\r\n\r\n");
}

/// What comes until this text does.
async fn until(peer: &mut Peer, end: &str) -> String {
    soon(end, async {
        let mut text = String::new();
        while !text.ends_with(end) {
            let bytes = peer.reader.next_bytes().await.expect("more before the end");
            text += &String::from_utf8(bytes).expect("text");
        }
        text
    })
    .await
}

#[tokio::test]
async fn an_http_1_0_client_gets_what_it_understands() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    client.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let request = backend.accept().await;
    assert_eq!(request.head.start, "GET / HTTP/1.1");
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let _upstream = request.answer(answer).await;
    let answered = client.reader.answer().await;
    assert_eq!(answered.header("transfer-encoding"), None);
    assert_eq!(answered.body, b"abc");
}

#[tokio::test]
async fn who_waits_for_a_100_gets_it_when_there_is_a_connection() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    let expecting = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    client.send(head("POST /", expecting).as_bytes()).await;
    let mut upstream = backend.connection().await;
    assert_eq!(client.reader.head().await.start, "HTTP/1.1 100 Continue");
    client.send(b"hello").await;
    let asked = upstream.reader.request().await;
    assert_eq!((&asked.body[..], asked.header("expect")), (&b"hello"[..], None));
    upstream.send(ok("thanks").as_bytes()).await;
    assert_eq!(client.reader.answer().await.body, b"thanks");

    let edge = Config::new(&Backend::nobody().await).route("plain_http = \"proxy\"").start().await;
    let mut client = edge.connect().await;
    client.send(head("POST /", expecting).as_bytes()).await;
    let answered = client.reader.answer().await;
    assert_eq!((answered.status(), answered.header("connection")), (502, Some("close")));
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn an_upgrade_goes_its_own_way_on_the_same_route() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (mut client, mut upstream) = support::open(&edge, &backend).await;
    client.send_frame(Frame::text("hello")).await;
    assert_eq!(upstream.frame().await.payload, b"hello");
    let broken = Upgrade::to("/").without("sec-websocket-key");
    assert_eq!(edge.connect().await.ask(broken).await.status(), 400);
    let posted = Upgrade::to("/").start("POST / HTTP/1.1");
    assert_eq!(edge.connect().await.ask(posted).await.status(), 400);
    // A 101 to what asked for none is no answer.
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let (_, answered, ..) = ask(&edge, &backend, &get("Upgrade: x\r\n"), switching).await;
    assert_eq!(answered.status(), 502);
    let line = edge.wait_for_log(|line| line["message"] == "request refused").await;
    assert_eq!((&line["outcome"], &line["level"]), (&"upstream_invalid".into(), &"WARN".into()));
}

#[tokio::test]
async fn plain_requests_and_upgrades_of_one_browser_go_to_one_endpoint() {
    let backends = [Backend::tcp().await, Backend::unix().await, Backend::tcp().await];
    let addresses: Vec<String> = backends.iter().map(|it| format!("{:?}", it.address)).collect();
    let edge = config(&backends[0])
        .endpoints(&format!("[{}]", addresses.join(", ")))
        .upstream("affinity_cookie = {}")
        .start()
        .await;
    let [one, two, three] = &backends;
    let whichever = async || {
        tokio::select! {
            request = one.accept() => (0, request),
            request = two.accept() => (1, request),
            request = three.accept() => (2, request),
        }
    };
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..5 {
        let mut client = edge.connect().await;
        client.send(get("").as_bytes()).await;
        let (chosen, request) = whichever().await;
        request.answer(close).await;
        let answered = client.reader.answer().await;
        let cookie = answered.header("set-cookie").expect("the affinity cookie");
        let (cookie, _) = cookie.split_once(';').expect("attributes");
        let lines = format!("Cookie: {cookie}\r\n");
        for request in [get(&lines), head("POST /", &lines), get(&lines)] {
            client.send(request.as_bytes()).await;
            let (came, request) = whichever().await;
            assert_eq!(came, chosen);
            request.answer(close).await;
            assert_eq!(client.reader.answer().await.header("set-cookie"), None);
        }
        client.send(&Upgrade::to("/").add("Cookie", cookie).bytes()).await;
        let (came, request) = whichever().await;
        assert_eq!(came, chosen);
        let _upstream = request.upgrade("").await;
        assert_eq!(client.reader.head().await.status(), 101);
    }
}

// ---- connections that fail ----

#[tokio::test]
async fn a_kept_connection_that_has_ended_costs_no_request() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    for request in [get(""), post("hello")] {
        let (.., mut client, mut upstream) = ask(&edge, &backend, &get(""), &ok("1")).await;
        upstream.shutdown().await;
        client.send(request.as_bytes()).await;
        let mut fresh = backend.connection().await;
        let asked = fresh.reader.request().await;
        assert!(request.ends_with(&String::from_utf8(asked.body).expect("text")));
        fresh
            .send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n2".as_bytes())
            .await;
        assert_eq!(client.reader.answer().await.body, b"2");
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_goes_again_only_where_that_does_no_harm() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (.., mut client, mut upstream) = ask(&edge, &backend, &get(""), &ok("1")).await;
    client.send(get("X-Second: 1\r\n").as_bytes()).await;
    upstream.reader.request().await;
    drop(upstream);
    let again = backend.accept().await;
    assert_eq!(again.head.header("x-second"), Some("1"));
    let mut upstream = again.answer(ok("2")).await;
    assert_eq!(client.reader.answer().await.body, b"2");

    client.send(post("once").as_bytes()).await;
    assert_eq!(upstream.reader.request().await.body, b"once");
    drop(upstream);
    assert_eq!(client.reader.answer().await.status(), 502);
    assert!(is_silent(&backend).await, "a POST was sent twice");

    // A fresh connection that ends so is the upstream's own fault.
    client.send(get("").as_bytes()).await;
    drop(backend.accept().await);
    assert_eq!(client.reader.answer().await.status(), 502);
    assert!(is_silent(&backend).await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_its_server_would() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (.., mut upstream) = ask(&edge, &backend, &get(""), &ok("1")).await;
    let idle = Instant::now();
    assert_eq!(
        within(Duration::from_secs(6), "the edge closes it", upstream.end()).await,
        End::Fin
    );
    assert!(idle.elapsed() > Duration::from_secs(3), "{:?}", idle.elapsed());
}

#[tokio::test]
async fn a_failed_dial_loses_no_body() {
    let backend = Backend::tcp().await;
    let endpoints = format!("[{:?}, {:?}]", Backend::nobody().await, backend.address);
    let edge = config(&backend).endpoints(&endpoints).start().await;
    let (asked, answered, ..) = ask(&edge, &backend, &post("hello"), &ok("1")).await;
    assert_eq!((asked.body, answered.body), (b"hello".to_vec(), b"1".to_vec()));
    let edge = Config::new(&Backend::nobody().await).route("plain_http = \"proxy\"").start().await;
    let mut client = edge.connect().await;
    client.send(post("hello").as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 502);
    let line = edge.wait_for_log(|line| line["message"] == "request refused").await;
    assert_eq!(line["outcome"], "dial_failed");
}

#[tokio::test]
async fn an_upstream_that_speaks_http_1_0_is_asked_on_fresh_connections() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let old = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1";
    let (.., mut upstream) = ask(&edge, &backend, &get(""), old).await;
    assert_eq!(upstream.end().await, End::Fin);
    let chunked = head("POST /", "Transfer-Encoding: chunked\r\n") + "2\r\nab\r\n0\r\n\r\n";
    let (asked, ..) = ask(&edge, &backend, &chunked, old).await;
    assert_eq!(asked.body, b"ab");
}

#[tokio::test]
async fn what_an_upstream_says_unasked_is_nobodys_answer() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let (.., mut first, mut upstream) =
        ask(&edge, &backend, &get(""), &(ok("mine") + &ok("nobody's"))).await;
    assert_eq!(upstream.end().await, End::Fin);
    first.send(get("").as_bytes()).await;
    let mut fresh = backend.accept().await.answer(ok("1")).await;
    assert_eq!(first.reader.answer().await.body, b"1");
    // The same, some time after its answer.
    fresh.send(ok("late").as_bytes()).await;
    assert_eq!(fresh.end().await, End::Fin);
    let (_, answered, ..) = ask(&edge, &backend, &get(""), &ok("2")).await;
    assert_eq!(answered.body, b"2");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_whole_arrives() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let size = 3 << 20;
    let too_large = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!";
    let mut client = edge.connect_plain().await;
    client.send(head("POST /", &format!("Content-Length: {size}\r\n")).as_bytes()).await;
    let mut upstream = backend.accept().await.answer(too_large).await;
    let answered = client.reader.answer().await;
    assert_eq!((answered.status(), &answered.body[..]), (413, &b"no!"[..]));
    upstream.shutdown().await;
    drop(upstream);
    // The rest is read, so that a client that reads late still has its answer.
    client.send(&vec![b'x'; size]).await;
    client.send(get("").as_bytes()).await;
    let _upstream = backend.accept().await.answer(ok("next")).await;
    assert_eq!(client.reader.answer().await.body, b"next");
}

// ---- time ----

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_504() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("timeouts.response = \"500ms\"").start().await;
    let mut client = edge.connect().await;
    let sent = Instant::now();
    client.send(get("").as_bytes()).await;
    let mut upstream = backend.accept().await.silent();
    assert_eq!(client.reader.answer().await.status(), 504);
    assert!(sent.elapsed() >= Duration::from_millis(500));
    assert_eq!(upstream.end().await, End::Fin, "its connection is not used again");
    let line = edge.wait_for_log(|line| line["message"] == "request refused").await;
    assert_eq!((&line["outcome"], &line["by"]), (&"upstream_timeout".into(), &"upstream".into()));
    // A head that is never whole is no answer.
    client.send(get("").as_bytes()).await;
    let _upstream = backend.accept().await.answer("HTTP/1.1 200 OK\r\nX-Slow: ").await;
    assert_eq!(client.reader.answer().await.status(), 504);
}

#[tokio::test]
async fn an_answers_body_may_be_silent_for_longer() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("timeouts.response = \"300ms\"").start().await;
    let mut client = edge.connect().await;
    client.send(get("").as_bytes()).await;
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut upstream = backend.accept().await.answer(stream).await;
    client.reader.head().await;
    assert!(client.reader.silent_for(Duration::from_secs(1)).await);
    upstream.send(b"1\r\na\r\n0\r\n\r\n").await;
    assert_eq!(until(&mut client, "0\r\n\r\n").await, "1\r\na\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_pauses_in_its_body_is_told_408_and_closed() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("timeouts.response = \"600ms\"").start().await;
    let mut client = edge.connect().await;
    client.send((head("POST /", "Content-Length: 9\r\n") + "a").as_bytes()).await;
    let mut upstream = backend.accept().await.silent();
    // Slow is not silent.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        client.send(b"b").await;
    }
    let paused = Instant::now();
    let answered = client.reader.answer().await;
    assert_eq!((answered.status(), answered.header("connection")), (408, Some("close")));
    assert!(paused.elapsed() >= Duration::from_millis(500), "{:?}", paused.elapsed());
    let line = edge.wait_for_log(|line| line["message"] == "request refused").await;
    assert_eq!((&line["outcome"], &line["by"]), (&"timeout".into(), &"client".into()));
    assert_eq!(all_of(&mut upstream).await, "abbbbb");
    assert_eq!(client.end().await, End::CloseNotify);
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_of_a_body_is_504() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("timeouts.response = \"500ms\"").start().await;
    let client = edge.connect_plain().await;
    let Peer { mut reader, mut writer } = client;
    let before = edge.resident();
    let sending = tokio::spawn(async move {
        let _ = writer.try_send(head("POST /", "Content-Length: 1073741824\r\n").as_bytes()).await;
        let megabyte = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < 1024 && writer.try_send(&megabyte).await.is_ok() {
            sent += 1;
        }
        sent
    });
    let _upstream = backend.accept().await.silent();
    let answered = reader.answer().await;
    assert_eq!((answered.status(), answered.header("connection")), (504, Some("close")));
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    let sent = within(PATIENCE, "the client is stopped", sending).await.expect("a task");
    assert!(sent < 64, "{sent} MiB were taken");
}

// ---- streams ----

#[tokio::test]
async fn each_event_goes_out_at_once_and_the_upstream_is_told_when_its_client_leaves() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    client.send(get("Accept: text/event-stream\r\n").as_bytes()).await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let mut upstream = backend.accept().await.answer(head).await;
    client.reader.head().await;
    for number in 0..20 {
        let event = format!("data: {number}\n\n");
        upstream.send(event.as_bytes()).await;
        let came = until(&mut client, "\n\n\r\n").await;
        assert!(came.contains(&event), "{came}");
    }
    drop(client);
    assert_eq!(upstream.end().await, End::Fin);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_frees_the_upstream() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    for body in ["", "hello"] {
        let mut client = edge.connect().await;
        client.send(post(body).as_bytes()).await;
        let mut upstream = backend.connection().await;
        upstream.reader.request().await;
        drop(client);
        assert_eq!(upstream.end().await, End::Fin);
    }
    // Within a body too, which then never ends.
    let mut client = edge.connect().await;
    client.send((head("POST /", "Transfer-Encoding: chunked\r\n") + "1\r\na\r\n").as_bytes()).await;
    let mut upstream = backend.accept().await.silent();
    drop(client);
    assert_eq!(all_of(&mut upstream).await, "1\r\na\r\n");
    for line in edge.wait_for_logs(3, |line| line["message"] == "request refused").await {
        assert_eq!(line["outcome"], "client_gone");
    }
}

#[tokio::test]
async fn a_download_waits_for_its_reader_and_is_cut_when_it_never_reads() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("limits.slow_consumer = \"2s\"").start().await;
    let mut client = edge.connect_plain().await;
    client.send(get("").as_bytes()).await;
    let request = backend.accept().await;
    let before = edge.resident();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
    let mut upstream = request.answer(head).await;
    let began = Instant::now();
    let mut sent = 0;
    let megabyte = vec![b'x'; 1 << 20];
    let cut = within(PATIENCE, "the edge hangs up", async {
        while upstream.writer.try_send(&megabyte).await.is_ok() {
            sent += 1;
        }
        began.elapsed()
    })
    .await;
    let grown = edge.resident().saturating_sub(before);
    println!("{grown} bytes more for a reader that never reads; {sent} MiB were taken");
    assert!(grown < 4 << 20, "{grown} bytes more");
    assert!(sent < 64, "{sent} MiB were taken");
    assert!(cut >= Duration::from_secs(2), "after {cut:?}");
}

#[tokio::test]
async fn a_download_is_whole_though_its_reader_is_slow() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    client.send(get("").as_bytes()).await;
    let size = 24 << 20;
    let body: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
    let mut upstream = backend.accept().await.silent();
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        upstream
            .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes())
            .await;
        upstream.send(&sent).await;
        upstream
    });
    client.reader.head().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut came = Vec::new();
    while came.len() < size {
        came.extend(soon("more", client.reader.next_bytes()).await.expect("more before the end"));
    }
    assert!(came == body, "the body came otherwise");
    sending.await.expect("a task");
}

// ---- policy ----

#[tokio::test]
async fn a_body_that_is_refused_early_does_not_destroy_the_answer() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("clients = { deny = [\"127.0.0.0/8\"] }").start().await;
    for size in [100_000, 3 << 20] {
        let mut client = edge.connect_plain().await;
        client.send(head("POST /", &format!("Content-Length: {size}\r\n")).as_bytes()).await;
        client.send(&vec![b'x'; size]).await;
        let answered = client.reader.answer().await;
        assert_eq!((answered.status(), answered.header("connection")), (403, Some("close")));
        assert_eq!(client.end().await, End::Fin, "{size}");
    }
    // More than is bearable is not read.
    let mut client = edge.connect_plain().await;
    client.send(head("POST /", "Transfer-Encoding: chunked\r\n").as_bytes()).await;
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let taken = within(PATIENCE, "the edge hangs up", async {
        let mut taken = 0;
        while client.writer.try_send(&chunk).await.is_ok() {
            taken += 1;
        }
        taken
    })
    .await;
    assert!(taken < 64, "{taken} MiB were taken");
    assert!(is_silent(&backend).await);
}

#[tokio::test]
async fn a_missing_origin_concerns_what_may_change_something() {
    let backend = Backend::tcp().await;
    let edge =
        config(&backend).route("origin = { allow = [\"https://app.example\"] }").start().await;
    let refused = async |request: String| {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        assert_eq!(client.reader.answer().await.status(), 403, "{request}");
    };
    refused(post("x")).await;
    refused(head("DELETE /", "")).await;
    refused(get("Origin: https://evil.example\r\n")).await;
    refused(head(
        "OPTIONS /",
        "Origin: https://evil.example\r\nAccess-Control-Request-Method: PUT\r\n",
    ))
    .await;
    for request in [
        get(""),
        head("HEAD /", ""),
        get("Origin: https://app.example\r\n"),
        head("POST /", "Origin: https://app.example\r\nContent-Length: 0\r\n"),
        head("OPTIONS /", "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n"),
    ] {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let _upstream = backend.accept().await.answer(answer).await;
        assert_eq!(client.reader.head().await.status(), 200, "{request}");
    }
}

#[tokio::test]
async fn limits_count_requests_and_answers_under_way() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("limits.connections = { per_client = 1 }").start().await;
    let mut first = edge.connect().await;
    first.send(get("").as_bytes()).await;
    let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut upstream = backend.accept().await.answer(stream).await;
    first.reader.head().await;
    let mut second = edge.connect().await;
    second.send(get("").as_bytes()).await;
    let refused = second.reader.answer().await;
    assert_eq!(refused.status(), 429);
    assert!(refused.header("retry-after").is_some());
    upstream.send(b"0\r\n\r\n").await;
    until(&mut first, "0\r\n\r\n").await;
    second.send(get("").as_bytes()).await;
    upstream.reader.request().await;
    upstream.send(ok("").as_bytes()).await;
    assert_eq!(second.reader.answer().await.status(), 200);

    let edge = config(&backend)
        .route("limits.handshakes = { per_client = \"1/min\", burst = 2 }")
        .start()
        .await;
    let preflight =
        head("OPTIONS /", "Origin: https://localhost\r\nAccess-Control-Request-Method: PUT\r\n");
    let mut client = edge.connect().await;
    client.send(preflight.as_bytes()).await;
    let mut upstream = backend.accept().await.answer(ok("")).await;
    assert_eq!(client.reader.answer().await.status(), 200);
    client.send(get("").as_bytes()).await;
    upstream.reader.request().await;
    upstream.send(ok("").as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 200);
    client.send(preflight.as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 429);
}

#[tokio::test]
async fn an_authorizer_is_asked_before_the_body_is_taken_and_never_of_a_preflight() {
    let (backend, authorizer) = (Backend::tcp().await, Backend::tcp().await);
    let authorize = format!(
        "authorize = {{ url = \"http://{}/auth\", copy_headers = [\"x-user\"] }}",
        authorizer.address
    );
    let edge = config(&backend).route("origin = \"any\"").route(&authorize).start().await;
    let mut client = edge.connect().await;
    let request = head("POST /a?b", "Content-Length: 5\r\nExpect: 100-continue\r\nX-User: me\r\n");
    client.send(request.as_bytes()).await;
    let question = authorizer.accept().await;
    assert_eq!(question.head.start, "GET /auth HTTP/1.1");
    assert_eq!(question.head.header("x-original-method"), Some("POST"));
    assert_eq!(question.head.header("x-original-uri"), Some("/a?b"));
    assert_eq!(question.head.header("content-length"), None);
    assert!(
        client.reader.silent_for(Duration::from_millis(100)).await,
        "no 100 before the verdict"
    );
    let verdict = "HTTP/1.1 200 OK\r\nX-User: anna\r\nContent-Length: 0\r\n\r\n";
    let mut authorizer_end = question.answer(verdict).await;
    assert_eq!(client.reader.head().await.start, "HTTP/1.1 100 Continue");
    client.send(b"hello").await;
    let mut upstream = backend.connection().await;
    let asked = upstream.reader.request().await;
    assert_eq!((&asked.body[..], asked.header("x-user")), (&b"hello"[..], Some("anna")));
    upstream.send(ok("").as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 200);

    let preflight =
        head("OPTIONS /", "Origin: https://x.example\r\nAccess-Control-Request-Method: PUT\r\n");
    client.send(preflight.as_bytes()).await;
    assert!(upstream.reader.request().await.start.starts_with("OPTIONS"));
    upstream.send(ok("").as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 200);

    client.send((head("POST /", "Content-Length: 5\r\n") + "hel").as_bytes()).await;
    let refusal = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
    tokio::select! {
        question = authorizer.accept() => drop(question.answer(refusal).await),
        _ = authorizer_end.reader.request() => authorizer_end.send(refusal.as_bytes()).await,
    }
    let answered = client.reader.answer().await;
    assert_eq!((answered.status(), answered.header("connection")), (401, Some("close")));
}

// ---- requests of doubtful shape ----

#[tokio::test]
async fn a_request_of_doubtful_shape_reaches_no_backend_whole() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let chunked = |body: &str| head("POST /", "Transfer-Encoding: chunked\r\n") + body;
    let lines = |lines: &str| head("POST /", lines) + "hello";
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    let doubtful = [
        lines("Content-Length: 5\r\nContent-Length: 6\r\n"),
        lines("Content-Length: 5, 6\r\n"),
        lines("Content-Length: 5, 5\r\n"),
        lines("Content-Length: +5\r\n"),
        lines("Content-Length: 0x5\r\n"),
        lines("Content-Length: 5 5\r\n"),
        lines("Content-Length: \r\n"),
        lines("Content-Length: 99999999999999999999\r\n"),
        lines("Content-Length: 5\r\nX: a\r\n folded\r\n"),
        lines("Content-Length: 5\r\n\tX: a\r\n"),
        lines("Content-Length: 5\r\nX: a\rb\r\n"),
        lines("Content-Length: 5\r\nX: a\0b\r\n"),
        lines("Content-Length : 5\r\n"),
        lines("Content-Length: 5\r\nX Y: a\r\n"),
        lines("Content-Length: 5\r\nno colon\r\n"),
        lines("Content-Length: 5\r\n: no name\r\n"),
        lines("Content-Length: 5\r\nHost: elsewhere\r\n"),
        lines("Transfer-Encoding: xchunked\r\n"),
        lines("Transfer-Encoding: identity\r\n"),
        lines("Transfer-Encoding: chunked, identity\r\n"),
        head("POST /", "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")
            + "0\r\n\r\n",
        head("POST /", "Transfer-Encoding: \"chunked\"\r\n") + "0\r\n\r\n",
        head("POST /", "Transfer-Encoding:\x0bchunked\r\n") + "0\r\n\r\n",
        head("POST /", "Transfer-Encoding: chunked\r\n").replace("1.1", "1.0") + "0\r\n\r\n",
        chunked("5 5\r\nhello\r\n0\r\n\r\n"),
        chunked("-5\r\nhello\r\n0\r\n\r\n"),
        chunked("0x5\r\nhello\r\n0\r\n\r\n"),
        chunked("\r\nhello\r\n0\r\n\r\n"),
        chunked("5\nhello\n0\n\n"),
        chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"),
        chunked("6\r\nhello\r\n0\r\n\r\n"),
        chunked("4\r\nhello\r\n0\r\n\r\n"),
        chunked("FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        chunked(&extension),
        chunked("5\r\nhello\r\n0\r\nno colon\r\n\r\n"),
        chunked(&format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(40_000))),
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET http://elsewhere/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(),
        "G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
    ];
    for request in doubtful {
        // What follows must never be read as a request.
        let smuggled = request.clone() + "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut client = edge.connect_plain().await;
        client.send(smuggled.as_bytes()).await;
        let (answers, upstream) = tokio::join!(all_of(&mut client), begun(&backend));
        let shown = &request[..request.len().min(120)];
        assert!(
            answers.starts_with("HTTP/1.1 4") || answers.starts_with("HTTP/1.0 4"),
            "{shown:?}: {answers}"
        );
        assert_eq!(answers.matches("HTTP/1.").count(), 1, "{shown:?}: {answers}");
        let Some(reached) = upstream else { continue };
        // The head may have gone out before the body turned bad, never the body's end.
        assert!(shown.contains("chunked"), "{shown:?} went upstream as {reached:?}");
        assert!(!reached.ends_with("0\r\n\r\n"), "{shown:?} went upstream whole: {reached:?}");
        assert!(!reached.contains("smuggled"), "{shown:?}: {reached:?}");
    }
}

/// All that a connection says until its end.
async fn all_of(peer: &mut Peer) -> String {
    soon("the end of the connection", async {
        let mut all = Vec::new();
        while let Some(more) = peer.reader.next_bytes().await {
            all.extend(more);
        }
        String::from_utf8_lossy(&all).into_owned()
    })
    .await
}

/// What reaches the backend, until the edge hangs up, if anything does.
async fn begun(backend: &Backend) -> Option<String> {
    let connection = tokio::time::timeout(Duration::from_millis(150), backend.connection()).await;
    let mut connection = connection.ok()?;
    Some(all_of(&mut connection).await)
}

#[tokio::test]
async fn what_hyper_mends_goes_upstream_written_anew() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mended = [
        "POST / HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello".to_owned(),
        head("POST /", "Content-Length: 5\r\nContent-Length: 5\r\n") + "hello",
        head("POST /", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")
            + "5\r\nhello\r\n0\r\n\r\n",
        head("POST /", "Transfer-Encoding: Chunked\r\nContent-Length: x\r\n")
            + "5\r\nhello\r\n0\r\n\r\n",
        head("POST /", "content_length: 3\r\ntransfer_encoding: x\r\nContent-Length: 5\r\n")
            + "hello",
    ];
    for request in mended {
        let mut client = edge.connect().await;
        client.send(request.as_bytes()).await;
        let mut upstream = backend.connection().await;
        let asked = upstream.reader.request().await;
        assert_eq!(asked.body, b"hello", "{request:?}");
        let framing = (asked.all("content-length").len(), asked.all("transfer-encoding").len());
        assert!(matches!(framing, (1, 0) | (0, 1)), "{request:?} became {asked:?}");
        assert_eq!(asked.all("content_length").len() + asked.all("transfer_encoding").len(), 0);
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        upstream.send(answer.as_bytes()).await;
        assert_eq!(client.reader.head().await.status(), 200, "{request:?}");
    }
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    let mut client = edge.connect().await;
    let all = post("one") + &head("GET /two", "") + &post("three");
    client.send(all.as_bytes()).await;
    for (body, target) in [("one", "/"), ("", "/two"), ("three", "/")] {
        let mut upstream = backend.connection().await;
        let asked = upstream.reader.request().await;
        assert_eq!((asked.target(), &asked.body[..]), (target, body.as_bytes()));
        assert!(is_silent(&backend).await, "one at a time");
        let answer = ok(body).replacen("\r\n", "\r\nConnection: close\r\n", 1);
        upstream.send(answer.as_bytes()).await;
        assert_eq!(client.reader.answer().await.body, body.as_bytes());
    }
}

#[tokio::test]
async fn an_upstreams_answer_of_doubtful_shape_is_502() {
    let backend = Backend::tcp().await;
    let edge = start(&backend).await;
    for answer in [
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
    ] {
        let (_, answered, ..) = ask(&edge, &backend, &get(""), answer).await;
        assert_eq!(answered.status(), 502, "{answer}");
        assert!(!String::from_utf8_lossy(&answered.body).contains("127.0.0.1"));
    }
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    let mut client = edge.connect().await;
    client.send(get("").as_bytes()).await;
    let mut upstream = backend.accept().await.silent();
    let _ = upstream.writer.try_send(large.as_bytes()).await;
    assert_eq!(client.reader.answer().await.status(), 502);
}

// ---- stopping ----

#[tokio::test]
async fn a_drain_closes_the_idle_lets_answers_run_and_ends_event_streams_over_its_window() {
    const STREAMS: usize = 40;
    let backend = Backend::tcp().await;
    let mut edge = config(&backend)
        .server("drain = { delay = \"0s\", window = \"3s\", timeout = \"20s\" }")
        .start()
        .await;
    let events =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n: hi\n\n";
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut client = edge.connect().await;
        client.send(get("").as_bytes()).await;
        let upstream = backend.accept().await.answer(events).await;
        client.reader.head().await;
        until(&mut client, ": hi\n\n\r\n").await;
        streams.push((client, upstream));
    }
    let (.., mut idle, _kept) = ask(&edge, &backend, &get(""), &ok("")).await;
    drop(_kept);
    let mut awaiting = edge.connect().await;
    awaiting.send(get("").as_bytes()).await;
    let unanswered = backend.accept().await;
    let mut downloading = edge.connect().await;
    downloading.send(get("").as_bytes()).await;
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab";
    let mut download = backend.accept().await.answer(half).await;
    downloading.reader.head().await;

    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    assert_eq!(idle.end().await, End::CloseNotify);
    assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
    let _unanswered = unanswered.answer(ok("late")).await;
    let late = awaiting.reader.answer().await;
    assert_eq!((&late.body[..], late.header("connection")), (&b"late"[..], Some("close")));
    assert_eq!(awaiting.end().await, End::CloseNotify);

    let mut ends = Vec::new();
    let mut waiting = tokio::task::JoinSet::new();
    for (mut client, mut upstream) in streams {
        waiting.spawn(async move {
            assert_eq!(until(&mut client, "0\r\n\r\n").await, "0\r\n\r\n", "an orderly end");
            let ended = signalled.elapsed();
            assert_eq!(client.end().await, End::CloseNotify);
            assert_eq!(upstream.end().await, End::Fin);
            ended
        });
    }
    while let Some(ended) = waiting.join_next().await {
        ends.push(ended.expect("a task"));
    }
    ends.sort();
    let thirds = [1, 2, 3].map(|third| {
        let third = Duration::from_secs(third);
        ends.iter().filter(|end| **end <= third && **end > third - Duration::from_secs(1)).count()
    });
    assert!(thirds.iter().all(|count| *count >= 3), "ends by seconds: {thirds:?} {ends:?}");
    assert!(*ends.last().expect("ends") < Duration::from_secs(5), "{ends:?}");
    assert!(edge.is_running(), "a download is under way");
    download.send(b"cd").await;
    let mut rest = Vec::new();
    while let Some(more) = soon("the download's end", downloading.reader.next_bytes()).await {
        rest.extend(more);
    }
    assert_eq!(rest, b"abcd");
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
}

//! Upstreams that lie, stall or flood: an upgrade and a plain request are answered alike, and
//! neither costs more than a little memory.

mod support;

use support::{Backend, Config, Edge, End, PATIENCE, Upgrade, soon, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
/// What one connection may add to the process: hyper's buffers and the allocator's rounding.
const SLACK: usize = 4 << 20;

/// An upgrade, and a request that is none.
fn requests() -> [Vec<u8>; 2] {
    [Upgrade::to("/").bytes(), GET.into()]
}

fn config(backend: &Backend) -> Config {
    Config::new(&backend.address).route("plain_http = \"proxy\"")
}

fn impatient(backend: &Backend) -> Config {
    let config = config(backend).upstream("handshake_timeout = \"500ms\"");
    config.route("timeouts.response = \"500ms\"")
}

#[tokio::test]
async fn what_is_no_answer_is_502() {
    let head = "HTTP/1.1 200 OK\r\n";
    let lies = [
        "HTTP/1.1 200".to_owned(),
        format!("{head}X: half"),
        format!("{head}X: {}\r\n\r\n", "x".repeat(140 << 10)),
        format!("{head}{}\r\n", "X: y\r\n".repeat(1000)),
        format!("HTTP/1.1 100 Continue\r\n\r\n{head}X: half"),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
            .to_owned(),
        "HTTP/2 200\r\n\r\n".to_owned(),
        "HTTP/1.1 999999 OK\r\n\r\n".to_owned(),
        format!("{head}X: a\0b\r\n\r\n"),
        format!("{head}X: a\rSet-Cookie: b\r\n\r\n"),
    ];
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    for lie in lies {
        for request in requests() {
            let mut client = edge.connect().await;
            client.send(&request).await;
            let mut upstream = backend.accept().await.silent();
            let _ = upstream.writer.try_send(lie.as_bytes()).await;
            drop(upstream);
            let answer = client.reader.answer().await;
            assert_eq!(answer.status(), 502, "{lie:.80}");
        }
    }
}

#[tokio::test]
async fn what_becomes_no_answer_in_time_is_504_and_cut() {
    let backend = Backend::tcp().await;
    let edge = impatient(&backend).start().await;
    for begun in ["HTTP/1.1 200 OK\r\nX: half", "HTTP/1.1 100 Continue\r\n\r\n"] {
        for request in requests() {
            let mut client = edge.connect().await;
            client.send(&request).await;
            let mut upstream = backend.accept().await.answer(begun).await;
            assert_eq!(client.reader.answer().await.status(), 504, "{begun}");
            upstream.end().await;
        }
    }
}

/// A server that hangs: it accepts, and takes no more than its socket's buffer does.
#[tokio::test]
async fn a_request_that_is_not_taken_is_504_and_cut() {
    let backend = Backend::unix().await;
    let edge = impatient(&backend).listener("limits.header_bytes = \"2MiB\"").start().await;
    let large = "x".repeat(1 << 20);
    for request in requests() {
        let mut client = edge.connect().await;
        let line = format!("X-Large: {large}\r\n\r\n");
        let request = [&request[..request.len() - 2], line.as_bytes()].concat();
        client.send(&request).await;
        let mut upstream = backend.connection().await;
        assert_eq!(client.reader.answer().await.status(), 504);
        let mut taken = 0;
        while let Some(bytes) = upstream.reader.next_bytes().await {
            taken += bytes.len();
        }
        assert!(taken < large.len(), "what was written later had no reader: {taken} bytes");
    }
}

#[tokio::test]
async fn a_flood_of_answers_before_the_answer_ends_with_its_time() {
    let backend = Backend::tcp().await;
    let edge = impatient(&backend).start().await;
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
    for request in requests() {
        let mut client = edge.connect().await;
        client.send(&request).await;
        let mut upstream = backend.accept().await.silent();
        let before = edge.resident();
        let flood = within(PATIENCE, "the edge hangs up", async {
            while upstream.writer.try_send(early.as_bytes()).await.is_ok() {}
        });
        let (answer, ()) = tokio::join!(client.reader.answer(), flood);
        assert_eq!(answer.status(), 504);
        let grown = edge.resident().saturating_sub(before);
        assert!(grown < SLACK, "{grown} bytes more");
    }
}

#[tokio::test]
async fn thousands_of_answers_before_the_answer_are_skipped() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(5000);
    for request in requests() {
        let mut client = edge.connect().await;
        client.send(&request).await;
        let _upstream = backend.accept().await.answer(early.clone() + OK).await;
        let answer = client.reader.answer().await;
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"hi"[..]));
        assert_eq!(answer.header("link"), None);
    }
}

#[tokio::test]
async fn a_redirect_is_the_clients_to_follow() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n";
    for request in requests() {
        let mut client = edge.connect().await;
        client.send(&request).await;
        let _upstream = backend.accept().await.answer(moved).await;
        let answer = client.reader.answer().await;
        assert_eq!(answer.status(), 302);
        assert_eq!(answer.header("location"), Some("http://127.0.0.1:1/x"));
    }
}

/// A refusal of a gigabyte to a client that reads none of it.
#[tokio::test]
async fn a_refusal_without_end_waits_for_its_reader_and_is_cut() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("limits.slow_consumer = \"1s\"").start().await;
    let mut client = edge.connect_plain().await;
    client.send(&Upgrade::to("/").bytes()).await;
    let request = backend.accept().await;
    let before = edge.resident();
    let head = "HTTP/1.1 403 Forbidden\r\nContent-Length: 1073741824\r\n\r\n";
    let mut upstream = request.answer(head).await;
    let megabyte = vec![b'x'; 1 << 20];
    let mut sent = 0;
    soon("the edge hangs up", async {
        while upstream.writer.try_send(&megabyte).await.is_ok() {
            sent += 1;
        }
    })
    .await;
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < SLACK && sent < 64, "{grown} bytes more, {sent} MiB were taken");
}

#[tokio::test]
async fn a_refusal_under_way_counts_as_its_client() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("limits.connections = { per_client = 1 }").start().await;
    let mut first = edge.connect().await;
    first.send(&Upgrade::to("/").bytes()).await;
    let endless = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n";
    let mut upstream = backend.accept().await.answer(endless).await;
    assert_eq!(first.reader.head().await.status(), 403);
    assert_eq!(status(&edge).await, 429);
    upstream.send(b"0\r\n\r\n").await;
    while first.reader.next_bytes().await.is_some() {}
    let asking = tokio::join!(status(&edge), async { backend.accept().await.answer(OK).await });
    assert_eq!(asking.0, 200);
}

async fn status(edge: &Edge) -> u16 {
    edge.connect().await.ask(Upgrade::to("/")).await.status()
}

/// Answers that must have no body and have one: it is nobody's answer.
#[tokio::test]
async fn a_body_where_there_is_none_is_no_answer() {
    let nobody_s = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnobody's";
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 52\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 52\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 52\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut client = edge.connect().await;
        client.send(GET.replace("GET", method).as_bytes()).await;
        let mut upstream = backend.accept().await.answer(format!("{head}{nobody_s}")).await;
        client.reader.head().await;
        // It is not kept.
        client.send(GET.as_bytes()).await;
        let _fresh = backend.accept().await.answer(OK).await;
        assert_eq!(client.reader.answer().await.body, b"hi", "{method} {head}");
        assert!(matches!(upstream.end().await, End::Fin | End::Reset));
    }
}

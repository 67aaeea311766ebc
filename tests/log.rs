//! The log from outside: which trace a line belongs to, and that no connection waits for a line.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{
    Backend, Config, Edge, PATIENCE, Peer, Request, Upgrade, ended, relay, soon, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"";
const DROPPED: &str = "wsgate_log_dropped_total";

// ---- a log that nobody takes ----

/// So many requests for what is not there, one behind the other: each is one line.
async fn ask_for_nothing(edge: &Edge, count: usize) {
    let mut socket = TcpStream::connect(edge.plain).await.expect("TCP");
    let asked = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(count);
    let (mut reader, mut writer) = socket.split();
    let reading = async {
        let (mut answered, mut read, mut kept) = (0, vec![0; 1 << 16], Vec::new());
        while answered < count {
            let length = reader.read(&mut read).await.expect("answers");
            assert!(length > 0, "closed behind {answered} of {count}");
            kept.extend_from_slice(&read[..length]);
            let mark = b"HTTP/1.1 404";
            answered += kept.windows(mark.len()).filter(|window| window == mark).count();
            // A mark may be cut in two; one that was counted is not kept.
            let rest = kept.len().saturating_sub(mark.len() - 1);
            kept.drain(..rest);
        }
    };
    let (written, ()) = tokio::join!(writer.write_all(&asked), reading);
    written.expect("requests are taken");
}

fn of_nothing(line: &support::Line) -> bool {
    line["outcome"] == "no_route"
}

/// More lines than may wait, and than fit a pipe besides.
const LINES: usize = 40_000;
const AT_ONCE: usize = 8;

#[tokio::test]
async fn a_log_that_nobody_reads_drops_lines_and_holds_up_nobody() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).workers(2).route("path = \"/app\"").more(ADMIN);
    let edge = config.start().await;
    let (mut client, mut upstream) = open_app(&edge, &backend, None).await;
    edge.stop_reading();
    let asking = (0..AT_ONCE).map(|_| ask_for_nothing(&edge, LINES / AT_ONCE));
    let flood = futures_util::future::join_all(asking);
    within(6 * PATIENCE, "all are answered", flood).await;
    relay(&mut client, &mut upstream, "not held up").await;
    let admin = edge.admin().await;
    let dropped = admin.metrics().await[DROPPED];
    assert!(dropped > 0.0, "nothing was dropped");
    // Read again, it goes on, and no line is missing but those that were counted.
    edge.read_on();
    within(3 * PATIENCE, "what waited is written", async {
        loop {
            let (dropped, read) = (admin.metrics().await[DROPPED], edge.logged(of_nothing).len());
            if dropped as usize + read == LINES {
                return;
            }
            assert!(dropped as usize + read < LINES, "{dropped} and {read} are too many");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(client);
    edge.wait_for_log(ended).await;
}

#[tokio::test]
async fn a_closed_log_ends_nothing_and_its_lines_are_counted() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).route("path = \"/app\"").more(ADMIN);
    let mut edge = config.start().await;
    let admin = edge.admin().await;
    let (mut client, mut upstream) = open_app(&edge, &backend, None).await;
    edge.close_log();
    ask_for_nothing(&edge, 1).await;
    edge.log_ends().await;
    let before = admin.metrics().await[DROPPED];
    ask_for_nothing(&edge, 100).await;
    soon("all lines are counted", async {
        while admin.metrics().await[DROPPED] < before + 100.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(admin.metrics().await[DROPPED], before + 100.0);
    relay(&mut client, &mut upstream, "still here").await;
    edge.signal(Signal::TERM);
    edge.signal(Signal::TERM);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
}

// ---- traces ----

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Opens `/app`, of the trace that these say.
async fn open_app(edge: &Edge, backend: &Backend, parent: Option<&[&str]>) -> (Peer, Peer) {
    let (client, request) = ask_app(edge, backend, parent.unwrap_or_default()).await;
    let upstream = request.upgrade("").await;
    (client.await, upstream)
}

async fn ask_app(
    edge: &Edge,
    backend: &Backend,
    parents: &[&str],
) -> (impl Future<Output = Peer>, Request) {
    let mut client = edge.connect_plain().await;
    let asked =
        parents.iter().fold(Upgrade::to("/app"), |asked, parent| asked.add("traceparent", parent));
    client.send(&asked.add("tracestate", "vendor=1").bytes()).await;
    let request = backend.accept().await;
    let answered = async move {
        assert_eq!(client.reader.answer().await.status(), 101);
        client
    };
    (answered, request)
}

#[tokio::test]
async fn a_trace_goes_to_the_upstream_and_into_every_line() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("path = \"/app\"").start().await;
    let (client, request) = ask_app(&edge, &backend, &[PARENT]).await;
    assert_eq!(request.head.all("traceparent"), [PARENT]);
    assert_eq!(request.head.all("tracestate"), ["vendor=1"]);
    let _upstream = request.upgrade("").await;
    drop(client.await);
    let opened = edge.wait_for_log(|line| line["message"] == "tunnel opened").await;
    assert_eq!(opened["trace_id"], ID, "{opened}");
    assert_eq!(edge.ended().await["trace_id"], ID);
    let mut refused = edge.connect_plain().await;
    let refusal = refused.ask(Upgrade::to("/").add("traceparent", PARENT)).await;
    assert_eq!(refusal.status(), 404);
    assert_eq!(edge.refused().await["trace_id"], ID);
}

#[tokio::test]
async fn what_names_no_trace_goes_nowhere_and_none_is_made_up() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("path = \"/app\"").start().await;
    let upper = PARENT.to_uppercase();
    let cases: [&[&str]; 5] = [&[], &["garbage"], &[&upper], &[PARENT, PARENT], &[PARENT, "x"]];
    for (count, parents) in cases.into_iter().enumerate() {
        let (client, request) = ask_app(&edge, &backend, parents).await;
        assert!(request.head.all("traceparent").is_empty(), "{parents:?}: {:?}", request.head);
        assert!(request.head.all("tracestate").is_empty(), "{parents:?}: {:?}", request.head);
        let _upstream = request.upgrade("").await;
        drop(client.await);
        let lines = edge.wait_for_logs(count + 1, ended).await;
        assert!(lines[count].get("trace_id").is_none(), "{parents:?}: {}", lines[count]);
    }
}

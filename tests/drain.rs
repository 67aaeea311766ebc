//! Stopping, as DESIGN §8 promises it: spread, on boundaries, with a true code, and in time.

mod support;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Backend, CONTINUATION, Config, Edge, End, Frame, PATIENCE, Peer, Upgrade, open, soon, within,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Live sockets of the large drain, half of them in the middle of a message.
const SOCKETS: usize = 1000;
const WINDOW: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_thousand_sockets_are_drained_over_the_window() {
    let backend = Arc::new(Backend::tcp().await);
    let mut edge = Config::new(&backend.address)
        .workers(2)
        .close("10s")
        .server("drain = { delay = \"0s\", window = \"5s\", timeout = \"40s\" }")
        .start()
        .await;
    let draining = Arc::new(AtomicBool::new(false));
    let upstreams = tokio::spawn(serve(backend.clone(), draining.clone()));
    let clients = connect_all(&edge).await;

    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    draining.store(true, Ordering::Release);
    let mut farewells = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        farewells.spawn(farewell(number, client));
    }
    let all = within(Duration::from_secs(40), "every client is told", farewells.join_all()).await;
    let status = edge.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status}");
    within(PATIENCE, "every upstream is told", upstreams).await.expect("the upstreams' task");

    let told = |parity| all.iter().filter(move |(number, _)| number % 2 == parity);
    let idle: Vec<_> = told(0).map(|(_, at)| at.duration_since(signalled)).collect();
    assert_spread(idle);
    let lines = edge.logged(support::ended);
    assert_eq!(lines.len(), SOCKETS);
    for line in lines {
        assert_eq!((&line["reason"], &line["by"]), (&"drain".into(), &"edge".into()), "{line}");
    }
}

/// Opens every socket; the odd ones are sent the start of a large message.
async fn connect_all(edge: &Edge) -> Vec<Peer> {
    let mut clients = Vec::new();
    for number in 0..SOCKETS {
        let target = if number % 2 == 0 { "/idle" } else { "/busy" };
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to(target)).await;
        clients.push(client);
    }
    clients
}

/// Serves all upstream connections until each had its Close 1001.
async fn serve(backend: Arc<Backend>, draining: Arc<AtomicBool>) {
    let mut served = JoinSet::new();
    for _ in 0..SOCKETS {
        let asked = backend.accept().await;
        let busy = asked.head.target() == "/busy";
        let upstream = asked.upgrade("").await;
        served.spawn(serve_one(upstream, busy, draining.clone()));
    }
    served.join_all().await;
}

async fn serve_one(mut upstream: Peer, busy: bool, draining: Arc<AtomicBool>) {
    if busy {
        let bytes = large_message();
        let (first, rest) = bytes.split_at(bytes.len() / 3);
        upstream.send(first).await;
        within(Duration::from_secs(60), "the drain", async {
            while !draining.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        for slice in rest.chunks(rest.len() / 10) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // A Close may be there before the message's end only if the edge broke its word; the
            // client sees that better than this side does.
            if upstream.writer.try_send(slice).await.is_err() {
                return;
            }
        }
    }
    let close = within(Duration::from_secs(60), "Close 1001", upstream.reader.next_event()).await;
    let support::Event::Frame(close) = close else { panic!("no Close for an upstream: {close:?}") };
    assert_eq!(close.closing().code, Some(1001));
    upstream.writer.answer(close).await;
}

/// One message of two frames, 96 KiB.
fn large_message() -> Vec<u8> {
    let mut bytes = Frame::binary(vec![1; 64 << 10]).not_final().encode();
    bytes.extend(Frame::new(CONTINUATION, vec![2; 32 << 10]).encode());
    bytes
}

/// What a client sees: its message to the end, Close 1012, the end. Gives the moment of the Close.
async fn farewell(number: usize, mut client: Peer) -> (usize, Instant) {
    let deadline = Duration::from_secs(30);
    let next =
        async |client: &mut Peer| match within(deadline, "a Close", client.reader.next_event())
            .await
        {
            support::Event::Frame(frame) => frame,
            end => panic!("{number} was cut: {end:?}"),
        };
    if number % 2 == 1 {
        assert_eq!(next(&mut client).await.payload.len(), 64 << 10, "socket {number}");
        assert_eq!(next(&mut client).await.payload.len(), 32 << 10, "socket {number}");
    }
    let close = next(&mut client).await;
    let told = Instant::now();
    assert_eq!(close.closing().code, Some(1012), "socket {number}");
    client.writer.answer(close).await;
    assert_eq!(client.end().await, End::CloseNotify, "socket {number}");
    (number, told)
}

/// The k-th of n Closes comes with the k-th part of the window: hardly sooner, since the edge does
/// not hurry; and later only as far as a busy machine is late.
fn assert_spread(mut times: Vec<Duration>) {
    const LATE: Duration = Duration::from_secs(3);
    times.sort();
    for (index, time) in times.iter().enumerate() {
        let due = WINDOW.mul_f64(index as f64 / times.len() as f64);
        let in_turn = (due.saturating_sub(WINDOW / 10)..due + LATE).contains(time);
        assert!(in_turn, "Close {index} was due at {due:?} and came at {time:?}: {times:?}");
    }
}

#[tokio::test]
async fn until_the_delay_has_passed_all_is_accepted_as_before() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .server("drain = { delay = \"2s\", window = \"100ms\", timeout = \"20s\" }")
        .start()
        .await;
    let (mut first, mut first_upstream) = open(&edge, &backend).await;
    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut second, mut second_upstream) = open(&edge, &backend).await;
    second.send_frame(Frame::text("as before")).await;
    assert_eq!(second_upstream.frame().await.payload, b"as before");
    for (client, upstream) in
        [(&mut first, &mut first_upstream), (&mut second, &mut second_upstream)]
    {
        assert_eq!(client.closes(1012).await, End::CloseNotify);
        assert!(signalled.elapsed() > Duration::from_secs(2), "the delay was cut short");
        assert_eq!(upstream.closes(1001).await, End::Fin);
    }
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test]
async fn after_the_delay_nobody_listens() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .server("drain = { delay = \"0s\", window = \"10s\", timeout = \"30s\" }")
        .start()
        .await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        kept.push(open(&edge, &backend).await);
    }
    edge.signal(Signal::TERM);
    for address in [edge.plain, edge.tls] {
        let refused = soon("the listener closes", async {
            loop {
                if let Err(error) = TcpStream::connect(address).await {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn the_process_ends_as_soon_as_nothing_is_left() {
    let backend = Backend::tcp().await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut edge = Config::new(&backend.address)
            .server("drain = { delay = \"0s\", window = \"10s\", timeout = \"30s\" }")
            .start()
            .await;
        // An idle connection that never asked for anything holds up nothing.
        let _idle = edge.connect().await;
        let signalled = Instant::now();
        edge.signal(signal);
        assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    }
}

#[tokio::test]
async fn what_is_left_at_the_timeout_is_cut() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .close("2s")
        .server("drain = { delay = \"0s\", window = \"100ms\", timeout = \"2500ms\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    // A frame that goes on and on, and so never comes to its boundary.
    let head = Frame::binary(vec![0; 60_000]).encode();
    upstream.send(&head[..1000]).await;
    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    let (frames, _, _) = client.reader.rest().await;
    assert_eq!(frames, [], "no Close within a frame");
}

#[tokio::test]
async fn a_second_signal_cuts_at_once() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .server("drain = { delay = \"0s\", window = \"20s\", timeout = \"60s\" }")
        .start()
        .await;
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(open(&edge, &backend).await);
    }
    edge.signal(Signal::TERM);
    soon("the listeners close", async {
        while TcpStream::connect(edge.plain).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let second = Instant::now();
    edge.signal(Signal::TERM);
    edge.exit(PATIENCE).await;
    assert!(second.elapsed() < Duration::from_secs(2), "{:?}", second.elapsed());
}

#[tokio::test]
async fn a_sidecars_numbers_come_from_its_grace() {
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .close("30s")
        .server("drain = { delay = \"0s\", window = \"1s\", timeout = \"60s\" }")
        .argument("--grace")
        .argument("12s")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    // Grace 12 s: delay 2 s, window 6 s, timeout 10 s, close 2 s.
    assert_eq!(client.closes(1012).await, End::CloseNotify);
    let told = signalled.elapsed();
    assert!(told > Duration::from_millis(1900) && told < Duration::from_secs(9), "{told:?}");
    assert_eq!(upstream.closes(1001).await, End::Fin);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(11));
}

#[tokio::test]
async fn a_grace_too_short_is_refused() {
    let config = Config::new(&Backend::nobody().await);
    for grace in ["8s", "0s", "8999ms", "soon"] {
        let refused = config.clone().argument("--grace").argument(grace);
        let (code, words) = refused.refused().await;
        assert!(code.is_some_and(|code| code != 0), "{grace}: {code:?}");
        assert!(words.contains("grace") || words.contains("9s"), "{grace}: {words}");
    }
    let edge = config.argument("--grace").argument("9s").start().await;
    drop(edge);
}

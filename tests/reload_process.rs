//! A reload and what is the process's own: its listeners, its log, its signals, its end.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Backend, Config, Edge, End, Frame, Line, PATIENCE, Peer, Upgrade, authority, client_config,
    connect_tls, not_reloaded, open, relay, reloaded, soon,
};
use tokio::net::{TcpListener, TcpStream};

// ---- listeners ----

/// Where a listener of this host listens, once it does.
async fn listening(edge: &Edge, host: &str) -> SocketAddr {
    let at = |line: &Line| line["address"].as_str().map(str::to_owned);
    let line = edge
        .wait_for_log(|line| {
            line["message"] == "listening" && at(line).is_some_and(|at| at.starts_with(host))
        })
        .await;
    at(&line).expect("an address").parse().expect("an address")
}

async fn is_closed(address: SocketAddr) {
    soon("the listener is closed", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn fault(edge: &Edge) -> String {
    edge.wait_for_log(not_reloaded).await["fault"].as_str().expect("a text").to_owned()
}

const THIRD: &str = "[[listener]]\nlisten = \"127.0.0.3:0\"\n";

#[tokio::test]
async fn a_listener_comes_and_goes_and_its_sockets_stay() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    edge.reconfigure(&config.clone().more(THIRD)).await;
    let address = listening(&edge, "127.0.0.3").await;
    let mut third = Peer::client(TcpStream::connect(address).await.expect("a third listener"));
    let (answer, mut over_there) = tokio::join!(third.ask(Upgrade::to("/")), async {
        backend.accept().await.upgrade("").await
    });
    assert_eq!(answer.status(), 101);
    edge.reconfigure(&config).await;
    is_closed(address).await;
    relay(&mut third, &mut over_there, "stays").await;
    relay(&mut client, &mut upstream, "stays too").await;
}

#[tokio::test]
async fn a_plain_listener_is_given_tls_and_live_sockets_stay_plain() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.clone().more(THIRD).start().await;
    let address = listening(&edge, "127.0.0.3").await;
    let mut plain = Peer::client(TcpStream::connect(address).await.expect("a connection"));
    let (answer, mut upstream) = tokio::join!(plain.ask(Upgrade::to("/")), async {
        backend.accept().await.upgrade("").await
    });
    assert_eq!(answer.status(), 101);
    let tls = format!("{THIRD}tls = {{ certificates = [{}] }}", authority().server("localhost"));
    edge.reconfigure(&config.more(&tls)).await;
    let stream = connect_tls(address, "localhost", client_config()).await.expect("TLS by now");
    let mut client = Peer::client(stream);
    let (answer, _over_there) = tokio::join!(client.ask(Upgrade::to("/")), async {
        backend.accept().await.upgrade("").await
    });
    assert_eq!(answer.status(), 101);
    relay(&mut plain, &mut upstream, "plain as before").await;
}

#[tokio::test]
async fn limits_of_a_listener_change_under_its_connections() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let limit = |count| config.clone().listener(&format!("limits.connections = {count}"));
    let edge = config.start().await;
    let (mut first, mut first_upstream) = open(&edge, &backend).await;
    let (mut second, mut second_upstream) = open(&edge, &backend).await;
    edge.reconfigure(&limit(1)).await;
    relay(&mut first, &mut first_upstream, "a lowered limit closes nobody").await;
    relay(&mut second, &mut second_upstream, "nor the other").await;
    let waiting = open(&edge, &backend);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "there is no room");
    edge.reconfigure(&limit(3)).await;
    let (mut third, mut third_upstream) = waiting.await;
    relay(&mut third, &mut third_upstream, "there is").await;
}

#[tokio::test]
async fn a_port_that_is_taken_keeps_the_whole_configuration() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("its address");
    let descriptors = edge.descriptors();
    // The first could be bound, and is let go again.
    let both = format!("{THIRD}[[listener]]\nlisten = \"{}\"\n", taken.1);
    let next = config.clone().route("limits.max_message_size = \"10B\"").more(&both);
    edge.rewrite(&next.text());
    let words = fault(&edge).await;
    let expected = format!("cannot listen on {}: Address already in use", taken.1);
    assert!(words.starts_with(&expected) && words.contains("another process"), "{words}");
    relay(&mut client, &mut upstream, "longer than ten bytes").await;
    assert_eq!(edge.descriptors(), descriptors);
    // Once it is free, it takes a word to try again.
    drop(taken);
    edge.signal(Signal::HUP);
    edge.wait_for_log(reloaded).await;
    client.send_frame(Frame::text("longer than ten bytes")).await;
    client.closes(1009).await;
}

#[tokio::test]
async fn a_port_that_the_process_itself_has_is_told_as_its_own() {
    let config = Config::new(&Backend::nobody().await);
    let edge = config.start().await;
    let wildcard = format!("[[listener]]\nlisten = \"0.0.0.0:{}\"\n", edge.plain.port());
    edge.rewrite(&config.more(&wildcard).text());
    let words = fault(&edge).await;
    let expected = format!("while this process listens on {}: restart, or ", edge.plain);
    assert!(words.contains(&expected), "{words}");
}

#[tokio::test]
async fn a_route_may_be_for_a_listener_that_is_new() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let new = format!(
        "{THIRD}[[route]]\nname = \"new\"\npath = \"/new\"\nupstream = \"app\"\n\
         listeners = [\"127.0.0.3:0\"]\nclients = {{ deny = [\"127.0.0.0/8\"] }}"
    );
    edge.reconfigure(&config.more(&new)).await;
    let address = listening(&edge, "127.0.0.3").await;
    let mut there = Peer::client(TcpStream::connect(address).await.expect("a connection"));
    assert_eq!(there.ask(Upgrade::to("/new")).await.status(), 403, "that is the new route");
    let mut here = edge.connect().await;
    let (answer, _upstream) = tokio::join!(here.ask(Upgrade::to("/new")), async {
        backend.accept().await.upgrade("").await
    });
    assert_eq!(answer.status(), 101, "and that the old one");
}

// ---- the server's own table ----

#[tokio::test]
async fn the_log_changes_its_level_and_its_form() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let log = |to: &str| config.text().replace("log = { level = \"debug\" }", to);
    drop(open(&edge, &backend).await);
    edge.ended().await;
    assert_eq!(edge.logged(|line| line["message"] == "tunnel opened").len(), 1);
    edge.reconfigure_by(&log("log = { level = \"info\" }")).await;
    drop(open(&edge, &backend).await);
    edge.wait_for_logs(2, support::ended).await;
    assert_eq!(edge.logged(|line| line["message"] == "tunnel opened").len(), 1);
    edge.rewrite(&log("log = { format = \"text\" }"));
    let text = |words: &'static str| {
        move |line: &Line| line.as_str().is_some_and(|text| text.contains(words))
    };
    edge.wait_for_log(text("configuration reloaded")).await;
    drop(open(&edge, &backend).await);
    edge.wait_for_log(text("tunnel ended")).await;
}

#[tokio::test]
async fn what_a_restart_is_needed_for_is_said_each_time() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    // By then all threads have begun.
    edge.reconfigure(&config.clone().route("limits.backlog = \"1MiB\"")).await;
    let threads = edge.threads();
    let warned = |line: &Line| line["change"] == "server: workers: needs a restart";
    let more = config.clone().workers(3);
    edge.reconfigure(&more.clone().server("backlog_total = \"64MiB\"")).await;
    let line = edge.wait_for_log(warned).await;
    assert_eq!(line["level"], "WARN");
    let change =
        |line: &Line| line["change"] == "server: backlog_total: at once, for live sockets too";
    edge.wait_for_log(change).await;
    edge.reconfigure(&more.listener("reuse_port = true")).await;
    edge.wait_for_logs(2, warned).await;
    edge.wait_for_log(|line| line["change"] == "listener 127.0.0.1:0: reuse_port: needs a restart")
        .await;
    assert_eq!(edge.threads(), threads);
    drop(open(&edge, &backend).await);
}

#[tokio::test]
async fn a_proxy_is_trusted_from_the_next_request_on() {
    let config =
        Config::new(&Backend::nobody().await).route("clients = { deny = [\"192.0.2.0/24\"] }");
    let edge = config.start().await;
    let asked = async || {
        let request = Upgrade::to("/").add("X-Forwarded-For", "192.0.2.7");
        edge.connect().await.ask(request).await.status()
    };
    assert_eq!(asked().await, 502);
    edge.reconfigure(&config.clone().server("trusted_proxies = [\"127.0.0.0/8\"]")).await;
    assert_eq!(asked().await, 403);
    edge.reconfigure(&config).await;
    assert_eq!(asked().await, 502);
}

// ---- signals ----

#[tokio::test]
async fn a_hundred_signals_are_no_storm() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let mut edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for number in 0..100 {
        if number % 10 == 0 {
            edge.rewrite(
                &config.clone().route(&format!("limits.backlog = \"{}KiB\"", 64 + number)).text(),
            );
        }
        edge.signal(Signal::HUP);
        relay(&mut client, &mut upstream, "between two signals").await;
    }
    edge.wait_for_log(reloaded).await;
    // Two reasons at once, and one of them is to stop.
    edge.signal(Signal::HUP);
    edge.signal(Signal::TERM);
    client.closes(1012).await;
    drop(upstream);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert_eq!(edge.logged(not_reloaded).len(), 0);
}

// ---- reload and drain ----

#[tokio::test]
async fn a_reload_during_a_drain_binds_live_sockets_and_opens_nothing() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address)
        .server("drain = { delay = \"2s\", window = \"8s\", timeout = \"30s\" }");
    let mut edge = config.start().await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        kept.push(open(&edge, &backend).await);
    }
    edge.signal(Signal::TERM);
    edge.wait_for_log(|line| line["message"] == "stopping; a second signal cuts at once").await;
    // Another of an address that is known is none the less new.
    let second = "[[listener]]\nlisten = \"127.0.0.1:0\"\n";
    let next = config.route("limits.max_message_size = \"10B\"").more(THIRD).more(second);
    let bound = |line: &Line| line["message"] == "listening";
    let before = edge.logged(bound).len();
    edge.reconfigure(&next).await;
    let (client, _) = &mut kept[0];
    client.send_frame(Frame::text("eleven byte")).await;
    client.closes(1009).await;
    assert_eq!(edge.logged(bound).len(), before);
    // And within the window, when the listeners are gone.
    is_closed(edge.plain).await;
    edge.reconfigure(&next.clone().route("limits.max_frame_size = \"5B\"")).await;
    assert_eq!(edge.logged(bound).len(), before);
    for (mut client, _) in kept.into_iter().skip(1) {
        assert_eq!(client.closes(1012).await, End::CloseNotify);
    }
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test]
async fn a_route_that_is_deleted_during_a_drain_ends_its_sockets_but_once() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address)
        .server("drain = { delay = \"1s\", window = \"100ms\", timeout = \"30s\" }");
    let mut edge = config.start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    edge.signal(Signal::TERM);
    edge.wait_for_log(|line| line["message"] == "stopping; a second signal cuts at once").await;
    let renamed = "[[route]]\nname = \"renamed\"";
    edge.reconfigure_by(&config.text().replace("[[route]]\nname = \"app\"", renamed)).await;
    client.closes(1012).await;
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert_eq!(edge.logged(support::ended).len(), 1);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_files_that_do_not_fit_yet() {
    let backend = Backend::tcp().await;
    let folder = tempfile::tempdir().expect("a folder");
    let [chain, key] = ["chain", "key"].map(|name| folder.path().join(name));
    let (pair, other) = (authority().pair("localhost"), authority().pair("localhost"));
    fs::write(&chain, &pair.chain).expect("a chain");
    fs::write(&key, &pair.key).expect("a key");
    let config = Config::new(&backend.address)
        .only_certificate(format!("{{ chain = {chain:?}, key = {key:?} }}"))
        .server("drain = { delay = \"2s\", window = \"100ms\", timeout = \"30s\" }");
    let mut edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    fs::write(&key, &other.key).expect("another's key");
    edge.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    edge.signal(Signal::TERM);
    edge.wait_for_log(|line| line["message"] == "stopping; a second signal cuts at once").await;
    // The retries go on while sockets live, and what comes of them is put to use.
    relay(&mut client, &mut upstream, "until its turn comes").await;
    fs::write(&key, &pair.key).expect("its own key");
    edge.reconfigure(&config.route("limits.max_message_size = \"1KiB\"")).await;
    client.closes(1012).await;
    drop(upstream);
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert_eq!(edge.logged(not_reloaded).len(), 0);
}

#[tokio::test]
async fn a_grace_goes_before_the_files_drain_on_reload_too() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).close("30s");
    let drain = |window: &str| {
        let drain =
            format!("drain = {{ delay = \"0s\", window = {window:?}, timeout = \"200s\" }}");
        config.clone().server(&drain)
    };
    let mut edge = drain("1s").argument("--grace").argument("12s").start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    edge.reconfigure(&drain("100s")).await;
    let signalled = Instant::now();
    edge.signal(Signal::TERM);
    let line = edge.wait_for_log(|line| line["window_s"].is_number()).await;
    let numbers = ["delay_s", "window_s", "timeout_s"].map(|key| line[key].as_f64());
    assert_eq!(numbers, [Some(2.0), Some(6.0), Some(10.0)]);
    client.closes(1012).await;
    assert_eq!(edge.exit(PATIENCE).await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(11), "{:?}", signalled.elapsed());
}

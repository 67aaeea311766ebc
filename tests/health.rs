//! Endpoints that fall ill, are passed over and come back: probes, ejections, names.

mod support;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use support::{Config, Edge, Line, Manner, Peer, Server, Upgrade, can_have_hosts, skip, soon};
use tempfile::TempDir;

/// Probes as often as is good for a test; two in a row decide.
fn probing(probe: &str, timeout: &str) -> String {
    format!(
        "health = {{ probe = {probe:?}, interval = \"50ms\", timeout = {timeout:?}, \
         unhealthy_after = 2, healthy_after = 2 }}"
    )
}

fn before(servers: &[&Server]) -> Config {
    let endpoints: Vec<String> = servers.iter().map(|server| server.endpoint()).collect();
    Config::new("").endpoints(&format!("{endpoints:?}"))
}

async fn client(edge: &Edge) -> Peer {
    let mut client = edge.connect_plain().await;
    client.upgrade(Upgrade::to("/")).await;
    client
}

async fn status(edge: &Edge) -> u16 {
    edge.connect_plain().await.ask(Upgrade::to("/")).await.status()
}

fn tells<'a>(message: &'a str, server: &Server) -> impl Fn(&Line) -> bool + 'a {
    let endpoint = server.endpoint();
    move |line| line["message"] == message && line["endpoint"] == endpoint
}

fn is_refused(line: &Line) -> bool {
    line["message"] == "handshake refused"
}

const UNHEALTHY: &str = "endpoint is unhealthy";
const HEALTHY: &str = "endpoint is healthy";
const EJECTED: &str = "endpoint ejected";

// ---- probes ----

/// Waits until a server is found ill and gives the reason.
async fn found_ill(edge: &Edge, server: &Server) -> String {
    let line = edge.wait_for_log(tells(UNHEALTHY, server)).await;
    assert_eq!((&line["level"], &line["upstream"]), (&"WARN".into(), &"app".into()), "{line}");
    line["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn an_endpoint_that_goes_down_gets_nobody_until_it_is_back() {
    let (mut one, other) = (Server::down().await, Server::start().await);
    let edge = before(&[&one, &other]).upstream(&probing("http:/healthz?a=b", "5s")).start().await;
    let reason = found_ill(&edge, &one).await;
    assert!(reason.contains("refused"), "{reason}");
    one.come_back().await;
    edge.wait_for_log(tells(HEALTHY, &one)).await;
    // Two in a row bring it back; a third may have begun since.
    let probes = one.probes();
    assert!((2..=3).contains(&probes.len()), "{probes:?}");
    assert_eq!(probes[0].start, "GET /healthz?a=b HTTP/1.1");
    assert_eq!(probes[0].header("host"), Some(&*one.endpoint()));

    one.behaves(Manner::Status(500));
    edge.wait_for_logs(2, tells(UNHEALTHY, &one)).await;
    let before = (one.upgrades(), other.upgrades());
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!((one.upgrades() - before.0, other.upgrades() - before.1), (0, 6));

    one.behaves(Manner::Well);
    edge.wait_for_logs(2, tells(HEALTHY, &one)).await;
    while one.upgrades() == before.0 {
        clients.push(client(&edge).await);
        assert!(clients.len() < 20, "its turn never came");
    }
    assert_eq!(edge.logged(|line| line["message"] == UNHEALTHY).len(), 2, "once each");
}

#[tokio::test]
async fn a_probe_says_what_it_found() {
    let ill = [
        ("http:/", Manner::Status(500), "the probe was answered 500"),
        ("http:/", Manner::Silent, "the probe was not done within 300ms"),
        ("websocket:/ws", Manner::Silent, "the probe was not done within 300ms"),
        ("websocket:/ws", Manner::Status(200), "the probe was answered 200"),
        ("websocket:/ws", Manner::Lies, "Sec-WebSocket-Accept"),
    ];
    for (probe, manner, told) in ill {
        let server = Server::start().await;
        server.behaves(manner);
        let timeout = if manner == Manner::Silent { "300ms" } else { "10s" };
        let edge = before(&[&server]).upstream(&probing(probe, timeout)).start().await;
        let reason = found_ill(&edge, &server).await;
        assert!(reason.contains(told), "{probe} {manner:?}: {reason}");
    }
}

#[tokio::test]
async fn what_is_well_is_not_called_ill() {
    let well = [
        ("tcp", Manner::Silent),
        ("http:/", Manner::Status(204)),
        ("http:/", Manner::Status(302)),
        ("http:/", Manner::Endless),
        ("websocket:/ws", Manner::Well),
    ];
    for (probe, manner) in well {
        let server = Server::start().await;
        server.behaves(manner);
        let edge = before(&[&server]).upstream(&probing(probe, "10s")).start().await;
        soon("some probes", async {
            while server.dials().len() < 6 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(edge.logged(|line| line["message"] == UNHEALTHY).is_empty(), "{probe} {manner:?}");
    }
}

#[tokio::test]
async fn a_websocket_probe_shakes_hands_and_says_goodbye() {
    let server = Server::start().await;
    let config = before(&[&server]).upstream(&probing("websocket:/ws", "10s"));
    let _edge = config.upstream("host = \"chat.internal\"").start().await;
    let goodbye = soon("a goodbye", async {
        loop {
            match server.goodbyes().first() {
                Some(goodbye) => return goodbye.clone(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    let probe = &server.probes()[0];
    assert_eq!((probe.target(), probe.header("host")), ("/ws", Some("chat.internal")));
    assert_eq!(probe.header("sec-websocket-version"), Some("13"));
    // A Close, masked as a client must, of a code and no reason.
    assert_eq!(goodbye[..2], [0x88, 0x82]);
    let code = [goodbye[6] ^ goodbye[2], goodbye[7] ^ goodbye[3]];
    assert_eq!(u16::from_be_bytes(code), 1000);
}

#[tokio::test]
async fn where_all_are_ill_they_are_tried_all_the_same() {
    let server = Server::start().await;
    server.behaves(Manner::Status(500));
    let edge = before(&[&server]).upstream(&probing("http:/healthz", "10s")).start().await;
    found_ill(&edge, &server).await;
    assert_eq!(status(&edge).await, 500, "the server's own answer");
}

#[tokio::test]
async fn a_unix_socket_is_probed_too() {
    let backend = support::Backend::unix().await;
    let health = probing("http:/healthz", "10s");
    let _edge = Config::new(&backend.address).upstream(&health).start().await;
    let probe = backend.accept().await;
    assert_eq!((probe.head.target(), probe.head.header("host")), ("/healthz", Some("localhost")));
}

#[tokio::test]
async fn what_is_probed_no_more_is_no_longer_ill() {
    let (ill, well) = (Server::start().await, Server::start().await);
    ill.behaves(Manner::Status(500));
    let config = before(&[&ill, &well]);
    let edge = config.clone().upstream(&probing("http:/healthz", "10s")).start().await;
    found_ill(&edge, &ill).await;
    edge.reconfigure(&config).await;
    for _ in 0..60 {
        if status(&edge).await == 500 {
            return;
        }
    }
    panic!("nobody probes it, and it is passed over for ever");
}

// ---- ejection ----

/// Clients come, and are all served, until an endpoint is ejected.
async fn until_ejected(edge: &Edge, times: usize, server: &Server) -> Line {
    let mut clients = Vec::new();
    soon("an ejection", async {
        loop {
            let lines = edge.logged(tells(EJECTED, server));
            if let Some(line) = lines.get(times - 1) {
                return line.clone();
            }
            clients.push(client(edge).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn three_failed_dials_eject_an_endpoint() {
    let (mut ill, well) = (Server::down().await, Server::start().await);
    let config = before(&[&ill, &well]).upstream("passive = { eject = \"60s\" }");
    let edge = config.start().await;
    let line = until_ejected(&edge, 1, &ill).await;
    assert_eq!((&line["level"], &line["for_s"]), (&"WARN".into(), &60.0.into()), "{line}");
    assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{line}");
    ill.come_back().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!(ill.dials(), [], "it is passed over while it is ejected");
}

#[tokio::test]
async fn an_ejected_endpoint_comes_back_on_trial() {
    let (mut ill, well) = (Server::down().await, Server::start().await);
    let config = before(&[&ill, &well]).upstream("passive = { eject = \"100ms\" }");
    let edge = config.start().await;
    for (times, lasts) in [(1, 0.1), (2, 0.2), (3, 0.4)] {
        let line = until_ejected(&edge, times, &ill).await;
        assert_eq!(line["for_s"], lasts, "{line}");
    }
    ill.come_back().await;
    let mut clients = Vec::new();
    soon("it is used again", async {
        while ill.upgrades() == 0 {
            clients.push(client(&edge).await);
        }
    })
    .await;
    edge.wait_for_log(tells("endpoint answers again", &ill)).await;
}

#[tokio::test]
async fn unanswered_handshakes_eject_and_answers_do_not() {
    let (silent, angry, well) =
        (Server::start().await, Server::start().await, Server::start().await);
    silent.behaves(Manner::Silent);
    angry.behaves(Manner::Status(500));
    let edge = before(&[&silent, &angry, &well])
        .upstream("handshake_timeout = \"300ms\"\npassive = { failures = 1, eject = \"60s\" }")
        .upstream("balance = \"round-robin\"")
        .start()
        .await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(status(&edge).await);
    }
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(504), 1, "the one that waited in vain: {statuses:?}");
    assert!(count(500) >= 3 && count(101) >= 3, "{statuses:?}");
    edge.wait_for_log(tells(EJECTED, &silent)).await;
    let ejected = edge.logged(|line| line["message"] == EJECTED);
    assert_eq!(ejected.len(), 1, "{ejected:?}");
}

#[tokio::test]
async fn plain_requests_that_fail_to_dial_count_too() {
    let (ill, well) = (Server::down().await, Server::start().await);
    let edge = before(&[&ill, &well])
        .upstream("passive = { eject = \"60s\" }")
        .route("plain_http = \"proxy\"")
        .start()
        .await;
    soon("an ejection", async {
        while edge.logged(tells(EJECTED, &ill)).is_empty() {
            let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let mut client = edge.connect_plain().await;
            client.send(request).await;
            assert_eq!(client.reader.answer().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn half_of_the_endpoints_are_never_ejected_and_of_one_none() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(Server::down().await);
        }
        let all: Vec<&Server> = servers.iter().collect();
        let edge = before(&all).upstream("passive = { eject = \"60s\" }").start().await;
        for _ in 0..12 {
            assert_eq!(status(&edge).await, 502);
        }
        edge.wait_for_logs(12, is_refused).await;
        let ejected = edge.logged(|line| line["message"] == EJECTED).len();
        assert_eq!(ejected, most, "of {count}");
        servers[0].come_back().await;
        let mut tries = 0;
        while status(&edge).await != 101 {
            tries += 1;
            assert!(tries < 10, "{count} endpoints");
        }
    }
}

// ---- homes ----

/// A client of a room, and the index of the server that it came to.
async fn client_of(edge: &Edge, room: usize, servers: &[Server]) -> (Peer, usize) {
    let before: Vec<usize> = servers.iter().map(Server::upgrades).collect();
    let mut client = edge.connect_plain().await;
    client.upgrade(Upgrade::to(&format!("/?room={room}"))).await;
    let came = servers.iter().zip(before).position(|(server, before)| server.upgrades() > before);
    (client, came.expect("one of them took it"))
}

#[tokio::test]
async fn clients_of_a_killed_server_go_to_the_others_and_home_when_it_is_back() {
    let mut servers = [Server::start().await, Server::start().await, Server::start().await];
    let all: Vec<&Server> = servers.iter().collect();
    let edge = before(&all)
        .upstream("hash_key = [\"query:room\"]\npassive = { eject = \"100ms\" }")
        .upstream(&probing("http:/healthz", "10s"))
        .start()
        .await;
    let mut tunnels = Vec::new();
    for room in 0..40 {
        let (client, home) = client_of(&edge, room, &servers).await;
        tunnels.push((room, home, client));
    }
    let (mut lost, kept): (Vec<_>, Vec<_>) = tunnels.into_iter().partition(|it| it.1 == 0);
    assert!(!lost.is_empty() && !kept.is_empty(), "40 rooms spread over three servers");

    servers[0].kill().await;
    for (_, _, client) in &mut lost {
        client.closes(1012).await;
    }
    let lines = edge.wait_for_logs(lost.len(), support::ended).await;
    assert!(lines.iter().all(|line| line["reason"] == "upstream_lost"), "{lines:?}");
    let mut elsewhere = Vec::new();
    for (room, ..) in &lost {
        let (client, came) = client_of(&edge, *room, &servers).await;
        assert_ne!(came, 0);
        elsewhere.push(client);
    }
    found_ill(&edge, &servers[0]).await;

    servers[0].come_back().await;
    edge.wait_for_log(tells(HEALTHY, &servers[0])).await;
    for (room, ..) in &lost {
        soon("a room is home again", async {
            while client_of(&edge, *room, &servers).await.1 != 0 {}
        })
        .await;
    }
    for (room, home, _) in &kept {
        assert_eq!(client_of(&edge, *room, &servers).await.1, *home, "others stay where they are");
    }
    assert_eq!(
        edge.logged(support::ended).iter().filter(|line| line["reason"] == "upstream_lost").count(),
        lost.len()
    );
}

// ---- source addresses ----

#[tokio::test]
async fn endpoints_are_dialled_from_the_source_addresses_in_turn() {
    let server = Server::start().await;
    let config = before(&[&server]).upstream("source_addresses = [\"127.0.0.3\", \"127.0.0.4\"]");
    let edge = config.start().await;
    let clients = [client(&edge).await, client(&edge).await, client(&edge).await];
    let from: Vec<String> = server.dials().iter().map(|from| from.ip().to_string()).collect();
    assert_eq!(from, ["127.0.0.3", "127.0.0.4", "127.0.0.3"]);
    drop(clients);
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_is_named_and_no_endpoints_fault() {
    let server = Server::start().await;
    let edge = before(&[&server, &server])
        .endpoints(&format!("[{:?}, {:?}]", server.endpoint(), Server::down().await.endpoint()))
        .upstream("source_addresses = [\"192.0.2.1\"]\npassive = { failures = 1 }")
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(status(&edge).await, 502);
    }
    let detail = edge.wait_for_logs(3, is_refused).await[2]["detail"].to_string();
    assert!(detail.contains("cannot dial from 192.0.2.1 (`source_addresses`)"), "{detail}");
    assert_eq!(edge.logged(|line| line["message"] == EJECTED), Vec::<Line>::new());
}

// ---- names ----

/// The names that an edge knows.
struct Hosts {
    _folder: TempDir,
    file: PathBuf,
}

impl Hosts {
    fn new(lines: &str) -> Hosts {
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = Hosts { file: folder.path().join("hosts"), _folder: folder };
        hosts.say(lines);
        hosts
    }

    /// Changes the file in one write, so that no reader sees half of it.
    fn say(&self, lines: &str) {
        let padded = format!("{lines:\n<4000}");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.file);
        file.and_then(|mut file| file.write_all(padded.as_bytes())).expect("the names are written");
    }
}

/// Two servers on one port of two addresses.
async fn twins() -> (Server, Server) {
    for _ in 0..20 {
        let one = Server::start().await;
        let address = SocketAddr::from(([127, 0, 0, 2], one.address.port()));
        if tokio::net::TcpListener::bind(address).await.is_ok() {
            return (one, Server::at(address, None).await);
        }
    }
    panic!("no port is free on two addresses");
}

fn skipped() -> bool {
    let skipped = !can_have_hosts();
    if skipped {
        skip("this system gives a process no /etc/hosts of its own (unshare)");
    }
    skipped
}

fn resolving(server: &Server, hosts: &Hosts) -> Config {
    let name = format!("chat.test:{}", server.address.port());
    Config::new("")
        .endpoints("[]")
        .upstream(&format!("resolve = {{ name = {name:?}, refresh = \"50ms\" }}"))
        .hosts(&hosts.file)
}

async fn addresses_changed(edge: &Edge, times: usize) -> Line {
    edge.wait_for_logs(times, |line| line["message"] == "addresses changed").await[times - 1]
        .clone()
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint() {
    if skipped() {
        return;
    }
    let (one, other) = twins().await;
    let hosts = Hosts::new("127.0.0.1 chat.test\n127.0.0.2 chat.test\n");
    let edge = resolving(&one, &hosts).start().await;
    let line = addresses_changed(&edge, 1).await;
    assert_eq!((&line["endpoints"], &line["removed"]), (&2.into(), &"".into()), "{line}");
    assert_eq!(line["added"], format!("{}, {}", one.endpoint(), other.endpoint()), "{line}");
    let mut clients = Vec::new();
    while one.upgrades() == 0 || other.upgrades() == 0 {
        clients.push(client(&edge).await);
        assert!(clients.len() < 50, "one of them gets nobody");
    }

    // One address goes: its connections stay, and new ones go to the other.
    hosts.say("127.0.0.2 chat.test\n");
    let line = addresses_changed(&edge, 2).await;
    assert_eq!(
        (&line["endpoints"], &line["removed"]),
        (&1.into(), &one.endpoint().into()),
        "{line}"
    );
    let before = one.upgrades();
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!(one.upgrades(), before);

    // The name goes: nothing changes, and it is said once.
    hosts.say("127.0.0.2 another.test\n");
    let lost = |line: &Line| {
        line["message"].as_str().is_some_and(|text| text.contains("cannot be resolved"))
    };
    edge.wait_for_log(lost).await;
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    hosts.say("127.0.0.1 chat.test\n127.0.0.2 chat.test\n");
    edge.wait_for_log(|line| line["message"] == "the name can be resolved again").await;
    let line = addresses_changed(&edge, 3).await;
    assert_eq!((&line["endpoints"], &line["added"]), (&2.into(), &one.endpoint().into()), "{line}");
    while one.upgrades() == before {
        clients.push(client(&edge).await);
        assert!(clients.len() < 100, "it gets nobody");
    }
    assert_eq!(edge.logged(lost).len(), 1);
    assert!(edge.logged(support::ended).is_empty(), "every connection stayed");
}

#[tokio::test]
async fn a_name_unresolved_at_start_is_503_until_it_is() {
    if skipped() {
        return;
    }
    let server = Server::start().await;
    let hosts = Hosts::new("127.0.0.1 another.test\n");
    let edge = resolving(&server, &hosts).start().await;
    let answer = edge.connect_plain().await.ask(Upgrade::to("/")).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(edge.refused().await["outcome"], "no_endpoint");
    hosts.say("127.0.0.1 chat.test\n");
    addresses_changed(&edge, 1).await;
    client(&edge).await;
}

#[tokio::test]
async fn a_name_in_endpoints_is_looked_up_at_each_dial_and_all_its_addresses_tried() {
    if skipped() {
        return;
    }
    let (mut one, other) = twins().await;
    let hosts = Hosts::new("127.0.0.1 chat.test\n127.0.0.2 chat.test\n");
    let endpoint = format!("chat.test:{}", one.address.port());
    let edge = Config::new(&endpoint).hosts(&hosts.file).start().await;
    one.kill().await;
    let _client = client(&edge).await;
    assert_eq!(other.upgrades(), 1);
    hosts.say("127.0.0.3 chat.test\n");
    assert_eq!(status(&edge).await, 502);
    hosts.say("127.0.0.1 another.test\n");
    assert_eq!(status(&edge).await, 502);
    let lines = edge.wait_for_logs(2, is_refused).await;
    assert!(lines[1]["detail"].to_string().contains("the name has no address"), "{}", lines[1]);
}

// ---- reload ----

#[tokio::test]
async fn a_reload_forgets_no_ejection() {
    let (mut ill, well) = (Server::down().await, Server::start().await);
    let config = before(&[&ill, &well]).upstream("passive = { eject = \"60s\" }");
    let edge = config.start().await;
    until_ejected(&edge, 1, &ill).await;
    ill.come_back().await;
    edge.reconfigure(&config.route("limits.max_message_size = \"2MiB\"")).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!(ill.dials(), []);
}

#[tokio::test]
async fn a_reload_forgets_no_verdict_and_doubles_no_probe() {
    let (mut ill, well) = (Server::down().await, Server::start().await);
    let health = |interval: &str| probing("http:/healthz", "10s").replace("50ms", interval);
    let config = before(&[&ill, &well]).upstream(&health("200ms"));
    let edge = config.start().await;
    found_ill(&edge, &ill).await;
    // From here on it would be well, and nobody is told: the next probe is an hour away.
    let rarely = before(&[&ill, &well]).upstream(&health("1h"));
    for number in 0..20 {
        edge.reconfigure(
            &config.clone().route(&format!("limits.backlog = \"{}KiB\"", 64 + number)),
        )
        .await;
    }
    let probes = well.probes().len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let probes = well.probes().len() - probes;
    assert!((5..=15).contains(&probes), "{probes} probes in 2 s, one each 200 ms");
    edge.reconfigure(&rarely).await;
    // The first probes of the new cluster come within a second, and find it down still.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    ill.come_back().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!(ill.dials(), []);
    // Without probes nobody could take the verdict back.
    edge.reconfigure(&before(&[&ill, &well])).await;
    for _ in 0..6 {
        clients.push(client(&edge).await);
    }
    assert_eq!(ill.dials().len(), 6, "the one that has the fewest");
}

#[tokio::test]
async fn a_name_that_is_deleted_ends_the_sockets_of_its_addresses() {
    if skipped() {
        return;
    }
    let server = Server::start().await;
    let hosts = Hosts::new("127.0.0.1 chat.test\n");
    let config = resolving(&server, &hosts).server("drain.window = \"100ms\"");
    let edge = config.start().await;
    addresses_changed(&edge, 1).await;
    let mut client = client(&edge).await;
    let text = config.text();
    let line = text.lines().find(|line| line.starts_with("resolve")).expect("its key");
    edge.reconfigure_by(
        &text.replace(line, "").replace("endpoints = []", "endpoints = [\"127.0.0.1:9\"]"),
    )
    .await;
    assert_eq!(client.close().await.code, Some(1012));
    edge.assert_ended("endpoint_removed", "edge").await;
}

#[tokio::test]
async fn a_reload_keeps_the_addresses_of_a_name_and_their_connections() {
    if skipped() {
        return;
    }
    let server = Server::start().await;
    let hosts = Hosts::new("127.0.0.1 chat.test\n");
    let config = resolving(&server, &hosts).upstream(&probing("http:/healthz", "10s"));
    let edge = config.start().await;
    addresses_changed(&edge, 1).await;
    let _client = client(&edge).await;
    hosts.say("127.0.0.1 another.test\n");
    edge.reconfigure(&config.route("limits.max_message_size = \"2MiB\"")).await;
    assert_eq!(status(&edge).await, 101, "no answer is waited for");
    server.behaves(Manner::Status(500));
    found_ill(&edge, &server).await;
    edge.wait_for_log(support::ended).await;
    assert_eq!(edge.logged(support::ended).len(), 1, "the first is still there");
}

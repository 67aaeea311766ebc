//! Which endpoint a connection goes to, seen from outside: hashing, cookies, weights, caps.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use support::{Config, Edge, Message, Peer, Upgrade, accept_of, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A server that takes every upgrade, says in its answer who it is, and is silent then.
struct Server {
    name: usize,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    /// On an address of its own, so that nobody has its port while it is stopped.
    async fn start(name: usize) -> Server {
        let [a, b] = rand::random::<[u8; 2]>();
        let own = [127, a | 1, b, u8::try_from(name + 1).expect("a few servers")];
        Server::at(name, SocketAddr::from((own, 0))).await
    }

    async fn at(name: usize, address: SocketAddr) -> Server {
        let listener = TcpListener::bind(address).await.expect("a port for the server");
        let address = listener.local_addr().expect("a bound socket has an address");
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, name));
            }
        });
        Server { name, address, accepting }
    }

    /// Nobody listens there any more, and its connections are gone. A program that another test
    /// starts at this moment has the listener too until it is executed, so it is waited for.
    async fn stop(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        soon("a connection is refused", async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn restart(&mut self) {
        *self = Server::at(self.name, self.address).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut socket: TcpStream, name: usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = Message::parse(&head);
    let key = head.header("sec-websocket-key").expect("the edge sends a key");
    let answer = match head.target() {
        "/refuse" => {
            format!("HTTP/1.1 403 Forbidden\r\nX-Server: {name}\r\nContent-Length: 0\r\n\r\n")
        }
        _ => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nX-Server: {name}\r\nSet-Cookie: app=1\r\n\r\n",
            accept_of(key)
        ),
    };
    let _ = socket.write_all(answer.as_bytes()).await;
    // Until the edge hangs up.
    let mut rest = [0; 1024];
    while socket.read(&mut rest).await.unwrap_or(0) > 0 {}
}

async fn servers(count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for name in 0..count {
        servers.push(Server::start(name).await);
    }
    servers
}

/// The endpoints of these servers, each with what `more` says of it.
fn endpoints<'a>(
    servers: impl IntoIterator<Item = &'a Server>,
    more: impl Fn(usize) -> String,
) -> String {
    let table =
        |server: &Server| format!("{{ address = \"{}\"{} }}", server.address, more(server.name));
    let tables: Vec<String> = servers.into_iter().map(table).collect();
    format!("[{}]", tables.join(", "))
}

fn config<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Config {
    Config::new("127.0.0.1:1").endpoints(&endpoints(servers, |_| String::new()))
}

/// The same with ids, so that each run chooses as the one before did.
fn named(servers: &[Server]) -> Config {
    config([]).endpoints(&endpoints(servers, |name| format!(", id = \"chat-{name}\"")))
}

/// An open connection, and the answer that opened it.
struct Open {
    answer: Message,
    _peer: Peer,
}

impl Open {
    fn server(&self) -> usize {
        self.answer.header("x-server").and_then(|name| name.parse().ok()).expect("a server's name")
    }

    /// The Set-Cookie of the edge.
    fn affinity(&self) -> Option<&str> {
        self.answer
            .all("set-cookie")
            .into_iter()
            .find(|cookie| cookie.starts_with("wsgate_affinity="))
    }

    /// The cookie that a browser would send next time.
    fn cookie(&self) -> String {
        let cookie = self.affinity().expect("an affinity cookie is set");
        cookie.split(';').next().unwrap_or_default().to_owned()
    }
}

/// Sends a request over plain TCP; gives whatever comes back.
async fn ask(edge: SocketAddr, request: Upgrade) -> Open {
    let socket = soon("a TCP connection", TcpStream::connect(edge)).await.expect("a connection");
    let mut peer = Peer::client(socket);
    peer.send(&request.bytes()).await;
    Open { answer: peer.reader.head().await, _peer: peer }
}

async fn open(edge: &Edge, request: Upgrade) -> Open {
    let open = ask(edge.plain, request).await;
    assert_eq!(open.answer.status(), 101, "{:?}", open.answer);
    open
}

/// The server that a request comes to.
async fn server(edge: &Edge, request: Upgrade) -> usize {
    open(edge, request).await.server()
}

fn session(name: usize) -> Upgrade {
    Upgrade::to("/").add("Cookie", &format!("theme=dark; session=s{name}"))
}

const BY_SESSION: &str = "hash_key = [\"cookie:session\"]";
const AFFINITY: &str = "affinity_cookie = {}";

#[tokio::test]
async fn two_processes_choose_alike_without_talking() {
    let servers = servers(5).await;
    let one = config(&servers).upstream(BY_SESSION).workers(2).start().await;
    let other = config(servers.iter().rev()).upstream(BY_SESSION).start().await;
    let mut seen = BTreeMap::<usize, usize>::new();
    for name in 0..300 {
        let chosen = server(&one, session(name)).await;
        assert_eq!(server(&other, session(name)).await, chosen, "session {name}");
        *seen.entry(chosen).or_default() += 1;
    }
    // Six standard deviations about 60: the ports are others each time.
    assert!(seen.len() == 5 && seen.values().all(|count| count.abs_diff(60) < 42), "{seen:?}");
}

#[tokio::test]
async fn an_id_keeps_its_keys_whatever_the_address() {
    let (before, after) = (servers(4).await, servers(4).await);
    let one = named(&before).upstream(BY_SESSION).start().await;
    let other = named(&after).upstream(BY_SESSION).start().await;
    for name in 0..60 {
        assert_eq!(server(&one, session(name)).await, server(&other, session(name)).await);
    }
}

#[tokio::test]
async fn a_seed_file_makes_another_choice_and_another_cookie() {
    let folder = tempfile::tempdir().expect("a folder");
    let seed = folder.path().join("seed");
    std::fs::write(&seed, "one\n").expect("a seed");
    let servers = servers(5).await;
    let plain = named(&servers).upstream(BY_SESSION).upstream(AFFINITY);
    let seeded = plain.clone().upstream(&format!("hash_seed_file = {seed:?}"));
    let (plain, seeded, same) = (plain.start().await, seeded.start().await, seeded.start().await);
    let mut moved = 0;
    for name in 0..40 {
        let (a, b) = (open(&plain, session(name)).await, open(&seeded, session(name)).await);
        let c = open(&same, session(name)).await;
        assert_eq!((b.server(), b.cookie()), (c.server(), c.cookie()));
        moved += usize::from(a.server() != b.server());
        assert_ne!(a.cookie(), b.cookie());
    }
    assert!(moved > 15, "{moved} of 40 moved, 32 were to be expected");
}

#[tokio::test]
async fn an_empty_seed_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let seed = folder.path().join("seed");
    std::fs::write(&seed, "\n").expect("a seed");
    let lines = format!("{BY_SESSION}\nhash_seed_file = {seed:?}");
    let (code, words) = Config::new("127.0.0.1:1").upstream(&lines).refused().await;
    assert!(code == Some(1) && words.contains("is empty"), "{code:?} {words}");
    std::fs::remove_file(&seed).expect("it was there");
    let (code, words) = Config::new("127.0.0.1:1").upstream(&lines).refused().await;
    assert!(code == Some(1) && words.contains("cannot read the hash seed"), "{code:?} {words}");
}

/// Asserts that the endpoint follows one value, and depends on it.
async fn assert_follows(edge: &Edge, what: &str, request: impl Fn(usize) -> Upgrade) {
    let mut seen = BTreeMap::<usize, usize>::new();
    for value in 0..24 {
        let chosen = server(edge, request(value)).await;
        for _ in 0..2 {
            assert_eq!(server(edge, request(value)).await, chosen, "{what} {value}");
        }
        *seen.entry(chosen).or_default() += 1;
    }
    assert!(seen.len() > 2, "{what}: {seen:?}");
}

#[tokio::test]
async fn every_source_of_a_key_keeps_its_clients_together() {
    let servers = servers(5).await;
    let by = async |key: &str| {
        let config = named(&servers).server("trusted_proxies = [\"127.0.0.0/8\"]");
        config.upstream(&format!("hash_key = [{key}]")).start().await
    };
    let to = |target: String| Upgrade::to(&target);
    let from = |client: String| Upgrade::to("/").add("X-Forwarded-For", &client);

    let edge = by("\"query:room\"").await;
    assert_follows(&edge, "query", |n| to(format!("/?room=&rooms=1&room=r{n}"))).await;
    let edge = by("\"header:x-room\"").await;
    assert_follows(&edge, "header", |n| Upgrade::to("/").add("X-Room", &n.to_string())).await;
    let edge = by("\"path\"").await;
    assert_follows(&edge, "path", |n| to(format!("/doc/{n}?{}", rand::random::<u32>()))).await;
    let edge = by("\"client-ip\"").await;
    assert_follows(&edge, "client", |n| from(format!("192.0.2.{n}"))).await;
    let edge = by("\"client-ip/24\"").await;
    let any = || u32::from(rand::random::<u8>());
    assert_follows(&edge, "network", |n| from(format!("192.0.{n}.{}", any()))).await;
    assert_follows(&edge, "IPv6 /64", |n| from(format!("2001:db8:0:{n}::{:x}", any()))).await;
    let edge = by("\"client-ip/48\"").await;
    assert_follows(&edge, "IPv6 /48", |n| from(format!("2001:db8:{n}:{:x}::1", any()))).await;
    // No token says a claim; what follows it decides.
    let edge = by("\"claim:sub\", \"cookie:session\", \"query:room\"").await;
    assert_follows(&edge, "cookie", session).await;
    assert_follows(&edge, "the next key", |n| to(format!("/?room={n}"))).await;
}

#[tokio::test]
async fn without_its_key_a_connection_goes_to_the_fewest() {
    let servers = servers(3).await;
    let edge = config(&servers).upstream(BY_SESSION).start().await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(open(&edge, Upgrade::to("/")).await);
    }
    assert_eq!(counts(&held), [4, 4, 4]);
}

/// How many connections each of three servers has.
fn counts(held: &[Open]) -> [usize; 3] {
    let of = |name: usize| held.iter().filter(|open| open.server() == name).count();
    [of(0), of(1), of(2)]
}

#[tokio::test]
async fn weights_share_connections() {
    let servers = servers(3).await;
    let weight = |name: usize| format!(", weight = {}", name + 1);
    for balance in ["least-connections", "round-robin"] {
        let config = config([]).endpoints(&endpoints(&servers, weight)).workers(2);
        let edge = config.upstream(&format!("balance = \"{balance}\"")).start().await;
        let mut held = Vec::new();
        for _ in 0..24 {
            held.push(open(&edge, Upgrade::to("/")).await);
        }
        assert_eq!(counts(&held), [4, 8, 12], "{balance}");
    }
    let weight = |name: usize| format!(", id = \"chat-{name}\", weight = {}", name + 1);
    let config = config([]).endpoints(&endpoints(&servers, weight));
    let edge = config.upstream(BY_SESSION).start().await;
    let mut seen = [0_usize; 3];
    for name in 0..300 {
        seen[server(&edge, session(name)).await] += 1;
    }
    // Four standard deviations about 50, 100 and 150.
    assert!(seen[0].abs_diff(50) < 26 && seen[2].abs_diff(150) < 35, "{seen:?}");
}

#[tokio::test]
async fn a_bounded_load_spreads_one_popular_key() {
    let servers = servers(3).await;
    let bounded = format!("{BY_SESSION}\nbounded_load = 1.25");
    let edge = config(&servers).upstream(&bounded).start().await;
    let mut held = Vec::new();
    for _ in 0..24 {
        held.push(open(&edge, session(1)).await);
    }
    let counts = counts(&held);
    // ⌈1.25 × 24 ÷ 3⌉ at the key's own endpoint.
    assert!(counts.iter().max() == Some(&10) && counts.iter().all(|it| *it <= 10), "{counts:?}");
}

#[tokio::test]
async fn a_burst_over_two_workers_never_goes_over_max_connections() {
    let servers = servers(2).await;
    let places = |name: usize| format!(", max_connections = {}", [7, 5][name]);
    for balance in ["hash_key = [\"path\"]", "balance = \"round-robin\"", ""] {
        let config = config([]).endpoints(&endpoints(&servers, places)).workers(2);
        let edge = config.upstream(balance).start().await;
        let mut asking = JoinSet::new();
        for _ in 0..60 {
            asking.spawn(ask(edge.plain, Upgrade::to("/")));
        }
        let mut answers = asking.join_all().await;
        let (mut held, refused): (Vec<Open>, Vec<Open>) =
            answers.drain(..).partition(|open| open.answer.status() == 101);
        assert_eq!(counts(&held), [7, 5, 0], "{balance}");
        for open in &refused {
            assert_eq!(open.answer.status(), 503);
            assert!(open.answer.header("retry-after").is_some());
        }
        let line = edge.refused().await;
        assert_eq!((&line["outcome"], &line["by"]), (&"no_endpoint".into(), &"upstream".into()));

        held.pop();
        soon("the place is free again", async {
            while ask(edge.plain, Upgrade::to("/")).await.answer.status() != 101 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_backup_is_used_only_while_no_primary_is() {
    let mut servers = servers(3).await;
    let backup = |name: usize| if name == 2 { ", backup = true".into() } else { String::new() };
    let edge = config([]).endpoints(&endpoints(&servers, backup)).start().await;
    for _ in 0..20 {
        assert!(server(&edge, Upgrade::to("/")).await < 2);
    }
    servers[0].stop().await;
    assert_eq!(server(&edge, Upgrade::to("/")).await, 1);
    servers[1].stop().await;
    assert_eq!(server(&edge, Upgrade::to("/")).await, 2);
    servers[1].restart().await;
    assert_eq!(server(&edge, Upgrade::to("/")).await, 1);
}

#[tokio::test]
async fn a_full_primary_lets_the_backup_in() {
    let servers = servers(2).await;
    let tables = |name: usize| [", max_connections = 2", ", backup = true"][name].to_owned();
    let edge = config([]).endpoints(&endpoints(&servers, tables)).start().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(open(&edge, Upgrade::to("/")).await);
    }
    assert_eq!(counts(&held), [2, 2, 0]);
}

#[tokio::test]
async fn the_keys_of_a_server_that_is_gone_move_and_come_home() {
    let mut servers = servers(4).await;
    // An ejected server gets its keys back only when that is over.
    let never = "passive = { failures = 1000 }";
    let edge = named(&servers).upstream(BY_SESSION).upstream(never).start().await;
    let mut homes = Vec::new();
    for name in 0..40 {
        homes.push(server(&edge, session(name)).await);
    }
    servers[1].stop().await;
    let mut moved = Vec::new();
    for (name, home) in homes.iter().enumerate() {
        let now = server(&edge, session(name)).await;
        assert!(if *home == 1 { now != 1 } else { now == *home }, "session {name}");
        moved.push(now);
    }
    // Each has a next of its own: they do not all go to one neighbour.
    let next: std::collections::BTreeSet<usize> =
        homes.iter().zip(&moved).filter(|(home, _)| **home == 1).map(|(_, now)| *now).collect();
    assert!(next.len() > 1, "{next:?}");
    servers[1].restart().await;
    for (name, home) in homes.iter().enumerate() {
        assert_eq!(server(&edge, session(name)).await, *home, "session {name}");
    }
}

#[tokio::test]
async fn when_nobody_listens_it_is_502() {
    let mut servers = servers(3).await;
    for server in &mut servers {
        server.stop().await;
    }
    let edge = config(&servers).upstream(BY_SESSION).start().await;
    assert_eq!(ask(edge.plain, session(1)).await.answer.status(), 502);
    assert_eq!(edge.refused().await["outcome"], "dial_failed");
}

#[tokio::test]
async fn an_affinity_cookie_is_set_once_and_brings_back() {
    let servers = servers(5).await;
    let config = config(&servers).upstream(AFFINITY).workers(2);
    let (edge, other) = (config.start().await, config.start().await);
    let mut seen = BTreeMap::<usize, String>::new();
    let mut held = Vec::new();
    for _ in 0..5 {
        let first = open(&edge, Upgrade::to("/")).await;
        assert_eq!(first.answer.all("set-cookie")[0], "app=1", "the server's own cookie stays");
        let cookie = first.cookie();
        for edge in [&edge, &other, &edge] {
            let request = Upgrade::to("/").add("Cookie", &format!("a=b; {cookie}"));
            let again = open(edge, request).await;
            assert_eq!((again.server(), again.affinity()), (first.server(), None));
            held.push(again);
        }
        assert!(!cookie.contains("127."), "it tells nothing: {cookie}");
        seen.insert(first.server(), cookie);
        held.push(first);
    }
    let cookies: std::collections::BTreeSet<&String> = seen.values().collect();
    assert_eq!(cookies.len(), seen.len(), "{seen:?}");
}

#[tokio::test]
async fn a_cookie_goes_before_the_key_and_a_bad_one_is_replaced() {
    let servers = servers(5).await;
    let edge = config(&servers).upstream(BY_SESSION).upstream(AFFINITY).start().await;
    let (one, other) = soon("two sessions on different servers", async {
        let one = open(&edge, session(0)).await;
        for name in 1.. {
            let other = open(&edge, session(name)).await;
            if other.server() != one.server() {
                return (one, (name, other));
            }
        }
        unreachable!("sessions do not end")
    })
    .await;
    let (name, other) = other;
    let with = |cookie: &str| Upgrade::to("/").add("Cookie", &format!("session=s{name}; {cookie}"));
    let led = open(&edge, with(&one.cookie())).await;
    assert_eq!((led.server(), led.affinity()), (one.server(), None));
    for bad in ["wsgate_affinity=", "wsgate_affinity=forged", "wsgate_affinity=../../etc"] {
        let replaced = open(&edge, with(bad)).await;
        assert_eq!(
            (replaced.server(), replaced.cookie()),
            (other.server(), other.cookie()),
            "{bad}"
        );
    }
    // The first that names an endpoint counts.
    let two = format!("wsgate_affinity=old; {}", one.cookie());
    let led = open(&edge, with(&two)).await;
    assert_eq!((led.server(), led.affinity()), (one.server(), None));
}

#[tokio::test]
async fn a_cookie_of_a_server_that_is_gone_or_full_is_replaced() {
    let mut servers = servers(2).await;
    let places = |_| ", max_connections = 2".to_owned();
    let edge = config([]).endpoints(&endpoints(&servers, places)).upstream(AFFINITY).start().await;
    let first = open(&edge, Upgrade::to("/")).await;
    let back = || Upgrade::to("/").add("Cookie", &first.cookie());
    let second = open(&edge, back()).await;
    assert_eq!((second.server(), second.affinity()), (first.server(), None));
    let third = open(&edge, back()).await;
    assert_ne!(third.server(), first.server(), "that server is full");
    assert_ne!(third.cookie(), first.cookie());

    servers[first.server()].stop().await;
    let elsewhere = open(&edge, back()).await;
    assert_eq!((elsewhere.server(), elsewhere.cookie()), (third.server(), third.cookie()));
}

#[tokio::test]
async fn the_attributes_of_a_cookie_are_those_of_the_file_and_of_the_connection() {
    let servers = servers(1).await;
    let config = config(&servers).server("trusted_proxies = [\"127.0.0.5/32\"]");
    for (same_site, attribute) in [("lax", "Lax"), ("strict", "Strict"), ("none", "None")] {
        let cookie = format!("affinity_cookie = {{ same_site = \"{same_site}\" }}");
        let edge = config.clone().upstream(&cookie).start().await;
        let plain = open(&edge, Upgrade::to("/").add("X-Forwarded-Proto", "https")).await;
        let attributes = format!("; Path=/; HttpOnly; SameSite={attribute}");
        let value = plain.cookie();
        assert_eq!(plain.affinity(), Some(&*format!("{value}{attributes}")), "a stranger's word");

        let answer = edge.connect().await.upgrade(Upgrade::to("/")).await;
        let over_tls = Open { answer, _peer: edge.connect().await };
        assert_eq!(over_tls.affinity(), Some(&*format!("{value}{attributes}; Secure")));
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_with_tls_a_cookie_is_secure() {
    let servers = servers(1).await;
    let config = config(&servers).server("trusted_proxies = [\"127.0.0.0/8\"]");
    let edge = config.upstream(AFFINITY).start().await;
    let told = async |proto: &str| {
        let open = open(&edge, Upgrade::to("/").add("X-Forwarded-Proto", proto)).await;
        open.affinity().is_some_and(|cookie| cookie.ends_with("; Secure"))
    };
    assert!(told("https").await);
    assert!(!told("http").await);
}

#[tokio::test]
async fn an_answer_that_is_no_101_sets_the_cookie_too() {
    let servers = servers(3).await;
    let edge = config(&servers).upstream(AFFINITY).start().await;
    let refused = ask(edge.plain, Upgrade::to("/refuse")).await;
    assert_eq!(refused.answer.status(), 403);
    let open = open(&edge, Upgrade::to("/").add("Cookie", &refused.cookie())).await;
    assert_eq!((open.server(), open.affinity()), (refused.server(), None));
}

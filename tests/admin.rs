//! The admin interface from outside: who may come, what is shown, who is sent away, and draining.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{
    Admin, Backend, Config, Edge, Frame, PATIENCE, Peer, Upgrade, naming_authorizer, open, open_as,
    run, soon, within, wsgate,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A folder with a token in it, and the lines that name it.
fn token() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("a token");
    let line = format!("token_file = {:?}", file.display());
    (folder, line)
}

fn admin(lines: &str) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"\n{lines}")
}

async fn start(backend: &Backend, lines: &str) -> (Edge, Admin) {
    let edge = Config::new(&backend.address).workers(2).more(&admin(lines)).start().await;
    let admin = edge.admin().await;
    (edge, admin)
}

// ---- who may come ----

#[tokio::test]
async fn reading_is_free_on_loopback_and_changing_needs_the_token() {
    let backend = Backend::tcp().await;
    let (folder, line) = token();
    let (_edge, admin) = start(&backend, &line).await;
    assert_eq!(admin.get("/api/v1/upstreams").await.status(), 200);
    let refused = admin.post("/api/v1/reload").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.all("www-authenticate").len(), 2);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(
        admin.with_token(&TOKEN.replace('f', "e")).post("/api/v1/reload").await.status(),
        401
    );
    assert_eq!(admin.with_token(TOKEN).post("/api/v1/reload").await.status(), 200);
    let other = "another token of an operator";
    std::fs::write(folder.path().join("token"), other.replace(' ', "-")).expect("a new token");
    assert_eq!(admin.with_token(TOKEN).post("/api/v1/reload").await.status(), 401);
    assert_eq!(
        admin.with_token(&other.replace(' ', "-")).post("/api/v1/reload").await.status(),
        200
    );
}

#[tokio::test]
async fn without_a_token_file_nothing_can_be_changed_over_tcp() {
    let backend = Backend::tcp().await;
    let (_edge, admin) = start(&backend, "").await;
    for target in ["/api/v1/reload", "/api/v1/drain", "/api/v1/kick?subject=ada"] {
        assert_eq!(admin.with_token(TOKEN).post(target).await.status(), 403, "{target}");
    }
    assert_eq!(admin.get("/readyz").await.status(), 200);
}

#[tokio::test]
async fn a_host_that_could_be_anybodys_and_a_foreign_page_are_refused() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let (_edge, admin) = start(&backend, &format!("{line}\nhosts = [\"Edge.internal\"]")).await;
    let call = |host: &str| admin.with("Host", host);
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9090"] {
        assert_eq!(call(host).get("/api/v1/upstreams").await.status(), 403, "{host}");
    }
    for host in ["127.0.0.1:9", "[::1]", "localhost", "edge.internal"] {
        assert_eq!(call(host).get("/api/v1/upstreams").await.status(), 200, "{host}");
    }
    let page = |origin: &str| admin.with_token(TOKEN).with("Origin", origin);
    for origin in ["https://evil.example", "null", "http://localhost:1"] {
        assert_eq!(page(origin).post("/api/v1/reload").await.status(), 403, "{origin}");
    }
    assert_eq!(page("http://localhost").post("/api/v1/reload").await.status(), 200);
}

#[tokio::test]
async fn probes_have_three_pages_for_anybody() {
    let backend = Backend::tcp().await;
    let (edge, _admin) = start(&backend, "").await;
    let probes = edge.probes().await.with("Host", "anything.example");
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(probes.get(target).await.status(), 200, "{target}");
    }
    for target in ["/", "/api/v1/config", "/api/v1/upstreams", "/api/v1/connections"] {
        assert_eq!(probes.get(target).await.status(), 404, "{target}");
    }
    assert_eq!(probes.post("/api/v1/drain").await.status(), 404);
}

#[tokio::test]
async fn a_unix_socket_is_guarded_by_its_mode_and_a_stale_one_is_replaced() {
    let backend = Backend::tcp().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wsgate.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody listens on"));
    let lines = format!("[admin]\nlisten = \"unix:{}\"", path.display());
    let config = Config::new(&backend.address).more(&lines);
    let mut edge = config.start().await;
    let admin = edge.admin().await;
    assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(admin.post("/api/v1/reload").await.status(), 200);
    let (code, words) = config.refused().await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("another process listens on unix:"), "{words}");
    edge.signal(Signal::TERM);
    edge.exit(PATIENCE).await;
    assert!(!path.exists(), "the socket's file goes with the process");
    std::fs::write(&path, "no socket").expect("a file");
    let (code, words) = config.refused().await;
    assert_eq!((code, words.contains("is no socket")), (Some(1), true), "{words}");
}

#[tokio::test]
async fn requests_are_bounded_in_size_and_time_and_number() {
    let backend = Backend::tcp().await;
    let (edge, admin) = start(&backend, "").await;
    let long = format!("/api/v1/connections?route={}", "x".repeat(20_000));
    assert_eq!(admin.get(&long).await.status(), 431);
    let body = admin.with("Content-Length", "9000000").get("/metrics").await;
    assert_eq!(body.status(), 413);
    // A hundred that say nothing do not shut out one that does.
    let address: SocketAddr = admin.address.parse().expect("an address");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    assert_eq!(admin.get("/healthz").await.status(), 200);
    // And those that stay are let go of when their time is up.
    let mut last = silent.pop().expect("the last");
    last.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.expect("it still stands");
    let mut answer = Vec::new();
    let read = soon("the head's time is up", last.read_to_end(&mut answer)).await;
    assert!(read.is_err() || answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    drop(edge);
}

#[tokio::test]
async fn it_answers_when_the_clients_have_taken_every_descriptor() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).descriptors(80).more(&admin(""));
    let edge = config.start().await;
    let probes = edge.probes().await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(TcpStream::connect(edge.plain).await.expect("the kernel's queue has room"));
    }
    edge.wait_for_log(|line| {
        line["message"].as_str().is_some_and(|it| it.starts_with("accepting rests"))
    })
    .await;
    for _ in 0..5 {
        assert_eq!(probes.get("/healthz").await.status(), 200);
        let metrics = probes.metrics().await;
        assert!(metrics["wsgate_accept_errors_total"] > 0.0);
        assert!(metrics["process_open_fds"] > 70.0);
    }
}

#[tokio::test]
async fn paths_and_methods_that_there_are_not() {
    let backend = Backend::tcp().await;
    let (_edge, admin) = start(&backend, "").await;
    assert_eq!(admin.get("/api/v2/config").await.status(), 404);
    let wrong = admin.ask("PUT", "/metrics").await;
    // A change comes first before who may do it.
    assert_eq!(wrong.status(), 403);
    assert_eq!(admin.get("/api/v1/reload").await.header("allow"), Some("POST"));
    let head = admin.ask("HEAD", "/metrics").await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert_eq!(admin.get("/api/v1/connections?subjekt=ada").await.status(), 400);
}

// ---- connections ----

async fn with_subjects(backend: &Backend, lines: &str) -> (Edge, Admin) {
    let authorize = format!(
        "origin = \"any\"\nauthorize = {{ url = \"http://{}/\", subject = \"x-user-id\" }}",
        naming_authorizer().await
    );
    let config = Config::new(&backend.address).workers(2).route(&authorize);
    let edge = config.more(&admin(lines)).start().await;
    let admin = edge.admin().await.with_token(TOKEN);
    (edge, admin)
}

async fn open_for(edge: &Edge, backend: &Backend, user: &str) -> (Peer, Peer) {
    open_as(edge, backend, Upgrade::to("/").add("x-user", user), "").await
}

async fn listed(admin: &Admin, query: &str) -> (Vec<Value>, Option<String>) {
    let answer = admin.get(&format!("/api/v1/connections?{query}")).await;
    assert_eq!(answer.status(), 200, "{query}");
    let json = answer.json();
    let next = json["next"].as_str().map(str::to_owned);
    (json["connections"].as_array().expect("a list").clone(), next)
}

#[tokio::test]
async fn connections_are_listed_page_by_page() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let (edge, admin) = with_subjects(&backend, &line).await;
    let mut pairs = Vec::new();
    for index in 0..7 {
        pairs.push(open_for(&edge, &backend, if index % 2 == 0 { "ada" } else { "bob" }).await);
    }
    let all = within(PATIENCE, "all stand", async {
        loop {
            let (all, _) = listed(&admin, "").await;
            if all.len() == 7 {
                return all;
            }
        }
    })
    .await;
    let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 7);
    assert!(ids.iter().any(|id| id.starts_with("0-")) && ids.iter().any(|id| id.starts_with("1-")));
    assert_eq!(all[0]["route"], "app");
    assert_eq!(all[0]["endpoint"], backend.address.as_str());
    assert_eq!(all[0]["client"], "127.0.0.1");
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let (page, next) = listed(&admin, &format!("limit=2{after}")).await;
        assert!(page.len() <= 2);
        paged.extend(page.iter().map(|one| one["id"].as_str().expect("an id").to_owned()));
        let Some(next) = next else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, ids);
    assert_eq!(listed(&admin, "subject=ada").await.0.len(), 4);
    assert_eq!(listed(&admin, "subject=ad").await.0.len(), 0);
    assert_eq!(listed(&admin, "route=app&subject=bob").await.0.len(), 3);
    assert_eq!(listed(&admin, "route=other").await.0.len(), 0);
    assert_eq!(listed(&admin, &format!("endpoint={}", backend.address)).await.0.len(), 7);
}

#[tokio::test]
async fn one_connection_is_ended_with_the_operators_words() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let (edge, admin) = start(&backend, &line).await;
    let admin = admin.with_token(TOKEN);
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let (mut other, mut other_upstream) = open(&edge, &backend).await;
    let first = edge.wait_for_log(|line| line["message"] == "tunnel opened").await;
    let id = first["id"].as_str().expect("an id");
    let target = format!("/api/v1/connections/{id}?code=4010&reason=too%20loud");
    assert_eq!(admin.ask("DELETE", &target).await.json()["kicked"], 1);
    let close = soon("a Close", client.frame()).await;
    assert_eq!(close.closing().code, Some(4010));
    assert_eq!(close.closing().reason, "too loud");
    client.writer.answer(close).await;
    let away = upstream.frame().await;
    assert_eq!((away.closing().code, away.closing().reason.as_str()), (Some(1001), ""));
    upstream.writer.answer(away).await;
    let line = edge.assert_ended("kicked", "edge").await;
    assert_eq!(line["code"], 4010);
    assert_eq!(admin.ask("DELETE", &target).await.status(), 404);
    assert_eq!(admin.ask("DELETE", "/api/v1/connections/7-0-0").await.status(), 404);
    other.send_frame(Frame::text("still here")).await;
    assert_eq!(other_upstream.frame().await.payload, b"still here");
}

#[tokio::test]
async fn a_subject_is_sent_away_everywhere_and_kept_out_for_a_while() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let (edge, admin) = with_subjects(&backend, &line).await;
    let (mut ada, mut others) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        ada.push(open_for(&edge, &backend, "ada").await);
        others.push(open_for(&edge, &backend, "bob").await);
    }
    let kicked = admin.post("/api/v1/kick?subject=ada&for=2s&reason=enough").await;
    assert_eq!((kicked.status(), &kicked.json()["kicked"]), (200, &Value::from(6)));
    for (client, _upstream) in &mut ada {
        let close = soon("a Close", client.frame()).await.closing();
        assert_eq!((close.code, close.reason.as_str()), (Some(1008), "enough"));
    }
    let mut refused = edge.connect_plain().await;
    let answer = refused.ask(Upgrade::to("/").add("x-user", "ada")).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(edge.refused().await["outcome"], "kicked");
    for (client, upstream) in &mut others {
        client.send_frame(Frame::text("still here")).await;
        assert_eq!(upstream.frame().await.payload, b"still here");
    }
    within(PATIENCE, "the subject may come again", async {
        loop {
            let mut client = edge.connect_plain().await;
            client.send(&Upgrade::to("/").add("x-user", "ada").bytes()).await;
            let upstream = tokio::time::timeout(Duration::from_millis(200), backend.accept()).await;
            if let Ok(upstream) = upstream {
                upstream.upgrade("").await;
                return;
            }
        }
    })
    .await;
}

// ---- upstreams, configuration ----

#[tokio::test]
async fn an_endpoint_is_drained_and_taken_back() {
    let (one, two) = (Backend::tcp().await, Backend::tcp().await);
    let (_folder, line) = token();
    let config = Config::new(&one.address)
        .endpoints(&format!("[{:?}, {:?}]", one.address, two.address))
        .upstream("balance = \"round-robin\"");
    let edge = config.more(&admin(&line)).start().await;
    let admin = edge.admin().await.with_token(TOKEN);
    let target = |verb| format!("/api/v1/upstreams/app/endpoints/{}/{verb}", one.address);
    let (mut client, mut upstream) = (None, None);
    for _ in 0..2 {
        let mut opened = edge.connect_plain().await;
        opened.send(&Upgrade::to("/").bytes()).await;
        tokio::select! {
            request = one.accept() => {
                upstream = Some(request.upgrade("").await);
                client = Some(opened);
            }
            request = two.accept() => drop(request.upgrade("").await),
        }
    }
    assert_eq!(admin.post(&target("drain")).await.json()["drained"], true);
    for _ in 0..4 {
        let mut next = edge.connect_plain().await;
        next.send(&Upgrade::to("/").bytes()).await;
        soon("the other endpoint", two.accept()).await.upgrade("").await;
    }
    let shown = admin.get("/api/v1/upstreams").await.json();
    let endpoints = shown["upstreams"][0]["endpoints"].as_array().expect("a list");
    let standing = |it: &Backend| {
        let own = endpoints.iter().find(|one| one["address"] == it.address.as_str());
        own.expect("the endpoint")["standing"].clone()
    };
    assert_eq!((standing(&one), standing(&two)), ("drained".into(), "usable".into()));
    let (mut client, mut upstream) = (client.expect("a client"), upstream.expect("of the first"));
    client.reader.head().await;
    client.send_frame(Frame::text("still here")).await;
    assert_eq!(upstream.frame().await.payload, b"still here");
    assert_eq!(admin.post(&target("undrain")).await.json()["drained"], false);
    let reached = async {
        loop {
            let mut next = edge.connect_plain().await;
            next.send(&Upgrade::to("/").bytes()).await;
            tokio::select! {
                request = one.accept() => return drop(request.upgrade("").await),
                request = two.accept() => drop(request.upgrade("").await),
            }
        }
    };
    within(PATIENCE, "the endpoint is used again", reached).await;
    let missing = "/api/v1/upstreams/app/endpoints/127.0.0.1:1/drain";
    assert_eq!(admin.post(missing).await.status(), 404);
    assert_eq!(admin.post("/api/v1/upstreams/x/endpoints/y/drain").await.status(), 404);
}

#[tokio::test]
async fn a_reload_is_answered_when_it_is_live_or_with_its_diagnostics() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let config = Config::new(&backend.address)
        .route("request_headers.set = { authorization = \"Basic c2VjcmV0\" }");
    let config = config.more(&admin(&line));
    let edge = config.start().await;
    let admin = edge.admin().await.with_token(TOKEN);
    let same = admin.post("/api/v1/reload").await;
    assert_eq!((same.status(), same.json()["changed"].clone()), (200, false.into()));

    std::fs::write(edge.file(), config.text().replace("[[route]]", "[[rout]]")).expect("a fault");
    let faulty = admin.post("/api/v1/reload").await;
    assert_eq!(faulty.status(), 422);
    let detail = faulty.json()["detail"].as_str().expect("the diagnostics").to_owned();
    assert!(detail.contains("unknown key `rout`"), "{detail}");
    let shown = admin.get("/api/v1/config").await.json();
    assert!(
        shown["failed"].as_str().is_some_and(|it| it.contains("unknown key `rout`")),
        "{shown}"
    );
    assert_eq!(shown["generation"], 1);
    assert_eq!(shown["config"]["route"][0]["name"], "app");
    assert!(!shown.to_string().contains("c2VjcmV0"), "{shown}");

    let text = config.clone().route("timeouts.idle = \"1h\"").text();
    std::fs::write(edge.file(), text).expect("a good file");
    let good = admin.post("/api/v1/reload").await;
    assert_eq!((good.status(), good.json()["generation"].clone()), (200, 2.into()));
    let shown = admin.get("/api/v1/config").await.json();
    assert_eq!(
        (&shown["failed"], &shown["config"]["route"][0]["timeouts"]["idle"]),
        (&Value::Null, &"1h".into())
    );
    let metrics = admin.metrics().await;
    assert_eq!(metrics["wsgate_reloads_total{outcome=\"failed\"}"], 1.0);
    assert_eq!(metrics["wsgate_reloads_total{outcome=\"ok\"}"], 1.0);
}

// ---- draining ----

fn draining(backend: &Backend, line: &str) -> Config {
    let drain = "drain = { delay = \"0s\", window = \"100ms\", timeout = \"20s\" }";
    Config::new(&backend.address).workers(2).server(drain).more(&admin(line))
}

#[tokio::test]
async fn a_drain_ends_every_socket_and_keeps_the_process_until_a_signal() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let mut edge = draining(&backend, &line).start().await;
    let admin = edge.admin().await.with_token(TOKEN);
    let mut pairs = [open(&edge, &backend).await, open(&edge, &backend).await];
    let begun = admin.post("/api/v1/drain").await;
    assert_eq!((begun.status(), begun.json()["connections"].clone()), (202, 2.into()));
    assert_eq!(admin.get("/readyz").await.status(), 503);
    assert_eq!(admin.get("/healthz").await.status(), 200);
    for (client, upstream) in &mut pairs {
        let close = soon("a Close", client.frame()).await;
        assert_eq!(close.closing().code, Some(1012));
        client.writer.answer(close).await;
        let away = upstream.frame().await;
        upstream.writer.answer(away).await;
        client.hang_up().await;
        upstream.hang_up().await;
    }
    within(PATIENCE, "nobody is left", async {
        while admin.post("/api/v1/drain").await.json()["connections"] != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(edge.is_running());
    assert!(TcpStream::connect(edge.plain).await.is_err(), "nothing listens any more");
    assert_eq!(admin.metrics().await["wsgate_draining"], 1.0);
    edge.signal(Signal::TERM);
    assert!(edge.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_signal_continues_a_drain_begun_and_a_second_one_cuts() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let mut edge = draining(&backend, &line).close("15s").start().await;
    let admin = edge.admin().await.with_token(TOKEN);
    let (mut client, _upstream) = open(&edge, &backend).await;
    admin.post("/api/v1/drain").await;
    assert_eq!(soon("a Close", client.frame()).await.closing().code, Some(1012));
    edge.signal(Signal::TERM);
    // It goes on: the client has not answered.
    let goes_on = "stopping when the drain is over; a second signal cuts at once";
    edge.wait_for_log(|line| line["message"] == goes_on).await;
    assert_eq!(admin.get("/healthz").await.status(), 200);
    assert!(edge.is_running());
    edge.signal(Signal::TERM);
    assert!(edge.exit(Duration::from_secs(10)).await.success());
    edge.assert_ended("drain", "edge").await;
}

#[tokio::test]
async fn the_command_drains_and_waits() {
    let backend = Backend::tcp().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wsgate.sock");
    let lines = format!("[admin]\nlisten = \"unix:{}\"", path.display());
    let drains = "drain = { delay = \"0s\", window = \"100ms\", timeout = \"20s\" }";
    let config = Config::new(&backend.address).server(drains).more(&lines);
    let mut edge = config.start().await;
    edge.admin().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let file = edge.file();
    let waiting = tokio::task::spawn_blocking(move || {
        wsgate(&["drain", "--wait", "--config", &file.display().to_string()]).output()
    });
    let close = soon("a Close", client.frame()).await;
    assert_eq!(close.closing().code, Some(1012));
    assert!(!waiting.is_finished());
    client.writer.answer(close).await;
    let away = upstream.frame().await;
    upstream.writer.answer(away).await;
    client.hang_up().await;
    upstream.hang_up().await;
    let said = soon("the command ends", waiting).await.expect("no panic").expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(edge.is_running());
    edge.signal(Signal::TERM);
    assert!(edge.exit(PATIENCE).await.success());
    let admin = format!("unix:{}", path.display());
    let ended = run(&["drain", "--admin", &admin]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("nobody answers at unix:"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_command_shows_the_token_and_says_what_is_wrong() {
    let backend = Backend::tcp().await;
    let (folder, line) = token();
    let edge = draining(&backend, &line).start().await;
    let address = edge.admin().await.address;
    let token = folder.path().join("token").display().to_string();
    let refused = run(&["drain", "--admin", &address]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
    let begun = run(&["drain", "--admin", &address, "--token-file", &token]).await;
    assert_eq!(begun.code, Some(0), "{}", begun.stderr);
    let missing = run(&["drain"]).await;
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(Path::new(&token).exists());
}

//! The dashboard: what its stream says, who may look and for how long, and the page in a browser
//! under load.
//!
//! The browser is Chromium, headless, driven by `tests/peers/dashboard.js`; where it or Node's `ws`
//! is missing, that test is skipped aloud.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{
    Admin, Backend, Config, Edge, Frame, PATIENCE, Program, Upgrade, chromium, has_packages,
    naming_authorizer, node, open, open_as, relay, skip, soon, within,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HOSTILE: &str = "<img src=x onerror=\"pwned=1\"></script>";
/// Those who may look at the same time.
const MOST: usize = 8;

fn admin(lines: &str) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"\n{lines}")
}

async fn start(backend: &Backend, lines: &str) -> (Edge, Admin) {
    let edge = Config::new(&backend.address).workers(2).more(&admin(lines)).start().await;
    let admin = edge.admin().await;
    (edge, admin)
}

/// The stream of events, as it comes.
struct Events {
    socket: TcpStream,
    text: String,
}

impl Events {
    /// In HTTP/1.0, so that the body is not in chunks.
    const REQUEST: &[u8] = b"GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n";

    async fn open(admin: &Admin) -> Events {
        let mut socket = TcpStream::connect(&admin.address).await.expect("the admin's port");
        socket.write_all(Events::REQUEST).await.expect("a request");
        let mut events = Events { socket, text: String::new() };
        let head = events.until("\r\n\r\n").await.expect("a head");
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        events
    }

    /// What comes before `mark`; `None` where the stream ends before.
    async fn until(&mut self, mark: &str) -> Option<String> {
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some((before, after)) = self.text.split_once(mark) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.text = after;
                return Some(before);
            }
            let read = soon("something of the stream", self.socket.read(&mut chunk)).await;
            match read {
                Ok(size @ 1..) => self.text += std::str::from_utf8(&chunk[..size]).expect("UTF-8"),
                _ => return None,
            }
        }
    }

    async fn next(&mut self) -> Option<(String, Value)> {
        let event = self.until("\n\n").await?;
        let (name, data) = event.split_once('\n').expect("two fields");
        let name = name.strip_prefix("event: ").expect("a name");
        let data = data.strip_prefix("data: ").expect("data");
        Some((name.to_owned(), serde_json::from_str(data).expect("JSON")))
    }

    /// The next state that fits.
    async fn state(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        within(2 * PATIENCE, what, async {
            loop {
                match self.next().await.expect("the stream goes on") {
                    (name, state) if name == "state" && fits(&state) => return state,
                    _ => {}
                }
            }
        })
        .await
    }
}

// ---- the page ----

#[tokio::test]
async fn the_page_loads_from_here_alone_and_nobody_frames_it() {
    let backend = Backend::tcp().await;
    let (edge, admin) = start(&backend, "").await;
    let files = [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
    ];
    for (target, kind) in files {
        let file = admin.get(target).await;
        assert_eq!((file.status(), file.header("content-type")), (200, Some(kind)), "{target}");
        let policy = file.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(file.header("x-frame-options"), Some("DENY"));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let text = String::from_utf8(file.body).expect("UTF-8").replace("http://www.w3.org/", "");
        for outside in ["http://", "https://", "innerHTML", "document.write", "eval("] {
            assert!(!text.contains(outside), "{target} has {outside}");
        }
        assert_eq!(admin.post(target).await.status(), 403, "{target}");
        assert_eq!(edge.probes().await.get(target).await.status(), 404, "{target}");
    }
}

#[tokio::test]
async fn a_foreign_page_or_name_gets_nothing() {
    let backend = Backend::tcp().await;
    let (_edge, admin) = start(&backend, "").await;
    for target in ["/", "/dashboard.js", "/dashboard.css", "/api/v1/events", "/metrics"] {
        let rebound = admin.with("Host", "rebound.example").get(target).await;
        assert_eq!(rebound.status(), 403, "{target}");
        for site in ["cross-site", "same-site"] {
            let foreign = admin.with("Sec-Fetch-Site", site).with("Sec-Fetch-Mode", "no-cors");
            assert_eq!(foreign.get(target).await.status(), 403, "{target} {site}");
        }
    }
    let link = admin.with("Sec-Fetch-Site", "cross-site").with("Sec-Fetch-Mode", "navigate");
    assert_eq!(link.with("Sec-Fetch-Dest", "iframe").get("/").await.status(), 403);
    assert_eq!(link.with("Sec-Fetch-Dest", "document").get("/").await.status(), 200);
    let oversized = admin.with("Content-Length", "1000000").get("/api/v1/events").await;
    assert_eq!(oversized.status(), 413);
}

#[tokio::test]
async fn it_says_whether_anything_can_be_changed() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    for (line, changes) in [("", "off"), (&*line, "token")] {
        let (_edge, admin) = start(&backend, line).await;
        let (name, hello) = Events::open(&admin).await.next().await.expect("a greeting");
        assert_eq!((&*name, &hello["changes"]), ("hello", &Value::from(changes)));
    }
}

#[tokio::test]
async fn a_script_that_shows_no_token_makes_no_browser_ask_for_a_password() {
    let backend = Backend::tcp().await;
    let (_folder, line) = token();
    let (_edge, admin) = start(&backend, &line).await;
    let script = admin.with("Sec-Fetch-Dest", "empty").with("Sec-Fetch-Site", "same-origin");
    let refused = script.post("/api/v1/kick?subject=ada").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.all("www-authenticate"), ["Bearer realm=\"wsgate\""]);
}

/// A folder with a token in it, and the line that names it.
fn token() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("a token");
    let line = format!("token_file = {:?}", file.display());
    (folder, line)
}

// ---- the stream ----

/// The samples of a family, summed by one label.
fn summed(metrics: &BTreeMap<String, f64>, family: &str, label: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (series, value) in metrics {
        let Some((name, labels)) = series.split_once('{') else { continue };
        if name == family {
            let start = format!("{label}=\"");
            let (_, rest) = labels.split_once(&start).expect("the label");
            *all.entry(rest.split('"').next().unwrap_or_default().to_owned()).or_default() += value;
        }
    }
    all
}

#[tokio::test]
async fn its_figures_are_those_of_the_metrics() {
    let backend = Backend::tcp().await;
    let (edge, admin) = start(&backend, "").await;
    let mut events = Events::open(&admin).await;
    let mut pairs = Vec::new();
    for _ in 0..5 {
        pairs.push(open(&edge, &backend).await);
    }
    for (client, upstream) in &mut pairs {
        relay(client, upstream, "hello").await;
    }
    let (mut client, mut upstream) = pairs.pop().expect("the last");
    client.send_frame(Frame::close(1000, "")).await;
    let close = upstream.frame().await;
    upstream.writer.answer(close).await;
    let mut evil = edge.connect_plain().await;
    let foreign = Upgrade::to("/").add("Origin", "https://evil.example");
    assert_eq!(evil.ask(foreign).await.status(), 403);
    edge.ended().await;

    let settled = |state: &Value| {
        let route = named(&state["routes"], "app");
        route["connections"] == 4 && route["handshakes"]["origin"] == 1
    };
    let state = events.state("all that happened", settled).await;
    let metrics = admin.metrics().await;
    let route = named(&state["routes"], "app");
    for (what, family) in [("messages", "wsgate_messages_total"), ("bytes", "wsgate_bytes_total")] {
        let ways = summed(&metrics, family, "direction");
        let shown = [&route[what][0], &route[what][1]].map(|way| way.as_f64().expect("a number"));
        assert_eq!(shown, [ways["upstream"], ways["downstream"]], "{what}");
        assert_eq!(shown[0], if what == "bytes" { 25.0 } else { 5.0 });
    }
    let outcomes = summed(&metrics, "wsgate_handshakes_total", "outcome");
    assert_eq!(route["handshakes"]["ok"].as_f64(), Some(outcomes["ok"]));
    assert_eq!(route["handshakes"]["origin"].as_f64(), Some(outcomes["origin"]));
    assert_eq!(route["endings"], serde_json::json!([["client_close", "client", 1]]));
    let endpoint = &state["upstreams"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], backend.address.as_str());
    assert_eq!((&endpoint["connections"], &endpoint["standing"]), (&4.into(), &"usable".into()));
    assert_eq!(state["config"]["generation"], 1);
    assert_eq!(state["draining"], false);
    assert!(state["cpu_s"].as_f64().expect("a time") > 0.0 && state["memory"].is_u64());
}

fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    let list = list.as_array().expect("a list");
    list.iter().find(|one| one["name"] == name).expect("one of this name")
}

#[tokio::test]
async fn the_loudest_the_slowest_and_those_who_do_not_read_stand_out() {
    let backend = Backend::tcp().await;
    let route = format!(
        "origin = \"any\"\nauthorize = {{ url = \"http://{}/\", subject = \"x-user-id\" }}",
        naming_authorizer().await
    );
    let config = Config::new(&backend.address).workers(2).route(&route).more(&admin(""));
    let edge = config.heartbeat("heartbeat.interval = \"200ms\"").start().await;
    let mut events = Events::open(&edge.admin().await).await;
    let user = |user: &str| open_as(&edge, &backend, Upgrade::to("/").add("x-user", user), "");
    let mut pairs = Vec::new();
    for _ in 0..30 {
        pairs.push(user("quiet").await);
    }
    let (mut loud, mut loud_upstream) = user(HOSTILE).await;
    let (_deaf, mut deaf_upstream) = user("deaf").await;
    let loud = tokio::spawn(async move {
        loop {
            // The edge's pings stand unanswered between what is looked for here.
            loud.send_frame(Frame::text(&"x".repeat(2000))).await;
            while loud_upstream.frame().await.payload.len() != 2000 {}
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let flood = tokio::spawn(async move {
        for _ in 0..400 {
            deaf_upstream.send_frame(Frame::text(&"y".repeat(60_000))).await;
        }
        std::future::pending::<()>().await;
    });
    let subject = |state: &Value, by: &str| state["top"][by][0]["subject"].clone();
    let stand_out =
        |state: &Value| subject(state, "loudest") == HOSTILE && subject(state, "fullest") == "deaf";
    let state = events.state("who stands out", stand_out).await;
    let loudest = &state["top"]["loudest"][0];
    assert!(loudest["bytes_per_s"].as_f64().expect("a rate") > 2000.0, "{loudest}");
    assert!(state["top"]["fullest"][0]["waiting"].as_u64().expect("bytes") > 10_000);
    assert!(state["top"]["loudest"].as_array().expect("a list").len() <= 10);
    loud.abort();
    flood.abort();
}

#[tokio::test]
async fn only_so_many_may_look_and_who_says_nothing_shuts_nobody_out() {
    let backend = Backend::tcp().await;
    let (_edge, admin) = start(&backend, "").await;
    let mut streams = Vec::new();
    for _ in 0..MOST {
        streams.push(Events::open(&admin).await);
    }
    let refused = admin.get("/api/v1/events").await;
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("5")));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&admin.address).await.expect("a connection"));
    }
    for stream in &mut streams {
        stream.state("the stream goes on", |_| true).await;
        stream.state("and on", |_| true).await;
    }
    streams.pop();
    within(PATIENCE, "the place of one who left is free", async {
        let mut again = TcpStream::connect(&admin.address).await.expect("a connection");
        loop {
            again.write_all(Events::REQUEST).await.expect("a request");
            let mut head = [0; 15];
            again.read_exact(&mut head).await.expect("an answer");
            if head.starts_with(b"HTTP/1.0 200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            again = TcpStream::connect(&admin.address).await.expect("a connection");
        }
    })
    .await;
}

#[tokio::test]
async fn who_looks_and_takes_nothing_is_dropped_and_costs_no_memory() {
    let backend = Backend::tcp().await;
    // Many routes make an event large.
    let routes: String = (0..300)
        .map(|n| format!("[[route]]\nname = \"route-{n}\"\npath = \"/{n}\"\nupstream = \"app\"\n"))
        .collect();
    let config = Config::new(&backend.address).more(&routes).more(&admin(""));
    let edge = config.start().await;
    let admin = edge.admin().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let mut good = Events::open(&admin).await;
    good.state("a first state", |_| true).await;
    let before = edge.resident();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address: SocketAddr = admin.address.parse().expect("an address");
    let mut stuck = socket.connect(address).await.expect("a connection");
    stuck.write_all(Events::REQUEST).await.expect("a request");
    let dropped = |line: &Value| line["message"] == "an admin connection took too long";
    within(3 * PATIENCE, "it is dropped", async {
        while edge.logged(dropped).is_empty() {
            good.state("the others go on", |_| true).await;
            relay(&mut client, &mut upstream, "and so does the traffic").await;
        }
    })
    .await;
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
}

#[tokio::test]
async fn a_drain_can_be_watched_and_the_stream_ends_with_the_process() {
    let backend = Backend::tcp().await;
    let drain = "drain = { delay = \"0s\", window = \"100ms\", timeout = \"20s\" }";
    let config = Config::new(&backend.address).server(drain).more(&admin(""));
    let mut edge = config.close("4s").start().await;
    let admin = edge.admin().await;
    let mut events = Events::open(&admin).await;
    let (_client, _upstream) = open(&edge, &backend).await;
    events.state("one is here", |state| named(&state["routes"], "app")["connections"] == 1).await;
    edge.signal(Signal::TERM);
    let state = events.state("it drains", |state| state["draining"] == true).await;
    assert_eq!(named(&state["routes"], "app")["connections"], 1);
    soon("the stream ends", async { while events.next().await.is_some() {} }).await;
    assert!(edge.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn why_the_last_reload_failed_is_shown_until_one_succeeds() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).more(&admin(""));
    let edge = config.start().await;
    let mut events = Events::open(&edge.admin().await).await;
    edge.rewrite(&config.text().replace("[[route]]", "[[rout]]"));
    edge.signal(Signal::HUP);
    let failed = |state: &Value| state["config"]["failed"].is_string();
    let state = events.state("the failure", failed).await;
    let words = state["config"]["failed"].as_str().expect("words");
    assert!(words.contains("unknown key `rout`"), "{words}");
    edge.rewrite(&config.text());
    edge.signal(Signal::HUP);
    events.state("all is well again", |state| state["config"]["failed"].is_null()).await;
}

// ---- the browser ----

#[tokio::test]
async fn a_browser_shows_it_under_load_acts_on_it_and_survives_a_restart() {
    if let Some(missing) = missing() {
        return skip(&format!("the dashboard in a browser: no {missing}"));
    }
    let server = Program::start(&mut node(&peers(), "server.js"));
    let port = server.says("\n").await;
    let (_folder, line) = token();
    let listen = free_address();
    let route = format!(
        "origin = \"any\"\nauthorize = {{ url = \"http://{}/\", subject = \"x-user-id\" }}",
        naming_authorizer().await
    );
    let config = Config::new(&format!("127.0.0.1:{}", port.trim()))
        .workers(2)
        .route(&route)
        .heartbeat("heartbeat.interval = \"300ms\"")
        .more(&format!("[admin]\nlisten = \"{listen}\"\n{line}"));
    let edge = config.start().await;

    let profile = tempfile::tempdir().expect("a folder for the browser");
    let browser = Program::start(&mut chromium(profile.path()));
    let words = browser.complains("/devtools/browser/").await;
    let (_, devtools) = words.split_once("DevTools listening on ").expect("an address");
    let devtools = devtools.lines().next().expect("an address");
    let script = Program::start(node(&peers(), "dashboard.js").args([
        devtools,
        &format!("http://{listen}/"),
        &format!("ws://{}/", edge.plain),
        TOKEN,
    ]));
    let browsing = Duration::from_secs(120);
    script.says_within(browsing, "restart it").await;
    drop(edge);
    script.says_within(browsing, "lost it").await;
    let again = config.start().await;
    let seen = script.ended(browsing).await;
    assert_eq!(seen.code, Some(0), "{}{}", seen.stdout, seen.stderr);
    assert!(browser.ended(PATIENCE).await.code.is_some());
    drop(again);
}

/// A port of an address that no other test uses, to be bound a second time.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.66.1:0").expect("a port");
    listener.local_addr().expect("it is bound")
}

/// What the browser's test wants and this machine has not.
fn missing() -> Option<&'static str> {
    let installed = |program: &str| Command::new(program).arg("--version").output().is_ok();
    match () {
        () if !installed("chromium") => Some("chromium"),
        () if !has_packages(&["ws"]) => Some("node with ws: run `npm ci` in examples"),
        () => None,
    }
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

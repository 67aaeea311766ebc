//! The demo as a newcomer meets it: one command in an empty folder, then a browser.
//!
//! The browser is Chromium, headless, driven by `tests/peers/demo.js`; where it or Node's `ws` is
//! missing, that test is skipped aloud.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    PATIENCE, Peer, Program, Upgrade, chromium, connect_tls, has_packages, node, skip, soon, wsgate,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The browser's part, every step of it within a deadline of its own.
const BROWSING: Duration = Duration::from_secs(90);
/// A port that the demo would like to have, and what it says when another program has it.
const PORTS: [(u16, &str); 2] =
    [(8443, "port 8443 is taken by another program"), (8080, "port 8080 is taken by another")];

/// A demo that runs in a folder of its own.
struct Demo {
    program: Program,
    words: String,
    tls: SocketAddr,
    plain: SocketAddr,
    folder: TempDir,
}

impl Demo {
    async fn start() -> Demo {
        let folder = empty_folder();
        let program = Program::start(wsgate(&["demo"]).current_dir(folder.path()));
        let words = program.says("stop ").await;
        let [tls, plain] = ["https://", "http://"].map(|scheme| address(&words, scheme));
        Demo { program, words, tls, plain, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("certs").join(name)
    }

    async fn connect(&self) -> Peer {
        let socket = soon("a connection", TcpStream::connect(self.plain)).await;
        Peer::client(socket.expect("a connection"))
    }

    /// A client that trusts the demo's certificate and no other.
    async fn connect_tls(&self) -> Peer {
        let certificate = CertificateDer::from_pem_file(self.file("localhost.pem"));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.expect("a certificate")).expect("one that can be trusted");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connecting = connect_tls(self.tls, "localhost", Arc::new(config));
        Peer::client(soon("a TLS handshake", connecting).await.expect("a TLS handshake"))
    }
}

/// A folder as a checkout is: `certs` is there, and no certificate in it.
fn empty_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("certs")).expect("certs");
    folder
}

/// The first address of that scheme in what the demo printed.
fn address(words: &str, scheme: &str) -> SocketAddr {
    let rest = words.split_once(scheme).unwrap_or_else(|| panic!("{scheme}: {words}")).1;
    let (address, _) = rest.split_once('/').unwrap_or_else(|| panic!("no address: {rest}"));
    address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}

#[tokio::test]
async fn it_says_where_it_is_and_what_to_try() {
    let demo = Demo::start().await;
    let Demo { tls, plain, words, .. } = &demo;
    for due in [
        format!("open     https://{tls}/"),
        format!("         http://{plain}/"),
        format!("curl --cacert certs/localhost.pem https://{tls}/"),
        format!("curl -i http://{plain}/ws "),
        format!("npx wscat --no-check -c wss://{tls}/ws\n"),
        format!("python3 -m websockets ws://{plain}/ws/two\n"),
        "Ctrl-C".to_owned(),
    ] {
        assert!(words.contains(&due), "{due:?} is not in {words}");
    }
    assert!(tls.ip().is_loopback() && plain.ip().is_loopback(), "it is for this machine alone");
}

#[tokio::test]
async fn a_taken_port_gets_a_word_and_another_port() {
    // Where the port cannot be had here, somebody else has it, or leaves it to the demo.
    let held = PORTS.map(|(port, _)| TcpListener::bind(("127.0.0.1", port)));
    let demo = Demo::start().await;
    for (((port, word), held), given) in PORTS.iter().zip(&held).zip([demo.tls, demo.plain]) {
        let moved = given.port() != *port;
        assert_eq!(demo.words.contains(word), moved, "{given}: {}", demo.words);
        assert!(moved || held.is_err(), "{port} was taken, and is given as {given}");
    }
    assert_eq!(demo.connect_tls().await.ask(get("/")).await.status(), 200);
    assert_eq!(demo.connect().await.ask(get("/")).await.status(), 200);
}

#[tokio::test]
async fn the_certificate_is_made_once_and_its_key_is_for_the_owner_alone() {
    let demo = Demo::start().await;
    let (certificate, key) = (demo.file("localhost.pem"), demo.file("localhost.key"));
    assert_eq!(mode(&certificate), 0o644);
    assert_eq!(mode(&key), 0o600);
    let made = std::fs::read(&key).expect("a key");

    let mut again = wsgate(&["demo", "--certificate-only"]);
    let again = Program::start(again.current_dir(demo.folder.path())).ended(PATIENCE).await;
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), ""));
    assert_eq!(again.stdout, "certs/localhost.pem\ncerts/localhost.key\n");
    assert_eq!(std::fs::read(&key).expect("a key"), made);
}

#[tokio::test]
async fn a_key_without_its_certificate_is_not_written_over() {
    let folder = empty_folder();
    let key = folder.path().join("certs/localhost.key");
    std::fs::write(&key, "somebody's").expect("a key");
    let refused = Program::start(wsgate(&["demo"]).current_dir(folder.path()));
    let refused = refused.ended(PATIENCE).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let words = "certs/localhost.key is there, but not certs/localhost.pem; move it away";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&key).expect("a key"), "somebody's");
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).expect("a file").permissions().mode() & 0o777
}

#[tokio::test]
async fn the_page_comes_over_tls_and_plain() {
    let demo = Demo::start().await;
    for mut client in [demo.connect_tls().await, demo.connect().await] {
        let page = client.ask(get("/")).await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.body.starts_with(b"<!doctype html>"), "{page:?}");
        let body = String::from_utf8(page.body).expect("UTF-8");
        assert!(!body.contains("src="), "it loads nothing from anywhere");

        for path in ["/ws", "/ws/two", "/ws/members"] {
            let answer = client.ask(get(path)).await;
            assert_eq!(answer.status(), 426, "{path}");
            assert_eq!(answer.header("upgrade"), Some("websocket"));
        }
        assert_eq!(client.ask(get("/nowhere")).await.status(), 404);
    }
}

/// What a browser asks for when it wants a page.
fn get(path: &str) -> Upgrade {
    ["Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key"]
        .into_iter()
        .fold(Upgrade::to(path), Upgrade::without)
}

#[tokio::test]
async fn a_browser_sees_an_echo_and_how_connections_end() {
    if let Some(missing) = missing() {
        return skip(&format!("the demo in a browser: no {missing}"));
    }
    let demo = Demo::start().await;
    let profile = tempfile::tempdir().expect("a folder for the browser");
    let browser = Program::start(&mut chromium(profile.path()));
    let words = browser.complains("/devtools/browser/").await;
    let (_, devtools) = words.split_once("DevTools listening on ").expect("an address");
    let devtools = devtools.lines().next().expect("an address");

    let script = Program::start(
        node(&peers(), "demo.js").args([devtools, &format!("https://{}/", demo.tls)]),
    );
    script.says_within(BROWSING, "connected").await;
    let stopped = Instant::now();
    demo.program.signal(Signal::TERM);
    let seen = script.ended(PATIENCE).await;
    assert_eq!(seen.code, Some(0), "{}", seen.stderr);
    let ended = demo.program.ended(PATIENCE).await;
    assert_eq!(ended.code, Some(0));
    // The page came by HTTP/2, and so does its WebSocket (RFC 8441).
    assert!(ended.stderr.contains("protocol=\"h2\""), "{}", ended.stderr);
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    assert!(browser.ended(PATIENCE).await.code.is_some());
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

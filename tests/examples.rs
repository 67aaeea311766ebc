//! The examples do what their pages promise: each with its own `wsgate.toml`, real software on both
//! sides, and the words of its client compared with those in its README.
//!
//! The ports in the files are for people; here the kernel gives others. What an example needs and
//! this machine has not is said, and the example skipped: `npm ci` in `examples`, Node, and for the
//! chat Debian's redis-server.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::{Ended, PATIENCE, Program, has_packages, node, skip, wsgate};
use tempfile::TempDir;

/// How long a client may take, which has deadlines of its own.
const CLIENT: Duration = Duration::from_secs(60);

/// An example about to be run: its name is its folder's.
struct Example {
    name: &'static str,
    /// What its servers are told besides their port.
    server_arguments: Vec<PathBuf>,
    /// Where the client goes, behind the edge's address.
    url: (&'static str, &'static str),
}

impl Example {
    fn new(name: &'static str, scheme: &'static str, path: &'static str) -> Example {
        Example { name, server_arguments: Vec::new(), url: (scheme, path) }
    }

    fn folder(&self) -> PathBuf {
        examples().join(self.name)
    }

    fn file(&self, name: &str) -> String {
        let file = self.folder().join(name);
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    }

    fn node(&self, script: &str) -> Command {
        node(&self.folder(), script)
    }

    /// Runs it all and compares what the client says with the README; gives the edge's log.
    async fn assert_as_promised(&self) -> String {
        let mut configuration = self.file("wsgate.toml");
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for written in endpoints(&configuration) {
            let (server, port) = self.serve().await;
            configuration = configuration.replace(&written, &format!("127.0.0.1:{port}"));
            servers.push(server);
            ports.push(port);
        }
        let edge = Edge::start(&configuration).await;
        let client = self.run_client(&edge.address).await;
        assert_eq!(client.code, Some(0), "{client:?}");
        assert_eq!(as_written(&client.stdout, &ports), promised(&self.file("README.md")));
        edge.stop().await
    }

    async fn serve(&self) -> (Program, String) {
        let mut command = self.node("server.js");
        let server = Program::start(command.arg("0").args(&self.server_arguments));
        let words = server.says("\n").await;
        let port = words.trim().strip_prefix("listening on 127.0.0.1:");
        let port = port.unwrap_or_else(|| panic!("a port was due: {words}")).to_owned();
        (server, port)
    }

    async fn run_client(&self, address: &str) -> Ended {
        let (scheme, path) = self.url;
        let mut command = self.node("client.js");
        Program::start(command.arg(format!("{scheme}://{address}{path}"))).ended(CLIENT).await
    }
}

/// wsgate with an example's configuration.
struct Edge {
    program: Program,
    address: String,
    _folder: TempDir,
}

impl Edge {
    async fn start(configuration: &str) -> Edge {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("wsgate.toml");
        let listen = r#"listen = "127.0.0.1:8080""#;
        assert!(configuration.contains(listen), "{configuration}");
        let configuration = configuration.replace(listen, r#"listen = "127.0.0.1:0""#);
        std::fs::write(&file, configuration).expect("a configuration");
        let program = Program::start(wsgate(&["run", "--config"]).arg(&file));
        let words = program.complains(" tls=false").await;
        let (said_before, rest) = words.split_once(" address=").expect("an address");
        assert_eq!(said_before.lines().count(), 1, "nothing to warn of: {words}");
        let address = rest.split(' ').next().expect("an address").to_owned();
        Edge { program, address, _folder: folder }
    }

    /// Its log, whole.
    async fn stop(self) -> String {
        self.program.signal(Signal::TERM);
        let ended = self.program.ended(PATIENCE).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stderr
    }
}

/// The addresses of the upstream's servers, as they are written.
fn endpoints(configuration: &str) -> Vec<String> {
    let words = configuration.split('"');
    let endpoints = words.filter(|word| word.starts_with("127.0.0.1:90")).map(str::to_owned);
    let endpoints: Vec<String> = endpoints.collect();
    assert!(!endpoints.is_empty(), "{configuration}");
    endpoints
}

/// What a client said, had the servers the ports of the README; which is named first is open.
fn as_written(said: &str, ports: &[String]) -> String {
    let mut named: Vec<_> = ports.iter().filter(|port| said.contains(*port)).collect();
    named.sort_by_key(|port| said.find(*port));
    let written = |said: String, (port, number): (&&String, u16)| {
        said.replace(port.as_str(), &number.to_string())
    };
    named.iter().zip(9001..).fold(said.to_owned(), written)
}

/// The words that a README shows.
fn promised(readme: &str) -> String {
    let block = readme.split_once("```text\n").and_then(|(_, rest)| rest.split_once("```"));
    block.expect("a block of text").0.to_owned()
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Whether Node and these packages are here; if not, it is said.
fn is_possible(example: &str, packages: &[&str]) -> bool {
    let possible = has_packages(packages);
    if !possible {
        skipped(example, "Node with its packages: run `npm ci` in examples");
    }
    possible
}

fn skipped(example: &str, missing: &str) {
    skip(&format!("the example {example}: no {missing}"));
}

/// Why the tunnels ended, as the log says it, in the order of the alphabet.
fn reasons(log: &str) -> Vec<&str> {
    let ended = log.lines().filter(|line| line.contains("tunnel ended"));
    let mut reasons: Vec<_> = ended.filter_map(reason).collect();
    reasons.sort_unstable();
    reasons
}

fn reason(line: &str) -> Option<&str> {
    line.split_once("reason=\"")?.1.split('"').next()
}

#[tokio::test]
async fn a_chat_of_two_processes_is_joined_by_redis() {
    if !is_possible("chat-redis", &["redis", "ws"]) {
        return;
    }
    if Command::new("redis-server").arg("--version").output().is_err() {
        return skipped("chat-redis", "redis-server");
    }
    let folder = tempfile::tempdir().expect("a folder for Redis");
    let socket = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
    let redis = Program::start(redis.current_dir(folder.path()));
    redis.says("eady to accept connections").await;

    let example = Example::new("chat-redis", "ws", "/chat");
    let log = Example { server_arguments: vec![socket], ..example }.assert_as_promised().await;
    assert_eq!(reasons(&log), ["client_close"; 2], "{log}");
}

#[tokio::test]
async fn a_graphql_subscription_is_served() {
    if !is_possible("graphql-ws", &["graphql", "graphql-ws", "ws"]) {
        return;
    }
    let log = Example::new("graphql-ws", "ws", "/graphql").assert_as_promised().await;
    assert_eq!(reasons(&log), ["client_close"], "{log}");
    assert!(log.contains("code=1000"), "{log}");
}

#[tokio::test]
async fn mqtt_keeps_its_qualities_of_service_and_its_last_will() {
    if !is_possible("mqtt", &["aedes", "mqtt", "ws"]) {
        return;
    }
    let log = Example::new("mqtt", "ws", "/mqtt").assert_as_promised().await;
    let reasons = reasons(&log);
    assert_eq!(reasons.len(), 2, "{log}");
    assert!(reasons.contains(&"client_lost"), "{log}");
}

#[tokio::test]
async fn stomp_keeps_its_version_and_its_heart_beats() {
    if !is_possible("stomp", &["@stomp/stompjs", "ws"]) {
        return;
    }
    let log = Example::new("stomp", "ws", "/stomp").assert_as_promised().await;
    assert_eq!(reasons(&log), ["client_close"], "{log}");
}

#[tokio::test]
async fn socket_io_begins_by_polling_on_three_processes() {
    if !is_possible("socket-io", &["socket.io", "socket.io-client"]) {
        return;
    }
    let log = Example::new("socket-io", "http", "").assert_as_promised().await;
    assert_eq!(reasons(&log).len(), 100, "{log}");
}

#[tokio::test]
async fn an_event_source_comes_back_for_what_it_has_missed() {
    if !is_possible("sse", &["eventsource"]) {
        return;
    }
    let log = Example::new("sse", "http", "/events").assert_as_promised().await;
    assert_eq!(reasons(&log), [""; 0], "no tunnel: {log}");
}

//! The life of a pod with wsgate beside an app, as a kubelet leads it: processes in place of
//! containers, an address of its own for each pod, and the configuration, the arguments and the
//! preStop of `conf/kubernetes/sidecar.yaml` itself.
//!
//! A rolling restart goes on under clients that talk without pause and come back with a backoff.
//! `WSGATE_KUBELET=1000x30s` is so many clients, and the grace of a pod; without it they are fewer
//! and the grace is the shortest there is.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use support::{
    Admin, Pair, Peer, Program, Upgrade, authority, client_config, connect_tls, run, soon, within,
    wsgate,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

/// What a cluster takes to send nobody more to a pod that goes: less than the drain's delay.
const LAG: Duration = Duration::from_millis(700);
/// A rolling restart of two pods, on a busy machine.
const RESTART: Duration = Duration::from_secs(120);

/// Clients, and the seconds of grace.
fn size() -> (usize, u32) {
    let asked = std::env::var("WSGATE_KUBELET").ok();
    let asked = asked.as_deref().and_then(|text| text.strip_suffix('s')?.split_once('x'));
    asked.map_or((300, 9), |(clients, grace)| {
        (clients.parse().expect("a number"), grace.parse().expect("a number"))
    })
}

/// In which order the containers of a pod are told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Native sidecars: all preStops run at once, and the edge hears SIGTERM when the app is gone,
    /// whose own preStop has slept until the clients were told.
    Native,
    /// Two ordinary containers, and the app dies at its SIGTERM while clients still talk to it.
    AppFirst,
    /// Two ordinary containers, of which the edge is the first to go.
    EdgeFirst,
}

#[tokio::test]
async fn a_native_sidecar_sends_everybody_on_before_the_app_goes() {
    let endings = rolling_restart(Order::Native).await;
    let drained = endings.iter().filter(|reason| *reason == "drain").count();
    assert!(drained * 10 >= endings.len() * 9, "{drained} of {}", endings.len());
}

#[tokio::test]
async fn an_app_that_dies_first_takes_no_client_with_it() {
    let endings = rolling_restart(Order::AppFirst).await;
    assert!(endings.iter().any(|reason| reason == "upstream_lost"), "the app did not die first");
}

#[tokio::test]
async fn an_edge_that_goes_first_leaves_the_app_nobody() {
    let endings = rolling_restart(Order::EdgeFirst).await;
    assert!(endings.iter().all(|reason| reason == "drain"), "{endings:?}");
}

#[tokio::test]
async fn who_does_not_answer_is_gone_before_the_kubelet_kills() {
    let manifest = Manifest::read("sidecar.yaml");
    let grace = 9;
    let pod = Pod::start(&manifest, grace).await;
    let mut deaf = Vec::new();
    for begun in [&[][..], &[0x81], &[0x82, 0xfe, 0xff]] {
        let stream = connect_tls(pod.place.edge, "localhost", client_config()).await;
        let mut client = Peer::client(stream.expect("a handshake"));
        client.upgrade(Upgrade::to("/ws")).await;
        // It reads no Close, and is within a frame of its own.
        client.send(begun).await;
        deaf.push(client);
    }
    // What the autoscaler of edge.yaml goes by.
    let live = "wsgate_connections{route=\"app\",upstream=\"app\"}";
    soon("three live connections", async {
        while Admin::at(pod.place.probes).metrics().await.get(live) != Some(&3.0) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let log = pod.terminate(&manifest, Order::EdgeFirst, grace).await;
    assert_eq!(reasons(&log), ["drain"; 3]);
}

/// Replaces both pods of a deployment one by one, as its `maxSurge: 1, maxUnavailable: 0` has it.
/// Gives the reasons of all endings in the logs of the two that went.
async fn rolling_restart(order: Order) -> Vec<String> {
    let (clients, grace) = size();
    let manifest = Manifest::read("sidecar.yaml");
    let service = Arc::new(Service::default());
    let mut pods = Vec::new();
    for _ in 0..2 {
        pods.push(Pod::start(&manifest, grace).await);
        service.admit(pods.last().expect("it was just added"));
    }
    let mut lives = JoinSet::new();
    for number in 0..clients {
        lives.spawn(live(number, service.clone()));
    }
    service.all_here(clients).await;
    for pod in &pods {
        pod.renew_mounts(&manifest).await;
    }
    assert_eq!(service.sent_away(), 0, "a reload has closed somebody");
    let mut endings = Vec::new();
    for pod in &mut pods {
        let fresh = Pod::start(&manifest, grace).await;
        service.admit(&fresh);
        let old = std::mem::replace(pod, fresh);
        let address = old.place.edge;
        let removed = async {
            sleep(LAG).await;
            service.dismiss(address);
        };
        let ((), log) = tokio::join!(removed, old.terminate(&manifest, order, grace));
        endings.extend(reasons(&log));
        service.all_here(clients).await;
    }
    assert!(service.sent_away() >= clients, "{}", service.sent_away());
    service.over.store(true, Ordering::SeqCst);
    for told in within(RESTART, "all clients leave", lives.join_all()).await {
        let (last, before) = told.split_last().expect("each was told something");
        assert_eq!(*last, 1000, "{told:?}");
        assert!(!before.is_empty() && before.iter().all(|code| *code == 1012), "{told:?}");
    }
    endings
}

/// Why the tunnels of a log ended.
fn reasons(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let ended = lines.filter(support::ended);
    ended.map(|line| line["reason"].as_str().expect("a reason").to_owned()).collect()
}

/// The Service: those who are sent somebody, and what became of these.
#[derive(Default)]
struct Service {
    ready: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    here: AtomicUsize,
    sent_away: AtomicUsize,
    over: AtomicBool,
}

impl Service {
    fn admit(&self, pod: &Pod) {
        self.ready.lock().expect("the service").push(pod.place.edge);
    }

    fn dismiss(&self, address: SocketAddr) {
        self.ready.lock().expect("the service").retain(|ready| *ready != address);
    }

    fn next(&self) -> SocketAddr {
        let ready = self.ready.lock().expect("the service");
        ready[self.turn.fetch_add(1, Ordering::Relaxed) % ready.len()]
    }

    fn sent_away(&self) -> usize {
        self.sent_away.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn all_here(&self, clients: usize) {
        within(RESTART, "all clients are connected", async {
            while self.here.load(Ordering::SeqCst) < clients {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// One client until all is over: the close codes it was told, 1006 where it was told none.
async fn live(number: usize, service: Arc<Service>) -> Vec<u16> {
    let mut told = Vec::new();
    while let Some(socket) = come_back(number, &service).await {
        service.here.fetch_add(1, Ordering::SeqCst);
        let code = converse(socket, &service).await;
        service.here.fetch_sub(1, Ordering::SeqCst);
        told.push(code);
        if code != 1000 {
            service.sent_away.fetch_add(1, Ordering::SeqCst);
        }
    }
    told
}

/// Connects, with exponential backoff and a jitter of each client's own; `None` when all is over.
async fn come_back(number: usize, service: &Service) -> Option<Socket> {
    let mut pause = Duration::from_millis(20);
    loop {
        if service.is_over() {
            return None;
        }
        if let Some(socket) = connect(service.next()).await {
            return Some(socket);
        }
        sleep(pause.mul_f64(0.5 + (number % 64) as f64 / 64.0)).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// A refusal is a closed port, or a 502 or 503.
async fn connect(to: SocketAddr) -> Option<Socket> {
    let stream = connect_tls(to, "localhost", client_config()).await.ok()?;
    match client_async("ws://localhost/ws", stream).await {
        Ok((socket, _)) => Some(socket),
        Err(tungstenite::Error::Http(answer)) => {
            assert!([502, 503].contains(&answer.status().as_u16()), "{}", answer.status());
            None
        }
        Err(_) => None,
    }
}

/// Sends texts and has them back, until a Close comes, or all is over; gives the Close's code.
async fn converse(mut socket: Socket, service: &Service) -> u16 {
    const WORDS: &str = "are you there?";
    loop {
        if service.is_over() {
            let bye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = socket.close(Some(bye)).await;
            return closed(&mut socket).await;
        }
        // Fails when the Close is here already, which is read next.
        let _ = socket.send(Message::text(WORDS)).await;
        match soon("an echo, or a Close", heard(&mut socket)).await {
            Some(Message::Text(text)) => assert_eq!(text.as_str(), WORDS),
            end => return answered(&mut socket, end).await,
        }
        if let Ok(end) = timeout(Duration::from_millis(100), heard(&mut socket)).await {
            return answered(&mut socket, end).await;
        }
    }
}

/// The code of the Close that comes; an echo before it is let go.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        match soon("a Close", heard(socket)).await {
            Some(Message::Text(_)) => {}
            end => return answered(socket, end).await,
        }
    }
}

/// The next text or Close; `None` where the connection ended without one. Pings are answered.
async fn heard(socket: &mut Socket) -> Option<Message> {
    loop {
        match socket.next().await?.ok()? {
            Message::Ping(_) => {}
            message => return Some(message),
        }
    }
}

/// The code of an end; reads on until the connection has gone, which sends the answer.
async fn answered(socket: &mut Socket, end: Option<Message>) -> u16 {
    match end {
        None => 1006,
        Some(Message::Close(close)) => {
            soon("the end", async { while let Some(Ok(_)) = socket.next().await {} }).await;
            close.map_or(1005, |close| close.code.into())
        }
        Some(other) => panic!("{other:?}"),
    }
}

/// What `conf/kubernetes` says, as far as processes can do it.
struct Manifest {
    text: String,
    configuration: String,
}

impl Manifest {
    fn read(name: &str) -> Manifest {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/kubernetes").join(name);
        let text = std::fs::read_to_string(path).expect("the manifest");
        let (_, configuration) = text.split_once("  wsgate.toml: |\n").expect("a wsgate.toml");
        let (configuration, _) = configuration.split_once("\n---\n").expect("an end of it");
        let lines = configuration.lines().map(|line| line.strip_prefix("    ").unwrap_or(line));
        let configuration = lines.map(|line| format!("{line}\n")).collect();
        Manifest { text, configuration }
    }

    /// The list behind `key:` on the line that has `word` too.
    fn list(&self, key: &str, word: &str) -> Vec<String> {
        let line = |line: &&str| line.trim_start().starts_with(key) && line.contains(word);
        let line = self.text.lines().find(line).unwrap_or_else(|| panic!("no {key} with {word}"));
        let (_, list) = line.split_once(key).expect("it was just seen");
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn number(&self, key: &str) -> u32 {
        let (_, rest) = self.text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no number behind {key}"))
    }
}

/// What a pod has to itself: its volumes, its address, and the ports on it.
struct Place {
    folder: TempDir,
    edge: SocketAddr,
    probes: SocketAddr,
    app: SocketAddr,
}

impl Place {
    /// An address that no other pod on this machine has, and ports that nobody has on all.
    fn new() -> Place {
        static PODS: AtomicUsize = AtomicUsize::new(1);
        let pod = PODS.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let byte = |number: u32| u8::try_from(number).expect("a byte");
        let pod = byte(u32::try_from(pod).expect("few pods"));
        let ip = Ipv4Addr::new(127, byte(100 + process / 250 % 150), byte(process % 250), pod);
        let bound = [(); 3].map(|()| std::net::TcpListener::bind((ip, 0)).expect("a free port"));
        let [edge, probes, app] = bound.map(|it| it.local_addr().expect("it is bound"));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("run/wsgate")).expect("an emptyDir");
        Place { folder, edge, probes, app }
    }

    /// `text` with the places of containers made those of this pod.
    fn put(&self, text: &str) -> String {
        let folder = self.folder.path().display();
        text.replace("/etc/", &format!("{folder}/etc/"))
            .replace("/run/wsgate/", &format!("{folder}/run/wsgate/"))
            .replace("0.0.0.0:8443", &self.edge.to_string())
            .replace("0.0.0.0:9091", &self.probes.to_string())
            .replace("127.0.0.1:9001", &self.app.to_string())
    }

    fn mounted(&self, name: &str) -> PathBuf {
        self.folder.path().join("etc").join(name)
    }

    fn configuration(&self, manifest: &Manifest) -> String {
        self.put(&manifest.configuration)
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = wsgate(&[]);
        command.args(arguments.iter().map(|it| self.put(it)));
        command
    }

    /// What the manifest has the edge's container run, with a grace of the test's own.
    fn edge_command(&self, manifest: &Manifest, grace: u32) -> Command {
        let mut arguments = manifest.list("args:", "--grace");
        *arguments.last_mut().expect("arguments") = format!("{grace}s");
        self.command(&arguments)
    }

    /// What it has run as the edge's preStop.
    fn pre_stop_command(&self, manifest: &Manifest) -> Command {
        let command = manifest.list("command:", "drain");
        assert_eq!(command[0], "/wsgate", "where the image has it");
        self.command(&command[1..])
    }

    fn app_command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "the_container_of_the_app", "--ignored", "--nocapture"]);
        command.env("WSGATE_KUBELET_APP", self.app.to_string());
        command
    }

    /// What a probe of the kubelet is answered; nothing, when nobody listens.
    async fn status(&self, path: &str) -> Option<u16> {
        TcpStream::connect(self.probes).await.ok()?;
        Some(Admin::at(self.probes).get(path).await.status())
    }

    async fn status_becomes(&self, path: &str, wanted: u16) {
        soon(&format!("{path} answers {wanted}"), async {
            while self.status(path).await != Some(wanted) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

struct Pod {
    place: Place,
    edge: Program,
    app: Program,
}

impl Pod {
    /// As a kubelet starts it: mounts, the sidecar, its startup probe, the app, readiness.
    async fn start(manifest: &Manifest, grace: u32) -> Pod {
        let place = Place::new();
        let text = place.configuration(manifest);
        mount(&place.mounted("wsgate"), "1", &[("wsgate.toml", text)]);
        mount(&place.mounted("wsgate-tls"), "1", &secret(&authority().pair("localhost")));
        let edge = Program::start(&mut place.edge_command(manifest, grace));
        place.status_becomes("/readyz", 200).await;
        let app = Program::start(&mut place.app_command());
        app.says("the app listens").await;
        Pod { place, edge, app }
    }

    /// New versions of the ConfigMap and of the Secret, which the edge takes up.
    async fn renew_mounts(&self, manifest: &Manifest) {
        let text = self.place.configuration(manifest) + "timeouts.idle = \"1h\"\n";
        mount(&self.place.mounted("wsgate"), "2", &[("wsgate.toml", text)]);
        self.edge.complains("\"configuration reloaded\"").await;
        let pair = authority().pair("localhost");
        mount(&self.place.mounted("wsgate-tls"), "2", &secret(&pair));
        self.edge.complains("certificates are those of its files now").await;
        let shown = connect_tls(self.place.edge, "localhost", client_config()).await;
        let shown = shown.expect("a handshake");
        let chain = shown.get_ref().1.peer_certificates().expect("a certificate");
        assert_eq!(chain[0], pair.der);
    }

    /// As a kubelet ends it: preStop, SIGTERM, and SIGKILL when the grace is over, which must
    /// not be needed. Gives the edge's log.
    async fn terminate(self, manifest: &Manifest, order: Order, grace: u32) -> String {
        let Pod { place, edge, app } = self;
        let end = Instant::now() + Duration::from_secs(grace.into());
        let left = || end.saturating_duration_since(Instant::now());
        let pre_stop = Program::start(&mut place.pre_stop_command(manifest));
        place.status_becomes("/readyz", 503).await;
        assert_eq!(place.status("/healthz").await, Some(200), "it would be restarted");
        let app_ends = async |app: Program| {
            app.signal(Signal::TERM);
            app.ended(left()).await;
        };
        let drained = async |pre_stop: Program| {
            let ended = pre_stop.ended(left()).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert_eq!(place.status("/healthz").await, Some(200), "only SIGTERM ends it");
        };
        let edge_ends = async |edge: Program| {
            edge.signal(Signal::TERM);
            let ended = edge.ended(left()).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            // The grace's own numbers, which the reloads before have not changed.
            let timeout = format!("\"timeout_s\":{}.0", grace - 2);
            assert!(ended.stderr.contains(&timeout), "{}", ended.stderr);
            let told = ended.stderr.matches("\"admin: drain\"").count();
            assert_eq!(told, 1, "waiting for a drain is no news");
            ended.stderr
        };
        match order {
            Order::Native => {
                let told = manifest.number("sleep: { seconds:");
                let whole = manifest.number("terminationGracePeriodSeconds:");
                let sleeps = Duration::from_secs(grace.into()).mul_f64(told.into()) / whole;
                sleep(sleeps).await;
                app_ends(app).await;
                drained(pre_stop).await;
                edge_ends(edge).await
            }
            Order::AppFirst => {
                app_ends(app).await;
                drained(pre_stop).await;
                edge_ends(edge).await
            }
            Order::EdgeFirst => {
                drained(pre_stop).await;
                let log = edge_ends(edge).await;
                app_ends(app).await;
                log
            }
        }
    }
}

fn secret(pair: &Pair) -> [(&'static str, String); 2] {
    [("tls.crt", pair.chain.clone()), ("tls.key", pair.key.clone())]
}

/// A version of a volume, as a kubelet writes it: a folder, and `..data` turned to it.
fn mount(volume: &Path, version: &str, files: &[(&str, String)]) {
    let folder = volume.join(format!("..{version}"));
    std::fs::create_dir_all(&folder).expect("a version's folder");
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("a mounted file");
    }
    let turned = volume.join("..data_tmp");
    std::os::unix::fs::symlink(format!("..{version}"), &turned).expect("a link");
    std::fs::rename(&turned, volume.join("..data")).expect("..data is turned");
    for (name, _) in files {
        // It is there from the first version on.
        let _ = std::os::unix::fs::symlink(Path::new("..data").join(name), volume.join(name));
    }
}

/// Echoes, and dies at SIGTERM without a word, as many do.
#[test]
#[ignore = "it is a process of the other tests"]
fn the_container_of_the_app() {
    let Ok(address) = std::env::var("WSGATE_KUBELET_APP") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind(address).await.expect("the app's address is free");
        println!("the app listens");
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(socket).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

#[tokio::test]
async fn the_configurations_of_the_manifests_are_good() {
    for name in ["sidecar.yaml", "edge.yaml"] {
        let manifest = Manifest::read(name);
        let folder = tempfile::tempdir().expect("a folder");
        let etc = folder.path().join("etc");
        mount(&etc.join("wsgate-tls"), "1", &secret(&authority().pair("localhost")));
        mount(&etc.join("wsgate-seed"), "1", &[("seed", "0123456789abcdef".repeat(4))]);
        let text = manifest.configuration.replace("/etc/", &format!("{}/", etc.display()));
        let file = folder.path().join("wsgate.toml");
        std::fs::write(&file, text).expect("the configuration");
        let ended = run(&["check", file.to_str().expect("a path in UTF-8")]).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{name}: {ended:?}");
        assert!(manifest.configuration.contains("probes = \"0.0.0.0:9091\""), "{name}");
    }
}

#[test]
fn a_pods_grace_is_told_to_the_edge() {
    for name in ["sidecar.yaml", "edge.yaml"] {
        let manifest = Manifest::read(name);
        let grace = manifest.number("terminationGracePeriodSeconds:");
        let arguments = manifest.list("args:", "--grace");
        assert_eq!(arguments.last(), Some(&format!("{grace}s")), "{name}");
    }
    // The app is told to stop when delay and window, two thirds of the grace, are over.
    let sidecar = Manifest::read("sidecar.yaml");
    let (sleeps, grace) =
        (sidecar.number("sleep: { seconds:"), sidecar.number("terminationGracePeriodSeconds:"));
    assert!(sleeps * 3 > grace * 2 && sleeps < grace, "{sleeps} of {grace}");
}

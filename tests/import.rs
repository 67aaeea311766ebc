//! Configurations after those that well-known projects publish, imported and run beside nginx
//! itself: the same backends, the same probes, and the same answers but where the import said so.
//!
//! Ports in the files are for people: 9001 and 9002 are the servers, 8080 and 8443 where nginx
//! listens. Here the kernel gives others. Needs nginx (Debian package nginx-light).

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ended, Message, Peer, Program, Upgrade, accept_of, authority};
use support::{client_config, connect_tls, run, skip, soon, wsgate};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// One configuration, and what it and its import must answer alike.
struct Case {
    name: &'static str,
    probes: Vec<Probe>,
    /// Words of each line on stderr, in order: what is not carried.
    left: &'static [&'static str],
    sticky: Option<Sticky>,
    /// How long a silent WebSocket at this path lives.
    silence: Option<(&'static str, Duration)>,
}

/// What keeps a client at its server.
#[derive(Clone, Copy)]
enum Sticky {
    Address,
    Query(&'static str),
}

#[derive(Clone)]
struct Probe {
    upgrade: bool,
    tls: bool,
    host: &'static str,
    target: String,
    header: Option<(&'static str, &'static str)>,
    from: [u8; 4],
    /// The words of the import by which it announced another answer.
    differs: Option<&'static str>,
}

fn ws(target: &str) -> Probe {
    let target = target.to_owned();
    let from = [127, 0, 0, 1];
    Probe {
        upgrade: true,
        tls: false,
        host: "localhost",
        target,
        header: None,
        from,
        differs: None,
    }
}

fn get(target: &str) -> Probe {
    Probe { upgrade: false, ..ws(target) }
}

impl Probe {
    fn tls(self) -> Probe {
        Probe { tls: true, ..self }
    }

    fn host(self, host: &'static str) -> Probe {
        Probe { host, ..self }
    }

    fn with(self, name: &'static str, value: &'static str) -> Probe {
        Probe { header: Some((name, value)), ..self }
    }

    fn from(self, from: [u8; 4]) -> Probe {
        Probe { from, ..self }
    }

    fn differs(self, words: &'static str) -> Probe {
        Probe { differs: Some(words), ..self }
    }

    fn request(&self) -> Upgrade {
        let mut request = Upgrade::to(&self.target).set("Host", self.host);
        if !self.upgrade {
            for name in ["Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key"] {
                request = request.without(name);
            }
            request = request.add("Connection", "close");
        }
        match self.header {
            Some((name, value)) => request.add(name, value),
            None => request,
        }
    }
}

fn case(name: &'static str, probes: Vec<Probe>) -> Case {
    Case { name, probes, left: &[], sticky: None, silence: None }
}

const LETTERS: &str = "nginx compares letters";
const SLASH: &str = "itself comes here too";
const NO_WEBSOCKET: &str = "nginx let no WebSocket through here; wsgate does.";

fn cases() -> Vec<Case> {
    vec![
        case(
            "nginx-websocket",
            vec![
                ws("/chat/"),
                ws("/chat/a?b=c"),
                get("/chat/"),
                ws("/other"),
                ws("/chat").differs(SLASH),
            ],
        ),
        Case { sticky: Some(Sticky::Address), ..case("socket-io", vec![]) },
        case(
            "grafana",
            vec![
                ws("/api/live/ws"),
                get("/"),
                get("/api/live/ws"),
                ws("/d/1").differs(NO_WEBSOCKET),
            ],
        ),
        case(
            "home-assistant",
            vec![
                get("/a?b").host("home.example.com"),
                ws("/api/websocket").tls(),
                get("/").tls().host("home.example.com"),
            ],
        ),
        Case {
            left: &["location ~ /.well-known"],
            ..case(
                "jupyterhub",
                vec![
                    get("/hub").host("hub.example.com").differs("redirect = \"https\""),
                    ws("/user/a/api/kernels/1/channels").tls(),
                    get("/hub/login?next=%2F").tls(),
                ],
            )
        },
        Case {
            left: &["location ~ /api/v[0-9]+/(users/)?websocket$"],
            ..case("mattermost", vec![])
        },
        case("rocket-chat", vec![ws("/websocket"), get("/api/info"), ws("/sockjs/1/a/websocket")]),
        case(
            "notify-push",
            vec![
                ws("/push/ws"),
                get("/push/test/cookie"),
                get("/other"),
                get("/push").differs(SLASH),
            ],
        ),
        case(
            "gitlab",
            vec![
                ws("/-/cable"),
                get("/group/project"),
                get("/a")
                    .with("X-Forwarded-For", "192.0.2.7")
                    .differs("X-Forwarded-For grows by the proxy's address"),
            ],
        ),
        case("gitea", vec![ws("/gitea/user/events"), get("/gitea/a/b?c=d"), get("/elsewhere")]),
        case("code-server", vec![ws("/stable-1"), get("/login?to=a")]),
        Case {
            left: &["location ~ ^/static/", "location /userContent"],
            ..case("jenkins", vec![ws("/wsagents/"), get("/job/a/")])
        },
        case(
            "phoenix",
            vec![ws("/live/websocket?vsn=2"), get("/live/x"), ws("/x").differs(NO_WEBSOCKET)],
        ),
        case("action-cable", vec![ws("/cable"), ws("/cable/a"), ws("/cablex").differs(LETTERS)]),
        Case {
            left: &["the files of location /"],
            ..case("django-channels", vec![ws("/ws/chat/1/"), get("/admin/")])
        },
        case(
            "odoo",
            vec![
                get("/web").host("erp.example.com"),
                ws("/websocket").tls(),
                get("/web").tls(),
                ws("/websocketx").tls().differs(LETTERS),
            ],
        ),
        case("n8n", vec![ws("/rest/push?sessionId=1"), get("/healthz")]),
        case(
            "uptime-kuma",
            vec![ws("/socket.io/?EIO=4&transport=websocket").tls(), get("/a").tls()],
        ),
        case(
            "vaultwarden",
            vec![
                ws("/vault/notifications/hub"),
                ws("/vault/notifications/hub/a"),
                get("/vault/api/config"),
                get("/vault/icons/a.png"),
            ],
        ),
        Case {
            silence: Some(("/stomp", Duration::from_secs(2))),
            ..case("web-stomp", vec![ws("/stomp"), ws("/stomp/a"), ws("/stompx").differs(LETTERS)])
        },
        Case {
            sticky: Some(Sticky::Query("client")),
            ..case("emqx", vec![ws("/mqtt").from([127, 1, 0, 1]), get("/mqtt/a")])
        },
        case(
            "novnc",
            vec![
                ws("/websockify"),
                ws("/vncws/a?b"),
                ws("/websockify/a").differs("two slashes at the joint"),
            ],
        ),
        case(
            "authorized",
            vec![
                ws("/app/ws"),
                ws("/app/ws").with("Cookie", "session=ok"),
                get("/app/").with("Cookie", "session=ok"),
                ws("/app/ws").with("X-User", "mallory"),
            ],
        ),
    ]
}

#[tokio::test]
async fn imports_answer_as_nginx_does() {
    if Command::new("nginx").arg("-v").output().is_err() {
        return skip("nginx is missing (Debian package nginx-light)");
    }
    let mut faults = Vec::new();
    for case in cases() {
        faults.extend(case.compare().await);
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n\n"));
}

#[tokio::test]
async fn every_input_has_a_case() {
    let mut files: Vec<String> = std::fs::read_dir(inputs())
        .expect("the inputs")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let mut named: Vec<String> = cases().iter().map(|case| case.name.to_owned()).collect();
    files.sort();
    named.sort();
    assert_eq!(files, named);
}

fn inputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

impl Case {
    /// What is not as it was announced.
    async fn compare(&self) -> Vec<String> {
        let servers = [start_server(0).await, start_server(1).await];
        let folder = tempfile::tempdir().expect("a folder");
        let file = inputs().join(format!("{}.conf", self.name));
        let text = std::fs::read_to_string(&file).expect("an input");
        let certificate = authority().server("localhost");
        let pair: Vec<&str> = certificate.split('"').collect();
        let text = text
            .replace("9001", &servers[0].port().to_string())
            .replace("9002", &servers[1].port().to_string())
            .replace("certs/site.pem", pair[1])
            .replace("certs/site.key", pair[3]);
        let (toml, announced) = self.imported(&folder, &text).await;
        let edge = Running::wsgate(&folder, &toml).await;
        let nginx = Running::nginx(&folder, &text).await;
        let mut faults = Vec::new();
        for probe in &self.probes {
            let (theirs, ours) = (nginx.answer(probe).await, edge.answer(probe).await);
            let (theirs, ours) = alike(theirs, ours);
            let is_said = probe.differs.is_none_or(|words| announced.contains(words));
            if (theirs != ours) != probe.differs.is_some() || !is_said {
                faults.push(format!(
                    "{} {}\nnginx: {theirs:?}\nwsgate: {ours:?}\nannounced: {:?}, {is_said}",
                    probe.host, probe.target, probe.differs
                ));
            }
        }
        if let Some(sticky) = self.sticky {
            nginx.keeps_together(sticky, self.name).await;
            edge.keeps_together(sticky, self.name).await;
        }
        if let Some((path, time)) = self.silence {
            for one in [&nginx, &edge] {
                let lived = one.lives_in_silence(path).await;
                let fits = lived > time - Duration::from_millis(500) && lived < time * 5;
                assert!(fits, "{}: a silent socket lived for {lived:?}", self.name);
            }
        }
        faults.into_iter().map(|fault| format!("{}: {fault}", self.name)).collect()
    }

    /// The result, and all the words with it.
    async fn imported(&self, folder: &TempDir, text: &str) -> (String, String) {
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("site.conf"), text).expect("a file");
        std::fs::write(path("nginx.conf"), "events {}\nhttp { include s*.conf; }").expect("a file");
        let file = path("nginx.conf").display().to_string();
        let ended: Ended = run(&["import", "nginx", &file]).await;
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), self.left.len(), "{}: {}", self.name, ended.stderr);
        for (line, words) in lines.iter().zip(self.left) {
            assert!(line.contains("site.conf:") && line.contains(words), "{}: {line}", self.name);
        }
        assert_eq!(ended.code, Some(i32::from(!self.left.is_empty())), "{}", ended.stderr);
        let checked = path("imported.toml");
        std::fs::write(&checked, &ended.stdout).expect("a file");
        let check = run(&["check", &checked.display().to_string()]).await;
        assert_eq!((check.code, check.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
        let announced = format!("{} {}", ended.stdout.replace("\n# ", " "), ended.stderr);
        (ended.stdout, announced)
    }
}

/// nginx or wsgate, with its two listeners.
struct Running {
    _program: Program,
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
}

impl Running {
    async fn wsgate(folder: &TempDir, toml: &str) -> Running {
        let toml =
            toml.replace("0.0.0.0:8080", "127.0.0.1:0").replace("0.0.0.0:8443", "127.0.0.2:0");
        let file = folder.path().join("wsgate.toml");
        std::fs::write(&file, &toml).expect("a file");
        let program = Program::start(wsgate(&["run", "--config"]).arg(&file));
        let mut listening = Vec::new();
        for listen in ["127.0.0.1:0", "127.0.0.2:0"] {
            if !toml.contains(&format!("listen = \"{listen}\"")) {
                listening.push(None);
                continue;
            }
            let words = program.complains(&format!("\"address\":\"{}", &listen[..10])).await;
            listening.push(address_in(&words, &listen[..9]));
        }
        Running { _program: program, plain: listening[0], tls: listening[1] }
    }

    async fn nginx(folder: &TempDir, text: &str) -> Running {
        let plain = text.contains("listen 8080").then(|| free("127.0.0.1:0"));
        let tls = text.contains("listen 8443").then(|| free("127.0.0.2:0"));
        let mut text = text.to_owned();
        for (written, address) in [("listen 8080", plain), ("listen 8443", tls)] {
            if let Some(address) = address {
                text = text.replace(written, &format!("listen {address}"));
            }
        }
        let at = folder.path().display();
        let main = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; \
             events {{}} http {{ access_log off; client_body_temp_path {at}/1; \
             proxy_temp_path {at}/2; fastcgi_temp_path {at}/3; uwsgi_temp_path {at}/4; \
             scgi_temp_path {at}/5; {text} }}"
        );
        let file = folder.path().join("side-by-side.conf");
        std::fs::write(&file, main).expect("a file");
        let program = Program::start(Command::new("nginx").arg("-c").arg(&file));
        for address in [plain, tls].into_iter().flatten() {
            soon("nginx listens", async {
                while TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        Running { _program: program, plain, tls }
    }

    async fn connect(&self, probe: &Probe) -> Peer {
        if probe.tls {
            let address = self.tls.expect("a TLS listener");
            let socket = connect_tls(address, "localhost", client_config()).await;
            return Peer::client(socket.expect("a TLS connection"));
        }
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((probe.from, 0).into()).expect("a local address");
        let socket = socket.connect(self.plain.expect("a plain listener")).await;
        Peer::client(socket.expect("a connection"))
    }

    async fn answer(&self, probe: &Probe) -> Answer {
        let mut peer = self.connect(probe).await;
        let answer = peer.ask(probe.request()).await;
        Answer::of(&answer)
    }

    /// Sixteen clients, each asking again.
    async fn keeps_together(&self, sticky: Sticky, name: &str) {
        for number in 0..16 {
            let probe = match sticky {
                Sticky::Address => ws("/").from([127, 0, number, 1]),
                Sticky::Query(key) => ws(&format!("/mqtt?{key}={number}")),
            };
            let (first, second) = (self.answer(&probe).await, self.answer(&probe).await);
            assert_eq!((first.status, second.status), (101, 101), "{name}");
            assert_eq!(first.server, second.server, "{name}: client {number} was moved");
        }
    }

    async fn lives_in_silence(&self, path: &str) -> Duration {
        let mut peer = self.connect(&ws(path)).await;
        peer.upgrade(ws(path).request()).await;
        let began = Instant::now();
        peer.reader.rest().await;
        began.elapsed()
    }
}

/// An address that nobody has at the moment.
fn free(address: &str) -> SocketAddr {
    let socket = std::net::TcpListener::bind(address).expect("a port");
    socket.local_addr().expect("a bound socket has an address")
}

fn address_in(log: &str, ip: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let addresses = lines.filter_map(|line| line["address"].as_str()?.parse().ok());
    addresses.into_iter().find(|address: &SocketAddr| address.ip().to_string() == ip)
}

/// What came back, and what the server behind had seen.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    location: Option<String>,
    /// A header of the server that a configuration may hide.
    secret: bool,
    server: Option<u64>,
    target: Option<String>,
    headers: BTreeMap<String, String>,
}

impl Answer {
    fn of(answer: &Message) -> Answer {
        let seen = answer.header("x-seen").unwrap_or("null");
        let seen: Value = serde_json::from_str(seen).expect("JSON");
        let headers = seen["headers"].as_object().into_iter().flatten();
        Answer {
            status: answer.status(),
            location: answer.header("location").map(str::to_owned),
            secret: answer.header("x-secret").is_some(),
            server: seen["server"].as_u64(),
            target: seen["target"].as_str().map(str::to_owned),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned()))
                .collect(),
        }
    }
}

/// What the head of every import announces is taken out: headers of the edge's own, and those of
/// the connection. Where a group has two servers and no key, either may answer.
fn alike(mut theirs: Answer, mut ours: Answer) -> (Answer, Answer) {
    let own = |name: &str| {
        name.starts_with("x-forwarded-") || ["x-real-ip", "x-request-id"].contains(&name)
    };
    ours.headers.retain(|name, _| !own(name) || theirs.headers.contains_key(name));
    for answer in [&mut theirs, &mut ours] {
        let upgrades = answer.headers.remove("upgrade").is_some();
        answer
            .headers
            .retain(|name, _| !name.starts_with("sec-websocket-") && name != "connection");
        answer.headers.insert("upgrade".to_owned(), upgrades.to_string());
        answer.server = None;
    }
    (theirs, ours)
}

/// A server that tells in its answer what it saw. One that is asked for /verify is an authorizer.
async fn start_server(number: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, number));
        }
    });
    address
}

async fn serve(mut socket: TcpStream, number: u64) -> Option<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let head = Message::parse(&bytes[..bytes.len() - 4]);
    let headers: BTreeMap<&str, &str> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let seen = serde_json::json!({ "server": number, "target": head.target(), "headers": headers });
    let start = match headers.get("sec-websocket-key") {
        _ if head.target().starts_with("/verify") => {
            let known = headers.get("cookie").is_some_and(|cookie| cookie.contains("ok"));
            let status = if known { "200 OK\r\nX-User: alice" } else { "401 Unauthorized" };
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n")
        }
        Some(key) if headers.contains_key("upgrade") => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            accept_of(key)
        ),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n".to_owned(),
    };
    let answer = format!("{start}X-Secret: 1\r\nX-Seen: {seen}\r\n\r\n");
    socket.write_all(answer.as_bytes()).await.ok()?;
    if start.contains(" 101 ") {
        // As long as its client: whoever ends the connection was in between.
        let mut rest = [0; 1024];
        while socket.read(&mut rest).await.ok()? > 0 {}
    }
    Some(())
}

#[tokio::test]
async fn what_is_no_nginx_configuration_exits_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for (text, words) in [
        ("[Unit]\nDescription=a", "has no ; at its end"),
        ("server { listen 80; ", "the file ends within a block"),
        ("user www;", "neither http nor server"),
        (
            "server { listen 80; location / { root /a; } }",
            "no server in it has a location that upgrades",
        ),
        ("include a.conf;", "the file includes itself"),
    ] {
        let file = folder.path().join("a.conf");
        std::fs::write(&file, text).expect("a file");
        let ended = run(&["import", "nginx", &file.display().to_string()]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(words), "{words:?} is not in {}", ended.stderr);
    }
    let ended = run(&["import", "nginx", "/no/such/file"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

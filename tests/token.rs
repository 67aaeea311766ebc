//! Who comes by a signed token: PyJWT signs, the built program judges.
//!
//! A request that is let in meets an upstream where nobody listens, and so a 502, where nothing
//! more is of interest. PyJWT is in the venv of `tests/peers.rs`; without it these tests are
//! skipped aloud.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use support::{Backend, Config, Edge, Frame, Message, Upgrade, ended, python, python_knows, skip};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

// ---- the other library ----

/// A process that signs, for all tests of this file.
struct Minter {
    keys: Value,
    secret: String,
    process: Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

fn minter() -> Option<&'static Minter> {
    static MINTER: OnceLock<Option<Minter>> = OnceLock::new();
    let minter = MINTER.get_or_init(Minter::start).as_ref();
    if minter.is_none() {
        skip("PyJWT is not installed; see the head of tests/peers.rs");
    }
    minter
}

impl Minter {
    fn start() -> Option<Minter> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !python_knows("jwt, cryptography") {
            return None;
        }
        let mut child = python()
            .arg(root.join("tests/peers/tokens.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let stdin = child.stdin.take().expect("stdin is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let first: Value = serde_json::from_str(&line(&mut stdout)).expect("its keys");
        let secret = first["secret"].as_str().expect("a secret").to_owned();
        Some(Minter { keys: first["keys"].clone(), secret, process: (child, stdin, stdout).into() })
    }

    fn ask(&self, question: &Value) -> String {
        let mut process = self.process.lock().expect("the minter");
        let (_, stdin, stdout) = &mut *process;
        writeln!(stdin, "{question}").expect("the minter listens");
        serde_json::from_str(&line(stdout)).expect("a token")
    }

    /// A token of one minute, with these claims besides.
    fn sign(&self, key: &str, alg: &str, claims: Value) -> String {
        self.sign_as(key, alg, key, claims)
    }

    fn sign_as(&self, key: &str, alg: &str, kid: &str, claims: Value) -> String {
        let claims = lasting(claims);
        self.ask(&json!({ "key": key, "alg": alg, "claims": claims, "head": { "kid": kid } }))
    }

    /// What no library signs.
    fn by_hand(&self, head: Value, secret: Option<&str>) -> String {
        self.ask(&json!({ "head": head, "claims": lasting(json!({})), "secret": secret }))
    }

    fn set(&self, names: &[&str]) -> String {
        let keys: Vec<&Value> = names.iter().map(|name| &self.keys[name]["jwk"]).collect();
        json!({ "keys": keys }).to_string()
    }

    fn pem(&self, name: &str) -> &str {
        self.keys[name]["pem"].as_str().expect("a key")
    }
}

fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the minter's answer");
    line
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock").as_secs()
}

fn lasting(mut claims: Value) -> Value {
    if claims.get("exp").is_none() {
        claims["exp"] = (now() + 600).into();
    }
    claims
}

/// An upstream that no other test can come to listen at.
const NOBODY: &str = "unix:/no/such/folder/app.sock";

/// Files with keys, which live as long as the test.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    /// `kind = "path"` of a file with this text.
    fn keys(&self, kind: &str, text: &str) -> String {
        let count = std::fs::read_dir(self.0.path()).expect("the folder").count();
        let path = self.0.path().join(format!("{count}"));
        std::fs::write(&path, text).expect("a file");
        format!("{kind} = {:?}", path.display().to_string())
    }
}

/// A route that asks for tokens, with these keys and whatever else.
fn route(config: Config, keys: &str, more: &str) -> Config {
    let from = if more.contains("from = ") { "" } else { "from = [\"header:authorization\"], " };
    config.route(&format!("origin = \"any\"\ntoken = {{ {from}keys = {{ {keys} }}, {more} }}"))
}

async fn edge(keys: &str, more: &str) -> Edge {
    route(Config::new(NOBODY), keys, more).start().await
}

fn bearer(token: &str) -> Upgrade {
    Upgrade::to("/").add("Authorization", &format!("Bearer {token}"))
}

async fn ask(edge: &Edge, request: Upgrade) -> Message {
    edge.connect_plain().await.ask(request).await
}

async fn status(edge: &Edge, token: &str) -> u16 {
    ask(edge, bearer(token)).await.status()
}

// ---- signatures ----

const SIGNED: [(&str, &str); 9] = [
    ("rsa", "RS256"),
    ("rsa", "RS384"),
    ("rsa", "RS512"),
    ("rsa", "PS256"),
    ("rsa", "PS384"),
    ("rsa", "PS512"),
    ("p256", "ES256"),
    ("p384", "ES384"),
    ("ed", "EdDSA"),
];
const ALL: &str = "algorithms = [\"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \
                   \"ES256\", \"ES384\", \"EdDSA\"]";

#[tokio::test]
async fn every_algorithm_is_verified_by_a_set_and_by_a_public_key() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let set = files.keys("jwks_file", &minter.set(&["rsa2", "rsa", "p256", "p384", "ed"]));
    let of_set = edge(&set, ALL).await;
    for (key, alg) in SIGNED {
        let token = minter.sign(key, alg, json!({}));
        assert_eq!(status(&of_set, &token).await, 502, "{alg} by the set");
        let nameless = minter.ask(&json!({ "key": key, "alg": alg, "claims": lasting(json!({})) }));
        assert_eq!(status(&of_set, &nameless).await, 502, "{alg} without a kid");
    }
    for key in ["rsa", "p256", "p384", "ed"] {
        let of_key = edge(&files.keys("public_key_file", minter.pem(key)), ALL).await;
        for (other, alg) in SIGNED {
            let wanted = if other == key { 502 } else { 401 };
            let token = minter.sign(other, alg, json!({}));
            assert_eq!(status(&of_key, &token).await, wanted, "{alg} by {key}");
        }
    }
}

#[tokio::test]
async fn secrets_come_from_a_file_or_the_environment() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let all = "algorithms = [\"HS256\", \"HS384\", \"HS512\"]";
    let of_file = edge(&files.keys("secret_file", &format!("{}\n", minter.secret)), all).await;
    let config = Config::new(NOBODY).environment("THE_SECRET", &minter.secret);
    let of_variable = route(config, "secret_env = \"THE_SECRET\"", all).start().await;
    for alg in ["HS256", "HS384", "HS512"] {
        let token = minter.sign("secret", alg, json!({}));
        assert_eq!(status(&of_file, &token).await, 502, "{alg}");
        assert_eq!(status(&of_variable, &token).await, 502, "{alg}");
    }
}

/// Status, outcome, a part of the log's detail, and the challenge.
async fn assert_refused(edge: &Edge, token: &str, words: &str) {
    let answer = ask(edge, bearer(token)).await;
    assert_eq!(answer.status(), 401, "{words}");
    let challenge = "Bearer realm=\"app\", error=\"invalid_token\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge), "{words}");
    let id = answer.json()["request_id"].clone();
    let line = edge.wait_for_log(|line| line["request_id"] == id).await;
    assert_eq!(line["outcome"], "token_invalid", "{line}");
    let detail = line["detail"].as_str().expect("a text");
    assert!(detail.contains(words), "{words:?} is not in {detail:?}");
}

#[tokio::test]
async fn a_token_that_is_not_good_is_401_and_the_log_says_why() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let set = files.keys("jwks_file", &minter.set(&["rsa", "p256"]));
    let more = "issuer = \"https://us\", audience = [\"chat\", \"game\"], algorithms = [\"RS256\", \"ES256\"]";
    let edge = edge(&set, more).await;
    let good = |mut claims: Value| {
        for (name, value) in [("iss", json!("https://us")), ("aud", json!("chat"))] {
            if claims.get(name).is_none() {
                claims[name] = value;
            }
        }
        minter.sign("rsa", "RS256", claims)
    };
    let second = now();
    for claims in [
        json!({}),
        json!({ "aud": ["x", "game"] }),
        json!({ "exp": second - 20 }),
        json!({ "exp": second as f64 + 9.5 }),
        json!({ "nbf": second + 20 }),
        json!({ "exp": second + 10 * 365 * 86_400 }),
    ] {
        assert_eq!(status(&edge, &good(claims.clone())).await, 502, "{claims}");
    }
    let table = [
        (good(json!({ "exp": second - 300 })), "expired 5 min ago"),
        (good(json!({ "exp": "soon" })), "no `exp`"),
        (good(json!({ "nbf": second + 90 })), "not valid for another"),
        (good(json!({ "iss": "https://them" })), "by the issuer \"https://them\""),
        (good(json!({ "aud": "mail" })), "for the audience \"mail\""),
        (good(json!({ "aud": [] })), "for the audience"),
        (
            minter.sign("rsa", "RS512", json!({})),
            "signed with \"RS512\", which this route does not list",
        ),
        (
            minter.sign_as("rsa2", "RS256", "new", json!({})),
            "no key has the kid \"new\"; the set has 2",
        ),
        (minter.sign_as("rsa2", "RS256", "rsa", json!({})), "signature is wrong"),
        (minter.sign_as("rsa", "RS256", "p256", json!({})), "for something else"),
        (minter.by_hand(json!({ "alg": "none" }), None), "signed with \"none\""),
        (
            minter.by_hand(json!({ "alg": "HS256", "kid": "rsa" }), Some(minter.pem("rsa"))),
            "\"HS256\"",
        ),
        (
            minter.by_hand(json!({ "alg": "RS256", "kid": "rsa" }), Some(minter.pem("rsa"))),
            "signature",
        ),
        (minter.by_hand(json!({ "alg": "RS256", "crit": ["b64"], "b64": false }), None), "crit"),
        (
            minter.by_hand(json!({ "alg": "RS256", "kid": "a\n\u{1b}[31m" }), Some("x")),
            "\\n\\u{1b}[31m",
        ),
        ("hello".into(), "no JWT"),
        (String::new(), "no JWT"),
        ("x".repeat(9000), "more than 8192 bytes"),
    ];
    for (token, words) in table {
        assert_refused(&edge, &token, words).await;
    }
    let no_expiry = minter.ask(&json!({ "key": "rsa", "alg": "RS256", "head": { "kid": "rsa" },
        "claims": { "iss": "https://us", "aud": "chat" } }));
    assert_refused(&edge, &no_expiry, "no `exp`").await;
}

#[tokio::test]
async fn no_token_is_401_and_two_are_400() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let from =
        "from = [\"header:authorization\", \"cookie:t\", \"query:t\", \"subprotocol:bearer\"]";
    let edge = edge(&files.keys("jwks_file", &minter.set(&["ed"])), from).await;
    for request in [Upgrade::to("/"), Upgrade::to("/").add("Authorization", "Basic YTpi")] {
        let answer = ask(&edge, request).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"app\""));
    }
    assert_eq!(edge.refused().await["outcome"], "token_missing");
    let token = minter.sign("ed", "EdDSA", json!({}));
    let cookie = format!("t={token}");
    let twice = [
        bearer(&token).add("Authorization", &format!("Bearer {token}")),
        Upgrade::to("/").add("Cookie", &format!("{cookie}; {cookie}")),
        Upgrade::to("/").add("Cookie", &cookie).add("Cookie", &cookie),
        Upgrade::to(&format!("/?t={token}&t={token}")),
        Upgrade::to("/").add("Sec-WebSocket-Protocol", &format!("bearer, {token}, bearer.{token}")),
    ];
    for request in twice {
        assert_eq!(ask(&edge, request).await.status(), 400);
    }
    // The first place decides, with nothing behind it.
    let bad_first = bearer("bad").add("Cookie", &cookie);
    assert_eq!(ask(&edge, bad_first).await.status(), 401);
    let good_first = bearer(&token).add("Cookie", "t=bad");
    assert_eq!(ask(&edge, good_first).await.status(), 502);
    let basic = Upgrade::to("/").add("Authorization", "Basic YTpi").add("Cookie", &cookie);
    assert_eq!(ask(&edge, basic).await.status(), 502);
}

#[tokio::test]
async fn a_good_token_of_somebody_else_is_403() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let set = files.keys("jwks_file", &minter.set(&["p256"]));
    let role = edge(&set, "required = { role = \"member\", level = 7 }").await;
    let sign = |claims| minter.sign("p256", "ES256", claims);
    let good = sign(json!({ "role": ["guest", "member"], "level": 7 }));
    assert_eq!(status(&role, &good).await, 502);
    let answer = ask(&role, bearer(&sign(json!({ "role": "guest", "level": 7 })))).await;
    assert_eq!(answer.status(), 403);
    let challenge = "Bearer realm=\"app\", error=\"insufficient_scope\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
    let line = role.wait_for_log(|line| line["outcome"] == "token_scope").await;
    let words = "the claim \"role\" is \"guest\" and must be or contain \"member\"";
    assert_eq!(line["detail"], words);

    let scope = edge(&set, "required = { scope = \"chat\" }").await;
    assert_eq!(status(&scope, &sign(json!({ "scope": "read chat" }))).await, 502);
    let answer = ask(&scope, bearer(&sign(json!({ "scope": "read" })))).await;
    let challenge = "Bearer realm=\"app\", error=\"insufficient_scope\", scope=\"chat\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
}

#[tokio::test]
async fn a_page_is_told_by_a_close() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let config = Config::new(NOBODY).route("reject = \"close\"\nunauthorized_code = 4123");
    let more = "from = [\"subprotocol:bearer\"], required = { role = \"member\" }";
    let edge = route(config, &set, more).start().await;
    for (token, code) in [("bad".to_owned(), 4123), (minter.sign("ed", "EdDSA", json!({})), 4403)] {
        let mut client = edge.connect_plain().await;
        let offer = format!("bearer, {token}");
        let request = Upgrade::to("/").add("Sec-WebSocket-Protocol", &offer);
        let answer = client.upgrade(request).await;
        assert_eq!(answer.header("sec-websocket-protocol"), Some("bearer"));
        client.closes(code).await;
    }
}

// ---- what the upstream is told ----

/// What the upstream sees of a request, and what the client is answered.
async fn passed(
    edge: &Edge,
    backend: &Backend,
    request: Upgrade,
    answer: &str,
) -> (Message, Message) {
    let mut client = edge.connect_plain().await;
    let upstream = async {
        let request = backend.accept().await;
        let head = request.head.clone();
        (head, request.upgrade(answer).await)
    };
    let (answer, (head, _upstream)) = tokio::join!(client.upgrade(request), upstream);
    (head, answer)
}

#[tokio::test]
async fn the_token_goes_no_further_and_all_else_as_it_came() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let from = "from = [\"header:authorization\", \"header:x-token\", \"cookie:t\", \"query:t\", \
                \"subprotocol:bearer\"]";
    let config = || Config::new(&backend.address);
    let strips = route(config(), &set, from).start().await;
    let passes = route(config(), &set, &format!("{from}, strip = false")).start().await;
    let token = minter.sign("ed", "EdDSA", json!({ "sub": "ada" }));
    let target = format!("/a%20b/?x=%41&t={token}&&y");
    let cookies = format!("a=1; t={token}; b=\"2\"");
    let whole = |request: Upgrade| {
        request.add("Cookie", &cookies).add("X-Token", &token).add("X_Token", "spelled otherwise")
    };

    let request = whole(Upgrade::to(&target)).add("Authorization", &format!("Bearer {token}"));
    let (head, _) = passed(&strips, &backend, request.clone(), "").await;
    assert_eq!(head.target(), "/a%20b/?x=%41&&y");
    assert_eq!(head.all("cookie"), ["a=1; b=\"2\""]);
    for name in ["authorization", "x-token", "x_token"] {
        assert!(head.all(name).is_empty(), "{name}");
    }
    let (head, _) = passed(&passes, &backend, request, "").await;
    assert_eq!(head.target(), target);
    assert_eq!(head.all("cookie"), [cookies.as_str()]);
    assert_eq!(head.header("authorization"), Some(format!("Bearer {token}").as_str()));

    let alone = Upgrade::to(&format!("/?t={token}")).add("Authorization", "Basic YTpi");
    let (head, _) = passed(&strips, &backend, alone, "").await;
    assert_eq!((head.target(), head.header("authorization")), ("/", Some("Basic YTpi")));
    let alone = Upgrade::to("/").add("Cookie", &format!("t={token}"));
    assert!(passed(&strips, &backend, alone, "").await.0.all("cookie").is_empty());

    let chat = "Sec-WebSocket-Protocol: chat\r\n";
    let dotted = format!("bearer.{token}");
    for edge in [&strips, &passes] {
        for (offer, sent, answer, got) in [
            (format!("bearer, {token}"), None, "", "bearer"),
            (format!("chat, bearer, {token}"), Some("chat"), "", "bearer"),
            (format!("bearer, {token}, chat"), Some("chat"), chat, "chat"),
            (format!("chat, {dotted}"), Some("chat"), "", "chat"),
            (dotted.clone(), None, "", dotted.as_str()),
        ] {
            let request = Upgrade::to("/").add("Sec-WebSocket-Protocol", &offer);
            let (head, told) = passed(edge, &backend, request, answer).await;
            assert_eq!(head.header("sec-websocket-protocol"), sent);
            assert_eq!(told.header("sec-websocket-protocol"), Some(got));
        }
        let other = Upgrade::to(&format!("/?t={token}")).add("Sec-WebSocket-Protocol", "chat");
        let (_, told) = passed(edge, &backend, other, "").await;
        assert_eq!(told.header("sec-websocket-protocol"), None, "nothing was taken out");
    }
}

#[tokio::test]
async fn claims_are_told_in_headers_that_no_client_can_set() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let forward = "forward = { sub = \"x-user-id\", level = \"x-level\", vip = \"x-vip\" }";
    let edge = route(Config::new(&backend.address), &set, forward).start().await;
    let spoof = |token: &str| {
        let names = ["X-User-Id", "x_user_id", "X-User_ID", "X-Level", "X_VIP"];
        names.iter().fold(bearer(token), |request, name| request.add(name, "admin"))
    };
    let token = minter.sign("ed", "EdDSA", json!({ "sub": "jürgen", "level": 7 }));
    let (head, _) = passed(&edge, &backend, spoof(&token), "").await;
    assert_eq!(head.header("x-user-id"), Some("jürgen"));
    assert_eq!(head.header("x-level"), Some("7"));
    for name in ["x_user_id", "x-user_id", "x-vip", "x_vip"] {
        assert!(head.all(name).is_empty(), "{name}");
    }
    let line = edge.wait_for_log(|line| line["message"] == "tunnel opened").await;
    assert_eq!(line["subject"], "jürgen");
    for claims in
        [json!({ "sub": "a\r\nx-admin: 1" }), json!({ "vip": ["a"] }), json!({ "level": null })]
    {
        let token = minter.sign("ed", "EdDSA", claims.clone());
        assert_eq!(status(&edge, &token).await, 401, "{claims}");
    }
}

#[tokio::test]
async fn nothing_of_a_token_is_in_any_output() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let from =
        "from = [\"header:authorization\", \"cookie:t\", \"query:t\", \"subprotocol:bearer\"]";
    let config = Config::new(&backend.address).route("compression = \"strip\"");
    let edge = route(config, &set, from).start().await;
    let good = minter.sign("ed", "EdDSA", json!({}));
    let tokens = [
        good.clone(),
        minter.sign("ed", "EdDSA", json!({ "exp": 1 })),
        minter.sign_as("ed", "EdDSA", "other", json!({})),
        minter.sign("p256", "ES256", json!({})),
        format!("{}A", minter.sign("ed", "EdDSA", json!({ "a": 1 }))),
    ];
    let mut seen = String::new();
    for token in &tokens {
        for request in [
            bearer(token),
            Upgrade::to("/").add("Cookie", &format!("t={token}")),
            Upgrade::to(&format!("/x?t={token}")),
            Upgrade::to("/").add("Sec-WebSocket-Protocol", &format!("bearer, {token}")),
        ] {
            if *token == good {
                let (head, answer) = passed(&edge, &backend, request, "").await;
                seen += &format!("{head:?} {answer:?}");
            } else {
                let answer = ask(&edge, request).await;
                assert_eq!(answer.status(), 401);
                seen += &format!("{answer:?} {}", String::from_utf8_lossy(&answer.body));
            }
        }
    }
    edge.wait_for_logs(4, ended).await;
    seen += &edge.logged(|_| true).iter().map(Value::to_string).collect::<String>();
    for part in tokens.iter().flat_map(|token| token.split('.')) {
        assert!(!seen.contains(part), "{part} is in the output");
    }
}

// ---- issuers ----

/// An issuer whose answer is the test's.
struct Issuer {
    url: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Option<String>>>,
}

impl Issuer {
    async fn new(answer: Option<String>) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys?a=b", listener.local_addr().expect("bound"));
        let (asked, answer) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(answer)));
        let (count, current) = (asked.clone(), answer.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (count, current) = (count.clone(), current.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else { return };
                        head.push(byte);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    let answer = current.lock().expect("the answer").clone();
                    match answer {
                        Some(answer) => {
                            let _ = socket.write_all(answer.as_bytes()).await;
                            let _ = socket.shutdown().await;
                        }
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Issuer { url, asked, answer }
    }

    async fn of(set: &str) -> Issuer {
        Issuer::new(Some(body(200, set))).await
    }

    fn says(&self, answer: Option<String>) {
        *self.answer.lock().expect("the answer") = answer;
    }

    fn keys(&self) -> String {
        format!("jwks_url = {:?}", self.url)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn body(status: u16, text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 {status} Word\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
}

async fn fetched(edge: &Edge) {
    edge.wait_for_log(|line| line["message"] == "keys fetched").await;
}

#[tokio::test]
async fn keys_of_one_url_are_fetched_once_and_anew_for_an_unknown_kid() {
    let Some(minter) = minter() else { return };
    let issuer = Issuer::of(&minter.set(&["rsa"])).await;
    let two = format!(
        "[[route]]\nname = \"two\"\npath = \"/two\"\nupstream = \"app\"\ntoken = {{ from = \
         [\"header:authorization\"], keys = {{ {} }} }}",
        issuer.keys()
    );
    let config = Config::new(NOBODY).workers(2).more(&two);
    let edge = route(config, &issuer.keys(), "").start().await;
    fetched(&edge).await;
    let old = minter.sign("rsa", "RS256", json!({}));
    let new = minter.sign("rsa2", "RS256", json!({}));
    assert_eq!(status(&edge, &old).await, 502);
    assert_eq!(issuer.asked(), 1, "two routes, one ring");

    issuer.says(Some(body(200, &minter.set(&["rsa", "rsa2"]))));
    let first = (0..20).map(|_| status(&edge, &new));
    let first = futures_util::future::join_all(first).await;
    assert_eq!(first, [502; 20], "who came while the new keys were fetched");
    assert_eq!((status(&edge, &old).await, issuer.asked()), (502, 2));

    let unknown = minter.sign_as("rsa2", "RS256", "unknown", json!({}));
    let flood = futures_util::future::join_all((0..50).map(|_| status(&edge, &unknown))).await;
    assert_eq!(flood, [401; 50]);
    assert_eq!(issuer.asked(), 2, "at most once in 30 s");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch() {
    let Some(minter) = minter() else { return };
    let issuer = Issuer::of(&minter.set(&["ed"])).await;
    let edge = edge(&issuer.keys(), "").await;
    fetched(&edge).await;
    let tokens: Vec<String> =
        (0..40).map(|one| minter.sign_as("ed", "EdDSA", &format!("k{one}"), json!({}))).collect();
    let flood = tokens.iter().map(|token| status(&edge, token));
    assert_eq!(futures_util::future::join_all(flood).await, [401; 40]);
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn without_a_set_it_is_503_until_there_is_one() {
    let Some(minter) = minter() else { return };
    let issuer = Issuer::new(Some(body(500, "no"))).await;
    let edge = edge(&issuer.keys(), "").await;
    let token = minter.sign("ed", "EdDSA", json!({}));
    let answer = ask(&edge, bearer(&token)).await;
    assert_eq!(answer.status(), 503);
    let seconds: u64 = answer.header("retry-after").expect("a time").parse().expect("a number");
    assert!((1..=5).contains(&seconds), "{seconds}");
    let line = edge.wait_for_log(|line| line["outcome"] == "keys_unavailable").await;
    assert_eq!((&line["level"], &line["by"]), (&"WARN".into(), &"edge".into()));
    assert_eq!(ask(&edge, Upgrade::to("/")).await.status(), 401, "no token needs no keys");
    assert_eq!(status(&edge, "garbage").await, 401);
    let line = edge.wait_for_log(|line| line["message"] == "keys not fetched").await;
    assert!(line["error"].as_str().is_some_and(|words| words.contains("500")), "{line}");
    assert!(!line["url"].as_str().expect("a URL").contains("a=b"), "{line}");
    issuer.says(Some(body(200, &minter.set(&["ed"]))));
    fetched(&edge).await;
    assert_eq!(status(&edge, &token).await, 502);
}

#[tokio::test]
async fn the_last_good_set_outlives_every_failure() {
    let Some(minter) = minter() else { return };
    let huge = format!("{{\"keys\": [{}]}}", " ".repeat(10 << 20));
    let failures = [
        Some(body(200, "<html>")),
        Some(body(200, "{\"keys\": []}")),
        Some(body(200, &huge)),
        Some(body(302, "")),
        Some(body(500, "")),
        Some("garbage\r\n\r\n".to_owned()),
        Some(String::new()),
        None,
    ];
    let tests = failures.into_iter().map(|failure| async {
        let issuer = Issuer::of(&minter.set(&["p256"])).await;
        let edge = edge(&issuer.keys(), "").await;
        fetched(&edge).await;
        let what = failure.as_deref().unwrap_or("silence").chars().take(40).collect::<String>();
        issuer.says(failure);
        let unknown = minter.sign_as("p256", "ES256", "unknown", json!({}));
        let (began, good) = (Instant::now(), minter.sign("p256", "ES256", json!({})));
        let (refused, admitted) = tokio::join!(status(&edge, &unknown), status(&edge, &good));
        assert_eq!((refused, admitted), (401, 502), "{what}");
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        assert!(issuer.asked() >= 2, "{what}");
        assert_eq!(status(&edge, &good).await, 502, "{what}");
    });
    futures_util::future::join_all(tests).await;
}

// ---- expiry ----

#[tokio::test]
async fn a_live_socket_ends_soon_behind_its_token() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let config = Config::new(&backend.address).close("1s");
    let edge = route(config, &set, "leeway = \"2s\"").start().await;
    let keeping =
        route(Config::new(&backend.address), &set, "leeway = \"2s\", on_expiry = \"keep\"");
    let keeping = keeping.start().await;

    let expiry = now() + 1;
    let token = minter.sign("ed", "EdDSA", json!({ "exp": expiry, "sub": "ada" }));
    let (mut client, mut upstream) = support::open_as(&edge, &backend, bearer(&token), "").await;
    let (mut kept, mut behind) = support::open_as(&keeping, &backend, bearer(&token), "").await;
    client.send_frame(Frame::text("still here")).await;
    assert_eq!(upstream.frame().await.payload, b"still here");

    let close = client.close().await;
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(expiry + 2);
    let late = SystemTime::now().duration_since(late).expect("not before its time");
    assert!(late < Duration::from_secs(6), "{late:?} late");
    assert_eq!(close.code, Some(4001));
    upstream.closes(1001).await;
    let line = edge.assert_ended("token_expired", "edge").await;
    assert_eq!((&line["code"], &line["subject"]), (&4001.into(), &"ada".into()));
    assert_eq!(line["close_sent"], "both");

    kept.send_frame(Frame::text("kept")).await;
    assert_eq!(behind.frame().await.payload, b"kept");
    assert_eq!(status(&keeping, &token).await, 401, "it lets nobody in any more");
}

#[tokio::test]
async fn behind_its_token_a_client_is_not_heard() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let config = Config::new(&backend.address).route("unauthorized_code = 4401").close("10s");
    let edge = route(config, &set, "leeway = \"0s\"").start().await;
    let token = minter.sign("ed", "EdDSA", json!({ "exp": now() + 2 }));
    let (mut client, mut upstream) = support::open_as(&edge, &backend, bearer(&token), "").await;
    assert_eq!(client.close().await.code, Some(4401));
    client.send_frame(Frame::text("too late")).await;
    // Its Close comes at once, and nothing before it, though the client has not answered.
    upstream.closes(1001).await;
}

#[tokio::test]
async fn what_becomes_of_the_expired_is_live() {
    let Some(minter) = minter() else { return };
    let (files, backend) = (Files::new(), Backend::tcp().await);
    let set = files.keys("jwks_file", &minter.set(&["ed"]));
    let config = |on_expiry: &str| {
        let more = format!("leeway = \"0s\", on_expiry = {on_expiry:?}");
        route(Config::new(&backend.address), &set, &more)
    };
    let edge = config("keep").start().await;
    let exp = now() + 2;
    let short = minter.sign("ed", "EdDSA", json!({ "exp": exp }));
    let long = minter.sign("ed", "EdDSA", json!({}));
    let (mut one, mut behind) = support::open_as(&edge, &backend, bearer(&short), "").await;
    let (mut two, mut other) = support::open_as(&edge, &backend, bearer(&long), "").await;
    assert!(one.reader.silent_for(Duration::from_millis(2500)).await, "it is kept");
    edge.reconfigure(&config("close")).await;
    one.closes(4001).await;
    behind.closes(1001).await;
    two.send_frame(Frame::text("still good")).await;
    assert_eq!(other.frame().await.payload, b"still good");
}

#[tokio::test]
async fn a_reload_keeps_fetched_keys_and_reads_files_anew() {
    let Some(minter) = minter() else { return };
    let (files, issuer) = (Files::new(), Issuer::of(&minter.set(&["ed"])).await);
    let secret = files.keys("secret_file", &minter.secret.replace('0', "1"));
    let two = format!(
        "[[route]]\nname = \"two\"\npath = \"/two\"\nupstream = \"app\"\ntoken = {{ from = \
         [\"header:authorization\"], algorithms = [\"HS256\"], keys = {{ {secret} }} }}"
    );
    let config = route(Config::new(NOBODY), &issuer.keys(), "").more(&two);
    let edge = config.start().await;
    fetched(&edge).await;
    let (fetched, read) =
        (minter.sign("ed", "EdDSA", json!({})), minter.sign("secret", "HS256", json!({})));
    let by_secret = || Upgrade::to("/two").add("Authorization", &format!("Bearer {read}"));
    assert_eq!(ask(&edge, by_secret()).await.status(), 401);
    issuer.says(Some(body(500, "")));
    std::fs::write(files.0.path().join("0"), &minter.secret).expect("a file");
    edge.reconfigure(&config.route("limits.max_message_size = \"1KiB\"")).await;
    assert_eq!(status(&edge, &fetched).await, 502);
    assert_eq!(issuer.asked(), 1);
    assert_eq!(ask(&edge, by_secret()).await.status(), 502);
}

// ---- the command ----

#[tokio::test]
async fn the_command_makes_what_the_edge_takes_and_says_what_it_would_not() {
    let Some(minter) = minter() else { return };
    let files = Files::new();
    let folder = files.0.path().display().to_string();
    let file = |name: &str, text: &str| {
        let path = format!("{folder}/{name}");
        std::fs::write(&path, text).expect("a file");
        path
    };
    let set = files.keys("jwks_file", &minter.set(&["rsa", "p256", "p384", "ed"]));
    let more = format!(
        "{ALL}, issuer = \"us\", audience = [\"chat\"], required = {{ role = \"member\" }}"
    );
    let edge = edge(&set, &more).await;
    for key in ["rsa", "p256", "p384", "ed"] {
        let private = minter.keys[key]["private"].as_str().expect("a key");
        let private = file(key, private);
        let made = support::run(&[
            "token",
            "make",
            "--key",
            &private,
            "--kid",
            key,
            "--sub",
            "ada",
            "--iss",
            "us",
            "--aud",
            "chat",
            "--claim",
            "role=[\"member\"]",
        ])
        .await;
        assert_eq!(made.code, Some(0), "{made:?}");
        assert!(made.stderr.contains("development"), "{made:?}");
        let token = made.stdout.trim();
        assert_eq!(status(&edge, token).await, 502, "{key}");
        let public = file("public", minter.pem(key));
        let read = support::run(&["token", "read", token, "--public-key-file", &public]).await;
        assert_eq!(read.code, Some(0), "{read:?}");
        assert!(read.stdout.contains("accepted: subject ada"), "{read:?}");
    }
    let secret = file("secret", &minter.secret);
    let made = support::run(&["token", "make", "--secret-file", &secret, "--exp", "1d"]).await;
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\n[[upstream]]\nname = \"a\"\nendpoints = \
         [\"127.0.0.1:1\"]\n[[route]]\nname = \"a\"\nupstream = \"a\"\norigin = \"any\"\n\
         [route.token]\nalgorithms = [\"HS256\"]\nkeys = {{ secret_file = {secret:?} }}\n\
         issuer = \"us\"\n"
    );
    let config = file("wsgate.toml", &text);
    let read = support::run(&["token", "read", made.stdout.trim(), "--config", &config]).await;
    assert_eq!(read.code, Some(1), "{read:?}");
    assert!(read.stdout.contains("refused: the token is by the issuer (none)"), "{read:?}");
    let short = file("short", "short");
    let made = support::run(&["token", "make", "--secret-file", &short]).await;
    assert!(made.stderr.contains("has 5 bytes and HS256 needs 32"), "{made:?}");
    for ended in [made, read] {
        assert!(!format!("{ended:?}").contains(&minter.secret));
    }
    let checked = std::fs::read_to_string(&config).expect("the file").replace(&secret, &short);
    std::fs::write(&config, checked).expect("the file");
    let checked = support::run(&["check", &config]).await;
    assert_eq!(checked.code, Some(1));
    assert!(checked.stderr.contains("the secret has 5 bytes"), "{checked:?}");
}

//! `[route.authorize]` from outside: whom the authorizer lets in, what it is asked, and what
//! becomes of those it lets in when it is asked again.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{
    Backend, Config, Edge, End, Frame, Message, PATIENCE, Peer, Upgrade, authority, open_as, soon,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the authorizer does with a question.
#[derive(Clone)]
enum Answer {
    /// Says these bytes, and keeps the connection.
    Says(Vec<u8>),
    /// Says nothing.
    Waits,
    /// Says these bytes and hangs up.
    Ends(Vec<u8>),
    /// Allows, but not at once.
    Allows(Duration),
}

/// A service of the test's own.
struct Authorizer {
    address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    answer: Mutex<Answer>,
    /// Every question so far, and when it came.
    questions: watch::Sender<Vec<(Instant, Message)>>,
    connections: AtomicUsize,
    open: watch::Sender<usize>,
    /// Questions that have no answer yet, and the most that there were.
    pending: AtomicUsize,
    most_pending: AtomicUsize,
}

impl Authorizer {
    async fn start(answer: Answer) -> Authorizer {
        Authorizer::serve(answer, None).await
    }

    async fn serve(answer: Answer, tls: Option<TlsAcceptor>) -> Authorizer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let desk = Arc::new(Desk {
            answer: Mutex::new(answer),
            questions: watch::Sender::default(),
            connections: AtomicUsize::new(0),
            open: watch::Sender::default(),
            pending: AtomicUsize::new(0),
            most_pending: AtomicUsize::new(0),
        });
        let serving = desk.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (desk, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    desk.connections.fetch_add(1, Ordering::Relaxed);
                    desk.open.send_modify(|open| *open += 1);
                    match tls {
                        None => desk.talk(socket).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                desk.talk(socket).await;
                            }
                        }
                    }
                    desk.open.send_modify(|open| *open -= 1);
                });
            }
        });
        Authorizer { address, desk }
    }

    /// The lines of a route that asks it.
    fn route(&self, more: &str) -> String {
        route(&format!("http://{}/check?by=edge", self.address), more)
    }

    fn answers(&self, answer: Answer) {
        *self.desk.answer.lock().expect("an answer") = answer;
    }

    fn questions(&self) -> Vec<(Instant, Message)> {
        self.desk.questions.borrow().clone()
    }

    /// Waits for so many questions in all.
    async fn asked(&self, count: usize) {
        let mut questions = self.desk.questions.subscribe();
        let asked = questions.wait_for(|questions| questions.len() >= count);
        soon("the authorizer is asked", asked).await.expect("the desk is there");
    }

    /// Waits for so many more.
    async fn asked_again(&self, count: usize) {
        self.asked(self.questions().len() + count).await;
    }

    async fn all_hung_up(&self) {
        let mut open = self.desk.open.subscribe();
        let gone = open.wait_for(|open| *open == 0);
        soon("the edge hangs up", gone).await.expect("the desk is there");
    }
}

impl Desk {
    async fn talk(&self, mut socket: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(head) = head(&mut socket).await {
            self.questions
                .send_modify(|questions| questions.push((Instant::now(), Message::parse(&head))));
            let pending = 1 + self.pending.fetch_add(1, Ordering::Relaxed);
            self.most_pending.fetch_max(pending, Ordering::Relaxed);
            let goes_on = self.answer(&mut socket).await;
            self.pending.fetch_sub(1, Ordering::Relaxed);
            if !goes_on {
                return;
            }
        }
    }

    /// `false` when the connection is to end.
    async fn answer(&self, socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
        let answer = self.answer.lock().expect("an answer").clone();
        match answer {
            Answer::Says(bytes) => {
                socket.write_all(&bytes).await.is_ok() && socket.flush().await.is_ok()
            }
            Answer::Ends(bytes) => {
                let _ = socket.write_all(&bytes).await;
                let _ = socket.shutdown().await;
                false
            }
            Answer::Waits => {
                let _ = socket.read_u8().await;
                false
            }
            Answer::Allows(time) => {
                tokio::time::sleep(time).await;
                socket.write_all(&saying(204, "")).await.is_ok()
            }
        }
    }
}

async fn head(socket: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    head.truncate(head.len() - 4);
    Some(head)
}

/// A whole answer with a small body; `lines` end in CRLF each.
fn saying(status: u16, lines: &str) -> Vec<u8> {
    let body = if status == 204 { "" } else { "Content-Length: 5\r\n\r\nhello" };
    let end = if status == 204 { "\r\n" } else { "" };
    format!("HTTP/1.1 {status} Word\r\n{lines}{body}{end}").into_bytes()
}

fn says(status: u16) -> Answer {
    Answer::Says(saying(status, ""))
}

fn route(url: &str, more: &str) -> String {
    format!("origin = \"any\"\nauthorize = {{ url = {url:?}, {more} }}")
}

/// The answer to one upgrade. An upstream where nobody listens shows by its 502 who was let in.
async fn asked(edge: &Edge) -> Message {
    edge.connect().await.ask(Upgrade::to("/ws")).await
}

#[tokio::test]
async fn the_authorizer_is_asked_about_the_request_and_the_upstream_is_told_its_answer() {
    let lines = "X-User-Id: ada\r\nX-Role: a\r\nX-Role: b\r\nX-Other: c\r\n";
    let authorizer = Authorizer::start(Answer::Says(saying(200, lines))).await;
    let backend = Backend::tcp().await;
    let more = "copy_headers = [\"x-user-id\", \"x-role\", \"x-absent\"], subject = \"x-user-id\"";
    let edge = Config::new(&backend.address).route(&authorizer.route(more)).start().await;
    let request = Upgrade::to("/ws/%7Eroom?token=a&b")
        .add("Cookie", "session=1")
        .add("Sec-WebSocket-Protocol", "chat")
        .add("X-Original-URI", "/other")
        .add("X_Original_Method", "POST")
        .add("If-None-Match", "*")
        .add("X-User-Id", "eve")
        .add("X_Role", "admin")
        .add("X-Absent", "eve")
        .add("X-Real-IP", "192.0.2.1");
    let mut client = edge.connect().await;
    let upstream = async {
        let request = backend.accept().await;
        let head = request.head.clone();
        (head, request.upgrade("").await)
    };
    let (_, (told, mut upstream)) = tokio::join!(client.upgrade(request), upstream);

    let question = authorizer.questions().remove(0).1;
    assert_eq!(question.start, "GET /check?by=edge HTTP/1.1");
    assert_eq!(question.header("host"), Some(authorizer.address.to_string().as_str()));
    assert_eq!(question.header("x-original-uri"), Some("/ws/%7Eroom?token=a&b"));
    assert_eq!(question.header("x-original-method"), Some("GET"));
    assert_eq!(question.header("cookie"), Some("session=1"));
    assert_eq!(question.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(question.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(question.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(question.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(question.header("x-forwarded-proto"), Some("https"));
    assert_eq!(question.header("x-request-id"), told.header("x-request-id"));
    let absent =
        ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "content-length"];
    for name in absent.into_iter().chain(["x_original_method", "if-none-match"]) {
        assert_eq!(question.header(name), None, "{name}");
    }

    assert_eq!(told.all("x-user-id"), ["ada"]);
    assert_eq!(told.all("x-role"), ["a", "b"]);
    for name in ["x_role", "x-absent", "x-other"] {
        assert_eq!(told.header(name), None, "{name}");
    }

    client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(upstream.closes(1000).await, End::Fin);
    let line = edge.assert_ended("client_close", "client").await;
    assert_eq!(line["subject"], "ada");
}

#[tokio::test]
async fn a_target_of_any_bytes_is_told_as_it_came_or_refused() {
    let authorizer = Authorizer::start(says(200)).await;
    let edge = Config::new(&Backend::nobody().await).route(&authorizer.route("")).start().await;
    for (target, status) in [("/ü?ü", 502), ("/\u{7f}", 400), ("/a?\u{7f}", 400)] {
        let asked = edge.connect().await.ask(Upgrade::to(target)).await.status();
        assert_eq!(asked, status, "{target:?}");
    }
    let questions = authorizer.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].1.header("x-original-uri"), Some("/ü?ü"));
    assert_eq!(asked(&edge).await.status(), 502);
}

#[tokio::test]
async fn whom_the_authorizer_names_has_one_rate_for_all_connections() {
    let authorizer = Authorizer::start(Answer::Says(saying(200, "X-User: ada\r\n"))).await;
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route(&authorizer.route("subject = \"x-user\""))
        .route("limits.messages = { rate = \"10/h\", per = \"subject\" }")
        .start()
        .await;
    let (mut one, mut upstream) = open(&edge, &backend, "device=1").await;
    for _ in 0..10 {
        one.send_frame(Frame::text("mine")).await;
        upstream.frame().await;
    }
    let (mut other, _upstream) = open(&edge, &backend, "device=2").await;
    other.send_frame(Frame::text("mine too")).await;
    assert_eq!(other.close().await.code, Some(1008));
    authorizer.answers(says(200));
    assert_eq!(asked(&edge).await.status(), 403, "a route that counts by subject needs one");
}

#[tokio::test]
async fn nobody_comes_without_the_authorizers_word() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_vec();
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(200 << 10));
    let long = format!("X-User: {}\r\n", "x".repeat(257));
    let answers = [
        ("a server's fault", says(500)),
        ("its own 503", says(503)),
        ("a redirect", Answer::Says(saying(302, "Location: /login\r\n"))),
        ("not found", says(404)),
        ("too many requests", says(429)),
        ("silence", Answer::Waits),
        ("half a head, and silence", Answer::Says(half.clone())),
        ("half a head", Answer::Ends(half)),
        ("garbage", Answer::Says(b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n".to_vec())),
        ("an end at once", Answer::Ends(Vec::new())),
        ("a head too large", Answer::Ends(large.into_bytes())),
        ("a tab in a copy", Answer::Says(saying(200, "X-Role: a\tb\r\n"))),
        ("two subjects", Answer::Says(saying(200, "X-User: a\r\nX-User: b\r\n"))),
        ("a subject too long", Answer::Says(saying(200, &long))),
        ("an upgrade", Answer::Says(saying(101, "Upgrade: h2c\r\nConnection: upgrade\r\n"))),
    ];
    let authorizer = Authorizer::start(says(500)).await;
    let more = "timeout = \"300ms\", copy_headers = [\"x-role\"], subject = \"x-user\"";
    let nobody = Backend::nobody().await;
    let edge = Config::new(&nobody).route(&authorizer.route(more)).start().await;
    for (what, answer) in answers {
        authorizer.answers(answer);
        let answer = asked(&edge).await;
        assert_eq!(answer.status(), 503, "{what}");
        let retry: u64 = answer.header("retry-after").expect(what).parse().expect(what);
        assert!((1..=5).contains(&retry), "{what}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    }
    let dead = Config::new(&nobody).route(&route(&format!("http://{nobody}/"), "")).start().await;
    assert_eq!(asked(&dead).await.status(), 503);

    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"authorize".into(), &"edge".into()), "{line}");
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        line["detail"],
        "the authorizer gave no verdict: it answered 500 Internal Server Error"
    );
    let fails = edge.logged(|line| line["message"] == "the authorizer fails");
    assert_eq!(fails.len(), 1, "one line for many faults");
    assert_eq!(fails[0]["authorizer"], authorizer.address.to_string());
    authorizer.answers(says(200));
    assert_eq!(asked(&edge).await.status(), 502);
    edge.wait_for_log(|line| line["message"] == "the authorizer answers again").await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_with_its_challenge() {
    let challenge = "WWW-Authenticate: Bearer realm=\"chat\"\r\nX-Inside: 10.0.0.7\r\n";
    let authorizer = Authorizer::start(Answer::Says(saying(401, challenge))).await;
    let nobody = Backend::nobody().await;
    let edge = Config::new(&nobody).route(&authorizer.route("")).start().await;
    let answer = asked(&edge).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"chat\""));
    assert_eq!(answer.header("x-inside"), None);
    assert_eq!(answer.json()["status"], 401);
    authorizer.answers(says(403));
    assert_eq!(asked(&edge).await.status(), 403);
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"authorize".into(), &"client".into()), "{line}");
    assert_eq!(edge.logged(|line| line["message"] == "the authorizer fails").len(), 0);
}

#[tokio::test]
async fn a_refusal_told_by_a_close_has_the_code_of_its_status() {
    let authorizer = Authorizer::start(says(401)).await;
    let lines = authorizer.route("");
    let edge = Config::new(&Backend::nobody().await)
        .route(&format!("reject = \"close\"\nunauthorized_code = 4444\n{lines}"))
        .start()
        .await;
    for (status, code) in [(401, 4444), (403, 4403), (500, 4503)] {
        authorizer.answers(says(status));
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
        assert_eq!(client.closes(code).await, End::CloseNotify);
    }
}

#[tokio::test]
async fn the_authorizers_head_decides_whatever_its_body_does() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 10 << 20);
    let mut large = head.clone().into_bytes();
    large.resize(large.len() + (10 << 20), b'x');
    let authorizer = Authorizer::start(Answer::Says(large)).await;
    let more = "timeout = \"10s\"";
    let edge = Config::new(&Backend::nobody().await).route(&authorizer.route(more)).start().await;
    let begin = Instant::now();
    assert_eq!(asked(&edge).await.status(), 502);
    authorizer.answers(Answer::Says(head.clone().into_bytes()));
    assert_eq!(asked(&edge).await.status(), 502);
    authorizer.answers(Answer::Ends(head.into_bytes()));
    assert_eq!(asked(&edge).await.status(), 502);
    authorizer.answers(says(200));
    assert_eq!(asked(&edge).await.status(), 502);
    assert!(begin.elapsed() < Duration::from_secs(10), "no body was waited for");
}

#[tokio::test]
async fn one_connection_serves_many_questions_and_is_made_anew_when_it_was_closed() {
    let authorizer = Authorizer::start(says(200)).await;
    let edge = Config::new(&Backend::nobody().await).route(&authorizer.route("")).start().await;
    for _ in 0..10 {
        assert_eq!(asked(&edge).await.status(), 502);
    }
    let connections = || authorizer.desk.connections.load(Ordering::Relaxed);
    // A body may still be under way when the next question comes.
    assert!(connections() <= 3, "{} connections for 10 questions", connections());
    authorizer.answers(Answer::Ends(saying(200, "")));
    for _ in 0..5 {
        assert_eq!(asked(&edge).await.status(), 502);
    }
}

#[tokio::test]
async fn who_is_refused_before_is_not_asked_about() {
    let authorizer = Authorizer::start(says(200)).await;
    let lines = authorizer.route("").replace("\"any\"", "{ allow = [\"https://a.example\"] }");
    let edge = Config::new(&Backend::nobody().await).route(&lines).start().await;
    assert_eq!(asked(&edge).await.status(), 403);
    assert!(authorizer.questions().is_empty());
    let page = Upgrade::to("/").add("Origin", "https://a.example");
    assert_eq!(edge.connect().await.ask(page).await.status(), 502);
    assert_eq!(authorizer.questions().len(), 1);
}

/// The open files of an edge that serves already.
async fn descriptors(edge: &Edge) -> usize {
    let plain = Upgrade::to("/").without("Upgrade");
    assert_eq!(edge.connect().await.ask(plain).await.status(), 426);
    edge.descriptors()
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_question_with_it() {
    let authorizer = Authorizer::start(Answer::Waits).await;
    let lines = authorizer.route("timeout = \"60s\"");
    let edge = Config::new(&Backend::nobody().await).route(&lines).start().await;
    let before = descriptors(&edge).await;
    for _ in 0..20 {
        let mut client = edge.connect().await;
        client.send(&Upgrade::to("/").bytes()).await;
        authorizer.asked_again(1).await;
        drop(client);
    }
    edge.wait_for_logs(20, |line| line["outcome"] == "client_gone").await;
    authorizer.all_hung_up().await;
    edge.descriptors_fall_to(before).await;
}

/// Opens a tunnel that its authorizer is asked about again.
async fn open(edge: &Edge, backend: &Backend, cookie: &str) -> (Peer, Peer) {
    open_as(edge, backend, Upgrade::to("/ws?a=b").add("Cookie", cookie), "").await
}

#[tokio::test]
async fn a_socket_whose_authorization_was_revoked_is_closed() {
    for status in [401, 403] {
        let authorizer = Authorizer::start(says(204)).await;
        let backend = Backend::tcp().await;
        let lines = authorizer.route("recheck = \"200ms\"");
        let edge = Config::new(&backend.address)
            .route(&format!("unauthorized_code = 4401\n{lines}"))
            .start()
            .await;
        let (mut client, mut upstream) = open(&edge, &backend, "user=1").await;
        authorizer.asked(3).await;
        client.send_frame(Frame::text("still here")).await;
        assert_eq!(upstream.frame().await.payload, b"still here");
        let questions = authorizer.questions();
        for (_, question) in &questions[1..] {
            let sorted = |message: &Message| {
                let mut headers = message.headers.clone();
                headers.sort();
                headers
            };
            assert_eq!(sorted(question), sorted(&questions[0].1), "it is asked the same");
        }
        authorizer.answers(says(status));
        assert_eq!(client.closes(4401).await, End::CloseNotify);
        assert_eq!(upstream.closes(1001).await, End::Fin);
        let line = edge.assert_ended("authorization_revoked", "edge").await;
        assert_eq!((&line["code"], &line["close_sent"]), (&4401.into(), &"both".into()), "{line}");
    }
}

#[tokio::test]
async fn what_a_revoked_client_sends_goes_no_further() {
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let edge =
        Config::new(&backend.address).route(&authorizer.route("recheck = \"100ms\"")).start().await;
    let (mut client, mut upstream) = open(&edge, &backend, "user=1").await;
    authorizer.answers(says(403));
    assert_eq!(client.close().await.code, Some(4001));
    client.send_frame(Frame::text("too late")).await;
    client.send_frame(Frame::close(4001, "")).await;
    assert_eq!(upstream.close().await.code, Some(1001));
}

#[tokio::test]
async fn faults_of_the_authorizer_close_nobody() {
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let lines = authorizer.route("recheck = \"100ms\", timeout = \"100ms\"");
    let edge = Config::new(&backend.address).route(&lines).start().await;
    let (mut client, mut upstream) = open(&edge, &backend, "user=1").await;
    let faults = [
        says(500),
        says(302),
        Answer::Waits,
        Answer::Ends(Vec::new()),
        Answer::Says(b"garbage\r\n\r\n".to_vec()),
    ];
    for fault in faults {
        authorizer.answers(fault);
        authorizer.asked_again(2).await;
        client.send_frame(Frame::text("here")).await;
        assert_eq!(upstream.frame().await.payload, b"here");
    }
    assert_eq!(edge.logged(|line| line["message"] == "the authorizer fails").len(), 1);
    authorizer.answers(says(204));
    edge.wait_for_log(|line| line["message"] == "the authorizer answers again").await;
    authorizer.answers(says(403));
    assert_eq!(client.closes(4001).await, End::CloseNotify);
}

#[tokio::test]
async fn an_end_of_the_tunnel_is_the_end_of_its_questions() {
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let lines = authorizer.route("recheck = \"50ms\", timeout = \"60s\"");
    let edge = Config::new(&backend.address).route(&lines).start().await;
    let before = descriptors(&edge).await;
    let mut tunnels = Vec::new();
    for _ in 0..10 {
        tunnels.push(open(&edge, &backend, "user=1").await);
    }
    authorizer.answers(Answer::Waits);
    authorizer.asked_again(10).await;
    drop(tunnels);
    edge.wait_for_logs(10, support::ended).await;
    // Those under way are given up, and no more come.
    authorizer.all_hung_up().await;
    let asked = authorizer.questions().len();
    edge.descriptors_fall_to(before).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(authorizer.questions().len(), asked);
}

#[tokio::test]
async fn rechecks_are_bounded_in_number_and_spread_in_time() {
    const SOCKETS: usize = 120;
    let interval = Duration::from_secs(2);
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let edge =
        Config::new(&backend.address).route(&authorizer.route("recheck = \"2s\"")).start().await;
    let mut tunnels = Vec::new();
    for number in 0..SOCKETS {
        tunnels.push(open(&edge, &backend, &format!("user={number}")).await);
    }
    let opened = Instant::now();
    authorizer.desk.most_pending.store(0, Ordering::Relaxed);
    authorizer.answers(Answer::Allows(Duration::from_millis(20)));
    let mut asked: HashMap<String, Vec<Instant>> = HashMap::new();
    soon("every socket is asked about three times", async {
        loop {
            asked.clear();
            for (when, question) in authorizer.questions() {
                let cookie = question.header("cookie").expect("a cookie").to_owned();
                asked.entry(cookie).or_default().push(when);
            }
            if asked.values().all(|times| times.len() >= 4) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(asked.len(), SOCKETS);
    let mut pauses = Vec::new();
    for times in asked.values() {
        pauses.extend(times[1..].windows(2).map(|pair| pair[1] - pair[0]));
    }
    let shortest = pauses.iter().min().expect("pauses");
    assert!(*shortest >= interval.mul_f64(0.79), "{shortest:?}");
    // The second round is spread over much of the interval, though all came at once.
    let mut second: Vec<Instant> = asked.values().map(|times| times[2]).collect();
    second.sort();
    let spread = second[SOCKETS * 9 / 10] - second[SOCKETS / 10];
    assert!(spread > interval / 4, "{spread:?}, opened {:?} ago", opened.elapsed());
    let most = authorizer.desk.most_pending.load(Ordering::Relaxed);
    assert!(most <= 32, "{most} at once");
}

#[tokio::test]
async fn a_slow_authorizer_has_few_rechecks_at_once_and_all_in_their_turn() {
    const SOCKETS: usize = 80;
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route(&authorizer.route("recheck = \"100ms\", timeout = \"10s\""))
        .start()
        .await;
    authorizer.answers(Answer::Allows(Duration::ZERO));
    let mut tunnels = Vec::new();
    for number in 0..SOCKETS {
        tunnels.push(open(&edge, &backend, &format!("user={number}")).await);
    }
    authorizer.answers(Answer::Allows(Duration::from_millis(200)));
    authorizer.desk.most_pending.store(0, Ordering::Relaxed);
    let before = authorizer.questions().len();
    authorizer.asked_again(5 * SOCKETS).await;
    let most = authorizer.desk.most_pending.load(Ordering::Relaxed);
    assert_eq!(most, 32, "as many as may be, and no more");
    let mut turns: HashMap<String, usize> = HashMap::new();
    for (_, question) in &authorizer.questions()[before..] {
        *turns.entry(question.header("cookie").expect("a cookie").to_owned()).or_default() += 1;
    }
    assert_eq!(turns.len(), SOCKETS, "nobody is passed over");
}

#[tokio::test]
async fn an_authorizer_is_asked_by_https_where_the_system_trusts_its_authority() {
    let tls = authority().acceptor(&["localhost", "127.0.0.1", "127.0.0.2"]);
    let authorizer = Authorizer::serve(says(200), Some(tls)).await;
    let lines = route(&format!("https://localhost:{}/auth", authorizer.address.port()), "");
    let config = Config::new(&Backend::nobody().await).route(&lines);
    let config = config.environment("SSL_CERT_DIR", "/none");
    let trusting = |file: &Path| config.clone().environment("SSL_CERT_FILE", file);
    let edge = trusting(&authority().file("ca.pem")).start().await;
    assert_eq!(asked(&edge).await.status(), 502);

    let stranger = rcgen::generate_simple_self_signed(["other.example".to_owned()]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.pem");
    std::fs::write(&file, stranger.expect("a certificate").cert.pem()).expect("a file");
    let edge = trusting(&file).start().await;
    assert_eq!(asked(&edge).await.status(), 503);
    let detail = edge.refused().await["detail"].as_str().expect("a text").to_owned();
    assert!(detail.contains("the certificate of localhost is by no authority in"), "{detail}");

    let (code, words) = trusting(Path::new("/none.pem")).refused().await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("this system knows no certificate authority"), "{words}");
}

#[tokio::test]
async fn a_drain_ends_rechecked_sockets_like_others() {
    let authorizer = Authorizer::start(says(204)).await;
    let backend = Backend::tcp().await;
    let mut edge = Config::new(&backend.address)
        .route(&authorizer.route("recheck = \"50ms\", timeout = \"60s\""))
        .server("drain = { window = \"100ms\" }")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend, "user=1").await;
    authorizer.answers(Answer::Waits);
    authorizer.asked_again(1).await;
    edge.signal(rustix::process::Signal::TERM);
    assert_eq!(client.closes(1012).await, End::CloseNotify);
    assert_eq!(upstream.closes(1001).await, End::Fin);
    assert!(edge.exit(PATIENCE).await.success());
}

//! Limits of a subject hold for all its connections together, on all workers, and for nobody
//! else.

mod support;

use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use support::{Backend, Config, Edge, Frame, Peer, Upgrade, open_as, soon};

const SECRET: &str = "a secret for this test and for no other";

/// The request of a subject, or of a token that names none.
fn of(subject: Option<&str>) -> Upgrade {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let mut claims = json!({ "exp": now.as_secs() + 600 });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::default(), &claims, &key).expect("a token");
    Upgrade::to("/").add("Authorization", &format!("Bearer {token}"))
}

/// A route that knows subjects by their tokens, on two workers.
async fn edge(backend: &str, limits: &str) -> Edge {
    let keys = "token = { from = [\"header:authorization\"], algorithms = [\"HS256\"], \
         keys = { secret_env = \"WSGATE_TEST_SECRET\" } }";
    Config::new(backend)
        .environment("WSGATE_TEST_SECRET", SECRET)
        .workers(2)
        .route(&format!("{keys}\nlimits = {{ {limits} }}"))
        .start()
        .await
}

async fn open_for(edge: &Edge, backend: &Backend, subject: &str) -> (Peer, Peer) {
    open_as(edge, backend, of(Some(subject)), "").await
}

#[tokio::test]
async fn a_subject_has_so_many_connections() {
    let backend = Backend::tcp().await;
    let edge = edge(&backend.address, "connections.per_subject = 2").await;
    let (mut first, _one) = open_for(&edge, &backend, "ada").await;
    let (_second, _two) = open_for(&edge, &backend, "ada").await;
    let refused = edge.connect().await.ask(of(Some("ada"))).await;
    let retry: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert_eq!((refused.status(), (1..=5).contains(&retry)), (429, true));
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"cap".into(), &"client".into()));
    let (_third, _three) = open_for(&edge, &backend, "eve").await;

    first.send_frame(Frame::close(1000, "")).await;
    edge.wait_for_log(|line| line["reason"] == "client_lost" || line["reason"] == "client_close")
        .await;
    let (_again, _four) = open_for(&edge, &backend, "ada").await;
}

#[tokio::test]
async fn who_is_nobody_cannot_be_counted() {
    let edge = edge("unix:/no/such/folder/app.sock", "connections.per_subject = 2").await;
    let refused = edge.connect().await.ask(of(None)).await;
    let challenge = refused.header("www-authenticate").unwrap_or_default().to_owned();
    assert_eq!(refused.status(), 403, "{challenge}");
    assert_eq!(edge.refused().await["outcome"], "token_scope");
    assert_eq!(edge.connect().await.ask(of(Some("ada"))).await.status(), 502);
}

#[tokio::test]
async fn a_message_too_many_of_all_connections_ends_the_one_that_sent_it() {
    let backend = Backend::tcp().await;
    let limits = "messages = { rate = \"10/min\", burst = 10, per = \"subject\" }";
    let edge = edge(&backend.address, limits).await;
    let (mut one, mut one_app) = open_for(&edge, &backend, "ada").await;
    let (mut other, mut other_app) = open_for(&edge, &backend, "ada").await;
    let (mut stranger, mut stranger_app) = open_for(&edge, &backend, "eve").await;
    for _ in 0..5 {
        relay(&mut one, &mut one_app).await;
        relay(&mut other, &mut other_app).await;
        relay(&mut stranger, &mut stranger_app).await;
    }
    other.send_frame(Frame::text("one too many")).await;
    other.closes(1008).await;
    let line = edge.assert_ended("rate_limited", "client").await;
    assert_eq!(line["subject"], "ada");
    relay(&mut stranger, &mut stranger_app).await;
    // Coming back gains nothing.
    let (mut again, _app) = open_for(&edge, &backend, "ada").await;
    again.send_frame(Frame::text("and again")).await;
    again.closes(1008).await;
}

#[tokio::test]
async fn a_throttled_subject_is_heard_in_order_and_at_its_rate() {
    let backend = Backend::tcp().await;
    let limits =
        "messages = { rate = \"20/s\", burst = 1, per = \"subject\", action = \"throttle\" }";
    let edge = edge(&backend.address, limits).await;
    let (mut one, mut one_app) = open_for(&edge, &backend, "ada").await;
    let (mut other, mut other_app) = open_for(&edge, &backend, "ada").await;
    let start = Instant::now();
    for client in [&mut one, &mut other] {
        for number in 0..10 {
            client.send_frame(Frame::text(&number.to_string())).await;
        }
    }
    tokio::join!(in_order(&mut one_app), in_order(&mut other_app));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(940), "20 messages at 20 a second took {took:?}");
}

async fn in_order(app: &mut Peer) {
    for number in 0..10 {
        assert_eq!(soon("a message", app.frame()).await.payload, number.to_string().as_bytes());
    }
}

async fn relay(client: &mut Peer, upstream: &mut Peer) {
    client.send_frame(Frame::text("hello")).await;
    assert_eq!(upstream.frame().await.payload, b"hello");
}

//! Upstreams behind TLS: whom the edge trusts, and what it says of those whom it does not.

mod support;

use support::{
    Authority, Backend, Config, Edge, End, Frame, Manner, Server, Upgrade, authority,
    can_have_hosts, run, skip, soon,
};

/// An edge before `endpoints` that trusts the test's authority; `tls` are further keys.
fn trusting(endpoints: &str, tls: &str) -> Config {
    let ca = authority().file("ca.pem");
    Config::new("").endpoints(endpoints).upstream(&format!("tls = {{ ca = {ca:?}, {tls} }}"))
}

async fn before(server: &Server, tls: &str) -> Edge {
    trusting(&format!("[{:?}]", server.endpoint()), tls).start().await
}

async fn status(edge: &Edge) -> u16 {
    edge.connect_plain().await.ask(Upgrade::to("/")).await.status()
}

/// What the log says of the first handshake that failed.
async fn refused(edge: &Edge) -> String {
    assert_eq!(status(edge).await, 502);
    let line = edge.refused().await;
    assert_eq!((&line["outcome"], &line["by"]), (&"dial_failed".into(), &"upstream".into()));
    line["detail"].as_str().expect("a detail").to_owned()
}

#[tokio::test]
async fn a_tunnel_goes_through_tls_on_both_sides() {
    let (backend, acceptor) = (Backend::tcp().await, authority().acceptor(&["127.0.0.1"]));
    let edge = trusting(&format!("[{:?}]", backend.address), "").start().await;
    let client = async {
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
        client
    };
    let upstream = async { backend.accept_tls(&acceptor).await.upgrade("").await };
    let (mut client, mut upstream) = tokio::join!(client, upstream);
    // More than a record, a scratch and a socket's buffer hold.
    let large: Vec<u8> = (0..900_000u32).map(|index| index as u8).collect();
    let there = async {
        client.send_frame(Frame::binary(large.clone())).await;
        client.send_frame(Frame::text("to the upstream")).await;
    };
    let back = async {
        assert_eq!(upstream.frame().await.payload, large);
        assert_eq!(upstream.frame().await.payload, b"to the upstream");
        upstream
    };
    let ((), mut upstream) = tokio::join!(there, back);
    let there = async { upstream.send_frame(Frame::binary(large.clone())).await };
    let back = async { assert_eq!(client.frame().await.payload, large) };
    tokio::join!(there, back);
    client.send_frame(Frame::close(1000, "done")).await;
    upstream.closes(1000).await;
    assert_eq!(client.close().await.code, Some(1000));
    edge.assert_ended("client_close", "client").await;
}

#[tokio::test]
async fn plain_requests_share_a_connection_and_an_upgrade_has_its_own() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let (backend, acceptor) = (Backend::tcp().await, authority().acceptor(&["127.0.0.1"]));
    let config = trusting(&format!("[{:?}]", backend.address), "").route("plain_http = \"proxy\"");
    let edge = config.start().await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    let mut kept = backend.accept_tls(&acceptor).await.answer(OK).await;
    assert_eq!(client.reader.answer().await.body, b"hi");
    client.send(GET).await;
    kept.reader.request().await;
    kept.send(OK.as_bytes()).await;
    assert_eq!(client.reader.answer().await.body, b"hi");

    let upstream = async { backend.accept_tls(&acceptor).await.upgrade("").await };
    let (_, mut upstream) = tokio::join!(client.upgrade(Upgrade::to("/")), upstream);
    upstream.send_frame(Frame::text("hello")).await;
    assert_eq!(client.frame().await, Frame::text("hello"));
    assert_eq!(kept.end().await, End::CloseNotify, "it was idle");
}

#[tokio::test]
async fn what_comes_right_behind_the_101_is_not_lost() {
    let (backend, acceptor) = (Backend::tcp().await, authority().acceptor(&["127.0.0.1"]));
    let edge = trusting(&format!("[{:?}]", backend.address), "").start().await;
    let client = async {
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
        client
    };
    let frames = [Frame::text("first"), Frame::binary(vec![7; 40_000])];
    let upstream = async {
        let request = backend.accept_tls(&acceptor).await;
        let mut answer = request.switching("").into_bytes();
        frames.iter().for_each(|frame| answer.extend(frame.encode()));
        request.answer(answer).await
    };
    let (mut client, _upstream) = tokio::join!(client, upstream);
    for frame in &frames {
        assert_eq!(client.frame().await.payload, frame.payload);
    }
}

#[tokio::test]
async fn a_server_is_called_by_its_name() {
    // By `server_name`, else the host of the endpoint, else `host`, else the address.
    let named = |name| authority().acceptor(&[name]);
    let server = Server::start_tls(named("chat.internal")).await;
    assert_eq!(status(&before(&server, "server_name = \"chat.internal\"").await).await, 101);
    let by_host = trusting(&format!("[{:?}]", server.endpoint()), "");
    let by_host = by_host.upstream("host = \"chat.internal:81\"").start().await;
    assert_eq!(status(&by_host).await, 101);

    let server = Server::start_tls(named("localhost")).await;
    let endpoint = format!("[\"localhost:{}\"]", server.address.port());
    let by_endpoint = trusting(&endpoint, "").upstream("host = \"another\"").start().await;
    assert_eq!(status(&by_endpoint).await, 101);

    let server = Server::start_tls(named("127.0.0.1")).await;
    assert_eq!(status(&before(&server, "").await).await, 101);
}

#[tokio::test]
async fn the_addresses_of_a_name_show_a_certificate_for_the_name() {
    if !can_have_hosts() {
        return skip("this system gives a process no /etc/hosts of its own (unshare)");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 chat.test\n").expect("the names are written");
    let server = Server::start_tls(authority().acceptor(&["chat.test"])).await;
    let name = format!("chat.test:{}", server.address.port());
    let config = trusting("[]", "").upstream(&format!("resolve = {{ name = {name:?} }}"));
    let edge = config.hosts(&hosts).start().await;
    edge.wait_for_log(|line| line["message"] == "addresses changed").await;
    assert_eq!(status(&edge).await, 101);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_both_names() {
    let server = Server::start_tls(authority().acceptor(&["a.internal", "b.internal"])).await;
    let told = refused(&before(&server, "server_name = \"chat.internal\"").await).await;
    assert!(told.contains("for a.internal, b.internal and not for chat.internal"), "{told}");
    assert!(told.contains(&server.endpoint()), "{told}");
    let told = refused(&before(&server, "").await).await;
    assert!(told.contains("and not for 127.0.0.1"), "{told}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let server = Server::start_tls(authority().expired_acceptor("127.0.0.1")).await;
    let told = refused(&before(&server, "").await).await;
    assert!(told.contains("the certificate of 127.0.0.1 has expired"), "{told}");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let server = Server::start_tls(Authority::unknown().acceptor(&["127.0.0.1"])).await;
    let told = refused(&before(&server, "").await).await;
    assert!(told.contains("is by no authority in "), "{told}");
    // Without `ca` those of the system are asked, who do not know the test's.
    let server = Server::start_tls(authority().acceptor(&["127.0.0.1"])).await;
    let edge = Config::new(&server.endpoint()).upstream("tls = {}").start().await;
    let told = refused(&edge).await;
    assert!(told.contains("is by no authority in this system's list"), "{told}");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_it() {
    let server = Server::start_tls(authority().demanding_acceptor("127.0.0.1")).await;
    let shown = format!("certificate = {}", authority().client_files("edge"));
    assert_eq!(status(&before(&server, &shown).await).await, 101);

    let edge = before(&server, "").await;
    assert_eq!(status(&edge).await, 502);
    let told = edge.refused().await["detail"].to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_from_one_that_does() {
    let backend = Backend::tcp().await;
    let edge = trusting(&format!("[{:?}]", backend.address), "").start().await;
    let answer = async {
        let mut peer = backend.connection().await;
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer
    };
    let (told, _peer) = tokio::join!(refused(&edge), answer);
    assert!(told.contains("127.0.0.1 does not speak TLS"), "{told}");
}

#[tokio::test]
async fn a_tls_handshake_that_never_ends_is_late() {
    let backend = Backend::tcp().await;
    let config = trusting(&format!("[{:?}]", backend.address), "");
    // Whichever of the two is the shorter.
    for bound in ["connect_timeout", "handshake_timeout"] {
        let edge = config.clone().upstream(&format!("{bound} = \"300ms\"")).start().await;
        let (told, _silent) = tokio::join!(refused(&edge), backend.connection());
        assert!(told.contains("not connected within 300ms"), "{bound}: {told}");
    }
}

#[tokio::test]
async fn failed_tls_ejects_an_endpoint() {
    let ill = Server::start_tls(authority().expired_acceptor("127.0.0.1")).await;
    let well = Server::start_tls(authority().acceptor(&["127.0.0.1"])).await;
    let endpoints = format!("[{:?}, {:?}]", ill.endpoint(), well.endpoint());
    let passive = "passive = { failures = 3, eject = \"60s\" }";
    let edge = trusting(&endpoints, "").upstream(passive).start().await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = edge.connect_plain().await;
        client.upgrade(Upgrade::to("/")).await;
        clients.push(client);
    }
    assert_eq!(ill.dials().len(), 3, "no more than it took");
    let line = edge.wait_for_log(|line| line["message"] == "endpoint ejected").await;
    assert_eq!(line["endpoint"], ill.endpoint());
    assert!(line["reason"].to_string().contains("has expired"), "{line}");
}

#[tokio::test]
async fn probes_go_through_tls() {
    let server = Server::start_tls(authority().acceptor(&["chat.internal"])).await;
    let health = "health = { probe = \"http:/healthz\", interval = \"50ms\", timeout = \"10s\", \
                  unhealthy_after = 1, healthy_after = 1 }";
    let endpoints = format!("[{:?}]", server.endpoint());
    let config = trusting(&endpoints, "server_name = \"chat.internal\"").upstream(health);
    let edge = config.start().await;
    server.behaves(Manner::Status(503));
    edge.wait_for_log(|line| line["message"] == "endpoint is unhealthy").await;
    server.behaves(Manner::Well);
    edge.wait_for_log(|line| line["message"] == "endpoint is healthy").await;

    let edge = trusting(&endpoints, "").upstream(&health.replace("http:/healthz", "tcp"));
    let edge = edge.start().await;
    let line = edge.wait_for_log(|line| line["message"] == "endpoint is unhealthy").await;
    assert!(line["reason"].to_string().contains("not for 127.0.0.1"), "{line}");
}

#[tokio::test]
async fn tls_goes_over_a_unix_socket() {
    let acceptor = authority().acceptor(&["chat.internal"]);
    let backend = Backend::unix().await;
    let endpoints = format!("[{:?}]", backend.address);
    let edge = trusting(&endpoints, "server_name = \"chat.internal\"").start().await;
    let client = async {
        let mut client = edge.connect().await;
        client.upgrade(Upgrade::to("/")).await;
        client
    };
    let upstream = async { backend.accept_tls(&acceptor).await.upgrade("").await };
    let (mut client, mut upstream) = tokio::join!(client, upstream);
    client.send_frame(Frame::text("hello")).await;
    assert_eq!(upstream.frame().await.payload, b"hello");
    upstream.send_frame(Frame::close(1000, "")).await;
    client.closes(1000).await;
    soon("the upstream's answer", upstream.close()).await;
}

#[tokio::test]
async fn files_that_are_no_good_are_told_by_the_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let empty = file("empty.pem", "");
    let ca = authority().file("ca.pem");
    let table = [
        (format!("ca = {empty:?}"), "holds no certificate in PEM form"),
        ("ca = \"nowhere.pem\"".to_owned(), "cannot read the authorities of the upstream"),
        (
            format!("certificate = {{ chain = {ca:?}, key = {empty:?} }}"),
            "holds no private key in PEM form",
        ),
        (mismatched(), "is not the key of the first certificate in"),
    ];
    for (tls, told) in table {
        let config = Config::new("127.0.0.1:1").upstream(&format!("tls = {{ {tls} }}"));
        let path = file("wsgate.toml", &config.text());
        let checked = run(&["check", &path]).await;
        assert_eq!(checked.code, Some(1), "{tls}: {}", checked.stderr);
        assert!(checked.stderr.contains(told), "{tls}: {}", checked.stderr);
        assert!(checked.stderr.contains("1 fault"), "{tls}: {}", checked.stderr);
    }
}

/// The chain of one pair and the key of another.
fn mismatched() -> String {
    let (one, other) = (authority().client_files("one"), authority().client_files("other"));
    let chain = one.split(", key").next().expect("a chain");
    let key = other.split("key = ").nth(1).expect("a key");
    format!("certificate = {chain}, key = {key}")
}

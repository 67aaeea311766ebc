//! PROXY headers: whose they are, what they say, and what becomes of a connection without one.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Backend, Config, Edge, End, Peer, Program, Request, Upgrade, authority, client_config, open,
    relay, skip, soon,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8443\r\n";
const V1_IPV6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 8443\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A header of version 2; `block` is what its length counts.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("it fits").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, block].concat()
}

fn ipv4() -> Vec<u8> {
    [&[192, 0, 2, 7, 198, 51, 100, 1], &4711_u16.to_be_bytes()[..], &8443_u16.to_be_bytes()]
        .concat()
}

fn ipv6() -> Vec<u8> {
    let address = |last| [&[0x20, 0x01, 0x0d, 0xb8], &[0; 11][..], &[last]].concat();
    [address(7), address(1), vec![0x12, 0x67, 0x20, 0xfb]].concat()
}

/// Extensions of so many bytes, with one in the middle that nobody knows.
fn padded(size: u16) -> Vec<u8> {
    let padding = [&[4], &size.to_be_bytes()[..], &vec![b'\n'; size.into()]].concat();
    [ipv4(), padding, vec![0xee, 0, 1, 7]].concat()
}

fn config(backend: &Backend) -> Config {
    Config::new(&backend.address)
        .listener("proxy_protocol = true")
        .server("trusted_proxies = [\"127.0.0.0/16\"]")
}

async fn socket(address: SocketAddr) -> TcpStream {
    let socket = soon("a TCP connection", TcpStream::connect(address)).await.expect("connected");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    socket
}

/// A plain client behind a balancer that says `header`.
async fn behind(edge: &Edge, header: &[u8]) -> Peer {
    let mut socket = socket(edge.plain).await;
    socket.write_all(header).await.expect("the header is taken");
    Peer::client(socket)
}

/// Has it upgrade; gives what the upstream is asked.
async fn asked(client: &mut Peer, backend: &Backend) -> Request {
    client.send(&Upgrade::to("/").bytes()).await;
    backend.accept().await
}

/// Whom the edge takes a client for that says `header`: X-Forwarded-For and its port.
async fn taken_for(edge: &Edge, backend: &Backend, header: &[u8]) -> (String, String) {
    let mut client = behind(edge, header).await;
    told(&asked(&mut client, backend).await)
}

fn told(request: &Request) -> (String, String) {
    let field = |name| request.head.header(name).unwrap_or_default().to_owned();
    assert_eq!(field("x-forwarded-for"), field("x-real-ip"));
    (field("x-forwarded-for"), field("x-forwarded-port"))
}

/// That nothing is answered, and the connection ends; a reset is an end too.
async fn is_closed(client: &mut Peer) {
    let end = client.end().await;
    assert!(matches!(end, End::Fin | End::Reset), "{end:?}");
}

async fn closed_for(edge: &Edge, detail: &str) {
    edge.wait_for_log(|line| {
        line["message"] == "connection without a PROXY header closed"
            && line["detail"].as_str().is_some_and(|said| said.contains(detail))
    })
    .await;
}

#[tokio::test]
async fn a_header_says_who_the_client_is() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let named = |addr: &str| (addr.to_owned(), "8443".to_owned());
    for (header, client) in [
        (V1.to_vec(), "192.0.2.7"),
        (V1_IPV6.to_vec(), "2001:db8::7"),
        (v2(0x21, 0x11, &ipv4()), "192.0.2.7"),
        (v2(0x21, 0x21, &ipv6()), "2001:db8::7"),
        (v2(0x21, 0x11, &padded(3000)), "192.0.2.7"),
    ] {
        assert_eq!(taken_for(&edge, &backend, &header).await, named(client));
    }
    let own = ("127.0.0.1".to_owned(), edge.plain.port().to_string());
    for header in [
        UNKNOWN.to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &ipv4()),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(taken_for(&edge, &backend, &header).await, own);
    }
}

#[tokio::test]
async fn the_client_that_it_names_is_the_one_of_networks_and_logs() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).route("clients.deny = [\"192.0.2.0/24\"]").start().await;
    let mut client = behind(&edge, V1).await;
    assert_eq!(client.ask(Upgrade::to("/")).await.status(), 403);
    assert_eq!(edge.refused().await["client"], "192.0.2.7");
    assert_eq!(taken_for(&edge, &backend, V1_IPV6).await.0, "2001:db8::7");
}

#[tokio::test]
async fn forwarding_headers_are_believed_of_a_proxy_that_the_header_names_and_of_no_other() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let named = |source: &str| format!("PROXY TCP4 {source} 198.51.100.1 4711 8443\r\n");
    let nobody = String::from_utf8(UNKNOWN.to_vec()).expect("text");
    for (header, forwarded) in [
        (named("192.0.2.7"), "192.0.2.7"),
        (named("127.0.0.9"), "203.0.113.9, 127.0.0.9"),
        (nobody, "127.0.0.1"),
    ] {
        let mut client = behind(&edge, header.as_bytes()).await;
        let request = Upgrade::to("/").add("X-Forwarded-For", "203.0.113.9");
        client.send(&request.bytes()).await;
        let request = backend.accept().await;
        assert_eq!(request.head.header("x-forwarded-for"), Some(forwarded), "{header}");
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    for header in [V1.to_vec(), v2(0x21, 0x11, &padded(20))] {
        let mut socket = socket(edge.plain).await;
        for byte in header {
            socket.write_all(&[byte]).await.expect("a byte is taken");
            tokio::task::yield_now().await;
        }
        let mut client = Peer::client(socket);
        assert_eq!(told(&asked(&mut client, &backend).await).0, "192.0.2.7");
    }
}

/// A TCP connection whose first write, whatever it is, goes out behind `header` in one piece.
struct Glued {
    socket: TcpStream,
    header: Vec<u8>,
}

impl tokio::io::AsyncRead for Glued {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Glued {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let glued = [&std::mem::take(&mut self.header), bytes].concat();
        let behind = glued.len() - bytes.len();
        std::pin::Pin::new(&mut self.socket).poll_write(cx, &glued).map_ok(|sent| sent - behind)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn tls_begins_behind_the_header_even_in_one_packet() {
    use tokio::io::AsyncReadExt;
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    for header in [V1.to_vec(), v2(0x21, 0x11, &padded(300))] {
        let glued = Glued { socket: socket(edge.tls).await, header };
        let name = ServerName::try_from("localhost").expect("a server's name");
        let connecting = TlsConnector::from(client_config()).connect(name, glued);
        let mut client = soon("a TLS handshake", connecting).await.expect("a TLS handshake");
        client.write_all(&Upgrade::to("/").bytes()).await.expect("a request is taken");
        let request = backend.accept().await;
        assert_eq!(told(&request).0, "192.0.2.7");
        assert_eq!(request.head.header("x-forwarded-proto"), Some("https"));
        let _upstream = request.upgrade("").await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
}

#[tokio::test]
async fn garbage_is_closed_at_once_and_counted() {
    let backend = Backend::tcp().await;
    let config = config(&backend).more("[admin]\nlisten = \"127.0.0.1:0\"");
    let edge = config.start().await;
    let long = v2(0x21, 0x11, &padded(5000));
    let cases: [(&[u8], &str); 5] = [
        (&Upgrade::to("/").bytes(), "does not begin with"),
        (b"\x16\x03\x01\x02\x00\x01", "does not begin with"),
        (b"PROXY TCP4 nobody nowhere 1 2\r\n", "cannot be read"),
        (&v2(0x21, 0x12, &ipv4()), "cannot be read"),
        (&long, "more than 4096 bytes"),
    ];
    for (bytes, detail) in cases {
        let mut client = behind(&edge, bytes).await;
        is_closed(&mut client).await;
        closed_for(&edge, detail).await;
    }
    let metrics = edge.admin().await.metrics().await;
    assert_eq!(metrics["wsgate_accept_errors_total"], 5.0);
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_closed_whatever_it_says() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    for header in [V1, b""] {
        let liar = TcpSocket::new_v4().expect("a socket");
        liar.bind("127.1.0.1:0".parse().expect("an address")).expect("a local address");
        let mut socket = liar.connect(edge.plain).await.expect("connected");
        match socket.write_all(header).await {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => is_closed(&mut Peer::client(socket)).await,
        }
    }
    closed_for(&edge, "not in trusted_proxies").await;
}

#[tokio::test]
async fn half_a_header_and_none_at_all_are_closed_when_the_time_is_up() {
    let backend = Backend::tcp().await;
    let timeouts = "timeouts = { tls = \"1s\", header = \"1s\" }";
    let edge = config(&backend).listener(timeouts).start().await;
    for address in [edge.plain, edge.tls] {
        for begun in [&b""[..], b"PROXY TCP4 192.0", &v2(0x21, 0x11, &ipv4())[..20]] {
            let start = Instant::now();
            let mut socket = socket(address).await;
            socket.write_all(begun).await.expect("half a header is taken");
            is_closed(&mut Peer::client(socket)).await;
            assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test]
async fn a_header_that_does_not_come_counts_as_pending_and_makes_room() {
    let backend = Backend::tcp().await;
    let edge = config(&backend).listener("limits.pending = 1").start().await;
    let mut slow = behind(&edge, b"PROXY ").await;
    let mut client = behind(&edge, V1).await;
    is_closed(&mut slow).await;
    assert_eq!(told(&asked(&mut client, &backend).await).0, "192.0.2.7");
}

#[tokio::test]
async fn a_reload_may_ask_for_the_header() {
    let backend = Backend::tcp().await;
    let without = Config::new(&backend.address).server("trusted_proxies = [\"127.0.0.0/16\"]");
    let edge = without.start().await;
    let (mut before, mut upstream) = open(&edge, &backend).await;
    edge.reconfigure(&without.clone().listener("proxy_protocol = true")).await;
    assert_eq!(taken_for(&edge, &backend, V1).await.0, "192.0.2.7");
    relay(&mut before, &mut upstream, "stays").await;
}

/// HAProxy in front of the edge; gives where it listens.
async fn haproxy(folder: &Path, edge: SocketAddr, how: &str) -> Option<(Program, SocketAddr)> {
    if Command::new("haproxy").arg("-v").output().is_err() {
        skip("haproxy is not installed (Debian package haproxy)");
        return None;
    }
    // A port that was free a moment ago: HAProxy does not tell one that it chose itself.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let front = port.expect("a free port");
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         listen front\n bind {front}\n server edge {edge} {how}\n"
    );
    std::fs::write(&file, text).expect("HAProxy's file");
    let program = Program::start(Command::new("haproxy").arg("-db").arg("-f").arg(file));
    soon("HAProxy listens", async {
        while TcpStream::connect(front).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    Some((program, front))
}

#[tokio::test]
async fn haproxy_tells_the_address_of_its_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let backend = Backend::tcp().await;
    let edge = config(&backend).start().await;
    let ca = authority().file("ca.pem");
    let tls = format!("ssl verify required ca-file {} sni str(localhost)", ca.display());
    for (to, how) in [
        (edge.plain, "send-proxy".to_owned()),
        (edge.plain, "send-proxy-v2".to_owned()),
        (edge.tls, format!("send-proxy {tls}")),
        (edge.tls, format!("send-proxy-v2 proxy-v2-options crc32c,unique-id {tls}")),
    ] {
        let Some((_haproxy, front)) = haproxy(folder.path(), to, &how).await else { return };
        let client = TcpSocket::new_v4().expect("a socket");
        client.bind("127.7.0.1:0".parse().expect("an address")).expect("a local address");
        let mut client = Peer::client(client.connect(front).await.expect("connected"));
        let request = asked(&mut client, &backend).await;
        let expected = ("127.7.0.1".to_owned(), front.port().to_string());
        assert_eq!(told(&request), expected, "{how}");
        let mut upstream = request.upgrade("").await;
        assert_eq!(client.reader.head().await.status(), 101);
        relay(&mut client, &mut upstream, how.as_str()).await;
    }
}

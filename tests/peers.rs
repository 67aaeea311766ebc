//! Real peers both ways through the edge: Node `ws`, Python `websockets`, tokio-tungstenite.
//!
//! Each client meets each server with messages of 0 to 16 MiB, text and binary, in fragments, ten
//! thousand in a row, deflated where both can, with subprotocols and a Close of its own. A language
//! that is not installed is skipped aloud: `npm ci` in `examples`, and a venv in
//! `target/peers-venv` with `tests/peers/requirements.txt`. An app of Express and Socket.IO meets
//! its clients too, by plain HTTP and by an upgrade on the same path.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use support::{
    Config, Edge, authority, client_config, connect_tls, has_packages, node, python, python_knows,
    skip, within,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

const SIZES: [usize; 10] = [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20, 16 << 20];
const MESSAGES: usize = 10_000;

/// Text and binary of 16 MiB, and then some: so much goes each way, unless it is deflated.
const PLAIN_BYTES: u64 = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    Node,
    Python,
    Tungstenite,
}

const LIBRARIES: [Library; 3] = [Library::Node, Library::Python, Library::Tungstenite];

#[tokio::test]
async fn node_meets_all_servers() {
    meet_all(Library::Node).await;
}

#[tokio::test]
async fn python_meets_all_servers() {
    meet_all(Library::Python).await;
}

#[tokio::test]
async fn tungstenite_meets_all_servers() {
    meet_all(Library::Tungstenite).await;
}

/// Event streams with reconnection, long polling, uploads, Socket.IO by polling and upgraded.
#[tokio::test]
async fn express_and_socket_io_meet_their_clients() {
    let wanted = ["express", "eventsource", "socket.io", "socket.io-client"];
    if !has_packages(&wanted) {
        return skipped("Express or Socket.IO");
    }
    let app = Library::Node.serve_script("app.js").await;
    let edge = Config::new(&app.address).route("plain_http = \"proxy\"").start().await;
    let url = format!("https://{}", edge.tls);
    let mut client = Library::Node.command("app_client.js");
    client.arg(url).env("NODE_EXTRA_CA_CERTS", authority().file("ca.pem"));
    within(Duration::from_secs(60), "the client is content", finished(client)).await;
    edge.assert_ended("client_close", "client").await;
}

fn skipped(what: &str) {
    skip(&format!("{what} is not installed; see the head of tests/peers.rs"));
}

async fn meet_all(client: Library) {
    if !client.is_installed() {
        return skipped(&format!("{client:?}"));
    }
    for server in LIBRARIES {
        if server.is_installed() {
            within(Duration::from_secs(100), "a meeting", meet(client, server)).await;
        }
    }
}

async fn meet(client: Library, server: Library) {
    println!("{client:?} meets {server:?}");
    let server_process = server.serve().await;
    let edge = Config::new(&server_process.address)
        .route("limits = { max_frame_size = \"32MiB\", max_message_size = \"32MiB\" }")
        .start()
        .await;
    let deflate = client != Library::Tungstenite && server != Library::Tungstenite;
    match client {
        Library::Tungstenite => converse(&edge).await,
        scripted => scripted.run_client(&edge, deflate).await,
    }
    let line = edge.assert_ended("client_close", "client").await;
    assert_eq!(line["code"], 4000, "{line}");
    for direction in ["bytes_upstream", "bytes_downstream"] {
        let bytes = line[direction].as_u64().expect("a count");
        assert_eq!(bytes < PLAIN_BYTES, deflate, "deflated or not: {line}");
    }
}

/// A server somewhere; the process, where it is one, ends with the value.
struct Server {
    address: String,
    _process: Option<Killed>,
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Library {
    fn is_installed(self) -> bool {
        match self {
            Library::Node => has_packages(&["ws"]),
            Library::Python => python_knows("websockets.asyncio.client"),
            Library::Tungstenite => true,
        }
    }

    /// The interpreter, about to run a script.
    fn command(self, script: &str) -> Command {
        let mut command = match self {
            Library::Node => node(&folder(), script),
            Library::Python => {
                let mut command = python();
                command.arg(script).current_dir(folder());
                command
            }
            Library::Tungstenite => unreachable!("tungstenite runs in this process"),
        };
        command.stdin(Stdio::null());
        command
    }

    fn script(self, role: &str) -> String {
        let ending = if self == Library::Node { "js" } else { "py" };
        format!("{role}.{ending}")
    }

    async fn serve(self) -> Server {
        if self == Library::Tungstenite {
            return Server { address: tungstenite_server().await, _process: None };
        }
        self.serve_script(&self.script("server")).await
    }

    async fn serve_script(self, script: &str) -> Server {
        let process = self.command(script).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|error| panic!("{script}: {error}"));
        let stdout = process.stdout.take().expect("stdout is piped");
        let port = tokio::task::spawn_blocking(move || first_line(stdout)).await.expect("a thread");
        Server { address: format!("127.0.0.1:{port}"), _process: Some(Killed(process)) }
    }

    async fn run_client(self, edge: &Edge, deflate: bool) {
        let script = self.script("client");
        let mut command = self.command(&script);
        command.arg(format!("wss://{}/", edge.tls)).arg(authority().file("ca.pem"));
        command.arg(if deflate { "deflate" } else { "plain" });
        finished(command).await;
    }
}

/// Runs a script that ends by itself, and well.
async fn finished(mut command: Command) {
    let script = format!("{:?}", command.get_args().collect::<Vec<_>>());
    let process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut process = Killed(process.unwrap_or_else(|error| panic!("{script}: {error}")));
    let mut stderr = process.0.stderr.take().expect("stderr is piped");
    let words = std::thread::spawn(move || {
        let mut words = String::new();
        let _ = stderr.read_to_string(&mut words);
        words
    });
    let status = loop {
        if let Some(status) = process.0.try_wait().expect("the client can be waited for") {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let words = words.join().expect("the client's words");
    assert!(status.success(), "{script}: {words}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

fn first_line(stdout: std::process::ChildStdout) -> u16 {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("the server's port");
    line.trim().parse().unwrap_or_else(|_| panic!("a port was due: {line:?}"))
}

fn sizes() -> WebSocketConfig {
    WebSocketConfig::default().max_frame_size(None).max_message_size(None)
}

async fn tungstenite_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(echo(socket));
        }
    });
    address
}

#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
async fn echo(socket: TcpStream) {
    socket.set_nodelay(true).expect("TCP_NODELAY");
    let choose = |request: &Request, mut response: Response| {
        let offered = request.headers().get("sec-websocket-protocol");
        if offered.is_some_and(|offered| offered.to_str().is_ok_and(|all| all.contains("chat"))) {
            let chat = "chat".parse().expect("a header's value");
            response.headers_mut().insert("sec-websocket-protocol", chat);
        }
        Ok(response)
    };
    let accepted =
        tokio_tungstenite::accept_hdr_async_with_config(socket, choose, Some(sizes())).await;
    let mut socket = accepted.expect("the edge's upgrade");
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// What the scripts of the other languages do too.
async fn converse(edge: &Edge) {
    let socket = connect_tls(edge.tls, "localhost", client_config()).await.expect("TLS");
    let mut request = format!("wss://{}/", edge.tls).into_client_request().expect("a request");
    let offer = "mqtt, chat".parse().expect("a header's value");
    request.headers_mut().insert("sec-websocket-protocol", offer);
    let opened = tokio_tungstenite::client_async_with_config(request, socket, Some(sizes())).await;
    let (mut socket, answer) = opened.expect("an upgrade");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for size in SIZES {
        let pattern: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        assert_echo(&mut socket, Message::binary(pattern)).await;
        assert_echo(&mut socket, Message::text("ä€xyz".repeat(size / 8))).await;
    }
    for opcode in [Data::Text, Data::Binary] {
        for (part, opcode, last) in
            [("in ", opcode, false), ("", Data::Continue, false), ("parts", Data::Continue, true)]
        {
            let frame = Frame::message(part, OpCode::Data(opcode), last);
            socket.send(Message::Frame(frame)).await.expect("a fragment");
        }
        assert_eq!(received(&mut socket).await.into_data(), "in parts");
    }
    let (mut sink, mut stream) = socket.split();
    let sending = async {
        for number in 0..MESSAGES {
            sink.feed(Message::text(format!("message number {number}"))).await.expect("sent");
        }
        sink.flush().await.expect("flushed");
    };
    let receiving = async {
        for number in 0..MESSAGES {
            let message = stream.next().await.expect("a message").expect("a good one");
            assert_eq!(message.into_text().expect("text"), format!("message number {number}"));
        }
    };
    tokio::join!(sending, receiving);
    let mut socket = sink.reunite(stream).expect("two halves of one");
    let done = CloseFrame { code: CloseCode::from(4000), reason: "done".into() };
    socket.close(Some(done.clone())).await.expect("a Close");
    assert_eq!(received(&mut socket).await, Message::Close(Some(done)));
}

async fn assert_echo<S>(socket: &mut WebSocketStream<S>, message: Message)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sending, receiving) = (message.clone(), message);
    socket.send(sending).await.expect("sent");
    let came = received(socket).await;
    assert!(came == receiving, "{} bytes came back otherwise", receiving.len());
}

async fn received<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Message {
    socket.next().await.expect("a message").expect("a good one")
}

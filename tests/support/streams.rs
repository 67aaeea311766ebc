//! A client that speaks HTTP/2: one connection, and WebSockets as streams of it (RFC 8441).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream, client};
use http::{HeaderMap, Method, Request, Version};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::edge::Edge;
use super::frame::Frame;
use super::soon;
use super::tls::{client_config, connect_tls};

/// A connection of HTTP/2.
pub struct Streams {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// How a stream, or a connection's task, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    EndStream,
    Reset(Reason),
    /// With its connection.
    Gone,
}

/// An answer whose body is whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// A WebSocket on a stream.
pub struct Stream {
    pub headers: HeaderMap,
    pub sender: SendStream<Bytes>,
    pub receiver: RecvStream,
    held: Vec<u8>,
}

/// A request for a WebSocket.
pub fn connect(path: &str) -> Request<()> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(format!("https://localhost{path}"))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"));
    request.body(()).expect("a request")
}

/// The same with a further field, or another value of one that is there.
pub fn connect_with(path: &str, name: &'static str, value: &'static str) -> Request<()> {
    let mut request = connect(path);
    request.headers_mut().insert(name, value.parse().expect("a value"));
    request
}

impl Streams {
    pub async fn open(edge: &Edge) -> Streams {
        Streams::open_by(edge, &client::Builder::new()).await
    }

    pub async fn open_by(edge: &Edge, builder: &client::Builder) -> Streams {
        let tls = Streams::socket(edge).await;
        let (sender, connection) = soon("SETTINGS", builder.handshake(tls)).await.expect("h2");
        let connection = tokio::spawn(connection);
        let streams = Streams { sender, connection };
        soon("the edge offers extended CONNECT", async {
            while !streams.sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        streams
    }

    /// A TLS connection whose ends have agreed on HTTP/2, and nothing more.
    pub async fn socket(edge: &Edge) -> TlsStream<TcpStream> {
        let mut config = (*client_config()).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connecting = connect_tls(edge.tls, "localhost", Arc::new(config));
        let tls = soon("a TLS handshake", connecting).await.expect("a TLS handshake");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        tls
    }

    /// Asks for a WebSocket that will be had.
    pub async fn upgrade(&mut self, request: Request<()>) -> Stream {
        let (response, sender) = self.send(request, false).await;
        let response = soon("an answer", response).await.expect("an answer");
        assert_eq!(response.status(), 200, "{response:?}");
        let (head, receiver) = response.into_parts();
        Stream { headers: head.headers, sender, receiver, held: Vec::new() }
    }

    /// Sends a request; nothing of the answer is waited for.
    pub async fn send(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (client::ResponseFuture, SendStream<Bytes>) {
        let sender = soon("room for a stream", self.sender.clone().ready()).await;
        let mut sender = sender.expect("an open connection");
        sender.send_request(request, ends).expect("a request that can be sent")
    }

    /// Sends a request with this body and takes the whole answer.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, mut sender) = self.send(request, body.is_empty()).await;
        if !body.is_empty() {
            sender.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (head, mut receiver) = soon("an answer", response).await?.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = soon("a body", receiver.data()).await {
            let piece = piece?;
            receiver.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        let trailers = soon("the end of an answer", receiver.trailers()).await?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }

    /// The end of the connection.
    pub async fn ended(&mut self) -> Result<(), h2::Error> {
        soon("the connection ends", &mut self.connection).await.expect("its task ends")
    }

    pub fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }

    /// Hangs up.
    pub async fn abort(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

impl Stream {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// Sends as the edge's window has room.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            self.sender.reserve_capacity(bytes.len());
            let granted = soon("room in the edge's window", self.granted()).await;
            let piece = bytes.split_to(granted.min(bytes.len()));
            self.sender.send_data(piece, false).expect("an open stream");
        }
    }

    async fn granted(&mut self) -> usize {
        loop {
            let granted = poll_fn(|cx| self.sender.poll_capacity(cx)).await;
            match granted.expect("an open stream").expect("an open stream") {
                0 => {}
                granted => return granted,
            }
        }
    }

    pub async fn send_frame(&mut self, frame: Frame) {
        self.send(frame.masked(true).encode()).await;
    }

    pub async fn frame(&mut self) -> Frame {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.held) {
                self.held.drain(..used);
                return frame;
            }
            if let Some(over) = self.fill().await {
                panic!("a frame was due, the stream ended: {over:?}");
            }
        }
    }

    /// The end of the stream; not one byte may come before it.
    pub async fn over(&mut self) -> Over {
        let (came, over) = self.rest().await;
        assert!(came.is_empty(), "this came before the end: {came:?}");
        over
    }

    /// Reads on until the end; gives what came.
    pub async fn rest(&mut self) -> (Vec<u8>, Over) {
        loop {
            if let Some(over) = self.fill().await {
                return (std::mem::take(&mut self.held), over);
            }
        }
    }

    /// Reads one piece; gives how the stream ended if it did.
    async fn fill(&mut self) -> Option<Over> {
        match soon("data or the end of a stream", self.receiver.data()).await {
            None => Some(Over::EndStream),
            Some(Ok(piece)) => {
                let _ = self.receiver.flow_control().release_capacity(piece.len());
                self.held.extend_from_slice(&piece);
                None
            }
            Some(Err(error)) if error.is_reset() => {
                Some(Over::Reset(error.reason().expect("a reset has one")))
            }
            Some(Err(_)) => Some(Over::Gone),
        }
    }

    /// Takes a Close, answers it, and sees the stream end; gives how.
    pub async fn closes(&mut self, code: u16) -> Over {
        let frame = self.frame().await;
        assert_eq!(frame.closing().code, Some(code), "{}", frame.describe());
        self.send_frame(frame).await;
        self.over().await
    }

    /// Ends this half in good order, unless the edge wants to hear no more of it anyway.
    pub fn end(&mut self) {
        let _ = self.sender.send_data(Bytes::new(), true);
    }
}

//! One connection at one of the edge's two sides, with deadlines on all that is done with it.

use std::io::ErrorKind;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::server;

use super::frame::{CLOSE, Close, Frame};
use super::http::{KEY, Message, Upgrade, accept_of};
use super::soon;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN on plain TCP.
    Fin,
    /// TLS said close_notify first.
    CloseNotify,
    /// TLS ended without close_notify: what came before may have been cut short.
    Truncated,
    Reset,
}

/// What a reader met next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    /// The end; `cut` are the bytes of a frame that was never whole.
    End {
        how: End,
        cut: usize,
    },
}

/// What the tests speak through. Its halves may go to two tasks.
pub struct Peer {
    pub reader: Reader,
    pub writer: Writer,
}

pub struct Reader {
    half: ReadHalf<Stream>,
    held: Vec<u8>,
    eof: End,
}

pub struct Writer {
    half: WriteHalf<Stream>,
    masks: bool,
}

type Stream = Box<dyn Socket>;

pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    /// Closing will be a reset from now on.
    fn reset_on_close(&self);
    /// What an end of file at this socket means.
    fn eof(&self) -> End;
}

impl Peer {
    /// A client: it masks what it sends.
    pub fn client(socket: impl Socket + 'static) -> Peer {
        Peer::over(Box::new(socket), true)
    }

    pub fn upstream(socket: impl Socket + 'static) -> Peer {
        Peer::over(Box::new(socket), false)
    }

    fn over(socket: Stream, masks: bool) -> Peer {
        let eof = socket.eof();
        let (read, write) = tokio::io::split(socket);
        Peer {
            reader: Reader { half: read, held: Vec::new(), eof },
            writer: Writer { half: write, masks },
        }
    }

    /// Sends an upgrade and takes the 101, whatever follows it left to be read.
    pub async fn upgrade(&mut self, request: Upgrade) -> Message {
        self.send(&request.bytes()).await;
        let answer = self.reader.head().await;
        assert_eq!(answer.status(), 101, "the upgrade was refused: {answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept_of(KEY).as_str()));
        answer
    }

    /// Sends a request and takes the whole answer.
    pub async fn ask(&mut self, request: Upgrade) -> Message {
        self.send(&request.bytes()).await;
        self.reader.answer().await
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.writer.send(bytes).await;
    }

    pub async fn send_frame(&mut self, frame: Frame) {
        self.writer.send_frame(frame).await;
    }

    pub async fn frame(&mut self) -> Frame {
        self.reader.frame().await
    }

    pub async fn close(&mut self) -> Close {
        self.reader.close().await
    }

    pub async fn end(&mut self) -> End {
        self.reader.end().await
    }

    /// Takes a Close, answers it alike and hangs up.
    pub async fn closes(&mut self, code: u16) -> End {
        let frame = self.frame().await;
        assert_eq!(frame.closing().code, Some(code), "{}", frame.describe());
        self.writer.answer(frame).await;
        self.hang_up().await
    }

    /// Ends the connection when both have sent Close: a server at once, a client when it has seen
    /// the server do it (RFC 6455 §7.1.1). Gives how the edge ended it.
    pub async fn hang_up(&mut self) -> End {
        let is_server = !self.writer.masks;
        if is_server {
            let _ = self.writer.try_shutdown().await;
        }
        let end = self.end().await;
        let _ = self.writer.try_shutdown().await;
        end
    }

    /// Ends this side in good order: close_notify where there is TLS, then FIN.
    pub async fn shutdown(&mut self) {
        self.writer.try_shutdown().await.expect("an orderly shutdown");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.reader.half.unsplit(self.writer.half).reset_on_close();
    }
}

impl Reader {
    /// The next frame or the end.
    pub async fn event(&mut self) -> Event {
        soon("a frame or the end of the connection", self.next_event()).await
    }

    /// The same without a deadline, for readers that have one of their own.
    pub async fn next_event(&mut self) -> Event {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.held) {
                self.held.drain(..used);
                return Event::Frame(frame);
            }
            if let Some(how) = self.fill().await {
                return Event::End { how, cut: self.held.len() };
            }
        }
    }

    pub async fn frame(&mut self) -> Frame {
        match self.event().await {
            Event::Frame(frame) => frame,
            end => panic!("a frame was due, the connection ended: {end:?}"),
        }
    }

    pub async fn close(&mut self) -> Close {
        self.frame().await.closing()
    }

    /// The end of the connection; not one byte may come before it.
    pub async fn end(&mut self) -> End {
        match self.event().await {
            Event::End { how, cut: 0 } => how,
            Event::End { how, cut } => panic!("{cut} bytes of a frame before the end: {how:?}"),
            Event::Frame(frame) => panic!("the end was due, this came: {}", frame.describe()),
        }
    }

    /// Reads on until the end, whatever comes; gives the frames, and the end with what was cut.
    pub async fn rest(&mut self) -> (Vec<Frame>, End, usize) {
        let mut frames = Vec::new();
        loop {
            match self.event().await {
                Event::Frame(frame) => frames.push(frame),
                Event::End { how, cut } => return (frames, how, cut),
            }
        }
    }

    /// Whatever comes next, frames or not; `None` at the end.
    pub async fn next_bytes(&mut self) -> Option<Vec<u8>> {
        if self.held.is_empty() && self.fill().await.is_some() {
            return None;
        }
        Some(std::mem::take(&mut self.held))
    }

    /// Whether anything comes within `time`; for what is bounded by a clock and not by an event.
    pub async fn silent_for(&mut self, time: Duration) -> bool {
        self.held.is_empty() && tokio::time::timeout(time, self.fill()).await.is_err()
    }

    /// A request's or an answer's head.
    pub async fn head(&mut self) -> Message {
        soon("a head", async {
            loop {
                if let Some(end) = find(&self.held, b"\r\n\r\n") {
                    let head = Message::parse(&self.held[..end]);
                    self.held.drain(..end + 4);
                    return head;
                }
                if let Some(how) = self.fill().await {
                    let held = String::from_utf8_lossy(&self.held);
                    panic!("a head was due, the connection ended ({how:?}) after {held:?}");
                }
            }
        })
        .await
    }

    /// An answer with its body, by whichever of the three ways it is framed.
    pub async fn answer(&mut self) -> Message {
        let mut answer = self.head().await;
        answer.body = soon("an answer's body", async {
            if answer.header("transfer-encoding").is_some() {
                return self.chunks().await;
            }
            match answer.header("content-length") {
                Some(length) => self.exactly(length.parse().expect("a length")).await,
                None if answer.status() == 101 => Vec::new(),
                None => self.everything().await,
            }
        })
        .await;
        answer
    }

    /// A request with its body, if it has one.
    pub async fn request(&mut self) -> Message {
        let mut request = self.head().await;
        request.body = soon("a request's body", async {
            match request.header("content-length") {
                _ if request.header("transfer-encoding").is_some() => self.chunks().await,
                Some(length) => self.exactly(length.parse().expect("a length")).await,
                None => Vec::new(),
            }
        })
        .await;
        request
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let size = self.line().await;
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("size {size:?}"));
            body.extend(self.exactly(size).await);
            assert_eq!(self.line().await, "", "a chunk ends with its line");
            if size == 0 {
                return body;
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.held, b"\r\n") {
                let line = String::from_utf8_lossy(&self.held[..end]).into_owned();
                self.held.drain(..end + 2);
                return line;
            }
            assert_eq!(self.fill().await, None, "the connection ended within a line");
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.held.len() < length {
            assert_eq!(self.fill().await, None, "the connection ended within a body");
        }
        self.held.drain(..length).collect()
    }

    async fn everything(&mut self) -> Vec<u8> {
        while self.fill().await.is_none() {}
        std::mem::take(&mut self.held)
    }

    /// Reads more, or says how the connection ended.
    async fn fill(&mut self) -> Option<End> {
        self.held.reserve(64 << 10);
        match self.half.read_buf(&mut self.held).await {
            Ok(0) => Some(self.eof),
            Ok(_) => None,
            Err(error) => Some(match error.kind() {
                ErrorKind::UnexpectedEof => End::Truncated,
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
                // An alert in place of close_notify.
                ErrorKind::InvalidData => End::Reset,
                _ => panic!("reading failed: {error:?}"),
            }),
        }
    }
}

impl Writer {
    /// Whether this side masks what it sends, as clients do.
    pub fn masks(&self) -> bool {
        self.masks
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = soon("the edge takes what is sent", self.try_send(bytes)).await;
        sent.unwrap_or_else(|error| panic!("sending {} bytes: {error:?}", bytes.len()));
    }

    /// Sends as this side must: masked or not.
    pub async fn send_frame(&mut self, frame: Frame) {
        self.send(&frame.masked(self.masks).encode()).await;
    }

    /// Sends without a deadline, where the edge may refuse to take it.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.half.write_all(bytes).await?;
        self.half.flush().await
    }

    /// Ends this side in good order, unless the connection has ended already.
    pub async fn try_shutdown(&mut self) -> std::io::Result<()> {
        soon("an orderly shutdown", self.half.shutdown()).await
    }

    /// A Close's answer; the edge may be gone already.
    pub async fn answer(&mut self, close: Frame) {
        assert_eq!(close.opcode, CLOSE);
        let bytes = close.masked(self.masks).encode();
        let _ = soon("a Close's answer is taken", self.try_send(&bytes)).await;
    }
}

impl Socket for TcpStream {
    fn reset_on_close(&self) {
        SockRef::from(self).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    fn eof(&self) -> End {
        End::Fin
    }
}

impl Socket for UnixStream {
    fn reset_on_close(&self) {}

    fn eof(&self) -> End {
        End::Fin
    }
}

impl Socket for TlsStream<TcpStream> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }

    fn eof(&self) -> End {
        End::CloseNotify
    }
}

impl<S: Socket> Socket for server::TlsStream<S> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }

    fn eof(&self) -> End {
        End::CloseNotify
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

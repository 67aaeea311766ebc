//! One end of a WebSocket, the same for load and backend.
//!
//! A frame is looked at where it was read to and given up by [`Link::consume`]. Waiting for one
//! consumes nothing, so it may be abandoned in a `select!` at any time. Pings are answered on the
//! way, because an edge that pings would else bury the idle connections being weighed.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{self, Head, broken};

/// The longest request or answer head either end accepts, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// TCP or TLS over TCP.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Which end this is: a client masks, a server does not (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// The client's masking key. One for all frames: no proxy looks at it, and the same masked bytes
/// can be sent again and again.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub struct Link {
    stream: Box<dyn Stream>,
    input: BytesMut,
    end: End,
}

impl Link {
    pub fn new(stream: Box<dyn Stream>, end: End) -> Link {
        Link { stream, input: BytesMut::new(), end }
    }

    /// Waits for an HTTP head and takes it out, its empty line included.
    pub async fn http_head(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = self.input.split_to(at + 4);
                return String::from_utf8(head.to_vec()).map_err(|_| broken("a head not in UTF-8"));
            }
            if self.input.len() > LONGEST_HEAD {
                return Err(broken("a head without an end"));
            }
            self.read(1024).await?;
        }
    }

    /// Waits for a whole frame of data or a Close, and answers pings until there is one.
    pub async fn next(&mut self) -> io::Result<Head> {
        loop {
            let head = self.whole_frame().await?;
            match head.opcode {
                frame::PING => self.pong(head).await?,
                frame::PONG => self.consume(head),
                _ => return Ok(head),
            }
        }
    }

    /// The bytes of the frame that [`Link::next`] found, as they came, head included.
    pub fn bytes(&mut self, head: Head) -> &mut [u8] {
        &mut self.input[..head.total()]
    }

    /// The payload of the frame that [`Link::next`] found, as it came.
    pub fn payload(&mut self, head: Head) -> &mut [u8] {
        &mut self.input[head.size..head.total()]
    }

    pub fn consume(&mut self, head: Head) {
        self.input.advance(head.total());
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The key this end masks with.
    pub fn key(&self) -> Option<[u8; 4]> {
        (self.end == End::Client).then_some(KEY)
    }

    /// Says farewell below WebSocket: close_notify, FIN.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    async fn whole_frame(&mut self) -> io::Result<Head> {
        loop {
            let missing = match frame::parse(&self.input)? {
                Some(head) if head.key.is_some() == (self.end == End::Client) => {
                    return Err(broken("a mask on the wrong side"));
                }
                Some(head) if head.total() <= self.input.len() => return Ok(head),
                Some(head) => head.total() - self.input.len(),
                None => 0,
            };
            self.read(missing.max(256)).await?;
        }
    }

    async fn read(&mut self, room: usize) -> io::Result<()> {
        self.input.reserve(room);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn pong(&mut self, head: Head) -> io::Result<()> {
        let mut payload = self.payload(head).to_vec();
        if let Some(key) = head.key {
            frame::mask(&mut payload, key);
        }
        self.consume(head);
        let mut answer = Vec::with_capacity(payload.len() + 6);
        frame::write(&mut answer, frame::PONG, self.key(), &payload);
        self.send(&answer).await
    }
}

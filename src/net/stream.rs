//! A connection while HTTP reads and writes it, watched for signs of life.
//!
//! hyper owns the stream, and the task that drives hyper must know when a head began and since
//! when an answer waits for its reader; both learn it from the shared [`Watch`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Leg;
use super::tls::Session;

pub struct Stream {
    inner: Inner,
    watch: Arc<Watch>,
}

enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Session>),
}

/// What a stream saw since it was last asked.
#[derive(Debug, Default)]
pub struct Watch {
    read: AtomicBool,
    wrote: AtomicBool,
    blocked: AtomicBool,
    /// The first line of a request is awaited or under way.
    in_first_line: AtomicBool,
    fragment: AtomicBool,
}

impl Watch {
    /// Whether bytes were read since the last call.
    pub fn take_read(&self) -> bool {
        self.read.swap(false, Ordering::Relaxed)
    }

    /// Whether the peer took bytes since the last call.
    pub fn take_wrote(&self) -> bool {
        self.wrote.swap(false, Ordering::Relaxed)
    }

    /// The next bytes are those of a request's first line.
    pub fn expect_first_line(&self) {
        self.in_first_line.store(true, Ordering::Relaxed);
        self.fragment.store(false, Ordering::Relaxed);
    }

    /// Whether the first line had a `#`: hyper drops a target's fragment without a word.
    pub fn saw_fragment(&self) -> bool {
        self.fragment.load(Ordering::Relaxed)
    }

    fn look_at(&self, read: &[u8]) {
        if read.is_empty() {
            return;
        }
        self.read.store(true, Ordering::Relaxed);
        if self.in_first_line.load(Ordering::Relaxed) {
            let end = read.iter().position(|byte| *byte == b'\n');
            let line = &read[..end.unwrap_or(read.len())];
            self.in_first_line.store(end.is_none(), Ordering::Relaxed);
            self.fragment.fetch_or(line.contains(&b'#'), Ordering::Relaxed);
        }
    }

    /// Whether the last write found no room.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub fn tcp(socket: TcpStream) -> Stream {
        Stream { inner: Inner::Tcp(socket), watch: Arc::default() }
    }

    pub fn unix(socket: UnixStream) -> Stream {
        Stream { inner: Inner::Unix(socket), watch: Arc::default() }
    }

    pub fn tls(session: Session) -> Stream {
        Stream { inner: Inner::Tls(Box::new(session)), watch: Arc::default() }
    }

    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Whether its two ends have agreed on HTTP/2, by ALPN.
    pub fn speaks_http2(&self) -> bool {
        match &self.inner {
            Inner::Tcp(_) | Inner::Unix(_) => false,
            Inner::Tls(session) => session.speaks_http2(),
        }
    }

    /// The leg of a tunnel, once HTTP is done with the stream.
    pub fn into_leg(self) -> Leg {
        match self.inner {
            Inner::Tcp(socket) => Leg::Tcp(socket),
            Inner::Unix(socket) => Leg::Unix(socket),
            Inner::Tls(session) => Leg::Tls(session),
        }
    }

    fn saw_write(&self, wrote: &Poll<io::Result<usize>>) {
        self.watch.blocked.store(wrote.is_pending(), Ordering::Relaxed);
        if wrote.is_ready() {
            self.watch.wrote.store(true, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.inner {
            Inner::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Inner::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        self.watch.look_at(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = match &mut self.inner {
            Inner::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Inner::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.saw_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = match &mut self.inner {
            Inner::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bytes),
            Inner::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        };
        self.saw_write(&wrote);
        wrote
    }

    /// TLS seals one piece at a time.
    fn is_write_vectored(&self) -> bool {
        !matches!(self.inner, Inner::Tls(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Inner::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Inner::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

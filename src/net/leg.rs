//! One side of a tunnel: a socket, with or without TLS, read into a worker's scratch and written
//! from it.
//!
//! Or a stream of an HTTP/2 connection, which has its own file.
//!
//! A leg keeps no plain bytes. What goes out is sealed first ([`Leg::seal`]) and then written as
//! wire bytes ([`Leg::poll_write`]), so that what a full socket refuses is already in its final
//! form and order.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Wire;
use super::mux::Mux;
use super::scratch::{READ, Scratch};
use super::tls::Session;
use crate::ws::head::HEADROOM;

pub enum Leg {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Session>),
    Mux(Box<Mux>),
}

impl Leg {
    /// Reads plain bytes to `scratch.plain[HEADROOM..]` and says how many; 0 when the peer has
    /// finished. At most `limit` are asked of the socket; a TLS record may bring more.
    #[inline]
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let limit = limit.min(READ);
        let room = HEADROOM..HEADROOM + limit;
        match self {
            Leg::Tcp(socket) => read(socket, cx, &mut scratch.plain[room]),
            Leg::Unix(socket) => read(socket, cx, &mut scratch.plain[room]),
            Leg::Tls(session) => {
                session.poll_open(cx, limit, &mut scratch.wire, &mut scratch.plain[HEADROOM..])
            }
            Leg::Mux(stream) => stream.poll_read(cx, &mut scratch.plain[room]),
        }
    }

    /// Writes wire bytes; says how many the kernel took.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, wire: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Leg::Tcp(socket) => Pin::new(socket).poll_write(cx, wire),
            Leg::Unix(socket) => Pin::new(socket).poll_write(cx, wire),
            Leg::Tls(session) => session.poll_write_wire(cx, wire),
            Leg::Mux(stream) => stream.poll_write(cx, wire),
        }
    }

    /// Turns plain bytes into wire bytes: themselves, or their records in `out`, behind whatever
    /// TLS has to say for itself.
    #[inline]
    pub fn seal<'a>(&mut self, plain: &'a [u8], out: &'a mut Wire) -> io::Result<&'a [u8]> {
        match self {
            Leg::Tcp(_) | Leg::Unix(_) | Leg::Mux(_) => Ok(plain),
            Leg::Tls(session) => {
                session.seal(plain, out)?;
                Ok(out.bytes())
            }
        }
    }

    /// The wire bytes that were sealed before it was a leg, and that its socket has not taken.
    pub fn take_unsent(&mut self) -> Wire {
        match self {
            Leg::Tcp(_) | Leg::Unix(_) | Leg::Mux(_) => Wire::default(),
            Leg::Tls(session) => session.take_unsent(),
        }
    }

    /// The wire bytes that say there is no more to come: TLS's close_notify. A stream of HTTP/2
    /// will say so by its END_STREAM.
    pub fn seal_end(&mut self, out: &mut Wire) -> io::Result<()> {
        match self {
            Leg::Tcp(_) | Leg::Unix(_) => Ok(()),
            Leg::Tls(session) => session.seal_end(out),
            Leg::Mux(stream) => {
                stream.complete();
                Ok(())
            }
        }
    }

    /// Sends FIN, or what ends a stream.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Leg::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Leg::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Leg::Tls(session) => session.poll_finish(cx),
            Leg::Mux(stream) => {
                stream.end(cx);
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Reads what is there, up to `room`.
#[inline]
pub(super) fn read(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(room);
    ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

//! A stream of an HTTP/2 connection as one side of a tunnel (RFC 8441).
//!
//! hyper drives the connection. What is written to a stream goes through hyper's [`Upgraded`] to a
//! task of the stream's own, its writer, which hands h2 one piece after the other as the client's
//! window has room; at most four pieces of 16 KiB wait there, and what does not fit is the
//! tunnel's backlog. hyper knows but one end of an upgraded stream, END_STREAM, and sends it
//! whenever an `Upgraded` is dropped. That an unfinished tunnel ends by RST_STREAM(CANCEL), which
//! is what says that it was cut, is the doing of this file: the writer runs under an
//! [`Overseer`], which drops it, and with it the last hold on the stream, when the tunnel was cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::sleep;

use super::leg;

/// Bytes written at once: a DATA frame of the size that every peer takes (RFC 9113 §4.2).
const PIECE: usize = 16 << 10;
/// How long the rest of a stream that was ended in good order may take to leave.
pub const LINGER: Duration = Duration::from_secs(5);

/// What is to become of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on, or ends in good order.
    Open,
    /// It ends here, whatever waits.
    Cut,
}

/// The tunnel's hold on its stream's writer: an extension of the request that asks for the tunnel.
#[derive(Clone, Debug)]
pub struct Hold(Arc<watch::Sender<Fate>>);

/// What the writer of a stream runs under.
#[derive(Debug)]
pub struct Overseer(watch::Receiver<Fate>);

/// The two ends of the tie between a tunnel and the writer of its stream.
pub fn tie() -> (Hold, Overseer) {
    let (hold, overseer) = watch::channel(Fate::Open);
    (Hold(Arc::new(hold)), Overseer(overseer))
}

impl Overseer {
    /// Returns when the writer has to be dropped: the stream was cut, or was ended and is still
    /// not through.
    pub async fn dismissal(mut self) {
        if self.0.wait_for(|fate| *fate == Fate::Cut).await.is_err() {
            sleep(LINGER).await;
        }
    }
}

pub struct Mux {
    /// `None` once it was cut.
    stream: Option<TokioIo<Upgraded>>,
    hold: Hold,
    /// All was said that there was to say.
    complete: bool,
}

impl Mux {
    pub fn new(stream: Upgraded, hold: Hold) -> Mux {
        Mux { stream: Some(TokioIo::new(stream)), hold, complete: false }
    }

    /// What was read has left the window, and the client is told so.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(stream) => leg::read(stream, cx, room),
            None => Poll::Ready(Ok(0)),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, &bytes[..bytes.len().min(PIECE)]),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Nothing was cut short: when it ends, it ends by END_STREAM.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Ends this half behind all that was written, or, where something is missing, the whole.
    pub(super) fn end(&mut self, cx: &mut Context<'_>) {
        match &mut self.stream {
            // Only what the writer still has to do is pending, and it needs nobody for that.
            Some(stream) if self.complete => drop(Pin::new(stream).poll_shutdown(cx)),
            _ => self.cut(),
        }
    }

    fn cut(&mut self) {
        self.hold.0.send_replace(Fate::Cut);
        self.stream = None;
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        if !self.complete {
            self.cut();
        }
    }
}

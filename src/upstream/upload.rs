//! The body of a plain request on its way to an upstream.
//!
//! hyper reads a client's body only as fast as it can write it to the upstream, so a pause has one
//! of two causes: the client sends nothing, or the upstream takes nothing. Which one it is, and
//! since when, is kept in a [`Progress`] beside the body. A body that nobody will read to its end
//! is read on for a while and thrown away, so that a connection with unread bytes is not reset
//! under an answer that the client has yet to read.

use std::any::Any;
use std::cell::Cell;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep_until, timeout};

/// How much of a body that nobody wants is read on, and for how long.
const DISCARD: usize = 4 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

pub struct Upload {
    /// None: there is nothing to read, or no more.
    body: Option<Incoming>,
    progress: Rc<Progress>,
    /// The client waits for a 100, which hyper sends when the body is first asked for.
    expects: bool,
    /// What of the client's connection lives until its body is read.
    hold: Rc<dyn Any>,
}

/// How far a body has come.
#[derive(Debug)]
pub struct Progress {
    stage: Cell<Stage>,
    since: Cell<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not asked for yet.
    Unread,
    /// The client has to send.
    AtClient,
    /// The upstream has to take what came.
    AtUpstream,
    Read,
    /// The client left before its end.
    BrokenOff,
    /// Its chunks are none.
    Malformed,
}

impl Upload {
    /// Takes a request's body; `hold` lives until it is read or given up.
    pub fn of(request: Request<Incoming>, hold: Rc<dyn Any>) -> Request<Upload> {
        let expects = request.headers().contains_key(header::EXPECT);
        request.map(|body| {
            let stage = if body.is_end_stream() { Stage::Read } else { Stage::Unread };
            let body = (stage == Stage::Unread).then_some(body);
            Upload { body, progress: Progress::new(stage), expects, hold }
        })
    }

    /// No body, for a request that is sent again.
    pub(super) fn none(hold: Rc<dyn Any>) -> Upload {
        Upload { body: None, progress: Progress::new(Stage::Read), expects: false, hold }
    }

    pub(super) fn hold(&self) -> Rc<dyn Any> {
        self.hold.clone()
    }

    pub fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn next_stage(&self, frame: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) -> Stage {
        match frame {
            Poll::Pending => Stage::AtClient,
            Poll::Ready(Some(Err(error))) if is_of_framing(error) => Stage::Malformed,
            Poll::Ready(Some(Err(_))) => Stage::BrokenOff,
            Poll::Ready(None) => Stage::Read,
            Poll::Ready(Some(Ok(_))) if self.is_end_stream() => Stage::Read,
            Poll::Ready(Some(Ok(_))) => Stage::AtUpstream,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        self.progress.enter(self.next_stage(&frame));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let waits_for_100 = self.expects && self.progress.stage.get() == Stage::Unread;
        if self.progress.is_over() || waits_for_100 {
            return;
        }
        if let Some(body) = self.body.take() {
            let hold = self.hold.clone();
            tokio::task::spawn_local(async move {
                let _ = timeout(DISCARD_TIME, discard(body)).await;
                drop(hold);
            });
        }
    }
}

/// hyper says so of chunks that it cannot read, and of nothing else.
fn is_of_framing(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    let kind = source.map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
}

/// Reads to the end, or as far as is bearable.
async fn discard(mut body: Incoming) {
    let mut left = DISCARD;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl Progress {
    fn new(stage: Stage) -> Rc<Progress> {
        Rc::new(Progress { stage: stage.into(), since: Instant::now().into() })
    }

    fn enter(&self, stage: Stage) {
        if self.stage.replace(stage) != stage || stage == Stage::AtUpstream {
            self.since.set(Instant::now());
        }
    }

    /// The clock starts anew: the request is being sent.
    pub(super) fn restart(&self) {
        self.since.set(Instant::now());
    }

    /// Nothing more will come of the body.
    pub fn is_over(&self) -> bool {
        matches!(self.stage.get(), Stage::Read | Stage::BrokenOff | Stage::Malformed)
    }

    pub(super) fn is_broken_off(&self) -> bool {
        self.stage.get() == Stage::BrokenOff
    }

    pub(super) fn is_malformed(&self) -> bool {
        self.stage.get() == Stage::Malformed
    }

    /// The client is the one who is waited for.
    pub(super) fn waits_for_client(&self) -> bool {
        self.stage.get() == Stage::AtClient
    }

    /// Returns when nothing has moved for this long, the end of the body being the last movement.
    pub(super) async fn still_for(&self, longest: Duration) {
        loop {
            let deadline = self.since.get() + longest;
            sleep_until(deadline).await;
            if self.since.get() + longest <= deadline {
                return;
            }
        }
    }

    /// Returns when the body, not yet over, has paused for this long.
    pub(super) async fn paused_for(&self, longest: Duration) {
        while !self.is_over() {
            self.still_for(longest).await;
            if !self.is_over() {
                return;
            }
        }
        pending::<()>().await;
    }
}

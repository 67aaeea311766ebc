//! The body of an answer: the edge's own, or an upstream's passed on.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

pub enum Body {
    Own(Full<Bytes>),
    Passed(Passed),
}

/// What an upstream answers.
pub struct Passed {
    body: Incoming,
    /// When it ends before its end, if it does.
    ends: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// What lives until it is read: the place at the endpoint and what else there is.
    _hold: Box<dyn Any>,
}

impl Passed {
    pub fn new(body: Incoming, hold: impl Any) -> Passed {
        Passed { body, ends: None, _hold: Box::new(hold) }
    }

    /// Ends it in good order when `ends` does.
    pub fn until(self, ends: impl Future<Output = ()> + 'static) -> Passed {
        Passed { ends: Some(Box::pin(ends)), ..self }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body::Own(Full::new(bytes.into()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Body::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Body::Passed(passed) => passed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Own(body) => body.is_end_stream(),
            Body::Passed(passed) => passed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Own(body) => body.size_hint(),
            Body::Passed(passed) => passed.body.size_hint(),
        }
    }
}

//! A plain request to an endpoint and the head of its answer, on a connection that may have served
//! others before.
//!
//! A body is taken from its client only when there is a connection to write it to. A kept
//! connection may just be closing: a request of which it took nothing goes out again on a fresh
//! one; a request that the endpoint may have seen does so only where that does no harm (RFC 9110
//! §9.2.2), it has no body, and the connection ended without an answer.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::handshake::{HEAD, describe};
use super::upload::Progress;
use super::{Cluster, ConnectError, Endpoint, Lease, Line, Pool, Upload, Wish};
use crate::net::Stream;
use crate::policy::Admission;

/// Why a plain request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client sent nothing of its body for too long.
    #[error("the request's body paused")]
    BodyPaused,
    #[error("the request's body was broken off")]
    BodyBrokenOff,
    #[error("the request's body is framed wrongly")]
    BodyMalformed,
}

impl Cluster {
    /// Sends a request to the endpoint that `wish` comes to, or to the next best that can be
    /// reached within `handshake_timeout`. `patience` bounds the wait for the head of the answer,
    /// and each pause of the request's body. Nothing is sent for who was not admitted.
    pub async fn exchange(
        &self,
        _admission: &Admission,
        wish: &Wish,
        pool: &Rc<Pool>,
        mut request: Request<Upload>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Lease), ExchangeError> {
        let deadline = || Instant::now() + self.handshake_timeout;
        let kept = |endpoint: &Arc<Endpoint>| pool.take(endpoint);
        let (line, lease, _) = self.reach(wish, deadline(), kept).await?;
        let (stream, lease) = match line {
            Line::Fresh(stream) => (stream, lease),
            Line::Kept(connection) => {
                let again = Again::of(&request);
                let asked = Asked { pool, endpoint: lease.endpoint(), patience };
                match connection.ask(request, asked).await {
                    Ok(answer) => return Ok((answer, lease)),
                    Err(failed) => request = failed.sent_again(again)?,
                }
                drop(lease);
                let (stream, lease, _) = self.dial(wish, deadline()).await?;
                (stream, lease)
            }
        };
        let connection = Connection::open(stream, lease.endpoint()).await?;
        let asked = Asked { pool, endpoint: lease.endpoint(), patience };
        match connection.ask(request, asked).await {
            Ok(answer) => {
                self.succeeded(lease.endpoint());
                Ok((answer, lease))
            }
            Err(failed) => Err(failed.error),
        }
    }
}

/// HTTP/1.1 on a connection to an endpoint; the connection itself is a task.
pub(super) struct Connection {
    sender: SendRequest<Upload>,
    task: AbortHandle,
}

/// Whom a request is sent to, and how.
#[derive(Clone, Copy)]
struct Asked<'a> {
    pool: &'a Rc<Pool>,
    endpoint: &'a Arc<Endpoint>,
    patience: Duration,
}

impl Connection {
    async fn open(stream: Stream, endpoint: &Arc<Endpoint>) -> Result<Connection, ConnectError> {
        let shaken = Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| broken(endpoint, &error))?;
        Ok(Connection { sender, task: spawn_local(connection).abort_handle() })
    }

    /// Whether it can take a request now, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Dropping the future cuts the connection.
    async fn ask(
        mut self,
        request: Request<Upload>,
        asked: Asked<'_>,
    ) -> Result<Response<Incoming>, Failed> {
        let progress = request.body().progress();
        progress.restart();
        let mut unanswered = Unanswered(Some(self.task.clone()));
        tokio::select! {
            biased;
            answer = self.sender.try_send_request(request) => match answer {
                Ok(answer) => {
                    unanswered.0 = None;
                    self.settle(&answer, progress, asked);
                    Ok(answer)
                }
                Err(error) => Err(Failed::of(error, &progress, asked.endpoint)),
            },
            () = progress.still_for(asked.patience) => Err(Failed::late(&progress, asked)),
        }
    }

    /// Keeps the connection when the answer is read and the request written. To hyper's client an
    /// endpoint that once spoke HTTP/1.0 does so for good, and it would drop chunked bodies.
    fn settle(mut self, answer: &Response<Incoming>, progress: Rc<Progress>, asked: Asked<'_>) {
        let reusable = answer.version() == Version::HTTP_11;
        let (pool, endpoint) = (asked.pool.clone(), asked.endpoint.clone());
        spawn_local(async move {
            tokio::select! {
                ready = self.sender.ready() => if ready.is_ok() && reusable {
                    pool.keep(&endpoint, self);
                },
                () = progress.paused_for(asked.patience) => self.task.abort(),
            }
        });
    }
}

/// Cuts a connection on whose answer nobody waits any more. hyper would write all that it holds
/// first, for ever if the endpoint takes nothing.
struct Unanswered(Option<AbortHandle>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// A request that went wrong.
struct Failed {
    error: ExchangeError,
    /// The request, when none of it was taken.
    untaken: Option<Request<Upload>>,
    /// The connection ended before an answer.
    cut: bool,
}

impl Failed {
    fn of(
        mut failed: TrySendError<Request<Upload>>,
        progress: &Progress,
        endpoint: &Arc<Endpoint>,
    ) -> Failed {
        let untaken = failed.take_message();
        let error = failed.into_error();
        let cut = !error.is_parse() && !error.is_user();
        let error = match () {
            () if progress.is_broken_off() => ExchangeError::BodyBrokenOff,
            () if progress.is_malformed() => ExchangeError::BodyMalformed,
            () => broken(endpoint, &error).into(),
        };
        Failed { error, untaken, cut }
    }

    fn late(progress: &Progress, asked: Asked<'_>) -> Failed {
        let error = match progress.waits_for_client() {
            true => ExchangeError::BodyPaused,
            false => {
                let endpoint = asked.endpoint.label().clone();
                ConnectError::Timeout { endpoint, within: asked.patience }.into()
            }
        };
        Failed { error, untaken: None, cut: false }
    }

    /// The request as it may be sent once more, after a kept connection failed it.
    fn sent_again(self, again: Option<Again>) -> Result<Request<Upload>, ExchangeError> {
        match (self.untaken, again) {
            (Some(request), _) => Ok(request),
            (None, Some(again)) if self.cut => Ok(again.into_request()),
            (None, _) => Err(self.error),
        }
    }
}

/// A request that does no harm when it comes twice.
struct Again {
    head: Request<()>,
    hold: Rc<dyn Any>,
}

impl Again {
    fn of(request: &Request<Upload>) -> Option<Again> {
        let harmless = request.method().is_idempotent() && request.body().is_end_stream();
        harmless.then(|| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            Again { head, hold: request.body().hold() }
        })
    }

    fn into_request(self) -> Request<Upload> {
        self.head.map(|()| Upload::none(self.hold))
    }
}

fn broken(endpoint: &Arc<Endpoint>, error: &hyper::Error) -> ConnectError {
    ConnectError::Handshake { endpoint: endpoint.label().clone(), fault: describe(error) }
}

//! Upstreams: clusters of endpoints, and connections to them.
//!
//! A [`Cluster`] dials one of its endpoints and shakes hands with it for one client: the
//! connection is fresh, and never shared. What comes of it is [`Connected`], which holds a
//! [`Lease`] on its endpoint for as long as it lives.

mod connect;
mod endpoint;
mod handshake;
pub mod hashing;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

pub use self::endpoint::{Endpoint, Lease, Standing};
use crate::config;
use crate::net::{Leg, Stream};
use crate::policy::Admission;
use crate::ws::handshake::{Answer, AnswerFault, Offer};

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    endpoints: ArcSwap<Endpoints>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    host: Option<HeaderValue>,
}

/// The endpoints of a cluster at one moment. A choice and what follows from it see one list.
#[derive(Debug)]
pub struct Endpoints(Box<[Arc<Endpoint>]>);

impl FromIterator<Arc<Endpoint>> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(endpoints: I) -> Endpoints {
        Endpoints(endpoints.into_iter().collect())
    }
}

impl Deref for Endpoints {
    type Target = [Arc<Endpoint>];

    fn deref(&self) -> &[Arc<Endpoint>] {
        &self.0
    }
}

/// An upstream's answer to the handshake, checked.
pub enum Connected {
    /// A 101 that keeps to the offer.
    Open(Opened),
    /// Its own answer, which is not a 101.
    Refused(http::Response<Incoming>, Lease),
}

/// The upstream's half of a tunnel.
pub struct Opened {
    pub leg: Leg,
    /// What it sent behind its 101.
    pub early: Bytes,
    pub answer: Answer,
    pub head: response::Parts,
    pub lease: Lease,
}

/// Why no endpoint took the handshake.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("upstream {0} has no endpoint")]
    NoEndpoint(Arc<str>),
    #[error("{endpoint}: {fault}")]
    Dial { endpoint: Arc<str>, fault: String },
    #[error("{endpoint}: {fault}")]
    Handshake { endpoint: Arc<str>, fault: String },
    #[error("{endpoint}: {fault}")]
    Answer { endpoint: Arc<str>, fault: AnswerFault },
    #[error("{endpoint}: no answer within {within:?}")]
    Timeout { endpoint: Arc<str>, within: Duration },
}

impl Cluster {
    pub fn new(upstream: &config::Upstream) -> Cluster {
        Cluster {
            name: upstream.name.clone(),
            endpoints: ArcSwap::from_pointee(
                upstream.endpoints.iter().map(Endpoint::new).collect(),
            ),
            connect_timeout: upstream.connect_timeout,
            handshake_timeout: upstream.handshake_timeout,
            host: upstream.host.clone(),
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// An endpoint as this cluster needs it, for a list that [`Cluster::replace`] takes.
    #[must_use]
    pub fn endpoint(&self, endpoint: &config::Endpoint) -> Arc<Endpoint> {
        Endpoint::new(endpoint)
    }

    /// Its endpoints as they are now.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// Puts other endpoints in their place. What stays is carried over as the same object, so
    /// that it keeps its count; connections to what goes live on.
    pub fn replace(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }

    /// The Host that endpoints are called by, where it is not the client's.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Dials the first endpoint that can be reached and offers it `offer`, written in `request`;
    /// all of it within `handshake_timeout`. Once an endpoint has been sent a byte, no other is
    /// tried. Nothing is dialled for who was not admitted.
    pub async fn connect(
        &self,
        _admission: &Admission,
        request: Request<Empty<Bytes>>,
        offer: &Offer,
    ) -> Result<Connected, ConnectError> {
        let deadline = Instant::now() + self.handshake_timeout;
        let (stream, lease) = self.dial(deadline).await?;
        let endpoint = lease.endpoint().label().clone();
        match timeout_at(deadline, handshake::shake(stream, request, offer, lease)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { endpoint, within: self.handshake_timeout }),
        }
    }

    async fn dial(&self, deadline: Instant) -> Result<(Stream, Lease), ConnectError> {
        let mut last = ConnectError::NoEndpoint(self.name.clone());
        for endpoint in self.endpoints().iter() {
            let Some(lease) = Lease::take(endpoint) else { continue };
            let by = deadline.min(Instant::now() + self.connect_timeout);
            let fault = match timeout_at(by, connect::dial(endpoint.address())).await {
                Ok(Ok(stream)) => return Ok((stream, lease)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "not connected in time".to_owned(),
            };
            last = ConnectError::Dial { endpoint: endpoint.label().clone(), fault };
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(last)
    }
}

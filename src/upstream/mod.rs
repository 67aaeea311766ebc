//! Upstreams: clusters of endpoints, and connections to them.
//!
//! A [`Cluster`] dials one of its endpoints and shakes hands with it for one client: the
//! connection is fresh, and never shared. What comes of it is [`Connected`], which holds a
//! [`Lease`] on its endpoint for as long as it lives. Plain requests go by [`Cluster::exchange`],
//! on connections that a worker's [`Pool`] keeps.

mod affinity;
mod balance;
mod connect;
mod endpoint;
mod exchange;
mod handshake;
pub mod hashing;
mod pool;
pub mod seed;
mod stickiness;
mod upload;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use self::affinity::Affinity;
use self::balance::Balancer;
pub use self::balance::Choice;
pub use self::endpoint::{Endpoint, Lease, Standing};
pub use self::exchange::ExchangeError;
use self::hashing::Seed;
pub use self::pool::Pool;
pub use self::seed::SeedFault;
pub use self::stickiness::{Asking, Wish};
pub use self::upload::{Progress, Upload};
use crate::config::{self, Balance, HashKey, OnRemoved};
use crate::net::{Leg, Stream};
use crate::policy::Admission;
use crate::ws::handshake::{Answer, AnswerFault, Offer};

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    endpoints: ArcSwap<Endpoints>,
    balancer: Balancer,
    seed: Seed,
    hash_keys: Vec<HashKey>,
    affinity: Option<Affinity>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    host: Option<HeaderValue>,
    on_removed: OnRemoved,
}

/// The endpoints of a cluster at one moment. A choice and what follows from it see one list.
#[derive(Debug, Default)]
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

/// A way to an endpoint.
enum Line<T> {
    Fresh(Stream),
    /// It was there already.
    Kept(T),
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
    /// Reads the upstream's seed file, if it has one. `before` is the cluster of this name that
    /// runs.
    pub fn new(
        upstream: &config::Upstream,
        before: Option<&Cluster>,
    ) -> Result<Cluster, SeedFault> {
        let secret = upstream.hash_seed_file.as_deref().map(seed::read).transpose()?;
        let seed = secret.as_deref().map_or(Seed::default(), Seed::new);
        let affinity = upstream.affinity_cookie.as_ref();
        let cluster = Cluster {
            name: upstream.name.clone(),
            endpoints: ArcSwap::default(),
            balancer: Balancer::new(&upstream.balance, seed),
            seed,
            hash_keys: match &upstream.balance {
                Balance::Hash { keys, .. } => keys.clone(),
                Balance::LeastConnections | Balance::RoundRobin => Vec::new(),
            },
            affinity: affinity.map(|cookie| Affinity::new(cookie, secret.as_deref())),
            connect_timeout: upstream.connect_timeout,
            handshake_timeout: upstream.handshake_timeout,
            host: upstream.host.clone(),
            on_removed: upstream.on_removed,
        };
        let before = before.map(Cluster::endpoints).unwrap_or_default();
        let endpoint = |endpoint| cluster.endpoint_beside(endpoint, &before);
        cluster.replace(upstream.endpoints.iter().map(endpoint).collect());
        Ok(cluster)
    }

    /// What becomes of the sockets of an endpoint that the next file no longer has.
    pub fn on_removed(&self) -> OnRemoved {
        self.on_removed
    }

    /// Whether this endpoint is one of those at the moment.
    pub fn has(&self, identity: &str) -> bool {
        self.endpoints().iter().any(|one| **one.identity() == *identity)
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// An endpoint as this cluster needs it, for a list that [`Cluster::replace`] takes.
    #[must_use]
    pub fn endpoint(&self, endpoint: &config::Endpoint) -> Arc<Endpoint> {
        self.endpoint_beside(endpoint, &self.endpoints())
    }

    fn endpoint_beside(
        &self,
        endpoint: &config::Endpoint,
        before: &[Arc<Endpoint>],
    ) -> Arc<Endpoint> {
        let identity = endpoint.identity();
        let code = self.affinity.as_ref().map(|affinity| affinity.code(&identity));
        Endpoint::new(endpoint, self.seed.mark(&identity), code, before)
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

    /// Where a request wants to go.
    pub fn wish(&self, asking: &Asking<'_>) -> Wish {
        let affinity = self.affinity.as_ref();
        Wish {
            affinity: affinity.and_then(|it| it.named(asking.headers, &self.endpoints())),
            key: stickiness::key(&self.hash_keys, asking, self.seed),
        }
    }

    /// The endpoints for `wish`, one after the other.
    pub fn choice<'a>(&'a self, wish: &'a Wish) -> Choice<'a> {
        Choice::new(&self.balancer, self.endpoints(), wish, rand::random())
    }

    /// The Set-Cookie for who came to `endpoint` and has no cookie for it.
    pub fn affinity_cookie(
        &self,
        wish: &Wish,
        endpoint: &Arc<Endpoint>,
        secure: bool,
    ) -> Option<HeaderValue> {
        let known = wish.affinity.as_ref().is_some_and(|named| Arc::ptr_eq(named, endpoint));
        if known { None } else { self.affinity.as_ref()?.cookie(endpoint, secure) }
    }

    /// Dials the endpoint that `wish` comes to, or the next best that can be reached, and offers it
    /// `offer`, written in `request`; all of it within `handshake_timeout`. Once an endpoint has
    /// been sent a byte, no other is tried. Nothing is dialled for who was not admitted.
    pub async fn connect(
        &self,
        _admission: &Admission,
        wish: &Wish,
        request: Request<Empty<Bytes>>,
        offer: &Offer,
    ) -> Result<Connected, ConnectError> {
        let deadline = Instant::now() + self.handshake_timeout;
        let (stream, lease) = self.dial(wish, deadline).await?;
        let endpoint = lease.endpoint().label().clone();
        match timeout_at(deadline, handshake::shake(stream, request, offer, lease)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { endpoint, within: self.handshake_timeout }),
        }
    }

    async fn dial(&self, wish: &Wish, deadline: Instant) -> Result<(Stream, Lease), ConnectError> {
        let (line, lease) = self.reach(wish, deadline, |_| None).await?;
        let (Line::Fresh(stream) | Line::Kept(stream)) = line;
        Ok((stream, lease))
    }

    /// The endpoint that `wish` comes to, or the next best to which there is a connection or can
    /// be one.
    async fn reach<T>(
        &self,
        wish: &Wish,
        deadline: Instant,
        kept: impl Fn(&Arc<Endpoint>) -> Option<T>,
    ) -> Result<(Line<T>, Lease), ConnectError> {
        let mut last = ConnectError::NoEndpoint(self.name.clone());
        let mut choice = self.choice(wish);
        while let Some(lease) = choice.next(Instant::now().into_std()) {
            let endpoint = lease.endpoint();
            if let Some(connection) = kept(endpoint) {
                return Ok((Line::Kept(connection), lease));
            }
            let by = deadline.min(Instant::now() + self.connect_timeout);
            let fault = match timeout_at(by, connect::dial(endpoint.address())).await {
                Ok(Ok(stream)) => return Ok((Line::Fresh(stream), lease)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "not connected in time".to_owned(),
            };
            last = ConnectError::Dial { endpoint: endpoint.label().clone(), fault };
            if Instant::now() >= deadline {
                break;
            }
            choice.failed();
        }
        Err(last)
    }
}

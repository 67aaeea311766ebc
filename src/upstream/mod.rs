//! Upstreams: clusters of endpoints, and connections to them.
//!
//! A [`Cluster`] dials one of its endpoints and shakes hands with it for one client: the
//! connection is fresh, and never shared. What comes of it is [`Connected`], which holds a
//! [`Lease`] on its endpoint for as long as it lives. Plain requests go by [`Cluster::exchange`],
//! on connections that a worker's [`Pool`] keeps. Beside that, [`Cluster::watch`] looks names up
//! and probes endpoints.

mod affinity;
mod balance;
mod connect;
mod endpoint;
mod exchange;
mod handshake;
pub mod hashing;
mod health;
mod judge;
mod pool;
mod probe;
mod resolve;
pub mod seed;
mod stickiness;
mod upload;
mod watch;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use self::affinity::Affinity;
use self::balance::Balancer;
pub use self::balance::Choice;
pub use self::connect::DialFault;
use self::connect::Dialler;
use self::endpoint::Traits;
pub use self::endpoint::{Endpoint, Lease, Place, Standing};
pub use self::exchange::ExchangeError;
use self::hashing::Seed;
pub use self::pool::Pool;
pub use self::seed::SeedFault;
pub use self::stickiness::{Asking, Wish};
pub use self::upload::{Progress, Upload};
use crate::config::{self, Balance, EndpointAddress, HashKey, OnRemoved};
use crate::metrics::UpstreamTally;
use crate::net::tls::TlsFault;
use crate::net::{Leg, Stream};
use crate::policy::Admission;
use crate::ws::handshake::{Answer, AnswerFault, Offer};

/// The endpoints of one upstream.
pub struct Cluster {
    name: Arc<str>,
    endpoints: ArcSwap<Endpoints>,
    /// Those of the file, whatever a name resolves to.
    listed: Vec<Arc<Endpoint>>,
    dialler: Dialler,
    balancer: Balancer,
    seed: Seed,
    hash_keys: Vec<HashKey>,
    affinity: Option<Affinity>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    host: Option<HeaderValue>,
    resolve: Option<config::Resolve>,
    health: Option<config::Health>,
    passive: config::Passive,
    /// Held by who ejects an endpoint.
    ejecting: Mutex<()>,
    tasks: Mutex<watch::Tasks>,
    on_removed: OnRemoved,
    tally: Arc<UpstreamTally>,
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
    Dial { endpoint: Arc<str>, fault: DialFault },
    #[error("{endpoint}: {fault}")]
    Handshake { endpoint: Arc<str>, fault: String },
    #[error("{endpoint}: {fault}")]
    Answer { endpoint: Arc<str>, fault: AnswerFault },
    #[error("{endpoint}: no answer within {within:?}")]
    Timeout { endpoint: Arc<str>, within: Duration },
}

/// Why a cluster cannot be: a file of its is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFault {
    #[error("hash seed: {0}")]
    Seed(#[from] SeedFault),
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

impl Cluster {
    /// Reads the files that it needs: its seed, and those of its TLS. `before` is the cluster of
    /// this name that runs.
    pub fn new(
        upstream: &config::Upstream,
        before: Option<&Cluster>,
    ) -> Result<Cluster, ClusterFault> {
        let secret = upstream.hash_seed_file.as_deref().map(seed::read).transpose()?;
        let seed = secret.as_deref().map_or(Seed::default(), Seed::new);
        let affinity = upstream.affinity_cookie.as_ref();
        let mut cluster = Cluster {
            name: upstream.name.clone(),
            endpoints: ArcSwap::default(),
            listed: Vec::new(),
            dialler: Dialler::new(upstream)?,
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
            resolve: upstream.resolve.clone(),
            health: upstream.health.clone(),
            passive: upstream.passive,
            ejecting: Mutex::default(),
            tasks: Mutex::default(),
            on_removed: upstream.on_removed,
            tally: before.map(|before| before.tally.clone()).unwrap_or_default(),
        };
        let running = before.map(Cluster::endpoints).unwrap_or_default();
        let listed = |endpoint| cluster.endpoint(endpoint, None, &running);
        cluster.listed = upstream.endpoints.iter().map(listed).collect();
        let found = before.map(|before| cluster.still_found(before)).unwrap_or_default();
        cluster.replace(cluster.listed.iter().cloned().chain(found).collect());
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

    /// What happened to it, also before the last reload.
    pub fn tally(&self) -> &UpstreamTally {
        &self.tally
    }

    /// Whether an endpoint of this cluster is in the file no more by `after`, the cluster in its
    /// place. One that a name resolved to is, for as long as the name is.
    pub fn loses(&self, identity: &str, after: Option<&Cluster>) -> bool {
        let lists =
            |cluster: &Cluster| cluster.listed.iter().any(|it| **it.identity() == *identity);
        let stays =
            |after: &Cluster| after.has(identity) || (!lists(self) && after.resolves_as(self));
        self.has(identity) && !after.is_some_and(stays)
    }

    fn resolves_as(&self, other: &Cluster) -> bool {
        let [own, others] = [self, other].map(|it| it.resolve.as_ref().map(|it| &it.name));
        own.is_some() && own == others
    }

    /// The addresses of its name, as the cluster before it knew them: an answer is not waited for.
    fn still_found(&self, before: &Cluster) -> Vec<Arc<Endpoint>> {
        let Some(resolve) = self.resolve.as_ref().filter(|_| self.resolves_as(before)) else {
            return Vec::new();
        };
        let (host, running) = (resolve.name.host.as_str().into(), before.endpoints());
        let found = before.found().filter_map(|endpoint| endpoint.address());
        let unlisted = found.filter(|at| !self.listed.iter().any(|listed| listed.is_at(*at)));
        unlisted.map(|address| self.endpoint_of_name(&host, address, &running)).collect()
    }

    /// An endpoint as this cluster needs it. `host_name` is what it is an address of; what one of
    /// the same identity `before` it knows, it knows too.
    fn endpoint(
        &self,
        endpoint: &config::Endpoint,
        host_name: Option<Arc<str>>,
        before: &[Arc<Endpoint>],
    ) -> Arc<Endpoint> {
        let identity = endpoint.identity();
        let traits = Traits {
            mark: self.seed.mark(&identity),
            code: self.affinity.as_ref().map(|affinity| affinity.code(&identity)),
            host_name,
            slow_start: self.health.as_ref().and_then(|health| health.slow_start),
        };
        Endpoint::new(endpoint, traits, before)
    }

    /// One of the addresses of a name.
    fn endpoint_of_name(
        &self,
        host: &Arc<str>,
        address: SocketAddr,
        before: &[Arc<Endpoint>],
    ) -> Arc<Endpoint> {
        self.endpoint(&EndpointAddress::Ip(address).into(), Some(host.clone()), before)
    }

    /// Those that are there because its name resolves to them.
    fn found(&self) -> impl Iterator<Item = Arc<Endpoint>> {
        let is_listed = |one: &Arc<Endpoint>| self.listed.iter().any(|it| Arc::ptr_eq(it, one));
        let found: Vec<Arc<Endpoint>> =
            self.endpoints().iter().filter(|one| !is_listed(one)).cloned().collect();
        found.into_iter()
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
        let (stream, lease, began) = self.dial(wish, deadline).await?;
        let endpoint = lease.endpoint().clone();
        let shaking = handshake::shake(stream, request, offer, lease);
        let result = timeout_at(deadline, shaking).await.unwrap_or_else(|_| {
            let (endpoint, within) = (endpoint.label().clone(), self.handshake_timeout);
            Err(ConnectError::Timeout { endpoint, within })
        });
        match &result {
            Ok(_) | Err(ConnectError::Answer { .. }) => self.succeeded(&endpoint),
            Err(fault @ ConnectError::Timeout { .. }) if self.was_fair(began) => {
                self.failed(&endpoint, &fault.to_string());
            }
            // A client's request may be what broke it.
            Err(_) => {}
        }
        result
    }

    /// Whether an endpoint that was turned to at this time had its due time, and not only what
    /// those before it had left.
    fn was_fair(&self, began: Instant) -> bool {
        began.elapsed() >= self.connect_timeout.min(self.handshake_timeout)
    }

    async fn dial(
        &self,
        wish: &Wish,
        deadline: Instant,
    ) -> Result<(Stream, Lease, Instant), ConnectError> {
        let (line, lease, began) = self.reach(wish, deadline, |_| None).await?;
        let (Line::Fresh(stream) | Line::Kept(stream)) = line;
        Ok((stream, lease, began))
    }

    /// The endpoint that `wish` comes to, or the next best to which there is a connection or can
    /// be one, and when it was turned to.
    async fn reach<T>(
        &self,
        wish: &Wish,
        deadline: Instant,
        kept: impl Fn(&Arc<Endpoint>) -> Option<T>,
    ) -> Result<(Line<T>, Lease, Instant), ConnectError> {
        let mut last = ConnectError::NoEndpoint(self.name.clone());
        let mut choice = self.choice(wish);
        while let Some(lease) = choice.next(Instant::now().into_std()) {
            let endpoint = lease.endpoint();
            let began = Instant::now();
            if let Some(connection) = kept(endpoint) {
                return Ok((Line::Kept(connection), lease, began));
            }
            let patience = self.connect_timeout.min(deadline.saturating_duration_since(began));
            let dialled = timeout(patience, self.dialler.dial(endpoint)).await;
            let fault = match dialled.unwrap_or(Err(DialFault::Late(patience))) {
                Ok(stream) => return Ok((Line::Fresh(stream), lease, began)),
                Err(fault) => fault,
            };
            let late = matches!(fault, DialFault::Late(_));
            if fault.is_the_endpoints() && (!late || self.was_fair(began)) {
                self.failed(endpoint, &fault.to_string());
            }
            last = ConnectError::Dial { endpoint: endpoint.label().clone(), fault };
            if Instant::now() >= deadline {
                break;
            }
            choice.failed();
        }
        Err(last)
    }
}

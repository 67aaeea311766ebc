//! One address of an upstream: how many connections it has, and how well it is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::hashing::{Mark, Weight};
use super::health::{self, Health, Verdict};
use crate::config::{self, EndpointAddress};
use crate::net::resolve::Name;

#[derive(Debug)]
pub struct Endpoint {
    identity: Arc<str>,
    mark: Mark,
    code: Option<Box<str>>,
    place: Place,
    label: Arc<str>,
    host_name: Option<Arc<str>>,
    weight: Weight,
    slow_start: Option<Duration>,
    /// Somebody probes it.
    probed: AtomicBool,
    backup: bool,
    max_connections: usize,
    turn: Turn,
    state: Arc<State>,
}

/// What an endpoint keeps through a reload.
#[derive(Debug, Default)]
struct State {
    connections: AtomicUsize,
    health: Mutex<Health>,
    /// Something is known of its health: a choice looks at every endpoint, and need not take the
    /// lock of those of which nothing is.
    blemished: AtomicBool,
    /// An operator wants no new connections here.
    drained: AtomicBool,
}

/// Whether new connections may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Usable,
    /// Only if no endpoint is usable.
    Unhealthy,
    /// Never.
    Drained,
}

/// Where an endpoint is dialled.
#[derive(Debug)]
pub enum Place {
    Ip(SocketAddr),
    /// Looked up at each dial.
    Name(Name),
    Unix(PathBuf),
}

/// What its cluster adds to an endpoint.
pub(super) struct Traits {
    /// What its identity hashes to.
    pub mark: Mark,
    /// What affinity cookies call it.
    pub code: Option<Box<str>>,
    /// The name that it is an address of.
    pub host_name: Option<Arc<str>>,
    /// The time over which its weight rises when it came back.
    pub slow_start: Option<Duration>,
}

impl From<Mark> for Traits {
    fn from(mark: Mark) -> Traits {
        Traits { mark, code: None, host_name: None, slow_start: None }
    }
}

impl Endpoint {
    /// What one of the same identity `before` it knows, it knows too.
    pub(super) fn new(
        endpoint: &config::Endpoint,
        traits: Traits,
        before: &[Arc<Endpoint>],
    ) -> Arc<Endpoint> {
        let own_name = match &endpoint.address {
            EndpointAddress::Name { host, .. } => Some(host.as_str().into()),
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => None,
        };
        let identity = endpoint.identity();
        let before = before.iter().find(|before| before.identity == identity);
        Arc::new(Endpoint {
            state: before.map(|before| before.state.clone()).unwrap_or_default(),
            identity,
            mark: traits.mark,
            code: traits.code,
            place: place(&endpoint.address),
            label: endpoint.address.to_string().into(),
            host_name: traits.host_name.or(own_name),
            weight: Weight::whole(endpoint.weight),
            slow_start: traits.slow_start,
            probed: AtomicBool::new(false),
            backup: endpoint.backup,
            max_connections: endpoint.max_connections.unwrap_or(usize::MAX),
            turn: Turn::default(),
        })
    }

    /// What it is the same endpoint by, in another process and after a change of the file: its
    /// `id`, or its address.
    pub fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    pub(super) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.turn
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The name that it was found by, where it is no bare address.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref()
    }

    /// Where it is no name and no path.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Ip(address) => Some(address),
            Place::Name(_) | Place::Unix(_) => None,
        }
    }

    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.address() == Some(address)
    }

    /// The address as logs show it.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Used only where no other is usable.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Connections that are live or being made.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// It has all the connections that it may have.
    pub fn is_full(&self) -> bool {
        self.connections() >= self.max_connections
    }

    /// Whether a choice may fall on it.
    pub fn standing(&self, now: Instant) -> Standing {
        if self.state.drained.load(Ordering::Relaxed) {
            return Standing::Drained;
        }
        if self.is_spotless() {
            return Standing::Usable;
        }
        let health = self.health();
        match health.verdict() {
            Verdict::Up if !health.is_ejected(now) => Standing::Usable,
            Verdict::Up | Verdict::Down => Standing::Unhealthy,
        }
    }

    /// Its part of the load at the moment; less while it starts slowly.
    pub fn weight(&self, now: Instant) -> Weight {
        if self.slow_start.is_none() || self.is_spotless() {
            return self.weight;
        }
        self.weight.scaled(self.health().part(self.slow_start, now), health::WHOLE)
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        !self.is_spotless() && self.health().is_ejected(now)
    }

    /// Takes note of an answer; says whether it had been ejected.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        !self.is_spotless() && self.note(|health| health.succeeded(self.slow_start, now))
    }

    /// Takes note of something about its health.
    pub(super) fn note<T>(&self, note: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = self.health();
        let result = note(&mut health);
        self.state.blemished.store(!health.is_spotless(), Ordering::Relaxed);
        result
    }

    fn is_spotless(&self) -> bool {
        !self.state.blemished.load(Ordering::Relaxed)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.state.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no new connection come here, until [`Endpoint::undrain`]. Live ones stay.
    pub fn drain(&self) {
        self.state.drained.store(true, Ordering::Relaxed);
    }

    pub fn undrain(&self) {
        self.state.drained.store(false, Ordering::Relaxed);
    }

    /// Whether it falls to the caller to probe it, since nobody does.
    pub(super) fn begin_probing(&self) -> bool {
        !self.probed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn end_probing(&self) {
        self.probed.store(false, Ordering::Relaxed);
    }
}

fn place(address: &EndpointAddress) -> Place {
    match address {
        EndpointAddress::Ip(address) => Place::Ip(*address),
        EndpointAddress::Name { host, port } => Place::Name(Name::new(host, *port)),
        EndpointAddress::Unix(path) => Place::Unix(path.clone()),
    }
}

/// How far an endpoint has come in a round. Who advances turns holds its balancer's lock.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicI64);

impl Turn {
    /// Where it stands then.
    pub fn advance(&self, by: i64) -> i64 {
        self.0.fetch_add(by, Ordering::Relaxed).wrapping_add(by)
    }
}

/// A connection's place at its endpoint; dropping it gives it back.
pub struct Lease(Arc<Endpoint>);

impl Lease {
    /// Takes a place, unless the endpoint is full. One atomic step, so that of many who want the
    /// last place one gets it.
    pub fn take(endpoint: &Arc<Endpoint>) -> Option<Lease> {
        let taken = |live: usize| (live < endpoint.max_connections).then_some(live + 1);
        let (count, relaxed) = (&endpoint.state.connections, Ordering::Relaxed);
        count.fetch_update(relaxed, relaxed, taken).ok().map(|_| Lease(endpoint.clone()))
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.state.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Lease({})", self.0.label)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hashing::Seed;
    use super::*;

    fn endpoint(max_connections: Option<usize>) -> Arc<Endpoint> {
        let address = EndpointAddress::Unix("/run/chat.sock".into());
        made(config::Endpoint { max_connections, ..address.into() }, None)
    }

    fn made(endpoint: config::Endpoint, slow_start: Option<Duration>) -> Arc<Endpoint> {
        let mark = Seed::default().mark(&endpoint.identity());
        Endpoint::new(&endpoint, Traits { slow_start, ..mark.into() }, &[])
    }

    #[test]
    fn a_drained_endpoint_gets_nothing_however_well_it_is() {
        let (endpoint, now) = (endpoint(None), Instant::now());
        assert_eq!(endpoint.standing(now), Standing::Usable);
        endpoint.drain();
        assert_eq!(endpoint.standing(now), Standing::Drained);
        endpoint.undrain();
        assert_eq!(endpoint.standing(now), Standing::Usable);
    }

    #[test]
    fn an_ejected_endpoint_is_unhealthy_for_as_long_as_that_lasts() {
        let rules = config::Passive { failures: 3, eject: Duration::from_secs(10) };
        let (endpoint, now) = (endpoint(None), Instant::now());
        let lasting = endpoint.note(|health| health.eject(rules, now));
        assert_eq!(endpoint.standing(now), Standing::Unhealthy);
        assert_eq!(endpoint.standing(now + lasting), Standing::Usable);
        assert!(!endpoint.is_spotless() && endpoint.succeeded(now + lasting));
        assert!(endpoint.is_spotless() && !endpoint.succeeded(now + lasting));
    }

    #[test]
    fn an_endpoint_that_came_back_has_a_part_of_its_weight() {
        let address = EndpointAddress::Unix("/run/chat.sock".into());
        let heavy = config::Endpoint { weight: 8, ..address.into() };
        let endpoint = made(heavy, Some(Duration::from_secs(10)));
        let now = Instant::now();
        assert_eq!(endpoint.weight(now), Weight::whole(8));
        let once = health::Thresholds { unhealthy_after: 1, healthy_after: 1 };
        endpoint.note(|health| health.probed(false, once, now));
        endpoint.note(|health| health.probed(true, once, now));
        assert_eq!(endpoint.weight(now + Duration::from_secs(5)), Weight::whole(4));
        assert_eq!(endpoint.weight(now + Duration::from_secs(10)), Weight::whole(8));
    }

    #[test]
    fn a_lease_counts_for_as_long_as_it_lives() {
        let endpoint = endpoint(None);
        let lease = Lease::take(&endpoint);
        assert_eq!((endpoint.connections(), &**endpoint.label()), (1, "unix:/run/chat.sock"));
        drop(lease);
        assert_eq!(endpoint.connections(), 0);
    }

    #[test]
    fn a_full_endpoint_gives_no_lease() {
        let endpoint = endpoint(Some(1));
        let lease = Lease::take(&endpoint).expect("the only place is free");
        assert!(endpoint.is_full() && Lease::take(&endpoint).is_none());
        drop(lease);
        assert!(Lease::take(&endpoint).is_some());
    }
}

//! One address of an upstream, and how many connections it has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Instant;

use super::hashing::{Mark, Weight};
use crate::config::{self, EndpointAddress};

#[derive(Debug)]
pub struct Endpoint {
    identity: Arc<str>,
    mark: Mark,
    code: Option<Box<str>>,
    address: EndpointAddress,
    label: Arc<str>,
    weight: Weight,
    backup: bool,
    max_connections: usize,
    turn: Turn,
    state: Arc<State>,
}

/// What an endpoint keeps through a reload.
#[derive(Debug, Default)]
struct State {
    connections: AtomicUsize,
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

impl Endpoint {
    /// `mark` is what its identity hashes to, `code` what affinity cookies call it. What one of
    /// the same identity `before` it counts is counted here too.
    pub(super) fn new(
        endpoint: &config::Endpoint,
        mark: Mark,
        code: Option<Box<str>>,
        before: &[Arc<Endpoint>],
    ) -> Arc<Endpoint> {
        let identity = endpoint.identity();
        let before = before.iter().find(|before| before.identity == identity);
        Arc::new(Endpoint {
            state: before.map(|before| before.state.clone()).unwrap_or_default(),
            identity,
            mark,
            code,
            address: endpoint.address.clone(),
            label: endpoint.address.to_string().into(),
            weight: Weight::whole(endpoint.weight),
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

    pub fn address(&self) -> &EndpointAddress {
        &self.address
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

    /// Whether a choice may fall on it. Health, ejection and drains speak here.
    pub fn standing(&self, _now: Instant) -> Standing {
        Standing::Usable
    }

    /// Its part of the load at the moment. A slow start speaks here.
    pub fn weight(&self, _now: Instant) -> Weight {
        self.weight
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
        let endpoint = config::Endpoint { max_connections, ..address.into() };
        Endpoint::new(&endpoint, Seed::default().mark(&endpoint.identity()), None, &[])
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

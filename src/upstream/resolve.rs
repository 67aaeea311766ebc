//! A name whose every address is an endpoint: what an answer does to a cluster's list. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::endpoint::Endpoint;

/// The endpoints that a name's answers brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    present: BTreeMap<SocketAddr, Arc<Endpoint>>,
    /// Those that went and still have connections: should their address come back, it is the
    /// same endpoint.
    gone: BTreeMap<SocketAddr, Weak<Endpoint>>,
}

/// What was new in an answer, and what it lacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub added: Vec<SocketAddr>,
    pub removed: Vec<SocketAddr>,
}

impl Found {
    /// What an earlier answer brought.
    pub fn of(endpoints: impl Iterator<Item = Arc<Endpoint>>) -> Found {
        let at = |endpoint: Arc<Endpoint>| Some((endpoint.address()?, endpoint));
        Found { present: endpoints.filter_map(at).collect(), gone: BTreeMap::new() }
    }

    /// Takes a good answer. `None`: it brought nothing new.
    pub fn update(
        &mut self,
        answer: impl IntoIterator<Item = SocketAddr>,
        make: impl Fn(SocketAddr) -> Arc<Endpoint>,
    ) -> Option<Change> {
        let mut before = std::mem::take(&mut self.present);
        let mut added = Vec::new();
        for address in answer {
            if self.present.contains_key(&address) {
                continue;
            }
            let kept = before.remove(&address);
            let endpoint = kept.unwrap_or_else(|| {
                added.push(address);
                self.came_back(address).unwrap_or_else(|| make(address))
            });
            self.present.insert(address, endpoint);
        }
        let removed: Vec<SocketAddr> = before.keys().copied().collect();
        self.gone.extend(before.iter().map(|(address, left)| (*address, Arc::downgrade(left))));
        drop(before);
        self.gone.retain(|_, endpoint| endpoint.strong_count() > 0);
        let changed = !(added.is_empty() && removed.is_empty());
        changed.then_some(Change { added, removed })
    }

    fn came_back(&mut self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        self.gone.remove(&address)?.upgrade()
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.present.values()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hashing::Seed;
    use super::*;
    use crate::config::{self, EndpointAddress};

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 9001))
    }

    fn make(address: SocketAddr) -> Arc<Endpoint> {
        let endpoint: config::Endpoint = EndpointAddress::Ip(address).into();
        let mark = Seed::default().mark(&endpoint.identity());
        Endpoint::new(&endpoint, mark.into(), &[])
    }

    fn update(found: &mut Found, last: &[u8]) -> Option<Change> {
        found.update(last.iter().copied().map(address), make)
    }

    fn change(added: &[u8], removed: &[u8]) -> Option<Change> {
        let all = |last: &[u8]| last.iter().copied().map(address).collect();
        Some(Change { added: all(added), removed: all(removed) })
    }

    #[test]
    fn an_answer_adds_and_removes() {
        let mut found = Found::default();
        assert_eq!(update(&mut found, &[1, 2]), change(&[1, 2], &[]));
        assert_eq!(update(&mut found, &[2, 1]), None);
        assert_eq!(update(&mut found, &[3, 2]), change(&[3], &[1]));
        assert_eq!(found.endpoints().count(), 2);
    }

    #[test]
    fn an_endpoint_that_stays_is_the_same_one() {
        let mut found = Found::default();
        update(&mut found, &[1, 2]);
        let before: Vec<_> = found.endpoints().cloned().collect();
        update(&mut found, &[2, 3]);
        assert!(found.endpoints().any(|endpoint| Arc::ptr_eq(endpoint, &before[1])));
    }

    #[test]
    fn an_address_that_comes_back_finds_its_connections() {
        let mut found = Found::default();
        update(&mut found, &[1]);
        let live = found.endpoints().next().cloned().expect("an endpoint");
        assert_eq!(update(&mut found, &[2]), change(&[2], &[1]));
        assert_eq!(update(&mut found, &[1]), change(&[1], &[2]));
        assert!(found.endpoints().all(|endpoint| Arc::ptr_eq(endpoint, &live)));
        assert!(found.gone.is_empty(), "nobody uses the other");
    }

    proptest! {
        /// After any answers the list is the last of them, each address once, and nothing is
        /// remembered that nobody uses.
        #[test]
        fn the_last_answer_is_the_list(answers in prop::collection::vec(
            prop::collection::vec(0u8..8, 1..6), 1..12)
        ) {
            let mut found = Found::default();
            for answer in &answers {
                let before: Vec<SocketAddr> = found.present.keys().copied().collect();
                let change = update(&mut found, answer);
                let mut wanted: Vec<SocketAddr> = answer.iter().copied().map(address).collect();
                wanted.sort();
                wanted.dedup();
                let present: Vec<SocketAddr> = found.present.keys().copied().collect();
                prop_assert_eq!(&present, &wanted);
                prop_assert_eq!(change.is_some(), before != present);
                prop_assert!(found.gone.is_empty());
            }
        }
    }
}

//! Caps on live connections: in all, and of one client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ClientKey;

#[derive(Debug)]
pub(super) struct Caps {
    total: Option<usize>,
    per_client: Option<usize>,
    live: Arc<Mutex<Live>>,
}

#[derive(Debug, Default)]
struct Live {
    all: usize,
    /// Those that came while there was a cap per client; a key lives as long as its connections.
    by_client: HashMap<ClientKey, usize>,
}

/// The cap that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cap {
    Client,
    Total,
}

impl Caps {
    /// Whoever `before` counts is counted here too.
    pub(super) fn new(
        total: Option<usize>,
        per_client: Option<usize>,
        before: Option<&Caps>,
    ) -> Arc<Caps> {
        let live = before.map(|before| before.live.clone()).unwrap_or_default();
        Arc::new(Caps { total, per_client, live })
    }

    /// Connections that live.
    pub(super) fn live(&self) -> usize {
        self.lock().all
    }

    /// Clients that are counted.
    pub(super) fn keys(&self) -> usize {
        self.lock().by_client.len()
    }

    /// A place for one more connection of `client`.
    pub(super) fn take(self: &Arc<Caps>, client: ClientKey) -> Result<Permit, Cap> {
        let mut live = self.lock();
        if let Some(cap) = self.per_client {
            let count = live.by_client.get(&client).copied().unwrap_or_default();
            if count >= cap {
                return Err(Cap::Client);
            }
            live.by_client.insert(client, count + 1);
        }
        let client = self.per_client.map(|_| client);
        if self.total.is_some_and(|cap| live.all >= cap) {
            live.leave(client);
            return Err(Cap::Total);
        }
        live.all += 1;
        Ok(Permit { caps: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn leave(&mut self, client: Option<ClientKey>) {
        let Some(client) = client else { return };
        let Some(count) = self.by_client.get_mut(&client) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_client.remove(&client);
            self.shrink();
        }
    }

    /// Gives memory back once most of it is unused.
    fn shrink(&mut self) {
        if self.by_client.capacity() > 64 && self.by_client.len() * 4 < self.by_client.capacity() {
            self.by_client.shrink_to(self.by_client.len() * 2);
        }
    }
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    caps: Arc<Caps>,
    /// Where it is counted by its client.
    client: Option<ClientKey>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut live = self.caps.lock();
        live.all -= 1;
        live.leave(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn a_client_that_has_gone_is_forgotten_and_its_memory_given_back() {
        let caps = Caps::new(Some(200_000), Some(1), None);
        let client = |number: u32| ClientKey(IpAddr::V4(Ipv4Addr::from_bits(number)));
        let permits: Vec<_> = (0..100_000).map(|one| caps.take(client(one)).unwrap()).collect();
        assert_eq!(caps.take(client(7)).err(), Some(Cap::Client));
        drop(permits);
        let live = caps.lock();
        assert_eq!((live.all, live.by_client.len()), (0, 0));
        assert!(live.by_client.capacity() < 200, "{}", live.by_client.capacity());
    }

    #[test]
    fn a_refusal_for_all_leaves_nothing_of_the_client() {
        let caps = Caps::new(Some(0), Some(5), None);
        let client = ClientKey(IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(caps.take(client).err(), Some(Cap::Total));
        assert_eq!(caps.lock().by_client.len(), 0);
    }
}

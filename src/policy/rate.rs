//! Rates of handshakes: of one client, and of all.
//!
//! Outsiders choose the keys, so the buckets are bounded: 100,000, and whoever is not among them
//! when they are full shares one bucket with all others like him. Buckets that are empty again
//! are forgotten, and their memory given back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{ClientKey, Denied};
use crate::rate::{Bucket, Rate};

/// Clients that have a bucket of their own.
const CLIENTS: usize = 100_000;
/// How often empty buckets are looked for.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Handshakes {
    per_client: Option<Rate>,
    total: Option<Rate>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: Bucket,
    clients: HashMap<ClientKey, Bucket>,
    others: Bucket,
    swept: Option<Instant>,
}

impl Handshakes {
    pub(super) fn new(per_client: Option<Rate>, total: Option<Rate>) -> Handshakes {
        Handshakes { per_client, total, state: Mutex::default() }
    }

    pub(super) fn has_rates_of(&self, other: &Handshakes) -> bool {
        (self.per_client, self.total) == (other.per_client, other.total)
    }

    /// Counts a handshake of `client`, unless it is one too many. One that is refused for the
    /// client's sake costs the others nothing.
    pub(super) fn take(&self, client: ClientKey, now: Instant) -> Result<(), Denied> {
        if self.per_client.is_none() && self.total.is_none() {
            return Ok(());
        }
        let mut state = self.lock();
        if let Some(rate) = self.per_client {
            state.sweep(now);
            let bucket = state.bucket(client);
            bucket.take(now, rate).map_err(|wait| Denied::ClientRate { wait })?;
        }
        if let Some(rate) = self.total {
            state.total.take(now, rate).map_err(|wait| Denied::TotalRate { wait })?;
        }
        Ok(())
    }

    /// Clients that have a bucket.
    pub(super) fn keys(&self) -> usize {
        self.lock().clients.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bucket(&mut self, client: ClientKey) -> &mut Bucket {
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&client) {
            return &mut self.others;
        }
        self.clients.entry(client).or_default()
    }

    fn sweep(&mut self, now: Instant) {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) < SWEEP {
            return;
        }
        self.swept = Some(now);
        self.clients.retain(|_, bucket| !bucket.is_empty(now));
        if self.clients.len() * 4 < self.clients.capacity() {
            self.clients.shrink_to(self.clients.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: Rate = Rate { count: 2, period: SECOND, burst: 2 };

    fn client(number: u32) -> ClientKey {
        ClientKey(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn waiting_as_long_as_is_told_gets_in() {
        let handshakes = Handshakes::new(Some(RATE), None);
        let now = Instant::now();
        assert_eq!([(); 2].map(|()| handshakes.take(client(1), now)), [Ok(()), Ok(())]);
        let Err(Denied::ClientRate { wait }) = handshakes.take(client(1), now) else {
            panic!("a third at once")
        };
        assert_eq!(wait, SECOND / 2);
        assert_eq!(handshakes.take(client(2), now), Ok(()));
        assert_eq!(handshakes.take(client(1), now + wait), Ok(()));
    }

    #[test]
    fn the_rate_of_all_is_one() {
        let handshakes = Handshakes::new(None, Some(RATE));
        let now = Instant::now();
        assert_eq!([1, 2].map(|one| handshakes.take(client(one), now)), [Ok(()), Ok(())]);
        assert_eq!(handshakes.take(client(3), now), Err(Denied::TotalRate { wait: SECOND / 2 }));
    }

    #[test]
    fn a_million_clients_are_bounded_and_forgotten() {
        let handshakes = Handshakes::new(Some(RATE), None);
        let now = Instant::now();
        for one in 0..1_000_000 {
            let _ = handshakes.take(client(one), now);
        }
        assert_eq!(handshakes.lock().clients.len(), CLIENTS);
        assert_eq!(handshakes.take(client(7), now), Ok(()), "known from before the flood");
        assert!(handshakes.take(client(2_000_000), now).is_err(), "shares what the flood used up");
        handshakes.take(client(3_000_000), now + SWEEP).unwrap();
        let state = handshakes.lock();
        assert_eq!(state.clients.len(), 1);
        assert!(state.clients.capacity() < 100, "{}", state.clients.capacity());
    }
}

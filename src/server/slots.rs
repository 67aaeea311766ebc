//! The bounds of one listener: how many connections, and how many of them may still be pending.
//!
//! A connection takes a [`Slot`] when it is accepted. It is pending until its first head is
//! whole, then busy, idle between requests, or a tunnel. One pending connection too many costs
//! the oldest pending one; one connection too many costs an idle one, and if there is none
//! accepting pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::ListenerLimits;
use crate::metrics::Tallies;

#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
    freed: Notify,
    /// What is counted here, together with that of other listeners.
    pub tallies: Arc<Tallies>,
}

#[derive(Debug)]
struct State {
    limits: ListenerLimits,
    next: u64,
    open: usize,
    /// By age, since keys only grow.
    pending: BTreeMap<u64, Arc<Notify>>,
    idle: BTreeMap<u64, Arc<Notify>>,
    /// Idle ones that were told to make room and are still there.
    leaving: BTreeSet<u64>,
}

impl Slots {
    pub fn new(limits: ListenerLimits, tallies: Arc<Tallies>) -> Arc<Slots> {
        Arc::new(Slots {
            state: Mutex::new(State {
                limits,
                next: 0,
                open: 0,
                pending: BTreeMap::new(),
                idle: BTreeMap::new(),
                leaving: BTreeSet::new(),
            }),
            freed: Notify::new(),
            tallies,
        })
    }

    /// Waits until the connection that wants to be accepted may be; an idle one has to make room
    /// if need be.
    pub async fn room(&self) {
        if self.has_room() {
            return;
        }
        self.count_error();
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            self.evict_idle();
            freed.await;
        }
    }

    pub fn has_room(&self) -> bool {
        let state = self.lock();
        state.open < state.limits.connections
    }

    /// Bounds what comes from now on by other limits; what is there stays.
    pub fn limit(&self, limits: ListenerLimits) {
        self.lock().limits = limits;
        self.freed.notify_one();
    }

    /// Tells the longest idle connection to go, unless one is going already.
    fn evict_idle(&self) {
        let mut state = self.lock();
        if !state.leaving.is_empty() {
            return;
        }
        if let Some((id, oldest)) = state.idle.pop_first() {
            state.leaving.insert(id);
            oldest.notify_one();
        }
    }

    /// A slot for a connection that was just accepted.
    pub fn take(self: &Arc<Slots>) -> Slot {
        let evicted = Arc::<Notify>::default();
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open += 1;
        state.pending.insert(id, evicted.clone());
        let oldest = if state.pending.len() > state.limits.pending {
            state.pending.pop_first()
        } else {
            None
        };
        drop(state);
        self.tallies.pending_changed(if oldest.is_some() { 0 } else { 1 });
        if let Some((_, oldest)) = oldest {
            self.count_error();
            oldest.notify_one();
        }
        Slot { slots: self.clone(), id, evicted }
    }

    pub fn count_error(&self) {
        self.tallies.accept_errors.add(1);
    }

    fn no_longer_pending(&self, state: &mut State, id: u64) {
        if state.pending.remove(&id).is_some() {
            self.tallies.pending_changed(-1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those of its listener; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    id: u64,
    evicted: Arc<Notify>,
}

impl Slot {
    /// Told when the connection has to make room.
    pub fn evicted(&self) -> Arc<Notify> {
        self.evicted.clone()
    }

    /// It has a request to answer, or has become a tunnel.
    pub fn set_busy(&self) {
        let mut state = self.slots.lock();
        self.slots.no_longer_pending(&mut state, self.id);
        state.idle.remove(&self.id);
    }

    /// It has answered and may be asked again.
    pub fn set_idle(&self) {
        self.slots.lock().idle.insert(self.id, self.evicted.clone());
        self.slots.freed.notify_one();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        self.slots.no_longer_pending(&mut state, self.id);
        state.idle.remove(&self.id);
        state.leaving.remove(&self.id);
        state.open -= 1;
        drop(state);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn slots(connections: usize, pending: usize) -> Arc<Slots> {
        let limits = ListenerLimits { header_bytes: 8192, uri: 8192, connections, pending };
        Slots::new(limits, Arc::default())
    }

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn is_evicted(slot: &Slot) -> bool {
        is_ready(slot.evicted().notified())
    }

    #[test]
    fn one_pending_too_many_costs_the_oldest() {
        let slots = slots(10, 2);
        let (first, second, third) = (slots.take(), slots.take(), slots.take());
        assert_eq!([&first, &second, &third].map(is_evicted), [true, false, false]);
        second.set_busy();
        let _fourth = slots.take();
        assert!(!is_evicted(&third));
        assert_eq!((slots.tallies.accept_errors.value(), slots.tallies.pending()), (1, 2));
        drop((first, second, third, _fourth));
        assert_eq!(slots.tallies.pending(), 0);
    }

    #[test]
    fn accepting_pauses_at_the_bound_and_an_idle_connection_makes_room() {
        let slots = slots(2, 10);
        let busy = slots.take();
        busy.set_busy();
        let idle = slots.take();
        idle.set_busy();
        assert!(!is_ready(slots.room()));
        assert!(!is_evicted(&idle));
        idle.set_idle();
        assert!(!is_ready(slots.room()));
        assert!(is_evicted(&idle) && !is_evicted(&busy));
        busy.set_idle();
        assert!(!is_ready(slots.room()));
        assert!(!is_evicted(&busy), "one is enough for one");
        drop(idle);
        assert!(is_ready(slots.room()));
    }
}

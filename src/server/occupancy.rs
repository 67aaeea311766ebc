//! Who is here: connections for each worker, to spread new ones, and in all, to know when the
//! last has gone.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Debug)]
pub struct Occupancy {
    workers: Box<[AtomicUsize]>,
    /// Connections and accept loops.
    all: AtomicUsize,
    empty: Notify,
}

impl Occupancy {
    pub fn new(workers: usize) -> Arc<Occupancy> {
        Arc::new(Occupancy {
            workers: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            all: AtomicUsize::new(0),
            empty: Notify::new(),
        })
    }

    /// Counts a new connection for the worker with the fewest; of equals for `own`.
    pub fn seat(self: &Arc<Occupancy>, own: usize) -> Occupant {
        let load = |worker: &usize| self.workers[*worker].load(Ordering::Relaxed);
        let least = (0..self.workers.len()).min_by_key(|worker| (load(worker), *worker != own));
        let worker = least.expect("there is at least one worker");
        self.workers[worker].fetch_add(1, Ordering::Relaxed);
        self.enter(Some(worker))
    }

    /// Counts what is no connection but must be waited for.
    pub fn enter(self: &Arc<Occupancy>, worker: Option<usize>) -> Occupant {
        self.all.fetch_add(1, Ordering::Relaxed);
        Occupant { occupancy: self.clone(), worker, weight: Cell::new(1) }
    }

    pub fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.load(Ordering::Relaxed)).sum()
    }

    /// Waits until nobody is left.
    pub async fn emptied(&self) {
        loop {
            let empty = self.empty.notified();
            if self.all.load(Ordering::Acquire) == 0 {
                return;
            }
            empty.await;
        }
    }
}

/// Somebody who is here; dropping it is leaving.
#[derive(Debug)]
pub struct Occupant {
    occupancy: Arc<Occupancy>,
    worker: Option<usize>,
    /// As how many connections it counts.
    weight: Cell<usize>,
}

impl Occupant {
    /// From now on it counts for its worker as that many connections, and one at least: a stream
    /// of HTTP/2 is as much work as a connection.
    pub fn weigh(&self, streams: usize) {
        let Some(worker) = self.worker else { return };
        let (before, after) = (self.weight.get(), streams.max(1));
        let worker = &self.occupancy.workers[worker];
        match after.checked_sub(before) {
            Some(more) => worker.fetch_add(more, Ordering::Relaxed),
            None => worker.fetch_sub(before - after, Ordering::Relaxed),
        };
        self.weight.set(after);
    }

    /// The worker it was seated at.
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        if let Some(worker) = self.worker {
            self.occupancy.workers[worker].fetch_sub(self.weight.get(), Ordering::Relaxed);
        }
        if self.occupancy.all.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.occupancy.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_spreads_evenly_and_stays_at_home_when_it_can() {
        let occupancy = Occupancy::new(3);
        let seated: Vec<Occupant> = (0..9).map(|_| occupancy.seat(1)).collect();
        assert_eq!(seated[0].worker(), Some(1));
        for worker in 0..3 {
            assert_eq!(seated.iter().filter(|one| one.worker() == Some(worker)).count(), 3);
        }
        seated[0].weigh(10);
        assert_eq!(occupancy.seat(1).worker(), Some(0), "streams count as connections do");
        seated[0].weigh(0);
        assert_eq!(occupancy.connections(), 9);
        drop(seated);
        assert_eq!(occupancy.connections(), 0);
    }
}

//! All deadlines of a tunnel in one table, so that one timer serves it.

use std::time::{Duration, Instant};

use crate::ending::Side;

/// What a deadline is for. The side is the one that is pinged, silent, stalling, slow to take
/// what it is sent, or told goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Ping(Side),
    Silence(Side),
    Stall(Side),
    Slow(Side),
    Farewell(Side),
    /// A client that was throttled may be read again.
    Resume(Side),
    Idle,
    MaxAge,
    /// The clock on the wall has to be looked at: has the token expired?
    Expiry,
}

impl Due {
    const ALL: [Due; 15] = [
        Due::Ping(Side::Client),
        Due::Ping(Side::Upstream),
        Due::Silence(Side::Client),
        Due::Silence(Side::Upstream),
        Due::Stall(Side::Client),
        Due::Stall(Side::Upstream),
        Due::Slow(Side::Client),
        Due::Slow(Side::Upstream),
        Due::Farewell(Side::Client),
        Due::Farewell(Side::Upstream),
        Due::Resume(Side::Client),
        Due::Resume(Side::Upstream),
        Due::Idle,
        Due::MaxAge,
        Due::Expiry,
    ];

    #[inline]
    fn index(self) -> usize {
        match self {
            Due::Ping(side) => side as usize,
            Due::Silence(side) => 2 + side as usize,
            Due::Stall(side) => 4 + side as usize,
            Due::Slow(side) => 6 + side as usize,
            Due::Farewell(side) => 8 + side as usize,
            Due::Resume(side) => 10 + side as usize,
            Due::Idle => 12,
            Due::MaxAge => 13,
            Due::Expiry => 14,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Deadline {
    #[default]
    Off,
    At(Instant),
    /// Stands still with so much left.
    Frozen(Duration),
}

#[derive(Debug, Default)]
pub struct Deadlines([Deadline; Due::ALL.len()]);

impl Deadlines {
    /// Sets `due` to come `after` from `now`, or never; one that stands still goes on doing so.
    #[inline]
    pub fn set(&mut self, due: Due, now: Instant, after: Option<Duration>) {
        let deadline = &mut self.0[due.index()];
        *deadline = match (after, *deadline) {
            (None, _) => Deadline::Off,
            (Some(after), Deadline::Frozen(_)) => Deadline::Frozen(after),
            (Some(after), _) => Deadline::At(now + after),
        };
    }

    #[inline]
    pub fn clear(&mut self, due: Due) {
        self.0[due.index()] = Deadline::Off;
    }

    /// Has `due` come no later than `after` from `now`, or never; one that stands still goes on
    /// doing so.
    pub fn shorten(&mut self, due: Due, now: Instant, after: Option<Duration>) {
        let deadline = &mut self.0[due.index()];
        *deadline = match (after, *deadline) {
            (None, _) => Deadline::Off,
            (Some(after), Deadline::Off) => Deadline::At(now + after),
            (Some(after), Deadline::At(at)) => Deadline::At(at.min(now + after)),
            (Some(after), Deadline::Frozen(left)) => Deadline::Frozen(left.min(after)),
        };
    }

    pub fn is_set(&self, due: Due) -> bool {
        !matches!(self.0[due.index()], Deadline::Off)
    }

    /// Stops the clock of `due`.
    pub fn freeze(&mut self, due: Due, now: Instant) {
        let deadline = &mut self.0[due.index()];
        if let Deadline::At(at) = *deadline {
            *deadline = Deadline::Frozen(at.saturating_duration_since(now));
        }
    }

    /// Lets the clock of `due` go on with what was left.
    pub fn thaw(&mut self, due: Due, now: Instant) {
        let deadline = &mut self.0[due.index()];
        if let Deadline::Frozen(left) = *deadline {
            *deadline = Deadline::At(now + left);
        }
    }

    /// The next moment at which something is due.
    #[inline]
    pub fn earliest(&self) -> Option<Instant> {
        let running = self.0.iter().filter_map(|deadline| match deadline {
            Deadline::At(at) => Some(*at),
            Deadline::Off | Deadline::Frozen(_) => None,
        });
        running.min()
    }

    /// Takes one that is due by `now`.
    pub fn take_expired(&mut self, now: Instant) -> Option<Due> {
        let expired = |due: &Due| matches!(self.0[due.index()], Deadline::At(at) if at <= now);
        let due = Due::ALL.into_iter().find(expired)?;
        self.clear(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_deadline_has_a_place_of_its_own() {
        for (index, due) in Due::ALL.into_iter().enumerate() {
            assert_eq!(due.index(), index);
        }
    }

    #[test]
    fn what_is_due_is_taken_once() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(Due::Idle, now, Some(SECOND));
        deadlines.set(Due::Ping(Side::Client), now, Some(2 * SECOND));
        assert_eq!(deadlines.earliest(), Some(now + SECOND));
        assert_eq!(deadlines.take_expired(now), None);
        assert_eq!(deadlines.take_expired(now + SECOND), Some(Due::Idle));
        assert_eq!(deadlines.take_expired(now + SECOND), None);
        assert_eq!(deadlines.earliest(), Some(now + 2 * SECOND));
    }

    #[test]
    fn a_frozen_clock_goes_on_with_what_was_left() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(Due::Idle, now, Some(3 * SECOND));
        deadlines.freeze(Due::Idle, now + SECOND);
        assert_eq!(deadlines.earliest(), None);
        assert_eq!(deadlines.take_expired(now + 9 * SECOND), None);
        deadlines.thaw(Due::Idle, now + 10 * SECOND);
        assert_eq!(deadlines.earliest(), Some(now + 12 * SECOND));
    }

    #[test]
    fn what_is_set_anew_while_frozen_stays_frozen() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.set(Due::Idle, now, Some(SECOND));
        deadlines.freeze(Due::Idle, now);
        deadlines.set(Due::Idle, now, Some(5 * SECOND));
        assert_eq!(deadlines.earliest(), None);
        deadlines.thaw(Due::Idle, now);
        assert_eq!(deadlines.earliest(), Some(now + 5 * SECOND));
    }
}

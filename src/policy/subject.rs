//! Subjects: how many connections each has, and what they have used up of its rates together.
//!
//! A key lives as long as its connections; behind them it is kept only until its rates are
//! whole again, so that coming back gains nothing. Outsiders choose the keys, so those of the
//! second kind are bounded: 100,000 in all, and whoever is not among them when they are full
//! shares his rates with all others like him.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::{SharedBucket, SharedRates};

/// Subjects that have rates of their own.
const SUBJECTS: usize = 100_000;
/// How often subjects without a connection are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// The name of who comes, as a token or an authorizer gives it: 1 to 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    const LONGEST: usize = 256;

    /// `None` where it is empty or too long.
    pub fn new(name: &str) -> Option<Subject> {
        (1..=Self::LONGEST).contains(&name.len()).then(|| Subject(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[derive(Debug)]
pub(super) struct Subjects {
    cap: Option<usize>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Subject, Known>,
    others: Option<Arc<SharedRates>>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    live: usize,
    rates: Arc<SharedRates>,
}

impl Subjects {
    /// Whoever `before` counts is counted here too, and goes on to owe what he owes.
    pub(super) fn new(cap: Option<usize>, before: Option<&Subjects>) -> Arc<Subjects> {
        let state = before.map(|before| before.state.clone()).unwrap_or_default();
        Arc::new(Subjects { cap, state })
    }

    /// A place for one more connection of `subject`; `None` where it has all that it may have.
    pub(super) fn take(self: &Arc<Subjects>, subject: &Subject, now: Instant) -> Option<Place> {
        let mut state = self.lock();
        state.sweep(now);
        let full = state.known.len() >= SUBJECTS;
        let others = full.then(|| state.others(now));
        let known = state.known.entry(subject.clone()).or_insert_with(|| Known {
            live: 0,
            rates: others.unwrap_or_else(|| Arc::new(SharedRates::new(now))),
        });
        if self.cap.is_some_and(|cap| known.live >= cap) {
            return None;
        }
        known.live += 1;
        let rates = known.rates.clone();
        Some(Place { subjects: self.clone(), subject: subject.clone(), rates })
    }

    /// Subjects that are known.
    pub(super) fn keys(&self) -> usize {
        self.lock().known.len()
    }

    /// Has a rate of every subject begin anew.
    pub(super) fn renew(&self, rate: impl Fn(&SharedRates) -> &SharedBucket) {
        let state = self.lock();
        let known = state.known.values().map(|known| &known.rates);
        known.chain(&state.others).for_each(|rates| rate(rates).renew());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn others(&mut self, now: Instant) -> Arc<SharedRates> {
        self.others.get_or_insert_with(|| Arc::new(SharedRates::new(now))).clone()
    }

    fn sweep(&mut self, now: Instant) {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) < SWEEP {
            return;
        }
        self.swept = Some(now);
        self.known.retain(|_, known| known.live > 0 || !known.rates.are_empty(now));
        if self.known.len() * 4 < self.known.capacity() {
            self.known.shrink_to(self.known.len() * 2);
        }
    }

    fn leave(&mut self, subject: &Subject) {
        let Some(known) = self.known.get_mut(subject) else { return };
        known.live -= 1;
        let shares = self.others.as_ref().is_some_and(|others| Arc::ptr_eq(others, &known.rates));
        if known.live == 0 && shares {
            self.known.remove(subject);
        }
    }
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    subjects: Arc<Subjects>,
    subject: Subject,
    rates: Arc<SharedRates>,
}

impl Place {
    pub(super) fn rates(&self) -> Arc<SharedRates> {
        self.rates.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.subjects.lock().leave(&self.subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;

    const RATE: Rate = Rate { count: 1, period: Duration::from_secs(60), burst: 5 };

    fn subject(number: usize) -> Subject {
        Subject::new(&format!("user-{number}")).unwrap()
    }

    #[test]
    fn a_subject_has_a_name_and_not_a_novel() {
        assert_eq!(Subject::new(""), None);
        assert_eq!(Subject::new(&"x".repeat(257)), None);
        assert_eq!(Subject::new(&"x".repeat(256)).unwrap().as_str().len(), 256);
    }

    #[test]
    fn a_subject_has_so_many_places_and_gets_one_back() {
        let (subjects, now) = (Subjects::new(Some(2), None), Instant::now());
        let places = [(); 2].map(|()| subjects.take(&subject(1), now).unwrap());
        assert!(subjects.take(&subject(1), now).is_none());
        assert!(subjects.take(&subject(2), now).is_some());
        drop(places);
        assert!(subjects.take(&subject(1), now).is_some());
    }

    #[test]
    fn coming_back_does_not_renew_what_is_used_up() {
        let (subjects, now) = (Subjects::new(None, None), Instant::now());
        let place = subjects.take(&subject(1), now).unwrap();
        place.rates().messages.charge(now, RATE, 5);
        drop(place);
        let later = now + 2 * SWEEP;
        let place = subjects.take(&subject(1), later).unwrap();
        assert!(place.rates().messages.take(later, RATE).is_err());
        drop(place);
        let whole = now + 5 * RATE.period;
        drop(subjects.take(&subject(2), whole));
        assert_eq!(subjects.lock().known.len(), 1, "the first is forgotten");
    }

    #[test]
    fn a_million_subjects_are_bounded_and_forgotten() {
        let (subjects, now) = (Subjects::new(Some(1), None), Instant::now());
        for one in 0..1_000_000 {
            let place = subjects.take(&subject(one), now).unwrap();
            place.rates().bytes.charge(now, RATE, 1);
        }
        assert_eq!(subjects.lock().known.len(), SUBJECTS);
        let known = subjects.take(&subject(7), now).unwrap();
        let [late, later] =
            [2_000_000, 3_000_000].map(|one| subjects.take(&subject(one), now).unwrap());
        assert!(
            Arc::ptr_eq(&late.rates(), &later.rates())
                && !Arc::ptr_eq(&late.rates(), &known.rates())
        );
        drop((known, late, later));
        let then = now + RATE.period + SWEEP;
        let _last = subjects.take(&subject(1), then);
        let state = subjects.lock();
        assert_eq!(state.known.len(), 1);
        assert!(state.known.capacity() < 100, "{}", state.known.capacity());
    }
}

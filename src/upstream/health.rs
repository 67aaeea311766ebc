//! What is known of one endpoint's health, from its probes and from what clients met there. Pure.
//!
//! Two judges work side by side. Probes make an endpoint [`Verdict::Down`] and up again. Failed
//! dials of clients eject it for a while; that ends by itself, and one more failure then ejects it
//! again for twice as long, until something succeeds. An endpoint takes part when neither speaks
//! against it.

use std::time::{Duration, Instant};

use crate::config::Passive;

/// An ejection never lasts longer.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);

/// What slow start begins with, in parts of [`WHOLE`]: with nothing at all an endpoint would
/// never be chosen, and with too little no first connections would warm it.
const FIRST_PART: u32 = 100;
/// The whole of a weight.
pub const WHOLE: u32 = 1000;

/// How many probes in a row it takes to change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Until a probe says otherwise.
    #[default]
    Up,
    Down,
}

/// What became of a dial that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Counted,
    /// It failed often enough to be passed over, if its cluster can spare it.
    EjectionDue,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Health {
    verdict: Verdict,
    /// Probes in a row that speak against the verdict.
    against: u32,
    /// When the verdict last became `Up`.
    up_since: Option<Instant>,
    /// Dials in a row that failed.
    failures: u32,
    /// Ejections with no success between them.
    ejections: u32,
    ejected_until: Option<Instant>,
}

impl Health {
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Takes a probe's result; the new verdict, if it changed.
    pub fn probed(
        &mut self,
        passed: bool,
        thresholds: Thresholds,
        now: Instant,
    ) -> Option<Verdict> {
        let (opposite, needed) = match self.verdict {
            Verdict::Up => (Verdict::Down, thresholds.unhealthy_after),
            Verdict::Down => (Verdict::Up, thresholds.healthy_after),
        };
        if passed == (self.verdict == Verdict::Up) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = opposite;
        if opposite == Verdict::Up {
            self.up_since = Some(now);
        }
        Some(opposite)
    }

    /// Takes note of a dial that failed. While it is ejected nothing counts: those dials began
    /// before, or went there because no endpoint was left.
    pub fn failed(&mut self, rules: Passive, now: Instant) -> Failed {
        if self.is_ejected(now) {
            return Failed::Counted;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < rules.failures { Failed::Counted } else { Failed::EjectionDue }
    }

    /// Ejects it, and says for how long.
    pub fn eject(&mut self, rules: Passive, now: Instant) -> Duration {
        let doublings = self.ejections.min(31);
        let longest = LONGEST_EJECTION.max(rules.eject);
        let lasting = rules.eject.saturating_mul(1 << doublings).min(longest);
        self.ejections = self.ejections.saturating_add(1);
        self.ejected_until = Some(now + lasting);
        lasting
    }

    /// Takes note of an answer: the endpoint takes part again, and its past is forgotten. Says
    /// whether it had been ejected.
    pub fn succeeded(&mut self, slow_start: Option<Duration>, now: Instant) -> bool {
        self.failures = 0;
        let was_ejected = std::mem::take(&mut self.ejections) > 0;
        if self.is_ejected(now) {
            self.ejected_until = Some(now);
        }
        if self.part(slow_start, now) == WHOLE {
            (self.up_since, self.ejected_until) = (None, None);
        }
        was_ejected
    }

    /// Whether it is as if nothing had ever been heard of it.
    pub fn is_spotless(&self) -> bool {
        *self == Health::default()
    }

    /// The part of its weight that it has at the moment, of [`WHOLE`]: it rises evenly over
    /// `slow_start` from when the endpoint came back.
    pub fn part(&self, slow_start: Option<Duration>, now: Instant) -> u32 {
        let Some(slow_start) = slow_start else { return WHOLE };
        let Some(back) = self.up_since.max(self.ejected_until) else { return WHOLE };
        let passed = now.saturating_duration_since(back).as_millis();
        let rising = passed.saturating_mul(u128::from(WHOLE)) / slow_start.as_millis().max(1);
        u32::try_from(rising).unwrap_or(WHOLE).clamp(FIRST_PART, WHOLE)
    }
}

/// Whether one more of `all` endpoints may be ejected beside the `ejected`: half of them at most.
pub fn can_be_spared(ejected: usize, all: usize) -> bool {
    (ejected + 1) * 2 <= all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Passive = Passive { failures: 3, eject: Duration::from_secs(10) };
    const THRESHOLDS: Thresholds = Thresholds { unhealthy_after: 3, healthy_after: 2 };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn probes_in_a_row_change_the_verdict_and_no_others() {
        let (mut health, now) = (Health::default(), Instant::now());
        let mut probed = |passed| health.probed(passed, THRESHOLDS, now);
        for passed in [false, false, true, false, false] {
            assert_eq!(probed(passed), None);
        }
        assert_eq!(probed(false), Some(Verdict::Down));
        assert_eq!([probed(false), probed(true), probed(false), probed(true)], [None; 4]);
        assert_eq!(probed(true), Some(Verdict::Up));
    }

    #[test]
    fn the_third_failure_in_a_row_is_one_too_many() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.failed(RULES, now), Failed::Counted);
        assert_eq!(health.failed(RULES, now), Failed::Counted);
        assert!(!health.succeeded(None, now));
        let failed = [(); 3].map(|()| health.failed(RULES, now));
        assert_eq!(failed, [Failed::Counted, Failed::Counted, Failed::EjectionDue]);
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_five_minutes() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        let mut lasted = Vec::new();
        for _ in 0..2 {
            health.failed(RULES, now);
        }
        for _ in 0..7 {
            assert_eq!(health.failed(RULES, now), Failed::EjectionDue, "back on trial");
            let lasting = health.eject(RULES, now);
            assert!(health.is_ejected(now + lasting - seconds(1)));
            now += lasting;
            assert!(!health.is_ejected(now));
            lasted.push(lasting.as_secs());
        }
        assert_eq!(lasted, [10, 20, 40, 80, 160, 300, 300]);
        assert!(health.succeeded(None, now));
        assert_eq!(health.failed(RULES, now), Failed::Counted);
        assert_eq!(health.eject(RULES, now), seconds(10));
    }

    #[test]
    fn a_success_ends_an_ejection() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.eject(RULES, now);
        assert!(health.succeeded(None, now + seconds(1)));
        assert!(!health.is_ejected(now + seconds(1)));
    }

    #[test]
    fn an_ejection_longer_than_five_minutes_is_the_files_wish() {
        let rules = Passive { eject: seconds(600), ..RULES };
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!([health.eject(rules, now), health.eject(rules, now)], [seconds(600); 2]);
    }

    #[test]
    fn weight_comes_back_evenly() {
        let (mut health, now) = (Health::default(), Instant::now());
        let slow = Some(seconds(10));
        assert_eq!(health.part(slow, now), WHOLE, "it was never away");
        for passed in [false, false, false, true, true] {
            health.probed(passed, THRESHOLDS, now);
        }
        let part = |after| health.part(slow, now + seconds(after));
        assert_eq!(
            [part(0), part(1), part(5), part(9), part(10), part(99)],
            [100, 100, 500, 900, 1000, 1000]
        );
        assert_eq!(health.part(None, now), WHOLE);
    }

    #[test]
    fn an_answer_after_all_that_makes_it_spotless() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(RULES, now);
        assert!(!health.is_spotless());
        let back = now + health.eject(RULES, now);
        health.succeeded(Some(seconds(30)), back);
        assert!(!health.is_spotless(), "its weight still rises");
        health.succeeded(Some(seconds(30)), back + seconds(30));
        assert!(health.is_spotless());
    }

    #[test]
    fn half_can_be_spared_and_of_one_none() {
        let most = |all| (0..all).take_while(|ejected| can_be_spared(*ejected, all)).count();
        assert_eq!([0, 1, 2, 3, 4, 5, 100].map(most), [0, 0, 1, 1, 2, 2, 50]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Failed,
        Succeeded,
        Probed(bool),
        Passed(u16),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => Just(Event::Failed),
            1 => Just(Event::Succeeded),
            2 => any::<bool>().prop_map(Event::Probed),
            2 => (0..400u16).prop_map(Event::Passed),
        ];
        prop::collection::vec(event, 0..200)
    }

    proptest! {
        /// Whatever happens: an ejection follows `failures` failures with no success between, it
        /// lasts at most five minutes, and what is long past no longer counts against a weight.
        #[test]
        fn an_endpoint_always_comes_back(events in events()) {
            let (mut health, mut now) = (Health::default(), Instant::now());
            let (mut in_a_row, mut longest) = (0u32, now);
            for event in events {
                match event {
                    Event::Failed => {
                        in_a_row += u32::from(!health.is_ejected(now));
                        if health.failed(RULES, now) == Failed::EjectionDue {
                            prop_assert!(in_a_row >= RULES.failures);
                            longest = now + health.eject(RULES, now);
                            prop_assert!(health.is_ejected(now));
                        }
                    }
                    Event::Succeeded => {
                        health.succeeded(None, now);
                        in_a_row = 0;
                        prop_assert!(!health.is_ejected(now));
                    }
                    Event::Probed(passed) => {
                        let before = health.verdict();
                        let changed = health.probed(passed, THRESHOLDS, now);
                        prop_assert_eq!(changed.unwrap_or(before), health.verdict());
                        prop_assert!(changed != Some(before));
                    }
                    Event::Passed(time) => now += seconds(time.into()),
                }
                prop_assert!(longest <= now + LONGEST_EJECTION);
                let part = health.part(Some(seconds(30)), now);
                prop_assert!((FIRST_PART..=WHOLE).contains(&part));
            }
            let later = now + LONGEST_EJECTION + seconds(30);
            prop_assert!(!health.is_ejected(later));
            prop_assert_eq!(health.part(Some(seconds(30)), later), WHOLE);
        }
    }
}

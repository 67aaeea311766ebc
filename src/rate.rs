//! Rates, and the bucket that holds one: the generic cell rate algorithm, told the time.

use std::time::{Duration, Instant};

/// So many in a period, with so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages, frames, handshakes or bytes; at least 1.
    pub count: u64,
    pub period: Duration,
    /// How many may come at once after a silence; at least 1.
    pub burst: u64,
}

impl Rate {
    /// The time in which `units` of them may come.
    #[inline]
    pub fn time_for(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * self.period.as_nanos() / u128::from(self.count);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A leaky bucket. What is charged over the burst is a debt: the next have to wait for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When the bucket will be empty again.
    empty_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, or says how long until one may be taken.
    pub fn take(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        self.admits(now, rate)?;
        self.charge(now, rate, 1);
        Ok(())
    }

    /// Whether there is room for one now, or how long until there is.
    #[inline]
    pub fn admits(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let full = self.level(now);
        match full.checked_sub(rate.time_for(rate.burst - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// Adds so many, over the burst too.
    #[inline]
    pub fn charge(&mut self, now: Instant, rate: Rate, units: u64) {
        let empty_at = self.empty_at.map_or(now, |at| at.max(now));
        self.empty_at = empty_at.checked_add(rate.time_for(units)).or(self.empty_at);
    }

    pub fn is_empty(&self, now: Instant) -> bool {
        self.level(now).is_zero()
    }

    fn level(&self, now: Instant) -> Duration {
        self.empty_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 10, period: Duration::from_secs(1), burst: 3 };

    #[test]
    fn a_bucket_takes_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!([(); 3].map(|()| bucket.take(start, RATE)), [Ok(()); 3]);
        assert_eq!(bucket.take(start, RATE), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(at(99), RATE), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(at(100), RATE), Ok(()));
        assert!(!bucket.is_empty(at(399)) && bucket.is_empty(at(400)));
    }

    #[test]
    fn a_debt_is_waited_for() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        bucket.charge(start, RATE, 13);
        assert_eq!(bucket.admits(start, RATE), Err(Duration::from_millis(1100)));
    }
}

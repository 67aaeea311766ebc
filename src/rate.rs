//! Rates, and the buckets that hold one: the generic cell rate algorithm, told the time.

use std::sync::atomic::{AtomicU64, Ordering};
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

    /// Whether a bucket that is empty again in `level` has room for one, or how long until it has.
    #[inline]
    fn admits(&self, level: Duration) -> Result<(), Duration> {
        match level.checked_sub(self.time_for(self.burst - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
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
        rate.admits(self.level(now))
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

/// A bucket that many threads share, without a lock.
#[derive(Debug)]
pub struct SharedBucket {
    /// From where time is counted.
    start: Instant,
    /// When the bucket will be empty again, in nanoseconds: good for 584 years.
    empty_at: AtomicU64,
}

impl SharedBucket {
    pub fn new(now: Instant) -> SharedBucket {
        SharedBucket { start: now, empty_at: AtomicU64::new(0) }
    }

    /// Takes one, or says how long until one may be taken. Of two who race for the last one only
    /// one gets it.
    #[inline]
    pub fn take(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let now = self.nanos(now);
        let mut empty_at = self.empty_at.load(Ordering::Relaxed);
        loop {
            rate.admits(Duration::from_nanos(empty_at.saturating_sub(now)))?;
            let after = raised(empty_at, now, rate, 1);
            match self.empty_at.compare_exchange_weak(
                empty_at,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(other) => empty_at = other,
            }
        }
    }

    /// Whether there is room for one now, or how long until there is.
    #[inline]
    pub fn admits(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        rate.admits(self.level(now))
    }

    /// Adds so many, over the burst too.
    #[inline]
    pub fn charge(&self, now: Instant, rate: Rate, units: u64) {
        let now = self.nanos(now);
        let raise = |empty_at| Some(raised(empty_at, now, rate, units));
        let _ = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise);
    }

    /// Nothing is used up any more.
    pub fn renew(&self) {
        self.empty_at.store(0, Ordering::Relaxed);
    }

    pub fn is_empty(&self, now: Instant) -> bool {
        self.level(now).is_zero()
    }

    fn level(&self, now: Instant) -> Duration {
        let empty_at = self.empty_at.load(Ordering::Relaxed);
        Duration::from_nanos(empty_at.saturating_sub(self.nanos(now)))
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn raised(empty_at: u64, now: u64, rate: Rate, units: u64) -> u64 {
    let cost = u64::try_from(rate.time_for(units).as_nanos()).unwrap_or(u64::MAX);
    empty_at.max(now).saturating_add(cost)
}

/// What one subject has used up of its rates, on all its connections and all workers.
#[derive(Debug)]
pub struct SharedRates {
    pub messages: SharedBucket,
    pub bytes: SharedBucket,
}

impl SharedRates {
    pub fn new(now: Instant) -> SharedRates {
        SharedRates { messages: SharedBucket::new(now), bytes: SharedBucket::new(now) }
    }

    pub fn are_empty(&self, now: Instant) -> bool {
        self.messages.is_empty(now) && self.bytes.is_empty(now)
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

    #[test]
    fn a_shared_bucket_judges_as_one_of_its_own_does() {
        let start = Instant::now();
        let (mut own, shared) = (Bucket::default(), SharedBucket::new(start));
        for step in 0..50_u64 {
            let now = start + Duration::from_millis(step * 37 % 900 + step * 20);
            assert_eq!(own.take(now, RATE), shared.take(now, RATE), "{step}");
            if step % 7 == 0 {
                own.charge(now, RATE, step);
                shared.charge(now, RATE, step);
            }
            assert_eq!(own.admits(now, RATE), shared.admits(now, RATE), "{step}");
            assert_eq!(own.is_empty(now), shared.is_empty(now), "{step}");
        }
    }

    #[test]
    fn threads_that_race_get_no_more_than_there_is() {
        let rate = Rate { count: 1, period: Duration::from_secs(3600), burst: 1000 };
        let start = Instant::now();
        let bucket = SharedBucket::new(start);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| bucket.take(start, rate).is_ok()).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}

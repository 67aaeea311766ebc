//! Subjects that an operator has sent away for a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Subject;

/// Subjects that can be kept out at the same time.
const MOST: usize = 10_000;

/// Who is kept out, and until when; one for the whole process.
#[derive(Debug, Default)]
pub struct Banned {
    until: Mutex<HashMap<Subject, Instant>>,
    /// How many: mostly none, and then nobody takes the lock.
    count: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST} subjects are kept out already")]
pub struct TooManyBanned;

impl Banned {
    /// Keeps a subject out until then, whatever was said of it before.
    pub fn keep_out(
        &self,
        subject: Subject,
        until: Instant,
        now: Instant,
    ) -> Result<(), TooManyBanned> {
        let mut banned = self.lock();
        if banned.len() >= MOST {
            banned.retain(|_, until| *until > now);
        }
        if banned.len() >= MOST && !banned.contains_key(&subject) {
            return Err(TooManyBanned);
        }
        banned.insert(subject, until);
        self.count.store(banned.len(), Ordering::Release);
        Ok(())
    }

    pub fn holds(&self, subject: &Subject, now: Instant) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut banned = self.lock();
        let Some(until) = banned.get(subject) else { return false };
        let holds = *until > now;
        if !holds {
            banned.remove(subject);
            self.count.store(banned.len(), Ordering::Release);
        }
        holds
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_subject_is_kept_out_until_then_and_no_longer() {
        let (banned, now) = (Banned::default(), Instant::now());
        let subject = |name: &str| Subject::new(name).unwrap();
        let later = now + Duration::from_secs(600);
        banned.keep_out(subject("ada"), later, now).unwrap();
        assert!(banned.holds(&subject("ada"), now) && !banned.holds(&subject("bob"), now));
        assert!(!banned.holds(&subject("ada"), later));
        assert_eq!(banned.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn those_kept_out_are_bounded() {
        let (banned, now) = (Banned::default(), Instant::now());
        let keep_out = |index: usize, now, seconds| {
            let subject = Subject::new(&index.to_string()).unwrap();
            banned.keep_out(subject, now + Duration::from_secs(seconds), now)
        };
        (0..MOST).for_each(|index| keep_out(index, now, 5).unwrap());
        assert_eq!(keep_out(MOST, now, 5), Err(TooManyBanned));
        assert_eq!(keep_out(MOST, now + Duration::from_secs(6), 5), Ok(()));
    }
}

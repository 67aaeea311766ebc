//! Counters of the relay path: one writer each, its worker; any thread may read.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::ending::{Reason, Side};
use crate::ws::{Control, Data, OpCode};

/// A counter with one writer. An addition is a load and a store: no locked instruction on the
/// relay path, and no torn value for a reader on another thread.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker saw on one route. It outlives configurations, as its totals must.
#[derive(Debug, Default)]
pub struct RouteTally {
    from_client: Received,
    from_upstream: Received,
    opened: Count,
    /// Answers of the authorizer that were its verdict, and all else that came of asking it.
    pub verdicts: Count,
    pub no_verdicts: Count,
    endings: [Count; Reason::WORDS.len()],
    /// Plain requests by the class of their answer's status: 1xx to 5xx.
    answered: [Count; 5],
}

impl RouteTally {
    #[inline]
    pub fn received(&self, from: Side) -> &Received {
        match from {
            Side::Client => &self.from_client,
            Side::Upstream => &self.from_upstream,
        }
    }

    pub fn opened(&self) -> &Count {
        &self.opened
    }

    pub fn ended(&self, reason: Reason) -> &Count {
        let word = reason.as_str();
        let index = Reason::WORDS.iter().position(|known| *known == word);
        &self.endings[index.expect("every reason has its word in WORDS")]
    }

    /// Plain requests whose answer had a status of this class.
    pub fn answered(&self, status: StatusCode) -> &Count {
        &self.answered[usize::from(status.as_u16() / 100).clamp(1, 5) - 1]
    }
}

/// What came from one side, counted as it was read: frames that the edge answers itself too,
/// frames that it makes never.
#[derive(Debug, Default)]
pub struct Received {
    frames: [Count; 6],
    /// Data messages whose last frame has begun.
    pub messages: Count,
    /// Payload of data frames.
    pub bytes: Count,
    /// Messages over their rate that went no further.
    pub dropped: Count,
}

impl Received {
    #[inline]
    pub fn frames(&self, opcode: OpCode) -> &Count {
        &self.frames[match opcode {
            OpCode::Data(Data::Text) => 0,
            OpCode::Data(Data::Binary) => 1,
            OpCode::Data(_) => 2,
            OpCode::Control(Control::Ping) => 3,
            OpCode::Control(Control::Pong) => 4,
            OpCode::Control(_) => 5,
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let tally = RouteTally::default();
        for status in [200, 204, 404, 599, 999] {
            tally.answered(StatusCode::from_u16(status).unwrap()).add(1);
        }
        let counted = [100, 200, 300, 400, 500]
            .map(|status| tally.answered(StatusCode::from_u16(status).unwrap()).value());
        assert_eq!(counted, [0, 2, 0, 1, 2]);
    }

    #[test]
    fn every_reason_is_counted_by_its_word() {
        let tally = RouteTally::default();
        tally.ended(Reason::Drain).add(1);
        tally.ended(Reason::SlowConsumer(Side::Client)).add(1);
        tally.ended(Reason::SlowConsumer(Side::Upstream)).add(1);
        assert_eq!(tally.ended(Reason::Drain).value(), 1);
        assert_eq!(tally.ended(Reason::SlowConsumer(Side::Client)).value(), 2);
    }
}

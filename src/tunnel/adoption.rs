//! A new plan for a live tunnel.
//!
//! Limits bind at the next frame, since the meter is told the plan with every chunk. A clock that
//! runs is only ever shortened: one that the new plan lengthens does so when it is next set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadlines::Due;
use super::{EXPIRY_JITTER, Tunnel, jittered};
use crate::ending::Side;
use crate::plan::Plan;

impl Tunnel {
    pub(super) fn adopt(&mut self, plan: Arc<Plan>, now: Instant) {
        let before = std::mem::replace(&mut self.plan, plan);
        let plan = self.plan.clone();
        for side in Side::BOTH {
            self.adopt_beat(side, &before, now);
            self.adopt_patience(Due::Stall(side), plan.frame_stall, now);
            self.adopt_patience(Due::Slow(side), plan.slow_consumer, now);
        }
        if plan.idle != before.idle {
            // Up to a tenth longer, so that those who have long been idle do not go together.
            let idle = plan.idle.map(|idle| idle.mul_f64(1.0 + rand::random::<f64>() / 10.0));
            self.deadlines.set(Due::Idle, now, idle);
        }
        if plan.max_age != before.max_age {
            self.deadlines.set(Due::MaxAge, now, plan.max_age.map(|age| self.left_of(age, now)));
        }
        if plan.on_expiry != before.on_expiry && self.expires.is_some() {
            // Those whose tokens have expired already go one after the other.
            let soon = EXPIRY_JITTER.mul_f64(rand::random());
            self.deadlines.set(Due::Expiry, now, Some(soon));
        }
        if (plan.messages, plan.bytes) != (before.messages, before.bytes) {
            self.ends[Side::Client as usize].meter.renew_rates(&before, &plan);
            self.deadlines.set(Due::Resume(Side::Client), now, Some(Duration::ZERO));
        }
    }

    fn adopt_beat(&mut self, side: Side, before: &Plan, now: Instant) {
        let beat = self.plan.beat(side);
        if beat.interval != before.beat(side).interval {
            let first = beat.interval.map(|interval| interval.mul_f64(rand::random()));
            self.deadlines.shorten(Due::Ping(side), now, first);
        }
        self.adopt_patience(Due::Silence(side), beat.timeout, now);
    }

    /// For a clock that runs only while it is needed.
    fn adopt_patience(&mut self, due: Due, patience: Option<Duration>, now: Instant) {
        if self.deadlines.is_set(due) {
            self.deadlines.shorten(due, now, patience);
        }
    }

    /// How long a connection of this age has yet. Those that are too old already go one after the
    /// other.
    fn left_of(&self, age: Duration, now: Instant) -> Duration {
        let lived = now.saturating_duration_since(self.began);
        let random: f64 = rand::random();
        jittered(age, random).saturating_sub(lived).max(age.mul_f64(random / 10.0))
    }
}

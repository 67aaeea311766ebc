//! The edge's own pings to one side.
//!
//! A ping goes out when its deadline has come and a frame of the edge's own may be sent; the
//! clock of its answer starts when the kernel has taken its last byte. Only the exact echo of
//! its nonce measures the round trip (RFC 6455 §5.5.3).

use std::time::{Duration, Instant};

use crate::ws::{Control, ControlFrame};

#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    stage: Stage,
    nonce: [u8; 8],
    rtt: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Resting,
    /// Due, and not sent yet.
    Wanted,
    /// Given to the outlet, which has not got rid of it yet.
    Sending,
    /// Taken by the kernel at this moment.
    Away(Instant),
}

impl Heartbeat {
    pub(super) fn want(&mut self) {
        self.stage = Stage::Wanted;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.stage == Stage::Wanted
    }

    /// A new ping, which is to be sent now.
    pub(super) fn ping(&mut self, nonce: [u8; 8]) -> ControlFrame {
        self.stage = Stage::Sending;
        self.nonce = nonce;
        ControlFrame::new(Control::Ping, nonce.to_vec())
    }

    /// The outlet has nothing left to send; `true` if that took a ping away.
    #[inline]
    pub(super) fn drained(&mut self, now: Instant) -> bool {
        let sent = self.stage == Stage::Sending;
        if sent {
            self.stage = Stage::Away(now);
        }
        sent
    }

    /// Whether `frame` is the echo of the ping that is under way.
    pub(super) fn is_echo(&self, frame: &ControlFrame) -> bool {
        matches!(self.stage, Stage::Away(_) | Stage::Sending)
            && frame.opcode == Control::Pong
            && frame.payload() == self.nonce
    }

    /// Takes the echo of the ping that is under way, which tells the round trip.
    pub(super) fn is_answered_by(&mut self, frame: &ControlFrame, now: Instant) -> bool {
        let answered = self.is_echo(frame);
        if answered && let Stage::Away(sent) = self.stage {
            self.rtt = Some(now.saturating_duration_since(sent));
            self.stage = Stage::Resting;
        }
        answered
    }

    /// The last round trip that was measured.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_echo_measures_the_round_trip_from_when_the_ping_left() {
        let mut heartbeat = Heartbeat::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let pong = |payload: &[u8]| ControlFrame::new(Control::Pong, payload.to_vec());

        heartbeat.want();
        assert!(heartbeat.is_wanted());
        heartbeat.ping(*b"noncense");
        assert!(heartbeat.drained(later(2)));
        assert!(!heartbeat.is_answered_by(&pong(b"nonsense"), later(3)));
        assert!(heartbeat.is_answered_by(&pong(b"noncense"), later(5)));
        assert!(!heartbeat.is_answered_by(&pong(b"noncense"), later(6)));
        assert_eq!(heartbeat.rtt(), Some(Duration::from_secs(3)));
    }
}

//! What a live tunnel may be told anew: limits, heartbeat and timeouts of its route.
//!
//! A tunnel holds an `Arc<Plan>` and never the configuration it came from. A reload hands it
//! another one, which binds at the next frame or timer; everything else about a connection is
//! bound at its handshake.

use std::time::Duration;

use crate::ending::Side;
pub use crate::rate::Rate;
use crate::ws::CloseCode;

/// Limits, heartbeat and timeouts of one route. `None` is `"off"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sizes of what the client sends.
    pub client: Sizes,
    /// Sizes of what the upstream sends.
    pub upstream: Sizes,
    /// Pings and pongs of the client, answers to the edge's own pings aside.
    pub control_frames: Rate,
    /// Messages of the client.
    pub messages: Option<Allowance>,
    /// Payload bytes of the client's messages.
    pub bytes: Option<Allowance>,
    /// A frame begun must go on: the longest pause within one.
    pub frame_stall: Option<Duration>,
    /// Wire bytes that may wait for one side before the other is no longer read.
    pub backlog: usize,
    /// The longest time in which a backlog gives up less than a quarter of `backlog`.
    pub slow_consumer: Option<Duration>,
    pub heartbeat: Heartbeat,
    /// No data frame either way.
    pub idle: Option<Duration>,
    /// The longest life of a connection, shortened by jitter.
    pub max_age: Option<Duration>,
    /// When the token that a connection came by expires.
    pub on_expiry: OnExpiry,
    /// How long a peer has to answer a Close, and a direction to reach its boundary.
    pub close: Duration,
    /// What a client is told that is not, or no longer, authorized.
    pub unauthorized_code: CloseCode,
    /// How often the authorizer is asked again.
    pub recheck: Option<Duration>,
}

/// Bounds on the payload of one frame and of one message, in wire bytes; `u64::MAX` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub max_frame: u64,
    pub max_message: u64,
}

impl Sizes {
    pub const UNLIMITED: Sizes = Sizes { max_frame: u64::MAX, max_message: u64::MAX };
}

/// A rate of what a client sends, and what becomes of what goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub rate: Rate,
    pub per: Payer,
    pub action: Action,
}

impl Allowance {
    /// What is used up is counted by this; by another it is counted anew.
    pub fn quota(&self) -> (Rate, Payer) {
        (self.rate, self.per)
    }
}

/// What has a rate for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    Connection,
    /// All connections of one subject together, on all workers.
    Subject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The connection ends with 1008.
    Close,
    /// The client is not read until its rate allows it.
    Throttle,
    /// The message goes no further. Never for bytes.
    Drop,
}

/// What becomes of a live connection when its token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    Close,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub client: Beat,
    pub upstream: Beat,
    /// Pings and pongs pass end to end; the edge pings only a leg that has gone silent.
    pub forward: bool,
}

/// When one side is pinged, and how long it may stay silent after a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    pub interval: Option<Duration>,
    /// `None`: an unanswered ping ends nothing.
    pub timeout: Option<Duration>,
}

impl Plan {
    #[inline]
    pub fn sizes(&self, sender: Side) -> Sizes {
        match sender {
            Side::Client => self.client,
            Side::Upstream => self.upstream,
        }
    }

    /// What has another quota here than in `other`: messages, bytes.
    pub fn quotas_differ(&self, other: &Plan) -> [bool; 2] {
        let quotas = |plan: &Plan| [plan.messages, plan.bytes].map(|it| it.map(|it| it.quota()));
        let (own, others) = (quotas(self), quotas(other));
        [own[0] != others[0], own[1] != others[1]]
    }

    /// Whether `sender` may be made to wait for its rate.
    #[inline]
    pub fn throttles(&self, sender: Side) -> bool {
        let throttles = |allowance: &Option<Allowance>| {
            matches!(allowance, Some(Allowance { action: Action::Throttle, .. }))
        };
        sender == Side::Client && (throttles(&self.messages) || throttles(&self.bytes))
    }

    /// Whether a subject's connections share a rate.
    pub fn counts_subjects(&self) -> bool {
        let allowances = [&self.messages, &self.bytes];
        allowances.into_iter().flatten().any(|allowance| allowance.per == Payer::Subject)
    }

    #[inline]
    pub fn beat(&self, side: Side) -> Beat {
        match side {
            Side::Client => self.heartbeat.client,
            Side::Upstream => self.heartbeat.upstream,
        }
    }
}

impl Default for Plan {
    /// The defaults of `conf/reference.toml`.
    fn default() -> Plan {
        let seconds = Duration::from_secs;
        Plan {
            client: Sizes { max_frame: 1 << 20, max_message: 4 << 20 },
            upstream: Sizes::UNLIMITED,
            control_frames: Rate { count: 10, period: seconds(1), burst: 100 },
            messages: None,
            bytes: None,
            frame_stall: Some(seconds(30)),
            backlog: 256 << 10,
            slow_consumer: Some(seconds(60)),
            heartbeat: Heartbeat {
                client: Beat { interval: Some(seconds(30)), timeout: Some(seconds(10)) },
                upstream: Beat { interval: Some(seconds(30)), timeout: None },
                forward: false,
            },
            idle: None,
            max_age: None,
            on_expiry: OnExpiry::Close,
            close: seconds(5),
            unauthorized_code: CloseCode::Library(4001),
            recheck: None,
        }
    }
}

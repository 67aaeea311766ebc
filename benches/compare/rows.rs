//! The rows of the table: what is measured, in which unit, and what it may cost.

use std::fmt;
use std::time::Duration;

use crate::Size;
use crate::proxies::Proxy;

/// One row.
pub struct Row {
    /// How `--only` calls it.
    pub name: &'static str,
    pub what: &'static str,
    pub wire: Wire,
    pub load: Load,
    pub unit: Unit,
    /// What wsgate's first release had to reach.
    pub first: &'static [Bound],
    /// What it has to reach in the end.
    pub budget: &'static [Bound],
}

/// What the client speaks; the upstream is plain TCP always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls,
}

/// What the load does.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Every connection plays ping-pong with messages of so many bytes, as fast as it can.
    Echo { bytes: usize, messages: u64 },
    /// Connections are opened and keep still.
    Idle,
    /// Connections are opened, upgraded and closed again, a few at a time.
    Handshakes { count: u64 },
    /// So many messages a second leave on schedule, whether echoes have come back or not.
    Paced { bytes: usize, rate: u64, duration: Duration },
}

impl Load {
    /// The same at the size of a smoke test.
    pub fn sized(self, size: Size) -> Load {
        if size == Size::Full {
            return self;
        }
        match self {
            Load::Echo { bytes, messages } => Load::Echo { bytes, messages: messages / 50 },
            Load::Idle => Load::Idle,
            Load::Handshakes { count } => Load::Handshakes { count: count / 20 },
            Load::Paced { bytes, rate, .. } => {
                Load::Paced { bytes, rate, duration: Duration::from_millis(500) }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Microseconds,
    Kibibytes,
    Milliseconds,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Microseconds => "µs",
            Unit::Kibibytes => "KiB",
            Unit::Milliseconds => "ms",
        })
    }
}

/// An upper bound on wsgate's figure.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// So many times the figure of this proxy.
    Times(f64, Proxy),
    /// So many times the best of the others.
    TimesBest(f64),
    /// The row's unit.
    Absolute(f64),
}

impl Bound {
    /// What this allows, given the others' figures; `None` where there is nothing to compare to.
    pub fn allows(self, figure: impl Fn(Proxy) -> Option<f64>) -> Option<f64> {
        match self {
            Bound::Times(times, proxy) => figure(proxy).map(|other| times * other),
            Bound::TimesBest(times) => {
                let others = Proxy::ALL.into_iter().filter(|proxy| *proxy != Proxy::Wsgate);
                others.filter_map(figure).min_by(f64::total_cmp).map(|best| times * best)
            }
            Bound::Absolute(most) => Some(most),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Times(times, proxy) => write!(f, "≤ {times} × {proxy}"),
            Bound::TimesBest(times) => write!(f, "≤ {times} × the best"),
            Bound::Absolute(most) => write!(f, "≤ {most}"),
        }
    }
}

pub const ROWS: &[Row] = &[
    Row {
        name: "echo64-tls",
        what: "CPU per echoed 64 B message, TLS",
        wire: Wire::Tls,
        load: Load::Echo { bytes: 64, messages: 150_000 },
        unit: Unit::Microseconds,
        first: &[Bound::Times(0.95, Proxy::Nginx), Bound::Times(1.15, Proxy::Bare)],
        budget: &[Bound::Times(0.75, Proxy::Nginx), Bound::Times(1.1, Proxy::Bare)],
    },
    Row {
        name: "echo64-plain",
        what: "CPU per echoed 64 B message, plain",
        wire: Wire::Plain,
        load: Load::Echo { bytes: 64, messages: 200_000 },
        unit: Unit::Microseconds,
        first: &[],
        budget: &[Bound::Times(1.0, Proxy::Nginx), Bound::Times(1.1, Proxy::Bare)],
    },
    Row {
        name: "echo4k-tls",
        what: "CPU per echoed 4 KiB message, TLS",
        wire: Wire::Tls,
        load: Load::Echo { bytes: 4 << 10, messages: 100_000 },
        unit: Unit::Microseconds,
        first: &[],
        budget: &[Bound::Times(0.4, Proxy::Nginx), Bound::Times(1.1, Proxy::Bare)],
    },
    Row {
        name: "echo256k-tls",
        what: "CPU per echoed 256 KiB message, TLS",
        wire: Wire::Tls,
        load: Load::Echo { bytes: 256 << 10, messages: 4_000 },
        unit: Unit::Microseconds,
        first: &[],
        budget: &[Bound::Times(0.53, Proxy::Nginx), Bound::Times(1.1, Proxy::Bare)],
    },
    Row {
        name: "idle-tls",
        what: "user-space memory per idle pair, TLS to plain",
        wire: Wire::Tls,
        load: Load::Idle,
        unit: Unit::Kibibytes,
        first: &[Bound::Absolute(16.0)],
        budget: &[Bound::Absolute(6.0)],
    },
    Row {
        name: "idle-plain",
        what: "user-space memory per idle pair, plain to plain",
        wire: Wire::Plain,
        load: Load::Idle,
        unit: Unit::Kibibytes,
        first: &[],
        budget: &[Bound::Absolute(3.0)],
    },
    Row {
        name: "handshake-tls",
        what: "CPU per full handshake: TLS, upgrade, dial, close",
        wire: Wire::Tls,
        load: Load::Handshakes { count: 4_000 },
        unit: Unit::Microseconds,
        first: &[],
        budget: &[Bound::Times(0.5, Proxy::Nginx)],
    },
    Row {
        name: "paced-tls",
        what: "p99 at 4,000 messages a second, 64 B, TLS",
        wire: Wire::Tls,
        load: Load::Paced { bytes: 64, rate: 4_000, duration: Duration::from_secs(5) },
        unit: Unit::Milliseconds,
        first: &[],
        budget: &[Bound::TimesBest(1.1)],
    },
];

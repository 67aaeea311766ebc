//! What is counted, and where. Any thread may read; who sums and shows it is above.
//!
//! Counters of the relay path have one writer each, their worker: [`Count`], [`Level`],
//! [`Histogram`]. What is rare is counted by whoever sees it in a [`Total`]. Routes are known by
//! their names in configurations, and nothing that a client chooses is ever a key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::ending::{Blame, Reason, Side};
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

/// What goes up and down, with one writer.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    #[inline]
    pub fn raise(&self, by: usize) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by as u64), Ordering::Relaxed);
    }

    #[inline]
    pub fn lower(&self, by: usize) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(by as u64), Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter with any number of writers, for what happens rarely.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

impl Total {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, with one writer.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; Histogram::BOUNDS.len() + 1],
    nanoseconds: Count,
}

impl Histogram {
    /// Upper bounds in seconds; what is longer has a bucket of its own.
    pub const BOUNDS: [f64; 13] =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let within = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[within.unwrap_or(Self::BOUNDS.len())].add(1);
        self.nanoseconds.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Several as one.
    pub fn sum<'h>(
        all: impl Iterator<Item = &'h Histogram>,
    ) -> ([u64; Histogram::BOUNDS.len() + 1], f64) {
        let (mut counts, mut seconds) = ([0; Histogram::BOUNDS.len() + 1], 0.0);
        for (buckets, sum) in all.map(Histogram::value) {
            counts.iter_mut().zip(buckets).for_each(|(count, more)| *count += more);
            seconds += sum;
        }
        (counts, seconds)
    }

    /// How many fell into each bucket, the last being that without a bound, and their sum in
    /// seconds.
    pub fn value(&self) -> ([u64; Histogram::BOUNDS.len() + 1], f64) {
        let seconds = Duration::from_nanos(self.nanoseconds.value()).as_secs_f64();
        (std::array::from_fn(|index| self.buckets[index].value()), seconds)
    }
}

/// Everything that a process counts.
#[derive(Debug, Default)]
pub struct Tallies {
    workers: Mutex<Vec<Arc<WorkerTally>>>,
    /// Failed accepts, and times that a bound of a listener was met.
    pub accept_errors: Total,
    tls_failures: [Total; TlsFailure::ALL.len()],
    reloads: [Total; Renewed::ALL.len()],
    /// A drain has begun.
    pub draining: AtomicBool,
    /// When the first certificate of each listener ends, for those that speak TLS.
    expiries: Mutex<BTreeMap<SocketAddr, SystemTime>>,
    pending: Mutex<u64>,
}

impl Tallies {
    /// The counters of one more worker.
    pub fn worker(&self) -> Arc<WorkerTally> {
        let worker = Arc::<WorkerTally>::default();
        lock(&self.workers).push(worker.clone());
        worker
    }

    pub fn workers(&self) -> Vec<Arc<WorkerTally>> {
        lock(&self.workers).clone()
    }

    pub fn tls_failures(&self, failure: TlsFailure) -> &Total {
        &self.tls_failures[failure as usize]
    }

    pub fn reloads(&self, outcome: Renewed) -> &Total {
        &self.reloads[outcome as usize]
    }

    /// The certificates of all listeners end then.
    pub fn certificates_end(&self, expiries: BTreeMap<SocketAddr, SystemTime>) {
        *lock(&self.expiries) = expiries;
    }

    pub fn expiries(&self) -> BTreeMap<SocketAddr, SystemTime> {
        lock(&self.expiries).clone()
    }

    /// So many more, or fewer, connections whose TLS or first head is not yet whole.
    pub fn pending_changed(&self, by: i64) {
        let mut pending = lock(&self.pending);
        *pending = pending.saturating_add_signed(by);
    }

    pub fn pending(&self) -> u64 {
        *lock(&self.pending)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An enum of which one word each stands in logs and metrics.
macro_rules! closed {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),* }

        impl $name {
            pub const ALL: [$name; [$($word),*].len()] = [$($name::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}

closed! {
    /// Why a client's TLS handshake came to nothing.
    TlsFailure {
        Timeout = "timeout",
        /// No version, cipher suite or protocol that both have.
        NoShared = "no_shared",
        BadCertificate = "bad_certificate",
        Closed = "closed",
        Other = "other",
    }
}

closed! {
    /// What came of asking for something anew: the configuration, the addresses of a name.
    Renewed { Ok = "ok", Failed = "failed", Unchanged = "unchanged" }
}

/// What happened to one upstream.
#[derive(Debug, Default)]
pub struct UpstreamTally {
    pub ejections: Total,
    resolved: [Total; Renewed::ALL.len()],
}

impl UpstreamTally {
    /// Look-ups of its name.
    pub fn resolved(&self, outcome: Renewed) -> &Total {
        &self.resolved[outcome as usize]
    }
}

/// Live tunnels by two names: route and upstream, or upstream and endpoint. Where none lives there
/// is no entry.
type Tunnels = BTreeMap<(Arc<str>, Arc<str>), u64>;

/// What one worker saw.
#[derive(Debug, Default)]
pub struct WorkerTally {
    routes: Mutex<BTreeMap<Arc<str>, Arc<RouteTally>>>,
    by_upstream: Mutex<Tunnels>,
    by_endpoint: Mutex<Tunnels>,
    /// From a request's head to its 101.
    pub handshakes: Histogram,
    /// Round trips of the edge's own pings.
    pub round_trips: Histogram,
    /// Wire bytes that wait in backlogs.
    pub backlog: Arc<Level>,
}

impl WorkerTally {
    /// This worker's counters of a route; [`NO_ROUTE`] where none was found.
    pub fn route(&self, name: &str) -> Arc<RouteTally> {
        let mut routes = lock(&self.routes);
        if let Some(tally) = routes.get(name) {
            return tally.clone();
        }
        routes.entry(name.into()).or_default().clone()
    }

    pub fn routes(&self) -> Vec<(Arc<str>, Arc<RouteTally>)> {
        let routes = lock(&self.routes);
        routes.iter().map(|(name, tally)| (name.clone(), tally.clone())).collect()
    }

    /// A tunnel of this route to this endpoint begins to live.
    pub fn came(&self, route: &Arc<str>, upstream: &Arc<str>, endpoint: &Arc<str>) {
        let come = |tunnels: &Mutex<Tunnels>, one: &Arc<str>, other: &Arc<str>| {
            *lock(tunnels).entry((one.clone(), other.clone())).or_default() += 1;
        };
        come(&self.by_upstream, route, upstream);
        come(&self.by_endpoint, upstream, endpoint);
    }

    /// One that came has ended.
    pub fn left(&self, route: &Arc<str>, upstream: &Arc<str>, endpoint: &Arc<str>) {
        let leave = |tunnels: &Mutex<Tunnels>, one: &Arc<str>, other: &Arc<str>| {
            let mut tunnels = lock(tunnels);
            if let Entry::Occupied(mut live) = tunnels.entry((one.clone(), other.clone())) {
                *live.get_mut() -= 1;
                if *live.get() == 0 {
                    live.remove();
                }
            }
        };
        leave(&self.by_upstream, route, upstream);
        leave(&self.by_endpoint, upstream, endpoint);
    }

    /// How many live, by route and upstream.
    pub fn tunnels(&self) -> Tunnels {
        lock(&self.by_upstream).clone()
    }

    /// How many live, by upstream and endpoint.
    pub fn tunnels_by_endpoint(&self) -> Tunnels {
        lock(&self.by_endpoint).clone()
    }
}

/// What logs and metrics call the route of a request that has none.
pub const NO_ROUTE: &str = "-";

/// Every word for how a handshake ended; `proxy::rejection::Outcome` says which it was.
pub const OUTCOMES: [&str; 23] = [
    "ok",
    "no_route",
    "not_upgrade",
    "malformed",
    "timeout",
    "too_large",
    "network",
    "origin",
    "token_missing",
    "token_invalid",
    "token_scope",
    "rate",
    "cap",
    "kicked",
    "authorize",
    "keys_unavailable",
    "draining",
    "no_endpoint",
    "dial_failed",
    "upstream_invalid",
    "upstream_timeout",
    "upstream_refused",
    "client_gone",
];

/// What one worker saw on one route. It outlives configurations, as its totals must.
#[derive(Debug, Default)]
pub struct RouteTally {
    from_client: Received,
    from_upstream: Received,
    handshakes: [Count; OUTCOMES.len()],
    /// Answers of the authorizer that were its verdict, and all else that came of asking it.
    pub verdicts: Count,
    pub no_verdicts: Count,
    endings: [[Count; Blame::ALL.len()]; Reason::WORDS.len()],
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

    /// Handshakes that ended in one of [`OUTCOMES`].
    pub fn handshakes(&self, outcome: &str) -> &Count {
        let index = OUTCOMES.iter().position(|known| *known == outcome);
        &self.handshakes[index.expect("every outcome has its word in OUTCOMES")]
    }

    pub fn ended(&self, reason: Reason) -> &Count {
        self.endings(reason.as_str(), reason.by())
    }

    /// The same by one of [`Reason::WORDS`].
    pub fn endings(&self, word: &str, by: Blame) -> &Count {
        let index = Reason::WORDS.iter().position(|known| *known == word);
        &self.endings[index.expect("every reason has its word in WORDS")][by as usize]
    }

    /// Plain requests whose answer had a status of this class.
    pub fn answered(&self, status: StatusCode) -> &Count {
        &self.answered[usize::from(status.as_u16() / 100).clamp(1, 5) - 1]
    }
}

/// How fetches of keys came out; the control thread counts.
#[derive(Debug, Default)]
pub struct Fetches {
    pub ok: Count,
    pub failed: Count,
    pub unchanged: Count,
}

/// What came from one side, counted as it was read: frames that the edge answers itself too,
/// frames that it makes never.
#[derive(Debug, Default)]
pub struct Received {
    frames: [Count; 7],
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

    /// Frames whose opcode is none; they end their tunnel.
    pub fn others(&self) -> &Count {
        &self.frames[6]
    }

    /// Frames by the word of their opcode.
    pub fn by_opcode(&self) -> [(&'static str, u64); 7] {
        let words = ["text", "binary", "continuation", "ping", "pong", "close", "other"];
        std::array::from_fn(|index| (words[index], self.frames[index].value()))
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
        tally.ended(Reason::FrameTooBig(Side::Client)).add(1);
        tally.ended(Reason::ProtocolError(Side::Upstream)).add(1);
        tally.ended(Reason::NotUtf8(Side::Upstream)).add(1);
        assert_eq!(tally.ended(Reason::Drain).value(), 1);
        assert_eq!(tally.endings("slow_consumer", Blame::Client).value(), 1);
        assert_eq!(tally.endings("frame_too_big", Blame::Upstream).value(), 0);
        assert_eq!(tally.endings("upstream_protocol_error", Blame::Upstream).value(), 2);
    }

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for milliseconds in [0, 1, 2, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let (buckets, seconds) = histogram.value();
        assert_eq!((buckets[0], buckets[1], buckets[12], buckets[13]), (2, 1, 1, 1));
        assert!((seconds - 20.004).abs() < 1e-9);
    }

    #[test]
    fn a_tunnel_is_counted_for_as_long_as_it_lives() {
        let tally = WorkerTally::default();
        let [route, app, one, two] = ["chat", "app", "one", "two"].map(Arc::<str>::from);
        tally.came(&route, &app, &one);
        tally.came(&route, &app, &two);
        assert_eq!(tally.tunnels(), [((route.clone(), app.clone()), 2)].into());
        tally.left(&route, &app, &one);
        assert_eq!(tally.tunnels_by_endpoint(), [((app.clone(), two.clone()), 1)].into());
        tally.left(&route, &app, &two);
        assert!(tally.tunnels().is_empty());
    }
}

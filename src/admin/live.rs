//! What the dashboard is told: one event a second, the same for all who look.
//!
//! Counters are as in `/metrics`, the rates are the page's to make of them. Nothing is gathered
//! while nobody looks. A reader who does not keep up misses events; what waits for it is one of
//! them and what its socket holds, and `listen` drops it when it takes nothing for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Process;
use super::exposition::{by_endpoint, by_route, by_upstream, sum};
use super::process::Figures;
use crate::control::{Command, Listed, Ranked, Ranks, Request, Running, Workers};
use crate::ending::{Blame, Reason, Side};
use crate::metrics::{Histogram, OUTCOMES, Received, Renewed, RouteTally, TlsFailure, WorkerTally};
use crate::snapshot::Snapshot;
use crate::upstream::{Endpoint, Standing};

/// Between two events.
const TICK: Duration = Duration::from_secs(1);
/// Between two walks over all connections for those that stand out.
const RANKING: Duration = Duration::from_secs(2);
/// Connections that are shown by each measure.
const SHOWN: usize = 10;
/// Those who may look at the same time.
pub const MOST: usize = 8;
/// How long the control thread and the workers are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those who look.
#[derive(Default)]
pub struct Audience {
    readers: Mutex<Vec<mpsc::Sender<Bytes>>>,
    newcomer: Notify,
}

impl Audience {
    /// A stream that begins with `greeting`, unless too many look already.
    pub fn admit(&self, greeting: Bytes) -> Option<Events> {
        let mut readers = self.lock();
        readers.retain(|reader| !reader.is_closed());
        if readers.len() >= MOST {
            return None;
        }
        let (reader, events) = mpsc::channel(1);
        readers.push(reader);
        self.newcomer.notify_one();
        Some(Events { greeting: Some(greeting), events })
    }

    fn is_empty(&self) -> bool {
        let mut readers = self.lock();
        readers.retain(|reader| !reader.is_closed());
        readers.is_empty()
    }

    fn tell(&self, event: &Bytes) {
        for reader in &*self.lock() {
            // Where the last one still waits, this one is missed.
            let _ = reader.try_send(event.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Bytes>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer that goes on until its reader leaves or the process ends.
pub struct Events {
    greeting: Option<Bytes>,
    events: mpsc::Receiver<Bytes>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let events = self.get_mut();
        match events.greeting.take() {
            Some(greeting) => Poll::Ready(Some(Ok(Frame::data(greeting)))),
            None => events.events.poll_recv(cx).map(|event| event.map(Frame::data).map(Ok)),
        }
    }
}

/// An event as it goes over the wire. JSON has no line ends of its own (RFC 8259 §7).
pub fn event(name: &str, data: &Json) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Gathers what the events tell.
pub struct Gathering {
    process: Process,
    figures: Arc<Figures>,
    audience: Arc<Audience>,
    began: Instant,
    running: Option<Running>,
    ranks: Ranking,
}

impl Gathering {
    pub fn new(process: Process, figures: Arc<Figures>, audience: Arc<Audience>) -> Gathering {
        let (running, ranks) = (None, Ranking::default());
        Gathering { process, figures, audience, began: Instant::now(), running, ranks }
    }

    /// Tells whoever looks, for as long as the task lives.
    pub async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let audience = self.audience.clone();
        loop {
            tokio::select! {
                () = audience.newcomer.notified() => {}
                _ = ticks.tick() => {}
            }
            if !audience.is_empty() {
                self.look().await;
                audience.tell(&event("state", &self.state()));
            }
        }
    }

    async fn look(&mut self) {
        self.ranks.renew(&self.process.workers);
        let (reply, answer) = oneshot::channel();
        if self.process.requests.try_send(Request::Show(reply)).is_ok()
            && let Ok(Ok(running)) = timeout(PATIENCE, answer).await
        {
            self.running = Some(running);
        }
    }

    fn state(&self) -> Json {
        let Process { tallies, published, .. } = &self.process;
        let (workers, snapshot) = (tallies.workers(), published.load_full());
        let all = |of: fn(&WorkerTally) -> u64| workers.iter().map(|it| of(it)).sum::<u64>();
        let tls = TlsFailure::ALL.map(|it| tallies.tls_failures(it).value()).iter().sum::<u64>();
        json!({
            "uptime_s": self.began.elapsed().as_secs_f64(),
            "started": self.figures.started().as_secs_f64(),
            "draining": tallies.draining.load(Ordering::Acquire),
            "config": self.config(&snapshot),
            "routes": routes(&snapshot, &workers),
            "upstreams": upstreams(&snapshot, &workers),
            "round_trips": histogram(workers.iter().map(|worker| &worker.round_trips)),
            "handshakes": histogram(workers.iter().map(|worker| &worker.handshakes)),
            "backlog": all(|worker| worker.backlog.value()),
            "pending": tallies.pending(),
            "accept_errors": tallies.accept_errors.value(),
            "tls_failures": tls,
            "lost_lines": (self.process.lost_lines)(),
            "cpu_s": self.figures.processor_time().as_secs_f64(),
            "memory": self.figures.resident(),
            "files": [self.figures.open_descriptors(), self.figures.most_descriptors()],
            "top": self.ranks.shown(),
        })
    }

    fn config(&self, snapshot: &Snapshot) -> Json {
        let reloads = Renewed::ALL.map(|outcome| {
            (outcome.as_str().to_owned(), self.process.tallies.reloads(outcome).value().into())
        });
        let failed = self.running.as_ref().and_then(|running| running.failed.as_deref());
        json!({
            "generation": snapshot.generation,
            "reloads": serde_json::Map::from_iter(reloads),
            "failed": failed,
        })
    }
}

fn routes(snapshot: &Snapshot, workers: &[Arc<WorkerTally>]) -> Json {
    let mut live = BTreeMap::<Arc<str>, u64>::new();
    for ((route, _), count) in by_upstream(snapshot, workers) {
        *live.entry(route).or_default() += count;
    }
    let endings: BTreeSet<(&str, Blame)> =
        Reason::ALL.iter().map(|reason| (reason.as_str(), reason.by())).collect();
    let routes = by_route(snapshot, workers).into_iter().map(|(name, all)| {
        let both = |of: fn(&Received) -> u64| {
            Side::BOTH.map(|side| sum(&all, |tally| of(tally.received(side))))
        };
        let handshakes = OUTCOMES.map(|outcome| {
            (outcome.to_owned(), sum(&all, |tally| tally.handshakes(outcome).value()))
        });
        let ended = |(reason, by): &(&'static str, Blame)| {
            let count = sum(&all, |tally| tally.endings(reason, *by).value());
            (count > 0).then(|| json!([reason, by.as_str(), count]))
        };
        json!({
            "name": &*name,
            "connections": live.get(&name).copied().unwrap_or_default(),
            "messages": both(|received| received.messages.value()),
            "bytes": both(|received| received.bytes.value()),
            "dropped": sum(&all, dropped),
            "handshakes": seen(handshakes),
            "endings": endings.iter().filter_map(ended).collect::<Vec<_>>(),
        })
    });
    routes.collect()
}

fn dropped(tally: &RouteTally) -> u64 {
    tally.received(Side::Client).dropped.value()
}

/// Without what never was.
fn seen(counts: impl IntoIterator<Item = (String, u64)>) -> serde_json::Map<String, Json> {
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    counts.map(|(word, count)| (word, count.into())).collect()
}

/// The endpoints of the configuration, and those that live connections still have.
fn upstreams(snapshot: &Snapshot, workers: &[Arc<WorkerTally>]) -> Json {
    let now = Instant::now();
    let mut shown = BTreeMap::<Arc<str>, BTreeMap<Arc<str>, Json>>::new();
    for cluster in snapshot.clusters() {
        let endpoints = cluster.endpoints();
        let endpoints = endpoints.iter().map(|endpoint| {
            let told = json!({
                "address": &**endpoint.label(),
                "id": &**endpoint.identity(),
                "standing": standing(endpoint, now),
                "full": endpoint.is_full(),
                "backup": endpoint.is_backup(),
                "connections": 0,
            });
            (endpoint.label().clone(), told)
        });
        shown.insert(cluster.name().clone(), endpoints.collect());
    }
    for ((upstream, endpoint), count) in by_endpoint(workers) {
        let endpoints = shown.entry(upstream).or_default();
        let gone = || json!({ "address": &*endpoint, "standing": "removed" });
        endpoints.entry(endpoint.clone()).or_insert_with(gone)["connections"] = count.into();
    }
    let shown = shown.into_iter().map(|(name, endpoints)| {
        json!({ "name": &*name, "endpoints": endpoints.into_values().collect::<Vec<_>>() })
    });
    shown.collect()
}

/// The word for how an endpoint stands.
pub fn standing(endpoint: &Endpoint, now: Instant) -> &'static str {
    match endpoint.standing(now) {
        Standing::Usable => "usable",
        Standing::Unhealthy => "unhealthy",
        Standing::Drained => "drained",
    }
}

fn histogram<'h>(workers: impl Iterator<Item = &'h Histogram>) -> Json {
    let (counts, seconds) = Histogram::sum(workers);
    json!({ "bounds_s": Histogram::BOUNDS, "counts": counts, "sum_s": seconds })
}

/// The connections that stand out: walked for now and then, never twice at a time.
#[derive(Default)]
struct Ranking {
    last: Arc<Mutex<Ranks>>,
    walk: Option<(Instant, JoinHandle<()>)>,
}

impl Ranking {
    fn renew(&mut self, workers: &Workers) {
        let now = Instant::now();
        let rests =
            self.walk.as_ref().is_some_and(|(at, walk)| !walk.is_finished() || now < *at + RANKING);
        if !rests {
            let walk = tokio::spawn(walk(workers.clone(), self.last.clone()));
            self.walk = Some((now, walk));
        }
    }

    fn shown(&self) -> Json {
        let ranks = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "loudest": shown(&ranks.loudest),
            "slowest": shown(&ranks.slowest),
            "fullest": shown(&ranks.fullest),
        })
    }
}

fn shown(ranked: &[Ranked]) -> Vec<Outstanding<'_>> {
    ranked.iter().map(Outstanding::from).collect()
}

async fn walk(workers: Workers, last: Arc<Mutex<Ranks>>) {
    let mut answers = Vec::new();
    for worker in 0..workers.len() {
        let (reply, answer) = oneshot::channel();
        workers.tell(worker, Command::Rank(SHOWN, reply));
        answers.push(answer);
    }
    let mut all = Ranks::default();
    for answer in answers {
        // One who is too busy to answer is left out.
        let Ok(Ok(ranks)) = timeout(PATIENCE, answer).await else { continue };
        all.loudest.extend(ranks.loudest);
        all.slowest.extend(ranks.slowest);
        all.fullest.extend(ranks.fullest);
    }
    let waiting = |it: &Ranked| it.tunnel.figures.waiting.iter().sum::<usize>() as f64;
    let round_trip = |it: &Ranked| it.tunnel.figures.rtt.unwrap_or_default().as_secs_f64();
    highest(&mut all.loudest, |it| it.bytes_per_second);
    highest(&mut all.slowest, round_trip);
    highest(&mut all.fullest, waiting);
    *last.lock().unwrap_or_else(PoisonError::into_inner) = all;
}

fn highest(ranked: &mut Vec<Ranked>, measure: impl Fn(&Ranked) -> f64) {
    ranked.sort_by(|one, other| measure(other).total_cmp(&measure(one)));
    ranked.truncate(SHOWN);
}

/// A connection as it is shown.
#[derive(Serialize)]
pub struct Connection<'a> {
    id: String,
    client: IpAddr,
    subject: Option<&'a str>,
    route: &'a str,
    upstream: &'a str,
    endpoint: &'a str,
    age_s: f64,
    frames_upstream: u64,
    frames_downstream: u64,
    bytes_upstream: u64,
    bytes_downstream: u64,
    rtt_ms: Option<f64>,
    /// Wire bytes that wait for the client and for the upstream.
    waiting: usize,
}

impl<'a> From<&'a Listed> for Connection<'a> {
    fn from(listed: &'a Listed) -> Connection<'a> {
        let figures = listed.figures;
        let [frames_upstream, frames_downstream] = figures.frames;
        let [bytes_upstream, bytes_downstream] = figures.bytes;
        Connection {
            id: listed.id.to_string(),
            client: listed.client,
            subject: listed.subject.as_deref(),
            route: &listed.route,
            upstream: &listed.upstream,
            endpoint: &listed.endpoint,
            age_s: listed.began.elapsed().as_secs_f64(),
            frames_upstream,
            frames_downstream,
            bytes_upstream,
            bytes_downstream,
            rtt_ms: figures.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            waiting: figures.waiting.iter().sum(),
        }
    }
}

/// One that stands out.
#[derive(Serialize)]
struct Outstanding<'a> {
    #[serde(flatten)]
    connection: Connection<'a>,
    bytes_per_s: f64,
}

impl<'a> From<&'a Ranked> for Outstanding<'a> {
    fn from(ranked: &'a Ranked) -> Outstanding<'a> {
        let connection = Connection::from(&ranked.tunnel);
        Outstanding { connection, bytes_per_s: ranked.bytes_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(events: &mut Events) -> Option<Bytes> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(events).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn who_does_not_keep_up_misses_events_and_only_so_many_may_look() {
        let audience = Audience::default();
        let mut streams: Vec<_> =
            (0..MOST).map(|_| audience.admit("hello".into()).expect("there is room")).collect();
        assert!(audience.admit("hello".into()).is_none());
        for event in ["one", "two", "three"] {
            audience.tell(&event.into());
        }
        let told: Vec<_> = std::iter::from_fn(|| next(&mut streams[0])).collect();
        assert_eq!(told, ["hello", "one"]);
        audience.tell(&"four".into());
        assert_eq!(next(&mut streams[0]), Some("four".into()));
        streams.pop();
        assert!(audience.admit("hello".into()).is_some());
        drop(streams);
        assert!(audience.is_empty());
    }
}

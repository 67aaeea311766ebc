//! The metrics, as Prometheus reads them: summed when they are asked for, of counters that belong
//! to their workers.
//!
//! Labels are names of the configuration and words of closed enums. `docs/metrics.md` has every
//! family, and a test holds it to what is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::Process;
use super::process::Figures;
use crate::ending::{Reason, Side};
use crate::metrics::{
    Histogram, NO_ROUTE, OUTCOMES, Received, Renewed, RouteTally, TlsFailure, WorkerTally,
};
use crate::snapshot::Snapshot;
use crate::upstream::Standing;

/// Writes the metrics.
pub struct Exposition(Registry);

/// The two forms that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    Open,
    /// The older text format, 0.0.4, which everything reads.
    Text,
}

impl Form {
    /// What an Accept asks for. OpenMetrics goes only to who names it.
    pub fn wanted(accept: &str) -> Form {
        if accept.contains("application/openmetrics-text") { Form::Open } else { Form::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Exposition {
    pub fn new(process: Process, figures: Arc<Figures>) -> Exposition {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Everything { process, figures }));
        Exposition(registry)
    }

    pub fn write(&self, form: Form) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.0).expect("a String takes every character");
        match form {
            Form::Open => text,
            Form::Text => older(&text),
        }
    }
}

/// OpenMetrics as the older format has it: a counter's family is called as its sample, and there
/// is no mark at the end.
fn older(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1024);
    let mut help = None;
    for line in open.lines().filter(|line| *line != "# EOF") {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let total =
            if line.starts_with("# TYPE ") && line.ends_with(" counter") { "_total" } else { "" };
        if let Some((name, words)) = help.take().and_then(|help| help[7..].split_once(' ')) {
            text += &format!("# HELP {name}{total} {words}\n");
        }
        match line.strip_suffix(" counter").filter(|_| !total.is_empty()) {
            Some(name) => text += &format!("{name}{total} counter\n"),
            None => text += &format!("{line}\n"),
        }
    }
    text
}

struct Everything {
    process: Process,
    figures: Arc<Figures>,
}

impl fmt::Debug for Everything {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Everything")
    }
}

impl Collector for Everything {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let workers = self.process.tallies.workers();
        let snapshot = self.process.published.load_full();
        let mut out = Families(encoder);
        routes(&mut out, &snapshot, &workers)?;
        upstreams(&mut out, &snapshot, &workers)?;
        self.edge(&mut out, &snapshot, &workers)?;
        self.figures(&mut out)
    }
}

impl Everything {
    fn edge(
        &self,
        out: &mut Families<'_>,
        snapshot: &Snapshot,
        workers: &[Arc<WorkerTally>],
    ) -> fmt::Result {
        let tallies = &self.process.tallies;
        let handshakes = workers.iter().map(|worker| &worker.handshakes);
        let help = "From a request's head to its 101.";
        out.histogram("wsgate_handshake_seconds", help, handshakes)?;
        let round_trips = workers.iter().map(|worker| &worker.round_trips);
        let help = "Round trips of the edge's own pings to clients and upstreams.";
        out.histogram("wsgate_heartbeat_rtt_seconds", help, round_trips)?;
        let backlog: u64 = workers.iter().map(|worker| worker.backlog.value()).sum();
        out.gauge("wsgate_backlog_bytes", "Wire bytes that wait for slow readers.", one(backlog))?;
        let help = "Connections whose TLS handshake or first request is not yet whole.";
        out.gauge("wsgate_pending_connections", help, one(tallies.pending()))?;
        let help = "Failed accepts, and times that a bound of a listener was met.";
        out.counter("wsgate_accept_errors", help, one(tallies.accept_errors.value()))?;
        let failure =
            |it: TlsFailure| ([("reason", it.as_str())], tallies.tls_failures(it).value());
        let help = "TLS handshakes of clients that failed.";
        out.counter("wsgate_tls_failures", help, TlsFailure::ALL.map(failure))?;
        let expiries = tallies.expiries();
        let expiries = expiries.iter().map(|(listener, ends)| (listener.to_string(), unix(*ends)));
        let expiries: Vec<(String, f64)> = expiries.collect();
        let expiry =
            |(listener, ends): &'_ (String, f64)| ([("listener", listener.clone())], *ends);
        let help = "When the first certificate of a listener ends, in Unix time.";
        out.gauge("wsgate_certificate_expiry_seconds", help, expiries.iter().map(expiry))?;
        let fetches = snapshot.rings.fetches();
        let fetched = [
            (Renewed::Ok, fetches.ok.value()),
            (Renewed::Failed, fetches.failed.value()),
            (Renewed::Unchanged, fetches.unchanged.value()),
        ];
        let fetched = fetched.map(|(outcome, count)| ([("outcome", outcome.as_str())], count));
        out.counter("wsgate_jwks", "Fetches of issuers' keys.", fetched)?;
        let keys: usize = snapshot.named_routes().map(|route| route.policy.keys()).sum();
        let help = "Clients and subjects that limiters know.";
        out.gauge("wsgate_limiter_keys", help, one(keys as u64))?;
        let reload = |it: Renewed| ([("outcome", it.as_str())], tallies.reloads(it).value());
        out.counter("wsgate_reloads", "Reloads of the configuration.", Renewed::ALL.map(reload))?;
        let help = "How manieth configuration runs; the first is 1.";
        out.gauge("wsgate_config_generation", help, one(snapshot.generation))?;
        let draining = u64::from(tallies.draining.load(Ordering::Acquire));
        out.gauge("wsgate_draining", "1 once a drain has begun.", one(draining))?;
        let help = "Log lines that were given up because nobody took them in time.";
        out.counter("wsgate_log_dropped", help, one((self.process.lost_lines)()))
    }

    fn figures(&self, out: &mut Families<'_>) -> fmt::Result {
        let figures = &self.figures;
        let cpu = figures.processor_time().as_secs_f64();
        let help = "Processor time of user and system.";
        out.counter("process_cpu_seconds", help, one(cpu))?;
        let given = |value: Option<u64>| value.map(|value| (NO_LABELS, value));
        let help = "Memory that is resident.";
        out.gauge("process_resident_memory_bytes", help, given(figures.resident()))?;
        let help = "Open file descriptors.";
        out.gauge("process_open_fds", help, given(figures.open_descriptors()))?;
        let help = "The most file descriptors that may be open.";
        out.gauge("process_max_fds", help, given(figures.most_descriptors()))?;
        let help = "When the process began, in Unix time.";
        let started = figures.started().as_secs_f64();
        out.gauge("process_start_time_seconds", help, one(started))
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What all workers saw on one route.
type Tallies = Vec<Arc<RouteTally>>;
/// Live tunnels by two names.
type Live = BTreeMap<(Arc<str>, Arc<str>), u64>;

/// What was seen on every route, and without one.
pub fn by_route(snapshot: &Snapshot, workers: &[Arc<WorkerTally>]) -> BTreeMap<Arc<str>, Tallies> {
    let configured = snapshot.named_routes().map(|route| (route.name.clone(), Vec::new()));
    let mut routes: BTreeMap<Arc<str>, Tallies> = configured.collect();
    routes.insert(NO_ROUTE.into(), Vec::new());
    for (name, tally) in workers.iter().flat_map(|worker| worker.routes()) {
        routes.entry(name).or_default().push(tally);
    }
    routes
}

/// Live tunnels by route and upstream.
pub fn by_upstream(snapshot: &Snapshot, workers: &[Arc<WorkerTally>]) -> Live {
    let pairs = snapshot.named_routes();
    let pairs = pairs.map(|route| ((route.name.clone(), route.cluster.name().clone()), 0));
    let mut live: Live = pairs.collect();
    for (pair, count) in workers.iter().flat_map(|worker| worker.tunnels()) {
        *live.entry(pair).or_default() += count;
    }
    live
}

/// Live tunnels by upstream and endpoint, where there are any.
pub fn by_endpoint(workers: &[Arc<WorkerTally>]) -> Live {
    let mut live = Live::new();
    for (pair, count) in workers.iter().flat_map(|worker| worker.tunnels_by_endpoint()) {
        *live.entry(pair).or_default() += count;
    }
    live
}

fn routes(
    out: &mut Families<'_>,
    snapshot: &Snapshot,
    workers: &[Arc<WorkerTally>],
) -> fmt::Result {
    let mut routes = by_route(snapshot, workers);
    let live = by_upstream(snapshot, workers);
    let live = live.iter().map(|((route, upstream), count)| {
        ([("route", &**route), ("upstream", &**upstream)], *count)
    });
    out.gauge("wsgate_connections", "Live WebSocket connections.", live)?;
    let handshakes = routes.iter().flat_map(|(route, all)| {
        OUTCOMES.map(|outcome| {
            let count = sum(all, |tally| tally.handshakes(outcome).value());
            ([("route", &**route), ("outcome", outcome)], count)
        })
    });
    let help = "WebSocket handshakes, and requests that no route took, by how they ended.";
    out.counter("wsgate_handshakes", help, handshakes)?;
    routes.remove(NO_ROUTE);
    traffic(out, &routes)?;
    let endings: BTreeSet<_> = Reason::ALL.iter().map(|it| (it.as_str(), it.by())).collect();
    let ended = routes.iter().flat_map(|(route, all)| {
        endings.iter().map(move |(reason, by)| {
            let count = sum(all, |tally| tally.endings(reason, *by).value());
            ([("route", &**route), ("reason", *reason), ("by", by.as_str())], count)
        })
    });
    let help = "Connections that ended, by why and by whose doing.";
    out.counter("wsgate_endings", help, ended)?;
    let requests = routes.iter().flat_map(|(route, all)| {
        [("1xx", 100), ("2xx", 200), ("3xx", 300), ("4xx", 400), ("5xx", 500)].map(|(class, of)| {
            let of = http::StatusCode::from_u16(of).expect("the first of its class");
            let count = sum(all, |tally| tally.answered(of).value());
            ([("route", &**route), ("status", class)], count)
        })
    });
    let help = "Plain HTTP requests, by the class of their answer's status.";
    out.counter("wsgate_http_requests", help, requests)?;
    let asked = routes.iter().flat_map(|(route, all)| {
        let verdicts = sum(all, |tally| tally.verdicts.value());
        let failures = sum(all, |tally| tally.no_verdicts.value());
        [("ok", verdicts), ("failed", failures)]
            .map(|(outcome, count)| ([("route", &**route), ("outcome", outcome)], count))
    });
    let help = "Questions to a route's authorizer; ok: it gave a verdict.";
    out.counter("wsgate_authorize", help, asked)
}

/// What was relayed.
fn traffic(out: &mut Families<'_>, routes: &BTreeMap<Arc<str>, Tallies>) -> fmt::Result {
    // Whither: what a client sent goes upstream.
    const WAYS: [(&str, Side); 2] = [("upstream", Side::Client), ("downstream", Side::Upstream)];
    let each = |of: fn(&Received) -> u64| {
        routes.iter().flat_map(move |(route, all)| {
            WAYS.map(|(direction, from)| {
                let count = sum(all, |tally| of(tally.received(from)));
                ([("route", &**route), ("direction", direction)], count)
            })
        })
    };
    let frames = routes.iter().flat_map(|(route, all)| {
        WAYS.into_iter().flat_map(move |(direction, from)| {
            let none = Received::default().by_opcode();
            let opcodes = none.map(|(opcode, _)| opcode);
            let frames = (0..opcodes.len()).map(move |index| {
                let count = sum(all, |tally| tally.received(from).by_opcode()[index].1);
                let opcode = opcodes[index];
                ([("route", &**route), ("direction", direction), ("opcode", opcode)], count)
            });
            frames.collect::<Vec<_>>()
        })
    });
    let help = "Frames as received from a peer, by whither they go.";
    out.counter("wsgate_frames", help, frames)?;
    let messages = each(|received| received.messages.value());
    out.counter("wsgate_messages", "Messages, whole or in fragments.", messages)?;
    let bytes = each(|received| received.bytes.value());
    out.counter("wsgate_bytes", "Payload bytes of data frames.", bytes)?;
    let dropped = routes.iter().map(|(route, all)| {
        let from_client = |tally: &RouteTally| tally.received(Side::Client).dropped.value();
        ([("route", &**route)], sum(all, from_client))
    });
    let help = "Messages over their rate that went no further.";
    out.counter("wsgate_messages_dropped", help, dropped)
}

pub fn sum(all: &[Arc<RouteTally>], of: impl Fn(&RouteTally) -> u64) -> u64 {
    all.iter().map(|tally| of(tally)).sum()
}

fn upstreams(
    out: &mut Families<'_>,
    snapshot: &Snapshot,
    workers: &[Arc<WorkerTally>],
) -> fmt::Result {
    let clusters: BTreeMap<_, _> = snapshot.clusters().map(|it| (it.name().clone(), it)).collect();
    let now = Instant::now();
    let endpoints: BTreeMap<(Arc<str>, Arc<str>), bool> = clusters
        .iter()
        .flat_map(|(upstream, cluster)| {
            let endpoints = cluster.endpoints();
            let healthy = endpoints.iter().map(|endpoint| {
                let healthy = endpoint.standing(now) != Standing::Unhealthy;
                ((upstream.clone(), endpoint.label().clone()), healthy)
            });
            healthy.collect::<Vec<_>>()
        })
        .collect();
    let mut live: Live = endpoints.keys().map(|pair| (pair.clone(), 0)).collect();
    live.extend(by_endpoint(workers));
    let live = live.iter().map(|((upstream, endpoint), count)| {
        ([("upstream", &**upstream), ("endpoint", &**endpoint)], *count)
    });
    let help = "Live WebSocket connections of an endpoint.";
    out.gauge("wsgate_endpoint_connections", help, live)?;
    let healthy = endpoints.iter().map(|((upstream, endpoint), healthy)| {
        ([("upstream", &**upstream), ("endpoint", &**endpoint)], u64::from(*healthy))
    });
    let help = "0 while probes or failed dials speak against an endpoint, else 1.";
    out.gauge("wsgate_endpoint_healthy", help, healthy)?;
    let resolved = clusters.iter().flat_map(|(upstream, cluster)| {
        Renewed::ALL.map(|outcome| {
            let count = cluster.tally().resolved(outcome).value();
            ([("upstream", &**upstream), ("outcome", outcome.as_str())], count)
        })
    });
    let help = "Look-ups of an upstream's name; ok: its addresses changed.";
    out.counter("wsgate_resolve", help, resolved)?;
    let ejections = clusters.iter().map(|(upstream, cluster)| {
        ([("upstream", &**upstream)], cluster.tally().ejections.value())
    });
    let help = "Times that an endpoint was passed over for a while after failed dials.";
    out.counter("wsgate_ejections", help, ejections)
}

const NO_LABELS: [(&str, &str); 0] = [];

/// The one series of a family without labels.
fn one<V>(value: V) -> [([(&'static str, &'static str); 0], V); 1] {
    [(NO_LABELS, value)]
}

/// Writes one family after the other.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    /// The name is that of the family: its samples end in `_total`.
    fn counter<L: AsRef<str>, V: EncodeCounterValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, L); N], V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            let none = None::<&Exemplar<[(&str, &str); 0], f64>>;
            match N {
                0 => family.encode_counter(&value, none)?,
                _ => family.encode_family(&labels)?.encode_counter(&value, none)?,
            }
        }
        Ok(())
    }

    fn gauge<L: AsRef<str>, V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, L); N], V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            match N {
                0 => family.encode_gauge(&value)?,
                _ => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        workers: impl Iterator<Item = &'h Histogram>,
    ) -> fmt::Result {
        let (counts, seconds) = Histogram::sum(workers);
        let bounds = Histogram::BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<[(&str, &str); 0]>(seconds, counts.iter().sum(), &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_calls_counters_by_their_samples() {
        let open = "# HELP a_b Words of it.\n# TYPE a_b counter\na_b_total{x=\"y\"} 1\n\
                    # HELP c Gauge counter\n# TYPE c gauge\nc 2\n# EOF\n";
        let older_text = "# HELP a_b_total Words of it.\n# TYPE a_b_total counter\n\
                          a_b_total{x=\"y\"} 1\n# HELP c Gauge counter\n# TYPE c gauge\nc 2\n";
        assert_eq!(older(open), older_text);
    }

    #[test]
    fn openmetrics_goes_to_who_names_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
        assert_eq!(Form::wanted(prometheus), Form::Open);
        assert_eq!(["", "*/*", "text/plain"].map(Form::wanted), [Form::Text; 3]);
    }
}

//! What is shown, from what a process answers: samples of its metrics, and what has grown between
//! two of them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// One answer of `/metrics`, summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub routes: BTreeMap<String, Route>,
    /// Handshakes by outcome, over all routes.
    pub handshakes: BTreeMap<String, f64>,
    /// Endings by reason and by whom, over all routes.
    pub endings: BTreeMap<(String, String), f64>,
    /// By upstream and address.
    pub endpoints: BTreeMap<(String, String), Endpoint>,
    /// Round trips of the heartbeat: upper bound and how many were no longer.
    pub round_trips: Vec<(f64, f64)>,
    pub processor_seconds: f64,
    pub resident: f64,
    pub started: f64,
    pub generation: f64,
    pub draining: bool,
}

/// What goes on at one route.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Route {
    pub connections: f64,
    /// To the upstreams and to the clients; counted since the start, or a second's worth.
    pub messages: [f64; 2],
    pub bytes: [f64; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Endpoint {
    pub connections: f64,
    pub healthy: bool,
}

impl Figures {
    /// Reads the text format; what is not known is passed over, so that an older or newer process
    /// can be looked at.
    pub fn read(text: &str) -> Figures {
        let mut figures = Figures::default();
        text.lines().filter_map(Sample::read).for_each(|sample| figures.take(&sample));
        figures.round_trips.sort_by(|one, other| one.0.total_cmp(&other.0));
        figures
    }

    fn take(&mut self, sample: &Sample) {
        let value = sample.value;
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        let way = usize::from(label("direction") == "downstream");
        match sample.name {
            "wsgate_connections" => self.route(label("route")).connections += value,
            "wsgate_messages_total" => self.route(label("route")).messages[way] += value,
            "wsgate_bytes_total" => self.route(label("route")).bytes[way] += value,
            "wsgate_handshakes_total" => {
                *self.handshakes.entry(label("outcome")).or_default() += value;
            }
            "wsgate_endings_total" => {
                *self.endings.entry((label("reason"), label("by"))).or_default() += value;
            }
            "wsgate_endpoint_connections" => self.endpoint(&label).connections = value,
            "wsgate_endpoint_healthy" => self.endpoint(&label).healthy = value > 0.0,
            "wsgate_heartbeat_rtt_seconds_bucket" => {
                let bound = label("le").parse().unwrap_or(f64::INFINITY);
                self.round_trips.push((bound, value));
            }
            "process_cpu_seconds_total" => self.processor_seconds = value,
            "process_resident_memory_bytes" => self.resident = value,
            "process_start_time_seconds" => self.started = value,
            "wsgate_config_generation" => self.generation = value,
            "wsgate_draining" => self.draining = value > 0.0,
            _ => {}
        }
    }

    fn route(&mut self, name: String) -> &mut Route {
        self.routes.entry(name).or_default()
    }

    fn endpoint(&mut self, label: &impl Fn(&str) -> String) -> &mut Endpoint {
        self.endpoints.entry((label("upstream"), label("endpoint"))).or_default()
    }

    pub fn connections(&self) -> f64 {
        self.routes.values().map(|route| route.connections).sum()
    }

    /// The bound that this share of all round trips were within, in seconds.
    pub fn round_trip(&self, share: f64) -> Option<f64> {
        let all = self.round_trips.last()?.1;
        let within = self.round_trips.iter().find(|(_, count)| *count >= share * all);
        within.map(|(bound, _)| *bound).filter(|_| all > 0.0)
    }
}

/// What a second brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// With the connections as they are.
    pub routes: BTreeMap<String, Route>,
    pub handshakes: BTreeMap<String, f64>,
    pub endings: BTreeMap<(String, String), f64>,
    /// Of one core.
    pub processor: f64,
}

impl Rates {
    /// `None` where nothing can be said: no time has passed, or another process answers now.
    pub fn between(before: &Figures, after: &Figures, time: Duration) -> Option<Rates> {
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 || before.started != after.started {
            return None;
        }
        let per_second = |old: f64, new: f64| (new - old).max(0.0) / seconds;
        let routes = after.routes.iter().map(|(name, new)| {
            let old = before.routes.get(name).copied().unwrap_or_default();
            let each =
                |old: [f64; 2], new: [f64; 2]| [0, 1].map(|way| per_second(old[way], new[way]));
            let (messages, bytes) = (each(old.messages, new.messages), each(old.bytes, new.bytes));
            (name.clone(), Route { connections: new.connections, messages, bytes })
        });
        let processor = per_second(before.processor_seconds, after.processor_seconds);
        Some(Rates {
            routes: routes.collect(),
            handshakes: grown(&before.handshakes, &after.handshakes, per_second),
            endings: grown(&before.endings, &after.endings, per_second),
            processor,
        })
    }

    /// Of one answer alone: what there is, and that nothing is known to grow.
    pub fn standing(figures: &Figures) -> Rates {
        let routes = figures.routes.iter().map(|(name, route)| {
            (name.clone(), Route { connections: route.connections, ..Route::default() })
        });
        Rates { routes: routes.collect(), ..Rates::default() }
    }

    pub fn total(&self) -> Route {
        self.routes.values().fold(Route::default(), |all, route| Route {
            connections: all.connections + route.connections,
            messages: [0, 1].map(|way| all.messages[way] + route.messages[way]),
            bytes: [0, 1].map(|way| all.bytes[way] + route.bytes[way]),
        })
    }
}

fn grown<K: Ord + Clone>(
    before: &BTreeMap<K, f64>,
    after: &BTreeMap<K, f64>,
    per_second: impl Fn(f64, f64) -> f64,
) -> BTreeMap<K, f64> {
    let old = |key: &K| before.get(key).copied().unwrap_or_default();
    after.iter().map(|(key, new)| (key.clone(), per_second(old(key), *new))).collect()
}

/// One line of the text format.
struct Sample<'t> {
    name: &'t str,
    labels: BTreeMap<&'t str, String>,
    value: f64,
}

impl Sample<'_> {
    fn read(line: &str) -> Option<Sample<'_>> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = series.split_once('{') else {
            return Some(Sample { name: series, labels: BTreeMap::new(), value });
        };
        Some(Sample { name, labels: labels_of(labels)?, value })
    }
}

/// `name="value",name="value"}`, where `\\`, `\"` and `\n` stand for what they say.
fn labels_of(mut rest: &str) -> Option<BTreeMap<&str, String>> {
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (name, behind) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, end) = quoted(behind)?;
        labels.insert(name, value);
        rest = &behind[end..];
    }
    Some(labels)
}

/// What stands before the closing quote, and where it goes on behind that.
fn quoted(text: &str) -> Option<(String, usize)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, at + 1)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// A connection, as `/api/v1/connections` lists it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Connection {
    pub id: String,
    pub client: String,
    pub subject: Option<String>,
    pub route: String,
    pub endpoint: String,
    pub age_s: f64,
}

#[derive(Deserialize)]
struct Listing {
    connections: Vec<Connection>,
}

/// The connections of one page.
pub fn connections(body: &[u8]) -> serde_json::Result<Vec<Connection>> {
    serde_json::from_slice(body).map(|Listing { connections }| connections)
}

/// By what connections are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Oldest,
    Newest,
    Client,
    Subject,
    Route,
}

impl Order {
    pub fn next(self) -> Order {
        match self {
            Order::Oldest => Order::Newest,
            Order::Newest => Order::Client,
            Order::Client => Order::Subject,
            Order::Subject => Order::Route,
            Order::Route => Order::Oldest,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Order::Oldest => "oldest",
            Order::Newest => "newest",
            Order::Client => "client",
            Order::Subject => "subject",
            Order::Route => "route",
        }
    }

    pub fn sort(self, connections: &mut [Connection]) {
        connections.sort_by(|one, other| {
            let order = match self {
                Order::Oldest => other.age_s.total_cmp(&one.age_s),
                Order::Newest => one.age_s.total_cmp(&other.age_s),
                Order::Client => one.client.cmp(&other.client),
                Order::Subject => one.subject.cmp(&other.subject),
                Order::Route => one.route.cmp(&other.route),
            };
            order.then_with(|| one.id.cmp(&other.id))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP wsgate_connections Live.
# TYPE wsgate_connections gauge
wsgate_connections{route="chat",upstream="app"} 2
wsgate_connections{route="chat",upstream="other"} 1
wsgate_messages_total{route="chat",direction="upstream"} 10
wsgate_messages_total{route="chat",direction="downstream"} 4
wsgate_bytes_total{route="chat",direction="downstream"} 2048
wsgate_handshakes_total{route="-",outcome="no_route"} 1
wsgate_handshakes_total{route="chat",outcome="no_route"} 2
wsgate_endings_total{route="a \"b\" \\ }\n,c",reason="drain",by="edge"} 5
wsgate_endpoint_connections{upstream="app",endpoint="127.0.0.1:1"} 3
wsgate_endpoint_healthy{upstream="app",endpoint="127.0.0.1:1"} 1
wsgate_heartbeat_rtt_seconds_bucket{le="0.001"} 5
wsgate_heartbeat_rtt_seconds_bucket{le="0.01"} 9
wsgate_heartbeat_rtt_seconds_bucket{le="+Inf"} 10
process_start_time_seconds 7
wsgate_draining 1
nonsense
broken{label="} 1
"#;

    #[test]
    fn the_text_format_is_read() {
        let figures = Figures::read(TEXT);
        assert_eq!(figures.connections(), 3.0);
        assert_eq!(figures.routes["chat"].messages, [10.0, 4.0]);
        assert_eq!(figures.handshakes["no_route"], 3.0);
        assert_eq!(figures.endings[&("drain".into(), "edge".into())], 5.0);
        let endpoint = figures.endpoints[&("app".into(), "127.0.0.1:1".into())];
        assert_eq!(endpoint, Endpoint { connections: 3.0, healthy: true });
        assert_eq!(figures.round_trip(0.5), Some(0.001));
        assert_eq!(figures.round_trip(0.9), Some(0.01));
        assert_eq!(figures.round_trip(0.99), Some(f64::INFINITY));
        assert!(figures.draining);
        assert_eq!(Figures::default().round_trip(0.5), None);
    }

    #[test]
    fn escapes_in_labels_stand_for_what_they_say() {
        let labels = labels_of(r#"route="a \"b\" \\ }\n,c",by="edge"}"#).expect("labels");
        assert_eq!(labels["route"], "a \"b\" \\ }\n,c");
        assert_eq!(labels["by"], "edge");
        assert_eq!(labels_of("route=\"open"), None);
    }

    #[test]
    fn rates_are_what_grew_in_the_time_between() {
        let before = Figures::read(TEXT);
        let after = Figures::read(&TEXT.replace("\"upstream\"} 10", "\"upstream\"} 30"));
        let rates = Rates::between(&before, &after, Duration::from_secs(2)).expect("rates");
        assert_eq!(rates.total().messages, [10.0, 0.0]);
        assert_eq!(rates.total().connections, 3.0);
        // Less than before can only be a fault of the clock or of the process: never negative.
        let back = Rates::between(&after, &before, Duration::from_secs(1)).expect("rates");
        assert_eq!(back.total().messages, [0.0, 0.0]);
    }

    #[test]
    fn nothing_is_said_over_a_restart() {
        let (before, mut after) = (Figures::read(TEXT), Figures::read(TEXT));
        after.started = 8.0;
        assert_eq!(Rates::between(&before, &after, Duration::from_secs(1)), None);
        assert_eq!(Rates::between(&before, &before, Duration::ZERO), None);
    }

    #[test]
    fn connections_are_read_and_sorted() {
        let body = br#"{"connections": [
            {"id": "0-1-1", "client": "10.0.0.2", "subject": "bob", "route": "b", "upstream": "app",
             "endpoint": "e", "age_s": 1.5, "more": [1]},
            {"id": "0-2-1", "client": "10.0.0.1", "subject": null, "route": "a", "upstream": "app",
             "endpoint": "e", "age_s": 9}], "next": null}"#;
        let mut listed = connections(body).expect("connections");
        let mut order = Order::default();
        let mut firsts = Vec::new();
        for _ in 0..5 {
            order.sort(&mut listed);
            firsts.push((order.as_str(), &*listed[0].id == "0-2-1"));
            order = order.next();
        }
        let wanted = [
            ("oldest", true),
            ("newest", false),
            ("client", true),
            ("subject", true),
            ("route", true),
        ];
        assert_eq!(firsts, wanted);
        assert_eq!(order, Order::default());
        assert!(connections(b"<html>").is_err());
    }
}

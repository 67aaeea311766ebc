//! The metrics from outside: what is counted adds up, over workers and reloads, and nothing that a
//! client sends becomes a series.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Backend, Config, Edge, Frame, PATIENCE, Peer, Upgrade, open, samples, skip, within};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"";

/// Waits until a sample has this value.
async fn reaches(edge: &Edge, series: &str, wanted: f64) {
    let probes = edge.probes().await;
    within(PATIENCE, &format!("{series} is {wanted}"), async {
        while probes.metrics().await.get(series) != Some(&wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// What of `after` is more than in `before`, where it is of wsgate and no time.
fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let counted = after
        .iter()
        .filter(|(series, _)| series.starts_with("wsgate_") && !series.contains("_seconds"));
    let growth = counted.map(|(series, value)| {
        (series.clone(), value - before.get(series).copied().unwrap_or_default())
    });
    growth.filter(|(_, growth)| *growth != 0.0).collect()
}

/// One connection: a text there, a binary of two fragments back, a ping, and an end by the client.
async fn talk(client: &mut Peer, upstream: &mut Peer) {
    client.send_frame(Frame::text("hello")).await;
    assert_eq!(upstream.frame().await.payload, b"hello");
    upstream.send_frame(Frame::binary(b"ab").not_final()).await;
    upstream.send_frame(Frame::new(support::CONTINUATION, b"cde")).await;
    assert_eq!(client.frame().await.payload, b"ab");
    assert_eq!(client.frame().await.payload, b"cde");
    client.send_frame(Frame::new(support::PING, b"?")).await;
    assert_eq!(client.frame().await.opcode, support::PONG);
    client.send_frame(Frame::close(1000, "")).await;
    let close = upstream.frame().await;
    upstream.writer.answer(close).await;
    client.close().await;
}

#[tokio::test]
async fn every_counter_adds_up_over_two_workers_and_a_reload() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).workers(2).more(ADMIN);
    let edge = config.start().await;
    let probes = edge.probes().await;
    let before = probes.metrics().await;
    for _ in 0..2 {
        // Two at the same time, so that each worker has one.
        let mut pairs = [open(&edge, &backend).await, open(&edge, &backend).await];
        for (client, upstream) in &mut pairs {
            talk(client, upstream).await;
        }
        drop(pairs);
        edge.reconfigure(&config.clone().route("timeouts.idle = \"1h\"")).await;
        edge.reconfigure(&config).await;
    }
    let mut refused = edge.connect_plain().await;
    assert_eq!(refused.ask(Upgrade::to("/").without("Upgrade")).await.status(), 426);
    drop(refused);
    reaches(
        &edge,
        "wsgate_endings_total{route=\"app\",reason=\"client_close\",by=\"client\"}",
        4.0,
    )
    .await;
    reaches(&edge, "wsgate_pending_connections", 0.0).await;
    reaches(&edge, "wsgate_connections{route=\"app\",upstream=\"app\"}", 0.0).await;
    let after = probes.metrics().await;
    let frames = |direction, opcode| {
        format!("wsgate_frames_total{{route=\"app\",direction={direction:?},opcode={opcode:?}}}")
    };
    let of = |family, direction| {
        format!("wsgate_{family}_total{{route=\"app\",direction={direction:?}}}")
    };
    let handshakes =
        |outcome| format!("wsgate_handshakes_total{{route=\"app\",outcome={outcome:?}}}");
    let reloads = |outcome| format!("wsgate_reloads_total{{outcome={outcome:?}}}");
    let wanted: BTreeMap<String, f64> = [
        (handshakes("ok"), 4.0),
        (handshakes("not_upgrade"), 1.0),
        (frames("upstream", "text"), 4.0),
        (frames("upstream", "ping"), 4.0),
        (frames("upstream", "close"), 4.0),
        (frames("downstream", "binary"), 4.0),
        (frames("downstream", "continuation"), 4.0),
        (frames("downstream", "close"), 4.0),
        (of("messages", "upstream"), 4.0),
        (of("messages", "downstream"), 4.0),
        (of("bytes", "upstream"), 20.0),
        (of("bytes", "downstream"), 20.0),
        ("wsgate_endings_total{route=\"app\",reason=\"client_close\",by=\"client\"}".into(), 4.0),
        (reloads("ok"), 4.0),
        ("wsgate_config_generation".into(), 4.0),
    ]
    .into();
    assert_eq!(grown(&before, &after), wanted);
    assert_eq!(after["wsgate_handshake_seconds_count"], 4.0);
    assert_eq!(after["wsgate_handshake_seconds_bucket{le=\"+Inf\"}"], 4.0);
    assert!(after["process_resident_memory_bytes"] > 1e6 && after["process_open_fds"] > 10.0);
    assert!(
        after["process_cpu_seconds_total"] > 0.0 && after["process_start_time_seconds"] > 1.7e9
    );
}

#[tokio::test]
async fn live_connections_are_shown_by_route_and_endpoint() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).workers(2).more(ADMIN).start().await;
    let endpoint =
        format!("wsgate_endpoint_connections{{upstream=\"app\",endpoint={:?}}}", backend.address);
    assert_eq!(edge.probes().await.metrics().await[&endpoint], 0.0);
    let pairs = [open(&edge, &backend).await, open(&edge, &backend).await];
    reaches(&edge, &endpoint, 2.0).await;
    reaches(&edge, "wsgate_connections{route=\"app\",upstream=\"app\"}", 2.0).await;
    drop(pairs);
    reaches(&edge, &endpoint, 0.0).await;
}

#[tokio::test]
async fn the_series_of_a_removed_endpoint_go_with_its_last_socket() {
    let (old, new) = (Backend::tcp().await, Backend::tcp().await);
    let config = |backend: &Backend| {
        Config::new(&backend.address).upstream("on_removed = \"keep\"").more(ADMIN)
    };
    let edge = config(&old).start().await;
    let (client, upstream) = open(&edge, &old).await;
    edge.reconfigure(&config(&new)).await;
    let series = |backend: &Backend| {
        format!("wsgate_endpoint_connections{{upstream=\"app\",endpoint={:?}}}", backend.address)
    };
    reaches(&edge, &series(&old), 1.0).await;
    reaches(&edge, &series(&new), 0.0).await;
    drop((client, upstream));
    let probes = edge.probes().await;
    within(PATIENCE, "the series goes", async {
        while probes.metrics().await.contains_key(&series(&old)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_a_series() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("path = \"/app\"").more(ADMIN).start().await;
    let probes = edge.probes().await;
    let before: BTreeSet<String> = probes.metrics().await.into_keys().collect();
    for round in 0..1000 {
        let mut client = edge.connect_plain().await;
        let hostile = format!("/x{round}%22%7D%0a{{evil=\"{round}\"}}");
        let hostile = if round % 2 == 0 { hostile } else { format!("/app?{round}") };
        let request = Upgrade::to(&hostile.replace([' ', '"', '{', '}'], "_"))
            .add("Origin", &format!("https://evil{round}.example"))
            .add("Sec-WebSocket-Protocol", &format!("evil{round}"))
            .add("X-User-Id", &format!("evil{round}"))
            .add("X-Request-Id", &format!("evil{round}"));
        assert!(client.ask(request).await.status() >= 400);
    }
    let after = probes.metrics().await;
    assert_eq!(after["wsgate_handshakes_total{route=\"-\",outcome=\"no_route\"}"], 500.0);
    assert_eq!(after["wsgate_handshakes_total{route=\"app\",outcome=\"origin\"}"], 500.0);
    let after: BTreeSet<String> = after.into_keys().collect();
    assert_eq!(after, before);
}

#[tokio::test]
async fn what_goes_wrong_with_tls_is_counted_and_a_certificate_has_an_end() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).more(ADMIN).start().await;
    let mut client = Peer::client(tokio::net::TcpStream::connect(edge.tls).await.expect("TCP"));
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    reaches(&edge, "wsgate_tls_failures_total{reason=\"other\"}", 1.0).await;
    drop(tokio::net::TcpStream::connect(edge.tls).await.expect("TCP"));
    reaches(&edge, "wsgate_tls_failures_total{reason=\"closed\"}", 1.0).await;
    let metrics = edge.probes().await.metrics().await;
    let series = format!("wsgate_certificate_expiry_seconds{{listener=\"{}\"}}", edge.tls);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert!(metrics[&series] > now.as_secs_f64(), "{series} {}", metrics[&series]);
}

#[tokio::test]
async fn a_ping_of_the_edge_measures_its_round_trip() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).heartbeat("heartbeat.interval = \"50ms\"");
    let edge = config.more(ADMIN).start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    let ping = client.frame().await;
    client.send_frame(Frame::new(support::PONG, ping.payload)).await;
    let probes = edge.probes().await;
    within(PATIENCE, "a round trip is counted", async {
        while probes.metrics().await["wsgate_heartbeat_rtt_seconds_count"] < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Name, type, sorted labels and meaning of every family.
type Families = BTreeMap<String, (String, BTreeSet<String>, String)>;

fn shown(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            families.entry(name.to_owned()).or_default().2 = help.to_owned();
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        }
    }
    for series in samples(text).keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = bare.filter(|bare| families.contains_key(*bare)).unwrap_or(name);
        let family = families.get_mut(name).unwrap_or_else(|| panic!("{name} has no TYPE"));
        let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
        let names = labels.map(|label| label.split('=').next().unwrap_or_default().to_owned());
        family.1.extend(names.filter(|name| name != "le"));
    }
    families
}

fn documented(page: &str) -> Families {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
        (
            cells[0].trim_matches('`').to_owned(),
            (cells[1].to_owned(), labels.collect(), cells[3].to_owned()),
        )
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_page_about_metrics_says_what_is_there_from_the_start() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).more(ADMIN).start().await;
    let answer = edge.probes().await.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).expect("UTF-8");
    assert_eq!(shown(&text), documented(include_str!("../docs/metrics.md")));
}

#[tokio::test]
async fn openmetrics_ends_with_its_mark_and_has_the_same_samples() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).more(ADMIN).start().await;
    let asking = edge.probes().await.with("Accept", "application/openmetrics-text; version=1.0.0");
    let answer = asking.get("/metrics").await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    let open = String::from_utf8(answer.body).expect("UTF-8");
    assert!(open.ends_with("\n# EOF\n"));
    let older = edge.probes().await.metrics().await;
    assert!(samples(&open).keys().eq(older.keys()));
}

#[tokio::test]
async fn promtool_finds_nothing_to_say() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).more(ADMIN).start().await;
    let (_client, _upstream) = open(&edge, &backend).await;
    let answer = edge.probes().await.get("/metrics").await;
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        return skip("promtool is missing (Debian package prometheus)");
    };
    promtool.stdin.take().expect("a pipe").write_all(&answer.body).expect("it reads");
    let said = promtool.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{words}{}", String::from_utf8_lossy(&said.stdout));
}

/// The names of samples and labels in text that has queries in it.
fn queried(text: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("wsgate_").chain(text.match_indices("process_")) {
        if text[..at].ends_with(is_name) {
            continue;
        }
        let end = text[at..].find(|it| !is_name(it)).map_or(text.len(), |end| at + end);
        let selector = text[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let selector = selector.map_or("", |(selector, _)| selector);
        let labels = selector.split("\",").filter_map(|label| label.split(['=', '~', '!']).next());
        let labels = labels.map(|label| label.trim().to_owned());
        let own = labels.filter(|label| !["", "instance", "job"].contains(&&**label)).collect();
        found.insert((text[at..end].to_owned(), own));
    }
    found
}

#[tokio::test]
async fn dashboards_and_alerts_ask_for_what_there_is() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).more(ADMIN).start().await;
    let series = edge.probes().await.metrics().await.into_keys().collect::<Vec<_>>();
    let names: BTreeSet<&str> =
        series.iter().map(|it| it.split('{').next().unwrap_or_default()).collect();
    let grafana: serde_json::Value =
        serde_json::from_str(include_str!("../conf/grafana.json")).expect("JSON");
    let mut asked = BTreeSet::new();
    for panel in grafana["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(queried(target["expr"].as_str().expect("a query")));
        }
    }
    let shown: BTreeSet<_> = asked.iter().map(|(name, _)| name.clone()).collect();
    for part in ["templating", "annotations"] {
        let text = grafana[part].to_string().replace("\\\"", "\"");
        asked.extend(queried(&text));
    }
    asked.extend(queried(include_str!("../conf/alerts.yaml")));
    assert!(asked.len() > 30, "{asked:?}");
    for (name, labels) in &asked {
        assert!(names.contains(&**name), "there is no {name}");
        let has = |label: &String| {
            let label = format!("{label}=\"");
            series.iter().any(|it| it.starts_with(&format!("{name}{{")) && it.contains(&label))
        };
        assert!(labels.iter().all(has), "{name} has not all of {labels:?}");
    }
    // What is counted is shown, a histogram by its buckets.
    let left_out: Vec<_> = names
        .iter()
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| !shown.contains(**name) && **name != "process_start_time_seconds")
        .collect();
    assert!(left_out.is_empty(), "the Grafana dashboard leaves out {left_out:?}");
}

#[test]
fn the_alert_rules_do_what_their_tests_say() {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let said = Command::new("promtool").args(arguments).current_dir(conf).output();
        let Ok(said) = said else {
            return skip("promtool is missing (Debian package prometheus)");
        };
        let words = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.status.success(), "{words}");
    }
}

/// A server that gives this answer to every request, and closes; gives its address.
async fn answering(status: u16, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut peer = Peer::upstream(socket);
            peer.reader.head().await;
            let length = body.len();
            let head = format!("HTTP/1.1 {status} Word\r\nContent-Length: {length}");
            peer.send(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await;
        }
    });
    address
}

/// The public key of RFC 7515, appendix A.3.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

#[tokio::test]
async fn what_is_asked_of_others_and_dropped_and_ejected_adds_up() {
    let backend = Backend::tcp().await;
    let (keys, verdict) = (answering(200, KEYS).await, answering(403, "").await);
    let more = format!(
        r#"{ADMIN}
[[upstream]]
name = "ill"
endpoints = ["unix:/no/such/folder/one.sock", "unix:/no/such/folder/two.sock"]
passive = {{ failures = 1, eject = "60s" }}
[[route]]
name = "ill"
path = "/ill"
upstream = "ill"
[[route]]
name = "asked"
path = "/asked"
upstream = "app"
origin = "any"
authorize = {{ url = "http://{verdict}/" }}
[[route]]
name = "unasked"
path = "/unasked"
upstream = "app"
origin = "any"
authorize = {{ url = "http://127.0.0.1:1/" }}
[[route]]
name = "keys"
path = "/keys"
upstream = "app"
token = {{ from = ["header:authorization"], keys = {{ jwks_url = "http://{keys}/" }} }}
"#
    );
    let limited = "limits.messages = { rate = \"1/h\", burst = 2, action = \"drop\" }\ncompression = \"strip\"";
    let config = Config::new(&backend.address).workers(2).route(limited).more(&more);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for text in ["1", "2", "3", "4", "5"] {
        client.send_frame(Frame::text(text)).await;
    }
    client.send_frame(Frame::close(1000, "")).await;
    for wanted in [&b"1"[..], b"2"] {
        assert_eq!(upstream.frame().await.payload, wanted);
    }
    let close = upstream.frame().await;
    upstream.writer.answer(close).await;
    for target in ["/ill", "/asked", "/asked", "/unasked"] {
        let answer = edge.connect_plain().await.ask(Upgrade::to(target)).await;
        assert!(answer.status() >= 400, "{target}: {answer:?}");
    }
    reaches(&edge, "wsgate_jwks_total{outcome=\"ok\"}", 1.0).await;
    edge.reconfigure(&config.clone().route("timeouts.idle = \"1h\"")).await;
    let metrics = edge.probes().await.metrics().await;
    let wanted = [
        ("wsgate_messages_dropped_total{route=\"app\"}", 3.0),
        ("wsgate_messages_total{route=\"app\",direction=\"upstream\"}", 5.0),
        ("wsgate_ejections_total{upstream=\"ill\"}", 1.0),
        ("wsgate_ejections_total{upstream=\"app\"}", 0.0),
        ("wsgate_authorize_total{route=\"asked\",outcome=\"ok\"}", 2.0),
        ("wsgate_authorize_total{route=\"asked\",outcome=\"failed\"}", 0.0),
        ("wsgate_authorize_total{route=\"unasked\",outcome=\"failed\"}", 1.0),
        ("wsgate_handshakes_total{route=\"ill\",outcome=\"dial_failed\"}", 1.0),
        ("wsgate_handshakes_total{route=\"asked\",outcome=\"authorize\"}", 2.0),
        ("wsgate_jwks_total{outcome=\"ok\"}", 1.0),
        ("wsgate_jwks_total{outcome=\"failed\"}", 0.0),
    ];
    for (series, count) in wanted {
        assert_eq!(metrics[series], count, "{series}");
    }
}

//! The configuration as a person meets it: what a good file means, and what a broken one is told.

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::plan::{Action, Allowance, OnExpiry, Payer};
use crate::route::{HostPattern, PathPattern};

const WSGATE: &str = include_str!("../../conf/wsgate.toml");
const REFERENCE: &str = include_str!("../../conf/reference.toml");

/// The least that is good.
const LEAST: &str = r#"
[[listener]]
listen = "127.0.0.1:8080"
[[upstream]]
name = "app"
endpoints = ["127.0.0.1:9001"]
[[route]]
name = "app"
upstream = "app"
"#;

fn parse(text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    Config::parse(text, Path::new("conf/wsgate.toml"))
}

fn good(text: &str) -> Config {
    match parse(text) {
        Ok(parsed) => parsed.config,
        Err(faults) => panic!("{}", Report::new(Path::new("wsgate.toml"), text, faults)),
    }
}

/// What `wsgate check` would print, faults and warnings.
fn told(text: &str) -> String {
    let diagnostics = match parse(text) {
        Ok(parsed) => parsed.warnings,
        Err(faults) => faults,
    };
    Report::new(Path::new("wsgate.toml"), text, diagnostics).to_string()
}

// ---- good files ----

#[test]
fn the_least_file_has_every_default() {
    let config = good(LEAST);
    assert_eq!(config.server.workers, None);
    assert_eq!(config.server.drain.code, 1012);
    assert_eq!(config.server.backlog_total, 512 << 20);
    assert_eq!(config.listeners[0].limits.header_bytes, 32 << 10);
    assert_eq!(config.listeners[0].tls, None);
    assert_eq!(config.upstreams[0].handshake_timeout, Duration::from_secs(10));
    let route = &config.routes[0];
    assert_eq!(route.host, HostPattern::Any);
    assert_eq!(route.path, PathPattern::Prefix("/".into()));
    assert_eq!(route.subprotocols, None);
    assert_eq!(route.admittance, Admittance::default());
    assert_eq!(route.plain_http, PlainHttp::Reject);
    assert_eq!(route.response_timeout, Duration::from_secs(60));
    assert_eq!(*route.plan, Plan::default());
}

#[test]
fn what_an_upstream_says_of_its_endpoints_arrives() {
    let config = good(&LEAST.replace(
        "endpoints = [\"127.0.0.1:9001\"]",
        "resolve = { name = \"Chat.svc:9001\" }\nsource_addresses = [\"127.0.0.2\", \"::1\"]\n\
                 tls = {}\npassive = { failures = 1 }\n\
                 health = { probe = \"websocket:/ws?probe\", slow_start = \"30s\" }",
    ));
    let upstream = &config.upstreams[0];
    assert!(upstream.endpoints.is_empty());
    let name = HostAndPort { host: "chat.svc".into(), port: 9001 };
    assert_eq!(upstream.resolve, Some(Resolve { name, refresh: Duration::from_secs(5) }));
    let sources: Vec<String> = upstream.source_addresses.iter().map(IpAddr::to_string).collect();
    assert_eq!(sources, ["127.0.0.2", "::1"]);
    assert_eq!(upstream.tls, Some(UpstreamTls::default()));
    assert_eq!(upstream.passive, Passive { failures: 1, eject: Duration::from_secs(10) });
    let health = Health {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        probe: Probe::WebSocket("/ws?probe".into()),
        unhealthy_after: 3,
        healthy_after: 2,
        slow_start: Some(Duration::from_secs(30)),
    };
    assert_eq!(upstream.health, Some(health));
    let least = &good(LEAST).upstreams[0];
    assert_eq!((&least.resolve, &least.tls, &least.health), (&None, &None, &None));
    assert_eq!(least.passive, Passive { failures: 3, eject: Duration::from_secs(10) });
}

#[test]
fn the_file_to_start_from_is_good_and_warns_of_nothing() {
    let parsed = parse(WSGATE).expect("conf/wsgate.toml is good");
    assert_eq!(parsed.warnings, []);
    assert_eq!(parsed.config.upstreams[0].endpoints.len(), 2);
    assert!(parsed.config.listeners[0].tls.is_some());
}

#[test]
fn names_of_files_begin_at_the_folder_of_the_configuration() {
    let parsed = parse(WSGATE).expect("conf/wsgate.toml is good");
    assert_eq!(parsed.files[0].path, Path::new("conf/../certs/localhost.pem"));
    assert_eq!(&WSGATE[parsed.files[0].span.clone()], "\"../certs/localhost.pem\"");
    let absolute = WSGATE.replace("../certs/localhost.pem", "/etc/tls.pem");
    let parsed = parse(&absolute).expect("a good file");
    assert_eq!(parsed.files[0].path, Path::new("/etc/tls.pem"));
}

#[test]
fn values_arrive_in_their_units() {
    let config = good(
        r#"
[server]
workers = 4
trusted_proxies = ["10.1.2.3/8", "::1"]
log = { format = "text", level = "debug" }
[[listener]]
listen = "[::1]:0"
limits = { connections = 100_000, pending = 0x10 }
[[upstream]]
name = "app"
endpoints = ["127.0.0.1:9001", "[::1]:9002", "App.Internal:9003", { address = "unix:/run/app.sock" }]
host = "app.internal:81"
[[route]]
name = "app"
host = "*.Example.com"
path = "=/ws"
upstream = "app"
listeners = ["[::1]:0"]
compression = "strip"
utf8 = "check"
subprotocols = ["a", "b"]
rewrite = { strip_prefix = "/ws" }
limits = { max_frame_size = "off", control_frames = "60/min", frame_stall = "off", slow_consumer = "off" }
heartbeat = { interval = "off", upstream = { timeout = "1500ms" } }
plain_http = "proxy"
timeouts = { response = "10s", idle = "1h", max_age = "1d" }
request_headers = { set = { X-Edge = "wsgate" }, remove = ["x-debug"] }
"#,
    );
    assert_eq!(config.server.workers.map(NonZeroUsize::get), Some(4));
    assert_eq!(config.listeners[0].limits.connections, 100_000);
    assert_eq!(config.listeners[0].limits.pending, 16);
    let networks: Vec<String> =
        config.server.trusted_proxies.iter().map(IpNet::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    let name = EndpointAddress::Name { host: "app.internal".into(), port: 9003 };
    assert_eq!(config.upstreams[0].endpoints[2], name.into());
    let socket = EndpointAddress::Unix("/run/app.sock".into());
    assert_eq!(config.upstreams[0].endpoints[3], socket.into());
    let route = &config.routes[0];
    assert_eq!(route.host, HostPattern::Below("example.com".into()));
    assert_eq!(route.path, PathPattern::Exact("/ws".into()));
    assert_eq!(route.plain_http, PlainHttp::Proxy);
    assert_eq!(route.response_timeout, Duration::from_secs(10));
    assert_eq!(route.plan.client.max_frame, u64::MAX);
    assert_eq!(route.plan.client.max_message, 4 << 20);
    assert_eq!(route.plan.control_frames.time_for(1), Duration::from_secs(1));
    assert_eq!(route.plan.control_frames.burst, 600);
    assert_eq!(route.plan.frame_stall, None);
    assert_eq!(route.plan.heartbeat.client.interval, None);
    assert_eq!(route.plan.heartbeat.upstream.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(route.plan.idle, Some(Duration::from_secs(3600)));
    assert_eq!(route.plan.max_age, Some(Duration::from_secs(86_400)));
    assert_eq!(route.request_headers.set[0].0, "x-edge");
    assert_eq!(route.request_headers.remove, [HeaderName::from_static("x-debug")]);
}

#[test]
fn who_may_come_and_how_much_arrive_in_their_units() {
    let config = good(&route(
        r#"
clients = { allow = ["10.0.0.0/8", "::1"], deny = ["10.9.1.2/16"] }
origin = { allow = ["https://*.Example.com", "null"], missing = "allow" }
reject = "close"
[route.limits]
handshakes = { per_client = "10/s", burst = 20, total = "1000/min" }
connections = { total = 50_000, per_client = 100 }
messages = { rate = "100/min", burst = 50, per = "connection", action = "throttle" }
bytes = { rate = "1MiB/s", burst = "4MiB", action = "close" }
"#,
    ));
    let Route { admittance, plan, .. } = &config.routes[0];
    let texts = |networks: &[IpNet]| networks.iter().map(IpNet::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&admittance.clients.allow), ["10.0.0.0/8", "::1/128"]);
    assert_eq!(texts(&admittance.clients.deny), ["10.9.0.0/16"]);
    let below = OriginPattern::Host {
        scheme: "https".into(),
        host: "example.com".into(),
        below: true,
        port: Some(443),
    };
    let allow = vec![below, OriginPattern::Null];
    assert_eq!(admittance.origin, Origin::Listed { allow, missing_allowed: true });
    assert_eq!(admittance.reject, Reject::Close);
    let rate = |count, seconds, burst| Rate { count, period: Duration::from_secs(seconds), burst };
    assert_eq!(admittance.handshakes_per_client, Some(rate(10, 1, 20)));
    assert_eq!(admittance.handshakes_total, Some(rate(1000, 60, 1000)));
    assert_eq!(admittance.connections_total, Some(50_000));
    assert_eq!(admittance.connections_per_client, Some(100));
    let messages =
        Allowance { rate: rate(100, 60, 50), per: Payer::Connection, action: Action::Throttle };
    assert_eq!(plan.messages, Some(messages));
    let bytes = Allowance {
        rate: rate(1 << 20, 1, 4 << 20),
        per: Payer::Connection,
        action: Action::Close,
    };
    assert_eq!(plan.bytes, Some(bytes));
}

#[test]
fn whom_to_ask_arrives_in_its_units() {
    let config = good(&route(
        "origin = \"any\"\nunauthorized_code = 4401\n\
         limits = { messages = { rate = \"100/min\", per = \"subject\" } }\n\
         authorize = { url = \"https://auth.internal/check?a=b\", timeout = \"2s\", \
         copy_headers = [\"X-User\"], subject = \"X-User\", recheck = \"1m\" }",
    ));
    let Route { admittance, plan, .. } = &config.routes[0];
    let user = HeaderName::from_static("x-user");
    let wanted = Authorize {
        url: Uri::from_static("https://auth.internal/check?a=b"),
        timeout: Duration::from_secs(2),
        copy_headers: vec![user.clone()],
        subject: Some(user),
    };
    assert_eq!(admittance.authorize, Some(wanted));
    assert_eq!(plan.recheck, Some(Duration::from_secs(60)));
    assert_eq!(u16::from(plan.unauthorized_code), 4401);
    let least = good(&route("origin = \"any\"\nauthorize.url = \"http://127.0.0.1:7000\""));
    let Route { admittance, plan, .. } = &least.routes[0];
    let authorize = admittance.authorize.as_ref().expect("it was written");
    assert_eq!((authorize.timeout, plan.recheck), (Duration::from_secs(5), None));
}

#[test]
fn a_rate_has_its_own_number_at_once_and_the_action_of_its_kind() {
    let config = good(&route(
        "origin = \"any\"\nlimits = { messages = { rate = \"100/min\" }, \
         bytes = { rate = \"1MiB/s\" }, handshakes = { per_client = \"5/s\" } }",
    ));
    let Route { admittance, plan, .. } = &config.routes[0];
    assert_eq!(admittance.origin, Origin::Any);
    assert_eq!(admittance.handshakes_per_client.map(|rate| rate.burst), Some(5));
    assert_eq!(admittance.handshakes_total, None);
    let of = |allowance: Option<Allowance>| allowance.map(|it| (it.rate.burst, it.action));
    assert_eq!(of(plan.messages), Some((100, Action::Close)));
    assert_eq!(of(plan.bytes), Some((1 << 20, Action::Throttle)));
}

#[test]
fn a_key_makes_the_balance_hash_and_its_absence_least_connections() {
    let balance = |lines: &str| good(&upstream(lines)).upstreams[0].balance.clone();
    let hash = |keys: Vec<HashKey>, bounded_load| Balance::Hash { keys, bounded_load };
    assert_eq!(balance(""), Balance::LeastConnections);
    assert_eq!(balance("balance = \"least-connections\""), Balance::LeastConnections);
    assert_eq!(balance("balance = \"round-robin\""), Balance::RoundRobin);
    assert_eq!(balance("hash_key = [\"path\"]"), hash(vec![HashKey::Path], None));
    let bounded = "balance = \"hash\"\nhash_key = [\"client-ip\"]\nbounded_load = 2";
    let client = HashKey::ClientIp { v4: 32, v6: 128 };
    assert_eq!(balance(bounded), hash(vec![client], Some(2_000_000)));
}

#[test]
fn keys_are_read_by_source_and_name() {
    let text = upstream(
        "hash_key = [\"cookie:a\", \"query:B[]\", \"header:X-C\", \"claim:a:b\", \
         \"client-ip/24\"]\nbounded_load = 1.25\nhash_seed_file = \"seed\"\n\
         affinity_cookie = { same_site = \"strict\" }",
    );
    let parsed = parse(&text).expect("a good file");
    let upstream = &parsed.config.upstreams[0];
    let keys = vec![
        HashKey::Cookie("a".into()),
        HashKey::Query("B[]".into()),
        HashKey::Header("x-c".parse().expect("a header")),
        HashKey::Claim("a:b".into()),
        HashKey::ClientIp { v4: 24, v6: 64 },
    ];
    assert_eq!(upstream.balance, Balance::Hash { keys, bounded_load: Some(1_250_000) });
    let cookie = AffinityCookie { name: "wsgate_affinity".into(), same_site: SameSite::Strict };
    assert_eq!(upstream.affinity_cookie, Some(cookie));
    assert_eq!(upstream.hash_seed_file.as_deref(), Some(Path::new("conf/seed")));
    assert_eq!(parsed.files[0].purpose, "hash seed");
    let of_ipv6 = good(&LEAST.replace("[[route]]", "hash_key = [\"client-ip/48\"]\n[[route]]"));
    let keys = vec![HashKey::ClientIp { v4: 32, v6: 48 }];
    assert_eq!(of_ipv6.upstreams[0].balance, Balance::Hash { keys, bounded_load: None });
}

#[test]
fn an_endpoint_may_be_a_table() {
    let text = LEAST.replace(
        "[\"127.0.0.1:9001\"]",
        "[\"127.0.0.1:9001\", { address = \"127.0.0.1:9002\", weight = 2, max_connections = 5000, \
         backup = true, id = \"b\" }]",
    );
    let endpoints = good(&text).upstreams.remove(0).endpoints;
    let address = |port| EndpointAddress::Ip(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(endpoints[0], address(9001).into());
    let table = Endpoint {
        address: address(9002),
        id: Some("b".into()),
        weight: 2,
        max_connections: Some(5000),
        backup: true,
    };
    assert_eq!(endpoints[1], table);
    let identities: Vec<Arc<str>> = endpoints.iter().map(Endpoint::identity).collect();
    assert_eq!(identities, ["127.0.0.1:9001".into(), "b".into()]);
}

#[test]
fn a_cookie_that_needs_tls_may_come_by_a_proxys() {
    let cookie = upstream("affinity_cookie = { name = \"__Host-at\", same_site = \"none\" }");
    assert!(parse(&cookie).is_err());
    good(&format!("[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n{cookie}"));
    good(&cookie.replace("[[upstream]]", "[[listener]]\nlisten = \"127.0.0.1:1\"\ntls = { certificates = [{ chain = \"a\", key = \"b\" }] }\n[[upstream]]"));
}

#[test]
fn messages_may_be_dropped_where_none_is_compressed() {
    let limits = "limits = { messages = { rate = \"1/s\", action = \"drop\" } }";
    let config = good(&route(&format!("compression = \"strip\"\n{limits}")));
    assert_eq!(config.routes[0].plan.messages.map(|it| it.action), Some(Action::Drop));
}

#[test]
fn a_route_on_a_plain_listener_need_not_state_an_origin_for_the_certificates_of_another() {
    let secured = listener(&format!("[[listener]]\nlisten = \"127.0.0.1:8443\"\n{CLIENT_CA}"));
    assert!(parse(&secured).is_err());
    good(&(secured.clone() + "listeners = [\"127.0.0.1:8080\"]\n"));
    good(&(secured + "origin = \"any\"\n"));
}

#[test]
fn two_listeners_may_leave_their_port_to_the_kernel() {
    let twice = LEAST.replace("8080\"", "0\"\n[[listener]]\nlisten = \"127.0.0.1:0\"");
    assert_eq!(good(&twice).listeners.len(), 2);
}

#[test]
fn two_processes_may_share_an_address_beside_a_wildcard() {
    let shared =
        "8080\"\nreuse_port = true\n[[listener]]\nlisten = \"0.0.0.0:8080\"\nreuse_port = true";
    assert_eq!(good(&LEAST.replace("8080\"", shared)).listeners.len(), 2);
}

#[test]
fn routes_of_one_path_on_different_listeners_do_not_collide() {
    let config = good(
        &(LEAST.replace("[[upstream]]", "[[listener]]\nlisten = \"127.0.0.1:8081\"\n[[upstream]]")
            + "listeners = [\"127.0.0.1:8080\"]\n[[route]]\nname = \"other\"\nupstream = \"app\"\n\
               listeners = [\"127.0.0.1:8081\"]"),
    );
    assert_eq!(config.routes.len(), 2);
}

// ---- the reference and the schema ----

fn as_json(text: &str) -> Json {
    toml::from_str(text).expect("TOML")
}

/// Takes every key out whose value is its default, and complains of keys that are not there or
/// say another default.
fn strip_defaults(schema: &Json, value: &mut Json, at: &str) {
    if let Some(elements) = value.as_array_mut() {
        for element in elements {
            strip_defaults(&schema["items"], element, at);
        }
        return;
    }
    let schema = match schema["anyOf"].as_array() {
        Some(_) if schema["type"] == "object" => Some(schema),
        Some(choices) => choices.iter().find(|choice| choice["type"] == "object"),
        None => Some(schema),
    };
    let properties = schema.and_then(|schema| schema["properties"].as_object());
    let (Some(table), Some(properties)) = (value.as_object_mut(), properties) else { return };
    for (key, property) in properties {
        let at = format!("{at}.{key}");
        // Of the kinds of keys a route has one, and it has an upstream or a redirect.
        let one_of_several = at.starts_with(".route.token.keys.") || at == ".route.redirect";
        let Some(found) = table.get_mut(key) else {
            assert!(one_of_several, "the reference lacks {at}");
            continue;
        };
        strip_defaults(property, found, &at);
        if let Some(default) = property.get("default")
            && !has_only_examples(property, found)
        {
            assert_eq!(found, default, "the default of {at}");
            table.remove(key);
        }
    }
}

/// Whether what is left of a table are keys without a default, which the reference shows by example.
fn has_only_examples(schema: &Json, table: &Json) -> bool {
    let is_example =
        |key| schema["properties"].get(key).is_some_and(|it| it.get("default").is_none());
    let left = table.as_object().filter(|left| !left.is_empty());
    left.is_some_and(|left| left.keys().all(is_example))
}

#[test]
fn the_reference_shows_every_key_with_its_default() {
    let mut stripped = as_json(REFERENCE);
    strip_defaults(&schema(), &mut stripped, "");
    let text = toml::to_string(&stripped).expect("TOML");
    assert!(!text.contains("backlog"), "the defaults are gone");
    assert_eq!(good(&text), good(REFERENCE));
    let plan = Plan::clone(&good(REFERENCE).routes[0].plan);
    assert!(plan.messages.is_some() && plan.bytes.is_some(), "shown, though they have no default");
    assert_eq!(Plan { messages: None, bytes: None, ..plan }, Plan::default());
}

/// The part of JSON Schema that ours uses, patterns aside.
fn validates(schema: &Json, value: &Json) -> bool {
    let of_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("a type that this test does not know: {other}"),
        None => true,
    };
    let one_of = |choices: &Json, good: &dyn Fn(&Json) -> bool| {
        choices.as_array().is_none_or(|choices| choices.iter().any(good))
    };
    let key_is_good = |(key, value): (&String, &Json)| match schema["properties"].get(key) {
        Some(property) => validates(property, value),
        None if schema["additionalProperties"] == false => false,
        None => schema.get("additionalProperties").is_none_or(|schema| validates(schema, value)),
    };
    let has = |key: &Json| key.as_str().is_some_and(|key| value.get(key).is_some());
    of_type
        && one_of(&schema["anyOf"], &|choice| validates(choice, value))
        && one_of(&schema["enum"], &|choice| choice == value)
        && schema.get("const").is_none_or(|wanted| wanted == value)
        && schema["minimum"].as_f64().is_none_or(|least| value.as_f64() >= Some(least))
        && schema["maximum"].as_f64().is_none_or(|most| value.as_f64() <= Some(most))
        && schema["required"].as_array().is_none_or(|keys| keys.iter().all(has))
        && value.as_array().is_none_or(|all| all.iter().all(|e| validates(&schema["items"], e)))
        && value.as_object().is_none_or(|table| table.iter().all(key_is_good))
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    for text in [WSGATE, REFERENCE, LEAST] {
        assert!(validates(&schema(), &as_json(text)));
    }
    for (from, to) in [
        ("listen =", "liste ="),
        ("upstream = \"app\"", ""),
        ("upstream = \"app\"", "upstream = 1"),
        ("upstream = \"app\"", "upstream = \"app\"\nutf8 = \"maybe\""),
        ("upstream = \"app\"", "upstream = \"app\"\nheartbeat = { intervall = \"1s\" }"),
        ("upstream = \"app\"", "upstream = \"app\"\norigin = \"none\""),
        ("upstream = \"app\"", "upstream = \"app\"\norigin = { missing = \"allow\" }"),
        ("upstream = \"app\"", "upstream = \"app\"\nlimits.messages = {}"),
        ("[[upstream]]", "[server]\nworkers = 0\n[[upstream]]"),
        ("[[upstream]]", "[server]\ndrain.code = 1006\n[[upstream]]"),
    ] {
        let broken = LEAST.replace(from, to);
        assert!(!validates(&schema(), &as_json(&broken)), "{to}");
        assert!(parse(&broken).is_err(), "{to}");
    }
}

#[test]
fn a_rule_for_tokens_arrives_whole() {
    let config = good(&token(
        r#"
from = ["header:Authorization", "header:X-Token", "cookie:session", "query:t", "subprotocol:bearer"]
algorithms = ["HS256", "HS512"]
keys = { secret_file = "secret" }
issuer = "https://issuer.example.com"
audience = ["chat", "game"]
required = { role = "member", level = 7, admin = true }
leeway = "0s"
on_expiry = "keep"
forward = { sub = "X-User-Id", role = "x-role" }
strip = false
"#,
    ));
    let header = HeaderName::from_static;
    let rule = Token {
        from: vec![
            TokenSource::Header(header("authorization")),
            TokenSource::Header(header("x-token")),
            TokenSource::Cookie("session".into()),
            TokenSource::Query("t".into()),
            TokenSource::Subprotocol,
        ],
        algorithms: vec![Algorithm::HS256, Algorithm::HS512],
        keys: KeySource::SecretFile("conf/secret".into()),
        issuer: Some("https://issuer.example.com".into()),
        audience: vec!["chat".into(), "game".into()],
        required: vec![
            ("admin".into(), true.into()),
            ("level".into(), 7.into()),
            ("role".into(), "member".into()),
        ],
        leeway: Duration::ZERO,
        forward: vec![("sub".into(), header("x-user-id")), ("role".into(), header("x-role"))],
        strip: false,
    };
    assert_eq!(config.routes[0].admittance.token, Some(rule));
    assert_eq!(config.routes[0].plan.on_expiry, OnExpiry::Keep);
}

#[test]
fn what_a_rule_for_tokens_leaves_unsaid_is_strict() {
    let config = good(&token("keys = { jwks_url = \"https://issuer.example.com/jwks\" }"));
    let rule = config.routes[0].admittance.token.as_ref().expect("a rule");
    let from: Vec<String> = rule.from.iter().map(TokenSource::to_string).collect();
    assert_eq!(from, ["header:authorization", "cookie:token", "query:token", "subprotocol:bearer"]);
    assert_eq!(rule.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!((rule.leeway, rule.strip), (Duration::from_secs(30), true));
    assert_eq!(config.routes[0].plan.on_expiry, OnExpiry::Close);
}

#[test]
fn a_variable_that_is_not_set_is_underlined() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wsgate.toml");
    let lines = "algorithms = [\"HS256\"]\nkeys = { secret_env = \"WSGATE_TEST_NO_SUCH\" }";
    std::fs::write(&path, token(lines)).expect("a file");
    let report = Config::load(&path).expect("a good file").check_files();
    assert_eq!(report.diagnostics.len(), 1);
    assert!(report.to_string().contains("no variable WSGATE_TEST_NO_SUCH"), "{report}");
}

// ---- broken files, and what is said ----

/// A broken file is [`LEAST`] with something put in place of one of its lines.
fn least_with(line: &str, other: &str) -> String {
    assert!(LEAST.contains(line), "{line}");
    LEAST.replacen(line, other, 1)
}

fn server(lines: &str) -> String {
    format!("[server]\n{lines}\n{LEAST}")
}

fn admin(lines: &str) -> String {
    format!("{LEAST}\n[admin]\n{lines}\n")
}

fn listener(lines: &str) -> String {
    least_with("[[upstream]]", &format!("{lines}\n[[upstream]]"))
}

fn upstream(lines: &str) -> String {
    least_with("[[route]]", &format!("{lines}\n[[route]]"))
}

fn route(lines: &str) -> String {
    format!("{LEAST}{lines}\n")
}

/// A route that states its origin and asks for tokens.
fn token(lines: &str) -> String {
    route(&format!("origin = \"any\"\n[route.token]\n{lines}"))
}

const CLIENT_CA: &str = "tls = { client_ca = \"clients.pem\", \
    certificates = [{ chain = \"a.pem\", key = \"a.key\" }] }";

macro_rules! told {
    ($($name:ident: $text:expr,)*) => {
        $(
            #[test]
            fn $name() {
                let mut settings = insta::Settings::clone_current();
                settings.set_prepend_module_to_snapshot(false);
                settings.set_omit_expression(true);
                settings.bind(|| insta::assert_snapshot!(stringify!($name), told(&$text)));
            }
        )*
    };
}

told! {
    an_empty_file: "",
    a_file_of_comments: "# nothing yet\n",
    not_toml: "[[listener]\nlisten = 127.0.0.1:8080\n[server\nworkers = \n",
    a_key_twice: listener("listen = \"127.0.0.1:8081\""),
    a_string_without_its_end: least_with("name = \"app\"", "name = \"app"),
    nothing_but_a_server: "[server]\nworkers = 2\n",
    empty_lists: "listener = []\nupstream = []\nroute = []\n",
    single_brackets: LEAST.replace("[[route]]", "[route]"),
    unknown_keys: server("worker = 2\nlogs = {}") + "pathh = \"/ws\"\ncolour = \"red\"\n[sever]\n",
    a_key_in_another_table: route("max_frame_size = \"1MiB\"\nmax_age = \"1h\"\ninterval = \"30s\"\n\
        timeout = \"5s\""),
    rules_of_a_redirect: route("redirect = \"https\"") + "[[route]]\nname = \"other\"\n\
        redirect = \"http\"\n[[route]]\nname = \"third\"\nhost = \"a\"\nredirect = \"https\"\n\
        plain_http = \"proxy\"\n",
    a_proxy_header_from_anybody: listener("proxy_protocol = true"),
    bad_admin_addresses: admin("listen = \"localhost:9090\"\nprobes = \"unix:wsgate.sock\"\n\
        hosts = [\"http://edge\", \"edge:80\"]"),
    an_admin_that_listens_nowhere: admin("hosts = [\"edge\"]"),
    an_admin_for_anybody: admin("listen = \"0.0.0.0:9090\""),
    an_admin_on_a_taken_port: admin("listen = \"127.0.0.1:8080\"\nprobes = \"0.0.0.0:8080\""),
    required_keys_missing: "[[listener]]\n[listener.tls]\n[[upstream]]\n[[route]]\n\
        rewrite = {}\n",
    an_endpoint_without_an_address: least_with("[\"127.0.0.1:9001\"]", "[{}]"),
    wrong_types: server("workers = 1.5\ntrusted_proxies = \"10.0.0.0/8\"\ndrain = \"10s\"\n\
        backlog_total = 1024\nlog = { format = true }"),
    wrong_types_of_a_listener: listener("timeouts = { tls = 10 }\nreuse_port = \"yes\"\n\
        limits = { connections = \"many\", pending = -1 }\ntls = true"),
    bad_durations: server("drain = { delay = \"5\", window = \"ten seconds\", timeout = \"1m30s\" }")
        + "timeouts = { idle = \"0s\", max_age = \"9999999d\", close = \"5 s\" }\n",
    bad_plain_http: route("plain_http = \"pass\"\ntimeouts.response = \"off\""),
    bad_sizes: server("backlog_total = \"0B\"") + "limits = { max_frame_size = \"0\", \
        max_message_size = \"4M\", backlog = \"off\", upstream = { max_frame_size = \"\" } }\n",
    sizes_out_of_bounds: listener("limits = { header_bytes = \"4KiB\", uri = \"1MiB\" }")
        + "limits = { backlog = \"99999GiB\" }\n",
    bad_rates: route("limits.control_frames = \"10\"")
        + "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"app\"\n\
            limits.control_frames = \"0/s\"\n[[route]]\nname = \"c\"\npath = \"/c\"\n\
            upstream = \"app\"\nlimits.control_frames = \"ten/fortnight\"\n",
    zeros: server("workers = 0\ndrain = { timeout = \"0s\" }")
        + "limits = { max_frame_size = \"0B\", frame_stall = \"0s\" }\n\
           heartbeat = { interval = \"0s\" }\n",
    bad_listen_addresses: "[[listener]]\nlisten = \":8443\"\n[[listener]]\nlisten = \"localhost:80\"\n\
        [[listener]]\nlisten = \"0.0.0.0\"\n[[listener]]\nlisten = \"127.0.0.1:99999\"\n".to_owned()
        + &LEAST.replace("[[listener]]\nlisten = \"127.0.0.1:8080\"", ""),
    bad_keys: upstream("hash_key = [\"cookie\", \"cookie:a b\", \"query:a=b\", \"header:a b\", \
        \"header:Sec-WebSocket-Key\", \"claim:\", \"client_ip\", \"client-ip/0\", \"client-ip/129\", \
        \"client-ip/+8\", \"ip_hash\", \"paths\", 1]"),
    no_key: upstream("hash_key = []"),
    a_key_listed_twice: upstream("hash_key = [\"cookie:a\", \"cookie:a\"]"),
    a_key_behind_one_that_all_have: upstream("hash_key = [\"client-ip\", \"cookie:a\"]"),
    a_bad_balance: upstream("balance = \"ip_hash\""),
    hash_without_a_key: upstream("balance = \"hash\"\nhash_seed_file = \"seed\"\nbounded_load = 1.5"),
    keys_beside_another_balance: upstream("balance = \"round-robin\"\nhash_key = [\"path\"]\n\
        bounded_load = 1.5"),
    a_load_that_cannot_be: upstream("hash_key = [\"client-ip\"]\nbounded_load = 0.9"),
    a_load_that_bounds_nothing: upstream("hash_key = [\"client-ip\"]\nbounded_load = inf"),
    a_load_that_is_no_number: upstream("hash_key = [\"client-ip\"]\nbounded_load = \"125%\""),
    a_bounded_load_beside_a_shared_key: upstream("hash_key = [\"cookie:a\", \"query:room\"]\n\
        bounded_load = 1.25"),
    a_bounded_load_beside_plain_http: upstream("hash_key = [\"client-ip\"]\nbounded_load = 1.25")
        + "plain_http = \"proxy\"\n",
    bad_cookies: upstream("affinity_cookie = { name = \"a;b\", same_site = \"Lax\" }"),
    a_cookie_without_tls: upstream("affinity_cookie = { same_site = \"none\" }"),
    a_secure_name_without_tls: upstream("affinity_cookie = { name = \"__Secure-a\" }"),
    one_cookie_of_two_upstreams: upstream("affinity_cookie = {}\n[[upstream]]\nname = \"b\"\n\
        endpoints = [\"127.0.0.1:9002\"]\naffinity_cookie = {}")
        + "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"b\"\n",
    bad_tables_of_endpoints: least_with("\"127.0.0.1:9001\"", "\
        { address = \"a:1\", weight = 0 }, { address = \"a:2\", weight = 70000 }, \
        { address = \"a:3\", weight = \"2\" }, { address = \"a:4\", max_connections = 0 }, \
        { address = \"a:5\", backup = \"yes\" }, { address = \"a:6\", id = \"\" }, \
        { address = \"a:7\", wieght = 2 }"),
    two_endpoints_of_one_identity: least_with("\"127.0.0.1:9001\"", "\
        \"a:1\", { address = \"a:2\", id = \"a:1\" }, { address = \"a:3\", id = \"b\" }, \
        { address = \"a:4\", id = \"b\" }"),
    an_address_twice_under_two_ids: least_with("\"127.0.0.1:9001\"", "\
        { address = \"a:1\", id = \"a\" }, { address = \"a:1\", id = \"b\" }"),
    only_backups: least_with("\"127.0.0.1:9001\"", "{ address = \"a:1\", backup = true }"),
    bad_endpoints: least_with("\"127.0.0.1:9001\"", "\"127.0.0.1\", \"http://app:9001/ws\", \
        \"127.0.0.1:0\",\n  \"::1\", \"unix:app.sock\", \"300.1.1.1:80\", \"a b:80\", 9001"),
    an_endpoint_twice: least_with("\"127.0.0.1:9001\"", "\"127.0.0.1:9001\", \"127.0.0.1:9001\""),
    no_endpoints: least_with("\"127.0.0.1:9001\"", ""),
    neither_endpoints_nor_a_name: least_with("endpoints = [\"127.0.0.1:9001\"]", ""),
    bad_names_to_resolve: upstream("resolve = { name = \"10.0.0.1:9001\", refresh = \"0s\" }\n\
        [[upstream]]\nname = \"b\"\nresolve = { name = \"chat\" }\n\
        [[upstream]]\nname = \"c\"\nresolve = {}"),
    bad_source_addresses: upstream(
        "source_addresses = [\"10.0.0.5:0\", \"0.0.0.0\", \"224.0.0.1\", \"::1\", \"::1\"]"),
    tls_on_a_unix_socket: least_with("[\"127.0.0.1:9001\"]", "[\"unix:/run/app.sock\"]\ntls = {}"),
    bad_tls_of_an_upstream: upstream("tls = { server_name = \"10.0.0.1\", ca = \"\", \
        certificate = { chain = \"a.pem\" }, verify = false }\n\
        [[upstream]]\nname = \"b\"\nendpoints = [\"b:1\"]\ntls = { server_name = \"a..b\" }\n\
        [[upstream]]\nname = \"c\"\nendpoints = [\"c:1\"]\ntls = true"),
    bad_probes: upstream("health = { probe = \"http\", interval = \"0s\", unhealthy_after = 0 }")
        + "[[upstream]]\nname = \"b\"\nendpoints = [\"b:1\"]\nhealth = { probe = \"http://b/healthz\", \
            healthy_after = \"2\", slow_start = 5 }\n"
        + "[[upstream]]\nname = \"c\"\nendpoints = [\"c:1\"]\nhealth = { probe = \"ws:/ws\" }\n",
    bad_ejections: upstream("passive = { failures = 0, eject = \"off\" }"),
    bad_networks: server("trusted_proxies = [\"10.0.0.0/33\", \"proxies\", 10]"),
    bad_hosts_and_paths: route("host = \"https://example.com\"\npath = \"ws\"")
        + "[[route]]\nname = \"b\"\nupstream = \"app\"\nhost = \"chat.*.com\"\npath = \"/ws/*\"\n"
        + "[[route]]\nname = \"c\"\nupstream = \"app\"\nhost = \"example.com:443\"\npath = \"/a%20b\"\n",
    a_bad_host_to_send: upstream("host = \"http://app\""),
    bad_names: LEAST.replace("\"app\"", "\"\"") + "[[route]]\nname = \"-\"\nupstream = \"app\"\n",
    bad_headers: route("[route.request_headers]\nset = { Host = \"a\", \"x edge\" = \"b\", \
        x-a = \"1\", X-A = \"2\", x-b = 3, x-c = \"\\u0007\" }\n\
        [route.response_headers]\nremove = [\"Sec-WebSocket-Accept\", \"connection\"]"),
    bad_subprotocols: route("subprotocols = [\"a, b\", \"chat\", \"chat\"]"),
    names_twice: LEAST.to_owned() + "path = \"/a\"\n[[upstream]]\nname = \"app\"\n\
        endpoints = [\"127.0.0.1:9002\"]\n[[route]]\nname = \"app\"\nupstream = \"app\"\n",
    listeners_on_one_address: listener("[[listener]]\nlisten = \"127.0.0.1:8080\"\n\
        [[listener]]\nlisten = \"0.0.0.0:8080\""),
    routes_on_one_place: route("path = \"/ws\"\n[[route]]\nname = \"b\"\nupstream = \"app\"\n\
        path = \"/ws/\"\nlisteners = [\"127.0.0.1:8080\"]"),
    routes_without_host_and_path: route("[[route]]\nname = \"b\"\nupstream = \"app\""),
    an_unknown_upstream: LEAST.replace("upstream = \"app\"", "upstream = \"ap\""),
    an_upstream_like_no_other: LEAST.replace("upstream = \"app\"", "upstream = \"telephone\""),
    an_unknown_listener: route("listeners = [\"127.0.0.1:8081\"]"),
    a_drain_that_cannot_end: server("drain = { delay = \"15s\", window = \"15s\" }"),
    a_drain_cut_by_its_timeout: server("[server.drain]\ntimeout = \"12s\""),
    a_close_longer_than_the_drain: route("timeouts = { close = \"25s\" }"),
    close_codes_that_may_not_be_sent: server("drain = { code = 1006 }") + "\n",
    a_close_code_out_of_range: server("drain = { code = 99999 }"),
    utf8_of_compressed_text: route("utf8 = \"check\""),
    utf8_of_text_that_may_be_compressed: route("utf8 = \"check\"\ncompression = \"pass\""),
    client_auth_without_an_authority: listener("[listener.tls]\n\
        certificates = [{ chain = \"a.pem\", key = \"a.key\" }]\nclient_auth = \"require\""),
    no_certificates: listener("tls = { certificates = [] }"),
    a_certificate_without_its_key: listener("tls = { certificates = [{ chain = \"a.pem\" }] }"),
    wrong_words: server("log = { format = \"jsno\", level = \"verbose\" }") + "compression = \"off\"\n",
    a_prefix_that_is_never_stripped: route("path = \"/chat\"\nrewrite = { strip_prefix = \"/ws\" }"),
    bad_prefixes: route("rewrite = { strip_prefix = \"ws\", add_prefix = \"/a?b\" }"),
    warned_of_wire_sizes: route("limits = { max_frame_size = \"64KiB\", \
        upstream = { max_message_size = \"1MiB\" } }"),
    warned_of_a_frame_over_its_message: route("compression = \"strip\"\n\
        limits = { max_frame_size = \"16MiB\" }"),
    bad_origins: route("origin = { allow = [\n  \"https://app.example.com/\",\n  \
        \"https://App.example.com/chat?a\",\n  \"app.example.com\",\n  \"*\",\n  \
        \"https://*example.com\",\n  \"https://app.*.com\",\n  \
        \"https://user:word@example.com\",\n  \"https://example.com:https\",\n  \
        \"https://::1\",\n  \"https://\",\n  \"*://example.com\",\n  \
        \"https://b\u{fc}cher.example\",\n  443\n], missing = \"refuse\" }"),
    bad_tokens: token("from = [\"authorization\", \"header:cookie\", \"header:upgrade\", \"cookie:a b\", \
        \"query:\", \"subprotocol:token\", \"body:token\"]\nalgorithms = [\"RS265\", \"none\", \"ES512\"]\n\
        keys = { jwks_url = \"http://issuer.example.com/jwks.json\" }\nissuer = \"\"\naudience = [\"\", 7]\n\
        required = { role = [\"member\"], \"\" = 1 }\nleeway = \"30\"\non_expiry = \"drop\"\n\
        forward = { sub = \"host\", role = \"x-forwarded-user\", a = \"x-a\", b = \"X_A\" }\nstrip = \"yes\""),
    tokens_without_keys: token(""),
    tokens_with_no_key: token("keys = {}"),
    tokens_with_two_kinds_of_keys: token("keys = { jwks_url = \"https://issuer.example.com/\", \
        secret_env = \"S\" }"),
    bad_urls_of_keys: token("keys = { jwks_url = \"issuer.example.com\" }"),
    a_secret_in_place_of_its_variable: token("keys = { secret_env = \"correct horse\" }"),
    tokens_of_empty_lists: token("from = []\nalgorithms = []\naudience = []\n\
        keys = { jwks_url = \"https://issuer.example.com/\" }"),
    tokens_listed_twice: token("from = [\"query:a\", \"query:a\"]\nalgorithms = [\"RS256\", \"RS256\"]\n\
        keys = { jwks_url = \"https://issuer.example.com/\" }"),
    secrets_beside_public_keys: token("algorithms = [\"RS256\", \"HS256\", \"HS512\"]\n\
        keys = { jwks_url = \"https://issuer.example.com/\" }"),
    public_algorithms_beside_a_secret: token("algorithms = [\"HS256\", \"RS256\"]\n\
        keys = { secret_env = \"S\" }"),
    a_secret_and_the_default_algorithms: token("keys = { secret_env = \"S\" }"),
    tokens_in_cookies_without_an_origin: route("[route.token]\n\
        from = [\"query:token\", \"cookie:token\"]\n\
        keys = { jwks_url = \"https://issuer.example.com/\" }"),
    tokens_anywhere_without_an_origin: route("[route.token]\n\
        keys = { jwks_url = \"https://issuer.example.com/\" }"),
    claims_in_headers_that_are_set: token("keys = { jwks_url = \"https://issuer.example.com/\" }\n\
        forward = { sub = \"x-user\", role = \"x-role\" }\n\
        [route.request_headers]\nset = { X_User = \"a\" }\n\
        [route.authorize]\nurl = \"http://127.0.0.1:7000/\"\ncopy_headers = [\"x-role\"]"),
    a_star_for_any_origin: route("origin = \"*\""),
    an_origin_without_its_list: route("origin = \"https://app.example.com\""),
    a_list_for_an_origin: route("origin = [\"https://app.example.com\"]"),
    no_origins: route("origin = { allow = [] }"),
    an_origin_that_lists_none: route("origin = { missing = \"allow\" }"),
    certificates_without_an_origin: listener(CLIENT_CA),
    an_authorizer_without_an_origin: route("authorize = { url = \"http://127.0.0.1:7000/auth\" }"),
    bad_authorizers: route("origin = \"any\"\n[route.authorize]\n\
        url = \"auth.internal/auth\"\ntimeout = \"0s\"\n\
        copy_headers = [\"x-user\", \"X-User\", \"connection\", \"x-role\"]\n\
        subject = \"x user\"\nrecheck = \"always\"\nretries = 3\n\
        [route.request_headers]\nset = { x-role = \"guest\" }"),
    an_authorizer_without_a_url: route("origin = \"any\"\nauthorize = { timeout = \"1s\" }"),
    authorizers_that_are_no_urls: route("origin = \"any\"\n\
        authorize = { url = \"https://edge:word@auth.internal/\" }")
        + "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"app\"\norigin = \"any\"\n\
            authorize = { url = \"unix:/run/auth.sock\" }\n\
            [[route]]\nname = \"c\"\npath = \"/c\"\nupstream = \"app\"\norigin = \"any\"\n\
            authorize = { url = \"wss://auth.internal:8443/\" }\n",
    bad_clients: route("clients = { allow = [\"10.0.0.0/33\"], deny = \"10.0.0.0/8\", denny = [] }"),
    bad_ways_to_refuse: route("reject = \"closed\"\nunauthorized_code = 1005"),
    a_burst_without_its_rate: route("limits = { handshakes = { burst = 20, total = \"1000/s\" } }"),
    handshakes_that_bound_nothing: route("[route.limits.handshakes]"),
    connections_of_nobody: route("limits = { connections = { per_subject = 5, total = 0 } }"),
    rates_per_subject: route("limits = { messages = { rate = \"100/min\", per = \"subject\" }, \
        bytes = { rate = \"1MiB/s\", per = \"client\" } }"),
    subjects_that_nothing_names: route("limits = { messages = { rate = \"100/min\", per = \"subject\" }, \
        bytes = { rate = \"1MiB/s\", per = \"subject\" } }"),
    subjects_that_an_authorizer_does_not_name: route("origin = \"any\"\n\
        authorize = { url = \"http://127.0.0.1:7000/auth\" }\n\
        limits = { messages = { rate = \"100/min\", per = \"subject\" } }"),
    dropped_messages_of_a_stream: route("limits = { messages = { rate = \"1/s\", action = \"drop\" } }"),
    dropped_messages_where_compression_passes: route("compression = \"pass\"\n\
        limits = { messages = { rate = \"1/s\", action = \"drop\" } }"),
    dropped_bytes: route("limits = { bytes = { rate = \"1MiB/s\", action = \"drop\" } }"),
    bad_byte_rates: route("limits = { bytes = { rate = \"100/s\", burst = 50 }, \
        messages = { burst = \"1MiB\" } }")
        + "[[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"app\"\n\
            limits.bytes.rate = \"1MiB\"\n[[route]]\nname = \"c\"\npath = \"/c\"\n\
            upstream = \"app\"\nlimits.bytes.rate = \"0B/s\"\n",
    letters_beyond_ascii: route("# ein großer Kommentar\nhost = \"bücher.example\""),
}

#[test]
fn colours_change_nothing_but_colours() {
    let text = LEAST.replace("listen =", "liste =");
    let faults = parse(&text).expect_err("a broken file");
    let report = Report::new(Path::new("wsgate.toml"), &text, faults);
    let coloured = report.render(Paint::Coloured);
    assert!(coloured.contains("\x1b["));
    assert!(!report.render(Paint::Plain).contains('\x1b'));
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let report = told(&route("\"\\u001b[31m\" = 1\nhost = \"\u{1b}[31m\""));
    assert!(!report.contains('\x1b'), "{report:?}");
}

// ---- files on disk ----

#[test]
fn a_missing_file_is_unreadable_and_one_that_is_not_utf8_is_faulty() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = Config::load(&folder.path().join("none.toml"));
    assert!(matches!(missing, Err(LoadError::Unreadable { .. })));
    let path = folder.path().join("latin1.toml");
    std::fs::write(&path, b"# gro\xdf\n").expect("a file");
    let Err(LoadError::Faulty(report)) = Config::load(&path) else { panic!("it is not UTF-8") };
    assert_eq!(report.diagnostics[0].span, Some(5..8));
}

#[test]
fn certificates_that_are_not_there_are_underlined() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.pem"), "").expect("a file");
    let path = folder.path().join("wsgate.toml");
    let tls =
        "tls = { certificates = [{ chain = \"a.pem\", key = \"a.key\" }], client_ca = \".\" }";
    let text = listener(tls) + "origin = \"any\"\n";
    std::fs::write(&path, &text).expect("a file");
    let loaded = Config::load(&path).expect("a good file");
    let report = loaded.check_files();
    let underlined: Vec<&str> =
        report.diagnostics.iter().filter_map(|fault| text.get(fault.span.clone()?)).collect();
    assert_eq!(underlined, ["\"a.key\"", "\".\""]);
}

// ---- any file ----

/// The reference with one of its strings, numbers or words replaced.
fn reference_with(index: usize, value: &str) -> String {
    let values: Vec<Span> = values_of(&without_comments(REFERENCE));
    let span = values[index % values.len()].clone();
    format!("{}{value}{}", &REFERENCE[..span.start], &REFERENCE[span.end..])
}

/// Where values stand: behind every equals sign outside of comments, up to what ends them.
fn values_of(text: &str) -> Vec<Span> {
    let ends = [',', '}', '\n', '#'];
    let span = |(at, _): (usize, &str)| {
        let start = at + 2;
        let length = text[start..].find(ends).unwrap_or(0);
        start..start + length
    };
    text.match_indices("= ").map(span).collect()
}

/// Comments as blanks, so that places stay where they are.
fn without_comments(text: &str) -> String {
    let blank = |line: &str| {
        let end = line.find('#').unwrap_or(line.len());
        let comment: String = line[end..].chars().map(|_| ' ').collect();
        format!("{}{comment}\n", &line[..end])
    };
    text.lines().map(blank).collect()
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("0".to_owned()),
        Just("-1".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("nan".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[[], {}]".to_owned()),
        "[0-9]{1,24}",
        "[0-9]{0,22}(ms|s|m|h|d|B|KiB|TiB|/s|/min|:0|:80)".prop_map(|text| format!("{text:?}")),
        "[a-z0-9.:/*=%\\[\\]é-]{0,16}".prop_map(|text| format!("{text:?}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_value_at_any_key_is_good_or_told(index in 0usize..400, value in any_value()) {
        let text = reference_with(index, &value);
        match parse(&text) {
            Ok(_) => {}
            Err(faults) => prop_assert!(!faults.is_empty()),
        }
        let _ = told(&text);
    }

    #[test]
    fn lines_in_any_order_are_good_or_told(swaps in prop::collection::vec(any::<(u8, u8)>(), 1..5)) {
        let mut lines: Vec<&str> = REFERENCE.lines().collect();
        for (one, other) in swaps {
            let count = lines.len();
            lines.swap(usize::from(one) % count, usize::from(other) % count);
        }
        let _ = told(&lines.join("\n"));
    }

    #[test]
    fn any_text_is_good_or_told(text in "[\\[\\]a-z=\" {}.\n,0-9é]{0,64}") {
        let _ = told(&text);
    }
}

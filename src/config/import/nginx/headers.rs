//! `proxy_set_header`, `proxy_hide_header` and `add_header`.

use http::HeaderName;
use toml::{Table as Map, Value};

use super::super::draft::{Table, is};
use super::balancer::Target;
use super::location::Location;
use super::server::Server;
use super::syntax::Directive;
use super::{Import, shown};
use crate::config::names::{Header, SentHost};

/// What a header's value comes to here.
enum Said {
    /// The edge says it anyway.
    Already(Option<&'static str>),
    Fixed(String),
    Removed,
    Unknown(&'static str),
}

/// The Host that the upstream sees, written unless it is the client's.
pub(super) fn host(
    target: &Target,
    location: &Location<'_>,
    table: &mut Table,
    import: &mut Import<'_>,
) -> Option<String> {
    let lines = location.scope.all(&["proxy_set_header"]);
    let line = lines.iter().rev().find(|line| line.argument(0).eq_ignore_ascii_case("host"));
    let value =
        line.map_or("$proxy_host".to_owned(), |line| location.scope.expanded(line.argument(1)));
    let name = match value.as_str() {
        "$http_host" => return None,
        "$host" | "$host:$server_port" | "$http_host:$server_port" => {
            table.say("Host goes on as the client sent it, with its port; nginx's $host has none.");
            return None;
        }
        "$proxy_host" | "$proxy_host:$proxy_port" => target.host.clone(),
        other => other.to_owned(),
    };
    if name == "pass" || !is::<SentHost>(&name) {
        let place = line.map_or(&location.place, |line| &line.place);
        let instead = "write host = \"…\" in the [[upstream]]; it gets the client's Host now";
        import.draft.note(place, format!("the Host {name}"), instead);
        return None;
    }
    table.set("host", name.as_str());
    if line.is_none() {
        table.explain(
            "nginx's default is the name in proxy_pass; take this out to send the client's.",
        );
    }
    Some(name)
}

/// What changes in the headers of requests and answers.
pub(super) fn edits(
    location: &Location<'_>,
    server: &Server<'_>,
    lines: &mut Table,
    import: &mut Import<'_>,
) {
    requests(location, server, lines, import);
    answers(location, lines, import);
}

fn requests(
    location: &Location<'_>,
    server: &Server<'_>,
    lines: &mut Table,
    import: &mut Import<'_>,
) {
    let mut set = Map::new();
    let mut remove: Vec<String> = Vec::new();
    for line in location.scope.all(&["proxy_set_header"]) {
        let name = line.argument(0).to_ascii_lowercase();
        if ["host", "upgrade", "connection", "content-length", "te", "transfer-encoding"]
            .contains(&name.as_str())
            || name.starts_with("sec-websocket-")
        {
            continue;
        }
        if !is::<Header>(&name) {
            import.draft.note(&line.place, shown(line), "the edge writes this header itself");
            continue;
        }
        match said(&name, line, location, server) {
            Said::Already(differs) => differs.into_iter().for_each(|words| lines.say(words)),
            Said::Removed => remove.push(name),
            Said::Fixed(value) if fits(&value) => {
                set.insert(name, value.into());
            }
            Said::Fixed(_) => {
                import.draft.note(&line.place, shown(line), "write visible ASCII and spaces");
            }
            Said::Unknown(instead) => import.draft.note(&line.place, shown(line), instead),
        }
    }
    write("request_headers", set, remove, lines);
}

fn write(table: &str, set: Map, mut remove: Vec<String>, lines: &mut Table) {
    remove.sort();
    remove.dedup();
    remove.retain(|name| !set.contains_key(name));
    if !set.is_empty() {
        lines.set(&format!("{table}.set"), Value::Table(set));
    }
    if !remove.is_empty() {
        lines.set(&format!("{table}.remove"), remove);
    }
}

fn fits(value: &str) -> bool {
    value.is_ascii() && http::HeaderValue::from_str(value).is_ok()
}

fn said(name: &str, line: &Directive, location: &Location<'_>, server: &Server<'_>) -> Said {
    let value = location.scope.expanded(line.argument(1));
    let own_name = format!("$http_{}", name.replace('-', "_"));
    match (name, value.as_str()) {
        (_, "") => Said::Removed,
        ("x-forwarded-for", "$proxy_add_x_forwarded_for") => Said::Already(Some(
            "X-Forwarded-For grows only behind trusted_proxies; of anybody else it is what the edge \
             saw, while nginx appended to whatever the client wrote.",
        )),
        ("x-forwarded-for" | "x-real-ip", "$remote_addr" | "$realip_remote_addr") => {
            Said::Already(None)
        }
        ("x-real-ip", "$proxy_protocol_addr") | ("x-forwarded-for", "$proxy_protocol_addr") => {
            Said::Already(None)
        }
        ("x-forwarded-proto" | "x-forwarded-port", "$scheme" | "$server_port") => {
            Said::Already(None)
        }
        ("x-forwarded-proto", "$http_x_forwarded_proto") => {
            Said::Already(Some("X-Forwarded-Proto is believed of trusted_proxies alone."))
        }
        ("x-forwarded-host", "$host" | "$http_host" | "$server_name" | "$host:$server_port") => {
            Said::Already(Some("X-Forwarded-Host is the client's Host, with its port."))
        }
        ("x-request-id", "$request_id" | "$http_x_request_id") => Said::Already(None),
        (_, own) if own == own_name => Said::Already(None),
        (_, copied) if copied_by_authorizer(name, copied, location) => Said::Already(None),
        (_, "$scheme") => match server.scheme() {
            Some(scheme) => Said::Fixed(scheme.to_owned()),
            None => Said::Unknown("the server sees it in X-Forwarded-Proto"),
        },
        (_, "$server_name") => match server.names.as_slice() {
            [only] => Said::Fixed(only.clone()),
            _ => Said::Unknown("the server sees the name in X-Forwarded-Host"),
        },
        (_, "$server_port") => match server.addresses().as_slice() {
            [only] => Said::Fixed(only.port().to_string()),
            _ => Said::Unknown("the server sees it in X-Forwarded-Port"),
        },
        (_, "$remote_addr" | "$proxy_add_x_forwarded_for" | "$binary_remote_addr") => {
            Said::Unknown("the server sees the client's address in X-Real-IP and X-Forwarded-For")
        }
        (_, "$host" | "$http_host") => {
            Said::Unknown("the server sees it in Host and X-Forwarded-Host")
        }
        (_, "$request_uri" | "$uri") => Said::Unknown("the server sees the path itself"),
        (_, value) if value.starts_with("$ssl_client") => Said::Unknown(
            "wsgate verifies client certificates; let the server ask who it is by a token",
        ),
        (
            "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-port" | "x-forwarded-proto"
            | "x-real-ip" | "x-request-id" | "forwarded",
            value,
        ) if !value.contains('$') => Said::Fixed(value.to_owned()),
        (_, value) if value.contains('$') => Said::Unknown(
            "wsgate sets fixed values, X-Forwarded-*, claims and an authorizer's headers",
        ),
        (_, value) => Said::Fixed(value.to_owned()),
    }
}

/// `auth_request_set $user $upstream_http_x_user` behind the variable that a header takes, when the
/// authorizer's header has the same name.
pub(super) fn copied_by_authorizer(name: &str, variable: &str, location: &Location<'_>) -> bool {
    let from = format!("$upstream_http_{}", name.replace('-', "_"));
    let sets = |line: &&Directive| line.argument(0) == variable && line.argument(1) == from;
    location.scope.one("auth_request").is_some_and(|line| line.argument(0) != "off")
        && location.scope.all(&["auth_request_set"]).iter().any(sets)
}

fn answers(location: &Location<'_>, lines: &mut Table, import: &mut Import<'_>) {
    let mut set = Map::new();
    let mut remove = Vec::new();
    for line in location.scope.all(&["proxy_hide_header"]) {
        let name = line.argument(0).to_ascii_lowercase();
        match is::<Header>(&name) {
            true => remove.push(name),
            false => import.draft.note(&line.place, shown(line), "leave it out"),
        }
    }
    for line in location.scope.all(&["add_header"]) {
        let name = line.argument(0).to_ascii_lowercase();
        let value = location.scope.expanded(line.argument(1));
        if value.contains('$') || !is::<Header>(&name) || !fits(&value) {
            let instead = match name.as_str() {
                "alt-svc" => "wsgate speaks no HTTP/3; leave it out",
                _ => "let the server behind the edge send it: here it has a fixed value or none",
            };
            import.draft.note(&line.place, shown(line), instead);
        } else if value.is_empty() || HeaderName::from_bytes(name.as_bytes()).is_err() {
            remove.push(name);
        } else {
            set.insert(name, value.into());
        }
    }
    let sets = !set.is_empty();
    write("response_headers", set, remove, lines);
    if sets {
        lines.explain(
            "On every answer of the server, its own of that name replaced; nginx adds one.",
        );
    }
}

//! Who may come: networks, authorizers, caps and rates.

use ipnet::IpNet;

use super::super::draft::{Table, inline, is};
use super::balancer::Target;
use super::headers::copied_by_authorizer;
use super::location::Location;
use super::paths::{Matching, replaced};
use super::server::Server;
use super::syntax::Directive;
use super::{Import, Zone, shown, words};
use crate::config::names::Header;
use crate::config::urls::Url;

/// `allow` and `deny`, of which nginx takes the first that fits and wsgate `deny` first.
pub(super) fn clients(location: &Location<'_>, lines: &mut Table, import: &mut Import<'_>) {
    let mut allow: Vec<IpNet> = Vec::new();
    let mut deny: Vec<IpNet> = Vec::new();
    let mut closed = false;
    for line in location.scope.all(&["allow", "deny"]) {
        let denies = line.is("deny");
        if line.argument(0) == "all" {
            closed = denies;
            break;
        }
        let Some(network) = words::network(line.argument(0)) else {
            let instead = "write an address or a network into `clients`";
            import.draft.note(&line.place, shown(line), instead);
            closed |= !denies;
            continue;
        };
        let meets = |other: &IpNet| other.contains(&network) || network.contains(other);
        if denies && allow.iter().any(meets) {
            let what = format!("{} behind an allow of a part of it", shown(line));
            let instead = "`deny` goes before `allow` in wsgate, so the part is denied too; deny the \
                           rest of the network by smaller ones";
            import.draft.note(&line.place, what, instead);
        }
        if denies { deny.push(network) } else { allow.push(network) }
    }
    let texts = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    match closed {
        true if allow.is_empty() => {
            lines.set("clients.deny", vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
            return;
        }
        true => lines.set("clients.allow", texts(&allow)),
        false => {}
    }
    if !deny.is_empty() {
        lines.set("clients.deny", texts(&deny));
    }
}

/// `auth_request`, by the location that it names.
pub(super) fn authorize(
    location: &Location<'_>,
    server: &Server<'_>,
    lines: &mut Table,
    import: &mut Import<'_>,
) {
    let Some(line) = location.scope.one("auth_request").filter(|line| line.argument(0) != "off")
    else {
        return;
    };
    let Some((url, asked)) = authorizer(line.argument(0), server, import) else {
        // Without it everybody would come in.
        lines.set_since(
            "clients.deny",
            vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
            "The authorizer could not be carried, so nobody comes in until it is written here.",
        );
        let instead = "write [route.authorize] with the url of the service, and take clients.deny \
                       out, which keeps everybody out until then";
        import.draft.note(&line.place, shown(line), instead);
        return;
    };
    lines.set_since(
        "authorize.url",
        url,
        "It gets the client's headers, X-Original-URI and X-Original-Method; 401 and 403 refuse.",
    );
    let time = asked.scope.word("proxy_read_timeout").and_then(words::time).unwrap_or(60_000);
    lines.set("authorize.timeout", words::duration(time.max(1)));
    let copied = copied(location, import);
    if !copied.is_empty() {
        lines.set("authorize.copy_headers", copied);
    }
}

/// The URL of the service behind an internal location, and that location.
fn authorizer<'a>(
    path: &str,
    server: &Server<'a>,
    import: &mut Import<'_>,
) -> Option<(String, Location<'a>)> {
    let fits = |location: &&Location<'a>| match &location.matching {
        Matching::Exact(own) => own == path,
        Matching::Prefix(own) => path.starts_with(own.as_str()),
        _ => false,
    };
    let longest = |location: &&Location<'a>| match &location.matching {
        Matching::Exact(_) => usize::MAX,
        Matching::Prefix(own) => own.len(),
        _ => 0,
    };
    let location = server.locations.iter().filter(fits).max_by_key(longest)?.clone();
    let line = location.scope.own().iter().find(|line| line.is("proxy_pass"))?;
    let target = Target::of(line, &location, import)?;
    let scheme = if target.tls { "https" } else { "http" };
    let group = import.groups.get(target.server.as_str()).copied();
    let first = group.and_then(|group| group.inside().iter().find(|line| line.is("server")));
    let host = first.map_or(target.server.as_str(), |line| line.argument(0));
    let rest = match &target.path {
        None => path.to_owned(),
        Some(new) => match replaced(&location.matching, new) {
            _ if matches!(location.matching, Matching::Exact(_)) => new.clone(),
            change => {
                let rest = path.strip_prefix(change.strip.as_deref().unwrap_or("/"));
                format!("{new}{}", rest.unwrap_or_default())
            }
        },
    };
    let url = format!("{scheme}://{host}{rest}");
    is::<Url>(&url).then_some((url, location))
}

/// The authorizer's headers that go on under their own name.
fn copied(location: &Location<'_>, import: &mut Import<'_>) -> Vec<String> {
    let mut copied: Vec<String> = Vec::new();
    let sent = location.scope.all(&["proxy_set_header"]);
    for line in location.scope.all(&["auth_request_set"]) {
        let users: Vec<&&Directive> =
            sent.iter().filter(|header| header.argument(1) == line.argument(0)).collect();
        for header in users {
            let name = header.argument(0).to_ascii_lowercase();
            if copied_by_authorizer(&name, line.argument(0), location) && is::<Header>(&name) {
                if !copied.contains(&name) {
                    copied.push(name);
                }
            } else {
                let instead = "have the authorizer answer with the very name that the server reads, \
                               and write it into authorize.copy_headers";
                import.draft.note(&header.place, shown(header), instead);
            }
        }
    }
    copied
}

/// `limit_conn` and `limit_req`.
pub(super) fn limits(location: &Location<'_>, lines: &mut Table, import: &mut Import<'_>) {
    caps(location, lines, import);
    rates(location, lines, import);
}

fn zone(import: &mut Import<'_>, line: &Directive, name: &str) -> Option<Zone> {
    let zone = import.zones.get(name).cloned();
    if zone.is_none() {
        import.draft.note(&line.place, shown(line), "its zone is defined nowhere; leave it out");
    }
    zone
}

/// Whether each client is counted for itself, or all together.
fn is_per_client(key: &str) -> bool {
    ["$binary_remote_addr", "$remote_addr", "$http_x_forwarded_for", "$proxy_protocol_addr"]
        .contains(&key)
}

fn is_for_all(key: &str) -> bool {
    ["$server_name", "$host", "$http_host"].contains(&key) || !key.contains('$')
}

fn caps(location: &Location<'_>, lines: &mut Table, import: &mut Import<'_>) {
    let why = "From limit_conn. A client is an IPv4 address or an IPv6 /64; each route counts for \
               itself, while nginx counts for all locations of a zone together.";
    for line in location.scope.all(&["limit_conn"]) {
        let Some(zone) = zone(import, line, line.argument(0)) else { continue };
        let number = line.argument(1).parse::<u32>().unwrap_or(0);
        let key = match zone.key.as_str() {
            key if is_per_client(key) => "limits.connections.per_client",
            key if is_for_all(key) => "limits.connections.total",
            _ => "",
        };
        if key.is_empty() || number == 0 || lines.has(key) {
            let instead = "write limits.connections with total, per_client or per_subject";
            import.draft.note(&line.place, format!("{} by {}", shown(line), zone.key), instead);
            continue;
        }
        lines.set_since(key, i64::from(number.min(1_000_000)), why);
    }
}

fn rates(location: &Location<'_>, lines: &mut Table, import: &mut Import<'_>) {
    for line in location.scope.all(&["limit_req"]) {
        let word = |front: &str| line.arguments.iter().find_map(|word| word.strip_prefix(front));
        let Some(zone) = zone(import, line, word("zone=").unwrap_or_default()) else { continue };
        let burst = word("burst=").and_then(|burst| burst.parse::<u32>().ok()).unwrap_or(0);
        let per_client = is_per_client(&zone.key);
        let Some(rate) = zone
            .rate
            .filter(|_| (per_client || is_for_all(&zone.key)) && !lines.has("limits.handshakes"))
        else {
            let instead = "write limits.handshakes = { per_client = \"10/s\", burst = 20 }";
            import.draft.note(&line.place, shown(line), instead);
            continue;
        };
        let burst = i64::from(burst.saturating_add(1).min(1_000_000)).into();
        let value = match per_client {
            true => inline([("per_client", rate.into()), ("burst", burst)]),
            false => inline([("total", rate.into())]),
        };
        lines.set_since(
            "limits.handshakes",
            value,
            "From limit_req; a plain request counts as a handshake. What is over it is refused at \
             once: nothing is delayed. Each route counts for itself.",
        );
    }
}

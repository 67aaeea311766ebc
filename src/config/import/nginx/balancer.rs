//! `proxy_pass` and the group it names, as an [[upstream]].

use toml::Value;

use super::super::draft::{Table, inline, is};
use super::location::{Location, read_timeout};
use super::syntax::Directive;
use super::{Import, hash_key, headers, words};
use crate::config::endpoints::{ServerName, SourceAddress};
use crate::config::{EndpointAddress, HostAndPort};

/// nginx's own, where nothing is said.
const CONNECT_TIMEOUT: u64 = 60_000;

/// What a `proxy_pass` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub tls: bool,
    /// A group's name, or `host:port`, or `unix:/path`.
    pub server: String,
    /// As nginx calls it in Host.
    pub host: String,
    pub path: Option<String>,
}

impl Target {
    /// `None` after a note: it is known only when a request comes.
    pub fn of(
        line: &Directive,
        location: &Location<'_>,
        import: &mut Import<'_>,
    ) -> Option<Target> {
        let url = location.scope.expanded(line.argument(0));
        // The path as it came, said at length.
        let tail = ["$request_uri", "$uri$is_args$args"];
        let kept = tail.iter().find_map(|tail| url.strip_suffix(tail)).map(str::to_owned);
        let url = kept.unwrap_or(url);
        if url.contains('$') {
            let instead = "write the servers that it may mean into an [[upstream]] each, and a \
                           [[route]] to each";
            import.draft.note(&line.place, super::shown(line), instead);
            return None;
        }
        let target = Target::parse(&url);
        if target.is_none() {
            let instead = "write an [[upstream]] with the server's address";
            import.draft.note(&line.place, super::shown(line), instead);
        }
        target
    }

    pub fn parse(url: &str) -> Option<Target> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        if let Some(rest) = rest.strip_prefix("unix:") {
            let (socket, path) = match rest.split_once(':') {
                Some((socket, path)) => (socket, Some(path.to_owned())),
                None => (rest, None),
            };
            let server = format!("unix:{socket}");
            return Some(Target { tls, server, host: "localhost".to_owned(), path });
        }
        let (server, path) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(rest[at..].to_owned())),
            None => (rest, None),
        };
        let (server, host) = (server.to_owned(), server.to_owned());
        (!server.is_empty()).then_some(Target { tls, server, host, path })
    }

    /// With the port that the scheme stands for, if it names none.
    fn address(&self) -> String {
        with_port(&self.server, if self.tls { 443 } else { 80 })
    }
}

fn with_port(server: &str, port: u16) -> String {
    let has = server.starts_with("unix:")
        || server
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match has {
        true => server.to_owned(),
        false => format!("{server}:{port}"),
    }
}

/// The name of the upstream that a location's requests go to.
pub(super) fn upstream(
    target: &Target,
    location: &Location<'_>,
    import: &mut Import<'_>,
) -> Option<String> {
    let mut table = Table::new("[[upstream]]");
    let port = if target.tls { 443 } else { 80 };
    match import.groups.get(target.server.as_str()).copied() {
        Some(group) => {
            table.say(format!("From {}", group.place));
            self::group(group, port, &mut table, import)?;
        }
        None => {
            let address = target.address();
            if !is::<EndpointAddress>(&address) {
                let instead = "write an [[upstream]] with the server's address";
                let what = format!("the server {address}");
                import.draft.note(&location.place, what, instead);
                return None;
            }
            table.set("endpoints", vec![address]);
        }
    }
    let connect = location.scope.word("proxy_connect_timeout").and_then(words::time);
    let connect = connect.filter(|time| *time > 0).unwrap_or(CONNECT_TIMEOUT);
    table.set("connect_timeout", words::duration(connect));
    table.set_since(
        "handshake_timeout",
        words::duration(read_timeout(location).max(connect)),
        "For all dials and the answer together; nginx waits proxy_read_timeout for the answer alone. \
         A shorter one finds a stuck server sooner.",
    );
    let host = headers::host(target, location, &mut table, import);
    source(location, &mut table, import);
    if target.tls {
        tls(target, host.as_deref(), location, &mut table, import);
    }
    let wanted = target.server.trim_start_matches("unix:").trim_start_matches('/').to_owned();
    Some(import.draft.shared(table, &wanted))
}

fn source(location: &Location<'_>, table: &mut Table, import: &mut Import<'_>) {
    let Some(line) = location.scope.one("proxy_bind").filter(|line| line.argument(0) != "off")
    else {
        return;
    };
    match is::<SourceAddress>(line.argument(0)) {
        true => table.set("source_addresses", vec![line.argument(0).to_owned()]),
        false => {
            let instead = "write source_addresses = [\"…\"] with addresses of this machine";
            import.draft.note(&line.place, super::shown(line), instead);
        }
    }
}

/// TLS to the servers: verified here, whatever nginx did.
fn tls(
    target: &Target,
    host: Option<&str>,
    location: &Location<'_>,
    table: &mut Table,
    import: &mut Import<'_>,
) {
    let scope = &location.scope;
    let mut entries = toml::Table::new();
    let own = target.host.rsplit_once(':').map_or(target.host.as_str(), |(host, _)| host);
    let name = scope.word("proxy_ssl_name").map(|name| scope.expanded(name));
    let name = match name.as_deref() {
        Some("$host" | "$http_host" | "$proxy_host") | None => own.to_owned(),
        Some(name) => name.to_owned(),
    };
    let is_group = import.groups.contains_key(target.server.as_str());
    let is_socket = target.server.starts_with("unix:");
    let needed = name != own || is_group || is_socket;
    if needed && is::<ServerName>(&name) && host.is_none() {
        entries.insert("server_name".to_owned(), name.as_str().into());
    } else if needed && is::<ServerName>(&name) {
        entries.insert("server_name".to_owned(), name.into());
    } else if needed {
        let line = location.scope.one("proxy_ssl_name").map_or(&location.place, |line| &line.place);
        let instead = "write tls = { server_name = \"…\" } with the name in its certificate";
        import.draft.note(line, format!("the name {name} of the server's certificate"), instead);
        if is_socket {
            entries.insert("server_name".to_owned(), "localhost".into());
        }
    }
    if let Some(ca) = scope.word("proxy_ssl_trusted_certificate") {
        entries.insert("ca".to_owned(), import.file(ca).into());
    }
    let chain = scope.word("proxy_ssl_certificate").filter(|name| !name.contains('$'));
    let key = scope.word("proxy_ssl_certificate_key").filter(|name| !name.contains(['$', ':']));
    if let Some((chain, key)) = chain.zip(key) {
        let pair = [("chain", import.file(chain).into()), ("key", import.file(key).into())];
        entries.insert("certificate".to_owned(), inline(pair));
    }
    table.set("tls", Value::Table(entries));
    if !scope.is_on("proxy_ssl_verify") {
        table.explain(
            "nginx did not verify the server's certificate; wsgate always does. Where an authority \
             of your own signed it, add ca = \"…\" here.",
        );
    }
}

/// The servers of a group, and how one of them is chosen.
fn group(group: &Directive, port: u16, table: &mut Table, import: &mut Import<'_>) -> Option<()> {
    let mut endpoints: Vec<Value> = Vec::new();
    let mut resolve: Option<String> = None;
    let mut failures: Option<(u64, u64)> = None;
    for line in group.inside().iter().filter(|line| line.is("server")) {
        let server = Member::of(line, port, import);
        if server.down {
            table.say(format!("{} is left out: nginx has it as down.", server.address));
            continue;
        }
        if server.resolve && is::<HostAndPort>(&server.address) && resolve.is_none() {
            resolve = Some(server.address.clone());
        } else if !is::<EndpointAddress>(&server.address) {
            let instead = "write its address into `endpoints`";
            import.draft.note(&line.place, super::shown(line), instead);
            continue;
        } else {
            let value = server.value();
            if endpoints.iter().any(|other| address_of(other) == server.address) {
                let instead = "give one entry the weight of both";
                import.draft.note(&line.place, format!("a second {}", server.address), instead);
                continue;
            }
            endpoints.push(value);
        }
        failures.get_or_insert((server.max_fails, server.fail_timeout));
    }
    let all_backup = endpoints.iter().all(|one| one.get("backup").is_some());
    if endpoints.is_empty() && resolve.is_none() {
        let what = format!("upstream {}", group.argument(0));
        import.draft.note(&group.place, what, "write an [[upstream]] with its servers");
        return None;
    }
    if all_backup && resolve.is_none() {
        endpoints.iter_mut().for_each(|one| {
            one.as_table_mut().map(|table| table.remove("backup"));
        });
    }
    let several = endpoints.len() + usize::from(resolve.is_some()) > 1 || resolve.is_some();
    if !endpoints.is_empty() {
        table.set("endpoints", endpoints);
    }
    if let Some(name) = resolve {
        table.set_since(
            "resolve",
            inline([("name", name.into())]),
            "Looked up every 5 s; every address is an endpoint.",
        );
    }
    method(group, table, import);
    if several {
        passive(failures.unwrap_or((1, 10_000)), table);
    }
    Some(())
}

fn address_of(value: &Value) -> &str {
    value.as_str().or_else(|| value.get("address")?.as_str()).unwrap_or_default()
}

fn passive((failures, time): (u64, u64), table: &mut Table) {
    const MOST: u64 = 1_000_000;
    let why = match failures {
        0 => {
            "max_fails=0: nginx never passes a server over; so many failures in a row are as good."
        }
        _ => {
            "From max_fails and fail_timeout: failed dials and unanswered handshakes in a row, and \
              the time doubles each time up to 5 minutes."
        }
    };
    let failures = if failures == 0 { MOST } else { failures.min(MOST) };
    let failures = i64::try_from(failures).unwrap_or(1);
    let eject = words::duration(time).into();
    table.set_since("passive", inline([("failures", failures.into()), ("eject", eject)]), why);
}

/// One `server` of a group.
struct Member {
    address: String,
    weight: i64,
    max_connections: i64,
    max_fails: u64,
    fail_timeout: u64,
    backup: bool,
    down: bool,
    resolve: bool,
}

impl Member {
    fn of(line: &Directive, port: u16, import: &mut Import<'_>) -> Member {
        let mut member = Member {
            address: with_port(line.argument(0), if port == 443 { 443 } else { 80 }),
            weight: 1,
            max_connections: 0,
            max_fails: 1,
            fail_timeout: 10_000,
            backup: false,
            down: false,
            resolve: false,
        };
        for word in line.arguments.iter().skip(1) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<i64>().unwrap_or(0).clamp(0, i64::from(u32::MAX >> 8));
            match name {
                "weight" => member.weight = number().clamp(1, 65_535),
                "max_conns" => member.max_connections = number(),
                "max_fails" => member.max_fails = number().unsigned_abs(),
                "fail_timeout" => {
                    member.fail_timeout =
                        words::time(value).filter(|time| *time > 0).unwrap_or(10_000);
                }
                "backup" => member.backup = true,
                "down" => member.down = true,
                "resolve" => member.resolve = true,
                _ => {
                    let what = format!("{word} of server {}", line.argument(0));
                    let instead = match name {
                        "slow_start" => {
                            "write health = { slow_start = \"30s\" } in the [[upstream]]"
                        }
                        _ => "wsgate has nothing like it",
                    };
                    import.draft.note(&line.place, what, instead);
                }
            }
        }
        member
    }

    fn value(&self) -> Value {
        if self.weight == 1 && self.max_connections == 0 && !self.backup {
            return self.address.as_str().into();
        }
        let mut table = toml::Table::new();
        table.insert("address".to_owned(), self.address.as_str().into());
        if self.weight != 1 {
            table.insert("weight".to_owned(), self.weight.into());
        }
        if self.max_connections > 0 {
            table.insert("max_connections".to_owned(), self.max_connections.into());
        }
        if self.backup {
            table.insert("backup".to_owned(), true.into());
        }
        Value::Table(table)
    }
}

/// How a server is chosen.
fn method(group: &Directive, table: &mut Table, import: &mut Import<'_>) {
    let another = "Clients stay together as before, but the server of each is another than nginx's: \
                   wsgate hashes by rendezvous, and a change moves only those whom it must.";
    let mut balanced = false;
    for line in group.inside() {
        match line.name.as_str() {
            "ip_hash" => {
                table.set_since("hash_key", vec!["client-ip/24".to_owned()], another);
                table.explain("An IPv6 client counts by its /64; nginx takes its whole address.");
                balanced = true;
            }
            "hash" => match hash_key(line.argument(0)) {
                Some((key, differs)) => {
                    table.set_since("hash_key", vec![key], another);
                    table.explain(differs);
                    balanced = true;
                }
                None => {
                    let instead = "write hash_key = [\"cookie:NAME\", \"client-ip\"] with what \
                                   clients are known by";
                    import.draft.note(&line.place, super::shown(line), instead);
                }
            },
            "least_conn" => {
                table.set("balance", "least-connections");
                balanced = true;
            }
            "random" if line.argument(0) == "two" => {
                table.set_since(
                    "balance",
                    "least-connections",
                    "nginx: the better of two by chance.",
                );
                balanced = true;
            }
            "random" => {
                table.set_since("balance", "round-robin", "nginx: by chance.");
                balanced = true;
            }
            "sticky" => sticky(line, table, import),
            "server" | "zone" | "keepalive" | "keepalive_timeout" | "keepalive_requests"
            | "keepalive_time" | "resolver" | "resolver_timeout" => {}
            _ => {
                let instead = "wsgate balances by hash, least-connections or round-robin";
                import.draft.note(&line.place, super::shown(line), instead);
            }
        }
    }
    if !balanced && !table.has("hash_key") {
        table.set("balance", "round-robin");
    }
}

fn sticky(line: &Directive, table: &mut Table, import: &mut Import<'_>) {
    let name = super::cookie_name(line.argument(1)).filter(|_| line.argument(0) == "cookie");
    let Some(name) = name else {
        let instead = "write affinity_cookie = { name = \"…\" }, or a hash_key of what names the \
                       session";
        import.draft.note(&line.place, super::shown(line), instead);
        return;
    };
    let word = |front: &str| {
        line.arguments.iter().find_map(|word| word.strip_prefix(front)).map(str::to_ascii_lowercase)
    };
    let same_site = match word("samesite=").as_deref() {
        Some("strict") => "strict",
        _ => "lax",
    };
    table.set_since(
        "affinity_cookie",
        inline([("name", name.into()), ("same_site", same_site.into())]),
        "A cookie of the session, with Path=/ and HttpOnly; expires, domain and path of nginx's are \
         not carried, and its old values are replaced.",
    );
}

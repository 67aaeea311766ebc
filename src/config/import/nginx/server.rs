//! Servers: where they listen, by which names they are meant, and which requests they redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use toml::Value;

use super::super::draft::{Draft, Table, inline, is};
use super::location::{self, Location};
use super::paths::Matching;
use super::scope::Scope;
use super::syntax::Directive;
use super::{Import, MOST_ROUTES, scope_of, words};
use crate::config::import::Place;
use crate::route::HostPattern;

/// One `server` block.
#[derive(Clone, Debug)]
pub(super) struct Server<'a> {
    pub scope: Scope<'a>,
    pub place: Place,
    pub listens: Vec<Listen>,
    /// As wsgate writes them.
    pub names: Vec<String>,
    pub locations: Vec<Location<'a>>,
}

/// One `listen`.
#[derive(Clone, Debug)]
pub(super) struct Listen {
    pub address: SocketAddr,
    tls: bool,
    default: bool,
    proxy_protocol: bool,
    reuse_port: bool,
    place: Place,
}

impl<'a> Server<'a> {
    /// `None` where it listens nowhere that wsgate could.
    pub fn read(
        block: &'a Directive,
        http: &'a [Directive],
        draft: &mut Draft,
    ) -> Option<Server<'a>> {
        let scope = scope_of(block, http);
        let mut server = Server {
            listens: Vec::new(),
            names: Vec::new(),
            locations: location::all(&scope),
            place: block.place.clone(),
            scope,
        };
        server.listens(draft);
        server.names(draft);
        (!server.listens.is_empty()).then_some(server)
    }

    fn listens(&mut self, draft: &mut Draft) {
        let lines: Vec<&Directive> =
            self.scope.own().iter().filter(|line| line.is("listen")).collect();
        if lines.is_empty() {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
            let place = self.place.clone();
            self.listens.push(Listen {
                address,
                tls: false,
                default: false,
                proxy_protocol: false,
                reuse_port: false,
                place,
            });
        }
        let all_tls = self.scope.is_on("ssl");
        for line in lines {
            let has = |word: &str| line.arguments.iter().skip(1).any(|other| other == word);
            if has("quic") {
                let instead = "browsers come by TCP as well; drop the Alt-Svc header";
                draft.note(&line.place, super::shown(line), instead);
                continue;
            }
            let Some(address) = listen_address(line.argument(0)) else {
                let instead = "write a [[listener]] with an IP address and a port";
                draft.note(&line.place, super::shown(line), instead);
                continue;
            };
            self.listens.push(Listen {
                address,
                tls: all_tls || has("ssl"),
                default: has("default_server") || has("default"),
                proxy_protocol: has("proxy_protocol"),
                reuse_port: has("reuseport"),
                place: line.place.clone(),
            });
        }
    }

    fn names(&mut self, draft: &mut Draft) {
        for line in self.scope.own().iter().filter(|line| line.is("server_name")) {
            for name in &line.arguments {
                match name.as_str() {
                    "" | "_" | "\"\"" => {}
                    name if name.starts_with('.') => {
                        self.add_name(&name[1..], line, draft);
                        self.add_name(&format!("*{name}"), line, draft);
                    }
                    name => self.add_name(name, line, draft),
                }
            }
        }
    }

    fn add_name(&mut self, name: &str, line: &Directive, draft: &mut Draft) {
        if !is::<HostPattern>(name) {
            let instead = "write a [[route]] with `host` for each name that it stands for: \
                           \"a.example.com\", or \"*.example.com\"";
            draft.note(&line.place, format!("server_name {name}"), instead);
            return;
        }
        let name = name.to_ascii_lowercase();
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.listens.iter().map(|listen| listen.address).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The addresses whose requests came by TLS, or by none.
    fn addresses_by(&self, tls: bool) -> Vec<SocketAddr> {
        let of = |address: &SocketAddr| {
            self.listens.iter().any(|listen| listen.address == *address && listen.tls == tls)
        };
        self.addresses().into_iter().filter(of).collect()
    }

    /// `https` or `http`, where it is always the same.
    pub fn scheme(&self) -> Option<&'static str> {
        match (self.addresses_by(true).is_empty(), self.addresses_by(false).is_empty()) {
            (false, true) => Some("https"),
            (true, false) => Some("http"),
            _ => None,
        }
    }
}

/// `80`, `*:80`, `10.0.0.1:80`, `10.0.0.1`, `[::]:80`, `localhost:80`.
fn listen_address(text: &str) -> Option<SocketAddr> {
    let v4 = |address: Ipv4Addr, port| Some(SocketAddr::new(IpAddr::V4(address), port));
    if let Ok(port) = text.parse::<u16>() {
        return v4(Ipv4Addr::UNSPECIFIED, port).filter(|_| port > 0);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address).filter(|address| address.port() > 0);
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        return Some(SocketAddr::new(address.into(), 80));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return v4(address, 80);
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "80"));
    let port = port.parse().ok().filter(|port| *port > 0)?;
    match host {
        "*" => v4(Ipv4Addr::UNSPECIFIED, port),
        "localhost" => v4(Ipv4Addr::LOCALHOST, port),
        _ => None,
    }
}

/// A [[listener]]: what all servers on one address say of it.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub address: SocketAddr,
    about: Vec<String>,
    reuse_port: bool,
    proxy_protocol: bool,
    timeouts: Vec<(&'static str, String)>,
    header_bytes: Option<u64>,
    tls: bool,
    certificates: Vec<(String, String)>,
    client: Option<(String, &'static str)>,
}

impl Listener {
    pub fn table(&self) -> Table {
        let mut table = Table::new("[[listener]]");
        table.about.clone_from(&self.about);
        table.set("listen", self.address.to_string());
        if self.reuse_port {
            table.set("reuse_port", true);
        }
        if self.proxy_protocol {
            table.set("proxy_protocol", true);
        }
        for (key, time) in &self.timeouts {
            table.set(&format!("timeouts.{key}"), time.as_str());
        }
        if let Some(bytes) = self.header_bytes {
            table.set("limits.header_bytes", format!("{bytes}B"));
        }
        if self.tls {
            let pair = |(chain, key): &(String, String)| {
                inline([("chain", chain.as_str().into()), ("key", key.as_str().into())])
            };
            let pairs: Vec<Value> = self.certificates.iter().map(pair).collect();
            table.set("tls.certificates", pairs);
        }
        if let Some((ca, auth)) = &self.client {
            table.set("tls.client_ca", ca.as_str());
            table.set("tls.client_auth", *auth);
        }
        table
    }
}

/// Writes the listeners, upstreams and routes of every server that upgrades or redirects.
pub(super) fn write(import: &mut Import<'_>) {
    let mut servers = std::mem::take(&mut import.servers);
    let worth: Vec<bool> = servers.iter().map(|server| is_worth(server, import)).collect();
    let mut keep = worth.iter();
    servers.retain(|_| keep.next().copied().unwrap_or_default());
    let all = servers.clone();
    merge_addresses(&mut servers, &all, import);
    for address in addresses_of(&servers) {
        let listener = listener(address, &servers, import);
        import.listeners.push(listener);
    }
    for server in &servers {
        trusted(server, import);
    }
    let siblings = servers.clone();
    for server in &servers {
        routes(server, &siblings, import);
    }
    falls_through(&servers, import);
}

fn addresses_of(servers: &[Server<'_>]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = servers.iter().flat_map(Server::addresses).collect();
    all.sort();
    all.dedup();
    all
}

/// Whether something of the server is carried; else its absence is named.
fn is_worth(server: &Server<'_>, import: &mut Import<'_>) -> bool {
    if redirect_of_server(server).is_some() || server.locations.iter().any(Location::upgrades) {
        return true;
    }
    let only_redirects = server.locations.iter().any(|location| location.redirects(server));
    let proxies = server.locations.iter().any(Location::proxies);
    if only_redirects && !proxies {
        return true;
    }
    let refuses = server
        .scope
        .own()
        .iter()
        .any(|line| line.is("return") && !line.argument(0).starts_with(['2', '3']));
    if !refuses {
        let name = server.names.first().map_or("without a name", String::as_str);
        let what = format!("the server {name}: no location of it upgrades");
        import.draft.note(&server.place, what, "keep nginx for it, or write a [[route]] by hand");
    }
    false
}

/// wsgate cannot listen on 0.0.0.0:80 and on 10.0.0.1:80 at once: the wider takes both.
fn merge_addresses(servers: &mut [Server<'_>], all: &[Server<'_>], import: &mut Import<'_>) {
    let wide = |address: &SocketAddr| address.ip().is_unspecified();
    let wildcards: Vec<SocketAddr> = addresses_of(all).into_iter().filter(wide).collect();
    for listen in servers.iter_mut().flat_map(|server| &mut server.listens) {
        let covers = |wider: &&SocketAddr| {
            wider.port() == listen.address.port()
                && wider.is_ipv4() == listen.address.is_ipv4()
                && **wider != listen.address
        };
        if let Some(wider) = wildcards.iter().find(covers) {
            let what = format!("listen {} beside {wider}", listen.address);
            let instead = "its routes are served on the wider listener too; give each of the two \
                           addresses a [[listener]] of its own, and the routes `listeners`";
            import.draft.note(&listen.place, what, instead);
            listen.address = *wider;
        }
    }
}

fn listener(address: SocketAddr, servers: &[Server<'_>], import: &mut Import<'_>) -> Listener {
    let mut on: Vec<(&Server<'_>, &Listen)> = Vec::new();
    for server in servers {
        on.extend(
            server.listens.iter().filter(|at| at.address == address).map(|listen| (server, listen)),
        );
    }
    // The default server's certificate is for clients that name no other.
    on.sort_by_key(|(_, listen)| !listen.default);
    let mut made = Listener {
        address,
        about: Vec::new(),
        reuse_port: on.iter().any(|(_, listen)| listen.reuse_port),
        proxy_protocol: on.iter().any(|(_, listen)| listen.proxy_protocol),
        timeouts: Vec::new(),
        header_bytes: None,
        tls: on.iter().any(|(_, listen)| listen.tls),
        certificates: Vec::new(),
        client: None,
    };
    if let Some((server, _)) = on.first() {
        listener_bounds(server, &mut made);
    }
    if made.tls {
        on.iter().for_each(|(server, listen)| listener_tls(server, listen, &mut made, import));
    }
    if made.tls && made.certificates.is_empty() {
        made.tls = false;
        made.client = None;
        let Some((_, listen)) = on.first() else { return made };
        let what = format!("TLS on {address}: no certificate for it could be read");
        import.draft.note(&listen.place, what, "add tls.certificates to this [[listener]]");
    }
    made
}

fn listener_bounds(server: &Server<'_>, made: &mut Listener) {
    for (directive, key) in
        [("client_header_timeout", "header"), ("keepalive_timeout", "keepalive")]
    {
        let time = server.scope.word(directive).and_then(words::time);
        if let Some(time) = time.filter(|time| *time > 0) {
            made.timeouts.push((key, words::duration(time)));
        }
    }
    if let Some(line) = server.scope.one("large_client_header_buffers") {
        let size = bytes(line.argument(1)).zip(line.argument(0).parse::<u64>().ok());
        let size = size.and_then(|(size, count)| size.checked_mul(count));
        made.header_bytes = size.map(|size| size.clamp(8192, 16 << 20));
    }
}

/// `8k`, `1m`, `512`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let (number, scale) = match text.strip_suffix('k') {
        Some(number) => (number.to_owned(), 1u64 << 10),
        None => match text.strip_suffix('m') {
            Some(number) => (number.to_owned(), 1 << 20),
            None => (text, 1),
        },
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

fn listener_tls(
    server: &Server<'_>,
    listen: &Listen,
    made: &mut Listener,
    import: &mut Import<'_>,
) {
    let chains = server.scope.all(&["ssl_certificate"]);
    let keys = server.scope.all(&["ssl_certificate_key"]);
    for (chain, key) in chains.iter().zip(&keys) {
        let foreign = |name: &str| {
            name.is_empty() || ["$", "data:", "engine:"].iter().any(|it| name.contains(it))
        };
        if foreign(chain.argument(0)) || foreign(key.argument(0)) {
            let instead = "write a file's name into tls.certificates of the [[listener]]";
            import.draft.note(&chain.place, super::shown(chain), instead);
            continue;
        }
        let pair = (import.file(chain.argument(0)), import.file(key.argument(0)));
        if !made.certificates.contains(&pair) {
            made.certificates.push(pair);
        }
    }
    let auth = match server.scope.word("ssl_verify_client") {
        Some("on") => "require",
        Some("optional") => "request",
        Some("optional_no_ca") => {
            let instead = "wsgate verifies every certificate that is shown: write tls.client_ca";
            import.draft.note(&listen.place, "ssl_verify_client optional_no_ca", instead);
            return;
        }
        _ => return,
    };
    let Some(ca) = server.scope.word("ssl_client_certificate").filter(|name| !name.is_empty())
    else {
        return;
    };
    let client = (import.file(ca), auth);
    match &made.client {
        Some(other) if *other != client => {
            let what =
                "client certificates that differ from those of another server on one address";
            let instead = "give the servers addresses of their own: wsgate asks before it knows \
                           which name is meant";
            import.draft.note(&listen.place, what, instead);
        }
        _ => {
            made.about.push(
                "Client certificates are asked for on the whole listener, by every name."
                    .to_owned(),
            );
            made.about.dedup();
            made.client = Some(client);
        }
    }
}

/// `set_real_ip_from`, and whom the PROXY header is believed of.
fn trusted(server: &Server<'_>, import: &mut Import<'_>) {
    let header = server.scope.one("real_ip_header");
    let name = header.map_or("X-Real-IP", |line| line.argument(0));
    let lines = server.scope.all(&["set_real_ip_from"]);
    let believed = ["x-forwarded-for", "proxy_protocol"];
    if !lines.is_empty() && !believed.contains(&name.to_ascii_lowercase().as_str()) {
        let place = header.map_or(&server.place, |line| &line.place);
        let what = format!("the client's address from {name}");
        let instead = "wsgate reads it from X-Forwarded-For or the PROXY header; have the proxy in \
                       front send one of these, then name it in trusted_proxies";
        import.draft.note(place, what, instead);
        return;
    }
    for line in &lines {
        match words::network(line.argument(0)) {
            Some(network) if !import.trusted.contains(&network) => import.trusted.push(network),
            Some(_) => {}
            None => {
                let instead = "write its addresses into trusted_proxies";
                import.draft.note(&line.place, super::shown(line), instead);
            }
        }
    }
    let proxied = server.listens.iter().find(|listen| listen.proxy_protocol);
    if let Some(listen) = proxied.filter(|_| import.trusted.is_empty()) {
        let private =
            ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
        import.trusted.extend(private.iter().filter_map(|text| words::network(text)));
        let what = "proxy_protocol from anybody";
        let instead = "trusted_proxies holds the private networks now: write there the addresses \
                       of the balancer, which alone is believed";
        import.draft.note(&listen.place, what, instead);
    }
}

/// The whole server sends its clients to https: the names that are meant; empty: all of them.
fn redirect_of_server(server: &Server<'_>) -> Option<Vec<String>> {
    let own = server.scope.own();
    let straight = own.iter().find(|line| line.is("return") || line.is("rewrite"));
    if straight.is_some_and(|line| location::is_to_https(line, server)) {
        return Some(Vec::new());
    }
    // What certbot writes: one `if` for each name, and 404 behind them.
    let refuses = own.iter().any(|line| line.is("return") && line.argument(0) == "404");
    let named = |line: &Directive| {
        let host = line.is("if").then(|| condition(line))?;
        let host = host.strip_prefix("$host = ")?.to_owned();
        line.inside().iter().any(|inner| location::is_to_https(inner, server)).then_some(host)
    };
    let hosts: Vec<String> = own.iter().filter_map(named).collect();
    (refuses && !hosts.is_empty()).then_some(hosts)
}

/// Plain requests of a server that speaks both go to https.
fn redirects_plain(server: &Server<'_>) -> bool {
    server.scope.own().iter().any(|line| {
        let plain = ["$scheme = http", "$scheme != https", "$https != on", "$https = "];
        line.is("if")
            && plain.contains(&condition(line).as_str())
            && line.inside().iter().any(|inner| location::is_to_https(inner, server))
    })
}

/// `($host = a)` as `$host = a`.
pub(super) fn condition(line: &Directive) -> String {
    let words = line.arguments.join(" ");
    let words = words.trim().trim_start_matches('(').trim_end_matches(')');
    words.replace('"', "").split_whitespace().collect::<Vec<_>>().join(" ")
        + if words.trim_end().ends_with('=') { " " } else { "" }
}

/// Where a server's routes are: one host (or any) on some listeners (empty: all).
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub host: Option<String>,
    pub listeners: Vec<SocketAddr>,
    pub why: Option<String>,
}

fn routes(server: &Server<'_>, all: &[Server<'_>], import: &mut Import<'_>) {
    if let Some(hosts) = redirect_of_server(server) {
        let mut spots = spots(server, &server.addresses(), all, import);
        spots.retain(|spot| {
            hosts.is_empty() || spot.host.as_ref().is_none_or(|host| hosts.contains(host))
        });
        if !hosts.is_empty() && spots.iter().all(|spot| spot.host.is_none()) {
            let listeners = spots.first().map(|spot| spot.listeners.clone()).unwrap_or_default();
            spots = hosts
                .into_iter()
                .filter(|host| is::<HostPattern>(host))
                .map(|host| Spot { host: Some(host), listeners: listeners.clone(), why: None })
                .collect();
        }
        redirect(&spots, "/", "", import);
        return;
    }
    import.strangers(server.scope.own());
    let mut addresses = server.addresses();
    let plain = server.addresses_by(false);
    if redirects_plain(server) && !plain.is_empty() {
        redirect(&spots(server, &plain, all, import), "/", "", import);
        addresses = server.addresses_by(true);
    }
    conditions(server, import);
    let spots = spots(server, &addresses, all, import);
    location::routes(server, &spots, import);
}

/// Names the conditions of a server that were not understood.
fn conditions(server: &Server<'_>, import: &mut Import<'_>) {
    for line in server.scope.own().iter().filter(|line| line.is("if")) {
        let understood = line.inside().iter().any(|inner| location::is_to_https(inner, server));
        if !understood {
            let instead = "let the server behind the edge decide it, or write a [[route]] for it";
            import.draft.note(&line.place, super::shown(line), instead);
        }
    }
}

fn spots(
    server: &Server<'_>,
    addresses: &[SocketAddr],
    all: &[Server<'_>],
    import: &Import<'_>,
) -> Vec<Spot> {
    let everywhere = import.listeners.iter().all(|one| addresses.contains(&one.address));
    let bound = |on: &[SocketAddr]| match on.len() == import.listeners.len() && everywhere {
        true => Vec::new(),
        false => on.to_vec(),
    };
    let is_default = |address: &&SocketAddr| {
        let on = |other: &&Server<'_>| other.addresses().contains(address);
        let says = |other: &&Server<'_>| {
            other.listens.iter().any(|listen| listen.address == **address && listen.default)
        };
        let chosen = all.iter().find(says).or_else(|| all.iter().find(on));
        chosen.is_some_and(|chosen| chosen.place == server.place)
    };
    let default: Vec<SocketAddr> = addresses.iter().filter(is_default).copied().collect();
    let rivals = all.iter().any(|other| {
        other.place != server.place
            && other.addresses().iter().any(|address| addresses.contains(address))
            && other.names.iter().any(|name| name.starts_with("*."))
    });
    let mut spots = Vec::new();
    if default.len() < addresses.len() || rivals {
        let named = |host: &String| Spot {
            host: Some(host.clone()),
            listeners: bound(addresses),
            why: None,
        };
        spots.extend(server.names.iter().map(named));
    }
    if !default.is_empty() {
        let why = server.names.first().map(|name| {
            format!(
                "nginx serves this by every name, as the default server; host = \"{name}\" would \
                 bind it to its own"
            )
        });
        spots.push(Spot { host: None, listeners: bound(&default), why });
    }
    spots
}

/// Writes a redirect at each of these spots.
pub(super) fn redirect(spots: &[Spot], path: &str, why: &str, import: &mut Import<'_>) {
    for spot in spots {
        let mut table = Table::new("[[route]]");
        if !why.is_empty() {
            table.say(why);
        }
        let host = spot.host.as_deref().unwrap_or("any host");
        let name = import.draft.free_name("[[route]]", &format!("{host}{path} to https"));
        table.set("name", name);
        place(spot, path, &mut table);
        table.set("redirect", "https");
        add(table, spot, path, import);
    }
}

/// Adds a route, unless there is one for its requests already or there are too many.
pub(super) fn add(table: Table, spot: &Spot, path: &str, import: &mut Import<'_>) -> bool {
    let pattern = path.trim_end_matches(|letter| letter == '/' && !path.starts_with('='));
    let meets = |taken: &(Option<String>, String, Vec<SocketAddr>)| {
        let both = |at: &SocketAddr| spot.listeners.contains(at);
        let shared = taken.2.is_empty() || spot.listeners.is_empty() || taken.2.iter().any(both);
        taken.0 == spot.host && taken.1 == pattern && shared
    };
    if import.taken.len() >= MOST_ROUTES || import.taken.iter().any(meets) {
        return false;
    }
    import.taken.push((spot.host.clone(), pattern.to_owned(), spot.listeners.clone()));
    import.draft.tables.push(table);
    true
}

/// Writes where a route is.
pub(super) fn place(spot: &Spot, path: &str, table: &mut Table) {
    if let Some(host) = &spot.host {
        table.set("host", host.as_str());
    } else if let Some(why) = &spot.why {
        table.say(why.as_str());
    }
    table.set("path", path);
    if !spot.listeners.is_empty() {
        let listeners: Vec<String> = spot.listeners.iter().map(ToString::to_string).collect();
        table.set("listeners", listeners);
    }
}

/// A name's own server need not have every path: wsgate then asks the server for any name.
fn falls_through(servers: &[Server<'_>], import: &mut Import<'_>) {
    let is_root = |location: &Location<'_>| location.matching == Matching::Prefix("/".to_owned());
    let rootless = |server: &&Server<'_>| {
        redirect_of_server(server).is_none() && !server.locations.iter().any(is_root)
    };
    let shares = |server: &Server<'_>| {
        servers.iter().any(|other| {
            other.place != server.place
                && other.addresses().iter().any(|address| server.addresses().contains(address))
        })
    };
    let lacking: Vec<&str> = servers
        .iter()
        .filter(rootless)
        .filter(|server| shares(server))
        .filter_map(|server| server.names.first().map(String::as_str))
        .take(8)
        .collect();
    if !lacking.is_empty() {
        import.draft.head.push(format!(
            "A request to {} for a path that has no route of that name goes on to the routes \
             without `host`; nginx answers 404 or serves a file.",
            lacking.join(", ")
        ));
    }
}

//! Locations: what of each becomes a route, and what of that route differs.

use toml::Value;

use super::super::draft::{Table, inline, is};
use super::paths::{Change, Matching, replaced, rewrite, simple};
use super::scope::Scope;
use super::server::{self, Server, Spot};
use super::syntax::Directive;
use super::{Import, balancer, gates, headers, words};
use crate::config::import::Place;
use crate::config::names::PathPrefix;
use crate::route::PathPattern;

/// What nginx waits for, unless it is told otherwise.
const READ_TIMEOUT: u64 = 60_000;

/// One `location` block.
#[derive(Clone, Debug)]
pub(super) struct Location<'a> {
    pub matching: Matching,
    pub scope: Scope<'a>,
    pub place: Place,
}

/// All locations of a block, those within others too.
pub(super) fn all<'a>(scope: &Scope<'a>) -> Vec<Location<'a>> {
    let mut found = Vec::new();
    for line in scope.own().iter().filter(|line| line.is("location")) {
        let location = Location {
            matching: Matching::of(&line.arguments),
            scope: scope.within(line.inside()),
            place: line.place.clone(),
        };
        let inner = all(&location.scope);
        found.push(location);
        found.extend(inner);
    }
    found
}

impl<'a> Location<'a> {
    fn own(&self, name: &str) -> Option<&'a Directive> {
        self.scope.own().iter().find(|line| line.is(name))
    }

    fn target(&self) -> Option<&'a Directive> {
        self.own("proxy_pass")
    }

    pub fn proxies(&self) -> bool {
        self.target().is_some()
    }

    /// Whether a WebSocket comes through it.
    pub fn upgrades(&self) -> bool {
        let sets = |line: &&Directive| {
            let value = line.argument(1).to_ascii_lowercase();
            line.argument(0).eq_ignore_ascii_case("upgrade")
                && (value.contains("upgrade") || value.contains("websocket"))
        };
        self.proxies() && self.scope.all(&["proxy_set_header"]).iter().any(sets)
    }

    pub fn redirects(&self, server: &Server<'_>) -> bool {
        let line = self.own("return").or_else(|| self.own("rewrite"));
        line.is_some_and(|line| is_to_https(line, server))
    }
}

/// `return 301 https://$host$request_uri` and its like: to the same host and path.
pub(super) fn is_to_https(line: &Directive, server: &Server<'_>) -> bool {
    let target = match (line.name.as_str(), line.argument(0)) {
        ("return", "301" | "302" | "303" | "307" | "308") => line.argument(1),
        ("return", target) => target,
        ("rewrite", "^" | "^.*" | "^(.*)" | "^(.*)$" | "^/(.*)" | "^/(.*)$" | ".*" | "(.*)") => {
            line.argument(1)
        }
        _ => return false,
    };
    let target = server.scope.expanded(target);
    let Some(rest) = target.strip_prefix("https://") else { return false };
    let tails = ["$request_uri?", "$request_uri", "$uri$is_args$args", "$uri", "$1", "/$1"];
    let host = tails
        .iter()
        .find_map(|tail| rest.strip_suffix(tail))
        .map(|host| host.trim_end_matches(":443"));
    match host {
        Some("$host" | "$http_host") => true,
        Some("$server_name") => server.names.len() == 1,
        Some(name) => matches!(server.names.as_slice(), [only] if only == name),
        None => false,
    }
}

/// A location as routes have it: which paths, and what is to be said of them.
struct Found {
    paths: Vec<Matching>,
    about: Vec<String>,
}

/// Writes a route for each location at each spot.
pub(super) fn routes(server: &Server<'_>, spots: &[Spot], import: &mut Import<'_>) {
    for location in &server.locations {
        one(location, server, spots, import);
    }
}

fn one(location: &Location<'_>, server: &Server<'_>, spots: &[Spot], import: &mut Import<'_>) {
    if matches!(location.matching, Matching::Named(_)) || location.own("internal").is_some() {
        return;
    }
    if location.redirects(server)
        && let Some(path) = pattern(&location.matching)
    {
        let why = "nginx's own status may be another than 301, and its host one of its names.";
        server::redirect(spots, &path, why, import);
        return;
    }
    let served = served(location, server);
    if !served.proxies() {
        unserved(location, server, import);
        return;
    }
    if location.target().is_none() {
        let instead = "wsgate serves no files: every request goes to the server behind it";
        let what = format!("the files of location {}", location.matching.shown());
        import.draft.note(&location.place, what, instead);
    }
    let Some(found) = found(location, server, import) else { return };
    import.strangers(served.scope.own());
    conditions(&served, import);
    for matching in &found.paths {
        let Some(path) = pattern(matching) else {
            let what = format!("location {}", location.matching.shown());
            import.draft.note(&location.place, what, "no path of a route can be this one");
            continue;
        };
        let Some(route) = Draft::of(&served, matching, server, import) else { return };
        for spot in spots {
            write(&route, &found, spot, &path, &served, import);
        }
    }
}

/// The location that `try_files` falls back on stands in for the one that has it.
fn served<'a>(location: &Location<'a>, server: &Server<'a>) -> Location<'a> {
    let fallback = || {
        let name = location.own("try_files")?.arguments.last()?;
        let named = |other: &&Location<'a>| other.matching == Matching::Named(name.clone());
        server.locations.iter().find(named).cloned()
    };
    match location.proxies() {
        true => location.clone(),
        false => fallback().unwrap_or_else(|| location.clone()),
    }
}

/// Names what was at a location that passes nothing on.
fn unserved(location: &Location<'_>, server: &Server<'_>, import: &mut Import<'_>) {
    let refused = location.own("return").is_some_and(|line| line.argument(0).starts_with('4'))
        || location.own("deny").is_some_and(|line| line.argument(0) == "all");
    let covers = |other: &Location<'_>| match (&other.matching, &location.matching) {
        _ if !served(other, server).proxies() => false,
        (Matching::Named(_), _) => false,
        (Matching::Prefix(outer), Matching::Prefix(path) | Matching::Exact(path)) => {
            path.starts_with(outer.as_str())
        }
        (Matching::Exact(outer), Matching::Prefix(path) | Matching::Exact(path)) => outer == path,
        // What a pattern matches cannot be set against the other: better named than lost.
        _ => true,
    };
    let covered = server.locations.iter().any(covers);
    let path = location.matching.shown();
    if refused && !covered {
        return; // No route is 404 as well.
    }
    if !location.scope.own().iter().any(|line| !line.is("location")) {
        return; // Nothing but a bracket around others.
    }
    let (what, instead) = match refused {
        true => (
            format!("the refusal of location {path}"),
            "requests there reach the server behind the wider route; let it refuse them",
        ),
        false => (
            format!("location {path}"),
            "wsgate serves no files and speaks HTTP alone: let the server behind it answer there, \
             or keep nginx for it",
        ),
    };
    import.draft.note(&location.place, what, instead);
}

fn conditions(location: &Location<'_>, import: &mut Import<'_>) {
    for line in location.scope.own().iter().filter(|line| line.is("if") || line.is("limit_except"))
    {
        let instead = "let the server behind the edge decide it, or write a [[route]] for it";
        import.draft.note(&line.place, super::shown(line), instead);
    }
}

/// The paths of a location, and where they differ from nginx's.
fn found(location: &Location<'_>, server: &Server<'_>, import: &mut Import<'_>) -> Option<Found> {
    match &location.matching {
        Matching::Regex { pattern, caseless } => {
            let Some(paths) = simple(pattern) else {
                let instead = "write a [[route]] for each path that it stands for, with a prefix or \
                               \"=\" and the whole path";
                let what = format!("location {}", location.matching.shown());
                import.draft.note(&location.place, what, instead);
                return None;
            };
            let mut about = vec![format!(
                "From location {}: nginx asks regular expressions before longer prefixes; wsgate \
                 goes by the longest path.",
                location.matching.shown()
            )];
            if *caseless {
                about.push("nginx took upper and lower case for the same here.".to_owned());
            }
            for path in &paths {
                about.extend(boundary(path, server));
            }
            about.dedup();
            Some(Found { paths, about })
        }
        matching => {
            let about = boundary(matching, server);
            let slashed = |path: &str| Matching::Prefix(format!("{path}/"));
            let twin =
                |path: &str| server.locations.iter().any(|one| one.matching == slashed(path));
            let paths = match matching {
                // Both would be the same prefix.
                Matching::Prefix(path) if !path.ends_with('/') && twin(path) => {
                    vec![Matching::Exact(path.clone())]
                }
                other => vec![other.clone()],
            };
            Some(Found { paths, about: about.into_iter().collect() })
        }
    }
}

/// Where a prefix by letters and one by segments part.
fn boundary(path: &Matching, server: &Server<'_>) -> Option<String> {
    let Matching::Prefix(path) = path else { return None };
    let bare = path.strip_suffix('/')?;
    if bare.is_empty() {
        return None;
    }
    let exact = |one: &Location<'_>| one.matching == Matching::Exact(bare.to_owned());
    let shorter = |one: &Location<'_>| one.matching == Matching::Prefix(bare.to_owned());
    if server.locations.iter().any(|one| exact(one) || shorter(one)) {
        return None;
    }
    Some(format!(
        "{bare} itself comes here too; nginx sends it on to {path} (301), or to a shorter location."
    ))
}

/// As a route writes it.
fn pattern(matching: &Matching) -> Option<String> {
    let path = match matching {
        Matching::Exact(path) => format!("={path}"),
        Matching::Prefix(path) if path == "/" => path.clone(),
        Matching::Prefix(path) => path.trim_end_matches('/').to_owned(),
        Matching::Regex { .. } | Matching::Named(_) => return None,
    };
    is::<PathPattern>(&path).then_some(path)
}

/// All of a route but its place.
struct Draft {
    lines: Table,
}

impl Draft {
    fn of(
        location: &Location<'_>,
        matching: &Matching,
        server: &Server<'_>,
        import: &mut Import<'_>,
    ) -> Option<Draft> {
        let mut lines = Table::new("[[route]]");
        let line = location.target()?;
        let target = balancer::Target::of(line, location, import)?;
        let upstream = balancer::upstream(&target, location, import)?;
        lines.set("upstream", upstream);
        let change = change(location, matching, target.path.as_deref(), import);
        rewritten(change, line, &mut lines, import);
        match location.upgrades() {
            true => lines.set_since(
                "plain_http",
                "proxy",
                "As in nginx, plain requests pass too; take it out where only WebSockets come.",
            ),
            false => lines.set_since(
                "plain_http",
                "proxy",
                "nginx let no WebSocket through here; wsgate does.",
            ),
        }
        gates::clients(location, &mut lines, import);
        lines.set_since(
            "origin",
            "any",
            "nginx asks for none. A page of any site may connect with its visitors' cookies: write \
             origin = { allow = [\"https://…\"] } with your own, or take this out for pages of the \
             host itself.",
        );
        gates::authorize(location, server, &mut lines, import);
        gates::limits(location, &mut lines, import);
        bounds(&mut lines);
        times(location, &mut lines);
        headers::edits(location, server, &mut lines, import);
        Some(Draft { lines })
    }
}

/// What happens to the path.
fn change(
    location: &Location<'_>,
    matching: &Matching,
    path: Option<&str>,
    import: &mut Import<'_>,
) -> Change {
    let rewrites: Vec<&Directive> = location.scope.all(&["rewrite"]);
    let own = rewrites.iter().filter(|line| location.scope.own().iter().any(|it| it == **line));
    let mut change = path.map_or(Change::default(), |path| replaced(matching, path));
    for line in own {
        match rewrite(line.argument(0), line.argument(1)) {
            Some(rewritten) if path.is_none() || path == Some("/") => change = rewritten,
            _ => {
                let instead = "write rewrite = { strip_prefix = \"/…\", add_prefix = \"/…\" } if \
                               that is what it does, or let the server take the path as it comes";
                import.draft.note(&line.place, super::shown(line), instead);
            }
        }
    }
    change
}

fn rewritten(change: Change, line: &Directive, lines: &mut Table, import: &mut Import<'_>) {
    let parts: Vec<(&str, &String)> =
        [("strip_prefix", &change.strip), ("add_prefix", &change.add)]
            .into_iter()
            .filter_map(|(key, part)| part.as_ref().map(|part| (key, part)))
            .collect();
    if parts.is_empty() {
        return;
    }
    if parts.iter().any(|(_, part)| !is::<PathPrefix>(part)) {
        import.draft.note(&line.place, super::shown(line), "no path of wsgate can be this one");
        return;
    }
    let parts = parts.into_iter().map(|(key, part)| (key.to_owned(), part.as_str().into()));
    lines.set("rewrite", Value::Table(parts.collect()));
    lines.explain(change.differs.unwrap_or_default());
}

/// What nginx does not bound.
fn bounds(lines: &mut Table) {
    lines.set_since(
        "limits.max_frame_size",
        "off",
        "nginx bounds none of these. Without these lines wsgate has its own bounds: frames of 1 \
         MiB, messages of 4 MiB, 10 control frames a second, a frame that stalls or a reader that \
         is too slow is closed, and dead connections are found by a ping every 30 s.",
    );
    lines.set("limits.max_message_size", "off");
    lines.set("limits.control_frames", "1000000/s");
    lines.set("limits.frame_stall", "off");
    lines.set("limits.slow_consumer", "off");
    lines.set(
        "heartbeat",
        inline([
            ("interval", "off".into()),
            ("timeout", "off".into()),
            ("upstream", inline([("interval", "off".into())])),
            ("forward", true.into()),
        ]),
    );
}

/// `proxy_read_timeout`, or its default.
pub(super) fn read_timeout(location: &Location<'_>) -> u64 {
    let time = location.scope.word("proxy_read_timeout").and_then(words::time);
    time.filter(|time| *time > 0).unwrap_or(READ_TIMEOUT)
}

fn times(location: &Location<'_>, lines: &mut Table) {
    let time = words::duration(read_timeout(location));
    let why = match location.scope.word("proxy_read_timeout") {
        Some(_) => {
            "From proxy_read_timeout: so long without a byte of the upstream in nginx, without a \
             message of either side here; pings do not count. A heartbeat does better: \"off\" here \
             and the `heartbeat` line taken out."
        }
        None => {
            "nginx's default: so long without a byte of the upstream ends a WebSocket there, without \
             a message of either side here; pings do not count, so write \"off\" where the server \
             sends nothing else, and take the `heartbeat` line out."
        }
    };
    lines.set("timeouts.response", time.as_str());
    lines.set_since("timeouts.idle", time.as_str(), why);
}

fn write(
    route: &Draft,
    found: &Found,
    spot: &Spot,
    path: &str,
    location: &Location<'_>,
    import: &mut Import<'_>,
) {
    let mut table = Table::new("[[route]]");
    table.say(format!("From {}", location.place));
    found.about.iter().for_each(|words| table.say(words.as_str()));
    let letters = path != "/" && !path.starts_with('=');
    if letters && !matches!(&location.matching, Matching::Prefix(own) if own.ends_with('/')) {
        table.say(format!(
            "nginx compares letters, so {path}x came here too; wsgate compares whole segments: \
             {path} and {path}/…"
        ));
    }
    let wanted = format!("{}{}", spot.host.as_deref().unwrap_or(""), path);
    table.set("name", import.draft.free_name("[[route]]", &wanted));
    server::place(spot, path, &mut table);
    let mut lines = route.lines.clone();
    for words in lines.about.drain(..) {
        table.say(words);
    }
    table.lines.append(&mut lines.lines);
    if !server::add(table, spot, path, import) {
        let what = format!("a further route of {wanted}");
        let instead = "nginx takes the first of two servers with one name too; keep one";
        import.draft.note(&location.place, what, instead);
    }
}

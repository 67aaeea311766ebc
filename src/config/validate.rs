//! What keys have to do with each other.
//!
//! Each rule looks at the file as it was read and adds what it finds. A field that is empty had its
//! fault already, so a rule that needs it stays silent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::diagnostics::{Diagnostic, Severity, Span};
use super::file::{
    Authorize, Drain, File, Handshakes, Limits, Listener, ListenerTls, Route, Upstream,
};
use super::names::{Headers, Name};
use super::origins::StatedOrigin;
use super::quantities::{Bytes, Lasting, OrOff, show_bytes, show_duration};
use super::reader::{Faults, Field, nearest, refuse_twins};
use super::{
    Compression, EndpointAddress, Parsed, Utf8, admin, build, validate_balancing as balancing,
    validate_token as token,
};
use crate::plan::{Action, Payer};
use crate::route::{HostPattern, PathPattern};

/// Judges a file that was read with these faults; relative names in it begin at `folder`.
pub(super) fn config(file: File, faults: Faults, folder: &Path) -> Result<Parsed, Faults> {
    let mut found = faults;
    listeners(&file, &mut found);
    admin::validate(&file, &mut found);
    upstreams(&file, &mut found);
    routes(&file, &mut found);
    drain(&file, &mut found);
    let (faults, warnings): (Faults, Faults) =
        found.into_iter().partition(|found| found.severity == Severity::Fault);
    if !faults.is_empty() {
        return Err(faults.into_iter().chain(warnings).collect());
    }
    let built = build::config(file, folder);
    let (config, build::Named { files, variables }) =
        built.expect("a file without fault has every value");
    Ok(Parsed { config, warnings, files, variables })
}

pub(super) fn all_listeners(file: &File) -> &[Listener] {
    file.listener.get().map_or(&[], |tables| &tables.0)
}

pub(super) fn all_upstreams(file: &File) -> &[Upstream] {
    file.upstream.get().map_or(&[], |tables| &tables.0)
}

pub(super) fn all_routes(file: &File) -> &[Route] {
    file.route.get().map_or(&[], |tables| &tables.0)
}

/// A fault when there is none of a table that every file needs.
fn refuse_none<T>(
    tables: &Field<super::reader::Tables<T>>,
    name: &str,
    help: &str,
    found: &mut Faults,
) {
    if tables.get().is_none_or(|tables| !tables.0.is_empty()) {
        return;
    }
    let message = format!("there is no [[{name}]]");
    let fault = match tables.written {
        true => Diagnostic::fault(tables.span.clone(), message).label("this list is empty"),
        false => Diagnostic::of_the_file(message),
    };
    found.push(fault.help(help));
}

// ---- listeners ----

fn listeners(file: &File, found: &mut Faults) {
    let help = "add one to say where clients connect: [[listener]] with listen = \"0.0.0.0:8443\"";
    refuse_none(&file.listener, "listener", help, found);
    refuse_shared_addresses(all_listeners(file), found);
    proxy_protocol(file, found);
    for tls in all_listeners(file).iter().filter_map(|listener| listener.tls.get()?.as_ref()) {
        listener_tls(tls, found);
    }
}

fn refuse_shared_addresses(listeners: &[Listener], found: &mut Faults) {
    for (index, listener) in listeners.iter().enumerate() {
        let taken = listeners[..index].iter().find(|earlier| collide(earlier, listener));
        let (Some(earlier), Some(address)) = (taken, listener.listen.get()) else { continue };
        let message = format!("two listeners want {}", address.0);
        let fault = Diagnostic::fault(listener.listen.span.clone(), message).label("wanted again");
        found.push(
            fault
                .related(earlier.listen.span.clone(), "taken here")
                .help("give each listener its own address or port"),
        );
    }
}

/// Whether the kernel would refuse the second: 0.0.0.0 and :: take their port on all addresses of
/// the family, unless both may share it. Port 0 is a new one each time.
fn collide(left: &Listener, right: &Listener) -> bool {
    let (Some(one), Some(other)) = (left.listen.get(), right.listen.get()) else {
        return false;
    };
    let (one, other) = (one.0, other.0);
    if one.port() == 0 || one.port() != other.port() {
        return false;
    }
    let shared = left.reuse_port.get() == Some(&true) && right.reuse_port.get() == Some(&true);
    let covers = one.ip().is_unspecified() || other.ip().is_unspecified();
    one == other || (covers && one.is_ipv4() == other.is_ipv4() && !shared)
}

/// A header that anybody may send would let anybody be whoever they like.
fn proxy_protocol(file: &File, found: &mut Faults) {
    let Some(proxies) = file.server.get().map(|server| &server.trusted_proxies) else { return };
    // Entries at fault are left out of the list, and were complained of.
    let complained = || found.iter().any(|fault| within(fault, &proxies.span));
    if proxies.get().is_none_or(|listed| !listed.is_empty()) || proxies.written && complained() {
        return;
    }
    for listener in all_listeners(file).iter().filter(|it| it.proxy_protocol.get() == Some(&true)) {
        let message = "`proxy_protocol` without `trusted_proxies`";
        let fault = Diagnostic::fault(listener.proxy_protocol.span.clone(), message)
            .label("nobody may send the header, so every connection would be closed")
            .help("name the balancers in front: [server] with trusted_proxies = [\"10.0.0.0/8\"]");
        found.push(fault);
    }
}

fn listener_tls(tls: &ListenerTls, found: &mut Faults) {
    if tls.certificates.written && tls.certificates.get().is_some_and(Vec::is_empty) {
        // Entries at fault are left out of the list, and were complained of.
        let already = |fault: &Diagnostic| within(fault, &tls.certificates.span);
        if !found.iter().any(already) {
            let fault = Diagnostic::fault(tls.certificates.span.clone(), "no certificate")
                .label("this list is empty")
                .help("write [{ chain = \"certs/server.pem\", key = \"certs/server.key\" }]");
            found.push(fault);
        }
    }
    if tls.client_auth.written && tls.client_ca.get().is_some_and(Option::is_none) {
        let message = "`client_auth` without `client_ca`";
        let fault = Diagnostic::fault(tls.client_auth.span.clone(), message)
            .label("no authority to check client certificates against")
            .help("add client_ca = \"…\" with the authorities' certificates, or take this out");
        found.push(fault);
    }
}

pub(super) fn within(fault: &Diagnostic, span: &Span) -> bool {
    fault.span.as_ref().is_some_and(|at| span.start <= at.start && at.end <= span.end)
}

// ---- upstreams ----

fn upstreams(file: &File, found: &mut Faults) {
    let help = "add one to say where requests go: [[upstream]] with name = \"app\" and \
                endpoints = [\"127.0.0.1:9001\"]";
    refuse_none(&file.upstream, "upstream", help, found);
    let names = all_upstreams(file).iter().map(|upstream| &upstream.name);
    refuse_twin_names(names, "upstream", found);
    for upstream in all_upstreams(file) {
        endpoints(upstream, found);
        source_addresses(upstream, found);
        names_of_sockets(upstream, found);
        balancing::upstream(upstream, file, found);
    }
    balancing::shared_cookies(file, found);
}

fn refuse_twin_names<'a>(
    names: impl Iterator<Item = &'a Field<Spanned<Name>>>,
    what: &str,
    found: &mut Faults,
) {
    let names = names.filter_map(Field::get).map(|name| (name.get_ref(), name.span()));
    refuse_twins(names, found, |name| {
        let message = format!("two [[{what}]] tables are called {:?}", name.0);
        (message, "give each a name of its own".to_owned())
    });
}

fn endpoints(upstream: &Upstream, found: &mut Faults) {
    let Some(endpoints) = upstream.endpoints.get() else { return };
    let endpoints = endpoints.as_deref().unwrap_or_default();
    if endpoints.is_empty() {
        found.extend(no_endpoint(upstream, found));
    }
    let addresses =
        endpoints.iter().map(|endpoint| (&endpoint.get_ref().0.address, endpoint.span()));
    refuse_twins(addresses, found, |_| {
        let help = "each endpoint stands once; take one out";
        ("one endpoint is listed twice".to_owned(), help.to_owned())
    });
}

/// A list may be empty beside `resolve`, or because all its entries were complained of.
fn no_endpoint(upstream: &Upstream, found: &Faults) -> Option<Diagnostic> {
    let span = upstream.endpoints.span.clone();
    let fault = match upstream.endpoints.written {
        _ if upstream.resolve.written => return None,
        true if found.iter().any(|fault| within(fault, &span)) => return None,
        true => Diagnostic::fault(span, "no endpoint").label("this list is empty"),
        false => Diagnostic::fault(span, "[[upstream]] has no `endpoints`")
            .label("`endpoints` is missing here"),
    };
    Some(fault.help(
        "write where its servers listen: endpoints = [\"127.0.0.1:9001\"]\nor a name whose every \
         address is one: resolve = { name = \"chat.default.svc:9001\" }",
    ))
}

fn source_addresses(upstream: &Upstream, found: &mut Faults) {
    let sources = upstream.source_addresses.get().into_iter().flatten();
    let sources = sources.map(|source| (*source.get_ref(), source.span()));
    refuse_twins(sources, found, |source| {
        (format!("the source address {} is listed twice", source.0), "take one out".to_owned())
    });
}

/// A certificate is for a name or an IP address, and a path in this machine has neither.
fn names_of_sockets(upstream: &Upstream, found: &mut Faults) {
    let Some(Some(tls)) = upstream.tls.get() else { return };
    let named = tls.server_name.written || upstream.host.get().is_none_or(|host| host.0.is_some());
    let is_socket = |endpoint: &&Spanned<super::names::Endpoint>| {
        matches!(endpoint.get_ref().0.address, EndpointAddress::Unix(_))
    };
    let unnamed = upstream.endpoints.get().into_iter().flatten().flatten().find(is_socket);
    let Some(endpoint) = unnamed.filter(|_| !named) else { return };
    let fault = Diagnostic::fault(endpoint.span(), "TLS to a unix socket whose server has no name")
        .label("this path is in no certificate")
        .related(upstream.tls.span.clone(), "TLS is asked for here");
    found.push(
        fault.help("add server_name = \"chat.internal\" to `tls`: the name in its certificate"),
    );
}

// ---- routes ----

fn routes(file: &File, found: &mut Faults) {
    let help = "add one to say which requests go to which upstream: [[route]] with \
                name = \"app\" and upstream = \"app\"";
    refuse_none(&file.route, "route", help, found);
    refuse_twin_names(all_routes(file).iter().map(|route| &route.name), "route", found);
    refuse_shared_places(all_routes(file), found);
    for route in all_routes(file) {
        destination(route, found);
        named_upstream(route, file, found);
        named_listeners(route, file, found);
        rewrite(route, found);
        subprotocols(route, found);
        utf8(route, found);
        origin(route, found);
        token::token(route, found);
        users_known_by_certificate(route, file, found);
        authorize(route, found);
        dropped_messages(route, found);
        unnamed_subjects(route, found);
        if let Some(limits) = route.limits.get() {
            size_limits(limits, route.compression.get(), found);
            if let Some(handshakes) = limits.handshakes.get().and_then(Option::as_ref) {
                handshake_rates(handshakes, found);
            }
        }
    }
}

/// Of two routes with one host, path and listener the second would never be found.
fn refuse_shared_places(routes: &[Route], found: &mut Faults) {
    let mut seen: BTreeMap<(HostPattern, &PathPattern), Vec<&Route>> = BTreeMap::new();
    for route in routes {
        let (Some(host), Some(path)) = (route.host.get(), route.path.get()) else { continue };
        let host = host.clone().unwrap_or(HostPattern::Any);
        let earlier = seen.entry((host, path)).or_default();
        if let Some(first) = earlier.iter().find(|first| share_a_listener(first, route)) {
            found.push(shared_place(first, route));
        }
        earlier.push(route);
    }
}

fn share_a_listener(left: &Route, right: &Route) -> bool {
    let (Some(one), Some(other)) = (left.listeners.get(), right.listeners.get()) else {
        return false;
    };
    let on_both = |at: &Spanned<_>| other.iter().any(|it| it.get_ref() == at.get_ref());
    one.is_empty() || other.is_empty() || one.iter().any(on_both)
}

fn shared_place(first: &Route, second: &Route) -> Diagnostic {
    let fault = Diagnostic::fault(place(second), "two routes of one host, path and listener");
    fault
        .label("this route would never be found")
        .related(place(first), "the first such route")
        .help("give one of them another `host` or `path`, or other `listeners`")
}

/// The key that says most about where a route is; a field that is not written has the span of its
/// table's header.
fn place(route: &Route) -> Span {
    match route.host.written && !route.path.written {
        true => route.host.span.clone(),
        false => route.path.span.clone(),
    }
}

/// A route goes to an upstream or redirects, and of one that redirects nothing else is asked.
fn destination(route: &Route, found: &mut Faults) {
    if !route.redirect.written {
        return no_upstream(route, found);
    }
    let Some((key, span)) = written_keys(route).next() else { return };
    let message = format!("`{key}` beside `redirect`");
    let fault = Diagnostic::fault(span, message)
        .label("a route that redirects has no upstream and no rules")
        .related(route.redirect.span.clone(), "it redirects here");
    found.push(fault.help(
        "keep of this route name, host, path, listeners and redirect; or take `redirect` out",
    ));
}

fn no_upstream(route: &Route, found: &mut Faults) {
    if route.upstream.written {
        return;
    }
    let fault = Diagnostic::fault(route.upstream.span.clone(), "[[route]] has no `upstream`")
        .label("`upstream` is missing here");
    found.push(fault.help(
        "add upstream = \"chat\", the name of an [[upstream]];\nor redirect = \"https\" to send its \
         clients to the same host and path by https",
    ));
}

/// What the file says of a route besides where it is and that it redirects.
fn written_keys(route: &Route) -> impl Iterator<Item = (&'static str, Span)> {
    macro_rules! keys {
        ($($key:ident),*) => {
            [$((stringify!($key), route.$key.written, route.$key.span.clone())),*]
        };
    }
    let keys = keys![
        upstream,
        rewrite,
        plain_http,
        subprotocols,
        clients,
        origin,
        token,
        on_removed,
        reject,
        unauthorized_code,
        compression,
        utf8,
        authorize,
        limits,
        heartbeat,
        timeouts,
        request_headers,
        response_headers
    ];
    keys.into_iter().filter(|(_, written, _)| *written).map(|(key, _, span)| (key, span))
}

fn named_upstream(route: &Route, file: &File, found: &mut Faults) {
    let Some(Some(wanted)) = route.upstream.get() else { return };
    let name = wanted.get_ref().0.as_str();
    // An upstream whose own name is at fault may be the one that is meant.
    if all_upstreams(file).iter().any(|upstream| upstream.name.value.is_none()) {
        return;
    }
    let known: Vec<&str> = all_upstreams(file)
        .iter()
        .filter_map(|upstream| upstream.name.get())
        .map(|known| known.get_ref().0.as_str())
        .collect();
    if known.is_empty() || known.contains(&name) {
        return;
    }
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("the upstreams of this file are {}", quoted(&known)),
    };
    let fault = Diagnostic::fault(wanted.span(), format!("there is no upstream {name:?}"));
    found.push(fault.label("no [[upstream]] has this name").help(help));
}

fn named_listeners(route: &Route, file: &File, found: &mut Faults) {
    let known: Vec<SocketAddr> = all_listeners(file)
        .iter()
        .filter_map(|listener| listener.listen.get())
        .map(|listen| listen.0)
        .collect();
    let all_are_known = known.len() == all_listeners(file).len() && !known.is_empty();
    for wanted in route.listeners.get().into_iter().flatten() {
        let address = wanted.get_ref().0;
        if !all_are_known || known.contains(&address) {
            continue;
        }
        let texts: Vec<String> = known.iter().map(SocketAddr::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let fault = Diagnostic::fault(wanted.span(), format!("nothing listens on {address}"))
            .label("no [[listener]] has this address")
            .help(format!("the listeners of this file are {}", quoted(&texts)));
        found.push(fault);
    }
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}

fn rewrite(route: &Route, found: &mut Faults) {
    let rewrite = route.rewrite.get().and_then(Option::as_ref);
    let prefix = rewrite.and_then(|rewrite| rewrite.strip_prefix.get()?.as_ref());
    let (Some(prefix), Some(path)) = (prefix, route.path.get()) else { return };
    if path.may_begin_with(&prefix.get_ref().0) {
        return;
    }
    let message = "`strip_prefix` that no path of this route begins with";
    let fault = Diagnostic::fault(prefix.span(), message).label("never taken off");
    let fault = match route.path.written {
        true => fault.related(route.path.span.clone(), "the paths of this route"),
        false => fault,
    };
    found.push(fault.help("write the route's own path here, or its beginning"));
}

fn subprotocols(route: &Route, found: &mut Faults) {
    let names = route.subprotocols.get().and_then(Option::as_ref).into_iter().flatten();
    let names = names.map(|name| (name.get_ref(), name.span()));
    refuse_twins(names, found, |name| {
        (format!("the subprotocol {:?} is listed twice", name.0), "take one out".to_owned())
    });
}

fn utf8(route: &Route, found: &mut Faults) {
    if route.utf8.get() != Some(&Utf8::Check) || route.compression.get() != Some(&Compression::Pass)
    {
        return;
    }
    let message = "`utf8 = \"check\"` where messages may be compressed";
    let fault = Diagnostic::fault(route.utf8.span.clone(), message)
        .label("compressed text cannot be checked");
    let fault = match route.compression.written {
        true => fault
            .related(route.compression.span.clone(), "this lets compression pass")
            .help("write compression = \"strip\", or take `utf8` out"),
        false => fault.help("add compression = \"strip\" to this route, or take `utf8` out"),
    };
    found.push(fault);
}

fn origin(route: &Route, found: &mut Faults) {
    let Some(Some(StatedOrigin::Listed(table))) = route.origin.get() else { return };
    if !table.allow.written || !table.allow.get().is_some_and(Vec::is_empty) {
        return;
    }
    let span = &table.allow.span;
    if !found.iter().any(|fault| within(fault, span)) {
        let fault = Diagnostic::fault(span.clone(), "no origin is allowed");
        found.push(fault.label("this list is empty").help(
            "write [\"https://app.example.com\"], or take `origin` out: then pages of the host \
             that they call may connect",
        ));
    }
}

/// A browser shows its certificate to whoever a page calls, as it does a cookie: so the page must
/// be asked for (cross-site WebSocket hijacking).
fn users_known_by_certificate(route: &Route, file: &File, found: &mut Faults) {
    if route.origin.written || route.redirect.written {
        return;
    }
    let authority = |listener: &Listener| {
        let tls = listener.tls.get()?.as_ref()?;
        tls.client_ca.get()?.as_ref().map(|_| tls.client_ca.span.clone())
    };
    let mut serving = all_listeners(file).iter().filter(|listener| serves(route, listener));
    let Some(authority) = serving.find_map(authority) else { return };
    let message = "a route behind `client_ca` that states no `origin`";
    let fault = Diagnostic::fault(route.origin.span.clone(), message)
        .label("a page of this host, even by http, could connect as whoever opens it")
        .related(authority, "browsers send their certificate by themselves")
        .help(
            "add origin = { allow = [\"https://app.example.com\"] } to this route, with missing = \
             \"allow\" where other clients than browsers come;\nor origin = \"any\" if every page may",
        );
    found.push(fault);
}

/// What an authorizer knows people by is mostly a cookie, which goes the way of a certificate.
fn authorize(route: &Route, found: &mut Faults) {
    let Some(Some(table)) = route.authorize.get() else { return };
    copied_headers(table, route, found);
    if route.origin.written {
        return;
    }
    let message = "a route with `authorize` that states no `origin`";
    let fault = Diagnostic::fault(route.origin.span.clone(), message)
        .label("a page of this host, even by http, could connect as whoever opens it")
        .related(table.url.span.clone(), "browsers send it their cookies by themselves")
        .help(
            "add origin = { allow = [\"https://app.example.com\"] } to this route, with missing = \
             \"allow\" where other clients than browsers come;\nor origin = \"any\" if every page may",
        );
    found.push(fault);
}

fn copied_headers(table: &Authorize, route: &Route, found: &mut Faults) {
    let copied = table.copy_headers.get().into_iter().flatten();
    let names = copied.clone().map(|header| (header.get_ref().0.as_str(), header.span()));
    refuse_twins(names, found, |name| {
        (format!("the header `{name}` is copied twice"), "take one out".to_owned())
    });
    let set = route.request_headers.get().and_then(|edits| edits.set.get());
    let Some(Headers(set)) = set else { return };
    for header in copied.filter(|header| set.iter().any(|(name, _)| *name == header.get_ref().0)) {
        let name = &header.get_ref().0;
        let message = format!("the header `{name}` is copied, and set to something else");
        let fault = Diagnostic::fault(header.span(), message)
            .label("the upstream would never see the authorizer's")
            .help("take it out here, or out of the `set` of [route.request_headers]");
        found.push(fault);
    }
}

fn serves(route: &Route, listener: &Listener) -> bool {
    let (Some(named), Some(listen)) = (route.listeners.get(), listener.listen.get()) else {
        return false;
    };
    named.is_empty() || named.iter().any(|address| address.get_ref() == listen)
}

fn dropped_messages(route: &Route, found: &mut Faults) {
    let limits = route.limits.get();
    let messages = limits.and_then(|limits| limits.messages.get()?.as_ref());
    let Some(messages) = messages else { return };
    if messages.action.get() != Some(&Action::Drop)
        || route.compression.get() != Some(&Compression::Pass)
    {
        return;
    }
    let message = "messages are dropped where they may be compressed";
    let fault = Diagnostic::fault(messages.action.span.clone(), message)
        .label("each is unpacked by the ones before it, so one missing breaks all after it");
    found.push(match route.compression.written {
        true => fault
            .related(route.compression.span.clone(), "this lets compression pass")
            .help("write compression = \"strip\", or \"close\" or \"throttle\" here"),
        false => fault.help(
            "add compression = \"strip\" to this route, or write \"close\" or \"throttle\" here",
        ),
    });
}

/// Who comes is known by a token or an authorizer alone.
fn unnamed_subjects(route: &Route, found: &mut Faults) {
    let authorize = route.authorize.get().and_then(Option::as_ref);
    let by_authorizer =
        authorize.is_some_and(|table| table.subject.get().is_none_or(Option::is_some));
    if route.token.written || by_authorizer {
        return;
    }
    let Some(limits) = route.limits.get() else { return };
    let messages = limits.messages.get().and_then(Option::as_ref).map(|table| &table.per);
    let bytes = limits.bytes.get().and_then(Option::as_ref).map(|table| &table.per);
    let shared = messages.into_iter().chain(bytes);
    let shared = shared.filter(|per| per.get() == Some(&Payer::Subject)).map(|per| &per.span);
    let connections = limits.connections.get().and_then(Option::as_ref);
    let cap = connections.map(|table| &table.per_subject).filter(|cap| cap.written);
    let mut counted = shared.chain(cap.map(|cap| &cap.span));
    let Some(first) = counted.next() else { return };
    let message = "a limit per subject where nothing names a subject";
    let fault = Diagnostic::fault(first.clone(), message).label("whose?").help(
        "add a [route.token], whose `sub` is the subject, or a [route.authorize] with \
         `subject`; or bound each client or connection",
    );
    found.push(counted.fold(fault, |fault, span| fault.related(span.clone(), "this one too")));
}

fn handshake_rates(table: &Handshakes, found: &mut Faults) {
    let (Some(per_client), Some(burst), Some(total)) =
        (table.per_client.get(), table.burst.get(), table.total.get())
    else {
        return;
    };
    if burst.is_some() && per_client.is_none() {
        let message = "`burst` without `per_client`";
        let fault = Diagnostic::fault(table.burst.span.clone(), message)
            .label("so many of one client at once, but at what rate?")
            .help("add per_client = \"10/s\", or take `burst` out: `total` has its own number");
        found.push(fault);
    } else if per_client.is_none() && total.is_none() {
        let fault = Diagnostic::fault(table.total.span.clone(), "a limit that bounds nothing")
            .label("neither `per_client` nor `total`")
            .help("add per_client = \"10/s\" or total = \"1000/s\", or take `handshakes` out");
        found.push(fault);
    }
}

type Size = Field<OrOff<Bytes>>;

fn size_limits(limits: &Limits, compression: Option<&Compression>, found: &mut Faults) {
    let mut written: Vec<&Size> = vec![&limits.max_frame_size, &limits.max_message_size];
    frame_over_message(&limits.max_frame_size, &limits.max_message_size, "4MiB", found);
    if let Some(upstream) = limits.upstream.get() {
        written.extend([&upstream.max_frame_size, &upstream.max_message_size]);
        frame_over_message(&upstream.max_frame_size, &upstream.max_message_size, "off", found);
    }
    written.retain(|size| size.written && matches!(size.get(), Some(OrOff::On(_))));
    if compression == Some(&Compression::Pass) {
        found.extend(judged_on_the_wire(&written));
    }
}

fn judged_on_the_wire(sizes: &[&Size]) -> Option<Diagnostic> {
    let (first, others) = sizes.split_first()?;
    let message = "size limits judge bytes on the wire, and this route lets compression pass";
    let warning = Diagnostic::warning(first.span.clone(), message)
        .label("a compressed message may be far larger once unpacked")
        .help("bound the unpacked size in the server too, or write compression = \"strip\"");
    Some(
        others
            .iter()
            .fold(warning, |warning, size| warning.related(size.span.clone(), "this one too")),
    )
}

/// A message is never smaller than its frame, so the larger bound can never be reached.
fn frame_over_message(frame: &Size, message: &Size, default: &str, found: &mut Faults) {
    let (Some(OrOff::On(most_in_frame)), Some(OrOff::On(most_in_message))) =
        (frame.get(), message.get())
    else {
        return;
    };
    if most_in_frame.0 <= most_in_message.0 {
        return;
    }
    let bound = show_bytes(most_in_message.0);
    let text = "`max_frame_size` is over `max_message_size` and never reached";
    let label = format!("a frame over {bound} is a message over {bound}");
    let warning = Diagnostic::warning(frame.span.clone(), text).label(label);
    let help = "write `max_message_size` no smaller than `max_frame_size`";
    found.push(match message.written {
        true => warning.related(message.span.clone(), "this is smaller").help(help),
        false => warning.help(format!("{help}; it is \"{default}\" unless written")),
    });
}

// ---- drain ----

/// A drain's last Close goes out at `delay` + `window`, and may take `close` to be answered.
fn drain(file: &File, found: &mut Faults) {
    let Some(drain) = file.server.get().and_then(|server| server.drain.get()) else { return };
    let closes = all_routes(file).iter().filter_map(|route| Some(&route.timeouts.get()?.close));
    let longest = closes.max_by_key(|close| close.get().map(|close| close.0));
    let close = longest.and_then(|close| Some(close.get()?.0)).unwrap_or_default();
    let Some((delay, window, timeout)) = times(drain) else { return };
    let needed = delay + window + close;
    if needed <= timeout {
        return;
    }
    let [delay, window, close, needed, timeout] =
        [delay, window, close, needed, timeout].map(show_duration);
    let message = format!("the drain needs {needed} and is cut at {timeout}");
    let label = format!("delay {delay} + window {window} + close {close} = {needed}");
    let fault = match longest.filter(|close| close.written) {
        Some(close) => blamed(drain, close, message, label),
        None => Diagnostic::fault(drain_span(drain), message).label(label),
    };
    found.push(fault.help(format!(
        "write a `timeout` of {needed} or more, or a shorter `delay`, `window` or `close`"
    )));
}

fn times(drain: &Drain) -> Option<(Duration, Duration, Duration)> {
    Some((*drain.delay.get()?, *drain.window.get()?, drain.timeout.get()?.0))
}

/// The fault of a drain beside a route's `close`: the file may not mention the drain at all.
fn blamed(drain: &Drain, close: &Field<Lasting>, message: String, label: String) -> Diagnostic {
    let says_something = drain.timeout.written || drain.window.written || drain.delay.written;
    if !says_something {
        return Diagnostic::fault(close.span.clone(), message).label(label);
    }
    Diagnostic::fault(drain_span(drain), message)
        .label(label)
        .related(close.span.clone(), "the longest `close` of all routes")
}

/// The key to blame, else the table's header.
fn drain_span(drain: &Drain) -> Span {
    match (&drain.timeout, &drain.window) {
        (timeout, _) if timeout.written => timeout.span.clone(),
        (_, window) if window.written => window.span.clone(),
        _ => drain.delay.span.clone(),
    }
}

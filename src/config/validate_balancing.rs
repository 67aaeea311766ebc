//! What the keys of balancing have to do with each other, and with the rest of the file.

use std::collections::BTreeSet;

use super::balancing::Balancing;
use super::diagnostics::Diagnostic;
use super::file::{AffinityCookie, File, Route, Upstream};
use super::reader::{Faults, Field, refuse_twins};
use super::validate::{all_listeners, all_routes, all_upstreams, within};
use super::{HashKey, PlainHttp, SameSite};
use crate::route::HostPattern;

pub(super) fn upstream(upstream: &Upstream, file: &File, found: &mut Faults) {
    identities(upstream, found);
    backups(upstream, found);
    keys(upstream, found);
    balance(upstream, found);
    seed(upstream, found);
    gathered(upstream, found);
    scattered(upstream, file, found);
    if let Some(cookie) = upstream.affinity_cookie.get().and_then(Option::as_ref) {
        secure_cookie(cookie, file, found);
    }
}

fn identities(upstream: &Upstream, found: &mut Faults) {
    let endpoints = upstream.endpoints.get().into_iter().flatten().flatten();
    // One address twice was complained of already.
    let mut addresses = BTreeSet::new();
    let named = endpoints.filter(|endpoint| addresses.insert(&endpoint.get_ref().0.address));
    let identities = named.map(|endpoint| (endpoint.get_ref().0.identity(), endpoint.span()));
    refuse_twins(identities, found, |identity| {
        let message = format!("two endpoints are both known as {identity:?}");
        let help = "keys and cookies could not tell them apart; give one of them another id";
        (message, help.to_owned())
    });
}

fn backups(upstream: &Upstream, found: &mut Faults) {
    let Some(Some(endpoints)) = upstream.endpoints.get() else { return };
    // Endpoints at fault are left out of the list, and may have been primaries.
    let incomplete = found.iter().any(|fault| within(fault, &upstream.endpoints.span));
    let primary = endpoints.iter().any(|endpoint| !endpoint.get_ref().0.backup);
    if endpoints.is_empty() || primary || incomplete || upstream.resolve.written {
        return;
    }
    let fault = Diagnostic::fault(upstream.endpoints.span.clone(), "every endpoint is a backup")
        .label("there is none that these could stand in for")
        .help("take backup = true from those that are to be used first");
    found.push(fault);
}

fn keys(upstream: &Upstream, found: &mut Faults) {
    let Some(Some(keys)) = upstream.hash_key.get() else { return };
    let span = &upstream.hash_key.span;
    if keys.is_empty() && !found.iter().any(|fault| within(fault, span)) {
        let fault = Diagnostic::fault(span.clone(), "no key")
            .label("this list is empty")
            .help("write what clients are known by, such as [\"cookie:session\", \"client-ip\"]");
        found.push(fault);
    }
    let texts = keys.iter().map(|key| (format!("{:?}", key.get_ref()), key.span()));
    refuse_twins(texts, found, |_| {
        ("one key is listed twice".to_owned(), "each key stands once; take one out".to_owned())
    });
    unreached_key(keys, found);
}

/// A key that stands behind one that every request has.
fn unreached_key(keys: &[toml::Spanned<HashKey>], found: &mut Faults) {
    let always = |key: &HashKey| matches!(key, HashKey::Path | HashKey::ClientIp { .. });
    let Some(first) = keys.iter().position(|key| always(key.get_ref())) else { return };
    let Some(behind) = keys.get(first + 1) else { return };
    let warning = Diagnostic::warning(behind.span(), "this key is never used")
        .label("behind a key that every request has")
        .related(keys[first].span(), "every request has this one")
        .help("put the key that every request has last, or take out what follows it");
    found.push(warning);
}

/// Whether the file asks for hashing, by its balance or by a key alone.
fn hashes(upstream: &Upstream) -> bool {
    match upstream.balance.get() {
        Some(Some(stated)) => *stated == Balancing::Hash,
        Some(None) => upstream.hash_key.written,
        // What was meant cannot be known.
        None => true,
    }
}

fn balance(upstream: &Upstream, found: &mut Faults) {
    let hashes = hashes(upstream);
    let (balance, hash_key) = (&upstream.balance, &upstream.hash_key);
    if hashes && !hash_key.written && balance.get().is_some() {
        let fault = Diagnostic::fault(balance.span.clone(), "`balance = \"hash\"` without a key")
            .label("nothing to hash")
            .help("add hash_key = [\"cookie:session\", \"client-ip\"], with what you have");
        found.push(fault);
    }
    if !hashes && hash_key.written {
        let message = "`hash_key` beside a `balance` that uses none";
        let fault = Diagnostic::fault(hash_key.span.clone(), message)
            .label("nothing would be hashed")
            .related(balance.span.clone(), "chosen here")
            .help("write balance = \"hash\", or take `hash_key` out");
        found.push(fault);
    }
    if !hashes && upstream.bounded_load.written {
        let message = "`bounded_load` without `balance = \"hash\"`";
        let fault = Diagnostic::fault(upstream.bounded_load.span.clone(), message)
            .label("bounds how far hashing may load one endpoint")
            .help("add a hash_key, or take this out: other balances even the load themselves");
        found.push(fault);
    }
}

fn seed(upstream: &Upstream, found: &mut Faults) {
    let seed = &upstream.hash_seed_file;
    if !seed.written || hashes(upstream) || upstream.affinity_cookie.written {
        return;
    }
    let message = "`hash_seed_file` without `hash_key` or `affinity_cookie`";
    let fault = Diagnostic::fault(seed.span.clone(), message)
        .label("there is nothing that it would key")
        .help("add one of them, or take this out");
    found.push(fault);
}

/// A bound parts people who share a key, which they mostly do in order to meet.
fn gathered(upstream: &Upstream, found: &mut Faults) {
    let Some(Some(keys)) = upstream.hash_key.get() else { return };
    let gathers = |key: &HashKey| matches!(key, HashKey::Query(_) | HashKey::Path);
    let Some(key) = keys.iter().find(|key| gathers(key.get_ref())) else { return };
    if !hashes(upstream) || !matches!(upstream.bounded_load.get(), Some(Some(_))) {
        return;
    }
    let message = "`bounded_load` sends some who share a key to another endpoint";
    let warning = Diagnostic::warning(upstream.bounded_load.span.clone(), message)
        .label("a popular key goes over this bound")
        .related(key.span(), "many have this key in common")
        .help("take it out if those who share a key must meet on one endpoint");
    found.push(warning);
}

/// The plain requests of one client belong together, as those of Socket.IO's polling do.
fn scattered(upstream: &Upstream, file: &File, found: &mut Faults) {
    let bounded = matches!(upstream.bounded_load.get(), Some(Some(_)));
    let proxied = routes_to(upstream, file)
        .map(|route| &route.plain_http)
        .find(|plain_http| plain_http.get() == Some(&PlainHttp::Proxy));
    let Some(plain_http) = proxied.filter(|_| bounded && hashes(upstream)) else { return };
    let message = "`bounded_load` sends some requests of one client to another endpoint";
    let warning = Diagnostic::warning(upstream.bounded_load.span.clone(), message)
        .label("the key of a client may go over this bound between two requests")
        .related(
            plain_http.span.clone(),
            "a session of plain requests, as of Socket.IO, breaks then",
        )
        .help("take it out if the requests of one client must meet on one endpoint");
    found.push(warning);
}

/// Browsers keep some cookies only if they are `Secure`, and the edge says that on TLS alone: its
/// own, or that of a proxy that it trusts.
fn secure_cookie(cookie: &AffinityCookie, file: &File, found: &mut Faults) {
    let on_tls = |tls: &Field<Option<_>>| !matches!(tls.get(), Some(None));
    let proxies = file.server.get().and_then(|server| server.trusted_proxies.get());
    let behind = proxies.is_none_or(|networks| !networks.is_empty());
    if behind || all_listeners(file).iter().any(|listener| on_tls(&listener.tls)) {
        return;
    }
    let prefixed = |name: &str| name.starts_with("__Host-") || name.starts_with("__Secure-");
    let (span, why) = match (cookie.same_site.get(), cookie.name.get()) {
        (Some(SameSite::None), _) => (&cookie.same_site.span, "SameSite=None"),
        (_, Some(name)) if prefixed(&name.0) => (&cookie.name.span, "a name with this prefix"),
        _ => return,
    };
    let message = "no browser keeps this affinity cookie: no listener has TLS";
    let fault = Diagnostic::fault(span.clone(), message).label(format!("{why} needs TLS")).help(
        "give a listener [listener.tls], name the TLS proxy in front in `trusted_proxies`, \
               or write same_site = \"lax\" and a plain name",
    );
    found.push(fault);
}

/// Two upstreams whose cookies would replace each other in one browser.
pub(super) fn shared_cookies(file: &File, found: &mut Faults) {
    let upstreams = all_upstreams(file);
    for (index, upstream) in upstreams.iter().enumerate() {
        let Some((name, table)) = cookie(upstream) else { continue };
        let earlier = upstreams[..index].iter().find(|earlier| {
            cookie(earlier).is_some_and(|(other, _)| other == name) && meet(earlier, upstream, file)
        });
        let Some((_, first)) = earlier.and_then(cookie) else { continue };
        let message = format!("two upstreams set one cookie, {name:?}, on the same host");
        let warning = Diagnostic::warning(table.clone(), message)
            .label("replaces the other's")
            .related(first.clone(), "set here too")
            .help("a browser that uses both loses its endpoint each time: give each another name");
        found.push(warning);
    }
}

fn cookie(upstream: &Upstream) -> Option<(&str, &super::diagnostics::Span)> {
    let table = upstream.affinity_cookie.get()?.as_ref()?;
    Some((&table.name.get()?.0, &upstream.affinity_cookie.span))
}

fn routes_to<'a>(upstream: &'a Upstream, file: &'a File) -> impl Iterator<Item = &'a Route> {
    let name = upstream.name.get().map(|name| &name.get_ref().0);
    let leads = move |route: &&Route| {
        let upstream = route.upstream.get().and_then(Option::as_ref);
        upstream.map(|it| &it.get_ref().0) == name
    };
    all_routes(file).iter().filter(leads)
}

/// Whether routes of both may serve one host.
fn meet(one: &Upstream, other: &Upstream, file: &File) -> bool {
    let (ones, others) = (hosts(one, file), hosts(other, file));
    ones.iter()
        .any(|host| others.iter().any(|other| host.is_none() || other.is_none() || host == other))
}

fn hosts<'a>(upstream: &'a Upstream, file: &'a File) -> Vec<Option<&'a HostPattern>> {
    let routes = routes_to(upstream, file);
    routes.filter_map(|route| route.host.get().map(Option::as_ref)).collect()
}

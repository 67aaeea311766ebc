//! What tells one configuration from another, in words, and when each change binds.

use std::fmt;
use std::sync::Arc;

use super::{Admittance, Config, Listener, Route, Server, Upstream};
use crate::plan::Plan;

/// Something that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `route "chat"`; empty: the server.
    of: String,
    /// The key, or `added` or `removed`.
    what: &'static str,
    pub effect: Effect,
}

/// When a change binds, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Live sockets too, at their next frame or timer.
    AtOnce,
    /// Those who connect from now on.
    NextHandshake,
    /// Its live sockets are closed, spread over the drain's window.
    Closes,
    /// Its live sockets go on: the file said that they may.
    Keeps,
    Restart,
}

impl Effect {
    fn words(self) -> &'static str {
        match self {
            Effect::AtOnce => "at once, for live sockets too",
            Effect::NextHandshake => "for new connections",
            Effect::Closes => "its sockets close with 1012, spread over the drain's window",
            Effect::Keeps => "its sockets stay",
            Effect::Restart => "needs a restart",
        }
    }
}

impl Change {
    /// `route "chat": limits.messages`.
    pub fn what(&self) -> String {
        format!("{}: {}", self.of, self.what)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.of, self.what, self.effect.words())
    }
}

/// All that is different in `new`, in the order of the file.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut found = Found::default();
    server(&old.server, &new.server, &mut found);
    if old.admin != new.admin {
        found.of = "admin".to_owned();
        found.add("changed", Effect::Restart);
    }
    listeners(&old.listeners, &new.listeners, &mut found);
    upstreams(&old.upstreams, &new.upstreams, &mut found);
    routes(old, new, &mut found);
    redirects(old, new, &mut found);
    found.changes
}

#[derive(Default)]
struct Found {
    of: String,
    changes: Vec<Change>,
}

impl Found {
    fn add(&mut self, what: &'static str, effect: Effect) {
        self.changes.push(Change { of: self.of.clone(), what, effect });
    }
}

/// Adds a change for each key that differs. Beside each list of keys the whole table is taken
/// apart, so that a key that is added to it and not to the list does not compile.
macro_rules! compare {
    ($old:expr, $new:expr, $found:expr, $effect:expr, { $( $key:literal: $($field:ident).+ ),* $(,)? }) => {
        $( if $old.$($field).+ != $new.$($field).+ { $found.add($key, $effect); } )*
    };
}

fn server(old: &Server, new: &Server, found: &mut Found) {
    let Server { workers: _, trusted_proxies: _, drain: _, backlog_total: _, log: _ } = new;
    found.of = "server".to_owned();
    compare!(old, new, found, Effect::Restart, { "workers": workers });
    compare!(old, new, found, Effect::NextHandshake, { "trusted_proxies": trusted_proxies });
    compare!(old, new, found, Effect::AtOnce, {
        "drain": drain,
        "backlog_total": backlog_total,
        "log": log,
    });
}

fn listeners(old: &[Listener], new: &[Listener], found: &mut Found) {
    // Ports may be left to the kernel, so an address alone may name several.
    let nth = |all: &[Listener], index: usize| {
        all[..index].iter().filter(|other| other.listen == all[index].listen).count()
    };
    let same = |all: &[Listener], listener: &Listener, count: usize| {
        all.iter().filter(|other| other.listen == listener.listen).nth(count).cloned()
    };
    for (index, after) in new.iter().enumerate() {
        found.of = format!("listener {}", after.listen);
        match same(old, after, nth(new, index)) {
            None => found.add("added", Effect::AtOnce),
            Some(before) => {
                let Listener {
                    listen: _,
                    proxy_protocol: _,
                    timeouts: _,
                    limits: _,
                    http2: _,
                    reuse_port: _,
                    tls: _,
                } = after;
                compare!(before, after, found, Effect::Restart, { "reuse_port": reuse_port });
                compare!(before, after, found, Effect::NextHandshake, {
                    "proxy_protocol": proxy_protocol,
                    "timeouts": timeouts,
                    "limits": limits,
                    "http2": http2,
                    "tls": tls,
                });
            }
        }
    }
    for (index, before) in old.iter().enumerate() {
        if same(new, before, nth(old, index)).is_none() {
            found.of = format!("listener {}", before.listen);
            found.add("removed", Effect::Keeps);
        }
    }
}

fn upstreams(old: &[Upstream], new: &[Upstream], found: &mut Found) {
    for after in new {
        found.of = format!("upstream {:?}", after.name);
        match old.iter().find(|before| before.name == after.name) {
            None => found.add("added", Effect::NextHandshake),
            Some(before) => upstream(before, after, found),
        }
    }
    for before in old {
        if !new.iter().any(|after| after.name == before.name) {
            found.of = format!("upstream {:?}", before.name);
            found.add("removed", fate(before.on_removed));
        }
    }
}

fn upstream(before: &Upstream, after: &Upstream, found: &mut Found) {
    #[rustfmt::skip]
    let Upstream {
        name: _, endpoints: _, resolve: _, balance: _, hash_seed_file: _, affinity_cookie: _,
        connect_timeout: _, handshake_timeout: _, host: _, source_addresses: _, tls: _,
        health: _, passive: _, on_removed: _,
    } = after;
    let name = |upstream: &Upstream| upstream.resolve.as_ref().map(|it| it.name.clone());
    match (name(before), name(after)) {
        (Some(old), new) if new.as_ref() != Some(&old) => {
            found.add("resolve", fate(before.on_removed));
        }
        _ => compare!(before, after, found, Effect::NextHandshake, { "resolve": resolve }),
    }
    compare!(before, after, found, Effect::NextHandshake, {
        "connect_timeout": connect_timeout,
        "handshake_timeout": handshake_timeout,
        "host": host,
        "on_removed": on_removed,
        "balance": balance,
        "hash_seed_file": hash_seed_file,
        "affinity_cookie": affinity_cookie,
        "resolve": resolve,
        "source_addresses": source_addresses,
        "tls": tls,
    });
    compare!(before, after, found, Effect::AtOnce, { "health": health, "passive": passive });
    let name = found.of.clone();
    for endpoint in &after.endpoints {
        found.of = format!("{name}, endpoint {}", endpoint.identity());
        match before.endpoints.iter().find(|known| known.identity() == endpoint.identity()) {
            None => found.add("added", Effect::NextHandshake),
            Some(known) if known != endpoint => found.add("changed", Effect::NextHandshake),
            Some(_) => {}
        }
    }
    for endpoint in &before.endpoints {
        if !after.endpoints.iter().any(|known| known.identity() == endpoint.identity()) {
            found.of = format!("{name}, endpoint {}", endpoint.identity());
            found.add("removed", fate(before.on_removed));
        }
    }
}

fn fate(on_removed: super::OnRemoved) -> Effect {
    match on_removed {
        super::OnRemoved::Close => Effect::Closes,
        super::OnRemoved::Keep => Effect::Keeps,
    }
}

fn routes(old: &Config, new: &Config, found: &mut Found) {
    for after in &new.routes {
        found.of = format!("route {:?}", after.name);
        match old.routes.iter().find(|before| before.name == after.name) {
            None => found.add("added", Effect::NextHandshake),
            Some(before) => {
                let upstream = |config: &Config, route: &Route| {
                    Arc::clone(&config.upstreams[route.upstream].name)
                };
                if upstream(old, before) != upstream(new, after) {
                    found.add("upstream", Effect::NextHandshake);
                }
                route(before, after, found);
            }
        }
    }
    for before in &old.routes {
        if !new.routes.iter().any(|after| after.name == before.name) {
            found.of = format!("route {:?}", before.name);
            found.add("removed", fate(before.on_removed));
        }
    }
}

fn redirects(old: &Config, new: &Config, found: &mut Found) {
    for after in &new.redirects {
        found.of = format!("route {:?}", after.name);
        match old.redirects.iter().find(|before| before.name == after.name) {
            None => found.add("redirect", Effect::NextHandshake),
            Some(before) => {
                compare!(before, after, found, Effect::NextHandshake, {
                    "host": host,
                    "path": path,
                    "listeners": listeners,
                });
            }
        }
    }
    for before in &old.redirects {
        if !new.redirects.iter().any(|after| after.name == before.name) {
            found.of = format!("route {:?}", before.name);
            found.add("redirect removed", Effect::NextHandshake);
        }
    }
}

fn route(before: &Route, after: &Route, found: &mut Found) {
    #[rustfmt::skip]
    let Route {
        name: _, host: _, path: _, upstream: _, listeners: _, rewrite: _, plain_http: _,
        response_timeout: _, subprotocols: _, compression: _, utf8: _, on_removed: _,
        request_headers: _, response_headers: _,
        admittance: Admittance {
            clients: _, origin: _, handshakes_per_client: _, handshakes_total: _,
            connections_total: _, connections_per_client: _, connections_per_subject: _,
            // It follows from the rates.
            rates_per_subject: _,
            authorize: _, reject: _, token: _,
        },
        plan,
    } = after;
    #[rustfmt::skip]
    let Plan {
        client: _, upstream: _, control_frames: _, messages: _, bytes: _, frame_stall: _,
        backlog: _, slow_consumer: _, heartbeat: _, idle: _, max_age: _, close: _,
        unauthorized_code: _, recheck: _, on_expiry: _,
    } = &**plan;
    compare!(before, after, found, Effect::NextHandshake, {
        "host": host,
        "path": path,
        "listeners": listeners,
        "rewrite": rewrite,
        "plain_http": plain_http,
        "timeouts.response": response_timeout,
        "subprotocols": subprotocols,
        "compression": compression,
        "utf8": utf8,
        "on_removed": on_removed,
        "clients": admittance.clients,
        "origin": admittance.origin,
        "token": admittance.token,
        "authorize": admittance.authorize,
        "reject": admittance.reject,
        "limits.handshakes.per_client": admittance.handshakes_per_client,
        "limits.handshakes.total": admittance.handshakes_total,
        "limits.connections.total": admittance.connections_total,
        "limits.connections.per_client": admittance.connections_per_client,
        "limits.connections.per_subject": admittance.connections_per_subject,
        "request_headers": request_headers,
        "response_headers": response_headers,
    });
    compare!(before.plan, after.plan, found, Effect::AtOnce, {
        "limits.max_frame_size": client.max_frame,
        "limits.max_message_size": client.max_message,
        "limits.upstream": upstream,
        "limits.control_frames": control_frames,
        "limits.messages": messages,
        "limits.bytes": bytes,
        "limits.frame_stall": frame_stall,
        "limits.backlog": backlog,
        "limits.slow_consumer": slow_consumer,
        "heartbeat": heartbeat,
        "timeouts.idle": idle,
        "timeouts.max_age": max_age,
        "timeouts.close": close,
        "unauthorized_code": unauthorized_code,
        "token.on_expiry": on_expiry,
        "authorize.recheck": recheck,
    });
}

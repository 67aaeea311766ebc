//! A file without fault becomes a [`Config`]: every value moves into its final type.
//!
//! An empty field is a fault that was told before, so the whole is `None` then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::balancing::Balancing;
use super::names::{ClientCertificate, FileName, MissingOrigin, Network, PathPrefix};
use super::origins::StatedOrigin;
use super::quantities::{Bytes, CloseCode, Count, Lasting, OrOff};
use super::tokens::{Variable, Words};
use super::{
    Admin, Admittance, AffinityCookie, Authorize, Balance, CertificateFiles, ClientAuth, Config,
    Drain, HashKey, HeaderEdits, Health, KeySource, Listener, ListenerLimits, ListenerTimeouts,
    ListenerTls, Log, NamedFile, NamedVariable, Networks, Origin, Passive, Redirect, Reject,
    Resolve, Rewrite, Route, Server, Token, Upstream, UpstreamTls, file,
};
use crate::plan::{Allowance, Beat, Heartbeat, OnExpiry, Plan, Sizes};
use crate::route::HostPattern;

/// `control_frames`: so many times its number at once.
const CONTROL_BURST: u64 = 10;

/// The configuration, and what it names outside of itself; relative names begin at `folder`.
pub(super) fn config(file: file::File, folder: &Path) -> Option<(Config, Named)> {
    let mut files = Files { folder, named: Named::default() };
    let upstreams: Vec<Upstream> =
        all(file.upstream.value?.0, |table| upstream(table, &mut files))?;
    let (redirects, routes) = file.route.value?.0.into_iter().partition(redirects);
    let config = Config {
        server: server(file.server.value?)?,
        listeners: all(file.listener.value?.0, |table| listener(table, &mut files))?,
        routes: all(routes, |table| route(table, &upstreams, &mut files))?,
        redirects: all(redirects, redirect)?,
        upstreams,
        admin: match file.admin.value? {
            Some(table) => Some(admin(table, &mut files)?),
            None => None,
        },
    };
    Some((config, files.named))
}

fn all<T, U>(items: Vec<T>, make: impl FnMut(T) -> Option<U>) -> Option<Vec<U>> {
    items.into_iter().map(make).collect()
}

/// What a configuration names outside of itself.
#[derive(Default)]
pub(super) struct Named {
    pub files: Vec<NamedFile>,
    pub variables: Vec<NamedVariable>,
}

struct Files<'a> {
    folder: &'a Path,
    named: Named,
}

impl Files<'_> {
    fn add(&mut self, name: Spanned<FileName>, purpose: &'static str) -> std::path::PathBuf {
        let span = name.span();
        let path = self.folder.join(name.into_inner().0);
        self.named.files.push(NamedFile { path: path.clone(), span, purpose });
        path
    }

    fn variable(&mut self, name: Spanned<Variable>) -> String {
        let span = name.span();
        let name = name.into_inner().0;
        self.named.variables.push(NamedVariable { name: name.clone(), span });
        name
    }
}

// ---- server ----

fn server(table: file::Server) -> Option<Server> {
    let log = table.log.value?;
    Some(Server {
        workers: table.workers.value?.0,
        trusted_proxies: networks(table.trusted_proxies.value?),
        drain: drain(table.drain.value?)?,
        backlog_total: table.backlog_total.value?.in_memory(),
        log: Log { format: log.format.value?, level: log.level.value? },
    })
}

fn networks(list: Vec<Network>) -> Vec<ipnet::IpNet> {
    list.into_iter().map(|network| network.0).collect()
}

fn drain(table: file::Drain) -> Option<Drain> {
    Some(Drain {
        delay: table.delay.value?,
        window: table.window.value?,
        timeout: table.timeout.value?.0,
        code: table.code.value?.0,
    })
}

fn admin(table: file::Admin, files: &mut Files<'_>) -> Option<Admin> {
    let hosts = table.hosts.value?.into_iter();
    Some(Admin {
        listen: table.listen.value?.map(Spanned::into_inner),
        probes: table.probes.value?.map(Spanned::into_inner),
        token_file: table.token_file.value?.map(|name| files.add(name, "admin token")),
        hosts: hosts.map(|host| host.into_inner().0).collect(),
    })
}

// ---- listeners ----

fn listener(table: file::Listener, files: &mut Files<'_>) -> Option<Listener> {
    let timeouts = table.timeouts.value?;
    let limits = table.limits.value?;
    Some(Listener {
        listen: table.listen.value?.0,
        proxy_protocol: table.proxy_protocol.value?,
        timeouts: ListenerTimeouts {
            tls: timeouts.tls.value?.0,
            header: timeouts.header.value?.0,
            keepalive: timeouts.keepalive.value?.0,
        },
        limits: ListenerLimits {
            header_bytes: limits.header_bytes.value?.in_memory(),
            uri: limits.uri.value?.in_memory(),
            connections: limits.connections.value?.as_usize(),
            pending: limits.pending.value?.as_usize(),
        },
        http2: table.http2.value?,
        reuse_port: table.reuse_port.value?,
        tls: match table.tls.value? {
            Some(tls) => Some(listener_tls(tls, files)?),
            None => None,
        },
    })
}

fn listener_tls(table: file::ListenerTls, files: &mut Files<'_>) -> Option<ListenerTls> {
    let certificates = all(table.certificates.value?, |entry| certificate(entry, files))?;
    let required = table.client_auth.value? == ClientCertificate::Require;
    let client_auth = table
        .client_ca
        .value?
        .map(|name| ClientAuth { ca: files.add(name, "client authorities"), required });
    Some(ListenerTls { certificates, client_auth })
}

fn certificate(entry: file::Certificate, files: &mut Files<'_>) -> Option<CertificateFiles> {
    Some(CertificateFiles {
        chain: files.add(entry.chain.value?, "certificate chain"),
        key: files.add(entry.key.value?, "private key"),
    })
}

// ---- upstreams ----

fn upstream(table: file::Upstream, files: &mut Files<'_>) -> Option<Upstream> {
    let endpoints = table.endpoints.value?.unwrap_or_default();
    let sources = table.source_addresses.value?;
    let keys = table.hash_key.value?;
    let bounded_load = table.bounded_load.value?.map(|factor| factor.0);
    let seed = table.hash_seed_file.value?;
    Some(Upstream {
        name: table.name.value?.into_inner().0.into(),
        endpoints: endpoints.into_iter().map(|endpoint| endpoint.into_inner().0).collect(),
        balance: balance(table.balance.value?, keys, bounded_load),
        hash_seed_file: seed.map(|name| files.add(name, "hash seed")),
        affinity_cookie: match table.affinity_cookie.value? {
            Some(table) => Some(affinity_cookie(table)?),
            None => None,
        },
        connect_timeout: table.connect_timeout.value?.0,
        handshake_timeout: table.handshake_timeout.value?.0,
        host: table.host.value?.0,
        resolve: match table.resolve.value? {
            Some(table) => Some(resolve(table)?),
            None => None,
        },
        source_addresses: sources.into_iter().map(|source| source.into_inner().0).collect(),
        tls: match table.tls.value? {
            Some(table) => Some(upstream_tls(table, files)?),
            None => None,
        },
        health: match table.health.value? {
            Some(table) => Some(health(table)?),
            None => None,
        },
        passive: passive(table.passive.value?)?,
        on_removed: table.on_removed.value?,
    })
}

fn resolve(table: file::Resolve) -> Option<Resolve> {
    Some(Resolve { name: table.name.value?, refresh: table.refresh.value?.0 })
}

fn upstream_tls(table: file::UpstreamTls, files: &mut Files<'_>) -> Option<UpstreamTls> {
    let ca = table.ca.value?;
    Some(UpstreamTls {
        server_name: table.server_name.value?.map(|name| name.0),
        ca: ca.map(|name| files.add(name, "authorities of the upstream")),
        certificate: match table.certificate.value? {
            Some(entry) => Some(certificate(entry, files)?),
            None => None,
        },
    })
}

fn health(table: file::Health) -> Option<Health> {
    Some(Health {
        interval: table.interval.value?.0,
        timeout: table.timeout.value?.0,
        probe: table.probe.value?,
        unhealthy_after: table.unhealthy_after.value?.0,
        healthy_after: table.healthy_after.value?.0,
        slow_start: lasting(table.slow_start.value?),
    })
}

fn passive(table: file::Passive) -> Option<Passive> {
    Some(Passive { failures: table.failures.value?.0, eject: table.eject.value?.0 })
}

/// `hash` where a key is written, else `least-connections`.
fn balance(
    stated: Option<Balancing>,
    keys: Option<Vec<Spanned<HashKey>>>,
    bounded_load: Option<u64>,
) -> Balance {
    let Some(keys) = keys else {
        return match stated {
            Some(Balancing::RoundRobin) => Balance::RoundRobin,
            Some(Balancing::Hash | Balancing::LeastConnections) | None => Balance::LeastConnections,
        };
    };
    Balance::Hash { keys: keys.into_iter().map(Spanned::into_inner).collect(), bounded_load }
}

fn affinity_cookie(table: file::AffinityCookie) -> Option<AffinityCookie> {
    Some(AffinityCookie { name: table.name.value?.0, same_site: table.same_site.value? })
}

// ---- routes ----

fn route(table: file::Route, upstreams: &[Upstream], files: &mut Files<'_>) -> Option<Route> {
    let name = table.upstream.value??.into_inner().0;
    let listeners = table.listeners.value?;
    let subprotocols = table.subprotocols.value?;
    let mut limits = table.limits.value?;
    let mut timeouts = table.timeouts.value?;
    let response = timeouts.response.value.take()?;
    let gates = Gates {
        clients: table.clients.value?,
        origin: table.origin.value?,
        reject: table.reject.value?,
        handshakes: limits.handshakes.value.take()?,
        connections: limits.connections.value.take()?,
    };
    let (token, on_expiry) = match table.token.value? {
        Some(table) => token(table, files).map(|(token, expiry)| (Some(token), expiry))?,
        None => (None, OnExpiry::Close),
    };
    let (authorize, recheck) = match table.authorize.value? {
        Some(table) => authorize(table).map(|(authorize, recheck)| (Some(authorize), recheck))?,
        None => (None, None),
    };
    let code = table.unauthorized_code.value?;
    let plan = plan(limits, table.heartbeat.value?, timeouts, code)?;
    let plan = Plan { on_expiry, recheck, ..plan };
    let rates_per_subject = plan.counts_subjects();
    Some(Route {
        name: table.name.value?.into_inner().0.into(),
        host: table.host.value?.unwrap_or(HostPattern::Any),
        path: table.path.value?,
        upstream: upstreams.iter().position(|upstream| *upstream.name == *name)?,
        listeners: listeners.into_iter().map(|listener| listener.into_inner().0).collect(),
        rewrite: match table.rewrite.value? {
            Some(table) => rewrite(table)?,
            None => Rewrite::default(),
        },
        plain_http: table.plain_http.value?,
        response_timeout: response.0,
        subprotocols: subprotocols
            .map(|names| names.into_iter().map(|name| name.into_inner().0).collect()),
        compression: table.compression.value?,
        utf8: table.utf8.value?,
        on_removed: table.on_removed.value?,
        admittance: Admittance { token, rates_per_subject, authorize, ..admittance(gates)? },
        request_headers: header_edits(table.request_headers.value?)?,
        response_headers: header_edits(table.response_headers.value?)?,
        plan: Arc::new(plan),
    })
}

fn redirects(table: &file::Route) -> bool {
    table.redirect.written
}

fn redirect(table: file::Route) -> Option<Redirect> {
    let listeners = table.listeners.value?;
    Some(Redirect {
        name: table.name.value?.into_inner().0.into(),
        host: table.host.value?.unwrap_or(HostPattern::Any),
        path: table.path.value?,
        listeners: listeners.into_iter().map(|listener| listener.into_inner().0).collect(),
    })
}

/// What is said of who may come, in a route and its limits.
struct Gates {
    clients: file::Clients,
    origin: Option<StatedOrigin>,
    reject: Reject,
    handshakes: Option<file::Handshakes>,
    connections: Option<file::Connections>,
}

fn admittance(gates: Gates) -> Option<Admittance> {
    let mut admittance = Admittance {
        clients: Networks {
            allow: networks(gates.clients.allow.value?),
            deny: networks(gates.clients.deny.value?),
        },
        origin: match gates.origin {
            Some(stated) => origin(stated)?,
            None => Origin::Same,
        },
        reject: gates.reject,
        ..Admittance::default()
    };
    if let Some(table) = gates.handshakes {
        let burst = table.burst.value?;
        admittance.handshakes_per_client = table.per_client.value?.map(|rate| rate.at_once(burst));
        admittance.handshakes_total = table.total.value?.map(|rate| rate.at_once(None));
    }
    if let Some(table) = gates.connections {
        admittance.connections_total = table.total.value?.map(Count::as_usize);
        admittance.connections_per_client = table.per_client.value?.map(Count::as_usize);
        admittance.connections_per_subject = table.per_subject.value?.map(Count::as_usize);
    }
    Some(admittance)
}

/// The rule, and what becomes of live connections.
fn token(table: file::Token, files: &mut Files<'_>) -> Option<(Token, OnExpiry)> {
    let inner = |words: Spanned<Words>| words.into_inner().0;
    let audience = table.audience.value?.unwrap_or_default();
    let forward = table.forward.value?.0;
    let token = Token {
        from: table.from.value?.into_iter().map(Spanned::into_inner).collect(),
        algorithms: table.algorithms.value?.into_iter().map(Spanned::into_inner).collect(),
        keys: keys(table.keys.value?, files)?,
        issuer: table.issuer.value?.map(|words| words.0),
        audience: audience.into_iter().map(inner).collect(),
        required: table.required.value?.0,
        leeway: table.leeway.value?,
        forward: forward.into_iter().map(|(claim, header, _)| (claim, header)).collect(),
        strip: table.strip.value?,
    };
    Some((token, table.on_expiry.value?))
}

fn keys(table: file::Keys, files: &mut Files<'_>) -> Option<KeySource> {
    if let Some(url) = table.jwks_url.value? {
        return Some(KeySource::JwksUrl(url.into_inner().0));
    }
    if let Some(name) = table.jwks_file.value? {
        return Some(KeySource::JwksFile(files.add(name, "key set")));
    }
    if let Some(name) = table.public_key_file.value? {
        return Some(KeySource::PublicKeyFile(files.add(name, "public key")));
    }
    if let Some(name) = table.secret_file.value? {
        return Some(KeySource::SecretFile(files.add(name, "secret")));
    }
    table.secret_env.value?.map(|name| KeySource::SecretEnv(files.variable(name)))
}

/// The service, and how often it is asked again.
fn authorize(table: file::Authorize) -> Option<(Authorize, Option<Duration>)> {
    let copied = table.copy_headers.value?;
    let authorize = Authorize {
        url: table.url.value?.0,
        timeout: table.timeout.value?.0,
        copy_headers: copied.into_iter().map(|header| header.into_inner().0).collect(),
        subject: table.subject.value?.map(|header| header.0),
    };
    Some((authorize, lasting(table.recheck.value?)))
}

fn origin(stated: StatedOrigin) -> Option<Origin> {
    match stated {
        StatedOrigin::Any => Some(Origin::Any),
        StatedOrigin::Listed(table) => Some(Origin::Listed {
            allow: table.allow.value?,
            missing_allowed: table.missing.value? == MissingOrigin::Allow,
        }),
    }
}

fn rewrite(table: file::Rewrite) -> Option<Rewrite> {
    let text = |prefix: PathPrefix| prefix.0;
    Some(Rewrite {
        strip_prefix: table.strip_prefix.value?.map(Spanned::into_inner).map(text),
        add_prefix: table.add_prefix.value?.map(text),
    })
}

fn header_edits(table: file::HeaderEdits) -> Option<HeaderEdits> {
    let remove = table.remove.value?;
    Some(HeaderEdits {
        set: table.set.value?.0,
        remove: remove.into_iter().map(|header| header.0).collect(),
    })
}

fn plan(
    limits: file::Limits,
    heartbeat: file::Heartbeat,
    timeouts: file::RouteTimeouts,
    unauthorized_code: CloseCode,
) -> Option<Plan> {
    let upstream = limits.upstream.value?;
    Some(Plan {
        client: sizes(limits.max_frame_size.value?, limits.max_message_size.value?),
        upstream: sizes(upstream.max_frame_size.value?, upstream.max_message_size.value?),
        control_frames: limits.control_frames.value?.with_burst(CONTROL_BURST),
        messages: match limits.messages.value? {
            Some(table) => Some(messages(table)?),
            None => None,
        },
        bytes: match limits.bytes.value? {
            Some(table) => Some(bytes(table)?),
            None => None,
        },
        frame_stall: lasting(limits.frame_stall.value?),
        backlog: limits.backlog.value?.in_memory(),
        slow_consumer: lasting(limits.slow_consumer.value?),
        heartbeat: beats(heartbeat)?,
        idle: lasting(timeouts.idle.value?),
        max_age: lasting(timeouts.max_age.value?),
        close: timeouts.close.value?.0,
        on_expiry: OnExpiry::Close,
        unauthorized_code: unauthorized_code.0.into(),
        recheck: None,
    })
}

fn messages(table: file::Messages) -> Option<Allowance> {
    let rate = table.rate.value?.at_once(table.burst.value?);
    Some(Allowance { rate, per: table.per.value?, action: table.action.value? })
}

fn bytes(table: file::ByteRate) -> Option<Allowance> {
    let rate = table.rate.value?.at_once(table.burst.value?);
    Some(Allowance { rate, per: table.per.value?, action: table.action.value?.0 })
}

fn sizes(frame: OrOff<Bytes>, message: OrOff<Bytes>) -> Sizes {
    let bound = |size: OrOff<Bytes>| size.on().map_or(u64::MAX, |bytes| bytes.0);
    Sizes { max_frame: bound(frame), max_message: bound(message) }
}

fn lasting(duration: OrOff<Lasting>) -> Option<Duration> {
    duration.on().map(|lasting| lasting.0)
}

fn beats(table: file::Heartbeat) -> Option<Heartbeat> {
    let upstream = table.upstream.value?;
    Some(Heartbeat {
        client: Beat {
            interval: lasting(table.interval.value?),
            timeout: lasting(table.timeout.value?),
        },
        upstream: Beat {
            interval: lasting(upstream.interval.value?),
            timeout: lasting(upstream.timeout.value?),
        },
        forward: table.forward.value?,
    })
}

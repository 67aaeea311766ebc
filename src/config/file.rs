//! The shape of the file: every table, every key, its default and its meaning, declared once.
//!
//! The reader, the hints for unknown keys and the JSON Schema all come from here. What the keys
//! have to do with each other is `validate`'s.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use toml::Spanned;

use super::admin::HostName;
use super::balancing::{Balancing, BoundedLoad, CookieName, EndpointId, Weight};
use super::endpoints::{ServerName, SourceAddress};
use super::names::{
    ByteAction, ClientCertificate, FileName, Header, Headers, ListenAddress, MissingOrigin, Name,
    Network, PathPrefix, Redirect, SentHost, Subprotocol,
};
use super::origins::StatedOrigin;
use super::quantities::{Bytes, BytesPerTime, CloseCode, Count, Lasting, OrOff, PerTime, Workers};
use super::reader::{Literal, Tables, table};
use super::tokens::{Forwarded, KeysUrl, RequiredClaims, Variable, Words};
use super::urls::Url;
use super::{
    AdminAddress, Compression, EndpointAddress, HashKey, HostAndPort, LogFormat, OnRemoved,
    OriginPattern, PlainHttp, Probe, Reject, SameSite, TokenSource, Utf8,
};
use crate::plan::{Action, OnExpiry, Payer};
use crate::route::{HostPattern, PathPattern};

/// A size that may be any.
type AnySize = Bytes;
/// hyper's own buffer is never smaller.
type HeadSize = Bytes<8192, { 16 << 20 }>;
/// Longer targets than 64 KiB hyper itself refuses.
type TargetSize = Bytes<1, 65536>;

table! {
    /// The configuration of wsgate, a WebSocket edge.
    "the file": File {
        /// The process as a whole.
        server: Server = Literal::EmptyTable,
        /// Where clients connect.
        listener: Tables<Listener>,
        /// The servers behind the edge.
        upstream: Tables<Upstream>,
        /// Which requests go to which upstream, and under what rules.
        route: Tables<Route>,
        /// Where operators look and act; without this table nothing listens for them.
        admin: Option<Admin>,
    }
}

table! {
    /// Where operators look and act; without this table nothing listens for them.
    "[admin]": Admin {
        /// For metrics and the API: "ip:port" or "unix:/path".
        listen: Option<Spanned<AdminAddress>>,
        /// For /healthz, /readyz and /metrics alone, without a token.
        probes: Option<Spanned<AdminAddress>>,
        /// A file whose content is the token; without one nothing can be changed over TCP.
        token_file: Option<Spanned<FileName>>,
        /// Names that `listen` may be called by, besides IP addresses and localhost.
        hosts: Vec<Spanned<HostName>> = Literal::EmptyList,
    }
}

table! {
    /// The process as a whole.
    "[server]": Server {
        /// Worker threads: a number, or "auto" for one a core.
        workers: Workers = "auto",
        /// Networks whose X-Forwarded-* and PROXY headers are believed.
        trusted_proxies: Vec<Network> = Literal::EmptyList,
        /// How the process stops.
        drain: Drain = Literal::EmptyTable,
        /// The most that all backlogs together may hold; it is split over the workers.
        backlog_total: AnySize = "512MiB",
        /// What is logged.
        log: Log = Literal::EmptyTable,
    }
}

table! {
    /// How the process stops.
    "[server.drain]": Drain {
        /// From the signal until the listeners close, so that balancers can look away first.
        delay: Duration = "0s",
        /// The time over which the Close frames are spread.
        window: Duration = "10s",
        /// From the signal until what is left is cut.
        timeout: Lasting = "30s",
        /// The close code that clients get.
        code: CloseCode = Literal::Whole("1012"),
    }
}

table! {
    /// What is logged.
    "[server.log]": Log {
        /// One JSON object a line, or text for people.
        format: LogFormat = "json",
        /// The least severe lines that are written.
        level: tracing::Level = "info",
    }
}

table! {
    /// Where clients connect.
    "[[listener]]": Listener {
        /// An IP address and a port.
        listen: ListenAddress,
        /// Each connection begins with a PROXY header, and must come from `server.trusted_proxies`.
        proxy_protocol: bool = false,
        /// Deadlines before a request is whole.
        timeouts: ListenerTimeouts = Literal::EmptyTable,
        /// Bounds on what clients can take.
        limits: ListenerLimits = Literal::EmptyTable,
        /// HTTP/2 beside HTTP/1.1, as TLS's ALPN agrees; a plain listener speaks HTTP/1.1.
        http2: bool = true,
        /// Several processes may share the address; else a taken port is an error.
        reuse_port: bool = false,
        /// Certificates; without this table the listener speaks plain HTTP.
        tls: Option<ListenerTls>,
    }
}

table! {
    /// Deadlines before a request is whole.
    "[listener.timeouts]": ListenerTimeouts {
        /// For the TLS handshake.
        tls: Lasting = "10s",
        /// For a request's head.
        header: Lasting = "10s",
        /// For the next request on an open connection.
        keepalive: Lasting = "75s",
    }
}

table! {
    /// Bounds on what clients can take.
    "[listener.limits]": ListenerLimits {
        /// The size of a request's head.
        header_bytes: HeadSize = "32KiB",
        /// The size of a request's target: path and query.
        uri: TargetSize = "8KiB",
        /// Open connections.
        connections: Count = Literal::Whole("100000"),
        /// Connections whose TLS handshake or first request is not yet whole.
        pending: Count = Literal::Whole("1000"),
    }
}

table! {
    /// How a listener speaks TLS.
    "[listener.tls]": ListenerTls {
        /// Certificates; with several the client's SNI chooses, and the first serves all others.
        certificates: Vec<Certificate>,
        /// A file of authorities whose client certificates are accepted.
        client_ca: Option<Spanned<FileName>>,
        /// Whether a client must show a certificate, or is only asked for one.
        client_auth: ClientCertificate = "require",
    }
}

table! {
    /// A certificate and its key, in PEM.
    "a certificate's table": Certificate {
        /// The certificate and those between it and its authority.
        chain: Spanned<FileName>,
        /// The private key.
        key: Spanned<FileName>,
    }
}

table! {
    /// The servers behind the edge.
    "[[upstream]]": Upstream {
        /// What routes call it.
        name: Spanned<Name>,
        /// Where its servers listen: "ip:port", "name:port" or "unix:/path", or a table.
        endpoints: Option<Vec<Spanned<super::names::Endpoint>>>,
        /// A name whose every address is an endpoint, besides those in `endpoints`.
        resolve: Option<Resolve>,
        /// How an endpoint is chosen; absent: "hash" with a `hash_key`, else "least-connections".
        balance: Option<Balancing>,
        /// What a client is known by, so that it comes to one endpoint: the first that is there.
        hash_key: Option<Vec<Spanned<HashKey>>>,
        /// A file whose content keys hashes and affinity cookies, the same on every replica.
        hash_seed_file: Option<Spanned<FileName>>,
        /// How far over its share of the connections an endpoint may be, as a factor.
        bounded_load: Option<BoundedLoad>,
        /// A cookie that brings a browser back to its endpoint.
        affinity_cookie: Option<AffinityCookie>,
        /// For the connection to an endpoint.
        connect_timeout: Lasting = "5s",
        /// For the whole handshake: every dial and the endpoint's answer.
        handshake_timeout: Lasting = "10s",
        /// The Host it sees: "pass" for the client's, or a name.
        host: SentHost = "pass",
        /// Local addresses to dial from, in turn; empty: as the system chooses.
        source_addresses: Vec<Spanned<SourceAddress>> = Literal::EmptyList,
        /// How endpoints are spoken to by TLS; absent: plain.
        tls: Option<UpstreamTls>,
        /// Probes that find out which endpoints are well; absent: none.
        health: Option<Health>,
        /// When failed handshakes make an endpoint be passed over.
        passive: Passive = Literal::EmptyTable,
        /// What becomes of the sockets of an endpoint that is deleted from this file.
        on_removed: OnRemoved = "close",
    }
}

table! {
    /// A name whose every address is an endpoint.
    "[upstream.resolve]": Resolve {
        /// A host name and the port of all its addresses.
        name: HostAndPort,
        /// How often it is looked up.
        refresh: Lasting = "5s",
    }
}

table! {
    /// How endpoints are spoken to by TLS.
    "[upstream.tls]": UpstreamTls {
        /// The name its certificate must be for; absent: the endpoint's own host or address.
        server_name: Option<ServerName>,
        /// A file of authorities to trust; absent: those of the system.
        ca: Option<Spanned<FileName>>,
        /// What is shown to an endpoint that asks for a certificate.
        certificate: Option<Certificate>,
    }
}

table! {
    /// Probes that find out which endpoints are well.
    "[upstream.health]": Health {
        /// From one probe of an endpoint to the next.
        interval: Lasting = "5s",
        /// For one probe.
        timeout: Lasting = "2s",
        /// "tcp", "http:/path" or "websocket:/path".
        probe: Probe = "tcp",
        /// So many failed probes in a row take an endpoint out.
        unhealthy_after: Count = Literal::Whole("3"),
        /// So many good probes in a row bring it back.
        healthy_after: Count = Literal::Whole("2"),
        /// The time over which the weight of an endpoint that came back rises.
        slow_start: OrOff<Lasting> = "off",
    }
}

table! {
    /// When failed handshakes make an endpoint be passed over.
    "[upstream.passive]": Passive {
        /// So many in a row.
        failures: Count = Literal::Whole("3"),
        /// For so long; twice as long each time in a row, up to 5 minutes.
        eject: Lasting = "10s",
    }
}

table! {
    /// One server behind the edge.
    "an endpoint": Endpoint {
        /// "ip:port", "name:port" or "unix:/path".
        address: EndpointAddress,
        /// Its part of the load against the others'.
        weight: Weight = Literal::Whole("1"),
        /// The most connections that it may have of this process.
        max_connections: Option<Count>,
        /// It is used only while no other is usable.
        backup: bool = false,
        /// What it is known by when keys are hashed; absent: its address.
        id: Option<EndpointId>,
    }
}

table! {
    /// A cookie that brings a browser back to its endpoint.
    "[upstream.affinity_cookie]": AffinityCookie {
        /// What it is called.
        name: CookieName = "wsgate_affinity",
        /// Which pages' requests carry it: "none" needs TLS.
        same_site: SameSite = "lax",
    }
}

table! {
    /// Which requests go to which upstream, and under what rules.
    "[[route]]": Route {
        /// What logs and metrics call it.
        name: Spanned<Name>,
        /// A name, or *.example.com for all below it; absent: any.
        host: Option<HostPattern>,
        /// A prefix that ends at a slash of the request; "=/ws" is /ws alone.
        path: PathPattern = "/",
        /// The name of an [[upstream]]; required, unless there is `redirect`.
        upstream: Option<Spanned<Name>>,
        /// "https": no upstream, but a 301 to the same host and path by https.
        redirect: Option<Redirect>,
        /// Addresses of listeners that serve it; empty: all.
        listeners: Vec<Spanned<ListenAddress>> = Literal::EmptyList,
        /// How the path changes on its way to the upstream.
        rewrite: Option<Rewrite>,
        /// Whether requests that ask for no WebSocket go to the upstream too.
        plain_http: PlainHttp = "reject",
        /// Subprotocols that may be agreed; absent: as client and upstream agree.
        subprotocols: Option<Vec<Spanned<Subprotocol>>>,
        /// The networks that may come.
        clients: Clients = Literal::EmptyTable,
        /// Which pages may connect: "any" or a table; absent: those of the host they call.
        origin: Option<StatedOrigin>,
        /// Who may come by a signed token (JWT).
        token: Option<Token>,
        /// What becomes of its sockets when the route is deleted from this file.
        on_removed: OnRemoved = "close",
        /// How a refused upgrade is told: by its status, or by a Close with 4000 + status.
        reject: Reject = "status",
        /// The close code of who is not, or no longer, authorized.
        unauthorized_code: CloseCode = Literal::Whole("4001"),
        /// Whether client and upstream may agree on permessage-deflate.
        compression: Compression = "pass",
        /// Whether text is checked to be UTF-8, which needs compression = "strip".
        utf8: Utf8 = "pass",
        /// A service that is asked whether a client may come.
        authorize: Option<Authorize>,
        /// Bounds on clients, connections, frames and messages.
        limits: Limits = Literal::EmptyTable,
        /// How dead connections are found.
        heartbeat: Heartbeat = Literal::EmptyTable,
        /// How long a connection lives.
        timeouts: RouteTimeouts = Literal::EmptyTable,
        /// What changes in the request's headers.
        request_headers: HeaderEdits = Literal::EmptyTable,
        /// What changes in the answer's headers.
        response_headers: HeaderEdits = Literal::EmptyTable,
    }
}

table! {
    /// The networks that may come.
    "[route.clients]": Clients {
        /// Networks that may; empty: all.
        allow: Vec<Network> = Literal::EmptyList,
        /// Networks that may not, whatever `allow` says.
        deny: Vec<Network> = Literal::EmptyList,
    }
}

table! {
    /// Which pages may connect.
    "[route.origin]": ListedOrigins {
        /// The origins of pages: "https://app.example.com", "https://*.example.com", or "null".
        allow: Vec<OriginPattern>,
        /// Whether a request without an Origin, which no browser sends, may come.
        missing: MissingOrigin = "reject",
    }
}

table! {
    /// Who may come by a signed token (JWT).
    "[route.token]": Token {
        /// Where a token may be; the first of these that is present decides.
        from: Vec<Spanned<TokenSource>> = Literal::Texts(&[
            "header:authorization", "cookie:token", "query:token", "subprotocol:bearer",
        ]),
        /// How tokens may be signed.
        algorithms: Vec<Spanned<Algorithm>> = Literal::Texts(&["RS256", "ES256", "EdDSA"]),
        /// What signatures are verified by: the URL of a key set, or a file or variable with keys.
        keys: Keys,
        /// What `iss` must be; absent: anything.
        issuer: Option<Words>,
        /// One of these must be in `aud`; absent: anything.
        audience: Option<Vec<Spanned<Words>>>,
        /// Claims and what they must be or contain.
        required: RequiredClaims = Literal::EmptyTable,
        /// How far clocks may differ.
        leeway: Duration = "30s",
        /// What becomes of a live connection when its token expires.
        on_expiry: OnExpiry = "close",
        /// Claims and the headers in which the upstream is told them.
        forward: Forwarded = Literal::EmptyTable,
        /// Whether the token is taken out of the request before it goes to the upstream.
        strip: bool = true,
    }
}

table! {
    /// What signatures are verified by: one of these.
    "[route.token.keys]": Keys {
        /// Where the issuer publishes its keys (a JWKS): https, or http on this machine.
        jwks_url: Option<Spanned<KeysUrl>>,
        /// A file with such a set.
        jwks_file: Option<Spanned<FileName>>,
        /// A file with a public key in PEM.
        public_key_file: Option<Spanned<FileName>>,
        /// A file with a secret; a line break at its end is not part of it.
        secret_file: Option<Spanned<FileName>>,
        /// An environment variable with a secret.
        secret_env: Option<Spanned<Variable>>,
    }
}

table! {
    /// A service that is asked whether a client may come.
    "[route.authorize]": Authorize {
        /// Where it gets the client's headers; it allows by 2xx and refuses by 401 or 403.
        url: Url,
        /// For its answer; without one nobody comes.
        timeout: Lasting = "5s",
        /// Headers of its answer that go to the upstream.
        copy_headers: Vec<Spanned<Header>> = Literal::EmptyList,
        /// The header of its answer that names the subject.
        subject: Option<Header>,
        /// How often it is asked again while a connection lives.
        recheck: OrOff<Lasting> = "off",
    }
}

table! {
    /// How the path changes on its way to the upstream.
    "[route.rewrite]": Rewrite {
        /// Whole segments that are taken off its front.
        strip_prefix: Option<Spanned<PathPrefix>>,
        /// What goes before the rest.
        add_prefix: Option<PathPrefix>,
    }
}

table! {
    /// Bounds on clients, connections, frames and messages.
    "[route.limits]": Limits {
        /// How often clients may connect.
        handshakes: Option<Handshakes>,
        /// How many connections there may be.
        connections: Option<Connections>,
        /// How many messages a client may send.
        messages: Option<Messages>,
        /// How many bytes of payload a client may send.
        bytes: Option<ByteRate>,
        /// The largest frame of a client, in bytes on the wire.
        max_frame_size: OrOff<AnySize> = "1MiB",
        /// The largest message of a client, in bytes on the wire.
        max_message_size: OrOff<AnySize> = "4MiB",
        /// The same for the upstream.
        upstream: UpstreamLimits = Literal::EmptyTable,
        /// Pings, pongs and needlessly small fragments of a client; ten times as many at once.
        control_frames: PerTime = "10/s",
        /// The longest pause within a frame.
        frame_stall: OrOff<Lasting> = "30s",
        /// What may wait for one side before the other is no longer read.
        backlog: AnySize = "256KiB",
        /// The longest time in which a backlog does not move.
        slow_consumer: OrOff<Lasting> = "60s",
    }
}

table! {
    /// How often clients may connect.
    "[route.limits.handshakes]": Handshakes {
        /// One client: an IPv4 address or an IPv6 /64.
        per_client: Option<PerTime>,
        /// So many of one client at once; absent: the number of `per_client`.
        burst: Option<Count>,
        /// All clients together.
        total: Option<PerTime>,
    }
}

table! {
    /// How many connections there may be.
    "[route.limits.connections]": Connections {
        /// Of all clients together.
        total: Option<Count>,
        /// Of one client: an IPv4 address or an IPv6 /64.
        per_client: Option<Count>,
        /// Of one subject, as a token or an authorizer names it.
        per_subject: Option<Count>,
    }
}

table! {
    /// How many messages a client may send.
    "[route.limits.messages]": Messages {
        /// So many messages in a time.
        rate: PerTime,
        /// So many at once; absent: the rate's own number.
        burst: Option<Count>,
        /// What has the rate for itself: a connection, or all of one subject together.
        per: Payer = "connection",
        /// What becomes of a message over it; "drop" needs compression = "strip".
        action: Action = "close",
    }
}

table! {
    /// How many bytes of payload a client may send.
    "[route.limits.bytes]": ByteRate {
        /// So many bytes in a time.
        rate: BytesPerTime,
        /// So many at once; absent: the rate's own number.
        burst: Option<AnySize>,
        /// What has the rate for itself: a connection, or all of one subject together.
        per: Payer = "connection",
        /// What becomes of a client over it.
        action: ByteAction = "throttle",
    }
}

table! {
    /// Bounds on what the upstream sends.
    "[route.limits.upstream]": UpstreamLimits {
        /// The largest frame, in bytes on the wire.
        max_frame_size: OrOff<AnySize> = "off",
        /// The largest message, in bytes on the wire.
        max_message_size: OrOff<AnySize> = "off",
    }
}

table! {
    /// How dead connections are found.
    "[route.heartbeat]": Heartbeat {
        /// How often a client is pinged.
        interval: OrOff<Lasting> = "30s",
        /// How long a client may stay silent after a ping.
        timeout: OrOff<Lasting> = "10s",
        /// The same for the upstream.
        upstream: UpstreamHeartbeat = Literal::EmptyTable,
        /// Pings and pongs pass end to end, and only a silent side is pinged.
        forward: bool = false,
    }
}

table! {
    /// How dead upstream connections are found.
    "[route.heartbeat.upstream]": UpstreamHeartbeat {
        /// How often the upstream is pinged.
        interval: OrOff<Lasting> = "30s",
        /// How long it may stay silent after a ping; "off": a silent one ends nothing.
        timeout: OrOff<Lasting> = "off",
    }
}

table! {
    /// How long a connection lives.
    "[route.timeouts]": RouteTimeouts {
        /// Of plain HTTP: until the head of an answer, and for each pause of a request's body.
        response: Lasting = "60s",
        /// Without a data frame either way.
        idle: OrOff<Lasting> = "off",
        /// At most; jitter shortens it.
        max_age: OrOff<Lasting> = "off",
        /// For the answer to a Close.
        close: Lasting = "5s",
    }
}

table! {
    /// What changes in the headers of a request or an answer.
    "[route.request_headers] and [route.response_headers]": HeaderEdits {
        /// Headers that are set, whatever they were before.
        set: Headers = Literal::EmptyTable,
        /// Headers that are taken out.
        remove: Vec<Header> = Literal::EmptyList,
    }
}

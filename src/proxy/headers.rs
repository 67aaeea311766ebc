//! Which header fields cross the edge, and which the edge writes itself.
//!
//! A field that an application trusts (who the client is, by which name and scheme it came) must
//! be the edge's word and never a client's. So the request to the upstream is written anew: what
//! concerns one hop only is left behind, then every field that the edge can set, in every
//! spelling that a backend may take for it, and only then does the edge set its own. The one
//! exception is a peer the operator listed as a trusted proxy: it speaks for its own clients.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RANGE, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, response};
use ipnet::IpNet;

use crate::config::{Compression, HeaderEdits};
use crate::ws;
use crate::ws::handshake::{Answer, Key, Offer, UpgradeRequest};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

/// RFC 9110 §7.6.1, and what older peers send of that kind.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that the edge sets on every request, trusted peer or not.
const OWN: [HeaderName; 8] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PROTO,
    X_REAL_IP,
    X_REQUEST_ID,
    FORWARDED,
    HOST,
];

/// What the edge knows by itself of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The other end of the client's socket.
    pub peer: IpAddr,
    pub client: ClientAddress,
    pub request_id: &'a RequestId,
    pub scheme: Scheme,
    /// The port at which the request was accepted.
    pub port: u16,
    /// The name by which the client called, as it sent it.
    pub host: &'a HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Who a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// An IPv4 address in IPv6 form stands here as IPv4.
    pub addr: IpAddr,
    /// The peer is a trusted proxy, so its forwarding fields are believed.
    pub trusted_hop: bool,
}

/// The client is the rightmost hop that is no trusted proxy: each proxy appends the address it
/// saw, so what stands left of that hop is its own word. Without a trusted peer it is the peer.
///
/// The walk stops at what is no address (`unknown`, a name, garbage), and the hop before it, a
/// trusted proxy, is taken for the client: wrong, but nobody's choice. Where all are trusted it is
/// the leftmost.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> ClientAddress {
    let is_trusted = |addr: &IpAddr| trusted.iter().any(|net| net.contains(addr));
    let mut addr = peer.to_canonical();
    let trusted_hop = is_trusted(&addr);
    let hops: Vec<&[u8]> = ws::elements(headers, &X_FORWARDED_FOR).collect();
    for hop in hops.into_iter().rev() {
        if !is_trusted(&addr) {
            break;
        }
        let Some(next) = hop_address(hop) else { break };
        addr = next;
    }
    ClientAddress { addr, trusted_hop }
}

/// An address, alone or with a port (`192.0.2.1:4711`, `[2001:db8::1]:4711`), as some proxies
/// write it.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let addr = IpAddr::from_str(bare)
        .or_else(|_| SocketAddr::from_str(text).map(|socket| socket.ip()))
        .ok()?;
    Some(addr.to_canonical())
}

/// The name under which a request is found in the logs of all who handled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    const MAX_LEN: usize = 128;

    /// A trusted proxy's own id, if it sent a fit one, `[A-Za-z0-9._-]{1,128}`; else a new one,
    /// made of these random bits.
    pub fn of(headers: &HeaderMap, client: ClientAddress, random: u128) -> RequestId {
        let sent = last(headers, &X_REQUEST_ID);
        match sent.filter(|id| client.trusted_hop && Self::is_fit(id.as_bytes())) {
            Some(id) => RequestId(id.clone()),
            None => RequestId::new(random),
        }
    }

    pub fn new(random: u128) -> RequestId {
        let text = format!("{random:032x}");
        RequestId(HeaderValue::try_from(text).expect("hex digits are visible ASCII"))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("an id is made of visible ASCII")
    }

    fn is_fit(id: &[u8]) -> bool {
        let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        (1..=Self::MAX_LEN).contains(&id.len()) && id.iter().all(fit)
    }
}

/// What others say of a client and the upstream is told: every field that may say so on this
/// route, and those that do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims<'a> {
    pub names: &'a [HeaderName],
    pub fields: &'a [(HeaderName, HeaderValue)],
}

/// What of a client's offer goes to the upstream of a route with these subprotocols (`None`: any)
/// and this compression.
pub fn permitted_offer(
    request: &UpgradeRequest,
    subprotocols: Option<&[String]>,
    compression: Compression,
) -> Offer {
    let mut offer = request.offer(Key::random());
    if let Some(allowed) = subprotocols {
        offer = offer.only_subprotocols(allowed);
    }
    match compression {
        Compression::Pass => offer,
        Compression::Strip => offer.without_extensions(),
    }
}

/// The fields of the upgrade request to an upstream, from those the client sent.
///
/// `host` is sent in place of the client's Host. What stands in `claims` the client cannot say
/// itself. The handshake's own fields are written last, so that no edit can spoil them.
pub fn upstream_headers(
    client: &HeaderMap,
    facts: &Facts<'_>,
    offer: &Offer,
    host: Option<&HeaderValue>,
    claims: Claims<'_>,
    edits: &HeaderEdits,
) -> HeaderMap {
    let mut headers = written_anew(client, facts, host, claims, edits);
    offer.write(&mut headers);
    headers
}

/// The fields of a plain request to an upstream, from those the client sent; `length` is that of
/// its body, where it is known.
///
/// What frames the body is written from what was read of it, and last. `Expect` stays at the
/// edge, which tells the client itself to go on. Trailers pass, those whose field might pass too,
/// and so does the client's word that it takes them.
pub fn plain_request_headers(
    client: &HeaderMap,
    facts: &Facts<'_>,
    length: Option<u64>,
    host: Option<&HeaderValue>,
    claims: Claims<'_>,
    edits: &HeaderEdits,
) -> HeaderMap {
    let mut headers = written_anew(client, facts, host, claims, edits);
    headers.remove(EXPECT);
    if ws::elements(client, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    match length {
        Some(length) if client.contains_key(CONTENT_LENGTH) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        None => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            announce(&mut headers, client, |name| {
                passes_upstream(name, client, facts.client, claims, edits)
            });
        }
        Some(_) => {}
    }
    headers
}

/// Names the trailers of a message that may follow it.
fn announce(headers: &mut HeaderMap, from: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    for name in ws::elements(from, &TRAILER) {
        let name = HeaderName::from_bytes(name).ok().filter(&passes);
        if let Some(name) = name {
            headers.append(TRAILER, name.into());
        }
    }
}

/// What of a client's fields goes on, and what the edge adds.
fn written_anew(
    client: &HeaderMap,
    facts: &Facts<'_>,
    host: Option<&HeaderValue>,
    claims: Claims<'_>,
    edits: &HeaderEdits,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + OWN.len());
    for (name, value) in client {
        if passes_upstream(name, client, facts.client, claims, edits) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(HOST, host.unwrap_or(facts.host).clone());
    set_forwarding(&mut headers, client, facts);
    set_claims(&mut headers, claims);
    set_edits(&mut headers, edits);
    headers
}

/// The fields of the question to an authorizer about this request: the client's, less those of
/// the upgrade and of its body, and what the edge itself knows. What stands in `claims`, those of
/// a token, the client cannot say itself here either. The subprotocols stay: a browser has no
/// other field of its own to put a token in.
pub fn question_headers(
    client: &HeaderMap,
    facts: &Facts<'_>,
    method: &Method,
    target: HeaderValue,
    claims: Claims<'_>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(client.len() + OWN.len());
    let about_request = [X_ORIGINAL_METHOD, X_ORIGINAL_URI, CONTENT_LENGTH, EXPECT, RANGE];
    for (name, value) in client {
        let is = |other: &HeaderName| is_spelled(name, other);
        let is_ours = about_request.iter().chain(&OWN).chain(claims.names).any(is);
        let is_of_upgrade = is_of_handshake(name) && *name != SEC_WEBSOCKET_PROTOCOL;
        if !(is_ours
            || is_of_upgrade
            || is_of_one_hop(name, client)
            || is_forwarding_of_stranger(name, facts.client)
            || starts_with(name, "if-"))
        {
            headers.append(name, value.clone());
        }
    }
    set_forwarding(&mut headers, client, facts);
    set_claims(&mut headers, claims);
    let method = HeaderValue::from_str(method.as_str()).expect("a method is a token");
    headers.insert(X_ORIGINAL_METHOD, method);
    headers.insert(X_ORIGINAL_URI, target);
    headers
}

/// Backends that turn field names into variables (CGI, WSGI, PHP) cannot tell `_` from `-`, and
/// some (lighttpd) no mark from another, so a name is compared in all these spellings.
fn passes_upstream(
    name: &HeaderName,
    all: &HeaderMap,
    client: ClientAddress,
    claims: Claims<'_>,
    edits: &HeaderEdits,
) -> bool {
    let is = |other: &HeaderName| is_spelled(name, other);
    let set = || edits.set.iter().any(|(other, _)| is(other));
    !(is_of_one_hop(name, all)
        || is(&CONTENT_LENGTH)
        || is_of_handshake(name)
        || OWN.iter().any(is)
        || is_forwarding_of_stranger(name, client)
        || claims.names.iter().any(is)
        || set()
        || edits.remove.iter().any(is))
}

fn is_of_one_hop(name: &HeaderName, all: &HeaderMap) -> bool {
    let named = |element: &[u8]| element.eq_ignore_ascii_case(name.as_str().as_bytes());
    HOP_BY_HOP.iter().any(|other| is_spelled(name, other))
        || ws::elements(all, &CONNECTION).any(named)
}

fn is_of_handshake(name: &HeaderName) -> bool {
    starts_with(name, "sec-websocket-")
}

/// `X-Forwarded-Prefix`, `-User`, `-Ssl` and the like: only from a trusted proxy, and only in
/// that proxy's spelling.
fn is_forwarding_of_stranger(name: &HeaderName, client: ClientAddress) -> bool {
    let exact = name.as_str().starts_with("x-forwarded-");
    starts_with(name, "x-forwarded-") && !(client.trusted_hop && exact)
}

fn starts_with(name: &HeaderName, prefix: &str) -> bool {
    name.as_str().get(..prefix.len()).is_some_and(|start| same_spelling(start, prefix))
}

fn is_spelled(name: &HeaderName, other: &HeaderName) -> bool {
    same_spelling(name.as_str(), other.as_str())
}

pub(super) fn same_spelling(one: &str, other: &str) -> bool {
    let dash = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    one.bytes().map(dash).eq(other.bytes().map(dash))
}

/// A trusted proxy's fields are kept, and X-Forwarded-For grows by the peer; else they are what
/// the edge itself saw.
fn set_forwarding(headers: &mut HeaderMap, client: &HeaderMap, facts: &Facts<'_>) {
    let sent = |name: &HeaderName| last(client, name).filter(|_| facts.client.trusted_hop);
    let proto = sent(&X_FORWARDED_PROTO);
    let host = sent(&X_FORWARDED_HOST);
    let port = sent(&X_FORWARDED_PORT).cloned();
    let own_proto = HeaderValue::from_static(facts.scheme.as_str());
    headers.insert(X_FORWARDED_FOR, forwarded_for(client, facts));
    headers.insert(X_FORWARDED_HOST, host.unwrap_or(facts.host).clone());
    headers.insert(
        X_FORWARDED_PORT,
        port.unwrap_or_else(|| port_of_front(proto).unwrap_or(facts.port).into()),
    );
    headers.insert(X_FORWARDED_PROTO, proto.cloned().unwrap_or(own_proto));
    headers.insert(X_REAL_IP, address_value(facts.client.addr));
    headers.insert(X_REQUEST_ID, facts.request_id.0.clone());
}

/// A proxy in front that tells its scheme but not its port was reached at the scheme's own; ours
/// beside it would name a place that does not exist.
fn port_of_front(proto: Option<&HeaderValue>) -> Option<u16> {
    match proto?.as_bytes() {
        b"https" | b"wss" => Some(443),
        b"http" | b"ws" => Some(80),
        _ => None,
    }
}

fn forwarded_for(client: &HeaderMap, facts: &Facts<'_>) -> HeaderValue {
    let peer = address_value(facts.peer.to_canonical());
    if !facts.client.trusted_hop {
        return peer;
    }
    let mut hops: Vec<&[u8]> = ws::elements(client, &X_FORWARDED_FOR).collect();
    hops.push(peer.as_bytes());
    HeaderValue::from_bytes(&hops.join(b", ".as_slice())).unwrap_or(peer)
}

fn address_value(addr: IpAddr) -> HeaderValue {
    HeaderValue::try_from(addr.to_string()).expect("an address is visible ASCII")
}

/// The last line of a field: of several, the one the nearest hop added.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.get_all(name).into_iter().next_back()
}

/// The fields of the 101 to the client whose accept this is, or of HTTP/2's 200, from those of the
/// upstream's 101.
pub fn client_headers(
    upstream: &HeaderMap,
    accept: Option<HeaderValue>,
    answer: &Answer,
    edits: &HeaderEdits,
) -> HeaderMap {
    let mut headers = end_to_end(upstream, |name| {
        !is_of_handshake(name) && *name != CONTENT_LENGTH // RFC 9110 §8.6: a 1xx has none.
    });
    edit(&mut headers, edits);
    answer.write(accept, &mut headers);
    headers
}

/// The fields of an upstream's own answer that goes to the client as it is.
///
/// A 426 keeps its `Upgrade`, which it must have (RFC 9110 §15.5.22).
pub fn passed_headers(upstream: &response::Parts, edits: &HeaderEdits) -> HeaderMap {
    let mut headers = end_to_end(&upstream.headers, |_| true);
    edit(&mut headers, edits);
    if upstream.status == StatusCode::UPGRADE_REQUIRED {
        for protocol in upstream.headers.get_all(UPGRADE) {
            headers.append(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    headers
}

/// The fields of an upstream's answer to a plain request: with the names of its trailers.
pub fn plain_answer_headers(upstream: &response::Parts, edits: &HeaderEdits) -> HeaderMap {
    let mut headers = passed_headers(upstream, edits);
    announce(&mut headers, &upstream.headers, |name| !edits.remove.contains(name));
    headers
}

fn end_to_end(upstream: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let fields = upstream.iter().filter(|(name, _)| !is_of_one_hop(name, upstream));
    let mut headers = HeaderMap::with_capacity(upstream.len());
    for (name, value) in fields.filter(|(name, _)| passes(name)) {
        headers.append(name, value.clone());
    }
    headers
}

fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    set_edits(headers, edits);
}

fn set_claims(headers: &mut HeaderMap, claims: Claims<'_>) {
    for (name, _) in claims.fields {
        headers.remove(name);
    }
    for (name, value) in claims.fields {
        headers.append(name, value.clone());
    }
}

fn set_edits(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use http::header::SEC_WEBSOCKET_ACCEPT;
    use http::request;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";
    const STRANGER: &str = "203.0.113.9";
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).to_vec()
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_str(name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn edits(set: &[(&'static str, &'static str)], remove: &[&'static str]) -> HeaderEdits {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        HeaderEdits {
            set: set.iter().map(field).collect(),
            remove: remove.iter().copied().map(HeaderName::from_static).collect(),
        }
    }

    #[test]
    fn the_client_is_the_rightmost_hop_that_is_no_trusted_proxy() {
        let table: &[(&str, &[&str], &str)] = &[
            // A stranger's word is not asked.
            (STRANGER, &[], STRANGER),
            (STRANGER, &["198.51.100.1"], STRANGER),
            (PROXY, &[], PROXY),
            (PROXY, &["198.51.100.1"], "198.51.100.1"),
            // What a client wrote itself stands left of what its proxy saw.
            (PROXY, &["192.0.2.66, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["192.0.2.66", "198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            (PROXY, &["192.0.2.66, 198.51.100.1,, 10.9.9.9 ,"], "198.51.100.1"),
            (PROXY, &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            (PROXY, &["198.51.100.1:4711"], "198.51.100.1"),
            (PROXY, &["2001:db8::7"], "2001:db8::7"),
            (PROXY, &["[2001:db8::7]"], "2001:db8::7"),
            (PROXY, &["[2001:db8::7]:4711"], "2001:db8::7"),
            (PROXY, &["198.51.100.1, 2001:db8:1::5"], "198.51.100.1"),
            // IPv4 in IPv6 form is IPv4, to the list of proxies too.
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("::ffff:203.0.113.9", &["198.51.100.1"], STRANGER),
            // The walk stops at what is no address.
            (PROXY, &["unknown"], PROXY),
            (PROXY, &["198.51.100.1, unknown"], PROXY),
            (PROXY, &["198.51.100.1, _hidden, 10.2.2.2"], "10.2.2.2"),
            (PROXY, &["198.51.100.1, 10.2.2.2.2"], PROXY),
            (PROXY, &["198.51.100.1, fe80::1%eth0"], PROXY),
        ];
        for (peer, lines, expected) in table {
            let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let client = client_address(addr(peer), &map(&fields), &trusted());
            assert_eq!(client.addr, addr(expected), "{peer} {lines:?}");
            let by_proxy = addr(peer).to_canonical() == addr(PROXY);
            assert_eq!(client.trusted_hop, by_proxy, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_request_id_is_kept_from_a_trusted_proxy_when_it_is_fit() {
        let long = "a".repeat(129);
        let made = "0000000000000000000000000000002a";
        let table = [
            (PROXY, "Ab9._-", "Ab9._-"),
            (PROXY, &long[1..], &long[1..]),
            (PROXY, &long, made),
            (PROXY, "", made),
            (PROXY, "a b", made),
            (PROXY, "a\"b", made),
            (STRANGER, "Ab9._-", made),
        ];
        for (peer, sent, expected) in table {
            let headers = map(&[("x-request-id", sent)]);
            let client = client_address(addr(peer), &headers, &trusted());
            assert_eq!(RequestId::of(&headers, client, 42).as_str(), expected, "{peer} {sent}");
        }
    }

    fn upgrade(fields: &[(&str, &str)]) -> request::Parts {
        let mut parts = http::Request::get("/ws").body(()).unwrap().into_parts().0;
        parts.headers = map(&[
            ("host", "chat.example.com"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ]);
        for (name, value) in &map(fields) {
            parts.headers.append(name, value.clone());
        }
        parts
    }

    /// What an upstream is sent when this peer sends an upgrade with these fields besides.
    fn sent_upstream(peer: &str, fields: &[(&str, &str)], edits: &HeaderEdits) -> HeaderMap {
        let parts = upgrade(fields);
        let client = client_address(addr(peer), &parts.headers, &trusted());
        let facts = Facts {
            peer: addr(peer),
            client,
            request_id: &RequestId::of(&parts.headers, client, 42),
            scheme: Scheme::Https,
            port: 8443,
            host: &HeaderValue::from_static("chat.example.com"),
        };
        let offer =
            permitted_offer(&UpgradeRequest::parse(&parts).unwrap(), None, Compression::Pass);
        let claims = Claims::default();
        upstream_headers(&parts.headers, &facts, &offer, None, claims, edits)
    }

    fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn what_is_the_applications_passes_as_it_came() {
        let fields = [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Bearer x"),
            ("origin", "https://app.example.com"),
            ("x_custom", "1"),
        ];
        let sent = sent_upstream(STRANGER, &fields, &HeaderEdits::default());
        assert_eq!(values(&sent, "cookie"), ["a=1", "b=2"]);
        assert_eq!(values(&sent, "authorization"), ["Bearer x"]);
        assert_eq!(values(&sent, "origin"), ["https://app.example.com"]);
        assert_eq!(values(&sent, "x_custom"), ["1"]);
    }

    #[test]
    fn what_concerns_one_hop_stays_behind() {
        let fields = [
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer_encoding", "chunked"),
            ("content-length", "0"),
            ("content_length", "7"),
            ("upgrade", "h2c"),
            ("sec_websocket_key", "x"),
            ("sec-websocket-key1", "x"),
            ("sec-websocket-accept", "x"),
        ];
        let sent = sent_upstream(STRANGER, &fields, &HeaderEdits::default());
        for (name, _) in fields.iter().filter(|(name, _)| !["connection", "upgrade"].contains(name))
        {
            assert!(!sent.contains_key(*name), "{name}");
        }
        assert_eq!(values(&sent, "connection"), ["Upgrade"]);
        assert_eq!(values(&sent, "upgrade"), ["websocket"]);
    }

    #[test]
    fn the_handshake_is_the_edges_own() {
        let fields = [
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-extensions", "mux, permessage-deflate"),
        ];
        let sent = sent_upstream(STRANGER, &fields, &HeaderEdits::default());
        assert_eq!(values(&sent, "sec-websocket-version"), ["13"]);
        assert_ne!(values(&sent, "sec-websocket-key"), [KEY]);
        assert_eq!(values(&sent, "sec-websocket-protocol"), ["a, b"]);
        assert_eq!(values(&sent, "sec-websocket-extensions"), ["permessage-deflate"]);
    }

    #[test]
    fn a_route_may_narrow_the_offer() {
        let parts = upgrade(&[
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ]);
        let request = UpgradeRequest::parse(&parts).unwrap();
        let written = |allowed: &[&str], compression| {
            let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
            let mut headers = HeaderMap::new();
            permitted_offer(&request, Some(&allowed), compression).write(&mut headers);
            headers
        };
        let one = written(&["b"], Compression::Pass);
        assert_eq!(values(&one, "sec-websocket-protocol"), ["b"]);
        assert_eq!(values(&one, "sec-websocket-extensions"), ["permessage-deflate"]);
        let none = written(&["c"], Compression::Strip);
        assert!(!none.contains_key("sec-websocket-protocol"));
        assert!(!none.contains_key("sec-websocket-extensions"));
    }

    /// Forwarding fields as a client may forge them, in both spellings.
    const FORWARDING: [(&str, &str); 11] = [
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-for", "10.7.7.7"),
        ("x_forwarded_for", "192.0.2.66"),
        ("x-forwarded_proto", "https"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "front.example.com"),
        ("x-forwarded-port", "81"),
        ("x-forwarded-user", "admin"),
        ("forwarded", "for=192.0.2.66"),
        ("x-real-ip", "192.0.2.66"),
        ("x-request-id", "theirs"),
    ];

    #[test]
    fn a_strangers_forwarding_fields_are_replaced() {
        let sent = sent_upstream(STRANGER, &FORWARDING, &HeaderEdits::default());
        assert_eq!(values(&sent, "x-forwarded-for"), [STRANGER]);
        assert_eq!(values(&sent, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&sent, "x-forwarded-host"), ["chat.example.com"]);
        assert_eq!(values(&sent, "x-forwarded-port"), ["8443"]);
        assert_eq!(values(&sent, "x-real-ip"), [STRANGER]);
        assert_eq!(values(&sent, "x-request-id"), ["0000000000000000000000000000002a"]);
        for name in ["x_forwarded_for", "x-forwarded_proto", "x-forwarded-user", "forwarded"] {
            assert!(!sent.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_trusted_proxys_forwarding_fields_are_kept_and_appended_to() {
        let sent = sent_upstream(PROXY, &FORWARDING, &HeaderEdits::default());
        assert_eq!(values(&sent, "x-forwarded-for"), ["198.51.100.1, 10.7.7.7, 10.0.0.1"]);
        assert_eq!(values(&sent, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&sent, "x-forwarded-host"), ["front.example.com"]);
        assert_eq!(values(&sent, "x-forwarded-port"), ["81"]);
        assert_eq!(values(&sent, "x-forwarded-user"), ["admin"]);
        assert_eq!(values(&sent, "x-real-ip"), ["198.51.100.1"]);
        assert_eq!(values(&sent, "x-request-id"), ["theirs"]);
        for name in ["x_forwarded_for", "x-forwarded_proto", "forwarded"] {
            assert!(!sent.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_does_not_say_is_the_edges_word() {
        let none = HeaderEdits::default();
        let silent = sent_upstream(PROXY, &[], &none);
        assert_eq!(values(&silent, "x-forwarded-for"), [PROXY]);
        assert_eq!(values(&silent, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&silent, "x-forwarded-port"), ["8443"]);
        for (proto, port) in [("https", "443"), ("http", "80"), ("wss", "443"), ("?", "8443")] {
            let sent = sent_upstream(PROXY, &[("x-forwarded-proto", proto)], &none);
            assert_eq!(values(&sent, "x-forwarded-port"), [port], "{proto}");
        }
        let two = [("x-forwarded-proto", "forged"), ("x-forwarded-proto", "http")];
        assert_eq!(values(&sent_upstream(PROXY, &two, &none), "x-forwarded-proto"), ["http"]);
    }

    #[test]
    fn a_field_that_connection_names_is_still_set_by_the_edge() {
        let fields = [("connection", "x-forwarded-for, x-real-ip, host, cookie"), ("cookie", "a")];
        let sent = sent_upstream(STRANGER, &fields, &HeaderEdits::default());
        assert_eq!(values(&sent, "x-forwarded-for"), [STRANGER]);
        assert_eq!(values(&sent, "x-real-ip"), [STRANGER]);
        assert_eq!(values(&sent, "host"), ["chat.example.com"]);
        assert!(!sent.contains_key("cookie"));
    }

    #[test]
    fn a_routes_edits_win_over_every_spelling() {
        let edits = edits(&[("x-edge", "wsgate"), ("x-real-ip", "hidden")], &["x-debug"]);
        let fields =
            [("x-edge", "forged"), ("x_edge", "forged"), ("x-debug", "1"), ("x_debug", "1")];
        let sent = sent_upstream(STRANGER, &fields, &edits);
        assert_eq!(values(&sent, "x-edge"), ["wsgate"]);
        assert_eq!(values(&sent, "x-real-ip"), ["hidden"]);
        for name in ["x_edge", "x-debug", "x_debug"] {
            assert!(!sent.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_claim_is_said_by_nobody_else() {
        let fields =
            [("x-user", "eve"), ("x_user", "eve"), ("X-Role", "admin"), ("x-other", "kept")];
        let parts = upgrade(&fields);
        let client = client_address(addr(PROXY), &parts.headers, &trusted());
        let facts = Facts {
            peer: addr(PROXY),
            client,
            request_id: &RequestId::new(1),
            scheme: Scheme::Http,
            port: 80,
            host: &parts.headers[HOST],
        };
        let offer = UpgradeRequest::parse(&parts).unwrap().offer(Key::random());
        let names = ["x-user", "x-role", "x-real-ip"].map(HeaderName::from_static);
        let told = map(&[("x-user", "a"), ("x-user", "b"), ("x-real-ip", "192.0.2.1")]);
        let told: Vec<_> = told.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let claims = Claims { names: &names, fields: &told };
        let edits = HeaderEdits::default();
        let sent = upstream_headers(&parts.headers, &facts, &offer, None, claims, &edits);
        assert_eq!(values(&sent, "x-user"), ["a", "b"]);
        assert_eq!(values(&sent, "x-real-ip"), ["192.0.2.1"]);
        assert_eq!(values(&sent, "x-other"), ["kept"]);
        assert!(!sent.contains_key("x_user") && !sent.contains_key("x-role"));
    }

    #[test]
    fn no_edit_spoils_the_handshake() {
        let edits = edits(&[("connection", "close"), ("sec-websocket-version", "8")], &["upgrade"]);
        let sent = sent_upstream(STRANGER, &[], &edits);
        assert_eq!(values(&sent, "connection"), ["Upgrade"]);
        assert_eq!(values(&sent, "upgrade"), ["websocket"]);
        assert_eq!(values(&sent, "sec-websocket-version"), ["13"]);
    }

    #[test]
    fn an_upstreams_configured_host_is_sent_and_the_clients_told_beside() {
        let parts = upgrade(&[]);
        let client = client_address(addr(STRANGER), &parts.headers, &[]);
        let facts = Facts {
            peer: addr(STRANGER),
            client,
            request_id: &RequestId::new(1),
            scheme: Scheme::Http,
            port: 80,
            host: &parts.headers[HOST],
        };
        let offer = UpgradeRequest::parse(&parts).unwrap().offer(Key::random());
        let host = HeaderValue::from_static("inside");
        let edits = HeaderEdits::default();
        let sent = upstream_headers(
            &parts.headers,
            &facts,
            &offer,
            Some(&host),
            Claims::default(),
            &edits,
        );
        assert_eq!(values(&sent, "host"), ["inside"]);
        assert_eq!(values(&sent, "x-forwarded-host"), ["chat.example.com"]);
        assert_eq!(values(&sent, "x-forwarded-proto"), ["http"]);
    }

    fn answer(fields: &[(&str, &str)]) -> (response::Parts, Answer) {
        let mut own = HeaderMap::new();
        let offer = UpgradeRequest::parse(&upgrade(&[("sec-websocket-protocol", "chat")]));
        let offer = offer.unwrap().offer(Key::random());
        offer.write(&mut own);
        let mut request = upgrade(&[]);
        request.headers.insert("sec-websocket-key", own["sec-websocket-key"].clone());
        let accept = UpgradeRequest::parse(&request).unwrap().accept().unwrap();
        let mut parts = http::Response::builder().status(101).body(()).unwrap().into_parts().0;
        parts.headers = map(fields);
        parts.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        parts.headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.append(UPGRADE, HeaderValue::from_static("websocket"));
        let answer = offer.verify(&parts).unwrap();
        (parts, answer)
    }

    #[test]
    fn a_101_goes_back_with_the_upstreams_fields_and_the_edges_handshake() {
        let (parts, answer) = answer(&[
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("server", "app"),
            ("x-powered-by", "app"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "0"),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-version", "13"),
        ]);
        let edits = edits(&[("server", "wsgate")], &["x-powered-by"]);
        let accept = HeaderValue::from_static("client's");
        let sent = client_headers(&parts.headers, Some(accept), &answer, &edits);
        assert_eq!(values(&sent, "set-cookie"), ["a=1", "b=2"]);
        assert_eq!(values(&sent, "server"), ["wsgate"]);
        assert_eq!(sent[SEC_WEBSOCKET_ACCEPT], "client's");
        assert_eq!(sent[SEC_WEBSOCKET_PROTOCOL], "chat");
        assert_eq!(values(&sent, "connection"), ["Upgrade"]);
        assert_eq!(values(&sent, "upgrade"), ["websocket"]);
        assert_eq!(sent.len(), 7);
    }

    fn refusal(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut parts = http::Response::builder().status(status).body(()).unwrap().into_parts().0;
        parts.headers = map(fields);
        parts
    }

    #[test]
    fn an_upstreams_own_answer_passes_but_for_its_hop() {
        let parts = refusal(
            401,
            &[
                ("www-authenticate", "Bearer"),
                ("content-length", "5"),
                ("content-type", "text/plain"),
                ("connection", "close"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("x-powered-by", "app"),
            ],
        );
        let sent = passed_headers(&parts, &edits(&[("x-edge", "1")], &["x-powered-by"]));
        assert_eq!(values(&sent, "www-authenticate"), ["Bearer"]);
        assert_eq!(values(&sent, "content-length"), ["5"]);
        assert_eq!(values(&sent, "x-edge"), ["1"]);
        assert_eq!(sent.len(), 4);
    }

    #[test]
    fn an_upstreams_426_keeps_what_it_asks_to_upgrade_to() {
        let fields = [("upgrade", "websocket"), ("connection", "upgrade, close")];
        let sent = passed_headers(&refusal(426, &fields), &HeaderEdits::default());
        assert_eq!(values(&sent, "upgrade"), ["websocket"]);
        assert_eq!(values(&sent, "connection"), ["upgrade"]);
    }

    proptest! {
        #[test]
        fn any_forwarding_line_yields_a_client_and_one_line_upstream(
            line in proptest::collection::vec(prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8], 0..60)
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(&line).unwrap());
            let client = client_address(addr(PROXY), &headers, &trusted());
            let facts = Facts {
                peer: addr(PROXY),
                client,
                request_id: &RequestId::of(&headers, client, 42),
                scheme: Scheme::Http,
                port: 80,
                host: &HeaderValue::from_static("a"),
            };
            let forwarded = forwarded_for(&headers, &facts);
            prop_assert!(forwarded.as_bytes().ends_with(PROXY.as_bytes()));
            prop_assert!(!client.addr.to_string().is_empty());
        }

        #[test]
        fn a_stranger_is_the_client_whatever_it_writes(line in "[0-9a-f:., \\[\\]]{0,40}") {
            let headers = map(&[("x-forwarded-for", line.trim())]);
            let client = client_address(addr(STRANGER), &headers, &trusted());
            prop_assert_eq!(client.addr, addr(STRANGER));
        }
    }
}

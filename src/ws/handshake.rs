//! The opening handshake of RFC 6455 §4, both halves of it.
//!
//! The edge is a server to the client and a client to the upstream, and the two handshakes are
//! separate: a client's [`UpgradeRequest`] becomes an [`Offer`] under a key of the edge's own, the
//! upstream's 101 is held against that offer, and the [`Answer`] found good goes back to the
//! client beside the accept of the client's key. An `Answer` exists only when the check passed.

use std::collections::HashSet;

use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request, response,
};
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::extensions::{Deflate, ExtensionFault, NotAList, Offers};
use super::fields;

/// Which HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    /// There a WebSocket is a stream, begun by an extended CONNECT (RFC 8441).
    Two,
}

impl Http {
    pub fn of(version: Version) -> Http {
        if version == Version::HTTP_2 { Http::Two } else { Http::One }
    }

    /// As ALPN names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Http::One => "http/1.1",
            Http::Two => "h2",
        }
    }

    /// The status by which a WebSocket begins (RFC 6455 §4.2.2, RFC 8441 §5).
    pub fn status_of_success(self) -> StatusCode {
        match self {
            Http::One => StatusCode::SWITCHING_PROTOCOLS,
            Http::Two => StatusCode::OK,
        }
    }
}

/// A client's request that may be answered with a 101 (RFC 6455 §4.2.1), or with the 200 that
/// stands for it in HTTP/2 (RFC 8441 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// In HTTP/2 there is none.
    key: Option<Key>,
    subprotocols: Vec<String>,
    extensions: Offers,
}

impl UpgradeRequest {
    /// Reads a request's head. Host and target are the route's to judge.
    ///
    /// A request asks for an upgrade when `Upgrade` and `Connection` both say so; one without the
    /// other is plain HTTP (RFC 9110 §7.8: an Upgrade that Connection does not name was meant for
    /// another hop). What asks and cannot be granted is malformed, or of another version.
    pub fn parse(parts: &request::Parts) -> Result<UpgradeRequest, NotUpgrade> {
        let headers = &parts.headers;
        if !asks_for_websocket(parts.version, &parts.extensions, headers) {
            return Err(NotUpgrade::PlainHttp);
        }
        let http = Http::of(parts.version);
        if http == Http::One && parts.method != Method::GET {
            return Err(Malformed::Method.into());
        }
        if http == Http::One && parts.version != Version::HTTP_11 {
            return Err(Malformed::HttpVersion.into());
        }
        no_body(headers)?;
        version_13(headers)?;
        Ok(UpgradeRequest {
            key: match http {
                Http::One => Some(key(headers)?),
                Http::Two => None,
            },
            subprotocols: subprotocols(headers)?,
            extensions: Offers::parse(headers)?,
        })
    }

    pub fn http(&self) -> Http {
        if self.key.is_some() { Http::One } else { Http::Two }
    }

    /// The `Sec-WebSocket-Accept` that answers this client; none in HTTP/2.
    pub fn accept(&self) -> Option<HeaderValue> {
        self.key.as_ref().map(Key::accept)
    }

    /// The subprotocols in the client's order of preference; no two are the same.
    pub fn subprotocols(&self) -> &[String] {
        &self.subprotocols
    }

    pub fn extensions(&self) -> &Offers {
        &self.extensions
    }

    /// The fields of an answer for a connection that is closed at once: with the first
    /// subprotocol, since a browser that offered some must get one, and no extension.
    pub fn accept_to_close(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        write_accept(self.accept(), &mut headers);
        if let Some(first) = self.subprotocols.first() {
            let first = HeaderValue::try_from(first).expect("tokens are visible ASCII");
            headers.insert(SEC_WEBSOCKET_PROTOCOL, first);
        }
        headers
    }

    /// What the client offers, as the edge's own offer to an upstream.
    pub fn offer(&self, key: Key) -> Offer {
        let UpgradeRequest { subprotocols, extensions, .. } = self.clone();
        Offer { key, subprotocols, extensions }
    }
}

/// Why a request is no upgrade, or not one that can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUpgrade {
    /// Nothing asks for a WebSocket. 426 on a route that serves nothing else.
    #[error("the request asks for no WebSocket")]
    PlainHttp,
    /// Another version than 13, or none: drafts before the fourth had none. 426, naming 13.
    #[error("Sec-WebSocket-Version is not 13")]
    WrongVersion,
    /// 400.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<NotAList> for NotUpgrade {
    fn from(_: NotAList) -> NotUpgrade {
        NotUpgrade::Malformed(Malformed::Extensions)
    }
}

/// What is wrong with a request that asks for a WebSocket. The texts tell its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a WebSocket handshake is a GET request")]
    Method,
    #[error("a WebSocket handshake is an HTTP/1.1 request")]
    HttpVersion,
    #[error("a WebSocket handshake has no body")]
    Body,
    #[error("Sec-WebSocket-Version must be one number")]
    Version,
    #[error("Sec-WebSocket-Key must be there once")]
    KeyCount,
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("Sec-WebSocket-Protocol must be a list of tokens")]
    Subprotocol,
    #[error("Sec-WebSocket-Protocol names a subprotocol twice")]
    RepeatedSubprotocol,
    #[error("Sec-WebSocket-Extensions must be a list of extensions")]
    Extensions,
}

/// Whether a request asks for a WebSocket, well or badly: by `Upgrade` and `Connection`, and in
/// HTTP/2, which has neither, by `:protocol` (RFC 8441 §4, where its method is CONNECT).
pub fn asks_for_websocket(version: Version, extensions: &Extensions, headers: &HeaderMap) -> bool {
    match Http::of(version) {
        Http::One => {
            fields::names(headers, &UPGRADE, "websocket")
                && fields::names(headers, &CONNECTION, "upgrade")
        }
        Http::Two => {
            let named = extensions.get::<Protocol>().map(Protocol::as_str);
            named.is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
        }
    }
}

/// Bytes of a body could not be told from the first frames.
fn no_body(headers: &HeaderMap) -> Result<(), Malformed> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let empty = !headers.contains_key(TRANSFER_ENCODING) && lengths.all(|length| length == "0");
    if empty { Ok(()) } else { Err(Malformed::Body) }
}

/// RFC 6455 §4.1 and §4.4: a client names one version, between 0 and 255.
fn version_13(headers: &HeaderMap) -> Result<(), NotUpgrade> {
    if !headers.contains_key(SEC_WEBSOCKET_VERSION) {
        return Err(NotUpgrade::WrongVersion);
    }
    let mut versions = fields::elements(headers, &SEC_WEBSOCKET_VERSION);
    match (versions.next(), versions.next()) {
        (Some(b"13"), None) => Ok(()),
        (Some(_), None) => Err(NotUpgrade::WrongVersion),
        _ => Err(Malformed::Version.into()),
    }
}

fn key(headers: &HeaderMap) -> Result<Key, Malformed> {
    let line = single(headers, &SEC_WEBSOCKET_KEY).ok_or(Malformed::KeyCount)?;
    Key::parse(line).ok_or(Malformed::Key)
}

/// RFC 6455 §4.1: the elements are tokens and all different. Case makes a difference.
fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Malformed> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for element in fields::elements(headers, &SEC_WEBSOCKET_PROTOCOL) {
        let name = fields::token(element).ok_or(Malformed::Subprotocol)?;
        if !seen.insert(name) {
            return Err(Malformed::RepeatedSubprotocol);
        }
        list.push(name.to_owned());
    }
    Ok(list)
}

/// A `Sec-WebSocket-Key`: 16 random bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(HeaderValue);

impl Key {
    pub fn random() -> Key {
        Key(HeaderValue::try_from(generate_key()).expect("base64 is visible ASCII"))
    }

    /// 24 characters that stand for 16 bytes. The four bits that the last one has to spare are
    /// not looked at, nor are they by the servers that clients know.
    fn parse(value: &HeaderValue) -> Option<Key> {
        let digits = value.as_bytes().strip_suffix(b"==")?;
        let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        (digits.len() == 22 && digits.iter().all(base64)).then(|| Key(value.clone()))
    }

    /// The accept that proves this key was read (RFC 6455 §4.2.2).
    fn accept(&self) -> HeaderValue {
        let accept = derive_accept_key(self.0.as_bytes());
        HeaderValue::try_from(accept).expect("base64 is visible ASCII")
    }
}

/// What the edge offers an upstream in its own handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    key: Key,
    subprotocols: Vec<String>,
    extensions: Offers,
}

impl Offer {
    /// An offer of no subprotocol and no extension.
    pub fn plain(key: Key) -> Offer {
        Offer { key, subprotocols: Vec::new(), extensions: Offers::NONE }
    }

    /// Leaves out the subprotocols that are not among these; it may leave none.
    pub fn only_subprotocols(mut self, allowed: &[String]) -> Offer {
        self.subprotocols.retain(|name| allowed.contains(name));
        self
    }

    pub fn without_subprotocols(mut self, names: &[String]) -> Offer {
        self.subprotocols.retain(|name| !names.contains(name));
        self
    }

    pub fn without_extensions(self) -> Offer {
        Offer { extensions: Offers::NONE, ..self }
    }

    /// Sets the handshake's own fields of a request (RFC 6455 §4.1).
    pub fn write(&self, headers: &mut HeaderMap) {
        write_upgrade(headers);
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, self.key.0.clone());
        if !self.subprotocols.is_empty() {
            let list = HeaderValue::try_from(self.subprotocols.join(", "));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, list.expect("tokens are visible ASCII"));
        }
        if let Some(extensions) = self.extensions.to_header() {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
    }

    /// Holds an upstream's 101 against this offer (RFC 6455 §4.1, the client's checks 2 to 6).
    pub fn verify(&self, answer: &response::Parts) -> Result<Answer, AnswerFault> {
        let headers = &answer.headers;
        let mut upgrade = fields::elements(headers, &UPGRADE);
        match (upgrade.next(), upgrade.next()) {
            (Some(name), None) if name.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(AnswerFault::Upgrade),
        }
        if !fields::names(headers, &CONNECTION, "upgrade") {
            return Err(AnswerFault::Connection);
        }
        if single(headers, &SEC_WEBSOCKET_ACCEPT) != Some(&self.key.accept()) {
            return Err(AnswerFault::Accept);
        }
        let subprotocol = self.verify_subprotocol(headers)?;
        let extensions = self.extensions.verify(headers)?;
        Ok(Answer { subprotocol, extensions })
    }

    fn verify_subprotocol(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, AnswerFault> {
        if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            return Ok(None);
        }
        let name = single(headers, &SEC_WEBSOCKET_PROTOCOL).ok_or(AnswerFault::Subprotocols)?;
        if self.subprotocols.iter().any(|offered| name == offered.as_str()) {
            return Ok(Some(name.clone()));
        }
        let text = String::from_utf8_lossy(name.as_bytes()).into_owned();
        Err(AnswerFault::SubprotocolNotOffered(text))
    }
}

/// What an upstream took of an [`Offer`]: legal, and so fit for the client whose offer it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    subprotocol: Option<HeaderValue>,
    extensions: Option<Deflate>,
}

impl Answer {
    pub fn subprotocol(&self) -> Option<&HeaderValue> {
        self.subprotocol.as_ref()
    }

    /// The same; where the upstream chose no subprotocol, this one of the client's.
    pub fn or_subprotocol(mut self, name: Option<&str>) -> Answer {
        let name = name.and_then(|name| HeaderValue::from_str(name).ok());
        self.subprotocol = self.subprotocol.or(name);
        self
    }

    /// Whether messages may be compressed: RSV1 on a message's first frame (RFC 7692 §6).
    pub fn compresses(&self) -> bool {
        self.extensions.is_some()
    }

    /// Sets the handshake's own fields of the answer to the client whose accept this is (§4.2.2).
    pub fn write(&self, accept: Option<HeaderValue>, headers: &mut HeaderMap) {
        write_accept(accept, headers);
        if let Some(subprotocol) = &self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        if let Some(deflate) = &self.extensions {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, deflate.to_header());
        }
    }
}

/// Why a 101 is no answer to the offer. The texts are for a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    #[error("the 101 does not say Upgrade: websocket")]
    Upgrade,
    #[error("the 101 does not say Connection: upgrade")]
    Connection,
    #[error("the 101 has no Sec-WebSocket-Accept, or not the one of our key")]
    Accept,
    #[error("Sec-WebSocket-Protocol came more than once")]
    Subprotocols,
    #[error("the subprotocol {0:?} was not offered")]
    SubprotocolNotOffered(String),
    #[error(transparent)]
    Extensions(#[from] ExtensionFault),
}

/// RFC 8441 §5: HTTP/2 has neither an upgrade nor a key to accept.
fn write_accept(accept: Option<HeaderValue>, headers: &mut HeaderMap) {
    if let Some(accept) = accept {
        write_upgrade(headers);
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

fn write_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next();
    first.filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key and accept of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const GOOD: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    fn request(fields: Fields) -> request::Parts {
        let mut request = http::Request::get("/ws");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The good request without the fields named here, and with these.
    fn changed(fields: Fields) -> request::Parts {
        let kept = GOOD.iter().filter(|(name, _)| fields.iter().all(|(other, _)| other != name));
        request(&kept.chain(fields).copied().collect::<Vec<_>>())
    }

    fn without(name: &str) -> request::Parts {
        request(&GOOD.iter().filter(|field| field.0 != name).copied().collect::<Vec<_>>())
    }

    #[test]
    fn a_browsers_handshake_is_read_whole() {
        let parts = changed(&[
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-protocol", "Chat"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ]);
        let upgrade = UpgradeRequest::parse(&parts).unwrap();
        assert_eq!(upgrade.accept().unwrap(), ACCEPT);
        assert_eq!(upgrade.subprotocols(), ["chat", "superchat", "Chat"]);
        assert!(!upgrade.extensions().is_empty());
    }

    #[test]
    fn odd_but_lawful_handshakes_are_taken() {
        let table: &[Fields] = &[
            &[("upgrade", "WebSocket")],
            &[("upgrade", "h2c, websocket")],
            &[("connection", "keep-alive"), ("connection", "upgrade")],
            &[("content-length", "0")],
            &[("sec-websocket-protocol", "")],
            &[("sec-websocket-extensions", "")],
            &[("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAB==")],
        ];
        for fields in table {
            assert!(UpgradeRequest::parse(&changed(fields)).is_ok(), "{fields:?}");
        }
    }

    #[test]
    fn what_asks_for_no_websocket_is_plain_http() {
        let table = [
            request(&[]),
            without("upgrade"),
            without("connection"),
            changed(&[("connection", "keep-alive")]),
            changed(&[("upgrade", "h2c")]),
            changed(&[("upgrade", "websocket/13")]),
            request(&[("content-length", "5")]),
        ];
        for parts in table {
            assert_eq!(UpgradeRequest::parse(&parts), Err(NotUpgrade::PlainHttp), "{parts:?}");
        }
    }

    #[test]
    fn another_version_or_none_is_answered_with_ours() {
        let table = [
            changed(&[("sec-websocket-version", "8")]),
            changed(&[("sec-websocket-version", "0")]),
            changed(&[("sec-websocket-version", "255")]),
            without("sec-websocket-version"),
            // Of another version's key nothing is known.
            changed(&[("sec-websocket-version", "14"), ("sec-websocket-key", "?")]),
        ];
        for parts in table {
            assert_eq!(UpgradeRequest::parse(&parts), Err(NotUpgrade::WrongVersion), "{parts:?}");
        }
    }

    #[test]
    fn what_asks_and_cannot_be_granted_is_malformed() {
        use Malformed::*;
        let table: &[(Fields, Malformed)] = &[
            (&[("transfer-encoding", "chunked")], Body),
            (&[("transfer-encoding", "identity")], Body),
            (&[("content-length", "1")], Body),
            (&[("content-length", "0"), ("content-length", "3")], Body),
            (&[("sec-websocket-version", "13"), ("sec-websocket-version", "13")], Version),
            (&[("sec-websocket-version", "13, 8")], Version),
            (&[("sec-websocket-version", "")], Version),
            (&[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)], KeyCount),
            (&[("sec-websocket-key", "")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=a")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j===Q")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j_Q==")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZXM=")], Key),
            (&[("sec-websocket-key", "c2hvcnQ=")], Key),
            (&[("sec-websocket-protocol", "a b")], Subprotocol),
            (&[("sec-websocket-protocol", "a/b")], Subprotocol),
            (&[("sec-websocket-protocol", "\"a\"")], Subprotocol),
            (&[("sec-websocket-protocol", "a, b, a")], RepeatedSubprotocol),
            (
                &[("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "a")],
                RepeatedSubprotocol,
            ),
            (&[("sec-websocket-extensions", "permessage-deflate;")], Extensions),
        ];
        for (fields, expected) in table {
            let verdict = UpgradeRequest::parse(&changed(fields));
            assert_eq!(verdict, Err(NotUpgrade::Malformed(*expected)), "{fields:?}");
        }
        let no_key = UpgradeRequest::parse(&without("sec-websocket-key"));
        assert_eq!(no_key, Err(NotUpgrade::Malformed(KeyCount)));
    }

    #[test]
    fn a_method_or_an_http_version_that_cannot_upgrade_is_malformed_only_when_it_asks_to() {
        for method in [Method::POST, Method::HEAD, Method::OPTIONS, Method::CONNECT] {
            let mut parts = changed(&[]);
            parts.method = method.clone();
            let verdict = UpgradeRequest::parse(&parts);
            assert_eq!(verdict, Err(NotUpgrade::Malformed(Malformed::Method)), "{method}");
            let mut plain = request(&[]);
            plain.method = method;
            assert_eq!(UpgradeRequest::parse(&plain), Err(NotUpgrade::PlainHttp));
        }
        for version in [Version::HTTP_09, Version::HTTP_10] {
            let mut parts = changed(&[]);
            parts.version = version;
            let verdict = UpgradeRequest::parse(&parts);
            assert_eq!(verdict, Err(NotUpgrade::Malformed(Malformed::HttpVersion)), "{version:?}");
        }
    }

    #[test]
    fn an_extended_connect_asks_without_a_key_and_is_answered_without_an_accept() {
        let connect = |protocol: &'static str, version: &'static str| {
            let mut parts = request(&[]);
            (parts.method, parts.version) = (Method::CONNECT, Version::HTTP_2);
            parts.headers.clear();
            parts.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(version));
            parts.extensions.insert(Protocol::from_static(protocol));
            UpgradeRequest::parse(&parts)
        };
        let upgrade = connect("websocket", "13").unwrap();
        assert_eq!((upgrade.http(), upgrade.accept()), (Http::Two, None));
        assert!(upgrade.accept_to_close().is_empty());
        assert_eq!(connect("websocket", "8"), Err(NotUpgrade::WrongVersion));
        assert_eq!(connect("connect-udp", "13"), Err(NotUpgrade::PlainHttp));
    }

    fn offer() -> Offer {
        let fields = [
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ];
        let key = Key::parse(&HeaderValue::from_static(KEY)).unwrap();
        UpgradeRequest::parse(&changed(&fields)).unwrap().offer(key)
    }

    fn written(offer: &Offer) -> HeaderMap {
        let mut headers = HeaderMap::new();
        offer.write(&mut headers);
        headers
    }

    #[test]
    fn what_an_offer_writes_reads_as_an_upgrade_with_the_same_offer() {
        let parts = {
            let mut parts = request(&[]);
            parts.headers = written(&offer());
            parts
        };
        let read = UpgradeRequest::parse(&parts).unwrap();
        assert_eq!(read.offer(read.key.clone().unwrap()), offer());
    }

    #[test]
    fn an_offer_is_cut_to_what_a_route_allows() {
        let allowed = ["superchat".to_owned(), "other".to_owned()];
        let headers = written(&offer().only_subprotocols(&allowed).without_extensions());
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "superchat");
        assert!(!headers.contains_key(SEC_WEBSOCKET_EXTENSIONS));
        let none = written(&offer().only_subprotocols(&[]));
        assert!(!none.contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn random_keys_are_keys_and_differ() {
        let (one, other) = (Key::random(), Key::random());
        assert_eq!(Key::parse(&one.0), Some(one.clone()));
        assert_ne!(one, other);
    }

    fn answer(fields: Fields) -> response::Parts {
        let good =
            [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)];
        let kept = good.iter().filter(|(name, _)| fields.iter().all(|(other, _)| other != name));
        let mut response = http::Response::builder().status(101);
        for (name, value) in kept.chain(fields).filter(|(_, value)| *value != "(none)") {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_lawful_101_is_taken() {
        let table: &[(Fields, Option<&str>, bool)] = &[
            (&[], None, false),
            (&[("upgrade", "WebSocket"), ("connection", "keep-alive, upgrade")], None, false),
            (&[("sec-websocket-protocol", "superchat")], Some("superchat"), false),
            (&[("sec-websocket-extensions", "permessage-deflate")], None, true),
        ];
        for (fields, subprotocol, compresses) in table {
            let answer = offer().verify(&answer(fields)).unwrap();
            assert_eq!(answer.subprotocol().map(|name| name.to_str().unwrap()), *subprotocol);
            assert_eq!(answer.compresses(), *compresses, "{fields:?}");
        }
    }

    #[test]
    fn an_unlawful_101_is_the_upstreams_fault() {
        use AnswerFault::*;
        let unoffered = |name: &str| SubprotocolNotOffered(name.to_owned());
        let table: &[(Fields, AnswerFault)] = &[
            (&[("upgrade", "(none)")], Upgrade),
            (&[("upgrade", "h2c")], Upgrade),
            (&[("upgrade", "websocket, h2c")], Upgrade),
            (&[("connection", "(none)")], Connection),
            (&[("connection", "close")], Connection),
            (&[("sec-websocket-accept", "(none)")], Accept),
            (&[("sec-websocket-accept", KEY)], Accept),
            (&[("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")], Accept),
            (&[("sec-websocket-accept", ACCEPT), ("sec-websocket-accept", ACCEPT)], Accept),
            (&[("sec-websocket-protocol", "Chat")], unoffered("Chat")),
            (&[("sec-websocket-protocol", "")], unoffered("")),
            (&[("sec-websocket-protocol", "chat, superchat")], unoffered("chat, superchat")),
            (
                &[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "chat")],
                Subprotocols,
            ),
            (
                &[("sec-websocket-extensions", "mux")],
                Extensions(ExtensionFault::NotOffered("mux".to_owned())),
            ),
        ];
        for (fields, fault) in table {
            assert_eq!(offer().verify(&answer(fields)), Err(fault.clone()), "{fields:?}");
        }
    }

    #[test]
    fn what_was_cut_from_the_offer_may_not_be_answered() {
        let cut = offer().only_subprotocols(&["superchat".to_owned()]).without_extensions();
        assert!(cut.verify(&answer(&[("sec-websocket-protocol", "chat")])).is_err());
        let deflate = [("sec-websocket-extensions", "permessage-deflate")];
        assert!(cut.verify(&answer(&deflate)).is_err());
    }

    #[test]
    fn the_clients_101_has_its_own_accept_and_what_was_agreed() {
        let agreed = offer().verify(&answer(&[
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "permessage-deflate;server_max_window_bits=12"),
        ]));
        let mut headers = HeaderMap::new();
        agreed.unwrap().write(Some(HeaderValue::from_static("client's")), &mut headers);
        assert_eq!(headers[SEC_WEBSOCKET_ACCEPT], "client's");
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "chat");
        let extensions = &headers[SEC_WEBSOCKET_EXTENSIONS];
        assert_eq!(extensions, "permessage-deflate; server_max_window_bits=12");
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[CONNECTION], "Upgrade");
    }

    /// Any bytes that a header value may have.
    fn any_value() -> impl Strategy<Value = HeaderValue> {
        let byte = prop_oneof![4 => 0x20..0x7f_u8, 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
        let bytes = proptest::collection::vec(byte, 0..40);
        bytes.prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
    }

    proptest! {
        #[test]
        fn any_values_are_read_or_refused(values in proptest::collection::vec(any_value(), 6)) {
            let names = [
                UPGRADE, CONNECTION, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY,
                SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS,
            ];
            for (name, value) in names.iter().zip(values) {
                let mut parts = changed(&[]);
                parts.headers.insert(name, value.clone());
                let _ = UpgradeRequest::parse(&parts);
                let mut parts = answer(&[]);
                parts.headers.insert(name, value);
                let _ = offer().verify(&parts);
            }
        }
    }
}

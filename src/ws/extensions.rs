//! `Sec-WebSocket-Extensions`: its grammar (RFC 6455 §9.1) and permessage-deflate (RFC 7692).
//!
//! A client lists what it could live with, best first, and the server takes one entry or none.
//! The edge relays compressed payloads as they are, so it agrees to nothing itself: it passes the
//! permessage-deflate entries on to the upstream, drops every other extension, and holds the
//! upstream's answer against what was offered. What it must know afterwards is one thing: whether
//! RSV1 may be set on the first frame of a message, which is so when permessage-deflate was taken.

use std::borrow::Cow;
use std::fmt;

use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

use super::fields;

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// The permessage-deflate entries of an offer, in the client's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers(Vec<Deflate>);

impl Offers {
    /// No extension is offered.
    pub const NONE: Offers = Offers(Vec::new());

    /// Reads a client's offer. Other extensions, and entries of permessage-deflate that RFC 7692
    /// §7 has a server decline (an unknown parameter, a bad value, one given twice), are left out.
    pub fn parse(headers: &HeaderMap) -> Result<Offers, NotAList> {
        let mut offers = Vec::new();
        for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
            let entries = parse_list(line.as_bytes())?;
            let deflate = entries.iter().filter(|entry| entry.name == PERMESSAGE_DEFLATE);
            offers.extend(deflate.filter_map(|entry| Deflate::read(entry).ok()));
        }
        Ok(Offers(offers))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `Sec-WebSocket-Extensions` for the upstream; nothing when nothing is offered.
    pub fn to_header(&self) -> Option<HeaderValue> {
        let entries: Vec<String> = self.0.iter().map(Deflate::to_string).collect();
        (!entries.is_empty()).then(|| ascii(&entries.join(", ")))
    }

    /// Holds an answer against this offer: what was agreed, or why the answer is none to it
    /// (RFC 6455 §4.1 and §9.1, RFC 7692 §5.1 and §7.1).
    pub fn verify(&self, answer: &HeaderMap) -> Result<Option<Deflate>, ExtensionFault> {
        let mut lines = answer.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        // RFC 6455 §11.3.2: not more than once in a response.
        if lines.next().is_some() {
            return Err(ExtensionFault::SeveralLines);
        }
        let entries = parse_list(line.as_bytes()).map_err(|_| ExtensionFault::NotAList)?;
        if let Some(other) = entries.iter().find(|entry| entry.name != PERMESSAGE_DEFLATE) {
            return Err(ExtensionFault::NotOffered(other.name.to_owned()));
        }
        match entries.as_slice() {
            [] => Ok(None),
            [entry] => self.verify_entry(entry).map(Some),
            _ => Err(ExtensionFault::Several),
        }
    }

    fn verify_entry(&self, entry: &Entry<'_>) -> Result<Deflate, ExtensionFault> {
        if self.is_empty() {
            return Err(ExtensionFault::NotOffered(entry.name.to_owned()));
        }
        let answer = Deflate::read(entry)
            .map_err(|BadParameter(name)| ExtensionFault::BadParameter(name))?;
        // RFC 7692 §7.1.2.2: in an answer the parameter has a value.
        if answer.client_window == Some(ClientWindow::Any) {
            return Err(ExtensionFault::BadParameter(CLIENT_MAX_WINDOW_BITS.to_owned()));
        }
        let taken = self.0.iter().any(|offer| answer.accepts(offer));
        if taken { Ok(answer) } else { Err(ExtensionFault::NoSuchOffer(answer.to_string())) }
    }
}

/// The parameters of one permessage-deflate entry, offered or agreed (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflate {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_window: Option<WindowBits>,
    client_window: Option<ClientWindow>,
}

const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

impl Deflate {
    /// The value of `Sec-WebSocket-Extensions` that names this entry alone.
    pub fn to_header(&self) -> HeaderValue {
        ascii(&self.to_string())
    }

    fn read(entry: &Entry<'_>) -> Result<Deflate, BadParameter> {
        let mut deflate = Deflate::default();
        for (name, value) in &entry.parameters {
            deflate.take(name, value.as_deref()).ok_or_else(|| BadParameter((*name).to_owned()))?;
        }
        Ok(deflate)
    }

    /// Takes one parameter; nothing when it is unknown, ill-valued or there already.
    fn take(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        match (name, value) {
            (SERVER_NO_CONTEXT_TAKEOVER, None) => raise(&mut self.server_no_context_takeover),
            (CLIENT_NO_CONTEXT_TAKEOVER, None) => raise(&mut self.client_no_context_takeover),
            (SERVER_MAX_WINDOW_BITS, Some(bits)) => {
                fill(&mut self.server_window, WindowBits::parse(bits)?)
            }
            (CLIENT_MAX_WINDOW_BITS, None) => fill(&mut self.client_window, ClientWindow::Any),
            (CLIENT_MAX_WINDOW_BITS, Some(bits)) => {
                fill(&mut self.client_window, ClientWindow::AtMost(WindowBits::parse(bits)?))
            }
            _ => None,
        }
    }

    /// Whether this answer takes that offer up.
    fn accepts(&self, offer: &Deflate) -> bool {
        // §7.1.1.1: taken up only by saying it too; a server may also say it unasked.
        let takeover = self.server_no_context_takeover || !offer.server_no_context_takeover;
        // §7.1.2.1: likewise, with the same or a smaller value.
        let server = match (self.server_window, offer.server_window) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(answered), Some(offered)) => answered <= offered,
        };
        // §7.1.2.2: only to a client that knows the parameter, and no more than it goes to.
        // Silence takes any offer: what the client said of its own side is then a hint, as
        // client_no_context_takeover (§7.1.1.2) always is.
        let client = match (self.client_window, offer.client_window) {
            (None, _) | (Some(_), Some(ClientWindow::Any)) => true,
            (Some(ClientWindow::AtMost(answered)), Some(ClientWindow::AtMost(offered))) => {
                answered <= offered
            }
            (Some(_), _) => false,
        };
        takeover && server && client
    }
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PERMESSAGE_DEFLATE)?;
        if self.server_no_context_takeover {
            write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.client_no_context_takeover {
            write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if let Some(WindowBits(bits)) = self.server_window {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={bits}")?;
        }
        match self.client_window {
            None => Ok(()),
            Some(ClientWindow::Any) => write!(f, "; {CLIENT_MAX_WINDOW_BITS}"),
            Some(ClientWindow::AtMost(WindowBits(bits))) => {
                write!(f, "; {CLIENT_MAX_WINDOW_BITS}={bits}")
            }
        }
    }
}

/// The base-two logarithm of an LZ77 window: 8 to 15, in decimal without leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WindowBits(u8);

impl WindowBits {
    fn parse(text: &str) -> Option<WindowBits> {
        let plain = !text.starts_with(['0', '+']);
        let bits = text.parse().ok().filter(|bits| plain && (8..=15).contains(bits))?;
        Some(WindowBits(bits))
    }
}

/// `client_max_window_bits`: the client knows the parameter, or has said how far it will go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientWindow {
    Any,
    AtMost(WindowBits),
}

/// The header does not follow the grammar of RFC 6455 §9.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Extensions is not a list of extensions")]
pub struct NotAList;

/// Why an upstream's extensions are no answer to the offer. The texts are for a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionFault {
    #[error("Sec-WebSocket-Extensions came more than once")]
    SeveralLines,
    #[error("Sec-WebSocket-Extensions is not a list of extensions")]
    NotAList,
    #[error("the extension {0} was not offered")]
    NotOffered(String),
    #[error("permessage-deflate was taken more than once")]
    Several,
    #[error("the permessage-deflate parameter {0} is unknown, repeated or has a bad value")]
    BadParameter(String),
    #[error("no offer allows the answer: {0}")]
    NoSuchOffer(String),
}

struct BadParameter(String);

/// One element of the list: `name; parameter; parameter=value`.
struct Entry<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

fn parse_list(line: &[u8]) -> Result<Vec<Entry<'_>>, NotAList> {
    let mut cursor = Cursor(line);
    let mut entries = Vec::new();
    loop {
        // RFC 9110 §5.6.1.2: empty elements are no fault.
        while cursor.eat(b',') {}
        if cursor.at_end() {
            return Ok(entries);
        }
        entries.push(cursor.entry().ok_or(NotAList)?);
        if !cursor.at_end() && !cursor.eat(b',') {
            return Err(NotAList);
        }
    }
}

/// What is left of a header line. Each step skips the space before it: RFC 6455 §9.1 takes its
/// grammar from RFC 2616, which allows space between any two parts.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn entry(&mut self) -> Option<Entry<'a>> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.eat(b';') {
            let name = self.token()?;
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            parameters.push((name, value));
        }
        Some(Entry { name, parameters })
    }

    fn value(&mut self) -> Option<Cow<'a, str>> {
        if self.eat(b'"') { self.quoted().map(Cow::Owned) } else { self.token().map(Cow::Borrowed) }
    }

    /// The rest of a quoted string, whose text must be a token (RFC 6455 §9.1).
    fn quoted(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return fields::token(&text).map(str::to_owned),
                b'\\' => text.push(self.next()?),
                byte => text.push(byte),
            }
        }
    }

    fn token(&mut self) -> Option<&'a str> {
        self.skip_space();
        let end = self.0.iter().position(|&byte| !fields::is_token_byte(byte));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        fields::token(token)
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let rest = self.0.strip_prefix(&[byte]);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn at_end(&mut self) -> bool {
        self.skip_space();
        self.0.is_empty()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }
}

fn raise(flag: &mut bool) -> Option<()> {
    (!std::mem::replace(flag, true)).then_some(())
}

fn fill<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("rendered entries are visible ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn offers(line: &str) -> Offers {
        Offers::parse(&headers(&[line])).unwrap()
    }

    #[test]
    fn an_offer_keeps_what_is_permessage_deflate_and_well_formed() {
        let table = [
            ("", None),
            (" , ,", None),
            ("permessage-deflate", Some("permessage-deflate")),
            // Chromium and Firefox.
            (
                "permessage-deflate; client_max_window_bits",
                Some("permessage-deflate; client_max_window_bits"),
            ),
            // Safari of old, and an extension of somebody's own.
            ("x-webkit-deflate-frame", None),
            ("mux; max-channels=4, permessage-deflate", Some("permessage-deflate")),
            (
                "permessage-deflate ;server_max_window_bits = \"1\\0\" , permessage-deflate",
                Some("permessage-deflate; server_max_window_bits=10, permessage-deflate"),
            ),
            (
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            // RFC 7692 §7: such an entry is declined, the next one may do.
            ("permessage-deflate; level=9, permessage-deflate", Some("permessage-deflate")),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=7", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=08", None),
            ("permessage-deflate; server_max_window_bits=+9", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits=9", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ];
        for (line, expected) in table {
            let rendered = offers(line).to_header();
            let text = rendered.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(text, expected, "{line}");
        }
    }

    #[test]
    fn several_lines_are_one_offer_in_their_order() {
        let lines = ["permessage-deflate; server_max_window_bits=9", "permessage-deflate"];
        let rendered = Offers::parse(&headers(&lines)).unwrap().to_header().unwrap();
        assert_eq!(rendered, lines.join(", "));
    }

    #[test]
    fn what_is_no_list_of_extensions_is_malformed() {
        for line in [
            ";",
            "a;",
            "a;=1",
            "a; b=",
            "a b",
            "a; b=\"",
            "a; b=\"\"",
            "a; b=\"x y\"",
            "a; b=\"x\\",
            "a/b",
            "a; b=\"x\" y",
            "permessage-deflate; client_max_window_bits=(",
        ] {
            assert_eq!(Offers::parse(&headers(&[line])), Err(NotAList), "{line}");
        }
    }

    #[test]
    fn an_answer_is_held_against_the_offer() {
        let plain = "permessage-deflate";
        let window = "permessage-deflate; client_max_window_bits";
        let capped = "permessage-deflate; client_max_window_bits=10";
        let strict = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10";
        let bad = |name: &str| Some(ExtensionFault::BadParameter(name.to_owned()));
        let unasked = |answer: &str| Some(ExtensionFault::NoSuchOffer(answer.to_owned()));
        let table = [
            (plain, "permessage-deflate", None),
            (plain, "permessage-deflate; server_no_context_takeover", None),
            (plain, "permessage-deflate; client_no_context_takeover", None),
            (plain, "permessage-deflate; server_max_window_bits=8", None),
            (
                plain,
                "permessage-deflate; client_max_window_bits=15",
                unasked("permessage-deflate; client_max_window_bits=15"),
            ),
            (window, "permessage-deflate; client_max_window_bits=15", None),
            (window, "permessage-deflate; client_max_window_bits", bad("client_max_window_bits")),
            (capped, "permessage-deflate; client_max_window_bits=10", None),
            (capped, "permessage-deflate", None),
            (
                capped,
                "permessage-deflate; client_max_window_bits=11",
                unasked("permessage-deflate; client_max_window_bits=11"),
            ),
            (strict, strict, None),
            (
                strict,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
                None,
            ),
            (strict, "permessage-deflate", unasked("permessage-deflate")),
            (
                strict,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
                unasked(
                    "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
                ),
            ),
            // Each entry of the offer may be the one that is taken.
            ("permessage-deflate; server_max_window_bits=9, permessage-deflate", plain, None),
            (plain, "permessage-deflate; level=9", bad("level")),
            (plain, "permessage-deflate; server_max_window_bits=16", bad("server_max_window_bits")),
            (
                plain,
                "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
                bad("server_no_context_takeover"),
            ),
            (plain, "permessage-deflate, permessage-deflate", Some(ExtensionFault::Several)),
            (plain, "mux", Some(ExtensionFault::NotOffered("mux".to_owned()))),
            (plain, "permessage-deflate;", Some(ExtensionFault::NotAList)),
            ("", plain, Some(ExtensionFault::NotOffered(plain.to_owned()))),
        ];
        for (offer, answer, fault) in table {
            let verdict = offers(offer).verify(&headers(&[answer]));
            match fault {
                None => assert_eq!(verdict.unwrap().unwrap().to_header(), answer, "{offer}"),
                Some(fault) => assert_eq!(verdict, Err(fault), "{offer} → {answer}"),
            }
        }
    }

    #[test]
    fn an_answer_may_take_nothing_but_not_speak_twice() {
        let offer = offers("permessage-deflate");
        assert_eq!(offer.verify(&headers(&[])), Ok(None));
        assert_eq!(offer.verify(&headers(&[""])), Ok(None));
        let twice = headers(&["permessage-deflate", ""]);
        assert_eq!(offer.verify(&twice), Err(ExtensionFault::SeveralLines));
    }

    fn any_bits() -> impl Strategy<Value = WindowBits> {
        (8..=15u8).prop_map(WindowBits)
    }

    fn any_deflate() -> impl Strategy<Value = Deflate> {
        let window =
            prop_oneof![Just(ClientWindow::Any), any_bits().prop_map(ClientWindow::AtMost)];
        let client = proptest::option::of(window);
        (any::<bool>(), any::<bool>(), proptest::option::of(any_bits()), client).prop_map(
            |(server_no_context_takeover, client_no_context_takeover, server_window, client)| {
                Deflate {
                    server_no_context_takeover,
                    client_no_context_takeover,
                    server_window,
                    client_window: client,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_list(&line);
        }

        #[test]
        fn what_looks_like_a_list_reads_the_same_when_rendered(
            line in "(permessage-deflate|[a-z]|client_max_window_bits|server_max_window_bits|[;,=\" ]|1[0-9]){0,16}"
        ) {
            if let Ok(read) = Offers::parse(&headers(&[&line])) {
                let rendered = read.to_header();
                let text = rendered.as_ref().map_or("", |value| value.to_str().unwrap());
                prop_assert_eq!(offers(text), read);
            }
        }

        #[test]
        fn every_offer_reads_as_it_was_rendered(
            list in proptest::collection::vec(any_deflate(), 0..5)
        ) {
            let list = Offers(list);
            let rendered = list.to_header();
            let text = rendered.as_ref().map_or("", |value| value.to_str().unwrap());
            prop_assert_eq!(offers(text), list);
        }

        #[test]
        fn an_answer_that_repeats_an_offer_is_legal_unless_its_window_is_bare(
            offer in any_deflate()
        ) {
            let verdict = Offers(vec![offer]).verify(&headers(&[&offer.to_string()]));
            prop_assert_eq!(verdict.is_ok(), offer.client_window != Some(ClientWindow::Any));
        }
    }
}

//! Who may do what. Pure: what a request says of itself is handed in.
//!
//! A unix socket is guarded by its mode. Over TCP all that changes anything needs the token, and
//! so does reading where the address is not loopback. A browser on the same machine can be made
//! to speak to any address: so the Host of a request must be one that nobody can let point here
//! (DNS rebinding), a change comes from no foreign page (CSRF), and a foreign page gets nothing
//! from here, but by a link that a person follows.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method};

/// What a socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    All,
    /// /healthz, /readyz and /metrics, for anybody.
    Probes,
}

/// Who can come to a socket at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Who may open its file.
    OfTheFile,
    /// Who is on this machine.
    OfThisMachine,
    Anybody,
}

/// What guards a socket.
#[derive(Clone, Debug)]
pub struct Guard {
    pub reach: Reach,
    pub peers: Peers,
    /// Names it may be called by, in lower case.
    pub hosts: Vec<String>,
    /// There is a token that can be shown.
    pub has_token: bool,
}

/// What it takes to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    Free,
    ByToken,
    Off,
}

impl Changes {
    pub fn as_str(self) -> &'static str {
        match self {
            Changes::Free => "free",
            Changes::ByToken => "token",
            Changes::Off => "off",
        }
    }
}

/// What is asked, as far as it matters for who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Read,
    Change,
}

impl Deed {
    pub fn of(method: &Method) -> Deed {
        match *method {
            Method::GET | Method::HEAD => Deed::Read,
            _ => Deed::Change,
        }
    }
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a request names exactly one Host")]
    NoHost,
    #[error(
        "this Host could be anybody's: use an IP address or localhost, or list the name in \
         `hosts` of [admin]"
    )]
    ForeignHost,
    #[error("a page of another origin may not ask for this")]
    ForeignOrigin,
    #[error("nothing can be changed over TCP without a `token_file` in [admin]")]
    ChangesAreOff,
    #[error("show the token of [admin]: `Authorization: Bearer …`, or as a password")]
    NoToken,
    #[error("this is not the token of [admin]")]
    WrongToken,
}

impl Guard {
    /// Judges a request by its fields; `token` is asked for only where one is needed.
    pub fn judge(
        &self,
        deed: Deed,
        headers: &HeaderMap,
        token: impl FnOnce() -> Option<String>,
    ) -> Result<(), Refused> {
        if self.reach == Reach::Probes {
            return Ok(());
        }
        let host = only(headers, &HOST).ok_or(Refused::NoHost)?;
        if !self.is_own_name(host) {
            return Err(Refused::ForeignHost);
        }
        if is_of_foreign_page(headers) || deed == Deed::Change && !is_own_page(headers, host) {
            return Err(Refused::ForeignOrigin);
        }
        match (self.peers, deed) {
            (Peers::OfTheFile, _) | (Peers::OfThisMachine, Deed::Read) => Ok(()),
            (Peers::OfThisMachine | Peers::Anybody, _) if !self.has_token => {
                Err(Refused::ChangesAreOff)
            }
            (Peers::OfThisMachine | Peers::Anybody, _) => {
                let shown = shown(headers).ok_or(Refused::NoToken)?;
                let known = token().is_some_and(|token| is_equal(&shown, token.as_bytes()));
                if known { Ok(()) } else { Err(Refused::WrongToken) }
            }
        }
    }

    pub fn changes(&self) -> Changes {
        match (self.peers, self.has_token) {
            (Peers::OfTheFile, _) => Changes::Free,
            (Peers::OfThisMachine | Peers::Anybody, true) => Changes::ByToken,
            (Peers::OfThisMachine | Peers::Anybody, false) => Changes::Off,
        }
    }

    fn is_own_name(&self, host: &str) -> bool {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let Some((address, port)) = rest.split_once(']') else { return false };
                return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
            }
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let known = name == "localhost" || self.hosts.contains(&name);
        (known || name.parse::<Ipv4Addr>().is_ok()) && is_port(port)
    }
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// A page that is served here, or no page.
fn is_own_page(headers: &HeaderMap, host: &str) -> bool {
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let origin = only(headers, &ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
    origin.is_some_and(|called| called.eq_ignore_ascii_case(host))
}

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Browsers say which page has them ask, and whether a person goes to another page (Fetch
/// Metadata, §2).
fn is_of_foreign_page(headers: &HeaderMap) -> bool {
    let foreign = |site: &str| !["same-origin", "none"].contains(&site);
    let goes =
        only(headers, &MODE) == Some("navigate") && only(headers, &DESTINATION) == Some("document");
    only(headers, &SITE).is_some_and(foreign) && !goes
}

/// The field of this name, if there is one and it is text.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().and_then(|value| value.to_str().ok());
    if all.next().is_some() { None } else { first }
}

/// What stands behind Bearer, or the password behind Basic (RFC 6750 §2.1, RFC 7617 §2).
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, credentials) = only(headers, &AUTHORIZATION)?.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.as_bytes().to_vec());
    }
    let pair = base64(credentials).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// RFC 4648 §4; what is left over at the end is no whole byte.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len()), 0u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 & 0xffff | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// Takes the same time wherever they differ; how long the token is may be known.
fn is_equal(shown: &[u8], token: &[u8]) -> bool {
    let differs =
        shown.iter().zip(token).fold(0, |differs, (one, other)| black_box(differs | (one ^ other)));
    shown.len() == token.len() && black_box(differs) == 0
}

/// What a client without the token is asked for. Basic is for a browser that goes to the page;
/// what the page itself asks for it answers with the token it was told.
pub fn challenges(headers: &HeaderMap) -> impl Iterator<Item = HeaderValue> {
    let basic = only(headers, &DESTINATION) != Some("empty");
    let basic = basic.then_some("Basic realm=\"wsgate\"");
    std::iter::once("Bearer realm=\"wsgate\"").chain(basic).map(HeaderValue::from_static)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(peers: Peers, has_token: bool) -> Guard {
        Guard { reach: Reach::All, peers, hosts: vec!["edge.internal".into()], has_token }
    }

    fn judge(guard: &Guard, deed: Deed, fields: &[(HeaderName, &str)]) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        guard.judge(deed, &headers, || Some(TOKEN.to_owned()))
    }

    #[test]
    fn who_needs_the_token() {
        use Deed::{Change, Read};
        use Peers::{Anybody, OfTheFile, OfThisMachine};
        let host = (HOST, "127.0.0.1:9090");
        let right = (AUTHORIZATION, "bearer 0123456789abcdef");
        let table = [
            (guard(OfTheFile, false), Change, None, Ok(())),
            (guard(OfThisMachine, true), Read, None, Ok(())),
            (guard(OfThisMachine, false), Read, None, Ok(())),
            (guard(OfThisMachine, false), Change, None, Err(Refused::ChangesAreOff)),
            (guard(OfThisMachine, false), Change, Some(&right), Err(Refused::ChangesAreOff)),
            (guard(OfThisMachine, true), Change, None, Err(Refused::NoToken)),
            (guard(OfThisMachine, true), Change, Some(&right), Ok(())),
            (guard(Anybody, true), Read, None, Err(Refused::NoToken)),
            (guard(Anybody, true), Read, Some(&right), Ok(())),
        ];
        for (guard, deed, shown, wanted) in table {
            let fields: Vec<_> = [Some(&host), shown].into_iter().flatten().cloned().collect();
            assert_eq!(judge(&guard, deed, &fields), wanted, "{guard:?} {deed:?} {shown:?}");
        }
    }

    #[test]
    fn how_the_token_is_shown() {
        let guard = guard(Peers::Anybody, true);
        let show =
            |value| judge(&guard, Deed::Read, &[(HOST, "localhost"), (AUTHORIZATION, value)]);
        assert_eq!(show("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(show("Basic b3BlcmF0b3I6MDEyMzQ1Njc4OWFiY2RlZg=="), Ok(()));
        for wrong in
            ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Basic b3A6eA==", "Bearer "]
        {
            assert_eq!(show(wrong), Err(Refused::WrongToken), "{wrong}");
        }
        for none in ["Digest 0123456789abcdef", "0123456789abcdef", "Basic ???"] {
            assert_eq!(show(none), Err(Refused::NoToken), "{none}");
        }
    }

    #[test]
    fn whom_it_answers_to() {
        let guard = guard(Peers::OfThisMachine, false);
        let call = |host| judge(&guard, Deed::Read, &[(HOST, host)]);
        let own = [
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]",
            "[::1]:9090",
            "localhost",
            "LOCALHOST:1",
            "edge.internal:80",
            "Edge.Internal.",
        ];
        for host in own {
            assert_eq!(call(host), Ok(()), "{host}");
        }
        let foreign = [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x.localhost",
            "",
            "[::1",
            "::1",
            "127.0.0.1:x",
            "0x7f.1",
            "edge.internal@evil.example",
        ];
        for host in foreign {
            assert_eq!(call(host), Err(Refused::ForeignHost), "{host}");
        }
        let two = [(HOST, "localhost"), (HOST, "evil.example")];
        assert_eq!(judge(&guard, Deed::Read, &two), Err(Refused::NoHost));
        assert_eq!(judge(&guard, Deed::Read, &[]), Err(Refused::NoHost));
    }

    #[test]
    fn what_browsers_say_of_a_request() {
        let guard = guard(Peers::OfThisMachine, false);
        let read = |site, mode, destination| {
            let fields =
                [(HOST, "localhost"), (SITE, site), (MODE, mode), (DESTINATION, destination)];
            judge(&guard, Deed::Read, &fields)
        };
        for site in ["cross-site", "same-site"] {
            assert_eq!(read(site, "navigate", "document"), Ok(()), "{site}");
            assert_eq!(read(site, "navigate", "iframe"), Err(Refused::ForeignOrigin), "{site}");
            assert_eq!(read(site, "no-cors", "empty"), Err(Refused::ForeignOrigin), "{site}");
        }
        assert_eq!(read("same-origin", "cors", "empty"), Ok(()));
        assert_eq!(read("none", "navigate", "document"), Ok(()));
    }

    #[test]
    fn a_script_gets_no_challenge_that_opens_a_window() {
        let mut headers = HeaderMap::new();
        assert_eq!(challenges(&headers).count(), 2);
        headers.insert(DESTINATION, HeaderValue::from_static("empty"));
        assert!(challenges(&headers).eq(["Bearer realm=\"wsgate\""]));
    }

    #[test]
    fn pages_that_may_change_things() {
        let guard = guard(Peers::OfTheFile, false);
        let from =
            |origin, deed| judge(&guard, deed, &[(HOST, "localhost:9090"), (ORIGIN, origin)]);
        assert_eq!(from("http://localhost:9090", Deed::Change), Ok(()));
        for origin in ["null", "http://localhost", "https://evil.example", "http://localhost:9091"]
        {
            assert_eq!(from(origin, Deed::Change), Err(Refused::ForeignOrigin), "{origin}");
            assert_eq!(from(origin, Deed::Read), Ok(()), "{origin}");
        }
    }
}

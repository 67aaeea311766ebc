//! The token in a request: where it may be, and the request without it.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri, request};

use super::headers::same_spelling;
use crate::config::TokenSource;
use crate::ws;

/// The subprotocol that stands before a token, alone or with a dot.
const BEARER: &str = "bearer";

/// The token is there twice: which one is meant cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Twice;

/// The token in the first of these places where there is one. Nothing is looked for behind it,
/// whatever it is worth.
///
/// An `Authorization` of another scheme than Bearer holds no token (RFC 6750 §3: as if nothing
/// had been sent).
pub(super) fn find<'a>(
    sources: &[TokenSource],
    parts: &'a request::Parts,
) -> Result<Option<Cow<'a, str>>, Twice> {
    for source in sources {
        let mut all = in_one_place(source, parts);
        if all.len() > 1 {
            return Err(Twice);
        }
        if let Some(found) = all.pop().flatten() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Every value of one place; `None` is one that holds no token.
fn in_one_place<'a>(source: &TokenSource, parts: &'a request::Parts) -> Vec<Option<Cow<'a, str>>> {
    match source {
        TokenSource::Header(name) => {
            let lines = parts.headers.get_all(name).iter();
            lines.map(|line| text(line, *name == AUTHORIZATION)).collect()
        }
        TokenSource::Cookie(name) => {
            let lines = parts.headers.get_all(COOKIE).iter();
            let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
            let values = pairs.filter_map(|pair| cookie(pair, name));
            values.map(|value| Some(String::from_utf8_lossy(value))).collect()
        }
        TokenSource::Query(name) => {
            let pairs = parts.uri.query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| parameter(pair, name));
            values.map(|value| Some(Cow::Owned(unescaped(value)))).collect()
        }
        TokenSource::Subprotocol => tokens(&offered(&parts.headers)),
    }
}

fn text(line: &HeaderValue, authorization: bool) -> Option<Cow<'_, str>> {
    let value = match authorization {
        true => bearer(line.as_bytes())?,
        false => line.as_bytes(),
    };
    Some(String::from_utf8_lossy(value))
}

/// What follows the scheme (RFC 6750 §2.1). Servers split the two at a tab too, or at what else
/// no scheme can have, so a token behind that is one.
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let end = credentials.iter().position(|byte| !ws::is_token_byte(*byte));
    let end = end.unwrap_or(credentials.len());
    let (scheme, token) = credentials.split_at(end);
    scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then(|| token.trim_ascii())
}

/// The value of a cookie of this name (RFC 6265 §4.2.1).
fn cookie<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (own, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    (own == name.as_bytes()).then_some(value)
}

/// The value of a parameter of this name, as it stands in the query.
fn parameter<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
    (unescaped(own) == name).then_some(value)
}

/// Without percent-encoding, as forms have it.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).filter(|_| *first == b'%');
        let byte = digits.and_then(|two| {
            let two = std::str::from_utf8(two).ok()?;
            u8::from_str_radix(two, 16).ok().filter(|_| !two.starts_with('+'))
        });
        rest = if byte.is_some() { &more[2..] } else { more };
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn offered(headers: &HeaderMap) -> Vec<&[u8]> {
    ws::elements(headers, &SEC_WEBSOCKET_PROTOCOL).collect()
}

/// The tokens among subprotocols: behind `bearer`, or in `bearer.<token>`.
fn tokens<'a>(offered: &[&'a [u8]]) -> Vec<Option<Cow<'a, str>>> {
    let follows = |at: usize| offered.get(at + 1).copied().unwrap_or_default();
    let token = |(at, name): (usize, &&'a [u8])| match *name == BEARER.as_bytes() {
        true => Some(follows(at)),
        false => dotted(name),
    };
    let tokens = offered.iter().enumerate().filter_map(token);
    tokens.map(|token| Some(String::from_utf8_lossy(token))).collect()
}

fn dotted(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(BEARER.as_bytes())?.strip_prefix(b".")
}

/// The subprotocols that are none: they carry a token, and go to no upstream.
pub(super) fn carriers(subprotocols: &[String]) -> Vec<String> {
    let mut behind = false;
    let mut carries = |name: &&String| {
        let carries = behind || *name == BEARER || dotted(name.as_bytes()).is_some();
        behind = *name == BEARER;
        carries
    };
    subprotocols.iter().filter(|name| carries(name)).cloned().collect()
}

/// What a client is answered whose offer had carriers, and whose upstream chose nothing: a browser
/// that offered must get one.
pub(super) fn chosen(subprotocols: &[String]) -> Option<&str> {
    let bearer = subprotocols.iter().find(|name| *name == BEARER);
    bearer.or(subprotocols.first()).map(String::as_str)
}

/// Takes tokens out of everywhere where one may be, those that decided nothing too, since nobody
/// has verified them. All else stays as it came. Where the route passes tokens on, only what is
/// no subprotocol goes.
pub(super) fn strip(sources: &[TokenSource], all: bool, parts: &mut request::Parts) {
    for source in sources {
        match source {
            TokenSource::Subprotocol => strip_carriers(&mut parts.headers),
            _ if !all => {}
            TokenSource::Header(name) => strip_header(&mut parts.headers, name),
            TokenSource::Cookie(name) => strip_cookie(&mut parts.headers, name),
            TokenSource::Query(name) => strip_parameter(&mut parts.uri, name),
        }
    }
}

fn strip_header(headers: &mut HeaderMap, name: &HeaderName) {
    let same: Vec<HeaderName> =
        headers.keys().filter(|key| same_spelling(key.as_str(), name.as_str())).cloned().collect();
    for key in same {
        let lines: Vec<HeaderValue> = headers.get_all(&key).iter().cloned().collect();
        headers.remove(&key);
        // Credentials of another scheme are no token.
        let other = |line: &HeaderValue| key == AUTHORIZATION && bearer(line.as_bytes()).is_none();
        for line in lines.into_iter().filter(other) {
            headers.append(&key, line);
        }
    }
}

fn strip_cookie(headers: &mut HeaderMap, name: &str) {
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let pairs = line.as_bytes().split(|byte| *byte == b';');
        let kept: Vec<&[u8]> = pairs.filter(|pair| cookie(pair, name).is_none()).collect();
        let kept = kept.join(b";".as_slice());
        let kept = kept.trim_ascii_start();
        if let Ok(kept) = HeaderValue::from_bytes(kept)
            && !kept.is_empty()
        {
            headers.append(COOKIE, kept);
        }
    }
}

fn strip_carriers(headers: &mut HeaderMap) {
    let names: Vec<String> = offered(headers)
        .into_iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let carriers = carriers(&names);
    if carriers.is_empty() {
        return;
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    let kept: Vec<String> = names.into_iter().filter(|name| !carriers.contains(name)).collect();
    if let Ok(kept) = HeaderValue::try_from(kept.join(", "))
        && !kept.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

fn strip_parameter(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let kept: Vec<&str> = query.split('&').filter(|pair| parameter(pair, name).is_none()).collect();
    if kept.len() == query.split('&').count() {
        return;
    }
    let target = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::get(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn everywhere() -> Vec<TokenSource> {
        vec![
            TokenSource::Header(AUTHORIZATION),
            TokenSource::Header(HeaderName::from_static("x-token")),
            TokenSource::Cookie("token".into()),
            TokenSource::Query("token".into()),
            TokenSource::Subprotocol,
        ]
    }

    fn found(
        target: &str,
        fields: &[(&str, &str)],
        subprotocols: &[&str],
    ) -> Result<Option<String>, Twice> {
        let list = subprotocols.join(", ");
        let mut fields = fields.to_vec();
        if !list.is_empty() {
            fields.push(("sec-websocket-protocol", &list));
        }
        find(&everywhere(), &request(target, &fields)).map(|token| token.map(Cow::into_owned))
    }

    #[test]
    fn the_first_place_that_has_one_decides() {
        let token = |text: &str| Ok(Some(text.to_owned()));
        let authorization = |value| found("/", &[("authorization", value)], &[]);
        assert_eq!(authorization("Bearer a.b.c"), token("a.b.c"));
        assert_eq!(authorization("bEARER   a.b.c "), token("a.b.c"));
        assert_eq!(authorization("Bearer"), token(""));
        assert_eq!(authorization("Basic YTpi"), Ok(None));
        assert_eq!(authorization("Bearera.b.c"), Ok(None));
        assert_eq!(authorization("Bearer\ta.b.c"), token("a.b.c"));
        assert_eq!(authorization("Bearer,a.b.c"), token(",a.b.c"));
        let all = [("authorization", "Bearer a"), ("x-token", "b"), ("cookie", "token=c")];
        assert_eq!(found("/?token=d", &all, &["bearer", "e"]), token("a"));
        assert_eq!(found("/?token=d", &all[1..], &["bearer", "e"]), token("b"));
        assert_eq!(found("/?token=d", &all[2..], &["bearer", "e"]), token("c"));
        assert_eq!(found("/?token=d", &[], &["bearer", "e"]), token("d"));
        assert_eq!(found("/", &[], &["bearer", "e"]), token("e"));
        assert_eq!(found("/", &[], &["chat", "bearer.e"]), token("e"));
        assert_eq!(found("/", &[], &["bearer"]), token(""));
        assert_eq!(found("/", &[], &["bearertoken", "chat"]), Ok(None));
        let basic = [("authorization", "Basic YTpi"), ("cookie", "a=1; token = c ; b=2")];
        assert_eq!(found("/", &basic, &[]), token("c"));
        assert_eq!(found("/?a=b&to%6ben=%61.b%2Ec&c", &[], &[]), token("a.b.c"));
        assert_eq!(found("/?token=%+1+%zz", &[], &[]), token("% 1 %zz"));
        assert_eq!(found("/?token", &[], &[]), token(""));
        assert_eq!(found("/?tokens=a", &[("cookie", "Token=a; token")], &[]), Ok(None));
    }

    #[test]
    fn two_in_one_place_are_none() {
        assert_eq!(
            found("/", &[("authorization", "Bearer a"), ("authorization", "Bearer a")], &[]),
            Err(Twice)
        );
        assert_eq!(
            found("/", &[("authorization", "Basic a"), ("authorization", "Bearer a")], &[]),
            Err(Twice)
        );
        assert_eq!(found("/", &[("x-token", "a"), ("x-token", "b")], &[]), Err(Twice));
        assert_eq!(found("/", &[("cookie", "token=a; token=b")], &[]), Err(Twice));
        assert_eq!(found("/", &[("cookie", "token=a"), ("cookie", "token=b")], &[]), Err(Twice));
        assert_eq!(found("/?token=a&token=a", &[], &[]), Err(Twice));
        assert_eq!(found("/", &[], &["bearer", "a", "bearer.b"]), Err(Twice));
        assert_eq!(found("/", &[], &["bearer.a", "bearer.b"]), Err(Twice));
    }

    fn stripped(target: &str, fields: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let mut parts = request(target, fields);
        strip(&everywhere(), true, &mut parts);
        let fields = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        (parts.uri.to_string(), fields.collect())
    }

    #[test]
    fn tokens_are_taken_out_and_nothing_else() {
        let table = [
            ("a=1; token=x; b=2", Some("a=1; b=2")),
            ("token=x; b=2", Some("b=2")),
            ("a=1;token=x", Some("a=1")),
            ("a=1; b=\"token=x\";  c", Some("a=1; b=\"token=x\";  c")),
            ("token=x", None),
            ("token=x;token=y", None),
        ];
        for (line, left) in table {
            let fields = stripped("/", &[("cookie", line)]).1;
            assert_eq!(fields.first().map(|(_, value)| value.as_str()), left, "{line}");
        }
        let table = [
            ("/a%20b?x=%41&token=y&&z", "/a%20b?x=%41&&z"),
            ("/?token=y", "/"),
            ("/?to%6Ben=y&a=b", "/?a=b"),
            ("/?tokens=y&a", "/?tokens=y&a"),
            ("/?", "/?"),
            ("/token=y", "/token=y"),
        ];
        for (target, left) in table {
            assert_eq!(stripped(target, &[]).0, left);
        }
        let fields =
            [("authorization", "Bearer x"), ("x-token", "y"), ("x_token", "z"), ("x", "1")];
        assert_eq!(stripped("/", &fields).1, [("x".to_owned(), "1".to_owned())]);
        let fields = [("authorization", "Basic YTpi"), ("authorization", "Bearer x")];
        assert_eq!(
            stripped("/", &fields).1,
            [("authorization".to_owned(), "Basic YTpi".to_owned())]
        );
        assert!(stripped("/", &[("authorization", "bearer\tx")]).1.is_empty());
        assert_eq!(stripped("http://a.example:81/?token=y", &[]).0, "http://a.example:81/");
    }

    #[test]
    fn carriers_of_tokens_are_no_subprotocols() {
        let carriers = |list: &[&str]| carriers(&names(list)).join(" ");
        assert_eq!(carriers(&["bearer", "a.b.c", "chat"]), "bearer a.b.c");
        assert_eq!(carriers(&["chat", "bearer.a.b.c"]), "bearer.a.b.c");
        assert_eq!(carriers(&["chat", "bearers", "bearer"]), "bearer");
        assert_eq!(carriers(&["chat"]), "");
    }
}

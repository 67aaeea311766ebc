//! What a request says of where it wants to go: the affinity cookie, and the key to hash.
//!
//! Values are taken as they came: a query or a cookie is not decoded, so two spellings of one name
//! are two keys (nginx's `$arg_` and `$cookie_` are alike in this). Where the value came from is
//! not hashed with it: the same session by cookie and by query goes to the same endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::COOKIE;
use http::{HeaderMap, Uri};

use super::Endpoint;
use super::hashing::{Key, Seed};
use crate::config::HashKey;

/// A request, as far as it can say where it wants to go.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub headers: &'a HeaderMap,
    pub uri: &'a Uri,
    pub client: IpAddr,
    /// A claim of the client's token.
    pub claim: &'a dyn Fn(&str) -> Option<String>,
}

/// Where a request wants to go.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The endpoint that its affinity cookie names.
    pub affinity: Option<Arc<Endpoint>>,
    pub key: Option<Key>,
}

/// The first key that is present and not empty.
pub(super) fn key(keys: &[HashKey], asking: &Asking<'_>, seed: Seed) -> Option<Key> {
    keys.iter().find_map(|key| hashed(key, asking, seed))
}

fn hashed(key: &HashKey, asking: &Asking<'_>, seed: Seed) -> Option<Key> {
    let some = |value: &[u8]| (!value.is_empty()).then(|| seed.key(value));
    match key {
        HashKey::Cookie(name) => cookies(asking.headers, name).find_map(some),
        HashKey::Query(name) => {
            arguments(asking.uri, name).find_map(|value| some(value.as_bytes()))
        }
        HashKey::Header(name) => {
            asking.headers.get_all(name).iter().find_map(|value| some(value.as_bytes()))
        }
        HashKey::Claim(name) => some((asking.claim)(name)?.as_bytes()),
        HashKey::Path => some(asking.uri.path().as_bytes()),
        HashKey::ClientIp { v4, v6 } => Some(match asking.client.to_canonical() {
            IpAddr::V4(addr) => {
                seed.key(&leading(addr.to_bits().into(), *v4, 32).to_be_bytes()[12..])
            }
            IpAddr::V6(addr) => seed.key(&leading(addr.to_bits(), *v6, 128).to_be_bytes()),
        }),
    }
}

/// The first `prefix` of these `width` bits, the others zero.
fn leading(bits: u128, prefix: u8, width: u8) -> u128 {
    let rest = u32::from(width.saturating_sub(prefix));
    bits.checked_shr(rest).and_then(|kept| kept.checked_shl(rest)).unwrap_or(0)
}

/// Every value of a cookie (RFC 6265 §4.2.1).
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

/// Every value of an argument of the query.
fn arguments<'a>(uri: &'a Uri, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The key of a request with these cookies, and what it would be for this value.
    fn assert_key(keys: &[HashKey], asking: &Asking<'_>, value: Option<&[u8]>) {
        let seed = Seed::new(b"seed");
        assert_eq!(key(keys, asking, seed), value.map(|value| seed.key(value)), "{keys:?}");
    }

    #[test]
    fn the_first_key_that_is_present_and_not_empty_counts() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("asession=1; empty=; a=b=c"));
        headers.append(COOKIE, HeaderValue::from_static("session=\"s 1\""));
        headers.append("x-room", HeaderValue::from_static(""));
        headers.append("x-room", HeaderValue::from_static("red"));
        let uri = Uri::from_static("/ws/a%20b?aroom=1&room=&room=x%2Fy&room");
        let claim = |name: &str| (name == "sub").then(|| "anna".to_owned());
        let client = IpAddr::from([192, 0, 2, 7]);
        let asking = Asking { headers: &headers, uri: &uri, client, claim: &claim };
        let cookie = |name: &str| HashKey::Cookie(name.to_owned());
        let query = |name: &str| HashKey::Query(name.to_owned());
        let claim = |name: &str| HashKey::Claim(name.to_owned());
        let room = HashKey::Header("x-room".parse().unwrap());

        assert_key(&[cookie("session")], &asking, Some(b"\"s 1\""));
        assert_key(&[cookie("a")], &asking, Some(b"b=c"));
        assert_key(&[cookie("empty"), query("room")], &asking, Some(b"x%2Fy"));
        assert_key(&[query("Room"), room], &asking, Some(b"red"));
        assert_key(&[claim("org"), claim("sub")], &asking, Some(b"anna"));
        assert_key(&[query("absent"), HashKey::Path], &asking, Some(b"/ws/a%20b"));
        assert_key(&[query("absent"), cookie("empty")], &asking, None);
        assert_key(&[], &asking, None);
    }

    #[test]
    fn a_client_is_its_address_or_its_network() {
        let table: [(&str, u8, u8, &[u8]); 6] = [
            ("192.0.2.7", 32, 128, &[192, 0, 2, 7]),
            ("192.0.2.7", 24, 64, &[192, 0, 2, 0]),
            ("::ffff:192.0.2.7", 24, 64, &[192, 0, 2, 0]),
            ("255.0.2.7", 1, 64, &[128, 0, 0, 0]),
            ("2001:db8::7", 32, 128, &[32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            ("2001:db8:0:1::7", 24, 64, &[32, 1, 13, 184, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (client, v4, v6, value) in table {
            let asking = Asking {
                headers: &HeaderMap::new(),
                uri: &Uri::from_static("/"),
                client: client.parse().unwrap(),
                claim: &|_| None,
            };
            assert_key(&[HashKey::ClientIp { v4, v6 }], &asking, Some(value));
        }
    }
}

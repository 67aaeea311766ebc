//! The affinity cookie: it names an endpoint, and brings a browser back to it.
//!
//! Its value is a code of the endpoint's identity (HMAC-SHA256, keyed by the seed), so that it tells
//! a client nothing and means the same on every replica. A value that is no listed endpoint's code
//! means nothing; so a forged one can at most choose an endpoint that clients come to anyway.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use super::Endpoint;
use super::stickiness::cookies;
use crate::config::{AffinityCookie, SameSite};

/// What codes are keyed with where no file says it: the same everywhere, and no secret.
const WITHOUT_SEED: &[u8] = b"wsgate";
/// Goes before an identity, so that a code is nothing else's.
const PURPOSE: &str = "affinity:";
/// Letters of a code, of six bits each.
const LETTERS: usize = 22;

/// An upstream's affinity cookie.
pub(super) struct Affinity {
    name: String,
    /// What follows the value.
    attributes: &'static str,
    key: EncodingKey,
}

impl Affinity {
    pub fn new(cookie: &AffinityCookie, seed: Option<&[u8]>) -> Affinity {
        let attributes = match cookie.same_site {
            SameSite::Lax => "; Path=/; HttpOnly; SameSite=Lax",
            SameSite::Strict => "; Path=/; HttpOnly; SameSite=Strict",
            SameSite::None => "; Path=/; HttpOnly; SameSite=None",
        };
        let key = EncodingKey::from_secret(seed.unwrap_or(WITHOUT_SEED));
        Affinity { name: cookie.name.clone(), attributes, key }
    }

    /// The value that names the endpoint of this identity.
    pub fn code(&self, identity: &str) -> Box<str> {
        let message = format!("{PURPOSE}{identity}");
        let mut code = crypto::sign(message.as_bytes(), &self.key, Algorithm::HS256)
            .expect("an HMAC takes any key and any message");
        code.truncate(LETTERS);
        code.into()
    }

    /// The endpoint that a request's cookie names, if it is one of these.
    pub fn named(&self, headers: &HeaderMap, endpoints: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        let named = |value: &[u8]| {
            endpoints
                .iter()
                .find(|endpoint| endpoint.code().is_some_and(|code| code.as_bytes() == value))
        };
        cookies(headers, &self.name).find_map(named).cloned()
    }

    /// The Set-Cookie that names `endpoint`.
    pub fn cookie(&self, endpoint: &Endpoint, secure: bool) -> Option<HeaderValue> {
        let secure = if secure { "; Secure" } else { "" };
        let (name, code, attributes) = (&self.name, endpoint.code()?, self.attributes);
        HeaderValue::try_from(format!("{name}={code}{attributes}{secure}")).ok()
    }
}

impl std::fmt::Debug for Affinity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Affinity({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity(seed: Option<&[u8]>) -> Affinity {
        let cookie = AffinityCookie { name: "stay".into(), same_site: SameSite::Lax };
        Affinity::new(&cookie, seed)
    }

    /// printf affinity:10.0.0.1:9001 | openssl dgst -sha256 -hmac wsgate -binary | basenc --base64url
    #[test]
    fn a_code_is_the_same_on_every_machine() {
        assert_eq!(&*affinity(None).code("10.0.0.1:9001"), "rG3r1tpeyk8rtLP0b5ppR4");
        assert_eq!(&*affinity(Some(b"seed")).code("10.0.0.1:9001"), "F8VcA9OUBFfEjQVw29k6m7");
    }
}

//! Tokens: what a signed token (JWT, RFC 7519) must be to let its bearer in, and what it says.
//!
//! A [`TokenRule`] judges the text of a token by keys and a time that are handed in. What comes
//! of a good one is [`Verified`], which nothing else can make. A refusal says why in words for an
//! operator; what in them is the client's choice is cut and escaped, and a token's own text is
//! never among them.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Subject;
use super::keys::{KeySet, NoKey};
use crate::config::Token;

/// The longest token that is looked at.
const LONGEST: usize = 8 << 10;
/// Seconds to the end of the year 9999; a token that says more lives so long.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What a route asks of tokens.
#[derive(Clone, Debug)]
pub struct TokenRule(Token);

/// A token that was found good, and what it says.
#[derive(Debug)]
pub struct Verified {
    subject: Option<Subject>,
    expires: SystemTime,
    claims: Map<String, Value>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// Why a token does not let its bearer in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Invalid(Invalid),
    /// A good token of one who may not come.
    #[error("the claim {claim} {has} and must {must}")]
    Lacks {
        claim: Quoted,
        has: Has,
        must: Must,
        /// The scope that would do (RFC 6750 §3.1), where it is one.
        scope: Option<String>,
    },
    /// No key of this name is known; there may be newer keys.
    #[error("no key has the kid {kid}; the set has {keys}")]
    UnknownKey { kid: Quoted, keys: usize },
    #[error("the keys of the issuer have not been fetched yet")]
    NoKeys,
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the token has more than {LONGEST} bytes")]
    TooLong,
    #[error("the token is no JWT: three parts in base64url, with dots between them")]
    Shape,
    #[error("the token is encrypted (JWE); only signed ones are taken")]
    Encrypted,
    #[error("the token's header is no JSON object with an `alg`")]
    Header,
    #[error("the token's header has `crit`: extensions that are not known here")]
    Critical,
    #[error("the token is signed with {signed}, which this route does not list: {listed}")]
    Algorithm { signed: Quoted, listed: String },
    #[error("the token is signed with {0:?}, and the key that it names is for something else")]
    OtherKey(Algorithm),
    #[error("no key of {keys} verifies {algorithm:?}")]
    NoKeyFor { algorithm: Algorithm, keys: usize },
    #[error("the token's signature is wrong: it was changed, or signed with another key")]
    Signature,
    #[error("the token's claims are no JSON object")]
    Claims,
    #[error("the token has no `exp`, or one that is no number")]
    NoExpiry,
    #[error("the token expired {} ago", Rough(*.0))]
    Expired(Duration),
    #[error("the token has an `nbf` that is no number")]
    BadStart,
    #[error("the token is not valid for another {}; do the clocks agree?", Rough(*.0))]
    NotYet(Duration),
    #[error("the token is by the issuer {0}, and not by the one of this route")]
    Issuer(Quoted),
    #[error("the token is for the audience {0}, and for none of this route")]
    Audience(Quoted),
    #[error("the token's `sub` is no text of 1 to 256 bytes without control characters")]
    Subject,
    #[error("the claim {claim} is {what}, which no header can tell")]
    Untellable { claim: String, what: &'static str },
}

/// A text of the client's choice as a log may have it: in quotes, escaped, not for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    const LONGEST: usize = 40;

    fn text(text: &str) -> Quoted {
        let mut start: String = text.chars().take(Self::LONGEST).collect();
        if start.len() < text.len() {
            start.push('…');
        }
        Quoted(format!("{start:?}"))
    }

    fn value(value: Option<&Value>) -> Quoted {
        match value {
            None => Quoted("(none)".to_owned()),
            Some(Value::String(text)) => Quoted::text(text),
            Some(other) => Quoted::text(&other.to_string()),
        }
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A span of time as a person says it.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..120 => write!(out, "{seconds} s"),
            seconds @ 120..7_200 => write!(out, "{} min", seconds / 60),
            seconds @ 7_200..172_800 => write!(out, "{} h", seconds / 3_600),
            seconds => write!(out, "{} days", seconds / 86_400),
        }
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl TokenRule {
    pub fn new(token: &Token) -> TokenRule {
        TokenRule(token.clone())
    }

    /// Judges a token; `keys` is `None` as long as nobody has any.
    pub fn judge(
        &self,
        token: &str,
        keys: Option<&KeySet>,
        now: SystemTime,
    ) -> Result<Verified, Refused> {
        let claims = self.signed_claims(token, keys)?;
        let expires = self.within_its_time(&claims, now)?;
        self.by_and_for_the_right(&claims)?;
        let verified =
            Verified { subject: subject(&claims)?, expires, fields: self.fields(&claims)?, claims };
        self.required(&verified.claims)?;
        Ok(verified)
    }

    /// What is signed, once it is known that it is (RFC 7515 §5.2).
    fn signed_claims(
        &self,
        token: &str,
        keys: Option<&KeySet>,
    ) -> Result<Map<String, Value>, Refused> {
        if token.len() > LONGEST {
            return Err(Invalid::TooLong.into());
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Invalid::Shape)?;
        let (head, payload) = match *message.split('.').collect::<Vec<&str>>() {
            [head, payload] => (head, payload),
            [_, _, _, _] => return Err(Invalid::Encrypted.into()),
            _ => return Err(Invalid::Shape.into()),
        };
        let head: Head = serde_json::from_slice(&decoded(head)?).map_err(|_| Invalid::Header)?;
        if head.crit.is_some() {
            return Err(Invalid::Critical.into());
        }
        let algorithm = self.algorithm(&head.alg)?;
        let keys = keys.ok_or(Refused::NoKeys)?;
        let kid = head.kid.as_deref();
        keys.verify(algorithm, kid, message, signature).map_err(|fault| match (fault, kid) {
            (NoKey::BadSignature, _) => Invalid::Signature.into(),
            (NoKey::Unknown, Some(kid)) => {
                Refused::UnknownKey { kid: Quoted::text(kid), keys: keys.len() }
            }
            (NoKey::OtherAlgorithm, Some(_)) => Invalid::OtherKey(algorithm).into(),
            (NoKey::Unknown | NoKey::OtherAlgorithm, None) => {
                Invalid::NoKeyFor { algorithm, keys: keys.len() }.into()
            }
        })?;
        let claims = serde_json::from_slice(&decoded(payload)?);
        claims.map_err(|_| Invalid::Claims.into())
    }

    fn algorithm(&self, name: &str) -> Result<Algorithm, Invalid> {
        let listed = self.0.algorithms.iter();
        listed.copied().find(|algorithm| format!("{algorithm:?}") == name).ok_or_else(|| {
            let listed: Vec<String> =
                self.0.algorithms.iter().map(|listed| format!("{listed:?}")).collect();
            Invalid::Algorithm { signed: Quoted::text(name), listed: listed.join(", ") }
        })
    }

    /// The moment at which a connection by this token has to end.
    fn within_its_time(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<SystemTime, Invalid> {
        let expiry = claims.get("exp").and_then(moment).ok_or(Invalid::NoExpiry)?;
        let ends = expiry + self.0.leeway;
        if now >= ends {
            return Err(Invalid::Expired(now.duration_since(expiry).unwrap_or_default()));
        }
        if let Some(start) = claims.get("nbf") {
            let start = moment(start).ok_or(Invalid::BadStart)?;
            let early = start.duration_since(now).unwrap_or_default();
            if early > self.0.leeway {
                return Err(Invalid::NotYet(early));
            }
        }
        Ok(ends)
    }

    fn by_and_for_the_right(&self, claims: &Map<String, Value>) -> Result<(), Invalid> {
        let Token { issuer, audience, .. } = &self.0;
        let by = claims.get("iss");
        if issuer.as_deref().is_some_and(|wanted| by.and_then(Value::as_str) != Some(wanted)) {
            return Err(Invalid::Issuer(Quoted::value(by)));
        }
        let named = claims.get("aud");
        let is_ours =
            |one: &Value| one.as_str().is_some_and(|one| audience.iter().any(|a| a == one));
        let ours = match named {
            Some(Value::Array(several)) => several.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        match audience.is_empty() || ours {
            true => Ok(()),
            false => Err(Invalid::Audience(Quoted::value(named))),
        }
    }

    /// What the upstream is told: no claim, no header.
    fn fields(
        &self,
        claims: &Map<String, Value>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Invalid> {
        let told = self.0.forward.iter().filter_map(|(claim, header)| {
            let value = field(claims.get(claim)?);
            let untellable = |what| Invalid::Untellable { claim: claim.clone(), what };
            Some(value.map(|value| (header.clone(), value)).map_err(untellable))
        });
        told.collect()
    }

    fn required(&self, claims: &Map<String, Value>) -> Result<(), Refused> {
        let lacking = |(claim, wanted): &&(String, Value)| !holds(claim, claims.get(claim), wanted);
        let Some((claim, wanted)) = self.0.required.iter().find(lacking) else { return Ok(()) };
        let has = claims.get(claim).map(|has| Quoted::value(Some(has)));
        let scope = wanted.as_str().filter(|_| claim == SCOPE).map(str::to_owned);
        Err(Refused::Lacks {
            claim: Quoted::text(claim),
            has: Has(has),
            must: Must(Quoted::value(Some(wanted))),
            scope,
        })
    }
}

/// RFC 8693 §4.2: words with spaces between them.
const SCOPE: &str = "scope";

/// Whether a claim is what is wanted, or contains it.
fn holds(claim: &str, has: Option<&Value>, wanted: &Value) -> bool {
    match (has, wanted) {
        (Some(Value::Array(several)), wanted) => several.contains(wanted),
        (Some(Value::String(words)), Value::String(wanted)) if claim == SCOPE => {
            wanted.split(' ').all(|one| words.split(' ').any(|word| word == one))
        }
        (has, wanted) => has == Some(wanted),
    }
}

/// What a claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Has(Option<Quoted>);

impl fmt::Display for Has {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => write!(out, "is {value}"),
            None => out.write_str("is not there"),
        }
    }
}

/// What it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Must(Quoted);

impl fmt::Display for Must {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "be or contain {}", self.0)
    }
}

impl From<Invalid> for Refused {
    fn from(invalid: Invalid) -> Refused {
        Refused::Invalid(invalid)
    }
}

impl Verified {
    /// Who comes, where the token says it.
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// When it expires, leeway included.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// What the upstream is told; taken once.
    pub fn take_fields(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        std::mem::take(&mut self.fields)
    }

    /// A claim that is a text, a number or a truth value, as text.
    pub fn claim(&self, name: &str) -> Option<String> {
        tellable(self.claims.get(name)?).ok()
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Invalid> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Shape)
}

/// A NumericDate (RFC 7519 §2): seconds, maybe with a fraction.
fn moment(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64()?.clamp(0.0, LAST_SECOND);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds))
}

fn subject(claims: &Map<String, Value>) -> Result<Option<Subject>, Invalid> {
    let Some(claim) = claims.get("sub") else { return Ok(None) };
    let name = claim.as_str().filter(|name| !name.contains(char::is_control));
    name.and_then(Subject::new).map(Some).ok_or(Invalid::Subject)
}

/// Whoever reads a field takes the spaces around it off (RFC 9110 §5.5), and would see the name of
/// somebody else.
fn field(claim: &Value) -> Result<HeaderValue, &'static str> {
    let text = tellable(claim)?;
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err("a text with a space at its end");
    }
    HeaderValue::try_from(text.into_bytes()).map_err(|_| CONTROL)
}

const CONTROL: &str = "a text with control characters";

fn tellable(claim: &Value) -> Result<String, &'static str> {
    match claim {
        Value::String(text) if text.contains(char::is_control) => Err(CONTROL),
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null => Err("null"),
        Value::Array(_) => Err("a list"),
        Value::Object(_) => Err("an object"),
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::{KeySource, TokenSource};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_700_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn config() -> Token {
        Token {
            from: vec![TokenSource::Subprotocol],
            algorithms: vec![Algorithm::HS256],
            keys: KeySource::SecretEnv("SECRET".into()),
            issuer: None,
            audience: Vec::new(),
            required: Vec::new(),
            leeway: Duration::from_secs(30),
            forward: Vec::new(),
            strip: true,
        }
    }

    fn signed(claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET);
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
    }

    /// The verdict on claims that are well signed; those without an `exp` get one.
    fn judged(config: Token, claims: Value) -> Result<Verified, Refused> {
        let mut claims = claims;
        if claims.get("exp").is_none() {
            claims["exp"] = (NOW + 60).into();
        }
        let keys = KeySet::of_secret(SECRET).unwrap();
        TokenRule::new(&config).judge(&signed(&claims), Some(&keys), now())
    }

    #[track_caller]
    fn assert_refused(config: &Token, claims: Value, words: &str) {
        let refused = judged(config.clone(), claims).expect_err(words).to_string();
        assert!(refused.contains(words), "{refused:?}");
    }

    #[test]
    fn a_good_token_says_who_comes_and_until_when() {
        let header = |name| HeaderName::from_static(name);
        let forward = [("sub", "x-user"), ("level", "x-level"), ("vip", "x-vip"), ("no", "x-no")];
        let forward = forward.map(|(claim, name)| (claim.to_owned(), header(name))).to_vec();
        let config = Token { forward, ..config() };
        let claims = json!({ "sub": "jürgen", "level": 7, "vip": true, "exp": NOW as f64 + 0.5 });
        let mut verified = judged(config, claims).unwrap();
        assert_eq!(verified.subject().map(Subject::as_str), Some("jürgen"));
        assert_eq!(verified.expires(), now() + Duration::from_millis(30_500));
        let fields = verified.take_fields();
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let user = "jürgen".as_bytes();
        assert_eq!(fields, [("x-user", user), ("x-level", b"7"), ("x-vip", b"true")]);
        assert_eq!(verified.claim("level").as_deref(), Some("7"));
        assert_eq!(verified.claim("no"), None);
    }

    #[test]
    fn a_token_has_its_time() {
        let at = |exp: i64, nbf: i64| {
            let second = i64::try_from(NOW).unwrap();
            judged(config(), json!({ "exp": second + exp, "nbf": second + nbf }))
        };
        assert!(at(-29, 30).is_ok());
        assert_eq!(at(-30, 0).unwrap_err().to_string(), "the token expired 30 s ago");
        assert_eq!(at(-7_300, 0).unwrap_err().to_string(), "the token expired 2 h ago");
        let early = at(60, 31).unwrap_err().to_string();
        assert_eq!(early, "the token is not valid for another 31 s; do the clocks agree?");
        for exp in [json!("soon"), json!(null), json!(true), json!([NOW + 60])] {
            assert_refused(&config(), json!({ "exp": exp }), "no `exp`");
        }
        assert_refused(&config(), json!({ "nbf": "now" }), "`nbf`");
        assert_refused(&config(), json!({ "exp": -1e300 }), "days ago");
        let forever = judged(config(), json!({ "exp": 1e300 })).unwrap();
        assert!(forever.expires() > now() + Duration::from_secs(7_000 * 365 * 86_400));
        let key = EncodingKey::from_secret(SECRET);
        let none = jsonwebtoken::encode(&Header::default(), &json!({}), &key).unwrap();
        let keys = KeySet::of_secret(SECRET).unwrap();
        let none = TokenRule::new(&config()).judge(&none, Some(&keys), now());
        assert_eq!(none.unwrap_err(), Invalid::NoExpiry.into());
    }

    #[test]
    fn issuer_and_audience_are_those_of_the_route() {
        let config = Token {
            issuer: Some("us".into()),
            audience: vec!["chat".into(), "game".into()],
            ..config()
        };
        for aud in [json!("chat"), json!(["x", "game"])] {
            assert!(judged(config.clone(), json!({ "iss": "us", "aud": aud })).is_ok());
        }
        for aud in [json!("chats"), json!(["x"]), json!([]), json!(7), json!({ "chat": 1 })] {
            assert_refused(&config, json!({ "iss": "us", "aud": aud }), "for the audience");
        }
        assert_refused(&config, json!({ "iss": "us" }), "for the audience (none)");
        assert_refused(&config, json!({ "aud": "chat", "iss": "them" }), "by the issuer \"them\"");
        assert_refused(&config, json!({ "aud": "chat", "iss": ["us"] }), "by the issuer");
        assert!(judged(self::config(), json!({ "aud": "anything", "iss": 7 })).is_ok());
    }

    #[test]
    fn required_claims_are_equal_or_contain() {
        let requires = |claim: &str, wanted: Value| Token {
            required: vec![(claim.to_owned(), wanted)],
            ..config()
        };
        let good = [
            ("role", json!("member"), json!({ "role": "member" })),
            ("role", json!("member"), json!({ "role": ["guest", "member"] })),
            ("scope", json!("chat"), json!({ "scope": "read chat" })),
            ("scope", json!("chat read"), json!({ "scope": "read write chat" })),
            ("level", json!(7), json!({ "level": 7 })),
            ("vip", json!(true), json!({ "vip": true })),
        ];
        for (claim, wanted, claims) in good {
            assert!(judged(requires(claim, wanted), claims.clone()).is_ok(), "{claims}");
        }
        let bad = [
            ("role", json!("member"), json!({})),
            ("role", json!("member"), json!({ "role": "members" })),
            ("role", json!("member"), json!({ "role": "a member" })),
            ("role", json!("member"), json!({ "role": { "member": true } })),
            ("scope", json!("chat"), json!({ "scope": "chats read" })),
            ("level", json!(7), json!({ "level": "7" })),
            ("vip", json!(true), json!({ "vip": false })),
        ];
        for (claim, wanted, claims) in bad {
            let refused = judged(requires(claim, wanted.clone()), claims.clone());
            let Err(Refused::Lacks { scope, .. }) = refused else { panic!("{claims}") };
            let scopes = (claim == "scope").then(|| wanted.as_str().unwrap().to_owned());
            assert_eq!(scope, scopes);
        }
        let told = judged(requires("role", json!("member")), json!({ "role": "guest" }));
        let words = "the claim \"role\" is \"guest\" and must be or contain \"member\"";
        assert_eq!(told.unwrap_err().to_string(), words);
    }

    #[test]
    fn what_no_header_can_tell_is_refused() {
        let forward = vec![("name".to_owned(), HeaderName::from_static("x-name"))];
        let config = Token { forward, ..config() };
        for (name, why) in [
            (json!("a\r\nx-admin: 1"), "control characters"),
            (json!("a\u{85}b"), "control characters"),
            (json!("a\tb"), "control characters"),
            (json!(" admin"), "a space at its end"),
            (json!("admin "), "a space at its end"),
            (json!(null), "null"),
            (json!(["a"]), "a list"),
            (json!({}), "an object"),
        ] {
            assert_refused(&config, json!({ "name": name }), why);
        }
        for sub in [json!(7), json!(""), json!("x".repeat(257)), json!("a\nb"), json!(null)] {
            assert_refused(&self::config(), json!({ "sub": sub }), "`sub`");
        }
    }

    #[test]
    fn what_is_no_token_is_told_apart_and_never_repeated() {
        let keys = KeySet::of_secret(SECRET).unwrap();
        let judge = |token: &str| {
            let refused = TokenRule::new(&config()).judge(token, Some(&keys), now());
            refused.expect_err(token).to_string()
        };
        let of = |head: Value| {
            let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
            format!("{}.{}.c2lnbmF0dXJl", encode(head.to_string().as_bytes()), encode(b"{}"))
        };
        let table = [
            (String::new(), "no JWT"),
            ("a.b".into(), "no JWT"),
            ("..".into(), "`alg`"),
            ("!!.e30.e30".into(), "no JWT"),
            ("a.b.c.d.e".into(), "encrypted"),
            ("a.b.c.d.e.f".into(), "no JWT"),
            ("x".repeat(9000), "more than 8192"),
            (of(json!([])), "`alg`"),
            (of(json!({ "alg": 7 })), "`alg`"),
            (
                of(json!({ "alg": "none" })),
                "signed with \"none\", which this route does not list: HS256",
            ),
            (of(json!({ "alg": "RS256\n" })), "\"RS256\\n\""),
            (of(json!({ "alg": "HS256", "crit": ["b64"] })), "crit"),
            (of(json!({ "alg": "HS256" })), "signature is wrong"),
            (signed(&json!([])), "no JSON object"),
        ];
        for (token, words) in table {
            let refused = judge(&token);
            assert!(refused.contains(words), "{refused:?}");
        }
        let good = signed(&json!({ "exp": NOW + 60 }));
        let changed = format!("{}A", &good[..good.len() - 1]);
        assert!(judge(&changed).contains("wrong") || judge(&changed).contains("no JWT"));
        let padded = format!("{good}=");
        assert!(judge(&padded).contains("wrong"), "{}", judge(&padded));
        let unknown = TokenRule::new(&config()).judge(&good, None, now());
        assert_eq!(unknown.unwrap_err(), Refused::NoKeys);
    }

    proptest! {
        #[test]
        fn no_text_gets_in_and_none_comes_back(text in "[ -~\n]{0,80}") {
            let keys = KeySet::of_secret(SECRET).unwrap();
            prop_assert!(TokenRule::new(&config()).judge(&text, Some(&keys), now()).is_err());
        }

        #[test]
        fn a_changed_token_is_refused(at in 0usize..200, byte in b'!'..b'~') {
            let mut token = signed(&json!({ "exp": NOW + 60, "sub": "ada" })).into_bytes();
            let at = at % token.len();
            prop_assume!(token[at] != byte);
            token[at] = byte;
            let keys = KeySet::of_secret(SECRET).unwrap();
            let token = String::from_utf8(token).unwrap();
            prop_assert!(TokenRule::new(&config()).judge(&token, Some(&keys), now()).is_err());
        }
    }
}

//! Keys that tokens are verified by: sets, public keys and secrets, read from their bytes.
//!
//! A key judges the algorithms of its own family and no others, so that a public key is never
//! taken for a secret (RFC 8725 §2.1); a key of a set that names its algorithm judges that alone.
//! What of a set cannot verify tokens (secrets, keys for encryption, unknown kinds) is left out.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::error::Category;

/// The most that a set may have.
pub const LARGEST: usize = 1 << 20;
const MOST_KEYS: usize = 100;
/// Of keys that a token does not tell apart, so many are tried.
const TRIES: usize = 8;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];
/// RFC 7518 §3.2: a secret has as many bytes as the hash at least.
const SECRETS: [(Algorithm, usize); 3] =
    [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)];

/// RFC 7518 §3.3; what verifies takes no more than 8192.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// How a block of PEM begins (RFC 7468 §2).
const BLOCK: &str = "-----BEGIN ";
/// id-ecPublicKey's curves in DER (RFC 5480 §2.1.1.1).
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// Keys, at least one.
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys that cannot verify tokens, and why the first of them cannot.
    left_out: Option<(usize, String)>,
}

struct Key {
    /// By which a token names it; keys of a file have no name.
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Why bytes are no keys. The texts tell an operator; none of them has any of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysFault {
    #[error("it has more than {LARGEST} bytes")]
    TooLarge,
    #[error("it is not a key set: {0}; a set is JSON, {{ \"keys\": [ … ] }}")]
    NotASet(String),
    #[error("it has {0} keys, and {MOST_KEYS} are the most")]
    TooMany(usize),
    #[error("it has no keys")]
    Empty,
    #[error("none of its {0} keys can verify tokens; the first: {1}")]
    NoneFits(usize, String),
    #[error("it holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)")]
    NotPem,
    #[error(
        "it holds a private key, which has no place here; `openssl pkey -in FILE -pubout` gives \
         the public one"
    )]
    PrivateKey,
    #[error("it holds a certificate; `openssl x509 -in FILE -pubkey -noout` gives its public key")]
    Certificate,
    #[error("it holds a public key that cannot be used: {0}")]
    BadKey(String),
    #[error("it holds public keys of different kinds; keep those of one")]
    Mixed,
    #[error("the secret is empty")]
    NoSecret,
    #[error(
        "the secret has {has} bytes and {algorithm:?} needs {needs} (RFC 7518 §3.2); \
         `openssl rand -hex 32` makes a good one"
    )]
    ShortSecret { has: usize, algorithm: Algorithm, needs: usize },
    #[error("its keys verify {verified}, and `algorithms` lists none of these")]
    OtherAlgorithms { verified: String },
}

/// Why no key of a set verifies a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// None has the name that the token gives.
    Unknown,
    /// The key of that name is for another algorithm; or there is no key for this one.
    OtherAlgorithm,
    BadSignature,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// RFC 7517 §4, and of RFC 7518 §6 and RFC 8037 §2 the public half.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private half.
    d: Option<IgnoredAny>,
}

impl KeySet {
    /// Reads a JWKS (RFC 7517 §5).
    pub fn of_jwks(json: &[u8]) -> Result<KeySet, KeysFault> {
        if json.len() > LARGEST {
            return Err(KeysFault::TooLarge);
        }
        let set: Set =
            serde_json::from_slice(json).map_err(|error| KeysFault::NotASet(told(&error)))?;
        match set.keys.len() {
            0 => return Err(KeysFault::Empty),
            count if count > MOST_KEYS => return Err(KeysFault::TooMany(count)),
            _ => {}
        }
        let (mut keys, mut left_out) = (Vec::new(), None);
        for value in set.keys {
            match Key::of_jwk(value) {
                Ok(key) => keys.push(key),
                Err(why) => left_out.get_or_insert((0, why)).0 += 1,
            }
        }
        match (keys.is_empty(), left_out) {
            (true, Some((count, why))) => Err(KeysFault::NoneFits(count, why)),
            (_, left_out) => Ok(KeySet { keys, left_out }),
        }
    }

    /// Reads public keys in PEM, all of one kind.
    pub fn of_pem(pem: &[u8]) -> Result<KeySet, KeysFault> {
        if pem.len() > LARGEST {
            return Err(KeysFault::TooLarge);
        }
        let text = std::str::from_utf8(pem).map_err(|_| KeysFault::NotPem)?;
        let starts: Vec<usize> = text.match_indices(BLOCK).map(|(at, _)| at).collect();
        if starts.len() > MOST_KEYS {
            return Err(KeysFault::TooMany(starts.len()));
        }
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let keys = starts.iter().zip(ends).map(|(start, end)| Key::of_pem(&text[*start..end]));
        let keys = keys.collect::<Result<Vec<Key>, KeysFault>>()?;
        let first = keys.first().ok_or(KeysFault::NotPem)?;
        if keys.iter().any(|key| key.key.family() != first.key.family()) {
            return Err(KeysFault::Mixed);
        }
        Ok(KeySet { keys, left_out: None })
    }

    /// Reads a secret, which all of HS256 to HS512 can use.
    pub fn of_secret(bytes: &[u8]) -> Result<KeySet, KeysFault> {
        let secret = secret(bytes);
        if secret.is_empty() {
            return Err(KeysFault::NoSecret);
        }
        let key = DecodingKey::from_secret(secret);
        let algorithms = SECRETS.map(|(algorithm, _)| algorithm).to_vec();
        Ok(KeySet { keys: vec![Key { kid: None, algorithms, key }], left_out: None })
    }

    /// Whether keys of a file fit a route that lists these algorithms.
    pub fn fits(self, listed: &[Algorithm]) -> Result<KeySet, KeysFault> {
        let short = self.keys.iter().find_map(|key| key.is_short_for(listed));
        if let Some(fault) = short {
            return Err(fault);
        }
        let judged = |key: &Key| key.algorithms.iter().any(|own| listed.contains(own));
        if self.keys.iter().any(judged) {
            return Ok(self);
        }
        let mut names: Vec<String> = Vec::new();
        for algorithm in self.keys.iter().flat_map(|key| &key.algorithms) {
            let name = format!("{algorithm:?}");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Err(KeysFault::OtherAlgorithms { verified: names.join(", ") })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys of the set cannot verify tokens, and why the first cannot.
    pub fn left_out(&self) -> Option<&(usize, String)> {
        self.left_out.as_ref()
    }

    /// Verifies the signature of `message`, which names its algorithm and maybe its key.
    ///
    /// Keys without a name, as files have them, are tried for every token; a token without one is
    /// held against all.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), NoKey> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        let mut chosen: Vec<&Key> = self.keys.iter().filter(named).collect();
        if chosen.is_empty() {
            chosen.extend(self.keys.iter().filter(|key| key.kid.is_none()));
        }
        if chosen.is_empty() {
            return Err(NoKey::Unknown);
        }
        chosen.retain(|key| key.algorithms.contains(&algorithm));
        if chosen.is_empty() {
            return Err(NoKey::OtherAlgorithm);
        }
        let signed = |key: &&Key| {
            crypto::verify(signature, message.as_bytes(), &key.key, algorithm).unwrap_or(false)
        };
        chosen.into_iter().take(TRIES).find(signed).map(|_| ()).ok_or(NoKey::BadSignature)
    }
}

/// Keys are not shown.
impl std::fmt::Debug for KeySet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "KeySet({} keys)", self.keys.len())
    }
}

impl Key {
    fn of_jwk(value: Value) -> Result<Key, String> {
        let unfit = |_| "it is no object with a `kty`, or has something of another type";
        let jwk: Jwk = serde_json::from_value(value).map_err(unfit)?;
        if jwk.d.is_some() {
            return Err("it has its private half, and whoever can read that can sign".into());
        }
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("its `use` is not sig".into());
        }
        if jwk.key_ops.as_ref().is_some_and(|all| !all.iter().any(|one| one == "verify")) {
            return Err("its `key_ops` have no verify".into());
        }
        let (key, of_kind) = jwk.key()?;
        let algorithms = match &jwk.alg {
            None => of_kind.to_vec(),
            Some(name) => {
                let own = of_kind.iter().find(|algorithm| format!("{algorithm:?}") == *name);
                vec![*own.ok_or("its `alg` is not known for this kind of key")?]
            }
        };
        Ok(Key { kid: jwk.kid, algorithms, key })
    }

    /// Reads one block.
    fn of_pem(pem: &str) -> Result<Key, KeysFault> {
        let label = pem.trim_start_matches(BLOCK).split("-----").next().unwrap_or("");
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            "CERTIFICATE" => return Err(KeysFault::Certificate),
            label if label.ends_with("PRIVATE KEY") => return Err(KeysFault::PrivateKey),
            _ => return Err(KeysFault::NotPem),
        }
        let of = |parsed: jsonwebtoken::errors::Result<DecodingKey>| parsed.ok();
        let bytes = pem.as_bytes();
        if let Some(key) = of(DecodingKey::from_ec_pem(bytes)) {
            let algorithms = curve(pem).ok_or_else(|| {
                KeysFault::BadKey("its curve is neither P-256 nor P-384".to_owned())
            })?;
            return Ok(Key { kid: None, algorithms: algorithms.to_vec(), key });
        }
        if let Some(key) = of(DecodingKey::from_ed_pem(bytes)) {
            return Ok(Key { kid: None, algorithms: ED25519.to_vec(), key });
        }
        let key = of(DecodingKey::from_rsa_pem(bytes)).ok_or_else(|| {
            KeysFault::BadKey("it is neither RSA, P-256, P-384 nor Ed25519".to_owned())
        })?;
        // RFC 8017 §A.1.1: the modulus makes up nearly all of it.
        let size = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        if size < *RSA_BYTES.start() {
            return Err(KeysFault::BadKey("an RSA key has 2048 bits at least".to_owned()));
        }
        Ok(Key { kid: None, algorithms: RSA.to_vec(), key })
    }

    fn is_short_for(&self, listed: &[Algorithm]) -> Option<KeysFault> {
        if self.key.family() != AlgorithmFamily::Hmac {
            return None;
        }
        let has = self.key.try_get_as_bytes().map_or(0, <[u8]>::len);
        let short =
            |(algorithm, needs): &&(Algorithm, usize)| listed.contains(algorithm) && has < *needs;
        let (algorithm, needs) = *SECRETS.iter().rev().find(short)?;
        Some(KeysFault::ShortSecret { has, algorithm, needs })
    }
}

impl Jwk {
    /// The key, and what its kind can judge.
    fn key(&self) -> Result<(DecodingKey, &'static [Algorithm]), String> {
        let parts = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => Ok((bytes(one)?, bytes(other)?)),
            _ => Err("a part of it is missing".to_owned()),
        };
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = parts(&self.n, &self.e)?;
                let leading = n.iter().take_while(|byte| **byte == 0).count();
                if !RSA_BYTES.contains(&(n.len() - leading)) {
                    return Err("an RSA key has 2048 to 8192 bits".into());
                }
                Ok((DecodingKey::from_rsa_raw_components(&n[leading..], &e), RSA))
            }
            ("EC", Some("P-256")) => Ok((point(&parts(&self.x, &self.y)?, 32)?, P256)),
            ("EC", Some("P-384")) => Ok((point(&parts(&self.x, &self.y)?, 48)?, P384)),
            ("OKP", Some("Ed25519")) => {
                let (x, _) = parts(&self.x, &self.x)?;
                if x.len() != 32 {
                    return Err("an Ed25519 key has 32 bytes".into());
                }
                Ok((DecodingKey::from_ed_der(&x), ED25519))
            }
            ("EC" | "OKP", _) => Err("its curve is not known".into()),
            ("oct", _) => Err("a secret in a set that others can read is none".into()),
            _ => Err("its kind is not known".into()),
        }
    }
}

/// What is wrong with JSON. Where a value is of another type than it should be, serde_json quotes
/// it, and it may be a secret.
fn told(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => "it is other JSON".to_owned(),
        Category::Io | Category::Syntax | Category::Eof => error.to_string(),
    }
}

/// A secret as a file holds it: the bytes, less one line break at their end, which editors leave.
pub fn secret(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of it is not base64url".to_owned())
}

/// An uncompressed point (SEC 1 §2.3.3).
fn point((x, y): &(Vec<u8>, Vec<u8>), size: usize) -> Result<DecodingKey, String> {
    if x.len() != size || y.len() != size {
        return Err(format!("its coordinates have not {size} bytes"));
    }
    Ok(DecodingKey::from_ec_der(&[&[4], x.as_slice(), y.as_slice()].concat()))
}

/// What the key of a PEM block judges, by its curve.
fn curve(pem: &str) -> Option<&'static [Algorithm]> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let der = BASE64_STANDARD.decode(lines.map(str::trim).collect::<String>()).ok()?;
    let names = |oid: &[u8]| der.windows(oid.len()).any(|bytes| bytes == oid);
    match () {
        () if names(OID_P256) => Some(P256),
        () if names(OID_P384) => Some(P384),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use serde_json::json;

    use super::*;

    fn pair(of: &'static rcgen::SignatureAlgorithm) -> KeyPair {
        KeyPair::generate_for(of).unwrap()
    }

    fn jwk(key: &KeyPair, more: Value) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let raw = key.public_key_raw();
        let half = raw.len().div_ceil(2);
        let mut jwk = match raw.len() {
            32 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(raw) }),
            size => json!({
                "kty": "EC",
                "crv": if size == 65 { "P-256" } else { "P-384" },
                "x": text(&raw[1..half]),
                "y": text(&raw[half..]),
            }),
        };
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn set(keys: &[Value]) -> Result<KeySet, KeysFault> {
        KeySet::of_jwks(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn verdict(
        set: &KeySet,
        key: &KeyPair,
        algorithm: Algorithm,
        kid: Option<&str>,
    ) -> Result<(), NoKey> {
        let pem = key.serialize_pem();
        let signer = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        let token = jsonwebtoken::encode(&Header::new(algorithm), &json!({}), &signer.unwrap());
        let token = token.unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        set.verify(algorithm, kid, message, signature)
    }

    #[test]
    fn a_name_chooses_the_key_and_without_one_all_are_tried() {
        let [one, two, other] = [(); 3].map(|()| pair(&PKCS_ECDSA_P256_SHA256));
        let ed = pair(&PKCS_ED25519);
        let set = set(&[
            jwk(&one, json!({ "kid": "1" })),
            jwk(&two, json!({ "kid": "2", "use": "sig", "alg": "ES256" })),
            jwk(&ed, json!({ "kid": "e", "key_ops": ["verify"] })),
        ]);
        let set = set.unwrap();
        let es = |key, kid| verdict(&set, key, Algorithm::ES256, kid);
        assert_eq!(es(&one, Some("1")), Ok(()));
        assert_eq!(es(&one, Some("2")), Err(NoKey::BadSignature));
        assert_eq!(es(&two, None), Ok(()));
        assert_eq!(es(&other, None), Err(NoKey::BadSignature));
        assert_eq!(es(&one, Some("3")), Err(NoKey::Unknown));
        assert_eq!(es(&one, Some("e")), Err(NoKey::OtherAlgorithm));
        assert_eq!(verdict(&set, &ed, Algorithm::EdDSA, Some("e")), Ok(()));
        assert_eq!(set.verify(Algorithm::HS256, None, "a.b", "c"), Err(NoKey::OtherAlgorithm));
    }

    #[test]
    fn a_key_without_a_name_is_tried_for_every_name() {
        let key = pair(&PKCS_ECDSA_P384_SHA384);
        let set = set(&[jwk(&key, json!({}))]).unwrap();
        assert_eq!(verdict(&set, &key, Algorithm::ES384, Some("x")), Ok(()));
    }

    #[test]
    fn what_cannot_verify_is_left_out() {
        let good = pair(&PKCS_ECDSA_P256_SHA256);
        let rsa =
            |n: &[u8]| json!({ "kty": "RSA", "n": BASE64_URL_SAFE_NO_PAD.encode(n), "e": "AQAB" });
        let others = [
            json!({ "kty": "oct", "k": "c2VjcmV0" }),
            json!({ "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" }),
            json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }),
            json!({ "kty": "EC", "crv": "P-256", "x": "AA" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": "AA" }),
            json!({ "kty": "new" }),
            json!({ "kty": 7 }),
            json!("key"),
            rsa(&[0xff; 128]),
            rsa(&[0xff; 1025]),
            jwk(&good, json!({ "use": "enc" })),
            jwk(&good, json!({ "key_ops": ["sign"] })),
            jwk(&good, json!({ "alg": "ES384" })),
            jwk(&good, json!({ "alg": "HS256" })),
            jwk(&good, json!({ "x": "not base64!" })),
            jwk(&good, json!({ "d": "c2VjcmV0" })),
            json!({ "kty": ["c2VjcmV0"], "k": "c2VjcmV0" }),
            json!("c2VjcmV0"),
        ];
        for other in &others {
            let fault = set(std::slice::from_ref(other)).unwrap_err();
            assert!(matches!(fault, KeysFault::NoneFits(1, _)), "{other}: {fault}");
            assert!(!fault.to_string().contains("c2VjcmV0"), "{fault}");
        }
        let mut all = others.to_vec();
        all.extend([jwk(&good, json!({})), rsa(&[0xff; 256])]);
        let set = set(&all).unwrap();
        assert_eq!((set.len(), set.left_out().unwrap().0), (2, others.len()));
    }

    #[test]
    fn sets_are_bounded() {
        let key = jwk(&pair(&PKCS_ED25519), json!({}));
        assert_eq!(set(&vec![key.clone(); 100]).unwrap().len(), 100);
        assert_eq!(set(&vec![key; 101]).unwrap_err(), KeysFault::TooMany(101));
        assert_eq!(KeySet::of_jwks(&vec![b' '; LARGEST + 1]).unwrap_err(), KeysFault::TooLarge);
        assert_eq!(set(&[]).unwrap_err(), KeysFault::Empty);
        for garbage in ["", "[]", "{}", "<html>", "{\"keys\": {}}", &"[".repeat(100_000)] {
            let fault = KeySet::of_jwks(garbage.as_bytes()).unwrap_err();
            assert!(matches!(fault, KeysFault::NotASet(_)), "{fault}");
        }
        for secret in ["\"hunter2\"", "{\"keys\": \"hunter2\"}"] {
            let fault = KeySet::of_jwks(secret.as_bytes()).unwrap_err();
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn public_keys_come_in_pem() {
        let [one, two] = [(); 2].map(|()| pair(&PKCS_ECDSA_P256_SHA256));
        let both = one.public_key_pem() + &two.public_key_pem();
        let set = KeySet::of_pem(both.as_bytes()).unwrap();
        for key in [&one, &two] {
            assert_eq!(verdict(&set, key, Algorithm::ES256, Some("any")), Ok(()));
            assert_eq!(verdict(&set, key, Algorithm::ES256, None), Ok(()));
        }
        let big = pair(&PKCS_ECDSA_P384_SHA384);
        let set = KeySet::of_pem(big.public_key_pem().as_bytes()).unwrap();
        assert_eq!(verdict(&set, &big, Algorithm::ES384, None), Ok(()));
        let ed = pair(&PKCS_ED25519);
        let set = KeySet::of_pem(ed.public_key_pem().as_bytes()).unwrap();
        assert_eq!(verdict(&set, &ed, Algorithm::EdDSA, None), Ok(()));
        assert_eq!(set.verify(Algorithm::HS256, None, "a.b", "c"), Err(NoKey::OtherAlgorithm));

        let mixed = ed.public_key_pem() + &one.public_key_pem();
        let certificate = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let table = [
            (mixed, KeysFault::Mixed),
            (one.serialize_pem(), KeysFault::PrivateKey),
            (certificate.cert.pem(), KeysFault::Certificate),
            ("{\"keys\": []}".to_owned(), KeysFault::NotPem),
            (String::new(), KeysFault::NotPem),
        ];
        for (text, fault) in table {
            assert_eq!(KeySet::of_pem(text.as_bytes()).unwrap_err(), fault);
        }
    }

    #[test]
    fn a_secret_is_long_enough_for_what_it_signs() {
        let of = |bytes: &[u8], listed: &[Algorithm]| {
            KeySet::of_secret(bytes).and_then(|keys| keys.fits(listed))
        };
        let secret = [b'x'; 33];
        assert!(of(&secret[..32], &[Algorithm::HS256]).is_ok());
        let short = of(&secret[..31], &[Algorithm::HS256]).unwrap_err().to_string();
        assert!(short.contains("has 31 bytes and HS256 needs 32"), "{short}");
        assert!(of(&secret[..32], &[Algorithm::HS256, Algorithm::HS512]).is_err());
        assert!(of(b"\n", &[Algorithm::HS256]).is_err());
        let mut line = secret[..31].to_vec();
        line.extend(b"\r\n");
        assert!(of(&line, &[Algorithm::HS256]).is_err(), "a line break is none of it");
        assert!(!format!("{:?}", KeySet::of_secret(b"hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn keys_of_a_file_fit_what_is_listed() {
        let key = pair(&PKCS_ECDSA_P256_SHA256);
        let keys = || KeySet::of_pem(key.public_key_pem().as_bytes()).unwrap();
        assert!(keys().fits(&[Algorithm::RS256, Algorithm::ES256]).is_ok());
        let fault = keys().fits(&[Algorithm::RS256]).unwrap_err().to_string();
        assert!(fault.contains("its keys verify ES256"), "{fault}");
    }
}

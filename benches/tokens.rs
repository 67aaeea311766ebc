//! What it costs to judge a token, from its text to its claims, by the way it is signed.
//!
//! `cargo bench --bench tokens`; `-- --quick` is a short run.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::json;
use wsgate::config::{KeySource, Token};
use wsgate::policy::keys::KeySet;
use wsgate::policy::token::TokenRule;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

type ReadKey = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;

/// A token, and the keys that verify it.
fn signed(algorithm: Algorithm) -> (String, KeySet) {
    let (key, keys) = match algorithm {
        Algorithm::RS256 => pair(&PKCS_RSA_SHA256, EncodingKey::from_rsa_pem),
        Algorithm::ES256 => pair(&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem),
        Algorithm::EdDSA => pair(&PKCS_ED25519, EncodingKey::from_ed_pem),
        _ => (EncodingKey::from_secret(SECRET), KeySet::of_secret(SECRET).expect("a secret")),
    };
    let claims = json!({
        "iss": "https://issuer.example.com", "sub": "user-1234567", "aud": ["chat"],
        "iat": 1_700_000_000, "exp": 1_700_003_600, "role": ["guest", "member"],
    });
    let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key);
    (token.expect("the key signs"), keys)
}

fn pair(kind: &'static rcgen::SignatureAlgorithm, read: ReadKey) -> (EncodingKey, KeySet) {
    let pair = KeyPair::generate_for(kind).expect("a key");
    let key = read(pair.serialize_pem().as_bytes()).expect("a private key");
    (key, KeySet::of_pem(pair.public_key_pem().as_bytes()).expect("a public key"))
}

fn tokens(criterion: &mut Criterion) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
    let mut group = criterion.benchmark_group("token");
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256] {
        let rule = TokenRule::new(&Token {
            from: Vec::new(),
            algorithms: vec![algorithm],
            keys: KeySource::SecretEnv(String::new()),
            issuer: Some("https://issuer.example.com".to_owned()),
            audience: vec!["chat".to_owned()],
            required: vec![("role".to_owned(), "member".into())],
            leeway: Duration::from_secs(30),
            forward: vec![("sub".to_owned(), http::HeaderName::from_static("x-user-id"))],
            strip: true,
        });
        let (token, keys) = signed(algorithm);
        group.bench_function(format!("{algorithm:?}"), |bench| {
            bench.iter(|| rule.judge(black_box(&token), Some(&keys), now).expect("a good token"));
        });
    }
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);

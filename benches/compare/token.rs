//! Tokens that clients show, and the rule by which wsgate asks for them.

use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::json;

/// Long enough for HS256 (RFC 7518 §3.2), and no secret.
const SECRET: &str = "a secret for benchmarks and for nothing else";
/// Files in the folder of a run.
const PRIVATE: &str = "token.key";
const PUBLIC: &str = "token.pem";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Hs256,
    Rs256,
    Es256,
}

impl Token {
    /// Makes a key in `folder`, and gives the lines of the route that ask for its tokens.
    pub fn policy(self, folder: &Path) -> anyhow::Result<String> {
        let (algorithm, keys) = match self {
            Token::Hs256 => ("HS256", format!("secret_file = {PUBLIC:?}")),
            Token::Rs256 => ("RS256", format!("public_key_file = {PUBLIC:?}")),
            Token::Es256 => ("ES256", format!("public_key_file = {PUBLIC:?}")),
        };
        let pair = match self {
            Token::Hs256 => None,
            Token::Rs256 => Some(KeyPair::generate_for(&PKCS_RSA_SHA256)?),
            Token::Es256 => Some(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?),
        };
        let public = pair.as_ref().map_or(SECRET.to_owned(), KeyPair::public_key_pem);
        std::fs::write(folder.join(PUBLIC), public)?;
        if let Some(pair) = pair {
            std::fs::write(folder.join(PRIVATE), pair.serialize_pem())?;
        }
        Ok(format!(
            "[route.token]\nfrom = [\"header:authorization\"]\nalgorithms = [\"{algorithm}\"]\n\
             keys = {{ {keys} }}\n"
        ))
    }

    /// A token of the key that [`Token::policy`] made.
    pub fn sign(self, folder: &Path) -> anyhow::Result<String> {
        let private = || std::fs::read(folder.join(PRIVATE));
        let (algorithm, key) = match self {
            Token::Hs256 => (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes())),
            Token::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(&private()?)?),
            Token::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(&private()?)?),
        };
        // The end of the year 2099.
        let claims = json!({ "sub": "somebody", "exp": 4_102_444_799_u64 });
        Ok(encode(&Header::new(algorithm), &claims, &key)?)
    }
}

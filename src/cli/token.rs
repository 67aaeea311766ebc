//! `wsgate token`: makes tokens to try a route with, and says what is wrong with one. For
//! development; it prints no key and no secret.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::config::{self, Config, KeySource, algorithm};
use crate::keyring;
use crate::policy::keys::{KeySet, secret};
use crate::policy::token::TokenRule;

#[derive(Subcommand)]
pub enum Token {
    /// Sign a token to try a route with; real ones come from an issuer
    Make(Make),
    /// Show what a token says and, with keys, whether it would be accepted and why not
    Read(ReadToken),
}

#[derive(Args)]
pub struct Make {
    #[command(flatten)]
    signed: Signer,
    /// The algorithm; by default the first that the key is good for
    #[arg(long, value_parser = algorithm)]
    alg: Option<Algorithm>,
    /// The key's name
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Whose token it is
    #[arg(long, value_name = "SUBJECT")]
    sub: Option<String>,
    /// Who signed it
    #[arg(long, value_name = "ISSUER")]
    iss: Option<String>,
    /// Whom it is for; may be repeated
    #[arg(long, value_name = "AUDIENCE")]
    aud: Vec<String>,
    /// A further claim; a VALUE that is JSON is taken as such. May be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, Value)>,
    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = config::duration)]
    exp: Duration,
}

/// What signs: exactly one.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Signer {
    /// A file with a secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// An environment variable with a secret
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// A private key in PEM (PKCS#8)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReadToken {
    /// The token; without it, standard input
    token: Option<String>,
    #[command(flatten)]
    verified: Verifier,
    /// The route of the configuration, where several have a token
    #[arg(long, value_name = "NAME", requires = "config")]
    route: Option<String>,
}

/// What verifies: one at most.
#[derive(Args)]
#[group(multiple = false)]
struct Verifier {
    /// Judge it by a route of this configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with a secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// An environment variable with a secret
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// A public key in PEM
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// A key set in JSON (JWKS)
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
}

/// Does what the arguments say; a token that is not accepted is exit code 1.
pub fn token(command: Token) -> anyhow::Result<ExitCode> {
    match command {
        Token::Make(make) => {
            let token = make.token(SystemTime::now())?;
            writeln!(io::stderr(), "for development only: real tokens come from an issuer")?;
            writeln!(io::stdout(), "{token}")?;
            Ok(ExitCode::SUCCESS)
        }
        Token::Read(read) => read.read(),
    }
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

impl Make {
    fn token(self, now: SystemTime) -> anyhow::Result<String> {
        let claims = self.claims(now)?;
        let wanted = self.alg.as_slice();
        let mut fault = None;
        for (algorithm, key) in self.signed.keys(wanted)? {
            let header = Header { kid: self.kid.clone(), ..Header::new(algorithm) };
            match jsonwebtoken::encode(&header, &claims, &key) {
                Ok(token) => return Ok(token),
                Err(error) => fault = Some(error),
            }
        }
        match (fault, self.alg) {
            (Some(error), _) => Err(error).context("the key cannot sign"),
            (None, Some(algorithm)) => bail!("a key of this kind cannot sign {algorithm:?}"),
            (None, None) => bail!("the key cannot sign"),
        }
    }

    fn claims(&self, now: SystemTime) -> anyhow::Result<Map<String, Value>> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).context("the clock is wrong")?;
        let mut claims = Map::new();
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let audience = match &*self.aud {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        let named = [("sub", text(&self.sub)), ("iss", text(&self.iss)), ("aud", audience)];
        claims.extend(named.into_iter().filter_map(|(name, value)| Some((name.into(), value?))));
        claims.insert("iat".into(), now.as_secs().into());
        claims.insert("exp".into(), (now + self.exp).as_secs().into());
        claims.extend(self.claim.iter().cloned());
        Ok(claims)
    }
}

const SECRETS: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const CURVES: [Algorithm; 2] = [Algorithm::ES256, Algorithm::ES384];
const EDWARDS: [Algorithm; 1] = [Algorithm::EdDSA];
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

impl Signer {
    /// The key for each algorithm that it may be good for, of the wanted ones if there are any.
    fn keys(&self, wanted: &[Algorithm]) -> anyhow::Result<Vec<(Algorithm, EncodingKey)>> {
        let fits = |algorithm: &&Algorithm| wanted.is_empty() || wanted.contains(algorithm);
        let (key, algorithms) = self.key()?;
        if let Some(first) = algorithms.iter().find(fits)
            && SECRETS.contains(first)
        {
            KeySet::of_secret(key.as_bytes()).and_then(|keys| keys.fits(&[*first]))?;
            return Ok(vec![(*first, key)]);
        }
        Ok(algorithms.iter().filter(fits).map(|algorithm| (*algorithm, key.clone())).collect())
    }

    fn key(&self) -> anyhow::Result<(EncodingKey, &'static [Algorithm])> {
        let of_secret = |bytes: &[u8]| (EncodingKey::from_secret(secret(bytes)), &SECRETS[..]);
        match (&self.secret_file, &self.secret_env, &self.key) {
            (Some(path), ..) => Ok(of_secret(&file(path)?)),
            (_, Some(name), _) => {
                let value = std::env::var_os(name);
                let value = value.with_context(|| format!("the environment has no {name}"))?;
                Ok(of_secret(value.as_encoded_bytes()))
            }
            (.., Some(path)) => private_key(&file(path)?).with_context(|| {
                let path = path.display();
                format!(
                    "{path} holds no private key (RSA, P-256, P-384, Ed25519) in PKCS#8 form; \
                     `openssl pkcs8 -topk8 -nocrypt -in {path}` makes one of other forms"
                )
            }),
            (None, None, None) => bail!("no key was given"),
        }
    }
}

fn private_key(pem: &[u8]) -> Option<(EncodingKey, &'static [Algorithm])> {
    if let Ok(key) = EncodingKey::from_ec_pem(pem) {
        return Some((key, &CURVES));
    }
    if let Ok(key) = EncodingKey::from_ed_pem(pem) {
        return Some((key, &EDWARDS));
    }
    let private = String::from_utf8_lossy(pem).contains("PRIVATE KEY-----");
    let key = EncodingKey::from_rsa_pem(pem).ok().filter(|_| private)?;
    Some((key, &RSA))
}

fn file(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

impl ReadToken {
    fn read(self) -> anyhow::Result<ExitCode> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => piped()?,
        };
        let token = token.trim();
        let (head, claims) = parts(token)?;
        let mut out = io::stdout();
        writeln!(out, "{}\n{}", shown(&head), shown(&claims))?;
        for (name, claim) in [("exp", &claims["exp"]), ("nbf", &claims["nbf"])] {
            if let Some(seconds) = claim.as_f64() {
                writeln!(out, "{name}: {}", when(seconds, SystemTime::now()))?;
            }
        }
        let Some(rule) = self.rule(&head)? else {
            writeln!(out, "not verified: give --config or a key to have it judged")?;
            return Ok(ExitCode::SUCCESS);
        };
        let keys = keys(&rule)?;
        match TokenRule::new(&rule).judge(token, Some(&keys), SystemTime::now()) {
            Ok(verified) => {
                let subject = verified.subject().map_or("-", |subject| subject.as_str());
                writeln!(out, "accepted: subject {subject}")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(refused) => {
                writeln!(out, "refused: {refused}")?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// What it is judged by, if by anything.
    fn rule(&self, head: &Value) -> anyhow::Result<Option<config::Token>> {
        let Verifier { config, secret_file, secret_env, public_key_file, jwks_file } =
            &self.verified;
        if let Some(config) = config {
            return self.rule_of_route(config).map(Some);
        }
        let file = |path: &Option<PathBuf>, of: fn(PathBuf) -> KeySource| path.clone().map(of);
        let keys = file(secret_file, KeySource::SecretFile)
            .or_else(|| secret_env.clone().map(KeySource::SecretEnv))
            .or_else(|| file(public_key_file, KeySource::PublicKeyFile))
            .or_else(|| file(jwks_file, KeySource::JwksFile));
        let Some(keys) = keys else { return Ok(None) };
        let signed = algorithm(head["alg"].as_str().unwrap_or_default());
        let signed = signed.map_err(|fault| anyhow::anyhow!("the token's alg: {fault}"))?;
        Ok(Some(config::Token {
            from: Vec::new(),
            algorithms: vec![signed],
            keys,
            issuer: None,
            audience: Vec::new(),
            required: Vec::new(),
            leeway: Duration::ZERO,
            forward: Vec::new(),
            strip: true,
        }))
    }

    fn rule_of_route(&self, path: &Path) -> anyhow::Result<config::Token> {
        let routes = Config::load(path)?.config.routes;
        let named = |name: &str| self.route.as_deref().is_none_or(|wanted| wanted == name);
        let mut rules: Vec<_> = routes
            .into_iter()
            .filter(|route| named(&route.name))
            .filter_map(|route| Some((route.name, route.admittance.token?)))
            .collect();
        match (&*rules, &self.route) {
            ([_], _) => Ok(rules.remove(0).1),
            ([], Some(name)) => bail!("no route {name:?} with a token is in {}", path.display()),
            ([], None) => bail!("no route of {} asks for a token", path.display()),
            (several, _) => {
                let names: Vec<&str> = several.iter().map(|(name, _)| &**name).collect();
                bail!("say which --route: {}", names.join(", "))
            }
        }
    }
}

fn piped() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().take(1 << 20).read_to_string(&mut text).context("cannot read the token")?;
    Ok(text)
}

/// Header and claims, whoever signed them.
fn parts(token: &str) -> anyhow::Result<(Value, Value)> {
    let part = |part: Option<&str>| -> Option<Value> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(part?).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let mut split = token.split('.');
    let (head, claims) = (part(split.next()), part(split.next()));
    head.zip(claims).context("this is no JWT: three parts in base64url, with dots between them")
}

/// JSON as a terminal may have it: a token is a stranger's, and JSON leaves some control
/// characters as they are.
fn shown(json: &Value) -> String {
    let mut shown = String::new();
    for character in format!("{json:#}").chars() {
        match character.is_control() && character != '\n' {
            true => shown += &format!("\\u{:04x}", u32::from(character)),
            false => shown.push(character),
        }
    }
    shown
}

fn when(seconds: f64, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let away = (seconds - now).abs().round();
    match seconds > now {
        true => format!("in {away} s"),
        false => format!("{away} s ago"),
    }
}

fn keys(rule: &config::Token) -> anyhow::Result<KeySet> {
    if let Some(keys) = keyring::read(rule)? {
        return Ok(keys);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(keyring::fetch_once(rule)).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_texts_unless_they_are_json() {
        let of = |text| claim(text).unwrap().1;
        assert_eq!(of("role=member"), json!("member"));
        assert_eq!(of("roles=[\"a\"]"), json!(["a"]));
        assert_eq!(of("admin=true"), json!(true));
        assert_eq!(of("note=a=b"), json!("a=b"));
        assert!(claim("role").is_err());
    }

    #[test]
    fn a_terminal_gets_no_control_characters_of_a_token() {
        let claims = json!({ "sub": "\u{1b}[31m\u{9b}31m\u{7f}ü" });
        assert_eq!(shown(&claims), "{\n  \"sub\": \"\\u001b[31m\\u009b31m\\u007fü\"\n}");
    }

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(when(1060.0, now), "in 60 s");
        assert_eq!(when(940.4, now), "60 s ago");
    }
}

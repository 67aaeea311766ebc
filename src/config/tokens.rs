//! What stands in `[route.token]`: sources, algorithms, keys, and claims.

use http::uri::Scheme;
use http::{HeaderName, Uri, header};
use jsonwebtoken::Algorithm;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::TokenSource;
use super::diagnostics::{Diagnostic, Span};
use super::names::Header;
use super::reader::{Complaint, Faults, Node, Read, Text, choice, refuse_twins, wrong_type};
use super::urls::Url;

/// Every algorithm there is, by its name in RFC 7518 and RFC 8037.
pub(super) const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
];

impl Text for Algorithm {
    const NAME: &'static str = "a signature algorithm";
    const EXAMPLE: &'static str = "RS256";

    fn parse(text: &str) -> Result<Algorithm, Complaint> {
        if text.eq_ignore_ascii_case("none") {
            let label = "anybody could write such a token";
            let help = "list the algorithms by which the issuer signs, such as \"RS256\"";
            return Err(Complaint::unfit("is no signature", label, help));
        }
        choice(text, &ALGORITHMS)
    }

    fn schema() -> Json {
        json!({ "enum": ALGORITHMS.map(|(name, _)| name) })
    }
}

/// Reads the name of an algorithm; the error says which there are.
pub fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::parse(name).map_err(|complaint| complaint.to_string())
}

impl Text for TokenSource {
    const NAME: &'static str = "a place of a token";
    const EXAMPLE: &'static str = "header:authorization";

    fn parse(text: &str) -> Result<TokenSource, Complaint> {
        let help = "write \"header:NAME\", \"cookie:NAME\", \"query:NAME\" or \
                    \"subprotocol:bearer\"";
        let Some((kind, name)) = text.split_once(':') else {
            return Err(Complaint::malformed("it does not say where and by which name", help));
        };
        match kind {
            "header" => source_header(name),
            "cookie" if is_token(name) => Ok(TokenSource::Cookie(name.to_owned())),
            "cookie" => Err(Complaint::malformed("no cookie can have this name", help)),
            "query" if !name.is_empty() => Ok(TokenSource::Query(name.to_owned())),
            "query" => Err(Complaint::malformed("its name is missing", help)),
            "subprotocol" if name == "bearer" => Ok(TokenSource::Subprotocol),
            "subprotocol" => {
                let help = "write \"subprotocol:bearer\": clients offer `bearer, <token>` or \
                            `bearer.<token>`";
                Err(Complaint::malformed("only `bearer` is known here", help))
            }
            _ => Err(Complaint::malformed("no such place", help)),
        }
    }
}

fn source_header(name: &str) -> Result<TokenSource, Complaint> {
    let Header(name) = Header::parse(name)?;
    if name == header::COOKIE {
        let help = "write \"cookie:NAME\" with the name of the cookie";
        return Err(Complaint::malformed("a token is one cookie of several", help));
    }
    Ok(TokenSource::Header(name))
}

/// A cookie's name (RFC 6265 §4.1.1).
fn is_token(text: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fit)
}

/// Where keys are fetched from: https, or http on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeysUrl(pub Uri);

impl Text for KeysUrl {
    const NAME: &'static str = "a URL of keys";
    const EXAMPLE: &'static str = "https://issuer.example.com/jwks.json";

    fn parse(text: &str) -> Result<KeysUrl, Complaint> {
        let help = format!("write a whole URL, such as {:?}", Self::EXAMPLE);
        let Url(url) = Url::parse(text).map_err(|complaint| complaint.with_help(&help))?;
        if url.scheme() == Some(&Scheme::HTTP) && !is_loopback(url.host().unwrap_or_default()) {
            return Err(Complaint::unfit(
                "is not safe",
                "whoever stands between could put keys of his own in",
                "write https://; http:// is for this machine alone, such as http://127.0.0.1:8080",
            ));
        }
        Ok(KeysUrl(url))
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable(pub String);

impl Text for Variable {
    const NAME: &'static str = "an environment variable's name";
    const EXAMPLE: &'static str = "TOKEN_SECRET";

    fn parse(text: &str) -> Result<Variable, Complaint> {
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = text.starts_with(|first: char| !first.is_ascii_digit());
        if begins && text.bytes().all(fit) {
            return Ok(Variable(text.to_owned()));
        }
        let help = "write the name of a variable such as \"TOKEN_SECRET\", not the secret itself";
        Err(Complaint::malformed("no variable can have this name", help))
    }
}

/// A claim's text that is not empty: an issuer, an audience.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Words(pub String);

impl Text for Words {
    const NAME: &'static str = "the text of a claim";
    const EXAMPLE: &'static str = "https://issuer.example.com";

    fn parse(text: &str) -> Result<Words, Complaint> {
        if text.is_empty() {
            let help = "write it as it stands in the token, or take the key out";
            return Err(Complaint::malformed("it is empty", help));
        }
        Ok(Words(text.to_owned()))
    }
}

/// `{ role = "member" }`: claims and what they must hold.
#[derive(Debug)]
pub(super) struct RequiredClaims(pub Vec<(String, Json)>);

impl Read for RequiredClaims {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<RequiredClaims> {
        let DeValue::Table(table) = node.get_ref() else {
            faults.push(wrong_type(node, "a table of claims", "write { role = \"member\" }"));
            return None;
        };
        let mut claims = Vec::new();
        for (key, value) in table {
            let wanted = wanted(value, faults);
            claims.extend(claim_name(key, faults).zip(wanted));
        }
        Some(RequiredClaims(claims))
    }

    fn schema() -> Json {
        let types = json!({ "type": ["string", "integer", "boolean"] });
        json!({ "type": "object", "additionalProperties": types })
    }
}

fn claim_name(key: &Spanned<DeString<'_>>, faults: &mut Faults) -> Option<String> {
    let name = key.get_ref().to_string();
    if name.is_empty() {
        let fault = Diagnostic::fault(key.span(), "a claim without a name");
        faults.push(fault.label("it is empty").help("write the claim's name, such as role"));
        return None;
    }
    Some(name)
}

fn wanted(value: &Node<'_>, faults: &mut Faults) -> Option<Json> {
    let found = match value.get_ref() {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Boolean(truth) => Some((*truth).into()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(Json::from)
        }
        _ => None,
    };
    if found.is_none() {
        let help = "write what the claim must be, or must contain where it is a list: \
                    \"member\", 7 or true";
        faults.push(wrong_type(value, "a text, a whole number or true or false", help));
    }
    found
}

/// `{ sub = "x-user-id" }`: claims and the headers that tell them to the upstream.
#[derive(Debug)]
pub(super) struct Forwarded(pub Vec<(String, HeaderName, Span)>);

impl Read for Forwarded {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Forwarded> {
        let DeValue::Table(table) = node.get_ref() else {
            faults.push(wrong_type(node, "a table of claims", "write { sub = \"x-user-id\" }"));
            return None;
        };
        let mut claims = Vec::new();
        for (key, value) in table {
            let header = Target::read(value, faults);
            let header = header.map(|Target(header)| (header, value.span()));
            claims.extend(claim_name(key, faults).zip(header));
        }
        claims.sort_by_key(|(_, (_, span))| span.start);
        let names = claims.iter().map(|(_, (header, span))| (spelling(header), span.clone()));
        refuse_twins(names, faults, |name| {
            let help = "give each claim a header of its own; `-` and `_` are the same to many \
                        servers";
            (format!("two claims go into the header `{name}`"), help.to_owned())
        });
        Some(Forwarded(
            claims.into_iter().map(|(claim, (name, span))| (claim, name, span)).collect(),
        ))
    }

    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

/// As servers compare names that turn them into variables.
pub(super) fn spelling(name: &HeaderName) -> String {
    name.as_str().replace(|mark: char| !mark.is_ascii_alphanumeric(), "-")
}

/// The header that a claim goes into.
struct Target(HeaderName);

impl Text for Target {
    const NAME: &'static str = Header::NAME;
    const EXAMPLE: &'static str = "x-user-id";

    fn parse(text: &str) -> Result<Target, Complaint> {
        const OWN: [&str; 4] = ["forwarded", "x-real-ip", "x-request-id", "cookie"];
        let Header(name) = Header::parse(text)?;
        let same = spelling(&name);
        if OWN.contains(&same.as_str()) || same.starts_with("x-forwarded-") {
            let label = "the edge tells something else in this one";
            let help = "choose a header of your own, such as \"x-user-id\"";
            return Err(Complaint::unfit("may not be changed", label, help));
        }
        Ok(Target(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_elsewhere_by_https_alone() {
        for good in [
            "https://issuer.example.com/jwks.json?tenant=a",
            "https://issuer.example.com",
            "http://127.0.0.1:8080/keys",
            "http://localhost/keys",
            "http://[::1]:8080/keys",
        ] {
            assert!(KeysUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "issuer.example.com/jwks.json",
            "/jwks.json",
            "http://issuer.example.com/jwks.json",
            "http://127.0.0.1.example.com/",
            "https://user:word@issuer.example.com/",
            "https:///jwks.json",
            "https://issuer.example.com/#keys",
            "file:///etc/keys",
            "ftp://issuer.example.com/",
        ] {
            assert!(KeysUrl::parse(bad).is_err(), "{bad}");
        }
    }
}

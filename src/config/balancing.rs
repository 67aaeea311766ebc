//! Values that say which endpoint a connection goes to: how it is chosen, by what key, and what an
//! endpoint is worth.

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::diagnostics::Diagnostic;
use super::names::{is_token, words};
use super::reader::{Complaint, Faults, Node, Read, Text, choice, nearest, wrong_type};
use super::{HashKey, SameSite};

/// How an upstream's endpoints share the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balancing {
    Hash,
    LeastConnections,
    RoundRobin,
}

words!(
    Balancing,
    "a way to balance",
    [
        ("hash", Balancing::Hash),
        ("least-connections", Balancing::LeastConnections),
        ("round-robin", Balancing::RoundRobin),
    ]
);

words!(
    SameSite,
    "a SameSite attribute",
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)]
);

// ---- keys ----

const KEY_HELP: &str = "write \"cookie:NAME\", \"query:NAME\", \"header:NAME\", \"claim:NAME\", \
                        \"path\", \"client-ip\" or \"client-ip/24\"";

impl Text for HashKey {
    const NAME: &'static str = "a key";
    const EXAMPLE: &'static str = "cookie:session";

    fn parse(text: &str) -> Result<HashKey, Complaint> {
        match text {
            "path" => return Ok(HashKey::Path),
            "client-ip" => return Ok(HashKey::ClientIp { v4: 32, v6: 128 }),
            _ => {}
        }
        if let Some(prefix) = text.strip_prefix("client-ip/") {
            return client_network(prefix);
        }
        match text.split_once(':') {
            Some(("cookie", name)) if is_token(name) => Ok(HashKey::Cookie(name.to_owned())),
            Some(("query", name)) if is_query_name(name) => Ok(HashKey::Query(name.to_owned())),
            Some(("header", name)) => header(name),
            Some(("claim", name)) if !name.is_empty() && !name.contains(char::is_control) => {
                Ok(HashKey::Claim(name.to_owned()))
            }
            Some((source @ ("cookie" | "query" | "claim"), _)) => {
                Err(Complaint::malformed(format!("no {source} can have this name"), KEY_HELP))
            }
            _ => Err(unknown_source(text)),
        }
    }
}

/// As a query spells it, which is never decoded.
fn is_query_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=#".contains(&byte))
}

fn header(name: &str) -> Result<HashKey, Complaint> {
    let Ok(name) = name.parse() else {
        return Err(Complaint::malformed("no header can have this name", KEY_HELP));
    };
    if name == http::header::SEC_WEBSOCKET_KEY {
        let label = "every handshake has another";
        return Err(Complaint::unfit("keeps nobody together", label, KEY_HELP));
    }
    Ok(HashKey::Header(name))
}

/// Up to 32 it is of IPv4, and an IPv6 client counts by its /64; beyond, it is of IPv6, and an IPv4
/// client counts by its address.
fn client_network(prefix: &str) -> Result<HashKey, Complaint> {
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    match prefix.parse() {
        Ok(0) if digits => {
            let help = "write \"client-ip/24\", or take it out: then least connections decides";
            Err(Complaint::unfit("keeps nobody apart", "this network is everybody", help))
        }
        Ok(v4 @ ..=32) if digits => Ok(HashKey::ClientIp { v4, v6: 64 }),
        Ok(v6 @ ..=128) if digits => Ok(HashKey::ClientIp { v4: 32, v6 }),
        _ => {
            let help = "write 1 to 32 for IPv4, such as \"client-ip/24\", or 33 to 128 for IPv6";
            Err(Complaint::malformed("its prefix is not a number up to 128", help))
        }
    }
}

fn unknown_source(text: &str) -> Complaint {
    let sources = ["cookie", "query", "header", "claim", "path", "client-ip"];
    let source = text.split([':', '/', '=']).next().unwrap_or(text);
    match nearest(source, sources) {
        Some(near @ ("path" | "client-ip")) => {
            Complaint::malformed("no such source", format!("did you mean {near:?}? {KEY_HELP}"))
        }
        Some(near) => {
            let help = format!("did you mean \"{near}:NAME\"? {KEY_HELP}");
            Complaint::malformed("it has no source and name", help)
        }
        None => Complaint::malformed("no such source", KEY_HELP),
    }
}

// ---- endpoints ----

/// An endpoint's part of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight(pub u32);

const HEAVIEST: u32 = 65_535;

impl Read for Weight {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Weight> {
        let DeValue::Integer(number) = node.get_ref() else {
            let help = "write a whole number, without quotes; 2 gets twice as much as 1";
            faults.push(wrong_type(node, &format!("a number from 1 to {HEAVIEST}"), help));
            return None;
        };
        let fault =
            Diagnostic::fault(node.span(), format!("expected a number from 1 to {HEAVIEST}"));
        let fault = match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(0) => fault
                .label("this endpoint would get nothing")
                .help("take the endpoint out, or write backup = true: used when no other is"),
            Ok(weight) if weight <= HEAVIEST => return Some(Weight(weight)),
            _ => fault
                .label("out of bounds")
                .help("only the ratio to the other weights counts, so divide them all alike"),
        };
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": HEAVIEST })
    }
}

/// What an endpoint is known by, whatever its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointId(pub String);

impl Text for EndpointId {
    const NAME: &'static str = "an endpoint's id";
    const EXAMPLE: &'static str = "chat-0";

    fn parse(text: &str) -> Result<EndpointId, Complaint> {
        const LONGEST: usize = 128;
        let label = match text {
            "" => "it is empty",
            _ if text.len() > LONGEST => "it is too long",
            _ if text.contains(char::is_control) => "it has a control character",
            _ => return Ok(EndpointId(text.to_owned())),
        };
        let help = format!(
            "write one to {LONGEST} letters, the same on every replica, such as \"chat-0\""
        );
        Err(Complaint::malformed(label, help))
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1, "maxLength": 128, "examples": [Self::EXAMPLE] })
    }
}

// ---- load ----

/// How far over its share of the load an endpoint may be, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BoundedLoad(pub u64);

impl Read for BoundedLoad {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<BoundedLoad> {
        const MOST: f64 = 1000.0;
        let help = "write 1.25 to allow an endpoint a quarter more than its share";
        let factor: Option<f64> = match node.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => {
                faults.push(wrong_type(node, "a number from 1 to 1000", help));
                return None;
            }
        };
        let label = match factor {
            Some(factor) if (1.0..=MOST).contains(&factor) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "1 to 1000"
                )]
                return Some(BoundedLoad((factor * 1e6).round() as u64));
            }
            Some(factor) if factor < 1.0 => "all endpoints together could not take the load",
            Some(_) | None => "this bounds nothing",
        };
        let message = "expected a number from 1 to 1000";
        faults.push(Diagnostic::fault(node.span(), message).label(label).help(help));
        None
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 1, "maximum": 1000 })
    }
}

// ---- cookies ----

/// The name of a cookie: a token (RFC 6265 §4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CookieName(pub String);

impl Text for CookieName {
    const NAME: &'static str = "a cookie's name";
    const EXAMPLE: &'static str = "wsgate_affinity";

    fn parse(text: &str) -> Result<CookieName, Complaint> {
        const LONGEST: usize = 128;
        let help = "write letters, digits, dashes or underscores, such as \"wsgate_affinity\"";
        let label = match text {
            "" => "it is empty",
            _ if text.len() > LONGEST => "it is too long",
            _ if !is_token(text) => "it has a character that no cookie's name may have",
            _ => return Ok(CookieName(text.to_owned())),
        };
        Err(Complaint::malformed(label, help))
    }
}

//! What the keys of `[route.token]` have to do with each other and with their route.

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use toml::Spanned;

use super::TokenSource;
use super::diagnostics::{Diagnostic, Span};
use super::file::{Keys, Route, Token};
use super::reader::{Faults, Field, refuse_twins};
use super::tokens::{ALGORITHMS, spelling};
use super::validate::within;

pub(super) fn token(route: &Route, found: &mut Faults) {
    let Some(token) = route.token.get().and_then(Option::as_ref) else { return };
    sources(token, found);
    algorithms(token, found);
    audience(token, found);
    if let Some(keys) = token.keys.get() {
        one_kind_of_key(token, keys, found);
        algorithms_of_keys(token, keys, found);
    }
    cookies_without_an_origin(route, token, found);
    headers_set_otherwise(route, token, found);
}

fn sources(token: &Token, found: &mut Faults) {
    let help = "write where clients put it, such as [\"header:authorization\", \"query:token\"]";
    refuse_empty(&token.from, "a token that may be nowhere", help, found);
    let named = token.from.get().into_iter().flatten();
    let named = named.map(|source| (source.get_ref().to_string(), source.span()));
    refuse_twins(named, found, |source| {
        (format!("{source:?} is listed twice"), "take one out".to_owned())
    });
}

fn algorithms(token: &Token, found: &mut Faults) {
    let help = "write how the issuer signs, such as [\"RS256\"]";
    refuse_empty(&token.algorithms, "no algorithm", help, found);
    let listed = token.algorithms.get().into_iter().flatten();
    let listed = listed.map(|algorithm| (name(*algorithm.get_ref()), algorithm.span()));
    refuse_twins(listed, found, |name| {
        (format!("{name:?} is listed twice"), "take one out".to_owned())
    });
}

fn audience(token: &Token, found: &mut Faults) {
    let Some(Some(list)) = token.audience.get() else { return };
    let already = found.iter().any(|fault| within(fault, &token.audience.span));
    if list.is_empty() && !already {
        let fault = Diagnostic::fault(token.audience.span.clone(), "no audience is accepted");
        found.push(fault.label("this list is empty").help(
            "write what `aud` names for this service, or take `audience` out: then it is not \
             looked at",
        ));
    }
}

fn refuse_empty<T>(list: &Field<Vec<T>>, message: &str, help: &str, found: &mut Faults) {
    let already = found.iter().any(|fault| within(fault, &list.span));
    if list.written && list.get().is_some_and(Vec::is_empty) && !already {
        let fault = Diagnostic::fault(list.span.clone(), message);
        found.push(fault.label("this list is empty").help(help));
    }
}

/// The keys that are written, and where.
fn written(keys: &Keys) -> Vec<(&'static str, Span)> {
    let all = [
        ("jwks_url", keys.jwks_url.written, &keys.jwks_url.span),
        ("jwks_file", keys.jwks_file.written, &keys.jwks_file.span),
        ("public_key_file", keys.public_key_file.written, &keys.public_key_file.span),
        ("secret_file", keys.secret_file.written, &keys.secret_file.span),
        ("secret_env", keys.secret_env.written, &keys.secret_env.span),
    ];
    let written = all.into_iter().filter(|(_, written, _)| *written);
    written.map(|(key, _, span)| (key, span.clone())).collect()
}

fn one_kind_of_key(token: &Token, keys: &Keys, found: &mut Faults) {
    let written = written(keys);
    match written.split_first() {
        None if found.iter().any(|fault| within(fault, &token.keys.span)) => {}
        None => {
            let fault = Diagnostic::fault(token.keys.span.clone(), "no key to verify tokens by");
            found.push(fault.label("this table is empty").help(
                "write keys = { jwks_url = \"https://issuer.example.com/jwks.json\" }, or \
                 jwks_file, public_key_file, secret_file or secret_env",
            ));
        }
        Some((_, [])) => {}
        Some(((first, at), others)) => {
            let message = "two kinds of keys for one token";
            let (second, again) = &others[0];
            let fault = Diagnostic::fault(again.clone(), message);
            found.push(
                fault
                    .label(format!("`{second}` beside `{first}`"))
                    .related(at.clone(), "the first")
                    .help("keep one of them; several public keys go into one `jwks_file`"),
            );
        }
    }
}

/// A public key is known to all: if it were taken for a secret, anybody could sign by it (RFC 8725
/// §2.1).
fn algorithms_of_keys(token: &Token, keys: &Keys, found: &mut Faults) {
    let [(key, at)] = &*written(keys) else { return };
    let Some(listed) = token.algorithms.get() else { return };
    let secret = key.starts_with("secret_");
    let fits = |algorithm: &Spanned<Algorithm>| is_of_secrets(*algorithm.get_ref()) == secret;
    let strange: Vec<_> = listed.iter().filter(|algorithm| !fits(algorithm)).collect();
    let Some(first) = strange.first() else { return };
    let help = match secret {
        true => "write algorithms = [\"HS256\"], or keys of the issuer in place of the secret",
        false => "take it out, or write secret_file in place of the public keys",
    };
    if !token.algorithms.written {
        let defaults: Vec<&str> = listed.iter().map(|listed| name(*listed.get_ref())).collect();
        let message = format!("a secret verifies none of {}", defaults.join(", "));
        let fault = Diagnostic::fault(at.clone(), message);
        found.push(fault.label("those are the algorithms unless written").help(help));
        return;
    }
    let named = name(*first.get_ref());
    let message = match secret {
        true => format!("{named} beside a secret"),
        false => format!("{named} beside public keys"),
    };
    let label = match secret {
        true => "a secret verifies HS256, HS384 and HS512 alone",
        false => "whoever knows the public key could sign as the issuer",
    };
    let fault = Diagnostic::fault(first.span(), message).label(label);
    let fault = fault.related(at.clone(), "the keys");
    let more = strange[1..].iter().map(|other| other.span());
    found.push(more.fold(fault, |fault, span| fault.related(span, "this one too")).help(help));
}

fn is_of_secrets(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

fn name(algorithm: Algorithm) -> &'static str {
    let known = ALGORITHMS.iter().find(|(_, known)| *known == algorithm);
    known.map_or("", |(name, _)| name)
}

/// A browser sends cookies to whoever a page calls, so the page must be asked for (cross-site
/// WebSocket hijacking).
fn cookies_without_an_origin(route: &Route, token: &Token, found: &mut Faults) {
    if route.origin.written {
        return;
    }
    let mut sources = token.from.get().into_iter().flatten();
    let Some(cookie) = sources.find(|from| matches!(from.get_ref(), TokenSource::Cookie(_))) else {
        return;
    };
    let (span, label) = match token.from.written {
        true => (cookie.span(), "browsers send cookies by themselves"),
        false => {
            (route.origin.span.clone(), "tokens in cookies are accepted unless `from` is written")
        }
    };
    let fault = Diagnostic::fault(span, "a token in a cookie, and no `origin` is stated");
    found.push(fault.label(label).help(
        "add origin = { allow = [\"https://app.example.com\"] } to this route, with missing = \
         \"allow\" where other clients than browsers come;\nor write a `from` without a cookie, \
         such as [\"header:authorization\"]",
    ));
}

/// What is told in one header comes from one place.
fn headers_set_otherwise(route: &Route, token: &Token, found: &mut Faults) {
    let set = route.request_headers.get().and_then(|edits| edits.set.get());
    let set = set.into_iter().flat_map(|headers| &headers.0);
    let set = set.map(|(name, _)| (name, &route.request_headers.span));
    let copied = route.authorize.get().and_then(|table| table.as_ref()?.copy_headers.get());
    let copied = copied.into_iter().flatten();
    let places: Vec<(String, Span)> = set
        .map(|(name, span)| (spelling(name), span.clone()))
        .chain(copied.map(|header| (spelling(&header.get_ref().0), header.span())))
        .collect();
    for (claim, header, span) in token.forward.get().into_iter().flat_map(|claims| &claims.0) {
        let Some((_, other)) = places.iter().find(|(name, _)| *name == spelling(header)) else {
            continue;
        };
        let fault = Diagnostic::fault(span.clone(), format!("the header `{header}` is set twice"));
        found.push(
            fault
                .label(format!("to the claim `{claim}`"))
                .related(other.clone(), "and to something else here")
                .help("give the claim a header of its own, or take the other out"),
        );
    }
}

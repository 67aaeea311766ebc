//! What the answer of an authorizer means: 2xx allows, 401 and 403 refuse, all else is no
//! verdict, and without one nobody comes.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};

use super::{Denied, Subject};
use crate::config::Authorize;

/// A client may come, by the word of the authorizer.
#[derive(Debug)]
pub struct Approval {
    pub(super) subject: Option<Subject>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Approval {
    /// Takes out what the upstream is told of it.
    pub fn take_fields(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        std::mem::take(&mut self.fields)
    }
}

/// A client may not come, by the word of the authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether another proof of who it is could help: 401, else 403.
    pub status: StatusCode,
    /// What the authorizer asks for, as it wrote it.
    pub challenges: Vec<HeaderValue>,
}

/// What this answer to the service's rules means.
pub fn judge(rules: &Authorize, answer: &response::Parts) -> Result<Approval, Denied> {
    let headers = &answer.headers;
    match answer.status {
        status if status.is_success() => Ok(Approval {
            subject: subject(rules, headers).map_err(Denied::NoVerdict)?,
            fields: copied(rules, headers).map_err(Denied::NoVerdict)?,
        }),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let challenges = headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
            Err(Denied::Unauthorized(Refusal { status, challenges }))
        }
        status => Err(Denied::NoVerdict(format!("it answered {status}"))),
    }
}

/// An empty name is none.
fn subject(rules: &Authorize, headers: &HeaderMap) -> Result<Option<Subject>, String> {
    let Some(name) = &rules.subject else { return Ok(None) };
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(format!("its `{name}` names more than one subject"));
    }
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).ok().filter(|_| is_plain(value));
    let text = text.ok_or_else(|| format!("its `{name}` is no text"))?;
    let subject = Subject::new(text).ok_or_else(|| format!("its `{name}` is too long"))?;
    Ok(Some(subject))
}

fn copied(
    rules: &Authorize,
    headers: &HeaderMap,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut fields = Vec::new();
    for name in &rules.copy_headers {
        for value in headers.get_all(name) {
            if !is_plain(value) {
                return Err(format!("its `{name}` has a control character"));
            }
            fields.push((name.clone(), value.clone()));
        }
    }
    Ok(fields)
}

fn is_plain(value: &HeaderValue) -> bool {
    !value.as_bytes().iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Response, Uri};
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Authorize {
        Authorize {
            url: Uri::from_static("http://127.0.0.1:7000/auth"),
            timeout: Duration::from_secs(5),
            copy_headers: ["x-user", "x-role"].map(HeaderName::from_static).to_vec(),
            subject: Some(HeaderName::from_static("x-user")),
        }
    }

    fn judged(status: u16, fields: &[(&str, &str)]) -> Result<Approval, Denied> {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        judge(&rules(), &answer.body(()).unwrap().into_parts().0)
    }

    fn no_verdict(fields: &[(&str, &str)]) -> String {
        match judged(200, fields) {
            Err(Denied::NoVerdict(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approval_names_the_subject_and_what_the_upstream_is_told() {
        let fields = [("x-user", "ada"), ("x-role", "a"), ("x-role", "b"), ("x-other", "c")];
        let mut approval = judged(204, &fields).unwrap();
        assert_eq!(approval.subject.as_ref().map(Subject::as_str), Some("ada"));
        let told = approval.take_fields();
        let told: Vec<_> =
            told.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(told, [("x-user", &b"ada"[..]), ("x-role", b"a"), ("x-role", b"b")]);
        let mut nobody = judged(200, &[("x-user", "")]).unwrap();
        assert_eq!((nobody.subject.take(), nobody.take_fields().len()), (None, 1));
        assert!(judged(200, &[]).unwrap().take_fields().is_empty());
    }

    #[test]
    fn a_refusal_keeps_its_challenges() {
        for status in [401, 403] {
            let fields = [("www-authenticate", "Basic"), ("www-authenticate", "Bearer")];
            let Err(Denied::Unauthorized(refusal)) = judged(status, &fields) else { panic!() };
            assert_eq!(refusal.status, status);
            assert_eq!(refusal.challenges, ["Basic", "Bearer"]);
        }
    }

    #[test]
    fn what_cannot_be_told_to_an_upstream_is_no_verdict() {
        assert_eq!(no_verdict(&[("x-role", "a\tb")]), "its `x-role` has a control character");
        assert_eq!(no_verdict(&[("x-user", "a\tb")]), "its `x-user` is no text");
        assert_eq!(no_verdict(&[("x-user", &"a".repeat(257))]), "its `x-user` is too long");
        for first in ["ada", ""] {
            let two = [("x-user", first), ("x-user", "bob")];
            assert_eq!(no_verdict(&two), "its `x-user` names more than one subject");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_a_2xx_lets_anyone_in(status in 100u16..1000) {
            prop_assert_eq!(judged(status, &[]).is_ok(), (200..300).contains(&status));
        }
    }
}

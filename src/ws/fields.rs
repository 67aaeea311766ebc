//! The grammar that header fields share: lists of elements (RFC 9110 §5.6.1) and tokens (§5.6.2).

use http::{HeaderMap, HeaderName};

/// The elements of a list field, over all its lines in order, without the space around them.
/// Empty elements are skipped, as §5.6.1.2 asks of a recipient. For fields without quoted strings.
pub fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a list field has this element, upper and lower case being the same.
pub(super) fn names(headers: &HeaderMap, name: &HeaderName, element: &str) -> bool {
    elements(headers, name).any(|other| other.eq_ignore_ascii_case(element.as_bytes()))
}

/// The text of a token, or nothing where a byte cannot be in one.
pub(super) fn token(bytes: &[u8]) -> Option<&str> {
    let whole = !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte));
    whole.then(|| std::str::from_utf8(bytes).ok()).flatten()
}

/// RFC 9110 §5.6.2.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONNECTION;

    use super::*;

    #[test]
    fn several_lines_are_one_list_and_empty_elements_do_not_count() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive,, "));
        headers.append(CONNECTION, HeaderValue::from_static(" ,\tUpgrade"));
        let found: Vec<_> = elements(&headers, &CONNECTION).collect();
        assert_eq!(found, [b"keep-alive".as_slice(), b"Upgrade"]);
        assert!(names(&headers, &CONNECTION, "upgrade"));
        assert!(!names(&headers, &CONNECTION, "grade"));
    }

    #[test]
    fn a_token_has_no_separators() {
        assert_eq!(token(b"graphql-transport-ws"), Some("graphql-transport-ws"));
        for bytes in [b"".as_slice(), b"a b", b"a/b", b"a\"", b"a\x80", b"a="] {
            assert_eq!(token(bytes), None, "{bytes:?}");
        }
    }
}

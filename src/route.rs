//! Host and path to a route: patterns, their precedence, and the reading of a request's target.
//!
//! A request's path is matched decoded, an upstream gets it as it came. Two parties that decode
//! differently must not disagree about where a request goes, so the path is decoded until nothing
//! is left to decode, its slashes are merged, and a path that still has a `.` or `..` segment, a
//! backslash or a NUL is refused outright. What is not well encoded in the first place (`%` without
//! two hex digits in the request line) is refused too; a bare `%` that only comes up by decoding
//! (`%25`) stands for itself.
//!
//! Precedence is the `Ord` of the patterns: exact host, wildcard (the longer first), any; within
//! one host exact path, prefix (the longer first). A [`Table`] is sorted by it, and the first match
//! wins. A host whose own routes do not have the path falls through to the next wildcard.

use std::cmp::{Ordering, Reverse};
use std::net::SocketAddr;

use http::{HeaderValue, Uri};
use thiserror::Error;

/// The hosts of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// A name in lower case, without port or trailing dot.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: any name below it, not the name itself.
    Below(String),
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostPatternFault {
    #[error("it is empty")]
    Empty,
    #[error("this is a URL")]
    Scheme,
    #[error("it has a port")]
    Port,
    #[error("a star in the wrong place")]
    Wildcard,
    #[error("neither a name nor an address")]
    Name,
}

impl HostPattern {
    /// Reads `chat.example.com`, `*.example.com` or an address such as `10.0.0.1` or `[::1]`.
    pub fn parse(text: &str) -> Result<HostPattern, HostPatternFault> {
        if text.is_empty() {
            return Err(HostPatternFault::Empty);
        }
        if text.contains('/') {
            return Err(HostPatternFault::Scheme);
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(HostPatternFault::Wildcard);
        }
        match Authority::parse(name.as_bytes()) {
            Some(Authority { port: Some(_), .. }) => Err(HostPatternFault::Port),
            Some(Authority { host, .. }) if below => Ok(HostPattern::Below(host)),
            Some(Authority { host, .. }) => Ok(HostPattern::Exact(host)),
            None => Err(HostPatternFault::Name),
        }
    }

    /// `host` as a [`Target`] has it.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => name == host,
            HostPattern::Below(suffix) => host
                .strip_suffix(suffix.as_str())
                .and_then(|below| below.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
            HostPattern::Any => true,
        }
    }

    fn rank(&self) -> (u8, Reverse<usize>, &str) {
        match self {
            HostPattern::Exact(name) => (0, Reverse(0), name),
            HostPattern::Below(suffix) => (1, Reverse(suffix.len()), suffix),
            HostPattern::Any => (2, Reverse(0), ""),
        }
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &HostPattern) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &HostPattern) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The paths of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    Exact(String),
    /// Matches itself and whatever follows it on a segment boundary. Kept without a slash at its
    /// end, but for `/` itself.
    Prefix(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathPatternFault {
    #[error("it does not begin with a slash")]
    NoSlash,
    #[error("a query or fragment is no part of a path")]
    Query,
    #[error("it is percent-encoded")]
    Encoded,
    #[error("it has a `.` or `..` segment")]
    DotSegment,
    #[error("it has two slashes in a row")]
    DoubleSlash,
    #[error("it has a star")]
    Wildcard,
    #[error("it has a backslash or a control character")]
    Forbidden,
}

impl PathPattern {
    /// Reads `/ws`, a prefix, or `=/ws`, that path alone. It is written decoded.
    pub fn parse(text: &str) -> Result<PathPattern, PathPatternFault> {
        let (path, exact) = match text.strip_prefix('=') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        refuse_what_no_path_has(path)?;
        if exact {
            return Ok(PathPattern::Exact(path.to_owned()));
        }
        let trimmed = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
        Ok(PathPattern::Prefix(trimmed.to_owned()))
    }

    /// `path` as a [`RequestPath`] has it.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            PathPattern::Exact(exact) => exact.as_bytes() == path,
            PathPattern::Prefix(prefix) => below_prefix(path, prefix.as_bytes()).is_some(),
        }
    }

    /// Whether some request that this pattern matches begins with all the segments of `prefix`.
    pub fn may_begin_with(&self, prefix: &str) -> bool {
        let Ok(prefix) = RequestPath::parse(prefix.as_bytes()) else {
            return false;
        };
        match self {
            PathPattern::Exact(path) => below_prefix(path.as_bytes(), &prefix.0).is_some(),
            PathPattern::Prefix(path) => {
                below_prefix(path.as_bytes(), &prefix.0).is_some() || self.matches(&prefix.0)
            }
        }
    }

    fn rank(&self) -> (u8, Reverse<usize>, &str) {
        match self {
            PathPattern::Exact(path) => (0, Reverse(0), path),
            PathPattern::Prefix(path) => (1, Reverse(path.len()), path),
        }
    }
}

impl Ord for PathPattern {
    fn cmp(&self, other: &PathPattern) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for PathPattern {
    fn partial_cmp(&self, other: &PathPattern) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A pattern that no decoded path can equal would be a route that nobody reaches.
fn refuse_what_no_path_has(path: &str) -> Result<(), PathPatternFault> {
    if !path.starts_with('/') {
        return Err(PathPatternFault::NoSlash);
    }
    if path.contains(['?', '#']) {
        return Err(PathPatternFault::Query);
    }
    if path.contains('*') {
        return Err(PathPatternFault::Wildcard);
    }
    if path.contains(|letter: char| letter == '\\' || letter.is_control()) {
        return Err(PathPatternFault::Forbidden);
    }
    if path.contains("//") {
        return Err(PathPatternFault::DoubleSlash);
    }
    if path.as_bytes().windows(3).any(|bytes| encoded_byte(bytes).is_some()) {
        return Err(PathPatternFault::Encoded);
    }
    if has_dot_segment(path.as_bytes()) {
        return Err(PathPatternFault::DotSegment);
    }
    Ok(())
}

/// What follows `prefix` in `path`, if it ends there or at a slash; slashes at the prefix's end do
/// not count.
fn below_prefix<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let kept = prefix.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let rest = path.strip_prefix(&prefix[..kept])?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Where a route is served: host, path, and the listeners' addresses (none: all of them).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: HostPattern,
    pub path: PathPattern,
    pub listeners: Vec<SocketAddr>,
}

impl Place {
    fn serves(&self, listener: SocketAddr, target: &Target) -> bool {
        (self.listeners.is_empty() || self.listeners.contains(&listener))
            && self.host.matches(&target.host)
            && self.path.matches(&target.path.0)
    }
}

/// Routes in the order of their precedence.
#[derive(Clone, Debug)]
pub struct Table<T> {
    routes: Vec<(Place, T)>,
}

impl<T> Table<T> {
    pub fn new(routes: impl IntoIterator<Item = (Place, T)>) -> Table<T> {
        let mut routes: Vec<(Place, T)> = routes.into_iter().collect();
        routes.sort_by(|(left, _), (right, _)| {
            (&left.host, &left.path).cmp(&(&right.host, &right.path))
        });
        Table { routes }
    }

    /// The first route that serves `target` on `listener`, an address as the configuration writes
    /// it (so port 0 stays 0).
    pub fn find(&self, listener: SocketAddr, target: &Target) -> Option<&T> {
        let found = self.routes.iter().find(|(place, _)| place.serves(listener, target));
        found.map(|(_, route)| route)
    }
}

/// Host and path of one request, ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    path: RequestPath,
}

/// Why a request's target is answered by 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TargetFault {
    #[error("the target is not a path")]
    NotAPath,
    #[error("the target has a fragment")]
    Fragment,
    #[error("the path is not well percent-encoded")]
    Encoding,
    #[error("the path has a dot segment")]
    DotSegment,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has a NUL")]
    Nul,
    #[error("no Host")]
    NoHost,
    #[error("several Host headers")]
    SeveralHosts,
    #[error("a Host that is no name or address")]
    BadHost,
    #[error("the target and Host disagree")]
    HostsDisagree,
}

impl Target {
    /// Reads a request's target and all its Host headers (RFC 9112 §3.2). A target with an
    /// authority needs no Host, as in HTTP/2; where both are there they must be the same.
    ///
    /// `Uri` itself drops a fragment, so one ([`TargetFault::Fragment`]) is for the caller to see.
    pub fn read<'a>(
        uri: &Uri,
        hosts: impl IntoIterator<Item = &'a HeaderValue>,
    ) -> Result<Target, TargetFault> {
        let mut hosts = hosts.into_iter();
        let host = hosts.next().map(|host| host_of(host.as_bytes())).transpose()?;
        if hosts.next().is_some() {
            return Err(TargetFault::SeveralHosts);
        }
        let named = uri.authority().map(|named| host_of(named.as_str().as_bytes())).transpose()?;
        let host = match (named, host) {
            (Some(named), Some(host)) => agreed(named, &host, uri.scheme_str())?,
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return Err(TargetFault::NoHost),
        };
        Ok(Target { host: host.host, path: RequestPath::parse(uri.path().as_bytes())? })
    }

    /// In lower case, without port or trailing dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn path(&self) -> &RequestPath {
        &self.path
    }
}

fn host_of(text: &[u8]) -> Result<Authority, TargetFault> {
    Authority::parse(text).ok_or(TargetFault::BadHost)
}

/// The authority of the target, when Host says the same; a port left out is the scheme's.
fn agreed(
    named: Authority,
    host: &Authority,
    scheme: Option<&str>,
) -> Result<Authority, TargetFault> {
    let usual = match scheme {
        Some("http" | "ws") => Some(80),
        Some("https" | "wss") => Some(443),
        _ => None,
    };
    if named.host == host.host && named.port.or(usual) == host.port.or(usual) {
        return Ok(named);
    }
    Err(TargetFault::HostsDisagree)
}

/// `host[:port]`, the host in lower case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Names are letters, digits, `-`, `_`, `~` and dots between labels; an IPv6 address stands in
    /// brackets. No user, no percent-encoding.
    fn parse(text: &[u8]) -> Option<Authority> {
        let text = std::str::from_utf8(text).ok()?;
        let end_of_address = text.strip_prefix('[').and_then(|rest| rest.find(']'));
        let (host, rest) = match end_of_address {
            Some(end) => text.split_at(end + 2),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            // RFC 3986 §3.2.3: the port after the colon may be empty.
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok()?)
            }
            None if rest.is_empty() => None,
            _ => return None,
        };
        Some(Authority { host: canonical_host(host)?, port })
    }
}

fn canonical_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        !label.is_empty() && label.bytes().all(good)
    };
    name.split('.').all(is_label).then(|| name.to_ascii_lowercase())
}

/// A path fully decoded, with slashes merged: `/` and then segments, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath(Vec<u8>);

impl RequestPath {
    /// Reads the path of a request line, without its query.
    pub fn parse(raw: &[u8]) -> Result<RequestPath, TargetFault> {
        if !raw.starts_with(b"/") {
            return Err(TargetFault::NotAPath);
        }
        if raw.contains(&b'#') {
            return Err(TargetFault::Fragment);
        }
        if !is_well_encoded(raw) {
            return Err(TargetFault::Encoding);
        }
        let decoded = decoded(raw);
        if decoded.contains(&0) {
            return Err(TargetFault::Nul);
        }
        if decoded.contains(&b'\\') {
            return Err(TargetFault::Backslash);
        }
        if has_dot_segment(&decoded) {
            return Err(TargetFault::DotSegment);
        }
        Ok(RequestPath(slashes_merged(decoded)))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Decodes until nothing is left to decode, in one pass: a byte that completes `%XX` replaces it at
/// once, and may itself complete another (`%252e` is `.`). No two such groups can overlap, so the
/// order of decoding makes no difference.
fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(raw.len());
    for byte in raw {
        path.push(*byte);
        while let Some(plain) = path.last_chunk::<3>().and_then(|tail| encoded_byte(tail)) {
            path.truncate(path.len() - 3);
            path.push(plain);
        }
    }
    path
}

/// The byte that `%XX` stands for.
fn encoded_byte(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn is_well_encoded(raw: &[u8]) -> bool {
    let is_group = |at: usize| raw.get(at..at + 3).and_then(encoded_byte).is_some();
    raw.iter().enumerate().all(|(at, byte)| *byte != b'%' || is_group(at))
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

fn slashes_merged(mut path: Vec<u8>) -> Vec<u8> {
    path.dedup_by(|next, last| (*next, *last) == (b'/', b'/'));
    path
}

/// The path and query that an upstream gets: `strip_prefix` takes whole segments off the front of
/// `original`, `add_prefix` goes before what is left, with one slash at the joint. All bytes that
/// stay are as they came. A path without these segments keeps all of its own; segments are those
/// between the slashes of the original, where `%2F` is none.
pub fn rewritten(original: &str, strip_prefix: Option<&str>, add_prefix: Option<&str>) -> String {
    if strip_prefix.is_none() && add_prefix.is_none() {
        return original.to_owned();
    }
    let end = original.find('?').unwrap_or(original.len());
    let (path, query) = original.split_at(end);
    let rest = strip_prefix.and_then(|prefix| without_segments(path, prefix)).unwrap_or(path);
    joined(add_prefix.unwrap_or_default(), rest) + query
}

/// What is left of `path` behind the segments of `prefix`, from its slash on; each compared decoded.
fn without_segments<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = path;
    for wanted in prefix.split('/').filter(|segment| !segment.is_empty()) {
        let start = rest.trim_start_matches('/');
        let (segment, behind) = start.split_at(start.find('/').unwrap_or(start.len()));
        if decoded(segment.as_bytes()) != decoded(wanted.as_bytes()) {
            return None;
        }
        rest = behind;
    }
    Some(rest)
}

fn joined(front: &str, rest: &str) -> String {
    match (front, rest) {
        ("", "") => "/".to_owned(),
        (front, "") => front.to_owned(),
        (front, rest) => {
            format!("{}/{}", front.trim_end_matches('/'), rest.trim_start_matches('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(raw: &str) -> Result<String, TargetFault> {
        RequestPath::parse(raw.as_bytes())
            .map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned())
    }

    fn prefix(text: &str) -> PathPattern {
        PathPattern::parse(text).expect("a good pattern")
    }

    fn host(text: &str) -> HostPattern {
        HostPattern::parse(text).expect("a good pattern")
    }

    fn target(uri: &str, hosts: &[&'static str]) -> Result<Target, TargetFault> {
        let hosts: Vec<HeaderValue> =
            hosts.iter().map(|host| HeaderValue::from_static(host)).collect();
        Target::read(&uri.parse().expect("a good URI"), &hosts)
    }

    #[test]
    fn a_path_is_decoded_until_nothing_is_left() {
        assert_eq!(path("/%77s"), Ok("/ws".into()));
        assert_eq!(path("/%2577s"), Ok("/ws".into()));
        assert_eq!(path("/a%2Fb"), Ok("/a/b".into()));
        assert_eq!(path("/100%25"), Ok("/100%".into()));
        assert_eq!(path("//a///b/"), Ok("/a/b/".into()));
    }

    #[test]
    fn a_path_that_two_parties_may_read_differently_is_refused() {
        for dotted in ["/.", "/..", "/a/../b", "/a/%2e%2e/b", "/%252e%252e", "/a%2f..", "/.%2e/"] {
            assert_eq!(path(dotted), Err(TargetFault::DotSegment), "{dotted}");
        }
        for slashed in ["/a\\b", "/a%5cb", "/a%255Cb"] {
            assert_eq!(path(slashed), Err(TargetFault::Backslash), "{slashed}");
        }
        assert_eq!(path("/a%00"), Err(TargetFault::Nul));
        assert_eq!(path("/a#b"), Err(TargetFault::Fragment));
        for broken in ["/%", "/%2", "/%zz", "/%%32%35"] {
            assert_eq!(path(broken), Err(TargetFault::Encoding), "{broken}");
        }
        for no_path in ["", "*", "ws"] {
            assert_eq!(path(no_path), Err(TargetFault::NotAPath), "{no_path}");
        }
        assert_eq!(path("/..."), Ok("/...".into()));
    }

    #[test]
    fn a_host_is_matched_without_case_port_or_trailing_dot() {
        let read = |host| target("/", &[host]).map(|target| target.host().to_owned());
        assert_eq!(read("Chat.Example.COM.:8443"), Ok("chat.example.com".into()));
        assert_eq!(read("[::0:1]:8443"), Ok("[::1]".into()));
        assert_eq!(read("127.0.0.1"), Ok("127.0.0.1".into()));
        for bad in
            ["", ":80", "a b", "a,b", "user@a", "a:b", "a:99999", "[::1", "[x]", "a..b", "a/b"]
        {
            assert_eq!(read(bad), Err(TargetFault::BadHost), "{bad:?}");
        }
    }

    #[test]
    fn one_host_is_said_once_or_twice_the_same() {
        assert_eq!(target("/", &[]), Err(TargetFault::NoHost));
        assert_eq!(target("/", &["a", "a"]), Err(TargetFault::SeveralHosts));
        assert!(target("http://a/", &["a"]).is_ok());
        assert!(target("http://a/", &["A.:80"]).is_ok());
        assert!(target("https://a/", &[]).is_ok());
        assert_eq!(target("http://a/", &["b"]), Err(TargetFault::HostsDisagree));
        assert_eq!(target("http://a/", &["a:81"]), Err(TargetFault::HostsDisagree));
        assert_eq!(target("http://user@a/", &["a"]), Err(TargetFault::BadHost));
        assert_eq!(target("*", &["a"]), Err(TargetFault::NotAPath));
    }

    #[test]
    fn host_patterns() {
        assert_eq!(host("Chat.Example.com."), HostPattern::Exact("chat.example.com".into()));
        assert_eq!(host("*.Example.com"), HostPattern::Below("example.com".into()));
        for (text, fault) in [
            ("", HostPatternFault::Empty),
            ("https://a", HostPatternFault::Scheme),
            ("a:80", HostPatternFault::Port),
            ("*", HostPatternFault::Wildcard),
            ("a.*.b", HostPatternFault::Wildcard),
            ("*.*.b", HostPatternFault::Wildcard),
            ("a b", HostPatternFault::Name),
            ("*.", HostPatternFault::Name),
            ("bücher.de", HostPatternFault::Name),
        ] {
            assert_eq!(HostPattern::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let below = host("*.example.com");
        assert!(below.matches("a.example.com"));
        assert!(below.matches("a.b.example.com"));
        assert!(!below.matches("example.com"));
        assert!(!below.matches(".example.com"));
        assert!(!below.matches("badexample.com"));
    }

    #[test]
    fn path_patterns() {
        assert_eq!(prefix("/ws/"), PathPattern::Prefix("/ws".into()));
        assert_eq!(prefix("/"), PathPattern::Prefix("/".into()));
        assert_eq!(prefix("=/ws/"), PathPattern::Exact("/ws/".into()));
        for (text, fault) in [
            ("", PathPatternFault::NoSlash),
            ("=ws", PathPatternFault::NoSlash),
            ("/a?b", PathPatternFault::Query),
            ("/a%20b", PathPatternFault::Encoded),
            ("/a/../b", PathPatternFault::DotSegment),
            ("/a//b", PathPatternFault::DoubleSlash),
            ("/a/*", PathPatternFault::Wildcard),
            ("/a\\b", PathPatternFault::Forbidden),
        ] {
            assert_eq!(PathPattern::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments_and_an_exact_path_itself() {
        assert!(prefix("/ws").matches(b"/ws"));
        assert!(prefix("/ws").matches(b"/ws/"));
        assert!(prefix("/ws").matches(b"/ws/a"));
        assert!(!prefix("/ws").matches(b"/wsx"));
        assert!(prefix("/").matches(b"/anything"));
        assert!(prefix("=/ws").matches(b"/ws"));
        assert!(!prefix("=/ws").matches(b"/ws/"));
    }

    #[test]
    fn precedence_is_the_order_of_the_patterns() {
        let mut hosts = [HostPattern::Any, host("*.b"), host("*.a.b"), host("x.b")];
        hosts.sort();
        assert_eq!(hosts, [host("x.b"), host("*.a.b"), host("*.b"), HostPattern::Any]);
        let mut paths = [prefix("/"), prefix("/a"), prefix("=/a"), prefix("/a/b")];
        paths.sort();
        assert_eq!(paths, [prefix("=/a"), prefix("/a/b"), prefix("/a"), prefix("/")]);
    }

    #[test]
    fn a_route_is_found_on_its_own_listeners_only() {
        let public = SocketAddr::from(([0, 0, 0, 0], 443));
        let inner = SocketAddr::from(([127, 0, 0, 1], 80));
        let place =
            |path, listeners| Place { host: HostPattern::Any, path: prefix(path), listeners };
        let table = Table::new([(place("/", vec![]), "all"), (place("/in", vec![inner]), "inner")]);
        let wanted = target("/in/side", &["a"]).expect("a good target");
        assert_eq!(table.find(inner, &wanted), Some(&"inner"));
        assert_eq!(table.find(public, &wanted), Some(&"all"));
    }

    #[test]
    fn a_host_without_the_path_falls_through_to_its_wildcard() {
        let place = |name, path| Place { host: host(name), path: prefix(path), listeners: vec![] };
        let table = Table::new([(place("*.b", "/"), "below"), (place("a.b", "/ws"), "exact")]);
        let listener = SocketAddr::from(([127, 0, 0, 1], 80));
        let find = |uri| table.find(listener, &target(uri, &["a.b"]).expect("a good target"));
        assert_eq!(find("/ws"), Some(&"exact"));
        assert_eq!(find("/other"), Some(&"below"));
    }

    #[test]
    fn rewriting_takes_whole_segments_and_leaves_one_slash() {
        let strip = |original| rewritten(original, Some("/ws"), None);
        assert_eq!(strip("/ws"), "/");
        assert_eq!(strip("/ws?a=b"), "/?a=b");
        assert_eq!(strip("/ws/"), "/");
        assert_eq!(strip("//ws//a%2Fb//c?d//e"), "/a%2Fb//c?d//e");
        assert_eq!(strip("/%77s/a"), "/a");
        assert_eq!(strip("/wsx/a"), "/wsx/a");
        assert_eq!(strip("/ws%2Fa"), "/ws%2Fa");
        let both = |original, add| rewritten(original, Some("/ws/"), Some(add));
        assert_eq!(both("/ws/a", "/v1"), "/v1/a");
        assert_eq!(both("/ws/a", "/v1/"), "/v1/a");
        assert_eq!(both("/ws", "/v1"), "/v1");
        assert_eq!(both("/ws", "/v1/"), "/v1/");
        assert_eq!(both("/ws/", "/v1"), "/v1/");
        assert_eq!(both("/ws/a", "/"), "/a");
        assert_eq!(rewritten("//a", None, Some("/v1")), "/v1/a");
        assert_eq!(rewritten("//a?b", None, None), "//a?b");
    }

    #[test]
    fn what_can_never_be_stripped_is_seen() {
        assert!(prefix("/ws").may_begin_with("/ws/v1"));
        assert!(prefix("/ws/v1").may_begin_with("/ws"));
        assert!(prefix("/").may_begin_with("/ws"));
        assert!(!prefix("/chat").may_begin_with("/ws"));
        assert!(!prefix("=/ws").may_begin_with("/ws/v1"));
    }

    /// Paths made of what is interesting in them.
    fn tricky_path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"/".to_vec()),
            Just(b"ws".to_vec()),
            Just(b".".to_vec()),
            Just(b"%".to_vec()),
            Just(b"25".to_vec()),
            Just(b"%2e".to_vec()),
            Just(b"%2F".to_vec()),
            Just(b"\\".to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..24)
            .prop_map(|pieces| [b"/".to_vec(), pieces.concat()].concat())
    }

    fn decoded_once(raw: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut rest = raw;
        while let Some((first, behind)) = rest.split_first() {
            let group = rest.get(..3).and_then(encoded_byte);
            plain.push(group.unwrap_or(*first));
            rest = if group.is_some() { &rest[3..] } else { behind };
        }
        plain
    }

    fn pattern() -> impl Strategy<Value = Place> {
        let host =
            prop_oneof![Just(None), Just(Some("a.b")), Just(Some("*.b")), Just(Some("*.a.b"))];
        let path = prop_oneof![
            Just("/"),
            Just("/ws"),
            Just("=/ws"),
            Just("/ws/a"),
            Just("=/ws/a"),
            Just("/w"),
        ];
        (host, path).prop_map(|(name, path)| Place {
            host: name.map_or(HostPattern::Any, self::host),
            path: prefix(path),
            listeners: vec![],
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = RequestPath::parse(&raw);
            let _ = Authority::parse(&raw);
            prefix("/ws").matches(&raw);
            host("*.b").matches(&String::from_utf8_lossy(&raw));
        }

        #[test]
        fn decoding_in_one_pass_is_decoding_again_and_again(raw in tricky_path()) {
            let mut slowly = raw.clone();
            while decoded_once(&slowly) != slowly {
                slowly = decoded_once(&slowly);
            }
            prop_assert_eq!(decoded(&raw), slowly);
        }

        #[test]
        fn a_path_that_is_let_in_has_no_dots_backslashes_or_double_slashes(raw in tricky_path()) {
            if let Ok(RequestPath(path)) = RequestPath::parse(&raw) {
                prop_assert!(!has_dot_segment(&path));
                prop_assert!(!path.contains(&b'\\') && !path.contains(&0));
                prop_assert!(!path.windows(2).any(|pair| pair == b"//"));
            }
        }

        #[test]
        fn a_prefix_ends_on_a_segment_boundary(raw in tricky_path()) {
            if let Ok(RequestPath(path)) = RequestPath::parse(&raw) {
                let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
                prop_assert_eq!(prefix("/ws").matches(&path), segments[0] == b"ws");
            }
        }

        #[test]
        fn rewriting_never_panics_and_keeps_the_query(raw in "/[a-z%/.?0-9]{0,24}") {
            let end = raw.find('?').unwrap_or(raw.len());
            for add in [None, Some("/"), Some("/v1/")] {
                let new = rewritten(&raw, Some("/w/"), add);
                prop_assert!(new.starts_with('/'));
                prop_assert!(new.ends_with(&raw[end..]));
            }
        }

        #[test]
        fn precedence_does_not_depend_on_the_order_of_insertion(
            places in prop::collection::vec(pattern(), 1..10).prop_shuffle(),
            rotation in 0usize..10,
            host in prop_oneof![Just("a.b"), Just("x.a.b"), Just("x.b"), Just("c")],
            path in prop_oneof![Just("/"), Just("/ws"), Just("/ws/a"), Just("/ws/b"), Just("/w/x")],
        ) {
            let mut places: Vec<(Place, Place)> =
                places.into_iter().map(|place| (place.clone(), place)).collect();
            let listener = SocketAddr::from(([127, 0, 0, 1], 80));
            let wanted = target(path, &[host]).expect("a good target");
            let before = Table::new(places.clone()).find(listener, &wanted).cloned();
            let by = rotation % places.len();
            places.rotate_left(by);
            places.reverse();
            prop_assert_eq!(Table::new(places).find(listener, &wanted).cloned(), before);
        }
    }
}

//! Host and path to a route: patterns, their precedence, and the reading of a request's target.

/// The hosts of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// A name in lower case, without port or trailing dot.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: any name below it, not the name itself.
    Below(String),
    Any,
}

/// The paths of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    Exact(String),
    /// Matches itself and whatever follows it on a segment boundary.
    Prefix(String),
}

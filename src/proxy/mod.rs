//! From a request to a route's answer.

pub mod headers;
pub mod rejection;

//! wsgate: a WebSocket edge.

#![deny(unsafe_code)]
// Nothing from the network or a file is taken on trust, and only the command line talks to a
// terminal. Tests and benches may; so these bind the library and not the package.
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod plan;
pub mod route;

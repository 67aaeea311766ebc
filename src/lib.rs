//! wsgate: a WebSocket edge.

#![deny(unsafe_code)]
// What the network or a file says is not taken on trust.
#![warn(clippy::unwrap_used, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// Only the command line talks to a terminal.
#![warn(clippy::print_stdout, clippy::print_stderr)]
// The future of a connection's task lives as long as the connection.
#![warn(clippy::large_futures, clippy::unused_async)]
// A new variant of a closed enum asks everywhere what is to be done with it.
#![warn(clippy::match_wildcard_for_single_variants)]

pub mod config;
pub mod plan;
pub mod route;

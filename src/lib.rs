//! wsgate: a WebSocket edge.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod plan;
pub mod route;

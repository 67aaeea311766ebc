//! wsgate: a WebSocket edge.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod ending;
pub mod metrics;
pub mod net;
pub mod plan;
pub mod proxy;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod tunnel;
pub mod upstream;
pub mod ws;

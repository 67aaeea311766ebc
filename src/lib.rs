//! wsgate: a WebSocket edge.

#![deny(unsafe_code)]

pub mod config;
pub mod ending;
pub mod plan;
pub mod proxy;
pub mod route;
pub mod ws;

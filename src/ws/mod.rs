//! What RFC 6455 and RFC 7692 say, as pure functions: nothing here knows a socket, a clock or
//! a configuration.

pub mod extensions;
mod fields;
pub mod handshake;

pub use fields::elements;

//! Sockets: the legs of a tunnel, TLS, a small HTTP client, names of servers, PROXY headers, and
//! what the kernel is asked for.

pub mod client;
mod leg;
pub mod mux;
pub mod proxy_protocol;
pub mod resolve;
mod scratch;
pub mod socket;
mod stream;
pub mod tls;
mod wire;

pub use leg::Leg;
pub use scratch::Scratch;
pub use stream::{Stream, Watch};
pub use wire::Wire;

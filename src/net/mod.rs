//! Sockets: the legs of a tunnel, TLS, a small HTTP client, and what the kernel is asked for.

pub mod client;
mod leg;
mod scratch;
pub mod socket;
mod stream;
pub mod tls;

pub use leg::Leg;
pub use scratch::Scratch;
pub use stream::{Stream, Watch};

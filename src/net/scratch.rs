//! The buffers that all connections of one worker share.

use crate::ws::head::HEADROOM;

/// Bytes asked of a socket in one read.
pub(super) const READ: usize = 64 << 10;
/// A TLS record, its head and its seal (RFC 8446 §5.2): what a session may still hold of
/// earlier reads.
const RECORD: usize = (16 << 10) + 512;

/// A worker's scratch: borrowed for one poll, so that an idle connection owns no buffer.
pub struct Scratch {
    /// Plain bytes read from a leg, with [`HEADROOM`] in front of them.
    pub plain: Box<[u8]>,
    /// Bytes as they came from a socket, before TLS opens them.
    pub(super) wire: Box<[u8]>,
    /// Bytes on their way to a socket.
    pub out: Vec<u8>,
}

impl Scratch {
    pub fn new() -> Scratch {
        let buffer = |size: usize| vec![0; size].into_boxed_slice();
        Scratch { plain: buffer(HEADROOM + READ + RECORD), wire: buffer(READ), out: Vec::new() }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

//! The buffers that all connections of one worker share.

use super::Wire;
use crate::ws::head::HEADROOM;

/// Bytes asked of a socket in one read.
pub(super) const READ: usize = 64 << 10;
/// The largest record of TLS (RFC 5246 §6.2.3; RFC 8446 §5.2 allows less), with its head: what a
/// session may hold of earlier reads.
pub(super) const RECORD: usize = 5 + (16 << 10) + 2048;

/// A worker's scratch: borrowed for one poll, so that an idle connection owns no buffer.
pub struct Scratch {
    /// Plain bytes read from a leg, with [`HEADROOM`] in front of them.
    pub plain: Box<[u8]>,
    /// Bytes as they came from a socket, behind those of a record begun before, until TLS opens
    /// them.
    pub(super) wire: Box<[u8]>,
    /// Bytes on their way to a socket.
    pub out: Wire,
}

impl Scratch {
    pub fn new() -> Scratch {
        let buffer = |size: usize| vec![0; size].into_boxed_slice();
        Scratch {
            plain: buffer(HEADROOM + READ + RECORD),
            wire: buffer(READ + RECORD),
            out: Wire::default(),
        }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

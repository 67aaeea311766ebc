//! Bytes on their way to a socket.

/// Bytes in their final form, in room that is used again and again: it grows to the most that was
/// ever needed, and is not cleared before it is written to.
#[derive(Debug, Default)]
pub struct Wire {
    room: Vec<u8>,
    filled: usize,
}

/// The room given was too small; so many bytes are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage(pub(super) usize);

impl Wire {
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Has `fill` write behind what is there, and say how much that was.
    #[inline]
    pub(super) fn append_with<E>(
        &mut self,
        mut fill: impl FnMut(&mut [u8]) -> Result<Result<usize, Shortage>, E>,
    ) -> Result<(), E> {
        loop {
            match fill(&mut self.room[self.filled..])? {
                Ok(more) => {
                    self.filled += more;
                    return Ok(());
                }
                Err(Shortage(wanted)) => self.room.resize(self.filled + wanted, 0),
            }
        }
    }

    /// Appends all of `other`, which is empty then and owns no room.
    pub(super) fn take_from(&mut self, other: &mut Wire) {
        let other = std::mem::take(other);
        self.room.truncate(self.filled);
        self.room.extend_from_slice(other.bytes());
        self.filled = self.room.len();
    }

    /// Forgets so many bytes at the front; an empty one gives its room back.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.room.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
        if self.filled == 0 {
            *self = Wire::default();
        }
    }
}

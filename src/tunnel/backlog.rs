//! Bytes that wait for a socket: a queue of segments, so that it never holds more than one
//! segment over what waits, and never moves what it holds.

use std::collections::VecDeque;

/// The most that one write to the kernel takes from here.
const SEGMENT: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    segments: VecDeque<Vec<u8>>,
    /// Bytes of the first segment that have gone already.
    gone: usize,
    len: usize,
}

impl Backlog {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.segments.back().is_none_or(|last| last.len() == SEGMENT) {
                self.segments.push_back(Vec::with_capacity(SEGMENT));
            }
            let last = self.segments.back_mut().expect("one was pushed if there was none");
            let (here, later) = bytes.split_at(bytes.len().min(SEGMENT - last.len()));
            last.extend_from_slice(here);
            bytes = later;
        }
    }

    /// The first of the bytes that wait; empty only when none do.
    pub(super) fn front(&self) -> &[u8] {
        self.segments.front().map_or(&[], |first| &first[self.gone..])
    }

    /// Forgets so many of [`Backlog::front`]. An empty backlog owns no memory.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.len -= bytes;
        self.gone += bytes;
        if self.segments.front().is_some_and(|first| first.len() == self.gone) {
            self.segments.pop_front();
            self.gone = 0;
        }
        if self.len == 0 {
            *self = Backlog::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            steps in prop::collection::vec((0usize..200_000, 0usize..200_000), 1..20),
        ) {
            let (mut backlog, mut pushed, mut taken) = (Backlog::default(), 0usize, 0usize);
            let byte = |index: usize| (index % 251) as u8;
            for (push, take) in steps {
                let bytes: Vec<u8> = (pushed..pushed + push).map(byte).collect();
                backlog.push(&bytes);
                pushed += push;
                let mut left = take;
                while left > 0 && !backlog.is_empty() {
                    let here = backlog.front().len().min(left);
                    prop_assert!(backlog.front()[..here].iter().enumerate().all(|(at, found)| *found == byte(taken + at)));
                    backlog.consume(here);
                    taken += here;
                    left -= here;
                }
                prop_assert_eq!(backlog.len(), pushed - taken);
                prop_assert!(backlog.segments.len() <= backlog.len() / SEGMENT + 2);
            }
        }
    }
}

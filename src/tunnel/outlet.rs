//! What goes out to one side: written at once, and what the kernel refuses waits in a backlog.
//!
//! The backlog holds wire bytes, sealed already, so there is one queue and one order. An idle
//! outlet owns no buffer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::backlog::Backlog;
use super::meter::Meter;
use crate::ending::Side;
use crate::metrics::Level;
use crate::net::{Leg, Wire};
use crate::ws::ControlFrame;

/// A worker's share of `backlog_total`, and what its tunnels have of it.
#[derive(Debug)]
pub struct BacklogShare {
    used: Arc<Level>,
    bound: Cell<usize>,
}

impl BacklogShare {
    /// `used` is where others read what is used of it.
    pub fn new(bound: usize, used: Arc<Level>) -> Rc<BacklogShare> {
        Rc::new(BacklogShare { used, bound: Cell::new(bound) })
    }

    /// Bounds by another number what waits from now on.
    pub fn resize(&self, bound: usize) {
        self.bound.set(bound);
    }

    /// Wire bytes that wait in all backlogs of the worker.
    pub fn used(&self) -> u64 {
        self.used.value()
    }

    fn is_spent(&self) -> bool {
        self.used() >= self.bound.get() as u64
    }

    fn take(&self, bytes: usize) {
        self.used.raise(bytes);
    }

    fn give_back(&self, bytes: usize) {
        self.used.lower(bytes);
    }
}

pub(super) struct Outlet {
    to: Side,
    /// `None` once the connection is closed.
    leg: Option<Leg>,
    backlog: Backlog,
    share: Rc<BacklogShare>,
    /// Writing failed: what is sent goes nowhere, and reading will tell why.
    broken: bool,
    progress: Progress,
}

/// How a backlog moves.
#[derive(Debug, Default)]
struct Progress {
    /// When the backlog last had given up enough, or began.
    since: Option<Instant>,
    /// Bytes that the kernel took since then.
    taken: usize,
}

impl Outlet {
    /// What the handshake could not send yet goes first.
    pub(super) fn new(to: Side, mut leg: Leg, share: Rc<BacklogShare>, now: Instant) -> Outlet {
        let unsent = leg.take_unsent();
        let mut outlet = Outlet {
            to,
            leg: Some(leg),
            backlog: Backlog::default(),
            share,
            broken: false,
            progress: Progress::default(),
        };
        outlet.keep(unsent.bytes(), now);
        outlet
    }

    pub(super) fn leg(&mut self) -> Option<&mut Leg> {
        self.leg.as_mut()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Wire bytes that wait.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Whether more may be read for this side: see `backlog` and `backlog_total`.
    #[inline]
    pub(super) fn has_room(&self, bound: usize) -> bool {
        self.backlog.is_empty() || (self.backlog.len() < bound && !self.share.is_spent())
    }

    /// Since when the backlog has not given up a quarter of its bound.
    #[inline]
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        self.progress.since
    }

    /// Takes all of `plain`: seals it, writes what the kernel takes, keeps the rest.
    #[inline]
    pub(super) fn accept(
        &mut self,
        plain: &[u8],
        out: &mut Wire,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let Some(leg) = &mut self.leg else { return };
        out.clear();
        match leg.seal(plain, out) {
            Ok(wire) => self.put(wire, now, cx),
            Err(_) => self.abandon(),
        }
    }

    /// Says that all was said, by TLS's close_notify.
    pub(super) fn end_tls(&mut self, out: &mut Wire, now: Instant, cx: &mut Context<'_>) {
        let Some(leg) = &mut self.leg else { return };
        out.clear();
        match leg.seal_end(out) {
            Ok(()) => self.put(out.bytes(), now, cx),
            Err(_) => self.abandon(),
        }
    }

    /// Writes wire bytes, or keeps what the kernel does not take.
    #[inline]
    fn put(&mut self, mut wire: &[u8], now: Instant, cx: &mut Context<'_>) {
        let Some(leg) = &mut self.leg else { return };
        while self.backlog.is_empty() && !wire.is_empty() && !self.broken {
            match leg.poll_write(cx, wire) {
                Poll::Ready(Ok(taken)) => wire = &wire[taken..],
                Poll::Ready(Err(_)) => self.broken = true,
                Poll::Pending => break,
            }
        }
        if !self.broken {
            self.keep(wire, now);
        }
    }

    /// Has wire bytes wait.
    #[inline]
    fn keep(&mut self, wire: &[u8], now: Instant) {
        if !wire.is_empty() {
            self.progress.since.get_or_insert(now);
            self.share.take(wire.len());
            self.backlog.push(wire);
        }
    }

    /// Writes of the backlog what the kernel takes. `bound` is the plan's `backlog`.
    #[inline]
    pub(super) fn flush(&mut self, bound: usize, now: Instant, cx: &mut Context<'_>) {
        while !self.backlog.is_empty() {
            let Some(leg) = &mut self.leg else { return };
            match leg.poll_write(cx, self.backlog.front()) {
                Poll::Ready(Ok(taken)) => self.gave_up(taken, bound, now),
                Poll::Ready(Err(_)) => self.abandon(),
                Poll::Pending => return,
            }
        }
    }

    fn gave_up(&mut self, taken: usize, bound: usize, now: Instant) {
        self.share.give_back(taken);
        self.backlog.consume(taken);
        self.progress.taken += taken;
        if self.backlog.is_empty() {
            self.progress = Progress::default();
        } else if self.progress.taken >= bound / 4 {
            self.progress = Progress { since: Some(now), taken: 0 };
        }
    }

    /// Nothing more will be taken: forget what waits.
    fn abandon(&mut self) {
        self.broken = true;
        self.share.give_back(self.backlog.len());
        self.backlog = Backlog::default();
        self.progress = Progress::default();
    }

    /// Sends FIN; where that fails the peer is gone, which reading will tell.
    pub(super) fn shut_down(&mut self, cx: &mut Context<'_>) {
        if let Some(leg) = &mut self.leg {
            let _ = leg.poll_shutdown(cx);
        }
    }

    /// Closes the connection, whatever waits.
    pub(super) fn close(&mut self) {
        self.abandon();
        self.leg = None;
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The proof that what a side has been sent ends with a whole frame, so that a frame of the
/// edge's own may follow.
pub(super) struct Boundary<'t>(&'t mut Outlet);

impl<'t> Boundary<'t> {
    /// One exists while the meter of the side that `outlet` is written from owes it nothing.
    pub(super) fn of(outlet: &'t mut Outlet, source: &Meter) -> Option<Boundary<'t>> {
        source.between_frames().then_some(Boundary(outlet))
    }

    /// Sends a frame of the edge's own, masked by a fresh key towards an upstream (RFC 6455
    /// §5.3).
    pub(super) fn send(
        self,
        frame: &ControlFrame,
        out: &mut Wire,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let mask = (self.0.to == Side::Upstream).then(rand::random);
        self.send_masked(frame, mask, out, now, cx);
    }

    /// Sends a frame on as it came: with the key it came with.
    pub(super) fn send_masked(
        self,
        frame: &ControlFrame,
        mask: Option<[u8; 4]>,
        out: &mut Wire,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let mut plain = Vec::with_capacity(2 + 4 + frame.payload().len());
        frame.encode(mask, &mut plain);
        self.0.accept(&plain, out, now, cx);
    }
}

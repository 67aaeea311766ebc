//! One direction of a tunnel: read a chunk, judge it, send on what passes, in one write.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::deadlines::{Deadlines, Due};
use super::heartbeat::Heartbeat;
use super::meter::{Flow, Meter, Then};
use super::outlet::{Boundary, Outlet};
use crate::ending::{Reason, Side};
use crate::metrics::{Histogram, Received};
use crate::net::Scratch;
use crate::plan::Plan;
use crate::ws::head::HEADROOM;
use crate::ws::{ClosePayload, Control, ControlFrame};

/// Chunks of one direction in one poll: a firehose lets its neighbours have their turn.
const CHUNKS: usize = 4;

/// Bytes read at once of a client that may be throttled: what has to wait is kept.
const THROTTLED_READ: usize = 4 << 10;

/// One side of a tunnel.
pub(super) struct End {
    pub(super) side: Side,
    /// What this side is sent.
    pub(super) out: Outlet,
    /// What this side sends.
    pub(super) meter: Meter,
    /// What this side sent before the tunnel stood.
    pub(super) early: Bytes,
    /// It has finished, or its connection broke: there is nothing more to read.
    pub(super) finished: bool,
    /// The answer to its latest ping, until a boundary comes.
    pub(super) pong: Option<Box<ControlFrame>>,
    pub(super) heartbeat: Heartbeat,
    /// It is not read until its rate allows it.
    pub(super) throttled: bool,
    /// It is not read, since the other side does not keep up.
    pub(super) paused: bool,
    /// Bytes thrown away since its direction was stopped.
    pub(super) discarded: usize,
}

/// What a pump cannot decide by itself.
pub(super) enum Event {
    /// The sender closes; the frame and its mask, as it came.
    Close(ClosePayload, ControlFrame, Option<[u8; 4]>),
    Refused(Reason),
    /// The sender finished, or its connection broke.
    Gone,
}

/// One direction, borrowed for one poll.
pub(super) struct Pump<'t> {
    pub(super) from: &'t mut End,
    pub(super) to: &'t mut End,
    pub(super) plan: &'t Plan,
    pub(super) tally: &'t Received,
    pub(super) round_trips: &'t Histogram,
    pub(super) deadlines: &'t mut Deadlines,
    pub(super) scratch: &'t mut Scratch,
    pub(super) now: Instant,
}

impl Pump<'_> {
    /// Relays until the sender has nothing more, the receiver takes no more, or the turn is
    /// over.
    #[inline]
    pub(super) fn run(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        for _ in 0..CHUNKS {
            if self.from.finished || self.must_wait() {
                return None;
            }
            match self.read(cx) {
                Poll::Pending => return None,
                Poll::Ready(None) => {
                    self.from.finished = true;
                    return Some(Event::Gone);
                }
                Poll::Ready(Some(size)) => {
                    if let Some(event) = self.relay(size, cx) {
                        return Some(event);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Whether reading must wait, for the receiver or for a rate; what is discarded waits for
    /// nobody.
    #[inline]
    pub(super) fn must_wait(&self) -> bool {
        (self.from.throttled || !self.to.out.has_room(self.plan.backlog))
            && !matches!(self.from.meter.flow(), Flow::Stopped | Flow::Deaf)
    }

    /// Reads to `scratch.plain[HEADROOM..]`; `None` at the end.
    #[inline]
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let room = &mut self.scratch.plain[HEADROOM..];
        if !self.from.early.is_empty() {
            let size = self.from.early.len().min(room.len());
            self.from.early.copy_to_slice(&mut room[..size]);
            return Poll::Ready(Some(size));
        }
        let limit = if self.plan.throttles(self.from.side) { THROTTLED_READ } else { usize::MAX };
        let Some(leg) = self.from.out.leg() else { return Poll::Pending };
        match ready!(leg.poll_read(cx, self.scratch, limit)) {
            Ok(0) | Err(_) => Poll::Ready(None),
            Ok(size) => Poll::Ready(Some(size)),
        }
    }

    /// Judges the chunk at `scratch.plain[HEADROOM..][..size]` and sends on what passes.
    #[inline]
    fn relay(&mut self, size: usize, cx: &mut Context<'_>) -> Option<Event> {
        self.saw_life(size);
        let start = HEADROOM - self.from.meter.restore_head(&mut self.scratch.plain[..HEADROOM]);
        let end = HEADROOM + size;
        let mut passing = start..start;
        let mut at = start;
        let mut event = None;
        while at < end && event.is_none() {
            let scan =
                self.from.meter.scan(self.now, &self.scratch.plain[at..end], self.plan, self.tally);
            if passing.end != at {
                self.scratch.plain.copy_within(at..at + scan.relay, passing.end);
            }
            passing.end += scan.relay;
            at += scan.used;
            event = match scan.then {
                Then::More => None,
                Then::Control(frame, mask) => {
                    if self.passes_on(&frame) {
                        self.send_on(passing.clone(), cx);
                        passing = at..at;
                    }
                    let event = self.control(frame, mask, cx);
                    if event.is_none() && self.must_wait() {
                        break;
                    }
                    event
                }
                Then::Close(payload, frame, mask) => Some(Event::Close(payload, frame, mask)),
                Then::Refuse(reason) => Some(Event::Refused(reason)),
                Then::Pause(until) => {
                    self.pause(until);
                    break;
                }
            };
        }
        self.send_on(passing, cx);
        self.watch_frame();
        if at < end {
            self.put_back(at..end);
        }
        event
    }

    /// Has what is left unread, for its rate or behind an event, read again.
    fn put_back(&mut self, rest: std::ops::Range<usize>) {
        let rest = [&self.scratch.plain[rest], &self.from.early].concat();
        self.from.early = rest.into();
    }

    /// Reads no more of the sender until its rate allows it.
    fn pause(&mut self, until: Instant) {
        self.from.throttled = true;
        let wait = until.saturating_duration_since(self.now);
        self.deadlines.set(Due::Resume(self.from.side), self.now, Some(wait));
    }

    /// Any byte is life.
    #[inline]
    fn saw_life(&mut self, size: usize) {
        let side = self.from.side;
        self.deadlines.clear(Due::Silence(side));
        if self.plan.heartbeat.forward {
            self.deadlines.set(Due::Ping(side), self.now, self.plan.beat(side).interval);
        }
        if matches!(self.from.meter.flow(), Flow::Stopped | Flow::Deaf) {
            self.from.discarded += size;
        }
    }

    /// A frame begun must go on.
    #[inline]
    fn watch_frame(&mut self) {
        let stall = self.plan.frame_stall.filter(|_| self.from.meter.inside_frame());
        self.deadlines.set(Due::Stall(self.from.side), self.now, stall);
    }

    #[inline]
    fn send_on(&mut self, passing: std::ops::Range<usize>, cx: &mut Context<'_>) {
        if passing.is_empty() {
            return;
        }
        let Scratch { plain, out, .. } = &mut *self.scratch;
        self.to.out.accept(&plain[passing], out, self.now, cx);
        self.deadlines.set(Due::Idle, self.now, self.plan.idle);
    }

    /// Whether a ping or pong goes to the other side rather than being dealt with here.
    fn passes_on(&self, frame: &ControlFrame) -> bool {
        self.plan.heartbeat.forward
            && !self.from.heartbeat.is_echo(frame)
            && matches!(self.from.meter.flow(), Flow::Relay | Flow::ToMessage)
    }

    /// Deals with a ping or pong; answers to the edge's own cost the sender nothing.
    fn control(
        &mut self,
        frame: ControlFrame,
        mask: Option<[u8; 4]>,
        cx: &mut Context<'_>,
    ) -> Option<Event> {
        if self.from.heartbeat.is_answered_by(&frame, self.now) {
            self.from.heartbeat.rtt().inspect(|rtt| self.round_trips.observe(*rtt));
            return None;
        }
        if !self.from.meter.admits_control(self.now, self.plan) {
            return Some(Event::Refused(Reason::RateLimited));
        }
        if self.passes_on(&frame) {
            let boundary = Boundary::of(&mut self.to.out, &self.from.meter);
            if let Some(boundary) = boundary {
                boundary.send_masked(&frame, mask, &mut self.scratch.out, self.now, cx);
            }
        } else if frame.opcode == Control::Ping {
            self.answer(ControlFrame::new(Control::Pong, frame.payload().to_vec()), cx);
        }
        None
    }

    /// Answers a ping at once, or, where no boundary is, the latest at the next one (RFC 6455
    /// §5.5.3).
    fn answer(&mut self, pong: ControlFrame, cx: &mut Context<'_>) {
        let free = self.from.pong.is_none()
            && self.from.out.has_room(self.plan.backlog)
            && matches!(self.to.meter.flow(), Flow::Relay | Flow::ToMessage | Flow::ToFrame);
        match Boundary::of(&mut self.from.out, &self.to.meter).filter(|_| free) {
            Some(boundary) => boundary.send(&pong, &mut self.scratch.out, self.now, cx),
            None => self.from.pong = Some(Box::new(pong)),
        }
    }
}

//! The tunnel: two legs, and frames relayed between them as they came, until one ending.
//!
//! `meter` judges what a side sends, `closing` decides how an ending goes about, `deadlines`
//! holds what is due when; these three are pure. `outlet` is what goes out to a side, `pump` one
//! direction, `heartbeat` the edge's own pings. [`Tunnel`] is the future that joins them: each
//! poll reads the clock once, obeys its mailbox, runs both pumps, sends what the edge itself has
//! to say, and sets one timer. All progress is in the struct, so that dropping it half way loses
//! nothing but the connection.

mod adoption;
mod backlog;
pub mod closing;
pub mod deadlines;
mod heartbeat;
pub mod meter;
mod outlet;
mod pump;
#[cfg(test)]
mod simulation;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use self::closing::{Closing, Manners, Received, Scene, Step};
use self::deadlines::{Deadlines, Due};
use self::heartbeat::Heartbeat;
use self::meter::{Agreement, Meter};
use self::outlet::{Boundary, Outlet};
use self::pump::{End, Event, Pump};
use crate::control::{Figures, Mailbox, Order};
use crate::ending::{Ending, Reason, Side};
use crate::metrics::{RouteTally, WorkerTally};
use crate::net::{Leg, Scratch};
use crate::plan::{OnExpiry, Plan};
use crate::rate::SharedRates;
use crate::ws::{CloseCode, ClosePayload, ControlFrame};

pub use self::outlet::BacklogShare;

/// Bytes read and thrown away from a side that goes on sending after it was told to stop.
const DISCARD: usize = 4 << 20;

/// The latest that a token's connection ends behind its expiry.
pub const EXPIRY_JITTER: Duration = Duration::from_secs(4);
/// Between two looks at the clock on the wall.
pub const LOOK: Duration = Duration::from_secs(60);

/// What the tunnels of one worker share.
pub struct Shared {
    pub scratch: RefCell<Scratch>,
    pub backlog: Rc<BacklogShare>,
    pub tally: Arc<WorkerTally>,
    /// Set once the process drains: what a client is told from then on when its upstream is
    /// lost.
    pub drain_code: Cell<Option<CloseCode>>,
}

/// One side as the handshake hands it over.
pub struct Entrance {
    pub leg: Leg,
    /// What it sent behind its part of the handshake.
    pub early: Bytes,
    /// permessage-deflate was negotiated.
    pub deflate: bool,
    /// Its text is to be proven UTF-8.
    pub check_utf8: bool,
    /// What its subject has used up of rates, where it has one.
    pub rates: Option<Arc<SharedRates>>,
}

/// What came of a tunnel.
#[derive(Clone, Debug)]
pub struct Report {
    pub ending: Ending,
    /// The close code that was told or relayed, if one was.
    pub code: Option<u16>,
    /// Frames received from the client and from the upstream.
    pub frames: [u64; 2],
    /// Payload bytes of data frames, likewise.
    pub bytes: [u64; 2],
    /// The client's last measured round trip.
    pub rtt: Option<Duration>,
    /// Whether a Close was sent to the client and to the upstream.
    pub told: [bool; 2],
}

pub struct Tunnel {
    ends: [End; 2],
    plan: Arc<Plan>,
    closing: Closing,
    /// The code of the Close that began the ending, if one did.
    close_code: Option<u16>,
    /// What its Close says to a client that is expelled.
    words: Option<Arc<str>>,
    deadlines: Deadlines,
    expires: Option<SystemTime>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    mailbox: Rc<Mailbox>,
    shared: Rc<Shared>,
    tally: Arc<RouteTally>,
    began: Instant,
}

impl Tunnel {
    /// `random` are two numbers in 0..1, for the jitter of the first ping and of `max_age`.
    pub fn new(
        client: Entrance,
        upstream: Entrance,
        plan: Arc<Plan>,
        mailbox: Rc<Mailbox>,
        shared: Rc<Shared>,
        tally: Arc<RouteTally>,
        random: [f64; 2],
    ) -> Tunnel {
        let now = Instant::now();
        Tunnel {
            ends: [
                end(Side::Client, client, &shared, now),
                end(Side::Upstream, upstream, &shared, now),
            ],
            closing: Closing::default(),
            close_code: None,
            words: None,
            deadlines: first_deadlines(&plan, now, random),
            plan,
            expires: None,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            armed: None,
            mailbox,
            shared,
            tally,
            began: now,
        }
    }

    /// What it goes by now.
    #[inline]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What it has done so far.
    #[inline]
    pub fn figures(&self) -> Figures {
        let [client, upstream] = &self.ends;
        Figures {
            frames: [client.meter.frames(), upstream.meter.frames()],
            bytes: [client.meter.bytes(), upstream.meter.bytes()],
            rtt: client.heartbeat.rtt(),
            waiting: [client.out.waiting(), upstream.out.waiting()],
        }
    }

    /// It came by a token that expires; `random` is a number in 0..1, so that those of one token
    /// do not end together.
    pub fn expiring(mut self, at: Option<SystemTime>, random: f64) -> Tunnel {
        self.expires = at.map(|at| at + EXPIRY_JITTER.mul_f64(random));
        self.expiry_due(Instant::now());
        self
    }

    /// Relays and decides until nothing more can be done now.
    fn work(&mut self, now: Instant, cx: &mut Context<'_>) {
        loop {
            let happened = self.relay(now, cx) | self.expire(now) | self.speak(now, cx);
            self.mind_pauses(now);
            if !happened {
                return;
            }
        }
    }

    /// Runs both directions; `true` if something came that changes how they go on.
    #[inline]
    fn relay(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut happened = false;
        for side in Side::BOTH {
            self.ends[side as usize].out.flush(self.plan.backlog, now, cx);
        }
        for side in Side::BOTH {
            if let Some(event) = self.pump(side, now, cx) {
                self.obey(side, event, now, cx);
                happened = true;
            }
        }
        happened
    }

    #[inline]
    fn pump(&mut self, side: Side, now: Instant, cx: &mut Context<'_>) -> Option<Event> {
        let [client, upstream] = &mut self.ends;
        let (from, to) = match side {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        let mut scratch = self.shared.scratch.borrow_mut();
        let mut pump = Pump {
            from,
            to,
            plan: &self.plan,
            tally: self.tally.received(side),
            round_trips: &self.shared.tally.round_trips,
            deadlines: &mut self.deadlines,
            scratch: &mut scratch,
            now,
        };
        pump.run(cx)
    }

    fn obey(&mut self, from: Side, event: Event, now: Instant, cx: &mut Context<'_>) {
        match event {
            Event::Refused(reason) => self.begin(reason.into(), now),
            Event::Gone => {
                let lost = self.lost(from);
                self.decide(now, |closing, scene| closing.gone(from, lost, scene));
            }
            Event::Close(payload, frame, mask) => {
                self.close_received(from, payload, frame, mask, now, cx);
            }
        }
    }

    fn close_received(
        &mut self,
        from: Side,
        payload: ClosePayload,
        frame: ControlFrame,
        mask: Option<[u8; 4]>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        if self.closing.ending().is_none() {
            self.close_code = payload.code;
        }
        let to = from.other();
        let what =
            self.decide(now, |closing, scene| closing.close_received(from, payload.code, scene));
        if what == Received::Swallow {
            return;
        }
        if let Some(boundary) = boundary(&mut self.ends, to) {
            let out = &mut self.shared.scratch.borrow_mut().out;
            boundary.send_masked(&frame, mask, out, now, cx);
        }
        self.decide(now, |closing, scene| closing.told(to, scene));
    }

    /// Ends that are due; `true` if one was.
    fn expire(&mut self, now: Instant) -> bool {
        let mut happened = false;
        while let Some(due) = self.deadlines.take_expired(now) {
            happened = true;
            match due {
                Due::Ping(side) => self.ping_due(side, now),
                Due::Silence(side) => self.begin(Reason::HeartbeatTimeout(side).into(), now),
                Due::Stall(side) => self.begin(Reason::FrameStalled(side).into(), now),
                Due::Slow(side) => self.slow(side, now),
                Due::Farewell(side) => self.farewell_due(side, now),
                Due::Resume(side) => self.ends[side as usize].throttled = false,
                Due::Idle => self.begin(Reason::IdleTimeout.into(), now),
                Due::MaxAge => self.begin(Reason::MaxAge.into(), now),
                Due::Expiry => self.expiry_due(now),
            }
        }
        happened
    }

    fn expiry_due(&mut self, now: Instant) {
        let Some(expires) = self.expires else { return };
        match expires.duration_since(SystemTime::now()) {
            // The timers stand still while the machine sleeps, and the clock on the wall can be
            // set: so the next look at it is never far.
            Ok(left) if !left.is_zero() => {
                self.deadlines.set(Due::Expiry, now, Some(left.min(LOOK)));
            }
            _ if self.plan.on_expiry == OnExpiry::Close => {
                let ending = Ending::from(Reason::TokenExpired);
                self.begin(ending.telling_client(self.plan.unauthorized_code), now);
            }
            _ => {}
        }
    }

    /// A side that is still taking what was said before its Close, and not too slowly, has more
    /// time: the Close has not left yet.
    fn farewell_due(&mut self, side: Side, now: Instant) {
        let patience = self.plan.close;
        let stuck = self.ends[side as usize].out.stuck_since();
        let moves = stuck.is_some_and(|since| now.saturating_duration_since(since) < patience);
        if moves && self.closing.is_being_delivered_to(side) {
            self.deadlines.set(Due::Farewell(side), now, Some(patience));
        } else {
            self.decide(now, |closing, scene| closing.expired(side, scene));
        }
    }

    fn ping_due(&mut self, side: Side, now: Instant) {
        self.ends[side as usize].heartbeat.want();
        self.deadlines.set(Due::Ping(side), now, self.plan.beat(side).interval);
    }

    /// The deadline was set when the backlog began; it has moved since if it gave up enough.
    fn slow(&mut self, side: Side, now: Instant) {
        let (Some(since), Some(patience)) =
            (self.ends[side as usize].out.stuck_since(), self.plan.slow_consumer)
        else {
            return;
        };
        let stuck = now.saturating_duration_since(since);
        match patience.checked_sub(stuck) {
            None | Some(Duration::ZERO) => self.begin(Reason::SlowConsumer(side).into(), now),
            left => self.deadlines.set(Due::Slow(side), now, left),
        }
    }

    /// Sends what the edge itself has to say to each side: pongs, pings, Closes, FINs; `true` if
    /// that brought an ending a step on.
    #[inline]
    fn speak(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        for side in Side::BOTH {
            self.answer_ping(side, now, cx);
            self.beat(side, now, cx);
            if self.closing.ending().is_some() {
                moved |= self.say_farewell(side, now, cx);
            }
        }
        moved
    }

    #[inline]
    fn answer_ping(&mut self, side: Side, now: Instant, cx: &mut Context<'_>) {
        let end = &mut self.ends[side as usize];
        if end.pong.is_none() || !end.out.has_room(self.plan.backlog) {
            return;
        }
        if self.closing.was_told(side) {
            end.pong = None;
            return;
        }
        let Some(pong) = self.ends[side as usize].pong.take() else { return };
        if !self.send(side, &pong, now, cx) {
            self.ends[side as usize].pong = Some(pong);
        }
    }

    /// Pings, where one is due and nothing stands before it.
    #[inline]
    fn beat(&mut self, side: Side, now: Instant, cx: &mut Context<'_>) {
        self.ping_left(side, now);
        let end = &mut self.ends[side as usize];
        let free = end.out.is_drained() && !end.paused && self.closing.ending().is_none();
        if !end.heartbeat.is_wanted() || !free {
            return;
        }
        let ping = end.heartbeat.ping(rand::random());
        if self.send(side, &ping, now, cx) {
            self.ping_left(side, now);
        } else {
            self.ends[side as usize].heartbeat.want();
        }
    }

    /// Starts the clock of a pong once the kernel has all of its ping; that of one that is still
    /// awaited goes on.
    #[inline]
    fn ping_left(&mut self, side: Side, now: Instant) {
        let end = &mut self.ends[side as usize];
        let left = end.out.is_drained() && end.heartbeat.drained(now);
        if left && !self.deadlines.is_set(Due::Silence(side)) {
            self.deadlines.set(Due::Silence(side), now, self.plan.beat(side).timeout);
        }
    }

    /// Sends a frame of the edge's own, if a boundary is there.
    fn send(&mut self, to: Side, frame: &ControlFrame, now: Instant, cx: &mut Context<'_>) -> bool {
        let scratch = &mut self.shared.scratch.borrow_mut();
        let Some(boundary) = boundary(&mut self.ends, to) else { return false };
        boundary.send(frame, &mut scratch.out, now, cx);
        true
    }

    /// Takes the steps of an ending towards one side; `true` if there were any. The other side
    /// may have to be read from then on, so that its turn must come again.
    fn say_farewell(&mut self, side: Side, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.ends[side as usize].discarded > DISCARD {
            self.ends[side as usize].discarded = 0;
            self.decide(now, |closing, scene| closing.overflowed(side, scene));
        }
        let mut moved = false;
        loop {
            match self.decide(now, |closing, scene| closing.step(side, scene)) {
                Step::Wait => return moved,
                Step::Tell(code) => self.tell(side, code, now, cx),
                Step::Leave(manners) => {
                    if !self.leave(side, manners, now, cx) {
                        return moved;
                    }
                }
                Step::Drop => {
                    self.drop_leg(side, now, cx);
                    return moved;
                }
            }
            moved = true;
        }
    }

    fn tell(&mut self, side: Side, code: CloseCode, now: Instant, cx: &mut Context<'_>) {
        let words = self.words.as_deref().filter(|_| side == Side::Client);
        let close = ControlFrame::close(code, words.unwrap_or_default());
        self.send(side, &close, now, cx);
        self.ends[side as usize].discarded = 0;
        self.decide(now, |closing, scene| closing.told(side, scene));
    }

    /// Sends FIN behind all that was to be delivered; `false` while that is not done.
    fn leave(&mut self, side: Side, manners: Manners, now: Instant, cx: &mut Context<'_>) -> bool {
        let out = &mut self.ends[side as usize].out;
        if out.is_drained() && manners == Manners::Complete {
            out.end_tls(&mut self.shared.scratch.borrow_mut().out, now, cx);
        }
        if !out.is_drained() {
            return false;
        }
        out.shut_down(cx);
        self.closing.left(side);
        true
    }

    fn drop_leg(&mut self, side: Side, now: Instant, cx: &mut Context<'_>) {
        let out = &mut self.ends[side as usize].out;
        if out.is_drained() && self.closing.was_told(side) {
            out.end_tls(&mut self.shared.scratch.borrow_mut().out, now, cx);
        }
        out.close();
    }

    /// Stops the clocks of a side that is not read, and sets that of one that takes too little.
    #[inline]
    fn mind_pauses(&mut self, now: Instant) {
        for side in Side::BOTH {
            let stuck = self.ends[side as usize].out.stuck_since().is_some();
            if stuck && !self.deadlines.is_set(Due::Slow(side)) {
                self.deadlines.set(Due::Slow(side), now, self.plan.slow_consumer);
            }
            let paused = self.is_paused(side);
            // What was set anew in a short turn of reading stands still again.
            if paused || self.ends[side as usize].paused {
                self.set_paused(side, paused, now);
            }
        }
    }

    #[inline]
    fn is_paused(&self, side: Side) -> bool {
        let receiver = &self.ends[side.other() as usize].out;
        let waits = self.ends[side as usize].throttled || !receiver.has_room(self.plan.backlog);
        waits && self.closing.ending().is_none()
    }

    fn set_paused(&mut self, side: Side, paused: bool, now: Instant) {
        self.ends[side as usize].paused = paused;
        let other_paused = self.ends[side.other() as usize].paused;
        for due in [Due::Silence(side), Due::Stall(side), Due::Idle] {
            if paused {
                self.deadlines.freeze(due, now);
            } else if due != Due::Idle || !other_paused {
                self.deadlines.thaw(due, now);
            }
        }
    }

    fn begin(&mut self, ending: Ending, now: Instant) {
        self.decide(now, |closing, scene| closing.begin(ending, scene));
    }

    fn expel(&mut self, ending: Ending, words: Arc<str>, now: Instant) {
        if self.closing.ending().is_none() {
            self.words = Some(words);
            self.begin(ending, now);
        }
    }

    /// What the loss of `side` comes to; during a drain a client is told the drain's code.
    fn lost(&self, side: Side) -> Ending {
        let lost = Ending::from(Reason::Lost(side));
        match self.shared.drain_code.get() {
            Some(code) => lost.telling_client(code),
            None => lost,
        }
    }

    fn decide<T>(
        &mut self,
        now: Instant,
        how: impl FnOnce(&mut Closing, &mut Scene<'_>) -> T,
    ) -> T {
        let [client, upstream] = &mut self.ends;
        let mut scene = Scene {
            now,
            patience: self.plan.close,
            meters: [&mut client.meter, &mut upstream.meter],
            deadlines: &mut self.deadlines,
        };
        how(&mut self.closing, &mut scene)
    }

    /// Has the task woken when the next deadline comes. A timer that is set for an earlier
    /// moment is left alone: waking once for nothing is cheaper than moving it at every frame.
    #[inline]
    fn arm(&mut self, now: Instant, cx: &mut Context<'_>) {
        if self.armed.is_some_and(|at| at <= now) {
            self.armed = None;
        }
        let Some(next) = self.deadlines.earliest() else { return };
        if self.armed.is_none_or(|at| next < at) {
            self.armed = Some(next);
            self.timer.as_mut().reset(next.into());
            // A turn that has used up its budget must be woken none the less.
            let timer = pin!(unconstrained(self.timer.as_mut()));
            if timer.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn report(&self) -> Option<Report> {
        let ending = *self.closing.ending()?;
        let Figures { frames, bytes, rtt, .. } = self.figures();
        let told = Side::BOTH.map(|side| self.closing.was_told(side));
        let own_code = ending.closes.client.filter(|_| told[0]).map(u16::from);
        Some(Report { ending, code: self.close_code.or(own_code), frames, bytes, rtt, told })
    }

    fn cut(&mut self, ending: Ending, now: Instant) {
        self.begin(ending, now);
        for end in &mut self.ends {
            end.out.close();
        }
    }
}

impl Future for Tunnel {
    type Output = Report;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let tunnel = self.get_mut();
        let now = Instant::now();
        match tunnel.mailbox.take(cx) {
            Some(Order::Adopt(plan)) => tunnel.adopt(plan, now),
            Some(Order::End(ending)) => tunnel.begin(ending, now),
            Some(Order::Expel(ending, words)) => tunnel.expel(ending, words, now),
            Some(Order::Cut(ending)) => {
                tunnel.cut(ending, now);
                return tunnel.report().map_or(Poll::Pending, Poll::Ready);
            }
            None => {}
        }
        tunnel.work(now, cx);
        if tunnel.closing.is_over()
            && let Some(report) = tunnel.report()
        {
            return Poll::Ready(report);
        }
        tunnel.arm(now, cx);
        Poll::Pending
    }
}

/// Where a frame of the edge's own may go out to `to`.
fn boundary(ends: &mut [End; 2], to: Side) -> Option<Boundary<'_>> {
    let [client, upstream] = ends;
    match to {
        Side::Client => Boundary::of(&mut client.out, &upstream.meter),
        Side::Upstream => Boundary::of(&mut upstream.out, &client.meter),
    }
}

fn end(side: Side, entrance: Entrance, shared: &Rc<Shared>, now: Instant) -> End {
    let Entrance { leg, early, deflate, check_utf8, rates } = entrance;
    End {
        side,
        out: Outlet::new(side, leg, shared.backlog.clone(), now),
        meter: Meter::new(Agreement { sender: side, deflate, check_utf8 }).sharing(rates),
        early,
        finished: false,
        pong: None,
        heartbeat: Heartbeat::default(),
        throttled: false,
        paused: false,
        discarded: 0,
    }
}

fn first_deadlines(plan: &Plan, now: Instant, random: [f64; 2]) -> Deadlines {
    let [of_ping, of_age] = random;
    let mut deadlines = Deadlines::default();
    for side in Side::BOTH {
        let first = plan.beat(side).interval.map(|interval| interval.mul_f64(of_ping));
        deadlines.set(Due::Ping(side), now, first);
    }
    deadlines.set(Due::Idle, now, plan.idle);
    deadlines.set(Due::MaxAge, now, plan.max_age.map(|age| jittered(age, of_age)));
    deadlines
}

/// An age up to a tenth shorter, so that those who came together do not go together.
fn jittered(age: Duration, random: f64) -> Duration {
    age.mul_f64(1.0 - random / 10.0)
}

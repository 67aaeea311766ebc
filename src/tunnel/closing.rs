//! How a tunnel ends: who is told what, when, and how long the edge waits for an answer.
//!
//! Each side has a `Farewell` of its own. An orderly ending tells the client first and lets
//! it finish (unless it is expelled), then the upstream; a violation tells both at their next frame
//! boundary; a Close that is relayed waits for the answer to be relayed back; a side that is lost is
//! told nothing. Whatever a peer does or fails to do, a deadline of `close` moves each step on.
//!
//! Pure: events and the time go in, [`Step`]s come out.

use std::time::{Duration, Instant};

use super::deadlines::{Deadlines, Due};
use super::meter::{Flow, Meter};
use crate::ending::{Ending, Manner, Reason, Side};
use crate::ws::CloseCode;

/// What one side has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// Nothing: the tunnel is open towards it.
    Open,
    /// It is told when the other side has closed, or had its time to.
    Later(CloseCode),
    /// It is told at the next boundary of what the other side sends it.
    Due(CloseCode),
    /// A Close was sent; its own is awaited.
    Told,
    /// It is told nothing more: what was read for it is delivered, then FIN.
    Leaving(Manners),
    /// FIN was sent; its own is awaited, so that bytes it still sends cause no reset.
    Lingering,
    /// Its connection is closed.
    Over,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// With TLS's close_notify: all was said.
    Complete,
    /// Without: what the peer got is not the whole, and shows it.
    Truncated,
}

/// What the tunnel has to do for one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Wait,
    /// Send a Close with this code, at the boundary that is there now; then say [`Closing::told`].
    Tell(CloseCode),
    /// Deliver what is left and send FIN; then say [`Closing::left`].
    Leave(Manners),
    /// Nothing is left to do for it: drop the connection.
    Drop,
}

/// What to do with a Close that a side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Send it on as it came; then say [`Closing::told`] of the other side.
    Relay,
    Swallow,
}

#[derive(Debug, Default)]
pub struct Closing {
    ending: Option<Ending>,
    parties: [Party; 2],
}

#[derive(Debug)]
struct Party {
    farewell: Farewell,
    /// Its Close was read.
    closed: bool,
    /// Its connection has ended.
    gone: bool,
    /// It was sent a Close.
    told: bool,
}

impl Default for Party {
    fn default() -> Party {
        Party { farewell: Farewell::Open, closed: false, gone: false, told: false }
    }
}

/// What a decision needs to know, and may restrict or set.
pub struct Scene<'t> {
    pub now: Instant,
    /// The plan's `close`.
    pub patience: Duration,
    pub meters: [&'t mut Meter; 2],
    pub deadlines: &'t mut Deadlines,
}

impl Scene<'_> {
    /// Gives `side` its time for the next step.
    fn grant(&mut self, side: Side) {
        self.deadlines.set(Due::Farewell(side), self.now, Some(self.patience));
    }

    fn restrict(&mut self, sender: Side, flow: Flow) {
        self.meters[sender as usize].restrict(flow);
    }

    fn sender_to(&self, side: Side) -> &Meter {
        self.meters[side.other() as usize]
    }

    /// Whether what `side` is sent stands where a Close may go.
    fn at_boundary(&self, side: Side) -> bool {
        let sender = self.sender_to(side);
        match sender.flow() {
            Flow::Relay | Flow::ToMessage => sender.between_messages(),
            Flow::ToFrame | Flow::Stopped | Flow::Deaf => sender.between_frames(),
        }
    }
}

impl Closing {
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Both connections are closed.
    pub fn is_over(&self) -> bool {
        Side::BOTH.iter().all(|side| self.is_over_for(*side))
    }

    fn is_over_for(&self, side: Side) -> bool {
        self.party(side).farewell == Farewell::Over
    }

    /// Whether a Close was sent to `side`, one that was relayed included.
    pub fn was_told(&self, side: Side) -> bool {
        self.party(side).told
    }

    /// Whether all that `side` will be sent is on its way.
    pub fn is_being_delivered_to(&self, side: Side) -> bool {
        matches!(self.party(side).farewell, Farewell::Told | Farewell::Leaving(_))
    }

    /// Begins an ending; where one has begun already, that one goes on.
    pub fn begin(&mut self, ending: Ending, scene: &mut Scene<'_>) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(ending);
        match ending.reason.manner() {
            Manner::Orderly => self.begin_orderly(ending, scene),
            Manner::Expelled => {
                scene.restrict(Side::Client, Flow::ToFrame);
                self.begin_orderly(ending, scene);
            }
            Manner::Violation(culprit) => self.begin_violation(culprit, ending, scene),
            Manner::Lost(side) => self.begin_lost(side, ending, scene),
            Manner::Closed(_) => {}
        }
    }

    fn begin_orderly(&mut self, ending: Ending, scene: &mut Scene<'_>) {
        scene.restrict(Side::Upstream, Flow::ToMessage);
        self.say(Side::Client, ending, scene);
        let code = ending.closes.upstream.unwrap_or(CloseCode::Away);
        self.party_mut(Side::Upstream).farewell = Farewell::Later(code);
    }

    fn begin_violation(&mut self, culprit: Side, ending: Ending, scene: &mut Scene<'_>) {
        for side in [culprit, culprit.other()] {
            scene.restrict(side, Flow::ToFrame);
            self.say(side, ending, scene);
        }
    }

    fn begin_lost(&mut self, lost: Side, ending: Ending, scene: &mut Scene<'_>) {
        scene.restrict(lost.other(), Flow::Stopped);
        self.party_mut(lost).farewell = Farewell::Over;
        self.say(lost.other(), ending, scene);
    }

    /// Has `side` told its code, or sent away without one.
    fn say(&mut self, side: Side, ending: Ending, scene: &mut Scene<'_>) {
        self.party_mut(side).farewell = match ending.closes.to(side) {
            Some(code) => Farewell::Due(code),
            None => Farewell::Leaving(Manners::Truncated),
        };
        scene.grant(side);
    }

    /// `from` sent a Close with `code`. Nothing it sends is listened to any more.
    pub fn close_received(
        &mut self,
        from: Side,
        code: Option<u16>,
        scene: &mut Scene<'_>,
    ) -> Received {
        let to = from.other();
        scene.restrict(from, Flow::Deaf);
        self.party_mut(from).closed = true;
        match self.ending.map(|ending| ending.reason) {
            None => {
                self.ending = Some(Reason::Closed(from).into());
                let answer = CloseCode::from(code.unwrap_or(1000));
                self.party_mut(from).farewell = Farewell::Later(answer);
                Received::Relay
            }
            Some(Reason::Closed(first))
                if first == to && matches!(self.party(to).farewell, Farewell::Later(_)) =>
            {
                Received::Relay
            }
            Some(_) => {
                self.promote(to, scene);
                Received::Swallow
            }
        }
    }

    /// `side` will be heard no more: it finished, or its connection broke.
    pub fn gone(&mut self, side: Side, lost: Ending, scene: &mut Scene<'_>) {
        scene.restrict(side, Flow::Deaf);
        self.party_mut(side).gone = true;
        self.begin(lost, scene);
        if !self.party(side).closed {
            self.over(side, scene);
        }
    }

    /// A Close went out to `side`.
    pub fn told(&mut self, side: Side, scene: &mut Scene<'_>) {
        let party = self.party_mut(side);
        party.farewell = Farewell::Told;
        party.told = true;
        scene.restrict(side.other(), Flow::Stopped);
        scene.grant(side);
    }

    /// FIN went out to `side`.
    pub fn left(&mut self, side: Side) {
        self.party_mut(side).farewell = Farewell::Lingering;
    }

    /// What to do for `side` now.
    pub fn step(&mut self, side: Side, scene: &mut Scene<'_>) -> Step {
        let party = self.party(side);
        match party.farewell {
            Farewell::Open | Farewell::Later(_) => Step::Wait,
            Farewell::Lingering if self.has_finished(side) => {
                self.over(side, scene);
                Step::Drop
            }
            Farewell::Lingering => Step::Wait,
            Farewell::Leaving(manners) => Step::Leave(manners),
            Farewell::Due(code) if scene.at_boundary(side) => Step::Tell(code),
            Farewell::Due(_) if scene.sender_to(side).flow() == Flow::Deaf => {
                self.leave(side, Manners::Truncated)
            }
            Farewell::Due(_) => Step::Wait,
            // It is known to be silent: no answer is waited for.
            Farewell::Told if self.is_silent(side) => {
                self.over(side, scene);
                Step::Drop
            }
            Farewell::Told if self.has_answered(side) => self.leave(side, Manners::Complete),
            // It broke the protocol, so its answer could not be read: FIN now, and linger.
            Farewell::Told if !party.closed && scene.meters[side as usize].flow() == Flow::Deaf => {
                self.leave(side, Manners::Complete)
            }
            Farewell::Told => Step::Wait,
            Farewell::Over => Step::Drop,
        }
    }

    /// `side` has said too much since its direction was stopped. What it is still to be told it
    /// is told all the same.
    pub fn overflowed(&mut self, side: Side, scene: &mut Scene<'_>) {
        if matches!(self.party(side).farewell, Farewell::Told | Farewell::Lingering) {
            self.expired(side, scene);
        }
    }

    /// `side` has used up the time of its present step.
    pub fn expired(&mut self, side: Side, scene: &mut Scene<'_>) {
        match self.party(side).farewell {
            Farewell::Open | Farewell::Over | Farewell::Later(_) => {}
            Farewell::Due(_) if scene.sender_to(side).flow() == Flow::ToMessage => {
                scene.restrict(side.other(), Flow::ToFrame);
                scene.grant(side);
            }
            Farewell::Told => self.unanswered(side, scene),
            Farewell::Due(_) | Farewell::Leaving(_) | Farewell::Lingering => {
                self.over(side, scene);
            }
        }
    }

    /// `side` was sent a Close and gave no answer: the other's turn has come, but a frame that
    /// `side` is in the middle of may be finished first.
    fn unanswered(&mut self, side: Side, scene: &mut Scene<'_>) {
        let was_waited_for = self.promote(side.other(), scene);
        if was_waited_for && !scene.meters[side as usize].between_frames() {
            scene.grant(side);
        } else {
            self.over(side, scene);
        }
    }

    fn is_silent(&self, side: Side) -> bool {
        self.ending.is_some_and(|ending| ending.reason == Reason::HeartbeatTimeout(side))
    }

    /// The client is left once it has closed; an upstream, which as a server closes its
    /// connection first (RFC 6455 §7.1.1), once it has done so.
    fn has_answered(&self, side: Side) -> bool {
        let party = self.party(side);
        party.gone || (party.closed && side == Side::Client)
    }

    /// Nothing of what `side` may still send could matter to it.
    fn has_finished(&self, side: Side) -> bool {
        self.party(side).closed || self.party(side).gone
    }

    fn leave(&mut self, side: Side, manners: Manners) -> Step {
        self.party_mut(side).farewell = Farewell::Leaving(manners);
        Step::Leave(manners)
    }

    /// The connection of `side` is finished with.
    fn over(&mut self, side: Side, scene: &mut Scene<'_>) {
        self.party_mut(side).farewell = Farewell::Over;
        scene.deadlines.clear(Due::Farewell(side));
        scene.restrict(side, Flow::Deaf);
        scene.restrict(side.other(), Flow::Stopped);
        self.promote(side.other(), scene);
    }

    /// If `side` was to be told later, that is now; `true` if so.
    fn promote(&mut self, side: Side, scene: &mut Scene<'_>) -> bool {
        let Farewell::Later(code) = self.party(side).farewell else { return false };
        self.party_mut(side).farewell = Farewell::Due(code);
        scene.restrict(side.other(), Flow::ToFrame);
        scene.grant(side);
        true
    }

    fn party(&self, side: Side) -> &Party {
        &self.parties[side as usize]
    }

    fn party_mut(&mut self, side: Side) -> &mut Party {
        &mut self.parties[side as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Received as Tally;
    use crate::plan::Plan;
    use crate::tunnel::meter::Agreement;
    use crate::ws::{Data, FrameHeader, OpCode};

    const PATIENCE: Duration = Duration::from_secs(5);

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The head of a frame and the first of its two bytes; whether it ends its message.
        Begins(Side, bool),
        /// The second of them.
        Finishes(Side),
        Closes(Side),
        Goes(Side),
        Ends(Reason),
        /// The next deadline comes.
        Waits,
        /// A side has said too much.
        Floods(Side),
    }

    /// Two peers and what they were told, with the duties of a tunnel that takes all at once.
    struct World {
        closing: Closing,
        meters: [Meter; 2],
        deadlines: Deadlines,
        now: Instant,
        inside: [bool; 2],
        in_message: [bool; 2],
        silent: [bool; 2],
        told: [u32; 2],
        finished: [bool; 2],
    }

    impl World {
        fn new() -> World {
            let meter =
                |sender| Meter::new(Agreement { sender, deflate: false, check_utf8: false });
            World {
                closing: Closing::default(),
                meters: Side::BOTH.map(meter),
                deadlines: Deadlines::default(),
                now: Instant::now(),
                inside: [false; 2],
                in_message: [false; 2],
                silent: [false; 2],
                told: [0; 2],
                finished: [false; 2],
            }
        }

        fn decide<T>(&mut self, how: impl FnOnce(&mut Closing, &mut Scene<'_>) -> T) -> T {
            let [client, upstream] = &mut self.meters;
            let mut scene = Scene {
                now: self.now,
                patience: PATIENCE,
                meters: [client, upstream],
                deadlines: &mut self.deadlines,
            };
            how(&mut self.closing, &mut scene)
        }

        fn happen(&mut self, event: Event) {
            match event {
                Event::Begins(side, last)
                    if self.may_speak(side) && !self.inside[side as usize] =>
                {
                    let data =
                        if self.in_message[side as usize] { Data::Continue } else { Data::Binary };
                    let mask = (side == Side::Client).then_some([0; 4]);
                    let header = FrameHeader {
                        is_final: last,
                        opcode: OpCode::Data(data),
                        mask,
                        ..FrameHeader::default()
                    };
                    let mut wire = Vec::new();
                    header.format(2, &mut wire).unwrap();
                    wire.push(1);
                    self.in_message[side as usize] = !last;
                    self.inside[side as usize] = true;
                    self.send(side, &wire);
                }
                Event::Finishes(side) if self.may_speak(side) && self.inside[side as usize] => {
                    self.inside[side as usize] = false;
                    self.send(side, &[2]);
                }
                Event::Closes(side) if self.may_speak(side) && !self.inside[side as usize] => {
                    self.silent[side as usize] = true;
                    if self.meters[side as usize].flow() != Flow::Deaf {
                        self.close(side);
                    }
                }
                Event::Goes(side) if !self.finished[side as usize] => {
                    self.finished[side as usize] = true;
                    self.silent[side as usize] = true;
                    let lost = Reason::Lost(side).into();
                    self.decide(|closing, scene| closing.gone(side, lost, scene));
                }
                Event::Ends(reason) => {
                    self.decide(|closing, scene| closing.begin(reason.into(), scene));
                }
                Event::Waits => self.wait(),
                Event::Floods(side) if self.closing.ending().is_some() => {
                    self.decide(|closing, scene| closing.overflowed(side, scene));
                }
                _ => {}
            }
            self.settle();
        }

        fn may_speak(&self, side: Side) -> bool {
            !self.silent[side as usize]
        }

        fn send(&mut self, from: Side, wire: &[u8]) {
            let meter = &mut self.meters[from as usize];
            let scan = meter.scan(Instant::now(), wire, &Plan::default(), &Tally::default());
            assert!(
                scan.relay == 0 || self.told[from.other() as usize] == 0,
                "data behind a Close"
            );
        }

        fn close(&mut self, from: Side) {
            let received =
                self.decide(|closing, scene| closing.close_received(from, Some(4000), scene));
            if received == Received::Relay {
                self.tell(from.other());
            }
        }

        fn tell(&mut self, side: Side) {
            assert!(self.meters[side.other() as usize].between_frames(), "a Close within a frame");
            self.told[side as usize] += 1;
            assert_eq!(self.told[side as usize], 1, "{side:?} is told once");
            self.decide(|closing, scene| closing.told(side, scene));
        }

        fn settle(&mut self) {
            for side in [Side::Client, Side::Upstream, Side::Client] {
                for turn in 0.. {
                    assert!(turn < 5, "{side:?} is never done");
                    match self.decide(|closing, scene| closing.step(side, scene)) {
                        Step::Tell(_) => self.tell(side),
                        Step::Leave(_) => self.closing.left(side),
                        Step::Wait | Step::Drop => break,
                    }
                }
            }
        }

        fn wait(&mut self) {
            let Some(next) = self.deadlines.earliest() else { return };
            self.now = next;
            while let Some(due) = self.deadlines.take_expired(next) {
                let Due::Farewell(side) = due else { panic!("{due:?}") };
                self.decide(|closing, scene| closing.expired(side, scene));
            }
            self.settle();
        }
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Client), Just(Side::Upstream)]
    }

    fn event() -> impl Strategy<Value = Event> {
        let reason = prop_oneof![
            Just(Reason::Drain),
            Just(Reason::RateLimited),
            Just(Reason::AuthorizationRevoked),
            side().prop_map(Reason::SlowConsumer),
            side().prop_map(Reason::FrameTooBig),
        ];
        prop_oneof![
            4 => (side(), any::<bool>()).prop_map(|(side, last)| Event::Begins(side, last)),
            3 => side().prop_map(Event::Finishes),
            2 => side().prop_map(Event::Closes),
            1 => side().prop_map(Event::Goes),
            1 => reason.prop_map(Event::Ends),
            1 => Just(Event::Waits),
            1 => side().prop_map(Event::Floods),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn whatever_happens_it_ends_and_tells_each_side_once(
            events in prop::collection::vec(event(), 0..25),
        ) {
            let mut world = World::new();
            for event in events {
                world.happen(event);
            }
            world.happen(Event::Ends(Reason::Drain));
            for _ in 0..6 {
                if !world.closing.is_over() {
                    prop_assert!(world.deadlines.earliest().is_some(), "it waits for nothing");
                    world.wait();
                }
            }
            prop_assert!(world.closing.is_over(), "{:?}", world.closing);
            prop_assert_eq!(world.deadlines.earliest(), None);
            prop_assert_eq!(Side::BOTH.map(|side| world.closing.was_told(side)), world.told.map(|told| told == 1));
        }
    }

    #[test]
    fn who_finishes_while_the_edge_lingers_is_lingered_for_no_more() {
        for event in [Event::Closes(Side::Upstream), Event::Goes(Side::Upstream)] {
            let mut world = World::new();
            world.happen(Event::Goes(Side::Client));
            assert!(!world.closing.is_over());
            world.happen(event);
            assert!(world.closing.is_over(), "{event:?}");
        }
    }

    #[test]
    fn who_is_expelled_finishes_its_frame_and_is_heard_no_more() {
        let mut world = World::new();
        world.happen(Event::Begins(Side::Client, false));
        world.happen(Event::Ends(Reason::AuthorizationRevoked));
        assert_eq!((world.told, world.meters[0].flow()), ([1, 0], Flow::ToFrame));
        world.happen(Event::Finishes(Side::Client));
        assert!(world.meters[0].between_frames());
        world.happen(Event::Closes(Side::Client));
        assert_eq!(world.told, [1, 1]);
    }

    #[test]
    fn a_flood_costs_nobody_a_close_that_is_still_due() {
        let mut world = World::new();
        world.happen(Event::Begins(Side::Upstream, true));
        world.happen(Event::Ends(Reason::FrameTooBig(Side::Client)));
        world.happen(Event::Floods(Side::Client));
        assert_eq!(world.told, [0, 1]);
        world.happen(Event::Finishes(Side::Upstream));
        assert_eq!(world.told, [1, 1]);
        world.happen(Event::Floods(Side::Client));
        assert!(
            !world.closing.was_told(Side::Client)
                || world.closing.party(Side::Client).farewell == Farewell::Over
        );
    }
}

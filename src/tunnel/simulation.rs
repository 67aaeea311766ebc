//! Whole tunnels between two peers that send, stall, ping and leave as chance has it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::LocalRuntime;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::{BacklogShare, Entrance, Report, Shared, Tunnel};
use crate::control::{Mailbox, Order};
use crate::ending::{Reason, Side};
use crate::net::{Leg, Scratch};
use crate::plan::{Beat, Heartbeat, Plan, Rate};
use crate::ws::{Control, Data, FrameHeader, OpCode, head};

/// A frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    opcode: OpCode,
    last: bool,
    payload: Vec<u8>,
}

impl Frame {
    fn encode(&self, from: Side) -> Vec<u8> {
        let mask = (from == Side::Client).then_some([0x5a, 0x00, 0xff, 0x13]);
        let header =
            FrameHeader { is_final: self.last, opcode: self.opcode, mask, ..Default::default() };
        let mut wire = Vec::new();
        header.format(self.payload.len() as u64, &mut wire).unwrap();
        let key = mask.unwrap_or_default();
        wire.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        wire
    }

    /// Takes a whole frame from the start of `wire`.
    fn decode(wire: &mut Vec<u8>) -> Option<Frame> {
        let head = head::parse(wire).expect("the edge relays no broken head")?;
        let end = head.size + usize::try_from(head.length).unwrap();
        if wire.len() < end {
            return None;
        }
        let key = head.header.mask.unwrap_or_default();
        let payload = &wire[head.size..end];
        let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        let frame = Frame {
            opcode: head.header.opcode,
            last: head.header.is_final,
            payload: payload.collect(),
        };
        wire.drain(..end);
        Some(frame)
    }

    fn is_data(&self) -> bool {
        matches!(self.opcode, OpCode::Data(_))
    }
}

fn close(code: u16) -> Frame {
    let payload = code.to_be_bytes().to_vec();
    Frame { opcode: OpCode::Control(Control::Close), last: true, payload }
}

/// How a peer behaves when all its frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It waits for the other's Close.
    Waits,
    Closes,
    /// It sends Close and FIN in one go.
    ClosesAndLeaves,
    /// FIN, and no Close.
    Leaves,
}

#[derive(Clone, Debug)]
struct Script {
    frames: Vec<Frame>,
    /// Sent together with the handshake.
    early: usize,
    /// Bytes of each write and of each read.
    pieces: Vec<usize>,
    /// Rests before each write and read, in tenths of a millisecond.
    rests: Vec<u64>,
    leave: Leave,
}

impl Script {
    fn early(&self, side: Side) -> Vec<u8> {
        self.frames[..self.early].iter().flat_map(|frame| frame.encode(side)).collect()
    }
}

/// What a peer saw and did.
#[derive(Debug, Default)]
struct Diary {
    /// Frames that went out whole, pongs and Closes aside.
    sent: RefCell<Vec<Frame>>,
    seen: RefCell<Vec<Frame>>,
    closes: Cell<u32>,
    /// Pongs that are due, and whether a Close was seen.
    pongs: RefCell<Vec<Vec<u8>>>,
    told: Cell<bool>,
    changed: Notify,
    /// Bytes of a frame that was never whole.
    cut: Cell<usize>,
}

async fn rest(script: &Script, step: usize) {
    if let Some(tenths) = pick(&script.rests, step) {
        sleep(Duration::from_micros(tenths * 100)).await;
    }
}

fn pick<T: Copy>(from: &[T], step: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from[step % from.len()]) }
}

async fn write(side: Side, script: Rc<Script>, mut half: OwnedWriteHalf, diary: Rc<Diary>) {
    let mut step = 0;
    let early = &script.frames[..script.early];
    diary.sent.borrow_mut().extend_from_slice(early);
    for frame in &script.frames[script.early..] {
        if diary.told.get() {
            break;
        }
        for pong in diary.pongs.take() {
            let pong = Frame { opcode: OpCode::Control(Control::Pong), last: true, payload: pong };
            if half.write_all(&pong.encode(side)).await.is_err() {
                return;
            }
        }
        for piece in frame.encode(side).chunks(pick(&script.pieces, step).unwrap_or(1 << 16)) {
            step += 1;
            rest(&script, step).await;
            if half.write_all(piece).await.is_err() {
                return;
            }
        }
        diary.sent.borrow_mut().push(frame.clone());
    }
    match script.leave {
        Leave::Leaves => return,
        Leave::Waits => {
            while !diary.told.get() {
                diary.changed.notified().await;
            }
        }
        Leave::Closes | Leave::ClosesAndLeaves => {}
    }
    let _ = half.write_all(&close(4000 + side as u16).encode(side)).await;
    // A server ends the connection once both have sent Close, a client when it has seen that.
    if script.leave != Leave::ClosesAndLeaves {
        while !diary.told.get() {
            diary.changed.notified().await;
        }
        if side == Side::Client {
            std::future::pending::<()>().await;
        }
    }
}

async fn read(script: Rc<Script>, mut half: OwnedReadHalf, diary: Rc<Diary>) {
    let mut held = Vec::new();
    let mut step = 0;
    let mut room = vec![0; 1 << 16];
    loop {
        step += 1;
        rest(&script, step).await;
        let size = pick(&script.pieces, step).unwrap_or(1 << 16).max(512);
        match half.read(&mut room[..size]).await {
            Ok(0) | Err(_) => break,
            Ok(read) => held.extend_from_slice(&room[..read]),
        }
        while let Some(frame) = Frame::decode(&mut held) {
            assert!(!diary.told.get(), "{frame:?} behind a Close");
            match frame.opcode {
                OpCode::Control(Control::Close) => {
                    diary.closes.set(diary.closes.get() + 1);
                    diary.told.set(true);
                    diary.changed.notify_one();
                }
                OpCode::Control(Control::Ping) => diary.pongs.borrow_mut().push(frame.payload),
                _ => diary.seen.borrow_mut().push(frame),
            }
        }
    }
    diary.cut.set(held.len());
    diary.told.set(true);
    diary.changed.notify_one();
}

#[derive(Clone, Debug)]
struct Case {
    scripts: [Script; 2],
    forward: bool,
    backlog: usize,
    /// When a drain comes, in tenths of a millisecond.
    drain: Option<u64>,
}

/// `room` is what the kernel holds for each end.
fn pair(room: usize) -> (UnixStream, UnixStream) {
    let (inner, outer) = UnixStream::pair().unwrap();
    for socket in [&inner, &outer] {
        socket2::SockRef::from(socket).set_send_buffer_size(room).unwrap();
    }
    (inner, outer)
}

/// A tunnel that runs, and what it shares; its two peers get the other ends of its sockets.
struct Stage {
    tunnel: JoinHandle<Report>,
    mailbox: Rc<Mailbox>,
    shared: Rc<Shared>,
}

impl Stage {
    fn set(plan: Plan, room: usize, early: [Vec<u8>; 2]) -> (Stage, [UnixStream; 2]) {
        let shared = Rc::new(Shared {
            scratch: Scratch::new().into(),
            backlog: BacklogShare::new(1 << 20, Arc::default()),
            tally: Arc::default(),
            drain_code: None.into(),
        });
        let mailbox = Rc::<Mailbox>::default();
        let [(client, outer_client), (upstream, outer_upstream)] = early.map(|early| {
            let (inner, outer) = pair(room);
            let (leg, early) = (Leg::Unix(inner), early.into());
            (Entrance { leg, early, deflate: false, check_utf8: false, rates: None }, outer)
        });
        let (plan, tally) = (Arc::new(plan), Arc::default());
        let (post, share) = (mailbox.clone(), shared.clone());
        let tunnel = Tunnel::new(client, upstream, plan, post, share, tally, [0.5; 2]);
        let tunnel = spawn_local(tunnel);
        (Stage { tunnel, mailbox, shared }, [outer_client, outer_upstream])
    }

    async fn report(self) -> Report {
        let report = timeout(Duration::from_secs(20), self.tunnel).await;
        let report = report.expect("the tunnel ends").expect("it does not panic");
        assert_eq!(self.shared.backlog.used(), 0, "every byte of the share is given back");
        report
    }
}

/// A plan that neither pings nor bounds pings.
fn patient() -> Plan {
    let off = Beat { interval: None, timeout: None };
    Plan {
        control_frames: Rate {
            count: 1_000_000_000,
            period: Duration::from_secs(1),
            burst: 1_000_000_000,
        },
        heartbeat: Heartbeat { client: off, upstream: off, forward: false },
        ..Plan::default()
    }
}

async fn play(case: Case) -> (Report, [Rc<Diary>; 2]) {
    let plan = Plan {
        backlog: case.backlog,
        heartbeat: Heartbeat {
            client: Beat { interval: Some(Duration::from_millis(2)), timeout: None },
            upstream: Beat { interval: Some(Duration::from_millis(3)), timeout: None },
            forward: case.forward,
        },
        // Longer than a busy machine lets any task wait.
        close: Duration::from_secs(8),
        ..patient()
    };
    let diaries: [Rc<Diary>; 2] = Default::default();
    let scripts = case.scripts.map(Rc::new);
    let early = Side::BOTH.map(|side| scripts[side as usize].early(side));
    let (stage, peers) = Stage::set(plan, 4096, early);
    let mut readers = Vec::new();
    let mut writers = Vec::new();
    for (side, peer) in Side::BOTH.into_iter().zip(peers) {
        let (reader, writer) = peer.into_split();
        let (script, diary) = (&scripts[side as usize], &diaries[side as usize]);
        writers.push(spawn_local(write(side, script.clone(), writer, diary.clone())));
        readers.push(spawn_local(read(script.clone(), reader, diary.clone())));
    }
    if let Some(tenths) = case.drain {
        let mailbox = stage.mailbox.clone();
        spawn_local(async move {
            sleep(Duration::from_micros(tenths * 100)).await;
            mailbox.post(Order::End(Reason::Drain.into()));
        });
    }
    let report = stage.report().await;
    for reader in readers {
        timeout(Duration::from_secs(5), reader).await.expect("both sockets end").unwrap();
    }
    writers.iter().for_each(JoinHandle::abort);
    (report, diaries)
}

fn judge(case: &Case, report: &Report, diaries: &[Rc<Diary>; 2]) -> Result<(), TestCaseError> {
    for to in Side::BOTH {
        let (sender, receiver) = (&diaries[to.other() as usize], &diaries[to as usize]);
        let sent = sender.sent.borrow();
        let sent: Vec<_> = sent.iter().filter(|frame| frame.is_data()).collect();
        let seen = receiver.seen.borrow();
        let seen: Vec<_> = seen.iter().filter(|frame| frame.is_data()).collect();
        // One that is gone without a Close does not get what is still on its way to it.
        let told = u32::from(report.told[to as usize]);
        let listens = case.scripts[to as usize].leave != Leave::Leaves;
        let closes = receiver.closes.get();
        prop_assert!(closes == told || (closes < told && !listens), "to {:?}: {:?}", to, report);
        prop_assert!(seen.len() <= sent.len() + 1, "to {:?}: {} of {}", to, seen.len(), sent.len());
        for (index, (seen, sent)) in seen.iter().zip(&sent).enumerate() {
            prop_assert!(seen == sent, "frame {} to {:?} came as another", index, to);
        }
        let whole = match report.ending.reason {
            Reason::Closed(_) => true,
            Reason::Lost(side) => side == to.other(),
            Reason::Drain => to == Side::Upstream,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        if whole && listens {
            prop_assert_eq!(seen.len(), sent.len(), "to {:?}: {:?}", to, report.ending.reason);
            prop_assert_eq!(receiver.cut.get(), 0);
        }
    }
    Ok(())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![4 => 0usize..130, 2 => 120usize..2000, 1 => 60_000usize..140_000];
    (size, any::<u8>())
        .prop_map(|(size, seed)| (0..size).map(|at| seed.wrapping_add((at % 251) as u8)).collect())
}

/// A whole message in one frame or several, with pings and pongs among them.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let control = prop::collection::vec(any::<u8>(), 0..126);
    let part = (payload(), prop::option::weighted(0.4, (control, any::<bool>())));
    prop::collection::vec(part, 1..4).prop_map(|parts| {
        let count = parts.len();
        let mut frames = Vec::new();
        for (index, (payload, control)) in parts.into_iter().enumerate() {
            let data = if index == 0 { Data::Binary } else { Data::Continue };
            frames.push(Frame { opcode: OpCode::Data(data), last: index + 1 == count, payload });
            if let Some((payload, ping)) = control {
                let opcode = OpCode::Control(if ping { Control::Ping } else { Control::Pong });
                frames.push(Frame { opcode, last: true, payload });
            }
        }
        frames
    })
}

fn script() -> impl Strategy<Value = Script> {
    let leave = prop_oneof![
        3 => Just(Leave::Waits), 3 => Just(Leave::Closes),
        1 => Just(Leave::ClosesAndLeaves), 1 => Just(Leave::Leaves)
    ];
    let piece = prop_oneof![1 => 1usize..20, 2 => 20usize..5000, 3 => 5000usize..65_536];
    (
        prop::collection::vec(message(), 0..12),
        0usize..4,
        prop::collection::vec(piece, 0..6),
        prop::collection::vec(prop_oneof![20 => Just(0u64), 1 => 1u64..20], 0..40),
        leave,
    )
        .prop_map(|(messages, early, pieces, rests, leave)| {
            let frames = messages.concat();
            let early = early.min(frames.len());
            let rests = if rests.iter().all(|rest| *rest == 0) { Vec::new() } else { rests };
            let pieces = pieces.into_iter().map(|piece: usize| piece.max(200)).collect();
            Script { frames, early, pieces, rests, leave }
        })
}

fn case() -> impl Strategy<Value = Case> {
    let backlog = prop_oneof![Just(1usize), Just(5000), Just(256 << 10)];
    (script(), script(), any::<bool>(), backlog, prop::option::weighted(0.3, 0u64..200)).prop_map(
        |(client, upstream, forward, backlog, drain)| {
            let idle = [&client, &upstream].iter().all(|script| script.leave == Leave::Waits);
            let drain = drain.or(idle.then_some(100));
            Case { scripts: [client, upstream], forward, backlog, drain }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_tunnel_delivers_in_order_and_ends_once(case in case()) {
        let runtime = LocalRuntime::new().unwrap();
        let (report, diaries) = runtime.block_on(play(case.clone()));
        judge(&case, &report, &diaries)?;
    }
}

#[test]
fn a_turn_that_used_up_its_budget_leaves_its_timer_set() {
    LocalRuntime::new().unwrap().block_on(async {
        let moment = Duration::from_millis(200);
        let plan = Plan { idle: Some(moment), close: moment, ..patient() };
        let ping = Frame { opcode: OpCode::Control(Control::Ping), last: true, payload: vec![] };
        let (stage, _peers) =
            Stage::set(plan, 200_000, [ping.encode(Side::Client).repeat(1000), vec![]]);
        let ended = timeout(Duration::from_secs(5), stage.report()).await;
        assert_eq!(ended.expect("its timer is set").ending.reason, Reason::IdleTimeout);
    });
}

#[test]
fn no_frame_stalls_while_its_receiver_is_waited_for() {
    LocalRuntime::new().unwrap().block_on(async {
        let stall = Duration::from_millis(60);
        let plan = Plan { backlog: 1, frame_stall: Some(stall), close: stall, ..patient() };
        let (stage, [mut client, mut upstream]) = Stage::set(plan, 4096, [vec![], vec![]]);
        let frame = Frame { opcode: OpCode::Data(Data::Binary), last: true, payload: vec![7; 990] };
        let frame = frame.encode(Side::Upstream);
        spawn_local(async move {
            // Whole frames, so that at first the pause begins between two of them.
            for _ in 0..20 {
                upstream.write_all(&frame).await.unwrap();
            }
            upstream.write_all(&frame.repeat(30)).await.unwrap();
        });
        let mut room = [0; 2000];
        while client.read(&mut room).await.unwrap() > 0 {
            sleep(stall).await;
        }
        assert_eq!(stage.report().await.ending.reason, Reason::Lost(Side::Upstream));
    });
}

#[test]
fn what_was_said_before_a_close_is_delivered_to_a_slow_reader() {
    LocalRuntime::new().unwrap().block_on(async {
        let beat = Duration::from_millis(50);
        let plan = Plan { backlog: 40_000, close: 4 * beat, ..patient() };
        let (stage, [mut client, mut upstream]) = Stage::set(plan, 4096, [vec![], vec![]]);
        let frame = Frame { opcode: OpCode::Data(Data::Binary), last: true, payload: vec![7; 996] };
        let said = frame.encode(Side::Upstream).repeat(100);
        let wire = [said, close(4000).encode(Side::Upstream)].concat();
        let length = wire.len();
        spawn_local(async move {
            upstream.write_all(&wire).await.unwrap();
            let mut room = [0; 100];
            while upstream.read(&mut room).await.is_ok_and(|read| read > 0) {}
        });
        let mut seen = 0;
        let mut room = [0; 10_000];
        while seen < length {
            let read = client.read(&mut room).await.unwrap();
            assert!(read > 0, "cut after {seen} of {length} bytes");
            seen += read;
            sleep(beat).await;
        }
        client.write_all(&close(4000).encode(Side::Client)).await.unwrap();
        assert_eq!(stage.report().await.ending.reason, Reason::Closed(Side::Upstream));
    });
}

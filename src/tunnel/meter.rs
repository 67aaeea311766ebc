//! Judges what one side sends, frame by frame, without keeping any of it.
//!
//! The meter reads heads (RFC 6455 §5.2) and lets payloads pass: of each chunk it says how many
//! bytes go on to the other side as they came, and where a control frame, a broken rule or a
//! limit stands. It is told the time and touches no socket. Whatever it cannot finish in one
//! chunk it remembers: a partial head (at most 13 bytes, which the caller puts in front of the
//! next chunk), a partial control frame (at most 125), and how much of a payload is to come. So
//! its verdict never depends on how the bytes were split.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ending::{Reason, Side};
use crate::metrics::Received;
use crate::plan::{Action, Allowance, Payer, Plan};
use crate::rate::{Bucket, SharedRates};
use crate::ws::head::{self, HEADROOM, Head, HeadFault};
use crate::ws::{CloseFault, ClosePayload, Control, ControlFrame, Data, OpCode};

/// How much longer a direction relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Relay,
    /// To the end of the message under way.
    ToMessage,
    /// To the end of the frame under way.
    ToFrame,
    /// Nothing more; what comes is read, understood and discarded.
    Stopped,
    /// Nothing more, and what comes is no longer understood.
    Deaf,
}

/// What a handshake agreed on for the frames of one side.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    pub sender: Side,
    /// permessage-deflate was negotiated: RSV1 may mark a message (RFC 7692 §6).
    pub deflate: bool,
    /// Text is to be proven UTF-8.
    pub check_utf8: bool,
}

/// What a chunk, or its first part, comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// `chunk[..relay]` goes on as it is.
    pub relay: usize,
    /// `chunk[..used]` is done with; what is not relayed was swallowed or is held.
    pub used: usize,
    pub then: Then,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing stands after the relayed bytes; scan on from `used`.
    More,
    /// A ping or a pong, which is not among the relayed bytes; and the mask it came with.
    Control(ControlFrame, Option<[u8; 4]>),
    /// A Close that says this; the frame and its mask, to send it on as it came.
    Close(ClosePayload, ControlFrame, Option<[u8; 4]>),
    /// The next message has to wait until then; nothing of it was used.
    Pause(Instant),
    /// A rule is broken. Nothing of the frame that broke it is among the relayed bytes. Where it
    /// was a limit, what stands behind `used` is still understood.
    Refuse(Reason),
}

/// What one side has sent so far: see the module.
#[derive(Debug)]
pub struct Meter {
    agreement: Agreement,
    flow: Flow,
    head: [u8; HEADROOM],
    held: u8,
    /// Payload bytes to come of the frame under way.
    left: u64,
    under_way: UnderWay,
    message: Option<Message>,
    control: Option<Box<PartialControl>>,
    utf8: Option<Box<Utf8>>,
    flood: Bucket,
    rates: Rates,
    frames: u64,
    bytes: u64,
}

/// What becomes of the payload of the frame under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    Relayed,
    Swallowed,
}

/// A message begun and not finished.
#[derive(Clone, Copy, Debug)]
struct Message {
    /// Payload bytes of its frames so far, those announced included.
    size: u64,
    text: bool,
    /// It is one too many, and goes no further.
    dropped: bool,
}

/// What the client used up of the rates of its messages and bytes.
#[derive(Debug, Default)]
struct Rates {
    messages: Bucket,
    bytes: Bucket,
    /// The same, of all connections of its subject together.
    subject: Option<Arc<SharedRates>>,
}

impl Rates {
    #[inline]
    fn take_message(&mut self, now: Instant, allowance: &Allowance) -> Result<(), Duration> {
        match self.shared(allowance) {
            Some(shared) => shared.messages.take(now, allowance.rate),
            None => self.messages.take(now, allowance.rate),
        }
    }

    /// Over the burst too.
    #[inline]
    fn owe_message(&mut self, now: Instant, allowance: &Allowance) {
        match self.shared(allowance) {
            Some(shared) => shared.messages.charge(now, allowance.rate, 1),
            None => self.messages.charge(now, allowance.rate, 1),
        }
    }

    #[inline]
    fn admit_bytes(&self, now: Instant, allowance: &Allowance) -> Result<(), Duration> {
        match self.shared(allowance) {
            Some(shared) => shared.bytes.admits(now, allowance.rate),
            None => self.bytes.admits(now, allowance.rate),
        }
    }

    #[inline]
    fn charge_bytes(&mut self, now: Instant, allowance: &Allowance, bytes: u64) {
        match self.shared(allowance) {
            Some(shared) => shared.bytes.charge(now, allowance.rate, bytes),
            None => self.bytes.charge(now, allowance.rate, bytes),
        }
    }

    #[inline]
    fn shared(&self, allowance: &Allowance) -> Option<&SharedRates> {
        self.subject.as_deref().filter(|_| allowance.per == Payer::Subject)
    }
}

/// What the limits say to the next frame.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    Pass,
    Drop,
    Pause(Instant),
}

#[derive(Debug)]
struct PartialControl {
    opcode: Control,
    mask: Option<[u8; 4]>,
    /// As it came: masked.
    payload: Vec<u8>,
    length: usize,
}

impl Meter {
    pub fn new(agreement: Agreement) -> Meter {
        Meter {
            agreement,
            flow: Flow::Relay,
            head: [0; HEADROOM],
            held: 0,
            left: 0,
            under_way: UnderWay::Relayed,
            message: None,
            control: None,
            utf8: agreement.check_utf8.then(Box::default),
            flood: Bucket::default(),
            rates: Rates::default(),
            frames: 0,
            bytes: 0,
        }
    }

    /// Rates that are others by a new plan begin anew. Those of a subject are not this one's.
    pub fn renew_rates(&mut self, before: &Plan, plan: &Plan) {
        let [messages, bytes] = plan.quotas_differ(before);
        if messages {
            self.rates.messages = Bucket::default();
        }
        if bytes {
            self.rates.bytes = Bucket::default();
        }
    }

    /// Has the rates of a plan that are per subject taken from these.
    pub fn sharing(mut self, rates: Option<Arc<SharedRates>>) -> Meter {
        self.rates.subject = rates;
        self
    }

    /// Frames of any kind received so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Payload bytes of data frames received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Relays less from here on; never more than before.
    pub fn restrict(&mut self, flow: Flow) {
        if flow as u8 > self.flow as u8 {
            self.flow = flow;
        }
    }

    /// Whether the other side has whole frames of this one: nothing is owed of a frame begun.
    #[inline]
    pub fn between_frames(&self) -> bool {
        self.left == 0 || self.under_way == UnderWay::Swallowed
    }

    /// Whether the other side has whole messages of this one, to which none is added that began
    /// behind them.
    pub fn between_messages(&self) -> bool {
        match self.under_way {
            UnderWay::Relayed => self.message.is_none() && self.left == 0,
            UnderWay::Swallowed => true,
        }
    }

    /// Whether this side has begun a frame of any kind and not finished it.
    #[inline]
    pub fn inside_frame(&self) -> bool {
        self.left > 0 || self.held > 0 || self.control.is_some()
    }

    /// Moves the head begun in an earlier chunk to the end of `room`, in front of the next
    /// chunk; returns how many bytes that is.
    #[inline]
    pub fn restore_head(&mut self, room: &mut [u8]) -> usize {
        let held = usize::from(std::mem::take(&mut self.held));
        let start = room.len() - held;
        room[start..].copy_from_slice(&self.head[..held]);
        held
    }

    /// Counts a ping or pong against the plan; `false` is one too many.
    pub fn admits_control(&mut self, now: Instant, plan: &Plan) -> bool {
        self.agreement.sender == Side::Upstream || self.flood.take(now, plan.control_frames).is_ok()
    }

    /// Judges the bytes of `chunk` up to the next thing the caller must act on.
    #[inline]
    pub fn scan(&mut self, now: Instant, chunk: &[u8], plan: &Plan, tally: &Received) -> Scan {
        if self.flow == Flow::Deaf {
            return Scan { relay: 0, used: chunk.len(), then: Then::More };
        }
        let mut cursor = Cursor { chunk, at: 0, relay: 0, frame: None };
        let then = loop {
            if self.control.is_some() {
                match self.gather_control(&mut cursor) {
                    Some(then) => break then,
                    None => break Then::More,
                }
            }
            if self.left > 0 {
                match self.pass_payload(now, &mut cursor, plan, tally) {
                    Ok(()) => {}
                    Err(reason) => break Then::Refuse(reason),
                }
            }
            if cursor.rest().is_empty() || cursor.has_swallowed() {
                break Then::More;
            }
            match self.begin_frame(now, &mut cursor, plan, tally) {
                Ok(Begun::Whole) => {}
                Ok(Begun::Held) => break Then::More,
                Ok(Begun::Paused(until)) => break Then::Pause(until),
                Err(reason) => break Then::Refuse(reason),
            }
        };
        if let Then::Refuse(reason) = then
            && !is_of_limit(reason)
        {
            self.flow = Flow::Deaf;
            return Scan { relay: cursor.relay, used: chunk.len(), then };
        }
        Scan { relay: cursor.relay, used: cursor.at, then }
    }

    /// Reads a head and judges it, or holds the part of it that is there.
    #[inline]
    fn begin_frame(
        &mut self,
        now: Instant,
        cursor: &mut Cursor<'_>,
        plan: &Plan,
        tally: &Received,
    ) -> Result<Begun, Reason> {
        let sender = self.agreement.sender;
        let rest = cursor.rest();
        let refused = |fault| {
            if fault == HeadFault::ReservedOpcode {
                tally.others().add(1);
            }
            Reason::ProtocolError(sender)
        };
        let Some(head) = head::parse(rest).map_err(refused)? else {
            self.head[..rest.len()].copy_from_slice(rest);
            self.held = rest.len() as u8;
            cursor.at = cursor.chunk.len();
            return Ok(Begun::Held);
        };
        self.judge_shape(&head)?;
        match head.header.opcode {
            OpCode::Control(opcode) => {
                self.begin_control(opcode, &head)?;
                cursor.at += head.size;
            }
            OpCode::Data(opcode) => {
                let before = self.before(opcode)?;
                let size = before.size.saturating_add(head.length);
                let mut message = Message { size, ..before };
                let judged = self.judge_limits(now, &head, size, plan);
                match judged {
                    Ok(Allowed::Pass) => {}
                    Ok(Allowed::Pause(until)) => return Ok(Begun::Paused(until)),
                    Ok(Allowed::Drop) => {
                        message.dropped = true;
                        tally.dropped.add(1);
                    }
                    Err(_) => self.restrict(Flow::Stopped),
                }
                self.begin_data(message, &head);
                cursor.begin_data(head.size, self.under_way);
                judged?;
                if head.header.is_final {
                    tally.messages.add(1);
                    self.end_if_empty()?;
                }
            }
        }
        self.frames += 1;
        tally.frames(head.header.opcode).add(1);
        Ok(Begun::Whole)
    }

    /// Mask and reserved bits (RFC 6455 §5.1, §5.2; RFC 7692 §6).
    #[inline]
    fn judge_shape(&self, head: &Head) -> Result<(), Reason> {
        let header = &head.header;
        let starts = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        let masked_rightly = header.mask.is_some() == (self.agreement.sender == Side::Client);
        let rsv1_rightly = !header.rsv1 || (self.agreement.deflate && starts);
        if masked_rightly && rsv1_rightly && !header.rsv2 && !header.rsv3 {
            Ok(())
        } else {
            Err(Reason::ProtocolError(self.agreement.sender))
        }
    }

    /// Control frames are short and whole (RFC 6455 §5.5).
    fn begin_control(&mut self, opcode: Control, head: &Head) -> Result<(), Reason> {
        if !head.header.is_final || head.length > 125 {
            return Err(Reason::ProtocolError(self.agreement.sender));
        }
        let length = head.length as usize;
        self.control = Some(Box::new(PartialControl {
            opcode,
            mask: head.header.mask,
            payload: Vec::with_capacity(length),
            length,
        }));
        Ok(())
    }

    /// The message that a data frame belongs to, before it (RFC 6455 §5.4).
    #[inline]
    fn before(&self, opcode: Data) -> Result<Message, Reason> {
        let begun = |text| Message { size: 0, text, dropped: false };
        match (opcode, self.message) {
            (Data::Continue, Some(message)) => Ok(message),
            (Data::Text, None) => Ok(begun(true)),
            (Data::Binary, None) => Ok(begun(false)),
            _ => Err(Reason::ProtocolError(self.agreement.sender)),
        }
    }

    /// Asks sizes and rates of what would be relayed, before any of it is. A frame that is over
    /// a limit is swallowed and the last of its direction; what follows is understood, so that
    /// its sender's Close is heard.
    #[inline]
    fn judge_limits(
        &mut self,
        now: Instant,
        head: &Head,
        message: u64,
        plan: &Plan,
    ) -> Result<Allowed, Reason> {
        let sender = self.agreement.sender;
        let sizes = plan.sizes(sender);
        if !self.is_relaying() {
            return Ok(Allowed::Pass);
        }
        if head.length > sizes.max_frame {
            return Err(Reason::FrameTooBig(sender));
        }
        if message > sizes.max_message {
            return Err(Reason::MessageTooBig(sender));
        }
        self.judge_rates(now, head, plan)
    }

    #[inline]
    fn is_relaying(&self) -> bool {
        matches!(self.flow, Flow::Relay | Flow::ToMessage)
    }

    /// Rates judge what the client sends and the upstream gets.
    #[inline]
    fn is_metered(&self) -> bool {
        self.agreement.sender == Side::Client && self.is_relaying()
    }

    /// A message costs one at its first frame, and a fragment under 128 bytes as much, so that
    /// splitting gains nothing. Bytes were charged as they were read; what they owe is judged here.
    #[inline]
    fn judge_rates(&mut self, now: Instant, head: &Head, plan: &Plan) -> Result<Allowed, Reason> {
        if (plan.messages.is_none() && plan.bytes.is_none()) || !self.is_metered() {
            return Ok(Allowed::Pass);
        }
        if self.message.is_some_and(|message| message.dropped) {
            return Ok(Allowed::Pass);
        }
        if let Some(bytes) = &plan.bytes
            && let Err(wait) = self.rates.admit_bytes(now, bytes)
        {
            return self.over(bytes.action, now, wait);
        }
        let starts = self.message.is_none();
        if let Some(messages) = &plan.messages
            && (starts || head.length < SMALL)
        {
            match self.rates.take_message(now, messages) {
                // Of a message that passes no fragment can be left out: it is owed.
                Err(_) if messages.action == Action::Drop && !starts => {
                    self.rates.owe_message(now, messages);
                }
                Err(wait) => return self.over(messages.action, now, wait),
                Ok(()) => {}
            }
        }
        Ok(Allowed::Pass)
    }

    /// What becomes of a frame over its rate. Of a compressed stream no message can be missing, and
    /// a live plan may yet say so.
    fn over(&self, action: Action, now: Instant, wait: Duration) -> Result<Allowed, Reason> {
        match action {
            Action::Drop if !self.agreement.deflate => Ok(Allowed::Drop),
            Action::Close | Action::Drop => Err(Reason::RateLimited),
            Action::Throttle => Ok(Allowed::Pause(now + wait)),
        }
    }

    #[inline]
    fn begin_data(&mut self, message: Message, head: &Head) {
        self.under_way = match self.flow {
            _ if message.dropped => UnderWay::Swallowed,
            Flow::Relay => UnderWay::Relayed,
            Flow::ToMessage if self.message.is_some() => self.under_way,
            _ => UnderWay::Swallowed,
        };
        if let Some(utf8) = &mut self.utf8 {
            utf8.begin_frame(message.text, head.header.is_final, head.header.mask);
        }
        self.message = (!head.header.is_final).then_some(message);
        self.left = head.length;
    }

    /// A last frame without payload ends its text here and now.
    #[inline]
    fn end_if_empty(&mut self) -> Result<(), Reason> {
        if let Some(utf8) = &mut self.utf8
            && self.left == 0
            && !utf8.accepts(&[], true)
        {
            return Err(Reason::NotUtf8(self.agreement.sender));
        }
        Ok(())
    }

    /// Lets as much of the payload under way pass, or be swallowed, as the chunk has.
    #[inline]
    fn pass_payload(
        &mut self,
        now: Instant,
        cursor: &mut Cursor<'_>,
        plan: &Plan,
        tally: &Received,
    ) -> Result<(), Reason> {
        let rest = cursor.rest();
        let here = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        let done = here as u64 == self.left;
        if let Some(utf8) = &mut self.utf8
            && !utf8.accepts(&rest[..here], done)
        {
            if cursor.take_back_frame() {
                self.left = 0;
            }
            return Err(Reason::NotUtf8(self.agreement.sender));
        }
        self.left -= here as u64;
        self.bytes += here as u64;
        tally.bytes.add(here as u64);
        if let Some(bytes) = &plan.bytes
            && self.is_metered()
        {
            self.rates.charge_bytes(now, bytes, here as u64);
        }
        cursor.pass(here, self.under_way);
        Ok(())
    }

    /// Collects a control frame; `None` while it is not whole.
    fn gather_control(&mut self, cursor: &mut Cursor<'_>) -> Option<Then> {
        let control = self.control.as_mut()?;
        let rest = cursor.rest();
        let here = rest.len().min(control.length - control.payload.len());
        control.payload.extend_from_slice(&rest[..here]);
        cursor.at += here;
        if control.payload.len() < control.length {
            return None;
        }
        let PartialControl { opcode, mask, payload, .. } = *self.control.take()?;
        let frame = ControlFrame::received(opcode, payload, mask);
        if opcode != Control::Close {
            return Some(Then::Control(frame, mask));
        }
        let sender = self.agreement.sender;
        Some(match ClosePayload::parse(frame.payload()) {
            Ok(close) => Then::Close(close, frame, mask),
            Err(CloseFault::Reason) => Then::Refuse(Reason::NotUtf8(sender)),
            Err(CloseFault::OneByte | CloseFault::Code) => {
                Then::Refuse(Reason::ProtocolError(sender))
            }
        })
    }
}

/// Whether who breaks this limit is still understood.
fn is_of_limit(reason: Reason) -> bool {
    matches!(reason, Reason::FrameTooBig(_) | Reason::MessageTooBig(_) | Reason::RateLimited)
}

/// Fragments under this many bytes cost what a message does.
const SMALL: u64 = 128;

enum Begun {
    /// The head is whole and judged.
    Whole,
    /// The chunk ends inside a head.
    Held,
    /// The head is whole, and its frame has to wait.
    Paused(Instant),
}

/// Where a scan stands in its chunk. Relayed bytes are always a prefix: a scan ends behind what
/// is not relayed.
struct Cursor<'c> {
    chunk: &'c [u8],
    at: usize,
    relay: usize,
    /// Where the data frame under way began, if it was in this chunk.
    frame: Option<usize>,
}

impl<'c> Cursor<'c> {
    #[inline]
    fn rest(&self) -> &'c [u8] {
        &self.chunk[self.at..]
    }

    /// Whether bytes were passed over, so that nothing after them can be relayed in this scan.
    #[inline]
    fn has_swallowed(&self) -> bool {
        self.relay < self.at
    }

    #[inline]
    fn begin_data(&mut self, head: usize, under_way: UnderWay) {
        self.frame = Some(self.at);
        self.pass(head, under_way);
    }

    #[inline]
    fn pass(&mut self, bytes: usize, under_way: UnderWay) {
        debug_assert!(under_way == UnderWay::Swallowed || self.relay == self.at);
        self.at += bytes;
        if under_way == UnderWay::Relayed {
            self.relay = self.at;
        }
    }

    /// Takes back what this scan would have relayed of the data frame under way; `true` where
    /// that is the whole frame.
    fn take_back_frame(&mut self) -> bool {
        self.relay = self.relay.min(self.frame.unwrap_or(self.relay));
        self.frame.is_some()
    }
}

/// Proves that the payloads of text messages are UTF-8 (RFC 6455 §8.1), across frames and chunks.
#[derive(Debug, Default)]
struct Utf8 {
    /// The start of a character whose end is still to come.
    partial: [u8; 4],
    held: usize,
    text: bool,
    last: bool,
    mask: [u8; 4],
    /// Payload bytes of this frame so far, modulo 4.
    phase: usize,
}

impl Utf8 {
    /// Unmasked bytes looked at in one go.
    const BLOCK: usize = 1024;

    fn begin_frame(&mut self, text: bool, last: bool, mask: Option<[u8; 4]>) {
        self.text = text;
        self.last = last;
        self.mask = mask.unwrap_or_default();
        self.phase = 0;
    }

    /// Takes the next payload bytes; `frame_done` is whether they end their frame.
    fn accepts(&mut self, payload: &[u8], frame_done: bool) -> bool {
        if !self.text {
            return true;
        }
        payload.chunks(Self::BLOCK).all(|block| self.accepts_block(block))
            && (!(frame_done && self.last) || self.held == 0)
    }

    fn accepts_block(&mut self, block: &[u8]) -> bool {
        let mut plain = [0; 4 + Self::BLOCK];
        plain[..self.held].copy_from_slice(&self.partial[..self.held]);
        let end = self.held + block.len();
        for (index, (plain, byte)) in plain[self.held..end].iter_mut().zip(block).enumerate() {
            *plain = byte ^ self.mask[(self.phase + index) % 4];
        }
        self.phase = (self.phase + block.len()) % 4;
        match std::str::from_utf8(&plain[..end]) {
            Ok(_) => self.held = 0,
            Err(error) if error.error_len().is_some() => return false,
            Err(error) => {
                let tail = &plain[error.valid_up_to()..end];
                self.partial[..tail.len()].copy_from_slice(tail);
                self.held = tail.len();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Allowance, Sizes};
    use crate::rate::Rate;
    use crate::ws::{CloseCode, FrameHeader};

    /// What came of a stream of bytes.
    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        relayed: Vec<u8>,
        events: Vec<Then>,
        between_frames: bool,
    }

    /// Feeds `wire` to a meter in pieces of the given sizes, as the pump does.
    fn drive(mut meter: Meter, plan: &Plan, wire: &[u8], splits: &[usize]) -> Outcome {
        let tally = Received::default();
        let mut outcome = Outcome::default();
        let mut rest = wire;
        let mut splits = splits.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(splits.next().unwrap_or(1).min(rest.len()));
            rest = later;
            let mut buffer = vec![0; HEADROOM];
            let held = meter.restore_head(&mut buffer);
            buffer.drain(..HEADROOM - held);
            buffer.extend_from_slice(piece);
            let mut chunk = &buffer[..];
            while !chunk.is_empty() {
                let scan = meter.scan(Instant::now(), chunk, plan, &tally);
                outcome.relayed.extend_from_slice(&chunk[..scan.relay]);
                chunk = &chunk[scan.used..];
                if scan.then != Then::More {
                    outcome.events.push(scan.then);
                }
            }
        }
        outcome.between_frames = meter.between_frames();
        outcome
    }

    fn meter(sender: Side) -> Meter {
        Meter::new(Agreement { sender, deflate: false, check_utf8: false })
    }

    fn checking() -> Meter {
        Meter::new(Agreement { sender: Side::Client, deflate: false, check_utf8: true })
    }

    fn frame(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let header =
            FrameHeader { is_final: last, opcode, mask: Some(mask), ..FrameHeader::default() };
        let mut wire = Vec::new();
        header.format(payload.len() as u64, &mut wire).unwrap();
        wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        wire
    }

    const TEXT: OpCode = OpCode::Data(Data::Text);
    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const MORE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);
    const CLOSE: OpCode = OpCode::Control(Control::Close);

    fn whole(wire: &[u8]) -> Outcome {
        drive(meter(Side::Client), &Plan::default(), wire, &[])
    }

    fn refused(wire: &[u8]) -> (Vec<u8>, Reason) {
        let mut outcome = whole(wire);
        match outcome.events.pop() {
            Some(Then::Refuse(reason)) => (outcome.relayed, reason),
            other => panic!("{wire:x?} was not refused but {other:?}"),
        }
    }

    #[test]
    fn each_broken_rule_is_refused_and_nothing_of_its_frame_passes() {
        let good = frame(TEXT, true, b"good");
        let with_first = |first: u8, bytes: &[u8]| [&[first], &bytes[1..]].concat();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("no mask", vec![0x82, 1, 0]),
            ("rsv1", with_first(0xc2, &frame(BINARY, true, b"x"))),
            ("rsv2", with_first(0xa2, &frame(BINARY, true, b"x"))),
            ("rsv3", with_first(0x92, &frame(BINARY, true, b"x"))),
            ("opcode", with_first(0x83, &frame(BINARY, true, b"x"))),
            ("long form", vec![0x82, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
            ("top bit", vec![0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
            ("long ping", frame(PING, true, &[0; 126])),
            ("ping in parts", frame(PING, false, b"x")),
            ("continuation of nothing", frame(MORE, true, b"x")),
            ("close of one byte", frame(CLOSE, true, &[3])),
            ("close 1005", frame(CLOSE, true, &1005u16.to_be_bytes())),
        ];
        for (rule, bytes) in cases {
            let (relayed, reason) = refused(&[good.clone(), bytes].concat());
            assert_eq!(reason, Reason::ProtocolError(Side::Client), "{rule}");
            assert_eq!(relayed, good, "{rule}");
        }
        let begun = [frame(TEXT, false, b"a"), frame(TEXT, true, b"b")].concat();
        assert_eq!(
            refused(&begun),
            (frame(TEXT, false, b"a"), Reason::ProtocolError(Side::Client))
        );
    }

    #[test]
    fn an_upstream_must_not_mask() {
        let outcome =
            drive(meter(Side::Upstream), &Plan::default(), &frame(BINARY, true, b"x"), &[]);
        assert_eq!(outcome.events, [Then::Refuse(Reason::ProtocolError(Side::Upstream))]);
        assert_eq!(outcome.relayed, b"");
    }

    #[test]
    fn rsv1_marks_the_first_frame_of_a_message_where_deflate_was_agreed() {
        let agreement = Agreement { sender: Side::Client, deflate: true, check_utf8: false };
        let plan = Plan::default();
        let mut good = [frame(BINARY, false, b"x"), frame(MORE, true, b"y")].concat();
        good[0] |= 0x40;
        assert_eq!(drive(Meter::new(agreement), &plan, &good, &[]).relayed, good);
        let mut bad = good.clone();
        bad[7] |= 0x40;
        let outcome = drive(Meter::new(agreement), &plan, &bad, &[]);
        assert_eq!(outcome.events, [Then::Refuse(Reason::ProtocolError(Side::Client))]);
    }

    #[test]
    fn sizes_are_judged_before_any_of_the_frame_passes() {
        let plan = Plan { client: Sizes { max_frame: 4, max_message: 6 }, ..Plan::default() };
        let fits = [frame(BINARY, false, b"1234"), frame(MORE, true, b"56")].concat();
        assert_eq!(drive(meter(Side::Client), &plan, &fits, &[]).relayed, fits);

        let long_frame = drive(meter(Side::Client), &plan, &frame(BINARY, true, b"12345"), &[]);
        assert_eq!(long_frame.events, [Then::Refuse(Reason::FrameTooBig(Side::Client))]);
        assert_eq!(long_frame.relayed, b"");

        let first = frame(BINARY, false, b"1234");
        let wire = [first.clone(), frame(MORE, false, b"567")].concat();
        let long_message = drive(meter(Side::Client), &plan, &wire, &[]);
        assert_eq!(long_message.events, [Then::Refuse(Reason::MessageTooBig(Side::Client))]);
        assert_eq!(long_message.relayed, first);
    }

    #[test]
    fn a_close_is_read_and_unmasked() {
        let close = ControlFrame::close(CloseCode::Normal, "bye");
        let mut wire = Vec::new();
        close.encode(Some([9, 9, 9, 9]), &mut wire);
        let said = ClosePayload { code: Some(1000), reason: "bye".into() };
        assert_eq!(whole(&wire).events, [Then::Close(said, close, Some([9, 9, 9, 9]))]);
    }

    #[test]
    fn text_is_proven_utf8_across_frames_and_a_bad_frame_does_not_pass() {
        let plan = Plan::default();
        let split = [frame(TEXT, false, &[0xc3]), frame(MORE, true, &[0xbc, b'x'])].concat();
        assert_eq!(drive(checking(), &plan, &split, &[]).relayed, split);

        let cut_short = [frame(TEXT, false, b"a"), frame(MORE, true, &[0xc3])].concat();
        let outcome = drive(checking(), &plan, &cut_short, &[]);
        assert_eq!(outcome.events, [Then::Refuse(Reason::NotUtf8(Side::Client))]);
        assert_eq!(outcome.relayed, frame(TEXT, false, b"a"));
        assert!(outcome.between_frames);

        let never_ended = [frame(TEXT, false, &[0xc3]), frame(MORE, true, b"")].concat();
        let outcome = drive(checking(), &plan, &never_ended, &[]);
        assert_eq!(outcome.events, [Then::Refuse(Reason::NotUtf8(Side::Client))]);

        let binary = frame(BINARY, true, &[0xff]);
        assert_eq!(drive(checking(), &plan, &binary, &[]).relayed, binary);
    }

    #[test]
    fn a_restricted_direction_finishes_what_it_promised_and_no_more() {
        let plan = Plan::default();
        let tally = Received::default();
        let first = frame(TEXT, false, b"first");
        let second = frame(MORE, true, b"second");
        let third = frame(TEXT, true, b"third");
        let wire = [&first[3..], &second, &third].concat();
        for (flow, relayed) in
            [(Flow::ToMessage, first.len() - 3 + second.len()), (Flow::ToFrame, first.len() - 3)]
        {
            let mut meter = meter(Side::Client);
            meter.scan(Instant::now(), &first[..3], &plan, &tally);
            let mut chunk = vec![0; HEADROOM];
            let held = meter.restore_head(&mut chunk);
            chunk.drain(..HEADROOM - held);
            chunk.extend_from_slice(&first[3..8]);
            meter.scan(Instant::now(), &chunk, &plan, &tally);
            meter.restrict(flow);
            let (mut rest, mut passed) = (&wire[5..], 0);
            while !rest.is_empty() {
                let scan = meter.scan(Instant::now(), rest, &plan, &tally);
                passed += scan.relay;
                rest = &rest[scan.used..];
            }
            assert_eq!(passed, relayed - 5, "{flow:?}");
            assert!(meter.between_frames());
        }
    }

    #[test]
    fn behind_the_last_message_not_even_the_end_of_another_passes() {
        let (plan, tally) = (Plan::default(), Received::default());
        let last = frame(TEXT, true, b"last");
        let next =
            [frame(TEXT, false, b"one"), frame(MORE, false, b"two"), frame(MORE, true, b"3")];
        for cut in 0..=next.concat().len() {
            let mut meter = meter(Side::Client);
            meter.scan(Instant::now(), &last[..8], &plan, &tally);
            meter.restrict(Flow::ToMessage);
            assert!(!meter.between_messages());
            let wire = [&last[8..], &next.concat()].concat();
            let (first, second) = wire.split_at(last.len() - 8 + cut);
            assert_eq!(
                meter.scan(Instant::now(), first, &plan, &tally).relay,
                last.len() - 8,
                "{cut}"
            );
            assert!(meter.between_messages(), "{cut}");
            let mut chunk = vec![0; HEADROOM];
            let held = meter.restore_head(&mut chunk);
            chunk.drain(..HEADROOM - held);
            chunk.extend_from_slice(second);
            assert_eq!(meter.scan(Instant::now(), &chunk, &plan, &tally).relay, 0, "{cut}");
            assert!(meter.between_messages(), "{cut}");
        }
    }

    fn limited(action: Action, burst: u64) -> Plan {
        let rate = Rate { count: 1, period: Duration::from_secs(1), burst };
        Plan {
            messages: Some(Allowance { rate, per: Payer::Connection, action }),
            ..Plan::default()
        }
    }

    #[test]
    fn the_first_message_over_its_rate_is_refused_and_control_frames_cost_nothing() {
        let good = [frame(TEXT, true, b"one"), frame(PING, true, b""), frame(TEXT, true, b"two")];
        let wire = [good.concat(), frame(TEXT, true, b"three")].concat();
        let outcome = drive(meter(Side::Client), &limited(Action::Close, 2), &wire, &[]);
        assert_eq!(outcome.relayed, [&good[0][..], &good[2]].concat());
        assert_eq!(outcome.events.last(), Some(&Then::Refuse(Reason::RateLimited)));
    }

    #[test]
    fn a_small_fragment_costs_what_a_message_does() {
        let small = [frame(TEXT, false, b"a"), frame(MORE, false, b"b"), frame(MORE, true, b"c")];
        let outcome = drive(meter(Side::Client), &limited(Action::Close, 2), &small.concat(), &[]);
        assert_eq!(outcome.events, [Then::Refuse(Reason::RateLimited)]);
        let large =
            [frame(TEXT, false, b"a"), frame(MORE, false, &[0; 128]), frame(MORE, true, &[0; 128])];
        let outcome = drive(meter(Side::Client), &limited(Action::Close, 2), &large.concat(), &[]);
        assert_eq!(outcome.relayed, large.concat());
    }

    #[test]
    fn a_message_too_many_is_dropped_whole_and_the_others_pass_whole() {
        let (plan, tally) = (limited(Action::Drop, 1), Received::default());
        let start = Instant::now();
        let mut meter = meter(Side::Client);
        let first = frame(TEXT, true, b"first");
        let dropped = [frame(TEXT, false, b"sec"), frame(MORE, true, &[0; 300])].concat();
        let wire = [first.clone(), dropped].concat();
        let scan = meter.scan(start, &wire, &plan, &tally);
        assert_eq!(scan.relay, first.len());
        let mut rest = &wire[scan.used..];
        while !rest.is_empty() {
            let scan = meter.scan(start, rest, &plan, &tally);
            assert_eq!(scan.relay, 0);
            rest = &rest[scan.used..];
        }
        assert!(meter.between_messages());
        let third = frame(TEXT, true, b"third");
        let scan = meter.scan(start + Duration::from_secs(1), &third, &plan, &tally);
        assert_eq!((scan.relay, tally.dropped.value()), (third.len(), 1));
    }

    #[test]
    fn a_throttled_message_waits_for_its_time_and_nothing_of_it_is_used() {
        let (plan, tally) = (limited(Action::Throttle, 1), Received::default());
        let start = Instant::now();
        let mut meter = meter(Side::Client);
        let one = frame(TEXT, true, b"one");
        let wire = one.repeat(2);
        let scan = meter.scan(start, &wire, &plan, &tally);
        let until = start + Duration::from_secs(1);
        assert_eq!(scan, Scan { relay: one.len(), used: one.len(), then: Then::Pause(until) });
        let scan = meter.scan(until, &wire[one.len()..], &plan, &tally);
        assert_eq!(scan, Scan { relay: one.len(), used: one.len(), then: Then::More });
    }

    #[test]
    fn bytes_over_the_burst_are_owed_by_the_next_message() {
        let rate = Rate { count: 100, period: Duration::from_secs(1), burst: 200 };
        let action = Action::Throttle;
        let plan = Plan {
            bytes: Some(Allowance { rate, per: Payer::Connection, action }),
            ..Plan::default()
        };
        let (start, tally, mut meter) = (Instant::now(), Received::default(), meter(Side::Client));
        let large = frame(BINARY, true, &[0; 500]);
        assert_eq!(meter.scan(start, &large, &plan, &tally).relay, large.len());
        let then = meter.scan(start, &frame(BINARY, true, b"x"), &plan, &tally).then;
        assert_eq!(then, Then::Pause(start + Duration::from_millis(3010)));
    }

    #[test]
    fn the_connections_of_a_subject_share_its_rates_and_others_do_not() {
        let start = Instant::now();
        let rate = Rate { count: 1, period: Duration::from_secs(1), burst: 2 };
        let per_subject = |action| Some(Allowance { rate, per: Payer::Subject, action });
        let messages = Plan { messages: per_subject(Action::Close), ..Plan::default() };
        let bytes = Plan { bytes: per_subject(Action::Throttle), ..Plan::default() };
        let tally = Received::default();
        let shared = Some(Arc::new(SharedRates::new(start)));
        let of_subject = || meter(Side::Client).sharing(shared.clone());
        let (mut one, mut other, mut stranger) = (of_subject(), of_subject(), meter(Side::Client));
        let text = frame(TEXT, true, b"hi");
        let then = |meter: &mut Meter, plan| meter.scan(start, &text, plan, &tally).then;
        assert_eq!(then(&mut one, &messages), Then::More);
        assert_eq!(then(&mut other, &messages), Then::More);
        assert_eq!(then(&mut stranger, &messages), Then::More);
        assert_eq!(then(&mut one, &bytes), Then::More);
        let wait = Then::Pause(start + Duration::from_secs(1));
        assert_eq!(then(&mut other, &bytes), wait);
        assert_eq!(then(&mut stranger, &bytes), Then::More);
        assert_eq!(then(&mut other, &messages), Then::Refuse(Reason::RateLimited));
        assert_eq!(then(&mut stranger, &messages), Then::More);
    }

    fn data_or_control() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop::collection::vec(any::<u8>(), 0..300);
        let message = prop::collection::vec(payload, 1..4).prop_map(|parts| {
            let last = parts.len() - 1;
            let frames = parts.iter().enumerate().map(|(index, part)| {
                frame(if index == 0 { BINARY } else { MORE }, index == last, part)
            });
            frames.collect::<Vec<_>>().concat()
        });
        let ping = prop::collection::vec(any::<u8>(), 0..125)
            .prop_map(|payload| frame(PING, true, &payload));
        prop_oneof![3 => message, 1 => ping]
    }

    proptest! {
        #[test]
        fn valid_frames_come_out_the_same_however_they_are_split(
            frames in prop::collection::vec(data_or_control(), 1..12),
            splits in prop::collection::vec(1usize..40, 0..400),
        ) {
            let data: Vec<u8> =
                frames.iter().filter(|frame| frame[0] != 0x89).flatten().copied().collect();
            let wire = frames.concat();
            let split = drive(meter(Side::Client), &Plan::default(), &wire, &splits);
            prop_assert_eq!(&split.relayed, &data);
            prop_assert_eq!(split.events.len(), frames.iter().filter(|frame| frame[0] == 0x89).count());
            prop_assert!(split.between_frames);
        }

        #[test]
        fn the_verdict_on_any_bytes_does_not_depend_on_the_split(
            start in prop::collection::vec(data_or_control(), 0..3),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            splits in prop::collection::vec(1usize..9, 0..300),
        ) {
            let wire = [start.concat(), noise].concat();
            let plan = Plan { client: Sizes { max_frame: 600, max_message: 700 }, ..Plan::default() };
            let once = drive(meter(Side::Client), &plan, &wire, &[]);
            let split = drive(meter(Side::Client), &plan, &wire, &splits);
            prop_assert_eq!(once, split);
        }

        #[test]
        fn the_verdict_on_a_text_does_not_depend_on_the_split(
            text in prop::collection::vec(any::<u8>(), 0..8).prop_map(|tail| ["grüße, 世界".as_bytes(), &tail].concat()),
            splits in prop::collection::vec(1usize..5, 0..60),
        ) {
            let valid = std::str::from_utf8(&text).is_ok();
            let outcome = drive(checking(), &Plan::default(), &frame(TEXT, true, &text), &splits);
            prop_assert_eq!(outcome.events.is_empty(), valid);
        }
    }
}

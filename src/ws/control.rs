//! Control frames (RFC 6455 §5.5): at most 125 bytes, never fragmented.

use super::{CloseCode, Control, FrameHeader, OpCode, may_be_sent};

/// The longest payload of a control frame.
const MAX_PAYLOAD: usize = 125;

/// A whole control frame, its payload unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFrame {
    pub opcode: Control,
    payload: Vec<u8>,
}

impl ControlFrame {
    /// `payload` past 125 bytes is cut off.
    pub fn new(opcode: Control, mut payload: Vec<u8>) -> ControlFrame {
        payload.truncate(MAX_PAYLOAD);
        ControlFrame { opcode, payload }
    }

    /// A frame as it was read: its payload still masked by `mask`.
    pub fn received(opcode: Control, mut payload: Vec<u8>, mask: Option<[u8; 4]>) -> ControlFrame {
        if let Some(mask) = mask {
            apply_mask(&mut payload, mask);
        }
        ControlFrame::new(opcode, payload)
    }

    /// A Close with a code and a reason; the reason is cut at a character if it is too long.
    pub fn close(code: CloseCode, reason: &str) -> ControlFrame {
        let end = reason.floor_char_boundary(MAX_PAYLOAD - 2);
        let mut payload = u16::from(code).to_be_bytes().to_vec();
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        ControlFrame { opcode: Control::Close, payload }
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Appends the frame as it goes on the wire. `mask` is present towards an upstream, absent
    /// towards a client (RFC 6455 §5.1).
    pub fn encode(&self, mask: Option<[u8; 4]>, wire: &mut Vec<u8>) {
        let header =
            FrameHeader { opcode: OpCode::Control(self.opcode), mask, ..FrameHeader::default() };
        header.format(self.payload.len() as u64, wire).expect("a Vec takes every byte");
        let start = wire.len();
        wire.extend_from_slice(&self.payload);
        if let Some(mask) = mask {
            apply_mask(&mut wire[start..], mask);
        }
    }
}

/// Masks or unmasks in place (RFC 6455 §5.3).
fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// What a peer's Close says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosePayload {
    /// `None`: the frame was empty.
    pub code: Option<u16>,
    pub reason: String,
}

/// Why a Close frame is not one (RFC 6455 §5.5.1, §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseFault {
    #[error("Close with a payload of one byte")]
    OneByte,
    #[error("close code that may not be sent")]
    Code,
    #[error("close reason that is not UTF-8")]
    Reason,
}

impl ClosePayload {
    /// Reads the unmasked payload of a Close frame.
    pub fn parse(payload: &[u8]) -> Result<ClosePayload, CloseFault> {
        let (code, reason) = match payload {
            [] => return Ok(ClosePayload { code: None, reason: String::new() }),
            [_] => return Err(CloseFault::OneByte),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        if !may_be_sent(code) {
            return Err(CloseFault::Code);
        }
        let reason = std::str::from_utf8(reason).map_err(|_| CloseFault::Reason)?;
        Ok(ClosePayload { code: Some(code), reason: reason.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_too_long_is_cut_at_a_character() {
        let frame = ControlFrame::close(CloseCode::Away, &"ü".repeat(100));
        assert_eq!(frame.payload().len(), 2 + 122);
        let read = ClosePayload::parse(frame.payload()).unwrap();
        assert_eq!((read.code, read.reason), (Some(1001), "ü".repeat(61)));
    }

    #[test]
    fn masking_towards_an_upstream_is_undone_by_its_key() {
        let mut wire = Vec::new();
        ControlFrame::new(Control::Ping, b"nonce".to_vec()).encode(Some([9, 8, 7, 6]), &mut wire);
        assert_eq!(wire[..6], [0x89, 0x85, 9, 8, 7, 6]);
        apply_mask(&mut wire[6..], [9, 8, 7, 6]);
        assert_eq!(&wire[6..], b"nonce");
    }

    #[test]
    fn a_close_is_empty_or_has_a_code_that_may_be_sent() {
        assert_eq!(ClosePayload::parse(&[]).unwrap().code, None);
        assert_eq!(ClosePayload::parse(&[3]), Err(CloseFault::OneByte));
        assert_eq!(ClosePayload::parse(&1005u16.to_be_bytes()), Err(CloseFault::Code));
        assert_eq!(ClosePayload::parse(&[0x03, 0xe8, 0xff]), Err(CloseFault::Reason));
    }
}

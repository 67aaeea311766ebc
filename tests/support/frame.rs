//! Frames as bytes, with every field free to be wrong.

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// The key of every masked frame that the tests send.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A whole frame, its payload in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

/// The code and reason of a Close; no code is an empty payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: Option<u16>,
    pub reason: String,
}

/// The start of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub length: Length,
}

/// A payload's length and how it is written.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    Minimal(u64),
    In16Bits(u16),
    In64Bits(u64),
}

impl Frame {
    /// A frame as a sender of either side writes it: whoever sends it decides on the mask.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { fin: true, rsv: 0, opcode, masked: false, payload: payload.into() }
    }

    pub fn text(payload: &str) -> Frame {
        Frame::new(TEXT, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(BINARY, payload)
    }

    pub fn close(code: u16, reason: &str) -> Frame {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        Frame::new(CLOSE, payload)
    }

    pub fn not_final(self) -> Frame {
        Frame { fin: false, ..self }
    }

    pub fn with_rsv(self, rsv: u8) -> Frame {
        Frame { rsv, ..self }
    }

    pub fn masked(self, masked: bool) -> Frame {
        Frame { masked, ..self }
    }

    pub fn head(&self) -> Head {
        Head {
            fin: self.fin,
            rsv: self.rsv,
            opcode: self.opcode,
            masked: self.masked,
            length: Length::Minimal(self.payload.len() as u64),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.head().encode();
        let start = bytes.len();
        bytes.extend_from_slice(&self.payload);
        if self.masked {
            mask(&mut bytes[start..], MASK);
        }
        bytes
    }

    /// The first frame of `bytes` and how many of them it takes; `None` when it is not yet whole.
    pub fn decode(bytes: &[u8]) -> Option<(Frame, usize)> {
        let (&[first, second], mut rest) = bytes.split_first_chunk::<2>()?;
        let length = match second & 0x7F {
            126 => take::<2>(&mut rest).map(u16::from_be_bytes)? as usize,
            127 => take::<8>(&mut rest).map(u64::from_be_bytes)? as usize,
            short => short as usize,
        };
        let masked = second & 0x80 != 0;
        let key = if masked { take::<4>(&mut rest)? } else { [0; 4] };
        let mut payload = rest.get(..length)?.to_vec();
        if masked {
            mask(&mut payload, key);
        }
        let used = bytes.len() - rest.len() + length;
        let rsv = (first >> 4) & 0x7;
        let frame = Frame { fin: first & 0x80 != 0, rsv, opcode: first & 0xF, masked, payload };
        Some((frame, used))
    }

    /// What a Close says.
    pub fn closing(&self) -> Close {
        assert_eq!(self.opcode, CLOSE, "a Close was due, this came: {}", self.describe());
        let Some((code, reason)) = self.payload.split_first_chunk::<2>() else {
            assert!(self.payload.is_empty(), "a Close of one byte: {:?}", self.payload);
            return Close { code: None, reason: String::new() };
        };
        let reason = String::from_utf8(reason.to_vec()).expect("a Close's reason is UTF-8");
        Close { code: Some(u16::from_be_bytes(*code)), reason }
    }

    /// The frame for a panic's message: a large payload only by its length.
    pub fn describe(&self) -> String {
        let shown = &self.payload[..self.payload.len().min(32)];
        format!(
            "fin {} rsv {} opcode {:#x} masked {} length {} payload {:?}",
            self.fin,
            self.rsv,
            self.opcode,
            self.masked,
            self.payload.len(),
            String::from_utf8_lossy(shown)
        )
    }
}

impl Head {
    /// The head's bytes, the mask's key with it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let mask_bit = u8::from(self.masked) << 7;
        match self.length {
            Length::Minimal(length) if length < 126 => bytes.push(mask_bit | length as u8),
            Length::Minimal(length) if length < 65_536 => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            Length::In16Bits(length) => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            Length::Minimal(length) | Length::In64Bits(length) => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend_from_slice(&MASK);
        }
        bytes
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn mask(payload: &mut [u8], key: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}

//! Reading a frame's head (RFC 6455 §5.2). Incomplete input consumes nothing.

use super::{Control, Data, FrameHeader, OpCode};

/// The longest head: two bytes, a 64-bit length and a mask.
pub const MAX: usize = 14;

/// The longest part of a head that can be there without the whole.
pub const HEADROOM: usize = MAX - 1;

/// A head that is whole.
#[derive(Clone, Debug)]
pub struct Head {
    pub header: FrameHeader,
    /// Payload bytes that follow.
    pub length: u64,
    /// Bytes of the head itself, 2 to [`MAX`].
    pub size: usize,
}

/// What no conforming peer sends (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error("reserved opcode")]
    ReservedOpcode,
    #[error("length not in its shortest form")]
    LongLength,
    #[error("length with its top bit set")]
    LengthTopBit,
}

/// Reads the head at the start of `bytes`; `None` while it is not whole.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadFault> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let masked = second & 0x80 != 0;
    let size = 2 + extended + if masked { 4 } else { 0 };
    if bytes.len() < size {
        return Ok(None);
    }
    let (length, mask) = rest[..size - 2].split_at(extended);
    let length = match length {
        [] => u64::from(second & 0x7f),
        bytes => checked_length(bytes)?,
    };
    let header = FrameHeader {
        is_final: first & 0x80 != 0,
        rsv1: first & 0x40 != 0,
        rsv2: first & 0x20 != 0,
        rsv3: first & 0x10 != 0,
        opcode: opcode(first & 0x0f).ok_or(HeadFault::ReservedOpcode)?,
        mask: mask.try_into().ok(),
    };
    Ok(Some(Head { header, length, size }))
}

/// An extended length: 2 or 8 bytes, the shortest form that holds it, at most 2⁶³ − 1.
fn checked_length(bytes: &[u8]) -> Result<u64, HeadFault> {
    let length = bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    let shortest = if bytes.len() == 2 { 126 } else { 1 << 16 };
    match length {
        _ if length >> 63 == 1 => Err(HeadFault::LengthTopBit),
        _ if length < shortest => Err(HeadFault::LongLength),
        _ => Ok(length),
    }
}

#[inline]
fn opcode(nibble: u8) -> Option<OpCode> {
    Some(match nibble {
        0x0 => OpCode::Data(Data::Continue),
        0x1 => OpCode::Data(Data::Text),
        0x2 => OpCode::Data(Data::Binary),
        0x8 => OpCode::Control(Control::Close),
        0x9 => OpCode::Control(Control::Ping),
        0xa => OpCode::Control(Control::Pong),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_accepted_tungstenite_reads_the_same(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut cursor = Cursor::new(&bytes);
            let theirs = FrameHeader::parse(&mut cursor);
            match parse(&bytes) {
                Ok(Some(head)) => {
                    let (header, length) = theirs.unwrap().unwrap();
                    prop_assert_eq!(head.length, length);
                    prop_assert_eq!(head.size as u64, cursor.position());
                    prop_assert_eq!(format!("{:?}", head.header), format!("{header:?}"));
                }
                Ok(None) => prop_assert!(!matches!(theirs, Ok(Some(_)))),
                Err(HeadFault::ReservedOpcode) => prop_assert!(theirs.is_err()),
                Err(_) => {}
            }
        }

        #[test]
        fn what_tungstenite_writes_is_read_back(length in any::<u64>(), masked: bool) {
            let length = length >> (length % 64).max(1);
            let header = FrameHeader { mask: masked.then_some([1, 2, 3, 4]), ..FrameHeader::default() };
            let mut bytes = Vec::new();
            header.format(length, &mut bytes).unwrap();
            for cut in 0..bytes.len() {
                prop_assert!(parse(&bytes[..cut]).unwrap().is_none());
            }
            let head = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!((head.length, head.size), (length, bytes.len()));
        }
    }

    #[test]
    fn lengths_have_one_form() {
        let cases: [(&[u8], HeadFault); 5] = [
            (&[0x82, 126, 0, 125], HeadFault::LongLength),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], HeadFault::LongLength),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], HeadFault::LengthTopBit),
            (&[0x83, 0], HeadFault::ReservedOpcode),
            (&[0x8b, 0], HeadFault::ReservedOpcode),
        ];
        for (bytes, fault) in cases {
            assert_eq!(parse(bytes).unwrap_err(), fault, "{bytes:x?}");
        }
    }
}

//! WebSocket frames by hand (RFC 6455 §5.2), as few instructions as an honest peer can spend.
//!
//! Load and backend share one core, and what they burn there delays the proxy under test. So no
//! library stands here: a frame is parsed in place, masked eight bytes at a time and compared
//! with `memcmp`. Only what the comparison sends is understood; anything else is an error, which
//! is also how a proxy that damages a frame is found out.

use std::io;

pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// The longest payload either end accepts.
const LONGEST: u64 = 1 << 20;

/// The first bytes of a frame, understood.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub opcode: u8,
    pub key: Option<[u8; 4]>,
    /// Length of the head itself, in bytes.
    pub size: usize,
    /// Length of the payload behind it, in bytes.
    pub payload: usize,
}

impl Head {
    pub fn total(&self) -> usize {
        self.size + self.payload
    }
}

/// Reads a head; `None` while bytes of it are missing.
pub fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 {
        return Err(broken("a fragment or a reserved bit that nobody sent"));
    }
    let (length, extended) = match (second & 0x7f, rest) {
        (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 2),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 0),
    };
    if length > LONGEST {
        return Err(broken("a frame longer than any that was sent"));
    }
    let key = match (second & 0x80 != 0, rest.get(extended..)) {
        (false, _) => None,
        (true, Some(&[a, b, c, d, ..])) => Some([a, b, c, d]),
        (true, _) => return Ok(None),
    };
    let size = 2 + extended + if key.is_some() { 4 } else { 0 };
    Ok(Some(Head { opcode: first & 0x0f, key, size, payload: length as usize }))
}

/// Appends a whole frame to `out`, masked where there is a key.
pub fn write(out: &mut Vec<u8>, opcode: u8, key: Option<[u8; 4]>, payload: &[u8]) {
    let bit = if key.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(bit | short as u8),
        middle @ 126..65536 => {
            out.push(bit | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(bit | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend(key.into_iter().flatten());
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
}

/// Masks or unmasks in place (RFC 6455 §5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

pub fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

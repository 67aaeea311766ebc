//! The PROXY protocol, versions 1 and 2: what a balancer says of a connection before its bytes.
//!
//! [`Reading`] is the pure part: it is shown what waits at the socket and says how much of that
//! belongs to the header. [`read`] looks before it takes, so what stands behind the header, TLS
//! or HTTP, is left in the socket for whoever reads next.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What every header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;
const GREETING: &[u8] = b"PROXY ";
/// The longest line of version 1, its CRLF included.
const LONGEST_LINE: usize = 107;
/// The longest header of version 2 that is taken, as in nginx; its length field could say 64 KiB.
const LONGEST: usize = 4096;
/// Bytes that are looked at in one go.
const LOOK: usize = 256;

/// Where a connection comes from, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The client, and the address that it called.
    Client { source: SocketAddr, destination: SocketAddr },
    /// LOCAL or UNKNOWN: the balancer speaks for itself, or does not know.
    Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header cannot be read")]
    Malformed,
    #[error("its PROXY header has more than {LONGEST} bytes")]
    TooLong,
}

/// A header that is being read.
#[derive(Debug, Default)]
pub struct Reading {
    held: Vec<u8>,
}

/// How much of what was shown belongs to the header, and what it says once it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub bytes: usize,
    pub origin: Option<Origin>,
}

impl Reading {
    /// Takes from the bytes that come next what belongs to the header, and nothing behind it.
    pub fn take(&mut self, next: &[u8]) -> Result<Taken, Fault> {
        let before = self.held.len();
        self.held.extend_from_slice(next);
        let Some(whole) = whole(&self.held)? else {
            return Ok(Taken { bytes: next.len(), origin: None });
        };
        self.held.truncate(whole);
        let origin = if self.held.len() == whole { Some(parse(&self.held)?) } else { None };
        Ok(Taken { bytes: self.held.len() - before, origin })
    }
}

/// How long the header is that begins so, as soon as that shows.
fn whole(begin: &[u8]) -> Result<Option<usize>, Fault> {
    if agree(begin, GREETING) {
        return line(begin);
    }
    if !agree(begin, SIGNATURE) {
        return Err(Fault::Missing);
    }
    let Some(length) = begin.get(FIXED - 2..FIXED) else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > LONGEST { Err(Fault::TooLong) } else { Ok(Some(length)) }
}

fn line(begin: &[u8]) -> Result<Option<usize>, Fault> {
    match begin.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some(end + 1)),
        None if begin.len() >= LONGEST_LINE => Err(Fault::Malformed),
        None => Ok(None),
    }
}

/// Whether one is the beginning of the other.
fn agree(left: &[u8], right: &[u8]) -> bool {
    left.iter().zip(right).all(|(left, right)| left == right)
}

fn parse(header: &[u8]) -> Result<Origin, Fault> {
    // Of LOCAL all that follows is to be discarded, its family too.
    if header.starts_with(SIGNATURE) && header[SIGNATURE.len()] == 0x20 {
        return Ok(Origin::Socket);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_| Fault::Malformed)?;
    if length != header.len() {
        return Err(Fault::Malformed);
    }
    match parsed.proxied_address() {
        None => Ok(Origin::Socket),
        Some(address) if address.protocol == Protocol::Stream => {
            Ok(Origin::Client { source: address.source, destination: address.destination })
        }
        Some(_) => Err(Fault::Malformed),
    }
}

/// Reads the header of a connection and not a byte more. How long that may take is the caller's.
pub async fn read(socket: &mut TcpStream) -> io::Result<Origin> {
    let mut reading = Reading::default();
    let mut look = [0; LOOK];
    loop {
        let shown = socket.peek(&mut look).await?;
        if shown == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Taken { bytes, origin } = reading.take(&look[..shown]).map_err(io::Error::other)?;
        // They are there: this does not wait.
        socket.read_exact(&mut look[..bytes]).await?;
        if let Some(origin) = origin {
            return Ok(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    const UNKNOWN: &[u8] = b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n";

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("it fits").to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    fn addresses() -> Vec<u8> {
        [&[192, 0, 2, 7], &[198, 51, 100, 1], &4711_u16.to_be_bytes()[..], &443_u16.to_be_bytes()]
            .concat()
    }

    fn client() -> Origin {
        Origin::Client {
            source: "192.0.2.7:4711".parse().expect("an address"),
            destination: "198.51.100.1:443".parse().expect("an address"),
        }
    }

    /// Shows `wire` in pieces that end at `cuts`; gives the origin, and how much was taken.
    fn shown(wire: &[u8], cuts: &[usize]) -> Result<Option<(Origin, usize)>, Fault> {
        let (mut reading, mut taken) = (Reading::default(), 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
        ends.push(wire.len());
        ends.sort_unstable();
        for end in ends {
            if end <= taken {
                continue;
            }
            let step = reading.take(&wire[taken..end])?;
            taken += step.bytes;
            if let Some(origin) = step.origin {
                return Ok(Some((origin, taken)));
            }
        }
        Ok(None)
    }

    fn headers() -> Vec<(Vec<u8>, Origin)> {
        let padded = [addresses(), vec![4, 3, 0], vec![b'\n'; 768]].concat();
        vec![
            (V1.to_vec(), client()),
            (UNKNOWN.to_vec(), Origin::Socket),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Socket),
            (v2(0x21, 0x11, &addresses()), client()),
            (v2(0x21, 0x11, &padded), client()),
            (v2(0x21, 0x00, b""), Origin::Socket),
            (v2(0x20, 0x00, b""), Origin::Socket),
            (v2(0x20, 0xff, b"anything"), Origin::Socket),
        ]
    }

    #[test]
    fn what_is_no_header_is_told_at_its_first_wrong_byte() {
        for (wire, fault) in [
            (&b"GET / HTTP/1.1\r\n"[..], Fault::Missing),
            (b"\x16\x03\x01", Fault::Missing),
            (b"PROXX", Fault::Missing),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n", Fault::Malformed),
            (b"PROXY TCP4 ::1 ::1 4711 443\r\n", Fault::Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n", Fault::Malformed),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n", Fault::Malformed),
            (b"PROXY \r\n", Fault::Malformed),
            (&[b"PROXY ".as_slice(), &[b'x'; 200]].concat(), Fault::Malformed),
            (&v2(0x31, 0x11, &addresses()), Fault::Malformed),
            (&v2(0x21, 0x12, &addresses()), Fault::Malformed),
            (&v2(0x21, 0x11, &[0; 11]), Fault::Malformed),
            (&v2(0x21, 0x11, &[0; LONGEST]), Fault::TooLong),
        ] {
            assert_eq!(shown(wire, &[]), Err(fault), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn the_longest_header_is_taken_and_one_byte_more_is_not() {
        let block = |size: usize| [addresses(), vec![0; size - 12]].concat();
        let longest = LONGEST - FIXED;
        let taken = shown(&v2(0x21, 0x11, &block(longest)), &[]);
        assert_eq!(taken, Ok(Some((client(), LONGEST))));
        assert_eq!(shown(&v2(0x21, 0x11, &block(longest + 1)), &[]), Err(Fault::TooLong));
    }

    proptest! {
        #[test]
        fn a_header_ends_where_it_ends_in_whatever_pieces_it_comes(
            which in 0..8_usize,
            behind in prop::collection::vec(any::<u8>(), 0..64),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let (header, origin) = headers().swap_remove(which);
            let wire = [header.clone(), behind].concat();
            prop_assert_eq!(shown(&wire, &cuts), Ok(Some((origin, header.len()))));
        }

        #[test]
        fn nothing_panics_and_little_is_held(
            wire in prop::collection::vec(any::<u8>(), 0..300),
            begins in 0..3_usize,
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let begin = [&b""[..], GREETING, SIGNATURE][begins];
            if let Ok(Some((_, taken))) = shown(&[begin, &wire].concat(), &cuts) {
                prop_assert!(taken <= LONGEST);
            }
        }
    }
}

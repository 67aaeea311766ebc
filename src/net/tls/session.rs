//! A TLS connection from its first byte to its last, on rustls' unbuffered interface.
//!
//! tokio-rustls keeps 4 KiB for reading and more for writing in each connection. Here the
//! cryptography owns no buffer: what a socket brings is opened in the worker's scratch, what goes
//! out is sealed into it, and an idle connection keeps nothing but the beginning of a record, if
//! it is within one. Only while HTTP reads, in small pieces, does a connection hold what was
//! opened and sealed ahead ([`Ahead`]); a tunnel takes that over and the room is gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::UnbufferedClientConnection;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus,
};
use tokio_rustls::rustls::{CommonState, Error};

use crate::net::leg;
use crate::net::scratch::RECORD;
use crate::net::wire::{Shortage, Wire};

/// Wire bytes that a handshake may take before it is done: certificates are the most of it, and
/// rustls takes no message over 64 KiB.
const HANDSHAKE: usize = 128 << 10;
/// Asked of a socket at once while HTTP reads.
const READ: usize = 4 << 10;
/// Sealed at once of what HTTP writes.
const WRITE: usize = 64 << 10;

/// A TLS connection, as the server or as the client.
pub struct Session {
    socket: TcpStream,
    tls: Tls,
    /// Wire bytes that TLS has not used up: the beginning of a record.
    held: Vec<u8>,
    peer: Peer,
    ahead: Option<Box<Ahead>>,
}

/// What the peer has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Speaks,
    /// It has said close_notify.
    Finished,
    /// It broke TLS: nothing more is read of it, nor sent to it.
    Broken,
}

/// What was done before it was asked for.
#[derive(Default)]
struct Ahead {
    /// Plain bytes that nobody has taken yet, from `taken` on.
    opened: Vec<u8>,
    taken: usize,
    /// Wire bytes that the socket has not taken yet.
    sealed: Wire,
}

enum Tls {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Session {
    pub(super) fn server(socket: TcpStream, tls: UnbufferedServerConnection) -> Session {
        Session::new(socket, Tls::Server(tls))
    }

    pub(super) fn client(socket: TcpStream, tls: UnbufferedClientConnection) -> Session {
        Session::new(socket, Tls::Client(tls))
    }

    fn new(socket: TcpStream, tls: Tls) -> Session {
        Session { socket, tls, held: Vec::new(), peer: Peer::Speaks, ahead: None }
    }

    /// Whether its two ends have agreed on HTTP/2, by ALPN.
    pub(in crate::net) fn speaks_http2(&self) -> bool {
        self.state().alpn_protocol() == Some(super::HTTP_2)
    }

    /// What was agreed and shown in the handshake.
    pub(super) fn state(&self) -> &CommonState {
        match &self.tls {
            Tls::Server(tls) => tls,
            Tls::Client(tls) => tls,
        }
    }

    /// Shakes hands. A fault of TLS is the [`Error`] within; its alert was sent, if it could be.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Err(fault) = self.open_held() {
                let _ = self.poll_sealed(cx);
                return Poll::Ready(Err(fault));
            }
            ready!(self.poll_sealed(cx))?;
            if !self.state().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.held.len() >= HANDSHAKE {
                return Poll::Ready(Err(invalid(Error::General("too long a handshake".into()))));
            }
            if ready!(self.poll_hold(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads from the socket behind what is held.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; READ];
        let read = ready!(leg::read(&mut self.socket, cx, &mut room))?;
        self.held.extend_from_slice(&room[..read]);
        Poll::Ready(Ok(read))
    }

    /// Opens what is held, for HTTP.
    fn open_held(&mut self) -> io::Result<()> {
        let Session { tls, held, peer, ahead, .. } = self;
        let Ahead { opened, sealed, .. } = &mut **ahead.get_or_insert_default();
        let progress = tls.advance(held, sealed, |plain| {
            opened.extend_from_slice(plain);
            Ok(())
        });
        held.drain(..progress.used);
        held.shrink_to_fit();
        *peer = progress.peer(*peer);
        if let Some(fault) = progress.fault {
            return Err(fault);
        }
        self.bound_held()
    }

    /// What is held once the handshake is done is less than a record: a message of TLS itself that
    /// goes on and on, each of its records nearly all padding, would have no other bound.
    fn bound_held(&mut self) -> io::Result<()> {
        if self.held.len() <= RECORD || self.state().is_handshaking() {
            return Ok(());
        }
        self.peer = Peer::Broken;
        self.held = Vec::new();
        Err(overlong())
    }

    /// Writes what was sealed ahead.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(ahead) = &mut self.ahead else { return Poll::Ready(Ok(())) };
        while !ahead.sealed.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, ahead.sealed.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => ahead.sealed.consume(taken),
            }
        }
        Poll::Ready(Ok(()))
    }

    // ---- in the hands of a tunnel ----

    /// Reads from the socket into `wire` and opens records into `plain`; `plain` is as large as
    /// `wire`, which has room for `limit` and a record. 0 is the peer's end, with close_notify
    /// or without.
    #[inline]
    pub(in crate::net) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        wire: &mut [u8],
        plain: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.ahead.is_some() {
            let opened = self.take_opened(plain);
            if opened > 0 {
                return Poll::Ready(Ok(opened));
            }
        }
        loop {
            if self.peer != Peer::Speaks {
                return Poll::Ready(Ok(0));
            }
            let held = self.held.len();
            let read = ready!(leg::read(&mut self.socket, cx, &mut wire[held..held + limit]))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            wire[..held].copy_from_slice(&self.held);
            let opened = self.open(&mut wire[..held + read], plain)?;
            if opened > 0 {
                return Poll::Ready(Ok(opened));
            }
        }
    }

    /// Opens the records of `wire` into `plain`, and holds what is left.
    #[inline]
    fn open(&mut self, wire: &mut [u8], plain: &mut [u8]) -> io::Result<usize> {
        let mut opened = 0;
        let mut sealed = Wire::default();
        let progress = self.tls.advance(wire, &mut sealed, |record| {
            let room = plain.get_mut(opened..opened + record.len()).ok_or_else(overlong)?;
            room.copy_from_slice(record);
            opened += record.len();
            Ok(())
        });
        self.peer = progress.peer(self.peer);
        if !sealed.is_empty() {
            self.ahead.get_or_insert_default().sealed.take_from(&mut sealed);
        }
        let rest = &wire[progress.used..];
        if !rest.is_empty() || !self.held.is_empty() {
            self.held = rest.to_vec();
        }
        if self.peer != Peer::Speaks {
            self.held = Vec::new();
        }
        // What was good before a fault is delivered.
        match progress.fault.map_or_else(|| self.bound_held(), Err) {
            Err(fault) if opened == 0 => Err(fault),
            _ => Ok(opened),
        }
    }

    /// Takes plain bytes that were opened for HTTP.
    fn take_opened(&mut self, plain: &mut [u8]) -> usize {
        let Some(ahead) = &mut self.ahead else { return 0 };
        let left = &ahead.opened[ahead.taken..];
        let size = left.len().min(plain.len());
        plain[..size].copy_from_slice(&left[..size]);
        ahead.taken += size;
        if ahead.taken == ahead.opened.len() {
            (ahead.opened, ahead.taken) = (Vec::new(), 0);
            if ahead.sealed.is_empty() {
                self.ahead = None;
            }
        }
        size
    }

    /// Appends the records of `plain` to `out`, behind whatever TLS has to say for itself.
    #[inline]
    pub(in crate::net) fn seal(&mut self, plain: &[u8], out: &mut Wire) -> io::Result<()> {
        self.take_sealed(out);
        self.say(Some(plain), out)
    }

    /// Appends close_notify.
    pub(in crate::net) fn seal_end(&mut self, out: &mut Wire) -> io::Result<()> {
        self.take_sealed(out);
        self.say(None, out)
    }

    /// Appends the records of `plain`, or, of `None`, close_notify.
    #[inline]
    fn say(&mut self, plain: Option<&[u8]>, out: &mut Wire) -> io::Result<()> {
        if self.peer == Peer::Broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let progress = self.tls.seal(plain, &mut self.held, out);
        self.held.drain(..progress.used);
        self.peer = progress.peer(self.peer);
        progress.fault.map_or(Ok(()), Err)
    }

    /// The same, for HTTP: what is sealed waits until the socket takes it.
    fn say_ahead(&mut self, plain: Option<&[u8]>) -> io::Result<()> {
        let mut sealed = std::mem::take(&mut self.ahead.get_or_insert_default().sealed);
        let said = self.say(plain, &mut sealed);
        self.ahead.get_or_insert_default().sealed = sealed;
        said
    }

    /// What was sealed for HTTP and the socket has not taken.
    pub(in crate::net) fn take_unsent(&mut self) -> Wire {
        let mut unsent = Wire::default();
        self.take_sealed(&mut unsent);
        unsent
    }

    fn take_sealed(&mut self, out: &mut Wire) {
        let Some(ahead) = &mut self.ahead else { return };
        out.take_from(&mut ahead.sealed);
        if ahead.opened.is_empty() {
            self.ahead = None;
        }
    }

    pub(in crate::net) fn poll_write_wire(
        &mut self,
        cx: &mut Context<'_>,
        wire: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, wire)
    }

    /// Sends FIN.
    pub(in crate::net) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

// ---- in the hands of HTTP ----

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let opened = self.take_opened(buffer.initialize_unfilled());
            if opened > 0 || self.peer == Peer::Finished {
                buffer.advance(opened);
                return Poll::Ready(Ok(()));
            }
            if self.peer == Peer::Broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            // An end without close_notify may be somebody else's doing (RFC 8446 §6.1).
            if ready!(self.poll_hold(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(fault) = self.open_held() {
                let _ = self.poll_sealed(cx);
                return Poll::Ready(Err(fault));
            }
        }
    }
}

impl AsyncWrite for Session {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sealed(cx))?;
        let bytes = &bytes[..bytes.len().min(WRITE)];
        self.say_ahead(Some(bytes))?;
        if let Poll::Ready(Err(error)) = self.poll_sealed(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sealed(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_ahead(None)?;
        ready!(self.poll_sealed(cx))?;
        self.poll_finish(cx)
    }
}

// ---- rustls ----

/// How far TLS came with what it was given.
#[derive(Default)]
struct Progress {
    /// Bytes at the front that are done with. The others must be given again: TLS knows places
    /// in them.
    used: usize,
    /// The peer has said close_notify.
    closed: bool,
    fault: Option<io::Error>,
}

impl Progress {
    /// What the peer that was `before` has come to.
    #[inline]
    fn peer(&self, before: Peer) -> Peer {
        match self {
            Progress { fault: Some(_), .. } => Peer::Broken,
            Progress { closed: true, .. } if before == Peer::Speaks => Peer::Finished,
            _ => before,
        }
    }
}

/// What the two kinds of connection have in common and rustls does not name.
trait Machine {
    type Data;
    fn state(&self) -> &CommonState;
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Machine for UnbufferedServerConnection {
    type Data = tokio_rustls::rustls::server::ServerConnectionData;
    fn state(&self) -> &CommonState {
        self
    }
    #[inline]
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
}

impl Machine for UnbufferedClientConnection {
    type Data = tokio_rustls::rustls::client::ClientConnectionData;
    fn state(&self) -> &CommonState {
        self
    }
    #[inline]
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
}

impl Tls {
    /// Has TLS go on as far as `wire` lets it: each opened record goes to `opened`, what it has
    /// to say itself behind `sealed`.
    #[inline]
    fn advance(
        &mut self,
        wire: &mut [u8],
        sealed: &mut Wire,
        opened: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Progress {
        match self {
            Tls::Server(tls) => advance(tls, wire, sealed, opened),
            Tls::Client(tls) => advance(tls, wire, sealed, opened),
        }
    }

    /// Appends the records of `plain` to `out`, or, of `None`, close_notify; `held` is what
    /// [`Tls::advance`] left.
    #[inline]
    fn seal(&mut self, plain: Option<&[u8]>, held: &mut [u8], out: &mut Wire) -> Progress {
        match self {
            Tls::Server(tls) => seal(tls, plain, held, out),
            Tls::Client(tls) => seal(tls, plain, held, out),
        }
    }
}

#[inline]
fn advance<M: Machine>(
    tls: &mut M,
    wire: &mut [u8],
    sealed: &mut Wire,
    mut opened: impl FnMut(&[u8]) -> io::Result<()>,
) -> Progress {
    drive(tls, wire, sealed, |state, _| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut more = 0;
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(invalid)?;
                more += record.discard;
                opened(record.payload)?;
            }
            Ok(Turn::Opened(more))
        }
        // Early data is never offered; the others wait for more.
        _ => Ok(Turn::Over),
    })
}

#[inline]
fn seal<M: Machine>(
    tls: &mut M,
    plain: Option<&[u8]>,
    held: &mut [u8],
    out: &mut Wire,
) -> Progress {
    drive(tls, held, out, |state, out| match state {
        ConnectionState::WriteTraffic(mut traffic) => {
            out.append_with(|room| {
                let sealed = match plain {
                    Some(plain) => traffic.encrypt(plain, room),
                    None => traffic.queue_close_notify(room),
                };
                sealed.map_or_else(room_of_encrypt, done)
            })?;
            Ok(Turn::Over)
        }
        // Both have said close_notify: there is no more to say.
        ConnectionState::Closed if plain.is_none() => Ok(Turn::Over),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    })
}

/// What came of one state of TLS.
enum Turn {
    On,
    /// Records were opened, which took so many bytes besides.
    Opened(usize),
    Over,
}

/// Takes TLS from state to state until `turn` says that it is over; what TLS has to say by itself
/// goes to `out`.
#[inline]
fn drive<M: Machine>(
    tls: &mut M,
    wire: &mut [u8],
    out: &mut Wire,
    mut turn: impl FnMut(ConnectionState<'_, '_, M::Data>, &mut Wire) -> io::Result<Turn>,
) -> Progress {
    let size = wire.len();
    let mut progress = Progress::default();
    loop {
        let UnbufferedStatus { discard, state } = tls.process(&mut wire[progress.used..]);
        let went = state.map_err(invalid).and_then(|state| match state {
            ConnectionState::EncodeTlsData(mut said) => {
                out.append_with(|room| said.encode(room).map_or_else(room_of_encode, done))?;
                Ok(Turn::On)
            }
            ConnectionState::TransmitTlsData(said) => {
                said.done();
                Ok(Turn::On)
            }
            ConnectionState::PeerClosed => {
                progress.closed = true;
                Ok(Turn::On)
            }
            state => turn(state, out),
        });
        progress.used += discard;
        match went {
            Ok(Turn::On) => {}
            Ok(Turn::Opened(more)) => {
                progress.used += more;
                // With nothing left there is nothing to go on with.
                if progress.used == size {
                    return progress;
                }
            }
            Ok(Turn::Over) => return progress,
            Err(fault) => {
                progress.fault = Some(fault);
                say_alert(tls, &mut wire[progress.used..], out);
                return progress;
            }
        }
    }
}

/// Appends the alert that tells the peer of a fault, if there is one.
fn say_alert<M: Machine>(tls: &mut M, wire: &mut [u8], sealed: &mut Wire) {
    // Of a connection that failed nothing else may be asked: rustls would panic.
    while tls.state().wants_write()
        && let Ok(ConnectionState::EncodeTlsData(mut said)) = tls.process(wire).state
    {
        let _ = sealed.append_with(|room| said.encode(room).map_or_else(room_of_encode, done));
    }
}

type Filled = io::Result<Result<usize, Shortage>>;

#[expect(clippy::unnecessary_wraps, reason = "one arm of three that are the same type")]
fn done(filled: usize) -> Filled {
    Ok(Ok(filled))
}

fn room_of_encode(error: EncodeError) -> Filled {
    match error {
        EncodeError::InsufficientSize(short) => Ok(Err(Shortage(short.required_size))),
        EncodeError::AlreadyEncoded => Err(io::Error::other(error)),
    }
}

fn room_of_encrypt(error: EncryptError) -> Filled {
    match error {
        EncryptError::InsufficientSize(short) => Ok(Err(Shortage(short.required_size))),
        EncryptError::EncryptExhausted => Err(io::Error::other(error)),
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// More than a record is waiting to be one: no peer that means well does that.
fn overlong() -> io::Error {
    invalid(Error::General("a message of TLS is too long".into()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use proptest::prelude::*;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::version::{TLS12, TLS13};
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    };

    use super::*;

    /// One end without a socket.
    struct Peer {
        tls: Tls,
        held: Vec<u8>,
        opened: Vec<u8>,
        out: Wire,
        fault: bool,
    }

    impl Peer {
        fn new(tls: Tls) -> Peer {
            let (held, opened, out) = (Vec::new(), Vec::new(), Wire::default());
            Peer { tls, held, opened, out, fault: false }
        }

        fn take(&mut self, wire: &[u8]) {
            self.held.extend_from_slice(wire);
            if self.fault {
                return;
            }
            let Peer { tls, held, opened, out, .. } = self;
            let progress = tls.advance(held, out, |plain| {
                opened.extend_from_slice(plain);
                Ok(())
            });
            self.held.drain(..progress.used);
            self.fault |= progress.fault.is_some();
        }

        fn say(&mut self, plain: &[u8]) -> Progress {
            if self.fault {
                return Progress::default();
            }
            let progress = self.tls.seal(Some(plain), &mut self.held, &mut self.out);
            self.held.drain(..progress.used);
            self.fault |= progress.fault.is_some();
            progress
        }

        fn update_keys(&mut self) {
            let Tls::Client(tls) = &mut self.tls else { panic!("the client's part") };
            match tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    traffic.refresh_traffic_keys().unwrap();
                }
                other => panic!("{other:?}"),
            }
            self.take(&[]);
        }

        fn said(&mut self) -> Vec<u8> {
            let said = self.out.bytes().to_vec();
            self.out.clear();
            said
        }
    }

    fn configs(
        version: &'static SupportedProtocolVersion,
    ) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        static CERTIFIED: OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
        let certified = CERTIFIED
            .get_or_init(|| rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let der = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }

    fn pair(version: &'static SupportedProtocolVersion) -> (Peer, Peer) {
        let (server, client) = configs(version);
        let name = ServerName::try_from("a.example").unwrap();
        let server = UnbufferedServerConnection::new(server).unwrap();
        let client = UnbufferedClientConnection::new(client, name).unwrap();
        (Peer::new(Tls::Server(server)), Peer::new(Tls::Client(client)))
    }

    /// Gives `wire` to `to` in pieces of these sizes, again and again.
    fn deliver(wire: &[u8], to: &mut Peer, sizes: &mut impl Iterator<Item = usize>) {
        let mut rest = wire;
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            to.take(&rest[..size]);
            rest = &rest[size..];
        }
    }

    /// Shakes hands; `cut` makes of each flight what arrives.
    fn shake(server: &mut Peer, client: &mut Peer, mut cut: impl FnMut(Vec<u8>, &mut Peer)) {
        client.take(&[]);
        for _ in 0..6 {
            cut(client.said(), server);
            cut(server.said(), client);
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Up(usize),
        Down(usize),
        UpdateKeys,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0usize..40_000).prop_map(Act::Up),
            (0usize..40_000).prop_map(Act::Down),
            Just(Act::UpdateKeys),
        ]
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_is_said_arrives_whole_in_any_pieces(
            acts in prop::collection::vec(act(), 1..12),
            sizes in prop::collection::vec(1usize..5_000, 1..8),
            old in any::<bool>(),
        ) {
            let (mut server, mut client) = pair(if old { &TLS12 } else { &TLS13 });
            let mut sizes = sizes.into_iter().cycle();
            shake(&mut server, &mut client, |wire, to| deliver(&wire, to, &mut sizes));
            let (mut up, mut down) = (Vec::new(), Vec::new());
            for act in acts {
                match act {
                    Act::Up(size) => {
                        up.extend(bytes(size));
                        prop_assert!(client.say(&bytes(size)).fault.is_none());
                    }
                    Act::Down(size) => {
                        down.extend(bytes(size));
                        prop_assert!(server.say(&bytes(size)).fault.is_none());
                    }
                    Act::UpdateKeys if old => {}
                    Act::UpdateKeys => client.update_keys(),
                }
                deliver(&client.said(), &mut server, &mut sizes);
                deliver(&server.said(), &mut client, &mut sizes);
            }
            prop_assert!(server.opened == up && client.opened == down);
            prop_assert!(!server.fault && !client.fault);
        }

        #[test]
        fn garbage_is_a_fault_or_waits_and_nothing_panics(
            garbage in prop::collection::vec(any::<u8>(), 1..400),
            kind in 20u8..25,
            shaken in any::<bool>(),
            framed in any::<bool>(),
        ) {
            let (mut server, mut client) = pair(&TLS13);
            if shaken {
                shake(&mut server, &mut client, |wire, to| to.take(&wire));
            }
            let mut wire = garbage;
            if framed {
                let size = u16::try_from(wire.len()).unwrap().to_be_bytes();
                wire.splice(..0, [kind, 3, 3, size[0], size[1]]);
            }
            server.take(&wire);
            server.say(b"never mind");
            server.take(&wire);
            server.say(b"never mind");
        }
    }

    #[test]
    fn a_hello_in_many_records_is_a_hello() {
        let (mut server, mut client) = pair(&TLS13);
        let records_of = |flight: &[u8], size: usize| -> Vec<u8> {
            let pieces = flight[5..].chunks(size);
            pieces.flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8], piece].concat()).collect()
        };
        let mut first = true;
        shake(&mut server, &mut client, |wire, to| {
            let wire = if std::mem::take(&mut first) { records_of(&wire, 7) } else { wire };
            wire.iter().for_each(|byte| to.take(&[*byte]));
        });
        assert!(client.say(b"good").fault.is_none());
        server.take(&client.said());
        assert_eq!(server.opened, b"good");
    }
}

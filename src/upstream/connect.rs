//! Reaching an endpoint: names, source addresses, TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use rustix::io::Errno;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

use super::endpoint::{Endpoint, Place};
use crate::config;
use crate::net::tls::{Connector, TlsFault};
use crate::net::{Stream, socket};

/// How long the address tried last is waited for before the next is tried beside it
/// (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    #[error("{0}")]
    Name(Arc<str>),
    #[error("{0}")]
    Connect(io::Error),
    #[error("not connected within {0:?}")]
    Late(Duration),
    /// Says itself that it was TLS.
    #[error("{0}")]
    Tls(io::Error),
    #[error("cannot dial from {source_address} (`source_addresses`): {error}")]
    Source { source_address: IpAddr, error: io::Error },
    /// No source has a port left towards this address.
    #[error("no local port is left, each of `source_addresses` brings 64,000 more: {0}")]
    Ports(io::Error),
    /// This machine has no descriptor or memory left.
    #[error("{0}")]
    Exhausted(io::Error),
}

impl DialFault {
    /// Whether it says something about the endpoint, and not about this machine.
    pub fn is_the_endpoints(&self) -> bool {
        match self {
            DialFault::Name(_) | DialFault::Connect(_) | DialFault::Late(_) | DialFault::Tls(_) => {
                true
            }
            DialFault::Source { .. } | DialFault::Ports(_) | DialFault::Exhausted(_) => false,
        }
    }

    fn connecting(error: io::Error) -> DialFault {
        match Errno::from_io_error(&error) {
            Some(Errno::ADDRNOTAVAIL) => DialFault::Ports(error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                DialFault::Exhausted(error)
            }
            _ => DialFault::Connect(error),
        }
    }
}

/// How the endpoints of a cluster are dialled.
pub(super) struct Dialler {
    sources: Sources,
    tls: Option<Tls>,
}

struct Tls {
    connector: Connector,
    /// The name in every certificate.
    server_name: Option<String>,
    /// The host that endpoints are called by; it names those that are addresses.
    host: Option<String>,
}

impl Dialler {
    /// Reads the files of `tls`.
    pub fn new(upstream: &config::Upstream) -> Result<Dialler, TlsFault> {
        let tls = match &upstream.tls {
            Some(tls) => Some(Tls {
                connector: Connector::new(tls.ca.as_deref(), tls.certificate.as_ref())?,
                server_name: tls.server_name.clone(),
                host: upstream.host.as_ref().and_then(without_port),
            }),
            None => None,
        };
        let addresses = upstream.source_addresses.clone();
        Ok(Dialler { sources: Sources { addresses, next: AtomicUsize::new(0) }, tls })
    }

    /// Connects to `endpoint`, TLS and all.
    pub async fn dial(&self, endpoint: &Endpoint) -> Result<Stream, DialFault> {
        let socket = match endpoint.place() {
            Place::Ip(address) => self.sources.connect(*address).await?,
            Place::Name(name) => {
                let addresses = name.addresses().await.map_err(DialFault::Name)?;
                self.sources.connect_to_any(&addresses).await?
            }
            Place::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(DialFault::connecting)?;
                if self.tls.is_none() {
                    return Ok(Stream::unix(socket));
                }
                socket::under_tls(socket).map_err(DialFault::connecting)?
            }
        };
        let Some(tls) = &self.tls else { return Ok(Stream::tcp(socket)) };
        tls.connector.connect(socket, &tls.name_of(endpoint)).await.map_err(DialFault::Tls)
    }
}

impl Tls {
    /// The name that the certificate of `endpoint` must be for.
    fn name_of(&self, endpoint: &Endpoint) -> String {
        let stated = self.server_name.as_deref().or(endpoint.host_name()).or(self.host.as_deref());
        match (stated, endpoint.place()) {
            (Some(name), _) => name.to_owned(),
            (None, Place::Ip(address)) => address.ip().to_string(),
            (None, Place::Name(_) | Place::Unix(_)) => endpoint.label().to_string(),
        }
    }
}

/// Of `chat.internal:81` or `[::1]:81` the host.
fn without_port(host: &HeaderValue) -> Option<String> {
    let authority: http::uri::Authority = host.to_str().ok()?.parse().ok()?;
    Some(authority.host().trim_matches(['[', ']']).to_owned())
}

/// Local addresses that are dialled from in turn.
struct Sources {
    addresses: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    /// Connects from the next source of the family of `to`; from another one if that has no port
    /// left, or is no address of this machine.
    async fn connect(&self, to: SocketAddr) -> Result<TcpStream, DialFault> {
        let mut fault = None;
        for source in self.of_family(to) {
            match dial_from(Some(source), to).await {
                Err(refused) if !refused.is_the_endpoints() => fault = Some(refused),
                done => return done,
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => dial_from(None, to).await,
        }
    }

    fn of_family(&self, to: SocketAddr) -> impl Iterator<Item = IpAddr> {
        let fitting = self.addresses.iter().filter(move |from| from.is_ipv4() == to.is_ipv4());
        let fitting: Vec<IpAddr> = fitting.copied().collect();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (0..fitting.len()).map(move |index| fitting[(turn % fitting.len() + index) % fitting.len()])
    }

    /// Connects to whichever of a name's addresses is the first to be reached. They are tried in
    /// order, families in turn, each with a head start on the next.
    async fn connect_to_any(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialFault> {
        let mut untried = families_in_turn(addresses).into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut fault = DialFault::Name("the name has no address".into());
        loop {
            attempts.extend(untried.next().map(|address| self.connect(address)));
            tokio::select! {
                Some(attempt) = attempts.next() => match attempt {
                    Ok(socket) => return Ok(socket),
                    Err(refused) => fault = refused,
                },
                () = sleep(HEAD_START), if untried.len() > 0 => {}
                else => return Err(fault),
            }
        }
    }
}

async fn dial_from(source: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream, DialFault> {
    let socket = socket::dialling(to).map_err(DialFault::connecting)?;
    if let Some(source_address) = source {
        let bound = socket::bind_source(&socket, source_address);
        bound.map_err(|error| DialFault::Source { source_address, error })?;
    }
    socket.connect(to).await.map_err(DialFault::connecting)
}

/// The first family first, then one of each (RFC 8305 §4).
fn families_in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first_is_ipv4);
    let longest = first.len().max(second.len());
    let turns = (0..longest).flat_map(|turn| [first.get(turn), second.get(turn)]);
    turns.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn sources(addresses: &[&str]) -> Sources {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Sources { addresses, next: AtomicUsize::new(0) }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    /// An address that refuses.
    async fn nobody() -> SocketAddr {
        listener().await.1
    }

    #[tokio::test]
    async fn sources_take_turns_and_those_of_the_other_family_do_not() {
        let (_listener, to) = listener().await;
        let sources = sources(&["127.0.0.2", "::1", "127.0.0.3"]);
        let mut from = Vec::new();
        for _ in 0..4 {
            let socket = sources.connect(to).await.expect("a connection");
            from.push(socket.local_addr().expect("it is bound").ip().to_string());
        }
        assert_eq!(from, ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.3"]);
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_passed_over_and_named_if_it_is_alone() {
        let (_listener, to) = listener().await;
        let both = sources(&["192.0.2.1", "127.0.0.2"]);
        for _ in 0..2 {
            let socket = both.connect(to).await.expect("a connection");
            assert_eq!(socket.local_addr().expect("it is bound").ip().to_string(), "127.0.0.2");
        }
        let fault = sources(&["192.0.2.1"]).connect(to).await.expect_err("it is not ours");
        let told = fault.to_string();
        assert!(told.starts_with("cannot dial from 192.0.2.1 (`source_addresses`): "), "{told}");
        assert!(!fault.is_the_endpoints());
    }

    #[tokio::test]
    async fn without_a_source_of_its_family_an_endpoint_is_dialled_as_the_system_chooses() {
        let (_listener, to) = listener().await;
        assert!(sources(&["::1"]).connect(to).await.is_ok());
    }

    /// So one port serves towards many endpoints.
    #[tokio::test]
    async fn the_port_of_a_source_is_chosen_when_it_connects() {
        let (_listener, to) = listener().await;
        let socket = socket::dialling(to).expect("a socket");
        socket::bind_source(&socket, IpAddr::from([127, 0, 0, 2])).expect("a bound socket");
        assert_eq!(socket.local_addr().expect("an address").port(), 0, "not chosen yet");
        let socket = socket.connect(to).await.expect("a connection");
        assert_ne!(socket.local_addr().expect("an address").port(), 0);
    }

    #[tokio::test]
    async fn of_a_names_addresses_the_first_that_is_reached_is_taken() {
        let (refusing, (_listener, good)) = (nobody().await, listener().await);
        let dialled = sources(&[]).connect_to_any(&[refusing, good]).await.expect("a connection");
        assert_eq!(dialled.peer_addr().expect("a peer"), good);
        let fault = sources(&[]).connect_to_any(&[refusing]).await.expect_err("nobody is there");
        assert!(matches!(fault, DialFault::Connect(_)) && fault.is_the_endpoints(), "{fault}");
        assert!(sources(&[]).connect_to_any(&[]).await.is_err());
    }

    #[test]
    fn what_this_machine_lacks_is_no_endpoints_fault() {
        let fault = |errno: Errno| DialFault::connecting(errno.into());
        for errno in [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS] {
            assert!(!fault(errno).is_the_endpoints(), "{errno:?}");
        }
        for errno in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH] {
            assert!(fault(errno).is_the_endpoints(), "{errno:?}");
        }
        let told = fault(Errno::ADDRNOTAVAIL).to_string();
        assert!(told.starts_with("no local port is left"), "{told}");
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &&str| text.parse::<SocketAddr>().expect("an address");
        let addresses: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].iter().map(address).collect();
        let order: Vec<String> =
            families_in_turn(&addresses).iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(order, ["::1", "1.1.1.1", "::2", "::3"]);
        assert!(families_in_turn(&[]).is_empty());
    }

    #[test]
    fn the_host_of_a_host_header() {
        let host = |text| without_port(&HeaderValue::from_static(text));
        for (text, wanted) in [("a.b", "a.b"), ("a.b:81", "a.b"), ("[::1]:81", "::1")] {
            assert_eq!(host(text).as_deref(), Some(wanted));
        }
    }
}

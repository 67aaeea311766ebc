//! What the kernel is asked for: listening sockets, accepted ones, and those that dial.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SocketAddrAny, SocketFlags};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, UnixStream};

/// Connections that may wait in the kernel to be accepted; it cuts this to `somaxconn`.
const ACCEPT_QUEUE: i32 = 4096;

/// Binds a listening socket. `reuse_port` lets several processes share the address; without it
/// a taken port is an error.
pub fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_QUEUE)?;
    Ok(socket.into())
}

/// Whether a connection waits to be accepted.
pub fn has_waiting(listener: &TcpListener) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Accepts one connection that waits, non-blocking and without Nagle's delay.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener.as_fd(), flags)?;
    let peer = peer.and_then(|peer: SocketAddrAny| SocketAddr::try_from(peer).ok());
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true)?;
    Ok((socket, peer.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?))
}

/// A socket that is about to dial `to`, without Nagle's delay.
pub fn dialling(to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Has a socket dial from a local address.
pub fn bind_source(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    choose_port_late(socket)?;
    socket.bind(SocketAddr::new(source, 0))
}

/// A unix socket as TLS takes it: reading, writing and shutting down are the same calls on either.
pub fn under_tls(socket: UnixStream) -> io::Result<tokio::net::TcpStream> {
    let descriptor = OwnedFd::from(socket.into_std()?);
    tokio::net::TcpStream::from_std(TcpStream::from(descriptor))
}

/// Leaves the port of a bound socket to `connect`: it may then be one that is in use towards
/// another address. Without this a source has 64,000 ports for all endpoints together (ip(7)).
#[expect(unsafe_code, reason = "neither rustix nor socket2 knows IP_BIND_ADDRESS_NO_PORT")]
fn choose_port_late(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of_val(&on).try_into().expect("an int is small");
    // SAFETY: the descriptor is borrowed and so open; the option reads one int, which outlives
    // the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

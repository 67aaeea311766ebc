//! What the kernel is asked for: listening sockets and accepted ones.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SocketAddrAny, SocketFlags};
use socket2::{Domain, Protocol, Socket, Type};

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

//! Dialling an endpoint.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use crate::config::EndpointAddress;
use crate::net::Stream;

/// Connects to `address`; of a name, to the first of its addresses that takes the connection.
pub(super) async fn dial(address: &EndpointAddress) -> io::Result<Stream> {
    let socket = match address {
        EndpointAddress::Ip(address) => TcpStream::connect(address).await?,
        EndpointAddress::Name { host, port } => TcpStream::connect((host.as_str(), *port)).await?,
        EndpointAddress::Unix(path) => {
            return UnixStream::connect(path).await.map(Stream::unix);
        }
    };
    socket.set_nodelay(true)?;
    Ok(Stream::tcp(socket))
}

//! One address of an upstream, and how many connections it has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::EndpointAddress;

#[derive(Debug)]
pub struct Endpoint {
    address: EndpointAddress,
    label: Arc<str>,
    connections: AtomicUsize,
}

impl Endpoint {
    pub fn new(address: EndpointAddress) -> Arc<Endpoint> {
        let label = label(&address).into();
        Arc::new(Endpoint { address, label, connections: AtomicUsize::new(0) })
    }

    pub fn address(&self) -> &EndpointAddress {
        &self.address
    }

    /// The address as logs show it.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Connections that are live or being made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// `10.0.0.1:9001`, `chat:9001` or `unix:/run/chat.sock`.
fn label(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Ip(address) => address.to_string(),
        EndpointAddress::Name { host, port } => format!("{host}:{port}"),
        EndpointAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// A connection's place at its endpoint; dropping it gives it back.
pub struct Lease(Arc<Endpoint>);

impl Lease {
    pub fn new(endpoint: Arc<Endpoint>) -> Lease {
        endpoint.connections.fetch_add(1, Ordering::Relaxed);
        Lease(endpoint)
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Lease({})", self.0.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_for_as_long_as_it_lives() {
        let endpoint = Endpoint::new(EndpointAddress::Unix("/run/chat.sock".into()));
        let lease = Lease::new(endpoint.clone());
        assert_eq!((endpoint.connections(), &**endpoint.label()), (1, "unix:/run/chat.sock"));
        drop(lease);
        assert_eq!(endpoint.connections(), 0);
    }
}

//! Names of servers, looked up as the system does it.
//!
//! The system's resolver blocks, may hang for half a minute, and cannot be called off. So a
//! [`Name`] has one look-up under way at most: who asks meanwhile waits for the same answer, and
//! who stops waiting leaves it to the next.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

/// A host name and a port.
#[derive(Debug)]
pub struct Name {
    host: String,
    port: u16,
    underway: Mutex<Option<Lookup>>,
}

/// The addresses in the resolver's order, or why there are none.
pub type Answer = Result<Vec<SocketAddr>, Arc<str>>;

type Lookup = Shared<BoxFuture<'static, Answer>>;

impl Name {
    pub fn new(host: &str, port: u16) -> Name {
        Name { host: host.to_owned(), port, underway: Mutex::default() }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Looks the name up, on a thread beside the runtime's.
    pub async fn addresses(&self) -> Answer {
        self.lookup().await
    }

    fn lookup(&self) -> Lookup {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = underway.as_ref().filter(|lookup| lookup.peek().is_none()) {
            return lookup.clone();
        }
        let lookup = begin(self.host.clone(), self.port);
        *underway = Some(lookup.clone());
        lookup
    }
}

/// Begins at once, whether or not somebody waits.
fn begin(host: String, port: u16) -> Lookup {
    let asked = tokio::task::spawn_blocking(move || ask(&host, port));
    let answer = asked.map(|joined| joined.unwrap_or_else(|error| Err(error.to_string().into())));
    answer.boxed().shared()
}

fn ask(host: &str, port: u16) -> Answer {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(distinct(addresses)),
        Err(error) => Err(without_preamble(&error).into()),
    }
}

/// Each once: some files of hosts repeat themselves.
fn distinct(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct = Vec::new();
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

/// The standard library says "failed to lookup address information: " before every cause.
fn without_preamble(error: &io::Error) -> String {
    let text = error.to_string();
    let cause = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    format!("the name has no address: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_this_machine_has_an_address() {
        let addresses = Name::new("localhost", 80).addresses().await.expect("localhost");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
        assert_eq!(addresses, distinct(addresses.iter().chain(&addresses).copied()));
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_says_so() {
        let error = Name::new("no such name", 80).addresses().await.expect_err("no name");
        assert!(error.starts_with("the name has no address: "), "{error}");
    }

    #[tokio::test]
    async fn one_lookup_is_under_way_and_shared() {
        let name = Name::new("localhost", 80);
        let (one, other) = (name.lookup(), name.lookup());
        assert!(one.ptr_eq(&other));
        let _ = one.await;
        assert!(!name.lookup().ptr_eq(&other), "the next asks anew");
    }
}

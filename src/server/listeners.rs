//! The listeners that are bound, and how they change: all that can fail is done before anything
//! changes.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{info, warn};

use super::listener::{BindError, Listener};
use super::slots::Slots;
use crate::config::{self, ListenerTls};
use crate::metrics::Tallies;
use crate::net::socket;
use crate::net::tls::{self, Acceptor, TlsFault};

/// A listener is the same by its address, and by how manieth of that address it is: ports may be
/// left to the kernel.
type Key = (SocketAddr, usize);

pub struct Listeners {
    bound: Vec<Bound>,
    tallies: Arc<Tallies>,
}

struct Bound {
    key: Key,
    /// What its files hold.
    files: u64,
    listener: Arc<Listener>,
    published: watch::Sender<Arc<Listener>>,
}

/// What becomes of listeners that are not bound yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binds {
    WhatIsNew,
    /// Nothing opens any more.
    Nothing,
}

/// A socket that was just bound, and where its listener will be read.
pub type Fresh = (TcpListener, watch::Receiver<Arc<Listener>>);

/// Listeners to come, with all that can fail behind them.
pub struct Next(Vec<(Key, u64, Arc<Listener>, Option<TcpListener>)>);

impl Listeners {
    /// None yet.
    pub fn new(tallies: Arc<Tallies>) -> Listeners {
        Listeners { bound: Vec::new(), tallies }
    }

    /// Reads the certificates of what has changed, and binds what is new or leaves it out.
    pub fn prepare(&self, configs: &[config::Listener], binds: Binds) -> Result<Next, BindError> {
        let mut next = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let earlier = configs[..index].iter().filter(|other| other.listen == config.listen);
            let key = (config.listen, earlier.count());
            let files = config.tls.as_ref().map_or(0, fingerprint);
            let (listener, socket) = match self.bound.iter().find(|bound| bound.key == key) {
                Some(bound) => (bound.again(config, files)?, None),
                None if binds == Binds::Nothing => continue,
                None => {
                    let bound = bind(config, &self.tallies);
                    let (listener, socket) = bound.map_err(|error| self.explain(error))?;
                    (listener, Some(socket))
                }
            };
            next.push((key, files, listener, socket));
        }
        Ok(Next(next))
    }

    /// Puts `next` in place of what is there; gives the sockets that are to be accepted from.
    pub fn replace(&mut self, Next(next): Next) -> Vec<Fresh> {
        let mut before = std::mem::take(&mut self.bound);
        let mut fresh = Vec::new();
        for (key, files, listener, socket) in next {
            listener.slots.limit(listener.config.limits);
            let known = before.iter().position(|bound| bound.key == key);
            let published = match known.map(|index| before.swap_remove(index)) {
                Some(bound) => {
                    if bound.files != files {
                        info!(address = %listener.local, "certificates are those of its files now");
                    }
                    bound.published.send_replace(listener.clone());
                    bound.published
                }
                None => watch::Sender::new(listener.clone()),
            };
            if let Some(socket) = socket {
                fresh.push((socket, published.subscribe()));
            }
            self.bound.push(Bound { key, files, listener, published });
        }
        for removed in before {
            info!(address = %removed.listener.local, "no longer listening");
        }
        self.tallies.certificates_end(self.expiries());
        fresh
    }

    /// When the certificates of each end, the first of them.
    fn expiries(&self) -> BTreeMap<SocketAddr, SystemTime> {
        let listeners = self.bound.iter().map(|bound| &bound.listener);
        let expiry = |listener: &Arc<Listener>| {
            Some((listener.local, listener.acceptor.as_ref()?.expires()?))
        };
        listeners.filter_map(expiry).collect()
    }

    /// An address that cannot be had may be taken by what runs.
    fn explain(&self, error: BindError) -> BindError {
        let BindError::Listen { address, error } = error else { return error };
        let own = |bound: &&Bound| bound.listener.local.port() == address.port();
        match self.bound.iter().find(own) {
            Some(own) if error.kind() == io::ErrorKind::AddrInUse => {
                BindError::Own { address, own: own.listener.local }
            }
            _ => BindError::Listen { address, error },
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.listener.local).collect()
    }
}

impl Bound {
    /// The same listener by another configuration, or by other files.
    fn again(&self, config: &config::Listener, files: u64) -> Result<Arc<Listener>, BindError> {
        let before = &self.listener;
        if before.config == *config && self.files == files {
            return Ok(before.clone());
        }
        let unchanged = before.config.tls == config.tls
            && before.config.http2 == config.http2
            && self.files == files;
        let acceptor = if unchanged { before.acceptor.clone() } else { valid_acceptor(config)? };
        let (slots, local) = (before.slots.clone(), before.local);
        Ok(Arc::new(Listener { config: config.clone(), acceptor, slots, local }))
    }
}

fn bind(
    config: &config::Listener,
    tallies: &Arc<Tallies>,
) -> Result<(Arc<Listener>, TcpListener), BindError> {
    let address = config.listen;
    let acceptor = acceptor(config)?;
    // Clients may put up with it, and there is no better one.
    for fault in expired(config) {
        warn!(%address, %fault, "a certificate has expired");
    }
    let listen = || {
        let socket = socket::listen(address, config.reuse_port)?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    let (socket, local) = listen().map_err(|error| BindError::Listen { address, error })?;
    let slots = Slots::new(config.limits, tallies.clone());
    Ok((Arc::new(Listener { config: config.clone(), acceptor, slots, local }), socket))
}

fn expired(config: &config::Listener) -> Vec<TlsFault> {
    config.tls.as_ref().map_or_else(Vec::new, |tls| tls::expired(tls, SystemTime::now()))
}

/// Nothing that has expired comes in the place of what is there.
fn valid_acceptor(config: &config::Listener) -> Result<Option<Acceptor>, BindError> {
    let address = config.listen;
    match expired(config).pop() {
        Some(fault) => Err(BindError::Tls { address, fault: Box::new(fault) }),
        None => acceptor(config),
    }
}

fn acceptor(config: &config::Listener) -> Result<Option<Acceptor>, BindError> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let address = config.listen;
    let acceptor =
        Acceptor::new(tls).map_err(|fault| BindError::Tls { address, fault: Box::new(fault) })?;
    Ok(Some(if config.http2 { acceptor.offering_http2() } else { acceptor }))
}

/// What the files of a listener hold, as far as it matters whether that has changed.
fn fingerprint(tls: &ListenerTls) -> u64 {
    let pairs = tls.certificates.iter().flat_map(|files| [&files.chain, &files.key]);
    let authority = tls.client_auth.iter().map(|auth| &auth.ca);
    contents(pairs.chain(authority).map(|path| &**path))
}

/// A number that is another when one of these files is.
pub fn contents<'p>(files: impl Iterator<Item = &'p Path>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        // Of a pipe nothing is read: it can be but once.
        let bytes = file.is_file().then(|| std::fs::read(file).ok());
        bytes.hash(&mut hasher);
    }
    hasher.finish()
}

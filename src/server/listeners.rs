//! The listeners that are bound, and how they change: all that can fail is done before anything
//! changes.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use super::listener::{BindError, Listener};
use super::slots::Slots;
use crate::config::{self, ListenerTls};
use crate::net::socket;
use crate::net::tls::Acceptor;

/// A listener is the same by its address, and by how manieth of that address it is: ports may be
/// left to the kernel.
type Key = (SocketAddr, usize);

#[derive(Default)]
pub struct Listeners(Vec<Bound>);

struct Bound {
    key: Key,
    /// What its files hold.
    files: u64,
    listener: Arc<Listener>,
    published: watch::Sender<Arc<Listener>>,
}

/// A socket that was just bound, and where its listener will be read.
pub type Fresh = (TcpListener, watch::Receiver<Arc<Listener>>);

/// Listeners to come, with all that can fail behind them.
pub struct Next(Vec<(Key, u64, Arc<Listener>, Option<TcpListener>)>);

impl Listeners {
    /// Binds what is new and reads the certificates of what has changed.
    pub fn prepare(&self, configs: &[config::Listener]) -> Result<Next, BindError> {
        let mut next = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let earlier = configs[..index].iter().filter(|other| other.listen == config.listen);
            let key = (config.listen, earlier.count());
            let files = config.tls.as_ref().map_or(0, fingerprint);
            let (listener, socket) = match self.0.iter().find(|bound| bound.key == key) {
                Some(bound) => (bound.again(config, files)?, None),
                None => bind(config).map(|(listener, socket)| (listener, Some(socket)))?,
            };
            next.push((key, files, listener, socket));
        }
        Ok(Next(next))
    }

    /// Puts `next` in place of what is there; gives the sockets that are to be accepted from.
    pub fn replace(&mut self, Next(next): Next) -> Vec<Fresh> {
        let mut before = std::mem::take(&mut self.0);
        let mut fresh = Vec::new();
        for (key, files, listener, socket) in next {
            listener.slots.limit(listener.config.limits);
            let known = before.iter().position(|bound| bound.key == key);
            let published = match known.map(|index| before.swap_remove(index).published) {
                Some(published) => {
                    published.send_replace(listener.clone());
                    published
                }
                None => watch::Sender::new(listener.clone()),
            };
            if let Some(socket) = socket {
                fresh.push((socket, published.subscribe()));
            }
            self.0.push(Bound { key, files, listener, published });
        }
        for removed in before {
            info!(address = %removed.listener.local, "no longer listening");
        }
        fresh
    }

    /// Of what is bound already, only what also `configs` has; for a time when nothing new opens.
    pub fn known<'c>(&self, configs: &'c [config::Listener]) -> Vec<config::Listener> {
        let known =
            |config: &&'c config::Listener| self.0.iter().any(|bound| bound.key.0 == config.listen);
        configs.iter().filter(known).cloned().collect()
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|bound| bound.listener.local).collect()
    }
}

impl Bound {
    /// The same listener by another configuration, or by other files.
    fn again(&self, config: &config::Listener, files: u64) -> Result<Arc<Listener>, BindError> {
        let before = &self.listener;
        if before.config == *config && self.files == files {
            return Ok(before.clone());
        }
        if before.config.reuse_port != config.reuse_port {
            warn!(address = %before.local, "reuse_port cannot change while the address is bound: restart");
        }
        let unchanged = before.config.tls == config.tls && self.files == files;
        let acceptor = if unchanged { before.acceptor.clone() } else { acceptor(config)? };
        let (slots, local) = (before.slots.clone(), before.local);
        Ok(Arc::new(Listener { config: config.clone(), acceptor, slots, local }))
    }
}

fn bind(config: &config::Listener) -> Result<(Arc<Listener>, TcpListener), BindError> {
    let address = config.listen;
    let acceptor = acceptor(config)?;
    let listen = || {
        let socket = socket::listen(address, config.reuse_port)?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    let (socket, local) = listen().map_err(|error| BindError::Listen { address, error })?;
    let slots = Slots::new(config.limits);
    Ok((Arc::new(Listener { config: config.clone(), acceptor, slots, local }), socket))
}

fn acceptor(config: &config::Listener) -> Result<Option<Acceptor>, BindError> {
    let acceptor = config.tls.as_ref().map(Acceptor::new).transpose();
    let address = config.listen;
    acceptor.map_err(|fault| BindError::Tls { address, fault: Box::new(fault) })
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
    // Of a pipe nothing is read: it can be but once.
    for file in files.filter(|file| file.is_file()) {
        std::fs::read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

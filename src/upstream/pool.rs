//! Connections to endpoints that wait for their next plain request: one pool a worker, whose
//! connections never leave its thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Endpoint;
use super::exchange::Connection;

/// How long a connection waits. Node and uvicorn close theirs after 5 s, and a request that meets
/// its connection being closed is lost unless it may be sent twice: so the edge closes first.
const IDLE: Duration = Duration::from_secs(4);
/// How many wait for one endpoint.
const IDLE_OF_ONE: usize = 64;

#[derive(Default)]
pub struct Pool {
    /// By the endpoint's place in memory, which its own `Arc` keeps from being another's.
    shelves: RefCell<HashMap<*const Endpoint, Shelf>>,
    sweeping: Cell<bool>,
}

struct Shelf {
    _endpoint: Arc<Endpoint>,
    /// The newest is the last, and is taken first.
    idle: Vec<Idle>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn is_fresh(&self) -> bool {
        self.connection.is_ready() && self.since.elapsed() < IDLE
    }
}

impl Pool {
    /// A connection that was open a moment ago; its endpoint may be closing it.
    pub(super) fn take(&self, endpoint: &Arc<Endpoint>) -> Option<Connection> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(&Arc::as_ptr(endpoint))?;
        while let Some(idle) = shelf.idle.pop() {
            if idle.is_fresh() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection that has answered all it was asked.
    pub(super) fn keep(self: &Rc<Pool>, endpoint: &Arc<Endpoint>, connection: Connection) {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves
            .entry(Arc::as_ptr(endpoint))
            .or_insert_with(|| Shelf { _endpoint: endpoint.clone(), idle: Vec::new() });
        if shelf.idle.len() < IDLE_OF_ONE {
            shelf.idle.push(Idle { connection, since: Instant::now() });
        }
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// Closes what has waited for too long, as long as something waits.
    async fn sweep(self: Rc<Pool>) {
        loop {
            sleep(IDLE / 4).await;
            let mut shelves = self.shelves.borrow_mut();
            shelves.retain(|_, shelf| {
                shelf.idle.retain(Idle::is_fresh);
                !shelf.idle.is_empty()
            });
            if shelves.is_empty() {
                self.sweeping.set(false);
                return;
            }
        }
    }
}

//! How what happens once reaches those whom it concerns: orders to tunnels, commands to workers.
//!
//! A tunnel takes a [`Seat`] in its worker's [`Registry`] before it dials, and with it a
//! [`Mailbox`]. The control thread speaks to workers by [`Command`]s, a worker to its tunnels by
//! [`Order`]s. Nothing lower calls upwards, and no lock is taken: a registry belongs to its
//! thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::ending::Ending;
use crate::plan::Plan;
use crate::ws::CloseCode;

/// Names a connection for as long as the process lives: a slot of a worker, and the how manieth
/// connection of that worker it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnId {
    pub worker: u16,
    pub slot: u32,
    pub serial: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}-{}", self.worker, self.slot, self.serial)
    }
}

/// What the control thread asks of a worker.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Go on by the snapshot that was published; sockets of what it no longer has end, spread
    /// over `window`. `backlog` is the worker's share of all backlogs, in bytes.
    Adopt { window: Duration, backlog: usize },
    /// Accept what waits, then nothing more; end every tunnel, spread over `window`.
    Drain { window: Duration, code: CloseCode },
    /// End what is left without a word.
    Cut,
}

/// What a tunnel is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on by this plan.
    Adopt(Arc<Plan>),
    /// End in this way; a tunnel that is ending already goes on with that.
    End(Ending),
    /// End now, and tell nobody.
    Cut(Ending),
}

/// Where a tunnel finds its orders. One waits at a time: the last plan, which an `End` beats; the
/// first `End`, which a `Cut` beats.
#[derive(Default)]
pub struct Mailbox {
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    pub fn post(&self, order: Order) {
        let kept = match (self.order.take(), order) {
            (Some(Order::End(first)), Order::Adopt(_) | Order::End(_)) => Order::End(first),
            (Some(Order::Cut(first)), _) => Order::Cut(first),
            (_, order) => order,
        };
        self.order.set(Some(kept));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Takes the order that waits, and has `cx` woken for the next.
    #[inline]
    pub fn take(&self, cx: &Context<'_>) -> Option<Order> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.order.take()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Mailbox")
    }
}

/// What is known of a tunnel from its handshake on.
#[derive(Debug)]
pub struct About {
    pub client: IpAddr,
    /// The name of its route, of the route's upstream, and of the endpoint in that.
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub endpoint: Arc<str>,
    pub began: Instant,
}

/// The tunnels of one worker, those still dialling included.
#[derive(Debug)]
pub struct Registry {
    worker: u16,
    serial: Cell<u32>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    mailbox: Rc<Mailbox>,
    /// Not before it stands.
    about: Option<Rc<About>>,
}

impl Registry {
    pub fn new(worker: u16) -> Rc<Registry> {
        Rc::new(Registry { worker, serial: Cell::new(0), entries: RefCell::default() })
    }

    pub fn take_seat(self: &Rc<Registry>) -> Seat {
        let mailbox = Rc::<Mailbox>::default();
        let entry = Entry { mailbox: mailbox.clone(), about: None };
        let slot = self.entries.borrow_mut().insert(entry);
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        Seat { registry: self.clone(), slot, serial, mailbox }
    }

    /// The mailboxes of all that are seated now.
    pub fn mailboxes(&self) -> Vec<Rc<Mailbox>> {
        self.entries.borrow().iter().map(|(_, entry)| entry.mailbox.clone()).collect()
    }

    /// Those that stand. What is still dialling looks at the snapshot again before it does.
    pub fn standing(&self) -> Vec<(Rc<Mailbox>, Rc<About>)> {
        let entries = self.entries.borrow();
        let standing = entries.iter().filter_map(|(_, entry)| {
            entry.about.as_ref().map(|about| (entry.mailbox.clone(), about.clone()))
        });
        standing.collect()
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }
}

/// A place in a registry; dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    registry: Rc<Registry>,
    slot: usize,
    serial: u32,
    mailbox: Rc<Mailbox>,
}

impl Seat {
    pub fn id(&self) -> ConnId {
        let slot = u32::try_from(self.slot).expect("a worker has fewer than 2^32 sockets");
        ConnId { worker: self.registry.worker, slot, serial: self.serial }
    }

    pub fn mailbox(&self) -> Rc<Mailbox> {
        self.mailbox.clone()
    }

    /// The tunnel stands from now on, and is told of what concerns it.
    pub fn stand(&self, about: Rc<About>) {
        self.registry.entries.borrow_mut()[self.slot].about = Some(about);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::ending::Reason;

    #[test]
    fn an_end_stays_and_a_cut_beats_it() {
        let mailbox = Mailbox::default();
        let cx = Context::from_waker(Waker::noop());
        let first = Order::End(Reason::Drain.into());
        mailbox.post(Order::Adopt(Arc::default()));
        mailbox.post(first.clone());
        mailbox.post(Order::End(Reason::MaxAge.into()));
        mailbox.post(Order::Adopt(Arc::default()));
        assert_eq!(mailbox.take(&cx), Some(first.clone()));
        mailbox.post(first);
        mailbox.post(Order::Cut(Reason::Drain.into()));
        assert_eq!(mailbox.take(&cx), Some(Order::Cut(Reason::Drain.into())));
        assert_eq!(mailbox.take(&cx), None);
    }

    #[test]
    fn a_seat_is_given_back_and_its_slot_gets_another_name() {
        let registry = Registry::new(3);
        let seat = registry.take_seat();
        let (first, count) = (seat.id(), registry.len());
        drop(seat);
        assert!(registry.is_empty());
        let second = registry.take_seat().id();
        assert_eq!(
            (count, first.to_string(), second.to_string()),
            (1, "3-0-0".into(), "3-0-1".into())
        );
    }
}

//! How what happens once reaches those whom it concerns: orders to tunnels, commands to workers.
//!
//! A tunnel takes a [`Seat`] in its worker's [`Registry`] before it dials, and with it a
//! [`Mailbox`]. The control thread speaks to workers by [`Command`]s, a worker to its tunnels by
//! [`Order`]s. Nothing lower calls upwards, and no lock is taken: a registry belongs to its
//! thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use slab::Slab;

use crate::ending::Ending;
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
    /// Accept what waits, then nothing more; end every tunnel, spread over `window`.
    Drain { window: Duration, code: CloseCode },
    /// End what is left without a word.
    Cut,
}

/// What a tunnel is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End in this way; a tunnel that is ending already goes on with that.
    End(Ending),
    /// End now, and tell nobody.
    Cut(Ending),
}

/// Where a tunnel finds its orders. One waits at a time: the first `End` stays, a `Cut` beats it.
#[derive(Debug, Default)]
pub struct Mailbox {
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    pub fn post(&self, order: Order) {
        match (self.order.get(), order) {
            (Some(_), Order::End(_)) => return,
            _ => self.order.set(Some(order)),
        }
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

/// The tunnels of one worker, those still dialling included.
#[derive(Debug)]
pub struct Registry {
    worker: u16,
    serial: Cell<u32>,
    mailboxes: RefCell<Slab<Rc<Mailbox>>>,
}

impl Registry {
    pub fn new(worker: u16) -> Rc<Registry> {
        Rc::new(Registry { worker, serial: Cell::new(0), mailboxes: RefCell::default() })
    }

    pub fn take_seat(self: &Rc<Registry>) -> Seat {
        let mailbox = Rc::<Mailbox>::default();
        let slot = self.mailboxes.borrow_mut().insert(mailbox.clone());
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        Seat { registry: self.clone(), slot, serial, mailbox }
    }

    /// The mailboxes of all that are seated now.
    pub fn mailboxes(&self) -> Vec<Rc<Mailbox>> {
        self.mailboxes.borrow().iter().map(|(_, mailbox)| mailbox.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.mailboxes.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.mailboxes.borrow().is_empty()
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
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.mailboxes.borrow_mut().remove(self.slot);
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
        mailbox.post(first);
        mailbox.post(Order::End(Reason::MaxAge.into()));
        assert_eq!(mailbox.take(&cx), Some(first));
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

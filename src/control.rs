//! How what happens once reaches those whom it concerns: orders to tunnels, commands to workers,
//! requests to the control thread.
//!
//! A tunnel takes a [`Seat`] in its worker's [`Registry`] before it dials, and with it a
//! [`Mailbox`]. The control thread speaks to workers by [`Command`]s, a worker to its tunnels by
//! [`Order`]s. Nothing lower calls upwards, and no lock is taken: a registry belongs to its
//! thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{mpsc, oneshot};

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

impl FromStr for ConnId {
    type Err = NoConnId;

    /// Reads what it displays as.
    fn from_str(text: &str) -> Result<ConnId, NoConnId> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().filter(|part| part.bytes().all(|it| it.is_ascii_digit()));
        let worker = part().and_then(|part| part.parse().ok()).ok_or(NoConnId)?;
        let slot = part().and_then(|part| part.parse().ok()).ok_or(NoConnId)?;
        let serial = part().and_then(|part| part.parse().ok()).ok_or(NoConnId)?;
        Ok(ConnId { worker, slot, serial })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a connection is three numbers, such as 0-17-42")]
pub struct NoConnId;

/// The way to every worker.
#[derive(Clone, Debug)]
pub struct Workers(Arc<[mpsc::UnboundedSender<Command>]>);

impl Workers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells one; `false` where there is none of that number, or it has ended.
    pub fn tell(&self, worker: usize, command: Command) -> bool {
        self.0.get(worker).is_some_and(|worker| worker.send(command).is_ok())
    }

    pub fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &*self.0 {
            // Fails only for a worker that has ended.
            let _ = worker.send(command());
        }
    }
}

impl FromIterator<mpsc::UnboundedSender<Command>> for Workers {
    fn from_iter<I: IntoIterator<Item = mpsc::UnboundedSender<Command>>>(workers: I) -> Workers {
        Workers(workers.into_iter().collect())
    }
}

/// What an operator asks of the control thread.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration again. Answered when the new one is live, with its generation, or
    /// with why what runs goes on.
    Reload(oneshot::Sender<Result<Generation, String>>),
    /// Begin to drain, and go on living. Answered at once; asked again, it says how far it is.
    Drain(oneshot::Sender<Draining>),
    /// What runs.
    Show(oneshot::Sender<Running>),
}

/// What a reload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    pub number: u64,
    pub changed: bool,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    /// Connections that are left.
    pub connections: usize,
}

/// The configuration that runs.
#[derive(Clone, Debug)]
pub struct Running {
    pub generation: u64,
    /// The text of its file, where it has one.
    pub text: Option<Arc<str>>,
    /// Why the last reload failed, unless one has succeeded since.
    pub failed: Option<Arc<str>>,
}

/// What the control thread asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Go on by the snapshot that was published; sockets of what it no longer has end, spread
    /// over `window`. `backlog` is the worker's share of all backlogs, in bytes.
    Adopt { window: Duration, backlog: usize },
    /// Accept what waits, then nothing more; end every tunnel, spread over `window`.
    Drain { window: Duration, code: CloseCode },
    /// End what is left without a word.
    Cut,
    /// Tell of tunnels that stand.
    List(Listing, oneshot::Sender<Vec<Listed>>),
    /// Tell of the tunnels that stand out, so many by each measure.
    Rank(usize, oneshot::Sender<Ranks>),
    /// End these, and say how many they were.
    Kick(Kick, oneshot::Sender<usize>),
}

/// Which tunnels to tell of, in the order of their slots.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The first slot that is looked at.
    pub from: usize,
    pub limit: usize,
    pub route: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    pub endpoint: Option<Arc<str>>,
}

impl Listing {
    pub fn wants(&self, about: &About) -> bool {
        let fits = |wanted: &Option<Arc<str>>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        fits(&self.route, Some(&about.route))
            && fits(&self.subject, about.subject.as_deref())
            && (fits(&self.endpoint, Some(&about.address))
                || fits(&self.endpoint, Some(&about.endpoint)))
    }
}

/// A tunnel, as it is told of.
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: ConnId,
    pub client: IpAddr,
    pub subject: Option<Arc<str>>,
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub endpoint: Arc<str>,
    pub began: Instant,
    pub figures: Figures,
}

/// What a tunnel had done when it last had its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Frames received from the client and from the upstream.
    pub frames: [u64; 2],
    /// Payload bytes of data frames, likewise.
    pub bytes: [u64; 2],
    /// The client's last measured round trip.
    pub rtt: Option<Duration>,
    /// Wire bytes that wait for the client and for the upstream.
    pub waiting: [usize; 2],
}

/// The tunnels that stand out, by each measure the highest first.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    /// By payload bytes a second since they were last ranked.
    pub loudest: Vec<Ranked>,
    /// By round trip.
    pub slowest: Vec<Ranked>,
    /// By wire bytes that wait.
    pub fullest: Vec<Ranked>,
}

/// A tunnel that stands out.
#[derive(Clone, Debug)]
pub struct Ranked {
    pub tunnel: Listed,
    pub bytes_per_second: f64,
}

/// Whom an operator sends away, and with what words.
#[derive(Clone, Debug)]
pub struct Kick {
    pub whom: Whom,
    pub ending: Ending,
    pub words: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    Connection(ConnId),
    /// All of one name.
    Subject(Arc<str>),
}

/// What a tunnel is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on by this plan.
    Adopt(Arc<Plan>),
    /// End in this way; a tunnel that is ending already goes on with that.
    End(Ending),
    /// The same, with words for the client.
    Expel(Ending, Arc<str>),
    /// End now, and tell nobody.
    Cut(Ending),
}

/// Where a tunnel finds its orders. One waits at a time: the last plan, which an `End` beats; the
/// first `End` or `Expel`, which a `Cut` beats.
#[derive(Default)]
pub struct Mailbox {
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    pub fn post(&self, order: Order) {
        let kept = match (self.order.take(), order) {
            (
                Some(first @ (Order::End(_) | Order::Expel(..))),
                Order::Adopt(_) | Order::End(_) | Order::Expel(..),
            ) => first,
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
    pub subject: Option<Arc<str>>,
    /// The name of its route, of the route's upstream, and of the endpoint in that.
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub endpoint: Arc<str>,
    /// The endpoint's address.
    pub address: Arc<str>,
    pub began: Instant,
    pub progress: Progress,
}

/// How far a tunnel is: its task writes, and who walks over the registry reads.
#[derive(Debug, Default)]
pub struct Progress {
    figures: Cell<Figures>,
    /// Its payload bytes when it was last ranked, and when that was.
    ranked: Cell<Option<(u64, Instant)>>,
}

impl Progress {
    #[inline]
    pub fn set(&self, figures: Figures) {
        self.figures.set(figures);
    }

    pub fn figures(&self) -> Figures {
        self.figures.get()
    }
}

impl About {
    /// What is told of it.
    pub fn listed(&self, id: ConnId) -> Listed {
        Listed {
            id,
            client: self.client,
            subject: self.subject.clone(),
            route: self.route.clone(),
            upstream: self.upstream.clone(),
            endpoint: self.address.clone(),
            began: self.began,
            figures: self.progress.figures(),
        }
    }

    /// Payload bytes a second since this was last asked, the first time since it began.
    pub fn bytes_per_second(&self, now: Instant) -> f64 {
        let Progress { figures, ranked } = &self.progress;
        let all = figures.get().bytes.iter().sum();
        let (before, then) = ranked.replace(Some((all, now))).unwrap_or((0, self.began));
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        // Two who ask at once must not make a trickle a flood.
        all.saturating_sub(before) as f64 / seconds.max(0.1)
    }
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
    serial: u32,
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
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        let entry = Entry { serial, mailbox: mailbox.clone(), about: None };
        let slot = self.entries.borrow_mut().insert(entry);
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

    /// Those that stand among the next [`Registry::SLICE`] slots, and the slot to go on from.
    /// A walk over many goes in slices, so that frames are relayed in between.
    pub fn slice(&self, from: usize) -> (Vec<Standing>, Option<usize>) {
        let entries = self.entries.borrow();
        let end = from.saturating_add(Self::SLICE);
        let standing = (from..end.min(entries.capacity())).filter_map(|slot| {
            let entry = entries.get(slot)?;
            let about = entry.about.clone()?;
            let id = self.id(slot, entry.serial);
            Some(Standing { id, mailbox: entry.mailbox.clone(), about })
        });
        (standing.collect(), (end < entries.capacity()).then_some(end))
    }

    /// Shows those of a slice without taking hold of them, and gives the slot to go on from.
    pub fn look(&self, from: usize, mut see: impl FnMut(ConnId, &About)) -> Option<usize> {
        let entries = self.entries.borrow();
        let end = from.saturating_add(Self::SLICE);
        for slot in from..end.min(entries.capacity()) {
            let Some(Entry { serial, about: Some(about), .. }) = entries.get(slot) else {
                continue;
            };
            see(self.id(slot, *serial), about);
        }
        (end < entries.capacity()).then_some(end)
    }

    /// Slots that are looked at in one turn.
    pub const SLICE: usize = 1024;

    fn id(&self, slot: usize, serial: u32) -> ConnId {
        let slot = u32::try_from(slot).expect("a worker has fewer than 2^32 sockets");
        ConnId { worker: self.worker, slot, serial }
    }

    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }
}

/// A tunnel that stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub id: ConnId,
    pub mailbox: Rc<Mailbox>,
    pub about: Rc<About>,
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
        self.registry.id(self.slot, self.serial)
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
    fn a_rate_is_that_since_it_was_last_asked() {
        let began = Instant::now();
        let word = || Arc::<str>::from("-");
        let about = About {
            client: IpAddr::from([127, 0, 0, 1]),
            subject: None,
            route: word(),
            upstream: word(),
            endpoint: word(),
            address: word(),
            began,
            progress: Progress::default(),
        };
        let later = |seconds| began + Duration::from_secs(seconds);
        about.progress.set(Figures { bytes: [100, 300], ..Figures::default() });
        assert_eq!(about.bytes_per_second(later(4)), 100.0);
        about.progress.set(Figures { bytes: [100, 500], ..Figures::default() });
        assert_eq!(about.bytes_per_second(later(5)), 200.0);
        assert_eq!(about.bytes_per_second(later(6)), 0.0);
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

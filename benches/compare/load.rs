//! The load: opens connections through a proxy, keeps them busy or still, and takes the figure.
//!
//! All of it, backend included, is one thread on one core, so that its cost is the same for every
//! proxy and none of it is the kernel choosing between threads.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Message, Target, close};
use crate::link::Link;
use crate::process::Running;
use crate::rows::Load;

/// How many handshakes are under way at once while connections are opened for another purpose.
const OPENING: usize = 32;
/// How many are under way while handshakes are what is measured: enough that the proxy does not
/// go to sleep between two of them.
const SHAKING: usize = 8;

/// How large the load is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Connections that echo.
    pub connections: usize,
    /// Connections that keep still.
    pub pairs: usize,
    /// How long a proxy may settle before it is weighed.
    pub settle: Duration,
}

/// Puts `load` on the proxy and gives the figure in the row's unit.
pub async fn measure(
    load: Load,
    scale: Scale,
    target: &Target,
    proxy: &Running,
) -> anyhow::Result<f64> {
    match load {
        Load::Echo { bytes, messages } => echo(bytes, messages, scale, target, proxy).await,
        Load::Idle => idle(scale, target, proxy).await,
        Load::Handshakes { count } => handshakes(count, target, proxy).await,
        Load::Paced { bytes, rate, duration } => paced(bytes, rate, duration, scale, target).await,
    }
}

/// CPU per message, in microseconds, with the connections open and warm.
async fn echo(
    bytes: usize,
    messages: u64,
    scale: Scale,
    target: &Target,
    proxy: &Running,
) -> anyhow::Result<f64> {
    let players = open(target, scale.connections).await?;
    let message = Message::new(bytes);
    let each = messages.div_ceil(scale.connections as u64);
    let players = ping_pong(players, &message, 0..each.div_ceil(10)).await?;
    calm().await;
    let before = proxy.cpu()?;
    let players = ping_pong(players, &message, 0..each).await?;
    calm().await;
    let spent = spent_since(before, proxy)?;
    let echoed = each * players.len() as u64;
    Ok(microseconds(spent) / echoed as f64)
}

/// Memory per pair, in KiB: the difference between none and all of them.
async fn idle(scale: Scale, target: &Target, proxy: &Running) -> anyhow::Result<f64> {
    let before = proxy.memory()?;
    let mut still = JoinSet::new();
    for link in open(target, scale.pairs).await? {
        still.spawn(keep(link));
    }
    sleep(scale.settle).await;
    let grown = proxy.memory()?.saturating_sub(before);
    if let Some(ended) = still.try_join_next() {
        ended??;
    }
    Ok(grown as f64 / 1024.0 / scale.pairs as f64)
}

/// CPU per connection from SYN to FIN, in microseconds.
async fn handshakes(count: u64, target: &Target, proxy: &Running) -> anyhow::Result<f64> {
    open_and_close(count.div_ceil(10), target).await.context("warm-up")?;
    calm().await;
    let before = proxy.cpu()?;
    open_and_close(count, target).await?;
    calm().await;
    let spent = spent_since(before, proxy)?;
    Ok(microseconds(spent) / count as f64)
}

/// The 99th percentile of the time from when a message was due to when its echo was there, in
/// milliseconds.
async fn paced(
    bytes: usize,
    rate: u64,
    duration: Duration,
    scale: Scale,
    target: &Target,
) -> anyhow::Result<f64> {
    let players = open(target, scale.connections).await?;
    let interval = Duration::from_secs(scale.connections as u64) / rate as u32;
    let start = now() + Duration::from_millis(50);
    let mut playing = JoinSet::new();
    for (place, link) in players.into_iter().enumerate() {
        let first = start + interval.mul_f64(place as f64 / scale.connections as f64);
        let pace = Pace { first, interval, count: duration.div_duration_f64(interval) as u64 };
        playing.spawn(keep_pace(link, Message::new(bytes), pace));
    }
    let mut times = Vec::new();
    for one in all(playing).await? {
        times.extend(one);
    }
    times.sort_unstable();
    let at = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    let p99 = times.get(at).context("no message was sent")?;
    Ok(microseconds(*p99) / 1000.0)
}

/// Opens so many connections.
async fn open(target: &Target, count: usize) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() == OPENING {
            links.extend(one(&mut opening).await?);
        }
        let target = target.clone();
        opening.spawn(async move { target.connect().await });
    }
    while let Some(link) = one(&mut opening).await? {
        links.push(link);
    }
    ensure!(links.len() == count, "{} of {count} connections opened", links.len());
    Ok(links)
}

async fn open_and_close(count: u64, target: &Target) -> anyhow::Result<()> {
    let mut shaking = JoinSet::new();
    for _ in 0..count {
        if shaking.len() == SHAKING {
            one(&mut shaking).await?;
        }
        let target = target.clone();
        shaking.spawn(async move { close(target.connect().await?).await });
    }
    all(shaking).await.map(drop)
}

async fn ping_pong(
    links: Vec<Link>,
    message: &Message,
    numbers: std::ops::Range<u64>,
) -> anyhow::Result<Vec<Link>> {
    let mut playing = JoinSet::new();
    for mut link in links {
        let (mut message, numbers) = (message.clone(), numbers.clone());
        playing.spawn(async move {
            for number in numbers {
                link.send(message.stamped(number)).await?;
                receive(&mut link, &message, number).await?;
            }
            Ok(link)
        });
    }
    all(playing).await
}

async fn receive(link: &mut Link, message: &Message, expected: u64) -> io::Result<()> {
    let head = link.next().await?;
    let number = message.number(link.bytes(head))?;
    link.consume(head);
    if number == expected {
        return Ok(());
    }
    Err(crate::frame::broken(&format!("echo {number} came instead of {expected}")))
}

/// Answers pings until the connection ends, which is an error.
async fn keep(mut link: Link) -> io::Result<()> {
    let head = link.next().await?;
    Err(crate::frame::broken(&format!("an idle connection was sent opcode {:#x}", head.opcode)))
}

/// When the messages of one connection are due.
#[derive(Clone, Copy)]
struct Pace {
    /// On the monotonic clock.
    first: Duration,
    interval: Duration,
    count: u64,
}

impl Pace {
    fn due(&self, number: u64) -> Duration {
        self.first + Duration::from_nanos(self.interval.as_nanos() as u64 * number)
    }
}

/// Sends on schedule, however late the echoes are, and gives the time each took.
///
/// The clock of a message starts when it was due, not when it could be sent: a proxy that holds up
/// the line pays for everyone who waits in it.
async fn keep_pace(mut link: Link, mut message: Message, pace: Pace) -> io::Result<Vec<Duration>> {
    let timer = timer(pace)?;
    let mut times = Vec::with_capacity(pace.count as usize);
    let mut sent = 0;
    while (times.len() as u64) < pace.count {
        tokio::select! {
            biased;
            head = link.next() => {
                let head = head?;
                let number = message.number(link.bytes(head))?;
                link.consume(head);
                if number != times.len() as u64 {
                    return Err(crate::frame::broken("echoes out of order"));
                }
                times.push(now().saturating_sub(pace.due(number)));
            }
            due = ticks(&timer), if sent < pace.count => {
                for _ in 0..due?.min(pace.count - sent) {
                    link.send(message.stamped(sent)).await?;
                    sent += 1;
                }
            }
        }
    }
    Ok(times)
}

/// A timer of the kernel's, because the runtime's own tick of one millisecond is as long as what
/// is to be measured.
#[expect(deprecated, reason = "sound for an OwnedFd, and what replaces it is unsafe")]
fn timer(pace: Pace) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let spec = Itimerspec { it_interval: timespec(pace.interval), it_value: timespec(pace.first) };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &spec)?;
    AsyncFd::new(timer)
}

/// How often the timer has gone off since it was last asked; at least once.
async fn ticks(timer: &AsyncFd<OwnedFd>) -> io::Result<u64> {
    loop {
        let mut ready = timer.readable().await?;
        let mut count = [0; 8];
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
        if let Ok(read) = read {
            read?;
            return Ok(u64::from_ne_bytes(count));
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// The monotonic clock, which is the timer's.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn spent_since(before: Duration, proxy: &Running) -> anyhow::Result<Duration> {
    let spent = proxy.cpu()?.checked_sub(before);
    spent.context("a thread or child of the proxy ended, and its account with it")
}

/// Lets the proxy finish, go to sleep and so have its account closed by the kernel.
async fn calm() {
    sleep(Duration::from_millis(50)).await;
}

async fn one<T: 'static>(tasks: &mut JoinSet<io::Result<T>>) -> anyhow::Result<Option<T>> {
    match tasks.join_next().await {
        None => Ok(None),
        Some(ended) => Ok(Some(ended??)),
    }
}

async fn all<T: 'static>(mut tasks: JoinSet<io::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = one(&mut tasks).await? {
        results.push(result);
    }
    Ok(results)
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

//! The rows, and what each says.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use crate::edge::{Edge, Setup};
use crate::load::{self, Still};
use crate::tls::Certificate;

/// How large all of it is.
pub struct Setting {
    rounds: u32,
    connections: usize,
    /// Messages of one figure.
    messages: u64,
    /// Between two heartbeats on either side, in whole seconds.
    interval: Duration,
    /// How long an edge may settle, and how long after a burst it is weighed.
    settle: Duration,
    after: Duration,
}

impl Setting {
    pub fn new(rounds: u32, connections: usize, quick: bool) -> Setting {
        let seconds = |whole, few| Duration::from_secs(if quick { few } else { whole });
        Setting {
            rounds: if quick { 1 } else { rounds },
            connections: if quick { connections.min(200) } else { connections },
            messages: if quick { 2_000 } else { 100_000 },
            interval: seconds(30, 1),
            settle: seconds(2, 1),
            after: seconds(60, 1),
        }
    }
}

/// CPU per echoed 64 B message over TLS, with 100 connections, with 1,000, and with all.
pub async fn messages(setting: &Setting, certificate: &Certificate) -> anyhow::Result<String> {
    let counts = [100, 1000, setting.connections].map(|count| count.min(setting.connections));
    let mut figures = [const { Vec::new() }; 3];
    for round in 0..setting.rounds {
        for at in rotated(counts.len(), round) {
            let setup = on(&[0], certificate);
            let (figure, _) = per_message(setting, setup, counts[at]).await?;
            eprintln!("round {:2}  {} connections: {figure:.2} µs", round + 1, counts[at]);
            figures[at].push(figure);
        }
    }
    let medians = figures.map(median);
    let mut told = String::from(
        "| connections | CPU per echoed 64 B message, TLS | × |\n| --- | --- | --- |\n",
    );
    for (count, median) in counts.iter().zip(medians) {
        writeln!(told, "| {count} | {median:.2} µs | {:.3} |", median / medians[0])?;
    }
    Ok(told)
}

/// The share of a core that heartbeats of idle TLS connections take, on both sides of the edge.
pub async fn heartbeats(setting: &Setting, certificate: &Certificate) -> anyhow::Result<String> {
    let interval = setting.interval.as_secs();
    let policy = format!(
        "heartbeat = {{ interval = \"{interval}s\", upstream.interval = \"{interval}s\" }}"
    );
    let edge = Edge::start(Setup { policy: &policy, ..on(&[0], certificate) }).await?;
    let mut still = Still::new(load::open(&edge.target, setting.connections).await?);
    // The first of all have to be past before two rounds of them are measured.
    sleep(setting.interval + setting.settle).await;
    let before = edge.running.cpu()?;
    sleep(2 * setting.interval).await;
    let spent = edge.running.cpu()? - before;
    still.all_live()?;
    let share = spent.as_secs_f64() / (2 * interval) as f64;
    let each = spent.as_secs_f64() * 1e6 / (4 * setting.connections) as f64;
    Ok(format!(
        "{} idle TLS connections, a ping each {interval} s on either side: {:.2} % of a core \
         (budget 1 %){}; {each:.1} µs for a ping and its pong\n",
        setting.connections,
        share * 100.0,
        mark(share < 0.01),
    ))
}

/// CPU per message with two workers beside one, on the same cores, and how evenly they work.
pub async fn workers(setting: &Setting, certificate: &Certificate) -> anyhow::Result<String> {
    let (mut figures, mut differences) = ([const { Vec::new() }; 2], Vec::new());
    for round in 0..setting.rounds {
        for at in rotated(2, round) {
            let setup = Setup { workers: at + 1, ..on(&[0, 1], certificate) };
            let (figure, shares) =
                per_message(setting, setup, 200.min(setting.connections)).await?;
            eprintln!("round {:2}  {} workers: {figure:.2} µs, {shares:.0?}", round + 1, at + 1);
            figures[at].push(figure);
            if let [one, other] = shares[..] {
                differences.push(1.0 - one.min(other).div_duration_f64(one.max(other)));
            }
        }
    }
    let [one, two] = figures.map(median);
    let (ratio, difference) = (two / one, median(differences));
    Ok(format!(
        "CPU per echoed 64 B message, TLS: {one:.2} µs with one worker, {two:.2} with two: \
         {ratio:.3} × (budget 1.1){}; the lesser worker's share is {:.1} % under the other's \
         (budget 20 %){}\n",
        mark(ratio <= 1.1),
        difference * 100.0,
        mark(difference < 0.2),
    ))
}

/// User-space memory before a burst of TLS connections, with all open, and when they are gone.
pub async fn memory(setting: &Setting, certificate: &Certificate) -> anyhow::Result<String> {
    let edge = Edge::start(on(&[0], certificate)).await?;
    // What is made at the first use is not the burst's.
    let few = load::open(&edge.target, 10).await?;
    load::close_all(load::echo(few, 64, 10).await?).await?;
    sleep(setting.settle).await;
    let before = edge.running.memory()?;
    let all = load::open(&edge.target, setting.connections).await?;
    let all = load::echo(all, 4096, 1).await?;
    let open = edge.running.memory()?;
    load::close_all(all).await?;
    let at_once = edge.running.memory()?;
    sleep(setting.after).await;
    let after = edge.running.memory()?;
    let ratio = after as f64 / before as f64;
    let kibibytes = |bytes: u64| bytes >> 10;
    Ok(format!(
        "user-space memory: {} KiB; with {} TLS connections {}; when they have closed {}; {} s \
         later {}: {ratio:.3} × (budget 1.1){}\n",
        kibibytes(before),
        setting.connections,
        kibibytes(open),
        kibibytes(at_once),
        setting.after.as_secs(),
        kibibytes(after),
        mark(ratio <= 1.1),
    ))
}

/// One worker on these cores, TLS, every policy by its default but one: a connection that waits
/// long for its turn answers no ping meanwhile, and is not to be cut for that.
fn on<'a>(cores: &'a [usize], certificate: &'a Certificate) -> Setup<'a> {
    let policy = "heartbeat = { timeout = \"off\" }";
    Setup { workers: 1, cores, certificate: Some(certificate), under: Vec::new(), policy }
}

/// CPU per message in microseconds, all threads together, and that of each worker meanwhile.
async fn per_message(
    setting: &Setting,
    setup: Setup<'_>,
    connections: usize,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let edge = Edge::start(setup).await?;
    let links = load::open(&edge.target, connections).await?;
    let each = setting.messages.div_ceil(connections as u64);
    let links = load::echo(links, 64, each.div_ceil(10)).await?;
    calm().await;
    let (before, workers) = (edge.running.cpu()?, edge.running.cpu_of_threads("worker-")?);
    let links = load::echo(links, 64, each).await?;
    calm().await;
    let spent = edge.running.cpu()?.checked_sub(before).context("a thread of wsgate ended")?;
    let shares = edge.running.cpu_of_threads("worker-")?;
    let shares = shares.iter().zip(workers).map(|(now, before)| *now - before).collect();
    Ok((spent.as_secs_f64() * 1e6 / (each * links.len() as u64) as f64, shares))
}

/// Lets the edge finish, go to sleep and so have its account closed by the kernel.
async fn calm() {
    sleep(Duration::from_millis(50)).await;
}

/// Whose turn it is, so that nobody is always first.
fn rotated(count: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round as usize) % count)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mark(reached: bool) -> &'static str {
    if reached { " ✓" } else { " ✗" }
}

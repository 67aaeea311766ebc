//! What wsgate costs in things that can be counted, beside the committed figures:
//!
//! ```text
//! cargo bench --bench costs                # fails when one has grown by more than 5 %
//! cargo bench --bench costs -- --accept    # commits the new ones
//! ```
//!
//! Counted are instructions and system calls of a message and of a handshake, and bytes of an idle
//! connection: none of them depends on how busy the machine is. The traffic is the same each time,
//! and each figure is the difference of two runs, of which one has more of one thing, over that
//! more: what a start costs is in both and so in no figure. `docs/performance.md` tells the rest.
//!
//! Exit code 0: nothing has grown; 1: something has, or something failed; 2: usage.

#[path = "../compare/backend.rs"]
mod backend;
#[path = "../compare/client.rs"]
mod client;
mod edge;
mod figures;
#[path = "../compare/frame.rs"]
mod frame;
#[path = "../compare/link.rs"]
mod link;
#[path = "../compare/process.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod process;
#[path = "../compare/tls.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod tls;
mod tool;
mod traffic;
#[path = "../compare/wsgate.rs"]
mod wsgate;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use tokio::time::sleep;

use crate::edge::{Edge, Setup};
use crate::figures::{Figures, Parts, judge};
use crate::tls::Certificate;
use crate::tool::{Counts, Tool};
use crate::traffic::Traffic;

/// The load may have it too: no figure changes by that.
const CORES: &[usize] = &[0];
/// How long an edge may settle before it is weighed.
const SETTLE: Duration = Duration::from_secs(1);

/// Counts what wsgate costs, and compares with the committed figures
#[derive(Parser, Debug)]
#[command(name = "costs", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Write the figures counted over the committed ones
    #[arg(long)]
    accept: bool,
    /// Given by cargo, without meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand, Debug)]
enum Part {
    /// Run a program on some cores
    #[command(hide = true)]
    Pin {
        cores: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Part::Pin { cores, program }) = &arguments.part {
        process::become_pinned(cores, program)?;
    }
    // A build without optimisation costs something else: it can only be asked whether it works.
    let more =
        if cfg!(debug_assertions) { More { messages: 20, handshakes: 4, pairs: 50 } } else { MORE };
    process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(count(more))?.rounded();
    if cfg!(debug_assertions) {
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.accept {
        figures.accept()?;
        println!("accepted: commit benches/costs/committed.toml");
        return Ok(ExitCode::SUCCESS);
    }
    tell(&figures)
}

fn tell(figures: &Figures) -> anyhow::Result<ExitCode> {
    const ACCEPT: &str =
        "`cargo bench --bench costs -- --accept`, then commit benches/costs/committed.toml";
    let judgement = judge(figures, &Figures::committed()?);
    println!("{}", judgement.text);
    if judgement.faults > 0 {
        println!("Where that is meant: {ACCEPT}");
        return Ok(ExitCode::FAILURE);
    }
    if judgement.hints > 0 {
        println!("Better than committed. So that it stays so: {ACCEPT}");
    }
    Ok(ExitCode::SUCCESS)
}

/// How much more the second run of each figure does.
#[derive(Clone, Copy)]
struct More {
    messages: u64,
    /// Over TLS; ten times that without, which costs a tenth.
    handshakes: u64,
    pairs: usize,
}

const MORE: More = More { messages: 4000, handshakes: 100, pairs: 1000 };
/// What every run does: whatever is made at the first use is made.
const BASE: Traffic = Traffic { small: 100, large: 100, handshakes: 10 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
}

async fn count(more: More) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let mut figures = Figures::default();
    for wire in [Wire::Plain, Wire::Tls] {
        let certificate = (wire == Wire::Tls).then_some(&certificate);
        let row = format!("idle-{}", name(wire));
        figures.bytes.insert(row, bytes_per_pair(more.pairs, certificate).await?);
    }
    for tool in [Tool::Callgrind, Tool::Strace] {
        if !tool.is_installed() {
            println!("SKIPPED: {} is not installed", tool.program());
            continue;
        }
        for wire in [Wire::Plain, Wire::Tls] {
            let certificate = (wire == Wire::Tls).then_some(&certificate);
            let base = counted(tool, BASE, certificate).await?;
            for (what, traffic, times) in more.of_each(wire) {
                let counts = counted(tool, traffic, certificate).await?;
                let row = format!("{what}-{}", name(wire));
                eprintln!("{}: {row}", tool.program());
                let parts = of_one(&base, &counts, times);
                match tool {
                    Tool::Callgrind => {
                        figures
                            .instructions
                            .extend(parts.into_values().map(|it| (row.clone(), it)));
                    }
                    Tool::Strace => drop(figures.system_calls.insert(row, parts)),
                }
            }
        }
    }
    Ok(figures)
}

impl More {
    /// The runs that do more than the base, by the row they are for, and how much more.
    fn of_each(self, wire: Wire) -> [(&'static str, Traffic, u64); 3] {
        let More { messages, handshakes, .. } = self;
        let handshakes = if wire == Wire::Tls { handshakes } else { 10 * handshakes };
        [
            ("echo64", Traffic { small: BASE.small + messages, ..BASE }, messages),
            ("echo4k", Traffic { large: BASE.large + messages, ..BASE }, messages),
            ("handshake", Traffic { handshakes: BASE.handshakes + handshakes, ..BASE }, handshakes),
        ]
    }
}

/// What a run of wsgate from start to end comes to.
async fn counted(
    tool: Tool,
    traffic: Traffic,
    certificate: Option<&Certificate>,
) -> anyhow::Result<Counts> {
    let folder = tempfile::tempdir()?;
    let account = folder.path().join("account");
    let edge = Edge::start(Setup { under: tool.command(&account), ..alone(certificate) }).await?;
    traffic.run(&edge.target).await?;
    edge.end().await?;
    tool.read(&account)
}

/// The difference of two runs, over what the second did more.
fn of_one(base: &Counts, counts: &Counts, times: u64) -> Parts {
    let names = base.keys().chain(counts.keys());
    let of = |counts: &Counts, name| counts.get(name).copied().unwrap_or_default() as f64;
    names.map(|name| (name.clone(), (of(counts, name) - of(base, name)) / times as f64)).collect()
}

/// What the second thousand of idle pairs adds to user-space memory, in bytes a pair.
async fn bytes_per_pair(pairs: usize, certificate: Option<&Certificate>) -> anyhow::Result<f64> {
    let edge = Edge::start(alone(certificate)).await?;
    let (mut links, mut weights) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        for _ in 0..pairs {
            links.push(edge.target.connect().await?);
        }
        sleep(SETTLE).await;
        weights.push(edge.running.memory()?);
    }
    ensure!(weights[1] > weights[0], "idle pairs weigh nothing");
    Ok((weights[1] - weights[0]) as f64 / pairs as f64)
}

fn alone(certificate: Option<&Certificate>) -> Setup<'_> {
    Setup { workers: 1, cores: CORES, certificate, under: Vec::new(), policy: "" }
}

fn name(wire: Wire) -> &'static str {
    match wire {
        Wire::Plain => "plain",
        Wire::Tls => "tls",
    }
}

//! What does not show with a few connections on one worker, for wsgate alone:
//!
//! ```text
//! cargo bench --bench flat                        # all rows, about eight minutes
//! cargo bench --bench flat -- --only memory       # one of them
//! cargo bench --bench flat -- --quick             # does it work at all; judges no figure
//! ```
//!
//! Whether a message costs the same with very many connections open, what heartbeats of idle ones
//! take, what a second worker costs, and whether memory comes back after a burst.
//! `docs/performance.md` tells how each is measured.
//!
//! Exit code 0: all worked, whatever the figures; 1: something failed; 2: usage.

#[path = "../compare/backend.rs"]
mod backend;
#[path = "../compare/client.rs"]
mod client;
#[path = "../costs/edge.rs"]
#[expect(dead_code, reason = "shared with the costs")]
mod edge;
#[path = "../compare/frame.rs"]
mod frame;
#[path = "../compare/link.rs"]
mod link;
mod load;
#[path = "../compare/process.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod process;
mod rows;
#[path = "../compare/tls.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod tls;
#[path = "../compare/wsgate.rs"]
mod wsgate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::rows::Setting;
use crate::tls::Certificate;

/// Measures what wsgate costs with very many connections, and with two workers
#[derive(Parser, Debug)]
#[command(name = "flat", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rows to measure, all by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Row>,
    /// Interleaved rounds of the rows that compare
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// As many as are open at once; two descriptors each, here and in the edge
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Few connections and seconds, to see that all works
    #[arg(long)]
    quick: bool,
    /// Given by cargo, without meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// CPU per message with few and with many connections open
    Messages,
    /// CPU that heartbeats of idle connections take
    Heartbeats,
    /// CPU per message with one worker and with two
    Workers,
    /// Memory a minute after a burst of connections has gone
    Memory,
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
    process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure_until_stopped(&arguments))
}

/// What a signal cuts short is dropped, and with it every child process.
async fn measure_until_stopped(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        measured = measure(arguments) => measured.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    // A build without optimisation can only be asked whether it works.
    let quick = arguments.quick || cfg!(debug_assertions);
    let setting = Setting::new(arguments.rounds, arguments.connections as usize, quick);
    for row in Row::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(row) {
            continue;
        }
        let told = match row {
            Row::Messages => rows::messages(&setting, &certificate).await?,
            Row::Heartbeats => rows::heartbeats(&setting, &certificate).await?,
            Row::Workers => rows::workers(&setting, &certificate).await?,
            Row::Memory => rows::memory(&setting, &certificate).await?,
        };
        println!("{told}");
    }
    Ok(())
}

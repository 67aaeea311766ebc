//! More connections than one address has ports, through several wsgate processes on one port:
//!
//! ```text
//! cargo bench --bench scale                            # 72,000 connections through 8 processes
//! cargo bench --bench scale -- --connections 18000 --edges 2 --tls
//! cargo bench --bench scale -- --quick                 # does it work at all; judges no figure
//! ```
//!
//! This process starts the edges, which share a listening port (`reuse_port`) and one file, and as
//! many loads and echo servers as it takes for none to open too many files. The loads connect from
//! an address each, open all connections, and then keep still but for an echo on each when they
//! are told to. `docs/scale.md` has the figures and what follows from them.
//!
//! Exit code 0: all connections opened, echoed, and were there at the end; 1: not so; 2: usage.

#[path = "compare/backend.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod backend;
#[path = "compare/client.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod client;
#[path = "compare/frame.rs"]
mod frame;
#[path = "compare/link.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod link;
#[path = "compare/process.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod process;
#[path = "compare/tls.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod tls;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backend::Backend;
use crate::client::{Message, Target};
use crate::link::Link;
use crate::process::{Port, Program, Running};
use crate::tls::Certificate;

/// How long anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(600);
/// How many handshakes a load has under way at once.
const OPENING: usize = 32;
/// How many connections a load or an echo server has at most: a descriptor each.
const OF_ONE: usize = 18_000;

/// Holds very many connections through several wsgate processes
#[derive(Parser, Debug)]
#[command(name = "scale", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Connections, over all edges
    #[arg(long, default_value_t = 72_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// wsgate processes, one worker each
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    edges: u32,
    /// TLS between clients and edges
    #[arg(long)]
    tls: bool,
    /// Few connections and seconds, to see that all works
    #[arg(long)]
    quick: bool,
    /// Given by cargo, without meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the bench binary is in its child processes.
#[derive(Subcommand, Debug)]
enum Part {
    /// An echo server: says its address
    Echo,
    /// A load: opens connections, and echoes on all of them at each SIGUSR1
    Load(Load),
    /// Run a program on one core
    #[command(hide = true)]
    Pin {
        core: usize,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

#[derive(Args, Debug)]
struct Load {
    /// Where the edges listen
    #[arg(long)]
    address: SocketAddr,
    /// The local address to connect from
    #[arg(long)]
    source: Ipv4Addr,
    #[arg(long)]
    connections: usize,
    /// PEM file of the certificate to trust; plain without it
    #[arg(long)]
    chain: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.part {
        Some(Part::Echo) => runtime.block_on(echo_server())?,
        Some(Part::Load(load)) => runtime.block_on(load.run())?,
        Some(Part::Pin { core, program }) => process::become_pinned(core, &program)?,
        None => return runtime.block_on(until_stopped(&Setting::new(&arguments))),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a signal cuts short is dropped, and with it every child process.
async fn until_stopped(setting: &Setting) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        measured = measure(setting) => measured.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn echo_server() -> anyhow::Result<()> {
    let backend = Backend::start().await?;
    println!("listening {}", backend.address);
    std::future::pending().await
}

impl Load {
    async fn run(self) -> anyhow::Result<()> {
        // Before the first word: a signal without a handler would end this process.
        let mut asked = signal(SignalKind::user_defined1())?;
        let tls = self.chain.map(|chain| Certificate { key: PathBuf::new(), chain }.connector());
        let target = Target { address: self.address, source: Some(self.source), tls: tls.transpose()? };
        let (round, rounds) = watch::channel(0);
        let echoed = Arc::new(AtomicUsize::new(0));
        let mut keeping = JoinSet::new();
        let mut opening = JoinSet::new();
        for number in 0..self.connections + OPENING {
            if number < self.connections {
                let target = target.clone();
                opening.spawn(async move { target.connect().await });
            }
            if number >= OPENING && let Some(link) = opening.join_next().await {
                keeping.spawn(keep(link??, rounds.clone(), echoed.clone()));
            }
        }
        println!("open {}", keeping.len());
        loop {
            tokio::select! {
                _ = asked.recv() => round.send_modify(|round| *round += 1),
                Some(ended) = keeping.join_next() => println!("lost: {:?}", ended?),
            }
            while echoed.load(Ordering::Relaxed) < keeping.len() * *round.borrow() as usize {
                let Ok(ended) =
                    tokio::time::timeout(Duration::from_millis(50), keeping.join_next()).await
                else {
                    continue;
                };
                println!("lost: {:?}", ended.context("no connection is left")??);
            }
            println!("echoed {}", echoed.load(Ordering::Relaxed));
        }
    }
}

/// Keeps still, answering pings, and echoes a message each round; it ends when the connection does.
async fn keep(
    mut link: Link,
    mut rounds: watch::Receiver<u64>,
    echoed: Arc<AtomicUsize>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            head = link.next() => {
                let opcode = head?.opcode;
                return Err(frame::broken(&format!("opcode {opcode:#x} came unasked")));
            }
            Ok(()) = rounds.changed() => {
                let number = *rounds.borrow_and_update();
                let mut message = Message::new(64);
                link.send(message.stamped(number)).await?;
                let head = link.next().await?;
                if message.number(link.bytes(head))? != number {
                    return Err(frame::broken("another echo than was due"));
                }
                link.consume(head);
                echoed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

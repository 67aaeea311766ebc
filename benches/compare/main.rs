//! wsgate against nginx, HAProxy, Envoy and a bare relay, end to end, in one command:
//!
//! ```text
//! cargo bench --bench compare                         # the whole table, ten minutes
//! cargo bench --bench compare -- --only echo64-tls    # one row
//! cargo bench --bench compare -- --quick              # does it work at all; judges no figure
//! cargo bench --bench compare -- --only echo64-tls --proxies wsgate,rates
//!                                                     # what one thing costs: before, rates, hs256, …
//! ```
//!
//! The proxy under test has one core and one worker, load and backend have another core. Each
//! cell of the table gets a fresh proxy, a fresh backend and fresh ports. Rounds are interleaved,
//! and the order within a round rotates, so that a machine that slows down for a minute slows
//! everyone. `docs/performance.md` tells what is measured and why so.
//!
//! Exit code 0: all worked, whatever the figures; 1: something failed; 2: usage.

mod backend;
mod bare;
mod client;
mod frame;
mod link;
mod load;
#[expect(dead_code, reason = "shared with the other benches")]
mod process;
mod proxies;
mod report;
mod rows;
mod tls;
mod token;
mod wsgate;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::Backend;
use crate::client::Target;
use crate::load::Scale;
use crate::process::{Port, Running};
use crate::proxies::{Proxy, Task};
use crate::report::Figures;
use crate::rows::{ROWS, Row, Wire};
use crate::tls::Certificate;

/// How long one cell may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// Compares wsgate with nginx, HAProxy, Envoy and a bare relay
#[derive(Parser, Debug)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// How often every proxy takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Rows to measure, all by default
    #[arg(long, value_delimiter = ',', value_parser = row_names())]
    only: Vec<String>,
    /// Proxies to measure, all by default
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<Proxy>,
    /// Connections that echo
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Connections that keep still
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// The proxy's core
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// The core of load and backend
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// One round of few messages, to see that all works
    #[arg(long)]
    quick: bool,
    /// Given by cargo, without meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the bench binary is in its child processes.
#[derive(Subcommand, Debug)]
enum Part {
    /// The bare relay
    Bare(bare::Bare),
    /// Run a program on some cores
    #[command(hide = true)]
    Pin {
        cores: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

fn row_names() -> clap::builder::PossibleValuesParser {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().into()
}

/// How much is done: figures need much of everything, a smoke test little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Full,
    Quick,
}

/// What is compared, and how.
struct Setting {
    size: Size,
    rounds: u32,
    rows: Vec<&'static Row>,
    proxies: Vec<Proxy>,
    scale: Scale,
    proxy_core: usize,
    load_core: usize,
    /// How many descriptors a process may open.
    files: u64,
    /// Of the minute before the first round.
    load_average: String,
}

impl Setting {
    fn new(arguments: Arguments) -> Setting {
        // A build without optimisation can only be asked whether it works: so it is by
        // `cargo test --benches`.
        let quick = arguments.quick || cfg!(debug_assertions);
        let asked = |row: &&Row| {
            arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name)
        };
        let whole = Scale {
            connections: arguments.connections as usize,
            pairs: arguments.pairs as usize,
            settle: Duration::from_secs(2),
        };
        let small = Scale {
            connections: whole.connections.min(50),
            pairs: whole.pairs.min(100),
            settle: Duration::from_millis(100),
        };
        Setting {
            size: if quick { Size::Quick } else { Size::Full },
            rounds: if quick { 1 } else { arguments.rounds },
            rows: ROWS.iter().filter(asked).collect(),
            proxies: present(&arguments.proxies),
            scale: if quick { small } else { whole },
            proxy_core: arguments.proxy_core,
            load_core: arguments.load_core,
            files: process::raise_open_files(),
            load_average: report::load_average(),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match arguments.part {
        Some(Part::Bare(bare)) => runtime()?.block_on(bare::run(bare))?,
        Some(Part::Pin { cores, program }) => process::become_pinned(&cores, &program)?,
        None => {
            let setting = Setting::new(arguments);
            process::pin(&[setting.load_core])
                .with_context(|| format!("load and backend need core {}", setting.load_core))?;
            return runtime()?.block_on(compare_until_stopped(&setting));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the comparison, or as much of it as there is time for: what a signal cuts short is
/// dropped, and with it every child process.
async fn compare_until_stopped(setting: &Setting) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        code = compare(setting) => code,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn compare(setting: &Setting) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let mut figures = Figures::default();
    for round in 0..setting.rounds as usize {
        for (place, row) in setting.rows.iter().enumerate() {
            let mut order = setting.proxies.clone();
            let turn = (round + place) % order.len().max(1);
            order.rotate_left(turn);
            for proxy in order {
                let figure = cell(setting, row, proxy, &certificate).await;
                say(round, row, proxy, &figure);
                figures.record(row.name, proxy, figure);
            }
        }
    }
    println!("{}", report::table(&figures, &setting.rows, setting));
    Ok(if figures.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One row of one proxy, once.
async fn cell(
    setting: &Setting,
    row: &Row,
    proxy: Proxy,
    certificate: &Certificate,
) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let certificate = (row.wire == Wire::Tls).then_some(certificate);
    let backend = Backend::start().await?;
    let port = Port::reserve()?;
    let task = Task {
        listen: port.address,
        certificate,
        upstream: backend.address,
        folder: folder.path(),
        files: setting.files,
    };
    let program = proxy.program(proxy.path().context("not installed")?, &task)?;
    let mut running = Running::start(&program, &[setting.proxy_core], folder.path())?;
    running.ready(port.address).await?;
    let tls = certificate.map(Certificate::connector).transpose()?;
    let token = proxy.token().map(|token| token.sign(folder.path())).transpose()?;
    let target = Target { address: port.address, source: None, tls, token };
    let load = row.load.sized(setting.size);
    let measured = load::measure(load, setting.scale, &target, &running);
    tokio::time::timeout(PATIENCE, measured).await.context("stuck")?
}

fn say(round: usize, row: &Row, proxy: Proxy, figure: &anyhow::Result<f64>) {
    let told = match figure {
        Ok(figure) => report::figure(*figure, row.unit),
        Err(error) => format!("failed: {error:#}"),
    };
    eprintln!("round {:2}  {:14} {proxy:8} {told}", round + 1, row.name);
}

/// Those of the proxies asked for that are installed; of the others it is said that they are not.
fn present(asked: &[Proxy]) -> Vec<Proxy> {
    let mut present = Vec::new();
    for proxy in Proxy::ALL.into_iter().chain(Proxy::VARIANTS) {
        let by_default = asked.is_empty() && Proxy::ALL.contains(&proxy);
        match proxy.path() {
            _ if !by_default && !asked.contains(&proxy) => {}
            Some(_) => present.push(proxy),
            None => eprintln!(
                "{proxy} is not installed here: its column stays empty{}",
                proxy.how_to_install()
            ),
        }
    }
    present
}

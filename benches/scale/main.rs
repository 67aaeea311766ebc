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

#[path = "../compare/backend.rs"]
mod backend;
#[path = "../compare/client.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod client;
#[path = "../compare/frame.rs"]
mod frame;
mod group;
#[path = "../compare/link.rs"]
mod link;
mod load;
#[path = "../compare/process.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod process;
#[path = "../compare/tls.rs"]
#[expect(dead_code, reason = "shared with the comparison")]
mod tls;

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::backend::Backend;
use crate::group::Group;
use crate::load::Load;
use crate::process::{Port, Program, field};
use crate::tls::Certificate;

/// How many connections a load or an echo server has at most. A descriptor each, and a port of one
/// address: of the usual 28,232 the kernel hands out one half with ease, and then searches.
const OF_ONE: usize = 12_000;
/// How long all may come to rest.
const SETTLE: Duration = Duration::from_secs(3);

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.part {
        Some(Part::Echo) => runtime.block_on(echo_server())?,
        Some(Part::Load(load)) => runtime.block_on(load.run())?,
        Some(Part::Pin { cores, program }) => process::become_pinned(&cores, &program)?,
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

/// What is measured, and for how long.
struct Setting {
    connections: usize,
    edges: usize,
    tls: bool,
    /// How long the CPU of idle connections is measured without heartbeats.
    still: Duration,
    /// Between two heartbeats, in whole seconds.
    interval: Duration,
}

impl Setting {
    fn new(arguments: &Arguments) -> Setting {
        // A build without optimisation can only be asked whether it works.
        let quick = arguments.quick || cfg!(debug_assertions);
        let of = |whole: u32, few: u32| if quick { whole.min(few) } else { whole } as usize;
        let seconds = |whole, few| Duration::from_secs(if quick { few } else { whole });
        Setting {
            connections: of(arguments.connections, 400),
            edges: of(arguments.edges, 2),
            tls: arguments.tls,
            still: seconds(30, 1),
            interval: seconds(30, 1),
        }
    }

    /// How many loads there are, and as many echo servers.
    fn peers(&self) -> usize {
        self.connections.div_ceil(OF_ONE)
    }

    /// The connections of one load.
    fn share(&self, load: usize) -> usize {
        let (each, rest) = (self.connections / self.peers(), self.connections % self.peers());
        each + usize::from(load < rest)
    }
}

/// What is told of a run.
struct Findings {
    opened: Duration,
    /// Descriptors of each edge, two a connection.
    files: Vec<usize>,
    /// User-space memory of the edges, and what is resident of them.
    memory: [u64; 2],
    /// The kernel's memory for sockets, files and the like.
    slabs: u64,
    still: Duration,
    beating: Duration,
}

async fn measure(setting: &Setting) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let certificate = setting.tls.then(|| Certificate::make(folder.path())).transpose()?;
    let certificate = certificate.as_ref();
    let echoes = Group::start(setting.peers(), |_| this(vec!["echo".into()]))?;
    let endpoints = echoes.say("listening ").await?;
    let port = Port::reserve()?;
    let file = folder.path().join("wsgate.toml");
    let configure = |heartbeat: &str| {
        fs::write(&file, configuration(port.address, &endpoints, certificate, heartbeat))
    };
    configure("off")?;
    let edges = Group::start(setting.edges, |_| Ok(wsgate(&file)))?;
    edges.say("\"listening\"").await?;

    let (memory, slabs, begun) = (edges.memory()?, slabs()?, Instant::now());
    let loads = Group::start(setting.peers(), |number| {
        this(load_arguments(setting, number, port.address, certificate))
    })?;
    say_well("open", &loads, &edges).await?;
    let opened = begun.elapsed();
    eprintln!("all are open after {opened:.0?}; now they keep still");
    sleep(SETTLE).await;
    let now = edges.memory()?;
    let memory = [now[0].saturating_sub(memory[0]), now[1].saturating_sub(memory[1])];
    let slabs = self::slabs()?.saturating_sub(slabs);
    let still = edges.cpu_in(setting.still).await?;

    // To the connections that there are: one file for all edges, and each sees that it changed.
    configure(&format!("{}s", setting.interval.as_secs()))?;
    edges.say("\"configuration reloaded\"").await?;
    eprintln!("the edges have heartbeats now");
    sleep(setting.interval + SETTLE).await;
    let beating = edges.cpu_in(2 * setting.interval).await?;
    let files = edges.files()?;
    loads.signal(Signal::USR1)?;
    say_well("echoed", &loads, &edges).await?;
    report(setting, &Findings { opened, files, memory, slabs, still, beating });
    Ok(())
}

/// Waits for the loads' word; where it does not come, the edges may know why.
async fn say_well(word: &str, loads: &Group, edges: &Group) -> anyhow::Result<()> {
    let said = loads.say(word).await;
    edges.is_well()?;
    said.map(drop)
}

/// Another process of this program.
fn this(arguments: Vec<OsString>) -> anyhow::Result<Program> {
    Ok(Program { path: std::env::current_exe()?, arguments })
}

fn wsgate(file: &Path) -> Program {
    let arguments = vec!["run".into(), "--config".into(), file.into()];
    Program { path: env!("CARGO_BIN_EXE_wsgate").into(), arguments }
}

/// Each load has an address of its own, because an address has no more than 64k ports.
fn load_arguments(
    setting: &Setting,
    number: usize,
    address: SocketAddr,
    certificate: Option<&Certificate>,
) -> Vec<OsString> {
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 1).to_bits() + number as u32);
    let share = setting.share(number);
    let words = format!("load --address {address} --source {source} --connections {share}");
    let mut arguments: Vec<OsString> = words.split(' ').map(OsString::from).collect();
    if let Some(certificate) = certificate {
        arguments.extend(["--chain".into(), certificate.chain.clone().into()]);
    }
    arguments
}

/// What all edges read: one worker each, one port, one list of echo servers.
fn configuration(
    listen: SocketAddr,
    endpoints: &[String],
    certificate: Option<&Certificate>,
    heartbeat: &str,
) -> String {
    let endpoints: Vec<_> =
        endpoints.iter().filter_map(|said| said.split_whitespace().nth(1)).collect();
    let tls = certificate.map_or(String::new(), |Certificate { chain, key }| {
        format!("tls = {{ certificates = [{{ chain = {chain:?}, key = {key:?} }}] }}")
    });
    format!(
        r#"[server]
workers = 1

[[listener]]
listen = "{listen}"
reuse_port = true
{tls}

[[upstream]]
name = "echo"
endpoints = {endpoints:?}

[[route]]
name = "all"
path = "/"
upstream = "echo"
heartbeat = {{ interval = "{heartbeat}", upstream.interval = "{heartbeat}" }}
"#
    )
}

/// The kernel's memory for small things, in bytes: sockets, files, and what belongs to them.
fn slabs() -> anyhow::Result<u64> {
    Ok(field(&fs::read_to_string("/proc/meminfo")?, "Slab:")? * 1024)
}

fn report(setting: &Setting, findings: &Findings) {
    let connections = setting.connections as f64;
    let each = |bytes: u64| format!("{:.2} KiB", bytes as f64 / 1024.0 / connections);
    let all = |bytes: u64| format!("{} MiB", bytes >> 20);
    let cores = |spent: Duration, time: Duration| {
        format!("{:.2} % of a core", 100.0 * spent.as_secs_f64() / time.as_secs_f64())
    };
    // A ping and its pong on both sides, in each of the two intervals measured.
    let beat = findings.beating.as_secs_f64() * 1e6 / connections / 4.0;
    let (least, most) = (findings.files.iter().min(), findings.files.iter().max());
    println!(
        "{} connections, {}, through {} processes of one worker each; {} loads, {} echo servers\n\
         open files of an edge: {} to {}; all opened in {:.0} s, and all echoed at the end\n\n\
         | what | of one connection | of all |\n| --- | --- | --- |",
        setting.connections,
        if setting.tls { "TLS to plain" } else { "plain to plain" },
        setting.edges,
        setting.peers(),
        setting.peers(),
        least.unwrap_or(&0),
        most.unwrap_or(&0),
        findings.opened.as_secs_f64(),
    );
    let [user, resident] = findings.memory;
    println!("| user-space memory of the edges | {} | {} |", each(user), all(user));
    println!("| resident set of the edges | {} | {} |", each(resident), all(resident));
    let slabs = findings.slabs;
    println!(
        "| the kernel's slabs, peers' sockets among them | {} | {} |",
        each(slabs),
        all(slabs)
    );
    println!("| CPU of the edges, no heartbeats | | {} |", cores(findings.still, setting.still));
    println!(
        "| CPU of the edges, heartbeats both ways every {} s | {beat:.1} µs for a ping and its pong | {} |",
        setting.interval.as_secs(),
        cores(findings.beating, 2 * setting.interval),
    );
}

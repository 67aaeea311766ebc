//! A proxy as a process: started on its core, weighed through `/proc`, ended by its id.
//!
//! Both figures are the kernel's own accounts and not the proxy's. CPU is user and system time of
//! every thread of every process in the tree, in nanoseconds from `schedstat`: the ticks of `stat`
//! are too coarse. Memory is the proportional share of anonymous and shared pages, so that a page
//! two nginx processes share counts once and a mapped library not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{
    Pid, Resource, Signal, getrlimit, kill_process_group, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Socket, Type};

/// How long a proxy has to accept its first connection.
const READY: Duration = Duration::from_secs(5);
/// How long a proxy has to end after a SIGTERM before it is killed.
const FAREWELL: Duration = Duration::from_millis(500);

/// A program and its arguments.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

/// A proxy at work; ended with all its children when dropped.
pub struct Running {
    child: Child,
    group: Pid,
    said: PathBuf,
}

impl Running {
    /// Starts a program on `cores`; what it says goes to a file in `folder`.
    pub fn start(program: &Program, cores: &[usize], folder: &Path) -> anyhow::Result<Running> {
        let said = folder.join("said");
        let output = File::create(&said)?;
        let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
        let child = Command::new(std::env::current_exe()?)
            .args(["pin", &cores.join(",")])
            .arg(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("start")?;
        let group = Pid::from_child(&child);
        Ok(Running { child, group, said })
    }

    /// Waits until the proxy accepts at `address`; its last words, where it ends instead.
    pub async fn ready(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.ready_within(READY, address).await
    }

    /// The same with more patience, or less.
    pub async fn ready_within(
        &mut self,
        patience: Duration,
        address: SocketAddr,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("accepts nothing within {patience:?}: {}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said until now, on both outputs.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// CPU time spent until now, all threads and children together.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut all = Duration::ZERO;
        for process in self.tree()? {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                all += spent(&thread?.path())?;
            }
        }
        Ok(all)
    }

    /// CPU time spent until now by each thread of the program itself whose name begins so.
    pub fn cpu_of_threads(&self, named: &str) -> anyhow::Result<Vec<Duration>> {
        let mut accounts = Vec::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let thread = thread?.path();
            let name = fs::read_to_string(thread.join("comm"))?;
            if name.starts_with(named) {
                accounts.push((name, spent(&thread)?));
            }
        }
        accounts.sort();
        Ok(accounts.into_iter().map(|(_, spent)| spent).collect())
    }

    /// Asks it to end as an operator would, and waits until it has.
    pub async fn end(&mut self, patience: Duration) -> anyhow::Result<()> {
        kill_process_group(self.group, Signal::TERM)?;
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("ended with {status}: {}", self.last_words()),
                None if Instant::now() > deadline => bail!("does not end within {patience:?}"),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// User-space memory now, in bytes, all processes together.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let mut kibibytes = 0;
        for process in self.tree()? {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            kibibytes += field(&rollup, "Pss_Anon:")? + field(&rollup, "Pss_Shmem:")?;
        }
        Ok(kibibytes * 1024)
    }

    /// The process, its children and theirs.
    fn tree(&self) -> anyhow::Result<Vec<u32>> {
        let mut tree = vec![self.id()];
        let mut at = 0;
        while let Some(&process) = tree.get(at) {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let children = fs::read_to_string(thread?.path().join("children"))
                    .context("this kernel does not list children")?;
                tree.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
            at += 1;
        }
        Ok(tree)
    }

    fn last_words(&self) -> String {
        let said = self.said();
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(silence)").to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = kill_process_group(self.group, Signal::TERM);
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The CPU time of one thread, by its folder in `/proc`.
fn spent(thread: &Path) -> anyhow::Result<Duration> {
    let account = fs::read_to_string(thread.join("schedstat"))?;
    let nanoseconds = account.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse().context("schedstat")?))
}

/// The number behind `name` in an account that `/proc` gives.
pub fn field(account: &str, name: &str) -> anyhow::Result<u64> {
    let line = account.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).with_context(|| format!("no {name}"))
}

/// Becomes `program`, on these cores (`0,1`), ending when the process that started it ends.
///
/// They are set before the program begins, so that all its threads and children inherit them.
pub fn become_pinned(cores: &str, program: &[OsString]) -> anyhow::Result<()> {
    pin(&cores.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?)?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let (path, arguments) = program.split_first().context("no program")?;
    Err(Command::new(path).args(arguments).exec().into())
}

/// Keeps the calling thread, and all it starts, on these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores {
        if core >= CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the soft limit of open files to the hard one, for the children too, and gives it.
pub fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused, the limit stays as it was and large loads say what they lack.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// A port the kernel chose, kept from everyone but a server that is told of it.
///
/// The socket is bound and never listens: the kernel then gives the port to nobody else, yet a
/// server that sets `SO_REUSEADDR`, as all do, may bind it.
pub struct Port {
    pub address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub fn reserve() -> io::Result<Port> {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        held.set_reuse_address(true)?;
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = held.local_addr()?.as_socket();
        let address = address.ok_or_else(|| io::Error::other("no address"))?;
        Ok(Port { address, _held: held })
    }
}

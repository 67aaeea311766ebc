//! Several processes of one kind, spread over the cores, and what they weigh together.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::process::{Program, Running, field};

/// How long anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// The processes of one kind, each with a folder of its own.
pub struct Group {
    running: Vec<Running>,
    _folders: Vec<TempDir>,
}

impl Group {
    /// Starts `count` of them, spread over the cores.
    pub fn start(
        count: usize,
        program: impl Fn(usize) -> anyhow::Result<Program>,
    ) -> anyhow::Result<Group> {
        let cores = std::thread::available_parallelism()?.get();
        let (mut running, mut folders) = (Vec::new(), Vec::new());
        for number in 0..count {
            let folder = tempfile::tempdir()?;
            running.push(Running::start(&program(number)?, &[number % cores], folder.path())?);
            folders.push(folder);
        }
        Ok(Group { running, _folders: folders })
    }

    /// Waits until each has said `word`, and gives the words of each.
    pub async fn say(&self, word: &str) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.is_well()?;
            let said: Vec<_> = self.running.iter().map(Running::said).collect();
            if said.iter().all(|said| said.contains(word)) {
                return Ok(said);
            }
            ensure!(Instant::now() < deadline, "{word:?} was due within {PATIENCE:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails with the first thing that went wrong, by the words of any of them.
    pub fn is_well(&self) -> anyhow::Result<()> {
        let said = self.running.iter().map(Running::said);
        match said.flat_map(|said| said.lines().find(|line| is_bad(line)).map(str::to_owned)).next()
        {
            Some(line) => bail!("{line}"),
            None => Ok(()),
        }
    }

    fn sum<T: std::iter::Sum>(
        &self,
        of_one: impl Fn(&Running) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.running.iter().map(of_one).sum()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        for one in &self.running {
            let id = Pid::from_raw(one.id().try_into()?).context("a process has an id")?;
            kill_process(id, signal)?;
        }
        Ok(())
    }

    /// User-space memory, and all that is resident, in bytes.
    pub fn memory(&self) -> anyhow::Result<[u64; 2]> {
        Ok([self.sum(Running::memory)?, self.sum(resident)?])
    }

    /// Open files of each.
    pub fn files(&self) -> anyhow::Result<Vec<usize>> {
        self.running
            .iter()
            .map(|one| Ok(fs::read_dir(format!("/proc/{}/fd", one.id()))?.count()))
            .collect()
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.sum(Running::cpu)
    }

    /// CPU time spent in so long a time.
    pub async fn cpu_in(&self, time: Duration) -> anyhow::Result<Duration> {
        let before = self.cpu()?;
        sleep(time).await;
        Ok(self.cpu()? - before)
    }
}

/// Whether a process has said that something went wrong; no connection is to end before all do.
fn is_bad(line: &str) -> bool {
    ["lost: ", "Error: ", "error: ", "\"WARN\"", "\"ERROR\"", "\"tunnel ended\""]
        .iter()
        .any(|bad| line.contains(bad))
}

fn resident(one: &Running) -> anyhow::Result<u64> {
    Ok(field(&fs::read_to_string(format!("/proc/{}/status", one.id()))?, "VmRSS:")? * 1024)
}

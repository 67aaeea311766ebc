//! The tools that count what wsgate does, and how their accounts are read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

/// Occurrences by name.
pub type Counts = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Counts instructions in user space. It runs the program on a processor of its own making,
    /// which looks the same on every machine of an architecture.
    Callgrind,
    /// Counts system calls.
    Strace,
}

impl Tool {
    pub fn program(self) -> &'static str {
        match self {
            Tool::Callgrind => "valgrind",
            Tool::Strace => "strace",
        }
    }

    pub fn is_installed(self) -> bool {
        let mut version = Command::new(self.program());
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    /// The command that runs another and writes its account to `account`.
    pub fn command(self, account: &Path) -> Vec<OsString> {
        let mut words = match self {
            Tool::Callgrind => vec!["valgrind".into(), "-q".into(), "--tool=callgrind".into()],
            Tool::Strace => vec!["strace".into(), "-f".into(), "-c".into(), "-o".into()],
        };
        match self {
            Tool::Callgrind => {
                let mut file = OsString::from("--callgrind-out-file=");
                file.push(account);
                words.push(file);
            }
            Tool::Strace => words.push(account.into()),
        }
        words
    }

    pub fn read(self, account: &Path) -> anyhow::Result<Counts> {
        let text = fs::read_to_string(account).context("the tool has told nothing")?;
        let counts = match self {
            Tool::Callgrind => instructions(&text),
            Tool::Strace => Some(system_calls(&text)),
        };
        counts.filter(|counts| !counts.is_empty()).with_context(|| {
            let first: String = text.lines().take(3).collect();
            format!("{}'s account is not understood: {first:?}", self.program())
        })
    }
}

/// `totals: 12345`, of all threads.
fn instructions(account: &str) -> Option<Counts> {
    let total = account.lines().find_map(|line| line.strip_prefix("totals: "))?;
    Some(Counts::from([("instructions".to_owned(), total.trim().parse().ok()?)]))
}

/// Lines of `% time  seconds  usecs/call  calls  [errors]  name`, between two rules.
fn system_calls(account: &str) -> Counts {
    let mut counts = Counts::new();
    for line in account.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(calls), Some(&name)) = (words.get(3), words.last()) else { continue };
        if let Ok(calls) = calls.parse::<u64>()
            && name != "total"
        {
            *counts.entry(name.to_owned()).or_default() += calls;
        }
    }
    counts
}

//! The figures, those that are committed, and what is said where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// By how much a figure may grow before somebody has to say that it may.
const TOLERANCE: f64 = 0.05;
const HEAD: &str = "\
# What wsgate costs, by `cargo bench --bench costs`. Do not edit: after a change that is meant to\n\
# cost more, or does cost less, run `cargo bench --bench costs -- --accept` and commit this file.\n\
# docs/performance.md tells what is counted.\n\n";

/// How a row of system calls is told from others of its name.
const SYSTEM_CALLS: &str = ": system calls";

/// Of one row, by name: a total, or what it is made of.
pub type Parts = BTreeMap<String, f64>;

/// What was counted, by row.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Figures {
    /// User-space memory of an idle pair.
    pub bytes: Parts,
    /// Of one message, or of one handshake.
    pub instructions: Parts,
    /// The same by the name of the call.
    pub system_calls: BTreeMap<String, Parts>,
}

impl Figures {
    /// Those committed for this architecture; none where it has none yet.
    pub fn committed() -> anyhow::Result<Figures> {
        Ok(all_committed()?.remove(std::env::consts::ARCH).unwrap_or_default())
    }

    /// Writes these over the committed ones. What was not counted, for want of a tool, stays.
    pub fn accept(mut self) -> anyhow::Result<()> {
        let mut all = all_committed()?;
        let old = all.remove(std::env::consts::ARCH).unwrap_or_default();
        if self.instructions.is_empty() {
            self.instructions = old.instructions;
        }
        if self.system_calls.is_empty() {
            self.system_calls = old.system_calls;
        }
        all.insert(std::env::consts::ARCH.to_owned(), self);
        fs::write(path(), format!("{HEAD}{}", toml::to_string(&all)?))?;
        Ok(())
    }

    /// Digits that mean something, so that the file changes only where a cost does.
    pub fn rounded(mut self) -> Figures {
        for figure in self.bytes.values_mut().chain(self.instructions.values_mut()) {
            *figure = figure.round();
        }
        for calls in self.system_calls.values_mut() {
            for count in calls.values_mut() {
                *count = cents(*count);
            }
            calls.retain(|_, count| *count != 0.0);
        }
        self
    }

    /// All as one list, each with what it counts.
    fn listed(&self) -> BTreeMap<String, f64> {
        let bytes = self.bytes.iter().map(|(row, &figure)| (format!("{row}: bytes"), figure));
        let instructions = self.instructions.iter();
        let instructions =
            instructions.map(|(row, &figure)| (format!("{row}: instructions"), figure));
        let calls = self.system_calls.iter();
        let calls =
            calls.map(|(row, calls)| (format!("{row}{SYSTEM_CALLS}"), cents(calls.values().sum())));
        bytes.chain(instructions).chain(calls).collect()
    }
}

/// A figure beside the committed one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Same,
    Fallen,
    Grown,
    New,
}

impl Verdict {
    fn of(now: f64, committed: Option<f64>) -> Verdict {
        match committed {
            None => Verdict::New,
            Some(before) if now > before * (1.0 + TOLERANCE) => Verdict::Grown,
            Some(before) if now < before * (1.0 - TOLERANCE) => Verdict::Fallen,
            Some(_) => Verdict::Same,
        }
    }
}

/// What a comparison comes to.
pub struct Judgement {
    pub text: String,
    /// What has to be mended or accepted.
    pub faults: usize,
    /// What fell so far that the committed figure watches nothing.
    pub hints: usize,
}

/// Compares, and says all of it: a table, and below it what differs by more than the tolerance.
pub fn judge(now: &Figures, committed: &Figures) -> Judgement {
    let (listed, before) = (now.listed(), committed.listed());
    let mut judgement = Judgement { text: String::new(), faults: 0, hints: 0 };
    let mut table = String::from("| what | committed | now | |\n| --- | --- | --- | --- |\n");
    for (what, &figure) in &listed {
        let old = before.get(what).copied();
        let change = old.map_or("new".to_owned(), |old| percent(figure, old));
        let shown = old.map_or("–".to_owned(), |old| format!("{old}"));
        table += &format!("| {what} | {shown} | {figure} | {change} |\n");
        let said = match Verdict::of(figure, old) {
            Verdict::Same => continue,
            Verdict::Grown => format!("{what}: grown by {change}, from {shown} to {figure}"),
            Verdict::New => format!("{what}: {figure}, and no figure is committed"),
            Verdict::Fallen => format!("{what}: fallen by {change}, from {shown} to {figure}"),
        };
        match Verdict::of(figure, old) {
            Verdict::Fallen => judgement.hints += 1,
            _ => judgement.faults += 1,
        }
        judgement.text += &format!("{said}{}\n", calls_that_differ(what, now, committed));
    }
    judgement.text = format!("{table}\n{}", judgement.text);
    judgement
}

/// Which calls of a row are more or fewer than committed, where the row is of system calls.
fn calls_that_differ(what: &str, now: &Figures, committed: &Figures) -> String {
    let Some(row) = what.strip_suffix(SYSTEM_CALLS) else { return String::new() };
    let none = Parts::new();
    let of = |figures: &'_ Figures| figures.system_calls.get(row).unwrap_or(&none).clone();
    let (now, before) = (of(now), of(committed));
    let names: BTreeSet<_> = now.keys().chain(before.keys()).collect();
    let count = |parts: &Parts, name| parts.get(name).copied().unwrap_or_default();
    let differing = names.into_iter().filter_map(|name| {
        let (now, before) = (count(&now, name), count(&before, name));
        (now != before).then(|| format!("{name} {before} → {now}"))
    });
    format!(" ({})", differing.collect::<Vec<_>>().join(", "))
}

/// Two digits behind the point.
fn cents(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// By how many per cent a figure differs from what it was, with its sign.
fn percent(now: f64, before: f64) -> String {
    format!("{:+.1} %", (now / before - 1.0) * 100.0)
}

fn all_committed() -> anyhow::Result<BTreeMap<String, Figures>> {
    let text = match fs::read_to_string(path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("read {}", path().display()))?,
    };
    toml::from_str(&text).with_context(|| format!("{} is no file of figures", path().display()))
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "benches", "costs", "committed.toml"].iter().collect()
}

//! `wsgate check FILE`: every fault of a configuration at once, before it is put to use.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, LoadError, Loaded, Paint, Report};

/// What a check found; its exit code is 0, 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Faulty,
    Unreadable,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        match verdict {
            Verdict::Good => ExitCode::SUCCESS,
            Verdict::Faulty => ExitCode::from(1),
            Verdict::Unreadable => ExitCode::from(2),
        }
    }
}

/// Checks a file and the files it names. The verdict of a good one goes to `out`, all else to
/// `err`. Fails only where these two cannot be written.
pub fn check(
    path: &Path,
    paint: Paint,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Verdict> {
    let loaded = match Config::load(path) {
        Ok(loaded) => loaded,
        Err(LoadError::Faulty(report)) => return refuse(path, &report, paint, err),
        Err(error @ LoadError::Unreadable { .. }) => {
            writeln!(err, "error: {error}")?;
            return Ok(Verdict::Unreadable);
        }
    };
    let warnings = &loaded.warnings;
    let mut files = loaded.check_files();
    if !files.is_empty() {
        files.diagnostics.extend(warnings.diagnostics.iter().cloned());
        let report = Report::new(&files.origin, &files.text, files.diagnostics);
        return refuse(path, &report, paint, err);
    }
    err.write_all(warnings.render(paint).as_bytes())?;
    writeln!(out, "{}: good: {}", path.display(), summary(&loaded))?;
    Ok(Verdict::Good)
}

fn refuse(path: &Path, report: &Report, paint: Paint, err: &mut dyn Write) -> io::Result<Verdict> {
    err.write_all(report.render(paint).as_bytes())?;
    writeln!(err, "{}: {}", path.display(), count(report.faults(), "fault"))?;
    Ok(Verdict::Faulty)
}

fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut counts = vec![
        count(config.listeners.len(), "listener"),
        count(config.upstreams.len(), "upstream"),
        count(config.routes.len(), "route"),
    ];
    if !loaded.warnings.is_empty() {
        counts.push(count(loaded.warnings.diagnostics.len(), "warning"));
    }
    counts.join(", ")
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

//! Where the configuration comes from, and whether what it names can be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Diagnostic, Drain, LoadError, Loaded, Report};
use crate::net::tls;
use crate::plan::Plan;
use crate::upstream::seed;

/// What a supervisor needs for itself at the end of its grace.
const MARGIN: Duration = Duration::from_secs(2);

/// A file, and what the command line puts before it.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: PathBuf,
    /// The time that a supervisor leaves for stopping.
    pub grace: Option<Duration>,
}

impl Source {
    /// Reads and checks the file, but not those that it names.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let mut loaded = Config::load(&self.file)?;
        if let Some(grace) = self.grace {
            apply_grace(&mut loaded.config, grace);
        }
        Ok(loaded)
    }
}

/// One grace G makes a drain: delay G/6, window G/2, timeout G − 2 s; and no close may take
/// longer than G/3 − 2 s.
fn apply_grace(config: &mut Config, grace: Duration) {
    let code = config.server.drain.code;
    config.server.drain =
        Drain { delay: grace / 6, window: grace / 2, timeout: grace - MARGIN, code };
    let longest = grace / 3 - MARGIN;
    for route in &mut config.routes {
        if route.plan.close > longest {
            route.plan = Arc::new(Plan { close: longest, ..Plan::clone(&route.plan) });
        }
    }
}

/// The faults of the files that a configuration names; empty when all can be used.
pub fn unusable(loaded: &Loaded) -> Report {
    let mut report = loaded.check_files();
    if report.is_empty() {
        report.diagnostics = unfit_files(loaded);
    }
    report
}

/// A fault for each file that can be read and is of no use.
fn unfit_files(loaded: &Loaded) -> Vec<Diagnostic> {
    // What a pipe says can be read but once, and not by a check.
    if !loaded.files.iter().all(|file| file.path.is_file()) {
        return Vec::new();
    }
    let diagnostic = |path: Option<&Path>, fault: &dyn std::error::Error| {
        let named = loaded.files.iter().find(|file| Some(&*file.path) == path);
        let span = named.map_or(0..0, |file| file.span.clone());
        Diagnostic::fault(span, fault.to_string()).label("this file")
    };
    let listeners = loaded.config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let upstreams = loaded.config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let tls = listeners.flat_map(tls::faults).chain(upstreams.flat_map(tls::upstream_faults));
    let tls = tls.map(|fault| diagnostic(fault.path(), &fault));
    let seeds = loaded.config.upstreams.iter().filter_map(|it| it.hash_seed_file.as_deref());
    let seeds = seeds.filter_map(|path| seed::read(path).err());
    tls.chain(seeds.map(|fault| diagnostic(Some(fault.path()), &fault))).collect()
}

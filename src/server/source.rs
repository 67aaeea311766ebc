//! Where the configuration comes from, and whether what it names can be used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::{
    Config, Diagnostic, Drain, ListenerTls, LoadError, Loaded, NamedFile, Report, Span, read_token,
};
use crate::keyring::{self, KeyringFault};
use crate::net::tls::{self, TlsFault};
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

    /// Reads it once more, which a pipe cannot be.
    pub fn load_again(&self) -> Result<Loaded, LoadError> {
        if is_stream(&self.file) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, ONCE);
            return Err(LoadError::Unreadable { path: self.file.clone(), error });
        }
        self.load()
    }

    /// What the file holds, as far as that can be known again and again.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        if self.file.is_file() { std::fs::read(&self.file).ok() } else { None }
    }
}

/// What is said of a file that cannot be read twice.
const ONCE: &str = "it is no regular file, and can be read but once: restart to change it";

/// A pipe, say, which would be waited for.
fn is_stream(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| !about.is_file() && !about.is_dir())
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

/// The same for files that were read before, and are to be read again.
pub fn unusable_again(loaded: &Loaded) -> Report {
    let streams = loaded.files.iter().filter(|file| is_stream(&file.path));
    let fault = |file: &NamedFile| {
        let message = format!("cannot read the {} again: {ONCE}", file.purpose);
        Diagnostic::fault(file.span.clone(), message).label("this file")
    };
    let faults: Vec<Diagnostic> = streams.map(fault).collect();
    if faults.is_empty() { unusable(loaded) } else { loaded.report(faults) }
}

/// A warning for each certificate that has expired.
pub fn expired(loaded: &Loaded) -> Vec<Diagnostic> {
    if has_streams(loaded) {
        return Vec::new();
    }
    let expired = tls(loaded).flat_map(|tls| tls::expired(tls, SystemTime::now()));
    let warning = |fault: TlsFault| {
        Diagnostic::warning(span(loaded, fault.path()), fault.to_string())
            .label("this file")
            .help("wsgate starts with it, but a reload does not put it in the place of another")
    };
    expired.map(warning).collect()
}

/// What a pipe says can be read but once, and not by a check.
fn has_streams(loaded: &Loaded) -> bool {
    !loaded.files.iter().all(|file| file.path.is_file())
}

fn tls(loaded: &Loaded) -> impl Iterator<Item = &ListenerTls> {
    loaded.config.listeners.iter().filter_map(|listener| listener.tls.as_ref())
}

/// Where the configuration names this file.
fn span(loaded: &Loaded, path: Option<&Path>) -> Span {
    let named = loaded.files.iter().find(|file| Some(&*file.path) == path);
    named.map_or(0..0, |file| file.span.clone())
}

/// A fault for each file that can be read and is of no use.
fn unfit_files(loaded: &Loaded) -> Vec<Diagnostic> {
    if has_streams(loaded) {
        return Vec::new();
    }
    let diagnostic = |path: Option<&Path>, fault: &dyn std::error::Error| {
        Diagnostic::fault(span(loaded, path), fault.to_string()).label("this file")
    };
    let upstreams = loaded.config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let tls = tls(loaded).flat_map(tls::faults).chain(upstreams.flat_map(tls::upstream_faults));
    let tls = tls.map(|fault| diagnostic(fault.path(), &fault));
    let seeds = loaded.config.upstreams.iter().filter_map(|it| it.hash_seed_file.as_deref());
    let seeds = seeds.filter_map(|path| seed::read(path).err());
    let token = loaded.config.admin.iter().filter_map(|admin| admin.token_file.as_deref());
    let token = token.filter_map(|path| Some(diagnostic(Some(path), &read_token(path).err()?)));
    let seeds = seeds.map(|fault| diagnostic(Some(fault.path()), &fault));
    tls.chain(seeds).chain(token).chain(unfit_keys(loaded)).collect()
}

/// The same for the keys of tokens.
fn unfit_keys(loaded: &Loaded) -> Vec<Diagnostic> {
    let rules = loaded.config.routes.iter().filter_map(|route| route.admittance.token.as_ref());
    let diagnostic = |fault: KeyringFault| {
        let file = loaded.files.iter().find(|file| Some(&*file.path) == fault.path());
        let named = |name: &str| loaded.variables.iter().find(|variable| variable.name == name);
        let variable = fault.variable().and_then(named).map(|variable| &variable.span);
        let span = file.map(|file| &file.span).or(variable).cloned().unwrap_or_default();
        Diagnostic::fault(span, fault.to_string()).label("named here")
    };
    rules.filter_map(|rule| keyring::read(rule).err()).map(diagnostic).collect()
}

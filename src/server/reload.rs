//! A configuration in place of the one that runs, under live sockets.
//!
//! A new file is read, checked whole and built beside what runs, its listeners bound, and only
//! then swapped in, in one store; a fault anywhere keeps what runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::listeners::contents;
use super::source::{Source, unusable};
use super::watch::Watch;
use super::{Control, Signal, read_authorities, workers};
use crate::config::{Config, Effect, LoadError, Loaded, NamedFile, OnRemoved, changes};
use crate::control::Command;
use crate::snapshot::Snapshot;
use crate::upstream::Cluster;

/// How long files that others are just writing may take to fit together, a certificate and its
/// key for instance; and the text itself.
const FILES_SETTLE: Duration = Duration::from_secs(5);
const TEXT_SETTLES: Duration = Duration::from_secs(1);
/// How soon a file with a fault is read again.
const RETRY: Duration = Duration::from_millis(200);

/// Why the files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Somebody asked for it.
    Asked,
    /// They may have changed.
    Seen,
    /// They had a fault a moment ago.
    Again,
}

/// Reads the configuration again and again, and remembers how that went.
pub struct Reloading {
    source: Source,
    watch: Watch,
    /// Every file that the last readable configuration names.
    files: Vec<PathBuf>,
    /// What the files held when they were last judged, and whether that was good.
    judged: (u64, Verdict),
    failing: Option<Failing>,
    /// Called with each configuration that is put to use.
    adopted: Box<dyn Fn(&Config)>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    retry_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Faulty,
}

enum Reading {
    /// Nothing is different.
    Unchanged,
    /// A fault that may pass.
    Unsettled,
    Faulty(String),
    Good(Box<Loaded>),
}

impl Reloading {
    /// `loaded` is what runs; looks come by `signals`.
    pub fn new(
        source: Source,
        loaded: &Loaded,
        signals: mpsc::Sender<Signal>,
        adopted: impl Fn(&Config) + 'static,
    ) -> Reloading {
        let mut reloading = Reloading {
            source,
            watch: Watch::start(signals),
            files: Vec::new(),
            judged: (0, Verdict::Good),
            failing: None,
            adopted: Box::new(adopted),
        };
        reloading.follow(&loaded.files);
        reloading.judged.0 = reloading.contents();
        reloading
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failing.map(|failing| failing.retry_at)
    }

    fn read(&mut self, trigger: Trigger) -> Reading {
        if let Ok(loaded) = self.source.load() {
            self.follow(&loaded.files);
        }
        // What changes from here on is different at the next look.
        let contents = self.contents();
        let (judged, verdict) = self.judged;
        // A fault is told again to whoever asks.
        if contents == judged && (trigger != Trigger::Asked || verdict == Verdict::Good) {
            self.failing = None;
            return Reading::Unchanged;
        }
        let (fault, settles_in) = match self.source.load() {
            Ok(loaded) => match unusable(&loaded) {
                report if report.is_empty() => {
                    self.failing = None;
                    self.judged = (contents, Verdict::Good);
                    return Reading::Good(Box::new(loaded));
                }
                report => (LoadError::Faulty(report), FILES_SETTLE),
            },
            Err(fault) if trigger == Trigger::Asked => (fault, Duration::ZERO),
            Err(fault) => (fault, TEXT_SETTLES),
        };
        let now = Instant::now();
        let since = self.failing.map_or(now, |failing| failing.since);
        if now - since < settles_in {
            self.failing = Some(Failing { since, retry_at: now + RETRY });
            return Reading::Unsettled;
        }
        self.failing = None;
        self.judged = (contents, Verdict::Faulty);
        Reading::Faulty(fault.to_string())
    }

    fn follow(&mut self, files: &[NamedFile]) {
        self.files = files.iter().map(|file| file.path.clone()).collect();
        self.watch.follow(all_files(&self.source, &self.files));
    }

    fn contents(&self) -> u64 {
        contents(all_files(&self.source, &self.files))
    }
}

/// The configuration's file, and those that it names.
fn all_files<'f>(source: &'f Source, named: &'f [PathBuf]) -> impl Iterator<Item = &'f Path> {
    std::iter::once(&*source.file).chain(named.iter().map(|file| &**file))
}

impl Control {
    pub(super) fn reload(&mut self, reloading: &mut Reloading, trigger: Trigger) {
        match reloading.read(trigger) {
            Reading::Unsettled => {}
            Reading::Unchanged if trigger == Trigger::Asked => {
                info!(generation = self.published.load().generation, "configuration unchanged");
            }
            Reading::Unchanged => {}
            Reading::Faulty(report) => self.keep(&report),
            Reading::Good(loaded) => match self.put_to_use(&loaded) {
                Ok(()) => (reloading.adopted)(&loaded.config),
                Err(fault) => {
                    reloading.judged.1 = Verdict::Faulty;
                    self.keep(&fault);
                }
            },
        }
    }

    /// What runs goes on.
    fn keep(&self, fault: &str) {
        let generation = self.published.load().generation;
        error!(generation, fault, "configuration not reloaded: what runs goes on");
    }

    fn put_to_use(&mut self, loaded: &Loaded) -> Result<(), String> {
        let config = &loaded.config;
        let known;
        let listeners = if self.draining {
            known = self.listeners.known(&config.listeners);
            &known
        } else {
            &config.listeners
        };
        let listeners = self.listeners.prepare(listeners).map_err(|error| error.to_string())?;
        config.routes.iter().try_for_each(read_authorities).map_err(|error| error.to_string())?;
        let before = self.published.load_full();
        let next = Snapshot::new(config, Some(&before), before.page);
        let next = Arc::new(next.map_err(|fault| fault.to_string())?);
        self.announce(loaded, &before, &next);

        let fresh = self.listeners.replace(listeners);
        let generation = next.generation;
        before.clusters().for_each(|cluster| cluster.unwatch());
        next.clusters().for_each(Cluster::watch);
        self.published.store(next);
        let backlog = config.server.backlog_total / workers(&self.config);
        self.workers.command(Command::Adopt { window: config.server.drain.window, backlog });
        self.workers.accept_from(fresh, &self.occupancy);
        self.config = Config { server: self.staying(config), ..config.clone() };
        info!(generation, "configuration reloaded");
        Ok(())
    }

    /// The new table of the server, with what only a restart changes as it is.
    fn staying(&self, config: &Config) -> crate::config::Server {
        crate::config::Server { workers: self.config.server.workers, ..config.server.clone() }
    }

    /// Says what is about to change, and how many sockets that will end.
    fn announce(&self, loaded: &Loaded, before: &Snapshot, next: &Snapshot) {
        for warning in &loaded.warnings.diagnostics {
            warn!(warning = warning.message, "configuration");
        }
        for change in changes(&self.config, &loaded.config) {
            match change.effect {
                Effect::Restart => warn!(%change, "not reloaded"),
                _ => info!(%change, "reloading"),
            }
        }
        for (what, sockets) in ends(before, next) {
            info!(sockets, window_s = loaded.config.server.drain.window.as_secs_f64(), "{what}");
        }
    }
}

/// What of `before` is gone, in words, and how many sockets end for it.
fn ends(before: &Snapshot, next: &Snapshot) -> Vec<(String, usize)> {
    let routes = before
        .named_routes()
        .filter(|route| next.route(&route.name).is_none() && route.on_removed == OnRemoved::Close);
    let routes = routes.map(|route| {
        (format!("route {} is gone: its sockets close", route.name), route.policy.connections())
    });
    let clusters = before.clusters().filter(|cluster| cluster.on_removed() == OnRemoved::Close);
    let endpoints = clusters.flat_map(|cluster| {
        let endpoints = cluster.endpoints();
        let gone = endpoints.iter().filter(|one| next.removes_endpoint(cluster, one.identity()));
        let gone = gone.map(|one| {
            let (upstream, label) = (cluster.name(), one.label());
            let what =
                format!("endpoint {label} of upstream {upstream} is gone: its sockets close");
            (what, one.connections())
        });
        gone.collect::<Vec<_>>()
    });
    routes.chain(endpoints).collect()
}

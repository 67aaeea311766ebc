//! A configuration in place of the one that runs, under live sockets.
//!
//! A new file is read, checked whole and built beside what runs, its listeners bound, and only
//! then swapped in, in one store; a fault anywhere keeps what runs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::listeners::{Binds, contents};
use super::source::{Source, unusable_again};
use super::watch::Watch;
use super::{Control, Signal, read_authorities, workers};
use crate::config::{Config, Effect, LoadError, Loaded, NamedFile, OnRemoved, changes};
use crate::control::{Command, Generation, Running};
use crate::metrics::Renewed;
use crate::snapshot::Snapshot;

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
    /// What all files held when they were last judged, and whether that was good.
    judged: (u64, Verdict),
    failing: Option<Failing>,
    /// Called with each configuration that is put to use.
    adopted: Box<dyn Fn(&Config)>,
    /// The text of what runs.
    text: Arc<str>,
}

/// How reloads went, for those who ask.
#[derive(Default)]
pub(super) struct Reloads {
    /// Who waits for what comes of the one under way.
    waiting: Vec<oneshot::Sender<Result<Generation, String>>>,
    /// Why the last one failed, unless one has succeeded since.
    failed: Option<Arc<str>>,
}

impl Reloads {
    /// Has whoever holds the other end told of what comes next.
    pub(super) fn await_next(&mut self, reply: oneshot::Sender<Result<Generation, String>>) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push(reply);
    }

    fn answer(&mut self, result: &Result<Generation, String>) {
        for waiting in self.waiting.drain(..) {
            // Who asked may have gone.
            let _ = waiting.send(result.clone());
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    retry_at: Instant,
    /// Somebody waits to be told.
    asked: bool,
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

/// A configuration that was read, and what its files held before anything was made of them.
pub struct Start {
    source: Source,
    files: Vec<PathBuf>,
    contents: u64,
    text: Arc<str>,
}

impl Start {
    /// To be made before the files of `loaded` are put to use: what changes from here on is seen.
    pub fn new(source: Source, loaded: &Loaded) -> Start {
        let files = paths(&loaded.files);
        // Of a pipe nothing can be read again, so it never looks changed.
        let text = source.file.is_file().then(|| loaded.text().as_bytes());
        let contents = state(text, &files);
        Start { source, files, contents, text: loaded.text().into() }
    }
}

impl Reloading {
    /// `start` is what runs; looks come by `signals`.
    pub fn new(
        start: Start,
        signals: mpsc::Sender<Signal>,
        adopted: impl Fn(&Config) + 'static,
    ) -> Reloading {
        let Start { source, files, contents, text } = start;
        let mut watch = Watch::start(signals);
        watch.follow(all_files(&source, &files));
        let judged = (contents, Verdict::Good);
        Reloading { source, watch, files, judged, failing: None, adopted: Box::new(adopted), text }
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failing.map(|failing| failing.retry_at)
    }

    fn read(&mut self, trigger: Trigger) -> Reading {
        let asked = trigger == Trigger::Asked || self.failing.is_some_and(|it| it.asked);
        // Links may lead elsewhere by now, though every name is as it was.
        self.watch.follow(all_files(&self.source, &self.files));
        let contents = state(self.source.bytes().as_deref(), &self.files);
        let (judged, verdict) = self.judged;
        // A fault is told again to whoever asks.
        if contents == judged && (!asked || verdict == Verdict::Good) {
            self.failing = None;
            return Reading::Unchanged;
        }
        let loaded = match self.source.load_again() {
            Ok(loaded) => loaded,
            Err(fault) if asked => return self.faulty(contents, &fault),
            Err(fault) => return self.unsettled(TEXT_SETTLES, asked, contents, &fault),
        };
        self.files = paths(&loaded.files);
        self.watch.follow(all_files(&self.source, &self.files));
        // What changes from here on is different at the next look.
        let contents = state(Some(loaded.text().as_bytes()), &self.files);
        let report = unusable_again(&loaded);
        if !report.is_empty() {
            let fault = LoadError::Faulty(report);
            return self.unsettled(FILES_SETTLE, asked, contents, &fault);
        }
        self.failing = None;
        self.judged = (contents, Verdict::Good);
        Reading::Good(Box::new(loaded))
    }

    /// A fault that may pass within `patience`.
    fn unsettled(
        &mut self,
        patience: Duration,
        asked: bool,
        contents: u64,
        fault: &LoadError,
    ) -> Reading {
        let now = Instant::now();
        let since = self.failing.map_or(now, |failing| failing.since);
        if now - since >= patience {
            return self.faulty(contents, fault);
        }
        self.failing = Some(Failing { since, retry_at: now + RETRY, asked });
        Reading::Unsettled
    }

    fn faulty(&mut self, contents: u64, fault: &LoadError) -> Reading {
        self.failing = None;
        self.judged = (contents, Verdict::Faulty);
        Reading::Faulty(fault.to_string())
    }
}

fn paths(files: &[NamedFile]) -> Vec<PathBuf> {
    files.iter().map(|file| file.path.clone()).collect()
}

/// The configuration's file, and those that it names.
fn all_files<'f>(source: &'f Source, named: &'f [PathBuf]) -> impl Iterator<Item = &'f Path> {
    std::iter::once(&*source.file).chain(named.iter().map(|file| &**file))
}

/// A number that is another when the text is, or one of the files that it names.
fn state(text: Option<&[u8]>, named: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    contents(named.iter().map(|file| &**file)).hash(&mut hasher);
    hasher.finish()
}

impl Control {
    /// Reads the configuration anew, and tells those who wait for it.
    pub(super) fn reload(&mut self, reloading: Option<&mut Reloading>, trigger: Trigger) {
        let Some(reloading) = reloading else {
            return self.reloads.answer(&Err("this process has no file to read again".to_owned()));
        };
        let asked = trigger == Trigger::Asked;
        let number = self.published.load().generation;
        let result = match reloading.read(trigger) {
            // They are told when it is settled.
            Reading::Unsettled => return,
            Reading::Unchanged => {
                if asked {
                    self.tallies.reloads(Renewed::Unchanged).add(1);
                    info!(generation = number, "configuration unchanged");
                }
                Ok(Generation { number, changed: false })
            }
            Reading::Faulty(report) => Err(report),
            Reading::Good(loaded) => match self.put_to_use(&loaded) {
                Ok(generation) => {
                    (reloading.adopted)(&loaded.config);
                    reloading.text = loaded.text().into();
                    self.tallies.reloads(Renewed::Ok).add(1);
                    info!(generation, "configuration reloaded");
                    Ok(Generation { number: generation, changed: true })
                }
                Err(fault) => {
                    reloading.judged.1 = Verdict::Faulty;
                    Err(fault)
                }
            },
        };
        match &result {
            Err(fault) => self.keep(fault),
            Ok(_) if reloading.judged.1 == Verdict::Good => self.reloads.failed = None,
            Ok(_) => {}
        }
        self.reloads.answer(&result);
    }

    /// What runs goes on.
    fn keep(&mut self, fault: &str) {
        let generation = self.published.load().generation;
        self.tallies.reloads(Renewed::Failed).add(1);
        self.reloads.failed = Some(fault.into());
        error!(generation, fault, "configuration not reloaded: what runs goes on");
    }

    /// What runs, and why something else does not.
    pub(super) fn show(&self, reloading: Option<&mut Reloading>) -> Running {
        Running {
            generation: self.published.load().generation,
            text: reloading.map(|reloading| reloading.text.clone()),
            failed: self.reloads.failed.clone(),
        }
    }

    /// Goes over to it; gives its generation, or what keeps it from being used.
    fn put_to_use(&mut self, loaded: &Loaded) -> Result<u64, String> {
        let config = &loaded.config;
        let binds = if self.draining { Binds::Nothing } else { Binds::WhatIsNew };
        let listeners = self.listeners.prepare(&config.listeners, binds);
        let listeners = listeners.map_err(|error| error.to_string())?;
        config.routes.iter().try_for_each(read_authorities).map_err(|error| error.to_string())?;
        let before = self.published.load_full();
        let next = Snapshot::new(config, Some(&before), before.page);
        let next = Arc::new(next.map_err(|fault| fault.to_string())?);
        self.announce(loaded, &before, &next);

        let fresh = self.listeners.replace(listeners);
        let generation = next.generation;
        next.replace(&before);
        self.published.store(next);
        let backlog = config.server.backlog_total / workers(&self.config);
        let window = config.server.drain.window;
        self.workers.commands.tell_all(|| Command::Adopt { window, backlog });
        self.workers.accept_from(fresh, &self.occupancy);
        let admin = self.config.admin.clone();
        self.config = Config { server: self.staying(config), admin, ..config.clone() };
        Ok(generation)
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

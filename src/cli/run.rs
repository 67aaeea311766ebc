//! `wsgate run`: load, bind, serve, drain.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use super::logging::{self, LogHandle, LostLines, Started};
use super::{check, fail};
use crate::admin::{Admin, Process};
use crate::config::{Config, Loaded};
use crate::server::source::Source;
use crate::server::{Reloading, Server, Signal, Start};

/// The least time in which a drain makes sense.
const LEAST_GRACE: Duration = Duration::from_secs(9);

/// Reads `--grace`.
pub fn grace(text: &str) -> Result<Duration, String> {
    let grace = crate::config::duration(text)?;
    if grace < LEAST_GRACE {
        return Err(
            "it must be 9s or more: delay, window and the last closes need their time".into()
        );
    }
    Ok(grace)
}

/// Runs the configuration in `file` until a signal, and says what it came to.
pub fn run(file: &Path, grace: Option<Duration>) -> ExitCode {
    let source = Source { file: file.to_owned(), grace };
    let loaded = match load(&source) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Started { handle: log, lost, rest: _rest } = logging::start(loaded.config.server.log);
    let reloads = Reloads { start: Start::new(source, &loaded), log };
    let server = Server::bind(&loaded.config, None).map_err(anyhow::Error::from);
    let admin = loaded.config.admin.as_ref().map(Admin::bind).transpose();
    let served = server.and_then(|server| {
        let admin = admin?.map(|admin| (admin, lost));
        serve(server, admin, Some(reloads))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Loads a file for good, or says on stderr why not: exactly what `wsgate check` says.
fn load(source: &Source) -> Result<Loaded, ExitCode> {
    let loaded = source.load();
    let mut told = Vec::new();
    let verdict =
        check::judge(&source.file, &loaded, super::paint(), &mut std::io::sink(), &mut told);
    let _ = std::io::stderr().write_all(&told);
    match verdict {
        Ok(check::Verdict::Good) => loaded.map_err(|error| fail(&error.into())),
        Ok(verdict) => Err(verdict.into()),
        Err(error) => Err(fail(&error.into())),
    }
}

/// What a server that follows its file needs.
pub struct Reloads {
    start: Start,
    log: LogHandle,
}

/// Serves on this thread and the workers' until a signal.
pub fn serve(
    server: Server,
    admin: Option<(Admin, LostLines)>,
    reloads: Option<Reloads>,
) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    let served = runtime.block_on(async {
        let (sender, signals) = mpsc::channel(4);
        let reloading = reloads.map(|Reloads { start, log }| {
            let adopted = move |config: &Config| log.change(config.server.log);
            Reloading::new(start, sender.clone(), adopted)
        });
        watch_signals(sender)?;
        let running = server.start().context("cannot start the workers")?;
        if let Some((admin, lost)) = admin {
            admin.serve(Process {
                published: running.published.clone(),
                tallies: running.tallies.clone(),
                banned: running.banned.clone(),
                workers: running.workers.clone(),
                requests: running.requests.clone(),
                lost_lines: Arc::new(move || lost.count()),
            });
        }
        running.run(signals, reloading).await;
        Ok(())
    });
    // The system's resolver may hang in a look-up, which is nothing to wait for.
    runtime.shutdown_background();
    served
}

/// Passes on SIGTERM and SIGINT, and SIGHUP, as the server knows them.
fn watch_signals(sender: mpsc::Sender<Signal>) -> anyhow::Result<()> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut hangup = catch(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let told = tokio::select! {
                _ = terminate.recv() => sender.send(Signal::Stop).await,
                _ = interrupt.recv() => sender.send(Signal::Stop).await,
                _ = hangup.recv() => sender.send(Signal::Reload).await,
            };
            if told.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A proxy needs two descriptors a connection: takes all that the system allows.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        info!(from = current, to = maximum, raised = raised.is_ok(), "limit of open files");
    }
}

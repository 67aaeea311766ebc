//! `wsgate run`: load, bind, serve, drain.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use super::logging::{self, LogHandle};
use super::{check, fail};
use crate::config::{Config, Loaded};
use crate::server::source::Source;
use crate::server::{Reloading, Server, Signal};

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
    let log = logging::start(loaded.config.server.log);
    let server = Server::bind(&loaded.config, None).map_err(anyhow::Error::from);
    let reloads = Reloads { source, loaded, log };
    match server.and_then(|server| serve(server, Some(reloads))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Loads a file for good, or says on stderr why not: exactly what `wsgate check` says.
fn load(source: &Source) -> Result<Loaded, ExitCode> {
    let mut told = Vec::new();
    let verdict = check::check(&source.file, super::paint(), &mut std::io::sink(), &mut told);
    let _ = std::io::stderr().write_all(&told);
    match verdict {
        Ok(check::Verdict::Good) => {}
        Ok(verdict) => return Err(verdict.into()),
        Err(error) => return Err(fail(&error.into())),
    }
    source.load().map_err(|error| fail(&error.into()))
}

/// What a server that follows its file needs.
pub struct Reloads {
    source: Source,
    loaded: Loaded,
    log: LogHandle,
}

/// Serves on this thread and the workers' until a signal.
pub fn serve(server: Server, reloads: Option<Reloads>) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    let served = runtime.block_on(async {
        let (sender, signals) = mpsc::channel(4);
        let reloading = reloads.map(|Reloads { source, loaded, log }| {
            let adopted = move |config: &Config| log.change(config.server.log);
            Reloading::new(source, &loaded, sender.clone(), adopted)
        });
        watch_signals(sender)?;
        server.run(signals, reloading).await.context("cannot start the workers")
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

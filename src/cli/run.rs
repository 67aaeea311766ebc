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
use tracing::{info, warn};

use super::{check, fail, logging};
use crate::config::{Config, Drain};
use crate::plan::Plan;
use crate::server::{Server, Signal};

/// The least time in which a drain makes sense.
const LEAST_GRACE: Duration = Duration::from_secs(9);
/// What a supervisor needs for itself at the end of its grace.
const MARGIN: Duration = Duration::from_secs(2);

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
    let mut config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Some(grace) = grace {
        apply_grace(&mut config, grace);
    }
    logging::start(config.server.log);
    let served = Server::bind(&config, None).map_err(anyhow::Error::from).and_then(serve);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Loads a file for good, or says on stderr why not: exactly what `wsgate check` says.
fn load(file: &Path) -> Result<Config, ExitCode> {
    let mut told = Vec::new();
    let verdict = check::check(file, super::paint(), &mut std::io::sink(), &mut told);
    let _ = std::io::stderr().write_all(&told);
    match verdict {
        Ok(check::Verdict::Good) => {}
        Ok(verdict) => return Err(verdict.into()),
        Err(error) => return Err(fail(&error.into())),
    }
    Config::load(file).map(|loaded| loaded.config).map_err(|error| fail(&error.into()))
}

/// Serves on this thread and the workers' until a signal.
pub fn serve(server: Server) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    let served = runtime
        .block_on(async { server.run(signals()?).await.context("cannot start the workers") });
    // The system's resolver may hang in a look-up, which is nothing to wait for.
    runtime.shutdown_background();
    served
}

/// SIGTERM and SIGINT as the server knows them.
fn signals() -> anyhow::Result<mpsc::Receiver<Signal>> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut hangup = catch(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    warn!("SIGHUP: this version does not reload its configuration; restart it");
                    continue;
                }
            }
            if sender.send(Signal::Stop).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
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

/// A proxy needs two descriptors a connection: takes all that the system allows.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        info!(from = current, to = maximum, raised = raised.is_ok(), "limit of open files");
    }
}

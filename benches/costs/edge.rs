//! wsgate at work before an echo server of this process, by itself or under a tool that counts.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::backend::Backend;
use crate::client::Target;
use crate::process::{Port, Program, Running};
use crate::tls::Certificate;
use crate::wsgate::configuration;

/// How long it has to start, and to end: a tool makes it slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an edge is run.
pub struct Setup<'a> {
    pub workers: usize,
    pub cores: &'a [usize],
    /// Without one it speaks plain TCP.
    pub certificate: Option<&'a Certificate>,
    /// The tool that runs it and the tool's arguments; empty for none.
    pub under: Vec<OsString>,
    /// What stands at the end of its route.
    pub policy: &'a str,
}

pub struct Edge {
    pub running: Running,
    pub target: Target,
    _backend: Backend,
    _folder: TempDir,
}

impl Edge {
    pub async fn start(setup: Setup<'_>) -> anyhow::Result<Edge> {
        let folder = tempfile::tempdir()?;
        let (backend, port) = (Backend::start().await?, Port::reserve()?);
        let address = port.address;
        let Setup { workers, certificate, policy, .. } = setup;
        let text = configuration(workers, address, certificate, backend.address) + policy;
        let file = folder.path().join("wsgate.toml");
        std::fs::write(&file, text)?;
        let mut words = setup.under;
        words.push(env!("CARGO_BIN_EXE_wsgate").into());
        words.extend(["run".into(), "--config".into(), file.into()]);
        let program = Program { path: words.remove(0).into(), arguments: words };
        let mut running = Running::start(&program, setup.cores, folder.path())?;
        running.ready_within(PATIENCE, address).await?;
        let tls = certificate.map(Certificate::connector).transpose()?;
        let target = Target { address, source: None, tls, token: None };
        Ok(Edge { running, target, _backend: backend, _folder: folder })
    }

    /// Ends it in order, so that the tool has the time to tell.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.running.end(PATIENCE).await.context("the end of wsgate")
    }
}

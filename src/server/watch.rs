//! Sees that a file of the configuration may have changed.
//!
//! Folders are watched and not files, so that a file that is replaced by a rename is seen, and so
//! is the symlink `..data` that Kubernetes turns to another folder. Some file systems tell
//! nothing: every few seconds somebody looks anyway. Whether anything is different is for the
//! reader of the files to say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::Signal;

/// A burst of events is over when it has been quiet for so long, and is cut when it lasts.
const QUIET: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(500);
/// How often somebody looks without being told.
const POLL: Duration = Duration::from_secs(5);

pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Sends [`Signal::Look`] when something happens in a folder that is followed, or may have.
    pub fn start(signals: mpsc::Sender<Signal>) -> Watch {
        let (events, mut happened) = mpsc::channel(1);
        tokio::spawn(async move {
            while !signals.is_closed() {
                tokio::select! {
                    Some(()) = happened.recv() => let_settle(&mut happened).await,
                    () = sleep(POLL) => {}
                }
                // One that waits already is enough.
                let _ = signals.try_send(Signal::Look);
            }
        });
        let tell = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = events.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(tell);
        if let Err(error) = &watcher {
            warn!(%error, poll_s = POLL.as_secs(), "files cannot be watched and are polled");
        }
        Watch { watcher: watcher.ok(), folders: BTreeSet::new() }
    }

    /// Follows the folders of these files, and no others.
    pub fn follow<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files.flat_map(folders).collect();
        for folder in self.folders.difference(&wanted) {
            // Fails where the folder is gone, which is as good.
            let _ = watcher.unwatch(folder);
        }
        for folder in wanted.difference(&self.folders) {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                warn!(folder = %folder.display(), %error, poll_s = POLL.as_secs(),
                    "a folder cannot be watched and is polled");
            }
        }
        self.folders = wanted;
    }
}

/// The folder a file is named in, and the one that it is in once links are followed.
fn folders(file: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = |file: &Path| {
        let folder = file.parent()?;
        Some(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.to_owned())
    };
    let real = std::fs::canonicalize(file).ok();
    folder(file).into_iter().chain(real.and_then(|real| folder(&real)))
}

async fn let_settle(happened: &mut mpsc::Receiver<()>) {
    let end = Instant::now() + LONGEST;
    while let Ok(Some(())) = timeout_at(end.min(Instant::now() + QUIET), happened.recv()).await {}
}

//! Sees that a file of the configuration may have changed.
//!
//! Folders are watched and not files, so that a file that is replaced by a rename is seen, and so
//! is the symlink `..data` that Kubernetes turns to another folder. Some file systems tell
//! nothing: every few seconds somebody looks anyway. Whether anything is different is for the
//! reader of the files to say.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
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
    /// Those that are followed, and which folder had each name then; none where it failed.
    folders: BTreeMap<PathBuf, Option<Identity>>,
}

/// Device and inode.
type Identity = (u64, u64);

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
        Watch { watcher: watcher.ok(), folders: BTreeMap::new() }
    }

    /// Follows the folders of these files, and no others. A folder that has been replaced by one
    /// of the same name is followed anew.
    pub fn follow<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files.flat_map(folders).collect();
        let mut followed = BTreeMap::new();
        for folder in wanted {
            let before = self.folders.remove(&folder);
            let now = identity(&folder);
            if before.is_some_and(|before| before != now) {
                // Fails where the kernel has forgotten it, which is as good.
                let _ = watcher.unwatch(&folder);
            }
            // Again too where nothing seems to have changed: a number may come a second time.
            let watched = watcher.watch(&folder, RecursiveMode::NonRecursive);
            if let Err(error) = &watched
                && before != Some(None)
            {
                warn!(folder = %folder.display(), %error, poll_s = POLL.as_secs(),
                    "a folder cannot be watched and is polled");
            }
            followed.insert(folder, now.filter(|_| watched.is_ok()));
        }
        for folder in self.folders.keys() {
            let _ = watcher.unwatch(folder);
        }
        self.folders = followed;
    }
}

fn identity(folder: &Path) -> Option<Identity> {
    let about = folder.metadata().ok()?;
    Some((about.dev(), about.ino()))
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

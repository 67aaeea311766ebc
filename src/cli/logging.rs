//! Where the log goes, and in which form: stderr, one line an event.
//!
//! A thread of its own writes the lines, so that a slow disk or a pipe that nobody reads holds up no
//! connection. What it has no room for, or cannot write, is dropped and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Lines that may wait to be written.
const WAITING: usize = 1 << 15;

type Lines = Box<dyn Layer<Registry> + Send + Sync>;
type WithLines = Layered<reload::Layer<Lines, Registry>, Registry>;

/// A log that was started.
pub struct Started {
    pub handle: LogHandle,
    pub lost: LostLines,
    /// What waits is written when this is dropped, last of all.
    pub rest: WorkerGuard,
}

/// The log of this process, to be changed while it is written.
pub struct LogHandle {
    writer: NonBlocking,
    lines: reload::Handle<Lines, Registry>,
    level: reload::Handle<Targets, WithLines>,
}

impl LogHandle {
    /// Writes in this form from now on.
    pub fn change(&self, log: Log) {
        // These fail only where another log was started first.
        let _ = self.lines.reload(lines(log.format, self.writer.clone()));
        let _ = self.level.reload(level(log));
    }
}

/// Lines that were dropped.
pub struct LostLines {
    no_room: ErrorCounter,
    unwritten: Arc<AtomicU64>,
}

impl LostLines {
    pub fn count(&self) -> u64 {
        self.no_room.dropped_lines() as u64 + self.unwritten.load(Ordering::Relaxed)
    }
}

/// Starts the log of this process. A second start is ignored.
pub fn start(log: Log) -> Started {
    let unwritten = Arc::<AtomicU64>::default();
    let stderr = Stderr { unwritten: unwritten.clone() };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING).thread_name("log");
    let (writer, rest) = builder.finish(stderr);
    let lost = LostLines { no_room: writer.error_counter(), unwritten };
    let (lines, of_lines) = reload::Layer::new(lines(log.format, writer.clone()));
    let (level, of_level) = reload::Layer::new(level(log));
    let _ = tracing_subscriber::registry().with(lines).with(level).try_init();
    Started { handle: LogHandle { writer, lines: of_lines, level: of_level }, lost, rest }
}

/// HTTP/2's library tells of every frame, of its fields too, and so of what no log may have.
fn level(log: Log) -> Targets {
    let own = LevelFilter::from_level(log.level);
    Targets::new().with_default(own).with_target("h2", LevelFilter::OFF)
}

fn lines(format: LogFormat, writer: NonBlocking) -> Lines {
    let layer = fmt::layer().with_writer(writer).with_target(false);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.with_ansi(super::is_for_a_person()).boxed(),
    }
}

/// Takes every line, and counts those that cannot be written.
struct Stderr {
    unwritten: Arc<AtomicU64>,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

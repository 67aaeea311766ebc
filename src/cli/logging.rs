//! Where the log goes, and in which form: stderr, one line an event.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

type Lines = Box<dyn Layer<Registry> + Send + Sync>;
type WithLines = Layered<reload::Layer<Lines, Registry>, Registry>;

/// The log of this process, to be changed while it is written.
pub struct LogHandle {
    lines: reload::Handle<Lines, Registry>,
    level: reload::Handle<LevelFilter, WithLines>,
}

impl LogHandle {
    /// Writes in this form from now on.
    pub fn change(&self, log: Log) {
        // These fail only where another log was started first.
        let _ = self.lines.reload(lines(log.format));
        let _ = self.level.reload(LevelFilter::from_level(log.level));
    }
}

/// Starts the log of this process. A second start is ignored.
pub fn start(log: Log) -> LogHandle {
    let (lines, of_lines) = reload::Layer::new(lines(log.format));
    let (level, of_level) = reload::Layer::new(LevelFilter::from_level(log.level));
    let _ = tracing_subscriber::registry().with(lines).with(level).try_init();
    LogHandle { lines: of_lines, level: of_level }
}

fn lines(format: LogFormat) -> Lines {
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.with_ansi(super::is_for_a_person()).boxed(),
    }
}

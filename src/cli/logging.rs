//! Where the log goes, and in which form: stderr, one line an event.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Starts the log of this process. A second start is ignored.
pub fn start(log: Log) {
    let builder = fmt()
        .with_max_level(LevelFilter::from_level(log.level))
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => builder.with_ansi(super::is_for_a_person()).try_init(),
    };
    drop(started);
}

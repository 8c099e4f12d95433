//! Where log lines go: standard error, as text or JSON, at a level that a reload can change.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Changes the level of a running log.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

/// Sends the process's events to standard error. Once a process.
pub fn start(log: &Log) -> Result<LogHandle, TryInitError> {
    let (filter, handle) = reload::Layer::new(targets(log));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    match log.format {
        LogFormat::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init()?,
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
    }
    Ok(LogHandle(handle))
}

impl LogHandle {
    /// Puts a new level in effect; the format stays until the next start.
    pub fn set(&self, log: &Log) {
        if let Err(error) = self.0.reload(targets(log)) {
            tracing::error!(%error, "the log level cannot be changed");
        }
    }
}

/// The level is for this program; its libraries speak only of what went wrong, unless everything is asked for.
fn targets(log: &Log) -> Targets {
    let others = if log.level == tracing::Level::TRACE { LevelFilter::DEBUG } else { LevelFilter::ERROR };
    Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), log.level)
}

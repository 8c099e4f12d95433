//! Where log lines go: standard error or the journal, in the format that is asked for, at a level that a reload can change.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use jiff::tz::TimeZone;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use super::journal::{Journal, JournalLayer, SOCKET};
use super::lines::Lines;
use super::plain::{PlainFields, PlainTime};
use super::postfix::Postfix;
use crate::clock::SystemClock;
use crate::config::{Log, LogFormat};

/// Changes the level of a running log.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

/// Why there is no log.
#[derive(Debug, Error)]
pub enum LogError {
    /// It was asked for by name.
    #[error("log.format = \"journald\", and systemd's journal cannot be reached at {SOCKET}: {0}")]
    Journal(#[source] io::Error),
    /// Another log was started before.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>;
type Format = Box<dyn Layer<Filtered> + Send + Sync>;

/// Sends the process's events to standard error or the journal. Once a process.
pub fn start(log: &Log) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(targets(log));
    let format = format(log.format)?;
    tracing_subscriber::registry().with(filter).with(format).try_init()?;
    Ok(LogHandle(handle))
}

fn format(format: LogFormat) -> Result<Format, LogError> {
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Lines).with_target(false);
    // Only where standard error leads to the journal anyway does a line go there unasked.
    let journal = || Journal::is_standard_error().then(|| Journal::at(SOCKET).ok()).flatten();
    let text = || {
        if io::stderr().is_terminal() {
            lines.with_ansi(true).boxed()
        } else {
            lines.with_ansi(false).fmt_fields(PlainFields).with_timer(PlainTime).boxed()
        }
    };
    Ok(match format {
        LogFormat::Auto => journal().map_or_else(text, |journal| JournalLayer(journal).boxed()),
        LogFormat::Text => text(),
        LogFormat::Json => tracing_subscriber::fmt::layer().with_writer(|| Lines).with_target(false).json().flatten_event(true).boxed(),
        LogFormat::Journald => JournalLayer(Journal::at(SOCKET).map_err(LogError::Journal)?).boxed(),
        LogFormat::Postfix => match journal() {
            Some(journal) => Postfix::<fn() -> Lines>::journal(journal).boxed(),
            None => Postfix::lines(|| Lines, &host(), TimeZone::system(), Arc::new(SystemClock)).boxed(),
        },
    })
}

/// What this host calls itself.
fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
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

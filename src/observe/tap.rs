//! The daemon's own log events, caught in the process and handed on as values, to be shown as they come.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use tokio::sync::mpsc::UnboundedSender;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// One log event.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// `accepted`, `delivered` …
    pub verb: String,
    /// Its fields, as text.
    pub fields: BTreeMap<&'static str, String>,
}

impl Seen {
    /// A field's text; empty where it is missing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// Hands events on.
#[derive(Debug)]
pub struct Tap(pub UnboundedSender<Seen>);

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        // The receiver is gone when the demonstration is over.
        let _ = self.0.send(seen);
    }
}

/// For processes in which some threads have a subscriber of their own and others have none, as tests have: sees to it that there is a second
/// one. While there is only one, tracing decides for all threads by the first that comes to an event, and where that has none, the event is
/// lost to those that have.
pub fn not_alone() {
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }
}

impl Seen {
    fn keep(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.verb = text,
            name => {
                self.fields.insert(name, text);
            }
        }
    }
}

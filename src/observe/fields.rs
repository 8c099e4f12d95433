//! An event's verb and fields as text, for the formats that say them in another way than the text log does.

use std::fmt;

use tracing::Event;
use tracing::field::{Field, Visit};

/// One event, its fields in the order in which `events.rs` names them.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// `accepted`, `delivered` …, or a sentence of what is not about a message.
    pub(super) verb: String,
    pairs: Vec<(&'static str, String)>,
}

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    /// A field's text; empty where it is missing.
    pub(super) fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(found, _)| *found == name).map_or("", |(_, text)| text)
    }

    /// Those that say something.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.pairs.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (*name, text.as_str()))
    }

    fn keep(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.verb = text,
            name => self.pairs.push((name, text)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }
}

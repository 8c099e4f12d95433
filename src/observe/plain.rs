//! Fields of a text line without colours: what [`DefaultFields`](tracing_subscriber::fmt::format::DefaultFields) writes, octet for octet, in a
//! third of the instructions. It asks for a colour five times a field, and looks at each character of a text through two formatters; a message
//! has some thirty fields in its lines.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// For a log that is read as text and not on a terminal.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Plain { writer, begun: false, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Plain<'w> {
    writer: Writer<'w>,
    begun: bool,
    result: fmt::Result,
}

impl Plain<'_> {
    fn write(&mut self, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let pad = std::mem::replace(&mut self.begun, true);
        self.result =
            self.result.and_then(|()| if pad { self.writer.write_char(' ') } else { Ok(()) }).and_then(|()| write(&mut self.writer));
    }
}

impl Visit for Plain<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        self.write(|writer| {
            if name == "message" {
                // It makes harmless what would steer a terminal.
                let mut visitor = DefaultVisitor::new(writer.by_ref(), true);
                visitor.record_debug(field, value);
                return tracing_subscriber::field::VisitOutput::finish(visitor);
            }
            writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
            write!(writer, "={value:?}")
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = value.bytes().all(|octet| matches!(octet, b' '..=b'~') && octet != b'"' && octet != b'\\');
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            name if plain => self.write(|writer| {
                writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
                writer.write_str("=\"")?;
                writer.write_str(value)?;
                writer.write_char('"')
            }),
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::format::DefaultFields;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// The lines of what `tell` tells.
    fn lines<F: for<'w> FormatFields<'w> + Send + Sync + 'static>(fields: F, tell: impl FnOnce()) -> String {
        let kept = Kept::default();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(fields).with_ansi(false).without_time().with_writer(kept.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        String::from_utf8(std::mem::take(&mut *kept.0.lock().unwrap())).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_what_the_library_writes(text: String, shown: String, printable in "[ -~]*", number: u64, float: f64, truth: bool) {
            let error = io::Error::other(shown.clone());
            let tell = || {
                tracing::info!(text, %shown, printable, number, float, truth, list = ?[1, 2], error = &error as &dyn std::error::Error, "verb");
                tracing::warn!(text = text.as_str(), "{shown}");
                tracing::error!("{printable}");
                tracing::info!(r#type = printable.as_str(), r#in = number, "");
            };
            prop_assert_eq!(lines(PlainFields, tell), lines(DefaultFields::new(), tell));
        }
    }
}

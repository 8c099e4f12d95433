//! Fields of a text line without colours, and its time: what [`DefaultFields`](tracing_subscriber::fmt::format::DefaultFields) and
//! [`SystemTime`](tracing_subscriber::fmt::time::SystemTime) write, octet for octet, in fewer instructions. The one asks for a colour five
//! times a field, and looks at each character of a text through two formatters; the other works out the date anew for each line. A message has
//! two lines with some thirty fields.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;

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
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "message" => self.record_debug(field, &value),
            name => self.write(|writer| {
                begin(writer, name)?;
                writer.write_str(itoa::Buffer::new().format(value))
            }),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        self.write(|writer| {
            if name == "message" {
                // It makes harmless what would steer a terminal.
                let mut visitor = DefaultVisitor::new(writer.by_ref(), true);
                visitor.record_debug(field, value);
                return tracing_subscriber::field::VisitOutput::finish(visitor);
            }
            begin(writer, name)?;
            write!(writer, "{value:?}")
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = value.bytes().all(|octet| matches!(octet, b' '..=b'~') && octet != b'"' && octet != b'\\');
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            name if plain => self.write(|writer| {
                begin(writer, name)?;
                writer.write_char('"')?;
                writer.write_str(value)?;
                writer.write_char('"')
            }),
            _ => self.record_debug(field, &value),
        }
    }
}

/// What stands before a field's value.
fn begin(writer: &mut Writer<'_>, name: &str) -> fmt::Result {
    writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
    writer.write_char('=')
}

/// When a line is written.
#[derive(Debug)]
pub(super) struct PlainTime;

impl FormatTime for PlainTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write_time(Timestamp::now(), writer)
    }
}

/// In UTC, to the microsecond (RFC 3339).
fn write_time(time: Timestamp, writer: &mut Writer<'_>) -> fmt::Result {
    thread_local! {
        /// The second that this thread wrote last, up to its fraction.
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    const MICROS: i64 = 1_000_000;
    let (second, mut micros) = (time.as_microsecond().div_euclid(MICROS), time.as_microsecond().rem_euclid(MICROS));
    LAST.with_borrow_mut(|(known, text)| {
        if *known != second {
            text.clear();
            // Its beginning is a time as well, but for the first one that there is.
            write!(text, "{}", Timestamp::from_second(second).unwrap_or(Timestamp::MIN))?;
            text.truncate(text.len() - "Z".len());
            *known = second;
        }
        writer.write_str(text)
    })?;
    let mut fraction = *b".000000Z";
    for digit in fraction[1..7].iter_mut().rev() {
        *digit += u8::try_from(micros % 10).unwrap_or_default();
        micros /= 10;
    }
    writer.write_str(str::from_utf8(&fraction).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use jiff::fmt::temporal::DateTimePrinter;
    use jiff::{RoundMode, SignedDuration, TimestampRound, Unit};
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
                tracing::info!(small = 25_u16, none = 0_u64, signed = -1, optional = Some(number), "");
                tracing::info!(message = number);
                tracing::warn!(text = text.as_str(), "{shown}");
                tracing::error!("{printable}");
                tracing::info!(r#type = printable.as_str(), r#in = number, "");
            };
            prop_assert_eq!(lines(PlainFields, tell), lines(DefaultFields::new(), tell));
        }

        #[test]
        fn times_are_written_to_the_microsecond(second in -62_000_000_000..250_000_000_000_i64, nanos in -999_999_999..1_000_000_000_i32) {
            let printer = DateTimePrinter::new().precision(Some(6));
            // The same second twice: it is made, and it is known.
            for nanos in [nanos, nanos / 2] {
                let time = Timestamp::from_second(second).unwrap() + SignedDuration::from_nanos(nanos.into());
                let mut text = String::new();
                write_time(time, &mut Writer::new(&mut text)).unwrap();
                let to_micros = TimestampRound::new().smallest(Unit::Microsecond).mode(RoundMode::Trunc);
                prop_assert_eq!(text, printer.timestamp_to_string(&time.round(to_micros).unwrap()));
            }
        }
    }
}

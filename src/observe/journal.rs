//! The journal of systemd: takes events, hands on entries with a field for each of theirs (`journalctl SMTP_ID=...`).
//!
//! Written here in some lines of std, and not by way of a crate, because those at hand put the bare verb into `MESSAGE`: `journalctl -u smtp-direct`
//! would say "delivered" and not what, to whom and why. The format: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::errno::Errno;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::Context;

use super::fields::Fields;

/// Where systemd-journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// `LOG_MAIL`: what rsyslog and others sort by.
const FACILITY: &str = "2";
/// Of an entry that is too large for one datagram, so much is said.
const CUT: usize = 16 * 1024;

/// A connection to the journal. Each entry names the socket anew: it stands through restarts of journald.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// By way of the socket at `path`, which must be there.
    pub fn at(path: impl Into<PathBuf>) -> io::Result<Self> {
        let (socket, path) = (UnixDatagram::unbound()?, path.into());
        std::fs::metadata(&path)?;
        Ok(Self { socket, path })
    }

    /// Whether standard error leads to the journal: then systemd put its device and inode into `JOURNAL_STREAM` (systemd.exec(5)).
    pub fn is_standard_error() -> bool {
        let Ok(found) = nix::sys::stat::fstat(io::stderr()) else { return false };
        std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", found.st_dev, found.st_ino))
    }

    /// Writes one entry; `message` is what people read, `fields` what they search by.
    pub(super) fn send(&self, level: Level, identifier: &str, message: &str, fields: &Fields) {
        let head = |message| {
            let mut entry = Vec::with_capacity(512);
            put(&mut entry, "MESSAGE", message);
            put(&mut entry, "PRIORITY", priority(level));
            put(&mut entry, "SYSLOG_FACILITY", FACILITY);
            put(&mut entry, "SYSLOG_IDENTIFIER", identifier);
            entry
        };
        let mut entry = head(message);
        put(&mut entry, "SMTP_EVENT", &fields.verb);
        for (name, text) in fields.iter() {
            put(&mut entry, &format!("SMTP_{}", name.to_ascii_uppercase()), text);
        }
        let mut sent = self.socket.send_to(&entry, &self.path);
        if sent.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EMSGSIZE as i32)) {
            let end = (0..=message.len().min(CUT)).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
            sent = self.socket.send_to(&head(&message[..end]), &self.path);
        }
        if let Err(error) = sent {
            // The next best place; nothing is left to tell if even this cannot be written.
            let _ = writeln!(io::stderr(), "{message} (not in the journal: {error})");
        }
    }
}

/// A value with a line end is told by its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// `log.format = "journald"`: `MESSAGE` is the line of the text log, without its time and level, which the journal has of its own.
#[derive(Debug)]
pub struct JournalLayer(pub Journal);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = String::new();
        // Writing to a string cannot fail; a value whose Display fails is cut there.
        let _ = DefaultFields::new().format_fields(Writer::new(&mut line), event);
        self.0.send(*event.metadata().level(), env!("CARGO_PKG_NAME"), &line, &Fields::of(event));
    }
}

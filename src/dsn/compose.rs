//! Takes a [`Report`] and the original's content, hands on the report as a message: multipart/report (RFC 6522, RFC 3464, RFC 3834).

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};

use jiff::tz::TimeZone;
use lettre::message::header::{self, Headers};
use lettre::message::{Body, Mailboxes};

use super::{ComposeError, Report, Settings, status, text};
use crate::clock::Timestamp;
use crate::message::{Content, Ret};
use crate::queue::ReportAction;

/// What of the original a report holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enclosed {
    /// All of it.
    Message,
    /// Its header.
    Header,
    /// Nothing: it cannot be read.
    Nothing,
}

/// Octets of the original that are in memory at once.
const BLOCK: usize = 16 * 1024;

impl Report<'_> {
    /// Writes the report to `out` as canonical lines, with its own `Date` and `Message-ID`. `original` gives the canonical content of the
    /// message, or is `None` where its file is damaged; it is read as it is written.
    pub fn compose(&self, settings: &Settings, original: Option<&mut dyn Read>, out: &mut dyn Write) -> Result<Enclosed, ComposeError> {
        let enclosed = if original.is_some() { self.enclosed(settings) } else { Enclosed::Nothing };
        let delimiter = format!("--{}", boundary(self));
        self.write_head(settings, enclosed, &delimiter[2..], out).map_err(ComposeError::Write)?;
        self.write_reports(settings, enclosed, &delimiter, out).map_err(ComposeError::Write)?;
        let mut at_empty_line = false;
        if let Some(original) = original {
            write!(out, "\r\n{delimiter}\r\n").map_err(ComposeError::Write)?;
            write_part_head(enclosed, &self.due.message.content, out).map_err(ComposeError::Write)?;
            at_empty_line = copy(original, enclosed == Enclosed::Header, out)?;
        }
        // The empty line after the original's header serves as the line end that belongs to the delimiter.
        write!(out, "{}{delimiter}--\r\n", if at_empty_line { "" } else { "\r\n" }).map_err(ComposeError::Write)?;
        Ok(enclosed)
    }

    /// The whole message comes back, if it failed, to those who asked for it, and where it is small: RET is about failures (RFC 3461 4.3).
    fn enclosed(&self, settings: &Settings) -> Enclosed {
        let message = &self.due.message;
        let full = match message.ret {
            Some(Ret::Full) => true,
            Some(Ret::Headers) => false,
            None => message.content.wire_size <= settings.full_below,
        };
        if full && self.has(ReportAction::Failed) { Enclosed::Message } else { Enclosed::Header }
    }

    /// The report's own header.
    fn write_head(&self, settings: &Settings, enclosed: Enclosed, boundary: &str, out: &mut dyn Write) -> io::Result<()> {
        let content = &self.due.message.content;
        // What is worst decides what the reader sees first.
        let subject = if self.has(ReportAction::Failed) {
            "Undelivered mail returned to sender"
        } else if self.has(ReportAction::Delayed) {
            "Delayed mail (still being retried)"
        } else {
            "Successful mail delivery report"
        };
        let mut from = Headers::new();
        from.set(header::From::from(Mailboxes::from(settings.from.clone())));
        write!(out, "{from}To: {}\r\nSubject: {subject}\r\n", self.to)?;
        write!(out, "Date: {}\r\nMessage-ID: <{}@{}>\r\n", date(self.at), self.id, settings.hostname)?;
        if let Some(message_id) = content.message_id.as_deref().filter(|id| is_message_id(id)) {
            write!(out, "In-Reply-To: {message_id}\r\nReferences: {message_id}\r\n")?;
        }
        write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        write!(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n")?;
        let eight_bit = status::is_global(self) || is_eight_bit(enclosed, content);
        write!(out, "Content-Transfer-Encoding: {}\r\n\r\nThis is a report in MIME format.\r\n", encoding(eight_bit))
    }

    /// The part for people and the part for programs.
    fn write_reports(&self, settings: &Settings, enclosed: Enclosed, delimiter: &str, out: &mut dyn Write) -> io::Result<()> {
        let body = Body::new(text::write(self, settings, enclosed));
        write!(out, "\r\n{delimiter}\r\nContent-Description: Notification\r\nContent-Type: text/plain; charset=utf-8\r\n")?;
        write!(out, "Content-Transfer-Encoding: {}\r\n\r\n", body.encoding())?;
        out.write_all(body.as_ref())?;

        let global = status::is_global(self);
        let kind = if global { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(out, "\r\n{delimiter}\r\nContent-Description: Delivery report\r\nContent-Type: {kind}\r\n")?;
        write!(out, "Content-Transfer-Encoding: {}\r\n\r\n", encoding(global))?;
        status::write(self, settings, out)
    }

    fn has(&self, action: ReportAction) -> bool {
        self.due.entries.iter().any(|entry| entry.action == action)
    }
}

/// The header of the part that holds the original.
fn write_part_head(enclosed: Enclosed, content: &Content, out: &mut dyn Write) -> io::Result<()> {
    let (description, kind) = match (enclosed, content.header_utf8) {
        (Enclosed::Message, false) => ("Your message", "message/rfc822"),
        (Enclosed::Message, true) => ("Your message", "message/global"),
        (_, false) => ("Header of your message", "text/rfc822-headers"),
        (_, true) => ("Header of your message", "message/global-headers"),
    };
    write!(out, "Content-Description: {description}\r\nContent-Type: {kind}\r\n")?;
    write!(out, "Content-Transfer-Encoding: {}\r\n\r\n", encoding(is_eight_bit(enclosed, content)))
}

/// Whether what is enclosed of the original may have octets over 127. Those of a header alone are not known: they need not be UTF-8, and
/// `8bit` on octets that are all ASCII is true, `7bit` on others is not.
fn is_eight_bit(enclosed: Enclosed, content: &Content) -> bool {
    enclosed != Enclosed::Nothing && (content.eight_bit || content.header_utf8)
}

fn encoding(eight_bit: bool) -> header::ContentTransferEncoding {
    if eight_bit { header::ContentTransferEncoding::EightBit } else { header::ContentTransferEncoding::SevenBit }
}

/// As header fields and people write it, in UTC.
pub(super) fn date(at: Timestamp) -> String {
    // Only years before Christ have no such form.
    jiff::fmt::rfc2822::to_string(&at.to_zoned(TimeZone::UTC)).unwrap_or_else(|_| at.to_string())
}

/// 128 bits that nobody can foretell who writes a message, so that none can contain its report's boundary: SipHash under keys of the
/// operating system.
fn boundary(report: &Report<'_>) -> String {
    let hash = |half: u8| RandomState::new().hash_one((report.id, half));
    format!("{:016x}{:016x}", hash(0), hash(1))
}

/// Whether a `Message-ID` is one, and whole: others write it, and the queue cuts it.
fn is_message_id(text: &str) -> bool {
    text.strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'))
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>'))
}

/// Copies the original, or its header with the empty line that ends it. Returns whether that empty line was there.
fn copy(original: &mut dyn Read, header_only: bool, out: &mut dyn Write) -> Result<bool, ComposeError> {
    let mut block = vec![0; BLOCK];
    // How much of CRLF CRLF was just seen; at the start as if a line had ended.
    let mut seen = 2;
    loop {
        let filled = match original.read(&mut block) {
            Ok(0) => return Ok(false),
            Ok(filled) => &block[..filled],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ComposeError::Original(error)),
        };
        let end = filled.iter().position(|&octet| {
            seen = match (seen, octet) {
                (1, b'\n') => 2,
                (3, b'\n') => 4,
                (2, b'\r') => 3,
                (_, b'\r') => 1,
                _ => 0,
            };
            header_only && seen == 4
        });
        match end {
            Some(last) => return out.write_all(&filled[..=last]).map(|()| true).map_err(ComposeError::Write),
            None => out.write_all(filled).map_err(ComposeError::Write)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one octet at a time: the worst blocks.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut block[..1])
        }
    }

    #[test]
    fn a_header_ends_at_its_empty_line() {
        for (original, expected, at_empty_line) in [
            ("A: b\r\n\r\nbody\r\n\r\n", "A: b\r\n\r\n", true),
            ("A: b\r\nC: d\r\n", "A: b\r\nC: d\r\n", false),
            ("\r\nbody\r\n", "\r\n", true),
            ("A: b\r\n\r\r\n\r\nbody", "A: b\r\n\r\r\n\r\n", true),
            ("", "", false),
        ] {
            let mut out = Vec::new();
            assert_eq!(copy(&mut Trickle(original.as_bytes()), true, &mut out).unwrap(), at_empty_line, "{original:?}");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            let mut whole = Vec::new();
            assert!(!copy(&mut original.as_bytes(), false, &mut whole).unwrap());
            assert_eq!(whole, original.as_bytes());
        }
    }

    #[test]
    fn only_whole_message_ids_are_referred_to() {
        for (text, expected) in [
            ("<a@b>", true),
            ("<a@b", false),
            ("<>", false),
            ("<a b@c>", false),
            ("<a@b>\r\nBcc: <c@d>", false),
            ("<a@b><c@d>", false),
            ("<é@b>", false),
            ("a@b", false),
        ] {
            assert_eq!(is_message_id(text), expected, "{text:?}");
        }
    }

    #[test]
    fn dates_are_those_of_header_fields() {
        assert_eq!(date("2025-11-22T09:43:00Z".parse().unwrap()), "Sat, 22 Nov 2025 09:43:00 +0000");
    }
}

//! Takes what a program wrote on standard input, hands on a header with what was missing, and the body as canonical lines.

use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Zoned;
use thiserror::Error;

use super::qualify::qualify;
use crate::message::{Address, Domain, Header, MAX_HEADER, MessageId, ReversePath};
use crate::spool::{self, EnvelopeError};

/// Octets of a line that are held at once.
const PIECE: u64 = 64 * 1024;
/// Octets of an encoded word's text: 75 characters with its frame (RFC 2047 2).
const ENCODED: usize = 45;
/// Fields with addresses, in which lone local parts get a domain.
const ADDRESS_FIELDS: [&str; 13] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Return-Path",
    "Resent-From",
    "Resent-Sender",
    "Resent-Reply-To",
    "Resent-To",
    "Resent-Cc",
    "Resent-Bcc",
];

/// Why there is no letter.
#[derive(Debug, Error)]
pub(super) enum LetterError {
    #[error("standard input cannot be read: {0}")]
    Input(io::Error),
    #[error("the header is longer than {MAX_HEADER} octets: end it with an empty line")]
    HeaderTooLong,
    #[error("{0}")]
    Address(#[from] EnvelopeError),
}

/// The message as it comes in.
pub(super) struct Input<R> {
    reader: R,
    /// Whether a line with only a dot ends the message.
    dot_ends: bool,
    ended: bool,
    at_line_start: bool,
    /// A CR that may belong to a line end.
    held: bool,
    buffer: Vec<u8>,
}

/// A line, or a part of one that is longer than 64 KiB.
struct Piece<'a> {
    text: &'a [u8],
    starts_line: bool,
    ends_line: bool,
}

/// The header section as it came, in lines that end in CRLF, and the first piece of the body that was read already.
pub(super) struct Top {
    header: Vec<u8>,
    body: Vec<u8>,
    body_ends_line: bool,
    has_body: bool,
}

/// What goes into fields that are missing.
pub(super) struct Author<'a> {
    pub(super) sender: &'a ReversePath,
    /// May be empty.
    pub(super) full_name: &'a str,
    pub(super) hostname: &'a Domain,
}

/// A header as it is submitted.
pub(super) struct Letter {
    /// Lines end in CRLF; without the empty line.
    pub(super) header: Vec<u8>,
    /// Whom the header names.
    pub(super) recipients: Result<Vec<Address>, EnvelopeError>,
}

impl<R: BufRead> Input<R> {
    pub(super) fn new(reader: R, dot_ends: bool) -> Self {
        Self { reader, dot_ends, ended: false, at_line_start: true, held: false, buffer: Vec::new() }
    }

    /// LF and CRLF end a line. `None`: the message ends.
    fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        if self.ended {
            return Ok(None);
        }
        self.buffer.clear();
        if std::mem::take(&mut self.held) {
            self.buffer.push(b'\r');
        }
        let read = (&mut self.reader).take(PIECE).read_until(b'\n', &mut self.buffer)?;
        self.ended = read == 0;
        let mut ends_line = false;
        if self.buffer.last() == Some(&b'\n') {
            ends_line = true;
            self.buffer.pop();
            if self.buffer.last() == Some(&b'\r') {
                self.buffer.pop();
            }
        } else if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
            // At the end of the input it ends a line; else the next octet tells.
            (self.held, ends_line) = (read > 0, read == 0);
        }
        let starts_line = std::mem::replace(&mut self.at_line_start, ends_line);
        // A line that is shorter than a piece and not ended is the last one.
        if self.dot_ends && starts_line && self.buffer == b"." {
            self.ended = true;
        }
        if self.ended && (read > 0 || !ends_line) {
            return Ok(None);
        }
        Ok(Some(Piece { text: &self.buffer, starts_line, ends_line }))
    }

    /// Reads the header section. It ends at an empty line, or before a line that is no field, where programs forget the empty line.
    /// mbox's `From ` line and a byte order mark before it are left out.
    pub(super) fn top(&mut self) -> Result<Top, LetterError> {
        let mut top = Top { header: Vec::new(), body: Vec::new(), body_ends_line: true, has_body: false };
        let (mut first, mut skipping) = (true, false);
        while let Some(piece) = self.next().map_err(LetterError::Input)? {
            let mut text = piece.text;
            if piece.starts_line {
                skipping = false;
                if std::mem::take(&mut first) {
                    text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
                    skipping = text.starts_with(b"From ");
                }
                let continues = matches!(text.first(), Some(b' ' | b'\t')) && !top.header.is_empty();
                if !skipping && !continues && !Header::is_field(text) {
                    top.has_body = true;
                    top.body_ends_line = piece.ends_line;
                    if text.is_empty() && piece.ends_line {
                        // The empty line itself.
                        top.has_body = false;
                    } else {
                        top.body = text.to_vec();
                    }
                    return Ok(top);
                }
            }
            if !skipping {
                top.header.extend_from_slice(text);
                if piece.ends_line {
                    top.header.extend_from_slice(b"\r\n");
                }
            }
            if top.header.len() > MAX_HEADER {
                return Err(LetterError::HeaderTooLong);
            }
        }
        if !top.header.is_empty() && !top.header.ends_with(b"\r\n") {
            top.header.extend_from_slice(b"\r\n");
        }
        Ok(top)
    }

    /// Copies the body: what of it came with the header, and the rest. Errors of reading and writing are told apart.
    pub(super) fn copy_body(&mut self, top: &Top, out: &mut impl Write) -> Result<io::Result<()>, LetterError> {
        let end = |ends: bool| if ends { &b"\r\n"[..] } else { b"" };
        let mut open = false;
        if top.has_body {
            open = !top.body_ends_line;
            if let Err(error) = out.write_all(&top.body).and_then(|()| out.write_all(end(top.body_ends_line))) {
                return Ok(Err(error));
            }
        }
        while let Some(piece) = self.next().map_err(LetterError::Input)? {
            open = !piece.ends_line;
            if let Err(error) = out.write_all(piece.text).and_then(|()| out.write_all(end(piece.ends_line))) {
                return Ok(Err(error));
            }
        }
        Ok(if open { out.write_all(b"\r\n") } else { Ok(()) })
    }
}

/// Makes the header whole: domains for lone local parts, no `Bcc`, and `From`, `Date` and `Message-ID` where they are missing.
pub(super) fn compose(top: &Top, author: &Author<'_>, now: &Zoned) -> Letter {
    let host = author.hostname.as_str();
    let mut qualified = Vec::with_capacity(top.header.len());
    for field in Header::parse(top.header.clone()).fields() {
        qualified.extend_from_slice(field.name);
        qualified.push(b':');
        if ADDRESS_FIELDS.iter().any(|name| field.is(name)) {
            qualified.extend(qualify(field.value, host));
        } else {
            qualified.extend_from_slice(field.value);
        }
    }
    let all = Header::parse(qualified);
    let mut header = Vec::new();
    for field in all.fields().filter(|field| !field.is("Bcc") && !field.is("Resent-Bcc")) {
        header.extend_from_slice(field.name);
        header.push(b':');
        header.extend_from_slice(field.value);
    }
    let mut add = |name: &str, text: String| {
        if all.first(name).is_none() {
            header.extend_from_slice(format!("{name}: {text}\r\n").as_bytes());
        }
    };
    add("From", from(author));
    add("Date", now.strftime("%a, %d %b %Y %H:%M:%S %z").to_string());
    add("Message-ID", format!("<{}@{host}>", MessageId::new(now.timestamp())));
    Letter { header, recipients: spool::recipients(&all) }
}

/// The author of a message that names none.
fn from(author: &Author<'_>) -> String {
    let address = author.sender.address().map_or_else(|| format!("MAILER-DAEMON@{}", author.hostname), Address::to_string);
    let name: String = author.full_name.chars().filter(|c| !c.is_control()).collect();
    match name.trim() {
        "" => address,
        name => format!("{} <{address}>", phrase(name)),
    }
}

/// A name as header fields have it: plain, quoted (RFC 5322 3.2.4), or encoded (RFC 2047).
fn phrase(name: &str) -> String {
    if name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~ ".contains(&octet)) && !name.contains("=?") {
        return name.to_owned();
    }
    if name.is_ascii() {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let mut words = vec![String::new()];
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= ENCODED => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word))).collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header and the body that are submitted for an input; dots count unless it is said otherwise.
    fn letter(input: &[u8], dot_ends: bool) -> (String, String) {
        let hostname = Domain::parse("h.test").unwrap();
        let sender = ReversePath::parse("joe@h.test").unwrap();
        let author = Author { sender: &sender, full_name: "Joe", hostname: &hostname };
        let mut input = Input::new(input, dot_ends);
        let top = input.top().unwrap();
        let now: Zoned = "2026-11-22T10:00:00+01:00[+01:00]".parse().unwrap();
        let header = String::from_utf8(compose(&top, &author, &now).header).unwrap();
        let mut body = Vec::new();
        input.copy_body(&top, &mut body).unwrap().unwrap();
        // The id is another one each time.
        let header = header.split_inclusive("\r\n").filter(|line| !line.starts_with("Message-ID: <01")).collect();
        (header, String::from_utf8(body).unwrap())
    }

    const ADDED: &str = "From: Joe <joe@h.test>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0100\r\n";

    #[test]
    fn headers_end_where_they_end() {
        for (input, header, body) in [
            ("Subject: x\n\nbody\n", "Subject: x\r\n", "body\r\n"),
            ("Subject: x\r\n\r\nbody\r\n", "Subject: x\r\n", "body\r\n"),
            ("Subject: x\n folded\n\nbody", "Subject: x\r\n folded\r\n", "body\r\n"),
            ("Subject: x\nno field\n", "Subject: x\r\n", "no field\r\n"),
            ("hello\n", "", "hello\r\n"),
            ("\nhello\n", "", "hello\r\n"),
            (" hello\n", "", " hello\r\n"),
            ("From joe Sun Nov 22 10:00:00 2026\nSubject: x\n\nbody\n", "Subject: x\r\n", "body\r\n"),
            ("\u{feff}Subject: x\n\nbody\n", "Subject: x\r\n", "body\r\n"),
            ("Subject: x", "Subject: x\r\n", ""),
            ("Subject: x\n", "Subject: x\r\n", ""),
            ("", "", ""),
            ("\n\n\nx\n", "", "\r\n\r\nx\r\n"),
            ("\nlast\r", "", "last\r\n"),
            ("\na\rb\n", "", "a\rb\r\n"),
        ] {
            assert_eq!(letter(input.as_bytes(), true), (format!("{header}{ADDED}"), body.to_owned()), "{input:?}");
        }
    }

    #[test]
    fn a_lone_dot_ends_the_message_unless_told_otherwise() {
        for (input, with, without) in [
            ("\na\n.\nb\n", "a\r\n", "a\r\n.\r\nb\r\n"),
            ("\na\r\n.\r\nb\r\n", "a\r\n", "a\r\n.\r\nb\r\n"),
            ("\na\n.", "a\r\n", "a\r\n.\r\n"),
            ("\n..\n. \n.x\n", "..\r\n. \r\n.x\r\n", "..\r\n. \r\n.x\r\n"),
        ] {
            assert_eq!(letter(input.as_bytes(), true).1, with, "{input:?}");
            assert_eq!(letter(input.as_bytes(), false).1, without, "{input:?}");
        }
        assert_eq!(letter(b"Subject: x\n.\nTo: a@b\n", true), (format!("Subject: x\r\n{ADDED}"), String::new()));
    }

    #[test]
    fn lines_of_any_length_stay_whole() {
        for length in [65_533, 65_534, 65_535, 65_536, 65_537, 200_000] {
            for end in ["\n", "\r\n"] {
                let line = "x".repeat(length);
                assert_eq!(letter(format!("\n{line}{end}y{end}").as_bytes(), true).1, format!("{line}\r\ny\r\n"), "{length}{end:?}");
                assert_eq!(letter(format!("{line}{end}y").as_bytes(), true).1, format!("{line}\r\ny\r\n"), "{length}{end:?}");
                assert_eq!(letter(format!("X: {line}{end}y").as_bytes(), true).0, format!("X: {line}\r\n{ADDED}"), "{length}{end:?}");
            }
        }
    }

    #[test]
    fn fields_are_completed_and_nothing_is_added_twice() {
        let given = "from: root (Cron Daemon)\nDATE: then\nmessage-id: <x@y>\nTo: root\nBcc: secret@x\nResent-Bcc: s2@x\nSubject: a:b\n\n";
        let expected = "from: root@h.test (Cron Daemon)\r\nDATE: then\r\nmessage-id: <x@y>\r\nTo: root@h.test\r\nSubject: a:b\r\n";
        assert_eq!(letter(given.as_bytes(), true).0, expected);
    }

    #[test]
    fn names_are_fit_for_a_header() {
        for (name, expected) in [
            ("Joe Doe", "Joe Doe <joe@h.test>"),
            ("Joe \"J.\" Doe", "\"Joe \\\"J.\\\" Doe\" <joe@h.test>"),
            ("Jürgen", "=?utf-8?b?SsO8cmdlbg==?= <joe@h.test>"),
            ("a\r\nBcc: x@y", "\"aBcc: x@y\" <joe@h.test>"),
            (" \n", "joe@h.test"),
        ] {
            let (hostname, sender) = (Domain::parse("h.test").unwrap(), ReversePath::parse("joe@h.test").unwrap());
            assert_eq!(from(&Author { sender: &sender, full_name: name, hostname: &hostname }), expected, "{name:?}");
        }
        assert!(phrase(&"ü".repeat(100)).lines().all(|line| line.len() <= 76));
        let hostname = Domain::parse("h.test").unwrap();
        assert_eq!(from(&Author { sender: &ReversePath::Null, full_name: "", hostname: &hostname }), "MAILER-DAEMON@h.test");
    }
}

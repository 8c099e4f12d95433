//! `smtp-direct queue show --headers|--body|--envelope`: takes a message, hands on one part of it, as it is sent, with nothing in it that
//! drives a terminal.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{ReadError, ShowArgs, ret_word, shown};
use crate::cli::table::{self, BOLD, PLAIN};
use crate::message::{ContentReader, Header, MAX_HEADER};
use crate::queue::{Inspect, Message, MessageDetail};
use crate::spool::Layout;

/// What is added on top of a header section lies well below its limit.
const HEADER_LIMIT: u64 = 2 * MAX_HEADER as u64;

/// Octets of a line that are looked at together.
const PIECE: u64 = 64 * 1024;

/// A part of a message; at most one.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub struct PartArgs {
    /// The header as it is sent
    #[arg(long)]
    pub headers: bool,
    /// The body as it is sent, nothing decoded
    #[arg(long)]
    pub body: bool,
    /// Sender and recipients, and what was asked of reports
    #[arg(long)]
    pub envelope: bool,
}

impl PartArgs {
    /// Whether there is one.
    pub(super) fn is_named(&self) -> bool {
        self.headers || self.body || self.envelope
    }
}

/// Writes the part of each message; 1 for an id that is not known, or whose content is not there any more.
pub(super) fn run(
    args: &ShowArgs,
    (queue, layout): (&dyn Inspect, &Layout),
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitCode, ReadError> {
    let mut code = ExitCode::SUCCESS;
    for (n, &id) in args.ids.iter().enumerate() {
        let Some(detail) = queue.show(id)? else {
            writeln!(err, "smtp-direct: the queue knows no message {id}")?;
            code = ExitCode::FAILURE;
            continue;
        };
        if args.part.envelope {
            envelope(&detail, (args.json, n > 0), out)?;
            continue;
        }
        let reader = match ContentReader::open(&layout.message_file(id), &detail.message.content) {
            Ok(reader) => BufReader::new(reader),
            Err(error) => {
                let finished = if detail.finished_at.is_some() { "it is finished, and its content is not kept: " } else { "" };
                writeln!(err, "smtp-direct: message {id}: {finished}{error}")?;
                code = ExitCode::FAILURE;
                continue;
            }
        };
        if args.part.headers {
            headers(&detail.message, reader, (args.json, n > 0), out)?;
        } else {
            body(reader, out)?;
        }
    }
    Ok(code)
}

#[derive(Serialize)]
struct JsonEnvelope<'a> {
    id: String,
    from: String,
    to: Vec<JsonTo>,
    ret: Option<&'static str>,
    envid: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonTo {
    to: String,
    notify: String,
}

fn envelope(detail: &MessageDetail, (json, again): (bool, bool), out: &mut dyn Write) -> io::Result<()> {
    let message = &detail.message;
    let recipients = detail.copies.iter().flat_map(|copy| &copy.recipients).map(|(recipient, _)| recipient);
    if json {
        let to = recipients.map(|one| JsonTo { to: one.address.to_string(), notify: one.notify.to_string() });
        let envelope = JsonEnvelope {
            id: message.id.to_string(),
            from: message.sender.to_string(),
            to: to.collect(),
            ret: message.ret.map(ret_word),
            envid: message.envid.as_deref(),
        };
        return table::json(out, &envelope);
    }
    if again {
        writeln!(out)?;
    }
    table::line(out, BOLD, &format!("Message {}", message.id))?;
    table::field(out, "From", &shown(&message.sender))?;
    for (name, value) in [("RET", message.ret.map(ret_word)), ("ENVID", message.envid.as_deref())] {
        value.map_or(Ok(()), |value| table::field(out, name, value))?;
    }
    for recipient in recipients {
        table::field(out, "To", &format!("{}, NOTIFY={}", recipient.address, recipient.notify))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct JsonHeaders {
    id: String,
    headers: Vec<JsonField>,
}

/// A value is unfolded.
#[derive(Serialize)]
struct JsonField {
    name: String,
    value: String,
}

fn headers(message: &Message, reader: impl BufRead, (json, again): (bool, bool), out: &mut dyn Write) -> io::Result<()> {
    let mut lines = reader.take(HEADER_LIMIT);
    if json {
        let mut raw = Vec::new();
        while !end_of_header(&mut lines, &mut raw)? {}
        let fields = Header::parse(raw);
        let fields = fields.fields().map(|field| JsonField { name: String::from_utf8_lossy(field.name).into_owned(), value: field.text() });
        return table::json(out, &JsonHeaders { id: message.id.to_string(), headers: fields.collect() });
    }
    if again {
        writeln!(out)?;
    }
    loop {
        let mut line = Vec::new();
        if end_of_header(&mut lines, &mut line)? {
            return Ok(());
        }
        safely(&line, out)?;
    }
}

/// Adds the next line to `raw`; true: there was none left.
fn end_of_header(lines: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<bool> {
    let before = raw.len();
    lines.read_until(b'\n', raw)?;
    let over = matches!(&raw[before..], [] | [b'\r', b'\n'] | [b'\n']);
    if over {
        raw.truncate(before);
    }
    Ok(over)
}

fn body(mut reader: impl BufRead, out: &mut dyn Write) -> io::Result<()> {
    let mut skipped = Vec::new();
    while !end_of_header(&mut reader, &mut skipped)? {
        skipped.clear();
    }
    let mut piece = Vec::new();
    loop {
        let left = piece.len();
        if reader.by_ref().take(PIECE).read_until(b'\n', &mut piece)? == 0 {
            return safely(&piece[..left], out);
        }
        // A character may lie across two pieces of a long line.
        let whole = whole_characters(&piece);
        safely(&piece[..whole], out)?;
        piece.drain(..whole);
    }
}

/// Octets before a character, or a line end, that may go on after the end.
fn whole_characters(octets: &[u8]) -> usize {
    for back in 1..=octets.len().min(3) {
        let (at, needed) = match octets[octets.len() - back] {
            b'\r' if back == 1 => return octets.len() - 1,
            0x80..0xc0 => continue,
            0xc0..0xe0 => (back, 2),
            0xe0..0xf0 => (back, 3),
            0xf0.. => (back, 4),
            _ => return octets.len(),
        };
        return octets.len() - if needed > at { at } else { 0 };
    }
    octets.len()
}

/// Lines end in LF here, as the terminal has them; tabs stay, every other control character and what is no UTF-8 becomes U+FFFD.
fn safely(octets: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let text = String::from_utf8_lossy(octets);
    let text = text.strip_suffix("\r\n").map_or_else(|| text.to_string(), |line| format!("{line}\n"));
    let text: String = text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect();
    write!(out, "{PLAIN}{text}{PLAIN:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_body(content: &[u8]) -> String {
        let mut out = Vec::new();
        body(content, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_drives_no_terminal() {
        let content = b"Subject: x\r\n\r\n\x1b[2Jcaf\xc3\xa9\tand \x9b31m\xe2\x80\xa8.\r\nbare\rCR\x00\r\n\r\nlast";
        assert_eq!(shown_body(content), "\u{fffd}[2Jcaf\u{e9}\tand \u{fffd}31m\u{2028}.\nbare\u{fffd}CR\u{fffd}\n\nlast");
        assert_eq!(shown_body(b"Subject: no body\r\n"), "");
        assert_eq!(shown_body(b"\r\nno header"), "no header");
    }

    #[test]
    fn long_lines_keep_their_characters() {
        for lead in 0..4 {
            let line = format!("{}{}", "x".repeat(lead), "\u{1f600}".repeat(40_000));
            assert_eq!(shown_body(format!("A: b\r\n\r\n{line}\r\n").as_bytes()), format!("{line}\n"));
        }
        let line = "x".repeat(PIECE as usize - 1);
        assert_eq!(shown_body(format!("\r\n{line}\r\n").as_bytes()), format!("{line}\n"), "a line end across two pieces");
        let broken = [b"A: b\r\n\r\n".to_vec(), vec![0xf0, 0x9f]].concat();
        assert_eq!(shown_body(&broken), "\u{fffd}");
    }
}

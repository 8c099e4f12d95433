//! Takes a report's entries, hands on the part that programs read: message/delivery-status (RFC 3464) or, where an address is
//! internationalised, message/global-delivery-status (RFC 6533).

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;

use super::{Report, Settings, compose, is_plain};
use crate::message::Address;
use crate::outcome::{Outcome, Peer};
use crate::queue::{ReportAction, ReportEntry};

/// Lines are folded here where there is a blank to fold at (RFC 5322 2.1.1) ...
const FOLD_AT: usize = 78;
/// ... and broken here where there is none: 998 octets is what SMTP carries, and the longest escape of a character needs ten.
const BREAK_AT: usize = 900;

/// Whether an address of the report has octets beyond ASCII, so that the fields may and must carry UTF-8.
pub(super) fn is_global(report: &Report<'_>) -> bool {
    report.due.entries.iter().any(|entry| entry.address.needs_smtputf8())
}

/// The fields: one group for the message and one for each recipient, parted by empty lines.
pub(super) fn write(report: &Report<'_>, settings: &Settings, out: &mut dyn Write) -> io::Result<()> {
    let message = &report.due.message;
    let mut fields = Fields { out, utf8: is_global(report) };
    fields.put("Reporting-MTA", &format!("dns; {}", settings.hostname))?;
    if let Some(envid) = message.envid.as_deref().filter(|envid| !envid.is_empty()) {
        fields.put("Original-Envelope-Id", envid)?;
    }
    fields.put("Arrival-Date", &compose::date(message.accepted_at))?;
    for entry in &report.due.entries {
        write_recipient(report, entry, &mut fields)?;
    }
    Ok(())
}

fn write_recipient(report: &Report<'_>, entry: &ReportEntry, fields: &mut Fields<'_>) -> io::Result<()> {
    fields.out.write_all(b"\r\n")?;
    let recipient = typed(&entry.address);
    fields.put("Original-Recipient", &recipient)?;
    fields.put("Final-Recipient", &recipient)?;
    let action = match entry.action {
        ReportAction::Failed => "failed",
        ReportAction::Delayed => "delayed",
        ReportAction::Relayed => "relayed",
    };
    fields.put("Action", action)?;
    fields.put("Status", &entry.outcome.status.to_string())?;
    if let Some(peer) = &entry.outcome.peer {
        fields.put("Remote-MTA", &remote_mta(peer))?;
    }
    fields.put("Diagnostic-Code", &diagnostic(&entry.outcome))?;
    fields.put("Last-Attempt-Date", &compose::date(entry.at))?;
    if entry.action == ReportAction::Delayed {
        fields.put("Will-Retry-Until", &compose::date(report.due.message.expires_at))?;
    }
    Ok(())
}

/// `rfc822; address`, or the `utf-8` address type, which stands as it is in message/global-delivery-status (RFC 6533 3).
fn typed(address: &Address) -> String {
    let kind = if address.needs_smtputf8() { "utf-8" } else { "rfc822" };
    format!("{kind}; {address}")
}

/// The name that was dialled, with its address as a comment; a target that is an address as RFC 5321 4.1.3 writes it.
fn remote_mta(peer: &Peer) -> String {
    let ip = peer.address.ip();
    match peer.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(host)) => format!("dns; [{host}]"),
        Ok(IpAddr::V6(host)) => format!("dns; [IPv6:{host}]"),
        Err(_) => format!("dns; {} ({ip})", peer.host),
    }
}

/// The peer's reply as it came, code before each line; without one, what happened in this daemon's own words, under a type of its own.
fn diagnostic(outcome: &Outcome) -> String {
    let Some(reply) = &outcome.reply else { return format!("x-smtp-direct; {}", outcome.text) };
    let mut value = String::from("smtp; ");
    let mut lines = reply.lines().peekable();
    while let Some(line) = lines.next() {
        let (separator, end) = if lines.peek().is_some() { ('-', "\n") } else { (' ', "") };
        // Writing to a String cannot fail.
        let _ = write!(value, "{}{separator}{line}{end}", reply.code());
    }
    value
}

/// Writes fields so that no value can end its line: peers, senders and administrators wrote parts of them.
struct Fields<'a> {
    out: &'a mut dyn Write,
    utf8: bool,
}

impl Fields<'_> {
    /// `name: value`, folded at blanks and at each `\n` of the value.
    fn put(&mut self, name: &str, value: &str) -> io::Result<()> {
        let mut line = format!("{name}:");
        let (mut words_on_line, utf8) = (0, self.utf8);
        for (i, paragraph) in value.split('\n').enumerate() {
            if i > 0 {
                self.end_line(&mut line)?;
                words_on_line = 0;
            }
            // At each blank, so that a quoted local part keeps all of its own.
            for word in paragraph.split(' ').flat_map(|word| pieces(word, utf8)) {
                // A line of blanks alone would not be written, and they are the value's.
                if words_on_line > 0 && !is_blank(&line) && line.len() + 1 + word.len() > FOLD_AT {
                    self.end_line(&mut line)?;
                    words_on_line = 0;
                }
                line.push(' ');
                line.push_str(&word);
                words_on_line += 1;
            }
        }
        self.end_line(&mut line)
    }

    /// A line of blanks alone would end the group of fields for some readers, so it is left out.
    fn end_line(&mut self, line: &mut String) -> io::Result<()> {
        if !is_blank(line) {
            self.out.write_all(line.as_bytes())?;
            self.out.write_all(b"\r\n")?;
        }
        line.clear();
        Ok(())
    }
}

fn is_blank(line: &str) -> bool {
    line.bytes().all(|octet| octet == b' ')
}

/// A word, cleaned, in pieces that fit on a line. Where only ASCII may stand, other characters become RFC 6533's `\x{HEX}`.
fn pieces(word: &str, utf8: bool) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in word.chars() {
        let mut piece = match pieces.pop() {
            Some(full) if full.len() >= BREAK_AT => {
                pieces.push(full);
                String::new()
            }
            started => started.unwrap_or_default(),
        };
        match c {
            c if !is_plain(c) => piece.push('?'),
            c if c.is_ascii() || utf8 => piece.push(c),
            // Writing to a String cannot fail.
            c => drop(write!(piece, "\\x{{{:X}}}", u32::from(c))),
        }
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &str, utf8: bool) -> String {
        let mut out = Vec::new();
        Fields { out: &mut out, utf8 }.put("Diagnostic-Code", value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_are_folded_line_by_line_and_at_blanks() {
        let long = "smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking\n550 5.1.1 it";
        let folded = "Diagnostic-Code: smtp; 550-5.1.1 The email account that you tried to reach\r\n \
                      does not exist. Please try double-checking\r\n 550 5.1.1 it\r\n";
        assert_eq!(put(long, false), folded);
        assert_eq!(put("smtp; 550-\n\n \n550 x", false), "Diagnostic-Code: smtp; 550-\r\n 550 x\r\n");
        assert_eq!(put("rfc822; \"a  b\"@example.com", false), "Diagnostic-Code: rfc822; \"a  b\"@example.com\r\n");
    }

    #[test]
    fn blanks_between_long_words_are_all_kept() {
        let long = "a".repeat(FOLD_AT);
        assert_eq!(put(&format!("\"{long}   {long}\"@x"), false), format!("Diagnostic-Code: \"{long}\r\n   {long}\"@x\r\n"));
    }

    #[test]
    fn nothing_ends_a_line_but_folding() {
        assert_eq!(put("a\rAction: delivered\0\u{85}b", false), "Diagnostic-Code: a?Action: delivered??b\r\n");
        let broken = put(&"x".repeat(2000), false);
        assert!(broken.lines().all(|line| line.len() <= 998), "{broken}");
        assert_eq!(broken.matches('x').count(), 2000);
        let escaped = put(&"\u{10FFFF}".repeat(200), false);
        assert!(escaped.lines().all(|line| line.len() <= 998), "{escaped}");
    }

    #[test]
    fn other_scripts_are_kept_where_they_may_stand_and_escaped_elsewhere() {
        assert_eq!(put("smtp; 550 Postfach für Jürgen voll", true), "Diagnostic-Code: smtp; 550 Postfach für Jürgen voll\r\n");
        assert_eq!(put("smtp; 550 für", false), "Diagnostic-Code: smtp; 550 f\\x{FC}r\r\n");
        assert_eq!(put("a\u{2028}\u{202e}b", true), "Diagnostic-Code: a??b\r\n");
    }
}

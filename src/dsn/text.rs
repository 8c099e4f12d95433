//! Takes a report's entries, hands on the part that people read.

use super::compose::{self, Enclosed};
use super::{Report, Settings, is_plain};
use crate::outcome::EnhancedStatus;
use crate::queue::{ReportAction, ReportEntry};

/// Columns of a line, where its words allow.
const WIDTH: usize = 74;

/// The text, lines ended by CRLF.
pub(super) fn write(report: &Report<'_>, settings: &Settings, enclosed: Enclosed) -> String {
    let message = &report.due.message;
    let until = compose::date(message.expires_at);
    let mut text = Text::default();
    text.paragraph(0, &format!("This is the mail system at {}.", settings.hostname));
    let of = |action| report.due.entries.iter().filter(move |entry| entry.action == action);
    text.section(of(ReportAction::Failed), "Your message could not be delivered to:", "It will not be tried again.");
    let waiting = format!(
        "This is only a warning: you need not do anything. Delivery will be tried again until {until}. \
         If it does not succeed by then, your message will be returned to you."
    );
    text.section(of(ReportAction::Delayed), "Your message has not been delivered yet to:", &waiting);
    let relayed = "That server does not send delivery reports, so this is the last that can be said of it from here.";
    text.section(of(ReportAction::Relayed), "Your message was accepted by the mail server of:", relayed);
    text.blank();
    text.paragraph(0, "About your message:");
    text.paragraph(4, &format!("accepted here: {}", compose::date(message.accepted_at)));
    if let Some(message_id) = &message.content.message_id {
        text.paragraph(4, &format!("Message-ID: {message_id}"));
    }
    text.paragraph(4, &format!("number at {}: {}", settings.hostname, message.id));
    text.blank();
    text.paragraph(
        0,
        match enclosed {
            Enclosed::Message => "Below are a report for mail programs, and your message.",
            Enclosed::Header => "Below are a report for mail programs, and the header of your message.",
            Enclosed::Nothing => "Below is a report for mail programs. Your message itself is damaged here and cannot be returned.",
        },
    );
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn section<'a>(&mut self, entries: impl Iterator<Item = &'a ReportEntry>, opening: &str, closing: &str) {
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return;
        }
        self.blank();
        self.paragraph(0, opening);
        for entry in entries {
            self.blank();
            self.entry(entry);
        }
        self.blank();
        self.paragraph(0, closing);
    }

    fn entry(&mut self, entry: &ReportEntry) {
        let outcome = &entry.outcome;
        self.line(2, &entry.address.to_string());
        if entry.action != ReportAction::Relayed
            && let Some(meaning) = meaning(outcome.status)
        {
            self.paragraph(4, meaning);
        }
        let peer = outcome.peer.as_ref().map(|peer| format!("{} ({}): ", peer.host, peer.address.ip())).unwrap_or_default();
        self.paragraph(4, &format!("{peer}{}", outcome.text));
        if outcome.in_doubt {
            self.paragraph(4, "It may have arrived all the same: the connection broke after all of it was sent.");
        }
    }

    fn blank(&mut self) {
        self.0.push_str("\r\n");
    }

    /// A text as it is, but cleaned.
    fn line(&mut self, indent: usize, text: &str) {
        self.0.extend(std::iter::repeat_n(' ', indent).chain(text.chars().map(clean)));
        self.blank();
    }

    /// Words, cleaned, on lines that begin with `indent` blanks.
    fn paragraph(&mut self, indent: usize, words: &str) {
        let mut column = 0;
        for word in words.split_whitespace() {
            let width = word.chars().count();
            if column > 0 && column + 1 + width > WIDTH {
                self.blank();
                column = 0;
            }
            if column == 0 {
                self.0.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                self.0.push(' ');
                column += 1;
            }
            self.0.extend(word.chars().map(clean));
            column += width;
        }
        self.blank();
    }
}

fn clean(c: char) -> char {
    if is_plain(c) { c } else { '?' }
}

/// What a status code (RFC 3463) says to somebody who never heard of one.
fn meaning(status: EnhancedStatus) -> Option<&'static str> {
    Some(match (status.subject, status.detail) {
        (1, 1) => "There is no such mailbox. Please check the address for typing mistakes.",
        (1, 2) => "The domain of this address does not exist. Please check it for typing mistakes.",
        (1, 3) => "The mail server does not take this for an address.",
        (1, 6) => "The mailbox has moved, and its new address is not known.",
        (1, 10) => "The domain of this address accepts no mail at all.",
        (2, 1) => "The mailbox is closed, or accepts nothing at the moment.",
        (2, 2) => "The mailbox is full.",
        (2, 3) | (3, 4) => "The message is too large.",
        (4, 1) => "The mail server cannot be reached.",
        (4, 2) => "The connection to the mail server was lost.",
        (4, 3) => "The mail servers of this domain could not be looked up.",
        (4, 4) => "This domain has no mail server that could be reached.",
        (4, 6) => "Mail to this address runs in a circle.",
        (4, 7) => "It could not be delivered within the time allowed.",
        (6, 7) => "The mail server does not handle internationalized addresses.",
        (7, 5 | 10) => "No secure connection to the mail server could be made.",
        (7, 0 | 1 | 20..=28) => "It was refused as a matter of policy.",
        _ => return None,
    })
}

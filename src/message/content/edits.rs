//! Takes a header section, hands on what sending changes in it: fields that are cut and fields that are put on top.

use std::fmt::Write as _;

use super::{Cut, Header};
use crate::clock::Timestamp;
use crate::message::{Domain, MessageId};

/// Fields that are not sent on. `Bcc` and `Resent-Bcc` are between the sender and this host (RFC 5322 3.6.3), `Return-Path` is written by
/// the last host and by no other (RFC 5321 4.4), `X-Sender` and `X-Receiver` are an envelope.
const CUT_FIELDS: [&str; 5] = ["Bcc", "Resent-Bcc", "Return-Path", "X-Sender", "X-Receiver"];
/// Length that a line of the added fields has at most, where the host name lets it (RFC 5322 2.1.1).
const LINE: usize = 78;
/// Octets of a `Message-ID` that are kept for the log and the history.
const MESSAGE_ID: usize = 512;

/// What the added fields say.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// The message's id.
    pub id: MessageId,
    /// `hostname` of the configuration.
    pub hostname: &'a Domain,
    /// When the message is accepted.
    pub now: Timestamp,
}

/// What a file's first line told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parts {
    /// Whether there is a header section.
    pub(super) has_header: bool,
    /// Where there is none: whether the file goes on with an empty line, or with nothing at all.
    pub(super) separated: bool,
}

/// The ranges to cut, ascending and merged: what comes before the first field (a byte order mark, mbox's `From ` line), and fields.
pub(super) fn cuts(header: &Header) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let lead = (header.start() > 0).then_some(Cut { start: 0, end: header.start() });
    let fields = header.fields().filter(|field| CUT_FIELDS.iter().any(|name| field.is(name)));
    for cut in lead.into_iter().chain(fields.map(|field| Cut { start: field.start, end: field.end })) {
        match cuts.last_mut() {
            Some(last) if last.end == cut.start => last.end = cut.end,
            _ => cuts.push(cut),
        }
    }
    cuts
}

/// The lines to put on top: `Received` always, `Date` and `Message-ID` where missing, and the empty line where the file has no header.
pub(super) fn prepend(parts: Parts, header: &Header, stamp: &Stamp<'_>) -> String {
    let Stamp { id, hostname, now } = stamp;
    // RFC 5322 3.3. UTC, so that the text does not depend on the host's setting.
    let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000");
    // RFC 5321 4.4: no FROM clause, as there was no SMTP; no FOR clause, as it would show recipients to one another.
    let mut text = fold("Received: by", hostname.as_str());
    let comment = " (smtp-direct)";
    let clauses = format!("with local id {id};\r\n\t{date}\r\n");
    let line = text.len() - text.rfind('\n').map_or(0, |end| end + 1);
    text.push_str(if line + comment.len() <= LINE { comment } else { "\r\n\t(smtp-direct)" });
    text.push_str("\r\n\t");
    text.push_str(&clauses);
    if header.first("Date").is_none() {
        let _ = write!(text, "Date: {date}\r\n");
    }
    if header.first("Message-ID").is_none() {
        text.push_str(&fold("Message-ID:", &own_message_id(stamp)));
        text.push_str("\r\n");
    }
    if !parts.has_header && !parts.separated {
        text.push_str("\r\n");
    }
    text
}

/// `name value`, on two lines where one would be too long.
fn fold(name: &str, value: &str) -> String {
    if name.len() + 1 + value.len() <= LINE { format!("{name} {value}") } else { format!("{name}\r\n\t{value}") }
}

/// The `Message-ID` that is added where there is none.
fn own_message_id(stamp: &Stamp<'_>) -> String {
    format!("<{}@{}>", stamp.id, stamp.hostname)
}

/// The value of `Message-ID` as it is sent, for people: without control characters, bounded.
pub(super) fn message_id(header: &Header, stamp: &Stamp<'_>) -> Option<String> {
    let Some(field) = header.first("Message-ID") else { return Some(own_message_id(stamp)) };
    let mut id = field.text();
    id.retain(|c| !c.is_control());
    while id.len() > MESSAGE_ID {
        id.pop();
    }
    Some(id).filter(|id| !id.is_empty())
}

/// Whether a field that is sent has UTF-8 beyond ASCII (RFC 6532), and whether anything that is sent of the header has octets over 127.
pub(super) fn beyond_ascii(header: &Header, cuts: &[Cut]) -> (bool, bool) {
    let (mut utf8, mut eight_bit) = (false, false);
    for octets in kept(header, cuts) {
        if octets.is_ascii() {
            continue;
        }
        eight_bit = true;
        utf8 |= octets.split(|octet| matches!(octet, b'\r' | b'\n')).any(|line| !line.is_ascii() && std::str::from_utf8(line).is_ok());
    }
    (utf8, eight_bit)
}

/// What is left of the header section between the cuts.
fn kept<'a>(header: &'a Header, cuts: &'a [Cut]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut.end));
    let ends = cuts.iter().map(|cut| cut.start).chain(std::iter::once(header.end()));
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| header.octets(start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(hostname: &Domain) -> Stamp<'_> {
        let now = "2026-11-22T09:42:50.5Z".parse().unwrap();
        Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname, now }
    }

    const PARTS: Parts = Parts { has_header: true, separated: true };

    #[test]
    fn missing_fields_are_added_and_present_ones_left() {
        let host = Domain::parse("mail.example.com").unwrap();
        let received = "Received: by mail.example.com (smtp-direct)\r\n\twith local id 01ARZ3NDEKTSV4RRFFQ69G5FAV;\r\n\tSun, 22 Nov 2026 09:42:50 +0000\r\n";
        let both = Header::split(b"DATE: x\r\nmessage-id: <a@b>\r\n".to_vec(), 0);
        assert_eq!(prepend(PARTS, &both, &stamp(&host)), received);
        let neither = Header::split(b"Subject: x\r\n".to_vec(), 0);
        let expected =
            format!("{received}Date: Sun, 22 Nov 2026 09:42:50 +0000\r\nMessage-ID: <01ARZ3NDEKTSV4RRFFQ69G5FAV@mail.example.com>\r\n");
        assert_eq!(prepend(PARTS, &neither, &stamp(&host)), expected);
    }

    #[test]
    fn added_lines_stay_short_for_host_names_of_any_length() {
        for length in 1..=40 {
            let host = Domain::parse(&format!("{}.example", "h".repeat(length))).unwrap();
            for line in prepend(PARTS, &Header::default(), &stamp(&host)).split_terminator("\r\n") {
                assert!(line.len() <= LINE, "{line}");
            }
        }
        // A name that fits on no line of 78 stands alone.
        let host = Domain::parse(&["h".repeat(60).as_str(); 4].join(".")).unwrap();
        let text = prepend(PARTS, &Header::default(), &stamp(&host));
        assert!(text.starts_with(&format!("Received: by\r\n\t{host}\r\n\t(smtp-direct)\r\n\twith local id ")), "{text}");
    }

    #[test]
    fn only_utf8_that_is_sent_asks_for_smtputf8() {
        let check = |raw: &[u8]| {
            let header = Header::split(raw.to_vec(), 0);
            beyond_ascii(&header, &cuts(&header))
        };
        assert_eq!(check("Subject: Grüße\r\n".as_bytes()), (true, true));
        assert_eq!(check("Bcc: jürgen@example.com\r\nTo: a@b\r\n".as_bytes()), (false, false));
        assert_eq!(check(b"Subject: Gr\xfc\xdfe\r\nTo: a@b\r\n"), (false, true));
        assert_eq!(check(b"Subject: x\r\n"), (false, false));
    }

    #[test]
    fn message_id_is_clean_and_bounded() {
        let hostname = Domain::parse("mail.example.com").unwrap();
        let stamp = Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname: &hostname, now: Timestamp::UNIX_EPOCH };
        let id = |raw: &str| message_id(&Header::split(raw.as_bytes().to_vec(), 0), &stamp);
        assert_eq!(id("Message-Id:\r\n <a@b>\r\n"), Some("<a@b>".to_owned()));
        assert_eq!(id("Message-ID: <a\x1b[31m@b>\r\n"), Some("<a[31m@b>".to_owned()));
        assert_eq!(id(&format!("Message-ID: <{}>\r\n", "é".repeat(400))).unwrap().len(), 511);
        assert_eq!(id("Message-ID:\r\n"), None);
        assert_eq!(id("Subject: x\r\n"), Some("<01ARZ3NDEKTSV4RRFFQ69G5FAV@mail.example.com>".to_owned()));
    }
}

//! Takes a header section, hands on an envelope: `X-Sender`/`X-Receiver` lines at its top, else its address fields.

use std::collections::HashSet;

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use thiserror::Error;

use super::sidecar::SidecarError;
use crate::message::{Address, AddressError, Envelope, Field, Header, ReversePath};

/// Why a file has no usable envelope.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// Two answers to one question.
    #[error("there are both {json} and {toml}: keep one")]
    TwoSidecars {
        /// File name.
        json: String,
        /// File name.
        toml: String,
    },
    /// The sidecar is no file that can be read.
    #[error("sidecar {name}: {problem}")]
    SidecarFile {
        /// File name.
        name: String,
        /// What is wrong, and what would be right.
        problem: &'static str,
    },
    /// The sidecar's content.
    #[error("sidecar {name}: {source}")]
    Sidecar {
        /// File name.
        name: String,
        /// What is wrong.
        source: SidecarError,
    },
    /// An address in the header is none.
    #[error("{field}: {source}")]
    Address {
        /// Field name.
        field: &'static str,
        /// What is wrong.
        source: AddressError,
    },
    /// A field has something that is no address.
    #[error("{field}: {text:?} is no address; write NAME <local@domain>, with quotes around names that have commas")]
    NoAddress {
        /// Field name.
        field: &'static str,
        /// What stands there.
        text: String,
    },
    /// A comment is not closed: it would swallow the addresses behind it.
    #[error("{field}: a parenthesis is not closed")]
    OpenComment {
        /// Field name.
        field: &'static str,
    },
    /// A field's address is in no character set that is allowed there.
    #[error("{field}: an address in it is not UTF-8")]
    NotUtf8 {
        /// Field name.
        field: &'static str,
    },
    /// More than one X-Sender line.
    #[error("there are two X-Sender lines: keep one")]
    TwoSenders,
    /// Nobody is named as the sender.
    #[error("no sender: there is no sidecar, no X-Sender line, and no Return-Path, Sender or From field")]
    NoSender,
    /// Nobody is to get it.
    #[error("no recipient: {searched}")]
    NoRecipient {
        /// Where they were looked for.
        searched: String,
    },
}

/// The envelope that the header tells of. `Return-Path` and others that are cut from what is sent are still in `header`.
pub fn from_header(header: &Header) -> Result<Envelope, EnvelopeError> {
    pickup(header)?.map_or_else(|| from_fields(header), Ok)
}

/// Folds duplicates: the first of each address stays. At least one recipient must be there; `source` names where they came from.
pub fn checked(mut envelope: Envelope, source: &str) -> Result<Envelope, EnvelopeError> {
    let mut seen = HashSet::with_capacity(envelope.recipients.len());
    envelope.recipients.retain(|recipient| seen.insert(recipient.address.clone()));
    if envelope.recipients.is_empty() {
        return Err(EnvelopeError::NoRecipient { searched: format!("{source} names none") });
    }
    Ok(envelope)
}

/// The pickup convention: the fields before the first that is neither `X-Sender` nor `X-Receiver`. It counts where there is a receiver;
/// a lone `X-Sender` is a remark of some mail programs.
fn pickup(header: &Header) -> Result<Option<Envelope>, EnvelopeError> {
    let (mut sender, mut recipients) = (None, Vec::new());
    for field in header.fields() {
        if field.is("X-Receiver") {
            recipients.push(Address::parse(unbracketed(&field.text())).map_err(|source| address("X-Receiver", source))?);
        } else if field.is("X-Sender") {
            if sender.replace(field.text()).is_some() {
                return Err(EnvelopeError::TwoSenders);
            }
        } else {
            break;
        }
    }
    if recipients.is_empty() {
        return Ok(None);
    }
    let sender = match sender {
        Some(text) => ReversePath::parse(unbracketed(&text)).map_err(|source| address("X-Sender", source))?,
        None => header_sender(header, &[])?,
    };
    checked(Envelope::new(sender, recipients), "the X-Receiver lines").map(Some)
}

fn from_fields(header: &Header) -> Result<Envelope, EnvelopeError> {
    let resent = newest_resent(header);
    let recipients = named(header, &resent)?;
    if recipients.is_empty() {
        let fields = if resent.is_empty() { "no To, Cc or Bcc field has an address" } else { "the newest Resent- fields name nobody" };
        return Err(EnvelopeError::NoRecipient { searched: format!("there is no sidecar, no X-Receiver line, and {fields}") });
    }
    checked(Envelope::new(header_sender(header, &resent)?, recipients), "the header")
}

/// Whom the address fields name: `To`, `Cc` and `Bcc`, or those of the newest resending. Possibly nobody, duplicates included.
pub fn recipients(header: &Header) -> Result<Vec<Address>, EnvelopeError> {
    named(header, &newest_resent(header))
}

fn named(header: &Header, resent: &[Field<'_>]) -> Result<Vec<Address>, EnvelopeError> {
    let mut recipients = Vec::new();
    let mut add = |field: Field<'_>, names: &[&'static str]| -> Result<(), EnvelopeError> {
        if let Some(name) = names.iter().find(|name| field.is(name)) {
            recipients.extend(addresses(name, field.value)?);
        }
        Ok(())
    };
    if resent.is_empty() {
        header.fields().try_for_each(|field| add(field, &["To", "Cc", "Bcc"]))?;
    } else {
        resent.iter().try_for_each(|field| add(*field, &["Resent-To", "Resent-Cc", "Resent-Bcc"]))?;
    }
    Ok(recipients)
}

/// The fields of the newest resending: the first run of `Resent-` fields from the top in which no name comes twice (RFC 5322 3.6.6).
fn newest_resent(header: &Header) -> Vec<Field<'_>> {
    let is_resent = |field: &Field<'_>| field.name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"resent-"));
    let mut names = HashSet::new();
    header
        .fields()
        .skip_while(|field| !is_resent(field))
        .take_while(|field| is_resent(field) && names.insert(field.name.to_ascii_lowercase()))
        .collect()
}

/// `Return-Path`, else `Sender`, else the first `From` address. In a message that was resent, the newest block's own `Resent-Sender` or
/// `Resent-From` come before them, and a `Return-Path` below that block is of an earlier journey: reports would go to a stranger.
fn header_sender(header: &Header, resent: &[Field<'_>]) -> Result<ReversePath, EnvelopeError> {
    let newest = resent.first().map_or(u64::MAX, |field| field.start);
    if let Some(path) = header.first("Return-Path").filter(|path| path.start < newest) {
        return ReversePath::parse(unbracketed(&path.text())).map_err(|source| address("Return-Path", source));
    }
    let of_resent = |name: &'static str| resent.iter().copied().find(|field| field.is(name)).map(|field| (name, field));
    let of_header = |name: &'static str| header.first(name).map(|field| (name, field));
    let field =
        of_resent("Resent-Sender").or_else(|| of_resent("Resent-From")).or_else(|| of_header("Sender")).or_else(|| of_header("From"));
    let (name, field) = field.ok_or(EnvelopeError::NoSender)?;
    let first = addresses(name, field.value)?.into_iter().next();
    first.map(ReversePath::Address).ok_or(EnvelopeError::NoSender)
}

/// Every address of a field: lists, groups, comments and names are mail-parser's work; what it finds must be an address.
pub fn addresses(field: &'static str, value: &[u8]) -> Result<Vec<Address>, EnvelopeError> {
    let unfolded = String::from_utf8_lossy(value).replace(['\r', '\n'], "");
    // One bare address: the parser knows quoted local parts between angle brackets only.
    if let Ok(single) = Address::parse(unfolded.trim()) {
        return Ok(vec![single]);
    }
    // The parser takes the rest of a field for an unclosed comment: recipients in it would be missed without a word.
    if !closes_its_comments(&unfolded) {
        return Err(EnvelopeError::OpenComment { field });
    }
    // The parser stops at a line end that no space follows.
    let mut value: Vec<u8> = value.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
    value.push(b'\n');
    let HeaderValue::Address(list) = MessageStream::new(&value).parse_address() else { return Ok(Vec::new()) };
    list.iter()
        .map(|entry| {
            let shown = |text: &str| EnvelopeError::NoAddress { field, text: text.chars().take(100).collect() };
            let text = entry.address.as_deref().ok_or_else(|| shown(entry.name.as_deref().unwrap_or_default()))?;
            if text.contains(char::REPLACEMENT_CHARACTER) {
                return Err(EnvelopeError::NotUtf8 { field });
            }
            Address::parse(without_route(text)).map_err(|source| address(field, source))
        })
        .collect()
}

fn address(field: &'static str, source: AddressError) -> EnvelopeError {
    EnvelopeError::Address { field, source }
}

/// Whether every parenthesis outside of quotes is closed (RFC 5322 3.2.2).
fn closes_its_comments(text: &str) -> bool {
    let (mut depth, mut quoted) = (0_u32, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth == 0
}

/// What stands between angle brackets, where there are any; a source route before it is ignored (RFC 5321 4.1.2 and appendix C).
fn unbracketed(text: &str) -> &str {
    without_route(text.strip_prefix('<').and_then(|inner| inner.strip_suffix('>')).unwrap_or(text))
}

fn without_route(text: &str) -> &str {
    if text.starts_with('@') { text.split_once(':').map_or(text, |(_, mailbox)| mailbox) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Domain, Stamp, scan};

    fn envelope(text: &str) -> Result<Envelope, EnvelopeError> {
        let hostname = Domain::parse("mail.example.com").unwrap();
        let stamp = Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname: &hostname, now: Default::default() };
        from_header(&scan(text.as_bytes(), &stamp).unwrap().header)
    }

    /// `sender: recipient recipient …`
    fn shown(text: &str) -> String {
        match envelope(text) {
            Ok(envelope) => {
                let to: Vec<_> = envelope.recipients.iter().map(|r| r.address.to_string()).collect();
                format!("{}: {}", envelope.sender, to.join(" "))
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn header_fields_give_sender_and_recipients() {
        for (text, expected) in [
            ("From: a@x\nTo: b@y, C <c@y>\nCc: d@z\nBcc: e@z\n", "a@x: b@y c@y d@z e@z"),
            ("From: a@x, a2@x\nSender: s@x\nTo: b@y\n", "s@x: b@y"),
            ("From: a@x, a2@x\nTo: b@y\nTo: c@y\n", "a@x: b@y c@y"),
            ("Return-Path: <r@x>\nFrom: a@x\nTo: b@y\n", "r@x: b@y"),
            ("Return-Path: <>\nFrom: a@x\nTo: b@y\n", ": b@y"),
            ("From: a@x\nTo: Friends: b@y, \"Q, R\" <c@y>;, undisclosed-recipients:;\n", "a@x: b@y c@y"),
            ("From: =?utf-8?q?J=2C_x=40y?= <a@x>\nTo: (comment, z@z) b@y,\n\t<@relay,@r2:c@y>\n", "a@x: b@y c@y"),
            ("From: a@x\nTo: \"q r\"@y\n", "a@x: \"q r\"@y"),
            (
                "From: a@x\nTo: <\"q, q\"@y>, d@[192.0.2.1], jürgen@bücher.example\n",
                "a@x: \"q, q\"@y d@[192.0.2.1] jürgen@xn--bcher-kva.example",
            ),
            ("From: a@x\nTo: b@Y.example, B@y.example, b@y.EXAMPLE\n", "a@x: b@y.example B@y.example"),
            ("From: a@x\nTo: b@y,\r c@y\r\n", "a@x: b@y c@y"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pickup_lines_at_the_top_come_first() {
        for (text, expected) in [
            ("x-sender: a@x\nx-receiver: b@y\nX-RECEIVER: <c@y>\nFrom: f@x\nTo: t@y\n", "a@x: b@y c@y"),
            ("X-Receiver: b@y\nX-Sender: <>\nFrom: f@x\n", ": b@y"),
            ("X-Receiver: b@y\nX-Receiver: b@Y\nFrom: f@x\n", "f@x: b@y"),
            // Further down, and alone, they say nothing.
            ("From: f@x\nX-Sender: a@x\nX-Receiver: b@y\nTo: t@y\n", "f@x: t@y"),
            ("X-Sender: a@x\nFrom: f@x\nTo: t@y\n", "f@x: t@y"),
            ("X-Sender: a@x\nX-Sender: b@x\nX-Receiver: b@y\n", "there are two X-Sender lines: keep one"),
            ("X-Receiver: b@y, c@y\nFrom: f@x\n", "X-Receiver: \"b@y, c@y\": the part before the @ is not valid"),
            ("X-Receiver:\nFrom: f@x\n", "X-Receiver: \"\" has no domain: write local@domain"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn newest_resent_block_counts_alone() {
        let original = "Return-Path: <orig@x>\nFrom: a@x\nTo: b@y\n";
        let older = "Resent-From: o@x\nResent-To: old@y\nResent-Date: d\n";
        let newer = "Resent-From: n@x\nResent-To: new@y\nResent-Cc: new2@y\n";
        assert_eq!(shown(&format!("{newer}{older}{original}")), "n@x: new@y new2@y");
        assert_eq!(shown(&format!("Received: r\n{newer}Received: r\n{older}{original}")), "n@x: new@y new2@y");
        assert_eq!(shown(&format!("{newer}Resent-Sender: s@x\n{original}")), "s@x: new@y new2@y");
        // Return-Path above the block was written for this sending.
        assert_eq!(shown(&format!("Return-Path: <mine@x>\n{newer}{original}")), "mine@x: new@y new2@y");
        assert_eq!(
            shown(&format!("Resent-From: n@x\n{original}")),
            "no recipient: there is no sidecar, no X-Receiver line, and the newest Resent- fields name nobody"
        );
    }

    #[test]
    fn what_is_missing_or_no_address_is_said() {
        for (text, expected) in [
            ("From: a@x\nSubject: s\n", "no recipient: there is no sidecar, no X-Receiver line, and no To, Cc or Bcc field has an address"),
            ("From: a@x\nTo: undisclosed-recipients:;\n", "no recipient: there is no sidecar"),
            ("just a body\n", "no recipient: there is no sidecar"),
            ("To: b@y\n", "no sender: there is no sidecar, no X-Sender line, and no Return-Path, Sender or From field"),
            ("From: John Doe\nTo: b@y\n", "From: \"John Doe\" is no address"),
            ("From: a@x\nTo: b@y, \"c@y\"\n", "To: \"c@y\" is no address"),
            ("From: a@x\nTo: b@y c@y\n", "To: \"b@y c@y\": the part before the @ is not valid"),
            ("From: a@x\nTo: <b@y\0>\n", "To: \"b@y\\0\" contains a control character"),
            ("From: a@x\nTo: b@y (work, c@y\n", "To: a parenthesis is not closed"),
            ("From: a@x\nTo: b@y,, \"q r\"@y\n", "To: \"@y\": the part before the @ is not valid"),
        ] {
            assert!(shown(text).starts_with(expected), "{text:?}: {}", shown(text));
        }
    }

    #[test]
    fn ten_thousand_recipients_in_one_field() {
        let list: Vec<_> = (0..10_000).map(|n| format!("user{n}@d{}.test", n % 100)).collect();
        let envelope = envelope(&format!("From: a@x\nTo: {}\n", list.join(",\n "))).unwrap();
        assert_eq!(envelope.recipients.len(), 10_000);
        assert_eq!(envelope.recipients[9_999].address.to_string(), "user9999@d99.test");
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "((From|To|X-Receiver|Resent-To|Return-Path): [ -~é\\n]{0,30}\\n){0,6}") {
            let _ = envelope(&text);
        }
    }
}

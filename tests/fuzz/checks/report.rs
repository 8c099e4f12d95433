//! Reports: whatever peers, senders and the original wrote, the parts, recipients and status codes are this host's.

use std::io::Read;
use std::sync::Arc;

use mail_parser::{MessageParser, MimeHeaders, PartType};
use smtp_direct::clock::Timestamp;
use smtp_direct::dsn::{Enclosed, Report, Settings};
use smtp_direct::message::{Address, Content, Domain, MAX_HEADER, MessageId, Priority, Ret, ReversePath};
use smtp_direct::outcome::{EnhancedStatus, Kind, Outcome, Peer};
use smtp_direct::queue::{Message, RecipientId, ReportAction, ReportDue, ReportEntry};
use smtp_direct::smtp::Reply;

use super::canonical::{assert_canonical, model, scanned};

/// What ends each part of the input but the last: no octet of UTF-8.
const END: u8 = 0xff;
/// Octets of a line without its end (RFC 5322 2.1.1).
const LONGEST_LINE: usize = 998;
/// What may stand around a field's body (RFC 5322 2.2.2). Other characters that are blank in Unicode are part of it: an address may begin with one.
const BLANK: [char; 2] = [' ', '\t'];

/// Options, recipients (one a line), sender, reply, fault, host, envelope id, message id and original, parted by [`END`].
pub fn check(data: &[u8]) {
    let mut parts = data.splitn(9, |octet| *octet == END);
    let options = parts.next().and_then(|part| part.first()).map_or(0, |octet| usize::from(*octet));
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let [recipients, sender, reply, fault, host, envid, message_id] = std::array::from_fn(|_| text());
    let file = parts.next().unwrap_or_default();
    if file.len() >= MAX_HEADER {
        return;
    }
    let is_set = |bit: usize| options & (1 << bit) != 0;
    let outcome = Outcome {
        kind: Kind::Failed,
        status: EnhancedStatus::new(if is_set(3) { 4 } else { 5 }, 1, 1),
        text: fault,
        reply: is_set(4).then(|| Reply::new(550, reply)),
        peer: is_set(5).then(|| Arc::new(Peer { host: host.into(), address: "[2001:db8::1]:25".parse().unwrap(), tls: None })),
        in_doubt: is_set(6),
        dsn_relayed: false,
    };
    let mut addresses: Vec<Address> = recipients.split('\n').take(20).filter_map(|text| Address::parse(text).ok()).collect();
    if addresses.is_empty() {
        addresses.push(Address::parse("ann@example.net").unwrap());
    }
    let actions = [ReportAction::Failed, ReportAction::Delayed, ReportAction::Relayed];
    let entry = |(i, address): (usize, Address)| ReportEntry { action: actions[(options + i) % 3], ..entry(address, outcome.clone()) };
    let content = scanned(file).unwrap().content;
    let original = model(file, &content);
    let due = ReportDue {
        message: Arc::new(Message {
            sender: ReversePath::Address(Address::parse(&sender).unwrap_or(Address::parse("joe@example.com").unwrap())),
            ret: [None, Some(Ret::Full), Some(Ret::Headers)][options % 3],
            envid: Some(envid).filter(|envid| !envid.is_empty()),
            content: Content { message_id: Some(message_id).filter(|id| !id.is_empty()).or(content.message_id.clone()), ..content },
            ..message()
        }),
        entries: addresses.into_iter().enumerate().map(entry).collect(),
    };
    holds(&due, (!is_set(7)).then_some(&original));
}

pub fn at(time: &str) -> Timestamp {
    format!("2025-11-22T{time}Z").parse().unwrap()
}

pub fn settings() -> Settings {
    let hostname = Domain::parse("mail.example.com").unwrap();
    Settings::new(hostname, "Mail Delivery System <MAILER-DAEMON@mail.example.com>", 50 * 1024).unwrap()
}

/// From joe, with no content.
pub fn message() -> Message {
    Message {
        id: "01KAMZ4B0000000000000000AB".parse().unwrap(),
        source: "hello.eml".into(),
        sender: ReversePath::parse("joe@example.com").unwrap(),
        content: Content { canonical: true, message_id: Some("<1@example.com>".into()), ..Content::default() },
        accepted_at: at("09:43:00"),
        expires_at: "2025-11-27T09:43:00Z".parse().unwrap(),
        priority: Priority::Urgent,
        ret: None,
        envid: Some("QQ314159".into()),
        tag: None,
    }
}

pub fn entry(address: Address, outcome: Outcome) -> ReportEntry {
    ReportEntry { id: RecipientId(1), address, action: ReportAction::Failed, outcome, at: at("10:00:00") }
}

pub fn id() -> MessageId {
    "01KAMZ4B0000000000000000CD".parse().unwrap()
}

pub fn compose(due: &ReportDue, original: Option<&[u8]>) -> (Enclosed, Vec<u8>) {
    let mut out = Vec::new();
    let mut original = original;
    let original = original.as_mut().map(|original| original as &mut dyn Read);
    let enclosed = Report::new(due, id(), at("10:00:01")).unwrap().compose(&settings(), original, &mut out).unwrap();
    (enclosed, out)
}

/// Composes the report and takes it apart again, once by the letter of the RFCs and once with mail-parser.
pub fn holds(due: &ReportDue, original: Option<&Vec<u8>>) {
    let (enclosed, octets) = compose(due, original.map(Vec::as_slice));
    assert_canonical(&octets);

    let report = Part::read(&octets);
    let mut names = vec!["From", "To", "Subject", "Date", "Message-ID"];
    if report.names().contains(&"In-Reply-To") {
        names.extend(["In-Reply-To", "References"]);
    }
    names.extend(["Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]);
    assert_eq!(report.names(), names);
    assert_eq!(report.field("To"), due.message.sender.to_string());

    let parts = report.parts();
    assert_eq!(parts.len(), if original.is_some() { 3 } else { 2 });
    for part in &parts {
        assert_eq!(part.names(), ["Content-Description", "Content-Type", "Content-Transfer-Encoding"]);
        assert!(part.field("Content-Transfer-Encoding") != "7bit" || part.body.is_ascii(), "{}", part.body.escape_ascii());
    }
    let eight_bit = parts.iter().any(|part| part.field("Content-Transfer-Encoding") == "8bit");
    assert_eq!(report.field("Content-Transfer-Encoding") == "8bit", eight_bit);
    for line in parts[..2].iter().flat_map(|part| part.body.split(|octet| *octet == b'\n')) {
        assert!(line.len() <= LONGEST_LINE + 1, "{}", line.escape_ascii());
    }

    let groups = parts[1].groups();
    assert_eq!(groups.len(), 1 + due.entries.len());
    for (group, entry) in groups[1..].iter().zip(&due.entries) {
        let mut names = vec!["Original-Recipient", "Final-Recipient", "Action", "Status"];
        names.extend(entry.outcome.peer.as_ref().map(|_| "Remote-MTA"));
        names.extend(["Diagnostic-Code", "Last-Attempt-Date"]);
        names.extend((entry.action == ReportAction::Delayed).then_some("Will-Retry-Until"));
        assert_eq!(group.names(), names);
        assert_group(entry, |name| group.field(name).to_owned());
    }
    if let Some(original) = original {
        let length = match (enclosed, original.windows(4).position(|four| four == b"\r\n\r\n")) {
            (Enclosed::Header, _) if original.starts_with(b"\r\n") => 0,
            (Enclosed::Header, Some(end)) => end + 2,
            _ => original.len(),
        };
        assert!(parts[2].body == original[..length], "{}", parts[2].body.escape_ascii());
    }
    parsed(due, &octets, parts.len());
}

/// The same through a library's eyes.
fn parsed(due: &ReportDue, octets: &[u8], parts: usize) {
    let parser = MessageParser::default();
    let report = parser.parse(octets).unwrap();
    let kind = report.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype(), kind.attribute("report-type")), ("multipart", Some("report"), Some("delivery-status")));
    let PartType::Multipart(children) = &report.parts[0].body else { panic!("no multipart") };
    assert_eq!(children.len(), parts);
    let children: Vec<_> = children.iter().map(|child| &report.parts[*child as usize]).collect();
    let kinds: Vec<_> = children.iter().map(|part| part.content_type().map(|kind| (kind.ctype(), kind.subtype().unwrap()))).collect();
    assert_eq!(kinds[0], Some(("text", "plain")));
    let global = due.entries.iter().any(|entry| entry.address.needs_smtputf8());
    assert_eq!(kinds[1], Some(("message", if global { "global-delivery-status" } else { "delivery-status" })));
    let status = children[1].contents();
    let groups = split(status, b"\r\n\r\n");
    assert_eq!(groups.len(), 1 + due.entries.len());
    for (group, entry) in groups[1..].iter().zip(&due.entries) {
        let group = [&group[..], b"\r\n\r\n"].concat();
        let group = parser.parse(&group).unwrap();
        assert_group(entry, |name| group.header_raw(name).unwrap().replace("\r\n", "").trim_matches(BLANK).to_owned());
    }
}

#[track_caller]
fn assert_group(entry: &ReportEntry, field: impl Fn(&str) -> String) {
    let action = match entry.action {
        ReportAction::Failed => "failed",
        ReportAction::Delayed => "delayed",
        ReportAction::Relayed => "relayed",
    };
    assert_eq!((field("Action"), field("Status")), (action.to_owned(), entry.outcome.status.to_string()));
    let kind = if entry.address.needs_smtputf8() { "utf-8" } else { "rfc822" };
    assert_eq!(field("Final-Recipient"), format!("{kind}; {}", entry.address.to_string().replace(is_odd, "?")));
}

/// Characters that make a text read otherwise than it is.
fn is_odd(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A message or part taken apart by the letter of RFC 5322 and RFC 2046, independent of any library's tolerance.
#[derive(Debug)]
pub struct Part {
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Part {
    pub fn read(octets: &[u8]) -> Self {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line after the header");
        Self { fields: fields(&octets[..end + 2]), body: octets[end + 4..].to_vec() }
    }

    pub fn field(&self, name: &str) -> &str {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.fields));
        assert!(found.next().is_none(), "two {name}");
        value
    }

    pub fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn parts(&self) -> Vec<Self> {
        let content_type = self.field("Content-Type");
        let boundary = content_type.split_once("boundary=\"").unwrap().1.strip_suffix('"').unwrap();
        let body = [b"\r\n".as_slice(), &self.body].concat();
        let pieces = split(&body, format!("\r\n--{boundary}").as_bytes());
        let (last, parts) = pieces.split_last().unwrap();
        assert_eq!(last, b"--\r\n");
        parts[1..].iter().map(|part| Self::read(part.strip_prefix(b"\r\n").unwrap())).collect()
    }

    /// The groups of a delivery-status part.
    pub fn groups(&self) -> Vec<Self> {
        let mut body = self.body.clone();
        body.extend(b"\r\n");
        let groups = split(&body, b"\r\n\r\n");
        let (last, groups) = groups.split_last().unwrap();
        assert!(last.is_empty());
        groups.iter().map(|group| Self { fields: fields(&[group, b"\r\n".as_slice()].concat()), body: Vec::new() }).collect()
    }
}

fn split(octets: &[u8], at: &[u8]) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), octets);
    while let Some(found) = rest.windows(at.len()).position(|window| window == at) {
        pieces.push(rest[..found].to_vec());
        rest = &rest[found + at.len()..];
    }
    pieces.push(rest.to_vec());
    pieces
}

/// Fields, unfolded.
fn fields(header: &[u8]) -> Vec<(String, String)> {
    let header = std::str::from_utf8(header).unwrap();
    let unfolded = header.strip_suffix("\r\n").unwrap().replace("\r\n ", " ");
    unfolded
        .split("\r\n")
        .map(|line| line.split_once(':').map(|(name, value)| (name.into(), value.trim_start_matches(BLANK).into())).unwrap())
        .collect()
}

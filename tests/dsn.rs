//! Reports as their readers see them: structure, fields, and that nothing a peer or sender wrote changes either.
//!
//! The samples are written to `dsn/` in the directory that cargo gives tests; `tests/interop/check_dsn.py` reads them with other parsers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;
use smtp_direct::clock::Timestamp;
use smtp_direct::dsn::{ComposeError, Enclosed, Report, Settings};
use smtp_direct::message::{Address, Content, Domain, MessageId, Notify, Priority, Ret, ReversePath};
use smtp_direct::outcome::{DnsFault, EnhancedStatus, Fault, Kind, Outcome, Peer, Phase};
use smtp_direct::queue::{Message, RecipientId, ReportAction, ReportDue, ReportEntry};
use smtp_direct::smtp::Reply;

const ORIGINAL: &str = "Received: by mail.example.com\r\nFrom: joe@example.com\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n\r\n\
                        Dear Ann,\r\n\r\n.and a line with a dot\r\n";

fn at(time: &str) -> Timestamp {
    format!("2025-11-22T{time}Z").parse().unwrap()
}

fn settings() -> Settings {
    let hostname = Domain::parse("mail.example.com").unwrap();
    Settings::new(hostname, "Mail Delivery System <MAILER-DAEMON@mail.example.com>", 50 * 1024).unwrap()
}

fn message(original: &[u8]) -> Message {
    Message {
        id: "01KAMZ4B0000000000000000AB".parse().unwrap(),
        source: "hello.eml".into(),
        sender: ReversePath::parse("joe@example.com").unwrap(),
        content: Content {
            file_size: original.len() as u64,
            wire_size: original.len() as u64,
            canonical: true,
            eight_bit: !original.is_ascii(),
            message_id: Some("<1@example.com>".into()),
            ..Content::default()
        },
        accepted_at: at("09:43:00"),
        expires_at: "2025-11-27T09:43:00Z".parse().unwrap(),
        priority: Priority::Urgent,
        ret: None,
        envid: Some("QQ314159".into()),
        tag: None,
    }
}

fn peer() -> Option<Arc<Peer>> {
    Some(Arc::new(Peer { host: "mx.example.net".into(), address: "192.0.2.1:25".parse().unwrap(), tls: None }))
}

fn refused(text: &str) -> Outcome {
    let reply = Reply::new(if text.starts_with('4') { 450 } else { 550 }, text);
    Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply }, peer())
}

fn entry(address: &str, action: ReportAction, outcome: Outcome) -> ReportEntry {
    ReportEntry { id: RecipientId(1), address: Address::parse(address).unwrap(), action, outcome, at: at("10:00:00") }
}

fn due(message: Message, entries: Vec<ReportEntry>) -> ReportDue {
    ReportDue { message: Arc::new(message), entries }
}

fn id() -> MessageId {
    "01KAMZ4B0000000000000000CD".parse().unwrap()
}

fn compose(due: &ReportDue, original: Option<&[u8]>) -> (Enclosed, Vec<u8>) {
    let mut out = Vec::new();
    let mut original = original;
    let original = original.as_mut().map(|original| original as &mut dyn Read);
    let enclosed = Report::new(due, id(), at("10:00:01")).unwrap().compose(&settings(), original, &mut out).unwrap();
    (enclosed, out)
}

/// A message or part taken apart by the letter of RFC 5322 and RFC 2046, independent of any library's tolerance.
#[derive(Debug)]
struct Part {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Part {
    fn read(octets: &[u8]) -> Self {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line after the header");
        Self { fields: fields(&octets[..end + 2]), body: octets[end + 4..].to_vec() }
    }

    fn field(&self, name: &str) -> &str {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.fields));
        assert!(found.next().is_none(), "two {name}");
        value
    }

    fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn parts(&self) -> Vec<Self> {
        let content_type = self.field("Content-Type");
        let boundary = content_type.split_once("boundary=\"").unwrap().1.strip_suffix('"').unwrap();
        let body = [b"\r\n".as_slice(), &self.body].concat();
        let pieces = split(&body, format!("\r\n--{boundary}").as_bytes());
        let (last, parts) = pieces.split_last().unwrap();
        assert_eq!(last, b"--\r\n");
        parts[1..].iter().map(|part| Self::read(part.strip_prefix(b"\r\n").unwrap())).collect()
    }

    /// The groups of a delivery-status part.
    fn groups(&self) -> Vec<Self> {
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
    unfolded.split("\r\n").map(|line| line.split_once(':').map(|(name, value)| (name.into(), value.trim_start().into())).unwrap()).collect()
}

fn assert_canonical(octets: &[u8]) {
    for line in octets.split_inclusive(|&octet| octet == b'\n') {
        assert!(line.ends_with(b"\r\n") && !line[..line.len() - 2].contains(&b'\r'), "{}", line.escape_ascii());
        assert!(line.len() <= 1000, "{}", line.escape_ascii());
    }
}

#[test]
fn a_failure_returns_the_message_with_everything_that_is_known() {
    let text = "5.1.1 The mailbox\n5.1.1 does not exist";
    let due = due(message(ORIGINAL.as_bytes()), vec![entry("ann@example.net", ReportAction::Failed, refused(text))]);
    let (enclosed, octets) = compose(&due, Some(ORIGINAL.as_bytes()));
    assert_eq!(enclosed, Enclosed::Message);
    assert_canonical(&octets);
    assert!(octets.is_ascii());

    let report = Part::read(&octets);
    for (name, value) in [
        ("From", "\"Mail Delivery System\" <MAILER-DAEMON@mail.example.com>"),
        ("To", "joe@example.com"),
        ("Subject", "Undelivered mail returned to sender"),
        ("Date", "Sat, 22 Nov 2025 10:00:01 +0000"),
        ("Message-ID", "<01KAMZ4B0000000000000000CD@mail.example.com>"),
        ("In-Reply-To", "<1@example.com>"),
        ("References", "<1@example.com>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Transfer-Encoding", "7bit"),
    ] {
        assert_eq!(report.field(name), value);
    }
    assert!(report.field("Content-Type").starts_with("multipart/report; report-type=delivery-status; boundary="));

    let parts = report.parts();
    let kinds: Vec<_> = parts.iter().map(|part| part.field("Content-Type")).collect();
    assert_eq!(kinds, ["text/plain; charset=utf-8", "message/delivery-status", "message/rfc822"]);
    let text = String::from_utf8(parts[0].body.clone()).unwrap();
    for part in
        ["  ann@example.net\r\n    There is no such mailbox.", "mx.example.net (192.0.2.1): RCPT TO was answered 550 5.1.1 The mailbox"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(parts[2].body, ORIGINAL.as_bytes());

    let groups = parts[1].groups();
    let expected = |fields: &[(&str, &str)]| fields.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect::<Vec<_>>();
    assert_eq!(
        groups[0].fields,
        expected(&[
            ("Reporting-MTA", "dns; mail.example.com"),
            ("Original-Envelope-Id", "QQ314159"),
            ("Arrival-Date", "Sat, 22 Nov 2025 09:43:00 +0000"),
        ])
    );
    assert_eq!(
        groups[1].fields,
        expected(&[
            ("Original-Recipient", "rfc822; ann@example.net"),
            ("Final-Recipient", "rfc822; ann@example.net"),
            ("Action", "failed"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; mx.example.net (192.0.2.1)"),
            ("Diagnostic-Code", "smtp; 550-5.1.1 The mailbox 550 5.1.1 does not exist"),
            ("Last-Attempt-Date", "Sat, 22 Nov 2025 10:00:00 +0000"),
        ])
    );
    assert_eq!(groups.len(), 2);
}

#[test]
fn a_delay_says_until_when_and_returns_the_header_only() {
    let due = due(message(ORIGINAL.as_bytes()), vec![entry("ann@example.net", ReportAction::Delayed, refused("4.2.2 Over quota"))]);
    let (enclosed, octets) = compose(&due, Some(ORIGINAL.as_bytes()));
    assert_eq!(enclosed, Enclosed::Header);
    let report = Part::read(&octets);
    assert_eq!(report.field("Subject"), "Delayed mail (still being retried)");
    let parts = report.parts();
    let text = String::from_utf8(parts[0].body.clone()).unwrap().replace("\r\n", " ");
    assert!(text.contains("you need not do anything. Delivery will be tried again until Thu, 27 Nov 2025 09:43:00 +0000"), "{text}");
    let group = &parts[1].groups()[1];
    assert_eq!((group.field("Action"), group.field("Status")), ("delayed", "4.2.2"));
    assert_eq!(group.field("Will-Retry-Until"), "Thu, 27 Nov 2025 09:43:00 +0000");
    assert_eq!(parts[2].field("Content-Type"), "text/rfc822-headers");
    let header = ORIGINAL.split_once("\r\n\r\n").unwrap().0;
    assert_eq!(String::from_utf8(parts[2].body.clone()).unwrap(), format!("{header}\r\n"));
}

#[test]
fn what_is_returned_follows_ret_size_and_action() {
    use ReportAction::{Delayed, Failed, Relayed};
    let big = [ORIGINAL.as_bytes(), &b"0123456789\r\n".repeat(10_000)].concat();
    let rows: [(ReportAction, Option<Ret>, &[u8], Enclosed); 8] = [
        (Failed, None, ORIGINAL.as_bytes(), Enclosed::Message),
        (Failed, None, &big, Enclosed::Header),
        (Failed, Some(Ret::Full), &big, Enclosed::Message),
        (Failed, Some(Ret::Headers), ORIGINAL.as_bytes(), Enclosed::Header),
        (Delayed, None, ORIGINAL.as_bytes(), Enclosed::Header),
        (Delayed, Some(Ret::Full), ORIGINAL.as_bytes(), Enclosed::Header),
        (Relayed, None, ORIGINAL.as_bytes(), Enclosed::Header),
        (Relayed, Some(Ret::Full), ORIGINAL.as_bytes(), Enclosed::Header),
    ];
    for (action, ret, original, expected) in rows {
        let due = due(Message { ret, ..message(original) }, vec![entry("ann@example.net", action, refused("5.0.0 no"))]);
        let (enclosed, octets) = compose(&due, Some(original));
        assert_eq!(enclosed, expected, "{action:?} {ret:?} {}", original.len());
        let returned = &Part::read(&octets).parts()[2];
        let length = if expected == Enclosed::Message { original.len() } else { ORIGINAL.find("\r\n\r\n").unwrap() + 2 };
        assert_eq!(returned.body, original[..length]);
    }
}

#[test]
fn a_damaged_message_is_reported_without_itself() {
    let due = due(message(b""), vec![entry("ann@example.net", ReportAction::Failed, refused("5.1.1 no"))]);
    let (enclosed, octets) = compose(&due, None);
    assert_eq!(enclosed, Enclosed::Nothing);
    let parts = Part::read(&octets).parts();
    assert_eq!(parts.len(), 2);
    assert!(String::from_utf8_lossy(&parts[0].body).contains("is damaged here"));
}

#[test]
fn an_original_that_breaks_off_is_told_from_a_full_disk() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("bad sector"))
        }
    }
    let due = due(message(ORIGINAL.as_bytes()), vec![entry("ann@example.net", ReportAction::Failed, refused("5.1.1 no"))]);
    let report = Report::new(&due, id(), at("10:00:01")).unwrap();
    let error = report.compose(&settings(), Some(&mut Broken), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ComposeError::Original(_)), "{error}");
    let mut full = [0; 100];
    let error = report.compose(&settings(), Some(&mut ORIGINAL.as_bytes()), &mut full.as_mut_slice()).unwrap_err();
    assert!(matches!(error, ComposeError::Write(_)), "{error}");
}

#[test]
fn the_worst_action_is_the_subject_and_each_has_its_section() {
    let delivered = Outcome {
        kind: Kind::Delivered,
        status: EnhancedStatus::new(2, 1, 5),
        text: "250 2.1.5 Ok: queued as 4Fx".into(),
        reply: Some(Reply::new(250, "2.1.5 Ok: queued as 4Fx")),
        peer: peer(),
        in_doubt: false,
        dsn_relayed: false,
    };
    let entries = [
        entry("c@example.net", ReportAction::Relayed, delivered.clone()),
        entry("b@example.net", ReportAction::Delayed, refused("4.7.1 Greylisted")),
        entry("a@example.net", ReportAction::Failed, refused("5.2.2 Full")),
    ];
    for (skipped, subject) in
        [(0, "Undelivered mail returned to sender"), (1, "Delayed mail (still being retried)"), (2, "Successful mail delivery report")]
    {
        let due = due(message(ORIGINAL.as_bytes()), entries[..3 - skipped].to_vec());
        let report = Part::read(&compose(&due, Some(ORIGINAL.as_bytes())).1);
        assert_eq!(report.field("Subject"), subject);
        let groups = report.parts()[1].groups();
        let actions: Vec<_> = groups[1..].iter().map(|group| group.field("Action")).collect();
        assert_eq!(actions, ["relayed", "delayed", "failed"][..3 - skipped]);
        let text = String::from_utf8(report.parts()[0].body.clone()).unwrap();
        let section = |opening: &str| text.contains(opening);
        assert_eq!(section("could not be delivered to:"), skipped < 1);
        assert_eq!(section("has not been delivered yet to:"), skipped < 2);
        assert!(section("was accepted by the mail server of:"));
    }
}

#[test]
fn without_a_reply_the_fault_is_told_under_a_type_of_its_own() {
    let fault = Fault::Expired { last: Fault::Dns { name: "example.net".into(), fault: DnsFault::Timeout }.to_string(), reply: None };
    let due = due(message(ORIGINAL.as_bytes()), vec![entry("ann@example.net", ReportAction::Failed, Outcome::of(&fault, None))]);
    let group = &Part::read(&compose(&due, Some(ORIGINAL.as_bytes())).1).parts()[1].groups()[1];
    assert_eq!(
        group.field("Diagnostic-Code"),
        "x-smtp-direct; not delivered in time; last: DNS lookup of example.net failed: no answer in time"
    );
    assert!(!group.names().contains(&"Remote-MTA"));
    assert_eq!(group.field("Status"), "4.4.7");
}

#[test]
fn internationalised_addresses_and_headers_take_the_forms_of_rfc_6533() {
    let original = "Subject: Grüße\r\nMessage-ID: <1@example.com>\r\n\r\nGrüße\r\n".as_bytes();
    let mut message = message(original);
    message.sender = ReversePath::parse("jürgen@example.com").unwrap();
    message.content.header_utf8 = true;
    for (ret, kind) in [(Ret::Full, "message/global"), (Ret::Headers, "message/global-headers")] {
        let message = Message { ret: Some(ret), ..message.clone() };
        let due = due(message, vec![entry("用户@例え.example", ReportAction::Failed, refused("5.1.1 Postfach unbekannt: für 用户"))]);
        let report = Part::read(&compose(&due, Some(original)).1);
        assert_eq!(report.field("To"), "jürgen@example.com");
        assert_eq!(report.field("Content-Transfer-Encoding"), "8bit");
        let parts = report.parts();
        assert_eq!(parts[1].field("Content-Type"), "message/global-delivery-status");
        assert_eq!(parts[1].field("Content-Transfer-Encoding"), "8bit");
        let group = &parts[1].groups()[1];
        assert_eq!(group.field("Final-Recipient"), "utf-8; 用户@xn--r8jz45g.example");
        assert_eq!(group.field("Diagnostic-Code"), "smtp; 550 5.1.1 Postfach unbekannt: für 用户");
        assert_eq!((parts[2].field("Content-Type"), parts[2].field("Content-Transfer-Encoding")), (kind, "8bit"));
    }
}

#[test]
fn eight_bit_bodies_are_labelled_and_replies_stay_ascii_among_ascii_addresses() {
    let original = "Subject: x\r\n\r\nGr\u{fc}\u{df}e\r\n".as_bytes();
    let due = due(message(original), vec![entry("ann@example.net", ReportAction::Failed, refused("5.1.1 für"))]);
    let report = Part::read(&compose(&due, Some(original)).1);
    assert_eq!(report.field("Content-Transfer-Encoding"), "8bit");
    let parts = report.parts();
    assert_eq!(parts[1].field("Content-Transfer-Encoding"), "7bit");
    assert_eq!(parts[1].groups()[1].field("Diagnostic-Code"), "smtp; 550 5.1.1 f\\x{FC}r");
    assert_eq!((parts[2].field("Content-Type"), parts[2].field("Content-Transfer-Encoding")), ("message/rfc822", "8bit"));
}

#[test]
fn a_header_in_a_character_set_of_its_own_is_labelled() {
    let original = b"Subject: Gr\xfc\xdfe\r\n\r\nx\r\n";
    let due = due(message(original), vec![entry("ann@example.net", ReportAction::Delayed, refused("4.2.2 Over quota"))]);
    let report = Part::read(&compose(&due, Some(original)).1);
    let parts = report.parts();
    assert_eq!((parts[2].field("Content-Type"), parts[2].field("Content-Transfer-Encoding")), ("text/rfc822-headers", "8bit"));
    assert_eq!(report.field("Content-Transfer-Encoding"), "8bit");
}

#[test]
fn reports_go_from_nobody_to_the_sender_and_never_for_a_report() {
    let mut bounced = message(ORIGINAL.as_bytes());
    let entries = vec![entry("ann@example.net", ReportAction::Failed, refused("5.1.1 no"))];
    let due_report = due(bounced.clone(), entries.clone());
    let envelope = Report::new(&due_report, id(), at("10:00:01")).unwrap().envelope();
    assert_eq!(envelope.sender, ReversePath::Null);
    assert_eq!(envelope.priority, Priority::Urgent);
    assert_eq!(envelope.recipients.len(), 1);
    assert_eq!(envelope.recipients[0].address.to_string(), "joe@example.com");
    assert_eq!(envelope.recipients[0].notify, Notify::NEVER);
    bounced.sender = ReversePath::Null;
    assert!(Report::new(&due(bounced, entries), id(), at("10:00:01")).is_none());
}

#[test]
fn a_report_of_many_recipients_is_made_in_reasonable_time() {
    let entries = (0..10_000).map(|i| entry(&format!("r{i}@example.net"), ReportAction::Failed, refused("5.1.1 no"))).collect();
    let due = due(message(ORIGINAL.as_bytes()), entries);
    let begun = std::time::Instant::now();
    let (_, octets) = compose(&due, Some(ORIGINAL.as_bytes()));
    // Linear work takes well below a second even unoptimised; quadratic work takes minutes.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert_eq!(Part::read(&octets).parts()[1].groups().len(), 10_001);
}

/// For `tests/interop/check_dsn.py`: one file a kind.
#[test]
fn samples_for_other_parsers() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dsn");
    std::fs::create_dir_all(&directory).unwrap();
    let latin = "Subject: x\r\nMessage-ID: <1@example.com>\r\n\r\nGrüße\r\n";
    let long = format!("5.1.1 {}\n5.1.1 {}", "no such user here, ".repeat(60), "x".repeat(3000));
    let failed = |address: &str| entry(address, ReportAction::Failed, refused("5.1.1 No such user\n5.1.1 here"));
    let delayed = |address: &str| entry(address, ReportAction::Delayed, refused("4.2.2 Over quota"));
    let samples = [
        ("failed", vec![failed("ann@example.net")], ORIGINAL),
        ("failed-two", vec![failed("ann@example.net"), failed("bob@example.org")], ORIGINAL),
        ("failed-long-reply", vec![entry("ann@example.net", ReportAction::Failed, refused(&long))], ORIGINAL),
        ("failed-8bit", vec![failed("ann@example.net")], latin),
        ("failed-quoted", vec![failed("\"ann b\"@example.net")], ORIGINAL),
        ("delayed", vec![delayed("ann@example.net")], ORIGINAL),
        ("mixed", vec![delayed("ann@example.net"), failed("bob@example.net")], ORIGINAL),
        ("failed-utf8", vec![failed("用户@例え.example")], latin),
    ];
    for (name, entries, original) in samples {
        let (_, octets) = compose(&due(message(original.as_bytes()), entries), Some(original.as_bytes()));
        assert_canonical(&octets);
        let parsed = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(parsed.message_id(), Some("01KAMZ4B0000000000000000CD@mail.example.com"), "{name}");
        std::fs::write(directory.join(format!("{name}.eml")), octets).unwrap();
    }
}

fn address() -> impl Strategy<Value = Address> {
    let local = prop_oneof!["[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,60}", "\"[ -!#-\\[\\]-~]{0,40}\"", "[a-zé用户\u{202e}]{1,20}"];
    (local, "[a-z0-9]{1,20}\\.example").prop_filter_map("no address", |(local, domain)| Address::parse(&format!("{local}@{domain}")).ok())
}

/// What a peer that means ill might send, and the queue might keep if cleaning failed somewhere.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\\PC|[\r\n\t ]){0,300}",
        "[ -~\n]{0,2000}",
        Just("x\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; evil@example.com".to_owned()),
        "[a-z]{0,3000}",
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (hostile(), proptest::option::of((400_u16..600, hostile())), proptest::option::of(hostile()), any::<bool>()).prop_map(
        |(text, reply, host, in_doubt)| Outcome {
            kind: Kind::Failed,
            status: EnhancedStatus::new(5, 1, 1),
            text,
            reply: reply.map(|(code, text)| Reply::new(code, text)),
            peer: host.map(|host| Arc::new(Peer { host: host.into(), address: "[2001:db8::1]:25".parse().unwrap(), tls: None })),
            in_doubt,
            dsn_relayed: false,
        },
    )
}

fn entries() -> impl Strategy<Value = Vec<ReportEntry>> {
    let action = prop_oneof![Just(ReportAction::Failed), Just(ReportAction::Delayed), Just(ReportAction::Relayed)];
    let entry = (address(), action, outcome()).prop_map(|(address, action, outcome)| ReportEntry {
        id: RecipientId(1),
        address,
        action,
        outcome,
        at: at("10:00:00"),
    });
    proptest::collection::vec(entry, 1..5)
}

/// Canonical lines, some of which look like delimiters.
fn original() -> impl Strategy<Value = String> {
    let line = prop_oneof!["[ -~]{0,80}", "--[0-9a-f]{32}(--)?", Just(String::new()), "[ -~é]{0,40}"];
    proptest::collection::vec(line, 0..20).prop_map(|lines| lines.iter().map(|line| format!("{line}\r\n")).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_in_it_changes_its_structure(
        entries in entries(), sender in address(), envid in proptest::option::of(hostile()), message_id in proptest::option::of(hostile()),
        original in original(), ret in prop_oneof![Just(None), Just(Some(Ret::Full)), Just(Some(Ret::Headers))],
    ) {
        let content = Content { message_id, eight_bit: !original.is_ascii(), header_utf8: !original.is_ascii(), ..Content::default() };
        let sender = ReversePath::Address(sender);
        let due = due(Message { sender: sender.clone(), envid: envid.clone(), content, ret, ..message(b"") }, entries);
        let (enclosed, octets) = compose(&due, Some(original.as_bytes()));
        assert_canonical(&octets);

        let report = Part::read(&octets);
        let mut names = vec!["From", "To", "Subject", "Date", "Message-ID"];
        if report.names().contains(&"In-Reply-To") {
            names.extend(["In-Reply-To", "References"]);
        }
        names.extend(["Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]);
        prop_assert_eq!(report.names(), names);
        prop_assert_eq!(report.field("To"), sender.to_string());

        let parts = report.parts();
        prop_assert_eq!(parts.len(), 3);
        for part in &parts {
            prop_assert_eq!(part.names(), ["Content-Description", "Content-Type", "Content-Transfer-Encoding"]);
            prop_assert!(part.field("Content-Transfer-Encoding") == "8bit" || part.body.is_ascii());
        }
        let eight_bit = parts.iter().any(|part| part.field("Content-Transfer-Encoding") == "8bit");
        prop_assert_eq!(report.field("Content-Transfer-Encoding") == "8bit", eight_bit);

        let groups = parts[1].groups();
        prop_assert_eq!(groups.len(), 1 + due.entries.len());
        for (group, entry) in groups[1..].iter().zip(&due.entries) {
            let mut names = vec!["Original-Recipient", "Final-Recipient", "Action", "Status"];
            names.extend(entry.outcome.peer.as_ref().map(|_| "Remote-MTA"));
            names.extend(["Diagnostic-Code", "Last-Attempt-Date"]);
            names.extend((entry.action == ReportAction::Delayed).then_some("Will-Retry-Until"));
            prop_assert_eq!(group.names(), names);
            let recipient = group.field("Final-Recipient").split_once("; ").unwrap().1;
            prop_assert_eq!(recipient, entry.address.to_string().replace('\u{202e}', "?"));
        }

        let length = match (enclosed, original.find("\r\n\r\n")) {
            (Enclosed::Header, _) if original.starts_with("\r\n") => 0,
            (Enclosed::Header, Some(end)) => end + 2,
            _ => original.len(),
        };
        prop_assert_eq!(&parts[2].body, &original.as_bytes()[..length]);

        let parsed = MessageParser::default().parse(&octets).unwrap();
        let kinds: Vec<_> = parsed.parts[1..4].iter().filter_map(|part| part.content_type().map(|kind| kind.c_type.to_string())).collect();
        prop_assert_eq!(&kinds[..2], &["text", "message"]);
        prop_assert!(matches!(&parsed.parts[0].body, PartType::Multipart(children) if children.len() == 3));
    }
}

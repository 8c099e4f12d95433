//! Reports as their readers see them: structure, fields, and that nothing a peer or sender wrote changes either.
//!
//! The samples are written to `dsn/` in the directory that cargo gives tests; `tests/interop/check_dsn.py` reads them with other parsers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fuzz/checks/lib.rs"]
mod checks;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use checks::report::{self, Part, at, compose, id, settings};
use mail_parser::MessageParser;
use proptest::prelude::*;
use smtp_direct::dsn::{ComposeError, Enclosed, Report};
use smtp_direct::message::{Address, Content, Notify, Priority, Ret, ReversePath};
use smtp_direct::outcome::{DnsFault, EnhancedStatus, Fault, Kind, Outcome, Peer, Phase};
use smtp_direct::queue::{Message, ReportAction, ReportDue, ReportEntry};
use smtp_direct::smtp::Reply;

const ORIGINAL: &str = "Received: by mail.example.com\r\nFrom: joe@example.com\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n\r\n\
                        Dear Ann,\r\n\r\n.and a line with a dot\r\n";

fn message(original: &[u8]) -> Message {
    let size = original.len() as u64;
    let base = report::message();
    let content = Content { file_size: size, wire_size: size, eight_bit: !original.is_ascii(), ..base.content.clone() };
    Message { content, ..base }
}

fn peer() -> Option<Arc<Peer>> {
    Some(Arc::new(Peer { host: "mx.example.net".into(), address: "192.0.2.1:25".parse().unwrap(), tls: None }))
}

fn refused(text: &str) -> Outcome {
    let reply = Reply::new(if text.starts_with('4') { 450 } else { 550 }, text);
    Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply }, peer())
}

fn entry(address: &str, action: ReportAction, outcome: Outcome) -> ReportEntry {
    ReportEntry { action, ..report::entry(Address::parse(address).unwrap(), outcome) }
}

fn due(message: Message, entries: Vec<ReportEntry>) -> ReportDue {
    ReportDue { message: Arc::new(message), entries }
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
    let entry =
        (address(), action, outcome()).prop_map(|(address, action, outcome)| ReportEntry { action, ..report::entry(address, outcome) });
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
        report::holds(&due, Some(&original.into_bytes()));
    }
}

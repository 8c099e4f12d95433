//! The log as programs read it: every event in Postfix's words, and as an entry of systemd's journal. Lines are compared in full.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/log.rs"]
mod log;
#[path = "support/queue.rs"]
mod queue;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use smtp_direct::clock::{Clock, Timestamp};
use smtp_direct::message::{Domain, Priority, ReversePath};
use smtp_direct::observe::events;
use smtp_direct::observe::journal::{Journal, JournalLayer};
use smtp_direct::observe::postfix::Postfix;
use smtp_direct::outcome::{Fault, Outcome, Peer, Phase};
use smtp_direct::queue::{
    Acted, Action, CopyId, Done, Finished, Message, NewMessage, Order, QueuedCopy, QueuedRecipient, RecipientId, ReportAction,
};
use smtp_direct::smtp::Reply;
use tracing_subscriber::layer::SubscriberExt;

use log::Log;
use queue::{Folder, at, attempt, deferred, delivered, failed, in_doubt, message, peer};

/// 2026-09-01 05:06:07 in the zone below: a day of one digit, as syslog pads it.
const NOW: i64 = 1_788_231_967;

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }
}

fn copy(message: &NewMessage) -> QueuedCopy {
    let of = Message {
        id: message.id,
        source: message.source.name.clone(),
        sender: message.envelope.sender.clone(),
        content: message.content.clone(),
        accepted_at: message.accepted_at,
        expires_at: message.expires_at,
        priority: Priority::Normal,
        ret: None,
        envid: None,
        tag: None,
    };
    let recipient = |(n, to): (usize, &smtp_direct::message::Recipient)| QueuedRecipient {
        id: RecipientId(n as i64),
        address: to.address.clone(),
        notify: to.notify,
        last: None,
    };
    QueuedCopy {
        id: CopyId(1),
        message: Arc::new(of),
        domain: Domain::parse("example.com").unwrap(),
        recipients: message.envelope.recipients.iter().enumerate().map(recipient).collect(),
        due_at: message.accepted_at,
        attempts: 1,
        first_failed_at: None,
        warned: false,
        released: false,
    }
}

/// What `tell` says, in Postfix's words, without the time, host and pid that every line must have.
fn postfix(tell: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let writer = log.clone();
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let layer = Postfix::lines(move || writer.clone(), "mail.example.org", zone, Arc::new(Stopped));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
    let pid = format!("[{}]", std::process::id());
    let strip = |line: &str| line.strip_prefix("Sep  1 05:06:07 mail postfix/").unwrap_or_else(|| panic!("{line}")).replacen(&pid, "", 1);
    log.text().lines().map(strip).collect()
}

/// With every `ID` in place of that message's.
fn about(message: &NewMessage, lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| line.replace(&message.id.to_string(), "ID")).collect()
}

fn outcome_line(outcome: &Outcome) -> Vec<String> {
    let message = message(1, &["bob@example.com"]);
    let copy = copy(&message);
    let record = attempt(1, at(4));
    let to = &copy.recipients[0].address;
    about(
        &message,
        postfix(|| {
            if outcome.in_doubt {
                events::in_doubt(&copy, to, outcome, Some(&record), at(4));
            }
            events::outcome(&copy, to, outcome, Some(&record), at(4));
        }),
    )
}

fn untried(outcome: &Outcome) -> Vec<String> {
    let message = message(1, &["bob@example.com"]);
    let copy = copy(&message);
    about(&message, postfix(|| events::outcome(&copy, &copy.recipients[0].address, outcome, None, at(61))))
}

#[test]
fn a_message_comes_in_and_goes() {
    let message = message(1, &["bob@example.com", "carol@example.com"]);
    let uid = nix::unistd::getuid();
    let finished = Finished { id: message.id, delivered: 1, failed: 1, accepted_at: at(1) };
    let lines = postfix(|| {
        events::accepted(&message);
        events::finished(&finished, at(9));
    });
    assert_eq!(
        about(&message, lines),
        [
            format!("pickup: ID: uid={uid} from=<alice@example.org>"),
            "cleanup: ID: message-id=<1@example.org>".to_owned(),
            "qmgr: ID: from=<alice@example.org>, size=2300, nrcpt=2 (queue active)".to_owned(),
            "qmgr: ID: removed".to_owned(),
        ]
    );
}

#[test]
fn a_report_is_no_mail_that_came_in() {
    let (original, mut report) = (message(1, &["bob@example.com"]), message(2, &["alice@example.org"]));
    report.source.name = "report".to_owned();
    report.envelope.sender = ReversePath::Null;
    let lines = postfix(|| {
        for action in [ReportAction::Failed, ReportAction::Delayed, ReportAction::Relayed] {
            events::reported(original.id, report.id, action);
        }
        events::accepted(&report);
    });
    let lines: Vec<String> = about(&original, lines).into_iter().map(|line| line.replace(&report.id.to_string(), "REPORT")).collect();
    assert_eq!(
        lines,
        [
            "bounce: ID: sender non-delivery notification: REPORT",
            "bounce: ID: sender delay notification: REPORT",
            "bounce: ID: sender delivery status notification: REPORT",
            "cleanup: REPORT: message-id=<2@example.org>",
            "qmgr: REPORT: from=<>, size=2300, nrcpt=1 (queue active)",
        ]
    );
}

#[test]
fn what_became_of_a_recipient() {
    // delay: 3 s since it was accepted; of these 0.001 in the queue, 0.155 for DNS and connecting, 0.31 transferring.
    let head = "smtp: ID: to=<bob@example.com>, relay=mx1.example.com[192.0.2.25]:25, delay=3, delays=2.54/0/0.15/0.31";
    assert_eq!(outcome_line(&delivered()), [format!("{head}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4Xyz)")]);
    assert_eq!(
        outcome_line(&deferred()),
        [format!(
            "{head}, dsn=4.7.1, status=deferred (host mx1.example.com[192.0.2.25] said: 451 4.7.1 Greylisted try again later (in reply to RCPT TO))"
        )]
    );
    assert_eq!(
        outcome_line(&failed()),
        [format!(
            "{head}, dsn=5.1.1, status=bounced (host mx1.example.com[192.0.2.25] said: 550 5.1.1 No such user (in reply to RCPT TO))"
        )]
    );
    let refused = Fault::Connect { detail: "Connection refused".to_owned() };
    assert_eq!(
        outcome_line(&Outcome::of(&refused, Some(peer()))),
        [format!("{head}, dsn=4.4.1, status=deferred (cannot connect: Connection refused)")]
    );
    let text = "in doubt: the content was sent in full, then the connection was lost; the peer may have the message";
    assert_eq!(
        outcome_line(&in_doubt()),
        [
            format!("smtp: warning: ID: to=<bob@example.com>: it may arrive twice: {text}"),
            format!("{head}, dsn=4.4.2, status=deferred ({text})")
        ]
    );
}

#[test]
fn an_address_literal_and_ipv6() {
    let peer = Peer { host: "[2001:db8::25]".into(), address: "[2001:db8::25]:2525".parse().unwrap(), tls: None };
    let line = outcome_line(&Outcome::delivered(Reply::new(250, "ok"), Arc::new(peer), false)).remove(0);
    assert!(line.contains(", relay=2001:db8::25[2001:db8::25]:2525, "), "{line}");
}

#[test]
fn what_was_not_tried_has_no_relay() {
    let head = "error: ID: to=<bob@example.com>, relay=none, delay=60, delays=60/0/0/0";
    let down = Fault::SiteDown { detail: "cannot connect: timed out".to_owned() };
    assert_eq!(
        untried(&Outcome::of(&down, None)),
        [format!("{head}, dsn=4.4.1, status=deferred (site is down since its last failure, not tried: cannot connect: timed out)")]
    );
    let expired = Fault::Expired { last: "RCPT TO was answered 451 4.7.1 Later".to_owned(), reply: Some(Reply::new(451, "4.7.1 Later")) };
    assert_eq!(
        untried(&Outcome::of(&expired, None)),
        [format!("{head}, dsn=4.4.7, status=bounced (not delivered in time; last: RCPT TO was answered 451 4.7.1 Later)")]
    );
}

#[test]
fn what_overrides_and_time_do() {
    let message = message(1, &["bob@example.com"]);
    let copy = copy(&message);
    let lines = postfix(|| {
        events::held(&copy, "waiting for their new server");
        events::discarded(&copy);
        events::expired(&copy, &copy.recipients[0].address);
        events::rejected("bad.eml", "it has no recipient");
    });
    assert_eq!(
        about(&message, lines),
        [
            "cleanup: ID: hold: END-OF-MESSAGE waiting for their new server: to example.com",
            "cleanup: ID: discard: END-OF-MESSAGE by an override: to=<bob@example.com>",
            "qmgr: ID: from=<alice@example.org>, status=expired, returned to sender",
            "cleanup: NOQUEUE: reject: END-OF-MESSAGE it has no recipient: file=bad.eml",
        ]
    );
}

#[test]
fn what_administrators_do() {
    let message = message(1, &["bob@example.com", "eve@example.com"]);
    let copy = copy(&message);
    let done = |action| {
        let acted = Acted {
            copy: copy.id,
            from: copy.id,
            message: message.id,
            domain: copy.domain.clone(),
            recipients: copy.recipients.iter().map(|recipient| recipient.address.clone()).collect(),
            done: Done::Done,
        };
        let verdict = Arc::new(|_: &QueuedCopy| unreachable!("the queue's"));
        let at = message.id.time() + Duration::from_secs(61);
        let order = Order { action, reason: "moved away".to_owned(), by: "uid 0".to_owned(), at, verdict };
        about(&message, postfix(|| events::administered(&acted, &order)))
    };
    let bounced = |to: &str| {
        format!(
            "error: ID: to=<{to}>, relay=none, delay=61, delays=61/0/0/0, dsn=5.7.1, status=bounced (returned by the administrator of this \
             server: moved away)"
        )
    };
    assert_eq!(done(Action::Bounce), [bounced("bob@example.com"), bounced("eve@example.com")]);
    assert_eq!(done(Action::Remove), ["postsuper: ID: removed", "postsuper: ID: removed"]);
    assert_eq!(done(Action::Hold), ["postsuper: ID: placed on hold"]);
    assert_eq!(done(Action::Release), ["postsuper: ID: released from hold"]);
    assert_eq!(done(Action::Retry), ["postsuper: ID: requeued"]);
}

#[test]
fn what_is_about_no_message_is_the_masters_and_never_more_than_a_line() {
    let lines = postfix(|| {
        tracing::info!(file = "a.toml", nothing = "", "configuration reloaded");
        tracing::warn!(error = "one\r\nSep  1 05:06:07 mail postfix/smtp[1]: X: status=sent", "odd");
        tracing::error!("worse");
    });
    assert_eq!(
        lines,
        [
            "master: configuration reloaded file=a.toml",
            "master: warning: odd error=one??Sep  1 05:06:07 mail postfix/smtp[1]: X: status=sent",
            "master: error: worse",
        ]
    );
}

/// A journal that is a socket of this test's, and what it got.
struct Received {
    socket: UnixDatagram,
    folder: Folder,
}

impl Received {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let socket = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { socket, folder }
    }

    fn journal(&self) -> Journal {
        Journal::at(self.folder.path().join("socket")).unwrap()
    }

    fn entry(&self) -> BTreeMap<String, String> {
        let mut buffer = vec![0; 1 << 20];
        let length = self.socket.recv(&mut buffer).unwrap();
        fields(&buffer[..length])
    }
}

/// As systemd's documentation describes the protocol.
fn fields(mut rest: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|octet| *octet == b'\n').unwrap();
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let (name, value, after) = match rest[..end].iter().position(|octet| *octet == b'=') {
            Some(middle) => (text(&rest[..middle]), text(&rest[middle + 1..end]), end + 1),
            None => {
                let (start, octets) = (end + 9, rest[end + 1..end + 9].try_into().unwrap());
                let stop = start + usize::try_from(u64::from_le_bytes(octets)).unwrap();
                assert_eq!(rest[stop], b'\n');
                (text(&rest[..end]), text(&rest[start..stop]), stop + 1)
            }
        };
        assert!(name.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'_'), "{name}: the journal would drop it");
        assert_eq!(fields.insert(name, value), None);
        rest = &rest[after..];
    }
    fields
}

fn said(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_entry_of_the_journal_has_the_line_and_each_field() {
    let received = Received::new("journal");
    let message = message(1, &["bob@example.com"]);
    let (copy, id) = (copy(&message), message.id.to_string());
    let layer = JournalLayer(received.journal());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        events::outcome(&copy, &copy.recipients[0].address, &failed(), Some(&attempt(2, at(4))), at(4));
    });
    let line = format!(
        "failed id={id} from=alice@example.org to=bob@example.com domain=example.com site=\"10 mx1.example.com:25, 20 mx2.example.com:25\" \
         host=\"mx1.example.com\" ip=192.0.2.25 port=25 tls=\"TLSv1.3 TLS13_AES_256_GCM_SHA384\" code=550 dsn=5.1.1 \
         reply=\"RCPT TO was answered 550 5.1.1 No such user\" attempt=2 delay=3.000 delays=0.001/0.034/0.120/0.310 size=2300 route=\"mx\""
    );
    assert_eq!(
        received.entry(),
        said(&[
            ("MESSAGE", &line),
            ("PRIORITY", "4"),
            ("SYSLOG_FACILITY", "2"),
            ("SYSLOG_IDENTIFIER", "smtp-direct"),
            ("SMTP_EVENT", "failed"),
            ("SMTP_ID", &id),
            ("SMTP_FROM", "alice@example.org"),
            ("SMTP_TO", "bob@example.com"),
            ("SMTP_DOMAIN", "example.com"),
            ("SMTP_SITE", "10 mx1.example.com:25, 20 mx2.example.com:25"),
            ("SMTP_HOST", "mx1.example.com"),
            ("SMTP_IP", "192.0.2.25"),
            ("SMTP_PORT", "25"),
            ("SMTP_TLS", "TLSv1.3 TLS13_AES_256_GCM_SHA384"),
            ("SMTP_CODE", "550"),
            ("SMTP_DSN", "5.1.1"),
            ("SMTP_REPLY", "RCPT TO was answered 550 5.1.1 No such user"),
            ("SMTP_ATTEMPT", "2"),
            ("SMTP_DELAY", "3.000"),
            ("SMTP_DELAYS", "0.001/0.034/0.120/0.310"),
            ("SMTP_SIZE", "2300"),
            ("SMTP_ROUTE", "mx"),
        ])
    );
}

#[test]
fn line_ends_and_empty_fields_keep_the_entry_whole() {
    let received = Received::new("journal-lines");
    let layer = JournalLayer(received.journal());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        tracing::error!(error = "one\nPRIORITY=0\ntwo", nothing = "", "odd");
        tracing::info!(text = "x".repeat(4 << 20), "far too large");
        tracing::debug!("next");
    });
    let entry = received.entry();
    assert_eq!((entry["PRIORITY"].as_str(), entry["SMTP_ERROR"].as_str()), ("3", "one\nPRIORITY=0\ntwo"));
    assert!(!entry.contains_key("SMTP_NOTHING"));
    let entry = received.entry();
    assert!(entry["MESSAGE"].starts_with("far too large text=\"xxx") && entry["MESSAGE"].len() == 16 * 1024, "{}", entry["MESSAGE"].len());
    let entry = received.entry();
    assert_eq!((entry["MESSAGE"].as_str(), entry["PRIORITY"].as_str()), ("next", "7"));
}

#[test]
fn postfixs_words_in_the_journal_are_told_by_its_programs() {
    let received = Received::new("journal-postfix");
    let message = message(1, &["bob@example.com"]);
    let layer = Postfix::<fn() -> io::Stderr>::journal(received.journal());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || events::accepted(&message));
    let id = message.id.to_string();
    let identified = [(); 3].map(|()| {
        let entry = received.entry();
        assert_eq!((&entry["SMTP_ID"], entry["SYSLOG_FACILITY"].as_str(), entry["PRIORITY"].as_str()), (&id, "2", "6"));
        (entry["SYSLOG_IDENTIFIER"].clone(), entry["MESSAGE"].clone())
    });
    let programs = identified.each_ref().map(|(program, _)| program.as_str());
    assert_eq!(programs, ["postfix/pickup", "postfix/cleanup", "postfix/qmgr"]);
    assert_eq!(identified[1].1, format!("{id}: message-id=<1@example.org>"));
}

#[test]
fn a_journal_that_is_not_there_is_an_error() {
    let folder = Folder::new("no-journal");
    assert_eq!(Journal::at(folder.path().join("socket")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn phases_with_their_own_punctuation_stay_whole() {
    let fault = Fault::Reply { phase: Phase::FinalDot, reply: Reply::new(552, "5.2.2 was answered 552 again") };
    let line = outcome_line(&Outcome::of(&fault, Some(peer()))).remove(0);
    assert!(line.ends_with(" said: 552 5.2.2 was answered 552 again (in reply to the end of the content))"), "{line}");
}

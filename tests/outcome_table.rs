//! The one table: what every fault means.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use smtp_direct::outcome::{AddressFault, DnsFault, Fault, Kind, NextStep, Outcome, Phase, judge};
use smtp_direct::smtp::Reply;

const EARLY: [Phase; 5] = [Phase::Connect, Phase::Greeting, Phase::Ehlo, Phase::StartTls, Phase::Auth];
const LATE: [Phase; 5] = [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Content, Phase::FinalDot];

/// A line of the table as people would write it.
fn row(fault: &Fault) -> String {
    let verdict = judge(fault);
    let kind = match verdict.kind {
        Kind::Delivered => "delivered",
        Kind::Deferred => "deferred",
        Kind::Failed => "failed",
    };
    let next = match verdict.next {
        NextStep::NextAddress => "next address, then ",
        NextStep::Stop => "",
    };
    format!("{next}{kind} {}", verdict.status)
}

fn reply(phase: Phase, code: u16, text: &str) -> Fault {
    Fault::Reply { phase, reply: Reply::new(code, text) }
}

#[test]
fn every_fault_has_its_row() {
    let text = || "x".to_owned();
    let table = [
        (Fault::NoSuchDomain, "failed 5.1.2"),
        (Fault::NullMx, "failed 5.1.10"),
        (Fault::NoAddress(AddressFault::None), "failed 5.4.4"),
        (Fault::NoAddress(AddressFault::Blocked(text())), "failed 5.4.4"),
        (Fault::LoopsBack, "failed 5.4.6"),
        (Fault::Dns { name: text(), fault: DnsFault::Timeout }, "deferred 4.4.3"),
        (Fault::Dns { name: text(), fault: DnsFault::ResponseCode(text()) }, "deferred 4.4.3"),
        (Fault::Dns { name: text(), fault: DnsFault::Bogus }, "deferred 4.4.3"),
        (Fault::Dns { name: text(), fault: DnsFault::Other(text()) }, "deferred 4.4.3"),
        (Fault::TooManyHops { hops: 51 }, "failed 5.4.6"),
        (Fault::Rejected { reason: text() }, "failed 5.7.1"),
        (Fault::Returned { reason: text() }, "failed 5.7.1"),
        (Fault::Removed { reason: text() }, "failed 5.7.1"),
        (Fault::Connect { detail: text() }, "next address, then deferred 4.4.1"),
        (Fault::SiteDown { detail: text() }, "deferred 4.4.1"),
        (Fault::PeerIsSelf, "failed 5.4.6"),
        (Fault::TlsNotOffered, "next address, then deferred 4.7.10"),
        (Fault::TlsHandshake { detail: text() }, "next address, then deferred 4.7.5"),
        (Fault::TlsInjection, "next address, then deferred 4.7.5"),
        (Fault::AuthImpossible { detail: text() }, "next address, then deferred 4.7.8"),
        (Fault::TooLarge { size: 2, limit: 1 }, "next address, then failed 5.3.4"),
        (Fault::NeedsSmtpUtf8, "next address, then failed 5.6.7"),
        (Fault::SessionFull { limit: 1 }, "next address, then deferred 4.4.5"),
        (Fault::InDoubt { how: text() }, "deferred 4.4.2"),
        (Fault::Interrupted, "deferred 4.3.2"),
        (Fault::LocalIo { detail: text() }, "deferred 4.3.0"),
        (Fault::Journal { detail: text() }, "deferred 4.3.0"),
        (Fault::Damaged { detail: text() }, "failed 5.3.0"),
        (Fault::Internal, "deferred 4.3.0"),
        // A failure with the code of a delay, as RFC 3463 has it for "delivery time expired" and Postfix and others do.
        (Fault::Expired { last: text(), reply: None }, "failed 4.4.7"),
    ];
    for (fault, expected) in table {
        assert_eq!(row(&fault), expected, "{fault:?}");
        assert!(in_this_table(&fault), "{fault:?} belongs into a test of its own");
    }
}

/// Without a wildcard: a new fault does not compile until somebody gives it a row here.
fn in_this_table(fault: &Fault) -> bool {
    match fault {
        Fault::NoSuchDomain
        | Fault::NullMx
        | Fault::NoAddress(_)
        | Fault::LoopsBack
        | Fault::Dns { .. }
        | Fault::TooManyHops { .. }
        | Fault::Rejected { .. }
        | Fault::Returned { .. }
        | Fault::Removed { .. }
        | Fault::Connect { .. }
        | Fault::SiteDown { .. }
        | Fault::PeerIsSelf
        | Fault::TlsNotOffered
        | Fault::TlsHandshake { .. }
        | Fault::TlsInjection
        | Fault::AuthImpossible { .. }
        | Fault::TooLarge { .. }
        | Fault::NeedsSmtpUtf8
        | Fault::SessionFull { .. }
        | Fault::InDoubt { .. }
        | Fault::Interrupted
        | Fault::LocalIo { .. }
        | Fault::Journal { .. }
        | Fault::Damaged { .. }
        | Fault::Internal
        | Fault::Expired { .. } => true,
        Fault::Reply { .. } | Fault::Closed { .. } | Fault::TimedOut { .. } | Fault::Protocol { .. } => false,
    }
}

#[test]
fn a_broken_session_is_the_hosts_fault_in_every_phase() {
    for phase in EARLY.into_iter().chain(LATE) {
        let detail = || "x".to_owned();
        assert_eq!(row(&Fault::Closed { phase, detail: detail() }), "next address, then deferred 4.4.2");
        assert_eq!(row(&Fault::TimedOut { phase }), "next address, then deferred 4.4.2");
        assert_eq!(row(&Fault::Protocol { phase, detail: detail() }), "next address, then deferred 4.5.0");
    }
}

#[test]
fn replies_before_mail_are_never_final() {
    for phase in EARLY {
        for code in [421, 450, 500, 554] {
            assert!(row(&reply(phase, code, "no")).starts_with("next address, then deferred 4."), "{phase} {code}");
        }
    }
    assert_eq!(row(&reply(Phase::Greeting, 554, "5.3.2 no")), "next address, then deferred 4.4.2");
    assert_eq!(row(&reply(Phase::Greeting, 450, "4.3.2 no")), "next address, then deferred 4.3.2");
    assert_eq!(row(&reply(Phase::Auth, 535, "5.7.8 no")), "next address, then deferred 4.7.8");
    // No TLS is 4.7.x, whatever the peer's reason.
    assert_eq!(row(&reply(Phase::StartTls, 454, "4.3.3 no")), "next address, then deferred 4.7.4");
    assert_eq!(row(&reply(Phase::StartTls, 454, "4.7.0 no")), "next address, then deferred 4.7.0");
    assert_eq!(row(&reply(Phase::StartTls, 502, "no")), "next address, then deferred 4.7.4");
}

#[test]
fn replies_from_mail_on_are_the_recipients() {
    for phase in LATE {
        assert_eq!(row(&reply(phase, 421, "bye")), "next address, then deferred 4.0.0");
        assert_eq!(row(&reply(phase, 450, "4.2.1 later")), "next address, then deferred 4.2.1");
        assert_eq!(row(&reply(phase, 550, "5.1.1 nobody")), "failed 5.1.1");
        assert_eq!(row(&reply(phase, 571, "no")), "failed 5.0.0");
        // A code of another class says nothing.
        assert_eq!(row(&reply(phase, 550, "4.2.1 odd")), "failed 5.0.0");
        assert_eq!(row(&reply(phase, 450, "5.2.1 odd")), "next address, then deferred 4.0.0");
    }
}

#[test]
fn the_last_reply_and_the_doubt_are_kept_in_the_outcome() {
    let outcome = Outcome::of(&reply(Phase::Rcpt, 550, "5.1.1 nobody\nhere"), None);
    assert_eq!(outcome.text, "RCPT TO was answered 550 5.1.1 nobody here");
    assert_eq!(outcome.reply.unwrap().code(), 550);
    assert!(Outcome::of(&Fault::InDoubt { how: "x".to_owned() }, None).in_doubt);
    assert!(!Outcome::of(&Fault::TimedOut { phase: Phase::Content }, None).in_doubt);
    let long = Outcome::of(&reply(Phase::Rcpt, 550, &"ü".repeat(2_000)), None);
    assert!((510..=512).contains(&long.text.len()), "{}", long.text.len());
}

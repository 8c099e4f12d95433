//! Thousands of messages to domains of which three in ten fail, each in its own way: every message is accounted for, and nothing grows.
//!
//! The scaled form always runs. The long one, 200,000 messages to 10,000 domains, takes minutes:
//! `cargo test --release --test load_mixed -- --ignored --nocapture`. What goes on in the test's process is all that is measured, so that
//! nothing else is in this file. Peers are in memory: descriptors are those of files, not of connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use daemon::Daemon;
use net::{Host, Net, answers, answers_at_first, friendly};
use smtp_direct::outcome::{DnsFault, Kind};
use smtp_direct::queue::{HistoryFilter, Inspect, ListFilter};
use smtp_direct::route::LookupError;

/// How messages to a domain end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Delivered,
    /// With this status.
    Failed(&'static str),
    /// They wait still, with this status.
    Deferred(&'static str),
}

/// What is at the other end of a domain.
enum Behind {
    /// MX records like this, and nothing else.
    Names(fn(&Net, &str)),
    /// One mail server.
    Host(fn() -> Host),
}
use Behind::{Host as Peer, Names};
use End::{Deferred, Delivered, Failed};

/// A peer that answers so for good.
macro_rules! always {
    ($line:literal, $reply:literal) => {
        Peer(|| answers($line, $reply))
    };
}

/// Every way to fail.
const WAYS: &[(&str, Behind, End)] = &[
    ("NXDOMAIN", Names(|_, _| {}), Failed("5.1.2")),
    ("NODATA and no address", Names(|net, name| _ = net.mx_fails(name, LookupError::NoData { negative_ttl: None })), Failed("5.4.4")),
    ("null MX", Names(|net, name| _ = net.mx(name, &[(0, "")])), Failed("5.1.10")),
    ("SERVFAIL", Names(|net, name| _ = net.mx_servfail(name)), Deferred("4.4.3")),
    ("DNS silent", Names(|net, name| _ = net.mx_fails(name, LookupError::Soft(DnsFault::Timeout))), Deferred("4.4.3")),
    ("loop", Names(|net, name| _ = net.mx(name, &[(10, "mail.sender.test")])), Failed("5.4.6")),
    ("MX without address", Names(|net, name| _ = net.mx(name, &[(10, &format!("nowhere.{name}"))])), Failed("5.4.4")),
    ("MX literal", Names(|net, name| _ = net.mx(name, &[(10, "192.0.2.9")])), Failed("5.4.4")),
    ("refused", Peer(|| Host::Refuses), Deferred("4.4.1")),
    ("silent", Peer(|| Host::Silent), Deferred("4.4.2")),
    ("greeting 421", always!("CONNECT", "421 4.3.2 busy"), Deferred("4.3.2")),
    ("greeting 554", always!("CONNECT", "554 5.7.1 go away"), Deferred("4.4.2")),
    ("greeting closed", always!("CONNECT", "CLOSE"), Deferred("4.4.2")),
    ("EHLO closed", always!("EHLO", "CLOSE"), Deferred("4.4.2")),
    ("EHLO silent", always!("EHLO", "SILENT"), Deferred("4.4.2")),
    ("MAIL 451", always!("MAIL", "451 4.3.0 not now"), Deferred("4.3.0")),
    ("MAIL 550", always!("MAIL", "550 5.7.1 not you"), Failed("5.7.1")),
    ("MAIL 421", always!("MAIL", "421 4.3.2 shutting down"), Deferred("4.3.2")),
    ("MAIL closed", always!("MAIL", "CLOSE"), Deferred("4.4.2")),
    ("MAIL silent", always!("MAIL", "SILENT"), Deferred("4.4.2")),
    ("RCPT 450", always!("RCPT", "450 4.2.1 mailbox busy"), Deferred("4.2.1")),
    ("RCPT 550", always!("RCPT", "550 5.1.1 no such user"), Failed("5.1.1")),
    ("RCPT closed", always!("RCPT", "CLOSE"), Deferred("4.4.2")),
    ("RCPT silent", always!("RCPT", "SILENT"), Deferred("4.4.2")),
    ("DATA 451", always!("DATA", "451 4.3.1 disk full"), Deferred("4.3.1")),
    ("DATA 554", always!("DATA", "554 5.6.0 never"), Failed("5.6.0")),
    ("DATA closed", always!("DATA", "CLOSE"), Deferred("4.4.2")),
    ("end 452", always!(".", "452 4.2.2 quota"), Deferred("4.2.2")),
    ("end 554", always!(".", "554 5.7.1 spam"), Failed("5.7.1")),
    ("in doubt: closed", Peer(|| answers_at_first(1, ".", "CLOSE")), Delivered),
    ("in doubt: silent", Peer(|| answers_at_first(1, ".", "SILENT")), Delivered),
    ("greylisted", Peer(|| answers_at_first(3, "RCPT", "450 4.7.1 come back")), Delivered),
    ("TLS broken", Peer(|| starttls("220 go ahead")), Delivered),
    ("TLS injected", Peer(|| starttls("220 go ahead\r\n250 and on in clear text")), Deferred("4.7.5")),
];

/// Offers STARTTLS, answers it so, and cannot make anything of what comes then; without TLS it takes everything.
fn starttls(reply: &'static str) -> Host {
    Host::Answers(Arc::new(move |line| match line {
        "STARTTLS" => Some(reply.to_owned()),
        line if line.starts_with("EHLO") => Some("250-mx.test\r\n250 STARTTLS".to_owned()),
        _ => None,
    }))
}

/// What the process holds: resident memory in MiB, and open files.
fn held() -> (usize, usize) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (kib / 1024, fs::read_dir("/proc/self/fd").unwrap().count())
}

/// What came of all of it, as it comes.
#[derive(Default)]
struct Seen {
    /// Recipients at their hosts, with how often.
    arrived: HashMap<String, usize>,
    /// Recipients that reports tell of, with how often.
    reported: HashMap<String, usize>,
}

impl Seen {
    fn take(&mut self, net: &Net) {
        for transaction in net.take_transactions() {
            if transaction.mail.is_empty() {
                let text = String::from_utf8(transaction.data).unwrap();
                let told = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "));
                told.for_each(|recipient| *self.reported.entry(recipient.trim().to_owned()).or_default() += 1);
            } else {
                transaction.rcpts.into_iter().for_each(|rcpt| *self.arrived.entry(rcpt).or_default() += 1);
            }
        }
    }
}

fn internet(domains: usize) -> (Net, Vec<(&'static str, End)>) {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").host("mail.sender.test", "192.0.2.77", friendly());
    let mut ends = Vec::with_capacity(domains);
    let mut ways = WAYS.iter().cycle();
    for n in 0..domains {
        let name = format!("d{n}.test");
        let (way, behind, end) = if n % 10 < 3 { ways.next().unwrap() } else { &("friendly", Peer(friendly), Delivered) };
        match behind {
            Names(names) => names(&net, &name),
            Peer(host) => {
                let mx = format!("mx.{name}");
                net.mx(&name, &[(10, &mx)]).host(&mx, &format!("198.18.{}.{}", n / 250, n % 250), host());
            }
        }
        ends.push((*way, *end));
    }
    (net, ends)
}

/// Four waves of messages, each to all domains; `rounds` messages a domain and wave.
async fn everything_is_accounted_for(domains: usize, rounds: usize) {
    const WAVES: usize = 4;
    let (net, ends) = internet(domains);
    // What is put off comes again three times, and then not before everything is over: with a round every two hours for each wave there would be no
    // moment at which nobody is spoken to, and a session that is never given up would not show.
    let settings =
        "[sending]\nworkers = 200\n[retry]\nschedule = [\"2h\", \"2h\", \"2h\", \"25d\"]\nlifetime = \"30d\"\nwarn_after = \"0s\"\n";
    let mut daemon = Daemon::start(&net, settings);
    let mut seen = Seen::default();
    let ending = ends.iter().filter(|(_, end)| !matches!(end, Deferred(_))).count() * rounds;
    let mut quarter = None;
    let (began, real) = (tokio::time::Instant::now(), std::time::Instant::now());
    for wave in 0..WAVES {
        for round in wave * rounds..(wave + 1) * rounds {
            for n in 0..domains {
                let built = daemon.layout.tmp().join("built");
                fs::write(&built, format!("From: alice@sender.test\r\nTo: u{round}@d{n}.test\r\nSubject: {round}\r\n\r\nHello.\r\n"))
                    .unwrap();
                fs::rename(built, daemon.layout.drop().join(format!("r{round}d{n}.eml"))).unwrap();
            }
        }
        // Those that end, and the reports of those that fail.
        let failing = ends.iter().filter(|(_, end)| matches!(end, Failed(_))).count() * rounds;
        let mut finished = 0;
        let all_ended = daemon.watch(|event| {
            finished += usize::from(event.verb == "finished");
            finished == ending + failing
        });
        // Where they do not all end, what follows tells which.
        let in_time = tokio::time::timeout(Duration::from_secs(12 * 3600), all_ended).await.is_ok();
        println!("wave {wave}: {finished} of {} finished, in time: {in_time}", ending + failing);
        let mut open = net.open_sessions();
        let nobody_is_spoken_to = tokio::time::timeout(Duration::from_secs(24 * 3600), open.wait_for(|open| *open == 0));
        // What is told meanwhile is not kept: the test would grow by it.
        tokio::select! {
            over = nobody_is_spoken_to => drop(over.unwrap().unwrap()),
            () = daemon.watch(|_| false) => unreachable!("it has never seen enough"),
        }
        seen.take(&net);
        let now = held();
        let (passed, took) = (began.elapsed().as_secs() / 60, real.elapsed().as_secs_f64());
        println!("wave {wave}: {} MiB, {} files, after {passed} minutes on the test's clock, {took:.1} s on the wall's", now.0, now.1);
        quarter.get_or_insert(now);
    }
    let (end, quarter) = (held(), quarter.unwrap());
    assert!(end.1 <= quarter.1 + 4, "open files: {} after a quarter, {} at the end", quarter.1, end.1);
    // The database's caches fill up to their bounds, and the test's own book of recipients grows with them, some 150 octets each.
    let own = WAVES * rounds * domains * 150 / 1_048_576;
    assert!(end.0 <= quarter.0 + 32 + own, "MiB: {} after a quarter, {} at the end", quarter.0, end.0);

    let mut known: HashMap<String, (Kind, String)> = HashMap::new();
    for row in daemon.inspect().history(&HistoryFilter::default()).unwrap() {
        if !row.sender.to_string().is_empty() {
            let again = known.insert(row.recipient.to_string(), (row.outcome.kind, row.outcome.status.to_string()));
            assert!(again.is_none(), "{} ended twice", row.recipient);
        }
    }
    let mut waiting = HashMap::new();
    let inspect = daemon.inspect();
    for row in inspect.list(&ListFilter::default()).unwrap() {
        for (recipient, last) in inspect.show(row.message).unwrap().unwrap().copies.remove(0).recipients {
            waiting.insert(recipient.address.to_string(), last.unwrap().0.status.to_string());
        }
    }
    assert_eq!(known.len() + waiting.len(), WAVES * rounds * domains, "ended and waiting are all");
    let mut wrong = Vec::new();
    for (n, (way, end)) in ends.iter().enumerate() {
        for round in 0..WAVES * rounds {
            let to = format!("u{round}@d{n}.test");
            let count = |of: &HashMap<String, usize>| of.get(&to).copied().unwrap_or(0);
            let seen_so = (count(&seen.arrived), count(&seen.reported));
            let ended = known.get(&to).map(|(kind, status)| (*kind, status.as_str()));
            let as_it_should = match end {
                Delivered => (ended, seen_so) == (Some((Kind::Delivered, "2.0.0")), (1, 0)),
                Failed(status) => (ended, seen_so) == (Some((Kind::Failed, *status)), (0, 1)),
                Deferred(status) => {
                    // Beside what its peer said, a copy may have met a site that is down since.
                    let waits = waiting.get(&to).is_some_and(|last| [*status, "4.4.1"].contains(&last.as_str()));
                    (ended, seen_so) == (None, (0, 0)) && waits
                }
            };
            if !as_it_should {
                wrong.push(format!("{way}: {to}: {ended:?}, waits {:?}, (arrived, reported) {seen_so:?}", waiting.get(&to)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    println!("{} delivered, {} failed, {} deferred", seen.arrived.len(), seen.reported.len(), waiting.len());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn four_thousand_messages_to_a_thousand_domains() {
    everything_is_accounted_for(1000, 1).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes: cargo test --release --test load_mixed -- --ignored --nocapture"]
async fn two_hundred_thousand_messages_to_ten_thousand_domains() {
    everything_is_accounted_for(10_000, 5).await;
}

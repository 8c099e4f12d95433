//! Much at once, and for long: a thousand sessions side by side, and a day of retries, on paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::collections::HashMap;
use std::time::Duration;

use daemon::Daemon;
use net::{Host, Net, answers, answers_at_first, friendly};
use smtp_direct::clock::Timestamp;
use smtp_direct::queue::{Inspect, MessageDetail};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A domain whose only host, at `ip`, behaves like `host`.
fn domain(net: &Net, name: &str, ip: &str, host: Host) {
    let mx = format!("mx.{name}");
    net.mx(name, &[(10, &mx)]).host(&mx, ip, host);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_slow_peers_are_served_side_by_side() {
    const PEERS: usize = 1000;
    let net = Net::default();
    for n in 0..PEERS {
        domain(&net, &format!("d{n}.test"), &format!("198.18.{}.{}", n / 250, n % 250), Host::Slow(60 * SECOND));
    }
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 1000\n");
    let began = Instant::now();
    for n in 0..PEERS {
        daemon.drop_message(&format!("m{n}"), &[&format!("a@d{n}.test")]);
    }
    daemon.wait_for("finished", PEERS).await;
    let took = began.elapsed();
    assert!(took < 70 * SECOND, "one peer takes a minute, all of them took {took:?}");
    assert_eq!(net.peak_sessions(), PEERS);
    assert_eq!(net.transactions().len(), PEERS);
    assert!(daemon.seen("deferred").is_empty());
}

/// What is known of the message of this file.
fn message(daemon: &mut Daemon, file: &str) -> MessageDetail {
    let accepted = daemon.seen("accepted");
    let id = accepted.iter().find(|event| event.field("source") == file).unwrap().field("id").parse().unwrap();
    daemon.inspect().show(id).unwrap().unwrap()
}

/// From acceptance to the beginning of each of its attempts.
fn attempts(detail: &MessageDetail) -> Vec<Duration> {
    let since = |at: Timestamp| Duration::try_from(at.duration_since(detail.message.accepted_at)).unwrap();
    detail.copies[0].history.iter().map(|attempt| since(attempt.began_at)).collect()
}

/// The waits between attempts are those of the schedule, ±10 % and what it takes to notice.
fn assert_scheduled(name: &str, attempts: &[Duration], schedule: &[Duration]) {
    assert!(attempts.len() > schedule.len() / 2, "{name}: {attempts:?}");
    assert!(attempts[0] < 10 * SECOND, "{name}: {attempts:?}");
    for (pair, wait) in attempts.windows(2).zip(schedule) {
        let gap = pair[1] - pair[0];
        // A session that waits for an answer until its limit has passed is part of the gap.
        assert!(gap >= wait.mul_f64(0.9) && gap <= wait.mul_f64(1.1) + 5 * SECOND, "{name}: {gap:?}, not {wait:?}: {attempts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_retries_keeps_its_schedule_and_does_nothing_in_between() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx_servfail("dns.test");
    domain(&net, "down.test", "192.0.2.1", Host::Refuses);
    domain(&net, "full.test", "192.0.2.2", answers("RCPT", "452 4.2.2 mailbox full"));
    domain(&net, "back.test", "192.0.2.3", Host::Refuses);
    domain(&net, "grey.test", "192.0.2.4", answers_at_first(1, "RCPT", "451 4.7.1 greylisted, try again in 15 minutes"));
    domain(&net, "crowd.test", "192.0.2.5", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[retry]\nlifetime = \"20h\"\nwarn_after = \"4h\"\n");
    let began = Instant::now();
    for name in ["dns", "down", "full", "back", "grey"] {
        daemon.drop_message(name, &[&format!("a@{name}.test")]);
    }
    for n in 0..100 {
        daemon.drop_from(&format!("crowd{n}"), "", &[&format!("a{n}@crowd.test")]);
    }
    // Paused time: the rest of a day of retries, one of the peers mended on the way.
    tokio::time::sleep(3 * HOUR).await;
    net.becomes("192.0.2.3", friendly());
    tokio::time::sleep(began + 24 * HOUR - Instant::now()).await;
    let parked = tokio::runtime::Handle::current().metrics().worker_park_count(0);

    let mut schedule: Vec<Duration> = [5, 10, 20, 40, 60, 120].map(|minutes| minutes * MINUTE).into();
    schedule.extend([4 * HOUR; 5]);
    for name in ["dns", "down", "full"] {
        let detail = message(&mut daemon, &format!("{name}.eml"));
        let attempts = attempts(&detail);
        // The last one may be cut short by the end of its time, at which nothing is tried any more.
        assert_scheduled(name, &attempts, &schedule);
        assert!((10..=12).contains(&attempts.len()), "{name}: {attempts:?}");
        let (outcome, at) = detail.copies[0].recipients[0].1.as_ref().unwrap();
        let end = Duration::try_from(at.duration_since(detail.message.accepted_at)).unwrap();
        assert!(outcome.is_expiry(), "{name}: {outcome:?}");
        assert!(end >= 20 * HOUR && end < 20 * HOUR + 10 * SECOND, "{name}: {end:?}");
        let id = detail.message.id.to_string();
        assert_eq!(daemon.seen("expired").iter().filter(|event| event.field("id") == id).count(), 1, "{name}");
    }
    // Told of once, by the first attempt that ends after four hours, and once of the end.
    let reports: Vec<(Duration, String)> =
        net.transactions().into_iter().filter(|t| t.mail.is_empty()).map(|t| (t.at - began, String::from_utf8(t.data).unwrap())).collect();
    for name in ["dns", "down", "full"] {
        let of = |action: &str| -> Vec<Duration> {
            let own = reports.iter().filter(|(_, text)| text.contains(&format!("a@{name}.test")) && text.contains(action));
            own.map(|(at, _)| *at).collect()
        };
        let tried: Vec<Duration> = attempts(&message(&mut daemon, &format!("{name}.eml")));
        let first = *tried.iter().find(|at| **at >= 4 * HOUR).unwrap();
        let (delayed, failed) = (of("Action: delayed"), of("Action: failed"));
        assert!(delayed.len() == 1 && delayed[0] >= first && delayed[0] < first + 70 * SECOND, "{name}: {delayed:?}, {first:?}");
        assert!(failed.len() == 1 && failed[0] >= 20 * HOUR && failed[0] < 20 * HOUR + 70 * SECOND, "{name}: {failed:?}");
    }
    assert_eq!(reports.len(), 6);

    let grey = attempts(&message(&mut daemon, "grey.eml"));
    assert!(grey.len() == 2 && grey[1] >= 15 * MINUTE && grey[1] < 16 * MINUTE, "{grey:?}");
    let back = message(&mut daemon, "back.eml");
    assert_scheduled("back", &attempts(&back), &schedule[..6]);
    assert!(back.finished_at.is_some() && attempts(&back).len() == 7, "{:?}", attempts(&back));

    // A crowd of copies at a site that is down costs few connections, and all of it ends at its time.
    let mut dials: HashMap<String, usize> = HashMap::new();
    net.dialled().iter().for_each(|address| *dials.entry(address.ip().to_string()).or_default() += 1);
    assert!(dials["192.0.2.5"] <= 60, "{dials:?}");
    assert!(dials["192.0.2.1"] <= 12 && dials["192.0.2.2"] <= 12, "{dials:?}");
    assert_eq!(daemon.seen("expired").len(), 103);
    assert!(net.mx_queries("dns.test") <= 12, "{}", net.mx_queries("dns.test"));
    // A look at the queue and at drop/ every half minute, and what follows from each: not a loop that never rests.
    assert!(parked < 24 * 120 * 10, "woke up {parked} times in a day");
    println!("woke up {parked} times in a day; dials {dials:?}");
}

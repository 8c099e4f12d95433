//! Sites: how many sessions each gets, how fast it is sent to, and that none of them keeps the others waiting.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::collections::HashSet;
use std::time::Duration;

use daemon::Daemon;
use net::{Host, Net, Transaction, answers_at_first};
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);

/// A domain whose only host, at `ip`, behaves like `host`.
fn domain(net: &Net, name: &str, ip: &str, host: Host) {
    let mx = format!("mx.{name}");
    net.mx(name, &[(10, &mx)]).host(&mx, ip, host);
}

/// Drops `count` messages of one recipient each; `sidecar` is added to what their sidecars say.
fn drop_many(daemon: &Daemon, name: &str, count: usize, domain: &str, sidecar: &str) {
    for n in 0..count {
        let sidecar = format!("from = \"alice@sender.test\"\nto = [\"u{n}@{domain}\"]\n{sidecar}");
        daemon.drop_with(&format!("{name}{n}"), &sidecar, "Subject: many\r\n\r\nHello.\r\n");
    }
}

fn of_domain(net: &Net, domain: &str) -> Vec<Transaction> {
    let suffix = format!("@{domain}");
    net.transactions().into_iter().filter(|transaction| transaction.rcpts.iter().any(|rcpt| rcpt.ends_with(&suffix))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_small_sites_do_not_wait_for_a_large_one_that_has_every_worker() {
    let net = Net::default();
    domain(&net, "large.test", "192.0.2.1", Host::Slow(20 * MILLI));
    for n in 0..100 {
        domain(&net, &format!("d{n}.test"), &format!("198.51.100.{n}"), Host::Slow(20 * MILLI));
    }
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 10\nper_site = 10\n");
    drop_many(&daemon, "large", 2_000, "large.test", "");
    daemon.wait_for("delivered", 300).await;
    assert_eq!(of_domain(&net, "large.test").iter().map(|transaction| transaction.session).collect::<HashSet<_>>().len(), 10);
    let began = Instant::now();
    for n in 0..100 {
        drop_many(&daemon, &format!("d{n}-"), 1, &format!("d{n}.test"), "");
    }
    daemon.wait_for("finished", 2_100).await;
    let last = net.transactions().into_iter().filter(|t| !t.rcpts[0].ends_with("@large.test")).map(|t| t.at).max().unwrap();
    assert!(last - began < Duration::from_secs(1), "{:?}", last - began);
    let end = of_domain(&net, "large.test").iter().map(|transaction| transaction.at).max().unwrap();
    assert!(end - began > Duration::from_secs(2), "the large one was still at it: {:?}", end - began);
}

#[tokio::test(start_paused = true)]
async fn urgent_copies_are_never_behind_bulk_ones_of_the_same_site() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Slow(50 * MILLI));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 4\nper_site = 2\n");
    // More than one domain may have in memory.
    drop_many(&daemon, "bulk", 1_500, "x.test", "priority = \"bulk\"\n");
    daemon.wait_for("accepted", 1_500).await;
    daemon.wait_for("delivered", 20).await;
    let began = Instant::now();
    drop_many(&daemon, "urgent", 10, "x.test", "priority = \"urgent\"\n");
    daemon.wait_for("accepted", 1_510).await;
    let sent = of_domain(&net, "x.test").len();
    daemon.wait_for("finished", 1_510).await;
    let accepted: Vec<String> = daemon.seen("accepted").iter().map(|event| event.field("source").to_owned()).collect();
    assert_eq!(accepted.len(), 1_510);
    let delivered = daemon.seen("delivered");
    let urgent: HashSet<String> = daemon
        .seen("accepted")
        .iter()
        .filter(|event| event.field("source").starts_with("urgent"))
        .map(|event| event.field("id").to_owned())
        .collect();
    let last = delivered.iter().rposition(|event| urgent.contains(event.field("id"))).unwrap();
    assert!(last < sent + 10 + 8, "the last urgent one came as number {last}, {sent} had gone when they came");
    assert!(began.elapsed() > Duration::from_secs(10), "the bulk took its time");
}

#[tokio::test(start_paused = true)]
async fn a_site_that_takes_three_sessions_gets_three_and_nothing_is_deferred() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Few(3));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 20\nper_site = 10\nmessages_per_connection = 100000\n");
    drop_many(&daemon, "m", 300, "x.test", "");
    daemon.wait_for("finished", 300).await;
    assert!(daemon.seen("deferred").is_empty(), "{:?}", daemon.seen("deferred"));
    assert!(!daemon.seen("the site takes no more sessions for now: these wait for one that is open").is_empty(), "it is said why");
    assert!(net.dialled().len() < 20, "it is not asked again and again: {}", net.dialled().len());
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_and_holds_no_worker() {
    let net = Net::default();
    domain(&net, "limited.test", "192.0.2.1", Host::Slow(MILLI));
    domain(&net, "other.test", "192.0.2.2", Host::Slow(MILLI));
    let mut daemon =
        Daemon::start(&net, "[sending]\nworkers = 1\n[[dns.override]]\ndomain = \"limited.test\"\nserver = \"mx\"\nrate = \"6/m\"\n");
    let began = Instant::now();
    drop_many(&daemon, "limited", 13, "limited.test", "");
    daemon.wait_for("delivered", 1).await;
    drop_many(&daemon, "other", 50, "other.test", "");
    daemon.wait_for("finished", 63).await;
    let minutes = (began.elapsed() - Duration::from_secs(120)).as_secs();
    assert!(minutes < 10, "twelve times ten seconds after the first: {:?}", began.elapsed());
    let others = of_domain(&net, "other.test").iter().map(|transaction| transaction.at).max().unwrap();
    assert!(others - began < Duration::from_secs(9), "the only worker was free for the others: {:?}", others - began);
}

#[tokio::test(start_paused = true)]
async fn a_session_rests_for_the_next_copy_and_ends_after_its_time() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Slow(MILLI));
    let mut daemon = Daemon::start(&net, "[sending]\nkeep_idle = \"5s\"\n");
    for n in 0..5 {
        drop_many(&daemon, &format!("m{n}-"), 1, "x.test", "");
        daemon.wait_for("finished", n + 1).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert_eq!(net.dialled().len(), 1, "one session for all five");
    let mut open = net.open_sessions();
    tokio::time::timeout(Duration::from_secs(2), open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    drop_many(&daemon, "last", 1, "x.test", "");
    daemon.wait_for("finished", 6).await;
    assert_eq!(net.dialled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_rests_gives_its_worker_to_another_site_at_once() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Slow(MILLI));
    domain(&net, "y.test", "192.0.2.2", Host::Slow(MILLI));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 1\nkeep_idle = \"1h\"\n");
    drop_many(&daemon, "x", 1, "x.test", "");
    daemon.wait_for("finished", 1).await;
    let began = Instant::now();
    drop_many(&daemon, "y", 1, "y.test", "");
    daemon.wait_for("finished", 2).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    daemon.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "a resting session does not hold up the end: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_421_within_a_session_brings_a_new_one_and_fewer_of_them() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", answers_at_first(3, "MAIL", "421 4.7.0 slow down"));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 8\nper_site = 8\n[retry]\nschedule = [\"1m\"]\n");
    drop_many(&daemon, "m", 40, "x.test", "");
    daemon.wait_for("finished", 40).await;
    assert_eq!(net.transactions().len(), 40);
    assert!(daemon.seen("in_doubt").is_empty());
}

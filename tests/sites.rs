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
use smtp_direct::queue::{Inspect, ListFilter};
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

/// A large site and a hundred small ones, each as slow as 20 ms a message.
fn large_and_small() -> Net {
    let net = Net::default();
    domain(&net, "large.test", "192.0.2.1", Host::Slow(20 * MILLI));
    for n in 0..100 {
        domain(&net, &format!("d{n}.test"), &format!("198.51.100.{n}"), Host::Slow(20 * MILLI));
    }
    net
}

/// Waits until so many messages have come to this event.
async fn watch_for(daemon: &mut Daemon, verb: &str, count: usize) {
    let mut seen = 0;
    daemon
        .watch(|event| {
            seen += usize::from(event.verb == verb);
            seen == count
        })
        .await;
}

/// The hundred are delivered within a second from `began` on, and the large site is served on beside them.
async fn small_ones_do_not_wait(daemon: &mut Daemon, net: &Net, began: Instant) {
    let is_small = |transaction: &&Transaction| !transaction.rcpts[0].ends_with("@large.test");
    daemon.watch(|_| net.transactions().iter().filter(is_small).count() == 100).await;
    let small = net.transactions().iter().filter(is_small).map(|transaction| transaction.at).max().unwrap();
    assert!(small - began < Duration::from_secs(1), "{:?}", small - began);
    let large = of_domain(net, "large.test").len();
    assert!((1..9_900).contains(&large), "the large one is at it still: {large}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_small_sites_do_not_wait_for_a_large_one_that_has_every_worker() {
    let net = large_and_small();
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 10\nper_site = 10\n");
    drop_many(&daemon, "large", 10_000, "large.test", "");
    watch_for(&mut daemon, "delivered", 300).await;
    assert_eq!(of_domain(&net, "large.test").iter().map(|transaction| transaction.session).collect::<HashSet<_>>().len(), 10);
    let began = Instant::now();
    for n in 0..100 {
        drop_many(&daemon, &format!("d{n}-"), 1, &format!("d{n}.test"), "");
    }
    small_ones_do_not_wait(&mut daemon, &net, began).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_small_sites_do_not_wait_for_a_large_one_that_is_before_them_in_the_queue() {
    let net = large_and_small();
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 10\nper_site = 10\n");
    let later = "not_before = \"2h\"\n";
    drop_many(&daemon, "large", 10_000, "large.test", later);
    watch_for(&mut daemon, "accepted", 10_000).await;
    for n in 0..100 {
        drop_many(&daemon, &format!("d{n}-"), 1, &format!("d{n}.test"), later);
    }
    watch_for(&mut daemon, "accepted", 100).await;
    daemon.stop().await;
    tokio::time::advance(Duration::from_secs(3 * 60 * 60)).await;
    assert!(net.transactions().is_empty());
    daemon.resume();
    daemon.watch(|_| !net.transactions().is_empty()).await;
    let began = net.transactions()[0].at;
    small_ones_do_not_wait(&mut daemon, &net, began).await;
}

#[tokio::test(start_paused = true)]
async fn a_site_with_a_rate_does_not_keep_others_in_the_queue() {
    let net = large_and_small();
    let limited = "[[dns.override]]\ndomain = \"large.test\"\nserver = \"mx\"\nrate = \"6/m\"\n";
    let mut daemon = Daemon::start(&net, limited);
    let later = "not_before = \"2h\"\n";
    drop_many(&daemon, "large", 5_000, "large.test", later);
    watch_for(&mut daemon, "accepted", 5_000).await;
    drop_many(&daemon, "small", 1, "d1.test", later);
    watch_for(&mut daemon, "accepted", 1).await;
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    daemon.watch(|_| of_domain(&net, "d1.test").len() == 1).await;
    let large = of_domain(&net, "large.test").len();
    assert!(large < 10, "a message each ten seconds: {large}");
}

#[tokio::test(start_paused = true)]
async fn urgent_copies_are_never_behind_bulk_ones_of_the_same_site() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Slow(50 * MILLI));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 4\nper_site = 2\n");
    // More than there is room for in memory, and the urgent ones as many as make a difference there.
    drop_many(&daemon, "bulk", 6_000, "x.test", "priority = \"bulk\"\n");
    watch_for(&mut daemon, "accepted", 6_000).await;
    watch_for(&mut daemon, "delivered", 20).await;
    drop_many(&daemon, "urgent", 200, "x.test", "priority = \"urgent\"\n");
    let (mut urgent, mut delivered, mut bulk_between) = (HashSet::new(), 0, 0);
    daemon
        .watch(|event| {
            match event.verb.as_str() {
                "accepted" => drop(urgent.insert(event.field("id").to_owned())),
                "delivered" if urgent.contains(event.field("id")) => delivered += 1,
                "delivered" if urgent.len() == 200 => bulk_between += 1,
                _ => {}
            }
            delivered == 200
        })
        .await;
    assert!(bulk_between <= 8, "{bulk_between} bulk ones went after all urgent ones were there, and before the last of them");
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
        // Less than keep_idle, on paused time.
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
async fn a_host_that_takes_three_sessions_is_not_asked_for_more_though_another_one_takes_them() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx1.x.test"), (20, "mx2.x.test")]);
    net.host("mx1.x.test", "192.0.2.1", Host::Few(3)).host("mx2.x.test", "192.0.2.2", Host::Slow(20 * MILLI));
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 20\nper_site = 20\nmessages_per_connection = 10\n");
    drop_many(&daemon, "m", 600, "x.test", "");
    daemon.wait_for("finished", 600).await;
    assert!(daemon.seen("deferred").is_empty(), "{:?}", daemon.seen("deferred"));
    let refused = net.dialled().iter().filter(|address| address.ip().to_string() == "192.0.2.2").count();
    assert!((1..20).contains(&refused), "of {} dialled, the first host refused {refused}", net.dialled().len());
}

#[tokio::test(start_paused = true)]
async fn a_window_of_messages_goes_ahead_where_it_is_set() {
    for (window, most) in [("", 1), ("[smtp]\nwindow = 8\n", 8)] {
        let net = Net::default();
        domain(&net, "x.test", "192.0.2.1", Host::Chunks(8, 20 * MILLI));
        let mut daemon = Daemon::start(&net, &format!("[sending]\nper_site = 1\nmessages_per_connection = 1000\n{window}"));
        drop_many(&daemon, "m", 100, "x.test", "");
        watch_for(&mut daemon, "finished", 100).await;
        assert_eq!(of_domain(&net, "x.test").len(), 100);
        let together = net.answered_together();
        assert_eq!(together.iter().max(), Some(&most), "{together:?}");
        assert!(together.len() <= 100 / most + 20, "{together:?}");
    }
}

/// A host that takes MAIL from so many sessions at once, and says to the others that there are too many.
fn crowded(most: usize, open: tokio::sync::watch::Receiver<usize>) -> Host {
    Host::Answers(std::sync::Arc::new(move |line| {
        (line.starts_with("MAIL") && *open.borrow() > most).then(|| "451 4.7.1 Too many concurrent SMTP connections".to_owned())
    }))
}

#[tokio::test(start_paused = true)]
async fn a_421_within_a_session_and_too_many_of_them_bring_fewer() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", answers_at_first(3, "MAIL", "421 4.7.0 slow down"));
    domain(&net, "y.test", "192.0.2.2", crowded(2, net.open_sessions()));
    domain(&net, "z.test", "192.0.2.3", net::friendly());
    let mut peaks = Vec::new();
    for name in ["x.test", "y.test", "z.test"] {
        let mut daemon = Daemon::start(&net, "[sending]\nworkers = 8\nper_site = 8\n[retry]\nschedule = [\"1m\"]\n");
        drop_many(&daemon, "m", 40, name, "");
        daemon.wait_for("finished", 40).await;
        assert!(daemon.seen("in_doubt").is_empty());
        let deferred = daemon.seen("deferred").len();
        daemon.stop().await;
        peaks.push(net.take_peak_sessions());
        assert_eq!((of_domain(&net, name).len(), deferred > 0), (40, name != "z.test"));
    }
    assert!(peaks[0] <= 2 && peaks[1] <= 4 && peaks[2] == 8, "{peaks:?}");
}

#[tokio::test(start_paused = true)]
async fn what_had_begun_when_its_site_went_down_counts_as_tried_only_if_it_was() {
    let net = Net::default();
    domain(&net, "x.test", "192.0.2.1", Host::Slow(5 * MILLI));
    let limits = "[sending]\nper_site = 1\nmessages_per_connection = 30\n[retry]\nschedule = [\"1m\"]\n";
    let mut daemon = Daemon::start(&net, limits);
    drop_many(&daemon, "m", 60, "x.test", "");
    watch_for(&mut daemon, "delivered", 10).await;
    // The session that is open goes on; the next one is refused, with copies that have begun behind the one it was for.
    net.becomes("192.0.2.1", Host::Refuses);
    daemon.wait_for("deferred", 30).await;
    daemon.stop().await;
    let inspect = daemon.inspect();
    let left = inspect.list(&ListFilter::default()).unwrap();
    let mut tried = Vec::new();
    for row in &left {
        let copy = &inspect.show(row.message).unwrap().unwrap().copies[0];
        assert_eq!(copy.attempts as usize, copy.history.len(), "{copy:?}");
        tried.push(copy.attempts);
    }
    tried.sort_unstable();
    assert_eq!(tried, [vec![0; 29], vec![1]].concat());
}

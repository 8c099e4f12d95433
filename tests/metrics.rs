//! What the daemon counts, against what it did, what its log says and what its queue holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp, clippy::cast_precision_loss, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;
#[path = "support/scrape.rs"]
mod scrape;

use std::cell::Cell;
use std::fmt::Write;
use std::time::Duration;

use daemon::Daemon;
use net::{Host, Net, answers, answers_at_first, friendly};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use scrape::{OPEN, Scrape};
use smtp_direct::control::client::Client;
use smtp_direct::outcome::Kind;
use smtp_direct::queue::{HistoryFilter, Inspect, ListFilter};
use tokio::sync::watch;

async fn scraped(daemon: &Daemon) -> Scrape {
    Scrape::parse(&daemon.metrics().await)
}

fn outcomes(outcome: &str, code: &str) -> String {
    format!("recipient_outcomes_total{{outcome=\"{outcome}\",code=\"{code}\"}}")
}

/// A host for each way in which mail can end, an override for some.
fn world() -> Net {
    let net = Net::default();
    net.domain("good.test", "192.0.2.1").domain("sender.test", "192.0.2.2").mx_servfail("nodns.test");
    for (domain, ip, host) in [
        ("later.test", "192.0.2.3", answers_at_first(2, "RCPT", "450 4.2.0 busy")),
        ("never.test", "192.0.2.4", answers("RCPT", "550 5.1.1 no such user")),
        ("doubt.test", "192.0.2.5", answers_at_first(1, ".", "CLOSE")),
        ("down.test", "192.0.2.6", Host::Refuses),
        ("rude.test", "192.0.2.7", answers("CONNECT", "554 5.7.1 go away")),
        ("full.test", "192.0.2.8", answers(".", "452 4.3.1 disk full")),
    ] {
        let mx = format!("mx.{domain}");
        net.mx(domain, &[(10, &mx)]).host(&mx, ip, host);
    }
    net
}

const DOMAINS: [&str; 11] = [
    "good.test",
    "later.test",
    "never.test",
    "doubt.test",
    "down.test",
    "rude.test",
    "full.test",
    "nodns.test",
    "held.test",
    "discarded.test",
    "rejected.test",
];

const CONFIGURATION: &str = r#"
    [retry]
    schedule = ["1h"]
    lifetime = "5h"
    warn_after = "2h"
    [[dns.override]]
    domain = "held.test"
    action = "hold"
    reason = "wait"
    [[dns.override]]
    domain = "discarded.test"
    action = "discard"
    reason = "unwanted"
    [[dns.override]]
    domain = "rejected.test"
    action = "reject"
    reason = "no"
"#;

#[tokio::test(start_paused = true)]
async fn every_end_is_counted_once() {
    let net = world();
    let mut daemon = Daemon::start(&net, CONFIGURATION);
    daemon.drop_with("bad", "to = []\n", "Subject: x\r\n\r\n");
    // Nobody is told of what the null sender's mail comes to.
    daemon.drop_from("good", "", &["a@good.test", "b@good.test"]);
    daemon.drop_from("never", "", &["a@never.test"]);
    daemon.drop_from("discarded", "", &["a@discarded.test", "b@discarded.test"]);
    daemon.drop_from("rejected", "", &["a@rejected.test"]);
    daemon.wait_for("finished", 4).await;
    daemon.drop_from("later", "", &["a@later.test"]);
    daemon.drop_from("doubt", "", &["a@doubt.test", "b@doubt.test"]);
    daemon.drop_from("down", "", &["a@down.test"]);
    daemon.drop_from("rude", "", &["a@rude.test"]);
    daemon.drop_from("nodns", "", &["a@nodns.test"]);
    daemon.drop_from("held", "", &["a@held.test"]);
    daemon.wait_for("deferred", 6).await;
    daemon.wait_for("held", 1).await;
    let mut seen = scraped(&daemon).await;
    // It is moved away on another thread, beside all that follows it.
    for _ in 0..100 {
        if seen.of("messages_rejected_total") > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        seen = scraped(&daemon).await;
    }

    assert_eq!(seen.of("messages_accepted_total{origin=\"drop\"}"), 10.0);
    assert_eq!(seen.of("messages_accepted_total{origin=\"report\"}"), 0.0);
    assert_eq!((seen.of("messages_rejected_total"), seen.of("messages_finished_total")), (1.0, 4.0));
    let expected = [
        ("delivered", "2xx", 2.0),
        // 450; in doubt twice, down and no DNS without a word; 554 to the connection.
        ("deferred", "4xx", 1.0),
        ("deferred", "5xx", 1.0),
        ("deferred", "none", 4.0),
        ("failed", "5xx", 1.0),
        ("failed", "none", 1.0),
        ("discarded", "none", 2.0),
    ];
    for (outcome, code, count) in expected {
        assert_eq!(seen.of(&outcomes(outcome, code)), count, "{outcome} {code}");
    }
    assert_eq!(seen.sum("recipient_outcomes_total", ""), 12.0, "and nothing else");
    assert_eq!(seen.of("recipients_in_doubt_total"), 2.0);
    assert_eq!(seen.of("delivery_seconds_count"), 2.0);

    // Copies: the five that were put off wait for an hour, one is on hold.
    for (state, copies) in [("due", 0.0), ("waiting", 5.0), ("sending", 0.0), ("held", 1.0)] {
        assert_eq!(seen.of(&format!("queue_copies{{state=\"{state}\"}}")), copies, "{state}");
    }
    let of_age = |age, state| seen.of(&format!("queue_copies_by_age{{state=\"{state}\",age=\"{age}\"}}"));
    assert_eq!((of_age("1m", "waiting"), of_age("1m", "held"), seen.sum("queue_copies_by_age", "")), (5.0, 1.0, 6.0));
    assert_eq!((seen.of("queue_messages"), seen.of("queue_recipients"), seen.of("queue_copies_in_doubt")), (6.0, 7.0, 1.0));
    assert!(seen.of("queue_bytes") > 6.0 * 40.0);

    // Sessions: good, never, later, doubt; those that led to none: down and rude.
    assert_eq!((seen.of("sessions_opened_total"), seen.sum("sessions_failed_total", "")), (4.0, 2.0));
    assert_eq!((seen.of("sessions_failed_total{stage=\"connect\"}"), seen.of("sessions_failed_total{stage=\"greeting\"}")), (1.0, 1.0));
    // A refused or rejected copy, and one whose route is not found, comes to no transfer; a discarded one and a held one to no attempt.
    assert_eq!(seen.of("attempt_phase_seconds_count{phase=\"queue\"}"), 7.0);
    assert_eq!((seen.of("sites_down"), seen.of("workers")), (2.0, 10.0));
    assert!(seen.of("commit_seconds_count") >= 4.0 && seen.of("commits_failed_total") == 0.0);
    let content: usize = net.transactions().iter().map(|transaction| transaction.data.len()).sum();
    assert!(seen.of("sent_bytes_total") > content as f64 && content > 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_shows_and_goes() {
    let net = Net::default();
    let (open, gate) = watch::channel(false);
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Gate(gate));
    let mut daemon = Daemon::start(&net, "[sending]\nkeep_idle = \"0s\"\nper_site = 1\n");
    daemon.wait_for("started", 1).await;
    let before = scraped(&daemon).await;
    assert_eq!((before.of("workers_busy"), before.of("sessions_open"), before.of("queue_oldest_age_seconds")), (0.0, 0.0, 0.0));
    let names = ["one", "two", "three", "four", "five", "six"];
    names.iter().for_each(|name| daemon.drop_message(name, &["a@x.test"]));
    net.open_sessions().wait_for(|open| *open == 1).await.unwrap();
    daemon.wait_for("accepted", 6).await;
    // The greeting is a minute late, far from its limit.
    tokio::time::timeout(Duration::from_secs(60), std::future::pending::<()>()).await.unwrap_err();
    let during = scraped(&daemon).await;
    let site = "site=\"1 mx.x.test:25\"";
    assert_eq!((during.of("workers_busy"), during.of(&format!("site_workers{{{site}}}"))), (1.0, 1.0));
    // The worker has begun one, and some ahead.
    let (sending, waiting) = (during.of("queue_copies{state=\"sending\"}"), during.of(&format!("site_copies{{{site}}}")));
    assert!(sending >= 1.0 && waiting >= 1.0 && sending + waiting == 6.0, "{sending} {waiting}");
    assert_eq!((during.of("queue_copies{state=\"due\"}"), during.of("queue_messages")), (waiting, 6.0));
    let of_age = |state| during.of(&format!("queue_copies_by_age{{state=\"{state}\",age=\"10m\"}}"));
    assert_eq!((of_age("sending"), of_age("due"), during.sum("queue_copies_by_age", "")), (sending, waiting, 6.0));
    assert!((60.0..70.0).contains(&during.of("queue_oldest_age_seconds")), "{}", during.of("queue_oldest_age_seconds"));
    assert_eq!(during.of("sessions_open"), 0.0, "not greeted yet");

    open.send_replace(true);
    daemon.wait_for("finished", 6).await;
    net.open_sessions().wait_for(|open| *open == 0).await.unwrap();
    let after = scraped(&daemon).await;
    assert_eq!((after.of("sessions_open"), after.of("sessions_opened_total")), (0.0, 1.0));
    assert_eq!((after.of("workers_busy"), after.sum("queue_copies", "")), (0.0, 0.0));
    // The wait for the greeting is the first copy's; the others found the session open.
    assert_eq!(after.of("attempt_phase_seconds_count{phase=\"connect\"}"), 1.0);
    assert!(after.of("attempt_phase_seconds_sum{phase=\"connect\"}") >= 60.0);
    assert_eq!(after.of("attempt_phase_seconds_bucket{le=\"30.0\",phase=\"connect\"}"), 0.0);
    assert_eq!(after.of("attempt_phase_seconds_bucket{le=\"100.0\",phase=\"connect\"}"), 1.0);
    daemon.stop().await;
    assert!(!scraped(&daemon).await.has("queue_messages"), "a queue that cannot be read is not an empty one");
}

#[tokio::test(start_paused = true)]
async fn an_open_session_is_counted_until_it_ends() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "[sending]\nkeep_idle = \"1h\"\n");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert_eq!(scraped(&daemon).await.of("sessions_open"), 1.0);
    net.open_sessions().wait_for(|open| *open == 0).await.unwrap();
    assert_eq!(scraped(&daemon).await.of("sessions_open"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn lookups_are_told_by_what_answered_them() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    let first = scraped(&daemon).await;
    let queries = "dns_lookups_total{answered=\"query\"}";
    assert_eq!(first.of("dns_lookups_total{answered=\"memory\"}"), 0.0);
    assert!(first.of(queries) >= 2.0 && first.of("dns_cache_entries") == first.of(queries), "MX and addresses");
    daemon.drop_message("two", &["a@x.test"]);
    daemon.wait_for("finished", 2).await;
    let second = scraped(&daemon).await;
    assert_eq!(second.of(queries), first.of(queries));
    assert!(second.of("dns_lookups_total{answered=\"memory\"}") >= 2.0);
    assert_eq!((second.of("dns_cache_size"), second.of("dns_stale_answers_total")), (1000.0, 0.0));
    // A reload keeps what was counted.
    let config = daemon.config("[sending]\nworkers = 3\n");
    daemon.reloads.send(config).await.unwrap();
    daemon.wait_for("configuration reloaded", 1).await;
    daemon.drop_message("three", &["a@x.test"]);
    daemon.wait_for("finished", 3).await;
    let third = scraped(&daemon).await;
    assert_eq!((third.of("workers"), third.of(&outcomes("delivered", "2xx"))), (3.0, 3.0));
    assert!(third.of("sent_bytes_total") > second.of("sent_bytes_total"));
    assert_eq!(third.of(queries), first.of(queries));
}

#[tokio::test(start_paused = true)]
async fn a_report_is_a_message_of_the_daemons_own() {
    let net = world();
    let mut daemon = Daemon::start(&net, CONFIGURATION);
    daemon.drop_message("m", &["a@never.test"]);
    daemon.wait_for("finished", 2).await;
    let seen = scraped(&daemon).await;
    assert_eq!((seen.of("reports_written_total"), seen.of("messages_accepted_total{origin=\"report\"}")), (1.0, 1.0));
    assert_eq!((seen.of("messages_finished_total"), seen.of(&outcomes("delivered", "2xx"))), (2.0, 1.0));
}

#[tokio::test]
async fn what_a_crash_left_in_doubt_is_counted_at_the_start() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Slow(Duration::from_secs(3600)));
    let mut daemon = Daemon::start_in_real_time(&net, "");
    daemon.drop_message("m", &["a@x.test"]);
    let ended = async {
        // The note of it is written before the end of the content leaves.
        while daemon.metrics().await.lines().all(|line| line != "smtp_direct_queue_copies{state=\"sending\"} 1") {
            tokio::task::yield_now().await;
        }
    };
    daemon_has_metrics(&daemon).await;
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    daemon.kill().await;
    std::fs::remove_dir_all(daemon.layout.journal()).unwrap();
    net.becomes("192.0.2.1", friendly());
    daemon.resume();
    daemon.wait_for("finished", 1).await;
    let seen = scraped(&daemon).await;
    assert_eq!((seen.of("recipients_in_doubt_total"), seen.of(&outcomes("deferred", "none"))), (1.0, 1.0));
    assert_eq!((seen.of(&outcomes("delivered", "2xx")), seen.of("messages_accepted_total{origin=\"drop\"}")), (1.0, 0.0));
    daemon.stop().await;
}

async fn daemon_has_metrics(daemon: &Daemon) {
    let there = async {
        while !daemon.is_up() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), there).await.unwrap();
}

/// Messages by the domains of their recipients, and at how many ends of messages the daemon is stopped.
fn plans() -> impl Strategy<Value = (Vec<Vec<usize>>, usize)> {
    let message = prop::collection::vec(0..DOMAINS.len(), 1..4);
    (prop::collection::vec(message, 1..7), 0..7usize)
}

#[test]
fn figures_log_and_store_agree_wherever_it_is_stopped() {
    let mut runner = TestRunner::new(Cases { cases: 24, failure_persistence: None, ..Cases::default() });
    let all = Cell::new(0.0);
    runner
        .run(&plans(), |(messages, until)| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            all.set(all.get() + runtime.block_on(agree(messages, until)));
            Ok(())
        })
        .unwrap();
    assert!(all.get() > 50.0, "many outcomes: {}", all.get());
}

/// Delivers, stops at some point, compares. Hands on how many outcomes there were.
async fn agree(messages: Vec<Vec<usize>>, until: usize) -> f64 {
    let net = world();
    let mut daemon = Daemon::start(&net, CONFIGURATION);
    for (number, domains) in messages.iter().enumerate() {
        let recipients: Vec<String> = domains.iter().enumerate().map(|(i, domain)| format!("u{i}@{}", DOMAINS[*domain])).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        daemon.drop_message(&format!("m{number}"), &recipients);
    }
    daemon.wait_for("accepted", messages.len()).await;
    let held = |domains: &&Vec<usize>| domains.iter().any(|domain| DOMAINS[*domain] == "held.test");
    let that_end = messages.iter().filter(|domains| !held(domains)).count();
    daemon.wait_for("finished", until.min(that_end)).await;
    daemon.stop().await;
    let seen = scraped(&daemon).await;
    let logged = |daemon: &mut Daemon, verb| daemon.seen(verb).len() as f64;

    for verb in ["delivered", "deferred", "failed", "discarded"] {
        let counted = seen.sum("recipient_outcomes_total", &format!("outcome=\"{verb}\""));
        assert_eq!(counted, logged(&mut daemon, verb), "{verb}");
    }
    for (code, digit) in [("4xx", '4'), ("5xx", '5'), ("none", '0')] {
        let events = [daemon.seen("deferred"), daemon.seen("failed"), daemon.seen("discarded")].concat();
        let logged = events.iter().filter(|event| event.field("code").chars().next().unwrap_or('0') == digit).count();
        assert_eq!(seen.sum("recipient_outcomes_total", &format!("code=\"{code}\"")), logged as f64, "{code}");
    }
    assert_eq!(seen.of("recipients_in_doubt_total"), logged(&mut daemon, "in_doubt"));
    assert_eq!(seen.sum("messages_accepted_total", ""), logged(&mut daemon, "accepted"));
    assert_eq!(seen.of("messages_finished_total"), logged(&mut daemon, "finished"));
    assert_eq!(seen.of("sessions_open"), 0.0);

    let inspect = daemon.inspect();
    let history = inspect.history(&HistoryFilter::default()).unwrap();
    let of_kind = |kind| history.iter().filter(|row| row.outcome.kind == kind).count() as f64;
    let counted = |outcome: &str| seen.sum("recipient_outcomes_total", &format!("outcome=\"{outcome}\""));
    assert_eq!(counted("delivered"), of_kind(Kind::Delivered));
    assert_eq!(counted("failed") + counted("discarded"), of_kind(Kind::Failed));
    let open = inspect.counts(smtp_direct::clock::Timestamp::now()).unwrap();
    assert_eq!(seen.sum("messages_accepted_total", ""), seen.of("messages_finished_total") + open.messages as f64);
    let waiting: usize = inspect.list(&ListFilter::default()).unwrap().iter().map(|row| row.recipients.len()).sum();
    assert_eq!(open.recipients, waiting as u64);
    seen.sum("recipient_outcomes_total", "")
}

/// An administrator's orders, and the text as it goes over the control socket.
#[tokio::test(start_paused = true)]
async fn the_control_socket_hands_them_on() {
    let net = world();
    let mut daemon = Daemon::start(&net, CONFIGURATION);
    daemon.drop_message("one", &["a@held.test", "b@held.test"]);
    daemon.drop_from("two", "", &["c@held.test"]);
    let held = daemon.wait_for("held", 2).await;
    let client = Client::new(daemon.layout.root().join("control.sock"));
    let two = held.iter().find(|event| event.field("to") == "1").unwrap().field("id").to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let order = |action: &str, body: &str| client.request("POST", &format!("/v1/queue/{action}"), body.as_bytes()).unwrap();
        assert_eq!(order("remove", &format!("{{\"ids\":[{two:?}]}}")).0, 200);
        assert_eq!(order("bounce", "{\"all\":true}").0, 200);
    });
    asked.await.unwrap();
    // Both, and the report of the one that was given back.
    daemon.wait_for("finished", 3).await;
    let client = Client::new(daemon.layout.root().join("control.sock"));
    let (status, body) = tokio::task::spawn_blocking(move || client.request("GET", "/metrics", b"").unwrap()).await.unwrap();
    assert_eq!(status, 200);
    let seen = Scrape::parse(&String::from_utf8(body).unwrap());
    assert_eq!((seen.of(&outcomes("removed", "none")), seen.of(&outcomes("bounced", "none"))), (1.0, 2.0));
    assert_eq!((seen.sum("recipient_outcomes_total", ""), seen.of("messages_finished_total")), (4.0, 3.0));
    assert_eq!(seen.shape(), scraped(&daemon).await.shape());
    daemon.stop().await;
    let history = daemon.inspect().history(&HistoryFilter::default()).unwrap();
    assert_eq!(history.iter().filter(|row| row.outcome.kind == Kind::Failed).count(), 3);
}

// What is written about them.

const README: &str = include_str!("../README.md");
const SAMPLE: &str = include_str!("interop/metrics.txt");

/// A scrape with everything in it that there can be.
async fn whole() -> String {
    let net = world();
    let mut daemon = Daemon::start(&net, CONFIGURATION);
    daemon.drop_from("m", "", &["a@good.test", "a@down.test"]);
    daemon.wait_for("delivered", 1).await;
    daemon.wait_for("deferred", 1).await;
    let text = daemon.metrics().await;
    daemon.stop().await;
    text
}

/// The README's table.
fn table(scrape: &Scrape) -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in &scrape.families {
        let shown = |(label, values): &(String, Vec<String>)| {
            let values = if OPEN.contains(&label.as_str()) { String::new() } else { format!(": {}", values.join(", ")) };
            format!("`{label}`{values}")
        };
        let labels: Vec<String> = family.labels.iter().map(shown).collect();
        writeln!(table, "| `{}` | {} | {} | {} |", family.name, family.kind, labels.join("; "), family.help).unwrap();
    }
    table
}

#[tokio::test(start_paused = true)]
async fn the_readme_lists_them_all_as_they_are() {
    let expected = table(&Scrape::parse(&whole().await));
    assert!(README.contains(&expected), "the README's table of metrics is to be:\n{expected}");
}

/// The sample is what Prometheus' own linter is given (`tests/interop/test_metrics.py`).
#[tokio::test(start_paused = true)]
async fn the_sample_is_what_is_written_today() {
    let text = whole().await;
    assert!(Scrape::parse(SAMPLE).shape() == Scrape::parse(&text).shape(), "the sample is to be:\n{text}");
}

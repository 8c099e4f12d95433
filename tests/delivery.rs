//! The whole way of a message, from the drop directory to the mail servers of its recipients' domains, and what is known of it afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::Daemon;
use net::{Host, Net, answers, answers_at_first, friendly};
use smtp_direct::outcome::Kind;
use smtp_direct::queue::{CopyState, HistoryFilter, Inspect, ListFilter};
use tokio::sync::watch;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rcpts(net: &Net) -> Vec<(IpAddr, Vec<String>)> {
    let mut all: Vec<_> = net.transactions().into_iter().map(|transaction| (transaction.ip, transaction.rcpts)).collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn one_copy_per_domain_at_the_right_hosts_in_preference_order() {
    let net = Net::default();
    net.mx("x.test", &[(20, "backup.x.test"), (10, "mx.x.test")])
        .host("mx.x.test", "192.0.2.1", friendly())
        .host("backup.x.test", "192.0.2.2", friendly())
        .mx("y.test", &[(10, "down.y.test"), (20, "mx.y.test")])
        .host("down.y.test", "192.0.2.3", Host::Refuses)
        .host("mx.y.test", "192.0.2.4", friendly())
        .host("z.test", "192.0.2.5", friendly())
        .mx_fails("z.test", smtp_direct::route::LookupError::NoData { negative_ttl: Some(Duration::from_secs(60)) });
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test", "b@X.test", "c@y.test", "d@z.test"]);
    daemon.wait_for("finished", 1).await;

    assert_eq!(
        rcpts(&net),
        [
            (ip("192.0.2.1"), vec!["a@x.test".to_owned(), "b@x.test".to_owned()]),
            (ip("192.0.2.4"), vec!["c@y.test".to_owned()]),
            (ip("192.0.2.5"), vec!["d@z.test".to_owned()]),
        ]
    );
    assert_eq!(daemon.seen("delivered").len(), 4);
    let mut dialled: Vec<String> = net.dialled().iter().map(ToString::to_string).collect();
    dialled.sort();
    assert_eq!(dialled, ["192.0.2.1:25", "192.0.2.3:25", "192.0.2.4:25", "192.0.2.5:25"], "the backup of x is not needed");
    let history = daemon.inspect().history(&HistoryFilter::default()).unwrap();
    assert_eq!(history.len(), 4);
    daemon.stop().await;
    assert!(daemon.names(&daemon.layout.drop()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_override_takes_a_domain_elsewhere_and_logs_in() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1").domain("y.test", "192.0.2.2").host("relay.isp.test", "192.0.2.9", friendly());
    let mut daemon = Daemon::start(
        &net,
        r#"
        [[dns.override]]
        domain = "y.test"
        server = "relay.isp.test:587"
        tls = "none"
        username = "joe"
        password = "secret"
        auth_in_clear = true
        "#,
    );
    daemon.drop_message("m", &["a@x.test", "c@y.test"]);
    daemon.wait_for("finished", 1).await;
    let transactions = net.transactions();
    let of_y = transactions.iter().find(|transaction| transaction.rcpts == ["c@y.test"]).unwrap();
    assert_eq!((of_y.ip, of_y.login.as_deref()), (ip("192.0.2.9"), Some("AUTH PLAIN AGpvZQBzZWNyZXQ=")));
    assert!(net.dialled().contains(&"192.0.2.9:587".parse().unwrap()));
    let of_x = transactions.iter().find(|transaction| transaction.rcpts == ["a@x.test"]).unwrap();
    assert_eq!(of_x.login, None);
    assert!(!format!("{:?}", daemon.log).contains("secret"));
    assert_eq!(net.mx_queries("y.test"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_message_asks_dns_nothing() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    daemon.drop_message("two", &["a@x.test"]);
    daemon.wait_for("finished", 2).await;
    assert_eq!(net.mx_queries("x.test"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_is_reported_and_the_others_are_delivered() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        answers("RCPT TO:<NOBODY@", "550 5.1.1 no such user"),
    );
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test", "nobody@x.test"]);
    daemon.wait_for("finished", 2).await;
    let failed = daemon.seen("failed");
    assert_eq!((failed.len(), failed[0].field("to"), failed[0].field("dsn")), (1, "nobody@x.test", "5.1.1"));
    let transactions = net.transactions();
    let report = transactions.iter().find(|transaction| transaction.ip == ip("192.0.2.8")).unwrap();
    assert_eq!((report.mail.as_str(), &report.rcpts[..]), ("", &["alice@sender.test".to_owned()][..]));
    let text = String::from_utf8(report.data.clone()).unwrap();
    for expected in
        ["multipart/report", "Final-Recipient: rfc822; nobody@x.test", "Action: failed", "Status: 5.1.1", "550 5.1.1 no such user"]
    {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("a@x.test"), "a was delivered to");
}

#[tokio::test(start_paused = true)]
async fn one_report_for_all_that_fails_in_a_round() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8");
    for (domain, address) in [("x.test", "192.0.2.1"), ("y.test", "192.0.2.2"), ("z.test", "192.0.2.3")] {
        net.mx(domain, &[(10, "mx")]).mx(domain, &[(10, &format!("mx.{domain}"))]);
        net.host(&format!("mx.{domain}"), address, answers("RCPT", "550 5.1.1 no"));
    }
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test", "b@y.test", "c@z.test", "d@gone.test"]);
    daemon.wait_for("finished", 2).await;
    let transactions = net.transactions();
    assert_eq!(transactions.len(), 1, "one report");
    let text = String::from_utf8(transactions[0].data.clone()).unwrap();
    assert_eq!(text.matches("Final-Recipient:").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn greylisting_is_waited_out() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        answers_at_first(2, "RCPT", "451 4.7.1 greylisted, try again in 20 minutes"),
    );
    let mut daemon = Daemon::start(&net, "");
    let began = tokio::time::Instant::now();
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert_eq!(daemon.seen("deferred").len(), 2);
    assert_eq!(daemon.seen("delivered")[0].field("attempt"), "3");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(40 * 60) && waited < Duration::from_secs(45 * 60), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn delay_is_told_once_and_expiry_returns_the_message() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        answers("RCPT", "452 4.2.2 mailbox full"),
    );
    let mut daemon = Daemon::start(&net, "[retry]\nlifetime = \"2d\"\nwarn_after = \"4h\"\n");
    let began = tokio::time::Instant::now();
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("finished", 3).await;
    let reports: Vec<String> = net.transactions().iter().map(|report| String::from_utf8(report.data.clone()).unwrap()).collect();
    assert_eq!(reports.len(), 2);
    assert!(reports[0].contains("Action: delayed") && reports[0].contains("Will-Retry-Until:"), "{}", reports[0]);
    assert!(reports[1].contains("Action: failed") && reports[1].contains("Status: 4.4.7"), "{}", reports[1]);
    assert!(reports[1].contains("452 4.2.2 mailbox full"), "the last reply is in the report");
    let days = began.elapsed().as_secs_f64() / 86_400.0;
    assert!((1.99..2.1).contains(&days), "{days}");
    assert_eq!(daemon.seen("expired").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_fails_is_kept_and_begets_none() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")])
        .host("mx.x.test", "192.0.2.1", answers("RCPT", "550 5.1.1 no such user"))
        .mx("sender.test", &[(10, "mx.sender.test")])
        .host("mx.sender.test", "192.0.2.8", answers("RCPT TO:<ALICE", "550 5.1.1 no such user either"));
    let mut daemon = Daemon::start(&net, "[reports]\npostmaster = \"postmaster@sender.test\"\n");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("finished", 3).await;
    let kept = daemon.names(&daemon.layout.failed());
    assert_eq!(kept.len(), 2, "{kept:?}");
    let transactions = net.transactions();
    assert_eq!((transactions.len(), &transactions[0].rcpts[..]), (1, &["postmaster@sender.test".to_owned()][..]));
    assert_eq!(transactions[0].mail, "");
}

#[tokio::test(start_paused = true)]
async fn permanent_dns_answers_fail_at_once_with_nothing_dialled() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("null.test", &[(0, "")]).mx("loop.test", &[(10, "mail.sender.test")]);
    net.host("mail.sender.test", "192.0.2.77", friendly());
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@gone.test", "b@null.test", "c@loop.test", "d@[127.0.0.1]"]);
    daemon.wait_for("finished", 2).await;
    let mut codes: Vec<(String, String)> =
        daemon.seen("failed").iter().map(|event| (event.field("to").to_owned(), event.field("dsn").to_owned())).collect();
    codes.sort();
    let expected = [("a@gone.test", "5.1.2"), ("b@null.test", "5.1.10"), ("c@loop.test", "5.4.6"), ("d@[127.0.0.1]", "5.4.4")];
    assert_eq!(codes, expected.map(|(to, code)| (to.to_owned(), code.to_owned())));
    assert_eq!(net.dialled().len(), 1, "only the report");
}

#[tokio::test(start_paused = true)]
async fn a_dns_failure_defers_and_waits_longer_each_time() {
    let net = Net::default();
    net.mx_servfail("x.test");
    let mut daemon = Daemon::start(&net, "[retry]\nschedule = [\"10m\", \"1h\"]\n");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    assert_eq!(daemon.seen("deferred")[0].field("dsn"), "4.4.3");
    let began = tokio::time::Instant::now();
    daemon.wait_for("deferred", 3).await;
    let waited = began.elapsed().as_secs();
    assert!((63 * 60..=78 * 60).contains(&waited), "10 min and 1 h, ±10 %: {waited} s");
    net.domain("x.test", "192.0.2.1");
    daemon.wait_for("finished", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_down_is_not_tried_copy_by_copy() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[sending]\nper_site = 1\n");
    for n in 0..20 {
        daemon.drop_message(&format!("m{n}"), &[&format!("a{n}@x.test")]);
    }
    daemon.wait_for("deferred", 20).await;
    assert!(net.dialled().len() <= 2, "{:?}", net.dialled());
    net.becomes("192.0.2.1", friendly());
    daemon.wait_for("finished", 20).await;
    assert_eq!(net.transactions().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn one_copy_looks_whether_a_site_is_back_whatever_it_may_have() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[sending]\nper_site = 10\nworkers = 20\n[retry]\nschedule = [\"10m\"]\n");
    daemon.drop_message("first", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    for n in 0..30 {
        daemon.drop_message(&format!("m{n}"), &[&format!("a{n}@x.test")]);
    }
    daemon.wait_for("deferred", 31).await;
    let before = net.dialled().len();
    // Every copy is due again when the site may be looked at; each look is one connection that is refused.
    daemon.wait_for("site is down", 4).await;
    let looks = net.dialled().len() - before;
    assert!(before <= 2 && looks <= 3, "{before} at first, {looks} looks");
}

/// From here on outcomes cannot be recorded, until [`records_again`].
fn records_nothing(daemon: &Daemon) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(daemon.layout.database()).unwrap();
    database.execute_batch("CREATE TRIGGER none BEFORE UPDATE ON recipients BEGIN SELECT RAISE(ABORT, 'not now'); END").unwrap();
    database
}

fn records_again(database: rusqlite::Connection) {
    database.execute_batch("DROP TRIGGER none").unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_in_doubt_is_told_before_it_is_recorded_and_once() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", answers_at_first(1, ".", "CLOSE"));
    let mut daemon = Daemon::start(&net, "");
    daemon.wait_for("started", 1).await;
    let database = records_nothing(&daemon);
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("in_doubt", 1).await;
    assert!(daemon.seen("deferred").is_empty());
    records_again(database);
    daemon.wait_for("deferred", 1).await;
    assert_eq!(daemon.seen("in_doubt").len(), 1);
    daemon.wait_for("finished", 1).await;
}

#[tokio::test(start_paused = true)]
async fn final_dot_without_an_answer_is_in_doubt_and_not_tried_elsewhere_at_once() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx1.x.test"), (20, "mx2.x.test")]).host("mx1.x.test", "192.0.2.1", answers_at_first(1, ".", "CLOSE")).host(
        "mx2.x.test",
        "192.0.2.2",
        friendly(),
    );
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    assert_eq!(daemon.seen("in_doubt").len(), 1);
    let listed = daemon.inspect().list(&ListFilter::default()).unwrap();
    assert!(listed[0].in_doubt);
    assert_eq!(net.dialled().len(), 1, "not tried elsewhere at once");
    daemon.wait_for("finished", 1).await;
}

#[tokio::test(start_paused = true)]
async fn temporary_refusals_go_to_the_next_address() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx1.x.test"), (20, "mx2.x.test")])
        .host("mx1.x.test", "192.0.2.1", answers("RCPT TO:<B@", "450 4.2.0 busy"))
        .host("mx2.x.test", "192.0.2.2", friendly());
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test", "b@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert_eq!(rcpts(&net), [(ip("192.0.2.1"), vec!["a@x.test".to_owned()]), (ip("192.0.2.2"), vec!["b@x.test".to_owned()])]);
    assert!(daemon.seen("deferred").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_for_the_next_copy_of_the_site() {
    let net = Net::default();
    // Two domains with the same servers are one site.
    net.mx("x.test", &[(10, "mx.shared.test")]).mx("y.test", &[(5, "mx.shared.test")]).host("mx.shared.test", "192.0.2.1", friendly());
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 1\nmessages_per_connection = 30\n");
    for n in 0..60 {
        let domain = if n % 2 == 0 { "x.test" } else { "y.test" };
        daemon.drop_message(&format!("m{n}"), &[&format!("a@{domain}")]);
    }
    daemon.wait_for("finished", 60).await;
    assert_eq!(net.transactions().len(), 60);
    // The first session may find nothing more to do before the rest was accepted.
    assert!((2..=4).contains(&net.dialled().len()), "{}", net.dialled().len());
}

#[tokio::test(start_paused = true)]
async fn connect_refused_everywhere_defers_4_4_1_and_the_site_is_noted() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx1.x.test"), (20, "mx2.x.test")]).host("mx1.x.test", "192.0.2.1", Host::Refuses).host(
        "mx2.x.test",
        "192.0.2.2",
        Host::Refuses,
    );
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test"]);
    let deferred = daemon.wait_for("deferred", 1).await;
    assert_eq!(deferred[0].field("dsn"), "4.4.1");
    assert_eq!(net.dialled().len(), 2, "each address once");
    assert_eq!(daemon.seen("site is down").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn max_sessions_counts_only_what_got_past_the_greeting() {
    let net = Net::default();
    net.mx(
        "x.test",
        &[(10, "mx1.x.test"), (20, "mx2.x.test"), (30, "mx3.x.test"), (40, "mx4.x.test"), (50, "mx5.x.test"), (60, "mx6.x.test")],
    )
    .host("mx1.x.test", "192.0.2.1", Host::Refuses)
    .host("mx2.x.test", "192.0.2.2", answers("CONNECT", "554 5.3.2 not today"))
    .host("mx3.x.test", "192.0.2.3", answers("RCPT", "450 4.2.0 busy"))
    .host("mx4.x.test", "192.0.2.4", answers("RCPT", "450 4.2.0 busy too"))
    .host("mx5.x.test", "192.0.2.5", friendly())
    .host("mx6.x.test", "192.0.2.6", friendly());
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    let dialled: Vec<IpAddr> = net.dialled().iter().map(|address| address.ip()).collect();
    assert_eq!(dialled, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(ip), "two sessions, and the fifth address is not needed");
}

#[tokio::test(start_paused = true)]
async fn max_addresses_are_tried_and_no_more() {
    let net = Net::default();
    let hosts: Vec<String> = (1..=7).map(|n| format!("mx{n}.x.test")).collect();
    net.mx("x.test", &hosts.iter().zip(1..).map(|(host, preference)| (preference, host.as_str())).collect::<Vec<_>>());
    for (n, host) in (1..).zip(&hosts) {
        net.host(host, &format!("192.0.2.{n}"), Host::Refuses);
    }
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    assert_eq!(net.dialled().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn recipients_beyond_mailmax_go_in_new_sessions_to_the_same_host() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        answers("EHLO", "250-mx.test\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=1 RCPTMAX=2"),
    );
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("m", &["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test", "f@x.test", "g@x.test"]);
    daemon.wait_for("finished", 1).await;
    let sizes: Vec<usize> = net.transactions().iter().map(|transaction| transaction.rcpts.len()).collect();
    assert_eq!(sizes, [2, 2, 2, 1]);
    assert!(daemon.seen("deferred").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_puts_everything_off_is_not_asked_again_and_again_because_of_mailmax() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        Host::Answers(Arc::new(|line| match line.split(' ').next() {
            Some("EHLO") => Some("250-mx.test\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=1 RCPTMAX=1".to_owned()),
            Some("RCPT") => Some("450 4.2.0 later".to_owned()),
            _ => None,
        })),
    );
    let mut daemon = Daemon::start(&net, "[retry]\nlifetime = \"1m\"\n");
    daemon.drop_message("m", &["a@x.test", "b@x.test", "c@x.test"]);
    daemon.wait_for("deferred", 3).await;
    assert_eq!(net.dialled().len(), 3, "each recipient was asked for once");
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_defers_and_is_told_once_a_minute() {
    let net = Net::default();
    net.host("relay.test", "192.0.2.9", answers("AUTH", "535 5.7.8 no"));
    let mut daemon = Daemon::start(
        &net,
        "[[dns.override]]\ndomain = \"*\"\nserver = \"relay.test\"\ntls = \"none\"\nusername = \"joe\"\npassword = \"secret\"\nauth_in_clear = true\n",
    );
    for n in 0..5 {
        daemon.drop_message(&format!("m{n}"), &["a@x.test"]);
    }
    daemon.wait_for("deferred", 5).await;
    assert!(daemon.seen("deferred").iter().all(|event| event.field("dsn") == "4.7.8"));
    assert_eq!(daemon.seen("a login failed: mail is deferred until its override is put right").len(), 1);
    assert!(!format!("{:?}", daemon.log).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_that_the_peer_closed_costs_nothing() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]);
    // From the second transaction of a session on, MAIL is answered 421.
    let mails = std::sync::Mutex::new(0);
    net.host(
        "mx.x.test",
        "192.0.2.1",
        Host::Answers(Arc::new(move |line| {
            if line.starts_with("MAIL") {
                let mut mails = mails.lock().unwrap();
                *mails += 1;
                return (*mails % 2 == 0).then(|| "421 4.7.0 enough".to_owned());
            }
            None
        })),
    );
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 1\n");
    for n in 0..6 {
        daemon.drop_message(&format!("m{n}"), &["a@x.test"]);
    }
    daemon.wait_for("finished", 6).await;
    assert!(daemon.seen("deferred").is_empty(), "{:?}", daemon.seen("deferred"));
}

#[tokio::test]
async fn one_site_that_never_answers_does_not_slow_the_others() {
    let net = Net::default();
    net.mx("slow.test", &[(10, "mx.slow.test")]).host("mx.slow.test", "192.0.2.1", Host::Silent);
    for n in 0..100 {
        net.domain(&format!("d{n}.test"), &format!("198.51.100.{n}"));
    }
    let mut daemon = Daemon::start_in_real_time(&net, "[sending]\nworkers = 10\nshutdown_grace = \"0s\"\n");
    for n in 0..50 {
        daemon.drop_message(&format!("slow{n}"), &[&format!("a{n}@slow.test")]);
    }
    for n in 0..100 {
        daemon.drop_message(&format!("m{n}"), &[&format!("a@d{n}.test")]);
    }
    // Time is real here: the silent site would hold its sessions for five minutes.
    daemon.wait_for("finished", 100).await;
    assert_eq!(net.transactions().len(), 100);
    daemon.stop().await;
}

#[tokio::test]
async fn two_hundred_workers_hold_two_hundred_slow_sessions_at_once() {
    let net = Net::default();
    let (open, gate) = watch::channel(false);
    for n in 0..200 {
        let (domain, address) = (format!("d{n}.test"), format!("198.51.100.{n}"));
        net.mx(&domain, &[(10, &format!("mx.{domain}"))]).host(&format!("mx.{domain}"), &address, Host::Gate(gate.clone()));
    }
    let mut daemon = Daemon::start_in_real_time(&net, "[sending]\nworkers = 200\n");
    let mut sessions = net.open_sessions();
    let recipients: Vec<String> = (0..200).map(|n| format!("a@d{n}.test")).collect();
    daemon.drop_message("m", &recipients.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::time::timeout(Duration::from_secs(30), sessions.wait_for(|open| *open == 200)).await.unwrap().unwrap();
    open.send_replace(true);
    daemon.wait_for("finished", 1).await;
    assert_eq!((net.transactions().len(), net.peak_sessions()), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn a_hold_keeps_a_reject_returns_a_discard_drops() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(
        &net,
        r#"
        [[dns.override]]
        domain = "held.test"
        action = "hold"
        reason = "moving house"
        [[dns.override]]
        domain = "rejected.test"
        action = "reject"
        reason = "we do not write to them"
        [[dns.override]]
        domain = "discarded.test"
        action = "discard"
        "#,
    );
    daemon.drop_message("held", &["a@held.test"]);
    daemon.drop_message("rejected", &["a@rejected.test"]);
    daemon.drop_message("discarded", &["a@discarded.test"]);
    // The rejected one, its report, the discarded one.
    daemon.wait_for("finished", 3).await;
    assert_eq!(daemon.seen("held")[0].field("reason"), "moving house");
    assert_eq!(daemon.seen("discarded").len(), 1);
    let transactions = net.transactions();
    assert_eq!(transactions.len(), 1);
    assert!(String::from_utf8_lossy(&transactions[0].data).contains("we do not write to them"));
    let listed = daemon.inspect().list(&ListFilter::default()).unwrap();
    assert_eq!((listed.len(), listed[0].last.as_deref()), (1, Some("moving house")));
}

#[tokio::test(start_paused = true)]
async fn recipients_under_different_overrides_go_different_ways() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1").host("private.test", "192.0.2.9", friendly());
    let mut daemon = Daemon::start(
        &net,
        r#"
        [[dns.override]]
        recipient = "boss@x.test"
        server = "private.test"
        tls = "none"
        "#,
    );
    daemon.drop_message("m", &["a@x.test", "boss@x.test", "b@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert_eq!(
        rcpts(&net),
        [(ip("192.0.2.1"), vec!["a@x.test".to_owned(), "b@x.test".to_owned()]), (ip("192.0.2.9"), vec!["boss@x.test".to_owned()])]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_routes_and_a_stop_loses_nothing() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1").host("relay.test", "192.0.2.9", friendly());
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    let changed = daemon.config("[[dns.override]]\ndomain = \"*\"\nserver = \"relay.test\"\n");
    daemon.reloads.send(changed).await.unwrap();
    daemon.wait_for("configuration reloaded", 1).await;
    daemon.drop_message("two", &["a@x.test"]);
    daemon.wait_for("finished", 2).await;
    daemon.stop().await;
    daemon.drop_message("three", &["a@x.test"]);
    daemon.resume();
    daemon.wait_for("finished", 3).await;
    let ips: Vec<IpAddr> = net.transactions().iter().map(|transaction| transaction.ip).collect();
    assert_eq!(ips, [ip("192.0.2.1"), ip("192.0.2.9"), ip("192.0.2.1")]);
}

#[tokio::test]
async fn what_had_not_left_at_a_kill_is_sent_without_doubt() {
    let net = Net::default();
    let (open, gate) = watch::channel(false);
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Gate(gate)).domain("y.test", "192.0.2.2");
    let mut daemon = Daemon::start_in_real_time(&net, "");
    let mut sessions = net.open_sessions();
    daemon.drop_message("m", &["a@x.test", "b@y.test"]);
    daemon.wait_for("delivered", 1).await;
    tokio::time::timeout(Duration::from_secs(30), sessions.wait_for(|open| *open >= 1)).await.unwrap().unwrap();
    daemon.kill().await;
    open.send_replace(true);
    daemon.resume();
    daemon.wait_for("finished", 1).await;
    assert!(daemon.seen("in_doubt").is_empty());
    assert_eq!(rcpts(&net), [(ip("192.0.2.1"), vec!["a@x.test".to_owned()]), (ip("192.0.2.2"), vec!["b@y.test".to_owned()])]);
}

/// A daemon that was killed when x.test had the content for a@x.test, and had refused c@x.test for now, and had not answered.
async fn killed_in_doubt(net: &Net, configuration: &str) -> Daemon {
    let (has_it, mut had_it) = watch::channel(false);
    let peer = move |line: &str| match line {
        "RCPT TO:<c@x.test>" => Some("450 4.2.1 later".to_owned()),
        "." => {
            has_it.send_replace(true);
            Some("SILENT".to_owned())
        }
        _ => None,
    };
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Answers(Arc::new(peer)));
    let mut daemon = Daemon::start_in_real_time(net, configuration);
    daemon.drop_message("m", &["a@x.test", "c@x.test"]);
    tokio::time::timeout(Duration::from_secs(30), had_it.wait_for(|had_it| *had_it)).await.unwrap().unwrap();
    daemon.kill().await;
    net.host("mx.x.test", "192.0.2.1", friendly());
    daemon
}

#[tokio::test]
async fn who_may_have_got_it_at_a_kill_is_in_doubt_and_sent_to_again() {
    let net = Net::default();
    let mut daemon = killed_in_doubt(&net, "").await;
    daemon.resume();
    daemon.wait_for("finished", 1).await;
    let doubts = daemon.seen("in_doubt");
    assert_eq!((doubts.len(), doubts[0].field("to")), (1, "a@x.test"));
    // What it keeps in queue/ itself is nothing to be warned of.
    assert!(daemon.seen("this file does not belong into the queue's directories: it is left alone").is_empty());
    assert_eq!(rcpts(&net), [(ip("192.0.2.1"), vec!["a@x.test".to_owned(), "c@x.test".to_owned()])]);
    let history = daemon.inspect().history(&HistoryFilter::default()).unwrap();
    let mut twice: Vec<_> = history.iter().map(|row| (row.recipient.to_string(), row.outcome.kind, row.outcome.in_doubt)).collect();
    twice.sort();
    assert_eq!(twice, [("a@x.test".to_owned(), Kind::Delivered, true), ("c@x.test".to_owned(), Kind::Delivered, false)]);
}

#[tokio::test]
async fn who_may_have_got_it_is_told_by_each_start_until_it_is_recorded() {
    let net = Net::default();
    let mut daemon = killed_in_doubt(&net, "").await;
    // This start ends between the lines and the record, as a kill there has it.
    let database = records_nothing(&daemon);
    daemon.resume();
    let failure = daemon.fails().await;
    assert!(failure.to_string().contains("not now"), "{failure}");
    assert_eq!(daemon.seen("in_doubt").len(), 1);
    records_again(database);
    daemon.resume();
    daemon.wait_for("finished", 1).await;
    let doubts: Vec<_> =
        daemon.seen("in_doubt").iter().map(|seen| [seen.field("to").to_owned(), seen.field("attempt").to_owned()]).collect();
    assert_eq!(doubts, [["a@x.test", "1"], ["a@x.test", "1"]]);
    daemon.stop().await;
}

#[tokio::test]
async fn who_may_have_got_it_at_a_kill_can_be_held() {
    let net = Net::default();
    let mut daemon = killed_in_doubt(&net, "[retry]\nin_doubt = \"hold\"\n").await;
    daemon.resume();
    daemon.wait_for("delivered", 1).await;
    assert_eq!((daemon.seen("in_doubt").len(), daemon.seen("held").len()), (1, 1));
    assert_eq!(rcpts(&net), [(ip("192.0.2.1"), vec!["c@x.test".to_owned()])]);
    let left = daemon.inspect().list(&ListFilter::default()).unwrap();
    let left: Vec<_> = left.iter().map(|row| (row.state, row.recipients[0].to_string(), row.in_doubt)).collect();
    assert_eq!(left, [(CopyState::Held, "a@x.test".to_owned(), true)]);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_loops_is_returned() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    let content =
        format!("{}From: a@sender.test\r\n\r\nround and round\r\n", "Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n".repeat(51));
    daemon.drop_with("m", "from = \"alice@sender.test\"\nto = [\"a@x.test\"]\n", &content);
    daemon.wait_for("finished", 2).await;
    assert_eq!(daemon.seen("failed")[0].field("dsn"), "5.4.6");
    assert!(net.transactions().iter().all(|transaction| transaction.ip == ip("192.0.2.8")));
}

#[tokio::test(start_paused = true)]
async fn not_before_is_waited_for_and_expires_is_kept() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1").domain("sender.test", "192.0.2.8").mx_servfail("y.test");
    let mut daemon = Daemon::start(&net, "");
    let began = tokio::time::Instant::now();
    daemon.drop_with("later", "from = \"alice@sender.test\"\nto = [\"a@x.test\"]\nnot_before = \"2h\"\n", "Subject: x\r\n\r\nlater\r\n");
    daemon.wait_for("finished", 1).await;
    assert!(began.elapsed() >= Duration::from_secs(7200 - 1), "{:?}", began.elapsed());
    let began = tokio::time::Instant::now();
    daemon.drop_with("soon", "from = \"alice@sender.test\"\nto = [\"a@y.test\"]\nexpires = \"30m\"\n", "Subject: x\r\n\r\nsoon\r\n");
    daemon.wait_for("expired", 1).await;
    assert!((1799..1900).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// Message files in the queue.
fn files(daemon: &Daemon) -> usize {
    let shards = daemon.names(&daemon.layout.messages());
    shards.iter().map(|shard| daemon.names(&daemon.layout.messages().join(shard)).len()).sum()
}

#[tokio::test(start_paused = true)]
async fn files_of_finished_messages_go_in_a_moment_or_with_the_daemon() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    // More than go together.
    for n in 0..150 {
        daemon.drop_message(&format!("m{n}"), &["a@x.test"]);
    }
    daemon.wait_for("finished", 150).await;
    // Nothing tells when they are gone: longer than they gather, on the test's clock.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(files(&daemon), 0);
    for n in 150..160 {
        daemon.drop_message(&format!("m{n}"), &["a@x.test"]);
    }
    daemon.wait_for("finished", 10).await;
    daemon.stop().await;
    assert_eq!(files(&daemon), 0, "a stop leaves none of them");
}

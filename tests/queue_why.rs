//! `queue why`: its exact words for each kind of trouble, at a fixed time, with the daemon up and down.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/dns.rs"]
mod dns;
#[path = "support/queue.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dns::DnsServer;
use smtp_direct::cli::queue::why::{Question, Sources, run};
use smtp_direct::cli::queue::{self, QueueArgs, QueueCommand};
use smtp_direct::clock::Timestamp;
use smtp_direct::config::{Action, Conditions, Config, InDoubt, Override, Pattern};
use smtp_direct::control::why::{Known, MessageWhy, RouteNow, RoutedBy, why};
use smtp_direct::delivery::live::{Doing, Down, LiveCopy, LiveSite, Obstacle, Place};
use smtp_direct::delivery::why::Daemon;
use smtp_direct::message::{Domain, Envelope, Notify, Priority, ReversePath};
use smtp_direct::outcome::{DnsFault, Fault, Outcome, Phase};
use smtp_direct::queue::{
    AttemptRecord, Cursor, Delays, Haste, Inspect, NewMessage, NextStep, QueuedCopy, ReportAction, Settlement, SqliteInspect, SqliteStore,
    Store,
};
use smtp_direct::route::{Explanation, Part};
use smtp_direct::smtp::Reply;
use smtp_direct::spool::{Layout, Lock};
use support::{Folder, at, attempt, begins, delivered, failed, message, peer, reporting, settlement};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Queue(QueueArgs),
}

/// A spool whose daemon runs as long as `lock` is held.
struct Spool {
    folder: Folder,
    lock: Option<Lock>,
    config: Config,
    /// What a daemon that can be asked knows of every copy.
    live: Option<LiveCopy>,
}

impl Spool {
    /// With the message in it, and what `happens` to its copies.
    fn with<H>(new: Vec<NewMessage>, happens: H) -> Self
    where
        H: FnOnce(&[QueuedCopy]) -> Vec<Settlement>,
    {
        let folder = Folder::new("why");
        let layout = Layout::new(folder.path());
        layout.create().unwrap();
        let lock = Some(layout.lock().unwrap());
        let config = Config::default_for(Domain::parse("mail.example.org").unwrap());
        let spool = Self { folder, lock, config, live: None };
        runtime().block_on(async {
            let store = SqliteStore::open(&spool.database()).unwrap();
            let copies = store.accept(new).await.unwrap();
            let settlements = happens(&copies);
            if !settlements.is_empty() {
                store.settle(settlements.into(), Haste::Now).await.unwrap();
            }
            store.close().await;
        });
        spool
    }

    fn database(&self) -> PathBuf {
        Layout::new(self.folder.path()).database()
    }

    /// At the time 10,000: code, output, errors.
    fn answer(&self, words: &str) -> (ExitCode, String, String) {
        let Command::Queue(QueueArgs { command: Some(QueueCommand::Why(args)), .. }) =
            Line::parse_from(format!("smtp-direct queue why {words}").split(' ')).command
        else {
            panic!("{words}")
        };
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), Vec::new());
        let ask = |question: &Question| self.tells(question);
        let sources = Sources { database: &self.database(), config: Some(&self.config), ask: &ask };
        let code = run(&args, sources, at(10_000), &mut out, &mut err);
        let out = String::from_utf8(out.into_inner()).unwrap();
        (code, out.replace(&format!("pid {}", std::process::id()), "pid 17"), String::from_utf8(err).unwrap())
    }

    /// What the daemon answers, if it can be asked.
    fn tells(&self, question: &Question) -> Result<MessageWhy, String> {
        let live = self.live.as_ref().ok_or("for the test")?;
        let detail = SqliteInspect::open(&self.database()).unwrap().show(question.message).unwrap().unwrap();
        let daemon = Daemon::Running { pid: "17".to_owned() };
        let known = Known { now: at(10_000), daemon: &daemon, config: Some(&self.config) };
        let fault = Fault::Dns { name: "one.example".to_owned(), fault: DnsFault::NotAsked };
        let explanation = Explanation { parts: vec![Part { recipients: vec![0], decision: Err(fault) }], steps: vec![] };
        let route = RouteNow::Told { explanation, by: RoutedBy::Daemon, asked_dns: question.dns };
        let copies = detail.copies.iter().map(|copy| why((&detail, copy), known, &route, Some(live))).collect();
        Ok(MessageWhy { id: question.message.to_string(), finished_at: None, copies })
    }

    /// Of a command that works, without asking DNS.
    fn why(&self, words: &str) -> String {
        let (code, out, err) = self.answer(&format!("--no-dns {words}"));
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""), "{words}");
        for line in out.lines().filter(|_| !words.contains("--json")) {
            assert!(line.chars().count() <= 100 && line.trim_end() == line, "{line:?}");
        }
        out
    }

    /// Of the first message, all but what every message has.
    fn first(&self) -> String {
        let out = self.why(&message(1, &[]).id.to_string());
        let (heading, copies) = out.split_once("\n\n").unwrap();
        let heading: Vec<&str> = heading.lines().collect();
        assert_eq!(heading[0], "Message 01M3250VZ80000000000000001");
        assert_eq!(heading[1].split_whitespace().next(), Some("From"));
        assert_eq!(heading[2], "  Accepted    2026-09-21 14:13:21Z (2h ago) from 1.eml, 2.2 KiB");
        copies.to_owned()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn joe() -> Vec<NewMessage> {
    vec![message(1, &["joe@one.example"])]
}

/// One attempt that said `fault`, and what it led to.
fn attempted(copy: &QueuedCopy, fault: &Fault, next: NextStep, end: Timestamp) -> Settlement {
    let line = format!("mx1.example.com [192.0.2.25]:25: {fault}");
    let record = AttemptRecord { trail: vec![line], ..attempt(copy.attempts + 1, end) };
    Settlement { attempt: Some(record), ..settlement(copy, &Outcome::of(fault, Some(peer())), next, end) }
}

fn refused(phase: Phase, code: u16, text: &str) -> Fault {
    Fault::Reply { phase, reply: Reply::new(code, text) }
}

/// When the first attempt ended, and when the second is due.
const ENDED: i64 = 9_900;
const DUE: i64 = 10_300;

fn retry() -> NextStep {
    NextStep::Retry(at(DUE))
}

/// One copy whose first attempt said `fault`, and is tried again.
fn put_off(fault: &Fault) -> Spool {
    Spool::with(joe(), |copies| vec![attempted(&copies[0], fault, retry(), at(ENDED))])
}

/// Of such a copy: how it begins, what the peer is called, and how it ends.
const FAILED_FOR_NOW: &str = "\
Copy to one.example: waits until 2026-09-21 17:05:00Z (in 5m), as attempt 1 failed for now
";
const ATTEMPT: &str = "  \
  Attempt 1, 2026-09-21 16:58:18Z (1m ago)
    queue 0.001s, dns 0.035s, connect 0.120s (TLS handshake 0.045s), transfer 0.310s
    route mx: 10 mx1.example.com:25, 20 mx2.example.com:25
";
const PEER: &str = "      mx1.example.com [192.0.2.25]:25, TLSv1.3 TLS13_AES_256_GCM_SHA384\n";
const BY_MX: &str = "  \
  Route now
    by its MX records; DNS was not asked
";
const SECOND_ATTEMPT: &str = "    \
    2026-09-21 17:05:00Z (in 5m): attempt 2; if it fails for now too, the next one is about 10m
    later
";
const DELAY_AND_END: &str = "    \
    2026-09-21 18:13:21Z (in 1h): from then on, an attempt that fails for now has alice@example.org
    told of the delay
    2026-09-26 14:13:21Z (in 4d): given up, and alice@example.org gets a failure report
";

/// What is said of [`put_off`] besides the attempt's words and the outcome.
fn put_off_text(beginning: &str, trail: &str, outcome: &str) -> String {
    [beginning, ATTEMPT, trail, "  joe@one.example\n", outcome, BY_MX, "  Next\n", SECOND_ATTEMPT, DELAY_AND_END].concat()
}

fn override_for(domain: &str, line: usize, action: Action) -> Override {
    let conditions = Conditions { domain: vec![Pattern::parse(domain).unwrap()], ..Conditions::default() };
    Override { line, conditions, action, is_final: false }
}

#[test]
fn greylisted() {
    let spool = put_off(&refused(Phase::Rcpt, 451, "4.7.1 Greylisted\ntry again in 300 seconds"));
    let expected = put_off_text(
        "\
Copy to one.example: waits until 2026-09-21 17:05:00Z (in 5m), as attempt 1 failed for now, and its
peer asked for 5m
",
        "    \
    mx1.example.com [192.0.2.25]:25: RCPT TO was answered 451 4.7.1 Greylisted try again in 300
    seconds
",
        &format!(
            "    deferred 4.7.1 2026-09-21 16:58:20Z (1m ago)\n{PEER}      RCPT TO was answered 451 4.7.1 Greylisted try again in 300 seconds\n"
        ),
    );
    assert_eq!(spool.first(), expected);
    let heading = "\
Message 01M3250VZ80000000000000001
  From        alice@example.org
  Accepted    2026-09-21 14:13:21Z (2h ago) from 1.eml, 2.2 KiB
  Daemon      runs, pid 17, and cannot be asked: for the test

";
    assert_eq!(spool.why("joe@one.example"), format!("{heading}{expected}"), "the same for its recipient");
}

#[test]
fn site_down() {
    let spool = Spool::with(joe(), |copies| {
        let fault = Fault::Connect { detail: "connection refused".to_owned() };
        let untried = Fault::SiteDown { detail: format!("mx1.example.com [192.0.2.25]:25: {fault}") };
        let again = Settlement { attempt: None, ..settlement(&copies[0], &Outcome::of(&untried, None), retry(), at(9_950)) };
        vec![attempted(&copies[0], &fault, NextStep::Retry(at(9_940)), at(ENDED)), again]
    });
    let expected = put_off_text(
        "Copy to one.example: waits until 2026-09-21 17:05:00Z (in 5m), as its site is down\n",
        "    mx1.example.com [192.0.2.25]:25: cannot connect: connection refused\n",
        "    \
    deferred 4.4.1 2026-09-21 16:59:10Z (50s ago)
      site is down since its last failure, not tried: mx1.example.com [192.0.2.25]:25: cannot
      connect: connection refused
",
    );
    assert_eq!(spool.first(), expected);
}

/// An attempt that found no route.
fn without_route(copy: &QueuedCopy, fault: &Fault, next: NextStep) -> Settlement {
    let record = AttemptRecord {
        site: String::new(),
        route: String::new(),
        delays: Delays { dns: Duration::from_secs(5), ..Delays::default() },
        trail: vec![fault.to_string()],
        ..attempt(1, at(ENDED))
    };
    Settlement { attempt: Some(record), ..settlement(copy, &Outcome::of(fault, None), next, at(ENDED)) }
}

const NO_ROUTE: &str = "  \
  Attempt 1, 2026-09-21 16:58:18Z (1m ago)
    queue 0.000s, dns 5.000s, connect 0.000s, transfer 0.000s
";

#[test]
fn dns_fails() {
    let fault = Fault::Dns { name: "one.example".to_owned(), fault: DnsFault::ResponseCode("SERVFAIL".to_owned()) };
    let spool = Spool::with(joe(), |copies| vec![without_route(&copies[0], &fault, retry())]);
    let expected = "    \
    DNS lookup of one.example failed: the resolver answered SERVFAIL
  joe@one.example
    deferred 4.4.3 2026-09-21 16:58:20Z (1m ago)
      DNS lookup of one.example failed: the resolver answered SERVFAIL
";
    let expected = [FAILED_FOR_NOW, NO_ROUTE, expected, BY_MX, "  Next\n", SECOND_ATTEMPT, DELAY_AND_END].concat();
    assert_eq!(spool.first(), expected);
}

#[test]
fn no_such_domain_and_the_report_is_due() {
    let spool = Spool::with(joe(), |copies| {
        vec![reporting(without_route(&copies[0], &Fault::NoSuchDomain, NextStep::Finish), ReportAction::Failed)]
    });
    let expected = "    \
    the domain does not exist
  joe@one.example
    failed 5.1.2 2026-09-21 16:58:20Z (1m ago)
      the domain does not exist
    alice@example.org is to be told: failed
  Next
    a report to alice@example.org is written, within a minute
";
    assert_eq!(spool.first(), ["Copy to one.example: finished\n", NO_ROUTE, expected].concat());
}

#[test]
fn tls_is_required_and_not_offered() {
    let expected = put_off_text(
        FAILED_FOR_NOW,
        "    mx1.example.com [192.0.2.25]:25: TLS is required, and the peer does not offer STARTTLS\n",
        &format!("    deferred 4.7.10 2026-09-21 16:58:20Z (1m ago)\n{PEER}      TLS is required, and the peer does not offer STARTTLS\n"),
    );
    assert_eq!(put_off(&Fault::TlsNotOffered).first(), expected);
}

#[test]
fn login_refused() {
    let expected = put_off_text(
        FAILED_FOR_NOW,
        "    mx1.example.com [192.0.2.25]:25: AUTH was answered 535 5.7.8 Bad credentials\n",
        &format!("    deferred 4.7.8 2026-09-21 16:58:20Z (1m ago)\n{PEER}      AUTH was answered 535 5.7.8 Bad credentials\n"),
    );
    assert_eq!(put_off(&refused(Phase::Auth, 535, "5.7.8 Bad credentials")).first(), expected);
}

#[test]
fn refused_for_good_and_told() {
    let spool = Spool::with(joe(), |copies| {
        vec![attempted(&copies[0], &refused(Phase::Rcpt, 550, "5.1.1 No such user"), NextStep::Finish, at(ENDED))]
    });
    let rest = [
        PEER,
        "      RCPT TO was answered 550 5.1.1 No such user\n    alice@example.org was told: failed\n  Next\n    nothing: all is done\n",
    ];
    let expected = [
        "    mx1.example.com [192.0.2.25]:25: RCPT TO was answered 550 5.1.1 No such user\n",
        "  joe@one.example\n    failed 5.1.1 2026-09-21 16:58:20Z (1m ago)\n",
        &rest.concat(),
    ];
    let out = spool.why(&message(1, &[]).id.to_string());
    assert!(out.contains("\n  Finished    2026-09-21 16:58:20Z (1m ago)\n"), "{out}");
    let (_, copy) = out.split_once("\n\n").unwrap();
    assert_eq!(copy, ["Copy to one.example: finished\n", ATTEMPT, &expected.concat()].concat());
}

fn doubt() -> Fault {
    Fault::InDoubt { how: "the connection was lost".to_owned() }
}

const IN_DOUBT: &str = "    \
    mx1.example.com [192.0.2.25]:25: in doubt: the content was sent in full, then the connection was
    lost; the peer may have the message
";

fn in_doubt_outcome(meaning: &str) -> String {
    [
        "    deferred 4.4.2 2026-09-21 16:58:20Z (1m ago), in doubt: may have arrived\n",
        PEER,
        "      in doubt: the content was sent in full, then the connection was lost; the peer may have the\n      message\n",
        meaning,
    ]
    .concat()
}

#[test]
fn in_doubt_and_sent_again() {
    let outcome = in_doubt_outcome("    it is sent again, and may arrive a second time (retry.in_doubt)\n");
    assert_eq!(put_off(&doubt()).first(), put_off_text(FAILED_FOR_NOW, IN_DOUBT, &outcome));
}

#[test]
fn in_doubt_and_held() {
    let spool =
        Spool::with(joe(), |copies| vec![Settlement { hold_in_doubt: true, ..attempted(&copies[0], &doubt(), retry(), at(ENDED)) }]);
    let outcome = in_doubt_outcome("    whoever releases it decides that it may arrive a second time\n");
    let expected = [
        "Copy to one.example: on hold: in doubt: the peer may have it (retry.in_doubt)\n",
        ATTEMPT,
        IN_DOUBT,
        "  joe@one.example\n",
        &outcome,
        BY_MX,
        RELEASE,
    ];
    assert_eq!(spool.first(), expected.concat());
}

const RELEASE: &str = "  \
  Next
    nothing before it is released (smtp-direct queue release 01M3250VZ80000000000000001), not even
    its expiry
";

#[test]
fn held_by_an_override_that_is_there_and_by_one_that_is_gone() {
    let mut spool = Spool::with(joe(), |copies| {
        let hold = NextStep::Hold { reason: "their new server".to_owned() };
        vec![Settlement { attempt: None, recipients: vec![], ..settlement(&copies[0], &delivered(), hold, at(25)) }]
    });
    let rest = [BY_MX, RELEASE].concat();
    let expected =
        format!("Copy to one.example: on hold by an override that is gone: their new server\n  joe@one.example\n    not tried yet\n{rest}");
    assert_eq!(spool.first(), expected);
    spool.config.dns.overrides = vec![
        override_for("two.example", 3, Action::Reject { reason: "x".to_owned() }),
        override_for("*.example", 9, Action::Hold { reason: "their new server".to_owned() }),
    ];
    let expected = "\
Copy to one.example: on hold by the override at line 9: their new server
  joe@one.example
    not tried yet
  Route now
    it would be held by the override at line 9: their new server
    override at line 3: no match (domain)
    override at line 9: matches
";
    assert_eq!(spool.first(), format!("{expected}{RELEASE}"));
    // Who has many overrides is shown the one that matches.
    spool.config.dns.overrides.push(override_for("three.example", 12, Action::Discard { reason: "x".to_owned() }));
    let two = "2 overrides do not match: smtp-direct route ADDRESS says why";
    let expected = expected.replace("override at line 3: no match (domain)", two);
    assert_eq!(spool.first(), format!("{expected}{RELEASE}"));
}

/// What the daemon tells of the only copy.
fn tells(place: Place) -> Option<LiveCopy> {
    Some(LiveCopy { place, site: Some(LiveSite { site: "1 mx1.example.com:25".to_owned(), down: None }) })
}

fn on_board(obstacle: Obstacle) -> Option<LiveCopy> {
    tells(Place::Board { number: 3, of: 17, obstacle })
}

/// A copy that is due, by what the daemon tells of it, and the first thing that is to happen.
fn due_text(now: &str, first: &str) -> String {
    let beginning = "Copy to one.example: due since 2026-09-21 14:13:21Z (2h ago)\n  joe@one.example\n    not tried yet\n";
    let site = "    its site is 1 mx1.example.com:25\n";
    [beginning, "  Now\n", now, site, BY_MX, "  Next\n", first, DELAY_AND_END].concat()
}

#[test]
fn due_and_waiting_for_what_only_the_daemon_knows() {
    let mut spool = Spool::with(joe(), |_| vec![]);
    let soon = "    as soon as a worker takes it: attempt 1; if it fails for now, the next one is about 5m later\n";
    let later = "    2026-09-21 17:01:00Z (in 1m): attempt 1; if it fails for now, the next one is about 5m later\n";
    let paused = format!("    nothing before the pause of its site is ended, and then:\n{soon}");
    for (live, now, first) in [
        (
            on_board(Obstacle::Rate { until: at(10_060) }),
            "    \
    number 3 of 17 that wait for its site; the site's rate is used up until 2026-09-21 17:01:00Z (in
    1m)
",
            later,
        ),
        (
            on_board(Obstacle::SiteLimit { sessions: 5, limit: 5 }),
            "    number 3 of 17 that wait for its site; the site has 5 of 5 sessions\n",
            soon,
        ),
        (on_board(Obstacle::Workers { total: 10 }), "    number 3 of 17 that wait for its site; all of 10 workers are busy\n", soon),
        (on_board(Obstacle::Nothing), "    number 3 of 17 that wait for its site; the next one is about to be taken\n", soon),
        (
            on_board(Obstacle::Pause { reason: "they move".to_owned() }),
            "    number 3 of 17 that wait for its site; the site is paused: they move\n",
            &paused,
        ),
        (tells(Place::Queue), "    not in memory: it is read when there is room\n", soon),
        (tells(Place::Paused { reason: "they move".to_owned() }), "    not in memory: its site is paused: they move\n", &paused),
        (tells(Place::Parked), "    not in memory: enough copies for its site are\n", soon),
        (tells(Place::Routing), "    its route is being looked up\n", soon),
    ] {
        spool.live = live;
        assert_eq!(spool.first(), due_text(now, first));
    }
    let down = Down { since: at(9_000), until: at(10_120), reason: "cannot connect: refused".to_owned() };
    spool.live = on_board(Obstacle::Nothing);
    spool.live.as_mut().unwrap().site.as_mut().unwrap().down = Some(down);
    let expected = "
    which is down since 2026-09-21 16:43:20Z (16m ago) and left alone until 2026-09-21 17:02:00Z (in
    2m): cannot connect: refused
";
    assert!(spool.first().contains(expected));
    // What the daemon told before it ended is not asked for any more.
    spool.lock = None;
    let expected = [
        "Copy to one.example: due since 2026-09-21 14:13:21Z (2h ago)\n  joe@one.example\n    not tried yet\n",
        BY_MX,
        "  Next\n    nothing before the daemon is started, and then:\n",
        soon,
        DELAY_AND_END,
    ];
    assert_eq!(spool.first(), expected.concat());
    assert!(spool.why("joe@one.example").contains("\n  Daemon      does not run\n"));
}

#[test]
fn being_sent_and_cut_off() {
    let mut spool = Spool::with(joe(), |_| vec![]);
    runtime().block_on(async {
        let store = SqliteStore::open(&spool.database()).unwrap();
        let copies = store.due(Cursor::start_of(Priority::Normal), at(10), 10, Vec::new()).await.unwrap().copies;
        store.begin_attempts(begins(&copies[..1]), at(9_990)).await.unwrap();
        store.close().await;
    });
    let recipient = "  joe@one.example\n    not tried yet\n";
    let expected = [
        "Copy to one.example: attempt 1 is under way\n",
        recipient,
        BY_MX,
        "  Next\n    the attempt ends; if it fails for now, the next one is about 5m later\n",
        DELAY_AND_END,
    ];
    assert_eq!(spool.first(), expected.concat());
    spool.live = tells(Place::Sending {
        phase: Doing::Transaction,
        host: Some("mx1.example.com".to_owned()),
        since: Some(at(9_995)),
        sent_for: Some(4),
    });
    assert!(spool.first().contains("\n    it is being sent, mx1.example.com, since 2026-09-21 16:59:55Z (5s ago)\n"));

    spool.lock = None;
    for (in_doubt, what) in [(InDoubt::Retry, "sent it again,"), (InDoubt::Hold, "held,")] {
        spool.config.retry.in_doubt = in_doubt;
        let text = spool.first();
        assert!(text.starts_with("Copy to one.example: attempt 1 was under way when the daemon ended\n"), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        let judged = format!(
            "nothing before the daemon is started, and then: the attempt is judged by the in-doubt journal: who may have the message is {what} \
             everybody else is tried at once"
        );
        assert!(words.join(" ").contains(&judged), "{text}");
    }
}

#[test]
fn expired() {
    let spool = Spool::with(joe(), |copies| {
        let last = refused(Phase::Rcpt, 450, "4.2.2 Mailbox full");
        let fault = Fault::Expired { last: last.to_string(), reply: last.reply().cloned() };
        let end = settlement(&copies[0], &Outcome::of(&fault, Some(peer())), NextStep::Finish, at(9_990));
        vec![attempted(&copies[0], &last, NextStep::Retry(at(9_980)), at(ENDED)), Settlement { attempt: None, ..end }]
    });
    let expected = [
        "Copy to one.example: finished\n",
        ATTEMPT,
        "    mx1.example.com [192.0.2.25]:25: RCPT TO was answered 450 4.2.2 Mailbox full\n",
        "  joe@one.example\n    failed 4.4.7 2026-09-21 16:59:50Z (10s ago)\n",
        PEER,
        "      not delivered in time; last: RCPT TO was answered 450 4.2.2 Mailbox full\n",
        "    alice@example.org was told: failed\n  Next\n    nothing: all is done\n",
    ];
    let (_, copy) = spool.why("joe@one.example").split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(copy, expected.concat());
}

#[test]
fn a_report_that_cannot_be_delivered() {
    let mut report = message(1, &["joe@one.example"]);
    report.source.name = "report".to_owned();
    report.envelope.sender = ReversePath::Null;
    let fault = refused(Phase::Rcpt, 550, "5.1.1 No such user");
    let mut spool = Spool::with(vec![report.clone()], |_| vec![]);
    let end = |spool: &Spool| spool.why("joe@one.example").lines().skip(12).collect::<Vec<_>>().join(" ");
    assert_eq!(
        end(&spool).split_whitespace().collect::<Vec<_>>().join(" "),
        "2026-09-26 14:13:21Z (in 4d): given up, and kept in failed/, as the null sender cannot be told"
    );
    spool.config.reports.postmaster = Some(support::address("postmaster@example.org"));
    assert!(end(&spool).contains("kept in failed/ and sent to reports.postmaster"), "{}", end(&spool));

    let spool = Spool::with(vec![report], |copies| vec![attempted(&copies[0], &fault, NextStep::Finish, at(ENDED))]);
    let text = spool.why("joe@one.example");
    let expected = "
      RCPT TO was answered 550 5.1.1 No such user
    the null sender cannot be told: it is kept in failed/
  Next
    nothing: all is done
";
    assert!(text.contains("\n  From        <>\n  Accepted    2026-09-21 14:13:21Z (2h ago) from report, 2.2 KiB\n"), "{text}");
    assert!(text.ends_with(expected), "{text}");
}

/// What is said of who was told, of one recipient that came to this end.
fn told_of(new: NewMessage, outcome: &Outcome) -> (String, serde_json::Value) {
    let spool = Spool::with(vec![new], |copies| vec![settlement(&copies[0], outcome, NextStep::Finish, at(ENDED))]);
    let text = spool.first();
    let (_, told) = text.split_once(&outcome.text).unwrap();
    let json: serde_json::Value = serde_json::from_str(&spool.why("--json joe@one.example")).unwrap();
    (told.split_once("  Next\n").unwrap().0.trim().to_owned(), json["recipients"][0]["told"].clone())
}

#[test]
fn what_is_said_to_have_been_told_was_told() {
    let removed = Outcome::of(&Fault::Removed { reason: "spam".to_owned() }, None);
    let bounced = Outcome::of(&Fault::Returned { reason: "moved".to_owned() }, None);
    let (discarded, refused, arrived) = (Outcome::discarded(), failed(), Outcome { dsn_relayed: false, ..delivered() });
    let never = |notify| {
        let mut new = message(1, &["joe@one.example"]);
        new.envelope.recipients[0].notify = notify;
        new
    };
    let from_nobody =
        || NewMessage { envelope: Envelope { sender: ReversePath::Null, ..never(Notify::default()).envelope }, ..joe().remove(0) };
    let success = Notify { success: true, ..Notify::default() };
    let report = |action: &str| {
        let to = "alice@example.org";
        serde_json::json!({"action": action, "to": to, "done": true, "kept": false, "nobody": null})
    };
    let silence =
        |kept: bool, nobody: Option<&str>| serde_json::json!({"action": null, "to": null, "done": false, "kept": kept, "nobody": nobody});
    let (done, nobody, kept) = (report, |why| silence(false, Some(why)), silence(true, None));
    let plain = || never(Notify::default());
    for (new, outcome, text, json) in [
        (plain(), &refused, "alice@example.org was told: failed", done("failed")),
        (plain(), &bounced, "alice@example.org was told: failed", done("failed")),
        (plain(), &removed, "nobody was told: an administrator removed it", nobody("removed")),
        (plain(), &discarded, "nobody was told: an override discarded it", nobody("discarded")),
        (never(Notify::NEVER), &refused, "nobody was told, as its sender asked", nobody("not_wanted")),
        (never(Notify::NEVER), &removed, "nobody was told: an administrator removed it", nobody("removed")),
        (from_nobody(), &refused, "the null sender cannot be told: it is kept in failed/", kept),
        (from_nobody(), &removed, "nobody was told: an administrator removed it", nobody("removed")),
        (from_nobody(), &discarded, "nobody was told: an override discarded it", nobody("discarded")),
        (plain(), &arrived, "", serde_json::Value::Null),
        (never(success), &arrived, "alice@example.org was told: relayed to a host that confirms nothing", done("relayed")),
        (never(success), &delivered(), "", serde_json::Value::Null),
        (from_nobody(), &arrived, "", serde_json::Value::Null),
    ] {
        let case = format!("{} {:?} {}", new.envelope.sender, new.envelope.recipients[0].notify, outcome.text);
        assert_eq!(told_of(new, outcome), (text.to_owned(), json), "{case}");
    }
}

#[test]
fn a_delay_notice_that_is_due_was_not_told_yet() {
    let delayed = |report: bool| {
        Spool::with(joe(), |copies| {
            let settled = attempted(&copies[0], &refused(Phase::Rcpt, 451, "4.2.0 Later"), retry(), at(ENDED));
            let settled = if report { reporting(settled, ReportAction::Delayed) } else { settled };
            vec![Settlement { warned: true, ..settled }]
        })
    };
    let (due, done) = (delayed(true).first(), delayed(false).first());
    assert!(due.contains("    alice@example.org is to be told: delayed\n") && !due.contains("was told of the delay"), "{due}");
    assert!(done.contains("\n  alice@example.org was told of the delay\n"), "{done}");
}

#[test]
fn not_before_and_nobody_wants_to_hear() {
    let mut new = message(1, &["joe@one.example", "ann@one.example"]);
    new.envelope.not_before = Some(at(DUE));
    new.envelope.recipients.iter_mut().for_each(|recipient| recipient.notify = Notify::NEVER);
    let spool = Spool::with(vec![new], |_| vec![]);
    let expected = "  \
  joe@one.example
  ann@one.example
    not tried yet
";
    let next = "  \
  Next
    2026-09-21 17:05:00Z (in 5m): attempt 1; if it fails for now, the next one is about 5m later
    2026-09-26 14:13:21Z (in 4d): given up, and nobody is told, as its sender asked
";
    let beginning = "Copy to one.example: not before 2026-09-21 17:05:00Z (in 5m), as its sender asked\n";
    assert_eq!(spool.first(), [beginning, expected, BY_MX, next].concat());
}

#[test]
fn recipients_of_one_copy_with_several_fates_and_a_delay_that_was_told() {
    let mut new = message(1, &["joe@one.example", "ann@one.example", "eve@one.example", "bob@one.example"]);
    new.envelope.recipients[1].notify = Notify { success: true, ..Notify::default() };
    let spool = Spool::with(vec![new], |copies| {
        let mut settled = attempted(&copies[0], &refused(Phase::Rcpt, 452, "4.2.2 Mailbox full"), retry(), at(ENDED));
        settled.recipients[1].outcome = Outcome { dsn_relayed: false, in_doubt: true, ..delivered() };
        settled.recipients[2].outcome = Outcome { in_doubt: true, ..failed() };
        settled.recipients[0].report = Some(ReportAction::Delayed);
        vec![Settlement { warned: true, ..settled }]
    });
    let text = spool.first();
    let (_, recipients) = text.split_once("4.2.2 Mailbox full\n").unwrap();
    let (recipients, _) = recipients.split_once("  Route now\n").unwrap();
    let expected = format!(
        "  \
  joe@one.example
    deferred 4.2.2 2026-09-21 16:58:20Z (1m ago)
{PEER}      RCPT TO was answered 452 4.2.2 Mailbox full
    alice@example.org is to be told: delayed
  ann@one.example
    delivered 2.0.0 2026-09-21 16:58:20Z (1m ago), in doubt before: may have arrived twice
{PEER}      250 2.0.0 Ok: queued as 4Xyz
    alice@example.org was told: relayed to a host that confirms nothing
  eve@one.example
    failed 5.1.1 2026-09-21 16:58:20Z (1m ago), in doubt: may have arrived
{PEER}      RCPT TO was answered 550 5.1.1 No such user
    it was given up, and may have arrived all the same
    alice@example.org was told: failed
  bob@one.example
    deferred 4.2.2 2026-09-21 16:58:20Z (1m ago)
{PEER}      RCPT TO was answered 452 4.2.2 Mailbox full
  alice@example.org was told of the delay
"
    );
    assert_eq!(recipients, expected);
    assert!(!text.contains("told of the delay\n    2026"), "it is told once: {text}");
}

#[test]
fn json_is_one_object_a_copy() {
    let spool = put_off(&doubt());
    let answer: serde_json::Value = serde_json::from_str(&spool.why("--json joe@one.example")).unwrap();
    let (standing, next) = (&answer["standing"], answer["next"].as_array().unwrap());
    let steps: Vec<&str> = answer["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["accepted", "attempt", "recipients", "route", "next"]);
    let mut rest = answer.as_object().unwrap().clone();
    rest.retain(|field, _| !["standing", "next", "steps"].contains(&field.as_str()));
    let tls = "TLSv1.3 TLS13_AES_256_GCM_SHA384";
    let text = "in doubt: the content was sent in full, then the connection was lost; the peer may have the message";
    let expected = serde_json::json!({
        "id": "01M3250VZ80000000000000001", "copy": 1_048_576, "domain": "one.example", "from": "alice@example.org", "source": "1.eml",
        "message_id": "<1@example.org>", "size": 2300, "accepted_at": "2026-09-21T14:13:21Z", "expires_at": "2026-09-26T14:13:21Z",
        "finished_at": null, "daemon": "running", "told_of_delay": false, "live": null, "orders": [],
        "recipients": [{
            "to": "joe@one.example", "notify": "FAILURE,DELAY", "outcome": "deferred", "at": "2026-09-21T16:58:20Z", "dsn": "4.4.2",
            "code": null, "reply": null, "text": text, "host": "mx1.example.com", "ip": "192.0.2.25", "port": 25, "tls": tls,
            "in_doubt": true, "doubt": "may_arrive_twice", "told": null,
        }],
        "attempts": [{
            "attempt": 1, "began_at": "2026-09-21T16:58:18.5Z", "ended_at": "2026-09-21T16:58:20Z", "route": "mx",
            "site": "10 mx1.example.com:25, 20 mx2.example.com:25",
            "delays": {"queue": 0.0012, "dns": 0.034_567, "connect": 0.12, "handshake": 0.045, "transfer": 0.31},
            "trail": [format!("mx1.example.com [192.0.2.25]:25: {text}")],
        }],
        "route": {"known": true, "by": "command", "asked_dns": false, "reason": null, "decisions": [], "answers": [], "why": []},
    });
    assert_eq!(serde_json::Value::from(rest), expected);
    assert_eq!(
        [&standing["kind"], &standing["until"], &standing["cause"], &standing["attempt"], &standing["by"]],
        [&"waiting".into(), &"2026-09-21T17:05:00Z".into(), &"failed".into(), &1.into(), &serde_json::Value::Null]
    );
    assert_eq!(standing["text"], "waits until 2026-09-21 17:05:00Z (in 5m), as attempt 1 failed for now");
    let events: Vec<_> =
        next.iter().map(|one| (&one["event"], &one["at"], &one["attempt"], &one["then_after"], &one["to"], &one["kept"])).collect();
    let null = &serde_json::Value::Null;
    assert_eq!(
        events,
        [
            (&"attempt".into(), &"2026-09-21T17:05:00Z".into(), &2.into(), &600.0.into(), null, null),
            (&"delay_notice".into(), &"2026-09-21T18:13:21Z".into(), null, null, &"alice@example.org".into(), null),
            (&"given_up".into(), &"2026-09-26T14:13:21Z".into(), null, null, &"alice@example.org".into(), &false.into()),
        ]
    );
    assert_eq!(spool.why(&format!("--json {}", message(1, &[]).id)), spool.why("--json joe@one.example"));
}

#[test]
fn a_recipients_copies_in_order_and_within_limits() {
    let to = |n| message(n, &["joe@one.example", "ann@two.example"]);
    let spool = Spool::with((1..=6).map(to).collect(), |copies| {
        let end = |n: usize, seconds| settlement(&copies[2 * n], &delivered(), NextStep::Finish, at(seconds));
        vec![end(0, 100), end(1, 300), end(2, 200)]
    });
    let ids = |words: &str| -> Vec<String> {
        let out = spool.why(words);
        assert!(!out.contains("two.example"), "only the copies of joe: {out}");
        out.lines().filter_map(|line| line.strip_prefix("Message ").map(str::to_owned)).collect()
    };
    let id = |n| to(n).id.to_string();
    assert_eq!(ids("joe@one.example"), [4, 5, 6, 2, 3, 1].map(id));
    assert_eq!(ids("--finished 1 JOE@one.example"), [4, 5, 6, 2].map(id));
    assert_eq!(ids("--limit 2 --finished 0 joe@one.example"), [4, 5].map(id));
    assert!(spool.why("--limit 2 joe@one.example").ends_with("\n\n1 more copy not finished: see --limit\n"));
    assert_eq!(spool.why("--json --finished 2 joe@one.example").lines().count(), 5);
    let (code, out, err) = spool.answer("--no-dns nobody@one.example 01M3250VZ80000000000000777");
    let unknown =
        "smtp-direct: the queue knows nothing for nobody@one.example\nsmtp-direct: the queue knows no message 01M3250VZ80000000000000777\n";
    assert_eq!((code, out.as_str(), err.as_str()), (ExitCode::FAILURE, "", unknown));
    for words in ["queue why", "queue why nonsense", "queue why a b@c@", "queue why joe@one.example --dns-timeout soon"] {
        assert!(Line::try_parse_from(format!("smtp-direct {words}").split(' ')).is_err(), "{words}");
    }
}

#[test]
fn the_route_is_looked_up_anew_and_dns_is_not_waited_for_long() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(DnsServer::start());
    server.mx("one.example", 60, &[(10, "mx9.example")]).host("mx9.example", 60, &["192.0.2.9"]);
    let mut spool = put_off(&refused(Phase::Rcpt, 450, "4.2.2 Mailbox full"));
    spool.config.dns.servers = vec![server.address];
    let (code, out, _) = spool.answer("joe@one.example");
    let expected = "
  Route now
    mx9.example 192.0.2.9:25 (mx)
    asked just now, without the daemon's cache
    MX of one.example: 10 mx9.example
    AAAA of mx9.example: no such record
    A of mx9.example: 192.0.2.9
    mx9.example [192.0.2.9]: used
  Next
";
    assert!(code == ExitCode::SUCCESS && out.contains(expected), "{out}");

    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    spool.config.dns.servers = vec![silent.local_addr().unwrap()];
    let (code, out, _) = spool.answer("--dns-timeout 50ms joe@one.example");
    assert!(code == ExitCode::SUCCESS && out.contains("\n  Route now\n    not known: DNS did not answer in time\n  Next\n"), "{out}");
}

#[test]
fn without_a_configuration_the_rest_is_told() {
    let spool = put_off(&refused(Phase::Rcpt, 450, "4.2.2 Mailbox full"));
    let Command::Queue(args) = Line::parse_from(["smtp-direct", "queue", "why", "joe@one.example"]).command;
    let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), Vec::new());
    let code = queue::run(&args, &spool.database(), at(10_000), &mut out, &mut err);
    let out = String::from_utf8(out.into_inner()).unwrap();
    let expected = "
  Route now
    not known: the configuration has errors
  Next
    2026-09-21 17:05:00Z (in 5m): attempt 2
    2026-09-26 14:13:21Z (in 4d): given up, and alice@example.org gets a failure report
";
    assert!(code == ExitCode::SUCCESS && out.ends_with(expected), "{out}");
}

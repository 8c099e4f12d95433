//! The live view, cell by cell.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::model::{Fetched, Model, Order, Round};
use super::view;
use crate::control::{Numbers, OutcomeLine, Pause, SiteLine, SiteReply, Status};

/// A daemon with trouble, `seconds` after 12:00 UTC, when it was two hours old.
fn status(seconds: u64, delivered: u64) -> Status {
    serde_json::from_value(serde_json::json!({
        "version": "0.1.0", "pid": 7, "hostname": "mail.sender.test", "spool": "/var/spool/smtp-direct", "state": "running", "intake": "running", "intake_reason": null,
        "started_at": "2026-11-24T10:00:00Z", "now": format!("2026-11-24T12:{:02}:{:02}Z", seconds / 60, seconds % 60),
        "workers": {"total": 10, "busy": 10, "sessions": 9, "idle": 1},
        "queue": {"messages": 1234, "due": 700, "waiting": 500, "sending": 30, "held": 4, "recipients": 2345, "in_doubt": 2, "octets": 52_428_800,
            "oldest": "2026-11-24T09:00:00Z", "counted_at": "2026-11-24T12:00:00Z"},
        "throughput": {
            "second": {"accepted": 12, "delivered": 11, "deferred": 1, "failed": 0},
            "minute": {"accepted": 720, "delivered": 660, "deferred": 60, "failed": 3},
            "total": {"accepted": 86_400, "delivered": delivered, "deferred": 7200, "failed": 99},
        },
        "sites": {"known": 4, "down": 1, "paused": 1},
        "cache": {"entries": 9, "capacity": 1000, "hits": 5, "stale": 0, "joined": 0, "misses": 9},
        "memory": 20_000_000,
    }))
    .unwrap()
}

fn site(name: &str, waiting: u64) -> SiteLine {
    serde_json::from_value(serde_json::json!({
        "name": name, "sessions": 2, "limit": 5, "connected": 2, "idle": 0, "waiting": waiting, "copies": waiting, "parked_domains": 0,
        "health": {"state": "up", "since": null, "until": null, "error": null},
        "rate": null, "throttled_for": null, "paused": null, "delivered": 5, "deferred": 0, "failed": 0, "last": null, "last_error": null,
    }))
    .unwrap()
}

fn sites() -> Vec<SiteLine> {
    let mut down = site("10 mx.down.test:25", 7);
    down.sessions = 0;
    down.parked_domains = 1;
    down.health.state = "down".to_owned();
    down.health.until = Some("2026-11-24T12:14:30Z".to_owned());
    down.health.error = Some("mx.down.test [2001:db8::9]:25: cannot connect: Connection refused".to_owned());
    let mut paused = site("10 mx.paused.test:25", 40);
    paused.paused =
        Some(Pause { reason: "maintenance there".to_owned(), by: "uid 0".to_owned(), since: "2026-11-24T11:00:00Z".to_owned() });
    let mut evil = site("10 mx.evil.test:25", 0);
    evil.deferred = 3;
    evil.last = Some(SiteReply {
        at: "2026-11-24T12:00:00Z".to_owned(),
        outcome: "deferred".to_owned(),
        host: None,
        text: "RCPT TO was answered 451 \u{1b}[2J\u{202e}later".to_owned(),
    });
    vec![down, evil, paused, site("10 mx.a.test:25, 20 backup.a.test:25", 7)]
}

fn outcome(number: u64, outcome: &str, to: &str, text: &str) -> OutcomeLine {
    serde_json::from_value(serde_json::json!({
        "number": number, "at": format!("2026-11-24T11:59:{number:02}.250Z"), "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "to": to, "domain": "a.test",
        "outcome": outcome, "in_doubt": false, "code": 250, "dsn": "2.0.0", "text": text, "site": null, "host": "mx.a.test", "ip": null,
        "port": null, "tls": null,
    }))
    .unwrap()
}

fn model() -> Model {
    let outcomes = vec![
        outcome(1, "delivered", "one@a.test", "250 2.0.0 queued"),
        outcome(2, "failed", "nobody@a.test", "550 5.1.1 no such user here, and this goes on for longer than any line of a small terminal"),
        outcome(3, "deferred", "full@a.test", "the content was answered 452 4.2.2 mailbox\r\nfull"),
    ];
    let mut model = Model::new(Fetched { status: status(0, 600_000), sites: sites(), outcomes });
    for (second, delivered) in [(1, 600_011), (2, 600_022), (3, 600_022), (4, 600_044)] {
        let fetched = Fetched { status: status(second, delivered), sites: sites(), outcomes: Vec::new() };
        model.take(Round::Answered(Box::new(fetched)));
    }
    model
}

fn drawn(model: &mut Model, (width, height): (u16, u16)) -> (Vec<String>, ratatui::buffer::Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(model, frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    ((0..height).map(line).collect(), buffer)
}

/// Without the line end that a text of the source begins with.
fn assert_drawn(model: &mut Model, size: (u16, u16), expected: &str) {
    let (lines, _) = drawn(model, size);
    let found = lines.join("\n");
    assert_eq!(found.trim_end(), expected.trim_matches('\n'), "\n{found}");
}

/// Places of a text, by line and column.
fn place(lines: &[String], text: &str) -> (u16, u16) {
    let found = lines.iter().enumerate().find_map(|(y, line)| line.find(text).map(|at| (line[..at].chars().count(), y)));
    let (x, y) = found.unwrap_or_else(|| panic!("no {text:?} in\n{}", lines.join("\n")));
    (x as u16, y as u16)
}

#[test]
fn a_small_terminal_shows_all_parts() {
    assert_drawn(&mut model(), (80, 24), SMALL);
}

#[test]
fn a_large_terminal_shows_more() {
    assert_drawn(&mut model(), (120, 40), LARGE);
}

#[test]
fn nothing_breaks_on_a_terminal_of_any_size() {
    for size in [(1, 1), (10, 3), (43, 12), (80, 8), (300, 100)] {
        drawn(&mut model(), size);
    }
}

#[test]
fn trouble_stands_out_by_colour() {
    let (lines, buffer) = drawn(&mut model(), (80, 24));
    for (text, colour) in
        [("down 14m", Color::Red), ("paused  ", Color::Yellow), ("4 held", Color::Yellow), ("10 of 10 busy", Color::Yellow)]
    {
        assert_eq!(buffer[place(&lines, text)].fg, colour, "{text}");
    }
}

#[test]
fn intake_that_stands_still_is_told_at_the_top() {
    let mut status = status(0, 0);
    status.intake_reason = Some("too little space: 9 MB free".to_owned());
    let mut model = Model::new(Fetched { status, sites: Vec::new(), outcomes: Vec::new() });
    let (lines, _) = drawn(&mut model, (100, 24));
    assert!(lines[0].contains("NO FILES TAKEN: too little space: 9"), "{}", lines[0]);
}

#[test]
fn sites_are_sorted_as_the_key_says() {
    let mut model = model();
    let names = |model: &mut Model| -> Vec<String> {
        model.sites(10).1.iter().map(|site| site.name.split(['.', ' ']).nth(2).unwrap().to_owned()).collect()
    };
    assert_eq!(names(&mut model), ["paused", "down", "a", "evil"]);
    model.obey(Order::Sort);
    assert_eq!(names(&mut model), ["a", "down", "evil", "paused"]);
    model.obey(Order::Sort);
    assert_eq!(names(&mut model), ["down", "paused", "evil", "a"]);
    model.obey(Order::Sort);
    assert_eq!(names(&mut model), ["paused", "down", "a", "evil"]);
}

#[test]
fn keys_scroll_to_the_last_page_and_back() {
    let mut model = model();
    let place = |model: &mut Model| model.sites(3).0;
    for (order, expected) in [
        (Order::Scroll(1), 1),
        (Order::Scroll(10), 1),
        (Order::Scroll(-1), 0),
        (Order::Scroll(-1), 0),
        (Order::Bottom, 1),
        (Order::Top, 0),
        (Order::Scroll(isize::MAX), 1),
        (Order::Scroll(isize::MIN), 0),
    ] {
        model.obey(order);
        assert_eq!(place(&mut model), expected, "{order:?}");
    }
    model.obey(Order::Bottom);
    assert_eq!(model.sites(100).0, 0);
}

#[test]
fn a_daemon_that_is_gone_is_said_to_be_and_its_successor_starts_anew() {
    let mut model = model();
    model.take(Round::Lost("the daemon does not run\u{7}".to_owned()));
    let (lines, _) = drawn(&mut model, (80, 24));
    assert_eq!(lines[23], " no answer, trying on: the daemon does not run\u{fffd}");
    // What was known stays in sight.
    place(&lines, "1234 messages");

    let samples = |model: &Model| model.plot(300).0.into_iter().flatten().collect::<Vec<f64>>();
    assert_eq!(samples(&model), [11.0, 11.0, 0.0, 22.0]);
    let mut next = status(60, 5);
    next.started_at = "2026-11-24T12:00:50Z".to_owned();
    next.throughput.total = Numbers { accepted: 5, delivered: 5, deferred: 0, failed: 0 };
    model.take(Round::Answered(Box::new(Fetched {
        status: next,
        sites: sites(),
        outcomes: vec![outcome(1, "delivered", "new@a.test", "250 ok")],
    })));
    assert_eq!((model.lost(), samples(&model).len()), (None, 4));
    assert_eq!(model.outcomes().map(|line| line.to.as_str()).collect::<Vec<_>>(), ["new@a.test"]);
}

#[test]
fn a_plot_shows_five_minutes_in_the_columns_it_has() {
    let mut model = model();
    for second in 5..=600 {
        // Ten a second from then on.
        model.take(Round::Answered(Box::new(Fetched {
            status: status(second, 600_000 + second * 10),
            sites: Vec::new(),
            outcomes: Vec::new(),
        })));
    }
    let (means, each) = model.plot(60);
    assert_eq!((means.len(), each), (60, 5));
    assert!(means.iter().all(|mean| *mean == Some(10.0)), "{means:?}");
    assert_eq!(model.plot(0), (Vec::new(), 300));
}

const SMALL: &str = "
 smtp-direct 0.1.0  mail.sender.test  running  up 2h  12:00:04Z
              now/s    minute        total delivered/s, 5 min, peak 11.0
accepted         12       720        86400                                     █
delivered        11       660       600044                                     █
deferred          1        60         7200                                     █
failed            0         3           99                                     █

workers   10 of 10 busy, 9 sessions open, 1 of them idle
queue     1234 messages: 700 due, 500 waiting, 30 sending, 4 held
          2345 recipients, 50.0 MiB, oldest 3h, 2 in doubt
 sites by backlog: 4, 1 down, 1 paused
 WAITING SESSIONS HEALTH     SITE                 LAST REPLY
     40     2/5   paused     10 mx.paused.test:25 paused by uid 0: maintenance …
      7+    0/5   down 14m   10 mx.down.test:25   cannot connect: Connection re…
      7     2/5   up         10 mx.a.test:25, 20…
      0     2/5   up         10 mx.evil.test:25   451 �[2J�later


 last outcomes
11:59:03 deferred  full@a.test              mx.a.test: 452 4.2.2 mailbox��full
11:59:02 failed    nobody@a.test            mx.a.test: 550 5.1.1 no such user h…
11:59:01 delivered one@a.test               mx.a.test: 250 2.0.0 queued

 q quit   s sort   ↑ ↓ scroll
";

const LARGE: &str = "
 smtp-direct 0.1.0  mail.sender.test  running  up 2h  12:00:04Z
              now/s    minute        total delivered/s, 5 min, peak 11.0
accepted         12       720        86400                                                                             █
delivered        11       660       600044                                                                             █
deferred          1        60         7200                                                                             █
failed            0         3           99                                                                             █

workers   10 of 10 busy, 9 sessions open, 1 of them idle
queue     1234 messages: 700 due, 500 waiting, 30 sending, 4 held
          2345 recipients, 50.0 MiB, oldest 3h, 2 in doubt
 sites by backlog: 4, 1 down, 1 paused
 WAITING SESSIONS HEALTH     SITE                                 LAST REPLY
     40     2/5   paused     10 mx.paused.test:25                 paused by uid 0: maintenance there
      7+    0/5   down 14m   10 mx.down.test:25                   cannot connect: Connection refused
      7     2/5   up         10 mx.a.test:25, 20 backup.a.test:25
      0     2/5   up         10 mx.evil.test:25                   451 �[2J�later











 last outcomes
11:59:03 deferred  full@a.test                              mx.a.test: 452 4.2.2 mailbox��full
11:59:02 failed    nobody@a.test                            mx.a.test: 550 5.1.1 no such user here, and this goes on fo…
11:59:01 delivered one@a.test                               mx.a.test: 250 2.0.0 queued








 q quit   s sort   ↑ ↓ scroll
";

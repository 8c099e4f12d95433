//! Result files: what a program that watches `results/` finds there, and that nothing keeps it from finding it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use daemon::Daemon;
use net::{Host, Net, answers, answers_at_first};
use serde_json::{Value, json};
use smtp_direct::queue::{Inspect, ListFilter};

const ON: &str = "[spool]\nresults = true\n";

/// A domain with one host.
fn domain(net: &Net, name: &str, ip: &str, host: Host) {
    let mx = format!("mx.{name}");
    net.mx(name, &[(10, &mx)]).host(&mx, ip, host);
}

fn result(daemon: &Daemon, name: &str) -> Value {
    let octets = fs::read(daemon.layout.results().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(octets.iter().filter(|octet| **octet == b'\n').count(), 1, "one line");
    serde_json::from_slice(&octets).unwrap()
}

/// The object with its times and the id replaced by what they are: their order and form are looked at here.
fn plain(mut value: Value) -> Value {
    let times = ["accepted_at", "first_attempt_at", "last_attempt_at", "at", "finished_at", "modified_at"];
    fn walk(value: &mut Value, times: &[&str]) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if times.contains(&&**name) => {
                            assert!(text.ends_with('Z') && text.parse::<smtp_direct::clock::Timestamp>().is_ok(), "{text}");
                            *value = json!("time");
                        }
                        Some(text) if name == "id" => {
                            assert_eq!(text.len(), 26);
                            *value = json!("id");
                        }
                        _ => walk(value, times),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, times)),
            _ => {}
        }
    }
    walk(&mut value, &times);
    value
}

#[tokio::test(start_paused = true)]
async fn a_finished_message_leaves_one_object_with_all_that_is_known_of_it() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8");
    domain(&net, "x.test", "192.0.2.1", answers("RCPT TO:<NOBODY@", "550 5.1.1 no such user"));
    domain(&net, "grey.test", "192.0.2.2", answers_at_first(2, "RCPT", "450 4.7.1 come back later"));
    let mut daemon = Daemon::start(&net, ON);
    let sidecar =
        "from = \"alice@sender.test\"\nto = [\"a@x.test\", \"nobody@x.test\", \"b@grey.test\"]\nenvid = \"job-7\"\ntag = \"news\"\n";
    daemon.drop_with("m.1", sidecar, "Message-ID: <7@sender.test>\r\nSubject: x\r\n\r\nHello.\r\n");
    // Its report and itself.
    daemon.wait_for("finished", 2).await;
    let of_message = result(&daemon, "m.1.json");
    let (id, size) = (of_message["id"].as_str().unwrap().to_owned(), of_message["size"].as_u64().unwrap());
    assert!(daemon.seen("accepted").iter().any(|event| event.field("id") == id && event.field("size") == size.to_string()));
    let times = ["accepted_at", "finished_at"].map(|name| of_message[name].as_str().unwrap().to_owned());
    assert!(times[0] < times[1], "{times:?}");
    let third = &of_message["recipients"][2];
    assert!(third["first_attempt_at"].as_str() < third["last_attempt_at"].as_str(), "{third}");
    let of_x = json!({ "to": "a@x.test", "outcome": "delivered", "at": "time", "code": 250, "dsn": "2.0.0", "reply": "2.0.0 queued",
        "text": "250 2.0.0 queued", "host": "mx.x.test", "ip": "192.0.2.1", "port": 25, "tls": false, "attempts": 1,
        "first_attempt_at": "time", "last_attempt_at": "time", "in_doubt": false });
    let refused = json!({ "to": "nobody@x.test", "outcome": "failed", "at": "time", "code": 550, "dsn": "5.1.1",
        "reply": "5.1.1 no such user", "text": "RCPT TO was answered 550 5.1.1 no such user", "host": "mx.x.test", "ip": "192.0.2.1",
        "port": 25, "tls": false, "attempts": 1, "first_attempt_at": "time", "last_attempt_at": "time", "in_doubt": false });
    let of_grey = json!({ "to": "b@grey.test", "outcome": "delivered", "at": "time", "code": 250, "dsn": "2.0.0", "reply": "2.0.0 queued",
        "text": "250 2.0.0 queued", "host": "mx.grey.test", "ip": "192.0.2.2", "port": 25, "tls": false, "attempts": 3,
        "first_attempt_at": "time", "last_attempt_at": "time", "in_doubt": false });
    let expected = json!({ "outcome": "mixed", "id": "id", "file": "m.1.eml", "from": "alice@sender.test", "message_id": "<7@sender.test>",
        "size": size, "envid": "job-7", "tag": "news", "accepted_at": "time", "finished_at": "time", "reason": null,
        "recipients": [of_x, refused, of_grey] });
    assert_eq!(plain(of_message), expected);

    let report = daemon.seen("accepted").into_iter().find(|event| event.field("source") == "report").unwrap().field("id").to_owned();
    assert_eq!(daemon.names(&daemon.layout.results()), [format!("{report}.json"), "m.1.json".to_owned()], "and nothing hidden is left");
    let of_report = result(&daemon, &format!("{report}.json"));
    assert_eq!((&of_report["file"], &of_report["from"], &of_report["outcome"]), (&Value::Null, &json!(""), &json!("delivered")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let results = daemon.layout.results();
    assert_eq!(mode(&results), mode(&daemon.layout.drop()), "whoever may drop may remove results");
    assert_eq!(mode(&results.join("m.1.json")) & 0o7, 0);
    assert_eq!(mode(&results.join("m.1.json")) & 0o440, 0o440);
}

#[tokio::test(start_paused = true)]
async fn every_end_has_its_word() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx_servfail("expired.test");
    domain(&net, "doubt.test", "192.0.2.1", answers_at_first(1, ".", "CLOSE"));
    let mut daemon = Daemon::start(&net, &format!("{ON}[[dns.override]]\ndomain = \"discarded.test\"\naction = \"discard\"\n"));
    for name in ["expired", "discarded", "nowhere", "doubt"] {
        daemon.drop_from(name, "", &[&format!("a@{name}.test")]);
    }
    daemon.wait_for("finished", 4).await;
    let ends = |name: &str| {
        let result = result(&daemon, &format!("{name}.json"));
        let recipient = &result["recipients"][0];
        let text = |name: &str| recipient[name].to_string().replace('"', "");
        assert_eq!(result["outcome"], recipient["outcome"]);
        format!("{} {} tls {} attempts {} in_doubt {}", text("outcome"), text("dsn"), text("tls"), text("attempts"), text("in_doubt"))
    };
    assert_eq!(ends("nowhere"), "failed 5.1.2 tls null attempts 1 in_doubt false");
    assert_eq!(ends("discarded"), "discarded 5.7.1 tls null attempts 0 in_doubt false");
    assert_eq!(ends("doubt"), "delivered 2.0.0 tls false attempts 2 in_doubt true");
    assert!(ends("expired").starts_with("expired 4.4.7 tls null"), "{}", ends("expired"));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_file_is_told_too() {
    let net = Net::default();
    let daemon = Daemon::start(&net, ON);
    for kept_as in ["bad.eml", "bad.1.eml"] {
        daemon.drop_with("bad", "to = 7\n", "Subject: x\r\n\r\nHello.\r\n");
        // The log of a thread that waits for the disk is not the test's.
        until("it is rejected", || daemon.layout.rejected().join(kept_as).exists()).await;
    }
    let names = daemon.names(&daemon.layout.results());
    assert_eq!((names.len(), &*names[1]), (2, "bad.json"), "{names:?}");
    let first = result(&daemon, "bad.json");
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("bad.toml"), "{reason}");
    assert!(fs::read_to_string(daemon.layout.rejected().join("bad.reason")).unwrap().contains(reason));
    let size = first["size"].as_u64().unwrap();
    let expected = json!({ "outcome": "rejected", "id": null, "file": "bad.eml", "from": null, "accepted_at": null, "finished_at": "time",
        "reason": reason, "kept_as": "bad.eml", "size": size, "modified_at": "time", "recipients": [] });
    assert_eq!(plain(first), expected);
    assert_eq!(result(&daemon, &names[0])["kept_as"], "bad.1.eml");
}

#[tokio::test(start_paused = true)]
async fn what_has_the_name_already_stays() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, ON);
    daemon.wait_for("started", 1).await;
    fs::write(daemon.layout.results().join("notes.json"), "somebody's").unwrap();
    for (n, name) in ["m", "m", "m", "notes"].iter().enumerate() {
        daemon.drop_message(name, &["a@x.test"]);
        daemon.wait_for("finished", n + 1).await;
    }
    let ids: Vec<String> = daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect();
    let names = |ids: &[String]| {
        let [_, second, third, fourth] = ids else { panic!() };
        let mut names = vec![format!("m.{second}.json"), format!("m.{third}.json"), format!("notes.{fourth}.json")];
        names.extend(["m.json", "notes.json"].map(str::to_owned));
        names.sort();
        names
    };
    assert_eq!(daemon.names(&daemon.layout.results()), names(&ids));
    assert_eq!(result(&daemon, "m.json")["id"], ids[0]);
    assert_eq!(fs::read_to_string(daemon.layout.results().join("notes.json")).unwrap(), "somebody's");
    assert_eq!(result(&daemon, &format!("m.{}.json", ids[2]))["id"], ids[2]);

    // Written again once the first name is free: under the name that it had.
    daemon.stop().await;
    fs::remove_file(daemon.layout.results().join("m.json")).unwrap();
    daemon.layout.mark_message(ids[2].parse().unwrap()).unwrap();
    daemon.resume();
    daemon.wait_for("spool repaired", 1).await;
    let left: Vec<String> = names(&ids).into_iter().filter(|name| name != "m.json").collect();
    assert_eq!(daemon.names(&daemon.layout.results()), left);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_unless_it_is_asked_for() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert!(!daemon.layout.results().exists());
    // A reload turns it on.
    daemon.reloads.send(daemon.config(ON)).await.unwrap();
    daemon.wait_for("configuration reloaded", 1).await;
    daemon.drop_message("two", &["a@x.test"]);
    daemon.wait_for("finished", 2).await;
    assert_eq!(daemon.names(&daemon.layout.results()), ["two.json"]);
}

/// Waits until it is so, on the test's time: for minutes at most.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..180 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    panic!("not within minutes: {what}");
}

/// Puts a file in the place of `results/`, so that nothing can be written there, or the directory back.
fn block(daemon: &Daemon, blocked: bool) {
    let results = daemon.layout.results();
    if blocked {
        fs::remove_dir_all(&results).unwrap();
        fs::write(&results, "").unwrap();
    } else {
        fs::remove_file(&results).unwrap();
        daemon.layout.create_results().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_written_is_written_later() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, ON);
    daemon.wait_for("started", 1).await;
    block(&daemon, true);
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("finished", 1).await;
    assert_eq!(daemon.seen("the result of a finished message cannot be written, trying again later").len(), 1);
    block(&daemon, false);
    until("it is tried again", || !daemon.names(&daemon.layout.results()).is_empty()).await;
    assert_eq!(result(&daemon, "m.json")["outcome"], "delivered");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_was_due_when_the_daemon_ended_is_written_at_the_next_start() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1").mx_servfail("y.test");
    let mut daemon = Daemon::start(&net, ON);
    daemon.drop_from("lost", "", &["a@y.test"]);
    daemon.wait_for("deferred", 1).await;
    // One whose file somebody removed has none to say that its result is due.
    let lost = daemon.inspect().list(&ListFilter::default()).unwrap()[0].message;
    fs::remove_file(daemon.layout.message_file(lost)).unwrap();
    block(&daemon, true);
    daemon.drop_message("m", &["a@x.test"]);
    net.domain("y.test", "192.0.2.2");
    daemon.wait_for("finished", 2).await;
    daemon.kill().await;
    block(&daemon, false);
    daemon.resume();
    daemon.wait_for("spool repaired", 1).await;
    assert_eq!(daemon.names(&daemon.layout.results()), ["lost.json", "m.json"]);
    assert_eq!(result(&daemon, "lost.json")["outcome"], "failed");

    // Killed between the result and the removal: the same again, also where it has been read and removed.
    daemon.stop().await;
    let m = result(&daemon, "m.json")["id"].as_str().unwrap().parse().unwrap();
    let before = fs::read(daemon.layout.results().join("m.json")).unwrap();
    for read in [false, true] {
        assert!(!daemon.layout.message_file(m).exists());
        daemon.layout.mark_message(m).unwrap();
        if read {
            fs::remove_file(daemon.layout.results().join("m.json")).unwrap();
        }
        daemon.resume();
        daemon.wait_for("spool repaired", 2 + usize::from(read)).await;
        daemon.stop().await;
        assert_eq!(daemon.names(&daemon.layout.results()), ["lost.json", "m.json"]);
        assert_eq!(fs::read(daemon.layout.results().join("m.json")).unwrap(), before);
    }
}

#[test]
fn kill_9_never_leaves_a_finished_message_without_its_result() {
    const MESSAGES: usize = 60;
    let sink = process::Sink::start();
    let mut spool = process::Spool::new(sink.address);
    let mut dropped = BTreeSet::new();
    for round in 0..6 {
        let daemon = spool.start();
        for n in 0..MESSAGES {
            let name = format!("r{round}m{n}");
            spool.drop_message(&name);
            dropped.insert(format!("{name}.json"));
        }
        // Later in each round, so that batches are cut at other places.
        daemon.finished(1 + round * 7);
        daemon.kill();
        let results = spool.results();
        for (id, file) in spool.finished() {
            let result = file.strip_suffix(".eml").unwrap().to_owned() + ".json";
            assert!(results.contains(&result) || spool.layout.message_file(id).exists(), "{file} has neither file nor result");
        }
    }
    let daemon = spool.start();
    spool.wait_for_results(&dropped, &daemon);
    for name in &dropped {
        let result: Value = serde_json::from_slice(&fs::read(spool.layout.results().join(name)).unwrap()).unwrap();
        assert_eq!(result["outcome"], "delivered");
    }
    daemon.kill();
}

/// The program itself.
mod process {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::net::SocketAddr;
    use std::process::{Child, ChildStdout, Command, Stdio};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use smtp_direct::message::MessageId;
    use smtp_direct::queue::{HistoryFilter, Inspect, SqliteInspect};
    use smtp_direct::spool::Layout;

    use crate::daemon::Directory;

    /// Nothing takes longer, however busy the machine is.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Ended with the test, by its own handle.
    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-direct"));
        command.args(arguments);
        command
    }

    pub(crate) struct Sink {
        _child: Ended,
        pub(crate) address: SocketAddr,
        _out: BufReader<ChildStdout>,
    }

    impl Sink {
        pub(crate) fn start() -> Self {
            let mut child = command(&["sink", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            let address = line.split([' ', ',', ';']).find_map(|word| word.trim().parse().ok()).unwrap();
            Self { _child: Ended(child), address, _out: out }
        }
    }

    pub(crate) struct Spool {
        directory: Directory,
        pub(crate) layout: Layout,
    }

    impl Spool {
        pub(crate) fn new(server: SocketAddr) -> Self {
            let directory = Directory::new();
            let spool = directory.0.join("spool");
            fs::create_dir(&spool).unwrap();
            let layout = Layout::new(&spool);
            layout.create().unwrap();
            let config = format!(
                "hostname = \"mail.sender.test\"\n[spool]\npath = {spool:?}\nresults = true\n[log]\nformat = \"json\"\n\
                 [[dns.override]]\ndomain = \"*\"\nserver = \"{server}\"\ntls = \"none\"\n"
            );
            fs::write(directory.0.join("c.toml"), config).unwrap();
            Self { directory, layout }
        }

        pub(crate) fn start(&mut self) -> Running {
            let mut child = command(&["run", "--config"]).arg(self.directory.0.join("c.toml")).stderr(Stdio::piped()).spawn().unwrap();
            let (lines, log) = mpsc::channel();
            let stderr = BufReader::new(child.stderr.take().unwrap());
            std::thread::spawn(move || {
                for line in stderr.lines() {
                    if lines.send(line.unwrap()).is_err() {
                        break;
                    }
                }
            });
            Running { child: Ended(child), log }
        }

        pub(crate) fn drop_message(&self, name: &str) {
            let built = self.layout.tmp().join(name);
            fs::write(&built, format!("From: a@sender.test\nTo: {name}@x.test\nSubject: x\n\nx\n")).unwrap();
            fs::rename(built, self.layout.drop().join(format!("{name}.eml"))).unwrap();
        }

        /// What a reader sees: no hidden files.
        pub(crate) fn results(&self) -> BTreeSet<String> {
            let names = fs::read_dir(self.layout.results()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !name.starts_with('.')).collect()
        }

        /// Finished messages and the names of their files.
        pub(crate) fn finished(&self) -> Vec<(MessageId, String)> {
            let inspect = SqliteInspect::open(&self.layout.database()).unwrap();
            let rows = inspect.history(&HistoryFilter::default()).unwrap();
            rows.into_iter().map(|row| (row.message, inspect.show(row.message).unwrap().unwrap().message.source)).collect()
        }

        pub(crate) fn wait_for_results(&self, expected: &BTreeSet<String>, daemon: &Running) {
            let began = Instant::now();
            while self.results() != *expected {
                assert!(began.elapsed() < LIMIT, "missing: {:?}", expected.difference(&self.results()).collect::<Vec<_>>());
                // Every result is followed by a line sooner or later; that of a repair by one at its end.
                let _ = daemon.log.recv_timeout(Duration::from_millis(100));
            }
        }
    }

    pub(crate) struct Running {
        child: Ended,
        log: mpsc::Receiver<String>,
    }

    impl Running {
        /// Waits for so many lines that tell of a finished message.
        pub(crate) fn finished(&self, count: usize) {
            for _ in 0..count {
                while !self.log.recv_timeout(LIMIT).unwrap().contains("\"message\":\"finished\"") {}
            }
        }

        /// SIGKILL.
        pub(crate) fn kill(mut self) {
            self.child.0.kill().unwrap();
            self.child.0.wait().unwrap();
        }
    }
}

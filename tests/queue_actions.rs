//! The commands that change something, as an administrator types them: the real program against a running daemon, and without one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// No step takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_smtp-direct"))
}

/// A daemon whose mail all goes to a server that puts everything off, so that it stays in the queue.
struct Daemon {
    child: Option<Child>,
    log: mpsc::Receiver<String>,
    directory: PathBuf,
}

/// A mail server that says 421 to everybody.
fn busy_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"421 4.3.2 busy\r\n");
        }
    });
    port
}

impl Daemon {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("smtp-direct-actions-{}-{:x}", std::process::id(), fastrand::u64(..)));
        let spool = directory.join("spool");
        fs::create_dir_all(&spool).unwrap();
        let text = format!(
            "hostname = \"mail.sender.test\"\n[spool]\npath = {spool:?}\n[log]\nformat = \"json\"\n[retry]\nschedule = [\"1h\"]\n\
             [[dns.override]]\ndomain = \"*\"\nserver = \"127.0.0.1:{}\"\ntls = \"none\"\nrate = \"1000/s\"\n",
            busy_server()
        );
        fs::write(directory.join("c.toml"), text).unwrap();
        let mut child = program().arg("run").args(["--config"]).arg(directory.join("c.toml")).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let daemon = Self { child: Some(child), log, directory };
        daemon.logged("started");
        daemon
    }

    fn logged(&self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{message} was not logged"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == message {
                return event;
            }
        }
    }

    /// Drops a message and waits until it was put off; returns its id.
    fn deferred(&self, name: &str, to: &str) -> String {
        let spool = self.directory.join("spool");
        let built = spool.join("tmp").join(name);
        fs::write(&built, format!("From: a@sender.test\nTo: {to}\nSubject: x\n\nx\n")).unwrap();
        fs::rename(built, spool.join("drop").join(format!("{name}.eml"))).unwrap();
        let id = self.logged("deferred")["id"].as_str().unwrap().to_owned();
        // It is recorded, and a moment later it has left memory.
        id
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Exit code, standard output, standard error.
    fn ask(&self, words: &[&str]) -> (i32, String, String) {
        self.ask_with(words, "")
    }

    fn ask_with(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut command = program();
        command.args(words).arg("--config").arg(self.directory.join("c.toml"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn good((code, out, err): (i32, String, String)) -> String {
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

#[test]
fn an_administrator_works_on_the_queue() {
    let mut daemon = Daemon::start();
    let one = daemon.deferred("one", "a@one.test");
    let two = daemon.deferred("two", "b@two.test");
    let three = daemon.deferred("three", "c@three.test");

    assert_eq!(good(daemon.ask(&["queue", "hold", &one, "--reason", "let me look"])), "held: 1 copy, 1 recipient\n");
    assert!(good(daemon.ask(&["queue", "list"])).contains("let me look"));
    let (code, out, _) = daemon.ask(&["queue", "retry", &one]);
    assert_eq!((code, out.lines().next().unwrap()), (1, &*format!("{one} to one.test: is on hold: release it")));
    assert_eq!(good(daemon.ask_with(&["queue", "release", "-"], &format!("{one}\n"))), "released: 1 copy, 1 recipient\n");
    assert_eq!(daemon.logged("released")["reason"], "no reason given");
    daemon.logged("deferred");

    let line: Value = serde_json::from_str(&good(daemon.ask(&["queue", "retry", "--domain", "two.*", "--json"]))).unwrap();
    assert_eq!((line["id"].as_str(), line["result"].as_str()), (Some(&*two), Some("done")));
    daemon.logged("deferred");
    assert_eq!(good(daemon.ask(&["queue", "bounce", "--to", "b@two.test"])), "bounced: 1 copy, 1 recipient\n");
    let (code, out, _) = daemon.ask(&["queue", "remove", &three, "01ARZ3NDEKTSV4RRFFQ69G5FAV"]);
    assert_eq!((code, out.as_str()), (1, "01ARZ3NDEKTSV4RRFFQ69G5FAV: there is no such message\nremoved: 1 copy, 1 recipient\n"));
    let shown = good(daemon.ask(&["queue", "show", &three]));
    assert!(shown.contains("Removed by uid ") && shown.contains("removed by the administrator of this server: no reason given"), "{shown}");
    assert!(good(daemon.ask(&["history"])).contains("removed by the administrator"));
    for (outcome, to) in [("bounced", "b@two.test"), ("removed", "c@three.test")] {
        let listed = good(daemon.ask(&["history", "--outcome", outcome]));
        assert!(listed.contains(to) && listed.ends_with("\n1 recipient\n"), "{outcome}: {listed}");
    }

    // However many ids come, all of them are asked about: two mebioctets of such that nobody knows, and one at their end.
    let many = (0..40_000).fold(String::new(), |many, n| many + &format!("01ARZ3NDEKTSV4RRFFQ69{n:05}{:>30}\n", ""));
    let (code, out, err) = daemon.ask_with(&["queue", "hold", "-", "--json"], &format!("{many}{one}\n"));
    assert_eq!((code, err.as_str(), out.lines().count()), (1, "", 40_001));
    assert!(out.lines().last().unwrap().contains(&one) && out.lines().last().unwrap().contains("\"done\""));

    assert_eq!(good(daemon.ask(&["queue", "hold", "--from", "nobody@*"])), "nothing in the queue is like that\n");
    let (code, out, err) = daemon.ask(&["queue", "remove", "--all"]);
    assert_eq!((code, out.as_str()), (64, ""), "{err}");
    assert!(err.contains("without a terminal needs --yes"), "{err}");
    for words in [
        &["queue", "remove"][..],
        &["queue", "remove", "--all", "--yes", "--tag", "x"],
        &["queue", "remove", "x"],
        &["queue", "remove", "-"],
    ] {
        assert_eq!(daemon.ask(words).0, 64, "{words:?}");
    }
    assert!(good(daemon.ask(&["queue", "remove", "--all", "--yes"])).starts_with("removed: "));

    let sites = good(daemon.ask(&["site", "list", "--json"]));
    let name = serde_json::from_str::<Value>(&sites).unwrap()["name"].as_str().unwrap().to_owned();
    assert!(good(daemon.ask(&["site", "pause", &name, "--reason", "they asked"])).contains("paused"));
    let table = good(daemon.ask(&["site"]));
    assert!(table.contains("rate 1000/s; paused by uid ") && table.contains("they asked"), "{table}");
    assert!(good(daemon.ask(&["site", "show", &name])).contains("they asked"));
    assert!(good(daemon.ask(&["site", "resume", &name, "--reason", "they are back"])).contains("resumed"));
    assert!(good(daemon.ask(&["site", "retry", &name])).contains(&name));
    assert!(good(daemon.ask(&["site", "pause", "elsewhere"])).contains("nothing was sent there of late"));
    assert_eq!(daemon.ask(&["site", "show", "nowhere"]).0, 1);
    assert!(good(daemon.ask(&["cache"])).contains("answers"));
    assert!(good(daemon.ask(&["cache", "flush"])).contains("forgot"));

    // Who may not read the queue is told who may.
    let nobody = {
        let database = daemon.directory.join("spool/queue/state.db");
        fs::set_permissions(&database, fs::Permissions::from_mode(0o000)).unwrap();
        let mut command = program();
        if nix::unistd::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        let answer = command.args(["queue", "list", "--config"]).arg(daemon.directory.join("c.toml")).output().unwrap();
        fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).unwrap();
        answer
    };
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert_eq!(nobody.status.code(), Some(77), "{said}");
    assert!(said.contains("state.db may not be read by this user: root may, and so may the members of the group "), "{said}");

    // With the daemon down, what reads goes on, and what changes says why it cannot.
    daemon.end();
    good(daemon.ask(&["queue", "list"]));
    good(daemon.ask(&["history"]));
    for words in [&["queue", "hold", &one][..], &["site", "resume", &name], &["cache"], &["cache", "flush"]] {
        let (code, out, err) = daemon.ask(words);
        assert_eq!((code, out.as_str()), (75, ""), "{words:?}");
        assert!(err.contains("the daemon does not run (nobody listens at ") && err.contains("start it and try again"), "{err}");
        assert_eq!(err.contains("the cache is the daemon's memory"), words[0] == "cache", "{err}");
    }
}

#[test]
fn with_the_daemon_down_sites_are_told_as_the_queue_has_them() {
    let mut daemon = Daemon::start();
    daemon.deferred("one", "a@one.test");
    let sites = good(daemon.ask(&["site", "list", "--json"]));
    let busy = serde_json::from_str::<Value>(&sites).unwrap()["name"].as_str().unwrap().to_owned();
    good(daemon.ask(&["site", "pause", "elsewhere", "--reason", "they move"]));
    daemon.end();

    let recorded = |words: &[&str]| {
        let (code, out, err) = daemon.ask(words);
        assert_eq!(code, 0, "{words:?}: {err}");
        let said = "smtp-direct: the daemon does not run (nobody listens at ";
        assert!(err.starts_with(said) && err.ends_with("): this is what the queue has on record\n"), "{err}");
        out
    };
    let sites: Vec<Value> = recorded(&["site", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let brief =
        |site: &Value| (site["name"].clone(), site["copies"].clone(), site["health"]["state"].clone(), site["paused"]["reason"].clone());
    let expected: [(Value, Value, Value, Value); 2] = [
        (busy.as_str().into(), 1.into(), "unknown".into(), Value::Null),
        ("1 elsewhere:25".into(), 0.into(), "unknown".into(), "they move".into()),
    ];
    assert_eq!(sites.iter().map(brief).collect::<Vec<_>>(), expected);
    let last = &sites.iter().find(|site| site["name"] == *busy).unwrap()["last"];
    assert!(last["outcome"] == "deferred" && last["text"].as_str().unwrap().contains("4.3.2 busy"), "{last}");

    let table = recorded(&["site", "list"]);
    assert!(table.contains("paused by uid ") && table.contains("they move") && table.contains("4.3.2 busy"), "{table}");
    let shown = recorded(&["site", "show", "elsewhere"]);
    assert!(shown.contains("they move") && !shown.contains("Sessions"), "{shown}");
    let shown = recorded(&["site", "show", &busy]);
    assert!(shown.contains("1 copy\n") && shown.contains("4.3.2 busy"), "{shown}");
    let (code, out, err) = daemon.ask(&["site", "show", "nowhere"]);
    assert!(code == 1 && out.is_empty() && err.contains("the queue has no site 1 nowhere:25"), "{code} {err}");
}

#[test]
fn a_queue_run_of_sendmail_tries_what_waits_and_says_where_it_cannot() {
    let mut daemon = Daemon::start();
    daemon.deferred("one", "a@one.test");
    let config = daemon.directory.join("c.toml");
    let sendmail = |config: &Path| program().args(["sendmail", "-q", "-C"]).arg(config).output().unwrap();
    assert!(sendmail(&config).status.success());
    assert_eq!(daemon.logged("retried")["reason"], "sendmail -q");
    daemon.end();
    let output = sendmail(&config);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(75) && said.starts_with("sendmail: the daemon does not run"), "{said}");
}

#[test]
fn without_a_socket_the_command_says_so() {
    let directory = std::env::temp_dir().join(format!("smtp-direct-actions-{}-{:x}", std::process::id(), fastrand::u64(..)));
    fs::create_dir_all(&directory).unwrap();
    let config = directory.join("c.toml");
    fs::write(&config, "hostname = \"mail.sender.test\"\n[control]\nsocket = \"\"\n").unwrap();
    let output = program().args(["site", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("it names no control.socket"));
    fs::remove_dir_all(&directory).unwrap();
}

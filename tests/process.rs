//! The program as its user starts it: commands, exit codes, signals, and what systemd hears.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No step of a daemon takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_smtp-direct"))
}

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("smtp-direct-test-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon process with its log and its notify socket.
struct Daemon {
    child: Child,
    log: mpsc::Receiver<String>,
    notify: UnixDatagram,
    config: PathBuf,
    directory: Directory,
}

impl Daemon {
    /// Everything goes to `server`.
    fn start(server: SocketAddr) -> Self {
        let directory = Directory::new();
        let spool = directory.0.join("spool");
        fs::create_dir(&spool).unwrap();
        let config = directory.write("smtp-direct.toml", &configuration(&spool, server, "info"));
        let socket = directory.0.join("notify");
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(LIMIT)).unwrap();
        let mut child =
            command().args(["run", "--config"]).arg(&config).env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines() {
                if lines.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut daemon = Self { child, log, notify, config, directory };
        daemon.told("READY=1");
        daemon
    }

    /// Waits for systemd to be told this; returns the whole message.
    fn told(&mut self, expected: &str) -> String {
        let mut buffer = [0; 1024];
        loop {
            let length = self.notify.recv(&mut buffer).unwrap();
            let message = text(&buffer[..length]);
            if message.lines().any(|line| line == expected) {
                return message;
            }
        }
    }

    /// Waits for a JSON log line with this message.
    fn logged(&self, message: &str) -> serde_json::Value {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.log.recv_timeout(LIMIT) else { panic!("not logged: {message}\n{}", seen.join("\n")) };
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if value["message"] == message {
                return value;
            }
            seen.push(line);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn drop_message(&self, name: &str, to: &str) {
        let spool = self.directory.0.join("spool");
        let built = spool.join("tmp").join(name);
        fs::write(&built, format!("From: a@sender.test\nTo: {to}\nSubject: x\n\nx\n")).unwrap();
        fs::rename(built, spool.join("drop").join(name)).unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let output = command().args(arguments).arg("--config").arg(&self.config).output().unwrap();
        assert_eq!(text(&output.stderr), "");
        output
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its own child, by the handle: gone already where the test waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(spool: &Path, server: SocketAddr, level: &str) -> String {
    format!(
        "hostname = \"mail.sender.test\"\n[spool]\npath = {spool:?}\n[log]\nformat = \"json\"\nlevel = \"{level}\"\n\
         [[dns.override]]\ndomain = \"*\"\nserver = \"{server}\"\ntls = \"none\"\n"
    )
}

/// A `sink` process on a port of its own choice.
struct Sink {
    child: Child,
    address: SocketAddr,
    _out: BufReader<std::process::ChildStdout>,
}

impl Sink {
    fn start() -> Self {
        let mut child = command().args(["sink", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.split([' ', ',', ';']).find_map(|word| word.trim().parse().ok());
        Self { child, address: address.unwrap_or_else(|| panic!("no address in {line:?}")), _out: out }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demonstration_goes_as_it_should() {
    let began = std::time::Instant::now();
    let output = run(&["demo"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("Everything went as it should: 8 transactions"), "{shown}");
    assert!(shown.contains("nobody@two.test") && shown.contains("550 5.1.1 There is nobody of that name here"), "{shown}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_daemon_delivers_reloads_and_drains() {
    let sink = Sink::start();
    let mut daemon = Daemon::start(sink.address);
    daemon.drop_message("one.eml", "b@one.test");
    let delivered = daemon.logged("delivered");
    assert_eq!((&delivered["to"], &delivered["code"]), (&"b@one.test".into(), &250.into()));
    daemon.logged("finished");

    let shown = daemon.ask(&["history", "--json"]);
    let row: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(row["to"], "b@one.test");
    let counted = daemon.ask(&["queue", "count", "--json"]);
    assert!(counted.status.success());

    fs::write(&daemon.config, "hostname = 7\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    assert!(daemon.told("RELOADING=1").contains("MONOTONIC_USEC="));
    daemon.told("READY=1");
    daemon.logged("the file has errors: the old configuration stays in effect");
    daemon.drop_message("two.eml", "c@two.test");
    daemon.logged("finished");

    let spool = daemon.directory.0.join("spool");
    fs::write(&daemon.config, configuration(&spool, sink.address, "debug")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.told("READY=1");
    daemon.logged("configuration reloaded");
    daemon.drop_message("three.eml", "d@three.test");
    daemon.logged("attempt");

    daemon.signal(Signal::SIGTERM);
    daemon.told("STOPPING=1");
    daemon.logged("stopped");
    assert!(daemon.child.wait().unwrap().success());
}

#[test]
fn a_second_daemon_names_the_first() {
    let daemon = Daemon::start("127.0.0.1:9".parse().unwrap());
    let second = command().args(["run", "--config"]).arg(&daemon.config).output().unwrap();
    assert_eq!(second.status.code(), Some(73));
    let said = text(&second.stderr);
    assert!(said.contains("in use by another smtp-direct") && said.contains(&daemon.child.id().to_string()), "{said}");
}

#[test]
fn a_missing_spool_directory_is_named() {
    let directory = Directory::new();
    let config = directory.write("c.toml", &configuration(&directory.0.join("nowhere"), "127.0.0.1:9".parse().unwrap(), "info"));
    let output = command().args(["run", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(73));
    assert!(text(&output.stderr).contains("nowhere does not exist: create it"), "{}", text(&output.stderr));
}

#[test]
fn exit_codes_are_those_of_sysexits() {
    let directory = Directory::new();
    let bad = directory.write("bad.toml", "hostname = \"mail.sender.test\"\n[sending]\nworkers = 0\nwrokers = 1\n");
    let bad = bad.to_str().unwrap();
    for (arguments, code) in [
        (vec!["nonsense"], 64),
        (vec!["queue", "--no-such-option"], 64),
        (vec!["check", "--config", bad], 78),
        (vec!["run", "--config", bad], 78),
        (vec!["queue", "--config", bad], 78),
        (vec!["check", "--config", "/nonexistent/smtp-direct.toml"], 78),
        (vec!["--help"], 0),
        (vec!["--version"], 0),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    }
    let errors = text(&run(&["check", "--config", bad]).stderr);
    assert!(errors.contains("bad.toml:3: sending.workers = 0") && errors.contains("bad.toml:4: sending.wrokers"), "{errors}");
}

#[test]
fn reading_a_queue_that_is_not_there_says_so() {
    let directory = Directory::new();
    let config = directory.write("c.toml", &configuration(&directory.0, "127.0.0.1:9".parse().unwrap(), "info"));
    let output = command().args(["queue", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(66));
    assert!(text(&output.stderr).contains("state.db"), "{}", text(&output.stderr));
}

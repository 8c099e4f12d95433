//! The live view as its user starts it: in a terminal of its own (script(1) makes one), beside a real daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No step takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_smtp-direct");
const LEAVES_THE_SCREEN: &str = "\u{1b}[?1049l";
const SHOWS_THE_CURSOR: &str = "\u{1b}[?25h";

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("smtp-direct-test-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("spool")).unwrap();
        let config =
            format!("hostname = \"mail.sender.test\"\n[spool]\npath = {:?}\n[dns]\nservers = [\"127.0.0.1:1\"]\n", path.join("spool"));
        fs::write(path.join("smtp-direct.toml"), config).unwrap();
        Self(path)
    }

    fn config(&self) -> PathBuf {
        self.0.join("smtp-direct.toml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with its test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(directory: &Directory) -> Process {
    let socket = directory.0.join(format!("notify-{:x}", fastrand::u64(..)));
    let notify = UnixDatagram::bind(&socket).unwrap();
    notify.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(directory.config()).env("NOTIFY_SOCKET", &socket).stderr(Stdio::null());
    let daemon = Process(command.spawn().unwrap());
    let mut buffer = [0; 1024];
    while !buffer.starts_with(b"READY=1") {
        notify.recv(&mut buffer).unwrap();
    }
    daemon
}

/// The view in a terminal of 80 columns and 24 lines.
struct Terminal {
    process: Process,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
    screen: String,
}

impl Terminal {
    fn start(config: &Path) -> Self {
        let line = format!("stty rows 24 cols 80; exec {BINARY} top --interval 200ms --config {}", config.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]).env("TERM", "xterm");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { process: Process(child), seen, screen: String::new() }
    }

    /// Waits until the terminal was sent this.
    fn shows(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.screen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(more) = self.seen.recv_timeout(left) else { panic!("{text:?} was not shown: {:?}", self.screen) };
            self.screen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn press(&mut self, key: &str) {
        self.process.0.stdin.as_mut().unwrap().write_all(key.as_bytes()).unwrap();
    }

    /// Its exit code; the terminal is as it was before.
    fn ends(mut self) -> i32 {
        self.shows(LEAVES_THE_SCREEN);
        self.shows(SHOWS_THE_CURSOR);
        self.process.0.wait().unwrap().code().unwrap()
    }
}

#[test]
fn without_a_daemon_it_says_so_and_ends_with_75() {
    let directory = Directory::new();
    let output = Command::new(BINARY).arg("top").arg("--config").arg(directory.config()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the daemon does not run"), "{said}");
    assert_eq!((output.status.code(), output.stdout), (Some(75), Vec::new()));
}

#[test]
fn without_a_terminal_it_says_so() {
    let directory = Directory::new();
    let _daemon = daemon(&directory);
    let output = Command::new(BINARY).arg("top").arg("--config").arg(directory.config()).output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
        (Some(64), "smtp-direct: top is for a terminal\n")
    );
}

#[test]
fn each_way_out_restores_the_terminal() {
    let directory = Directory::new();
    let _daemon = daemon(&directory);
    for key in ["q", "\u{3}", "\u{1b}"] {
        let mut terminal = Terminal::start(&directory.config());
        terminal.shows("mail.sender.test");
        terminal.shows("last outcomes");
        terminal.press(key);
        assert_eq!(terminal.ends(), 0, "{key:?}");
    }
}

#[test]
fn a_signal_restores_the_terminal_too() {
    let directory = Directory::new();
    let _daemon = daemon(&directory);
    let mut terminal = Terminal::start(&directory.config());
    terminal.shows("last outcomes");
    // Its own pid: that of the shell which script(1) started and which became it.
    let children = format!("/proc/{0}/task/{0}/children", terminal.process.0.id());
    let pid: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_daemon_that_goes_away_is_waited_for() {
    let directory = Directory::new();
    let first = daemon(&directory);
    let mut terminal = Terminal::start(&directory.config());
    terminal.shows("last outcomes");
    first.signal(Signal::SIGTERM);
    terminal.shows("no answer, trying on");
    drop(first);
    terminal.screen.clear();
    let _second = daemon(&directory);
    terminal.shows("q quit");
    terminal.press("q");
    assert_eq!(terminal.ends(), 0);
}

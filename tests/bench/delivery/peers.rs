//! Postfix and OpenSMTPD, started privately by peers.py and told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::client::{Client, Connection, Style};
use crate::letters::Letters;
use crate::mta::Mta;
use crate::process::{Cost, Process};

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postfix,
    OpenSmtpd,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Postfix, Self::OpenSmtpd];

    pub fn name(self) -> &'static str {
        match self {
            Self::Postfix => "Postfix",
            Self::OpenSmtpd => "OpenSMTPD",
        }
    }

    /// OpenSMTPD takes one command at a time, and a hundred messages a connection.
    fn style(self) -> Style {
        match self {
            Self::Postfix => Style::Pipelined,
            Self::OpenSmtpd => Style::Serial,
        }
    }
}

/// What both need: where they were unpacked, and what they were before that.
pub struct Fetched {
    cache: PathBuf,
    pub versions: String,
}

/// Fetches them, or finds them where they were put before.
pub fn fetch() -> Result<Fetched, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/setup.sh");
    eprintln!("delivery: {} (the first time takes a minute)", script.display());
    let done = Command::new(&script).stderr(Stdio::inherit()).output().map_err(|error| format!("{}: {error}", script.display()))?;
    if !done.status.success() {
        return Err("--peers: setup.sh failed; see above".to_owned());
    }
    let cache = PathBuf::from(String::from_utf8_lossy(&done.stdout).lines().last().unwrap_or_default().trim());
    let versions = format!("Postfix {}, OpenSMTPD {}", candidate("postfix"), candidate("opensmtpd"));
    Ok(Fetched { cache, versions })
}

/// The version that apt would fetch, which is the one that was fetched.
fn candidate(package: &str) -> String {
    let policy = Command::new("apt-cache").args(["policy", package]).output().map(|done| done.stdout).unwrap_or_default();
    let policy = String::from_utf8_lossy(&policy).into_owned();
    policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ")).unwrap_or("?").to_owned()
}

/// One of them, with a queue of its own.
pub struct Peer {
    kind: Kind,
    cache: PathBuf,
    home: PathBuf,
    sink: SocketAddr,
    listen: SocketAddr,
    limit: Duration,
    running: Option<Running>,
    one: Option<(Runtime, Connection)>,
}

struct Running {
    process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    root: u32,
}

impl Peer {
    pub fn new(kind: Kind, fetched: &Fetched, home: &Path, sink: SocketAddr, limit: Duration) -> Self {
        // Free now, and given to nobody by chance until it listens there: who connects on loopback comes from 127.0.0.1.
        let listen = TcpListener::bind(("127.0.1.1", 0)).unwrap().local_addr().unwrap();
        Self { kind, cache: fetched.cache.clone(), home: home.to_owned(), sink, listen, limit, running: None, one: None }
    }

    fn run(&mut self, hold: bool) -> Result<(), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/delivery/peers.py");
        let (home, listen, sink) = (self.home.display().to_string(), self.listen.to_string(), self.sink.to_string());
        let mut arguments = vec![script.to_str().unwrap(), self.kind.name(), &home, &listen, &sink];
        if hold {
            arguments.push("--hold");
        }
        let mut process = Process::start(Path::new("python3"), &arguments, |command| {
            command.env("INTEROP_CACHE", &self.cache).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let orders = process.child().stdin.take().unwrap();
        let answers = BufReader::new(process.child().stdout.take().unwrap());
        let mut running = Running { process, orders, answers, root: 0 };
        running.root = running.answer("ready")?.trim().parse().map_err(|error| format!("{}: {error}", self.kind.name()))?;
        self.running = Some(running);
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Running, String> {
        self.running.as_mut().ok_or_else(|| format!("{} does not run", self.kind.name()))
    }

    fn client(&self) -> Client {
        Client { to: self.listen, style: self.kind.style(), connections: 10, per_connection: 100 }
    }
}

impl Running {
    /// The rest of the line that begins so. The script bounds each of its steps in time.
    fn answer(&mut self, word: &str) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        line.strip_prefix(word).map(str::to_owned).ok_or_else(|| format!("peers.py did not say {word:?} but {line:?}; see above"))
    }
}

impl Mta for Peer {
    fn fill(&mut self, letters: &Letters) -> Result<(), String> {
        self.run(true)?;
        self.submit(letters)?;
        // Until the last one lies where it waits.
        Cost::at_rest(self.root()?);
        Command::new("sync").status().map(drop).map_err(|error| format!("sync: {error}"))
    }

    fn release(&mut self) -> Result<(), String> {
        writeln!(self.running()?.orders, "release").map_err(|error| error.to_string())
    }

    fn start(&mut self) -> Result<(), String> {
        self.run(false)
    }

    fn prepare(&mut self, _letters: &Letters) -> Result<(), String> {
        Ok(())
    }

    fn submit(&mut self, letters: &Letters) -> Result<(), String> {
        self.client().send(letters, self.limit).map(drop).map_err(|error| format!("handing in to {}: {error}", self.kind.name()))
    }

    fn submit_one(&mut self, letters: &Letters, n: usize) -> Result<Instant, String> {
        let (runtime, mut connection) = match self.one.take() {
            Some(one) if !n.is_multiple_of(100) => one,
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let connection = runtime.block_on(Connection::open(self.listen))?;
                (runtime, connection)
            }
        };
        let at = runtime.block_on(connection.deliver(letters, n))?;
        self.one = Some((runtime, connection));
        Ok(at)
    }

    fn root(&mut self) -> Result<u32, String> {
        let running = self.running()?;
        running.process.check()?;
        Ok(running.root)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(Running { process, orders, .. }) = self.running.take() {
            // The end of its orders is the order to end.
            drop(orders);
            process.wait(Duration::from_secs(10));
        }
    }
}

//! smtp-direct as its user runs it: the release binary, a spool on the disk, one override a site.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use smtp_direct::clock::Timestamp;
use smtp_direct::message::{Address, Domain, Envelope, MessageId, ReversePath, Stamp, scan};
use smtp_direct::queue::{Fingerprint, NewMessage, Source, SqliteStore, Store};
use smtp_direct::spool::Layout;

use crate::letters::{Letters, SENDER, hostname};
use crate::mta::Mta;
use crate::process::Process;

/// Messages that one commit of [`SmtpDirect::fill`] takes.
const BATCH: usize = 1000;

/// One daemon and its spool.
pub struct SmtpDirect {
    binary: PathBuf,
    home: PathBuf,
    layout: Layout,
    process: Option<Process>,
}

impl SmtpDirect {
    /// Below `home`, with ten workers for one site too. `sending` and `smtp`: lines for those sections.
    pub fn new(binary: &Path, home: &Path, sink: &[SocketAddr], sending: &str, smtp: &str) -> Self {
        let layout = Layout::new(home.join("spool"));
        fs::create_dir_all(layout.root()).unwrap();
        layout.create().unwrap();
        fs::write(home.join("smtp-direct.toml"), configuration(layout.root(), sink, sending, smtp)).unwrap();
        Self { binary: binary.to_owned(), home: home.to_owned(), layout, process: None }
    }

    /// Whether this binary knows such a line of the section `smtp`.
    pub fn knows(binary: &Path, home: &Path, smtp: &str) -> bool {
        let file = home.join("probe.toml");
        fs::write(&file, configuration(home, &[SocketAddr::from(([127, 0, 0, 1], 25))], "", smtp)).unwrap();
        Command::new(binary).args(["check", "--config"]).arg(file).output().is_ok_and(|done| done.status.success())
    }

    /// Where its queue is.
    pub fn database(&self) -> PathBuf {
        self.layout.database()
    }

    /// Runs it, and returns at once.
    pub fn spawn(&mut self) -> Result<UnixDatagram, String> {
        let socket = self.home.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        let log = File::create(self.home.join("log")).map_err(|error| error.to_string())?;
        let config = self.home.join("smtp-direct.toml");
        self.process = Some(Process::start(&self.binary, &["run", "--config", config.to_str().unwrap()], |command| {
            // As the unit has it.
            command.env("MALLOC_ARENA_MAX", "4");
            command.env("NOTIFY_SOCKET", &socket).stderr(log.try_clone().unwrap()).stdout(log);
        })?);
        Ok(notify)
    }

    fn told(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        log.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }
}

impl Mta for SmtpDirect {
    /// Writes the files and the rows that intake would have written.
    fn fill(&mut self, letters: &Letters) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store_error = |error| format!("filling the queue: {error}");
        runtime.block_on(async {
            let store = SqliteStore::open(&self.layout.database()).map_err(store_error)?;
            for first in (0..letters.count).step_by(BATCH) {
                let batch = (first..letters.count.min(first + BATCH)).map(|n| put(&self.layout, letters, n)).collect();
                store.accept(batch).await.map_err(store_error)?;
            }
            store.close().await;
            Ok::<_, String>(())
        })?;
        // What the system has yet to write would be written during the measurement.
        Command::new("sync").status().map(drop).map_err(|error| format!("sync: {error}"))
    }

    fn release(&mut self) -> Result<(), String> {
        self.spawn().map(drop)
    }

    fn start(&mut self) -> Result<(), String> {
        let notify = self.spawn()?;
        notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut message = [0; 1024];
        loop {
            let length = notify.recv(&mut message).map_err(|error| format!("smtp-direct is not ready ({error}): {}", self.told()))?;
            if String::from_utf8_lossy(&message[..length]).contains("READY=1") {
                return Ok(());
            }
        }
    }

    fn prepare(&mut self, letters: &Letters) -> Result<(), String> {
        for n in 0..letters.count {
            fs::write(self.layout.tmp().join(format!("{n}.eml")), letters.content(n)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn submit(&mut self, letters: &Letters) -> Result<(), String> {
        let (tmp, drop) = (self.layout.tmp(), self.layout.drop());
        (0..letters.count).try_for_each(|n| {
            let name = format!("{n}.eml");
            fs::rename(tmp.join(&name), drop.join(&name)).map_err(|error| format!("{name}: {error}"))
        })
    }

    fn submit_one(&mut self, _letters: &Letters, n: usize) -> Result<Instant, String> {
        let name = format!("{n}.eml");
        let now = Instant::now();
        fs::rename(self.layout.tmp().join(&name), self.layout.drop().join(&name)).map_err(|error| format!("{name}: {error}"))?;
        Ok(now)
    }

    fn root(&mut self) -> Result<u32, String> {
        let told = self.told();
        let process = self.process.as_mut().ok_or("smtp-direct does not run")?;
        process.check().map_err(|error| format!("{error}: {told}"))?;
        Ok(process.id())
    }
}

impl Drop for SmtpDirect {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(Duration::from_secs(10));
        }
    }
}

fn configuration(spool: &Path, sink: &[SocketAddr], sending: &str, smtp: &str) -> String {
    let mut text = format!("hostname = \"{}\"\n[spool]\npath = {spool:?}\n", hostname());
    text += &format!("[sending]\nworkers = 10\nper_site = 10\n{sending}\n[smtp]\n{smtp}\n");
    for (site, address) in sink.iter().enumerate() {
        text += &format!("[[dns.override]]\ndomain = \"*.s{site}.test\"\nserver = \"{address}\"\ntls = \"none\"\n");
    }
    text
}

/// Writes one message's file at its place and makes its row.
fn put(layout: &Layout, letters: &Letters, n: usize) -> NewMessage {
    let now = Timestamp::now();
    let content = letters.content(n);
    let id = MessageId::new(now);
    let hostname: Domain = hostname();
    let scanned = scan(&content[..], &Stamp { id, hostname: &hostname, now }).unwrap();
    // Made where programs make it, and moved: a disk keeps files of one directory together, wherever they are moved later.
    let (built, path) = (layout.tmp().join(format!("{n}.eml")), layout.message_file(id));
    fs::write(&built, &content).unwrap();
    if let Err(error) = fs::rename(&built, &path) {
        assert!(error.kind() == std::io::ErrorKind::NotFound, "{}: {error}", path.display());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::rename(&built, &path).unwrap();
    }
    NewMessage {
        id,
        source: Source { name: format!("{n}.eml"), fingerprint: Fingerprint::of(&fs::metadata(&path).unwrap()) },
        envelope: Envelope::new(ReversePath::parse(SENDER).unwrap(), [Address::parse(&letters.recipient(n)).unwrap()]),
        content: scanned.content,
        accepted_at: now,
        expires_at: now + Duration::from_secs(432_000),
    }
}

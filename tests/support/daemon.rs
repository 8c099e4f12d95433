//! The whole daemon in the test's process: a spool of its own, an internet in memory, time that the test owns, and its log as values.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smtp_direct::clock::Timestamp;
use smtp_direct::config::Config;
use smtp_direct::daemon::{self, DaemonError, World};
use smtp_direct::observe::metrics::Metrics;
use smtp_direct::observe::tap::{self, Seen, Tap};
use smtp_direct::queue::SqliteInspect;
use smtp_direct::spool::Layout;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt;

use crate::clock::TestClock;
use crate::net::Net;

/// A daemon under test.
pub struct Daemon {
    pub net: Net,
    pub layout: Layout,
    pub reloads: mpsc::Sender<Config>,
    /// Everything logged so far.
    pub log: Vec<Seen>,
    events: mpsc::UnboundedReceiver<Seen>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), DaemonError>>>,
    clock: TestClock,
    metrics: Arc<OnceLock<Arc<Metrics>>>,
    /// How long an event is waited for, on the test's clock.
    limit: Duration,
    directory: Directory,
    text: String,
    _subscriber: tracing::subscriber::DefaultGuard,
}

/// A directory of the test's own, gone at its end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("smtp-direct-test-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left to the system's cleaning of its temporary directory if it cannot be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Daemon {
    /// Starts one in a test on real time.
    pub fn start_in_real_time(net: &Net, configuration: &str) -> Self {
        Self { limit: Duration::from_secs(60), ..Self::start(net, configuration) }
    }

    /// Starts one with this configuration besides host name and spool, in a test on paused time.
    pub fn start(net: &Net, configuration: &str) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let subscriber = tracing_subscriber::registry().with(Tap(sender));
        tap::not_alone();
        let guard = tracing::subscriber::set_default(subscriber);
        let directory = Directory::new();
        let clock = TestClock::from(Timestamp::now());
        let (reloads, _) = mpsc::channel(1);
        let mut daemon = Self {
            net: net.clone(),
            layout: Layout::new(&directory.0),
            reloads,
            log: Vec::new(),
            events,
            stop: None,
            task: None,
            clock,
            metrics: Arc::default(),
            // A retry schedule of days may pass between two events.
            limit: Duration::from_secs(60 * 24 * 60 * 60),
            directory,
            text: configuration.to_owned(),
            _subscriber: guard,
        };
        daemon.layout.create().unwrap();
        daemon.resume();
        daemon
    }

    /// The configuration with this text besides host name and spool; a text that begins with the section `[spool]` adds to it.
    pub fn config(&self, text: &str) -> Config {
        let split = text.find('[').unwrap_or(text.len());
        let (top, sections) = text.split_at(split);
        let sections = sections.strip_prefix("[spool]").unwrap_or(sections);
        let whole =
            format!("hostname = \"mail.sender.test\"\n{top}\n[spool]\npath = {:?}\nsettle = \"10ms\"\n{sections}", self.directory.0);
        Config::parse(&whole, &self.directory.0, "test.toml").unwrap()
    }

    /// Starts it again on the same spool.
    pub fn resume(&mut self) {
        let config = self.config(&self.text);
        self.metrics = Arc::default();
        let (reloads, receiver) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let world = World {
            clock: Arc::new(self.clock),
            dns: Some(Arc::new(self.net.clone())),
            dialer: Some(Arc::new(self.net.clone())),
            addresses: Some(Vec::new()),
            metrics: self.metrics.clone(),
        };
        self.reloads = reloads;
        self.stop = Some(stop);
        self.task = Some(tokio::spawn(async move {
            daemon::run(config, world, receiver, async {
                let _ = stopped.await;
            })
            .await
        }));
    }

    /// Drops a message for these recipients, from alice@sender.test.
    pub fn drop_message(&self, name: &str, recipients: &[&str]) {
        self.drop_from(name, "alice@sender.test", recipients);
    }

    /// The same from a sender of choice; "" is the null sender.
    pub fn drop_from(&self, name: &str, sender: &str, recipients: &[&str]) {
        let list: Vec<String> = recipients.iter().map(|recipient| format!("{recipient:?}")).collect();
        let sidecar = format!("from = {sender:?}\nto = [{}]\n", list.join(", "));
        self.drop_with(name, &sidecar, &format!("From: alice@sender.test\r\nSubject: {name}\r\n\r\nHello from {name}.\r\n"));
    }

    /// Drops content with a TOML sidecar.
    pub fn drop_with(&self, name: &str, sidecar: &str, content: &str) {
        fs::write(self.layout.drop().join(format!("{name}.toml")), sidecar).unwrap();
        let built = self.layout.tmp().join(format!("{name}.eml"));
        fs::write(&built, content).unwrap();
        fs::rename(built, self.layout.drop().join(format!("{name}.eml"))).unwrap();
    }

    /// Waits until `count` events of this kind were logged since the start of the test; panics if that does not happen.
    pub async fn wait_for(&mut self, verb: &str, count: usize) -> Vec<Seen> {
        let real = std::time::Instant::now();
        let deadline = tokio::time::Instant::now() + self.limit;
        while self.seen(verb).len() < count {
            assert!(real.elapsed() < Duration::from_secs(60), "no {count} × {verb} within a minute: {:#?}", self.log);
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.log.push(event),
                other => panic!("no {count} × {verb} ({other:?}): {:#?}", self.log),
            }
        }
        self.seen(verb)
    }

    /// Events of this kind so far.
    pub fn seen(&mut self, verb: &str) -> Vec<Seen> {
        while let Ok(event) = self.events.try_recv() {
            self.log.push(event);
        }
        self.log.iter().filter(|event| event.verb == verb).cloned().collect()
    }

    /// Hands events to `look` as they come, without keeping them, until it has seen enough.
    pub async fn watch(&mut self, mut look: impl FnMut(&Seen) -> bool) {
        let deadline = tokio::time::Instant::now() + self.limit;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            if look(&event.expect("it does not come about").expect("the daemon lives")) {
                return;
            }
        }
    }

    /// Ends it as SIGTERM does.
    pub async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take() {
            task.await.unwrap().unwrap();
        }
    }

    /// Waits until it has ended by itself, and says why.
    pub async fn fails(&mut self) -> DaemonError {
        let ended = tokio::time::timeout(self.limit, self.task.take().unwrap()).await.expect("it goes on");
        self.stop = None;
        ended.unwrap().unwrap_err()
    }

    /// Ends it at once, wherever it is: as near to kill -9 as one process gets.
    pub async fn kill(&mut self) {
        self.stop = None;
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Whether it has metrics: all its parts are made.
    pub fn is_up(&self) -> bool {
        self.metrics.get().is_some()
    }

    /// What `GET /metrics` would answer. The daemon must have said something.
    pub async fn metrics(&self) -> String {
        self.metrics.get().unwrap().render().await
    }

    /// What the command line would read.
    pub fn inspect(&self) -> SqliteInspect {
        SqliteInspect::open(&self.layout.database()).unwrap()
    }

    /// Names in a directory of the spool, sorted.
    pub fn names(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

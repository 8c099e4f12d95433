//! An intake that runs on a test's spool, and what comes out of it. The including test has `spool` and `store` too.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use smtp_direct::clock::SystemClock;
use smtp_direct::message::{ContentReader, Domain};
use smtp_direct::observe::metrics::Counts;
use smtp_direct::queue::QueuedCopy;
use smtp_direct::spool::{Intake, IntakeError, IntakeSettings, Placing, Results};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::spool::TestSpool;
use super::store::MemoryStore;

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough to be told from "at once", short enough to wait for.
pub const SETTLE: Duration = Duration::from_millis(200);

/// Intake on a spool of its own. Stopped by [`stop`](Self::stop), or with the test.
pub struct Running {
    pub spool: TestSpool,
    pub store: Arc<MemoryStore>,
    pub placing: Arc<Placing>,
    pub counts: Arc<Counts>,
    pub settings: watch::Sender<Arc<IntakeSettings>>,
    offered: mpsc::UnboundedReceiver<Vec<QueuedCopy>>,
    copies: VecDeque<QueuedCopy>,
    rejections: EventStream<Vec<u8>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), IntakeError>>,
}

pub fn settings() -> IntakeSettings {
    IntakeSettings {
        hostname: Domain::parse("mail.example.com").unwrap(),
        settle: SETTLE,
        rescan: Duration::from_secs(30),
        lifetime: Duration::from_secs(5 * 24 * 3600),
        min_free: smtp_direct::config::MinFree::default(),
    }
}

impl Running {
    pub fn new() -> Self {
        Self::with(TestSpool::new(), MemoryStore::new(), settings())
    }

    pub fn on(spool: TestSpool) -> Self {
        Self::with(spool, MemoryStore::new(), settings())
    }

    pub fn with(spool: TestSpool, store: Arc<MemoryStore>, settings: IntakeSettings) -> Self {
        let rejections = Inotify::init().unwrap();
        rejections.watches().add(spool.layout().rejected(), WatchMask::MOVED_TO).unwrap();
        let (settings, receiver) = watch::channel(Arc::new(settings));
        let (sender, offered) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let placing = Arc::new(Placing::in_doubt(spool.layout()));
        let counts = Arc::new(Counts::default());
        let intake = Intake {
            layout: spool.layout(),
            settings: receiver,
            store: store.clone(),
            clock: Arc::new(SystemClock),
            results: Arc::new(Results::new(spool.layout(), false)),
            placing: placing.clone(),
            offer: Arc::new(move |copies| {
                let _ = sender.send(copies);
            }),
            counts: counts.clone(),
            standing: Arc::default(),
        };
        let task = tokio::spawn(intake.run(async {
            let _ = stopped.await;
        }));
        let rejections = rejections.into_event_stream(vec![0; 4096]).unwrap();
        Self { spool, store, placing, counts, settings, offered, copies: VecDeque::new(), rejections, stop, task }
    }

    /// The next copy that is offered.
    pub async fn copy(&mut self) -> QueuedCopy {
        while self.copies.is_empty() {
            self.copies.extend(timeout(PATIENCE, self.offered.recv()).await.expect("a copy is offered").expect("intake runs"));
        }
        self.copies.pop_front().unwrap()
    }

    /// So many copies.
    pub async fn copies(&mut self, count: usize) -> Vec<QueuedCopy> {
        let mut copies = Vec::new();
        while copies.len() < count {
            copies.push(self.copy().await);
        }
        copies
    }

    /// Whether a copy was offered that nobody took.
    pub fn is_quiet(&mut self) -> bool {
        self.copies.is_empty() && self.offered.try_recv().is_err()
    }

    /// Waits until a message is in `rejected/`; gives its reason.
    pub async fn rejection(&mut self, stem: &str) -> String {
        let wanted = OsString::from(format!("{stem}.eml"));
        loop {
            let event = timeout(PATIENCE, self.rejections.next()).await.expect("a file is rejected").unwrap().unwrap();
            if event.name.as_ref() == Some(&wanted) {
                return self.spool.reason(stem);
            }
        }
    }

    /// What of a copy goes on the wire.
    pub fn wire(&self, copy: &QueuedCopy) -> String {
        let mut wire = String::new();
        let path = self.spool.layout().message_file(copy.message.id);
        ContentReader::open(&path, &copy.message.content).unwrap().read_to_string(&mut wire).unwrap();
        assert_eq!(wire.len() as u64, copy.message.content.wire_size);
        wire
    }

    /// Stops intake, and gives back what it worked on.
    pub async fn stop(self) -> (TestSpool, Arc<MemoryStore>) {
        let _ = self.stop.send(());
        timeout(PATIENCE, self.task).await.expect("intake stops").unwrap().unwrap();
        (self.spool, self.store)
    }

    /// Waits for intake to end by itself.
    pub async fn ended(self) -> Result<(), IntakeError> {
        timeout(PATIENCE, self.task).await.expect("intake ends").unwrap()
    }
}

/// `sender: recipient recipient …`
pub fn shown(copy: &QueuedCopy) -> String {
    let to: Vec<_> = copy.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
    format!("{}: {}", copy.message.sender, to.join(" "))
}

//! What a crash left in the queue's own directories: takes it, hands on a spool in which every message file has its row and every row its
//! file. [`recover`] is what must be done before anything is sent, and takes no longer than there are reports under way; [`repair`] looks
//! through everything, beside a running daemon.
//!
//! What stands in `drop/` is intake's: it [recognises](super::recognise) what was accepted, and until it has looked at everything,
//! [`Placing`] keeps what has no file from being sent.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{Layout, Placing, Results};
use crate::clock::{Clock, Timestamp};
use crate::message::MessageId;
use crate::queue::{Known, Store, StoreError};

/// Files or rows that are looked at together.
const PAGE: usize = 1000;
/// Progress is logged each time so many were looked at.
const PROGRESS: u64 = 100_000;
/// Between pages, [`repair`] rests so many times as long as a page took: a queue of any size is looked through in the background.
const REST: u32 = 4;
/// And no longer than this, should a page have waited for others.
const MAX_REST: Duration = Duration::from_secs(1);

/// What was found and put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Staged reports whose row was committed: moved to their places.
    pub staged_placed: u64,
    /// Staged reports without a row: removed.
    pub staged_removed: u64,
    /// Message files whose messages are finished: removed.
    pub finished_removed: u64,
    /// Message files without a row: moved to `failed/`.
    pub without_row: u64,
    /// Unfinished messages whose file is missing or empty: made due, so that they are closed as damaged.
    pub without_file: u64,
}

/// Why start-up cannot go on. Nothing is lost: the next start tries again.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// A file or directory.
    #[error("spool: {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reports that were written before their row: with it they go to their place, without it they never were. To be called once, before
/// anything is sent; it reads a directory on the thread that it runs on.
pub async fn recover(layout: &Layout, store: &dyn Store) -> Result<Recovered, RecoverError> {
    name_strangers(layout)?;
    let mut done = Recovered::default();
    let mut files = Pages::open(&layout.staging())?;
    loop {
        let ids = files.next(|entry| message_id(&entry).filter(|id| layout.stage(*id) == entry.path()))?;
        if ids.is_empty() {
            return Ok(done);
        }
        let known = store.known_ids(ids.clone()).await?;
        for (id, known) in ids.iter().zip(known) {
            let path = layout.stage(*id);
            // That of a finished one is let go from its place, by `repair`: its result may still be due.
            if known.is_some() {
                layout.place_staged(*id).map_err(io_error("moving to queue/messages/", &path))?;
                done.staged_placed += 1;
            } else {
                layout.remove_staged(*id).map_err(io_error("removing", &path))?;
                tracing::info!(id = %id, "a report that was not accepted before the daemon ended: removed");
                done.staged_removed += 1;
            }
        }
    }
}

/// Files in `queue/` that are not the daemon's own: told of, and left alone.
fn name_strangers(layout: &Layout) -> Result<(), RecoverError> {
    /// Each start tells of so many.
    const NAMED: usize = 20;
    let own = [layout.lock_file(), layout.messages(), layout.staging(), layout.journal()];
    let database = layout.database();
    // Its WAL and those that were set aside have names that begin with the database's.
    let is_database = |name: &OsStr| database.file_name().is_some_and(|own| name.as_encoded_bytes().starts_with(own.as_encoded_bytes()));
    let stranger = |entry: fs::DirEntry| {
        let path = entry.path();
        (!own.contains(&path) && !is_database(&entry.file_name())).then_some(path)
    };
    for path in Pages::open(&layout.queue())?.next(stranger)?.into_iter().take(NAMED) {
        tracing::warn!(path = %path.display(), "this file does not belong into the queue's directories: it is left alone");
    }
    Ok(())
}

/// Looks through `queue/messages/`, then through the rows, beside intake and delivery: waits until intake is past what stood in `drop/`,
/// and takes its time. Memory stays within a page, whatever the size of the queue. Dropping it is harmless; the next start looks again.
/// Where results are wanted, a finished message whose file is still there is given its result before the file goes.
pub async fn repair(
    layout: &Layout,
    store: &dyn Store,
    clock: &dyn Clock,
    placing: &Placing,
    results: Arc<Results>,
) -> Result<Recovered, RecoverError> {
    placing.without_doubt().await;
    let mut repair = Repair {
        layout,
        store,
        placing,
        results,
        began_at: clock.now(),
        done: Recovered::default(),
        looked_at: 0,
        page_began: Instant::now(),
    };
    repair.placed().await?;
    repair.rows(clock).await?;
    Ok(repair.done)
}

struct Repair<'a> {
    layout: &'a Layout,
    store: &'a dyn Store,
    placing: &'a Placing,
    results: Arc<Results>,
    /// What is finished later is delivery's to let go.
    began_at: Timestamp,
    done: Recovered,
    looked_at: u64,
    page_began: Instant,
}

impl Repair<'_> {
    /// Message files whose row is finished or missing.
    async fn placed(&mut self) -> Result<(), RecoverError> {
        let mut shards = Pages::open(&self.layout.messages())?;
        loop {
            let page = shards.next(|entry| entry.file_type().ok()?.is_dir().then(|| entry.path()))?;
            if page.is_empty() {
                return Ok(());
            }
            for shard in page {
                self.shard(&shard).await?;
            }
        }
    }

    async fn shard(&mut self, shard: &Path) -> Result<(), RecoverError> {
        let mut files = Pages::open(shard)?;
        loop {
            let layout = self.layout.clone();
            let wanted = move |entry: fs::DirEntry| message_id(&entry).filter(|id| layout.message_file(*id) == entry.path());
            let (ids, rest) = blocking(move || (files.next(wanted), files)).await?;
            files = rest;
            let ids = ids?;
            if ids.is_empty() {
                return Ok(());
            }
            // A file comes here after its row, and goes after its row is finished: one without a row never had one.
            let known = self.store.known_ids(ids.clone()).await?;
            for (id, known) in ids.iter().zip(known) {
                if known.is_none_or(|known| known.finished_at.is_some()) {
                    self.left_over(*id, known).await?;
                }
            }
            self.rest(ids.len()).await;
        }
    }

    /// A message file that nobody will send.
    async fn left_over(&mut self, id: MessageId, known: Option<Known>) -> Result<(), RecoverError> {
        let path = self.layout.message_file(id);
        // One that was finished beside this look is delivery's.
        let ended_since = known.and_then(|known| known.finished_at).is_some_and(|at| at > self.began_at);
        if ended_since || !path.exists() {
            return Ok(());
        }
        if known.is_some() {
            if !self.result(id).await? {
                return Ok(());
            }
            self.done.finished_removed += 1;
        } else {
            let reason = "the queue has no record of this message: its sender and recipients are lost with it; \
                          drop it again with an envelope if it is still wanted";
            self.layout.keep_failed(id, reason).map_err(io_error("moving to failed/", &path))?;
            tracing::error!(id = %id, reason, "a message file without a record is kept in failed/");
            self.done.without_row += 1;
        }
        self.layout.remove_message(id).map_err(io_error("removing", &path))
    }

    /// Writes the result of a finished message: the last daemon may have ended before it did. `false`: its file is to stay.
    async fn result(&self, id: MessageId) -> Result<bool, RecoverError> {
        if !self.results.are_wanted() {
            return Ok(true);
        }
        let results = Arc::clone(&self.results);
        let details = self.store.details(vec![id]).await?;
        let written: io::Result<()> = blocking(move || results.write_late(&details).into_iter().collect()).await?;
        if let Err(error) = &written {
            tracing::error!(%id, %error, "the result of a finished message cannot be written; the next start tries again");
        }
        Ok(written.is_ok())
    }

    /// Unfinished messages whose file is missing or empty: the attempt will find that, and tell the sender.
    async fn rows(&mut self, clock: &dyn Clock) -> Result<(), RecoverError> {
        let mut after = None;
        loop {
            let ids = self.store.unfinished(after, PAGE).await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(*last);
            let count = ids.len();
            let damaged = self.without_file(ids).await?;
            let damaged = self.still_wanted(damaged).await?;
            if !damaged.is_empty() {
                for id in &damaged {
                    tracing::error!(id = %id, "the message file is missing or empty: the message is given up as damaged");
                }
                self.done.without_file += damaged.len() as u64;
                self.store.wake(damaged, clock.now()).await?;
            }
            self.rest(count).await;
        }
    }

    async fn without_file(&self, ids: Vec<MessageId>) -> Result<Vec<MessageId>, RecoverError> {
        let layout = self.layout.clone();
        let usable = move |id: &MessageId| fs::metadata(layout.message_file(*id)).is_ok_and(|found| found.is_file() && found.len() > 0);
        blocking(move || ids.into_iter().filter(|id| !usable(id)).collect()).await
    }

    /// Those of them that were not on their way to their place, or finished, when they were looked for.
    async fn still_wanted(&self, missing: Vec<MessageId>) -> Result<Vec<MessageId>, RecoverError> {
        if missing.is_empty() {
            return Ok(missing);
        }
        let missing: Vec<MessageId> = missing.into_iter().filter(|id| !self.placing.contains(*id)).collect();
        let known = self.store.known_ids(missing.clone()).await?;
        let unfinished = |known: Option<Known>| known.is_some_and(|known| known.finished_at.is_none());
        let missing = missing.into_iter().zip(known).filter(|(_, known)| unfinished(*known)).map(|(id, _)| id).collect();
        // One that has arrived since is no longer on its way.
        self.without_file(missing).await
    }

    /// Between pages: others come first.
    async fn rest(&mut self, count: usize) {
        let before = self.looked_at / PROGRESS;
        self.looked_at += count as u64;
        if self.looked_at / PROGRESS > before {
            tracing::info!(looked_at = self.looked_at, "looking through the queue for what the daemon's last end left behind");
        }
        sleep((self.page_began.elapsed() * REST).min(MAX_REST)).await;
        self.page_began = Instant::now();
    }
}

/// Off the runtime's threads, which others wait for.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RecoverError> {
    spawn_blocking(work).await.map_err(|panic| RecoverError::Io {
        doing: "looking through",
        path: PathBuf::new(),
        source: io::Error::other(panic),
    })
}

/// A directory, read a page at a time.
struct Pages {
    path: PathBuf,
    entries: fs::ReadDir,
}

impl Pages {
    fn open(path: &Path) -> Result<Self, RecoverError> {
        let entries = fs::read_dir(path).map_err(io_error("reading", path))?;
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The next entries that `wanted` makes something of; none at the end.
    fn next<T>(&mut self, wanted: impl Fn(fs::DirEntry) -> Option<T>) -> Result<Vec<T>, RecoverError> {
        let mut page = Vec::new();
        for entry in &mut self.entries {
            page.extend(wanted(entry.map_err(io_error("reading", &self.path))?));
            if page.len() == PAGE {
                break;
            }
        }
        Ok(page)
    }
}

/// The id in the name of a message file.
fn message_id(entry: &fs::DirEntry) -> Option<MessageId> {
    let name = entry.file_name();
    let id = name.to_str()?.strip_suffix(".eml").and_then(|stem| stem.parse().ok());
    if id.is_none() {
        tracing::warn!(path = %entry.path().display(), "this file does not belong into the queue's directories: it is left alone");
    }
    id
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RecoverError + 'a {
    move |source| RecoverError::Io { doing, path: path.to_owned(), source }
}

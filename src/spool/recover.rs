//! Start-up: takes what a crash left in the spool, hands on a spool in which every message file has its row and every row its file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::judge::fingerprint;
use super::names::{self, Class, classify};
use super::{Layout, files};
use crate::clock::Clock;
use crate::message::MessageId;
use crate::queue::{Known, Source, Store, StoreError};

/// Files or rows that are looked at together.
const PAGE: usize = 1000;
/// Progress is logged each time so many were looked at.
const PROGRESS: u64 = 100_000;

/// What was found and put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Files in `drop/` whose messages are finished: removed.
    pub dropped_finished: u64,
    /// Files in `drop/` whose messages were accepted: moved to their places.
    pub dropped_placed: u64,
    /// Staged reports whose row was committed: moved to their places.
    pub staged_placed: u64,
    /// Staged reports without a row, or finished: removed.
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

/// Finishes what was begun and takes back what was not: `drop/`, then `queue/staging/`, then `queue/messages/`, then the rows. To be
/// called once, before intake and scheduler start; it reads directories on the thread that it runs on. Memory stays within a page, whatever the size of the spool.
pub async fn recover(layout: &Layout, store: &dyn Store, clock: &dyn Clock) -> Result<Recovered, RecoverError> {
    let mut recovery = Recovery { layout, store, done: Recovered::default(), looked_at: 0 };
    recovery.dropped().await?;
    recovery.staged().await?;
    recovery.placed().await?;
    recovery.rows(clock).await?;
    Ok(recovery.done)
}

struct Recovery<'a> {
    layout: &'a Layout,
    store: &'a dyn Store,
    done: Recovered,
    looked_at: u64,
}

/// A dropped file and what the queue would know it by.
type Dropped = (OsString, Source);

impl Recovery<'_> {
    /// Files in `drop/` that were accepted: the row is there, the rename was lost. Others are left to intake.
    async fn dropped(&mut self) -> Result<(), RecoverError> {
        let directory = self.layout.drop();
        let mut names = Pages::open(&directory)?;
        loop {
            let page: Vec<Dropped> = names.next(|entry| {
                let name = entry.file_name();
                let found = (classify(&name) == Class::Message).then(|| entry.metadata().ok().filter(fs::Metadata::is_file)).flatten()?;
                let source = Source { name: names::shown(&name), fingerprint: fingerprint(&found) };
                Some((name, source))
            })?;
            if page.is_empty() {
                return Ok(());
            }
            let known = self.store.known_sources(page.iter().map(|(_, source)| source.clone()).collect()).await?;
            for ((name, _), known) in page.iter().zip(known) {
                if let Some(known) = known {
                    self.finish_dropped(name, known)?;
                }
            }
            self.progress(page.len());
        }
    }

    fn finish_dropped(&mut self, name: &OsString, Known { id, finished }: Known) -> Result<(), RecoverError> {
        let path = self.layout.drop().join(name);
        for ending in [".json", ".toml"] {
            let sidecar = self.layout.drop().join(names::with_ending(names::stem(name), ending));
            files::gone(fs::remove_file(&sidecar)).map_err(io_error("removing", &sidecar))?;
        }
        let file = names::shown(name);
        if finished || self.layout.message_file(id).exists() {
            files::gone(fs::remove_file(&path)).map_err(io_error("removing", &path))?;
            tracing::info!(id = %id, file = %file, finished, "was accepted before the daemon ended: removed from drop/");
            self.done.dropped_finished += 1;
        } else {
            self.layout.place(&path, id).map_err(io_error("moving to queue/messages/", &path))?;
            tracing::info!(id = %id, file = %file, "was accepted before the daemon ended: moved to its place");
            self.done.dropped_placed += 1;
        }
        Ok(())
    }

    /// Reports that were written before their row: with it they go to their place, without it they never were.
    async fn staged(&mut self) -> Result<(), RecoverError> {
        let directory = self.layout.staging();
        let mut files = Pages::open(&directory)?;
        loop {
            let ids = files.next(|entry| message_id(&entry).filter(|id| self.layout.stage(*id) == entry.path()))?;
            if ids.is_empty() {
                return Ok(());
            }
            let known = self.store.known_ids(ids.clone()).await?;
            for (id, known) in ids.iter().zip(known) {
                let path = self.layout.stage(*id);
                if known.is_some_and(|known| !known.finished) {
                    self.layout.place_staged(*id).map_err(io_error("moving to queue/messages/", &path))?;
                    self.done.staged_placed += 1;
                } else {
                    self.layout.remove_staged(*id).map_err(io_error("removing", &path))?;
                    tracing::info!(id = %id, known = known.is_some(), "a report that was not accepted before the daemon ended: removed");
                    self.done.staged_removed += 1;
                }
            }
            self.progress(ids.len());
        }
    }

    /// Message files whose row is finished or missing.
    async fn placed(&mut self) -> Result<(), RecoverError> {
        let messages = self.layout.messages();
        let mut shards = Pages::open(&messages)?;
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
            let ids = files.next(|entry| message_id(&entry).filter(|id| self.layout.message_file(*id) == entry.path()))?;
            if ids.is_empty() {
                return Ok(());
            }
            let known = self.store.known_ids(ids.clone()).await?;
            for (id, known) in ids.iter().zip(known) {
                let path = self.layout.message_file(*id);
                match known {
                    Some(Known { finished: false, .. }) => continue,
                    Some(_) => self.done.finished_removed += 1,
                    None => {
                        let reason = "the queue has no record of this message: its sender and recipients are lost with it; \
                                      drop it again with an envelope if it is still wanted";
                        self.layout.keep_failed(*id, reason).map_err(io_error("moving to failed/", &path))?;
                        tracing::error!(id = %id, reason, "a message file without a record is kept in failed/");
                        self.done.without_row += 1;
                    }
                }
                self.layout.remove_message(*id).map_err(io_error("removing", &path))?;
            }
            self.progress(ids.len());
        }
    }

    /// Unfinished messages whose file is missing or empty: the attempt will find that, and tell the sender.
    async fn rows(&mut self, clock: &dyn Clock) -> Result<(), RecoverError> {
        let mut after = None;
        loop {
            let ids = self.store.unfinished(after, PAGE).await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(*last);
            let count = ids.len();
            let usable = |id: &MessageId| fs::metadata(self.layout.message_file(*id)).is_ok_and(|found| found.is_file() && found.len() > 0);
            let damaged: Vec<MessageId> = ids.into_iter().filter(|id| !usable(id)).collect();
            if !damaged.is_empty() {
                for id in &damaged {
                    tracing::error!(id = %id, "the message file is missing or empty: the message is given up as damaged");
                }
                self.done.without_file += damaged.len() as u64;
                self.store.wake(damaged, clock.now()).await?;
            }
            self.progress(count);
        }
    }

    fn progress(&mut self, count: usize) {
        let before = self.looked_at / PROGRESS;
        self.looked_at += count as u64;
        if self.looked_at / PROGRESS > before {
            tracing::info!(looked_at = self.looked_at, "start-up: looking through the spool");
        }
    }
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

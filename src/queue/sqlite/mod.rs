//! The queue in one SQLite file: takes the calls of [`Store`] and [`Inspect`](crate::queue::Inspect), hands on rows. One connection
//! writes, with group commit; another one reads; the command line opens its own.

mod accept;
mod actions;
mod commit;
mod convert;
mod damage;
mod failure;
mod health;
mod history;
mod inspect;
mod list;
mod pattern;
mod read;
mod salvage;
mod schema;
mod settle;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use inspect::SqliteInspect;
use rusqlite::{Connection, TransactionBehavior};
use tokio::task;

use self::commit::{Call, Writer};
use self::convert::millis;
use self::failure::Failure;
use self::health::Health;
use self::settle::Settling;
use super::{
    Acts, BoxFuture, Commits, CopyId, Counts, Cursor, DuePage, Finished, Haste, Inspect, Interrupted, Known, MessageDetail, NewMessage,
    Order, PausedSite, QueuedCopy, RecipientId, ReportAction, ReportDue, Reported, Salvaged, Selected, Selection, Settlement, SiteBacklog,
    Source, Store, StoreError,
};
use crate::clock::Timestamp;
use crate::message::{Domain, MessageId, Priority};

/// Copies that one step of `wake` and `wake_expired` moves, and messages that one step of `purge` forgets: each step is an
/// operation of its own, so that others get their turn between them.
const WAKE_STEP: usize = 5_000;
const PURGE_STEP: usize = 500;

/// The daemon's queue. What was asked for is done also when the store is dropped, or the future of a call.
#[derive(Debug)]
pub struct SqliteStore {
    /// What reads; `None` once closed.
    reader: Arc<tokio::sync::Mutex<Option<Connection>>>,
    /// Whether it can.
    readable: Health,
    /// What writes.
    writer: Writer,
    /// What was made of a damaged one.
    salvaged: Option<Salvaged>,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the database, or makes it (mode 0640, its folder must exist). Blocks for the time of a few reads and at most one fsync of
    /// a schema. Call it within a tokio runtime. Only one store may have a database at a time: [`crate::spool::Layout::lock`] sees to it.
    ///
    /// A database that is damaged is put aside, and one with what can be read of it takes its place: see [`SqliteStore::salvaged`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (db, salvaged) = damage::open(path, Timestamp::now())?;
        let writer = Writer::new(db, Health::new(path, "written"));
        let reader = schema::reader(path)?;
        Ok(Self {
            reader: Arc::new(tokio::sync::Mutex::new(Some(reader))),
            readable: Health::new(path, "read"),
            writer,
            salvaged,
            path: path.to_owned(),
        })
    }

    /// What was made of a damaged database when this one was opened.
    pub fn salvaged(&self) -> Option<&Salvaged> {
        self.salvaged.as_ref()
    }

    /// Waits until everything that was asked for is done, and lets go of the files. Calls after it fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        let writer = self.writer.close().await;
        let reader = self.reader.lock().await.take();
        // One after the other: of two connections that close at once, neither takes itself for the last one, and the WAL stays behind.
        // The last one writes the WAL back, which takes its time. (It does not panic unless SQLite's binding does.)
        let _ = task::spawn_blocking(move || {
            drop(reader);
            drop(writer);
        })
        .await;
    }

    /// Has work done by the writer and waits for the commit.
    async fn write<T, W>(&self, doing: &'static str, rows: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.write_with(Haste::Now, doing, rows, work).await
    }

    async fn write_with<T, W>(&self, haste: Haste, doing: &'static str, rows: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (call, result) = Call::new(doing, rows, work);
        self.writer.send(Box::new(call), haste).await?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads on a connection of its own, for a moment: the scheduler's reading does not wait for the counting.
    async fn beside<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&SqliteInspect) -> Result<T, StoreError> + Send + 'static,
    {
        if self.reader.lock().await.is_none() {
            return Err(StoreError::Closed);
        }
        let path = self.path.clone();
        task::spawn_blocking(move || work(&SqliteInspect::open(&path)?)).await.map_err(|_| StoreError::Closed)?
    }

    /// Runs work on the reading connection, in one transaction: it sees one committed state.
    async fn read<T, W>(&self, doing: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let mut reader = Arc::clone(&self.reader).lock_owned().await;
        let work = move || {
            let db = reader.as_mut().ok_or(StoreError::Closed)?;
            snapshot(db, work).map_err(|failure| failure.doing(doing))
        };
        let result = task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?;
        match &result {
            Ok(_) => self.readable.worked(),
            Err(error) => self.readable.failed(error),
        }
        result
    }
}

/// Reads in one transaction.
fn snapshot<T>(db: &mut Connection, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let found = work(&transaction)?;
    transaction.commit()?;
    Ok(found)
}

impl Store for SqliteStore {
    fn accept(&self, messages: Vec<NewMessage>) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>> {
        let rows = messages.iter().map(accept::rows).sum();
        Box::pin(self.write("accepting messages", rows, move |db| {
            let mut copies = Vec::with_capacity(messages.len());
            messages.iter().try_for_each(|message| accept::accept(db, message, &mut copies))?;
            Ok(copies)
        }))
    }

    fn known_sources(&self, sources: Vec<Source>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>> {
        Box::pin(self.read("looking for dropped files", move |db| {
            Ok(sources.iter().map(|source| read::known_source(db, source)).collect::<Result<_, _>>()?)
        }))
    }

    fn known_ids(&self, ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>> {
        Box::pin(self.read("looking for messages", move |db| Ok(ids.iter().map(|&id| read::known_id(db, id)).collect::<Result<_, _>>()?)))
    }

    fn details(&self, ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<MessageDetail>, StoreError>> {
        Box::pin(self.read("reading messages", move |db| ids.iter().filter_map(|&id| inspect::show(db, id).transpose()).collect()))
    }

    fn unfinished(&self, after: Option<MessageId>, limit: usize) -> BoxFuture<'_, Result<Vec<MessageId>, StoreError>> {
        Box::pin(self.read("listing unfinished messages", move |db| read::unfinished(db, after, limit)))
    }

    fn wake(&self, ids: Vec<MessageId>, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut woken = 0;
            for step in ids.chunks(WAKE_STEP) {
                let step = step.to_vec();
                woken += self.write("making copies due", step.len(), move |db| upkeep::wake(db, &step, millis(now))).await?;
            }
            Ok(woken)
        })
    }

    fn due(&self, after: Cursor, now: Timestamp, limit: usize, skip: Vec<Domain>) -> BoxFuture<'_, Result<DuePage, StoreError>> {
        Box::pin(self.read("reading due copies", move |db| read::due(db, after, millis(now), limit, &skip)))
    }

    fn due_in_domain(
        &self,
        of: (Priority, Domain),
        now: Timestamp,
        limit: usize,
        known: Vec<CopyId>,
    ) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>> {
        Box::pin(self.read("reading a domain's due copies", move |db| read::due_in_domain(db, &of, millis(now), (limit, &known))))
    }

    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>> {
        Box::pin(self.read("reading the next due time", move |db| read::next_due(db, millis(now))))
    }

    fn begin_attempts(&self, copies: Vec<(CopyId, usize)>, at: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("beginning attempts", copies.len(), move |db| settle::begin(db, &copies, millis(at))))
    }

    fn settle(&self, settlements: Arc<[Settlement]>, haste: Haste) -> BoxFuture<'_, Result<Vec<Finished>, StoreError>> {
        let rows = settlements.iter().map(settle::rows).sum();
        Box::pin(self.write_with(haste, "recording outcomes", rows, move |db| {
            let mut settling = Settling::new(db)?;
            let mut finished = Vec::new();
            for settlement in settlements.iter() {
                finished.extend(settling.settle(settlement)?);
            }
            Ok(finished)
        }))
    }

    fn hurry(&self) {
        self.writer.hurry();
    }

    fn reports_due(&self, only: Option<Vec<MessageId>>, limit: usize) -> BoxFuture<'_, Result<Vec<ReportDue>, StoreError>> {
        Box::pin(self.read("reading due reports", move |db| read::reports_due(db, only.as_deref(), limit)))
    }

    fn reported(
        &self,
        covered: Vec<(RecipientId, ReportAction)>,
        report: Option<NewMessage>,
    ) -> BoxFuture<'_, Result<Reported, StoreError>> {
        let rows = covered.len() + report.as_ref().map_or(0, accept::rows);
        Box::pin(self.write("recording a report", rows, move |db| settle::reported(db, &covered, report.as_ref())))
    }

    fn split(&self, copy: CopyId, recipients: Vec<RecipientId>) -> BoxFuture<'_, Result<QueuedCopy, StoreError>> {
        Box::pin(self.write("splitting a copy", recipients.len() + 2, move |db| upkeep::split(db, copy, &recipients)))
    }

    fn interrupted(&self) -> BoxFuture<'_, Result<Vec<Interrupted>, StoreError>> {
        Box::pin(self.read("looking for interrupted attempts", read::interrupted))
    }

    fn withdraw(&self, copies: Vec<CopyId>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("withdrawing attempts", copies.len(), move |db| Ok(settle::withdraw(db, &copies)?)))
    }

    fn wake_expired(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut woken = 0;
            loop {
                let step =
                    self.write("waking expired copies", WAKE_STEP, move |db| upkeep::wake_expired(db, millis(now), WAKE_STEP)).await?;
                woken += step;
                if step < WAKE_STEP as u64 {
                    return Ok(woken);
                }
            }
        })
    }

    fn damaged(&self) -> BoxFuture<'_, StoreError> {
        Box::pin(async {
            tokio::select! {
                error = self.writer.damaged() => error,
                error = self.readable.damaged() => error,
            }
        })
    }

    fn select(&self, selection: Selection, after: CopyId, limit: usize) -> BoxFuture<'_, Result<Vec<Selected>, StoreError>> {
        Box::pin(self.read("selecting copies", move |db| actions::select(db, &selection, after, convert::sql_count(limit))))
    }

    fn unplaced_domains(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Domain>, StoreError>> {
        Box::pin(self.read("looking for domains", move |db| actions::unplaced_domains(db, convert::sql_count(limit))))
    }

    fn act(&self, copies: Vec<CopyId>, recipient: Option<String>, order: Order) -> BoxFuture<'_, Result<Acts, StoreError>> {
        // The copy's row, its recipients', and the record.
        let rows = copies.len() * 4;
        Box::pin(self.write("carrying out an order", rows, move |db| actions::act(db, &copies, recipient.as_deref(), &order)))
    }

    fn paused_sites(&self) -> BoxFuture<'_, Result<Vec<PausedSite>, StoreError>> {
        Box::pin(self.read("reading paused sites", actions::paused))
    }

    fn pause_site(&self, site: PausedSite) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write("pausing a site", 1, move |db| Ok(actions::pause(db, &site)?)))
    }

    fn resume_site(&self, site: String) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.write("resuming a site", 1, move |db| Ok(actions::resume(db, &site)?)))
    }

    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut purged = 0;
            loop {
                let step =
                    self.write("purging the history", PURGE_STEP * 4, move |db| upkeep::purge(db, millis(before), PURGE_STEP)).await?;
                purged += step;
                if step < PURGE_STEP as u64 {
                    return Ok(purged);
                }
            }
        })
    }

    fn counts(&self, now: Timestamp) -> BoxFuture<'_, Result<Counts, StoreError>> {
        Box::pin(self.beside(move |queue| queue.counts(now)))
    }

    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteBacklog>, StoreError>> {
        Box::pin(self.beside(|queue| queue.sites()))
    }

    fn commits(&self) -> Commits {
        self.writer.commits()
    }
}

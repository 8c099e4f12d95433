//! The durable queue: takes accepted messages and outcomes, hands on due copies. Everything behind one trait; no SQL outside `sqlite`.

mod rows;

use std::future::Future;
use std::pin::Pin;

pub use rows::{
    AttemptRecord, CopyDetail, CopyId, CopyRow, CopyState, Counts, Cursor, Delays, DuePage, Fingerprint, Finished, HistoryFilter,
    HistoryRow, Interrupted, ListFilter, Message, MessageDetail, NewMessage, NextStep, QueuedCopy, QueuedRecipient, RecipientId,
    RecipientOutcome, Settlement, Source,
};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::message::{Domain, MessageId};

/// A future of a [`Store`] method, so that the trait can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the store could not do its work. Nothing was changed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database, with what was being done.
    #[error("queue database: {doing}: {detail}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// The database's words.
        detail: String,
        /// Whether the cause is the disk or a lock, so that trying again later makes sense.
        temporary: bool,
    },
    /// Made by a newer version.
    #[error("the queue database has schema {found}, this version knows up to {known}: run the newer smtp-direct")]
    Schema {
        /// In the file.
        found: i64,
        /// In the code.
        known: i64,
    },
    /// The store's thread is gone: the daemon is stopping, or it panicked.
    #[error("the queue database is closed")]
    Closed,
}

/// What the daemon needs of a queue. Each call is durable when it returns; calls made at the same time share one commit.
/// All times are given by the caller. A PostgreSQL implementation is to follow: nothing here names a file or a row id's meaning.
pub trait Store: Send + Sync + 'static {
    /// Takes responsibility for messages, in one transaction; a copy per domain of each is due at once, or at `not_before`.
    /// Returns the new copies in the order of messages and of their domains' first appearance.
    fn accept(&self, messages: Vec<NewMessage>) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>>;

    /// Which of these dropped files were accepted before (start-up only): the message's id and whether it is finished.
    fn known_sources(&self, sources: Vec<Source>) -> BoxFuture<'_, Result<Vec<Option<(MessageId, bool)>>, StoreError>>;

    /// Copies that are due at `now`, from `after` on in the order (priority, due time, id), until `limit` recipients are together.
    fn due(&self, after: Cursor, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<DuePage, StoreError>>;

    /// The same for one domain, from the start.
    fn due_in_domain(&self, domain: Domain, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>>;

    /// The earliest due time after `now` of any queued copy.
    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>>;

    /// Records that an attempt of these copies begins: from here to its settlement a crash leaves them in doubt.
    fn begin_attempts(&self, copies: Vec<CopyId>, at: Timestamp) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Records how attempts ended, with the reports that follow, in one transaction. Returns the messages that are finished by it.
    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Settled, StoreError>>;

    /// Moves recipients of a copy to a new copy of the same message and domain, which goes another way.
    fn split(&self, copy: CopyId, recipients: Vec<RecipientId>) -> BoxFuture<'_, Result<QueuedCopy, StoreError>>;

    /// Start-up: copies whose attempt began and did not end. They are queued again, due at `now`, marked in doubt, and their
    /// recipients' last outcome says so.
    fn recover(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Interrupted>, StoreError>>;

    /// Unfinished messages whose expiry lies before `now` and whose copies are not due before it: so that expiry reaches waiting copies too.
    /// Sets them due at `now`. Copies on hold are left alone. Returns how many.
    fn wake_expired(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Forgets finished messages that ended before `before`. Returns how many.
    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// What a settlement led to.
#[derive(Debug, Default)]
pub struct Settled {
    /// Messages with no copy left: their files may go.
    pub finished: Vec<Finished>,
    /// Copies of the reports that were accepted with it.
    pub reports: Vec<QueuedCopy>,
}

/// What the command line reads, beside a running daemon or without one.
pub trait Inspect {
    /// Unfinished copies, oldest first.
    fn list(&self, filter: &ListFilter) -> Result<Vec<CopyRow>, StoreError>;
    /// Everything known of a message, finished or not.
    fn show(&self, id: MessageId) -> Result<Option<MessageDetail>, StoreError>;
    /// How many there are of what.
    fn counts(&self, now: Timestamp) -> Result<Counts, StoreError>;
    /// Final outcomes, newest first.
    fn history(&self, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, StoreError>;
}

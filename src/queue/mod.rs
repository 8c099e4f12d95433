//! The durable queue: takes accepted messages and outcomes, hands on due copies. Everything behind one trait; no SQL outside `sqlite`.

mod actions;
mod commits;
mod journal;
mod rows;
mod search;
mod sqlite;
mod views;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

pub use actions::{Acted, Action, ActionRow, Acts, Done, Order, PausedSite, Selected, Selection, Verdict};
pub use commits::Commits;
pub use journal::{AttemptId, Evidence, Journal, Notes, Trace};
pub use rows::{
    AttemptRecord, CopyId, CopyState, Cursor, Delays, DuePage, Fingerprint, Finished, HELD_IN_DOUBT, Interrupted, Known, Message,
    NewMessage, NextStep, QueuedCopy, QueuedRecipient, REPORT_SOURCE, RecipientId, RecipientOutcome, ReportAction, ReportDue, ReportEntry,
    Settlement, Source,
};
pub use search::{Ending, HistoryCursor, HistoryFilter, ListCursor, ListFilter, Page};
pub use sqlite::{SqliteInspect, SqliteStore};
use thiserror::Error;
pub use views::{ByState, CopyDetail, CopyRow, Counts, DomainShape, HistoryRow, MessageDetail, RecipientCopies, SiteBacklog};

use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId, Priority};

/// A future of a [`Store`] method, so that the trait can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the store could not do its work. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There is none, where one is only to be read.
    #[error("there is no queue database at {path}: has the daemon run with this spool.path?")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// This user may not read it.
    #[error("{path} may not be read by this user: root may, and so may the members of the group {group}")]
    Denied {
        /// The database.
        path: PathBuf,
        /// Who may, as far as can be seen from here.
        group: String,
    },
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
    /// The database holds what nobody wrote there.
    #[error("queue database: {doing}: it is damaged: {detail}")]
    Damaged {
        /// What was being done.
        doing: &'static str,
        /// The database's words.
        detail: String,
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

impl StoreError {
    /// Whether the store itself has told the log of it, once, and will once it is over: nothing that its callers can do anything about.
    pub fn is_told(&self) -> bool {
        self.is_temporary() || matches!(self, Self::Damaged { .. })
    }

    /// Whether trying again later makes sense.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Database { temporary: true, .. })
    }
}

/// How soon a call is to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// At once: somebody waits.
    Now,
    /// In some milliseconds, perhaps: with the next one that is wanted at once, so that they share a commit.
    Soon,
}

/// What the daemon needs of a queue. Each call is durable when it returns; calls made at the same time share one commit.
/// All times are given by the caller. A PostgreSQL implementation is to follow: nothing here names a file or a row id's meaning.
pub trait Store: Send + Sync + 'static {
    /// Takes responsibility for messages, in one transaction; a copy per domain of each is due at once, or at `not_before`.
    /// Returns the new copies in the order of messages and of their domains' first appearance.
    fn accept(&self, messages: Vec<NewMessage>) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>>;

    /// Start-up: which of these dropped files were accepted before, in their order.
    fn known_sources(&self, sources: Vec<Source>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>>;

    /// Start-up: which of these messages the queue knows, in their order.
    fn known_ids(&self, ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>>;

    /// Everything known of these messages, in their order; those that the queue does not know are left out.
    fn details(&self, ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<MessageDetail>, StoreError>>;

    /// Unfinished messages in the order of their ids, from after `after` on: at most `limit`.
    fn unfinished(&self, after: Option<MessageId>, limit: usize) -> BoxFuture<'_, Result<Vec<MessageId>, StoreError>>;

    /// Makes the waiting copies of these messages due at `now`; those on hold are left alone. Returns how many copies.
    fn wake(&self, ids: Vec<MessageId>, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Copies of the class `after.priority` that are due at `now`, from after `after` on in the order (due time, id), until `limit`
    /// recipients are together. Copies for the domains in `skip` are passed over.
    fn due(&self, after: Cursor, now: Timestamp, limit: usize, skip: Vec<Domain>) -> BoxFuture<'_, Result<DuePage, StoreError>>;

    /// The same for one class and domain, from the start, past the copies in `known`.
    fn due_in_domain(
        &self,
        of: (Priority, Domain),
        now: Timestamp,
        limit: usize,
        known: Vec<CopyId>,
    ) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>>;

    /// The earliest due time after `now` of any queued copy.
    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>>;

    /// Records that an attempt of these copies begins: from here to its settlement a crash leaves them in doubt.
    /// Each with the number of recipients that wait in it as far as the caller knows. All of them or none: a copy that is not queued (held or
    /// finished meanwhile) or has fewer of them (divided meanwhile) is an error.
    fn begin_attempts(&self, copies: Vec<(CopyId, usize)>, at: Timestamp) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Records how attempts ended, in one transaction. Returns the messages that are finished by it: no copy left and no report due.
    /// What is final stays: an outcome for such a recipient and a settlement of a finished copy change nothing.
    /// Shared, as the caller keeps them: to try again, and to tell of them.
    fn settle(&self, settlements: Arc<[Settlement]>, haste: Haste) -> BoxFuture<'_, Result<Vec<Finished>, StoreError>>;

    /// What was asked for with [`Haste::Soon`] is wanted now.
    fn hurry(&self);

    /// Messages with outcomes that are to be reported, oldest first: at most `limit`. With `only`, just these messages.
    fn reports_due(&self, only: Option<Vec<MessageId>>, limit: usize) -> BoxFuture<'_, Result<Vec<ReportDue>, StoreError>>;

    /// Records that these recipients' outcomes were reported, by `report` where one was written, which is accepted in the same transaction.
    /// Each with the action that was told: what became due meanwhile (failed after delayed) stays due.
    fn reported(
        &self,
        covered: Vec<(RecipientId, ReportAction)>,
        report: Option<NewMessage>,
    ) -> BoxFuture<'_, Result<Reported, StoreError>>;

    /// Moves recipients of a copy to a new copy of the same message and domain, which goes another way.
    fn split(&self, copy: CopyId, recipients: Vec<RecipientId>) -> BoxFuture<'_, Result<QueuedCopy, StoreError>>;

    /// Start-up: copies whose attempt began and did not end, in the order of their messages. Each is to be settled or withdrawn.
    fn interrupted(&self) -> BoxFuture<'_, Result<Vec<Interrupted>, StoreError>>;

    /// Attempts of these copies have begun in name only: they are queued as before.
    fn withdraw(&self, copies: Vec<CopyId>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Unfinished messages whose expiry lies before `now` and whose copies are not due before it: so that expiry reaches waiting copies too.
    /// Sets them due at `now`. Copies on hold are left alone. Returns how many.
    fn wake_expired(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Resolves when the database turns out to be damaged: to be opened anew, which makes of it what can be made. Never, where that is
    /// somebody else's business.
    fn damaged(&self) -> BoxFuture<'_, StoreError> {
        Box::pin(std::future::pending())
    }

    /// Open copies that an administrator means, in the order of their ids, from after `after` on: at most `limit`.
    fn select(&self, selection: Selection, after: CopyId, limit: usize) -> BoxFuture<'_, Result<Vec<Selected>, StoreError>>;

    /// Domains of open copies of which it is not recorded which site they belong to: at most `limit`.
    fn unplaced_domains(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Domain>, StoreError>>;

    /// Carries an administrator's order out for these copies, or for those of their waiting recipients that are like the pattern
    /// `recipient`, which become a copy of their own where others wait in it. Nothing is done to a copy whose attempt is under way. Each
    /// order that was carried out is recorded in the history, in the same transaction.
    fn act(&self, copies: Vec<CopyId>, recipient: Option<String>, order: Order) -> BoxFuture<'_, Result<Acts, StoreError>>;

    /// Sites that nothing is sent to.
    fn paused_sites(&self) -> BoxFuture<'_, Result<Vec<PausedSite>, StoreError>>;

    /// Records that nothing is to be sent to a site, also after a restart.
    fn pause_site(&self, site: PausedSite) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Records that a site may be sent to again. False: it was not paused.
    fn resume_site(&self, site: String) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Forgets finished messages that ended before `before`. Returns how many.
    fn purge(&self, before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// How many there are of what. Nothing else waits for it, however long the queue.
    fn counts(&self, now: Timestamp) -> BoxFuture<'_, Result<Counts, StoreError>>;

    /// What is open for each site that is recorded for a copy. Nothing else waits for it.
    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteBacklog>, StoreError>>;

    /// What was counted of transactions so far, and will be.
    fn commits(&self) -> Commits;
}

/// What the recording of a report led to.
#[derive(Debug, Default)]
pub struct Reported {
    /// Messages with nothing left to do: their files may go.
    pub finished: Vec<Finished>,
    /// Copies of the report.
    pub copies: Vec<QueuedCopy>,
}

/// What was made of a damaged database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Where the damaged one is kept.
    pub aside: PathBuf,
    /// How it was found to be damaged.
    pub reason: String,
    /// Whether all of it could be read.
    pub complete: bool,
    /// Unfinished messages that are in the new one.
    pub messages: u64,
    /// Those among them, or finished by it, of which recipients or reports are lost, and the line that says so.
    pub incomplete: Vec<(MessageId, String)>,
}

impl Default for Salvaged {
    fn default() -> Self {
        Self { aside: PathBuf::new(), reason: String::new(), complete: true, messages: 0, incomplete: Vec::new() }
    }
}

/// What the command line reads, beside a running daemon or without one.
pub trait Inspect {
    /// Unfinished copies, oldest first.
    fn list(&self, filter: &ListFilter) -> Result<Vec<CopyRow>, StoreError>;
    /// How many there are of them, wherever the filter's page begins and ends.
    fn count_list(&self, filter: &ListFilter) -> Result<u64, StoreError>;
    /// Everything known of a message, finished or not.
    fn show(&self, id: MessageId) -> Result<Option<MessageDetail>, StoreError>;
    /// How many there are of what.
    fn counts(&self, now: Timestamp) -> Result<Counts, StoreError>;
    /// What waits, by domain and age.
    fn shape(&self, now: Timestamp) -> Result<Vec<DomainShape>, StoreError>;
    /// What is open for each site that is recorded for a copy.
    fn sites(&self) -> Result<Vec<SiteBacklog>, StoreError>;
    /// Sites that nothing is sent to.
    fn paused_sites(&self) -> Result<Vec<PausedSite>, StoreError>;
    /// Final outcomes, newest first.
    fn history(&self, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, StoreError>;
    /// How many there are of them, wherever the filter's page begins and ends.
    fn count_history(&self, filter: &HistoryFilter) -> Result<u64, StoreError>;
    /// What there is for a recipient. The local part is compared in any case.
    fn copies_for(&self, recipient: &Address, finished: usize) -> Result<RecipientCopies, StoreError>;

    /// [`Inspect::list`] up to the filter's limit, and whether there is more.
    fn list_page(&self, filter: &ListFilter) -> Result<Page<CopyRow>, StoreError> {
        Page::read(filter.limit, |limit| self.list(&ListFilter { limit, ..filter.clone() }))
    }

    /// The same of [`Inspect::history`].
    fn history_page(&self, filter: &HistoryFilter) -> Result<Page<HistoryRow>, StoreError> {
        Page::read(filter.limit, |limit| self.history(&HistoryFilter { limit, ..filter.clone() }))
    }
}

//! What goes into the queue and comes out of it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{Address, Content, Domain, Envelope, MessageId, Notify, Priority, Ret, ReversePath};
use crate::outcome::{Kind, Outcome};

/// Names a copy within one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyId(pub i64);

/// Names a recipient of a copy within one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecipientId(pub i64);

/// What tells a dropped file from every other, so that one that reappears after a crash is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Inode number.
    pub inode: u64,
    /// Octets.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub modified: i128,
}

impl Fingerprint {
    /// Of the file that `metadata` was read from.
    pub fn of(metadata: &Metadata) -> Self {
        let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { inode: metadata.ino(), size: metadata.size(), modified }
    }
}

/// Where a message came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// File name in `drop/`, or "report" for this daemon's own.
    pub name: String,
    /// Of that file.
    pub fingerprint: Fingerprint,
}

/// A message to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Chosen by intake: it stands in the `Received` field too.
    pub id: MessageId,
    /// Where it came from.
    pub source: Source,
    /// Who gets it.
    pub envelope: Envelope,
    /// What the scan found.
    pub content: Content,
    /// When.
    pub accepted_at: Timestamp,
    /// The earlier of `retry.lifetime` from now and the envelope's own `expires`.
    pub expires_at: Timestamp,
}

/// What all copies of a message share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// File name in `drop/`, or "report".
    pub source: String,
    /// Envelope sender.
    pub sender: ReversePath,
    /// How its file is read for sending.
    pub content: Content,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
    /// Scheduling class.
    pub priority: Priority,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, decoded.
    pub envid: Option<String>,
    /// Free word.
    pub tag: Option<String>,
}

/// A copy that is due, with those of its recipients that are not finished.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedCopy {
    /// Its id.
    pub id: CopyId,
    /// What it is a copy of.
    pub message: Arc<Message>,
    /// Its target domain.
    pub domain: Domain,
    /// Recipients still to be served; at least one.
    pub recipients: Vec<QueuedRecipient>,
    /// When it was or is due.
    pub due_at: Timestamp,
    /// Attempts that have begun.
    pub attempts: u32,
    /// End of the first attempt that did not deliver to all.
    pub first_failed_at: Option<Timestamp>,
    /// The delay notice was sent.
    pub warned: bool,
    /// An administrator released it: no override holds it any more.
    pub released: bool,
}

/// A recipient of a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedRecipient {
    /// Its id.
    pub id: RecipientId,
    /// Where to.
    pub address: Address,
    /// Which reports are wanted.
    pub notify: Notify,
    /// The outcome of the last attempt.
    pub last: Option<Outcome>,
}

/// A place in a class's order of due copies: due time, id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The class.
    pub priority: Priority,
    /// Of the last copy read: milliseconds since the epoch.
    pub due_at: i64,
    /// Of the last copy read.
    pub copy: i64,
}

// Not derived: the default priority is Normal, and the order starts before the first Urgent copy.
impl Default for Cursor {
    fn default() -> Self {
        Self { priority: Priority::Urgent, due_at: i64::MIN, copy: i64::MIN }
    }
}

impl Cursor {
    /// Before every copy of a class.
    pub const fn start_of(priority: Priority) -> Self {
        Self { priority, due_at: i64::MIN, copy: i64::MIN }
    }

    /// At this copy.
    pub fn at(copy: &QueuedCopy) -> Self {
        Self { priority: copy.message.priority, due_at: copy.due_at.as_millisecond(), copy: copy.id.0 }
    }
}

/// One page of due copies.
#[derive(Debug, Default)]
pub struct DuePage {
    /// In order.
    pub copies: Vec<QueuedCopy>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// How an attempt of one copy ended.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which copy.
    pub copy: CopyId,
    /// For the history, and what counts as an attempt; `None` where nothing was tried (site down, expired while waiting, override), whether or
    /// not it had begun.
    pub attempt: Option<AttemptRecord>,
    /// The site that is down, where nothing was tried because of that.
    pub put_off_at: Option<String>,
    /// What became of its recipients.
    pub recipients: Vec<RecipientOutcome>,
    /// What follows for those that are not finished.
    pub next: NextStep,
    /// A delay notice goes out with it.
    pub warned: bool,
    /// Those who are in doubt wait for an administrator; for the others, `next` holds.
    pub hold_in_doubt: bool,
    /// When.
    pub at: Timestamp,
}

/// What `queue list` says of a copy that is held because it is in doubt.
pub const HELD_IN_DOUBT: &str = "in doubt: the peer may have it (retry.in_doubt)";

/// The source of reports, in place of a file name.
pub const REPORT_SOURCE: &str = "report";

impl Settlement {
    /// Where it was tried, or put off untried; `None`: there was no route, or that is not what it was about.
    pub fn site(&self) -> Option<&str> {
        let tried = self.attempt.as_ref().map(|attempt| attempt.site.as_str()).filter(|site| !site.is_empty());
        tried.or(self.put_off_at.as_deref())
    }

    /// Whether it throws the copy away: nobody has an outcome, and nothing follows.
    pub fn discards(&self) -> bool {
        self.next == NextStep::Finish && self.recipients.is_empty()
    }

    /// Whether someone is held because of doubt.
    pub fn holds_in_doubt(&self) -> bool {
        self.hold_in_doubt && self.recipients.iter().any(RecipientOutcome::waits_in_doubt)
    }
}

impl RecipientOutcome {
    /// To be tried again, and perhaps delivered.
    pub fn waits_in_doubt(&self) -> bool {
        self.outcome.kind == Kind::Deferred && self.outcome.in_doubt
    }
}

/// What became of one recipient.
#[derive(Debug, Clone)]
pub struct RecipientOutcome {
    /// Which.
    pub recipient: RecipientId,
    /// What.
    pub outcome: Outcome,
    /// What the sender is to be told of it.
    pub report: Option<ReportAction>,
}

/// The Action field of a report (RFC 3464 2.3.3), the weightiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReportAction {
    /// Given up.
    Failed,
    /// Still trying.
    Delayed,
    /// Handed to a peer that does not pass DSN requests on; asked for by NOTIFY=SUCCESS.
    Relayed,
}

impl ReportAction {
    /// The word in the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// What a message's sender is to be told.
#[derive(Debug, Clone)]
pub struct ReportDue {
    /// Of which message.
    pub message: Arc<Message>,
    /// At least one.
    pub entries: Vec<ReportEntry>,
}

/// One recipient of a report.
#[derive(Debug, Clone)]
pub struct ReportEntry {
    /// Its id.
    pub id: RecipientId,
    /// Where to.
    pub address: Address,
    /// What the report says.
    pub action: ReportAction,
    /// Why.
    pub outcome: Outcome,
    /// When that was.
    pub at: Timestamp,
}

/// A message that the queue knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: MessageId,
    /// Since when nothing is left to do; `None`: something is.
    pub finished_at: Option<Timestamp>,
}

/// What follows for the recipients of a copy that are deferred.
#[derive(Debug, Clone, PartialEq)]
pub enum NextStep {
    /// Nobody is left, or the copy was discarded: finished.
    Finish,
    /// Due again then.
    Retry(Timestamp),
    /// Kept until released.
    Hold {
        /// For `queue list`.
        reason: String,
    },
}

/// One attempt, as history keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// 1 for the first.
    pub number: u32,
    /// Start.
    pub began_at: Timestamp,
    /// End.
    pub ended_at: Timestamp,
    /// The site's text.
    pub site: String,
    /// Where the route came from, as [`crate::route::RouteSource`] displays.
    pub route: String,
    /// Where the time went.
    pub delays: Delays,
    /// Host, address and what happened there, for each one that was tried, in order; one line each.
    pub trail: Vec<String>,
}

/// Where the time of an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delays {
    /// From due to begun.
    pub queue: Duration,
    /// Routing.
    pub dns: Duration,
    /// TCP, greeting, EHLO, TLS, AUTH.
    pub connect: Duration,
    /// The part of `connect` that went into TLS handshakes; zero without TLS.
    pub handshake: Duration,
    /// MAIL to the final reply.
    pub transfer: Duration,
}

/// A message that is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub id: MessageId,
    /// Recipients delivered to, and given up.
    pub delivered: u32,
    /// Given up.
    pub failed: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// A copy whose attempt was cut off by the daemon's end.
#[derive(Debug, Clone, PartialEq)]
pub struct Interrupted {
    /// The copy.
    pub copy: QueuedCopy,
    /// When the attempt was recorded.
    pub began_at: Timestamp,
}

/// Where a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// Waiting for its due time, or for a worker.
    Queued,
    /// An attempt is under way (or was, when the daemon ended).
    Sending,
    /// Kept by an override or an administrator.
    Held,
    /// Nobody is left.
    Finished,
}

impl CopyState {
    /// The word used by the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Held => "held",
            Self::Finished => "finished",
        }
    }
}

/// The words of copies that are not finished.
impl FromStr for CopyState {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = [Self::Queued, Self::Sending, Self::Held].into_iter().find(|state| state.as_str() == word);
        found.ok_or("write queued, sending or held")
    }
}

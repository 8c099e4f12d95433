//! What is looked for in the queue and in its history: filters, places in a list, and pages of it. The command line and the control socket both
//! ask with these.

use std::fmt;
use std::str::FromStr;

use super::{CopyId, CopyRow, CopyState, HistoryRow, RecipientId, StoreError};
use crate::clock::Timestamp;
use crate::message::MessageId;

/// What is wrong with a cursor.
const NO_CURSOR: &str = "write it as the page before ended with";

/// Which copies to list. Patterns as in overrides (`*`).
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the options of `queue list`")]
pub struct ListFilter {
    pub ids: Vec<MessageId>,
    pub to: Option<String>,
    pub from: Option<String>,
    pub domain: Option<String>,
    /// A whole name: of the last attempt, or the one that was down.
    pub site: Option<String>,
    pub tag: Option<String>,
    /// The header field.
    pub message_id: Option<String>,
    pub state: Option<CopyState>,
    /// Accepted from then on.
    pub since: Option<Timestamp>,
    /// Accepted before.
    pub until: Option<Timestamp>,
    /// Only what comes after it in the order of the list.
    pub after: Option<ListCursor>,
    pub limit: Option<usize>,
}

/// Which outcomes to list. Patterns as in overrides (`*`).
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the options of `history`")]
pub struct HistoryFilter {
    pub id: Option<MessageId>,
    pub to: Option<String>,
    pub from: Option<String>,
    /// Of the recipient.
    pub domain: Option<String>,
    /// The header field.
    pub message_id: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub ending: Option<Ending>,
    /// Only who was in doubt once.
    pub in_doubt: bool,
    /// Only what comes after it in the order of the list.
    pub before: Option<HistoryCursor>,
    pub limit: Option<usize>,
}

/// Kinds of final outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// To the peer.
    Delivered,
    /// Given up, for whatever reason: the other ones are among them.
    Failed,
    /// Of those, because the time was over.
    Expired,
    /// Of those, because an override threw the copy away.
    Discarded,
    /// Of those, because an administrator returned it to its sender.
    Bounced,
    /// Of those, because an administrator removed it.
    Removed,
}

impl Ending {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Delivered, "delivered"),
        (Self::Failed, "failed"),
        (Self::Expired, "expired"),
        (Self::Discarded, "discarded"),
        (Self::Bounced, "bounced"),
        (Self::Removed, "removed"),
    ];
}

impl FromStr for Ending {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|(_, known)| *known == word);
        found.map(|(ending, _)| ending).ok_or("write delivered, failed, expired, discarded, bounced or removed")
    }
}

/// A place in the history: the time of an outcome, and whose it is. What is recorded later does not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCursor {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Whose.
    pub recipient: RecipientId,
}

/// `1790000026000-17`.
impl fmt::Display for HistoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at, self.recipient.0)
    }
}

impl FromStr for HistoryCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('-').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
        let (at, id) = numbers.ok_or(NO_CURSOR)?;
        Ok(Self { at, recipient: RecipientId(id) })
    }
}

/// A place in the list of the queue: a copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListCursor {
    /// Which message.
    pub message: MessageId,
    /// Its copy.
    pub copy: CopyId,
}

impl CopyRow {
    /// Where it is, for the page after it.
    pub fn place(&self) -> ListCursor {
        ListCursor { message: self.message, copy: self.copy }
    }
}

/// `01M3250VZ80000000000000001-1048576`.
impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.message, self.copy.0)
    }
}

impl FromStr for ListCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('-').and_then(|(message, copy)| Some((message.parse().ok()?, copy.parse().ok()?)));
        let (message, copy) = parts.ok_or(NO_CURSOR)?;
        Ok(Self { message, copy: CopyId(copy) })
    }
}

/// Rows of a list, as many as were asked for.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// In the list's order.
    pub rows: Vec<T>,
    /// Others come after them.
    pub more: bool,
}

impl<T> Page<T> {
    /// Reads one row more than `limit` with `read`, to know whether there is more.
    pub(super) fn read(limit: Option<usize>, read: impl FnOnce(Option<usize>) -> Result<Vec<T>, StoreError>) -> Result<Self, StoreError> {
        let mut rows = read(limit.map(|limit| limit.saturating_add(1)))?;
        let more = limit.is_some_and(|limit| rows.len() > limit);
        rows.truncate(limit.unwrap_or(usize::MAX));
        Ok(Self { rows, more })
    }
}

impl Page<CopyRow> {
    /// Where the page after it begins, if there is one.
    pub fn next(&self) -> Option<ListCursor> {
        self.rows.last().filter(|_| self.more).map(CopyRow::place)
    }
}

impl Page<HistoryRow> {
    /// Where the page after it begins, if there is one.
    pub fn next(&self) -> Option<HistoryCursor> {
        self.rows.last().filter(|_| self.more).map(|last| last.place)
    }
}

//! What people are shown of the queue: the rows of `queue list` and `history`, one message whole, and counts.

use std::time::Duration;

use super::rows::{AttemptRecord, CopyId, CopyState, Message, ReportAction};
use super::{ActionRow, HistoryCursor};
use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId, Priority, Recipient, ReversePath};
use crate::outcome::Outcome;

/// One line of `queue list`.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in QueuedCopy and Message")]
pub struct CopyRow {
    pub message: MessageId,
    pub copy: CopyId,
    pub state: CopyState,
    pub priority: Priority,
    pub sender: ReversePath,
    pub domain: Domain,
    /// Recipients that are not finished.
    pub recipients: Vec<Address>,
    pub size: u64,
    pub accepted_at: Timestamp,
    pub due_at: Timestamp,
    pub attempts: u32,
    /// The text of the last outcome, or the reason of a hold.
    pub last: Option<String>,
    pub in_doubt: bool,
}

/// All of one message.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in Message")]
pub struct MessageDetail {
    pub message: Message,
    pub finished_at: Option<Timestamp>,
    pub copies: Vec<CopyDetail>,
    /// What administrators did, oldest first.
    pub actions: Vec<ActionRow>,
}

/// One copy of [`MessageDetail`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in QueuedCopy")]
pub struct CopyDetail {
    pub id: CopyId,
    pub domain: Domain,
    pub state: CopyState,
    pub due_at: Timestamp,
    pub attempts: u32,
    /// An attempt was.
    pub in_doubt: bool,
    pub first_failed_at: Option<Timestamp>,
    pub warned: bool,
    /// By an administrator: overrides that hold are passed over.
    pub released: bool,
    pub hold_reason: Option<String>,
    /// Where it was tried last, or put off untried, and was not delivered.
    pub site: Option<String>,
    /// With the outcome of the last attempt and when that was.
    pub recipients: Vec<(Recipient, Option<(Outcome, Timestamp)>)>,
    /// What the sender is still to be told, and of whom: places in `recipients`.
    pub reports: Vec<(usize, ReportAction)>,
    pub history: Vec<AttemptRecord>,
}

/// The copies for one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipientCopies {
    /// In which it waits, oldest first.
    pub open: Vec<(MessageId, CopyId)>,
    /// In which it has its end, as many as were asked for, newest first.
    pub finished: Vec<(MessageId, CopyId)>,
}

/// One line of `history`: a recipient's final outcome.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as elsewhere")]
pub struct HistoryRow {
    pub message: MessageId,
    pub at: Timestamp,
    /// Where it is, for the page after it.
    pub place: HistoryCursor,
    pub accepted_at: Timestamp,
    pub sender: ReversePath,
    pub recipient: Address,
    pub message_id: Option<String>,
    pub attempts: u32,
    pub outcome: Outcome,
}

/// The copies for one domain, by the age of their messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainShape {
    /// Where to.
    pub domain: Domain,
    /// The site of the last attempt of its newest copy that was tried.
    pub site: Option<String>,
    /// Copies in each age.
    pub by_age: [u64; DomainShape::AGES.len()],
    /// Of those, on hold.
    pub held: u64,
}

impl DomainShape {
    /// At which each age begins.
    pub const AGES: [Duration; 6] = [
        Duration::ZERO,
        Duration::from_secs(60),
        Duration::from_secs(600),
        Duration::from_secs(3600),
        Duration::from_secs(6 * 3600),
        Duration::from_secs(24 * 3600),
    ];

    /// The names of the ages: each says where the next one begins.
    pub const AGE_NAMES: [&str; Self::AGES.len()] = ["1m", "10m", "1h", "6h", "1d", "older"];
}

/// What is open for a site, as far as it is recorded: copies that were tried there or put off untried, and wait or are on hold.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteBacklog {
    /// Its name.
    pub site: String,
    /// How many.
    pub copies: u64,
    /// The last outcome of the newest of them, and when it came.
    pub last: Option<(Outcome, Timestamp)>,
}

/// What `queue count` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Unfinished messages.
    pub messages: u64,
    /// Unfinished copies in each of [`DomainShape::AGES`].
    pub by_age: [ByState; DomainShape::AGES.len()],
    /// Recipients not finished.
    pub recipients: u64,
    /// Unfinished copies that were in doubt once.
    pub in_doubt: u64,
    /// Of unfinished messages.
    pub octets: u64,
    /// When the oldest unfinished message was accepted.
    pub oldest: Option<Timestamp>,
}

/// Where unfinished copies stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByState {
    /// Those that are due.
    pub due: u64,
    /// Those that wait for their time.
    pub waiting: u64,
    /// Those in an attempt.
    pub sending: u64,
    /// Those on hold.
    pub held: u64,
}

impl Counts {
    /// Unfinished copies of every age.
    pub fn by_state(&self) -> ByState {
        self.by_age.iter().fold(ByState::default(), |all, age| ByState {
            due: all.due + age.due,
            waiting: all.waiting + age.waiting,
            sending: all.sending + age.sending,
            held: all.held + age.held,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_span;

    #[test]
    fn an_age_is_named_for_its_end() {
        let ends: Vec<_> = DomainShape::AGE_NAMES.iter().filter_map(|name| parse_span(name).ok()).collect();
        assert_eq!((ends.as_slice(), DomainShape::AGE_NAMES.last()), (&DomainShape::AGES[1..], Some(&"older")));
    }
}

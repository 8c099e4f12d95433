//! What an administrator does to the queue: which copies, what, why, and what came of it.

use std::fmt;
use std::sync::Arc;

use super::{CopyId, Finished, QueuedCopy, Settlement};
use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId};

/// Which copies: all conditions that are set must hold. Patterns as in overrides (`*`). Nothing set selects everything: who asks for that
/// has to say so elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of these messages; empty: of any.
    pub ids: Vec<MessageId>,
    /// With a waiting recipient like this; only such recipients are acted upon.
    pub recipient: Option<String>,
    /// Of messages with a sender like this; `<>` is the null sender.
    pub sender: Option<String>,
    /// For domains like this.
    pub domain: Option<String>,
    /// Whose last attempt was made at this site, or which were put off untried as it was down.
    pub site: Option<String>,
    /// Besides those of `site`: copies that wait for it now.
    pub at_site: Vec<CopyId>,
    /// Besides those of `site`: copies for these domains of which no site is recorded.
    pub of_site: Vec<Domain>,
    /// Of messages that were accepted before.
    pub older_than: Option<Timestamp>,
    /// Of messages with a tag like this.
    pub tag: Option<String>,
}

/// A copy that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Which.
    pub copy: CopyId,
    /// The site that it was tried or put off at last, if it was.
    pub site: Option<String>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Due now.
    Retry,
    /// Kept until released.
    Hold,
    /// No longer kept, and due now.
    Release,
    /// Given up: the sender is told.
    Bounce,
    /// Given up: nobody is told.
    Remove,
}

impl Action {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Retry, Self::Hold, Self::Release, Self::Bounce, Self::Remove];

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Bounce => "bounce",
            Self::Remove => "remove",
        }
    }

    /// The verb of the log and of the history.
    pub fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Bounce => "bounced",
            Self::Remove => "removed",
        }
    }
}

/// How copies that are given up are to be settled.
pub type Verdict = Arc<dyn Fn(&QueuedCopy) -> Settlement + Send + Sync>;

/// An administrator's order.
#[derive(Clone)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Why, in the administrator's words.
    pub reason: String,
    /// Whose word: `uid 0`.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Of copies that are given up.
    pub verdict: Verdict,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("action", &self.action).field("reason", &self.reason).field("by", &self.by).finish_non_exhaustive()
    }
}

/// What became of an order for one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Done {
    /// It was carried out.
    Done,
    /// It was so already; nothing was changed.
    Already,
    /// An attempt is under way: nothing was changed, to be asked again when it has ended.
    BeingSent,
    /// It is on hold, and would have to be released.
    OnHold,
    /// It is not on hold.
    NotHeld,
    /// It has no sender that could be told.
    NoSender,
    /// It has ended meanwhile.
    Finished,
}

impl Done {
    /// The word of the interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Already => "already",
            Self::BeingSent => "being-sent",
            Self::OnHold => "on-hold",
            Self::NotHeld => "not-held",
            Self::NoSender => "no-sender",
            Self::Finished => "finished",
        }
    }
}

/// One copy, or those of its recipients that were meant, after an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Acted {
    /// The copy that holds these recipients now.
    pub copy: CopyId,
    /// The copy that they were found in: another one where it was divided.
    pub from: CopyId,
    /// Of which message.
    pub message: MessageId,
    /// For which domain.
    pub domain: Domain,
    /// Whom it was about.
    pub recipients: Vec<Address>,
    /// What was done, or why nothing was.
    pub done: Done,
}

/// What an order came to.
#[derive(Debug, Clone, Default)]
pub struct Acts {
    /// A line a copy, in the order of their ids.
    pub acted: Vec<Acted>,
    /// Messages that are finished by it.
    pub finished: Vec<Finished>,
}

/// An order in the history of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    /// When.
    pub at: Timestamp,
    /// For which copy.
    pub copy: CopyId,
    /// What.
    pub action: Action,
    /// Whose word.
    pub by: String,
    /// Why.
    pub reason: String,
    /// For whom.
    pub recipients: Vec<String>,
}

/// A site that nothing is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedSite {
    /// Its name.
    pub site: String,
    /// Why.
    pub reason: String,
    /// Whose word.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

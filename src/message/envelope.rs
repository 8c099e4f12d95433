//! The envelope: who gets it, who hears of trouble, and what was asked for.

use std::fmt;

use super::{Address, ReversePath};
use crate::clock::Timestamp;

/// Everything about a message that is not in its content. Recipients are free of duplicates and there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Envelope sender.
    pub sender: ReversePath,
    /// Envelope recipients, in the order given.
    pub recipients: Vec<Recipient>,
    /// Scheduling class.
    pub priority: Priority,
    /// Not to be tried before this.
    pub not_before: Option<Timestamp>,
    /// Given up at this time, where that is earlier than `retry.lifetime`.
    pub expires: Option<Timestamp>,
    /// What a report returns of the message (RFC 3461 4.3).
    pub ret: Option<Ret>,
    /// The sender's own id for reports (RFC 3461 4.4), decoded.
    pub envid: Option<String>,
    /// Free word for overrides and searches.
    pub tag: Option<String>,
}

/// One envelope recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Where to.
    pub address: Address,
    /// Which reports its sender wants (RFC 3461 4.1).
    pub notify: Notify,
}

/// NOTIFY (RFC 3461 4.1). The default is failure and delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
    /// On success.
    pub success: bool,
    /// Whether the sender said anything, so that NOTIFY is passed on.
    pub explicit: bool,
}

/// RET (RFC 3461 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header.
    Headers,
}

/// Scheduling class; lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before everything else: one-time passwords, alarms.
    Urgent,
    /// The default.
    #[default]
    Normal,
    /// After everything else: newsletters.
    Bulk,
}

impl Envelope {
    /// An envelope with nothing asked for.
    pub fn new(sender: ReversePath, recipients: impl IntoIterator<Item = Address>) -> Self {
        let mut envelope = Self {
            sender,
            recipients: Vec::new(),
            priority: Priority::Normal,
            not_before: None,
            expires: None,
            ret: None,
            envid: None,
            tag: None,
        };
        envelope.recipients = recipients.into_iter().map(|address| Recipient { address, notify: Notify::default() }).collect();
        envelope
    }

    /// Whether an address needs SMTPUTF8 on the wire (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        self.sender.address().is_some_and(Address::needs_smtputf8) || self.recipients.iter().any(|r| r.address.needs_smtputf8())
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self { failure: true, delay: true, success: false, explicit: false }
    }
}

impl Notify {
    /// No report at all.
    pub const NEVER: Self = Self { failure: false, delay: false, success: false, explicit: true };
}

/// The value of the NOTIFY parameter: `NEVER`, or a list of `SUCCESS,FAILURE,DELAY`.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (wanted, word) in [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")] {
            if wanted {
                write!(f, "{separator}{word}")?;
                separator = ",";
            }
        }
        if separator.is_empty() { f.write_str("NEVER") } else { Ok(()) }
    }
}

impl Priority {
    /// The word used in configuration, sidecars and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Urgent, Self::Normal, Self::Bulk].into_iter().find(|priority| priority.as_str() == word).ok_or(())
    }
}

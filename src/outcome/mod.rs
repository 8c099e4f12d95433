//! What became of a recipient, and the one table that says so: [`Fault`] → [`judge`] → [`Verdict`].

mod fault;
mod status;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;

pub use fault::{AddressFault, DnsFault, Fault, Phase, REMOVED, RETURNED};
pub use status::EnhancedStatus;
pub use table::{NextStep, Verdict, judge};

use crate::smtp::Reply;

/// What is kept of a recipient whose copy was thrown away.
pub const DISCARDED: &str = "discarded";

/// The three ends of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The peer took responsibility.
    Delivered,
    /// To be tried again.
    Deferred,
    /// Given up: returned to the sender.
    Failed,
}

impl Kind {
    /// The verb used in the log, the history and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
        }
    }
}

/// What became of one recipient in one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Delivered, deferred or failed.
    pub kind: Kind,
    /// The peer's enhanced status code, or the one that fits (RFC 3463).
    pub status: EnhancedStatus,
    /// One line for people: what happened, in which phase. No control characters, at most 512 octets.
    pub text: String,
    /// What the peer answered, where it did.
    pub reply: Option<Reply>,
    /// Who answered, or did not.
    pub peer: Option<Arc<Peer>>,
    /// The final dot was sent and no reply came: the peer may have the message. Of what the queue keeps: in this attempt or an earlier one, so
    /// that the recipient may have got it twice.
    pub in_doubt: bool,
    /// Whether the peer took over the duty to send the DSNs that were asked for (it offered DSN): none is due from here on success.
    pub dsn_relayed: bool,
}

impl Outcome {
    /// The outcome of a fault, as the table has it.
    pub fn of(fault: &Fault, peer: Option<Arc<Peer>>) -> Self {
        let verdict = judge(fault);
        Self {
            kind: verdict.kind,
            status: verdict.status,
            text: crate::smtp::shown(&fault.to_string()).to_owned(),
            reply: fault.reply().cloned(),
            peer,
            in_doubt: matches!(fault, Fault::InDoubt { .. } | Fault::Interrupted),
            dsn_relayed: false,
        }
    }

    /// `peer` took responsibility with `reply`; `dsn_relayed`: for the DSNs that were asked for as well.
    pub fn delivered(reply: Reply, peer: Arc<Peer>, dsn_relayed: bool) -> Self {
        Self {
            kind: Kind::Delivered,
            status: reply.enhanced_status().unwrap_or(EnhancedStatus::new(2, 0, 0)),
            text: reply.to_string(),
            reply: Some(reply),
            peer: Some(peer),
            in_doubt: false,
            dsn_relayed,
        }
    }
}

impl Outcome {
    /// An override threw the copy away: refused by policy (RFC 3463, X.7.1), and nobody is told.
    pub fn discarded() -> Self {
        Self {
            kind: Kind::Failed,
            status: EnhancedStatus::new(5, 7, 1),
            text: DISCARDED.to_owned(),
            reply: None,
            peer: None,
            in_doubt: false,
            dsn_relayed: false,
        }
    }

    /// Whether it is [`discarded`](Self::discarded).
    pub fn is_discard(&self) -> bool {
        *self == Self::discarded()
    }

    /// Whether it was given up because its time was over: the one failure whose status is of the class of what is temporary (4.4.7).
    pub fn is_expiry(&self) -> bool {
        self.kind == Kind::Failed && self.status.class == 4
    }

    /// Whether an administrator returned it to its sender.
    pub fn is_bounce(&self) -> bool {
        self.is_order(RETURNED)
    }

    /// Whether an administrator removed it.
    pub fn is_removal(&self) -> bool {
        self.is_order(REMOVED)
    }

    /// No peer can have said that: what peers say stands behind a reply code.
    fn is_order(&self, words: &str) -> bool {
        self.kind == Kind::Failed && self.reply.is_none() && self.peer.is_none() && self.text.starts_with(words)
    }
}

/// The other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name that routing gave: an MX name, an override's server, or a literal.
    pub host: Arc<str>,
    /// What was dialled.
    pub address: SocketAddr,
    /// Protocol version and cipher suite, as `TLSv1.3 TLS13_AES_256_GCM_SHA384`, where the session was encrypted;
    /// " verified" follows where the certificate proved the name.
    pub tls: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_administrator_ordered_is_known_by_its_outcome() {
        let reason = || "asked for".to_owned();
        let (bounced, removed) =
            (Outcome::of(&Fault::Returned { reason: reason() }, None), Outcome::of(&Fault::Removed { reason: reason() }, None));
        assert_eq!((bounced.is_bounce(), bounced.is_removal()), (true, false));
        assert_eq!((removed.is_bounce(), removed.is_removal()), (false, true));
        let rejected = Outcome::of(&Fault::Rejected { reason: reason() }, None);
        assert!(!rejected.is_bounce() && !rejected.is_removal());
    }
}

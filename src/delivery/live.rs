//! What only the running daemon knows of a copy: where it is in memory, and what keeps it there. Handed on as JSON.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// One copy that is due or on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCopy {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Where it goes, if that is known.
    pub site: Option<LiveSite>,
}

/// Where a copy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    /// Not in memory: its time has not come.
    Deferred,
    /// Not in memory: it is read when there is room.
    Queue,
    /// Not in memory, as enough copies for its site are.
    Parked,
    /// Not in memory, as its site is paused.
    Paused {
        /// The administrator's words.
        reason: String,
    },
    /// Its route is being looked up.
    Routing,
    /// It waits for a session.
    Board {
        /// 1: the next of its site.
        number: usize,
        /// Copies that wait for the site.
        of: usize,
        /// What the site's next copy waits for.
        obstacle: Obstacle,
    },
    /// A session has it.
    Sending {
        /// What the session does.
        phase: Doing,
        /// With which host, once it is known.
        host: Option<String>,
        /// When the attempt began.
        since: Option<Timestamp>,
        /// Seconds that its transaction has taken.
        sent_for: Option<u64>,
    },
}

/// What a session does with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// It is being opened for it.
    Connecting,
    /// It is busy with another one; this one is next.
    Next,
    /// It sends it.
    Transaction,
    /// It is done with it: what came of it is being recorded.
    Recording,
}

impl Doing {
    /// The word of the interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Next => "next",
            Self::Transaction => "transaction",
            Self::Recording => "recording",
        }
    }
}

/// What keeps a site's next copy from being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "waits_for", rename_all = "snake_case")]
pub enum Obstacle {
    /// Nothing: it is about to be taken.
    Nothing,
    /// An administrator wants nothing sent to the site.
    Pause {
        /// The administrator's words.
        reason: String,
    },
    /// Its rate is used up.
    Rate {
        /// The next copy may go then.
        until: Timestamp,
    },
    /// The site has as many sessions as it may.
    SiteLimit {
        /// Open or opening.
        sessions: usize,
        /// At most.
        limit: usize,
    },
    /// Every worker is busy.
    Workers {
        /// All of them.
        total: usize,
    },
}

/// The site of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSite {
    /// Its text.
    pub site: String,
    /// Set while its last word was a failure.
    pub down: Option<Down>,
}

/// A site that could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The first failure of the row.
    pub since: Timestamp,
    /// Nothing is tried before; past: one copy is to look whether it is back.
    pub until: Timestamp,
    /// The last failure.
    pub reason: String,
}

impl LiveCopy {
    /// Whether nothing is sent to its site at all.
    pub fn is_paused(&self) -> bool {
        matches!(self.place, Place::Paused { .. } | Place::Board { obstacle: Obstacle::Pause { .. }, .. })
    }

    /// Before this its site's rate lets nothing more go.
    pub fn free_at(&self) -> Option<Timestamp> {
        match self.place {
            Place::Board { obstacle: Obstacle::Rate { until }, .. } => Some(until),
            _ => None,
        }
    }
}

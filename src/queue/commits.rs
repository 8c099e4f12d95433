//! What a queue counts of its own work.

use crate::observe::figure::{Counter, Histogram, figures};

figures! {
    /// What a queue counts of its transactions. A clone shows the same.
    pub struct Commits {
        /// How long the transactions of the queue's database took, each with all that had come together for it.
        commit_seconds: Histogram,
        /// Transactions of the queue's database that failed: disk full, or locked.
        commits_failed: Counter,
    }
}

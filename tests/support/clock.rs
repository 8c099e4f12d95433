//! A wall clock that goes with tokio's, so that paused time moves both.

#![allow(dead_code, unreachable_pub)]

use smtp_direct::clock::{Clock, Timestamp};
use tokio::time::Instant;

/// Starts at a fixed time of day when it is made.
#[derive(Debug, Clone, Copy)]
pub struct TestClock {
    began: Instant,
    base: Timestamp,
}

impl TestClock {
    /// From 2026-01-01 00:00 UTC on, or from now, where files' own times matter.
    pub fn from(base: Timestamp) -> Self {
        Self { began: Instant::now(), base }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.base + self.began.elapsed()
    }
}

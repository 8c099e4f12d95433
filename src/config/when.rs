//! Times of a command line: takes text, hands on a time, or how long ago it was.

use std::str::FromStr;
use std::time::Duration;

use super::parse_span;
use crate::clock::Timestamp;

/// A time, or how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before now.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl When {
    /// The time that is meant at `now`.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(time) => now.checked_sub(time).unwrap_or(Timestamp::MIN),
            Self::At(at) => at,
        }
    }
}

/// A duration, RFC 3339, or a date with or without a time, taken as UTC.
impl FromStr for When {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ago = parse_span(text).map(Self::Ago).ok();
        let at = || text.parse::<Timestamp>().ok();
        let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        ago.or_else(|| at().or_else(civil).map(Self::At)).ok_or("write it as \"2h\", \"2026-09-21\" or \"2026-09-21 14:13:20\"")
    }
}

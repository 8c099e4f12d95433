//! Message ids: ULIDs, 26 characters, ordered by time, never reused.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

/// The id of a message: 48 bits of milliseconds, 80 random bits, written as 26 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Ulid);

impl MessageId {
    /// A new id, with the time of `now`.
    pub fn new(now: crate::clock::Timestamp) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(Ulid::from_parts(millis, (u128::from(fastrand::u64(..)) << 16) | u128::from(fastrand::u16(..))))
    }

    /// The time that it was made at, to the millisecond.
    pub fn time(self) -> crate::clock::Timestamp {
        // 48 bits of milliseconds reach further than the calendar does.
        i64::try_from(self.0.timestamp_ms())
            .ok()
            .and_then(|millis| crate::clock::Timestamp::from_millisecond(millis).ok())
            .unwrap_or_default()
    }

    /// From the 16 octets that the queue keeps.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from_bytes(bytes))
    }

    /// The 26 characters, written into `buffer`.
    pub fn write_to(self, buffer: &mut [u8; 26]) -> &str {
        self.0.array_to_str(buffer)
    }

    /// 16 octets, most significant first: they sort as the ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.write_to(&mut [0; 26]))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = ulid::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text).map(Self)
    }
}

//! Site health: after a failure to connect, how long a site is left alone. Pure.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::retry::later;

/// What is known of a site's reachability. The default: nothing bad.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Health {
    /// Failures in a row.
    failures: u32,
    /// Set while the last word was a failure.
    down: Option<Down>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Down {
    /// The first failure of the row.
    since: Timestamp,
    until: Timestamp,
    detail: String,
}

impl Health {
    /// A failure: down until the time returned, twice as long as after the one before, between `min` and `max`.
    pub(super) fn down(&mut self, now: Timestamp, detail: &str, min: Duration, max: Duration) -> Timestamp {
        let wait = min.saturating_mul(1 << self.failures.min(20)).min(max);
        self.failures = self.failures.saturating_add(1);
        let until = later(now, wait);
        let since = self.down.as_ref().map_or(now, |down| down.since);
        self.down = Some(Down { since, until, detail: detail.to_owned() });
        until
    }

    /// A success: everything bad is forgotten.
    pub(super) fn up(&mut self) {
        *self = Self::default();
    }

    /// Until when the site is down, and why, if it is at `now`.
    pub(super) fn down_at(&self, now: Timestamp) -> Option<(Timestamp, &str)> {
        self.down.as_ref().filter(|down| now < down.until).map(|down| (down.until, down.detail.as_str()))
    }

    /// An administrator wants it looked at now: it may be tried, by one copy first.
    pub(super) fn look_now(&mut self, now: Timestamp) {
        if let Some(down) = &mut self.down {
            down.until = down.until.min(now);
        }
    }

    /// Since when, until when and why connections fail, if the last word was a failure.
    pub(super) fn failing(&self) -> Option<(Timestamp, Timestamp, &str)> {
        self.down.as_ref().map(|down| (down.since, down.until, down.detail.as_str()))
    }

    /// Whether the last word was good, or there is none.
    pub(super) fn is_proven(&self) -> bool {
        self.down.is_none()
    }

    /// Whether nothing would be lost by forgetting it: nothing bad, or a failure that nobody came back to for a day.
    pub(super) fn is_forgettable(&self, now: Timestamp) -> bool {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.down.as_ref().is_none_or(|down| now > later(down.until, DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_time_doubles_up_to_its_maximum_and_success_forgets() {
        let (min, max) = (Duration::from_secs(60), Duration::from_secs(200));
        let now = Timestamp::UNIX_EPOCH;
        let mut health = Health::default();
        let mut seconds = || health.down(now, "refused", min, max).as_second();
        assert_eq!([seconds(), seconds(), seconds(), seconds()], [60, 120, 200, 200]);
        assert_eq!(health.down_at(Timestamp::from_second(199).unwrap()).map(|(_, detail)| detail), Some("refused"));
        assert_eq!(health.down_at(Timestamp::from_second(200).unwrap()), None);
        assert!(!health.is_proven(), "a probe has to prove it");
        health.up();
        assert_eq!(health.down(now, "refused", min, max).as_second(), 60);
        health.look_now(Timestamp::from_second(10).unwrap());
        assert_eq!(health.down_at(Timestamp::from_second(10).unwrap()), None);
        assert!(!health.is_proven(), "one copy looks first");
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut health = Health { failures: u32::MAX, down: None };
        let until = health.down(Timestamp::UNIX_EPOCH, "x", Duration::from_secs(60), Duration::from_secs(3600));
        assert_eq!(until.as_second(), 3600);
    }
}

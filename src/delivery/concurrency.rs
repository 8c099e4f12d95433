//! How many sessions a site is given: starts small, grows while it goes well, falls when the site refuses or slows down. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Sessions at first.
const START: f64 = 2.0;
/// After a refusal, one session more each time this has passed well: the site has said how many it takes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Refusals within this time are one.
const ONE_REFUSAL: Duration = Duration::from_secs(1);
/// Transactions that take this much longer than they could are no sign of anything: scheduling here, a lock there.
const SLACK: Duration = Duration::from_millis(100);

/// One site's.
#[derive(Debug, Clone)]
pub(super) struct Concurrency {
    limit: f64,
    /// The last refusal: until there is one, every session that gets through brings another one.
    refused: Option<Instant>,
    changed: Option<Instant>,
    /// How long a transaction took at best, and takes of late.
    best: Duration,
    recent: Duration,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { limit: START, refused: None, changed: None, best: Duration::MAX, recent: Duration::ZERO }
    }
}

impl Concurrency {
    /// Sessions that the site may have, where `most` is what the configuration allows.
    pub(super) fn allowed(&self, most: usize) -> usize {
        // Between 1 and `most`: the conversion cannot go wrong.
        (self.limit as usize).clamp(1, most.max(1))
    }

    /// A session got through.
    pub(super) fn connected(&mut self, most: usize) {
        if self.refused.is_none() {
            self.limit = (self.limit + 1.0).min(most as f64).max(1.0);
        }
    }

    /// A transaction went well, and took that long.
    pub(super) fn went_well(&mut self, took: Duration, most: usize, now: Instant) {
        self.best = self.best.saturating_add(self.best / 1024).min(took);
        self.recent = if self.recent.is_zero() { took } else { self.recent - self.recent / 8 + took / 8 };
        if self.recent > self.best.saturating_mul(4).saturating_add(SLACK * 4) {
            // It is drowning: a quarter less, and time to see what that does.
            if self.settled(now, self.recent.max(ONE_REFUSAL)) {
                self.limit = (self.limit * 0.75).max(1.0);
                self.refused = Some(now);
                self.changed = Some(now);
            }
        } else if self.recent > self.best.saturating_mul(2).saturating_add(SLACK) {
            // As many as it can do.
        } else if self.refused.is_none() {
            self.limit = (self.limit + 1.0 / self.limit).min(most as f64).max(1.0);
        } else if self.settled(now, PROBE_EVERY) {
            self.limit = (self.limit + 1.0).min(most as f64).max(1.0);
            self.changed = Some(now);
        }
    }

    /// How long a transaction takes of late, if that is known.
    pub(super) fn latency(&self) -> Option<Duration> {
        (!self.recent.is_zero()).then_some(self.recent)
    }

    /// A connection was refused while `open` sessions are there: that is how many it takes.
    pub(super) fn refused_at(&mut self, open: usize, now: Instant) {
        self.refused = Some(now);
        self.changed = Some(now);
        self.limit = self.limit.min(open as f64).max(1.0);
    }

    /// The site ended a session by 421.
    pub(super) fn pushed_back(&mut self, now: Instant) {
        if self.refused.is_none_or(|at| now.saturating_duration_since(at) >= ONE_REFUSAL) {
            self.refused = Some(now);
            self.changed = Some(now);
            self.limit = (self.limit / 2.0).max(1.0);
        }
    }

    /// Whether nothing was learned that is worth keeping.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.refused.is_none_or(|at| now.saturating_duration_since(at) >= DAY)
    }

    fn settled(&self, now: Instant, after: Duration) -> bool {
        self.changed.is_none_or(|at| now.saturating_duration_since(at) >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn starts_small_and_doubles_with_sessions_that_get_through() {
        let mut site = Concurrency::default();
        assert_eq!((site.allowed(10), site.allowed(1)), (2, 1));
        for expected in [3, 4, 5, 5] {
            site.connected(5);
            assert_eq!(site.allowed(5), expected);
        }
    }

    #[test]
    fn success_adds_one_a_round_and_a_refusal_says_how_many() {
        let now = Instant::now();
        let mut site = Concurrency::default();
        (0..5).for_each(|_| site.went_well(MILLI, 100, now));
        assert_eq!(site.allowed(100), 3, "two sessions, a round each, and a bit");
        (0..1000).for_each(|_| site.went_well(MILLI, 20, now));
        assert_eq!(site.allowed(20), 20);
        site.refused_at(7, now);
        assert_eq!(site.allowed(20), 7);
        site.connected(20);
        (0..1000).for_each(|_| site.went_well(MILLI, 20, now));
        assert_eq!(site.allowed(20), 7, "it has said so a moment ago");
        let later = now + PROBE_EVERY;
        (0..1000).for_each(|_| site.went_well(MILLI, 20, later));
        assert_eq!(site.allowed(20), 8, "one more is a question");
    }

    #[test]
    fn a_421_halves_once_a_second_and_never_below_one() {
        let now = Instant::now();
        let mut site = Concurrency::default();
        (0..8).for_each(|_| site.connected(8));
        (0..5).for_each(|_| site.pushed_back(now));
        assert_eq!(site.allowed(8), 4);
        (1..10).for_each(|second| site.pushed_back(now + ONE_REFUSAL * second));
        assert_eq!(site.allowed(8), 1);
        site.refused_at(0, now);
        assert_eq!(site.allowed(8), 1);
    }

    #[test]
    fn growing_latency_takes_sessions_away_and_a_little_of_it_stops_the_growth() {
        let now = Instant::now();
        let mut site = Concurrency::default();
        (0..8).for_each(|_| site.connected(8));
        site.went_well(20 * MILLI, 8, now);
        (0..100).for_each(|_| site.went_well(3000 * MILLI, 8, now));
        assert_eq!(site.allowed(8), 6, "a quarter at a time");
        (1..20).for_each(|second| site.went_well(3000 * MILLI, 8, now + Duration::from_secs(second * 4)));
        assert_eq!(site.allowed(8), 1);
        assert!(!site.is_forgettable(now + Duration::from_secs(3600)) && site.is_forgettable(now + Duration::from_secs(90_000)));
    }
}

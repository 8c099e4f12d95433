//! A site's rate: how many copies may still go, and when the next one may. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rate;

/// What a rate allows at once after a quiet time: so much of it, at least one.
const BURST: Duration = Duration::from_secs(1);

/// Copies that have gone, as debts that time pays off.
#[derive(Debug, Clone, Default)]
pub(super) struct Throttle {
    /// When everything that has gone is paid for.
    paid_at: Option<Instant>,
}

impl Throttle {
    /// A copy goes at `now`. Hands on when the next one may, if not at once.
    pub(super) fn spend(&mut self, rate: Rate, now: Instant) -> Option<Instant> {
        let each = rate.per / rate.count;
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + each;
        self.paid_at = Some(paid_at);
        // Debts of up to a burst are no reason to wait; of one copy never more than its own.
        let free = BURST.saturating_sub(each);
        paid_at.checked_sub(free).filter(|&next| next > now)
    }

    /// Whether everything is paid for.
    pub(super) fn is_paid(&self, now: Instant) -> bool {
        self.paid_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn went(rate: Rate, during: Duration) -> usize {
        let (start, mut throttle, mut went) = (Instant::now(), Throttle::default(), 0);
        let mut now = start;
        while now <= start + during {
            went += 1;
            if let Some(next) = throttle.spend(rate, now) {
                now = next;
            }
        }
        went
    }

    #[test]
    fn a_rate_holds_over_any_time_with_a_second_of_it_at_once() {
        let minute = Duration::from_secs(60);
        let per_second = went(Rate { count: 20, per: Duration::from_secs(1) }, minute);
        assert!((1_200..=1_221).contains(&per_second), "{per_second}");
        let per_minute = went(Rate { count: 30, per: minute }, Duration::from_secs(600));
        assert!((300..=301).contains(&per_minute), "{per_minute}");
        assert_eq!(went(Rate { count: 20, per: Duration::from_secs(1) }, Duration::ZERO), 20, "at once after a quiet time");
    }

    #[test]
    fn a_slow_rate_lets_one_go_and_waits_for_the_next() {
        let (now, mut throttle) = (Instant::now(), Throttle::default());
        let rate = Rate { count: 1, per: Duration::from_secs(60) };
        assert_eq!(throttle.spend(rate, now), Some(now + Duration::from_secs(60)));
        assert!(!throttle.is_paid(now) && throttle.is_paid(now + Duration::from_secs(60)));
    }
}

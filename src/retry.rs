//! When to try again, and when to stop: pure functions of the schedule, the attempt and the clock.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Retry;
use crate::outcome::Outcome;

/// A peer's announced waiting time counts up to here; beyond it is nonsense or an attack on the queue.
const MAX_ANNOUNCED: Duration = Duration::from_secs(6 * 60 * 60);

/// What follows for recipients that were deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Due again then: never after the expiry, so that it is noticed on time.
    At(Timestamp),
    /// The time is over.
    Expired,
}

/// After attempt `number` (1 for the first) ended at `now`: when to try again. `unit` in 0.0..1.0 picks the jitter within ±10 %.
pub fn next(schedule: &[Duration], number: u32, now: Timestamp, limits: Limits, unit: f64) -> Next {
    if now >= limits.expires_at {
        return Next::Expired;
    }
    let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX).min(schedule.len().saturating_sub(1));
    let wait = schedule.get(index).copied().unwrap_or_default().mul_f64(0.9 + 0.2 * unit.clamp(0.0, 1.0));
    let due = later(now, wait.max(limits.at_least));
    Next::At(due.min(limits.expires_at))
}

/// What bounds the next attempt besides the schedule.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When the message is given up.
    pub expires_at: Timestamp,
    /// What a peer asked for, or how long its site stays down.
    pub at_least: Duration,
}

/// When a message accepted at `accepted_at` is given up.
pub fn expiry(retry: &Retry, accepted_at: Timestamp, own: Option<Timestamp>) -> Timestamp {
    let lifetime = later(accepted_at, retry.lifetime);
    own.map_or(lifetime, |own| own.min(lifetime))
}

/// Whether the sender is to be told of a delay now.
pub fn warning_is_due(retry: &Retry, accepted_at: Timestamp, now: Timestamp) -> bool {
    retry.warn_after.is_some_and(|after| now >= later(accepted_at, after))
}

/// The longest time that the outcomes' peers asked for: greylisting replies name it in seconds or minutes.
pub fn announced_wait<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Duration {
    outcomes
        .filter_map(|outcome| outcome.reply.as_ref())
        .filter(|reply| (400..500).contains(&reply.code()))
        .filter_map(|reply| wait_in(reply.text()))
        .max()
        .unwrap_or_default()
}

/// The first "N seconds" or "N minutes" in a reply that speaks of waiting.
fn wait_in(text: &str) -> Option<Duration> {
    let text = text.to_ascii_lowercase();
    if !["grey", "gray", "try again", "retry", "wait", "come back", "later"].iter().any(|word| text.contains(word)) {
        return None;
    }
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(count) = word[..digits].parse::<u64>() else { continue };
        let unit = if digits < word.len() { &word[digits..] } else { words.peek().copied().unwrap_or_default() };
        let seconds = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => count,
            "m" | "min" | "mins" | "minute" | "minutes" => count.saturating_mul(60),
            _ => continue,
        };
        return Some(Duration::from_secs(seconds).min(MAX_ANNOUNCED));
    }
    None
}

/// `then + wait`, at the end of time where that is beyond it.
pub fn later(then: Timestamp, wait: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(wait).ok().and_then(|wait| then.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Fault, Phase};
    use crate::smtp::Reply;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn limits(expires_at: i64, at_least: Duration) -> Limits {
        Limits { expires_at: at(expires_at), at_least }
    }

    #[test]
    fn schedule_is_walked_and_its_last_entry_repeats() {
        let schedule = [MINUTE, 2 * MINUTE];
        let due = |number| next(&schedule, number, at(0), limits(1_000_000, Duration::ZERO), 0.5);
        assert_eq!(due(1), Next::At(at(60)));
        assert_eq!(due(2), Next::At(at(120)));
        assert_eq!(due(9), Next::At(at(120)));
        assert_eq!(due(u32::MAX), Next::At(at(120)));
    }

    #[test]
    fn jitter_stays_within_ten_percent() {
        for (unit, expected) in [(0.0, 540), (0.5, 600), (1.0, 660), (7.0, 660)] {
            assert_eq!(next(&[10 * MINUTE], 1, at(0), limits(1_000_000, Duration::ZERO), unit), Next::At(at(expected)));
        }
    }

    #[test]
    fn expiry_ends_the_waiting() {
        assert_eq!(next(&[MINUTE], 1, at(100), limits(100, Duration::ZERO), 0.5), Next::Expired);
        assert_eq!(next(&[MINUTE], 1, at(100), limits(130, Duration::ZERO), 0.5), Next::At(at(130)));
    }

    #[test]
    fn a_peers_wish_is_a_minimum() {
        assert_eq!(next(&[MINUTE], 1, at(0), limits(1_000_000, 5 * MINUTE), 0.5), Next::At(at(300)));
        assert_eq!(next(&[10 * MINUTE], 1, at(0), limits(1_000_000, 5 * MINUTE), 0.5), Next::At(at(600)));
    }

    #[test]
    fn greylisting_times_are_read() {
        for (text, seconds) in [
            ("4.7.1 Greylisted, please try again in 300 seconds", Some(300)),
            ("Greylisting in action, retry in 5 minutes", Some(300)),
            ("4.2.0 graylisted; wait 120s", Some(120)),
            ("try again later (10min)", Some(600)),
            ("4.2.2 mailbox full, 5 minutes of fame", None),
            ("4.3.2 try again later", None),
            ("try again in 99999999999999999999 seconds", None),
            ("try again in 9999999 minutes", Some(MAX_ANNOUNCED.as_secs())),
        ] {
            assert_eq!(wait_in(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn only_temporary_replies_ask_for_time() {
        let outcome = |code| Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply: Reply::new(code, "try again in 300 seconds") }, None);
        assert_eq!(announced_wait([outcome(451), outcome(550)].iter()), Duration::from_secs(300));
        assert_eq!(announced_wait([outcome(550)].iter()), Duration::ZERO);
    }
}

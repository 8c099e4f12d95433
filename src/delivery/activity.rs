//! What has just happened: the last outcomes, and how many of what in the last second and minute. For live views; memory only.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId};
use crate::outcome::{Kind, Outcome};
use crate::queue::{QueuedCopy, Settlement};

/// Outcomes that are kept.
pub const RECENT: usize = 200;
/// Whole seconds that are kept apart.
const SECONDS: usize = 60;

/// How many of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Messages that the queue took.
    pub accepted: u64,
    /// Recipients delivered to.
    pub delivered: u64,
    /// Recipients put off.
    pub deferred: u64,
    /// Recipients given up.
    pub failed: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.deferred += other.deferred;
        self.failed += other.failed;
    }
}

/// Counts over three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throughput {
    /// The last whole second.
    pub second: Count,
    /// The last sixty whole seconds.
    pub minute: Count,
    /// Since the start.
    pub total: Count,
}

/// An outcome of a recipient.
#[derive(Debug, Clone)]
pub struct RecentOutcome {
    /// Counts up from 1 since the start, so that a reader knows what it has seen.
    pub number: u64,
    /// When it was recorded.
    pub at: Timestamp,
    /// Of which message.
    pub message: MessageId,
    /// The copy's target domain.
    pub domain: Domain,
    /// Whose.
    pub recipient: Address,
    /// The site that was tried, where one was.
    pub site: Option<String>,
    /// What.
    pub outcome: Outcome,
}

/// The record of what has just happened.
#[derive(Debug)]
pub struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    recent: VecDeque<RecentOutcome>,
    number: u64,
    /// By second since the start, modulo their number, with the second that each is of.
    seconds: [(u64, Count); SECONDS + 1],
    total: Count,
}

impl Default for Activity {
    /// Nothing has happened.
    fn default() -> Self {
        let seconds = [(0, Count::default()); SECONDS + 1];
        let state = State { start: Instant::now(), recent: VecDeque::new(), number: 0, seconds, total: Count::default() };
        Self { state: Mutex::new(state) }
    }
}

impl Activity {
    /// Messages were accepted.
    pub fn accepted(&self, messages: u64) {
        self.lock().count(Count { accepted: messages, ..Count::default() }, Instant::now());
    }

    /// Settlements were recorded.
    pub(super) fn settled<'a>(&self, settled: impl Iterator<Item = (&'a QueuedCopy, &'a Settlement)>) {
        let mut state = self.lock();
        let mut count = Count::default();
        for (copy, settlement) in settled {
            // In the copy's order, perhaps not all of them.
            let mut recipients = copy.recipients.iter();
            let skipped = settlement.recipients.len().saturating_sub(RECENT);
            for (place, result) in settlement.recipients.iter().enumerate() {
                let Some(recipient) = recipients.find(|recipient| recipient.id == result.recipient) else { break };
                *match result.outcome.kind {
                    Kind::Delivered => &mut count.delivered,
                    Kind::Deferred => &mut count.deferred,
                    Kind::Failed => &mut count.failed,
                } += 1;
                state.number += 1;
                if place < skipped {
                    continue;
                }
                if state.recent.len() == RECENT {
                    state.recent.pop_front();
                }
                let number = state.number;
                state.recent.push_back(RecentOutcome {
                    number,
                    at: settlement.at,
                    message: copy.message.id,
                    domain: copy.domain.clone(),
                    recipient: recipient.address.clone(),
                    site: settlement.attempt.as_ref().map(|attempt| attempt.site.clone()).filter(|site| !site.is_empty()),
                    outcome: result.outcome.clone(),
                });
            }
        }
        state.count(count, Instant::now());
    }

    /// Counts up to now.
    pub fn throughput(&self) -> Throughput {
        let state = self.lock();
        let now = state.start.elapsed().as_secs();
        let mut throughput = Throughput { total: state.total, ..Throughput::default() };
        for &(second, count) in &state.seconds {
            if second < now && now - second <= SECONDS as u64 {
                throughput.minute.add(count);
                if second + 1 == now {
                    // Slots that were never used say second 0 too.
                    throughput.second.add(count);
                }
            }
        }
        throughput
    }

    /// Whole seconds since the start, and the last sixty of them, oldest first; those before the start are empty.
    pub fn seconds(&self) -> (u64, Vec<Count>) {
        let state = self.lock();
        let now = state.start.elapsed().as_secs();
        let mut seconds = vec![Count::default(); SECONDS];
        for &(second, count) in &state.seconds {
            let age = now.checked_sub(second + 1).and_then(|age| usize::try_from(age).ok());
            if let Some(age @ 0..SECONDS) = age {
                // Slots that were never used say second 0 too.
                seconds[SECONDS - 1 - age].add(count);
            }
        }
        (now, seconds)
    }

    /// The last outcomes after that number, the newest last: at most [`RECENT`].
    pub fn recent(&self, after: u64) -> Vec<RecentOutcome> {
        self.lock().recent.iter().filter(|outcome| outcome.number > after).cloned().collect()
    }

    /// A panic while it was locked left counts that are a little off.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, more: Count, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        // The remainder is below the array's length.
        let place = usize::try_from(second % (SECONDS as u64 + 1)).unwrap_or_default();
        let slot = &mut self.seconds[place];
        if slot.0 != second {
            *slot = (second, Count::default());
        }
        slot.1.add(more);
        self.total.add(more);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_are_of_whole_seconds_and_leave_after_a_minute() {
        let activity = Activity::default();
        activity.accepted(3);
        assert_eq!((activity.throughput().second.accepted, activity.throughput().total.accepted), (0, 3), "the second is not over");
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.accepted(2);
        assert_eq!(activity.throughput().second.accepted, 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        let throughput = activity.throughput();
        assert_eq!((throughput.second.accepted, throughput.minute.accepted), (2, 5));
        let (elapsed, seconds) = activity.seconds();
        let accepted: Vec<u64> = seconds.iter().map(|count| count.accepted).collect();
        assert_eq!((elapsed, accepted.len(), &accepted[57..]), (2, 60, &[0, 3, 2][..]));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(activity.throughput().minute.accepted, 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        let throughput = activity.throughput();
        assert_eq!((throughput.minute.accepted, throughput.total.accepted), (0, 5));
    }
}

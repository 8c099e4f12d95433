//! After a crash: takes attempts that were cut off and what the in-doubt journal tells of them, hands on settlements of what is known.

use std::collections::HashMap;

use super::conclude::{tell, tell_doubts};
use super::worker::since;
use crate::clock::Timestamp;
use crate::config::{InDoubt, Retry};
use crate::dsn;
use crate::observe::events;
use crate::observe::lines::together;
use crate::observe::metrics::Counts;
use crate::outcome::{Fault, Outcome};
use crate::queue::{
    AttemptId, AttemptRecord, Delays, Evidence, Haste, Interrupted, NextStep, QueuedCopy, RecipientId, RecipientOutcome, Settlement, Store,
    StoreError, Trace,
};
use crate::spool::Layout;

/// Copies that are settled in one transaction.
const STEP: usize = 256;

/// Settles what was being sent when the daemon ended: what the peer was known to have taken is delivered, what it may have is in doubt, and
/// the rest is queued as if nothing had been. Once it is back the journal has done its work.
pub async fn resume(layout: &Layout, store: &dyn Store, (retry, now): (&Retry, Timestamp), counts: &Counts) -> Result<(), StoreError> {
    let interrupted = store.interrupted().await?;
    if interrupted.is_empty() {
        return Ok(());
    }
    let evidence = Evidence::read(&layout.journal());
    let (mut known, mut untouched) = (Vec::new(), Vec::new());
    for Interrupted { copy, began_at } in interrupted {
        let traces = evidence.about(AttemptId { copy: copy.id, began_at });
        match settlement(&copy, began_at, traces.as_ref(), (retry, now)) {
            Some(settlement) => known.push((copy, settlement)),
            None => untouched.push(copy.id),
        }
    }
    let copies = untouched.len();
    store.withdraw(untouched).await?;
    tracing::info!(resumed = copies, settled = known.len(), "attempts had been cut off by the daemon's end");
    for step in known.chunks(STEP) {
        // What the peers did is true whatever becomes of this start: a kill before it is recorded has it told twice, never not at all.
        together(|| {
            for (copy, settlement) in step {
                tell_doubts(copy, settlement);
                tell(copy, settlement);
            }
        });
        let finished = store.settle(step.iter().map(|(_, settlement)| settlement.clone()).collect(), Haste::Now).await?;
        step.iter().for_each(|(copy, settlement)| counts.settled(copy, settlement));
        counts.finished(&finished);
        // Their files are let go by the repair that follows.
        for message in finished {
            events::finished(&message, now);
        }
    }
    Ok(())
}

/// What is known of an attempt that was cut off; `None`: nobody can have got the content. `traces`: as [`Evidence::about`] has them.
fn settlement(
    copy: &QueuedCopy,
    began_at: Timestamp,
    traces: Option<&HashMap<RecipientId, Trace>>,
    (retry, now): (&Retry, Timestamp),
) -> Option<Settlement> {
    let in_doubt = || Outcome::of(&Fault::Interrupted, None);
    let outcome = |id| match traces {
        None => Some(in_doubt()),
        Some(traces) => traces.get(&id).map(|trace| match trace {
            Trace::Ended => in_doubt(),
            Trace::Delivered(outcome) => outcome.clone(),
        }),
    };
    let known = copy.recipients.iter().filter_map(|recipient| Some((recipient, outcome(recipient.id)?)));
    let recipients: Vec<RecipientOutcome> = known
        .map(|(recipient, outcome)| RecipientOutcome {
            recipient: recipient.id,
            report: dsn::action_due(&copy.message.sender, &recipient.notify, &outcome, false),
            outcome,
        })
        .collect();
    if recipients.is_empty() {
        return None;
    }
    let mut trail: Vec<String> = recipients.iter().map(|known| known.outcome.text.clone()).collect();
    trail.sort_unstable();
    trail.dedup();
    let attempt = AttemptRecord {
        number: copy.attempts + 1,
        began_at,
        ended_at: now,
        site: String::new(),
        route: String::new(),
        delays: Delays { queue: since(copy.due_at, began_at), ..Delays::default() },
        trail,
    };
    let all = recipients.len() == copy.recipients.len() && !recipients.iter().any(RecipientOutcome::waits_in_doubt);
    let next = if all { NextStep::Finish } else { NextStep::Retry(now) };
    let hold_in_doubt = retry.in_doubt == InDoubt::Hold;
    let attempt = Some(attempt);
    Some(Settlement { copy: copy.id, attempt, put_off_at: None, recipients, next, warned: false, hold_in_doubt, at: now })
}

//! Recording what happened: takes ended copies, writes their settlements, tells the log, has finished files go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::settle::{self, Ended};
use super::{Context, results, shared};
use crate::message::{Address, MessageId, ReversePath};
use crate::observe::events;
use crate::observe::lines::together;
use crate::observe::trouble::advice;
use crate::outcome::{EnhancedStatus, Kind, Outcome};
use crate::queue::{Finished, HELD_IN_DOUBT, Haste, NextStep, QueuedCopy, Settlement, StoreError};

/// How long to wait before an outcome that could not be recorded is recorded again.
pub(super) const STORE_RETRY: Duration = Duration::from_secs(1);

/// Records how copies ended and draws the consequences. Comes back when it is durable, however long the store takes: an outcome that is
/// known must not be lost, or the copy would be sent again.
pub(super) async fn conclude(context: &Context, ended: Vec<(Arc<QueuedCopy>, Ended)>, haste: Haste) {
    let now = context.clock.now();
    let (copies, settlements): (Vec<Arc<QueuedCopy>>, Vec<Settlement>) = ended
        .into_iter()
        .map(|(copy, ended)| {
            let settlement = settle::settlement(&copy, ended, &context.config.retry, now, fastrand::f64());
            (copy, settlement)
        })
        .unzip();
    let settlements: Arc<[Settlement]> = settlements.into();
    for (copy, settlement) in copies.iter().zip(&*settlements) {
        keep_undeliverable(context, copy, settlement).await;
    }
    results::keep_marks(context, &copies, &settlements).await;
    let steps = shared::steps(&settlements);
    let reports = settlements.iter().flat_map(|settlement| &settlement.recipients).any(|recipient| recipient.report.is_some());
    together(|| copies.iter().zip(&*settlements).for_each(|(copy, settlement)| tell_doubts(copy, settlement)));
    let mut told = false;
    let finished = loop {
        match context.store.settle(settlements.clone(), haste).await {
            Ok(finished) => break finished,
            // Nothing can be recorded any more: the attempts stay marked as begun, and so as in doubt.
            Err(error @ (StoreError::Closed | StoreError::Damaged { .. })) => {
                tracing::error!(%error, copies = settlements.len(), "outcomes cannot be recorded");
                return;
            }
            Err(error) => {
                // The store tells of what may pass.
                if !error.is_told() && !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, copies = settlements.len(), "outcomes cannot be recorded, trying again");
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    };
    context.journal.settled(copies.iter().map(|copy| copy.id));
    together(|| {
        for (copy, settlement) in copies.iter().zip(&*settlements) {
            context.counts.settled(copy, settlement);
            tell(copy, settlement);
        }
    });
    context.shared.tell(&copies, &settlements);
    context.shared.settled(&steps);
    if reports || context.shared.reports_wait.load(Ordering::Relaxed) {
        context.shared.reports.notify_one();
    }
    context.shared.clearing.add(finish(context, finished).await).await;
}

/// Writes the results of finished messages, then tells of them. Hands on those whose files may go.
pub(super) async fn finish(context: &Context, finished: Vec<Finished>) -> Vec<MessageId> {
    if finished.is_empty() {
        return Vec::new();
    }
    let ids = results::written(context, finished.iter().map(|message| message.id).collect()).await;
    context.counts.finished(&finished);
    let now = context.clock.now();
    together(|| finished.iter().for_each(|message| events::finished(message, now)));
    ids
}

/// What fails and has nobody to be returned to is kept in `failed/`, before its row says finished: a message from the null sender, and one
/// whose file is damaged, as a report of that has nothing of it.
async fn keep_undeliverable(context: &Context, copy: &QueuedCopy, settlement: &Settlement) {
    let mut failed = copy.recipients.iter().zip(&settlement.recipients).filter(|(_, result)| result.outcome.kind == Kind::Failed);
    let report = copy.message.sender == ReversePath::Null;
    let Some((recipient, result)) = failed.find(|(_, result)| report || is_damage(&result.outcome)) else { return };
    let reason = format!("{}: {}", recipient.address, result.outcome.text);
    let mut told = false;
    // Recorded before it is kept, it would be gone with its file.
    while let Err(error) = context.layout.keep_failed(copy.message.id, &reason) {
        if !std::mem::replace(&mut told, true) {
            tracing::error!(id = %copy.message.id, %error, advice = advice(&error),
                "a message that cannot be delivered cannot be kept in failed/ either, trying again");
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
    if !report {
        tracing::error!(id = %copy.message.id, reason, "a damaged message is kept in failed/");
        return;
    }
    super::report::forward_to_postmaster(context, copy).await;
}

/// The one fault with this status that no peer spoke of is [`Fault::Damaged`](crate::outcome::Fault::Damaged).
fn is_damage(outcome: &Outcome) -> bool {
    outcome.reply.is_none() && outcome.status == EnhancedStatus::new(5, 3, 0)
}

/// Names who is in doubt. Before it is recorded, unlike everything else: it is what the peer may have, whatever becomes of the record, and
/// whoever reads nothing but the log must not miss it. A daemon that is killed in between names them twice, with the same attempt's number.
pub(super) fn tell_doubts(copy: &QueuedCopy, settlement: &Settlement) {
    for (to, outcome) in outcomes(copy, settlement).filter(|(_, outcome)| outcome.in_doubt) {
        events::in_doubt(copy, to, outcome, settlement.attempt.as_ref(), settlement.at);
    }
}

pub(super) fn tell(copy: &QueuedCopy, settlement: &Settlement) {
    if let Some(record) = &settlement.attempt {
        events::attempt(copy, record);
    }
    for (to, outcome) in outcomes(copy, settlement) {
        if settlement.at >= copy.message.expires_at && outcome.kind == Kind::Failed {
            events::expired(copy, to);
        }
        events::outcome(copy, to, outcome, settlement.attempt.as_ref(), settlement.at);
    }
    match &settlement.next {
        NextStep::Hold { reason } => events::held(copy, reason),
        NextStep::Finish if settlement.discards() => events::discarded(copy),
        NextStep::Retry(_) if settlement.holds_in_doubt() => events::held(copy, HELD_IN_DOUBT),
        NextStep::Finish | NextStep::Retry(_) => {}
    }
}

/// What became of whom: in the copy's order, perhaps not of all of them.
fn outcomes<'a>(copy: &'a QueuedCopy, settlement: &'a Settlement) -> impl Iterator<Item = (&'a Address, &'a Outcome)> {
    let mut recipients = copy.recipients.iter();
    settlement.recipients.iter().map_while(move |result| {
        let recipient = recipients.find(|recipient| recipient.id == result.recipient)?;
        Some((&recipient.address, &result.outcome))
    })
}

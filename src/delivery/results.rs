//! Result files (`spool.results`): takes messages that the store says are finished, hands on those whose files may go.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::Context;
use crate::message::MessageId;
use crate::queue::{MessageDetail, NextStep, QueuedCopy, Settlement};

/// Writes the results of finished messages, where they are wanted. A message whose result cannot be written keeps its file, which says that
/// it is due: it is tried again with [`owed`], and at the next start.
pub(super) async fn written(context: &Context, ids: Vec<MessageId>) -> Vec<MessageId> {
    if !context.results.are_wanted() || ids.is_empty() {
        return ids;
    }
    let details = match context.store.details(ids.clone()).await {
        Ok(details) => details,
        Err(error) => {
            tracing::error!(%error, messages = ids.len(), "the results of finished messages cannot be written, trying again later");
            context.results.owe(ids);
            return Vec::new();
        }
    };
    let results = Arc::clone(&context.results);
    let writing = spawn_blocking(move || {
        let written = results.write(&details);
        details.into_iter().zip(written).collect::<Vec<_>>()
    });
    let Ok(outcomes) = writing.await else {
        tracing::error!(messages = ids.len(), "internal error while writing the results of finished messages; the next start tries again");
        return Vec::new();
    };
    let mut done = Vec::with_capacity(outcomes.len());
    for (MessageDetail { message, .. }, outcome) in outcomes {
        match outcome {
            Ok(()) => done.push(message.id),
            Err(error) => {
                tracing::error!(id = %message.id, %error, "the result of a finished message cannot be written, trying again later");
                context.results.owe([message.id]);
            }
        }
    }
    done
}

/// Tries again what could not be written.
pub(super) async fn owed(context: &Context) {
    let written = written(context, context.results.owed()).await;
    context.shared.clearing.add(written).await;
}

/// Before messages may become finished: one whose file is gone gets an empty one, as it is the file that says that a result is due.
pub(super) async fn keep_marks(context: &Context, copies: &[Arc<QueuedCopy>], settlements: &[Settlement]) {
    if !context.results.are_wanted() {
        return;
    }
    let ending = copies.iter().zip(settlements).filter(|(_, settlement)| settlement.next == NextStep::Finish);
    let ids: Vec<MessageId> = ending.map(|(copy, _)| copy.message.id).collect();
    let layout = context.layout.clone();
    let marking =
        spawn_blocking(move || ids.into_iter().filter_map(|id| layout.mark_message(id).err().map(|error| (id, error))).collect::<Vec<_>>());
    for (id, error) in marking.await.unwrap_or_default() {
        tracing::warn!(%id, %error, "should the daemon be killed this moment, this message will have no result");
    }
}

//! Administrators' orders: takes a selection and a command, has the queue carry it out, tells log and scheduler, hands on what came of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::Context;
use super::conclude::finish;
use crate::clock::Timestamp;
use crate::dsn;
use crate::message::Domain;
use crate::observe::events;
use crate::outcome::{Fault, Outcome};
use crate::queue::{
    Acted, Action, CopyId, Done, NextStep, Order, QueuedCopy, RecipientOutcome, Selection, Settlement, StoreError, Verdict,
};
use crate::route::Site;

/// Copies that are read, and acted upon, in one go: others get their turn between.
const PAGE: usize = 500;

/// What to do, and who says so.
#[derive(Debug, Clone)]
pub struct Command {
    /// What.
    pub action: Action,
    /// Why, for log, history and report.
    pub reason: String,
    /// Whose word.
    pub by: String,
}

/// What a command came to.
#[derive(Debug, Default)]
pub struct Administered {
    /// A line a copy.
    pub acted: Vec<Acted>,
    /// Messages that are finished by it.
    pub finished: usize,
}

/// Carries a command out for all copies that are selected at this moment. After an error, what was done before it stays done: it can be given
/// again.
pub async fn administer(context: &Context, mut selection: Selection, command: Command) -> Result<Administered, StoreError> {
    let now = context.clock.now();
    let Command { action, reason, by } = command;
    if let Some(site) = selection.site.as_deref().map(Site::new) {
        let state = context.shared.lock();
        selection.at_site = state.board.waiting_at(&site).iter().map(|copy| copy.id).collect();
        // Where a copy for such a domain goes elsewhere after all, an attempt too many does no harm. Other orders need to be exact.
        if action == Action::Retry {
            selection.of_site = state.board.put_off(&site);
        }
    }
    if matches!(action, Action::Retry | Action::Release) {
        // Who asks for an attempt knows that a site was down.
        context.shared.lock().board.look_now(selection.site.as_deref().map(Site::new).as_ref(), now);
    }
    let order = Order { action, verdict: verdict(action, &reason, now), reason, by, at: now };
    // All of them first: a copy that is divided has a part behind those that are still to come.
    let mut copies = Vec::new();
    loop {
        let after = copies.last().copied().unwrap_or(CopyId(i64::MIN));
        let page = context.store.select(selection.clone(), after, PAGE).await?;
        let complete = page.len() < PAGE;
        copies.extend(page);
        if complete {
            break;
        }
    }
    let mut administered = Administered::default();
    for page in copies.chunks(PAGE) {
        let acts = context.store.act(page.to_vec(), selection.recipient.clone(), order.clone()).await?;
        tell(context, &acts.acted, &order);
        administered.finished += acts.finished.len();
        administered.acted.extend(acts.acted);
        finish(context, acts.finished).await;
    }
    Ok(administered)
}

fn tell(context: &Context, acted: &[Acted], order: &Order) {
    let done = || acted.iter().filter(|acted| acted.done == Done::Done);
    done().for_each(|acted| events::administered(acted, order));
    let changed: HashSet<CopyId> = done().flat_map(|acted| [acted.copy, acted.from]).collect();
    let is_due = |acted: &&Acted| matches!(order.action, Action::Retry | Action::Release) || acted.copy != acted.from;
    let domains: HashSet<Domain> = done().filter(is_due).map(|acted| acted.domain.clone()).collect();
    if !changed.is_empty() {
        context.shared.changed(&changed, domains);
        context.shared.reports.notify_one();
    }
}

/// How copies end that are given up.
fn verdict(action: Action, reason: &str, now: Timestamp) -> Verdict {
    let reason = reason.to_owned();
    let outcome = match action {
        Action::Remove => Outcome::of(&Fault::Removed { reason }, None),
        Action::Bounce | Action::Retry | Action::Hold | Action::Release => Outcome::of(&Fault::Returned { reason }, None),
    };
    let told = action == Action::Bounce;
    Arc::new(move |copy: &QueuedCopy| {
        let recipients = copy.recipients.iter().map(|recipient| {
            // What was in doubt remains so: it may have been delivered all the same.
            let in_doubt = recipient.last.as_ref().is_some_and(|last| last.in_doubt);
            let outcome = Outcome { in_doubt, ..outcome.clone() };
            let report = told.then(|| dsn::action_due(&copy.message.sender, &recipient.notify, &outcome, false)).flatten();
            RecipientOutcome { recipient: recipient.id, report, outcome }
        });
        let recipients = recipients.collect();
        Settlement { copy: copy.id, attempt: None, recipients, next: NextStep::Finish, warned: false, hold_in_doubt: false, at: now }
    })
}

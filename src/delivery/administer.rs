//! Administrators' orders: takes a selection and a command, has the queue carry it out, tells log and scheduler, hands on what came of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::Context;
use super::clear;
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

/// Domains that are looked at of which no site is recorded.
const UNPLACED: usize = 100_000;

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
        look_for(context, &site, &mut selection).await?;
    }
    let order = Order { action, verdict: verdict(action, &reason, now), reason, by, at: now };
    // All of them first: a copy that is divided has a part behind those that are still to come.
    let mut copies = Vec::new();
    let mut sites = HashSet::new();
    loop {
        let after = copies.last().copied().unwrap_or(CopyId(i64::MIN));
        let page = context.store.select(selection.clone(), after, PAGE).await?;
        let complete = page.len() < PAGE;
        for selected in page {
            copies.push(selected.copy);
            sites.extend(selected.site);
        }
        if complete {
            break;
        }
    }
    if matches!(order.action, Action::Retry | Action::Release) {
        look_now(context, &selection, sites, now);
    }
    let mut administered = Administered::default();
    for page in copies.chunks(PAGE) {
        let acts = context.store.act(page.to_vec(), selection.recipient.clone(), order.clone()).await?;
        tell(context, &acts.acted, &order);
        administered.finished += acts.finished.len();
        administered.acted.extend(acts.acted);
        // At once: whoever has a message removed may look for its file.
        clear::remove(context, finish(context, acts.finished).await).await;
    }
    Ok(administered)
}

/// Adds to what the queue knows of a site's copies what only the daemon does: those that wait for it in memory, and those never tried whose
/// domains' mail waits for it in the queue, or goes there by what is known of them without a question to DNS.
async fn look_for(context: &Context, site: &Site, selection: &mut Selection) -> Result<(), StoreError> {
    let unplaced = context.store.unplaced_domains(UNPLACED).await?;
    selection.at_site = context.shared.lock().board.waiting_at(site).iter().map(|copy| copy.id).collect();
    let parked: HashSet<Domain> = context.shared.parked(site).into_iter().collect();
    let is_of_site = |domain: &Domain| parked.contains(domain) || context.router.known_site(domain).as_ref() == Some(site);
    selection.of_site = unplaced.into_iter().filter(is_of_site).collect();
    Ok(())
}

/// Who asks for attempts knows that a site was down: the one that is named, those of the copies that are meant, or all if everything is.
fn look_now(context: &Context, selection: &Selection, sites: HashSet<String>, now: Timestamp) {
    let board = &mut context.shared.lock().board;
    if *selection == Selection::default() {
        board.look_now(None, now);
    }
    for site in selection.site.iter().cloned().chain(sites) {
        board.look_now(Some(&Site::new(site)), now);
    }
}

fn tell(context: &Context, acted: &[Acted], order: &Order) {
    let done = || acted.iter().filter(|acted| acted.done == Done::Done);
    done().for_each(|acted| {
        context.counts.administered(acted, order.action);
        events::administered(acted, order);
    });
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
        Settlement {
            copy: copy.id,
            attempt: None,
            put_off_at: None,
            recipients,
            next: NextStep::Finish,
            warned: false,
            hold_in_doubt: false,
            at: now,
        }
    })
}

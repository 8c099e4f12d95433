//! Why a copy has not arrived, and what happens next: takes what the queue holds, the configuration and what the daemon tells, hands on
//! facts. Pure; `control::why` words them, for the command line and the status page.

mod facts;

use std::collections::HashSet;
use std::time::Duration;

pub use self::facts::{Cause, Chain, Daemon, Doubt, Given, Group, Holder, Next, Silence, Standing, Tells, Told};
use super::live::LiveCopy;
use crate::clock::Timestamp;
use crate::dsn;
use crate::message::{Recipient, ReversePath};
use crate::outcome::{DISCARDED, EnhancedStatus, Kind, Outcome};
use crate::queue::{Action, ActionRow, CopyDetail, CopyState, HELD_IN_DOUBT, MessageDetail, REPORT_SOURCE};
use crate::retry::{announced_wait, later};
use crate::route::Rule;

/// What there is to say of one copy of `message`.
pub fn chain<'a>(message: &'a MessageDetail, copy: &'a CopyDetail, given: Given<'a>) -> Chain<'a> {
    let orders = orders(message, copy);
    let standing = standing(copy, &orders, given);
    let next = next(message, copy, &standing, given);
    let sender = message.message.sender.address();
    let told_of_delay = copy.warned && sender.is_some() && was_told_of_delay(copy);
    Chain { groups: groups(message, copy), standing, told_of_delay, orders, next }
}

/// Those for this copy, and those for one that it was a part of: a recipient is in one copy of a message.
fn orders<'a>(message: &'a MessageDetail, copy: &CopyDetail) -> Vec<&'a ActionRow> {
    if message.actions.is_empty() {
        return Vec::new();
    }
    let recipients: HashSet<String> = copy.recipients.iter().map(|(recipient, _)| recipient.address.to_string()).collect();
    let own = |order: &&ActionRow| order.copy == copy.id || order.recipients.iter().any(|to| recipients.contains(to));
    message.actions.iter().filter(own).collect()
}

fn standing<'a>(copy: &'a CopyDetail, orders: &[&'a ActionRow], given: Given<'_>) -> Standing<'a> {
    match copy.state {
        CopyState::Finished => Standing::Finished,
        CopyState::Held => {
            let reason = copy.hold_reason.as_deref().unwrap_or_default();
            Standing::Held { by: holder(reason, orders, given.holding), reason }
        }
        CopyState::Sending if *given.daemon == Daemon::Stopped => Standing::CutOff { number: copy.attempts },
        CopyState::Sending => Standing::Sending { number: copy.attempts },
        CopyState::Queued if copy.due_at <= given.now => Standing::Due { since: copy.due_at },
        CopyState::Queued => Standing::Waiting { until: copy.due_at, cause: cause(copy) },
    }
}

fn holder<'a>(reason: &str, orders: &[&'a ActionRow], holding: Option<&[Rule]>) -> Holder<'a> {
    // What an administrator holds nobody else can: it stays so until it is released.
    let last = orders.iter().rfind(|order| matches!(order.action, Action::Hold | Action::Release));
    if let Some(order) = last.filter(|order| order.action == Action::Hold && order.reason == reason) {
        return Holder::Administrator { by: &order.by, since: order.at };
    }
    if reason == HELD_IN_DOUBT {
        return Holder::InDoubt;
    }
    let Some(holding) = holding else { return Holder::SomeOverride };
    holding.iter().find(|rule| rule.reason == reason).map_or(Holder::FormerOverride, |rule| Holder::Override(rule.line))
}

fn cause(copy: &CopyDetail) -> Cause {
    let last = || copy.recipients.iter().filter_map(|(_, last)| last.as_ref());
    let deferred = || last().filter(|(outcome, _)| outcome.kind == Kind::Deferred);
    match deferred().max_by_key(|(_, at)| *at) {
        Some((outcome, _)) if is_site_down(outcome) => Cause::SiteDown,
        None if copy.attempts == 0 => Cause::NotBefore,
        _ => {
            let asked = announced_wait(deferred().map(|(outcome, _)| outcome));
            Cause::Failed { number: copy.attempts, asked: (!asked.is_zero()).then_some(asked) }
        }
    }
}

/// Whether nothing was tried the last time, as its site was down.
pub fn was_put_off(copy: &CopyDetail) -> bool {
    cause(copy) == Cause::SiteDown
}

/// Of a connection that failed it is kept with whom; the same without a peer is said where nothing was dialled.
fn is_site_down(outcome: &Outcome) -> bool {
    outcome.status == EnhancedStatus::new(4, 4, 1) && outcome.peer.is_none()
}

/// Recipients without an end.
fn waiting(copy: &CopyDetail) -> impl Iterator<Item = &Recipient> {
    copy.recipients.iter().filter(|(_, last)| waits(last.as_ref())).map(|(recipient, _)| recipient)
}

/// Whether the notice has gone out for somebody: it is due for all of them who wait at one time, and may not be written yet.
fn was_told_of_delay(copy: &CopyDetail) -> bool {
    let mut waiting = copy.recipients.iter().enumerate().filter(|(_, (_, last))| waits(last.as_ref()));
    waiting.any(|(place, (recipient, _))| recipient.notify.delay && !copy.reports.iter().any(|(of, _)| *of == place))
}

fn waits(last: Option<&(Outcome, Timestamp)>) -> bool {
    last.is_none_or(|(outcome, _)| outcome.kind == Kind::Deferred)
}

fn groups<'a>(message: &'a MessageDetail, copy: &'a CopyDetail) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (place, (recipient, last)) in copy.recipients.iter().enumerate() {
        let last = last.as_ref();
        let group = Group {
            recipients: vec![recipient],
            last: last.map(|(outcome, at)| (outcome, *at)),
            doubt: last.map_or(Doubt::No, |(outcome, _)| doubt(copy, outcome)),
            told: last.map_or(Told::Nothing, |(outcome, _)| told(message, copy, (place, recipient), outcome)),
        };
        match groups.iter_mut().find(|known| known.last == group.last && known.doubt == group.doubt && known.told == group.told) {
            Some(known) => known.recipients.push(recipient),
            None => groups.push(group),
        }
    }
    groups
}

fn doubt(copy: &CopyDetail, outcome: &Outcome) -> Doubt {
    match outcome.kind {
        _ if !outcome.in_doubt => Doubt::No,
        Kind::Delivered => Doubt::MayHaveArrivedTwice,
        Kind::Failed => Doubt::MayHaveArrived,
        Kind::Deferred if copy.state == CopyState::Held => Doubt::ToBeDecided,
        Kind::Deferred => Doubt::MayArriveTwice,
    }
}

fn told<'a>(message: &'a MessageDetail, copy: &CopyDetail, (place, recipient): (usize, &Recipient), outcome: &Outcome) -> Told<'a> {
    let sender = &message.message.sender;
    if outcome.is_removal() {
        return Told::Nobody(Silence::Removed);
    }
    if outcome.text == DISCARDED {
        return Told::Nobody(Silence::Discarded);
    }
    let failed = outcome.kind == Kind::Failed;
    let Some(to) = sender.address() else { return if failed { Told::Kept } else { Told::Nothing } };
    let due = copy.reports.iter().find(|(of, _)| *of == place).map(|(_, action)| *action);
    match (due, dsn::action_due(sender, &recipient.notify, outcome, false)) {
        (Some(action), _) => Told::Due(action, to),
        (None, Some(action)) => Told::Done(action, to),
        (None, None) if failed => Told::Nobody(Silence::NotWanted),
        (None, None) => Told::Nothing,
    }
}

fn next<'a>(message: &'a MessageDetail, copy: &CopyDetail, standing: &Standing<'_>, given: Given<'a>) -> Vec<Next<'a>> {
    let mut next = Vec::new();
    let sender = message.message.sender.address();
    let expires_at = message.message.expires_at;
    if let (Some(to), false) = (sender, copy.reports.is_empty()) {
        next.push(Next::Report { to });
    }
    // An attempt that begins at the expiry is none: the copy is given up.
    let attempt = |number, at: Timestamp| (at < expires_at).then(|| Next::Attempt { number, at, then: wait_after(number, given) });
    match *standing {
        Standing::Finished => {}
        Standing::Held { .. } => next.push(Next::Release),
        Standing::Sending { number } => next.push(Next::End { then: wait_after(number, given) }),
        Standing::CutOff { .. } => next.push(Next::Judgement { in_doubt: given.retry.map(|retry| retry.in_doubt) }),
        Standing::Waiting { until, .. } => next.extend(attempt(copy.attempts + 1, until)),
        Standing::Due { .. } => {
            next.extend(given.live.filter(|live| live.is_paused()).map(|_| Next::PauseEnd));
            next.extend(attempt(copy.attempts + 1, given.live.and_then(LiveCopy::free_at).map_or(given.now, |at| at.max(given.now))));
        }
    }
    if *given.daemon == Daemon::Stopped && !next.is_empty() {
        next.insert(0, Next::DaemonStart);
    }
    if !matches!(standing, Standing::Finished | Standing::Held { .. }) {
        next.extend(delay_notice(message, copy, given));
        next.push(Next::GivenUp { at: expires_at, tells: tells(message, copy, given) });
    }
    next
}

/// How long is waited after the attempt of this number has failed for now.
fn wait_after(number: u32, given: Given<'_>) -> Option<Duration> {
    let schedule = &given.retry?.schedule;
    let index = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX).min(schedule.len().saturating_sub(1));
    schedule.get(index).copied()
}

fn delay_notice<'a>(message: &'a MessageDetail, copy: &CopyDetail, given: Given<'_>) -> Option<Next<'a>> {
    let to = message.message.sender.address()?;
    let from = later(message.message.accepted_at, given.retry?.warn_after?);
    let wanted = !copy.warned && waiting(copy).any(|recipient| recipient.notify.delay);
    (wanted && from < message.message.expires_at).then_some(Next::DelayNotice { from, to })
}

fn tells<'a>(message: &'a MessageDetail, copy: &CopyDetail, given: Given<'_>) -> Tells<'a> {
    match &message.message.sender {
        ReversePath::Null => Tells::Kept { postmaster: given.postmaster && message.message.source == REPORT_SOURCE },
        sender => match sender.address().filter(|_| waiting(copy).any(|recipient| recipient.notify.failure)) {
            Some(to) => Tells::Sender(to),
            None => Tells::Nobody,
        },
    }
}

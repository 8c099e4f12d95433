//! From what happened to what follows: takes a copy and its recipients' outcomes, hands on the [`Settlement`] to be recorded. Pure.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{InDoubt, Retry};
use crate::dsn;
use crate::outcome::{Fault, Kind, Outcome};
use crate::queue::{AttemptRecord, NextStep, QueuedCopy, RecipientOutcome, Settlement};
use crate::retry::{self, Limits, Next};
use crate::route::Site;

/// What came of a copy, before it is judged by schedule and expiry.
#[derive(Debug)]
pub(super) enum Ended {
    /// Outcomes in the order of the copy's recipients.
    Outcomes {
        /// One a recipient.
        outcomes: Vec<Outcome>,
        /// What was tried, if anything was.
        attempt: Option<AttemptRecord>,
        /// Not to be tried again before this has passed: the site is down.
        at_least: Duration,
    },
    /// The same for every recipient, with nothing tried.
    Untried {
        /// What happened instead.
        outcome: Outcome,
        /// As above.
        at_least: Duration,
        /// The site that is down.
        site: Option<Site>,
    },
    /// An override or an administrator keeps it.
    Held {
        /// Why.
        reason: String,
    },
    /// An override throws it away.
    Discarded,
}

impl Ended {
    /// Nothing was tried, because of this.
    pub(super) fn untried(fault: &Fault) -> Self {
        Self::Untried { outcome: Outcome::of(fault, None), at_least: Duration::ZERO, site: None }
    }

    /// Nothing was tried, because the site is down until then.
    pub(super) fn site_down(site: &Site, until: Timestamp, detail: &str, now: Timestamp) -> Self {
        let fault = Fault::SiteDown { detail: detail.to_owned() };
        let at_least = until.duration_since(now).try_into().unwrap_or_default();
        Self::Untried { outcome: Outcome::of(&fault, None), at_least, site: Some(site.clone()) }
    }
}

/// What follows from how `copy` ended at `now`. `unit` in 0.0..1.0 picks the jitter.
pub(super) fn settlement(copy: &QueuedCopy, ended: Ended, retry: &Retry, now: Timestamp, unit: f64) -> Settlement {
    let bare = |next| Settlement {
        copy: copy.id,
        attempt: None,
        put_off_at: None,
        recipients: Vec::new(),
        next,
        warned: false,
        hold_in_doubt: false,
        at: now,
    };
    let (mut outcomes, attempt, at_least, site) = match ended {
        Ended::Held { reason } => return bare(NextStep::Hold { reason }),
        Ended::Discarded => return bare(NextStep::Finish),
        Ended::Outcomes { outcomes, attempt, at_least } => (outcomes, attempt, at_least, None),
        Ended::Untried { outcome, at_least, site } => (vec![outcome; copy.recipients.len()], None, at_least, site),
    };
    debug_assert_eq!(outcomes.len(), copy.recipients.len(), "one outcome a recipient");
    let number = attempt.as_ref().map_or(copy.attempts.max(1), |attempt| attempt.number);
    let limits = Limits { expires_at: copy.message.expires_at, at_least: at_least.max(retry::announced_wait(outcomes.iter())) };
    let deferred = outcomes.iter().any(|outcome| outcome.kind == Kind::Deferred);
    let next = match retry::next(&retry.schedule, number, now, limits, unit) {
        _ if !deferred => NextStep::Finish,
        Next::At(due) => NextStep::Retry(due),
        Next::Expired => {
            outcomes.iter_mut().filter(|outcome| outcome.kind == Kind::Deferred).for_each(expire);
            NextStep::Finish
        }
    };
    let delay_due = matches!(next, NextStep::Retry(_)) && !copy.warned && retry::warning_is_due(retry, copy.message.accepted_at, now);
    let recipients = copy.recipients.iter().zip(outcomes).map(|(recipient, outcome)| RecipientOutcome {
        recipient: recipient.id,
        report: dsn::action_due(&copy.message.sender, &recipient.notify, &outcome, delay_due),
        outcome,
    });
    let hold_in_doubt = retry.in_doubt == InDoubt::Hold;
    Settlement {
        copy: copy.id,
        recipients: recipients.collect(),
        attempt,
        put_off_at: site.map(|site| site.to_string()),
        next,
        warned: delay_due,
        hold_in_doubt,
        at: now,
    }
}

/// The outcomes of a copy whose time was over before it could be tried.
pub(super) fn expired(copy: &QueuedCopy) -> Vec<Outcome> {
    let never = || Fault::Expired { last: "never tried".to_owned(), reply: None };
    let outcome = |last: &Option<Outcome>| match last {
        Some(last) => {
            let mut outcome = last.clone();
            expire(&mut outcome);
            outcome
        }
        None => Outcome::of(&never(), None),
    };
    copy.recipients.iter().map(|recipient| outcome(&recipient.last)).collect()
}

fn expire(outcome: &mut Outcome) {
    let fault = Fault::Expired { last: std::mem::take(&mut outcome.text), reply: outcome.reply.take() };
    *outcome = Outcome { in_doubt: outcome.in_doubt, ..Outcome::of(&fault, outcome.peer.take()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{copy, retry};
    use crate::message::ReversePath;
    use crate::outcome::{EnhancedStatus, Phase};
    use crate::queue::ReportAction;
    use crate::smtp::Reply;
    use std::sync::Arc;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn refused(code: u16) -> Outcome {
        Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply: Reply::new(code, "no") }, None)
    }

    fn ended(outcome: Outcome) -> Ended {
        Ended::Outcomes { outcomes: vec![outcome], attempt: None, at_least: Duration::ZERO }
    }

    #[test]
    fn a_temporary_refusal_is_tried_again() {
        let settled = settlement(&copy(1), ended(refused(450)), &retry(), at(1000), 0.5);
        assert_eq!(settled.next, NextStep::Retry(at(1300)));
        assert_eq!(settled.recipients[0].report, None);
    }

    #[test]
    fn a_permanent_refusal_is_reported() {
        let settled = settlement(&copy(1), ended(refused(550)), &retry(), at(1000), 0.5);
        assert_eq!(settled.next, NextStep::Finish);
        assert_eq!(settled.recipients[0].report, Some(ReportAction::Failed));
    }

    #[test]
    fn the_null_sender_is_never_told() {
        let mut copy = copy(1);
        Arc::make_mut(&mut copy.message).sender = ReversePath::Null;
        let settled = settlement(&copy, ended(refused(550)), &retry(), at(1000), 0.5);
        assert_eq!(settled.recipients[0].report, None);
    }

    #[test]
    fn delay_is_told_once() {
        let mut copy = copy(1);
        assert!(!settlement(&copy, ended(refused(450)), &retry(), at(14_399), 0.5).warned);
        let settled = settlement(&copy, ended(refused(450)), &retry(), at(14_400), 0.5);
        assert!(settled.warned);
        assert_eq!(settled.recipients[0].report, Some(ReportAction::Delayed));
        copy.warned = true;
        let settled = settlement(&copy, ended(refused(450)), &retry(), at(20_000), 0.5);
        assert_eq!((settled.warned, settled.recipients[0].report), (false, None));
    }

    #[test]
    fn past_its_lifetime_a_deferral_is_a_failure_with_the_last_reply() {
        let settled = settlement(&copy(1), ended(refused(450)), &retry(), at(86_400), 0.5);
        assert_eq!(settled.next, NextStep::Finish);
        let outcome = &settled.recipients[0].outcome;
        assert_eq!((outcome.kind, outcome.status), (Kind::Failed, EnhancedStatus::new(4, 4, 7)));
        assert_eq!(outcome.reply.as_ref().map(Reply::code), Some(450));
        assert_eq!(settled.recipients[0].report, Some(ReportAction::Failed));
    }

    #[test]
    fn a_waiting_copy_that_expires_keeps_its_last_reply() {
        let mut copy = copy(1);
        assert_eq!(expired(&copy)[0].text, "not delivered in time; last: never tried");
        copy.recipients[0].last = Some(refused(450));
        assert_eq!(expired(&copy)[0].reply.as_ref().map(Reply::code), Some(450));
    }

    #[test]
    fn a_down_site_is_not_tried_before_its_time() {
        let down = Ended::Outcomes { outcomes: vec![refused(450)], attempt: None, at_least: Duration::from_secs(3000) };
        assert_eq!(settlement(&copy(1), down, &retry(), at(1000), 0.5).next, NextStep::Retry(at(4000)));
    }

    #[test]
    fn a_hold_stops_everything_and_a_discard_finishes() {
        let held = settlement(&copy(1), Ended::Held { reason: "wait".into() }, &retry(), at(1_000_000), 0.5);
        assert_eq!(held.next, NextStep::Hold { reason: "wait".into() });
        assert_eq!(settlement(&copy(1), Ended::Discarded, &retry(), at(0), 0.5).next, NextStep::Finish);
    }
}

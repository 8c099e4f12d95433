//! What is counted as it happens, by those who do it: atomics only.

use std::time::Duration;

use super::super::figure::{Counter, Gauge, Histogram, Label, Series, figures, label};
use crate::clock::Timestamp;
use crate::outcome::{Kind, Outcome};
use crate::queue::{Acted, Action, AttemptRecord, Finished, QueuedCopy, Settlement};

figures! {
    /// What is counted as it happens. A clone counts for the same.
    pub struct Counts {
        /// Messages that were accepted: dropped files, and reports of this daemon's own.
        messages_accepted: Series<Origin, Counter>,
        /// Dropped files that could not be accepted and were moved to rejected/.
        messages_rejected: Counter,
        /// Messages with nothing left to do.
        messages_finished: Counter,
        /// What became of recipients: one for each recipient and attempt, or for what stood in its place (site down, expired, an override, an
        /// administrator).
        /// code: the class of the peer's answer, none where it gave none.
        recipient_outcomes: Series<Became, Counter>,
        /// Outcomes in doubt: the content was sent, and no answer came, so that it may arrive twice.
        recipients_in_doubt: Counter,
        /// Where the time of attempts went: from due to begun (queue); routing (dns); TCP, greeting, EHLO, TLS and AUTH, where a session was
        /// opened or tried for it (connect); from MAIL to the last answer, where it came to that (transfer).
        attempt_phase_seconds: Series<AttemptPhase, Histogram>,
        /// From acceptance to delivery, for each recipient delivered to.
        delivery_seconds: Histogram,
        /// Reports (RFC 3464) that were written for senders.
        reports_written: Counter,
        /// Times that the taking of files was put off for a second because of the disk or the database.
        intake_pauses: Counter,
        /// Whether no files are taken now: because of the disk or the database, or for lack of space (spool.min_free).
        intake_paused: Gauge,
    }
}

label! {
    /// Where a message came from.
    pub enum Origin as "origin" {
        /// The drop directory.
        Drop = "drop",
        /// This daemon: reports, and undelivered ones passed on to the postmaster.
        Report = "report",
    }
}

label! {
    /// A part of an attempt.
    pub enum AttemptPhase as "phase" {
        /// From due to begun.
        Queue = "queue",
        /// Routing.
        Dns = "dns",
        /// TCP, greeting, EHLO, TLS, AUTH.
        Connect = "connect",
        /// MAIL to the final reply.
        Transfer = "transfer",
    }
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// By an attempt, or in place of one.
    Outcome(Kind, Class),
    /// An override threw its copy away.
    Discarded,
    /// An administrator gave it back to the sender.
    Bounced,
    /// An administrator threw it away.
    Removed,
}

/// The first digit of a reply code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as RFC 5321 4.2.1 has them")]
pub enum Class {
    Positive,
    Intermediate,
    Transient,
    Permanent,
    None,
}

impl Became {
    fn of(outcome: &Outcome) -> Self {
        let class = match outcome.reply.as_ref().map(|reply| reply.code() / 100) {
            // Nobody delivers without having been told so.
            _ if outcome.kind == Kind::Delivered => Class::Positive,
            Some(2) => Class::Positive,
            Some(3) => Class::Intermediate,
            Some(4) => Class::Transient,
            Some(5) => Class::Permanent,
            _ => Class::None,
        };
        Self::Outcome(outcome.kind, class)
    }
}

impl Label for Became {
    const ALL: &'static [Self] = &[
        Self::Outcome(Kind::Delivered, Class::Positive),
        Self::Outcome(Kind::Deferred, Class::Positive),
        Self::Outcome(Kind::Deferred, Class::Intermediate),
        Self::Outcome(Kind::Deferred, Class::Transient),
        Self::Outcome(Kind::Deferred, Class::Permanent),
        Self::Outcome(Kind::Deferred, Class::None),
        Self::Outcome(Kind::Failed, Class::Positive),
        Self::Outcome(Kind::Failed, Class::Intermediate),
        Self::Outcome(Kind::Failed, Class::Transient),
        Self::Outcome(Kind::Failed, Class::Permanent),
        Self::Outcome(Kind::Failed, Class::None),
        Self::Discarded,
        Self::Bounced,
        Self::Removed,
    ];

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let (outcome, class) = match self {
            Self::Outcome(kind, class) => (kind.as_str(), class),
            Self::Discarded => ("discarded", Class::None),
            Self::Bounced => ("bounced", Class::None),
            Self::Removed => ("removed", Class::None),
        };
        let class = match class {
            Class::Positive => "2xx",
            Class::Intermediate => "3xx",
            Class::Transient => "4xx",
            Class::Permanent => "5xx",
            Class::None => "none",
        };
        vec![("outcome", outcome), ("code", class)]
    }
}

impl Counts {
    /// So many messages' rows are committed.
    pub fn accepted(&self, origin: Origin, messages: usize) {
        self.messages_accepted.add(origin, count(messages));
    }

    /// The settlement of `copy` is committed.
    pub fn settled(&self, copy: &QueuedCopy, settlement: &Settlement) {
        if let Some(attempt) = &settlement.attempt {
            self.attempted(attempt);
        }
        for result in &settlement.recipients {
            self.became(copy, &result.outcome, settlement.at);
        }
        if settlement.discards() {
            self.recipient_outcomes.add(Became::Discarded, count(copy.recipients.len()));
        }
    }

    fn attempted(&self, attempt: &AttemptRecord) {
        let delays = attempt.delays;
        self.attempt_phase_seconds.observe(AttemptPhase::Queue, delays.queue);
        self.attempt_phase_seconds.observe(AttemptPhase::Dns, delays.dns);
        // Most copies find a session open, and some never get one: that took no time, which is not a short time.
        for (phase, took) in [(AttemptPhase::Connect, delays.connect), (AttemptPhase::Transfer, delays.transfer)] {
            if !took.is_zero() {
                self.attempt_phase_seconds.observe(phase, took);
            }
        }
    }

    fn became(&self, copy: &QueuedCopy, outcome: &Outcome, at: Timestamp) {
        self.recipient_outcomes.add(Became::of(outcome), 1);
        if outcome.in_doubt {
            self.recipients_in_doubt.inc();
        }
        if outcome.kind == Kind::Delivered {
            // A clock that was set back counts as no time.
            let took = Duration::try_from(at.duration_since(copy.message.accepted_at)).unwrap_or_default();
            self.delivery_seconds.observe(took);
        }
    }

    /// An administrator's order was carried out.
    pub fn administered(&self, acted: &Acted, action: Action) {
        let became = match action {
            Action::Bounce => Became::Bounced,
            Action::Remove => Became::Removed,
            Action::Hold | Action::Release | Action::Retry => return,
        };
        self.recipient_outcomes.add(became, count(acted.recipients.len()));
    }

    /// These messages are finished.
    pub fn finished(&self, messages: &[Finished]) {
        self.messages_finished.inc_by(count(messages.len()));
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

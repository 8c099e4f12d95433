//! The operator's log: fixed verbs, fixed fields, one line each. Content and passwords have no way in.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId};
use crate::outcome::{Kind, Outcome};
use crate::queue::{AttemptRecord, Finished, Interrupted, NewMessage, QueuedCopy};

/// `accepted`: the row is committed; the daemon is responsible from here.
pub fn accepted(message: &NewMessage) {
    tracing::info!(
        id = %message.id,
        from = %message.envelope.sender,
        to = message.envelope.recipients.len(),
        size = message.content.wire_size,
        source = %message.source.name,
        message_id = message.content.message_id.as_deref().unwrap_or_default(),
        "accepted"
    );
}

/// `rejected`: a dropped file that cannot be accepted is in `rejected/` now.
pub fn rejected(file: &str, reason: &str) {
    tracing::warn!(file, reason, "rejected");
}

/// `attempt`: one attempt of a copy ended, whatever its outcomes.
pub fn attempt(copy: &QueuedCopy, record: &AttemptRecord) {
    let delays = record.delays;
    let seconds = |delay: Duration| format!("{:.3}", delay.as_secs_f64());
    tracing::debug!(
        id = %copy.message.id,
        domain = %copy.domain,
        site = %record.site,
        route = %record.route,
        attempt = record.number,
        to = copy.recipients.len(),
        delays = %[delays.queue, delays.dns, delays.connect, delays.transfer].map(seconds).join("/"),
        trail = %record.trail.join("; "),
        "attempt"
    );
}

/// `delivered`, `deferred` or `failed`, and `in_doubt` besides: what became of one recipient.
pub fn outcome(copy: &QueuedCopy, to: &Address, outcome: &Outcome, record: Option<&AttemptRecord>, now: Timestamp) {
    let delays = record.map_or_else(String::new, |record| {
        let delays = record.delays;
        [delays.queue, delays.dns, delays.connect, delays.transfer].map(|delay| format!("{:.3}", delay.as_secs_f64())).join("/")
    });
    macro_rules! line {
        ($level:ident, $verb:literal) => {
            tracing::$level!(
                id = %copy.message.id,
                from = %copy.message.sender,
                to = %to,
                domain = %copy.domain,
                site = record.map(|r| r.site.as_str()).unwrap_or_default(),
                host = outcome.peer.as_ref().map(|peer| &*peer.host).unwrap_or_default(),
                ip = outcome.peer.as_ref().map(|peer| peer.address.ip().to_string()).unwrap_or_default(),
                port = outcome.peer.as_ref().map(|peer| peer.address.port()).unwrap_or_default(),
                tls = outcome.peer.as_ref().and_then(|peer| peer.tls.as_deref()).unwrap_or_default(),
                code = outcome.reply.as_ref().map(|reply| reply.code()).unwrap_or_default(),
                dsn = %outcome.status,
                reply = outcome.text.as_str(),
                attempt = record.map_or(copy.attempts, |record| record.number),
                delay = %seconds_since(copy.message.accepted_at, now),
                delays = %delays,
                size = copy.message.content.wire_size,
                route = record.map(|r| r.route.as_str()).unwrap_or_default(),
                $verb
            )
        };
    }
    match outcome.kind {
        Kind::Delivered => line!(info, "delivered"),
        Kind::Deferred => line!(info, "deferred"),
        Kind::Failed => line!(warn, "failed"),
    }
    if outcome.in_doubt {
        line!(warn, "in_doubt");
    }
}

/// `in_doubt`: found at start-up; the daemon ended during an attempt.
pub fn interrupted(copy: &Interrupted) {
    for to in &copy.recipients {
        tracing::warn!(id = %copy.id, domain = %copy.domain, to = %to, reply = "the daemon ended during an attempt: may arrive twice", "in_doubt");
    }
}

/// `held`: an override keeps the copy until it is released.
pub fn held(copy: &QueuedCopy, reason: &str) {
    tracing::info!(id = %copy.message.id, domain = %copy.domain, to = copy.recipients.len(), reason, "held");
}

/// `discarded`: an override threw the copy away.
pub fn discarded(copy: &QueuedCopy) {
    for recipient in &copy.recipients {
        tracing::warn!(id = %copy.message.id, domain = %copy.domain, to = %recipient.address, "discarded");
    }
}

/// `expired`: a recipient's time is over; `failed` follows.
pub fn expired(id: MessageId, domain: &Domain, to: &Address) {
    tracing::warn!(id = %id, domain = %domain, to = %to, "expired");
}

/// `finished`: nobody of this message waits any more; its file is gone.
pub fn finished(message: &Finished, now: Timestamp) {
    tracing::info!(
        id = %message.id,
        delivered = message.delivered,
        failed = message.failed,
        delay = %seconds_since(message.accepted_at, now),
        "finished"
    );
}

/// Seconds with three decimals; a clock that was set back counts as zero.
fn seconds_since(then: Timestamp, now: Timestamp) -> String {
    format!("{:.3}", now.duration_since(then).as_secs_f64().max(0.0))
}

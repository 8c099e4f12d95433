//! The operator's log: fixed verbs, fixed fields, one line each. Content and passwords have no way in.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{Address, MessageId};
use crate::outcome::{Fault, Kind, Outcome};
use crate::queue::{Acted, Action, AttemptRecord, Delays, Finished, NewMessage, Order, QueuedCopy, ReportAction};

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
    tracing::debug!(
        id = %copy.message.id,
        domain = %copy.domain,
        site = %record.site,
        route = %record.route,
        attempt = record.number,
        to = copy.recipients.len(),
        delays = %SecondsOf(record.delays),
        trail = %record.trail.join("; "),
        "attempt"
    );
}

/// One line on what became of one recipient in one attempt.
macro_rules! recipient_line {
    ($level:ident, $verb:literal, $copy:ident, $to:ident, $outcome:ident, $record:ident, $now:ident) => {{
        let peer = $outcome.peer.as_deref();
        tracing::$level!(
            id = %$copy.message.id,
            from = %$copy.message.sender,
            to = %$to,
            domain = %$copy.domain,
            site = $record.map(|r| r.site.as_str()).unwrap_or_default(),
            host = peer.map(|peer| &*peer.host).unwrap_or_default(),
            ip = %Shown(peer.map(|peer| peer.address.ip())),
            port = peer.map(|peer| peer.address.port()).unwrap_or_default(),
            tls = peer.and_then(|peer| peer.tls.as_deref()).unwrap_or_default(),
            code = $outcome.reply.as_ref().map(|reply| reply.code()).unwrap_or_default(),
            dsn = %$outcome.status,
            reply = $outcome.text.as_str(),
            attempt = $record.map_or($copy.attempts, |record| record.number),
            delay = %seconds_since($copy.message.accepted_at, $now),
            delays = %Shown($record.map(|record| SecondsOf(record.delays))),
            size = $copy.message.content.wire_size,
            route = $record.map(|r| r.route.as_str()).unwrap_or_default(),
            $verb
        )
    }};
}

/// `delivered`, `deferred` or `failed`: what became of one recipient.
pub fn outcome(copy: &QueuedCopy, to: &Address, outcome: &Outcome, record: Option<&AttemptRecord>, now: Timestamp) {
    match outcome.kind {
        Kind::Delivered => recipient_line!(info, "delivered", copy, to, outcome, record, now),
        Kind::Deferred => recipient_line!(info, "deferred", copy, to, outcome, record, now),
        Kind::Failed => recipient_line!(warn, "failed", copy, to, outcome, record, now),
    }
}

/// `in_doubt`: the peer may have taken it for this recipient; [`outcome`] follows once that is recorded.
pub fn in_doubt(copy: &QueuedCopy, to: &Address, outcome: &Outcome, record: Option<&AttemptRecord>, now: Timestamp) {
    recipient_line!(warn, "in_doubt", copy, to, outcome, record, now);
}

/// `held`: an override keeps the copy until it is released.
pub fn held(copy: &QueuedCopy, reason: &str) {
    tracing::info!(id = %copy.message.id, domain = %copy.domain, to = copy.recipients.len(), reason, "held");
}

/// `held`, `released`, `retried`, `bounced` or `removed`: an administrator's order was carried out.
pub fn administered(acted: &Acted, order: &Order) {
    let (id, domain, reason, by) = (acted.message, &acted.domain, order.reason.as_str(), order.by.as_str());
    macro_rules! line {
        ($level:ident, $to:expr, $verb:literal) => {
            tracing::$level!(id = %id, domain = %domain, to = $to, reason, by, $verb)
        };
    }
    let each = || acted.recipients.iter();
    match order.action {
        Action::Hold => line!(info, acted.recipients.len(), "held"),
        Action::Release => line!(info, acted.recipients.len(), "released"),
        Action::Retry => line!(info, acted.recipients.len(), "retried"),
        // What ends is told by recipient, as every other end.
        Action::Bounce => {
            let outcome = Outcome::of(&Fault::Returned { reason: order.reason.clone() }, None);
            let (dsn, reply, delay) = (outcome.status, outcome.text.as_str(), seconds_since(id.time(), order.at));
            each().for_each(
                |to| tracing::warn!(id = %id, to = %to, domain = %domain, dsn = %dsn, reply, delay = %delay, reason, by, "bounced"),
            );
        }
        Action::Remove => each().for_each(|to| line!(warn, tracing::field::display(to), "removed")),
    }
}

/// `discarded`: an override threw the copy away.
pub fn discarded(copy: &QueuedCopy) {
    for recipient in &copy.recipients {
        tracing::warn!(id = %copy.message.id, domain = %copy.domain, to = %recipient.address, "discarded");
    }
}

/// `expired`: a recipient's time is over; `failed` follows.
pub fn expired(copy: &QueuedCopy, to: &Address) {
    tracing::warn!(id = %copy.message.id, from = %copy.message.sender, domain = %copy.domain, to = %to, "expired");
}

/// `reported`: the message `report` tells the sender of message `id` what became of it.
pub fn reported(id: MessageId, report: MessageId, action: ReportAction) {
    tracing::info!(id = %id, report = %report, action = action.as_str(), "reported");
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
fn seconds_since(then: Timestamp, now: Timestamp) -> Seconds {
    Seconds(now.duration_since(then).try_into().unwrap_or_default())
}

/// Seconds with three decimals.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.subsec_millis();
        let digit = |place: u32| char::from_digit(millis / place % 10, 10).unwrap_or_default();
        fmt::Display::fmt(&self.0.as_secs(), f)?;
        f.write_char('.')?;
        // Past the formatter's padding: a message's lines have six of these.
        [100, 10, 1].into_iter().try_for_each(|place| f.write_char(digit(place)))
    }
}

/// `queue/dns/connect/transfer`, in seconds.
struct SecondsOf(Delays);

impl fmt::Display for SecondsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delays { queue, dns, connect, transfer, handshake: _ } = self.0;
        fmt::Display::fmt(&Seconds(queue), f)?;
        [dns, connect, transfer].into_iter().try_for_each(|delay| write!(f, "/{}", Seconds(delay)))
    }
}

/// What there is, or nothing.
struct Shown<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

//! Attempts: takes their beginnings and settlements, and reports that were written, hands on the messages that are finished by them.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::accept;
use super::convert::{Columns, action_code, integer, kind_code, millis, state, state_code, trail_text};
use super::failure::Failure;
use crate::outcome::{EnhancedStatus, Kind, Outcome};
use crate::queue::{
    AttemptRecord, CopyId, CopyState, Finished, NewMessage, NextStep, RecipientId, RecipientOutcome, ReportAction, Reported, Settlement,
};

/// What is kept of a recipient whose copy was discarded: refused by policy (RFC 3463, X.7.1), and nobody is told.
const DISCARDED: EnhancedStatus = EnhancedStatus::new(5, 7, 1);

/// Rows that it takes, roughly.
pub(super) fn rows(settlement: &Settlement) -> usize {
    3 + settlement.recipients.len()
}

/// Marks copies as being sent.
pub(super) fn begin(db: &Connection, copies: &[CopyId], at: i64) -> Result<(), Failure> {
    let mut begin = db.prepare_cached("UPDATE copies SET state = 1, attempts = attempts + 1, began_at = ?2 WHERE id = ?1 AND state = 0")?;
    for copy in copies {
        if begin.execute((copy.0, at))? == 0 {
            return Err(Failure::refused(format!("copy {} is not queued", copy.0)));
        }
    }
    Ok(())
}

/// What a settlement starts from.
struct Copy {
    message: i64,
    state: CopyState,
    open: u32,
    first_failed_at: Option<i64>,
    /// Of the whole message.
    reports_due: u32,
}

/// What a settlement changed, for the message's row.
#[derive(Default)]
struct Change {
    copies: i64,
    delivered: i64,
    failed: i64,
    reports: i64,
}

impl Change {
    fn is_none(&self) -> bool {
        matches!(self, Self { copies: 0, delivered: 0, failed: 0, reports: 0 })
    }
}

/// Records how one copy's attempt ended.
pub(super) fn settle(db: &Connection, settlement: &Settlement) -> Result<Option<Finished>, Failure> {
    let copy = copy(db, settlement.copy)?;
    if copy.state == CopyState::Finished {
        return Ok(None);
    }
    let mut change = Change::default();
    for outcome in &settlement.recipients {
        record(db, settlement, &copy, outcome, &mut change)?;
    }
    if let Some(attempt) = &settlement.attempt {
        insert_attempt(db, settlement.copy, attempt)?;
    }
    if settlement.next == NextStep::Finish && settlement.recipients.is_empty() {
        discard(db, settlement, &copy, &mut change)?;
    }
    let open = i64::from(copy.open) - change.delivered - change.failed;
    update_copy(db, settlement, &copy, open)?;
    change.copies = i64::from(open == 0);
    if change.is_none() { Ok(None) } else { update_message(db, copy.message, &change, millis(settlement.at)) }
}

fn copy(db: &Connection, id: CopyId) -> Result<Copy, Failure> {
    db.prepare_cached(
        "SELECT c.message, c.state, c.open_recipients, c.first_failed_at, m.reports_due
         FROM copies c JOIN messages m ON m.seq = c.message WHERE c.id = ?1",
    )?
    .query_row([id.0], |row| {
        let mut columns = Columns::of(row);
        Ok(Copy {
            message: columns.next()?,
            state: columns.coded(state)?,
            open: columns.count()?,
            first_failed_at: columns.next()?,
            reports_due: columns.count()?,
        })
    })
    .optional()?
    .ok_or_else(|| Failure::refused(format!("there is no copy {}", id.0)))
}

/// Keeps one recipient's outcome, unless it has a final one already.
fn record(db: &Connection, settlement: &Settlement, copy: &Copy, new: &RecipientOutcome, change: &mut Change) -> Result<(), Failure> {
    let (id, kind) = (new.recipient.0, new.outcome.kind);
    // Only a message with a report due can have one for this recipient.
    let pending = copy.reports_due > 0 && has_report(db, new.recipient)?;
    if !write_outcome(db, (settlement.copy, new.recipient), &new.outcome, new.report, millis(settlement.at))? {
        let known = db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1 AND copy = ?2")?.exists((id, settlement.copy.0))?;
        return if known { Ok(()) } else { Err(Failure::refused(format!("copy {} has no recipient {id}", settlement.copy.0))) };
    }
    // As in the statement of `write_outcome`: what was to be told of a delay is out of date once there is an end.
    let due = new.report.is_some() || (pending && kind == Kind::Deferred);
    change.reports += i64::from(due) - i64::from(pending);
    change.delivered += i64::from(kind == Kind::Delivered);
    change.failed += i64::from(kind == Kind::Failed);
    Ok(())
}

fn has_report(db: &Connection, recipient: RecipientId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1 AND state = 0 AND report IS NOT NULL")?.exists([recipient.0])
}

/// False: nothing was changed, the recipient is not waiting.
pub(super) fn write_outcome(
    db: &Connection,
    (copy, recipient): (CopyId, RecipientId),
    outcome: &Outcome,
    report: Option<ReportAction>,
    at: i64,
) -> rusqlite::Result<bool> {
    let peer = outcome.peer.as_deref();
    let changed = db
        .prepare_cached(
            "UPDATE recipients SET state = ?3, outcome_at = ?4, status = ?5, text = ?6, code = ?7, reply = ?8, host = ?9, peer = ?10,
                 tls = ?11, in_doubt = ?12, dsn_relayed = ?13, report = CASE WHEN ?3 = 0 THEN coalesce(?14, report) ELSE ?14 END
             WHERE id = ?1 AND copy = ?2 AND state = 0",
        )?
        .execute(params![
            recipient.0,
            copy.0,
            kind_code(outcome.kind),
            at,
            outcome.status.to_string(),
            outcome.text,
            outcome.reply.as_ref().map(|reply| reply.code()),
            outcome.reply.as_ref().map(|reply| reply.text()),
            peer.map(|peer| &*peer.host),
            peer.map(|peer| peer.address.to_string()),
            peer.and_then(|peer| peer.tls.as_deref()),
            outcome.in_doubt,
            outcome.dsn_relayed,
            report.map(action_code),
        ])?;
    Ok(changed > 0)
}

pub(super) fn insert_attempt(db: &Connection, copy: CopyId, attempt: &AttemptRecord) -> rusqlite::Result<()> {
    let micros = |time: Duration| integer(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    let delays = attempt.delays;
    // The daemon numbers attempts by the copy's own count: a second record of one number is the same attempt told again.
    db.prepare_cached(
        "INSERT OR REPLACE INTO attempts
             (copy, number, began_at, ended_at, site, route, queue_us, dns_us, connect_us, transfer_us, trail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        copy.0,
        attempt.number,
        millis(attempt.began_at),
        millis(attempt.ended_at),
        attempt.site,
        attempt.route,
        micros(delays.queue),
        micros(delays.dns),
        micros(delays.connect),
        micros(delays.transfer),
        trail_text(&attempt.trail),
    ])?;
    Ok(())
}

/// Ends the recipients that wait, unsent.
fn discard(db: &Connection, settlement: &Settlement, copy: &Copy, change: &mut Change) -> rusqlite::Result<()> {
    if copy.reports_due > 0 {
        let pending: i64 = db
            .prepare_cached("SELECT count(*) FROM recipients WHERE copy = ?1 AND state = 0 AND report IS NOT NULL")?
            .query_row([settlement.copy.0], |row| row.get(0))?;
        change.reports -= pending;
    }
    let discarded = db
        .prepare_cached(
            "UPDATE recipients SET state = 2, outcome_at = ?2, status = ?3, text = 'discarded', code = NULL, reply = NULL, host = NULL,
                 peer = NULL, tls = NULL, in_doubt = 0, dsn_relayed = 0, report = NULL
             WHERE copy = ?1 AND state = 0",
        )?
        .execute((settlement.copy.0, millis(settlement.at), DISCARDED.to_string()))?;
    change.failed += i64::try_from(discarded).unwrap_or(i64::MAX);
    Ok(())
}

/// Writes where the copy stands now, with `open` recipients left.
fn update_copy(db: &Connection, settlement: &Settlement, copy: &Copy, open: i64) -> Result<(), Failure> {
    let at = millis(settlement.at);
    let (state, due_at, reason) = match &settlement.next {
        _ if open == 0 => (CopyState::Finished, None, None),
        NextStep::Finish => {
            return Err(Failure::refused(format!("copy {} cannot be finished: {open} of its recipients wait", settlement.copy.0)));
        }
        NextStep::Retry(at) => (CopyState::Queued, Some(millis(*at)), None),
        NextStep::Hold { reason } => (CopyState::Held, None, Some(reason)),
    };
    // A hold without any outcome is an administrator's will, no failure.
    let failing = open > 0 && (state == CopyState::Queued || !settlement.recipients.is_empty());
    let first_failed_at = if failing { copy.first_failed_at.or(Some(at)) } else { copy.first_failed_at };
    let in_doubt = settlement.recipients.iter().any(|recipient| recipient.outcome.in_doubt);
    // An attempt that ended while its route was looked up was never begun, yet it counts: the waits grow.
    let number = settlement.attempt.as_ref().map_or(0, |attempt| attempt.number);
    db.prepare_cached(
        "UPDATE copies SET state = ?2, due_at = coalesce(?3, due_at), open_recipients = ?4, began_at = NULL, first_failed_at = ?5,
             warned = warned OR ?6, in_doubt = in_doubt OR ?7, hold_reason = ?8, attempts = max(attempts, ?9)
         WHERE id = ?1",
    )?
    .execute(params![
        settlement.copy.0,
        state_code(state),
        due_at,
        open,
        first_failed_at,
        settlement.warned,
        in_doubt,
        reason,
        number
    ])?;
    Ok(())
}

fn update_message(db: &Connection, seq: i64, change: &Change, at: i64) -> Result<Option<Finished>, Failure> {
    let mut update = db.prepare_cached(
        "UPDATE messages SET open_copies = open_copies - ?2, delivered = delivered + ?3, failed = failed + ?4,
             reports_due = reports_due + ?5,
             finished_at = CASE WHEN open_copies - ?2 = 0 AND reports_due + ?5 = 0 THEN ?6 END
         WHERE seq = ?1 RETURNING finished_at IS NOT NULL, id, delivered, failed, accepted_at",
    )?;
    let finished = update.query_row(params![seq, change.copies, change.delivered, change.failed, change.reports, at], |row| {
        let mut columns = Columns::of(row);
        let is_finished: bool = columns.next()?;
        let finished =
            Finished { id: columns.message_id()?, delivered: columns.count()?, failed: columns.count()?, accepted_at: columns.time()? };
        Ok(is_finished.then_some(finished))
    })?;
    Ok(finished)
}

/// Records that these recipients' outcomes were told, and accepts the report that tells it.
pub(super) fn reported(db: &Connection, covered: &[(RecipientId, ReportAction)], report: Option<&NewMessage>) -> Result<Reported, Failure> {
    let mut result = Reported::default();
    if let Some(report) = report {
        accept::accept(db, report, &mut result.copies)?;
    }
    let mut clear = db.prepare_cached(
        "UPDATE recipients SET report = NULL WHERE id = ?1 AND report = ?2
         RETURNING (SELECT message FROM copies WHERE copies.id = recipients.copy)",
    )?;
    let mut messages: Vec<(i64, i64)> = Vec::new();
    for &(recipient, action) in covered {
        let message = clear.query_row((recipient.0, action_code(action)), |row| row.get(0)).optional()?;
        match (message, messages.last_mut()) {
            (Some(message), Some((last, cleared))) if *last == message => *cleared += 1,
            (Some(message), _) => messages.push((message, 1)),
            (None, _) => {}
        }
    }
    for (message, cleared) in messages {
        // Told at: when the report was accepted, or, where none was written, when the last outcome came.
        let at = report.map_or_else(|| last_outcome_at(db, message), |report| Ok(millis(report.accepted_at)))?;
        result.finished.extend(update_message(db, message, &Change { reports: -cleared, ..Change::default() }, at)?);
    }
    Ok(result)
}

fn last_outcome_at(db: &Connection, message: i64) -> rusqlite::Result<i64> {
    db.prepare_cached("SELECT coalesce(max(r.outcome_at), 0) FROM copies c JOIN recipients r ON r.copy = c.id WHERE c.message = ?1")?
        .query_row([message], |row| row.get(0))
}

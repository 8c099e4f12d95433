//! Attempts: takes their beginnings and settlements, and reports that were written, hands on the messages that are finished by them.

use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::accept::{self, copy_ids};
use super::convert::{Columns, OF_COPY, action_code, integer, kind_code, millis, sql_count, state, state_code, trail_text};
use super::failure::Failure;
use super::upkeep;
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::outcome::{Kind, Outcome};
use crate::queue::{
    AttemptRecord, CopyId, CopyState, Finished, HELD_IN_DOUBT, NewMessage, NextStep, RecipientId, RecipientOutcome, ReportAction, Reported,
    Settlement,
};

/// Rows that it takes, roughly.
pub(super) fn rows(settlement: &Settlement) -> usize {
    3 + settlement.recipients.len()
}

/// Marks copies as being sent. Their own rows stay as they are until it is known what came of it.
pub(super) fn begin(db: &Connection, copies: &[(CopyId, usize)], at: i64) -> Result<(), Failure> {
    // Apart from the insertion: one that selects keeps a journal of its own, with a copy of the page that it changes.
    let mut queued = db.prepare_cached("SELECT 1 FROM copies WHERE id = ?1 AND state = 0 AND open_recipients = ?2")?;
    let mut begin = db.prepare_cached("INSERT OR IGNORE INTO sending (copy, began_at) VALUES (?1, ?2)")?;
    for (copy, recipients) in copies {
        if !queued.exists((copy.0, sql_count(*recipients)))? || begin.execute((copy.0, at))? == 0 {
            return Err(Failure::refused(format!("copy {} is not queued for {recipients} recipients", copy.0)));
        }
    }
    Ok(())
}

/// They are no longer being sent; nothing else is known of the attempts.
pub(super) fn withdraw(db: &Connection, copies: &[CopyId]) -> rusqlite::Result<()> {
    let mut withdraw = db.prepare_cached("DELETE FROM sending WHERE copy = ?1")?;
    copies.iter().try_for_each(|copy| withdraw.execute([copy.0]).map(drop))
}

/// What a settlement starts from.
struct Copy {
    state: CopyState,
    open: u32,
    attempts: u32,
    first_failed_at: Option<i64>,
    message: Totals,
}

/// Where a message stands.
struct Totals {
    seq: i64,
    id: MessageId,
    accepted_at: Timestamp,
    copies: u32,
    reports: u32,
    delivered: u32,
    failed: u32,
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

/// Settles copies. What each settlement runs is prepared once for all of them: six statements looked up by their text are work as well.
pub(super) struct Settling<'c> {
    db: &'c Connection,
    /// See [`Copy`].
    copy: CachedStatement<'c>,
    end_attempt: CachedStatement<'c>,
    outcome: CachedStatement<'c>,
    attempt: CachedStatement<'c>,
    update_copy: CachedStatement<'c>,
    message: MessageUpdate<'c>,
}

impl<'c> Settling<'c> {
    pub(super) fn new(db: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            db,
            copy: db.prepare_cached(&format!(
                "SELECT c.state, c.open_recipients, c.attempts, c.first_failed_at, {TOTALS_COLUMNS}
                 FROM copies c JOIN messages m ON m.seq = c.message WHERE c.id = ?1"
            ))?,
            end_attempt: db.prepare_cached("DELETE FROM sending WHERE copy = ?1")?,
            outcome: db.prepare_cached(
                "UPDATE recipients SET state = ?3, outcome_at = ?4, status = ?5, text = ?6, code = ?7, reply = ?8, host = ?9, peer = ?10,
                     tls = ?11, in_doubt = max(coalesce(in_doubt, 0), ?12), dsn_relayed = ?13,
                     report = CASE WHEN ?3 = 0 THEN coalesce(?14, report) ELSE ?14 END
                 WHERE id = ?1 AND copy = ?2 AND state = 0",
            )?,
            // OR REPLACE keeps a journal of its own for each statement, and there is hardly ever something to replace.
            attempt: prepare_attempt(db, "IGNORE")?,
            update_copy: db.prepare_cached(
                "UPDATE copies SET state = ?2, due_at = coalesce(?3, due_at), open_recipients = ?4, first_failed_at = ?5,
                     warned = warned OR ?6, in_doubt = in_doubt OR ?7, hold_reason = ?8, attempts = ?9,
                     site = iif(?4 = 0, NULL, coalesce(?10, site))
                 WHERE id = ?1",
            )?,
            message: MessageUpdate::new(db)?,
        })
    }

    /// Records how one copy's attempt ended.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Option<Finished>, Failure> {
        let copy = self.copy(settlement.copy)?;
        let begun = self.end_attempt.execute([settlement.copy.0])?;
        // Nothing was tried, and the copy was held, or divided, after it had been read: what was decided from that is void.
        if begun == 0 && (copy.state == CopyState::Held || !has_all(self.db, settlement)?) {
            return Ok(None);
        }
        self.end(settlement, &copy)
    }

    /// Ends a copy that no attempt is under way of, on hold or not: an administrator's will.
    pub(super) fn conclude(&mut self, settlement: &Settlement) -> Result<Option<Finished>, Failure> {
        let copy = self.copy(settlement.copy)?;
        self.end(settlement, &copy)
    }

    fn copy(&mut self, id: CopyId) -> Result<Copy, Failure> {
        let copy = self.copy.query_row([id.0], |row| {
            let mut columns = Columns::of(row);
            Ok(Copy {
                state: columns.coded(state)?,
                open: columns.count()?,
                attempts: columns.count()?,
                first_failed_at: columns.next()?,
                message: totals(&mut columns)?,
            })
        });
        copy.optional()?.ok_or_else(|| Failure::refused(format!("there is no copy {}", id.0)))
    }

    fn end(&mut self, settlement: &Settlement, copy: &Copy) -> Result<Option<Finished>, Failure> {
        if copy.state == CopyState::Finished {
            return Ok(None);
        }
        let mut change = Change::default();
        for outcome in &settlement.recipients {
            self.record(settlement, copy, outcome, &mut change)?;
        }
        if let Some(attempt) = &settlement.attempt {
            self.insert_attempt(settlement.copy, attempt)?;
        }
        if settlement.discards() {
            discard(self.db, settlement, copy, &mut change)?;
        }
        let open = i64::from(copy.open) - change.delivered - change.failed;
        self.update_copy(settlement, copy, open)?;
        change.copies = i64::from(open == 0);
        let finished = self.message.write(&copy.message, &change, millis(settlement.at))?;
        if settlement.hold_in_doubt && open > 0 {
            hold_in_doubt(self.db, settlement, open)?;
        }
        Ok(finished)
    }

    /// Keeps one recipient's outcome, unless it has a final one already.
    fn record(&mut self, settlement: &Settlement, copy: &Copy, new: &RecipientOutcome, change: &mut Change) -> Result<(), Failure> {
        let (id, kind) = (new.recipient.0, new.outcome.kind);
        // Only a message with a report due can have one for this recipient.
        let pending = copy.message.reports > 0 && has_report(self.db, new.recipient)?;
        if !self.write_outcome((settlement.copy, new.recipient), &new.outcome, new.report, millis(settlement.at))? {
            let known = self.db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1 AND copy = ?2")?.exists((id, settlement.copy.0))?;
            return if known { Ok(()) } else { Err(Failure::refused(format!("copy {} has no recipient {id}", settlement.copy.0))) };
        }
        // As in the statement of `outcome`: what was to be told of a delay is out of date once there is an end.
        let due = new.report.is_some() || (pending && kind == Kind::Deferred);
        change.reports += i64::from(due) - i64::from(pending);
        change.delivered += i64::from(kind == Kind::Delivered);
        change.failed += i64::from(kind == Kind::Failed);
        Ok(())
    }

    /// False: nothing was changed, the recipient is not waiting.
    fn write_outcome(
        &mut self,
        (copy, recipient): (CopyId, RecipientId),
        outcome: &Outcome,
        report: Option<ReportAction>,
        at: i64,
    ) -> rusqlite::Result<bool> {
        let peer = outcome.peer.as_deref();
        let changed = self.outcome.execute(params![
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

    fn insert_attempt(&mut self, copy: CopyId, attempt: &AttemptRecord) -> rusqlite::Result<()> {
        if write_attempt(&mut self.attempt, copy, attempt)? == 0 {
            // The daemon numbers attempts by the copy's own count: a second record of one number is the same attempt told again.
            write_attempt(&mut prepare_attempt(self.db, "REPLACE")?, copy, attempt)?;
        }
        Ok(())
    }

    /// Writes where the copy stands now, with `open` recipients left.
    fn update_copy(&mut self, settlement: &Settlement, copy: &Copy, open: i64) -> Result<(), Failure> {
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
        // What was begun and put off untried counts for nothing; what ended while its route was looked up counts, though it was never begun:
        // the waits grow.
        let attempts = settlement.attempt.as_ref().map_or(0, |attempt| attempt.number).max(copy.attempts);
        // Only what is left open has one: most copies never do.
        let site = if open > 0 { settlement.site().map(|name| site(self.db, name)).transpose()? } else { None };
        self.update_copy.execute(params![
            settlement.copy.0,
            state_code(state),
            due_at,
            open,
            first_failed_at,
            settlement.warned,
            in_doubt,
            reason,
            attempts,
            site
        ])?;
        Ok(())
    }
}

/// Whether the recipients are the copy's own still: an administrator may have divided it.
fn has_all(db: &Connection, settlement: &Settlement) -> rusqlite::Result<bool> {
    let mut own = db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1 AND copy <> ?2")?;
    for recipient in &settlement.recipients {
        if own.exists((recipient.recipient.0, settlement.copy.0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Holds the recipients whom this settlement leaves in doubt: as a copy of their own where others of the `open` ones go on.
fn hold_in_doubt(db: &Connection, settlement: &Settlement, open: i64) -> Result<(), Failure> {
    let in_doubt = settlement.recipients.iter().filter(|new| new.waits_in_doubt());
    let in_doubt: Vec<RecipientId> = in_doubt.map(|new| new.recipient).collect();
    let copy = match sql_count(in_doubt.len()) {
        0 => return Ok(()),
        all if all == open => settlement.copy,
        _ => upkeep::split(db, settlement.copy, &in_doubt)?.id,
    };
    db.prepare_cached("UPDATE copies SET state = ?2, hold_reason = ?3 WHERE id = ?1")?.execute((
        copy.0,
        state_code(CopyState::Held),
        HELD_IN_DOUBT,
    ))?;
    Ok(())
}

/// What [`totals`] reads, of the table `messages` as `m`.
const TOTALS_COLUMNS: &str = "m.seq, m.id, m.accepted_at, m.open_copies, m.reports_due, m.delivered, m.failed";

fn totals(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Totals> {
    Ok(Totals {
        seq: columns.next()?,
        id: columns.message_id()?,
        accepted_at: columns.time()?,
        copies: columns.count()?,
        reports: columns.count()?,
        delivered: columns.count()?,
        failed: columns.count()?,
    })
}

fn has_report(db: &Connection, recipient: RecipientId) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM recipients WHERE id = ?1 AND state = 0 AND report IS NOT NULL")?.exists([recipient.0])
}

fn prepare_attempt<'c>(db: &'c Connection, or: &str) -> rusqlite::Result<CachedStatement<'c>> {
    db.prepare_cached(&format!(
        "INSERT OR {or} INTO attempts
             (copy, number, began_at, ended_at, site, route, queue_us, dns_us, connect_us, handshake_us, transfer_us, trail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    ))
}

/// How many rows were written: one or none.
fn write_attempt(statement: &mut CachedStatement<'_>, copy: CopyId, attempt: &AttemptRecord) -> rusqlite::Result<usize> {
    let micros = |time: Duration| integer(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    let delays = attempt.delays;
    statement.execute(params![
        copy.0,
        attempt.number,
        millis(attempt.began_at),
        millis(attempt.ended_at),
        attempt.site,
        attempt.route,
        micros(delays.queue),
        micros(delays.dns),
        micros(delays.connect),
        micros(delays.handshake),
        micros(delays.transfer),
        trail_text(&attempt.trail),
    ])
}

/// Ends the recipients that wait, unsent.
fn discard(db: &Connection, settlement: &Settlement, copy: &Copy, change: &mut Change) -> rusqlite::Result<()> {
    if copy.message.reports > 0 {
        let pending: i64 = db
            .prepare_cached(&format!("SELECT count(*) FROM recipients WHERE {OF_COPY} AND state = 0 AND report IS NOT NULL"))?
            .query_row([settlement.copy.0], |row| row.get(0))?;
        change.reports -= pending;
    }
    let kept = Outcome::discarded();
    let discarded = db
        .prepare_cached(&format!(
            "UPDATE recipients SET state = 2, outcome_at = ?2, status = ?3, text = ?4, code = NULL, reply = NULL, host = NULL,
                 peer = NULL, tls = NULL, in_doubt = coalesce(in_doubt, 0), dsn_relayed = 0, report = NULL
             WHERE {OF_COPY} AND state = 0"
        ))?
        .execute((settlement.copy.0, millis(settlement.at), kept.status.to_string(), kept.text))?;
    change.failed += i64::try_from(discarded).unwrap_or(i64::MAX);
    Ok(())
}

/// The number of a site, which it gets where it has none.
fn site(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    let known = db.prepare_cached("SELECT id FROM sites WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()?;
    match known {
        Some(id) => Ok(id),
        None => db.prepare_cached("INSERT INTO sites (name) VALUES (?1)")?.insert([name]),
    }
}

/// Writes where a message stands. (`RETURNING` would do it without reading before, yet it fills a table of its own for each statement:
/// 50,000 instructions became 17,000.)
struct MessageUpdate<'c>(CachedStatement<'c>);

impl<'c> MessageUpdate<'c> {
    fn new(db: &'c Connection) -> rusqlite::Result<Self> {
        db.prepare_cached(
            "UPDATE messages SET open_copies = ?2, reports_due = ?3, delivered = ?4, failed = ?5, finished_at = ?6 WHERE seq = ?1",
        )
        .map(Self)
    }

    /// After `change`.
    fn write(&mut self, before: &Totals, change: &Change, at: i64) -> rusqlite::Result<Option<Finished>> {
        if change.is_none() {
            return Ok(None);
        }
        let (copies, reports) = (i64::from(before.copies) - change.copies, i64::from(before.reports) + change.reports);
        let (delivered, failed) = (i64::from(before.delivered) + change.delivered, i64::from(before.failed) + change.failed);
        let finished = copies == 0 && reports == 0;
        self.0.execute(params![before.seq, copies, reports, delivered, failed, finished.then_some(at)])?;
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let (delivered, failed) = (count(delivered), count(failed));
        Ok(finished.then_some(Finished { id: before.id, delivered, failed, accepted_at: before.accepted_at }))
    }
}

/// Records that these recipients' outcomes were told, and accepts the report that tells it.
pub(super) fn reported(db: &Connection, covered: &[(RecipientId, ReportAction)], report: Option<&NewMessage>) -> Result<Reported, Failure> {
    let mut result = Reported::default();
    if let Some(report) = report {
        accept::accept(db, report, &mut result.copies)?;
    }
    let mut clear = db.prepare_cached("UPDATE recipients SET report = NULL WHERE id = ?1 AND report = ?2")?;
    let mut message = db.prepare_cached("SELECT c.message FROM recipients r JOIN copies c ON c.id = r.copy WHERE r.id = ?1")?;
    let mut messages: Vec<(i64, i64)> = Vec::new();
    for &(recipient, action) in covered {
        if clear.execute((recipient.0, action_code(action)))? == 0 {
            continue;
        }
        let message = message.query_row([recipient.0], |row| row.get(0))?;
        match messages.last_mut() {
            Some((last, cleared)) if *last == message => *cleared += 1,
            _ => messages.push((message, 1)),
        }
    }
    let mut update = MessageUpdate::new(db)?;
    for (message, cleared) in messages {
        // Told at: when the report was accepted, or, where none was written, when the last outcome came.
        let at = report.map_or_else(|| last_outcome_at(db, message), |report| Ok(millis(report.accepted_at)))?;
        let before = db
            .prepare_cached(&format!("SELECT {TOTALS_COLUMNS} FROM messages m WHERE m.seq = ?1"))?
            .query_row([message], |row| totals(&mut Columns::of(row)))?;
        result.finished.extend(update.write(&before, &Change { reports: -cleared, ..Change::default() }, at)?);
    }
    Ok(result)
}

/// CROSS JOIN keeps the order of the tables: the recipients of all messages are many.
pub(super) const LAST_OUTCOME: &str = "SELECT coalesce(max(r.outcome_at), 0) FROM copies c
    CROSS JOIN recipients r ON r.id BETWEEN c.first_recipient AND c.last_recipient AND r.copy = c.id WHERE c.id >= ?1 AND c.id < ?2";

fn last_outcome_at(db: &Connection, message: i64) -> rusqlite::Result<i64> {
    let copies = copy_ids(message);
    db.prepare_cached(LAST_OUTCOME)?.query_row((copies.start, copies.end), |row| row.get(0))
}

//! What the daemon reads: takes places and limits, hands on due copies, due reports and what is known.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::convert::{Columns, MESSAGE_COLUMNS, OUTCOME_COLUMNS, action, integer, message, nanoseconds, outcome, priority_code, sql_count};
use super::failure::Failure;
use crate::clock::Timestamp;
use crate::message::{Domain, MessageId, Priority};
use crate::queue::{CopyId, Cursor, DuePage, Known, Message, QueuedCopy, QueuedRecipient, RecipientId, ReportDue, ReportEntry, Source};

/// All classes, in their order.
pub(super) const PRIORITIES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Bulk];

/// Messages that were read already: their copies share one value.
type Messages = HashMap<i64, Arc<Message>>;

/// The newest message that this file became. The name counts too: file systems with coarse times reuse inodes within a second.
pub(super) fn known_source(db: &Connection, source: &Source) -> rusqlite::Result<Option<Known>> {
    db.prepare_cached(
        "SELECT id, finished_at IS NOT NULL FROM messages INDEXED BY messages_source
         WHERE source_modified = ?1 AND source_inode = ?2 AND source_size = ?3 AND source = ?4 ORDER BY seq DESC LIMIT 1",
    )?
    .query_row(
        params![
            nanoseconds(source.fingerprint.modified),
            source.fingerprint.inode.cast_signed(),
            integer(source.fingerprint.size),
            source.name
        ],
        known,
    )
    .optional()
}

pub(super) fn known_id(db: &Connection, id: MessageId) -> rusqlite::Result<Option<Known>> {
    db.prepare_cached("SELECT id, finished_at IS NOT NULL FROM messages WHERE id = ?1")?.query_row([id.to_bytes()], known).optional()
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let mut columns = Columns::of(row);
    Ok(Known { id: columns.message_id()?, finished: columns.next()? })
}

pub(super) fn unfinished(db: &Connection, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, Failure> {
    // No id is negative: the empty text sorts before every one.
    let after = after.map_or_else(Vec::new, |id| id.to_bytes().to_vec());
    let mut page =
        db.prepare_cached("SELECT id FROM messages INDEXED BY messages_open WHERE finished_at IS NULL AND id > ?1 ORDER BY id LIMIT ?2")?;
    let ids = page.query_map(params![after, sql_count(limit)], |row| Columns::of(row).message_id())?.collect::<Result<_, _>>()?;
    Ok(ids)
}

const COPY_COLUMNS: &str = "c.id, c.message, c.domain, c.due_at, c.attempts, c.first_failed_at, c.warned";

/// The index leads from the cursor straight to `now`, past no copy that waits for a later time; it holds the domain too, so that
/// copies that are passed over cost no look-up.
pub(super) fn due(db: &Connection, after: Cursor, now: i64, limit: usize, skip: &[Domain]) -> Result<DuePage, Failure> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COPY_COLUMNS} FROM copies c INDEXED BY copies_due
         WHERE c.state = 0 AND c.priority = ?1 AND (c.due_at, c.id) > (?2, ?3) AND c.due_at <= ?4
             AND c.domain NOT IN (SELECT value FROM json_each(?5))
         ORDER BY c.due_at, c.id"
    ))?;
    let skip = serde_json::Value::from(skip.iter().map(Domain::as_str).collect::<Vec<_>>()).to_string();
    let mut messages = Messages::new();
    let mut page = DuePage::default();
    let mut together = 0;
    let mut rows = statement.query(params![priority_code(after.priority), after.due_at, after.copy, now, skip])?;
    while let Some(row) = rows.next()? {
        if together >= limit
            && let Some(last) = page.copies.last()
        {
            page.next = Some(Cursor { priority: after.priority, due_at: last.due_at.as_millisecond(), copy: last.id.0 });
            break;
        }
        let copy = copy(db, row, &mut messages)?;
        together += copy.recipients.len();
        page.copies.push(copy);
    }
    Ok(page)
}

pub(super) fn due_in_domain(db: &Connection, domain: &Domain, now: i64, limit: usize) -> Result<Vec<QueuedCopy>, Failure> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COPY_COLUMNS} FROM copies c INDEXED BY copies_domain
         WHERE c.state = 0 AND c.domain = ?1 AND c.priority = ?2 AND c.due_at <= ?3 ORDER BY c.due_at, c.id"
    ))?;
    let mut messages = Messages::new();
    let mut copies: Vec<QueuedCopy> = Vec::new();
    let mut together = 0;
    for priority in PRIORITIES {
        let mut rows = statement.query(params![domain.as_str(), priority_code(priority), now])?;
        while let Some(row) = rows.next()? {
            if together >= limit && !copies.is_empty() {
                return Ok(copies);
            }
            let copy = copy(db, row, &mut messages)?;
            together += copy.recipients.len();
            copies.push(copy);
        }
    }
    Ok(copies)
}

pub(super) fn next_due(db: &Connection, now: i64) -> Result<Option<Timestamp>, Failure> {
    let mut statement = db.prepare_cached(
        "SELECT due_at FROM copies INDEXED BY copies_due WHERE state = 0 AND priority = ?1 AND due_at > ?2 ORDER BY due_at LIMIT 1",
    )?;
    let mut earliest = None;
    for priority in PRIORITIES {
        let next = statement.query_row((priority_code(priority), now), |row| Columns::of(row).time()).optional()?;
        earliest = earliest.into_iter().chain(next).min();
    }
    Ok(earliest)
}

/// One copy, as it would be handed on when due.
pub(super) fn copy_by_id(db: &Connection, id: CopyId) -> Result<QueuedCopy, Failure> {
    let mut statement = db.prepare_cached(&format!("SELECT {COPY_COLUMNS} FROM copies c WHERE c.id = ?1"))?;
    let mut rows = statement.query([id.0])?;
    let row = rows.next()?.ok_or_else(|| Failure::refused(format!("there is no copy {}", id.0)))?;
    Ok(copy(db, row, &mut Messages::new())?)
}

fn copy(db: &Connection, row: &Row<'_>, messages: &mut Messages) -> rusqlite::Result<QueuedCopy> {
    let mut columns = Columns::of(row);
    let id = CopyId(columns.next()?);
    Ok(QueuedCopy {
        id,
        message: message_by_seq(db, columns.next()?, messages)?,
        domain: columns.domain()?,
        due_at: columns.time()?,
        attempts: columns.count()?,
        first_failed_at: columns.time_or_null()?,
        warned: columns.next()?,
        recipients: waiting_recipients(db, id)?,
    })
}

fn message_by_seq(db: &Connection, seq: i64, messages: &mut Messages) -> rusqlite::Result<Arc<Message>> {
    match messages.entry(seq) {
        Entry::Occupied(known) => Ok(Arc::clone(known.get())),
        Entry::Vacant(place) => {
            let message = db
                .prepare_cached(&format!("SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.seq = ?1"))?
                .query_row([seq], |row| message(&mut Columns::of(row)))?;
            Ok(Arc::clone(place.insert(Arc::new(message))))
        }
    }
}

fn waiting_recipients(db: &Connection, copy: CopyId) -> rusqlite::Result<Vec<QueuedRecipient>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT r.id, r.address, r.notify, {OUTCOME_COLUMNS} FROM recipients r WHERE r.copy = ?1 AND r.state = 0 ORDER BY r.id"
    ))?;
    let recipients = statement.query_map([copy.0], |row| {
        let mut columns = Columns::of(row);
        Ok(QueuedRecipient {
            id: RecipientId(columns.next()?),
            address: columns.address()?,
            notify: columns.notify()?,
            last: outcome(&mut columns)?.map(|(outcome, _)| outcome),
        })
    })?;
    recipients.collect()
}

pub(super) fn reports_due(db: &Connection, only: Option<&[MessageId]>, limit: usize) -> Result<Vec<ReportDue>, Failure> {
    let seqs = match only {
        None => db
            .prepare_cached("SELECT seq FROM messages INDEXED BY messages_reports WHERE reports_due > 0 ORDER BY id LIMIT ?1")?
            .query_map([sql_count(limit)], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?,
        Some(ids) => {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            let mut find = db.prepare_cached("SELECT seq FROM messages WHERE id = ?1 AND reports_due > 0")?;
            let found = ids.iter().filter_map(|id| find.query_row([id.to_bytes()], |row| row.get(0)).optional().transpose());
            found.take(limit).collect::<rusqlite::Result<Vec<i64>>>()?
        }
    };
    let mut messages = Messages::new();
    seqs.into_iter()
        .map(|seq| Ok(ReportDue { message: message_by_seq(db, seq, &mut messages)?, entries: report_entries(db, seq)? }))
        .collect()
}

fn report_entries(db: &Connection, seq: i64) -> rusqlite::Result<Vec<ReportEntry>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT r.id, r.address, r.report, {OUTCOME_COLUMNS} FROM copies c JOIN recipients r ON r.copy = c.id
         WHERE c.message = ?1 AND r.report IS NOT NULL ORDER BY r.id"
    ))?;
    let entries = statement.query_map([seq], |row| {
        let mut columns = Columns::of(row);
        let (id, address, action) = (RecipientId(columns.next()?), columns.address()?, columns.coded(action)?);
        // An action is written together with an outcome.
        let (outcome, at) = outcome(&mut columns)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Ok(ReportEntry { id, address, action, outcome, at })
    })?;
    entries.collect()
}

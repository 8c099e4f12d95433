//! What the daemon reads: takes places and limits, hands on due copies, due reports and what is known.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Rows, params};

use super::accept::copy_ids;
use super::convert::{
    Columns, MESSAGE_COLUMNS, OUTCOME_COLUMNS, RECIPIENTS_OF_COPY, action, integer, message, nanoseconds, outcome, priority_code, sql_count,
};
use super::failure::Failure;
use crate::clock::Timestamp;
use crate::message::{Domain, MessageId, Priority};
use crate::queue::{
    CopyId, Cursor, DuePage, Interrupted, Known, Message, QueuedCopy, QueuedRecipient, RecipientId, ReportDue, ReportEntry, Source,
};

/// All classes, in their order.
pub(super) const PRIORITIES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Bulk];

/// Messages that were read already: their copies share one value.
type Messages = HashMap<i64, Arc<Message>>;

/// The newest message that this file became. The name counts too: file systems with coarse times reuse inodes within a second.
pub(super) fn known_source(db: &Connection, source: &Source) -> rusqlite::Result<Option<Known>> {
    db.prepare_cached(
        "SELECT id, finished_at FROM messages INDEXED BY messages_source
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
    db.prepare_cached("SELECT id, finished_at FROM messages WHERE id = ?1")?.query_row([id.to_bytes()], known).optional()
}

fn known(row: &Row<'_>) -> rusqlite::Result<Known> {
    let mut columns = Columns::of(row);
    Ok(Known { id: columns.message_id()?, finished_at: columns.time_or_null()? })
}

pub(super) fn unfinished(db: &Connection, after: Option<MessageId>, limit: usize) -> Result<Vec<MessageId>, Failure> {
    // No id is negative: the empty text sorts before every one.
    let after = after.map_or_else(Vec::new, |id| id.to_bytes().to_vec());
    let mut page =
        db.prepare_cached("SELECT id FROM messages INDEXED BY messages_open WHERE finished_at IS NULL AND id > ?1 ORDER BY id LIMIT ?2")?;
    let ids = page.query_map(params![after, sql_count(limit)], |row| Columns::of(row).message_id())?.collect::<Result<_, _>>()?;
    Ok(ids)
}

/// What [`Page`] reads: a row a recipient that waits, of `copies` as `c`, and all of it in one statement, as a page has hundreds of copies.
const QUEUED_COLUMNS: &str = "c.id, c.message, c.domain, c.due_at, c.attempts, c.first_failed_at, c.warned, c.released";

/// The other tables of such a row. CROSS JOIN keeps their order, so that rows come in the order of the copies' index.
fn queued(copies: &str, condition: &str, order: &str) -> String {
    format!(
        "SELECT r.id, r.address, r.notify, {OUTCOME_COLUMNS}, {QUEUED_COLUMNS}, {MESSAGE_COLUMNS}
         FROM {copies} CROSS JOIN messages m ON m.seq = c.message CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}
         WHERE {condition} AND r.state = 0 ORDER BY {order}"
    )
}

/// Of the copies that are queued, those that nobody sends.
const NOT_SENDING: &str = "c.state = 0 AND NOT EXISTS (SELECT 1 FROM sending s WHERE s.copy = c.id)";

/// Within the cursor's class, first what is due at the cursor's own time, then what is due later: each query leads the index straight from its
/// first row to its last, past no copy that waits, and past none that was read before. (A comparison of row values would not: it starts at
/// the cursor's time, where a million copies may lie that were woken together.) The index holds the domain too, so that passing over a
/// copy costs no look-up.
pub(super) fn due(db: &Connection, after: Cursor, now: i64, limit: usize, skip: &[Domain]) -> Result<DuePage, Failure> {
    const NOT_SKIPPED: &str = "c.domain NOT IN (SELECT value FROM json_each(?1))";
    const COPIES: &str = "copies c INDEXED BY copies_due";
    let mut page = Page::new(limit);
    let same_time = format!("{NOT_SENDING} AND c.priority = ?2 AND c.due_at = ?3 AND c.id > ?4 AND {NOT_SKIPPED}");
    let mut same_time = db.prepare_cached(&queued(COPIES, &same_time, "c.id"))?;
    let later = format!("{NOT_SENDING} AND c.priority = ?2 AND c.due_at > ?3 AND c.due_at <= ?4 AND {NOT_SKIPPED}");
    let mut later = db.prepare_cached(&queued(COPIES, &later, "c.due_at, c.id"))?;
    let skip = serde_json::Value::from(skip.iter().map(Domain::as_str).collect::<Vec<_>>()).to_string();
    let class = priority_code(after.priority);
    let full = (after.due_at <= now && page.add(same_time.query(params![skip, class, after.due_at, after.copy])?)?)
        || page.add(later.query(params![skip, class, after.due_at, now])?)?;
    let next = page.copies.last().map(Cursor::at).filter(|_| full);
    Ok(DuePage { copies: page.copies, next })
}

/// The index tells the ids of those that are known already: passing over them costs no look-up.
pub(super) fn due_in_domain(
    db: &Connection,
    (class, domain): &(Priority, Domain),
    now: i64,
    (limit, known): (usize, &[CopyId]),
) -> Result<Vec<QueuedCopy>, Failure> {
    const NOT_KNOWN: &str = "c.id NOT IN (SELECT value FROM json_each(?4))";
    let condition = format!("{NOT_KNOWN} AND {NOT_SENDING} AND c.domain = ?1 AND c.priority = ?2 AND c.due_at <= ?3");
    let known = serde_json::Value::from(known.iter().map(|copy| copy.0).collect::<Vec<_>>()).to_string();
    let mut statement = db.prepare_cached(&queued("copies c INDEXED BY copies_domain", &condition, "c.due_at, c.id"))?;
    let mut page = Page::new(limit);
    page.add(statement.query(params![domain.as_str(), priority_code(*class), now, known])?)?;
    Ok(page.copies)
}

/// Copies as they come, until enough recipients are together.
struct Page {
    limit: usize,
    together: usize,
    messages: Messages,
    copies: Vec<QueuedCopy>,
}

impl Page {
    fn new(limit: usize) -> Self {
        Self { limit, together: 0, messages: Messages::new(), copies: Vec::new() }
    }

    /// Takes rows of [`queued`]. True: it is full, and these rows go on.
    fn add(&mut self, mut rows: Rows<'_>) -> rusqlite::Result<bool> {
        while let Some(row) = rows.next()? {
            let mut columns = Columns::of(row);
            let recipient = QueuedRecipient {
                id: RecipientId(columns.next()?),
                address: columns.address()?,
                notify: columns.notify()?,
                last: outcome(&mut columns)?.map(|(outcome, _)| outcome),
            };
            let id = CopyId(columns.next()?);
            match self.copies.last_mut() {
                Some(copy) if copy.id == id => copy.recipients.push(recipient),
                Some(_) if self.together >= self.limit => return Ok(true),
                _ => {
                    let copy = copy(columns, (id, recipient), &mut self.messages)?;
                    self.copies.push(copy);
                }
            }
            self.together += 1;
        }
        Ok(false)
    }
}

/// The copy that begins with this recipient, from the columns after its id.
fn copy(mut columns: Columns<'_, '_>, (id, first): (CopyId, QueuedRecipient), messages: &mut Messages) -> rusqlite::Result<QueuedCopy> {
    let seq = columns.next()?;
    let (domain, due_at, attempts) = (columns.domain()?, columns.time()?, columns.count()?);
    let (first_failed_at, warned, released) = (columns.time_or_null()?, columns.next()?, columns.next()?);
    let message = match messages.entry(seq) {
        Entry::Occupied(known) => Arc::clone(known.get()),
        Entry::Vacant(place) => Arc::clone(place.insert(Arc::new(message(&mut columns)?))),
    };
    Ok(QueuedCopy { id, message, domain, recipients: vec![first], due_at, attempts, first_failed_at, warned, released })
}

pub(super) fn next_due(db: &Connection, now: i64) -> Result<Option<Timestamp>, Failure> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT due_at FROM copies c INDEXED BY copies_due WHERE {NOT_SENDING} AND priority = ?1 AND due_at > ?2 ORDER BY due_at LIMIT 1"
    ))?;
    let mut earliest = None;
    for priority in PRIORITIES {
        let next = statement.query_row((priority_code(priority), now), |row| Columns::of(row).time()).optional()?;
        earliest = earliest.into_iter().chain(next).min();
    }
    Ok(earliest)
}

pub(super) fn interrupted(db: &Connection) -> Result<Vec<Interrupted>, Failure> {
    let mut find = db.prepare_cached("SELECT copy, began_at FROM sending ORDER BY copy")?;
    let begun = find.query_map([], |row| {
        let mut columns = Columns::of(row);
        Ok((CopyId(columns.next()?), columns.time()?))
    })?;
    let mut interrupted = Vec::new();
    for row in begun {
        let (id, began_at) = row?;
        // A copy that is not there can only be damage, and there is nothing to be sent of it: no reason not to start.
        interrupted.extend(open_copy(db, id)?.map(|copy| Interrupted { copy, began_at }));
    }
    Ok(interrupted)
}

/// One copy, as it would be handed on when due.
pub(super) fn copy_by_id(db: &Connection, id: CopyId) -> Result<QueuedCopy, Failure> {
    open_copy(db, id)?.ok_or_else(|| Failure::refused(format!("there is no open copy {}", id.0)))
}

fn open_copy(db: &Connection, id: CopyId) -> Result<Option<QueuedCopy>, Failure> {
    let mut statement = db.prepare_cached(&queued("copies c", "c.id = ?1", "r.id"))?;
    let mut page = Page::new(usize::MAX);
    page.add(statement.query([id.0])?)?;
    Ok(page.copies.pop())
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
    let mut find = db.prepare_cached(&format!("SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.seq = ?1"))?;
    seqs.into_iter()
        .map(|seq| {
            let message = find.query_row([seq], |row| message(&mut Columns::of(row)))?;
            Ok(ReportDue { message: Arc::new(message), entries: report_entries(db, seq)? })
        })
        .collect()
}

fn report_entries(db: &Connection, seq: i64) -> rusqlite::Result<Vec<ReportEntry>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT r.id, r.address, r.report, {OUTCOME_COLUMNS} FROM copies c CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}
         WHERE c.id >= ?1 AND c.id < ?2 AND r.report IS NOT NULL ORDER BY r.id"
    ))?;
    let copies = copy_ids(seq);
    let entries = statement.query_map((copies.start, copies.end), |row| {
        let mut columns = Columns::of(row);
        let (id, address, action) = (RecipientId(columns.next()?), columns.address()?, columns.coded(action)?);
        // An action is written together with an outcome.
        let (outcome, at) = outcome(&mut columns)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        Ok(ReportEntry { id, address, action, outcome, at })
    })?;
    entries.collect()
}

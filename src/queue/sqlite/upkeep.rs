//! What changes copies besides attempts: waking, splitting, purging.

use rusqlite::{Connection, OptionalExtension};

use super::accept::copy_ids;
use super::convert::sql_count;
use super::failure::Failure;
use super::read;
use crate::message::MessageId;
use crate::queue::{CopyId, QueuedCopy, RecipientId};

/// Makes the waiting copies of these messages due.
pub(super) fn wake(db: &Connection, ids: &[MessageId], now: i64) -> Result<u64, Failure> {
    let mut find = db.prepare_cached("SELECT seq FROM messages WHERE id = ?1")?;
    let mut wake = db.prepare_cached(
        "UPDATE copies SET due_at = ?3 WHERE id >= ?1 AND id < ?2 AND state = 0 AND due_at > ?3 AND id NOT IN (SELECT copy FROM sending)",
    )?;
    let mut woken = 0;
    for id in ids {
        if let Some(copies) = find.query_row([id.to_bytes()], |row| row.get(0)).optional()?.map(copy_ids) {
            woken += wake.execute((copies.start, copies.end, now))?;
        }
    }
    Ok(woken as u64)
}

/// Makes at most `limit` of the copies due that are past their end and would wait on.
pub(super) fn wake_expired(db: &Connection, now: i64, limit: usize) -> Result<u64, Failure> {
    let woken = db
        .prepare_cached(
            "UPDATE copies SET due_at = ?1 WHERE id IN (SELECT id FROM copies INDEXED BY copies_late
                 WHERE state = 0 AND due_at > expires_at AND expires_at < ?1 AND due_at > ?1 AND id NOT IN (SELECT copy FROM sending)
                 LIMIT ?2)",
        )?
        .execute((now, sql_count(limit)))?;
    Ok(woken as u64)
}

/// Moves waiting recipients to a new copy of the same message.
pub(super) fn split(db: &Connection, copy: CopyId, recipients: &[RecipientId]) -> Result<QueuedCopy, Failure> {
    let message = db
        .prepare_cached("SELECT message FROM copies WHERE id = ?1 AND state < 3")?
        .query_row([copy.0], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Failure::refused(format!("there is no open copy {}", copy.0)))?;
    let ids = copy_ids(message);
    let last: i64 =
        db.prepare_cached("SELECT max(id) FROM copies WHERE id >= ?1 AND id < ?2")?.query_row((ids.start, ids.end), |row| row.get(0))?;
    if last + 1 >= ids.end {
        return Err(Failure::refused(format!("copy {} cannot be split: its message has no room for more copies", copy.0)));
    }
    let new = CopyId(last + 1);
    // It has not begun: an attempt that is under way is the old one's, and does not count among those that have ended. What is on hold
    // stays so in both parts: who divides it may have read it before it was held.
    db.prepare_cached(
        "INSERT INTO copies (id, message, state, priority, due_at, expires_at, open_recipients, attempts, first_failed_at, warned,
             in_doubt, first_recipient, last_recipient, domain, hold_reason, released, site)
         SELECT ?2, message, state, priority, due_at, expires_at, 0, attempts, first_failed_at, warned, in_doubt, first_recipient,
             last_recipient, domain, hold_reason, released, site
         FROM copies WHERE id = ?1",
    )?
    .execute((copy.0, new.0))?;
    let mut movement = db.prepare_cached("UPDATE recipients SET copy = ?3 WHERE id = ?1 AND copy = ?2 AND state = 0")?;
    for recipient in recipients {
        if movement.execute((recipient.0, copy.0, new.0))? == 0 {
            return Err(Failure::refused(format!("recipient {} does not wait in copy {}", recipient.0, copy.0)));
        }
    }
    let moved = sql_count(recipients.len());
    db.prepare_cached("UPDATE copies SET open_recipients = open_recipients + ?2 WHERE id = ?1")?.execute((new.0, moved))?;
    db.prepare_cached("UPDATE copies SET open_recipients = open_recipients - ?2 WHERE id = ?1")?.execute((copy.0, moved))?;
    let left: i64 = db.prepare_cached("SELECT open_recipients FROM copies WHERE id = ?1")?.query_row([copy.0], |row| row.get(0))?;
    if left == 0 || moved == 0 {
        return Err(Failure::refused(format!("a split of copy {} has to leave and to move a recipient", copy.0)));
    }
    db.prepare_cached("UPDATE messages SET open_copies = open_copies + 1 WHERE seq = ?1")?.execute([message])?;
    // Attempts that have ended were made for both.
    db.prepare_cached(
        "INSERT INTO attempts (copy, number, began_at, ended_at, queue_us, dns_us, connect_us, handshake_us, transfer_us, site, route,
             trail)
         SELECT ?2, number, began_at, ended_at, queue_us, dns_us, connect_us, handshake_us, transfer_us, site, route, trail
         FROM attempts WHERE copy = ?1",
    )?
    .execute((copy.0, new.0))?;
    read::copy_by_id(db, new)
}

/// Forgets at most `limit` finished messages.
pub(super) fn purge(db: &Connection, before: i64, limit: usize) -> Result<u64, Failure> {
    let seqs = db
        .prepare_cached(
            "SELECT seq FROM messages INDEXED BY messages_finished WHERE finished_at IS NOT NULL AND finished_at < ?1
             ORDER BY finished_at LIMIT ?2",
        )?
        .query_map((before, sql_count(limit)), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    // A message's recipients were written in one go, so that they lie together.
    let mut recipients = db.prepare_cached(
        "DELETE FROM recipients WHERE copy >= ?1 AND copy < ?2
             AND id >= (SELECT min(first_recipient) FROM copies WHERE id >= ?1 AND id < ?2)
             AND id <= (SELECT max(last_recipient) FROM copies WHERE id >= ?1 AND id < ?2)",
    )?;
    let mut attempts = db.prepare_cached("DELETE FROM attempts WHERE copy >= ?1 AND copy < ?2")?;
    let mut actions = db.prepare_cached("DELETE FROM actions WHERE copy >= ?1 AND copy < ?2")?;
    let mut copies = db.prepare_cached("DELETE FROM copies WHERE id >= ?1 AND id < ?2")?;
    let mut message = db.prepare_cached("DELETE FROM messages WHERE seq = ?1")?;
    for &seq in &seqs {
        let ids = copy_ids(seq);
        attempts.execute((ids.start, ids.end))?;
        actions.execute((ids.start, ids.end))?;
        recipients.execute((ids.start, ids.end))?;
        copies.execute((ids.start, ids.end))?;
        message.execute([seq])?;
    }
    if seqs.len() < limit {
        // Those that no open copy belongs to any more.
        db.execute("DELETE FROM sites WHERE NOT EXISTS (SELECT 1 FROM copies c WHERE c.site = sites.id AND c.state < 3)", [])?;
    }
    Ok(seqs.len() as u64)
}

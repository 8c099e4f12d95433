//! What can still be read of a damaged database: takes its path and a new database, hands on which messages are whole, and which are not.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, params, params_from_iter};

use super::convert::{Columns, millis};
use super::failure::failed;
use super::{read, schema};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::queue::{CopyId, Salvaged, StoreError};

const DOING: &str = "reading what is left of a damaged one";

/// Tables whose rows have numbers, and the column with it. What comes later refers to what comes earlier.
const TABLES: [(&str, &str); 6] =
    [("messages", "seq"), ("sites", "id"), ("copies", "id"), ("recipients", "id"), ("sending", "copy"), ("actions", "id")];

/// Copies rows one by one, past what cannot be read, and puts right what refers to rows that are lost.
pub(super) fn copy(from: &Path, to: &mut Connection, now: Timestamp) -> Result<Salvaged, StoreError> {
    let mut salvaged = Salvaged::default();
    let new = to.transaction().map_err(failed(DOING))?;
    match schema::reader_of_damaged(from) {
        Ok(old) => {
            for (table, key) in TABLES {
                salvaged.complete &= Rows { old: &old, new: &new, table, key }.copy()?;
            }
            // Nobody needs all of the history.
            copy_attempts(&old, &new);
            copy_pauses(&old, &new);
        }
        Err(error) => {
            tracing::error!(%error, path = %from.display(), "nothing can be read of the damaged database");
            salvaged.complete = false;
        }
    }
    salvaged.incomplete = put_right(&new, now)?;
    salvaged.messages = new
        .query_row("SELECT count(*) FROM messages WHERE finished_at IS NULL", [], |row| Columns::of(row).octets())
        .map_err(failed(DOING))?;
    new.commit().map_err(failed(DOING))?;
    Ok(salvaged)
}

struct Rows<'a> {
    old: &'a Connection,
    new: &'a Transaction<'a>,
    table: &'static str,
    key: &'static str,
}

impl Rows<'_> {
    /// True: nothing stood in the way. From the front as far as it goes; behind what cannot be read, further on in growing steps, and back
    /// from there to what cannot be read.
    fn copy(&self) -> Result<bool, StoreError> {
        let Self { table, key, .. } = self;
        let upwards = format!("SELECT {key}, * FROM {table} NOT INDEXED WHERE {key} > ?1 ORDER BY {key}");
        let downwards = format!("SELECT {key}, * FROM {table} NOT INDEXED WHERE {key} < ?1 AND {key} > ?2 ORDER BY {key} DESC");
        let (mut reached, mut step) = (i64::MIN, 1_i64);
        let mut whole = true;
        let mut hole = None;
        loop {
            let began = reached;
            let ended = self.run(&upwards, &[began], &mut reached, 1)?;
            if reached > began {
                if let Some(bottom) = hole.take() {
                    // What the last step went past.
                    self.run(&downwards, &[began.saturating_add(1), bottom], &mut began.saturating_add(1), -1)?;
                }
                step = 1;
            }
            if ended {
                return Ok(whole);
            }
            whole = false;
            hole.get_or_insert(reached);
            // Numbers begin at 1.
            reached = reached.max(0).saturating_add(step);
            if step == i64::MAX || reached == i64::MAX {
                return Ok(false);
            }
            step = step.saturating_mul(2);
        }
    }

    /// Copies rows until there are none, or one cannot be read: then false. `reached` is the last one's number.
    fn run(&self, sql: &str, bounds: &[i64], reached: &mut i64, direction: i64) -> Result<bool, StoreError> {
        let Ok(mut statement) = self.old.prepare(sql) else { return Ok(false) };
        let columns = statement.column_count();
        let places = vec!["?"; columns - 1].join(", ");
        let mut insert =
            self.new.prepare_cached(&format!("INSERT OR IGNORE INTO {} VALUES ({places})", self.table)).map_err(failed(DOING))?;
        let Ok(mut rows) = statement.query(params_from_iter(bounds)) else { return Ok(false) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            };
            let Ok(number) = row.get::<_, i64>(0) else { return Ok(false) };
            // A damaged tree may lead in a circle.
            if (number > *reached) != (direction > 0) || number == *reached {
                return Ok(false);
            }
            *reached = number;
            let values: rusqlite::Result<Vec<Value>> = (1..columns).map(|at| row.get(at)).collect();
            // What the new table does not take can have been written by nobody: the row is as good as lost.
            if let Ok(values) = values
                && let Err(error) = insert.execute(params_from_iter(values))
                && failed(DOING)(error).is_temporary()
            {
                return Err(StoreError::Database { doing: DOING, detail: "the new one cannot be written".to_owned(), temporary: true });
            }
        }
    }
}

/// Few, and each of them an administrator's will.
fn copy_pauses(old: &Connection, new: &Transaction<'_>) {
    let copied = || -> rusqlite::Result<()> {
        let mut statement = old.prepare("SELECT * FROM paused_sites")?;
        let columns = statement.column_count();
        let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO paused_sites VALUES ({})", vec!["?"; columns].join(", ")))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..columns).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
            insert.execute(params_from_iter(values))?;
        }
        Ok(())
    };
    if let Err(error) = copied() {
        tracing::warn!(%error, "which sites are paused is not all known any more: see 'smtp-direct site list'");
    }
}

fn copy_attempts(old: &Connection, new: &Transaction<'_>) {
    let copied = || -> rusqlite::Result<()> {
        let mut statement = old.prepare("SELECT * FROM attempts")?;
        let columns = statement.column_count();
        let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO attempts VALUES ({})", vec!["?"; columns].join(", ")))?;
        let mut rows = statement.query([])?;
        let (mut last, mut count) = ((i64::MIN, i64::MIN), 0_u64);
        while let Some(row) = rows.next()? {
            let place = (row.get(0)?, row.get(1)?);
            if place <= last {
                break;
            }
            last = place;
            let values: rusqlite::Result<Vec<Value>> = (0..columns).map(|at| row.get(at)).collect();
            count += u64::from(insert.execute(params_from_iter(values?)).is_ok());
        }
        tracing::debug!(count, "attempts were taken over");
        Ok(())
    };
    if let Err(error) = copied() {
        tracing::warn!(%error, "some of the history of attempts is lost");
    }
}

/// What refers to rows that are lost, or cannot be understood, goes; counts are made true. Hands on the messages of which something is lost.
fn put_right(db: &Transaction<'_>, now: Timestamp) -> Result<Vec<(MessageId, String)>, StoreError> {
    let all = || -> rusqlite::Result<Vec<(MessageId, String)>> {
        db.execute_batch(
            "DELETE FROM messages WHERE length(id) <> 16;
             DELETE FROM copies WHERE message NOT IN (SELECT seq FROM messages) OR id / 1048576 <> message;
             DELETE FROM recipients WHERE copy NOT IN (SELECT id FROM copies);
             DELETE FROM sending WHERE copy NOT IN (SELECT id FROM copies WHERE state < 3);
             DELETE FROM attempts WHERE copy NOT IN (SELECT id FROM copies);
             CREATE TEMP TABLE lost (message INTEGER PRIMARY KEY);",
        )?;
        drop_unreadable(db)?;
        // Its counts say what there was; what is left says what there is.
        db.execute_batch(
            "INSERT OR IGNORE INTO lost SELECT seq FROM messages m WHERE finished_at IS NULL AND
                 open_copies <> (SELECT count(*) FROM copies c WHERE c.id >= m.seq * 1048576 AND c.id < (m.seq + 1) * 1048576 AND c.state < 3);
             CREATE TEMP TABLE waiting AS SELECT copy, count(*) AS count FROM recipients WHERE state = 0 GROUP BY copy;
             CREATE UNIQUE INDEX temp.waiting_copy ON waiting(copy);
             INSERT OR IGNORE INTO lost SELECT message FROM copies c WHERE state < 3 AND
                 open_recipients <> ifnull((SELECT count FROM waiting w WHERE w.copy = c.id), 0);
             UPDATE copies SET open_recipients = ifnull((SELECT count FROM waiting w WHERE w.copy = copies.id), 0) WHERE state < 3;
             UPDATE copies SET state = 3, site = NULL WHERE state < 3 AND open_recipients = 0;
             UPDATE copies SET site = NULL WHERE site NOT IN (SELECT id FROM sites);
             DELETE FROM sending WHERE copy NOT IN (SELECT id FROM copies WHERE state < 3);
             UPDATE messages SET
                 open_copies = (SELECT count(*) FROM copies c WHERE c.id >= seq * 1048576 AND c.id < (seq + 1) * 1048576 AND c.state < 3),
                 reports_due = (SELECT count(*) FROM copies c JOIN recipients r ON r.copy = c.id AND r.id BETWEEN c.first_recipient
                     AND c.last_recipient WHERE c.id >= seq * 1048576 AND c.id < (seq + 1) * 1048576 AND r.report IS NOT NULL)
                 WHERE finished_at IS NULL;",
        )?;
        db.execute(
            "UPDATE messages SET finished_at = ?1 WHERE finished_at IS NULL AND open_copies = 0 AND reports_due = 0",
            [millis(now)],
        )?;
        let mut lost = db.prepare(
            "SELECT m.id, (SELECT count(*) FROM recipients r JOIN copies c ON c.id = r.copy WHERE c.message = m.seq AND r.state = 0)
             FROM lost JOIN messages m ON m.seq = lost.message ORDER BY m.seq",
        )?;
        let lost = lost.query_map([], |row| {
            let mut columns = Columns::of(row);
            let (id, left) = (columns.message_id()?, columns.octets()?);
            Ok((
                id,
                format!("the queue's database was damaged, and recipients of this message are lost with it; it is still sent to {left}"),
            ))
        })?;
        let lost = lost.collect::<rusqlite::Result<Vec<_>>>()?;
        db.execute_batch("DROP TABLE temp.lost; DROP TABLE temp.waiting;")?;
        Ok(lost)
    };
    all().map_err(failed(DOING))
}

/// Copies that are open and whose rows, or their message's, mean nothing: they would keep the queue from being read.
fn drop_unreadable(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let copies = db
        .prepare("SELECT id, message FROM copies WHERE state < 3")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    for (copy, message) in copies {
        let known_state: bool =
            db.query_row("SELECT state IN (0, 2) AND priority IN (0, 1, 2) FROM copies WHERE id = ?1", [copy], |row| row.get(0))?;
        if !known_state || read::copy_by_id(db, CopyId(copy)).is_err() {
            db.execute("INSERT OR IGNORE INTO temp.lost VALUES (?1)", [message])?;
            db.execute("UPDATE recipients SET report = NULL WHERE copy = ?1", [copy])?;
            db.execute("UPDATE copies SET state = 3, open_recipients = 0, site = NULL WHERE id = ?1", [copy])?;
        }
    }
    let reports = db
        .prepare("SELECT seq, id FROM messages WHERE reports_due > 0")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, [u8; 16])>>>()?;
    for (seq, id) in reports {
        if read::reports_due(db, Some(&[MessageId::from_bytes(id)]), 1).is_err() {
            db.execute("UPDATE recipients SET report = NULL WHERE copy >= ?1 * 1048576 AND copy < (?1 + 1) * 1048576", params![seq])?;
            db.execute("INSERT OR IGNORE INTO temp.lost VALUES (?1)", [seq])?;
        }
    }
    Ok(())
}

//! The history: takes filters, hands on final outcomes, newest first, and how many there are.
//!
//! There are two ways to it. The index of final outcomes is in time's order and holds what most filters ask for: it is walked back until the
//! limit is reached, and rows are read only of what passed. What is asked of the message itself (sender, Message-ID) is not in it: where
//! few messages answer to it they are found first and their recipients by them; where many do, the walk comes upon them soon.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params};

use super::convert::{ATTEMPTS_COLUMN, COPIES_OF_MESSAGE, Columns, OUTCOME_COLUMNS, RECIPIENTS_OF_COPY, millis, outcome, sql_count};
use super::failure::Failure;
use super::inspect::Query;
use super::pattern::{like, like_text};
use crate::message::{Address, ReversePath};
use crate::outcome::{DISCARDED, REMOVED, RETURNED};
use crate::queue::{CopyId, Ending, HistoryCursor, HistoryFilter, HistoryRow, RecipientCopies, RecipientId};

/// Messages that are few: one in two hundred of a million, so that a walk for more of them finds the first hundred within 20,000 rows.
const FEW: usize = 5_000;

/// Tables by way of messages that are known.
fn by_message() -> String {
    format!("messages m CROSS JOIN copies c ON {COPIES_OF_MESSAGE} CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}")
}

/// Tables by way of the index, each further one only where it is needed.
fn by_time(filter: &HistoryFilter, rows: bool) -> &'static str {
    if rows || filter.from.is_some() || filter.message_id.is_some() {
        "recipients r INDEXED BY recipients_final CROSS JOIN copies c ON c.id = r.copy CROSS JOIN messages m ON m.seq = c.message"
    } else if filter.domain.is_some() {
        "recipients r INDEXED BY recipients_final CROSS JOIN copies c ON c.id = r.copy"
    } else {
        "recipients r INDEXED BY recipients_final"
    }
}

pub(super) fn list(db: &Connection, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, Failure> {
    let columns = format!("m.id, r.id, m.accepted_at, m.sender, r.address, m.message_id, {ATTEMPTS_COLUMN}, {OUTCOME_COLUMNS}");
    let mut query = query(db, filter, &columns, true)?;
    if let Some(HistoryCursor { at, recipient }) = filter.before {
        query.and_all("r.outcome_at <= ? AND (r.outcome_at < ? OR r.id < ?)", [at, at, recipient.0].map(Value::Integer));
    }
    query.rows(db, (" ORDER BY r.outcome_at DESC, r.id DESC", filter.limit), |row| {
        let mut columns = Columns::of(row);
        let (message, recipient_id, accepted_at) = (columns.message_id()?, RecipientId(columns.next()?), columns.time()?);
        let (sender, recipient) = (columns.parsed(ReversePath::parse)?, columns.address()?);
        let (message_id, attempts) = (columns.next()?, columns.count()?);
        let (outcome, at) = outcome(&mut columns)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let place = HistoryCursor { at: millis(at), recipient: recipient_id };
        Ok(HistoryRow { message, at, place, accepted_at, sender, recipient, message_id, attempts, outcome })
    })
}

pub(super) fn count(db: &Connection, filter: &HistoryFilter) -> Result<u64, Failure> {
    let query = query(db, filter, "count(*)", false)?;
    let counts = query.rows(db, ("", None), |row| Columns::of(row).octets())?;
    Ok(counts.into_iter().sum())
}

fn query(db: &Connection, filter: &HistoryFilter, columns: &str, rows: bool) -> Result<Query, Failure> {
    let few = few_messages(db, filter)?;
    let from = if filter.id.is_some() || few.is_some() { &by_message() } else { by_time(filter, rows) };
    let mut query = Query::new(format!("SELECT {columns} FROM {from} WHERE r.state > 0"));
    if let Some(few) = few {
        query.and("m.seq IN (SELECT value FROM json_each(?))", serde_json::Value::from(few).to_string());
    }
    if let Some(id) = filter.id {
        query.and("m.id = ?", id.to_bytes().to_vec());
    }
    of_outcome(&mut query, filter);
    if let Some(domain) = &filter.domain {
        // The first one is answered by the index; a quoted local part may look like it.
        query.and("r.address LIKE ? ESCAPE '\\'", format!("%@{}", like(domain)));
        query.and("c.domain LIKE ? ESCAPE '\\'", like(domain));
    }
    of_message(&mut query, filter);
    Ok(query)
}

fn of_outcome(query: &mut Query, filter: &HistoryFilter) {
    if let Some(since) = filter.since {
        query.and("r.outcome_at >= ?", millis(since));
    }
    if let Some(until) = filter.until {
        query.and("r.outcome_at < ?", millis(until));
    }
    match filter.ending {
        None => {}
        Some(Ending::Delivered) => query.and_all("r.state = 1", []),
        Some(Ending::Failed) => query.and_all("r.state = 2", []),
        // The table of outcomes has this status for nothing else that is final.
        Some(Ending::Expired) => query.and_all("r.state = 2 AND r.status = '4.4.7'", []),
        Some(Ending::Discarded) => query.and("r.state = 2 AND r.status = '5.7.1' AND r.text = ?", DISCARDED.to_owned()),
        Some(Ending::Bounced) => of_order(query, RETURNED),
        Some(Ending::Removed) => of_order(query, REMOVED),
    }
    if filter.in_doubt {
        query.and_all("r.in_doubt = 1", []);
    }
    if let Some(to) = &filter.to {
        query.and("r.address LIKE ? ESCAPE '\\'", like(to));
    }
}

/// What an administrator did: no peer has said it, and the reason stands behind `words`.
fn of_order(query: &mut Query, words: &str) {
    query.and("r.state = 2 AND r.code IS NULL AND r.host IS NULL AND r.text LIKE ? ESCAPE '\\'", like_text(&format!("{words}*")));
}

fn of_message(query: &mut Query, filter: &HistoryFilter) {
    if let Some(from) = &filter.from {
        query.and("m.sender LIKE ? ESCAPE '\\'", like(from));
    }
    if let Some(message_id) = &filter.message_id {
        query.and("m.message_id LIKE ? ESCAPE '\\'", like_text(&in_brackets(message_id)));
    }
}

/// People leave the angle brackets out.
pub(super) fn in_brackets(message_id: &str) -> String {
    let before = if message_id.starts_with(['<', '*']) { "" } else { "<" };
    let after = if message_id.ends_with(['>', '*']) { "" } else { ">" };
    format!("{before}{message_id}{after}")
}

/// The messages that are asked for, where the filter asks for something of them and there are few.
fn few_messages(db: &Connection, filter: &HistoryFilter) -> Result<Option<Vec<i64>>, Failure> {
    if filter.id.is_some() || (filter.from.is_none() && filter.message_id.is_none()) {
        return Ok(None);
    }
    let mut query = Query::new("SELECT m.seq FROM messages m NOT INDEXED WHERE true".to_owned());
    of_message(&mut query, filter);
    let seqs = query.rows(db, ("", Some(FEW + 1)), |row| row.get::<_, i64>(0))?;
    Ok((seqs.len() <= FEW).then_some(seqs))
}

pub(super) fn copies_for(db: &Connection, recipient: &Address, finished: usize) -> Result<RecipientCopies, Failure> {
    let address = recipient.to_string();
    let read = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok((columns.message_id()?, CopyId(columns.next()?)))
    };
    let mut open = db.prepare(&format!(
        "SELECT m.id, c.id FROM messages m INDEXED BY messages_open CROSS JOIN copies c ON {COPIES_OF_MESSAGE}
             CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}
         WHERE m.finished_at IS NULL AND c.state < 3 AND c.domain = ?1 AND r.state = 0 AND r.address = ?2 COLLATE NOCASE
         ORDER BY m.id, c.id"
    ))?;
    let mut ended = db.prepare(
        "SELECT m.id, c.id FROM recipients r INDEXED BY recipients_final CROSS JOIN copies c ON c.id = r.copy
             CROSS JOIN messages m ON m.seq = c.message
         WHERE r.state > 0 AND r.address = ?1 COLLATE NOCASE ORDER BY r.outcome_at DESC, r.id DESC LIMIT ?2",
    )?;
    Ok(RecipientCopies {
        open: open.query_map((recipient.domain().as_str(), &address), read)?.collect::<rusqlite::Result<_>>()?,
        finished: ended.query_map(params![address, sql_count(finished)], read)?.collect::<rusqlite::Result<_>>()?,
    })
}

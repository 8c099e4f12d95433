//! The list of the queue: takes filters, hands on unfinished copies, oldest first, and how many there are.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::actions::tag_like;
use super::convert::{
    ATTEMPTS_COLUMN, COPIES_OF_MESSAGE, Columns, OF_COPY, RECIPIENTS_OF_COPY, STATE_COLUMN, millis, priority, state, state_code,
};
use super::failure::Failure;
use super::history::in_brackets;
use super::inspect::{Query, hex};
use super::pattern::{like, like_text};
use crate::message::{Address, ReversePath};
use crate::queue::{CopyId, CopyRow, ListCursor, ListFilter};

pub(super) fn list(db: &Connection, filter: &ListFilter) -> Result<Vec<CopyRow>, Failure> {
    let columns = format!(
        "m.id, c.id, {STATE_COLUMN}, c.priority, m.sender, c.domain, m.wire_size, m.accepted_at, c.due_at, {ATTEMPTS_COLUMN},
             c.in_doubt, c.hold_reason"
    );
    let mut query = query(filter, &columns);
    if let Some(ListCursor { message, copy }) = filter.after {
        let id = || Value::Blob(message.to_bytes().to_vec());
        query.and_all("m.id >= ? AND (m.id > ? OR c.id > ?)", [id(), id(), Value::Integer(copy.0)]);
    }
    query.rows(db, (" ORDER BY m.id, c.id", filter.limit), |row| {
        let mut columns = Columns::of(row);
        let message = columns.message_id()?;
        let copy = CopyId(columns.next()?);
        let (recipients, last) = waiting(db, copy)?;
        Ok(CopyRow {
            message,
            copy,
            state: columns.coded(state)?,
            priority: columns.coded(priority)?,
            sender: columns.parsed(ReversePath::parse)?,
            domain: columns.domain()?,
            recipients,
            size: columns.octets()?,
            accepted_at: columns.time()?,
            due_at: columns.time()?,
            attempts: columns.count()?,
            in_doubt: columns.next()?,
            last: columns.next::<Option<String>>()?.or(last),
        })
    })
}

pub(super) fn count(db: &Connection, filter: &ListFilter) -> Result<u64, Failure> {
    let counts = query(filter, "count(*)").rows(db, ("", None), |row| Columns::of(row).octets())?;
    Ok(counts.into_iter().sum())
}

fn query(filter: &ListFilter, columns: &str) -> Query {
    // CROSS JOIN keeps the order of the tables: unfinished messages first, by an index that holds nothing else.
    let from = if filter.ids.is_empty() { "messages m INDEXED BY messages_open" } else { "messages m" };
    let mut query = Query::new(format!(
        "SELECT {columns} FROM {from} CROSS JOIN copies c ON {COPIES_OF_MESSAGE} WHERE m.finished_at IS NULL AND c.state < 3"
    ));
    if !filter.ids.is_empty() {
        // As one JSON array: a list of parameters has a limit.
        let ids: Vec<String> = filter.ids.iter().map(|id| hex(&id.to_bytes())).collect();
        query.and("m.id IN (SELECT unhex(value) FROM json_each(?))", serde_json::Value::from(ids).to_string());
    }
    if let Some(from) = &filter.from {
        query.and("m.sender LIKE ? ESCAPE '\\'", like(from));
    }
    if let Some(domain) = &filter.domain {
        query.and("c.domain LIKE ? ESCAPE '\\'", like(domain));
    }
    if let Some(site) = &filter.site {
        query.and("c.site = (SELECT s.id FROM sites s WHERE s.name = ?)", site.clone());
    }
    if let Some(tag) = &filter.tag {
        query.and("m.tag LIKE ? ESCAPE '\\'", tag_like(tag));
    }
    if let Some(message_id) = &filter.message_id {
        query.and("m.message_id LIKE ? ESCAPE '\\'", like_text(&in_brackets(message_id)));
    }
    if let Some(state) = filter.state {
        query.and(&format!("{STATE_COLUMN} = ?"), state_code(state));
    }
    if let Some(since) = filter.since {
        query.and("m.accepted_at >= ?", millis(since));
    }
    if let Some(until) = filter.until {
        query.and("m.accepted_at < ?", millis(until));
    }
    if let Some(to) = &filter.to {
        query.and(
            &format!("EXISTS (SELECT 1 FROM recipients r WHERE {RECIPIENTS_OF_COPY} AND r.state = 0 AND r.address LIKE ? ESCAPE '\\')"),
            like(to),
        );
    }
    query
}

/// The recipients that wait, and the newest text about them.
fn waiting(db: &Connection, copy: CopyId) -> rusqlite::Result<(Vec<Address>, Option<String>)> {
    let mut statement =
        db.prepare_cached(&format!("SELECT address, outcome_at, text FROM recipients WHERE {OF_COPY} AND state = 0 ORDER BY id"))?;
    let mut rows = statement.query([copy.0])?;
    let (mut addresses, mut newest) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        addresses.push(columns.address()?);
        if let Some(at) = columns.next::<Option<i64>>()? {
            newest = newest.into_iter().chain([(at, columns.next::<String>()?)]).reduce(|a, b| if b.0 > a.0 { b } else { a });
        }
    }
    Ok((addresses, newest.map(|(_, text)| text)))
}

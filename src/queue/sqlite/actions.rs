//! What administrators do: takes selections and orders, hands on what became of each copy. An order and its record are one transaction, and
//! a copy whose attempt is under way is never touched: its outcome decides first.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::convert::{
    COPIES_OF_MESSAGE, Columns, OF_COPY, RECIPIENTS_OF_COPY, STATE_COLUMN, done_action, done_action_code, millis, state, state_code,
};
use super::failure::Failure;
use super::pattern::like;
use super::settle::Settling;
use super::{read, upkeep};
use crate::message::{Address, Domain, ReversePath};
use crate::queue::{Acted, Action, ActionRow, Acts, CopyId, CopyState, Done, Order, PausedSite, RecipientId, Selected, Selection};

/// Open copies that are selected, in the order of their ids, from after `after` on: at most `limit`.
pub(super) fn select(db: &Connection, selection: &Selection, after: CopyId, limit: i64) -> Result<Vec<Selected>, Failure> {
    // CROSS JOIN keeps the order of the tables. Without ids the copies come by their key, which is the order that the pages need.
    let from = if selection.ids.is_empty() {
        "copies c CROSS JOIN messages m ON m.seq = c.message".to_owned()
    } else {
        format!("messages m CROSS JOIN copies c ON {COPIES_OF_MESSAGE}")
    };
    let mut sql = format!("SELECT c.id, (SELECT s.name FROM sites s WHERE s.id = c.site) FROM {from} WHERE c.state < 3 AND c.id > ?");
    let mut values = vec![Value::Integer(after.0)];
    let mut and = |term: &str, value: Value| {
        sql.push_str(" AND ");
        sql.push_str(term);
        values.push(value);
    };
    if !selection.ids.is_empty() {
        // As one JSON array: a list of parameters has a limit.
        let ids: Vec<String> = selection.ids.iter().map(|id| super::inspect::hex(&id.to_bytes())).collect();
        and("m.id IN (SELECT unhex(value) FROM json_each(?))", serde_json::Value::from(ids).to_string().into());
    }
    if let Some(sender) = &selection.sender {
        and("m.sender LIKE ? ESCAPE '\\'", like(sender).into());
    }
    if let Some(domain) = &selection.domain {
        and("c.domain LIKE ? ESCAPE '\\'", like(domain).into());
    }
    if let Some(older_than) = selection.older_than {
        and("m.accepted_at < ?", millis(older_than).into());
    }
    if let Some(tag) = &selection.tag {
        and("m.tag LIKE ? ESCAPE '\\'", tag_like(tag).into());
    }
    if let Some(recipient) = &selection.recipient {
        let term =
            format!("EXISTS (SELECT 1 FROM recipients r WHERE {RECIPIENTS_OF_COPY} AND r.state = 0 AND r.address LIKE ? ESCAPE '\\')");
        and(&term, like(recipient).into());
    }
    if let Some(site) = &selection.site {
        let waiting: Vec<i64> = selection.at_site.iter().map(|copy| copy.0).collect();
        and(
            "(c.id IN (SELECT value FROM json_each(?)) OR (c.site IS NULL AND c.domain IN (SELECT value FROM json_each(?)))
              OR c.site = (SELECT s.id FROM sites s WHERE s.name = ?))",
            serde_json::Value::from(waiting).to_string().into(),
        );
        let domains: Vec<&str> = selection.of_site.iter().map(Domain::as_str).collect();
        values.push(serde_json::Value::from(domains).to_string().into());
        values.push(site.clone().into());
    }
    sql.push_str(" ORDER BY c.id LIMIT ?");
    values.push(limit.into());
    let mut statement = db.prepare(&sql)?;
    let selected = statement.query_map(params_from_iter(values), |row| Ok(Selected { copy: CopyId(row.get(0)?), site: row.get(1)? }))?;
    Ok(selected.collect::<Result<_, _>>()?)
}

/// Domains of open copies of which no site is recorded: at most `limit`.
pub(super) fn unplaced_domains(db: &Connection, limit: i64) -> Result<Vec<Domain>, Failure> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT DISTINCT c.domain FROM messages m INDEXED BY messages_open CROSS JOIN copies c ON {COPIES_OF_MESSAGE}
         WHERE m.finished_at IS NULL AND c.state < 3 AND c.site IS NULL LIMIT ?1"
    ))?;
    let domains = statement.query_map([limit], |row| Columns::of(row).domain())?.collect::<Result<_, _>>()?;
    Ok(domains)
}

/// A tag is no address: nothing in it is a domain.
pub(super) fn tag_like(pattern: &str) -> String {
    pattern.chars().fold(String::new(), |mut like, c| {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', c]),
            _ => like.push(c),
        }
        like
    })
}

/// Carries an order out for these copies, or for those of their waiting recipients that are like `recipient`.
pub(super) fn act(db: &Connection, copies: &[CopyId], recipient: Option<&str>, order: &Order) -> Result<Acts, Failure> {
    let mut acts = Acts::default();
    let recipient = recipient.map(like);
    for &copy in copies {
        if let Some(acted) = act_on(db, copy, recipient.as_deref(), order, &mut acts)? {
            acts.acted.push(acted);
        }
    }
    Ok(acts)
}

/// `None`: there is no such copy, or nobody in it waits who was meant.
fn act_on(db: &Connection, copy: CopyId, recipient: Option<&str>, order: &Order, acts: &mut Acts) -> Result<Option<Acted>, Failure> {
    let found = db
        .prepare_cached(&format!(
            "SELECT {STATE_COLUMN}, c.due_at, m.id, c.domain, m.sender FROM copies c JOIN messages m ON m.seq = c.message WHERE c.id = ?1"
        ))?
        .query_row([copy.0], |row| {
            let mut columns = Columns::of(row);
            let (state, due_at): (CopyState, i64) = (columns.coded(state)?, columns.next()?);
            Ok((state, due_at, columns.message_id()?, columns.domain()?, columns.parsed(ReversePath::parse)?))
        })
        .optional()?;
    let Some((state, due_at, message, domain, sender)) = found else { return Ok(None) };
    let (meant, all) = meant(db, copy, recipient)?;
    let recipients: Vec<Address> = meant.iter().map(|(_, address)| address.clone()).collect();
    let mut acted = Acted { copy, from: copy, message, domain, recipients, done: Done::Finished };
    if state == CopyState::Finished {
        return Ok(Some(acted));
    }
    if meant.is_empty() {
        return Ok(None);
    }
    acted.done = match (order.action, state) {
        (_, CopyState::Sending) => Done::BeingSent,
        (Action::Bounce, _) if sender == ReversePath::Null => Done::NoSender,
        (Action::Retry, CopyState::Held) => Done::OnHold,
        (Action::Retry, _) if due_at <= millis(order.at) => Done::Already,
        (Action::Hold, CopyState::Held) => Done::Already,
        (Action::Release, CopyState::Queued) => Done::NotHeld,
        _ => Done::Done,
    };
    if acted.done != Done::Done {
        return Ok(Some(acted));
    }
    if meant.len() < all {
        let ids: Vec<RecipientId> = meant.iter().map(|(id, _)| *id).collect();
        acted.copy = upkeep::split(db, copy, &ids)?.id;
    }
    match order.action {
        Action::Retry => set_due(db, acted.copy, millis(order.at))?,
        Action::Release => release(db, acted.copy, millis(order.at))?,
        Action::Hold => hold(db, acted.copy, &order.reason)?,
        Action::Bounce | Action::Remove => {
            let settlement = (order.verdict)(&read::copy_by_id(db, acted.copy)?);
            acts.finished.extend(Settling::new(db)?.conclude(&settlement)?);
        }
    }
    note(db, &acted, order)?;
    Ok(Some(acted))
}

/// The waiting recipients that are meant, and how many wait in all.
fn meant(db: &Connection, copy: CopyId, recipient: Option<&str>) -> rusqlite::Result<(Vec<(RecipientId, Address)>, usize)> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, address, ?2 IS NULL OR address LIKE ?2 ESCAPE '\\' FROM recipients WHERE {OF_COPY} AND state = 0 ORDER BY id"
    ))?;
    let mut rows = statement.query(params![copy.0, recipient])?;
    let (mut meant, mut all) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        all += 1;
        let found = (RecipientId(columns.next()?), columns.address()?);
        if columns.next()? {
            meant.push(found);
        }
    }
    Ok((meant, all))
}

fn set_due(db: &Connection, copy: CopyId, at: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE copies SET due_at = ?2 WHERE id = ?1")?.execute((copy.0, at)).map(drop)
}

/// From here on no override holds it, or it would be on hold again at once.
fn release(db: &Connection, copy: CopyId, at: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE copies SET state = ?2, due_at = ?3, hold_reason = NULL, released = 1 WHERE id = ?1")?
        .execute((copy.0, state_code(CopyState::Queued), at))
        .map(drop)
}

fn hold(db: &Connection, copy: CopyId, reason: &str) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE copies SET state = ?2, hold_reason = ?3, released = 0 WHERE id = ?1")?
        .execute((copy.0, state_code(CopyState::Held), reason))
        .map(drop)
}

/// For the history.
fn note(db: &Connection, acted: &Acted, order: &Order) -> rusqlite::Result<()> {
    let recipients = serde_json::Value::from(acted.recipients.iter().map(Address::to_string).collect::<Vec<_>>()).to_string();
    db.prepare_cached("INSERT INTO actions (copy, at, action, by, reason, recipients) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![acted.copy.0, millis(order.at), done_action_code(order.action), order.by, order.reason, recipients])
        .map(drop)
}

/// What was done to copies of a message, oldest first.
pub(super) fn history(db: &Connection, copies: &std::ops::Range<i64>) -> rusqlite::Result<Vec<ActionRow>> {
    let mut statement =
        db.prepare_cached("SELECT copy, at, action, by, reason, recipients FROM actions WHERE copy >= ?1 AND copy < ?2 ORDER BY at, id")?;
    let rows = statement.query_map((copies.start, copies.end), |row| {
        let mut columns = Columns::of(row);
        Ok(ActionRow {
            copy: CopyId(columns.next()?),
            at: columns.time()?,
            action: columns.coded(done_action)?,
            by: columns.next()?,
            reason: columns.next()?,
            recipients: columns.parsed(|text| serde_json::from_str(text))?,
        })
    })?;
    rows.collect()
}

pub(super) fn paused(db: &Connection) -> Result<Vec<PausedSite>, Failure> {
    let mut statement = db.prepare_cached("SELECT site, reason, by, since FROM paused_sites ORDER BY site")?;
    let sites = statement.query_map([], |row| {
        let mut columns = Columns::of(row);
        Ok(PausedSite { site: columns.next()?, reason: columns.next()?, by: columns.next()?, since: columns.time()? })
    })?;
    Ok(sites.collect::<Result<_, _>>()?)
}

pub(super) fn pause(db: &Connection, site: &PausedSite) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO paused_sites (site, reason, by, since) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![site.site, site.reason, site.by, millis(site.since)])
        .map(drop)
}

pub(super) fn resume(db: &Connection, site: &str) -> rusqlite::Result<bool> {
    Ok(db.prepare_cached("DELETE FROM paused_sites WHERE site = ?1")?.execute([site])? > 0)
}

//! Acceptance: takes a new message, writes it with a copy per domain, hands on the copies.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::convert::{cuts_text, form_code, integer, millis, nanoseconds, notify_code, priority_code, ret_code, rounded, sql_count};
use super::failure::Failure;
use crate::message::{Domain, Recipient};
use crate::queue::{CopyId, Message, NewMessage, QueuedCopy, QueuedRecipient, RecipientId};

/// Copies that one message can have.
const COPIES: i64 = 1 << 20;

/// Rows that it takes, roughly.
pub(super) fn rows(message: &NewMessage) -> usize {
    2 + message.envelope.recipients.len()
}

/// Writes one message and adds its copies to `copies`, in the order of the domains' first appearance.
pub(super) fn accept(db: &Connection, new: &NewMessage, copies: &mut Vec<QueuedCopy>) -> Result<(), Failure> {
    let domains = by_domain(&new.envelope.recipients);
    if domains.is_empty() {
        return Err(Failure::refused(format!("message {} has no recipient", new.id)));
    }
    let seq = insert_message(db, new, domains.len())?;
    let message = Arc::new(Message {
        id: new.id,
        source: new.source.name.clone(),
        sender: new.envelope.sender.clone(),
        content: new.content.clone(),
        accepted_at: rounded(new.accepted_at),
        expires_at: rounded(new.expires_at),
        priority: new.envelope.priority,
        ret: new.envelope.ret,
        envid: new.envelope.envid.clone(),
        tag: new.envelope.tag.clone(),
    });
    if sql_count(domains.len()) > COPIES {
        return Err(Failure::refused(format!("message {} has recipients in more than {COPIES} domains", new.id)));
    }
    for (copy, (domain, recipients)) in copy_ids(seq).zip(domains) {
        copies.push(insert_copy(db, new, (seq, &message), copy, (domain, &recipients))?);
    }
    Ok(())
}

/// Recipients grouped by domain, each group at the place of its first member.
fn by_domain(recipients: &[Recipient]) -> Vec<(&Domain, Vec<&Recipient>)> {
    let mut groups: Vec<(&Domain, Vec<&Recipient>)> = Vec::new();
    if let [only] = recipients {
        return vec![(only.address.domain(), vec![only])];
    }
    let mut places = HashMap::new();
    for recipient in recipients {
        let domain = recipient.address.domain();
        let place = *places.entry(domain).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, group)) => group.push(recipient),
            None => groups.push((domain, vec![recipient])),
        }
    }
    groups
}

fn insert_message(db: &Connection, new: &NewMessage, copies: usize) -> rusqlite::Result<i64> {
    let NewMessage { envelope, content, source, .. } = new;
    db.prepare_cached(
        "INSERT INTO messages (id, accepted_at, expires_at, open_copies, reports_due, delivered, failed, priority, ret, envid, tag, sender,
             source, source_inode, source_size, source_modified, file_size, wire_size, form, hops, message_id, cuts, prepend)
         VALUES (?1, ?2, ?3, ?4, 0, 0, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?
    .insert(params![
        new.id.to_bytes(),
        millis(new.accepted_at),
        millis(new.expires_at),
        sql_count(copies),
        priority_code(envelope.priority),
        envelope.ret.map(ret_code),
        envelope.envid,
        envelope.tag,
        envelope.sender.to_string(),
        source.name,
        source.fingerprint.inode.cast_signed(),
        integer(source.fingerprint.size),
        nanoseconds(source.fingerprint.modified),
        integer(content.file_size),
        integer(content.wire_size),
        form_code(content),
        content.hops,
        content.message_id,
        cuts_text(&content.cuts),
        content.prepend,
    ])
}

/// The ids of a message's copies, as schema V2 has it.
pub(super) fn copy_ids(message: i64) -> Range<i64> {
    message * COPIES..(message + 1) * COPIES
}

fn insert_copy(
    db: &Connection,
    new: &NewMessage,
    (seq, message): (i64, &Arc<Message>),
    copy: i64,
    (domain, recipients): (&Domain, &[&Recipient]),
) -> rusqlite::Result<QueuedCopy> {
    // Nobody else writes, so that the ids that SQLite gives follow one another: the run that the copy's row names.
    let mut insert = db.prepare_cached("INSERT INTO recipients (copy, state, notify, address) VALUES (?1, 0, ?2, ?3)")?;
    let recipients = recipients.iter().map(|recipient| {
        let id = insert.insert(params![copy, notify_code(recipient.notify), recipient.address.to_string()])?;
        Ok(QueuedRecipient { id: RecipientId(id), address: recipient.address.clone(), notify: recipient.notify, last: None })
    });
    let recipients = recipients.collect::<rusqlite::Result<Vec<_>>>()?;
    let due_at = rounded(new.envelope.not_before.unwrap_or(new.accepted_at));
    db.prepare_cached(
        "INSERT INTO copies (id, message, state, priority, due_at, expires_at, open_recipients, attempts, warned, in_doubt,
             first_recipient, last_recipient, domain)
         VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, ?8, ?9)",
    )?
    .execute(params![
        copy,
        seq,
        priority_code(message.priority),
        millis(due_at),
        millis(message.expires_at),
        sql_count(recipients.len()),
        recipients.first().map(|recipient| recipient.id.0),
        recipients.last().map(|recipient| recipient.id.0),
        domain.as_str()
    ])?;
    Ok(QueuedCopy {
        id: CopyId(copy),
        message: Arc::clone(message),
        domain: domain.clone(),
        recipients,
        due_at,
        attempts: 0,
        first_failed_at: None,
        warned: false,
        released: false,
    })
}

//! What programs read: takes rows of the queue, hands on objects whose field names stay as they are. Times are RFC 3339, sizes octets,
//! delays seconds; what is not known is null, and a recipient that was not tried yet has no outcome. An empty `from` is the null sender.

use serde::Serialize;

use super::ret_word;
use crate::clock::Timestamp;
use crate::control::{AttemptLine, LastOutcome};
use crate::message::{Address, Recipient};
use crate::outcome::Outcome;
use crate::queue::{ActionRow, ByState, CopyDetail, CopyRow, Counts, MessageDetail};

/// RFC 3339.
fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

#[derive(Serialize)]
pub(super) struct JsonCopy {
    id: String,
    copy: i64,
    state: &'static str,
    priority: &'static str,
    from: String,
    domain: String,
    to: Vec<String>,
    size: u64,
    accepted_at: String,
    due_at: String,
    attempts: u32,
    in_doubt: bool,
    last: Option<String>,
    /// For --after.
    cursor: String,
}

/// How many.
#[derive(Serialize)]
pub(super) struct JsonCopies {
    pub(super) copies: u64,
}

impl JsonCopy {
    pub(super) fn of(row: &CopyRow) -> Self {
        Self {
            id: row.message.to_string(),
            copy: row.copy.0,
            state: row.state.as_str(),
            priority: row.priority.as_str(),
            from: row.sender.to_string(),
            domain: row.domain.to_string(),
            to: row.recipients.iter().map(Address::to_string).collect(),
            size: row.size,
            accepted_at: row.accepted_at.to_string(),
            due_at: row.due_at.to_string(),
            attempts: row.attempts,
            in_doubt: row.in_doubt,
            last: row.last.clone(),
            cursor: row.place().to_string(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct JsonCounts {
    messages: u64,
    due: u64,
    waiting: u64,
    sending: u64,
    held: u64,
    recipients: u64,
    in_doubt: u64,
    octets: u64,
    oldest: Option<String>,
}

impl JsonCounts {
    pub(super) fn of(counts: &Counts) -> Self {
        let ByState { due, waiting, sending, held } = counts.by_state();
        let Counts { messages, by_age: _, recipients, in_doubt, octets, oldest } = *counts;
        Self { messages, due, waiting, sending, held, recipients, in_doubt, octets, oldest: time(oldest) }
    }
}

#[derive(Serialize)]
pub(super) struct JsonMessage<'a> {
    id: String,
    from: String,
    source: &'a str,
    message_id: Option<&'a str>,
    size: u64,
    accepted_at: String,
    expires_at: String,
    finished_at: Option<String>,
    priority: &'static str,
    ret: Option<&'static str>,
    envid: Option<&'a str>,
    tag: Option<&'a str>,
    copies: Vec<JsonCopyDetail<'a>>,
    actions: Vec<JsonAction<'a>>,
}

impl<'a> JsonMessage<'a> {
    pub(super) fn of(detail: &'a MessageDetail) -> Self {
        let message = &detail.message;
        Self {
            id: message.id.to_string(),
            from: message.sender.to_string(),
            source: &message.source,
            message_id: message.content.message_id.as_deref(),
            size: message.content.wire_size,
            accepted_at: message.accepted_at.to_string(),
            expires_at: message.expires_at.to_string(),
            finished_at: time(detail.finished_at),
            priority: message.priority.as_str(),
            ret: message.ret.map(ret_word),
            envid: message.envid.as_deref(),
            tag: message.tag.as_deref(),
            copies: detail.copies.iter().map(JsonCopyDetail::of).collect(),
            actions: detail.actions.iter().map(JsonAction::of).collect(),
        }
    }
}

/// An administrator's order.
#[derive(Serialize)]
struct JsonAction<'a> {
    copy: i64,
    at: String,
    action: &'static str,
    by: &'a str,
    reason: &'a str,
    recipients: &'a [String],
}

impl<'a> JsonAction<'a> {
    fn of(row: &'a ActionRow) -> Self {
        let ActionRow { at, copy, action, by, reason, recipients } = row;
        Self { copy: copy.0, at: at.to_string(), action: action.as_str(), by, reason, recipients }
    }
}

#[derive(Serialize)]
struct JsonCopyDetail<'a> {
    copy: i64,
    domain: String,
    state: &'static str,
    due_at: String,
    attempts: u32,
    hold_reason: Option<&'a str>,
    recipients: Vec<JsonRecipient>,
    history: Vec<AttemptLine>,
}

impl<'a> JsonCopyDetail<'a> {
    fn of(copy: &'a CopyDetail) -> Self {
        Self {
            copy: copy.id.0,
            domain: copy.domain.to_string(),
            state: copy.state.as_str(),
            due_at: copy.due_at.to_string(),
            attempts: copy.attempts,
            hold_reason: copy.hold_reason.as_deref(),
            recipients: copy.recipients.iter().map(JsonRecipient::of).collect(),
            history: copy.history.iter().map(AttemptLine::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct JsonRecipient {
    to: String,
    notify: String,
    #[serde(flatten)]
    last: Option<LastOutcome>,
}

impl JsonRecipient {
    fn of((recipient, last): &(Recipient, Option<(Outcome, Timestamp)>)) -> Self {
        let last = last.as_ref().map(|(outcome, at)| LastOutcome::of(outcome, *at));
        Self { to: recipient.address.to_string(), notify: recipient.notify.to_string(), last }
    }
}

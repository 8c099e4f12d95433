//! `GET /v1/messages/{id}`: everything known of a message, joined with where it is now.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::copies::{self, MessageNow};
use super::router::Call;
use super::{Answer, Api, ApiError, time};
use crate::clock::Timestamp;
use crate::message::{MessageId, Recipient};
use crate::outcome::Outcome;
use crate::queue::{ActionRow, AttemptRecord, CopyDetail, Inspect, MessageDetail, StoreError};

/// What became of a recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct LastOutcome {
    pub outcome: String,
    pub at: String,
    pub dsn: String,
    pub code: Option<u16>,
    /// What the peer said behind it.
    pub reply: Option<String>,
    pub text: String,
    pub host: Option<String>,
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub tls: Option<String>,
    pub in_doubt: bool,
}

/// A message: how it came, what was tried, and where it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct MessageLine {
    pub id: String,
    pub from: String,
    pub source: String,
    pub size: u64,
    pub message_id: Option<String>,
    pub priority: String,
    pub tag: Option<String>,
    pub accepted_at: String,
    pub expires_at: String,
    pub finished_at: Option<String>,
    pub copies: Vec<CopyLine>,
    pub actions: Vec<ActionLine>,
    /// The same copies at this moment.
    pub now: MessageNow,
}

/// A copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct CopyLine {
    pub copy: i64,
    pub domain: String,
    pub state: String,
    pub due_at: String,
    pub attempts: u32,
    pub hold_reason: Option<String>,
    pub recipients: Vec<RecipientLine>,
    pub history: Vec<AttemptLine>,
}

/// A recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct RecipientLine {
    pub to: String,
    pub notify: String,
    pub last: Option<LastOutcome>,
}

/// An attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct AttemptLine {
    pub attempt: u32,
    pub began_at: String,
    pub ended_at: String,
    pub site: String,
    pub route: String,
    pub delays: DelaysLine,
    pub trail: Vec<String>,
}

/// Where its time went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct DelaysLine {
    pub queue: f64,
    pub dns: f64,
    pub connect: f64,
    pub handshake: f64,
    pub transfer: f64,
}

/// What an administrator did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct ActionLine {
    pub at: String,
    pub copy: i64,
    pub action: String,
    pub by: String,
    pub reason: String,
    pub to: Vec<String>,
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let detail = api.message(&call).await?;
    let now = copies::message(&api.context(), &detail);
    Answer::json(&MessageLine::of(&detail, now))
}

/// A message's id, as it is written.
pub(super) fn id(text: &str) -> Result<MessageId, ApiError> {
    text.parse().map_err(|_| ApiError::Invalid(format!("{text:?} is no id of a message")))
}

impl Api {
    /// The message that the path names.
    pub(super) async fn message(&self, call: &Call) -> Result<MessageDetail, ApiError> {
        let id = id(call.parameter())?;
        let detail: Result<_, StoreError> = self.read(move |queue: &(dyn Inspect + Send)| queue.show(id)).await;
        detail?.ok_or_else(|| ApiError::NotFound(format!("there is no message {id}")))
    }
}

impl LastOutcome {
    /// As it is kept.
    pub fn of(outcome: &Outcome, at: Timestamp) -> Self {
        let peer = outcome.peer.as_deref();
        Self {
            outcome: outcome.kind.as_str().to_owned(),
            at: time(at),
            dsn: outcome.status.to_string(),
            code: outcome.reply.as_ref().map(crate::smtp::Reply::code),
            reply: outcome.reply.as_ref().map(|reply| reply.text().to_owned()),
            text: outcome.text.clone(),
            host: peer.map(|peer| peer.host.to_string()),
            ip: peer.map(|peer| peer.address.ip().to_string()),
            port: peer.map(|peer| peer.address.port()),
            tls: peer.and_then(|peer| peer.tls.as_ref().map(ToString::to_string)),
            in_doubt: outcome.in_doubt,
        }
    }
}

impl MessageLine {
    fn of(detail: &MessageDetail, now: MessageNow) -> Self {
        let message = &detail.message;
        Self {
            id: message.id.to_string(),
            from: message.sender.to_string(),
            source: message.source.clone(),
            size: message.content.wire_size,
            message_id: message.content.message_id.as_deref().map(str::to_owned),
            priority: message.priority.as_str().to_owned(),
            tag: message.tag.clone(),
            accepted_at: time(message.accepted_at),
            expires_at: time(message.expires_at),
            finished_at: detail.finished_at.map(time),
            copies: detail.copies.iter().map(CopyLine::from).collect(),
            actions: detail.actions.iter().map(ActionLine::from).collect(),
            now,
        }
    }
}

impl From<&CopyDetail> for CopyLine {
    fn from(copy: &CopyDetail) -> Self {
        Self {
            copy: copy.id.0,
            domain: copy.domain.to_string(),
            state: copy.state.as_str().to_owned(),
            due_at: time(copy.due_at),
            attempts: copy.attempts,
            hold_reason: copy.hold_reason.clone(),
            recipients: copy.recipients.iter().map(RecipientLine::of).collect(),
            history: copy.history.iter().map(AttemptLine::from).collect(),
        }
    }
}

impl RecipientLine {
    fn of((recipient, last): &(Recipient, Option<(Outcome, Timestamp)>)) -> Self {
        let last = last.as_ref().map(|(outcome, at)| LastOutcome::of(outcome, *at));
        Self { to: recipient.address.to_string(), notify: recipient.notify.to_string(), last }
    }
}

impl From<&AttemptRecord> for AttemptLine {
    fn from(attempt: &AttemptRecord) -> Self {
        let delays = attempt.delays;
        Self {
            attempt: attempt.number,
            began_at: time(attempt.began_at),
            ended_at: time(attempt.ended_at),
            site: attempt.site.clone(),
            route: attempt.route.clone(),
            delays: DelaysLine {
                queue: delays.queue.as_secs_f64(),
                dns: delays.dns.as_secs_f64(),
                connect: delays.connect.as_secs_f64(),
                handshake: delays.handshake.as_secs_f64(),
                transfer: delays.transfer.as_secs_f64(),
            },
            trail: attempt.trail.clone(),
        }
    }
}

impl From<&ActionRow> for ActionLine {
    fn from(row: &ActionRow) -> Self {
        Self {
            at: time(row.at),
            copy: row.copy.0,
            action: row.action.as_str().to_owned(),
            by: row.by.clone(),
            reason: row.reason.clone(),
            to: row.recipients.clone(),
        }
    }
}

//! `GET /v1/queue`, `/v1/history`: takes the filters that `queue list` and `history` have, hands on a page of what they list, and how many
//! there are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::messages::{LastOutcome, id};
use super::query::Query;
use super::router::Call;
use super::{Answer, Api, ApiError, time};
use crate::clock::Timestamp;
use crate::config::When;
use crate::message::Address;
use crate::queue::{CopyRow, HistoryFilter, HistoryRow, Inspect, ListFilter};

/// Lines of an answer where the request says nothing, and at most.
const LINES: usize = 100;
const MAX_LINES: usize = 1000;

/// What the queue is searched by.
pub(super) const OF_QUEUE: &[&str] =
    &["id", "to", "from", "domain", "site", "tag", "message_id", "state", "since", "until", "older_than", "limit", "cursor", "count"];
/// What the history is searched by.
pub(super) const OF_HISTORY: &[&str] =
    &["id", "to", "from", "domain", "message_id", "since", "until", "outcome", "in_doubt", "limit", "cursor", "count"];

/// Copies that wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueList {
    pub copies: Vec<QueueCopy>,
    pub more: bool,
    /// Set if there is more: `cursor` of the page after this one.
    pub next: Option<String>,
    /// Set if it was asked for.
    pub count: Option<u64>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueCopy {
    pub id: String,
    pub copy: i64,
    pub state: String,
    pub priority: String,
    pub from: String,
    pub domain: String,
    pub to: Vec<String>,
    pub size: u64,
    pub accepted_at: String,
    pub due_at: String,
    pub attempts: u32,
    pub in_doubt: bool,
    pub last: Option<String>,
}

/// Final outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct HistoryList {
    pub outcomes: Vec<HistoryLine>,
    pub more: bool,
    /// Set if there is more: `cursor` of the page after this one.
    pub next: Option<String>,
    /// Set if it was asked for.
    pub count: Option<u64>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct HistoryLine {
    pub id: String,
    pub from: String,
    pub to: String,
    pub message_id: Option<String>,
    pub accepted_at: String,
    pub attempts: u32,
    #[serde(flatten)]
    pub outcome: LastOutcome,
}

pub(super) async fn queue(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let (query, now) = (call.query(), api.context().clock.now());
    let (until, older_than) = (time_at(query, "until", now)?, time_at(query, "older_than", now)?);
    if until.is_some() && older_than.is_some() {
        return Err(ApiError::Invalid("older_than: it says the same as until; only one of them is wanted".to_owned()));
    }
    let filter = ListFilter {
        ids: query.value("id").map(id).transpose()?.into_iter().collect(),
        to: query.text("to"),
        from: query.text("from"),
        domain: query.text("domain"),
        site: query.text("site"),
        tag: query.text("tag"),
        message_id: query.text("message_id"),
        state: query.parsed("state")?,
        since: time_at(query, "since", now)?,
        until: until.or(older_than),
        after: query.parsed("cursor")?,
        limit: Some(limit(query)?),
    };
    let counting = is_set(query, "count")?;
    let list = api.read(move |queue: &(dyn Inspect + Send)| {
        let page = queue.list_page(&filter)?;
        let count = counting.then(|| queue.count_list(&filter)).transpose()?;
        let next = page.next().map(|next| next.to_string());
        Ok(QueueList { copies: page.rows.iter().map(QueueCopy::from).collect(), more: page.more, next, count })
    });
    Answer::json(&list.await?)
}

pub(super) async fn history(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let (query, now) = (call.query(), api.context().clock.now());
    let filter = HistoryFilter {
        id: query.value("id").map(id).transpose()?,
        to: query.text("to"),
        from: query.text("from"),
        domain: query.text("domain"),
        message_id: query.text("message_id"),
        since: time_at(query, "since", now)?,
        until: time_at(query, "until", now)?,
        ending: query.parsed("outcome")?,
        in_doubt: is_set(query, "in_doubt")?,
        before: query.parsed("cursor")?,
        limit: Some(limit(query)?),
    };
    let counting = is_set(query, "count")?;
    let list = api.read(move |queue: &(dyn Inspect + Send)| {
        let page = queue.history_page(&filter)?;
        let count = counting.then(|| queue.count_history(&filter)).transpose()?;
        let next = page.next().map(|next| next.to_string());
        Ok(HistoryList { outcomes: page.rows.iter().map(HistoryLine::from).collect(), more: page.more, next, count })
    });
    Answer::json(&list.await?)
}

/// `limit=`, within what an answer may have.
fn limit(query: &Query) -> Result<usize, ApiError> {
    match query.value("limit").map(str::parse::<usize>) {
        None => Ok(LINES),
        Some(Ok(limit)) if (1..=MAX_LINES).contains(&limit) => Ok(limit),
        Some(_) => Err(ApiError::Invalid(format!("limit: a number from 1 to {MAX_LINES} is wanted"))),
    }
}

/// `true` or `false`.
fn is_set(query: &Query, name: &str) -> Result<bool, ApiError> {
    Ok(query.parsed(name)?.unwrap_or(false))
}

/// A time as on the command line, or as everywhere here: a number of seconds, as the time that lies so far back.
fn time_at(query: &Query, name: &str, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.value(name) else { return Ok(None) };
    let when = match text.parse::<u32>() {
        Ok(seconds) => When::Ago(std::time::Duration::from_secs(seconds.into())),
        Err(_) => text.parse().map_err(|error| ApiError::Invalid(format!("{name}={text}: {error}, or as a number of seconds")))?,
    };
    Ok(Some(when.from(now)))
}

impl From<&CopyRow> for QueueCopy {
    fn from(row: &CopyRow) -> Self {
        Self {
            id: row.message.to_string(),
            copy: row.copy.0,
            state: row.state.as_str().to_owned(),
            priority: row.priority.as_str().to_owned(),
            from: row.sender.to_string(),
            domain: row.domain.to_string(),
            to: row.recipients.iter().map(Address::to_string).collect(),
            size: row.size,
            accepted_at: time(row.accepted_at),
            due_at: time(row.due_at),
            attempts: row.attempts,
            in_doubt: row.in_doubt,
            last: row.last.clone(),
        }
    }
}

impl From<&HistoryRow> for HistoryLine {
    fn from(row: &HistoryRow) -> Self {
        Self {
            id: row.message.to_string(),
            from: row.sender.to_string(),
            to: row.recipient.to_string(),
            message_id: row.message_id.clone(),
            accepted_at: time(row.accepted_at),
            attempts: row.attempts,
            outcome: LastOutcome::of(&row.outcome, row.at),
        }
    }
}

//! `POST /v1/queue/{action}`: retry, hold, release, bounce, remove.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::messages::id;
use super::router::Call;
use super::sites::reason;
use super::{Answer, Api, ApiError};
use crate::delivery::{self, Administered, Command};
use crate::message::{Address, MessageId};
use crate::queue::{Acted, Action, Done, Selection};

/// Lines of an answer: beyond that they are counted only.
const LINES: usize = 10_000;

/// What to do it to, and why. At least one condition, all of which must hold, or `all`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
#[serde(deny_unknown_fields)]
pub struct QueueAction {
    #[serde(default)]
    pub ids: Vec<String>,
    #[serde(default)]
    pub recipient: Option<String>,
    #[serde(default)]
    pub sender: Option<String>,
    #[serde(default)]
    pub domain: Option<String>,
    #[serde(default)]
    pub site: Option<String>,
    /// Seconds.
    #[serde(default)]
    pub older_than: Option<f64>,
    #[serde(default)]
    pub tag: Option<String>,
    #[serde(default)]
    pub all: bool,
    /// For log, history and report.
    #[serde(default)]
    pub reason: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueActionResult {
    pub action: String,
    /// Copies that it was done to, their recipients, and messages that are finished by it.
    pub copies: u64,
    pub recipients: u64,
    pub finished: u64,
    /// How often which result.
    pub counts: BTreeMap<String, u64>,
    /// At most 10,000; `omitted` more.
    pub results: Vec<QueueResult>,
    pub omitted: u64,
}

/// What became of one copy, or of an id without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueResult {
    pub id: String,
    pub copy: Option<i64>,
    pub domain: Option<String>,
    pub to: Vec<String>,
    /// `done`, `already`, `being-sent`, `on-hold`, `not-held`, `no-sender`, `finished`, `unknown`.
    pub result: String,
    /// The same for people.
    pub text: String,
}

pub(super) async fn act(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let word = call.parameter();
    let action = Action::ALL.into_iter().find(|action| action.as_str() == word);
    let action = action.ok_or_else(|| ApiError::NotFound(format!("nothing called {word:?} can be done to the queue")))?;
    let body: QueueAction = call.body()?;
    let context = api.context();
    let mut selection = selection(&body, context.clock.now())?;
    if let Some(name) = &selection.site {
        selection.site = Some(api.meant(name, &context).await?.to_string());
    }
    let ids = selection.ids.clone();
    let command = Command { action, reason: reason(body.reason, "no reason given")?, by: call.by() };
    let administered = {
        let context = context.clone();
        api.carry_out(async move { delivery::administer(&context, selection, command).await }).await??
    };
    let mut result = result(action, administered);
    let named: HashSet<&str> = result.results.iter().map(|line| line.id.as_str()).collect();
    let missing: Vec<MessageId> = ids.into_iter().filter(|id| !named.contains(id.to_string().as_str())).collect();
    if !missing.is_empty() && result.omitted == 0 {
        let known = context.store.known_ids(missing.clone()).await?;
        for (id, known) in missing.into_iter().zip(known) {
            let (word, text) = match known {
                None => ("unknown", "there is no such message".to_owned()),
                Some(known) if known.finished_at.is_some() => (Done::Finished.as_str(), text(Done::Finished, action)),
                Some(_) => ("not-selected", "the other conditions do not hold for it".to_owned()),
            };
            *result.counts.entry(word.to_owned()).or_default() += 1;
            result.results.push(QueueResult {
                id: id.to_string(),
                copy: None,
                domain: None,
                to: Vec::new(),
                result: word.to_owned(),
                text,
            });
        }
    }
    Answer::json(&result)
}

fn selection(body: &QueueAction, now: crate::clock::Timestamp) -> Result<Selection, ApiError> {
    let QueueAction { ids, recipient, sender, domain, site, older_than, tag, all, .. } = body;
    let conditions = [recipient, sender, domain, site, tag].into_iter().flatten().count() + usize::from(older_than.is_some());
    match (conditions + ids.len(), all) {
        (0, false) => return Err(ApiError::Invalid("which copies? At least one condition is wanted, or \"all\": true".to_owned())),
        (1.., true) => return Err(ApiError::Invalid("\"all\" goes with no condition".to_owned())),
        _ => {}
    }
    if [recipient, sender, domain, site, tag].into_iter().flatten().any(String::is_empty) {
        return Err(ApiError::Invalid("an empty condition holds for nothing (\"<>\" is the null sender)".to_owned()));
    }
    let ids = ids.iter().map(|text| id(text));
    let older_than = older_than.map(|seconds| {
        let age = Duration::try_from_secs_f64(seconds)
            .map_err(|_| ApiError::Invalid(format!("older_than: {seconds} is no number of seconds")))?;
        Ok::<_, ApiError>(now.checked_sub(age).unwrap_or(crate::clock::Timestamp::MIN))
    });
    Ok(Selection {
        ids: ids.collect::<Result<_, _>>()?,
        recipient: recipient.clone(),
        sender: sender.clone(),
        domain: domain.clone(),
        site: site.clone(),
        older_than: older_than.transpose()?,
        tag: tag.clone(),
        ..Selection::default()
    })
}

fn result(action: Action, administered: Administered) -> QueueActionResult {
    let Administered { acted, finished } = administered;
    let done = || acted.iter().filter(|acted| acted.done == Done::Done);
    let mut counts = BTreeMap::new();
    for acted in &acted {
        *counts.entry(acted.done.as_str().to_owned()).or_default() += 1;
    }
    QueueActionResult {
        action: action.as_str().to_owned(),
        copies: done().count() as u64,
        recipients: done().map(|acted| acted.recipients.len() as u64).sum(),
        finished: finished as u64,
        counts,
        omitted: acted.len().saturating_sub(LINES) as u64,
        results: acted.into_iter().take(LINES).map(|acted| line(action, acted)).collect(),
    }
}

fn line(action: Action, acted: Acted) -> QueueResult {
    QueueResult {
        id: acted.message.to_string(),
        copy: Some(acted.copy.0),
        domain: Some(acted.domain.to_string()),
        to: acted.recipients.iter().map(Address::to_string).collect(),
        result: acted.done.as_str().to_owned(),
        text: text(acted.done, action),
    }
}

fn text(done: Done, action: Action) -> String {
    match (done, action) {
        (Done::Done, _) => action.done(),
        (Done::Already, Action::Retry) => "is due already",
        (Done::Already, _) => "is on hold already",
        (Done::BeingSent, _) => "is being sent: try again when the attempt has ended",
        (Done::OnHold, _) => "is on hold: release it",
        (Done::NotHeld, _) => "is not on hold",
        (Done::NoSender, _) => "has the null sender, whom nothing can be returned to: remove it, or let it expire",
        (Done::Finished, _) => "has ended already",
    }
    .to_owned()
}

//! What goes over the wire of a copy's why: for programs by its fields, for people by its words. What does not apply is null.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{ActionLine, AttemptLine, LastOutcome};
use crate::delivery::live::LiveCopy;

/// A message, as far as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct MessageWhy {
    pub id: String,
    pub finished_at: Option<String>,
    pub copies: Vec<CopyWhy>,
}

/// One copy: what a line of `queue why --json` is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct CopyWhy {
    pub id: String,
    pub copy: i64,
    pub domain: String,
    pub from: String,
    pub source: String,
    pub message_id: Option<String>,
    pub size: u64,
    pub accepted_at: String,
    pub expires_at: String,
    pub finished_at: Option<String>,
    /// `running`, `stopped`, `unknown`.
    pub daemon: String,
    pub standing: StandingLine,
    pub recipients: Vec<FateLine>,
    pub told_of_delay: bool,
    pub attempts: Vec<AttemptLine>,
    /// What administrators did to it, oldest first.
    pub orders: Vec<ActionLine>,
    /// Where it would go now; null for a finished copy.
    pub route: Option<RouteLine>,
    /// What only the running daemon knows.
    pub live: Option<LiveCopy>,
    pub next: Vec<NextLine>,
    /// All of this in words, from its acceptance to what is to come.
    pub steps: Vec<StepLine>,
}

/// Why a copy is where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct StandingLine {
    /// `finished`, `held`, `sending`, `cut_off`, `waiting`, `due`.
    pub kind: String,
    pub text: String,
    /// Of `held`: `in_doubt`, `override`, `administrator`.
    pub by: Option<String>,
    /// The administrator.
    pub who: Option<String>,
    /// The override's line in the configuration, where it has it still.
    pub line: Option<usize>,
    pub reason: Option<String>,
    /// Of `due`, and of an administrator's hold.
    pub since: Option<String>,
    pub until: Option<String>,
    /// Of `waiting`: `not_before`, `site_down`, `failed`.
    pub cause: Option<String>,
    pub attempt: Option<u32>,
    /// Seconds that a peer's reply asks for.
    pub asked_for: Option<u64>,
}

/// A recipient, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct FateLine {
    pub to: String,
    pub notify: String,
    /// Not there where nothing was tried yet.
    #[serde(flatten)]
    pub last: Option<LastOutcome>,
    /// `may_arrive_twice`, `to_be_decided`, `may_have_arrived_twice`, `may_have_arrived`.
    pub doubt: Option<String>,
    pub told: Option<ToldLine>,
}

/// Who is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct ToldLine {
    /// `failed`, `delayed`, `relayed`.
    pub action: Option<String>,
    pub to: Option<String>,
    /// False: a report is to be written.
    pub done: bool,
    /// The null sender cannot be told: it is in `failed/`.
    pub kept: bool,
    /// Why nobody is told of a failure: `removed`, `discarded`, `not_wanted`.
    pub nobody: Option<String>,
}

/// Where a copy would go now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct RouteLine {
    pub known: bool,
    /// `daemon`: by its configuration and its cache; `command`: without its cache.
    pub by: Option<String>,
    /// False: what is not in the cache was not asked for.
    pub asked_dns: bool,
    /// Why it is not known.
    pub reason: Option<String>,
    /// As `route --json` has them, each with the recipients `to` whom it applies.
    pub decisions: Vec<Value>,
    /// The answers of DNS that it goes by.
    pub answers: Vec<AnswerLine>,
    /// Every step that led there, the overrides first.
    pub why: Vec<String>,
}

/// An answer of DNS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct AnswerLine {
    pub name: String,
    /// `MX`, `A`, `AAAA`.
    #[serde(rename = "type")]
    pub record_type: String,
    /// `fresh`: asked just now; `cached`; `stale`: expired, serves while DNS fails.
    pub state: String,
    /// Seconds since it came.
    pub age: f64,
}

/// Something that is to happen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct NextLine {
    /// `daemon_start`, `judgement`, `release`, `pause_end`, `end`, `attempt`, `delay_notice`, `given_up`, `report`.
    pub event: String,
    pub text: String,
    pub at: Option<String>,
    pub attempt: Option<u32>,
    /// Seconds after which the next attempt follows if this one fails for now.
    pub then_after: Option<f64>,
    /// Who is told.
    pub to: Option<String>,
    /// Of `judgement`: `retry`, `hold`.
    pub in_doubt: Option<String>,
    /// Of `given_up`: in `failed/`, as nobody can be told.
    pub kept: Option<bool>,
}

/// A step of a copy's way in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct StepLine {
    /// `accepted`, `attempt`, `order`, `recipients`, `delay`, `now`, `route`, `next`.
    pub step: String,
    /// One; of `recipients`, as many as share a fate.
    pub titles: Vec<String>,
    pub lines: Vec<WordLine>,
}

/// A line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct WordLine {
    pub text: String,
    pub tone: Tone,
    /// 1: it says more of the line before it.
    pub level: u8,
}

/// How a line is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// As text does.
    Plain,
    /// It matters less.
    Soft,
    /// It went well.
    Good,
    /// It wants attention.
    Warn,
    /// It went wrong.
    Bad,
}

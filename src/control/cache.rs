//! `/v1/cache`: the DNS answers in memory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::router::Call;
use super::{Answer, Api, ApiError};
use crate::message::Domain;

/// What is in memory, last used first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct Cache {
    pub capacity: u64,
    pub hits: u64,
    pub misses: u64,
    pub entries: Vec<CacheLine>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct CacheLine {
    pub name: String,
    #[serde(rename = "type")]
    pub record_type: String,
    pub answer: String,
    /// Seconds since it came.
    pub age: f64,
    /// Seconds that are left of it; null: expired, and kept for when DNS fails.
    pub expires_in: Option<f64>,
    /// How often it has served.
    pub hits: u64,
}

/// What to forget.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flush {
    /// All answers for this name; null: all there are.
    #[serde(default)]
    pub name: Option<String>,
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// How many answers.
    pub flushed: u64,
}

pub(super) async fn list(api: Arc<Api>) -> Result<Answer, ApiError> {
    let stats = api.dns.stats();
    let entries = api.dns.entries().into_iter().map(|entry| CacheLine {
        name: entry.name,
        record_type: entry.record_type.to_owned(),
        answer: entry.answer,
        age: entry.age.as_secs_f64(),
        expires_in: entry.expires_in.map(|left| left.as_secs_f64()),
        hits: entry.hits,
    });
    Answer::json(&Cache { capacity: stats.capacity as u64, hits: stats.hits, misses: stats.misses, entries: entries.collect() })
}

pub(super) async fn flush(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let Flush { name } = call.body()?;
    let name = name.map(|name| canonical(&name)).transpose()?;
    let flushed = api.dns.flush(name.as_deref()) as u64;
    tracing::info!(name = name.as_deref().unwrap_or("*"), flushed, by = call.by(), "cache flushed");
    Answer::json(&Flushed { flushed })
}

/// As the cache has it: lower case, A-labels.
fn canonical(name: &str) -> Result<String, ApiError> {
    let domain = Domain::parse(name.trim_end_matches('.')).map_err(|error| ApiError::Invalid(format!("{name:?} is no name: {error}")))?;
    Ok(domain.as_str().to_owned())
}

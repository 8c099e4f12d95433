//! `GET /v1/outcomes/recent`: what has just become of recipients, for live views.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::router::Call;
use super::{Answer, Api, ApiError, time};
use crate::delivery::RecentOutcome;

/// The last outcomes, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// At most 200.
    pub outcomes: Vec<OutcomeLine>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct OutcomeLine {
    /// Counts up: `?after=` it brings those that came later.
    pub number: u64,
    pub at: String,
    pub id: String,
    pub to: String,
    pub domain: String,
    /// `delivered`, `deferred` or `failed`.
    pub outcome: String,
    pub in_doubt: bool,
    pub code: Option<u16>,
    pub dsn: String,
    pub text: String,
    pub site: Option<String>,
    pub host: Option<String>,
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub tls: Option<String>,
}

pub(super) async fn recent(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let after = call.query().parsed("after")?.unwrap_or(0);
    let outcomes = api.context().shared.activity.recent(after);
    Answer::json(&Outcomes { outcomes: outcomes.into_iter().map(OutcomeLine::from).collect() })
}

impl From<RecentOutcome> for OutcomeLine {
    fn from(recent: RecentOutcome) -> Self {
        let RecentOutcome { number, at, message, domain, recipient, site, outcome } = recent;
        let peer = outcome.peer.as_deref();
        Self {
            number,
            at: time(at),
            id: message.to_string(),
            to: recipient.to_string(),
            domain: domain.to_string(),
            outcome: outcome.kind.as_str().to_owned(),
            in_doubt: outcome.in_doubt,
            code: outcome.reply.as_ref().map(crate::smtp::Reply::code),
            dsn: outcome.status.to_string(),
            text: outcome.text,
            site,
            host: peer.map(|peer| peer.host.to_string()),
            ip: peer.map(|peer| peer.address.ip().to_string()),
            port: peer.map(|peer| peer.address.port()),
            tls: peer.and_then(|peer| peer.tls.as_ref().map(ToString::to_string)),
        }
    }
}

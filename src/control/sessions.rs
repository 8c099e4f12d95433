//! `GET /v1/sessions`: what each worker is at.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Answer, Api, ApiError};

/// Every worker that is at work, by site and host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// At most as many as there are workers.
    pub sessions: Vec<SessionLine>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SessionLine {
    pub site: String,
    /// `open`, `opening` or `closed`.
    pub state: String,
    pub host: Option<String>,
    pub address: Option<String>,
    /// Seconds since it was dialled.
    pub age: Option<f64>,
    pub copies: u32,
}

pub(super) async fn list(api: Arc<Api>) -> Result<Answer, ApiError> {
    let workers = api.context().shared.lanes().workers();
    let line = |worker: crate::delivery::WorkerView| SessionLine {
        site: worker.site.to_string(),
        state: match (&worker.remote, worker.open) {
            (None, _) => "closed",
            (Some(_), false) => "opening",
            (Some(_), true) => "open",
        }
        .to_owned(),
        host: worker.remote.as_ref().map(|remote| remote.host.to_string()),
        address: worker.remote.as_ref().map(|remote| remote.address.to_string()),
        age: worker.remote.as_ref().map(|remote| remote.since.elapsed().as_secs_f64()),
        copies: worker.copies,
    };
    let mut sessions: Vec<SessionLine> = workers.into_iter().map(line).collect();
    sessions.sort_by(|one, other| (&one.site, &one.host).cmp(&(&other.site, &other.host)));
    Answer::json(&Sessions { sessions })
}

//! `GET /v1/messages/{id}/now`: where each copy of a message is at this moment, and what it waits for. What the queue says is joined with what
//! only the running daemon knows.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::router::Call;
use super::{Answer, Api, ApiError, time};
use crate::clock::Timestamp;
use crate::delivery::{Context, Obstacle, Phase, UnderWay, WaitingView};
use crate::queue::{CopyDetail, CopyId, CopyState, MessageDetail};
use crate::route::Site;

/// A message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct MessageNow {
    pub id: String,
    pub workers: WorkersNow,
    pub copies: Vec<CopyNow>,
}

/// Workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct WorkersNow {
    pub total: u64,
    pub busy: u64,
}

/// One copy. What does not apply is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct CopyNow {
    pub copy: i64,
    pub domain: String,
    /// Recipients that wait.
    pub to: Vec<String>,
    /// `finished`, `held`, `sending`, `waiting` (for a worker), `routing`, `due` (in the queue), `deferred` (until `due_at`).
    pub state: String,
    /// The same in a sentence.
    pub text: String,
    pub attempts: u32,
    pub due_at: Option<String>,
    pub site: Option<String>,
    /// Of `sending`: `connecting`, `next`, `transaction`, `recording`.
    pub phase: Option<String>,
    pub host: Option<String>,
    pub address: Option<String>,
    /// Of `sending`: when the attempt began.
    pub since: Option<String>,
    /// Of `waiting`: 1 is the next of its site, of `of`.
    pub place: Option<u64>,
    pub of: Option<u64>,
    /// Of `waiting`: `paused`, `rate`, `site-limit`, `workers`, `nothing`; of `due`: `paused`, `site-full`, `memory`.
    pub waits_for: Option<String>,
    pub sessions: Option<u64>,
    pub limit: Option<u64>,
    /// Seconds until the rate allows the next one.
    pub rate_wait: Option<f64>,
    /// Why it is on hold, or its site paused.
    pub reason: Option<String>,
    /// The last outcome.
    pub last: Option<String>,
}

/// What is in memory of a message.
struct Live {
    under_way: HashMap<CopyId, (Site, UnderWay)>,
    waiting: HashMap<CopyId, WaitingView>,
}

pub(super) async fn now(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let detail = api.message(&call).await?;
    Answer::json(&message(&api.context(), &detail))
}

/// Where its copies are.
pub(super) fn message(context: &Context, detail: &MessageDetail) -> MessageNow {
    let (shared, id) = (&context.shared, detail.message.id);
    let under_way = shared.lanes().find(id).into_iter().map(|(site, copy)| (copy.copy, (site, copy))).collect();
    let (waiting, total, busy) = {
        let board = &shared.lock().board;
        (board.find(id, Instant::now()), board.workers() as u64, board.running() as u64)
    };
    let live = Live { under_way, waiting: waiting.into_iter().map(|waiting| (waiting.copy, waiting)).collect() };
    let now = context.clock.now();
    let copies = detail.copies.iter().map(|copy| copy_now(context, copy, &live, now));
    MessageNow { id: id.to_string(), workers: WorkersNow { total, busy }, copies: copies.collect() }
}

fn copy_now(context: &Context, copy: &CopyDetail, live: &Live, now: Timestamp) -> CopyNow {
    let waits = |outcome: &Option<(crate::outcome::Outcome, Timestamp)>| {
        outcome.as_ref().is_none_or(|(outcome, _)| outcome.kind == crate::outcome::Kind::Deferred)
    };
    let to: Vec<String> = copy.recipients.iter().filter(|(_, last)| waits(last)).map(|(to, _)| to.address.to_string()).collect();
    let newest = copy.recipients.iter().filter_map(|(_, last)| last.as_ref()).max_by_key(|(_, at)| *at);
    let base = CopyNow {
        copy: copy.id.0,
        domain: copy.domain.to_string(),
        to,
        attempts: copy.attempts,
        // Where it is now says more; until then, where it was.
        site: copy.history.last().map(|attempt| attempt.site.clone()).filter(|site| !site.is_empty()),
        due_at: (copy.state == CopyState::Queued).then(|| time(copy.due_at)),
        last: newest.map(|(outcome, _)| outcome.text.clone()),
        ..CopyNow::default()
    };
    match copy.state {
        CopyState::Finished => CopyNow { state: "finished".to_owned(), text: "nobody of it waits any more".to_owned(), ..base },
        CopyState::Held => {
            let reason = copy.hold_reason.clone().unwrap_or_default();
            CopyNow { state: "held".to_owned(), text: format!("on hold until it is released: {reason}"), reason: Some(reason), ..base }
        }
        CopyState::Queued | CopyState::Sending => match (live.under_way.get(&copy.id), live.waiting.get(&copy.id)) {
            (Some((site, under_way)), _) => sending(site, under_way, base),
            (None, Some(waiting)) => on_board(waiting, base),
            (None, None) if copy.state == CopyState::Sending => CopyNow {
                state: "sending".to_owned(),
                phase: Some("recording".to_owned()),
                text: "its attempt has ended; what came of it is being recorded".to_owned(),
                ..base
            },
            (None, None) => in_queue(context, copy, base, now),
        },
    }
}

fn sending(site: &Site, under_way: &UnderWay, base: CopyNow) -> CopyNow {
    let remote = under_way.remote.as_ref();
    let host = remote.map_or_else(|| site.to_string(), |remote| format!("{} [{}]", remote.host, remote.address));
    let (phase, text) = match under_way.phase {
        Phase::Connecting => ("connecting", format!("a session with {host} is being opened for it")),
        Phase::Next => ("next", format!("it is next in a session with {host}")),
        Phase::Transaction(time) => ("transaction", format!("it is being sent to {host} since {:.1} s", time.as_secs_f64())),
        Phase::Recording => ("recording", "its attempt has ended; what came of it is being recorded".to_owned()),
    };
    CopyNow {
        state: "sending".to_owned(),
        text,
        site: Some(site.to_string()),
        phase: Some(phase.to_owned()),
        host: remote.map(|remote| remote.host.to_string()),
        address: remote.map(|remote| remote.address.to_string()),
        since: Some(time(under_way.began_at)),
        ..base
    }
}

fn on_board(waiting: &WaitingView, base: CopyNow) -> CopyNow {
    let WaitingView { site, place, of, obstacle, .. } = waiting;
    let at = format!("{place} of {of} that wait for {site}");
    let base =
        CopyNow { state: "waiting".to_owned(), site: Some(site.to_string()), place: Some(*place as u64), of: Some(*of as u64), ..base };
    match obstacle {
        Obstacle::Paused(reason) => CopyNow {
            waits_for: Some("paused".to_owned()),
            text: format!("{at}, which is paused: {reason}"),
            reason: Some(reason.clone()),
            ..base
        },
        Obstacle::Rate(wait) => CopyNow {
            waits_for: Some("rate".to_owned()),
            text: format!("{at}, whose rate allows the next one in {:.1} s", wait.as_secs_f64()),
            rate_wait: Some(wait.as_secs_f64()),
            ..base
        },
        Obstacle::SiteLimit { sessions, limit } => CopyNow {
            waits_for: Some("site-limit".to_owned()),
            text: format!("{at}, which has {sessions} of at most {limit} sessions"),
            sessions: Some(*sessions as u64),
            limit: Some(*limit as u64),
            ..base
        },
        Obstacle::Workers { total } => {
            CopyNow { waits_for: Some("workers".to_owned()), text: format!("{at}; all {total} workers are busy"), ..base }
        }
        Obstacle::Nothing => CopyNow { waits_for: Some("nothing".to_owned()), text: format!("{at}; a worker is about to take it"), ..base },
    }
}

/// In no worker and not on the board.
fn in_queue(context: &Context, copy: &CopyDetail, base: CopyNow, now: Timestamp) -> CopyNow {
    let state = context.shared.lock();
    if state.window.has(copy.id) {
        let text = "its route is being looked up, or what came of it is being recorded".to_owned();
        return CopyNow { state: "routing".to_owned(), text, ..base };
    }
    if copy.due_at > now {
        let last = base.last.as_deref().map_or(String::new(), |last| format!("; last: {last}"));
        let text = format!("due again at {}{last}", time(copy.due_at));
        return CopyNow { state: "deferred".to_owned(), text, ..base };
    }
    let base = CopyNow { state: "due".to_owned(), ..base };
    match state.parked_at(&copy.domain) {
        None => {
            let text = "due; it is read from the queue as soon as there is room for it in memory".to_owned();
            CopyNow { waits_for: Some("memory".to_owned()), text, ..base }
        }
        Some(site) => {
            let site = site.clone();
            match state.board.site(&site, Instant::now()).and_then(|view| view.paused) {
                Some(paused) => CopyNow {
                    waits_for: Some("paused".to_owned()),
                    text: format!("due; its site {site} is paused: {}", paused.reason),
                    reason: Some(paused.reason),
                    site: Some(site.to_string()),
                    ..base
                },
                None => CopyNow {
                    waits_for: Some("site-full".to_owned()),
                    text: format!("due; enough others wait for its site {site}"),
                    site: Some(site.to_string()),
                    ..base
                },
            }
        }
    }
}

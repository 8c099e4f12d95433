//! `GET /v1/messages/{id}/now`: where each copy of a message is at this moment, and what it waits for. What the queue says is joined with what
//! only the running daemon knows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::router::Call;
use super::{Answer, Api, ApiError, time, whole};
use crate::clock::Timestamp;
use crate::delivery::live::{Doing, Obstacle, Place};
use crate::delivery::why::was_put_off;
use crate::delivery::{self, Context, Phase, UnderWay, WaitingView};
use crate::message::MessageId;
use crate::outcome::{Kind, Outcome};
use crate::queue::{CopyDetail, CopyId, CopyState, MessageDetail};
use crate::retry::later;
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
pub(super) struct Memory {
    under_way: HashMap<CopyId, (Site, UnderWay)>,
    waiting: HashMap<CopyId, WaitingView>,
    workers: WorkersNow,
}

/// Where an unfinished copy is, and for which site, where that is known without asking DNS.
pub(super) struct Located {
    pub(super) place: Place,
    pub(super) site: Option<Site>,
    /// Of a session that has it.
    address: Option<SocketAddr>,
}

pub(super) async fn now(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let detail = api.message(&call).await?;
    Answer::json(&message(&api.context(), &detail))
}

/// Where its copies are.
pub(super) fn message(context: &Context, detail: &MessageDetail) -> MessageNow {
    let id = detail.message.id;
    let (memory, now) = (Memory::of(context, id), context.clock.now());
    let copies = detail.copies.iter().map(|copy| copy_now(copy, memory.locate(context, copy, now), now));
    MessageNow { id: id.to_string(), copies: copies.collect(), workers: memory.workers }
}

impl Memory {
    /// At this moment.
    pub(super) fn of(context: &Context, id: MessageId) -> Self {
        let shared = &context.shared;
        let under_way = shared.lanes().find(id).into_iter().map(|(site, copy)| (copy.copy, (site, copy))).collect();
        let board = &shared.lock().board;
        let waiting = board.find(id, Instant::now()).into_iter().map(|waiting| (waiting.copy, waiting)).collect();
        Self { under_way, waiting, workers: WorkersNow { total: board.workers() as u64, busy: board.running() as u64 } }
    }

    /// Of a copy that is neither finished nor on hold.
    pub(super) fn locate(&self, context: &Context, copy: &CopyDetail, now: Timestamp) -> Option<Located> {
        let located = match (copy.state, self.under_way.get(&copy.id), self.waiting.get(&copy.id)) {
            (CopyState::Finished | CopyState::Held, ..) => return None,
            (_, Some((site, under_way)), _) => sending(site, under_way),
            (_, None, Some(waiting)) => on_board(waiting, now),
            (CopyState::Sending, None, None) => {
                let place = Place::Sending { phase: Doing::Recording, host: None, since: None, sent_for: None };
                Located { place, site: None, address: None }
            }
            (CopyState::Queued, None, None) => in_queue(context, copy, now),
        };
        // Where nothing in memory knows better: where it was tried last.
        let tried = || copy.history.last().filter(|attempt| !attempt.site.is_empty()).map(|attempt| Site::new(&*attempt.site));
        Some(Located { site: located.site.or_else(tried), ..located })
    }
}

fn sending(site: &Site, under_way: &UnderWay) -> Located {
    let remote = under_way.remote.as_ref();
    let (phase, sent_for) = match under_way.phase {
        Phase::Connecting => (Doing::Connecting, None),
        Phase::Next => (Doing::Next, None),
        Phase::Transaction(time) => (Doing::Transaction, Some(time.as_secs())),
        Phase::Recording => (Doing::Recording, None),
    };
    let host = remote.map(|remote| remote.host.to_string());
    Located {
        place: Place::Sending { phase, host, since: Some(whole(under_way.began_at)), sent_for },
        site: Some(site.clone()),
        address: remote.map(|remote| remote.address),
    }
}

fn on_board(waiting: &WaitingView, now: Timestamp) -> Located {
    let obstacle = match &waiting.obstacle {
        delivery::Obstacle::Paused(reason) => Obstacle::Pause { reason: reason.clone() },
        delivery::Obstacle::Rate(wait) => Obstacle::Rate { until: whole(later(now, *wait)) },
        delivery::Obstacle::SiteLimit { sessions, limit } => Obstacle::SiteLimit { sessions: *sessions, limit: *limit },
        delivery::Obstacle::Workers { total } => Obstacle::Workers { total: *total },
        delivery::Obstacle::Nothing => Obstacle::Nothing,
    };
    let place = Place::Board { number: waiting.place, of: waiting.of, obstacle };
    Located { place, site: Some(waiting.site.clone()), address: None }
}

/// In no worker and not on the board.
fn in_queue(context: &Context, copy: &CopyDetail, now: Timestamp) -> Located {
    let state = context.shared.lock();
    let located = |place, site: Option<&Site>| Located { place, site: site.cloned(), address: None };
    if state.window.has(copy.id) {
        return located(Place::Routing, None);
    }
    if copy.due_at > now {
        let site = copy.site.as_deref().filter(|_| was_put_off(copy)).map(Site::new);
        return located(Place::Deferred, site.as_ref());
    }
    let Some(site) = state.parked_at(&copy.domain) else { return located(Place::Queue, None) };
    match state.board.site(site, Instant::now()).and_then(|view| view.paused) {
        Some(paused) => located(Place::Paused { reason: paused.reason }, Some(site)),
        None => located(Place::Parked, Some(site)),
    }
}

fn copy_now(copy: &CopyDetail, located: Option<Located>, now: Timestamp) -> CopyNow {
    let waits = |outcome: &Option<(Outcome, Timestamp)>| outcome.as_ref().is_none_or(|(outcome, _)| outcome.kind == Kind::Deferred);
    let to: Vec<String> = copy.recipients.iter().filter(|(_, last)| waits(last)).map(|(to, _)| to.address.to_string()).collect();
    let newest = copy.recipients.iter().filter_map(|(_, last)| last.as_ref()).max_by_key(|(_, at)| *at);
    let base = CopyNow {
        copy: copy.id.0,
        domain: copy.domain.to_string(),
        to,
        attempts: copy.attempts,
        site: located.as_ref().and_then(|located| located.site.as_ref()).map(Site::to_string),
        due_at: (copy.state == CopyState::Queued).then(|| time(copy.due_at)),
        last: newest.map(|(outcome, _)| outcome.text.clone()),
        ..CopyNow::default()
    };
    let is = |state: &str, text: String, base: CopyNow| CopyNow { state: state.to_owned(), text, ..base };
    let site = base.site.clone().unwrap_or_default();
    let Some(Located { place, address, .. }) = located else {
        let Some(reason) = copy.hold_reason.clone().filter(|_| copy.state == CopyState::Held) else {
            return is("finished", "nobody of it waits any more".to_owned(), base);
        };
        let text = format!("on hold until it is released: {reason}");
        return is("held", text, CopyNow { reason: Some(reason), ..base });
    };
    match place {
        Place::Sending { phase, host, since, sent_for } => {
            let with = host.iter().zip(address).map(|(host, address)| format!("{host} [{address}]")).next().unwrap_or(site);
            let text = match phase {
                Doing::Connecting => format!("a session with {with} is being opened for it"),
                Doing::Next => format!("it is next in a session with {with}"),
                Doing::Transaction => format!("it is being sent to {with}, for {} s so far", sent_for.unwrap_or_default()),
                Doing::Recording => "its attempt has ended; what came of it is being recorded".to_owned(),
            };
            let (phase, address) = (Some(phase.as_str().to_owned()), address.map(|address| address.to_string()));
            is("sending", text, CopyNow { phase, host, address, since: since.map(time), ..base })
        }
        Place::Board { number, of, obstacle } => {
            let at = format!("{number} of {of} that wait for {site}");
            on_board_now(&obstacle, &at, CopyNow { place: Some(number as u64), of: Some(of as u64), ..base }, now)
        }
        Place::Routing => is("routing", "its route is being looked up, or what came of it is being recorded".to_owned(), base),
        Place::Deferred => {
            let last = base.last.as_deref().map_or(String::new(), |last| format!("; last: {last}"));
            is("deferred", format!("due again at {}{last}", time(copy.due_at)), base)
        }
        Place::Queue => {
            let text = "due; it is read from the queue as soon as there is room for it in memory".to_owned();
            is("due", text, CopyNow { waits_for: Some("memory".to_owned()), ..base })
        }
        Place::Paused { reason } => {
            let text = format!("due; its site {site} is paused: {reason}");
            is("due", text, CopyNow { waits_for: Some("paused".to_owned()), reason: Some(reason), ..base })
        }
        Place::Parked => {
            let text = format!("due; enough others wait for its site {site}");
            is("due", text, CopyNow { waits_for: Some("site-full".to_owned()), ..base })
        }
    }
}

fn on_board_now(obstacle: &Obstacle, at: &str, base: CopyNow, now: Timestamp) -> CopyNow {
    let (waits_for, text) = match obstacle {
        Obstacle::Pause { reason } => ("paused", format!("{at}, which is paused: {reason}")),
        Obstacle::Rate { until } => ("rate", format!("{at}, whose rate allows the next one in {:.1} s", wait(*until, now))),
        Obstacle::SiteLimit { sessions, limit } => ("site-limit", format!("{at}, which has {sessions} of at most {limit} sessions")),
        Obstacle::Workers { total } => ("workers", format!("{at}; all {total} workers are busy")),
        Obstacle::Nothing => ("nothing", format!("{at}; a worker is about to take it")),
    };
    let mut copy = CopyNow { state: "waiting".to_owned(), waits_for: Some(waits_for.to_owned()), text, ..base };
    match obstacle {
        Obstacle::Pause { reason } => copy.reason = Some(reason.clone()),
        Obstacle::Rate { until } => copy.rate_wait = Some(wait(*until, now)),
        Obstacle::SiteLimit { sessions, limit } => (copy.sessions, copy.limit) = (Some(*sessions as u64), Some(*limit as u64)),
        Obstacle::Workers { .. } | Obstacle::Nothing => {}
    }
    copy
}

/// Seconds.
fn wait(until: Timestamp, now: Timestamp) -> f64 {
    until.duration_since(now).as_secs_f64().max(0.0)
}

//! The facts about a copy, for programs: an object whose field names stay as they are. Times are RFC 3339, waits seconds; what is not known
//! is null.
//!
//! - `id`, `copy`, `domain`, `from`, `source`, `message_id`, `size`, `accepted_at`, `expires_at`, `finished_at`: as in `queue show --json`;
//! - `daemon`: `running`, `stopped` or `unknown`;
//! - `standing`: an object with `kind` (`finished`, `held`, `sending`, `cut_off`, `waiting`, `due`), and by kind `reason`, `by`
//!   (`in_doubt`, `override`, `other`), `line`, `attempt`, `until`, `since`, `cause` (`not_before`, `site_down`, `failed`), `asked_for`
//!   (the wait that a peer's reply names);
//! - `recipients`: as in `queue show --json`, each with `doubt` (null, `may_arrive_twice`, `to_be_decided`, `may_have_arrived_twice`,
//!   `may_have_arrived`) and `told` (null, or an object with `action`, `to` and whether it is `done`; `kept`: in `failed/`; `nobody`:
//!   why nobody is told of a failure: `removed`, `discarded`, `not_wanted`);
//! - `told_of_delay`; `attempts`: as `history` in `queue show --json`;
//! - `route`: null for a finished copy, else an object with `known`, `asked_dns`, `decisions` (as `route --json` has them, each with `to`)
//!   and `why`, or `reason` where it is not known;
//! - `live`: what the running daemon tells of the copy, or null;
//! - `next`: what is to happen, in order, as objects with `event` (`daemon_start`, `judgement`, `release`, `pause_end`, `end`, `attempt`,
//!   `delay_notice`, `given_up`, `report`), and by event `at`, `attempt`, `then_after`, `to`, `in_doubt`, `kept`.

use serde::Serialize;
use serde_json::{Value, json};

use super::{RouteNow, Story};
use crate::cli::queue::json::{JsonAttempt, JsonRecipient};
use crate::cli::route::{fault_json, route_json, rule_json};
use crate::clock::Timestamp;
use crate::config::InDoubt;
use crate::delivery::live::LiveCopy;
use crate::delivery::why::{Cause, Daemon, Doubt, Group, Holder, Next, Silence, Standing, Tells, Told};
use crate::message::Address;
use crate::queue::ReportAction;
use crate::route::{Decision, Part};

#[derive(Serialize)]
pub(super) struct JsonWhy<'a> {
    id: String,
    copy: i64,
    domain: String,
    from: String,
    source: &'a str,
    message_id: Option<&'a str>,
    size: u64,
    accepted_at: String,
    expires_at: String,
    finished_at: Option<String>,
    daemon: &'static str,
    standing: Value,
    recipients: Vec<JsonFate<'a>>,
    told_of_delay: bool,
    attempts: Vec<JsonAttempt<'a>>,
    route: Option<Value>,
    live: Option<&'a LiveCopy>,
    next: Vec<Value>,
}

#[derive(Serialize)]
struct JsonFate<'a> {
    #[serde(flatten)]
    recipient: JsonRecipient<'a>,
    doubt: Option<&'static str>,
    told: Option<Value>,
}

impl<'a> JsonWhy<'a> {
    pub(super) fn of(story: &'a Story<'_>) -> Self {
        let Story { message: detail, copy, chain, route, daemon } = story;
        let message = &detail.message;
        Self {
            id: message.id.to_string(),
            copy: copy.id.0,
            domain: copy.domain.to_string(),
            from: message.sender.to_string(),
            source: &message.source,
            message_id: message.content.message_id.as_deref(),
            size: message.content.wire_size,
            accepted_at: message.accepted_at.to_string(),
            expires_at: message.expires_at.to_string(),
            finished_at: detail.finished_at.as_ref().map(Timestamp::to_string),
            daemon: match daemon {
                Daemon::Running { .. } => "running",
                Daemon::Stopped => "stopped",
                Daemon::Unknown { .. } => "unknown",
            },
            standing: standing(&chain.standing),
            recipients: chain.groups.iter().flat_map(fates).collect(),
            told_of_delay: chain.told_of_delay,
            attempts: copy.history.iter().map(JsonAttempt::of).collect(),
            route: route_now(story, route),
            live: chain.live,
            next: chain.next.iter().map(next).collect(),
        }
    }
}

fn standing(standing: &Standing<'_>) -> Value {
    match standing {
        Standing::Finished => json!({ "kind": "finished" }),
        Standing::Held { by: Holder::InDoubt, reason } => json!({ "kind": "held", "by": "in_doubt", "reason": reason }),
        Standing::Held { by: Holder::Override(line), reason } => {
            json!({ "kind": "held", "by": "override", "line": line, "reason": reason })
        }
        Standing::Held { by: Holder::Other, reason } => json!({ "kind": "held", "by": "other", "reason": reason }),
        Standing::Sending { number } => json!({ "kind": "sending", "attempt": number }),
        Standing::CutOff { number } => json!({ "kind": "cut_off", "attempt": number }),
        Standing::Waiting { until, cause } => {
            let (cause, attempt, asked) = match cause {
                Cause::NotBefore => ("not_before", None, None),
                Cause::SiteDown => ("site_down", None, None),
                Cause::Failed { number, asked } => ("failed", Some(number), asked.map(|wait| wait.as_secs())),
            };
            json!({ "kind": "waiting", "until": until.to_string(), "cause": cause, "attempt": attempt, "asked_for": asked })
        }
        Standing::Due { since } => json!({ "kind": "due", "since": since.to_string() }),
    }
}

fn fates<'a>(group: &'a Group<'_>) -> impl Iterator<Item = JsonFate<'a>> {
    let doubt = match group.doubt {
        Doubt::No => None,
        Doubt::MayArriveTwice => Some("may_arrive_twice"),
        Doubt::ToBeDecided => Some("to_be_decided"),
        Doubt::MayHaveArrivedTwice => Some("may_have_arrived_twice"),
        Doubt::MayHaveArrived => Some("may_have_arrived"),
    };
    group.recipients.iter().map(move |recipient| JsonFate {
        recipient: JsonRecipient::new(recipient, group.last),
        doubt,
        told: match group.told {
            Told::Nothing => None,
            Told::Nobody(silence) => Some(json!({ "nobody": silenced(silence) })),
            Told::Done(action, to) => Some(json!({ "action": word(action), "to": to.to_string(), "done": true })),
            Told::Due(action, to) => Some(json!({ "action": word(action), "to": to.to_string(), "done": false })),
            Told::Kept => Some(json!({ "kept": true })),
        },
    })
}

fn silenced(silence: Silence) -> &'static str {
    match silence {
        Silence::Removed => "removed",
        Silence::Discarded => "discarded",
        Silence::NotWanted => "not_wanted",
    }
}

fn word(action: ReportAction) -> &'static str {
    match action {
        ReportAction::Failed => "failed",
        ReportAction::Delayed => "delayed",
        ReportAction::Relayed => "relayed",
    }
}

fn route_now(story: &Story<'_>, route: &RouteNow) -> Option<Value> {
    let unknown = |reason: &str| json!({ "known": false, "reason": reason });
    match route {
        RouteNow::Nowhere => return None,
        RouteNow::NoConfig => return Some(unknown("the configuration has errors")),
        RouteNow::Unknown(reason) => return Some(unknown(reason)),
        RouteNow::Overrides(_) | RouteNow::Full(_) => {}
    }
    let waiting = story.waiting();
    let asked_dns = matches!(route, RouteNow::Full(_));
    let (parts, steps) = route.told();
    // What fails because DNS was not asked is no decision.
    let decisions: Vec<Value> =
        parts.iter().filter(|part| asked_dns || part.decision.is_ok()).map(|part| decision(part, &waiting)).collect();
    let why: Vec<String> = steps.iter().map(ToString::to_string).collect();
    Some(json!({ "known": true, "asked_dns": asked_dns, "decisions": decisions, "why": why }))
}

fn decision(part: &Part, waiting: &[&Address]) -> Value {
    let mut object = match &part.decision {
        Ok(Decision::Send(route)) => route_json(route),
        Ok(Decision::Hold(rule)) => rule_json("hold", rule),
        Ok(Decision::Reject(rule)) => rule_json("reject", rule),
        Ok(Decision::Discard(rule)) => rule_json("discard", rule),
        Err(fault) => fault_json(fault),
    };
    object["to"] = part.recipients.iter().filter_map(|&index| waiting.get(index)).map(|to| to.to_string()).collect();
    object
}

fn next(next: &Next<'_>) -> Value {
    match next {
        Next::DaemonStart => json!({ "event": "daemon_start" }),
        Next::Judgement { in_doubt } => json!({ "event": "judgement", "in_doubt": in_doubt.map(InDoubt::as_str) }),
        Next::Release => json!({ "event": "release" }),
        Next::PauseEnd => json!({ "event": "pause_end" }),
        Next::End { then } => json!({ "event": "end", "then_after": then.map(|wait| wait.as_secs_f64()) }),
        Next::Attempt { number, at, then } => json!({
            "event": "attempt", "at": at.to_string(), "attempt": number, "then_after": then.map(|wait| wait.as_secs_f64())
        }),
        Next::DelayNotice { from, to } => json!({ "event": "delay_notice", "at": from.to_string(), "to": to.to_string() }),
        Next::GivenUp { at, tells } => {
            let (to, kept) = match tells {
                Tells::Sender(to) => (Some(to.to_string()), false),
                Tells::Nobody => (None, false),
                Tells::Kept { .. } => (None, true),
            };
            json!({ "event": "given_up", "at": at.to_string(), "to": to, "kept": kept })
        }
        Next::Report { to } => json!({ "event": "report", "to": to.to_string() }),
    }
}

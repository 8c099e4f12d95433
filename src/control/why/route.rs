//! Where a copy would go now: takes what routing explains, hands on its line and its words.

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::Story;
use super::line::{AnswerLine, RouteLine, WordLine};
use crate::clock::Timestamp;
use crate::message::Address;
use crate::outcome::{DnsFault, Fault, judge};
use crate::queue::{CopyDetail, CopyState, MessageDetail};
use crate::route::{Decision, Explanation, Freshness, LookupError, OverrideFate, Part, Query, Route, Router, Rule, Step};

/// Where a copy would go now.
#[derive(Debug, Clone)]
pub enum RouteNow {
    /// It goes nowhere any more.
    Nowhere,
    /// There is no configuration to tell.
    NoConfig,
    /// It cannot be told, for this reason.
    Unknown(String),
    /// As routing would decide.
    Told {
        /// What it decides, and why.
        explanation: Explanation,
        /// Who explains it.
        by: RoutedBy,
        /// False: what memory does not have was not asked for.
        asked_dns: bool,
    },
}

/// Whose configuration and memory a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutedBy {
    /// The running daemon's.
    Daemon,
    /// The command's own, which remembers nothing.
    Command,
}

/// Asks `router` as delivery does for a due copy, until `end`.
pub async fn route_now(
    (router, by, asked_dns): (&Router, RoutedBy, bool),
    (message, copy): (&MessageDetail, &CopyDetail),
    (now, end): (Timestamp, Instant),
) -> RouteNow {
    if copy.state == CopyState::Finished {
        return RouteNow::Nowhere;
    }
    let recipients = super::waiting(copy);
    let message = &message.message;
    let query = Query {
        domain: &copy.domain,
        recipients: &recipients,
        sender: &message.sender,
        size: message.content.wire_size,
        attempts: copy.attempts,
        failing_for: copy.first_failed_at.map(|since| now.duration_since(since).try_into().unwrap_or_default()),
        priority: message.priority,
        tag: message.tag.as_deref(),
        released: copy.released,
    };
    match timeout_at(end, router.explain(&query)).await {
        Ok(explanation) => RouteNow::Told { explanation, by, asked_dns },
        Err(_) => RouteNow::Unknown("DNS did not answer in time".to_owned()),
    }
}

impl RouteNow {
    /// Overrides that would hold the copy today; `None`: that is not known.
    pub fn holding(&self) -> Option<Vec<Rule>> {
        let Self::Told { explanation, .. } = self else { return None };
        let rules = explanation.parts.iter().filter_map(|part| match &part.decision {
            Ok(Decision::Hold(rule)) => Some(rule.clone()),
            _ => None,
        });
        Some(rules.collect())
    }

    /// The one route of all recipients, where there is one.
    pub(super) fn only(&self) -> Option<&Route> {
        let Self::Told { explanation, .. } = self else { return None };
        match explanation.parts.as_slice() {
            [Part { decision: Ok(Decision::Send(route)), .. }] => Some(route),
            _ => None,
        }
    }
}

/// For programs; `None`: it goes nowhere any more.
pub(super) fn line(story: &Story<'_>) -> Option<RouteLine> {
    let unknown = |reason: &str| RouteLine { reason: Some(reason.to_owned()), ..RouteLine::default() };
    let (explanation, by, asked_dns) = match story.route {
        RouteNow::Nowhere => return None,
        RouteNow::NoConfig => return Some(unknown("the configuration has errors")),
        RouteNow::Unknown(reason) => return Some(unknown(reason)),
        RouteNow::Told { explanation, by, asked_dns } => (explanation, *by, *asked_dns),
    };
    let waiting = super::waiting(story.copy);
    let parts = explanation.parts.iter().filter(|part| !was_not_asked(part));
    let by = match by {
        RoutedBy::Daemon => "daemon",
        RoutedBy::Command => "command",
    };
    Some(RouteLine {
        known: true,
        by: Some(by.to_owned()),
        asked_dns,
        reason: None,
        decisions: parts.map(|part| decision(part, &waiting)).collect(),
        answers: explanation.steps.iter().filter_map(answer).collect(),
        why: told(&explanation.steps).map(ToString::to_string).collect(),
    })
}

/// What fails because DNS was not asked is no decision.
fn was_not_asked(part: &Part) -> bool {
    matches!(&part.decision, Err(Fault::Dns { fault: DnsFault::NotAsked, .. }))
}

fn told(steps: &[Step]) -> impl Iterator<Item = &Step> {
    let not_asked = |step: &&Step| {
        matches!(
            step,
            Step::Mx { answer: Err(LookupError::Soft(DnsFault::NotAsked)), .. }
                | Step::Addresses { answer: Err(LookupError::Soft(DnsFault::NotAsked)), .. }
        )
    };
    steps.iter().filter(move |step| !not_asked(step))
}

fn answer(step: &Step) -> Option<AnswerLine> {
    let (name, record_type, freshness, age) = match step {
        Step::Mx { answer: Err(LookupError::Soft(DnsFault::NotAsked)), .. }
        | Step::Addresses { answer: Err(LookupError::Soft(DnsFault::NotAsked)), .. } => return None,
        Step::Mx { name, freshness, age, .. } => (name.to_string(), "MX", freshness, age),
        Step::Addresses { host, family, freshness, age, .. } => (host.to_string(), family.record_type(), freshness, age),
        _ => return None,
    };
    let state = match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Cached => "cached",
        Freshness::Stale => "stale",
    };
    Some(AnswerLine { name, record_type: record_type.to_owned(), state: state.to_owned(), age: age.as_secs_f64() })
}

fn decision(part: &Part, waiting: &[&Address]) -> Value {
    let mut object = decision_json(&part.decision);
    object["to"] = part.recipients.iter().filter_map(|&index| waiting.get(index)).map(|to| to.to_string()).collect();
    object
}

/// What is decided, as `route --json` has it.
pub fn decision_json(decision: &Result<Decision, Fault>) -> Value {
    let by = |decision: &str, rule: &Rule| json!({ "decision": decision, "line": rule.line, "reason": rule.reason });
    match decision {
        Ok(Decision::Send(route)) => route_json(route),
        Ok(Decision::Hold(rule)) => by("hold", rule),
        Ok(Decision::Reject(rule)) => by("reject", rule),
        Ok(Decision::Discard(rule)) => by("discard", rule),
        Err(fault) => {
            let verdict = judge(fault);
            json!({ "decision": verdict.kind.as_str(), "status": verdict.status.to_string(), "reason": fault.to_string() })
        }
    }
}

fn route_json(route: &Route) -> Value {
    let endpoints: Vec<Value> = route
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "preference": endpoint.preference,
                "host": &*endpoint.host,
                "ip": endpoint.address.ip().to_string(),
                "port": endpoint.address.port(),
                "tls": endpoint.tls.as_str(),
                "login": endpoint.credentials.as_ref().map(|credentials| &credentials.username),
            })
        })
        .collect();
    json!({ "decision": "send", "source": route.source.to_string(), "site": route.site.as_str(), "endpoints": endpoints })
}

/// For people.
pub(super) fn words(story: &Story<'_>, route: &RouteNow) -> Vec<WordLine> {
    let (explanation, by, asked_dns) = match route {
        RouteNow::Nowhere => return Vec::new(),
        RouteNow::NoConfig => return vec![WordLine::plain("not known: the configuration has errors")],
        RouteNow::Unknown(reason) => return vec![WordLine::plain(format!("not known: {reason}"))],
        RouteNow::Told { explanation, by, asked_dns } => (explanation, *by, *asked_dns),
    };
    let Explanation { parts, steps } = explanation;
    let mut lines = Vec::new();
    for part in parts {
        let who = if parts.len() > 1 { format!("{}: ", who(story, part)) } else { String::new() };
        lines.push(WordLine::plain(format!("{who}{}", decided(part, steps))));
    }
    if by == RoutedBy::Command && asked_dns {
        lines.push(WordLine::soft("asked just now, without the daemon's cache"));
    }
    let (others, told): (Vec<&Step>, Vec<&Step>) = told(steps).partition(|step| has_no_say(step));
    match others[..] {
        [] => {}
        [one] => lines.push(WordLine::soft(one.to_string())),
        // Each of them is what `route` is asked for, and who has a hundred wants to see the one that matches.
        _ => lines.push(WordLine::soft(format!("{} overrides do not match: smtp-direct route ADDRESS says why", others.len()))),
    }
    lines.extend(told.iter().map(|step| WordLine::soft(step.to_string())));
    lines
}

/// An override for others.
fn has_no_say(step: &Step) -> bool {
    matches!(step, Step::Override { fate: OverrideFate::Unmet(_), .. })
}

fn decided(part: &Part, steps: &[Step]) -> String {
    let by = |rule: &Rule| format!("by the override at line {}: {}", rule.line, rule.reason);
    match &part.decision {
        Ok(Decision::Send(route)) => {
            let hosts: Vec<String> = route.endpoints.iter().map(|endpoint| format!("{} {}", endpoint.host, endpoint.address)).collect();
            format!("{} ({})", hosts.join(", "), route.source)
        }
        Ok(Decision::Hold(rule)) => format!("it would be held {}", by(rule)),
        Ok(Decision::Reject(rule)) => format!("it would be returned to its sender {}", by(rule)),
        Ok(Decision::Discard(rule)) => format!("it would be discarded {}", by(rule)),
        Err(_) if was_not_asked(part) => {
            let matched = |step: &Step| matches!(step, Step::Override { fate: OverrideFate::Matched, .. });
            let what = if steps.iter().any(matched) { "the overrides that match" } else { "its MX records" };
            format!("by {what}; DNS was not asked")
        }
        Err(fault) => format!("none: {fault}"),
    }
}

/// The recipients of a part, in brief.
fn who(story: &Story<'_>, part: &Part) -> String {
    let waiting = super::waiting(story.copy);
    let names = part.recipients.iter().filter_map(|&index| waiting.get(index));
    let (count, first) = (part.recipients.len(), names.map(|name| name.to_string()).next().unwrap_or_default());
    if count > 1 { format!("{first} and {} more", count - 1) } else { first }
}

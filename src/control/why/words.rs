//! A copy's way in words: takes the facts, hands on titles and lines, which the command line breaks and colours, and the status page shows.

use std::time::Duration;

use super::Story;
use super::line::{StepLine, Tone, WordLine};
use super::route::{self, RouteNow};
use crate::clock::Timestamp;
use crate::config::InDoubt;
use crate::delivery::live::{Doing, LiveCopy, Obstacle, Place};
use crate::delivery::why::{Cause, Doubt, Group, Holder, Next, Silence, Standing, Tells, Told};
use crate::message::MessageId;
use crate::observe::human::{count, moment, size};
use crate::outcome::{Kind, Outcome};
use crate::queue::{ActionRow, AttemptRecord, MessageDetail, ReportAction};

/// Recipients of one fate that are named.
const NAMED: usize = 20;

impl WordLine {
    fn new(tone: Tone, level: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone, level }
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, 0, text)
    }

    pub(super) fn soft(text: impl Into<String>) -> Self {
        Self::new(Tone::Soft, 0, text)
    }
}

impl StepLine {
    pub(super) fn new(step: &str, title: impl Into<String>, lines: Vec<WordLine>) -> Self {
        Self { step: step.to_owned(), titles: vec![title.into()], lines }
    }
}

/// All steps, in order.
pub(super) fn steps(story: &Story<'_>, now: Timestamp) -> Vec<StepLine> {
    let Story { message, copy, chain, route, live, .. } = story;
    let mut steps = vec![accepted(message, now)];
    // Of the same millisecond, the order comes first: the attempt is what it led to.
    let mut tried: Vec<(Timestamp, StepLine)> = chain.orders.iter().map(|one| (one.at, order(one, now))).collect();
    tried.extend(copy.history.iter().map(|one| (one.began_at, attempt(one, now))));
    tried.sort_by_key(|(at, _)| *at);
    steps.extend(tried.into_iter().map(|(_, step)| step));
    steps.extend(chain.groups.iter().map(|one| group(one, now)));
    if let Some(sender) = message.message.sender.address().filter(|_| chain.told_of_delay) {
        steps.push(StepLine::new("delay", format!("{sender} was told of the delay"), Vec::new()));
    }
    if let Some(live) = live {
        let lines = daemons_view(live, now).into_iter().map(WordLine::plain).collect();
        steps.push(StepLine::new("now", "Now", lines));
    }
    if !matches!(route, RouteNow::Nowhere) {
        steps.push(StepLine::new("route", "Route now", route::words(story, route)));
    }
    let mut lines: Vec<WordLine> = chain.next.iter().map(|one| WordLine::plain(next(one, message.message.id, now))).collect();
    if lines.is_empty() {
        lines.push(WordLine::plain("nothing: all is done"));
    }
    steps.push(StepLine::new("next", "Next", lines));
    steps
}

fn accepted(message: &MessageDetail, now: Timestamp) -> StepLine {
    let message = &message.message;
    let from = message.sender.address().map_or_else(|| "<>".to_owned(), ToString::to_string);
    let id = message.content.message_id.as_deref().map(|id| WordLine::soft(format!("Message-ID {id}")));
    let what = format!("{}, from {from}, {}, as {}", moment(message.accepted_at, now), size(message.content.wire_size), message.source);
    StepLine::new("accepted", "Accepted", [WordLine::plain(what)].into_iter().chain(id).collect())
}

/// An attempt: when, where its time went, and what each host said.
pub fn attempt(attempt: &AttemptRecord, now: Timestamp) -> StepLine {
    let AttemptRecord { number, began_at, delays, .. } = attempt;
    let took = |delay: Duration| format!("{:.3}s", delay.as_secs_f64());
    let handshake = if delays.handshake.is_zero() { String::new() } else { format!(" (TLS handshake {})", took(delays.handshake)) };
    let [queue, dns, connect, transfer] = [delays.queue, delays.dns, delays.connect, delays.transfer].map(took);
    let mut lines = vec![WordLine::soft(format!("queue {queue}, dns {dns}, connect {connect}{handshake}, transfer {transfer}"))];
    if !attempt.site.is_empty() {
        lines.push(WordLine::soft(format!("route {}: {}", attempt.route, attempt.site)));
    }
    lines.extend(attempt.trail.iter().map(WordLine::plain));
    StepLine::new("attempt", format!("Attempt {number}, {}", moment(*began_at, now)), lines)
}

/// What an administrator did, and to whom.
pub fn order(order: &ActionRow, now: Timestamp) -> StepLine {
    let ActionRow { at, action, by, reason, recipients, .. } = order;
    let done = action.done();
    let done = done.chars().next().map(|first| first.to_uppercase().to_string()).unwrap_or_default() + done.get(1..).unwrap_or_default();
    let who = WordLine::soft(recipients.join(", "));
    StepLine::new("order", format!("{done} by {by}, {}: {reason}", moment(*at, now)), vec![who])
}

/// What became of a recipient.
pub fn outcome(outcome: &Outcome, at: Timestamp, now: Timestamp) -> Vec<WordLine> {
    let tone = match outcome.kind {
        Kind::Delivered => Tone::Good,
        Kind::Deferred => Tone::Warn,
        Kind::Failed => Tone::Bad,
    };
    let head = format!("{} {} {}{}", outcome.kind.as_str(), outcome.status, moment(at, now), doubt(outcome));
    let mut lines = vec![WordLine::new(tone, 0, head)];
    if let Some(peer) = &outcome.peer {
        let (ip, port) = (peer.address.ip(), peer.address.port());
        let how = match peer.tls.as_deref() {
            Some(tls) => format!(", {tls}"),
            // Where nobody answered, nothing was said in clear text either.
            None if outcome.reply.is_some() || outcome.in_doubt => ", in clear text".to_owned(),
            None => String::new(),
        };
        lines.push(WordLine::new(Tone::Plain, 1, format!("{} [{ip}]:{port}{how}", peer.host)));
    }
    lines.push(WordLine::new(Tone::Plain, 1, &*outcome.text));
    lines
}

/// What is said behind an outcome of somebody who is or was in doubt.
pub fn doubt(outcome: &Outcome) -> &'static str {
    match outcome.kind {
        _ if !outcome.in_doubt => "",
        Kind::Delivered => ", in doubt before: may have arrived twice",
        Kind::Deferred | Kind::Failed => ", in doubt: may have arrived",
    }
}

fn group(group: &Group<'_>, now: Timestamp) -> StepLine {
    let mut titles: Vec<String> = group.recipients.iter().take(NAMED).map(|recipient| recipient.address.to_string()).collect();
    if let Some(more) = group.recipients.len().checked_sub(NAMED).filter(|more| *more > 0) {
        titles.push(format!("and {}", count(more, "other", "others")));
    }
    let mut lines = match group.last {
        None => vec![WordLine::soft("not tried yet")],
        Some((last, at)) => outcome(last, at, now),
    };
    let doubt = match group.doubt {
        Doubt::No | Doubt::MayHaveArrivedTwice => None,
        Doubt::MayArriveTwice => Some("it is sent again, and may arrive a second time (retry.in_doubt)"),
        Doubt::ToBeDecided => Some("whoever releases it decides that it may arrive a second time"),
        Doubt::MayHaveArrived => Some("it was given up, and may have arrived all the same"),
    };
    lines.extend(doubt.map(|doubt| WordLine::new(Tone::Warn, 0, doubt)));
    lines.extend(told(group.told).map(WordLine::plain));
    StepLine { step: "recipients".to_owned(), titles, lines }
}

fn told(told: Told<'_>) -> Option<String> {
    Some(match told {
        Told::Nothing => return None,
        Told::Nobody(Silence::Removed) => "nobody was told: an administrator removed it".to_owned(),
        Told::Nobody(Silence::Discarded) => "nobody was told: an override discarded it".to_owned(),
        Told::Nobody(Silence::NotWanted) => "nobody was told, as its sender asked".to_owned(),
        Told::Done(action, to) => format!("{to} was told: {}", of(action)),
        Told::Due(action, to) => format!("{to} is to be told: {}", of(action)),
        Told::Kept => "the null sender cannot be told: it is kept in failed/".to_owned(),
    })
}

fn of(action: ReportAction) -> &'static str {
    match action {
        ReportAction::Failed => "failed",
        ReportAction::Delayed => "delayed",
        ReportAction::Relayed => "relayed to a host that confirms nothing",
    }
}

/// Why it is where it is, in a line.
pub(super) fn standing(standing: &Standing<'_>, now: Timestamp) -> String {
    match standing {
        Standing::Finished => "finished".to_owned(),
        Standing::Held { by, reason } => match by {
            Holder::InDoubt | Holder::SomeOverride => format!("on hold: {reason}"),
            Holder::Override(line) => format!("on hold by the override at line {line}: {reason}"),
            Holder::FormerOverride => format!("on hold by an override that is gone: {reason}"),
            Holder::Administrator { by, since } => format!("on hold by {by} since {}: {reason}", moment(*since, now)),
        },
        Standing::Sending { number } => format!("attempt {number} is under way"),
        Standing::CutOff { number } => format!("attempt {number} was under way when the daemon ended"),
        Standing::Waiting { until, cause: Cause::NotBefore } => format!("not before {}, as its sender asked", moment(*until, now)),
        Standing::Waiting { until, cause: Cause::SiteDown } => format!("waits until {}, as its site is down", moment(*until, now)),
        Standing::Waiting { until, cause: Cause::Failed { number, asked } } => {
            let asked = asked.map(|wait| format!(", and its peer asked for {}", humantime::format_duration(wait))).unwrap_or_default();
            format!("waits until {}, as attempt {number} failed for now{asked}", moment(*until, now))
        }
        Standing::Due { since } => format!("due since {}", moment(*since, now)),
    }
}

fn daemons_view(live: &LiveCopy, now: Timestamp) -> Vec<String> {
    let mut lines = vec![match &live.place {
        Place::Deferred => "it waits for its time".to_owned(),
        Place::Queue => "not in memory: it is read when there is room".to_owned(),
        Place::Parked => "not in memory: enough copies for its site are".to_owned(),
        Place::Routing => "its route is being looked up".to_owned(),
        Place::Board { number, of, obstacle } => format!("number {number} of {of} that wait for its site; {}", waits_for(obstacle, now)),
        Place::Paused { reason } => format!("not in memory: its site is paused: {reason}"),
        Place::Sending { phase, host, since, .. } => {
            let host = host.as_ref().map(|host| format!(", {host}")).unwrap_or_default();
            let since = since.map(|since| format!(", since {}", moment(since, now))).unwrap_or_default();
            format!("{}{host}{since}", doing(*phase))
        }
    }];
    if let Some(site) = &live.site {
        lines.push(format!("its site is {}", site.site));
        if let Some(down) = &site.down {
            let (since, until) = (moment(down.since, now), moment(down.until, now));
            let alone = if now < down.until { "left alone" } else { "was left alone" };
            let look = if now < down.until { "" } else { "; one copy is to look whether it is back" };
            lines.push(format!("which is down since {since} and {alone} until {until}: {}{look}", down.reason));
        }
    }
    lines
}

fn doing(phase: Doing) -> &'static str {
    match phase {
        Doing::Connecting => "a session is being opened",
        Doing::Next => "it is next in a session",
        Doing::Transaction => "it is being sent",
        Doing::Recording => "what came of it is being recorded",
    }
}

fn waits_for(obstacle: &Obstacle, now: Timestamp) -> String {
    match obstacle {
        Obstacle::Nothing => "the next one is about to be taken".to_owned(),
        Obstacle::Pause { reason } => format!("the site is paused: {reason}"),
        Obstacle::Rate { until } => format!("the site's rate is used up until {}", moment(*until, now)),
        Obstacle::SiteLimit { sessions, limit } => format!("the site has {sessions} of {limit} sessions"),
        Obstacle::Workers { total } => format!("all of {total} workers are busy"),
    }
}

/// What is to happen, in a line.
pub(super) fn next(next: &Next<'_>, id: MessageId, now: Timestamp) -> String {
    let then = |then: &Option<Duration>, too: &str| match then {
        Some(wait) => format!("; if it fails for now{too}, the next one is about {} later", humantime::format_duration(*wait)),
        None => String::new(),
    };
    match next {
        Next::DaemonStart => "nothing before the daemon is started, and then:".to_owned(),
        Next::Judgement { in_doubt } => {
            let who = match in_doubt {
                Some(InDoubt::Retry) => "who may have the message is sent it again",
                Some(InDoubt::Hold) => "who may have the message is held",
                None => "who may have the message is held or sent it again (retry.in_doubt)",
            };
            format!("the attempt is judged by the in-doubt journal: {who}, everybody else is tried at once")
        }
        Next::Release => format!("nothing before it is released (smtp-direct queue release {id}), not even its expiry"),
        Next::PauseEnd => "nothing before the pause of its site is ended, and then:".to_owned(),
        Next::End { then: wait } => format!("the attempt ends{}", then(wait, "")),
        Next::Attempt { number, at, then: wait } => {
            let when = if *at <= now { "as soon as a worker takes it".to_owned() } else { moment(*at, now) };
            format!("{when}: attempt {number}{}", then(wait, if *number > 1 { " too" } else { "" }))
        }
        Next::DelayNotice { from, to } if *from <= now => format!("when an attempt fails for now, {to} is told of the delay"),
        Next::DelayNotice { from, to } => {
            format!("{}: from then on, an attempt that fails for now has {to} told of the delay", moment(*from, now))
        }
        Next::GivenUp { at, tells } => {
            let tells = match tells {
                Tells::Sender(to) => format!("{to} gets a failure report"),
                Tells::Nobody => "nobody is told, as its sender asked".to_owned(),
                Tells::Kept { postmaster: false } => "kept in failed/, as the null sender cannot be told".to_owned(),
                Tells::Kept { postmaster: true } => {
                    "kept in failed/ and sent to reports.postmaster, as the null sender cannot be told".to_owned()
                }
            };
            let when = if *at <= now { "now".to_owned() } else { moment(*at, now) };
            format!("{when}: given up, and {tells}")
        }
        Next::Report { to } => format!("a report to {to} is written, within a minute"),
    }
}

//! The facts about a copy, for people.

use std::io::{self, Write};
use std::time::Duration;

use super::{RouteNow, Story};
use crate::cli::queue::{attempt, last_outcome, shown};
use crate::cli::table::{self, BOLD, DIM, PLAIN, WARN, moment};
use crate::clock::Timestamp;
use crate::config::InDoubt;
use crate::delivery::live::{LiveCopy, Obstacle, Place};
use crate::delivery::why::{Cause, Daemon, Doubt, Group, Holder, Next, Silence, Standing, Tells, Told};
use crate::message::{Address, MessageId};
use crate::queue::{MessageDetail, ReportAction};
use crate::route::{Decision, OverrideFate, Part, Step};

/// Recipients of one fate that are named.
const NAMED: usize = 20;

/// What all copies of a message share.
pub(super) fn heading(detail: &MessageDetail, daemon: &Daemon, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let message = &detail.message;
    table::line(out, BOLD, &format!("Message {}", message.id))?;
    table::field(out, "From", &shown(&message.sender))?;
    table::field(
        out,
        "Accepted",
        &format!("{} from {}, {}", moment(message.accepted_at, now), message.source, table::size(message.content.wire_size)),
    )?;
    if let Some(finished_at) = detail.finished_at {
        table::field(out, "Finished", &moment(finished_at, now))?;
    }
    let daemon = match daemon {
        Daemon::Running { pid } => format!("runs, pid {pid}"),
        Daemon::Stopped => "does not run".to_owned(),
        Daemon::Unknown { reason } => format!("cannot be asked for: {reason}"),
    };
    table::field(out, "Daemon", &daemon)
}

/// One copy, from what was tried to what is to come.
pub(super) fn copy(story: &Story<'_>, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let Story { message, copy, chain, route, .. } = story;
    let sender = message.message.sender.address();
    writeln!(out)?;
    table::paragraph(out, 0, BOLD, &format!("Copy to {}: {}", copy.domain, standing(&chain.standing, now)))?;
    copy.history.iter().try_for_each(|one| attempt(one, now, out))?;
    chain.groups.iter().try_for_each(|one| group(one, now, out))?;
    if let Some(sender) = sender.filter(|_| chain.told_of_delay) {
        table::paragraph(out, 2, PLAIN, &format!("{sender} was told of the delay"))?;
    }
    if let Some(live) = chain.live {
        table::line(out, PLAIN, "  Now")?;
        daemons_view(live, now).iter().try_for_each(|line| table::paragraph(out, 4, PLAIN, line))?;
    }
    route_now(story, route, out)?;
    table::line(out, PLAIN, "  Next")?;
    if chain.next.is_empty() {
        table::line(out, PLAIN, "    nothing: all is done")?;
    }
    chain.next.iter().try_for_each(|one| table::paragraph(out, 4, PLAIN, &next(one, message.message.id, now)))
}

fn standing(standing: &Standing<'_>, now: Timestamp) -> String {
    match standing {
        Standing::Finished => "finished".to_owned(),
        Standing::Held { by: Holder::Override(line), reason } => format!("on hold by the override at line {line}: {reason}"),
        Standing::Held { by: Holder::InDoubt | Holder::Other, reason } => format!("on hold: {reason}"),
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

fn group(group: &Group<'_>, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    for recipient in group.recipients.iter().take(NAMED) {
        table::paragraph(out, 2, PLAIN, &recipient.address.to_string())?;
    }
    if let Some(more) = group.recipients.len().checked_sub(NAMED).filter(|more| *more > 0) {
        table::line(out, PLAIN, &format!("  and {}", table::count(more, "other", "others")))?;
    }
    match group.last {
        None => table::line(out, DIM, "    not tried yet")?,
        Some((outcome, at)) => last_outcome(outcome, at, now, out)?,
    }
    let doubt = match group.doubt {
        Doubt::No | Doubt::MayHaveArrivedTwice => None,
        Doubt::MayArriveTwice => Some("it is sent again, and may arrive a second time (retry.in_doubt)"),
        Doubt::ToBeDecided => Some("whoever releases it decides that it may arrive a second time"),
        Doubt::MayHaveArrived => Some("it was given up, and may have arrived all the same"),
    };
    doubt.map_or(Ok(()), |doubt| table::paragraph(out, 4, WARN, doubt))?;
    let told = match group.told {
        Told::Nothing => return Ok(()),
        Told::Nobody(Silence::Removed) => "nobody was told: an administrator removed it".to_owned(),
        Told::Nobody(Silence::Discarded) => "nobody was told: an override discarded it".to_owned(),
        Told::Nobody(Silence::NotWanted) => "nobody was told, as its sender asked".to_owned(),
        Told::Done(action, to) => format!("{to} was told: {}", of(action)),
        Told::Due(action, to) => format!("{to} is to be told: {}", of(action)),
        Told::Kept => "the null sender cannot be told: it is kept in failed/".to_owned(),
    };
    table::paragraph(out, 4, PLAIN, &told)
}

fn of(action: ReportAction) -> &'static str {
    match action {
        ReportAction::Failed => "failed",
        ReportAction::Delayed => "delayed",
        ReportAction::Relayed => "relayed to a host that confirms nothing",
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
        Place::Sending { phase, host, since } => {
            let host = host.as_ref().map(|host| format!(", {host}")).unwrap_or_default();
            let since = since.map(|since| format!(", since {}", moment(since, now))).unwrap_or_default();
            format!("{phase}{host}{since}")
        }
    }];
    if let Some(site) = &live.site {
        lines.push(format!("its site is {}", site.site));
        if let Some(down) = &site.down {
            let (since, until) = (moment(down.since, now), moment(down.until, now));
            lines.push(format!("which is down since {since} and left alone until {until}: {}", down.reason));
        }
    }
    if let Some(age) = live.answer_age {
        lines.push(format!("the DNS answer that it goes by is {} old", table::span(Duration::from_secs(age))));
    }
    lines
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

fn route_now(story: &Story<'_>, route: &RouteNow, out: &mut dyn Write) -> io::Result<()> {
    let unknown = match route {
        RouteNow::Nowhere => return Ok(()),
        RouteNow::NoConfig => Some("not known: the configuration has errors".to_owned()),
        RouteNow::Unknown(reason) => Some(format!("not known: {reason}")),
        RouteNow::Overrides(_) | RouteNow::Full(_) => None,
    };
    table::line(out, PLAIN, "  Route now")?;
    if let Some(unknown) = unknown {
        return table::paragraph(out, 4, PLAIN, &unknown);
    }
    let (parts, steps) = route.told();
    for part in parts {
        let decided = decided(part, matches!(route, RouteNow::Overrides(_)), &steps);
        let who = if parts.len() > 1 { format!("{}: ", who(story, part)) } else { String::new() };
        table::paragraph(out, 4, PLAIN, &format!("{who}{decided}"))?;
    }
    let (others, told): (Vec<&Step>, Vec<&Step>) = steps.into_iter().partition(|step| has_no_say(step));
    match others[..] {
        [] => {}
        [one] => table::paragraph(out, 4, DIM, &one.to_string())?,
        // Each of them is what `route` is asked for, and who has a hundred wants to see the one that matches.
        _ => table::paragraph(out, 4, DIM, &format!("{} overrides do not match: smtp-direct route ADDRESS says why", others.len()))?,
    }
    told.iter().try_for_each(|step| table::paragraph(out, 4, DIM, &step.to_string()))
}

/// An override for others.
fn has_no_say(step: &Step) -> bool {
    matches!(step, Step::Override { fate: OverrideFate::Unmet(_), .. })
}

fn decided(part: &Part, no_dns: bool, steps: &[&Step]) -> String {
    let by = |rule: &crate::route::Rule| format!("by the override at line {}: {}", rule.line, rule.reason);
    match &part.decision {
        Ok(Decision::Send(route)) => {
            let hosts: Vec<String> = route.endpoints.iter().map(|endpoint| format!("{} {}", endpoint.host, endpoint.address)).collect();
            format!("{} ({})", hosts.join(", "), route.source)
        }
        Ok(Decision::Hold(rule)) => format!("it would be held {}", by(rule)),
        Ok(Decision::Reject(rule)) => format!("it would be returned to its sender {}", by(rule)),
        Ok(Decision::Discard(rule)) => format!("it would be discarded {}", by(rule)),
        Err(_) if no_dns => {
            let matched = |step: &&&Step| matches!(step, Step::Override { fate: OverrideFate::Matched, .. });
            let what = if steps.iter().any(|step| matched(&step)) { "the overrides that match" } else { "its MX records" };
            format!("by {what}; DNS was not asked (--no-dns)")
        }
        Err(fault) => format!("none: {fault}"),
    }
}

/// The recipients of a part, in brief.
fn who(story: &Story<'_>, part: &Part) -> String {
    let waiting: Vec<&Address> = story.waiting();
    let names = part.recipients.iter().filter_map(|&index| waiting.get(index));
    let (count, first) = (part.recipients.len(), names.map(|name| name.to_string()).next().unwrap_or_default());
    if count > 1 { format!("{first} and {} more", count - 1) } else { first }
}

fn next(next: &Next<'_>, id: MessageId, now: Timestamp) -> String {
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

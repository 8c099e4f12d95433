//! `GET /v1/messages/{id}/why`: why each copy of a message has not arrived, and what happens next. Takes what the queue holds, the
//! configuration and what the running daemon knows; the command line makes the same of the queue and the configuration alone.

mod line;
mod route;
mod words;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::line::{AnswerLine, CopyWhy, FateLine, MessageWhy, NextLine, RouteLine, StandingLine, StepLine, ToldLine, Tone, WordLine};
pub use self::route::{RouteNow, RoutedBy, decision_json, route_now};
pub use self::words::{attempt, doubt, order, outcome};
use super::copies::Memory;
use super::router::Call;
use super::{ActionLine, Answer, Api, ApiError, AttemptLine, LastOutcome, time, whole};
use crate::clock::Timestamp;
use crate::config::{Config, InDoubt};
use crate::delivery::Context;
use crate::delivery::live::{Down, LiveCopy, LiveSite};
use crate::delivery::why::{Cause, Chain, Daemon, Doubt, Given, Group, Holder, Next, Silence, Standing, Tells, Told, chain};
use crate::message::Address;
use crate::outcome::Kind;
use crate::queue::{CopyDetail, CopyId, CopyState, MessageDetail, ReportAction};

/// How long DNS is waited for, where the request says nothing, and at most.
const DNS_WAIT: Duration = Duration::from_secs(3);
const MAX_DNS_WAIT: Duration = Duration::from_secs(60);

/// A copy and what is known of it.
struct Story<'a> {
    message: &'a MessageDetail,
    copy: &'a CopyDetail,
    chain: Chain<'a>,
    route: &'a RouteNow,
    live: Option<&'a LiveCopy>,
}

/// What is known besides the queue.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The time of day.
    pub now: Timestamp,
    /// Whether somebody works on the queue.
    pub daemon: &'a Daemon,
    /// `None` where it has errors.
    pub config: Option<&'a Config>,
}

/// Which copies, and how long DNS may take.
struct Asked {
    copy: Option<CopyId>,
    dns: bool,
    wait: Duration,
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let asked = Asked::of(&call)?;
    let detail = api.message(&call).await?;
    let context = api.context();
    let routes = routes(&context, &detail, &asked).await;
    // A message may have thousands of copies.
    let tell = tokio::task::spawn_blocking(move || Answer::json(&message(&context, &detail, &asked, &routes)));
    tell.await.map_err(|_| ApiError::Internal("telling why broke off".to_owned()))?
}

impl Asked {
    fn copies<'a>(&self, detail: &'a MessageDetail) -> impl Iterator<Item = &'a CopyDetail> + use<'a> {
        let only = self.copy;
        detail.copies.iter().filter(move |copy| only.is_none_or(|only| only == copy.id))
    }

    fn of(call: &Call) -> Result<Self, ApiError> {
        let query = call.query();
        let number = |text: &str| text.parse().map(CopyId).map_err(|_| ApiError::Invalid("copy: a copy's number is wanted".to_owned()));
        let copy = query.value("copy").map(number).transpose()?;
        let dns = match query.value("dns") {
            None | Some("yes") => true,
            Some("no") => false,
            Some(_) => return Err(ApiError::Invalid("dns: yes or no".to_owned())),
        };
        let seconds = query.value("dns_timeout").map(str::parse::<f64>);
        let wait = seconds.map(|seconds| seconds.ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()));
        let wait =
            wait.unwrap_or(Some(DNS_WAIT)).ok_or_else(|| ApiError::Invalid("dns_timeout: a number of seconds is wanted".to_owned()))?;
        Ok(Self { copy, dns, wait: wait.min(MAX_DNS_WAIT) })
    }
}

/// Where the daemon would send the copies.
async fn routes(context: &Context, detail: &MessageDetail, asked: &Asked) -> Vec<RouteNow> {
    let router = if asked.dns { context.router.clone() } else { Arc::new(context.router.from_memory()) };
    let (now, end) = (context.clock.now(), Instant::now() + asked.wait);
    let mut routes = Vec::new();
    for copy in asked.copies(detail) {
        routes.push(route_now((&router, RoutedBy::Daemon, asked.dns), (detail, copy), (now, end)).await);
    }
    routes
}

/// Its copies, as the daemon has them; `routes`: one each.
fn message(context: &Context, detail: &MessageDetail, asked: &Asked, routes: &[RouteNow]) -> MessageWhy {
    let now = context.clock.now();
    let daemon = Daemon::Running { pid: std::process::id().to_string() };
    let known = Known { now, daemon: &daemon, config: Some(&context.config) };
    let memory = Memory::of(context, detail.message.id);
    let copies = asked.copies(detail).zip(routes).map(|(copy, route)| {
        let live = live(context, (copy, route), &memory, now);
        why((detail, copy), known, route, live.as_ref())
    });
    MessageWhy { id: detail.message.id.to_string(), finished_at: detail.finished_at.map(time), copies: copies.collect() }
}

/// Where it is, and how its site is: where nothing else tells which that is, its route does.
fn live(context: &Context, (copy, route): (&CopyDetail, &RouteNow), memory: &Memory, now: Timestamp) -> Option<LiveCopy> {
    let located = memory.locate(context, copy, now)?;
    let site = located.site.or_else(|| route.only().map(|route| route.site.clone())).map(|site| {
        let down = context.shared.lock().board.site(&site, Instant::now()).and_then(|view| view.health);
        let down = down.map(|health| Down { since: whole(health.since), until: whole(health.until), reason: health.detail });
        LiveSite { site: site.to_string(), down }
    });
    Some(LiveCopy { place: located.place, site })
}

/// Everything that is to be said of one copy of `message`.
pub fn why((message, copy): (&MessageDetail, &CopyDetail), known: Known<'_>, route: &RouteNow, live: Option<&LiveCopy>) -> CopyWhy {
    let Known { now, daemon, config } = known;
    let holding = route.holding();
    let live = live.filter(|_| copy.state != CopyState::Finished);
    let given = Given {
        now,
        daemon,
        retry: config.map(|config| &config.retry),
        postmaster: config.is_some_and(|config| config.reports.postmaster.is_some()),
        holding: holding.as_deref(),
        live,
    };
    let story = Story { message, copy, chain: chain(message, copy, given), route, live };
    let chain = &story.chain;
    let daemon = match daemon {
        Daemon::Running { .. } => "running",
        Daemon::Stopped => "stopped",
        Daemon::Unknown { .. } => "unknown",
    };
    let content = &message.message.content;
    CopyWhy {
        id: message.message.id.to_string(),
        copy: copy.id.0,
        domain: copy.domain.to_string(),
        from: message.message.sender.to_string(),
        source: message.message.source.clone(),
        message_id: content.message_id.as_deref().map(str::to_owned),
        size: content.wire_size,
        accepted_at: time(message.message.accepted_at),
        expires_at: time(message.message.expires_at),
        finished_at: message.finished_at.map(time),
        daemon: daemon.to_owned(),
        standing: standing(&chain.standing, now),
        recipients: chain.groups.iter().flat_map(fates).collect(),
        told_of_delay: chain.told_of_delay,
        attempts: copy.history.iter().map(AttemptLine::from).collect(),
        orders: chain.orders.iter().map(|order| ActionLine::from(*order)).collect(),
        route: route::line(&story),
        live: live.cloned(),
        next: chain.next.iter().map(|one| next(one, message, now)).collect(),
        steps: words::steps(&story, now),
    }
}

/// The recipients without an end: those whom its route's parts number.
fn waiting(copy: &CopyDetail) -> Vec<&Address> {
    let waits = copy.recipients.iter().filter(|(_, last)| last.as_ref().is_none_or(|(outcome, _)| outcome.kind == Kind::Deferred));
    waits.map(|(recipient, _)| &recipient.address).collect()
}

fn standing(standing: &Standing<'_>, now: Timestamp) -> StandingLine {
    let line = |kind: &str| StandingLine { kind: kind.to_owned(), text: words::standing(standing, now), ..StandingLine::default() };
    match standing {
        Standing::Finished => line("finished"),
        Standing::Held { by, reason } => {
            let held = |by: &str| StandingLine { by: Some(by.to_owned()), reason: Some((*reason).to_owned()), ..line("held") };
            match by {
                Holder::InDoubt => held("in_doubt"),
                Holder::Override(line) => StandingLine { line: Some(*line), ..held("override") },
                Holder::FormerOverride | Holder::SomeOverride => held("override"),
                Holder::Administrator { by, since } => {
                    StandingLine { who: Some((*by).to_owned()), since: Some(time(*since)), ..held("administrator") }
                }
            }
        }
        Standing::Sending { number } => StandingLine { attempt: Some(*number), ..line("sending") },
        Standing::CutOff { number } => StandingLine { attempt: Some(*number), ..line("cut_off") },
        Standing::Waiting { until, cause } => {
            let waiting = |cause: &str| StandingLine { until: Some(time(*until)), cause: Some(cause.to_owned()), ..line("waiting") };
            match cause {
                Cause::NotBefore => waiting("not_before"),
                Cause::SiteDown => waiting("site_down"),
                Cause::Failed { number, asked } => {
                    StandingLine { attempt: Some(*number), asked_for: asked.map(|wait| wait.as_secs()), ..waiting("failed") }
                }
            }
        }
        Standing::Due { since } => StandingLine { since: Some(time(*since)), ..line("due") },
    }
}

fn fates<'a>(group: &'a Group<'_>) -> impl Iterator<Item = FateLine> + 'a {
    let doubt = match group.doubt {
        Doubt::No => None,
        Doubt::MayArriveTwice => Some("may_arrive_twice"),
        Doubt::ToBeDecided => Some("to_be_decided"),
        Doubt::MayHaveArrivedTwice => Some("may_have_arrived_twice"),
        Doubt::MayHaveArrived => Some("may_have_arrived"),
    };
    group.recipients.iter().map(move |recipient| FateLine {
        to: recipient.address.to_string(),
        notify: recipient.notify.to_string(),
        last: group.last.map(|(outcome, at)| LastOutcome::of(outcome, at)),
        doubt: doubt.map(str::to_owned),
        told: told(group.told),
    })
}

fn told(told: Told<'_>) -> Option<ToldLine> {
    let report = |action: ReportAction, to: &Address, done| ToldLine {
        action: Some(action.as_str().to_owned()),
        to: Some(to.to_string()),
        done,
        ..ToldLine::default()
    };
    let nobody = |why: &str| ToldLine { nobody: Some(why.to_owned()), ..ToldLine::default() };
    Some(match told {
        Told::Nothing => return None,
        Told::Nobody(Silence::Removed) => nobody("removed"),
        Told::Nobody(Silence::Discarded) => nobody("discarded"),
        Told::Nobody(Silence::NotWanted) => nobody("not_wanted"),
        Told::Done(action, to) => report(action, to, true),
        Told::Due(action, to) => report(action, to, false),
        Told::Kept => ToldLine { kept: true, ..ToldLine::default() },
    })
}

fn next(next: &Next<'_>, message: &MessageDetail, now: Timestamp) -> NextLine {
    let text = words::next(next, message.message.id, now);
    let line = |event: &str| NextLine { event: event.to_owned(), text, ..NextLine::default() };
    let seconds = |wait: &Option<Duration>| wait.map(|wait| wait.as_secs_f64());
    match next {
        Next::DaemonStart => line("daemon_start"),
        Next::Judgement { in_doubt } => NextLine { in_doubt: in_doubt.map(InDoubt::as_str).map(str::to_owned), ..line("judgement") },
        Next::Release => line("release"),
        Next::PauseEnd => line("pause_end"),
        Next::End { then } => NextLine { then_after: seconds(then), ..line("end") },
        Next::Attempt { number, at, then } => {
            NextLine { at: Some(time(*at)), attempt: Some(*number), then_after: seconds(then), ..line("attempt") }
        }
        Next::DelayNotice { from, to } => NextLine { at: Some(time(*from)), to: Some(to.to_string()), ..line("delay_notice") },
        Next::GivenUp { at, tells } => {
            let (to, kept) = match tells {
                Tells::Sender(to) => (Some(to.to_string()), false),
                Tells::Nobody => (None, false),
                Tells::Kept { .. } => (None, true),
            };
            NextLine { at: Some(time(*at)), to, kept: Some(kept), ..line("given_up") }
        }
        Next::Report { to } => NextLine { to: Some(to.to_string()), ..line("report") },
    }
}

//! `smtp-direct queue why`: takes the database, the configuration and what the daemon tells, hands on why copies have not arrived and what
//! happens next. Works with the daemon down, and with a configuration that has errors: what is not known is left out, and said so.

pub(in crate::cli) mod daemon;
mod json;
mod text;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::{ReadError, finish};
use crate::cli::table;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::delivery::live::Live;
use crate::delivery::why::{Chain, Daemon, Given, chain};
use crate::message::{Address, Domain, MessageId};
use crate::outcome::{DnsFault, Kind};
use crate::queue::{CopyDetail, CopyId, CopyState, Inspect, MessageDetail, RecipientCopies, SqliteInspect};
use crate::route::{
    AddressAnswer, CachedDns, Decision, Dns, Explanation, Family, HickoryDns, LocalIdentity, LookupError, MxAnswer, Part, Query, Router,
    Rule, Step,
};

/// Unfinished copies of one recipient that a person reads.
const TEXT_LIMIT: usize = 20;

/// What to explain.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// Ids of messages, or addresses of recipients
    #[arg(value_name = "ID|ADDRESS", required = true)]
    pub subjects: Vec<Subject>,
    /// For an address: its unfinished copies, at most so many (default: 20, all with --json)
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// For an address: so many of its finished ones too, the newest
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub finished: usize,
    /// Ask no DNS server: of the route, only what the overrides say
    #[arg(long)]
    pub no_dns: bool,
    /// Wait for DNS no longer than this
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = crate::config::parse_span)]
    pub dns_timeout: Duration,
    /// One JSON object a line, for each copy
    #[arg(long)]
    pub json: bool,
}

/// A message, or all that is for a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// By its id.
    Message(MessageId),
    /// Its address.
    Recipient(Address),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            Address::parse(text).map(Self::Recipient).map_err(|error| error.to_string())
        } else {
            text.parse().map(Self::Message).map_err(|_| "write a message's id, or the address of a recipient".to_owned())
        }
    }
}

/// A message and those of its copies that are explained.
struct Case {
    detail: MessageDetail,
    copies: Vec<CopyId>,
}

/// Where a copy would go now.
enum RouteNow {
    /// It goes nowhere any more.
    Nowhere,
    /// There is no configuration to tell.
    NoConfig,
    /// It cannot be told, for this reason.
    Unknown(String),
    /// By the overrides alone: DNS was not asked.
    Overrides(Explanation),
    /// As routing would decide.
    Full(Explanation),
}

/// What is written of one copy.
struct Story<'a> {
    message: &'a MessageDetail,
    copy: &'a CopyDetail,
    chain: Chain<'a>,
    route: &'a RouteNow,
    daemon: &'a Daemon,
}

/// What explanations are drawn from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The queue.
    pub database: &'a Path,
    /// `None` where it has errors: then neither the route is known, nor what the schedule says.
    pub config: Option<&'a Config>,
    /// What the daemon tells of a message, where it can be asked; called only while it runs.
    pub live: &'a dyn Fn(MessageId) -> Option<Live>,
}

impl<'a> Sources<'a> {
    /// Without asking the daemon.
    pub fn without_daemon(database: &'a Path, config: Option<&'a Config>) -> Self {
        Self { database, config, live: &|_| None }
    }
}

/// Explains and prints; exit codes and writers as with [`super::run`].
pub fn run(args: &WhyArgs, sources: Sources<'_>, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let result = SqliteInspect::open(sources.database).map_err(ReadError::from).and_then(|queue| {
        let mut code = ExitCode::SUCCESS;
        for (n, subject) in args.subjects.iter().enumerate() {
            let (cases, more) = cases(args, &queue, subject)?;
            if cases.is_empty() {
                match subject {
                    Subject::Message(id) => writeln!(err, "smtp-direct: the queue knows no message {id}")?,
                    Subject::Recipient(to) => writeln!(err, "smtp-direct: the queue knows nothing for {to}")?,
                }
                code = ExitCode::FAILURE;
            }
            let daemon = daemon(sources.database);
            let routes = routes(args, &cases, sources.config, now)?;
            let mut first = n == 0;
            for (case, routes) in cases.iter().zip(&routes) {
                if !std::mem::take(&mut first) && !args.json {
                    writeln!(out)?;
                }
                write(args, case, (routes, &daemon, sources), now, out)?;
            }
            if more > 0 && !args.json {
                let more = table::count(more, "more copy", "more copies");
                table::line(out, table::DIM, &format!("\n{more} not finished: see --limit"))?;
            }
        }
        Ok(code)
    });
    finish(result, err)
}

fn write(
    args: &WhyArgs,
    case: &Case,
    (routes, daemon, Sources { config, live, .. }): (&[RouteNow], &Daemon, Sources<'_>),
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ReadError> {
    let live = if matches!(daemon, Daemon::Running { .. }) { live(case.detail.message.id) } else { None };
    if !args.json {
        text::heading(&case.detail, daemon, now, out)?;
    }
    for (copy, route) in case.copies().zip(routes) {
        let holding = route.holding();
        let given = Given {
            now,
            daemon,
            retry: config.map(|config| &config.retry),
            postmaster: config.is_some_and(|config| config.reports.postmaster.is_some()),
            holding: &holding,
            live: live.as_ref(),
        };
        let story = Story { message: &case.detail, copy, chain: chain(&case.detail, copy, given), route, daemon };
        if args.json {
            table::json(out, &json::JsonWhy::of(&story))?;
        } else {
            text::copy(&story, now, out)?;
        }
    }
    Ok(())
}

/// Who works on the queue that lies there.
fn daemon(database: &Path) -> Daemon {
    match super::layout_of(database).holder() {
        Ok(Some(pid)) => Daemon::Running { pid },
        Ok(None) => Daemon::Stopped,
        Err(error) => Daemon::Unknown { reason: error.to_string() },
    }
}

impl Case {
    fn copies(&self) -> impl Iterator<Item = &CopyDetail> {
        self.detail.copies.iter().filter(|copy| self.copies.contains(&copy.id))
    }
}

/// The messages that a subject means, and how many copies were left out.
fn cases(args: &WhyArgs, queue: &dyn Inspect, subject: &Subject) -> Result<(Vec<Case>, usize), ReadError> {
    let whole = |detail: MessageDetail| Case { copies: detail.copies.iter().map(|copy| copy.id).collect(), detail };
    let address = match subject {
        Subject::Message(id) => return Ok((queue.show(*id)?.map(whole).into_iter().collect(), 0)),
        Subject::Recipient(address) => address,
    };
    let RecipientCopies { mut open, finished } = queue.copies_for(address, args.finished)?;
    let limit = args.limit.or((!args.json).then_some(TEXT_LIMIT)).unwrap_or(usize::MAX);
    let more = open.len().saturating_sub(limit);
    open.truncate(limit);
    let mut cases: Vec<Case> = Vec::new();
    for (message, copy) in open.into_iter().chain(finished) {
        match cases.iter_mut().find(|case| case.detail.message.id == message) {
            Some(case) => case.copies.push(copy),
            // Purged meanwhile: nothing is known of it any more.
            None => cases.extend(queue.show(message)?.map(|detail| Case { detail, copies: vec![copy] })),
        }
    }
    Ok((cases, more))
}

/// Routes as the daemon does, with a cache of its own.
fn router(config: &Config, no_dns: bool) -> Result<Router, String> {
    let dns: Arc<dyn Dns> =
        if no_dns { Arc::new(NotAsked) } else { Arc::new(HickoryDns::new(&config.dns).map_err(|error| error.to_string())?) };
    let local = LocalIdentity::from_system(config.hostname.clone())
        .map_err(|error| format!("this host's own addresses cannot be read: {error}"))?;
    Ok(Router::new(config, CachedDns::new(dns, &config.dns), local))
}

/// No DNS server at all.
struct NotAsked;

impl Dns for NotAsked {
    fn mx<'a>(&'a self, _name: &'a Domain) -> BoxFuture<'a, MxAnswer> {
        Box::pin(async { Err(not_asked()) })
    }

    fn addresses<'a>(&'a self, _host: &'a str, _family: Family) -> BoxFuture<'a, AddressAnswer> {
        Box::pin(async { Err(not_asked()) })
    }
}

fn not_asked() -> LookupError {
    LookupError::Soft(DnsFault::Other("not asked".to_owned()))
}

/// Where each copy of each case would go, all of them within `--dns-timeout`.
fn routes(args: &WhyArgs, cases: &[Case], config: Option<&Config>, now: Timestamp) -> io::Result<Vec<Vec<RouteNow>>> {
    let goes_nowhere = |copy: &CopyDetail| copy.state == CopyState::Finished;
    let same = |unknown: &dyn Fn() -> RouteNow| {
        let one = |copy| if goes_nowhere(copy) { RouteNow::Nowhere } else { unknown() };
        cases.iter().map(|case| case.copies().map(one).collect()).collect()
    };
    let Some(config) = config else { return Ok(same(&|| RouteNow::NoConfig)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let router = match router(config, args.no_dns) {
            Ok(router) => router,
            Err(reason) => return Ok(same(&|| RouteNow::Unknown(reason.clone()))),
        };
        let end = Instant::now() + args.dns_timeout;
        let mut all = Vec::with_capacity(cases.len());
        for case in cases {
            let mut routes = Vec::new();
            for copy in case.copies() {
                routes.push(if goes_nowhere(copy) {
                    RouteNow::Nowhere
                } else {
                    match timeout_at(end, explain(&router, &case.detail, copy, now)).await {
                        Ok(explanation) if args.no_dns => RouteNow::Overrides(explanation),
                        Ok(explanation) => RouteNow::Full(explanation),
                        Err(_) => RouteNow::Unknown(format!("DNS did not answer within {}", humantime::format_duration(args.dns_timeout))),
                    }
                });
            }
            all.push(routes);
        }
        Ok(all)
    })
}

/// As delivery asks for a due copy.
async fn explain(router: &Router, message: &MessageDetail, copy: &CopyDetail, now: Timestamp) -> Explanation {
    let recipients = waiting(copy);
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
    router.explain(&query).await
}

/// The recipients without an end.
fn waiting(copy: &CopyDetail) -> Vec<&Address> {
    let waits = copy.recipients.iter().filter(|(_, last)| last.as_ref().is_none_or(|(outcome, _)| outcome.kind == Kind::Deferred));
    waits.map(|(recipient, _)| &recipient.address).collect()
}

impl Story<'_> {
    /// Those whom its route's parts number.
    fn waiting(&self) -> Vec<&Address> {
        waiting(self.copy)
    }
}

impl RouteNow {
    /// Overrides that would hold the copy today.
    fn holding(&self) -> Vec<Rule> {
        let (Self::Overrides(explanation) | Self::Full(explanation)) = self else { return Vec::new() };
        let rules = explanation.parts.iter().filter_map(|part| match &part.decision {
            Ok(Decision::Hold(rule)) => Some(rule.clone()),
            _ => None,
        });
        rules.collect()
    }

    /// What is decided for each part of the recipients, as far as it is known, and the steps that led there.
    fn told(&self) -> (&[Part], Vec<&Step>) {
        match self {
            Self::Nowhere | Self::NoConfig | Self::Unknown(_) => (&[], Vec::new()),
            Self::Full(explanation) => (&explanation.parts, explanation.steps.iter().collect()),
            Self::Overrides(explanation) => {
                (&explanation.parts, explanation.steps.iter().filter(|step| matches!(step, Step::Override { .. })).collect())
            }
        }
    }
}

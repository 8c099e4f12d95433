//! `smtp-direct queue why`: takes what the daemon tells, or the database and the configuration where it does not run, hands on why copies have
//! not arrived and what happens next. Works with the daemon down, and with a configuration that has errors: what is not known is left out,
//! and said so.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{ReadError, finish, step};
use crate::cli::table::{self, BOLD};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::control::client::Client;
use crate::control::why::{CopyWhy, Known, MessageWhy, RouteNow, RoutedBy, route_now, why};
use crate::delivery::why::Daemon;
use crate::message::{Address, Domain, MessageId};
use crate::outcome::DnsFault;
use crate::queue::{CopyDetail, CopyId, CopyState, Inspect, MessageDetail, RecipientCopies, SqliteInspect};
use crate::route::{AddressAnswer, CachedDns, Dns, Family, HickoryDns, LocalIdentity, LookupError, MxAnswer, Router};

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
    /// Ask no DNS server: of the route, only what the overrides say and what the running daemon remembers
    #[arg(long)]
    pub no_dns: bool,
    /// Wait for DNS no longer than this
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = crate::config::parse_span)]
    pub dns_timeout: Duration,
    /// One JSON object a line, for each copy: CopyWhy in the description of the control socket (GET /openapi.json)
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

/// What explanations are drawn from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The queue.
    pub database: &'a Path,
    /// `None` where it has errors: then neither the route is known, nor what the schedule says.
    pub config: Option<&'a Config>,
    /// Asks the daemon, or says why it cannot be asked; called only while it runs.
    pub ask: &'a dyn Fn(&Question) -> Result<MessageWhy, String>,
}

/// What the daemon is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Of which message.
    pub message: MessageId,
    /// Only of this copy.
    pub copy: Option<CopyId>,
    /// Whether it may ask DNS for what it does not remember.
    pub dns: bool,
    /// For how long.
    pub dns_timeout: Duration,
}

impl Question {
    /// Asks the daemon behind `client`; the error is for people.
    pub fn ask(&self, client: &Client) -> Result<MessageWhy, String> {
        let dns = if self.dns { "yes" } else { "no" };
        let copy = self.copy.map(|copy| format!("&copy={}", copy.0)).unwrap_or_default();
        let target = format!("/v1/messages/{}/why?dns={dns}&dns_timeout={}{copy}", self.message, self.dns_timeout.as_secs_f64());
        client.get(&target).map_err(|error| error.to_string())
    }
}

impl<'a> Sources<'a> {
    /// Without asking the daemon.
    pub fn without_daemon(database: &'a Path, config: Option<&'a Config>) -> Self {
        Self { database, config, ask: &|_| Err("its socket is not known".to_owned()) }
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
            let answers = answers(args, &cases, (sources, &daemon), now)?;
            let mut first = n == 0;
            for (case, answer) in cases.iter().zip(&answers) {
                if !std::mem::take(&mut first) && !args.json {
                    writeln!(out)?;
                }
                write(args, &case.detail, (answer, &daemon), now, out)?;
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

/// What is known of the copies of a case.
struct Told {
    copies: Vec<CopyWhy>,
    /// Why the daemon, which runs, did not tell it.
    unasked: Option<String>,
}

/// What the daemon tells of each case, or, where it cannot, what the queue and the configuration do.
fn answers(args: &WhyArgs, cases: &[Case], (sources, daemon): (Sources<'_>, &Daemon), now: Timestamp) -> Result<Vec<Told>, ReadError> {
    let asked = cases.iter().map(|case| match daemon {
        Daemon::Running { .. } => ask(args, case, sources).map_err(Some),
        Daemon::Stopped | Daemon::Unknown { .. } => Err(None),
    });
    let asked: Vec<Result<Vec<CopyWhy>, Option<String>>> = asked.collect();
    let alone: Vec<&Case> = cases.iter().zip(&asked).filter(|(_, told)| told.is_err()).map(|(case, _)| case).collect();
    let mut routes = routes(args, &alone, sources.config, now)?.into_iter();
    let known = Known { now, daemon, config: sources.config };
    let tell = |(case, told): (&Case, Result<Vec<CopyWhy>, Option<String>>)| match told {
        Ok(copies) => Told { copies, unasked: None },
        Err(unasked) => {
            let routes = routes.next().unwrap_or_default();
            Told {
                copies: case.copies().zip(&routes).map(|(copy, route)| why((&case.detail, copy), known, route, None)).collect(),
                unasked,
            }
        }
    };
    Ok(cases.iter().zip(asked).map(tell).collect())
}

/// What the daemon tells of a case.
fn ask(args: &WhyArgs, case: &Case, sources: Sources<'_>) -> Result<Vec<CopyWhy>, String> {
    let copy = match case.copies[..] {
        [only] => Some(only),
        _ => None,
    };
    let question = Question { message: case.detail.message.id, copy, dns: !args.no_dns, dns_timeout: args.dns_timeout };
    let mut copies = (sources.ask)(&question)?.copies;
    copies.retain(|copy| case.copies.contains(&CopyId(copy.copy)));
    Ok(copies)
}

fn write(
    args: &WhyArgs,
    detail: &MessageDetail,
    (told, daemon): (&Told, &Daemon),
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<(), ReadError> {
    if args.json {
        return Ok(told.copies.iter().try_for_each(|copy| table::json(out, copy))?);
    }
    heading(detail, (daemon, told.unasked.as_deref()), now, out)?;
    for copy in &told.copies {
        writeln!(out)?;
        table::paragraph(out, 0, BOLD, &format!("Copy to {}: {}", copy.domain, copy.standing.text))?;
        // The heading has said it.
        let steps = copy.steps.iter().filter(|step| step.step != "accepted");
        steps.into_iter().try_for_each(|one| step(one, out))?;
    }
    Ok(())
}

/// What all copies of a message share.
fn heading(detail: &MessageDetail, (daemon, unasked): (&Daemon, Option<&str>), now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let message = &detail.message;
    table::line(out, BOLD, &format!("Message {}", message.id))?;
    table::field(out, "From", &super::shown(&message.sender))?;
    table::field(
        out,
        "Accepted",
        &format!("{} from {}, {}", table::moment(message.accepted_at, now), message.source, table::size(message.content.wire_size)),
    )?;
    if let Some(finished_at) = detail.finished_at {
        table::field(out, "Finished", &table::moment(finished_at, now))?;
    }
    let daemon = match (daemon, unasked) {
        (Daemon::Running { pid }, None) => format!("runs, pid {pid}"),
        (Daemon::Running { pid }, Some(unasked)) => format!("runs, pid {pid}, and cannot be asked: {unasked}"),
        (Daemon::Stopped, _) => "does not run".to_owned(),
        (Daemon::Unknown { reason }, _) => format!("cannot be asked for: {reason}"),
    };
    table::field(out, "Daemon", &daemon)
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
    LookupError::Soft(DnsFault::NotAsked)
}

/// Where each copy of each case would go, all of them within `--dns-timeout`.
fn routes(args: &WhyArgs, cases: &[&Case], config: Option<&Config>, now: Timestamp) -> io::Result<Vec<Vec<RouteNow>>> {
    let same = |unknown: &dyn Fn() -> RouteNow| {
        let one = |copy: &CopyDetail| if copy.state == CopyState::Finished { RouteNow::Nowhere } else { unknown() };
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
                routes.push(route_now((&router, RoutedBy::Command, !args.no_dns), (&case.detail, copy), (now, end)).await);
            }
            all.push(routes);
        }
        Ok(all)
    })
}

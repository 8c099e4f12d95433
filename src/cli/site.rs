//! `smtp-direct site [list|show|pause|resume|retry]`: asks the running daemon about sets of mail servers. Where it does not run, `list` and
//! `show` tell what the queue has on record.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::ask::{self, AskError};
use super::queue::{ReadError, meant};
use super::table::{self, BAD, DIM, GOOD, PLAIN, Table, WARN};
use crate::clock::Timestamp;
use crate::control::client::{Client, ClientError, encoded};
use crate::control::{SiteAnswer, SiteLine, Sites};
use crate::queue::SqliteInspect;
use crate::route::Site;

/// Sets of mail servers.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SiteArgs {
    /// `list`, if none is named.
    #[command(subcommand)]
    pub command: Option<SiteCommand>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// List the sites that the daemon knows at present, and those that mail waits for; with the daemon down, those that are paused or that mail
    /// waits for, as the queue has them
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show everything known of one; with the daemon down, what the queue has of it
    Show(NameArgs),
    /// Begin nothing more with a site until it is resumed, also after a restart
    Pause(ChangeArgs),
    /// Send to a site again
    Resume(ChangeArgs),
    /// Try a site that is down now, and the copies that wait for it
    Retry(ChangeArgs),
}

/// Which.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// A server of it, with or without its port, or the whole name as `site list` shows it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which, and why.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Which
    #[command(flatten)]
    pub name: NameArgs,
    /// Why: for the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Where sites are known.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// The queue, read while no daemon runs. `None` where the configuration does not tell where it is.
    pub database: Option<&'a Path>,
}

/// Asks the daemon and writes its answer to `out`. Ends with 0, 1 for an unknown site, 75 where the daemon does not run and is needed; what the
/// queue tells in its place, as with [`super::queue::run`].
pub fn run(args: &SiteArgs, sources: Sources<'_>, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let client = sources.client;
    let result = match &args.command {
        None => list(args.json, sources, now, out, err),
        Some(SiteCommand::List { json }) => list(*json, sources, now, out, err),
        Some(SiteCommand::Show(args)) => show(args, sources, now, out, err),
        Some(SiteCommand::Pause(args)) => change("pause", &args.name, &args.reason, client, out),
        Some(SiteCommand::Resume(args)) => change("resume", &args.name, &args.reason, client, out),
        Some(SiteCommand::Retry(args)) => change("retry", &args.name, &args.reason, client, out),
    };
    ask::finish(result, err)
}

/// What the queue has on record of all sites, where `error` is that the daemon does not run; `err` gets to know.
fn recorded(error: ClientError, sources: Sources<'_>, now: Timestamp, err: &mut dyn Write) -> Result<Vec<SiteLine>, AskError> {
    let (ClientError::Down { path }, Some(database)) = (&error, sources.database) else { return Err(error.into()) };
    let queue = SqliteInspect::open(database).map_err(ReadError::from)?;
    let Sites { sites } = Sites::recorded(&queue, now).map_err(ReadError::from)?;
    let path = path.display();
    writeln!(err, "smtp-direct: the daemon does not run (nobody listens at {path}): this is what the queue has on record")?;
    Ok(sites)
}

fn list(json: bool, sources: Sources<'_>, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> Result<ExitCode, AskError> {
    let sites = match sources.client.get("/v1/sites") {
        Ok(Sites { sites }) => sites,
        Err(error) => recorded(error, sources, now, err)?,
    };
    if json {
        sites.iter().try_for_each(|site| table::json(out, site))?;
        return Ok(ExitCode::SUCCESS);
    }
    if sites.is_empty() {
        table::line(out, PLAIN, "no site is known: nothing waits, and nothing was sent for a while")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["SITE", "STATE", "SESSIONS", "WAITING", "DELIVERED", "DEFERRED", "FAILED"]);
    for site in &sites {
        let of_daemon = |text: String| if site.is_recorded() { "-".to_owned() } else { text };
        let cells = [
            site.name.clone(),
            state(site).to_owned(),
            of_daemon(format!("{}/{}", site.sessions, site.limit)),
            site.copies.to_string(),
            of_daemon(site.delivered.to_string()),
            of_daemon(site.deferred.to_string()),
            of_daemon(site.failed.to_string()),
        ];
        let style = match state(site) {
            "paused" => WARN,
            "up" => PLAIN,
            _ if site.is_recorded() => PLAIN,
            _ => BAD,
        };
        table.row(cells, style, note(site, now));
    }
    table.write(out)?;
    table::line(out, DIM, &table::count(sites.len(), "site", "sites"))?;
    Ok(ExitCode::SUCCESS)
}

fn state(site: &SiteLine) -> &str {
    if site.paused.is_some() { "paused" } else { &site.health.state }
}

fn note(site: &SiteLine, now: Timestamp) -> Option<String> {
    let parts: Vec<String> = rate(site).map(|rate| format!("rate {rate}")).into_iter().chain(latest(site, now)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The one that is set, and how long it holds copies back.
fn rate(site: &SiteLine) -> Option<String> {
    let wait = site.throttled_for.map(|wait| format!(", used up for {wait:.1} s")).unwrap_or_default();
    site.rate.as_ref().map(|rate| format!("{rate}{wait}"))
}

fn latest(site: &SiteLine, now: Timestamp) -> Option<String> {
    if let Some(paused) = &site.paused {
        return Some(format!("paused by {} {}: {}", paused.by, since(&paused.since, now), paused.reason));
    }
    if let (Some(error), Some(until)) = (&site.health.error, &site.health.until) {
        return Some(format!("tried again {}: {error}", since(until, now)));
    }
    site.last.as_ref().map(|last| format!("{} {}: {}", last.outcome, since(&last.at, now), last.text))
}

fn since(at: &str, now: Timestamp) -> String {
    at.parse().map_or_else(|_| at.to_owned(), |at| table::relative(at, now))
}

fn show(args: &NameArgs, sources: Sources<'_>, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> Result<ExitCode, AskError> {
    let site: SiteLine = match sources.client.get(&format!("/v1/sites/{}", encoded(&args.name))) {
        Ok(site) => site,
        Err(error) => {
            let sites = recorded(error, sources, now, err)?;
            let name = meant(&args.name, sites.iter().map(|site| Site::new(&*site.name)))?;
            let Some(site) = sites.into_iter().find(|site| site.name == name.as_str()) else {
                writeln!(err, "smtp-direct: the queue has no site {name}: smtp-direct site list lists those that it has")?;
                return Ok(ExitCode::FAILURE);
            };
            site
        }
    };
    if args.json {
        table::json(out, &site)?;
        return Ok(ExitCode::SUCCESS);
    }
    table::line(out, if state(&site) == "up" { GOOD } else { WARN }, &site.name)?;
    table::field(out, "State", state(&site))?;
    if let Some(paused) = &site.paused {
        table::field(out, "Paused", &format!("by {} {}: {}", paused.by, since(&paused.since, now), paused.reason))?;
    }
    if let (Some(error), Some(from), Some(until)) = (&site.health.error, &site.health.since, &site.health.until) {
        table::field(out, "Down", &format!("since {}, tried again {}: {error}", since(from, now), since(until, now)))?;
    }
    if site.is_recorded() {
        table::field(out, "Waiting", &table::count(usize::try_from(site.copies).unwrap_or(usize::MAX), "copy", "copies"))?;
    } else {
        of_daemon(&site, out)?;
    }
    let replies = [("Last", &site.last), ("Last error", &site.last_error)];
    for (name, reply) in replies {
        if let Some(reply) = reply {
            table::field(out, name, &format!("{} {}: {}", reply.outcome, since(&reply.at, now), reply.text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What only a running daemon knows.
fn of_daemon(site: &SiteLine, out: &mut dyn Write) -> io::Result<()> {
    let sessions = format!("{} of at most {}; {} connected, {} idle", site.sessions, site.limit, site.connected, site.idle);
    table::field(out, "Sessions", &sessions)?;
    let parked = table::count(usize::try_from(site.parked_domains).unwrap_or(usize::MAX), "domain", "domains");
    table::field(
        out,
        "Waiting",
        &format!(
            "{}, {} of them in memory and due; mail of {parked} stays in the queue until there is room",
            table::count(usize::try_from(site.copies).unwrap_or(usize::MAX), "copy", "copies"),
            site.waiting
        ),
    )?;
    if let Some(rate) = rate(site) {
        table::field(out, "Rate", &rate)?;
    }
    table::field(out, "Recipients", &format!("{} delivered, {} deferred, {} failed", site.delivered, site.deferred, site.failed))
}

fn change(verb: &str, args: &NameArgs, reason: &str, client: &Client, out: &mut dyn Write) -> Result<ExitCode, AskError> {
    let body = if reason.is_empty() { json!({}) } else { json!({ "reason": reason }) };
    let answer: SiteAnswer = client.post(&format!("/v1/sites/{}/{verb}", encoded(&args.name)), &body)?;
    if args.json {
        table::json(out, &answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = match (verb, answer.changed) {
        ("pause", true) => "paused: sessions that are open end with what they have".to_owned(),
        ("pause", false) => "is paused already".to_owned(),
        ("resume", true) => "resumed".to_owned(),
        ("resume", false) => "is not paused".to_owned(),
        (_, true) => {
            format!("is tried now; {} made due", table::count(usize::try_from(answer.copies).unwrap_or(usize::MAX), "copy", "copies"))
        }
        (_, false) => "is not down, and nothing waits for it".to_owned(),
    };
    table::line(out, PLAIN, &format!("{}: {text}", answer.name))?;
    if !answer.known {
        table::line(
            out,
            WARN,
            "nothing was sent there of late: this is about mail that will go to exactly these servers (smtp-direct site list shows where some was sent)",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

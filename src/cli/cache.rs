//! `smtp-direct cache [list|flush]`: asks the running daemon for the DNS answers that it has in memory.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::ask::{self, AskError};
use super::table::{self, DIM, PLAIN, Table};
use crate::control::client::{Client, ClientError};
use crate::control::{Cache, Flush, Flushed};

/// DNS answers in memory.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CacheArgs {
    /// `list`, if none is named.
    #[command(subcommand)]
    pub command: Option<CacheCommand>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the answers, last used first
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Forget the answers for a name, or all of them
    Flush {
        /// Default: all
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// A JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Asks the daemon and writes its answer to `out`. Ends with 0, or 75 where the daemon does not run.
pub fn run(args: &CacheArgs, client: &Client, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let result = match &args.command {
        None => list(args.json, client, out),
        Some(CacheCommand::List { json }) => list(*json, client, out),
        Some(CacheCommand::Flush { name, json }) => flush(name.clone(), *json, client, out),
    };
    let result = result.map_err(|error| match error {
        AskError::Client(down @ ClientError::Down { .. }) => AskError::Memory(down),
        other => other,
    });
    ask::finish(result, err)
}

fn list(json: bool, client: &Client, out: &mut dyn Write) -> Result<ExitCode, AskError> {
    let cache: Cache = client.get("/v1/cache")?;
    if json {
        cache.entries.iter().try_for_each(|entry| table::json(out, entry))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !cache.entries.is_empty() {
        let mut table = Table::new(["NAME", "TYPE", "AGE", "EXPIRES", "HITS", "ANSWER"]);
        for entry in &cache.entries {
            let expires = entry.expires_in.map_or_else(|| "expired".to_owned(), |left| format!("in {}", seconds(left)));
            let (name, record_type, answer) = (entry.name.clone(), entry.record_type.clone(), entry.answer.clone());
            let style = if entry.expires_in.is_some() { PLAIN } else { DIM };
            table.row([name, record_type, seconds(entry.age), expires, entry.hits.to_string(), answer], style, None);
        }
        table.write(out)?;
    }
    let total = format!("{} of at most {} answers; {} hits, {} misses", cache.entries.len(), cache.capacity, cache.hits, cache.misses);
    table::line(out, DIM, &total)?;
    Ok(ExitCode::SUCCESS)
}

fn seconds(seconds: f64) -> String {
    table::span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn flush(name: Option<String>, json: bool, client: &Client, out: &mut dyn Write) -> Result<ExitCode, AskError> {
    let flushed: Flushed = client.post("/v1/cache/flush", &Flush { name })?;
    if json {
        table::json(out, &flushed)?;
    } else {
        let count = table::count(usize::try_from(flushed.flushed).unwrap_or(usize::MAX), "answer", "answers");
        table::line(out, PLAIN, &format!("forgot {count}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `smtp-direct history`: takes the database, hands on final outcomes, newest first. Nothing here changes anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::queue::{JsonOutcome, ReadError, finish, shown};
use super::table::{self, DIM, PLAIN, Table, style_of};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::queue::{HistoryFilter, HistoryRow, Inspect, SqliteInspect};

/// Rows of a table where `--limit` says nothing.
const TABLE_LIMIT: usize = 100;

/// What became of messages: delivered and failed recipients, newest first.
#[derive(Debug, Default, Args)]
pub struct HistoryArgs {
    /// Only recipients like this; "*" stands for any text
    #[arg(long, value_name = "PATTERN")]
    pub to: Option<String>,
    /// Only messages with a sender like this; "<>" is the null sender
    #[arg(long, value_name = "PATTERN")]
    pub from: Option<String>,
    /// Only what happened within this time until now, e.g. "2h"
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Only this message
    #[arg(long, value_name = "ID")]
    pub id: Option<MessageId>,
    /// At most this many recipients (default: 100 in a table, all with --json)
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Reads the history in `database` and writes it to `out`; exit codes and writers as with [`super::queue::run`].
pub fn run(args: &HistoryArgs, database: &Path, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let result = SqliteInspect::open(database).map_err(ReadError::from).and_then(|queue| history(args, &queue, now, out));
    finish(result, err)
}

fn history(args: &HistoryArgs, queue: &dyn Inspect, now: Timestamp, out: &mut dyn Write) -> Result<ExitCode, ReadError> {
    let limit = args.limit.or((!args.json).then_some(TABLE_LIMIT));
    let filter = HistoryFilter {
        id: args.id,
        to: args.to.clone(),
        from: args.from.clone(),
        since: args.since.map(|since| now.checked_sub(since).unwrap_or(Timestamp::MIN)),
        // One more, to know whether there is more.
        limit: limit.map(|limit| limit.saturating_add(1)),
    };
    let mut rows = queue.history(&filter)?;
    let more = limit.is_some_and(|limit| rows.len() > limit);
    rows.truncate(limit.unwrap_or(usize::MAX));
    if args.json {
        rows.iter().try_for_each(|row| table::json(out, &JsonRow::of(row)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        table::line(out, PLAIN, "no outcomes")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["WHEN", "OUTCOME", "ID", "TO"]);
    for row in &rows {
        let outcome = &row.outcome;
        let cells = [table::relative(row.at, now), outcome.kind.as_str().to_owned(), row.message.to_string(), row.recipient.to_string()];
        table.row(cells, style_of(outcome.kind), Some(note(row)));
    }
    table.write(out)?;
    let more = if more { "; there are more: see --limit" } else { "" };
    table::line(out, DIM, &format!("{}{more}", table::count(rows.len(), "recipient", "recipients")))?;
    Ok(ExitCode::SUCCESS)
}

fn note(row: &HistoryRow) -> String {
    let attempts = table::count(row.attempts as usize, "attempt", "attempts");
    let mut note = format!("from {}, {attempts} in {}", shown(&row.sender), table::age(row.accepted_at, row.at));
    if let Some(peer) = &row.outcome.peer {
        note = format!("{note}, {}", peer.host);
    }
    if row.outcome.in_doubt {
        note.push_str(", in doubt");
    }
    format!("{note}: {}", row.outcome.text)
}

#[derive(Serialize)]
struct JsonRow<'a> {
    id: String,
    from: String,
    to: String,
    message_id: Option<&'a str>,
    accepted_at: String,
    attempts: u32,
    #[serde(flatten)]
    outcome: JsonOutcome<'a>,
}

impl<'a> JsonRow<'a> {
    fn of(row: &'a HistoryRow) -> Self {
        Self {
            id: row.message.to_string(),
            from: row.sender.to_string(),
            to: row.recipient.to_string(),
            message_id: row.message_id.as_deref(),
            accepted_at: row.accepted_at.to_string(),
            attempts: row.attempts,
            outcome: JsonOutcome::of(&row.outcome, row.at),
        }
    }
}

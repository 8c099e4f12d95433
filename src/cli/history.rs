//! `smtp-direct history`: takes the database, hands on final outcomes, newest first. Nothing here changes anything.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::queue::{ReadError, finish, shown};
use super::table::{self, DIM, PLAIN, Table, style_of};
use crate::clock::Timestamp;
use crate::config::When;
use crate::control::LastOutcome;
use crate::control::why::doubt;
use crate::message::MessageId;
use crate::queue::{Ending, HistoryCursor, HistoryFilter, HistoryRow, Inspect, SqliteInspect};

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
    /// Only recipients in domains like this
    #[arg(long, value_name = "PATTERN")]
    pub domain: Option<String>,
    /// Only what happened from then on: "2h" (until now), or a time of day in UTC, "2026-09-21 14:13"
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only what happened before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<When>,
    /// Only this message
    #[arg(long, value_name = "ID")]
    pub id: Option<MessageId>,
    /// Only messages with a Message-ID field like this, with or without its angle brackets
    #[arg(long, value_name = "PATTERN")]
    pub message_id: Option<String>,
    /// Only "delivered", "failed", or, of the failed ones, "expired", "discarded" by an override, or "bounced" or "removed" by an administrator
    #[arg(long, value_name = "WORD")]
    pub outcome: Option<Ending>,
    /// Only recipients who were in doubt once, and may have got it twice
    #[arg(long)]
    pub in_doubt: bool,
    /// At most this many recipients (default: 100 in a table, all with --json)
    #[arg(long, value_name = "N", conflicts_with = "count")]
    pub limit: Option<usize>,
    /// The page after this one: as the page before said at its end, or "cursor" of its last object
    #[arg(long, value_name = "CURSOR", conflicts_with = "count")]
    pub before: Option<HistoryCursor>,
    /// How many there are, instead of them
    #[arg(long)]
    pub count: bool,
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
        domain: args.domain.clone(),
        message_id: args.message_id.clone(),
        since: args.since.map(|since| since.from(now)),
        until: args.until.map(|until| until.from(now)),
        ending: args.outcome,
        in_doubt: args.in_doubt,
        before: args.before,
        limit,
    };
    if args.count {
        return count(args, queue.count_history(&filter)?, out);
    }
    let page = queue.history_page(&filter)?;
    if args.json {
        page.rows.iter().try_for_each(|row| table::json(out, &JsonRow::of(row)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if page.rows.is_empty() {
        let none = if page.more { "there are some: see --limit" } else { "no outcomes" };
        table::line(out, PLAIN, none)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["WHEN", "OUTCOME", "ID", "TO"]);
    for row in &page.rows {
        let outcome = &row.outcome;
        let cells = [table::relative(row.at, now), outcome.kind.as_str().to_owned(), row.message.to_string(), row.recipient.to_string()];
        table.row(cells, style_of(outcome.kind), Some(note(row)));
    }
    table.write(out)?;
    let more = page.next().map_or_else(String::new, |next| format!("; there are more: --before {next}"));
    table::line(out, DIM, &format!("{}{more}", table::count(page.rows.len(), "recipient", "recipients")))?;
    Ok(ExitCode::SUCCESS)
}

fn count(args: &HistoryArgs, count: u64, out: &mut dyn Write) -> Result<ExitCode, ReadError> {
    if args.json {
        table::json(out, &JsonCount { recipients: count })?;
    } else {
        table::line(out, PLAIN, &count.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn note(row: &HistoryRow) -> String {
    let attempts = table::count(row.attempts as usize, "attempt", "attempts");
    let mut note = format!("from {}, {attempts} in {}", shown(&row.sender), table::age(row.accepted_at, row.at));
    if let Some(peer) = &row.outcome.peer {
        note = format!("{note}, {}", peer.host);
    }
    note.push_str(doubt(&row.outcome));
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
    outcome: LastOutcome,
    /// For --before.
    cursor: String,
}

#[derive(Serialize)]
struct JsonCount {
    recipients: u64,
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
            outcome: LastOutcome::of(&row.outcome, row.at),
            cursor: row.place.to_string(),
        }
    }
}

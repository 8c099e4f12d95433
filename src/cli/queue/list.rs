//! `queue list`: takes filters, hands on the copies that wait, as a table or as JSON.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;
use clap::Args;

use super::json::{JsonCopies, JsonCopy};
use super::{ReadError, meant, shown};
use crate::cli::table::{self, DIM, GOOD, PLAIN, Table, WARN};
use crate::clock::Timestamp;
use crate::config::When;
use crate::message::{MessageId, Priority};
use crate::queue::{CopyRow, CopyState, Inspect, ListCursor, ListFilter};
use crate::route::Site;

/// Rows of a table where `--limit` says nothing: more is not read by people, and it is said that there is more.
const TABLE_LIMIT: usize = 1000;

/// Which copies to list.
#[derive(Debug, Default, Args)]
pub struct ListArgs {
    /// Only these messages
    #[arg(value_name = "ID")]
    pub ids: Vec<MessageId>,
    /// Only copies with a waiting recipient like this; "*" stands for any text
    #[arg(long, value_name = "PATTERN")]
    pub to: Option<String>,
    /// Only messages with a sender like this; "<>" is the null sender
    #[arg(long, value_name = "PATTERN")]
    pub from: Option<String>,
    /// Only copies for domains like this
    #[arg(long, value_name = "PATTERN")]
    pub domain: Option<String>,
    /// Only copies that were tried at this site last or put off as it was down; a server of it, or the whole name as in `site`
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Only messages with a tag like this
    #[arg(long, value_name = "PATTERN")]
    pub tag: Option<String>,
    /// Only messages with a Message-ID field like this, with or without its angle brackets
    #[arg(long, value_name = "PATTERN")]
    pub message_id: Option<String>,
    /// Only copies that are "queued", "sending" or "held"
    #[arg(long, value_name = "WORD")]
    pub state: Option<CopyState>,
    /// Only messages accepted from then on: "2h" (until now), or a time of day in UTC, "2026-09-21 14:13"
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only messages accepted before then
    #[arg(long, value_name = "TIME", conflicts_with = "older_than")]
    pub until: Option<When>,
    /// Only messages accepted longer ago than this, e.g. "2h"
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_span)]
    pub older_than: Option<Duration>,
    /// At most this many copies (default: 1000 in a table, all with --json)
    #[arg(long, value_name = "N", conflicts_with = "count")]
    pub limit: Option<usize>,
    /// The page after this one: as the page before said at its end, or "cursor" of its last object
    #[arg(long, value_name = "CURSOR", conflicts_with = "count")]
    pub after: Option<ListCursor>,
    /// How many copies there are, instead of them
    #[arg(long)]
    pub count: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &ListArgs, queue: &dyn Inspect, now: Timestamp, out: &mut dyn Write) -> Result<ExitCode, ReadError> {
    let limit = args.limit.or((!args.json).then_some(TABLE_LIMIT));
    let until = args.older_than.map(When::Ago).or(args.until);
    let filter = ListFilter {
        ids: args.ids.clone(),
        to: args.to.clone(),
        from: args.from.clone(),
        domain: args.domain.clone(),
        site: args.site.as_deref().map(|name| site(name, queue)).transpose()?,
        tag: args.tag.clone(),
        message_id: args.message_id.clone(),
        state: args.state,
        since: args.since.map(|since| since.from(now)),
        until: until.map(|until| until.from(now)),
        after: args.after,
        limit,
    };
    if args.count {
        let copies = queue.count_list(&filter)?;
        if args.json {
            table::json(out, &JsonCopies { copies })?
        } else {
            table::line(out, PLAIN, &copies.to_string())?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let page = queue.list_page(&filter)?;
    if args.json {
        page.rows.iter().try_for_each(|row| table::json(out, &JsonCopy::of(row)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if page.rows.is_empty() {
        table::line(out, PLAIN, if page.more { "something waits: see --limit" } else { "nothing waits" })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["ID", "STATE", "AGE", "NEXT", "TRIES", "TO"]);
    for row in &page.rows {
        table.row(cells(row, now), style_of(row.state), Some(note(row)));
    }
    table.write(out)?;
    let recipients: usize = page.rows.iter().map(|row| row.recipients.len()).sum();
    let total = format!("{}, {}", table::count(page.rows.len(), "copy", "copies"), table::count(recipients, "recipient", "recipients"));
    let more = page.next().map_or_else(String::new, |next| format!("; there are more: --after {next}"));
    table::line(out, DIM, &format!("{total}{more}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The site that a person means by `name`, among those that open copies belong to.
fn site(name: &str, queue: &dyn Inspect) -> Result<String, ReadError> {
    let known = queue.sites()?.into_iter().map(|backlog| Site::new(backlog.site));
    Ok(meant(name, known)?.to_string())
}

fn cells(row: &CopyRow, now: Timestamp) -> [String; 6] {
    let next = match row.state {
        CopyState::Queued if row.due_at <= now => "due".to_owned(),
        CopyState::Queued => table::relative(row.due_at, now),
        CopyState::Sending | CopyState::Held | CopyState::Finished => "-".to_owned(),
    };
    let to = match row.recipients.as_slice() {
        [] => row.domain.to_string(),
        [only] => only.to_string(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    };
    [row.message.to_string(), row.state.as_str().to_owned(), table::age(row.accepted_at, now), next, row.attempts.to_string(), to]
}

fn note(row: &CopyRow) -> String {
    let mut note = format!("from {}, {}", shown(&row.sender), table::size(row.size));
    if row.priority != Priority::Normal {
        note = format!("{note}, {}", row.priority.as_str());
    }
    if row.in_doubt {
        note.push_str(", was in doubt");
    }
    match &row.last {
        Some(last) => format!("{note}: {last}"),
        None => note,
    }
}

fn style_of(state: CopyState) -> Style {
    match state {
        CopyState::Queued => PLAIN,
        CopyState::Sending => GOOD,
        CopyState::Held => WARN,
        CopyState::Finished => DIM,
    }
}

//! `smtp-direct queue [list|show|why|count]`: takes the database, hands on what waits in it. Nothing here changes anything: `action` does.

pub mod action;
mod content;
mod json;
mod list;
pub mod why;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::action::ActionArgs;
pub use self::content::PartArgs;
use self::json::{JsonCounts, JsonMessage};
pub use self::list::ListArgs;
use super::exit;
use super::table::{self, BAD, BOLD, DIM, GOOD, PLAIN, WARN};
use crate::clock::Timestamp;
use crate::control::why::{StepLine, Tone, WordLine, attempt, order, outcome};
use crate::message::{Address, MessageId, Notify, Ret, ReversePath};
use crate::queue::{Action, ByState, CopyDetail, CopyState, Counts, Inspect, MessageDetail, SqliteInspect, StoreError};
use crate::route::{Ambiguous, Site};
use crate::spool::Layout;

/// Of a site that is not known, so that nothing is found for it.
const SMTP_PORT: u16 = 25;

/// Of what reads the queue: at the end of `--help`, and in the manual.
pub const CODES: &str = "Exit codes: 0 it was read; 1 queue show and queue why: the queue does not know some of it; 64 wrong usage; 66 there is no queue; 74 it \
                         cannot be read; 75 it cannot be read now: try again; 77 this user may not read it: root may, and the members of the \
                         spool's group; 78 the configuration does not tell where it is";

/// What waits in the queue.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct QueueArgs {
    /// `list`, if none is named.
    #[command(subcommand)]
    pub command: Option<QueueCommand>,
    /// The options of `list`.
    #[command(flatten)]
    pub list: ListArgs,
}

/// The parts of `queue`.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List the copies that are not finished, oldest first
    #[command(after_help = CODES)]
    List(ListArgs),
    /// Show everything known of messages: envelope, copies, outcomes, attempts
    #[command(after_help = CODES)]
    Show(ShowArgs),
    /// Why copies have not arrived, and what happens next: for messages, or for the recipient of an address
    #[command(after_help = CODES)]
    Why(why::WhyArgs),
    /// Count messages, copies and recipients
    #[command(after_help = CODES)]
    Count(CountArgs),
    /// Try copies now
    #[command(after_help = action::CODES)]
    Retry(ActionArgs),
    /// Keep copies until they are released
    #[command(after_help = action::CODES)]
    Hold(ActionArgs),
    /// Send copies that are on hold
    #[command(after_help = action::CODES)]
    Release(ActionArgs),
    /// Give copies up, and tell their senders
    #[command(after_help = action::CODES)]
    Bounce(ActionArgs),
    /// Give copies up, and tell nobody
    #[command(after_help = action::CODES)]
    Remove(ActionArgs),
}

impl QueueArgs {
    /// What is to be changed: by the daemon, not here.
    pub fn action(&self) -> Option<(Action, &ActionArgs)> {
        match self.command.as_ref()? {
            QueueCommand::List(_) | QueueCommand::Show(_) | QueueCommand::Why(_) | QueueCommand::Count(_) => None,
            QueueCommand::Retry(args) => Some((Action::Retry, args)),
            QueueCommand::Hold(args) => Some((Action::Hold, args)),
            QueueCommand::Release(args) => Some((Action::Release, args)),
            QueueCommand::Bounce(args) => Some((Action::Bounce, args)),
            QueueCommand::Remove(args) => Some((Action::Remove, args)),
        }
    }
}

/// Which messages to show.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Their ids
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<MessageId>,
    /// Which part of them; everything but the content, if none is named
    #[command(flatten)]
    pub part: PartArgs,
    /// One JSON object a line
    #[arg(long, conflicts_with = "body")]
    pub json: bool,
}

/// How to count.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// A JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why a reading command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Ambiguous(Ambiguous),
    #[error("writing failed: {0}")]
    Output(#[from] io::Error),
}

impl ReadError {
    /// As sysexits has it.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Store(StoreError::Missing { .. }) => exit::NOINPUT,
            Self::Ambiguous(_) => exit::USAGE,
            Self::Store(StoreError::Denied { .. }) => exit::NOPERM,
            Self::Store(StoreError::Database { temporary: true, .. }) => exit::TEMPFAIL,
            Self::Store(_) | Self::Output(_) => exit::IOERR,
        }
    }
}

/// The site that a person means by `name`, among the `known` ones.
pub(super) fn meant(name: &str, known: impl IntoIterator<Item = Site>) -> Result<Site, ReadError> {
    Site::meant_by(name, known, SMTP_PORT).map_err(ReadError::Ambiguous)
}

/// Reads the queue at `database` and writes it to `out`, with colours: hand in a writer that drops them where there is no terminal. Ends
/// with 0, with 1 for an unknown id, or as sysexits has it: 66 no database, 77 not by this user, 75 cannot be read now, 74
/// cannot be read.
pub fn run(args: &QueueArgs, database: &Path, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let result = SqliteInspect::open(database).map_err(ReadError::from).and_then(|queue| match &args.command {
        None => list::run(&args.list, &queue, now, out),
        Some(QueueCommand::List(args)) => list::run(args, &queue, now, out),
        Some(QueueCommand::Show(args)) if args.part.is_named() => content::run(args, (&queue, &layout_of(database)), out, err),
        Some(QueueCommand::Show(args)) => show(args, &queue, now, out, err),
        // Without a configuration: `why::run` is called with one where there is one.
        Some(QueueCommand::Why(args)) => Ok(why::run(args, why::Sources::without_daemon(database, None), now, out, err)),
        Some(QueueCommand::Count(args)) => counts(args, &queue, now, out),
        // They are no reading: whoever calls this has asked `action` first.
        Some(_) => Ok(ExitCode::from(exit::USAGE)),
    });
    finish(result, err)
}

/// The exit code, and on `err` the reason.
pub(super) fn finish(result: Result<ExitCode, ReadError>, err: &mut dyn Write) -> ExitCode {
    let code = match &result {
        Ok(code) => return *code,
        // `head` has read enough.
        Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(error) => error.code(),
    };
    if let Err(error) = result {
        // Where even this cannot be written, the code remains.
        let _ = writeln!(err, "smtp-direct: {error}");
    }
    ExitCode::from(code)
}

/// The address, or `<>`.
pub(super) fn shown(sender: &ReversePath) -> String {
    sender.address().map_or_else(|| "<>".to_owned(), Address::to_string)
}

fn counts(args: &CountArgs, queue: &dyn Inspect, now: Timestamp, out: &mut dyn Write) -> Result<ExitCode, ReadError> {
    let counts = queue.counts(now)?;
    if args.json {
        table::json(out, &JsonCounts::of(&counts))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ByState { due, waiting, sending, held } = counts.by_state();
    let Counts { messages, by_age: _, recipients, in_doubt, octets, oldest } = counts;
    let oldest = oldest.map_or_else(|| "-".to_owned(), |oldest| table::moment(oldest, now));
    let numbers = [("Messages", messages), ("Recipients", recipients), ("Due", due), ("Waiting", waiting), ("Sending", sending)];
    for (name, number) in numbers.into_iter().chain([("Held", held), ("In doubt", in_doubt)]) {
        table::field(out, name, &number.to_string())?;
    }
    table::field(out, "Size", &table::size(octets))?;
    table::field(out, "Oldest", &oldest)?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs, queue: &dyn Inspect, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> Result<ExitCode, ReadError> {
    let mut code = ExitCode::SUCCESS;
    for (n, &id) in args.ids.iter().enumerate() {
        match queue.show(id)? {
            None => {
                writeln!(err, "smtp-direct: the queue knows no message {id}")?;
                code = ExitCode::FAILURE;
            }
            Some(detail) if args.json => table::json(out, &JsonMessage::of(&detail))?,
            Some(detail) => {
                if n > 0 {
                    writeln!(out)?;
                }
                message(&detail, now, out)?;
            }
        }
    }
    Ok(code)
}

fn message(detail: &MessageDetail, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let message = &detail.message;
    table::line(out, BOLD, &format!("Message {}", message.id))?;
    table::field(out, "From", &shown(&message.sender))?;
    table::field(out, "Source", &message.source)?;
    table::field(out, "Size", &table::size(message.content.wire_size))?;
    table::field(out, "Accepted", &table::moment(message.accepted_at, now))?;
    match detail.finished_at {
        Some(finished_at) => table::field(out, "Finished", &table::moment(finished_at, now))?,
        None => table::field(out, "Expires", &table::moment(message.expires_at, now))?,
    }
    table::field(out, "Priority", message.priority.as_str())?;
    let optional = [
        ("Message-ID", message.content.message_id.as_deref()),
        ("RET", message.ret.map(ret_word)),
        ("ENVID", message.envid.as_deref()),
        ("Tag", message.tag.as_deref()),
    ];
    for (name, value) in optional {
        value.map_or(Ok(()), |value| table::field(out, name, value))?;
    }
    detail.copies.iter().try_for_each(|one| copy(one, now, out))?;
    if !detail.actions.is_empty() {
        writeln!(out)?;
        table::line(out, BOLD, "Orders of administrators")?;
    }
    detail.actions.iter().try_for_each(|one| step(&order(one, now), out))
}

fn copy(copy: &CopyDetail, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let next = match (copy.state, &copy.hold_reason) {
        (CopyState::Queued, _) if copy.due_at <= now => ", due".to_owned(),
        (CopyState::Queued, _) => format!(", next attempt {}", table::moment(copy.due_at, now)),
        (CopyState::Held, Some(reason)) => format!(": {reason}"),
        _ => String::new(),
    };
    let attempts = table::count(copy.attempts as usize, "attempt", "attempts");
    writeln!(out)?;
    table::paragraph(out, 0, BOLD, &format!("Copy to {}: {}, {attempts}{next}", copy.domain, copy.state.as_str()))?;
    for (to, last) in &copy.recipients {
        let notify = if to.notify == Notify::default() { String::new() } else { format!(", NOTIFY={}", to.notify) };
        table::line(out, PLAIN, &format!("  {}{notify}", to.address))?;
        match last {
            None => table::line(out, DIM, "    not tried yet")?,
            Some((last, at)) => words(&outcome(last, *at, now), out)?,
        }
    }
    copy.history.iter().try_for_each(|one| step(&attempt(one, now), out))
}

/// Where things are around the database.
fn layout_of(database: &Path) -> Layout {
    Layout::new(database.parent().and_then(Path::parent).unwrap_or(Path::new("")))
}

/// A title, or several, and what is said under it.
fn step(step: &StepLine, out: &mut dyn Write) -> io::Result<()> {
    step.titles.iter().try_for_each(|title| table::paragraph(out, 2, PLAIN, title))?;
    words(&step.lines, out)
}

fn words(lines: &[WordLine], out: &mut dyn Write) -> io::Result<()> {
    lines.iter().try_for_each(|line| {
        let style = match line.tone {
            Tone::Plain => PLAIN,
            Tone::Soft => DIM,
            Tone::Good => GOOD,
            Tone::Warn => WARN,
            Tone::Bad => BAD,
        };
        table::paragraph(out, 4 + 2 * usize::from(line.level), style, &line.text)
    })
}

/// The word of RFC 3461, in lower case.
fn ret_word(ret: Ret) -> &'static str {
    match ret {
        Ret::Full => "full",
        Ret::Headers => "headers",
    }
}

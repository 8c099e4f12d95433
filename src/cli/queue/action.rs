//! `smtp-direct queue retry|hold|release|bounce|remove`: takes a selection, has the running daemon carry it out, hands on what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::cli::ask::{self, AskError};
use crate::cli::exit;
use crate::cli::table::{self, DIM, PLAIN, WARN};
use crate::control::client::Client;
use crate::control::{QueueAction, QueueActionResult, QueueResult};
use crate::message::MessageId;
use crate::queue::{Action, Done};

/// Octets of ids on standard input: two millions of them.
const INPUT: u64 = 64 << 20;

/// Ids that one request names: its body, and a line of the answer for each, stay within what the daemon takes and tells.
const PART: usize = 5000;

/// At the end of `--help`, and in the manual.
pub const CODES: &str = "Exit codes: 0 it was done, or was so already; 1 some of it could not be done (unknown, ended, on hold, no sender), or nothing was confirmed; \
                         64 wrong usage; 75 something is being sent right now, or the daemon does not run: try again; 77 not permitted";

/// Which copies: everything that is given must hold.
#[derive(Debug, Default, Clone, Args)]
pub struct ActionArgs {
    /// These messages; "-": ids from standard input
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Waiting recipients like this, and only they; "*" stands for any text
    #[arg(long, value_name = "PATTERN")]
    pub to: Option<String>,
    /// Messages with a sender like this; "<>" is the null sender
    #[arg(long, value_name = "PATTERN")]
    pub from: Option<String>,
    /// Copies for domains like this
    #[arg(long, value_name = "PATTERN")]
    pub domain: Option<String>,
    /// Copies that were tried at this site last, put off as it was down, or wait for it; named as in `site`. Of copies that were never tried,
    /// those that wait in memory, and those whose domain's mail goes there as far as the daemon's memory tells: what it would have to ask
    /// DNS for is not meant
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Messages accepted longer ago than this, e.g. "2h"
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_span)]
    pub older_than: Option<Duration>,
    /// Messages with a tag like this
    #[arg(long, value_name = "PATTERN")]
    pub tag: Option<String>,
    /// Everything in the queue
    #[arg(long)]
    pub all: bool,
    /// With --all: do not ask
    #[arg(long)]
    pub yes: bool,
    /// Why: for the log, the history and the report to the sender
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// One JSON object a line: what became of each copy
    #[arg(long)]
    pub json: bool,
}

/// Where answers to a question come from.
pub struct Terminal<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Whether somebody sits there.
    pub is_terminal: bool,
}

/// Carries `action` out. Ends with 0 (done, or so already), 1 where something could not be done, 75 where something is being sent right now or
/// the daemon does not run, 77 without permission.
pub fn run(action: Action, args: &ActionArgs, client: &Client, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let stdin = std::io::stdin();
    let mut terminal = Terminal { is_terminal: stdin.is_terminal(), input: &mut stdin.lock() };
    let result = act(action, args, client, &mut terminal, out, err);
    ask::finish(result, err)
}

fn act(
    action: Action,
    args: &ActionArgs,
    client: &Client,
    terminal: &mut Terminal<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitCode, AskError> {
    let request = request(args, terminal)?;
    if args.all && !args.yes && !confirmed(action, terminal, out)? {
        table::line(out, PLAIN, "nothing was done")?;
        return Ok(ExitCode::from(1));
    }
    let mut total = Total::default();
    for part in parts(request) {
        let asked = client.post(&format!("/v1/queue/{}", action.as_str()), &part);
        match asked {
            Ok(result) => {
                list(args, &result, out)?;
                total.add(result);
            }
            Err(error) => {
                if total.copies > 0 {
                    sum_up(action, args, &total, out, err)?;
                }
                return Err(error.into());
            }
        }
    }
    sum_up(action, args, &total, out, err)?;
    let good = total.count(Done::Done) + total.count(Done::Already);
    Ok(if total.count(Done::BeingSent) > 0 {
        ExitCode::from(exit::TEMPFAIL)
    } else if total.counts.values().sum::<u64>() > good {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// The same for some of the ids at a time.
fn parts(mut request: QueueAction) -> Vec<QueueAction> {
    if request.ids.len() <= PART {
        return vec![request];
    }
    let ids = std::mem::take(&mut request.ids);
    ids.chunks(PART).map(|ids| QueueAction { ids: ids.to_vec(), ..request.clone() }).collect()
}

/// What all answers come to.
#[derive(Debug, Default)]
struct Total {
    copies: u64,
    recipients: u64,
    omitted: u64,
    counts: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, result: QueueActionResult) {
        self.copies += result.copies;
        self.recipients += result.recipients;
        self.omitted += result.omitted;
        for (word, count) in result.counts {
            *self.counts.entry(word).or_default() += count;
        }
    }

    fn count(&self, done: Done) -> u64 {
        self.counts.get(done.as_str()).copied().unwrap_or_default()
    }
}

fn request(args: &ActionArgs, terminal: &mut Terminal<'_>) -> Result<QueueAction, AskError> {
    let mut ids = Vec::new();
    for id in &args.ids {
        if id == "-" {
            let mut text = String::new();
            let read = terminal.input.take(INPUT + 1).read_to_string(&mut text).map_err(AskError::Input)?;
            if read as u64 > INPUT {
                return Err(AskError::Usage(format!("more than {} MiB of ids on standard input: nothing was done", INPUT >> 20)));
            }
            ids.extend(text.split_whitespace().map(str::to_owned));
        } else {
            ids.push(id.clone());
        }
    }
    if let Some(wrong) = ids.iter().find(|id| id.parse::<MessageId>().is_err()) {
        return Err(AskError::Usage(format!("{wrong:?} is no id of a message: smtp-direct queue lists them")));
    }
    if ids.is_empty() && !args.ids.is_empty() {
        return Err(AskError::Usage("there is no id on standard input".to_owned()));
    }
    let conditions = [&args.to, &args.from, &args.domain, &args.site, &args.tag].into_iter().flatten().count();
    let any = conditions > 0 || args.older_than.is_some() || !ids.is_empty();
    if any == args.all {
        let words = if any { "--all goes with no condition" } else { "which messages? Give ids or conditions, or --all" };
        return Err(AskError::Usage(words.to_owned()));
    }
    Ok(QueueAction {
        ids,
        recipient: args.to.clone(),
        sender: args.from.clone(),
        domain: args.domain.clone(),
        site: args.site.clone(),
        older_than: args.older_than.map(|age| age.as_secs_f64()),
        tag: args.tag.clone(),
        all: args.all,
        reason: args.reason.clone().unwrap_or_default(),
    })
}

fn confirmed(action: Action, terminal: &mut Terminal<'_>, out: &mut dyn Write) -> Result<bool, AskError> {
    if !terminal.is_terminal {
        return Err(AskError::Usage(format!("{} --all without a terminal needs --yes", action.as_str())));
    }
    write!(out, "{} everything in the queue? [y/N] ", action.as_str())?;
    out.flush()?;
    let mut answer = String::new();
    terminal.input.take(1000).read_line(&mut answer).map_err(AskError::Input)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn list(args: &ActionArgs, result: &QueueActionResult, out: &mut dyn Write) -> Result<(), AskError> {
    if args.json {
        result.results.iter().try_for_each(|line| table::json(out, line))?;
        return Ok(());
    }
    for QueueResult { id, domain, text, result, .. } in &result.results {
        if result != Done::Done.as_str() {
            let what = domain.as_ref().map_or_else(|| id.clone(), |domain| format!("{id} to {domain}"));
            table::line(out, WARN, &format!("{what}: {text}"))?;
        }
    }
    Ok(())
}

fn sum_up(action: Action, args: &ActionArgs, total: &Total, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), AskError> {
    let count = |n: u64, one, many| table::count(usize::try_from(n).unwrap_or(usize::MAX), one, many);
    if args.json {
        if total.omitted > 0 {
            writeln!(err, "smtp-direct: {} more are not listed", count(total.omitted, "copy", "copies"))?;
        }
        return Ok(());
    }
    if total.counts.is_empty() {
        table::line(out, PLAIN, "nothing in the queue is like that")?;
    } else {
        let (copies, recipients) = (count(total.copies, "copy", "copies"), count(total.recipients, "recipient", "recipients"));
        table::line(out, PLAIN, &format!("{}: {copies}, {recipients}", action.done()))?;
    }
    if total.omitted > 0 {
        table::line(out, DIM, &format!("{} more are not listed", total.omitted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(args: &ActionArgs, input: &str, is_terminal: bool) -> Result<(QueueAction, bool), String> {
        let mut input = input.as_bytes();
        let mut terminal = Terminal { input: &mut input, is_terminal };
        let request = request(args, &mut terminal).map_err(|error| error.to_string())?;
        let go = !args.all || args.yes || confirmed(Action::Remove, &mut terminal, &mut Vec::new()).map_err(|error| error.to_string())?;
        Ok((request, go))
    }

    #[test]
    fn everything_needs_a_word_for_it() {
        let all = ActionArgs { all: true, ..ActionArgs::default() };
        assert!(ask(&ActionArgs::default(), "", true).unwrap_err().contains("which messages?"));
        assert!(ask(&ActionArgs { to: Some("*".into()), ..all.clone() }, "", true).unwrap_err().contains("goes with no condition"));
        assert!(ask(&all, "y\n", false).unwrap_err().contains("needs --yes"));
        assert!(ask(&ActionArgs { yes: true, ..all.clone() }, "", false).unwrap().1);
        for (answer, go) in [("y\n", true), ("yes\n", true), ("n\n", false), ("\n", false), ("", false)] {
            assert_eq!(ask(&all, answer, true).unwrap().1, go, "{answer:?}");
        }
    }

    #[test]
    fn ids_come_from_standard_input() {
        const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let dash = ActionArgs { ids: vec!["-".into()], ..ActionArgs::default() };
        assert_eq!(ask(&dash, &format!("{ID}\n\n {ID}\n"), false).unwrap().0.ids, [ID, ID]);
        // However many: none is left out, and none is cut in two.
        let many = request(&dash, &mut Terminal { input: &mut format!("{ID}\n").repeat(50_000).as_bytes(), is_terminal: false }).unwrap();
        let parts = parts(many);
        assert_eq!(parts.iter().map(|part| part.ids.len()).collect::<Vec<_>>(), [PART; 10]);
        let padded = format!("{ID}{}", " ".repeat(1 << 20)).repeat(65);
        assert!(ask(&dash, &padded, false).unwrap_err().contains("more than 64 MiB of ids on standard input: nothing was done"));
        // Nothing selected must never become everything.
        assert!(ask(&dash, "\n", false).unwrap_err().contains("no id on standard input"));
        assert!(ask(&dash, "x\n", false).unwrap_err().contains("is no id"));
    }
}

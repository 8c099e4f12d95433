//! `sendmail`, `mailq`, `newaliases`: takes a command line and a message on standard input, hands on a file in the spool's `drop/`.
//!
//! It works with the daemon down, and needs no privilege but to be a member of the spool's group.

mod letter;
mod options;
mod qualify;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use jiff::Zoned;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{User, getuid};

use self::letter::{Author, Input, LetterError};
pub(super) use self::options::HELP;
use self::options::{Asked, Queued, Submit};
use super::{ask, exit, queue};
use crate::clock::Timestamp;
use crate::config::{self, SubmissionError};
use crate::control::client::Client;
use crate::control::{QueueAction, QueueActionResult};
use crate::message::{Address, Domain, Envelope, MessageId, ReversePath};
use crate::queue::Done;
use crate::spool::{self, Layout, Submission, SubmitError};

/// Octets that are read at once.
const BUFFER: usize = 64 * 1024;

/// The words behind the program's name, if it is called as `sendmail`, `mailq`, `newaliases` or `smtp-direct sendmail`.
pub(super) fn called(mut line: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let program = line.next()?;
    let mut words: Vec<OsString> = line.collect();
    let implied = match Path::new(&program).file_name().and_then(OsStr::to_str) {
        Some("sendmail") => None,
        Some("mailq") => Some("-bp"),
        Some("newaliases") => Some("-bi"),
        _ if words.first().is_some_and(|word| word == "sendmail") => {
            words.remove(0);
            None
        }
        _ => return None,
    };
    words.splice(0..0, implied.map(OsString::from));
    Some(words)
}

/// Why nothing was submitted.
struct Failure {
    code: u8,
    text: String,
}

fn failure(code: u8, text: impl ToString) -> Failure {
    Failure { code, text: text.to_string() }
}

/// Does what the words ask for; see `--help` for the exit codes.
pub(super) fn run(words: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    // What is not UTF-8 stays visible as U+FFFD, which no address may have.
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let result = match options::parse(&words) {
        Ok(Asked::Submit(asked)) => submit(&asked, err),
        Ok(Asked::Retry { config, queued }) => retry(config.as_deref(), queued),
        Ok(Asked::Nothing) => Ok(()),
        Ok(Asked::Help) => writeln!(out, "{}", HELP).map_err(|error| failure(exit::IOERR, error)),
        Ok(Asked::List { config }) => match config::for_submission(config.as_deref()) {
            Ok(found) => {
                let list = queue::QueueArgs { command: None, list: queue::ListArgs::default() };
                return queue::run(&list, &Layout::new(found.spool).database(), Timestamp::now(), out, err);
            }
            Err(error) => Err(unconfigured(error)),
        },
        Err(text) => Err(failure(exit::USAGE, text)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            // Nothing is left to tell if even this cannot be written.
            let _ = writeln!(err, "sendmail: {text}");
            ExitCode::from(code)
        }
    }
}

/// Asks the daemon to try what waits. A message that is named must be one that waits; of what is described there may be none.
fn retry(file: Option<&Path>, queued: Queued) -> Result<(), Failure> {
    let socket = match config::control_socket_in(file.unwrap_or(Path::new(config::DEFAULT_FILE))) {
        Some(socket) => Some(socket),
        None => config::Control::default_for(&config::for_submission(file).map_err(unconfigured)?.spool).socket,
    };
    let socket = socket.ok_or_else(|| failure(exit::CONFIG, "there is no control.socket, over which the daemon could be asked"))?;
    let Queued { ids, recipient, sender } = queued;
    let all = ids.is_empty() && recipient.is_none() && sender.is_none();
    let ids: Vec<String> = ids.iter().map(MessageId::to_string).collect();
    let action = QueueAction { ids, recipient, sender, all, reason: "sendmail -q".to_owned(), ..QueueAction::default() };
    let answer: Result<QueueActionResult, _> = Client::new(socket).post("/v1/queue/retry", &action);
    let result = answer.map_err(|error| failure(ask::code(&error), error))?;
    // What is being sent right now is being tried.
    let tried = [Done::Done, Done::Already, Done::BeingSent].map(Done::as_str);
    match result.results.iter().find(|line| !tried.contains(&line.result.as_str())) {
        Some(line) if !action.ids.is_empty() => Err(failure(exit::DATAERR, format!("{}: {}", line.id, line.text))),
        _ => Ok(()),
    }
}

fn submit(asked: &Submit, err: &mut dyn Write) -> Result<(), Failure> {
    if asked.recipients.is_empty() && !asked.from_header {
        return Err(failure(exit::USAGE, "nobody is to get it: name recipients, or use -t to take them from the header"));
    }
    // A file over this process's limit is an error to be told, not a death.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().map_err(|errno| failure(exit::OSERR, errno))?;

    let config::Submission { spool: path, hostname } = config::for_submission(asked.config.as_deref()).map_err(unconfigured)?;
    let login = login();
    let sender = sender(asked, login.as_ref(), &hostname)?;
    let mut recipients = Vec::new();
    for text in &asked.recipients {
        let found = addresses("recipient", text, &hostname)?;
        if found.is_empty() {
            return Err(failure(exit::DATAERR, format!("{text:?} is no address")));
        }
        recipients.extend(found);
    }
    // Before anything is read: the caller hears of a closed spool at once.
    let mut submission = Submission::begin(Layout::new(path)).map_err(refused)?;

    let mut input = Input::new(BufReader::with_capacity(BUFFER, io::stdin().lock()), !asked.ignore_dots);
    let top = input.top().map_err(unread)?;
    let full_name = asked.full_name.clone().or_else(|| login.as_ref().map(full_name)).unwrap_or_default();
    let letter = letter::compose(&top, &Author { sender: &sender, full_name: &full_name, hostname: &hostname }, &Zoned::now());
    if asked.from_header {
        // Those of the command line as well, as with Postfix; Exim takes them away instead.
        recipients.extend(letter.recipients.map_err(|error| failure(exit::DATAERR, error))?);
    }
    if recipients.is_empty() {
        return Err(failure(exit::DATAERR, "no recipient: neither To, Cc and Bcc nor the command line name anybody"));
    }
    let spoiled = |error| failure(exit::TEMPFAIL, format!("the spool cannot be written: {error}"));
    submission.write_all(&letter.header).and_then(|()| submission.write_all(b"\r\n")).map_err(spoiled)?;
    input.copy_body(&top, &mut submission).map_err(unread)?.map_err(spoiled)?;

    let name = submission.name().to_owned();
    submission.commit(&envelope(asked, sender, recipients)).map_err(refused)?;
    if asked.verbose {
        // The message is in the spool: whatever becomes of this line, that is a success.
        let _ = writeln!(err, "sendmail: the message is in the spool, as {name}");
    }
    Ok(())
}

/// Duplicates are folded by the daemon; they are not written down here either.
fn envelope(asked: &Submit, sender: ReversePath, recipients: Vec<Address>) -> Envelope {
    let mut seen = std::collections::HashSet::new();
    let mut envelope = Envelope::new(sender, recipients.into_iter().filter(|address| seen.insert(address.clone())));
    if let Some(notify) = asked.notify {
        envelope.recipients.iter_mut().for_each(|to| to.notify = notify);
    }
    envelope.ret = asked.ret;
    envelope.envid.clone_from(&asked.envid);
    envelope
}

/// The envelope sender: `-f`, or this user at this host.
fn sender(asked: &Submit, login: Option<&User>, hostname: &Domain) -> Result<ReversePath, Failure> {
    match (&asked.sender, login) {
        (Some(text), _) if matches!(text.trim(), "" | "<>") => Ok(ReversePath::Null),
        (Some(text), _) => {
            let mut found = addresses("sender", text, hostname)?;
            match (found.pop(), found.is_empty()) {
                (Some(address), true) => Ok(ReversePath::Address(address)),
                _ => Err(failure(exit::DATAERR, format!("-f: {text:?} is not one address"))),
            }
        }
        (None, Some(user)) => Address::parse(&format!("{}@{hostname}", user.name))
            .map(ReversePath::Address)
            .map_err(|error| failure(exit::OSERR, format!("the user's name makes no address: {error}: give the sender with -f"))),
        (None, None) => Err(failure(exit::OSERR, format!("the user with uid {} has no name: give the sender with -f", getuid()))),
    }
}

/// The addresses of an argument, as in a header field.
fn addresses(what: &'static str, text: &str, hostname: &Domain) -> Result<Vec<Address>, Failure> {
    let bad = |text: &dyn ToString| failure(exit::DATAERR, text.to_string());
    if text.chars().any(char::is_control) {
        return Err(bad(&format!("{what}: {text:?} contains a control character")));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(bad(&format!("{what}: {text:?} is not UTF-8")));
    }
    let value = qualify::qualify(text.as_bytes(), hostname.as_str());
    spool::addresses(what, &value).map_err(|error| bad(&error))
}

/// Who calls. Several names may share a number: `LOGNAME` says which of them, and nothing else.
fn login() -> Option<User> {
    let uid = getuid();
    let claimed = std::env::var("LOGNAME").ok().and_then(|name| User::from_name(&name).ok().flatten());
    claimed.filter(|user| user.uid == uid).or_else(|| User::from_uid(uid).ok().flatten())
}

/// The name of the password file: up to the first comma, `&` being the login.
fn full_name(user: &User) -> String {
    let gecos = user.gecos.to_string_lossy();
    let name = gecos.split(',').next().unwrap_or_default();
    let mut login = user.name.clone();
    if let Some(first) = login.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name.replace('&', &login)
}

fn unconfigured(error: SubmissionError) -> Failure {
    failure(exit::CONFIG, error)
}

fn unread(error: LetterError) -> Failure {
    let code = match error {
        LetterError::Input(_) => exit::IOERR,
        LetterError::HeaderTooLong | LetterError::Address(_) => exit::DATAERR,
    };
    failure(code, error)
}

fn refused(error: SubmitError) -> Failure {
    match error {
        SubmitError::Denied { .. } => failure(exit::NOPERM, error),
        SubmitError::Missing { .. } => failure(exit::TEMPFAIL, error),
        SubmitError::Io { .. } => failure(exit::TEMPFAIL, format!("the spool cannot be written: {error}")),
        SubmitError::TooMany | SubmitError::Envelope(_) => failure(exit::DATAERR, error),
    }
}

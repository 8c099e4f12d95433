//! Takes the words of a sendmail command line, hands on what is asked for. Options are read as getopt(3) reads them, in any order with the
//! recipients, as Postfix's sendmail does on Linux: `-f a@b` and `-fa@b`, `-ti` and `-t -i`; after `--` come recipients only.

use std::path::PathBuf;

use crate::message::{MessageId, Notify, Ret};

/// What the options leave out, in a few lines: for `--help`.
pub(in crate::cli) const HELP: &str = "\
Takes a message on standard input and puts it into the spool, as sendmail(8) does

Usage: sendmail [OPTIONS] [--] [RECIPIENT]...
       mailq
       newaliases

  -t            Recipients are those of To, Cc and Bcc (or of the newest Resent- fields), and those of the command line
  -i, -oi       A line with only a dot does not end the message
  -f, -r ADDR   Envelope sender; \"\" or \"<>\" is the null sender. Everyone may use it. Default: the user's name at this host
  -F NAME       Full name, for a From field that is missing
  -N WHEN       Reports wanted: never, or some of success,failure,delay
  -R PART       What reports return of the message: full or hdrs
  -V ID         Envelope id, given back in reports
  -B TYPE       7BIT or 8BITMIME; what the message is, is seen in the message
  -v            Tell the name of the file
  -C, --config FILE   Configuration file; only spool.path and hostname are looked at
  -bm           Take a message (the default)
  -bp, mailq    Show what waits, as `smtp-direct queue list` does
  -q, -qf       Ask the daemon to try what waits now (root, its user and the members of control.group may)
  -qI ID, -qR TEXT, -qS TEXT   The same of this message; of recipients, of senders with this in their address (attached: -qRexample.com)
  -bi, newaliases, -I, -q15m   Nothing to do: there are no aliases, and the daemon retries by itself
  -A -D -G -L -M -O -U -X -c -d -e -h -m -n -o -p -x   Taken and ignored

Addresses without a domain get this host's name. From, Date and Message-ID are added where they are missing; Bcc is removed.
The default configuration file may be closed to the user: the spool is /var/spool/smtp-direct then. The program needs no privilege, and
must not be given any (setuid, setgid): members of the spool's group may submit.

Exit codes: 0 the message is in the spool, on disk; 64 wrong usage, 65 no recipient, a bad address, or no such message to be tried, 71 the user
has no name, 74 the input cannot be read, 75 the spool cannot be written, or the daemon that is to try does not run (try again), 77 this user may
not write there, or not ask the daemon, 78 the configuration does not tell the spool";

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Take a message.
    Submit(Submit),
    /// Show the queue.
    List {
        /// `-C`.
        config: Option<PathBuf>,
    },
    /// Try what waits now.
    Retry {
        /// `-C`.
        config: Option<PathBuf>,
        /// Of what.
        queued: Queued,
    },
    /// The daemon does it by itself, or there is nothing of the kind here.
    Nothing,
    /// `--help`.
    Help,
}

/// What is to be tried: everything, or what all that is named here holds for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queued {
    /// `-qI`.
    pub(super) ids: Vec<MessageId>,
    /// `-qR`, as a pattern.
    pub(super) recipient: Option<String>,
    /// `-qS`, as a pattern.
    pub(super) sender: Option<String>,
}

/// How to take a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Submit {
    pub(super) config: Option<PathBuf>,
    /// As written.
    pub(super) sender: Option<String>,
    pub(super) full_name: Option<String>,
    /// `-t`.
    pub(super) from_header: bool,
    /// `-i`.
    pub(super) ignore_dots: bool,
    pub(super) notify: Option<Notify>,
    pub(super) ret: Option<Ret>,
    pub(super) envid: Option<String>,
    pub(super) verbose: bool,
    /// As written.
    pub(super) recipients: Vec<String>,
}

/// Options that mean something to other implementations only, with an argument and without.
const IGNORED_WITH_ARGUMENT: &str = "ADLMOXehp";
const IGNORED: &str = "GUcmnx";

enum Mode {
    Submit,
    List,
    Retry(Queued),
    Nothing,
}

/// Reads the words behind the program's name; the error says what is wrong with them.
pub(super) fn parse(words: &[String]) -> Result<Asked, String> {
    let mut submit = Submit::default();
    let mut mode = Mode::Submit;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => {
                submit.recipients.extend(words.by_ref().cloned());
            }
            "--help" => return Ok(Asked::Help),
            // As with the program's other commands.
            "--config" => submit.config = Some(PathBuf::from(words.next().ok_or("--config: its argument is missing")?)),
            long if long.starts_with("--") => return Err(format!("{long}: unknown option; see --help")),
            "-" => return Err("-: an option's letter is missing".to_owned()),
            cluster if cluster.starts_with('-') => {
                let mut letters = cluster[1..].chars();
                while let Some(letter) = letters.next() {
                    let rest = letters.as_str();
                    // What has no argument may be followed by the next option.
                    if !flag(letter, rest, &mut submit, &mut mode)? {
                        let argument = match rest {
                            "" => words.next().ok_or_else(|| format!("-{letter}: its argument is missing"))?,
                            attached => attached,
                        };
                        valued(letter, argument, &mut submit, &mut mode)?;
                        break;
                    }
                    // These take what is attached to them, and nothing else.
                    if matches!(letter, 'd' | 'q') {
                        break;
                    }
                }
            }
            recipient => submit.recipients.push(recipient.to_owned()),
        }
    }
    Ok(match mode {
        Mode::Submit => Asked::Submit(submit),
        Mode::List => Asked::List { config: submit.config },
        Mode::Retry(queued) => Asked::Retry { config: submit.config, queued },
        Mode::Nothing => Asked::Nothing,
    })
}

/// An option without an argument; `false`: it has one.
fn flag(letter: char, rest: &str, submit: &mut Submit, mode: &mut Mode) -> Result<bool, String> {
    match letter {
        't' => submit.from_header = true,
        'i' => submit.ignore_dots = true,
        'v' => submit.verbose = true,
        'q' => queue_run(rest, mode)?,
        'I' => *mode = Mode::Nothing,
        // Debugging, as -d0-99.1.
        'd' => {}
        ignored if IGNORED.contains(ignored) => {}
        valued if IGNORED_WITH_ARGUMENT.contains(valued) || "BCFNRVbfor".contains(valued) => return Ok(false),
        's' => return Err("-s: unknown option; a subject is a line \"Subject: ...\" at the top of the message".to_owned()),
        unknown => return Err(format!("-{unknown}{rest}: unknown option; see --help")),
    }
    Ok(true)
}

/// What is attached to `-q`.
fn queue_run(rest: &str, mode: &mut Mode) -> Result<(), String> {
    let every = rest.strip_prefix('p').unwrap_or(rest);
    if every.starts_with(|c: char| c.is_ascii_digit()) || rest == "p" {
        // The daemon does so by itself.
        *mode = Mode::Nothing;
        return Ok(());
    }
    if !matches!(mode, Mode::Retry(_)) {
        *mode = Mode::Retry(Queued::default());
    }
    let Mode::Retry(queued) = mode else { return Ok(()) };
    let mut kind = rest.chars();
    match (kind.next(), kind.as_str()) {
        (None, _) | (Some('f'), "") => {}
        (Some('I' | 'R' | 'S'), "") => return Err(format!("-q{rest}: what it is to be is missing, attached to it")),
        (Some('I'), id) => queued.ids.push(id.parse().map_err(|_| format!("-qI{id}: this is no whole id of a message; mailq lists them"))?),
        (Some('R'), text) => only(&mut queued.recipient, rest, text)?,
        (Some('S'), text) => only(&mut queued.sender, rest, text)?,
        _ => {
            return Err(format!(
                "-q{rest}: unknown; -q, -qIID, -qRTEXT and -qSTEXT are known; see smtp-direct queue retry --help for more"
            ));
        }
    }
    Ok(())
}

/// The pattern for addresses with `text` in them.
fn only(pattern: &mut Option<String>, rest: &str, text: &str) -> Result<(), String> {
    if pattern.is_some() {
        return Err(format!("-q{rest}: only one of its kind can be given"));
    }
    if text.contains('*') {
        return Err(format!("-q{rest}: a star has no meaning here; smtp-direct queue retry takes patterns"));
    }
    *pattern = Some(if text == "<>" { text.to_owned() } else { format!("*{text}*") });
    Ok(())
}

fn valued(letter: char, argument: &str, submit: &mut Submit, mode: &mut Mode) -> Result<(), String> {
    let text = || Some(argument.to_owned());
    match letter {
        'f' | 'r' => submit.sender = text(),
        'F' => submit.full_name = text(),
        'C' => submit.config = Some(PathBuf::from(argument)),
        'N' => submit.notify = Some(notify(argument)?),
        'R' => {
            submit.ret = Some(match argument.to_ascii_lowercase().as_str() {
                "full" => Ret::Full,
                "hdrs" => Ret::Headers,
                _ => return Err(format!("-R {argument}: write full or hdrs")),
            });
        }
        'V' => submit.envid = text(),
        'B' if argument.eq_ignore_ascii_case("7bit") || argument.eq_ignore_ascii_case("8bitmime") => {}
        'B' => return Err(format!("-B {argument}: write 7BIT or 8BITMIME")),
        'b' => *mode = operation(argument)?,
        'o' if argument == "i" || argument.eq_ignore_ascii_case("itrue") => submit.ignore_dots = true,
        'o' if argument == "t" => submit.from_header = true,
        // Some of them have a second argument, which must not be taken for a recipient.
        'o' if argument.starts_with('M') => return Err(format!("-o{argument}: where a message came from cannot be claimed")),
        // -oem, -odi, -om and many others; -e, -h and the like.
        _ => {}
    }
    Ok(())
}

/// The argument of `-b`.
fn operation(argument: &str) -> Result<Mode, String> {
    match argument {
        "m" => Ok(Mode::Submit),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Nothing),
        "s" => {
            Err("-bs: SMTP is not spoken on standard input; give the message there, and the recipients as arguments or with -t".to_owned())
        }
        "d" | "D" => Err(format!("-b{argument}: the daemon is started by `smtp-direct run`, and listens on no port")),
        "v" | "t" => Err(format!("-b{argument}: where mail for an address would go is told by `smtp-direct route ADDRESS`")),
        _ => Err(format!("-b{argument}: unknown; -bm, -bp and -bi are known")),
    }
}

/// RFC 3461 4.1, in any case.
fn notify(argument: &str) -> Result<Notify, String> {
    let mut notify = Notify::NEVER;
    if argument.eq_ignore_ascii_case("never") {
        return Ok(notify);
    }
    for word in argument.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => return Err(format!("-N {argument}: write never, or some of success,failure,delay")),
        }
    }
    Ok(notify)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Asked, String> {
        // "''" stands for the empty word.
        let words: Vec<String> = line.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect();
        parse(&words)
    }

    fn submit(line: &str) -> Submit {
        match read(line) {
            Ok(Asked::Submit(submit)) => submit,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn senders_are_attached_or_not() {
        for (line, sender) in
            [("-f a@b x", "a@b"), ("-fa@b x", "a@b"), ("-r a@b x", "a@b"), ("-f <> x", "<>"), ("-f '' x", ""), ("-tif a@b x", "a@b")]
        {
            let found = submit(line);
            assert_eq!((found.sender.as_deref(), found.recipients), (Some(sender), vec!["x".to_owned()]), "{line}");
        }
        assert_eq!(submit("-f a@b -f c@d x").sender.as_deref(), Some("c@d"));
    }

    #[test]
    fn what_programs_write_is_understood() {
        let cron = submit("-i -FCronDaemon -B8BITMIME -oem root");
        assert_eq!((cron.ignore_dots, cron.full_name.as_deref(), cron.recipients), (true, Some("CronDaemon"), vec!["root".to_owned()]));
        let php = submit("-t -i");
        assert!(php.from_header && php.ignore_dots && php.recipients.is_empty());
        let mutt = submit("-oem -oi -f me@x -N failure,delay -R hdrs -V Q1 -- -odd@y b@y");
        assert_eq!(
            (mutt.recipients, mutt.ret, mutt.envid.as_deref()),
            (vec!["-odd@y".to_owned(), "b@y".to_owned()], Some(Ret::Headers), Some("Q1"))
        );
        assert_eq!(mutt.notify, Some(Notify { failure: true, delay: true, success: false, explicit: true }));
        assert_eq!(submit("-N NEVER x").notify, Some(Notify::NEVER));
        // Options behind recipients are options all the same.
        let late = submit("x -t -v");
        assert!(late.from_header && late.verbose && late.recipients == ["x"]);
    }

    #[test]
    fn old_options_are_ignored_and_leave_the_recipients_alone() {
        let old = "-m -n -U -x -G -c -odq -o7 -O DeliveryMode=b -OQueueDirectory=/x -d -d0-99.1 -em -h 5 -h5 -L tag -Am -pESMTP:host -X /log -o i x";
        let found = submit(old);
        assert_eq!(found, Submit { ignore_dots: true, recipients: vec!["x".to_owned()], ..Submit::default() });
    }

    #[test]
    fn other_modes() {
        assert_eq!(read("-bp -C f"), Ok(Asked::List { config: Some("f".into()) }));
        assert_eq!(read("--config f -bp"), read("-bp -Cf"));
        for line in ["-q", "-qf"] {
            assert_eq!(read(line), Ok(Asked::Retry { config: None, queued: Queued::default() }), "{line}");
        }
        for line in ["-bi", "-I", "-q15m", "-qp5m", "-qp"] {
            assert_eq!(read(line), Ok(Asked::Nothing), "{line}");
        }
        assert_eq!(read("--help"), Ok(Asked::Help));
    }

    #[test]
    fn what_is_to_be_tried_is_read() {
        let retried = |line: &str| match read(line) {
            Ok(Asked::Retry { queued, .. }) => queued,
            other => panic!("{line}: {other:?}"),
        };
        let id = "01M3250VZ80000000000000001";
        assert_eq!(retried(&format!("-qI{id} -v")).ids, [id.parse().unwrap()]);
        let both = retried("-qRexample.com -qS<>");
        assert_eq!((both.recipient.as_deref(), both.sender.as_deref()), (Some("*example.com*"), Some("<>")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            ("-bs", "-bs: SMTP is not spoken"),
            ("-bd -q15m", "-bd: the daemon is started by"),
            ("-bz", "-bz: unknown"),
            ("-qIABC", "-qIABC: this is no whole id"),
            ("-qR", "-qR: what it is to be is missing"),
            ("-qRa*b", "-qRa*b: a star has no meaning"),
            ("-qSa -qSb", "-qSb: only one of its kind"),
            ("-qGgroup", "-qGgroup: unknown"),
            ("-q!Iabc", "-q!Iabc: unknown"),
            ("-tZx a", "-Zx: unknown option"),
            ("--frobnicate", "--frobnicate: unknown option"),
            ("-s Hello x", "-s: unknown option; a subject"),
            ("-f", "-f: its argument is missing"),
            ("-", "-: an option's letter"),
            ("-N always x", "-N always: write never"),
            ("-R body x", "-R body: write full or hdrs"),
            ("-B binary x", "-B binary: write 7BIT"),
            ("-oMr smtp x", "-oMr: where a message came from"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }
}

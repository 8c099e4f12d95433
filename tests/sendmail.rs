//! `sendmail` as programs call it: the real binary, each option, what is in the spool then, and what intake makes of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/intake.rs"]
mod intake;
#[path = "support/spool.rs"]
mod spool;
#[path = "support/store.rs"]
mod store;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::{User, getuid};
use smtp_direct::message::{Notify, Ret, ReversePath};
use smtp_direct::queue::SqliteStore;
use spool::TestSpool;

const BINARY: &str = env!("CARGO_BIN_EXE_smtp-direct");
const LETTER: &str = "Subject: Hello\n\nbody\n";

/// What stands in `drop/`.
struct Found {
    sidecar: String,
    content: String,
}

impl Found {
    /// The header, without the fields that differ from run to run, and the body.
    fn parts(&self) -> (Vec<&str>, &str) {
        let (header, body) = self.content.split_once("\r\n\r\n").unwrap();
        (header.split("\r\n").filter(|line| !line.starts_with("Date: ") && !line.starts_with("Message-ID: <01")).collect(), body)
    }
}

fn configure(spool: &TestSpool) -> PathBuf {
    let file = spool.scratch("smtp-direct.toml");
    fs::write(&file, format!("hostname = \"mail.example.com\"\n[spool]\npath = {:?}\n", spool.layout().root())).unwrap();
    file
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn sendmail(spool: &TestSpool, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("sendmail").arg("-C").arg(configure(spool)).args(words);
    feed(command, input.as_bytes())
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The one message in `drop/`; it is taken out. Nothing else is there.
fn take(spool: &TestSpool) -> Found {
    let names = spool.dropped();
    let [eml, toml] = names.as_slice() else { panic!("{names:?}") };
    assert_eq!((eml.strip_suffix(".eml"), spool.names(&spool.layout().tmp())), (toml.strip_suffix(".toml"), vec![]));
    let read = |name: &String| {
        let path = spool.layout().drop().join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640, "{name}");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    };
    Found { content: read(eml), sidecar: read(toml) }
}

fn submitted(words: &[&str], input: &str) -> Found {
    let spool = TestSpool::new();
    let done = sendmail(&spool, words, input);
    assert_eq!((done.status.code(), text(&done.stderr), text(&done.stdout)), (Some(0), String::new(), String::new()), "{words:?}");
    take(&spool)
}

/// The code and the text; nothing is left in the spool.
fn refused(words: &[&str], input: &str) -> (i32, String) {
    let spool = TestSpool::new();
    let done = sendmail(&spool, words, input);
    nothing_left(&spool);
    (done.status.code().unwrap(), text(&done.stderr))
}

fn nothing_left(spool: &TestSpool) {
    assert_eq!((spool.dropped(), spool.names(&spool.layout().tmp())), (vec![], vec![]));
}

fn login() -> String {
    User::from_uid(getuid()).unwrap().expect("whoever runs tests has a name").name
}

#[test]
fn a_plain_call_is_from_the_user_at_this_host() {
    let found = submitted(&["you@example.org"], LETTER);
    let me = format!("{}@mail.example.com", login());
    assert_eq!(found.sidecar, format!("from = \"{me}\"\nto = [\"you@example.org\"]\n"));
    let (header, body) = found.parts();
    assert_eq!((header[0], body), ("Subject: Hello", "body\r\n"));
    assert!(header[1].starts_with("From: ") && header[1].contains(&me), "{header:?}");
    assert!(found.content.contains("\r\nDate: ") && found.content.contains("@mail.example.com>\r\n"), "{}", found.content);
}

#[test]
fn each_option_does_what_sendmail_does() {
    let to = "to = [\"you@example.org\"]\n";
    for (words, sidecar) in [
        (&["-f", "a@b.test", "you@example.org"][..], format!("from = \"a@b.test\"\n{to}")),
        (&["-fa@b.test", "you@example.org"], format!("from = \"a@b.test\"\n{to}")),
        (&["-r", "A <a@b.test>", "you@example.org"], format!("from = \"a@b.test\"\n{to}")),
        (&["-f", "web", "you@example.org"], format!("from = \"web@mail.example.com\"\n{to}")),
        (&["-f", "<>", "you@example.org"], format!("from = \"\"\n{to}")),
        (&["-f", "", "you@example.org"], format!("from = \"\"\n{to}")),
        (&["-fa@b.test", "root"], "from = \"a@b.test\"\nto = [\"root@mail.example.com\"]\n".to_owned()),
        (&["-fa@b.test", "--", "-x@y.test", "b@y.test"], "from = \"a@b.test\"\nto = [\"-x@y.test\", \"b@y.test\"]\n".to_owned()),
        (&["-fa@b.test", "b@y.test, C <c@y.test>", "b@y.test"], "from = \"a@b.test\"\nto = [\"b@y.test\", \"c@y.test\"]\n".to_owned()),
        (
            &["-fa@b.test", "-N", "success,delay", "-R", "hdrs", "-V", "QQ1", "-bm", "you@example.org"],
            format!("envid = \"QQ1\"\nfrom = \"a@b.test\"\nnotify = [\"delay\", \"success\"]\nret = \"headers\"\n{to}"),
        ),
        (&["-fa@b.test", "-Nnever", "you@example.org"], format!("from = \"a@b.test\"\nnotify = [\"never\"]\n{to}")),
        (
            &["-fa@b.test", "-m", "-n", "-U", "-odb", "-em", "-h5", "-OA=b", "-B", "8BITMIME", "you@example.org"],
            format!("from = \"a@b.test\"\n{to}"),
        ),
    ] {
        let found = submitted(words, LETTER);
        assert_eq!(found.sidecar, sidecar, "{words:?}");
        assert_eq!(found.parts().1, "body\r\n", "{words:?}");
    }
    assert_eq!(submitted(&["-fa@b.test", "-F", "Joe (J.)", "you@example.org"], LETTER).parts().0[1], "From: \"Joe (J.)\" <a@b.test>");
    assert_eq!(submitted(&["-f<>", "-FJoe", "you@example.org"], LETTER).parts().0[1], "From: Joe <MAILER-DAEMON@mail.example.com>");
    // A From field that is there stays.
    assert_eq!(submitted(&["-FJoe", "you@example.org"], "From: x@y.test\n\n").parts().0, ["From: x@y.test"]);
}

#[test]
fn dots_end_the_message_or_do_not() {
    let input = "Subject: x\n\na\n.\nb\n";
    assert_eq!(submitted(&["you@example.org"], input).parts().1, "a\r\n");
    for option in ["-i", "-oi"] {
        assert_eq!(submitted(&[option, "you@example.org"], input).parts().1, "a\r\n.\r\nb\r\n", "{option}");
    }
}

#[test]
fn recipients_of_the_header_are_added_to_those_of_the_command_line() {
    let input = "To: a@y.test, root\nCc: C <c@y.test>\nBcc: hidden@y.test\nFrom: me\nSubject: x\n\nbody\n";
    for (words, to) in [
        (&["-t"][..], "\"a@y.test\", \"root@mail.example.com\", \"c@y.test\", \"hidden@y.test\""),
        (&["-ti", "z@y.test"], "\"z@y.test\", \"a@y.test\", \"root@mail.example.com\", \"c@y.test\", \"hidden@y.test\""),
        (&["z@y.test"], "\"z@y.test\""),
    ] {
        let found = submitted(&[&["-fa@b.test"], words].concat(), input);
        assert_eq!(found.sidecar, format!("from = \"a@b.test\"\nto = [{to}]\n"), "{words:?}");
        let expected = ["To: a@y.test, root@mail.example.com", "Cc: C <c@y.test>", "From: me@mail.example.com", "Subject: x"];
        assert_eq!(found.parts().0, expected, "{words:?}");
    }
    let resent = format!("Resent-From: r@y.test\nResent-To: new@y.test\nResent-Bcc: also@y.test\n{input}");
    let found = submitted(&["-t", "-fa@b.test"], &resent);
    assert_eq!(found.sidecar, "from = \"a@b.test\"\nto = [\"new@y.test\", \"also@y.test\"]\n");
    assert!(!found.content.contains("Bcc"), "{}", found.content);
}

#[test]
fn line_ends_and_mailbox_lines_do_not_matter() {
    for input in [
        "Subject: x\n\nbody\n",
        "Subject: x\r\n\r\nbody\r\n",
        "From joe Sun Nov 22 10:00:00 2026\nSubject: x\n\nbody\n",
        "Subject: x\n\nbody",
    ] {
        let found = submitted(&["-fa@b.test", "-FA", "you@example.org"], input);
        assert_eq!(found.parts(), (vec!["Subject: x", "From: A <a@b.test>"], "body\r\n"), "{input:?}");
    }
    // Neither header nor anything else.
    assert_eq!(submitted(&["-fa@b.test", "-FA", "you@example.org"], "").parts(), (vec!["From: A <a@b.test>"], ""));
}

/// What is written is what the daemon reads.
#[tokio::test]
async fn intake_reads_the_envelope_that_was_asked_for() {
    let spool = TestSpool::new();
    let words = ["-t", "-f", "bounce@web.test", "-N", "failure", "-R", "full", "-V", "id 1", "extra@y.test"];
    let done = sendmail(&spool, &words, "To: \"a b\"@y.test\nBcc: hidden@y.test\nSubject: x\n\nbody\n.\nnot this\n");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let mut running = intake::Running::on(spool);
    let copy = running.copy().await;
    assert_eq!(intake::shown(&copy), "bounce@web.test: extra@y.test \"a b\"@y.test hidden@y.test");
    let notify = Notify { failure: true, delay: false, success: false, explicit: true };
    assert!(copy.recipients.iter().all(|to| to.notify == notify), "{:?}", copy.recipients);
    assert_eq!((copy.message.ret, copy.message.envid.as_deref()), (Some(Ret::Full), Some("id 1")));
    let wire = running.wire(&copy);
    assert!(wire.ends_with("\r\n\r\nbody\r\n") && wire.contains("\r\nSubject: x\r\n") && !wire.contains("hidden"), "{wire}");
    // Renamed as it is, not converted.
    assert!(copy.message.content.canonical);
    assert_eq!(wire.matches("Message-ID:").count(), 1, "{wire}");
    let spool = running.stop().await.0;

    assert_eq!(sendmail(&spool, &["-f<>", "you@example.org"], LETTER).status.code(), Some(0));
    let mut running = intake::Running::on(spool);
    let copy = running.copy().await;
    assert_eq!((copy.message.sender.clone(), copy.recipients[0].notify), (ReversePath::Null, Notify::default()));
    running.stop().await;
}

#[test]
fn what_cannot_be_done_has_a_code_and_a_reason() {
    for (words, input, code, reason) in [
        (&["-bs"][..], "", 64, "sendmail: -bs: SMTP is not spoken"),
        (&["-bd", "-q15m"], "", 64, "sendmail: -bd: the daemon is started by"),
        (&["-Z", "you@example.org"], LETTER, 64, "sendmail: -Z: unknown option"),
        (&[], LETTER, 64, "sendmail: nobody is to get it: name recipients, or use -t"),
        (&["-t"], LETTER, 65, "sendmail: no recipient: neither To, Cc and Bcc nor the command line"),
        (&["-t"], "To: John Doe\n\n", 65, "sendmail: To: \"John Doe\" is no address"),
        (&["you@"], LETTER, 65, "sendmail: recipient: "),
        (&[""], LETTER, 65, "sendmail: \"\" is no address"),
        (
            &["you@example.org\nbcc@example.org"],
            LETTER,
            65,
            "sendmail: recipient: \"you@example.org\\nbcc@example.org\" contains a control character",
        ),
        (&["-fa@b.test, c@d.test", "you@example.org"], LETTER, 65, "sendmail: -f: "),
        (&["-V", "ü", "you@example.org"], LETTER, 65, "sendmail: line 1: envid: it must be 1 to 100 printable"),
        (&["-C", "/nonexistent/x.toml", "you@example.org"], LETTER, 78, "sendmail: /nonexistent/x.toml: "),
    ] {
        let (found, text) = refused(words, input);
        assert!(found == code && text.starts_with(reason), "{words:?}: {found} {text}");
    }
    let (code, text) = refused(&["you@example.org"], &format!("X: {}\n", "x".repeat(1 << 20)));
    assert_eq!((code, text.as_str()), (65, "sendmail: the header is longer than 1048576 octets: end it with an empty line\n"));
}

#[test]
fn a_queue_run_needs_the_daemon() {
    for words in [&["-q"][..], &["-qf"], &["-qI01M3250VZ80000000000000001"], &["-qRexample.org", "-qS<>"]] {
        let (code, text) = refused(words, "");
        assert!(code == 75 && text.starts_with("sendmail: the daemon does not run (nobody listens at "), "{words:?}: {code} {text}");
    }
    let (code, text) = refused(&["-qI01J"], "");
    assert_eq!((code, text.as_str()), (64, "sendmail: -qI01J: this is no whole id of a message; mailq lists them\n"));
}

#[test]
fn nothing_is_to_be_done_for_aliases_and_intervals() {
    for words in [&["-bi"][..], &["-I"], &["-q15m"]] {
        let (code, text) = refused(words, "");
        assert_eq!((code, text.as_str()), (0, ""), "{words:?}");
    }
    let help = Command::new(BINARY).args(["sendmail", "--help"]).output().unwrap();
    assert!(help.status.success() && text(&help.stdout).contains("Usage: sendmail"), "{help:?}");
    let overview = Command::new(BINARY).arg("--help").output().unwrap();
    assert!(text(&overview.stdout).contains("sendmail"), "{overview:?}");
}

#[test]
fn the_name_of_the_file_is_told_to_who_asks() {
    let spool = TestSpool::new();
    let done = sendmail(&spool, &["-v", "you@example.org"], LETTER);
    let name = spool.dropped()[0].strip_suffix(".eml").unwrap().to_owned();
    assert_eq!(text(&done.stderr), format!("sendmail: the message is in the spool, as {name}\n"));
    // Every call has a name of its own.
    assert_eq!(sendmail(&spool, &["you@example.org"], LETTER).status.code(), Some(0));
    assert_eq!(spool.dropped().len(), 4);
}

#[tokio::test]
async fn the_name_of_the_program_says_what_is_wanted() {
    let spool = TestSpool::new();
    let config = configure(&spool);
    let called = |name: &str, words: &[&str]| {
        let link = spool.scratch(name);
        if !link.exists() {
            symlink(BINARY, &link).unwrap();
        }
        let mut command = Command::new(&link);
        command.arg("-C").arg(&config).args(words);
        feed(command, LETTER.as_bytes())
    };
    assert_eq!(called("sendmail", &["you@example.org"]).status.code(), Some(0));
    assert!(take(&spool).content.starts_with("Subject: Hello\r\n"));
    let aliases = called("newaliases", &[]);
    assert_eq!((aliases.status.code(), text(&aliases.stderr)), (Some(0), String::new()));
    // No daemon has run here yet.
    let queue = called("mailq", &[]);
    assert_eq!(queue.status.code(), Some(66), "{queue:?}");
    drop(SqliteStore::open(&spool.layout().database()).unwrap());
    let listed = Command::new(BINARY).args(["queue", "list", "--config"]).arg(&config).output().unwrap();
    assert!(listed.status.success() && !listed.stdout.is_empty(), "{listed:?}");
    for queue in [called("mailq", &[]), called("sendmail", &["-bp"])] {
        assert_eq!((queue.status.code(), text(&queue.stdout)), (Some(0), text(&listed.stdout)));
    }
    nothing_left(&spool);
}

#[test]
fn the_rest_of_the_configuration_may_be_wrong() {
    let spool = TestSpool::new();
    let config = spool.scratch("broken.toml");
    let broken = "[[dns.override]]\ndomain = \"x\"\nserver = \"y\"\npassword_file = \"/nonexistent\"\n[tls]\nmode = nonsense\n";
    fs::write(&config, format!("hostname = \"mail.example.com\"\nspool.path = {:?}\n{broken}", spool.layout().root())).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("sendmail").arg("-C").arg(config).arg("you@example.org");
    let done = feed(command, LETTER.as_bytes());
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    take(&spool);
}

/// Runs it under a shell's setting.
fn under(setting: &str, spool: &TestSpool, input: &[u8]) -> Output {
    let mut command = Command::new("sh");
    let line = format!("{setting}; exec \"$0\" sendmail -C \"$1\" -i you@example.org");
    command.arg("-c").arg(line).arg(BINARY).arg(configure(spool));
    feed(command, input)
}

#[test]
fn a_strict_umask_does_not_keep_the_daemon_out() {
    let spool = TestSpool::new();
    assert_eq!(under("umask 077", &spool, LETTER.as_bytes()).status.code(), Some(0));
    take(&spool);
}

#[test]
fn a_limit_of_file_size_is_told_and_leaves_nothing() {
    let spool = TestSpool::new();
    let done = under("ulimit -f 8", &spool, &[&b"Subject: x\n\n"[..], &b"0123456789abcde\n".repeat(1 << 14)].concat());
    assert_eq!(done.status.code(), Some(75), "{done:?}");
    assert!(text(&done.stderr).starts_with("sendmail: the spool cannot be written: "), "{done:?}");
    nothing_left(&spool);
}

#[test]
fn a_spool_that_is_not_there_is_told() {
    for missing in ["tmp", "drop"] {
        let spool = TestSpool::new();
        fs::remove_dir(spool.layout().root().join(missing)).unwrap();
        let done = sendmail(&spool, &["you@example.org"], LETTER);
        assert_eq!(done.status.code(), Some(75), "{missing}: {done:?}");
        assert!(text(&done.stderr).contains(&format!("/{missing}: is smtp-direct installed")), "{done:?}");
        let other = spool.layout().root().join(if missing == "tmp" { "drop" } else { "tmp" });
        assert_eq!(spool.names(&other), Vec::<String>::new());
    }
}

#[test]
fn who_may_not_write_is_told_which_group_may() {
    let spool = TestSpool::new();
    let config = configure(&spool);
    let drop = spool.layout().drop();
    // The build's own directory may be closed to others.
    let binary = spool.scratch("smtp-direct");
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(&drop, fs::Permissions::from_mode(0o500)).unwrap();
    let mut command = Command::new(binary);
    command.arg("sendmail").arg("-C").arg(config).arg("-fa@b.test").arg("you@example.org").current_dir("/");
    if getuid().is_root() {
        // Nothing is closed to root.
        command.uid(65_534).gid(65_534);
        for part in [spool.layout().root().to_owned(), spool.layout().tmp()] {
            fs::set_permissions(&part, fs::Permissions::from_mode(0o777)).unwrap();
        }
    }
    let done = feed(command, LETTER.as_bytes());
    let group = nix::unistd::Group::from_gid(fs::metadata(&drop).unwrap().gid().into()).unwrap().unwrap().name;
    fs::set_permissions(&drop, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(done.status.code(), Some(77), "{done:?}");
    let expected = format!("drop: that is for members of the group {group}; an administrator adds one with: usermod -aG {group} USER");
    assert!(text(&done.stderr).contains(&expected), "{done:?}");
    nothing_left(&spool);
}

#[test]
fn input_that_cannot_be_read_is_told_and_leaves_nothing() {
    let spool = TestSpool::new();
    let mut command = Command::new(BINARY);
    command.arg("sendmail").arg("-C").arg(configure(&spool)).arg("you@example.org");
    let done = command.stdin(File::open(Path::new("/")).unwrap()).output().unwrap();
    assert_eq!(done.status.code(), Some(74), "{done:?}");
    assert!(text(&done.stderr).starts_with("sendmail: standard input cannot be read: "), "{done:?}");
    nothing_left(&spool);
}

#[test]
fn a_writer_that_is_killed_leaves_nothing() {
    let spool = TestSpool::new();
    let mut command = Command::new(BINARY);
    command.arg("sendmail").arg("-C").arg(configure(&spool)).arg("you@example.org");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Far more than a pipe holds: when all of it is gone, most of it is written.
    child.stdin.as_mut().unwrap().write_all(&[&b"Subject: x\n\n"[..], &b"line\n".repeat(1 << 18)].concat()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_left(&spool);
}

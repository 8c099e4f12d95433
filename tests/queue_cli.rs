//! `queue` and `history`: their exact output at a fixed time, their exit codes, and how they are called.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use smtp_direct::cli::history::{self, HistoryArgs};
use smtp_direct::cli::queue::{self, QueueArgs};
use smtp_direct::message::{Cut, Notify, Priority, Ret, ReversePath};
use smtp_direct::queue::{Haste, NextStep, ReportAction, Settlement, SqliteStore, Store};
use smtp_direct::spool::Layout;
use support::{Folder, at, begins, deferred, delivered, failed, in_doubt, message, reporting, settlement};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a command line")]
enum Command {
    Queue(Box<QueueArgs>),
    History(Box<HistoryArgs>),
}

/// Runs a command line at the time 10,000, with colours kept or dropped: code, output, errors.
fn run_with(colours: bool, database: &Path, words: &str) -> (ExitCode, String, String) {
    let line = Line::try_parse_from(format!("smtp-direct {words}").split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut stripped = anstream::StripStream::new(Vec::new());
    let writer: &mut dyn std::io::Write = if colours { &mut out } else { &mut stripped };
    let code = match line.command {
        Command::Queue(args) => queue::run(&args, database, at(10_000), writer, &mut err),
        Command::History(args) => history::run(&args, database, at(10_000), writer, &mut err),
    };
    out.extend(stripped.into_inner());
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// The plain output of a command that works.
fn run(database: &Path, words: &str) -> String {
    let (code, out, err) = run_with(false, database, words);
    assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""), "{words}");
    for line in out.lines().filter(|_| !words.contains("--json")) {
        assert!(line.chars().count() <= 100 && line.trim_end() == line, "{line:?}");
    }
    out
}

/// Five messages, copies in all states.
async fn filled(name: &str) -> Folder {
    let folder = Folder::new(name);
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut messages = vec![
        message(1, &["joe@one.example", "ann@one.example", "eve@one.example", "bob@two.example"]),
        message(2, &["joe@two.example"]),
        message(3, &["carl@three.example"]),
        message(4, &["a-recipient-with-a-name-that-is-much-too-long-for-a-column-of-a-table@four.example"]),
        message(9000, &["dora@five.example"]),
    ];
    messages[0].envelope.ret = Some(Ret::Headers);
    messages[0].envelope.envid = Some("QQ314159".to_owned());
    messages[0].envelope.recipients[2].notify = Notify::NEVER;
    messages[1].envelope.sender = ReversePath::Null;
    messages[1].envelope.priority = Priority::Bulk;
    messages[1].envelope.tag = Some("news".to_owned());
    messages[1].source.name = "od\u{1b}[31md.eml".to_owned();
    let copies = store.accept(messages).await.unwrap();
    store.begin_attempts(begins(&[0, 2, 3, 4].map(|n| copies[n].clone())), at(20)).await.unwrap();
    let mut first = settlement(&copies[0], &in_doubt(), NextStep::Retry(at(10_300)), at(25));
    first.recipients[1].outcome = delivered();
    first.recipients[2].outcome = failed();
    let hold = NextStep::Hold { reason: "waiting for their new server".to_owned() };
    let hold = Settlement { attempt: None, recipients: vec![], ..settlement(&copies[1], &deferred(), hold, at(25)) };
    let third = settlement(&copies[3], &delivered(), NextStep::Finish, at(26));
    let fourth = reporting(settlement(&copies[4], &failed(), NextStep::Finish, at(9_970)), ReportAction::Failed);
    store.settle(vec![first, hold, third, fourth].into(), Haste::Now).await.unwrap();
    store.close().await;
    folder
}

#[tokio::test]
async fn list() {
    let folder = filled("cli-list").await;
    let all = "\
ID                          STATE    AGE  NEXT   TRIES  TO
01M3250VZ80000000000000001  queued   2h   in 5m  1      joe@one.example
    from alice@example.org, 2.2 KiB, was in doubt: in doubt: the content was sent in full, then the…
01M3250VZ80000000000000001  held     2h   -      0      bob@two.example
    from alice@example.org, 2.2 KiB: waiting for their new server
01M3250WYG0000000000000002  sending  2h   -      1      joe@two.example
    from <>, 2.2 KiB, bulk
01M32DKG2000000000000008S8  queued   16m  due    0      dora@five.example
    from alice@example.org, 2.2 KiB
4 copies, 4 recipients
";
    let dora = "\
ID                          STATE   AGE  NEXT  TRIES  TO
01M32DKG2000000000000008S8  queued  16m  due   0      dora@five.example
    from alice@example.org, 2.2 KiB
1 copy, 1 recipient
";
    assert_eq!(run(&folder.database(), "queue"), all);
    assert_eq!(run(&folder.database(), "queue list"), all);
    // Where the first was tried last; by its tag, the second message.
    for words in ["list --site mx1.example.com", "list --site MX2.example.com:25", "list --tag n*s"] {
        assert_eq!(run(&folder.database(), &format!("queue {words} --json")).lines().count(), 1, "{words}");
    }
    assert_eq!(run(&folder.database(), "queue list --site elsewhere.test"), "nothing waits\n");
    let of_dora = ["01M32DKG2000000000000008S8", "list 01M32DKG2000000000000008S8", "--to *@FIVE.example", "list --domain five.example"];
    for words in of_dora {
        assert_eq!(run(&folder.database(), &format!("queue {words}")), dora, "{words}");
    }
    assert_eq!(run(&folder.database(), "queue --from x@*"), "nothing waits\n");
    assert_eq!(run(&folder.database(), "queue --older-than 2h30m --from <>").lines().last(), Some("1 copy, 1 recipient"));
    assert_eq!(run(&folder.database(), "queue --older-than 3h"), "nothing waits\n");
    assert_eq!(run(&folder.database(), "queue --older-than 1000000000years"), "nothing waits\n");
    assert_eq!(
        run(&folder.database(), "queue --limit 3").lines().last(),
        Some("3 copies, 3 recipients; there are more: --after 01M3250WYG0000000000000002-2097152")
    );
    assert_eq!(run(&folder.database(), "queue --limit 0"), "something waits: see --limit\n");
    assert_eq!(run(&folder.database(), "queue --after 01M3250WYG0000000000000002-2097152"), dora);
    let pages = run(&folder.database(), "queue --after 01M3250VZ80000000000000001-1048576");
    assert!(pages.starts_with("ID") && pages.contains("bob@two.example") && pages.ends_with("\n3 copies, 3 recipients\n"), "{pages}");
    for (words, count) in [
        ("", 4),
        ("--state queued", 2),
        ("--state sending", 1),
        ("--state held", 1),
        ("--domain two.example", 2),
        ("--message-id 1@example.org", 2),
        ("--message-id <1@*", 2),
        ("--since 1h", 1),
        ("--until 1h --from <>", 1),
        ("--since 2026-09-21T14:13:21 --until 2026-09-21T14:13:22Z", 2),
    ] {
        assert_eq!(run(&folder.database(), format!("queue list --count {words}").trim_end()), format!("{count}\n"), "{words}");
    }
    assert_eq!(run(&folder.database(), "queue --count --json --state held"), "{\"copies\":1}\n");
    assert_eq!(run(&folder.database(), "queue --limit 4"), all);
}

#[tokio::test]
async fn several_recipients_are_counted() {
    let folder = Folder::new("cli-many");
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept(vec![message(1, &["a@one.example", "b@one.example", "c@one.example"])]).await.unwrap();
    let out = run(&folder.database(), "queue list");
    assert_eq!(out.lines().nth(1), Some("01M3250VZ80000000000000001  queued  2h   due   0      a@one.example and 2 more"));
    assert_eq!(out.lines().last(), Some("1 copy, 3 recipients"));
}

#[tokio::test]
async fn show() {
    let folder = filled("cli-show").await;
    let expected = "\
Message 01M3250VZ80000000000000001
  From        alice@example.org
  Source      1.eml
  Size        2.2 KiB
  Accepted    2026-09-21 14:13:21Z (2h ago)
  Expires     2026-09-26 14:13:21Z (in 4d)
  Priority    normal
  Message-ID  <1@example.org>
  RET         headers
  ENVID       QQ314159

Copy to one.example: queued, 1 attempt, next attempt 2026-09-21 17:05:00Z (in 5m)
  joe@one.example
    deferred 4.4.2 2026-09-21 14:13:45Z (2h ago), in doubt: may have arrived
      mx1.example.com [192.0.2.25]:25, TLSv1.3 TLS13_AES_256_GCM_SHA384
      in doubt: the content was sent in full, then the connection was lost; the peer may have the
      message
  ann@one.example
    delivered 2.0.0 2026-09-21 14:13:45Z (2h ago)
      mx1.example.com [192.0.2.25]:25, TLSv1.3 TLS13_AES_256_GCM_SHA384
      250 2.0.0 Ok: queued as 4Xyz
  eve@one.example, NOTIFY=NEVER
    failed 5.1.1 2026-09-21 14:13:45Z (2h ago)
      mx1.example.com [192.0.2.25]:25, TLSv1.3 TLS13_AES_256_GCM_SHA384
      RCPT TO was answered 550 5.1.1 No such user
  Attempt 1, 2026-09-21 14:13:43Z (2h ago)
    queue 0.001s, dns 0.035s, connect 0.120s (TLS handshake 0.045s), transfer 0.310s
    route mx: 10 mx1.example.com:25, 20 mx2.example.com:25
    mx1.example.com [192.0.2.25]:25: what it said

Copy to two.example: held, 0 attempts: waiting for their new server
  bob@two.example
    not tried yet

Message 01M3250WYG0000000000000002
  From        <>
  Source      od\u{fffd}[31md.eml
  Size        2.2 KiB
  Accepted    2026-09-21 14:13:22Z (2h ago)
  Expires     2026-09-26 14:13:22Z (in 4d)
  Priority    bulk
  Message-ID  <2@example.org>
  Tag         news

Copy to two.example: sending, 1 attempt
  joe@two.example
    not tried yet
";
    assert_eq!(run(&folder.database(), &format!("queue show {} {}", message(1, &[]).id, message(2, &[]).id)), expected);
    let finished = run(&folder.database(), &format!("queue show {}", message(3, &[]).id));
    assert!(
        finished.contains("\n  Finished    2026-09-21 14:13:46Z (2h ago)\n")
            && finished.contains("\nCopy to three.example: finished, 1 attempt\n")
    );
}

/// A spool with one message whose content tries to drive the terminal, and one whose file is gone.
async fn with_content(name: &str) -> (Folder, std::path::PathBuf) {
    let folder = Folder::new(name);
    let layout = Layout::new(folder.path());
    layout.create().unwrap();
    let file = b"From: alice@example.org\r\nBcc: eve@one.example\r\nSubject: a\x1b[2J\xff\r\n\tfolded\r\nX-Last: 1\r\n\r\nbody =C3=A4\r\n\x1b]0;title\x07\r\n";
    let mut new = message(1, &["joe@one.example", "ann@one.example"]);
    new.content.cuts = vec![Cut { start: 25, end: 47 }];
    new.content.file_size = file.len() as u64;
    new.content.prepend = "Received: from drop\r\n".to_owned();
    new.envelope.ret = Some(Ret::Full);
    new.envelope.envid = Some("Q\u{1b}1".to_owned());
    new.envelope.recipients[1].notify = Notify::NEVER;
    let path = layout.message_file(new.id);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, file).unwrap();
    let store = SqliteStore::open(&layout.database()).unwrap();
    store.accept(vec![new, message(2, &["joe@two.example"])]).await.unwrap();
    store.close().await;
    (folder, layout.database())
}

#[tokio::test]
async fn parts_of_a_message_drive_no_terminal() {
    let (_folder, database) = with_content("cli-content").await;
    let id = message(1, &[]).id;
    let headers = "Received: from drop\nFrom: alice@example.org\nSubject: a\u{fffd}[2J\u{fffd}\n\tfolded\nX-Last: 1\n";
    let (code, out, _) = run_with(true, &database, &format!("queue show --headers {id}"));
    assert_eq!((code, out.as_str()), (ExitCode::SUCCESS, headers), "as sent: edits applied");
    let (code, out, _) = run_with(true, &database, &format!("queue show --body {id}"));
    assert_eq!((code, out.as_str()), (ExitCode::SUCCESS, "body =C3=A4\n\u{fffd}]0;title\u{fffd}\n"));
    let envelope = "\
Message 01M3250VZ80000000000000001
  From        alice@example.org
  RET         full
  ENVID       Q\u{fffd}1
  To          joe@one.example, NOTIFY=FAILURE,DELAY
  To          ann@one.example, NOTIFY=NEVER
";
    assert_eq!(run(&database, &format!("queue show --envelope {id}")), envelope);
    let json = concat!(
        r#"{"id":"01M3250VZ80000000000000001","from":"alice@example.org","to":[{"to":"joe@one.example","notify":"FAILURE,DELAY"},"#,
        r#"{"to":"ann@one.example","notify":"NEVER"}],"ret":"full","envid":"Q\u001b1"}"#,
        "\n"
    );
    assert_eq!(run(&database, &format!("queue show --envelope --json {id}")), json);
    let json = concat!(
        r#"{"id":"01M3250VZ80000000000000001","headers":[{"name":"Received","value":"from drop"},"#,
        r#"{"name":"From","value":"alice@example.org"},{"name":"Subject","value":"a\u001b[2J"#,
        "\u{fffd}",
        r#"\tfolded"},{"name":"X-Last","value":"1"}]}"#,
        "\n"
    );
    assert_eq!(run(&database, &format!("queue show --headers --json {id}")), json);
    let gone = message(2, &[]).id;
    let (code, out, err) = run_with(false, &database, &format!("queue show --body {gone} {id}"));
    assert_eq!((code, err), (ExitCode::FAILURE, format!("smtp-direct: message {gone}: the message file is missing\n")));
    assert!(out.starts_with("body"), "{out}");
}

#[tokio::test]
async fn a_finished_message_has_no_content_any_more() {
    let folder = filled("cli-finished").await;
    let (code, _, err) = run_with(false, &folder.database(), &format!("queue show --headers {}", message(3, &[]).id));
    let expected =
        format!("smtp-direct: message {}: it is finished, and its content is not kept: the message file is missing\n", message(3, &[]).id);
    assert_eq!((code, err), (ExitCode::FAILURE, expected));
}

#[tokio::test]
async fn an_unknown_id_is_named_and_the_others_are_shown() {
    let folder = filled("cli-unknown").await;
    let unknown = message(777, &[]).id;
    let (code, out, err) = run_with(false, &folder.database(), &format!("queue show {unknown} {}", message(3, &[]).id));
    assert_eq!((code, err), (ExitCode::FAILURE, format!("smtp-direct: the queue knows no message {unknown}\n")));
    assert!(out.contains("Copy to three.example"));
}

#[tokio::test]
async fn json_is_one_object_a_line_with_stable_names() {
    let folder = filled("cli-json").await;
    let list = run(&folder.database(), "queue list --json --limit 1");
    let expected = concat!(
        r#"{"id":"01M3250VZ80000000000000001","copy":1048576,"state":"queued","priority":"normal","from":"alice@example.org","#,
        r#""domain":"one.example","to":["joe@one.example"],"size":2300,"accepted_at":"2026-09-21T14:13:21Z","#,
        r#""due_at":"2026-09-21T17:05:00Z","attempts":1,"in_doubt":true,"last":"in doubt: the content was sent in full, "#,
        r#"then the connection was lost; the peer may have the message","cursor":"01M3250VZ80000000000000001-1048576"}"#,
        "\n"
    );
    assert_eq!(list, expected);
    assert_eq!(run(&folder.database(), "queue --json").lines().count(), 4);
    assert_eq!(run(&folder.database(), "queue --json --to nobody@*"), "");

    let show = run(&folder.database(), &format!("queue show --json {}", message(1, &[]).id));
    let expected = concat!(
        r#"{"id":"01M3250VZ80000000000000001","from":"alice@example.org","source":"1.eml","message_id":"<1@example.org>","size":2300,"#,
        r#""accepted_at":"2026-09-21T14:13:21Z","expires_at":"2026-09-26T14:13:21Z","finished_at":null,"priority":"normal","ret":"headers","#,
        r#""envid":"QQ314159","tag":null,"copies":[{"copy":1048576,"domain":"one.example","state":"queued","due_at":"2026-09-21T17:05:00Z","#,
        r#""attempts":1,"hold_reason":null,"recipients":[{"to":"joe@one.example","notify":"FAILURE,DELAY","outcome":"deferred","#,
        r#""at":"2026-09-21T14:13:45Z","dsn":"4.4.2","code":null,"reply":null,"text":"in doubt: the content was sent in full, then the "#,
        r#"connection was lost; the peer may have the message","host":"mx1.example.com","ip":"192.0.2.25","port":25,"#,
        r#""tls":"TLSv1.3 TLS13_AES_256_GCM_SHA384","in_doubt":true},{"to":"ann@one.example","notify":"FAILURE,DELAY","#,
        r#""outcome":"delivered","at":"2026-09-21T14:13:45Z","dsn":"2.0.0","code":250,"reply":"2.0.0 Ok: queued as 4Xyz","#,
        r#""text":"250 2.0.0 Ok: queued as 4Xyz","host":"mx1.example.com","ip":"192.0.2.25","port":25,"#,
        r#""tls":"TLSv1.3 TLS13_AES_256_GCM_SHA384","in_doubt":false},{"to":"eve@one.example","notify":"NEVER","outcome":"failed","#,
        r#""at":"2026-09-21T14:13:45Z","dsn":"5.1.1","code":550,"reply":"5.1.1 No such user","text":"RCPT TO was answered 550 5.1.1 No "#,
        r#"such user","host":"mx1.example.com","ip":"192.0.2.25","port":25,"tls":"TLSv1.3 TLS13_AES_256_GCM_SHA384","in_doubt":false}],"#,
        r#""history":[{"attempt":1,"began_at":"2026-09-21T14:13:43.5Z","ended_at":"2026-09-21T14:13:45Z","#,
        r#""site":"10 mx1.example.com:25, 20 mx2.example.com:25","route":"mx","delays":{"queue":0.0012,"dns":0.034567,"connect":0.12,"#,
        r#""handshake":0.045,"transfer":0.31},"trail":["mx1.example.com [192.0.2.25]:25: what it said"]}]},{"copy":1048577,"domain":"two.example","state":"held","#,
        r#""due_at":"2026-09-21T14:13:21Z","attempts":0,"hold_reason":"waiting for their new server","#,
        r#""recipients":[{"to":"bob@two.example","notify":"FAILURE,DELAY"}],"history":[]}],"actions":[]}"#,
        "\n"
    );
    assert_eq!(show, expected);

    let history = run(&folder.database(), "history --json --to carl@*");
    let expected = concat!(
        r#"{"id":"01M3250XXR0000000000000003","from":"alice@example.org","to":"carl@three.example","message_id":"<3@example.org>","#,
        r#""accepted_at":"2026-09-21T14:13:23Z","attempts":1,"outcome":"delivered","at":"2026-09-21T14:13:46Z","dsn":"2.0.0","code":250,"#,
        r#""reply":"2.0.0 Ok: queued as 4Xyz","text":"250 2.0.0 Ok: queued as 4Xyz","host":"mx1.example.com","ip":"192.0.2.25","port":25,"#,
        r#""tls":"TLSv1.3 TLS13_AES_256_GCM_SHA384","in_doubt":false,"cursor":"1790000026000-6"}"#,
        "\n"
    );
    assert_eq!(history, expected);
}

#[tokio::test]
async fn count() {
    let folder = filled("cli-count").await;
    let expected = "  \
  Messages    4
  Recipients  4
  Due         1
  Waiting     1
  Sending     1
  Held        1
  In doubt    1
  Size        9.0 KiB
  Oldest      2026-09-21 14:13:21Z (2h ago)
";
    assert_eq!(run(&folder.database(), "queue count"), expected);
    let expected = concat!(
        r#"{"messages":4,"due":1,"waiting":1,"sending":1,"held":1,"recipients":4,"in_doubt":1,"octets":9200,"#,
        r#""oldest":"2026-09-21T14:13:21Z"}"#,
        "\n"
    );
    assert_eq!(run(&folder.database(), "queue count --json"), expected);
}

#[tokio::test]
async fn history() {
    let folder = filled("cli-history").await;
    let all = "\
WHEN     OUTCOME    ID                          TO
30s ago  failed     01M3250YX00000000000000004  a-recipient-with-a-name-that-is-much-too-long-for-a…
    from alice@example.org, 1 attempt in 2h, mx1.example.com: RCPT TO was answered 550 5.1.1 No suc…
2h ago   delivered  01M3250XXR0000000000000003  carl@three.example
    from alice@example.org, 1 attempt in 23s, mx1.example.com: 250 2.0.0 Ok: queued as 4Xyz
2h ago   failed     01M3250VZ80000000000000001  eve@one.example
    from alice@example.org, 1 attempt in 24s, mx1.example.com: RCPT TO was answered 550 5.1.1 No su…
2h ago   delivered  01M3250VZ80000000000000001  ann@one.example
    from alice@example.org, 1 attempt in 24s, mx1.example.com: 250 2.0.0 Ok: queued as 4Xyz
4 recipients
";
    assert_eq!(run(&folder.database(), "history"), all);
    let last = |words: &str| run(&folder.database(), &format!("history {words}")).lines().last().unwrap().to_owned();
    assert_eq!(last("--since 1m"), "1 recipient");
    assert_eq!(last("--since 1000000000years"), "4 recipients");
    assert_eq!(last("--limit 3"), "3 recipients; there are more: --before 1790000025000-3");
    assert_eq!(last("--limit 0"), "there are some: see --limit");
    assert_eq!(last("--limit 4"), "4 recipients");
    let older = run(&folder.database(), "history --before 1790000025000-3");
    assert!(older.contains("ann@one.example") && older.ends_with("\n1 recipient\n"), "{older}");
    for (words, count) in [
        ("", 4),
        ("--domain one.example", 2),
        ("--domain *.example --outcome delivered", 2),
        ("--outcome failed", 2),
        ("--outcome expired", 0),
        ("--in-doubt", 0),
        ("--message-id 1@example.org", 2),
        ("--message-id <1@*", 2),
        ("--message-id 1@example", 0),
        ("--since 2026-09-21 --until 2026-09-21T14:13:46Z", 2),
        ("--until 1h", 3),
        ("--from alice@* --to *@one.example", 2),
    ] {
        assert_eq!(run(&folder.database(), format!("history --count {words}").trim_end()), format!("{count}\n"), "{words}");
    }
    assert_eq!(run(&folder.database(), "history --count --json --outcome failed"), "{\"recipients\":2}\n");
    assert_eq!(last("--id 01M3250VZ80000000000000001"), "2 recipients");
    assert_eq!(last("--from nobody@*"), "no outcomes");
}

#[tokio::test]
async fn colours_are_for_the_writer_to_drop() {
    let folder = filled("cli-colours").await;
    let (_, out, _) = run_with(true, &folder.database(), "queue");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("\u{1b}[1mID") && lines[0].ends_with("TO\u{1b}[0m"), "{:?}", lines[0]);
    assert!(lines[3].starts_with("\u{1b}[33m01M") && lines[5].starts_with("\u{1b}[32m01M"), "held is yellow, sending green");
    assert!(!run_with(true, &folder.database(), "queue --json").1.contains('\u{1b}'));
}

#[tokio::test]
async fn failures_have_their_codes() {
    let folder = Folder::new("cli-failures");
    let (code, out, err) = run_with(false, &folder.database(), "queue");
    assert_eq!((code, out.as_str()), (ExitCode::from(66), ""));
    let path = folder.database();
    assert_eq!(err, format!("smtp-direct: there is no queue database at {}: has the daemon run with this spool.path?\n", path.display()));
    assert_eq!(run_with(false, &folder.database(), "history").0, ExitCode::from(66));
    std::fs::write(folder.database(), "no database, but longer than the hundred octets of the header that every database begins with: so")
        .unwrap();
    let (code, _, err) = run_with(false, &folder.database(), "queue count");
    assert_eq!(code, ExitCode::from(74), "{err}");

    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let folder = filled("cli-pipe").await;
    for words in ["queue", "queue --json", "history", "queue count"] {
        let line = Line::parse_from(format!("smtp-direct {words}").split(' '));
        let mut err = Vec::new();
        let code = match line.command {
            Command::Queue(args) => queue::run(&args, &folder.database(), at(10_000), &mut Gone, &mut err),
            Command::History(args) => history::run(&args, &folder.database(), at(10_000), &mut Gone, &mut err),
        };
        assert_eq!((code, err), (ExitCode::SUCCESS, vec![]), "{words}: a reader that has read enough is no failure");
    }
}

#[test]
fn what_is_no_id_or_duration_is_a_usage_error() {
    for words in [
        "queue nonsense",
        "queue show",
        "queue show 123",
        "queue --older-than soon",
        "history --id x",
        "queue list --limit -1",
        "history --since soon",
        "queue --since soon",
        "queue --after 7",
        "queue --state finished",
        "queue --count --limit 1",
        "queue --until 1h --older-than 1h",
        "history --before 7",
        "history --outcome lost",
        "history --count --limit 1",
        // humantime panics beside 2^64 seconds.
        "queue --older-than 18446744073709551615s1000ms",
        "history --since 18446744073709551615s1000ms",
    ] {
        assert!(Line::try_parse_from(format!("smtp-direct {words}").split(' ')).is_err(), "{words}");
    }
}

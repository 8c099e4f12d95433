//! From a dropped file to an accepted message, and what happens to files that cannot be accepted.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/intake.rs"]
mod intake;
#[path = "support/log.rs"]
mod log;
#[path = "support/spool.rs"]
mod spool;
#[path = "support/store.rs"]
mod store;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use intake::{Running, SETTLE, settings, shown};
use lettre::{FileTransport, Message, Transport};
use log::Log;
use smtp_direct::message::{Domain, Priority};
use smtp_direct::observe::metrics::Origin;
use smtp_direct::queue::StoreError;
use smtp_direct::spool::{IntakeSettings, Layout};
use spool::TestSpool;
use store::MemoryStore;

const GOOD: &str = "From: a@x.test\nTo: b@y.test\nDate: d\nMessage-ID: <m@x>\nSubject: s\n\nbody\n";

/// Longer than a test waits for anything.
const NEVER_SETTLES: Duration = Duration::from_secs(3600);

/// Intake that is past its first listing: what comes now is seen by inotify.
async fn watching(settle: Duration) -> Running {
    let spool = TestSpool::new();
    let first = spool.rename_in("first.eml", GOOD);
    let long_ago = SystemTime::now() - 2 * NEVER_SETTLES;
    OpenOptions::new().write(true).open(first).unwrap().set_modified(long_ago).unwrap();
    let mut running = Running::with(spool, MemoryStore::new(), IntakeSettings { settle, ..settings() });
    assert_eq!(running.copy().await.message.source, "first.eml");
    running
}

#[tokio::test]
async fn what_appears_complete_is_taken_at_once() {
    let mut running = watching(NEVER_SETTLES).await;
    running.spool.rename_in("a.eml", GOOD);
    let copy = running.copy().await;
    assert_eq!((shown(&copy).as_str(), copy.message.source.as_str()), ("a@x.test: b@y.test", "a.eml"));
    let wire = running.wire(&copy);
    assert!(wire.starts_with(&format!("Received: by mail.example.com (smtp-direct)\r\n\twith local id {};\r\n\t", copy.message.id)));
    assert!(wire.ends_with(&format!(" +0000\r\n{}", GOOD.replace('\n', "\r\n"))));
    assert_eq!(running.spool.dropped(), Vec::<String>::new());
    assert!(!running.placing.contains(copy.message.id));
    // link(2) shows a complete file, as rename(2) does.
    let source = running.spool.scratch("kept.eml");
    fs::write(&source, GOOD).unwrap();
    fs::hard_link(&source, running.spool.layout().drop().join("link.eml")).unwrap();
    assert_eq!(running.copy().await.message.source, "link.eml");
}

#[tokio::test]
async fn file_written_in_place_is_taken_when_closed_and_settled() {
    let mut running = watching(SETTLE).await;
    let mut slow = OpenOptions::new().write(true).create_new(true).open(running.spool.layout().drop().join("slow.eml")).unwrap();
    slow.write_all(&GOOD.as_bytes()[..30]).unwrap();
    let written = Instant::now();
    running.spool.write_in("quick.eml", GOOD);
    let quick = running.copy().await;
    assert_eq!(quick.message.source, "quick.eml");
    assert!(written.elapsed() >= SETTLE.mul_f32(0.9), "{:?}", written.elapsed());
    // By now the slow one has not changed for as long, and is open.
    assert_eq!(running.spool.dropped(), ["slow.eml"]);
    slow.write_all(&GOOD.as_bytes()[30..]).unwrap();
    drop(slow);
    let copy = running.copy().await;
    assert_eq!((copy.message.source.as_str(), copy.message.content.file_size), ("slow.eml", GOOD.len() as u64));
}

#[tokio::test]
async fn files_that_are_there_at_the_start_are_taken() {
    let spool = TestSpool::new();
    let old = spool.write_in("old.eml", GOOD);
    let age = |path, by: Duration| OpenOptions::new().write(true).open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
    age(&old, Duration::from_secs(10));
    // A clock that is ahead: settled when it has not changed for a while.
    let ahead = spool.write_in("ahead.eml", GOOD);
    OpenOptions::new().write(true).open(&ahead).unwrap().set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    let mut running = Running::on(spool);
    let mut names: Vec<_> = running.copies(2).await.into_iter().map(|copy| copy.message.source.clone()).collect();
    names.sort();
    assert_eq!(names, ["ahead.eml", "old.eml"]);
}

#[tokio::test]
async fn lettres_file_transport_is_understood() {
    let mut running = Running::new();
    let message = Message::builder()
        .from("Me <me@x.test>".parse().unwrap())
        .to("you@y.test".parse().unwrap())
        .bcc("hidden@z.test".parse().unwrap())
        .subject("lettre")
        .body("Grüße".to_owned())
        .unwrap();
    let name = FileTransport::with_envelope(running.spool.layout().drop()).send(&message).unwrap();
    let copies = running.copies(2).await;
    assert_eq!([shown(&copies[0]), shown(&copies[1])], ["me@x.test: you@y.test", "me@x.test: hidden@z.test"]);
    assert_eq!(copies[0].message.source, format!("{name}.eml"));
    assert!(!running.wire(&copies[0]).contains("hidden"));
    assert_eq!(running.spool.dropped(), Vec::<String>::new(), "the sidecar goes with the message");
}

#[tokio::test]
async fn envelope_comes_from_the_first_source_there_is() {
    let mut running = Running::new();
    let toml = "from = \"bounces@x.test\"\nto = [\"c@z.test\", \"C@z.test\", \"c@Z.test\"]\npriority = \"urgent\"\nexpires = \"1h\"\n";
    running.spool.rename_in("t.toml", toml);
    running.spool.rename_in("t.eml", format!("X-Sender: no@x.test\nX-Receiver: no@y.test\n{GOOD}"));
    let copy = running.copy().await;
    assert_eq!((shown(&copy).as_str(), copy.message.priority), ("bounces@x.test: c@z.test C@z.test", Priority::Urgent));
    assert!(!running.wire(&copy).to_lowercase().contains("x-sender") && !running.wire(&copy).to_lowercase().contains("x-receiver"));
    let lifetime = copy.message.expires_at.duration_since(copy.message.accepted_at).as_secs();
    assert_eq!(lifetime, 3600);

    running.spool.rename_in("p.eml", format!("x-sender: pick@x.test\nx-receiver: up@y.test\n{GOOD}"));
    let copy = running.copy().await;
    assert_eq!(shown(&copy), "pick@x.test: up@y.test");
    assert!(running.wire(&copy).ends_with(&GOOD.replace('\n', "\r\n")));

    running.spool.rename_in("r.eml", format!("Resent-From: n@x.test\nResent-To: new@y.test\n{GOOD}"));
    assert_eq!(shown(&running.copy().await), "n@x.test: new@y.test");

    running.spool.rename_in("h.eml", "From: a@x.test\nTo: b@y.test\nBcc: hidden@y.test,\n more@y.test\n\nb\n");
    let copy = running.copy().await;
    assert_eq!(shown(&copy), "a@x.test: b@y.test hidden@y.test more@y.test");
    let wire = running.wire(&copy);
    assert!(!wire.contains("hidden") && !wire.contains("more@") && wire.contains("\r\nDate: ") && wire.contains("\r\nMessage-ID: <"));
}

#[tokio::test]
async fn ten_thousand_recipients_are_one_message() {
    let mut running = Running::new();
    let to: Vec<_> = (0..10_000).map(|n| format!("\"user{n}@d{}.test\"", n % 2)).collect();
    running.spool.rename_in("many.json", format!("{{\"forward_path\": [{}], \"reverse_path\": null}}", to.join(",")));
    running.spool.rename_in("many.eml", GOOD);
    let copies = running.copies(2).await;
    assert_eq!([copies[0].recipients.len(), copies[1].recipients.len()], [5000, 5000]);
    assert_eq!(copies[0].message.id, copies[1].message.id);
}

#[tokio::test]
async fn lifetime_begins_when_a_message_may_first_be_tried() {
    let mut running = Running::new();
    running.spool.rename_in("later.toml", "from = \"\"\nto = [\"b@y.test\"]\nnot_before = \"240h\"");
    running.spool.rename_in("later.eml", GOOD);
    let copy = running.copy().await;
    assert_eq!(copy.message.expires_at.duration_since(copy.due_at).as_secs(), 5 * 24 * 3600);
}

#[tokio::test]
async fn bad_files_are_rejected_with_their_reasons() {
    let mut running = Running::new();
    let json = |to: &str| format!("{{\"forward_path\": [{to}], \"reverse_path\": \"a@x.test\"}}");
    let long_header = format!("A: 1\n{}", "B: 2\n".repeat(300_000));
    type Case<'a> = (&'a str, &'a str, Option<(&'a str, String)>, &'a str);
    let cases: [Case<'_>; 11] = [
        ("empty", "", None, "empty.eml: the file is empty"),
        ("nobody", "From: a@x.test\n\nhello\n", None, "nobody.eml: no recipient: there is no sidecar, no X-Receiver line, and no To"),
        ("none", GOOD, Some(("json", json(""))), "none.eml: no recipient: sidecar none.json names none"),
        (
            "crlf",
            GOOD,
            Some(("json", json("\"b@y.test\\r\\nDATA\""))),
            "crlf.eml: sidecar crlf.json: forward_path[0]: \"b@y.test\\r\\nDATA\" contains a control character",
        ),
        ("broken", GOOD, Some(("json", "{\"forward_path\": [\"b@y".to_owned())), "broken.eml: sidecar broken.json: EOF while parsing"),
        (
            "extra",
            GOOD,
            Some(("json", "{\"forward_path\": [], \"reverse_path\": null, \"cc\": 1}".to_owned())),
            "extra.eml: sidecar extra.json: unknown field `cc`",
        ),
        (
            "unknown",
            GOOD,
            Some(("toml", "from = \"\"\nto = []\nform = 1".to_owned())),
            "unknown.eml: sidecar unknown.toml: line 3: form: unknown key; known are from, to",
        ),
        (
            "nul",
            GOOD,
            Some(("toml", "from = \"\"\nto = [\"b\\u0000@y.test\"]".to_owned())),
            "nul.eml: sidecar nul.toml: line 2: to: \"b\\0@y.test\" contains a control",
        ),
        ("sender", "To: b@y.test\n\n", None, "sender.eml: no sender: there is no sidecar"),
        ("name", "From: a@x.test\nTo: Bob\n\n", None, "name.eml: To: \"Bob\" is no address"),
        ("long", &long_header, None, "long.eml: its header section is longer than 1048576 octets: end the header with an empty line"),
    ];
    for (stem, content, sidecar, expected) in &cases {
        if let Some((ending, text)) = sidecar {
            running.spool.rename_in(&format!("{stem}.{ending}"), text);
        }
        running.spool.rename_in(&format!("{stem}.eml"), content);
        let reason = running.rejection(stem).await;
        assert!(reason.starts_with(expected), "{stem}: {reason}");
        assert_eq!(fs::read(running.spool.layout().rejected().join(format!("{stem}.eml"))).unwrap(), content.as_bytes());
    }
    assert!(running.is_quiet());
    let (spool, store) = running.stop().await;
    assert_eq!(spool.dropped(), Vec::<String>::new());
    assert_eq!(store.messages().len(), 0);
    for (stem, _, sidecar, _) in cases {
        if let Some((ending, text)) = sidecar {
            assert_eq!(fs::read_to_string(spool.layout().rejected().join(format!("{stem}.{ending}"))).unwrap(), text);
        }
    }
}

#[tokio::test]
async fn what_is_no_regular_file_is_rejected_unopened() {
    let mut running = Running::new();
    let drop = running.spool.layout().drop();
    let target = running.spool.scratch("target");
    fs::write(&target, GOOD).unwrap();
    symlink(&target, drop.join("link.eml")).unwrap();
    assert_eq!(running.rejection("link").await, "link.eml: it is a symbolic link, and links are not followed: drop the file itself");
    fs::create_dir(drop.join("dir.eml")).unwrap();
    assert_eq!(running.rejection("dir").await, "dir.eml: it is a directory: drop the files themselves");
    nix::unistd::mkfifo(&drop.join("pipe.eml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(running.rejection("pipe").await, "pipe.eml: it is a named pipe: drop a regular file");
    let _socket = UnixListener::bind(drop.join("sock.eml")).unwrap();
    assert_eq!(running.rejection("sock").await, "sock.eml: it is a socket: drop a regular file");
    // The same for the sidecar: its target's envelope is not used.
    fs::write(&target, "from = \"\"\nto = [\"b@y.test\"]").unwrap();
    symlink(&target, drop.join("side.toml")).unwrap();
    running.spool.rename_in("side.eml", GOOD);
    assert!(running.rejection("side").await.starts_with("side.eml: sidecar side.toml: it is no regular file, and links are not followed"));
    running.spool.rename_in("both.toml", "from = \"\"\nto = [\"b@y.test\"]");
    running.spool.rename_in("both.json", "{}");
    running.spool.rename_in("both.eml", GOOD);
    assert_eq!(running.rejection("both").await, "both.eml: there are both both.json and both.toml: keep one");
    assert!(running.is_quiet());
}

#[tokio::test]
async fn unreadable_file_is_rejected_with_a_hint() {
    if nix::unistd::geteuid().is_root() {
        // Root reads everything: this test once more, as nobody.
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "unreadable_file_is_rejected_with_a_hint"]).uid(65_534).gid(65_534).current_dir("/");
        match test.output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            // Nobody may not run files of this build directory. The unit test of `judge` holds the mapping.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
        return;
    }
    let mut running = Running::new();
    let built = running.spool.layout().tmp().join("secret.eml");
    fs::write(&built, GOOD).unwrap();
    fs::set_permissions(&built, PermissionsExt::from_mode(0o000)).unwrap();
    fs::rename(built, running.spool.layout().drop().join("secret.eml")).unwrap();
    assert!(running.rejection("secret").await.contains("may not read it"));
}

#[tokio::test]
async fn nothing_in_rejected_is_overwritten() {
    let mut running = Running::new();
    for (content, stem) in [("", "a"), ("From: x\n\n", "a.1"), ("To: b@y.test\n\n", "a.2")] {
        running.spool.rename_in("a.eml", content);
        running.rejection(stem).await;
        assert_eq!(fs::read_to_string(running.spool.layout().rejected().join(format!("{stem}.eml"))).unwrap(), content);
    }
    let names = running.spool.rejected();
    assert_eq!(names, ["a.1.eml", "a.1.reason", "a.2.eml", "a.2.reason", "a.eml", "a.reason"]);
    // Names as long as names can be.
    let long = "n".repeat(251);
    running.spool.rename_in(&format!("{long}.eml"), "");
    running.rejection(&"n".repeat(200)).await;
}

#[tokio::test]
async fn other_names_are_left_alone() {
    let spool = TestSpool::new();
    let quiet = [".hidden.eml", "a.eml.tmp", "b.part", "c.json", "d.toml", "notes.txt", "e.EML"];
    for name in quiet {
        spool.write_in(name, GOOD);
    }
    fs::create_dir(spool.layout().drop().join("directory")).unwrap();
    let mut running = Running::on(spool);
    running.spool.rename_in("z.eml", GOOD);
    running.copy().await;
    let (spool, store) = running.stop().await;
    let mut expected: Vec<&str> = quiet.into_iter().chain(["directory"]).collect();
    expected.sort_unstable();
    assert_eq!(spool.dropped(), expected);
    assert_eq!((spool.rejected(), store.messages().len()), (Vec::<String>::new(), 1));
}

#[tokio::test]
async fn sidecar_that_is_being_written_is_waited_for() {
    let mut running = watching(Duration::from_secs(2)).await;
    let sidecar = running.spool.layout().drop().join("s.json");
    fs::write(&sidecar, "{\"forward_path\": [\"c@z.te").unwrap();
    running.spool.rename_in("s.eml", GOOD);
    running.spool.rename_in("other.eml", GOOD);
    assert_eq!(running.copy().await.message.source, "other.eml");
    fs::write(&sidecar, "{\"forward_path\": [\"c@z.test\"], \"reverse_path\": \"a@x.test\"}").unwrap();
    assert_eq!(shown(&running.copy().await), "a@x.test: c@z.test");
}

#[tokio::test]
async fn twenty_thousand_files_at_once_overflow_inotify_and_are_all_taken() {
    const FILES: usize = 20_000;
    let mut running = watching(SETTLE).await;
    // Intake shares this thread: it sees none of it until all are there, and the kernel keeps 16,384 events.
    // Links of one file, each renamed in: what counts here is names.
    let source = running.spool.scratch("source.eml");
    fs::write(&source, GOOD).unwrap();
    let layout = running.spool.layout();
    for n in 0..FILES {
        let name = format!("{n}.eml");
        fs::hard_link(&source, layout.tmp().join(&name)).unwrap();
        fs::rename(layout.tmp().join(&name), layout.drop().join(&name)).unwrap();
    }
    let mut ids: Vec<_> = running.copies(FILES).await.into_iter().map(|copy| copy.message.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), FILES);
    let (spool, store) = running.stop().await;
    assert_eq!((spool.dropped().len(), spool.message_files().len()), (0, FILES + 1));
    assert!(store.batches().iter().all(|size| *size <= 256));
}

#[tokio::test]
async fn name_that_is_used_again_before_its_file_was_moved_keeps_both_messages() {
    let mut running = Running::with(TestSpool::new(), MemoryStore::gated(0), settings());
    running.spool.rename_in("a.eml", GOOD.replace("body", "first"));
    running.store.arrived.acquire().await.unwrap().forget();
    // Committed any moment now; its name goes to another file.
    running.spool.rename_in("a.eml", GOOD.replace("body", "second one"));
    running.store.gate.add_permits(1);
    let first = running.copy().await;
    assert!(running.wire(&first).ends_with("\r\n\r\nfirst\r\n"));
    running.store.gate.add_permits(1);
    let second = running.copy().await;
    assert!(running.wire(&second).ends_with("\r\n\r\nsecond one\r\n"));
    assert_ne!(first.message.id, second.message.id);
    assert_eq!(running.spool.dropped(), Vec::<String>::new());
}

#[tokio::test]
async fn batch_that_is_under_way_is_finished_at_the_end() {
    let running = Running::with(TestSpool::new(), MemoryStore::gated(0), settings());
    running.spool.rename_in("a.eml", GOOD);
    let store = Arc::clone(&running.store);
    store.arrived.acquire().await.unwrap().forget();
    // The commit comes after the order to stop, and the move after the commit.
    let ((spool, _), ()) = tokio::join!(running.stop(), async { store.gate.add_permits(1) });
    assert_eq!((spool.dropped().len(), spool.message_files().len(), store.messages().len()), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_store_leaves_files_and_is_tried_again() {
    let spool = TestSpool::new();
    let store = MemoryStore::new();
    let full = || StoreError::Database { doing: "accepting", detail: "database or disk is full".to_owned(), temporary: true };
    store.fail_next(full());
    store.fail_next(full());
    spool.rename_in("a.eml", GOOD);
    let began = tokio::time::Instant::now();
    let mut running = Running::with(spool, store, IntakeSettings { settle: Duration::ZERO, ..settings() });
    let copy = running.copy().await;
    assert!((2..5).contains(&began.elapsed().as_secs()), "a pause of a second each time");
    assert!(!running.placing.contains(copy.message.id));
    assert_eq!(running.store.messages().len(), 1);
    assert_eq!(running.spool.rejected(), Vec::<String>::new());
    let counts = &running.counts;
    assert_eq!((counts.intake_pauses.get(), counts.intake_paused.get(), counts.messages_accepted.get(Origin::Drop)), (2, 0, 1));
}

#[tokio::test]
async fn end_of_the_store_ends_intake() {
    let spool = TestSpool::new();
    let store = MemoryStore::new();
    store.fail_next(StoreError::Closed);
    spool.rename_in("a.eml", GOOD);
    let running = Running::with(spool, store, IntakeSettings { settle: Duration::ZERO, ..settings() });
    assert_eq!(running.ended().await.unwrap_err().to_string(), "the queue database is closed: no more files are taken");
}

#[tokio::test(start_paused = true)]
async fn file_that_cannot_be_moved_stays_in_placing_until_it_can() {
    let spool = TestSpool::new();
    let layout = spool.layout();
    let away = layout.queue().join("away");
    fs::rename(layout.messages(), &away).unwrap();
    fs::write(layout.messages(), "in the way").unwrap();
    spool.rename_in("a.eml", GOOD);
    let mut running = Running::with(spool, MemoryStore::new(), IntakeSettings { settle: Duration::ZERO, ..settings() });
    // Paused time goes on only when everybody waits: the move has failed, some rescans have passed.
    tokio::time::sleep(Duration::from_secs(100)).await;
    let messages = running.store.messages();
    assert_eq!(messages.len(), 1, "accepted once, whatever the rescans find");
    assert!(running.placing.contains(messages[0].id) && running.is_quiet());
    assert_eq!(running.spool.dropped(), ["a.eml"]);
    fs::remove_file(layout.messages()).unwrap();
    fs::rename(&away, layout.messages()).unwrap();
    let copy = running.copy().await;
    assert_eq!(copy.message.id, messages[0].id);
    assert!(!running.placing.contains(copy.message.id));
    running.wire(&copy);
}

#[tokio::test(start_paused = true)]
async fn lasting_trouble_and_strange_names_are_logged_once() {
    let (log, _guard) = Log::here();
    let (spool, store) = (TestSpool::new(), MemoryStore::new());
    spool.write_in("notes.txt", GOOD);
    spool.write_in("NEWS", GOOD);
    for n in 0..5 {
        spool.rename_in(&format!("{n}.eml"), GOOD);
        store.fail_next(StoreError::Database { doing: "accepting", detail: "disk full".to_owned(), temporary: false });
    }
    let mut running = Running::with(spool, store, IntakeSettings { settle: Duration::ZERO, ..settings() });
    running.copies(5).await;
    // Some rescans.
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(log.count("queue database: accepting: disk full"), 1, "one cause, one line");
    assert_eq!((log.count("files are left in drop/"), log.count("files are taken again")), (1, 1));
    assert_eq!((log.count("notes.txt"), log.count("NEWS"), log.count("is left alone")), (1, 1, 2));
}

#[tokio::test]
async fn settings_change_while_it_runs() {
    let mut running = Running::new();
    running.settings.send(Arc::new(IntakeSettings { hostname: Domain::parse("new.example.com").unwrap(), ..settings() })).unwrap();
    running.spool.rename_in("a.eml", GOOD);
    let copy = running.copy().await;
    assert!(running.wire(&copy).starts_with("Received: by new.example.com "));
}

#[tokio::test]
async fn exchanged_drop_directory_is_watched_again_after_a_rescan() {
    let spool = TestSpool::new();
    let mut running = Running::with(spool, MemoryStore::new(), IntakeSettings { rescan: Duration::from_millis(50), ..settings() });
    running.spool.rename_in("a.eml", GOOD);
    running.copy().await;
    let drop = running.spool.layout().drop();
    fs::remove_dir(&drop).unwrap();
    fs::create_dir(&drop).unwrap();
    running.spool.rename_in("b.eml", GOOD);
    assert_eq!(running.copy().await.message.source, "b.eml");
}

#[test]
fn missing_spool_and_second_daemon_are_refused() {
    let missing = Layout::new("/nonexistent/spool");
    assert_eq!(
        missing.create().unwrap_err().to_string(),
        "spool.path: /nonexistent/spool does not exist: create it, owned by the daemon's user"
    );
    let spool = TestSpool::new();
    let lock = spool.layout().lock().unwrap();
    let error = spool.layout().lock().unwrap_err().to_string();
    assert!(error.ends_with(&format!("is in use by another smtp-direct, pid {}", std::process::id())), "{error}");
    drop(lock);
    spool.layout().lock().unwrap();
}

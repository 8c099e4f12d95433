//! What start-up makes of a spool that a crash left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/intake.rs"]
mod intake;
#[path = "support/spool.rs"]
mod spool;
#[path = "support/store.rs"]
mod store;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use intake::Running;
use smtp_direct::clock::{Clock, SystemClock};
use smtp_direct::message::{Address, Content, Envelope, MessageId, ReversePath};
use smtp_direct::queue::{Fingerprint, NewMessage, Source, StoreError};
use smtp_direct::spool::{Layout, Placing, Recovered, Results, recover, repair};
use spool::TestSpool;
use store::MemoryStore;

const GOOD: &str = "From: a@x.test\nTo: b@y.test\n\nbody\n";

/// A row as intake writes it for this file.
fn row(path: &Path) -> NewMessage {
    let found = fs::metadata(path).unwrap();
    let modified = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
    let now = SystemClock.now();
    NewMessage {
        id: MessageId::new(now),
        source: Source {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            fingerprint: Fingerprint { inode: found.ino(), size: found.len(), modified },
        },
        envelope: Envelope::new(ReversePath::Null, [Address::parse("b@y.test").unwrap()]),
        content: Content { file_size: found.len(), ..Content::default() },
        accepted_at: now,
        expires_at: now,
    }
}

fn no_results(layout: &Layout) -> Arc<Results> {
    Arc::new(Results::new(layout.clone(), false))
}

fn place(spool: &TestSpool, id: MessageId, content: &str) {
    let place = spool.layout().message_file(id);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, content).unwrap();
}

fn stage(layout: &Layout, id: MessageId, content: &[u8]) {
    let mut file = layout.create_staged(id).unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
    layout.sync_staged(&file).unwrap();
}

#[tokio::test]
async fn every_half_done_step_is_finished_or_taken_back() {
    let (spool, store) = (TestSpool::new(), MemoryStore::new());
    let layout = spool.layout();

    // Crashed between commit and rename, with and without the sidecar's removal.
    let accepted = row(&spool.write_in("accepted.eml", GOOD));
    spool.write_in("accepted.json", "{}");
    store.remember(accepted.clone(), false);
    // Delivered, and the unlink was lost with the rename.
    let delivered = row(&spool.write_in("delivered.eml", GOOD));
    store.remember(delivered.clone(), true);
    // Not accepted yet, and one that reuses a name that history knows.
    spool.write_in("new.eml", GOOD);
    spool.write_in("new.json", r#"{"forward_path": ["b@y.test"], "reverse_path": "a@x.test"}"#);
    let mut other = row(&spool.write_in("same-name.eml", GOOD));
    other.source.fingerprint.modified -= 1;
    store.remember(other.clone(), true);
    // Reports: with a row, and without.
    let report = row(&spool.write_in("unused.eml", GOOD));
    fs::remove_file(layout.drop().join("unused.eml")).unwrap();
    stage(&layout, report.id, b"report");
    store.remember(report.clone(), false);
    let unborn = MessageId::new(SystemClock.now());
    stage(&layout, unborn, b"report");
    // Message files: finished, without a row, in order.
    let finished = NewMessage { id: MessageId::new(SystemClock.now()), ..accepted.clone() };
    place(&spool, finished.id, GOOD);
    store.remember(NewMessage { source: Source { name: "elsewhere".to_owned(), ..finished.source.clone() }, ..finished.clone() }, true);
    let orphan = MessageId::new(SystemClock.now());
    place(&spool, orphan, GOOD);
    let sound = NewMessage { id: MessageId::new(SystemClock.now()), ..report.clone() };
    place(&spool, sound.id, GOOD);
    store.remember(sound.clone(), false);
    // Rows: file missing, file empty.
    let missing = NewMessage { id: MessageId::new(SystemClock.now()), ..report.clone() };
    store.remember(missing.clone(), false);
    let empty = NewMessage { id: MessageId::new(SystemClock.now()), ..report.clone() };
    place(&spool, empty.id, "");
    store.remember(empty.clone(), false);

    let first = recover(&layout, &*store).await.unwrap();
    assert_eq!(first, Recovered { staged_placed: 1, staged_removed: 1, ..Recovered::default() });
    // What has a row waits for its file as long as that may stand in drop/.
    let running = Running::with(spool, store, intake::settings());
    let expected = Recovered { finished_removed: 2, without_row: 1, without_file: 2, ..Recovered::default() };
    assert_eq!(repair(&layout, &*running.store, &SystemClock, &running.placing, no_results(&layout)).await.unwrap(), expected);
    assert_eq!([sound.id, accepted.id, missing.id].map(|id| running.placing.contains(id)), [false; 3]);
    let mut running = running;
    let mut new: Vec<_> = running.copies(2).await.into_iter().map(|copy| copy.message).collect();
    new.sort_by(|a, b| a.source.cmp(&b.source));
    assert_eq!([&*new[0].source, &*new[1].source], ["new.eml", "same-name.eml"]);
    assert!(running.is_quiet());
    let placing = running.placing.clone();
    let (spool, store) = running.stop().await;
    assert_eq!(spool.dropped(), Vec::<String>::new());
    assert_eq!(spool.names(&layout.staging()), Vec::<String>::new());
    let mut places: Vec<_> = [accepted.id, report.id, sound.id, empty.id, new[0].id, new[1].id].map(|id| layout.message_file(id)).into();
    places.sort();
    assert_eq!(spool.message_files(), places);
    assert_eq!(spool.names(&layout.failed()), [format!("{orphan}.eml"), format!("{orphan}.reason")]);
    let mut woken = store.woken();
    woken.sort();
    let mut damaged = vec![missing.id, empty.id];
    damaged.sort();
    assert_eq!(woken, damaged);
    // Again: only what cannot be put right is found again.
    let again = Recovered { without_file: 2, ..Recovered::default() };
    assert_eq!(recover(&layout, &*store).await.unwrap(), Recovered::default());
    assert_eq!(repair(&layout, &*store, &SystemClock, &placing, no_results(&layout)).await.unwrap(), again);
}

#[tokio::test]
async fn intake_after_a_crash_accepts_nothing_twice() {
    let mut running = Running::new();
    running.spool.rename_in("a.eml", GOOD);
    let copy = running.copy().await;
    let (spool, store) = running.stop().await;
    // The crash lost the rename: the file stands in drop/ again, as it was.
    let layout = spool.layout();
    fs::rename(layout.message_file(copy.message.id), layout.drop().join("a.eml")).unwrap();
    let mut running = Running::with(spool, store, intake::settings());
    running.placing.without_doubt().await;
    running.spool.rename_in("b.eml", GOOD);
    assert_eq!(running.copy().await.message.source, "b.eml");
    assert_eq!(running.store.messages().len(), 2);
    running.wire(&copy);
}

#[tokio::test]
async fn message_whose_file_may_stand_in_drop_is_not_given_up() {
    let (spool, store) = (TestSpool::new(), MemoryStore::gated(0));
    let layout = spool.layout();
    let accepted = row(&spool.write_in("accepted.eml", GOOD));
    store.remember(accepted.clone(), false);
    let missing = NewMessage { id: MessageId::new(SystemClock.now()), ..accepted.clone() };
    let placing = Placing::in_doubt(layout.clone());
    assert_eq!([accepted.id, missing.id].map(|id| placing.contains(id)), [true; 2]);
    place(&spool, accepted.id, GOOD);
    assert_eq!([accepted.id, missing.id].map(|id| placing.contains(id)), [false, true]);
    // Nothing is looked through before intake has passed, whatever is asked for.
    let repaired = repair(&layout, &*store, &SystemClock, &placing, no_results(&layout));
    assert!(repaired.now_or_never().is_none());
    assert!(!Placing::default().contains(missing.id));
}

#[tokio::test(start_paused = true)]
async fn doubt_lasts_until_everything_was_asked_for() {
    let (spool, store) = (TestSpool::new(), MemoryStore::new());
    let accepted = row(&spool.write_in("accepted.eml", GOOD));
    store.remember(accepted.clone(), false);
    store.fail_known(StoreError::Database { doing: "looking", detail: "disk".to_owned(), temporary: true });
    let began = tokio::time::Instant::now();
    let running = Running::with(spool, store, intake::settings());
    running.placing.without_doubt().await;
    assert!(began.elapsed().as_secs() >= 1, "the question is put again after a pause");
    let (spool, store) = running.stop().await;
    assert_eq!((spool.message_files().len(), spool.dropped().len(), store.messages().len()), (1, 0, 1));
}

#[tokio::test]
async fn everything_in_drop_is_recognised() {
    let (spool, store) = (TestSpool::new(), MemoryStore::new());
    for n in 0..2500 {
        let message = row(&spool.write_in(&format!("{n}.eml"), GOOD));
        store.remember(message, n % 2 == 0);
    }
    let mut running = Running::with(spool, store, intake::settings());
    running.placing.without_doubt().await;
    assert!(running.is_quiet());
    let repaired = repair(&running.spool.layout(), &*running.store, &SystemClock, &running.placing, no_results(&running.spool.layout()))
        .await
        .unwrap();
    assert_eq!(repaired, Recovered { finished_removed: 1250, ..Recovered::default() });
    assert_eq!((running.spool.dropped().len(), running.spool.message_files().len()), (0, 1250));
    assert_eq!(running.store.messages().len(), 2500);
}

#[test]
fn failed_messages_are_kept_with_their_reason() {
    let spool = TestSpool::new();
    let layout = spool.layout();
    let id = MessageId::new(SystemClock.now());
    stage(&layout, id, GOOD.as_bytes());
    layout.place_staged(id).unwrap();
    layout.keep_failed(id, "550 5.1.1\r\nno such user").unwrap();
    layout.keep_failed(id, "the same, once more").unwrap();
    assert_eq!(fs::read_to_string(layout.failed().join(format!("{id}.eml"))).unwrap(), GOOD);
    assert_eq!(fs::read_to_string(layout.failed().join(format!("{id}.reason"))).unwrap(), "the same, once more\n");
    layout.remove_message(id).unwrap();
    layout.remove_message(id).unwrap();
    assert_eq!(fs::read_to_string(layout.failed().join(format!("{id}.eml"))).unwrap(), GOOD);
    layout.keep_failed(MessageId::new(SystemClock.now()), "its file is gone").unwrap();
    assert_eq!(spool.names(&layout.failed()).len(), 3);
}

//! Many callers at once, readers beside the writer, callers that go away, and crashes while all of them are at it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use smtp_direct::message::{MessageId, Priority};
use smtp_direct::queue::{Cursor, Haste, Inspect, ListFilter, NextStep, SqliteInspect, SqliteStore, Store, StoreError};
use support::{Folder, at, begins, delivered, message, settlement};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Far more than any of it takes.
const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_crash_at_any_moment() {
    let folder = Folder::new("crash");
    let store = Arc::new(SqliteStore::open(&folder.database()).unwrap());
    // Acknowledged: accepted, and finished.
    let acknowledged: Arc<Mutex<(Vec<MessageId>, Vec<MessageId>)>> = Arc::default();
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        writers.spawn(async move {
            for n in 0..60 {
                let copies = store.accept(vec![message(writer * 1000 + n, &["a@x.example", "b@x.example", "c@y.example"])]).await.unwrap();
                acknowledged.lock().unwrap().0.push(copies[0].message.id);
                store.begin_attempts(begins(&copies), at(50)).await.unwrap();
                if n % 2 == 0 {
                    let done = copies.iter().map(|copy| settlement(copy, &delivered(), NextStep::Finish, at(60))).collect();
                    assert_eq!(store.settle(done, Haste::Now).await.unwrap().len(), 1);
                    acknowledged.lock().unwrap().1.push(copies[0].message.id);
                }
            }
        });
    }
    let mut crashes = 0;
    while !writers.is_empty() {
        // What a crash leaves: the WAL is cut off anywhere. None is written back here, as the database stays below a checkpoint's size.
        let (accepted, finished) = acknowledged.lock().unwrap().clone();
        let crash = Folder::new("crash-copy");
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(folder.path().join(name), crash.path().join(name)).unwrap();
        }
        check_crashed(&crash, accepted, finished).await;
        crashes += 1;
        while let Some(writer) = writers.try_join_next() {
            writer.unwrap();
        }
    }
    assert!(crashes > 3, "{crashes}");
    store.close().await;
    assert_eq!(acknowledged.lock().unwrap().0.len(), 480);
    assert!(std::fs::metadata(folder.database()).unwrap().len() < 4 << 20);
}

async fn check_crashed(crash: &Folder, accepted: Vec<MessageId>, finished: Vec<MessageId>) {
    let after = SqliteStore::open(&crash.database()).unwrap();
    assert!(after.known_ids(accepted).await.unwrap().iter().all(Option::is_some));
    assert!(after.known_ids(finished).await.unwrap().iter().all(|known| known.is_some_and(|known| known.finished_at.is_some())));
    let begun = after.interrupted().await.unwrap();
    after.withdraw(begun.iter().map(|interrupted| interrupted.copy.id).collect()).await.unwrap();
    // No message is there in part.
    let due = after.due(Cursor::start_of(Priority::Normal), at(100_000), usize::MAX, Vec::new()).await.unwrap().copies;
    let unfinished = after.unfinished(None, usize::MAX).await.unwrap();
    assert_eq!(due.len(), unfinished.len() * 2);
    assert!(due.iter().all(|copy| copy.recipients.len() == if copy.domain.as_str() == "x.example" { 2 } else { 1 }));
    after.close().await;
    let db = rusqlite::Connection::open(crash.database()).unwrap();
    assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_fails_alone() {
    let folder = Folder::new("alone");
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept(vec![message(0, &["a@x.example"])]).await.unwrap();
    // Sent before the first of them is committed: most go in one transaction. Every third is there already.
    let calls = (1..60).map(|n| store.accept(vec![message(if n % 3 == 0 { 0 } else { n }, &["a@x.example", "b@y.example"])]));
    for (n, result) in (1..60).zip(join_all(calls).await) {
        match result {
            Ok(copies) => assert_eq!((n % 3 != 0, copies.len()), (true, 2)),
            Err(error) => assert!(n % 3 == 0 && matches!(error, StoreError::Database { temporary: false, .. }), "{error}"),
        }
    }
    assert_eq!(store.unfinished(None, 1000).await.unwrap().len(), 41);
    assert_eq!(store.due(Cursor::start_of(Priority::Normal), at(1000), 1000, Vec::new()).await.unwrap().copies.len(), 81);
}

#[tokio::test(start_paused = true)]
async fn time_stands_still_while_the_database_works() {
    let folder = Folder::new("paused");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let start = tokio::time::Instant::now();
    // A paused clock jumps to the next timer whenever the runtime is idle: the database must not look idle.
    let all = timeout(Duration::from_millis(1), async {
        for n in 0..20 {
            let copies = store.accept(vec![message(n, &["a@x.example"])]).await.unwrap();
            store.begin_attempts(begins(&copies), at(5)).await.unwrap();
            store.due(Cursor::start_of(Priority::Normal), at(9), 10, Vec::new()).await.unwrap();
        }
    });
    all.await.expect("the clock jumped");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn readers_do_not_wait_for_the_writer() {
    let folder = Folder::new("beside");
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    // Somebody holds the write lock: SQLite's shell in an administrator's hands.
    let shell = rusqlite::Connection::open(folder.database()).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let accept = store.accept(vec![message(2, &["b@x.example"])]);
    tokio::pin!(accept);
    assert!(timeout(Duration::from_millis(50), &mut accept).await.is_err(), "the lock is held");
    let due = timeout(BOUND, store.due(Cursor::start_of(Priority::Normal), at(10), 10, Vec::new())).await.unwrap().unwrap();
    assert_eq!(due.copies.len(), 1);
    let listed = SqliteInspect::open(&folder.database()).unwrap().list(&ListFilter::default()).unwrap();
    assert_eq!(listed.len(), 1);
    shell.execute_batch("COMMIT").unwrap();
    assert_eq!(timeout(BOUND, accept).await.unwrap().unwrap().len(), 1);
    assert_eq!(store.due(Cursor::start_of(Priority::Normal), at(10), 10, Vec::new()).await.unwrap().copies.len(), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_all_or_nothing() {
    let folder = Folder::new("away");
    let store = SqliteStore::open(&folder.database()).unwrap();
    for n in 0..20 {
        let call = store.accept(vec![message(n, &["a@x.example", "b@y.example"])]);
        // Polled a few times, then dropped.
        let _ = timeout(Duration::from_micros(u64::from(n) * 50), call).await;
    }
    let last = store.accept(vec![message(99, &["a@x.example", "b@y.example"])]).await.unwrap();
    assert_eq!(last.len(), 2);
    let messages = store.unfinished(None, 100).await.unwrap().len();
    assert_eq!(store.due(Cursor::start_of(Priority::Normal), at(1000), 1000, Vec::new()).await.unwrap().copies.len(), messages * 2);
}

#[tokio::test]
async fn a_store_that_is_dropped_does_what_it_was_asked_for() {
    let folder = Folder::new("dropped");
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    // Asked for, not waited for.
    let mut call = store.accept(vec![message(2, &["a@x.example"])]);
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    drop(store);
    // The task ends by itself and closes the database: its WAL is gone then.
    let gone = async {
        while folder.path().join("state.db-wal").exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, gone).await.unwrap();
    let store = SqliteStore::open(&folder.database()).unwrap();
    assert_eq!(store.unfinished(None, 10).await.unwrap(), [message(1, &[]).id, message(2, &[]).id]);
}

//! A database that was damaged while nobody looked: opening and using it never panics and never hangs, and what can be read goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/queue.rs"]
mod queue;

use std::fs;
use std::path::Path;
use std::time::Duration;

use queue::{Folder, at, begins, deferred, delivered, failed, message, reporting, settlement};
use smtp_direct::message::{MessageId, Priority};
use smtp_direct::queue::{Cursor, Haste, NextStep, ReportAction, Salvaged, SqliteStore, Store, StoreError};

const MESSAGES: u32 = 120;
const PAGE: usize = 4096;

/// A queue in every state; `dirty`: as a crash leaves it. Hands on what is unfinished in it.
async fn fill(folder: &Folder, dirty: bool) -> Vec<MessageId> {
    let store = SqliteStore::open(&folder.database()).unwrap();
    let messages: Vec<_> = (0..MESSAGES).map(|n| message(n, &["a@example.com", "b@example.com", "c@example.net"])).collect();
    let copies = store.accept(messages).await.unwrap();
    store.begin_attempts(begins(&copies[..60]), at(200)).await.unwrap();
    let settled = copies[..40].iter().enumerate().map(|(n, copy)| match n % 4 {
        0 => settlement(copy, &deferred(), NextStep::Retry(at(300)), at(201)),
        1 => reporting(settlement(copy, &failed(), NextStep::Finish, at(201)), ReportAction::Failed),
        _ => settlement(copy, &delivered(), NextStep::Finish, at(201)),
    });
    store.settle(settled.collect(), Haste::Now).await.unwrap();
    let unfinished = store.unfinished(None, 1000).await.unwrap();
    if dirty {
        // As it lies there, before the last connection writes the WAL back.
        for ending in ["", "-wal"] {
            let name = format!("state.db{ending}");
            fs::copy(folder.path().join(&name), folder.path().join(format!("kept{ending}"))).unwrap();
        }
        store.close().await;
        let _ = fs::remove_file(folder.path().join("state.db-wal"));
        for ending in ["", "-wal"] {
            fs::rename(folder.path().join(format!("kept{ending}")), folder.path().join(format!("state.db{ending}"))).unwrap();
        }
    } else {
        store.close().await;
    }
    unfinished
}

/// Everything that a daemon does with a queue.
async fn use_all(store: &SqliteStore) -> Result<Vec<MessageId>, StoreError> {
    let begun = store.interrupted().await?;
    store.withdraw(begun.iter().map(|interrupted| interrupted.copy.id).collect()).await?;
    let unfinished = store.unfinished(None, 1000).await?;
    let mut copies = Vec::new();
    for priority in [Priority::Urgent, Priority::Normal, Priority::Bulk] {
        let from = Cursor { priority, due_at: i64::MIN, copy: i64::MIN };
        copies.extend(store.due(from, at(500_000), 100_000, Vec::new()).await?.copies);
    }
    store.known_ids(unfinished.clone()).await?;
    store.reports_due(None, 1000).await?;
    store.next_due(at(0)).await?;
    // As workers do: one that cannot be begun stays in the queue, and keeps nobody else.
    let mut begun = Vec::new();
    match store.begin_attempts(begins(&copies), at(500)).await {
        Ok(()) => begun = copies,
        Err(StoreError::Database { temporary: false, .. }) => {
            for copy in copies {
                match store.begin_attempts(begins(std::slice::from_ref(&copy)), at(500)).await {
                    Ok(()) => begun.push(copy),
                    Err(StoreError::Database { temporary: false, .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) => return Err(error),
    }
    store.settle(begun.iter().map(|copy| settlement(copy, &delivered(), NextStep::Finish, at(501))).collect(), Haste::Now).await?;
    store.purge(at(400)).await?;
    Ok(unfinished)
}

/// Opens and uses it as a daemon does that is started again when it ends. What was salvaged, and what is unfinished.
async fn live_with(path: &Path) -> Result<(Vec<MessageId>, Option<Salvaged>), StoreError> {
    let mut salvaged = None;
    for start in 0..3 {
        let store = SqliteStore::open(path)?;
        salvaged = store.salvaged().cloned().or(salvaged);
        let used = use_all(&store).await;
        store.close().await;
        match used {
            Ok(unfinished) => return Ok((unfinished, salvaged)),
            Err(StoreError::Damaged { .. }) if start < 2 => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the third start returns")
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Cut(usize),
    Zero(usize),
    Flip(usize, u8),
}

fn harm(file: &Path, harm: Harm) {
    let mut octets = fs::read(file).unwrap();
    match harm {
        Harm::Cut(length) => octets.truncate(length),
        Harm::Zero(page) => octets[page * PAGE..(page + 1) * PAGE].fill(0),
        Harm::Flip(octet, bit) => octets[octet] ^= 1 << bit,
    }
    fs::write(file, octets).unwrap();
}

/// A copy of the database for each harm. `named`: what is missing must have been said to be.
async fn harm_each(from: &Folder, file: &str, harms: impl IntoIterator<Item = Harm>, before: &[MessageId], named: bool) -> usize {
    let (mut whole, mut refused, mut salvages, mut kept) = (0, 0, 0, 0);
    for each in harms {
        let folder = Folder::new("damage");
        for name in from.names().iter().filter(|name| *name != "state.db-shm") {
            fs::copy(from.path().join(name), folder.path().join(name)).unwrap();
        }
        harm(&folder.path().join(file), each);
        let lived = tokio::time::timeout(Duration::from_secs(60), live_with(&folder.database())).await;
        match lived.unwrap_or_else(|_| panic!("{each:?} hangs")) {
            // The number of the schema, or that there is one: nothing is touched then, and somebody has to look. Or a row that is well formed
            // and refers to a wrong one: nothing is recorded then.
            Err(StoreError::Schema { .. } | StoreError::Database { temporary: false, .. }) => refused += 1,
            Err(error) => panic!("{each:?}: {error}"),
            Ok((after, salvaged)) => {
                let missing = before.iter().filter(|id| !after.contains(id)).count();
                assert!(missing == 0 || salvaged.is_some() || !named, "{each:?}: {missing} are gone without a word");
                match salvaged {
                    None => whole += 1,
                    Some(salvaged) => {
                        assert!(salvaged.aside.exists(), "{each:?}: the damaged one is kept");
                        salvages += 1;
                        kept += after.iter().filter(|id| before.contains(id)).count();
                    }
                }
            }
        }
    }
    let all = whole + refused + salvages;
    assert!(refused * 10 <= all, "{refused} of {all} cannot be used");
    kept
}

#[tokio::test]
async fn cut_at_any_length() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, false).await;
    let size = fs::metadata(folder.database()).unwrap().len() as usize;
    let lengths = (0..30).map(|n| size * n / 30).chain([1, 15, 99, 100, 512, PAGE - 1, PAGE, PAGE + 1, size - PAGE, size - 1]);
    // Of an empty file nothing says that it was a queue: the messages' files do.
    let kept = harm_each(&folder, "state.db", lengths.filter(|length| *length > 0).map(Harm::Cut), &before, true).await;
    assert!(kept > before.len() * 3, "{kept}: what is left of a file is read");
}

#[tokio::test]
async fn each_page_zeroed() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, false).await;
    let pages = fs::metadata(folder.database()).unwrap().len() as usize / PAGE;
    harm_each(&folder, "state.db", (0..pages).map(Harm::Zero), &before, true).await;
}

#[tokio::test]
async fn bits_flipped_anywhere() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, false).await;
    let size = fs::metadata(folder.database()).unwrap().len() as usize;
    let mut random = fastrand::Rng::with_seed(7);
    let flips: Vec<Harm> = (0..150).map(|_| Harm::Flip(random.usize(..size), random.u8(..8))).collect();
    harm_each(&folder, "state.db", flips, &before, false).await;
    // The parts that SQLite finds its way by: the file's header, and the first octets of pages.
    let flips: Vec<Harm> = (0..150).map(|_| Harm::Flip(random.usize(..size / PAGE) * PAGE + random.usize(..120), random.u8(..8))).collect();
    harm_each(&folder, "state.db", flips, &before, false).await;
}

#[tokio::test]
async fn the_wal_harmed() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, true).await;
    let size = fs::metadata(folder.path().join("state.db-wal")).unwrap().len() as usize;
    let mut random = fastrand::Rng::with_seed(8);
    let harms: Vec<Harm> =
        (0..40)
            .map(|n| Harm::Cut(size * n / 40))
            .chain((0..80).map(|n| {
                if n % 4 == 0 { Harm::Zero(random.usize(..size / PAGE)) } else { Harm::Flip(random.usize(..size), random.u8(..8)) }
            }))
            .collect();
    // What SQLite takes for the torn end of a WAL is gone as if it had never been; files without rows tell of it.
    harm_each(&folder, "state.db-wal", harms, &before, false).await;
}

#[tokio::test]
async fn a_zeroed_leaf_costs_its_own_rows_and_the_others_go_on() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, false).await;
    // The last page of messages: a leaf in the middle of the file, found by what stands on it.
    let octets = fs::read(folder.database()).unwrap();
    let on = |page: &[u8]| page[0] == 13 && page.windows(12).any(|window| window == b"alice@exampl");
    let page = octets.chunks(PAGE).enumerate().filter(|(_, page)| on(page)).nth(3).unwrap().0;
    harm(&folder.database(), Harm::Zero(page));
    let (after, salvaged) = live_with(&folder.database()).await.unwrap();
    let lost = before.iter().filter(|id| !after.contains(id)).count();
    assert!((1..20).contains(&lost), "{lost} of {} are lost", before.len());
    let salvaged = salvaged.unwrap();
    assert!(!salvaged.complete);
    // It lives on without further ado.
    let store = SqliteStore::open(&folder.database()).unwrap();
    assert!(store.salvaged().is_none());
    store.close().await;
}

#[tokio::test]
async fn salvage_that_was_cut_off_begins_again() {
    let folder = Folder::new("damage-base");
    let before = fill(&folder, false).await;
    fs::rename(folder.database(), folder.path().join("state.db.damaged-X")).unwrap();
    fs::write(folder.path().join("state.db.salvaging"), "state.db.damaged-X").unwrap();
    // Half of a new one.
    fs::write(folder.database(), b"SQLite format 3\0").unwrap();
    let store = SqliteStore::open(&folder.database()).unwrap();
    assert!(store.salvaged().unwrap().complete);
    assert_eq!(store.unfinished(None, 1000).await.unwrap(), before);
    store.close().await;
    assert_eq!(folder.names(), ["state.db", "state.db.damaged-X"]);
}

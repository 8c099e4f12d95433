//! Reading the queue from another process: filters, and a daemon that runs, does not run, died, or starts meanwhile.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use std::time::Duration;

use smtp_direct::message::{Priority, ReversePath};
use smtp_direct::outcome::Kind;
use smtp_direct::queue::{
    ByState, CopyRow, CopyState, Counts, Cursor, DomainShape, Haste, HistoryFilter, Inspect, ListFilter, NextStep, ReportAction,
    Settlement, SqliteInspect, SqliteStore, Store, StoreError,
};
use support::{Folder, address, at, begins, deferred, delivered, failed, ids, in_doubt, message, reporting, settlement};

/// Ten copies in every state; now is 1000.
async fn fill(store: &SqliteStore) {
    let mut messages = vec![
        message(1, &["joe@one.example", "ann@one.example", "bob@two.example"]),
        message(2, &["joe@two.example"]),
        message(3, &["carl_x@three.example"]),
        message(4, &["jörg@bücher.example", "joe@sub.one.example"]),
        message(5, &["carlyx@three.example"]),
    ];
    messages[1].envelope.sender = ReversePath::Null;
    messages[2].envelope.priority = Priority::Urgent;
    messages[3].envelope.sender = ReversePath::parse("Bob.100%@Board.example.org").unwrap();
    let copies = store.accept(messages).await.unwrap();
    // Message 1: one.example half delivered and in doubt, two.example on hold. 2: being sent. 3: delivered. 4: waits; failed, to be told.
    store.begin_attempts(begins(&[copies[0].clone(), copies[2].clone(), copies[3].clone()]), at(20)).await.unwrap();
    let mut first = settlement(&copies[0], &in_doubt(), NextStep::Retry(at(900)), at(25));
    first.recipients[1].outcome = delivered();
    let hold = NextStep::Hold { reason: "their new server".to_owned() };
    let hold = Settlement { attempt: None, recipients: vec![], ..settlement(&copies[1], &deferred(), hold, at(25)) };
    let third = settlement(&copies[3], &delivered(), NextStep::Finish, at(26));
    let fourth = settlement(&copies[4], &deferred(), NextStep::Retry(at(2000)), at(27));
    let fifth = reporting(settlement(&copies[5], &failed(), NextStep::Finish, at(28)), ReportAction::Failed);
    store.settle(vec![first, hold, third, fourth, fifth].into(), Haste::Now).await.unwrap();
}

fn names(rows: &[CopyRow]) -> Vec<String> {
    let name = |row: &CopyRow| format!("{} {}", row.recipients[0], row.state.as_str());
    rows.iter().map(name).collect()
}

#[tokio::test]
async fn list_filters_and_tells_where_copies_stand() {
    let folder = Folder::new("list");
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let list = |filter: ListFilter| names(&queue.list(&filter).unwrap());
    let all = [
        "joe@one.example queued",
        "bob@two.example held",
        "joe@two.example sending",
        "jörg@xn--bcher-kva.example queued",
        "carlyx@three.example queued",
    ];
    assert_eq!(list(ListFilter::default()), all);
    assert_eq!(list(ListFilter { limit: Some(2), ..Default::default() }), all[..2]);
    assert_eq!(list(ListFilter { limit: Some(0), ..Default::default() }), [""; 0]);
    assert_eq!(list(ListFilter { ids: vec![message(4, &[]).id, message(2, &[]).id, message(3, &[]).id], ..Default::default() }), all[2..4]);
    let to = |to: &str| list(ListFilter { to: Some(to.to_owned()), ..Default::default() });
    assert_eq!(to("JOE@*.example"), [all[0], all[2]]);
    // Ann has hers already; an underscore and a percent sign stand for themselves.
    assert_eq!(to("ann@one.example"), [""; 0]);
    assert_eq!(to("carl_x@*"), [""; 0]);
    assert_eq!(to("*@bücher.example"), all[3..4]);
    let from = |from: &str| list(ListFilter { from: Some(from.to_owned()), ..Default::default() });
    assert_eq!(from("<>"), all[2..3]);
    assert_eq!(from("bob.100%@*"), all[3..4]);
    assert_eq!(from("bob.%@*"), [""; 0]);
    let domain = |domain: &str| list(ListFilter { domain: Some(domain.to_owned()), ..Default::default() });
    assert_eq!(domain("two.example"), all[1..3]);
    assert_eq!(domain("T*o.example"), all[1..3]);
    assert_eq!(list(ListFilter { until: Some(at(2)), ..Default::default() }), all[..2]);
    assert_eq!(list(ListFilter { domain: Some("two.example".into()), from: Some("<>".into()), ..Default::default() }), all[2..3]);

    let rows = queue.list(&ListFilter::default()).unwrap();
    assert_eq!((rows[0].attempts, rows[0].in_doubt, rows[0].due_at, rows[0].size), (1, true, at(900), 2300));
    assert_eq!(
        rows[0].last.as_deref(),
        Some("in doubt: the content was sent in full, then the connection was lost; the peer may have the message")
    );
    assert_eq!((rows[1].last.as_deref(), rows[1].state), (Some("their new server"), CopyState::Held));
    assert_eq!((rows[2].last.as_deref(), rows[2].accepted_at, &rows[2].sender), (None, at(2), &ReversePath::Null));
    assert_eq!(rows[3].last.as_deref(), Some("RCPT TO was answered 451 4.7.1 Greylisted try again later"));
}

#[tokio::test]
async fn counts_are_of_what_is_not_finished() {
    let folder = Folder::new("counts");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    assert_eq!(queue.counts(at(0)).unwrap(), Counts::default());
    fill(&store).await;
    // Accepted at 1, 2, 4 and 5; now is 998 s after the first.
    let mut by_age = [ByState::default(); DomainShape::AGES.len()];
    by_age[2] = ByState { due: 2, waiting: 1, sending: 1, held: 1 };
    let expected = Counts { messages: 4, by_age, recipients: 5, in_doubt: 1, octets: 4 * 2300, oldest: Some(at(1)) };
    assert_eq!(queue.counts(at(1000)).unwrap(), expected);
    assert_eq!(expected.by_state(), by_age[2]);
    // An age begins to the millisecond; what a clock that was set back makes come yet is of the first one.
    let of_age = |seconds, millis| {
        let by_age = queue.counts(at(seconds) - Duration::from_millis(millis)).unwrap().by_age;
        by_age.map(|age| age.due + age.waiting + age.sending + age.held)
    };
    assert_eq!((of_age(61, 1), of_age(61, 0)), ([5, 0, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0]));
    assert_eq!((of_age(-90_000, 0), of_age(86_402, 0)), ([5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 2, 3]));
    assert_eq!(store.counts(at(1000)).await.unwrap(), expected);
    store.close().await;
    assert_eq!(store.counts(at(1000)).await, Err(StoreError::Closed));
}

#[tokio::test]
async fn history_is_newest_first_and_filtered() {
    let folder = Folder::new("history");
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let history = |filter: HistoryFilter| {
        let rows = queue.history(&filter).unwrap();
        rows.iter().map(|row| format!("{} {} {}", row.recipient, row.outcome.kind.as_str(), row.attempts)).collect::<Vec<_>>()
    };
    let all = ["joe@sub.one.example failed 1", "carl_x@three.example delivered 1", "ann@one.example delivered 1"];
    assert_eq!(history(HistoryFilter::default()), all);
    assert_eq!(history(HistoryFilter { limit: Some(2), ..Default::default() }), all[..2]);
    assert_eq!(history(HistoryFilter { since: Some(at(26)), ..Default::default() }), all[..2]);
    assert_eq!(history(HistoryFilter { to: Some("*@*ONE.example".into()), ..Default::default() }), [all[0], all[2]]);
    assert_eq!(history(HistoryFilter { from: Some("bob*".into()), ..Default::default() }), all[..1]);
    assert_eq!(history(HistoryFilter { id: Some(message(1, &[]).id), ..Default::default() }), all[2..]);
    assert_eq!(history(HistoryFilter { id: Some(message(1, &[]).id), to: Some("joe*".into()), ..Default::default() }), [""; 0]);
    let row = queue.history(&HistoryFilter { limit: Some(1), ..Default::default() }).unwrap().remove(0);
    assert_eq!((row.at, row.accepted_at, row.message_id.as_deref()), (at(28), at(4), Some("<4@example.org>")));
    assert_eq!(row.outcome.reply, failed().reply);
}

#[tokio::test]
async fn history_comes_in_pages_that_leave_nobody_out() {
    let folder = Folder::new("history-pages");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let messages = (1..=9).map(|n| message(n, &[&format!("user{n}@one.example")])).collect();
    let copies = store.accept(messages).await.unwrap();
    store.begin_attempts(begins(&copies), at(20)).await.unwrap();
    // Several at one time, and the later ones of them first.
    let times = [30, 30, 31, 30, 30, 29, 31, 30, 29];
    let ends = copies.iter().zip(times).rev().map(|(copy, seconds)| settlement(copy, &delivered(), NextStep::Finish, at(seconds)));
    store.settle(ends.collect(), Haste::Now).await.unwrap();
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let whole: Vec<String> = queue.history(&HistoryFilter::default()).unwrap().iter().map(|row| row.recipient.to_string()).collect();
    assert_eq!(whole, [7, 3, 8, 5, 4, 2, 1, 9, 6].map(|n| format!("user{n}@one.example")));
    for size in 1..=4 {
        let (mut pages, mut before) = (Vec::new(), None);
        loop {
            let page = queue.history(&HistoryFilter { before, limit: Some(size), ..Default::default() }).unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.place.to_string().parse().unwrap());
            pages.extend(page.iter().map(|row| row.recipient.to_string()));
        }
        assert_eq!(pages, whole, "pages of {size}");
    }
}

#[tokio::test]
async fn a_sender_is_found_among_few_messages_and_among_many() {
    let folder = Folder::new("history-senders");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut messages: Vec<_> = (1..=5_010).map(|n| message(n, &[&format!("user{n}@one.example")])).collect();
    messages[6].envelope.sender = ReversePath::parse("rare@example.org").unwrap();
    let copies = store.accept(messages).await.unwrap();
    store.begin_attempts(begins(&copies), at(6_000)).await.unwrap();
    let end = |copy| settlement(copy, &delivered(), NextStep::Finish, at(6_001));
    store.settle(copies.iter().map(end).collect(), Haste::Now).await.unwrap();
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let from = |from: &str, limit| HistoryFilter { from: Some(from.to_owned()), limit, ..Default::default() };
    for (sender, newest, count) in [("rare@*", "user7@one.example", 1), ("alice@example.org", "user5010@one.example", 5_009)] {
        let rows = queue.history(&from(sender, Some(2))).unwrap();
        assert_eq!((rows[0].recipient.to_string().as_str(), rows.len()), (newest, count.min(2)), "{sender}");
        assert_eq!(queue.count_history(&from(sender, Some(2))).unwrap(), count as u64, "{sender}: the limit does not count");
    }
    let by_field = HistoryFilter { message_id: Some("4000@example.org".to_owned()), ..Default::default() };
    assert_eq!(queue.history(&by_field).unwrap().iter().map(|row| row.message).collect::<Vec<_>>(), [message(4_000, &[]).id]);
    assert_eq!(queue.count_history(&HistoryFilter { domain: Some("*NE.example".to_owned()), ..by_field }).unwrap(), 1);
}

#[tokio::test]
async fn the_copies_of_a_recipient_are_found() {
    let folder = Folder::new("copies-for");
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let found = |recipient: &str, finished| -> Vec<_> {
        let copies = queue.copies_for(&address(recipient), finished).unwrap();
        copies.open.into_iter().chain(copies.finished).map(|(message, _)| message).collect()
    };
    let id = |n| message(n, &[]).id;
    assert_eq!(found("JOE@one.example", 5), [id(1)]);
    assert_eq!(found("bob@two.example", 5), [id(1)], "on hold");
    assert_eq!(found("joe@two.example", 5), [id(2)], "being sent");
    assert_eq!((found("ann@one.example", 5), found("ann@one.example", 0)), (vec![id(1)], vec![]), "delivered, while others wait");
    assert_eq!(found("joe@sub.one.example", 1), [id(4)]);
    assert_eq!(found("nobody@one.example", 5), []);
}

#[tokio::test]
async fn show_has_everything() {
    let folder = Folder::new("show");
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    assert!(queue.show(message(77, &[]).id).unwrap().is_none());
    let shown = queue.show(message(1, &[]).id).unwrap().unwrap();
    assert_eq!((shown.finished_at, &shown.message.content), (None, &message(1, &[]).content));
    let copies: Vec<_> =
        shown.copies.iter().map(|copy| (copy.domain.as_str(), copy.state, copy.attempts, copy.hold_reason.as_deref())).collect();
    assert_eq!(copies, [("one.example", CopyState::Queued, 1, None), ("two.example", CopyState::Held, 0, Some("their new server"))]);
    let last: Vec<_> =
        shown.copies[0].recipients.iter().map(|(to, last)| (to.address.to_string(), last.as_ref().map(|(o, at)| (o.kind, *at)))).collect();
    assert_eq!(
        last,
        [("joe@one.example".to_owned(), Some((Kind::Deferred, at(25)))), ("ann@one.example".to_owned(), Some((Kind::Delivered, at(25))))]
    );
    assert_eq!(shown.copies[1].recipients[0].1, None);
    assert_eq!(shown.copies[0].history, [support::attempt(1, at(25))]);
    let third = queue.show(message(3, &[]).id).unwrap().unwrap();
    assert_eq!((third.finished_at, third.copies[0].state), (Some(at(26)), CopyState::Finished));
}

#[tokio::test]
async fn with_the_daemon_down_the_file_is_read_and_nothing_is_created() {
    let folder = Folder::new("down");
    assert_eq!(SqliteInspect::open(&folder.database()).unwrap_err(), StoreError::Missing { path: folder.database() });
    assert_eq!(folder.names(), [""; 0]);
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    store.close().await;
    assert_eq!(folder.names(), ["state.db"]);
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    assert_eq!(queue.list(&ListFilter::default()).unwrap().len(), 5);
    assert_eq!(folder.names(), ["state.db"]);

    // The daemon starts, changes what was read, and stops: between two readings, and about one of them.
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept((30..36).map(|n| message(n, &["a@x.example"])).collect()).await.unwrap();
    store.close().await;
    assert_eq!(queue.list(&ListFilter::default()).unwrap().len(), 11);
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept((10..30).map(|n| message(n, &["a@x.example"])).collect()).await.unwrap();
    assert_eq!(queue.list(&ListFilter::default()).unwrap().len(), 31);
    store.close().await;
    assert_eq!(queue.list(&ListFilter::default()).unwrap().len(), 31);
    assert_eq!(SqliteInspect::open(&folder.database()).unwrap().list(&ListFilter::default()).unwrap().len(), 31);
    drop(queue);
    // The daemon starts with what a reader leaves behind.
    SqliteStore::open(&folder.database()).unwrap().close().await;
}

#[tokio::test]
async fn a_reader_that_stays_keeps_nobody_from_stopping_and_starting() {
    let folder = Folder::new("stays");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    for n in 0..3 {
        store.accept(vec![message(n, &["a@x.example"])]).await.unwrap();
        assert_eq!(queue.counts(at(9)).unwrap().messages, u64::from(n) + 1);
    }
    store.close().await;
    assert_eq!(queue.counts(at(9)).unwrap().messages, 3);
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.accept(vec![message(3, &["a@x.example"])]).await.unwrap();
    assert_eq!(queue.counts(at(9)).unwrap().messages, 4);
}

#[tokio::test]
async fn what_a_crash_left_is_read() {
    let folder = Folder::new("left");
    let store = SqliteStore::open(&folder.database()).unwrap();
    fill(&store).await;
    let crash = Folder::new("left-copy");
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(folder.path().join(name), crash.path().join(name)).unwrap();
    }
    // Nothing was written back: all of it is in the WAL.
    assert_eq!(SqliteInspect::open(&crash.database()).unwrap().list(&ListFilter::default()).unwrap().len(), 5);
    let after = SqliteStore::open(&crash.database()).unwrap();
    let interrupted = after.interrupted().await.unwrap();
    assert_eq!(interrupted.len(), 1);
    after.withdraw(vec![interrupted[0].copy.id]).await.unwrap();
    assert_eq!(ids(&after.due(Cursor::start_of(Priority::Normal), at(50), 100, Vec::new()).await.unwrap().copies).len(), 2);
}

#[tokio::test]
async fn other_files_are_refused() {
    let folder = Folder::new("others");
    let newer = rusqlite::Connection::open(folder.database()).unwrap();
    newer.execute_batch("PRAGMA user_version = 1000").unwrap();
    let error = SqliteInspect::open(&folder.database()).unwrap_err();
    assert!(matches!(error, StoreError::Schema { found: 1000, known: 1..1000 }), "{error}");
    newer.execute_batch("PRAGMA user_version = 0").unwrap();
    let error = SqliteInspect::open(&folder.database()).unwrap_err();
    assert!(error.to_string().contains("is not a queue database"), "{error}");
    std::fs::write(
        folder.path().join("text"),
        "certainly no database, whatever its length may be, for it begins with other words than one",
    )
    .unwrap();
    assert!(matches!(SqliteInspect::open(&folder.path().join("text")), Err(StoreError::Damaged { .. })));
    // A name with what has a meaning in a URI.
    let odd = folder.path().join("100% ?#ü.db");
    let store = SqliteStore::open(&odd).unwrap();
    fill(&store).await;
    store.close().await;
    assert_eq!(SqliteInspect::open(&odd).unwrap().list(&ListFilter::default()).unwrap().len(), 5);
}

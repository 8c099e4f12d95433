//! A queue that an older version left comes over whole: what waits, is held, was being sent, is to be told, and is finished.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use rusqlite::{Connection, params};
use smtp_direct::message::{Domain, Priority};
use smtp_direct::outcome::Kind;
use smtp_direct::queue::{
    CopyId, CopyState, Cursor, Haste, HistoryFilter, Inspect, ListFilter, NextStep, QueuedCopy, ReportAction, SqliteInspect, SqliteStore,
    Store,
};
use support::{Folder, address, at, begins, delivered, ids, in_doubt, message, settlement};

/// Copies that lie further back than there are in one message: their old ids are others' new ones.
const FAR: i64 = 1_048_576;

fn insert_message(db: &Connection, seq: u32, finished_at: Option<i64>, counts: (u32, u32, u32, u32)) {
    let new = message(seq, &[]);
    let (open, reports, delivered, failed) = counts;
    db.execute(
        "INSERT INTO messages (seq, id, accepted_at, expires_at, finished_at, open_copies, reports_due, delivered, failed, priority, sender,
             source, source_inode, source_size, source_modified, file_size, wire_size, form, hops, prepend)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 'alice@example.org', ?10, ?1, 2048, ?1, 2048, 2300, 1, 0, '')",
        params![
            seq,
            new.id.to_bytes(),
            new.accepted_at.as_millisecond(),
            new.expires_at.as_millisecond(),
            finished_at.map(|seconds| at(seconds).as_millisecond()),
            open,
            reports,
            delivered,
            failed,
            new.source.name
        ],
    )
    .unwrap();
}

/// A copy with as many attempts as it has rows of them, and one more if it is being sent.
fn insert_copy(db: &Connection, (id, seq): (i64, u32), state: i64, recipients: &[(i64, &str, i64)], attempts: u32) {
    let domain = address(recipients[0].1).domain().as_str().to_owned();
    let open = recipients.iter().filter(|(.., state)| *state == 0).count() as i64;
    let new = message(seq, &[]);
    let (due, began) = (new.accepted_at.as_millisecond(), (state == 1).then(|| at(80).as_millisecond()));
    db.execute(
        "INSERT INTO copies (id, message, state, priority, due_at, expires_at, open_recipients, attempts, began_at, warned, in_doubt,
             hold_reason, domain) VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10)",
        params![
            id,
            seq,
            state,
            due,
            new.expires_at.as_millisecond(),
            open,
            attempts + u32::from(state == 1),
            began,
            (state == 2).then_some("their new server"),
            domain
        ],
    )
    .unwrap();
    for (id_of, to, state) in recipients {
        let at = (attempts > 0).then(|| at(70).as_millisecond());
        db.execute(
            "INSERT INTO recipients (id, copy, state, notify, outcome_at, in_doubt, dsn_relayed, status, address, text)
             VALUES (?1, ?2, ?3, 1, ?4, 0, 0, '4.7.1', ?5, 'what was said')",
            params![id_of, id, state, at, to],
        )
        .unwrap();
    }
    for number in 1..=attempts {
        db.execute(
            "INSERT INTO attempts VALUES (?1, ?2, 1, 2, 3, 4, 5, 6, ?3, 'mx', '[]')",
            params![id, number, format!("site of {domain}")],
        )
        .unwrap();
    }
}

/// Messages 1 to 4, one of them split, and copies in every state.
fn old(folder: &Folder) {
    let db = Connection::open(folder.database()).unwrap();
    db.execute_batch(include_str!("support/queue_v1.sql")).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").unwrap();
    insert_message(&db, 1, None, (3, 0, 1, 0));
    insert_copy(&db, (1, 1), 0, &[(1, "a@x.example", 0), (3, "c@x.example", 1)], 2);
    insert_copy(&db, (2, 1), 2, &[(4, "d@y.example", 0)], 0);
    insert_message(&db, 2, None, (1, 0, 0, 0));
    insert_copy(&db, (3, 2), 1, &[(5, "e@x.example", 0), (6, "f@x.example", 0)], 1);
    insert_message(&db, 3, Some(71), (0, 0, 1, 0));
    insert_copy(&db, (FAR, 3), 3, &[(7, "g@z.example", 1)], 1);
    insert_message(&db, 4, None, (0, 1, 0, 1));
    insert_copy(&db, (FAR + 1, 4), 3, &[(8, "h@z.example", 2)], 1);
    db.execute_batch("UPDATE recipients SET report = 1 WHERE id = 8").unwrap();
    // What was split off message 1 later.
    insert_copy(&db, (2 * FAR + 7, 1), 0, &[(2, "b@x.example", 0)], 2);
    db.execute_batch("COMMIT").unwrap();
}

async fn due(store: &SqliteStore) -> Vec<QueuedCopy> {
    store.due(Cursor::start_of(Priority::Normal), at(200), 1000, Vec::new()).await.unwrap().copies
}

fn told(copy: &QueuedCopy) -> (String, Vec<String>, u32) {
    (copy.message.source.clone(), copy.recipients.iter().map(|r| r.address.to_string()).collect(), copy.attempts)
}

fn expect(source: &str, to: &[&str], attempts: u32) -> (String, Vec<String>, u32) {
    (source.to_owned(), to.iter().map(|to| (*to).to_owned()).collect(), attempts)
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_schema_1_comes_over_whole() {
    let folder = Folder::new("migration");
    old(&folder);
    let error = SqliteInspect::open(&folder.database()).unwrap_err().to_string();
    assert!(error.contains("the daemon brings it up to date when it starts"), "{error}");

    let store = SqliteStore::open(&folder.database()).unwrap();
    // What was being sent is not due, nor what is held.
    let copies = due(&store).await;
    assert_eq!(copies.iter().map(told).collect::<Vec<_>>(), [expect("1.eml", &["a@x.example"], 2), expect("1.eml", &["b@x.example"], 2)]);
    assert_eq!(copies[0].recipients[0].last.as_ref().map(|last| last.text.as_str()), Some("what was said"));
    let in_domain = store.due_in_domain((Priority::Normal, Domain::parse("x.example").unwrap()), at(200), 1000, Vec::new()).await.unwrap();
    assert_eq!(in_domain, copies);
    let queue = SqliteInspect::open(&folder.database()).unwrap();
    let states: Vec<_> = queue.list(&ListFilter::default()).unwrap().iter().map(|row| (row.message, row.state, row.attempts)).collect();
    let id = |n| message(n, &[]).id;
    let expected =
        [(id(1), CopyState::Queued, 2), (id(1), CopyState::Held, 0), (id(1), CopyState::Queued, 2), (id(2), CopyState::Sending, 2)];
    assert_eq!(states, expected);
    // Of three open copies it is known where they were tried.
    let sites: Vec<_> = queue.sites().unwrap().into_iter().map(|site| (site.site, site.copies, site.last.unwrap().0.text)).collect();
    assert_eq!(sites, [("site of x.example".to_owned(), 3, "what was said".to_owned())]);
    let shown = queue.show(id(1)).unwrap().unwrap();
    assert_eq!(shown.copies.iter().map(|copy| copy.recipients.len()).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(shown.copies.iter().map(|copy| copy.history.len()).collect::<Vec<_>>(), [2, 0, 2]);
    assert_eq!(
        (shown.copies[1].hold_reason.as_deref(), shown.copies[2].history[0].site.as_str()),
        (Some("their new server"), "site of x.example")
    );
    let history = queue.history(&HistoryFilter::default()).unwrap();
    let outcomes: Vec<_> = history.iter().map(|row| (row.recipient.to_string(), row.outcome.kind, row.attempts)).collect();
    let expected = [("h@z.example", Kind::Failed, 1), ("g@z.example", Kind::Delivered, 1), ("c@x.example", Kind::Delivered, 2)];
    assert_eq!(outcomes, expected.map(|(to, kind, attempts)| (to.to_owned(), kind, attempts)));

    // The attempt that was under way is in doubt, and everything can be ended.
    let interrupted = store.interrupted().await.unwrap();
    let who: Vec<_> = interrupted.iter().map(|it| (it.copy.message.id, it.copy.recipients.len())).collect();
    assert_eq!(who, [(id(2), 2)]);
    let cut_off = settlement(&interrupted[0].copy, &in_doubt(), NextStep::Retry(at(100)), at(100));
    store.settle(vec![cut_off].into(), Haste::Now).await.unwrap();
    let copies = due(&store).await;
    assert_eq!(told(&copies[2]), expect("2.eml", &["e@x.example", "f@x.example"], 2));
    store.begin_attempts(begins(&copies), at(110)).await.unwrap();
    let done = copies.iter().map(|copy| settlement(copy, &delivered(), NextStep::Finish, at(120))).collect();
    let finished = store.settle(done, Haste::Now).await.unwrap();
    assert_eq!(finished.iter().map(|message| (message.id, message.delivered)).collect::<Vec<_>>(), [(id(2), 2)]);
    let report = store.reports_due(None, 10).await.unwrap().remove(0);
    assert_eq!((report.message.id, report.entries[0].action), (id(4), ReportAction::Failed));
    assert_eq!(store.reported(vec![(report.entries[0].id, ReportAction::Failed)], None).await.unwrap().finished[0].id, id(4));
    // New copies are numbered within their own messages.
    let new = store.accept(vec![message(9, &["a@x.example", "b@y.example"])]).await.unwrap();
    assert_eq!(ids(&new), [CopyId(5 * FAR), CopyId(5 * FAR + 1)]);
    assert_eq!(store.purge(at(1000)).await.unwrap(), 3);
    assert_eq!(store.unfinished(None, 10).await.unwrap(), [id(1), id(9)]);
    store.close().await;

    let db = Connection::open(folder.database()).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, String>(0));
    assert_eq!(one("PRAGMA integrity_check").unwrap(), "ok");
    assert!(one("SELECT sql FROM sqlite_schema WHERE name = 'recipients_final'").unwrap().contains("address"), "of schema 4");
    assert_eq!(one("PRAGMA foreign_key_check"), Err(rusqlite::Error::QueryReturnedNoRows));
    assert_eq!(db.query_row("SELECT count(*) FROM recipients", [], |row| row.get::<_, i64>(0)).unwrap(), 6);
    assert_eq!(
        one("SELECT name FROM sqlite_schema WHERE name LIKE 'new%' OR name LIKE 'renum%'"),
        Err(rusqlite::Error::QueryReturnedNoRows)
    );
}

//! The store, method by method, on a real database file.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use smtp_direct::message::{Domain, MessageId, Notify, Priority, Ret, ReversePath};
use smtp_direct::outcome::{Kind, Outcome};
use smtp_direct::queue::{
    CopyId, CopyState, Cursor, Finished, Haste, HistoryFilter, Inspect, Known, ListFilter, NextStep, QueuedCopy, RecipientOutcome,
    ReportAction, Settlement, SqliteInspect, SqliteStore, Store, StoreError,
};
use support::{Folder, address, at, attempt, begins, deferred, delivered, failed, ids, in_doubt, message, reporting, settlement};

fn open(folder: &Folder) -> SqliteStore {
    SqliteStore::open(&folder.database()).unwrap()
}

async fn due(store: &SqliteStore, seconds: i64) -> Vec<QueuedCopy> {
    let mut copies = Vec::new();
    for class in [Priority::Urgent, Priority::Normal, Priority::Bulk] {
        copies.extend(store.due(Cursor::start_of(class), at(seconds), 1000, Vec::new()).await.unwrap().copies);
    }
    copies
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Database { temporary: false, detail, .. } | StoreError::Damaged { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn accept_makes_a_copy_a_domain_and_everything_comes_back() {
    let folder = Folder::new("accept");
    let store = open(&folder);
    let mut new = message(1, &["a@one.example", "b@two.example", "\"c c\"@one.example", "jörg@bücher.example"]);
    new.envelope.recipients[1].notify = Notify { success: true, failure: false, delay: true, explicit: true };
    new.envelope.recipients[3].notify = Notify::NEVER;
    new.envelope.sender = ReversePath::Null;
    new.envelope.priority = Priority::Bulk;
    new.envelope.ret = Some(Ret::Headers);
    new.envelope.envid = Some("QQ 314159".to_owned());
    new.envelope.tag = Some("news".to_owned());
    new.content.eight_bit = true;
    new.content.cuts.clear();
    let accepted = store.accept(vec![new.clone(), message(2, &["d@two.example"])]).await.unwrap();

    let domains: Vec<_> = accepted.iter().map(|copy| (copy.message.id, copy.domain.as_str())).collect();
    let expected =
        [(new.id, "one.example"), (new.id, "two.example"), (new.id, "xn--bcher-kva.example"), (message(2, &[]).id, "two.example")];
    assert_eq!(domains, expected);
    assert_eq!(accepted[0].recipients.iter().map(|r| r.address.to_string()).collect::<Vec<_>>(), ["a@one.example", "\"c c\"@one.example"]);
    assert_eq!(accepted[2].recipients[0].notify, Notify::NEVER);
    let first = &accepted[0].message;
    assert_eq!((&first.sender, &first.content, &first.source), (&ReversePath::Null, &new.content, &new.source.name));
    assert_eq!((first.ret, first.envid.as_deref(), first.tag.as_deref()), (Some(Ret::Headers), Some("QQ 314159"), Some("news")));
    assert_eq!((first.accepted_at, first.expires_at, first.priority), (new.accepted_at, new.expires_at, Priority::Bulk));

    // What is read is what accept returned, also by a store that was opened later.
    store.close().await;
    let read = due(&open(&folder), 10).await;
    assert_eq!(read, [&accepted[3..], &accepted[..3]].concat());
    assert!(Arc::ptr_eq(&read[1].message, &read[2].message), "copies of one message share it");
}

#[tokio::test(start_paused = true)]
async fn accept_takes_all_messages_or_none() {
    let folder = Folder::new("accept-all");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    let error = store.accept(vec![message(2, &["a@x.example"]), message(1, &["a@x.example"])]).await;
    assert!(refused(error).contains("messages.id"));
    assert!(refused(store.accept(vec![message(3, &["a@x.example"]), message(4, &[])]).await).contains("has no recipient"));
    assert_eq!(due(&store, 100).await, copies);
    assert_eq!(store.known_ids(vec![message(2, &[]).id, message(3, &[]).id]).await.unwrap(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn not_before_is_the_due_time() {
    let folder = Folder::new("not-before");
    let store = open(&folder);
    let mut later = message(1, &["a@x.example"]);
    later.envelope.not_before = Some(at(500));
    store.accept(vec![later]).await.unwrap();
    assert_eq!(due(&store, 499).await, []);
    assert_eq!(store.next_due(at(499)).await.unwrap(), Some(at(500)));
    assert_eq!(store.next_due(at(500)).await.unwrap(), None);
    assert_eq!(due(&store, 500).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn domains_can_be_passed_over() {
    let folder = Folder::new("skip");
    let store = open(&folder);
    store.accept(vec![message(1, &["a@x.example", "b@y.example", "c@z.example"])]).await.unwrap();
    let skip = ["x.example", "z.example"].map(|name| Domain::parse(name).unwrap()).to_vec();
    let page = store.due(Cursor::start_of(Priority::Normal), at(500), 1000, skip).await.unwrap();
    assert_eq!(page.copies.iter().map(|copy| copy.domain.as_str()).collect::<Vec<_>>(), ["y.example"]);
    assert!(page.next.is_none());
}

#[tokio::test(start_paused = true)]
async fn pages_follow_priority_due_time_and_id() {
    let folder = Folder::new("pages");
    let store = open(&folder);
    let mut messages = Vec::new();
    for n in 0..60 {
        let mut new = message(n, &["a@x.example", "b@x.example", "c@y.example"]);
        new.envelope.priority = [Priority::Bulk, Priority::Normal, Priority::Urgent][n as usize % 3];
        // Many with the same due time, so that the id decides.
        new.envelope.not_before = Some(at(i64::from(n / 12) * 10));
        messages.push(new);
    }
    let mut expected = store.accept(messages).await.unwrap();
    expected.retain(|copy| copy.due_at <= at(30));
    expected.sort_by_key(|copy| (copy.message.priority, copy.due_at, copy.id));
    assert_eq!(expected.len(), 96);
    for limit in [0, 1, 4, 5, 72, 144, 1000] {
        let mut read = Vec::new();
        for class in [Priority::Urgent, Priority::Normal, Priority::Bulk] {
            let mut cursor = Cursor::start_of(class);
            loop {
                let page = store.due(cursor, at(30), limit, Vec::new()).await.unwrap();
                if page.copies.is_empty() {
                    assert!(page.next.is_none());
                    break;
                }
                let recipients = |copies: &[QueuedCopy]| copies.iter().map(|copy| copy.recipients.len()).sum::<usize>();
                let all_but_the_last = recipients(page.copies.split_last().unwrap().1);
                assert!(all_but_the_last == 0 || all_but_the_last < limit, "limit {limit}");
                assert!(page.next.is_none() || recipients(&page.copies) >= limit, "limit {limit}");
                read.extend(page.copies);
                match page.next {
                    Some(next) => cursor = next,
                    None => break,
                }
            }
        }
        assert_eq!(read, expected, "limit {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn due_in_domain_is_the_same_order_for_one_domain() {
    let folder = Folder::new("domain");
    let store = open(&folder);
    let mut urgent = message(3, &["a@x.example", "b@y.example"]);
    urgent.envelope.priority = Priority::Urgent;
    let mut later = message(4, &["a@x.example"]);
    later.envelope.not_before = Some(at(1000));
    store
        .accept(vec![message(1, &["a@x.example", "b@x.example"]), message(2, &["c@y.example", "d@x.example"]), urgent, later])
        .await
        .unwrap();
    let x = Domain::parse("x.example").unwrap();
    let of = |copies: Vec<QueuedCopy>| copies.iter().map(|copy| (copy.message.source.clone(), copy.recipients.len())).collect::<Vec<_>>();
    let x = |class| (class, x.clone());
    let urgent = store.due_in_domain(x(Priority::Urgent), at(10), 100, Vec::new()).await.unwrap();
    assert_eq!(of(urgent), [("3.eml".to_owned(), 1)]);
    let all = store.due_in_domain(x(Priority::Normal), at(10), 100, Vec::new()).await.unwrap();
    assert_eq!(of(all.clone()), [("1.eml".to_owned(), 2), ("2.eml".to_owned(), 1)]);
    let one = store.due_in_domain(x(Priority::Normal), at(10), 2, Vec::new()).await.unwrap();
    assert_eq!(of(one), [("1.eml".to_owned(), 2)]);
    assert_eq!(of(store.due_in_domain(x(Priority::Normal), at(10), 0, Vec::new()).await.unwrap()), [("1.eml".to_owned(), 2)]);
    let known = ids(&all[..all.len() - 1]);
    let left = store.due_in_domain((Priority::Normal, Domain::parse("x.example").unwrap()), at(10), 100, known).await.unwrap();
    assert_eq!(ids(&left), [all[all.len() - 1].id]);
    assert_eq!(store.due_in_domain((Priority::Normal, Domain::parse("z.example").unwrap()), at(10), 10, Vec::new()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_takes_copies_out_of_the_queue_all_or_none() {
    let folder = Folder::new("begin");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@y.example"]), message(2, &["c@z.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies[1..2]), at(5)).await.unwrap();
    assert_eq!(ids(&due(&store, 10).await), [copies[0].id, copies[2].id]);
    assert_eq!(store.due_in_domain((Priority::Normal, copies[1].domain.clone()), at(10), 10, Vec::new()).await.unwrap(), []);
    // One of them is being sent already: sending it again would duplicate.
    assert_eq!(
        refused(store.begin_attempts(begins(&copies[..2]), at(6)).await),
        format!("copy {} is not queued for 1 recipients", copies[1].id.0)
    );
    assert_eq!(ids(&due(&store, 10).await), [copies[0].id, copies[2].id]);
    assert!(store.begin_attempts(vec![(CopyId(999), 1)], at(6)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_being_sent_is_woken_by_nothing() {
    let folder = Folder::new("begin-wait");
    let store = open(&folder);
    let mut later = message(1, &["a@x.example"]);
    (later.expires_at, later.envelope.not_before) = (at(100), Some(at(500)));
    // Begun before it is due, as after an administrator's `retry`.
    let copies = store.accept(vec![later.clone()]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    assert_eq!(store.next_due(at(10)).await.unwrap(), None);
    assert_eq!(store.wake(vec![later.id], at(10)).await.unwrap(), 0);
    assert_eq!(store.wake_expired(at(200)).await.unwrap(), 0);
    assert_eq!(due(&store, 600).await, []);
    // It is queued again by its settlement, and can be begun again.
    store.settle(vec![settlement(&copies[0], &deferred(), NextStep::Retry(at(700)), at(20))].into(), Haste::Now).await.unwrap();
    assert_eq!(store.next_due(at(10)).await.unwrap(), Some(at(700)));
    store.begin_attempts(begins(&copies), at(700)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_told_twice_is_kept_once() {
    let folder = Folder::new("told-twice");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    let first = settlement(&copies[0], &deferred(), NextStep::Retry(at(700)), at(20));
    let again = settlement(&copies[0], &deferred(), NextStep::Retry(at(800)), at(30));
    store.settle(vec![first, again].into(), Haste::Now).await.unwrap();
    use smtp_direct::queue::{Inspect, SqliteInspect};
    let shown = SqliteInspect::open(&folder.database()).unwrap().show(copies[0].message.id).unwrap().unwrap();
    assert_eq!((shown.copies[0].history.as_slice(), shown.copies[0].attempts), (&[attempt(1, at(30))][..], 1));
}

#[tokio::test(start_paused = true)]
async fn deferral_keeps_what_the_next_attempt_needs() {
    let folder = Folder::new("retry");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut first = settlement(&copies[0], &deferred(), NextStep::Retry(at(300)), at(7));
    first.recipients[1].outcome = delivered();
    assert_eq!(store.settle(vec![first].into(), Haste::Now).await.unwrap(), []);
    assert_eq!(due(&store, 299).await, []);
    let again = due(&store, 300).await.remove(0);
    assert_eq!((again.attempts, again.first_failed_at, again.warned, again.due_at), (1, Some(at(7)), false, at(300)));
    assert_eq!(again.recipients.len(), 1);
    assert_eq!(again.recipients[0].last, Some(Outcome { peer: again.recipients[0].last.clone().unwrap().peer, ..deferred() }));
    assert_eq!(again.recipients[0].last.as_ref().unwrap().peer.as_deref(), deferred().peer.as_deref());

    store.begin_attempts(begins(std::slice::from_ref(&again)), at(300)).await.unwrap();
    let second = Settlement { warned: true, ..settlement(&again, &in_doubt(), NextStep::Retry(at(900)), at(310)) };
    store.settle(vec![second].into(), Haste::Now).await.unwrap();
    let again = due(&store, 900).await.remove(0);
    assert_eq!((again.attempts, again.first_failed_at, again.warned), (2, Some(at(7)), true));
    assert!(again.recipients[0].last.as_ref().unwrap().in_doubt);

    // The notice is sent once: a later settlement does not take it back. Nothing was tried in this one.
    let third = Settlement { attempt: None, ..settlement(&again, &deferred(), NextStep::Retry(at(950)), at(900)) };
    store.settle(vec![third].into(), Haste::Now).await.unwrap();
    let again = due(&store, 950).await.remove(0);
    assert_eq!((again.attempts, again.warned), (2, true));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_finished_with_its_last_copy() {
    let folder = Folder::new("finish");
    let store = open(&folder);
    let new = message(1, &["a@x.example", "b@x.example", "c@y.example"]);
    let copies = store.accept(vec![new.clone()]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut first = settlement(&copies[0], &delivered(), NextStep::Finish, at(6));
    first.recipients[0].outcome = failed();
    assert_eq!(store.settle(vec![first].into(), Haste::Now).await.unwrap(), []);
    assert_eq!(store.unfinished(None, 10).await.unwrap(), [new.id]);
    let last = settlement(&copies[1], &delivered(), NextStep::Finish, at(7));
    let finished = store.settle(vec![last.clone()].into(), Haste::Now).await.unwrap();
    assert_eq!(finished, [Finished { id: new.id, delivered: 2, failed: 1, accepted_at: at(1) }]);
    assert_eq!(store.unfinished(None, 10).await.unwrap(), []);
    assert_eq!(store.known_ids(vec![new.id]).await.unwrap(), [Some(Known { id: new.id, finished_at: Some(at(7)) })]);
    // Told again (an answer was lost): nothing more happens.
    assert_eq!(store.settle(vec![last].into(), Haste::Now).await.unwrap(), []);
    assert_eq!(due(&store, 1_000_000).await, []);
}

#[tokio::test(start_paused = true)]
async fn what_is_final_stays_final() {
    let folder = Folder::new("final");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut first = settlement(&copies[0], &delivered(), NextStep::Retry(at(9)), at(6));
    first.recipients[1].outcome = deferred();
    store.settle(vec![first].into(), Haste::Now).await.unwrap();
    // `copies[0]` still names both: the delivered one must not fail now.
    let late = reporting(settlement(&copies[0], &failed(), NextStep::Finish, at(10)), ReportAction::Failed);
    assert_eq!(store.settle(vec![late].into(), Haste::Now).await.unwrap(), []);
    let reports = store.reports_due(None, 10).await.unwrap();
    assert_eq!(reports[0].entries.iter().map(|entry| entry.address.to_string()).collect::<Vec<_>>(), ["b@x.example"]);
    let finished = store.reported(vec![(copies[0].recipients[1].id, ReportAction::Failed)], None).await.unwrap().finished;
    assert_eq!((finished[0].delivered, finished[0].failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_does_not_fit_changes_nothing() {
    let folder = Folder::new("misfit");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"]), message(2, &["c@y.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let good = settlement(&copies[1], &delivered(), NextStep::Finish, at(6));
    let leaves_one = settlement(&copies[0], &deferred(), NextStep::Finish, at(6));
    assert!(refused(store.settle(vec![good.clone(), leaves_one].into(), Haste::Now).await).contains("2 of its recipients wait"));
    let mut foreign = settlement(&copies[0], &delivered(), NextStep::Finish, at(6));
    foreign.recipients[1].recipient = copies[1].recipients[0].id;
    assert!(refused(store.settle(vec![good.clone(), foreign].into(), Haste::Now).await).contains("has no recipient"));
    let unknown = Settlement { copy: CopyId(77), ..good.clone() };
    assert_eq!(refused(store.settle(vec![good, unknown].into(), Haste::Now).await), "there is no copy 77");
    store.withdraw(ids(&copies)).await.unwrap();
    assert_eq!(due(&store, 10).await, copies);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_copy_is_finished_unsent_and_nobody_is_told() {
    let folder = Folder::new("discard");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"])]).await.unwrap();
    let nothing = Settlement {
        copy: copies[0].id,
        attempt: None,
        put_off_at: None,
        recipients: vec![],
        next: NextStep::Finish,
        warned: false,
        hold_in_doubt: false,
        at: at(6),
    };
    let delay = RecipientOutcome { recipient: copies[0].recipients[0].id, outcome: deferred(), report: Some(ReportAction::Delayed) };
    let delayed = Settlement { recipients: vec![delay], next: NextStep::Retry(at(7)), ..nothing.clone() };
    store.settle(vec![delayed].into(), Haste::Now).await.unwrap();
    let finished = store.settle(vec![nothing].into(), Haste::Now).await.unwrap();
    assert_eq!(finished, [Finished { id: message(1, &[]).id, delivered: 0, failed: 2, accepted_at: at(1) }]);
    assert!(store.reports_due(None, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn held_copies_wait_for_nobody() {
    let folder = Folder::new("hold");
    let store = open(&folder);
    let mut new = message(1, &["a@x.example"]);
    new.expires_at = at(100);
    let copies = store.accept(vec![new.clone()]).await.unwrap();
    let hold = Settlement {
        copy: copies[0].id,
        attempt: None,
        put_off_at: None,
        recipients: vec![],
        next: NextStep::Hold { reason: "their new server".to_owned() },
        warned: false,
        hold_in_doubt: false,
        at: at(6),
    };
    assert_eq!(store.settle(vec![hold].into(), Haste::Now).await.unwrap(), []);
    assert_eq!(due(&store, 1000).await, []);
    assert_eq!(store.due_in_domain((Priority::Normal, copies[0].domain.clone()), at(1000), 10, Vec::new()).await.unwrap(), []);
    assert_eq!(store.next_due(at(0)).await.unwrap(), None);
    assert_eq!(store.wake(vec![new.id], at(50)).await.unwrap(), 0);
    assert_eq!(store.wake_expired(at(1000)).await.unwrap(), 0);
    assert_eq!(store.unfinished(None, 10).await.unwrap(), [new.id]);
    assert!(store.begin_attempts(begins(&copies), at(1000)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn reports_keep_a_message_and_are_told_once() {
    let folder = Folder::new("reports");
    let store = open(&folder);
    let copies =
        store.accept(vec![message(1, &["a@x.example", "b@x.example", "c@y.example"]), message(2, &["d@z.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut settlements: Vec<_> =
        copies.iter().map(|copy| reporting(settlement(copy, &failed(), NextStep::Finish, at(6)), ReportAction::Failed)).collect();
    settlements[1].recipients[0] =
        RecipientOutcome { outcome: delivered(), report: Some(ReportAction::Relayed), ..settlements[1].recipients[0].clone() };
    assert_eq!(store.settle(settlements.into(), Haste::Now).await.unwrap(), []);

    let reports = store.reports_due(None, 10).await.unwrap();
    assert_eq!(reports.iter().map(|report| report.message.id).collect::<Vec<_>>(), [message(1, &[]).id, message(2, &[]).id]);
    let told: Vec<_> =
        reports[0].entries.iter().map(|entry| (entry.address.to_string(), entry.action, entry.outcome.kind, entry.at)).collect();
    let expected = [
        ("a@x.example".to_owned(), ReportAction::Failed, Kind::Failed, at(6)),
        ("b@x.example".to_owned(), ReportAction::Failed, Kind::Failed, at(6)),
        ("c@y.example".to_owned(), ReportAction::Relayed, Kind::Delivered, at(6)),
    ];
    assert_eq!(told, expected);
    assert_eq!(reports[0].entries[0].outcome, Outcome { peer: reports[0].entries[0].outcome.peer.clone(), ..failed() });
    assert_eq!(store.reports_due(None, 1).await.unwrap().len(), 1);
    let only = store.reports_due(Some(vec![message(2, &[]).id, message(9, &[]).id]), 10).await.unwrap();
    assert_eq!(only.iter().map(|report| report.message.id).collect::<Vec<_>>(), [message(2, &[]).id]);

    // The report is accepted with the record that it tells; its copies are queued.
    let covered: Vec<_> = reports[0].entries.iter().map(|entry| (entry.id, entry.action)).collect();
    let mut report = message(50, &["alice@example.org"]);
    report.source.name = "report".to_owned();
    let reported = store.reported(covered.clone(), Some(report.clone())).await.unwrap();
    assert_eq!(reported.finished, [Finished { id: message(1, &[]).id, delivered: 1, failed: 2, accepted_at: at(1) }]);
    assert_eq!(reported.copies, due(&store, 100).await);
    assert_eq!(reported.copies[0].message.source, "report");
    assert_eq!(store.unfinished(None, 10).await.unwrap(), [message(2, &[]).id, report.id]);
    let again = store.reported(covered, None).await.unwrap();
    assert!(again.finished.is_empty() && again.copies.is_empty());
    // Nothing is told where the report cannot be accepted.
    let entry = &only[0].entries[0];
    assert!(store.reported(vec![(entry.id, entry.action)], Some(report)).await.is_err());
    assert_eq!(store.reports_due(None, 10).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_a_delay_notice_stays_due() {
    let folder = Folder::new("delay");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"])]).await.unwrap();
    let delayed = reporting(settlement(&copies[0], &deferred(), NextStep::Retry(at(9)), at(6)), ReportAction::Delayed);
    store.settle(vec![delayed].into(), Haste::Now).await.unwrap();
    let notice = store.reports_due(None, 10).await.unwrap().remove(0);
    assert_eq!(notice.entries.len(), 2);
    // While the notice is being written, one fails and the other is delivered.
    let mut end = settlement(&copies[0], &delivered(), NextStep::Finish, at(10));
    end.recipients[0] = RecipientOutcome { outcome: failed(), report: Some(ReportAction::Failed), ..end.recipients[0].clone() };
    assert_eq!(store.settle(vec![end].into(), Haste::Now).await.unwrap(), []);
    let covered = notice.entries.iter().map(|entry| (entry.id, entry.action)).collect();
    assert!(store.reported(covered, Some(message(50, &["alice@example.org"]))).await.unwrap().finished.is_empty());
    let due = store.reports_due(None, 10).await.unwrap().remove(0);
    assert_eq!(
        due.entries.iter().map(|entry| (entry.address.to_string(), entry.action)).collect::<Vec<_>>(),
        [("a@x.example".to_owned(), ReportAction::Failed)]
    );
    let end = store.reported(vec![(due.entries[0].id, ReportAction::Failed)], None).await.unwrap();
    assert_eq!(end.finished, [Finished { id: message(1, &[]).id, delivered: 1, failed: 1, accepted_at: at(1) }]);
}

#[tokio::test(start_paused = true)]
async fn split_moves_recipients_to_a_copy_of_their_own() {
    let folder = Folder::new("split");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example", "c@x.example"])]).await.unwrap();
    store.settle(vec![settlement(&copies[0], &deferred(), NextStep::Retry(at(300)), at(7))].into(), Haste::Now).await.unwrap();
    let (old, b, c) = (copies[0].id, copies[0].recipients[1].id, copies[0].recipients[2].id);
    for (recipients, why) in [
        (vec![], "has to leave and to move"),
        (copies[0].recipients.iter().map(|r| r.id).collect(), "has to leave and to move"),
        (vec![b, b], "does not wait in copy"),
    ] {
        assert!(refused(store.split(old, recipients).await).contains(why));
    }
    let new = store.split(old, vec![c, b]).await.unwrap();
    assert_eq!(new.recipients.iter().map(|r| r.id).collect::<Vec<_>>(), [b, c]);
    assert_eq!((new.due_at, new.first_failed_at, &new.domain), (at(300), Some(at(7)), &copies[0].domain));
    assert_eq!(new.recipients[0].last.as_ref().map(|last| last.kind), Some(Kind::Deferred));
    let due = due(&store, 300).await;
    assert_eq!(ids(&due), [old, new.id]);
    assert_eq!(due[1], new);
    assert!(refused(store.split(new.id, vec![copies[0].recipients[0].id]).await).contains("does not wait"));
    // Both have to end for the message to end.
    assert_eq!(store.settle(vec![settlement(&due[0], &delivered(), NextStep::Finish, at(301))].into(), Haste::Now).await.unwrap(), []);
    let finished = store.settle(vec![settlement(&new, &delivered(), NextStep::Finish, at(302))].into(), Haste::Now).await.unwrap();
    assert_eq!((finished[0].delivered, finished[0].failed), (3, 0));
    assert!(refused(store.split(old, vec![b]).await).contains("no open copy"));
}

#[tokio::test(start_paused = true)]
async fn a_split_during_an_attempt_leaves_the_attempt_to_the_old_copy() {
    let folder = Folder::new("split-sending");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let new = store.split(copies[0].id, vec![copies[0].recipients[1].id]).await.unwrap();
    assert_eq!((new.attempts, due(&store, 10).await), (0, vec![new.clone()]));
    store.begin_attempts(begins(std::slice::from_ref(&new)), at(6)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_that_were_cut_off_are_settled_or_withdrawn() {
    let folder = Folder::new("interrupted");
    let store = open(&folder);
    let copies = store
        .accept(vec![message(1, &["a@x.example", "b@x.example"]), message(2, &["c@y.example"]), message(3, &["d@z.example"])])
        .await
        .unwrap();
    store.begin_attempts(begins(&copies[..2]), at(5)).await.unwrap();
    let mut first = settlement(&copies[0], &deferred(), NextStep::Retry(at(50)), at(6));
    first.recipients[0].outcome = delivered();
    store.settle(vec![first].into(), Haste::Now).await.unwrap();
    store.begin_attempts(vec![(copies[0].id, 1)], at(60)).await.unwrap();
    // The daemon dies: neither attempt ends.
    store.close().await;
    let store = open(&folder);
    let interrupted = store.interrupted().await.unwrap();
    let who: Vec<_> = interrupted.iter().map(|it| (it.copy.id, it.began_at, it.copy.attempts, it.copy.recipients.len())).collect();
    assert_eq!(who, [(copies[0].id, at(60), 1, 1), (copies[1].id, at(5), 0, 1)]);
    assert_eq!(ids(&due(&store, 100).await), [copies[2].id]);
    store.withdraw(vec![copies[1].id]).await.unwrap();
    store.settle(vec![settlement(&interrupted[0].copy, &in_doubt(), NextStep::Retry(at(100)), at(100))].into(), Haste::Now).await.unwrap();
    let due = due(&store, 100).await;
    assert_eq!(ids(&due), [copies[1].id, copies[2].id, copies[0].id]);
    // What is withdrawn was never begun.
    assert_eq!(due[0], copies[1]);
    assert_eq!((due[2].attempts, due[2].recipients[0].last.as_ref().unwrap().in_doubt), (2, true));
    assert_eq!(store.interrupted().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn who_was_in_doubt_once_may_have_got_it_twice() {
    let folder = Folder::new("twice");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    store.settle(vec![settlement(&copies[0], &in_doubt(), NextStep::Retry(at(9)), at(6))].into(), Haste::Now).await.unwrap();
    store.settle(vec![settlement(&copies[0], &deferred(), NextStep::Retry(at(19)), at(10))].into(), Haste::Now).await.unwrap();
    store.settle(vec![settlement(&copies[0], &delivered(), NextStep::Finish, at(20))].into(), Haste::Now).await.unwrap();
    let row = SqliteInspect::open(&folder.database()).unwrap().history(&HistoryFilter::default()).unwrap().remove(0);
    assert_eq!((row.outcome.kind, row.outcome.in_doubt), (Kind::Delivered, true));
}

#[tokio::test(start_paused = true)]
async fn who_is_in_doubt_can_be_held_apart() {
    let folder = Folder::new("held-apart");
    let store = open(&folder);
    let copies =
        store.accept(vec![message(1, &["a@x.example", "b@x.example", "c@x.example"]), message(2, &["d@y.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut mixed = settlement(&copies[0], &deferred(), NextStep::Retry(at(50)), at(6));
    mixed.recipients[0].outcome = in_doubt();
    mixed.recipients[2].outcome = delivered();
    let alone = settlement(&copies[1], &in_doubt(), NextStep::Retry(at(50)), at(6));
    let held = |settlement| Settlement { hold_in_doubt: true, ..settlement };
    store.settle(vec![held(mixed), held(alone)].into(), Haste::Now).await.unwrap();
    let due = due(&store, 100).await;
    assert_eq!((ids(&due), &due[0].recipients[0].address), (vec![copies[0].id], &address("b@x.example")));
    let rows = SqliteInspect::open(&folder.database()).unwrap().list(&ListFilter::default()).unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| (row.recipients[0].to_string(), row.state, row.last.clone().unwrap())).collect();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let text = "in doubt: the peer may have it (retry.in_doubt)".to_owned();
    assert_eq!(rows[0], ("a@x.example".to_owned(), CopyState::Held, text.clone()));
    assert_eq!((rows[1].0.as_str(), rows[1].1), ("b@x.example", CopyState::Queued));
    assert_eq!(rows[2], ("d@y.example".to_owned(), CopyState::Held, text));
}

#[tokio::test(start_paused = true)]
async fn wake_makes_waiting_copies_due_now() {
    let folder = Folder::new("wake");
    let store = open(&folder);
    let copies =
        store.accept(vec![message(1, &["a@x.example", "b@y.example", "c@z.example"]), message(2, &["d@z.example"])]).await.unwrap();
    let retry = |copy| settlement(copy, &deferred(), NextStep::Retry(at(500)), at(6));
    store.settle(vec![retry(&copies[0]), retry(&copies[3])].into(), Haste::Now).await.unwrap();
    store.begin_attempts(begins(&copies[1..2]), at(6)).await.unwrap();
    // One waits, one is being sent, one is due already; the other message waits on.
    assert_eq!(store.wake(vec![message(1, &[]).id, message(7, &[]).id], at(100)).await.unwrap(), 1);
    assert_eq!(
        due(&store, 100).await.iter().map(|copy| (copy.id, copy.due_at)).collect::<Vec<_>>(),
        [(copies[2].id, at(1)), (copies[0].id, at(100))]
    );
}

#[tokio::test(start_paused = true)]
async fn expiry_reaches_copies_that_would_wait_past_it() {
    let folder = Folder::new("expiry");
    let store = open(&folder);
    let mut messages = [message(1, &["a@x.example"]), message(2, &["b@x.example"]), message(3, &["c@x.example"])];
    messages.iter_mut().for_each(|message| message.expires_at = at(100));
    messages[2].expires_at = at(1000);
    let copies = store.accept(messages.to_vec()).await.unwrap();
    let retry = |copy, due| settlement(copy, &deferred(), NextStep::Retry(due), at(6));
    store.settle(vec![retry(&copies[0], at(500)), retry(&copies[1], at(90)), retry(&copies[2], at(500))].into(), Haste::Now).await.unwrap();
    assert_eq!(store.wake_expired(at(100)).await.unwrap(), 0, "not before its last millisecond is over");
    assert_eq!(store.wake_expired(at(101)).await.unwrap(), 1);
    assert_eq!(
        due(&store, 101).await.iter().map(|copy| (copy.id, copy.due_at)).collect::<Vec<_>>(),
        [(copies[1].id, at(90)), (copies[0].id, at(101))]
    );
    assert_eq!(store.wake_expired(at(101)).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn purge_forgets_finished_messages_only_and_in_steps() {
    let folder = Folder::new("purge");
    let store = open(&folder);
    let copies = store.accept((0..1201).map(|n| message(n, &["a@x.example"])).collect()).await.unwrap();
    let finish = |copy: &QueuedCopy| settlement(copy, &delivered(), NextStep::Finish, at(2000 + i64::from(copy.message.source == "5.eml")));
    store.settle(copies[..1200].iter().map(finish).collect(), Haste::Now).await.unwrap();
    assert_eq!(store.purge(at(2000)).await.unwrap(), 0);
    assert_eq!(store.purge(at(2001)).await.unwrap(), 1199);
    let known = store.known_ids(vec![copies[5].message.id, copies[6].message.id, copies[1200].message.id]).await.unwrap();
    assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    store.close().await;
    let db = rusqlite::Connection::open(folder.database()).unwrap();
    for table in ["messages", "copies", "recipients"] {
        assert_eq!(db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap(), 2, "{table}");
    }
    assert_eq!(db.query_row("SELECT count(*) FROM attempts", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_files_are_recognised() {
    let folder = Folder::new("known");
    let store = open(&folder);
    let mut new = [message(1, &["a@x.example"]), message(2, &["a@x.example"]), message(3, &["a@x.example"])];
    new[1].source.fingerprint.modified = i128::MAX - 5;
    new[1].source.fingerprint.inode = u64::MAX;
    new[2].source.fingerprint.modified = -1;
    let copies = store.accept(new.to_vec()).await.unwrap();
    store.settle(vec![settlement(&copies[0], &delivered(), NextStep::Finish, at(9))].into(), Haste::Now).await.unwrap();
    let mut asked: Vec<_> = new.iter().map(|message| message.source.clone()).collect();
    let mut other = |change: fn(&mut smtp_direct::queue::Source)| {
        asked.push(new[1].source.clone());
        change(asked.last_mut().unwrap());
    };
    other(|source| source.name = "other.eml".to_owned());
    other(|source| source.fingerprint.size += 1);
    other(|source| source.fingerprint.inode -= 1);
    other(|source| source.fingerprint.modified += 1);
    let known = store.known_sources(asked).await.unwrap();
    let yes = |n: usize, finished_at| Some(Known { id: new[n].id, finished_at });
    assert_eq!(known, [yes(0, Some(at(9))), yes(1, None), yes(2, None), None, None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn unfinished_goes_on_after_an_id() {
    let folder = Folder::new("unfinished");
    let store = open(&folder);
    // Accepted in another order than that of the ids.
    let new: Vec<_> = [4, 2, 5, 1, 3].into_iter().map(|n| message(n, &["a@x.example"])).collect();
    let mut all: Vec<MessageId> = new.iter().map(|message| message.id).collect();
    all.sort();
    store.accept(new).await.unwrap();
    assert_eq!(store.unfinished(None, 3).await.unwrap(), all[..3]);
    assert_eq!(store.unfinished(Some(all[2]), 3).await.unwrap(), all[3..]);
    assert_eq!(store.unfinished(Some(all[4]), 3).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn history_survives_as_attempts() {
    let folder = Folder::new("attempts");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    store.begin_attempts(begins(&copies), at(5)).await.unwrap();
    let mut odd = attempt(1, at(6));
    odd.trail = vec!["one\nline".to_owned(), String::new(), "ünïcode \"quoted\"".to_owned()];
    let settlement = Settlement { attempt: Some(odd.clone()), ..settlement(&copies[0], &delivered(), NextStep::Finish, at(6)) };
    store.settle(vec![settlement].into(), Haste::Now).await.unwrap();
    use smtp_direct::queue::{Inspect, SqliteInspect};
    let shown = SqliteInspect::open(&folder.database()).unwrap().show(copies[0].message.id).unwrap().unwrap();
    assert_eq!(shown.copies[0].history, [odd]);
}

#[tokio::test]
async fn the_file_is_for_owner_and_group() {
    let folder = Folder::new("mode");
    let store = open(&folder);
    store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    store.close().await;
    assert_eq!(folder.names(), ["state.db"]);
}

/// Files of a program that writes fast have one modification time by the hundred.
#[tokio::test]
async fn files_of_one_tick_are_told_apart_by_the_index_alone() {
    let folder = Folder::new("tick");
    open(&folder).close().await;
    let db = rusqlite::Connection::open(folder.database()).unwrap();
    let query = "EXPLAIN QUERY PLAN SELECT id FROM messages INDEXED BY messages_source WHERE source_modified = 1 AND source_inode = 2";
    let plan: String = db.query_row(query, [], |row| row.get(3)).unwrap();
    assert!(plan.ends_with("messages_source (source_modified=? AND source_inode=?)"), "{plan}");
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let folder = Folder::new("foreign");
    let newer = rusqlite::Connection::open(folder.database()).unwrap();
    newer.execute_batch("PRAGMA user_version = 1000").unwrap();
    drop(newer);
    assert_eq!(SqliteStore::open(&folder.database()).unwrap_err(), StoreError::Schema { found: 1000, known: 7 });

    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(refused(SqliteStore::open(&foreign)).contains("another program"));

    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database, and longer than the header of one would be, which is a hundred octets; so it goes on\n")
        .unwrap();
    let anew = SqliteStore::open(&text).unwrap();
    let salvaged = anew.salvaged().unwrap();
    assert!(salvaged.reason.contains("fewer than any database") && !salvaged.complete && salvaged.messages == 0, "{salvaged:?}");
    assert!(std::fs::read(&salvaged.aside).unwrap().starts_with(b"not a database"), "it is kept");
    assert!(matches!(SqliteStore::open(&folder.path().join("no/state.db")), Err(StoreError::Database { temporary: true, .. })));
}

#[tokio::test]
async fn a_damaged_value_is_an_error_that_names_the_column() {
    let folder = Folder::new("damaged");
    let store = open(&folder);
    store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    let db = rusqlite::Connection::open(folder.database()).unwrap();
    db.execute("UPDATE recipients SET address = 'no address'", []).unwrap();
    let error = refused(store.due(Cursor::start_of(Priority::Normal), at(10), 10, Vec::new()).await);
    assert!(error.contains("address") && error.contains("no domain"), "{error}");
    db.execute_batch("UPDATE recipients SET address = 'a@x.example'; UPDATE messages SET priority = 9").unwrap();
    let error = refused(store.due(Cursor::start_of(Priority::Normal), at(10), 10, Vec::new()).await);
    assert!(error.contains("column priority: 9 means nothing"), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = Folder::new("closed");
    let store = open(&folder);
    store.accept(vec![message(1, &["a@x.example"])]).await.unwrap();
    store.close().await;
    store.close().await;
    assert_eq!(store.accept(vec![message(2, &["a@x.example"])]).await.unwrap_err(), StoreError::Closed);
    assert_eq!(store.unfinished(None, 1).await.unwrap_err(), StoreError::Closed);
}

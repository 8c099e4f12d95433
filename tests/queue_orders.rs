//! Administrators' orders in the store: what each does to a copy in each state, whom a selection means, and that nothing which was read before
//! an order is carried out after it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/queue.rs"]
mod support;

use std::sync::Arc;

use smtp_direct::message::{Priority, ReversePath};
use smtp_direct::outcome::{Fault, Kind, Outcome};
use smtp_direct::queue::{
    Acted, Action, Acts, CopyId, CopyState, Cursor, Done, Haste, Inspect, NextStep, Order, PausedSite, QueuedCopy, RecipientOutcome,
    ReportAction, Selection, Settlement, SqliteInspect, SqliteStore, Store,
};
use support::{Folder, at, begins, deferred, delivered, message, settlement};

fn open(folder: &Folder) -> SqliteStore {
    SqliteStore::open(&folder.database()).unwrap()
}

async fn due(store: &SqliteStore, seconds: i64) -> Vec<QueuedCopy> {
    store.due(Cursor::start_of(Priority::Normal), at(seconds), 1000, Vec::new()).await.unwrap().copies
}

/// An order at second 100.
fn order(action: Action) -> Order {
    let verdict = move |copy: &QueuedCopy| {
        let reason = "for a test".to_owned();
        let fault = if action == Action::Remove { Fault::Removed { reason } } else { Fault::Returned { reason } };
        let report = (action == Action::Bounce).then_some(ReportAction::Failed);
        let outcome = |recipient| RecipientOutcome { recipient, outcome: Outcome::of(&fault, None), report };
        let recipients = copy.recipients.iter().map(|recipient| outcome(recipient.id)).collect();
        Settlement {
            copy: copy.id,
            attempt: None,
            put_off_at: None,
            recipients,
            next: NextStep::Finish,
            warned: false,
            hold_in_doubt: false,
            at: at(100),
        }
    };
    Order { action, reason: "for a test".to_owned(), by: "uid 0".to_owned(), at: at(100), verdict: Arc::new(verdict) }
}

async fn act(store: &SqliteStore, copies: &[CopyId], action: Action) -> Acts {
    store.act(copies.to_vec(), None, order(action)).await.unwrap()
}

async fn one(store: &SqliteStore, copy: CopyId, action: Action) -> Done {
    let acts = act(store, &[copy], action).await;
    assert_eq!(acts.acted.len(), 1, "{acts:?}");
    acts.acted[0].done
}

async fn select(store: &SqliteStore, selection: Selection) -> Vec<CopyId> {
    store.select(selection, CopyId(i64::MIN), 1000).await.unwrap().iter().map(|selected| selected.copy).collect()
}

/// A queue with a copy in each state: due, waiting for second 500, held, being sent, finished.
async fn of_all_states(folder: &Folder) -> (SqliteStore, [CopyId; 5]) {
    let store = open(folder);
    let messages = (1..=5).map(|n| message(n, &[&format!("a{n}@x{n}.example")])).collect();
    let copies = store.accept(messages).await.unwrap();
    store.begin_attempts(begins(&copies[1..]), at(10)).await.unwrap();
    let settled = vec![
        settlement(&copies[1], &deferred(), NextStep::Retry(at(500)), at(20)),
        settlement(&copies[2], &deferred(), NextStep::Hold { reason: "wait".to_owned() }, at(20)),
        settlement(&copies[4], &delivered(), NextStep::Finish, at(20)),
    ];
    store.settle(settled.into(), Haste::Now).await.unwrap();
    let ids = [0, 1, 2, 3, 4].map(|n| copies[n].id);
    (store, ids)
}

#[tokio::test(start_paused = true)]
async fn each_order_for_a_copy_in_each_state() {
    use Done::{Already, BeingSent, Done as Carried, Finished, NotHeld, OnHold};
    for (action, expected) in [
        (Action::Retry, [Already, Carried, OnHold, BeingSent, Finished]),
        (Action::Hold, [Carried, Carried, Already, BeingSent, Finished]),
        (Action::Release, [NotHeld, NotHeld, Carried, BeingSent, Finished]),
        (Action::Bounce, [Carried, Carried, Carried, BeingSent, Finished]),
        (Action::Remove, [Carried, Carried, Carried, BeingSent, Finished]),
    ] {
        let folder = Folder::new("orders");
        let (store, copies) = of_all_states(&folder).await;
        let acts = act(&store, &copies, action).await;
        assert_eq!(acts.acted.iter().map(|acted| acted.done).collect::<Vec<_>>(), expected, "{action:?}");
        let ends = matches!(action, Action::Bounce | Action::Remove);
        // A report keeps the message until it is written.
        assert_eq!(acts.finished.len(), if action == Action::Remove { 3 } else { 0 }, "{action:?}");
        let queue = SqliteInspect::open(&folder.database()).unwrap();
        for (n, done) in (1_u32..).zip(expected) {
            let detail = queue.show(message(n, &[]).id).unwrap().unwrap();
            let copy = &detail.copies[0];
            let before = [CopyState::Queued, CopyState::Queued, CopyState::Held, CopyState::Sending, CopyState::Finished][n as usize - 1];
            if done != Carried {
                assert_eq!((copy.state, detail.actions.len()), (before, 0), "{action:?} of {before:?}");
                continue;
            }
            let state = match action {
                _ if ends => CopyState::Finished,
                Action::Hold => CopyState::Held,
                _ => CopyState::Queued,
            };
            assert_eq!(copy.state, state, "{action:?} of {before:?}");
            if state == CopyState::Queued {
                assert_eq!(copy.due_at, at(100));
            }
            if ends {
                let (outcome, when) = copy.recipients[0].1.as_ref().unwrap();
                assert_eq!((outcome.kind, *when), (Kind::Failed, at(100)));
                assert!(outcome.text.contains("administrator of this server: for a test"), "{}", outcome.text);
            }
            assert_eq!(copy.hold_reason.as_deref(), (state == CopyState::Held).then_some("for a test"));
            let noted = &detail.actions[0];
            assert_eq!((noted.action, noted.at, noted.by.as_str(), noted.reason.as_str()), (action, at(100), "uid 0", "for a test"));
            assert_eq!(noted.recipients, [format!("a{n}@x{n}.example")]);
        }
        let reports = store.reports_due(None, 10).await.unwrap();
        assert_eq!(reports.len(), if action == Action::Bounce { 3 } else { 0 }, "{action:?}");
        // The same again changes nothing.
        let again = act(&store, &copies, action).await;
        assert!(again.acted.iter().all(|acted| acted.done != Carried), "{action:?}: {again:?}");
        assert!(again.finished.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_can_be_returned_to_the_null_sender() {
    let folder = Folder::new("null");
    let store = open(&folder);
    let mut report = message(1, &["a@x.example"]);
    report.envelope.sender = ReversePath::Null;
    let copies = store.accept(vec![report]).await.unwrap();
    assert_eq!(one(&store, copies[0].id, Action::Bounce).await, Done::NoSender);
    assert_eq!(due(&store, 10).await, copies);
}

#[tokio::test(start_paused = true)]
async fn one_recipient_goes_its_own_way_and_the_others_stay() {
    for action in Action::ALL {
        let folder = Folder::new("divided");
        let store = open(&folder);
        let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example", "c@x.example"])]).await.unwrap();
        let copy = &copies[0];
        store.begin_attempts(begins(&copies), at(10)).await.unwrap();
        let next = if action == Action::Release { NextStep::Hold { reason: "wait".to_owned() } } else { NextStep::Retry(at(500)) };
        store.settle(vec![settlement(copy, &deferred(), next, at(20))].into(), Haste::Now).await.unwrap();

        let acts = store.act(vec![copy.id], Some("B@x.EXAMPLE".to_owned()), order(action)).await.unwrap();
        let Acted { copy: part, from, recipients, done, .. } = &acts.acted[0];
        assert_eq!((*from, *done, recipients[0].to_string()), (copy.id, Done::Done, "b@x.example".to_owned()), "{action:?}");
        assert_ne!(*part, copy.id);
        let queue = SqliteInspect::open(&folder.database()).unwrap();
        let detail = queue.show(copy.message.id).unwrap().unwrap();
        let state = |id| detail.copies.iter().find(|other| other.id == id).map(|copy| (copy.state, copy.recipients.len()));
        let (others, own) = match action {
            Action::Retry => (CopyState::Queued, CopyState::Queued),
            Action::Hold => (CopyState::Queued, CopyState::Held),
            Action::Release => (CopyState::Held, CopyState::Queued),
            Action::Bounce | Action::Remove => (CopyState::Queued, CopyState::Finished),
        };
        assert_eq!((state(copy.id), state(*part)), (Some((others, 2)), Some((own, 1))), "{action:?}");
        let now: Vec<CopyId> = due(&store, 100).await.iter().map(|copy| copy.id).collect();
        assert_eq!(now, if own == CopyState::Queued { vec![*part] } else { Vec::new() }, "{action:?}");
        assert!(acts.finished.is_empty(), "others of it wait");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_an_order_is_not_sent_after_it() {
    let folder = Folder::new("stale");
    let store = open(&folder);
    let copies = store.accept(vec![message(1, &["a@x.example", "b@x.example"]), message(2, &["c@y.example"])]).await.unwrap();
    // In memory are both copies as they were accepted, when b is given up and the other one is held.
    store.act(vec![copies[0].id], Some("b@*".to_owned()), order(Action::Remove)).await.unwrap();
    assert_eq!(one(&store, copies[1].id, Action::Hold).await, Done::Done);
    for copy in &copies {
        assert!(store.begin_attempts(begins(std::slice::from_ref(copy)), at(101)).await.is_err());
    }
    // What was decided about them without an attempt (their site is down) is void, and not an error that would be tried again for ever.
    for (copy, next) in [(&copies[0], NextStep::Retry(at(900))), (&copies[1], NextStep::Retry(at(900))), (&copies[1], NextStep::Finish)] {
        let untried = Settlement { attempt: None, ..settlement(copy, &deferred(), next, at(101)) };
        assert_eq!(store.settle(vec![untried].into(), Haste::Now).await.unwrap(), []);
    }
    let left = due(&store, 101).await;
    assert_eq!((left.len(), left[0].id, left[0].recipients.len(), left[0].due_at), (1, copies[0].id, 1, at(1)));
    // A part that is divided from what is on hold is on hold.
    let held = store.accept(vec![message(3, &["d@z.example", "e@z.example"])]).await.unwrap();
    one(&store, held[0].id, Action::Hold).await;
    let part = store.split(held[0].id, vec![held[0].recipients[1].id]).await.unwrap();
    assert!(!due(&store, 101).await.iter().any(|copy| copy.id == part.id));
    // And as it is now, the first can be sent.
    store.begin_attempts(begins(&left), at(102)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_meant() {
    let folder = Folder::new("select");
    let store = open(&folder);
    let mut messages: Vec<_> = [&["a@x.example", "b@y.example"][..], &["c@x.example"], &["d@sub.x.example"], &["e%f@z.example"]]
        .iter()
        .zip(1..)
        .map(|(to, n)| message(n, to))
        .collect();
    messages[1].envelope.sender = ReversePath::Null;
    messages[2].envelope.tag = Some("news-1".to_owned());
    let copies = store.accept(messages.clone()).await.unwrap();
    store.begin_attempts(begins(&copies[..2]), at(10)).await.unwrap();
    store.settle(vec![settlement(&copies[0], &deferred(), NextStep::Retry(at(50)), at(20))].into(), Haste::Now).await.unwrap();
    let site = "10 mx1.example.com:25, 20 mx2.example.com:25".to_owned();
    let any = Selection::default;
    let some = |text: &str| Some(text.to_owned());
    for (selection, expected) in [
        (any(), &[0, 1, 2, 3, 4][..]),
        (Selection { ids: vec![messages[0].id, messages[3].id], ..any() }, &[0, 1, 4]),
        (Selection { ids: vec![messages[0].id], domain: some("y.example"), ..any() }, &[1]),
        (Selection { recipient: some("*@x.example"), ..any() }, &[0, 2]),
        (Selection { recipient: some("e%f@*"), ..any() }, &[4]),
        (Selection { sender: some("<>"), ..any() }, &[2]),
        (Selection { sender: some("ALICE@*"), ..any() }, &[0, 1, 3, 4]),
        (Selection { domain: some("x.example"), ..any() }, &[0, 2]),
        (Selection { domain: some("*.x.example"), ..any() }, &[3]),
        (Selection { tag: some("news-*"), ..any() }, &[3]),
        (Selection { older_than: Some(at(3)), ..any() }, &[0, 1, 2]),
        (Selection { site: Some(site.clone()), ..any() }, &[0]),
        (Selection { site: Some(site.clone()), at_site: vec![copies[4].id], ..any() }, &[0, 4]),
        (Selection { site: Some(site), of_site: vec![copies[3].domain.clone()], tag: some("news-1"), ..any() }, &[3]),
        (Selection { site: some("elsewhere"), ..any() }, &[]),
    ] {
        let found = select(&store, selection.clone()).await;
        assert_eq!(found, expected.iter().map(|&n: &usize| copies[n].id).collect::<Vec<_>>(), "{selection:?}");
    }
    // Page by page.
    let mut paged = Vec::new();
    loop {
        let after = paged.last().copied().unwrap_or(CopyId(i64::MIN));
        let page = store.select(any(), after, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|selected| selected.copy));
    }
    assert_eq!(paged, copies.iter().map(|copy| copy.id).collect::<Vec<_>>());
    // What has ended is nobody's to select.
    act(&store, &[copies[4].id], Action::Remove).await;
    assert_eq!(select(&store, Selection { domain: some("z.example"), ..any() }).await, []);
}

#[tokio::test(start_paused = true)]
async fn orders_and_pauses_outlast_the_daemon_and_are_forgotten_with_their_message() {
    let folder = Folder::new("outlast");
    let (store, copies) = of_all_states(&folder).await;
    act(&store, &copies[..1], Action::Remove).await;
    act(&store, &copies[1..2], Action::Hold).await;
    let paused = PausedSite { site: "1 mx".to_owned(), reason: "moving".to_owned(), by: "uid 0".to_owned(), since: at(50) };
    store.pause_site(paused.clone()).await.unwrap();
    // As after kill -9: nothing is closed.
    let copied = Folder::new("killed");
    for name in folder.names() {
        std::fs::copy(folder.path().join(&name), copied.path().join(&name)).unwrap();
    }
    let store = open(&copied);
    assert_eq!(store.paused_sites().await.unwrap(), [paused]);
    let queue = SqliteInspect::open(&copied.database()).unwrap();
    let actions = |n| queue.show(message(n, &[]).id).unwrap().map(|detail| detail.actions.len());
    assert_eq!((actions(1), actions(2)), (Some(1), Some(1)));
    assert!(store.resume_site("1 mx".to_owned()).await.unwrap());
    assert!(!store.resume_site("1 mx".to_owned()).await.unwrap());
    assert_eq!(store.purge(at(1000)).await.unwrap(), 2);
    assert_eq!((actions(1), actions(2)), (None, Some(1)));
    store.close().await;
    let left: i64 =
        rusqlite::Connection::open(copied.database()).unwrap().query_row("SELECT count(*) FROM actions", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

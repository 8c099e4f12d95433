//! Random sequences of operations, crashes among them, against a model in memory that is too simple to be wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::manual_is_multiple_of, clippy::type_complexity)]

#[path = "support/queue.rs"]
mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use smtp_direct::clock::Timestamp;
use smtp_direct::message::{MessageId, Priority};
use smtp_direct::outcome::Kind;
use smtp_direct::queue::{
    ByState, CopyId, CopyState, Counts, Cursor, DomainShape, Finished, Haste, Inspect, Known, NextStep, RecipientId, RecipientOutcome,
    ReportAction, Settlement, SqliteInspect, SqliteStore, Store,
};
use support::{Folder, at, attempt, deferred, delivered, failed, in_doubt, message, settlement};

#[derive(Debug)]
struct ModelMessage {
    priority: Priority,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    finished_at: Option<Timestamp>,
}

#[derive(Debug)]
struct ModelCopy {
    message: MessageId,
    state: CopyState,
    due_at: Timestamp,
    attempts: u32,
    first_failed_at: Option<Timestamp>,
    warned: bool,
    in_doubt: bool,
}

#[derive(Debug)]
struct ModelRecipient {
    copy: CopyId,
    last: Option<(Kind, bool, Timestamp)>,
    report: Option<ReportAction>,
}

impl ModelRecipient {
    fn waits(&self) -> bool {
        self.last.is_none_or(|(kind, ..)| kind == Kind::Deferred)
    }
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<MessageId, ModelMessage>,
    copies: BTreeMap<CopyId, ModelCopy>,
    recipients: BTreeMap<RecipientId, ModelRecipient>,
}

/// What `due` says of a copy.
type Due = (CopyId, MessageId, Vec<(RecipientId, Option<(Kind, bool)>)>, Timestamp, u32, Option<Timestamp>, bool);

impl Model {
    fn waiting(&self, copy: CopyId) -> Vec<RecipientId> {
        self.recipients.iter().filter(|(_, r)| r.copy == copy && r.waits()).map(|(&id, _)| id).collect()
    }

    fn of_message(&self, id: MessageId) -> Vec<&ModelRecipient> {
        self.recipients.values().filter(|r| self.copies[&r.copy].message == id).collect()
    }

    fn with_state(&self, states: &[CopyState]) -> Vec<CopyId> {
        self.copies.iter().filter(|(_, copy)| states.contains(&copy.state)).map(|(&id, _)| id).collect()
    }

    fn due(&self, now: Timestamp) -> Vec<Due> {
        let mut due: Vec<_> = self.copies.iter().filter(|(_, copy)| copy.state == CopyState::Queued && copy.due_at <= now).collect();
        due.sort_by_key(|(id, copy)| (self.messages[&copy.message].priority, copy.due_at, **id));
        let recipient = |id: RecipientId| (id, self.recipients[&id].last.map(|(kind, in_doubt, _)| (kind, in_doubt)));
        due.into_iter()
            .map(|(&id, copy)| {
                let recipients = self.waiting(id).into_iter().map(recipient).collect();
                (id, copy.message, recipients, copy.due_at, copy.attempts, copy.first_failed_at, copy.warned)
            })
            .collect()
    }

    /// Marks messages with nothing left to do, and says which.
    fn finish(&mut self, at: Timestamp) -> Vec<Finished> {
        let ids: Vec<MessageId> = self.messages.iter().filter(|(_, m)| m.finished_at.is_none()).map(|(&id, _)| id).collect();
        let mut finished = Vec::new();
        for id in ids {
            let recipients = self.of_message(id);
            if recipients.iter().any(|r| r.waits() || r.report.is_some()) {
                continue;
            }
            let count = |kind| recipients.iter().filter(|r| r.last.is_some_and(|(k, ..)| k == kind)).count() as u32;
            let (delivered, failed) = (count(Kind::Delivered), count(Kind::Failed));
            let message = self.messages.get_mut(&id).unwrap();
            message.finished_at = Some(at);
            finished.push(Finished { id, delivered, failed, accepted_at: message.accepted_at });
        }
        finished
    }

    fn counts(&self, now: Timestamp) -> Counts {
        let unfinished = || self.messages.values().filter(|m| m.finished_at.is_none());
        let age_of = |copy: &ModelCopy| {
            let age = now.duration_since(self.messages[&copy.message].accepted_at).unsigned_abs();
            DomainShape::AGES.iter().rposition(|beginning| *beginning <= age).unwrap()
        };
        let by_age = std::array::from_fn(|age| {
            let of_age = || self.copies.values().filter(|copy| age_of(copy) == age);
            let copies = |state, due| of_age().filter(|c| c.state == state && (c.due_at <= now) == due).count() as u64;
            ByState {
                due: copies(CopyState::Queued, true),
                waiting: copies(CopyState::Queued, false),
                sending: copies(CopyState::Sending, true) + copies(CopyState::Sending, false),
                held: copies(CopyState::Held, true) + copies(CopyState::Held, false),
            }
        });
        let open = self.with_state(&[CopyState::Queued, CopyState::Sending, CopyState::Held]);
        Counts {
            messages: unfinished().count() as u64,
            by_age,
            recipients: self.recipients.values().filter(|r| r.waits()).count() as u64,
            in_doubt: open.iter().filter(|id| self.copies[id].in_doubt).count() as u64,
            octets: 2300 * unfinished().count() as u64,
            oldest: unfinished().map(|m| m.accepted_at).min(),
        }
    }
}

/// The store, the model beside it, and time.
struct World {
    folder: Folder,
    store: SqliteStore,
    model: Model,
    now: i64,
    next_message: u32,
}

/// A choice: what to do, and two numbers that say how.
type Step = (u8, u16, u16);

/// The `n`th of them, whatever `n` is.
fn pick<T: Copy>(from: &[T], n: u16) -> Option<T> {
    (!from.is_empty()).then(|| from[n as usize % from.len()])
}

impl World {
    fn new() -> Self {
        let folder = Folder::new("model");
        let store = SqliteStore::open(&folder.database()).unwrap();
        Self { folder, store, model: Model::default(), now: 10, next_message: 10 }
    }

    fn time(&self) -> Timestamp {
        at(self.now)
    }

    async fn step(&mut self, (what, a, b): Step) {
        match what % 12 {
            0 | 1 => self.accept(a, b).await,
            2 | 3 => self.begin(a).await,
            4..=6 => self.settle(a, b).await,
            7 => self.report(a, b).await,
            8 => self.split(a, b).await,
            9 => self.crash().await,
            10 => self.wake(a).await,
            _ => {
                self.now += i64::from(a % 400);
                self.purge(b).await;
            }
        }
    }

    async fn accept(&mut self, a: u16, b: u16) {
        let all = ["a@x.example", "b@x.example", "c@y.example", "d@z.example", "e@x.example"];
        let to: Vec<&str> = all.iter().enumerate().filter(|(n, _)| a >> n & 1 == 1 || a % 5 == *n as u16).map(|(_, to)| *to).collect();
        let messages: Vec<_> = (0..=b % 3)
            .map(|n| {
                self.next_message += 1;
                let mut new = message(self.next_message, &to);
                new.envelope.priority = [Priority::Urgent, Priority::Normal, Priority::Bulk][usize::from((b >> 2) % 3)];
                new.accepted_at = self.time();
                new.expires_at = at(self.now + i64::from(b % 1000));
                new.envelope.not_before = (n == 1).then(|| at(self.now + i64::from(a % 100)));
                new
            })
            .collect();
        let copies = self.store.accept(messages.clone()).await.unwrap();
        for new in messages {
            let (priority, accepted_at, expires_at) = (new.envelope.priority, new.accepted_at, new.expires_at);
            self.model.messages.insert(new.id, ModelMessage { priority, accepted_at, expires_at, finished_at: None });
        }
        for copy in copies {
            for recipient in &copy.recipients {
                self.model.recipients.insert(recipient.id, ModelRecipient { copy: copy.id, last: None, report: None });
            }
            self.insert_copy(&copy);
        }
    }

    fn insert_copy(&mut self, copy: &smtp_direct::queue::QueuedCopy) {
        let (due_at, attempts, first_failed_at) = (copy.due_at, copy.attempts, copy.first_failed_at);
        let (message, warned) = (copy.message.id, copy.warned);
        let new = ModelCopy { message, state: CopyState::Queued, due_at, attempts, first_failed_at, warned, in_doubt: false };
        assert!(self.model.copies.insert(copy.id, new).is_none());
    }

    async fn begin(&mut self, a: u16) {
        let due: Vec<(CopyId, usize)> =
            self.model.due(self.time()).iter().map(|due| (due.0, due.2.len())).take(usize::from(a % 4)).collect();
        self.store.begin_attempts(due.clone(), self.time()).await.unwrap();
        for (id, _) in due {
            let copy = self.model.copies.get_mut(&id).unwrap();
            (copy.state, copy.attempts) = (CopyState::Sending, copy.attempts + 1);
        }
    }

    /// A settlement of one copy, mostly of one that is being sent, and sometimes of two in one call.
    async fn settle(&mut self, a: u16, b: u16) {
        let mut settlements = Vec::new();
        for n in 0..=(a >> 8) % 2 {
            let states: &[CopyState] = if b % 4 == 0 { &[CopyState::Queued] } else { &[CopyState::Sending] };
            let Some(copy) = pick(&self.model.with_state(states), a.wrapping_add(n)) else { break };
            settlements.push(self.settlement(copy, a, b.rotate_left(u32::from(n))));
        }
        // What is decided without an attempt about a copy that was held meanwhile is void.
        if let Some(held) = pick(&self.model.with_state(&[CopyState::Held]), b) {
            let outcome = |recipient| RecipientOutcome { recipient, outcome: deferred(), report: Some(ReportAction::Delayed) };
            let recipients = self.model.waiting(held).into_iter().map(outcome).collect();
            let next = NextStep::Retry(self.time());
            let at = self.time();
            settlements.push(Settlement {
                copy: held,
                attempt: None,
                put_off_at: None,
                recipients,
                next,
                warned: true,
                hold_in_doubt: false,
                at,
            });
        }
        let finished = self.store.settle(settlements.into(), Haste::Now).await.unwrap();
        let expected = self.model.finish(self.time());
        let sorted = |mut finished: Vec<Finished>| {
            finished.sort_by_key(|finished| finished.id);
            finished
        };
        assert_eq!(sorted(finished), expected);
    }

    /// Makes up what happened, and has it happen in the model.
    fn settlement(&mut self, id: CopyId, a: u16, b: u16) -> Settlement {
        let now = self.time();
        let discard = b % 11 == 0;
        let outcome = |n: usize| match (b >> (n * 3)) % 8 {
            0..=2 => (delivered(), (b % 5 == 0).then_some(ReportAction::Relayed)),
            3 | 4 => (failed(), (b % 3 != 0).then_some(ReportAction::Failed)),
            5 => (in_doubt(), None),
            _ => (deferred(), (b % 2 == 0).then_some(ReportAction::Delayed)),
        };
        let mut recipients = Vec::new();
        for (n, recipient) in self.model.waiting(id).into_iter().enumerate() {
            let model = self.model.recipients.get_mut(&recipient).unwrap();
            // Once in doubt, a recipient may get it twice, whatever comes after.
            let was_in_doubt = model.last.is_some_and(|(_, in_doubt, _)| in_doubt);
            if discard {
                (model.last, model.report) = (Some((Kind::Failed, was_in_doubt, now)), None);
                continue;
            }
            let (outcome, report) = outcome(n);
            model.last = Some((outcome.kind, outcome.in_doubt || was_in_doubt, now));
            model.report = report.or(model.report.filter(|_| outcome.kind == Kind::Deferred));
            recipients.push(RecipientOutcome { recipient, outcome, report });
        }
        let left = !self.model.waiting(id).is_empty();
        let next = match a % 5 {
            _ if !left => NextStep::Finish,
            0 => NextStep::Hold { reason: "to be looked at".to_owned() },
            _ => NextStep::Retry(at(self.now + i64::from(a % 500))),
        };
        let copy = self.model.copies.get_mut(&id).unwrap();
        let was_sending = copy.state == CopyState::Sending;
        copy.state = match &next {
            NextStep::Finish => CopyState::Finished,
            NextStep::Retry(due_at) => {
                copy.due_at = *due_at;
                CopyState::Queued
            }
            NextStep::Hold { .. } => CopyState::Held,
        };
        copy.warned |= b % 7 == 0;
        copy.in_doubt |= recipients.iter().any(|recipient| recipient.outcome.in_doubt);
        if left {
            copy.first_failed_at = copy.first_failed_at.or(Some(now));
        }
        // Nothing was tried after all: it does not count.
        if was_sending && b % 3 == 1 {
            copy.attempts -= 1;
        }
        let attempt = (copy.attempts > 0).then(|| attempt(copy.attempts, now));
        Settlement { copy: id, attempt, put_off_at: None, recipients, next, warned: b % 7 == 0, hold_in_doubt: false, at: now }
    }

    async fn report(&mut self, a: u16, b: u16) {
        let limit = usize::from(a % 3) + 1;
        let due = self.store.reports_due(None, limit).await.unwrap();
        let told = |r: &ModelRecipient| r.report.is_some();
        let mut expected: Vec<MessageId> =
            self.model.recipients.values().filter(|r| told(r)).map(|r| self.model.copies[&r.copy].message).collect();
        expected.sort();
        expected.dedup();
        expected.truncate(limit);
        assert_eq!(due.iter().map(|due| due.message.id).collect::<Vec<_>>(), expected);
        for due in due {
            let entries: Vec<_> = due.entries.iter().map(|e| (e.id, e.action, e.outcome.kind, e.outcome.in_doubt, e.at)).collect();
            let expected = self.model.recipients.iter().filter(|(_, r)| self.model.copies[&r.copy].message == due.message.id);
            let expected = expected.filter_map(|(&id, r)| r.report.zip(r.last).map(|(action, last)| (id, action, last.0, last.1, last.2)));
            assert_eq!(entries, expected.collect::<Vec<_>>());
            // One entry may be left for the next report.
            let covered: Vec<_> = due.entries.iter().skip(usize::from(b % 4 == 0)).map(|e| (e.id, e.action)).collect();
            covered.iter().for_each(|(id, _)| self.model.recipients.get_mut(id).unwrap().report = None);
            let finished = self.store.reported(covered, None).await.unwrap().finished;
            // Without a report, a message ends with its last outcome.
            let last = self.model.of_message(due.message.id).iter().filter_map(|r| r.last.map(|(.., at)| at)).max().unwrap();
            assert_eq!(finished, self.model.finish(last));
        }
    }

    async fn split(&mut self, a: u16, b: u16) {
        let open = self.model.with_state(&[CopyState::Queued, CopyState::Sending]);
        let Some(id) = pick(&open, a) else { return };
        let waiting = self.model.waiting(id);
        let moved: Vec<RecipientId> = waiting.iter().enumerate().filter(|(n, _)| b >> n & 1 == 1).map(|(_, &id)| id).collect();
        let result = self.store.split(id, moved.clone()).await;
        if moved.is_empty() || moved.len() == waiting.len() {
            result.unwrap_err();
            return;
        }
        let new = result.unwrap();
        let old = &self.model.copies[&id];
        let begun = u32::from(old.state == CopyState::Sending);
        assert_eq!((new.attempts, new.first_failed_at, new.warned), (old.attempts - begun, old.first_failed_at, old.warned));
        let in_doubt = old.in_doubt;
        self.insert_copy(&new);
        self.model.copies.get_mut(&new.id).unwrap().in_doubt = in_doubt;
        moved.iter().for_each(|recipient| self.model.recipients.get_mut(recipient).unwrap().copy = new.id);
    }

    /// The process dies: what is on the disk at this instant goes on in another folder.
    async fn crash(&mut self) {
        let folder = Folder::new("model-crash");
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
        }
        let store = SqliteStore::open(&folder.database()).unwrap();
        let interrupted = store.interrupted().await.unwrap();
        let sending = self.model.with_state(&[CopyState::Sending]);
        let mut expected: Vec<_> = sending.iter().map(|id| (self.model.copies[id].message, *id)).collect();
        expected.sort();
        assert_eq!(interrupted.iter().map(|it| (it.copy.message.id, it.copy.id)).collect::<Vec<_>>(), expected);
        let due_at = self.time();
        let cut_off = interrupted.iter().map(|it| settlement(&it.copy, &in_doubt(), NextStep::Retry(due_at), due_at));
        store.settle(cut_off.collect(), Haste::Now).await.unwrap();
        for id in sending {
            for recipient in self.model.waiting(id) {
                self.model.recipients.get_mut(&recipient).unwrap().last = Some((Kind::Deferred, true, at(self.now)));
            }
            let copy = self.model.copies.get_mut(&id).unwrap();
            (copy.state, copy.due_at, copy.in_doubt) = (CopyState::Queued, due_at, true);
            copy.first_failed_at = copy.first_failed_at.or(Some(due_at));
        }
        self.store.close().await;
        (self.store, self.folder) = (store, folder);
    }

    async fn wake(&mut self, a: u16) {
        let now = self.time();
        let ids: Vec<MessageId> = self.model.messages.keys().copied().collect();
        let (expired, id) = (a % 2 == 0, pick(&ids, a));
        let expected: Vec<CopyId> = self
            .model
            .copies
            .iter()
            .filter(|(_, copy)| {
                let chosen = if expired { self.model.messages[&copy.message].expires_at < now } else { Some(copy.message) == id };
                chosen && copy.state == CopyState::Queued && copy.due_at > now
            })
            .map(|(&id, _)| id)
            .collect();
        let woken = if expired { self.store.wake_expired(now).await } else { self.store.wake(id.into_iter().collect(), now).await };
        assert_eq!(woken.unwrap(), expected.len() as u64);
        expected.iter().for_each(|id| self.model.copies.get_mut(id).unwrap().due_at = now);
    }

    async fn purge(&mut self, b: u16) {
        let before = at(self.now - i64::from(b % 500));
        let old = |m: &ModelMessage| m.finished_at.is_some_and(|at| at < before);
        let count = self.model.messages.values().filter(|m| old(m)).count();
        assert_eq!(self.store.purge(before).await.unwrap(), count as u64);
        let Model { messages, copies, recipients } = &mut self.model;
        messages.retain(|_, m| !old(m));
        copies.retain(|_, copy| messages.contains_key(&copy.message));
        recipients.retain(|_, recipient| copies.contains_key(&recipient.copy));
    }

    /// Everything that can be asked is as the model has it.
    async fn compare(&self) {
        let now = self.time();
        let mut due = Vec::new();
        for class in [Priority::Urgent, Priority::Normal, Priority::Bulk] {
            let mut next = Some(Cursor::start_of(class));
            while let Some(cursor) = next {
                let page = self.store.due(cursor, now, 4, Vec::new()).await.unwrap();
                due.extend(page.copies);
                next = page.next;
            }
        }
        let due: Vec<Due> = due
            .into_iter()
            .map(|copy| {
                let recipients = copy.recipients.into_iter().map(|r| (r.id, r.last.map(|last| (last.kind, last.in_doubt)))).collect();
                (copy.id, copy.message.id, recipients, copy.due_at, copy.attempts, copy.first_failed_at, copy.warned)
            })
            .collect();
        assert_eq!(due, self.model.due(now));
        let waiting = self.model.copies.values().filter(|copy| copy.state == CopyState::Queued && copy.due_at > now);
        assert_eq!(self.store.next_due(now).await.unwrap(), waiting.map(|copy| copy.due_at).min());
        let unfinished = self.model.messages.iter().filter(|(_, m)| m.finished_at.is_none()).map(|(&id, _)| id).collect::<Vec<_>>();
        assert_eq!(self.store.unfinished(None, 1000).await.unwrap(), unfinished);
        let ids: Vec<MessageId> = self.model.messages.keys().copied().collect();
        let known = self.model.messages.iter().map(|(&id, m)| Some(Known { id, finished_at: m.finished_at }));
        assert_eq!(self.store.known_ids(ids).await.unwrap(), known.collect::<Vec<_>>());
        let inspect = SqliteInspect::open(&self.folder.database()).unwrap();
        assert_eq!(inspect.counts(now).unwrap(), self.model.counts(now));
        assert_eq!(self.store.counts(now).await.unwrap(), self.model.counts(now));
    }

    /// The file in itself.
    async fn check_file(&self) {
        self.store.close().await;
        let db = rusqlite::Connection::open(self.folder.database()).unwrap();
        let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, String>(0));
        assert_eq!(one("PRAGMA integrity_check").unwrap(), "ok");
        assert_eq!(one("PRAGMA foreign_key_check"), Err(rusqlite::Error::QueryReturnedNoRows));
        let wrong = [
            "SELECT 'open_recipients of copy ' || id FROM copies c WHERE open_recipients
                 IS NOT (SELECT count(*) FROM recipients r WHERE r.copy = c.id AND r.state = 0)",
            "SELECT 'open_copies of message ' || seq FROM messages m WHERE open_copies
                 IS NOT (SELECT count(*) FROM copies c WHERE c.message = m.seq AND c.state < 3)",
            "SELECT 'reports_due of message ' || seq FROM messages m WHERE reports_due
                 IS NOT (SELECT count(*) FROM copies c JOIN recipients r ON r.copy = c.id WHERE c.message = m.seq AND r.report > 0)",
            "SELECT 'state of copy ' || id FROM copies WHERE (state = 3) IS NOT (open_recipients = 0) OR state NOT IN (0, 2, 3)",
            "SELECT 'attempt of copy ' || copy FROM sending WHERE (SELECT state FROM copies WHERE id = copy) IS NOT 0",
            "SELECT 'run of copy ' || copy FROM recipients r WHERE NOT EXISTS (SELECT 1 FROM copies c WHERE c.id = r.copy
                 AND r.id BETWEEN c.first_recipient AND c.last_recipient AND c.id / 1048576 = c.message)",
            "SELECT 'end of message ' || seq FROM messages WHERE (finished_at IS NULL) IS NOT (open_copies + reports_due > 0)",
        ];
        for sql in wrong {
            assert_eq!(one(sql), Err(rusqlite::Error::QueryReturnedNoRows));
        }
    }
}

proptest! {
    // Each step is a commit with its fsync and each comparison a handful of reads: some seconds together.
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(any::<Step>(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
                world.compare().await;
            }
            world.check_file().await;
        });
    }
}

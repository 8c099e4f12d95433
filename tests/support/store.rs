//! A queue in memory: what intake and start-up ask of a store, and nothing more.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use smtp_direct::clock::Timestamp;
use smtp_direct::message::{Domain, MessageId, Priority};
use smtp_direct::queue::{
    Acts, BoxFuture, Commits, CopyId, Counts, Cursor, DuePage, Finished, Haste, Interrupted, Known, Message, MessageDetail, NewMessage,
    Order, PausedSite, QueuedCopy, QueuedRecipient, RecipientId, ReportAction, ReportDue, Reported, Selected, Selection, Settlement,
    SiteBacklog, Source, Store, StoreError,
};
use tokio::sync::Semaphore;

/// The store. Failures and a gate can be put before `accept`.
pub struct MemoryStore {
    state: Mutex<State>,
    /// Each `accept` takes a permit.
    pub gate: Semaphore,
    /// Each `accept` that reached the gate gives one.
    pub arrived: Semaphore,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<MessageId, (NewMessage, bool)>,
    failures: Vec<StoreError>,
    known_failures: Vec<StoreError>,
    woken: Vec<MessageId>,
    batches: Vec<usize>,
    next: i64,
}

impl MemoryStore {
    pub fn new() -> Arc<Self> {
        Self::gated(Semaphore::MAX_PERMITS)
    }

    /// Lets this many calls of `accept` through; more by `gate.add_permits`.
    pub fn gated(permits: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), gate: Semaphore::new(permits), arrived: Semaphore::new(0) })
    }

    /// The next call of `accept` fails so.
    pub fn fail_next(&self, error: StoreError) {
        self.state.lock().unwrap().failures.push(error);
    }

    /// The next call of `known_sources` fails so.
    pub fn fail_known(&self, error: StoreError) {
        self.state.lock().unwrap().known_failures.push(error);
    }

    /// A row as an earlier run left it.
    pub fn remember(&self, message: NewMessage, finished: bool) {
        self.state.lock().unwrap().messages.insert(message.id, (message, finished));
    }

    pub fn messages(&self) -> Vec<NewMessage> {
        self.state.lock().unwrap().messages.values().map(|(message, _)| message.clone()).collect()
    }

    /// Messages whose copies were made due.
    pub fn woken(&self) -> Vec<MessageId> {
        self.state.lock().unwrap().woken.clone()
    }

    /// Sizes of the commits.
    pub fn batches(&self) -> Vec<usize> {
        self.state.lock().unwrap().batches.clone()
    }
}

impl State {
    fn accept(&mut self, messages: Vec<NewMessage>) -> Vec<QueuedCopy> {
        self.batches.push(messages.len());
        let copies = messages.iter().flat_map(|message| self.copies(message)).collect();
        self.messages.extend(messages.into_iter().map(|message| (message.id, (message, false))));
        copies
    }

    fn copies(&mut self, new: &NewMessage) -> Vec<QueuedCopy> {
        let message = Arc::new(Message {
            id: new.id,
            source: new.source.name.clone(),
            sender: new.envelope.sender.clone(),
            content: new.content.clone(),
            accepted_at: new.accepted_at,
            expires_at: new.expires_at,
            priority: new.envelope.priority,
            ret: new.envelope.ret,
            envid: new.envelope.envid.clone(),
            tag: new.envelope.tag.clone(),
        });
        let mut copies: Vec<QueuedCopy> = Vec::new();
        for recipient in &new.envelope.recipients {
            self.next += 1;
            let queued =
                QueuedRecipient { id: RecipientId(self.next), address: recipient.address.clone(), notify: recipient.notify, last: None };
            match copies.iter_mut().find(|copy| copy.domain == *recipient.address.domain()) {
                Some(copy) => copy.recipients.push(queued),
                None => copies.push(QueuedCopy {
                    id: CopyId(self.next),
                    message: Arc::clone(&message),
                    domain: recipient.address.domain().clone(),
                    recipients: vec![queued],
                    due_at: new.envelope.not_before.unwrap_or(new.accepted_at),
                    attempts: 0,
                    first_failed_at: None,
                    warned: false,
                    released: false,
                }),
            }
        }
        copies
    }

    fn known(&self, id: MessageId) -> Option<Known> {
        self.messages.get(&id).map(|(message, finished)| Known { id, finished_at: finished_at(message, *finished) })
    }
}

impl Store for MemoryStore {
    fn counts(&self, _: Timestamp) -> BoxFuture<'_, Result<Counts, StoreError>> {
        unreachable!("the metrics'")
    }

    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteBacklog>, StoreError>> {
        unreachable!("the metrics'")
    }

    fn commits(&self) -> Commits {
        Commits::default()
    }

    fn accept(&self, messages: Vec<NewMessage>) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>> {
        Box::pin(async move {
            self.arrived.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
            let mut state = self.state.lock().unwrap();
            match state.failures.pop() {
                Some(error) => Err(error),
                None => Ok(state.accept(messages)),
            }
        })
    }

    fn known_sources(&self, sources: Vec<Source>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>> {
        let mut state = self.state.lock().unwrap();
        if let Some(error) = state.known_failures.pop() {
            return Box::pin(async move { Err(error) });
        }
        let find = |source: &Source| state.messages.values().find(|(message, _)| message.source == *source);
        let known = sources
            .iter()
            .map(|source| find(source).map(|(message, finished)| Known { id: message.id, finished_at: finished_at(message, *finished) }));
        let known = known.collect();
        Box::pin(async move { Ok(known) })
    }

    fn known_ids(&self, ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<Option<Known>>, StoreError>> {
        let state = self.state.lock().unwrap();
        let known = ids.into_iter().map(|id| state.known(id)).collect();
        Box::pin(async move { Ok(known) })
    }

    fn details(&self, _ids: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<MessageDetail>, StoreError>> {
        unreachable!("delivery's")
    }

    fn unfinished(&self, after: Option<MessageId>, limit: usize) -> BoxFuture<'_, Result<Vec<MessageId>, StoreError>> {
        let state = self.state.lock().unwrap();
        let ids = state.messages.iter().filter(|(id, (_, finished))| !finished && after.is_none_or(|after| **id > after));
        let ids = ids.map(|(id, _)| *id).take(limit).collect();
        Box::pin(async move { Ok(ids) })
    }

    fn wake(&self, ids: Vec<MessageId>, _now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        let count = ids.len() as u64;
        self.state.lock().unwrap().woken.extend(ids);
        Box::pin(async move { Ok(count) })
    }

    fn due(&self, _after: Cursor, _now: Timestamp, _limit: usize, _skip: Vec<Domain>) -> BoxFuture<'_, Result<DuePage, StoreError>> {
        unreachable!("the scheduler's")
    }

    fn due_in_domain(
        &self,
        _of: (Priority, Domain),
        _now: Timestamp,
        _limit: usize,
        _known: Vec<CopyId>,
    ) -> BoxFuture<'_, Result<Vec<QueuedCopy>, StoreError>> {
        unreachable!("the scheduler's")
    }

    fn next_due(&self, _now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>> {
        unreachable!("the scheduler's")
    }

    fn begin_attempts(&self, _copies: Vec<(CopyId, usize)>, _at: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        unreachable!("delivery's")
    }

    fn settle(&self, _settlements: Arc<[Settlement]>, _haste: Haste) -> BoxFuture<'_, Result<Vec<Finished>, StoreError>> {
        unreachable!("delivery's")
    }

    fn hurry(&self) {
        unreachable!("delivery's")
    }

    fn reports_due(&self, _only: Option<Vec<MessageId>>, _limit: usize) -> BoxFuture<'_, Result<Vec<ReportDue>, StoreError>> {
        unreachable!("delivery's")
    }

    fn reported(
        &self,
        _covered: Vec<(RecipientId, ReportAction)>,
        _report: Option<NewMessage>,
    ) -> BoxFuture<'_, Result<Reported, StoreError>> {
        unreachable!("delivery's")
    }

    fn split(&self, _copy: CopyId, _recipients: Vec<RecipientId>) -> BoxFuture<'_, Result<QueuedCopy, StoreError>> {
        unreachable!("delivery's")
    }

    fn interrupted(&self) -> BoxFuture<'_, Result<Vec<Interrupted>, StoreError>> {
        unreachable!("the daemon's")
    }

    fn withdraw(&self, _copies: Vec<CopyId>) -> BoxFuture<'_, Result<(), StoreError>> {
        unreachable!("the daemon's")
    }

    fn wake_expired(&self, _now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        unreachable!("the scheduler's")
    }

    fn select(&self, _selection: Selection, _after: CopyId, _limit: usize) -> BoxFuture<'_, Result<Vec<Selected>, StoreError>> {
        unreachable!("the administrator's")
    }

    fn unplaced_domains(&self, _limit: usize) -> BoxFuture<'_, Result<Vec<Domain>, StoreError>> {
        unreachable!("the administrator's")
    }

    fn act(&self, _copies: Vec<CopyId>, _recipient: Option<String>, _order: Order) -> BoxFuture<'_, Result<Acts, StoreError>> {
        unreachable!("the administrator's")
    }

    fn paused_sites(&self) -> BoxFuture<'_, Result<Vec<PausedSite>, StoreError>> {
        unreachable!("the administrator's")
    }

    fn pause_site(&self, _site: PausedSite) -> BoxFuture<'_, Result<(), StoreError>> {
        unreachable!("the administrator's")
    }

    fn resume_site(&self, _site: String) -> BoxFuture<'_, Result<bool, StoreError>> {
        unreachable!("the administrator's")
    }

    fn purge(&self, _before: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        unreachable!("the daemon's")
    }
}

/// What was finished was so as soon as it was accepted.
fn finished_at(message: &NewMessage, finished: bool) -> Option<Timestamp> {
    finished.then_some(message.accepted_at)
}

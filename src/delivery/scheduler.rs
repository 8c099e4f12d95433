//! The scheduler: reads due copies into the window, has them routed, puts them on the board and starts workers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::board::{Pushed, Ready};
use super::conclude::conclude;
use super::settle::{self, Ended};
use super::window::{Admission, Read};
use super::{Context, worker};
use crate::message::{Address, Domain, Priority};
use crate::outcome::{Fault, Outcome};
use crate::queue::{AttemptRecord, Cursor, Delays, Haste, QueuedCopy, RecipientId, StoreError};
use crate::route::{Decision, Part, Query};

/// Copies whose route is being looked up at the same time.
const MAX_LOOKUPS: usize = 256;
/// Settlements that do without a worker, written at the same time.
const MAX_CHORES: usize = 256;
/// Housekeeping: expiry of waiting copies, sites to forget, history to forget.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How many rounds of housekeeping between full readings of the queue and purges of the history.
const REWIND_EVERY: u64 = 10;
/// After the store failed: how long before it is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// The longest sleep: a wall clock that is set forward is noticed after this.
const MAX_SLEEP: Duration = Duration::from_secs(30);

type Chore = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A copy with what routing said of its recipients.
struct Routed {
    copy: QueuedCopy,
    parts: Vec<Part>,
    took: Duration,
}

/// What a read of the queue brought.
enum Page {
    Class { from: Cursor, result: Result<crate::queue::DuePage, StoreError> },
    Domain { class: Priority, domain: Domain, limit: usize, result: Result<Vec<QueuedCopy>, StoreError> },
    NextDue(Result<Option<crate::clock::Timestamp>, StoreError>),
}

/// Runs until `shutdown`; then lets what is under way end for at most `sending.shutdown_grace`.
pub async fn run(mut context: watch::Receiver<Arc<Context>>, heartbeat: Arc<AtomicU64>, shutdown: impl Future<Output = ()>) {
    let current = context.borrow_and_update().clone();
    let mut scheduler = Scheduler {
        context: current,
        routing: FuturesUnordered::new(),
        chores: FuturesUnordered::new(),
        reads: FuturesUnordered::new(),
        workers: JoinSet::new(),
        rounds: 0,
    };
    scheduler.ask_next_due();
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        heartbeat.fetch_add(1, Ordering::Relaxed);
        scheduler.advance();
        let shared = scheduler.context.shared.clone();
        let until_next_due = scheduler.until_next_due();
        tokio::select! {
            () = &mut shutdown => break,
            () = shared.wake.notified() => {}
            Some(routed) = scheduler.routing.next(), if !scheduler.routing.is_empty() => scheduler.place(routed),
            Some(()) = scheduler.chores.next(), if !scheduler.chores.is_empty() => {}
            Some(page) = scheduler.reads.next(), if !scheduler.reads.is_empty() => scheduler.take_in(page),
            Some(ended) = scheduler.workers.join_next(), if !scheduler.workers.is_empty() => log_panic(ended),
            () = tokio::time::sleep(until_next_due) => scheduler.look_again(),
            _ = housekeeping.tick() => scheduler.keep_house(),
            Ok(()) = context.changed() => {
                scheduler.context = context.borrow_and_update().clone();
                let config = scheduler.context.config.clone();
                scheduler.context.shared.reconfigure(&config);
            }
        }
    }
    scheduler.drain().await;
}

struct Scheduler {
    context: Arc<Context>,
    routing: FuturesUnordered<Pin<Box<dyn Future<Output = Routed> + Send>>>,
    chores: FuturesUnordered<Chore>,
    reads: FuturesUnordered<Pin<Box<dyn Future<Output = Page> + Send>>>,
    workers: JoinSet<()>,
    rounds: u64,
}

impl Scheduler {
    /// Does everything that can be done without waiting.
    fn advance(&mut self) {
        self.route_what_waits();
        self.start_workers();
        self.read_more();
    }

    fn route_what_waits(&mut self) {
        while self.routing.len() < MAX_LOOKUPS && self.chores.len() < MAX_CHORES {
            let Some(copy) = self.context.shared.lock().unrouted.pop_front() else { break };
            let now = self.context.clock.now();
            if now >= copy.message.expires_at {
                let outcomes = settle::expired(&copy);
                self.settle_untried(copy, Ended::Outcomes { outcomes, attempt: None, at_least: Duration::ZERO });
                continue;
            }
            let hops = copy.message.content.hops;
            if hops > self.context.config.spool.max_hops {
                self.settle_untried(copy, Ended::untried(&Fault::TooManyHops { hops }));
                continue;
            }
            let mut lookup = Box::pin(look_up(self.context.clone(), copy));
            // What is cached is known without a turn through the event loop.
            match (&mut lookup).now_or_never() {
                Some(routed) => self.place(routed),
                None => self.routing.push(lookup),
            }
        }
    }

    /// Puts a routed copy where its route says.
    fn place(&mut self, routed: Routed) {
        let Routed { copy, mut parts, took } = routed;
        if parts.len() > 1 {
            self.split(copy, &parts);
            return;
        }
        let Some(Part { decision, .. }) = parts.pop() else { return };
        match decision {
            Ok(Decision::Send(route)) => {
                let now = self.context.clock.now();
                let ready = Ready { copy: Arc::new(copy), route, routing: took, begun_at: None };
                let pushed = {
                    let mut state = self.context.shared.lock();
                    let share = state.window.share(ready.copy.message.priority);
                    state.board.push(ready, now, share)
                };
                match pushed {
                    Pushed::Waiting => {}
                    Pushed::SiteFull(ready) => self.context.shared.lock().park(ready),
                    Pushed::SiteDown { ready, until, detail } => {
                        let ended = Ended::site_down(&ready.route.site, until, &detail, now);
                        self.settle_shared(ready.copy, ended);
                    }
                }
            }
            Ok(Decision::Hold(rule)) => self.settle_untried(copy, Ended::Held { reason: rule.reason }),
            Ok(Decision::Discard(_)) => self.settle_untried(copy, Ended::Discarded),
            Ok(Decision::Reject(rule)) => self.settle_untried(copy, Ended::untried(&Fault::Rejected { reason: rule.reason })),
            Err(fault) => {
                let record = self.unrouted_attempt(&copy, took, &fault);
                let outcomes = copy.recipients.iter().map(|_| Outcome::of(&fault, None)).collect();
                self.settle_untried(copy, Ended::Outcomes { outcomes, attempt: Some(record), at_least: Duration::ZERO });
            }
        }
    }

    /// Looking for a route counts as an attempt: the waits grow also for a domain whose DNS is broken.
    fn unrouted_attempt(&self, copy: &QueuedCopy, took: Duration, fault: &Fault) -> AttemptRecord {
        let ended_at = self.context.clock.now();
        AttemptRecord {
            number: copy.attempts + 1,
            began_at: ended_at,
            ended_at,
            site: String::new(),
            route: String::new(),
            delays: Delays { queue: worker::since(copy.due_at, ended_at), dns: took, ..Delays::default() },
            trail: vec![fault.to_string()],
        }
    }

    /// Recipients that go other ways than the first part become copies of their own; all of them are routed anew, each one way.
    fn split(&mut self, mut copy: QueuedCopy, parts: &[Part]) {
        let ids = |part: &Part| -> Vec<RecipientId> { part.recipients.iter().map(|&index| copy.recipients[index].id).collect() };
        let mut groups = parts.iter().map(ids);
        let stay = groups.next().unwrap_or_default();
        let groups: Vec<Vec<RecipientId>> = groups.collect();
        let context = self.context.clone();
        self.chores.push(Box::pin(async move {
            for group in groups {
                match context.store.split(copy.id, group).await {
                    Ok(other) => context.shared.offer(vec![other], context.clock.now()),
                    Err(error) => {
                        if !error.is_told() {
                            tracing::error!(%error, id = %copy.message.id, "a copy cannot be split between overrides, trying again");
                        }
                        tokio::time::sleep(STORE_RETRY).await;
                        context.shared.give_back(&copy);
                        return;
                    }
                }
            }
            copy.recipients.retain(|recipient| stay.contains(&recipient.id));
            context.shared.route_again(copy);
        }));
    }

    fn settle_untried(&mut self, copy: QueuedCopy, ended: Ended) {
        self.settle_shared(Arc::new(copy), ended);
    }

    fn settle_shared(&mut self, copy: Arc<QueuedCopy>, ended: Ended) {
        let context = self.context.clone();
        self.chores.push(Box::pin(async move {
            conclude(&context, vec![(copy, ended)], Haste::Now).await;
        }));
    }

    fn start_workers(&mut self) {
        let now = Instant::now();
        self.context.shared.lock().board.unthrottle(now);
        loop {
            let taken = {
                let board = &mut self.context.shared.lock().board;
                let taken = board.take(now);
                if taken.is_none() {
                    board.dismiss_a_sleeper();
                }
                taken
            };
            let Some(ready) = taken else { break };
            self.workers.spawn(worker::serve(self.context.clone(), ready));
        }
    }

    fn read_more(&mut self) {
        if !self.reads.is_empty() {
            return;
        }
        let context = self.context.clone();
        let now = context.clock.now();
        let mut state = context.shared.lock();
        state.unpark();
        match state.window.wants(Instant::now()) {
            None => {}
            Some(Read::Page(from)) => {
                let (limit, skip) = (state.window.page(from.priority), state.known_to_wait(from.priority));
                drop(state);
                self.reads.push(Box::pin(async move { Page::Class { from, result: context.store.due(from, now, limit, skip).await } }));
            }
            Some(Read::Domain(class, domain)) => {
                let (limit, known) = state.window.page_of(class, &domain);
                drop(state);
                self.reads.push(Box::pin(async move {
                    let result = context.store.due_in_domain((class, domain.clone()), now, limit, known).await;
                    Page::Domain { class, domain, limit, result }
                }));
            }
        }
    }

    fn take_in(&mut self, page: Page) {
        match page {
            Page::Class { from, result: Ok(page) } => self.admit_page(from, page),
            Page::Domain { class, domain, limit, result: Ok(copies) } => self.admit_domain((class, &domain), limit, copies),
            Page::NextDue(Ok(due)) => {
                if let Some(due) = due {
                    self.context.shared.lock().expect(due);
                }
            }
            Page::Class { result: Err(error), .. } | Page::Domain { result: Err(error), .. } | Page::NextDue(Err(error)) => {
                if !error.is_told() {
                    tracing::error!(%error, "the queue cannot be read, trying again");
                }
                // The pause stands where the next read would: nothing else waits for it.
                self.reads.push(Box::pin(async {
                    tokio::time::sleep(STORE_RETRY).await;
                    Page::NextDue(Ok(None))
                }));
            }
        }
    }

    fn admit_page(&mut self, from: Cursor, page: crate::queue::DuePage) {
        let context = self.context.clone();
        let mut state = context.shared.lock();
        let mut reached = from;
        for copy in page.copies {
            let place = Cursor::at(&copy);
            if !context.placing.contains(copy.message.id) {
                match state.window.admit(&copy) {
                    Admission::Admitted => state.unrouted.push_back(copy),
                    Admission::Known | Admission::DomainFull => {}
                    Admission::Full => {
                        state.window.page_was_read(from, Some(reached), Instant::now());
                        return;
                    }
                }
            }
            reached = place;
        }
        state.window.page_was_read(from, page.next, Instant::now());
    }

    fn admit_domain(&mut self, (class, domain): (Priority, &Domain), limit: usize, copies: Vec<QueuedCopy>) {
        let context = self.context.clone();
        let mut state = context.shared.lock();
        let brought: usize = copies.iter().map(|copy| copy.recipients.len()).sum();
        let mut complete = brought < limit;
        for copy in copies {
            if context.placing.contains(copy.message.id) {
                continue;
            }
            match state.window.admit(&copy) {
                Admission::Admitted => state.unrouted.push_back(copy),
                Admission::Known => {}
                Admission::DomainFull | Admission::Full => complete = false,
            }
        }
        state.window.domain_was_read(class, domain, complete, Instant::now());
    }

    fn until_next_due(&self) -> Duration {
        let (due, unthrottled, reading) = {
            let state = self.context.shared.lock();
            (state.next_due, state.board.next_unthrottled(), state.window.wants_at())
        };
        let until_due = due.map_or(MAX_SLEEP, |due| worker::since(self.context.clock.now(), due));
        // Of a read that is under way, its end is what is waited for.
        let wakes = unthrottled.into_iter().chain(reading.filter(|_| self.reads.is_empty())).min();
        let until_awake = wakes.map_or(MAX_SLEEP, |at| at.saturating_duration_since(Instant::now()));
        until_due.min(until_awake).min(MAX_SLEEP)
    }

    /// The time for which something was expected may have come.
    fn look_again(&mut self) {
        let now = self.context.clock.now();
        {
            let mut state = self.context.shared.lock();
            if state.next_due.is_none_or(|due| due > now) {
                return;
            }
            state.next_due = None;
            state.window.look_again();
        }
        self.ask_next_due();
    }

    fn ask_next_due(&mut self) {
        let context = self.context.clone();
        let now = context.clock.now();
        self.reads.push(Box::pin(async move { Page::NextDue(context.store.next_due(now).await) }));
    }

    fn keep_house(&mut self) {
        self.rounds += 1;
        let now = self.context.clock.now();
        let full = self.rounds.is_multiple_of(REWIND_EVERY);
        {
            let mut state = self.context.shared.lock();
            state.board.tidy(now, Instant::now());
            if full {
                state.window.rewind();
            }
        }
        let context = self.context.clone();
        self.chores.push(Box::pin(async move {
            match context.store.wake_expired(now).await {
                Ok(0) => {}
                Ok(_) => context.shared.lock().expect(now),
                Err(error) if error.is_told() => {}
                Err(error) => tracing::error!(%error, "expired copies cannot be looked for"),
            }
            if full {
                let history = jiff::SignedDuration::try_from(context.config.spool.history).unwrap_or(jiff::SignedDuration::MAX);
                let before = now.checked_sub(history).unwrap_or(crate::clock::Timestamp::MIN);
                if let Err(error) = context.store.purge(before).await
                    && !error.is_told()
                {
                    tracing::error!(%error, "old history cannot be removed");
                }
            }
        }));
    }

    /// Lets workers end with their current copy, and everything known be recorded, for at most the grace time.
    async fn drain(mut self) {
        let grace = self.context.config.sending.shutdown_grace;
        self.context.shared.drain();
        self.context.shared.lock().board.clear();
        let all = async {
            loop {
                tokio::select! {
                    Some(()) = self.chores.next(), if !self.chores.is_empty() => {}
                    Some(ended) = self.workers.join_next(), if !self.workers.is_empty() => log_panic(ended),
                    else => break,
                }
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(sessions = self.workers.len(), grace = ?grace, "sessions were cut off at the end of the grace time: their copies are in doubt");
        }
        self.workers.shutdown().await;
    }
}

async fn look_up(context: Arc<Context>, copy: QueuedCopy) -> Routed {
    let began = Instant::now();
    let now = context.clock.now();
    let message = copy.message.clone();
    let addresses: Vec<&Address> = copy.recipients.iter().map(|recipient| &recipient.address).collect();
    let query = Query {
        domain: &copy.domain,
        recipients: &addresses,
        sender: &message.sender,
        size: message.content.wire_size,
        attempts: copy.attempts,
        failing_for: copy.first_failed_at.map(|first| worker::since(first, now)),
        priority: message.priority,
        tag: message.tag.as_deref(),
        released: copy.released,
    };
    let parts = context.router.route(&query).await;
    Routed { copy, parts, took: began.elapsed() }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a worker ended abnormally: its copy is in doubt until the next start");
    }
}

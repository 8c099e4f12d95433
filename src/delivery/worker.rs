//! A worker: one session at a time, for copies of one site, until nobody there waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Context;
use super::board::{Ready, Share};
use super::conclude::{STORE_RETRY, conclude};
use super::job::Job;
use super::lane::{InHand, Lane, LaneFeed, Line, Remote, split_begun};
use super::settle::Ended;
use super::shared::Shared;
use crate::queue::{Notes, StoreError};
use crate::route::{Endpoint, Site};
use crate::smtp::{ConnectError, Session};

/// Where this host is short of what a session takes, a worker rests so long.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Sends `first`, then what else waits for its site while the session can be kept. The board's place is given back at the end,
/// also when this future is dropped or panics.
pub(super) async fn serve(context: Arc<Context>, first: Ready) {
    let site = first.route.site.clone();
    let lane = Arc::new(Lane::new());
    let lease = Lease { shared: context.shared.clone(), site: site.clone(), lane: lane.clone(), connected: false };
    context.shared.lanes().add(&site, &lane);
    let lane = &*lane;
    let mut worker = Worker { context: &context, site: &site, lane, lease };
    let send = async {
        worker.send().await;
        lane.lock().closing = true;
        lane.room.notify_one();
        lane.ended.notify_one();
    };
    tokio::join!(send, fetch(&context, &site, lane, first), record(&context, &site, lane));
    drop(worker);
}

/// Keeps the lane filled: takes copies off the board and records that their attempts begin, ahead of their being sent.
async fn fetch(context: &Context, site: &Site, lane: &Lane, first: Ready) {
    let mut ready = vec![first];
    // One copy tries out a site that is not known, or may be down; elsewhere what follows it begins in the same commit.
    let share = context.shared.lock().board.share(site);
    if share.latency.is_some() {
        ready.extend(more(context, site, lane, share).unwrap_or_default());
    }
    loop {
        if ready.is_empty() {
            lane.room.notified().await;
            if lane.lock().closing {
                return;
            }
            let share = context.shared.lock().board.share(site);
            let Some(found) = more(context, site, lane, share) else { continue };
            if found.is_empty() {
                lane.lock().exhausted = true;
                lane.news.notify_one();
                continue;
            }
            ready = found;
        }
        lane.lock().fetching = true;
        let (fresh, mut jobs) = split_begun(std::mem::take(&mut ready));
        jobs.extend(begin(context, fresh).await);
        {
            let mut state = lane.lock();
            state.fetching = false;
            state.exhausted |= jobs.is_empty();
            state.take_in(jobs);
        }
        lane.news.notify_one();
    }
}

/// What the board has for the lane, of its `share`; `None`: the lane wants nothing.
fn more(context: &Context, site: &Site, lane: &Lane, share: Share) -> Option<Vec<Ready>> {
    let (wanted, served) = lane.lock().asks(share)?;
    Some(context.shared.more_for(site, served, wanted))
}

/// Records that the attempts of these begin; gives those back to the queue of which that cannot be recorded.
async fn begin(context: &Context, ready: Vec<Ready>) -> Vec<Job> {
    if ready.is_empty() {
        return Vec::new();
    }
    let now = context.clock.now();
    let ids = ready.iter().map(|ready| (ready.copy.id, ready.copy.recipients.len())).collect();
    match context.store.begin_attempts(ids, now).await {
        Ok(()) => ready.into_iter().map(|ready| Job::new(ready, now)).collect(),
        // All or none: one of them may have been held or removed meanwhile.
        Err(StoreError::Database { temporary: false, .. }) if ready.len() > 1 => {
            let mut jobs = Vec::new();
            for ready in ready {
                jobs.extend(Box::pin(begin(context, vec![ready])).await);
            }
            jobs
        }
        // An administrator held, ended or divided it after it was read: the queue says what is to be done with it now.
        Err(error @ StoreError::Database { temporary: false, .. }) => {
            tracing::warn!(%error, id = %ready[0].copy.message.id, domain = %ready[0].copy.domain, "an attempt is not made");
            ready.iter().for_each(|ready| context.shared.give_back(&ready.copy));
            Vec::new()
        }
        Err(error) => {
            if error.is_told() {
                // The store has told of it. Given back at once, they would be read and begun again as fast as they fail.
                tracing::debug!(%error, copies = ready.len(), "attempts cannot be recorded, and so are not made");
                tokio::time::sleep(STORE_RETRY).await;
            } else {
                let id = ready[0].copy.message.id;
                tracing::error!(%error, copies = ready.len(), %id, "an attempt cannot be recorded, and so is not made");
            }
            ready.iter().for_each(|ready| context.shared.give_back(&ready.copy));
            Vec::new()
        }
    }
}

/// Records what has ended, as much of it in one transaction as has come together.
async fn record(context: &Context, site: &Site, lane: &Lane) {
    loop {
        let (done, (took, pushed_back), haste, closing) = {
            let mut state = lane.lock();
            (state.take_done(), state.take_signs(), state.haste(), state.closing)
        };
        if pushed_back || !took.is_empty() {
            let now = Instant::now();
            let mut state = context.shared.lock();
            if pushed_back {
                state.board.pushed_back(site, now);
            }
            state.board.went_well(site, &took, now);
        }
        if !done.is_empty() {
            conclude(context, done, haste).await;
            lane.lock().recording = 0;
            lane.news.notify_one();
        } else if closing {
            return;
        } else {
            lane.ended.notified().await;
        }
    }
}

/// A session and what it was opened for.
struct Kept {
    session: Box<Session>,
    endpoint: Endpoint,
}

struct Worker<'a> {
    context: &'a Context,
    site: &'a Site,
    lane: &'a Lane,
    lease: Lease,
}

impl Worker<'_> {
    /// Job after job, each with what else goes over its session.
    async fn send(&mut self) {
        let mut kept: Option<Kept> = None;
        loop {
            let Some(job) = self.lane.next().await else {
                // What ends now need not wait behind what was in no hurry.
                self.context.store.hurry();
                let Some(mut open) = kept.take() else { return };
                if !self.rest(&mut open).await {
                    return open.session.quit().await;
                }
                kept = Some(open);
                self.lane.look_again();
                continue;
            };
            let Some(open) = self.session_for(job, kept.take()).await else { continue };
            kept = self.run(open).await;
        }
    }

    /// The session that `job` goes over, with it; `None`: it has ended without one, or is back in the lane.
    async fn session_for(&mut self, mut job: Job, kept: Option<Kept>) -> Option<(Kept, Job)> {
        let max_sessions = self.context.config.smtp.max_sessions;
        if let Some(open) = kept {
            if job.fits(&open.endpoint, max_sessions) {
                return Some((open, job));
            }
            open.session.quit().await;
        }
        while let Some(endpoint) = job.next_endpoint(max_sessions).cloned() {
            let began = Instant::now();
            let remote = Remote { host: endpoint.host.clone(), address: endpoint.address, since: began };
            self.lane.lock().is_at(Line::Opening(remote.clone(), InHand::of(&job)));
            let opened = Box::pin(self.context.client.connect(&endpoint)).await;
            match opened {
                Ok(session) => {
                    job.connecting_took(began.elapsed(), session.handshake());
                    self.lease.connected();
                    let window = if session.capabilities().chunking { endpoint.window } else { 1 };
                    {
                        let mut state = self.lane.lock();
                        state.opened(window);
                        state.is_at(Line::Open(remote));
                    }
                    return Some((Kept { session: Box::new(session), endpoint }, job));
                }
                Err(error) => self.connect_failed(&mut job, &error, began.elapsed()),
            }
        }
        self.lane.lock().is_at(Line::Closed);
        self.no_session(job).await;
        None
    }

    fn connect_failed(&self, job: &mut Job, error: &ConnectError, took: Duration) {
        job.connect_failed(error, took);
        if error.fault.refuses_the_session() && self.context.shared.lanes().has_session_to(error.peer.address) {
            self.context.shared.lock().board.refused(self.site, Instant::now());
        }
        if let Some(detail) = job.login_failed.as_ref().filter(|_| self.context.shared.may_complain_of_login()) {
            tracing::error!(site = %self.site, detail, "a login failed: mail is deferred until its override is put right");
        }
    }

    /// `job` has nowhere to go any more.
    async fn no_session(&mut self, job: Job) {
        if let Some(detail) = &job.short_here {
            // No copy fares better for now: one after the other would be put off for minutes as fast as they come.
            self.context.shared.complain_of_shortage(detail);
            tokio::time::sleep(SHORTAGE_PAUSE).await;
        }
        if let Some(detail) = job.unreachable().map(str::to_owned) {
            let now = self.context.clock.now();
            let down = self.context.shared.lock().board.unreachable(self.site, &detail, (now, Instant::now()));
            let untouched = self.lane.lock().jobs.take_untouched();
            match down {
                // Other sessions to the site work: it takes no more of them, and they take these.
                None => {
                    let copies = untouched.len() + 1;
                    tracing::info!(site = %self.site, detail, copies, "the site takes no more sessions for now: these wait for one that is open");
                    let mut state = self.context.shared.lock();
                    untouched.into_iter().chain([job]).for_each(|job| state.board.put_back(job.into_ready()));
                    return;
                }
                Some((until, waiting)) => {
                    let count = waiting.len() + untouched.len();
                    tracing::warn!(site = %self.site, detail, until = %until, deferred = count, "site is down");
                    let copies = waiting.into_iter().map(|ready| ready.copy).chain(untouched.into_iter().map(|job| job.copy));
                    self.lane.end(copies.map(|copy| (copy, Ended::site_down(self.site, until, &detail, now))).collect::<Vec<_>>());
                }
            }
        }
        self.lane.end([job.into_ended()]);
    }

    /// Sends `job` and what follows it; hands the session on where it can be used again.
    async fn run(&mut self, (mut open, job): (Kept, Job)) -> Option<Kept> {
        let peer = open.session.peer().clone();
        let mut feed = LaneFeed {
            context: self.context,
            lane: self.lane,
            endpoint: &open.endpoint,
            peer: &peer,
            first: Some(job),
            opened_at: open.session.opened_at(),
            notes: Notes::default(),
        };
        let ran = AssertUnwindSafe(open.session.run(&mut feed)).catch_unwind().await;
        // A session that found itself ended took nothing.
        if let Some(job) = feed.first.take() {
            self.lane.lock().jobs.put_back(job);
        }
        if ran.is_err() {
            // A panic is a bug in one attempt: what the session had is deferred, nothing else is touched.
            let broken: Vec<_> = self.lane.lock().take_handed_out();
            self.lane.end(broken.into_iter().map(|mut job| {
                tracing::error!(id = %job.copy.message.id, domain = %job.copy.domain, "the attempt panicked: a bug, please report it");
                job.panicked();
                job.into_ended()
            }));
            return None;
        }
        let sending = &self.context.config.sending;
        let spent = open.session.transactions() >= sending.messages_per_connection
            || open.session.opened_at().elapsed() >= sending.connection_lifetime;
        if open.session.is_reusable() && !spent {
            return Some(open);
        }
        self.lease.disconnected();
        self.lane.lock().is_at(Line::Closed);
        open.session.quit().await;
        None
    }

    /// Keeps a session for a while for which there is nothing to do. `true`: there may be something now.
    async fn rest(&self, open: &mut Kept) -> bool {
        let idle = self.context.config.sending.keep_idle;
        let shared = &self.context.shared;
        let sleeper = Arc::new(Notify::new());
        if idle.is_zero() || shared.is_draining() || !shared.lock().board.rest(self.site, &sleeper) {
            return false;
        }
        shared.wake.notify_one();
        let resting = Resting { shared, site: self.site, sleeper: &sleeper };
        tokio::select! {
            () = sleeper.notified() => {}
            () = open.session.hear() => {}
            () = tokio::time::sleep(idle) => {}
        }
        drop(resting);
        shared.lock().board.may_have(self.site) && open.session.is_still_open() && !shared.is_draining()
    }
}

/// Takes the sleeper off the board's list, also when its worker is dropped.
struct Resting<'a> {
    shared: &'a Shared,
    site: &'a Site,
    sleeper: &'a Arc<Notify>,
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.shared.lock().board.stir(self.site, self.sleeper);
    }
}

/// From `then` to `now`; zero where the clock was set back.
pub(super) fn since(then: crate::clock::Timestamp, now: crate::clock::Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
}

/// A place on the board.
struct Lease {
    shared: Arc<Shared>,
    site: Site,
    lane: Arc<Lane>,
    connected: bool,
}

impl Lease {
    /// A session got through.
    fn connected(&mut self) {
        if !std::mem::replace(&mut self.connected, true) {
            self.shared.lock().board.connected(&self.site);
            self.shared.wake.notify_one();
        }
    }

    /// It is over.
    fn disconnected(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.shared.lock().board.disconnected(&self.site);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.disconnected();
        self.shared.lanes().remove(&self.lane);
        self.shared.lock().board.release(&self.site);
        self.shared.wake.notify_one();
    }
}

//! The board: copies that know where to go and wait for a worker, by site. Pure: takes what happened, hands on what to send next.
//!
//! A site has no more sessions than `sending.per_site` and than it was found to take, so that one slow site never takes every worker. A
//! copy that waits for its site holds no worker.

mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::view::{HealthView, LastReply, Obstacle, SiteView, Tally, WaitingView};
use super::concurrency::Concurrency;
use super::health::Health;
use super::load::SiteLoad;
use super::throttle::Throttle;
use crate::clock::Timestamp;
use crate::config::{Order, Rate, Sending};
use crate::message::Priority;
use crate::queue::{PausedSite, QueuedCopy};
use crate::route::{Route, Site};

/// A session gives way to other sites that wait for a worker when it has served so many copies and for so long, or for very long.
const QUANTUM: u32 = 10;
const FAIR_TIME: Duration = Duration::from_millis(250);
const LONG_TIME: Duration = Duration::from_secs(10);

/// Copies of a site that may wait here however slow it is made.
const FEW: usize = 8;

/// A copy that knows where to go.
#[derive(Debug)]
pub struct Ready {
    /// What to send.
    pub copy: Arc<QueuedCopy>,
    /// Where to.
    pub route: Arc<Route>,
    /// How long routing took.
    pub routing: Duration,
    /// Set where its attempt was recorded as begun, and it was given back before anything was tried.
    pub begun_at: Option<Timestamp>,
}

/// What became of a copy that was put on the board.
#[derive(Debug)]
pub enum Pushed {
    /// It waits for a worker.
    Waiting,
    /// Its site is down until then, for that reason: to be deferred untried.
    SiteDown {
        /// The copy, back.
        ready: Ready,
        /// When the site is looked at again.
        until: Timestamp,
        /// What took it down.
        detail: String,
    },
    /// Enough copies of this site wait, or it is paused: the queue keeps this one, the least urgent.
    SiteFull(Ready),
}

/// What a session that asks for more has done so far.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Copies.
    pub copies: u32,
    /// How long it has held its worker.
    pub held: Duration,
}

/// A session's share of what waits for its site.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    /// How many copies.
    pub copies: usize,
    /// The class of the first.
    pub first: Option<Priority>,
    /// How long a transaction takes there; `None`: not known, or one copy is to look first whether the site is up.
    pub latency: Option<Duration>,
}

/// The waiting copies and what is known of their sites.
#[derive(Debug)]
pub struct Board {
    sending: Sending,
    sites: HashMap<Site, SiteState>,
    ready: BTreeSet<(Turn, Site)>,
    /// Sites whose rate is used up, by when they may go on.
    throttled: BTreeSet<(Instant, Site)>,
    /// Sessions with nothing to do, the one that has waited for longest first.
    sleepers: VecDeque<(Site, Arc<Notify>)>,
    running: usize,
}

/// The order of copies: class, then what `sending.order` says, then id.
type Key = (Priority, i128, i64);

/// The order in which sites get workers: class, then who has fewest, then the order of copies.
type Turn = (Priority, usize, i128, i64);

#[derive(Debug, Default)]
struct SiteState {
    waiting: BTreeMap<Key, Ready>,
    /// Sessions open or opening.
    active: usize,
    /// Sessions that got through to the peer: while there is one, the site is not down.
    connected: usize,
    /// Sessions that have nothing to do, or are being woken.
    idle: usize,
    health: Health,
    concurrency: Concurrency,
    rate: Option<Rate>,
    throttle: Throttle,
    /// Its rate is used up until then.
    throttled: Option<Instant>,
    /// An administrator wants nothing sent to it.
    paused: Option<PausedSite>,
    /// What became of copies that were tried here.
    tally: Tally,
}

impl SiteState {
    fn limit(&self, sending: &Sending) -> usize {
        // A site that was down is looked at by one copy first.
        if self.health.is_proven() { self.concurrency.allowed(sending.per_site) } else { 1 }
    }

    /// The turn of the copy that wants a session of its own; `None` where none does, or none may have one.
    fn head(&self, sending: &Sending) -> Option<Turn> {
        // What sessions with nothing to do can take needs no new one.
        if self.paused.is_none() && self.throttled.is_none() && self.active < self.limit(sending) && self.waiting.len() > self.idle {
            self.waiting.keys().next().map(|&(class, middle, id)| (class, self.active, middle, id))
        } else {
            None
        }
    }
}

impl Board {
    /// An empty one.
    pub fn new(sending: Sending) -> Self {
        Self { sending, sites: HashMap::new(), ready: BTreeSet::new(), throttled: BTreeSet::new(), sleepers: VecDeque::new(), running: 0 }
    }

    /// New limits; sessions beyond them end with their current copy.
    pub fn reconfigure(&mut self, sending: Sending) {
        self.sending = sending;
        let sites: Vec<Site> = self.sites.keys().cloned().collect();
        self.ready.clear();
        for site in sites {
            self.relist(&site, None);
        }
    }

    /// Puts a routed copy on the board, where at most `share` copies of its site may wait.
    pub fn push(&mut self, ready: Ready, now: Timestamp, share: usize) -> Pushed {
        let share = most_waiting(&self.sending, ready.route.rate, share);
        let site = &ready.route.site;
        if self.is_paused(site) {
            return Pushed::SiteFull(ready);
        }
        if let Some(state) = self.sites.get(site)
            && let Some((until, detail)) = state.health.down_at(now)
        {
            return Pushed::SiteDown { until, detail: detail.to_owned(), ready };
        }
        let key = self.key(&ready.copy);
        let site = site.clone();
        let state = self.sites.entry(site.clone()).or_default();
        let mut surplus = None;
        if state.waiting.len() >= share {
            // The less urgent one stays in the queue.
            match state.waiting.last_entry() {
                Some(last) if key.0 < last.key().0 => {}
                _ => return Pushed::SiteFull(ready),
            }
        }
        let before = state.head(&self.sending);
        if state.waiting.len() >= share {
            // Not one whose attempt is recorded as begun: the queue would not hand it out again.
            let last = state.waiting.iter().rev().find(|(_, ready)| ready.begun_at.is_none()).map(|(key, _)| *key);
            surplus = last.and_then(|key| state.waiting.remove(&key));
        }
        state.rate = ready.route.rate;
        state.waiting.insert(key, ready);
        self.relist(&site, before);
        self.rouse(&site);
        surplus.map_or(Pushed::Waiting, Pushed::SiteFull)
    }

    /// Puts a copy back that a worker had taken: another session of its site is to have it.
    pub fn put_back(&mut self, ready: Ready) {
        let key = self.key(&ready.copy);
        let site = ready.route.site.clone();
        let state = self.sites.entry(site.clone()).or_default();
        let before = state.head(&self.sending);
        state.waiting.insert(key, ready);
        self.relist(&site, before);
        self.rouse(&site);
    }

    /// The copy that a free worker should send now. The caller gives the place back with [`Board::release`].
    pub fn take(&mut self, now: Instant) -> Option<Ready> {
        if self.running >= self.sending.workers {
            return None;
        }
        let (_, site) = self.ready.pop_first()?;
        let state = self.sites.get_mut(&site)?;
        let (_, ready) = state.waiting.pop_first()?;
        state.active += 1;
        self.running += 1;
        self.spend(&site, now);
        self.relist(&site, None);
        Some(ready)
    }

    /// The next copy for a session that is open to `site`; `None` where there is none, or where the worker is needed more elsewhere.
    pub fn next_for(&mut self, site: &Site, served: Served, now: Instant) -> Option<Ready> {
        let crowded = self.running >= self.sending.workers;
        let over_limit = self.running > self.sending.workers;
        let state = self.sites.get(site)?;
        let own = state.waiting.keys().next().copied()?;
        if over_limit || state.active > state.limit(&self.sending) || state.throttled.is_some() || state.paused.is_some() {
            return None;
        }
        let had_its_share = (served.copies >= QUANTUM && served.held >= FAIR_TIME) || served.held >= LONG_TIME;
        if crowded
            && let Some(((class, ..), _)) = self.ready.iter().find(|(_, other)| other != site)
            && (*class < own.0 || (had_its_share && *class == own.0))
        {
            return None;
        }
        let sending = &self.sending;
        let state = self.sites.get_mut(site)?;
        let before = state.head(sending);
        let (_, ready) = state.waiting.pop_first()?;
        self.relist(site, before);
        self.spend(site, now);
        Some(ready)
    }

    /// What each session of a site would get of its copies, those sessions included that there are workers for.
    pub fn share(&self, site: &Site) -> Share {
        let Some(state) = self.sites.get(site) else { return Share::default() };
        let free = self.sending.workers.saturating_sub(self.running);
        let sessions = state.limit(&self.sending).min(state.active + free).max(1);
        Share {
            copies: state.waiting.len().div_ceil(sessions),
            first: state.waiting.keys().next().map(|(class, ..)| *class),
            latency: if state.health.is_proven() { state.concurrency.latency() } else { None },
        }
    }

    /// A session to `site` was given nothing to do. It is roused when there is something, or when its worker is needed elsewhere.
    /// `false`: it is to end, as its worker is needed elsewhere now, or the site has more sessions than it should.
    pub fn rest(&mut self, site: &Site, sleeper: &Arc<Notify>) -> bool {
        if self.is_short_of_workers(site) || self.running > self.sending.workers {
            return false;
        }
        let Some(state) = self.sites.get_mut(site) else { return false };
        if state.active > state.limit(&self.sending) || state.paused.is_some() {
            return false;
        }
        let before = state.head(&self.sending);
        if !state.waiting.is_empty() && state.throttled.is_none() {
            // It came while the session was told that there is nothing.
            sleeper.notify_one();
        }
        state.idle += 1;
        self.sleepers.push_back((site.clone(), sleeper.clone()));
        self.relist(site, before);
        true
    }

    /// A session that rested goes on, or ends.
    pub fn stir(&mut self, site: &Site, sleeper: &Arc<Notify>) {
        self.sleepers.retain(|(_, other)| !Arc::ptr_eq(other, sleeper));
        if let Some(state) = self.sites.get_mut(site) {
            let before = state.head(&self.sending);
            state.idle = state.idle.saturating_sub(1);
            self.relist(site, before);
        }
    }

    /// Where copies wait for a worker and a session rests: that one is to end.
    pub fn dismiss_a_sleeper(&mut self) {
        if self.running >= self.sending.workers
            && !self.ready.is_empty()
            && let Some((_, sleeper)) = self.sleepers.pop_front()
        {
            sleeper.notify_one();
        }
    }

    /// Rouses every session that rests.
    pub fn rouse_all(&mut self) {
        self.sleepers.drain(..).for_each(|(_, sleeper)| sleeper.notify_one());
    }

    fn rouse(&mut self, site: &Site) {
        if let Some(at) = self.sleepers.iter().position(|(other, _)| other == site)
            && let Some((_, sleeper)) = self.sleepers.remove(at)
        {
            sleeper.notify_one();
        }
    }

    fn is_short_of_workers(&self, site: &Site) -> bool {
        self.running >= self.sending.workers && self.ready.iter().any(|(_, other)| other != site)
    }

    /// A session to the site got through: it is up.
    pub fn connected(&mut self, site: &Site) {
        let most = self.sending.per_site;
        self.change(site, |state| {
            state.connected += 1;
            state.health.up();
            state.concurrency.connected(most);
        });
    }

    /// A session that had got through ended.
    pub fn disconnected(&mut self, site: &Site) {
        self.change(site, |state| state.connected = state.connected.saturating_sub(1));
    }

    /// Transactions with the site went well, each in that time.
    pub fn went_well(&mut self, site: &Site, took: &[Duration], now: Instant) {
        let most = self.sending.per_site;
        self.change(site, |state| took.iter().for_each(|&took| state.concurrency.went_well(took, most, now)));
    }

    /// A host of the site refused a session beside others to the same host: the site takes no more than are there.
    pub fn refused(&mut self, site: &Site, now: Instant) {
        self.change(site, |state| state.concurrency.refused_at(state.connected, now));
    }

    /// The site ended a session by 421, or said that there are too many of them.
    pub fn pushed_back(&mut self, site: &Site, now: Instant) {
        self.change(site, |state| state.concurrency.pushed_back(now));
    }

    /// None of the site's hosts could be reached. Where no other session proves the opposite, the site is down from here on:
    /// returns the copies that waited for it, and until when. Where one does, it takes no more than are there.
    pub fn unreachable(&mut self, site: &Site, detail: &str, (now, at): (Timestamp, Instant)) -> Option<(Timestamp, Vec<Ready>)> {
        let sending = &self.sending;
        let state = self.sites.get_mut(site)?;
        let before = state.head(sending);
        if state.connected > 0 {
            state.concurrency.refused_at(state.connected, at);
            self.relist(site, before);
            return None;
        }
        let until = state.health.down(now, detail, sending.site_down_min, sending.site_down_max);
        let waiting: Vec<Ready> = std::mem::take(&mut state.waiting).into_values().collect();
        self.relist(site, before);
        Some((until, waiting))
    }

    /// A worker that had taken a copy of `site` is free again.
    pub fn release(&mut self, site: &Site) {
        self.running = self.running.saturating_sub(1);
        self.change(site, |state| state.active = state.active.saturating_sub(1));
    }

    /// When the first site whose rate is used up may go on.
    pub fn next_unthrottled(&self) -> Option<Instant> {
        self.throttled.first().map(|(at, _)| *at)
    }

    /// Lets sites go on whose time has come.
    pub fn unthrottle(&mut self, now: Instant) {
        while let Some((at, _)) = self.throttled.first()
            && *at <= now
            && let Some((_, site)) = self.throttled.pop_first()
        {
            self.change(&site, |state| state.throttled = None);
            self.rouse(&site);
        }
    }

    /// Counts a copy against the rate of its site.
    fn spend(&mut self, site: &Site, now: Instant) {
        let Some(state) = self.sites.get_mut(site) else { return };
        let Some(rate) = state.rate else { return };
        let before = state.head(&self.sending);
        if let Some(next) = state.throttle.spend(rate, now) {
            state.throttled = Some(next);
            self.throttled.insert((next, site.clone()));
            self.relist(site, before);
        }
    }

    /// Sessions open or opening.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Sites that something is known of.
    pub fn known(&self) -> usize {
        self.sites.len()
    }

    /// What there is to do for each of them that the queue has no site recorded for, and who does it.
    pub fn loads(&self, now: Timestamp) -> impl Iterator<Item = (&Site, SiteLoad)> {
        self.sites.iter().map(move |(site, state)| {
            let (copies, workers) = (state.fresh() as u64, state.active as u64);
            (site, SiteLoad { copies, workers, down: u64::from(state.health.down_at(now).is_some()) })
        })
    }

    /// Whether there are copies of the site that may go now.
    pub fn may_have(&self, site: &Site) -> bool {
        self.sites.get(site).is_some_and(|state| !state.waiting.is_empty() && state.throttled.is_none() && state.paused.is_none())
    }

    /// Whether so few copies of the site wait here, where `share` may, that more are to be read.
    pub fn has_room(&self, site: &Site, share: usize) -> bool {
        self.sites
            .get(site)
            .is_none_or(|state| state.paused.is_none() && state.waiting.len() <= most_waiting(&self.sending, state.rate, share) / 4)
    }

    /// Forgets sites with nothing to do and nothing to remember.
    pub fn tidy(&mut self, now: Timestamp, at: Instant) {
        self.sites.retain(|_, state| {
            !state.waiting.is_empty()
                || state.active > 0
                || state.paused.is_some()
                || !state.health.is_forgettable(now)
                || !state.concurrency.is_forgettable(at)
                || !state.throttle.is_paid(at)
        });
    }

    /// Takes everything that waits off the board: at the daemon's end the queue keeps it.
    pub fn clear(&mut self) -> Vec<Ready> {
        self.ready.clear();
        self.sites.values_mut().flat_map(|state| std::mem::take(&mut state.waiting).into_values()).collect()
    }

    fn key(&self, copy: &QueuedCopy) -> Key {
        let middle = match self.sending.order {
            Order::Arrival => i128::from(copy.due_at.as_millisecond()),
            Order::SmallestFirst => i128::from(copy.message.content.wire_size),
            Order::NewestFirst => -i128::from(copy.message.accepted_at.as_millisecond()),
        };
        (copy.message.priority, middle, copy.id.0)
    }

    /// Changes what is known of a site, and what is listed with it.
    fn change(&mut self, site: &Site, change: impl FnOnce(&mut SiteState)) {
        if let Some(state) = self.sites.get_mut(site) {
            let before = state.head(&self.sending);
            change(state);
            self.relist(site, before);
        }
    }

    /// Brings `ready` in line with the site's head, which was `before`.
    fn relist(&mut self, site: &Site, before: Option<Turn>) {
        let head = self.sites.get(site).and_then(|state| state.head(&self.sending));
        if head == before {
            return;
        }
        if let Some(key) = before {
            self.ready.remove(&(key, site.clone()));
        }
        if let Some(key) = head {
            self.ready.insert((key, site.clone()));
        }
    }
}

/// How many copies of a site may wait here, of `share` that there is room for: some for each session in any case, and where a rate is set no
/// more than go within a minute.
fn most_waiting(sending: &Sending, rate: Option<Rate>, share: usize) -> usize {
    let share = share.max(sending.per_site * 2);
    let in_a_minute = |rate: Rate| (rate.per_second() * 60.0).ceil() as usize;
    rate.map_or(share, |rate| share.min(in_a_minute(rate).max(FEW)))
}

#[cfg(test)]
mod tests;

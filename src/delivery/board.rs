//! Routed copies wait here, by site: takes copies, hands on the one that is to be sent next. Pure: the caller brings the time.
//!
//! Invariants: `running` ≤ `workers`; a site's `active` ≤ `per_site`; a site with something to do and room for it stands in `ready`
//! under the key of its first copy, every other site does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use crate::clock::Timestamp;
use crate::config::{Order, Sending};
use crate::message::Priority;
use crate::queue::QueuedCopy;
use crate::route::{Route, Site};

/// A kept session serves this many copies before it gives way to another site that waits for a worker.
const QUANTUM: u32 = 10;

/// A copy that knows where to go.
#[derive(Debug)]
pub struct Ready {
    /// What to send.
    pub copy: QueuedCopy,
    /// Where to.
    pub route: Arc<Route>,
    /// How long routing took.
    pub routing: Duration,
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
    /// Enough copies of this site wait: the queue keeps this one.
    SiteFull(Ready),
}

/// The waiting copies and what is known of their sites.
#[derive(Debug)]
pub struct Board {
    limits: Limits,
    sites: HashMap<Site, SiteState>,
    ready: BTreeSet<(Key, Site)>,
    running: usize,
}

/// What the configuration says of the board.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `sending.*`.
    pub sending: Sending,
    /// Copies of one site that wait in memory.
    pub site_backlog: usize,
}

/// The order of copies: class, then what `sending.order` says, then id.
type Key = (Priority, i128, i64);

#[derive(Debug, Default)]
struct SiteState {
    waiting: BTreeMap<Key, Ready>,
    /// Sessions open or opening.
    active: usize,
    /// Sessions that got through to the peer: while there is one, the site is not down.
    connected: usize,
    health: Health,
}

impl SiteState {
    fn limit(&self, limits: &Limits) -> usize {
        // A site that was down is looked at by one copy first.
        if self.health.is_proven() { limits.sending.per_site } else { 1 }
    }

    fn head(&self, limits: &Limits) -> Option<Key> {
        if self.active < self.limit(limits) { self.waiting.keys().next().copied() } else { None }
    }
}

impl Board {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, sites: HashMap::new(), ready: BTreeSet::new(), running: 0 }
    }

    /// New limits; sessions beyond them end with their current copy.
    pub fn reconfigure(&mut self, limits: Limits) {
        self.limits = limits;
        let sites: Vec<Site> = self.sites.keys().cloned().collect();
        self.ready.clear();
        for site in sites {
            self.relist(&site, None);
        }
    }

    /// Puts a routed copy on the board.
    pub fn push(&mut self, ready: Ready, now: Timestamp) -> Pushed {
        let key = self.key(&ready.copy);
        let site = ready.route.site.clone();
        let state = self.sites.entry(site.clone()).or_default();
        if let Some((until, detail)) = state.health.down_at(now) {
            return Pushed::SiteDown { until, detail: detail.to_owned(), ready };
        }
        if state.waiting.len() >= self.limits.site_backlog {
            return Pushed::SiteFull(ready);
        }
        let before = state.head(&self.limits);
        state.waiting.insert(key, ready);
        self.relist(&site, before);
        Pushed::Waiting
    }

    /// The copy that a free worker should send now. The caller gives the place back with [`Board::release`].
    pub fn take(&mut self) -> Option<Ready> {
        if self.running >= self.limits.sending.workers {
            return None;
        }
        let (_, site) = self.ready.pop_first()?;
        let state = self.sites.get_mut(&site)?;
        let (_, ready) = state.waiting.pop_first()?;
        state.active += 1;
        self.running += 1;
        self.relist(&site, None);
        Some(ready)
    }

    /// The next copy for a session that is open to `site` and has served `served` copies; `None` where there is none,
    /// or where the worker is needed more elsewhere.
    pub fn next_for(&mut self, site: &Site, served: u32) -> Option<Ready> {
        let crowded = self.running >= self.limits.sending.workers;
        let over_limit = self.running > self.limits.sending.workers;
        let state = self.sites.get(site)?;
        let own = state.waiting.keys().next().copied()?;
        if over_limit || state.active > state.limit(&self.limits) {
            return None;
        }
        if crowded
            && let Some((other, _)) = self.ready.iter().find(|(_, other)| other != site)
            && (served >= QUANTUM || *other < own)
        {
            return None;
        }
        let limits = &self.limits;
        let state = self.sites.get_mut(site)?;
        let before = state.head(limits);
        let (_, ready) = state.waiting.pop_first()?;
        self.relist(site, before);
        Some(ready)
    }

    /// A session to the site got through: it is up.
    pub fn connected(&mut self, site: &Site) {
        if let Some(state) = self.sites.get_mut(site) {
            let before = state.head(&self.limits);
            state.connected += 1;
            state.health.up();
            self.relist(site, before);
        }
    }

    /// A session that had got through ended.
    pub fn disconnected(&mut self, site: &Site) {
        if let Some(state) = self.sites.get_mut(site) {
            state.connected = state.connected.saturating_sub(1);
        }
    }

    /// None of the site's hosts could be reached. Where no other session proves the opposite, the site is down from here on:
    /// returns the copies that waited for it, and until when.
    pub fn unreachable(&mut self, site: &Site, detail: &str, now: Timestamp) -> Option<(Timestamp, Vec<Ready>)> {
        let limits = &self.limits;
        let state = self.sites.get_mut(site)?;
        if state.connected > 0 {
            return None;
        }
        let before = state.head(limits);
        let until = state.health.down(now, detail, limits.sending.site_down_min, limits.sending.site_down_max);
        let waiting = std::mem::take(&mut state.waiting).into_values().collect();
        self.relist(site, before);
        Some((until, waiting))
    }

    /// A worker that had taken a copy of `site` is free again.
    pub fn release(&mut self, site: &Site) {
        self.running = self.running.saturating_sub(1);
        if let Some(state) = self.sites.get_mut(site) {
            let before = state.head(&self.limits);
            state.active = state.active.saturating_sub(1);
            self.relist(site, before);
        }
    }

    /// Sessions open or opening.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Copies of the site that wait here.
    pub fn waiting_for(&self, site: &Site) -> usize {
        self.sites.get(site).map_or(0, |state| state.waiting.len())
    }

    /// Copies of one site that may wait here.
    pub fn site_backlog(&self) -> usize {
        self.limits.site_backlog
    }

    /// Forgets sites with nothing to do and nothing to remember.
    pub fn tidy(&mut self, now: Timestamp) {
        self.sites.retain(|_, state| !state.waiting.is_empty() || state.active > 0 || !state.health.is_forgettable(now));
    }

    /// Takes everything that waits off the board: at the daemon's end the queue keeps it.
    pub fn clear(&mut self) -> Vec<Ready> {
        self.ready.clear();
        self.sites.values_mut().flat_map(|state| std::mem::take(&mut state.waiting).into_values()).collect()
    }

    fn key(&self, copy: &QueuedCopy) -> Key {
        let middle = match self.limits.sending.order {
            Order::Arrival => i128::from(copy.due_at.as_millisecond()),
            Order::SmallestFirst => i128::from(copy.message.content.wire_size),
            Order::NewestFirst => -i128::from(copy.message.accepted_at.as_millisecond()),
        };
        (copy.message.priority, middle, copy.id.0)
    }

    /// Brings `ready` in line with the site's head, which was `before`.
    fn relist(&mut self, site: &Site, before: Option<Key>) {
        let head = self.sites.get(site).and_then(|state| state.head(&self.limits));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{copy, route, sending};

    fn board(workers: usize, per_site: usize) -> Board {
        Board::new(Limits { sending: Sending { workers, per_site, ..sending() }, site_backlog: 100 })
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn push(board: &mut Board, id: i64, site: &str) {
        let ready = Ready { copy: copy(id), route: route(site), routing: Duration::ZERO };
        assert!(matches!(board.push(ready, at(0)), Pushed::Waiting));
    }

    fn taken(board: &mut Board) -> Option<i64> {
        board.take().map(|ready| ready.copy.id.0)
    }

    #[test]
    fn one_slow_site_does_not_take_every_worker() {
        let mut board = board(4, 2);
        for id in 1..=10 {
            push(&mut board, id, "slow");
        }
        push(&mut board, 11, "other");
        assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(2), Some(11), None]);
        board.release(&Site::new("slow"));
        assert_eq!(taken(&mut board), Some(3));
    }

    #[test]
    fn workers_are_the_limit_of_all_sites_together() {
        let mut board = board(3, 1);
        for id in 1..=5 {
            push(&mut board, id, &format!("site {id}"));
        }
        assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(2), Some(3), None]);
        assert_eq!(board.running(), 3);
    }

    #[test]
    fn class_goes_before_time() {
        let mut board = board(10, 10);
        push(&mut board, 1, "a");
        let mut urgent = copy(2);
        Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
        urgent.due_at = at(99);
        board.push(Ready { copy: urgent, route: route("a"), routing: Duration::ZERO }, at(99));
        assert_eq!([taken(&mut board), taken(&mut board)], [Some(2), Some(1)]);
    }

    #[test]
    fn order_is_a_setting() {
        for (order, expected) in [(Order::Arrival, [1, 2, 3]), (Order::SmallestFirst, [3, 1, 2]), (Order::NewestFirst, [2, 3, 1])] {
            let mut board = Board::new(Limits { sending: Sending { order, ..sending() }, site_backlog: 100 });
            for (id, size, accepted) in [(1, 20, 100), (2, 30, 300), (3, 10, 200)] {
                let mut copy = copy(id);
                let message = Arc::make_mut(&mut copy.message);
                message.content.wire_size = size;
                message.accepted_at = at(accepted);
                copy.due_at = at(id);
                board.push(Ready { copy, route: route("a"), routing: Duration::ZERO }, at(0));
            }
            assert_eq!([1, 2, 3].map(|_| taken(&mut board).unwrap()), expected, "{order:?}");
        }
    }

    #[test]
    fn a_kept_session_goes_on_while_nobody_waits() {
        let mut board = board(1, 1);
        let site = Site::new("a");
        for id in 1..=30 {
            push(&mut board, id, "a");
        }
        assert_eq!(taken(&mut board), Some(1));
        for served in 1..30 {
            assert_eq!(board.next_for(&site, served).map(|ready| ready.copy.id.0), Some(i64::from(served) + 1));
        }
        assert!(board.next_for(&site, 30).is_none());
    }

    #[test]
    fn a_kept_session_gives_way_to_what_is_older_or_after_its_quantum() {
        let mut board = board(1, 1);
        let site = Site::new("a");
        for id in [1, 2, 4] {
            push(&mut board, id, "a");
        }
        push(&mut board, 3, "b");
        assert_eq!(taken(&mut board), Some(1));
        assert_eq!(board.next_for(&site, 1).map(|ready| ready.copy.id.0), Some(2), "2 is older than b's 3");
        assert!(board.next_for(&site, 2).is_none(), "3 is older than 4");
        assert!(board.next_for(&site, QUANTUM).is_none());
        board.release(&site);
        assert_eq!(taken(&mut board), Some(3));
    }

    #[test]
    fn a_down_site_defers_what_waits_and_is_probed_by_one() {
        let mut board = board(10, 5);
        let site = Site::new("a");
        for id in 1..=4 {
            push(&mut board, id, "a");
        }
        assert_eq!(taken(&mut board), Some(1));
        let (until, waiting) = board.unreachable(&site, "refused", at(100)).unwrap();
        board.release(&site);
        assert_eq!(waiting.len(), 3);
        assert!(until > at(100));
        let late = Ready { copy: copy(9), route: route("a"), routing: Duration::ZERO };
        assert!(matches!(board.push(late, at(101)), Pushed::SiteDown { .. }));
        for id in [10, 11, 12] {
            assert!(matches!(board.push(Ready { copy: copy(id), route: route("a"), routing: Duration::ZERO }, until), Pushed::Waiting));
        }
        assert_eq!([taken(&mut board), taken(&mut board)], [Some(10), None], "one probe");
        board.connected(&site);
        assert_eq!([taken(&mut board), taken(&mut board)], [Some(11), Some(12)], "the probe got through");
    }

    #[test]
    fn one_refused_connection_beside_a_working_one_takes_nothing_down() {
        let mut board = board(10, 5);
        let site = Site::new("a");
        for id in 1..=3 {
            push(&mut board, id, "a");
        }
        board.take();
        board.connected(&site);
        board.take();
        assert!(board.unreachable(&site, "421 too many connections", at(1)).is_none());
        assert_eq!(board.waiting_for(&site), 1);
        board.disconnected(&site);
        assert!(board.unreachable(&site, "refused", at(2)).is_some());
    }

    #[test]
    fn a_full_site_leaves_copies_to_the_queue() {
        let mut board = Board::new(Limits { sending: sending(), site_backlog: 1 });
        push(&mut board, 1, "a");
        assert!(matches!(board.push(Ready { copy: copy(2), route: route("a"), routing: Duration::ZERO }, at(0)), Pushed::SiteFull(_)));
        push(&mut board, 3, "b");
    }

    #[test]
    fn fewer_workers_after_a_reload_end_sessions() {
        let mut board = board(2, 2);
        for id in 1..=4 {
            push(&mut board, id, "a");
        }
        board.take();
        board.take();
        board.reconfigure(Limits { sending: Sending { workers: 1, per_site: 1, ..sending() }, site_backlog: 100 });
        assert!(board.next_for(&Site::new("a"), 1).is_none());
        board.release(&Site::new("a"));
        assert!(board.take().is_none());
        assert!(board.next_for(&Site::new("a"), 1).is_some());
    }
}

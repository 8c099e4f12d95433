//! What scheduler, workers and intake share: the window and the board behind one lock that is never held over an await.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::activity::Activity;
use super::board::{Board, Ready, Served};
use super::clear::Clearing;
use super::lane::{Lane, Line, Remote, UnderWay};
use super::window::{self, Admission, Window};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::message::{Domain, MessageId, Priority};
use crate::outcome::Outcome;
use crate::queue::{CopyId, Cursor, NextStep, PausedSite, QueuedCopy, Settlement};
use crate::route::Site;

/// Domains that a page of freed site backlog brings back at once.
const UNPARK: usize = 16;

/// Domains that are remembered as waiting for their sites; of those beyond, only the place in the queue is.
const MOST_PARKED: usize = 10_000;

/// More changed domains than this are read in one go with everything else, not one by one.
const BY_DOMAIN: usize = 64;

/// A failed login, and a shortage of this host, are errors for the administrator, told this often.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// The shared part of delivery.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Something changed that the scheduler should look at.
    pub wake: Notify,
    /// An outcome was recorded that is to be reported.
    pub reports: Notify,
    /// Reports wait for the end of their message's round.
    pub reports_wait: AtomicBool,
    draining: AtomicBool,
    /// When a failed login was complained of last.
    login_complaint: Mutex<Option<Instant>>,
    /// And of a shortage of this host's own.
    shortage_complaint: Mutex<Option<Instant>>,
    /// What has just happened.
    pub activity: Activity,
    lanes: Mutex<Lanes>,
    /// Finished messages.
    pub(super) clearing: Clearing,
}

/// The workers, for those who look: what each has is in its lane, so that nothing is written down twice.
#[derive(Debug, Default)]
pub struct Lanes {
    /// By the address of the lane, which is its own as long as it is here.
    lanes: HashMap<usize, (Site, Arc<Lane>)>,
}

impl Lanes {
    pub(super) fn add(&mut self, site: &Site, lane: &Arc<Lane>) {
        self.lanes.insert(Arc::as_ptr(lane).addr(), (site.clone(), lane.clone()));
    }

    pub(super) fn remove(&mut self, lane: &Arc<Lane>) {
        self.lanes.remove(&Arc::as_ptr(lane).addr());
    }

    /// Where copies of a message are, and for which site.
    pub fn find(&self, message: MessageId) -> Vec<(Site, UnderWay)> {
        let of = |(site, lane): &(Site, Arc<Lane>)| {
            let site = site.clone();
            lane.lock().find(message).into_iter().map(move |copy| (site.clone(), copy)).collect::<Vec<_>>()
        };
        self.lanes.values().flat_map(of).collect()
    }

    /// Whether a session to this address is open.
    pub(super) fn has_session_to(&self, address: SocketAddr) -> bool {
        self.lanes.values().any(|(_, lane)| matches!(lane.lock().line(), Line::Open(remote) if remote.address == address))
    }

    /// What each worker is at.
    pub fn workers(&self) -> Vec<WorkerView> {
        self.lanes.values().map(|(site, lane)| WorkerView::of(site, &lane.lock())).collect()
    }
}

/// A worker.
#[derive(Debug, Clone)]
pub struct WorkerView {
    /// For which site.
    pub site: Site,
    /// Its session, if it has or opens one.
    pub remote: Option<Remote>,
    /// Whether the session is open.
    pub open: bool,
    /// Copies that it has taken.
    pub copies: u32,
}

impl WorkerView {
    fn of(site: &Site, lane: &super::lane::State) -> Self {
        let (remote, open) = match lane.line() {
            Line::Closed => (None, false),
            Line::Opening(remote, _) => (Some(remote.clone()), false),
            Line::Open(remote) => (Some(remote.clone()), true),
        };
        Self { site: site.clone(), remote, open, copies: lane.taken() }
    }
}

/// What the lock protects.
#[derive(Debug)]
pub struct State {
    /// Which copies are in memory.
    pub window: Window,
    /// Those that know where to go.
    pub board: Board,
    /// Those that do not yet.
    pub unrouted: VecDeque<QueuedCopy>,
    /// The earliest time at which something becomes due that is not in memory.
    pub next_due: Option<Timestamp>,
    /// Domains, by class, whose copies were left in the queue because their site has enough on the board.
    parked: HashMap<Site, HashSet<(Priority, Domain)>>,
    /// How many these are.
    parked_domains: usize,
}

impl Shared {
    /// With nothing in it.
    pub fn new(config: &Config) -> Self {
        let state = State {
            window: Window::new(window::size_for(config.sending.workers)),
            board: Board::new(config.sending.clone()),
            unrouted: VecDeque::new(),
            next_due: None,
            parked: HashMap::new(),
            parked_domains: 0,
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            reports: Notify::new(),
            reports_wait: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            login_complaint: Mutex::new(None),
            shortage_complaint: Mutex::new(None),
            activity: Activity::default(),
            lanes: Mutex::new(Lanes::default()),
            clearing: Clearing::new(),
        }
    }

    /// The workers. A panic while they were locked left a worker too many or too few in a list for people.
    pub fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state. A panic while it was locked left it consistent enough: counters may be off by the copy that panicked.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes copies that were accepted this moment; what finds no room is read from the queue later.
    pub fn offer(&self, copies: Vec<QueuedCopy>, now: Timestamp) {
        {
            let mut state = self.lock();
            for copy in copies {
                state.offer(copy, now);
            }
        }
        self.wake.notify_one();
    }

    /// New bounds.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = self.lock();
        state.window.resize(window::size_for(config.sending.workers));
        state.board.reconfigure(config.sending.clone());
    }

    /// No further copy is begun from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.lock().board.rouse_all();
    }

    /// Whether [`Shared::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether a failed login may be logged now: once a minute is enough, however many copies it hits.
    pub(super) fn may_complain_of_login(&self) -> bool {
        let mut last = self.login_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= COMPLAINTS);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    /// Tells that nothing can be dialled for now: once a minute is enough.
    pub(super) fn complain_of_shortage(&self, detail: &str) {
        let mut last = self.shortage_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAINTS) {
            *last = Some(Instant::now());
            tracing::error!(detail, "no session can be opened: mail is deferred; its sites are not to blame");
        }
    }

    /// The next copies, at most `wanted`, for a session that is open to `site`.
    pub fn more_for(&self, site: &Site, served: Served, wanted: usize) -> Vec<Ready> {
        if self.is_draining() {
            return Vec::new();
        }
        let mut state = self.lock();
        let now = Instant::now();
        let mut more = Vec::new();
        while more.len() < wanted {
            let copies = served.copies.saturating_add(u32::try_from(more.len()).unwrap_or(u32::MAX));
            let Some(next) = state.board.next_for(site, Served { copies, ..served }, now) else { break };
            more.push(next);
        }
        let wants_more = !more.is_empty() && state.is_hungry();
        drop(state);
        if wants_more {
            self.wake.notify_one();
        }
        more
    }

    /// These copies were settled: they leave the window, or come back later.
    pub fn settled(&self, settlements: &[(CopyId, NextStep)]) {
        let mut state = self.lock();
        for (copy, next) in settlements {
            state.window.release(*copy);
            if let NextStep::Retry(due) = next {
                state.expect(*due);
            }
        }
        let hungry = state.is_hungry();
        drop(state);
        if hungry {
            self.wake.notify_one();
        }
    }

    /// For those who look: what became of copies, and where.
    pub(super) fn tell(&self, copies: &[Arc<QueuedCopy>], settlements: &[Settlement]) {
        self.activity.settled(copies.iter().map(|copy| &**copy).zip(settlements));
        let mut state = self.lock();
        for settlement in settlements {
            let Some(attempt) = settlement.attempt.as_ref().filter(|attempt| !attempt.site.is_empty()) else { continue };
            let outcomes: Vec<&Outcome> = settlement.recipients.iter().map(|recipient| &recipient.outcome).collect();
            state.board.tell(&Site::new(&*attempt.site), &outcomes, settlement.at);
        }
    }

    /// An administrator changed these copies in the queue: what waits of them in memory is let go, and their domains are read anew. Those
    /// whose route is being looked up are refused by the queue when they are to begin, and come back the same way.
    pub fn changed(&self, copies: &HashSet<CopyId>, domains: impl IntoIterator<Item = Domain>) {
        let mut state = self.lock();
        let mut gone = state.board.withdraw(copies);
        state.unrouted.retain(|copy| {
            let goes = copies.contains(&copy.id);
            if goes {
                gone.push(copy.id);
            }
            !goes
        });
        for copy in gone {
            state.window.release(copy);
        }
        let domains: Vec<Domain> = domains.into_iter().collect();
        if domains.len() > BY_DOMAIN {
            state.window.rewind();
        } else {
            domains.iter().for_each(|domain| state.window.leave_all_in_queue(domain));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Nothing more is begun with a site: what waits for it stays in the queue.
    pub fn pause(&self, site: &Site, paused: PausedSite) {
        let mut state = self.lock();
        for ready in state.board.pause(site, paused) {
            state.park(ready);
        }
    }

    /// A site may be sent to again. False: it was not paused.
    pub fn resume(&self, site: &Site) -> bool {
        let mut state = self.lock();
        let was_paused = state.board.resume(site);
        drop(state);
        self.wake.notify_one();
        was_paused
    }

    /// Domains whose copies were left in the queue because their site is paused or has enough on the board.
    pub fn parked(&self, site: &Site) -> Vec<Domain> {
        let state = self.lock();
        let domains: HashSet<&Domain> = state.parked.get(site).into_iter().flatten().map(|(_, domain)| domain).collect();
        domains.into_iter().cloned().collect()
    }

    /// A copy could not even be begun: the queue still has it, and it is read again.
    pub fn give_back(&self, copy: &QueuedCopy) {
        let mut state = self.lock();
        state.window.release(copy.id);
        state.window.leave_in_queue(copy.message.priority, copy.domain.clone());
    }

    /// A copy that is in the window has changed: its route is looked up again.
    pub(super) fn route_again(&self, copy: QueuedCopy) {
        self.lock().unrouted.push_back(copy);
        self.wake.notify_one();
    }

    /// Whether a copy of this message is in memory.
    pub fn has_message(&self, id: MessageId) -> bool {
        self.lock().window.has_message(id)
    }
}

impl State {
    fn offer(&mut self, copy: QueuedCopy, now: Timestamp) {
        if copy.due_at > now {
            self.expect(copy.due_at);
            return;
        }
        match self.window.admit(&copy) {
            Admission::Admitted => self.unrouted.push_back(copy),
            Admission::Known | Admission::DomainFull => {}
            Admission::Full => self.window.leave_in_queue(copy.message.priority, copy.domain),
        }
    }

    /// The site whose copies of that domain are left in the queue for now.
    pub fn parked_at(&self, domain: &Domain) -> Option<&Site> {
        self.parked.iter().find(|(_, domains)| domains.iter().any(|(_, parked)| parked == domain)).map(|(site, _)| site)
    }

    /// The site of each domain whose copies wait for it in memory, are left in the queue for it, or were put off as it is down.
    pub fn sites_of_domains(&self) -> HashMap<Domain, Site> {
        let mut sites = self.board.domains();
        let parked = self.parked.iter().flat_map(|(site, domains)| domains.iter().map(|(_, domain)| (domain.clone(), site.clone())));
        sites.extend(parked);
        sites
    }

    /// Something becomes due then.
    pub fn expect(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |known| known.min(due)));
    }

    /// Its site has enough on the board: the copy goes back to the queue until there is room.
    pub fn park(&mut self, ready: Ready) {
        let (class, domain) = (ready.copy.message.priority, ready.copy.domain.clone());
        self.window.release(ready.copy.id);
        // It is known here now, and read when its site has room, not when its domain has.
        self.window.forget_backlog(class, &domain);
        let full = self.parked_domains >= MOST_PARKED;
        let of_site = self.parked.entry(ready.route.site.clone()).or_default();
        if full && !of_site.contains(&(class, domain.clone())) {
            self.window.pass_over(Cursor::at(&ready.copy));
        } else if of_site.insert((class, domain)) {
            self.parked_domains += 1;
        }
    }

    /// Domains whose site has room again are read again.
    pub fn unpark(&mut self) {
        let Self { parked, parked_domains, board, window, .. } = self;
        parked.retain(|site, domains| {
            let has_room = |(class, _): &&(Priority, Domain)| board.has_room(site, window.share(*class));
            let freed: Vec<(Priority, Domain)> = domains.iter().filter(has_room).take(UNPARK).cloned().collect();
            for of in freed {
                domains.remove(&of);
                *parked_domains -= 1;
                window.leave_in_queue(of.0, of.1);
            }
            !domains.is_empty()
        });
        if *parked_domains <= MOST_PARKED / 2 {
            window.go_back();
        }
    }

    /// Domains of a class whose copies a page need not bring: they are known to lie there, and have no room.
    pub fn known_to_wait(&self, class: Priority) -> Vec<Domain> {
        let parked = self.parked.values().flatten().filter(|(of, _)| *of == class).map(|(_, domain)| domain);
        self.window.backlogged(class).chain(parked).cloned().collect()
    }

    fn is_hungry(&self) -> bool {
        !self.parked.is_empty() || self.window.wants(Instant::now()).is_some()
    }
}

/// What follows for the window from settlements.
pub(super) fn steps(settlements: &[Settlement]) -> Vec<(CopyId, NextStep)> {
    settlements.iter().map(|settlement| (settlement.copy, settlement.next.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::delivery::board::Pushed;
    use crate::delivery::testing::{copy, route};
    use crate::delivery::window::Read;

    fn shared() -> Shared {
        Shared::new(&Config::default_for(Domain::parse("mail.example.test").unwrap()))
    }

    fn ready(copy: QueuedCopy) -> Ready {
        Ready { copy: Arc::new(copy), route: route("full"), routing: Duration::ZERO, begun_at: None }
    }

    #[test]
    fn a_domain_whose_site_is_full_is_read_again_when_the_site_has_room() {
        let shared = shared();
        let mut state = shared.lock();
        let (full, class) = (copy(1), Priority::Normal);
        let (site, domain) = (Site::new("full"), full.domain.clone());
        assert_eq!(state.window.admit(&full), Admission::Admitted);
        state.window.leave_in_queue(class, domain.clone());
        let share = state.window.share(class);
        for id in 2.. {
            if matches!(state.board.push(ready(copy(id)), Timestamp::UNIX_EPOCH, share), Pushed::SiteFull(_)) {
                break;
            }
        }
        state.park(ready(full));
        state.unpark();
        let now = Instant::now();
        assert!(matches!(state.window.wants(now), Some(Read::Page(_))), "reading the domain now would be of no use");
        assert_eq!(state.known_to_wait(class), std::slice::from_ref(&domain));
        while !state.board.has_room(&site, share) {
            state.board.take(now).unwrap();
            state.board.release(&site);
        }
        state.unpark();
        state.window.page_was_read(Cursor::start_of(Priority::Urgent), None, now);
        assert_eq!(state.window.wants(now), Some(Read::Domain(class, domain)));
    }

    #[test]
    fn of_more_domains_than_are_remembered_the_place_in_the_queue_is() {
        let shared = shared();
        let (mut state, now) = (shared.lock(), Instant::now());
        let most = i64::try_from(MOST_PARKED).unwrap();
        for id in 1..=most + 2 {
            let mut copy = copy(id);
            copy.domain = Domain::parse(&format!("d{id}.test")).unwrap();
            state.park(ready(copy));
        }
        assert_eq!((state.parked_domains, shared_domains(&state)), (MOST_PARKED, MOST_PARKED));
        let last = Cursor::at(&copy(most + 2));
        state.window.page_was_read(Cursor::start_of(Priority::Urgent), None, now);
        state.window.page_was_read(Cursor::start_of(Priority::Normal), Some(last), now);
        state.window.page_was_read(last, None, now);
        // Their site has room: they come back, sixteen at a time, and then those that were only passed over.
        for _ in 0..MOST_PARKED / 2 / UNPARK {
            state.unpark();
        }
        assert!(!matches!(state.window.wants(now), Some(Read::Page(Cursor { priority: Priority::Normal, .. }))));
        state.unpark();
        let back = state.window.backlogged(Priority::Normal).cloned().collect::<Vec<_>>();
        back.iter().for_each(|domain| state.window.forget_backlog(Priority::Normal, domain));
        let from = Cursor { copy: most, ..Cursor::at(&copy(most + 1)) };
        assert_eq!(state.window.wants(now), Some(Read::Page(from)));
    }

    fn shared_domains(state: &State) -> usize {
        state.known_to_wait(Priority::Normal).len()
    }

    #[test]
    fn what_is_offered_too_early_is_expected_then() {
        let shared = shared();
        let mut later = copy(1);
        later.due_at = Timestamp::from_second(100).unwrap();
        shared.offer(vec![later.clone()], Timestamp::UNIX_EPOCH);
        assert_eq!(shared.lock().next_due, Some(later.due_at));
        assert!(shared.lock().unrouted.is_empty() && !shared.has_message(later.message.id));
    }
}

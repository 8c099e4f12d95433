//! What intake has to do, and when: takes what was seen, listed and ended, hands on batches. Every collection in it is bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::batch::{Candidate, Desk, Ended, Fate, Trouble, Unplaced};
use super::judge::Arrival;
use super::listing::{Listed, Listing};
use super::names::{self, Class, classify};
use super::troubles::Troubles;
use super::watch::Seen;

/// Files in one commit.
const BATCH: usize = 256;
/// Batches at once: one is judged while another is written to the disk and a third is committed. Together with [`BATCH`], how many dropped
/// files are open: less than the 1,024 that a process may have open where nobody raised the limit.
const BATCHES: usize = 3;
/// Names that wait for a batch, some hundred octets each; beyond it, events stay in the kernel, which keeps 16,384 and then loses them, and
/// listings stand still.
const READY: usize = 8192;
/// Names that wait for their files to settle, and names of files that are being written; a rescan finds those beyond it.
const WAITING: usize = 10_000;
/// Names that are no messages and were warned about.
const WARNED: usize = 1000;
/// The pause after trouble with the disk or the store.
const PAUSE: Duration = Duration::from_secs(1);
/// Between the starts of two rescans at least: lost events ask for one at once, and may be lost again and again.
const RESCAN_GAP: Duration = Duration::from_secs(1);

/// A name that is being dealt with.
enum Busy {
    /// In `ready`.
    Queued(Arrival),
    /// In a batch, or unplaced. What was seen of the name since then is of another file.
    Working { since: Option<Arrival> },
}

/// How far intake is with what stood in `drop/` when it started: an earlier daemon may have accepted it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstPass {
    /// The first listing has not come to its end.
    Listing,
    /// It has: every name that it found is among the first so many that were queued.
    Until(u64),
    /// Everything was looked at.
    Over,
}

/// The state of intake.
pub(super) struct Agenda {
    desk: Arc<Desk>,
    /// What is under way.
    pub(super) batches: FuturesUnordered<BoxFuture<'static, (Option<u64>, Ended)>>,
    /// The rescan that is under way.
    pub(super) listing: Listing,
    /// Every name that is in `ready`, in a batch or in `unplaced`: none is dealt with twice at once.
    busy: HashMap<OsString, Busy>,
    ready: VecDeque<OsString>,
    /// Names that ever were in `ready`, and those that went from there into a batch.
    queued: u64,
    begun: u64,
    /// Batches under way, by what `begun` was before their first name.
    running: BTreeSet<u64>,
    first_pass: FirstPass,
    /// Files that are to settle, by the time to look at them; the number tells equal times apart.
    waiting: BTreeMap<(Instant, u64), (OsString, Arrival)>,
    waiting_names: HashSet<OsString>,
    waited: u64,
    /// Files that were created and not closed yet.
    open: HashSet<OsString>,
    /// Accepted files that could not be moved to their places.
    unplaced: Vec<(OsString, Box<Unplaced>)>,
    rescan_at: Instant,
    rescanned_at: Option<Instant>,
    /// Asked for while a listing ran: so long after its end.
    rescan_after: Option<Duration>,
    /// Nothing is started before this: the disk or the store had trouble.
    paused_until: Option<Instant>,
    troubles: Troubles,
    warned: HashSet<OsString>,
}

impl Agenda {
    /// A rescan is due at once.
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            batches: FuturesUnordered::new(),
            listing: Listing::default(),
            busy: HashMap::new(),
            ready: VecDeque::new(),
            queued: 0,
            begun: 0,
            running: BTreeSet::new(),
            first_pass: FirstPass::Listing,
            waiting: BTreeMap::new(),
            waiting_names: HashSet::new(),
            waited: 0,
            open: HashSet::new(),
            unplaced: Vec::new(),
            rescan_at: Instant::now(),
            rescanned_at: None,
            rescan_after: None,
            paused_until: None,
            troubles: Troubles::default(),
            warned: HashSet::new(),
        }
    }

    /// Whether more names can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < READY
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub(super) fn wake_at(&self) -> Instant {
        let waiting = self.waiting.first_key_value().map(|((at, _), _)| *at);
        let rescan = (!self.listing.is_running()).then_some(self.rescan_at);
        // While a listing runs, its end is what is waited for.
        [waiting, rescan, self.paused_until].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + PAUSE)
    }

    /// Starts what can be started: files that are to be moved first, then batches of what is ready, however few.
    pub(super) fn start_batches(&mut self) {
        if self.paused_until.is_some() {
            return;
        }
        if !self.unplaced.is_empty() && self.batches.len() < BATCHES {
            let unplaced = std::mem::take(&mut self.unplaced);
            let placed = Arc::clone(&self.desk).place(unplaced, Ended::default());
            self.batches.push(placed.map(|ended| (None, ended)).boxed());
        }
        while self.batches.len() < BATCHES && !self.ready.is_empty() {
            let min_free = self.desk.settings.borrow().min_free;
            if let Some(lack) = self.troubles.lack_of_space(self.desk.layout.root(), min_free) {
                self.paused_until = Some(Instant::now() + PAUSE);
                self.stand_still(lack);
                return;
            }
            let names: Vec<OsString> = self.ready.drain(..self.ready.len().min(BATCH)).collect();
            let number = self.begun;
            self.begun += names.len() as u64;
            self.running.insert(number);
            let batch = names.into_iter().map(|name| self.work_on(name)).collect();
            let processed = Arc::clone(&self.desk).process(batch, self.first_pass != FirstPass::Over);
            self.batches.push(processed.map(move |ended| (Some(number), ended)).boxed());
        }
    }

    fn work_on(&mut self, name: OsString) -> Candidate {
        let arrival = match self.busy.insert(name.clone(), Busy::Working { since: None }) {
            Some(Busy::Queued(arrival)) => arrival,
            _ => Arrival::Found,
        };
        Candidate { name, arrival }
    }

    /// Takes note of what inotify told.
    pub(super) fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Renamed(name) => {
                self.open.remove(&name);
                self.note(name, Arrival::Renamed);
            }
            Seen::Created(name) => self.note(name, Arrival::Created),
            Seen::Closed(name) => {
                self.open.remove(&name);
                match self.busy.get_mut(&name) {
                    Some(Busy::Queued(Arrival::Renamed)) => {}
                    Some(Busy::Queued(arrival)) => *arrival = Arrival::Found,
                    Some(Busy::Working { since }) => *since = since.or(Some(Arrival::Found)),
                    None if classify(&name) == Class::Message => self.wait(name, self.settle(), Arrival::Found),
                    None => {}
                }
            }
            Seen::Lost => {
                // Closings may be among what was lost.
                self.open.clear();
                let since = self.rescanned_at.map_or(RESCAN_GAP, |at| at.elapsed());
                self.rescan_within(RESCAN_GAP.saturating_sub(since));
            }
        }
    }

    /// Takes a piece of the listing, or its end.
    pub(super) fn take_listed(&mut self, listed: Listed) {
        match listed {
            Listed::Names(names) => {
                for name in names {
                    // The first time, what waits was not looked at yet.
                    let known = self.first_pass == FirstPass::Over && self.waiting_names.contains(&name);
                    if known || self.busy.contains_key(&name) {
                        continue;
                    }
                    let arrival = if self.open.contains(&name) { Arrival::Open } else { Arrival::Found };
                    self.note(name, arrival);
                }
            }
            Listed::End(result) => {
                let rescan = self.desk.settings.borrow().rescan;
                self.rescan_at = Instant::now() + self.rescan_after.take().unwrap_or(rescan);
                match result {
                    Ok(()) if self.first_pass == FirstPass::Listing => {
                        self.first_pass = FirstPass::Until(self.queued);
                        self.look_at_first_pass();
                    }
                    Ok(()) => {}
                    Err(error) => self.trouble(&Trouble::Io { doing: "listing drop/", error }),
                }
            }
        }
    }

    /// Does what is due. `true`: a rescan began, so that the watch is to be renewed.
    pub(super) fn on_time(&mut self) -> bool {
        let now = Instant::now();
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now
        {
            let (name, arrival) = entry.remove();
            self.waiting_names.remove(&name);
            self.note(name, arrival);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.desk.counts.intake_paused.set(0);
            self.desk.standing.go();
        }
        let rescans = self.rescan_at <= now && !self.listing.is_running();
        if rescans {
            self.rescanned_at = Some(now);
            self.listing.start(self.desk.layout.drop());
        }
        rescans
    }

    /// Takes note of what became of a batch. `false`: the store has ended.
    pub(super) fn end_batch(&mut self, (number, ended): (Option<u64>, Ended)) -> bool {
        let closed = ended.troubles.iter().any(Trouble::is_closed);
        // Only what was done shows that it can be done: a batch of files that are not ready yet meets no trouble either.
        if ended.troubles.is_empty() && ended.placed > 0 {
            self.troubles.over();
        }
        ended.troubles.iter().for_each(|trouble| self.trouble(trouble));
        for (name, fate) in ended.fates {
            let since = match self.busy.remove(&name) {
                Some(Busy::Working { since }) => since,
                _ => None,
            };
            match fate {
                Fate::Unplaced(unplaced) => {
                    self.pause();
                    // Busy as long as it stands in drop/: found there again, it would be accepted again.
                    self.busy.insert(name.clone(), Busy::Working { since });
                    self.unplaced.push((name, unplaced));
                    continue;
                }
                Fate::Retry(arrival) => {
                    self.pause();
                    self.note_again(name.clone(), arrival);
                }
                Fate::Full(arrival) => self.note_again(name.clone(), arrival),
                // What was seen since decides.
                Fate::Wait { .. } | Fate::Open if since.is_some() => {}
                Fate::Wait { seen, after } => self.wait(name.clone(), after, Arrival::Seen(seen)),
                Fate::Open => {
                    if self.open.len() < WAITING {
                        self.open.insert(name.clone());
                    }
                }
                Fate::Done => {
                    self.open.remove(&name);
                }
            }
            if let Some(arrival) = since {
                self.note(name, arrival);
            }
        }
        if let Some(number) = number {
            self.running.remove(&number);
            self.look_at_first_pass();
        }
        !closed
    }

    /// Ends the first pass when everything that was queued by the end of the first listing was looked at.
    fn look_at_first_pass(&mut self) {
        let looked_at = self.running.first().copied().unwrap_or(self.begun);
        if matches!(self.first_pass, FirstPass::Until(last) if looked_at >= last) {
            self.first_pass = FirstPass::Over;
            self.desk.placing.end_doubt();
        }
    }

    /// Puts a name in line that a batch could not look at.
    fn note_again(&mut self, name: OsString, arrival: Arrival) {
        self.note(name, arrival);
        if let FirstPass::Until(last) = &mut self.first_pass {
            *last = self.queued;
        }
    }

    /// Puts a name in line.
    fn note(&mut self, name: OsString, arrival: Arrival) {
        match classify(&name) {
            Class::Quiet => return,
            Class::Other => return self.warn(name),
            Class::Message => {}
        }
        match self.busy.get_mut(&name) {
            None => {
                self.busy.insert(name.clone(), Busy::Queued(arrival));
                self.ready.push_back(name);
                self.queued += 1;
            }
            Some(Busy::Queued(known)) if arrival == Arrival::Renamed => *known = arrival,
            Some(Busy::Queued(_)) => {}
            Some(Busy::Working { since }) => {
                if since.is_none() || arrival == Arrival::Renamed {
                    *since = Some(arrival);
                }
            }
        }
    }

    /// Puts a name aside for this time.
    fn wait(&mut self, name: OsString, after: Duration, arrival: Arrival) {
        if self.waiting.len() >= WAITING {
            // Rescans look at the ages of files: one soon is as good.
            self.rescan_within(after.max(RESCAN_GAP));
            return;
        }
        if self.waiting_names.insert(name.clone()) {
            self.waited += 1;
            self.waiting.insert((Instant::now() + after, self.waited), (name, arrival));
        }
    }

    /// Starts nothing for a while.
    fn pause(&mut self) {
        if self.paused_until.replace(Instant::now() + PAUSE).is_none() {
            self.desk.counts.intake_pauses.inc();
        }
        self.stand_still(self.troubles.cause());
    }

    /// Tells those who look.
    fn stand_still(&self, reason: String) {
        self.desk.counts.intake_paused.set(1);
        self.desk.standing.stop(reason);
    }

    /// Makes the next rescan come no later than this.
    fn rescan_within(&mut self, after: Duration) {
        if self.listing.is_running() {
            // What it has passed already, it does not see again.
            self.rescan_after = Some(self.rescan_after.map_or(after, |known| known.min(after)));
        } else {
            self.rescan_at = self.rescan_at.min(Instant::now() + after);
        }
    }

    fn settle(&self) -> Duration {
        self.desk.settings.borrow().settle
    }

    fn warn(&mut self, name: OsString) {
        if self.warned.len() < WARNED && self.warned.insert(name.clone()) {
            tracing::warn!(file = %names::shown(&name), "drop/ holds a file that is no message: messages are named *.eml; it is left alone");
            if self.warned.len() == WARNED {
                tracing::warn!("drop/ holds many such files: no more of them are named");
            }
        }
    }

    fn trouble(&mut self, trouble: &Trouble) {
        self.troubles.note(trouble, self.desk.layout.root());
    }
}

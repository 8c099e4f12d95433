//! What the board shows of itself, and what an administrator changes on it: pauses, looks at sites that are down, copies taken back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Board, Ready, SiteState};
use crate::clock::Timestamp;
use crate::config::Rate;
use crate::message::{Domain, MessageId};
use crate::outcome::{Kind, Outcome};
use crate::queue::{CopyId, PausedSite, QueuedCopy};
use crate::route::Site;

/// What is known of a site.
#[derive(Debug, Clone)]
pub struct SiteView {
    /// Which.
    pub site: Site,
    /// Sessions open or opening.
    pub sessions: usize,
    /// At most so many may be.
    pub limit: usize,
    /// Sessions that got through to the peer.
    pub connected: usize,
    /// Sessions with nothing to do.
    pub idle: usize,
    /// Copies that wait on the board.
    pub waiting: usize,
    /// Of those, how many were never put off: the queue has no site recorded for them.
    pub fresh: usize,
    /// Set while the last word was a failure to connect.
    pub health: Option<HealthView>,
    /// Messages that it gets at most.
    pub rate: Option<Rate>,
    /// Its rate is used up for that long.
    pub throttled_for: Option<Duration>,
    /// An administrator wants nothing sent to it.
    pub paused: Option<PausedSite>,
    /// What became of copies that were tried here.
    pub tally: Tally,
}

/// A site that could not be connected to.
#[derive(Debug, Clone)]
pub struct HealthView {
    /// The first failure of the row.
    pub since: Timestamp,
    /// It is left alone until then; past: it is to be looked at by one copy.
    pub until: Timestamp,
    /// The last failure.
    pub detail: String,
}

/// Outcomes of recipients at one site, since the daemon knows it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Accepted by it.
    pub delivered: u64,
    /// Put off.
    pub deferred: u64,
    /// Refused.
    pub failed: u64,
    /// The newest.
    pub last: Option<LastReply>,
    /// The newest that was no delivery.
    pub last_error: Option<LastReply>,
}

/// The newest outcome at a site.
#[derive(Debug, Clone)]
pub struct LastReply {
    /// When.
    pub at: Timestamp,
    /// What it was.
    pub kind: Kind,
    /// Which host of the site, where one answered.
    pub host: Option<Arc<str>>,
    /// One line.
    pub text: String,
}

/// A copy that waits on the board.
#[derive(Debug, Clone)]
pub struct WaitingView {
    /// Which.
    pub copy: CopyId,
    /// For whom.
    pub site: Site,
    /// 1: the next of its site.
    pub place: usize,
    /// Copies that wait for the site.
    pub of: usize,
    /// What it waits for.
    pub obstacle: Obstacle,
}

/// What keeps the first copy of a site from being taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// An administrator, for that reason.
    Paused(String),
    /// Its rate is used up for that long.
    Rate(Duration),
    /// It has as many sessions as it may.
    SiteLimit {
        /// Open or opening.
        sessions: usize,
        /// At most.
        limit: usize,
    },
    /// Every worker is busy.
    Workers {
        /// All of them.
        total: usize,
    },
    /// None: it is about to be taken.
    Nothing,
}

impl SiteState {
    fn obstacle(&self, board: &Board, now: Instant) -> Obstacle {
        let limit = self.limit(&board.sending);
        if let Some(paused) = &self.paused {
            Obstacle::Paused(paused.reason.clone())
        } else if let Some(at) = self.throttled {
            Obstacle::Rate(at.saturating_duration_since(now))
        } else if self.active >= limit {
            Obstacle::SiteLimit { sessions: self.active, limit }
        } else if board.running >= board.sending.workers {
            Obstacle::Workers { total: board.sending.workers }
        } else {
            Obstacle::Nothing
        }
    }

    /// Copies that wait and were never put off.
    pub(super) fn fresh(&self) -> usize {
        self.waiting.values().filter(|ready| ready.copy.first_failed_at.is_none()).count()
    }

    fn view(&self, site: &Site, board: &Board, now: Instant) -> SiteView {
        let health = self.health.failing().map(|(since, until, detail)| HealthView { since, until, detail: detail.to_owned() });
        SiteView {
            site: site.clone(),
            sessions: self.active,
            limit: self.limit(&board.sending),
            connected: self.connected,
            idle: self.idle,
            waiting: self.waiting.len(),
            fresh: self.fresh(),
            health,
            rate: self.rate,
            throttled_for: self.throttled.map(|at| at.saturating_duration_since(now)),
            paused: self.paused.clone(),
            tally: self.tally.clone(),
        }
    }
}

impl Board {
    /// Every site that is known, in the order of their names.
    pub fn sites(&self, now: Instant) -> Vec<SiteView> {
        let mut views: Vec<SiteView> = self.sites.iter().map(|(site, state)| state.view(site, self, now)).collect();
        views.sort_by(|one, other| one.site.as_str().cmp(other.site.as_str()));
        views
    }

    /// Their names alone.
    pub fn names(&self) -> Vec<Site> {
        self.sites.keys().cloned().collect()
    }

    /// One of them.
    pub fn site(&self, site: &Site, now: Instant) -> Option<SiteView> {
        self.sites.get(site).map(|state| state.view(site, self, now))
    }

    /// Until when a site is left alone as it could not be connected to, and why.
    pub fn down(&self, site: &Site, now: Timestamp) -> Option<HealthView> {
        self.sites
            .get(site)
            .filter(|state| state.health.down_at(now).is_some())
            .and_then(|state| state.health.failing().map(|(since, until, detail)| HealthView { since, until, detail: detail.to_owned() }))
    }

    /// Sessions at most.
    pub fn workers(&self) -> usize {
        self.sending.workers
    }

    /// Sessions that have nothing to do.
    pub fn idle(&self) -> usize {
        self.sites.values().map(|state| state.idle).sum()
    }

    /// Where copies of a message wait.
    pub fn find(&self, message: MessageId, now: Instant) -> Vec<WaitingView> {
        let mut found = Vec::new();
        for (site, state) in &self.sites {
            for (place, ready) in state.waiting.values().enumerate().filter(|(_, ready)| ready.copy.message.id == message) {
                found.push(WaitingView {
                    copy: ready.copy.id,
                    site: site.clone(),
                    place: place + 1,
                    of: state.waiting.len(),
                    obstacle: state.obstacle(self, now),
                });
            }
        }
        found
    }

    /// The site of each domain that is known here: of copies that wait.
    pub fn domains(&self) -> HashMap<Domain, Site> {
        let mut sites = HashMap::new();
        for (site, state) in &self.sites {
            sites.extend(state.waiting.values().map(|ready| (ready.copy.domain.clone(), site.clone())));
        }
        sites
    }

    /// Copies that wait for a site.
    pub fn waiting_at(&self, site: &Site) -> Vec<Arc<QueuedCopy>> {
        self.sites.get(site).map_or_else(Vec::new, |state| state.waiting.values().map(|ready| ready.copy.clone()).collect())
    }

    /// Nothing is begun with the site until it is resumed. Hands on the copies that waited for it; those whose attempts have begun stay.
    pub fn pause(&mut self, site: &Site, paused: PausedSite) -> Vec<Ready> {
        let state = self.sites.entry(site.clone()).or_default();
        let before = state.head(&self.sending);
        state.paused = Some(paused);
        let (begun, waiting) = std::mem::take(&mut state.waiting).into_iter().partition(|(_, ready)| ready.begun_at.is_some());
        state.waiting = begun;
        self.relist(site, before);
        let waiting: std::collections::BTreeMap<_, _> = waiting;
        waiting.into_values().collect()
    }

    /// The site may be sent to again. False: it was not paused.
    pub fn resume(&mut self, site: &Site) -> bool {
        let mut was_paused = false;
        self.change(site, |state| was_paused = state.paused.take().is_some());
        was_paused
    }

    /// Whether an administrator wants nothing sent to it.
    pub fn is_paused(&self, site: &Site) -> bool {
        self.sites.get(site).is_some_and(|state| state.paused.is_some())
    }

    /// Sites that are down are tried again now, by one copy first: this one, or all. Returns how many were.
    pub fn look_now(&mut self, site: Option<&Site>, now: Timestamp) -> usize {
        let mut looked = 0;
        let mut look = |state: &mut SiteState| {
            if state.health.down_at(now).is_some() {
                state.health.look_now(now);
                looked += 1;
            }
        };
        match site {
            Some(site) => self.sites.get_mut(site).into_iter().for_each(&mut look),
            None => self.sites.values_mut().for_each(&mut look),
        }
        looked
    }

    /// Takes copies off the board whose attempts have not begun. Returns which were there.
    pub fn withdraw(&mut self, copies: &HashSet<CopyId>) -> Vec<CopyId> {
        let mut taken = Vec::new();
        let sites: Vec<Site> = self.sites.keys().cloned().collect();
        for site in sites {
            self.change(&site, |state| {
                state.waiting.retain(|_, ready| {
                    let goes = ready.begun_at.is_none() && copies.contains(&ready.copy.id);
                    if goes {
                        taken.push(ready.copy.id);
                    }
                    !goes
                });
            });
        }
        taken
    }

    /// Counts outcomes at a site.
    pub fn tell(&mut self, site: &Site, outcomes: &[&Outcome], at: Timestamp) {
        let Some(state) = self.sites.get_mut(site) else { return };
        for outcome in outcomes {
            *match outcome.kind {
                Kind::Delivered => &mut state.tally.delivered,
                Kind::Deferred => &mut state.tally.deferred,
                Kind::Failed => &mut state.tally.failed,
            } += 1;
        }
        let reply = |outcome: &&Outcome| {
            let host = outcome.peer.as_ref().map(|peer| peer.host.clone());
            LastReply { at, kind: outcome.kind, host, text: outcome.text.clone() }
        };
        if let Some(last) = outcomes.last() {
            state.tally.last = Some(reply(last));
        }
        if let Some(error) = outcomes.iter().rfind(|outcome| outcome.kind != Kind::Delivered) {
            state.tally.last_error = Some(reply(error));
        }
    }
}

//! What is looked up when the metrics are asked for: figures that exist anyway, and cost nothing in between.

use super::super::figure::{Counter, Label, Level, Named, Seconds, Series, figures, label};
use crate::clock::Timestamp;
use crate::delivery::{Load, SiteLoad};
use crate::queue::{self, ByState, DomainShape};
use crate::route::CacheStats;

/// What stands for every site that is not named.
const OTHER: &str = "other";

figures! {
    /// The process.
    pub(super) struct Process {
        /// When the daemon started, in seconds since the epoch.
        process_start_time_seconds: Seconds,
    }
}

figures! {
    /// The program.
    pub(super) struct Build {
        /// 1, with the version that runs.
        build_info: Named,
    }
}

figures! {
    /// What waits, as the database has it.
    pub(super) struct Queue {
        /// Copies in the queue, one a message and target domain: due now, waiting for their time, in an attempt, or on hold.
        queue_copies: Series<State, Level>,
        /// The same copies by the age of their message too: how long ago it was accepted. age: each says where the next one begins.
        queue_copies_by_age: Series<Standing, Level>,
        /// Messages that are not finished.
        queue_messages: Level,
        /// Recipients who wait.
        queue_recipients: Level,
        /// Size of the messages that are not finished.
        queue_bytes: Level,
        /// Copies in the queue that were in doubt once.
        queue_copies_in_doubt: Level,
        /// How long ago the oldest message that is not finished was accepted; 0 where there is none.
        queue_oldest_age_seconds: Seconds,
    }
}

figures! {
    /// Who works, and for whom.
    pub(super) struct Delivery {
        /// Workers that have a site to serve.
        workers_busy: Level,
        /// Workers that there may be (sending.workers).
        workers: Level,
        /// Sites (sets of mail servers) that are known now.
        sites: Level,
        /// Of these, how many are left alone since they could not be reached.
        sites_down: Level,
        /// Open copies, deferred ones and those on hold included, as far as it is known where they belong, for the sites with most of them;
        /// other: for all the rest.
        site_copies: Named,
        /// Workers that serve the same sites.
        site_workers: Named,
        /// Whether the same sites are left alone since they could not be reached; other: how many of the rest are.
        site_down: Named,
    }
}

figures! {
    /// What was asked of DNS.
    pub(super) struct Dns {
        /// Lookups, by what answered: memory, a query that was under way already (joined), or a query of its own.
        dns_lookups: Series<Answered, Counter>,
        /// Expired answers that served while DNS failed.
        dns_stale_answers: Counter,
        /// Queries under way.
        dns_queries_under_way: Level,
        /// Answers in memory.
        dns_cache_entries: Level,
        /// Answers that there is room for (dns.cache_size).
        dns_cache_size: Level,
    }
}

label! {
    /// Where a copy stands.
    pub(super) enum State as "state" {
        Due = "due",
        Waiting = "waiting",
        Sending = "sending",
        Held = "held",
    }
}

label! {
    /// What answered a lookup.
    pub(super) enum Answered as "answered" {
        Memory = "memory",
        Joined = "joined",
        Query = "query",
    }
}

impl State {
    fn count(self, copies: &ByState) -> u64 {
        match self {
            Self::Due => copies.due,
            Self::Waiting => copies.waiting,
            Self::Sending => copies.sending,
            Self::Held => copies.held,
        }
    }
}

/// Where a copy stands, and how old it is: the place of its age in [`DomainShape::AGES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing(State, usize);

impl Label for Standing {
    const ALL: &'static [Self] = {
        const STATES: usize = State::ALL.len();
        let mut all = [Self(State::Due, 0); STATES * DomainShape::AGES.len()];
        let mut place = 0;
        while place < all.len() {
            all[place] = Self(State::ALL[place % STATES], place / STATES);
            place += 1;
        }
        &{ all }
    };

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        [self.0.labels(), vec![("age", DomainShape::AGE_NAMES[self.1])]].concat()
    }
}

impl Process {
    pub(super) fn started(at: Timestamp) -> Self {
        let figures = Self::default();
        figures.process_start_time_seconds.set(at.as_duration().as_secs_f64());
        figures
    }
}

impl Build {
    pub(super) fn this() -> Self {
        Self { build_info: Named("version", vec![(env!("CARGO_PKG_VERSION").to_owned(), 1)]) }
    }
}

impl Queue {
    pub(super) fn of(counts: &queue::Counts, now: Timestamp) -> Self {
        let figures = Self::default();
        let copies = counts.by_state();
        State::ALL.iter().for_each(|state| figures.queue_copies.set(*state, state.count(&copies)));
        for standing @ Standing(state, age) in Standing::ALL {
            figures.queue_copies_by_age.set(*standing, state.count(&counts.by_age[*age]));
        }
        figures.queue_messages.set(counts.messages);
        figures.queue_recipients.set(counts.recipients);
        figures.queue_bytes.set(counts.octets);
        figures.queue_copies_in_doubt.set(counts.in_doubt);
        // A clock that was set back counts as no age.
        let age = counts.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
        figures.queue_oldest_age_seconds.set(age);
        figures
    }
}

impl Delivery {
    pub(super) fn of(load: &Load) -> Self {
        let named = |value: fn(&SiteLoad) -> u64| {
            let rest = [(OTHER.to_owned(), value(&load.rest))];
            Named("site", load.first.iter().map(|(site, of_site)| (site.to_string(), value(of_site))).chain(rest).collect())
        };
        let figures = Self {
            site_copies: named(|site| site.copies),
            site_workers: named(|site| site.workers),
            site_down: named(|site| site.down),
            ..Self::default()
        };
        figures.workers_busy.set(load.busy);
        figures.workers.set(load.workers);
        figures.sites.set(load.sites);
        figures.sites_down.set(load.down());
        figures
    }
}

impl Dns {
    pub(super) fn of(stats: CacheStats) -> Self {
        let figures = Self::default();
        figures.dns_lookups.add(Answered::Memory, stats.hits);
        figures.dns_lookups.add(Answered::Joined, stats.joined);
        figures.dns_lookups.add(Answered::Query, stats.misses);
        figures.dns_stale_answers.inc_by(stats.stale);
        figures.dns_queries_under_way.set(stats.under_way as u64);
        figures.dns_cache_entries.set(stats.entries as u64);
        figures.dns_cache_size.set(stats.capacity as u64);
        figures
    }
}

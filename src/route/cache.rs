//! The DNS cache: takes lookups, hands on answers from memory, or from one query however many ask at once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use lru::LruCache;
use tokio::time::Instant;

use super::{Dns, Family, LookupError, Mx};
use crate::config;
use crate::message::Domain;
use crate::outcome::DnsFault;

/// A soft error serves for this long, so that a thousand copies for a dead domain are one query and not a thousand. Far below any wait
/// between attempts, so that it keeps no copy from an answer that has come back.
const SOFT_TTL: Duration = Duration::from_secs(5);

/// An expired answer that serves while DNS fails is asked for again after this long (RFC 8767 5: the failure recheck timer).
const STALE_RECHECK: Duration = Duration::from_secs(30);

/// One LRU of MX and address answers, positive and negative, in front of any [`Dns`]. A clone is a handle to the same cache.
#[derive(Clone)]
pub struct CachedDns {
    shared: Arc<Mutex<State>>,
    /// What is not in memory is asked for.
    asks: bool,
}

/// An answer and where it came from.
#[derive(Debug, Clone)]
pub struct Lookup<T> {
    /// At least one record, or why there is none; a negative time to live is what is left of it.
    pub result: Result<Arc<[T]>, LookupError>,
    /// From where.
    pub freshness: Freshness,
    /// How long ago it came; zero when fresh.
    pub age: Duration,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// DNS, just now.
    Fresh,
    /// Memory, within its time to live.
    Cached,
    /// Memory, expired: DNS fails (`dns.serve_stale`).
    Stale,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Answered from memory, expired answers included.
    pub hits: u64,
    /// Of those, answered with an expired answer while DNS failed.
    pub stale: u64,
    /// Answered by a query that was under way already.
    pub joined: u64,
    /// Queries sent.
    pub misses: u64,
    /// Queries under way now.
    pub under_way: usize,
    /// Answers in memory now.
    pub entries: usize,
    /// `dns.cache_size`.
    pub capacity: usize,
}

/// One answer in memory, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// What was asked for.
    pub name: String,
    /// `MX`, `A` or `AAAA`.
    pub record_type: &'static str,
    /// The records, or why there are none, in one line.
    pub answer: String,
    /// How long ago it came.
    pub age: Duration,
    /// What is left of its time to live; `None` when expired.
    pub expires_in: Option<Duration>,
    /// How often it has served from memory.
    pub hits: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Mx(Domain),
    Addresses(Arc<str>, Family),
}

#[derive(Clone)]
enum Known {
    Mx(Arc<[Mx]>),
    Addresses(Arc<[IpAddr]>),
    NoSuchName,
    NoData,
    Soft(DnsFault),
}

struct Entry {
    known: Known,
    expires: Instant,
    /// While DNS fails: not to be asked for again before this.
    recheck: Option<Instant>,
    came: Instant,
    hits: u64,
}

/// What waiters of one query share.
#[derive(Clone)]
struct Landed {
    known: Known,
    ttl: Duration,
    freshness: Freshness,
    age: Duration,
}

type Query = BoxFuture<'static, Landed>;

struct Flight {
    number: u64,
    query: WeakShared<Query>,
}

struct Settings {
    min_ttl: Duration,
    max_ttl: Duration,
    serve_stale: Duration,
    servers: Vec<SocketAddr>,
}

struct State {
    upstream: Arc<dyn Dns>,
    settings: Settings,
    /// `None`: `dns.cache_size` is 0.
    answers: Option<LruCache<Key, Entry>>,
    /// Queries under way: held by those who wait for them, so that a query that nobody waits for any more ends. Bounded by the waiters.
    flights: HashMap<Key, Flight>,
    flights_started: u64,
    stats: CacheStats,
}

impl CachedDns {
    /// An empty cache in front of `upstream`.
    pub fn new(upstream: Arc<dyn Dns>, config: &config::Dns) -> Self {
        let state = State {
            upstream,
            settings: Settings::of(config),
            answers: NonZeroUsize::new(config.cache_size).map(LruCache::sparse),
            flights: HashMap::new(),
            flights_started: 0,
            stats: CacheStats::default(),
        };
        Self { shared: Arc::new(Mutex::new(state)), asks: true }
    }

    /// The same memory, without the resolver: what is not in it is [`DnsFault::NotAsked`].
    #[must_use]
    pub fn memory(&self) -> Self {
        Self { shared: self.shared.clone(), asks: false }
    }

    /// Takes a new configuration and keeps what is known, within the new size; other `dns.servers` may know other things: all is forgotten.
    pub fn reconfigure(&self, upstream: Arc<dyn Dns>, config: &config::Dns) {
        let mut state = self.lock();
        let settings = Settings::of(config);
        let forget = state.settings.servers != settings.servers;
        state.upstream = upstream;
        state.settings = settings;
        state.answers = match (NonZeroUsize::new(config.cache_size), state.answers.take()) {
            (None, _) => None,
            (Some(size), Some(mut answers)) if !forget => {
                answers.resize(size);
                Some(answers)
            }
            (Some(size), _) => Some(LruCache::sparse(size)),
        };
        if forget {
            // Who waits gets the old servers' answer; nobody joins from now on, and it is not remembered.
            state.flights.clear();
        }
    }

    /// The MX records of a domain.
    pub async fn mx(&self, domain: &Domain) -> Lookup<Mx> {
        self.look_up(Key::Mx(domain.clone())).await.lookup(mx_of)
    }

    /// The MX records of a domain, where they are in memory and within their time: without waiting or asking.
    pub fn mx_in_memory(&self, domain: &Domain) -> Option<Lookup<Mx>> {
        let now = Instant::now();
        let state = self.lock();
        let entry = state.answers.as_ref()?.peek(&Key::Mx(domain.clone())).filter(|entry| now < entry.expires)?;
        let (ttl, age) = (entry.expires.saturating_duration_since(now), now.saturating_duration_since(entry.came));
        let landed = Landed { known: entry.known.clone(), ttl, freshness: Freshness::Cached, age };
        Some(landed.lookup(mx_of))
    }

    /// The addresses of a host.
    pub async fn addresses(&self, host: &Arc<str>, family: Family) -> Lookup<IpAddr> {
        self.look_up(Key::Addresses(host.clone(), family)).await.lookup(addresses_of)
    }

    /// The addresses of a host, where they are in memory: without waiting. `None` counts as nothing, as the caller goes on to ask.
    pub fn addresses_in_memory(&self, host: &Arc<str>, family: Family) -> Option<Lookup<IpAddr>> {
        let landed = self.lock().recall(&Key::Addresses(host.clone(), family))?;
        Some(landed.lookup(addresses_of))
    }

    /// Counts since the start.
    pub fn stats(&self) -> CacheStats {
        let state = self.lock();
        let entries = state.answers.as_ref().map_or(0, LruCache::len);
        let capacity = state.answers.as_ref().map_or(0, |answers| answers.cap().get());
        CacheStats { under_way: state.flights.len(), entries, capacity, ..state.stats }
    }

    /// What is in memory, last used first.
    pub fn entries(&self) -> Vec<CacheEntry> {
        let now = Instant::now();
        let state = self.lock();
        let entries = state.answers.iter().flat_map(LruCache::iter);
        entries.map(|(key, entry)| entry.shown(key, now)).collect()
    }

    /// Forgets all answers for a name (lower case, A-labels), or all there are. Returns how many they were.
    pub fn flush(&self, name: Option<&str>) -> usize {
        let mut state = self.lock();
        // A query that was sent before is not to bring back what was just forgotten.
        match name {
            None => state.flights.clear(),
            Some(name) => state.flights.retain(|key, _| key.name() != name),
        }
        let Some(answers) = &mut state.answers else { return 0 };
        let before = answers.len();
        match name {
            None => answers.clear(),
            Some(name) => answers.retain(|key, _| key.name() != name),
        }
        before - answers.len()
    }

    async fn look_up(&self, key: Key) -> Landed {
        let query = {
            let mut state = self.lock();
            if let Some(landed) = state.recall(&key) {
                return landed;
            }
            if !self.asks {
                return Landed::fresh(Known::Soft(DnsFault::NotAsked), Duration::ZERO);
            }
            if let Some(query) = state.flights.get(&key).and_then(|flight| flight.query.upgrade()) {
                state.stats.joined += 1;
                query
            } else {
                self.take_off(&mut state, key)
            }
        };
        query.await
    }

    /// Starts the one query for a key. It is driven by whoever waits: each of them may go away without harm to the others.
    fn take_off(&self, state: &mut State, key: Key) -> Shared<Query> {
        state.stats.misses += 1;
        state.flights_started += 1;
        let number = state.flights_started;
        let upstream = state.upstream.clone();
        let flight = InFlight { shared: self.shared.clone(), key: key.clone(), number };
        let query: Query = async move {
            let answer = ask(&*upstream, &flight.key).await;
            flight.land(answer)
        }
        .boxed();
        let query = query.shared();
        if let Some(weak) = query.downgrade() {
            state.flights.insert(key, Flight { number, query: weak });
        }
        query
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }
}

/// Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(upstream: &dyn Dns, key: &Key) -> Result<(Known, Duration), LookupError> {
    match key {
        Key::Mx(domain) => upstream.mx(domain).await.map(|answer| (Known::Mx(answer.value.into()), answer.ttl)),
        Key::Addresses(host, family) => {
            upstream.addresses(host, *family).await.map(|answer| (Known::Addresses(answer.value.into()), answer.ttl))
        }
    }
}

/// A query under way. It leaves the list of flights when it is dropped: after its answer, or because nobody waits any more.
struct InFlight {
    shared: Arc<Mutex<State>>,
    key: Key,
    number: u64,
}

impl InFlight {
    fn land(&self, answer: Result<(Known, Duration), LookupError>) -> Landed {
        let mut state = lock(&self.shared);
        // Flushed meanwhile: the answer is for those who wait, not for memory.
        let wanted = state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number);
        let landed = match answer {
            Ok((known, ttl)) => state.fresh(known, Some(ttl)),
            Err(LookupError::NoSuchName { negative_ttl }) => state.fresh(Known::NoSuchName, negative_ttl),
            Err(LookupError::NoData { negative_ttl }) => state.fresh(Known::NoData, negative_ttl),
            Err(LookupError::Soft(fault)) => match state.serve_stale(&self.key) {
                Some(stale) => return stale,
                None => Landed::fresh(Known::Soft(fault), SOFT_TTL),
            },
        };
        if wanted {
            state.remember(&self.key, &landed);
        }
        landed
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        if state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            state.flights.remove(&self.key);
        }
    }
}

impl State {
    /// What memory has for a key, where it may be used without asking.
    fn recall(&mut self, key: &Key) -> Option<Landed> {
        let now = Instant::now();
        let serve_stale = self.settings.serve_stale;
        let answers = self.answers.as_mut()?;
        let entry = answers.get_mut(key)?;
        let freshness = if now < entry.expires {
            Freshness::Cached
        } else if entry.recheck.is_some_and(|recheck| now < recheck) && entry.serves_stale(now, serve_stale) {
            Freshness::Stale
        } else {
            return None;
        };
        entry.hits += 1;
        let (ttl, age) = (entry.expires.saturating_duration_since(now), now.saturating_duration_since(entry.came));
        let landed = Landed { known: entry.known.clone(), ttl, freshness, age };
        if matches!(landed.known, Known::Soft(_)) {
            answers.demote(key);
        }
        self.stats.hits += 1;
        self.stats.stale += u64::from(freshness == Freshness::Stale);
        Some(landed)
    }

    /// A new answer with its time to live brought into `min_ttl..=max_ttl`. One without (a negative answer without SOA) has none.
    fn fresh(&self, known: Known, ttl: Option<Duration>) -> Landed {
        let empty = match &known {
            Known::Mx(records) => records.is_empty(),
            Known::Addresses(records) => records.is_empty(),
            _ => false,
        };
        let ttl = ttl.unwrap_or_default().max(self.settings.min_ttl).min(self.settings.max_ttl);
        Landed::fresh(if empty { Known::NoData } else { known }, ttl)
    }

    /// An expired answer, where there is a usable one: not to be asked for again for [`STALE_RECHECK`].
    fn serve_stale(&mut self, key: &Key) -> Option<Landed> {
        let now = Instant::now();
        let serve_stale = self.settings.serve_stale;
        let entry = self.answers.as_mut()?.get_mut(key)?;
        if !entry.serves_stale(now, serve_stale) {
            return None;
        }
        entry.recheck = Some(now + STALE_RECHECK);
        self.stats.stale += 1;
        let age = now.saturating_duration_since(entry.came);
        Some(Landed { known: entry.known.clone(), ttl: Duration::ZERO, freshness: Freshness::Stale, age })
    }

    fn remember(&mut self, key: &Key, landed: &Landed) {
        let Some(answers) = &mut self.answers else { return };
        let now = Instant::now();
        let entry = Entry { known: landed.known.clone(), expires: now + landed.ttl, recheck: None, came: now, hits: 0 };
        answers.put(key.clone(), entry);
        if matches!(landed.known, Known::Soft(_)) {
            // First to go: while DNS fails, errors must not push out the answers that could serve instead.
            answers.demote(key);
        }
    }
}

impl Entry {
    /// Only records serve when expired: a stale "no such name" would return mail for a domain that may be back, and a stale "no MX"
    /// would send it to the domain's own addresses on a DNS error.
    fn serves_stale(&self, now: Instant, limit: Duration) -> bool {
        matches!(self.known, Known::Mx(_) | Known::Addresses(_)) && now < self.expires + limit
    }

    fn shown(&self, key: &Key, now: Instant) -> CacheEntry {
        let answer = match &self.known {
            Known::Mx(records) => join(records.iter().map(|mx| format!("{} {}", mx.preference, mx.exchange))),
            Known::Addresses(records) => join(records.iter().map(IpAddr::to_string)),
            Known::NoSuchName => LookupError::NoSuchName { negative_ttl: None }.to_string(),
            Known::NoData => LookupError::NoData { negative_ttl: None }.to_string(),
            Known::Soft(fault) => fault.to_string(),
        };
        let record_type = match key {
            Key::Mx(_) => "MX",
            Key::Addresses(_, family) => family.record_type(),
        };
        let expires_in = self.expires.checked_duration_since(now).filter(|left| !left.is_zero());
        let age = now.saturating_duration_since(self.came);
        CacheEntry { name: key.name().to_owned(), record_type, answer, age, expires_in, hits: self.hits }
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

impl Key {
    fn name(&self) -> &str {
        match self {
            Self::Mx(domain) => domain.as_str(),
            Self::Addresses(host, _) => host,
        }
    }
}

impl Landed {
    fn fresh(known: Known, ttl: Duration) -> Self {
        Self { known, ttl, freshness: Freshness::Fresh, age: Duration::ZERO }
    }

    fn lookup<T>(self, records: impl FnOnce(Known) -> Option<Arc<[T]>>) -> Lookup<T> {
        let negative_ttl = Some(self.ttl);
        let result = match self.known {
            Known::NoSuchName => Err(LookupError::NoSuchName { negative_ttl }),
            Known::Soft(fault) => Err(LookupError::Soft(fault)),
            // A key's answers are of its own type, so the other type's records never come here.
            known => records(known).ok_or(LookupError::NoData { negative_ttl }),
        };
        Lookup { result, freshness: self.freshness, age: self.age }
    }
}

fn mx_of(known: Known) -> Option<Arc<[Mx]>> {
    if let Known::Mx(records) = known { Some(records) } else { None }
}

fn addresses_of(known: Known) -> Option<Arc<[IpAddr]>> {
    if let Known::Addresses(records) = known { Some(records) } else { None }
}

impl Settings {
    fn of(config: &config::Dns) -> Self {
        Self { min_ttl: config.min_ttl, max_ttl: config.max_ttl, serve_stale: config.serve_stale, servers: config.servers.clone() }
    }
}

impl std::fmt::Debug for CachedDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedDns").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

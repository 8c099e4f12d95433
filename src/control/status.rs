//! `GET /v1/status`: the daemon at a glance.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Answer, Api, ApiError, Counted, time};
use crate::delivery::{Count, Throughput};
use crate::queue::{ByState, Counts, Inspect, StoreError};

/// A count of the queue is good for this long, or for so many times as long as it took.
const COUNT_AGE: Duration = Duration::from_secs(1);
const COUNT_PAUSE: u32 = 10;

/// The daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub hostname: String,
    pub spool: String,
    /// `running` or `stopping`.
    pub state: String,
    /// `running`, `paused` or `stopped`.
    pub intake: String,
    /// Why it is paused.
    pub intake_reason: Option<String>,
    pub started_at: String,
    pub now: String,
    pub workers: WorkerNumbers,
    pub queue: QueueNumbers,
    pub throughput: ThroughputNumbers,
    pub sites: SiteNumbers,
    pub cache: CacheNumbers,
    /// Octets in memory; null where the system does not tell.
    pub memory: Option<u64>,
}

/// Workers, each with a session at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct WorkerNumbers {
    pub total: u64,
    pub busy: u64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Of those, with nothing to do.
    pub idle: u64,
}

/// The queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueNumbers {
    pub messages: u64,
    pub due: u64,
    pub waiting: u64,
    pub sending: u64,
    pub held: u64,
    pub recipients: u64,
    pub in_doubt: u64,
    pub octets: u64,
    pub oldest: Option<String>,
    /// When it was counted.
    pub counted_at: String,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct ThroughputNumbers {
    pub second: Numbers,
    pub minute: Numbers,
    pub total: Numbers,
}

/// Messages accepted, and recipients that came to an outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct Numbers {
    pub accepted: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub failed: u64,
}

/// Sites in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SiteNumbers {
    pub known: u64,
    pub down: u64,
    pub paused: u64,
}

/// The DNS cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct CacheNumbers {
    pub entries: u64,
    pub capacity: u64,
    pub hits: u64,
    pub stale: u64,
    pub joined: u64,
    pub misses: u64,
}

impl From<Count> for Numbers {
    fn from(count: Count) -> Self {
        let Count { accepted, delivered, deferred, failed } = count;
        Self { accepted, delivered, deferred, failed }
    }
}

impl From<Throughput> for ThroughputNumbers {
    fn from(throughput: Throughput) -> Self {
        let Throughput { second, minute, total } = throughput;
        Self { second: second.into(), minute: minute.into(), total: total.into() }
    }
}

/// The last sixty whole seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct ThroughputSeconds {
    /// Whole seconds since the start.
    pub elapsed: u64,
    /// The last sixty of them, oldest first.
    pub seconds: Vec<Numbers>,
}

pub(super) async fn throughput(api: Arc<Api>) -> Result<Answer, ApiError> {
    let (elapsed, seconds) = api.context().shared.activity.seconds();
    Answer::json(&ThroughputSeconds { elapsed, seconds: seconds.into_iter().map(Numbers::from).collect() })
}

pub(super) async fn show(api: Arc<Api>) -> Result<Answer, ApiError> {
    let queue = api.queue_numbers().await?;
    let context = api.context();
    let (shared, now) = (&context.shared, context.clock.now());
    let sessions = shared.lanes().workers().iter().filter(|worker| worker.open).count();
    let (workers, sites) = {
        let state = shared.lock();
        let board = &state.board;
        let sites = board.sites(Instant::now());
        let down = sites.iter().filter(|site| site.health.as_ref().is_some_and(|health| now < health.until)).count();
        let paused = sites.iter().filter(|site| site.paused.is_some()).count();
        (
            WorkerNumbers {
                total: board.workers() as u64,
                busy: board.running() as u64,
                sessions: sessions as u64,
                idle: board.idle() as u64,
            },
            SiteNumbers { known: sites.len() as u64, down: down as u64, paused: paused as u64 },
        )
    };
    let cache = api.dns.stats();
    let obstacle = context.standing.obstacle();
    let (state, intake, intake_reason) = match obstacle {
        _ if shared.is_draining() => ("stopping", "stopped", None),
        Some(reason) => ("running", "paused", Some(reason)),
        None => ("running", "running", None),
    };
    Answer::json(&Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        hostname: context.config.hostname.to_string(),
        spool: context.config.spool.path.display().to_string(),
        state: state.to_owned(),
        intake: intake.to_owned(),
        intake_reason,
        started_at: time(api.started_at),
        now: time(now),
        workers,
        queue,
        throughput: shared.activity.throughput().into(),
        sites,
        cache: CacheNumbers {
            entries: cache.entries as u64,
            capacity: cache.capacity as u64,
            hits: cache.hits,
            stale: cache.stale,
            joined: cache.joined,
            misses: cache.misses,
        },
        memory: resident(),
    })
}

impl Api {
    /// Counting reads the whole queue: whoever asks often gets the last count.
    async fn queue_numbers(&self) -> Result<QueueNumbers, StoreError> {
        let mut last = self.counts.lock().await;
        let began = Instant::now();
        let counted = match last.take().filter(|counted| began < counted.good_until) {
            Some(counted) => counted,
            None => {
                let at = self.context().clock.now();
                let counts = self.read(move |queue: &(dyn Inspect + Send)| queue.counts(at)).await?;
                Counted { counts, at, good_until: good_until(began) }
            }
        };
        let numbers = numbers(&counted);
        *last = Some(counted);
        Ok(numbers)
    }
}

/// Until when a count serves that took from `began` until now.
pub(super) fn good_until(began: Instant) -> Instant {
    Instant::now() + (began.elapsed() * COUNT_PAUSE).max(COUNT_AGE)
}

fn numbers(counted: &Counted) -> QueueNumbers {
    let Counts { messages, by_age: _, recipients, in_doubt, octets, oldest } = counted.counts;
    let ByState { due, waiting, sending, held } = counted.counts.by_state();
    QueueNumbers {
        messages,
        due,
        waiting,
        sending,
        held,
        recipients,
        in_doubt,
        octets,
        oldest: oldest.map(time),
        counted_at: time(counted.at),
    }
}

/// Octets of this process in memory, as Linux tells them.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

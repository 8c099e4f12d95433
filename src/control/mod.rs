//! The control socket: takes HTTP requests over a Unix socket, hands on what the running daemon knows, and does what an administrator asks.
//!
//! `router` has the table of routes, one file a resource answers them; `socket` binds and serves; `page` serves the same and a page to a
//! browser, to those who may only look; `client` is the other end, for the command
//! line. What goes over the wire are the structs here with `Serialize`; `openapi.json` describes them, and a test holds it against both.

mod cache;
pub mod client;
mod copies;
mod messages;
mod outcomes;
mod page;
mod query;
mod queue;
mod router;
mod search;
mod sessions;
mod shape;
mod sites;
mod socket;
mod status;
pub mod why;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use cache::{Cache, CacheLine, Flush, Flushed};
pub use copies::{CopyNow, MessageNow, WorkersNow};
pub use messages::{ActionLine, AttemptLine, CopyLine, DelaysLine, LastOutcome, MessageLine, RecipientLine};
pub use outcomes::{OutcomeLine, Outcomes};
pub use page::PageListener;
pub use queue::{QueueAction, QueueActionResult, QueueResult};
pub use router::{Access, Answer, ApiError, Caller, ErrorBody, ROUTES, Rights, Route, answer};
pub use search::{HistoryLine, HistoryList, QueueCopy, QueueList};
pub use sessions::{SessionLine, Sessions};
pub use shape::{DomainShape, OtherSites, QueueShape, SiteShape};
pub use sites::{Pause, SiteAnswer, SiteHealth, SiteLine, SiteReply, Sites};
pub use socket::{Listener, SocketError, serve};
pub use status::{CacheNumbers, Numbers, QueueNumbers, SiteNumbers, Status, ThroughputNumbers, ThroughputSeconds, WorkerNumbers};

use crate::clock::Timestamp;
use crate::delivery::Context;
use crate::observe::metrics::Metrics;
use crate::queue::{Counts, Inspect, SiteBacklog, StoreError};
use crate::route::CachedDns;

/// What the API answers from.
pub struct Api {
    /// Delivery, with the configuration in effect.
    context: watch::Receiver<Arc<Context>>,
    /// The DNS cache; it is the same after a reload.
    dns: CachedDns,
    /// The queue as the command line reads it, beside the store: counting a long queue must not keep the scheduler waiting.
    inspect: Arc<Mutex<dyn Inspect + Send>>,
    /// When the daemon started.
    started_at: Timestamp,
    metrics: Arc<Metrics>,
    /// The last count of the queue, which reads all of it.
    counts: tokio::sync::Mutex<Option<Counted>>,
    /// The last count of it by site and age, and when the next one may be made.
    shape: tokio::sync::Mutex<Option<(QueueShape, Instant)>>,
    /// What is open for each site, counted last, and when the next count may be.
    sites: tokio::sync::Mutex<Option<(Arc<[SiteBacklog]>, Instant)>>,
    /// Orders that are being carried out: to their end, also when whoever gave them has gone away.
    orders: Mutex<JoinSet<()>>,
}

/// A count of the queue, when it was made, and when the next one may be.
#[derive(Debug, Clone)]
pub struct Counted {
    counts: Counts,
    at: Timestamp,
    good_until: Instant,
}

impl Api {
    /// Nothing was asked for yet.
    pub fn new(
        context: watch::Receiver<Arc<Context>>,
        dns: CachedDns,
        inspect: Arc<Mutex<dyn Inspect + Send>>,
        started_at: Timestamp,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            context,
            dns,
            inspect,
            started_at,
            metrics,
            counts: tokio::sync::Mutex::new(None),
            shape: tokio::sync::Mutex::new(None),
            sites: tokio::sync::Mutex::new(None),
            orders: Mutex::new(JoinSet::new()),
        }
    }

    /// Runs `order` to its end, whether or not the caller waits for it.
    async fn carry_out<T: Send + 'static>(&self, order: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
        let (done, result) = oneshot::channel();
        {
            let mut orders = self.orders();
            while orders.try_join_next().is_some() {}
            orders.spawn(async move {
                // Whoever asked may have gone away.
                let _ = done.send(order.await);
            });
        }
        result.await.map_err(|_| ApiError::Internal("the order broke off".to_owned()))
    }

    /// A panic while it was locked left the set as it was.
    fn orders(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self) -> Arc<Context> {
        self.context.borrow().clone()
    }

    /// Reads the queue on a thread that may wait for the disk.
    async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&(dyn Inspect + Send)) -> Result<T, StoreError> + Send + 'static,
    {
        let inspect = self.inspect.clone();
        // A reader that panicked left nothing half done: it only reads.
        let read = move || work(&*inspect.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
    }
}

/// RFC 3339, to the millisecond.
fn time(at: Timestamp) -> String {
    whole(at).to_string()
}

/// To the millisecond, as the queue keeps times.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

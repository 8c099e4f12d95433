//! Takes what is dropped, hands on accepted copies: the loop that watches `drop/`, lists it, waits for files to settle, and works in batches.
//!
//! The order that makes a crash harmless: the content is on the disk; the row is committed; the file is moved to its place; its copies
//! are offered. Its [first look](super::recognise) at `drop/` finishes what a crash left between the row and the move.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::agenda::Agenda;
use super::batch::Desk;
use super::durable::Disk;
use super::standing::Standing;
use super::watch::Watch;
use super::{Layout, Placing, Results};
use crate::clock::Clock;
use crate::config::MinFree;
use crate::message::Domain;
use crate::observe::metrics::Counts;
use crate::queue::{QueuedCopy, Store};

/// Hands accepted copies, whose files are at their places, to delivery. Must not block.
pub type Offer = Arc<dyn Fn(Vec<QueuedCopy>) + Send + Sync>;

/// What intake takes from the configuration; a new one may come at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeSettings {
    /// `hostname`.
    pub hostname: Domain,
    /// `spool.settle`.
    pub settle: Duration,
    /// `spool.rescan`.
    pub rescan: Duration,
    /// `retry.lifetime`.
    pub lifetime: Duration,
    /// `spool.min_free`.
    pub min_free: MinFree,
}

/// Everything that intake works with.
pub struct Intake {
    /// The spool; its directories exist.
    pub layout: Layout,
    /// The settings in effect.
    pub settings: watch::Receiver<Arc<IntakeSettings>>,
    /// Where messages are accepted.
    pub store: Arc<dyn Store>,
    /// For the ages of files and the times of acceptance.
    pub clock: Arc<dyn Clock>,
    /// Where rejected files are told of, if that is wanted. Shared with delivery.
    pub results: Arc<Results>,
    /// Shared with the scheduler.
    pub placing: Arc<Placing>,
    /// The scheduler's door.
    pub offer: Offer,
    /// For the metrics.
    pub counts: Arc<Counts>,
    /// For those who look.
    pub standing: Arc<Standing>,
}

/// Why intake ended before it was told to.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// The drop directory cannot be listed at the start.
    #[error("spool: {path}: {source}")]
    Drop {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The store has ended.
    #[error("the queue database is closed: no more files are taken")]
    StoreClosed,
}

impl Intake {
    /// Takes files until `shutdown`; what is under way then is finished, which takes no longer than a batch. What stands in `drop/` at the
    /// start may have been accepted by an earlier daemon: it is recognised, and `placing` is without doubt once all of it was looked at.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), IntakeError> {
        let drop = self.layout.drop();
        if let Err(source) = std::fs::read_dir(&drop) {
            return Err(IntakeError::Drop { path: drop, source });
        }
        let Self { layout, settings, store, clock, results, placing, offer, counts, standing } = self;
        let disk = Disk::default();
        let desk = Arc::new(Desk { layout, settings, store, clock, results, placing, offer, counts, disk, standing });
        // The watch before the first listing, so that nothing falls between them.
        let mut watch = Watch::new(drop);
        let mut agenda = Agenda::new(desk);
        let mut shutdown = pin!(shutdown);
        let result = loop {
            agenda.start_batches();
            let (has_room, wake_at) = (agenda.has_room(), agenda.wake_at());
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                Some(ended) = agenda.batches.next() => {
                    if !agenda.end_batch(ended) {
                        break Err(IntakeError::StoreClosed);
                    }
                }
                seen = watch.next(), if has_room => {
                    agenda.see(seen);
                    // As many as there are: a batch of them costs little more than a batch of one.
                    while agenda.has_room() && let Some(seen) = watch.next().now_or_never() {
                        agenda.see(seen);
                    }
                }
                listed = agenda.listing.next(), if has_room => agenda.take_listed(listed),
                () = sleep_until(wake_at) => {
                    if agenda.on_time() {
                        watch.renew();
                    }
                }
            }
        };
        agenda.listing.stop().await;
        while let Some(ended) = agenda.batches.next().await {
            agenda.end_batch(ended);
        }
        result
    }
}

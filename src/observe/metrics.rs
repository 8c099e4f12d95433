//! Metrics: takes what the parts of the daemon count and know, hands on one text for Prometheus.

mod counts;
mod paced;
mod scraped;

use std::sync::Arc;

pub use counts::{AttemptPhase, Became, Class, Counts, Origin};
use paced::Paced;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;
use scraped::{Build, Delivery, Dns, Process, Queue};

use super::figure::Figures;
use crate::clock::{Clock, Timestamp};
use crate::delivery::Shared;
use crate::queue::{self, SiteBacklog, Store, StoreError};
use crate::route::CachedDns;
use crate::smtp::Traffic;

/// Before the name of each metric that is not of every process.
const PREFIX: &str = "smtp_direct";
/// Sites that have series of their own: those with the longest backlog.
const NAMED_SITES: usize = 20;
/// Where figures come from.
pub struct Sources {
    /// What is counted as it happens.
    pub counts: Arc<Counts>,
    /// The SMTP client's own.
    pub traffic: Traffic,
    /// What waits.
    pub store: Arc<dyn Store>,
    /// Who works.
    pub shared: Arc<Shared>,
    /// What was asked of DNS.
    pub dns: CachedDns,
    /// For ages.
    pub clock: Arc<dyn Clock>,
}

/// The daemon's metrics.
pub struct Metrics {
    sources: Sources,
    started_at: Timestamp,
    queue: Paced<queue::Counts>,
    sites: Paced<Arc<[SiteBacklog]>>,
}

impl Metrics {
    /// The content type of what [`Metrics::render`] hands on.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Of a daemon that starts now.
    pub fn new(sources: Sources) -> Self {
        let started_at = sources.clock.now();
        Self { sources, started_at, queue: Paced::default(), sites: Paced::default() }
    }

    /// All metrics, in Prometheus' text format (version 0.0.4, which every collector reads): the body of `GET /metrics`. It waits for the
    /// queue to be counted, which nothing else waits for. Where that fails, what is known of the queue is left out: an empty queue is
    /// something else.
    pub async fn render(&self) -> String {
        let Sources { counts, traffic, store, shared, dns, clock } = &self.sources;
        let now = clock.now();
        let mut registry = Registry::default();
        Process::started(self.started_at).register(&mut registry);
        let own = registry.sub_registry_with_prefix(PREFIX);
        Build::this().register(own);
        counts.register(own);
        if let Some(counts) = self.count_queue(now).await {
            Queue::of(&counts, now).register(own);
        }
        store.commits().register(own);
        Delivery::of(&shared.load(&self.backlogs().await, now, NAMED_SITES)).register(own);
        traffic.register(own);
        Dns::of(dns.stats()).register(own);
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = encode_registry(&mut text, &registry) {
            // A String takes everything: only a figure that fails to encode itself could end here.
            tracing::error!(%error, "the metrics cannot be written");
        }
        in_classic_form(&text)
    }

    /// Where the queue cannot be read, what is in memory is told.
    async fn backlogs(&self) -> Arc<[SiteBacklog]> {
        let counted = self.sites.read(async { Ok::<_, StoreError>(self.sources.store.sites().await?.into()) });
        counted.await.unwrap_or_else(|_| Arc::from([]))
    }

    async fn count_queue(&self, now: Timestamp) -> Option<queue::Counts> {
        match self.queue.read(self.sources.store.counts(now)).await {
            Ok(counts) => Some(counts),
            Err(error) => {
                tracing::warn!(%error, "the queue cannot be counted: the metrics go without it");
                None
            }
        }
    }
}

/// The library writes OpenMetrics. What collectors understand besides is older, and names a counter where it is described as in its samples:
/// with `_total`.
fn in_classic_form(text: &str) -> String {
    let mut classic = String::with_capacity(text.len() + 1024);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let described = line.starts_with("# HELP ") && lines.peek().is_some_and(|next| counter(next));
        if described || counter(line) {
            let mut words = line.splitn(4, ' ');
            let (hash, what, name, rest) = (words.next(), words.next(), words.next(), words.next());
            let words = [hash, what, name].map(Option::unwrap_or_default);
            classic.push_str(&words.join(" "));
            classic.push_str("_total ");
            classic.push_str(rest.unwrap_or_default());
        } else {
            classic.push_str(line);
        }
        classic.push('\n');
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_counters_is_changed() {
        let library = "# HELP a_counter What counter\n# TYPE a_counter counter\na_counter_total{x=\"# TYPE y counter\"} 1\n\
                       # HELP gauge Of a counter\n# TYPE gauge gauge\ngauge 2\n";
        let classic = "# HELP a_counter_total What counter\n# TYPE a_counter_total counter\na_counter_total{x=\"# TYPE y counter\"} 1\n\
                       # HELP gauge Of a counter\n# TYPE gauge gauge\ngauge 2\n";
        assert_eq!(in_classic_form(library), classic);
    }
}

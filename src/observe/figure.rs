//! Figures: counters, gauges and histograms of atomics. Sets of them are declared with [`figures!`], which takes the name and the help of
//! each from the field and its doc comment, so that what a figure means is said in one place.

use std::fmt::{Debug, Error};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// A number that is what it is now.
pub type Level = Gauge<u64, AtomicU64>;
/// The same of a time.
pub type Seconds = Gauge<f64, AtomicU64>;

/// A set of figures.
pub trait Figures {
    /// Enters each of them into `registry`. What was entered is the figure itself, not what it shows now.
    fn register(&self, registry: &mut Registry);
}

/// Declares a struct of figures: the name of each is that of its field, its help text the field's doc comment. The text shows them with the
/// daemon's prefix, and counters with `_total`.
macro_rules! figures {
    ($(#[$meta:meta])* $vis:vis struct $set:ident { $($(#[doc = $help:literal])+ $name:ident: $kind:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        $vis struct $set {
            $($(#[doc = $help])+ $vis $name: $kind,)+
        }

        impl $crate::observe::figure::Figures for $set {
            fn register(&self, registry: &mut prometheus_client::registry::Registry) {
                $(registry.register(stringify!($name), $crate::observe::figure::help(concat!($($help),+)), self.$name.clone());)+
            }
        }
    };
}
pub(crate) use figures;

/// A doc comment as a help text: the library sets the full stop itself.
pub(crate) fn help(comment: &str) -> &str {
    comment.trim().trim_end_matches('.')
}

/// Labels whose values are few and known beforehand: each combination has its series from the start.
pub trait Label: Copy + PartialEq + Send + Sync + Debug + 'static {
    /// Every combination.
    const ALL: &'static [Self];

    /// As names and values.
    fn labels(self) -> Vec<(&'static str, &'static str)>;
}

/// Declares an enum whose values are those of one label.
macro_rules! label {
    ($(#[$meta:meta])* $vis:vis enum $set:ident as $key:literal { $($(#[$about:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $set {
            $($(#[$about])* $value,)+
        }

        impl $crate::observe::figure::Label for $set {
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn labels(self) -> Vec<(&'static str, &'static str)> {
                vec![($key, match self { $(Self::$value => $text,)+ })]
            }
        }
    };
}
pub(crate) use label;

/// A figure for each combination of labels: found without a lock, a hash or an allocation.
pub struct Series<L, M> {
    each: Arc<[M]>,
    labels: PhantomData<fn() -> L>,
}

impl<L: Label, M> Series<L, M> {
    /// The one with these labels; `None`: they are not among [`Label::ALL`].
    fn find(&self, labels: L) -> Option<&M> {
        L::ALL.iter().position(|one| *one == labels).and_then(|place| self.each.get(place))
    }
}

impl<L: Label> Series<L, Counter> {
    /// How many were counted.
    pub fn get(&self, labels: L) -> u64 {
        self.find(labels).map_or(0, Counter::get)
    }

    /// Counts `by` more.
    pub fn add(&self, labels: L, by: u64) {
        if let Some(counter) = self.find(labels) {
            counter.inc_by(by);
        }
    }
}

impl<L: Label> Series<L, Level> {
    /// It is this now.
    pub fn set(&self, labels: L, value: u64) {
        if let Some(gauge) = self.find(labels) {
            gauge.set(value);
        }
    }
}

impl<L: Label> Series<L, Histogram> {
    /// It took so long.
    pub fn observe(&self, labels: L, took: Duration) {
        if let Some(histogram) = self.find(labels) {
            histogram.observe(took);
        }
    }
}

impl<L, M> Clone for Series<L, M> {
    fn clone(&self) -> Self {
        Self { each: self.each.clone(), labels: PhantomData }
    }
}

impl<L: Label, M: Default> Default for Series<L, M> {
    fn default() -> Self {
        Self { each: L::ALL.iter().map(|_| M::default()).collect(), labels: PhantomData }
    }
}

impl<L, M: Debug> Debug for Series<L, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.each.iter()).finish()
    }
}

impl<L: Label, M: EncodeMetric + TypedMetric> EncodeMetric for Series<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        L::ALL.iter().zip(&*self.each).try_for_each(|(labels, figure)| {
            let labels = labels.labels();
            figure.encode(encoder.encode_family(&labels)?)
        })
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// The upper bounds of a histogram's buckets, in microseconds: from a commit on a fast disk to a copy that has waited for hours.
const BOUNDS: [u64; 17] = [
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_600_000_000,
    14_400_000_000,
];

const MICROS: f64 = 1_000_000.0;

/// How long things took. Two additions each: the library's own takes a lock, which every message would meet several times.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    /// By the first bound that is not below; the last one is beyond all of them.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Microseconds: in 64 bits there is room for half a million years.
    sum: AtomicU64,
}

impl Histogram {
    /// It took so long.
    pub fn observe(&self, took: Duration) {
        // Up to the next microsecond: what is within a bound is never shown within a lower one.
        let micros = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < micros);
        self.0.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / MICROS).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed))).collect();
        // From the buckets that are shown, so that the count is that of the last one whatever is added meanwhile.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum.load(Ordering::Relaxed) as f64 / MICROS, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A gauge for each of some names that are known only now, under the label that is named first.
#[derive(Debug, Clone, Default)]
pub struct Named(pub &'static str, pub Vec<(String, u64)>);

impl EncodeMetric for Named {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        self.1.iter().try_for_each(|(name, value)| encoder.encode_family(&[(self.0, name.as_str())])?.encode_gauge(value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    figures! {
        /// For the tests.
        struct Sample {
            /// Counts things,
            /// over two lines.
            things: Series<Size, Counter>,
            /// How long they took.
            things_seconds: Histogram,
            /// Where they are.
            things_here: Named,
        }
    }

    label! {
        /// For the tests.
        enum Size as "size" {
            Small = "small",
            Large = "large",
        }
    }

    fn text(figures: &impl Figures) -> String {
        let mut registry = Registry::default();
        figures.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_doc_comment_is_the_help_and_every_label_has_its_series() {
        let figures = Sample::default();
        figures.things.add(Size::Large, 2);
        figures.clone().things.add(Size::Large, 1);
        let expected = "# HELP things Counts things, over two lines.\n# TYPE things counter\n\
                        things_total{size=\"small\"} 0\nthings_total{size=\"large\"} 3\n";
        assert!(text(&figures).starts_with(expected), "{}", text(&figures));
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let figures = Sample::default();
        for micros in [100, 101, 300, 301] {
            figures.things_seconds.observe(Duration::from_micros(micros));
        }
        figures.things_seconds.observe(Duration::from_nanos(300_001));
        figures.things_seconds.observe(Duration::from_secs(14_401));
        let text = text(&figures);
        for (bound, count) in [("0.0001", 1), ("0.0003", 3), ("0.001", 5), ("14400.0", 5), ("+Inf", 6)] {
            let line = format!("things_seconds_bucket{{le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("things_seconds_count 6\n") && text.contains("things_seconds_sum 14401.001103\n"), "{text}");
    }

    #[test]
    fn a_time_beyond_all_measure_is_counted() {
        let figures = Sample::default();
        figures.things_seconds.observe(Duration::MAX);
        assert!(text(&figures).contains("things_seconds_count 1\n"));
    }

    #[test]
    fn names_that_are_known_only_now_are_escaped() {
        let figures = Sample { things_here: Named("place", vec![("a\"b\\c\nd".to_owned(), 7)]), ..Sample::default() };
        assert!(text(&figures).ends_with("# TYPE things_here gauge\nthings_here{place=\"a\\\"b\\\\c\\nd\"} 7\n"), "{}", text(&figures));
    }
}

//! A scrape: takes Prometheus' text, as strictly as its description has it, hands on families and samples.

#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

/// What `# HELP` and `# TYPE` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: String,
    /// Labels of its samples with their values, in the order of appearance; `le` is left out.
    pub labels: Vec<(String, Vec<String>)>,
}

/// Labels whose values are not known beforehand.
pub const OPEN: [&str; 2] = ["site", "version"];

/// What one answer said.
#[derive(Debug, Default)]
pub struct Scrape {
    /// In order.
    pub families: Vec<Family>,
    /// By name and labels as they are written: `name{label="value"}`.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Panics at whatever the format does not allow, or what its linters complain of.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let mut help: Option<(String, String)> = None;
        assert!(text.ends_with('\n'), "the last line has an end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, said) = rest.split_once(' ').unwrap();
                assert!(said.len() > 10 && !said.contains(['\\', '"']), "{line}");
                help = Some((name.to_owned(), said.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let (described, help) = help.take().unwrap();
                assert_eq!(described, name, "help before type");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(scrape.families.iter().all(|family| family.name != name), "twice: {name}");
                scrape.families.push(Family { name: name.to_owned(), kind: kind.to_owned(), help, labels: Vec::new() });
            } else {
                scrape.take_sample(line);
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn take_sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = self.families.last_mut().unwrap();
        let base = match family.kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap(),
            _ => name,
        };
        assert_eq!(base, family.name, "a sample stands below its family: {line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        for (label, value) in pairs(labels.strip_suffix('}').unwrap()) {
            if label != "le" {
                match family.labels.iter_mut().find(|(known, _)| *known == label) {
                    Some((_, values)) if values.contains(&value) => {}
                    Some((_, values)) => values.push(value),
                    None => family.labels.push((label, vec![value])),
                }
            }
        }
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }

    /// Buckets grow, and the last one holds everything.
    fn check_histograms(&self) {
        for family in self.families.iter().filter(|family| family.kind == "histogram") {
            let mut counts: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, count) in self.samples.iter().filter(|(series, _)| series.starts_with(&format!("{}_bucket", family.name))) {
                let labels = pairs(series.split_once('{').unwrap().1.strip_suffix('}').unwrap());
                let (le, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(label, _)| label == "le");
                let le: f64 = le[0].1.replace("+Inf", "inf").parse().unwrap();
                let others: Vec<String> = others.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
                counts.entry(others.join(",")).or_default().push((le, *count));
            }
            assert!(!counts.is_empty(), "{}", family.name);
            for (labels, mut buckets) in counts {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{}{labels}: {buckets:?}", family.name);
                let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
                assert_eq!(buckets.last().unwrap(), &(f64::INFINITY, self.value(&format!("{}_count{labels}", family.name))));
            }
        }
    }

    /// A sample; the daemon's prefix is left out.
    pub fn of(&self, series: &str) -> f64 {
        self.value(&format!("smtp_direct_{series}"))
    }

    /// A sample by its whole name.
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series}: {:#?}", self.samples.keys()))
    }

    /// Whether there is such a sample.
    pub fn has(&self, series: &str) -> bool {
        self.samples.contains_key(&format!("smtp_direct_{series}"))
    }

    /// All samples of a family that have this text among their labels, added up.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let start = format!("smtp_direct_{name}{{");
        self.samples.iter().filter(|(series, _)| series.starts_with(&start) && series.contains(label)).map(|(_, value)| value).sum()
    }

    /// Names and labels, without figures and without what nobody knows beforehand.
    pub fn shape(&self) -> (Vec<Family>, BTreeSet<String>) {
        let mut families = self.families.clone();
        let labels = families.iter_mut().flat_map(|family| &mut family.labels);
        labels.filter(|(label, _)| OPEN.contains(&label.as_str())).for_each(|(_, values)| values.clear());
        let known =
            |series: &String| OPEN.iter().fold(series.as_str(), |text, label| text.split(&format!("{label}=")).next().unwrap()).to_owned();
        (families, self.samples.keys().map(known).collect())
    }
}

/// `label="value",…`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap();
        // No name here has a quotation mark in it.
        let (value, after) = after.split_once('"').unwrap();
        assert!(!value.contains('\\'), "{text}");
        pairs.push((label.to_owned(), value.to_owned()));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    pairs
}

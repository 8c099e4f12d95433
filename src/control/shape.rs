//! `GET /v1/queue/shape`: takes what waits by domain, hands on what waits by site and age. Domains that share mail servers share their troubles.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::status::good_until;
use super::{Answer, Api, ApiError, time};
use crate::clock::Timestamp;
use crate::message::Domain;
use crate::queue::{self, Inspect};
use crate::route::Site;

/// Sites of the answer: the rest is one line.
const SITES: usize = 50;
/// Domains that are named of each.
const DOMAINS: usize = 20;

/// How old what waits is, and for where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct QueueShape {
    /// Seconds at which each age begins; the last one has no end.
    pub ages: Vec<u64>,
    pub sites: Vec<SiteShape>,
    pub others: Option<OtherSites>,
    pub counted_at: String,
}

/// The copies for one site, or for one domain whose site is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SiteShape {
    pub site: Option<String>,
    #[serde(flatten)]
    pub waiting: Waiting,
    /// Most copies first.
    pub domains: Vec<DomainShape>,
    pub other_domains: u64,
}

/// The copies for one domain of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct DomainShape {
    pub domain: String,
    #[serde(flatten)]
    pub waiting: Waiting,
}

/// Those for all other sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct OtherSites {
    pub sites: u64,
    pub domains: u64,
    #[serde(flatten)]
    pub waiting: Waiting,
}

/// How many copies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct Waiting {
    pub copies: u64,
    pub held: u64,
    pub by_age: [u64; queue::DomainShape::AGES.len()],
}

impl Waiting {
    fn of(line: &queue::DomainShape) -> Self {
        Self { copies: line.by_age.iter().sum(), held: line.held, by_age: line.by_age }
    }

    fn add(&mut self, other: &Self) {
        self.copies += other.copies;
        self.held += other.held;
        self.by_age.iter_mut().zip(other.by_age).for_each(|(all, more)| *all += more);
    }
}

pub(super) async fn show(api: Arc<Api>) -> Result<Answer, ApiError> {
    let mut last = api.shape.lock().await;
    let began = Instant::now();
    let counted = match last.take().filter(|(_, good_until)| began < *good_until) {
        Some(counted) => counted,
        None => {
            let context = api.context();
            let (at, sites) = (context.clock.now(), context.shared.lock().sites_of_domains());
            let counted = api.read(move |queue: &(dyn Inspect + Send)| Ok(shape(queue.shape(at)?, &sites, at))).await?;
            (counted, good_until(began))
        }
    };
    let answer = Answer::json(&counted.0);
    *last = Some(counted);
    answer
}

/// By the site where a domain's copies wait now, else by that of its last attempt; a domain without one stands by itself.
fn shape(lines: Vec<queue::DomainShape>, sites: &HashMap<Domain, Site>, at: Timestamp) -> QueueShape {
    let mut grouped: HashMap<Result<String, Domain>, SiteShape> = HashMap::new();
    for line in lines {
        let site = sites.get(&line.domain).map(Site::to_string).or_else(|| line.site.clone());
        let new = SiteShape { site: site.clone(), waiting: Waiting::default(), domains: Vec::new(), other_domains: 0 };
        let group = grouped.entry(site.ok_or_else(|| line.domain.clone())).or_insert(new);
        let waiting = Waiting::of(&line);
        group.waiting.add(&waiting);
        group.domains.push(DomainShape { domain: line.domain.to_string(), waiting });
    }
    let mut sites: Vec<SiteShape> = grouped.into_values().collect();
    for site in &mut sites {
        site.domains.sort_by_cached_key(|line| (Reverse(line.waiting.copies), line.domain.clone()));
    }
    sites.sort_by_cached_key(|line| (Reverse(line.waiting.copies), line.site.clone(), line.domains[0].domain.clone()));
    let mut others = OtherSites { sites: 0, domains: 0, waiting: Waiting::default() };
    for rest in sites.drain(SITES.min(sites.len())..) {
        others.sites += 1;
        others.domains += rest.domains.len() as u64;
        others.waiting.add(&rest.waiting);
    }
    for site in &mut sites {
        site.other_domains = site.domains.len().saturating_sub(DOMAINS) as u64;
        site.domains.truncate(DOMAINS);
    }
    QueueShape {
        ages: queue::DomainShape::AGES.iter().map(|age| age.as_secs()).collect(),
        sites,
        others: (others.sites > 0).then_some(others),
        counted_at: time(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(domain: &str, site: Option<&str>, by_age: [u64; 6]) -> queue::DomainShape {
        let domain = Domain::parse(domain).unwrap();
        queue::DomainShape { domain, site: site.map(str::to_owned), by_age, held: by_age[5] }
    }

    fn rows(shape: &QueueShape) -> Vec<(Option<&str>, u64, Vec<&str>)> {
        shape
            .sites
            .iter()
            .map(|site| (site.site.as_deref(), site.waiting.copies, site.domains.iter().map(|line| line.domain.as_str()).collect()))
            .collect()
    }

    #[test]
    fn domains_of_one_site_are_one_row() {
        let now: HashMap<Domain, Site> = [("c.test", "1 mx.one:25"), ("d.test", "1 mx.two:25")]
            .map(|(domain, site)| (Domain::parse(domain).unwrap(), Site::new(site)))
            .into();
        let lines = vec![
            line("a.test", Some("1 mx.one:25"), [1, 0, 2, 0, 0, 0]),
            line("b.test", None, [0, 0, 0, 0, 0, 4]),
            line("c.test", None, [0, 7, 0, 0, 0, 0]),
            // Where it waits now counts, not where it was tried before.
            line("d.test", Some("1 mx.one:25"), [2, 0, 0, 0, 0, 0]),
            line("e.test", None, [0, 0, 0, 0, 1, 0]),
        ];
        let shape = shape(lines, &now, Timestamp::UNIX_EPOCH);
        let expected = [
            (Some("1 mx.one:25"), 10, vec!["c.test", "a.test"]),
            (None, 4, vec!["b.test"]),
            (Some("1 mx.two:25"), 2, vec!["d.test"]),
            (None, 1, vec!["e.test"]),
        ];
        assert_eq!(rows(&shape), expected);
        assert_eq!((shape.sites[0].waiting.by_age, shape.sites[1].waiting.held), ([1, 7, 2, 0, 0, 0], 4));
        assert_eq!((shape.sites[0].other_domains, shape.others), (0, None));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut lines: Vec<_> = (0..30).map(|n| line(&format!("d{n}.test"), Some("1 mx.big:25"), [9, 0, 0, 0, 0, 0])).collect();
        lines.extend((0..60).map(|n| line(&format!("s{n}.test"), None, [0, 1, 0, 0, 0, 1])));
        let shape = shape(lines, &HashMap::new(), Timestamp::UNIX_EPOCH);
        let big = &shape.sites[0];
        assert_eq!((shape.sites.len(), big.domains.len(), big.other_domains, big.waiting.copies), (50, 20, 10, 270));
        let others = shape.others.unwrap();
        assert_eq!((others.sites, others.domains, others.waiting.copies, others.waiting.held), (11, 11, 22, 11));
        assert_eq!(others.waiting.by_age, [0, 11, 0, 0, 0, 11]);
    }
}

//! The router: takes a copy's query, hands on a decision for each of its recipients. Overrides first, then MX.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;

use super::addresses::{Chain, Gatherer, Policy, Target, site};
use super::explain::{Explanation, Step, Trace};
use super::mx::{Exchangers, exchangers};
use super::overrides::{Overrides, Selection};
use super::{CachedDns, Decision, Freshness, LocalIdentity, Lookup, LookupError, Mx, Part, Query, Route, RouteSource, Site};
use crate::config::{Action, Config, Credentials, Override, Rate, Server, TlsMode};
use crate::message::Domain;
use crate::outcome::Fault;

/// Finds routes by one configuration. A reload makes a new one, which is cheap, around the same [`CachedDns`].
#[derive(Debug)]
pub struct Router {
    overrides: Overrides,
    dns: CachedDns,
    policy: Policy,
    port: u16,
    tls: TlsMode,
    rate: Option<Rate>,
    window: usize,
    /// `None`: the thread's own generator.
    rng: Option<Mutex<Rng>>,
}

/// What the hosts of MX records get besides their names.
#[derive(Clone, Copy)]
struct Manner<'c> {
    tls: TlsMode,
    window: usize,
    credentials: Option<&'c Arc<Credentials>>,
    /// Of the override that says `server = "mx"`; it takes the place of the preferences.
    priority: Option<u32>,
}

/// An override with a server.
#[derive(Clone, Copy)]
struct Sender<'r> {
    line: usize,
    server: &'r Server,
    priority: u32,
    tls: TlsMode,
    rate: Option<Rate>,
    window: usize,
    credentials: Option<&'r Arc<Credentials>>,
}

impl Router {
    /// A router for `config`, whose `dns` settings the cache was made with.
    pub fn new(config: &Config, dns: CachedDns, local: LocalIdentity) -> Self {
        Self {
            overrides: Overrides::new(config.dns.overrides.clone()),
            dns,
            policy: Policy::new(config, local),
            port: config.smtp.port,
            tls: config.tls.mode,
            rate: config.sending.rate,
            window: config.smtp.window,
            rng: None,
        }
    }

    /// The same by what the cache has, without asking DNS.
    #[must_use]
    pub fn from_memory(&self) -> Self {
        let Self { overrides, dns, policy, port, tls, rate, window, rng: _ } = self;
        let (overrides, policy) = (overrides.clone(), policy.clone());
        Self { overrides, dns: dns.memory(), policy, port: *port, tls: *tls, rate: *rate, window: *window, rng: None }
    }

    /// Shuffles in the order that the seed gives, so that a test can repeat it.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.rng = Some(Mutex::new(Rng::with_seed(seed)));
        self
    }

    /// Where the copy's recipients go: each of them is in exactly one part, nearly always all in one.
    pub async fn route(&self, query: &Query<'_>) -> Vec<Part> {
        self.decide_all(query, &mut Trace::off()).await
    }

    /// As [`Self::route`], with every step that led there.
    pub async fn explain(&self, query: &Query<'_>) -> Explanation {
        let mut trace = Trace::on();
        let mut steps = self.overrides.explain(query);
        let parts = self.decide_all(query, &mut trace).await;
        steps.extend(trace.into_steps());
        Explanation { parts, steps }
    }

    /// The site that every copy for `domain` goes to, as far as memory tells: DNS is not asked. `None`: not known, or overrides that go by
    /// more than the domain may send some of them elsewhere.
    pub fn known_site(&self, domain: &Domain) -> Option<Site> {
        let rules = self.overrides.by_domain(domain)?;
        if rules.is_empty() {
            return Some(site(self.chain_in_memory(domain, self.manner())?.iter()));
        }
        let chain = |rule: &&Override| {
            let sender = sender(rule)?;
            match sender.server {
                Server::Host { host, port } => Some(vec![written(sender, host, *port)]),
                Server::Mx => self.chain_in_memory(domain, sender.manner()),
            }
        };
        let chains = rules.iter().map(chain).collect::<Option<Vec<Chain>>>()?;
        Some(site(chains.iter().flatten()))
    }

    fn chain_in_memory(&self, domain: &Domain, manner: Manner<'_>) -> Option<Chain> {
        if let Some((chain, _)) = self.literal(domain, manner) {
            return Some(chain);
        }
        let lookup = self.dns.mx_in_memory(domain)?;
        self.hosts(domain, lookup, manner, &mut Trace::off()).ok().map(|(chain, _)| chain)
    }

    async fn decide_all(&self, query: &Query<'_>, trace: &mut Trace) -> Vec<Part> {
        let mut parts = Vec::with_capacity(1);
        for selection in self.overrides.select(query) {
            let decision = self.decide(query.domain, &selection, trace).await;
            parts.push(Part { recipients: selection.recipients, decision });
        }
        parts
    }

    async fn decide(&self, domain: &Domain, selection: &Selection<'_>, trace: &mut Trace) -> Result<Decision, Fault> {
        if let Some(decision) = selection.action() {
            return Ok(decision);
        }
        let route =
            if selection.rules.is_empty() { self.by_dns(domain, trace).await } else { self.by_overrides(domain, selection, trace).await };
        route.map(|route| Decision::Send(Arc::new(route)))
    }

    async fn by_dns(&self, domain: &Domain, trace: &mut Trace) -> Result<Route, Fault> {
        let (chain, source) = self.mail_servers(domain, self.manner(), trace).await?;
        let site = site(chain.iter());
        let mut gatherer = Gatherer::new(&self.dns, &self.policy, self.rng());
        gatherer.add(chain, trace).await;
        Ok(Route { endpoints: gatherer.finish()?, site, source, rate: self.rate })
    }

    async fn by_overrides(&self, domain: &Domain, selection: &Selection<'_>, trace: &mut Trace) -> Result<Route, Fault> {
        let mut rng = self.rng();
        let mut gatherer = Gatherer::new(&self.dns, &self.policy, rng.fork());
        let mut senders: Vec<Sender<'_>> = selection.rules.iter().filter_map(|rule| sender(rule)).collect();
        rng.shuffle(&mut senders);
        senders.sort_by_key(|sender| sender.priority);
        // The strictest of them: they are one site.
        let rate = senders.iter().filter_map(|sender| sender.rate).min_by(|a, b| a.per_second().total_cmp(&b.per_second()));
        let mut chains: Vec<Chain> = Vec::with_capacity(senders.len());
        let mut joins_last = false;
        for sender in senders {
            match sender.server {
                Server::Host { host, port } => {
                    let target = written(sender, host, *port);
                    match chains.last_mut() {
                        Some(written) if joins_last => written.push(target),
                        _ => chains.push(vec![target]),
                    }
                    joins_last = true;
                }
                Server::Mx => {
                    match self.mail_servers(domain, sender.manner(), trace).await {
                        Ok((chain, _)) => chains.push(chain),
                        Err(fault) => gatherer.troubles.note(fault),
                    }
                    joins_last = false;
                }
            }
        }
        let site = site(chains.iter().flatten());
        for chain in chains {
            gatherer.add(chain, trace).await;
        }
        let lines = selection.rules.iter().map(|rule| rule.line).collect();
        Ok(Route { endpoints: gatherer.finish()?, site, source: RouteSource::Overrides(lines), rate })
    }

    /// The hosts that a domain's mail goes to by itself: an address literal, MX records, or the domain (RFC 5321 5.1).
    async fn mail_servers(&self, domain: &Domain, manner: Manner<'_>, trace: &mut Trace) -> Result<(Chain, RouteSource), Fault> {
        if let Some(literal) = self.literal(domain, manner) {
            return Ok(literal);
        }
        let lookup = self.dns.mx(domain).await;
        self.hosts(domain, lookup, manner, trace)
    }

    fn literal(&self, domain: &Domain, manner: Manner<'_>) -> Option<(Chain, RouteSource)> {
        let literal = domain.literal()?;
        let target = self.target(literal.to_string().into(), 0, (0, 0), manner);
        Some((vec![Target { literal: Some(literal), ..target }], RouteSource::Literal))
    }

    /// The hosts that follow from an answer about a domain's MX records.
    fn hosts(&self, domain: &Domain, lookup: Lookup<Mx>, manner: Manner<'_>, trace: &mut Trace) -> Result<(Chain, RouteSource), Fault> {
        trace.note(|| Step::Mx { name: domain.clone(), answer: lookup.result.clone(), freshness: lookup.freshness, age: lookup.age });
        let records = match lookup.result {
            Ok(records) => records,
            Err(LookupError::NoSuchName { .. }) => return Err(Fault::NoSuchDomain),
            Err(LookupError::NoData { .. }) => {
                trace.note(|| Step::ImplicitMx);
                let target = self.target(domain.as_str().into(), 0, (0, 0), manner);
                return Ok((vec![target], RouteSource::ImplicitMx));
            }
            Err(LookupError::Soft(fault)) => return Err(Fault::Dns { name: domain.to_string(), fault }),
        };
        let hosts = match exchangers(&records, trace) {
            Exchangers::Null => return Err(Fault::NullMx),
            Exchangers::Hosts(hosts) => hosts,
        };
        let mut position = 0;
        let mut last = hosts.first().map(|mx| mx.preference);
        let in_order = hosts.into_iter().map(|mx| {
            if last != Some(mx.preference) {
                last = Some(mx.preference);
                position += 1;
            }
            self.target(mx.exchange, mx.preference, (0, position), manner)
        });
        let cached = lookup.freshness != Freshness::Fresh;
        Ok((in_order.collect(), RouteSource::Mx { cached }))
    }

    /// Of a domain that no override speaks of.
    fn manner(&self) -> Manner<'static> {
        Manner { tls: self.tls, window: self.window, credentials: None, priority: None }
    }

    fn target(&self, host: Arc<str>, preference: u16, rank: (u32, u32), manner: Manner<'_>) -> Target {
        Target {
            host,
            literal: None,
            port: self.port,
            tls: manner.tls,
            window: manner.window,
            credentials: manner.credentials.cloned(),
            preference: manner.priority.unwrap_or(preference.into()),
            rank: (manner.priority.unwrap_or(rank.0), rank.1),
            written_at: None,
        }
    }

    fn rng(&self) -> Rng {
        // A generator is a number: a panic elsewhere leaves none half written.
        self.rng.as_ref().map_or_else(Rng::new, |rng| rng.lock().unwrap_or_else(PoisonError::into_inner).fork())
    }
}

impl<'r> Sender<'r> {
    /// Where it says `server = "mx"`.
    fn manner(self) -> Manner<'r> {
        Manner { tls: self.tls, window: self.window, credentials: self.credentials, priority: Some(self.priority) }
    }
}

fn sender(rule: &Override) -> Option<Sender<'_>> {
    match &rule.action {
        Action::Send { server, priority, tls, rate, window, credentials } => Some(Sender {
            line: rule.line,
            server,
            priority: *priority,
            tls: *tls,
            rate: *rate,
            window: *window,
            credentials: credentials.as_ref(),
        }),
        Action::Hold { .. } | Action::Reject { .. } | Action::Discard { .. } => None,
    }
}

fn written(sender: Sender<'_>, host: &Arc<str>, port: u16) -> Target {
    Target {
        host: host.clone(),
        literal: host.parse::<IpAddr>().ok(),
        port,
        tls: sender.tls,
        window: sender.window,
        credentials: sender.credentials.cloned(),
        preference: sender.priority,
        rank: (sender.priority, 0),
        written_at: Some(sender.line),
    }
}

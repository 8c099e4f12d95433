//! A configuration, an in-memory DNS and short words for routing tests.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use smtp_direct::config::{Action, Conditions, Config, Override, Pattern, Server, TlsMode};
use smtp_direct::message::{Address, Domain, Priority, ReversePath};
use smtp_direct::outcome::{DnsFault, Fault};
use smtp_direct::route::{
    AddressAnswer, Answer, CachedDns, Decision, Dns, Family, LocalIdentity, LookupError, Mx, MxAnswer, Part, Query, Route, Router,
};
use tokio::sync::Notify;

pub fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// A test that hangs fails: at once on paused time, as nothing else is left to happen.
pub async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(seconds(20), future).await.expect("hangs")
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The defaults.
pub fn config() -> Config {
    Config::default_for(domain("mail.sender.test"))
}

pub fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

/// An override that sends to `host:port` or `mx` with priority 10; tests change what they are about.
pub fn rule(line: usize, conditions: Conditions, server: &str) -> Override {
    let server = match server.rsplit_once(':') {
        None => Server::Mx,
        Some((host, port)) => Server::Host { host: host.trim_matches(['[', ']']).into(), port: port.parse().unwrap() },
    };
    Override {
        line,
        conditions,
        action: Action::Send { server, priority: 10, tls: TlsMode::Opportunistic, rate: None, window: 1, credentials: None },
        is_final: false,
    }
}

pub fn with_priority(mut rule: Override, wanted: u32) -> Override {
    if let Action::Send { priority, .. } = &mut rule.action {
        *priority = wanted;
    }
    rule
}

pub fn last(mut rule: Override) -> Override {
    rule.is_final = true;
    rule
}

pub fn to_domain(texts: &[&str]) -> Conditions {
    Conditions { domain: patterns(texts), ..Conditions::default() }
}

pub fn everything() -> Conditions {
    to_domain(&["*"])
}

/// A copy; `Default` is one recipient at example.test.
pub struct Copy {
    pub recipients: Vec<Address>,
    pub sender: ReversePath,
    pub size: u64,
    pub attempts: u32,
    pub failing_for: Option<Duration>,
    pub priority: Priority,
    pub tag: Option<String>,
}

impl Default for Copy {
    fn default() -> Self {
        Self::to(&["joe@example.test"])
    }
}

impl Copy {
    pub fn to(recipients: &[&str]) -> Self {
        Self {
            recipients: recipients.iter().map(|text| Address::parse(text).unwrap()).collect(),
            sender: ReversePath::parse("ann@sender.test").unwrap(),
            size: 2000,
            attempts: 0,
            failing_for: None,
            priority: Priority::Normal,
            tag: None,
        }
    }

    pub async fn parts(&self, router: &Router) -> Vec<Part> {
        let recipients: Vec<&Address> = self.recipients.iter().collect();
        bounded(router.route(&self.query(&recipients))).await
    }

    pub fn query<'q>(&'q self, recipients: &'q [&'q Address]) -> Query<'q> {
        Query {
            domain: recipients[0].domain(),
            recipients,
            sender: &self.sender,
            size: self.size,
            attempts: self.attempts,
            failing_for: self.failing_for,
            priority: self.priority,
            tag: self.tag.as_deref(),
            released: false,
        }
    }

    /// Of the only part.
    pub async fn decision(&self, router: &Router) -> Result<Decision, Fault> {
        let mut parts = self.parts(router).await;
        assert_eq!(parts.len(), 1, "{parts:?}");
        let part = parts.remove(0);
        assert_eq!(part.recipients, (0..self.recipients.len()).collect::<Vec<_>>());
        part.decision
    }

    pub async fn route(&self, router: &Router) -> Arc<Route> {
        sent(self.decision(router).await)
    }

    pub async fn fault(&self, router: &Router) -> Fault {
        self.decision(router).await.unwrap_err()
    }
}

pub fn sent(decision: Result<Decision, Fault>) -> Arc<Route> {
    match decision {
        Ok(Decision::Send(route)) => route,
        other => panic!("no route: {other:?}"),
    }
}

/// `host ip:port` of each endpoint.
pub fn endpoints(route: &Route) -> Vec<String> {
    route.endpoints.iter().map(|endpoint| format!("{} {}", endpoint.host, endpoint.address)).collect()
}

/// The IP addresses only, sorted: for sets of equals.
pub fn sorted_ips(route: &Route) -> Vec<String> {
    let mut ips: Vec<String> = route.endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect();
    ips.sort();
    ips
}

pub fn identity(addresses: &[&str]) -> LocalIdentity {
    LocalIdentity::new(domain("mail.sender.test"), addresses.iter().map(|text| text.parse().unwrap()))
}

/// A router with a seed, around a new cache.
pub fn router(config: &Config, dns: &Arc<MemoryDns>) -> Router {
    Router::new(config, CachedDns::new(dns.clone(), &config.dns), identity(&[])).with_seed(7)
}

type Key = (String, &'static str);

#[derive(Clone)]
enum Script {
    Mx(Vec<Mx>, Duration),
    Addresses(Vec<IpAddr>, Duration),
    Missing(LookupError),
}

/// DNS as a table: names that are in it without the asked type are NODATA, others NXDOMAIN, both with a negative time to live of 60 s.
#[derive(Default)]
pub struct MemoryDns {
    table: Mutex<HashMap<Key, Script>>,
    asked: Mutex<HashMap<Key, usize>>,
    held: Mutex<HashMap<Key, Arc<Notify>>>,
}

pub const NEGATIVE_TTL: Duration = Duration::from_secs(60);

impl MemoryDns {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// `[(10, "mx.example.test")]`, for 300 s.
    pub fn mx(&self, name: &str, records: &[(u16, &str)]) -> &Self {
        self.mx_for(name, records, seconds(300))
    }

    pub fn mx_for(&self, name: &str, records: &[(u16, &str)], ttl: Duration) -> &Self {
        let records = records.iter().map(|(preference, host)| Mx { preference: *preference, exchange: (*host).into() }).collect();
        self.set(name, "MX", Script::Mx(records, ttl))
    }

    /// A and AAAA records, for 300 s.
    pub fn host(&self, name: &str, addresses: &[&str]) -> &Self {
        let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().unwrap());
        let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv6);
        for (record_type, addresses) in [("AAAA", v6), ("A", v4)] {
            if addresses.is_empty() {
                self.table.lock().unwrap().remove(&(name.to_owned(), record_type));
            } else {
                self.set(name, record_type, Script::Addresses(addresses, seconds(300)));
            }
        }
        self
    }

    /// A soft error for `MX`, `A` or `AAAA` of a name.
    pub fn broken(&self, name: &str, record_type: &'static str) -> &Self {
        self.missing(name, record_type, DnsFault::ResponseCode("SERVFAIL".to_owned()).into())
    }

    pub fn missing(&self, name: &str, record_type: &'static str, error: LookupError) -> &Self {
        self.set(name, record_type, Script::Missing(error))
    }

    /// How often it was asked.
    pub fn asked(&self, name: &str, record_type: &'static str) -> usize {
        self.asked.lock().unwrap().get(&(name.to_owned(), record_type)).copied().unwrap_or(0)
    }

    pub fn asked_in_all(&self) -> usize {
        self.asked.lock().unwrap().values().sum()
    }

    /// Answers to this question wait for the returned notification (one permit an answer).
    pub fn hold(&self, name: &str, record_type: &'static str) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        self.held.lock().unwrap().insert((name.to_owned(), record_type), notify.clone());
        notify
    }

    fn set(&self, name: &str, record_type: &'static str, script: Script) -> &Self {
        self.table.lock().unwrap().insert((name.to_owned(), record_type), script);
        self
    }

    async fn answer(&self, name: &str, record_type: &'static str) -> Result<Script, LookupError> {
        let key = (name.to_owned(), record_type);
        *self.asked.lock().unwrap().entry(key.clone()).or_default() += 1;
        let held = self.held.lock().unwrap().get(&key).cloned();
        if let Some(notify) = held {
            notify.notified().await;
        }
        let table = self.table.lock().unwrap();
        match table.get(&key) {
            Some(Script::Missing(error)) => Err(error.clone()),
            Some(script) => Ok(script.clone()),
            None if table.keys().any(|(known, _)| known == name) => Err(LookupError::NoData { negative_ttl: Some(NEGATIVE_TTL) }),
            None => Err(LookupError::NoSuchName { negative_ttl: Some(NEGATIVE_TTL) }),
        }
    }
}

impl Dns for MemoryDns {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, MxAnswer> {
        async move {
            match self.answer(name.as_str(), "MX").await? {
                Script::Mx(value, ttl) => Ok(Answer { value, ttl }),
                _ => panic!("{name}: no MX script"),
            }
        }
        .boxed()
    }

    fn addresses<'a>(&'a self, host: &'a str, family: Family) -> BoxFuture<'a, AddressAnswer> {
        async move {
            match self.answer(host, family.record_type()).await? {
                Script::Addresses(value, ttl) => Ok(Answer { value, ttl }),
                _ => panic!("{host}: no address script"),
            }
        }
        .boxed()
    }
}

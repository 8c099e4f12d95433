//! DNS over the wire: takes names, hands on typed answers. The only user of hickory.
//!
//! Each server is a hickory pool of its own, without hickory's cache and without its walk over CNAMEs, so that response code, records and
//! SOA are judged here, and a server that answers SERVFAIL or REFUSED leads to the next server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{AddressAnswer, Answer, Dns, Family, LookupError, Mx, MxAnswer};
use crate::config;
use crate::message::Domain;
use crate::outcome::DnsFault;

/// Queries at once: each has a socket, and resolvers drop what floods them. Further ones wait.
const MAX_QUERIES: usize = 256;

/// Records of one answer that are kept; of MX records the best. More than a route can use, and a bound for the cache.
const MAX_RECORDS: usize = 64;

/// Queries along one chain of CNAMEs. A recursive resolver answers with the whole chain, so that one is the rule.
const MAX_ALIASES: usize = 8;

/// Names that never reach a resolver hold for this long (RFC 6761, RFC 7686: they do not change).
const SPECIAL_TTL: Duration = Duration::from_secs(86_400);

/// Asks the configured resolvers, or the system's: absolute names, UDP with EDNS, TCP where an answer is truncated.
pub struct HickoryDns {
    servers: Vec<NameServerPool<TokioRuntimeProvider>>,
    /// Index of the server that answered last: the next query goes there first.
    preferred: AtomicUsize,
    timeout: Duration,
    /// How often a query that nobody answered is sent again.
    attempts: usize,
    permits: Semaphore,
}

/// Why there is no resolver.
#[derive(Debug, Error)]
pub enum DnsSetupError {
    /// `dns.servers` is empty and the system has none either.
    #[error("cannot read the system's resolvers from /etc/resolv.conf ({0}): set dns.servers")]
    System(#[source] NetError),
    /// The library does not start.
    #[error("cannot set the resolver up: {0}")]
    Resolver(#[source] NetError),
}

impl HickoryDns {
    /// Opens no socket. An unanswered lookup takes at most `timeout` × (`attempts` + 1) for each server.
    pub fn new(config: &config::Dns) -> Result<Self, DnsSetupError> {
        let servers = if config.servers.is_empty() {
            read_system_conf().map_err(DnsSetupError::System)?.0.into_parts().2
        } else {
            config.servers.iter().map(|address| server(*address)).collect()
        };
        let mut options = ResolverOpts::default();
        options.timeout = config.timeout;
        options.cache_size = 0;
        options.edns0 = true;
        // For TCP connections; hickory turns further queries away.
        options.max_active_requests = MAX_QUERIES;
        let pool = |server| {
            let tls = TlsConfig::new().map_err(DnsSetupError::Resolver)?;
            let context = Arc::new(PoolContext::new(options.clone(), tls));
            Ok(NameServerPool::from_config([server], context, TokioRuntimeProvider::default()))
        };
        Ok(Self {
            servers: servers.into_iter().map(pool).collect::<Result<_, _>>()?,
            preferred: AtomicUsize::new(0),
            timeout: config.timeout,
            attempts: config.attempts,
            permits: Semaphore::new(MAX_QUERIES),
        })
    }

    /// Records of one type at a name, through its CNAMEs.
    async fn records<T>(&self, name: &str, record_type: RecordType, pick: fn(&RData) -> Option<T>) -> Result<Answer<Vec<T>>, LookupError> {
        // What cannot be written on the wire does not exist.
        let mut name = absolute(name).ok_or(LookupError::NoSuchName { negative_ttl: None })?;
        let mut ttl = u32::MAX;
        for _ in 0..MAX_ALIASES {
            let response = self.ask(&name, record_type).await.map_err(|error| at_most(error, ttl))?;
            match follow(&response, &name, record_type, pick, &mut ttl)? {
                Found::Records(value) => return Ok(Answer { value, ttl: seconds(ttl) }),
                Found::Alias(next) => name = next,
            }
        }
        Err(DnsFault::Other("its chain of CNAMEs is too long or loops".to_owned()).into())
    }

    /// One query: each server in turn, from the one that answered last; once more where nobody answered.
    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<DnsResponse, LookupError> {
        // Never closed; without a permit the bound is gone, not the answer.
        let _permit = self.permits.acquire().await;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut fault = DnsFault::Timeout;
        for _ in 0..=self.attempts {
            let mut silence = false;
            for index in (0..self.servers.len()).map(|offset| (first + offset) % self.servers.len()) {
                let query = self.servers[index].lookup(Query::query(name.clone(), record_type), request_options());
                // hickory keeps the limit itself; a truncated answer and TCP after it have one each.
                let answer = tokio::time::timeout(2 * self.timeout, query.first_answer()).await.unwrap_or(Err(NetError::Timeout));
                match classify(answer) {
                    Err(LookupError::Soft(soft)) => {
                        let answered = matches!(soft, DnsFault::ResponseCode(_) | DnsFault::Bogus);
                        silence |= !answered;
                        // What a server says is worth more than another's silence.
                        if answered || !matches!(fault, DnsFault::ResponseCode(_) | DnsFault::Bogus) {
                            fault = soft;
                        }
                    }
                    answer => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
            if !silence {
                break;
            }
        }
        Err(fault.into())
    }
}

impl Dns for HickoryDns {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, MxAnswer> {
        async move {
            if let Some(special) = Special::of(name.as_str()) {
                return Err(special.without_records());
            }
            let mut answer = self.records(name.as_str(), RecordType::MX, pick_mx).await?;
            if answer.value.len() > MAX_RECORDS {
                answer.value.sort_unstable();
                answer.value.truncate(MAX_RECORDS);
            }
            Ok(answer)
        }
        .boxed()
    }

    fn addresses<'a>(&'a self, host: &'a str, family: Family) -> BoxFuture<'a, AddressAnswer> {
        async move {
            match (Special::of(host), family) {
                (Some(Special::Localhost), Family::V4) => Ok(Answer { value: vec![Ipv4Addr::LOCALHOST.into()], ttl: SPECIAL_TTL }),
                (Some(Special::Localhost), Family::V6) => Ok(Answer { value: vec![Ipv6Addr::LOCALHOST.into()], ttl: SPECIAL_TTL }),
                (Some(special), _) => Err(special.without_records()),
                (None, Family::V4) => self.limited(host, RecordType::A, pick_address).await,
                (None, Family::V6) => self.limited(host, RecordType::AAAA, pick_address).await,
            }
        }
        .boxed()
    }
}

impl HickoryDns {
    async fn limited(&self, host: &str, record_type: RecordType, pick: fn(&RData) -> Option<IpAddr>) -> AddressAnswer {
        let mut answer = self.records(host, record_type, pick).await?;
        answer.value.truncate(MAX_RECORDS);
        Ok(answer)
    }
}

impl std::fmt::Debug for HickoryDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HickoryDns").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

/// Names that resolvers are not to be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// RFC 6761 6.3: this machine.
    Localhost,
    /// RFC 6761 6.4, RFC 7686: no such name, ever.
    Nowhere,
}

impl Special {
    fn of(name: &str) -> Option<Self> {
        match name.rsplit('.').next() {
            Some("localhost") => Some(Self::Localhost),
            Some("invalid" | "onion") => Some(Self::Nowhere),
            _ => None,
        }
    }

    fn without_records(self) -> LookupError {
        let negative_ttl = Some(SPECIAL_TTL);
        match self {
            Self::Localhost => LookupError::NoData { negative_ttl },
            Self::Nowhere => LookupError::NoSuchName { negative_ttl },
        }
    }
}

enum Found<T> {
    /// At least one.
    Records(Vec<T>),
    /// The chain goes on in another answer.
    Alias(Name),
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn request_options() -> DnsRequestOptions {
    let mut options = DnsRequestOptions::default();
    options.use_edns = true;
    options.recursion_desired = true;
    options
}

/// The name with its final dot, so that no search domain applies; labels are taken as they are.
fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// hickory's words in ours.
fn classify(answer: Result<DnsResponse, NetError>) -> Result<DnsResponse, LookupError> {
    match answer {
        Ok(response) => match response.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(response),
            code => Err(response_code(code)),
        },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(no_records(&none)),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(response_code(code)),
        Err(NetError::Dns(DnsError::DnssecBogus)) => Err(DnsFault::Bogus.into()),
        Err(NetError::Timeout) => Err(DnsFault::Timeout.into()),
        Err(other) => Err(DnsFault::Other(other.to_string()).into()),
    }
}

fn no_records(none: &NoRecords) -> LookupError {
    let negative_ttl = none.negative_ttl.map(seconds);
    match none.response_code {
        ResponseCode::NXDomain => LookupError::NoSuchName { negative_ttl },
        // Name servers and no SOA: a server that sends us elsewhere, not one that knows (RFC 2308 2.2).
        ResponseCode::NoError if none.soa.is_none() && none.ns.is_some() => {
            DnsFault::Other("the resolver referred to other servers instead of answering".to_owned()).into()
        }
        ResponseCode::NoError => LookupError::NoData { negative_ttl },
        code => response_code(code),
    }
}

fn response_code(code: ResponseCode) -> LookupError {
    let name = match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        code => format!("{code} ({})", u16::from(code)),
    };
    DnsFault::ResponseCode(name).into()
}

/// Walks an answer from `name` along its CNAMEs (RFC 1034 3.6.2) and takes the records at the end. `ttl` becomes the lowest seen.
fn follow<T>(
    response: &DnsResponse,
    name: &Name,
    record_type: RecordType,
    pick: fn(&RData) -> Option<T>,
    ttl: &mut u32,
) -> Result<Found<T>, LookupError> {
    let mut owner = name.clone();
    for _ in 0..response.answers.len() {
        let alias = response.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        *ttl = alias_ttl.min(*ttl);
        owner = target.clone();
    }
    let mut lowest = *ttl;
    let records: Vec<T> = response
        .answers
        .iter()
        .filter(|record| record.name == owner && record.record_type() == record_type)
        .inspect(|record| lowest = lowest.min(record.ttl))
        .filter_map(|record| pick(&record.data))
        .collect();
    if !records.is_empty() {
        *ttl = lowest;
        return Ok(Found::Records(records));
    }
    // The response code and the SOA speak of the end of the chain (RFC 6604 3, RFC 2308 2).
    let negative_ttl = response.negative_ttl().map(|negative| seconds(negative.min(*ttl)));
    if response.response_code == ResponseCode::NXDomain {
        Err(LookupError::NoSuchName { negative_ttl })
    } else if negative_ttl.is_some() {
        Err(LookupError::NoData { negative_ttl })
    } else if owner != *name {
        Ok(Found::Alias(owner))
    } else {
        Err(DnsFault::Other("the answer does not fit the question".to_owned()).into())
    }
}

fn at_most(error: LookupError, ttl: u32) -> LookupError {
    let limit = |negative_ttl: Option<Duration>| negative_ttl.map(|negative| negative.min(seconds(ttl)));
    match error {
        LookupError::NoSuchName { negative_ttl } => LookupError::NoSuchName { negative_ttl: limit(negative_ttl) },
        LookupError::NoData { negative_ttl } => LookupError::NoData { negative_ttl: limit(negative_ttl) },
        soft => soft,
    }
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

fn pick_mx(data: &RData) -> Option<Mx> {
    let RData::MX(mx) = data else { return None };
    let mut exchange = mx.exchange.to_ascii();
    exchange.make_ascii_lowercase();
    Some(Mx { preference: mx.preference, exchange: exchange.strip_suffix('.').unwrap_or(&exchange).into() })
}

fn pick_address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

//! Where a copy goes: takes domain, envelope facts and history, hands on a [`Decision`]: overrides first, then MX, each through one cache.

mod addresses;
mod cache;
mod dns;
mod explain;
mod hickory;
mod local;
mod mx;
mod overrides;
mod router;
mod site;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Credentials, Rate, TlsMode};
use crate::message::{Address, Domain, Priority, ReversePath};
use crate::outcome::Fault;

pub use cache::{CacheEntry, CacheStats, CachedDns, Freshness, Lookup};
pub use dns::{AddressAnswer, Answer, Dns, Family, LookupError, Mx, MxAnswer};
pub use explain::{AddressFate, Explanation, OverrideFate, Step};
pub use hickory::{DnsSetupError, HickoryDns};
pub use local::LocalIdentity;
pub use overrides::Condition;
pub use router::Router;
pub use site::{Ambiguous, Site};

/// What routing needs to know of a copy.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// Recipient domain.
    pub domain: &'a Domain,
    /// Recipients, all of `domain`.
    pub recipients: &'a [&'a Address],
    /// Envelope sender.
    pub sender: &'a ReversePath,
    /// Octets on the wire.
    pub size: u64,
    /// Attempts that have ended.
    pub attempts: u32,
    /// Since the first attempt that failed; `None` before.
    pub failing_for: Option<Duration>,
    /// Scheduling class.
    pub priority: Priority,
    /// The message's tag.
    pub tag: Option<&'a str>,
    /// An administrator released it: overrides that say `action = "hold"` are passed over.
    pub released: bool,
}

/// The recipients of a copy that share a fate. Overrides with a `recipient` condition are the only reason for more than one part.
#[derive(Debug, Clone)]
pub struct Part {
    /// Indexes into [`Query::recipients`], ascending; every recipient is in exactly one part.
    pub recipients: Vec<usize>,
    /// What to do, or why there is no route.
    pub decision: Result<Decision, Fault>,
}

/// What to do with a copy, or with some of its recipients.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Try these endpoints, in this order.
    Send(Arc<Route>),
    /// Keep it until it is released.
    Hold(Rule),
    /// Return it to its sender.
    Reject(Rule),
    /// Finish it unsent.
    Discard(Rule),
}

/// The override that decided, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Line of the configuration file.
    pub line: usize,
    /// The administrator's words.
    pub reason: String,
}

/// A resolved route: at least one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// In the order to be tried; equal preferences shuffled, address families interleaved.
    pub endpoints: Vec<Endpoint>,
    /// What concurrency and health are kept for.
    pub site: Site,
    /// Where the route came from.
    pub source: RouteSource,
    /// Messages that its site gets at most.
    pub rate: Option<Rate>,
}

/// One address to dial and what to insist on there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The name that routing gave (MX name, override's server, literal): what TLS verifies and what is shown.
    pub host: Arc<str>,
    /// Where to dial.
    pub address: SocketAddr,
    /// MX preference or the override's priority.
    pub preference: u32,
    /// What the session must do about TLS.
    pub tls: TlsMode,
    /// Transactions that may be ahead of their replies, where it offers CHUNKING; at least 1.
    pub window: usize,
    /// What it logs in with.
    pub credentials: Option<Arc<Credentials>>,
}

/// Where a route came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteSource {
    /// These overrides, by their lines in the configuration file.
    Overrides(Vec<usize>),
    /// MX records; whether the answer came from the cache.
    Mx {
        /// From memory.
        cached: bool,
    },
    /// No MX record: the domain's own addresses (RFC 5321 5.1).
    ImplicitMx,
    /// The recipient domain is an address.
    Literal,
}

/// For the log: `mx`, `mx-cached`, `implicit-mx`, `literal`, `override:12,40`.
impl std::fmt::Display for RouteSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Overrides(lines) => {
                f.write_str("override:")?;
                for (i, line) in lines.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{line}")?;
                }
                Ok(())
            }
            Self::Mx { cached: true } => f.write_str("mx-cached"),
            Self::Mx { cached: false } => f.write_str("mx"),
            Self::ImplicitMx => f.write_str("implicit-mx"),
            Self::Literal => f.write_str("literal"),
        }
    }
}

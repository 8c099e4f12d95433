//! What routing asks of DNS: takes a name, hands on records with their time to live, or a typed reason why there are none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::message::Domain;
use crate::outcome::DnsFault;

/// Looks names up. Implementations follow CNAMEs, treat names as absolute (no search domains), and keep nothing: [`super::CachedDns`] does.
pub trait Dns: Send + Sync + 'static {
    /// The MX records of a domain that is no address literal; at least one record on success.
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, MxAnswer>;

    /// The A or AAAA records of a host name in A-labels without a final dot; at least one on success.
    fn addresses<'a>(&'a self, host: &'a str, family: Family) -> BoxFuture<'a, AddressAnswer>;
}

/// What [`Dns::mx`] hands on.
pub type MxAnswer = Result<Answer<Vec<Mx>>, LookupError>;

/// What [`Dns::addresses`] hands on.
pub type AddressAnswer = Result<Answer<Vec<IpAddr>>, LookupError>;

/// Records and how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records.
    pub value: T,
    /// The lowest time to live along the CNAME chain and of the records.
    pub ttl: Duration,
}

/// An MX record as DNS has it: nothing checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mx {
    /// Lower goes first.
    pub preference: u16,
    /// Lower case, without the final dot; empty for the root (`.`).
    pub exchange: Arc<str>,
}

/// A or AAAA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// AAAA.
    V6,
    /// A.
    V4,
}

/// Why there are no records.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// NXDOMAIN.
    #[error("no such name")]
    NoSuchName {
        /// The smaller of the SOA record's time to live and its minimum (RFC 2308 5); `None` without a SOA record.
        negative_ttl: Option<Duration>,
    },
    /// The name exists, the record type does not.
    #[error("no such record")]
    NoData {
        /// As for [`Self::NoSuchName`].
        negative_ttl: Option<Duration>,
    },
    /// Nothing is known: to be asked again.
    #[error(transparent)]
    Soft(#[from] DnsFault),
}

impl Family {
    /// The record type, for people.
    pub fn record_type(self) -> &'static str {
        match self {
            Self::V6 => "AAAA",
            Self::V4 => "A",
        }
    }
}

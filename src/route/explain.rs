//! Why a route is what it is: takes the steps that routing noted on its way, hands them on as lines for people.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Condition, Family, Freshness, LookupError, Mx, Part};
use crate::message::Domain;
use crate::observe::human::span;

/// What routing decided, and every step that led there.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// As [`super::Router::route`] hands them on.
    pub parts: Vec<Part>,
    /// In the order in which they were taken; one line each by `Display`.
    pub steps: Vec<Step>,
}

/// One step of routing.
#[derive(Debug, Clone)]
pub enum Step {
    /// An override was looked at.
    Override {
        /// Line of the configuration file.
        line: usize,
        /// With what result.
        fate: OverrideFate,
    },
    /// The domain's MX records, or why there are none.
    Mx {
        /// Of which domain.
        name: Domain,
        /// What is known.
        answer: Result<Arc<[Mx]>, LookupError>,
        /// From where.
        freshness: Freshness,
        /// How long ago it came; zero when fresh.
        age: Duration,
    },
    /// A record that cannot be a mail server's.
    UnusableMx {
        /// The record.
        record: Mx,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No MX record: the domain itself is the host.
    ImplicitMx,
    /// A host's addresses, or why there are none.
    Addresses {
        /// Of which host.
        host: Arc<str>,
        /// A or AAAA.
        family: Family,
        /// What is known.
        answer: Result<Arc<[IpAddr]>, LookupError>,
        /// From where.
        freshness: Freshness,
        /// How long ago it came; zero when fresh.
        age: Duration,
    },
    /// What became of one address.
    Address {
        /// Of which host.
        host: Arc<str>,
        /// The address.
        address: IpAddr,
        /// What became of it.
        fate: AddressFate,
    },
    /// A host is this host: its preference and all worse ones were dropped.
    Own {
        /// Which one.
        host: Arc<str>,
    },
    /// Enough addresses: worse preferences were not looked at.
    Enough,
}

/// What became of an override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideFate {
    /// All its conditions hold, for some recipient at least.
    Matched,
    /// This condition does not hold.
    Unmet(Condition),
    /// Not looked at: the override at this line matched before it and is final.
    AfterFinal(usize),
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFate {
    /// It is in the route.
    Used,
    /// It lies in this network of `dns.blocked_targets`.
    Blocked(IpNet),
    /// It is in the route already.
    Duplicate,
    /// There are `smtp.max_addresses` already.
    OverLimit,
}

/// Notes steps, or nothing: routing a copy pays for no explanation.
pub(super) struct Trace(Option<Vec<Step>>);

impl Trace {
    /// Notes nothing.
    pub(super) fn off() -> Self {
        Self(None)
    }

    /// Notes everything.
    pub(super) fn on() -> Self {
        Self(Some(Vec::new()))
    }

    /// Notes a step, which is made only where it is wanted.
    pub(super) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.0 {
            steps.push(step());
        }
    }

    /// What was noted.
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Override { line, fate: OverrideFate::Matched } => write!(f, "override at line {line}: matches"),
            Self::Override { line, fate: OverrideFate::Unmet(condition) } => write!(f, "override at line {line}: no match ({condition})"),
            Self::Override { line, fate: OverrideFate::AfterFinal(earlier) } => {
                write!(f, "override at line {line}: not looked at, the one at line {earlier} is final")
            }
            Self::Mx { name, answer, freshness, age } => {
                write!(f, "MX of {name}: ")?;
                write_answer(f, answer, |f, mx| {
                    write!(f, "{} {}", mx.preference, if mx.exchange.is_empty() { "." } else { &mx.exchange })
                })?;
                write_origin(f, *freshness, *age)
            }
            Self::UnusableMx { record, reason } => write!(f, "MX record {} {:?}: skipped ({reason})", record.preference, record.exchange),
            Self::ImplicitMx => f.write_str("no MX record: the domain's own addresses are used"),
            Self::Addresses { host, family, answer, freshness, age } => {
                write!(f, "{} of {host}: ", family.record_type())?;
                write_answer(f, answer, |f, address| write!(f, "{address}"))?;
                write_origin(f, *freshness, *age)
            }
            Self::Address { host, address, fate } => write!(f, "{host} [{address}]: {fate}"),
            Self::Own { host } => write!(f, "{host} is this host: its preference and all worse ones are dropped"),
            Self::Enough => f.write_str("enough addresses (smtp.max_addresses): worse preferences were not looked at"),
        }
    }
}

fn write_answer<T>(
    f: &mut fmt::Formatter<'_>,
    answer: &Result<Arc<[T]>, LookupError>,
    write_one: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    match answer {
        Err(error) => write!(f, "{error}"),
        Ok(records) => {
            for (i, record) in records.iter().enumerate() {
                if i > 0 {
                    f.write_str(", ")?;
                }
                write_one(f, record)?;
            }
            Ok(())
        }
    }
}

/// Nothing for a fresh answer, else a remark in brackets.
fn write_origin(f: &mut fmt::Formatter<'_>, freshness: Freshness, age: Duration) -> fmt::Result {
    let age = span(age);
    match freshness {
        Freshness::Fresh => Ok(()),
        Freshness::Cached => write!(f, " (cached {age} ago)"),
        Freshness::Stale => write!(f, " (cached {age} ago and expired: it serves while DNS fails)"),
    }
}

impl fmt::Display for AddressFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used => f.write_str("used"),
            Self::Blocked(network) => write!(f, "skipped, {network} is in dns.blocked_targets"),
            Self::Duplicate => f.write_str("skipped, is in the route already"),
            Self::OverLimit => f.write_str("skipped, there are smtp.max_addresses already"),
        }
    }
}

//! From hosts to endpoints: takes chains of hosts in the order of preference, hands on what to dial, or the fault that weighs most.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use fastrand::Rng;
use futures_util::future::join_all;
use ipnet::IpNet;

use super::explain::{AddressFate, Step, Trace};
use super::{CachedDns, Endpoint, Family, LocalIdentity, Lookup, LookupError, Site};
use crate::config::{AddressFamily, Config, Credentials, TlsMode};
use crate::outcome::{AddressFault, DnsFault, Fault};

/// Blocked addresses that a fault names; a zone may have any number.
const SHOWN_BLOCKED: usize = 3;

/// A host to be asked for addresses.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: Arc<str>,
    /// The host is an address: nothing to look up.
    pub(super) literal: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) tls: TlsMode,
    pub(super) window: usize,
    pub(super) credentials: Option<Arc<Credentials>>,
    /// What endpoints show: MX preference or the override's priority.
    pub(super) preference: u32,
    /// Order within the route: equal ones are equals.
    pub(super) rank: (u32, u32),
    /// Line of the override that names it: neither blocked nor taken for this host.
    pub(super) written_at: Option<usize>,
}

/// Hosts by rank, best first. Where one of them is this host, its rank and all after it are dropped (RFC 5321 5.1).
pub(super) type Chain = Vec<Target>;

/// What endpoints have to comply with.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    families: &'static [Family],
    blocked: Vec<IpNet>,
    max_addresses: usize,
    local: LocalIdentity,
}

impl Policy {
    pub(super) fn new(config: &Config, local: LocalIdentity) -> Self {
        let families: &[Family] = match config.dns.address_family {
            AddressFamily::Both => &[Family::V6, Family::V4],
            AddressFamily::Ipv4 => &[Family::V4],
            AddressFamily::Ipv6 => &[Family::V6],
        };
        Self { families, blocked: config.dns.blocked_targets.clone(), max_addresses: config.smtp.max_addresses, local }
    }

    fn wants(&self, address: IpAddr) -> bool {
        self.families.contains(if address.is_ipv6() { &Family::V6 } else { &Family::V4 })
    }
}

/// Everything that kept hosts from giving endpoints: it counts where no endpoint was found at all.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    soft: Option<Fault>,
    own: bool,
    blocked: Vec<String>,
    hard: Option<Fault>,
}

impl Troubles {
    /// A fault of a whole chain, or of a host.
    pub(super) fn note(&mut self, fault: Fault) {
        let kept = if matches!(fault, Fault::Dns { .. }) { &mut self.soft } else { &mut self.hard };
        kept.get_or_insert(fault);
    }

    /// A soft error anywhere outweighs hard ones: what is not known cannot be held against a recipient.
    fn into_fault(self) -> Fault {
        if let Some(soft) = self.soft {
            soft
        } else if self.own {
            Fault::LoopsBack
        } else if !self.blocked.is_empty() {
            Fault::NoAddress(AddressFault::Blocked(self.blocked.join(", ")))
        } else {
            self.hard.unwrap_or(Fault::NoAddress(AddressFault::None))
        }
    }
}

/// Collects endpoints, chain after chain, until there are `smtp.max_addresses`.
pub(super) struct Gatherer<'a> {
    dns: &'a CachedDns,
    policy: &'a Policy,
    rng: Rng,
    endpoints: Vec<Endpoint>,
    pub(super) troubles: Troubles,
}

/// Addresses of one host, per family.
#[derive(Debug, Default)]
struct HostAddresses {
    v6: Vec<IpAddr>,
    v4: Vec<IpAddr>,
}

impl<'a> Gatherer<'a> {
    pub(super) fn new(dns: &'a CachedDns, policy: &'a Policy, rng: Rng) -> Self {
        Self { dns, policy, rng, endpoints: Vec::new(), troubles: Troubles::default() }
    }

    /// The endpoints, at least one, or what weighs most against the route.
    pub(super) fn finish(self) -> Result<Vec<Endpoint>, Fault> {
        if self.endpoints.is_empty() { Err(self.troubles.into_fault()) } else { Ok(self.endpoints) }
    }

    /// Adds a chain's endpoints, rank after rank.
    pub(super) async fn add(&mut self, mut chain: Chain, trace: &mut Trace) {
        let mut rest = chain.as_mut_slice();
        while let Some(first) = rest.first() {
            if self.is_full() {
                trace.note(|| Step::Enough);
                return;
            }
            let equals = rest.iter().take_while(|target| target.rank == first.rank).count();
            let (level, worse) = rest.split_at_mut(equals);
            self.rng.shuffle(level);
            if self.add_level(level, trace).await.is_break() {
                return;
            }
            rest = worse;
        }
    }

    fn is_full(&self) -> bool {
        self.endpoints.len() >= self.policy.max_addresses
    }

    /// Adds the endpoints of equals, or breaks because one of them is this host.
    async fn add_level(&mut self, level: &[Target], trace: &mut Trace) -> ControlFlow<()> {
        let local = &self.policy.local;
        if let Some(own) = level.iter().find(|target| target.written_at.is_none() && local.is_own_name(&target.host)) {
            return self.loops_back(own, trace);
        }
        let mut found = self.look_up(level, trace).await;
        for (target, addresses) in level.iter().zip(&mut found) {
            if let Some(line) = target.written_at {
                if addresses.all().next().is_none() {
                    self.troubles.note(without_address(&target.host, line));
                }
                continue;
            }
            self.drop_blocked(target, addresses, trace);
            if addresses.all().any(|address| local.is_own_address(address)) {
                return self.loops_back(target, trace);
            }
        }
        for addresses in &mut found {
            // DNS rotates its answers; the cache does not.
            self.rng.shuffle(&mut addresses.v6);
            self.rng.shuffle(&mut addresses.v4);
        }
        for (index, address) in interleave(&found) {
            self.push(&level[index], address, trace);
        }
        ControlFlow::Continue(())
    }

    fn loops_back(&mut self, own: &Target, trace: &mut Trace) -> ControlFlow<()> {
        self.troubles.own = true;
        trace.note(|| Step::Own { host: own.host.clone() });
        ControlFlow::Break(())
    }

    /// The addresses of equals, all at once; without waiting where all are in memory.
    async fn look_up(&mut self, level: &[Target], trace: &mut Trace) -> Vec<HostAddresses> {
        let mut found: Vec<HostAddresses> = Vec::with_capacity(level.len());
        let mut missing = Vec::new();
        for (index, target) in level.iter().enumerate() {
            let mut addresses = HostAddresses::default();
            match target.literal {
                Some(literal) if target.written_at.is_some() || self.policy.wants(literal) => addresses.push(literal.to_canonical()),
                Some(_) => {}
                None => {
                    for family in self.policy.families {
                        match self.dns.addresses_in_memory(&target.host, *family) {
                            Some(lookup) => self.take(target, *family, lookup, &mut addresses, trace),
                            None => missing.push((index, *family)),
                        }
                    }
                }
            }
            found.push(addresses);
        }
        if missing.is_empty() {
            return found;
        }
        let dns = self.dns;
        let asked = join_all(missing.iter().map(|(index, family)| dns.addresses(&level[*index].host, *family))).await;
        for ((index, family), lookup) in missing.into_iter().zip(asked) {
            self.take(&level[index], family, lookup, &mut found[index], trace);
        }
        found
    }

    fn take(&mut self, target: &Target, family: Family, lookup: Lookup<IpAddr>, addresses: &mut HostAddresses, trace: &mut Trace) {
        let host = || target.host.clone();
        trace.note(|| Step::Addresses {
            host: host(),
            family,
            answer: lookup.result.clone(),
            freshness: lookup.freshness,
            age: lookup.age,
        });
        match lookup.result {
            // An IPv4 address in IPv6's clothes is that IPv4 address, also for what is blocked.
            Ok(records) => {
                let records = records.iter().map(IpAddr::to_canonical);
                records.filter(|address| self.policy.wants(*address)).for_each(|address| addresses.push(address));
            }
            Err(LookupError::Soft(fault)) => self.troubles.note(Fault::Dns { name: target.host.to_string(), fault }),
            Err(LookupError::NoSuchName { .. } | LookupError::NoData { .. }) => {}
        }
    }

    fn drop_blocked(&mut self, target: &Target, addresses: &mut HostAddresses, trace: &mut Trace) {
        let policy = self.policy;
        let blocked = &mut self.troubles.blocked;
        let mut allowed = |address: &IpAddr| match policy.blocked.iter().find(|network| network.contains(address)) {
            None => true,
            Some(network) => {
                trace.note(|| Step::Address { host: target.host.clone(), address: *address, fate: AddressFate::Blocked(*network) });
                if blocked.len() < SHOWN_BLOCKED {
                    blocked.push(format!("{} [{address}]", target.host));
                }
                false
            }
        };
        addresses.v6.retain(&mut allowed);
        addresses.v4.retain(&mut allowed);
    }

    fn push(&mut self, target: &Target, address: IpAddr, trace: &mut Trace) {
        let endpoint = Endpoint {
            host: target.host.clone(),
            address: SocketAddr::new(address, target.port),
            preference: target.preference,
            tls: target.tls,
            window: target.window,
            credentials: target.credentials.clone(),
        };
        let fate = if self.endpoints.iter().any(|earlier| same_peer(earlier, &endpoint)) {
            AddressFate::Duplicate
        } else if self.is_full() {
            AddressFate::OverLimit
        } else {
            self.endpoints.push(endpoint);
            AddressFate::Used
        };
        trace.note(|| Step::Address { host: target.host.clone(), address, fate });
    }
}

impl HostAddresses {
    fn push(&mut self, address: IpAddr) {
        if address.is_ipv6() { self.v6.push(address) } else { self.v4.push(address) }
    }

    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.v6.iter().chain(&self.v4).copied()
    }
}

/// A host of an override that has no address is a mistake in the configuration, which the recipient is not to suffer for: deferred, where
/// the same of an MX host fails.
fn without_address(host: &str, line: usize) -> Fault {
    let fault = DnsFault::Other(format!("the host has no address (override at line {line})"));
    Fault::Dns { name: host.to_owned(), fault }
}

/// Whether a second endpoint would only be the first one again. The same address under another name is another one where the name is verified.
fn same_peer(one: &Endpoint, other: &Endpoint) -> bool {
    let verified = matches!(one.tls, TlsMode::Verify | TlsMode::Implicit);
    one.address == other.address && one.tls == other.tls && one.credentials == other.credentials && (!verified || one.host == other.host)
}

/// Equals as (index of the host, address): IPv6 and IPv4 in turn, within each family every host's first address before any second one, so
/// that neither a family nor a host with many addresses crowds out the others.
fn interleave(hosts: &[HostAddresses]) -> Vec<(usize, IpAddr)> {
    let mut v6 = in_turn(hosts, |host| &host.v6);
    let mut v4 = in_turn(hosts, |host| &host.v4);
    let mut order = Vec::new();
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return order,
            (one, other) => order.extend(one.into_iter().chain(other)),
        }
    }
}

fn in_turn<'h>(hosts: &'h [HostAddresses], family: fn(&HostAddresses) -> &Vec<IpAddr>) -> impl Iterator<Item = (usize, IpAddr)> + 'h {
    let rounds = hosts.iter().map(|host| family(host).len()).max().unwrap_or(0);
    (0..rounds).flat_map(move |round| {
        hosts.iter().enumerate().filter_map(move |(index, host)| family(host).get(round).map(|address| (index, *address)))
    })
}

/// The canonical text of a route's targets: ranks instead of preferences, equals by name.
pub(super) fn site<'t>(targets: impl Iterator<Item = &'t Target>) -> Site {
    let mut targets: Vec<_> = targets.map(|target| (target.rank, &*target.host, target.port)).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut text = String::with_capacity(targets.len() * 32);
    let mut position = 0;
    let mut last = None;
    for (rank, host, port) in targets {
        if last != Some(rank) {
            position += 1;
            last = Some(rank);
        }
        let separator = if text.is_empty() { "" } else { ", " };
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{position} {open}{host}{close}:{port}");
    }
    Site::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(v6: &[&str], v4: &[&str]) -> HostAddresses {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        HostAddresses { v6: parse(v6), v4: parse(v4) }
    }

    fn target(rank: (u32, u32), host: &str) -> Target {
        let tls = TlsMode::Opportunistic;
        Target { host: host.into(), literal: None, port: 25, tls, window: 1, credentials: None, preference: 10, rank, written_at: None }
    }

    #[test]
    fn families_and_hosts_take_turns() {
        let hosts =
            [host(&["2001:db8::1", "2001:db8::2", "2001:db8::3"], &["192.0.2.1"]), host(&["2001:db8::9"], &["192.0.2.8", "192.0.2.9"])];
        let order: Vec<String> = interleave(&hosts).into_iter().map(|(index, address)| format!("{index} {address}")).collect();
        let expected = ["0 2001:db8::1", "0 192.0.2.1", "1 2001:db8::9", "1 192.0.2.8", "0 2001:db8::2", "1 192.0.2.9", "0 2001:db8::3"];
        assert_eq!(order, expected);
        assert_eq!(interleave(&[]), []);
    }

    #[test]
    fn a_site_knows_neither_numbers_nor_order() {
        let one = [target((0, 0), "b.example"), target((0, 0), "a.example"), target((0, 1), "2001:db8::1")];
        let same = [target((0, 7), "a.example"), target((0, 7), "b.example"), target((0, 9), "2001:db8::1")];
        assert_eq!(site(one.iter()).as_str(), "1 a.example:25, 1 b.example:25, 2 [2001:db8::1]:25");
        assert_eq!(site(one.iter()), site(same.iter()));
        let other_order = [target((0, 0), "a.example"), target((0, 1), "b.example"), target((0, 1), "2001:db8::1")];
        assert_ne!(site(one.iter()), site(other_order.iter()));
    }

    #[test]
    fn what_is_not_known_outweighs_what_is() {
        let soft = || Fault::Dns { name: "mx.example".to_owned(), fault: DnsFault::Timeout };
        let all =
            || Troubles { soft: Some(soft()), own: true, blocked: vec!["mx.example [127.0.0.1]".to_owned()], hard: Some(Fault::NullMx) };
        assert_eq!(all().into_fault(), soft());
        assert_eq!(Troubles { soft: None, ..all() }.into_fault(), Fault::LoopsBack);
        let blocked = Fault::NoAddress(AddressFault::Blocked("mx.example [127.0.0.1]".to_owned()));
        assert_eq!(Troubles { soft: None, own: false, ..all() }.into_fault(), blocked);
        assert_eq!(Troubles { hard: Some(Fault::NullMx), ..Troubles::default() }.into_fault(), Fault::NullMx);
        assert_eq!(Troubles::default().into_fault(), Fault::NoAddress(AddressFault::None));
    }
}

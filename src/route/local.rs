//! Who this host is: takes its name and interfaces, hands on whether a mail server is this host, so that mail does not loop.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use crate::message::Domain;

/// The names and addresses by which this host is known. Cheap to make: a new one belongs to each reload, as addresses come and go.
#[derive(Debug, Clone)]
pub struct LocalIdentity {
    hostname: Domain,
    addresses: HashSet<IpAddr>,
}

impl LocalIdentity {
    /// From what the caller knows. Loopback, unspecified and link-local addresses are left out: they are everybody's, and
    /// `dns.blocked_targets` keeps mail from them. An administrator who takes loopback out of that list has servers there.
    pub fn new(hostname: Domain, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).filter(|address| is_own(*address)).collect();
        Self { hostname, addresses }
    }

    /// With the addresses of this machine's interfaces.
    pub fn from_system(hostname: Domain) -> io::Result<Self> {
        let interfaces = nix::ifaddrs::getifaddrs()?;
        let addresses = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        Ok(Self::new(hostname, addresses))
    }

    /// Whether a host name, lower-cased, is this host's.
    pub fn is_own_name(&self, host: &str) -> bool {
        self.hostname.as_str() == host
    }

    /// Whether an address is one of this host's own.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// Addresses that tell this host from others.
fn is_own(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_link_local_are_nobodys_own() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let addresses = ["127.0.0.1", "::1", "fe80::1", "169.254.0.1", "0.0.0.0", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.2"];
        let local = LocalIdentity::new(Domain::parse("mail.example.org").unwrap(), addresses.map(ip));
        for own in ["192.0.2.1", "2001:db8::1", "192.0.2.2"] {
            assert!(local.is_own_address(ip(own)), "{own}");
        }
        for other in ["127.0.0.1", "::1", "fe80::1", "169.254.0.1", "0.0.0.0", "192.0.2.3"] {
            assert!(!local.is_own_address(ip(other)), "{other}");
        }
        assert!(local.is_own_name("mail.example.org"));
        assert!(!local.is_own_name("mail2.example.org"));
    }

    #[test]
    fn the_systems_interfaces_can_be_read() {
        let local = LocalIdentity::from_system(Domain::parse("mail.example.org").unwrap()).unwrap();
        assert!(!local.is_own_address("127.0.0.1".parse().unwrap()));
    }
}

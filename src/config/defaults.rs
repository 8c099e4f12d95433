//! Every default of the configuration, in one place. `config/smtp-direct.toml` shows them, and a test compares the two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::{
    AddressFamily, Config, Control, Dns, InDoubt, Log, LogFormat, MinFree, Order, Reports, Retry, Sending, Smtp, Spool, Tls, TlsMode,
};
use crate::message::Domain;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn minutes(n: u64) -> Duration {
    seconds(60 * n)
}

const fn hours(n: u64) -> Duration {
    minutes(60 * n)
}

const fn days(n: u64) -> Duration {
    hours(24 * n)
}

/// Addresses that no mail server in DNS has any business to have.
const BLOCKED_TARGETS: [IpNet; 9] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 4),
    v4([255, 255, 255, 255], 32),
    v6(Ipv6Addr::UNSPECIFIED, 128),
    v6(Ipv6Addr::LOCALHOST, 128),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(address: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(address), prefix)
}

impl Config {
    /// What an empty file means on a host of this name.
    pub fn default_for(hostname: Domain) -> Self {
        Self {
            spool: Spool::default(),
            sending: Sending::default(),
            retry: Retry::default(),
            dns: Dns::default(),
            tls: Tls::default(),
            smtp: Smtp::default(),
            reports: Reports::default_for(&hostname),
            log: Log::default(),
            control: Control::default_for(&Spool::default().path),
            hostname,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/spool/smtp-direct"),
            settle: seconds(1),
            rescan: seconds(30),
            history: days(7),
            max_hops: 50,
            results: false,
            min_free: MinFree { octets: Some(100 * bytesize::MB), percent: Some(1) },
        }
    }
}

impl Default for Sending {
    fn default() -> Self {
        let workers = 10;
        Self {
            workers,
            per_site: Self::default_per_site(workers),
            order: Order::Arrival,
            messages_per_connection: 1000,
            connection_lifetime: minutes(5),
            keep_idle: seconds(2),
            rate: None,
            site_down_min: minutes(1),
            site_down_max: hours(1),
            shutdown_grace: seconds(30),
        }
    }
}

impl Sending {
    /// Half of the workers, at least 1: one slow site never takes them all.
    pub fn default_per_site(workers: usize) -> usize {
        (workers / 2).max(1)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            schedule: vec![minutes(5), minutes(10), minutes(20), minutes(40), hours(1), hours(2), hours(4)],
            lifetime: days(5),
            warn_after: Some(hours(4)),
            in_doubt: InDoubt::Retry,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: seconds(5),
            attempts: 2,
            cache_size: 1000,
            min_ttl: seconds(5),
            max_ttl: days(1),
            serve_stale: hours(1),
            blocked_targets: BLOCKED_TARGETS.to_vec(),
            address_family: AddressFamily::Both,
            overrides: Vec::new(),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { mode: TlsMode::Opportunistic, ca_file: None, remember_broken: hours(1) }
    }
}

/// The limits of RFC 5321 4.5.3.2, and 30 s to connect, for which it has none.
impl Default for Smtp {
    fn default() -> Self {
        Self {
            port: 25,
            source_ipv4: None,
            source_ipv6: None,
            max_addresses: 5,
            max_sessions: 2,
            recipients_per_transaction: 100,
            window: 1,
            connect_timeout: seconds(30),
            greeting_timeout: minutes(5),
            ehlo_timeout: minutes(5),
            starttls_timeout: minutes(5),
            auth_timeout: minutes(5),
            mail_timeout: minutes(5),
            rcpt_timeout: minutes(5),
            data_timeout: minutes(2),
            block_timeout: minutes(3),
            min_rate: 500,
            final_timeout: minutes(10),
        }
    }
}

impl Reports {
    /// With the author that RFC 3464's examples have, on this host.
    pub fn default_for(hostname: &Domain) -> Self {
        Self { from: format!("Mail Delivery System <MAILER-DAEMON@{hostname}>"), postmaster: None, full_below: 50 * bytesize::KIB }
    }
}

impl Control {
    /// A socket in the spool, so that there is one for each daemon and the command line finds it.
    pub fn default_for(spool: &Path) -> Self {
        Self { socket: Some(spool.join("control.sock")), group: None, listen: None, token: None, allow_actions: false }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: tracing::Level::INFO }
    }
}

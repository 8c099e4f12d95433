//! Configuration: takes one TOML file, hands on a [`Config`] that is immutable from there, or every error of the file at once.
//!
//! `reader` walks the table and keeps the errors, `sections` and `overrides` say what each key is, `values` and `units` read
//! single values, `defaults` has every default, `show` writes the whole as TOML again.

mod control;
mod defaults;
mod error;
mod load;
mod overrides;
mod pattern;
mod reader;
mod sections;
mod show;
mod submission;
mod units;
mod values;
mod warnings;
mod when;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use control::Token;
pub use error::{ConfigError, ConfigErrors, Problem};
pub use load::{Effective, Source, control_socket_in, known_keys, load_with_warnings, read, spool_path_in};
pub use pattern::{Pattern, PatternError};
pub use submission::{DEFAULT_FILE, Submission, SubmissionError, for_submission};
pub use units::{
    MinFree, Rate, UnitError, parse_duration, parse_min_free, parse_rate, parse_size, parse_span, show_duration, show_min_free, show_rate,
    show_size,
};
pub use warnings::Warning;
pub use when::When;

use crate::message::{Address, Domain, Priority};

/// The effective configuration. Every field is a key of `config/smtp-direct.toml`, with that file's meaning and default.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "config/smtp-direct.toml documents every key, and a test holds it against this")]
pub struct Config {
    pub hostname: Domain,
    pub spool: Spool,
    pub sending: Sending,
    pub retry: Retry,
    pub dns: Dns,
    pub tls: Tls,
    pub smtp: Smtp,
    pub reports: Reports,
    pub log: Log,
    pub control: Control,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Spool {
    pub path: PathBuf,
    pub settle: Duration,
    pub rescan: Duration,
    pub history: Duration,
    pub max_hops: u32,
    pub results: bool,
    pub min_free: MinFree,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Sending {
    pub workers: usize,
    /// Resolved: half of `workers`, at least 1, where the file says nothing.
    pub per_site: usize,
    pub order: Order,
    pub messages_per_connection: u32,
    pub connection_lifetime: Duration,
    /// How long a session with nothing to do is kept; zero: not at all.
    pub keep_idle: Duration,
    /// Messages to one site; `None`: as many as it takes.
    pub rate: Option<Rate>,
    pub site_down_min: Duration,
    pub site_down_max: Duration,
    pub shutdown_grace: Duration,
}

/// `sending.order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Config")]
pub enum Order {
    Arrival,
    SmallestFirst,
    NewestFirst,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Retry {
    /// At least one entry.
    pub schedule: Vec<Duration>,
    pub lifetime: Duration,
    /// `None`: never ("0s" in the file).
    pub warn_after: Option<Duration>,
    pub in_doubt: InDoubt,
}

/// `retry.in_doubt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Config")]
pub enum InDoubt {
    Retry,
    Hold,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Dns {
    /// Empty: the system's.
    pub servers: Vec<SocketAddr>,
    pub timeout: Duration,
    pub attempts: usize,
    pub cache_size: usize,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub serve_stale: Duration,
    pub blocked_targets: Vec<IpNet>,
    pub address_family: AddressFamily,
    /// `[[dns.override]]`, in file order.
    pub overrides: Vec<Override>,
}

/// `dns.address_family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Config")]
pub enum AddressFamily {
    Both,
    Ipv4,
    Ipv6,
}

/// One `[[dns.override]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// 1-based line of `[[dns.override]]` in the file, for messages: "override at line 12".
    pub line: usize,
    /// All must hold.
    pub conditions: Conditions,
    /// What to do then.
    pub action: Action,
    /// `final`.
    pub is_final: bool,
}

/// The conditions of an override; `None` or empty: not asked for. At least one is set.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "see Config")]
pub struct Conditions {
    pub domain: Vec<Pattern>,
    pub recipient: Vec<Pattern>,
    pub sender: Vec<Pattern>,
    /// Octets; the message has at least this many.
    pub min_size: Option<u64>,
    /// Octets; the message has at most this many.
    pub max_size: Option<u64>,
    pub failing_for: Option<Duration>,
    pub min_attempts: Option<u32>,
    pub priority_class: Vec<Priority>,
    pub tag: Vec<Pattern>,
}

/// What an override does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `server = …`.
    Send {
        /// Where to.
        server: Server,
        /// Lower goes first.
        priority: u32,
        /// `tls`, or `tls.mode` where the rule says nothing.
        tls: TlsMode,
        /// `rate`, or `sending.rate` where the rule says nothing.
        rate: Option<Rate>,
        /// `window`, or `smtp.window` where the rule says nothing.
        window: usize,
        /// `username` with `password` or `password_file`.
        credentials: Option<Arc<Credentials>>,
    },
    /// `action = "hold"`: kept, not tried, not expired, until released.
    Hold {
        /// For the log and `queue list`.
        reason: String,
    },
    /// `action = "reject"`: returned to the sender.
    Reject {
        /// For the log and the report.
        reason: String,
    },
    /// `action = "discard"`: finished without being sent; logged.
    Discard {
        /// For the log.
        reason: String,
    },
}

/// `server` of an override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// A host name (resolved to A/AAAA, not MX) or an IP address, and a port.
    Host {
        /// Name in A-labels, or an IP address without brackets.
        host: Arc<str>,
        /// `smtp.port` where the rule names none.
        port: u16,
    },
    /// `"mx"`: the real MX records.
    Mx,
}

/// What a session must do about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsMode {
    /// Clear text.
    None,
    /// STARTTLS where offered, any certificate, clear text otherwise.
    Opportunistic,
    /// STARTTLS, any certificate, never clear text.
    Require,
    /// STARTTLS and a certificate that proves the name.
    Verify,
    /// TLS from the first byte and a certificate that proves the name.
    Implicit,
}

/// A login. `Debug` shows the user name only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    password: String,
    /// Whether the password may go over an unencrypted session.
    pub in_clear: bool,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Tls {
    pub mode: TlsMode,
    pub ca_file: Option<PathBuf>,
    pub remember_broken: Duration,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Smtp {
    pub port: u16,
    pub source_ipv4: Option<Ipv4Addr>,
    pub source_ipv6: Option<Ipv6Addr>,
    pub max_addresses: usize,
    pub max_sessions: usize,
    pub recipients_per_transaction: usize,
    /// Transactions ahead of their replies, with peers that offer CHUNKING and that no override gives another.
    pub window: usize,
    pub connect_timeout: Duration,
    pub greeting_timeout: Duration,
    pub ehlo_timeout: Duration,
    pub starttls_timeout: Duration,
    pub auth_timeout: Duration,
    pub mail_timeout: Duration,
    pub rcpt_timeout: Duration,
    pub data_timeout: Duration,
    pub block_timeout: Duration,
    /// Octets a second.
    pub min_rate: u64,
    pub final_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Reports {
    /// The text of the `From` field.
    pub from: String,
    pub postmaster: Option<Address>,
    /// Octets.
    pub full_below: u64,
}

#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Log {
    pub format: LogFormat,
    pub level: tracing::Level,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Config")]
pub struct Control {
    /// Resolved: `control.sock` in the spool, where the file says nothing; `None`: there is none ("" in the file).
    pub socket: Option<PathBuf>,
    /// Whose members may do everything; `None`: root and the daemon's user alone.
    pub group: Option<String>,
    /// Where the status page is served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// What it takes to see it.
    pub token: Option<Token>,
    /// Whether something can be changed there.
    pub allow_actions: bool,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Config")]
pub enum LogFormat {
    /// Journald where standard error is the journal, else text.
    Auto,
    Text,
    Json,
    Journald,
    /// The lines of Postfix, for programs that read them.
    Postfix,
}

impl Credentials {
    /// A login.
    pub fn new(username: impl Into<String>, password: impl Into<String>, in_clear: bool) -> Self {
        Self { username: username.into(), password: password.into(), in_clear }
    }

    /// For AUTH and nothing else.
    pub fn expose_password(&self) -> &str {
        &self.password
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl InDoubt {
    /// In the order of the documentation.
    pub const ALL: &[Self] = &[Self::Retry, Self::Hold];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
        }
    }
}

impl Order {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Arrival, Self::SmallestFirst, Self::NewestFirst];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::SmallestFirst => "smallest-first",
            Self::NewestFirst => "newest-first",
        }
    }
}

impl AddressFamily {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Both, Self::Ipv4, Self::Ipv6];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl LogFormat {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Auto, Self::Text, Self::Json, Self::Journald, Self::Postfix];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
            Self::Postfix => "postfix",
        }
    }
}

impl TlsMode {
    /// All there are.
    pub const ALL: &[Self] = &[Self::None, Self::Opportunistic, Self::Require, Self::Verify, Self::Implicit];

    /// The word in the configuration and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Require => "require",
            Self::Verify => "verify",
            Self::Implicit => "implicit",
        }
    }
}

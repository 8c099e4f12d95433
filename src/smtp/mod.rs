//! The SMTP client: takes an endpoint and mail, hands on what the peer said of each recipient.

mod auth;
mod capabilities;
mod certificate;
mod chain;
mod client;
mod commands;
mod content;
mod dial;
pub mod dot;
mod lessons;
pub mod parse;
mod probe;
mod quirks;
mod reply;
mod session;
mod tls;
mod traffic;
mod transaction;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use capabilities::{Capabilities, Limits};
pub use certificate::{Certificate, Chain, Root};
pub use chain::{End, Ending, Feed, Parcel};
pub use client::Client;
pub use dial::{Dialer, Dialing, Io, TcpDialer};
pub use probe::{Observed, Probe, Rehearsal, Step};
pub use reply::Reply;
pub use session::Session;
pub use tls::TlsSetupError;
pub use traffic::{Stage, Traffic};

use crate::message::{Address, Content, Notify, Ret, ReversePath};
use crate::outcome::{Fault, Peer};

/// What one or more transactions carry to one peer. The content is read from its file as it is sent.
#[derive(Debug, Clone)]
pub struct Mail<'a> {
    /// Envelope sender.
    pub sender: &'a ReversePath,
    /// Envelope recipients: at least one; results come back in this order.
    pub recipients: Vec<Rcpt<'a>>,
    /// How the file is read.
    pub content: &'a Content,
    /// The message file.
    pub file: &'a Path,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, decoded.
    pub envid: Option<&'a str>,
}

/// One recipient of [`Mail`].
#[derive(Debug, Clone, Copy)]
pub struct Rcpt<'a> {
    /// Where to; also the ORCPT that is passed on.
    pub address: &'a Address,
    /// NOTIFY.
    pub notify: Notify,
}

/// A recipient that the peer took responsibility for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The reply to the final dot, with the peer's queue id in its text.
    pub reply: Reply,
    /// The peer offers DSN and got the NOTIFY parameter: success reports are its duty now.
    pub dsn_relayed: bool,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    /// What happened.
    pub fault: Fault,
    /// Whether the peer had greeted with 220: such attempts count against `smtp.max_sessions`.
    pub greeted: bool,
    /// Who it was.
    pub peer: Arc<Peer>,
    /// How long TLS handshakes took, whether or not they came about.
    pub handshake: Duration,
}

/// What people are shown of a peer's or the system's words: 512 octets.
pub(crate) fn shown(text: &str) -> &str {
    const SHOWN: usize = 512;
    let end = (0..=text.len().min(SHOWN)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

//! Everything that can keep a recipient from getting a message.

use std::fmt;

use thiserror::Error;

use crate::smtp::Reply;

/// How the text of what an administrator returned begins.
pub const RETURNED: &str = "returned by the administrator of this server";
/// And of what was removed.
pub const REMOVED: &str = "removed by the administrator of this server";

/// Where in a session something happened (RFC 5321 4.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// TCP.
    Connect,
    /// Waiting for 220.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, until 354.
    Data,
    /// Sending the content.
    Content,
    /// After the final dot (or BDAT LAST).
    FinalDot,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Greeting => "waiting for the greeting",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "sending the content",
            Self::FinalDot => "the end of the content",
        })
    }
}

/// DNS did not answer usefully: temporary, whatever the name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsFault {
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// SERVFAIL, REFUSED or another response code.
    #[error("the resolver answered {0}")]
    ResponseCode(String),
    /// DNSSEC validation failed.
    #[error("the answer is bogus (DNSSEC)")]
    Bogus,
    /// Anything else: sockets, malformed answers.
    #[error("{0}")]
    Other(String),
    /// It was not asked, and memory has no answer: of explanations only.
    #[error("not asked")]
    NotAsked,
}

/// Why none of a route's hosts has an address to dial.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressFault {
    /// NXDOMAIN or NODATA for every host.
    #[error("no mail server of it has an address")]
    None,
    /// Every address lies in `dns.blocked_targets`.
    #[error("its mail servers have only addresses that are not for mail: {0}")]
    Blocked(String),
}

/// Why a recipient was not delivered to in an attempt. `Display` is the line that people read; it names host-independent facts only
/// (the peer is kept beside it in [`super::Outcome`]). One row of the table in `table.rs` each.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// NXDOMAIN.
    #[error("the domain does not exist")]
    NoSuchDomain,
    /// RFC 7505.
    #[error("the domain accepts no mail (null MX)")]
    NullMx,
    /// No address of any target.
    #[error("the domain cannot receive mail: {0}")]
    NoAddress(AddressFault),
    /// The best MX is this host.
    #[error("mail for the domain loops back to this host")]
    LoopsBack,
    /// A soft DNS error for `name`.
    #[error("DNS lookup of {name} failed: {fault}")]
    Dns {
        /// What was asked for.
        name: String,
        /// What came back.
        fault: DnsFault,
    },
    /// More `Received` fields than `spool.max_hops`.
    #[error("the message has {hops} Received fields: it is looping")]
    TooManyHops {
        /// How many there are.
        hops: u32,
    },
    /// An override says `action = "reject"`.
    #[error("rejected by an override: {reason}")]
    Rejected {
        /// The administrator's words.
        reason: String,
    },
    /// An administrator gave it up: the sender is told.
    #[error("{}: {reason}", RETURNED)]
    Returned {
        /// The administrator's words.
        reason: String,
    },
    /// An administrator gave it up: nobody is told.
    #[error("{}: {reason}", REMOVED)]
    Removed {
        /// The administrator's words.
        reason: String,
    },
    /// TCP refused, unreachable or timed out.
    #[error("cannot connect: {detail}")]
    Connect {
        /// The system's words.
        detail: String,
    },
    /// This host has run out of something that dialling takes: descriptors, memory.
    #[error("cannot open a connection here: {detail}")]
    Shortage {
        /// The system's words, and what would put it right.
        detail: String,
    },
    /// The site is down; nothing was dialled.
    #[error("site is down since its last failure, not tried: {detail}")]
    SiteDown {
        /// The failure that took it down.
        detail: String,
    },
    /// A 4xx or 5xx reply.
    #[error("{phase} was answered {reply}")]
    Reply {
        /// To what.
        phase: Phase,
        /// With what.
        reply: Reply,
    },
    /// The connection broke.
    #[error("connection lost during {phase}: {detail}")]
    Closed {
        /// When.
        phase: Phase,
        /// The system's words, or "closed by the peer".
        detail: String,
    },
    /// A phase limit passed.
    #[error("no answer in time to {phase}")]
    TimedOut {
        /// Whose limit.
        phase: Phase,
    },
    /// Out of step, unparsable, over-long, or a code outside 200–599.
    #[error("the peer broke the protocol during {phase}: {detail}")]
    Protocol {
        /// When.
        phase: Phase,
        /// How.
        detail: String,
    },
    /// EHLO was answered with this host's own name.
    #[error("the peer is this host: mail loops back")]
    PeerIsSelf,
    /// TLS was required and the peer does not offer it.
    #[error("TLS is required, and the peer does not offer STARTTLS")]
    TlsNotOffered,
    /// The handshake failed, or the certificate proves nothing.
    #[error("TLS handshake failed: {detail}")]
    TlsHandshake {
        /// rustls's words.
        detail: String,
    },
    /// Plain text followed the STARTTLS reply in one packet (CVE-2011-0411).
    #[error("the peer sent plain text after its STARTTLS reply")]
    TlsInjection,
    /// Credentials are set and cannot be used.
    #[error("cannot log in: {detail}")]
    AuthImpossible {
        /// Not offered, no common mechanism, or only in clear text.
        detail: String,
    },
    /// SIZE.
    #[error("the message of {size} octets is larger than the peer's limit of {limit}")]
    TooLarge {
        /// Of the message.
        size: u64,
        /// Of the peer.
        limit: u64,
    },
    /// SMTPUTF8 is needed and not offered.
    #[error("the message needs SMTPUTF8, which the peer does not offer")]
    NeedsSmtpUtf8,
    /// LIMITS MAILMAX (RFC 9422): not tried on this session, which is full; a new one to the same peer takes more.
    #[error("the peer takes no more than {limit} messages in one session")]
    SessionFull {
        /// Of the peer.
        limit: u32,
    },
    /// The final dot went out, and the connection broke or stayed silent.
    #[error("in doubt: the content was sent in full, then {how}; the peer may have the message")]
    InDoubt {
        /// "the connection was lost", or "no answer came in time", or what was out of step.
        how: String,
    },
    /// The daemon ended while an attempt was under way.
    #[error("in doubt: the daemon was stopped during an attempt")]
    Interrupted,
    /// It cannot be recorded that the end of the content leaves, and so it does not.
    #[error("cannot write the in-doubt journal: {detail}")]
    Journal {
        /// The system's words.
        detail: String,
    },
    /// The message file cannot be read now.
    #[error("cannot read the message file: {detail}")]
    LocalIo {
        /// The system's words.
        detail: String,
    },
    /// The message file is gone or has another size.
    #[error("the message file is damaged: {detail}")]
    Damaged {
        /// How.
        detail: String,
    },
    /// A bug: the attempt panicked.
    #[error("internal error during the attempt")]
    Internal,
    /// `retry.lifetime` or the message's own `expires` passed.
    #[error("not delivered in time; last: {last}")]
    Expired {
        /// The text of the last outcome, or "never tried".
        last: String,
        /// The last reply, for the report.
        reply: Option<Reply>,
    },
}

impl Fault {
    /// The peer's reply, where the fault is one.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reply { reply, .. } => Some(reply),
            Self::Expired { reply, .. } => reply.as_ref(),
            _ => None,
        }
    }

    /// The recipient-independent faults that mean "this host cannot be talked to": what site health counts.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Reply { phase, .. } | Self::Closed { phase, .. } | Self::TimedOut { phase } => matches!(phase, Phase::Greeting),
            _ => false,
        }
    }

    /// Whether a host did not take one session more, which another one may have had its reasons for: that there are too many.
    pub fn refuses_the_session(&self) -> bool {
        self.is_unreachable() || matches!(self, Self::Reply { phase: Phase::Ehlo, reply } if reply.code() < 500)
    }

    /// Whether MAIL was put off as there are too many sessions, in the words that servers use.
    pub fn tells_of_too_many_sessions(&self) -> bool {
        let Self::Reply { phase: Phase::Mail, reply } = self else { return false };
        let text = reply.text().to_ascii_lowercase();
        reply.code() < 500 && text.contains("too many") && ["connection", "session", "concurrent"].iter().any(|word| text.contains(word))
    }
}

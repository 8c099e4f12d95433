//! What stands in a result file: takes a finished message or a rejected file, hands on an object whose field names stay as they are.
//!
//! Every result has `outcome`, `id`, `file`, `from`, `finished_at`, `reason` and `recipients`, so that a reader need not tell the kinds apart
//! first. Times are RFC 3339 in UTC; what is not known or does not apply is null. The same message gives the same octets each time.

use serde::Serialize;

use super::file_name;
use crate::clock::Timestamp;
use crate::message::Recipient;
use crate::outcome::{Kind, Outcome, Peer};
use crate::queue::{AttemptRecord, CopyDetail, MessageDetail};
use crate::spool::names;

/// The result of a message.
#[derive(Debug, Serialize)]
pub(super) struct Finished<'a> {
    /// What became of every recipient, where that is the same for all; else "mixed".
    outcome: &'static str,
    /// As in the log and on the command line.
    id: String,
    /// The name that was dropped; null for this daemon's own reports.
    file: Option<&'a str>,
    /// Envelope sender; empty: the null sender.
    from: String,
    /// The field `Message-ID`, as it was sent.
    message_id: Option<&'a str>,
    /// Octets on the wire.
    size: u64,
    /// ENVID and tag of the sidecar: the dropping program's own words.
    envid: Option<&'a str>,
    tag: Option<&'a str>,
    accepted_at: String,
    finished_at: String,
    /// Null: only rejected files have one.
    reason: Option<&'a str>,
    /// In the order of the copies and, in each, of the envelope.
    recipients: Vec<OfRecipient<'a>>,
}

/// What became of one recipient.
#[derive(Debug, Serialize)]
struct OfRecipient<'a> {
    to: String,
    /// "delivered", "failed" (a peer or a check said no), "expired" (tried until the time was over) "discarded" (by an override), "bounced" or
    /// "removed" (by an administrator).
    outcome: &'static str,
    /// When that was known.
    at: String,
    /// The last reply's code; null where no peer answered.
    code: Option<u16>,
    /// The enhanced status code (RFC 3463).
    dsn: String,
    /// The last reply, lines joined by line feeds.
    reply: Option<&'a str>,
    /// One line for people.
    text: &'a str,
    /// Who answered, or should have; null where nobody was dialled.
    host: Option<&'a str>,
    ip: Option<String>,
    port: Option<u16>,
    /// An object, or false for clear text, or null where nobody was dialled.
    tls: Option<OfTls<'a>>,
    /// Attempts that were made for it, and when the first and the last began.
    attempts: usize,
    first_attempt_at: Option<String>,
    last_attempt_at: Option<String>,
    /// An attempt broke off after the content was sent: it may have arrived all the same, or twice.
    in_doubt: bool,
}

/// How a session was protected.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum OfTls<'a> {
    Encrypted {
        /// "TLSv1.3".
        version: &'a str,
        /// The cipher suite.
        cipher: &'a str,
        /// Whether the certificate proved the host's name.
        verified: bool,
    },
    Clear(bool),
}

/// The result of a file that was not accepted.
#[derive(Debug, Serialize)]
pub(super) struct Rejected<'a> {
    /// "rejected".
    outcome: &'static str,
    /// Null, as `from` and `accepted_at`: it never was a message.
    id: Option<String>,
    file: String,
    from: Option<String>,
    accepted_at: Option<String>,
    /// When it was judged.
    finished_at: String,
    /// One line.
    reason: &'a str,
    /// Its name in `rejected/`.
    kept_as: &'a str,
    /// Octets.
    size: u64,
    /// The file's own time.
    modified_at: String,
    /// None.
    recipients: [(); 0],
}

impl<'a> Finished<'a> {
    /// `None`: it is not finished.
    pub(super) fn of(detail: &'a MessageDetail) -> Option<Self> {
        let message = &detail.message;
        let finished_at = detail.finished_at?;
        let of_copy = |copy: &'a CopyDetail| copy.recipients.iter().filter_map(move |recipient| OfRecipient::of(copy, recipient));
        let recipients: Vec<OfRecipient<'a>> = detail.copies.iter().flat_map(of_copy).collect();
        Some(Self {
            outcome: common(&recipients),
            id: message.id.to_string(),
            file: file_name(detail),
            from: message.sender.to_string(),
            message_id: message.content.message_id.as_deref(),
            size: message.content.wire_size,
            envid: message.envid.as_deref(),
            tag: message.tag.as_deref(),
            accepted_at: message.accepted_at.to_string(),
            finished_at: finished_at.to_string(),
            reason: None,
            recipients,
        })
    }
}

fn common(recipients: &[OfRecipient<'_>]) -> &'static str {
    let mut words = recipients.iter().map(|recipient| recipient.outcome);
    match words.next() {
        Some(word) if words.all(|other| other == word) => word,
        _ => "mixed",
    }
}

impl<'a> OfRecipient<'a> {
    /// `None`: nothing is known of it, which no finished message has.
    fn of(copy: &'a CopyDetail, (recipient, last): &'a (Recipient, Option<(Outcome, Timestamp)>)) -> Option<Self> {
        let (outcome, at) = last.as_ref()?;
        let peer = outcome.peer.as_deref();
        // Attempts that came later were made for others.
        let attempts: Vec<&AttemptRecord> = copy.history.iter().filter(|attempt| attempt.began_at <= *at).collect();
        let began = |attempt: &&AttemptRecord| attempt.began_at.to_string();
        Some(Self {
            to: recipient.address.to_string(),
            outcome: word(outcome),
            at: at.to_string(),
            code: outcome.reply.as_ref().map(|reply| reply.code()),
            dsn: outcome.status.to_string(),
            reply: outcome.reply.as_ref().map(|reply| reply.text()),
            text: &outcome.text,
            host: peer.map(|peer| &*peer.host),
            ip: peer.map(|peer| peer.address.ip().to_string()),
            port: peer.map(|peer| peer.address.port()),
            tls: peer.map(OfTls::of),
            attempts: attempts.len(),
            first_attempt_at: attempts.first().map(began),
            last_attempt_at: attempts.last().map(began),
            // That an attempt was in doubt is kept of the copy: who had a single attempt knows it of its own.
            in_doubt: outcome.in_doubt || (copy.in_doubt && attempts.len() > 1),
        })
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome.kind {
        Kind::Failed if outcome.is_discard() => "discarded",
        Kind::Failed if outcome.is_expiry() => "expired",
        Kind::Failed if outcome.is_bounce() => "bounced",
        Kind::Failed if outcome.is_removal() => "removed",
        kind => kind.as_str(),
    }
}

impl<'a> OfTls<'a> {
    fn of(peer: &'a Peer) -> Self {
        let mut words = peer.tls.as_deref().unwrap_or_default().split(' ');
        match (words.next(), words.next()) {
            (Some(version), Some(cipher)) => Self::Encrypted { version, cipher, verified: words.next() == Some("verified") },
            _ => Self::Clear(false),
        }
    }
}

impl<'a> Rejected<'a> {
    pub(super) fn of(rejected: &'a super::Rejected<'_>) -> Self {
        // A file's time lies within what a timestamp can be, unless someone set it to what no calendar has.
        let modified = Timestamp::from_nanosecond(rejected.fingerprint.modified).unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            outcome: "rejected",
            id: None,
            file: names::shown(rejected.name),
            from: None,
            accepted_at: None,
            finished_at: rejected.at.to_string(),
            reason: rejected.reason,
            kept_as: &rejected.kept_as,
            size: rejected.fingerprint.size,
            modified_at: modified.to_string(),
            recipients: [],
        }
    }

    /// With the file's name, what tells this file from another of the same name.
    pub(super) fn modified_at(&self) -> String {
        self.modified_at.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_taken_apart() {
        let peer = |tls: Option<&str>| Peer { host: "mx.test".into(), address: ([192, 0, 2, 1], 25).into(), tls: tls.map(Into::into) };
        let json = |tls| serde_json::to_string(&OfTls::of(&peer(tls))).unwrap();
        assert_eq!(json(None), "false");
        let encrypted = json(Some("TLSv1.3 TLS13_AES_256_GCM_SHA384"));
        assert_eq!(encrypted, r#"{"version":"TLSv1.3","cipher":"TLS13_AES_256_GCM_SHA384","verified":false}"#);
        assert!(json(Some("TLSv1.2 TLS_X verified")).ends_with(r#""verified":true}"#));
    }
}

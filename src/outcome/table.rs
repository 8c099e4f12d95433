//! The one table: every fault to what it means for the recipients it hits (SMTP session rules: RFC 5321 4.2, 4.5.4, RFC 3463).

use super::{EnhancedStatus, Fault, Kind, Phase};

/// What a fault means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Deferred or failed, when there is no further address to try.
    pub kind: Kind,
    /// The peer's own code where its class fits the reply, else the one of the table.
    pub status: EnhancedStatus,
    /// What may be tried before that.
    pub next: NextStep,
}

/// What may follow a fault within the same attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The next address of the route.
    NextAddress,
    /// Nothing: the outcome stands.
    Stop,
}

/// The table.
pub fn judge(fault: &Fault) -> Verdict {
    use Kind::{Deferred, Failed};
    use NextStep::{NextAddress, Stop};
    let row = |kind, (subject, detail), next| {
        let class = if kind == Failed { 5 } else { 4 };
        Verdict { kind, status: EnhancedStatus::new(class, subject, detail), next }
    };
    match fault {
        Fault::NoSuchDomain => row(Failed, (1, 2), Stop),
        Fault::NullMx => row(Failed, (1, 10), Stop),
        Fault::NoAddress(_) => row(Failed, (4, 4), Stop),
        Fault::LoopsBack | Fault::TooManyHops { .. } => row(Failed, (4, 6), Stop),
        Fault::Dns { .. } => row(Deferred, (4, 3), Stop),
        Fault::Rejected { .. } | Fault::Returned { .. } | Fault::Removed { .. } => row(Failed, (7, 1), Stop),
        Fault::Connect { .. } => row(Deferred, (4, 1), NextAddress),
        Fault::SiteDown { .. } => row(Deferred, (4, 1), Stop),
        Fault::Reply { phase, reply } => {
            let permanent = reply.code() >= 500;
            let (kind, next) = match phase {
                // A 5xx before MAIL speaks of the host or of our configuration, not of the recipient.
                Phase::Connect | Phase::Greeting | Phase::Ehlo | Phase::StartTls => (Deferred, NextAddress),
                Phase::Auth => (Deferred, NextAddress),
                Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Content | Phase::FinalDot if permanent => (Failed, Stop),
                Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Content | Phase::FinalDot => (Deferred, NextAddress),
            };
            let default = match phase {
                Phase::Connect | Phase::Greeting | Phase::Ehlo => (4, 2),
                Phase::StartTls => (7, 4),
                Phase::Auth => (7, 8),
                _ => (0, 0),
            };
            let verdict = row(kind, default, next);
            match reply.enhanced_status() {
                // No TLS is a matter of security (subject 7) for whoever required it, whatever the reason is on the peer's side.
                Some(own) if *phase == Phase::StartTls && own.subject != 7 => verdict,
                Some(own) if own.class == verdict.status.class => Verdict { status: own, ..verdict },
                _ => verdict,
            }
        }
        Fault::Closed { .. } | Fault::TimedOut { .. } => row(Deferred, (4, 2), NextAddress),
        Fault::Protocol { .. } => row(Deferred, (5, 0), NextAddress),
        Fault::PeerIsSelf => row(Failed, (4, 6), Stop),
        Fault::TlsNotOffered => row(Deferred, (7, 10), NextAddress),
        Fault::TlsHandshake { .. } | Fault::TlsInjection => row(Deferred, (7, 5), NextAddress),
        Fault::AuthImpossible { .. } => row(Deferred, (7, 8), NextAddress),
        Fault::TooLarge { .. } => row(Failed, (3, 4), NextAddress),
        Fault::NeedsSmtpUtf8 => row(Failed, (6, 7), NextAddress),
        Fault::SessionFull { .. } => row(Deferred, (4, 5), NextAddress),
        Fault::InDoubt { .. } => row(Deferred, (4, 2), Stop),
        Fault::Interrupted => row(Deferred, (3, 2), Stop),
        Fault::LocalIo { .. } | Fault::Journal { .. } | Fault::Internal => row(Deferred, (3, 0), Stop),
        Fault::Damaged { .. } => row(Failed, (3, 0), Stop),
        Fault::Expired { .. } => Verdict { kind: Failed, status: EnhancedStatus::new(4, 4, 7), next: Stop },
    }
}

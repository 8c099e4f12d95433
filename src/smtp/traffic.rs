//! What the client counts: sessions, and the octets that it sends.

use crate::observe::figure::{Counter, Gauge, Histogram, Series, figures, label};
use crate::outcome::{Fault, Phase};

figures! {
    /// What a client counts. A clone shows the same.
    pub struct Traffic {
        /// Sessions that are open.
        sessions_open: Gauge,
        /// Sessions that came about.
        sessions_opened: Counter,
        /// Connections that led to no session, by where that showed: connect, greeting, ehlo, tls or auth.
        sessions_failed: Series<Stage, Counter>,
        /// How long TLS handshakes took, those that came about.
        tls_handshake_seconds: Histogram,
        /// Octets that were sent, before encryption: commands and content.
        sent_bytes: Counter,
    }
}

label! {
    /// How far a connection came that led to no session.
    pub enum Stage as "stage" {
        /// TCP.
        Connect = "connect",
        /// Waiting for 220.
        Greeting = "greeting",
        /// EHLO or HELO.
        Ehlo = "ehlo",
        /// STARTTLS and the handshake.
        Tls = "tls",
        /// AUTH.
        Auth = "auth",
    }
}

impl Stage {
    /// Where `fault` kept a session from coming about.
    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Reply { phase, .. } | Fault::Closed { phase, .. } | Fault::TimedOut { phase } | Fault::Protocol { phase, .. } => {
                match phase {
                    Phase::Connect => Self::Connect,
                    Phase::Greeting => Self::Greeting,
                    Phase::StartTls => Self::Tls,
                    Phase::Auth => Self::Auth,
                    _ => Self::Ehlo,
                }
            }
            Fault::TlsNotOffered | Fault::TlsHandshake { .. } | Fault::TlsInjection => Self::Tls,
            Fault::AuthImpossible { .. } => Self::Auth,
            Fault::PeerIsSelf => Self::Ehlo,
            // Nothing else comes of opening a connection.
            _ => Self::Connect,
        }
    }
}

impl Traffic {
    /// A connection led to no session.
    pub(super) fn failed(&self, fault: &Fault) {
        self.sessions_failed.add(Stage::of(fault), 1);
    }

    /// A session came about; it is open as long as what this returns lives.
    pub(super) fn opened(&self) -> OpenSession {
        self.sessions_opened.inc();
        self.sessions_open.inc();
        OpenSession(self.sessions_open.clone())
    }
}

/// Counts one session as open.
pub(super) struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

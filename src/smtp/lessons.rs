//! What the end of a session teaches of its peer: takes how far things were and what went wrong, hands on how it is to be spoken to.

use super::quirks::Quirk;
use super::session::Session;
use crate::outcome::{Fault, Phase};

/// How the transaction that was next to be answered stood to what was sent ahead of replies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// It goes by BDAT.
    pub(super) chunked: bool,
    /// It was sent ahead itself, and nothing of it was answered.
    pub(super) itself: bool,
    /// Others were sent ahead behind it.
    pub(super) followers: bool,
    /// It was the session's second.
    pub(super) second: bool,
}

impl Session {
    /// A peer that lost its step is spoken to in a simpler way for a while.
    pub(super) fn remember(&self, chunked: bool, fault: &Fault) {
        let quirk = match fault {
            Fault::Protocol { .. } | Fault::TimedOut { phase: Phase::FinalDot | Phase::Content } if chunked => Quirk::Chunking,
            Fault::Protocol { .. } if self.capabilities.pipelining => Quirk::Pipelining,
            _ => return,
        };
        self.note_quirk(quirk, fault);
    }

    /// The same of a peer that may have lost, or not have liked, what was sent ahead.
    pub(super) fn remember_what_was_ahead(&self, ahead: Ahead, fault: &Fault) {
        match fault {
            // It answered the one before, so that it was there.
            Fault::TimedOut { phase: Phase::Mail | Phase::Rcpt | Phase::Data } if ahead.itself => {
                self.note_quirk(if ahead.chunked { Quirk::Chunking } else { Quirk::Ahead }, fault);
            }
            Fault::TimedOut { phase: Phase::Mail | Phase::Rcpt } if ahead.chunked && ahead.followers => {
                self.note_quirk(Quirk::Chunking, fault);
            }
            // In doubt each time that another one was behind.
            Fault::Closed { phase: Phase::FinalDot, .. } | Fault::TimedOut { phase: Phase::FinalDot } if ahead.followers => {
                self.client.note_break(&self.endpoint, fault);
            }
            // A session for each message.
            Fault::Closed { .. } if ahead.itself && ahead.second => self.client.note_break(&self.endpoint, fault),
            _ => {}
        }
    }
}

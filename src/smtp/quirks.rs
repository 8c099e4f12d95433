//! What is known of peers that promise more than they can do: each is spoken to in a simpler way for a while.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::route::Endpoint;

/// Peers that are remembered; the one that was not met for longest is forgotten first.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// What a peer offers and cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quirk {
    /// The handshake after STARTTLS breaks: clear text, where that is allowed.
    Tls,
    /// Replies get out of step with commands that are sent ahead: one command at a time.
    Pipelining,
    /// BDAT breaks: DATA.
    Chunking,
    /// What is sent ahead of the reply to a message's end is lost: one message at a time.
    Ahead,
}

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS broke: clear text from here on",
            Self::Pipelining => "PIPELINING broke: one command at a time from here on",
            Self::Chunking => "CHUNKING broke: DATA from here on",
            Self::Ahead => "what was sent ahead of the reply to a message was lost: one message at a time from here on",
        })
    }
}

/// What is known of a peer.
#[derive(Default)]
struct Entry {
    /// Until when each quirk counts.
    until: [Option<Instant>; 4],
    /// The first of the breaks that may have a quirk behind them.
    broke_at: Option<Instant>,
}

/// A second break within this time is no accident; what breaks together, as where a peer is started anew, is one.
const TWICE_WITHIN: Duration = Duration::from_secs(60 * 60);
const TOGETHER: Duration = Duration::from_secs(10);

/// Shared by all sessions.
pub(super) struct Quirks(Mutex<LruCache<(Arc<str>, SocketAddr), Entry>>);

impl Quirks {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    /// Notes it of `endpoint` for `period`.
    pub(super) fn note(&self, endpoint: &Endpoint, quirk: Quirk, period: Duration) {
        if let Some(until) = Instant::now().checked_add(period).filter(|_| !period.is_zero()) {
            self.entries().get_or_insert_mut(key(endpoint), Entry::default).until[quirk as usize] = Some(until);
        }
    }

    /// Whether it is noted of `endpoint`.
    pub(super) fn knows(&self, endpoint: &Endpoint, quirk: Quirk) -> bool {
        let now = Instant::now();
        self.entries().get(&key(endpoint)).is_some_and(|entry| entry.until[quirk as usize].is_some_and(|until| until > now))
    }

    /// A session broke in a way that may be an accident. Whether it is not the first time.
    pub(super) fn broke_again(&self, endpoint: &Endpoint) -> bool {
        let now = Instant::now();
        let mut entries = self.entries();
        let broke_at = &mut entries.get_or_insert_mut(key(endpoint), Entry::default).broke_at;
        match *broke_at {
            Some(at) if now - at < TOGETHER => false,
            Some(at) if now - at < TWICE_WITHIN => true,
            _ => {
                *broke_at = Some(now);
                false
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, LruCache<(Arc<str>, SocketAddr), Entry>> {
        // A panic elsewhere leaves a cache that is as good as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(endpoint: &Endpoint) -> (Arc<str>, SocketAddr) {
    (endpoint.host.clone(), endpoint.address)
}

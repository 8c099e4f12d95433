//! An open session: takes mail, hands on what the peer said of each recipient, in one transaction or several.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::chain::{End, Feed};
use super::client::Client;
use super::commands::needs_smtputf8;
use super::quirks::Quirk;
use super::traffic::OpenSession;
use super::wire::Wire;
use super::{Accepted, Capabilities, Mail, Reply};
use crate::config::Smtp;
use crate::message::Domain;
use crate::outcome::{Fault, Peer, Phase};
use crate::route::Endpoint;

/// What an established session begins with.
pub(super) struct Established {
    pub(super) wire: Wire,
    pub(super) peer: Arc<Peer>,
    pub(super) greeting: Reply,
    pub(super) hello: Reply,
    pub(super) capabilities: Capabilities,
    pub(super) opened_at: Instant,
    pub(super) handshake: Duration,
    /// The peer is not known to lose what is sent ahead of its reply to a message.
    pub(super) ahead: bool,
    pub(super) open: OpenSession,
}

/// One SMTP connection, greeted, encrypted and logged in as its endpoint requires. A future of [`Self::send`] or [`Self::run`] that is dropped before its
/// end leaves a session that is not reusable.
pub struct Session {
    pub(super) wire: Wire,
    peer: Arc<Peer>,
    greeting: Reply,
    hello: Reply,
    pub(super) capabilities: Capabilities,
    pub(super) client: Client,
    pub(super) endpoint: Endpoint,
    opened_at: Instant,
    handshake: Duration,
    pub(super) ahead: bool,
    /// Of recipients so far, where their number is limited.
    domains: HashSet<Domain>,
    pub(super) state: State,
    /// MAIL commands sent.
    pub(super) transactions: u32,
    /// The last transaction got no content: the peer still has its envelope, and RSET goes before the next one.
    pub(super) left_open: bool,
    stale: bool,
    _open: OpenSession,
}

/// What the session can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is owed by either side: MAIL may come next.
    Ready,
    /// A transaction is under way, or its future was dropped.
    Busy,
    /// Out of step, broken, or ended by a 421.
    Ended,
}

impl Session {
    pub(super) fn new(established: Established, client: Client, endpoint: Endpoint) -> Self {
        let Established { wire, peer, greeting, hello, capabilities, opened_at, handshake, ahead, open } = established;
        Self {
            wire,
            peer,
            greeting,
            hello,
            capabilities,
            client,
            endpoint,
            opened_at,
            handshake,
            ahead,
            domains: HashSet::new(),
            state: State::Ready,
            transactions: 0,
            left_open: false,
            stale: false,
            _open: open,
        }
    }

    /// Sends `mail` in as many transactions as its recipients need; results are in the order of its recipients. [`Self::run`] with a
    /// single mail.
    pub async fn send(&mut self, mail: &Mail<'_>) -> Vec<Result<Accepted, Fault>> {
        let mut feed = Single { mail: Some(mail), end: None };
        Box::pin(self.run(&mut feed)).await;
        let all = |fault: Fault| vec![Err(fault); mail.recipients.len()];
        self.stale = matches!(feed.end, Some(End::Untried(_)));
        match feed.end {
            Some(End::Answered(results)) => results,
            Some(End::Untried(fault)) => all(fault),
            None => all(Fault::Closed { phase: Phase::Mail, detail: "the session had ended".to_owned() }),
        }
    }

    /// Whether the next mail can be sent here: the session is in step, not ended, and under the peer's MAILMAX.
    pub fn is_reusable(&self) -> bool {
        self.state == State::Ready && self.session_limit().is_none()
    }

    /// Whether the peer, when last heard of, still kept the session open. Looks without waiting: for a session that was kept for a while.
    pub fn is_still_open(&mut self) -> bool {
        self.state == State::Ready && self.wire.unasked().is_none()
    }

    /// Waits until the peer says something or goes, of its own accord: for a session that is kept and has nothing to do.
    pub async fn hear(&mut self) {
        self.wire.hear().await;
    }

    /// Whether the last [`Self::send`] failed because the peer had ended a session that served mail before, so that nothing was tried:
    /// a new session to the same endpoint is the thing to do.
    pub fn was_stale(&self) -> bool {
        self.stale
    }

    /// The other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The reply to the connection.
    pub fn greeting(&self) -> &Reply {
        &self.greeting
    }

    /// The reply to the last EHLO or HELO.
    pub fn hello(&self) -> &Reply {
        &self.hello
    }

    /// What that reply offered.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Transactions begun.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// When the connection was there.
    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// How long TLS handshakes took on the way here, one that failed before included; zero without TLS.
    pub fn handshake(&self) -> Duration {
        self.handshake
    }

    /// Takes leave: QUIT where the session is in step, and the closing of TLS and of our direction, within two seconds. Nothing is waited for.
    pub async fn quit(self) {
        if self.state == State::Ready {
            self.wire.quit().await;
        }
    }

    /// What this peer cannot take, whoever the recipients are: nothing needs to be sent to know that.
    pub(super) fn refuses(&self, mail: &Mail<'_>) -> Option<Fault> {
        let size = mail.content.wire_size;
        match self.capabilities.size {
            Some(Some(limit)) if size > limit => return Some(Fault::TooLarge { size, limit }),
            _ => {}
        }
        (needs_smtputf8(mail) && !self.capabilities.smtputf8).then_some(Fault::NeedsSmtpUtf8)
    }

    /// The recipients that can be named to this peer; the others have their result.
    pub(super) fn possible(&self, mail: &Mail<'_>, results: &mut [Option<Result<Accepted, Fault>>]) -> VecDeque<usize> {
        let mut possible = VecDeque::with_capacity(mail.recipients.len());
        for (at, rcpt) in mail.recipients.iter().enumerate() {
            if rcpt.address.needs_smtputf8() && !self.capabilities.smtputf8 {
                results[at] = Some(Err(Fault::NeedsSmtpUtf8));
            } else {
                possible.push_back(at);
            }
        }
        possible
    }

    /// MAILMAX, where it is reached.
    pub(super) fn session_limit(&self) -> Option<u32> {
        self.capabilities.limits.transactions.filter(|&limit| self.transactions >= limit)
    }

    /// Whether `mail` would exceed RCPTDOMAINMAX, and does not on a session of its own. Otherwise its domains count from here on.
    pub(super) fn has_too_many_domains(&mut self, mail: &Mail<'_>) -> bool {
        let Some(limit) = self.capabilities.limits.domains else { return false };
        let new: HashSet<&Domain> = mail.recipients.iter().map(|rcpt| rcpt.address.domain()).collect();
        let all = self.domains.len() + new.iter().filter(|domain| !self.domains.contains(**domain)).count();
        if all > limit && self.transactions > 0 {
            return true;
        }
        self.domains.extend(new.into_iter().cloned());
        false
    }

    /// Recipients in one transaction, where the peer was found to take `learned`.
    pub(super) fn recipient_limit(&self, learned: usize) -> usize {
        let offered = self.capabilities.limits.recipients.unwrap_or(usize::MAX);
        self.smtp().recipients_per_transaction.min(offered).min(learned).max(1)
    }

    /// The peer cannot do what it offers.
    pub(super) fn note_quirk(&self, quirk: Quirk, fault: &Fault) {
        self.client.note_quirk(&self.endpoint, quirk, fault);
    }

    pub(super) fn smtp(&self) -> &Smtp {
        &self.client.settings.smtp
    }

    /// How long an answer to `phase` may take.
    pub(super) fn limit(&self, phase: Phase) -> Duration {
        let smtp = self.smtp();
        match phase {
            Phase::FinalDot => smtp.final_timeout,
            Phase::Rcpt => smtp.rcpt_timeout,
            Phase::Data => smtp.data_timeout,
            _ => smtp.mail_timeout,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("state", &self.state)
            .field("transactions", &self.transactions)
            .finish_non_exhaustive()
    }
}

/// A single mail as a feed.
struct Single<'a> {
    mail: Option<&'a Mail<'a>>,
    end: Option<End>,
}

impl<'a> Feed for Single<'a> {
    type Parcel = &'a Mail<'a>;

    fn next(&mut self, _: u32) -> Option<Self::Parcel> {
        self.mail.take()
    }

    fn done(&mut self, _: Self::Parcel, end: End) {
        self.end = Some(end);
    }
}

//! An open session: takes mail, hands on what the peer said of each recipient, in one transaction or several.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Settings;
use super::commands::{needs_smtputf8, notify_goes_along};
use super::content::send_content;
use super::transaction::{Envelope, Sorted, Then};
use super::wire::{Wire, WireError};
use super::{Accepted, Capabilities, Mail, Reply, shown};
use crate::message::{ContentReader, OpenError};
use crate::outcome::{Fault, Peer, Phase};

/// What an established session begins with.
pub(super) struct Established {
    pub(super) wire: Wire,
    pub(super) peer: Arc<Peer>,
    pub(super) greeting: Reply,
    pub(super) hello: Reply,
    pub(super) capabilities: Capabilities,
    pub(super) opened_at: Instant,
}

/// One SMTP connection, greeted, encrypted and logged in as its endpoint requires. A future of [`Self::send`] that is dropped before its
/// end leaves a session that is not reusable.
pub struct Session {
    wire: Wire,
    peer: Arc<Peer>,
    greeting: Reply,
    hello: Reply,
    capabilities: Capabilities,
    settings: Arc<Settings>,
    opened_at: Instant,
    state: State,
    /// MAIL commands sent.
    transactions: u32,
    /// The last transaction got no content: the peer still has its envelope, and RSET goes before the next one.
    left_open: bool,
    /// Recipients of the mail at hand that the peer took in a transaction before it said that there were too many.
    learned_limit: usize,
    stale: bool,
}

/// What the session can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is owed by either side: MAIL may come next.
    Ready,
    /// A transaction is under way, or its future was dropped.
    Busy,
    /// Out of step, broken, or ended by a 421.
    Ended,
}

/// What became of each recipient so far, in the order of the mail.
type Results = [Option<Result<Accepted, Fault>>];

/// How a transaction ended, besides its recipients' results.
enum After {
    /// Others may follow; first of all these, which did not fit into this one.
    Next(Vec<usize>),
    /// Nothing more of this mail is to be tried here: what that means for recipients that were not tried yet.
    Stop(Fault),
}

impl Session {
    pub(super) fn new(established: Established, settings: Arc<Settings>) -> Self {
        let Established { wire, peer, greeting, hello, capabilities, opened_at } = established;
        Self {
            wire,
            peer,
            greeting,
            hello,
            capabilities,
            settings,
            opened_at,
            state: State::Ready,
            transactions: 0,
            left_open: false,
            learned_limit: usize::MAX,
            stale: false,
        }
    }

    /// Sends `mail` in as many transactions as its recipients need; results are in the order of its recipients.
    ///
    /// Whatever happens, [`Self::is_reusable`] tells afterwards whether the session can take more.
    pub async fn send(&mut self, mail: &Mail<'_>) -> Vec<Result<Accepted, Fault>> {
        let mut results = vec![None; mail.recipients.len()];
        let rest = Box::pin(self.send_all(mail, &mut results)).await;
        self.wire.release();
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(rest.clone()))).collect()
    }

    /// Whether the next mail can be sent here: the session is in step, not ended, and under the peer's MAILMAX.
    pub fn is_reusable(&self) -> bool {
        self.state == State::Ready && self.session_limit().is_none()
    }

    /// Whether the peer, when last heard of, still kept the session open. Looks without waiting: for a session that was kept for a while.
    pub fn is_still_open(&mut self) -> bool {
        self.state == State::Ready && self.wire.unasked().is_none()
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

    /// Takes leave: QUIT where the session is in step, and the closing of TLS and of our direction, within two seconds. Nothing is waited for.
    pub async fn quit(self) {
        if self.state == State::Ready {
            self.wire.quit().await;
        }
    }

    /// Returns what holds for recipients without a result.
    async fn send_all(&mut self, mail: &Mail<'_>, results: &mut Results) -> Fault {
        self.stale = false;
        self.learned_limit = usize::MAX;
        if let Some(fault) = self.refuses(mail) {
            return fault;
        }
        if let Err(fault) = self.check_open() {
            return fault;
        }
        let mut waiting = self.possible(mail, results);
        while !waiting.is_empty() {
            if let Some(limit) = self.session_limit() {
                return Fault::SessionFull { limit };
            }
            let group: Vec<usize> = waiting.drain(..waiting.len().min(self.recipient_limit())).collect();
            match self.transact(mail, &group, results).await {
                After::Next(too_many) => {
                    for at in too_many.into_iter().rev() {
                        results[at] = None;
                        waiting.push_front(at);
                    }
                }
                After::Stop(fault) => return fault,
            }
        }
        Fault::Internal
    }

    /// What this peer cannot take, whoever the recipients are: nothing needs to be sent to know that.
    fn refuses(&self, mail: &Mail<'_>) -> Option<Fault> {
        let size = mail.content.wire_size;
        match self.capabilities.size {
            Some(Some(limit)) if size > limit => return Some(Fault::TooLarge { size, limit }),
            _ => {}
        }
        (needs_smtputf8(mail) && !self.capabilities.smtputf8).then_some(Fault::NeedsSmtpUtf8)
    }

    /// The recipients that can be named to this peer; the others have their result.
    fn possible(&self, mail: &Mail<'_>, results: &mut Results) -> VecDeque<usize> {
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

    /// Between transactions the peer has nothing to say, except that it goes.
    fn check_open(&mut self) -> Result<(), Fault> {
        const PHASE: Phase = Phase::Mail;
        if self.state != State::Ready {
            return Err(Fault::Closed { phase: PHASE, detail: "the session had ended".to_owned() });
        }
        let Some(unasked) = self.wire.unasked() else { return Ok(()) };
        self.state = State::Ended;
        self.stale = self.transactions > 0;
        Err(match unasked {
            Ok(reply) if reply.code() == 421 => Fault::Reply { phase: PHASE, reply },
            Ok(reply) => Fault::Protocol { phase: PHASE, detail: format!("out of step: it said {reply} without having been asked") },
            Err(error) => error.during(PHASE),
        })
    }

    /// MAILMAX, where it is reached.
    fn session_limit(&self) -> Option<u32> {
        self.capabilities.limits.transactions.filter(|&limit| self.transactions >= limit)
    }

    fn recipient_limit(&self) -> usize {
        let offered = self.capabilities.limits.recipients.unwrap_or(usize::MAX);
        self.settings.smtp.recipients_per_transaction.min(offered).min(self.learned_limit).max(1)
    }

    /// One transaction: envelope, content, and the result of every recipient of `group` that had an answer.
    async fn transact(&mut self, mail: &Mail<'_>, group: &[usize], results: &mut Results) -> After {
        // Opened first: a file that is not there is no reason to bother the peer.
        let reader = match ContentReader::open(mail.file, mail.content) {
            Ok(reader) => reader,
            Err(error) => return After::Stop(open_fault(error)),
        };
        self.state = State::Busy;
        let reused = self.transactions > 0;
        self.transactions += 1;
        let mut envelope = Envelope::new(mail, group, &self.capabilities, self.left_open);
        let dialogue = self.converse(&mut envelope).await;
        if let Err(fault) = &dialogue {
            self.stale = reused && !envelope.is_answered() && matches!(fault, Fault::Closed { .. } | Fault::Reply { .. });
        }
        self.left_open = envelope.left_open();
        let then = envelope.then();
        let mail_refusal = envelope.mail_refusal().cloned();
        let Sorted { accepted, too_many, refused } = envelope.sort(dialogue.as_ref().err());
        for (at, fault) in refused {
            results[at] = Some(Err(fault));
        }
        if let Err(fault) = dialogue {
            self.state = State::Ended;
            return After::Stop(mail_refusal.unwrap_or(fault));
        }
        if then != Then::Content {
            self.state = if then == Then::LoneDot { self.lone_dot().await } else { State::Ready };
            return match (mail_refusal, self.state) {
                (Some(refusal), _) => After::Stop(refusal),
                (None, State::Ready) => After::Next(Vec::new()),
                (None, _) => After::Stop(ended("the peer did not go on after a lone dot")),
            };
        }
        let answer = send_content(&mut self.wire, reader, mail.content.wire_size, &self.settings.smtp).await;
        let (state, after) = after_content(&answer, too_many);
        self.state = state;
        if let After::Next(again) = &after
            && !again.is_empty()
        {
            self.learned_limit = accepted.len();
        }
        for at in accepted {
            results[at] = Some(
                answer.clone().map(|reply| Accepted { reply, dsn_relayed: notify_goes_along(&mail.recipients[at], &self.capabilities) }),
            );
        }
        after
    }

    /// Turn after turn until everything is answered. An error ends the session.
    async fn converse(&mut self, envelope: &mut Envelope<'_>) -> Result<(), Fault> {
        loop {
            envelope.append_turn(self.wire.output());
            let Some(first) = envelope.awaited() else { return Ok(()) };
            let lost = |error: WireError| error.during(first.phase());
            self.wire.send(self.limit(first.phase())).await.map_err(lost)?;
            while let Some(awaited) = envelope.awaited() {
                let phase = awaited.phase();
                let reply = self.wire.reply(self.limit(phase)).await.map_err(|error| error.during(phase))?;
                envelope.answer(reply)?;
            }
        }
    }

    /// Ends content that nobody gets. What the peer says to it concerns nobody either.
    async fn lone_dot(&mut self) -> State {
        self.wire.output().extend_from_slice(b".\r\n");
        let limit = self.settings.smtp.data_timeout;
        match (self.wire.send(limit).await, self.wire.reply(limit).await) {
            (Ok(()), Ok(reply)) if reply.code() != 421 => State::Ready,
            _ => State::Ended,
        }
    }

    fn limit(&self, phase: Phase) -> Duration {
        let smtp = &self.settings.smtp;
        match phase {
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

/// What the answer to the content means for the session and for recipients that were not tried yet.
fn after_content(answer: &Result<Reply, Fault>, too_many: Vec<usize>) -> (State, After) {
    match answer {
        Ok(_) => (State::Ready, After::Next(too_many)),
        Err(Fault::Reply { phase: Phase::FinalDot, reply }) if reply.code() != 421 => (State::Ready, After::Next(Vec::new())),
        // The file is the same for everyone.
        Err(fault @ (Fault::LocalIo { .. } | Fault::Damaged { .. } | Fault::Internal)) => (State::Ended, After::Stop(fault.clone())),
        // Others were not part of that transaction: nothing is in doubt, and nothing was refused.
        Err(fault) => (State::Ended, After::Stop(ended(&fault.to_string()))),
    }
}

fn ended(why: &str) -> Fault {
    Fault::Closed { phase: Phase::Mail, detail: format!("the session had ended: {}", shown(why)) }
}

fn open_fault(error: OpenError) -> Fault {
    match error {
        OpenError::Missing | OpenError::Damaged(_) | OpenError::Cuts { .. } => Fault::Damaged { detail: error.to_string() },
        OpenError::Io(error) => Fault::LocalIo { detail: error.to_string() },
    }
}

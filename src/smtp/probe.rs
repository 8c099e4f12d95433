//! A session that is opened to be looked at: takes an endpoint, hands on what each step showed and how long it took. The dialogue is that of
//! every session; only its steps are noted.

use std::time::Duration;

use tokio::time::Instant;

use super::certificate::{Chain, Shown};
use super::client::Client;
use super::commands::Parameters;
use super::session::{Session, State};
use super::{ConnectError, Mail, Reply};
use crate::outcome::{Fault, Phase};
use crate::route::Endpoint;

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named for what is waited for")]
pub enum Step {
    Connect,
    Greeting,
    /// In clear text, or the first one under implicit TLS.
    Ehlo,
    StartTls,
    Handshake,
    /// Again, under TLS.
    EhloAgain,
    Auth,
    Mail,
    Rcpt,
    Rset,
}

impl Step {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Handshake => "handshake",
            Self::EhloAgain => "ehlo_again",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Rset => "rset",
        }
    }
}

/// What one connection showed.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The steps that were finished, each with its time.
    pub steps: Vec<(Step, Duration)>,
    /// Since the last of them until it failed.
    pub failed_after: Option<Duration>,
    /// What the peer said first: 220, or that it does not want to talk.
    pub greeting: Option<Reply>,
    /// The answer to the first EHLO.
    pub hello: Option<Reply>,
    /// The answer to the one under TLS.
    pub hello_again: Option<Reply>,
    /// The certificates, whether they were taken or not.
    pub chain: Option<Chain>,
}

/// An opened session, or why there is none, and what was seen on the way.
#[derive(Debug)]
pub struct Probe {
    /// More than one where clear text was tried after TLS broke.
    pub connections: Vec<Observed>,
    /// As [`Client::connect`] hands it on.
    pub result: Result<Session, ConnectError>,
}

/// The answers to MAIL, RCPT and RSET, as far as it went.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// Each with its time.
    pub answers: Vec<(Step, Reply, Duration)>,
    /// Why the recipient would not get mail.
    pub fault: Option<Fault>,
}

/// Notes steps, or nothing: a session that carries mail pays nothing for it.
#[derive(Debug)]
pub(super) struct Watch {
    connections: Option<Vec<Observed>>,
    since: Instant,
}

impl Watch {
    /// Notes nothing.
    pub(super) fn off() -> Self {
        Self { connections: None, since: Instant::now() }
    }

    /// A connection is begun.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
        if let Some(connections) = &mut self.connections {
            connections.push(Observed::default());
        }
    }

    /// A step is finished.
    pub(super) fn passed(&mut self, step: Step) {
        let since = self.since;
        self.note(|observed| observed.steps.push((step, since.elapsed())));
        self.since = Instant::now();
    }

    /// The connection is given up.
    pub(super) fn failed(&mut self) {
        let since = self.since;
        self.note(|observed| observed.failed_after = Some(since.elapsed()));
    }

    /// Something was seen.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut Observed)) {
        if let Some(observed) = self.connections.as_mut().and_then(|connections| connections.last_mut()) {
            note(observed);
        }
    }
}

impl Client {
    /// As [`Self::connect`], looked at.
    pub async fn probe(&self, endpoint: &Endpoint) -> Probe {
        let shown = Shown::default();
        let noting = self.noting(&shown);
        let mut watch = Watch { connections: Some(Vec::new()), since: Instant::now() };
        let result = noting.open(endpoint, &mut watch).await;
        let mut connections = watch.connections.unwrap_or_default();
        // Only the first connection can have been encrypted: a second one is made in clear text.
        let certificates = shown.take();
        if let Some(first) = connections.first_mut().filter(|_| !certificates.is_empty()) {
            first.chain = Some(self.judge(&certificates, endpoint));
        }
        Probe { connections, result }
    }
}

impl Session {
    /// MAIL, RCPT for the one recipient of `mail`, and RSET: whether the peer would take it. Nothing is sent.
    pub async fn rehearse(&mut self, mail: &Mail<'_>) -> Rehearsal {
        let mut rehearsal = Rehearsal::default();
        let refused = self.refuses(mail);
        let possible = self.possible(mail, &mut vec![None; mail.recipients.len()]);
        let (None, Some(&at)) = (&refused, possible.front()) else {
            rehearsal.fault = Some(refused.unwrap_or(Fault::NeedsSmtpUtf8));
            return rehearsal;
        };
        let parameters = Parameters::new(mail, &[at], &self.capabilities);
        let (mut envelope, mut recipient) = (Vec::new(), Vec::new());
        parameters.mail(mail, &mut envelope);
        parameters.rcpt(mail, &mail.recipients[at], &mut recipient);
        for (step, phase, line) in [(Step::Mail, Phase::Mail, envelope), (Step::Rcpt, Phase::Rcpt, recipient)] {
            if let Err(fault) = self.rehearse_one(step, phase, &line, &mut rehearsal).await {
                rehearsal.fault = Some(fault);
                break;
            }
        }
        // With a session that is over, there is nothing to take back.
        if self.state == State::Ready {
            let _ = self.rehearse_one(Step::Rset, Phase::Mail, b"RSET\r\n", &mut rehearsal).await;
        }
        rehearsal
    }

    async fn rehearse_one(&mut self, step: Step, phase: Phase, line: &[u8], rehearsal: &mut Rehearsal) -> Result<(), Fault> {
        let (limit, began) = (self.limit(phase), Instant::now());
        self.state = State::Ended;
        self.wire.output().extend_from_slice(line);
        self.wire.send(limit).await.map_err(|error| error.during(phase))?;
        let reply = self.wire.reply(limit).await.map_err(|error| error.during(phase))?;
        rehearsal.answers.push((step, reply.clone(), began.elapsed()));
        if reply.code() != 421 {
            self.state = State::Ready;
        }
        match reply.code() {
            200..300 => Ok(()),
            400.. => Err(Fault::Reply { phase, reply }),
            _ => {
                self.state = State::Ended;
                Err(Fault::Protocol { phase, detail: format!("out of step: {phase} was answered {reply}") })
            }
        }
    }
}

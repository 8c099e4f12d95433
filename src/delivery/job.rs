//! One copy's attempt: what is known so far of each of its recipients, and where it can still go.
//!
//! The addresses of its route are tried in order. What a peer says for good stands; what it puts off goes to the next address, until
//! `smtp.max_addresses` (applied by routing) or `smtp.max_sessions` is reached. In doubt is never tried elsewhere.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::Ready;
use super::settle::Ended;
use super::worker::since;
use crate::clock::Timestamp;
use crate::message::Address;
use crate::outcome::{Fault, Kind, NextStep, Outcome, Peer, Phase, judge};
use crate::queue::{AttemptId, AttemptRecord, Delays, QueuedCopy, RecipientId};
use crate::retry::later;
use crate::route::{Endpoint, Route};
use crate::smtp::{Accepted, ConnectError, Mail, Parcel, Rcpt};

/// A copy whose attempt has begun.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) copy: Arc<QueuedCopy>,
    pub(super) route: Arc<Route>,
    /// How long routing took.
    routing: Duration,
    /// When the attempt was recorded.
    began_at: Timestamp,
    began: Instant,
    /// In the order of the copy's recipients.
    outcomes: Vec<Option<Outcome>>,
    /// Recipients that are to be tried at the present address.
    pending: Vec<usize>,
    /// Those that it put off, to be tried at the next one.
    put_off: Vec<usize>,
    /// Addresses that have had their say.
    tried: Vec<SocketAddr>,
    /// The address at which it is being tried: a further session to it does not count.
    current: Option<SocketAddr>,
    /// Addresses with which a session came about.
    sessions: usize,
    /// A line for each address that was tried.
    trail: Vec<String>,
    /// TCP, greeting, EHLO, TLS, AUTH, of all sessions that were opened for this copy.
    connect: Duration,
    handshake: Duration,
    transfer: Duration,
    /// When it was handed to a session.
    sent_at: Option<Instant>,
    reached: bool,
    /// Set when a login was refused or impossible: this host's configuration is at fault, not the recipient.
    pub(super) login_failed: Option<String>,
    /// Set when this host could not even dial.
    pub(super) short_here: Option<String>,
}

/// What a session is given of a job.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) copy: Arc<QueuedCopy>,
    /// Which of its recipients.
    recipients: Vec<usize>,
    file: PathBuf,
    began_at: Timestamp,
}

impl Sheet {
    /// For the journal.
    pub(super) fn attempt(&self) -> AttemptId {
        AttemptId { copy: self.copy.id, began_at: self.began_at }
    }

    /// The recipient at that place of the mail.
    pub(super) fn recipient(&self, place: usize) -> RecipientId {
        self.copy.recipients[self.recipients[place]].id
    }
}

impl Parcel for Sheet {
    fn mail(&self) -> Mail<'_> {
        let message = &*self.copy.message;
        let recipients = self.recipients.iter().map(|&index| &self.copy.recipients[index]);
        Mail {
            sender: &message.sender,
            recipients: recipients.map(|recipient| Rcpt { address: &recipient.address, notify: recipient.notify }).collect(),
            content: &message.content,
            file: &self.file,
            ret: message.ret,
            envid: message.envid.as_deref(),
        }
    }
}

impl Job {
    /// An attempt that was recorded as begun at `began_at`.
    pub(super) fn new(ready: Ready, began_at: Timestamp) -> Self {
        let Ready { copy, route, routing, .. } = ready;
        let count = copy.recipients.len();
        Self {
            copy,
            route,
            routing,
            began_at,
            began: Instant::now(),
            outcomes: vec![None; count],
            pending: (0..count).collect(),
            put_off: Vec::new(),
            tried: Vec::new(),
            current: None,
            sessions: 0,
            trail: Vec::new(),
            connect: Duration::ZERO,
            handshake: Duration::ZERO,
            transfer: Duration::ZERO,
            sent_at: None,
            reached: false,
            login_failed: None,
            short_here: None,
        }
    }

    /// Back to where it came from, untouched: another session takes it.
    pub(super) fn into_ready(self) -> Ready {
        Ready { copy: self.copy, route: self.route, routing: self.routing, begun_at: Some(self.began_at) }
    }

    /// When its attempt was recorded as begun.
    pub(super) fn began_at(&self) -> Timestamp {
        self.began_at
    }

    /// For how long a session has had it.
    pub(super) fn sent_for(&self) -> Duration {
        self.sent_at.map_or(Duration::ZERO, |sent| sent.elapsed())
    }

    /// Where it should go next; `None`: nowhere any more.
    pub(super) fn next_endpoint(&self, max_sessions: usize) -> Option<&Endpoint> {
        if self.pending.is_empty() {
            return None;
        }
        let next = self.route.endpoints.iter().find(|endpoint| !self.tried.contains(&endpoint.address))?;
        (self.sessions < max_sessions || self.current == Some(next.address)).then_some(next)
    }

    /// Whether it can go over a session that was opened for `open`: same host, same requirement, same login, not tried yet.
    pub(super) fn fits(&self, open: &Endpoint, max_sessions: usize) -> bool {
        !self.pending.is_empty()
            && !self.tried.contains(&open.address)
            && (self.sessions < max_sessions || self.current == Some(open.address))
            && self.route.endpoints.iter().any(|endpoint| {
                endpoint.host == open.host
                    && endpoint.address.port() == open.address.port()
                    && endpoint.tls == open.tls
                    && endpoint.credentials == open.credentials
            })
    }

    /// What a session to `address` is to send; `file`: of the message.
    pub(super) fn hand_out(&mut self, address: SocketAddr, file: PathBuf) -> Sheet {
        self.meets(address);
        self.sent_at = Some(Instant::now());
        Sheet { copy: self.copy.clone(), recipients: self.pending.clone(), file, began_at: self.began_at }
    }

    fn meets(&mut self, address: SocketAddr) {
        if self.current != Some(address) {
            self.current = Some(address);
            self.sessions += 1;
        }
    }

    /// The session ended before the peer had looked at it.
    pub(super) fn untried(&mut self) {
        self.stop_clock();
    }

    /// How long the session had it.
    fn stop_clock(&mut self) -> Duration {
        let took = self.sent_at.take().map_or(Duration::ZERO, |sent| sent.elapsed());
        self.transfer += took;
        took
    }

    /// Takes what a session with `peer` said of the recipients that it was handed. Hands on how long that took.
    pub(super) fn answered(&mut self, peer: &Arc<Peer>, results: Vec<Result<Accepted, Fault>>) -> Duration {
        let took = self.stop_clock();
        self.reached = true;
        // Recipients that came after as many transactions as the peer takes in one session go in a new one to the same address. Where not
        // even one was tried, a further session would be no better.
        let left_over = results.iter().filter(|result| matches!(result, Err(Fault::SessionFull { .. }))).count();
        let goes_on = left_over > 0 && left_over < results.len();
        self.note(peer, &results);
        let indexes = std::mem::take(&mut self.pending);
        for (index, result) in indexes.into_iter().zip(results) {
            match result {
                Ok(accepted) => self.outcomes[index] = Some(Outcome::delivered(accepted.reply, peer.clone(), accepted.dsn_relayed)),
                Err(fault @ Fault::SessionFull { .. }) if goes_on => {
                    self.record(index, &fault, peer);
                    self.put_off.retain(|&other| other != index);
                    self.pending.push(index);
                }
                Err(fault) => self.record(index, &fault, peer),
            }
        }
        if !goes_on {
            self.at_next_address(peer.address);
        }
        took
    }

    /// No session came about, or none that mail could be sent over.
    pub(super) fn connect_failed(&mut self, error: &ConnectError, took: Duration) {
        let ConnectError { fault, peer, greeted, handshake } = error;
        self.connecting_took(took, *handshake);
        self.reached |= !fault.is_unreachable();
        if *greeted {
            self.meets(peer.address);
        }
        let line = trail_line(peer, fault);
        if matches!(fault, Fault::AuthImpossible { .. } | Fault::Reply { phase: Phase::Auth, .. }) {
            self.login_failed = Some(line.clone());
        }
        if matches!(fault, Fault::Shortage { .. }) {
            self.short_here = Some(fault.to_string());
        }
        self.trail.push(line);
        for index in std::mem::take(&mut self.pending) {
            self.record(index, fault, peer);
        }
        self.at_next_address(peer.address);
    }

    fn at_next_address(&mut self, tried: SocketAddr) {
        self.tried.push(tried);
        self.pending.append(&mut self.put_off);
    }

    /// So long was spent on a session for it, and on TLS handshakes of that.
    pub(super) fn connecting_took(&mut self, took: Duration, handshake: Duration) {
        self.connect += took;
        self.handshake += handshake;
    }

    /// The attempt broke off by a bug here. What was handed to a session may have reached the peer.
    pub(super) fn panicked(&mut self) {
        let in_doubt = self.sent_at.is_some();
        for index in std::mem::take(&mut self.pending) {
            self.outcomes[index] = Some(Outcome { in_doubt, ..Outcome::of(&Fault::Internal, None) });
        }
    }

    /// Whether nothing was tried yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.trail.is_empty()
    }

    /// What the last address said, where none could be reached.
    pub(super) fn unreachable(&self) -> Option<&str> {
        if self.reached { None } else { self.trail.last().map(String::as_str) }
    }

    fn record(&mut self, index: usize, fault: &Fault, peer: &Arc<Peer>) {
        let outcome = Outcome::of(fault, Some(peer.clone()));
        let goes_on = judge(fault).next == NextStep::NextAddress;
        let earlier = self.outcomes[index].take();
        self.outcomes[index] = Some(match earlier {
            // A better host put it off before this one turned out to be this host: the loop is no verdict on the recipient.
            Some(earlier) if *fault == Fault::PeerIsSelf => earlier,
            Some(earlier) if goes_on && weighs_more(&earlier, &outcome) => earlier,
            _ => outcome,
        });
        if goes_on {
            self.put_off.push(index);
        }
    }

    fn note(&mut self, peer: &Peer, results: &[Result<Accepted, Fault>]) {
        // A copy for thousands of recipients may bring as many different replies; the recipients' outcomes keep them all.
        const SHOWN: usize = 3;
        const NAMED: usize = 2;
        if let [Ok(accepted)] = results {
            return self.trail.push(trail_line(peer, &accepted.reply));
        }
        // What was said, and to whom.
        let mut said: Vec<(String, Vec<&Address>)> = Vec::new();
        for (result, &index) in results.iter().zip(&self.pending) {
            let line = match result {
                Ok(accepted) => accepted.reply.to_string(),
                Err(fault) => fault.to_string(),
            };
            let to = &self.copy.recipients[index].address;
            match said.iter_mut().find(|(known, _)| *known == line) {
                Some((_, all)) => all.push(to),
                None => said.push((line, vec![to])),
            }
        }
        if let [(line, _)] = said.as_slice() {
            let line = trail_line(peer, line);
            return self.trail.push(line);
        }
        let more = said.len().saturating_sub(SHOWN);
        let lines: Vec<String> = said
            .iter()
            .take(SHOWN)
            .map(|(line, to)| {
                let names: Vec<String> = to.iter().take(NAMED).map(ToString::to_string).collect();
                let others = to.len().saturating_sub(NAMED);
                let others = if others > 0 { format!(" and {others} more") } else { String::new() };
                format!("{}{others}: {line}", names.join(", "))
            })
            .collect();
        let rest = if more > 0 { format!(" (and {more} other replies)") } else { String::new() };
        let line = trail_line(peer, &format!("{}{rest}", lines.join(" | ")));
        self.trail.push(line);
    }

    /// What the attempt came to.
    pub(super) fn into_ended(self) -> (Arc<QueuedCopy>, Ended) {
        // A route has at least one endpoint, so that every recipient was tried; were it empty, deferring is what loses nothing.
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Outcome::of(&Fault::Internal, None))).collect();
        let delays = Delays {
            queue: since(self.copy.due_at, self.began_at),
            dns: self.routing,
            connect: self.connect,
            handshake: self.handshake,
            transfer: self.transfer,
        };
        let record = AttemptRecord {
            number: self.copy.attempts + 1,
            began_at: self.began_at,
            ended_at: later(self.began_at, self.began.elapsed()),
            site: self.route.site.to_string(),
            route: self.route.source.to_string(),
            delays,
            trail: self.trail,
        };
        (self.copy, Ended::Outcomes { outcomes, attempt: Some(record), at_least: Duration::ZERO })
    }
}

/// Among the outcomes of two addresses: what is soft outweighs what is hard, and an answer outweighs silence.
fn weighs_more(earlier: &Outcome, later: &Outcome) -> bool {
    match (earlier.kind, later.kind) {
        (Kind::Deferred, Kind::Failed) => true,
        (Kind::Failed, _) => false,
        _ => earlier.reply.is_some() && later.reply.is_none(),
    }
}

fn trail_line(peer: &Peer, what: &dyn fmt::Display) -> String {
    let (ip, port) = (peer.address.ip(), peer.address.port());
    match peer.tls.as_deref() {
        Some(tls) => format!("{} [{ip}]:{port}, {tls}: {what}", peer.host),
        None => format!("{} [{ip}]:{port}: {what}", peer.host),
    }
}

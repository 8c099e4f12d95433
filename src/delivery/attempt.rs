//! One attempt: takes a copy, its route and perhaps a kept session, hands on an outcome per recipient.
//!
//! The addresses are tried in order. What a peer says for good stands; what it puts off goes to the next address, until
//! `smtp.max_addresses` (applied by routing) or `smtp.max_sessions` is reached. In doubt is never tried elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::outcome::{EnhancedStatus, Fault, Kind, NextStep, Outcome, Peer, Phase, judge};
use crate::queue::QueuedCopy;
use crate::route::{Endpoint, Route};
use crate::smtp::{Accepted, Client, ConnectError, Mail, Rcpt, Session};
use crate::spool::Layout;

/// What an attempt needs besides its copy.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    /// Opens sessions.
    pub client: &'a Client,
    /// `[smtp]`.
    pub settings: &'a config::Smtp,
    /// Where the message file is.
    pub layout: &'a Layout,
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) struct Attempted {
    /// In the order of the copy's recipients.
    pub outcomes: Vec<Outcome>,
    /// A line for each address that was tried.
    pub trail: Vec<String>,
    /// TCP, greeting, EHLO, TLS, AUTH, of all addresses together.
    pub connect: Duration,
    /// Transactions.
    pub transfer: Duration,
    /// Set when no address could be reached: what the last one said.
    pub unreachable: Option<String>,
    /// Set when a login was refused or impossible: this host's configuration is at fault, not the recipient.
    pub login_failed: Option<String>,
}

/// A session that is kept for the next copy of its site.
pub(super) struct Kept {
    /// The session.
    pub session: Box<Session>,
    /// What it was opened for.
    endpoint: Endpoint,
}

/// Tells the caller that a session got through, the moment it does.
pub(super) type OnConnected<'a> = &'a (dyn Fn() + Send + Sync);

/// Tries to deliver `copy` along `route`. A usable session is left in `kept` for the next copy of the same site.
pub(super) async fn attempt(
    means: Means<'_>,
    kept: &mut Option<Kept>,
    copy: &QueuedCopy,
    route: &Route,
    connected: OnConnected<'_>,
) -> Attempted {
    let mut progress = Progress::new(copy);
    let file = means.layout.message_file(copy.message.id);
    let mut sessions = 0;
    // The address that a kept session has spoken for already.
    let mut spoken_for = None;
    if let Some(open) = kept.take() {
        let address = open.endpoint.address;
        if !open.fits(route) {
            open.session.quit().await;
        } else if let Sent::Answered(open) = progress.send(open, copy, &file).await {
            sessions += 1;
            *kept = open;
            // A session that was full says nothing about a new one to the same address.
            spoken_for = (!progress.session_was_full()).then_some(address);
            progress.at_next_address();
        }
    }
    for endpoint in route.endpoints.iter().filter(|endpoint| spoken_for != Some(endpoint.address)) {
        if progress.is_done() || sessions >= means.settings.max_sessions {
            break;
        }
        sessions += 1;
        loop {
            if let Some(open) = kept.take() {
                open.session.quit().await;
            }
            let began = Instant::now();
            let opened = means.client.connect(endpoint).await;
            progress.connect += began.elapsed();
            match opened {
                Ok(session) => {
                    connected();
                    if let Sent::Answered(open) =
                        progress.send(Kept { session: Box::new(session), endpoint: endpoint.clone() }, copy, &file).await
                    {
                        *kept = open;
                    }
                    // The peer takes so many transactions a session: what was left over goes in a new one.
                    if progress.session_was_full() {
                        continue;
                    }
                }
                Err(error) => {
                    sessions -= usize::from(!error.greeted);
                    progress.connect_failed(&error);
                }
            }
            break;
        }
        progress.at_next_address();
    }
    progress.into_attempted()
}

impl Kept {
    /// Whether `route` allows this session: same host, same requirement, same login.
    fn fits(&self, route: &Route) -> bool {
        let open = &self.endpoint;
        route.endpoints.iter().any(|endpoint| {
            endpoint.host == open.host
                && endpoint.address.port() == open.address.port()
                && endpoint.tls == open.tls
                && endpoint.credentials == open.credentials
        })
    }
}

/// What came of handing a copy to a session.
enum Sent {
    /// The peer, or its silence, said something; the session is there where it can be used again.
    Answered(Option<Kept>),
    /// The session had been ended before; nothing was tried.
    Stale,
}

/// What is known so far of each recipient.
#[derive(Debug)]
struct Progress {
    outcomes: Vec<Option<Outcome>>,
    /// Recipients that are to be tried at the present address.
    pending: Vec<usize>,
    /// Those that it put off, to be tried at the next one.
    put_off: Vec<usize>,
    /// Those that came after as many transactions as it takes in one session.
    left_over: bool,
    trail: Vec<String>,
    connect: Duration,
    transfer: Duration,
    reached: bool,
    login_failed: Option<String>,
}

impl Progress {
    fn new(copy: &QueuedCopy) -> Self {
        Self {
            outcomes: vec![None; copy.recipients.len()],
            pending: (0..copy.recipients.len()).collect(),
            put_off: Vec::new(),
            left_over: false,
            trail: Vec::new(),
            connect: Duration::ZERO,
            transfer: Duration::ZERO,
            reached: false,
            login_failed: None,
        }
    }

    fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the last session left recipients over that a new one to the same address may take.
    fn session_was_full(&self) -> bool {
        self.left_over
    }

    fn at_next_address(&mut self) {
        self.pending.append(&mut self.put_off);
        self.left_over = false;
    }

    /// Sends to the pending recipients; gives the session back where it can be used again.
    async fn send(&mut self, mut open: Kept, copy: &QueuedCopy, file: &Path) -> Sent {
        let message = &*copy.message;
        let recipients = self.pending.iter().map(|&index| &copy.recipients[index]);
        let mail = Mail {
            sender: &message.sender,
            recipients: recipients.map(|recipient| Rcpt { address: &recipient.address, notify: recipient.notify }).collect(),
            content: &message.content,
            file,
            ret: message.ret,
            envid: message.envid.as_deref(),
        };
        let session = &mut open.session;
        let began = Instant::now();
        let results = session.send(&mail).await;
        self.transfer += began.elapsed();
        if session.was_stale() {
            return Sent::Stale;
        }
        self.reached = true;
        // Where not even one was tried, a further session would be no better.
        let left_over = results.iter().filter(|result| matches!(result, Err(Fault::SessionFull { .. }))).count();
        self.left_over = left_over > 0 && left_over < results.len();
        let peer = session.peer().clone();
        self.note(&peer, &results);
        let indexes = std::mem::take(&mut self.pending);
        for (index, result) in indexes.into_iter().zip(results) {
            match result {
                Ok(accepted) => self.outcomes[index] = Some(delivered(accepted, &peer)),
                Err(fault) => self.record(index, &fault, &peer),
            }
        }
        if open.session.is_reusable() {
            return Sent::Answered(Some(open));
        }
        open.session.quit().await;
        Sent::Answered(None)
    }

    /// There is no session: the fault is every pending recipient's.
    fn connect_failed(&mut self, error: &ConnectError) {
        let ConnectError { fault, peer, .. } = error;
        self.reached |= !fault.is_unreachable();
        self.left_over = false;
        let line = trail_line(peer, &fault.to_string());
        if matches!(fault, Fault::AuthImpossible { .. } | Fault::Reply { phase: Phase::Auth, .. }) {
            self.login_failed = Some(line.clone());
        }
        self.trail.push(line);
        for index in std::mem::take(&mut self.pending) {
            self.record(index, fault, peer);
        }
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
        match fault {
            Fault::SessionFull { .. } if self.left_over => self.pending.push(index),
            _ if goes_on => self.put_off.push(index),
            _ => {}
        }
    }

    fn note(&mut self, peer: &Peer, results: &[Result<Accepted, Fault>]) {
        let mut lines: Vec<String> = Vec::new();
        for result in results {
            let line = match result {
                Ok(accepted) => accepted.reply.to_string(),
                Err(fault) => fault.to_string(),
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        // A copy for thousands of recipients may bring as many different replies; the recipients' outcomes keep them all.
        const SHOWN: usize = 3;
        let more = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        let rest = if more > 0 { format!(" (and {more} other replies)") } else { String::new() };
        self.trail.push(trail_line(peer, &format!("{}{rest}", lines.join(" | "))));
    }

    fn into_attempted(self) -> Attempted {
        let unreachable = (!self.reached).then(|| self.trail.last().cloned().unwrap_or_default());
        // A route has at least one endpoint, so that every recipient was tried; were it empty, deferring is what loses nothing.
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Outcome::of(&Fault::Internal, None)));
        Attempted {
            outcomes: outcomes.collect(),
            trail: self.trail,
            connect: self.connect,
            transfer: self.transfer,
            unreachable,
            login_failed: self.login_failed,
        }
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

fn delivered(accepted: Accepted, peer: &Arc<Peer>) -> Outcome {
    Outcome {
        kind: Kind::Delivered,
        status: accepted.reply.enhanced_status().unwrap_or(EnhancedStatus::new(2, 0, 0)),
        text: accepted.reply.to_string(),
        reply: Some(accepted.reply),
        peer: Some(peer.clone()),
        in_doubt: false,
        dsn_relayed: accepted.dsn_relayed,
    }
}

fn trail_line(peer: &Peer, what: &str) -> String {
    format!("{} [{}]:{}: {what}", peer.host, peer.address.ip(), peer.address.port())
}

//! One attempt: takes a copy, its route and perhaps a kept session, hands on an outcome per recipient.
//!
//! The addresses are tried in order. What a peer says for good stands; what it puts off goes to the next address, until
//! `smtp.max_addresses` (applied by routing) or `smtp.max_sessions` is reached. In doubt is never tried elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::outcome::{EnhancedStatus, Fault, Kind, NextStep, Outcome, Peer, judge};
use crate::queue::QueuedCopy;
use crate::route::{Endpoint, Route};
use crate::smtp::{Accepted, Client, Mail, Rcpt, Session};
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
}

/// A session that is kept for the next copy of its site.
pub(super) struct Kept {
    /// The session.
    pub session: Session,
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
    if let Some(open) = kept.take() {
        if open.fits(route) {
            match progress.send(open, copy, &file).await {
                Sent::Answered(open) => {
                    sessions += 1;
                    *kept = open;
                }
                // The peer had closed the kept session: nothing was said about this copy.
                Sent::Stale => {}
            }
        } else {
            open.session.quit().await;
        }
    }
    for endpoint in &route.endpoints {
        if progress.is_done() || sessions >= means.settings.max_sessions {
            break;
        }
        if let Some(open) = kept.take() {
            open.session.quit().await;
        }
        let began = Instant::now();
        let opened = means.client.connect(endpoint).await;
        progress.connect += began.elapsed();
        match opened {
            Ok(session) => {
                sessions += 1;
                progress.reached = true;
                connected();
                if let Sent::Answered(open) = progress.send(Kept { session, endpoint: endpoint.clone() }, copy, &file).await {
                    *kept = open;
                }
            }
            Err(error) => {
                sessions += usize::from(error.greeted);
                progress.reached |= !error.fault.is_unreachable();
                progress.put_off(&error.fault, &error.peer);
            }
        }
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
    /// Recipients that may still be tried at the next address.
    pending: Vec<usize>,
    trail: Vec<String>,
    connect: Duration,
    transfer: Duration,
    reached: bool,
}

impl Progress {
    fn new(copy: &QueuedCopy) -> Self {
        Self {
            outcomes: vec![None; copy.recipients.len()],
            pending: (0..copy.recipients.len()).collect(),
            trail: Vec::new(),
            connect: Duration::ZERO,
            transfer: Duration::ZERO,
            reached: false,
        }
    }

    fn is_done(&self) -> bool {
        self.pending.is_empty()
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

    /// A fault that hit every pending recipient.
    fn put_off(&mut self, fault: &Fault, peer: &Arc<Peer>) {
        self.trail.push(trail_line(peer, &fault.to_string()));
        for index in std::mem::take(&mut self.pending) {
            self.record(index, fault, peer);
        }
    }

    fn record(&mut self, index: usize, fault: &Fault, peer: &Arc<Peer>) {
        let outcome = Outcome::of(fault, Some(peer.clone()));
        let goes_on = judge(fault).next == NextStep::NextAddress;
        let earlier = self.outcomes[index].take();
        self.outcomes[index] = Some(match earlier {
            Some(earlier) if goes_on && weighs_more(&earlier, &outcome) => earlier,
            _ => outcome,
        });
        if goes_on {
            self.pending.push(index);
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
        Attempted { outcomes: outcomes.collect(), trail: self.trail, connect: self.connect, transfer: self.transfer, unreachable }
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

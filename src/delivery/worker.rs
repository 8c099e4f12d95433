//! A worker: one session at a time, for copies of one site, from the first until nobody there waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::Context;
use super::attempt::{Attempted, Kept, Means, attempt};
use super::board::Ready;
use super::conclude::conclude;
use super::settle::Ended;
use super::shared::Shared;
use crate::outcome::{Fault, Outcome};
use crate::queue::{AttemptRecord, Delays, QueuedCopy};
use crate::route::Site;

/// Sends `first`, then what else waits for its site while the session can be kept. The board's place is given back at the end,
/// also when this future is dropped or panics.
pub(super) async fn serve(context: Arc<Context>, first: Ready) {
    let mut lease = Lease { shared: context.shared.clone(), site: first.route.site.clone(), connected: false };
    let mut kept: Option<Kept> = None;
    let mut next = Some(first);
    let mut served = 0;
    while let Some(ready) = next {
        deliver(&context, &mut lease, &mut kept, ready).await;
        served += 1;
        kept = match kept.take() {
            Some(open) if is_spent(&context, &open) => {
                open.session.quit().await;
                None
            }
            other => other,
        };
        next = if kept.is_some() { context.shared.next_for(&lease.site, served) } else { None };
    }
    if let Some(open) = kept {
        open.session.quit().await;
    }
}

/// Whether a session has served enough: `messages_per_connection`, `connection_lifetime`.
fn is_spent(context: &Context, open: &Kept) -> bool {
    let sending = &context.config.sending;
    open.session.transactions() >= sending.messages_per_connection || open.session.opened_at().elapsed() >= sending.connection_lifetime
}

async fn deliver(context: &Context, lease: &mut Lease, kept: &mut Option<Kept>, ready: Ready) {
    let Ready { copy, route, routing } = ready;
    let began_at = context.clock.now();
    let began = Instant::now();
    if let Err(error) = context.store.begin_attempts(vec![copy.id], began_at).await {
        tracing::error!(%error, id = %copy.message.id, "an attempt cannot be recorded, and so is not made");
        context.shared.give_back(&copy);
        return;
    }
    let attempted = {
        let shared = &context.shared;
        let (site, was_connected) = (lease.site.clone(), AtomicBool::new(lease.connected));
        let connected = || {
            if !was_connected.swap(true, Ordering::Relaxed) {
                shared.lock().board.connected(&site);
                shared.wake.notify_one();
            }
        };
        let means = Means { client: &context.client, settings: &context.config.smtp, layout: &context.layout };
        let running = AssertUnwindSafe(attempt(means, kept, &copy, &route, &connected)).catch_unwind().await;
        lease.connected = was_connected.into_inner();
        // A panic is a bug in one attempt: its copy is deferred, nothing else is touched.
        running.unwrap_or_else(|_| panicked(&copy))
    };
    if let Some(detail) = &attempted.unreachable {
        site_is_down(context, &lease.site, detail).await;
    }
    let delays = Delays { queue: since(copy.due_at, began_at), dns: routing, connect: attempted.connect, transfer: attempted.transfer };
    let record = AttemptRecord {
        number: copy.attempts + 1,
        began_at,
        ended_at: crate::retry::later(began_at, began.elapsed()),
        site: route.site.to_string(),
        route: route.source.to_string(),
        delays,
        trail: attempted.trail,
    };
    conclude(context, vec![(copy, Ended::Outcomes { outcomes: attempted.outcomes, attempt: Some(record), at_least: Duration::ZERO })])
        .await;
}

/// The copies that wait for a site that went down are deferred at once, untried.
async fn site_is_down(context: &Context, site: &Site, detail: &str) {
    let now = context.clock.now();
    let Some((until, waiting)) = context.shared.lock().board.unreachable(site, detail, now) else { return };
    tracing::warn!(%site, detail, until = %until, deferred = waiting.len(), "site is down");
    if !waiting.is_empty() {
        conclude(context, waiting.into_iter().map(|ready| (ready.copy, Ended::site_down(until, detail, now))).collect()).await;
    }
}

fn panicked(copy: &QueuedCopy) -> Attempted {
    tracing::error!(id = %copy.message.id, domain = %copy.domain, "the attempt panicked: a bug, please report it");
    Attempted {
        outcomes: copy.recipients.iter().map(|_| Outcome::of(&Fault::Internal, None)).collect(),
        trail: Vec::new(),
        connect: Duration::ZERO,
        transfer: Duration::ZERO,
        unreachable: None,
    }
}

/// From `then` to `now`; zero where the clock was set back.
pub(super) fn since(then: crate::clock::Timestamp, now: crate::clock::Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
}

/// A place on the board.
struct Lease {
    shared: Arc<Shared>,
    site: Site,
    connected: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            if self.connected {
                state.board.disconnected(&self.site);
            }
            state.board.release(&self.site);
        }
        self.shared.wake.notify_one();
    }
}

//! Reports: takes outcomes that are to be told, hands on new messages from the null sender, one per message and round.
//!
//! A round ends when no copy of the message is in memory: then all that happened to its copies goes into one report.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

use super::conclude::{STORE_RETRY, finish};
use super::worker::since;
use super::{Context, results};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::dsn::{self, ComposeError, FromError};
use crate::message::{Content, ContentReader, Envelope, MessageId, Notify, Recipient, ReversePath, ScanError, Stamp, scan};
use crate::observe::events;
use crate::observe::metrics::Origin;
use crate::observe::trouble::advice;
use crate::queue::{Fingerprint, NewMessage, QueuedCopy, REPORT_SOURCE, RecipientId, ReportAction, ReportDue, Source, StoreError};
use crate::retry;

/// The source of reports that were passed on to the postmaster because they could not be delivered.
const FOR_POSTMASTER: &str = "undelivered report";
/// An outcome is told after this, also while other copies of the message are still in memory; and what could not be written is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages looked at in one go.
const PAGE: usize = 500;

/// Why a report could not be made.
#[derive(Debug, Error)]
enum ReportError {
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error("cannot write the report: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    From(#[from] FromError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("internal error while composing")]
    Panicked,
}

impl ReportError {
    /// The store has told of it.
    fn is_told(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_told())
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Io(error) | Self::Compose(ComposeError::Write(error)) => advice(error),
            _ => "",
        }
    }
}

/// Writes reports as they become due, until `shutdown`.
pub async fn run(contexts: watch::Receiver<Arc<Context>>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut patience = tokio::time::interval(PATIENCE);
    // What keeps reports from being made was told of.
    let mut told = false;
    loop {
        let context = contexts.borrow().clone();
        tokio::select! {
            () = &mut shutdown => return,
            () = context.shared.reports.notified() => {}
            _ = patience.tick() => results::owed(&context).await,
        }
        match write_what_is_due(&context).await {
            Ok(()) => told = false,
            Err(error) if error.is_told() || std::mem::replace(&mut told, true) => {}
            Err(error) => tracing::error!(%error, advice = error.advice(), "a report cannot be made now; it is tried again"),
        }
    }
}

async fn write_what_is_due(context: &Arc<Context>) -> Result<(), ReportError> {
    loop {
        // Said before looking: a copy that leaves the window from here on wakes this task again.
        context.shared.reports_wait.store(true, Ordering::Relaxed);
        let due = context.store.reports_due(None, PAGE).await?;
        context.shared.reports_wait.store(!due.is_empty(), Ordering::Relaxed);
        let now = context.clock.now();
        let (ready, waiting): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| round_is_over(context, due, now));
        if ready.is_empty() {
            return Ok(());
        }
        // Read again: the last copy of a round may have been settled, and have left memory, after the first look.
        let ready = context.store.reports_due(Some(ready.iter().map(|due| due.message.id).collect()), PAGE).await?;
        for due in ready {
            write(context, due).await?;
        }
        if waiting.is_empty() {
            context.shared.reports_wait.store(false, Ordering::Relaxed);
        }
    }
}

fn round_is_over(context: &Context, due: &ReportDue, now: Timestamp) -> bool {
    let oldest = due.entries.iter().map(|entry| entry.at).min();
    !context.shared.has_message(due.message.id) || oldest.is_some_and(|at| since(at, now) >= PATIENCE)
}

/// Writes one report and hands it to the queue, in the transaction that says that it was written.
async fn write(context: &Arc<Context>, due: ReportDue) -> Result<(), ReportError> {
    let now = context.clock.now();
    let id = MessageId::new(now);
    let about = due.message.id;
    let covered = due.entries.iter().map(|entry| (entry.id, entry.action)).collect();
    let report = match dsn::Report::new(&due, id, now) {
        None => None,
        Some(report) => {
            let envelope = report.envelope();
            let composing = context.clone();
            let composed = tokio::task::spawn_blocking(move || compose(&composing, &due, id, now)).await;
            let composed = composed.map_err(|_| ReportError::Panicked).and_then(|composed| composed);
            // The next try has another id: on a full disk, each would leave a piece behind.
            let (content, source) = composed.inspect_err(|_| remove_staged(context, id))?;
            Some(NewMessage {
                id,
                source,
                envelope,
                content,
                accepted_at: now,
                expires_at: retry::expiry(&context.config.retry, now, None),
            })
        }
    };
    Ok(hand_over(context, about, report, covered).await?)
}

async fn hand_over(
    context: &Context,
    about: MessageId,
    report: Option<NewMessage>,
    covered: Vec<(RecipientId, ReportAction)>,
) -> Result<(), StoreError> {
    context.placing.begin(report.iter().map(|report| report.id));
    let action = covered.iter().map(|(_, action)| *action).min();
    let reported = match context.store.reported(covered, report.clone()).await {
        Ok(reported) => reported,
        Err(error) => {
            if let Some(report) = &report {
                context.placing.end(report.id);
                remove_staged(context, report.id);
            }
            return Err(error);
        }
    };
    if let Some(report) = &report {
        context.counts.reports_written.inc();
        if let Some(action) = action {
            events::reported(about, report.id, action);
        }
        place(context, report, reported.copies).await;
    }
    context.shared.clearing.add(finish(context, reported.finished).await).await;
    Ok(())
}

/// The row is committed: the file goes to its place, and the copies to the scheduler. Where the disk does not let it, it is tried again until
/// the daemon stops; the next start moves it then.
async fn place(context: &Context, message: &NewMessage, copies: Vec<QueuedCopy>) {
    context.counts.accepted(Origin::Report, 1);
    let mut told = false;
    while let Err(error) = context.layout.place_staged(message.id) {
        if !std::mem::replace(&mut told, true) {
            tracing::error!(id = %message.id, %error, advice = advice(&error), "a report cannot be moved to its place in the queue, trying again");
        }
        if context.shared.is_draining() {
            return;
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
    context.placing.end(message.id);
    events::accepted(message);
    context.shared.offer(copies, context.clock.now());
}

/// Writes the report's file, durably, and scans it as intake would.
fn compose(context: &Context, due: &ReportDue, id: MessageId, now: Timestamp) -> Result<(Content, Source), ReportError> {
    let config: &Config = &context.config;
    let report = dsn::Report::new(due, id, now).ok_or_else(|| io::Error::other("a report on the null sender's message"))?;
    let path = context.layout.stage(id);
    let original = context.layout.message_file(due.message.id);
    let mut reader = ContentReader::open(&original, &due.message.content).ok();
    let settings = &dsn::Settings::new(config.hostname.clone(), &config.reports.from, config.reports.full_below)?;
    let write = |original: Option<&mut dyn io::Read>| -> Result<File, ReportError> {
        let mut out = io::BufWriter::new(context.layout.create_staged(id)?);
        report.compose(settings, original, &mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        context.layout.sync_staged(&file)?;
        Ok(file)
    };
    let file = match write(reader.as_mut().map(|reader| reader as &mut dyn io::Read)) {
        // The original broke off: the report does without it.
        Err(ReportError::Compose(ComposeError::Original(_))) => write(None)?,
        other => other?,
    };
    let fingerprint = Fingerprint::of(&file.metadata()?);
    let stamp = Stamp { id, hostname: &config.hostname, now };
    let scanned = scan(File::open(&path)?, &stamp)?;
    Ok((scanned.content, Source { name: REPORT_SOURCE.to_owned(), fingerprint }))
}

fn remove_staged(context: &Context, id: MessageId) {
    if let Err(error) = context.layout.remove_staged(id) {
        // The next start removes it: it has no row.
        tracing::warn!(%id, %error, "a report that was not accepted cannot be removed");
    }
}

/// A report that could not be delivered goes to `reports.postmaster` too, once.
pub(super) async fn forward_to_postmaster(context: &Context, copy: &QueuedCopy) {
    let Some(postmaster) = &context.config.reports.postmaster else { return };
    if copy.message.source != REPORT_SOURCE {
        return;
    }
    let now = context.clock.now();
    let id = MessageId::new(now);
    let fingerprint = context
        .layout
        .stage_again(copy.message.id, id)
        .and_then(|()| fs::metadata(context.layout.stage(id)))
        .map(|metadata| Fingerprint::of(&metadata));
    let fingerprint = match fingerprint {
        Ok(fingerprint) => fingerprint,
        Err(error) => {
            tracing::error!(id = %copy.message.id, %error, "an undelivered report cannot be passed on to the postmaster");
            return;
        }
    };
    let recipient = Recipient { address: postmaster.clone(), notify: Notify::NEVER };
    let message = NewMessage {
        id,
        source: Source { name: FOR_POSTMASTER.to_owned(), fingerprint },
        envelope: Envelope { recipients: vec![recipient], ..Envelope::new(ReversePath::Null, []) },
        content: copy.message.content.clone(),
        accepted_at: now,
        expires_at: retry::expiry(&context.config.retry, now, None),
    };
    context.placing.begin([id]);
    match context.store.accept(vec![message.clone()]).await {
        Ok(copies) => place(context, &message, copies).await,
        Err(error) => {
            context.placing.end(id);
            remove_staged(context, id);
            tracing::error!(%error, "an undelivered report cannot be passed on to the postmaster");
        }
    }
}

//! Takes some names in `drop/`, hands on what became of each: accepted and at its place, rejected, or to be looked at again.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};

use super::durable::Disk;
use super::intake::{IntakeSettings, Offer};
use super::judge::{Arrival, Judge, Judgement, Taken};
use super::results::{Rejected, Results};
use super::standing::Standing;
use super::{Layout, Placing, files, moves, names};
use crate::clock::Clock;
use crate::message::{MessageId, ScanBlock};
use crate::observe::events;
use crate::observe::lines::together;
use crate::observe::metrics::{Counts, Origin};
use crate::observe::trouble::is_shortage;
use crate::queue::{Fingerprint, QueuedCopy, Store, StoreError};

/// Recipients that one commit takes: bounds its memory and its time.
const MAX_RECIPIENTS: usize = 20_000;

/// A name, and what is known of it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: OsString,
    pub(super) arrival: Arrival,
}

/// What became of a name.
#[derive(Debug)]
pub(super) enum Fate {
    /// Nothing more to do: accepted, rejected, gone, or left to the next rescan.
    Done,
    /// To be looked at after this time.
    Wait { seen: Fingerprint, after: Duration },
    /// Being written.
    Open,
    /// The batch was full, or another file has the name by now: at once, please.
    Full(Arrival),
    /// Trouble that is not this file's: after a pause.
    Retry(Arrival),
    /// Accepted, and not at its place.
    Unplaced(Box<Unplaced>),
}

/// An accepted message whose file could not be moved yet.
#[derive(Debug)]
pub(super) struct Unplaced {
    taken: Taken,
    copies: Vec<QueuedCopy>,
}

/// Trouble that no file is to blame for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The disk's or the system's.
    Io { doing: &'static str, error: io::Error },
    /// That of one file, which others can be expected not to have.
    OfFile { name: OsString, doing: &'static str, error: io::Error },
    /// The store's.
    Store(StoreError),
    /// A bug.
    Panic,
}

/// How a batch ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) fates: Vec<(OsString, Fate)>,
    pub(super) troubles: Vec<Trouble>,
    /// Files that are at their places.
    pub(super) placed: usize,
}

/// What batches need.
pub(super) struct Desk {
    pub(super) layout: Layout,
    pub(super) settings: watch::Receiver<Arc<IntakeSettings>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) results: Arc<Results>,
    pub(super) placing: Arc<Placing>,
    pub(super) offer: Offer,
    pub(super) counts: Arc<Counts>,
    pub(super) disk: Disk,
    pub(super) standing: Arc<Standing>,
}

/// A file that can be accepted.
type InHand = (OsString, Taken, Arrival);
/// A file on its way from acceptance to its place.
type Accepted = (OsString, Box<Unplaced>);

impl Desk {
    /// Judges, commits, moves, offers. `first_pass`: an earlier daemon may have accepted some of the files.
    pub(super) async fn process(self: Arc<Self>, batch: Vec<Candidate>, first_pass: bool) -> Ended {
        let all: Vec<OsString> = batch.iter().map(|candidate| candidate.name.clone()).collect();
        let mut ended = Ended::default();
        let batch = if first_pass { self.recognise(batch, &mut ended).await } else { Ok(batch) };
        let taken = match batch {
            Ok(batch) => self.take(batch, &mut ended).await,
            Err(panic) => Err(panic),
        };
        let Ok(taken) = taken else {
            ended.troubles.push(Trouble::Panic);
            let known: HashSet<OsString> = ended.fates.iter().map(|(name, _)| name.clone()).collect();
            ended.fates.extend(all.into_iter().filter(|name| !known.contains(name)).map(|name| (name, Fate::Done)));
            return ended;
        };
        if taken.is_empty() {
            return ended;
        }
        // Before the commit: from then on the scheduler may find the rows.
        self.placing.begin(taken.iter().map(|(_, taken, _)| taken.message.id));
        let copies = match self.store.accept(taken.iter().map(|(_, taken, _)| taken.message.clone()).collect()).await {
            Ok(copies) => copies,
            Err(error) => {
                taken.iter().for_each(|(_, taken, _)| self.placing.end(taken.message.id));
                ended.fates.extend(taken.into_iter().map(|(name, _, arrival)| (name, Fate::Retry(arrival))));
                ended.troubles.push(Trouble::Store(error));
                return ended;
            }
        };
        self.counts.accepted(Origin::Drop, taken.len());
        together(|| taken.iter().for_each(|(_, taken, _)| events::accepted(&taken.message)));
        self.place(with_copies(taken, copies), ended).await
    }

    /// Moves accepted files to their places and offers their copies; what cannot be moved stays [`Fate::Unplaced`].
    pub(super) async fn place(self: Arc<Self>, accepted: Vec<Accepted>, mut ended: Ended) -> Ended {
        let desk = Arc::clone(&self);
        let moving = spawn_blocking(move || {
            accepted
                .into_iter()
                .map(|(name, unplaced)| {
                    let result = moves::place(&desk.layout, &name, &unplaced.taken);
                    (name, unplaced, result)
                })
                .collect::<Vec<_>>()
        });
        let Ok(moved) = moving.await else {
            // The rows are committed, and the ids stay in `placing`: start-up puts it right.
            ended.troubles.push(Trouble::Panic);
            return ended;
        };
        let mut offered = Vec::new();
        for (name, unplaced, result) in moved {
            match result {
                Ok(()) => {
                    self.placing.end(unplaced.taken.message.id);
                    offered.extend(unplaced.copies);
                    ended.placed += 1;
                    ended.fates.push((name, Fate::Done));
                }
                Err(error) => {
                    ended.troubles.push(Trouble::Io { doing: "moving an accepted file to queue/messages/", error });
                    ended.fates.push((name, Fate::Unplaced(unplaced)));
                }
            }
        }
        if !offered.is_empty() {
            (self.offer)(offered);
        }
        ended
    }

    /// What of a batch can be accepted: judged, and durable.
    async fn take(self: &Arc<Self>, batch: Vec<Candidate>, ended: &mut Ended) -> Result<Vec<InHand>, JoinError> {
        let desk = Arc::clone(self);
        let (judged, taken) = spawn_blocking(move || desk.judge(batch)).await?;
        ended.fates.extend(judged.fates);
        ended.troubles.extend(judged.troubles);
        Ok(taken)
    }

    /// Blocking: judges each file, moves the bad ones to `rejected/`, and makes the others durable.
    fn judge(&self, batch: Vec<Candidate>) -> (Ended, Vec<InHand>) {
        let settings = Arc::clone(&self.settings.borrow());
        let drop = self.layout.drop();
        let mut block = ScanBlock::default();
        let (mut ended, mut taken, mut recipients) = (Ended::default(), Vec::new(), 0);
        for Candidate { name, arrival } in batch {
            if recipients >= MAX_RECIPIENTS {
                ended.fates.push((name, Fate::Full(arrival)));
                continue;
            }
            let mut judge = Judge { drop: &drop, settings: &settings, now: self.clock.now(), block: &mut block };
            let fate = match judge.judge(&name, arrival) {
                Judgement::Take(file) => {
                    recipients += file.message.envelope.recipients.len();
                    taken.push((name, *file, arrival));
                    continue;
                }
                Judgement::Reject(reason) => self.reject(&name, &reason, &mut ended.troubles),
                Judgement::Wait { seen, after } => Fate::Wait { seen, after },
                Judgement::Open => Fate::Open,
                Judgement::Leave => Fate::Done,
                Judgement::Trouble { doing, error } => {
                    if is_shortage(&error) {
                        ended.troubles.push(Trouble::Io { doing, error });
                        Fate::Retry(arrival)
                    } else {
                        // The next rescan is soon enough for it.
                        ended.troubles.push(Trouble::OfFile { name: name.clone(), doing, error });
                        Fate::Done
                    }
                }
            };
            ended.fates.push((name, fate));
        }
        let taken = self.secure(taken, settings.settle, &mut ended);
        (ended, taken)
    }

    /// Makes files and their names durable. What changed meanwhile, or cannot be written, is taken out.
    fn secure(&self, taken: Vec<InHand>, settle: Duration, ended: &mut Ended) -> Vec<InHand> {
        if taken.is_empty() {
            return taken;
        }
        let (results, names) = secure_together(&taken, &self.layout.drop(), &self.disk);
        let mut secured = Vec::with_capacity(taken.len());
        for (file, result) in taken.into_iter().zip(results) {
            match result {
                Ok(Ok(())) => secured.push(file),
                Ok(Err(seen)) => ended.fates.push((file.0, Fate::Wait { seen, after: settle })),
                Err(error) => {
                    ended.troubles.push(Trouble::Io { doing: "writing a file in drop/ to the disk", error });
                    ended.fates.push((file.0, Fate::Retry(file.2)));
                }
            }
        }
        if let Err(error) = names {
            ended.troubles.push(Trouble::Io { doing: "writing drop/ to the disk", error });
            ended.fates.extend(secured.drain(..).map(|(name, _, arrival)| (name, Fate::Retry(arrival))));
        }
        secured
    }

    fn reject(&self, name: &OsString, reason: &str, troubles: &mut Vec<Trouble>) -> Fate {
        let shown = names::shown(name);
        match moves::reject(&self.layout, name, reason, |kept_as| self.tell_rejected(name, reason, kept_as)) {
            Ok(true) => {
                self.counts.messages_rejected.inc();
                events::rejected(&shown, &files::one_line(reason));
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(file = %shown, reason = %files::one_line(reason), "is to be rejected");
                troubles.push(Trouble::Io { doing: "moving a file to rejected/", error });
            }
        }
        Fate::Done
    }

    /// Writes the result of a file that is about to be moved, where results are wanted.
    fn tell_rejected(&self, name: &OsStr, reason: &str, kept_as: &OsStr) -> io::Result<()> {
        if !self.results.are_wanted() {
            return Ok(());
        }
        let fingerprint = Fingerprint::of(&fs::symlink_metadata(self.layout.drop().join(name))?);
        let (reason, kept_as) = (files::one_line(reason), names::shown(kept_as));
        self.results.write_rejected(&Rejected { name, fingerprint, reason: &reason, kept_as, at: self.clock.now() })
    }
}

/// Makes files durable, several at a time, and beside them the names in `drop`: a row promises a file, and its writer may not have made the
/// name durable. The names stand there already; whatever happens to them from now on is noticed when the file is moved.
fn secure_together(taken: &[InHand], drop: &Path, disk: &Disk) -> (Vec<io::Result<Result<(), Fingerprint>>>, io::Result<()>) {
    if disk.sync(drop, taken.len()) {
        return (taken.iter().map(|(_, file, _)| file.is_unchanged()).collect(), Ok(()));
    }
    std::thread::scope(|threads| {
        let names = files::sync_thread().spawn_scoped(threads, || files::sync_directory(drop));
        let results = files::side_by_side(taken, |(_, file, _)| file.secure());
        let names = names.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| files::sync_directory(drop));
        (results, names)
    })
}

/// Gives each message its copies, which come in the order of messages.
fn with_copies(taken: Vec<InHand>, copies: Vec<QueuedCopy>) -> Vec<Accepted> {
    let mut copies = copies.into_iter().peekable();
    let mut of = |id: MessageId| {
        let mut own = Vec::new();
        while let Some(copy) = copies.next_if(|copy| copy.message.id == id) {
            own.push(copy);
        }
        own
    };
    taken
        .into_iter()
        .map(|(name, taken, _)| {
            let copies = of(taken.message.id);
            (name, Box::new(Unplaced { taken, copies }))
        })
        .collect()
}

impl Trouble {
    /// Whether the store will never work again.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Store(StoreError::Closed))
    }
}

/// What is logged once until it clears: without the file's name, so that the same cause is the same text.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, error } | Self::OfFile { doing, error, .. } => write!(f, "{doing}: {error}"),
            Self::Store(error) => error.fmt(f),
            Self::Panic => f.write_str("internal error: a panic while taking files"),
        }
    }
}

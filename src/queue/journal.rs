//! The in-doubt journal: takes notes of contents that are about to be ended and of what peers answered, hands on, after a crash, what they
//! tell of each recipient.
//!
//! A note is one `write` before the octets that it tells of leave, and costs no fsync: what ends a process leaves the system's memory in
//! place. After a power cut nothing is to be believed of it: the boot is another one then, and every attempt that had begun is in doubt.
//!
//! Lines of JSON, in files that are removed once everything they tell of is in the database.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{CopyId, RecipientId};
use crate::clock::{Clock, Timestamp};
use crate::observe::trouble::advice;
use crate::outcome::{Outcome, Peer};
use crate::smtp::Reply;

/// Octets of one file: some 20,000 messages.
const SEGMENT: u64 = 4 << 20;
/// How long a journal that could not be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// What tells one start of the system from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Of the system that wrote it.
    boot: String,
    /// Attempts that began from then on are told of in full: milliseconds since the epoch.
    since: i64,
}

/// A line. `began`, milliseconds since the epoch, tells one attempt of a copy from another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note<'a> {
    /// The end of the content is about to leave, for these recipients.
    Ending { copy: i64, began: i64, to: Vec<i64> },
    /// The peer took it.
    Delivered {
        copy: i64,
        began: i64,
        to: Vec<i64>,
        code: u16,
        text: Cow<'a, str>,
        relayed: bool,
        host: Cow<'a, str>,
        address: SocketAddr,
        tls: Option<Cow<'a, str>>,
    },
    /// The peer refused it, or has it not.
    Refused { copy: i64, began: i64, to: Vec<i64> },
}

/// An attempt that notes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId {
    /// Of this copy.
    pub copy: CopyId,
    /// As it was recorded.
    pub began_at: Timestamp,
}

impl AttemptId {
    fn numbers(self) -> (i64, i64) {
        (self.copy.0, self.began_at.as_millisecond())
    }
}

/// Notes that go in one write.
#[derive(Debug, Default)]
pub struct Notes {
    lines: Vec<u8>,
    /// Copies that are told of.
    copies: Vec<CopyId>,
}

impl Notes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The end of the content is about to leave: from here on these may have it.
    pub fn ending(&mut self, attempt: AttemptId, to: impl IntoIterator<Item = RecipientId>) {
        let (copy, began) = attempt.numbers();
        self.add(attempt, &Note::Ending { copy, began, to: numbers(to) });
    }

    /// `peer` took responsibility for these with `reply`; `relayed`: for their success reports as well.
    pub fn delivered(&mut self, attempt: AttemptId, to: &[RecipientId], (reply, relayed): (&Reply, bool), peer: &Peer) {
        let (copy, began) = attempt.numbers();
        let note = Note::Delivered {
            copy,
            began,
            to: numbers(to.iter().copied()),
            code: reply.code(),
            text: reply.text().into(),
            relayed,
            host: (&*peer.host).into(),
            address: peer.address,
            tls: peer.tls.as_deref().map(Cow::from),
        };
        self.add(attempt, &note);
    }

    /// The peer has it not for these: it said so.
    pub fn refused(&mut self, attempt: AttemptId, to: &[RecipientId]) {
        let (copy, began) = attempt.numbers();
        self.add(attempt, &Note::Refused { copy, began, to: numbers(to.iter().copied()) });
    }

    fn add(&mut self, attempt: AttemptId, note: &Note<'_>) {
        let start = self.lines.len();
        // Into memory, from numbers and text: nothing of it can fail; a line that did would be a lie in part.
        if serde_json::to_writer(&mut self.lines, note).is_err() {
            self.lines.truncate(start);
            return;
        }
        self.lines.push(b'\n');
        self.copies.push(attempt.copy);
    }
}

fn numbers(to: impl IntoIterator<Item = RecipientId>) -> Vec<i64> {
    to.into_iter().map(|recipient| recipient.0).collect()
}

/// Where notes are written.
pub struct Journal {
    folder: PathBuf,
    boot: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    /// The oldest segment that tells of a copy which the database has no outcome of yet.
    places: HashMap<CopyId, u64>,
    /// Of the last file there was.
    number: u64,
    /// Milliseconds: of all segments.
    since: i64,
    /// After a failure.
    paused_until: Option<Instant>,
}

struct Segment {
    number: u64,
    path: PathBuf,
    file: File,
    octets: u64,
    /// Copies that have their place here.
    open: usize,
}

impl Journal {
    /// In this folder, which is made; what stands in it is removed: [`Evidence::read`] comes first.
    pub fn open(folder: PathBuf, clock: Arc<dyn Clock>) -> io::Result<Self> {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut state = State { since: clock.now().as_millisecond(), ..State::default() };
        for (number, path) in files(&folder)? {
            state.number = state.number.max(number);
            fs::remove_file(path)?;
        }
        Ok(Self { folder, boot: boot_id(), clock, state: Mutex::new(state) })
    }

    /// Writes and clears `notes`. An error: it cannot be told what will be in doubt, and nothing must leave.
    ///
    /// Where the disk takes no more, the journal is given up instead, once that is sure to be seen: what is under way is in doubt after a crash.
    pub fn write(&self, notes: &mut Notes) -> io::Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        if state.paused_until.is_some_and(|until| Instant::now() < until) {
            notes.lines.clear();
            notes.copies.clear();
            return Ok(());
        }
        let first = state.paused_until.is_none();
        let written = self.append(&mut state, &notes.lines);
        if let Err(error) = written {
            state.give_up().inspect_err(|again| {
                tracing::error!(%error, %again, folder = %self.folder.display(), "the in-doubt journal can be neither written nor removed");
            })?;
            // Told once, until it is over.
            if first {
                tracing::error!(%error, folder = %self.folder.display(), advice = advice(&error),
                "the in-doubt journal cannot be written: should the daemon be killed, all that it has begun counts as in doubt");
            }
        } else if state.paused_until.take().is_some() {
            tracing::info!(folder = %self.folder.display(), "the in-doubt journal is written again");
        }
        for copy in notes.copies.drain(..) {
            state.note(copy);
        }
        notes.lines.clear();
        Ok(())
    }

    /// The database has the outcomes of these.
    pub fn settled(&self, copies: impl IntoIterator<Item = CopyId>) {
        let mut state = self.lock();
        for copy in copies {
            state.forget(copy);
        }
        state.remove_old();
    }

    fn append(&self, state: &mut State, lines: &[u8]) -> io::Result<()> {
        if state.segments.back().is_none_or(|segment| segment.octets >= SEGMENT) {
            self.begin_segment(state)?;
        }
        let Some(segment) = state.segments.back_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        segment.file.write_all(lines)?;
        segment.octets += lines.len() as u64;
        Ok(())
    }

    fn begin_segment(&self, state: &mut State) -> io::Result<()> {
        if state.segments.is_empty() && state.paused_until.is_some() {
            // What was written in between is nowhere.
            state.since = self.clock.now().as_millisecond();
        }
        state.number += 1;
        let path = self.folder.join(state.number.to_string());
        let file = OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path)?;
        let mut segment = Segment { number: state.number, path, file, octets: 0, open: 0 };
        let mut head = serde_json::to_vec(&Head { boot: self.boot.clone(), since: state.since })?;
        head.push(b'\n');
        let begun = segment.file.write_all(&head);
        state.segments.push_back(segment);
        state.remove_old();
        begun
    }

    /// The state. A panic while it was locked left it consistent enough.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, copy: CopyId) {
        let Some(last) = self.segments.back_mut() else { return };
        self.places.entry(copy).or_insert_with(|| {
            last.open += 1;
            last.number
        });
    }

    fn forget(&mut self, copy: CopyId) {
        let Some(number) = self.places.remove(&copy) else { return };
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) {
            segment.open -= 1;
        }
    }

    /// Removes the oldest files as long as nothing depends on them. One that stays does no harm: what it tells of is over.
    fn remove_old(&mut self) {
        while self.segments.len() > 1
            && let Some(segment) = self.segments.pop_front_if(|segment| segment.open == 0)
        {
            let _ = fs::remove_file(segment.path);
        }
    }

    /// Removes all there is, so that nobody takes it for the whole. An error: it is still there.
    fn give_up(&mut self) -> io::Result<()> {
        while let Some(segment) = self.segments.front() {
            match fs::remove_file(&segment.path) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Err(error),
                _ => self.segments.pop_front(),
            };
        }
        self.places.clear();
        self.paused_until = Some(Instant::now() + PAUSE);
        Ok(())
    }
}

/// What is known of a recipient of an attempt that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// The end of the content left, or was about to, and no answer was noted: in doubt.
    Ended,
    /// It was delivered.
    Delivered(Outcome),
}

/// What the journal of a daemon that ended tells.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Milliseconds; `None`: there is no journal to be believed.
    since: Option<i64>,
    attempts: HashMap<(i64, i64), HashMap<RecipientId, Trace>>,
}

impl Evidence {
    /// What is in this folder. What cannot be read, or is of another start of the system, is no evidence.
    pub fn read(folder: &Path) -> Self {
        let mut evidence = Self::default();
        let files = match files(folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return evidence,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the in-doubt journal cannot be read: all attempts that had begun count as in doubt");
                return evidence;
            }
        };
        let boot = boot_id();
        for (_, path) in files {
            if let Err(detail) = evidence.add(&path, &boot) {
                tracing::warn!(file = %path.display(), detail, "the in-doubt journal tells nothing: all attempts that had begun count as in doubt");
                return Self::default();
            }
        }
        evidence
    }

    fn add(&mut self, path: &Path, boot: &str) -> Result<(), String> {
        let octets = fs::read(path).map_err(|error| error.to_string())?;
        let mut lines = octets.split_inclusive(|&octet| octet == b'\n');
        let Some(head) = lines.next().filter(|head| head.ends_with(b"\n")) else {
            // Killed before it was begun: nothing can have been noted.
            return Ok(());
        };
        let head: Head = serde_json::from_slice(head).map_err(|error| format!("line 1: {error}"))?;
        if boot.is_empty() || head.boot != boot {
            return Err("it was written before the system started last".to_owned());
        }
        self.since = self.since.max(Some(head.since));
        for (number, line) in lines.enumerate() {
            // A write that was cut off is the last one there was, and what it tells of did not happen.
            if line.ends_with(b"\n") {
                let note = serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", number + 2))?;
                self.take(note);
            }
        }
        Ok(())
    }

    fn take(&mut self, note: Note<'_>) {
        match note {
            Note::Ending { copy, began, to } => self.of(copy, began).extend(recipients(to).map(|recipient| (recipient, Trace::Ended))),
            Note::Delivered { copy, began, to, code, text, relayed, host, address, tls } => {
                let peer = Peer { host: (&*host).into(), address, tls: tls.as_deref().map(Arc::from) };
                let outcome = Outcome::delivered(Reply::new(code, &*text), Arc::new(peer), relayed);
                self.of(copy, began).extend(recipients(to).map(|recipient| (recipient, Trace::Delivered(outcome.clone()))));
            }
            Note::Refused { copy, began, to } => {
                let attempt = self.of(copy, began);
                recipients(to).for_each(|recipient| drop(attempt.remove(&recipient)));
            }
        }
    }

    fn of(&mut self, copy: i64, began: i64) -> &mut HashMap<RecipientId, Trace> {
        self.attempts.entry((copy, began)).or_default()
    }

    /// What became of this attempt's recipients; one that is not in it did not get the content. `None`: nothing is known.
    pub fn about(&self, attempt: AttemptId) -> Option<HashMap<RecipientId, Trace>> {
        let (copy, began) = attempt.numbers();
        self.since.is_some_and(|since| since <= began).then(|| self.attempts.get(&(copy, began)).cloned().unwrap_or_default())
    }
}

fn recipients(numbers: Vec<i64>) -> impl Iterator<Item = RecipientId> {
    numbers.into_iter().map(RecipientId)
}

/// The journal's files, oldest first.
fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            files.push((number, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Empty where the system does not tell: then nothing is believed.
fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

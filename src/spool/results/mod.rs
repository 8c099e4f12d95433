//! Result files: takes finished messages and rejected files, hands on `results/NAME.json`, one JSON object each ([`content`]).
//!
//! A result is written under a hidden name beside its own, made durable, renamed, and the directory is made durable; only then is the
//! message's file let go. So the message's file says that its result is still due, whatever ends the daemon: [`super::repair`] finds the file of
//! a finished message at the next start and writes the result, the same one again where it was there already. Without the two fsyncs a
//! power cut could keep the removal and lose the result.

mod content;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Layout, files, names};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::queue::{Fingerprint, MessageDetail};

/// Octets of a file name (Linux, `NAME_MAX`).
const MAX_NAME: usize = 255;
/// Messages whose results could not be written, remembered for another try: more of them wait for the next start.
const MAX_OWED: usize = 10_000;

/// Writes result files. One for a spool: what it holds keeps two messages from taking one name at the same time.
#[derive(Debug)]
pub struct Results {
    layout: Layout,
    /// `spool.results`. Not read from the configuration, as sessions that a reload finds go on with the old one.
    wanted: AtomicBool,
    /// Held from the look at a name to the rename to it.
    naming: Mutex<()>,
    /// Finished messages whose results could not be written yet.
    owed: Mutex<BTreeSet<MessageId>>,
}

/// A file that is not accepted.
#[derive(Debug)]
pub(super) struct Rejected<'a> {
    /// Its name in `drop/`.
    pub(super) name: &'a OsStr,
    /// Of that file.
    pub(super) fingerprint: Fingerprint,
    /// Why: one line.
    pub(super) reason: &'a str,
    /// Its name in `rejected/`.
    pub(super) kept_as: String,
    /// When it was judged.
    pub(super) at: Timestamp,
}

/// What tells whose result a file is.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Owner {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    modified_at: Option<String>,
}

impl Results {
    /// In this spool's `results/`, which must exist where they are `wanted`.
    pub fn new(layout: Layout, wanted: bool) -> Self {
        Self { layout, wanted: AtomicBool::new(wanted), naming: Mutex::default(), owed: Mutex::default() }
    }

    /// Whether anybody wants them.
    pub fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// From here on.
    pub fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Writes the results of finished messages, durably; hands on what came of each, in their order. A message that is not finished gets
    /// none. Blocking.
    pub fn write(&self, messages: &[MessageDetail]) -> Vec<io::Result<()>> {
        self.write_as(messages, "")
    }

    /// The same for `repair`, with hidden names of its own: it runs beside those who [`write`](Self::write).
    pub(super) fn write_late(&self, messages: &[MessageDetail]) -> Vec<io::Result<()>> {
        self.write_as(messages, ".late")
    }

    fn write_as(&self, messages: &[MessageDetail], mark: &str) -> Vec<io::Result<()>> {
        let staged = files::side_by_side(messages, |detail| match content::Finished::of(detail) {
            Some(content) => self.stage(&format!("{}{mark}", detail.message.id), &content).map(Some),
            None => Ok(None),
        });
        let placed: Vec<io::Result<()>> = messages
            .iter()
            .zip(staged)
            .map(|(detail, staged)| {
                let Some(temporary) = staged? else { return Ok(()) };
                let id = detail.message.id.to_string();
                let stem = file_name(detail).map_or(&*id, |name| name.strip_suffix(".eml").unwrap_or(name));
                self.place(&temporary, (stem, &id), |owner| owner.id.as_ref() == Some(&id))
            })
            .collect();
        if placed.iter().all(Result::is_err) {
            return placed;
        }
        match files::sync_directory(&self.layout.results()) {
            Ok(()) => placed,
            Err(error) => placed.into_iter().map(|placed| placed.and(Err(io::Error::new(error.kind(), error.to_string())))).collect(),
        }
    }

    /// Writes the result of a file that is about to be moved to `rejected/`, durably. Blocking.
    pub(super) fn write_rejected(&self, rejected: &Rejected<'_>) -> io::Result<()> {
        let content = content::Rejected::of(rejected);
        let name = names::shown(rejected.name);
        let stem = name.strip_suffix(".eml").unwrap_or(&name);
        let key = format!("{:x}-{:x}", rejected.fingerprint.inode, rejected.fingerprint.modified);
        let temporary = self.stage(&key, &content)?;
        let own = Owner { id: None, file: Some(name.clone()), modified_at: Some(content.modified_at()) };
        self.place(&temporary, (stem, &key), |owner| *owner == own)?;
        files::sync_directory(&self.layout.results())
    }

    /// Keeps in mind that these messages' results could not be written.
    pub fn owe(&self, ids: impl IntoIterator<Item = MessageId>) {
        let mut owed = lock(&self.owed);
        let room = MAX_OWED.saturating_sub(owed.len());
        owed.extend(ids.into_iter().take(room));
    }

    /// Those that could not be written; they are not kept in mind any more.
    pub fn owed(&self) -> Vec<MessageId> {
        std::mem::take(&mut *lock(&self.owed)).into_iter().collect()
    }

    /// The content in a hidden file that is durable. A name of its own for every message: what a crash left there is written over when the
    /// message has its turn again.
    fn stage(&self, key: &str, content: &impl Serialize) -> io::Result<PathBuf> {
        let temporary = self.layout.results().join(format!(".{key}.json.tmp"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, content)?;
        out.write_all(b"\n")?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        Ok(temporary)
    }

    /// Gives a staged file its name: STEM.json, or STEM.KEY.json where the first is another one's.
    fn place(&self, temporary: &Path, (stem, key): (&str, &str), is_own: impl Fn(&Owner) -> bool) -> io::Result<()> {
        let directory = self.layout.results();
        let (first, second) = (directory.join(name(stem, ".json")), directory.join(name(stem, &format!(".{key}.json"))));
        let _naming = lock(&self.naming);
        let taken = exists(&second)? || (exists(&first)? && !owner(&first).is_some_and(|owner| is_own(&owner)));
        fs::rename(temporary, if taken { second } else { first })
    }
}

/// The name in `drop/` of a message that was dropped; this daemon's own have none.
fn file_name(detail: &MessageDetail) -> Option<&str> {
    Some(&*detail.message.source).filter(|source| source.ends_with(".eml"))
}

/// Stem and ending, with the stem cut where the name would be too long.
fn name(stem: &str, ending: &str) -> String {
    let end = stem.floor_char_boundary(MAX_NAME - ending.len().min(MAX_NAME));
    format!("{}{ending}", &stem[..end])
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `None`: nothing that was written here.
fn owner(path: &Path) -> Option<Owner> {
    serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()
}

/// What is locked here is whole after every step, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_whatever_the_stem() {
        assert_eq!(name("a.b", ".json"), "a.b.json");
        for stem in ["x".repeat(251), "\u{fffd}".repeat(251)] {
            for ending in [".json", ".01JDABCDEFGHJKMNPQRSTVWXYZ.json"] {
                let name = name(&stem, ending);
                assert!(name.len() <= MAX_NAME && name.len() > MAX_NAME - 3 && name.ends_with(ending), "{name}");
            }
        }
    }

    #[test]
    fn what_is_owed_is_asked_for_once_and_bounded() {
        let results = Results::new(Layout::new("/nonexistent"), true);
        let id = MessageId::new(Timestamp::UNIX_EPOCH);
        results.owe([id, id]);
        assert_eq!(results.owed(), [id]);
        assert_eq!(results.owed(), []);
        results.owe((0..=MAX_OWED).map(|_| MessageId::new(Timestamp::UNIX_EPOCH)));
        assert_eq!(results.owed().len(), MAX_OWED);
    }
}

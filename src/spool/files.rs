//! Moves of message files within the spool: takes an id, hands on a file at its place, kept aside, or gone.
//!
//! What is fsynced: a file's octets and its directory before a row says that the message is there. What is not: the renames that follow
//! a row, as intake's first look at `drop/` finishes those that a crash undid (see [`super::recognise`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Layout, names};
use crate::message::MessageId;

impl Layout {
    /// Where the file of a report is before its row is committed.
    pub fn stage(&self, id: MessageId) -> PathBuf {
        self.staging().join(format!("{id}.eml"))
    }

    /// Makes the file of a report at [`stage`](Self::stage), empty: to be written, and then made durable by
    /// [`sync_staged`](Self::sync_staged). What an earlier try left there is overwritten.
    pub fn create_staged(&self, id: MessageId) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(self.stage(id))
    }

    /// Makes a staged file durable, its name too: the row that is committed next promises that it is there.
    pub fn sync_staged(&self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        sync_directory(&self.staging())
    }

    /// Stages a second name for the file of message `from`, durably.
    pub fn stage_again(&self, from: MessageId, id: MessageId) -> io::Result<()> {
        fs::hard_link(self.message_file(from), self.stage(id))?;
        sync_directory(&self.staging())
    }

    /// Moves a staged file to its place; to be called once its row is committed.
    pub fn place_staged(&self, id: MessageId) -> io::Result<()> {
        self.place(&self.stage(id), id)
    }

    /// Moves `file` to the place of message `id`, making its directory where it is missing.
    pub(super) fn place(&self, file: &Path, id: MessageId) -> io::Result<()> {
        let place = self.message_file(id);
        match fs::rename(file, &place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        self.make_shard(&place)?;
        fs::rename(file, &place)
    }

    /// Makes the directory that `place` lies in.
    pub(super) fn make_shard(&self, place: &Path) -> io::Result<()> {
        let shard = place.parent().unwrap_or(place);
        match DirBuilder::new().mode(0o750).create(shard) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Sees to it that message `id` has a file, an empty one if need be.
    pub fn mark_message(&self, id: MessageId) -> io::Result<()> {
        let place = self.message_file(id);
        if place.try_exists()? {
            return Ok(());
        }
        self.make_shard(&place)?;
        match OpenOptions::new().write(true).create_new(true).mode(0o640).open(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the file of a finished message; one that is gone already is fine.
    pub fn remove_message(&self, id: MessageId) -> io::Result<()> {
        gone(fs::remove_file(self.message_file(id)))
    }

    /// Removes a staged file whose row was not committed; one that is gone already is fine.
    pub fn remove_staged(&self, id: MessageId) -> io::Result<()> {
        gone(fs::remove_file(self.stage(id)))
    }

    /// Keeps a message in `failed/` as ID.eml, with the one line `reason` in ID.reason, durably. The message's own file stays until
    /// [`remove_message`](Self::remove_message): to be called before the row says that the message is finished, and harmless twice.
    pub fn keep_failed(&self, id: MessageId, reason: &str) -> io::Result<()> {
        let place = self.message_file(id);
        let kept = self.failed().join(format!("{id}.eml"));
        // The reason first: a file in failed/ never stands there without one.
        write_reason(&self.failed(), OsStr::new(&id.to_string()), reason)?;
        match fs::hard_link(&place, &kept) {
            // A directory, or whatever else was put there by others, is no message.
            _ if fs::symlink_metadata(&place).is_ok_and(|found| !found.is_file()) => {}
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Nothing to keep: the reason alone tells of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !place.exists() => {}
            // A file system without hard links, or one whose owner forbids them.
            Err(_) => {
                fs::copy(&place, &kept)?;
                File::open(&kept)?.sync_data()?;
            }
        }
        sync_directory(&self.failed())
    }
}

/// Files that are written to the disk at once: a journal writes what is asked for together in one go, and one after the other takes a go
/// for each. More of them were no faster. Each has a thread that ends with the batch: those of the runtime's pool would live on, each with
/// memory of its own in the allocator.
const SYNCS: usize = 12;

/// A thread that waits for the disk.
pub(super) fn sync_thread() -> std::thread::Builder {
    std::thread::Builder::new().name("fsync".to_owned())
}

/// Does `work`, which waits for the disk, with every item, several at a time; hands on what came of each, in their order.
pub(super) fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = |items: &[T]| items.iter().map(&work).collect::<Vec<R>>();
    let work = &work;
    std::thread::scope(|threads| {
        // This thread has the first share. A share that got no thread, or whose thread panicked, is done here too.
        let (first, rest) = items.split_at(items.len().div_ceil(SYNCS));
        let shares: Vec<_> =
            rest.chunks(first.len().max(1)).map(|share| (share, sync_thread().spawn_scoped(threads, move || work(share)))).collect();
        let mut results = work(first);
        for (share, thread) in shares {
            results.extend(thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| work(share)));
        }
        results
    })
}

/// Makes what was created, renamed or removed in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Writes STEM.reason, whole or not at all: one line, whatever `reason` has in it.
pub(super) fn write_reason(directory: &Path, stem: &OsStr, reason: &str) -> io::Result<()> {
    let mut hidden = OsString::from(".");
    hidden.push(names::with_ending(stem, ".reason.tmp"));
    let temporary = directory.join(hidden);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
    writeln!(file, "{}", one_line(reason))?;
    file.sync_data()?;
    fs::rename(&temporary, directory.join(names::with_ending(stem, ".reason")))
}

/// `text` without control characters, cut at 1,000 octets: for reasons and the log.
pub(super) fn one_line(text: &str) -> String {
    const LIMIT: usize = 1000;
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > LIMIT {
        while line.len() > LIMIT {
            line.pop();
        }
        line.push('…');
    }
    line
}

/// Removing what is not there is done already.
pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

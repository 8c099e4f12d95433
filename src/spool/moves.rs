//! Moves out of `drop/`: an accepted file to its place, a rejected one to `rejected/`. Blocking.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::judge::Taken;
use super::{Layout, files, names};
use crate::queue::{Fingerprint, Known};

/// What belongs to one message in `rejected/`.
const ENDINGS: [&str; 4] = [".eml", ".json", ".toml", ".reason"];
/// Octets of a stem that are kept in `rejected/`: more would leave no room for the endings within the 255 of a file name.
const MAX_STEM: usize = 200;

/// Moves an accepted file to its place, its sidecar first: once the name is free, a writer may use it again, and must not meet the old
/// sidecar. What arrives is what was scanned, whatever happened to the name since.
pub(super) fn place(layout: &Layout, name: &OsStr, taken: &Taken) -> io::Result<()> {
    if let Some(sidecar) = &taken.sidecar {
        files::gone(fs::remove_file(layout.drop().join(sidecar)))?;
    }
    let id = taken.message.id;
    let dropped = layout.drop().join(name);
    let place = layout.message_file(id);
    match layout.place(&dropped, id) {
        Ok(()) if fs::symlink_metadata(&place)?.ino() == taken.message.source.fingerprint.inode => return Ok(()),
        // Another file has taken the name in the meantime. It is the next message.
        Ok(()) => put_back(layout, &place, &dropped)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => layout.make_shard(&place)?,
        Err(error) => return Err(error),
    }
    tracing::warn!(id = %id, file = %names::shown(name), "the file was replaced or removed after it was accepted; its content is kept");
    let mut from = &taken.file;
    from.rewind()?;
    // The row is committed: the copy is as durable as the file was.
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&place)?;
    io::copy(&mut from, &mut to)?;
    to.sync_data()
}

/// Finishes what an earlier daemon began with a file that it had accepted: the row is there, the rename or the unlink was lost. `false`: the
/// name belongs to another file by now.
pub(super) fn finish(layout: &Layout, name: &OsStr, seen: &Fingerprint, known: Known) -> io::Result<bool> {
    let Known { id, .. } = known;
    let (dropped, place) = (layout.drop().join(name), layout.message_file(id));
    match fs::symlink_metadata(&dropped) {
        Ok(found) if Fingerprint::of(&found) == *seen => {}
        Ok(_) => return Ok(false),
        Err(error) => return files::gone(Err(error)).map(|()| false),
    }
    for ending in [".json", ".toml"] {
        files::gone(fs::remove_file(layout.drop().join(names::with_ending(names::stem(name), ending))))?;
    }
    if place.exists() {
        // Its content was copied there, as its name was gone for a while.
        return files::gone(fs::remove_file(&dropped)).map(|()| true);
    }
    // A finished one too: only what was moved away is known to be what was seen.
    match layout.place(&dropped, id) {
        Ok(()) if fs::symlink_metadata(&place)?.ino() == seen.inode => {}
        Ok(()) => return put_back(layout, &place, &dropped).map(|()| false),
        Err(error) => return files::gone(Err(error)).map(|()| false),
    }
    // That of a finished one is let go from there, by `repair`: its result may still be due.
    Ok(true)
}

/// Gives a file back that was moved by mistake, under its name or, where that is taken again, under another.
fn put_back(layout: &Layout, moved: &Path, dropped: &Path) -> io::Result<()> {
    match fs::hard_link(moved, dropped) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::rename(moved, layout.drop().join(format!("{:016x}.eml", fastrand::u64(..))))
        }
        Err(error) => Err(error),
        Ok(()) => fs::remove_file(moved),
    }
}

/// Moves a file and its sidecars to `rejected/`, with the reason beside it. Nothing there is overwritten: a name that is taken gets a
/// number. `tell` hears the name that it will have there, once the reason stands beside it; where it fails, the file stays. `false`: the
/// file is gone.
pub(super) fn reject(layout: &Layout, name: &OsStr, reason: &str, tell: impl FnOnce(&OsStr) -> io::Result<()>) -> io::Result<bool> {
    let (from, to) = (layout.drop(), layout.rejected());
    let stem = names::stem(name);
    let free = free_stem(&to, stem)?;
    // The reason first: a file in rejected/ never stands there without one.
    files::write_reason(&to, &free, &format!("{}: {reason}", names::shown(name)))?;
    // Then the message: without its sidecar it would have another envelope, so it must not stay behind alone.
    let kept_as = names::with_ending(&free, ".eml");
    if let Err(error) = tell(&kept_as).and_then(|()| fs::rename(from.join(name), to.join(&kept_as))) {
        files::gone(fs::remove_file(to.join(names::with_ending(&free, ".reason"))))?;
        return if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) };
    }
    for ending in [".json", ".toml"] {
        if let Err(error) = files::gone(fs::rename(from.join(names::with_ending(stem, ending)), to.join(names::with_ending(&free, ending))))
        {
            tracing::warn!(file = %names::shown(name), %error, "the sidecar of a rejected file could not be moved");
        }
    }
    Ok(true)
}

/// `stem`, or `stem.1`, `stem.2`, …: the first of which nothing is there.
fn free_stem(directory: &Path, stem: &OsStr) -> io::Result<OsString> {
    let stem = OsStr::from_bytes(&stem.as_bytes()[..stem.len().min(MAX_STEM)]);
    let numbered = (1..100).map(|number| names::with_ending(stem, &format!(".{number}")));
    for candidate in std::iter::once(stem.to_owned()).chain(numbered) {
        let mut taken = false;
        for ending in ENDINGS {
            match fs::symlink_metadata(directory.join(names::with_ending(&candidate, ending))) {
                Ok(_) => taken = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if !taken {
            return Ok(candidate);
        }
    }
    // Whoever drops the same bad name a hundred times gets a name that needs no search.
    Ok(names::with_ending(stem, &format!(".{:016x}", fastrand::u64(..))))
}

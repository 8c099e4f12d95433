//! What keeps intake from taking files: takes each trouble as it comes, tells the log of each cause once, and once that it is over.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::batch::Trouble;
use super::names;
use crate::config::{MinFree, show_min_free, show_size};
use crate::observe::trouble::advice;

/// Files with a trouble of their own that are named.
const NAMED: usize = 1000;

/// Space that is free, and what must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    free: u64,
    wanted: u64,
}

impl Space {
    fn of(path: &Path, wanted: MinFree) -> io::Result<Self> {
        let found = statvfs(path)?;
        // What root alone may use does not count.
        let octets = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok(Self { free: octets(found.blocks_available()), wanted: wanted.of(octets(found.blocks())) })
    }

    /// Once it was too little, a tenth more is wanted: or each message that leaves would let one in, with a line in the log each time.
    fn is_enough(self, was_low: bool) -> bool {
        self.free >= if was_low { self.wanted + self.wanted / 10 } else { self.wanted }
    }
}

/// The causes that are known and not over.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Of all files.
    causes: HashSet<String>,
    /// Of one file each.
    files: HashSet<OsString>,
    /// The newest cause that keeps all files from being taken.
    last: Option<String>,
    /// Too little space.
    low: bool,
}

impl Troubles {
    /// What keeps files from being taken, where something does.
    pub(super) fn cause(&self) -> String {
        self.last.clone().unwrap_or_else(|| "the queue cannot be written: see the log".to_owned())
    }

    /// How it stands with the space for more messages in the spool at `root`, where there is too little.
    pub(super) fn lack_of_space(&mut self, root: &Path, min_free: MinFree) -> Option<String> {
        if min_free == MinFree::default() {
            self.low = false;
            return None;
        }
        // A file system that cannot say is no reason to stop: taking files would meet its error.
        let space = Space::of(root, min_free).ok()?;
        let enough = space.is_enough(self.low);
        let (free, wanted) = (show_size(space.free >> 10 << 10), show_size(space.wanted >> 10 << 10));
        if self.low == enough {
            self.low = !enough;
            if enough {
                tracing::info!(path = %root.display(), free, "files are taken again: there is space");
            } else {
                tracing::error!(path = %root.display(), free, wanted, min_free = %show_min_free(min_free),
                    "no files are taken: too little space is free; make room, or lower spool.min_free. What is queued is sent");
            }
        }
        (!enough).then(|| format!("too little space: {free} free in {}, {wanted} wanted (spool.min_free)", root.display()))
    }

    /// Files were accepted, or moved to their places.
    pub(super) fn over(&mut self) {
        if !self.causes.is_empty() {
            self.causes.clear();
            self.last = None;
            tracing::info!("files are taken again");
        }
    }

    /// Logs a cause, unless that was done.
    pub(super) fn note(&mut self, trouble: &Trouble, root: &Path) {
        if !matches!(trouble, Trouble::OfFile { .. }) {
            self.last = Some(trouble.to_string());
        }
        match trouble {
            // The store tells of it, once.
            Trouble::Store(error) if error.is_told() => {}
            Trouble::OfFile { name, doing, error } => {
                if self.files.len() < NAMED && self.files.insert(name.clone()) {
                    tracing::error!(file = %names::shown(name), reason = %format_args!("{doing}: {error}"), advice = advice(error),
                        "a file is left in drop/ and tried again at each rescan");
                }
            }
            _ => {
                let reason = trouble.to_string();
                if !self.causes.contains(&reason) {
                    let advice = if let Trouble::Io { error, .. } = trouble { advice(error) } else { "" };
                    tracing::error!(reason, path = %root.display(), advice, "files are left in drop/ and tried again");
                    self.causes.insert(reason);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_little_has_to_grow_by_a_tenth() {
        let enough = |free, was_low| Space { free, wanted: 1000 }.is_enough(was_low);
        assert_eq!([999, 1000].map(|free| enough(free, false)), [false, true]);
        assert_eq!([1000, 1099, 1100].map(|free| enough(free, true)), [false, false, true]);
    }

    #[test]
    fn the_smaller_of_size_and_share_counts_and_nothing_is_nothing() {
        let wanted = MinFree { octets: Some(100), percent: Some(1) };
        assert_eq!([5_000, 10_000, 50_000].map(|total| wanted.of(total)), [50, 100, 100]);
        assert_eq!(MinFree::default().of(1000), 0);
    }
}

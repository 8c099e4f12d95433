//! Makes what stands in a directory durable: its files and their names, together where that is cheaper than one by one.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use nix::sys::utsname::uname;
use nix::unistd::syncfs;
use tokio::time::Instant;

/// From so many files on, all that is to be written to their file system is written at once: one flush of the disk instead of one for each.
const MANY: usize = 32;

/// Where that takes longer, others write much to the same file system, and for a while each file is written by itself.
const SLOW: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(10 * 60);

/// The file system of a spool.
#[derive(Debug, Default)]
pub(super) struct Disk {
    rests_until: Mutex<Option<Instant>>,
}

impl Disk {
    /// Tries to make everything durable that was written before, of `count` files in `directory`. `false`: it is not known to be.
    pub(super) fn sync(&self, directory: &Path, count: usize) -> bool {
        let began = Instant::now();
        if count < MANY || self.rests().is_some_and(|until| began < until) {
            return false;
        }
        let synced = File::open(directory).is_ok_and(|directory| can_sync(&directory) && syncfs(&directory).is_ok());
        if !synced || began.elapsed() > SLOW {
            *self.rests() = Some(Instant::now() + REST);
        }
        synced
    }

    fn rests(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether syncfs(2) is known to reach the disk, and to tell where it could not: on these file systems, from Linux 5.8 on. Behind FUSE and
/// networks, it is not.
fn can_sync(directory: &File) -> bool {
    let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
    fstatfs(directory).is_ok_and(|found| known.contains(&found.filesystem_type()))
        && uname().is_ok_and(|name| tells_errors(&name.release().to_string_lossy()))
}

/// By a kernel's release, as "6.1.0-18-amd64".
fn tells_errors(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_tell_of_errors() {
        for (release, tells) in [("5.8.0", true), ("5.10.0-28-amd64", true), ("6.1", true), ("10.0", true)] {
            assert_eq!(tells_errors(release), tells, "{release}");
        }
        for release in ["5.7.19", "4.19.0-26-amd64", "5", "", "unknown"] {
            assert!(!tells_errors(release), "{release}");
        }
    }

    #[test]
    fn few_files_are_written_by_themselves_and_what_fails_is_not_tried_again_for_a_while() {
        let disk = Disk::default();
        assert!(!disk.sync(&std::env::temp_dir(), MANY - 1) && disk.rests().is_none());
        assert!(!disk.sync(Path::new("/proc/self"), MANY), "no disk at all");
        assert!(disk.rests().is_some_and(|until| until > Instant::now() + REST / 2));
        assert!(!disk.sync(&std::env::temp_dir(), MANY), "it rests");
    }
}

//! Errors that are this host's own and pass: takes the system's error, hands on what would put it right.

use std::io;

use nix::errno::Errno;

/// What would be right, for the line that tells of the error; empty where nothing better than the error itself can be said.
pub fn advice(error: &io::Error) -> &'static str {
    match errno(error) {
        Some(Errno::ENOSPC) => "the file system is full (df, df -i): make room",
        Some(Errno::EDQUOT) => "the disk quota of the daemon's user is used up: raise it, or make room",
        Some(Errno::EROFS) => "the file system is read-only: look into the kernel's log, and mount it for writing",
        Some(Errno::EIO) => "the disk does not work: look into the kernel's log",
        Some(Errno::EMFILE) => "the daemon has as many files and sessions open as it may: raise LimitNOFILE, or lower sending.workers",
        Some(Errno::ENFILE) => "the system has as many files open as it may: raise fs.file-max",
        Some(Errno::ENOMEM | Errno::ENOBUFS) => "the system is out of memory",
        Some(Errno::EACCES | Errno::EPERM) => "the daemon's user may not do that: look at the owner and the mode",
        _ => "",
    }
}

/// Whether the process or the system has run out of something, so that any other file or address would meet the same error.
pub fn is_shortage(error: &io::Error) -> bool {
    use Errno::{EDQUOT, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, EROFS};
    errno(error).is_some_and(|errno| [ENOSPC, EDQUOT, EROFS, EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(&errno))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

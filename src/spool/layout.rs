//! Where things are below `spool.path`, and the lock that keeps a second daemon out.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::message::MessageId;

/// The paths of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// Why the spool cannot be used.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// The spool directory itself is missing: creating it would hide a mount that failed.
    #[error("spool.path: {path} does not exist: create it, owned by the daemon's user")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Something in it cannot be used.
    #[error("spool: {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another daemon runs on it.
    #[error("spool: {path} is in use by another smtp-direct, pid {pid}")]
    InUse {
        /// The spool.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
}

/// Held as long as the daemon runs; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its lock")] File);

impl Layout {
    /// Below this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The spool directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where writers build files.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where they rename them into.
    pub fn drop(&self) -> PathBuf {
        self.root.join("drop")
    }

    /// Files that could not be accepted.
    pub fn rejected(&self) -> PathBuf {
        self.root.join("rejected")
    }

    /// Reports that could not be delivered either, and damaged messages.
    pub fn failed(&self) -> PathBuf {
        self.root.join("failed")
    }

    /// What became of each message, where `spool.results` is on.
    pub fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    /// The daemon's own.
    pub fn queue(&self) -> PathBuf {
        self.root.join("queue")
    }

    /// The state of the queue.
    pub fn database(&self) -> PathBuf {
        self.root.join("queue/state.db")
    }

    /// What would be in doubt, should the daemon be killed.
    pub fn journal(&self) -> PathBuf {
        self.root.join("queue/journal")
    }

    /// Where reports are written before their row is committed.
    pub fn staging(&self) -> PathBuf {
        self.root.join("queue/staging")
    }

    /// Where message files are: 1,024 directories named by the last two characters of the id (its random part).
    pub fn messages(&self) -> PathBuf {
        self.root.join("queue/messages")
    }

    /// The file of a message. Its directory is made by whoever moves the file there.
    pub fn message_file(&self, id: MessageId) -> PathBuf {
        let mut buffer = [0; 26];
        let id = id.write_to(&mut buffer);
        let shard = &id[24..];
        // Made for every message, more than once: one allocation.
        let mut path = std::ffi::OsString::with_capacity(self.root.as_os_str().len() + 64);
        path.push(&self.root);
        for part in ["/queue/messages/", shard, "/", id, ".eml"] {
            path.push(part);
        }
        path.into()
    }

    /// Makes what is missing below the root: queue and its parts for the daemon (its group may read), `tmp` and `drop` for the group to
    /// write. The umask takes its share; no bits are added afterwards, as a hardened service may not: an administrator who wants other
    /// modes makes the directories first. A group bit on the root (2750) is handed down by the system.
    pub fn create(&self) -> Result<(), LayoutError> {
        if !self.root.is_dir() {
            return Err(LayoutError::Missing { path: self.root.clone() });
        }
        let for_writers = [self.tmp(), self.drop()].map(|path| (path, 0o770));
        let own = [self.rejected(), self.failed(), self.queue(), self.messages(), self.staging()].map(|path| (path, 0o750));
        for (path, mode) in for_writers.into_iter().chain(own) {
            make(path, mode)?;
        }
        Ok(())
    }

    /// Makes `results/`, as `drop` is made: its readers remove what they have read, which takes the permission to write there.
    pub fn create_results(&self) -> Result<(), LayoutError> {
        make(self.results(), 0o770)
    }

    /// Who has the spool, by the pid in its lock; `None`: nobody. Leaves nothing behind.
    pub fn holder(&self) -> io::Result<Option<String>> {
        let mut file = match File::open(self.lock_file()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            // Let go of with the file.
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                Ok(Some(pid.trim().to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// What says which daemon has the spool.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.queue().join("lock")
    }

    /// Takes the spool for this process, or names the pid of the one that has it.
    pub fn lock(&self) -> Result<Lock, LayoutError> {
        // Whoever asks for its holder has the lock for an instant: that must not keep a daemon from starting.
        const PATIENCE: Duration = Duration::from_millis(20);
        let path = self.lock_file();
        let io = |source| LayoutError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path).map_err(io)?;
        let mut locked = file.try_lock();
        if matches!(locked, Err(TryLockError::WouldBlock)) {
            std::thread::sleep(PATIENCE);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                return Err(LayoutError::InUse { path: self.root.clone(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Lock(file))
    }
}

fn make(path: PathBuf, mode: u32) -> Result<(), LayoutError> {
    match DirBuilder::new().mode(mode).create(&path) {
        Err(source) if !path.is_dir() => Err(LayoutError::Io { path, source }),
        _ => Ok(()),
    }
}

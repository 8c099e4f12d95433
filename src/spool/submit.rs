//! The writer's side of the spool: takes content and an envelope, hands on a message in `drop/`, whole and durable, or nothing at all.
//!
//! Content is written to a file of `tmp/` that has no name yet where the file system can do that, so that a writer that is killed leaves nothing
//! behind; it gets a name, and is renamed into `drop/`, when all of it is on the disk.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, Gid, Group, access, fchown, linkat};
use thiserror::Error;

use super::Layout;
use super::files::sync_directory;
use super::sidecar::{self, Format, SidecarError};
use crate::clock::Timestamp;
use crate::message::{Envelope, MessageId};

/// The daemon reads as a member of the directories' group.
const MODE: u32 = 0o640;
/// Octets that are written at once.
const BUFFER: usize = 64 * 1024;

/// Why nothing was submitted.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// There is no spool.
    #[error("the spool has no {path}: is smtp-direct installed, and was it started once?")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// This user may not write there.
    #[error(
        "may not write to {path}: that is for members of the group {group}; an administrator adds one with: usermod -aG {group} USER (in effect from the next login)"
    )]
    Denied {
        /// The directory.
        path: PathBuf,
        /// The group that may.
        group: String,
    },
    /// The disk, a limit of this process, the system.
    #[error("{path}: {source}")]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// More than a sidecar may have.
    #[error("too many recipients: their list is larger than 16 MiB")]
    TooMany,
    /// The daemon would not take this envelope.
    #[error("{0}")]
    Envelope(#[from] SidecarError),
}

/// A message that is being written. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub struct Submission {
    layout: Layout,
    name: String,
    content: Draft,
}

impl Submission {
    /// Begins a message in this spool.
    pub fn begin(layout: Layout) -> Result<Self, SubmitError> {
        for path in [layout.tmp(), layout.drop()] {
            // Read too: a directory that cannot be opened cannot be made durable.
            let mask = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
            access(&path, mask).map_err(|errno| refused(&layout, path.clone(), errno))?;
        }
        // The random part comes from the system's generator, by way of the keys of std's hasher: nobody can tell the name beforehand.
        let name = format!("{}-{:016x}", MessageId::new(Timestamp::now()), RandomState::new().build_hasher().finish());
        let content = Draft::new(&layout.tmp(), &name, ".eml")?;
        Ok(Self { layout, name, content })
    }

    /// The name in `drop/`, without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the message into `drop/`. When this returns, it is there whatever happens to the machine; with an error, it is not.
    pub fn commit(mut self, envelope: &Envelope) -> Result<(), SubmitError> {
        let text = sidecar::render(envelope);
        // What the daemon would refuse later is refused now, while there is somebody to tell.
        sidecar::parse(Format::Toml, text.as_bytes(), Timestamp::now())?;
        if text.len() as u64 > sidecar::MAX_SIDECAR {
            return Err(SubmitError::TooMany);
        }
        let mut sidecar = Draft::new(&self.layout.tmp(), &self.name, ".toml")?;
        sidecar.file.write_all(text.as_bytes()).map_err(|source| sidecar.error(source))?;
        sidecar.complete()?;
        self.content.complete()?;
        let drop = self.layout.drop();
        let sidecar_place = drop.join(format!("{}.toml", self.name));
        let place = drop.join(format!("{}.eml", self.name));
        let sync = || sync_directory(&drop).map_err(|source| SubmitError::Io { path: drop.clone(), source });
        sidecar.rename(&sidecar_place)?;
        // Nobody takes a sidecar alone: one that cannot be removed does no harm.
        let withdraw = |error| {
            let _ = fs::remove_file(&sidecar_place);
            Err(error)
        };
        // The sidecar's name is durable before the message has one: a message alone would go to whoever its header names.
        if let Err(error) = sync().and_then(|()| self.content.rename(&place)) {
            return withdraw(error);
        }
        if let Err(error) = sync() {
            return match fs::remove_file(&place) {
                // The daemon has taken it already, which is as good.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => withdraw(error),
            };
        }
        Ok(())
    }
}

impl Write for Submission {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.content.file.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.file.flush()
    }
}

/// A file of `tmp/`, removed unless it was renamed.
#[derive(Debug)]
struct Draft {
    file: BufWriter<File>,
    path: PathBuf,
    /// Whether it has its name yet.
    named: bool,
}

impl Draft {
    fn new(directory: &Path, name: &str, ending: &str) -> Result<Self, SubmitError> {
        let path = directory.join(format!("{name}{ending}"));
        let io = |source| SubmitError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.write(true).mode(MODE);
        // Its name is given through /proc, which a changed root directory may lack; not every file system knows files without names.
        let unnamed = match Path::new("/proc/self/fd").is_dir() {
            true => options.clone().custom_flags(OFlag::O_TMPFILE.bits()).open(directory).ok(),
            false => None,
        };
        let named = unnamed.is_none();
        let file = unnamed.map_or_else(|| options.create_new(true).open(&path), Ok).map_err(io)?;
        let draft = Self { file: BufWriter::with_capacity(BUFFER, file), path, named };
        draft.open_to_the_group(directory).map_err(|source| draft.error(source))?;
        Ok(draft)
    }

    /// The daemon must be able to read it, whatever the umask is, and where the directory does not hand its group on.
    fn open_to_the_group(&self, directory: &Path) -> io::Result<()> {
        let file = self.file.get_ref();
        file.set_permissions(Permissions::from_mode(MODE))?;
        let group = fs::metadata(directory)?.gid();
        if file.metadata()?.gid() != group {
            fchown(file, None, Some(Gid::from_raw(group)))?;
        }
        Ok(())
    }

    /// Everything on the disk, under its name.
    fn complete(&mut self) -> Result<(), SubmitError> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|source| self.error(source))?;
        if !self.named {
            let open = format!("/proc/self/fd/{}", self.file.get_ref().as_raw_fd());
            let linked = linkat(AT_FDCWD, open.as_str(), AT_FDCWD, &self.path, AtFlags::AT_SYMLINK_FOLLOW);
            linked.map_err(|errno| self.error(errno.into()))?;
            self.named = true;
        }
        Ok(())
    }

    fn rename(&mut self, place: &Path) -> Result<(), SubmitError> {
        fs::rename(&self.path, place).map_err(|source| self.error(source))?;
        self.named = false;
        Ok(())
    }

    fn error(&self, source: io::Error) -> SubmitError {
        SubmitError::Io { path: self.path.clone(), source }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.named {
            // There is nobody to tell, and nothing that reads tmp/.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refused(layout: &Layout, path: PathBuf, errno: Errno) -> SubmitError {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => SubmitError::Missing { path },
        // Where the spool itself is closed, its directories cannot be asked.
        Errno::EACCES => match fs::metadata(&path).or_else(|_| fs::metadata(layout.root())) {
            Ok(found) => SubmitError::Denied { path, group: group_name(found.gid()) },
            Err(source) => SubmitError::Io { path, source },
        },
        errno => SubmitError::Io { path, source: errno.into() },
    }
}

fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

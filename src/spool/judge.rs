//! Takes a name in `drop/`, hands on a [`Judgement`]: a message to accept, a reason to reject, or a time to wait. Blocking.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::envelope::{self, EnvelopeError};
use super::intake::IntakeSettings;
use super::names;
use super::sidecar::{self, Format, MAX_SIDECAR};
use crate::clock::Timestamp;
use crate::message::{Envelope, Header, MessageId, ScanBlock, ScanError, Scanned, Stamp};
use crate::queue::{Fingerprint, NewMessage, Source};

/// How long a file that was opened and not closed may stay unchanged before it is taken all the same: its closing may have been missed.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// What is known of a file before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was renamed in, complete: taken at once.
    Renamed,
    /// It was created in place, or linked.
    Created,
    /// It was created in place, and its writer has not closed it as far as is known.
    Open,
    /// It was found, or closed: taken when it has not changed for `settle`.
    Found,
    /// It was like this when it was looked at `settle` ago.
    Seen(Fingerprint),
}

/// What is to be done with a file.
#[derive(Debug)]
pub(super) enum Judgement {
    /// Accept it.
    Take(Box<Taken>),
    /// Move it to `rejected/`, for this reason.
    Reject(String),
    /// Look at it again after this time.
    Wait { seen: Fingerprint, after: Duration },
    /// It is being written: its closing will be heard of.
    Open,
    /// It is gone, or a rescan will come back to it.
    Leave,
    /// The disk's or the system's fault, not the file's.
    Trouble { doing: &'static str, error: io::Error },
}

/// A file that can be accepted. It is held open: whatever is done to its name, this is what was scanned.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) file: File,
    pub(super) message: NewMessage,
    /// The sidecar that the envelope came from.
    pub(super) sidecar: Option<OsString>,
}

impl Taken {
    /// Makes the content durable: the row that is committed next promises that it is there, and its writer may not have asked for that.
    /// Then looks whether it is still what was scanned; if not, how it is now.
    pub(super) fn secure(&self) -> io::Result<Result<(), Fingerprint>> {
        self.file.sync_data()?;
        self.is_unchanged()
    }

    /// Whether it is still what was scanned; if not, how it is now.
    pub(super) fn is_unchanged(&self) -> io::Result<Result<(), Fingerprint>> {
        let now = Fingerprint::of(&self.file.metadata()?);
        Ok(if now == self.message.source.fingerprint { Ok(()) } else { Err(now) })
    }
}

/// Why a judgement ends early.
enum Stop {
    Reject(String),
    Leave,
    Wait(Fingerprint),
    Trouble(&'static str, io::Error),
}

/// Where files are judged.
pub(super) struct Judge<'a> {
    pub(super) drop: &'a Path,
    pub(super) settings: &'a IntakeSettings,
    pub(super) now: Timestamp,
    /// What files are read through, one after the other.
    pub(super) block: &'a mut ScanBlock,
}

impl Judge<'_> {
    /// Looks at one file. One that is to be taken has to be [secured](Taken::secure) yet: only then it is known that it did not change
    /// meanwhile, and that the name belongs to the file that was read.
    pub(super) fn judge(&mut self, name: &OsStr, arrival: Arrival) -> Judgement {
        match self.look(name, arrival) {
            Ok(judgement) => judgement,
            Err(Stop::Reject(reason)) => Judgement::Reject(reason),
            Err(Stop::Leave) => Judgement::Leave,
            Err(Stop::Wait(seen)) => Judgement::Wait { seen, after: self.settings.settle },
            Err(Stop::Trouble(doing, error)) => Judgement::Trouble { doing, error },
        }
    }

    fn look(&mut self, name: &OsStr, arrival: Arrival) -> Result<Judgement, Stop> {
        let path = self.drop.join(name);
        // Before it is opened: opening a device or a pipe does things.
        let found = fs::symlink_metadata(&path).map_err(|error| stop("looking at a file in drop/", error))?;
        refuse_special(&found)?;
        if let Some(wait) = self.unsettled(&found, arrival) {
            return Ok(wait);
        }
        if found.len() == 0 {
            return Err(Stop::Reject("the file is empty".to_owned()));
        }
        let file = open(&path).map_err(|error| unreadable(error, &found))?;
        let id = MessageId::new(self.now);
        let stamp = Stamp { id, hostname: &self.settings.hostname, now: self.now };
        // No further than it was long: whatever has taken the name meanwhile, and whoever writes to it, reading comes to an end.
        let Scanned { content, header } = self.block.scan((&file).take(found.len()), &stamp).map_err(|error| match error {
            ScanError::Io(error) => stop("reading a file in drop/", error),
            error @ ScanError::HeaderTooLong { .. } => Stop::Reject(error.to_string()),
        })?;
        let fingerprint = Fingerprint::of(&found);
        if content.file_size != fingerprint.size {
            return Err(Stop::Wait(fingerprint));
        }
        let (envelope, sidecar) = self.envelope(name, &header, arrival)?;
        let message = NewMessage {
            id,
            source: Source { name: names::shown(name), fingerprint },
            expires_at: self.expires_at(&envelope),
            envelope,
            content,
            accepted_at: self.now,
        };
        Ok(Judgement::Take(Box::new(Taken { file, message, sidecar })))
    }

    /// What to do with a file that may still be written to; `None`: it can be taken.
    fn unsettled(&self, found: &Metadata, arrival: Arrival) -> Option<Judgement> {
        let seen = Fingerprint::of(found);
        let age = self.age(found);
        match arrival {
            Arrival::Renamed => return None,
            // link(2) shows a complete file, as rename(2) does.
            Arrival::Created if found.nlink() > 1 => return None,
            // The same, and the other name is gone already: an in-place writer's last write sets both times.
            Arrival::Created if changed(found) > seen.modified => {}
            Arrival::Created => return Some(Judgement::Open),
            Arrival::Open if age.is_none_or(|age| age < OPEN_PATIENCE) => return Some(Judgement::Open),
            Arrival::Open => return None,
            Arrival::Seen(then) if then == seen => return None,
            Arrival::Found | Arrival::Seen(_) => {}
        }
        let settle = self.settings.settle;
        match age {
            Some(age) if age >= settle => None,
            Some(age) => Some(Judgement::Wait { seen, after: settle - age }),
            // From the future: another machine's clock. Not changing for `settle` is what counts.
            None => Some(Judgement::Wait { seen, after: settle }),
        }
    }

    /// Since the last change; `None` where that lies in the future.
    fn age(&self, found: &Metadata) -> Option<Duration> {
        let age = self.now.as_nanosecond() - Fingerprint::of(found).modified;
        u64::try_from(age).ok().map(Duration::from_nanos)
    }

    /// The lifetime begins when the message can first be tried: one that is to wait for a week is not given up after five days.
    fn expires_at(&self, envelope: &Envelope) -> Timestamp {
        let from = envelope.not_before.map_or(self.now, |not_before| not_before.max(self.now));
        let end = from.checked_add(self.settings.lifetime).unwrap_or(Timestamp::MAX);
        envelope.expires.map_or(end, |expires| expires.min(end))
    }

    /// The envelope from the sidecar, where there is one, else from the header; and the sidecar's name.
    fn envelope(&self, name: &OsStr, header: &Header, arrival: Arrival) -> Result<(Envelope, Option<OsString>), Stop> {
        let json = self.sidecar(name, ".json")?;
        let toml = self.sidecar(name, ".toml")?;
        let (format, sidecar) = match (json, toml) {
            (Some(json), Some(toml)) => {
                let error = EnvelopeError::TwoSidecars { json: names::shown(&json.name), toml: names::shown(&toml.name) };
                return Err(Stop::Reject(error.to_string()));
            }
            (Some(json), None) => (Format::Json, json),
            (None, Some(toml)) => (Format::Toml, toml),
            (None, None) => return envelope::from_header(header).map(|envelope| (envelope, None)).map_err(reject),
        };
        let young = self.age(&sidecar.found).is_some_and(|age| age < self.settings.settle);
        if young && arrival != Arrival::Renamed {
            // Written in place, as the message was: it may be half of itself.
            return Err(Stop::Wait(Fingerprint::of(&sidecar.found)));
        }
        let shown = names::shown(&sidecar.name);
        let read = sidecar::parse(format, &sidecar.octets, self.now)
            .map_err(|source| EnvelopeError::Sidecar { name: shown.clone(), source })
            .and_then(|envelope| envelope::checked(envelope, &format!("sidecar {shown}")));
        match read {
            Ok(envelope) => Ok((envelope, Some(sidecar.name))),
            // What looks broken may be on its way.
            Err(_) if young => Err(Stop::Wait(Fingerprint::of(&sidecar.found))),
            Err(error) => Err(reject(error)),
        }
    }

    /// The sidecar with this ending, if there is one.
    fn sidecar(&self, name: &OsStr, ending: &str) -> Result<Option<SidecarFile>, Stop> {
        let name = names::with_ending(names::stem(name), ending);
        let path = self.drop.join(&name);
        let refuse = |problem| reject(EnvelopeError::SidecarFile { name: names::shown(&name), problem });
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // The message's own name is as long as names can be: there is no room for the sidecar's.
            Err(error) if error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => return Ok(None),
            result => result.map_err(|error| stop("looking at a sidecar in drop/", error))?,
        };
        if !found.is_file() {
            return Err(refuse("it is no regular file, and links are not followed: put the file itself there"));
        }
        if found.len() > MAX_SIDECAR {
            return Err(refuse("it is larger than 16 MiB: make several messages of it"));
        }
        let file = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(refuse("the daemon may not read it: give its group the read permission (umask 027)"));
            }
            result => result.map_err(|error| stop("opening a sidecar in drop/", error))?,
        };
        let mut octets = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
        let result = file.take(MAX_SIDECAR + 1).read_to_end(&mut octets);
        result.map_err(|error| stop("reading a sidecar in drop/", error))?;
        if octets.len() as u64 != found.len() {
            return Err(Stop::Wait(Fingerprint::of(&found)));
        }
        Ok(Some(SidecarFile { name, octets, found }))
    }
}

struct SidecarFile {
    name: OsString,
    octets: Vec<u8>,
    found: Metadata,
}

fn changed(found: &Metadata) -> i128 {
    i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec())
}

/// Never follows a link, never waits for a pipe's other end.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

fn refuse_special(found: &Metadata) -> Result<(), Stop> {
    let kind = found.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory: drop the files themselves"
    } else if kind.is_symlink() {
        "a symbolic link, and links are not followed: drop the file itself"
    } else if kind.is_fifo() {
        "a named pipe: drop a regular file"
    } else if kind.is_socket() {
        "a socket: drop a regular file"
    } else {
        "a device: drop a regular file"
    };
    Err(Stop::Reject(format!("it is {what}")))
}

fn reject(error: EnvelopeError) -> Stop {
    Stop::Reject(error.to_string())
}

/// The file's fault where its permissions are; gone where it is gone; the system's otherwise.
fn unreadable(error: io::Error, found: &Metadata) -> Stop {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Stop::Reject(format!(
            "the daemon (uid {}) may not read it: it belongs to uid {}, gid {} and has mode {:04o}; give its group the read permission (umask 027)",
            nix::unistd::geteuid(),
            found.uid(),
            found.gid(),
            found.mode() & 0o7777
        )),
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            Stop::Reject("it is a symbolic link, and links are not followed: drop the file itself".to_owned())
        }
        _ => stop("opening a file in drop/", error),
    }
}

fn stop(doing: &'static str, error: io::Error) -> Stop {
    if error.kind() == io::ErrorKind::NotFound { Stop::Leave } else { Stop::Trouble(doing, error) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::SystemTime;

    use super::*;
    use crate::message::Domain;

    const GOOD: &str = "From: a@x.test\nTo: b@y.test\n\nbody\n";

    /// A directory of this test alone.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("smtp-direct-judge-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            path
        }

        fn judge(&self, name: &str, arrival: Arrival, ahead: Duration) -> Judgement {
            let settings = IntakeSettings {
                hostname: Domain::parse("mail.example.com").unwrap(),
                settle: Duration::from_secs(10),
                rescan: Duration::from_secs(30),
                lifetime: Duration::from_secs(3600),
                min_free: crate::config::MinFree::default(),
            };
            let now = Timestamp::now().checked_add(ahead).unwrap();
            Judge { drop: &self.0, settings: &settings, now, block: &mut ScanBlock::default() }.judge(OsStr::new(name), arrival)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const SOON: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(11);
    const MUCH_LATER: Duration = Duration::from_secs(61);

    #[test]
    fn arrival_and_age_decide_when_a_file_is_taken() {
        let scratch = Scratch::new("age");
        let path = scratch.file("a.eml", GOOD);
        let seen = Fingerprint::of(&fs::metadata(&path).unwrap());
        let taken = |arrival, ahead| matches!(scratch.judge("a.eml", arrival, ahead), Judgement::Take(_));
        assert!(taken(Arrival::Renamed, SOON));
        assert!(taken(Arrival::Found, LATER));
        assert!(taken(Arrival::Seen(seen), SOON), "unchanged since it was seen");
        assert!(taken(Arrival::Open, MUCH_LATER), "its closing may have been missed");
        match scratch.judge("a.eml", Arrival::Found, SOON) {
            Judgement::Wait { seen: found, after } => {
                assert_eq!(found, seen);
                assert!(after < Duration::from_secs(10) && after > Duration::from_secs(8), "{after:?}");
            }
            other => panic!("{other:?}"),
        }
        let other = Fingerprint { size: 1, ..seen };
        assert!(matches!(scratch.judge("a.eml", Arrival::Seen(other), SOON), Judgement::Wait { .. }));
        assert!(matches!(scratch.judge("a.eml", Arrival::Created, LATER), Judgement::Open));
        assert!(matches!(scratch.judge("a.eml", Arrival::Open, LATER), Judgement::Open));
        // Changed in name only: it was linked, and its first name is gone.
        let built = scratch.file("built", GOOD);
        let file = File::options().write(true).open(&built).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
        fs::hard_link(&built, scratch.0.join("l.eml")).unwrap();
        assert!(matches!(scratch.judge("l.eml", Arrival::Created, Duration::ZERO), Judgement::Take(_)));
        fs::remove_file(&built).unwrap();
        assert!(matches!(scratch.judge("l.eml", Arrival::Created, Duration::ZERO), Judgement::Wait { .. }));
        assert!(matches!(scratch.judge("l.eml", Arrival::Created, LATER), Judgement::Take(_)));
        // A file from the future is not younger than everything for ever.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(100)).unwrap();
        assert!(matches!(scratch.judge("a.eml", Arrival::Found, SOON), Judgement::Wait { after, .. } if after == Duration::from_secs(10)));
        assert!(matches!(scratch.judge("gone.eml", Arrival::Renamed, SOON), Judgement::Leave));
    }

    #[test]
    fn file_that_grows_while_it_is_read_is_waited_for() {
        let scratch = Scratch::new("grow");
        // Large, so that reading it takes much longer than appending to it.
        let path = scratch.file("a.eml", GOOD);
        File::options().write(true).open(&path).unwrap().set_len(64 * 1024 * 1024).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let (begun, wait) = std::sync::mpsc::channel();
            threads.spawn(|| {
                let begun = begun;
                let mut file = File::options().append(true).open(&path).unwrap();
                while !done.load(Ordering::Relaxed) {
                    file.write_all(b"more\n").unwrap();
                    let _ = begun.send(());
                }
            });
            wait.recv().unwrap();
            let Judgement::Take(taken) = scratch.judge("a.eml", Arrival::Renamed, SOON) else { panic!("what was there can be read") };
            let secured = taken.secure().unwrap();
            done.store(true, Ordering::Relaxed);
            assert!(secured.unwrap_err().size > taken.message.source.fingerprint.size, "it has grown since");
        });
        let Judgement::Take(taken) = scratch.judge("a.eml", Arrival::Renamed, SOON) else { panic!("nobody writes to it any more") };
        assert_eq!(taken.secure().unwrap(), Ok(()));
        File::options().append(true).open(&path).unwrap().write_all(b"late").unwrap();
        assert_eq!(taken.secure().unwrap().unwrap_err().size, fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn blame_is_put_where_it_belongs() {
        let scratch = Scratch::new("blame");
        let found = fs::metadata(scratch.file("a.eml", GOOD)).unwrap();
        let blame = |errno: Errno| unreadable(io::Error::from_raw_os_error(errno as i32), &found);
        match blame(Errno::EACCES) {
            Stop::Reject(reason) => {
                assert!(
                    reason.contains("may not read it: it belongs to uid ") && reason.contains("give its group the read permission"),
                    "{reason}"
                );
            }
            _ => panic!("the file's permissions are the file's fault"),
        }
        assert!(matches!(blame(Errno::ELOOP), Stop::Reject(_)));
        assert!(matches!(blame(Errno::ENOENT), Stop::Leave));
        for errno in [Errno::EMFILE, Errno::EIO, Errno::ENOMEM, Errno::ESTALE] {
            assert!(matches!(blame(errno), Stop::Trouble(..)), "{errno}");
        }
    }

    #[test]
    fn sidecar_written_in_place_is_not_trusted_before_it_settled() {
        let scratch = Scratch::new("sidecar");
        scratch.file("a.eml", GOOD);
        scratch.file("a.toml", "from = \"\"\nto = [\"c@z.test\"]");
        let old = SystemTime::now() - Duration::from_secs(100);
        File::options().write(true).open(scratch.0.join("a.eml")).unwrap().set_modified(old).unwrap();
        assert!(matches!(scratch.judge("a.eml", Arrival::Found, SOON), Judgement::Wait { .. }));
        assert!(matches!(scratch.judge("a.eml", Arrival::Found, LATER), Judgement::Take(_)));
        assert!(matches!(scratch.judge("a.eml", Arrival::Renamed, SOON), Judgement::Take(_)));
        scratch.file("a.toml", "from = \"\"\nto = [\"c@z");
        assert!(matches!(scratch.judge("a.eml", Arrival::Renamed, SOON), Judgement::Wait { .. }));
        assert!(matches!(scratch.judge("a.eml", Arrival::Renamed, LATER), Judgement::Reject(_)));
    }
}

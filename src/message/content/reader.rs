//! Takes a message file and its [`Content`], hands on the octets for the wire: edits applied, lines canonical, not dot-stuffed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use thiserror::Error;

use super::Content;

/// Octets of a file that is not canonical that are held at once; where the file is smaller, one more than it has, so that its end shows.
/// One block a session.
const BLOCK: u64 = 64 * 1024;

/// Reads content for sending: [`io::Read`] of exactly `wire_size` octets. A canonical file goes straight into the caller's buffer;
/// of any other a block is held.
///
/// A file that is shorter or longer than it was when it was accepted gives an error that [`Damaged::within`] recognises, never a message
/// that is silently cut.
pub struct ContentReader {
    source: Source,
    /// What is put on top, and how much of it is read.
    prepend: Box<str>,
    added: usize,
    /// What converts line ends; `None` where the file is canonical.
    convert: Option<Convert>,
}

/// The file and what of it is still to be read.
struct Source {
    file: File,
    size: u64,
    /// What is left of the range that is being read.
    current: Range<u64>,
    /// The ranges after it.
    rest: std::vec::IntoIter<Range<u64>>,
}

/// A block on its way from any line ends to CRLF.
struct Convert {
    block: Box<[u8]>,
    /// Octets of the block still to be looked at.
    at: Range<usize>,
    /// The octet before was a CR, whose CRLF is written already: an LF now belongs to it.
    after_cr: bool,
    /// Nothing was written since the last line end.
    line_start: bool,
    /// What is left of a line end.
    owed: &'static [u8],
}

/// The message file is not what was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message file has {found} octets, {expected} were accepted")]
pub struct Damaged {
    /// Octets as accepted.
    pub expected: u64,
    /// Octets found.
    pub found: u64,
}

/// Why a message file cannot be read.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is gone.
    #[error("the message file is missing")]
    Missing,
    /// It has another size.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The row's cuts do not fit the file.
    #[error("the queue's record of the message file is damaged: its cuts do not lie in its {file_size} octets")]
    Cuts {
        /// As the record has it.
        file_size: u64,
    },
    /// Anything else: most likely temporary.
    #[error("cannot open the message file: {0}")]
    Io(#[source] io::Error),
}

impl ContentReader {
    /// Opens the file and checks its size against `content`.
    pub fn open(path: &Path, content: &Content) -> Result<Self, OpenError> {
        let file = open_unmarked(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing,
            _ => OpenError::Io(error),
        })?;
        let size = content.file_size;
        let mut source = Source { file, size, current: 0..size, rest: Vec::new().into_iter() };
        if !content.cuts.is_empty() {
            source.current = 0..0;
            source.rest = kept(content)?.into_iter();
        }
        match source.check_size() {
            Ok(()) => {}
            Err(error) => return Err(Damaged::within(&error).copied().map_or_else(|| OpenError::Io(error), OpenError::Damaged)),
        }
        source.advance();
        let convert = (!content.canonical).then(|| Convert::new(size.min(BLOCK - 1) + 1));
        Ok(Self { source, prepend: content.prepend.as_str().into(), added: 0, convert })
    }
}

/// Opens it such that reading it does not mark it as read, which would have its inode written again before it is removed. Only a file's owner
/// and root may: where this was refused once, it is not asked for again.
fn open_unmarked(path: &Path) -> io::Result<File> {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) {
        match OpenOptions::new().read(true).custom_flags(OFlag::O_NOATIME.bits()).open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => REFUSED.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    File::open(path)
}

/// The ranges between the cuts, none of them empty.
fn kept(content: &Content) -> Result<Vec<Range<u64>>, OpenError> {
    let mut ranges = Vec::with_capacity(content.cuts.len() + 1);
    let mut from = 0;
    for cut in &content.cuts {
        if cut.start < from || cut.end < cut.start || cut.end > content.file_size {
            return Err(OpenError::Cuts { file_size: content.file_size });
        }
        ranges.push(from..cut.start);
        from = cut.end;
    }
    ranges.push(from..content.file_size);
    ranges.retain(|range| !range.is_empty());
    Ok(ranges)
}

impl Read for ContentReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let prepend = &self.prepend.as_bytes()[self.added..];
        let added = prepend.len().min(out.len());
        out[..added].copy_from_slice(&prepend[..added]);
        self.added += added;
        let room = &mut out[added..];
        let read = match &mut self.convert {
            None => {
                let read = self.source.read(room);
                self.source.advance();
                read
            }
            Some(convert) => convert.read(&mut self.source, room),
        };
        match read {
            // What came before the error is handed on; the next call meets the error again.
            Err(_) if added > 0 => Ok(added),
            read => Ok(added + read?),
        }
    }
}

impl Source {
    /// Reads from the current range, and no further; nothing at the end.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.current.end - self.current.start;
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        if room == 0 {
            return Ok(0);
        }
        // After the last octets nobody would ask again: a file that has grown shows here or never. Where there is room, one octet more
        // is asked for, which costs nothing.
        let last = room as u64 == left && self.rest.as_slice().is_empty();
        let ask = if last { out.len().min(room + 1) } else { room };
        let read = self.file.read_at(&mut out[..ask], self.current.start)?;
        if read == 0 {
            return Err(Damaged { expected: self.size, found: self.current.start }.into());
        }
        // At the file's end, an octet more than there was says that it has grown; so does its size, where the last octets are cut.
        if read > room || (last && read == room && (ask == room || self.current.end < self.size)) {
            self.check_size()?;
        }
        let read = read.min(room);
        self.current.start += read as u64;
        Ok(read)
    }

    /// Goes to the next range where the current one is done. Whether it did: a line ends there in any case.
    fn advance(&mut self) -> bool {
        if !self.current.is_empty() {
            return false;
        }
        self.rest.next().is_some_and(|next| {
            self.current = next;
            true
        })
    }

    fn check_size(&self) -> io::Result<()> {
        let found = self.file.metadata()?.len();
        if found == self.size { Ok(()) } else { Err(Damaged { expected: self.size, found }.into()) }
    }
}

impl Convert {
    fn new(block: u64) -> Self {
        // At most BLOCK.
        let block = vec![0; usize::try_from(block).unwrap_or(1)].into_boxed_slice();
        Self { block, at: 0..0, after_cr: false, line_start: true, owed: b"" }
    }

    fn read(&mut self, source: &mut Source, out: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < out.len() {
            let room = &mut out[written..];
            if !self.owed.is_empty() {
                let count = self.owed.len().min(room.len());
                room[..count].copy_from_slice(&self.owed[..count]);
                self.owed = &self.owed[count..];
                written += count;
            } else if self.at.is_empty() {
                match self.refill(source) {
                    Ok(true) => {}
                    Ok(false) => break,
                    // What came before the error is handed on; the next call meets the error again.
                    Err(_) if written > 0 => break,
                    Err(error) => return Err(error),
                }
            } else {
                written += self.step(room);
            }
        }
        Ok(written)
    }

    /// Copies octets up to the next line end, or takes a line end. Returns how many octets were copied.
    fn step(&mut self, room: &mut [u8]) -> usize {
        let block = &self.block[self.at.clone()];
        let of_crlf = std::mem::take(&mut self.after_cr) && block[0] == b'\n';
        if of_crlf {
            self.at.start += 1;
            return 0;
        }
        let text = memchr::memchr2(b'\r', b'\n', block).unwrap_or(block.len());
        if text == 0 {
            self.after_cr = block[0] == b'\r';
            self.at.start += 1;
            self.line_start = true;
            self.owed = b"\r\n";
            return 0;
        }
        let count = text.min(room.len());
        room[..count].copy_from_slice(&block[..count]);
        self.at.start += count;
        self.line_start = false;
        count
    }

    /// Reads the next block; at the end, ends the last line. `false`: nothing is left.
    fn refill(&mut self, source: &mut Source) -> io::Result<bool> {
        if source.advance() {
            // A CR before a cut and an LF after it are two line ends.
            self.after_cr = false;
        }
        let read = source.read(&mut self.block)?;
        self.at = 0..read;
        if read == 0 && !self.line_start {
            self.line_start = true;
            self.owed = b"\r\n";
            return Ok(true);
        }
        Ok(read > 0)
    }
}

impl Damaged {
    /// The damage that an error of [`ContentReader`]'s `read` tells of, if it is that.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
    }
}

/// Sizes only: content never reaches a log.
impl std::fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentReader").field("file_size", &self.source.size).finish_non_exhaustive()
    }
}

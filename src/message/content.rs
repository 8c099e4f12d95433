//! Content: scanned once at intake, then read for sending with the header edits applied, as canonical lines.

use std::fs::File;
use std::io;
use std::path::Path;

use thiserror::Error;

/// What the scan found and what reading for sending has to change. Kept with the message's row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Octets of the file as it was accepted; a file of another size is damaged.
    pub file_size: u64,
    /// Octets of the canonical form with the edits applied, before dot-stuffing: what SIZE declares.
    pub wire_size: u64,
    /// Whether the file's lines are canonical (CRLF only, final line ended), so that reading needs no conversion.
    pub canonical: bool,
    /// An octet over 127 in the body: BODY=8BITMIME.
    pub eight_bit: bool,
    /// An octet over 127 in a header field's text: SMTPUTF8.
    pub header_utf8: bool,
    /// Header fields to put on top: `Received`, and `Date` and `Message-ID` where missing; lines end in CRLF.
    pub prepend: String,
    /// Ranges of the file that are not sent on (`Bcc`, `X-Sender`, `X-Receiver`), ascending.
    pub cuts: Vec<Cut>,
    /// The value of `Message-ID`, brackets included, cut at 512 octets.
    pub message_id: Option<String>,
    /// `Received` fields that were there: hops so far.
    pub hops: u32,
}

/// Octets `start..end` of the file, left out of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// First octet left out.
    pub start: u64,
    /// First octet kept again.
    pub end: u64,
}

/// Why a file's content cannot be accepted.
#[derive(Debug, Error)]
pub enum ScanError {
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// Placeholder.
pub fn scan(_file: &File) -> Result<Content, ScanError> {
    unimplemented!()
}

/// Why a message file cannot be opened for sending.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is not there.
    #[error("the file is missing")]
    Missing,
    /// Another size than when it was accepted.
    #[error("the file has {found} octets instead of {expected}")]
    Damaged {
        /// As accepted.
        expected: u64,
        /// Now.
        found: u64,
    },
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads content for sending: [`io::Read`] of canonical octets, edits applied, not dot-stuffed. Never holds more than a block.
#[derive(Debug)]
pub struct ContentReader {
    top: io::Cursor<Vec<u8>>,
    file: File,
}

impl ContentReader {
    /// Opens the file and checks its size against `content`.
    pub fn open(path: &Path, content: &Content) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing,
            _ => OpenError::Io(error),
        })?;
        let found = file.metadata()?.len();
        if found != content.file_size {
            return Err(OpenError::Damaged { expected: content.file_size, found });
        }
        Ok(Self { top: io::Cursor::new(content.prepend.clone().into_bytes()), file })
    }
}

impl io::Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.top.read(buf)? {
            0 => self.file.read(buf),
            read => Ok(read),
        }
    }
}

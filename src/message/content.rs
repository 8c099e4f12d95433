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

/// Reads content for sending: [`io::Read`] of canonical octets, edits applied, not dot-stuffed. Never holds more than a block.
#[derive(Debug)]
pub struct ContentReader;

impl ContentReader {
    /// Opens the file and checks its size against `content`.
    pub fn open(_path: &Path, _content: &Content) -> io::Result<Self> {
        unimplemented!()
    }
}

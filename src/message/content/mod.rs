//! Content: scanned once at intake, then read for sending with the header edits applied, as canonical lines.
//!
//! [`scan`] takes the octets of a file and hands on [`Content`] and the [`Header`]; [`ContentReader`] takes the file and its
//! [`Content`] and hands on what goes on the wire, before dot-stuffing.

mod edits;
mod header;
mod reader;
mod scan;

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use edits::Stamp;
pub use header::{Field, Header};
pub use reader::{ContentReader, Damaged, OpenError};
pub use scan::{ScanBlock, Scanned, scan};

/// Octets that a header section may have. Exim's limit; Postfix keeps a tenth of it.
pub const MAX_HEADER: usize = 1024 * 1024;

/// What the scan found and what reading for sending has to change. Kept with the message's row (serde).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    /// Octets of the file as it was accepted; a file of another size is damaged.
    pub file_size: u64,
    /// Octets of the canonical form with the edits applied, before dot-stuffing: what SIZE declares.
    pub wire_size: u64,
    /// Whether the file's lines are canonical (CRLF only, final line ended), so that reading needs no conversion.
    pub canonical: bool,
    /// An octet over 127 in what is sent: BODY=8BITMIME.
    pub eight_bit: bool,
    /// UTF-8 beyond ASCII in a header field that is sent: SMTPUTF8. Octets in other character sets do not count: no extension of
    /// SMTP makes them valid, so that asking for one would only get the message refused.
    pub header_utf8: bool,
    /// Header fields to put on top: `Received`, and `Date` and `Message-ID` where missing; lines end in CRLF. An empty line follows
    /// where the file has no header of its own.
    pub prepend: String,
    /// Ranges of the file that are not sent on (`Bcc`, `X-Sender`, `X-Receiver`, …), ascending, each of whole lines.
    pub cuts: Vec<Cut>,
    /// The value of `Message-ID` as it is sent (this host's own where the file has none), brackets included, cut at 512 octets.
    pub message_id: Option<String>,
    /// `Received` fields that were there: hops so far.
    pub hops: u32,
}

/// Octets `start..end` of the file, left out of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The header has no end in sight.
    #[error("its header section is longer than {limit} octets: end the header with an empty line")]
    HeaderTooLong {
        /// [`MAX_HEADER`].
        limit: usize,
    },
}

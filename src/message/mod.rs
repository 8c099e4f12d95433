//! What a message is: an [id](MessageId), an [envelope](Envelope) and content that is scanned once and read as it is sent.

mod address;
mod content;
mod domain;
mod envelope;
mod id;

pub use address::{Address, AddressError, ReversePath};
pub use content::{Content, ContentReader, Cut, Damaged, Field, Header, MAX_HEADER, OpenError, ScanBlock, ScanError, Scanned, Stamp, scan};
pub use domain::{Domain, DomainError};
pub use envelope::{Envelope, Notify, Priority, Recipient, Ret};
pub use id::MessageId;

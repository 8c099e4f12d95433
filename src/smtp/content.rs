//! The content of one transaction: takes a message file, hands on octets to the wire. Nothing but the whole content is ever ended: what
//! cannot be read to its end leaves the peer without the end, and the session is over.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::dot::DotStuffer;
use super::wire::{Progress, Wire};
use crate::config::Smtp;
use crate::message::{Content, ContentReader, Damaged, OpenError};
use crate::outcome::{Fault, Phase};

/// Octets read and sent at once. Smaller messages leave in one write, end of content included.
const BLOCK: usize = 64 * 1024;
/// Octets of the end of content, and of a few doubled dots.
const END: usize = 16;
/// Further away than any configured limit matters.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Content that is about to be sent.
pub(super) enum Prepared {
    /// All of it, canonical, not dot-stuffed. Small files are read right here: intake wrote them a moment ago, and a hop to another
    /// thread costs more than a read from memory.
    Whole(Vec<u8>),
    /// Too large for that; so much may have left memory that a disk has to be waited for.
    Large(ContentReader),
}

impl Prepared {
    /// Opens the file, and reads it if it is small.
    pub(super) fn read(file: &Path, content: &Content) -> Result<Self, Fault> {
        let mut reader = ContentReader::open(file, content).map_err(open_fault)?;
        match usize::try_from(content.wire_size) {
            Ok(size) if size < BLOCK => {
                // One octet more than there is shows the end without growing.
                let mut octets = Vec::with_capacity(size + 1);
                reader.read_to_end(&mut octets).map_err(read_fault)?;
                Ok(Self::Whole(octets))
            }
            _ => Ok(Self::Large(reader)),
        }
    }
}

/// Appends DATA's form of `content`, and the end.
pub(super) fn append_stuffed(content: &[u8], out: &mut Vec<u8>) {
    out.reserve(content.len() + END);
    let mut stuffer = DotStuffer::default();
    stuffer.push(content, out);
    stuffer.finish(out);
}

/// Appends BDAT with `content` (RFC 3030 2).
pub(super) fn append_chunk(content: &[u8], out: &mut Vec<u8>) {
    out.reserve(content.len() + 2 * END);
    append_chunk_head(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn append_chunk_head(octets: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("BDAT {octets} LAST\r\n").as_bytes());
}

/// Sends content in blocks: in the form of DATA, or as one chunk of the `chunk` octets that it is known to have. The last block, with the
/// end, is left in the output; hands on until when it must leave.
pub(super) async fn stream(wire: &mut Wire, reader: ContentReader, chunk: Option<u64>, smtp: &Smtp) -> Result<Instant, Fault> {
    let mut source = Source { reader: Some(reader), block: Vec::with_capacity(BLOCK) };
    let mut stuffer = DotStuffer::default();
    let mut pace = Pace::new(smtp, Instant::now());
    let mut sent = 0;
    if let Some(octets) = chunk {
        append_chunk_head(octets, wire.output());
    }
    loop {
        let block = source.block().await?;
        let last = block.len() < BLOCK;
        sent += block.len() as u64;
        wire.output().reserve(block.len() + END);
        if chunk.is_some() {
            wire.output().extend_from_slice(block)
        } else {
            stuffer.push(block, wire.output())
        }
        let deadline = pace.deadline(wire.output().len(), Instant::now());
        if last {
            // Announced octets that are missing would be taken from what follows.
            if chunk.is_some_and(|announced| announced != sent) {
                return Err(Fault::Damaged {
                    detail: format!("it has {sent} octets to be sent, not as many as were counted at its acceptance"),
                });
            }
            if chunk.is_none() {
                stuffer.finish(wire.output());
            }
            return Ok(deadline);
        }
        send_block(wire, deadline, u64::MAX).await?;
    }
}

/// Sends what is in the wire's output, content up to octet `early_until` of the connection. An error means that those have not all left.
pub(super) async fn send_block(wire: &mut Wire, deadline: Instant, early_until: u64) -> Result<(), Fault> {
    const PHASE: Phase = Phase::Content;
    match wire.send_content(deadline, early_until).await {
        Ok(Progress::Taken) => Ok(()),
        Ok(Progress::Answered(reply)) if reply.code() >= 400 => Err(Fault::Reply { phase: PHASE, reply }),
        Ok(Progress::Answered(reply)) => {
            Err(Fault::Protocol { phase: PHASE, detail: format!("out of step: it answered {reply} before the end of the content") })
        }
        Err(error) => Err(error.during(PHASE)),
    }
}

/// When each block must have left: within `smtp.block_timeout` of the one before, and, so that a peer that takes one octet now and then
/// does not hold a worker for days, no later than at `smtp.min_rate` from the start, with one `block_timeout` to spare.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    block_timeout: Duration,
    min_rate: u64,
    octets: u64,
}

impl Pace {
    pub(super) fn new(smtp: &Smtp, start: Instant) -> Self {
        Self { start, block_timeout: smtp.block_timeout, min_rate: smtp.min_rate, octets: 0 }
    }

    /// For the next block, of `octets`.
    pub(super) fn deadline(&mut self, octets: usize, now: Instant) -> Instant {
        self.octets += octets as u64;
        let after = |start: Instant, time: Duration| start.checked_add(time).unwrap_or(now + NEVER);
        let block = after(now, self.block_timeout);
        match self.octets.checked_div(self.min_rate) {
            Some(seconds) => block.min(after(self.start, self.block_timeout.saturating_add(Duration::from_secs(seconds)))),
            None => block,
        }
    }
}

/// A large message file, read in blocks.
struct Source {
    /// `None` only while another thread has it.
    reader: Option<ContentReader>,
    block: Vec<u8>,
}

impl Source {
    /// The next block; one that is not full is the last.
    async fn block(&mut self) -> Result<&[u8], Fault> {
        let Some(mut reader) = self.reader.take() else { return Err(Fault::Internal) };
        let mut block = std::mem::take(&mut self.block);
        let fill = move || {
            block.clear();
            let result = reader.by_ref().take(BLOCK as u64).read_to_end(&mut block);
            (reader, block, result)
        };
        let (reader, block, result) = tokio::task::spawn_blocking(fill).await.map_err(|_| Fault::Internal)?;
        self.reader = Some(reader);
        self.block = block;
        result.map_err(read_fault)?;
        Ok(&self.block)
    }
}

/// The end of the content must not be sent after this: the peer would take a part for the whole.
fn read_fault(error: io::Error) -> Fault {
    match Damaged::within(&error) {
        Some(damaged) => Fault::Damaged { detail: damaged.to_string() },
        None => Fault::LocalIo { detail: error.to_string() },
    }
}

fn open_fault(error: OpenError) -> Fault {
    match error {
        OpenError::Missing | OpenError::Damaged(_) | OpenError::Cuts { .. } => Fault::Damaged { detail: error.to_string() },
        OpenError::Io(error) => Fault::LocalIo { detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn blocks_are_held_to_the_limit_and_to_the_rate() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let mut pace = Pace { start, block_timeout: seconds(180), min_rate: 500, octets: 0 };
        // At once: the block's own limit.
        assert_eq!(pace.deadline(65_536, start), start + seconds(180));
        // In time: again.
        assert_eq!(pace.deadline(65_536, start + seconds(1)), start + seconds(181));
        // 3 × 65,536 octets at 500 a second are 393 s; with 180 s to spare, a block that begins at 400 s must leave by 573 s.
        assert_eq!(pace.deadline(65_536, start + seconds(400)), start + seconds(573));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_and_endless_limits_do_not_overflow() {
        let now = Instant::now();
        let mut pace = Pace { start: now, block_timeout: Duration::MAX, min_rate: 0, octets: 0 };
        assert!(pace.deadline(1, now) > now);
        let mut pace = Pace { start: now, block_timeout: Duration::MAX, min_rate: 1, octets: u64::MAX - 1 };
        assert!(pace.deadline(1, now) > now);
    }
}

//! The content of one transaction: takes an open message file, hands on the peer's word on it. Knows at every moment whether the end of
//! the content may have reached the peer: before that nothing is in doubt, after it everything but a clear answer is.

use std::io::{self, Read};
use std::time::Duration;

use tokio::time::Instant;

use super::dot::DotStuffer;
use super::wire::{Progress, Wire, WireError};
use super::{Reply, shown};
use crate::config::Smtp;
use crate::message::{ContentReader, Damaged};
use crate::outcome::{Fault, Phase};

/// Octets read and sent at once. Smaller messages leave in one write, end of content included.
const BLOCK: usize = 64 * 1024;
/// Octets of the end of content, and of a few doubled dots.
const END: usize = 16;
/// Further away than any configured limit matters.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Sends the content and its end, and waits for the answer. Every fault but a [`Phase::FinalDot`] reply other than 421 ends the session.
pub(super) async fn send_content(wire: &mut Wire, reader: ContentReader, wire_size: u64, smtp: &Smtp) -> Result<Reply, Fault> {
    let mut source = Source::new(reader, wire_size);
    let mut stuffer = DotStuffer::new();
    let mut pace = Pace::new(smtp, Instant::now());
    loop {
        let block = source.block().await?;
        let last = block.len() < BLOCK;
        wire.output().reserve(block.len() + END);
        stuffer.push(block, wire.output());
        if last {
            stuffer.finish(wire.output());
            break;
        }
        let deadline = pace.deadline(wire.output().len(), Instant::now());
        send_block(wire, deadline).await?;
    }
    drop(source);
    let deadline = pace.deadline(wire.output().len(), Instant::now());
    send_block(wire, deadline).await?;
    // From here on the peer may have the message.
    let in_doubt = |how: String| Err(Fault::InDoubt { how });
    match wire.reply(smtp.final_timeout).await {
        Ok(reply) if reply.is_positive() => Ok(reply),
        Ok(reply) if reply.code() >= 400 => Err(Fault::Reply { phase: Phase::FinalDot, reply }),
        Ok(reply) => in_doubt(format!("the answer was out of step: {reply}")),
        Err(WireError::Closed(detail)) => in_doubt(format!("the connection was lost ({})", shown(&detail))),
        Err(WireError::TimedOut) => in_doubt("no answer came in time".to_owned()),
        Err(WireError::Protocol(detail)) => in_doubt(format!("the answer was out of step: {detail}")),
    }
}

/// Sends what is in the wire's output. An error means that the end of the content has not left.
async fn send_block(wire: &mut Wire, deadline: Instant) -> Result<(), Fault> {
    const PHASE: Phase = Phase::Content;
    match wire.send_content(deadline).await {
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
struct Pace {
    start: Instant,
    block_timeout: Duration,
    min_rate: u64,
    octets: u64,
}

impl Pace {
    fn new(smtp: &Smtp, start: Instant) -> Self {
        Self { start, block_timeout: smtp.block_timeout, min_rate: smtp.min_rate, octets: 0 }
    }

    /// For the next block, of `octets`.
    fn deadline(&mut self, octets: usize, now: Instant) -> Instant {
        self.octets += octets as u64;
        let after = |start: Instant, time: Duration| start.checked_add(time).unwrap_or(now + NEVER);
        let block = after(now, self.block_timeout);
        match self.octets.checked_div(self.min_rate) {
            Some(seconds) => block.min(after(self.start, self.block_timeout.saturating_add(Duration::from_secs(seconds)))),
            None => block,
        }
    }
}

/// The message file, read in blocks.
struct Source {
    /// `None` only while another thread has it.
    reader: Option<ContentReader>,
    block: Vec<u8>,
    /// Small files are read right here: intake wrote them a moment ago, and a hop to another thread costs more than a read from memory.
    /// Of large files, so much may have left memory that a disk has to be waited for.
    inline: bool,
}

impl Source {
    fn new(reader: ContentReader, wire_size: u64) -> Self {
        let inline = wire_size < BLOCK as u64;
        // One octet more than there is shows the end without growing.
        let room = if inline { usize::try_from(wire_size).unwrap_or(BLOCK) + 1 } else { BLOCK };
        Self { reader: Some(reader), block: Vec::with_capacity(room), inline }
    }

    /// The next block; one that is not full is the last.
    async fn block(&mut self) -> Result<&[u8], Fault> {
        let Some(mut reader) = self.reader.take() else { return Err(Fault::Internal) };
        let mut block = std::mem::take(&mut self.block);
        let fill = move || {
            block.clear();
            let result = reader.by_ref().take(BLOCK as u64).read_to_end(&mut block);
            (reader, block, result)
        };
        let (reader, block, result): (_, _, io::Result<usize>) =
            if self.inline { fill() } else { tokio::task::spawn_blocking(fill).await.map_err(|_| Fault::Internal)? };
        self.reader = Some(reader);
        self.block = block;
        // In either case the end of the content must not be sent: the peer would take a part for the whole.
        result.map_err(|error| match Damaged::within(&error) {
            Some(damaged) => Fault::Damaged { detail: damaged.to_string() },
            None => Fault::LocalIo { detail: error.to_string() },
        })?;
        Ok(&self.block)
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

//! A peer's end of a connection that comes to its end at a given octet, in the middle of whatever it was.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// Not at all.
    Never,
    /// When the peer, having said so many octets, is about to say one more.
    Said(usize),
    /// When the peer, having read so many octets, is about to read one more.
    Heard(usize),
    /// As [`Self::Said`], and what was on its way is lost: a reset.
    SaidReset(usize),
    /// As [`Self::Heard`], by a reset.
    HeardReset(usize),
}

/// What the peer's own writing fails with when its connection has been cut.
pub const CUT: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// The stream that is cut.
pub struct Cut<S: Stream> {
    stream: Option<S>,
    at: CutAt,
    said: usize,
    heard: usize,
}

impl<S: Stream> Cut<S> {
    pub fn new(stream: S, at: CutAt) -> Self {
        Self { stream: Some(stream), at, said: 0, heard: 0 }
    }

    fn end(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if matches!(self.at, CutAt::SaidReset(_) | CutAt::HeardReset(_)) {
            stream.reset();
        }
    }

    fn may_say(&self) -> usize {
        match self.at {
            CutAt::Said(most) | CutAt::SaidReset(most) => most - self.said,
            _ => usize::MAX,
        }
    }

    fn may_hear(&self) -> usize {
        match self.at {
            CutAt::Heard(most) | CutAt::HeardReset(most) => most - self.heard,
            _ => usize::MAX,
        }
    }
}

impl<S: Stream> Stream for Cut<S> {
    fn reset(mut self) {
        if let Some(stream) = self.stream.take() {
            stream.reset();
        }
    }
}

impl<S: Stream> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let may = self.may_hear();
        if may == 0 {
            self.end();
        }
        // The end of the connection, to the peer's script.
        let Some(stream) = self.stream.as_mut() else { return Poll::Ready(Ok(())) };
        let room = may.min(buffer.remaining());
        let mut limited = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let result = Pin::new(stream).poll_read(cx, &mut limited);
        let count = limited.filled().len();
        buffer.advance(count);
        self.heard += count;
        result
    }
}

impl<S: Stream> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let may = self.may_say();
        if may == 0 {
            self.end();
        }
        let Some(stream) = self.stream.as_mut() else { return Poll::Ready(Err(CUT.into())) };
        let result = Pin::new(stream).poll_write(cx, &octets[..may.min(octets.len())]);
        if let Poll::Ready(Ok(count)) = &result {
            self.said += count;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_shutdown(cx))
    }
}

//! One connection: takes octets to be sent, hands on replies. Every wait has a limit, and neither direction waits for the other.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::parse::{BadReply, Input};
use super::tls::Connectors;
use super::{Io, Reply};
use crate::observe::figure::Counter;
use crate::outcome::{Fault, Phase};
use crate::route::Endpoint;

/// How long a reply is looked for that a peer may have sent before the connection broke.
const AFTERMATH: Duration = Duration::from_secs(5);
/// What QUIT and the closing of TLS may take: nothing depends on them.
const GOODBYE: Duration = Duration::from_secs(2);
/// Buffers larger than this are given back after use: many sessions are open and few of them busy with large messages.
const KEPT_BUFFER: usize = 16 * 1024;

/// Why no reply came, or octets could not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WireError {
    /// By the peer or the network, in the system's words.
    Closed(String),
    /// The limit passed.
    TimedOut,
    /// What came is no reply.
    Protocol(String),
}

impl WireError {
    /// The fault it is in `phase`.
    pub(super) fn during(self, phase: Phase) -> Fault {
        match self {
            Self::Closed(detail) => Fault::Closed { phase, detail },
            Self::TimedOut => Fault::TimedOut { phase },
            Self::Protocol(detail) => Fault::Protocol { phase, detail },
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Closed(match error.kind() {
            // What rustls says here is a lecture.
            io::ErrorKind::UnexpectedEof => CLOSED.to_owned(),
            _ => error.to_string(),
        })
    }
}

impl From<BadReply> for WireError {
    fn from(bad: BadReply) -> Self {
        Self::Protocol(bad.to_string())
    }
}

const CLOSED: &str = "closed by the peer";

/// How the sending of content went on.
#[derive(Debug)]
pub(super) enum Progress {
    /// The stream has taken every octet: from here on the peer may have them.
    Taken,
    /// The peer answered before that.
    Answered(Reply),
}

/// A connection with its buffers.
pub(super) struct Wire {
    io: Box<dyn Io>,
    input: Input,
    /// What is to be sent: `sent` octets of it are.
    output: Vec<u8>,
    sent: usize,
    /// Octets that the stream took before those in `output`.
    before: u64,
    /// The stream has taken octets that it may still hold itself (TLS).
    unflushed: bool,
    /// Writing failed, or the peer closed: what it said before can still be read.
    broken: Option<WireError>,
    /// Reading failed: there is nothing more to come.
    unreadable: Option<WireError>,
    /// Octets that this connection and others sent.
    sent_bytes: Counter,
    /// Where contents end that left, or are about to, before all that goes before them was answered: one for each transaction ahead.
    ends: VecDeque<ContentEnd>,
}

/// The end of a content.
struct ContentEnd {
    /// Its octet of the connection.
    at: u64,
    /// How much of what the peer said had been read when the stream took it.
    heard: Option<u64>,
}

impl Wire {
    /// Adds what is sent to `sent_bytes`.
    pub(super) fn new(io: Box<dyn Io>, sent_bytes: Counter) -> Self {
        Self {
            io,
            input: Input::default(),
            output: Vec::new(),
            sent: 0,
            before: 0,
            unflushed: false,
            broken: None,
            unreadable: None,
            sent_bytes,
            ends: VecDeque::new(),
        }
    }

    /// Where the next turn's octets go.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The octets of the connection so far, up to the end of [`Self::output`].
    pub(super) fn queued(&self) -> u64 {
        self.before + self.output.len() as u64
    }

    /// The octets of the connection that the stream has taken.
    pub(super) fn written(&self) -> u64 {
        self.before + self.sent as u64
    }

    /// A content ends at the end of [`Self::output`], while replies to what goes before it may still come.
    pub(super) fn note_end(&mut self) {
        self.ends.push_back(ContentEnd { at: self.queued(), heard: None });
    }

    /// Whether the last reply was here before the content that ends at octet `at` had left: then it is not the peer's word on that.
    pub(super) fn came_before(&mut self, at: u64) -> bool {
        while let Some(end) = self.ends.pop_front_if(|end| end.at <= at) {
            if end.at == at {
                return end.heard.is_none_or(|heard| self.input.understood() <= heard);
            }
        }
        false
    }

    /// A reply that has been read already.
    pub(super) fn buffered(&mut self) -> Result<Option<Reply>, WireError> {
        Ok(self.input.next_reply()?)
    }

    /// Encrypts the connection; hands on how. What the peer said in clear text after its STARTTLS reply would be taken for the beginning
    /// of the encrypted dialogue: it ends the session (CVE-2011-0411).
    pub(super) async fn encrypt(&mut self, connectors: &Connectors, endpoint: &Endpoint, limit: Duration) -> Result<Arc<str>, Fault> {
        let io = std::mem::replace(&mut self.io, Box::new(tokio::io::empty()));
        self.broken = Some(WireError::Closed("TLS did not come about".to_owned()));
        if !self.input.is_empty() {
            return Err(Fault::TlsInjection);
        }
        let encrypted = connectors.handshake(io, endpoint, limit).await?;
        self.io = encrypted.io;
        self.broken = None;
        Ok(encrypted.described)
    }

    /// Sends what is in [`Self::output`]. That the connection is broken shows in the next [`Self::reply`], after what the peer said before.
    pub(super) async fn send(&mut self, limit: Duration) -> Result<(), WireError> {
        if self.broken.is_some() || self.output.is_empty() {
            self.clear();
            return Ok(());
        }
        let taken = timeout(limit, poll_fn(|cx| self.poll_send(cx, 0))).await;
        self.clear();
        match taken {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                self.broken = Some(error);
                Ok(())
            }
            Err(_) => Err(WireError::TimedOut),
        }
    }

    /// As [`Self::send`]; leaves no copy of the octets in the buffer.
    pub(super) async fn send_secret(&mut self, line: &[u8], limit: Duration) -> Result<(), WireError> {
        self.output.reserve(line.len());
        self.output.extend_from_slice(line);
        let result = self.send(limit).await;
        // The buffer is empty now, and its octets are still behind it.
        self.output.resize(line.len(), 0);
        std::hint::black_box(&self.output);
        self.output.clear();
        result
    }

    /// Sends what is in [`Self::output`] until `deadline`. It holds content as far as octet `early_until` of the connection: a reply that
    /// comes before that is the peer's word on content that it has not seen whole. An error means that the octets up to there have not
    /// all left; where the connection breaks after them, that shows in the next [`Self::reply`], as with [`Self::send`].
    pub(super) async fn send_content(&mut self, deadline: Instant, early_until: u64) -> Result<Progress, WireError> {
        let progress = match self.broken.clone() {
            Some(broken) => Ok(Err(broken)),
            None => timeout_at(deadline, poll_fn(|cx| self.poll_send(cx, early_until))).await,
        };
        self.clear();
        match progress {
            Ok(Ok(progress)) => Ok(progress),
            Ok(Err(error)) => {
                self.broken.get_or_insert_with(|| error.clone());
                match error {
                    WireError::Closed(_) if self.written() >= early_until => Ok(Progress::Taken),
                    WireError::Closed(_) => self.reply(AFTERMATH).await.map(Progress::Answered),
                    other => Err(other),
                }
            }
            Err(_) => Err(WireError::TimedOut),
        }
    }

    /// The next reply, within `limit`.
    pub(super) async fn reply(&mut self, limit: Duration) -> Result<Reply, WireError> {
        if let Some(reply) = self.input.next_reply()? {
            return Ok(reply);
        }
        let limit = if self.broken.is_some() { limit.min(AFTERMATH) } else { limit };
        match timeout(limit, poll_fn(|cx| self.poll_reply(cx))).await {
            // The first error is the cause.
            Ok(Err(WireError::Closed(detail))) => Err(self.broken.clone().unwrap_or(WireError::Closed(detail))),
            Ok(result) => result,
            Err(_) => Err(self.broken.clone().unwrap_or(WireError::TimedOut)),
        }
    }

    /// Waits until there is something that [`Self::unasked`] would tell of.
    pub(super) async fn hear(&mut self) {
        if self.broken.is_none()
            && self.input.is_empty()
            && let Err(error) = poll_fn(|cx| self.poll_fill(cx)).await
        {
            self.broken = Some(error);
        }
    }

    /// What the peer said or did without having been asked, without waiting for it: nothing (`None`) as long as all is well.
    pub(super) fn unasked(&mut self) -> Option<Result<Reply, WireError>> {
        if let Some(broken) = &self.broken {
            return Some(Err(broken.clone()));
        }
        let filled = if self.input.is_empty() { self.poll_fill(&mut Context::from_waker(Waker::noop())) } else { Poll::Ready(Ok(())) };
        match filled {
            Poll::Pending => None,
            Poll::Ready(Err(error)) => Some(Err(error)),
            Poll::Ready(Ok(())) => match self.input.next_reply() {
                Ok(Some(reply)) => Some(Ok(reply)),
                Ok(None) => Some(Err(WireError::Protocol("it sent something without having been asked".to_owned()))),
                Err(bad) => Some(Err(bad.into())),
            },
        }
    }

    /// The fault that it is in `phase` if the peer has said or done something, everything that it was asked being answered: a reply that
    /// is here before its command would be taken for the reply to that, and the next one for the next recipient's.
    pub(super) fn out_of_step(&mut self, phase: Phase) -> Option<Fault> {
        Some(match self.unasked()? {
            Ok(reply) if reply.code() == 421 => Fault::Reply { phase, reply },
            Ok(reply) => Fault::Protocol { phase, detail: format!("out of step: it said {reply} without having been asked") },
            Err(error) => error.during(phase),
        })
    }

    /// QUIT, then the closing of TLS and of our direction. The reply is not waited for: the session is over either way (RFC 5321 4.1.1.10
    /// asks for the wait; what it protects against, a lost reply to the content, has been received by then).
    pub(super) async fn quit(mut self) {
        if self.broken.is_some() {
            return;
        }
        self.output.clear();
        self.output.extend_from_slice(b"QUIT\r\n");
        // Whatever goes wrong here changes nothing for anyone.
        let _ = timeout(GOODBYE, async {
            let _ = poll_fn(|cx| self.poll_send(cx, 0)).await;
            let _ = self.io.shutdown().await;
        })
        .await;
    }

    /// Forgets the turn that was sent, and gives back a large buffer.
    fn clear(&mut self) {
        self.before += self.sent as u64;
        self.output.clear();
        self.sent = 0;
    }

    /// Gives back the memory that a large message needed.
    pub(super) fn release(&mut self) {
        if self.output.capacity() > KEPT_BUFFER {
            self.output = Vec::new();
        }
    }

    /// Hands the output to the stream. While that is blocked, what the peer says is taken in: a peer that does not read until it has
    /// been read (RFC 2920 3.1) goes on. Up to octet `early_until`, a whole reply ends the sending.
    fn poll_send(&mut self, cx: &mut Context<'_>, early_until: u64) -> Poll<Result<Progress, WireError>> {
        loop {
            let watch = self.written() < early_until;
            if watch {
                // Before each write too, so that a fast connection does not keep an answer from being seen.
                while let Poll::Ready(count) = self.poll_fill(cx) {
                    let answered = self.input.next_reply()?;
                    if let Some(reply) = answered {
                        return Poll::Ready(Ok(Progress::Answered(reply)));
                    }
                    count?;
                }
                if let Some(reply) = self.input.next_reply()? {
                    return Poll::Ready(Ok(Progress::Answered(reply)));
                }
            }
            if self.sent == self.output.len() {
                return Poll::Ready(Ok(Progress::Taken));
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.output[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                Poll::Ready(Ok(count)) => {
                    self.sent += count;
                    self.sent_bytes.inc_by(count as u64);
                    self.unflushed = true;
                    let (written, read) = (self.written(), self.input.read());
                    for end in self.ends.iter_mut().filter(|end| end.at <= written) {
                        end.heard.get_or_insert(read);
                    }
                    if self.sent == self.output.len() {
                        return Poll::Ready(Ok(Progress::Taken));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if watch => return Poll::Pending,
                Poll::Pending => match self.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, WireError>> {
        loop {
            if self.unflushed {
                match Pin::new(&mut self.io).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(error)) => {
                        self.unflushed = false;
                        self.broken.get_or_insert_with(|| error.into());
                    }
                    Poll::Pending => {}
                }
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(reply) = self.input.next_reply()? {
                        return Poll::Ready(Ok(reply));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads once. The end of the stream is an error; a full buffer is as if nothing had come. What came whole before a TLS record that
    /// is none, or an alert, is still handed out: it may be the word on the content.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if let Some(error) = &self.unreadable {
            return Poll::Ready(Err(error.clone()));
        }
        match self.poll_read(cx) {
            Poll::Ready(Err(error)) => {
                self.unreadable = Some(error.clone());
                let rest = self.poll_read(cx);
                if matches!(rest, Poll::Ready(Ok(()))) { rest } else { Poll::Ready(Err(error)) }
            }
            other => other,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let room = self.input.room();
        if room.is_empty() {
            return Poll::Pending;
        }
        let mut buffer = ReadBuf::new(room);
        match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => match buffer.filled().len() {
                0 => Poll::Ready(Err(WireError::Closed(CLOSED.to_owned()))),
                count => {
                    self.input.filled(count);
                    Poll::Ready(Ok(()))
                }
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose writing fails, and whose reading has something to say only after that.
    struct HalfBroken {
        written: bool,
        said: &'static [u8],
    }

    impl AsyncRead for HalfBroken {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if !self.written || self.said.is_empty() {
                return Poll::Pending;
            }
            buffer.put_slice(self.said);
            self.said = b"";
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for HalfBroken {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.written = true;
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wire(said: &'static [u8]) -> Wire {
        let mut wire = Wire::new(Box::new(HalfBroken { written: false, said }), Counter::default());
        wire.output().extend_from_slice(b"octets");
        wire
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_found_after_a_write_error_counts() {
        let deadline = Instant::now() + Duration::from_secs(100);
        match wire(b"552 too large\r\n").send_content(deadline, 6).await {
            Ok(Progress::Answered(reply)) => assert_eq!(reply.code(), 552),
            other => panic!("{other:?}"),
        }
        let mut wire = wire(b"421 bye\r\n");
        wire.send(Duration::from_secs(100)).await.unwrap();
        assert_eq!(wire.reply(Duration::from_secs(100)).await.unwrap().code(), 421);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_waited_for_long_and_the_write_error_is_the_cause() {
        let started = Instant::now();
        let error = wire(b"").send_content(started + Duration::from_secs(100), 6).await.unwrap_err();
        assert!(matches!(error, WireError::Closed(detail) if detail == "broken pipe"));
        assert_eq!(started.elapsed(), AFTERMATH);
    }
}

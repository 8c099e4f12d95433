//! The peer's side of SMTP without I/O: takes what has arrived, hands on the answers. Bodies are searched for their end and dropped.

use std::sync::{Arc, LazyLock};

use memchr::{memchr, memmem};

use super::{Offer, Tally};
use crate::letters::MARK;

/// Octets of a message in which its number is looked for: three MTAs' Received fields and room.
const HEAD: usize = 8 * 1024;

static END: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n.\r\n"));
static NUMBER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MARK));

/// One connection.
pub(super) struct Protocol {
    offer: Offer,
    tally: Arc<Tally>,
    state: State,
    /// The start of the message under way.
    head: Vec<u8>,
    /// A MAIL command came: from here on turns count.
    in_mail: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Command,
    /// After 354; whether the line that comes is the first.
    Content {
        fresh: bool,
    },
    /// BDAT, with so many octets to come.
    Chunk {
        left: usize,
        last: bool,
    },
}

/// What came of a read.
pub(super) struct Said {
    /// Something was answered after which the client may have waited.
    pub(super) turn: bool,
    /// QUIT.
    pub(super) quit: bool,
}

impl Protocol {
    pub(super) fn new(offer: Offer, tally: Arc<Tally>) -> Self {
        Self { offer, tally, state: State::Command, head: Vec::with_capacity(HEAD), in_mail: false }
    }

    pub(super) fn greeting(&self) -> Vec<u8> {
        b"220 sink.bench.test ESMTP\r\n".to_vec()
    }

    /// The connection ended without QUIT: allowed between messages only.
    pub(super) fn closed(&self) {
        if self.state != State::Command {
            self.tally.fault("a connection was closed within a message".to_owned());
        }
    }

    /// Takes what it can of `input`, leaves the rest there.
    pub(super) fn take(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Said {
        let mut said = Said { turn: false, quit: false };
        let mut at = 0;
        while !said.quit {
            let rest = &input[at..];
            let taken = match self.state {
                State::Command => self.command(rest, output, &mut said),
                State::Content { fresh } => self.content(rest, fresh, output),
                State::Chunk { left, last } => self.chunk(rest, left, last, output),
            };
            if taken == 0 {
                break;
            }
            at += taken;
        }
        input.drain(..at);
        said.turn = self.in_mail && !output.is_empty() && !said.quit;
        said
    }

    fn command(&mut self, rest: &[u8], output: &mut Vec<u8>, said: &mut Said) -> usize {
        let Some(end) = memchr(b'\n', rest) else { return 0 };
        let line = rest[..end].trim_ascii_end();
        let answer: &[u8] = match &line.get(..4).unwrap_or_default().to_ascii_uppercase()[..] {
            b"MAIL" => {
                self.in_mail = true;
                self.tally.mail();
                self.head.clear();
                b"250 2.1.0 Ok\r\n"
            }
            b"RCPT" => b"250 2.1.5 Ok\r\n",
            b"DATA" => {
                self.state = State::Content { fresh: true };
                b"354 End data with <CR><LF>.<CR><LF>\r\n"
            }
            b"BDAT" if self.offer.chunking => {
                self.begin_chunk(line, output);
                b""
            }
            b"EHLO" => {
                self.hello(output);
                b""
            }
            b"HELO" => b"250 sink.bench.test\r\n",
            b"RSET" | b"NOOP" => b"250 2.0.0 Ok\r\n",
            b"QUIT" => {
                said.quit = true;
                b"221 2.0.0 Bye\r\n"
            }
            _ => {
                self.tally.fault(format!("the sink does not know {:?}", String::from_utf8_lossy(&line[..line.len().min(60)])));
                b"500 5.5.2 Unknown\r\n"
            }
        };
        output.extend_from_slice(answer);
        end + 1
    }

    fn begin_chunk(&mut self, line: &[u8], output: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).to_ascii_uppercase();
        let mut words = text.split_ascii_whitespace().skip(1);
        let size = words.next().and_then(|word| word.parse().ok());
        match (size, words.next()) {
            (Some(left), last @ (None | Some("LAST"))) => {
                self.state = State::Chunk { left, last: last.is_some() };
                if left == 0 {
                    self.end_chunk(last.is_some(), output);
                }
            }
            _ => {
                self.tally.fault(format!("the sink does not know {text:?}"));
                output.extend_from_slice(b"501 5.5.4 Syntax\r\n");
            }
        }
    }

    fn chunk(&mut self, rest: &[u8], left: usize, last: bool, output: &mut Vec<u8>) -> usize {
        let taken = left.min(rest.len());
        self.keep_head(&rest[..taken]);
        self.state = State::Chunk { left: left - taken, last };
        if taken == left {
            self.end_chunk(last, output);
        }
        taken
    }

    fn end_chunk(&mut self, last: bool, output: &mut Vec<u8>) {
        self.state = State::Command;
        if last {
            self.end_message(output);
        } else {
            output.extend_from_slice(b"250 2.0.0 Ok\r\n");
        }
    }

    fn content(&mut self, rest: &[u8], fresh: bool, output: &mut Vec<u8>) -> usize {
        let end = if fresh && rest.starts_with(b".\r\n") { Some(3) } else { END.find(rest).map(|at| at + 5) };
        if let Some(end) = end {
            self.keep_head(&rest[..end]);
            self.state = State::Command;
            self.end_message(output);
            return end;
        }
        // What may be the start of the end stays.
        let taken = rest.len().saturating_sub(4);
        if taken > 0 {
            self.keep_head(&rest[..taken]);
            self.state = State::Content { fresh: false };
        }
        taken
    }

    fn keep_head(&mut self, octets: &[u8]) {
        let room = HEAD - self.head.len();
        self.head.extend_from_slice(&octets[..octets.len().min(room)]);
    }

    fn end_message(&mut self, output: &mut Vec<u8>) {
        let number = NUMBER.find(&self.head).map(|at| {
            let digits = self.head[at + MARK.len()..].iter().take_while(|octet| octet.is_ascii_digit());
            digits.fold(0, |number: usize, digit| number.wrapping_mul(10) + usize::from(digit - b'0'))
        });
        self.head.clear();
        self.tally.arrived(number);
        output.extend_from_slice(b"250 2.0.0 Ok: taken\r\n");
    }

    fn hello(&self, output: &mut Vec<u8>) {
        let Offer { pipelining, chunking, eight_bit, size, .. } = self.offer;
        output.extend_from_slice(b"250-sink.bench.test\r\n");
        for (offered, line) in [
            (pipelining, &b"250-PIPELINING\r\n"[..]),
            (chunking, b"250-CHUNKING\r\n"),
            (eight_bit, b"250-8BITMIME\r\n"),
            (size, b"250-SIZE 104857600\r\n"),
        ] {
            if offered {
                output.extend_from_slice(line);
            }
        }
        output.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
    }
}

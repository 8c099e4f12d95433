//! Takes octets as they arrive from a peer, hands on [`Reply`]s: tolerant of what peers do, bounded whatever they do.

use thiserror::Error;

use super::Reply;

/// Octets of one line, its end included: eight times what RFC 5321 4.5.3.1.5 allows.
const MAX_LINE: usize = 4 * 1024;
/// Octets of one reply with all its lines.
const MAX_REPLY: usize = 64 * 1024;
/// Octets of a reply's text that are kept; what follows is read and dropped.
const KEPT_TEXT: usize = 4 * 1024;
/// Octets taken in before the replies among them are asked for: while commands of one turn are still being written.
const MAX_INPUT: usize = 256 * 1024;
/// What the buffer begins with and goes back to.
const ROOM: usize = 2 * 1024;
/// Octets of a bad line that an error shows.
const SHOWN: usize = 80;

/// Why what a peer sent is no reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadReply {
    /// More than 4 KiB.
    #[error("a line of its reply is longer than {MAX_LINE} octets")]
    LineTooLong,
    /// More than 64 KiB.
    #[error("its reply is longer than {MAX_REPLY} octets")]
    TooLong,
    /// No three digits and a space, hyphen or end, or digits outside 200–599.
    #[error("no SMTP reply: {0:?}")]
    NotAReply(String),
}

/// Octets that were read and not yet understood.
#[derive(Debug)]
pub struct Input {
    /// `start..end` is what was read; from `scanned` on, no end of line has been looked for.
    octets: Vec<u8>,
    start: usize,
    scanned: usize,
    end: usize,
    /// Octets that were read so far, understood or not.
    read: u64,
    /// The reply whose last line has not come yet.
    partial: Partial,
}

/// The lines of a reply so far.
#[derive(Debug, Default)]
struct Partial {
    octets: usize,
    lines: usize,
    text: String,
}

/// With nothing in it.
impl Default for Input {
    fn default() -> Self {
        Self { octets: vec![0; ROOM], start: 0, scanned: 0, end: 0, read: 0, partial: Partial::default() }
    }
}

impl Input {
    /// Nothing is waiting to be understood.
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.partial.octets == 0
    }

    /// Where more can be read to, and whether there is any: no room is left when the peer says far more than it was asked.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.scanned = 0;
            self.end = 0;
            if self.octets.len() > ROOM {
                self.octets.truncate(ROOM);
                self.octets.shrink_to_fit();
            }
        } else if self.end == self.octets.len() {
            if self.start > 0 {
                self.octets.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.scanned -= self.start;
                self.start = 0;
            } else if self.octets.len() < MAX_INPUT {
                self.octets.resize(self.octets.len() * 2, 0);
            }
        }
        &mut self.octets[self.end..]
    }

    /// `count` octets were put into [`Self::room`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        self.read += count as u64;
    }

    /// Octets of the connection that were read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// The octet of the connection at which the last reply ended.
    pub(super) fn understood(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// The next whole reply, if it is here.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, BadReply> {
        while let Some(at) = self.octets[self.scanned..self.end].iter().position(|&octet| octet == b'\n') {
            let (start, end) = (self.start, self.scanned + at);
            self.start = end + 1;
            self.scanned = self.start;
            if end - start >= MAX_LINE {
                return Err(BadReply::LineTooLong);
            }
            if let Some(reply) = self.partial.line(&self.octets[start..end])? {
                return Ok(Some(reply));
            }
        }
        self.scanned = self.end;
        if self.end - self.start >= MAX_LINE { Err(BadReply::LineTooLong) } else { Ok(None) }
    }
}

impl Partial {
    /// Takes a line without its LF. The last line's code is the reply's, as Postfix has it: some peers change it on the way.
    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, BadReply> {
        self.octets += line.len() + 1;
        if self.octets > MAX_REPLY {
            return Err(BadReply::TooLong);
        }
        let line = line.trim_ascii_end();
        let bad = || BadReply::NotAReply(clean(&line[..line.len().min(SHOWN)]));
        let (digits, rest) = line.split_at_checked(3).ok_or_else(bad)?;
        if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
            return Err(bad());
        }
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        let (last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(bad()),
        };
        if self.lines > 0 && self.text.len() < KEPT_TEXT {
            self.text.push('\n');
        }
        self.lines += 1;
        self.keep(text);
        if !last {
            return Ok(None);
        }
        let reply = Reply::new(code, self.text.as_str());
        self.octets = 0;
        self.lines = 0;
        self.text.clear();
        Ok(Some(reply))
    }

    fn keep(&mut self, text: &[u8]) {
        let room = KEPT_TEXT.saturating_sub(self.text.len());
        match std::str::from_utf8(text) {
            Ok(plain) if plain.len() <= room && !plain.contains(char::is_control) => self.text.push_str(plain),
            _ => {
                let cleaned = clean(text);
                let end = (0..=cleaned.len().min(room)).rev().find(|&end| cleaned.is_char_boundary(end)).unwrap_or(0);
                self.text.push_str(&cleaned[..end]);
            }
        }
    }
}

/// Text for people: what is not UTF-8 is replaced, what would move a terminal's cursor becomes a space.
fn clean(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that is understood of `octets` when they arrive in pieces of the given sizes.
    fn replies(octets: &[u8], pieces: &[usize]) -> Result<Vec<Reply>, BadReply> {
        let mut input = Input::default();
        let mut replies = Vec::new();
        let (mut rest, mut pieces) = (octets, pieces.iter().cycle());
        while !rest.is_empty() {
            let room = input.room();
            let count = room.len().min(rest.len()).min(*pieces.next().unwrap_or(&usize::MAX)).max(1);
            room[..count].copy_from_slice(&rest[..count]);
            input.filled(count);
            rest = &rest[count..];
            while let Some(reply) = input.next_reply()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    fn one(octets: &[u8]) -> Result<Reply, BadReply> {
        replies(octets, &[usize::MAX]).map(|replies| {
            assert_eq!(replies.len(), 1, "{}", octets.escape_ascii());
            replies[0].clone()
        })
    }

    #[test]
    fn replies_as_peers_send_them() {
        let cases: &[(&[u8], u16, &str)] = &[
            (b"250 2.1.0 Ok\r\n", 250, "2.1.0 Ok"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250\n", 250, ""),
            (b"250 bare LF\n", 250, "bare LF"),
            (b"571 second digit\r\n", 571, "second digit"),
            (b"599 last\r\n", 599, "last"),
            (b"250-one\r\n250-two\r\n250 three\r\n", 250, "one\ntwo\nthree"),
            (b"250-one\r\n250\r\n", 250, "one\n"),
            (b"250-codes\r\n550 differ\r\n", 550, "codes\ndiffer"),
            (b"550 5.1.1 \x1b[31mred\x07\tand\x00\r\n", 550, "5.1.1  [31mred  and "),
            (b"550 caf\xe9\r\n", 550, "caf\u{fffd}"),
            ("550 Postfach ungültig\r\n".as_bytes(), 550, "Postfach ungültig"),
            (b"250 two ends\r\r\n", 250, "two ends"),
        ];
        for (octets, code, text) in cases {
            let reply = one(octets).unwrap();
            assert_eq!((reply.code(), reply.text()), (*code, *text), "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_reply() {
        for octets in [
            b"\r\n".as_slice(),
            b"\n",
            b"25\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"100 too low\r\n",
            b"199 too low\r\n",
            b"600 too high\r\n",
            b"999 too high\r\n",
            b"000 zero\r\n",
            b"2500 four\r\n",
            b"250\tx\r\n",
            b"250-one\r\nnonsense\r\n",
            b"\x16\x03\x01\x00\n",
        ] {
            assert!(matches!(one(octets), Err(BadReply::NotAReply(_))), "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn errors_show_a_cleaned_beginning() {
        let line = format!("\x1b[2J{}\r\n", "x".repeat(500));
        assert_eq!(one(line.as_bytes()), Err(BadReply::NotAReply(format!(" [2J{}", "x".repeat(SHOWN - 4)))));
    }

    #[test]
    fn lines_and_replies_are_bounded() {
        let longest = format!("250 {}\r\n", "x".repeat(MAX_LINE - 6));
        assert_eq!(one(longest.as_bytes()).unwrap().text().len(), KEPT_TEXT.min(MAX_LINE - 6));
        assert_eq!(one(format!("250 {}\r\n", "x".repeat(MAX_LINE - 5)).as_bytes()), Err(BadReply::LineTooLong));
        assert_eq!(replies(&[b'2'; MAX_LINE], &[usize::MAX]), Err(BadReply::LineTooLong), "no end of line ever comes");

        let line = format!("250-{}\r\n", "x".repeat(994));
        assert_eq!(line.len(), 1_000);
        let many = |count: usize| line.repeat(count) + "250 end\r\n";
        let reply = one(many(65).as_bytes()).unwrap();
        assert!(reply.text().len() <= KEPT_TEXT, "{}", reply.text().len());
        assert_eq!(one(many(66).as_bytes()), Err(BadReply::TooLong));
    }

    #[test]
    fn a_flood_finds_no_room() {
        let mut input = Input::default();
        let mut taken = 0;
        loop {
            let room = input.room();
            if room.is_empty() {
                break;
            }
            let count = room.len();
            room.fill(b'\n');
            input.filled(count);
            taken += count;
        }
        assert_eq!(taken, MAX_INPUT);
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..2_000), pieces in proptest::collection::vec(1usize..200, 1..5)) {
            let _ = replies(&octets, &pieces);
        }

        /// Close to replies, so that the parser gets past the first line.
        #[test]
        fn nearly_replies_never_panic(text in "([2-6][0-9]{2}[- x]?[ -~\u{80}-\u{7ff}\r\t]{0,20}\r?\n?){0,40}", pieces in proptest::collection::vec(1usize..60, 1..5)) {
            if let Ok(replies) = replies(text.as_bytes(), &pieces) {
                for reply in replies {
                    prop_assert!((200..600).contains(&reply.code()));
                    prop_assert!(!reply.text().chars().any(|c| c.is_control() && c != '\n'));
                }
            }
        }

        #[test]
        fn pieces_make_no_difference(
            sent in proptest::collection::vec((200u16..600, proptest::collection::vec("[!-~]([ -~]{0,60}[!-~])?", 1..5)), 1..20),
            pieces in proptest::collection::vec(1usize..100, 1..5),
        ) {
            let mut wire = String::new();
            for (code, lines) in &sent {
                for (i, line) in lines.iter().enumerate() {
                    let separator = if i + 1 == lines.len() { ' ' } else { '-' };
                    wire.push_str(&format!("{code}{separator}{line}\r\n"));
                }
            }
            let expected: Vec<Reply> = sent.iter().map(|(code, lines)| Reply::new(*code, lines.join("\n"))).collect();
            prop_assert_eq!(replies(wire.as_bytes(), &pieces).unwrap(), expected);
        }
    }
}

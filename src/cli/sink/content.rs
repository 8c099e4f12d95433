//! Takes the octets after DATA or BDAT in whatever blocks they come, hands on the content: where it ends, how long it is, and itself if wanted.

use memchr::memchr_iter;
use memchr::memmem::Finder;

/// The content of one message so far.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// Octets, without dot-stuffing.
    pub(super) size: u64,
    /// The first `keep` of them.
    pub(super) octets: Vec<u8>,
    keep: usize,
    last: u8,
    carriage_returns: u64,
    line_ends: u64,
    bare_line_feed: bool,
}

/// Finds the end of DATA: only CRLF `.` CRLF is one (RFC 5321 4.1.1.4). Whoever takes less for an end lets messages be smuggled in.
#[derive(Debug)]
pub(super) struct Dots {
    seen: Seen,
    line_with_dot: Finder<'static>,
}

/// What the last octets were, where the next ones depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Text,
    Cr,
    /// CRLF, or the start.
    LineEnd,
    /// CRLF and a dot, which is not content.
    Dot,
    /// The same and CR.
    DotCr,
}

impl Body {
    /// Empties it; from now on at most `keep` octets are kept. Memory beyond a mebibyte is given back.
    pub(super) fn reset(&mut self, keep: usize) {
        const RETAINED: usize = 1 << 20;
        let mut octets = std::mem::take(&mut self.octets);
        octets.clear();
        octets.shrink_to(RETAINED);
        *self = Self { octets, keep, ..Self::default() };
    }

    /// Adds octets that are content.
    pub(super) fn push(&mut self, octets: &[u8]) {
        let Some(&last) = octets.last() else { return };
        for at in memchr_iter(b'\n', octets) {
            let before = if at == 0 { self.last } else { octets[at - 1] };
            self.bare_line_feed |= before != b'\r';
            self.line_ends += 1;
        }
        self.carriage_returns += memchr_iter(b'\r', octets).count() as u64;
        self.last = last;
        self.size += octets.len() as u64;
        let kept = octets.len().min(self.keep.saturating_sub(self.octets.len()));
        self.octets.extend_from_slice(&octets[..kept]);
    }

    /// Whether CR and LF came in pairs only, as RFC 5321 2.3.8 demands.
    pub(super) fn is_canonical(&self) -> bool {
        !self.bare_line_feed && self.carriage_returns == self.line_ends
    }
}

impl Default for Dots {
    fn default() -> Self {
        Self { seen: Seen::LineEnd, line_with_dot: Finder::new(b"\r\n.") }
    }
}

impl Dots {
    /// Another message.
    pub(super) fn reset(&mut self) {
        self.seen = Seen::LineEnd;
    }

    /// Adds to `body` what of `input` belongs to it. Returns how many octets of `input` were used, and whether the end was among them.
    pub(super) fn take(&mut self, input: &[u8], body: &mut Body) -> (usize, bool) {
        let mut used = 0;
        while let Some(&octet) = input.get(used) {
            match (self.seen, octet) {
                (Seen::LineEnd, b'.') => (self.seen, used) = (Seen::Dot, used + 1),
                (Seen::Dot, b'\r') => (self.seen, used) = (Seen::DotCr, used + 1),
                (Seen::DotCr, b'\n') => return (used + 1, true),
                (Seen::DotCr, _) => {
                    // The dot was stuffing after all, and the CR content.
                    body.push(b"\r");
                    self.seen = Seen::Text;
                }
                (Seen::Cr, b'\n') => {
                    body.push(b"\n");
                    (self.seen, used) = (Seen::LineEnd, used + 1);
                }
                _ => used += self.take_text(&input[used..], body),
            }
        }
        (used, false)
    }

    /// Up to and with the next line end that a dot follows, or all.
    fn take_text(&mut self, input: &[u8], body: &mut Body) -> usize {
        let end = match self.line_with_dot.find(input) {
            Some(at) => {
                self.seen = Seen::LineEnd;
                at + 2
            }
            None => {
                self.seen = match input {
                    [.., b'\r', b'\n'] => Seen::LineEnd,
                    [.., b'\r'] => Seen::Cr,
                    _ => Seen::Text,
                };
                input.len()
            }
        };
        body.push(&input[..end]);
        end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(keep: usize) -> Body {
        let mut body = Body::default();
        body.reset(keep);
        body
    }

    /// Feeds `input` in blocks of `block` octets. Returns what was used of it, if the end came, and the body.
    fn take(input: &[u8], block: usize) -> (Option<usize>, Body) {
        let (mut dots, mut body) = (Dots::default(), body(usize::MAX));
        let mut used = 0;
        for block in input.chunks(block) {
            let (more, end) = dots.take(block, &mut body);
            used += more;
            if end {
                return (Some(used), body);
            }
            assert_eq!(more, block.len());
        }
        (None, body)
    }

    #[test]
    fn only_a_dot_between_line_ends_is_the_end() {
        // Input, the content if it ends there, whether its line ends are all CRLF.
        type Row = (&'static [u8], Option<&'static [u8]>, bool);
        let rows: [Row; 12] = [
            (b".\r\n", Some(b""), true),
            (b"a\r\n.\r\n", Some(b"a\r\n"), true),
            (b"..a\r\n...\r\n.\r\n", Some(b".a\r\n..\r\n"), true),
            (b".a\r\n.\r\n", Some(b"a\r\n"), true),
            (b"\0\0\r\n.\r\n", Some(b"\0\0\r\n"), true),
            (b"a\n.\n", None, false),
            (b"a\n.\r\n", None, false),
            (b"a\r\n.\n", None, false),
            (b"a\r.\r\n", None, false),
            (b"a\r\n.\r\r\n", None, false),
            (b"a\n.\r\nMAIL FROM:<x@y>\r\n.\r\n", Some(b"a\n.\r\nMAIL FROM:<x@y>\r\n"), false),
            (b"a\rb\r\n.\r\n", Some(b"a\rb\r\n"), false),
        ];
        for (input, content, canonical) in rows {
            for block in 1..=input.len() {
                let (end, body) = take(input, block);
                let shown = format!("{} in blocks of {block}", input.escape_ascii());
                assert_eq!(end, content.map(|_| input.len()), "{shown}");
                if let Some(content) = content {
                    assert_eq!(body.octets, content, "{shown}");
                    assert_eq!(body.size, content.len() as u64, "{shown}");
                }
                assert_eq!(body.is_canonical(), canonical, "{shown}");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_left() {
        let input = b"a\r\n.\r\nMAIL FROM:<>\r\n";
        assert_eq!(take(input, input.len()).0, Some(6));
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let mut body = body(5);
        for _ in 0..3 {
            body.push(b"abc\r\n");
        }
        assert_eq!((body.size, body.octets.as_slice()), (15, b"abc\r\n".as_slice()));
        body.reset(0);
        body.push(b"abc\r\n");
        assert_eq!((body.size, body.octets.len()), (5, 0));
    }

    proptest! {
        /// Against the definition: stuff, find the end, compare; with any blocks.
        #[test]
        fn stuffing_is_undone(lines in proptest::collection::vec("[a.\r\n\0]{0,4}", 0..8), block in 1_usize..20) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut stuffed = content.replace("\r\n.", "\r\n..");
            if stuffed.starts_with('.') {
                stuffed.insert(0, '.');
            }
            stuffed.push_str(".\r\n");
            let (end, body) = take(stuffed.as_bytes(), block);
            prop_assert_eq!(end, Some(stuffed.len()));
            prop_assert_eq!(&body.octets, content.as_bytes());
            let paired = content.replace("\r\n", "");
            prop_assert_eq!(body.is_canonical(), !paired.contains(['\r', '\n']));
        }
    }
}

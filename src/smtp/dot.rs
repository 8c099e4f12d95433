//! Takes canonical content in blocks, hands on what DATA carries: dots doubled at line starts, the end marked (RFC 5321 4.5.2).

use memchr::memmem::Finder;

/// Dot-stuffing across block boundaries.
#[derive(Debug)]
pub struct DotStuffer {
    at_line_start: bool,
    /// Of a dot that begins a line: nearly no message has one, so that whole blocks are copied at once.
    dots: Finder<'static>,
}

/// At the start of a content.
impl Default for DotStuffer {
    fn default() -> Self {
        Self { at_line_start: true, dots: Finder::new(b"\n.") }
    }
}

impl DotStuffer {
    /// Appends `block` to `wire`. A dot is doubled after any LF: in canonical content each belongs to a CRLF.
    pub fn push(&mut self, block: &[u8], wire: &mut Vec<u8>) {
        let mut rest = block;
        while !rest.is_empty() {
            if self.at_line_start && rest[0] == b'.' {
                wire.push(b'.');
            }
            let dot_next = self.dots.find(rest);
            let taken = dot_next.map_or(rest.len(), |at| at + 1);
            wire.extend_from_slice(&rest[..taken]);
            self.at_line_start = rest[taken - 1] == b'\n';
            rest = &rest[taken..];
        }
    }

    /// Appends the end of the content. A last line without its end is ended first.
    pub fn finish(self, wire: &mut Vec<u8>) {
        wire.extend_from_slice(if self.at_line_start { b".\r\n" } else { b"\r\n.\r\n" });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed(content: &[u8], pieces: &[usize]) -> Vec<u8> {
        let mut stuffer = DotStuffer::default();
        let mut wire = Vec::new();
        let (mut rest, mut pieces) = (content, pieces.iter().cycle());
        while !rest.is_empty() {
            let count = rest.len().min(*pieces.next().unwrap());
            stuffer.push(&rest[..count], &mut wire);
            rest = &rest[count..];
        }
        stuffer.finish(&mut wire);
        wire
    }

    /// RFC 5321 4.5.2, the receiver's side: the content, and what follows the line that is a lone dot.
    fn received(wire: &[u8]) -> (Vec<u8>, &[u8]) {
        let (mut content, mut rest) = (Vec::new(), wire);
        loop {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a line without its end");
            let (line, after) = rest.split_at(end + 2);
            if line == b".\r\n" {
                return (content, after);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            rest = after;
        }
    }

    #[test]
    fn dots_at_line_starts_are_doubled_and_nothing_else() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"", b".\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..\r\n", b"...\r\n.\r\n"),
            (b"a.b\r\n.c\r\n", b"a.b\r\n..c\r\n.\r\n"),
            (b"a\r\n\r\n.\r\n", b"a\r\n\r\n..\r\n.\r\n"),
            (b"no end", b"no end\r\n.\r\n"),
        ];
        for (content, wire) in cases {
            assert_eq!(stuffed(content, &[usize::MAX]), *wire, "{}", content.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_receiver_gets_the_content_back_and_sees_one_end(
            lines in proptest::collection::vec("[.a]{0,6}", 0..40),
            pieces in proptest::collection::vec(1usize..12, 1..6),
        ) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let wire = stuffed(content.as_bytes(), &pieces);
            let (back, after) = received(&wire);
            prop_assert_eq!(back.escape_ascii().to_string(), content.as_bytes().escape_ascii().to_string());
            prop_assert!(after.is_empty(), "an end of content before the end");
            // Nor for a receiver that takes a bare LF for an end of line (SMTP smuggling).
            let ends = wire.split(|&octet| octet == b'\n').filter(|line| line.trim_ascii_end() == b".").count();
            prop_assert_eq!(ends, 1);
        }
    }
}

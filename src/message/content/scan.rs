//! Takes a file's octets once, block by block, hands on what was found.

use std::io::{self, Read};
use std::ops::Range;

use super::edits::{self, Parts, Stamp};
use super::header::{self, Header};
use super::{Content, Cut, MAX_HEADER, ScanError};

/// Octets read at once; the body is never held beyond it.
const BLOCK: usize = 64 * 1024;
/// Octets that are looked at together for the end of the header section: most of a large block is body, and is not copied.
const PIECE: usize = 4 * 1024;
/// UTF-8's byte order mark, which some programs put before the first field. It would make a body of the header.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a scan hands on.
#[derive(Debug)]
pub struct Scanned {
    /// What the queue keeps.
    pub content: Content,
    /// What intake looks into for the envelope.
    pub header: Header,
}

/// What files are read through. Kept from one file to the next: making it anew costs more than scanning a small file.
#[derive(Debug)]
pub struct ScanBlock(Box<[u8]>);

impl Default for ScanBlock {
    fn default() -> Self {
        Self(vec![0; BLOCK].into_boxed_slice())
    }
}

impl ScanBlock {
    /// Reads to the end, in blocks of 64 KiB; of the content only the header section is kept, at most [`MAX_HEADER`] octets.
    ///
    /// The header section ends at the first empty line. A file whose first line is no field has none: it is all body.
    pub fn scan(&mut self, mut reader: impl Read, stamp: &Stamp<'_>) -> Result<Scanned, ScanError> {
        let mut lines = LineCount::default();
        let mut head = Head::default();
        let mut body_ascii = true;
        loop {
            let chunk = match reader.read(&mut self.0) {
                Ok(0) => break,
                Ok(read) => &self.0[..read],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            lines.feed(chunk);
            for piece in chunk.chunks(if head.is_complete() { BLOCK } else { PIECE }) {
                if head.is_complete() {
                    body_ascii = body_ascii && piece.is_ascii();
                } else {
                    head.feed(piece, false)?;
                    body_ascii = head.rest_is_ascii;
                }
            }
        }
        if !head.is_complete() {
            head.feed(&[], true)?;
            body_ascii = head.rest_is_ascii;
        }
        Ok(assemble(head.split(), &lines, body_ascii, stamp))
    }
}

/// [`ScanBlock::scan`] with a block of its own.
pub fn scan(reader: impl Read, stamp: &Stamp<'_>) -> Result<Scanned, ScanError> {
    ScanBlock::default().scan(reader, stamp)
}

fn assemble((parts, header): (Parts, Header), lines: &LineCount, body_ascii: bool, stamp: &Stamp<'_>) -> Scanned {
    let cuts = edits::cuts(&header);
    let prepend = edits::prepend(parts, &header, stamp);
    let (header_utf8, header_eight_bit) = edits::beyond_ascii(&header, &cuts);
    let size_of = |cut: &Cut| {
        let mut count = LineCount::default();
        count.feed(header.octets(cut.start, cut.end));
        // Only the file's last line is ended by this host; a byte order mark is no line at all.
        count.canonical_size(cut.end == lines.octets)
    };
    let content = Content {
        file_size: lines.octets,
        wire_size: prepend.len() as u64 + lines.canonical_size(true) - cuts.iter().map(size_of).sum::<u64>(),
        canonical: lines.is_canonical(),
        eight_bit: !body_ascii || header_eight_bit,
        header_utf8,
        prepend,
        cuts,
        message_id: edits::message_id(&header, stamp),
        hops: u32::try_from(header.fields().filter(|field| field.is("Received")).count()).unwrap_or(u32::MAX),
    };
    Scanned { content, header }
}

/// Counts line ends: enough to know the canonical size without having the octets.
#[derive(Debug, Default)]
struct LineCount {
    octets: u64,
    cr: u64,
    lf: u64,
    crlf: u64,
    last: Option<u8>,
}

impl LineCount {
    fn feed(&mut self, chunk: &[u8]) {
        let Some(&last) = chunk.last() else { return };
        self.octets += chunk.len() as u64;
        self.cr += memchr::memchr_iter(b'\r', chunk).count() as u64;
        for at in memchr::memchr_iter(b'\n', chunk) {
            self.lf += 1;
            let before = if at == 0 { self.last } else { Some(chunk[at - 1]) };
            self.crlf += u64::from(before == Some(b'\r'));
        }
        self.last = Some(last);
    }

    /// Octets with every line end as CRLF; with `end`, the last line is ended too.
    fn canonical_size(&self, end: bool) -> u64 {
        let unended = !matches!(self.last, None | Some(b'\r' | b'\n'));
        self.octets + (self.lf - self.crlf) + (self.cr - self.crlf) + if end && unended { 2 } else { 0 }
    }

    fn is_canonical(&self) -> bool {
        self.lf == self.crlf && self.cr == self.crlf && matches!(self.last, None | Some(b'\n'))
    }
}

/// What the next line can be.
#[derive(Debug, Default, PartialEq, Eq)]
enum Awaiting {
    /// A byte order mark.
    #[default]
    Bom,
    /// mbox's `From ` line.
    FromLine,
    /// The line that tells whether there is a header.
    FirstLine,
    /// Fields, continuations, or the empty line.
    Field,
    /// Nothing: the end of the header section is known.
    Complete,
}

/// Gathers the file's octets until the end of the header section is known.
#[derive(Debug, Default)]
struct Head {
    raw: Vec<u8>,
    awaiting: Awaiting,
    /// Where the line begins that is looked at next.
    at: usize,
    lead: usize,
    parts: Parts,
    /// Whether the octets that were read beyond the header are ASCII.
    rest_is_ascii: bool,
}

impl Head {
    fn is_complete(&self) -> bool {
        self.awaiting == Awaiting::Complete
    }

    fn feed(&mut self, chunk: &[u8], end_of_file: bool) -> Result<(), ScanError> {
        self.raw.extend_from_slice(chunk);
        while !self.is_complete() {
            if self.awaiting == Awaiting::Bom {
                if self.raw.len() < BOM.len() && !end_of_file {
                    return Ok(());
                }
                self.lead = if self.raw.starts_with(BOM) { BOM.len() } else { 0 };
                self.at = self.lead;
                self.awaiting = Awaiting::FromLine;
            }
            let line = match header::line_end(&self.raw, self.at) {
                // The other half of CRLF may be in the next block.
                Some(line) if line.end < self.raw.len() || self.raw[line.end - 1] == b'\n' || end_of_file => line,
                _ if end_of_file => self.raw.len()..self.raw.len(),
                _ if self.raw.len() - self.lead > MAX_HEADER => return self.too_long(),
                _ => return Ok(()),
            };
            self.look_at(line)?;
        }
        Ok(())
    }

    /// Looks at the line whose text ends at `line.start`; the next one begins at `line.end`.
    fn look_at(&mut self, line: Range<usize>) -> Result<(), ScanError> {
        let text = &self.raw[self.at..line.start];
        let end_of_file = self.at == self.raw.len();
        match self.awaiting {
            Awaiting::FromLine if text.starts_with(b"From ") => {
                self.lead = line.end;
                self.at = line.end;
                self.awaiting = Awaiting::FirstLine;
            }
            Awaiting::FromLine | Awaiting::FirstLine => {
                if header::field_name(text).is_none() {
                    self.no_header(text.is_empty());
                    return Ok(());
                }
                self.parts = Parts { has_header: true, separated: true };
                self.awaiting = Awaiting::Field;
            }
            Awaiting::Field if text.is_empty() || end_of_file => self.complete(self.at),
            _ => self.at = line.end,
        }
        if self.parts.has_header && self.at - self.lead > MAX_HEADER { self.too_long() } else { Ok(()) }
    }

    /// No line end within the limit.
    fn too_long(&mut self) -> Result<(), ScanError> {
        let undecided = matches!(self.awaiting, Awaiting::FromLine | Awaiting::FirstLine);
        if undecided && header::field_name(&self.raw[self.at..]).is_none() {
            self.no_header(false);
            return Ok(());
        }
        Err(ScanError::HeaderTooLong { limit: MAX_HEADER })
    }

    fn no_header(&mut self, separated: bool) {
        self.parts = Parts { has_header: false, separated };
        self.complete(self.lead);
    }

    fn complete(&mut self, end: usize) {
        self.rest_is_ascii = self.raw[end..].is_ascii();
        self.raw.truncate(end);
        self.awaiting = Awaiting::Complete;
    }

    fn split(self) -> (Parts, Header) {
        (self.parts, Header::split(self.raw, self.lead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Domain;

    fn scanned(octets: &[u8]) -> Scanned {
        let hostname = Domain::parse("mail.example.com").unwrap();
        let stamp =
            Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname: &hostname, now: "2026-11-22T09:42:50Z".parse().unwrap() };
        scan(octets, &stamp).unwrap()
    }

    fn field_names(octets: &[u8]) -> Vec<String> {
        scanned(octets).header.fields().map(|f| String::from_utf8_lossy(f.name).into_owned()).collect()
    }

    #[test]
    fn header_ends_at_the_first_empty_line_whatever_the_line_ends() {
        for octets in
            [&b"A: 1\r\nB: 2\r\n\r\nBcc: body"[..], b"A: 1\nB: 2\n\nBcc: body", b"A: 1\rB: 2\r\rBcc: body", b"A: 1\nB: 2\r\n\nC: 3"]
        {
            assert_eq!(field_names(octets), ["A", "B"], "{octets:?}");
            assert!(scanned(octets).content.cuts.is_empty());
        }
        assert_eq!(field_names(b"A: 1\nB: 2"), ["A", "B"]);
    }

    #[test]
    fn mbox_line_and_byte_order_mark_are_cut() {
        let with_from = scanned(b"From a@b Sun Nov 22 09:42:50 2026\nA: 1\n\nx\n");
        assert_eq!(with_from.content.cuts, [Cut { start: 0, end: 34 }]);
        assert_eq!(with_from.header.fields().count(), 1);
        let with_bom = scanned(b"\xef\xbb\xbfA: 1\r\n\r\nx\r\n");
        assert_eq!(with_bom.content.cuts, [Cut { start: 0, end: 3 }]);
        assert!(with_bom.content.canonical && !with_bom.content.eight_bit);
        // A From line is one at the top only.
        assert_eq!(scanned(b"A: 1\n\nFrom here\n").content.cuts, []);
    }

    #[test]
    fn body_without_header_gets_its_empty_line_once() {
        for (octets, added) in [(&b"just text\n"[..], true), (b" indented", true), (b"\r\nbody", false), (b"", false), (b"From x\n", false)]
        {
            assert_eq!(scanned(octets).content.prepend.ends_with("\r\n\r\n"), added, "{octets:?}");
        }
    }

    #[test]
    fn facts_of_the_content() {
        let octets = "Received: a\r\nReceived: b\r\nMessage-ID: <x@y>\r\n\r\nGrüße\r\n";
        let content = scanned(octets.as_bytes()).content;
        assert_eq!((content.hops, content.message_id.as_deref()), (2, Some("<x@y>")));
        assert!(content.eight_bit && !content.header_utf8 && content.canonical);
        assert_eq!(content.file_size, octets.len() as u64);
        assert!(!scanned(b"A: 1\r\n\r\nx\ny\r\n").content.canonical);
        assert!(!scanned(b"A: 1\r\n\r\nx").content.canonical);
        assert!(!scanned(b"A: 1\r\n\r\nx\ry\r\n").content.canonical);
    }

    /// Gives `octets`, then `fill` as often as `count` says, so that size costs no memory.
    fn long(octets: &'static [u8], fill: u8, count: u64) -> impl Read {
        octets.chain(io::repeat(fill).take(count))
    }

    fn scan_long(reader: impl Read) -> Result<Scanned, ScanError> {
        let hostname = Domain::parse("mail.example.com").unwrap();
        scan(
            reader,
            &Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname: &hostname, now: "2026-11-22T09:42:50Z".parse().unwrap() },
        )
    }

    #[test]
    fn endless_header_is_refused_and_endless_body_is_not() {
        let too_long = |result: Result<Scanned, ScanError>| matches!(result, Err(ScanError::HeaderTooLong { .. }));
        assert!(too_long(scan_long(long(b"A: 1\nB: ", b'x', 2 * MAX_HEADER as u64))));
        assert!(too_long(scan_long(long(b"A:", b'x', 2 * MAX_HEADER as u64))));
        assert!(too_long(scan_long((&b"A: 1\n"[..]).chain(io::Cursor::new("B: 2\n".repeat(MAX_HEADER / 5))))));
        let body = scan_long(long(b"A: 1\n\n", b'x', 100 * 1024 * 1024)).unwrap();
        assert_eq!(body.content.file_size, 100 * 1024 * 1024 + 6);
        // What is kept is the header; the body went through one block.
        assert_eq!(body.header.end(), 5);
        assert_eq!(scan_long(long(b"", 0, 5 * MAX_HEADER as u64)).unwrap().content.file_size, 5 * MAX_HEADER as u64);
    }

    #[test]
    fn blocks_may_end_anywhere() {
        /// One octet a read.
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let count = self.0.len().min(1);
                self.0.read(&mut out[..count])
            }
        }
        for octets in
            [&b"\xef\xbb\xbfFrom x\r\nA: 1\r\nBcc: x\r\n y\r\n\r\nb\r\r\n\n"[..], b"A: 1\r\r\n", b"From ", b"\xef\xbb", b"\r", b"A:\r"]
        {
            assert_eq!(scan_long(Drip(octets)).unwrap().content, scanned(octets).content, "{octets:?}");
        }
    }
}

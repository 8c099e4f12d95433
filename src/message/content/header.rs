//! Takes the octets of a header section, hands on its fields.

use std::ops::Range;

/// A header section, split into fields (RFC 5322 2.2). Lines may end in CRLF, LF or CR. A line that is no field is skipped, with its
/// continuations: it is sent as it is and says nothing.
#[derive(Clone, Default)]
pub struct Header {
    /// The file up to the end of the header section.
    raw: Vec<u8>,
    /// Octets of it that come before the first field.
    lead: usize,
    fields: Vec<Parts>,
}

/// Ranges of `raw`; the field ends where `value` ends, line end included.
#[derive(Debug, Clone)]
struct Parts {
    name: Range<usize>,
    value: Range<usize>,
}

/// One header field.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// As written.
    pub name: &'a [u8],
    /// Everything after the colon: folds and the final line end are still in it.
    pub value: &'a [u8],
    /// Where the field begins in the file.
    pub start: u64,
    /// Where the next one begins.
    pub end: u64,
}

impl Header {
    /// The fields of a header section that stands alone.
    pub fn parse(raw: Vec<u8>) -> Self {
        Self::split(raw, 0)
    }

    /// Whether a line begins a field.
    pub fn is_field(line: &[u8]) -> bool {
        field_name(line).is_some()
    }

    /// Splits `raw`, the file up to its empty line; its first field begins after `lead` octets.
    pub(super) fn split(raw: Vec<u8>, lead: usize) -> Self {
        let mut fields: Vec<Parts> = Vec::new();
        // Whether a continuation line belongs to the last field, not to a line that is none.
        let mut open = false;
        let mut start = lead;
        while start < raw.len() {
            let end = line_end(&raw, start).map_or(raw.len(), |line| line.end);
            let line = &raw[start..end];
            if matches!(line[0], b' ' | b'\t') {
                if let (true, Some(last)) = (open, fields.last_mut()) {
                    last.value.end = end;
                }
            } else if let Some((name, colon)) = field_name(line) {
                fields.push(Parts { name: start..start + name, value: start + colon + 1..end });
                open = true;
            } else {
                open = false;
            }
            start = end;
        }
        Self { raw, lead, fields }
    }

    /// The fields, from the top.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter().map(|parts| Field {
            name: &self.raw[parts.name.clone()],
            value: &self.raw[parts.value.clone()],
            start: parts.name.start as u64,
            end: parts.value.end as u64,
        })
    }

    /// The first field of this name.
    pub fn first(&self, name: &str) -> Option<Field<'_>> {
        self.fields().find(|field| field.is(name))
    }

    /// Octets `start..end` of the file, as far as they lie before the end of the header section.
    pub(super) fn octets(&self, start: u64, end: u64) -> &[u8] {
        let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(self.raw.len());
        &self.raw[at(start)..at(end)]
    }

    /// Octet of the file at which the first field begins.
    pub(super) fn start(&self) -> u64 {
        self.lead as u64
    }

    /// Octet of the file at which the section ends: there is the empty line, or the end of the file.
    pub(super) fn end(&self) -> u64 {
        self.raw.len() as u64
    }
}

/// Its size only: content never reaches a log.
impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("octets", &self.raw.len()).field("fields", &self.fields.len()).finish()
    }
}

impl<'a> Field<'a> {
    /// Whether it has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value without folds and the space around it, as text; octets that are no UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        let unfolded: Vec<u8> = self.value.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        String::from_utf8_lossy(&unfolded).trim().to_owned()
    }
}

/// Where the line that begins at `start` ends: its text ends at `.start`, the next line begins at `.end`. `None`: no line end.
pub(super) fn line_end(raw: &[u8], start: usize) -> Option<Range<usize>> {
    let text = start + memchr::memchr2(b'\r', b'\n', raw.get(start..)?)?;
    let crlf = raw[text] == b'\r' && raw.get(text + 1) == Some(&b'\n');
    Some(text..text + if crlf { 2 } else { 1 })
}

/// The length of the name and the place of the colon, where the line begins a field (RFC 5322 3.6.8; 4.5.8 allows space before the colon).
pub(super) fn field_name(line: &[u8]) -> Option<(usize, usize)> {
    let name = line.iter().position(|octet| !(33..=126).contains(octet) || *octet == b':')?;
    let colon = name + line[name..].iter().position(|octet| !matches!(octet, b' ' | b'\t'))?;
    (name > 0 && line[colon] == b':').then_some((name, colon))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(raw: &[u8]) -> Vec<(String, String)> {
        let header = Header::split(raw.to_vec(), 0);
        header.fields().map(|f| (String::from_utf8_lossy(f.name).into_owned(), f.text())).collect()
    }

    #[test]
    fn every_line_end_and_fold_is_understood() {
        let expected = vec![("To".to_owned(), "a@b, c@d".to_owned()), ("Subject".to_owned(), "x: y".to_owned())];
        for raw in [&b"To: a@b,\r\n c@d\r\nSubject: x: y\r\n"[..], b"To: a@b,\n c@d\nSubject: x: y", b"To: a@b,\r c@d\rSubject : x: y\r"] {
            assert_eq!(names(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn what_is_no_field_is_skipped_with_its_continuations() {
        let raw = b"A: 1\r\nno field here\r\n Bcc: continued\r\nB: 2\r\n";
        assert_eq!(names(raw), vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
        for line in [&b": x"[..], b"a b: x", b"", b"no colon", b" A: x", b"\xc3\xbc: x"] {
            assert_eq!(field_name(line), None, "{line:?}");
        }
    }

    #[test]
    fn ranges_are_those_of_the_file() {
        let header = Header::split(b"From x\nA: 1\r\nBcc: x,\r\n y\r\nC: 2".to_vec(), 7);
        let ranges: Vec<_> = header.fields().map(|f| (f.start, f.end)).collect();
        assert_eq!(ranges, vec![(7, 13), (13, 26), (26, 30)]);
        assert_eq!(header.octets(13, 26), b"Bcc: x,\r\n y\r\n");
    }
}

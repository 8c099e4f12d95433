//! Message content: what is scanned and then read for sending is canonical, has the announced size, and says of itself what is true.

use std::io::Read;

use smtp_direct::message::{ContentReader, MAX_HEADER};

use super::canonical::{assert_canonical, lines, model, scanned};
use super::scratch::Scratch;

pub fn check(data: &[u8]) {
    if data.len() < MAX_HEADER {
        holds(data, &[3, 1, 64, 4096]);
    }
}

/// `octets` is a file with a header of less than [`MAX_HEADER`]; it is read in reads of these sizes, over and over. Hands on what is sent.
pub fn holds(octets: &[u8], sizes: &[usize]) -> Vec<u8> {
    let found = scanned(octets).unwrap();
    let content = found.content;
    assert_eq!(scanned(Drip(octets)).unwrap().content, content, "blocks make a difference");
    assert_eq!(content.file_size, octets.len() as u64);
    let mut at = 0;
    for cut in &content.cuts {
        assert!(at <= cut.start && cut.start < cut.end && cut.end <= content.file_size, "{:?}", content.cuts);
        at = cut.end;
    }
    for field in found.header.fields() {
        assert!(!field.name.is_empty() && field.name.iter().all(|octet| (33..=126).contains(octet) && *octet != b':'));
        assert!(!field.text().contains(['\r', '\n']));
    }

    let file = Scratch::new(octets);
    let wire = read(ContentReader::open(file.path(), &content).unwrap(), sizes);
    assert_eq!(wire.len() as u64, content.wire_size);
    assert!(wire == model(octets, &content), "{}", wire.escape_ascii());
    assert_canonical(&wire);
    assert_eq!(content.eight_bit, !wire.is_ascii());
    let beyond_ascii = |line: &[u8]| !line.is_ascii() && std::str::from_utf8(line).is_ok();
    let header_utf8 = lines(&wire).iter().take_while(|(.., text)| !text.is_empty()).any(|(.., text)| beyond_ascii(text));
    assert_eq!(content.header_utf8, header_utf8);
    if let Some(id) = &content.message_id {
        assert!(!id.is_empty() && id.len() <= 512 && !id.contains(char::is_control), "{id:?}");
    }

    // What went out is a message that needs nothing, and keeps the fields that it got.
    let again = scanned(&wire[..]).unwrap();
    assert!(again.content.canonical && again.content.cuts.is_empty());
    assert_eq!(again.content.hops, content.hops + 1);
    assert_eq!(again.content.message_id, content.message_id);
    assert_eq!((again.content.eight_bit, again.content.header_utf8), (content.eight_bit, content.header_utf8));
    for name in ["Received", "Date", "Message-ID"] {
        assert!(again.header.first(name).is_some(), "no {name}");
    }
    wire
}

/// Everything, in reads of these sizes.
pub fn read(mut reader: impl Read, sizes: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    for size in sizes.iter().cycle() {
        let mut piece = vec![0; *size];
        match reader.read(&mut piece).unwrap() {
            0 => break,
            read => all.extend_from_slice(&piece[..read]),
        }
    }
    all
}

/// One octet a read.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(1);
        self.0.read(&mut out[..count])
    }
}

//! Content, from any octets to what goes on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fuzz/checks/lib.rs"]
mod checks;
#[path = "support/spool.rs"]
mod spool;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use checks::canonical::scanned;
use checks::content::read;
use proptest::prelude::*;
use smtp_direct::message::{Content, ContentReader, Cut, Damaged, OpenError, Scanned};
use spool::TestSpool;

fn scan_bytes(octets: impl Read) -> Scanned {
    scanned(octets).unwrap()
}

/// Scans and reads `octets`, in reads of these sizes, over and over.
fn wire_in(spool: &TestSpool, octets: &[u8], sizes: &[usize]) -> (Content, Vec<u8>) {
    let path = spool.scratch("message.eml");
    fs::write(&path, octets).unwrap();
    let content = scan_bytes(octets).content;
    let wire = read(ContentReader::open(&path, &content).unwrap(), sizes);
    (content, wire)
}

fn wire(octets: &[u8]) -> String {
    String::from_utf8(wire_in(&TestSpool::new(), octets, &[4096]).1).unwrap()
}

/// What follows the added fields.
fn tail(octets: &[u8]) -> String {
    let text = wire(octets);
    text.split_once(" +0000\r\n").unwrap().1.to_owned()
}

/// Octets of the kind that go wrong.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["\r\n", "\n", "\r", "\r\n\r\n", "\n\n"]).prop_map(|s| s.as_bytes().to_vec()),
        3 => prop::sample::select(vec!["Bcc: a@b", "X-Sender: x", "Return-Path: <>", "Subject: s", "Date: d", "Message-ID: <m>", "Received: r"])
            .prop_map(|s| s.as_bytes().to_vec()),
        2 => prop::sample::select(vec![" ", "\t", ":", ".", "..", "From ", "\u{feff}", "ü", "\0"]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_octets_become_canonical_lines_of_the_announced_size(octets in octets(), sizes in prop::collection::vec(1usize..50, 1..5)) {
        checks::content::holds(&octets, &sizes);
    }

    #[test]
    fn data_of_any_octets_ends_once_for_any_receiver(
        octets in octets(), reads in prop::collection::vec(1usize..50, 1..5), blocks in prop::collection::vec(1usize..12, 1..5),
    ) {
        checks::wire::stuffed(&octets, &reads, &blocks);
    }

    #[test]
    fn canonical_body_passes_unchanged(body in "[ -~\r\n]{0,300}") {
        let body = body.replace('\r', "").replace('\n', "\r\n");
        let message = format!("Subject: x\r\n\r\n{body}\r\n");
        let (content, wire) = wire_in(&TestSpool::new(), message.as_bytes(), &[7, 64]);
        prop_assert!(content.canonical);
        prop_assert_eq!(&wire[content.prepend.len()..], message.as_bytes());
    }
}

#[test]
fn fields_that_are_for_this_host_only_are_cut_with_their_folds() {
    let octets = b"x-sender: a@b\nX-Receiver: c@d\nDate: d\nMessage-ID: <m@x>\nTo: e@f\nBCC: hidden@x,\n\thidden2@x\nReturn-Path: <a@b>\n\
                   Resent-Bcc: h@x\nSubject: s\n\nBcc: in the body stays\n";
    assert_eq!(tail(octets), "Date: d\r\nMessage-ID: <m@x>\r\nTo: e@f\r\nSubject: s\r\n\r\nBcc: in the body stays\r\n");
    assert!(!wire(octets).contains("hidden"));
}

#[test]
fn file_without_header_becomes_a_message() {
    let text = wire(b"Hello,\nthis is all.\n");
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "Hello,\r\nthis is all.\r\n");
    assert!(header.starts_with("Received: by mail.example.com (smtp-direct)\r\n\twith local id 01ARZ3NDEKTSV4RRFFQ69G5FAV;\r\n\t"));
    assert!(header.ends_with("Date: Sun, 22 Nov 2026 09:42:50 +0000\r\nMessage-ID: <01ARZ3NDEKTSV4RRFFQ69G5FAV@mail.example.com>"));
}

#[test]
fn empty_line_survives_a_cut_between_cr_and_lf() {
    assert_eq!(tail(b"Date: d\rMessage-ID: <m>\rBcc: x\r\n\nbody"), "Date: d\r\nMessage-ID: <m>\r\n\r\nbody\r\n");
}

#[test]
fn lone_line_ends_nul_and_long_lines_pass() {
    let long = "y".repeat(5000);
    let octets = format!("Date: d\nMessage-ID: <m>\n\na\0b\rc\n\n.{long}");
    assert_eq!(tail(octets.as_bytes()), format!("Date: d\r\nMessage-ID: <m>\r\n\r\na\0b\r\nc\r\n\r\n.{long}\r\n"));
}

fn canonical_file(path: &Path, lines: usize) -> Content {
    let octets = format!("Subject: x\r\nBcc: b@x\r\n\r\n{}", "line\r\n".repeat(lines));
    fs::write(path, &octets).unwrap();
    scan_bytes(octets.as_bytes()).content
}

#[test]
fn file_of_another_size_is_damaged_at_the_opening() {
    let spool = TestSpool::new();
    let path = spool.scratch("m.eml");
    let content = canonical_file(&path, 10);
    let expected = content.file_size;
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    match ContentReader::open(&path, &content) {
        Err(OpenError::Damaged(damaged)) => assert_eq!(damaged, Damaged { expected, found: expected + 4 }),
        other => panic!("{other:?}"),
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(ContentReader::open(&path, &content), Err(OpenError::Missing)));
    let beyond = Content { cuts: vec![Cut { start: 0, end: expected + 1 }], ..content };
    fs::write(&path, vec![b'x'; usize::try_from(expected).unwrap()]).unwrap();
    assert!(matches!(ContentReader::open(&path, &beyond), Err(OpenError::Cuts { .. })));
}

#[test]
fn file_that_changes_under_the_reader_is_never_cut_silently() {
    let spool = TestSpool::new();
    let path = spool.scratch("m.eml");
    for canonical in [true, false] {
        for change in [-2000_i64, -1, 1, 2000] {
            let content = Content { canonical, ..canonical_file(&path, 50_000) };
            let mut reader = ContentReader::open(&path, &content).unwrap();
            let mut start = vec![0; 1000];
            reader.read_exact(&mut start).unwrap();
            let changed = content.file_size.checked_add_signed(change).unwrap();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(changed).unwrap();
            let mut rest = Vec::new();
            let error = reader.read_to_end(&mut rest).unwrap_err();
            assert_eq!(Damaged::within(&error), Some(&Damaged { expected: content.file_size, found: changed }));
            // A file that grew gives the error in place of its last octets, so that nobody takes them for the end.
            assert!(change < 0 || ((start.len() + rest.len()) as u64) < content.wire_size);
        }
    }
}

#[test]
fn hundred_megabytes_pass_in_blocks() {
    /// The most that one read asks for: what a scan holds.
    struct Watched<R>(R, usize);
    impl<R: Read> Read for Watched<R> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.1 = self.1.max(out.len());
            self.0.read(out)
        }
    }
    const SIZE: u64 = 100 * 1024 * 1024;
    let spool = TestSpool::new();
    let path = spool.scratch("big.eml");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"Subject: big\n\n").unwrap();
    // A hole: zeros without a line end, the worst case for whoever gathers lines.
    file.set_len(SIZE).unwrap();
    let mut watched = Watched(File::open(&path).unwrap(), 0);
    let content = scan_bytes(&mut watched).content;
    assert_eq!((content.file_size, watched.1), (SIZE, 64 * 1024));
    let mut reader = ContentReader::open(&path, &content).unwrap();
    let read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    assert_eq!((read, content.wire_size), (content.wire_size, SIZE + 4 + content.prepend.len() as u64));
}

#[test]
fn content_keeps_through_serde() {
    let content = scan_bytes(&b"Subject: x\nBcc: y@z\n\nbody"[..]).content;
    let json = serde_json::to_string(&content).unwrap();
    assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content);
}

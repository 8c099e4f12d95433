//! Canonical lines by a loop that looks at one octet after the other: what the faster ways of the package are held against.

use smtp_direct::clock::Timestamp;
use smtp_direct::message::{Content, Domain, ScanError, Scanned, Stamp, scan};

pub fn now() -> Timestamp {
    "2026-11-22T09:42:50Z".parse().unwrap()
}

pub fn scanned(octets: impl std::io::Read) -> Result<Scanned, ScanError> {
    let hostname = Domain::parse("mail.example.com").unwrap();
    scan(octets, &Stamp { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), hostname: &hostname, now: now() })
}

/// The lines of `octets`, each with its range.
pub fn lines(octets: &[u8]) -> Vec<(usize, usize, Vec<u8>)> {
    let (mut lines, mut text, mut start, mut at) = (Vec::new(), Vec::new(), 0, 0);
    while at < octets.len() {
        match octets[at] {
            b'\r' | b'\n' => {
                at += if octets[at..].starts_with(b"\r\n") { 2 } else { 1 };
                lines.push((start, at, std::mem::take(&mut text)));
                start = at;
            }
            octet => {
                text.push(octet);
                at += 1;
            }
        }
    }
    if !text.is_empty() {
        lines.push((start, at, text));
    }
    lines
}

/// The whole of a message as it is sent: every line that is not cut, ended by CRLF.
pub fn model(octets: &[u8], content: &Content) -> Vec<u8> {
    let mut wire = content.prepend.clone().into_bytes();
    for (start, end, text) in lines(octets) {
        let bom = content.cuts.first().is_some_and(|cut| cut.start == 0 && start == 0 && octets.starts_with(b"\xef\xbb\xbf"));
        if content.cuts.iter().any(|cut| cut.start <= start as u64 && end as u64 <= cut.end) {
            continue;
        }
        wire.extend_from_slice(if bom { &text[3..] } else { &text });
        // A byte order mark that is all there is makes no line.
        if !(bom && text.len() == 3 && end == octets.len() && octets.len() == 3) {
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire
}

/// Every line end is CRLF, and the last line has one.
#[track_caller]
pub fn assert_canonical(octets: &[u8]) {
    assert!(octets.ends_with(b"\r\n"), "the last line has no end: {}", octets.escape_ascii());
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            b'\r' => assert_eq!(octets.get(at + 1), Some(&b'\n'), "a bare CR at {at}: {}", octets.escape_ascii()),
            b'\n' => assert!(at > 0 && octets[at - 1] == b'\r', "a bare LF at {at}: {}", octets.escape_ascii()),
            _ => {}
        }
    }
}

/// Text that is shown on one line of a log, of a file with a reason, of a terminal.
#[track_caller]
pub fn assert_one_line(text: &str, most: usize) {
    assert!(text.len() <= most && !text.contains(char::is_control), "{} octets: {text:?}", text.len());
}

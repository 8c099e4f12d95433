//! Canonical content in the form of DATA: a receiver gets back what was sent, and no receiver, however it takes line ends, sees an end of
//! the content before the end (SMTP smuggling).

use smtp_direct::message::{ContentReader, MAX_HEADER};
use smtp_direct::smtp::dot::DotStuffer;

use super::canonical::{assert_canonical, scanned};
use super::content::{holds, read};
use super::scratch::Scratch;

/// The first two octets say how it is cut into blocks.
pub fn check(data: &[u8]) {
    if let Some((sizes, octets)) = data.split_at_checked(2)
        && octets.len() < MAX_HEADER
    {
        let sizes: Vec<usize> = sizes.iter().map(|size| 1 + usize::from(*size)).collect();
        stuffed(octets, &sizes, &[sizes[1], sizes[0]]);
    }
}

/// `octets` is a file, read in reads and stuffed in blocks of these sizes. Hands on what DATA carries.
pub fn stuffed(octets: &[u8], reads: &[usize], blocks: &[usize]) -> Vec<u8> {
    let content = scanned(octets).unwrap().content;
    let file = Scratch::new(octets);
    let sent = read(ContentReader::open(file.path(), &content).unwrap(), reads);
    let mut stuffer = DotStuffer::default();
    let mut wire = Vec::new();
    let (mut rest, mut blocks) = (&sent[..], blocks.iter().cycle());
    while !rest.is_empty() {
        let (block, after) = rest.split_at(rest.len().min(*blocks.next().unwrap()));
        stuffer.push(block, &mut wire);
        rest = after;
    }
    stuffer.finish(&mut wire);
    assert!(received(&wire) == sent, "a receiver gets something else: {}", wire.escape_ascii());
    assert_eq!(sent, holds(octets, &[4096]));
    wire
}

/// What a receiver takes from what DATA carries, by the letter of RFC 5321 4.5.2, having seen that there is one end for any receiver.
pub fn received(wire: &[u8]) -> Vec<u8> {
    assert_canonical(wire);
    // A dot between two line ends of any kind, or before one at the very start.
    let is_end = |octet: &u8| matches!(octet, b'\r' | b'\n');
    let lone = |three: &[u8]| is_end(&three[0]) && three[1] == b'.' && is_end(&three[2]);
    let ends = wire.windows(3).filter(|three| lone(three)).count() + usize::from(wire.starts_with(b".\r"));
    assert_eq!(ends, 1, "{}", wire.escape_ascii());
    let content = wire.strip_suffix(b".\r\n").expect("the end is the end");
    content.split_inclusive(|octet| *octet == b'\n').flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

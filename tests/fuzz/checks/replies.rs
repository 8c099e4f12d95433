//! SMTP replies: bounded, clean, the same however they arrive, and the same when a peer repeats them.

use smtp_direct::smtp::Reply;
use smtp_direct::smtp::parse::{BadReply, Input};

use super::canonical::assert_one_line;

/// Octets taken in without having been asked for.
const MOST_INPUT: usize = 256 * 1024;

/// Octets of a line's text that fit into a line.
const LONGEST: usize = 4 * 1024 - 6;

pub fn check(data: &[u8]) {
    let (replies, bad) = read(data, usize::MAX);
    for size in [1, 7, 100] {
        assert_eq!(read(data, size), (replies.clone(), bad.clone()), "pieces of {size} make a difference");
    }
    if let Some(bad) = bad {
        assert_one_line(&bad.to_string(), 500);
    }
    for reply in &replies {
        assert!((200..600).contains(&reply.code()));
        // What is kept, and an octet for each line beyond.
        assert!(reply.text().len() <= 5 * 1024, "{}", reply.text().len());
        assert!(!reply.text().contains(|c: char| c.is_control() && c != '\n'), "{:?}", reply.text());
        assert_one_line(&reply.to_string(), 4 + 512);
        if let Some(status) = reply.enhanced_status() {
            assert_eq!(u16::from(status.class), reply.code() / 100);
        }
        // What is no UTF-8 takes more octets when it is repeated than it took at first.
        if reply.lines().all(|line| line.len() <= LONGEST) {
            let again = read(written(reply).as_bytes(), usize::MAX);
            assert_eq!(again, (vec![Reply::new(reply.code(), trimmed(reply))], None));
        }
    }
}

/// Everything that is understood of `octets` when they arrive in pieces of this size, and what ended it.
pub fn read(octets: &[u8], size: usize) -> (Vec<Reply>, Option<BadReply>) {
    let mut input = Input::default();
    let (mut replies, mut rest) = (Vec::new(), octets);
    while !rest.is_empty() {
        let room = input.room();
        assert!(!room.is_empty() && room.len() <= MOST_INPUT);
        let count = room.len().min(rest.len()).min(size);
        room[..count].copy_from_slice(&rest[..count]);
        input.filled(count);
        rest = &rest[count..];
        loop {
            match input.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(bad) => return (replies, Some(bad)),
            }
        }
    }
    (replies, None)
}

/// As a peer sends it.
fn written(reply: &Reply) -> String {
    let lines: Vec<&str> = reply.lines().collect();
    let separator = |at| if at + 1 == lines.len() { ' ' } else { '-' };
    lines.iter().enumerate().map(|(at, line)| format!("{}{}{line}\r\n", reply.code(), separator(at))).collect()
}

/// Blanks at the ends of lines are not kept.
fn trimmed(reply: &Reply) -> String {
    reply.lines().map(|line| line.trim_end_matches([' ', '\t'])).collect::<Vec<_>>().join("\n")
}

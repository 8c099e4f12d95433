//! What a name in `drop/` means, and how it is shown.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What is done with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `*.eml`: one message.
    Message,
    /// Part of a message, or not finished: nothing is said of it.
    Quiet,
    /// Left alone, with one warning.
    Other,
}

/// Sorts names: dot files, `*.tmp` and `*.part` are ignored, sidecars wait for their `.eml`.
pub(super) fn classify(name: &OsStr) -> Class {
    let name = name.as_bytes();
    if name.starts_with(b".") || [&b".tmp"[..], b".part", b".json", b".toml"].iter().any(|end| name.ends_with(end)) {
        Class::Quiet
    } else if name.ends_with(b".eml") {
        Class::Message
    } else {
        Class::Other
    }
}

/// The name without `.eml`.
pub(super) fn stem(name: &OsStr) -> &OsStr {
    OsStr::from_bytes(name.as_bytes().strip_suffix(b".eml").unwrap_or(name.as_bytes()))
}

/// `stem` with `ending` behind it.
pub(super) fn with_ending(stem: &OsStr, ending: &str) -> OsString {
    let mut name = stem.as_bytes().to_vec();
    name.extend_from_slice(ending.as_bytes());
    OsString::from_vec(name)
}

/// For the log, reasons and the queue: what is no UTF-8 or a control character becomes U+FFFD.
pub(super) fn shown(name: &OsStr) -> String {
    name.to_string_lossy().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        for (name, class) in [
            ("a.eml", Class::Message),
            ("a b.c.eml", Class::Message),
            (".a.eml", Class::Quiet),
            (".eml", Class::Quiet),
            ("a.eml.tmp", Class::Quiet),
            ("a.part", Class::Quiet),
            ("a.json", Class::Quiet),
            ("a.toml", Class::Quiet),
            ("a.EML", Class::Other),
            ("a.txt", Class::Other),
            ("eml", Class::Other),
        ] {
            assert_eq!(classify(OsStr::new(name)), class, "{name}");
        }
    }

    #[test]
    fn names_of_any_octets_are_shown_on_one_line() {
        assert_eq!(shown(OsStr::from_bytes(b"a\nb\xff.eml")), "a\u{fffd}b\u{fffd}.eml");
        assert_eq!(with_ending(stem(OsStr::new("a.b.eml")), ".json"), "a.b.json");
    }
}

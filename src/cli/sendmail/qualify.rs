//! Takes the value of an address field, hands it on with this host's name behind every address that has no domain. Everything else stays as it is
//! written: names, comments, groups, folds, and what cannot be made sense of.

/// The value with `@host` behind each lone local part.
pub(super) fn qualify(value: &[u8], host: &str) -> Vec<u8> {
    let mut walk = Walk { value, at: 0, out: Vec::with_capacity(value.len()), host, words: 0, word_end: 0, plain: true };
    while walk.at < value.len() {
        walk.step();
    }
    walk.end_mailbox();
    walk.out
}

struct Walk<'a> {
    value: &'a [u8],
    at: usize,
    out: Vec<u8>,
    host: &'a str,
    /// Of the mailbox under way: atoms and quoted strings so far.
    words: u32,
    /// Where the last of them ended in `out`.
    word_end: usize,
    /// Whether neither `@` nor an angle bracket was seen: it may be a lone local part.
    plain: bool,
}

impl Walk<'_> {
    fn step(&mut self) {
        match self.value[self.at] {
            b'(' => {
                let end = self.comment();
                self.copy_to(end);
            }
            b'"' => {
                let end = self.quoted(self.at);
                self.copy_to(end);
                self.word();
            }
            b'<' => self.angle(),
            b'[' => {
                let end = self.find(b']', self.at);
                self.copy_to(end);
            }
            b',' | b';' => {
                self.end_mailbox();
                self.copy_to(self.at + 1);
            }
            // The name of a group ends.
            b':' => {
                self.copy_to(self.at + 1);
                (self.words, self.plain) = (0, true);
            }
            b'@' => {
                self.plain = false;
                self.copy_to(self.at + 1);
            }
            b' ' | b'\t' | b'\r' | b'\n' => self.copy_to(self.at + 1),
            _ => {
                let rest = &self.value[self.at..];
                let length = rest.iter().position(|octet| b"()<>[],;:@\" \t\r\n".contains(octet)).unwrap_or(rest.len()).max(1);
                // The name of somebody whose address was forgotten.
                self.plain &= !rest.starts_with(b"=?");
                self.copy_to(self.at + length);
                self.word();
            }
        }
    }

    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.value[self.at..end]);
        self.at = end;
    }

    fn word(&mut self) {
        self.words += 1;
        self.word_end = self.out.len();
    }

    fn end_mailbox(&mut self) {
        if self.plain && self.words == 1 {
            let rest = self.out.split_off(self.word_end);
            self.out.push(b'@');
            self.out.extend_from_slice(self.host.as_bytes());
            self.out.extend_from_slice(&rest);
        }
        (self.words, self.plain) = (0, true);
    }

    /// `<…>`: what stands in it is an address, or nothing.
    fn angle(&mut self) {
        self.plain = false;
        let (mut end, mut has_domain) = (self.at + 1, false);
        while end < self.value.len() && self.value[end] != b'>' {
            has_domain |= self.value[end] == b'@';
            end = if self.value[end] == b'"' { self.quoted(end) } else { end + 1 };
        }
        let inner = &self.value[self.at + 1..end];
        let length = inner.len() - inner.iter().rev().take_while(|octet| octet.is_ascii_whitespace()).count();
        let closed = end < self.value.len();
        self.copy_to(self.at + 1 + length);
        if closed && length > 0 && !has_domain {
            self.out.push(b'@');
            self.out.extend_from_slice(self.host.as_bytes());
        }
        self.copy_to(if closed { end + 1 } else { end });
    }

    /// Where the quoted string that begins at `start` ends.
    fn quoted(&self, start: usize) -> usize {
        let mut at = start + 1;
        while at < self.value.len() {
            match self.value[at] {
                b'\\' => at += 2,
                b'"' => return at + 1,
                _ => at += 1,
            }
        }
        self.value.len()
    }

    /// Where the comment that begins here ends; comments nest.
    fn comment(&self) -> usize {
        let (mut at, mut depth) = (self.at, 0_u32);
        while at < self.value.len() {
            match self.value[at] {
                b'\\' => at += 1,
                b'(' => depth += 1,
                b')' if depth == 1 => return at + 1,
                b')' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        self.value.len()
    }

    fn find(&self, octet: u8, start: usize) -> usize {
        self.value[start..].iter().position(|found| *found == octet).map_or(self.value.len(), |at| start + at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lone_local_parts_get_a_domain() {
        for (value, expected) in [
            (" root\r\n", " root@h.test\r\n"),
            (" root (Cron Daemon)\r\n", " root@h.test (Cron Daemon)\r\n"),
            (" (who) root, joe@x,\r\n\tann\r\n", " (who) root@h.test, joe@x,\r\n\tann@h.test\r\n"),
            ("Joe <joe>, \"Q, R\" <q@x>, <>", "Joe <joe@h.test>, \"Q, R\" <q@x>, <>"),
            ("\"odd one\", <\"a@b\">, <\"a@b\"@x>", "\"odd one\"@h.test, <\"a@b\"@h.test>, <\"a@b\"@x>"),
            ("Friends: a, b@x; , undisclosed-recipients:;", "Friends: a@h.test, b@x; , undisclosed-recipients:;"),
            ("<@relay:a@x>, a@[192.0.2.1], a @ x", "<@relay:a@x>, a@[192.0.2.1], a @ x"),
            // What cannot be made sense of is for others to judge.
            ("John Doe, =?utf-8?q?J?=", "John Doe, =?utf-8?q?J?="),
            ("a (open, b", "a@h.test (open, b"),
            ("<joe", "<joe"),
            ("\"open, b", "\"open, b@h.test"),
            ("", ""),
            (",,;:<>", ",,;:<>"),
        ] {
            assert_eq!(String::from_utf8(qualify(value.as_bytes(), "h.test")).unwrap(), expected, "{value:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_kept(value: Vec<u8>) {
            let found = qualify(&value, "h");
            let mut rest = found.iter();
            proptest::prop_assert!(value.iter().all(|octet| rest.any(|other| other == octet)));
        }

        #[test]
        fn a_qualified_value_stays_as_it_is(value in "[a-c@<>(),:; \"\\\\.]{0,20}") {
            let once = qualify(value.as_bytes(), "h.test");
            // Unbalanced quotes may read otherwise with a name behind them; closed ones must not.
            if !value.contains(['"', '\\', '(', ')']) {
                proptest::prop_assert_eq!(qualify(&once, "h.test"), once.clone());
            }
        }
    }
}

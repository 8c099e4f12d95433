//! Hands on the messages of a run: the same octets for everyone, each with a number that the sink looks for.

use smtp_direct::message::Domain;

/// Before the number, in the header.
pub const MARK: &[u8] = b"X-Bench-Id: ";
/// The envelope sender of all of them.
pub const SENDER: &str = "sender@bench.test";

/// `count` messages of about `size` octets, one recipient each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letters {
    /// How many; their numbers are `0..count`.
    pub count: usize,
    /// Octets of each, header included.
    pub size: usize,
    /// Domains that the recipients are spread over, one after the other.
    pub domains: usize,
    /// Mail servers that the domains are spread over.
    pub sites: usize,
}

impl Letters {
    /// 2 KB, as most mail without attachments is; one mail server.
    pub fn small(count: usize, domains: usize) -> Self {
        Self { count, size: 2048, domains, sites: 1 }
    }

    /// The recipient of message `n`. The site is part of the domain, so that one pattern names all domains of a site.
    pub fn recipient(&self, n: usize) -> String {
        let domain = n % self.domains;
        format!("user{n}@d{domain}.s{}.test", domain % self.sites)
    }

    /// Message `n`: lines of 78 octets, CRLF, no dot at the start of any.
    pub fn content(&self, n: usize) -> Vec<u8> {
        const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog, and the dog lets it happen again.\r\n";
        let to = self.recipient(n);
        let mut content = format!(
            "X-Bench-Id: {n}\r\nFrom: {SENDER}\r\nTo: {to}\r\nSubject: Message {n}\r\nDate: Mon, 1 Jan 2024 12:00:00 +0000\r\n\
             Message-ID: <{n}@bench.test>\r\n\r\n"
        )
        .into_bytes();
        content.reserve(self.size.saturating_sub(content.len()));
        while content.len() + LINE.len() <= self.size {
            content.extend_from_slice(LINE);
        }
        let rest = self.size.saturating_sub(content.len());
        if rest > 2 {
            content.extend_from_slice(&LINE[..rest - 2]);
            content.extend_from_slice(b"\r\n");
        }
        content
    }
}

/// The name that the daemon and the peers give themselves.
pub fn hostname() -> Domain {
    Domain::parse("mail.bench.test").unwrap()
}

//! Replies as peers send them: parsed from bytes, tolerant where RFC 5321 4.2 is strict and peers are not, bounded always.

use std::fmt;
use std::sync::Arc;

use crate::outcome::EnhancedStatus;

/// One reply, perhaps of several lines. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// Lines without code and separator, cleaned of control characters, joined by '\n'.
    text: Arc<str>,
}

impl Reply {
    /// From a code and cleaned text (lines joined by '\n'): how the store gives back what it kept.
    pub fn new(code: u16, text: impl Into<Arc<str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// 200–599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The lines without code and separator, joined by '\n'; no other control characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// Whether the peer takes no more recipients in this transaction (RFC 5321 4.5.3.1.10, RFC 3463 X.5.3): the rest fit into another one.
    pub fn is_too_many_recipients(&self) -> bool {
        match self.enhanced_status() {
            Some(status) => (status.subject, status.detail) == (5, 3),
            // 452 alone is what RFC 5321 calls "too many recipients" (and "insufficient storage": then the next transaction says so).
            // Other codes come with these words from servers that know no enhanced codes.
            None => self.code == 452 || (self.code >= 400 && self.text.to_ascii_lowercase().contains("too many recipients")),
        }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// The code at the start of the text (RFC 2034), if its class is that of the reply.
    pub fn enhanced_status(&self) -> Option<EnhancedStatus> {
        let word = self.text.split([' ', '\n']).next()?;
        word.parse::<EnhancedStatus>().ok().filter(|status| u16::from(status.class) == self.code / 100)
    }
}

/// One line: the code and the lines, joined by spaces, cut at 512 octets.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        super::shown(&self.text).split('\n').try_for_each(|line| write!(f, " {line}"))
    }
}

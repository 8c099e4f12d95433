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
        const SHOWN: usize = 512;
        let text = self.text.replace('\n', " ");
        let end = (0..=text.len().min(SHOWN)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        write!(f, "{} {}", self.code, &text[..end])
    }
}

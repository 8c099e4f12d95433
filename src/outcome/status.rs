//! Enhanced status codes (RFC 3463).

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// `class.subject.detail`: class 2, 4 or 5; subject and detail 0 to 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient, 5 permanent.
    pub class: u8,
    /// What it is about: address, mailbox, system, network, protocol, content, policy.
    pub subject: u16,
    /// What about it.
    pub detail: u16,
}

impl EnhancedStatus {
    /// From its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = itoa::Buffer::new();
        f.write_str(number.format(self.class))?;
        [self.subject, self.detail].into_iter().try_for_each(|part| {
            f.write_char('.')?;
            f.write_str(number.format(part))
        })
    }
}

impl FromStr for EnhancedStatus {
    type Err = ();

    /// Digits and dots only, nothing around them.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| -> Result<u16, ()> {
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                Err(())
            } else {
                part.parse().map_err(|_| ())
            }
        };
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(()).and_then(number);
        let (class, subject, detail) = (next()?, next()?, next()?);
        match (class, parts.next()) {
            (2 | 4 | 5, None) => Ok(Self { class: class as u8, subject, detail }),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_codes_parse() {
        assert_eq!("5.7.1".parse(), Ok(EnhancedStatus::new(5, 7, 1)));
        assert_eq!("4.3.999".parse(), Ok(EnhancedStatus::new(4, 3, 999)));
        for bad in ["", "5", "5.7", "5.7.1.1", "3.0.0", "5.7.1000", "5.+7.1", "5..1", " 5.7.1", "5.7.x"] {
            assert_eq!(bad.parse::<EnhancedStatus>(), Err(()), "{bad:?}");
        }
    }
}

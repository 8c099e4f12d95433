//! Addresses: the local part untouched, the domain as a [`Domain`].

use std::fmt::{self, Write as _};

use thiserror::Error;

use super::domain::shorten;
use super::{Domain, DomainError};

/// Octets that a path may have on the wire (RFC 5321 4.5.3.1.3), less the angle brackets.
const MAX_ADDRESS: usize = 254;

/// A mailbox as SMTP carries it: `local@domain`. The local part is what its writer wrote (quotes kept), at most
/// 254 octets together: VERP, SRS and BATV senders go beyond the 64 octets of RFC 5321 4.5.3.1.1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: Box<str>,
    domain: Domain,
}

/// The envelope sender: an address, or the null sender `<>` of reports (RFC 5321 4.5.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: no report is ever sent to it.
    Null,
    /// Where reports go.
    Address(Address),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// CR, LF, NUL or another control character: an attempt at command injection, or a broken program.
    #[error("{0:?} contains a control character")]
    Control(String),
    /// No `@`.
    #[error("{0:?} has no domain: write local@domain")]
    NoDomain(String),
    /// Empty, or a character that needs quotes.
    #[error("{0:?}: the part before the @ is not valid")]
    Local(String),
    /// Over 254 octets.
    #[error("{0:?} is longer than 254 octets")]
    TooLong(String),
    /// The part after the `@`.
    #[error("{address:?}: {source}")]
    Domain {
        /// The whole address, cut.
        address: String,
        /// What is wrong with its domain.
        source: DomainError,
    },
}

impl Address {
    /// Reads `local@domain`, without angle brackets or display name.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.chars().any(char::is_control) {
            return Err(AddressError::Control(shorten(text)));
        }
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| AddressError::NoDomain(shorten(text)))?;
        if !valid_local(local) {
            return Err(AddressError::Local(shorten(text)));
        }
        let domain = Domain::parse(domain).map_err(|source| AddressError::Domain { address: shorten(text), source })?;
        if local.len() + 1 + domain.as_str().len() > MAX_ADDRESS {
            return Err(AddressError::TooLong(shorten(text)));
        }
        Ok(Self { local: local.into(), domain })
    }

    /// The part before the last `@`, as written.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after it.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether the wire form has octets beyond ASCII, so that the peer must offer SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// Dot-string or quoted-string of RFC 5321 4.1.2 with RFC 6531's UTF-8; odd dots are let through, as they exist and work.
fn valid_local(local: &str) -> bool {
    if let Some(inner) = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) {
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => return false,
                '\\' if chars.next().is_none() => return false,
                _ => {}
            }
        }
        return true;
    }
    !local.is_empty() && local.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c))
}

impl ReversePath {
    /// Reads an address; the empty text and `<>` are the null sender.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match text {
            "" | "<>" => Ok(Self::Null),
            address => Address::parse(address).map(Self::Address),
        }
    }

    /// The address, where there is one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.local)?;
        f.write_char('@')?;
        f.write_str(self.domain.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The address, or nothing for the null sender: what stands between the angle brackets of MAIL FROM.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().map_or(Ok(()), |address| address.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_part_is_untouched_and_domain_canonical() {
        let address = Address::parse("Jürgen.O'Neil@BÜCHER.example").unwrap();
        assert_eq!(address.to_string(), "Jürgen.O'Neil@xn--bcher-kva.example");
        assert!(address.needs_smtputf8());
        assert!(!Address::parse("a@bücher.example").unwrap().needs_smtputf8());
    }

    #[test]
    fn odd_but_real_addresses_pass() {
        let srs = format!("SRS0=abcd=XY=example.org={}@relay.example", "x".repeat(90));
        for good in [srs.as_str(), "\"a b@c\"@example.com", ".dot.@example.com", "a@[192.0.2.1]", "user+tag@example.com", "a@localhost"] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn injection_and_nonsense_are_refused() {
        for bad in ["a@x\r\nRCPT TO:<b@y>", "a\n@x", "a\0@x", "", "a", "@x", "a b@x", "a<b@x", "a@", "a>@x", "\"a\"b\"@x", "\"a\\\"@x"] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(Address::parse(&format!("{}@example.com", "a".repeat(250))), Err(AddressError::TooLong(_))));
    }

    #[test]
    fn null_sender_has_two_spellings() {
        assert_eq!(ReversePath::parse("").unwrap(), ReversePath::Null);
        assert_eq!(ReversePath::parse("<>").unwrap(), ReversePath::Null);
        assert_eq!(ReversePath::Null.to_string(), "");
    }
}

//! Domains as the key of grouping and DNS: lower-cased A-labels, or an address literal.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use thiserror::Error;

/// A lower-cased domain name in A-labels without a final dot, at most 253 octets, or an address literal such as
/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3). Equal domains compare equal, whatever their case or script was.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

/// Octets of a name, and of a label in it (RFC 1035 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a text is no domain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DomainError {
    /// Nothing there.
    #[error("the domain is empty")]
    Empty,
    /// More than 253 octets as A-labels, or a label over 63.
    #[error("the domain is too long (at most 253 octets, 63 a label)")]
    TooLong,
    /// A character or label that no host name has.
    #[error("{0:?} is not a domain name")]
    Invalid(String),
    /// Brackets around something that is no IP address.
    #[error("{0:?} is not an address literal: write [192.0.2.1] or [IPv6:2001:db8::1]")]
    Literal(String),
}

impl Domain {
    /// Reads a domain in any case and script, with or without a final dot, or an address literal in brackets.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.starts_with('[') {
            return parse_literal(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(DomainError::Empty);
        }
        if is_canonical(name.as_bytes()) {
            return Ok(Self(name.into()));
        }
        let ascii = if name.is_ascii() && name.contains('_') {
            // Underscores are no host names, yet mail is addressed to such domains and DNS answers for them.
            name.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(name).map_err(|_| DomainError::Invalid(shorten(text)))?
        };
        if ascii.len() > MAX_NAME || ascii.split('.').any(|label| label.len() > MAX_LABEL) {
            return Err(DomainError::TooLong);
        }
        let valid_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if ascii.split('.').all(valid_label) { Ok(Self(ascii.into())) } else { Err(DomainError::Invalid(shorten(text))) }
    }

    /// The name, or the literal with its brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, where this is an address literal.
    pub fn literal(&self) -> Option<IpAddr> {
        let inner = self.0.strip_prefix('[')?.strip_suffix(']')?;
        match inner.strip_prefix("IPv6:") {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }
}

/// Whether nothing needs to be done to a name, as with nearly all: lower-case labels of letters, digits and hyphens, none of them an
/// A-label, which might be a wrong one.
fn is_canonical(name: &[u8]) -> bool {
    let mut label = 0;
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => label += 1,
            b'-' if label == 3 && name[at - 3..].starts_with(b"xn--") => return false,
            b'-' => label += 1,
            b'.' if label > 0 && label <= MAX_LABEL => label = 0,
            _ => return false,
        }
    }
    (1..=MAX_LABEL).contains(&label) && name.len() <= MAX_NAME
}

fn parse_literal(text: &str) -> Result<Domain, DomainError> {
    let error = || DomainError::Literal(shorten(text));
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(error)?;
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).and_then(|_| inner.get(5..));
    let canonical = match v6 {
        Some(v6) => format!("[IPv6:{}]", v6.parse::<Ipv6Addr>().map_err(|_| error())?),
        None => format!("[{}]", inner.parse::<Ipv4Addr>().map_err(|_| error())?),
    };
    Ok(Domain(canonical.into()))
}

/// Input that goes into an error text, cut so that a hostile line does not fill the log.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 100;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_script_and_final_dot_make_no_difference() {
        let expected = Domain::parse("xn--bcher-kva.example").unwrap();
        for same in ["bücher.example", "BÜCHER.Example", "xn--bcher-kva.EXAMPLE.", "XN--BCHER-KVA.example"] {
            assert_eq!(Domain::parse(same).unwrap(), expected, "{same}");
        }
    }

    #[test]
    fn literals_are_canonical() {
        assert_eq!(Domain::parse("[ipv6:2001:DB8:0::1]").unwrap().as_str(), "[IPv6:2001:db8::1]");
        assert_eq!(Domain::parse("[192.0.2.1]").unwrap().literal(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(Domain::parse("192.0.2.1").unwrap().literal(), None);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for bad in ["", ".", "a..b", "a b", "a\r\nb", "[1.2.3]", "[", "x/y", "ex ample.com", "a\0b", ".a"] {
            assert!(Domain::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Domain::parse(&format!("{}.com", "a".repeat(64))), Err(DomainError::TooLong));
        assert_eq!(Domain::parse(&format!("com.{}", "a".repeat(64))), Err(DomainError::TooLong));
        assert_eq!(Domain::parse(&["a"; 128].join(".")), Err(DomainError::TooLong));
        assert!(Domain::parse(&["a"; 127].join(".")).is_ok() && Domain::parse(&format!("{}.com", "a".repeat(63))).is_ok());
        assert!(Domain::parse("xn--.example").is_err() && Domain::parse("a.xn--99999999.example").is_err());
    }
}

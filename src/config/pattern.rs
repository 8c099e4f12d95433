//! Patterns of overrides and searches: text with `*` in, whether it matches out, in time linear in the text.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::message::{Address, Domain, DomainError};

/// Octets of a pattern: an address of 254, and room for wildcards.
const MAX_PATTERN: usize = 320;
/// The null sender (RFC 5321 4.5.5), which is displayed as the empty text.
const NULL: &str = "<>";

/// A text with `*` for any text (the empty one too), compared without regard to case. Domain parts are in A-labels.
/// `<>` is the null sender.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing there.
    #[error("must not be empty; \"*\" matches everything")]
    Empty,
    /// A control character, which nothing matches.
    #[error("must not contain control characters")]
    Control,
    /// Over 320 octets.
    #[error("must not be longer than {MAX_PATTERN} octets")]
    TooLong,
    /// An address where a domain is wanted.
    #[error("must be a domain, not an address; addresses go into recipient or sender")]
    IsAddress,
    /// `.example.com`.
    #[error("must not begin with a dot; write \"*.example.com\" for everything below example.com")]
    LeadingDot,
    /// `bü*.example`: what stands for it as A-label depends on the rest.
    #[error("must not have \"*\" beside letters beyond ASCII; write \"*\" alone between the dots, or the xn-- form")]
    MixedLabel,
    /// `<>` where there is no null.
    #[error("must be an address; \"<>\" is for sender only")]
    NullAddress,
    /// No `@`, so that no address could match.
    #[error("must have an @, as \"*@example.com\", or be \"*\"")]
    NoDomain,
    /// The part before the `@`.
    #[error("must be local@domain; the part before the @ is not valid")]
    Local,
    /// A domain that cannot be one.
    #[error("{0}")]
    Domain(DomainError),
}

impl Pattern {
    /// Free text, such as a tag.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        checked(text).map(|text| Self(fold(text).into_owned()))
    }

    /// A domain in any script, or an address literal; wildcards stay: `*.bücher.example` is `*.xn--bcher-kva.example`.
    pub fn parse_domain(text: &str) -> Result<Self, PatternError> {
        let text = checked(text)?;
        if text.contains('@') {
            return Err(PatternError::IsAddress);
        }
        domain(text).map(Self)
    }

    /// `local@domain` with wildcards in either, or `*`.
    pub fn parse_address(text: &str) -> Result<Self, PatternError> {
        match checked(text)? {
            "*" => return Ok(Self("*".to_owned())),
            NULL => return Err(PatternError::NullAddress),
            _ => {}
        }
        let (local, name) = text.rsplit_once('@').ok_or(PatternError::NoDomain)?;
        // "*" is a letter of local parts (RFC 5322 3.2.3), so that the check of addresses does.
        Address::parse(&format!("{local}@x.example")).map_err(|_| PatternError::Local)?;
        Ok(Self(format!("{}@{}", fold(local), domain(name)?)))
    }

    /// As [`parse_address`](Self::parse_address), or `<>` for the null sender. `*` matches that too.
    pub fn parse_sender(text: &str) -> Result<Self, PatternError> {
        if text == NULL { Ok(Self(NULL.to_owned())) } else { Self::parse_address(text) }
    }

    /// Whether all of `text` matches. Domains and addresses are compared as their `Display` has them.
    pub fn matches(&self, text: &str) -> bool {
        if self.0 == NULL {
            return text.is_empty() || text == NULL;
        }
        let text = fold(text);
        let mut parts = self.0.split('*');
        let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        let Some(mut rest) = rest.strip_suffix(last) else { return false };
        // Leftmost is enough: it leaves the most to what follows.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    /// Whether everything that `other` matches, this matches too; may miss some.
    pub(super) fn covers(&self, other: &Self) -> bool {
        // A star of `other` can only be swallowed by a star of ours, and that swallows whatever it stands for as well.
        self == other || (other.0 == NULL && self.matches("")) || (other.0 != NULL && self.0 != NULL && self.matches(&other.0))
    }

    /// In lower case and A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn checked(text: &str) -> Result<&str, PatternError> {
    match text {
        "" => Err(PatternError::Empty),
        _ if text.len() > MAX_PATTERN => Err(PatternError::TooLong),
        _ if text.chars().any(char::is_control) => Err(PatternError::Control),
        _ => Ok(text),
    }
}

/// Lower case, character by character, so that a piece folds as it does within the whole.
fn fold(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().flat_map(char::to_lowercase).collect())
    }
}

/// A domain with wildcards, in lower-cased A-labels without a final dot.
fn domain(text: &str) -> Result<String, PatternError> {
    let invalid = || PatternError::Domain(DomainError::Invalid(text.to_owned()));
    if !text.contains('*') {
        if text.len() > 1 && text.starts_with('.') {
            return Err(PatternError::LeadingDot);
        }
        return Domain::parse(text).map(|domain| fold(domain.as_str()).into_owned()).map_err(PatternError::Domain);
    }
    if text.starts_with('[') {
        let valid = |c: char| c.is_ascii_hexdigit() || "[]*.:IPVipv".contains(c);
        return if text.chars().all(valid) && text.ends_with([']', '*']) { Ok(fold(text).into_owned()) } else { Err(invalid()) };
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.starts_with('.') {
        return Err(PatternError::LeadingDot);
    }
    let label = |label: &str| {
        if !label.contains('*') {
            Domain::parse(label).map(|label| label.as_str().to_owned()).map_err(PatternError::Domain)
        } else if !label.is_ascii() {
            Err(PatternError::MixedLabel)
        } else if label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b)) {
            Ok(label.to_ascii_lowercase())
        } else {
            Err(invalid())
        }
    };
    Ok(name.split('.').map(label).collect::<Result<Vec<_>, _>>()?.join("."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `matches` means, written to be obviously right and slow.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skipped| naive(rest, &text[skipped..])),
            Some((c, rest)) => text.split_first().is_some_and(|(first, left)| first == c && naive(rest, left)),
        }
    }

    fn folded(text: &str) -> Vec<char> {
        text.chars().flat_map(char::to_lowercase).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(pattern in "[abAB*ßİ]{1,8}", text in "[abABßİ*]{0,12}") {
            let parsed = Pattern::parse(&pattern).unwrap();
            prop_assert_eq!(parsed.matches(&text), naive(&folded(&pattern), &folded(&text)), "{:?} on {:?}", pattern, text);
        }

        #[test]
        fn covering_is_sound(wide in "[ab*]{1,4}", narrow in "[ab*]{1,5}", text in "[ab]{0,6}") {
            let (wide, narrow) = (Pattern::parse(&wide).unwrap(), Pattern::parse(&narrow).unwrap());
            if wide.covers(&narrow) && narrow.matches(&text) {
                prop_assert!(wide.matches(&text), "{:?} covers {:?}, not on {:?}", wide, narrow, text);
            }
        }

        #[test]
        fn canonical_form_parses_to_itself(text in "[a-zB*]{1,6}(\\.[a-zü*]{1,5}){0,2}", local in "[a-zB*.]{1,6}") {
            if let Ok(pattern) = Pattern::parse_domain(&text) {
                prop_assert_eq!(Pattern::parse_domain(pattern.as_str()), Ok(pattern));
            }
            if let Ok(pattern) = Pattern::parse_sender(&format!("{local}@{text}")) {
                prop_assert_eq!(Pattern::parse_sender(pattern.as_str()), Ok(pattern));
            }
        }

        #[test]
        fn no_text_makes_it_panic(pattern in "\\PC{0,40}", text in "\\PC{0,40}") {
            for parsed in [Pattern::parse(&pattern), Pattern::parse_domain(&pattern), Pattern::parse_sender(&pattern)].into_iter().flatten() {
                parsed.matches(&text);
            }
        }
    }

    #[test]
    fn domains_match_in_any_case_and_script() {
        let pattern = Pattern::parse_domain("*.BÜCHER.example.").unwrap();
        assert_eq!(pattern.as_str(), "*.xn--bcher-kva.example");
        assert!(pattern.matches(Domain::parse("shop.bücher.EXAMPLE").unwrap().as_str()));
        assert!(!pattern.matches("xn--bcher-kva.example"));
        let literal = Pattern::parse_domain("[IPv6:2001:DB8::1]").unwrap();
        assert!(literal.matches(Domain::parse("[ipv6:2001:db8:0::1]").unwrap().as_str()));
        assert!(Pattern::parse_domain("[192.0.2.*]").unwrap().matches("[192.0.2.7]"));
    }

    #[test]
    fn addresses_match_in_any_case() {
        let pattern = Pattern::parse_address("Jürgen*@*.bücher.example").unwrap();
        assert!(pattern.matches(&Address::parse("jÜrgen+x@a.bücher.example").unwrap().to_string()));
        assert!(!pattern.matches("jürgen@example"));
        assert!(Pattern::parse_address("*").unwrap().matches("a@example.com"));
        assert!(Pattern::parse_address("\"a b\"@*").unwrap().matches("\"a b\"@example.com"));
    }

    #[test]
    fn the_null_sender_has_its_own_pattern_and_falls_under_the_star() {
        let null = Pattern::parse_sender("<>").unwrap();
        assert!(null.matches("") && null.matches("<>") && !null.matches("a@example.com"));
        assert!(Pattern::parse_sender("*").unwrap().matches(""));
        assert!(!Pattern::parse_sender("*@*").unwrap().matches(""));
        assert_eq!(Pattern::parse_address("<>"), Err(PatternError::NullAddress));
        assert!(Pattern::parse_sender("*").unwrap().covers(&null) && !Pattern::parse_sender("*@*").unwrap().covers(&null));
    }

    #[test]
    fn nonsense_is_refused() {
        use PatternError as E;
        for (text, error) in [
            ("", E::Empty),
            ("a\nb", E::Control),
            ("joe@example.com", E::IsAddress),
            (".example.com", E::LeadingDot),
            (".*.com", E::LeadingDot),
            ("bü*.example", E::MixedLabel),
            (".", E::Domain(DomainError::Empty)),
            ("*..com", E::Domain(DomainError::Empty)),
        ] {
            assert_eq!(Pattern::parse_domain(text), Err(error), "{text:?}");
        }
        for text in ["a b", "*.a b", "*/x", "[192.0.2.1", "[x*]", "*.a(b"] {
            assert!(matches!(Pattern::parse_domain(text), Err(E::Domain(_))), "{text:?}");
        }
        assert_eq!(Pattern::parse_address("joe"), Err(E::NoDomain));
        assert_eq!(Pattern::parse_address("*example.com"), Err(E::NoDomain));
        assert!(matches!(Pattern::parse_address("a b@example.com"), Err(E::Local)));
        assert!(matches!(Pattern::parse_address("@example.com"), Err(E::Local)));
        assert!(matches!(Pattern::parse_address("a@"), Err(E::Domain(_))));
        assert_eq!(Pattern::parse(&"x".repeat(321)), Err(E::TooLong));
    }

    /// A matcher that goes back over the text at each star needs hours here.
    #[test]
    fn many_stars_on_a_long_text_take_no_time() {
        let pattern = Pattern::parse(&format!("{}b", "*a".repeat(150))).unwrap();
        assert!(!pattern.matches(&"a".repeat(1 << 20)));
    }
}

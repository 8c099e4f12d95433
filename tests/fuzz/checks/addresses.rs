//! Addresses and domains: what is accepted goes into a command line as it is, and reads as itself.

use smtp_direct::message::{Address, Domain, Envelope, ReversePath};

use super::canonical::assert_one_line;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Address::parse(&text) {
        Ok(address) => {
            assert_address(&address);
            assert!(text.starts_with(address.local()) && text[address.local().len()..].starts_with('@'), "the local part was touched");
            assert_eq!(ReversePath::parse(&text), Ok(ReversePath::Address(address)));
        }
        Err(error) => assert_one_line(&error.to_string(), 2_000),
    }
    if let Ok(path) = ReversePath::parse(&text) {
        assert_eq!(ReversePath::parse(&path.to_string()), Ok(path));
    }
    check_domain(&text);
}

fn check_domain(text: &str) {
    let found = Domain::parse(text);
    match &found {
        Ok(domain) => assert_domain(domain),
        Err(error) => assert_one_line(&error.to_string(), 2_000),
    }
    // Case and a final dot say nothing.
    assert_eq!(Domain::parse(&text.to_ascii_uppercase()).ok(), found.clone().ok());
    assert_eq!(Domain::parse(&text.to_ascii_lowercase()).ok(), found.clone().ok());
    if let Ok(domain) = found
        && domain.literal().is_none()
        && !text.ends_with('.')
    {
        assert_eq!(Domain::parse(&format!("{text}.")), Ok(domain));
    }
}

#[track_caller]
pub fn assert_domain(domain: &Domain) {
    let name = domain.as_str();
    assert_eq!(Domain::parse(name).as_ref(), Ok(domain));
    if name.starts_with('[') {
        assert!(domain.literal().is_some(), "{name}");
    } else {
        assert!(name.len() <= 253 && domain.literal().is_none(), "{name}");
        let fits = |label: &str| (1..=63).contains(&label.len());
        assert!(name.split('.').all(fits), "{name}");
        assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')), "{name}");
    }
}

#[track_caller]
pub fn assert_address(address: &Address) {
    let text = address.to_string();
    assert_one_line(&text, 254);
    assert_eq!(Address::parse(&text).as_ref(), Ok(address));
    assert_domain(address.domain());
    // Between angle brackets, nothing ends the path but the bracket behind it.
    let local = address.local();
    assert!(
        local.starts_with('"') && local.ends_with('"') || !local.contains(['<', '>', ' ', '"', '(', ')', ',', ';', ':', '@', '\\']),
        "{text}"
    );
    assert_eq!(address.needs_smtputf8(), !text.is_ascii());
}

/// What every source of envelopes owes.
#[track_caller]
pub fn assert_envelope(envelope: &Envelope) {
    if let Some(address) = envelope.sender.address() {
        assert_address(address);
    }
    envelope.recipients.iter().for_each(|recipient| assert_address(&recipient.address));
}

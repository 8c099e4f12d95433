//! An envelope from a header: its addresses are addresses, its errors fit on a line, and the kind of line ends makes no difference.

use smtp_direct::message::{Envelope, Header, MAX_HEADER};
use smtp_direct::spool::envelope::from_header;

use super::addresses::assert_envelope;
use super::canonical::{assert_one_line, scanned};

pub fn check(data: &[u8]) {
    if data.len() >= MAX_HEADER {
        return;
    }
    let scanned_header = |octets: &[u8]| scanned(octets).unwrap().header;
    let found = envelope(&scanned_header(data));
    match &found {
        Ok(envelope) => {
            assert_envelope(envelope);
            assert!(!envelope.recipients.is_empty());
            let addresses: std::collections::HashSet<_> = envelope.recipients.iter().map(|recipient| &recipient.address).collect();
            assert_eq!(addresses.len(), envelope.recipients.len(), "somebody is there twice");
        }
        Err(text) => assert_one_line(text, 1_000),
    }
    if !data.contains(&b'\r') {
        for end in [&b"\r\n"[..], b"\r"] {
            let lines: Vec<&[u8]> = data.split(|octet| *octet == b'\n').collect();
            assert_eq!(envelope(&scanned_header(&lines.join(end))), found, "line ends make a difference");
        }
    }
}

fn envelope(header: &Header) -> Result<Envelope, String> {
    from_header(header).map_err(|error| error.to_string())
}

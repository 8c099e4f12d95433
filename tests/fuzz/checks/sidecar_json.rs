//! lettre's sidecar: what is accepted has addresses only, and reads the same when it is written again.

use smtp_direct::message::Address;
use smtp_direct::spool::envelope::checked;
use smtp_direct::spool::sidecar::{Format, parse};

use super::addresses::assert_envelope;
use super::canonical::now;

pub fn check(data: &[u8]) {
    match parse(Format::Json, data, now()) {
        Ok(envelope) => {
            assert_envelope(&envelope);
            let said: serde_json::Value = serde_json::from_slice(data).unwrap();
            // As a list the same envelope may stand without its keys.
            let list = said.get("forward_path").or_else(|| said.get(0)).unwrap().as_array().unwrap();
            let said: Vec<Address> = list.iter().map(|text| Address::parse(text.as_str().unwrap()).unwrap()).collect();
            assert_eq!(said, envelope.recipients.iter().map(|recipient| recipient.address.clone()).collect::<Vec<_>>());
            let forward_path: Vec<String> = envelope.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
            let again = serde_json::json!({ "forward_path": forward_path, "reverse_path": envelope.sender.to_string() }).to_string();
            assert_eq!(parse(Format::Json, again.as_bytes(), now()).unwrap(), envelope);
            match checked(envelope.clone(), "it") {
                Ok(folded) => assert!(!folded.recipients.is_empty() && folded.recipients.len() <= envelope.recipients.len()),
                Err(_) => assert!(envelope.recipients.is_empty()),
            }
        }
        // Cleaned and cut where it is written down.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

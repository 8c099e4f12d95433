//! The TOML sidecar: what is accepted is within the limits of what it goes into, and reads the same when it is written again.

use std::fmt::Write;

use smtp_direct::message::{Envelope, Notify, Ret};
use smtp_direct::spool::sidecar::{Format, parse};

use super::addresses::assert_envelope;
use super::canonical::{assert_one_line, now};

pub fn check(data: &[u8]) {
    match parse(Format::Toml, data, now()) {
        Ok(envelope) => {
            assert_envelope(&envelope);
            if let Some(envid) = &envelope.envid {
                let encoded: usize = envid.bytes().map(|octet| if b"+= ".contains(&octet) { 3 } else { 1 }).sum();
                assert!((1..=100).contains(&encoded) && envid.bytes().all(|octet| (32..=126).contains(&octet)), "{envid:?}");
            }
            if let Some(tag) = &envelope.tag {
                assert!(!tag.is_empty());
                assert_one_line(tag, 100);
            }
            if let (Some(not_before), Some(expires)) = (envelope.not_before, envelope.expires) {
                assert!(not_before < expires);
            }
            let again = written(&envelope);
            assert_eq!(parse(Format::Toml, again.as_bytes(), now()).unwrap(), envelope, "{again}");
        }
        // Cleaned and cut where it is written down.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A sidecar that says the same.
fn written(envelope: &Envelope) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: Vec<String>| toml::Value::from(texts).to_string();
    let recipients = envelope.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
    let mut text = format!("from = {}\nto = {}\n", quoted(&envelope.sender.to_string()), list(recipients));
    let mut line = |key: &str, value: Option<String>| value.map_or(Ok(()), |value| writeln!(text, "{key} = {value}")).unwrap();
    line("priority", Some(quoted(envelope.priority.as_str())));
    line("not_before", envelope.not_before.map(|time| quoted(&time.to_string())));
    line("expires", envelope.expires.map(|time| quoted(&time.to_string())));
    let ret = |ret| if ret == Ret::Full { "full" } else { "headers" };
    line("ret", envelope.ret.map(|value| quoted(ret(value))));
    line("envid", envelope.envid.as_deref().map(quoted));
    line("tag", envelope.tag.as_deref().map(quoted));
    let notify = envelope.recipients.first().map(|recipient| recipient.notify).filter(|notify| notify.explicit);
    line("notify", notify.map(|notify| list(words(notify))));
    text
}

fn words(notify: Notify) -> Vec<String> {
    let asked = [(notify.failure, "failure"), (notify.delay, "delay"), (notify.success, "success")];
    let words: Vec<String> = asked.iter().filter(|(asked, _)| *asked).map(|(_, word)| (*word).to_owned()).collect();
    if words.is_empty() { vec!["never".to_owned()] } else { words }
}

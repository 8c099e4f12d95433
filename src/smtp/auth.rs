//! Logging in: takes credentials and what the peer offers, hands on a session that is authenticated (RFC 4954), or the fault.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::wire::Wire;
use super::{Capabilities, Reply};
use crate::config::{Credentials, Smtp};
use crate::outcome::{Fault, Phase};

/// Octets of a command line with its end (RFC 5321 4.5.3.1.4): a longer initial response is sent on a line of its own (RFC 4954 4).
const MAX_COMMAND: usize = 512;

/// The mechanisms that are spoken, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: two prompts, whose texts are not looked at.
    Login,
}

/// Octets that contain a password: shown nowhere, overwritten when dropped.
struct Secret(Vec<u8>);

impl Secret {
    fn encoded(octets: &[&[u8]]) -> Self {
        let plain = Self(octets.concat());
        Self(STANDARD.encode(&plain.0).into_bytes())
    }

    fn line(prefix: &[u8], rest: &Self) -> Self {
        Self([prefix, &rest.0, b"\r\n"].concat())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// Logs in. Credentials go over an unencrypted session only where they are marked so.
pub(super) async fn log_in(
    wire: &mut Wire,
    offered: &Capabilities,
    credentials: &Credentials,
    encrypted: bool,
    smtp: &Smtp,
) -> Result<(), Fault> {
    let impossible = |detail: &str| Fault::AuthImpossible { detail: detail.to_owned() };
    if !encrypted && !credentials.in_clear {
        return Err(impossible("the session is not encrypted, and auth_in_clear is not set for this server"));
    }
    if offered.auth.is_empty() {
        return Err(impossible("the peer does not offer AUTH"));
    }
    let offers = |name: &str| offered.auth.iter().any(|mechanism| mechanism == name);
    let mechanism = match (offers("PLAIN"), offers("LOGIN")) {
        (true, _) => Mechanism::Plain,
        (_, true) => Mechanism::Login,
        _ => return Err(impossible(&format!("the peer offers only {}", crate::smtp::shown(&offered.auth.join(" "))))),
    };
    let (user, password) = (credentials.username.as_bytes(), credentials.expose_password().as_bytes());
    // What each 334 is answered with.
    let (command, mut responses) = match mechanism {
        Mechanism::Plain => {
            let response = Secret::encoded(&[b"\0", user, b"\0", password]);
            let command = Secret::line(b"AUTH PLAIN ", &response);
            if command.0.len() <= MAX_COMMAND {
                // A peer that asks for it again did not understand the short form.
                (command, vec![response])
            } else {
                (Secret(b"AUTH PLAIN\r\n".to_vec()), vec![response])
            }
        }
        Mechanism::Login => (Secret(b"AUTH LOGIN\r\n".to_vec()), vec![Secret::encoded(&[password]), Secret::encoded(&[user])]),
    };
    let lost = |error: super::wire::WireError| error.during(Phase::Auth);
    wire.send_secret(&command.0, smtp.auth_timeout).await.map_err(lost)?;
    loop {
        let reply = wire.reply(smtp.auth_timeout).await.map_err(lost)?;
        match reply.code() {
            200..300 => return Ok(()),
            300..400 => {
                let Some(response) = responses.pop() else {
                    let detail = format!("it goes on asking: {reply}");
                    return Err(Fault::Protocol { phase: Phase::Auth, detail: censored(&detail, credentials) });
                };
                wire.send_secret(&Secret::line(b"", &response).0, smtp.auth_timeout).await.map_err(lost)?;
            }
            _ => {
                let reply = Reply::new(reply.code(), censored(reply.text(), credentials));
                return Err(Fault::Reply { phase: Phase::Auth, reply });
            }
        }
    }
}

/// A peer's text without the password, should the peer repeat it, plain or as it was sent.
fn censored(text: &str, credentials: &Credentials) -> String {
    let (user, password) = (credentials.username.as_bytes(), credentials.expose_password().as_bytes());
    let mut text = text.to_owned();
    let encoded = [Secret::encoded(&[b"\0", user, b"\0", password]), Secret::encoded(&[password])];
    for secret in encoded.iter().map(|secret| secret.0.as_slice()).chain([password]) {
        match std::str::from_utf8(secret) {
            Ok(secret) if !secret.is_empty() && text.contains(secret) => text = text.replace(secret, "***"),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_repeats_the_password_does_not_bring_it_into_the_log() {
        let credentials = Credentials::new("joe", "s3cret!", false);
        for said in ["535 no s3cret!", "535 AGpvZQBzM2NyZXQh", "535 czNjcmV0IQ== is wrong"] {
            let censored = censored(said, &credentials);
            assert!(censored.contains("***"), "{censored}");
            assert!(!censored.contains("s3cret!") && !censored.contains("czNjcmV0IQ") && !censored.contains("AGpvZQ"), "{censored}");
        }
        assert_eq!(censored("5.7.8 no", &Credentials::new("joe", "", false)), "5.7.8 no");
    }
}

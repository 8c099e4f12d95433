//! Takes outcomes that a message's sender is to be told of, hands on RFC 3464 reports as new messages: [`policy`] says whether,
//! [`Report`] says what.

mod compose;
mod policy;
mod status;
mod text;

use std::io;

use lettre::message::Mailbox;
use thiserror::Error;

pub use self::compose::Enclosed;
pub use self::policy::action_due;
use crate::clock::Timestamp;
use crate::message::{Address, Domain, Envelope, MessageId, Notify, Recipient, ReversePath};
use crate::queue::ReportDue;

/// What every report of this host has in common.
#[derive(Debug, Clone)]
pub struct Settings {
    hostname: Domain,
    from: Mailbox,
    full_below: u64,
}

/// `reports.from` cannot stand in a `From` field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not an author: write Name <local@domain>, with ASCII before the @")]
pub struct FromError {
    /// What was given.
    pub text: String,
}

/// Why a report could not be written. What was written of it is useless.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// The original broke off: compose again without it.
    #[error("cannot read the original message: {0}")]
    Original(#[source] io::Error),
    /// The report's own file.
    #[error("cannot write the report: {0}")]
    Write(#[source] io::Error),
}

/// One report: what is due, and the id and time of the message that says so.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    due: &'a ReportDue,
    to: &'a Address,
    id: MessageId,
    at: Timestamp,
}

impl Settings {
    /// With `hostname` as the reporting MTA, `reports.from`, and `reports.full_below` in octets.
    pub fn new(hostname: Domain, from: &str, full_below: u64) -> Result<Self, FromError> {
        let error = || FromError { text: from.to_owned() };
        if from.chars().any(char::is_control) {
            return Err(error());
        }
        let mailbox: Mailbox = from.parse().map_err(|_| error())?;
        // Our own reading of the domain gives A-labels, so that the report's header stays ASCII.
        let address = Address::parse(mailbox.email.as_ref()).map_err(|_| error())?;
        if address.needs_smtputf8() {
            return Err(error());
        }
        let email = lettre::Address::new_dangerous(address.local(), address.domain().as_str());
        Ok(Self { hostname, from: Mailbox::new(mailbox.name, email), full_below })
    }
}

impl<'a> Report<'a> {
    /// A report of `due`, itself the message `id`, made at `at`. `None` for a message from the null sender: no report begets a report.
    pub fn new(due: &'a ReportDue, id: MessageId, at: Timestamp) -> Option<Self> {
        due.message.sender.address().map(|to| Self { due, to, id, at })
    }

    /// The report's envelope: from the null sender to the message's, never reported on, as urgent as the message.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            recipients: vec![Recipient { address: self.to.clone(), notify: Notify::NEVER }],
            priority: self.due.message.priority,
            ..Envelope::new(ReversePath::Null, [])
        }
    }
}

/// Whether a character may stand in a report's text: none that ends a line for anybody, or makes a text read otherwise than it is.
fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(from: &str) -> Result<Settings, FromError> {
        Settings::new(Domain::parse("mail.example.com").unwrap(), from, 50 * 1024)
    }

    #[test]
    fn the_author_is_an_address_with_or_without_a_name() {
        for good in
            ["Mail Delivery System <MAILER-DAEMON@mail.example.com>", "postmaster@example.com", "Zustellung für alle <a@bücher.example>"]
        {
            assert!(settings(good).is_ok(), "{good}");
        }
        for bad in ["", "nobody", "A <a@b\r\nBcc: c@d>", "Evil\r\nBcc: a@b <a@b>", "jürgen@example.com", "a@b, c@d"] {
            assert_eq!(settings(bad).unwrap_err(), FromError { text: bad.to_owned() });
        }
    }
}

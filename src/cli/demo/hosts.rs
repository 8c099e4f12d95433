//! The receiving end of the demonstration: plays the mail servers of all domains, and keeps the books that the exit code rests on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cli::sink::{Policy, Received, Verdict};

/// What should arrive: sender, recipients of one transaction, and something that the content holds.
const EXPECTED: [(&str, &[&str], &str); 8] = [
    ("alice@sender.test", &["bob@one.test", "carol@one.test"], "One message, three domains.\r\n"),
    ("alice@sender.test", &["dave@two.test"], "One message, three domains.\r\n"),
    ("alice@sender.test", &["erin@three.test"], "One message, three domains.\r\n"),
    ("shop@sender.test", &["bob@one.test"], "It is on its way.\r\n"),
    ("billing@sender.test", &["later@three.test"], "\r\n\r\n.dots and all\r\n"),
    ("me@sender.test", &["info@xn--bcher-kva.test"], "\r\n\r\nWritten with a text editor.\r\n"),
    ("me@sender.test", &["hidden@one.test"], "\r\n\r\nWritten with a text editor.\r\n"),
    ("", &["shop@sender.test"], "Final-Recipient: rfc822; nobody@two.test\r\nAction: failed\r\n"),
];

/// All mail servers of the demonstration in one.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// How often each expected transaction came.
    arrived: BTreeMap<usize, usize>,
    /// What nobody expected.
    strange: Vec<String>,
    transactions: usize,
    deferred_once: bool,
}

impl Hosts {
    /// Transactions that were taken.
    pub(super) fn transactions(&self) -> usize {
        self.books().transactions
    }

    /// What did not come exactly once, or should not have come.
    pub(super) fn complaints(&self) -> Vec<String> {
        let books = self.books();
        let wrong = EXPECTED.iter().enumerate().filter_map(|(index, (sender, recipients, _))| {
            let times = books.arrived.get(&index).copied().unwrap_or(0);
            (times != 1).then(|| format!("mail from <{sender}> to {} arrived {times} times", recipients.join(", ")))
        });
        let deferral = (!books.deferred_once).then(|| "nothing was deferred".to_owned());
        wrong.chain(deferral).chain(books.strange.iter().cloned()).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Hosts {
    fn wants_content(&self) -> bool {
        true
    }

    fn recipient(&self, _sender: &str, recipient: &str) -> Verdict {
        match recipient {
            "nobody@two.test" => Verdict::Reply(550, Cow::Borrowed("5.1.1 There is nobody of that name here")),
            "later@three.test" => {
                let mut books = self.books();
                if books.deferred_once {
                    return Verdict::Accept;
                }
                books.deferred_once = true;
                Verdict::Reply(451, Cow::Borrowed("4.7.1 Greylisted, please try again in 1 second"))
            }
            _ => Verdict::Accept,
        }
    }

    fn message(&self, message: &Received<'_>) -> Verdict {
        let mut recipients: Vec<&str> = message.recipients.iter().map(|(path, _)| path).collect();
        recipients.sort_unstable();
        let content = String::from_utf8_lossy(message.content);
        let expected =
            EXPECTED.iter().position(|(sender, to, holds)| *sender == message.sender && *to == recipients && content.contains(holds));
        let mut books = self.books();
        books.transactions += 1;
        match expected {
            // A blind copy that can be seen is as wrong as one that is missing.
            Some(_) if content.contains("hidden@one.test") => books.strange.push("a Bcc field was sent on".to_owned()),
            Some(index) => *books.arrived.entry(index).or_default() += 1,
            None => books.strange.push(format!("unexpected mail from <{}> to {}", message.sender, recipients.join(", "))),
        }
        Verdict::Accept
    }
}

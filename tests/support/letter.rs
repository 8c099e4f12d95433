//! The client's side of sessions with scripted peers: configuration, endpoints, messages with their files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use smtp_direct::config::{Config, Credentials, TlsMode};
use smtp_direct::message::{Address, Content, Domain, Notify, Ret, ReversePath};
use smtp_direct::outcome::{Fault, Kind, NextStep, judge};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Accepted, Mail, Rcpt, Session};

/// What EHLO says in these tests.
pub const HOSTNAME: &str = "client.test";

/// The defaults.
pub fn config() -> Config {
    Config::default_for(Domain::parse(HOSTNAME).unwrap())
}

/// `mx.test` at an address of a documentation network.
pub fn endpoint(tls: TlsMode) -> Endpoint {
    Endpoint { host: "mx.test".into(), address: ([192, 0, 2, 25], 25).into(), preference: 10, tls, window: 1, credentials: None }
}

/// The same with a login.
pub fn endpoint_with_login(tls: TlsMode, in_clear: bool) -> Endpoint {
    Endpoint { credentials: Some(Arc::new(Credentials::new("joe", "s3cret!", in_clear))), ..endpoint(tls) }
}

/// A message with its file, from `sender@example.org` to `r0@example.com`, `r1@example.com` and so on.
pub struct Letter {
    pub sender: ReversePath,
    pub recipients: Vec<(Address, Notify)>,
    pub content: Content,
    pub ret: Option<Ret>,
    pub envid: Option<String>,
    pub file: PathBuf,
}

impl Letter {
    pub fn new(recipients: usize, text: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("letter-{}-{}.eml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, text).unwrap();
        let size = text.len() as u64;
        Self {
            sender: ReversePath::parse("sender@example.org").unwrap(),
            recipients: (0..recipients).map(|i| (Address::parse(&format!("r{i}@example.com")).unwrap(), Notify::default())).collect(),
            content: Content { file_size: size, wire_size: size, canonical: true, ..Content::default() },
            ret: None,
            envid: None,
            file,
        }
    }

    /// A few lines to one recipient.
    pub fn short() -> Self {
        Self::new(1, SHORT)
    }

    pub fn to(mut self, address: &str) -> Self {
        self.recipients.push((Address::parse(address).unwrap(), Notify::default()));
        self
    }

    pub fn mail(&self) -> Mail<'_> {
        Mail {
            sender: &self.sender,
            recipients: self.recipients.iter().map(|(address, notify)| Rcpt { address, notify: *notify }).collect(),
            content: &self.content,
            file: &self.file,
            ret: self.ret,
            envid: self.envid.as_deref(),
        }
    }

    /// Sends it on `session`.
    pub async fn send(&self, session: &mut Session) -> Vec<Result<Accepted, Fault>> {
        session.send(&self.mail()).await
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The text of [`Letter::short`].
pub const SHORT: &str = "Subject: short\r\n\r\nHello.\r\n";

/// One word a recipient: what it was answered, or which fault it is.
pub fn words(results: &[Result<Accepted, Fault>]) -> Vec<String> {
    results
        .iter()
        .map(|result| match result {
            Ok(accepted) => accepted.reply.code().to_string(),
            Err(Fault::Reply { phase, reply }) => format!("{} {phase}", reply.code()),
            Err(Fault::Closed { phase, .. }) => format!("closed {phase}"),
            Err(Fault::TimedOut { phase }) => format!("timed out {phase}"),
            Err(Fault::Protocol { phase, .. }) => format!("protocol {phase}"),
            Err(Fault::InDoubt { .. }) => "in doubt".to_owned(),
            Err(Fault::Damaged { .. }) => "damaged".to_owned(),
            Err(other) => other.to_string(),
        })
        .collect()
}

pub fn verdict(result: &Result<Accepted, Fault>) -> (Kind, NextStep) {
    let verdict = judge(result.as_ref().unwrap_err());
    (verdict.kind, verdict.next)
}

pub const FAILED: (Kind, NextStep) = (Kind::Failed, NextStep::Stop);
pub const ELSEWHERE: (Kind, NextStep) = (Kind::Deferred, NextStep::NextAddress);

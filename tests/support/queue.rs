//! Messages, outcomes and folders for tests of the queue.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use smtp_direct::clock::Timestamp;
use smtp_direct::message::{Address, Content, Cut, Envelope, MessageId, ReversePath};
use smtp_direct::outcome::{EnhancedStatus, Fault, Kind, Outcome, Peer, Phase};
use smtp_direct::queue::{
    AttemptRecord, CopyId, Delays, Fingerprint, NewMessage, NextStep, QueuedCopy, RecipientOutcome, ReportAction, Settlement, Source,
};
use smtp_direct::smtp::Reply;

/// A folder that is removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("smtp-direct-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }

    pub fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Seconds after a fixed moment.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

pub fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// The `n`th message of a test: accepted `n` seconds after the start, its id in the order of `n`.
pub fn message(n: u32, to: &[&str]) -> NewMessage {
    let accepted_at = at(i64::from(n));
    let mut id = [0; 16];
    id[..6].copy_from_slice(&u64::try_from(accepted_at.as_millisecond()).unwrap().to_be_bytes()[2..]);
    id[12..].copy_from_slice(&n.to_be_bytes());
    NewMessage {
        id: MessageId::from_bytes(id),
        source: Source {
            name: format!("{n}.eml"),
            fingerprint: Fingerprint { inode: 100 + u64::from(n), size: 2048, modified: i128::from(n) + 1_789_999_000_000_000_000 },
        },
        envelope: Envelope::new(ReversePath::parse("alice@example.org").unwrap(), to.iter().map(|to| address(to))),
        content: Content {
            file_size: 2048,
            wire_size: 2300,
            canonical: true,
            eight_bit: false,
            header_utf8: false,
            prepend: format!(
                "Received: from drop ({n}.eml) by mail.example.org (smtp-direct) id {};\r\n\tSat, 1 Jan 2028 00:00:00 +0000\r\n",
                MessageId::from_bytes(id)
            ),
            cuts: vec![Cut { start: 12, end: 40 }],
            message_id: Some(format!("<{n}@example.org>")),
            hops: 1,
        },
        accepted_at,
        expires_at: accepted_at + Duration::from_secs(432_000),
    }
}

pub fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        host: "mx1.example.com".into(),
        address: "192.0.2.25:25".parse::<SocketAddr>().unwrap(),
        tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
    })
}

pub fn delivered() -> Outcome {
    Outcome {
        kind: Kind::Delivered,
        status: EnhancedStatus::new(2, 0, 0),
        text: "250 2.0.0 Ok: queued as 4Xyz".to_owned(),
        reply: Some(Reply::new(250, "2.0.0 Ok: queued as 4Xyz")),
        peer: Some(peer()),
        in_doubt: false,
        dsn_relayed: true,
    }
}

pub fn deferred() -> Outcome {
    Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply: Reply::new(451, "4.7.1 Greylisted\ntry again later") }, Some(peer()))
}

pub fn failed() -> Outcome {
    Outcome::of(&Fault::Reply { phase: Phase::Rcpt, reply: Reply::new(550, "5.1.1 No such user") }, Some(peer()))
}

pub fn in_doubt() -> Outcome {
    Outcome::of(&Fault::InDoubt { how: "the connection was lost".to_owned() }, Some(peer()))
}

pub fn attempt(number: u32, end: Timestamp) -> AttemptRecord {
    AttemptRecord {
        number,
        began_at: end - Duration::from_millis(1500),
        ended_at: end,
        site: "10 mx1.example.com:25, 20 mx2.example.com:25".to_owned(),
        route: "mx".to_owned(),
        delays: Delays {
            queue: Duration::from_micros(1200),
            dns: Duration::from_micros(34_567),
            connect: Duration::from_millis(120),
            handshake: Duration::from_millis(45),
            transfer: Duration::from_millis(310),
        },
        trail: vec!["mx1.example.com [192.0.2.25]:25: what it said".to_owned()],
    }
}

/// A settlement of a whole copy with one outcome for all.
pub fn settlement(copy: &QueuedCopy, outcome: &Outcome, next: NextStep, at: Timestamp) -> Settlement {
    Settlement {
        copy: copy.id,
        attempt: Some(attempt(copy.attempts + 1, at)),
        put_off_at: None,
        recipients: copy
            .recipients
            .iter()
            .map(|recipient| RecipientOutcome { recipient: recipient.id, outcome: outcome.clone(), report: None })
            .collect(),
        next,
        warned: false,
        hold_in_doubt: false,
        at,
    }
}

/// The same, with something to be told.
pub fn reporting(mut settlement: Settlement, action: ReportAction) -> Settlement {
    settlement.recipients.iter_mut().for_each(|recipient| recipient.report = Some(action));
    settlement
}

/// For [`Store::begin_attempts`].
pub fn begins(copies: &[QueuedCopy]) -> Vec<(CopyId, usize)> {
    copies.iter().map(|copy| (copy.id, copy.recipients.len())).collect()
}

pub fn ids(copies: &[QueuedCopy]) -> Vec<CopyId> {
    copies.iter().map(|copy| copy.id).collect()
}

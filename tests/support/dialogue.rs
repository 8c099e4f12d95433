//! Sessions in memory, opened without TLS, and what a letter comes to in one.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use smtp_direct::config::{Config, TlsMode};
use smtp_direct::outcome::Fault;
use smtp_direct::smtp::{Accepted, Client, Session};

use crate::peer::{Letter, MemoryDialer, Record, Script, config, endpoint};

pub async fn open_with(config: &Config, script: Script) -> (Session, Arc<MemoryDialer>) {
    let dialer = MemoryDialer::peer(script);
    let session = Client::new(config, dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    (session, dialer)
}

pub async fn open(script: Script) -> (Session, Arc<MemoryDialer>) {
    open_with(&config(), script).await
}

/// What one letter comes to, whether the session can go on, and what the peer saw.
pub async fn send(letter: &Letter, script: Script) -> (Vec<Result<Accepted, Fault>>, bool, Record) {
    let (mut session, dialer) = open(script).await;
    let results = letter.send(&mut session).await;
    let reusable = session.is_reusable();
    session.quit().await;
    (results, reusable, dialer.finish().await.remove(0))
}

pub fn pipelining() -> Script {
    Script::offering(&["PIPELINING"])
}

pub fn rcpt(number: usize) -> String {
    format!("RCPT TO:<r{number}@example.com>")
}

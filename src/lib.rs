//! smtp-direct delivers mail directly: a file dropped into a spool directory becomes one copy per target domain, and each copy
//! goes to that domain's own mail servers.
//!
//! The modules, in the order in which a message meets them:
//!
//! ```text
//!  drop/ ──spool──▶ message ──▶ queue ──▶ delivery ──▶ route ──▶ smtp ──▶ outcome ──▶ queue (history, retry)
//!                                 ▲                                          │
//!                                 └────────────────── dsn ◀─────────────────┘
//! ```
//!
//! Only [`daemon`] knows them all.
// Tests state their expectations with unwrap; shipped code does not.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

/// Takes the command line, hands on an exit code: one file per subcommand.
pub mod cli;
/// The wall clock, injected.
pub mod clock;
/// Takes a TOML file, hands on a validated, immutable [`config::Config`], or every error in it.
pub mod config;
/// The socket over which administrators reach the daemon: HTTP with JSON.
pub mod control;
/// Wires the parts, runs, reloads, drains.
pub mod daemon;
/// Takes due copies, hands on attempts: scheduler, worker pool, site health.
pub mod delivery;
/// Takes final or late outcomes, hands on RFC 3464 reports as new messages.
pub mod dsn;
/// What a message is: id, addresses, envelope, content.
pub mod message;
/// What people and programs see from outside: log events, systemd.
pub mod observe;
/// Takes faults and replies, hands on outcomes: the one table.
pub mod outcome;
/// Keeps messages, copies and outcomes durably, behind the [`queue::Store`] trait.
pub mod queue;
/// When to try again, and when to stop: pure.
pub mod retry;
/// Takes a copy, hands on the ordered endpoints it should go to: overrides, cache, MX, addresses.
pub mod route;
/// Takes endpoints and content, hands on an outcome per recipient: the SMTP client.
pub mod smtp;
/// Takes files from the drop directory, hands on accepted messages.
pub mod spool;

//! What is seen from outside: one log line an event, with fixed verbs and fields, metrics, and what systemd is told.

pub mod events;
mod fields;
pub mod figure;
pub mod human;
pub mod journal;
pub mod lines;
pub mod log;
pub mod metrics;
mod plain;
pub mod postfix;
pub mod systemd;
pub mod tap;
pub mod trouble;

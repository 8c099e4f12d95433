//! What is seen from outside: one log line an event, with fixed verbs and fields, and what systemd is told.

pub mod events;
mod fields;
pub mod journal;
pub mod log;
pub mod postfix;
pub mod systemd;
pub mod tap;

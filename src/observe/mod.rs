//! What is seen from outside: one log line an event, with fixed verbs and fields, and what systemd is told.

pub mod events;
pub mod log;
pub mod systemd;
pub mod tap;
pub mod trouble;

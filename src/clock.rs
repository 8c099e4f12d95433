//! The wall clock behind a trait: schedules are tested on time that the test moves.

pub use jiff::Timestamp;

/// Tells the time of day. Timers run on tokio's clock; what is stored and shown comes from here.
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

//! Whether dropped files are taken: takes what stands in the way from intake, hands it on to those who look.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What keeps intake from taking files now, in words.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Option<String>>);

impl Standing {
    /// What stands in the way; `None`: nothing.
    pub fn obstacle(&self) -> Option<String> {
        self.lock().clone()
    }

    pub(super) fn stop(&self, reason: String) {
        *self.lock() = Some(reason);
    }

    pub(super) fn go(&self) {
        *self.lock() = None;
    }

    /// A text is whole after every call.
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

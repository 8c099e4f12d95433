//! Messages whose row is committed and whose file is not at its place yet: the scheduler leaves them alone.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::message::MessageId;

/// Shared by intake, which fills it, and the scheduler, which asks.
#[derive(Debug, Default)]
pub struct Placing(Mutex<HashSet<MessageId>>);

impl Placing {
    /// Whether this message's file is still on its way.
    pub fn contains(&self, id: MessageId) -> bool {
        self.lock().contains(&id)
    }

    /// Before the row is committed.
    pub fn begin(&self, ids: impl IntoIterator<Item = MessageId>) {
        self.lock().extend(ids);
    }

    /// After the rename.
    pub fn end(&self, id: MessageId) {
        self.lock().remove(&id);
    }

    /// A set is whole after every call, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<MessageId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

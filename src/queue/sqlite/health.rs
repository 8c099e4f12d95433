//! Whether the database can be used: takes what becomes of each turn, tells the log of each cause once, and once that it is over.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::queue::StoreError;

/// Of one connection. Callers try again by themselves, each in its way, and need not tell.
#[derive(Debug)]
pub(super) struct Health {
    /// Of the database.
    path: PathBuf,
    /// What the connection is for.
    purpose: &'static str,
    /// Causes that were told of and are not over.
    causes: Mutex<HashSet<String>>,
    /// Whether there are any: asked after every turn.
    ill: AtomicBool,
}

impl Health {
    pub(super) fn new(path: &Path, purpose: &'static str) -> Self {
        Self { path: path.to_owned(), purpose, causes: Mutex::default(), ill: AtomicBool::new(false) }
    }

    /// Something was not done. What only its caller has to know is not told of here.
    pub(super) fn failed(&self, error: &StoreError) {
        let StoreError::Database { detail, temporary: true, .. } = error else { return };
        let mut causes = self.lock();
        if causes.insert(detail.clone()) {
            self.ill.store(true, Ordering::Relaxed);
            tracing::error!(reason = %error, path = %self.path.display(),
                "the queue cannot be {} until this is put right: what is under way is kept, and all of it is tried again", self.purpose);
        }
    }

    /// Something was done that shows that it can be.
    pub(super) fn worked(&self) {
        if self.ill.swap(false, Ordering::Relaxed) {
            self.lock().clear();
            tracing::info!(path = %self.path.display(), "the queue can be {} again", self.purpose);
        }
    }

    /// A set is whole after every call.
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

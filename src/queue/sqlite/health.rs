//! Whether the database can be used: takes what becomes of each turn, tells the log of each cause once, and once that it is over.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::damage;
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
    /// How it was found to be damaged: no further turn puts that right.
    damaged: watch::Sender<Option<StoreError>>,
}

impl Health {
    pub(super) fn new(path: &Path, purpose: &'static str) -> Self {
        Self { path: path.to_owned(), purpose, causes: Mutex::default(), ill: AtomicBool::new(false), damaged: watch::Sender::new(None) }
    }

    /// Something was not done. What only its caller has to know is not told of here.
    pub(super) fn failed(&self, error: &StoreError) {
        if matches!(error, StoreError::Damaged { .. }) {
            return self.note_damage(error);
        }
        let StoreError::Database { detail, temporary: true, .. } = error else { return };
        let mut causes = self.lock();
        if causes.insert(detail.clone()) {
            self.ill.store(true, Ordering::Relaxed);
            tracing::error!(reason = %error, path = %self.path.display(),
                "the queue cannot be {} until this is put right: what is under way is kept, and all of it is tried again", self.purpose);
        }
    }

    fn note_damage(&self, error: &StoreError) {
        let first = self.damaged.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            damage::mark(&self.path, &error.to_string());
            tracing::error!(reason = %error, path = %self.path.display(),
                "the queue's database is damaged: the daemon ends, and its next start makes a new one of what can be read");
        }
    }

    /// Resolves when the database turns out to be damaged.
    pub(super) async fn damaged(&self) -> StoreError {
        // The sender lives as long as this does.
        self.damaged.subscribe().wait_for(Option::is_some).await.ok().and_then(|error| error.clone()).unwrap_or(StoreError::Closed)
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

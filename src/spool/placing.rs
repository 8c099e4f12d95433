//! Messages whose row is committed and whose file is not at its place yet: the scheduler leaves them alone.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::Layout;
use crate::message::MessageId;

/// Shared by intake, which fills it, and the scheduler, which asks.
#[derive(Debug, Default)]
pub struct Placing {
    ids: Mutex<HashSet<MessageId>>,
    /// While it holds a spool, a file that an earlier daemon accepted may still stand in its `drop/`.
    doubt: watch::Sender<Option<Layout>>,
}

impl Placing {
    /// At the start of a daemon: until intake has [looked at everything](Self::end_doubt) that stands in `drop/`, a message whose file is
    /// missing counts as on its way. An earlier daemon may have committed its row and not have moved its file; sent now, it would be
    /// given up as damaged.
    pub fn in_doubt(layout: Layout) -> Self {
        Self { ids: Mutex::default(), doubt: watch::Sender::new(Some(layout)) }
    }

    /// Whether this message's file is still on its way. Costs a look at the file, where there is doubt.
    pub fn contains(&self, id: MessageId) -> bool {
        self.lock().contains(&id) || self.doubt.borrow().as_ref().is_some_and(|layout| !layout.message_file(id).exists())
    }

    /// Before the row is committed.
    pub fn begin(&self, ids: impl IntoIterator<Item = MessageId>) {
        self.lock().extend(ids);
    }

    /// After the rename.
    pub fn end(&self, id: MessageId) {
        self.lock().remove(&id);
    }

    /// What stood in `drop/` at the start was looked at: what is missing now is missing.
    pub(super) fn end_doubt(&self) {
        self.doubt.send_replace(None);
    }

    /// Waits until there is no doubt. What [`contains`](Self::contains) said before may have changed by then.
    pub async fn without_doubt(&self) {
        // The sender lives as long as this does.
        let _ = self.doubt.subscribe().wait_for(Option::is_none).await;
    }

    /// A set is whole after every call, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<MessageId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Files of finished messages: takes messages that the store says are finished, hands on nothing. Their files go, those of a moment
//! together: freeing a file's blocks can take longer than sending it did, and nobody waits for it. What a crash leaves is removed at the next
//! start, by [`crate::spool::repair`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::Context;
use crate::message::MessageId;

/// How long files gather: each going wakes a thread, once for all of them.
const GATHER: Duration = Duration::from_millis(50);
/// Files that go together; so many wait for no others.
const BATCH: usize = 64;
/// Batches that go at the same time: a disk that is told of each freed block takes some side by side.
const REMOVALS: usize = 4;
/// Files that may wait: whoever finishes more of them waits for the disk.
const WAITING: usize = 4096;

/// Messages whose files are to go.
#[derive(Debug)]
pub(super) struct Clearing {
    sender: mpsc::Sender<MessageId>,
    /// The task's, as long as it runs.
    receiver: Mutex<mpsc::Receiver<MessageId>>,
}

impl Clearing {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Mutex::new(receiver) }
    }

    /// Has the files of these go. Waits while too many others do.
    pub(super) async fn add(&self, finished: Vec<MessageId>) {
        for id in finished {
            // Refused, the daemon has come to its end: the next start removes the file.
            let _ = self.sender.send(id).await;
        }
    }
}

/// Lets files go until `shutdown`, and then those that wait.
pub async fn run(contexts: watch::Receiver<Arc<Context>>, shutdown: impl Future<Output = ()>) {
    let shared = contexts.borrow().shared.clone();
    let mut receiver = shared.clearing.receiver.lock().await;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut ids = Vec::new();
    let mut removals = JoinSet::new();
    loop {
        tokio::select! {
            count = receiver.recv_many(&mut ids, BATCH) => if count == 0 { break },
            () = &mut shutdown, if !receiver.is_closed() => {
                receiver.close();
                continue;
            }
        }
        if ids.len() < BATCH && !receiver.is_closed() {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = &mut shutdown => receiver.close(),
            }
            while ids.len() < BATCH
                && let Ok(id) = receiver.try_recv()
            {
                ids.push(id);
            }
        }
        while removals.len() >= REMOVALS {
            removals.join_next().await;
        }
        let context = contexts.borrow().clone();
        let ids = std::mem::take(&mut ids);
        removals.spawn(async move { remove(&context, ids).await });
    }
    // One that panicked has told of it, and what it left is the next start's: no reason to end in a panic as well.
    while removals.join_next().await.is_some() {}
}

/// Removes the files of finished messages, on a thread that may wait for the disk.
pub(super) async fn remove(context: &Context, ids: Vec<MessageId>) {
    if ids.is_empty() {
        return;
    }
    let layout = context.layout.clone();
    let removal = spawn_blocking(move || {
        ids.into_iter().filter_map(|id| layout.remove_message(id).err().map(|error| (id, error))).collect::<Vec<_>>()
    });
    for (id, error) in removal.await.unwrap_or_default() {
        // The row says finished: the next start removes the file, and nothing is sent again.
        tracing::warn!(%id, %error, "the file of a finished message cannot be removed");
    }
}

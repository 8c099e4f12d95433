//! Group commit: takes operations as they arrive, applies what is waiting in one transaction, hands on each one's result after the commit.

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::task;

use super::failure::{Failure, failed};
use crate::queue::StoreError;

/// Operations in one transaction, and the rows they write together (one operation may be larger): a few tenths of a second at most.
const BATCH_OPERATIONS: usize = 1024;
const BATCH_ROWS: usize = 20_000;

/// Operations that may wait: their callers wait beyond that.
pub(super) const WAITING: usize = 1024;

const DOING: &str = "committing";

/// One call of a writing method, on its way to the database and back.
pub(super) trait Operation: Send {
    /// Rows that it writes, roughly.
    fn rows(&self) -> usize;
    /// Does the work within the current transaction and keeps the result. It may be called again after a rollback.
    fn apply(&mut self, db: &Connection) -> Result<(), ()>;
    /// The commit failed: whatever was done is undone.
    fn fail(&mut self, error: &StoreError);
    /// Tells the caller.
    fn answer(self: Box<Self>);
}

/// An [`Operation`] from a closure.
pub(super) struct Call<T, W> {
    doing: &'static str,
    rows: usize,
    work: W,
    result: Result<T, StoreError>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Call<T, W>
where
    T: Send,
    W: Fn(&Connection) -> Result<T, Failure> + Send,
{
    /// The operation, and where its result will be.
    pub(super) fn new(doing: &'static str, rows: usize, work: W) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (caller, result) = oneshot::channel();
        (Self { doing, rows, work, result: Err(StoreError::Closed), caller }, result)
    }
}

impl<T, W> Operation for Call<T, W>
where
    T: Send,
    W: Fn(&Connection) -> Result<T, Failure> + Send,
{
    fn rows(&self) -> usize {
        self.rows
    }

    fn apply(&mut self, db: &Connection) -> Result<(), ()> {
        self.result = (self.work)(db).map_err(|failure| failure.doing(self.doing));
        self.result.as_ref().map(|_| ()).map_err(|_| ())
    }

    fn fail(&mut self, error: &StoreError) {
        if self.result.is_ok() {
            self.result = Err(error.clone());
        }
    }

    fn answer(self: Box<Self>) {
        // A caller that went away asked for it to be done, not to be told.
        let _ = self.caller.send(self.result);
    }
}

/// Owns the writing connection until every sender is gone and everything they sent is done.
pub(super) async fn run(mut db: Connection, mut operations: mpsc::Receiver<Box<dyn Operation>>) {
    while let Some(first) = operations.recv().await {
        let mut rows = first.rows();
        let mut batch = vec![first];
        while batch.len() < BATCH_OPERATIONS && rows < BATCH_ROWS {
            let Ok(operation) = operations.try_recv() else { break };
            rows += operation.rows();
            batch.push(operation);
        }
        let done = task::spawn_blocking(move || {
            commit(&db, &mut batch);
            batch.into_iter().for_each(Operation::answer);
            db
        });
        match done.await {
            Ok(connection) => db = connection,
            // It panicked, and the connection is gone with it: callers learn that the store is closed.
            Err(_) => return,
        }
    }
    // The last connection to close writes the WAL back: that takes its time.
    let _ = task::spawn_blocking(move || drop(db)).await;
}

/// One transaction. Operations that fail are left out of it; the others happen, or all of them learn why the commit failed.
fn commit(db: &Connection, batch: &mut [Box<dyn Operation>]) {
    let result = begin(db).and_then(|()| {
        // A savepoint around each would copy every page it touches: only once one has failed.
        if batch.iter_mut().try_for_each(|operation| operation.apply(db)).is_err() {
            abandon(db)?;
            if batch.len() == 1 {
                return Ok(());
            }
            begin(db)?;
            batch.iter_mut().try_for_each(|operation| isolated(db, operation.as_mut()))?;
        }
        db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map(|_| ()).map_err(failed(DOING))
    });
    if let Err(error) = result {
        // Should this fail too, the next BEGIN says so: nothing is answered as done before a COMMIT that worked.
        let _ = abandon(db);
        batch.iter_mut().for_each(|operation| operation.fail(&error));
    }
}

fn begin(db: &Connection) -> Result<(), StoreError> {
    db.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).map(|_| ()).map_err(failed(DOING))
}

/// Rolls back, unless SQLite did so itself (disk full, I/O error).
fn abandon(db: &Connection) -> Result<(), StoreError> {
    if db.is_autocommit() { Ok(()) } else { db.execute_batch("ROLLBACK").map_err(failed(DOING)) }
}

/// Applies an operation such that its failure does not touch the others'. An error means that the transaction is lost.
fn isolated(db: &Connection, operation: &mut dyn Operation) -> Result<(), StoreError> {
    db.execute_batch("SAVEPOINT operation").map_err(failed(DOING))?;
    if operation.apply(db).is_ok() {
        return db.execute_batch("RELEASE operation").map_err(failed(DOING));
    }
    if db.is_autocommit() {
        return Err(StoreError::Database {
            doing: DOING,
            detail: "the transaction was rolled back by the database".to_owned(),
            temporary: true,
        });
    }
    db.execute_batch("ROLLBACK TO operation; RELEASE operation").map_err(failed(DOING))
}

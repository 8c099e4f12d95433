//! Group commit: takes operations as they arrive, applies what is waiting in one transaction, hands on each one's result after the commit.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::failure::{Failure, failed};
use super::health::Health;
use crate::queue::{Commits, Haste, StoreError};

/// Operations in one transaction, and the rows they write together (one operation may be larger): a few tenths of a second at most.
const BATCH_OPERATIONS: usize = 1024;
const BATCH_ROWS: usize = 20_000;

/// A transaction that so many operations shared is followed by the next one this much after its beginning, at the earliest.
const SIBLINGS: usize = 4;
const GATHER: Duration = Duration::from_millis(8);

/// What nobody waits for is done after this, if nothing else is before.
const SOON: Duration = Duration::from_millis(50);

/// Operations that may wait: their callers wait beyond that.
const WAITING: usize = 1024;

const DOING: &str = "committing";

/// One call of a writing method, on its way to the database and back.
pub(super) trait Operation: Send {
    /// Rows that it writes, roughly.
    fn rows(&self) -> usize;
    /// Does the work within the current transaction and keeps the result. It may be called again after a rollback.
    fn apply(&mut self, db: &Connection) -> Result<(), ()>;
    /// Why it did not happen, if so.
    fn failure(&self) -> Option<&StoreError>;
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
    /// `None`: not applied yet.
    result: Option<Result<T, StoreError>>,
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
        (Self { doing, rows, work, result: None, caller }, result)
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
        let result = (self.work)(db).map_err(|failure| failure.doing(self.doing));
        let worked = if result.is_ok() { Ok(()) } else { Err(()) };
        self.result = Some(result);
        worked
    }

    fn failure(&self) -> Option<&StoreError> {
        self.result.as_ref()?.as_ref().err()
    }

    fn fail(&mut self, error: &StoreError) {
        // One that failed by itself keeps its own reason.
        if !matches!(self.result, Some(Err(_))) {
            self.result = Some(Err(error.clone()));
        }
    }

    fn answer(self: Box<Self>) {
        // A caller that went away asked for it to be done, not to be told.
        let _ = self.caller.send(self.result.unwrap_or(Err(StoreError::Closed)));
    }
}

/// The writing connection, and what waits for it. While there is something to write, one thread of the runtime's blocking pool has the
/// connection and does what has gathered, transaction after transaction; whoever finds it lying idle starts the next turn. So a lone
/// call costs one wake-up there and one back, and a runtime with a paused clock sees that it is not idle.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    /// Places for operations that wait.
    room: Semaphore,
    commits: Commits,
    state: Mutex<State>,
    /// Told at the end of each turn.
    idle: Notify,
    /// Whether it can be written.
    health: Health,
}

struct State {
    waiting: VecDeque<Box<dyn Operation>>,
    /// `None` during a turn, and once closed.
    db: Option<Connection>,
    /// Nothing more is taken: closed by its owner, or a turn panicked and its connection is gone.
    closed: bool,
    /// A turn is under way.
    busy: bool,
    /// What waits is wanted now.
    wanted: bool,
    /// It will be wanted in a moment.
    timed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.waiting.len()).field("busy", &self.busy).field("closed", &self.closed).finish()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what waits done now: by a turn that begins, or by the one that is under way.
    fn want(self: &Arc<Self>, mut state: MutexGuard<'_, State>, runtime: &Handle) {
        if state.waiting.is_empty() {
            return;
        }
        state.wanted = true;
        let Some(db) = state.db.take() else { return };
        state.busy = true;
        drop(state);
        let turn = Turn { shared: Arc::clone(self), db: Some(db), done: false };
        runtime.spawn_blocking(move || turn.run());
    }
}

impl Writer {
    /// Within a runtime, whose blocking pool does the work.
    pub(super) fn new(db: Connection, health: Health) -> Self {
        let state = State { waiting: VecDeque::new(), db: Some(db), closed: false, busy: false, wanted: false, timed: false };
        let shared =
            Shared { room: Semaphore::new(WAITING), commits: Commits::default(), state: Mutex::new(state), idle: Notify::new(), health };
        Self { shared: Arc::new(shared), runtime: Handle::current() }
    }

    /// What was counted so far, and will be.
    pub(super) fn commits(&self) -> Commits {
        self.shared.commits.clone()
    }

    /// Has it done in its turn. Waits while too many others wait.
    pub(super) async fn send(&self, operation: Box<dyn Operation>, haste: Haste) -> Result<(), StoreError> {
        // The place is given back by the turn that takes the operation.
        self.shared.room.acquire().await.map_err(|_| StoreError::Closed)?.forget();
        let mut state = self.shared.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.waiting.push_back(operation);
        match haste {
            Haste::Now => self.shared.want(state, &self.runtime),
            Haste::Soon if state.timed => {}
            Haste::Soon => {
                state.timed = true;
                drop(state);
                let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
                self.runtime.spawn(async move {
                    tokio::time::sleep(SOON).await;
                    let mut state = shared.lock();
                    state.timed = false;
                    shared.want(state, &runtime);
                });
            }
        }
        Ok(())
    }

    /// Has what waits done now.
    pub(super) fn hurry(&self) {
        self.shared.want(self.shared.lock(), &self.runtime);
    }

    /// See [`Health::damaged`].
    pub(super) async fn damaged(&self) -> StoreError {
        self.shared.health.damaged().await
    }

    /// Takes nothing more, waits until what was asked for is done, and hands back the connection, unless it was lost.
    pub(super) async fn close(&self) -> Option<Connection> {
        self.shared.lock().closed = true;
        self.hurry();
        loop {
            let mut idle = pin!(self.shared.idle.notified());
            idle.as_mut().enable();
            {
                let mut state = self.shared.lock();
                if !state.busy {
                    return state.db.take();
                }
            }
            idle.await;
        }
    }
}

/// The use of the connection until nothing waits that is wanted now.
struct Turn {
    shared: Arc<Shared>,
    db: Option<Connection>,
    /// It has given the connection back; whatever the state says now is another turn's.
    done: bool,
}

impl Turn {
    fn run(mut self) {
        while let Some(mut batch) = self.next_batch() {
            // Gone, should this panic: nobody knows then what state it is in.
            let Some(db) = self.db.take() else { return };
            let before = db.total_changes();
            let began = Instant::now();
            match commit(&db, &mut batch) {
                Ok(()) => self.shared.commits.commit_seconds.observe(began.elapsed()),
                Err(NotCommitted) => {
                    self.shared.commits.commits_failed.inc();
                }
            }
            let failed: Vec<&StoreError> = batch.iter().filter_map(|operation| operation.failure()).collect();
            failed.iter().for_each(|error| self.shared.health.failed(error));
            // A full disk has room for a transaction that changes nothing.
            if db.total_changes() > before && !failed.iter().any(|error| error.is_temporary()) {
                self.shared.health.worked();
            }
            let siblings = batch.len();
            batch.into_iter().for_each(Operation::answer);
            self.db = Some(db);
            let gathering = gathering(siblings, began.elapsed());
            if !gathering.is_zero() {
                thread::sleep(gathering);
                self.shared.lock().wanted = true;
            }
        }
    }

    /// What has gathered. `None`: nothing that is wanted now, and the connection lies where the next call finds it.
    fn next_batch(&mut self) -> Option<Vec<Box<dyn Operation>>> {
        let mut state = self.shared.lock();
        let (mut rows, mut count) = (0, 0);
        let taken = if state.wanted { BATCH_OPERATIONS } else { 0 };
        for operation in state.waiting.iter().take(taken) {
            count += 1;
            rows += operation.rows();
            if rows >= BATCH_ROWS {
                break;
            }
        }
        let batch: Vec<_> = state.waiting.drain(..count).collect();
        state.wanted &= !state.waiting.is_empty();
        if batch.is_empty() {
            state.db = self.db.take();
            (state.busy, self.done) = (false, true);
            return None;
        }
        drop(state);
        self.shared.room.add_permits(batch.len());
        Some(batch)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.done {
            // It panicked, or the runtime ended before it began: callers learn that the store is closed.
            let waiting = {
                let mut state = self.shared.lock();
                (state.busy, state.closed) = (false, true);
                std::mem::take(&mut state.waiting)
            };
            self.shared.room.close();
            drop(waiting);
        }
        self.shared.idle.notify_waiters();
    }
}

/// How long the next operations are let gather, after a transaction of so many that took so long. What comes meanwhile shares one fsync, one
/// writing of the pages that all of them touch, and one waking of each caller, a tenth of the time that a message takes where many sessions are
/// busy (PostgreSQL's `commit_delay` and `commit_siblings`). Those who come alone wait for nothing.
fn gathering(siblings: usize, took: Duration) -> Duration {
    if siblings < SIBLINGS { Duration::ZERO } else { GATHER.saturating_sub(took) }
}

/// A transaction failed, and everyone concerned knows.
struct NotCommitted;

/// One transaction. Operations that fail are left out of it; the others happen, or all of them learn why the commit failed.
fn commit(db: &Connection, batch: &mut [Box<dyn Operation>]) -> Result<(), NotCommitted> {
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
    result.map_err(|error| {
        // Should this fail too, the next BEGIN says so: nothing is answered as done before a COMMIT that worked.
        let _ = abandon(db);
        batch.iter_mut().for_each(|operation| operation.fail(&error));
        NotCommitted
    })
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    /// A database file with a table of distinct numbers; removed in the end.
    struct Numbers(PathBuf);

    impl Numbers {
        fn new(name: &str) -> (Self, Connection) {
            let path = std::env::temp_dir().join(format!("smtp-direct-commit-{name}-{}.db", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let db = Connection::open(&path).unwrap();
            db.execute_batch("CREATE TABLE numbers (n INTEGER UNIQUE, text TEXT); CREATE TABLE other (n)").unwrap();
            (Self(path), db)
        }

        /// What another process sees.
        fn committed(&self) -> Vec<i64> {
            let db = Connection::open(&self.0).unwrap();
            let mut numbers = db.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
            numbers.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        }
    }

    impl Drop for Numbers {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    type Answer = oneshot::Receiver<Result<i64, StoreError>>;

    /// Inserts these, each with a text of that length.
    fn insert(numbers: &'static [i64], length: i64) -> (Box<dyn Operation>, Answer) {
        let (call, answer) = Call::new("inserting", numbers.len(), move |db: &Connection| {
            for n in numbers {
                db.execute("INSERT INTO numbers VALUES (?1, hex(zeroblob(?2)))", [*n, length])?;
            }
            Ok(numbers[0])
        });
        (Box::new(call), answer)
    }

    fn run(db: &Connection, operations: Vec<(Box<dyn Operation>, Answer)>) -> Vec<Result<i64, StoreError>> {
        let (mut batch, answers): (Vec<_>, Vec<_>) = operations.into_iter().unzip();
        // The answers tell.
        let _ = commit(db, &mut batch);
        batch.into_iter().for_each(Operation::answer);
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect()
    }

    fn is_temporary(result: &Result<i64, StoreError>) -> bool {
        matches!(result, Err(StoreError::Database { temporary: true, .. }))
    }

    #[test]
    fn only_what_many_shared_makes_others_wait() {
        let ms = Duration::from_millis;
        assert_eq!((0..SIBLINGS).map(|alone| gathering(alone, ms(0))).max(), Some(ms(0)));
        assert_eq!(gathering(SIBLINGS, ms(3)), GATHER - ms(3));
        assert_eq!(gathering(100, GATHER + ms(1)), ms(0));
    }

    #[test]
    fn one_that_fails_leaves_the_others() {
        let (file, db) = Numbers::new("fails");
        let results = run(&db, vec![insert(&[1, 2], 1), insert(&[3, 1], 1), insert(&[4], 1), insert(&[4], 1), insert(&[5], 1)]);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false, true]);
        assert!(!results.iter().any(is_temporary));
        assert_eq!(file.committed(), [1, 2, 4, 5]);
        // Alone, too, and the connection goes on.
        assert!(run(&db, vec![insert(&[6, 5], 1)])[0].is_err());
        assert!(run(&db, vec![insert(&[6], 1)])[0].is_ok());
        assert_eq!(file.committed(), [1, 2, 4, 5, 6]);
    }

    #[test]
    fn a_lock_fails_all_of_them_for_now() {
        let (file, db) = Numbers::new("lock");
        db.busy_timeout(Duration::ZERO).unwrap();
        let other = Connection::open(&file.0).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(run(&db, vec![insert(&[1], 1), insert(&[2], 1)]).iter().all(is_temporary));
        other.execute_batch("COMMIT").unwrap();
        assert!(run(&db, vec![insert(&[1], 1), insert(&[2], 1)]).iter().all(Result::is_ok));
        assert_eq!(file.committed(), [1, 2]);
    }

    #[test]
    fn a_commit_that_fails_undoes_and_fails_all_of_them() {
        let (file, db) = Numbers::new("commit");
        db.busy_timeout(Duration::ZERO).unwrap();
        let reader = Connection::open(&file.0).unwrap();
        // With a rollback journal, a reader keeps the writer from committing, not from beginning.
        reader.execute_batch("BEGIN; SELECT * FROM numbers").unwrap();
        assert!(run(&db, vec![insert(&[1], 1), insert(&[2], 1)]).iter().all(is_temporary));
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(file.committed(), [0; 0]);
        assert!(run(&db, vec![insert(&[3], 1)])[0].is_ok());
        assert_eq!(file.committed(), [3]);
    }

    #[test]
    fn a_full_disk_is_temporary_and_leaves_nothing_half_done() {
        let (file, db) = Numbers::new("full");
        db.execute_batch("PRAGMA max_page_count = 40").unwrap();
        let results = run(&db, vec![insert(&[1], 100), insert(&[2, 3], 200_000), insert(&[4], 100)]);
        assert!(is_temporary(&results[1]), "{results:?}");
        // The others were done, or told that they were not: never one without the other.
        let told: Vec<i64> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
        assert_eq!(file.committed(), told);
        db.execute_batch("PRAGMA max_page_count = 4000").unwrap();
        assert!(run(&db, vec![insert(&[12, 13], 200_000)])[0].is_ok());
        assert_eq!(file.committed(), [told, vec![12, 13]].concat());
    }

    #[tokio::test]
    async fn transactions_are_counted_and_so_are_those_that_fail() {
        let (file, db) = Numbers::new("counted");
        db.busy_timeout(Duration::ZERO).unwrap();
        let other = Connection::open(&file.0).unwrap();
        let writer = Writer::new(db, Health::new(std::path::Path::new("numbers"), "written"));
        let commits = writer.commits();
        let write = async |n| {
            let (call, answer) = insert(n, 1);
            writer.send(call, Haste::Now).await.unwrap();
            answer.await.unwrap()
        };
        assert!(write(&[1]).await.is_ok());
        // One that fails by itself leaves the transaction whole.
        assert!(write(&[2, 1]).await.is_err());
        let so_far = commits.commit_seconds.count();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(is_temporary(&write(&[3]).await));
        writer.close().await;
        assert_eq!((so_far, commits.commit_seconds.count(), commits.commits_failed.get()), (2, 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_shares_the_next_commit() {
        let (file, db) = Numbers::new("soon");
        let writer = Writer::new(db, Health::new(std::path::Path::new("numbers"), "written"));
        let commits = writer.commits();
        let began = tokio::time::Instant::now();
        let (call, mut first) = insert(&[1], 1);
        writer.send(call, Haste::Soon).await.unwrap();
        assert!(first.try_recv().is_err());
        let (call, second) = insert(&[2], 1);
        writer.send(call, Haste::Now).await.unwrap();
        assert!(second.await.unwrap().is_ok());
        assert_eq!(first.try_recv().unwrap(), Ok(1));
        assert_eq!((commits.commit_seconds.count(), began.elapsed()), (1, Duration::ZERO));
        // With nobody else, its time comes.
        let (call, third) = insert(&[3], 1);
        writer.send(call, Haste::Soon).await.unwrap();
        assert!(third.await.unwrap().is_ok());
        assert!((SOON..SOON * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        // So it does when somebody begins to wait.
        let hurried = tokio::time::Instant::now();
        let (call, answer) = insert(&[5], 1);
        writer.send(call, Haste::Soon).await.unwrap();
        writer.hurry();
        assert_eq!((answer.await.unwrap(), hurried.elapsed()), (Ok(5), Duration::ZERO));
        // And with the end.
        let (call, mut fourth) = insert(&[4], 1);
        writer.send(call, Haste::Soon).await.unwrap();
        let ending = tokio::time::Instant::now();
        assert!(writer.close().await.is_some());
        assert_eq!((fourth.try_recv().unwrap(), ending.elapsed()), (Ok(4), Duration::ZERO));
        assert_eq!(file.committed(), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_panic_closes_the_store_for_everyone() {
        let (_file, db) = Numbers::new("panic");
        let writer = Writer::new(db, Health::new(std::path::Path::new("numbers"), "written"));
        let (call, answer) = Call::new("panicking", 1, |_: &Connection| -> Result<i64, Failure> { panic!("on purpose") });
        writer.send(Box::new(call), Haste::Now).await.unwrap();
        assert!(answer.await.is_err());
        assert!(writer.close().await.is_none());
        let (call, _) = Call::new("late", 1, |_: &Connection| Ok(1));
        assert_eq!(writer.send(Box::new(call), Haste::Now).await, Err(StoreError::Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_turn_that_ends_leaves_the_next_one_alone() {
        let (_file, db) = Numbers::new("turns");
        db.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").unwrap();
        let writer = Writer::new(db, Health::new(std::path::Path::new("numbers"), "written"));
        // Each is sent when the answer before it came, which is when that one's turn is about to end.
        for n in 0..3000 {
            let (call, answer) = Call::new("counting", 1, move |_: &Connection| Ok(n));
            writer.send(Box::new(call), Haste::Now).await.unwrap();
            assert_eq!(answer.await.unwrap(), Ok(n));
        }
        assert!(writer.close().await.is_some());
        assert!(writer.close().await.is_none());
    }
}

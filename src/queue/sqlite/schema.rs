//! The database file: takes a path, hands on connections to a database of the schema that this version knows.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::failure::{Failure, failed};
use crate::queue::StoreError;

/// Entry `n` brings a database from schema `n` to `n + 1`. Entries that were released are never changed.
const MIGRATIONS: [&str; 7] = [V1, V2, V3_ACTIONS, V4_HISTORY, V5_SOURCE, V6_HANDSHAKE, V7_SITES];

/// The schema that this version writes.
const KNOWN: i64 = MIGRATIONS.len() as i64;

/// How long a lock is waited for: another process holds one for long only when an administrator writes with SQLite's own shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements kept prepared per connection: more than there are in this module.
const CACHED_STATEMENTS: usize = 128;

/// Times are milliseconds since the epoch. Numbers that stand for words are those of `convert.rs`.
const V1: &str = "
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY,            -- short key for the other tables
    id BLOB NOT NULL UNIQUE,            -- the 16 octets of the ULID
    accepted_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    finished_at INTEGER,                -- NULL while a copy is open or a report is due
    open_copies INTEGER NOT NULL,       -- copies that are not finished
    reports_due INTEGER NOT NULL,       -- recipients with a report action
    delivered INTEGER NOT NULL,         -- recipients delivered to
    failed INTEGER NOT NULL,            -- recipients given up
    priority INTEGER NOT NULL,          -- 0 urgent, 1 normal, 2 bulk
    ret INTEGER,                        -- 1 full, 2 headers
    envid TEXT,
    tag TEXT,
    sender TEXT NOT NULL,               -- empty: the null sender
    source TEXT NOT NULL,               -- file name in drop/, or 'report'
    source_inode INTEGER NOT NULL,
    source_size INTEGER NOT NULL,
    source_modified ANY NOT NULL,       -- nanoseconds since the epoch
    file_size INTEGER NOT NULL,
    wire_size INTEGER NOT NULL,
    form INTEGER NOT NULL,              -- bits: 1 canonical, 2 eight-bit, 4 UTF-8 in the header
    hops INTEGER NOT NULL,
    message_id TEXT,
    cuts TEXT,                          -- '12-40 100-120'
    prepend TEXT NOT NULL
) STRICT;
-- A dropped file that reappears. Nanoseconds tell files apart and ascend, so the index grows at its end.
CREATE INDEX messages_source ON messages(source_modified);
-- Start-up and the command line go through what is unfinished, not through days of history.
CREATE INDEX messages_open ON messages(id) WHERE finished_at IS NULL;
CREATE INDEX messages_reports ON messages(id) WHERE reports_due > 0;
-- Purging.
CREATE INDEX messages_finished ON messages(finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE copies (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES messages(seq),
    state INTEGER NOT NULL,             -- 0 queued, 1 sending, 2 held, 3 finished
    priority INTEGER NOT NULL,          -- of the message
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,        -- of the message
    open_recipients INTEGER NOT NULL,   -- recipients in state 0
    attempts INTEGER NOT NULL,          -- that have begun
    began_at INTEGER,                   -- set while one is under way
    first_failed_at INTEGER,
    warned INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,          -- an attempt was
    hold_reason TEXT,
    domain TEXT NOT NULL
) STRICT;
CREATE INDEX copies_message ON copies(message);
-- The scheduler's pages, and those of one domain. Only what is queued is in them, so they stay small.
CREATE INDEX copies_due ON copies(priority, due_at, id, domain) WHERE state = 0;
CREATE INDEX copies_domain ON copies(domain, priority, due_at) WHERE state = 0;
-- Copies that would wait past their end: few, so that looking for them costs nothing.
CREATE INDEX copies_late ON copies(expires_at) WHERE state = 0 AND due_at > expires_at;

CREATE TABLE recipients (
    id INTEGER PRIMARY KEY,
    copy INTEGER NOT NULL REFERENCES copies(id),
    state INTEGER NOT NULL,             -- 0 waiting (the last outcome, if any, is a deferral), 1 delivered, 2 failed
    notify INTEGER NOT NULL,            -- bits: 1 failure, 2 delay, 4 success, 8 explicit
    report INTEGER,                     -- 1 failed, 2 delayed, 3 relayed: to be told to the sender
    outcome_at INTEGER,                 -- of the last outcome; NULL: none yet
    code INTEGER,
    in_doubt INTEGER,
    dsn_relayed INTEGER,
    status TEXT,
    address TEXT NOT NULL,
    text TEXT,
    reply TEXT,                         -- lines, joined by line feeds
    host TEXT,
    peer TEXT,                          -- address:port
    tls TEXT
) STRICT;
CREATE INDEX recipients_copy ON recipients(copy);
-- The history, newest first. It grows at its end.
CREATE INDEX recipients_final ON recipients(outcome_at) WHERE state > 0;

CREATE TABLE attempts (
    copy INTEGER NOT NULL REFERENCES copies(id),
    number INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    queue_us INTEGER NOT NULL,          -- microseconds
    dns_us INTEGER NOT NULL,
    connect_us INTEGER NOT NULL,
    transfer_us INTEGER NOT NULL,
    site TEXT NOT NULL,
    route TEXT NOT NULL,
    trail TEXT NOT NULL,                -- JSON array of lines
    PRIMARY KEY (copy, number)
) STRICT, WITHOUT ROWID;
";

/// A message's copies have ids in one row, and a copy's recipients lie in one run, so that neither needs an index to be found; and an attempt
/// that begins writes one small row, where the copy's own row would leave the scheduler's indexes.
const V2: &str = "
CREATE TEMP TABLE renumbered AS
    SELECT id AS old, message * 1048576 + row_number() OVER (PARTITION BY message ORDER BY id) - 1 AS new FROM copies;
CREATE UNIQUE INDEX temp.renumbered_old ON renumbered(old);

CREATE TABLE sending (                  -- attempts that are under way, or were when the daemon ended
    copy INTEGER PRIMARY KEY REFERENCES copies(id),
    began_at INTEGER NOT NULL
) STRICT;
INSERT INTO sending SELECT new, began_at FROM copies JOIN renumbered ON old = id WHERE state = 1 ORDER BY new;

CREATE TABLE new_copies (
    id INTEGER PRIMARY KEY,             -- message * 1048576 + a number from 0 on
    message INTEGER NOT NULL REFERENCES messages(seq),
    state INTEGER NOT NULL,             -- 0 queued or being sent, 2 held, 3 finished
    priority INTEGER NOT NULL,          -- of the message
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,        -- of the message
    open_recipients INTEGER NOT NULL,   -- recipients in state 0
    attempts INTEGER NOT NULL,          -- that have ended
    first_failed_at INTEGER,
    warned INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,          -- an attempt was
    first_recipient INTEGER NOT NULL,   -- its recipients are from here
    last_recipient INTEGER NOT NULL,    -- to here, among others of copies that were split from it
    domain TEXT NOT NULL,
    hold_reason TEXT
) STRICT;
INSERT INTO new_copies
    SELECT new, message, iif(state = 1, 0, state), priority, due_at, expires_at, open_recipients, attempts - (state = 1), first_failed_at,
        warned, in_doubt, (SELECT min(id) FROM recipients WHERE copy = old), (SELECT max(id) FROM recipients WHERE copy = old), domain,
        hold_reason
    FROM renumbered JOIN copies ON id = old ORDER BY new;
DROP TABLE copies;
ALTER TABLE new_copies RENAME TO copies;
-- The scheduler's pages, and those of one domain. Only what is open is in them, so they stay small.
CREATE INDEX copies_due ON copies(priority, due_at, id, domain) WHERE state = 0;
-- The domains' index is the dear one: with many domains, each copy touches a page of its own. Groups of domains would keep that to a few
-- pages, yet thousands of domains with a handful of copies each may share one site, and each of them is asked for by itself.
CREATE INDEX copies_domain ON copies(domain, priority, due_at) WHERE state = 0;
-- Copies that would wait past their end: few, so that looking for them costs nothing.
CREATE INDEX copies_late ON copies(expires_at) WHERE state = 0 AND due_at > expires_at;

DROP INDEX recipients_copy;
UPDATE recipients SET copy = (SELECT new FROM renumbered WHERE old = copy);

CREATE TABLE new_attempts (
    copy INTEGER NOT NULL REFERENCES copies(id),
    number INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    queue_us INTEGER NOT NULL,          -- microseconds
    dns_us INTEGER NOT NULL,
    connect_us INTEGER NOT NULL,
    transfer_us INTEGER NOT NULL,
    site TEXT NOT NULL,
    route TEXT NOT NULL,
    trail TEXT NOT NULL,                -- JSON array of lines
    PRIMARY KEY (copy, number)
) STRICT, WITHOUT ROWID;
INSERT INTO new_attempts
    SELECT new, number, began_at, ended_at, queue_us, dns_us, connect_us, transfer_us, site, route, trail
    FROM attempts JOIN renumbered ON old = copy ORDER BY new, number;
DROP TABLE attempts;
ALTER TABLE new_attempts RENAME TO attempts;
DROP TABLE temp.renumbered;
";

/// What administrators did, and the sites that they have paused.
const V3_ACTIONS: &str = "
ALTER TABLE copies ADD COLUMN released INTEGER NOT NULL DEFAULT 0; -- by an administrator: no override holds it any more

CREATE TABLE actions (
    id INTEGER PRIMARY KEY,
    copy INTEGER NOT NULL REFERENCES copies(id),
    at INTEGER NOT NULL,
    action INTEGER NOT NULL,            -- 1 retry, 2 hold, 3 release, 4 bounce, 5 remove
    by TEXT NOT NULL,                   -- 'uid 0'
    reason TEXT NOT NULL,
    recipients TEXT NOT NULL            -- JSON array of addresses
) STRICT;
CREATE INDEX actions_copy ON actions(copy);

CREATE TABLE paused_sites (
    site TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    by TEXT NOT NULL,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What a search of the history asks for lies in the index that it walks in time's order, so that a search reads that index and not the rows.
/// It still grows at its end: an index by address would be found in faster, yet each settlement would change a page of its own in it.
const V4_HISTORY: &str = "
DROP INDEX recipients_final;
CREATE INDEX recipients_final ON recipients(outcome_at, state, in_doubt, address) WHERE state > 0;
";

/// Nanoseconds tell files apart on paper only: the system's clock for them ticks every few milliseconds, and a program that writes fast has a
/// hundred files a tick. Each of them was compared with every row of its tick.
const V5_SOURCE: &str = "
DROP INDEX messages_source;
CREATE INDEX messages_source ON messages(source_modified, source_inode);
";

/// What part of an attempt's `connect_us` went into TLS handshakes.
const V6_HANDSHAKE: &str = "
ALTER TABLE attempts ADD COLUMN handshake_us INTEGER NOT NULL DEFAULT 0;
";

/// Which site an open copy belongs to, as far as is known: so that what waits for a site is counted and found without going through attempts,
/// and what was put off untried is known of after a restart. A copy that is delivered at once never comes into the index.
const V7_SITES: &str = "
CREATE TABLE sites (                    -- those that copies name
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
ALTER TABLE copies ADD COLUMN site INTEGER REFERENCES sites(id); -- where it was put off last, by an attempt or untried as the site was down
INSERT INTO sites (name)
    SELECT DISTINCT a.site FROM copies c CROSS JOIN attempts a ON a.copy = c.id WHERE c.state < 3 AND a.site <> '';
UPDATE copies SET site = (SELECT s.id FROM attempts a CROSS JOIN sites s ON s.name = a.site
        WHERE a.copy = copies.id AND a.site <> '' ORDER BY a.number DESC LIMIT 1)
    WHERE state < 3;
CREATE INDEX copies_site ON copies(site) WHERE state < 3 AND site IS NOT NULL;
";

/// The connection that writes. Makes the file, with mode 0640, and brings it to the known schema.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    const DOING: &str = "opening it";
    create(path).map_err(|error| StoreError::Database {
        doing: "creating its file",
        detail: format!("{}: {error}", path.display()),
        temporary: true,
    })?;
    let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Until it is known to be sound: what is closed damaged is left as it was found.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed(DOING))?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed(DOING))?;
    if mode != "wal" {
        return Err(Failure::refused(format!("the file system does not allow WAL, the journal mode is {mode:?}")).doing(DOING));
    }
    // FULL: a commit is on the disk when it returns. Foreign keys are kept by this module, which writes each of them in one place;
    // checking them again costs a look-up a row. 16 MiB between checkpoints lets pages that change often be written once, and a
    // WAL that a long reader let grow is cut back to 64 MiB.
    db.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;",
    )
    .map_err(failed(DOING))?;
    migrate(&mut db)?;
    Ok(db)
}

/// A connection that only reads, beside the one that writes.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;").map_err(failed("opening it"))?;
    Ok(db)
}

/// A connection for the command line. With `immutable`, the file is read as it is, without locks: sound while there is no WAL.
pub(super) fn inspector(path: &Path, immutable: bool) -> Result<Connection, StoreError> {
    let db = if immutable {
        connect(Path::new(&uri(path)), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
    };
    db.execute_batch("PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;").map_err(failed("opening it"))?;
    match version(&db).map_err(failed("reading its schema number"))? {
        KNOWN => Ok(db),
        found @ 1.. if found > KNOWN => Err(StoreError::Schema { found, known: KNOWN }),
        found @ 1.. => {
            let detail =
                format!("{} has schema {found}, of an older version: the daemon brings it up to date when it starts", path.display());
            Err(Failure::refused(detail).doing("reading its schema number"))
        }
        _ => Err(Failure::refused(format!("{} is not a queue database", path.display())).doing("reading its schema number")),
    }
}

/// A connection that reads what it can and changes nothing, its WAL included.
pub(super) fn reader_of_damaged(path: &Path) -> Result<Connection, StoreError> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed("opening it"))?;
    // Or a file that was cut off would not be read at all.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true).map_err(failed("opening it"))?;
    match version(&db).map_err(failed("reading its schema number"))? {
        KNOWN => Ok(db),
        found => {
            Err(Failure::refused(format!("it has schema {found}, and only {KNOWN} can be read in parts"))
                .doing("reading its schema number"))
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    // Each connection is used by one thread at a time.
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed("opening it"))?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed("opening it"))?;
    db.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // A missing index is a fault of the statement, and not to be made up for by one of the whole history, for each time that it runs.
    db.execute_batch("PRAGMA automatic_index = OFF").map_err(failed("opening it"))?;
    // Plans do not depend on bound values, or SQLite would prepare a cached statement again for each new one.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed("opening it"))?;
    Ok(db)
}

/// `file:` and the path, with what has a meaning in a URI escaped.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for &byte in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()) {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

fn create(path: &Path) -> io::Result<()> {
    const MODE: u32 = 0o640;
    match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
        Ok(file) => {
            // The umask took its share: the group reads, for the command line.
            file.set_permissions(Permissions::from_mode(MODE))?;
            file.sync_all()?;
            // The name has to last as well: SQLite sees to its own journal files only.
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    const DOING: &str = "bringing its schema up to date";
    let step = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(DOING))?;
    let found = version(&step).map_err(failed(DOING))?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Err(StoreError::Schema { found, known: KNOWN });
    };
    let tables: i64 = step.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed(DOING))?;
    if found == 0 && tables > 0 {
        return Err(Failure::refused("the file is a database of another program".to_owned()).doing(DOING));
    }
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        step.execute_batch(migration).map_err(failed(DOING))?;
    }
    step.pragma_update(None, "user_version", KNOWN).map_err(failed(DOING))?;
    step.commit().map_err(failed(DOING))
}

#[cfg(test)]
mod tests {
    use super::super::convert::{COPIES_OF_MESSAGE, RECIPIENTS_OF_COPY};
    use super::super::settle::LAST_OUTCOME;
    use super::*;

    /// The database is several files while it is open: all of them go with their directory.
    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Of the tables that grow with the history, what is read: by which index.
    fn plan(db: &Connection, sql: &str) -> Vec<String> {
        let sql = sql.replace("?1", "1").replace("?2", "2");
        let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines = explain.query_map([], |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).filter(|line| line.starts_with("SEARCH") || line.starts_with("SCAN")).collect()
    }

    #[test]
    fn what_belongs_to_a_message_is_found_without_going_through_the_history() {
        let folder = Folder(std::env::temp_dir().join(format!("smtp-direct-plan-{}", std::process::id())));
        std::fs::create_dir(&folder.0).unwrap();
        let path = folder.0.join("state.db");
        let writer = writer(&path).unwrap();
        let connections = [reader(&path).unwrap(), inspector(&path, false).unwrap(), writer];
        let by_rowid = |table: &str| format!("SEARCH {table} USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)");
        let of_message = format!(
            "SELECT r.text FROM messages m CROSS JOIN copies c ON {COPIES_OF_MESSAGE} CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}
             WHERE m.seq = 1 AND r.state > 0 AND r.report IS NOT NULL"
        );
        for db in &connections {
            assert_eq!(plan(db, &of_message)[1..], [by_rowid("c"), by_rowid("r")]);
            assert_eq!(plan(db, LAST_OUTCOME), [by_rowid("c"), by_rowid("r")]);
        }
    }
}

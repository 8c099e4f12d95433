//! A database that is damaged: takes its path, hands on one that can be used, with what could be read of the old one in it.
//!
//! Looking through all of it costs time, so that is done only where the last end was not clean (a WAL was left behind), and where a running
//! daemon met damage and left a [mark](mark). The old files are never deleted: they stay beside the new ones as `state.db.damaged-TIME`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::failure::failed;
use super::{salvage, schema};
use crate::clock::Timestamp;
use crate::queue::{Salvaged, StoreError};

/// Beside the database: it was found damaged while it was in use.
const SUSPECT: &str = "suspect";
/// Beside the database: it is being made anew, from the files that this one names.
const SALVAGING: &str = "salvaging";

/// Octets of SQLite's smallest page.
const SMALLEST: u64 = 512;

/// Opens the database for writing, as [`schema::writer`] does. Where it is damaged, it is put aside first and made anew.
pub(super) fn open(path: &Path, now: Timestamp) -> Result<(Connection, Option<Salvaged>), StoreError> {
    let io = |error| io_error(path, &error);
    if let Some(aside) = read_mark(path, SALVAGING).map_err(io)? {
        return make_anew(path, Path::new(&aside), "it was being made anew when the daemon ended".to_owned(), now);
    }
    let octets = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let (unclean, suspect) = (octets(&beside(path, "-wal")) > 0, read_mark(path, SUSPECT).map_err(io)?);
    let reason = if let Some(reason) = suspect {
        reason
    } else if unclean && octets(path) == 0 {
        // SQLite would remove the WAL of an empty database.
        "it is empty, and its WAL is not".to_owned()
    } else if (1..SMALLEST).contains(&octets(path)) {
        // Some such pieces it would take for an empty one.
        format!("it has {} octets, fewer than any database", octets(path))
    } else {
        match schema::writer(path).and_then(|db| if unclean { check(&db).map(|()| db) } else { Ok(db) }) {
            Err(StoreError::Damaged { detail, .. }) => detail,
            other => {
                let db = other?;
                db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed("opening it"))?;
                return Ok((db, None));
            }
        }
    };
    let aside = put_aside(path, now).map_err(io)?;
    make_anew(path, &aside, reason, now)
}

/// Notes for the next start that the database is not sound. What cannot be noted is found again.
pub(super) fn mark(path: &Path, reason: &str) {
    if let Err(error) = write_mark(path, SUSPECT, reason) {
        tracing::error!(path = %path.display(), %error, "that the database is damaged cannot be noted for the next start");
    }
}

/// Every page of it.
fn check(db: &Connection) -> Result<(), StoreError> {
    const DOING: &str = "checking it after an end that was not clean";
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed(DOING))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Damaged { doing: DOING, detail: found.replace('\n', " ") }) }
}

/// Gives the files second names, which they keep.
fn put_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let aside = beside(path, &format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%S%.3fZ")));
    for ending in ["", "-wal"] {
        let (from, to) = (beside(path, ending), beside(&aside, ending));
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::AlreadyExists => {}
            // A file system without hard links.
            Err(_) => {
                fs::copy(&from, &to)?;
                File::open(&to)?.sync_all()?;
            }
            Ok(()) => {}
        }
    }
    sync_folder(path)?;
    Ok(aside)
}

/// Makes a new database with what can be read of the old one. Ended anywhere, it begins again at the next start.
fn make_anew(path: &Path, aside: &Path, reason: String, now: Timestamp) -> Result<(Connection, Option<Salvaged>), StoreError> {
    let io = |error| io_error(path, &error);
    let name = aside.file_name().unwrap_or_default();
    let aside = path.with_file_name(name);
    write_mark(path, SALVAGING, &name.to_string_lossy()).map_err(io)?;
    // The WAL first: beside a new database it would be taken for its own.
    for ending in ["-wal", "-shm", ""] {
        gone(fs::remove_file(beside(path, ending))).map_err(io)?;
    }
    let mut db = schema::writer(path)?;
    let mut salvaged = salvage::copy(&aside, &mut db, now)?;
    // What the reading made beside it.
    gone(fs::remove_file(beside(&aside, "-shm"))).map_err(io)?;
    if fs::metadata(beside(&aside, "-wal")).is_ok_and(|found| found.len() == 0) {
        gone(fs::remove_file(beside(&aside, "-wal"))).map_err(io)?;
    }
    (salvaged.aside, salvaged.reason) = (aside, reason);
    for mark in [SUSPECT, SALVAGING] {
        gone(fs::remove_file(beside(path, &format!(".{mark}")))).map_err(io)?;
    }
    sync_folder(path).map_err(io)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed("opening it"))?;
    Ok((db, Some(salvaged)))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn read_mark(path: &Path, mark: &str) -> io::Result<Option<String>> {
    match fs::read(beside(path, &format!(".{mark}"))) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) => gone(Err(error)).map(|()| None),
    }
}

fn write_mark(path: &Path, mark: &str, text: &str) -> io::Result<()> {
    let file = beside(path, &format!(".{mark}"));
    fs::write(&file, text)?;
    File::open(&file)?.sync_all()?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Database { doing: "putting it right", detail: format!("{}: {error}", path.display()), temporary: true }
}

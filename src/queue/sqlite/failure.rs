//! What goes wrong below the trait: takes SQLite's errors and refusals of this module, hands on [`StoreError`].

use rusqlite::ErrorCode;

use crate::queue::StoreError;

/// Why an operation did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite's words.
    Sql(rusqlite::Error),
    /// The call does not fit what the queue holds.
    Refused(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Failure {
    pub(super) fn refused(detail: impl Into<String>) -> Self {
        Self::Refused(detail.into())
    }

    /// As callers of the trait see it.
    pub(super) fn doing(self, doing: &'static str) -> StoreError {
        match self {
            Self::Sql(error) if is_damage(&error) => StoreError::Damaged { doing, detail: error.to_string() },
            Self::Sql(error) => {
                StoreError::Database { doing, temporary: is_temporary(&error), detail: format!("{error}{}", advice(&error)) }
            }
            Self::Refused(detail) => StoreError::Database { doing, temporary: false, detail },
        }
    }
}

/// For `map_err`.
pub(super) fn failed(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| Failure::Sql(error).doing(doing)
}

/// Disk, memory, permissions and locks change; a constraint, a damaged file and a bug do not.
fn is_temporary(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationInterrupted
        )
    )
}

/// What would put it right, where that can be told from SQLite's code.
fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": make room on its file system",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ": another program holds its lock; let it come to its end",
        Some(ErrorCode::SystemIoFailure) => ": look into the kernel's log and at the quota of the daemon's user",
        Some(ErrorCode::ReadOnly) => ": let the daemon's user write the file, and mount its file system for writing",
        Some(ErrorCode::CannotOpen) => ": look at its owner and mode, and at how many files the daemon may have open",
        _ => "",
    }
}

/// Pages that make no sense, or values that cannot have been written.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        None => matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)),
    }
}

//! Commands that ask the running daemon: where its socket is, and what a missing answer means for the exit code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit;
use super::queue::ReadError;
use crate::config::{self, Config};
use crate::control::client::{Client, ClientError};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Client(#[from] ClientError),
    /// Of what only the daemon has, and only while it runs.
    #[error("{0}; the cache is the daemon's memory, and ends with it")]
    Memory(#[source] ClientError),
    /// Of what the queue tells in the daemon's place.
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Usage(String),
    #[error("reading standard input failed: {0}")]
    Input(#[source] io::Error),
    #[error("writing failed: {0}")]
    Output(#[from] io::Error),
}

/// The daemon of this configuration. Errors elsewhere in the file are told, and keep nobody from asking: the daemon may well run on with the
/// configuration that it had before.
pub(super) fn client(file: &Path, err: &mut dyn Write) -> io::Result<Result<Client, ExitCode>> {
    let socket: Option<PathBuf> = match Config::load(file) {
        Ok(config) => config.control.socket,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            config::control_socket_in(file)
        }
    };
    let Some(socket) = socket else {
        writeln!(err, "smtp-direct: {}: it names no control.socket, over which the daemon could be asked", file.display())?;
        return Ok(Err(ExitCode::from(exit::CONFIG)));
    };
    Ok(Ok(Client::new(socket)))
}

/// The exit code, and on `err` the reason.
pub(super) fn finish(result: Result<ExitCode, AskError>, err: &mut dyn Write) -> ExitCode {
    let code = match &result {
        Ok(code) => return *code,
        // `head` has read enough.
        Err(AskError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(AskError::Usage(_)) => exit::USAGE,
        Err(AskError::Client(error) | AskError::Memory(error)) => code(error),
        Err(AskError::Read(error)) => error.code(),
        Err(AskError::Input(_) | AskError::Output(_)) => exit::IOERR,
    };
    if let Err(error) = result {
        // Where even this cannot be written, the code remains.
        let _ = writeln!(err, "smtp-direct: {error}");
    }
    ExitCode::from(code)
}

/// What a missing answer means.
pub(super) fn code(error: &ClientError) -> u8 {
    match error {
        ClientError::Down { .. } | ClientError::Refused { status: 503, .. } => exit::TEMPFAIL,
        ClientError::Denied { .. } | ClientError::Refused { status: 403, .. } => exit::NOPERM,
        ClientError::Refused { status: 400, .. } => exit::USAGE,
        ClientError::Refused { status: 404, .. } => 1,
        ClientError::Refused { .. } => exit::SOFTWARE,
        ClientError::Broken { .. } => exit::IOERR,
    }
}

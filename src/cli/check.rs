//! `smtp-direct check`: takes a configuration file, hands on its errors, or "ok" and what is worth a warning. Opens no socket.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::exit;
use crate::config::{self, Effective};

/// Errors and warnings go to `err`; to `out` goes `PATH: ok`, or with `show` the effective configuration and nothing else.
/// 0 where a daemon would take the file, 78 where not.
pub fn run(config: &Path, show: bool, out: &mut dyn io::Write, err: &mut dyn io::Write) -> ExitCode {
    check(config, show, out, err).unwrap_or(ExitCode::from(exit::IOERR))
}

fn check(path: &Path, show: bool, out: &mut dyn io::Write, err: &mut dyn io::Write) -> io::Result<ExitCode> {
    let Effective { config, warnings } = match config::load_with_warnings(path) {
        Ok(effective) => effective,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    for warning in warnings {
        let line = warning.line.map(|line| format!("{line}: ")).unwrap_or_default();
        writeln!(err, "{}:{line}warning: {}", path.display(), warning.text)?;
    }
    if show {
        out.write_all(config.to_toml().as_bytes())?;
    } else {
        writeln!(out, "{}: ok", path.display())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

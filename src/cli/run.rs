//! `run`: the daemon in the foreground, until a signal ends it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::{exit, load};
use crate::control::SocketError;
use crate::daemon::{self, DaemonError, World};
use crate::observe::log::{self, LogHandle};
use crate::observe::systemd;

/// Runs the daemon with the configuration in `file`.
pub async fn run(file: &Path, err: &mut dyn Write) -> io::Result<ExitCode> {
    let config = match load(file, err)? {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let log = match log::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            writeln!(err, "smtp-direct: log: {error}")?;
            return Ok(ExitCode::from(exit::SOFTWARE));
        }
    };
    let (reloads, receiver) = mpsc::channel(1);
    let (mut hangup, mut terminate, mut interrupt) =
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // Among the workers' own tasks: waking it costs them no thread.
    let daemon = tokio::spawn(daemon::run(config, World::default(), receiver, shutdown));
    let ended = tokio::select! {
        ended = daemon => ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
        // Never ends: the sender lives as long as the daemon.
        () = reload_on(&mut hangup, file.to_owned(), reloads, log) => Ok(()),
    };
    Ok(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the daemon cannot run");
            ExitCode::from(match error {
                DaemonError::Layout(_) => exit::CANTCREAT,
                DaemonError::Tls(_) | DaemonError::Control(SocketError::NoGroup { .. }) => exit::CONFIG,
                DaemonError::Store(_)
                | DaemonError::Recover(_)
                | DaemonError::Intake(_)
                | DaemonError::Dns(_)
                | DaemonError::Control(_)
                | DaemonError::OwnAddresses(_) => exit::OSERR,
            })
        }
    })
}

/// Each SIGHUP: the file is read again; with errors in it the old configuration stays.
async fn reload_on(hangup: &mut Signal, file: PathBuf, reloads: mpsc::Sender<crate::config::Config>, log: LogHandle) {
    while hangup.recv().await.is_some() {
        systemd::reloading();
        match crate::config::Config::load(&file) {
            Ok(config) => {
                log.set(&config.log);
                // The daemon is at its end if nobody takes it.
                let _ = reloads.send(config).await;
            }
            Err(errors) => {
                for error in errors.errors() {
                    tracing::error!(%error, "configuration");
                }
                tracing::error!(file = %file.display(), "the file has errors: the old configuration stays in effect");
                systemd::ready("the last reload failed: the old configuration is in effect");
            }
        }
    }
    std::future::pending().await
}

//! The drop directory, listed: hands on names in pieces, so that a million files take no more memory than a few hundred.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::names::{Class, classify};

/// Names that are handed over at once.
const PIECE: usize = 256;

/// A listing that is under way, or none.
#[derive(Debug, Default)]
pub(super) struct Listing(Option<Running>);

#[derive(Debug)]
struct Running {
    pieces: mpsc::Receiver<Vec<OsString>>,
    task: JoinHandle<io::Result<()>>,
}

/// What a listing tells.
#[derive(Debug)]
pub(super) enum Listed {
    /// Some names.
    Names(Vec<OsString>),
    /// That was all.
    End(io::Result<()>),
}

impl Listing {
    pub(super) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Begins; to be called when none is under way.
    pub(super) fn start(&mut self, directory: PathBuf) {
        let (sender, pieces) = mpsc::channel(1);
        self.0 = Some(Running { pieces, task: spawn_blocking(move || list(&directory, &sender)) });
    }

    /// The next piece, or the end; never, where none is under way.
    pub(super) async fn next(&mut self) -> Listed {
        let Some(running) = &mut self.0 else { return std::future::pending().await };
        if let Some(names) = running.pieces.recv().await {
            return Listed::Names(names);
        }
        let result = (&mut running.task).await;
        self.0 = None;
        Listed::End(result.unwrap_or_else(|panic| Err(io::Error::other(panic))))
    }

    /// Ends it early.
    pub(super) async fn stop(&mut self) {
        if let Some(Running { pieces, task }) = self.0.take() {
            drop(pieces);
            let _ = task.await;
        }
    }
}

/// Blocking: hands on the names in `directory` that mean something, in pieces, and ends when nobody takes them any more. Holds one piece.
fn list(directory: &Path, pieces: &mpsc::Sender<Vec<OsString>>) -> io::Result<()> {
    let mut piece = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if classify(&name) == Class::Quiet {
            continue;
        }
        piece.push(name);
        if piece.len() == PIECE && pieces.blocking_send(std::mem::take(&mut piece)).is_err() {
            return Ok(());
        }
    }
    if !piece.is_empty() {
        let _ = pieces.blocking_send(piece);
    }
    Ok(())
}

//! Takes names that stood in `drop/` at the start, hands on those that are new: what an earlier daemon accepted is finished here.
//!
//! A crash between the commit of a row and the rename of its file leaves the file in `drop/`. Accepted again, it would be sent twice.

use std::ffi::OsString;
use std::fs;
use std::sync::Arc;

use tokio::task::{JoinError, spawn_blocking};

use super::batch::{Candidate, Desk, Ended, Fate, Trouble};
use super::judge::Arrival;
use super::{moves, names};
use crate::queue::{Fingerprint, Known, Source};

/// A regular file, and what the queue would know it by.
type Sighting = (Candidate, Source);

impl Desk {
    /// Finishes the files that were accepted before, and gives the others back. Those that cannot be told are to be tried again.
    pub(super) async fn recognise(self: &Arc<Self>, batch: Vec<Candidate>, ended: &mut Ended) -> Result<Vec<Candidate>, JoinError> {
        // What appeared while intake was watching is another file than any that was accepted.
        let (asked, mut new): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|candidate| !matches!(candidate.arrival, Arrival::Renamed | Arrival::Created));
        if asked.is_empty() {
            return Ok(new);
        }
        let drop = self.layout.drop();
        let (sightings, others) = spawn_blocking(move || {
            let (mut sightings, mut others) = (Vec::with_capacity(asked.len()), Vec::new());
            for candidate in asked {
                match fs::symlink_metadata(drop.join(&candidate.name)) {
                    Ok(found) if found.is_file() => {
                        let source = Source { name: names::shown(&candidate.name), fingerprint: Fingerprint::of(&found) };
                        sightings.push((candidate, source));
                    }
                    // Nothing that was ever accepted; what is wrong with it is for the judge to say.
                    _ => others.push(candidate),
                }
            }
            (sightings, others)
        })
        .await?;
        new.extend(others);
        let known = match self.store.known_sources(sightings.iter().map(|(_, source)| source.clone()).collect()).await {
            Ok(known) => known,
            Err(error) => {
                ended.troubles.push(Trouble::Store(error));
                ended.fates.extend(sightings.into_iter().map(|(candidate, _)| (candidate.name, Fate::Retry(candidate.arrival))));
                return Ok(new);
            }
        };
        let mut accepted = Vec::new();
        for (sighting, known) in sightings.into_iter().zip(known) {
            match known {
                Some(known) => accepted.push((sighting, known)),
                None => new.push(sighting.0),
            }
        }
        if !accepted.is_empty() {
            let desk = Arc::clone(self);
            let finished =
                spawn_blocking(move || accepted.into_iter().map(|(sighting, known)| desk.finish(sighting, known)).collect::<Vec<_>>());
            for (name, fate, trouble) in finished.await? {
                ended.fates.push((name, fate));
                ended.troubles.extend(trouble);
            }
        }
        Ok(new)
    }

    /// Blocking.
    fn finish(&self, (candidate, source): Sighting, known: Known) -> (OsString, Fate, Option<Trouble>) {
        let Known { id, .. } = known;
        match moves::finish(&self.layout, &candidate.name, &source.fingerprint, known) {
            Ok(true) => {
                tracing::info!(id = %id, file = %source.name, finished = known.finished_at.is_some(), "was accepted before the daemon ended: moved to its place");
                (candidate.name, Fate::Done, None)
            }
            // Another file has the name: the next look is at that one.
            Ok(false) => (candidate.name, Fate::Full(candidate.arrival), None),
            Err(error) => {
                let trouble = Trouble::Io { doing: "finishing a file that was accepted before the daemon ended", error };
                (candidate.name, Fate::Retry(candidate.arrival), Some(trouble))
            }
        }
    }
}

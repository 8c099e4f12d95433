//! The drop directory, watched: hands on what inotify tells. Nothing depends on it: where it is not to be had, or lost events, rescans
//! find everything.

use std::ffi::OsString;
use std::path::PathBuf;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};

/// Octets for events: some hundred of them a read.
const BUFFER: usize = 16 * 1024;

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Renamed in.
    Renamed(OsString),
    /// Created: opened for writing, or linked.
    Created(OsString),
    /// Its writer closed it.
    Closed(OsString),
    /// Events were lost, or the directory was exchanged.
    Lost,
}

/// inotify on one directory.
pub(super) struct Watch {
    directory: PathBuf,
    stream: Option<EventStream<Vec<u8>>>,
    /// Said already that there is none.
    warned: bool,
}

impl Watch {
    /// Watches `directory`, as far as that is possible.
    pub(super) fn new(directory: PathBuf) -> Self {
        let mut watch = Self { directory, stream: None, warned: false };
        watch.renew();
        watch
    }

    /// Watches what has the directory's name now: the same one as before costs nothing.
    pub(super) fn renew(&mut self) {
        let mask = WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::ONLYDIR;
        let stream = match self.stream.take() {
            Some(stream) => Ok(stream),
            None => Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER])),
        };
        match stream.and_then(|stream| stream.watches().add(&self.directory, mask).map(|_| stream)) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.warned = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(directory = %self.directory.display(), %error, "inotify is not to be had: files are found by rescans only");
                }
            }
        }
    }

    /// The next thing seen; never, where there is no inotify.
    pub(super) async fn next(&mut self) -> Seen {
        loop {
            let Some(stream) = &mut self.stream else { return std::future::pending().await };
            let Some(Ok(event)) = stream.next().await else {
                self.stream = None;
                return Seen::Lost;
            };
            if event.mask.intersects(EventMask::Q_OVERFLOW | EventMask::IGNORED | EventMask::UNMOUNT) {
                return Seen::Lost;
            }
            let Some(name) = event.name else { continue };
            if event.mask.contains(EventMask::MOVED_TO) {
                return Seen::Renamed(name);
            } else if event.mask.contains(EventMask::CREATE) {
                return Seen::Created(name);
            } else if event.mask.contains(EventMask::CLOSE_WRITE) {
                return Seen::Closed(name);
            }
        }
    }
}

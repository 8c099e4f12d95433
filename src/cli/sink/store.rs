//! Takes messages that came in, hands on files: `NUMBER.eml` with the content as it came, `NUMBER.json` with the envelope.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::server::Received;
use crate::clock::Timestamp;

/// A directory of messages. Files appear whole, the envelope before the content; they are not synced to the disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    next: AtomicU64,
}

/// `NUMBER.json`: what lettre's `FileTransport` writes, so that the pair may be dropped into a spool again, and what else is known.
#[derive(Serialize)]
struct Envelope<'a> {
    reverse_path: Option<&'a str>,
    forward_path: Vec<&'a str>,
    /// RFC 3339.
    received_at: String,
    client: String,
    name: &'a str,
    mail_parameters: Vec<&'a str>,
    /// In the order of `forward_path`.
    rcpt_parameters: Vec<Vec<&'a str>>,
}

impl Store {
    /// Opens a directory, making it if need be. Numbers go on after the highest that is there.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        let mut highest: u64 = 0;
        for file in fs::read_dir(&directory)? {
            let name = file?.file_name();
            let number = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        Ok(Self { directory, next: AtomicU64::new(highest.saturating_add(1)) })
    }

    /// Keeps a message. Returns the name of its content's file.
    pub fn keep(&self, message: &Received<'_>, received_at: Timestamp) -> io::Result<String> {
        let words = |text| -> Vec<&str> { str::split_ascii_whitespace(text).collect() };
        let envelope = Envelope {
            reverse_path: Some(message.sender).filter(|sender| !sender.is_empty()),
            forward_path: message.recipients.iter().map(|(path, _)| path).collect(),
            received_at: received_at.to_string(),
            client: message.client.to_string(),
            name: message.name,
            mail_parameters: words(message.mail_parameters),
            rcpt_parameters: message.recipients.iter().map(|(_, parameters)| words(parameters)).collect(),
        };
        let stem = self.claim()?;
        let path = |ending: &str| self.directory.join(format!("{stem}{ending}"));
        let write = || {
            fs::write(path(".eml.tmp"), message.content)?;
            fs::write(path(".json.tmp"), serde_json::to_vec(&envelope)?)?;
            fs::rename(path(".json.tmp"), path(".json"))?;
            fs::rename(path(".eml.tmp"), path(".eml"))
        };
        write().inspect_err(|_| {
            // The disk is full, most likely: leave nothing half-written. What cannot be removed either is a *.tmp, and so no message.
            let _ = fs::remove_file(path(".eml.tmp"));
            let _ = fs::remove_file(path(".json.tmp"));
        })?;
        Ok(format!("{stem}.eml"))
    }

    /// The next number that nobody has, not even another sink on the same directory.
    fn claim(&self) -> io::Result<String> {
        loop {
            let stem = format!("{:06}", self.next.fetch_add(1, Ordering::Relaxed));
            let claimed = self.directory.join(format!("{stem}.eml.tmp"));
            match OpenOptions::new().write(true).create_new(true).open(&claimed) {
                // Whoever had the number before has renamed its file by now, if its claim is gone.
                Ok(_) if self.directory.join(format!("{stem}.eml")).exists() => fs::remove_file(&claimed)?,
                Ok(_) => return Ok(stem),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

//! Takes the configuration file as far as its reader may read it, hands on the little that submission needs: where the spool is, what the host is called.
//!
//! Whoever submits mail is not the daemon: the file may be closed to them, name password files that they may not read, or have an
//! error that the running daemon has not met yet. None of that is a reason to turn mail away, as long as the spool is known for sure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::de::DeTable;

use super::Spool;
use super::load::system_name;
use super::values::full_name;
use crate::message::{Domain, DomainError};

/// The file where nobody names another.
pub const DEFAULT_FILE: &str = "/etc/smtp-direct/smtp-direct.toml";

/// What submission takes from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// `spool.path`.
    pub spool: PathBuf,
    /// `hostname`, or the system's name, full or not.
    pub hostname: Domain,
}

/// Why the spool or the host's name is not known.
#[derive(Debug, Error)]
pub enum SubmissionError {
    /// A file that was asked for by name cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It is not TOML, and what is left of it does not say where the spool is.
    #[error("{path}: it does not say for sure where the spool is: see smtp-direct check")]
    Unclear {
        /// The file.
        path: PathBuf,
    },
    /// The host has no usable name.
    #[error("hostname is not set, and the system's own name is none: {0}")]
    NoName(DomainError),
}

/// Reads `file`, or [`DEFAULT_FILE`]. The default file may be missing or closed to this user: the defaults hold then. One that is asked for
/// by name must be readable.
pub fn for_submission(file: Option<&Path>) -> Result<Submission, SubmissionError> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match fs::read(path) {
        Ok(octets) => String::from_utf8_lossy(&octets).into_owned(),
        Err(error) if file.is_none() && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => String::new(),
        Err(source) => return Err(SubmissionError::Unreadable { path: path.to_owned(), source }),
    };
    from_text(&text, path, system_name().as_deref())
}

fn from_text(text: &str, path: &Path, system_name: Option<&str>) -> Result<Submission, SubmissionError> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.get_ref();
    let spool = table.get("spool").and_then(|section| section.get_ref().get("path"));
    let spool = match spool.map(|value| value.get_ref().as_str()) {
        Some(Some(spool)) if !spool.is_empty() => path.parent().unwrap_or(Path::new("")).join(spool),
        None if errors.is_empty() => Spool::default().path,
        _ => return Err(SubmissionError::Unclear { path: path.to_owned() }),
    };
    let configured = table.get("hostname").and_then(|value| full_name(value.get_ref().as_str()?).ok());
    let hostname = configured.map_or_else(|| Domain::parse(system_name.unwrap_or_default()), Ok).map_err(SubmissionError::NoName)?;
    Ok(Submission { spool, hostname })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, String), String> {
        from_text(text, Path::new("/etc/x/x.toml"), Some("box"))
            .map(|found| (found.spool.display().to_string(), found.hostname.to_string()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_spool_and_name_are_looked_at() {
        for (text, spool, hostname) in [
            ("", "/var/spool/smtp-direct", "box"),
            ("hostname = \"mail.example.org\"\n[spool]\npath = \"/srv/spool\"", "/srv/spool", "mail.example.org"),
            ("[spool]\npath = \"here\"", "/etc/x/here", "box"),
            // Everything else may be wrong.
            ("hostname = 3\nnonsense = 1\n[spool]\npath = \"/s\"\n[[dns.override]]\npassword_file = \"/none\"", "/s", "box"),
            ("[spool]\npath = \"/s\"\n[log]\nlevel = info\n", "/s", "box"),
        ] {
            assert_eq!(read(text), Ok((spool.to_owned(), hostname.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn a_spool_that_is_not_known_for_sure_is_no_spool() {
        for text in ["[spool]\npath = /s\n", "[spool]\npath = 5\n", "[spool\npath = \"/s\"\n", "[spool]\npath = \"\"\n"] {
            // What a recovering parser makes of a broken line must never be the default by accident.
            let found = read(text);
            assert!(
                found.as_ref().is_err_and(|text| text.contains("does not say for sure")) || found.as_ref().is_ok_and(|f| f.0 == "/s"),
                "{text:?}: {found:?}"
            );
        }
        let nameless = from_text("", Path::new("/x"), None).unwrap_err().to_string();
        assert_eq!(nameless, "hostname is not set, and the system's own name is none: the domain is empty");
    }

    #[test]
    fn a_file_asked_for_by_name_must_be_there() {
        let error = for_submission(Some(Path::new("/nonexistent/x.toml"))).unwrap_err();
        assert!(matches!(error, SubmissionError::Unreadable { .. }), "{error}");
    }
}

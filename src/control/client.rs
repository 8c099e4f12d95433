//! The other end of the socket, for the command line: one request a connection, without a runtime.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::ErrorBody;

/// How long the daemon may think: an order for a queue of millions takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
/// Octets of an answer: far above what the daemon sends.
const ANSWER: u64 = 256 << 20;

/// Asks one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the daemon does not run (nobody listens at {path}): start it and try again")]
    Down {
        /// Where.
        path: PathBuf,
    },
    /// The file says no.
    #[error("{path} may not be opened by this user: root may, and so may the daemon's user and the socket's group")]
    Denied {
        /// Where.
        path: PathBuf,
    },
    /// The connection broke, or what came is no answer.
    #[error("{path}: {detail}")]
    Broken {
        /// Where.
        path: PathBuf,
        /// What happened.
        detail: String,
    },
    /// The daemon said no.
    #[error("{error}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's words.
        error: String,
    },
}

impl Client {
    /// For the daemon whose socket is `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it asks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for a resource.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.read(&self.request("GET", target, &[])?)
    }

    /// Asks for a change.
    pub fn post<T: DeserializeOwned>(&self, target: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error.to_string()))?;
        self.read(&self.request("POST", target, &body)?)
    }

    fn read<T: DeserializeOwned>(&self, (status, body): &(u16, Vec<u8>)) -> Result<T, ClientError> {
        if *status != 200 {
            let error =
                serde_json::from_slice::<ErrorBody>(body).map_or_else(|_| format!("answered with status {status}"), |body| body.error);
            return Err(ClientError::Refused { status: *status, error });
        }
        serde_json::from_slice(body)
            .map_err(|error| self.broken(format!("the answer cannot be read ({error}): is the daemon of this version?")))
    }

    /// Status and body of the answer.
    pub fn request(&self, method: &str, target: &str, body: &[u8]) -> Result<(u16, Vec<u8>), ClientError> {
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Down { path: self.path.clone() },
            io::ErrorKind::PermissionDenied => ClientError::Denied { path: self.path.clone() },
            _ => self.broken(error.to_string()),
        })?;
        let mut exchange = || -> io::Result<Vec<u8>> {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let length = body.len();
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: smtp-direct\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            let written = stream.write_all(body);
            let mut answer = Vec::new();
            let read = (&stream).take(ANSWER).read_to_end(&mut answer);
            // A body that is too large is refused before it is through: the answer counts, not that the rest found no taker.
            if answer.is_empty() {
                written?;
                read?;
            }
            Ok(answer)
        };
        let answer = exchange().map_err(|error| self.broken(error.to_string()))?;
        parse(&answer).ok_or_else(|| self.broken("what came is no whole answer".to_owned()))
    }

    fn broken(&self, detail: String) -> ClientError {
        ClientError::Broken { path: self.path.clone(), detail }
    }
}

/// Status and body; `None` unless all of it is there.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))?;
    let length: usize = length.1.trim().parse().ok()?;
    (body.len() == length).then(|| (status, body.to_vec()))
}

/// A name as a part of a path (RFC 3986 2.1).
pub fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for octet in name.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(octet)),
            _ => encoded.push_str(&format!("%{octet:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(whole), Some((200, b"{}".to_vec())));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("10 mx1.a:25, [::1]"), "10%20mx1.a%3A25%2C%20%5B%3A%3A1%5D");
    }
}

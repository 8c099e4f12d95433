//! `[control]`: the socket, and the status page.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeValue;

use super::Control;
use super::reader::Section;
use super::values::{boolean, parsed, path, read_file, text};

/// Characters of a token: what a URL and a cookie take as it is, and nobody guesses.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=200;

/// What whoever asks for the status page must know.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where it was read from.
    pub file: PathBuf,
    secret: Arc<str>,
}

impl Token {
    /// Whether `given` is it. Takes the same time wherever they differ.
    pub fn is(&self, given: &str) -> bool {
        let (own, given) = (self.secret.as_bytes(), given.as_bytes());
        own.len() == given.len() && own.iter().zip(given).fold(0, |all, (own, given)| all | (own ^ given)) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

pub(super) fn control(mut section: Section<'_, '_>, base: &Path, spool: &Path) -> Control {
    let default = Control::default_for(spool);
    let socket = |value: &DeValue<'_>| match text(value)? {
        "" => Ok(None),
        _ => path(base)(value).map(Some),
    };
    let group = |value: &DeValue<'_>| {
        let name = text(value)?;
        let is_name =
            !name.is_empty() && name.len() <= 32 && name.bytes().all(|octet| octet.is_ascii_graphic() && !b":/,".contains(&octet));
        if is_name { Ok(name.to_owned()) } else { Err("must be the name of a group of this host".to_owned()) }
    };
    let socket = section.read("socket", socket, default.socket);
    let group = section.optional("group", group);
    let listen = section.optional("listen", parsed::<SocketAddr>("an address of this host with a port, as \"127.0.0.1:8025\""));
    let token = section.optional("token_file", |value| token(path(base)(value)?));
    let allow_actions = section.read("allow_actions", boolean, false);
    let has_token = token.is_set();
    if listen.value.is_some_and(|listen| !listen.ip().is_loopback()) && !has_token {
        section.blame(&listen, "wants control.token_file: everybody who reaches this address could read the queue");
    }
    if allow_actions.value && !has_token {
        section.blame(&allow_actions, "wants control.token_file: every user of this host could change the queue");
    }
    section.finish();
    Control { socket: socket.value, group: group.value, listen: listen.value, token: token.value, allow_actions: allow_actions.value }
}

/// The content of the file without one trailing line end. Errors name the file, never what is in it.
fn token(file: PathBuf) -> Result<Token, String> {
    let octets = read_file(&file, 1024).map_err(|error| format!("cannot be read: {}: {error}", file.display()))?;
    let text = String::from_utf8(octets).unwrap_or_default();
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let fits = line.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._~".contains(&octet));
    if !fits || !TOKEN.contains(&line.len()) {
        let (min, max) = TOKEN.into_inner();
        return Err(format!("must have {min} to {max} letters, digits and -._~ in it, and nothing else ({})", file.display()));
    }
    Ok(Token { file, secret: line.into() })
}

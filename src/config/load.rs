//! Takes a file or its text, hands on the configuration with what is worth a warning, or all errors.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, Error};

use super::reader::{Reader, line_of, line_starts};
use super::{Config, ConfigError, ConfigErrors, Problem, Warning, control, overrides, sections, show_size};

/// Octets of a configuration file: tens of thousands of overrides.
const MAX_FILE: u64 = 16 << 20;

/// A configuration in text, with what its meaning depends on.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// TOML.
    pub text: &'a str,
    /// Where relative paths begin.
    pub base_dir: &'a Path,
    /// How errors call the file.
    pub file_name: &'a str,
    /// What the system calls itself: the default of `hostname`.
    pub system_name: Option<&'a str>,
}

/// A configuration, and what is allowed in it yet probably not meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// What is in effect.
    pub config: Config,
    /// In the order of the file.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        load_with_warnings(path).map(|effective| effective.config)
    }

    /// Reads text; `file_name` is how errors call it. The default of `hostname` is the system's name.
    pub fn parse(text: &str, base_dir: &Path, file_name: &str) -> Result<Self, ConfigErrors> {
        let system_name = system_name();
        let source = Source { text, base_dir, file_name, system_name: system_name.as_deref() };
        read(&source).map(|effective| effective.config)
    }
}

/// As [`Config::load`], with what is worth a warning.
pub fn load_with_warnings(path: &Path) -> Result<Effective, ConfigErrors> {
    let file_name = path.display().to_string();
    let unreadable = |problem: String, line| {
        let error = ConfigError { line, column: None, key: None, value: None, problem: Problem::Unreadable(problem) };
        ConfigErrors::new(&file_name, vec![error])
    };
    let (octets, mode) = read_file(path).map_err(|error| unreadable(error.to_string(), None))?;
    let text = String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
        unreadable("not UTF-8 text".to_owned(), Some(line))
    })?;
    let absolute = std::path::absolute(path).map_err(|error| unreadable(error.to_string(), None))?;
    let system_name = system_name();
    let source = Source {
        text: &text,
        base_dir: absolute.parent().unwrap_or(Path::new("/")),
        file_name: &file_name,
        system_name: system_name.as_deref(),
    };
    let mut effective = read(&source)?;
    if mode & 0o007 != 0 && has_password(&text) {
        let warning = "this file has a password in it and is open to every user of this host: use password_file, or chmod o= it";
        effective.warnings.insert(0, Warning::new(None, warning));
    }
    Ok(effective)
}

/// Reads text. Where it is not TOML, the syntax errors are all there is: what else the file says cannot be told for sure.
pub fn read(source: &Source<'_>) -> Result<Effective, ConfigErrors> {
    let (table, errors) = DeTable::parse_recoverable(source.text);
    if !errors.is_empty() {
        return Err(ConfigErrors::new(source.file_name, syntax_errors(source.text, &errors)));
    }
    let mut reader = Reader::new(source.text, table.get_ref());
    let effective = read_sections(&mut reader, source);
    match (reader.finish(), effective) {
        (errors, Some(mut effective)) if errors.is_empty() => {
            effective.warnings.extend(super::warnings::shadowed(&effective.config.dns.overrides));
            effective.warnings.sort_by_key(|warning| warning.line);
            Ok(effective)
        }
        (errors, _) => Err(ConfigErrors::new(source.file_name, errors)),
    }
}

/// `spool.path` in a file that has errors elsewhere: for commands that only read the queue. `None` where the file does not say it plainly.
pub fn spool_path_in(file: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    let path = Path::new(table.get("spool")?.get("path")?.as_str()?);
    Some(file.parent().unwrap_or(Path::new("")).join(path))
}

/// Where the control socket is, in a file that has errors elsewhere. `None` where there is none, or the file does not say it plainly.
pub fn control_socket_in(file: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    match table.get("control").and_then(|control| control.get("socket")) {
        None => Some(spool_path_in(file)?.join("control.sock")),
        Some(socket) => socket.as_str().filter(|path| !path.is_empty()).map(|path| file.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// Every key that a file may have, as `(section, key)`; the section of overrides is `dns.override`, that of `hostname` is empty.
pub fn known_keys() -> Vec<(&'static str, &'static str)> {
    const EVERY_SECTION: &str = "[[dns.override]]\n";
    let (table, _) = DeTable::parse_recoverable(EVERY_SECTION);
    let mut reader = Reader::new(EVERY_SECTION, table.get_ref());
    read_sections(&mut reader, &Source { text: EVERY_SECTION, base_dir: Path::new(""), file_name: "", system_name: None });
    reader.known_keys()
}

/// `None` only with an error kept in the reader.
fn read_sections(reader: &mut Reader<'_>, source: &Source<'_>) -> Option<Effective> {
    let mut warnings = Vec::new();
    let hostname = sections::hostname(reader, source.system_name);
    let spool = sections::spool(reader.section("spool"), source.base_dir);
    let sending = sections::sending(reader.section("sending"));
    let retry = sections::retry(reader.section("retry"), &mut warnings);
    let tls = sections::tls(reader.section("tls"), source.base_dir);
    let smtp = sections::smtp(reader.section("smtp"));
    let context = overrides::Context { base: source.base_dir, port: smtp.port, tls: tls.mode, rate: sending.rate, window: smtp.window };
    let dns = sections::dns(reader, &context, &mut warnings);
    let reports = sections::reports(reader.section("reports"), hostname.as_ref());
    let log = sections::log(reader.section("log"));
    let control = control::control(reader.section("control"), source.base_dir, &spool.path);
    let config = Config { hostname: hostname?, spool, sending, retry, dns, tls, smtp, reports: reports?, log, control };
    Some(Effective { config, warnings })
}

/// One error a line, as others follow from the first. The words never quote the file: a password stays where it is.
fn syntax_errors(text: &str, errors: &[Error]) -> Vec<ConfigError> {
    let lines = line_starts(text);
    let mut found: Vec<ConfigError> = errors.iter().map(|error| syntax_error(text, &lines, error)).collect();
    found.sort_by_key(|error| (error.line, error.column));
    found.dedup_by_key(|error| error.line);
    found
}

fn syntax_error(text: &str, lines: &[usize], error: &Error) -> ConfigError {
    let offset = error.span().map(|span| text.floor_char_boundary(span.start.min(text.len())));
    let place = offset.map(|offset| {
        let line = line_of(lines, offset);
        (line, text[lines[line - 1]..offset].chars().count() + 1)
    });
    let plain = offset.and_then(|offset| what_lacks(text, offset));
    let problem = Problem::Syntax(plain.map_or_else(|| error.message().to_owned(), str::to_owned));
    ConfigError { line: place.map(|(line, _)| line), column: place.map(|(_, column)| column), key: None, value: None, problem }
}

/// The two slips that everybody makes, for which the parser's words are of no help ("invalid float" for `level = info`).
fn what_lacks(text: &str, offset: usize) -> Option<&'static str> {
    let before_blanks = |end: usize| text[..end].trim_end_matches([' ', '\t']);
    if matches!(text[offset..].chars().next(), None | Some('\r' | '\n' | '#')) {
        return before_blanks(offset).ends_with('=').then_some("a value is missing");
    }
    let ends_word = |c: char| c.is_whitespace() || "=[],{}\"'".contains(c);
    let start = text[..offset].char_indices().rfind(|(_, c)| ends_word(*c)).map_or(0, |(at, c)| at + c.len_utf8());
    let word = text[start..].split(ends_word).next().unwrap_or_default();
    let line = text[..start].rsplit('\n').next().unwrap_or_default();
    let is_header = line.trim_start().starts_with('[');
    let is_quoted = line.matches(['"', '\'']).count() % 2 == 1;
    let is_text = word.contains(|c: char| c.is_alphabetic() || "/*@:".contains(c)) || word.matches('.').count() > 1;
    let is_value = before_blanks(start).ends_with(['=', '[', ',']);
    (is_value && is_text && !is_header && !is_quoted).then_some("text must be in quotes")
}

fn read_file(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    let mut octets = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", show_size(MAX_FILE))));
    }
    Ok((octets, mode))
}

/// Whether a rule of the file has `password`.
fn has_password(text: &str) -> bool {
    let (table, _) = DeTable::parse_recoverable(text);
    let rules = table.get_ref().get("dns").and_then(|dns| dns.get_ref().get("override")).and_then(|rules| rules.get_ref().as_array());
    rules.is_some_and(|rules| rules.iter().any(|rule| rule.get_ref().get("password").is_some()))
}

/// What the system calls itself.
pub(super) fn system_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

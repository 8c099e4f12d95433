//! Takes one `[[dns.override]]`, hands on an [`Override`]: its conditions, and where to or what instead.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeValue;

use super::reader::{Field, Section};
use super::values::{MAX_WINDOW, boolean, integer, line, path, positive_duration, rate, read_file, server, size, text, word};
use super::{Action, Conditions, Credentials, Override, Pattern, PatternError, Rate, Server, TlsMode, Warning, show_size};
use crate::message::Priority;

/// Octets of a password file: what is longer is the wrong file, and no server takes it.
const MAX_PASSWORD: u64 = 4096;
/// Where equal rules stand.
const DEFAULT_PRIORITY: u32 = 10;
/// TLS from the first byte (RFC 8314 7.3).
const SUBMISSIONS: u16 = 465;

/// What holds where a rule says nothing.
pub(super) struct Context<'a> {
    /// Where relative paths begin.
    pub(super) base: &'a Path,
    /// `smtp.port`.
    pub(super) port: u16,
    /// `tls.mode`.
    pub(super) tls: TlsMode,
    /// `sending.rate`.
    pub(super) rate: Option<Rate>,
    /// `smtp.window`.
    pub(super) window: usize,
}

/// `action`.
#[derive(Clone, Copy)]
enum Verb {
    Hold,
    Reject,
    Discard,
}

/// The keys of sending.
struct Sending {
    server: Field<Option<Server>>,
    priority: Field<u32>,
    tls: Field<TlsMode>,
    rate: Field<Option<Rate>>,
    window: Field<usize>,
    username: Field<Option<String>>,
    password: Field<Option<String>>,
    password_file: Field<Option<(PathBuf, String)>>,
    in_clear: Field<bool>,
}

/// Reads one rule; `None` only with an error kept in the reader.
pub(super) fn read(mut section: Section<'_, '_>, context: &Context<'_>, warnings: &mut Vec<Warning>) -> Option<Override> {
    let rule_line = section.line().unwrap_or(1);
    let conditions = conditions(&mut section);
    let sending = Sending::read(&mut section, context);
    let verb = section.optional("action", word(&[Verb::Hold, Verb::Reject, Verb::Discard], Verb::as_str));
    let reason = section.optional("reason", line);
    let is_final = section.read("final", boolean, false);

    let action = if verb.is_set() {
        sending.stands_beside_action(&mut section);
        verb.value.map(|verb| verb.action(reason.value))
    } else {
        if !sending.server.is_set() {
            section.blame_all("needs server = \"…\" or action = \"…\"");
        }
        refuse_if_set(&mut section, &reason, "stands beside action only");
        sending.check_login(&mut section);
        sending.warn(rule_line, warnings);
        sending.into_action()
    };
    section.finish();
    Some(Override { line: rule_line, conditions, action: action?, is_final: is_final.value })
}

fn conditions(section: &mut Section<'_, '_>) -> Conditions {
    let domain = section.list_or_one("domain", pattern(Pattern::parse_domain), Vec::new());
    let recipient = section.list_or_one("recipient", pattern(Pattern::parse_address), Vec::new());
    let sender = section.list_or_one("sender", pattern(Pattern::parse_sender), Vec::new());
    let min_size = section.optional("min_size", size(1));
    let max_size = section.optional("max_size", size(1));
    let failing_for = section.optional("failing_for", positive_duration);
    let min_attempts = section.optional("min_attempts", integer(1..=1_000_000));
    let priority_class =
        section.list_or_one("priority_class", word(&[Priority::Urgent, Priority::Normal, Priority::Bulk], Priority::as_str), Vec::new());
    let tag = section.list_or_one("tag", pattern(Pattern::parse), Vec::new());

    for list in [&domain, &recipient, &sender, &tag] {
        not_empty(section, list);
    }
    not_empty(section, &priority_class);
    if let (Some(min), Some(max)) = (min_size.value, max_size.value)
        && min > max
    {
        section.blame(&min_size, format!("must not exceed dns.override.max_size ({})", show_size(max)));
    }
    let lists = [&domain, &recipient, &sender, &tag].iter().any(|list| list.is_set()) || priority_class.is_set();
    let sizes = min_size.is_set() || max_size.is_set();
    if !(lists || sizes || failing_for.is_set() || min_attempts.is_set()) {
        section.blame_all(
            "needs a condition: domain, recipient, sender, min_size, max_size, failing_for, min_attempts, priority_class or tag; \
             domain = \"*\" is one",
        );
    }
    Conditions {
        domain: domain.value,
        recipient: recipient.value,
        sender: sender.value,
        min_size: min_size.value,
        max_size: max_size.value,
        failing_for: failing_for.value,
        min_attempts: min_attempts.value,
        priority_class: priority_class.value,
        tag: tag.value,
    }
}

fn pattern(parse: fn(&str) -> Result<Pattern, PatternError>) -> impl Fn(&DeValue<'_>) -> Result<Pattern, String> {
    move |value| match value.as_str() {
        Some(text) => parse(text).map_err(|error| error.to_string()),
        None => Err("must be text in quotes, or a list of such".to_owned()),
    }
}

/// An empty list would match nothing, or everything: nobody could tell.
fn not_empty<T>(section: &mut Section<'_, '_>, list: &Field<Vec<T>>) {
    if list.is_set() && list.is_good() && list.value.is_empty() {
        section.blame(list, "must not be empty; \"*\" matches everything");
    }
}

fn refuse_if_set<T>(section: &mut Section<'_, '_>, field: &Field<T>, advice: &str) {
    if field.is_set() {
        section.blame(field, advice);
    }
}

impl Sending {
    fn read(section: &mut Section<'_, '_>, context: &Context<'_>) -> Self {
        let read_server = |value: &DeValue<'_>| server(text(value)?, context.port).map(Some);
        // joe:secret@host: the mistake is pointed out, the password is not.
        let server = if section.raw("server").is_some_and(|raw| raw.contains('@')) {
            section.read_secret("server", read_server, None)
        } else {
            section.read("server", read_server, None)
        };
        Self {
            server,
            priority: section.read("priority", integer(0..=u64::from(u32::MAX)), DEFAULT_PRIORITY),
            tls: section.read("tls", word(TlsMode::ALL, TlsMode::as_str), context.tls),
            rate: section.read("rate", |value| rate(value).map(Some), context.rate),
            window: section.read("window", integer(1..=MAX_WINDOW), context.window),
            username: section.optional("username", line),
            password: section.read_secret("password", |value| password(text(value)?).map(Some), None),
            password_file: section.optional("password_file", |value| {
                let path = path(context.base)(value)?;
                password_file(&path).map(|password| (path, password))
            }),
            in_clear: section.read("auth_in_clear", boolean, false),
        }
    }

    /// Nothing about sending may stand beside `action`.
    fn stands_beside_action(&self, section: &mut Section<'_, '_>) {
        const ADVICE: &str = "cannot stand beside action: a rule sends, or does something instead";
        refuse_if_set(section, &self.server, ADVICE);
        refuse_if_set(section, &self.priority, ADVICE);
        refuse_if_set(section, &self.tls, ADVICE);
        refuse_if_set(section, &self.rate, ADVICE);
        refuse_if_set(section, &self.window, ADVICE);
        refuse_if_set(section, &self.username, ADVICE);
        refuse_if_set(section, &self.password, ADVICE);
        refuse_if_set(section, &self.password_file, ADVICE);
        refuse_if_set(section, &self.in_clear, ADVICE);
    }

    fn check_login(&self, section: &mut Section<'_, '_>) {
        if !self.username.is_set() {
            const ADVICE: &str = "needs username beside it";
            refuse_if_set(section, &self.password, ADVICE);
            refuse_if_set(section, &self.password_file, ADVICE);
            refuse_if_set(section, &self.in_clear, ADVICE);
            return;
        }
        if self.password.is_set() && self.password_file.is_set() {
            section.blame(&self.password_file, "cannot stand beside password");
        }
        if !self.password.is_set() && !self.password_file.is_set() {
            section.blame(&self.username, "needs password_file or password beside it");
        }
        if self.server.value == Some(Server::Mx) {
            // Whoever can spoof an answer would be told the password.
            section
                .blame(&self.username, "cannot stand beside server = \"mx\": the password would go to whomever DNS names; name the server");
        }
        if self.tls.is_good() && self.tls.value == TlsMode::None && self.in_clear.is_good() && !self.in_clear.value {
            section.blame(&self.username, "cannot be used with tls \"none\"; choose another, or set auth_in_clear = true");
        }
    }

    fn warn(&self, line: usize, warnings: &mut Vec<Warning>) {
        let mut warn = |text: String| warnings.push(Warning::new(Some(line), text));
        if self.in_clear.value {
            warn("auth_in_clear: the password may be sent where everyone on the way can read it".to_owned());
        }
        if let Some(Server::Host { host, port: SUBMISSIONS }) = &self.server.value
            && self.tls.value != TlsMode::Implicit
        {
            warn(format!("{host}:{SUBMISSIONS} speaks TLS from the first byte as a rule: tls = \"implicit\" is wanted then"));
        }
        if let Some((path, _)) = &self.password_file.value
            && std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o007 != 0)
        {
            warn(format!("password_file {} is open to every user of this host: chmod o= it", path.display()));
        }
    }

    fn into_action(self) -> Option<Action> {
        let password = self.password.value.or(self.password_file.value.map(|(_, password)| password));
        let credentials = self.username.value.zip(password);
        Some(Action::Send {
            server: self.server.value?,
            priority: self.priority.value,
            tls: self.tls.value,
            rate: self.rate.value,
            window: self.window.value,
            credentials: credentials.map(|(username, password)| Arc::new(Credentials::new(username, password, self.in_clear.value))),
        })
    }
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Reject => "reject",
            Self::Discard => "discard",
        }
    }

    fn action(self, reason: Option<String>) -> Action {
        match self {
            Self::Hold => Action::Hold { reason: reason.unwrap_or_else(|| "held by an override".to_owned()) },
            // Its reader knows that an override rejected it: the report says so before the reason.
            Self::Reject => Action::Reject { reason: reason.unwrap_or_else(|| "not allowed by local policy".to_owned()) },
            Self::Discard => Action::Discard { reason: reason.unwrap_or_else(|| "discarded by an override".to_owned()) },
        }
    }
}

fn password(text: &str) -> Result<String, String> {
    match text {
        "" => Err("must not be empty".to_owned()),
        // It ends a field of SASL PLAIN (RFC 4616 2).
        text if text.contains('\0') => Err("must not contain NUL".to_owned()),
        text if text.len() as u64 > MAX_PASSWORD => Err(format!("must be at most {MAX_PASSWORD} octets long")),
        text => Ok(text.to_owned()),
    }
}

/// The content of the file without one trailing line end. Errors name the file, never what is in it.
fn password_file(path: &Path) -> Result<String, String> {
    let octets = read_file(path, MAX_PASSWORD + 2).map_err(|error| format!("cannot be read: {}: {error}", path.display()))?;
    let text = String::from_utf8(octets).map_err(|_| format!("is not UTF-8 text ({})", path.display()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(format!("is empty ({})", path.display()));
    }
    password(line).map_err(|problem| format!("{problem} ({})", path.display()))
}

//! Takes a sidecar's octets, hands on an envelope: `NAME.json` as lettre's `FileTransport` writes it, or `NAME.toml`.

use std::ops::Range;

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::clock::Timestamp;
use crate::config::parse_duration;
use crate::message::{Address, AddressError, Envelope, Notify, Priority, Recipient, Ret, ReversePath};

/// Octets that a sidecar may have: room for some hundred thousand recipients.
pub(super) const MAX_SIDECAR: u64 = 16 * 1024 * 1024;
/// Octets of ENVID in its encoded form (RFC 3461 4.4).
const MAX_ENVID: usize = 100;
/// Octets of a tag.
const MAX_TAG: usize = 100;

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// lettre's.
    Json,
    /// With everything that can be asked for.
    Toml,
}

/// Why a sidecar gives no envelope.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// Not JSON, or not an envelope.
    #[error("{0}; it must be {{\"forward_path\": [\"TO\", …], \"reverse_path\": \"FROM\" or null}}")]
    Json(#[source] serde_json::Error),
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Not TOML.
    #[error("line {line}: {message}")]
    Toml {
        /// 1-based.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A key's value is wrong, or the key is unknown.
    #[error("line {line}: {key}: {problem}")]
    Value {
        /// 1-based.
        line: usize,
        /// Which.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// An address of a JSON sidecar.
    #[error("{key}: {source}")]
    Address {
        /// `reverse_path`, or `forward_path[N]`, counted from 0.
        key: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// A key is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// It would be given up before it is tried.
    #[error("`expires` ({expires}) is not after `not_before` ({not_before}): the message would never be tried")]
    NeverTried {
        /// As resolved.
        expires: Timestamp,
        /// As resolved.
        not_before: Timestamp,
    },
}

/// Reads a sidecar; durations in it count from `now`. Recipients are as they stand there: duplicates included, possibly none.
pub fn parse(format: Format, octets: &[u8], now: Timestamp) -> Result<Envelope, SidecarError> {
    match format {
        Format::Json => json(octets),
        Format::Toml => Toml { text: std::str::from_utf8(octets).map_err(|_| SidecarError::NotUtf8)?, now }.envelope(),
    }
}

/// The TOML sidecar of an envelope: what its recipients asked for is what the first of them asked for.
pub(super) fn render(envelope: &Envelope) -> String {
    let mut table = toml::Table::new();
    table.insert("from".to_owned(), envelope.sender.to_string().into());
    table.insert("to".to_owned(), envelope.recipients.iter().map(|to| to.address.to_string()).collect::<Vec<_>>().into());
    if let Some(Notify { failure, delay, success, explicit: true }) = envelope.recipients.first().map(|to| to.notify) {
        let words = [(failure, "failure"), (delay, "delay"), (success, "success"), (!(failure || delay || success), "never")];
        table.insert("notify".to_owned(), words.into_iter().filter_map(|(said, word)| said.then_some(word)).collect::<Vec<_>>().into());
    }
    let ret = envelope.ret.map(|ret| match ret {
        Ret::Full => "full",
        Ret::Headers => "headers",
    });
    let times = [("not_before", envelope.not_before), ("expires", envelope.expires)];
    let priority = (envelope.priority != Priority::default()).then(|| envelope.priority.as_str());
    let words = [("ret", ret), ("envid", envelope.envid.as_deref()), ("tag", envelope.tag.as_deref()), ("priority", priority)];
    let words = words.into_iter().map(|(key, word)| (key, word.map(str::to_owned)));
    for (key, text) in times.into_iter().map(|(key, time)| (key, time.map(|time| time.to_string()))).chain(words) {
        if let Some(text) = text {
            table.insert(key.to_owned(), text.into());
        }
    }
    table.to_string()
}

/// lettre's `Envelope`. `reverse_path` must be there: `null` is the null sender, a forgotten key is not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lettre {
    forward_path: Vec<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    reverse_path: Option<String>,
}

fn json(octets: &[u8]) -> Result<Envelope, SidecarError> {
    let raw: Lettre = serde_json::from_slice(octets).map_err(SidecarError::Json)?;
    let sender = ReversePath::parse(raw.reverse_path.as_deref().unwrap_or_default())
        .map_err(|source| SidecarError::Address { key: "reverse_path".to_owned(), source })?;
    let address = |(at, text): (usize, &String)| {
        Address::parse(text).map_err(|source| SidecarError::Address { key: format!("forward_path[{at}]"), source })
    };
    let recipients: Vec<Address> = raw.forward_path.iter().enumerate().map(address).collect::<Result<_, _>>()?;
    Ok(Envelope::new(sender, recipients))
}

struct Toml<'a> {
    text: &'a str,
    now: Timestamp,
}

/// A value with the name of its key.
struct Entry<'a> {
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl Toml<'_> {
    fn envelope(&self) -> Result<Envelope, SidecarError> {
        let table = DeTable::parse(self.text).map_err(|error| SidecarError::Toml {
            line: self.line(error.span().unwrap_or_default()),
            message: error.message().replace('\n', ", "),
        })?;
        let (mut from, mut to, mut notify) = (None, None, Notify::default());
        let mut envelope = Envelope::new(ReversePath::Null, []);
        for (key, value) in table.get_ref() {
            let entry = Entry { key: key.get_ref(), value };
            match entry.key {
                "from" => from = Some(self.parsed(&entry, ReversePath::parse)?),
                "to" => to = Some(self.recipients(&entry)?),
                "not_before" => envelope.not_before = Some(self.time(&entry)?),
                "expires" => envelope.expires = Some(self.time(&entry)?),
                "priority" => {
                    let known = |word: &str| word.parse::<Priority>().map_err(|()| "write \"urgent\", \"normal\" or \"bulk\"");
                    envelope.priority = self.parsed(&entry, known)?;
                }
                "notify" => notify = self.notify(&entry)?,
                "ret" => envelope.ret = Some(self.parsed(&entry, ret)?),
                "envid" => envelope.envid = Some(self.parsed(&entry, envid)?),
                "tag" => envelope.tag = Some(self.parsed(&entry, tag)?),
                _ => {
                    let known = "unknown key; known are from, to, not_before, expires, priority, notify, ret, envid, tag";
                    return Err(self.problem(entry.key, key.span(), known));
                }
            }
        }
        envelope.sender = from.ok_or(SidecarError::Missing("from"))?;
        let to: Vec<Address> = to.ok_or(SidecarError::Missing("to"))?;
        envelope.recipients = to.into_iter().map(|address| Recipient { address, notify }).collect();
        match (envelope.expires, envelope.not_before) {
            (Some(expires), Some(not_before)) if expires <= not_before => Err(SidecarError::NeverTried { expires, not_before }),
            _ => Ok(envelope),
        }
    }

    fn line(&self, span: Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|octet| *octet == b'\n').count()
    }

    fn problem(&self, key: &str, span: Range<usize>, problem: impl ToString) -> SidecarError {
        SidecarError::Value { line: self.line(span), key: key.to_owned(), problem: problem.to_string() }
    }

    fn text<'v>(&self, key: &str, value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, SidecarError> {
        let found = value.get_ref();
        found.as_str().ok_or_else(|| self.problem(key, value.span(), format!("a string is wanted, not {}", found.type_str())))
    }

    fn parsed<T, E: ToString>(&self, entry: &Entry<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, SidecarError> {
        parse(self.text(entry.key, entry.value)?).map_err(|problem| self.problem(entry.key, entry.value.span(), problem))
    }

    fn list<'v>(&self, entry: &Entry<'v>) -> Result<impl Iterator<Item = &'v Spanned<DeValue<'v>>>, SidecarError> {
        let found = entry.value.get_ref();
        let problem = || self.problem(entry.key, entry.value.span(), format!("a list of strings is wanted, not {}", found.type_str()));
        Ok(found.as_array().ok_or_else(problem)?.iter())
    }

    fn recipients(&self, entry: &Entry<'_>) -> Result<Vec<Address>, SidecarError> {
        self.list(entry)?
            .map(|value| Address::parse(self.text(entry.key, value)?).map_err(|error| self.problem(entry.key, value.span(), error)))
            .collect()
    }

    fn notify(&self, entry: &Entry<'_>) -> Result<Notify, SidecarError> {
        let words: Vec<&str> = self.list(entry)?.map(|value| self.text(entry.key, value)).collect::<Result<_, _>>()?;
        let mut notify = Notify::NEVER;
        for word in &words {
            match *word {
                "failure" => notify.failure = true,
                "delay" => notify.delay = true,
                "success" => notify.success = true,
                "never" if words.len() == 1 => {}
                _ => {
                    let right = "write some of \"failure\", \"delay\", \"success\", or only \"never\"";
                    return Err(self.problem(entry.key, entry.value.span(), right));
                }
            }
        }
        if words.is_empty() { Err(self.problem(entry.key, entry.value.span(), "it is empty: write [\"never\"]")) } else { Ok(notify) }
    }

    /// A time of day with its zone, as TOML's own type or as a string, or a duration from now.
    fn time(&self, entry: &Entry<'_>) -> Result<Timestamp, SidecarError> {
        let right = "write a time with its zone, such as \"2026-11-22T10:00:00Z\", or a duration from acceptance, such as \"2h\"";
        let problem = || self.problem(entry.key, entry.value.span(), right);
        if let Some(time) = entry.value.get_ref().as_datetime() {
            return time.to_string().parse().map_err(|_| problem());
        }
        let text = entry.value.get_ref().as_str().ok_or_else(problem)?;
        match parse_duration(text) {
            Ok(duration) => self.now.checked_add(duration).map_err(|_| problem()),
            Err(_) => text.parse().map_err(|_| problem()),
        }
    }
}

fn ret(word: &str) -> Result<Ret, &'static str> {
    match word {
        "full" => Ok(Ret::Full),
        "headers" => Ok(Ret::Headers),
        _ => Err("write \"full\" or \"headers\""),
    }
}

/// RFC 3461 4.4: printable US-ASCII and space, at most 100 octets as xtext (which writes `+`, `=` and space as three).
fn envid(text: &str) -> Result<String, &'static str> {
    let encoded: usize = text.bytes().map(|octet| if matches!(octet, b'+' | b'=' | b' ') { 3 } else { 1 }).sum();
    if text.is_empty() || encoded > MAX_ENVID || !text.bytes().all(|octet| (32..=126).contains(&octet)) {
        return Err("it must be 1 to 100 printable ASCII characters (each +, = and space counts as three)");
    }
    Ok(text.to_owned())
}

fn tag(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > MAX_TAG || text.chars().any(char::is_control) {
        return Err("it must be 1 to 100 octets without control characters");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn toml(text: &str) -> Result<Envelope, SidecarError> {
        parse(Format::Toml, text.as_bytes(), now())
    }

    fn json(text: &str) -> Result<Envelope, SidecarError> {
        parse(Format::Json, text.as_bytes(), now())
    }

    #[test]
    fn every_key_of_a_toml_sidecar_counts() {
        let envelope = toml(
            "from = \"a@x.test\"\nto = [\"b@y.test\", \"c@z.test\"]\nnot_before = \"2h 30m\"\nexpires = 2026-11-23T12:00:00+02:00\n\
             priority = \"bulk\"\nnotify = [\"failure\", \"success\"]\nret = \"headers\"\nenvid = \"QQ 314159\"\ntag = \"newsletter\"\n",
        )
        .unwrap();
        assert_eq!(envelope.sender.to_string(), "a@x.test");
        assert_eq!(envelope.not_before, Some("2026-11-22T12:30:00Z".parse().unwrap()));
        assert_eq!(envelope.expires, Some("2026-11-23T10:00:00Z".parse().unwrap()));
        assert_eq!((envelope.priority, envelope.ret), (Priority::Bulk, Some(Ret::Headers)));
        assert_eq!((envelope.envid.as_deref(), envelope.tag.as_deref()), (Some("QQ 314159"), Some("newsletter")));
        let notify = Notify { failure: true, delay: false, success: true, explicit: true };
        assert_eq!(
            envelope.recipients.iter().map(|r| (r.address.to_string(), r.notify)).collect::<Vec<_>>(),
            [("b@y.test".to_owned(), notify), ("c@z.test".to_owned(), notify)]
        );
        let plain = toml("from = \"\"\nto = [\"b@y.test\"]\nnotify = [\"never\"]\nexpires = \"2026-11-22T11:00:00Z\"").unwrap();
        assert_eq!((plain.sender, plain.recipients[0].notify), (ReversePath::Null, Notify::NEVER));
    }

    #[test]
    fn what_is_rendered_reads_the_same() {
        let mut envelope =
            Envelope::new(ReversePath::Null, [Address::parse("\"a \\\" b\"@x.test").unwrap(), Address::parse("ü@y.test").unwrap()]);
        assert_eq!(toml(&render(&envelope)).unwrap(), envelope);
        envelope.sender = ReversePath::parse("a@x.test").unwrap();
        envelope.priority = Priority::Bulk;
        (envelope.not_before, envelope.expires) = (Some(now()), Some("2026-11-23T10:00:00.5Z".parse().unwrap()));
        (envelope.envid, envelope.tag) = (Some("QQ \"314159".to_owned()), Some("news".to_owned()));
        for notify in [Notify::NEVER, Notify { failure: true, delay: false, success: true, explicit: true }] {
            envelope.recipients.iter_mut().for_each(|to| to.notify = notify);
            for ret in [Ret::Full, Ret::Headers] {
                envelope.ret = Some(ret);
                assert_eq!(toml(&render(&envelope)).unwrap(), envelope);
            }
        }
    }

    #[test]
    fn a_wrong_toml_sidecar_says_line_key_and_what_is_right() {
        let long = format!("envid = \"{}\"", "+".repeat(34));
        for (line, expected) in [
            ("form = \"a@x\"", "line 3: form: unknown key; known are from, to,"),
            ("to = [\"x@y\"]", "line 3: duplicate key"),
            ("priority = \"high\"", "line 3: priority: write \"urgent\", \"normal\" or \"bulk\""),
            ("priority = 3", "line 3: priority: a string is wanted, not integer"),
            ("notify = [\"never\", \"delay\"]", "line 3: notify: write some of"),
            ("notify = []", "line 3: notify: it is empty"),
            ("notify = \"never\"", "line 3: notify: a list of strings is wanted, not string"),
            ("ret = \"body\"", "line 3: ret: write \"full\" or \"headers\""),
            ("not_before = \"soon\"", "line 3: not_before: write a time with its zone"),
            ("not_before = 2026-11-22T10:00:00", "line 3: not_before: write a time with its zone"),
            ("expires = 5", "line 3: expires: write a time with its zone"),
            // More seconds than a duration holds, and longer than anybody means.
            ("expires = \"18446744073709551615s 1000ms\"", "line 3: expires: write a time with its zone"),
            ("not_before = \"3651d\"", "line 3: not_before: write a time with its zone"),
            ("envid = \"\"", "line 3: envid: it must be 1 to 100 printable"),
            ("envid = \"a\\tb\"", "line 3: envid: it must be 1 to 100 printable"),
            (long.as_str(), "line 3: envid: it must be 1 to 100 printable"),
            ("tag = \"a\\nb\"", "line 3: tag: it must be 1 to 100 octets"),
            ("tag = ", "line 3: "),
            ("not_before = \"2h\"\nexpires = \"1h\"", "`expires` (2026-11-22T11:00:00Z) is not after `not_before`"),
        ] {
            let error = toml(&format!("from = \"a@x.test\"\nto = [\"b@y.test\"]\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
        assert_eq!(toml("to = []").unwrap_err().to_string(), "`from` is missing");
        assert_eq!(toml("from = \"a@b\"").unwrap_err().to_string(), "`to` is missing");
        let error = toml("from = \"a@x\"\nto = [\n  \"b@y\",\n  \"c@z\\r\\nRCPT TO:<d@z>\",\n]").unwrap_err().to_string();
        assert_eq!(error, "line 4: to: \"c@z\\r\\nRCPT TO:<d@z>\" contains a control character");
        assert_eq!(parse(Format::Toml, b"from = \"\xff\"", now()).unwrap_err().to_string(), "it is not UTF-8");
    }

    #[test]
    fn json_is_lettres_envelope_and_nothing_else() {
        let envelope = json(r#"{"forward_path": ["b@y.test"], "reverse_path": "a@x.test"}"#).unwrap();
        assert_eq!((envelope.sender.to_string().as_str(), envelope.recipients.len()), ("a@x.test", 1));
        assert_eq!(json(r#"{"forward_path": ["b@y.test"], "reverse_path": null}"#).unwrap().sender, ReversePath::Null);
        for (text, expected) in [
            (r#"{"forward_path": ["b@y.test"]}"#, "missing field `reverse_path`"),
            (r#"{"forward_path": [], "reverse_path": null, "cc": 1}"#, "unknown field `cc`, expected `forward_path` or `reverse_path`"),
            (r#"{"forward_path": ["b@y.test"], "reverse"#, "EOF while parsing"),
            ("", "EOF while parsing a value at line 1 column 0"),
            (r#"{"forward_path": ["b@y", "c@y\r\nDATA"], "reverse_path": null}"#, "forward_path[1]: \"c@y\\r\\nDATA\" contains a control"),
            (r#"{"forward_path": [], "reverse_path": "a"}"#, "reverse_path: \"a\" has no domain"),
        ] {
            let error = json(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = parse(Format::Json, &octets, now());
            let _ = parse(Format::Toml, &octets, now());
        }

        #[test]
        fn no_lines_make_it_panic(text in r#"((from|to|x|expires|notify) = ("[a-z@"]{0,5}"?|\[.{0,10}|\{|[0-9:T-]{0,20})\n){0,5}"#) {
            let _ = toml(&text);
        }
    }
}

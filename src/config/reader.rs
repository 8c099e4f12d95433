//! Takes a parsed TOML table, hands on typed fields; keeps every error on the way, and every key that was asked for, so that
//! the others are known to be unknown.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Problem};

/// Characters of a value that an error shows.
const SHOWN: usize = 60;

/// One file while it is read.
pub(super) struct Reader<'t> {
    text: &'t str,
    root: &'t DeTable<'t>,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
    visited: Vec<Visited<'t>>,
    sections: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

/// A table that was read, and the keys that were asked for.
struct Visited<'t> {
    path: &'static str,
    table: Option<&'t DeTable<'t>>,
    known: Vec<&'static str>,
}

/// A table while it is read; missing ones are read like empty ones.
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader<'t>,
    path: &'static str,
    table: Option<&'t DeTable<'t>>,
    /// Of its header.
    line: Option<usize>,
    known: Vec<&'static str>,
}

/// A key's value, or its default where it is missing or bad.
#[derive(Debug, Clone)]
pub(super) struct Field<T> {
    /// What to go on with.
    pub(super) value: T,
    key: &'static str,
    /// Line and text in the file.
    set: Option<(usize, Option<String>)>,
    bad: bool,
}

impl<T> Field<T> {
    /// Whether the file has the key, with a good value or not.
    pub(super) fn is_set(&self) -> bool {
        self.set.is_some()
    }

    /// Whether rules between keys may look at the value: an error of its own was not found.
    pub(super) fn is_good(&self) -> bool {
        !self.bad
    }
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, root: &'t DeTable<'t>) -> Self {
        let lines = line_starts(text);
        Self { text, root, lines, visited: Vec::new(), sections: Vec::new(), errors: Vec::new() }
    }

    /// The keys before the first section.
    pub(super) fn top(&mut self) -> Section<'_, 't> {
        let table = Some(self.root);
        Section { reader: self, path: "", table, line: None, known: Vec::new() }
    }

    /// `[name]`.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        self.sections.push(name);
        let entry = self.root.get_key_value(name);
        let line = entry.map(|(key, value)| self.line(if value.get_ref().is_table() { value.span() } else { key.span() }));
        let table = entry.and_then(|(_, value)| value.get_ref().as_table());
        if entry.is_some() && table.is_none() {
            self.error(line, Some(name), Problem::Value(format!("must be a section, written [{name}]")));
        }
        Section { reader: self, path: name, table, line, known: Vec::new() }
    }

    /// One table of an array of tables, as [`Section::tables`] gave it.
    pub(super) fn table(&mut self, path: &'static str, (table, line): (&'t DeTable<'t>, usize)) -> Section<'_, 't> {
        Section { reader: self, path, table: Some(table), line: Some(line), known: Vec::new() }
    }

    /// An error of the file as a whole.
    pub(super) fn error(&mut self, line: Option<usize>, key: Option<&str>, problem: Problem) {
        self.errors.push(ConfigError { line, column: None, key: key.map(str::to_owned), value: None, problem });
    }

    /// All errors, unknown keys among them.
    pub(super) fn finish(mut self) -> Vec<ConfigError> {
        let unknown: Vec<ConfigError> = {
            let known = self.known_keys();
            self.visited.iter().flat_map(|visited| self.unknown_keys(visited, &known)).collect()
        };
        self.errors.extend(unknown);
        self.errors
    }

    /// Every key that was asked for, as (section, key), each once.
    pub(super) fn known_keys(&self) -> Vec<(&'static str, &'static str)> {
        let mut keys: Vec<_> = self.visited.iter().flat_map(|visited| visited.known.iter().map(move |&key| (visited.path, key))).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn unknown_keys(&self, visited: &Visited<'t>, all: &[(&'static str, &'static str)]) -> Vec<ConfigError> {
        let at_top = visited.path.is_empty();
        let is_known = |key: &str| visited.known.contains(&key) || (at_top && self.sections.contains(&key));
        let entries = visited.table.into_iter().flat_map(|table| table.iter());
        entries
            .filter(|(key, _)| !is_known(key.get_ref()))
            .map(|(key, value)| ConfigError {
                line: Some(self.line(key.span())),
                column: None,
                key: Some(joined(visited.path, &cut(key.get_ref()))),
                value: None,
                problem: Problem::UnknownKey(self.advice(visited, all, key.get_ref(), value.get_ref().is_table())),
            })
            .collect()
    }

    /// What the writer of an unknown key may have meant.
    fn advice(&self, visited: &Visited<'t>, all: &[(&'static str, &'static str)], key: &str, is_table: bool) -> String {
        let at_top = visited.path.is_empty();
        let sections = || self.sections.iter().copied().filter(|_| at_top);
        // A third of the letters may be wrong: "worker", "time_out", "shedule".
        let near = |known: &str| {
            let distance = strsim::damerau_levenshtein(&key.to_lowercase(), known);
            (distance <= known.len().div_ceil(3).min(4)).then_some(distance)
        };
        let keys = visited.known.iter().copied().filter(|_| !(at_top && is_table));
        let nearest = keys.map(|known| (known, false)).chain(sections().map(|known| (known, true)));
        let nearest = nearest.filter_map(|(known, is_section)| near(known).map(|distance| (distance, known, is_section))).min();
        let elsewhere = all.iter().find(|(path, known)| *path != visited.path && *known == key);
        match (elsewhere, nearest) {
            (Some((path, _)), _) if key == "override" => format!("section; rules are written [[{path}.override]]"),
            (Some(("", _)), _) => "key; it stands before the first section".to_owned(),
            (Some((path, _)), _) => format!("key; {} has one of this name", heading(path)),
            (None, Some((_, known, true))) => format!("section; did you mean [{known}]?"),
            (None, Some((_, known, false))) => format!("key; did you mean \"{known}\"?"),
            (None, None) if at_top && is_table => format!("section; there are {}", self.sections.join(", ")),
            (None, None) if at_top => format!("key; before the first section there is only {}", visited.known.join(", ")),
            (None, None) => format!("key; {} has {}", heading(visited.path), visited.known.join(", ")),
        }
    }

    fn line(&self, span: Range<usize>) -> usize {
        line_of(&self.lines, span.start)
    }

    /// The value as the file has it, on one line and cut; nothing of tables, which may hold passwords.
    fn shown(&self, value: &DeValue<'_>, span: Range<usize>) -> Option<String> {
        let holds_table = match value {
            DeValue::Table(_) => true,
            DeValue::Array(array) => array.iter().any(|value| value.get_ref().is_table() || value.get_ref().is_array()),
            _ => false,
        };
        if holds_table { None } else { self.text.get(span).map(|raw| cut(&raw.split_whitespace().collect::<Vec<_>>().join(" "))) }
    }
}

impl<'t> Section<'_, 't> {
    /// Reads a key by `convert`, whose error says what would be right.
    pub(super) fn read<T>(&mut self, key: &'static str, convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>, default: T) -> Field<T> {
        self.read_with(key, convert, default, true)
    }

    /// As [`read`](Self::read); errors never show the value.
    pub(super) fn read_secret<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
        default: T,
    ) -> Field<T> {
        self.read_with(key, convert, default, false)
    }

    /// Reads a key that has no default.
    pub(super) fn optional<T>(&mut self, key: &'static str, convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>) -> Field<Option<T>> {
        self.read(key, |value| convert(value).map(Some), None)
    }

    /// Reads a list, entry by entry, so that each bad one is reported at its own line.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&DeValue<'t>) -> Result<T, String>,
        default: Vec<T>,
    ) -> Field<Vec<T>> {
        let entry = self.entry(key);
        match entry {
            Some(value) if value.get_ref().as_array().is_none() => {
                self.read(key, |_| Err("must be a list, as [\"…\", \"…\"]".to_owned()), default)
            }
            _ => self.list_or_one(key, convert, default),
        }
    }

    /// Reads a list, or one value for a list of one.
    pub(super) fn list_or_one<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&DeValue<'t>) -> Result<T, String>,
        default: Vec<T>,
    ) -> Field<Vec<T>> {
        let Some(array) = self.entry(key).and_then(|value| value.get_ref().as_array()) else {
            return self.read(key, |value| convert(value).map(|one| vec![one]), default);
        };
        let mut field = self.read(key, |_| Ok(Vec::with_capacity(array.len())), Vec::new());
        for value in array.iter() {
            match convert(value.get_ref()) {
                Ok(entry) => field.value.push(entry),
                Err(problem) => {
                    field.bad = true;
                    let reader = &mut *self.reader;
                    let (line, shown) = (reader.line(value.span()), reader.shown(value.get_ref(), value.span()));
                    self.push(Some(line), Some(key), shown, Problem::Value(problem));
                }
            }
        }
        field
    }

    /// An array of tables, each with the line of its header.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(&'t DeTable<'t>, usize)> {
        self.known.push(key);
        let Some(value) = self.entry(key) else { return Vec::new() };
        let wrong = format!("must be written [[{}]], in double brackets, for each rule", joined(self.path, key));
        let Some(array) = value.get_ref().as_array() else {
            let line = self.reader.line(value.span());
            self.push(Some(line), Some(key), None, Problem::Value(wrong));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in array.iter() {
            let line = self.reader.line(value.span());
            match value.get_ref().as_table() {
                Some(table) => tables.push((table, line)),
                None => self.push(Some(line), Some(key), None, Problem::Value(wrong.clone())),
            }
        }
        tables
    }

    /// The value of a key as the file has it.
    pub(super) fn raw(&self, key: &str) -> Option<&'t str> {
        self.reader.text.get(self.entry(key)?.span())
    }

    /// The line of the section's header, where the file has it.
    pub(super) fn line(&self) -> Option<usize> {
        self.line
    }

    /// An error about a key and other keys.
    pub(super) fn blame<T>(&mut self, field: &Field<T>, problem: impl Into<String>) {
        let (line, shown) = field.set.clone().map_or((self.line, None), |(line, shown)| (Some(line), shown));
        self.push(line, Some(field.key), shown, Problem::Rule(problem.into()));
    }

    /// An error about the section.
    pub(super) fn blame_all(&mut self, problem: impl Into<String>) {
        self.push(self.line, None, None, Problem::Rule(problem.into()));
    }

    /// Demands `low` ≤ `high`. Where one of them is the default, the other is blamed.
    pub(super) fn ordered<T: PartialOrd>(&mut self, low: &Field<T>, high: &Field<T>, show: impl Fn(&T) -> String) {
        if low.bad || high.bad || low.value <= high.value {
        } else if low.is_set() {
            self.blame(low, format!("must not exceed {} ({})", joined(self.path, high.key), show(&high.value)));
        } else {
            self.blame(high, format!("must not be below {} ({})", joined(self.path, low.key), show(&low.value)));
        }
    }

    /// Every key has been asked for.
    pub(super) fn finish(self) {
        self.reader.visited.push(Visited { path: self.path, table: self.table, known: self.known });
    }

    fn entry(&self, key: &str) -> Option<&'t toml::Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    fn read_with<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
        default: T,
        show: bool,
    ) -> Field<T> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let Some((name, value)) = self.table.and_then(|table| table.get_key_value(key)) else {
            return Field { value: default, key, set: None, bad: false };
        };
        let line = self.reader.line(name.span());
        let shown = if show { self.reader.shown(value.get_ref(), value.span()) } else { None };
        let (value, bad) = match convert(value.get_ref()) {
            Ok(value) => (value, false),
            Err(problem) => {
                self.push(Some(line), Some(key), shown.clone(), Problem::Value(problem));
                (default, true)
            }
        };
        Field { value, key, set: Some((line, shown)), bad }
    }

    fn push(&mut self, line: Option<usize>, key: Option<&str>, value: Option<String>, problem: Problem) {
        let key = key.map_or_else(|| self.path.to_owned(), |key| joined(self.path, key));
        self.reader.errors.push(ConfigError { line, column: None, key: Some(key), value, problem });
    }
}

/// Offsets at which lines begin.
pub(super) fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1)).collect()
}

/// The 1-based line of an offset.
pub(super) fn line_of(lines: &[usize], offset: usize) -> usize {
    lines.partition_point(|&start| start <= offset)
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// How a section is written.
fn heading(path: &str) -> String {
    if path.contains('.') { format!("[[{path}]]") } else { format!("[{path}]") }
}

fn cut(text: &str) -> String {
    let shown = text.chars().take(SHOWN).map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
    shown.chain([more.to_owned()]).collect()
}

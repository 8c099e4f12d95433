//! What people read: takes cells, texts and times, hands on aligned lines of at most 100 columns. Colours are always written: the writer
//! that `run` is given (anstream's) drops them where they do not belong. JSON lines for programs are written here too.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::outcome::Kind;

/// Columns that everything fits into.
const WIDTH: usize = 100;

/// Headings and names.
pub(super) const BOLD: Style = Style::new().bold();
/// What matters less.
pub(super) const DIM: Style = Style::new().dimmed();
/// What went well, or is under way.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What wants attention.
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
/// What went wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// Everything else.
pub(super) const PLAIN: Style = Style::new();

/// The colour of an outcome.
pub(super) fn style_of(kind: Kind) -> Style {
    match kind {
        Kind::Delivered => GOOD,
        Kind::Deferred => WARN,
        Kind::Failed => BAD,
    }
}

/// Rows under headings, each one line and perhaps a note on the next. The last column gets what the others leave.
pub(super) struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<Row<N>>,
}

struct Row<const N: usize> {
    cells: [String; N],
    style: Style,
    note: Option<String>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&'static str; N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N], style: Style, note: Option<String>) {
        self.rows.push(Row { cells: cells.map(|cell| clean(&cell)), style, note });
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        const GAP: usize = 2;
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_header(self.headings);
        let others: usize = (0..N.saturating_sub(1)).map(|n| self.width(n) + GAP).sum();
        for row in &self.rows {
            let mut cells = row.cells.clone();
            if let Some(last) = cells.last_mut() {
                *last = cut(last, WIDTH.saturating_sub(others).max(10));
            }
            table.add_row(cells);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP as u16));
        }
        let mut lines = table.lines();
        if let Some(headings) = lines.next() {
            line(out, BOLD, headings.trim_end())?;
        }
        for (row, cells) in self.rows.iter().zip(lines) {
            line(out, row.style, cells.trim_end())?;
            if let Some(note) = &row.note {
                line(out, DIM, &format!("    {}", cut(&clean(note), WIDTH - 4)))?;
            }
        }
        Ok(())
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.cells.get(column)).map(|cell| cell.chars().count());
        cells.chain(self.headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
    }
}

/// One line.
pub(super) fn line(out: &mut dyn Write, style: Style, text: &str) -> io::Result<()> {
    writeln!(out, "{style}{text}{style:#}")
}

/// Words, broken at the width, each line indented.
pub(super) fn paragraph(out: &mut dyn Write, indent: usize, style: Style, text: &str) -> io::Result<()> {
    let mut current = String::new();
    for word in clean(text).split(' ') {
        let length = current.chars().count();
        if length > 0 && indent + length + 1 + word.chars().count() > WIDTH {
            line(out, style, &format!("{:indent$}{current}", ""))?;
            current.clear();
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    line(out, style, &format!("{:indent$}{current}", ""))
}

/// A name and its value.
pub(super) fn field(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {DIM}{name:<12}{DIM:#}{}", clean(value))
}

/// One object, one line.
pub(super) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// File names and peers' words must not drive the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// The largest unit that fits, rounded down: `45s`, `3m`, `2h`, `5d`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long since, without a word; a clock that was set back counts as zero.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(then).try_into().unwrap_or_default())
}

/// `3m ago`, `now`, `in 2h`.
pub(super) fn relative(then: Timestamp, now: Timestamp) -> String {
    match then.as_second() - now.as_second() {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(then.duration_since(now).try_into().unwrap_or_default())),
        _ => format!("{} ago", age(then, now)),
    }
}

/// `2026-11-22 09:43:05Z (3m ago)`.
pub(super) fn moment(then: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", then.strftime("%Y-%m-%d %H:%M:%SZ"), relative(then, now))
}

/// `2.2 KiB`.
pub(super) fn size(octets: u64) -> String {
    bytesize::ByteSize::b(octets).to_string()
}

/// `1 copy`, `2 copies`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn plain(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut anstream::StripStream::new(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let told: Vec<String> = [0, 59, 60, 3599, 3600, 86_399, 86_400, 900_000].iter().map(|&s| span(Duration::from_secs(s))).collect();
        assert_eq!(told, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
        assert_eq!([relative(at(0), at(150)), relative(at(150), at(0)), relative(at(5), at(5))], ["2m ago", "in 2m", "now"]);
        assert_eq!(age(at(10), at(0)), "0s");
        assert_eq!(moment(at(1_790_000_000), at(1_790_000_060)), "2026-09-21 14:13:20Z (1m ago)");
    }

    #[test]
    fn columns_are_aligned_and_the_last_one_is_cut() {
        let mut table = Table::new(["A", "LONGER", "REST"]);
        table.row(["first".to_owned(), "x".to_owned(), "y".repeat(200)], PLAIN, None);
        table.row(["é".to_owned(), "\u{1b}[31m".to_owned(), "z".to_owned()], GOOD, Some("n".repeat(200)));
        let text = plain(|out| table.write(out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A      LONGER  REST");
        assert_eq!(lines[1], format!("first  x       {}…", "y".repeat(84)));
        assert_eq!(lines[2], "é      \u{fffd}[31m   z");
        assert_eq!(lines[3], format!("    {}…", "n".repeat(95)));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn words_are_broken_at_the_width() {
        let text = plain(|out| paragraph(out, 4, PLAIN, &"words ".repeat(30)));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.starts_with("    words") && line.chars().count() <= WIDTH));
    }
}

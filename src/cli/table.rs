//! What people read: takes cells, texts and times, hands on aligned lines of at most 100 columns. Colours are always written: the writer
//! that `run` is given (anstream's) drops them where they do not belong. JSON lines for programs are written here too.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use serde::Serialize;

pub(super) use crate::observe::human::{age, count, moment, relative, size, span};
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

/// As many characters as fit, the last one a sign that there is more.
pub(super) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut anstream::StripStream::new(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
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

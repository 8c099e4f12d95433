//! The parts that all pages have in common.

use clap_mangen::roff::{Roff, bold, roman};

use super::Title;

/// What `.TH` names the collection.
pub(super) const MANUAL: &str = "smtp-direct";

/// This program and its version.
pub(super) fn source() -> String {
    format!("smtp-direct {}", env!("CARGO_PKG_VERSION"))
}

/// A page that begins with its title line and its name.
pub(super) fn begin(title: &Title<'_>, about: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", [title.name, title.section, title.date, &source(), MANUAL]);
    section(&mut page, "NAME");
    page.text([roman(format!("{} - {about}", title.name))]);
    page
}

pub(super) fn section(page: &mut Roff, name: &str) {
    page.control("SH", [name]);
}

/// A paragraph with its terms in front: one, or several that share a text.
pub(super) fn item(page: &mut Roff, terms: &[String], text: &str) {
    for (n, term) in terms.iter().enumerate() {
        page.control(if n == 0 { "TP" } else { "TQ" }, []);
        page.text([bold(term.as_str())]);
    }
    page.text([roman(text)]);
}

pub(super) fn paragraph(page: &mut Roff, text: &str) {
    page.control("PP", []);
    page.text([roman(text)]);
}

/// Without macros that man(1) skips: a paragraph that begins a section, a break beside an empty line, a second
/// definition of the apostrophe (both clap_mangen's).
pub(super) fn tidy(page: &str) -> String {
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    let is = |n: Option<&&str>, what: &str| n.is_some_and(|line| *line == what);
    let mut text = String::with_capacity(page.len());
    for (n, line) in lines.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|n| lines.get(n));
        match *line {
            ".PP" if before.is_some_and(|line| line.starts_with(".SH")) => {}
            ".br" if is(before, "") || is(lines.get(n + 1), "") => {}
            line if n > 1 && (line.starts_with(".ie \\n(.g .ds Aq") || line.starts_with(".el .ds Aq")) => {}
            "" => text.push_str(".sp\n"),
            line => text.extend([line, "\n"]),
        }
    }
    text
}

/// Lines as they are.
pub(super) fn verbatim<'a>(page: &mut Roff, lines: impl IntoIterator<Item = &'a str>) {
    page.control("PP", []);
    page.control("EX", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("EE", []);
}

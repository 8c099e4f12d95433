//! smtp-direct.toml(5): takes the commented configuration file, hands on its page. Comments stand above the keys that they tell of.

use clap_mangen::roff::Roff;

use super::Title;
use super::roff::{begin, item, paragraph, section, tidy, verbatim};
use crate::config;

const FILE: &str = include_str!("../../../config/smtp-direct.toml");
/// The rules are told by their example, which has each key with its comment.
const RULE: &str = "#[[dns.override]]";

/// What is read until something else begins: comments, then the keys that they are about.
#[derive(Default)]
struct Group {
    comments: Vec<&'static str>,
    keys: Vec<String>,
}

impl Group {
    /// Writes it, and begins anew.
    fn end(&mut self, page: &mut Roff) {
        let Self { comments, keys } = std::mem::take(self);
        let text = comments.join(" ");
        match (keys.is_empty(), text.is_empty()) {
            (true, true) => {}
            (true, false) => paragraph(page, &text),
            (false, _) => item(page, &keys, &text),
        }
    }
}

pub(super) fn page(title: &Title<'_>) -> String {
    let mut page = begin(title, "configuration of smtp-direct");
    section(&mut page, "SYNOPSIS");
    paragraph(&mut page, config::DEFAULT_FILE);
    section(&mut page, "DESCRIPTION");
    let mut group = Group::default();
    let mut lines = FILE.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(RULE) {
            group.end(&mut page);
            let rule = std::iter::once(line).chain(std::iter::from_fn(|| lines.next_if(|line| line.starts_with('#'))));
            verbatim(&mut page, rule.map(|line| &line[1..]));
        } else if let Some(name) = line.strip_prefix('[') {
            group.end(&mut page);
            section(&mut page, &format!("[{name}"));
        } else if line.is_empty() || line == "#" {
            group.end(&mut page);
        } else if let Some(comment) = line.strip_prefix("# ") {
            if !group.keys.is_empty() {
                group.end(&mut page);
            }
            group.comments.push(comment);
        } else {
            // A key without a default stands there as a comment, with an example.
            let (key, example) = line.strip_prefix('#').map_or((line, ""), |key| (key, "    (an example)"));
            let mut key = key.to_owned();
            // A list over several lines ends with its bracket.
            while key.matches('[').count() > key.matches(']').count()
                && let Some(more) = lines.next()
            {
                key.push(' ');
                key.push_str(more.trim_start());
            }
            group.keys.push(key + example);
        }
    }
    group.end(&mut page);
    section(&mut page, "SEE ALSO");
    paragraph(&mut page, "smtp-direct(1), smtp-direct-check(1), smtp-direct-route(1)");
    tidy(&page.render())
}

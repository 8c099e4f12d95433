//! Pages of section 1: takes the command line's definition, hands on smtp-direct.1 and a page for each subcommand.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::Roff;

use super::Title;
use super::roff::{MANUAL, begin, item, paragraph, section, source, tidy, verbatim};
use crate::cli::sendmail::HELP;

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("64", "Wrong usage."),
    ("65", "Bad data: an address, an id, a message."),
    ("66", "Something named is not there: a message, the queue's database."),
    ("69", "What is asked for cannot be had: no server answers, or none takes the address."),
    ("70", "An error in the program."),
    ("71, 73, 74", "The system failed: a resource, a directory or file that cannot be made, reading or writing."),
    ("75", "A failure that may pass: try again."),
    ("77", "Not permitted: the user is no member of the spool's group, or may not read the queue."),
    ("78", "The configuration has errors; all of them are told. The unit does not start the daemon again after this."),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/smtp-direct/smtp-direct.toml", "The configuration, see smtp-direct.toml(5). Another one: --config."),
    ("/var/spool/smtp-direct/tmp/", "Where writers build files."),
    ("/var/spool/smtp-direct/drop/", "Where they rename them to: one file named *.eml is one message."),
    ("/var/spool/smtp-direct/queue/", "The daemon's own: state.db and the messages' files."),
    ("/var/spool/smtp-direct/rejected/", "Files that could not be accepted, each with its reason in NAME.reason."),
    ("/var/spool/smtp-direct/failed/", "What could be neither delivered nor returned."),
];

const SIGNALS: &[(&str, &str)] = &[
    ("SIGHUP", "The daemon reads its configuration again. A file with errors is refused, and the old one stays in effect."),
    ("SIGTERM, SIGINT", "The daemon ends, after what is under way, or sending.shutdown_grace."),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("Validate the configuration, and show what is in effect:", "smtp-direct check --show"),
    ("Where would mail for an address go, and why?", "smtp-direct route joe@example.com"),
    ("Hand in a message as programs do:", "mv hello.eml /var/spool/smtp-direct/drop/"),
    ("What waits?", "smtp-direct queue"),
    ("Why has mail for somebody not arrived, and what happens next?", "smtp-direct queue why joe@example.com"),
    ("What became of the mail to somebody?", "smtp-direct history --to joe@example.com --since 2d"),
    ("See it all, without network or configuration:", "smtp-direct demo"),
];

/// Writes the page of `command`, which is built, and those of its subcommands.
pub(super) fn write(command: &Command, directory: &Path, date: &str) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let text = if name == "smtp-direct-sendmail" { sendmail(&Title { name, section: "1", date }) } else { page(command, name, date)? };
    fs::write(directory.join(format!("{name}.1")), tidy(&text))?;
    command.get_subcommands().try_for_each(|sub| write(sub, directory, date))
}

fn page(command: &Command, name: &str, date: &str) -> io::Result<String> {
    let man = Man::new(command.clone()).title(name).section("1").date(date).source(source()).manual(MANUAL);
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut more = Roff::new();
    let is_main = name == command.get_name();
    let notes = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    notes.iter().flat_map(|notes| notes.split("\n\n")).for_each(|text| note(&mut more, text));
    if is_main {
        section(&mut more, "EXIT STATUS");
        items(&mut more, EXIT_STATUS);
        section(&mut more, "FILES");
        items(&mut more, FILES);
        section(&mut more, "SIGNALS");
        items(&mut more, SIGNALS);
        section(&mut more, "EXAMPLES");
        for (what, how) in EXAMPLES {
            paragraph(&mut more, what);
            verbatim(&mut more, [*how]);
        }
    } else if notes.is_none() {
        section(&mut more, "EXIT STATUS");
        paragraph(&mut more, "0 on success; else as smtp-direct(1) lists them.");
    }
    section(&mut more, "SEE ALSO");
    paragraph(
        &mut more,
        if is_main {
            "smtp-direct.toml(5), smtp-direct-sendmail(1), systemctl(1), journalctl(1)"
        } else {
            "smtp-direct(1), smtp-direct.toml(5)"
        },
    );
    more.to_writer(&mut out)?;
    String::from_utf8(out).map_err(io::Error::other)
}

fn items(page: &mut Roff, items: &[(&str, &str)]) {
    for (term, text) in items {
        item(page, &[(*term).to_owned()], text);
    }
}

/// A paragraph that stands below the options in `--help`: the exit codes, where it says so.
fn note(page: &mut Roff, text: &str) {
    let (heading, text) = text.strip_prefix("Exit codes: ").map_or(("NOTES", text), |codes| ("EXIT STATUS", codes));
    section(page, heading);
    paragraph(page, text);
}

/// sendmail's options are not clap's: its page is its help, whose first part is a line, then the usage, a list and paragraphs.
fn sendmail(title: &Title<'_>) -> String {
    let mut parts = HELP.split("\n\n");
    let about = parts.next().unwrap_or_default();
    let mut page = begin(title, about);
    section(&mut page, "SYNOPSIS");
    let usage = parts.next().unwrap_or_default();
    verbatim(&mut page, usage.lines().map(|line| line.trim_start_matches("Usage:").trim_start()));
    section(&mut page, "DESCRIPTION");
    paragraph(&mut page, &format!("{about}. Called as sendmail, mailq or newaliases, smtp-direct does the same."));
    section(&mut page, "OPTIONS");
    for line in parts.next().unwrap_or_default().lines().map(str::trim_start) {
        let (term, text) = line.split_once("  ").unwrap_or((line, ""));
        item(&mut page, &[term.to_owned()], text.trim_start());
    }
    parts.for_each(|text| note(&mut page, text));
    section(&mut page, "SEE ALSO");
    paragraph(&mut page, "smtp-direct(1), smtp-direct.toml(5)");
    page.render()
}

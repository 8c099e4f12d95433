//! Man pages and completions: every subcommand and option that `--help` tells of stands in them, and every key of the configuration.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use smtp_direct::config::known_keys;

fn smtp_direct(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smtp-direct")).args(arguments).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn generated(what: &str, name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("manual-{name}"));
    let _ = fs::remove_dir_all(&directory);
    let output = smtp_direct(&["generate", what, directory.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    directory
}

/// A page as it is read: without fonts and escapes.
fn read(page: &Path) -> String {
    let mut text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    for (roff, plain) in
        [("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\-", "-"), ("\\*(Aq", "'"), ("\\(bu", "*"), ("\\&", ""), ("\\(aq", "'")]
    {
        text = text.replace(roff, plain);
    }
    let text = text.split_once("\n.el .ds Aq '\n").expect("what defines the apostrophe").1;
    assert!(!text.contains('\\'), "an escape that a reader would see: {text}");
    format!("\n{text}")
}

/// Of `--help`: subcommands, and options.
fn told(path: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let help = String::from_utf8(smtp_direct(&[path, &["--help"]].concat()).stdout).unwrap();
    let (mut commands, mut options, mut part) = (Vec::new(), BTreeSet::new(), "");
    for line in help.lines() {
        if !line.starts_with(' ') {
            part = line;
        } else if part == "Commands:" && line.starts_with("  ") && !line.starts_with("   ") {
            commands.extend(line.split_whitespace().next().filter(|name| *name != "help").map(str::to_owned));
        } else if line.trim_start().starts_with('-') {
            let words = line.trim_start().split("  ").next().unwrap().split([' ', ',', '=', '[']);
            options.extend(words.filter(|word| word.starts_with('-') && *word != "-").map(str::to_owned));
        }
    }
    (commands, options)
}

/// Every subcommand's page, from `path` down; how many there are, and how many options they tell of.
fn compare(directory: &Path, path: &[&str]) -> (usize, usize) {
    let name = [&["smtp-direct"], path].concat().join("-");
    let page = read(&directory.join(format!("{name}.1")));
    assert!(page.contains(&format!("\n.TH {name} 1 2023-11-14 ")), "{page}");
    for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"] {
        assert!(
            page.contains(&format!("\n.SH {heading}\n")) || page.contains(&format!("\n.SH \"{heading}\"\n")),
            "{name} has no {heading}"
        );
    }
    let (commands, options) = told(path);
    let words: BTreeSet<&str> = page.split([' ', '\n', ',', '[', ']', '|']).collect();
    for option in &options {
        assert!(words.contains(option.as_str()), "{name} has no {option}");
    }
    let mut seen = (1, options.len());
    for command in &commands {
        assert!(page.contains(&format!("\n{name}-{command}(1)\n")), "{name} does not name {command}");
        let (pages, options) = compare(directory, &[path, &[command]].concat());
        seen = (seen.0 + pages, seen.1 + options);
    }
    seen
}

#[test]
fn every_subcommand_has_a_page_with_each_of_its_options() {
    let directory = generated("man", "pages");
    let (pages, options) = compare(&directory, &[]);
    assert!(pages >= 14 && options >= 60, "{pages} pages, {options} options");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), pages + 1, "and smtp-direct.toml.5");
    let main = read(&directory.join("smtp-direct.1"));
    for heading in ["FILES", "SIGNALS", "EXAMPLES"] {
        assert!(main.contains(&format!("\n.SH {heading}\n")), "{heading}");
    }
}

#[test]
fn every_key_of_the_configuration_is_in_its_page_below_its_section() {
    let page = read(&generated("man", "keys").join("smtp-direct.toml.5"));
    for (section, key) in known_keys() {
        if (section, key) == ("dns", "override") {
            continue;
        }
        let start = match section {
            "" => ".SH DESCRIPTION",
            "dns.override" => "[[dns.override]]",
            _ => &format!(".SH [{section}]"),
        };
        let (_, below) = page.split_once(&format!("\n{start}\n")).unwrap_or_else(|| panic!("{start}"));
        let below = below.split("\n.SH ").next().unwrap();
        assert!(below.contains(&format!("\n{key} = ")), "{section}.{key}:\n{below}");
    }
    // A default, what two keys share, a list over several lines, and that no key lost its text.
    assert!(page.contains("\n.TP\nsettle = \"1s\"\nA file that was written in place"), "{page}");
    assert!(page.contains("\n.TP\nmin_ttl = \"5s\"\n.TQ\nmax_ttl = \"1d\"\nEvery time to live"), "{page}");
    assert!(page.contains("\nblocked_targets = [ \"0.0.0.0/8\", \"127.0.0.0/8\""), "{page}");
    for item in page.split("\n.TP\n").skip(1) {
        let text = item.lines().skip(1).find(|line| !line.starts_with(".TQ") && !line.contains(" = "));
        assert!(text.is_some_and(|text| !text.starts_with('.')), "a key without a text: {item}");
    }
}

#[test]
fn completions_are_there_and_valid() {
    let directory = generated("completions", "completions");
    let mut names: Vec<String> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["_smtp-direct", "smtp-direct.bash", "smtp-direct.fish"]);
    for (name, shell) in [("smtp-direct.bash", "bash"), ("_smtp-direct", "zsh"), ("smtp-direct.fish", "fish")] {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        for word in ["route", "failing-for", "history", "older-than"] {
            assert!(text.contains(word), "{name} has no {word}");
        }
        let check = Command::new(shell).arg("-n").arg(directory.join(name)).output();
        match check {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            // Not on every machine; bash is.
            Err(error) => assert_ne!(shell, "bash", "{error}"),
        }
    }
}

#[test]
fn bash_completes_what_it_should() {
    let file = generated("completions", "bash").join("smtp-direct.bash");
    let script = format!(
        ". '{}'; COMP_WORDS=(smtp-direct queue --ol) COMP_CWORD=2; _smtp__direct smtp-direct --ol queue; echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "--older-than", "{output:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let output = smtp_direct(&["generate", "man", "/dev/null/man"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null/man"), "{output:?}");
}

#[test]
fn who_reads_or_changes_the_queue_is_told_the_code_of_a_lack_of_permission() {
    let directory = generated("man", "codes");
    let of_queue = told(&["queue"]).0.into_iter().map(|command| format!("queue {command}"));
    for command in ["queue".to_owned(), "history".to_owned()].into_iter().chain(of_queue) {
        let words: Vec<&str> = command.split(' ').collect();
        let help = String::from_utf8(smtp_direct(&[&*words, &["--help"]].concat()).stdout).unwrap();
        let codes = help.split_once("\nExit codes: 0 ").unwrap_or_else(|| panic!("{command}: {help}")).1;
        let page = read(&directory.join(format!("smtp-direct-{}.1", words.join("-"))));
        let status = page.split_once("\n.SH \"EXIT STATUS\"\n").unwrap_or_else(|| panic!("{command}: {page}")).1;
        assert!(codes.contains("; 77 ") && status.contains("; 77 "), "{command}: {codes}\n{status}");
    }
}

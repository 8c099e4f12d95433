//! The configuration as its writers meet it: what is read, what is refused and in which words, what is shown.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use smtp_direct::cli::check;
use smtp_direct::config::{
    Action, Config, ConfigErrors, Credentials, Effective, InDoubt, LogFormat, MinFree, Order, Problem, Rate, Server, Source, TlsMode,
    known_keys, load_with_warnings, read,
};
use smtp_direct::message::{Domain, Priority};

/// What the files of the corpora may refer to.
const FILES: &str = "tests/config/files";
/// Passwords that the corpora use: none may ever be seen.
const SECRETS: [&str; 3] = ["hunter", "12345", "from a file"];

fn parse_on(text: &str, system_name: Option<&str>) -> Result<Effective, ConfigErrors> {
    read(&Source { text, base_dir: Path::new(FILES), file_name: "file.toml", system_name })
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    parse_on(text, Some("mail.example.com")).map(|effective| effective.config)
}

fn empty() -> Config {
    Config::default_for(Domain::parse("mail.example.com").unwrap())
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// A fresh directory for one test.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}"));
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

/// A file that only its owner may read.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Without what [`Config::to_toml`] cannot keep: logins and line numbers.
fn comparable(mut config: Config) -> Config {
    for (i, rule) in config.dns.overrides.iter_mut().enumerate() {
        rule.line = i;
        if let Action::Send { credentials, .. } = &mut rule.action {
            *credentials = None;
        }
    }
    config
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(parse("").unwrap(), empty());
    assert_eq!(empty().sending.per_site, 5);
}

#[test]
fn every_bad_file_is_refused_in_its_expected_words() {
    let bad = files("tests/config/bad", "toml");
    assert!(bad.len() >= 90, "{} files", bad.len());
    assert_eq!(bad.len(), files("tests/config/bad", "expected").len(), "one .expected for each .toml");
    let mut differing = Vec::new();
    for path in bad {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let errors =
            read(&Source { text: &text, base_dir: Path::new(FILES), file_name: name, system_name: Some("myhost") }).expect_err(name);
        let errors = format!("{errors}\n");
        for secret in SECRETS {
            assert!(!errors.contains(secret), "{name} shows a password: {errors}");
        }
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        if errors != expected {
            differing.push(format!("--- {name} expected\n{expected}--- found\n{errors}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn errors_are_typed_and_in_the_order_of_the_file() {
    let errors = parse("[retry]\nlifetime = 5\n[sendin]\n[sending]\nworkers = 0\nworker = 5\n").unwrap_err();
    let places: Vec<_> = errors.errors().iter().map(|error| (error.line.unwrap(), error.key.as_deref().unwrap())).collect();
    assert_eq!(places, [(2, "retry.lifetime"), (3, "sendin"), (5, "sending.workers"), (6, "sending.worker")]);
    assert!(matches!(errors.errors()[0].problem, Problem::Value(_)));
    assert!(matches!(errors.errors()[1].problem, Problem::UnknownKey(_)));
    let syntax = parse("a = \n").unwrap_err();
    assert!(matches!(syntax.errors()[0].problem, Problem::Syntax(_)));
    assert_eq!((syntax.errors()[0].line, syntax.errors()[0].column), (Some(1), Some(5)));
}

#[test]
fn a_syntax_error_behind_a_wide_space_is_one() {
    let errors = parse("h\u{2006}ost\u{11f12}me = \"mail.example.com\"\n").unwrap_err();
    assert!(matches!(errors.errors()[0].problem, Problem::Syntax(_)));
}

#[test]
fn every_good_file_is_read_and_shown_as_one_that_means_the_same() {
    let good = files("tests/config/good", "toml");
    assert!(good.len() >= 5);
    for path in good {
        let text = fs::read_to_string(&path).unwrap();
        let config = parse_on(&text, None).unwrap_or_else(|errors| panic!("{}: {errors}", path.display())).config;
        let shown = config.to_toml();
        for secret in SECRETS {
            assert!(!shown.contains(secret), "{} shows a password: {shown}", path.display());
            assert!(!format!("{config:?}").contains(secret), "{}: Debug shows a password", path.display());
        }
        // Relative to nothing: the paths in it are whole already.
        let again = read(&Source { text: &shown, base_dir: Path::new(""), file_name: "shown", system_name: None });
        let again = again.unwrap_or_else(|errors| panic!("{}: {errors}\n{shown}", path.display())).config;
        assert_eq!(comparable(again), comparable(config), "{}", path.display());
    }
}

#[test]
fn the_file_with_everything_has_every_key() {
    let text = fs::read_to_string("tests/config/good/everything.toml").unwrap();
    let mut known: BTreeSet<_> = known_keys().into_iter().collect();
    // Beside it stands a certificate of its own test.
    assert!(known.remove(&("tls", "ca_file")));
    assert!(known.remove(&("dns", "override")));
    assert_eq!(keys(&text), known.into_iter().map(|(section, key)| (section.to_owned(), key.to_owned())).collect());
}

fn rate(count: u32, seconds: u64) -> Option<Rate> {
    Some(Rate { count, per: Duration::from_secs(seconds) })
}

#[test]
fn values_are_what_the_file_says() {
    let config = parse_on(&fs::read_to_string("tests/config/good/everything.toml").unwrap(), None).unwrap().config;
    assert_eq!(config.hostname.as_str(), "mail.xn--bcher-kva.example");
    assert_eq!(config.spool.path, Path::new(FILES).join("spool"));
    assert_eq!((config.spool.rescan, config.spool.results), (Duration::from_secs(90), true));
    assert_eq!(config.spool.min_free, MinFree { octets: Some(2 << 30), percent: Some(5) });
    assert_eq!((config.sending.workers, config.sending.per_site, config.sending.order), (1000, 1000, Order::SmallestFirst));
    assert_eq!(config.sending.messages_per_connection, 16);
    assert_eq!((config.retry.warn_after, config.retry.in_doubt), (None, InDoubt::Hold));
    let servers: Vec<String> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53:53", "192.0.2.54:5353", "[2001:db8::53]:53", "[2001:db8::54]:5353", "[2001:db8::55]:53"]);
    let blocked: Vec<String> = config.dns.blocked_targets.iter().map(ToString::to_string).collect();
    assert_eq!(blocked, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, tracing::Level::TRACE));
    assert_eq!(config.reports.postmaster.unwrap().to_string(), "postmaster@xn--bcher-kva.example");

    let rule = &config.dns.overrides[0];
    assert_eq!(rule.line, 42);
    assert!(rule.is_final);
    let conditions = &rule.conditions;
    assert!(conditions.domain[1].matches("shop.xn--bcher-kva.example"));
    assert!(conditions.recipient[0].matches("JOE@example.com"));
    assert!(conditions.sender[0].matches(""));
    assert!(conditions.tag[1].matches("GRÜßE"));
    assert_eq!((conditions.min_size, conditions.max_size), (Some(25_000_000), Some(25_000_000)));
    assert_eq!((conditions.failing_for, conditions.min_attempts), (Some(Duration::from_secs(7200)), Some(4)));
    assert_eq!(conditions.priority_class, [Priority::Urgent, Priority::Bulk]);
    let credentials = Some(Arc::new(Credentials::new("joe \"the\" user", "from a file", true)));
    let server = Server::Host { host: "smtp.xn--bcher-kva.example".into(), port: 587 };
    assert_eq!(rule.action, Action::Send { server, priority: 0, tls: TlsMode::Verify, rate: rate(100, 60), window: 8, credentials });

    // Where the rule says nothing, what holds for all.
    assert_eq!((config.sending.rate, config.smtp.window), (rate(20, 1), 100));
    let second = &config.dns.overrides[1].action;
    assert!(matches!(second, Action::Send { rate: own, window: 100, .. } if *own == rate(20, 1)), "{second:?}");

    let targets: Vec<_> = config.dns.overrides[1..6]
        .iter()
        .map(|rule| match &rule.action {
            Action::Send { server: Server::Host { host, port }, tls, .. } => (host.to_string(), *port, *tls),
            Action::Send { server: Server::Mx, priority, tls, .. } => ("mx".to_owned(), u16::try_from(*priority).unwrap(), *tls),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ("mx", 10, TlsMode::Require),
        ("2001:db8::1", 2525, TlsMode::Require),
        ("2001:db8::1", 2525, TlsMode::Implicit),
        ("192.0.2.1", 2525, TlsMode::Require),
        ("localhost", 2525, TlsMode::Require),
    ];
    assert_eq!(targets, expected.map(|(host, port, tls)| (host.to_owned(), port, tls)));
    assert_eq!(config.dns.overrides[6].action, Action::Hold { reason: "waiting for \"them\"".to_owned() });
    assert_eq!(config.dns.overrides[7].action, Action::Reject { reason: "not allowed by local policy".to_owned() });
    assert_eq!(config.dns.overrides[8].action, Action::Discard { reason: "discarded by an override".to_owned() });
}

#[test]
fn toml_has_several_ways_to_say_the_same() {
    let config = parse_on(&fs::read_to_string("tests/config/good/other-spellings.toml").unwrap(), None).unwrap().config;
    assert_eq!((config.sending.workers, config.sending.per_site), (1, 1));
    assert_eq!(config.retry.schedule, [Duration::from_secs(300), Duration::from_secs(3600)]);
    assert_eq!((config.dns.overrides.len(), config.dns.overrides[0].line), (1, 8));
    assert_eq!(config.log.level, tracing::Level::WARN);
}

#[test]
fn the_hostname_is_the_systems_where_that_is_a_full_name() {
    assert_eq!(parse_on("", Some("Relay.Example.org")).unwrap().config.hostname.as_str(), "relay.example.org");
    assert_eq!(
        parse_on("", Some("relay.example.org")).unwrap().config.reports.from,
        "Mail Delivery System <MAILER-DAEMON@relay.example.org>"
    );
    for (name, words) in [(Some("relay"), "calls itself \"relay\""), (Some("192.0.2.1"), "calls itself"), (None, "has no name")] {
        let errors = parse_on("", name).unwrap_err().to_string();
        assert!(errors.starts_with("file.toml: hostname: is missing") && errors.contains(words), "{errors}");
    }
}

#[test]
fn the_system_is_asked_for_its_name() {
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let expected = parse_on("", Some(&name)).map(|effective| effective.config);
    assert_eq!(Config::parse("", Path::new(FILES), "file.toml"), expected);
}

// The documented file.

const DOCUMENTED: &str = include_str!("../config/smtp-direct.toml");

/// `(section, key)` of every key in a file, those of comments too.
fn keys(text: &str) -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_start_matches('[').split(']').next().unwrap().to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && !key.is_empty()
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            found.insert((section.clone(), key.to_owned()));
        }
    }
    found
}

/// The documented file with the comment signs of these keys taken away; `#[[dns.override]]` counts as a key of its own.
fn with_examples(wanted: &[&str]) -> String {
    let uncomment = |line: &str| {
        let bare = line.strip_prefix('#').unwrap_or(line);
        let key = bare.split(" = ").next().unwrap();
        if wanted.contains(&key) { bare.to_owned() } else { line.to_owned() }
    };
    DOCUMENTED.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

const RULE: [&str; 12] = [
    "[[dns.override]]",
    "domain",
    "recipient",
    "sender",
    "min_size",
    "max_size",
    "failing_for",
    "min_attempts",
    "priority_class",
    "tag",
    "priority",
    "final",
];

#[test]
fn the_documented_file_shows_the_defaults() {
    assert_eq!(parse(DOCUMENTED).unwrap(), empty());
    // Each key that is not a comment says what it would be without it: a default that is not shown would go unnoticed above.
    let shown = empty().to_toml();
    let commented = [("", "hostname"), ("sending", "per_site"), ("reports", "from"), ("control", "socket")];
    let bare: String = DOCUMENTED.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut documented = keys(&bare);
    documented.extend(commented.map(|(section, key)| (section.to_owned(), key.to_owned())));
    assert_eq!(documented, keys(&shown));
}

#[test]
fn the_commented_defaults_are_the_defaults() {
    let text = with_examples(&["hostname", "per_site", "from", "socket"]);
    assert_eq!(parse_on(&text, None).unwrap().config, empty());
}

#[test]
fn the_commented_examples_are_valid() {
    let base = directory("examples");
    write(&base.join("isp-password"), "example\n");
    write(&base.join("private-ca.pem"), rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap().cert.pem());
    let sending = ["server", "tls", "rate", "window", "username", "auth_in_clear"];
    let variants: [&[&str]; 4] = [
        &["ca_file", "source_ipv4", "source_ipv6", "postmaster", "group"],
        &[&RULE[..], &sending, &["password_file"]].concat(),
        &[&RULE[..], &sending, &["password"]].concat(),
        &[&RULE[..9], &["action", "reason", "final"]].concat(),
    ];
    for wanted in variants {
        let text = with_examples(wanted);
        assert!(wanted.iter().all(|key| text.lines().any(|line| line.starts_with(key))), "{wanted:?}");
        let config = read(&Source { text: &text, base_dir: &base, file_name: "file.toml", system_name: Some("mail.example.com") });
        let config = config.unwrap_or_else(|errors| panic!("{wanted:?}: {errors}")).config;
        assert_ne!(config, empty());
        if let Some(rule) = config.dns.overrides.first() {
            assert!(!rule.is_final);
            if let Action::Send { priority, credentials, .. } = &rule.action {
                let expected = parse("[[dns.override]]\ndomain = \"*\"\nserver = \"mx\"\n").unwrap().dns.overrides.remove(0);
                assert!(matches!(expected.action, Action::Send { priority: default, .. } if default == *priority));
                assert!(!credentials.as_ref().unwrap().in_clear);
            }
        }
    }
}

#[test]
fn what_is_documented_is_known_and_what_is_known_is_documented() {
    let mut known: BTreeSet<_> = known_keys().into_iter().map(|(section, key)| (section.to_owned(), key.to_owned())).collect();
    assert!(known.remove(&("dns".to_owned(), "override".to_owned())));
    assert_eq!(keys(DOCUMENTED), known);
}

// Files and passwords.

#[test]
fn paths_are_relative_to_the_file() {
    let base = directory("relative");
    fs::create_dir(base.join("sub")).unwrap();
    let certificate = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
    write(&base.join("sub/ca.pem"), certificate.cert.pem());
    write(&base.join("sub/password"), "a b \n");
    let file = base.join("file.toml");
    let rule = "[[dns.override]]\ndomain = \"*\"\nserver = \"a.example\"\nusername = \"joe\"\npassword_file = \"sub/password\"\n";
    write(&file, format!("hostname = \"mail.example.com\"\n[tls]\nca_file = \"sub/ca.pem\"\n[spool]\npath = \"mail\"\n{rule}"));
    let config = Config::load(&file).unwrap();
    assert_eq!(config.spool.path, base.join("mail"));
    assert_eq!(config.tls.ca_file, Some(base.join("sub/ca.pem")));
    let Action::Send { credentials: Some(credentials), .. } = &config.dns.overrides[0].action else { panic!("{config:?}") };
    assert_eq!(credentials.expose_password(), "a b ");

    fs::write(base.join("sub/ca.pem"), certificate.signing_key.serialize_pem()).unwrap();
    let errors = Config::load(&file).unwrap_err().to_string();
    assert!(errors.contains(":3: tls.ca_file = \"sub/ca.pem\": has no certificate in it"), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let base = directory("unreadable");
    let missing = Config::load(&base.join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml: cannot be read: No such file or directory"), "{missing}");
    assert!(Config::load(&base).unwrap_err().to_string().contains("cannot be read: Is a directory"));
    write(&base.join("latin1.toml"), b"# 1\n# caf\xe9\n");
    let latin1 = Config::load(&base.join("latin1.toml")).unwrap_err().to_string();
    assert!(latin1.ends_with("latin1.toml:2: cannot be read: not UTF-8 text"), "{latin1}");
    write(&base.join("large.toml"), vec![b'#'; (16 << 20) + 1]);
    assert!(Config::load(&base.join("large.toml")).unwrap_err().to_string().ends_with("cannot be read: larger than 16 MiB"));
    write(&base.join("long-password"), vec![b'x'; 4097]);
    let rule = "hostname = \"a.example\"\n[[dns.override]]\ndomain = \"*\"\nserver = \"b\"\nusername = \"joe\"\npassword_file = \"long-password\"\n";
    write(&base.join("long.toml"), rule);
    assert!(Config::load(&base.join("long.toml")).unwrap_err().to_string().contains("must be at most 4096 octets long"));
}

fn warnings(text: &str) -> Vec<String> {
    parse_on(text, Some("mail.example.com")).unwrap().warnings.iter().map(ToString::to_string).collect()
}

fn rules(rules: &[&str]) -> String {
    rules.iter().map(|rule| format!("[[dns.override]]\n{}\n", rule.replace("; ", "\n"))).collect()
}

#[test]
fn an_override_behind_a_final_one_that_takes_all_is_warned_about() {
    for (first, second, shadowed) in [
        ("domain = \"a.example\"", "domain = \"a.example\"", true),
        ("domain = \"*\"", "domain = \"a.example\"; min_size = \"1 B\"", true),
        ("domain = [\"b\", \"*.example\"]", "domain = [\"a.example\", \"*.b.example\"]", true),
        ("domain = \"a.example\"", "domain = [\"a.example\", \"b.example\"]", false),
        ("domain = \"*.example\"", "domain = \"*\"", false),
        ("domain = \"*\"; min_size = \"1 MiB\"", "domain = \"a.example\"", false),
        ("min_size = \"1 MiB\"", "min_size = \"2 MiB\"", true),
        ("min_size = \"2 MiB\"", "min_size = \"1 MiB\"", false),
        ("max_size = \"2 MiB\"", "max_size = \"1 MiB\"", true),
        ("max_size = \"1 MiB\"", "max_size = \"2 MiB\"", false),
        ("min_attempts = 2", "min_attempts = 3; domain = \"*\"", true),
        ("failing_for = \"2h\"", "failing_for = \"1h\"", false),
        ("priority_class = [\"bulk\", \"normal\"]", "priority_class = \"bulk\"", true),
        ("sender = \"*\"", "sender = \"<>\"", true),
        ("sender = \"*@*\"", "sender = \"<>\"", false),
        ("tag = \"news*\"", "tag = \"news-*\"", true),
        ("recipient = \"*@a.example\"", "domain = \"a.example\"", false),
    ] {
        let server = "server = \"mx\"";
        let found = warnings(&rules(&[&format!("{first}; {server}; final = true"), &format!("{second}; {server}")]));
        assert_eq!(found.iter().any(|warning| warning.contains("never reached")), shadowed, "{first} before {second}: {found:?}");
        assert_eq!(warnings(&rules(&[&format!("{first}; {server}"), &format!("{second}; {server}")])), [""; 0], "not final");
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_about() {
    let login = "domain = \"*\"; server = \"a.example:465\"; username = \"joe\"; password = \"hunter2\"; auth_in_clear = true";
    let found = warnings(&format!("[retry]\nwarn_after = \"6d\"\n{}", rules(&[login])));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with("line 1: retry.warn_after") && found[1].starts_with("line 3: auth_in_clear") && found[2].contains("implicit")
    );
    assert!(!found.concat().contains("hunter2"));
    assert_eq!(warnings(DOCUMENTED), [""; 0]);
}

#[test]
fn passwords_that_everyone_can_read_are_warned_about() {
    let base = directory("modes");
    let rule = |password: &str| {
        format!("hostname = \"a.example\"\n[[dns.override]]\ndomain = \"*\"\nserver = \"b\"\nusername = \"joe\"\n{password}\n")
    };
    let (inline, by_file, secret) = (base.join("inline.toml"), base.join("file.toml"), base.join("password"));
    write(&inline, rule("password = \"hunter2\""));
    write(&by_file, rule("password_file = \"password\""));
    write(&secret, "hunter2");
    let count = |path: &Path| load_with_warnings(path).unwrap().warnings.len();
    assert_eq!((count(&inline), count(&by_file)), (0, 0));
    for path in [&inline, &by_file, &secret] {
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }
    assert_eq!((count(&inline), count(&by_file)), (1, 1));
    fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
    assert_eq!((count(&inline), count(&by_file)), (1, 0));
}

// The command.

fn run(path: &Path, show: bool) -> (ExitCode, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = check::run(path, show, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn check_prints_ok_or_errors_or_what_is_in_effect() {
    let base = directory("check");
    let good = base.join("good.toml");
    write(&good, "hostname = \"mail.example.com\"\n[retry]\nwarn_after = \"6d\"\n");
    let (code, out, err) = run(&good, false);
    assert_eq!((code, out), (ExitCode::SUCCESS, format!("{}: ok\n", good.display())));
    assert!(err.starts_with(&format!("{}:2: warning: retry.warn_after", good.display())), "{err}");

    let (code, out, err_shown) = run(&good, true);
    assert_eq!((code, err_shown), (ExitCode::SUCCESS, err));
    assert_eq!(parse_on(&out, None).unwrap().config, Config::load(&good).unwrap());

    let bad = base.join("bad.toml");
    write(&bad, "hostname = \"mail.example.com\"\n[sending]\nworkers = 0\norder = 5\n");
    let (code, out, err) = run(&bad, true);
    assert_eq!((code, out.as_str()), (ExitCode::from(78), ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert_eq!(lines[0], format!("{}:3: sending.workers = 0: must be at least 1", bad.display()));

    let (code, _, err) = run(&base.join("none.toml"), false);
    assert_eq!(code, ExitCode::from(78));
    assert!(err.contains("none.toml: cannot be read: No such file or directory"), "{err}");
}

#[test]
fn check_says_when_its_output_is_lost() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let good = Path::new("tests/config/good/hostname-only.toml");
    assert_eq!(check::run(good, true, &mut Full, &mut Vec::new()), ExitCode::from(74));
}

// Properties.

/// Every line of the largest file, to be mixed.
fn lines() -> Vec<&'static str> {
    include_str!("config/good/everything.toml").lines().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Lines left out, repeated or moved, and characters replaced: an answer comes, without a password in it.
    #[test]
    fn damaged_files_are_answered(
        picked in prop::collection::vec(prop::sample::select(lines()), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), "\\PC"), 0..6),
    ) {
        let mut text: Vec<char> = picked.join("\n").chars().collect();
        for (at, replacement) in damage {
            if !text.is_empty() {
                let at = at.index(text.len());
                text.splice(at..=at, replacement.chars());
            }
        }
        let text: String = text.into_iter().collect();
        match parse_on(&text, Some("mail.example.com")) {
            Ok(effective) => prop_assert!(!effective.config.to_toml().contains("hunter2")),
            Err(errors) => prop_assert!(!errors.errors().is_empty() && !errors.to_string().contains("hunter2"), "{}", errors),
        }
    }

    /// One bad value never hides another.
    #[test]
    fn errors_are_reported_together(bad in prop::collection::btree_set(0usize..8, 1..8)) {
        let values = [
            "[sending]\nworkers = 0", "[retry]\nlifetime = 1", "[dns]\ntimeout = \"x\"", "[tls]\nmode = 1",
            "[smtp]\nport = 0", "[reports]\nfrom = 1", "[log]\nlevel = 1", "[spool]\nmax_hops = 0",
        ];
        let text = bad.iter().map(|&i| values[i]).collect::<Vec<_>>().join("\n");
        prop_assert_eq!(parse(&text).unwrap_err().errors().len(), bad.len());
    }

    /// Numbers, durations and sizes come back from what is shown.
    #[test]
    fn what_is_shown_reads_as_the_same(
        workers in 1usize..=100_000,
        share in 1usize..=100_000,
        millis in prop::collection::vec(1u64..=315_360_000_000, 1..20),
        size in 0u64..=1 << 50,
        text in "[ -~äß]{1,40}",
    ) {
        let mut config = empty();
        config.sending.workers = workers;
        config.sending.per_site = share.min(workers);
        config.retry.schedule = millis.iter().map(|&millis| Duration::from_millis(millis)).collect();
        config.reports.full_below = size;
        config.spool.path = Path::new("/").join(&text);
        prop_assert_eq!(parse(&config.to_toml()).unwrap(), config);
    }
}

//! The configuration: all that is valid is shown as what reads the same, all that is not is told line by line, and no password is seen.

use std::path::Path;

use smtp_direct::config::{Action, Config, ConfigErrors, Credentials, Effective, Source, read};

use super::canonical::assert_one_line;

/// As text; files that it names are not there.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match parse(&text) {
        Ok(effective) => {
            let shown = effective.config.to_toml();
            let debug = format!("{effective:?}");
            for password in passwords(&effective.config) {
                // One that stands elsewhere, too, proves nothing.
                if password.len() > 5 && text.matches(password).count() == 1 {
                    assert!(!shown.contains(password) && !debug.contains(password), "shows {password:?}");
                }
            }
            for warning in &effective.warnings {
                assert_one_line(&warning.to_string(), 2_000);
            }
            let again = parse(&shown).unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
            assert_eq!(without_places(again.config), without_places(effective.config), "{shown}");
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            let lines = text.split('\n').count();
            for error in errors.errors() {
                assert_one_line(&error.to_string(), 4_000);
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            }
        }
    }
}

fn parse(text: &str) -> Result<Effective, ConfigErrors> {
    read(&Source { text, base_dir: Path::new("/nonexistent"), file_name: "file.toml", system_name: Some("mail.example.com") })
}

fn passwords(config: &Config) -> Vec<&str> {
    let logins = config.dns.overrides.iter().filter_map(|rule| match &rule.action {
        Action::Send { credentials, .. } => credentials.as_deref(),
        _ => None,
    });
    logins.map(Credentials::expose_password).collect()
}

/// Without what [`Config::to_toml`] cannot keep: logins and line numbers.
pub fn without_places(mut config: Config) -> Config {
    for (i, rule) in config.dns.overrides.iter_mut().enumerate() {
        rule.line = i;
        if let Action::Send { credentials, .. } = &mut rule.action {
            *credentials = None;
        }
    }
    config
}

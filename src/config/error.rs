//! What is wrong with a configuration file: every error with its place, its value and what would be right.

use std::fmt;

use thiserror::Error;

/// Everything that is wrong with one file. `Display` is one error a line, in the order of the file:
/// `smtp-direct.toml:12: sending.workers = 0: must be at least 1`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

/// One error. Passwords are never in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// 1-based; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// 1-based, in characters; of syntax errors only.
    pub column: Option<usize>,
    /// `section.key`, or the section.
    pub key: Option<String>,
    /// As the file has it, on one line and cut; `None` for secrets, tables and keys that are missing or unknown.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub problem: Problem,
}

/// What is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// The file itself.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// A key or section that does not exist.
    #[error("unknown {0}")]
    UnknownKey(String),
    /// The value does not fit the key.
    #[error("{0}")]
    Value(String),
    /// The value does not fit other keys, or a key is missing.
    #[error("{0}")]
    Rule(String),
}

impl ConfigErrors {
    /// Errors of `file` (as messages name it), at least one, in any order.
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self { file: file.to_owned(), errors }
    }

    /// In the order of the file; at least one.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}{error}", self.file)?;
        }
        Ok(())
    }
}

/// From behind the file's name on: `:12: sending.workers = 0: must be at least 1`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

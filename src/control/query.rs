//! The query of a request: takes what stands behind the question mark, hands on its values by name. What a path does not take, or cannot be
//! read, is an error: a filter that is passed over shows what was not asked for.

use std::fmt::Display;
use std::str::FromStr;

use super::ApiError;
use super::router::decoded;

/// The values of a query, decoded.
#[derive(Debug)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads `NAME=VALUE&...` with the names that the path takes, each at most once.
    pub(super) fn parse(text: &str, taken: &[&'static str]) -> Result<Self, ApiError> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for pair in text.split('&').filter(|_| !text.is_empty()) {
            let (given, value) = pair.split_once('=').ok_or_else(|| ApiError::Invalid(format!("the query's {pair:?} is no NAME=VALUE")))?;
            let name = *taken.iter().find(|name| **name == given).ok_or_else(|| unknown(given, taken))?;
            if values.iter().any(|(earlier, _)| *earlier == name) {
                return Err(ApiError::Invalid(format!("{name}: it is given more than once")));
            }
            let value = decoded(value).ok_or_else(|| {
                ApiError::Invalid(format!("{name}: what is no letter, digit or one of -._~ is to be written as %XX, in UTF-8"))
            })?;
            if value.is_empty() {
                return Err(ApiError::Invalid(format!("{name}: it is empty; leave it out (\"<>\" is the null sender)")));
            }
            values.push((name, value));
        }
        Ok(Self(values))
    }

    /// The value of `name`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The same as text of its own.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    /// The same, read as what it is.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let wrong = |value: &str, error: T::Err| ApiError::Invalid(format!("{name}={value}: {error}"));
        self.value(name).map(|value| value.parse().map_err(|error| wrong(value, error))).transpose()
    }
}

fn unknown(given: &str, taken: &[&str]) -> ApiError {
    let known = if taken.is_empty() { "nothing".to_owned() } else { taken.join(", ") };
    ApiError::Invalid(format!("the query has {given:?}; this path takes {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_read() {
        let query = Query::parse("to=x%2By%40a.test&limit=7", &["limit", "to"]).unwrap();
        assert_eq!((query.value("to"), query.parsed::<u32>("limit").unwrap()), (Some("x+y@a.test"), Some(7)));
        assert_eq!((query.value("from"), query.text("limit")), (None, Some("7".to_owned())));
        assert!(Query::parse("", &[]).is_ok());
    }

    #[test]
    fn what_is_not_taken_or_cannot_be_read_is_named() {
        for (text, words) in [
            ("domian=a.test", "the query has \"domian\"; this path takes to, limit"),
            ("TO=a", "has \"TO\""),
            ("to", "\"to\" is no NAME=VALUE"),
            ("to=a&", "\"\" is no NAME=VALUE"),
            ("to=a&to=b", "to: it is given more than once"),
            ("to=%ff", "to: what is no letter"),
            ("to=", "to: it is empty"),
        ] {
            let error = Query::parse(text, &["to", "limit"]).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(Query::parse("a=1", &[]).unwrap_err().to_string(), "the query has \"a\"; this path takes nothing");
        let error = Query::parse("limit=x", &["limit"]).unwrap().parsed::<u32>("limit").unwrap_err().to_string();
        assert!(error.starts_with("limit=x: "), "{error}");
    }
}

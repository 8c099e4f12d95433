//! Takes a valid configuration, hands on what is allowed in it yet probably not meant.

use std::fmt;

use super::{Conditions, Override, Pattern};

/// Something that is allowed yet probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// 1-based; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// One line for people.
    pub text: String,
}

impl Warning {
    pub(super) fn new(line: Option<usize>, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// `line 12: …`.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Each rule is held against this many final ones before it: as many as anyone writes, and no time even in a file of 16 MiB.
const COMPARED: usize = 100;

/// Overrides that nothing reaches, because an earlier one is final and takes everything that they would.
pub(super) fn shadowed(overrides: &[Override]) -> Vec<Warning> {
    let finals: Vec<usize> = overrides.iter().enumerate().filter(|(_, rule)| rule.is_final).map(|(at, _)| at).take(COMPARED).collect();
    let shadow = |(i, rule): (usize, &Override)| {
        let mut before = finals[..finals.partition_point(|&at| at < i)].iter().map(|&at| &overrides[at]);
        let earlier = before.find(|earlier| covers(&earlier.conditions, &rule.conditions))?;
        let text = format!("this override is never reached: the one at line {} is final and matches all that this one would", earlier.line);
        Some(Warning::new(Some(rule.line), text))
    };
    overrides.iter().enumerate().filter_map(shadow).collect()
}

/// Whether whatever fulfils `narrow` fulfils `wide` as well; may miss some. A copy's recipients are judged together or one by
/// one: as both rules look at the same ones, that makes no difference.
fn covers(wide: &Conditions, narrow: &Conditions) -> bool {
    fn each_within<T>(wide: &[T], narrow: &[T], within: impl Fn(&T, &T) -> bool) -> bool {
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| within(w, n))))
    }
    fn at_least<T: PartialOrd>(wide: Option<T>, narrow: Option<T>) -> bool {
        wide.is_none_or(|wide| narrow.is_some_and(|narrow| narrow >= wide))
    }
    each_within(&wide.domain, &narrow.domain, Pattern::covers)
        && each_within(&wide.recipient, &narrow.recipient, Pattern::covers)
        && each_within(&wide.sender, &narrow.sender, Pattern::covers)
        && each_within(&wide.tag, &narrow.tag, Pattern::covers)
        && each_within(&wide.priority_class, &narrow.priority_class, PartialEq::eq)
        && at_least(wide.min_size, narrow.min_size)
        && at_least(wide.failing_for, narrow.failing_for)
        && at_least(wide.min_attempts, narrow.min_attempts)
        && wide.max_size.is_none_or(|wide| narrow.max_size.is_some_and(|narrow| narrow <= wide))
}

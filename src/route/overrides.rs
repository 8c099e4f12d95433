//! DNS overrides: takes what is known of a copy, hands on the rules that apply to each of its recipients. Pure.

use std::cell::OnceCell;
use std::fmt;

use super::explain::{OverrideFate, Step};
use super::{Decision, Query, Rule};
use crate::config::{Action, Conditions, Override, Pattern};
use crate::message::{Domain, ReversePath};

/// `[[dns.override]]`, in file order.
#[derive(Debug, Clone)]
pub(super) struct Overrides {
    rules: Vec<Override>,
}

/// Recipients and the rules that apply to all of them, in file order; without rules: DNS.
#[derive(Debug)]
pub(super) struct Selection<'r> {
    /// Indexes into the query's recipients, ascending.
    pub(super) recipients: Vec<usize>,
    /// Up to and with the first final one.
    pub(super) rules: Vec<&'r Override>,
}

/// A condition of an override, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "config/smtp-direct.toml documents them")]
pub enum Condition {
    Domain,
    Recipient,
    Sender,
    MinSize,
    MaxSize,
    FailingFor,
    MinAttempts,
    PriorityClass,
    Tag,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "domain",
            Self::Recipient => "recipient",
            Self::Sender => "sender",
            Self::MinSize => "min_size",
            Self::MaxSize => "max_size",
            Self::FailingFor => "failing_for",
            Self::MinAttempts => "min_attempts",
            Self::PriorityClass => "priority_class",
            Self::Tag => "tag",
        })
    }
}

impl Overrides {
    pub(super) fn new(rules: Vec<Override>) -> Self {
        Self { rules }
    }

    /// Groups the recipients by the rules that apply to them, in the order of each group's first recipient. One group unless a rule
    /// that applies otherwise has a `recipient` condition.
    pub(super) fn select(&self, query: &Query<'_>) -> Vec<Selection<'_>> {
        let facts = Facts::of(query);
        let mut candidates: Vec<&Override> = Vec::new();
        let mut by_recipient = false;
        for rule in &self.rules {
            let passed_over = query.released && matches!(rule.action, Action::Hold { .. });
            if passed_over || facts.unmet(&rule.conditions).is_some() {
                continue;
            }
            candidates.push(rule);
            by_recipient |= !rule.conditions.recipient.is_empty();
            if rule.is_final && rule.conditions.recipient.is_empty() {
                break;
            }
        }
        if !by_recipient {
            return vec![Selection { recipients: (0..query.recipients.len()).collect(), rules: candidates }];
        }
        // Rules as indexes into the candidates: two recipients share a part when theirs are equal.
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for (index, recipient) in query.recipients.iter().enumerate() {
            let text = recipient.to_string();
            let mut own = Vec::new();
            for (number, rule) in candidates.iter().enumerate() {
                if rule.conditions.recipient.is_empty() || any(&rule.conditions.recipient, &text) {
                    own.push(number);
                    if rule.is_final {
                        break;
                    }
                }
            }
            match groups.iter_mut().find(|(rules, _)| *rules == own) {
                Some((_, recipients)) => recipients.push(index),
                None => groups.push((own, vec![index])),
            }
        }
        let selection = |(rules, recipients): (Vec<usize>, Vec<usize>)| Selection {
            recipients,
            rules: rules.into_iter().map(|number| candidates[number]).collect(),
        };
        groups.into_iter().map(selection).collect()
    }

    /// The rules that apply to every copy for this domain; `None` where some go by more than the domain.
    pub(super) fn by_domain(&self, domain: &Domain) -> Option<Vec<&Override>> {
        let mut rules = Vec::new();
        for rule in &self.rules {
            let names = &rule.conditions.domain;
            if !names.is_empty() && !any(names, domain.as_str()) {
                continue;
            }
            if rule.conditions != (Conditions { domain: names.clone(), ..Conditions::default() }) {
                return None;
            }
            rules.push(rule);
            if rule.is_final {
                break;
            }
        }
        Some(rules)
    }

    /// What became of each rule, for people.
    pub(super) fn explain(&self, query: &Query<'_>) -> Vec<Step> {
        let facts = Facts::of(query);
        let recipients: Vec<String> = query.recipients.iter().map(ToString::to_string).collect();
        let mut final_line = None;
        let fate = |rule: &Override| {
            if let Some(line) = final_line {
                return OverrideFate::AfterFinal(line);
            }
            if let Some(condition) = facts.unmet(&rule.conditions) {
                return OverrideFate::Unmet(condition);
            }
            let wanted = &rule.conditions.recipient;
            let hits = recipients.iter().filter(|recipient| wanted.is_empty() || any(wanted, recipient)).count();
            if hits == 0 && !wanted.is_empty() {
                return OverrideFate::Unmet(Condition::Recipient);
            }
            // Final for some recipients only: the others go on.
            if rule.is_final && hits == recipients.len() {
                final_line = Some(rule.line);
            }
            OverrideFate::Matched
        };
        let fates: Vec<_> = self.rules.iter().map(fate).collect();
        self.rules.iter().zip(fates).map(|(rule, fate)| Step::Override { line: rule.line, fate }).collect()
    }
}

impl Selection<'_> {
    /// The decision of the first rule that has an action instead of a server: it wins over every server, before or after it.
    pub(super) fn action(&self) -> Option<Decision> {
        self.rules.iter().find_map(|rule| {
            let decided = |reason: &String| Rule { line: rule.line, reason: reason.clone() };
            match &rule.action {
                Action::Send { .. } => None,
                Action::Hold { reason } => Some(Decision::Hold(decided(reason))),
                Action::Reject { reason } => Some(Decision::Reject(decided(reason))),
                Action::Discard { reason } => Some(Decision::Discard(decided(reason))),
            }
        })
    }
}

/// A query in the form in which patterns see it.
struct Facts<'q> {
    query: &'q Query<'q>,
    sender: OnceCell<String>,
}

impl<'q> Facts<'q> {
    fn of(query: &'q Query<'q>) -> Self {
        Self { query, sender: OnceCell::new() }
    }

    /// The first condition that does not hold, `recipient` left aside.
    fn unmet(&self, conditions: &Conditions) -> Option<Condition> {
        let Conditions { domain, recipient: _, sender, min_size, max_size, failing_for, min_attempts, priority_class, tag } = conditions;
        let query = self.query;
        let checks = [
            (domain.is_empty() || any(domain, query.domain.as_str()), Condition::Domain),
            (min_size.is_none_or(|min| query.size >= min), Condition::MinSize),
            (max_size.is_none_or(|max| query.size <= max), Condition::MaxSize),
            (failing_for.is_none_or(|least| query.failing_for.is_some_and(|time| time >= least)), Condition::FailingFor),
            (min_attempts.is_none_or(|least| query.attempts >= least), Condition::MinAttempts),
            (priority_class.is_empty() || priority_class.contains(&query.priority), Condition::PriorityClass),
            (tag.is_empty() || query.tag.is_some_and(|text| any(tag, text)), Condition::Tag),
        ];
        if let Some((_, condition)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Some(condition);
        }
        if sender.is_empty() || any(sender, self.sender()) { None } else { Some(Condition::Sender) }
    }

    fn sender(&self) -> &str {
        self.sender.get_or_init(|| match self.query.sender {
            ReversePath::Null => "<>".to_owned(),
            ReversePath::Address(address) => address.to_string(),
        })
    }
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

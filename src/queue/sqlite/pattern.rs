//! Patterns of the command line: takes text with `*`, hands on what SQL's LIKE takes, with `\` as its escape.

use crate::message::Domain;

/// `*` stands for any text, everything else for itself, ASCII letters in any case. Domains in their own script become A-labels, which is
/// how the queue keeps them; `<>` is the null sender.
pub(super) fn like(pattern: &str) -> String {
    if pattern == "<>" {
        return String::new();
    }
    let (local, domain) = pattern.rsplit_once('@').map_or(("", pattern), |(local, domain)| (local, domain));
    let at = &pattern[local.len()..pattern.len() - domain.len()];
    like_text(&[local, at, &a_labels(domain)].concat())
}

/// The same for text that is no address.
pub(super) fn like_text(pattern: &str) -> String {
    pattern.chars().fold(String::new(), |mut like, c| {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', c]),
            _ => like.push(c),
        }
        like
    })
}

/// Label by label, as one with a `*` in it is no domain.
fn a_labels(domain: &str) -> String {
    let label = |label: &str| match Domain::parse(label) {
        Ok(domain) if !label.is_ascii() => domain.as_str().to_owned(),
        _ => label.to_owned(),
    };
    domain.split('.').map(label).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn only_the_star_is_special() {
        assert_eq!(like("*@example.com"), "%@example.com");
        assert_eq!(like("50%_off\\*@x"), "50\\%\\_off\\\\%@x");
        assert_eq!(like("<>"), "");
        assert_eq!(like("*"), "%");
    }

    #[test]
    fn domains_become_a_labels_and_local_parts_stay() {
        assert_eq!(like("jürgen@*.bücher.example"), "jürgen@%.xn--bcher-kva.example");
        assert_eq!(like("bücher.example"), "xn--bcher-kva.example");
    }
}

//! Patterns: takes a condition's text, hands on whether a domain, an address or a tag fits it.

use super::Pattern;

impl Pattern {
    /// Reads a pattern: `*` stands for any text, also none. Labels of a domain that are not ASCII become A-labels; `<>` is the null sender.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the pattern is empty: write \"*\" for any text".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err(format!("{text:?} contains a control character"));
        }
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, text),
        };
        let labels = domain.split('.').map(|label| {
            if label.is_ascii() || label.contains('*') {
                Ok(label.to_lowercase())
            } else {
                idna::domain_to_ascii(label).map_err(|_| format!("{label:?} is not part of a domain name"))
            }
        });
        let domain = labels.collect::<Result<Vec<_>, _>>()?.join(".");
        Ok(Self(local.map_or(domain.clone(), |local| format!("{}@{domain}", local.to_lowercase()))))
    }

    /// Whether the whole of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        if text.is_ascii() { glob(self.0.as_bytes(), text.as_bytes()) } else { glob(self.0.as_bytes(), text.to_lowercase().as_bytes()) }
    }
}

/// `*` by going back to the last one: at most pattern × text steps, no recursion.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| c.eq_ignore_ascii_case(&text[t])) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_is_any_text_and_case_makes_no_difference() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "x", true),
            ("example.com", "EXAMPLE.com", true),
            ("example.com", "example.com.org", false),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*@Example.org", "joe@example.ORG", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("bücher.*", "xn--bcher-kva.example", true),
            ("JÜRGEN@*", "jürgen@example.com", true),
            ("<>", "<>", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text), fits, "{pattern} on {text}");
        }
        assert!(Pattern::parse("").is_err());
    }
}

//! Takes a command line, hands on a [`Command`], or the reply to what is none: strict, so that a client's slips are seen (RFC 5321 4.1).

use super::server::Features;

/// A command, borrowed from its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Ehlo(&'a str),
    Helo(&'a str),
    /// Path without brackets (empty: the null sender), parameters as they came.
    Mail {
        path: &'a str,
        parameters: &'a str,
    },
    /// As MAIL.
    Rcpt {
        path: &'a str,
        parameters: &'a str,
    },
    Data,
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
}

/// The reply to what cannot be done: code, enhanced code, text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str, pub(super) &'static str);

/// What MAIL's parameters say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct MailParameters {
    pub(super) size: Option<u64>,
    pub(super) smtputf8: bool,
}

/// RFC 5321 4.5.3.1.3, less the brackets.
const MAX_PATH: usize = 254;

/// Reads a line without its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, Refusal> {
    let line = std::str::from_utf8(line).map_err(|_| Refusal(500, "5.5.2", "The line is not UTF-8"))?;
    if line.bytes().any(|octet| octet.is_ascii_control()) || (!line.is_ascii() && line.chars().any(char::is_control)) {
        return Err(Refusal(500, "5.5.2", "The line has a control character"));
    }
    let (verb, rest) = match line.split_once(' ') {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (line, None),
    };
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    let bare = |command| match rest {
        None => Ok(command),
        // RFC 5321 4.1.1: trailing blanks are tolerated; an argument is not.
        Some(rest) if rest.trim().is_empty() => Ok(command),
        Some(_) => Err(Refusal(501, "5.5.4", "This command takes no argument")),
    };
    if is("MAIL") {
        mail_path(rest, "FROM:").map(|(path, parameters)| Command::Mail { path, parameters })
    } else if is("RCPT") {
        mail_path(rest, "TO:").map(|(path, parameters)| Command::Rcpt { path, parameters })
    } else if is("DATA") {
        bare(Command::Data)
    } else if is("BDAT") {
        bdat(rest)
    } else if is("EHLO") {
        name(rest).map(Command::Ehlo)
    } else if is("HELO") {
        name(rest).map(Command::Helo)
    } else if is("RSET") {
        bare(Command::Rset)
    } else if is("QUIT") {
        bare(Command::Quit)
    } else if is("NOOP") {
        Ok(Command::Noop)
    } else if is("VRFY") {
        Ok(Command::Vrfy)
    } else if is("HELP") {
        Ok(Command::Help)
    } else if ["STARTTLS", "AUTH", "EXPN", "ETRN", "TURN"].into_iter().any(is) {
        Err(Refusal(502, "5.5.1", "The sink does not do that"))
    } else {
        Err(Refusal(500, "5.5.2", "Unknown command"))
    }
}

fn name(rest: Option<&str>) -> Result<&str, Refusal> {
    match rest.map(str::trim_end) {
        Some(name) if !name.is_empty() && !name.contains(' ') => Ok(name),
        _ => Err(Refusal(501, "5.5.4", "Say who you are: one host name or address literal")),
    }
}

fn bdat(rest: Option<&str>) -> Result<Command<'_>, Refusal> {
    let refusal = Refusal(501, "5.5.4", "Write BDAT octets, or BDAT octets LAST");
    let mut words = rest.ok_or(refusal)?.split(' ');
    let digits = words.next().unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(refusal);
    }
    let octets = digits.parse().map_err(|_| refusal)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(Command::Bdat { octets, last: false }),
        (Some(word), None) if word.eq_ignore_ascii_case("LAST") => Ok(Command::Bdat { octets, last: true }),
        _ => Err(refusal),
    }
}

/// `FROM:<path> parameters`: nothing between the colon and the bracket.
fn mail_path<'a>(rest: Option<&'a str>, keyword: &str) -> Result<(&'a str, &'a str), Refusal> {
    let refusal = Refusal(501, "5.5.4", "Write MAIL FROM:<address> or RCPT TO:<address>");
    let rest = rest.ok_or(refusal)?;
    let (start, path) = rest.split_at_checked(keyword.len()).ok_or(refusal)?;
    let path = path.strip_prefix('<').filter(|_| start.eq_ignore_ascii_case(keyword)).ok_or(refusal)?;
    let (mut quoted, mut escaped) = (false, false);
    let end = path.find(|c| {
        let here = c == '>' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        here
    });
    let (path, after) = end.map(|end| (&path[..end], &path[end + 1..])).ok_or(refusal)?;
    match after.strip_prefix(' ') {
        Some(parameters) => Ok((path, parameters)),
        None if after.is_empty() => Ok((path, after)),
        None => Err(refusal),
    }
}

/// Whether a path is an address: dot-string or quoted-string, `@`, a domain or literal; octets beyond ASCII need SMTPUTF8 (RFC 6531).
pub(super) fn check_address(path: &str, smtputf8: bool) -> Result<(), Refusal> {
    let syntax = Refusal(501, "5.1.3", "This is not an address");
    if path.len() > MAX_PATH {
        return Err(Refusal(501, "5.1.3", "The address is too long"));
    }
    if !smtputf8 && !path.is_ascii() {
        return Err(Refusal(553, "5.6.7", "The address needs SMTPUTF8, which MAIL did not ask for"));
    }
    let (local, domain) = path.rsplit_once('@').ok_or(syntax)?;
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let atext = |octet: u8| octet.is_ascii_alphanumeric() || !octet.is_ascii() || b"!#$%&'*+-/=?^_`{|}~.".contains(&octet);
    if !quoted && (local.is_empty() || !local.bytes().all(atext)) {
        return Err(syntax);
    }
    let literal = domain.starts_with('[') && domain.ends_with(']') && !domain.contains(' ');
    let in_name = |octet: u8| octet.is_ascii_alphanumeric() || !octet.is_ascii() || b"-._".contains(&octet);
    let is_name = domain.bytes().all(in_name) && domain.split('.').all(|label| !label.is_empty());
    if literal || is_name { Ok(()) } else { Err(syntax) }
}

/// Reads the parameters of MAIL that the offered extensions define (RFC 1870, 6152, 6531, 3461).
pub(super) fn mail_parameters(text: &str, features: &Features) -> Result<MailParameters, Refusal> {
    let mut found = MailParameters::default();
    each_parameter(text, &["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID"], |index, value| match (index, value) {
        (0, Some(size)) if features.size => {
            found.size = Some(size.parse().ok().filter(|_| size.len() <= 20).ok_or(BAD_VALUE)?);
            Ok(())
        }
        (1, Some(body)) if features.eight_bit_mime => one_of(body, &["7BIT", "8BITMIME"]),
        (2, None) if features.smtputf8 => {
            found.smtputf8 = true;
            Ok(())
        }
        (3, Some(ret)) if features.dsn => one_of(ret, &["FULL", "HDRS"]),
        (4, Some(envid)) if features.dsn && envid.len() <= 100 => xtext(envid, false),
        _ => Err(UNKNOWN),
    })?;
    Ok(found)
}

/// Checks the parameters of RCPT (RFC 3461).
pub(super) fn check_rcpt_parameters(text: &str, features: &Features) -> Result<(), Refusal> {
    each_parameter(text, &["NOTIFY", "ORCPT"], |index, value| match (index, value) {
        (0, Some(notify)) if features.dsn => {
            let alone = notify.eq_ignore_ascii_case("NEVER");
            if alone { Ok(()) } else { notify.split(',').try_for_each(|word| one_of(word, &["SUCCESS", "FAILURE", "DELAY"])) }
        }
        (1, Some(orcpt)) if features.dsn && orcpt.len() <= 500 => match orcpt.split_once(';') {
            Some((kind, address)) if !kind.is_empty() => xtext(address, kind.eq_ignore_ascii_case("utf-8")),
            _ => Err(BAD_VALUE),
        },
        _ => Err(UNKNOWN),
    })
}

const UNKNOWN: Refusal = Refusal(555, "5.5.4", "A parameter was not offered, or has no such value");
const BAD_VALUE: Refusal = Refusal(501, "5.5.4", "A parameter's value is not valid");

/// Calls `take` with the index of each parameter in `known` and its value; each may come once.
fn each_parameter(text: &str, known: &[&str], mut take: impl FnMut(usize, Option<&str>) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut seen = 0_u32;
    for word in text.split(' ') {
        if word.is_empty() && text.trim().is_empty() {
            continue;
        }
        let (keyword, value) = word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)));
        let index = known.iter().position(|name| name.eq_ignore_ascii_case(keyword)).ok_or(UNKNOWN)?;
        if seen & (1 << index) != 0 {
            return Err(Refusal(501, "5.5.4", "A parameter stands there twice"));
        }
        seen |= 1 << index;
        take(index, value)?;
    }
    Ok(())
}

fn one_of(value: &str, words: &[&str]) -> Result<(), Refusal> {
    if words.iter().any(|word| word.eq_ignore_ascii_case(value)) { Ok(()) } else { Err(BAD_VALUE) }
}

/// RFC 3461 4: printable, `+XX` for what is not; beyond ASCII only in the utf-8 address type (RFC 6533).
fn xtext(text: &str, utf8: bool) -> Result<(), Refusal> {
    let octets = text.as_bytes();
    let hex = |at: usize| octets.get(at).is_some_and(|octet| octet.is_ascii_digit() || (b'A'..=b'F').contains(octet));
    let valid = octets.iter().enumerate().all(|(i, &octet)| match octet {
        b'+' => hex(i + 1) && hex(i + 2),
        b'=' => false,
        _ => octet.is_ascii_graphic() || (utf8 && !octet.is_ascii()),
    });
    if valid && !octets.is_empty() { Ok(()) } else { Err(BAD_VALUE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case() {
        let (path, parameters) = ("a@b", "SIZE=1 BODY=8BITMIME");
        for (line, expected) in [
            ("EHLO mail.example.com", Command::Ehlo("mail.example.com")),
            ("helo [192.0.2.1] ", Command::Helo("[192.0.2.1]")),
            ("mail from:<a@b> SIZE=1 BODY=8BITMIME", Command::Mail { path, parameters }),
            ("MAIL FROM:<>", Command::Mail { path: "", parameters: "" }),
            ("RCPT TO:<\"a>\\\"b\"@c>", Command::Rcpt { path: "\"a>\\\"b\"@c", parameters: "" }),
            ("Data", Command::Data),
            ("QUIT ", Command::Quit),
            ("BDAT 0 LAST", Command::Bdat { octets: 0, last: true }),
            ("bdat 86", Command::Bdat { octets: 86, last: false }),
            ("NOOP whatever", Command::Noop),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn slips_are_answered_with_the_code_that_fits() {
        for (line, code) in [
            ("", 500),
            ("HELLO", 500),
            ("EHLO", 501),
            ("EHLO a b", 501),
            ("MAIL", 501),
            ("MAIL FROM <a@b>", 501),
            ("MAIL FROM: <a@b>", 501),
            ("MAIL FROM:a@b", 501),
            ("MAIL FROM:<a@b", 501),
            ("MAIL FROM:<a@b>SIZE=1", 501),
            ("MAIL TO:<a@b>", 501),
            ("RCPT FROM:<a@b>", 501),
            ("DATA now", 501),
            ("QUIT now", 501),
            ("BDAT", 501),
            ("BDAT x", 501),
            ("BDAT +1", 501),
            ("BDAT 1 FIRST", 501),
            ("BDAT 1 LAST x", 501),
            ("BDAT 99999999999999999999", 501),
            ("STARTTLS", 502),
            ("NOOP \u{1}", 500),
            ("NOOP \u{85}", 500),
        ] {
            assert_eq!(parse(line.as_bytes()).unwrap_err().0, code, "{line:?}");
        }
        assert_eq!(parse(b"NOOP \xff").unwrap_err().0, 500);
    }

    #[test]
    fn addresses_have_a_syntax() {
        for (path, smtputf8, code) in [
            ("a@b", false, None),
            ("\"a b@c\"@example.com", false, None),
            ("a@[192.0.2.1]", false, None),
            ("é@example.com", true, None),
            ("é@example.com", false, Some(553)),
            ("a", false, Some(501)),
            ("@b", false, Some(501)),
            ("a@", false, Some(501)),
            ("a b@c", false, Some(501)),
            ("a@b..c", false, Some(501)),
            ("a@b c", false, Some(501)),
            ("<a@b", false, Some(501)),
        ] {
            assert_eq!(check_address(path, smtputf8).err().map(|refusal| refusal.0), code, "{path}");
        }
        assert!(check_address(&format!("{}@b", "a".repeat(253)), false).is_err());
    }

    #[test]
    fn parameters_are_those_of_offered_extensions() {
        let all = Features::default();
        let none = Features::none();
        let size = |size| MailParameters { size, smtputf8: false };
        assert_eq!(mail_parameters("SIZE=1000 BODY=8bitmime RET=HDRS ENVID=a+2Bb", &all), Ok(size(Some(1000))));
        assert_eq!(mail_parameters("SMTPUTF8", &all), Ok(MailParameters { size: None, smtputf8: true }));
        assert_eq!(mail_parameters("", &none), Ok(MailParameters::default()));
        for (text, features, code) in [
            ("SIZE=x", &all, 501),
            ("SIZE", &all, 555),
            ("SIZE=1 SIZE=2", &all, 501),
            ("BODY=BINARYMIME", &all, 501),
            ("ENVID=a+2b", &all, 501),
            ("RET=ALL", &all, 501),
            ("SMTPUTF8=yes", &all, 555),
            ("X=1", &all, 555),
            ("SIZE=1  BODY=7BIT", &all, 555),
            ("SIZE=1", &none, 555),
            ("BODY=7BIT", &none, 555),
            ("SMTPUTF8", &none, 555),
            ("RET=FULL", &none, 555),
        ] {
            assert_eq!(mail_parameters(text, features).unwrap_err().0, code, "{text}");
        }
        assert_eq!(check_rcpt_parameters("NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2Bb@c", &all), Ok(()));
        assert_eq!(check_rcpt_parameters("ORCPT=utf-8;é@c", &all), Ok(()));
        for (text, features, code) in [
            ("NOTIFY=NEVER,SUCCESS", &all, 501),
            ("NOTIFY=", &all, 501),
            ("ORCPT=a@b", &all, 501),
            ("ORCPT=rfc822;é@c", &all, 501),
            ("ORCPT=rfc822;a=b@c", &all, 501),
            ("SIZE=1", &all, 555),
            ("NOTIFY=NEVER", &none, 555),
        ] {
            assert_eq!(check_rcpt_parameters(text, features).unwrap_err().0, code, "{text}");
        }
    }
}

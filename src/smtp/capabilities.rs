//! Takes the reply to EHLO, hands on what the peer offers: without regard to case, and without stopping at what is unknown.

use super::Reply;

/// What a peer said it can do (RFC 5321 4.1.1.1). All off for a peer that knows only HELO.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 1870: `Some(None)` where it is offered without a limit.
    pub size: Option<Option<u64>>,
    /// Mechanisms of AUTH (RFC 4954), in upper case, as offered.
    pub auth: Vec<String>,
    /// RFC 9422.
    pub limits: Limits,
}

/// LIMITS (RFC 9422).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// MAILMAX: transactions in one session.
    pub transactions: Option<u32>,
    /// RCPTMAX: recipients in one transaction.
    pub recipients: Option<usize>,
    /// RCPTDOMAINMAX: domains of recipients in one session.
    pub domains: Option<usize>,
}

impl Capabilities {
    /// Reads a positive reply to EHLO. Its first line is the peer's name.
    pub fn parse(ehlo: &Reply) -> Self {
        let mut offered = Self::default();
        for line in ehlo.lines().skip(1) {
            // `AUTH=LOGIN` is how servers said it before RFC 2554, and some still do beside the right form.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => offered.pipelining = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "CHUNKING" => offered.chunking = true,
                // 0 is "no fixed limit" (RFC 1870 4); a number beyond 64 bits limits nothing either.
                "SIZE" => offered.size = Some(words.next().and_then(|octets| octets.parse().ok()).filter(|&octets| octets > 0)),
                "AUTH" => {
                    for mechanism in words.map(str::to_ascii_uppercase) {
                        if !offered.auth.contains(&mechanism) {
                            offered.auth.push(mechanism);
                        }
                    }
                }
                "LIMITS" => offered.limits.read(line),
                _ => {}
            }
        }
        offered
    }
}

impl Limits {
    /// `LIMITS RCPTMAX=20 MAILMAX=5`; unknown names and bad values are passed over (RFC 9422 3). A limit of zero would forbid mail: ignored.
    fn read(&mut self, line: &str) {
        for word in line.split(' ').skip(1) {
            let Some((name, value)) = word.split_once('=') else { continue };
            let value = value.parse::<u32>().ok().filter(|&value| value > 0);
            let count = value.and_then(|value| usize::try_from(value).ok());
            if name.eq_ignore_ascii_case("MAILMAX") {
                self.transactions = value;
            } else if name.eq_ignore_ascii_case("RCPTMAX") {
                self.recipients = count;
            } else if name.eq_ignore_ascii_case("RCPTDOMAINMAX") {
                self.domains = count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Capabilities {
        Capabilities::parse(&Reply::new(250, lines.join("\n")))
    }

    #[test]
    fn everything_in_any_case() {
        let offered = parse(&[
            "mx.example.com greets you, PIPELINING",
            "pipelining",
            "8bitMIME",
            "SmtpUTF8",
            "dsn",
            "starttls",
            "Chunking",
            "size 10485760",
            "auth plain Login",
            "AUTH=LOGIN CRAM-MD5",
            "LIMITS RCPTMAX=20 mailmax=5 RCPTDOMAINMAX=1 X=9",
            "ENHANCEDSTATUSCODES",
            "X-UNKNOWN foo=bar",
            "",
        ]);
        let expected = Capabilities {
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            starttls: true,
            chunking: true,
            size: Some(Some(10_485_760)),
            auth: ["PLAIN", "LOGIN", "CRAM-MD5"].map(str::to_owned).into(),
            limits: Limits { transactions: Some(5), recipients: Some(20), domains: Some(1) },
        };
        assert_eq!(offered, expected);
    }

    #[test]
    fn the_first_line_is_a_name() {
        assert_eq!(parse(&["PIPELINING"]), Capabilities::default());
        assert_eq!(parse(&[""]), Capabilities::default());
    }

    #[test]
    fn size_without_a_limit() {
        for line in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            assert_eq!(parse(&["mx", line]).size, Some(None), "{line}");
        }
        assert_eq!(parse(&["mx"]).size, None);
    }

    #[test]
    fn limits_that_make_no_sense_are_none() {
        assert_eq!(parse(&["mx", "LIMITS RCPTMAX=0 MAILMAX=x"]).limits, Limits::default());
        assert_eq!(parse(&["mx", "LIMITS"]).limits, Limits::default());
    }
}

//! Takes an envelope and what the peer offers, hands on command lines. Addresses are free of control characters by construction.

use std::io::Write;

use super::{Capabilities, Mail, Rcpt};
use crate::message::Ret;

/// What MAIL and RCPT carry besides addresses: decided once a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameters {
    size: bool,
    eight_bit: bool,
    smtputf8: bool,
    dsn: bool,
}

impl Parameters {
    /// For a transaction to these recipients of `mail`.
    pub(super) fn new(mail: &Mail<'_>, recipients: &[usize], offered: &Capabilities) -> Self {
        let needed = needs_smtputf8(mail) || recipients.iter().any(|&at| mail.recipients[at].address.needs_smtputf8());
        let smtputf8 = needed && offered.smtputf8;
        Self {
            size: offered.size.is_some(),
            // Not offered: sent unchanged, so that DKIM signatures hold.
            eight_bit: (mail.content.eight_bit || mail.content.header_utf8 || smtputf8) && offered.eight_bit_mime,
            smtputf8,
            dsn: offered.dsn,
        }
    }

    /// Appends MAIL.
    pub(super) fn mail(self, mail: &Mail<'_>, out: &mut Vec<u8>) {
        append(out, format_args!("MAIL FROM:<{}>", mail.sender));
        if self.size {
            append(out, format_args!(" SIZE={}", mail.content.wire_size));
        }
        if self.eight_bit {
            out.extend_from_slice(b" BODY=8BITMIME");
        }
        if self.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if self.dsn {
            match mail.ret {
                Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
                Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = mail.envid {
                out.extend_from_slice(b" ENVID=");
                xtext(envid, out);
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends RCPT.
    pub(super) fn rcpt(self, mail: &Mail<'_>, rcpt: &Rcpt<'_>, out: &mut Vec<u8>) {
        append(out, format_args!("RCPT TO:<{}>", rcpt.address));
        if self.dsn && rcpt.notify.explicit {
            append(out, format_args!(" NOTIFY={}", rcpt.notify));
        }
        // RFC 3461 5.2.1 lets us add it. It is worth its octets where somebody asked for reports.
        if self.dsn && (rcpt.notify.explicit || mail.ret.is_some() || mail.envid.is_some()) {
            if rcpt.address.needs_smtputf8() {
                out.extend_from_slice(b" ORCPT=utf-8;");
                unitext(&rcpt.address.to_string(), out);
            } else {
                out.extend_from_slice(b" ORCPT=rfc822;");
                xtext(&rcpt.address.to_string(), out);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether every transaction of `mail` needs SMTPUTF8, whoever its recipients are.
pub(super) fn needs_smtputf8(mail: &Mail<'_>) -> bool {
    mail.content.header_utf8 || mail.sender.address().is_some_and(crate::message::Address::needs_smtputf8)
}

/// Whether the peer is told NOTIFY for this recipient.
pub(super) fn notify_goes_along(rcpt: &Rcpt<'_>, offered: &Capabilities) -> bool {
    offered.dsn && rcpt.notify.explicit
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

/// RFC 3461 4: printable ASCII but `+` and `=` stands for itself, the rest is `+XX`.
fn xtext(text: &str, out: &mut Vec<u8>) {
    for &octet in text.as_bytes() {
        match octet {
            b'!'..=b'~' if octet != b'+' && octet != b'=' => out.push(octet),
            _ => append(out, format_args!("+{octet:02X}")),
        }
    }
}

/// utf-8-addr-unitext of RFC 6533 3, for peers that offer SMTPUTF8: what is not allowed as itself is `\x{XX}`.
fn unitext(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '+' | '=' | '\\' | '\0'..=' ' | '\x7f' => append(out, format_args!("\\x{{{:02X}}}", u32::from(c))),
            _ => append(out, format_args!("{c}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::message::{Address, Content, Notify, ReversePath};

    fn lines(offered: &Capabilities, content: Content, notify: Notify, to: &str) -> String {
        let sender = ReversePath::parse("joe@example.org").unwrap();
        let address = Address::parse(to).unwrap();
        let mail = Mail {
            sender: &sender,
            recipients: vec![Rcpt { address: &address, notify }],
            content: &content,
            file: Path::new(""),
            ret: notify.explicit.then_some(Ret::Headers),
            envid: notify.explicit.then_some("id+1 = ü"),
        };
        let parameters = Parameters::new(&mail, &[0], offered);
        let mut out = Vec::new();
        parameters.mail(&mail, &mut out);
        parameters.rcpt(&mail, &mail.recipients[0], &mut out);
        String::from_utf8(out).unwrap()
    }

    fn everything() -> Capabilities {
        Capabilities { eight_bit_mime: true, smtputf8: true, dsn: true, size: Some(None), ..Capabilities::default() }
    }

    fn asked() -> Notify {
        Notify { failure: true, delay: false, success: true, explicit: true }
    }

    #[test]
    fn nothing_offered_nothing_said() {
        let content = Content { wire_size: 10, eight_bit: true, ..Content::default() };
        let got = lines(&Capabilities::default(), content, asked(), "a@example.com");
        assert_eq!(got, "MAIL FROM:<joe@example.org>\r\nRCPT TO:<a@example.com>\r\n");
    }

    #[test]
    fn nothing_needed_only_the_size_said() {
        let content = Content { wire_size: 10, ..Content::default() };
        let got = lines(&everything(), content, Notify::default(), "a@bücher.example");
        assert_eq!(got, "MAIL FROM:<joe@example.org> SIZE=10\r\nRCPT TO:<a@xn--bcher-kva.example>\r\n");
    }

    #[test]
    fn dsn_parameters_are_encoded() {
        let content = Content { wire_size: 10, eight_bit: true, ..Content::default() };
        let got = lines(&everything(), content, asked(), "a+b=c@example.com");
        let expected = "MAIL FROM:<joe@example.org> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=id+2B1+20+3D+20+C3+BC\r\n\
                        RCPT TO:<a+b=c@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb+3Dc@example.com\r\n";
        assert_eq!(got, expected);
    }

    #[test]
    fn a_utf8_local_part_brings_smtputf8_and_its_own_orcpt() {
        let got = lines(&everything(), Content::default(), Notify::NEVER, "jürgen+x@example.com");
        let expected = "MAIL FROM:<joe@example.org> SIZE=0 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1+20+3D+20+C3+BC\r\n\
                        RCPT TO:<jürgen+x@example.com> NOTIFY=NEVER ORCPT=utf-8;jürgen\\x{2B}x@example.com\r\n";
        assert_eq!(got, expected);
    }
}

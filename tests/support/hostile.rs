//! Every phase of a session and everything that a peer can do wrong in it: the cells of the matrix, and the script of each.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_direct::config::TlsMode;
use smtp_direct::route::Endpoint;

use crate::chain::{Strict, Taken, numbered, with_text};
use crate::peer::{GO_ON, Letter, Script, Step, endpoint, endpoint_with_login, server, server_with_a_long_chain};

/// Where in a session it goes wrong. The peer does everything before that as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    EhloTls,
    Auth,
    Mail,
    /// The first of two recipients.
    Rcpt1,
    Rcpt2,
    Data,
    /// Some of the content has been read, most of it has not left.
    Content,
    Dot,
    /// MAIL of the second mail of a session.
    NextMail,
    /// RSET, which comes before the second mail as nobody was accepted of the first.
    Reset,
    /// BDAT with nothing else in flight.
    Bdat,
    /// BDAT of the first of three mails that are in flight together.
    WindowFirst,
    /// BDAT of the last one.
    WindowLast,
    Quit,
}

/// How the client is made to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A command at a time, in clear text.
    Lockstep,
    /// PIPELINING, in clear text.
    Pipelined,
    /// CHUNKING and PIPELINING, in clear text.
    Chunked,
    /// PIPELINING under TLS, which is required.
    Tls,
    /// The same where TLS is not required: what breaks over TLS is tried again in clear text.
    Opportunistic,
}

/// What the peer does where its reply is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A line without end.
    EndlessLine,
    /// Line after line, none the last one.
    EndlessReply,
    /// The same, an octet a second.
    TrickledLine,
    TrickledReply,
    /// The due reply, an octet a second: slow, not wrong.
    SlowReply,
    /// The due reply with NULs and control characters in its text.
    NulInText,
    /// The due reply with text that is no UTF-8.
    NotUtf8,
    NulBeforeCode,
    ControlInCode,
    /// The due reply with LF for CRLF.
    BareLf,
    /// A CR and no LF.
    BareCr,
    /// A reply of this code and nothing else wrong with it.
    Code(u16),
    /// A 354 without end of line.
    Endless354,
    /// 421, and the peer closes.
    Farewell,
    /// The due reply, twice.
    Twice,
    /// The due reply and the one to the next command, which then gets none. In a window: those to the whole of the last mail, whose
    /// content has not left yet.
    Ahead,
    /// Nothing, neither a FIN.
    Silent,
    Fin,
    /// The beginning of a reply, then FIN.
    HalfReply,
    Rst,
    /// Nothing, and the content is read at an octet a second.
    ReadsAnOctetASecond,
    /// Nothing, and the content is read block by block, each in time, slower than 500 octets a second.
    ReadsTooSlowly,
    /// A fatal alert.
    TlsAlert,
    /// Octets where TLS records are due.
    TlsGarbage,
    /// A record of 16 KiB is begun, and goes on at an octet a second.
    TlsTrickle,
    /// A chain of certificates of a megabyte.
    TlsChain,
}

/// Wrong replies: whatever is due, any of them may come.
const REPLIES: [Wrong; 30] = [
    Wrong::EndlessLine,
    Wrong::EndlessReply,
    Wrong::TrickledLine,
    Wrong::TrickledReply,
    Wrong::SlowReply,
    Wrong::NulInText,
    Wrong::NotUtf8,
    Wrong::NulBeforeCode,
    Wrong::ControlInCode,
    Wrong::BareLf,
    Wrong::BareCr,
    Wrong::Code(0),
    Wrong::Code(150),
    Wrong::Code(250),
    Wrong::Code(354),
    Wrong::Code(421),
    Wrong::Code(450),
    Wrong::Code(500),
    Wrong::Code(554),
    Wrong::Code(600),
    Wrong::Code(999),
    Wrong::Endless354,
    Wrong::Farewell,
    Wrong::Twice,
    Wrong::Silent,
    Wrong::Fin,
    Wrong::HalfReply,
    Wrong::Rst,
    Wrong::Code(199),
    Wrong::Code(299),
];

/// What else can go wrong under TLS.
const UNDER_TLS: [Wrong; 2] = [Wrong::TlsAlert, Wrong::TlsGarbage];

/// What can go wrong with a handshake.
const HANDSHAKES: [Wrong; 10] = [
    Wrong::EndlessLine,
    Wrong::Code(250),
    Wrong::NulBeforeCode,
    Wrong::TlsAlert,
    Wrong::TlsGarbage,
    Wrong::TlsTrickle,
    Wrong::TlsChain,
    Wrong::Silent,
    Wrong::Fin,
    Wrong::Rst,
];

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub at: At,
    pub manner: Manner,
    pub wrong: Wrong,
}

/// The manners in which a phase occurs.
fn manners(at: At) -> &'static [Manner] {
    use Manner::{Chunked, Lockstep, Opportunistic, Pipelined, Tls};
    match at {
        At::Greeting | At::Ehlo | At::Auth => &[Pipelined],
        At::StartTls | At::Handshake | At::EhloTls => &[Tls, Opportunistic],
        At::Mail | At::Rcpt1 | At::Rcpt2 | At::Data | At::Content | At::Dot | At::NextMail | At::Reset | At::Quit => {
            &[Lockstep, Pipelined, Tls]
        }
        At::Bdat | At::WindowFirst | At::WindowLast => &[Chunked],
    }
}

/// Whether a further reply, of a command that the client has not sent, can come with the one that is due.
fn has_ahead(at: At) -> bool {
    use At::*;
    matches!(at, Greeting | Ehlo | StartTls | EhloTls | Auth | Mail | Rcpt1 | Rcpt2 | Data | WindowLast)
}

/// The whole matrix.
pub fn cells() -> Vec<Cell> {
    use At::*;
    let all = [
        Greeting,
        Ehlo,
        StartTls,
        Handshake,
        EhloTls,
        Auth,
        Mail,
        Rcpt1,
        Rcpt2,
        Data,
        Content,
        Dot,
        NextMail,
        Reset,
        Bdat,
        WindowFirst,
        WindowLast,
        Quit,
    ];
    let mut cells = Vec::new();
    for at in all {
        for &manner in manners(at) {
            let mut wrongs = if at == Handshake { HANDSHAKES.to_vec() } else { REPLIES.to_vec() };
            if has_ahead(at) {
                wrongs.push(Wrong::Ahead);
            }
            if at == Content {
                wrongs.push(Wrong::ReadsAnOctetASecond);
                // Under TLS the last 64 KiB are in rustls's buffer, and how fast the peer reads those is not seen in time.
                wrongs.extend((manner != Manner::Tls).then_some(Wrong::ReadsTooSlowly));
            }
            if at == EhloTls || (manner == Manner::Tls && !matches!(at, StartTls | Handshake)) {
                wrongs.extend(UNDER_TLS);
            }
            cells.extend(wrongs.into_iter().map(|wrong| Cell { at, manner, wrong }));
        }
    }
    cells
}

impl Cell {
    /// What the client requires; the host is this cell's own, so that what is remembered of peers is, too.
    pub fn endpoint(self, host: &str) -> Endpoint {
        let tls = match self.manner {
            Manner::Tls => TlsMode::Require,
            Manner::Opportunistic => TlsMode::Opportunistic,
            _ => TlsMode::None,
        };
        let endpoint = if self.at == At::Auth { endpoint_with_login(tls, true) } else { endpoint(tls) };
        let window = if matches!(self.at, At::WindowFirst | At::WindowLast) { 3 } else { 1 };
        Endpoint { host: host.into(), window, ..endpoint }
    }

    /// What is to be sent, two recipients each.
    pub fn letters(self) -> Vec<Letter> {
        match self.at {
            // More than the kernel's buffers hold.
            At::Content if self.wrong == Wrong::Rst => vec![with_text(0, 2, &"A line of text.\r\n".repeat(2_000_000))],
            At::Content => vec![with_text(0, 2, &"A line of text.\r\n".repeat(30_000))],
            At::NextMail | At::Reset => vec![numbered(0, 2), numbered(1, 2)],
            _ if self.is_ahead_in_window() => {
                vec![numbered(0, 2), numbered(1, 2), with_text(2, 2, &"A line of text.\r\n".repeat(3_000))]
            }
            At::WindowFirst | At::WindowLast => (0..3).map(|number| numbered(number, 2)).collect(),
            _ => vec![numbered(0, 2)],
        }
    }

    /// The octets that a connection holds in each direction.
    pub fn buffer(self) -> usize {
        if self.at == At::Content || self.is_ahead_in_window() { 4_000 } else { 1024 * 1024 }
    }

    fn is_ahead_in_window(self) -> bool {
        (self.at, self.wrong) == (At::WindowLast, Wrong::Ahead)
    }

    /// What EHLO offers.
    fn offers(self) -> Vec<&'static str> {
        let mut offers = vec!["8BITMIME"];
        match self.manner {
            Manner::Lockstep => {}
            Manner::Chunked => offers.extend(["PIPELINING", "CHUNKING"]),
            _ => offers.push("PIPELINING"),
        }
        if self.at == At::Auth {
            offers.push("AUTH PLAIN");
        }
        offers
    }

    /// The EHLO reply, without its last end of line.
    fn hello(self, encrypted: bool) -> String {
        let mut lines = vec!["mx.test"];
        if self.uses_tls() && !encrypted {
            lines.push("STARTTLS");
        }
        lines.extend(self.offers());
        let (last, others) = lines.split_last().unwrap();
        others.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + "250 " + last
    }

    fn uses_tls(self) -> bool {
        matches!(self.manner, Manner::Tls | Manner::Opportunistic)
    }

    /// The reply that is due where it goes wrong, without its last end of line.
    pub fn due(self) -> String {
        match self.at {
            At::Greeting => "220 mx.test ESMTP".to_owned(),
            At::Ehlo => self.hello(false),
            At::EhloTls => self.hello(true),
            At::StartTls => "220 2.0.0 go".to_owned(),
            At::Auth => "235 2.7.0 ok".to_owned(),
            At::Data => "354 go ahead".to_owned(),
            At::Quit => "221 2.0.0 bye".to_owned(),
            _ => "250 2.0.0 ok".to_owned(),
        }
    }

    /// The reply that is due next, to a command that the client has not sent, or has sent in the same turn.
    fn due_next(self) -> String {
        match self.at {
            // RSET, MAIL, RCPT twice, BDAT.
            At::WindowLast => ["250 2.0.0 ok"; 5].join("\r\n"),
            At::Greeting => self.hello(false),
            At::Rcpt2 => "354 go ahead".to_owned(),
            _ => "250 2.0.0 ok".to_owned(),
        }
    }

    /// The peer that does it.
    pub fn script(self) -> Script {
        self.play(Some(self.wrong))
    }

    /// A peer that does everything right, and offers the same.
    pub fn sound(self) -> Script {
        self.play(None)
    }

    fn play(self, wrong: Option<Wrong>) -> Script {
        let answers = Arc::new(Mutex::new(self.answers(wrong)));
        let serve = |script: Script| {
            let answers = answers.clone();
            script.serve(move |line| (answers.lock().unwrap())(line))
        };
        let here = |at: At| wrong.filter(|_| self.at == at);
        let mut script = match here(At::Greeting) {
            Some(wrong) => self.steps(wrong, Script::new()),
            None => Script::new().say("220 mx.test ESMTP"),
        };
        script = serve(script);
        if self.uses_tls() {
            script = match (here(At::StartTls), here(At::Handshake)) {
                (Some(wrong), _) => self.steps(wrong, script),
                (_, Some(wrong)) => return self.handshake(wrong, script.say("220 go")),
                _ => script.say("220 go"),
            };
            if wrong.is_some_and(|wrong| self.at == At::StartTls && !self.goes_on_after(wrong)) {
                return serve(script);
            }
            script = serve(script.step(Step::Tls(server())));
        }
        match wrong {
            Some(wrong) if !matches!(self.at, At::Greeting | At::StartTls) => {
                script = match self.at {
                    At::Content => return self.steps(wrong, script.say("354 go ahead").step(Step::Swallow(1_000))),
                    _ => self.steps(wrong, script),
                };
                // The answer was given by the steps: so must be what belongs to it.
                if self.at == At::Data && self.goes_on_after(wrong) {
                    script = script.content().say("250 2.0.0 queued");
                }
                if self.at == At::Rcpt2 && wrong == Wrong::Ahead && self.manner != Manner::Lockstep {
                    script = script.expect("DATA").content().say("250 2.0.0 queued");
                }
                serve(script)
            }
            _ => script,
        }
    }

    /// Whether the wrong reply is as good as the due one.
    fn goes_on_after(self, wrong: Wrong) -> bool {
        match wrong {
            Wrong::SlowReply | Wrong::NulInText | Wrong::NotUtf8 | Wrong::BareLf => true,
            Wrong::Code(code) => code / 100 == if self.at == At::Data { 3 } else { 2 },
            _ => false,
        }
    }

    /// What the peer answers, but for the place where the script does.
    fn answers(self, wrong: Option<Wrong>) -> Box<dyn FnMut(&str) -> String + Send> {
        let ahead = wrong == Some(Wrong::Ahead);
        let (mut hellos, mut recipients, mut done, mut mute) = (0, 0, wrong.is_none(), usize::from(ahead && self.at == At::Greeting));
        // Whether the peer goes on as if it had done what it was told.
        let well = wrong.is_some_and(|wrong| self.goes_on_after(wrong) || matches!(wrong, Wrong::Twice | Wrong::Ahead));
        let odd = move |number: usize, line: &str| {
            let verb = line.split(' ').next().unwrap_or_default();
            recipients = match verb {
                "RCPT" => recipients + 1,
                "MAIL" => 0,
                _ => recipients,
            };
            hellos += usize::from(verb == "EHLO");
            let here = match verb {
                "EHLO" => self.at == if hellos == 1 { At::Ehlo } else { At::EhloTls },
                "AUTH" => self.at == At::Auth,
                "MAIL" => self.at == if number == 0 { At::Mail } else { At::NextMail },
                "RCPT" => self.at == if recipients == 1 { At::Rcpt1 } else { At::Rcpt2 },
                "DATA" => matches!(self.at, At::Data | At::Content),
                "." => self.at == At::Dot,
                "RSET" => self.at == At::Reset,
                "BDAT" => match self.at {
                    At::Bdat | At::WindowFirst => number == 0,
                    At::WindowLast => number == if ahead { 1 } else { 2 },
                    _ => false,
                },
                "QUIT" => self.at == At::Quit,
                _ => false,
            };
            if mute > 0 {
                mute -= 1;
                return Some(String::new());
            }
            if here && !done {
                done = true;
                // What it has said ahead includes the go-ahead for the content.
                mute = match self.at {
                    At::Rcpt2 => 0,
                    At::WindowLast => 5,
                    _ => 1,
                } * usize::from(ahead);
                return Some(format!("{}{GO_ON}", if well { "2" } else { "" }));
            }
            match verb {
                "EHLO" => Some(self.hello(hellos > 1)),
                "STARTTLS" => Some(GO_ON.to_string()),
                // Nobody of the first mail, so that RSET comes before the second.
                "RCPT" if self.at == At::Reset && number == 0 => Some("550 5.1.1 nobody".to_owned()),
                _ => None,
            }
        };
        Box::new(Strict::new(&Taken::default()).but(odd))
    }

    /// What the peer does where its reply is due.
    fn steps(self, wrong: Wrong, script: Script) -> Script {
        const SECOND: Duration = Duration::from_secs(1);
        let due = self.due();
        let shout = |text: &str| Step::Shout(text.as_bytes().to_vec());
        let step = match wrong {
            Wrong::EndlessLine => Step::Flood(b"250 and so on ".repeat(50)),
            Wrong::EndlessReply => Step::Flood(b"250-and so on\r\n".repeat(50)),
            Wrong::TrickledLine => Step::Trickle(b"250 and so on ".repeat(100), SECOND),
            Wrong::TrickledReply => Step::Trickle(b"250-and so on\r\n".repeat(100), SECOND),
            Wrong::SlowReply => Step::Trickle(format!("{due}\r\n").into_bytes(), SECOND),
            Wrong::NulInText => shout(&format!("{due} \0\0\x07\x1b[2J\x7f\r\n")),
            Wrong::NotUtf8 => Step::Shout([due.as_bytes(), b" \xff\xfe\xe9\r\n"].concat()),
            Wrong::NulBeforeCode => shout("\x00250 ok\r\n"),
            Wrong::ControlInCode => shout("2\x0850 ok\r\n"),
            Wrong::BareLf => shout(&format!("{}\n", due.replace("\r\n", "\n"))),
            // And so all that it says from here on.
            Wrong::BareCr => return script.step(shout("250 ok\r")).step(Step::Stall),
            Wrong::Code(code) => shout(&format!("{code:03} what\r\n")),
            Wrong::Endless354 => Step::Flood(b"354 go ahead ".repeat(50)),
            Wrong::Farewell => return script.step(shout("421 bye\r\n")).step(Step::Close),
            Wrong::Twice => shout(&format!("{due}\r\n{due}\r\n")),
            Wrong::Ahead => shout(&format!("{due}\r\n{}\r\n", self.due_next())),
            Wrong::Silent => Step::Stall,
            Wrong::Fin => Step::Close,
            Wrong::HalfReply => return script.step(shout("25")).step(Step::Close),
            Wrong::Rst => Step::Reset,
            Wrong::ReadsAnOctetASecond => Step::ReadSlowly(1, SECOND),
            Wrong::ReadsTooSlowly => Step::ReadSlowly(400, SECOND),
            Wrong::TlsAlert => Step::Alert,
            Wrong::TlsGarbage => Step::Beneath(b"\x17\x03\x03\x00\x20what is this, is it any record ok".to_vec()),
            Wrong::TlsTrickle | Wrong::TlsChain => unreachable!("of the handshake only"),
        };
        script.step(step)
    }

    /// What the peer does where its side of the handshake is due.
    fn handshake(self, wrong: Wrong, script: Script) -> Script {
        const HANDSHAKE_RECORD: &[u8] = b"\x16\x03\x03\x3f\xff";
        if wrong == Wrong::TlsChain {
            return script.step(Step::Tls(server_with_a_long_chain()));
        }
        // The client's first word is waited for: what comes before that would be an injection.
        let script = script.step(Step::Swallow(5));
        match wrong {
            Wrong::TlsAlert => script.step(Step::Shout(b"\x15\x03\x03\x00\x02\x02\x28".to_vec())),
            Wrong::TlsGarbage => script.step(Step::Shout([HANDSHAKE_RECORD, &[0x55; 0x3fff]].concat())),
            Wrong::TlsTrickle => {
                let octets = [HANDSHAKE_RECORD, &[2; 1_000]].concat();
                script.step(Step::Trickle(octets, Duration::from_secs(1)))
            }
            Wrong::TlsChain => unreachable!("a whole handshake"),
            other => self.steps(other, script),
        }
    }
}

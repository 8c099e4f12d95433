//! Takes the octets of a client in whatever blocks they come, hands on the replies: the protocol without its socket.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;

use memchr::memchr;

use super::command::{self, Command, Refusal};
use super::content::{Body, Dots};
use super::server::{Features, Received, Receiver, Recipients, Verdict};

/// Octets of a command line with its end: RFC 5321 4.5.3.1.4 and what the extensions add, many times over.
const MAX_LINE: usize = 4096;

/// One client's session.
pub(super) struct Session<'a> {
    receiver: &'a Receiver,
    client: SocketAddr,
    state: State,
    /// What the client calls itself; empty before EHLO.
    name: String,
    /// EHLO, not HELO.
    extended: bool,
    envelope: Envelope,
    /// A BDAT was seen in this transaction: only BDAT may follow.
    chunking: Chunking,
    body: Body,
    dots: Dots,
    replies: Vec<u8>,
    /// The last command was one after which the client must wait for the answer (RFC 2920 3.1).
    must_wait: bool,
}

/// What the next octets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A command line.
    Command,
    /// The rest of a line that is too long.
    LongLine,
    /// Content, up to the final dot.
    Content,
    /// Content: this many octets.
    Chunk { left: u64, last: bool, refusal: Option<Refusal> },
    /// Nobody listens any more.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunking {
    None,
    Begun,
    /// A chunk was refused: so are the rest.
    Failed,
}

/// One transaction's envelope. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    open: bool,
    smtputf8: bool,
    sender: String,
    mail_parameters: String,
    /// Paths and parameters, one after the other ...
    text: String,
    /// ... and where each path, and its parameters, end.
    ends: Vec<(usize, usize)>,
}

impl Envelope {
    pub(super) fn recipients(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.ends.iter().enumerate().map(|(i, &(path, parameters))| {
            let start = if i == 0 { 0 } else { self.ends[i - 1].1 };
            (&self.text[start..path], &self.text[path..parameters])
        })
    }

    fn add(&mut self, path: &str, parameters: &str) {
        self.text.push_str(path);
        let path = self.text.len();
        self.text.push_str(parameters);
        self.ends.push((path, self.text.len()));
    }

    fn begin(&mut self, sender: &str, parameters: &str, smtputf8: bool) {
        self.open = true;
        self.smtputf8 = smtputf8;
        self.sender.push_str(sender);
        self.mail_parameters.push_str(parameters);
    }

    fn clear(&mut self) {
        self.open = false;
        self.sender.clear();
        self.mail_parameters.clear();
        self.text.clear();
        self.ends.clear();
    }
}

impl<'a> Session<'a> {
    /// A session that has its greeting to say.
    pub(super) fn new(receiver: &'a Receiver, client: SocketAddr) -> Self {
        let mut session = Self {
            receiver,
            client,
            state: State::Command,
            name: String::new(),
            extended: false,
            envelope: Envelope::default(),
            chunking: Chunking::None,
            body: Body::default(),
            dots: Dots::default(),
            replies: Vec::new(),
            must_wait: false,
        };
        let greeting = format!("{} ESMTP smtp-direct sink", receiver.settings.hostname);
        session.say(220, "", &greeting);
        session
    }

    /// What is to be written.
    pub(super) fn replies(&self) -> &[u8] {
        &self.replies
    }

    /// It was written.
    pub(super) fn replied(&mut self) {
        self.replies.clear();
        self.must_wait = false;
    }

    /// The connection is to be closed once the replies are written.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what can be taken of `input`, and returns how many octets that was: all but a line that is not complete.
    pub(super) fn take(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Over => return input.len(),
                // Before the rest is looked at: a chunk of no octets is complete at once.
                State::Chunk { left: 0, last, refusal } => self.end_chunk(last, refusal),
                _ if rest.is_empty() => return used,
                _ if self.must_wait && !self.replies.is_empty() => {
                    self.end(503, "5.5.0", "You did not wait for the answer to the last command");
                }
                State::Chunk { left, last, refusal } => {
                    let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if refusal.is_none() {
                        self.body.push(&rest[..here]);
                    }
                    self.state = State::Chunk { left: left - here as u64, last, refusal };
                    used += here;
                }
                State::Content => {
                    let (more, end) = self.dots.take(rest, &mut self.body);
                    used += more;
                    if end {
                        self.state = State::Command;
                        self.end_message();
                    }
                }
                State::LongLine => match memchr(b'\n', rest) {
                    Some(at) => {
                        used += at + 1;
                        self.state = State::Command;
                        self.say(500, "5.5.2", "The line is too long");
                    }
                    None => return input.len(),
                },
                State::Command => match memchr(b'\n', &rest[..rest.len().min(MAX_LINE)]) {
                    Some(at) => {
                        used += at + 1;
                        self.take_line(&rest[..at]);
                    }
                    None if rest.len() >= MAX_LINE => self.state = State::LongLine,
                    None => return used,
                },
            }
        }
    }

    /// A line without its LF.
    fn take_line(&mut self, line: &[u8]) {
        if !self.features().pipelining && !self.replies.is_empty() {
            return self.end(503, "5.5.0", "PIPELINING was not offered: wait for each answer");
        }
        let Some(line) = line.strip_suffix(b"\r") else {
            return self.say(500, "5.5.2", "A line ends with CRLF, not LF");
        };
        let command = command::parse(line);
        // Nothing may come with these before their answer is there.
        self.must_wait = matches!(command, Ok(Command::Ehlo(_) | Command::Helo(_) | Command::Data));
        if let Err(refusal) = command.and_then(|command| self.obey(command)) {
            self.refuse(refusal);
            if line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT")) && self.state == State::Command {
                // What follows may be content: nothing says how much.
                self.state = State::Over;
            }
        }
    }

    fn obey(&mut self, command: Command<'_>) -> Result<(), Refusal> {
        match command {
            Command::Ehlo(name) | Command::Helo(name) => {
                self.name = name.to_owned();
                self.extended = matches!(command, Command::Ehlo(_));
                self.reset();
                self.say_hello();
            }
            Command::Mail { path, parameters } => self.mail(path, parameters)?,
            Command::Rcpt { path, parameters } => self.rcpt(path, parameters)?,
            Command::Data => {
                self.check_recipients()?;
                self.dots.reset();
                self.begin_body();
                self.state = State::Content;
                self.say(354, "", "End with CRLF.CRLF");
            }
            Command::Bdat { .. } if !self.features().chunking => return Err(Refusal(502, "5.5.1", "CHUNKING was not offered")),
            Command::Bdat { octets, last } => self.bdat(octets, last),
            Command::Rset => {
                self.reset();
                self.say(250, "2.0.0", "Ok");
            }
            Command::Noop => self.say(250, "2.0.0", "Ok"),
            Command::Vrfy => self.say(252, "2.5.2", "Send it and see"),
            Command::Help => self.say(214, "2.0.0", "RFC 5321"),
            Command::Quit => self.end(221, "2.0.0", "Bye"),
        }
        Ok(())
    }

    /// What was offered: nothing before EHLO, nor after HELO.
    fn features(&self) -> Features {
        if self.extended { self.receiver.settings.features } else { Features::none() }
    }

    fn say_hello(&mut self) {
        let settings = &self.receiver.settings;
        let mut text = settings.hostname.clone();
        if self.extended {
            let features = &settings.features;
            for (offered, keyword) in [
                (features.pipelining, "PIPELINING"),
                (features.eight_bit_mime, "8BITMIME"),
                (features.smtputf8, "SMTPUTF8"),
                (features.dsn, "DSN"),
                (features.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
                (features.chunking, "CHUNKING"),
            ] {
                if offered {
                    text.push('\n');
                    text.push_str(keyword);
                }
            }
            if features.size {
                // Writing to a String cannot fail.
                let _ = write!(text, "\nSIZE {}", settings.max_size);
            }
        }
        self.say(250, "", &text);
    }

    fn mail(&mut self, path: &str, parameters: &str) -> Result<(), Refusal> {
        if self.name.is_empty() {
            return Err(Refusal(503, "5.5.1", "Say EHLO first"));
        }
        if self.envelope.open {
            return Err(Refusal(503, "5.5.1", "A transaction is under way: end it, or RSET"));
        }
        let settings = &self.receiver.settings;
        let read = command::mail_parameters(parameters, &self.features())?;
        if !path.is_empty() {
            command::check_address(path, read.smtputf8)?;
        }
        if read.size.is_some_and(|size| size > settings.max_size) {
            return Err(TOO_LARGE);
        }
        self.envelope.begin(path, parameters, read.smtputf8);
        self.say(250, "2.1.0", "Ok");
        Ok(())
    }

    fn rcpt(&mut self, path: &str, parameters: &str) -> Result<(), Refusal> {
        if !self.envelope.open {
            return Err(Refusal(503, "5.5.1", "Say MAIL first"));
        }
        if self.chunking != Chunking::None {
            return Err(AFTER_BDAT);
        }
        let settings = &self.receiver.settings;
        command::check_rcpt_parameters(parameters, &self.features())?;
        // The one address without a domain (RFC 5321 4.5.1).
        if !path.eq_ignore_ascii_case("postmaster") {
            command::check_address(path, self.envelope.smtputf8)?;
        }
        if self.envelope.ends.len() >= settings.max_recipients {
            return Err(Refusal(452, "4.5.3", "Too many recipients"));
        }
        let verdict = self.receiver.policy.recipient(&self.envelope.sender, path);
        if is_accepted(&verdict) {
            self.envelope.add(path, parameters);
        }
        self.answer(verdict, "2.1.5", "Ok");
        Ok(())
    }

    fn check_recipients(&self) -> Result<(), Refusal> {
        if !self.envelope.open {
            Err(Refusal(503, "5.5.1", "Say MAIL first"))
        } else if self.chunking == Chunking::Begun {
            Err(AFTER_BDAT)
        } else if self.envelope.ends.is_empty() {
            Err(Refusal(554, "5.5.1", "No valid recipients"))
        } else {
            Ok(())
        }
    }

    /// Refused or not, the octets that were announced follow (RFC 3030 2).
    fn bdat(&mut self, octets: u64, last: bool) {
        let refusal = match self.chunking {
            Chunking::Failed => Some(Refusal(503, "5.5.1", "An earlier chunk was refused")),
            Chunking::Begun => None,
            Chunking::None => self.check_recipients().err(),
        };
        if refusal.is_none() && self.chunking == Chunking::None {
            self.begin_body();
            self.chunking = Chunking::Begun;
        }
        self.state = State::Chunk { left: octets, last, refusal };
    }

    fn end_chunk(&mut self, last: bool, refusal: Option<Refusal>) {
        self.state = State::Command;
        let refusal = refusal.or_else(|| (self.body.size > self.receiver.settings.max_size).then_some(TOO_LARGE));
        match refusal {
            Some(refusal) => {
                self.chunking = Chunking::Failed;
                self.refuse(refusal);
                // Whatever became of it, after the last chunk the next MAIL may follow in the same group.
                if last {
                    self.reset();
                }
            }
            None if last => self.end_message(),
            None => self.say(250, "2.0.0", "Go on"),
        }
    }

    /// The content is complete.
    fn end_message(&mut self) {
        let receiver = self.receiver;
        if self.body.size > receiver.settings.max_size {
            self.refuse(TOO_LARGE);
        } else if !self.body.is_canonical() {
            self.say(550, "5.6.0", "The content has a CR without LF or a LF without CR");
        } else {
            let verdict = receiver.policy.message(&Received {
                number: receiver.next_number(),
                client: self.client,
                name: &self.name,
                sender: &self.envelope.sender,
                mail_parameters: &self.envelope.mail_parameters,
                recipients: Recipients(&self.envelope),
                size: self.body.size,
                content: &self.body.octets,
            });
            self.answer(verdict, "2.0.0", "Ok: taken");
        }
        self.reset();
    }

    fn begin_body(&mut self) {
        let wanted = self.receiver.policy.wants_content();
        self.body.reset(if wanted { usize::try_from(self.receiver.settings.max_size).unwrap_or(usize::MAX) } else { 0 });
    }

    fn reset(&mut self) {
        self.envelope.clear();
        self.chunking = Chunking::None;
    }

    fn answer(&mut self, verdict: Verdict, enhanced: &str, text: &str) {
        match verdict {
            Verdict::Accept => self.say(250, enhanced, text),
            Verdict::Reply(421, text) => self.end(421, "", &text),
            Verdict::Reply(code, text) => self.say(code, "", &text),
        }
    }

    fn refuse(&mut self, Refusal(code, enhanced, text): Refusal) {
        self.say(code, enhanced, text);
    }

    fn end(&mut self, code: u16, enhanced: &str, text: &str) {
        self.say(code, enhanced, text);
        self.state = State::Over;
    }

    /// Adds a reply, with the enhanced code on each line (RFC 2034 4) if it was offered.
    fn say(&mut self, code: u16, enhanced: &str, text: &str) {
        let enhanced = if self.features().enhanced_status_codes { enhanced } else { "" };
        let blank = if enhanced.is_empty() { "" } else { " " };
        let mut lines = text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            // Writing to a Vec cannot fail.
            let _ = write!(self.replies, "{code}{separator}{enhanced}{blank}{line}\r\n");
        }
    }
}

const TOO_LARGE: Refusal = Refusal(552, "5.3.4", "The message is too large");
const AFTER_BDAT: Refusal = Refusal(503, "5.5.1", "After BDAT only BDAT may follow");

fn is_accepted(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Accept => true,
        Verdict::Reply(code, _) => code / 100 == 2,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Counter, Settings};
    use super::*;

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "EHLO x\r\n",
            "MAIL FROM:<a@b> SIZE=5\r\n",
            "RCPT TO:<a@b>\r\n",
            "DATA\r\n",
            "BDAT 3\r\n",
            "BDAT 18446744073709551615 LAST\r\n",
            "BDAT 0 LAST\r\n",
            "abc",
            "\r\n.\r\n",
            "\n",
            "\r",
            ".",
            "RSET\r\n",
            "QUI",
        ];
        let word =
            prop_oneof![8 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()), 1 => any::<Vec<u8>>()];
        proptest::collection::vec(word, 0..30).prop_map(|words| words.concat())
    }

    proptest! {
        /// Whatever comes, in whatever blocks: replies, and never more left over than a line.
        #[test]
        fn nothing_breaks_it(octets in octets(), block in 1_usize..50) {
            let receiver = Receiver::new(Settings::default(), Arc::new(Counter::default()));
            let mut session = Session::new(&receiver, "192.0.2.1:1".parse().unwrap());
            let mut buffer = Vec::new();
            for block in octets.chunks(block) {
                session.replied();
                buffer.extend_from_slice(block);
                let used = session.take(&buffer);
                buffer.drain(..used);
                prop_assert!(buffer.len() < MAX_LINE && !buffer.contains(&b'\n'));
                for line in session.replies().split_inclusive(|&octet| octet == b'\n') {
                    prop_assert!(line.len() > 5 && line[..3].iter().all(u8::is_ascii_digit) && line.ends_with(b"\r\n"), "{}", line.escape_ascii());
                }
                if session.is_over() {
                    break;
                }
            }
        }
    }
}

//! The envelope of one transaction: hands on the commands of each turn, takes the replies in their order, and knows at every moment what
//! has become of each recipient. No I/O: what is awaited is a queue of values, so that commands may run ahead of their replies.

use std::collections::VecDeque;

use super::commands::Parameters;
use super::{Capabilities, Mail, Reply};
use crate::outcome::{Fault, Phase};

/// RCPT commands sent before their replies are waited for: a bound for what both sides have to buffer, whatever
/// `smtp.recipients_per_transaction` says.
const RCPTS_PER_TURN: usize = 500;

/// What the peer owes an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// RSET, where the transaction before this one was left open.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT of that recipient of the mail.
    Rcpt(usize),
    /// DATA.
    Data,
}

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Reset,
    Mail,
    /// The recipient at that place of `recipients`.
    Rcpt(usize),
    Data,
    Nothing,
}

/// What the peer said to DATA.
#[derive(Debug)]
enum Data {
    NotAnswered,
    /// 354.
    GoAhead,
    Refused(Fault),
}

/// How an envelope's dialogue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The content goes to the accepted recipients.
    Content,
    /// The peer waits for content that nobody is to get: a lone dot keeps the session in step (RFC 2920 3.1).
    LoneDot,
    /// Nothing more to say.
    Nothing,
}

/// One transaction up to the answer to DATA.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    mail: &'a Mail<'a>,
    /// Places in `mail.recipients`.
    recipients: &'a [usize],
    parameters: Parameters,
    pipelining: bool,
    next: Next,
    awaited: VecDeque<Awaited>,
    answered: bool,
    opened: bool,
    refused: Option<Fault>,
    accepted: Vec<usize>,
    refusals: Vec<(usize, Fault)>,
    data: Data,
}

impl Awaited {
    /// The phase whose limit holds.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Reset | Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
        }
    }
}

impl<'a> Envelope<'a> {
    /// For these recipients of `mail`; `reset` where the session still has an open transaction.
    pub(super) fn new(mail: &'a Mail<'a>, recipients: &'a [usize], offered: &Capabilities, reset: bool) -> Self {
        Self {
            mail,
            recipients,
            parameters: Parameters::new(mail, recipients, offered),
            pipelining: offered.pipelining,
            next: if reset { Next::Reset } else { Next::Mail },
            awaited: VecDeque::with_capacity(recipients.len().min(RCPTS_PER_TURN) + 3),
            answered: false,
            opened: false,
            refused: None,
            accepted: Vec::with_capacity(recipients.len()),
            refusals: Vec::new(),
            data: Data::NotAnswered,
        }
    }

    /// Appends the commands of the next turn: as many as may go together. None: the dialogue is over.
    pub(super) fn append_turn(&mut self, out: &mut Vec<u8>) {
        for sent in 0.. {
            if sent == RCPTS_PER_TURN || (sent > 0 && !self.pipelining) {
                return;
            }
            self.next = match self.next {
                Next::Nothing => return,
                _ if self.refused.is_some() => Next::Nothing,
                Next::Reset => {
                    out.extend_from_slice(b"RSET\r\n");
                    self.awaited.push_back(Awaited::Reset);
                    Next::Mail
                }
                Next::Mail => {
                    self.parameters.mail(self.mail, out);
                    self.awaited.push_back(Awaited::Mail);
                    self.after_rcpts(0)
                }
                Next::Rcpt(place) => {
                    let at = self.recipients[place];
                    self.parameters.rcpt(self.mail, &self.mail.recipients[at], out);
                    self.awaited.push_back(Awaited::Rcpt(at));
                    self.after_rcpts(place + 1)
                }
                // Everything is answered, and nobody would get the content.
                Next::Data if self.awaited.is_empty() && self.accepted.is_empty() => Next::Nothing,
                Next::Data => {
                    out.extend_from_slice(b"DATA\r\n");
                    self.awaited.push_back(Awaited::Data);
                    Next::Nothing
                }
            };
        }
    }

    fn after_rcpts(&self, sent: usize) -> Next {
        if sent < self.recipients.len() { Next::Rcpt(sent) } else { Next::Data }
    }

    /// Whose reply comes next.
    pub(super) fn awaited(&self) -> Option<Awaited> {
        self.awaited.front().copied()
    }

    /// Takes the reply to the first of what is awaited. An error ends the session; it is what became of everyone without an own answer.
    pub(super) fn answer(&mut self, reply: Reply) -> Result<(), Fault> {
        let Some(awaited) = self.awaited.pop_front() else { return Ok(()) };
        let phase = awaited.phase();
        if reply.code() == 421 {
            return Err(Fault::Reply { phase, reply });
        }
        match (awaited, reply.code() / 100) {
            (Awaited::Reset, 2) => {}
            (Awaited::Reset, _) => return Err(Fault::Protocol { phase, detail: format!("RSET was answered {reply}") }),
            (Awaited::Mail, 2) => self.opened = true,
            (Awaited::Mail, 4 | 5) => self.refused = Some(Fault::Reply { phase, reply }),
            // What follows a refused MAIL in the same turn says nothing new.
            (Awaited::Rcpt(_), 2 | 4 | 5) if self.refused.is_some() => {}
            (Awaited::Rcpt(at), 2) => self.accepted.push(at),
            (Awaited::Rcpt(at), 4 | 5) => self.refusals.push((at, Fault::Reply { phase, reply })),
            (Awaited::Data, 3) => self.data = Data::GoAhead,
            (Awaited::Data, 4 | 5) => self.data = Data::Refused(Fault::Reply { phase, reply }),
            _ => return Err(Fault::Protocol { phase, detail: format!("out of step: {phase} was answered {reply}") }),
        }
        self.answered = true;
        Ok(())
    }

    /// Whether the peer has answered anything yet.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// What follows when everything is answered.
    pub(super) fn then(&self) -> Then {
        match self.data {
            Data::GoAhead if self.accepted.is_empty() => Then::LoneDot,
            Data::GoAhead => Then::Content,
            Data::NotAnswered | Data::Refused(_) => Then::Nothing,
        }
    }

    /// Whether the peer would still answer MAIL with "503 nested MAIL command": no content ended the transaction.
    pub(super) fn left_open(&self) -> bool {
        self.opened && !matches!(self.data, Data::GoAhead)
    }

    /// MAIL's refusal, which says something of the mail's other recipients too.
    pub(super) fn mail_refusal(&self) -> Option<&Fault> {
        self.refused.as_ref()
    }

    /// The recipients that were accepted, those that fit into another transaction, and what became of the others so far: all but the
    /// accepted ones. Those without an own answer have `broken`.
    pub(super) fn sort(self, broken: Option<&Fault>) -> Sorted {
        let mut sorted = Sorted { accepted: Vec::new(), too_many: Vec::new(), refused: Vec::new() };
        if let Some(fault) = &self.refused {
            sorted.refused = self.recipients.iter().map(|&at| (at, fault.clone())).collect();
            return sorted;
        }
        let some_accepted = !self.accepted.is_empty();
        let unanswered = self.recipients.iter().skip(self.accepted.len() + self.refusals.len());
        if let Some(fault) = broken {
            sorted.refused.extend(unanswered.map(|&at| (at, fault.clone())));
        }
        for (at, fault) in self.refusals {
            if some_accepted && fault.reply().is_some_and(Reply::is_too_many_recipients) {
                sorted.too_many.push(at);
            }
            sorted.refused.push((at, fault));
        }
        match (self.data, broken) {
            (Data::Refused(fault), _) => sorted.refused.extend(self.accepted.into_iter().map(|at| (at, fault.clone()))),
            (_, Some(fault)) => sorted.refused.extend(self.accepted.into_iter().map(|at| (at, fault.clone()))),
            (_, None) => sorted.accepted = self.accepted,
        }
        sorted
    }
}

/// The recipients of an envelope whose dialogue is over.
#[derive(Debug)]
pub(super) struct Sorted {
    /// They get the content.
    pub(super) accepted: Vec<usize>,
    /// Refused because the transaction was full, others having been accepted; they are among `refused` too.
    pub(super) too_many: Vec<usize>,
    /// Each with its fault.
    pub(super) refused: Vec<(usize, Fault)>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{Address, Content, Notify, ReversePath};
    use crate::smtp::Rcpt;

    /// Runs an envelope for `count` recipients against `answers`, and shows its turns, then what became of it.
    fn dialogue(count: usize, pipelining: bool, answers: &[(u16, &str)]) -> (Vec<String>, Then, Sorted) {
        let sender = ReversePath::Null;
        let addresses: Vec<Address> = (0..count).map(|i| Address::parse(&format!("r{i}@x")).unwrap()).collect();
        let recipients: Vec<Rcpt<'_>> = addresses.iter().map(|address| Rcpt { address, notify: Notify::default() }).collect();
        let content = Content::default();
        let mail = Mail { sender: &sender, recipients, content: &content, file: Path::new(""), ret: None, envid: None };
        let all: Vec<usize> = (0..count).collect();
        let offered = Capabilities { pipelining, ..Capabilities::default() };
        let mut envelope = Envelope::new(&mail, &all, &offered, false);
        let (mut turns, mut answers) = (Vec::new(), answers.iter());
        let mut broken = None;
        'dialogue: loop {
            let mut out = Vec::new();
            envelope.append_turn(&mut out);
            if envelope.awaited().is_none() {
                break;
            }
            turns.push(String::from_utf8(out).unwrap().replace("\r\n", "|"));
            while envelope.awaited().is_some() {
                let (code, text) = answers.next().expect("an answer for each command");
                if let Err(fault) = envelope.answer(Reply::new(*code, *text)) {
                    broken = Some(fault);
                    break 'dialogue;
                }
            }
        }
        assert_eq!(answers.next(), None, "more answers than commands");
        let then = envelope.then();
        (turns, then, envelope.sort(broken.as_ref()))
    }

    #[test]
    fn pipelined_in_one_turn_and_in_lockstep_in_many() {
        let answers = [(250, ""), (250, ""), (550, ""), (354, "")];
        let (turns, then, sorted) = dialogue(2, true, &answers);
        assert_eq!(turns, ["MAIL FROM:<>|RCPT TO:<r0@x>|RCPT TO:<r1@x>|DATA|"]);
        assert_eq!((then, sorted.accepted), (Then::Content, vec![0]));

        let (turns, then, sorted) = dialogue(2, false, &answers);
        assert_eq!(turns, ["MAIL FROM:<>|", "RCPT TO:<r0@x>|", "RCPT TO:<r1@x>|", "DATA|"]);
        assert_eq!((then, sorted.accepted), (Then::Content, vec![0]));
    }

    #[test]
    fn in_lockstep_nothing_follows_a_refusal() {
        assert_eq!(dialogue(2, false, &[(550, "")]).0, ["MAIL FROM:<>|"]);
        let (turns, then, sorted) = dialogue(1, false, &[(250, ""), (450, "")]);
        assert_eq!((turns.len(), then, sorted.refused.len()), (2, Then::Nothing, 1));
    }

    #[test]
    fn many_recipients_go_in_turns_of_bounded_size() {
        let mut answers = vec![(250, ""); 1_201];
        answers.push((354, ""));
        let (turns, then, sorted) = dialogue(1_200, true, &answers);
        let commands: Vec<usize> = turns.iter().map(|turn| turn.matches('|').count()).collect();
        assert_eq!(commands, [500, 500, 202]);
        assert_eq!((then, sorted.accepted.len()), (Then::Content, 1_200));
    }

    #[test]
    fn too_many_counts_only_beside_an_accepted_recipient() {
        let full = (452, "4.5.3 too many");
        let (_, _, sorted) = dialogue(2, true, &[(250, ""), (250, ""), full, (354, "")]);
        assert_eq!(sorted.too_many, [1]);
        let (_, _, sorted) = dialogue(2, true, &[(250, ""), full, full, (503, "")]);
        assert!(sorted.too_many.is_empty());
    }

    #[test]
    fn a_421_hits_everyone_without_an_own_answer_and_the_accepted() {
        let (_, _, sorted) = dialogue(4, true, &[(250, ""), (250, ""), (550, ""), (421, "bye")]);
        let codes: Vec<(usize, u16)> = sorted.refused.iter().map(|(at, fault)| (*at, fault.reply().map_or(0, Reply::code))).collect();
        assert!(sorted.accepted.is_empty());
        let mut codes = codes;
        codes.sort_unstable();
        assert_eq!(codes, [(0, 421), (1, 550), (2, 421), (3, 421)]);
    }

    proptest! {
        /// Whatever the peer says: nothing panics, and every recipient ends in one place.
        #[test]
        fn every_recipient_has_one_end(
            count in 1usize..8,
            pipelining in any::<bool>(),
            reset in any::<bool>(),
            codes in proptest::collection::vec(proptest::sample::select(vec![250u16, 354, 421, 450, 452, 503, 550]), 0..12),
        ) {
            let addresses: Vec<Address> = (0..count).map(|i| Address::parse(&format!("r{i}@x")).unwrap()).collect();
            let recipients: Vec<Rcpt<'_>> = addresses.iter().map(|address| Rcpt { address, notify: Notify::default() }).collect();
            let content = Content::default();
            let mail = Mail { sender: &ReversePath::Null, recipients, content: &content, file: Path::new(""), ret: None, envid: None };
            let all: Vec<usize> = (0..count).collect();
            let mut envelope = Envelope::new(&mail, &all, &Capabilities { pipelining, ..Capabilities::default() }, reset);
            let (mut out, mut codes) = (Vec::new(), codes.into_iter());
            let mut broken = None;
            'dialogue: loop {
                envelope.append_turn(&mut out);
                if envelope.awaited().is_none() {
                    break;
                }
                while let Some(awaited) = envelope.awaited() {
                    let answer = codes.next().map_or(Err(Fault::TimedOut { phase: awaited.phase() }), |code| envelope.answer(Reply::new(code, "x")));
                    if let Err(fault) = answer {
                        broken = Some(fault);
                        break 'dialogue;
                    }
                }
            }
            let then = envelope.then();
            let sorted = envelope.sort(broken.as_ref());
            let mut ends: Vec<usize> = sorted.accepted.iter().copied().chain(sorted.refused.iter().map(|(at, _)| *at)).collect();
            ends.sort_unstable();
            prop_assert_eq!(ends, all);
            prop_assert!(broken.is_none() || sorted.accepted.is_empty());
            if broken.is_none() {
                prop_assert_eq!(sorted.accepted.is_empty(), then != Then::Content);
            }
        }
    }
}

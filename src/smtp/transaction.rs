//! One transaction: hands on the commands of each turn, takes the replies in their order, and knows at every moment what has become of
//! each recipient. No I/O: what is awaited is a queue of values, so that commands, and whole further transactions, may run ahead of
//! their replies.

use std::collections::VecDeque;

use super::commands::Parameters;
use super::{Capabilities, Mail, Reply, shown};
use crate::outcome::{Fault, Phase};

/// RCPT commands sent before their replies are waited for: a bound for what both sides have to buffer, whatever
/// `smtp.recipients_per_transaction` says.
const RCPTS_PER_TURN: usize = 500;

/// What the peer owes an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// RSET, where the transaction before this one was or may have been left open.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT of that recipient of the mail.
    Rcpt(usize),
    /// DATA.
    Data,
    /// The end of the content: a lone dot, or BDAT LAST.
    End,
}

/// How the content goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// DATA, once it was answered 354.
    Data,
    /// BDAT, once it is known that somebody is to get it: not worth sending otherwise.
    Chunk,
    /// BDAT behind the envelope, before anything is answered.
    ChunkAtOnce,
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

/// Where the content is.
#[derive(Debug)]
enum ContentState {
    NotSent,
    /// On its way or with the peer, which may have it once the connection has taken that many octets in all.
    Sent {
        end: u64,
    },
    /// The peer's last word.
    Answered(Result<Reply, Fault>),
}

/// What a transaction needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// [`Transaction::append_turn`].
    Turn,
    /// Replies to what was sent.
    Replies,
    /// The content, then [`Transaction::content_queued`].
    Content,
    /// The peer waits for content that nobody is to get: a lone dot keeps the session in step (RFC 2920 3.1). As above.
    LoneDot,
    /// It is over.
    Nothing,
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Places among the mail's recipients.
    recipients: Vec<usize>,
    parameters: Parameters,
    pipelining: bool,
    manner: Manner,
    next: Next,
    awaited: VecDeque<Awaited>,
    answered: bool,
    opened: bool,
    refused: Option<Fault>,
    accepted: Vec<usize>,
    refusals: Vec<(usize, Fault)>,
    data: Data,
    content: ContentState,
}

impl Awaited {
    /// The phase whose limit holds.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Reset | Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::End => Phase::FinalDot,
        }
    }
}

impl Transaction {
    /// For these recipients of `mail`; `reset` where the session has, or may have, an open transaction.
    pub(super) fn new(mail: &Mail<'_>, recipients: Vec<usize>, offered: &Capabilities, manner: Manner, reset: bool) -> Self {
        // Beyond one turn of recipients, the content waits for the answers.
        let manner = if manner == Manner::ChunkAtOnce && recipients.len() + 2 > RCPTS_PER_TURN { Manner::Chunk } else { manner };
        Self {
            parameters: Parameters::new(mail, &recipients, offered),
            pipelining: offered.pipelining,
            manner,
            next: if reset { Next::Reset } else { Next::Mail },
            awaited: VecDeque::with_capacity(recipients.len().min(RCPTS_PER_TURN) + 4),
            answered: false,
            opened: false,
            refused: None,
            accepted: Vec::with_capacity(recipients.len()),
            refusals: Vec::new(),
            data: Data::NotAnswered,
            content: ContentState::NotSent,
            recipients,
        }
    }

    /// Appends the commands of the next turn: as many as may go together.
    pub(super) fn append_turn(&mut self, mail: &Mail<'_>, out: &mut Vec<u8>) {
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
                    self.parameters.mail(mail, out);
                    self.awaited.push_back(Awaited::Mail);
                    self.after_rcpts(0)
                }
                Next::Rcpt(place) => {
                    let at = self.recipients[place];
                    self.parameters.rcpt(mail, &mail.recipients[at], out);
                    self.awaited.push_back(Awaited::Rcpt(at));
                    self.after_rcpts(place + 1)
                }
                // BDAT goes with the content.
                Next::Data if self.manner != Manner::Data => Next::Nothing,
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

    /// What [`Self::append_turn`] begins with.
    pub(super) fn turn(&self) -> Phase {
        match self.next {
            Next::Reset | Next::Mail => Phase::Mail,
            Next::Rcpt(_) => Phase::Rcpt,
            Next::Data | Next::Nothing => Phase::Data,
        }
    }

    fn after_rcpts(&self, sent: usize) -> Next {
        if sent < self.recipients.len() { Next::Rcpt(sent) } else { Next::Data }
    }

    /// What is to be done for it when it is its turn: when everything of the transactions before it is answered.
    pub(super) fn due(&self) -> Due {
        let over = self.refused.is_some() || self.next == Next::Nothing;
        match (&self.content, &self.data) {
            (ContentState::NotSent, _) if self.manner == Manner::ChunkAtOnce && self.next == Next::Nothing => Due::Content,
            _ if !self.awaited.is_empty() => Due::Replies,
            _ if !over => Due::Turn,
            (ContentState::NotSent, Data::GoAhead) if self.accepted.is_empty() => Due::LoneDot,
            (ContentState::NotSent, Data::GoAhead) => Due::Content,
            (ContentState::NotSent, _) if self.manner == Manner::Chunk && self.refused.is_none() && !self.accepted.is_empty() => {
                Due::Content
            }
            _ => Due::Nothing,
        }
    }

    /// Whether the content, or its lone dot, is on its way and nothing but replies is due: others may follow.
    pub(super) fn is_sent(&self) -> bool {
        !matches!(self.content, ContentState::NotSent)
    }

    /// How the content goes over.
    pub(super) fn manner(&self) -> Manner {
        self.manner
    }

    /// The content and its end are in the output, whose last octet is octet `end` of the connection.
    pub(super) fn content_queued(&mut self, end: u64) {
        self.content = ContentState::Sent { end };
        self.awaited.push_back(Awaited::End);
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
            let fault = Fault::Reply { phase, reply };
            // The peer looks at nothing behind the command that it answers so: a chunk that went along is not taken.
            if matches!(self.content, ContentState::Sent { .. }) {
                self.content = ContentState::Answered(Err(fault.clone()));
            }
            return Err(fault);
        }
        match (awaited, reply.code() / 100) {
            // Of the transaction before.
            (Awaited::Reset, 2) => return Ok(()),
            (Awaited::Reset, _) => return Err(Fault::Protocol { phase, detail: format!("RSET was answered {reply}") }),
            (Awaited::Mail, 2) => self.opened = true,
            (Awaited::Mail, 4 | 5) => self.refused = Some(Fault::Reply { phase, reply }),
            // What follows a refused MAIL in the same turn says nothing new.
            (Awaited::Rcpt(_) | Awaited::End, 2 | 4 | 5) if self.refused.is_some() => {}
            (Awaited::Rcpt(at), 2) => self.accepted.push(at),
            (Awaited::Rcpt(at), 4 | 5) => self.refusals.push((at, Fault::Reply { phase, reply })),
            (Awaited::Data, 3) => self.data = Data::GoAhead,
            (Awaited::Data, 4 | 5) => self.data = Data::Refused(Fault::Reply { phase, reply }),
            (Awaited::End, 2) => self.content = ContentState::Answered(Ok(reply)),
            // A peer that does not know BDAT after all takes the content for commands: nothing more is to be had from this session.
            (Awaited::End, 5) if self.manner != Manner::Data && !self.accepted.is_empty() && matches!(reply.code(), 500..=504) => {
                let fault = Fault::Protocol { phase, detail: format!("BDAT was answered {reply}") };
                self.content = ContentState::Answered(Err(fault.clone()));
                return Err(fault);
            }
            (Awaited::End, 4 | 5) => self.content = ContentState::Answered(Err(Fault::Reply { phase, reply })),
            _ => return Err(Fault::Protocol { phase, detail: format!("out of step: {phase} was answered {reply}") }),
        }
        self.answered = true;
        Ok(())
    }

    /// Whether the peer has answered anything of it yet.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Those who get the content, once it has left: nobody of them is refused so far.
    pub(super) fn may_get_it(&self) -> Vec<usize> {
        let refused = |at: &usize| self.refusals.iter().any(|(refused, _)| refused == at);
        match &self.data {
            // The lone dot for nobody.
            Data::GoAhead if self.accepted.is_empty() => Vec::new(),
            _ if self.refused.is_some() => Vec::new(),
            _ => self.recipients.iter().copied().filter(|at| !refused(at)).collect(),
        }
    }

    /// Whether the peer may have the whole content, when the connection has taken `written` octets.
    pub(super) fn may_have_content(&self, written: u64) -> bool {
        matches!(self.content, ContentState::Sent { end } if end <= written)
    }

    /// Whether the peer would, or might, answer MAIL with "503 nested MAIL command": no content that it took ended the transaction.
    pub(super) fn left_open(&self) -> bool {
        match (&self.content, self.manner) {
            (ContentState::NotSent, _) => self.opened,
            (_, Manner::Data) => false,
            // RFC 3030 2 leaves open what a refused BDAT does to the transaction.
            (ContentState::Answered(Ok(_)), _) => false,
            _ => self.opened,
        }
    }

    /// What became of the recipients when everything is answered, or the session has ended by `broken` with `written` octets taken.
    pub(super) fn end(self, broken: Option<&Fault>, written: u64) -> Ended {
        let mut ended = Ended { results: Vec::with_capacity(self.recipients.len()), too_many: Vec::new(), mail_refusal: None, accepted: 0 };
        if let Some(fault) = self.refused {
            ended.results = self.recipients.iter().map(|&at| (at, Err(fault.clone()))).collect();
            ended.mail_refusal = Some(fault);
            return ended;
        }
        let in_doubt = matches!(self.content, ContentState::Sent { end } if end <= written);
        let lost = broken.map(|fault| if in_doubt { in_doubt_of(fault) } else { fault.clone() });
        let some_accepted = !self.accepted.is_empty();
        ended.accepted = self.accepted.len();
        if let Some(fault) = &lost {
            let unanswered = self.recipients.iter().skip(self.accepted.len() + self.refusals.len());
            ended.results.extend(unanswered.map(|&at| (at, Err(fault.clone()))));
        }
        for (at, fault) in self.refusals {
            if some_accepted && fault.reply().is_some_and(Reply::is_too_many_recipients) {
                ended.too_many.push(at);
            }
            ended.results.push((at, Err(fault)));
        }
        let verdict = match (self.content, self.data, lost) {
            (ContentState::Answered(answer), ..) => answer,
            (_, Data::Refused(fault), _) | (_, _, Some(fault)) => Err(fault),
            // Not before everything is answered.
            (_, _, None) => Err(Fault::Internal),
        };
        if verdict.is_err() {
            // What was refused whole is not tried for the rest.
            ended.too_many.clear();
        }
        ended.results.extend(self.accepted.into_iter().map(|at| (at, verdict.clone())));
        ended
    }
}

/// What the end of a session means for content that was sent and not answered.
fn in_doubt_of(fault: &Fault) -> Fault {
    let how = match fault {
        Fault::Closed { detail, .. } => format!("the connection was lost ({})", shown(detail)),
        Fault::TimedOut { .. } => "no answer came in time".to_owned(),
        Fault::Protocol { detail, .. } => format!("the answer was out of step: {}", shown(detail)),
        Fault::Reply { reply, .. } => format!("the peer ended the session: {reply}"),
        other => other.to_string(),
    };
    Fault::InDoubt { how }
}

/// The recipients of a transaction that is over.
#[derive(Debug)]
pub(super) struct Ended {
    /// Each recipient once: the peer's word on the content, or what kept it from getting it.
    pub(super) results: Vec<(usize, Result<Reply, Fault>)>,
    /// Refused because the transaction was full, others having got the content; they are among `results` too.
    pub(super) too_many: Vec<usize>,
    /// MAIL's refusal, which says something of the mail's other recipients too.
    pub(super) mail_refusal: Option<Fault>,
    /// How many were accepted, whatever became of the content.
    pub(super) accepted: usize,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{Address, Content, Notify, ReversePath};
    use crate::smtp::Rcpt;

    /// What a scripted transaction came to.
    struct Came {
        turns: Vec<String>,
        left_open: bool,
        broken: bool,
        ended: Ended,
    }

    impl Came {
        /// Recipients by what they were told: a code, or 0 for what is no reply.
        fn codes(&self) -> Vec<(usize, u16)> {
            let code = |result: &Result<Reply, Fault>| match result {
                Ok(reply) => reply.code(),
                Err(fault) => fault.reply().map_or(0, Reply::code),
            };
            let mut codes: Vec<_> = self.ended.results.iter().map(|(at, result)| (*at, code(result))).collect();
            codes.sort_unstable();
            codes
        }
    }

    /// Runs a transaction for `count` recipients against `answers`; when there are no more, the session breaks, or is at its end.
    fn dialogue(count: usize, offered: &Capabilities, manner: Manner, reset: bool, answers: &[(u16, &str)]) -> Came {
        let addresses: Vec<Address> = (0..count).map(|i| Address::parse(&format!("r{i}@x")).unwrap()).collect();
        let recipients: Vec<Rcpt<'_>> = addresses.iter().map(|address| Rcpt { address, notify: Notify::default() }).collect();
        let content = Content::default();
        let mail = Mail { sender: &ReversePath::Null, recipients, content: &content, file: Path::new(""), ret: None, envid: None };
        let mut transaction = Transaction::new(&mail, (0..count).collect(), offered, manner, reset);
        let (mut turns, mut out, mut answers) = (Vec::new(), Vec::new(), answers.iter());
        let mut written = 0;
        let broken = loop {
            match transaction.due() {
                Due::Turn => transaction.append_turn(&mail, &mut out),
                Due::Content => {
                    out.extend_from_slice(b"CONTENT\r\n");
                    transaction.content_queued(written + out.len() as u64);
                }
                Due::LoneDot => {
                    out.extend_from_slice(b".\r\n");
                    transaction.content_queued(written + out.len() as u64);
                }
                Due::Replies => {
                    if !out.is_empty() {
                        written += out.len() as u64;
                        turns.push(String::from_utf8(std::mem::take(&mut out)).unwrap().replace("\r\n", "|"));
                    }
                    let Some((code, text)) = answers.next() else {
                        let phase = transaction.awaited().unwrap().phase();
                        break Some(Fault::TimedOut { phase });
                    };
                    if let Err(fault) = transaction.answer(Reply::new(*code, *text)) {
                        break Some(fault);
                    }
                }
                Due::Nothing => break None,
            }
        };
        let left_open = transaction.left_open();
        Came { turns, left_open, broken: broken.is_some(), ended: transaction.end(broken.as_ref(), written) }
    }

    fn pipelining() -> Capabilities {
        Capabilities { pipelining: true, ..Capabilities::default() }
    }

    fn data(count: usize, answers: &[(u16, &str)]) -> Came {
        dialogue(count, &pipelining(), Manner::Data, false, answers)
    }

    const OK: (u16, &str) = (250, "ok");

    #[test]
    fn pipelined_in_one_turn_and_in_lockstep_in_many() {
        let answers = [OK, OK, (550, ""), (354, ""), OK];
        let came = data(2, &answers);
        assert_eq!(came.turns, ["MAIL FROM:<>|RCPT TO:<r0@x>|RCPT TO:<r1@x>|DATA|", "CONTENT|"]);
        assert_eq!(came.codes(), [(0, 250), (1, 550)]);

        let came = dialogue(2, &Capabilities::default(), Manner::Data, false, &answers);
        assert_eq!(came.turns, ["MAIL FROM:<>|", "RCPT TO:<r0@x>|", "RCPT TO:<r1@x>|", "DATA|", "CONTENT|"]);
        assert_eq!((came.codes(), came.left_open), (vec![(0, 250), (1, 550)], false));
    }

    #[test]
    fn a_chunk_goes_along_with_its_envelope_or_waits_for_it() {
        let answers = [OK, OK, OK, (250, "taken")];
        let came = dialogue(1, &pipelining(), Manner::ChunkAtOnce, true, &answers);
        assert_eq!(came.turns, ["RSET|MAIL FROM:<>|RCPT TO:<r0@x>|CONTENT|"]);
        assert_eq!((came.codes(), came.left_open), (vec![(0, 250)], false));
        let came = dialogue(1, &pipelining(), Manner::Chunk, false, &answers[1..]);
        assert_eq!(came.turns, ["MAIL FROM:<>|RCPT TO:<r0@x>|", "CONTENT|"]);
        let came = dialogue(1, &pipelining(), Manner::Chunk, false, &[OK, (550, "")]);
        assert_eq!((came.turns.len(), came.codes(), came.left_open), (1, vec![(0, 550)], true));
    }

    #[test]
    fn a_chunk_that_nobody_gets_is_answered_all_the_same() {
        let came = dialogue(1, &pipelining(), Manner::ChunkAtOnce, false, &[OK, (550, "no"), (503, "no recipients")]);
        assert_eq!((came.codes(), came.left_open, came.broken), (vec![(0, 550)], true, false));
        let came = dialogue(1, &pipelining(), Manner::ChunkAtOnce, false, &[(451, "no"), (503, "no"), (503, "no")]);
        assert_eq!((came.codes(), came.left_open, came.broken), (vec![(0, 451)], false, false));
    }

    #[test]
    fn a_peer_that_does_not_know_bdat_after_all_ends_the_session() {
        let came = dialogue(1, &pipelining(), Manner::ChunkAtOnce, false, &[OK, OK, (500, "what?")]);
        assert!(came.broken && matches!(came.ended.results[..], [(0, Err(Fault::Protocol { .. }))]), "{:?}", came.ended);
    }

    #[test]
    fn in_lockstep_nothing_follows_a_refusal() {
        let lockstep = |answers: &[(u16, &str)]| dialogue(2, &Capabilities::default(), Manner::Data, false, answers);
        assert_eq!(lockstep(&[(550, "")]).turns, ["MAIL FROM:<>|"]);
        let came = lockstep(&[OK, (450, ""), (550, "")]);
        assert_eq!((came.turns.len(), came.codes(), came.left_open), (3, vec![(0, 450), (1, 550)], true));
    }

    #[test]
    fn content_for_nobody_is_a_lone_dot() {
        let came = data(1, &[OK, (550, "no"), (354, "go on"), (554, "nobody")]);
        assert_eq!((came.turns.last().map(String::as_str), came.codes(), came.left_open), (Some(".|"), vec![(0, 550)], false));
    }

    #[test]
    fn many_recipients_go_in_turns_of_bounded_size() {
        let mut answers = vec![OK; 1_201];
        answers.extend([(354, ""), OK]);
        let came = data(1_200, &answers);
        let commands: Vec<usize> = came.turns.iter().map(|turn| turn.matches('|').count()).collect();
        assert_eq!((commands, came.ended.accepted), (vec![500, 500, 202, 1], 1_200));
        let came = dialogue(1_200, &pipelining(), Manner::ChunkAtOnce, false, &answers);
        assert_eq!(came.turns.last().map(String::as_str), Some("CONTENT|"), "the content waits for the answers");
    }

    #[test]
    fn too_many_counts_only_beside_an_accepted_recipient() {
        let full = (452, "4.5.3 too many");
        assert_eq!(data(2, &[OK, OK, full, (354, ""), OK]).ended.too_many, [1]);
        assert!(data(2, &[OK, full, full, (503, "")]).ended.too_many.is_empty());
    }

    #[test]
    fn a_421_hits_everyone_without_an_own_answer_and_the_accepted() {
        let came = data(4, &[OK, OK, (550, ""), (421, "bye")]);
        assert_eq!(came.codes(), [(0, 421), (1, 550), (2, 421), (3, 421)]);
    }

    #[test]
    fn a_421_before_the_answer_to_a_chunk_says_that_it_is_not_taken() {
        for answers in [&[(421, "bye")][..], &[OK, (421, "bye")], &[OK, OK, (421, "bye")], &[OK, OK, OK, (421, "bye")]] {
            let came = dialogue(1, &pipelining(), Manner::ChunkAtOnce, true, answers);
            assert_eq!((came.codes(), came.broken), (vec![(0, 421)], true), "{answers:?}");
        }
    }

    #[test]
    fn what_rset_is_answered_is_of_another_transaction() {
        let content = Content::default();
        let address = Address::parse("r@x").unwrap();
        let recipients = vec![Rcpt { address: &address, notify: Notify::default() }];
        let mail = Mail { sender: &ReversePath::Null, recipients, content: &content, file: Path::new(""), ret: None, envid: None };
        let mut transaction = Transaction::new(&mail, vec![0], &pipelining(), Manner::Data, true);
        transaction.append_turn(&mail, &mut Vec::new());
        transaction.answer(Reply::new(250, "flushed")).unwrap();
        assert!(!transaction.is_answered());
        transaction.answer(Reply::new(250, "sender ok")).unwrap();
        assert!(transaction.is_answered());
    }

    proptest! {
        /// Whatever the peer says: nothing panics, every recipient ends in one place, and a clear refusal is never in doubt.
        #[test]
        fn every_recipient_has_one_end(
            count in 1usize..8,
            pipelining in any::<bool>(),
            manner in proptest::sample::select(vec![Manner::Data, Manner::Chunk, Manner::ChunkAtOnce]),
            reset in any::<bool>(),
            codes in proptest::collection::vec(proptest::sample::select(vec![250u16, 354, 421, 450, 452, 500, 503, 550]), 0..14),
        ) {
            let manner = if pipelining || manner != Manner::ChunkAtOnce { manner } else { Manner::Chunk };
            let answers: Vec<(u16, &str)> = codes.iter().map(|&code| (code, "x")).collect();
            let came = dialogue(count, &Capabilities { pipelining, ..Capabilities::default() }, manner, reset, &answers);
            let ends: Vec<usize> = came.codes().iter().map(|(at, _)| *at).collect();
            prop_assert_eq!(ends, (0..count).collect::<Vec<_>>());
            for (_, result) in &came.ended.results {
                match result {
                    Ok(reply) => prop_assert!(reply.is_positive() && !came.broken),
                    Err(Fault::InDoubt { .. }) => prop_assert!(came.broken),
                    Err(_) => {}
                }
            }
        }
    }
}

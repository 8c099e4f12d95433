//! Mail after mail on one session: takes mail from a [`Feed`] while the session can carry it, hands back what became of each.
//!
//! The content of one message and the envelope of the next leave in one write (RFC 2920 3.1), so that a message costs one round trip;
//! with CHUNKING (RFC 3030) envelope and content leave together, up to `smtp.window` messages ahead of their replies. Replies come in the
//! order of the commands, so each belongs to the transaction at the front.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::commands::notify_goes_along;
use super::content::{Pace, Prepared, append_chunk, append_stuffed, send_block, stream};
use super::lessons::Ahead;
use super::quirks::Quirk;
use super::session::{Session, State};
use super::transaction::{Awaited, Due, Ended, Manner, Transaction};
use super::{Accepted, Capabilities, Mail, Reply, shown};
use crate::outcome::{Fault, Phase};

/// Transactions under way with DATA: one whose content is sent, and the envelope behind it.
const PIPELINED: usize = 2;

/// Something that can be looked at as mail.
pub trait Parcel: Send {
    /// The same each time.
    fn mail(&self) -> Mail<'_>;
}

impl Parcel for &Mail<'_> {
    fn mail(&self) -> Mail<'_> {
        (*self).clone()
    }
}

/// Where a session gets mail, and is rid of it again.
pub trait Feed: Send {
    /// One mail.
    type Parcel: Parcel;

    /// The next mail, if there is one now. `begun`: transactions that the session has begun.
    fn next(&mut self, begun: u32) -> Option<Self::Parcel>;

    /// Called before anything is written, and at the end: `ending` are those whose content ends with this write, so that from here on the peer
    /// may have them. An error: nothing leaves, and the session is over by it.
    fn before_write(&mut self, ending: &[Ending<'_, Self::Parcel>]) -> Result<(), Fault> {
        let _ = ending;
        Ok(())
    }

    /// What became of a mail. Called as soon as it is known, in the order of the peer's answers.
    fn done(&mut self, parcel: Self::Parcel, end: End);
}

/// A mail whose content ends with the next write.
#[derive(Debug)]
pub struct Ending<'a, P> {
    /// The mail.
    pub parcel: &'a P,
    /// Places of those recipients who get it, as far as the peer has not refused them.
    pub recipients: Vec<usize>,
}

/// What became of a mail.
#[derive(Debug)]
pub enum End {
    /// What the peer, or its silence, said of each recipient, in the mail's order.
    Answered(Vec<Result<Accepted, Fault>>),
    /// The session, which had served other mail, ended before anything of this one was answered, and the peer cannot have its content: a
    /// new session to the same endpoint is the thing to do. The fault is what this mail met.
    Untried(Fault),
}

/// A mail that is being sent.
struct Slot<P> {
    number: u64,
    parcel: P,
    /// In the order of the recipients.
    results: Vec<Option<Result<Accepted, Fault>>>,
    /// Recipients that no transaction has taken up yet.
    waiting: VecDeque<usize>,
    /// Recipients that the peer took in a transaction before it said that there were too many.
    learned_limit: usize,
    /// Transactions of it that are under way.
    under_way: usize,
    /// The peer has said something of it, or may have its content.
    touched: bool,
    /// What holds for recipients without a result at the end.
    rest: Fault,
}

/// A transaction that is under way.
struct Flight {
    /// The number of its slot.
    slot: u64,
    transaction: Transaction,
    /// The octet of the connection up to which it is in the output: no reply to it can be there before that has left.
    end: u64,
    /// Read already; gone once it is in the output.
    content: Option<Prepared>,
    /// The feed knows that its content ends.
    told: bool,
    /// It was begun before the one before it was answered.
    ahead: bool,
}

/// What is under way on a session.
struct Chain<P> {
    slots: VecDeque<Slot<P>>,
    flights: VecDeque<Flight>,
    numbers: u64,
    /// Of content in the output: when it must have left, and the octet of the connection before which any reply comes too early.
    content: Option<(Instant, u64)>,
}

impl Session {
    /// Sends what `feed` has, until it has no more and everything is answered, or the session has ended. Every parcel taken is handed back.
    ///
    /// Whatever happens, [`Self::is_reusable`] tells afterwards whether the session can take more.
    pub async fn run<F: Feed>(&mut self, feed: &mut F) {
        if self.state != State::Ready {
            return;
        }
        self.state = State::Busy;
        let mut chain = Chain { slots: VecDeque::new(), flights: VecDeque::new(), numbers: 0, content: None };
        match self.advance(&mut chain, feed).await {
            // Not where the peer was found to have gone.
            Ok(()) if self.state == State::Busy => self.state = State::Ready,
            Ok(()) => {}
            Err(fault) => {
                self.state = State::Ended;
                self.break_off(chain, &fault, feed);
            }
        }
        // What is known already is handed back; noting it down too is a precaution that may fail.
        let _ = feed.before_write(&[]);
        self.wire.release();
    }

    /// Turn after turn. An error is what the front of the chain met; the session is over by it.
    async fn advance<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, feed: &mut F) -> Result<(), Fault> {
        loop {
            let Some(front) = chain.flights.front_mut() else {
                let goes_on = chain.slots.iter().any(|slot| !slot.waiting.is_empty());
                if let Some(fault) = goes_on.then(|| self.wire.out_of_step(Phase::Mail)).flatten() {
                    return Err(fault);
                }
                self.fill(chain, feed);
                if chain.flights.is_empty() {
                    return Ok(());
                }
                continue;
            };
            match front.transaction.due() {
                Due::Turn => {
                    if let Some(fault) = self.wire.out_of_step(front.transaction.turn()) {
                        return Err(fault);
                    }
                    let slot = slot(&mut chain.slots, front.slot)?;
                    front.transaction.append_turn(&slot.parcel.mail(), self.wire.output());
                    front.end = self.wire.queued();
                }
                Due::Content => self.send_content(chain, feed).await?,
                Due::LoneDot => {
                    self.wire.output().extend_from_slice(b".\r\n");
                    front.end = self.wire.queued();
                    front.transaction.content_queued(front.end);
                }
                Due::Nothing => self.finish_front(chain, feed)?,
                Due::Replies => {
                    let phase = front.transaction.awaited().map_or(Phase::Mail, Awaited::phase);
                    // What has arrived is looked at first: it may let more go out in the same write.
                    let may_be_here = front.end <= self.wire.written();
                    let known = if may_be_here { self.wire.buffered().map_err(|error| error.during(phase))? } else { None };
                    let reply = match known {
                        Some(reply) => reply,
                        None => {
                            self.fill(chain, feed);
                            self.flush(chain, phase, feed).await?;
                            self.wire.reply(self.limit(phase)).await.map_err(|error| error.during(phase))?
                        }
                    };
                    let front = chain.flights.front_mut().ok_or(Fault::Internal)?;
                    if front.transaction.awaited() == Some(Awaited::End) && self.wire.came_before(front.end) && reply.is_positive() {
                        let detail = format!("out of step: it answered {reply} before the end of the content");
                        return Err(Fault::Protocol { phase, detail });
                    }
                    front.transaction.answer(reply)?;
                }
            }
        }
    }

    /// Starts transactions as long as more may go out ahead of the replies.
    fn fill<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, feed: &mut F) {
        while self.may_begin(chain) {
            let waiting = chain.slots.iter().position(|slot| !slot.waiting.is_empty());
            let place = match waiting {
                Some(place) => place,
                None if self.session_limit().is_some() => return,
                None => {
                    let Some(parcel) = feed.next(self.transactions) else { return };
                    let Some(slot) = self.admit(chain, parcel, feed) else { continue };
                    chain.slots.push_back(slot);
                    chain.slots.len() - 1
                }
            };
            if let Err(fault) = self.begin(chain, place) {
                chain.slots[place].give_up(fault);
                chain.retire(place, feed);
            }
        }
    }

    fn may_begin<P>(&self, chain: &Chain<P>) -> bool {
        let most = match &self.capabilities {
            Capabilities { pipelining: false, .. } => 1,
            _ if !self.ahead => 1,
            Capabilities { chunking: true, .. } => self.endpoint.window,
            _ => PIPELINED,
        };
        self.state == State::Busy && chain.flights.len() < most && chain.flights.iter().all(|flight| flight.transaction.is_sent())
    }

    /// A slot for `parcel`, unless nothing of it can be sent here: then it is handed back at once.
    fn admit<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, parcel: F::Parcel, feed: &mut F) -> Option<Slot<F::Parcel>> {
        let mail = parcel.mail();
        if self.has_too_many_domains(&mail) {
            drop(mail);
            self.capabilities.limits.transactions = Some(self.transactions);
            feed.done(parcel, End::Untried(Fault::SessionFull { limit: self.transactions }));
            return None;
        }
        let mut results = vec![None; mail.recipients.len()];
        let mut refusal = self.refuses(&mail);
        if refusal.is_none()
            && chain.flights.is_empty()
            && let Err(fault) = self.check_open()
        {
            if self.transactions > 0 {
                drop(mail);
                feed.done(parcel, End::Untried(fault));
                return None;
            }
            refusal = Some(fault);
        }
        let waiting = if refusal.is_some() { VecDeque::new() } else { self.possible(&mail, &mut results) };
        drop(mail);
        chain.numbers += 1;
        let rest = refusal.unwrap_or(Fault::Internal);
        let slot = Slot { number: chain.numbers, parcel, results, waiting, learned_limit: usize::MAX, under_way: 0, touched: false, rest };
        if slot.waiting.is_empty() {
            slot.hand_back(feed);
            return None;
        }
        Some(slot)
    }

    /// Begins a transaction for the next recipients of the slot at `place`: appends its first turn, and its content where that goes along.
    /// An error is the mail's, not the session's.
    fn begin<P: Parcel>(&mut self, chain: &mut Chain<P>, place: usize) -> Result<(), Fault> {
        if let Some(limit) = self.session_limit() {
            return Err(Fault::SessionFull { limit });
        }
        let slot = &mut chain.slots[place];
        let mail = slot.parcel.mail();
        // Read first: a file that is not there is no reason to bother the peer.
        let content = Prepared::read(mail.file, mail.content)?;
        let group = slot.waiting.drain(..slot.waiting.len().min(self.recipient_limit(slot.learned_limit))).collect();
        let manner = match &content {
            _ if !self.capabilities.chunking => Manner::Data,
            Prepared::Whole(_) if self.capabilities.pipelining => Manner::ChunkAtOnce,
            _ => Manner::Chunk,
        };
        // What a BDAT that fails does to its transaction is up to the peer (RFC 3030 2), and not known yet: RSET makes sure.
        let reset = if chain.flights.is_empty() { self.left_open } else { manner != Manner::Data };
        let mut transaction = Transaction::new(&mail, group, &self.capabilities, manner, reset);
        transaction.append_turn(&mail, self.wire.output());
        slot.under_way += 1;
        self.transactions += 1;
        let mut flight =
            Flight { slot: slot.number, transaction, end: 0, content: Some(content), told: false, ahead: !chain.flights.is_empty() };
        if flight.transaction.due() == Due::Content
            && let Some(Prepared::Whole(octets)) = flight.content.take()
        {
            append_chunk(&octets, self.wire.output());
            flight.transaction.content_queued(self.wire.queued());
            self.wire.note_end();
            // Replies to what goes before may come meanwhile.
            let early_until = chain.content.map_or(0, |(_, end)| end);
            chain.content = Some((self.whole_deadline(), early_until));
        }
        flight.end = self.wire.queued();
        chain.flights.push_back(flight);
        Ok(())
    }

    /// The front's content and its end: into the output, the blocks before the last one onto the wire.
    async fn send_content<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, feed: &mut F) -> Result<(), Fault> {
        let front = chain.flights.front_mut().ok_or(Fault::Internal)?;
        let chunked = front.transaction.manner() != Manner::Data;
        let deadline = match front.content.take().ok_or(Fault::Internal)? {
            Prepared::Whole(octets) => {
                if chunked {
                    append_chunk(&octets, self.wire.output());
                } else {
                    append_stuffed(&octets, self.wire.output());
                }
                self.whole_deadline()
            }
            Prepared::Large(reader) => {
                feed.before_write(&[])?;
                let size = slot(&mut chain.slots, front.slot)?.parcel.mail().content.wire_size;
                let settings = self.client.settings.clone();
                stream(&mut self.wire, reader, chunked.then_some(size), &settings.smtp).await?
            }
        };
        front.end = self.wire.queued();
        front.transaction.content_queued(front.end);
        chain.content = Some((deadline, front.end));
        Ok(())
    }

    /// When content that leaves in one write must have left.
    fn whole_deadline(&mut self) -> Instant {
        let now = Instant::now();
        Pace::new(self.smtp(), now).deadline(self.wire.output().len(), now)
    }

    /// Sends what is in the output.
    async fn flush<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, phase: Phase, feed: &mut F) -> Result<(), Fault> {
        chain.tell(feed)?;
        match chain.content.take() {
            Some((deadline, early_until)) => send_block(&mut self.wire, deadline, early_until).await,
            None => self.wire.send(self.limit(phase)).await.map_err(|error| error.during(phase)),
        }
    }

    /// The front is over.
    fn finish_front<F: Feed>(&mut self, chain: &mut Chain<F::Parcel>, feed: &mut F) -> Result<(), Fault> {
        let Some(Flight { slot: number, transaction, .. }) = chain.flights.pop_front() else { return Err(Fault::Internal) };
        self.left_open = transaction.left_open();
        let ended = transaction.end(None, self.wire.written());
        let place = chain.slots.iter().position(|slot| slot.number == number).ok_or(Fault::Internal)?;
        let served = self.transactions as usize > chain.flights.len() + 1;
        let slot = &mut chain.slots[place];
        slot.under_way -= 1;
        let Ended { accepted, too_many, mail_refusal, results } = ended;
        if let Some(refusal) = &mail_refusal
            && served
            && !slot.touched
            // Others of its recipients may be on their way to the peer: handed back whole, they would get it twice.
            && slot.under_way == 0
            && refusal.reply().is_some_and(|reply| reply.code() < 500 && reply.is_too_many_recipients())
        {
            // "452 4.5.3 Too many messages sent", says OpenSMTPD to the hundred-and-first: a limit that it could have told (RFC 9422).
            self.capabilities.limits.transactions = Some(self.transactions);
            let fault = refusal.clone();
            if let Some(slot) = chain.slots.remove(place) {
                feed.done(slot.parcel, End::Untried(fault));
            }
            return Ok(());
        }
        slot.touched = true;
        self.record(slot, results);
        if let Some(refusal) = mail_refusal {
            slot.give_up(refusal);
        } else if !too_many.is_empty() {
            slot.learned_limit = accepted;
            for at in too_many.into_iter().rev() {
                slot.results[at] = None;
                slot.waiting.push_front(at);
            }
        }
        chain.retire(place, feed);
        Ok(())
    }

    /// Keeps the results of a transaction's recipients.
    fn record<P: Parcel>(&self, slot: &mut Slot<P>, results: Vec<(usize, Result<Reply, Fault>)>) {
        let mail = slot.parcel.mail();
        for (at, result) in results {
            let dsn_relayed = notify_goes_along(&mail.recipients[at], &self.capabilities);
            slot.results[at] = Some(result.map(|reply| Accepted { reply, dsn_relayed }));
        }
    }

    /// The session is over by `fault`, which the front met: everything that is under way is handed back.
    fn break_off<F: Feed>(&mut self, mut chain: Chain<F::Parcel>, fault: &Fault, feed: &mut F) {
        let chunked = chain.flights.front().is_some_and(|front| front.transaction.manner() != Manner::Data);
        self.remember(chunked, fault);
        if let Some(front) = chain.flights.front() {
            let ahead = Ahead {
                chunked,
                itself: front.ahead && !front.transaction.is_answered(),
                followers: chain.flights.len() > 1,
                second: self.transactions as usize == chain.flights.len() + 1,
            };
            self.remember_what_was_ahead(ahead, fault);
        }
        let written = self.wire.written();
        let in_doubt = chain.flights.iter().filter(|flight| flight.transaction.may_have_content(written)).count();
        if chunked && in_doubt > 1 && matches!(fault, Fault::Closed { .. }) {
            // Should it always go like this, DATA leaves one in doubt at a time.
            self.note_quirk(Quirk::Chunking, fault);
        }
        let behind = session_ended(fault);
        // After a 421 the peer looks at nothing that came behind the command that it answered.
        let gone = matches!(fault, Fault::Reply { reply, .. } if reply.code() == 421);
        let served = self.transactions as usize > chain.flights.len();
        chain.slots.iter_mut().for_each(|slot| slot.rest = behind.clone());
        for (place, Flight { slot: number, transaction, .. }) in chain.flights.into_iter().enumerate() {
            let Ok(slot) = slot(&mut chain.slots, number) else { continue };
            let is_front = place == 0;
            let in_doubt = !gone && transaction.may_have_content(written);
            let stale = served && matches!(fault, Fault::Closed { .. } | Fault::Reply { .. });
            slot.touched |= transaction.is_answered() || in_doubt || (is_front && !stale);
            let met = if is_front || in_doubt { fault } else { &behind };
            let Ended { results, mail_refusal, .. } = transaction.end(Some(met), if gone { 0 } else { written });
            self.record(slot, results);
            if let Some(refusal) = mail_refusal {
                slot.rest = refusal;
            } else if is_front && is_of_the_mail(fault) {
                slot.rest = fault.clone();
            }
        }
        for slot in chain.slots {
            if slot.touched {
                slot.hand_back(feed);
            } else {
                feed.done(slot.parcel, End::Untried(fault.clone()));
            }
        }
    }

    /// Between transactions the peer has nothing to say, except that it goes.
    fn check_open(&mut self) -> Result<(), Fault> {
        const PHASE: Phase = Phase::Mail;
        let Some(unasked) = self.wire.unasked() else { return Ok(()) };
        self.state = State::Ended;
        Err(match unasked {
            Ok(reply) if reply.code() == 421 => Fault::Reply { phase: PHASE, reply },
            Ok(reply) => {
                let fault = Fault::Protocol { phase: PHASE, detail: format!("out of step: it said {reply} without having been asked") };
                // One answer more than there were commands. Other codes are how some take their leave.
                if matches!(reply.code(), 250..=252 | 354) {
                    self.remember(self.capabilities.chunking, &fault);
                }
                fault
            }
            Err(error) => error.during(PHASE),
        })
    }
}

impl<P: Parcel> Slot<P> {
    /// Nothing more of this mail is to be tried here.
    fn give_up(&mut self, fault: Fault) {
        self.waiting.clear();
        self.rest = fault;
    }

    fn hand_back<F: Feed<Parcel = P>>(self, feed: &mut F) {
        let Self { parcel, results, rest, .. } = self;
        let results = results.into_iter().map(|result| result.unwrap_or_else(|| Err(rest.clone())));
        feed.done(parcel, End::Answered(results.collect()));
    }
}

impl<P: Parcel> Chain<P> {
    /// Tells the feed whose content ends with the next write.
    fn tell<F: Feed<Parcel = P>>(&mut self, feed: &mut F) -> Result<(), Fault> {
        let mut ending = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| !flight.told && flight.transaction.is_sent()) {
            flight.told = true;
            let recipients = flight.transaction.may_get_it();
            if !recipients.is_empty()
                && let Some(slot) = self.slots.iter().find(|slot| slot.number == flight.slot)
            {
                ending.push(Ending { parcel: &slot.parcel, recipients });
            }
        }
        feed.before_write(&ending)
    }

    /// Hands the slot at `place` back if nothing of it is under way or waits.
    fn retire<F: Feed<Parcel = P>>(&mut self, place: usize, feed: &mut F) {
        if self.slots.get(place).is_some_and(|slot| slot.under_way == 0 && slot.waiting.is_empty())
            && let Some(slot) = self.slots.remove(place)
        {
            slot.hand_back(feed);
        }
    }
}

/// The slot of that number: each flight has one.
fn slot<P>(slots: &mut VecDeque<Slot<P>>, number: u64) -> Result<&mut Slot<P>, Fault> {
    slots.iter_mut().find(|slot| slot.number == number).ok_or(Fault::Internal)
}

/// Whether what broke the session would meet the mail's other recipients as well: its file, or the answer to its envelope.
fn is_of_the_mail(fault: &Fault) -> bool {
    match fault {
        Fault::LocalIo { .. } | Fault::Journal { .. } | Fault::Damaged { .. } | Fault::Internal => true,
        Fault::Reply { phase, .. } | Fault::Closed { phase, .. } | Fault::TimedOut { phase } | Fault::Protocol { phase, .. } => {
            matches!(phase, Phase::Mail | Phase::Rcpt | Phase::Data)
        }
        _ => false,
    }
}

/// What the end of a session is for those who were not part of what ended it.
fn session_ended(fault: &Fault) -> Fault {
    Fault::Closed { phase: Phase::Mail, detail: format!("the session had ended: {}", shown(&fault.to_string())) }
}

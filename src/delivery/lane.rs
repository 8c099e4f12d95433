//! A worker's lane: the copies whose attempts have begun, on their way over its session, and those that have ended and are to be recorded.
//! Three parts of one worker share it: one sends, one fetches ahead, one records behind; so that neither commit is waited for between two
//! messages.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Context;
use super::ahead::Ahead;
use super::board::{Ready, Served, Share};
use super::job::{Job, Sheet};
use super::settle::Ended;
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::outcome::{Fault, Peer};
use crate::queue::{CopyId, Haste, Notes, QueuedCopy, RecipientId};
use crate::route::Endpoint;
use crate::smtp::{Accepted, End, Ending, Feed};

/// Copies are fetched ahead for this time at the pace of the last ones: longer than a commit takes on a busy disk, so that the session does
/// not run dry, and some together, so that each does not cost a commit; short enough for the copies of a session that ends.
const AHEAD: Duration = Duration::from_millis(200);
/// At most so many, whatever the pace: a daemon that is killed leaves them in doubt.
const MOST_AHEAD: usize = 64;
/// Copies that were put off here and wait for the worker to try their next addresses: beyond that the session gives way to them.
const PUT_OFF: usize = 16;
/// Ended copies that are not recorded yet: beyond that nothing more is sent.
const UNRECORDED: usize = 512;
/// Copies that a session has delivered by the time that a 421 is no wish for fewer sessions any more.
const HARDLY_BEGUN: u32 = 10;
/// Transactions of messages up to this size tell how fast a site is.
const TELLING: u64 = 64 * 1024;

/// What the parts of a worker share.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    /// There may be room for more copies.
    pub(super) room: Notify,
    /// Copies have come, or it is known that there are none.
    pub(super) news: Notify,
    /// Copies have ended.
    pub(super) ended: Notify,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct State {
    /// Begun, to be sent.
    pub(super) jobs: Ahead,
    /// With the session.
    handed_out: HashMap<CopyId, Job>,
    /// To be recorded.
    done: Vec<(Arc<QueuedCopy>, Ended)>,
    /// Being recorded.
    pub(super) recording: usize,
    /// Copies are being fetched.
    pub(super) fetching: bool,
    /// The last look at the board brought nothing.
    pub(super) exhausted: bool,
    /// The worker comes to its end: nothing more is fetched.
    pub(super) closing: bool,
    /// Copies that were taken, and since when.
    served: u32,
    since: Instant,
    pace: Pace,
    /// How long transactions took, since the site was told of them.
    took: Vec<Duration>,
    /// The peer said 421 to a session that had hardly begun.
    pushed_back: bool,
    /// Copies that the session that is open has delivered.
    delivered: u32,
    /// Transactions ahead of their replies, of the session that is open.
    window: usize,
    /// Where the worker is, for those who look.
    line: Line,
}

/// Where a worker is.
#[derive(Debug, Clone, Default)]
pub(super) enum Line {
    /// Without a session.
    #[default]
    Closed,
    /// It opens one, for a copy that it has in hand.
    Opening(Remote, InHand),
    /// It has one.
    Open(Remote),
}

/// The copy that a session is opened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHand {
    copy: CopyId,
    message: MessageId,
    began_at: Timestamp,
}

impl InHand {
    pub(super) fn of(job: &Job) -> Self {
        Self { copy: job.copy.id, message: job.copy.message.id, began_at: job.began_at() }
    }
}

/// The other end, and since when.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The name that routing gave.
    pub host: Arc<str>,
    /// What was dialled.
    pub address: SocketAddr,
    /// When that was.
    pub since: Instant,
}

/// What a worker has of a copy.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// Which copy.
    pub copy: CopyId,
    /// When its attempt was recorded as begun.
    pub began_at: Timestamp,
    /// Where it is.
    pub phase: Phase,
    /// Who is spoken to.
    pub remote: Option<Remote>,
}

/// Where a copy is within its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The session that it is to go over is being opened.
    Connecting,
    /// The next, or one of the next, of a session that is open.
    Next,
    /// In its transaction, for that long.
    Transaction(Duration),
    /// It has ended, which is being recorded.
    Recording,
}

/// How fast copies come to their end.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
    each: Option<Duration>,
}

impl Pace {
    fn ended(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            let took = now.saturating_duration_since(last);
            self.each = Some(self.each.map_or(took, |each| (each * 7 + took) / 8));
        }
    }

    /// How many copies go in [`AHEAD`]. A session without a pace of its own counts a transaction at a time, each of the site's `latency`: too
    /// few rather than too many where several are under way.
    fn ahead(&self, window: usize, latency: Option<Duration>) -> usize {
        let at_pace = self.each.or(latency).map_or(0, |each| AHEAD.as_nanos() / each.as_nanos().max(1));
        usize::try_from(at_pace).unwrap_or(MOST_AHEAD).clamp(window + 1, MOST_AHEAD.max(window + 1))
    }
}

impl Lane {
    pub(super) fn new() -> Self {
        let state = State {
            jobs: Ahead::default(),
            handed_out: HashMap::new(),
            done: Vec::new(),
            recording: 0,
            fetching: false,
            exhausted: false,
            closing: false,
            served: 0,
            since: Instant::now(),
            pace: Pace::default(),
            took: Vec::new(),
            pushed_back: false,
            delivered: 0,
            window: 1,
            line: Line::Closed,
        };
        Self { state: Mutex::new(state), room: Notify::new(), news: Notify::new(), ended: Notify::new() }
    }

    /// The state. A panic while it was locked left it consistent enough.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies have come to their end.
    pub(super) fn end(&self, ended: impl IntoIterator<Item = (Arc<QueuedCopy>, Ended)>) {
        self.lock().done.extend(ended);
        self.ended.notify_one();
    }

    /// The next one to be sent: waits for what is being fetched. `None`: there is none.
    pub(super) async fn next(&self) -> Option<Job> {
        loop {
            {
                let mut state = self.lock();
                if state.done.len() + state.recording <= UNRECORDED {
                    if let Some(job) = state.jobs.pop() {
                        drop(state);
                        self.room.notify_one();
                        return Some(job);
                    }
                    if state.exhausted && !state.fetching {
                        return None;
                    }
                    self.room.notify_one();
                }
            }
            self.news.notified().await;
        }
    }

    /// Looks at the board again.
    pub(super) fn look_again(&self) {
        self.lock().exhausted = false;
        self.room.notify_one();
    }
}

impl State {
    /// How many more are wanted of the board, for a worker that has done so much; `None`: none.
    pub(super) fn asks(&self, share: Share) -> Option<(usize, Served)> {
        let wanted = if self.closing || self.exhausted { 0 } else { self.wants(share) };
        (wanted > 0).then(|| (wanted, Served { copies: self.served, held: self.since.elapsed() }))
    }

    fn wants(&self, share: Share) -> usize {
        let wanted = self.pace.ahead(self.window, share.latency).min(share.copies.max(1));
        // What is more urgent than all that is here is fetched at once.
        let is_urgent = share.first.is_some_and(|next| self.jobs.first_class().is_some_and(|first| next < first));
        let missing = wanted.saturating_sub(self.jobs.len()).max(if is_urgent { self.window + 1 } else { 0 });
        // A few together: each fetching is a commit.
        let worth_it = is_urgent || missing * 4 >= wanted || self.jobs.len() <= self.window;
        if !worth_it || self.done.len() + self.recording > UNRECORDED { 0 } else { missing }
    }

    /// Takes copies whose attempts have begun.
    pub(super) fn take_in(&mut self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            self.served += 1;
            self.jobs.push(job);
        }
    }

    /// Where the worker is now.
    pub(super) fn is_at(&mut self, line: Line) {
        self.line = line;
    }

    /// Where it is.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Copies that it has taken.
    pub(super) fn taken(&self) -> u32 {
        self.served
    }

    /// Copies of a message that it has.
    pub(super) fn find(&self, message: MessageId) -> Vec<UnderWay> {
        let remote = match &self.line {
            Line::Closed => None,
            Line::Opening(remote, _) | Line::Open(remote) => Some(remote.clone()),
        };
        let of = |job: &&Job| job.copy.message.id == message;
        let under_way = |job: &Job, phase| UnderWay { copy: job.copy.id, began_at: job.began_at(), phase, remote: remote.clone() };
        let next = if matches!(self.line, Line::Open(_)) { Phase::Next } else { Phase::Connecting };
        let in_hand = match &self.line {
            Line::Opening(_, job) if job.message == message => {
                Some(UnderWay { copy: job.copy, began_at: job.began_at, phase: Phase::Connecting, remote: remote.clone() })
            }
            _ => None,
        };
        let waiting = self.jobs.iter().filter(of).map(|job| under_way(job, next));
        let sent = self.handed_out.values().filter(of).map(|job| under_way(job, Phase::Transaction(job.sent_for())));
        in_hand.into_iter().chain(waiting).chain(sent).collect()
    }

    /// A session is open that may have so many transactions ahead of their replies.
    pub(super) fn opened(&mut self, window: usize) {
        self.window = window;
        self.delivered = 0;
        self.pace = Pace::default();
    }

    /// A 421 to a session that has hardly begun: the peer wants fewer of them. After many messages it is how some end a session.
    fn note_push_back(&mut self, fault: &Fault) {
        let ended_early = self.delivered < HARDLY_BEGUN && matches!(fault, Fault::Reply { reply, .. } if reply.code() == 421);
        self.pushed_back |= ended_early || fault.tells_of_too_many_sessions();
    }

    /// What is to be recorded now.
    pub(super) fn take_done(&mut self) -> Vec<(Arc<QueuedCopy>, Ended)> {
        let done = std::mem::take(&mut self.done);
        self.recording = done.len();
        done
    }

    /// Whether the worker goes on meanwhile: nobody waits for what is recorded then.
    pub(super) fn haste(&self) -> Haste {
        let goes_on = !self.closing && self.jobs.len() + self.handed_out.len() > 0;
        if goes_on { Haste::Soon } else { Haste::Now }
    }

    /// How long transactions took, and whether the peer said 421, since this was asked last.
    pub(super) fn take_signs(&mut self) -> (Vec<Duration>, bool) {
        (std::mem::take(&mut self.took), std::mem::take(&mut self.pushed_back))
    }

    /// Those that a session had when it broke off by a bug here.
    pub(super) fn take_handed_out(&mut self) -> Vec<Job> {
        self.handed_out.drain().map(|(_, job)| job).collect()
    }
}

/// What feeds one session from the lane.
pub(super) struct LaneFeed<'a> {
    pub(super) context: &'a Context,
    pub(super) lane: &'a Lane,
    pub(super) endpoint: &'a Endpoint,
    pub(super) peer: &'a Arc<Peer>,
    /// Goes first.
    pub(super) first: Option<Job>,
    /// When the session was opened.
    pub(super) opened_at: Instant,
    /// For the journal, with the next write.
    pub(super) notes: Notes,
}

impl LaneFeed<'_> {
    /// Notes what the peer answered. In doubt needs no note: that the content was ended is one.
    fn note(&mut self, sheet: &Sheet, results: &[Result<Accepted, Fault>]) {
        let attempt = sheet.attempt();
        let alike = |one: &Result<Accepted, Fault>, other: &Result<Accepted, Fault>| match (one, other) {
            (Ok(one), Ok(other)) => one == other,
            (Err(one), Err(other)) => matches!(one, Fault::InDoubt { .. }) == matches!(other, Fault::InDoubt { .. }),
            _ => false,
        };
        let mut place = 0;
        for group in results.chunk_by(alike) {
            let recipients: Vec<RecipientId> = (place..place + group.len()).map(|place| sheet.recipient(place)).collect();
            place += group.len();
            match &group[0] {
                Ok(accepted) => self.notes.delivered(attempt, &recipients, (&accepted.reply, accepted.dsn_relayed), self.peer),
                Err(Fault::InDoubt { .. }) => {}
                Err(_) => self.notes.refused(attempt, &recipients),
            }
        }
    }
}

impl Feed for LaneFeed<'_> {
    type Parcel = Sheet;

    fn next(&mut self, begun: u32) -> Option<Sheet> {
        let sending = &self.context.config.sending;
        let spent = begun >= sending.messages_per_connection || self.opened_at.elapsed() >= sending.connection_lifetime;
        let mut state = self.lane.lock();
        let job = match self.first.take() {
            Some(first) => first,
            None if spent || state.done.len() + state.recording > UNRECORDED => return None,
            None => {
                let max_sessions = self.context.config.smtp.max_sessions;
                if state.jobs.put_off() >= PUT_OFF {
                    return None;
                }
                state.jobs.pop_fitting(self.endpoint, max_sessions)?
            }
        };
        let mut job = job;
        let sheet = job.hand_out(self.endpoint.address, self.context.layout.message_file(job.copy.message.id));
        state.handed_out.insert(job.copy.id, job);
        drop(state);
        self.lane.room.notify_one();
        Some(sheet)
    }

    fn before_write(&mut self, ending: &[Ending<'_, Sheet>]) -> Result<(), Fault> {
        for Ending { parcel, recipients } in ending {
            self.notes.ending(parcel.attempt(), recipients.iter().map(|&place| parcel.recipient(place)));
        }
        self.context.journal.write(&mut self.notes).map_err(|error| Fault::Journal { detail: error.to_string() })
    }

    fn done(&mut self, sheet: Sheet, end: End) {
        if let End::Answered(results) = &end {
            self.note(&sheet, results);
        }
        let mut state = self.lane.lock();
        let Some(mut job) = state.handed_out.remove(&sheet.copy.id) else { return };
        match end {
            End::Untried(fault) => {
                state.note_push_back(&fault);
                job.untried();
                state.jobs.put_back(job);
            }
            End::Answered(results) => {
                results.iter().filter_map(|result| result.as_ref().err()).for_each(|fault| state.note_push_back(fault));
                let good = results.iter().any(Result::is_ok);
                state.delivered += u32::from(good);
                let took = job.answered(self.peer, results);
                if good && sheet.copy.message.content.wire_size < TELLING {
                    state.took.push(took);
                }
                state.pace.ended(Instant::now());
                if job.next_endpoint(self.context.config.smtp.max_sessions).is_some() {
                    state.jobs.push(job);
                } else {
                    state.done.push(job.into_ended());
                    drop(state);
                    self.lane.ended.notify_one();
                }
            }
        }
    }
}

/// Those of `ready` that are to be begun, and the jobs of those that were.
pub(super) fn split_begun(ready: Vec<Ready>) -> (Vec<Ready>, Vec<Job>) {
    let (mut fresh, mut begun) = (Vec::new(), Vec::new());
    for ready in ready {
        match ready.begun_at {
            Some(at) => begun.push(Job::new(ready, at)),
            None => fresh.push(ready),
        }
    }
    (fresh, begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_session_tries_a_site_out_and_the_next_ones_know_its_pace() {
        let lane = Lane::new();
        let wanted = |copies, latency| lane.lock().asks(Share { copies, first: None, latency }).map(|(wanted, _)| wanted);
        let millis = |time| Some(Duration::from_millis(time));
        assert_eq!(wanted(1000, None), Some(2), "one more than it sends at once");
        assert_eq!(wanted(1000, millis(20)), Some(10), "what goes in a fifth of a second");
        assert_eq!(wanted(1000, millis(1)), Some(MOST_AHEAD));
        assert_eq!(wanted(5, millis(1)), Some(5), "its share");
        assert_eq!(wanted(1000, millis(60_000)), Some(2));
        lane.lock().exhausted = true;
        assert_eq!(wanted(1000, millis(1)), None, "the board had nothing");
    }
}

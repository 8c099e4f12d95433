//! The facts about a copy: what is given to tell them from, and what there is to say.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{InDoubt, Retry};
use crate::delivery::live::LiveCopy;
use crate::message::{Address, Recipient};
use crate::outcome::Outcome;
use crate::queue::{ActionRow, ReportAction};
use crate::route::Rule;

/// What is known besides the queue.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The time of day.
    pub now: Timestamp,
    /// Whether somebody works on the queue.
    pub daemon: &'a Daemon,
    /// `[retry]`; `None` where the configuration cannot be read.
    pub retry: Option<&'a Retry>,
    /// `reports.postmaster` is set.
    pub postmaster: bool,
    /// Overrides that would hold the copy today; `None` where its route is not known.
    pub holding: Option<&'a [Rule]>,
    /// What the daemon tells of the copy.
    pub live: Option<&'a LiveCopy>,
}

/// Whether the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// It does.
    Running {
        /// As its lock says.
        pid: String,
    },
    /// It does not: nothing happens.
    Stopped,
    /// That cannot be found out.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// What there is to say of a copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain<'a> {
    /// Recipients, by what became of them.
    pub groups: Vec<Group<'a>>,
    /// Why it is where it is.
    pub standing: Standing<'a>,
    /// The sender was told of the delay.
    pub told_of_delay: bool,
    /// What administrators did to it, oldest first.
    pub orders: Vec<&'a ActionRow>,
    /// What follows, in the order of time.
    pub next: Vec<Next<'a>>,
}

/// Recipients of whom the same is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// At least one.
    pub recipients: Vec<&'a Recipient>,
    /// The last outcome and its time; `None`: never tried.
    pub last: Option<(&'a Outcome, Timestamp)>,
    /// Whether the peer may have the message all the same, or twice.
    pub doubt: Doubt,
    /// What the sender heard of it.
    pub told: Told<'a>,
}

/// What being in doubt means for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It is not.
    No,
    /// It may have arrived, and is sent again.
    MayArriveTwice,
    /// It may have arrived; somebody has to decide whether it is sent again.
    ToBeDecided,
    /// It has arrived, perhaps twice.
    MayHaveArrivedTwice,
    /// It was given up, and may have arrived.
    MayHaveArrived,
}

/// What became of the duty to tell the sender of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// There is nothing to tell.
    Nothing,
    /// It was given up, and nobody is told of that.
    Nobody(Silence),
    /// It was told.
    Done(ReportAction, &'a Address),
    /// It is to be told.
    Due(ReportAction, &'a Address),
    /// The null sender cannot be told: the message is in `failed/`.
    Kept,
}

/// Why nobody is told of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// An administrator removed it.
    Removed,
    /// An override discarded it.
    Discarded,
    /// The sender asked for that.
    NotWanted,
}

/// Why a copy is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<'a> {
    /// All its recipients have an end.
    Finished,
    /// Kept until it is released.
    Held {
        /// Who holds it.
        by: Holder<'a>,
        /// The reason given.
        reason: &'a str,
    },
    /// An attempt is under way.
    Sending {
        /// 1 for the first.
        number: u32,
    },
    /// An attempt was under way when the daemon ended.
    CutOff {
        /// 1 for the first.
        number: u32,
    },
    /// It is not due yet.
    Waiting {
        /// Then it is.
        until: Timestamp,
        /// Why not now.
        cause: Cause,
    },
    /// It is due: for what it waits, the daemon knows.
    Due {
        /// Since then.
        since: Timestamp,
    },
}

/// Who holds a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// `retry.in_doubt = "hold"`.
    InDoubt,
    /// An override that the configuration has today, at this line.
    Override(usize),
    /// An override that the configuration does not have any more.
    FormerOverride,
    /// An override; whether it is there still is not known.
    SomeOverride,
    /// An administrator.
    Administrator {
        /// Whose word.
        by: &'a str,
        /// Since when.
        since: Timestamp,
    },
}

/// Why a copy is not due yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its sender wants it so.
    NotBefore,
    /// Its site could not be connected to, so that nothing was tried.
    SiteDown,
    /// An attempt failed for now.
    Failed {
        /// 1 for the first.
        number: u32,
        /// The longest wait that a peer's reply asks for.
        asked: Option<Duration>,
    },
}

/// Something that is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<'a> {
    /// Nothing at all before the daemon is started.
    DaemonStart,
    /// At its start, the cut-off attempt is judged by the in-doubt journal.
    Judgement {
        /// What becomes of those whom it leaves in doubt; `None`: not known.
        in_doubt: Option<InDoubt>,
    },
    /// Nothing before it is released, not even its expiry.
    Release,
    /// No attempt before the pause of its site is ended.
    PauseEnd,
    /// The attempt under way ends; if it fails for now, the next one is about so much later.
    End {
        /// By the schedule.
        then: Option<Duration>,
    },
    /// An attempt begins.
    Attempt {
        /// 1 for the first.
        number: u32,
        /// Not before then; now: as soon as a worker takes it.
        at: Timestamp,
        /// If it fails for now, the one after it is about so much later.
        then: Option<Duration>,
    },
    /// From then on, an attempt that fails for now has the sender told of the delay.
    DelayNotice {
        /// When.
        from: Timestamp,
        /// Who is told.
        to: &'a Address,
    },
    /// It is given up.
    GivenUp {
        /// When.
        at: Timestamp,
        /// Who hears of it.
        tells: Tells<'a>,
    },
    /// A report is written.
    Report {
        /// Who gets it.
        to: &'a Address,
    },
}

/// Who hears of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells<'a> {
    /// The sender.
    Sender(&'a Address),
    /// Nobody: the sender asked for that.
    Nobody,
    /// Nobody can be told: the message is kept in `failed/`.
    Kept {
        /// The postmaster gets it too.
        postmaster: bool,
    },
}

//! What the live view knows: takes answers of the control API, hands on what is to be seen. Pure: no clock, no terminal.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::clock::Timestamp;
use crate::control::{Numbers, OutcomeLine, SiteLine, Status};

/// Samples that are kept: five minutes at one a second.
const SAMPLES: usize = 300;
/// Outcomes that are kept: more than any screen has lines.
const OUTCOMES: usize = 200;

/// One round of answers.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) status: Status,
    pub(super) sites: Vec<SiteLine>,
    /// Those that came since the last round, oldest first.
    pub(super) outcomes: Vec<OutcomeLine>,
}

/// What a round came to.
#[derive(Debug)]
pub(super) enum Round {
    /// The daemon has answered.
    Answered(Box<Fetched>),
    /// It has not, for this reason.
    Lost(String),
}

/// The order of the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    /// Most waiting copies first.
    #[default]
    Backlog,
    /// By name.
    Name,
    /// What is down or paused first, then by how much was not delivered.
    Failing,
}

impl Sort {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Name => "name",
            Self::Failing => "failing",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Backlog => Self::Name,
            Self::Name => Self::Failing,
            Self::Failing => Self::Backlog,
        }
    }
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    Sort,
    /// So many lines down; negative: up.
    Scroll(isize),
    Top,
    Bottom,
}

/// Everything on the screen.
#[derive(Debug)]
pub(super) struct Model {
    status: Status,
    sites: Vec<SiteLine>,
    /// Oldest first.
    outcomes: VecDeque<OutcomeLine>,
    /// Recipients delivered to a second, between rounds; oldest first.
    samples: VecDeque<f64>,
    sort: Sort,
    offset: usize,
    /// Why there is nothing new, since the rounds began to fail.
    lost: Option<String>,
}

impl Model {
    /// After the first round.
    pub(super) fn new(first: Fetched) -> Self {
        let Fetched { status, sites, outcomes } = first;
        let mut model =
            Self { status, sites, outcomes: VecDeque::new(), samples: VecDeque::new(), sort: Sort::default(), offset: 0, lost: None };
        model.keep(outcomes);
        model.arrange();
        model
    }

    /// A round is over.
    pub(super) fn take(&mut self, round: Round) {
        let Fetched { status, sites, outcomes } = match round {
            Round::Lost(reason) => {
                self.lost = Some(clean(&reason));
                return;
            }
            Round::Answered(fetched) => *fetched,
        };
        self.lost = None;
        if status.started_at != self.status.started_at {
            // Another daemon: its numbers are no continuation.
            self.outcomes.clear();
        } else if let Some(rate) = rate(&self.status, &status) {
            self.samples.push_back(rate);
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        self.status = status;
        self.sites = sites;
        self.keep(outcomes);
        self.arrange();
    }

    fn keep(&mut self, outcomes: Vec<OutcomeLine>) {
        self.outcomes.extend(outcomes);
        let surplus = self.outcomes.len().saturating_sub(OUTCOMES);
        self.outcomes.drain(..surplus);
    }

    /// Does as the key says; what ends the view is the caller's.
    pub(super) fn obey(&mut self, order: Order) {
        let last = self.sites.len().saturating_sub(1);
        match order {
            Order::Quit => {}
            Order::Sort => {
                self.sort = self.sort.next();
                self.offset = 0;
                self.arrange();
            }
            Order::Scroll(lines) => self.offset = self.offset.saturating_add_signed(lines).min(last),
            Order::Top => self.offset = 0,
            Order::Bottom => self.offset = last,
        }
    }

    fn arrange(&mut self) {
        match self.sort {
            Sort::Backlog => self.sites.sort_by_key(|site| (Reverse((site.copies, site.parked_domains)), site.name.clone())),
            Sort::Name => self.sites.sort_by(|one, other| one.name.cmp(&other.name)),
            Sort::Failing => self.sites.sort_by_key(|site| {
                let stopped = site.paused.is_some() || site.health.state != "up";
                (Reverse((stopped, site.failed + site.deferred)), site.name.clone())
            }),
        }
        self.offset = self.offset.min(self.sites.len().saturating_sub(1));
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// The sites that are seen where `rows` fit, and the place of the first one. The last page is a full one, so that a key that goes back from
    /// it is seen to do so.
    pub(super) fn sites(&mut self, rows: usize) -> (usize, &[SiteLine]) {
        self.offset = self.offset.min(self.sites.len().saturating_sub(rows));
        (self.offset, &self.sites[self.offset..self.sites.len().min(self.offset + rows)])
    }

    pub(super) fn site_count(&self) -> usize {
        self.sites.len()
    }

    /// Newest first.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &OutcomeLine> {
        self.outcomes.iter().rev()
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The daemon's clock at the last answer.
    pub(super) fn now(&self) -> Option<Timestamp> {
        moment(&self.status.now)
    }

    /// Means of the samples for a plot of this many columns, newest last, `None` where there were none yet; and the seconds of a column.
    pub(super) fn plot(&self, columns: usize) -> (Vec<Option<f64>>, usize) {
        let each = SAMPLES.div_ceil(columns.max(1));
        let newest: Vec<f64> = self.samples.iter().rev().copied().collect();
        let mut means: Vec<Option<f64>> =
            newest.chunks(each).map(|chunk| Some(chunk.iter().sum::<f64>() / chunk.len() as f64)).take(columns).collect();
        means.resize(columns, None);
        means.reverse();
        (means, each)
    }
}

/// Recipients delivered to a second, between two answers of one daemon.
fn rate(before: &Status, after: &Status) -> Option<f64> {
    let seconds = moment(&after.now)?.duration_since(moment(&before.now)?).as_secs_f64();
    let Numbers { delivered: from, .. } = before.throughput.total;
    let count = after.throughput.total.delivered.checked_sub(from)?;
    (seconds > 0.0).then(|| count as f64 / seconds)
}

/// A time of the API.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Peers' words must not drive the terminal, nor turn the direction of what stands beside them.
pub(super) fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

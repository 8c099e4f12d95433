//! Delivery: takes due copies, hands on settled ones: window → route → board → worker → settlement, and reports of what failed.

mod activity;
mod administer;
mod ahead;
mod board;
mod clear;
mod conclude;
mod concurrency;
mod health;
mod job;
mod lane;
pub mod live;
mod load;
mod report;
mod results;
mod resume;
mod scheduler;
mod settle;
mod shared;
#[cfg(test)]
mod testing;
mod throttle;
pub mod why;
mod window;
mod worker;

use std::sync::Arc;

pub use activity::{Activity, Count, RECENT, RecentOutcome, Throughput};
pub use administer::{Administered, Command, administer};
pub use board::{HealthView, LastReply, Obstacle, SiteView, Tally, WaitingView};
pub use clear::run as clear;
pub use lane::{Phase, Remote, UnderWay};
pub use load::{Load, SiteLoad};
pub use report::run as report;
pub use resume::resume;
pub use scheduler::run as schedule;
pub use shared::{Lanes, Shared, WorkerView};

use crate::clock::Clock;
use crate::config::Config;
use crate::observe::metrics::Counts;
use crate::queue::{Journal, Store};
use crate::route::Router;
use crate::smtp::Client;
use crate::spool::{Layout, Placing, Results, Standing};

/// Everything that delivery works with. A reload makes a new one; what is under way goes on with the old.
pub struct Context {
    /// The configuration in effect.
    pub config: Arc<Config>,
    /// Opens sessions.
    pub client: Client,
    /// Finds routes.
    pub router: Arc<Router>,
    /// Where message files are.
    pub layout: Layout,
    /// Messages whose files are not at their place yet.
    pub placing: Arc<Placing>,
    /// Writes `results/`, where that is wanted.
    pub results: Arc<Results>,
    /// The queue.
    pub store: Arc<dyn Store>,
    /// What would be in doubt.
    pub journal: Arc<Journal>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// For the metrics.
    pub counts: Arc<Counts>,
    /// What keeps intake from taking files.
    pub standing: Arc<Standing>,
    /// What scheduler, workers and intake share.
    pub shared: Arc<Shared>,
}

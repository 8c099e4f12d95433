//! What the board is like, for whoever looks on: takes what scheduler and workers share, hands on figures.

use std::collections::HashMap;

use super::board::Board;
use super::shared::Shared;
use crate::clock::Timestamp;
use crate::queue::SiteBacklog;
use crate::route::Site;

/// How much there is to do, and who does it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// `sending.workers`.
    pub workers: u64,
    /// Those that have a site to serve.
    pub busy: u64,
    /// Sites that are known.
    pub sites: u64,
    /// Those with the longest backlog, in that order.
    pub first: Vec<(Site, SiteLoad)>,
    /// All others, added up.
    pub rest: SiteLoad,
}

/// The same of a site, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SiteLoad {
    /// Open copies that belong to it, as far as is known.
    pub copies: u64,
    /// Workers that serve it.
    pub workers: u64,
    /// 1 where it is left alone since it could not be reached.
    pub down: u64,
}

impl Load {
    /// Sites that are down.
    pub fn down(&self) -> u64 {
        self.rest.down + self.first.iter().map(|(_, load)| load.down).sum::<u64>()
    }
}

impl SiteLoad {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.copies += other.copies;
        self.workers += other.workers;
        self.down += other.down;
    }
}

impl Shared {
    /// What there is to do now, with what the queue has recorded for each site; at most `named` sites by name.
    pub fn load(&self, backlogs: &[SiteBacklog], now: Timestamp, named: usize) -> Load {
        load(&self.lock().board, backlogs, now, named)
    }
}

fn load(board: &Board, backlogs: &[SiteBacklog], now: Timestamp, named: usize) -> Load {
    let mut all: HashMap<Site, SiteLoad> = board.loads(now).map(|(site, load)| (site.clone(), load)).collect();
    for backlog in backlogs {
        all.entry(Site::new(&*backlog.site)).or_default().copies += backlog.copies;
    }
    let mut sites: Vec<(&Site, SiteLoad)> = all.iter().map(|(site, load)| (site, *load)).filter(|(_, load)| !load.is_nothing()).collect();
    // The rest need no order. Names decide between equals, so that the same sites are named each time.
    let before = |one: &(&Site, SiteLoad), other: &(&Site, SiteLoad)| {
        let rank = |load: SiteLoad| (load.copies, load.workers, load.down);
        rank(other.1).cmp(&rank(one.1)).then_with(|| one.0.cmp(other.0))
    };
    if sites.len() > named {
        sites.select_nth_unstable_by(named, before);
    }
    let mut rest = SiteLoad::default();
    sites.drain(named.min(sites.len())..).for_each(|(_, load)| rest.add(load));
    sites.sort_unstable_by(before);
    Load {
        workers: board.workers() as u64,
        busy: board.running() as u64,
        sites: board.known() as u64,
        first: sites.into_iter().map(|(site, load)| (site.clone(), load)).collect(),
        rest,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::delivery::board::Ready;
    use crate::delivery::testing::{copy, route, sending};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A board with so many copies for each site.
    fn board(sites: &[(&str, i64)]) -> Board {
        let mut board = Board::new(sending());
        let mut id = 0;
        for (site, count) in sites {
            for _ in 0..*count {
                id += 1;
                board.push(Ready { copy: Arc::new(copy(id)), route: route(site), routing: Duration::ZERO, begun_at: None }, at(0), 1000);
            }
        }
        board
    }

    #[test]
    fn the_longest_backlogs_are_named_and_the_rest_is_added_up() {
        let board = board(&[("c", 1), ("a", 3), ("d", 2), ("b", 3), ("e", 1)]);
        let load = load(&board, &[], at(0), 3);
        let named: Vec<_> = load.first.iter().map(|(site, load)| (site.as_str(), load.copies)).collect();
        assert_eq!(named, [("a", 3), ("b", 3), ("d", 2)]);
        assert_eq!((load.rest.copies, load.sites, load.busy), (2, 5, 0));
    }

    #[test]
    fn a_site_that_is_down_and_a_busy_one_are_told_of_without_any_backlog() {
        let mut board = board(&[("down", 1), ("busy", 1)]);
        board.unreachable(&Site::new("down"), "refused", (at(0), Instant::now())).unwrap();
        board.take(Instant::now()).unwrap();
        let backlogs = [("down", 40), ("gone", 2)].map(|(site, copies)| SiteBacklog { site: site.to_owned(), copies, last: None });
        let load = load(&board, &backlogs, at(1), 5);
        let of = |site| load.first.iter().find(|(name, _)| name.as_str() == site).map(|(_, load)| *load);
        assert_eq!(of("down"), Some(SiteLoad { copies: 40, workers: 0, down: 1 }));
        assert_eq!(of("gone"), Some(SiteLoad { copies: 2, workers: 0, down: 0 }), "delivery knows nothing of it, and mail waits");
        assert_eq!(of("busy"), Some(SiteLoad { copies: 0, workers: 1, down: 0 }));
        assert_eq!((load.busy, load.down(), load.rest), (1, 1, SiteLoad::default()));
    }
}

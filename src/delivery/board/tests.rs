//! The board's policy, by tables and by hand.

use futures_util::FutureExt;

use super::*;
use crate::delivery::testing::{copy, route, sending};
use crate::queue::CopyId;

/// Copies of one site that may wait.
const MANY: usize = 100;

fn board(workers: usize, per_site: usize) -> Board {
    Board::new(Sending { workers, per_site, ..sending() })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn push(board: &mut Board, id: i64, site: &str) {
    assert!(matches!(board.push(ready(copy(id), site), at(0), MANY), Pushed::Waiting));
}

fn ready(copy: QueuedCopy, site: &str) -> Ready {
    Ready { copy: Arc::new(copy), route: route(site), routing: Duration::ZERO, begun_at: None }
}

fn taken(board: &mut Board) -> Option<i64> {
    board.take(Instant::now()).map(|ready| ready.copy.id.0)
}

fn next(board: &mut Board, site: &str, copies: u32, held: Duration) -> Option<i64> {
    board.next_for(&Site::new(site), Served { copies, held }, Instant::now()).map(|ready| ready.copy.id.0)
}

#[test]
fn one_slow_site_does_not_take_every_worker() {
    let mut board = board(4, 2);
    for id in 1..=10 {
        push(&mut board, id, "slow");
    }
    push(&mut board, 11, "other");
    assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(11), Some(2), None]);
    board.release(&Site::new("slow"));
    assert_eq!(taken(&mut board), Some(3));
}

#[test]
fn a_worker_goes_to_the_site_with_fewest_before_the_oldest_copy() {
    let mut board = board(4, 10);
    board.connected(&Site::new("none"));
    for id in 1..=9 {
        push(&mut board, id, if id < 8 { "large" } else { "small" });
    }
    board.connected(&Site::new("large"));
    assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(8), Some(2), Some(9)]);
}

#[test]
fn workers_are_the_limit_of_all_sites_together() {
    let mut board = board(3, 1);
    for id in 1..=5 {
        push(&mut board, id, &format!("site {id}"));
    }
    assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(2), Some(3), None]);
    assert_eq!(board.running(), 3);
}

#[test]
fn class_goes_before_time() {
    let mut board = board(10, 10);
    push(&mut board, 1, "a");
    let mut urgent = copy(2);
    Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
    urgent.due_at = at(99);
    board.push(ready(urgent, "a"), at(99), MANY);
    assert_eq!([taken(&mut board), taken(&mut board)], [Some(2), Some(1)]);
}

#[test]
fn order_is_a_setting() {
    for (order, expected) in [(Order::Arrival, [1, 2, 3]), (Order::SmallestFirst, [3, 1, 2]), (Order::NewestFirst, [2, 3, 1])] {
        let mut board = Board::new(Sending { order, ..sending() });
        for (id, size, accepted) in [(1, 20, 100), (2, 30, 300), (3, 10, 200)] {
            let mut copy = copy(id);
            let message = Arc::make_mut(&mut copy.message);
            message.content.wire_size = size;
            message.accepted_at = at(accepted);
            copy.due_at = at(id);
            board.push(ready(copy, "a"), at(0), MANY);
        }
        board.connected(&Site::new("a"));
        assert_eq!([1, 2, 3].map(|_| taken(&mut board).unwrap()), expected, "{order:?}");
    }
}

#[test]
fn a_kept_session_goes_on_while_nobody_waits() {
    let mut board = board(1, 1);
    for id in 1..=30 {
        push(&mut board, id, "a");
    }
    assert_eq!(taken(&mut board), Some(1));
    for served in 1..30 {
        assert_eq!(next(&mut board, "a", served, LONG_TIME), Some(i64::from(served) + 1));
    }
    assert_eq!(next(&mut board, "a", 30, LONG_TIME), None);
}

#[test]
fn a_kept_session_gives_way_to_a_better_class_at_once_and_to_others_after_its_quantum() {
    let mut board = board(1, 1);
    for id in 1..=5 {
        push(&mut board, id, "a");
    }
    push(&mut board, 6, "b");
    assert_eq!(taken(&mut board), Some(1));
    assert_eq!(next(&mut board, "a", QUANTUM, Duration::ZERO), Some(2), "it was quick");
    assert_eq!(next(&mut board, "a", 1, FAIR_TIME), Some(3), "they were few");
    assert_eq!(next(&mut board, "a", QUANTUM, FAIR_TIME), None);
    assert_eq!(next(&mut board, "a", 1, LONG_TIME), None);
    let mut urgent = copy(7);
    Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
    board.push(ready(urgent, "b"), at(0), MANY);
    assert_eq!(next(&mut board, "a", 1, Duration::ZERO), None);
    board.release(&Site::new("a"));
    assert_eq!(taken(&mut board), Some(7));
    assert_eq!(next(&mut board, "b", QUANTUM, LONG_TIME), None, "what waits is of its own class");
    let mut urgent = copy(8);
    Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
    board.push(ready(urgent, "b"), at(0), MANY);
    assert_eq!(next(&mut board, "b", QUANTUM, LONG_TIME), Some(8), "those who wait elsewhere are less urgent");
}

#[test]
fn a_site_starts_with_two_sessions_and_gets_more_as_they_get_through() {
    let mut board = board(10, 4);
    for id in 1..=9 {
        push(&mut board, id, "a");
    }
    let site = Site::new("a");
    assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board)], [Some(1), Some(2), None]);
    board.connected(&site);
    board.connected(&site);
    assert_eq!([taken(&mut board), taken(&mut board), taken(&mut board)], [Some(3), Some(4), None], "per_site");
    assert!(board.unreachable(&site, "421 too many", (at(1), Instant::now())).is_none(), "others work");
    board.release(&site);
    board.release(&site);
    assert_eq!(taken(&mut board), None, "it takes no more than the two that are there");
}

#[test]
fn a_session_that_rests_takes_what_comes_before_a_new_one_is_opened() {
    let mut board = board(2, 2);
    let site = Site::new("a");
    push(&mut board, 1, "a");
    assert_eq!(taken(&mut board), Some(1));
    let sleeper = Arc::new(Notify::new());
    assert!(board.rest(&site, &sleeper));
    push(&mut board, 2, "a");
    assert_eq!(taken(&mut board), None, "the sleeper was roused for it");
    push(&mut board, 3, "a");
    assert_eq!(taken(&mut board), Some(2), "two copies, one sleeper");
    board.stir(&site, &sleeper);
    assert_eq!(next(&mut board, "a", 1, Duration::ZERO), Some(3));
}

#[test]
fn of_two_sessions_to_a_site_that_is_to_have_one_only_one_rests() {
    let mut board = board(10, 10);
    let site = Site::new("a");
    for id in 1..=3 {
        push(&mut board, id, "a");
    }
    assert_eq!([taken(&mut board), taken(&mut board)], [Some(1), Some(2)]);
    board.pushed_back(&site, Instant::now());
    assert_eq!(next(&mut board, "a", 1, Duration::ZERO), None, "neither is to go on");
    let sleeper = Arc::new(Notify::new());
    assert!(!board.rest(&site, &sleeper));
    board.release(&site);
    assert_eq!(next(&mut board, "a", 1, Duration::ZERO), Some(3), "the other one is");
    push(&mut board, 4, "a");
    assert!(board.rest(&site, &sleeper));
    assert!(sleeper.notified().now_or_never().is_some(), "what came at the last moment");
}

#[test]
fn a_session_that_rests_gives_its_worker_to_others() {
    let mut board = board(1, 1);
    push(&mut board, 1, "a");
    assert_eq!(taken(&mut board), Some(1));
    let sleeper = Arc::new(Notify::new());
    assert!(board.rest(&Site::new("a"), &sleeper));
    push(&mut board, 2, "b");
    assert_eq!(taken(&mut board), None);
    board.dismiss_a_sleeper();
    assert!(sleeper.notified().now_or_never().is_some());
    board.stir(&Site::new("a"), &sleeper);
    assert!(!board.rest(&Site::new("a"), &sleeper), "not while b waits");
    board.release(&Site::new("a"));
    assert_eq!(taken(&mut board), Some(2));
}

#[test]
fn a_rate_holds_copies_back_and_no_worker() {
    let mut board = board(10, 10);
    let rate = Rate { count: 1, per: Duration::from_secs(60) };
    let limited = Arc::new(Route { rate: Some(rate), ..(*route("a")).clone() });
    for id in 1..=3 {
        board.push(Ready { route: limited.clone(), ..ready(copy(id), "a") }, at(0), MANY);
    }
    push(&mut board, 4, "b");
    let now = Instant::now();
    let ids = |board: &mut Board, now| [board.take(now), board.take(now)].map(|ready| ready.map(|ready| ready.copy.id.0));
    assert_eq!(ids(&mut board, now), [Some(1), Some(4)]);
    assert_eq!(next(&mut board, "a", 1, Duration::ZERO), None, "nor for a session that is open");
    let later = board.next_unthrottled().unwrap();
    assert_eq!(later.duration_since(now), Duration::from_secs(60));
    board.unthrottle(later);
    assert_eq!(ids(&mut board, later), [Some(2), None]);
}

#[test]
fn an_urgent_copy_takes_the_place_of_the_last_one_of_a_full_site() {
    let mut board = board(10, 1);
    push(&mut board, 1, "a");
    push(&mut board, 2, "a");
    let mut urgent = copy(3);
    Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
    let Pushed::SiteFull(surplus) = board.push(ready(urgent, "a"), at(0), 2) else { panic!("the site was full") };
    assert_eq!((surplus.copy.id.0, taken(&mut board)), (2, Some(3)));
    board.release(&Site::new("a"));
    assert_eq!((taken(&mut board), taken(&mut board)), (Some(1), None));
}

#[test]
fn a_copy_whose_attempt_has_begun_gives_its_place_to_nobody() {
    let mut board = board(10, 1);
    push(&mut board, 1, "a");
    board.put_back(Ready { begun_at: Some(at(0)), ..ready(copy(2), "a") });
    let mut urgent = copy(3);
    Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
    let Pushed::SiteFull(surplus) = board.push(ready(urgent, "a"), at(0), 2) else { panic!("the site was full") };
    assert_eq!((surplus.copy.id.0, taken(&mut board)), (1, Some(3)));
    board.release(&Site::new("a"));
    assert_eq!(taken(&mut board), Some(2));
}

#[test]
fn a_paused_site_keeps_only_what_has_begun() {
    let mut board = board(10, 5);
    let site = Site::new("a");
    push(&mut board, 1, "a");
    board.put_back(Ready { begun_at: Some(at(0)), ..ready(copy(2), "a") });
    let paused = PausedSite { site: "a".to_owned(), reason: "x".to_owned(), by: "uid 0".to_owned(), since: at(0) };
    let back: Vec<i64> = board.pause(&site, paused).iter().map(|ready| ready.copy.id.0).collect();
    assert_eq!((back, taken(&mut board)), (vec![1], None));
    assert!(matches!(board.push(ready(copy(3), "a"), at(0), MANY), Pushed::SiteFull(_)));
    board.tidy(at(1_000_000), Instant::now());
    assert!(board.is_paused(&site), "a pause is not forgotten");
    assert!(board.resume(&site) && !board.resume(&site));
    assert_eq!(taken(&mut board), Some(2));
}

#[test]
fn copies_are_withdrawn_unless_they_have_begun() {
    let mut board = board(10, 5);
    push(&mut board, 1, "a");
    push(&mut board, 2, "b");
    board.put_back(Ready { begun_at: Some(at(0)), ..ready(copy(3), "a") });
    assert_eq!(board.withdraw(&[1, 3].map(CopyId).into()), [CopyId(1)]);
    let mut left = [taken(&mut board), taken(&mut board), taken(&mut board)];
    left.sort();
    assert_eq!(left, [None, Some(2), Some(3)]);
}

#[test]
fn a_down_site_defers_what_waits_and_is_probed_by_one() {
    let mut board = board(10, 5);
    let site = Site::new("a");
    for id in 1..=4 {
        push(&mut board, id, "a");
    }
    assert_eq!(taken(&mut board), Some(1));
    let (until, waiting) = board.unreachable(&site, "refused", (at(100), Instant::now())).unwrap();
    board.release(&site);
    assert_eq!(waiting.len(), 3);
    assert!(until > at(100));
    let late = ready(copy(9), "a");
    assert!(matches!(board.push(late, at(101), MANY), Pushed::SiteDown { .. }));
    for id in [10, 11, 12] {
        assert!(matches!(board.push(ready(copy(id), "a"), until, MANY), Pushed::Waiting));
    }
    assert_eq!([taken(&mut board), taken(&mut board)], [Some(10), None], "one probe");
    board.connected(&site);
    assert_eq!([taken(&mut board), taken(&mut board)], [Some(11), Some(12)], "the probe got through");
}

#[test]
fn one_refused_connection_beside_a_working_one_takes_nothing_down() {
    let mut board = board(10, 5);
    let site = Site::new("a");
    for id in 1..=3 {
        push(&mut board, id, "a");
    }
    taken(&mut board);
    board.connected(&site);
    taken(&mut board);
    assert!(board.unreachable(&site, "421 too many connections", (at(1), Instant::now())).is_none());
    assert!(board.may_have(&site));
    board.disconnected(&site);
    assert!(board.unreachable(&site, "refused", (at(2), Instant::now())).is_some());
}

#[test]
fn a_full_site_leaves_copies_to_the_queue_and_has_room_when_a_quarter_is_left() {
    let (mut board, site) = (board(10, 2), Site::new("a"));
    for id in 1..=8 {
        assert!(matches!(board.push(ready(copy(id), "a"), at(0), 8), Pushed::Waiting));
    }
    assert!(matches!(board.push(ready(copy(9), "a"), at(0), 8), Pushed::SiteFull(_)));
    assert!(matches!(board.push(ready(copy(10), "b"), at(0), 0), Pushed::Waiting), "some for its sessions in any case");
    board.connected(&site);
    for left in (3..8).rev() {
        assert!(!board.has_room(&site, 8), "{left}");
        board.next_for(&site, Served { copies: 0, held: Duration::ZERO }, Instant::now()).unwrap();
    }
    board.next_for(&site, Served { copies: 0, held: Duration::ZERO }, Instant::now()).unwrap();
    assert!(board.has_room(&site, 8) && board.has_room(&Site::new("unknown"), 0));
}

#[test]
fn a_site_with_a_rate_holds_what_goes_in_a_minute() {
    for (count, per, most) in [(6, 60, 8), (30, 60, 30), (2, 1, MANY)] {
        let mut board = board(10, 2);
        let rate = Some(Rate { count, per: Duration::from_secs(per) });
        let limited = Arc::new(Route { rate, ..Route::clone(&route("a")) });
        let push = |id| board.push(Ready { route: limited.clone(), ..ready(copy(id), "a") }, at(0), MANY);
        let waiting = (1..).map(push).take_while(|pushed| matches!(pushed, Pushed::Waiting)).count();
        assert_eq!(waiting, most, "{count} in {per} s");
    }
}

#[test]
fn copies_are_shared_among_the_sessions_that_a_site_can_have_now() {
    let (mut board, site) = (board(3, 10), Site::new("a"));
    (1..=12).for_each(|id| push(&mut board, id, "a"));
    (1..=9).for_each(|_| board.connected(&site));
    assert_eq!(board.share(&site).copies, 4, "three workers");
    taken(&mut board);
    push(&mut board, 13, "b");
    push(&mut board, 14, "c");
    assert_eq!([taken(&mut board), taken(&mut board)], [Some(13), Some(14)]);
    let share = board.share(&site);
    assert_eq!((share.copies, share.first), (11, Some(Priority::Normal)), "the others have theirs elsewhere");
}

#[test]
fn the_latency_of_a_site_is_known_until_it_is_down() {
    let (mut board, site) = (board(1, 1), Site::new("a"));
    (1..=3).for_each(|id| push(&mut board, id, "a"));
    taken(&mut board);
    assert_eq!(board.share(&site).latency, None, "one copy looks first");
    board.connected(&site);
    board.went_well(&site, &[Duration::from_millis(20)], Instant::now());
    assert_eq!(board.share(&site).latency, Some(Duration::from_millis(20)));
    board.disconnected(&site);
    board.release(&site);
    assert_eq!(board.share(&site).latency, Some(Duration::from_millis(20)), "the next session knows");
    taken(&mut board);
    board.unreachable(&site, "no answer", (at(0), Instant::now()));
    assert_eq!(board.share(&site).latency, None, "one copy looks whether it is back");
}

#[test]
fn fewer_workers_after_a_reload_end_sessions() {
    let mut board = board(2, 2);
    for id in 1..=4 {
        push(&mut board, id, "a");
    }
    taken(&mut board);
    taken(&mut board);
    board.reconfigure(Sending { workers: 1, per_site: 1, ..sending() });
    assert!(next(&mut board, "a", 1, Duration::ZERO).is_none());
    board.release(&Site::new("a"));
    assert!(taken(&mut board).is_none());
    assert!(next(&mut board, "a", 1, Duration::ZERO).is_some());
}

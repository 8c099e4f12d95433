//! What searching the history costs: many finished messages of one recipient each, and how long each kind of question takes.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use smtp_direct::clock::Timestamp;
use smtp_direct::message::MessageId;
use smtp_direct::queue::{Ending, HistoryFilter, Inspect, SqliteInspect, SqliteStore};

use crate::support::{Folder, address, at};

/// Times a question is asked; the median counts.
const ASKED: usize = 5;
/// What a page of a table holds.
const PAGE: usize = 100;

/// A week of messages: nine of ten from one sender, three of a hundred failed, one of ten thousand in doubt; 5,000 domains. Sizes of texts
/// are those of real rows. Message n is for user n, and ended n parts of the week after the start.
const FILL: &str = "
PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144; BEGIN;
CREATE TEMP TABLE n AS WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < :count - 1) SELECT n FROM n;
INSERT INTO messages (seq, id, accepted_at, expires_at, finished_at, open_copies, reports_due, delivered, failed, priority, sender, source,
    source_inode, source_size, source_modified, file_size, wire_size, form, hops, message_id, prepend)
SELECT n + 1, unhex(printf('%012x%020x', :start + n * :step, n)), :start + n * :step - 500, :start + n * :step + 432000000,
    :start + n * :step, 0, 0, n % 100 >= 3, n % 100 < 3, 1, iif(n % 10, 'news@lists.example.org', printf('sender%d@example.org', n)),
    printf('%d.eml', n), n, 2048, n, 2048, 2300, 1, 1, printf('<20260921141320.%d.4711@mail.example.org>', n),
    printf('Received: from drop (%d.eml) by mail.example.org (smtp-direct) id 01M3250VZ80000000000000001;' || char(13, 10, 9)
        || 'Mon, 21 Sep 2026 14:13:20 +0000' || char(13, 10), n) FROM n;
INSERT INTO recipients (id, copy, state, notify, outcome_at, code, in_doubt, dsn_relayed, status, address, text, reply, host, peer, tls)
SELECT n + 1, (n + 1) * 1048576, iif(n % 100 < 3, 2, 1), 3, :start + n * :step, 250, n % 10000 = 77, 1,
    CASE WHEN n % 1000 = 2 THEN '4.4.7' WHEN n % 100 < 3 THEN '5.1.1' ELSE '2.0.0' END,
    printf('user%d@domain%d.example', n, n * 7919 % 5000), '250 2.0.0 Ok: queued as 4XyzAbCdEf', '2.0.0 Ok: queued as 4XyzAbCdEf',
    printf('mx1.domain%d.example', n * 7919 % 5000), '192.0.2.25:25', 'TLSv1.3 TLS13_AES_256_GCM_SHA384' FROM n;
INSERT INTO copies (id, message, state, priority, due_at, expires_at, open_recipients, attempts, warned, in_doubt, first_recipient,
    last_recipient, domain)
SELECT (n + 1) * 1048576, n + 1, 3, 1, :start, :start, 0, 1, 0, 0, n + 1, n + 1, printf('domain%d.example', n * 7919 % 5000) FROM n;
DROP TABLE n; COMMIT;
";

pub(crate) async fn run(messages: u32) {
    let folder = Folder::new("history");
    let store = SqliteStore::open(&folder.database()).unwrap();
    store.close().await;
    let start = at(0).as_millisecond();
    let step = 7 * 24 * 3_600_000 / i64::from(messages);
    let fill = [(":count", i64::from(messages)), (":start", start), (":step", step)];
    let fill = fill.iter().fold(FILL.to_owned(), |sql, (name, value)| sql.replace(name, &value.to_string()));
    let filling = Instant::now();
    Connection::open(folder.database()).unwrap().execute_batch(&fill).unwrap();
    let size = std::fs::metadata(folder.database()).unwrap().len();
    println!("{messages} finished messages, {} MiB, filled in {:.1?}; medians of {ASKED}", size >> 20, filling.elapsed());

    let (middle, time) = (messages / 2, |n: u32| Timestamp::from_millisecond(start + i64::from(n) * step).unwrap());
    let all = HistoryFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let to = format!("user{middle}@domain{}.example", u64::from(middle) * 7919 % 5000);
    let place =
        SqliteInspect::open(&folder.database()).unwrap().history(&HistoryFilter { until: Some(time(middle)), limit: Some(1), ..all() });
    let mut id = [0; 16];
    id[..6].copy_from_slice(&u64::try_from(time(middle).as_millisecond()).unwrap().to_be_bytes()[2..]);
    id[12..].copy_from_slice(&middle.to_be_bytes());
    let questions = [
        ("all", all()),
        ("--before (middle)", HistoryFilter { before: place.unwrap().first().map(|row| row.place), ..all() }),
        ("--id", HistoryFilter { id: Some(MessageId::from_bytes(id)), ..all() }),
        ("--to ADDRESS", HistoryFilter { to: text(&to), ..all() }),
        ("--to user77*", HistoryFilter { to: text("user77*"), ..all() }),
        ("--domain", HistoryFilter { domain: text("domain77.example"), ..all() }),
        ("--from, rare", HistoryFilter { from: Some(format!("sender{}@example.org", middle / 10 * 10)), ..all() }),
        ("--from, nine of ten", HistoryFilter { from: text("news@lists.example.org"), ..all() }),
        ("--message-id", HistoryFilter { message_id: Some(format!("20260921141320.{middle}.4711@mail.example.org")), ..all() }),
        ("--since, --until (an hour)", HistoryFilter { since: Some(time(middle)), until: Some(time(middle + messages / 168)), ..all() }),
        ("--outcome failed", HistoryFilter { ending: Some(Ending::Failed), ..all() }),
        ("--outcome expired", HistoryFilter { ending: Some(Ending::Expired), ..all() }),
        ("--in-doubt", HistoryFilter { in_doubt: true, ..all() }),
    ];
    println!("{:28} {:>6} {:>14} {:>9} {:>14}", "", "rows", "first 100", "count", "--count");
    for (name, filter) in questions {
        let page = HistoryFilter { limit: Some(PAGE), ..filter.clone() };
        let (rows, listed) = ask(&folder, |queue| queue.history(&page).unwrap().len() as u64);
        let (count, counted) = ask(&folder, |queue| queue.count_history(&filter).unwrap());
        println!("{name:28} {rows:>6} {listed:>14.1?} {count:>9} {counted:>14.1?}");
    }
    let recipient = address(&to);
    let (copies, found) = ask(&folder, |queue| queue.copies_for(&recipient, 3).unwrap().finished.len() as u64);
    println!("{:28} {copies:>6} {found:>14.1?}", "queue why ADDRESS");
}

/// As the command line does it: opens the database anew each time.
fn ask(folder: &Folder, question: impl Fn(&SqliteInspect) -> u64) -> (u64, Duration) {
    let mut answer = 0;
    let mut times: Vec<Duration> = (0..ASKED)
        .map(|_| {
            let start = Instant::now();
            answer = question(&SqliteInspect::open(&folder.database()).unwrap());
            start.elapsed()
        })
        .collect();
    times.sort();
    (answer, times[ASKED / 2])
}

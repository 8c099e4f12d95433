//! What the queue costs: accept, reading, begin and settle of one-recipient messages in batches, one call alone, and a queue with many
//! that wait, beside what the disk does without a database. Medians of several runs.
//! `cargo bench --bench queue [-- MESSAGES [BATCH]...]`, or `-- waiting MESSAGES`, or `-- history MESSAGES`; the database lies in the system's folder for temporary
//! files.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod history;
#[path = "../support/measure.rs"]
mod measure;
#[path = "../support/queue.rs"]
mod support;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::Lap;
use smtp_direct::message::Priority;
use smtp_direct::queue::{Cursor, Haste, NewMessage, NextStep, QueuedCopy, SqliteStore, Store};
use support::{Folder, at, begins, delivered, message, settlement};

const RUNS: usize = 5;
/// Recipients of a page: what the scheduler asks for at once.
const PAGE: usize = 500;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = words.iter().filter_map(|word| word.parse::<u32>().ok());
    if words.iter().any(|word| word == "waiting") {
        runtime().block_on(waiting(numbers.next().unwrap_or(1_000_000)));
        return;
    }
    if words.iter().any(|word| word == "history") {
        runtime().block_on(history::run(numbers.next().unwrap_or(1_000_000)));
        return;
    }
    let messages = numbers.next().unwrap_or(20_000);
    let mut batches: Vec<u32> = numbers.collect();
    if batches.is_empty() {
        batches = vec![1, 10, 100];
    }
    println!("{messages} messages of one recipient each, medians of {RUNS} runs; µs a message: on the clock / CPU of this process");
    println!(
        "{:>8} {:>18} {:>18} {:>18} {:>18} {:>12} {:>16}",
        "batch", "accept", "read", "begin", "settle", "all, CPU", "append+fdatasync"
    );
    for batch in batches {
        let messages = if batch == 1 { messages / 10 } else { messages };
        let runs: Vec<[Times; 4]> = (0..RUNS).map(|_| runtime().block_on(run(messages, batch))).collect();
        let clock = |step: usize| median(runs.iter().map(|run| run[step].0));
        let cpu = |step: usize| median(runs.iter().map(|run| run[step].1));
        let steps = [0, 1, 2, 3].map(|step| format!("{:.1} / {:.1}", per(clock(step), messages), per(cpu(step), messages)));
        let [accept, read, begin, settle] = steps;
        let all = per((0..4).map(cpu).sum(), messages);
        let ceiling = per(median((0..RUNS).map(|_| append(messages, batch))), messages);
        println!("{batch:>8} {accept:>18} {read:>18} {begin:>18} {settle:>18} {all:>12.1} {ceiling:>16.1}");
    }
    runtime().block_on(steady(messages));
    runtime().block_on(alone());
}

/// Time on the clock, and CPU time.
type Times = (Duration, Duration);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    nth(times, 0.5)
}

fn nth(times: impl Iterator<Item = Duration>, part: f64) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times[((times.len() - 1) as f64 * part) as usize]
}

fn per(time: Duration, messages: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(messages)
}

/// Domains as mail has them: many, some of them often.
fn new(n: u32) -> NewMessage {
    message(n, &[&format!("user{n}@domain{}.example", n.wrapping_mul(2_654_435_761) % 5000)])
}

fn batches(messages: u32, batch: u32) -> Vec<Vec<NewMessage>> {
    (0..messages / batch).map(|first| (first * batch..(first + 1) * batch).map(new).collect()).collect()
}

/// `batch` messages a call, each step for all messages before the next step.
async fn run(messages: u32, batch: u32) -> [Times; 4] {
    let folder = Folder::new("bench");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut copies = Vec::new();
    let batches = batches(messages, batch);
    let mut clock = Lap::start();
    for batch in batches {
        copies.push(store.accept(batch).await.unwrap());
    }
    let accept = clock.lap();
    clock = Lap::start();
    assert_eq!(read_all(&store, usize::MAX).await.len(), copies.iter().map(Vec::len).sum::<usize>());
    let read = clock.lap();
    let batches: Vec<_> = copies.iter().map(|batch| begins(batch)).collect();
    clock = Lap::start();
    for batch in batches {
        store.begin_attempts(batch, at(1_000_000)).await.unwrap();
    }
    let begin = clock.lap();
    let outcome = delivered();
    let settle_one = |copy| settlement(copy, &outcome, NextStep::Finish, at(1_000_001));
    let batches: Vec<Vec<_>> = copies.iter().map(|batch| batch.iter().map(settle_one).collect()).collect();
    clock = Lap::start();
    let mut finished = 0;
    for batch in batches {
        finished += store.settle(batch.into(), Haste::Now).await.unwrap().len();
    }
    let settle = clock.lap();
    assert_eq!(finished, copies.iter().map(Vec::len).sum::<usize>());
    store.close().await;
    [accept, read, begin, settle]
}

/// Messages that come and go: ten callers, each of which accepts, sends and settles ten at a time, while few wait.
async fn steady(messages: u32) {
    const CALLERS: u32 = 10;
    let folder = Folder::new("steady");
    let store = Arc::new(SqliteStore::open(&folder.database()).unwrap());
    let mut shares: Vec<Vec<Vec<NewMessage>>> = (0..CALLERS).map(|_| Vec::new()).collect();
    for (n, batch) in batches(messages, 10).into_iter().enumerate() {
        shares[n % CALLERS as usize].push(batch);
    }
    let mut clock = Lap::start();
    let callers = shares.into_iter().map(|share| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for batch in share {
                let copies = store.accept(batch).await.unwrap();
                store.begin_attempts(begins(&copies), at(1_000_000)).await.unwrap();
                let outcome = delivered();
                let done = copies.iter().map(|copy| settlement(copy, &outcome, NextStep::Finish, at(1_000_001))).collect();
                assert_eq!(store.settle(done, Haste::Now).await.unwrap().len(), copies.len());
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let (elapsed, cpu) = clock.lap();
    println!("{CALLERS} callers, ten a call, few waiting: {:.1} / {:.1} µs a message", per(elapsed, messages), per(cpu, messages));
}

/// At most `pages` pages of what is due.
async fn read_all(store: &SqliteStore, pages: usize) -> Vec<QueuedCopy> {
    let mut copies = Vec::new();
    let mut next = Some(Cursor::start_of(Priority::Normal));
    for _ in 0..pages {
        let Some(cursor) = next else { break };
        let page = store.due(cursor, at(2_000_000), PAGE, Vec::new()).await.unwrap();
        copies.extend(page.copies);
        next = page.next;
    }
    copies
}

/// One call after another, by one caller; and what the same caller waits while others keep the store busy.
async fn alone() {
    let folder = Folder::new("alone");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut times = Vec::new();
    for n in 0..1000 {
        let start = Instant::now();
        store.accept(vec![new(n)]).await.unwrap();
        times.push(start.elapsed());
    }
    let folder = Folder::new("fdatasync");
    let mut file = File::create(folder.path().join("log")).unwrap();
    let syncs: Vec<Duration> = (0..1000)
        .map(|_| {
            file.write_all(&[b'x'; 4096]).unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    let shown = |times: &[Duration], part| nth(times.iter().copied(), part).as_micros();
    println!(
        "one accept alone: p50 {} µs, p99 {} µs; one fdatasync of 4 KiB: p50 {} µs, p99 {} µs",
        shown(&times, 0.5),
        shown(&times, 0.99),
        shown(&syncs, 0.5),
        shown(&syncs, 0.99)
    );
    // Waits of each call, checkpoints among them.
    let mut times = Vec::new();
    let mut clock = Lap::start();
    for batch in batches(101_000, 100).into_iter().skip(10) {
        let start = Instant::now();
        store.accept(batch).await.unwrap();
        times.push(start.elapsed());
    }
    let (elapsed, cpu) = clock.lap();
    clock = Lap::start();
    store.close().await;
    println!(
        "100000 more in batches of 100: {:.1} / {:.1} µs a message; a call p50 {} µs, p99 {} µs, longest {} µs; close {:?}",
        per(elapsed, 100_000),
        per(cpu, 100_000),
        shown(&times, 0.5),
        shown(&times, 0.99),
        shown(&times, 1.0),
        clock.lap().0
    );
}

/// A queue with many messages that wait: what start-up and the first page cost, and what each further one costs while so many wait.
async fn waiting(messages: u32) {
    let folder = Folder::new("waiting");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut clock = Lap::start();
    for first in 0..messages / 1000 {
        store.accept((first * 1000..(first + 1) * 1000).map(new).collect()).await.unwrap();
    }
    let (elapsed, cpu) = clock.lap();
    println!("accepting {messages}: {elapsed:.1?}, CPU {:.1} µs a message", per(cpu, messages));
    let first = read_all(&store, 4).await;
    store.begin_attempts(begins(&first[..1000]), at(1_000_000)).await.unwrap();
    store.close().await;
    drop(store);
    let size = std::fs::metadata(folder.database()).unwrap().len();
    println!("file: {} MiB, {} octets a message", size >> 20, size / u64::from(messages));

    let mut clock = Lap::start();
    let store = SqliteStore::open(&folder.database()).unwrap();
    let opened = clock.lap().0;
    let begun: Vec<_> = store.interrupted().await.unwrap().iter().map(|interrupted| interrupted.copy.id).collect();
    let interrupted = begun.len();
    store.withdraw(begun).await.unwrap();
    let recovered = clock.lap().0;
    let page = store.due(Cursor::start_of(Priority::Normal), at(2_000_000), PAGE, Vec::new()).await.unwrap();
    println!(
        "open {opened:.1?}, with recovery of {interrupted} {recovered:.1?}, with the first page of {} {:.1?}; {} KiB resident",
        page.copies.len(),
        clock.lap().0,
        resident()
    );
    let drained = 50_000.min(messages / 2);
    let mut lap = Lap::start();
    let copies = read_all(&store, drained as usize / PAGE).await;
    let read = lap.lap();
    let outcome = delivered();
    let mut times = [Vec::new(), Vec::new()];
    lap = Lap::start();
    for batch in copies.chunks(100) {
        let start = Instant::now();
        store.begin_attempts(begins(batch), at(1_000_000)).await.unwrap();
        times[0].push(start.elapsed());
        let settlements = batch.iter().map(|copy| settlement(copy, &outcome, NextStep::Finish, at(1_000_001))).collect();
        let start = Instant::now();
        store.settle(settlements, Haste::Now).await.unwrap();
        times[1].push(start.elapsed());
    }
    let sent = lap.lap();
    let show = |(clock, cpu): Times| format!("{:.1} / {:.1}", per(clock, drained), per(cpu, drained));
    println!("draining {drained} in batches of 100, µs a message: read {}, begin and settle {}", show(read), show(sent));
    for (name, times) in ["begin", "settle"].iter().zip(&times) {
        let shown = |part| nth(times.iter().copied(), part).as_micros();
        println!(
            "  a call of {name}: p50 {} µs, p99 {} µs, longest {} µs; {} KiB resident",
            shown(0.5),
            shown(0.99),
            shown(1.0),
            resident()
        );
    }
    store.close().await;
}

/// Memory in use, from proc(5)'s status.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The ceiling: a kilobyte a message, written and made durable once a batch, three times over.
fn append(messages: u32, batch: u32) -> Duration {
    let folder = Folder::new("append");
    let mut file = File::create(folder.path().join("log")).unwrap();
    let block = vec![b'x'; 1024 * batch as usize];
    let start = Instant::now();
    for _ in 0..3 * (messages / batch) {
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
    }
    start.elapsed()
}

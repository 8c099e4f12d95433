//! What the queue costs: accept, begin and settle of one-recipient messages in batches, beside what the disk does without a database.
//! `cargo bench --bench queue [-- MESSAGES [BATCH]...]`; the database lies in the system's folder for temporary files.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../support/queue.rs"]
mod support;

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use smtp_direct::queue::{NextStep, SqliteStore, Store};
use support::{Folder, at, delivered, ids, message, settlement};

fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<u32>().ok());
    let messages = numbers.next().unwrap_or(30_000);
    let mut batches: Vec<u32> = numbers.collect();
    if batches.is_empty() {
        batches = vec![1, 10, 100];
    }
    println!("{messages} messages of one recipient each; µs a message: time on the clock, and CPU in this process (10 ms ticks)");
    println!("{:>8} {:>18} {:>18} {:>18} {:>12} {:>16}", "batch", "accept", "begin", "settle", "all, CPU", "append+fdatasync");
    for batch in batches {
        let messages = if batch == 1 { messages / 10 } else { messages };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let times = runtime.block_on(run(messages, batch));
        let [accept, begin, settle] = times.map(|(clock, cpu)| format!("{:.1} / {:.1}", per(clock, messages), per(cpu, messages)));
        let cpu: Duration = times.iter().map(|(_, cpu)| *cpu).sum();
        let ceiling = per(append(messages, batch), messages);
        println!("{batch:>8} {accept:>18} {begin:>18} {settle:>18} {:>12.1} {ceiling:>16.1}", per(cpu, messages));
    }
}

fn per(time: Duration, messages: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(messages)
}

/// `batch` messages a call, each step for all messages before the next step.
async fn run(messages: u32, batch: u32) -> [(Duration, Duration); 3] {
    let folder = Folder::new("bench");
    let store = SqliteStore::open(&folder.database()).unwrap();
    let mut copies = Vec::new();
    // Domains as mail has them: many, some of them often.
    let batches: Vec<Vec<_>> = (0..messages / batch)
        .map(|first| {
            let one = |n: u32| message(n, &[&format!("user{n}@domain{}.example", n.wrapping_mul(2_654_435_761) % 5000)]);
            (first * batch..(first + 1) * batch).map(one).collect()
        })
        .collect();
    let mut clock = Lap::start();
    for batch in batches {
        copies.push(store.accept(batch).await.unwrap());
    }
    let accept = clock.lap();
    let batches: Vec<_> = copies.iter().map(|batch| ids(batch)).collect();
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
        finished += store.settle(batch).await.unwrap().len();
    }
    let settle = clock.lap();
    assert_eq!(finished, copies.iter().map(Vec::len).sum::<usize>());
    store.close().await;
    [accept, begin, settle]
}

struct Lap(Instant, Duration);

impl Lap {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn lap(&self) -> (Duration, Duration) {
        (self.0.elapsed(), cpu() - self.1)
    }
}

/// CPU time of this process and its threads: fields 14 and 15 of proc(5)'s stat, in ticks of 1/100 s.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
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

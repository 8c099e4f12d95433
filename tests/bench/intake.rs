//! What intake costs: files of 2 KB with one recipient, renamed into `drop/` at once, until their copies are offered, with the real store;
//! beside what the disk does without a database. `cargo bench --bench intake [-- FILES [RUNS]]`, and `-- million [FILES]` for a `drop/` that
//! is full at the start. The spool lies in the system's folder for temporary files.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../support/measure.rs"]
mod measure;
#[path = "../support/spool.rs"]
mod spool;

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use measure::{Lap, disk_flushes, peak_memory, percentile};
use smtp_direct::clock::SystemClock;
use smtp_direct::message::{Domain, MessageId};
use smtp_direct::queue::SqliteStore;
use smtp_direct::spool::{Intake, IntakeSettings, Layout, Placing, Results};
use spool::TestSpool;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Files whose way is timed one by one.
const SINGLES: usize = 500;
/// Threads of the ceiling: more of them made it no faster.
const THREADS: usize = 32;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let mut numbers = words.iter().filter_map(|word| word.parse::<usize>().ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if words.iter().any(|word| word == "million") {
        runtime.block_on(full_drop(numbers.next().unwrap_or(1_000_000)));
        return;
    }
    let (files, runs) = (numbers.next().unwrap_or(20_000), numbers.next().unwrap_or(5));
    println!("{files} files of {} octets, one recipient each, renamed in at once; {runs} runs", letter(0).len());
    println!("{:>12} {:>14} {:>18} {:>12} {:>8}", "accepted/s", "CPU µs a file", "flushes a file", "ceiling/s", "ratio");
    let mut rows: Vec<[f64; 5]> = (0..runs)
        .map(|_| {
            let row = runtime.block_on(burst(files));
            let ceiling = ceiling(files);
            let row = [row[0], row[1], row[2], ceiling, row[0] / ceiling];
            println!("{:>12.0} {:>14.1} {:>18.3} {:>12.0} {:>8.2}", row[0], row[1], row[2], row[3], row[4]);
            row
        })
        .collect();
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let median = |column: usize| percentile(&mut rows.iter().map(|row| row[column]).collect::<Vec<_>>(), 50);
    let [rate, cpu, flushes, ceiling, ratio] = [0, 1, 2, 3, 4].map(median);
    println!("{rate:>12.0} {cpu:>14.1} {flushes:>18.3} {ceiling:>12.0} {ratio:>8.2}  (medians)");
    let mut singles: Vec<f64> = (0..runs).flat_map(|_| runtime.block_on(singles())).collect();
    println!(
        "one file on an idle intake, from rename to offer: p50 {:.2} ms, p99 {:.2} ms",
        percentile(&mut singles, 50),
        percentile(&mut singles, 99)
    );
}

/// Intake with a queue on the disk, and how many copies it has offered.
struct Running {
    store: Arc<SqliteStore>,
    offers: mpsc::UnboundedReceiver<usize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// Intake's sender of settings: as long as the daemon lives.
    _settings: watch::Sender<Arc<IntakeSettings>>,
}

impl Running {
    fn start(layout: &Layout) -> Self {
        let store = Arc::new(SqliteStore::open(&layout.database()).unwrap());
        let settings = IntakeSettings {
            hostname: Domain::parse("mail.example.org").unwrap(),
            settle: Duration::ZERO,
            rescan: Duration::from_secs(30),
            lifetime: Duration::from_secs(432_000),
            min_free: smtp_direct::config::MinFree::default(),
        };
        let (settings, receiver) = watch::channel(Arc::new(settings));
        let (offer, offers) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let intake = Intake {
            layout: layout.clone(),
            settings: receiver,
            store: store.clone(),
            clock: Arc::new(SystemClock),
            results: Arc::new(Results::new(layout.clone(), false)),
            placing: Arc::new(Placing::in_doubt(layout.clone())),
            offer: Arc::new(move |copies| {
                let _ = offer.send(copies.len());
            }),
            counts: Arc::default(),
            standing: Arc::default(),
        };
        let task = tokio::spawn(async move {
            intake.run(async { drop(stopped.await) }).await.unwrap();
        });
        Self { store, offers, stop, task, _settings: settings }
    }

    /// Waits until so many copies were offered.
    async fn offered(&mut self, mut count: usize) {
        while count > 0 {
            count = count.checked_sub(self.offers.recv().await.unwrap()).unwrap();
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
        self.store.close().await;
    }
}

/// About 2 KB, with the fields that mail has.
fn letter(n: usize) -> String {
    let domain = n.wrapping_mul(2_654_435_761) % 5000;
    let head = format!(
        "Date: Sun, 22 Nov 2026 09:42:50 +0000\r\nFrom: Shop <orders@shop.example.org>\r\nTo: Customer {n} <user{n}@domain{domain}.example>\r\n\
         Subject: Your order {n}\r\nMessage-ID: <order-{n}@shop.example.org>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX-Mailer: bench\r\n\r\n"
    );
    let line = "Thank you for your order; it will be with you within three working days, rain or shine.\r\n";
    format!("{head}{}", line.repeat((2048 - head.len()) / line.len()))
}

/// Builds files in `tmp/`, as writers do; nothing is made durable.
fn build(layout: &Layout, files: std::ops::Range<usize>) {
    for n in files {
        fs::write(layout.tmp().join(format!("{n}.eml")), letter(n)).unwrap();
    }
}

fn rename_in(layout: &Layout, n: usize) {
    let name = format!("{n}.eml");
    fs::rename(layout.tmp().join(&name), layout.drop().join(&name)).unwrap();
}

/// Accepted a second, CPU microseconds and flushes of the disk a file; from the first rename to the last offer.
async fn burst(files: usize) -> [f64; 3] {
    let spool = TestSpool::new();
    let layout = spool.layout();
    let mut running = Running::start(&layout);
    // Past its first listing.
    build(&layout, files..files + 1);
    rename_in(&layout, files);
    running.offered(1).await;
    build(&layout, 0..files);
    let (mut lap, flushes) = (Lap::start(), disk_flushes());
    let writer = tokio::task::spawn_blocking(move || (0..files).for_each(|n| rename_in(&layout, n)));
    running.offered(files).await;
    let (clock, cpu) = lap.lap();
    let flushes = disk_flushes() - flushes;
    writer.await.unwrap();
    running.stop().await;
    let count = files as f64;
    [count / clock.as_secs_f64(), cpu.as_secs_f64() * 1e6 / count, flushes as f64 / count]
}

/// The same files renamed in, then opened, made durable and renamed to their places by plain threads: a second.
fn ceiling(files: usize) -> f64 {
    let spool = TestSpool::new();
    let layout = spool.layout();
    build(&layout, 0..files);
    let places: Vec<_> = (0..files).map(|_| layout.message_file(MessageId::new(smtp_direct::clock::Timestamp::now()))).collect();
    let start = Instant::now();
    (0..files).for_each(|n| rename_in(&layout, n));
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                while let Some((n, place)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, places.get(n)?))) {
                    let dropped = layout.drop().join(format!("{n}.eml"));
                    File::open(&dropped).unwrap().sync_data().unwrap();
                    let _ = fs::create_dir(place.parent().unwrap());
                    fs::rename(dropped, place).unwrap();
                }
            });
        }
    });
    files as f64 / start.elapsed().as_secs_f64()
}

/// Milliseconds from rename to offer, one file after the other.
async fn singles() -> Vec<f64> {
    let spool = TestSpool::new();
    let layout = spool.layout();
    let mut running = Running::start(&layout);
    let mut times = Vec::with_capacity(SINGLES);
    for n in 0..=SINGLES {
        build(&layout, n..n + 1);
        let start = Instant::now();
        rename_in(&layout, n);
        running.offered(1).await;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    running.stop().await;
    // The first one waits for the first listing.
    times.split_off(1)
}

/// Everything is in `drop/` before intake starts: how steadily it is taken, and in how much memory.
async fn full_drop(files: usize) {
    let spool = TestSpool::new();
    let layout = spool.layout();
    println!("{files} files in drop/ before intake starts");
    for n in 0..files {
        fs::write(layout.drop().join(format!("{n}.eml")), letter(n)).unwrap();
    }
    let before = peak_memory();
    let mut running = Running::start(&layout);
    let start = Instant::now();
    let (mut accepted, mut said, mut lap) = (0, 0, Instant::now());
    while accepted < files {
        accepted += running.offers.recv().await.unwrap();
        if accepted - said >= files.div_ceil(10) || accepted == files {
            let rate = (accepted - said) as f64 / lap.elapsed().as_secs_f64();
            println!("{accepted:>9} accepted, {rate:>7.0}/s, peak memory {:.1} MB", peak_memory());
            (said, lap) = (accepted, Instant::now());
        }
    }
    println!(
        "{:.0}/s, peak memory {:.1} MB (before the start: {before:.1} MB)",
        files as f64 / start.elapsed().as_secs_f64(),
        peak_memory()
    );
    running.stop().await;
}

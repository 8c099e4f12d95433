//! What a benchmark can see of itself: time, CPU, memory, and what the disk was asked for.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

/// Time on the clock and CPU since the last lap.
pub struct Lap(Instant, Duration);

impl Lap {
    pub fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    pub fn lap(&mut self) -> (Duration, Duration) {
        let lap = (self.0.elapsed(), cpu() - self.1);
        *self = Self::start();
        lap
    }
}

/// CPU time of this process and its threads: fields 14 and 15 of proc(5)'s stat, in ticks of 1/100 s.
pub fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

/// The most memory that this process ever had resident, in MB (VmHWM of proc(5)'s status).
pub fn peak_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Flushes of all disks so far, whoever asked for them: field 16 of the kernel's diskstats, behind the three that name the disk.
pub fn disk_flushes() -> u64 {
    let stats = fs::read_to_string("/proc/diskstats").unwrap();
    stats.lines().filter_map(|line| line.split_whitespace().nth(18)?.parse::<u64>().ok()).sum()
}

/// Sorts `values`; the one below which `percent` of them lie.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

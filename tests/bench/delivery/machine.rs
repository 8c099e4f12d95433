//! Where and with what it was measured: the first lines of the table.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Today, the processor, the kernel and the file system, in one line of text.
pub fn describe(directory: &Path) -> String {
    let date = jiff_date();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> =
        info.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model)).collect();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    format!(
        "{date}; {} × {}; {} GiB; Linux {}; queues on {}; fdatasync of a small append takes {:.0} µs",
        models.len(),
        models.first().unwrap_or(&"?"),
        memory.unwrap_or(0) / 1_000_000,
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        file_system(directory),
        sync_micros(directory),
    )
}

/// Its kind, and the one option that costs time with each file that is removed: its blocks are given back to the device at once.
fn file_system(directory: &Path) -> String {
    let directory = directory.display().to_string();
    let found = |column| said("findmnt", &["-n", "-o", column, "-T", &directory]);
    let discards = found("OPTIONS").split(',').any(|option| option == "discard");
    found("FSTYPE") + if discards { " (mounted with discard)" } else { "" }
}

/// The first line that a command prints; empty when it cannot be run.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|done| done.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
}

fn jiff_date() -> String {
    let now = smtp_direct::clock::Timestamp::now().to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

/// What a commit costs at least: a disk that answers from its cache makes every figure look better.
fn sync_micros(directory: &Path) -> f64 {
    use std::io::Write;
    const COUNT: u32 = 200;
    let path = directory.join("sync");
    let mut file = fs::File::create(&path).unwrap();
    let start = std::time::Instant::now();
    for _ in 0..COUNT {
        file.write_all(&[b'x'; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    let taken = start.elapsed() / COUNT;
    let _ = fs::remove_file(path);
    taken.as_secs_f64() * 1e6
}

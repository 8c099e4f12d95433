//! Processes: started so that they end with the driver whatever happens to it, and what they have cost.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child process; killed when dropped.
pub struct Process {
    child: Child,
    name: String,
}

/// What a process and its descendants have cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// User and system time, of ended children too.
    pub cpu: Duration,
    /// The most that was resident, in octets; of several processes the sum, with what they share counted for each.
    pub peak: u64,
}

impl Process {
    /// Starts it. Through setpriv, which has the system kill it when the driver's thread ends, by Ctrl-C for instance.
    pub fn start(program: &Path, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Result<Self, String> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments).stdin(Stdio::null());
        prepare(&mut command);
        let name = program.display().to_string();
        let child = command.spawn().map_err(|error| format!("starting {name} by setpriv (util-linux): {error}"))?;
        Ok(Self { child, name })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended: {status}", self.name)),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// SIGTERM, and what is left after `grace` is killed.
    pub fn stop(self, grace: Duration) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        self.wait(grace);
    }

    /// Waits for its end; what is left after `grace` is killed.
    pub fn wait(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cost {
    /// Of process `root` and all below it. Exact to the clock tick (10 ms) of each process, as long as every ended process was waited for
    /// by one that still runs.
    pub fn of(root: u32) -> Self {
        let stats: HashMap<u32, Stat> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|id| Some((id, Stat::of(id)?)))
            .collect();
        let below = |mut id: u32| {
            while id != root {
                match stats.get(&id) {
                    Some(stat) => id = stat.parent,
                    None => return false,
                }
            }
            true
        };
        let own: Vec<_> = stats.iter().filter(|(id, _)| below(**id)).collect();
        let ticks: u64 = own.iter().map(|(_, stat)| stat.ticks).sum();
        Self { cpu: Duration::from_millis(ticks * 10), peak: own.iter().filter_map(|(id, _)| peak(**id)).sum() }
    }

    /// The same, once nothing is done any more: what follows the last delivery, such as marking messages as finished, is part of the work.
    /// Waits for a quarter of a second without a tick, at most for ten seconds.
    pub fn at_rest(root: u32) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = Self::of(root);
        loop {
            std::thread::sleep(Duration::from_millis(250));
            let now = Self::of(root);
            if now.cpu == last.cpu || Instant::now() > deadline {
                return now;
            }
            last = now;
        }
    }
}

struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    /// proc(5): after the name in brackets, the 2nd field is the parent; 12th to 15th are utime, stime, cutime and cstime.
    fn of(id: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

fn peak(id: u32) -> Option<u64> {
    status_octets(id, "VmHWM:")
}

/// A size in /proc/ID/status, in octets.
pub fn status_octets(id: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// CPU time of the calling thread.
pub fn own_thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

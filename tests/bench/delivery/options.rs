//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::scenarios::Scenario;

/// Measures smtp-direct beside other mail servers and beside a client with nothing behind it.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench delivery --")]
pub struct Options {
    /// Scenarios; none: all of them.
    #[arg(value_enum)]
    pub scenarios: Vec<Scenario>,
    /// A tenth of the messages, and each case once.
    #[arg(long)]
    pub quick: bool,
    /// Beside Postfix and OpenSMTPD, fetched by tests/interop/setup.sh. Root on a Debian machine.
    #[arg(long)]
    pub peers: bool,
    /// Each case so often; medians are printed.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Messages of drain and end-to-end.
    #[arg(long, default_value_t = 20_000)]
    pub messages: usize,
    /// Messages of the long queue; 1000000 takes some minutes and 5 GB.
    #[arg(long, default_value_t = 100_000)]
    pub million: usize,
    /// Writes the table there too.
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Where spools and queues lie: on the disk that is meant. Default: below target/.
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// No step takes longer, in seconds.
    #[arg(long, default_value_t = 600)]
    pub limit: u64,
    /// What cargo adds.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    pub fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    pub fn scenarios(&self) -> Vec<Scenario> {
        if self.scenarios.is_empty() { Scenario::ALL.to_vec() } else { self.scenarios.clone() }
    }
}

//! What delivery costs: smtp-direct beside Postfix and OpenSMTPD with the same messages and the same sink, and beside a client with
//! nothing behind it. `cargo bench --bench delivery [-- SCENARIO... --peers --quick]`; a Markdown table on standard output.
//!
//! `SMTP_DIRECT` names another binary than the one that cargo builds for this.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod client;
mod daemon;
mod letters;
mod machine;
mod mta;
mod options;
mod peers;
mod process;
mod scenarios;
mod sink;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use client::Client;
use daemon::SmtpDirect;
use letters::Letters;
use mta::Mta;
use options::Options;
use peers::{Fetched, Kind, Peer};
use scenarios::{Case, Figures, Scenario};
use sink::{Event, Sink};
use table::{CEILING, Measured, OWN, Row};

fn main() -> ExitCode {
    match Bench::new(Options::parse()).and_then(|bench| bench.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("delivery: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a run's folder is called, before its process id: two may run at a time.
const FOLDER: &str = "bench-delivery-";

struct Bench {
    options: Options,
    binary: PathBuf,
    /// This run's folder.
    home: PathBuf,
    peers: Option<Fetched>,
    knows_window: bool,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Own,
    Peer(Kind),
    Ceiling,
}

impl Bench {
    fn new(options: Options) -> Result<Self, String> {
        let binary = std::env::var_os("SMTP_DIRECT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_smtp-direct")), PathBuf::from);
        let binary = fs::canonicalize(&binary).map_err(|_| format!("{} is missing: SMTP_DIRECT names no program", binary.display()))?;
        let below = options.directory.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
        sweep(&below);
        let home = below.join(format!("{FOLDER}{}", std::process::id()));
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let peers = options.peers.then(peers::fetch).transpose()?;
        let knows_window = SmtpDirect::knows(&binary, &home, "window = 8");
        Ok(Self { options, binary, home, peers, knows_window })
    }

    /// Prints the table; of what was measured, where something fails.
    fn run(&self) -> Result<(), String> {
        let mut measured = Vec::new();
        let outcome =
            self.options.scenarios().into_iter().flat_map(|scenario| cases::cases(scenario, &self.options)).try_for_each(|case| {
                measured.push(self.measure(case)?);
                Ok(())
            });
        let text = format!("{}\n{}", self.heading(), table::markdown(&measured));
        println!("{text}");
        if let Some(path) = &self.options.output {
            fs::write(path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        outcome
    }

    fn measure(&self, case: Case) -> Result<Measured, String> {
        let mut everyone = vec![Who::Own];
        if case.peers && self.peers.is_some() {
            everyone.extend(Kind::ALL.map(Who::Peer));
        }
        everyone.extend(case.ceiling.map(|_| Who::Ceiling));
        let mut figures = vec![Vec::new(); everyone.len()];
        // In turn, so that a change of the machine's pace meets everyone.
        for run in 1..=self.options.runs() {
            for (who, runs) in everyone.iter().zip(&mut figures) {
                let name = format!("{}, {}: {}", case.scenario.title(), case.label, name(*who));
                let brought = self.once(*who, &case).map_err(|error| format!("{name}: {error}"))?;
                eprintln!("delivery: {name}, run {run}: {}", in_short(&case, &brought));
                runs.push(brought);
            }
        }
        let row = |(who, runs): (&Who, &Vec<Figures>)| Row { who: name(*who), note: note(*who, &case), figures: table::median(runs) };
        let rows = everyone.iter().zip(&figures).map(row).collect();
        Ok(Measured { case, rows })
    }

    /// One run with a sink, and a queue, of its own.
    fn once(&self, who: Who, case: &Case) -> Result<Figures, String> {
        let home = self.home.join("run");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let limit = self.options.limit();
        let letters = &letters(who, case);
        let sink = Sink::start(case.offer, letters.count, letters.sites);
        match who {
            Who::Own => {
                let window = case.window.filter(|_| self.knows_window).map(|window| format!("window = {window}")).unwrap_or_default();
                let sending = if case.keeps_sessions { "" } else { "keep_idle = \"0s\"" };
                let mut mta = SmtpDirect::new(&self.binary, &home, sink.addresses(), sending, &window);
                if case.scenario == Scenario::Million {
                    let database = mta.database();
                    let size = move || fs::metadata(&database).map_or(0, |found| found.len());
                    return scenarios::million(&mut mta, &sink, letters, size, limit);
                }
                self.play(&mut mta, &sink, case, letters)
            }
            Who::Peer(kind) => {
                let fetched = self.peers.as_ref().ok_or("--peers is not given")?;
                self.play(&mut Peer::new(kind, fetched, &home, sink.address(0), limit), &sink, case, letters)
            }
            Who::Ceiling => {
                let style = case.ceiling.ok_or("no ceiling")?;
                let cpu = Client::ceiling(sink.address(0), style).send(letters, limit)?;
                sink.wait(Event::Complete, limit)?;
                sink.tally().check()?;
                Ok(Figures::of_client(&sink, cpu))
            }
        }
    }

    fn play(&self, mta: &mut dyn Mta, sink: &Sink, case: &Case, letters: &Letters) -> Result<Figures, String> {
        let limit = self.options.limit();
        let scenario = match case.scenario {
            Scenario::EndToEnd => scenarios::end_to_end,
            Scenario::Latency => scenarios::latency,
            Scenario::Drain | Scenario::Large | Scenario::Million | Scenario::Rtt => scenarios::drain,
        };
        scenario(mta, sink, letters, limit)
    }

    fn heading(&self) -> String {
        let version = machine::said(&self.binary.display().to_string(), &["--version"]);
        let revision = machine::said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
        let revision =
            if std::env::var_os("SMTP_DIRECT").is_some() { format!("given by SMTP_DIRECT; benchmark {revision}") } else { revision };
        let peers = self.peers.as_ref().map(|fetched| format!(", {}", fetched.versions)).unwrap_or_default();
        let mut text = format!("{}. {version} ({revision}){peers}. ", machine::describe(&self.home));
        text += &format!("Sink, clients and servers share the machine. Medians of {} run(s).", self.options.runs());
        if !self.knows_window {
            text += " This binary does not know `smtp.window`: those cases are run without it.";
        }
        text
    }
}

/// The messages of a case for this one: enough of them that a rate can be measured, and not so many that it takes hours.
fn letters(who: Who, case: &Case) -> Letters {
    let count = case.letters.count;
    match who {
        Who::Own | Who::Peer(Kind::Postfix) => case.letters,
        // 7 ms a message in its queue, a second a message one at a time.
        Who::Peer(Kind::OpenSmtpd) if count > 2000 => Letters { count: count / 10, ..case.letters },
        Who::Peer(Kind::OpenSmtpd) => Letters { count: count.min(20).max(count / 4), ..case.letters },
        Who::Ceiling => case.for_ceiling(),
    }
}

/// Says so in the table, where a peer has fewer than the others.
fn note(who: Who, case: &Case) -> String {
    let count = letters(who, case).count;
    if who == Who::Ceiling || count == case.letters.count { String::new() } else { format!(" ({} messages)", table::number(count as f64)) }
}

/// Removes what interrupted runs left.
fn sweep(below: &Path) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(FOLDER));
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn name(who: Who) -> &'static str {
    match who {
        Who::Own => OWN,
        Who::Peer(kind) => kind.name(),
        Who::Ceiling => CEILING,
    }
}

/// For the line of progress.
fn in_short(case: &Case, figures: &Figures) -> String {
    match case.scenario {
        Scenario::Latency => format!("p50 {:.1} ms, p99 {:.1} ms", figures.p50, figures.p99),
        Scenario::Million => format!("first delivery after {:.2} s, {:.0} MiB resident", figures.first, figures.peak / f64::from(1 << 20)),
        _ => format!(
            "{:.0} messages/s, CPU {:.3} ms, {:.2} turns a message, {} connections",
            figures.rate(),
            figures.cpu / figures.messages,
            figures.turns / figures.messages,
            figures.connections
        ),
    }
}

//! Takes the figures of all runs, hands on Markdown.

use std::fmt::Write;

use crate::scenarios::{Case, Figures, Scenario};

/// Who was measured in a case, in the order of the table.
pub struct Row {
    pub who: &'static str,
    /// What was different for this one, if anything was.
    pub note: String,
    pub figures: Figures,
}

/// One case with its rows: smtp-direct first, then the peers, the ceiling last.
pub struct Measured {
    pub case: Case,
    pub rows: Vec<Row>,
}

/// The rows that are compared with.
pub const OWN: &str = "smtp-direct";
pub const CEILING: &str = "bare client";

/// Each figure's median.
pub fn median(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
    };
    Figures {
        seconds: of(|f| f.seconds),
        messages: of(|f| f.messages),
        cpu: of(|f| f.cpu),
        connections: of(|f| f.connections),
        turns: of(|f| f.turns),
        peak: of(|f| f.peak),
        p50: of(|f| f.p50),
        p99: of(|f| f.p99),
        first: of(|f| f.first),
        disk: of(|f| f.disk),
    }
}

/// A table a scenario.
pub fn markdown(measured: &[Measured]) -> String {
    let mut text = String::new();
    for scenario in Scenario::ALL {
        let cases: Vec<&Measured> = measured.iter().filter(|one| one.case.scenario == scenario).collect();
        if cases.is_empty() {
            continue;
        }
        let columns = columns(scenario);
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "\n**{}**: {}\n", scenario.title(), explained(scenario));
        let _ = writeln!(text, "| case | who | {} |", names.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "--:|".repeat(columns.len()));
        for one in cases {
            for row in &one.rows {
                let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(one, row)).collect();
                let _ = writeln!(text, "| {} | {}{} | {} |", one.case.label, row.who, row.note, cells.join(" | "));
            }
        }
    }
    text
}

fn explained(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Drain => "a full queue of 2 KB messages, from the first MAIL to the last delivery; 10 connections",
        Scenario::EndToEnd => {
            "2 KB messages handed in at once (smtp-direct: renamed in; others: over SMTP on 10 connections), to the last delivery"
        }
        Scenario::Latency => "one message at a time, from rename(2) or the end of DATA to the final dot at the sink",
        Scenario::Large => "a full queue of large messages, from the first MAIL to the last delivery; 10 connections",
        Scenario::Million => "a long queue: from the start of the daemon to the first delivery, and memory while sending",
        Scenario::Rtt => "as drain, with a sink that answers later by this time; 10 connections",
    }
}

type Column = (&'static str, fn(&Measured, &Row) -> String);

fn columns(scenario: Scenario) -> Vec<Column> {
    let rate: Column = ("messages/s", |_, row| number(row.figures.rate()));
    let cpu: Column = ("CPU ms a message", |_, row| format!("{:.3}", row.figures.cpu / row.figures.messages));
    let connections: Column = ("connections", |_, row| number(row.figures.connections));
    let turns: Column = ("turns a message", |_, row| format!("{:.2}", row.figures.turns / row.figures.messages));
    let peak: Column = ("peak RSS, MiB", |_, row| memory(row));
    let peers: Column = ("rate (CPU) beside peers", beside_peers);
    let ceiling: Column = ("of the ceiling", of_ceiling);
    match scenario {
        Scenario::Drain | Scenario::Rtt => vec![rate, cpu, connections, turns, peak, peers, ceiling],
        Scenario::EndToEnd => vec![rate, cpu, connections, peak, peers],
        Scenario::Latency => vec![
            ("p50, ms", |_, row| format!("{:.1}", row.figures.p50)),
            ("p99, ms", |_, row| format!("{:.1}", row.figures.p99)),
            cpu,
            ("p50 beside peers", |one, row| ratios(one, row, |own, peer| format!("{:.3}×", own.p50 / peer.p50))),
        ],
        Scenario::Large => vec![
            ("MB/s", |one, row| number(megabytes(one, row) / row.figures.seconds)),
            ("CPU ms a MB", |one, row| format!("{:.2}", row.figures.cpu / megabytes(one, row))),
            connections,
            peak,
            peers,
            ceiling,
        ],
        Scenario::Million => vec![
            ("start to first delivery, s", |_, row| format!("{:.2}", row.figures.first)),
            ("peak RSS, MiB", |_, row| memory(row)),
            ("state.db, MiB", |_, row| format!("{:.0}", row.figures.disk / f64::from(1 << 20))),
            ("sent", |_, row| number(row.figures.messages)),
            rate,
        ],
    }
}

fn megabytes(one: &Measured, row: &Row) -> f64 {
    row.figures.messages * one.case.letters.size as f64 / 1e6
}

fn memory(row: &Row) -> String {
    if row.who == CEILING { String::new() } else { format!("{:.0}", row.figures.peak / f64::from(1 << 20)) }
}

fn beside_peers(one: &Measured, row: &Row) -> String {
    ratios(one, row, |own, peer| {
        format!("{:.1}× ({:.2}×)", own.rate() / peer.rate(), (own.cpu / own.messages) / (peer.cpu / peer.messages))
    })
}

/// smtp-direct's own row against each peer's.
fn ratios(one: &Measured, row: &Row, ratio: impl Fn(&Figures, &Figures) -> String) -> String {
    if row.who != OWN {
        return String::new();
    }
    let peers = one.rows.iter().filter(|other| other.who != OWN && other.who != CEILING);
    peers.map(|peer| format!("{} {}", peer.who, ratio(&row.figures, &peer.figures))).collect::<Vec<_>>().join(", ")
}

fn of_ceiling(one: &Measured, row: &Row) -> String {
    match one.rows.iter().find(|other| other.who == CEILING) {
        Some(ceiling) if row.who != CEILING => format!("{:.0} %", 100.0 * row.figures.rate() / ceiling.figures.rate()),
        _ => String::new(),
    }
}

/// Three digits, and thousands with a comma.
pub fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

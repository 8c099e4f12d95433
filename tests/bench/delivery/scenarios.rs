//! The scenarios: each takes messages and an MTA, hands on figures.

use std::time::{Duration, Instant};

use crate::client::Style;
use crate::letters::Letters;
use crate::mta::Mta;
use crate::process::Cost;
use crate::sink::{Event, Offer, Sink};

/// What is measured, and with what.
#[derive(Debug, Clone)]
pub struct Case {
    pub scenario: Scenario,
    /// What tells it from the scenario's other cases.
    pub label: String,
    pub letters: Letters,
    pub offer: Offer,
    /// What the bare client does in its place; `None`: there is no ceiling.
    pub ceiling: Option<Style>,
    /// `smtp.window`, where it is not the default.
    pub window: Option<usize>,
    /// Sessions wait for the next message.
    pub keeps_sessions: bool,
    /// Whether the peers run it too.
    pub peers: bool,
}

impl Case {
    /// The bare client's messages: so many that what it does can be measured.
    pub fn for_ceiling(&self) -> Letters {
        let enough = if self.offer.delay.is_zero() { 50_000_000 / self.letters.size } else { 0 };
        Letters { count: self.letters.count.max(enough), ..self.letters }
    }
}

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scenario {
    /// A queue that is there already is sent.
    Drain,
    /// From being handed in to the last delivery.
    EndToEnd,
    /// One message at a time, from being handed in to its final dot at the sink.
    Latency,
    /// A queue of large messages is sent.
    Large,
    /// A long queue: memory, time to the first delivery, size on disk.
    Million,
    /// A queue is sent to a sink that is far away.
    Rtt,
}

impl Scenario {
    pub const ALL: [Self; 6] = [Self::Drain, Self::EndToEnd, Self::Latency, Self::Large, Self::Million, Self::Rtt];

    pub fn title(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::EndToEnd => "end-to-end",
            Self::Latency => "latency",
            Self::Large => "large",
            Self::Million => "million",
            Self::Rtt => "rtt",
        }
    }
}

/// What one run brought.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub seconds: f64,
    pub messages: f64,
    /// Milliseconds.
    pub cpu: f64,
    pub connections: f64,
    pub turns: f64,
    /// Octets.
    pub peak: f64,
    /// Latency, milliseconds.
    pub p50: f64,
    pub p99: f64,
    /// From the start to the first message's end, seconds.
    pub first: f64,
    /// Of the database, octets.
    pub disk: f64,
}

impl Figures {
    pub fn rate(&self) -> f64 {
        self.messages / self.seconds
    }

    /// Of the bare client, whose memory says nothing.
    pub fn of_client(sink: &Sink, cpu: Duration) -> Self {
        Self::of(sink, sink.tally().elapsed(), cpu, 0)
    }

    fn of(sink: &Sink, elapsed: Duration, cpu: Duration, peak: u64) -> Self {
        let tally = sink.tally();
        Self {
            seconds: elapsed.as_secs_f64(),
            messages: tally.delivered() as f64,
            cpu: cpu.as_secs_f64() * 1e3,
            connections: tally.connections() as f64,
            turns: tally.turn_count() as f64,
            peak: peak as f64,
            ..Self::default()
        }
    }
}

/// A queue is there; from the first MAIL to the last message's end.
pub fn drain(mta: &mut dyn Mta, sink: &Sink, letters: &Letters, limit: Duration) -> Result<Figures, String> {
    mta.fill(letters)?;
    mta.release()?;
    wait(mta, sink, Event::FirstMail, limit)?;
    let before = mta.cost()?;
    wait(mta, sink, Event::Complete, limit)?;
    finish(mta, sink, sink.tally().elapsed(), before)
}

/// From the moment at which the first message is handed in.
pub fn end_to_end(mta: &mut dyn Mta, sink: &Sink, letters: &Letters, limit: Duration) -> Result<Figures, String> {
    mta.start()?;
    mta.prepare(letters)?;
    let before = Cost::at_rest(mta.root()?);
    let start = Instant::now();
    mta.submit(letters)?;
    wait(mta, sink, Event::Complete, limit)?;
    finish(mta, sink, sink.tally().last() - start, before)
}

/// One at a time; each once the one before has come to rest.
pub fn latency(mta: &mut dyn Mta, sink: &Sink, letters: &Letters, limit: Duration) -> Result<Figures, String> {
    mta.start()?;
    mta.prepare(letters)?;
    sink.tally().tell_each();
    let before = Cost::at_rest(mta.root()?);
    let mut times = Vec::with_capacity(letters.count);
    for n in 0..letters.count {
        let start = mta.submit_one(letters, n)?;
        wait(mta, sink, Event::Message, limit)?;
        let arrival = sink.tally().arrival(n).ok_or_else(|| format!("message {n} did not come, another did"))?;
        times.push(arrival.saturating_duration_since(start));
        // An idle daemon is what is asked: its books are closed, its session is.
        std::thread::sleep(Duration::from_millis(30));
    }
    let mut figures = finish(mta, sink, times.iter().sum(), before)?;
    times.sort();
    let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1].as_secs_f64() * 1e3;
    (figures.p50, figures.p99) = (at(0.5), at(0.99));
    Ok(figures)
}

/// What a long queue takes; a part of it is sent.
pub fn million(mta: &mut dyn Mta, sink: &Sink, letters: &Letters, disk: impl Fn() -> u64, limit: Duration) -> Result<Figures, String> {
    mta.fill(letters)?;
    let disk = disk() as f64;
    let start = Instant::now();
    mta.release()?;
    wait(mta, sink, Event::FirstMessage, limit)?;
    let first = start.elapsed().as_secs_f64();
    let before = mta.cost()?;
    // Either is fine: all sent, or sending for a while.
    let sending = Duration::from_secs(30).min(limit);
    let _ = sink.wait(Event::Complete, sending);
    let after = mta.cost()?;
    sink.tally().check_so_far()?;
    let figures = Figures::of(sink, sink.tally().elapsed(), after.cpu - before.cpu, after.peak);
    Ok(Figures { first, disk, ..figures })
}

fn finish(mta: &mut dyn Mta, sink: &Sink, elapsed: Duration, before: Cost) -> Result<Figures, String> {
    let after = Cost::at_rest(mta.root()?);
    sink.tally().check()?;
    Ok(Figures::of(sink, elapsed, after.cpu.saturating_sub(before.cpu), after.peak))
}

/// Waits for this event; not for a server that has ended.
fn wait(mta: &mut dyn Mta, sink: &Sink, event: Event, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match sink.wait(event, left.min(Duration::from_secs(1))) {
            Ok(()) => return Ok(()),
            Err(error) if left.is_zero() => return Err(format!("{error}; waited {limit:?}")),
            Err(error) => mta.root().map(drop).map_err(|gone| format!("{error}; {gone}"))?,
        }
    }
}

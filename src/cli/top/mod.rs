//! `smtp-direct top`: takes what the control socket tells each second, hands on a live view on the terminal. Changes nothing.

mod model;
#[cfg(test)]
mod snapshots;
mod view;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::model::{Fetched, Model, Order, Round};
use super::exit;
use crate::control::client::{Client, ClientError};
use crate::control::{Outcomes, Sites, Status};

/// How long a key may lie before it is looked at while nothing else happens, and a signal.
const TICK: Duration = Duration::from_millis(100);
/// Lines of a page.
const PAGE: isize = 10;

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Time between two looks at the daemon
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = crate::config::parse_span(text).map_err(|error| error.to_string())?;
    let sensible = Duration::from_millis(200)..=Duration::from_secs(3600);
    if sensible.contains(&interval) { Ok(interval) } else { Err("write 200ms to 1h".to_owned()) }
}

/// Shows it until a key or a signal ends it. Without a daemon: 75, as with all commands that need one.
pub(super) fn run(args: &TopArgs, client: Client, runtime: Runtime, err: &mut dyn Write) -> io::Result<ExitCode> {
    let mut source = Source { client, started_at: String::new(), seen: 0 };
    let first = match source.fetch() {
        Ok(first) => first,
        Err(error) => {
            writeln!(err, "smtp-direct: {error}")?;
            return Ok(ExitCode::from(match error {
                ClientError::Denied { .. } => exit::NOPERM,
                ClientError::Down { .. } | ClientError::Broken { .. } | ClientError::Refused { .. } => exit::TEMPFAIL,
            }));
        }
    };
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        writeln!(err, "smtp-direct: top is for a terminal")?;
        return Ok(ExitCode::from(exit::USAGE));
    }
    let ended = Arc::new(AtomicBool::new(false));
    watch_signals(&runtime, ended.clone())?;
    let (sender, rounds) = channel();
    let interval = args.interval;
    runtime.spawn_blocking(move || ask(source, interval, &sender));
    // From here to `restore` the terminal is not the user's: a panic's hook, which this sets, restores it as well.
    let shown = ratatui::try_init().and_then(|mut terminal| show(&mut terminal, Model::new(first), &rounds, &ended));
    let restored = ratatui::try_restore();
    // A daemon that keeps its answer to itself must not keep the user.
    runtime.shutdown_background();
    shown.and_then(|code| restored.map(|()| code))
}

/// SIGTERM and SIGHUP end the view as its key does, and so restore the terminal; Ctrl-C is a key in raw mode, and a signal from elsewhere.
fn watch_signals(runtime: &Runtime, ended: Arc<AtomicBool>) -> io::Result<()> {
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()] {
        let (mut signal, ended) = (signal(kind)?, ended.clone());
        runtime.spawn(async move {
            if signal.recv().await.is_some() {
                ended.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

/// Where the view's numbers come from.
struct Source {
    client: Client,
    /// Of the daemon that `seen` is of.
    started_at: String,
    /// The last outcome that was fetched.
    seen: u64,
}

impl Source {
    fn fetch(&mut self) -> Result<Fetched, ClientError> {
        let status: Status = self.client.get("/v1/status")?;
        if status.started_at != self.started_at {
            self.started_at.clone_from(&status.started_at);
            self.seen = 0;
        }
        let Sites { sites } = self.client.get("/v1/sites")?;
        let Outcomes { outcomes } = self.client.get(&format!("/v1/outcomes/recent?after={}", self.seen))?;
        self.seen = outcomes.last().map_or(self.seen, |last| last.number);
        Ok(Fetched { status, sites, outcomes })
    }
}

/// Round after round, until nobody wants to know any more.
fn ask(mut source: Source, interval: Duration, rounds: &Sender<Round>) {
    loop {
        thread::sleep(interval);
        let round = match source.fetch() {
            Ok(fetched) => Round::Answered(Box::new(fetched)),
            Err(error) => Round::Lost(error.to_string()),
        };
        if rounds.send(round).is_err() {
            return;
        }
    }
}

fn show(terminal: &mut DefaultTerminal, mut model: Model, rounds: &Receiver<Round>, ended: &AtomicBool) -> io::Result<ExitCode> {
    let mut stale = true;
    while !ended.load(Ordering::Relaxed) {
        loop {
            match rounds.try_recv() {
                Ok(round) => {
                    model.take(round);
                    stale = true;
                }
                Err(TryRecvError::Empty) => break,
                // Whoever asks has panicked, and its hook has restored the terminal.
                Err(TryRecvError::Disconnected) => return Ok(ExitCode::from(exit::SOFTWARE)),
            }
        }
        // Over a slow line, nothing is sent that has not changed.
        if stale {
            terminal.draw(|frame| view::draw(&mut model, frame))?;
            stale = false;
        }
        if !event::poll(TICK)? {
            continue;
        }
        stale = true;
        if let Event::Key(key) = event::read()?
            && let Some(order) = order(key)
        {
            if order == Order::Quit {
                break;
            }
            model.obey(order);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn order(key: KeyEvent) -> Option<Order> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Order::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Order::Quit),
        KeyCode::Char('s') => Some(Order::Sort),
        KeyCode::Down => Some(Order::Scroll(1)),
        KeyCode::Up => Some(Order::Scroll(-1)),
        KeyCode::PageDown => Some(Order::Scroll(PAGE)),
        KeyCode::PageUp => Some(Order::Scroll(-PAGE)),
        KeyCode::Home => Some(Order::Top),
        KeyCode::End => Some(Order::Bottom),
        _ => None,
    }
}

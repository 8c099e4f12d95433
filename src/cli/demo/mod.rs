//! `demo`: a daemon and a receiver on loopback in a temporary spool; sample messages, live events, and a table of what came of them.
//!
//! The daemon is the real one, the receiver is [`super::sink`]'s, and what is shown are the daemon's own log events. The exit code says
//! whether the receiver got exactly what it should have.

mod hosts;
mod samples;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstyle::AnsiColor;
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::hosts::Hosts;
use super::exit;
use super::sink::Sink;
use super::table::{self, Table};
use crate::config::{Action, Config, Server};
use crate::daemon::{self, World};
use crate::message::ReversePath;
use crate::observe::tap::{Seen, Tap};
use crate::outcome::Kind;
use crate::queue::{HistoryFilter, HistoryRow, Inspect, SqliteInspect};
use crate::spool::Layout;

/// The demonstration ends by itself within this, whatever happens.
const LIMIT: Duration = Duration::from_secs(9);

/// Runs it.
pub async fn run(out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitCode> {
    let directory = Temporary::new()?;
    let layout = Layout::new(&directory.0);
    layout.create().map_err(io::Error::other)?;
    let sink = Sink::bind((Ipv4Addr::LOCALHOST, 0).into()).await?;
    let address = sink.local_addr()?;
    let hosts = Arc::new(Hosts::default());
    let config = match config(&directory.0, address) {
        Ok(config) => config,
        Err(errors) => {
            writeln!(err, "{errors}")?;
            return Ok(ExitCode::from(exit::SOFTWARE));
        }
    };
    let (sender, events) = mpsc::unbounded_channel();
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), tracing::Level::INFO);
    tracing_subscriber::registry().with(own).with(Tap(sender)).try_init().map_err(io::Error::other)?;

    writeln!(out, "A daemon and a receiver ({address}) on loopback, for some seconds; nothing leaves this machine.")?;
    writeln!(out, "Spool: {}\n", directory.0.display())?;
    let (stop_daemon, daemon_stops) = oneshot::channel::<()>();
    let (stop_sink, sink_stops) = oneshot::channel::<()>();
    let (_reloads, receiver) = mpsc::channel(1);
    let daemon = daemon::run(config, World::default(), receiver, ended(daemon_stops));
    let receiving = sink.run(hosts.clone(), ended(sink_stops));
    let showing = async {
        let shown = show(events, &layout, out).await;
        // Whoever is gone by now has ended by itself, which the daemon's own result tells.
        let _ = stop_daemon.send(());
        shown
    };
    let both = async {
        let ended = tokio::join!(daemon, showing);
        let _ = stop_sink.send(());
        ended
    };
    let ((daemon, shown), ()) = tokio::join!(both, receiving);
    if let Err(error) = daemon {
        writeln!(err, "smtp-direct: {error}")?;
        return Ok(ExitCode::FAILURE);
    }
    shown?;

    let history = SqliteInspect::open(&layout.database()).and_then(|database| database.history(&HistoryFilter::default()));
    summary(&mut history.map_err(io::Error::other)?, out)?;
    let complaints = hosts.complaints();
    if complaints.is_empty() {
        writeln!(out, "\nEverything went as it should: {} transactions, each copy arrived exactly once.", hosts.transactions())?;
        return Ok(ExitCode::SUCCESS);
    }
    for complaint in complaints {
        writeln!(err, "not as it should be: {complaint}")?;
    }
    Ok(ExitCode::FAILURE)
}

/// `config/demo.toml`, with the spool and the receiver of this run in place of its own.
fn config(spool: &std::path::Path, receiver: SocketAddr) -> Result<Config, crate::config::ConfigErrors> {
    let mut config = Config::parse(include_str!("../../../config/demo.toml"), spool, "demo.toml")?;
    spool.clone_into(&mut config.spool.path);
    config.control = crate::config::Control::default_for(spool);
    for rule in &mut config.dns.overrides {
        if let Action::Send { server, .. } = &mut rule.action {
            *server = Server::Host { host: receiver.ip().to_string().into(), port: receiver.port() };
        }
    }
    Ok(config)
}

/// Drops the samples once the daemon runs, and shows what happens to each copy until all are finished.
async fn show(mut events: mpsc::UnboundedReceiver<Seen>, layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let began = Instant::now();
    let mut finished = 0;
    while finished < samples::EXPECTED_FINISHED {
        let Ok(Some(event)) = tokio::time::timeout(LIMIT.saturating_sub(began.elapsed()), events.recv()).await else {
            writeln!(out, "… and that is all that happened within {} seconds.", LIMIT.as_secs())?;
            return Ok(());
        };
        if event.verb == "started" {
            samples::drop_all(layout)?;
        }
        finished += usize::from(event.verb == "finished");
        line(&event, began.elapsed(), out)?;
    }
    Ok(())
}

/// One event as one line.
fn line(event: &Seen, at: Duration, out: &mut dyn Write) -> io::Result<()> {
    let field = |name| event.field(name);
    let (style, text) = match event.verb.as_str() {
        "accepted" => {
            let from = if field("from").is_empty() { "<>" } else { field("from") };
            let text = format!("{} from {from} for {} recipient(s), {} octets", field("source"), field("to"), field("size"));
            (AnsiColor::Cyan.on_default(), text)
        }
        "delivered" => (table::style_of(Kind::Delivered), format!("{} ← {}", field("to"), field("reply"))),
        "deferred" => (table::style_of(Kind::Deferred), format!("{} ← {}", field("to"), field("reply"))),
        "failed" => (table::style_of(Kind::Failed), format!("{} ← {}", field("to"), field("reply"))),
        "finished" => (table::DIM, format!("{} delivered, {} failed", field("delivered"), field("failed"))),
        "in_doubt" | "expired" | "rejected" => (table::BAD, format!("{:?}", event.fields)),
        _ => return Ok(()),
    };
    // The last six characters of an id tell the handful of messages apart.
    let id = field("id");
    let id = id.get(id.len().saturating_sub(6)..).unwrap_or_default();
    writeln!(out, "{:7.3} s  {style}{:<9}{style:#}  …{id}  {text}", at.as_secs_f64(), event.verb)?;
    out.flush()
}

fn summary(rows: &mut [HistoryRow], out: &mut dyn Write) -> io::Result<()> {
    rows.sort_by_key(|row| (row.message, row.recipient.clone()));
    let mut table = Table::new(["FROM", "TO", "OUTCOME", "ATTEMPTS", "LAST ANSWER"]);
    for row in rows.iter() {
        let sender = if row.sender == ReversePath::Null { "<>".to_owned() } else { row.sender.to_string() };
        let outcome = &row.outcome;
        let cells = [sender, row.recipient.to_string(), outcome.kind.as_str().to_owned(), row.attempts.to_string(), outcome.text.clone()];
        table.row(cells, table::style_of(outcome.kind), None);
    }
    writeln!(out)?;
    table.write(out)
}

async fn ended(stop: oneshot::Receiver<()>) {
    // A sender that is gone means the end as well.
    let _ = stop.await;
}

/// A directory that is gone at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("smtp-direct-demo-{}-{:x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in the temporary directory is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}

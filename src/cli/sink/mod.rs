//! `smtp-direct sink`: takes mail by SMTP, hands on a line, a file or a count of each message: a receiver for trying things out.

mod command;
mod content;
mod server;
mod session;
mod store;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use self::server::{Features, Policy, Received, Receiver, Recipients, Settings, Sink, Verdict};
pub use self::store::Store;
use crate::cli::exit;
use crate::clock::{Clock, SystemClock};
use crate::config::Pattern;

/// Receive mail and deliver it nowhere: for trying things out.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen; port 0: any that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2525")]
    pub listen: SocketAddr,
    /// Keep each message here: NUMBER.eml as it came, NUMBER.json with its envelope.
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// Show messages a second instead of a line for each.
    #[arg(long)]
    pub count: bool,
    /// Do not offer this extension. May be repeated.
    #[arg(long, value_name = "EXTENSION")]
    pub without: Vec<Extension>,
    /// Refuse recipients that match with 550; * stands for any text. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    pub refuse: Vec<Pattern>,
    /// Defer recipients that match with 450. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    pub defer: Vec<Pattern>,
    /// Wait this long before each answer, as a distant server would: 50ms.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::config::parse_span)]
    pub delay: Duration,
    /// Refuse larger messages.
    #[arg(long, value_name = "SIZE", default_value = "100 MiB")]
    pub max_size: bytesize::ByteSize,
}

/// An SMTP extension that the sink offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "named as the extensions")]
#[value(rename_all = "lower")]
pub enum Extension {
    Pipelining,
    Size,
    #[value(name = "8bitmime")]
    EightBitMime,
    SmtpUtf8,
    Dsn,
    EnhancedStatusCodes,
    Chunking,
}

/// Why there is no sink.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The address is in use, not ours, or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// `--listen`.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// `--directory`.
    #[error("cannot keep messages in {}: {source}", directory.display())]
    Directory {
        /// `--directory`.
        directory: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The output is gone.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// No handler for a signal.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
}

/// To the start of the line, and nothing behind it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// A policy that takes everything and counts it.
#[derive(Debug, Default)]
pub struct Counter {
    sessions: AtomicU64,
    messages: AtomicU64,
    recipients: AtomicU64,
    octets: AtomicU64,
}

/// What a [`Counter`] has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections.
    pub sessions: u64,
    /// Messages taken.
    pub messages: u64,
    /// Recipients of them.
    pub recipients: u64,
    /// Octets of their content.
    pub octets: u64,
}

/// Runs the sink until SIGINT or SIGTERM.
pub async fn run<W: Write + Send + 'static>(args: Args, out: W) -> ExitCode {
    let ended = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            let shutdown = async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            run_until(args, out, shutdown).await
        }
        (Err(error), _) | (_, Err(error)) => Err(SinkError::Signals(error)),
    };
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("smtp-direct sink: {error}");
            ExitCode::from(if matches!(error, SinkError::Directory { .. }) { exit::CANTCREAT } else { exit::TEMPFAIL })
        }
    }
}

/// Runs the sink until `shutdown`, with its output to `out`. Returns what came in.
pub async fn run_until<W>(args: Args, out: W, shutdown: impl Future<Output = ()>) -> Result<Totals, SinkError>
where
    W: Write + Send + 'static,
{
    let store = match &args.directory {
        Some(directory) => {
            let opened = Store::open(directory);
            Some(opened.map_err(|source| SinkError::Directory { directory: directory.clone(), source })?)
        }
        None => None,
    };
    let listen = |source| SinkError::Listen { address: args.listen, source };
    let sink = Sink::bind(args.listen).await.map_err(listen)?.with(args.settings());
    let address = sink.local_addr().map_err(listen)?;
    let count = args.count;
    // One line that is written again and again is for people; into a file or pipe goes one after the other.
    let rewrite = count && io::stdout().is_terminal();
    let watch = Arc::new(Watch { args, store, counter: Counter::default(), out: Mutex::new(out) });
    watch.write(format_args!("listening on {address}, end with Ctrl-C\n")).map_err(SinkError::Output)?;

    let begun = Instant::now();
    let running = sink.run(Arc::<Watch<W>>::clone(&watch), shutdown);
    if count {
        tokio::select! {
            biased;
            () = running => {}
            ended = watch.count(rewrite) => ended.map_err(SinkError::Output)?,
        }
    } else {
        running.await;
    }
    let totals = watch.counter.totals();
    let clear = if rewrite { CLEAR_LINE } else { "" };
    watch.write(format_args!("{clear}{totals}, in {:.1} s\n", begun.elapsed().as_secs_f64())).map_err(SinkError::Output)?;
    Ok(totals)
}

impl Args {
    fn settings(&self) -> Settings {
        let mut features = Features::default();
        for extension in &self.without {
            let feature = match extension {
                Extension::Pipelining => &mut features.pipelining,
                Extension::Size => &mut features.size,
                Extension::EightBitMime => &mut features.eight_bit_mime,
                Extension::SmtpUtf8 => &mut features.smtputf8,
                Extension::Dsn => &mut features.dsn,
                Extension::EnhancedStatusCodes => &mut features.enhanced_status_codes,
                Extension::Chunking => &mut features.chunking,
            };
            *feature = false;
        }
        Settings { features, delay: self.delay, max_size: self.max_size.as_u64(), ..Settings::default() }
    }
}

impl Counter {
    /// So far.
    pub fn totals(&self) -> Totals {
        Totals {
            sessions: self.sessions.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            recipients: self.recipients.load(Ordering::Relaxed),
            octets: self.octets.load(Ordering::Relaxed),
        }
    }
}

impl Policy for Counter {
    fn wants_content(&self) -> bool {
        false
    }

    fn connected(&self, _client: SocketAddr) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    fn message(&self, message: &Received<'_>) -> Verdict {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.recipients.fetch_add(message.recipients.len() as u64, Ordering::Relaxed);
        self.octets.fetch_add(message.size, Ordering::Relaxed);
        Verdict::Accept
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, messages, recipients, octets } = self;
        let size = bytesize::ByteSize(*octets).display().iec();
        write!(f, "messages: {messages}, recipients: {recipients}, content: {size}, sessions: {sessions}")
    }
}

/// The policy of the command.
struct Watch<W> {
    args: Args,
    store: Option<Store>,
    counter: Counter,
    out: Mutex<W>,
}

impl<W: Write + Send + 'static> Watch<W> {
    fn write(&self, text: fmt::Arguments<'_>) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_fmt(text)?;
        out.flush()
    }

    /// Writes the rate each second: over the last line, or a new line when there is something new.
    async fn count(&self, rewrite: bool) -> io::Result<()> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut at, mut before) = (ticks.tick().await, Totals::default());
        loop {
            ticks.tick().await;
            let (now, totals) = (Instant::now(), self.counter.totals());
            let rate = (totals.messages - before.messages) as f64 / (now - at).as_secs_f64();
            if rewrite {
                self.write(format_args!("{CLEAR_LINE}{rate:.0} messages/s; {totals}"))?;
            } else if totals != before {
                self.write(format_args!("{rate:.0} messages/s; {totals}\n"))?;
            }
            (at, before) = (now, totals);
        }
    }

    fn line(&self, message: &Received<'_>, kept: &str) -> io::Result<()> {
        const SHOWN: usize = 3;
        let mut to = String::new();
        for (i, (path, _)) in message.recipients.iter().take(SHOWN).enumerate() {
            to.push_str(if i == 0 { "<" } else { ",<" });
            to.push_str(path);
            to.push('>');
        }
        if message.recipients.len() > SHOWN {
            to.push_str(&format!(" and {} more", message.recipients.len() - SHOWN));
        }
        let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let Received { client, sender, size, .. } = message;
        self.write(format_args!("{time} {client} from=<{sender}> to={to} size={size}{kept}\n"))
    }
}

impl<W: Write + Send + 'static> Policy for Watch<W> {
    fn wants_content(&self) -> bool {
        self.store.is_some()
    }

    fn connected(&self, client: SocketAddr) {
        self.counter.connected(client);
    }

    fn recipient(&self, _sender: &str, recipient: &str) -> Verdict {
        let matched = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(recipient));
        if matched(&self.args.refuse) {
            Verdict::Reply(550, Cow::Borrowed("5.1.1 Refused by --refuse"))
        } else if matched(&self.args.defer) {
            Verdict::Reply(450, Cow::Borrowed("4.2.0 Deferred by --defer"))
        } else {
            Verdict::Accept
        }
    }

    fn message(&self, message: &Received<'_>) -> Verdict {
        let (verdict, kept) = match self.store.as_ref().map(|store| store.keep(message, SystemClock.now())) {
            None => (Verdict::Accept, String::new()),
            Some(Ok(name)) => (Verdict::Reply(250, format!("2.0.0 Ok: kept as {name}").into()), format!(" {name}")),
            Some(Err(error)) => {
                tracing::error!(%error, "the sink cannot keep a message");
                return Verdict::Reply(452, Cow::Borrowed("4.3.1 Cannot keep it"));
            }
        };
        if !self.args.count
            && let Err(error) = self.line(message, &kept)
        {
            tracing::warn!(%error, "the sink cannot write its output");
        }
        self.counter.message(message);
        verdict
    }
}

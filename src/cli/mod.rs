//! The command line: takes arguments, hands on an exit code (sysexits.h); one file per subcommand.

mod ask;
pub mod cache;
pub mod check;
pub mod demo;
pub mod generate;
pub mod history;
pub mod probe;
pub mod queue;
pub mod route;
pub mod run;
mod sendmail;
pub mod sink;
pub mod site;
mod table;
mod top;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::control::client::Client;
use crate::spool::Layout;

/// Exit codes of sysexits.h, as mail programs have them.
#[allow(missing_docs, reason = "sysexits.h names and numbers them")]
pub mod exit {
    pub const USAGE: u8 = 64;
    pub const DATAERR: u8 = 65;
    pub const NOINPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const SOFTWARE: u8 = 70;
    pub const OSERR: u8 = 71;
    pub const CANTCREAT: u8 = 73;
    pub const IOERR: u8 = 74;
    pub const TEMPFAIL: u8 = 75;
    pub const NOPERM: u8 = 77;
    pub const CONFIG: u8 = 78;
}

/// Delivers mail from a spool directory directly to each domain's mail servers.
#[derive(Debug, Parser)]
#[command(name = "smtp-direct", version, about, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a command line")]
enum Command {
    /// Run the daemon in the foreground
    Run(ConfigFile),
    /// Validate the configuration
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Print what is in effect
        #[arg(long)]
        show: bool,
    },
    /// Show where mail for an address would go, and why; sends nothing
    Route {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: route::RouteArgs,
    },
    /// Connect to where mail for an address would go, and show greeting, extensions and TLS; sends no message
    Probe {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: probe::ProbeArgs,
    },
    /// Show what waits (list, show ID, why ID|ADDRESS, count), or change it: retry, hold, release, bounce, remove
    #[command(after_help = queue::CODES)]
    Queue {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: queue::QueueArgs,
    },
    /// Show what became of messages
    #[command(after_help = queue::CODES)]
    History {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: history::HistoryArgs,
    },
    /// Watch the daemon at work: throughput, workers, queue, sites, outcomes
    Top {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: top::TopArgs,
    },
    /// Show the sites that mail goes to; pause, resume, retry one
    Site {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: site::SiteArgs,
    },
    /// Show the DNS answers in memory, or forget them
    Cache {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        args: cache::CacheArgs,
    },
    /// Take a message on standard input, as sendmail(8) does; also when called as sendmail, mailq or newaliases
    #[command(disable_help_flag = true)]
    Sendmail {
        /// As sendmail has them; --help shows them
        #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Receive mail on loopback for trying things out
    Sink(sink::Args),
    /// Show the whole way of some messages, on loopback, in seconds
    Demo,
    /// Write man pages or shell completions into a directory
    Generate(generate::GenerateArgs),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file
    #[arg(long = "config", short = 'c', value_name = "FILE", default_value = config::DEFAULT_FILE, global = true)]
    file: PathBuf,
}

/// Runs the subcommand that the arguments name.
pub fn main() -> ExitCode {
    // Before clap, whose ideas of options are not sendmail's.
    if let Some(words) = sendmail::called(std::env::args_os()) {
        return sendmail::run(&words, &mut anstream::stdout(), &mut anstream::stderr());
    }
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            let is_error = error.use_stderr();
            // Nothing is left to tell if even this cannot be written.
            let _ = error.print();
            return if is_error { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let (mut out, mut err) = (anstream::stdout(), anstream::stderr());
    match dispatch(command, &mut out, &mut err) {
        Ok(code) => code,
        // `smtp-direct history | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(err, "smtp-direct: {error}");
            ExitCode::from(exit::IOERR)
        }
    }
}

fn dispatch(command: Command, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> io::Result<ExitCode> {
    let now = SystemClock.now();
    match command {
        Command::Run(config) => runtime()?.block_on(run::run(&config.file, err)),
        Command::Check { config, show } => Ok(check::run(&config.file, show, out, err)),
        Command::Route { config, args } => match load(&config.file, err)? {
            Ok(loaded) => Ok(runtime()?.block_on(route::run(&args, &loaded, out, err))),
            Err(code) => Ok(code),
        },
        Command::Probe { config, args } => match load(&config.file, err)? {
            Ok(loaded) => Ok(runtime()?.block_on(Box::pin(probe::run(&args, &loaded, out, err)))),
            Err(code) => Ok(code),
        },
        Command::Queue { config, args } if args.action().is_some() => match (ask::client(&config.file, err)?, args.action()) {
            (Ok(client), Some((action, args))) => Ok(queue::action::run(action, args, &client, out, err)),
            (Err(code), _) => Ok(code),
            (Ok(_), None) => Ok(ExitCode::from(exit::USAGE)),
        },
        Command::Site { config, args } => match ask::client(&config.file, err)? {
            Ok(client) => {
                // The configuration's errors were told already.
                let database = database(&config.file, &mut io::sink())?.ok();
                Ok(site::run(&args, site::Sources { client: &client, database: database.as_deref() }, now, out, err))
            }
            Err(code) => Ok(code),
        },
        Command::Cache { config, args } => match ask::client(&config.file, err)? {
            Ok(client) => Ok(cache::run(&args, &client, out, err)),
            Err(code) => Ok(code),
        },
        Command::Queue { config: file, args } => match database(&file.file, err)? {
            Ok(database) => match &args.command {
                // Its errors were told already.
                Some(queue::QueueCommand::Why(args)) => {
                    let config = Config::load(&file.file).ok();
                    let socket = match &config {
                        Some(config) => config.control.socket.clone(),
                        None => config::control_socket_in(&file.file),
                    };
                    let client = socket.map(Client::new);
                    let ask = |question: &queue::why::Question| match &client {
                        Some(client) => question.ask(client),
                        None => Err("the configuration names no control.socket".to_owned()),
                    };
                    let sources = queue::why::Sources { database: &database, config: config.as_ref(), ask: &ask };
                    Ok(queue::why::run(args, sources, now, out, err))
                }
                _ => Ok(queue::run(&args, &database, now, out, err)),
            },
            Err(code) => Ok(code),
        },
        Command::History { config, args } => match database(&config.file, err)? {
            Ok(database) => Ok(history::run(&args, &database, now, out, err)),
            Err(code) => Ok(code),
        },
        Command::Top { config, args } => match ask::client(&config.file, err)? {
            Ok(client) => top::run(&args, client, runtime()?, err),
            Err(code) => Ok(code),
        },
        Command::Sendmail { words } => Ok(sendmail::run(&words, out, err)),
        Command::Sink(args) => Ok(runtime()?.block_on(sink::run(args, anstream::stdout()))),
        Command::Demo => runtime()?.block_on(demo::run(out, err)),
        Command::Generate(args) => generate::run(&args, err),
    }
}

/// Where the queue's database is. Errors elsewhere in the file are told, and keep nobody from looking: the daemon may well run on with the
/// configuration that it had before.
fn database(file: &Path, err: &mut dyn Write) -> io::Result<Result<PathBuf, ExitCode>> {
    match Config::load(file) {
        Ok(config) => Ok(Ok(Layout::new(config.spool.path).database())),
        Err(errors) => {
            writeln!(err, "{errors}")?;
            match config::spool_path_in(file) {
                Some(spool) => Ok(Ok(Layout::new(spool).database())),
                None => Ok(Err(ExitCode::from(exit::CONFIG))),
            }
        }
    }
}

/// The configuration, or every error in it on `err` and the exit code.
fn load(file: &Path, err: &mut dyn Write) -> io::Result<Result<Config, ExitCode>> {
    match Config::load(file) {
        Ok(config) => Ok(Ok(config)),
        Err(errors) => {
            writeln!(err, "{errors}")?;
            Ok(Err(ExitCode::from(exit::CONFIG)))
        }
    }
}

/// Half of the cores drive sessions. The others are for the threads that wait for disk and database, and for what else there is: with as many
/// threads here as cores, each message cost more in handing it over than it gained.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread().worker_threads(cores.div_ceil(2)).enable_all().build()
}

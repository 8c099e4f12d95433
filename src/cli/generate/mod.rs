//! `generate`: man pages and shell completions into a directory, for packages and for those who install by hand.
//!
//! All of it comes from what the program itself goes by: the command line's definition, sendmail's help, the commented configuration file.

mod commands;
mod roff;
mod settings;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{CommandLine, exit};

const NAME: &str = env!("CARGO_PKG_NAME");

/// What to write, and where.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// man: smtp-direct.1, a page for each subcommand, smtp-direct.toml.5; completions: for bash, zsh and fish
    pub what: What,
    /// Directory to write into; made if it is missing
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}

/// The two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// For man(1).
    Man,
    /// For shells.
    Completions,
}

/// One man page: what its title line says of it, beside the program's version.
struct Title<'a> {
    name: &'a str,
    section: &'a str,
    date: &'a str,
}

/// Writes them.
pub fn run(args: &GenerateArgs, err: &mut dyn Write) -> io::Result<ExitCode> {
    let written = fs::create_dir_all(&args.directory).and_then(|()| match args.what {
        What::Man => man(&args.directory),
        What::Completions => completions(&args.directory),
    });
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(err, "smtp-direct: {}: {error}", args.directory.display())?;
            Ok(ExitCode::from(exit::CANTCREAT))
        }
    }
}

fn man(directory: &Path) -> io::Result<()> {
    let date = date();
    // The pages show no "help" subcommand: "--help" says the same.
    let mut command = CommandLine::command().disable_help_subcommand(true);
    command.build();
    commands::write(&command, directory, &date)?;
    let title = Title { name: "smtp-direct.toml", section: "5", date: &date };
    fs::write(directory.join("smtp-direct.toml.5"), settings::page(&title))
}

fn completions(directory: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let file = clap_complete::generate_to(shell, &mut CommandLine::command(), NAME, directory)?;
        if shell == Shell::Bash {
            // clap_complete 4.6 takes the hyphen of the name for the border to a subcommand in one place and not in the other, and nothing
            // below the first level is completed. Where that is mended, this finds nothing to do.
            let text = fs::read_to_string(&file)?;
            fs::write(&file, text.replace("smtp__subcmd__direct", "smtp__direct"))?;
        }
    }
    Ok(())
}

/// The pages' date: today, or what a reproducible build asks for (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn date() -> String {
    let asked = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let time = asked.and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_else(Timestamp::now);
    time.to_zoned(TimeZone::UTC).date().to_string()
}

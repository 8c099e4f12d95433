//! The command line: one file per subcommand.

pub mod route;

/// Runs the subcommand that the arguments name.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

//! The command line: one file per subcommand.

/// Takes the database, hands on final outcomes.
pub mod history;
/// Takes the database, hands on what waits in it.
pub mod queue;
mod table;

/// Runs the subcommand that the arguments name.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

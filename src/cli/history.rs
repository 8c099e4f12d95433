//! stub
use std::io::Write;
use std::process::ExitCode;
/// x
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {}
/// x
pub fn run(
    _a: &HistoryArgs,
    _c: &std::path::Path,
    _n: crate::clock::Timestamp,
    _o: &mut dyn Write,
    _e: &mut dyn Write,
) -> std::io::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

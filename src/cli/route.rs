//! stub
use std::io::Write; use std::process::ExitCode;
/// x
#[derive(Debug, clap::Args)] pub struct RouteArgs {}
/// x
pub async fn run(_a: &RouteArgs, _c: &crate::config::Config, _o: &mut dyn Write, _e: &mut dyn Write) -> std::io::Result<ExitCode> { Ok(ExitCode::SUCCESS) }

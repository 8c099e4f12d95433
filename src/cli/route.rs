//! `smtp-direct route`: takes an address and what is assumed of a message, prints where it would go, and why. Asks DNS, sends nothing.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;

use super::exit;
use crate::config::Config;
use crate::control::why::decision_json;
use crate::message::{Address, Priority, ReversePath};
use crate::outcome::{Kind, judge};
use crate::route::{CachedDns, Decision, Explanation, HickoryDns, LocalIdentity, Query, Route, Router, Rule};

/// What is assumed of the message; the defaults are those of a first attempt.
#[derive(Debug, Clone, Args)]
pub struct RouteArgs {
    /// The recipient
    pub address: String,
    /// The envelope sender; "<>" is the null sender
    #[arg(long, value_name = "ADDRESS", default_value = "<>")]
    pub sender: String,
    /// Size of the message, as "20 MiB"
    #[arg(long, value_name = "SIZE", default_value = "2 KiB", value_parser = size)]
    pub size: u64,
    /// Since its first attempt failed, as "2h"
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_span)]
    pub failing_for: Option<Duration>,
    /// Attempts that have failed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub attempts: u32,
    /// "urgent", "normal" or "bulk"
    #[arg(long, value_name = "CLASS", default_value = "normal", value_parser = priority)]
    pub priority: Priority,
    /// The message's tag
    #[arg(long, value_name = "WORD")]
    pub tag: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| "write a number of bytes, or as \"500 KiB\", \"20 MiB\"".to_owned())
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(|()| "write urgent, normal or bulk".to_owned())
}

/// Prints the route. The exit code is 0 where there is one, 75 where there is none for now (DNS fails, or an override holds), 69 where there
/// is none at all, 64 for what is no address, 71 where this host's resolvers or interfaces cannot be read.
pub async fn run(args: &RouteArgs, config: &Config, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> ExitCode {
    let result = match decide(args, config).await {
        Ok((address, explanation)) => write(args, out, &address, &explanation).map(|()| exit_code(&explanation)),
        Err(Refused { code, text }) => writeln!(err, "smtp-direct route: {text}").map(|()| code),
    };
    ExitCode::from(result.unwrap_or(exit::IOERR))
}

/// Why there is nothing to print.
pub(super) struct Refused {
    pub(super) code: u8,
    pub(super) text: String,
}

/// The address, and what routing says of it.
pub(super) async fn decide(args: &RouteArgs, config: &Config) -> Result<(Address, Explanation), Refused> {
    let refused = |code: u8| move |text: String| Refused { code, text };
    let address = Address::parse(&args.address).map_err(|error| refused(exit::USAGE)(error.to_string()))?;
    let sender = ReversePath::parse(&args.sender).map_err(|error| refused(exit::USAGE)(format!("--sender: {error}")))?;
    let dns = HickoryDns::new(&config.dns).map_err(|error| refused(exit::OSERR)(error.to_string()))?;
    let local = LocalIdentity::from_system(config.hostname.clone())
        .map_err(|error| refused(exit::OSERR)(format!("cannot read this host's own addresses: {error}")))?;
    let router = Router::new(config, CachedDns::new(Arc::new(dns), &config.dns), local);
    let query = Query {
        domain: address.domain(),
        recipients: &[&address],
        sender: &sender,
        size: args.size,
        attempts: args.attempts,
        failing_for: args.failing_for,
        priority: args.priority,
        tag: args.tag.as_deref(),
        released: false,
    };
    let explanation = router.explain(&query).await;
    Ok((address, explanation))
}

pub(super) fn exit_code(explanation: &Explanation) -> u8 {
    // One recipient is one part.
    match explanation.parts.first().map(|part| &part.decision) {
        Some(Ok(Decision::Send(_))) => 0,
        Some(Ok(Decision::Hold(_))) => exit::TEMPFAIL,
        Some(Err(fault)) if judge(fault).kind == Kind::Deferred => exit::TEMPFAIL,
        _ => exit::UNAVAILABLE,
    }
}

pub(super) fn write(args: &RouteArgs, out: &mut dyn Write, address: &Address, explanation: &Explanation) -> io::Result<()> {
    if args.json { write_json(out, address, explanation) } else { write_text(out, address, explanation) }
}

fn write_text(out: &mut dyn Write, address: &Address, explanation: &Explanation) -> io::Result<()> {
    for part in &explanation.parts {
        match &part.decision {
            Ok(Decision::Send(route)) => write_route(out, address, route)?,
            Ok(Decision::Hold(rule)) => write_rule(out, address, "would be held", rule)?,
            Ok(Decision::Reject(rule)) => write_rule(out, address, "would be returned to its sender", rule)?,
            Ok(Decision::Discard(rule)) => write_rule(out, address, "would be discarded", rule)?,
            Err(fault) => {
                let verdict = judge(fault);
                writeln!(out, "{address}: {} ({} {})", fault, verdict.kind.as_str(), verdict.status)?;
            }
        }
    }
    writeln!(out, "\nwhy:")?;
    for step in &explanation.steps {
        writeln!(out, "  {step}")?;
    }
    Ok(())
}

fn write_rule(out: &mut dyn Write, address: &Address, what: &str, rule: &Rule) -> io::Result<()> {
    writeln!(out, "{address}: {what} by the override at line {}: {}", rule.line, rule.reason)
}

fn write_route(out: &mut dyn Write, address: &Address, route: &Route) -> io::Result<()> {
    writeln!(out, "{address} goes to ({}):\n", route.source)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "PREFERENCE", "HOST", "ADDRESS", "TLS", "LOGIN"]);
    for (number, endpoint) in route.endpoints.iter().enumerate() {
        table.add_row([
            (number + 1).to_string(),
            endpoint.preference.to_string(),
            endpoint.host.to_string(),
            endpoint.address.to_string(),
            endpoint.tls.as_str().to_owned(),
            endpoint.credentials.as_ref().map(|credentials| credentials.username.clone()).unwrap_or_default(),
        ]);
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out, "\nsite: {}", route.site)
}

fn write_json(out: &mut dyn Write, address: &Address, explanation: &Explanation) -> io::Result<()> {
    let mut object = explanation.parts.first().map_or_else(|| json!({}), |part| decision_json(&part.decision));
    object["address"] = json!(address.to_string());
    object["why"] = explanation.steps.iter().map(ToString::to_string).collect();
    writeln!(out, "{object}")
}

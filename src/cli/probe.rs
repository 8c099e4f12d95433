//! `smtp-direct probe`: takes an address, connects to every target of its route as delivery would, hands on what they show. Never a message.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::exit;
use super::route::{self, Refused, RouteArgs};
use crate::clock::Timestamp;
use crate::config::{Config, Smtp};
use crate::message::{Address, Content, Notify, ReversePath};
use crate::outcome::{Fault, Kind, NextStep, Verdict, judge};
use crate::route::{Decision, Endpoint, Route};
use crate::smtp::{Client, Mail, Probe, Rcpt, Rehearsal, TcpDialer};

mod json;
mod text;

/// What to look at.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXIT_CODES, after_help = EXIT_CODES)]
pub struct ProbeArgs {
    /// The address, and what is assumed of the message, as for `route`
    #[command(flatten)]
    pub route: RouteArgs,
    /// Every address of each target, and not only those up to the first that works or refuses for all
    #[arg(long)]
    pub all_addresses: bool,
    /// Also ask whether the recipient would be taken: MAIL, RCPT and RSET
    #[arg(long)]
    pub rcpt: bool,
    /// At most this long for each step, where [smtp] allows more
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::config::parse_span)]
    pub timeout: Duration,
}

const EXIT_CODES: &str = "\
Exit codes: 0 mail would get through (with --all-addresses: at each address); 75 it would have to wait, or with --all-addresses some addresses \
do not work; 69 a message would be returned; 64 wrong usage, 71 this host's resolvers or interfaces cannot be read, 78 the configuration has \
errors. A certificate that proves nothing is told, and is a failure only where `tls` asks for proof.";

/// What became of one target.
struct Sight<'a> {
    number: usize,
    endpoint: &'a Endpoint,
    probe: Probe,
    /// How it is encrypted.
    tls: Option<Arc<str>>,
    rehearsal: Option<Rehearsal>,
}

impl Sight<'_> {
    /// Why mail would not get through here.
    fn fault(&self) -> Option<&Fault> {
        let opening = self.probe.result.as_ref().err().map(|error| &error.fault);
        opening.or_else(|| self.rehearsal.as_ref().and_then(|rehearsal| rehearsal.fault.as_ref()))
    }
}

/// What every target has in common.
struct Subject<'a> {
    address: &'a Address,
    route: &'a Route,
    /// What routing took.
    dns: Duration,
    now: Timestamp,
}

/// Probes and prints; see `--help` for the exit codes.
pub async fn run(args: &ProbeArgs, config: &Config, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> ExitCode {
    let result = match probe(args, config, out).await {
        Ok(written) => written,
        Err(Refused { code, text }) => writeln!(err, "smtp-direct probe: {text}").map(|()| code),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        // `head` has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(exit::IOERR),
    }
}

async fn probe(args: &ProbeArgs, config: &Config, out: &mut (dyn Write + Send)) -> Result<io::Result<u8>, Refused> {
    let began = Instant::now();
    let (address, explanation) = route::decide(&args.route, config).await?;
    let dns = began.elapsed();
    let Some(Ok(Decision::Send(route))) = explanation.parts.first().map(|part| &part.decision) else {
        return Ok(route::write(&args.route, out, &address, &explanation).map(|()| route::exit_code(&explanation)));
    };
    let subject = Subject { address: &address, route, dns, now: Timestamp::now() };
    let mut config = config.clone();
    hurry(&mut config.smtp, args.timeout);
    let dialer = TcpDialer { source_ipv4: config.smtp.source_ipv4, source_ipv6: config.smtp.source_ipv6 };
    let client = Client::new(&config, Arc::new(dialer)).map_err(|error| Refused { code: exit::CONFIG, text: error.to_string() })?;
    Ok(look(args, &client, &subject, out).await)
}

async fn look(args: &ProbeArgs, client: &Client, subject: &Subject<'_>, out: &mut (dyn Write + Send)) -> io::Result<u8> {
    if !args.route.json {
        text::heading(out, subject)?;
    }
    let (mut answers, mut answered) = (Vec::new(), HashSet::new());
    for (at, endpoint) in subject.route.endpoints.iter().enumerate() {
        // Addresses of several targets may stand among each other.
        let target = (&endpoint.host, endpoint.address.port());
        if !args.all_addresses && answered.contains(&target) {
            continue;
        }
        let sight = visit(args, client, subject, (at + 1, endpoint)).await;
        if args.route.json {
            json::target(out, subject, &sight)?
        } else {
            text::target(out, subject, &sight)?
        }
        // Each as soon as it is there: the next may take its time.
        out.flush()?;
        let answer = sight.fault().map_or(Answer::Works, |fault| match judge(fault) {
            Verdict { kind, next: NextStep::Stop, .. } => Answer::Ends(kind),
            Verdict { kind, next: NextStep::NextAddress, .. } => Answer::Passes(kind),
        });
        if !matches!(answer, Answer::Passes(_)) {
            answered.insert(target);
        }
        answers.push(answer);
        if let Ok(session) = sight.probe.result {
            session.quit().await;
        }
    }
    Ok(if args.all_addresses { exit_code_of_all(&answers) } else { exit_code(&answers) })
}

/// What an address means for the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It would be taken.
    Works,
    /// It comes to this, whatever other addresses there are.
    Ends(Kind),
    /// It would be tried at the next address; without one, it comes to this.
    Passes(Kind),
}

/// As delivery would fare, which asks in this order until an answer is for all.
fn exit_code(answers: &[Answer]) -> u8 {
    match answers.iter().find(|answer| !matches!(answer, Answer::Passes(_))) {
        Some(Answer::Works) => 0,
        Some(Answer::Ends(Kind::Failed)) => exit::UNAVAILABLE,
        None if answers.iter().all(|answer| *answer == Answer::Passes(Kind::Failed)) => exit::UNAVAILABLE,
        _ => exit::TEMPFAIL,
    }
}

/// Whether each address works.
fn exit_code_of_all(answers: &[Answer]) -> u8 {
    if answers.iter().all(|answer| *answer == Answer::Works) {
        return 0;
    }
    let fails = |answer: &Answer| matches!(answer, Answer::Ends(Kind::Failed) | Answer::Passes(Kind::Failed));
    if answers.iter().all(fails) { exit::UNAVAILABLE } else { exit::TEMPFAIL }
}

async fn visit<'a>(args: &ProbeArgs, client: &Client, subject: &Subject<'_>, (number, endpoint): (usize, &'a Endpoint)) -> Sight<'a> {
    let mut probe = client.probe(endpoint).await;
    let tls = match &probe.result {
        Ok(session) => session.peer().tls.clone(),
        Err(error) => error.peer.tls.clone(),
    };
    let mut rehearsal = None;
    if args.rcpt
        && let Ok(session) = &mut probe.result
    {
        // Its syntax was checked with the route's.
        let sender = ReversePath::parse(&args.route.sender).unwrap_or(ReversePath::Null);
        let content = Content { wire_size: args.route.size, ..Content::default() };
        let recipients = vec![Rcpt { address: subject.address, notify: Notify::default() }];
        let mail = Mail { sender: &sender, recipients, content: &content, file: Path::new(""), ret: None, envid: None };
        rehearsal = Some(session.rehearse(&mail).await);
    }
    Sight { number, endpoint, probe, tls, rehearsal }
}

/// Somebody is waiting: no step takes longer than `limit`.
fn hurry(smtp: &mut Smtp, limit: Duration) {
    let steps = [
        &mut smtp.connect_timeout,
        &mut smtp.greeting_timeout,
        &mut smtp.ehlo_timeout,
        &mut smtp.starttls_timeout,
        &mut smtp.auth_timeout,
        &mut smtp.mail_timeout,
        &mut smtp.rcpt_timeout,
    ];
    for step in steps {
        *step = limit.min(*step);
    }
}

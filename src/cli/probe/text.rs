//! What was seen of a target, for people.

use std::io::{self, Write};
use std::time::Duration;

use super::{Sight, Subject};
use crate::cli::table::{self, BAD, BOLD, DIM, GOOD, PLAIN, WARN};
use crate::clock::Timestamp;
use crate::outcome::judge;
use crate::smtp::{Certificate, Chain, Observed, Reply};

/// Days that a certificate should be good for yet.
const SOON: i64 = 14;

pub(super) fn heading(out: &mut dyn Write, subject: &Subject<'_>) -> io::Result<()> {
    let Subject { address, route, dns, .. } = subject;
    let addresses = table::count(route.endpoints.len(), "address", "addresses");
    table::line(out, PLAIN, &format!("{address} goes to {addresses} ({}), found in {}", route.source, seconds(*dns)))
}

pub(super) fn target(out: &mut dyn Write, subject: &Subject<'_>, sight: &Sight<'_>) -> io::Result<()> {
    let endpoint = sight.endpoint;
    let login = endpoint.credentials.as_ref().map(|login| format!(", login {}", login.username)).unwrap_or_default();
    let (number, tls) = (sight.number, endpoint.tls.as_str());
    writeln!(out)?;
    table::paragraph(
        out,
        0,
        BOLD,
        &format!("{number}. {} {}, preference {}, tls {tls}{login}", endpoint.host, endpoint.address, endpoint.preference),
    )?;
    for (at, observed) in sight.probe.connections.iter().enumerate() {
        if at > 0 {
            table::line(out, WARN, "  TLS broke: a second connection, in clear text")?;
        }
        connection(out, observed)?;
        // What was agreed upon is known of the last connection only.
        let last = at + 1 == sight.probe.connections.len();
        if let Some(tls) = sight.tls.as_deref().filter(|_| last) {
            table::field(out, "tls", tls)?;
        }
        if let Some(chain) = &observed.chain {
            certificates(out, chain, &endpoint.host, subject.now)?;
        }
        times(out, sight, observed, last)?;
    }
    for (step, reply, _) in sight.rehearsal.iter().flat_map(|rehearsal| &rehearsal.answers) {
        table::field(out, step.as_str(), &one_line(reply))?;
    }
    match (sight.fault(), sight.tls.is_some()) {
        (None, true) => table::line(out, GOOD, "  works"),
        (None, false) => table::line(out, WARN, "  works, in clear text"),
        (Some(fault), _) => {
            let verdict = judge(fault);
            table::paragraph(out, 2, BAD, &format!("does not work: {fault} ({} {})", verdict.kind.as_str(), verdict.status))
        }
    }
}

fn connection(out: &mut dyn Write, observed: &Observed) -> io::Result<()> {
    if let Some(greeting) = &observed.greeting {
        table::field(out, "greeting", &one_line(greeting))?;
    }
    let hellos = match &observed.hello_again {
        Some(again) => [("in clear", observed.hello.as_ref()), ("under tls", Some(again))],
        None => [("extensions", observed.hello.as_ref()), ("", None)],
    };
    for (name, hello) in hellos {
        if let Some(hello) = hello {
            table::field(out, name, &extensions(hello).collect::<Vec<_>>().join(", "))?;
        }
    }
    Ok(())
}

/// What a peer offers: the lines behind its name.
pub(super) fn extensions(hello: &Reply) -> impl Iterator<Item = &str> {
    hello.lines().skip(1)
}

fn certificates(out: &mut dyn Write, chain: &Chain, host: &str, now: Timestamp) -> io::Result<()> {
    match &chain.proof {
        Ok(root) => {
            let source = if root.from_file { "of tls.ca_file" } else { "of the system" };
            table::field(out, "certificate", &format!("proves {host}, by the root {} {source}", root.subject))?;
        }
        Err(problem) => table::paragraph(out, 2, WARN, &format!("the certificate does not prove {host}: {problem}"))?,
    }
    for certificate in &chain.certificates {
        let Certificate { subject, issuer, names, not_before, not_after } = certificate;
        table::paragraph(out, 4, PLAIN, &format!("{subject}, issued by {issuer}"))?;
        if !names.is_empty() {
            table::paragraph(out, 6, DIM, &format!("names {}", names.join(", ")))?;
        }
        let left = days_left(certificate, now);
        let style = if left < SOON || *not_before > now { WARN } else { DIM };
        let date = |time: &Timestamp| time.strftime("%Y-%m-%d %H:%MZ").to_string();
        table::paragraph(out, 6, style, &format!("good from {} until {} ({left} days left)", date(not_before), date(not_after)))?;
    }
    Ok(())
}

/// Below zero: since it is over.
pub(super) fn days_left(certificate: &Certificate, now: Timestamp) -> i64 {
    (certificate.not_after.as_second() - now.as_second()).div_euclid(24 * 3600)
}

fn times(out: &mut dyn Write, sight: &Sight<'_>, observed: &Observed, last: bool) -> io::Result<()> {
    let rehearsed = sight.rehearsal.iter().filter(|_| last).flat_map(|rehearsal| &rehearsal.answers).map(|(step, _, time)| (*step, *time));
    let steps = observed.steps.iter().copied().chain(rehearsed);
    let mut parts: Vec<String> = steps.map(|(step, time)| format!("{} {}", step.as_str(), seconds(time))).collect();
    parts.extend(observed.failed_after.map(|time| format!("failed after {}", seconds(time))));
    table::field(out, "times", &parts.join(", "))
}

fn one_line(reply: &Reply) -> String {
    format!("{} {}", reply.code(), reply.text().replace('\n', " "))
}

fn seconds(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

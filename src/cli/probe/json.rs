//! What was seen of a target, for programs: one object a line.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::text::{days_left, extensions};
use super::{Sight, Subject};
use crate::cli::table;
use crate::clock::Timestamp;
use crate::outcome::judge;
use crate::smtp::{Chain, Observed, Reply};

pub(super) fn target(out: &mut dyn Write, subject: &Subject<'_>, sight: &Sight<'_>) -> io::Result<()> {
    let endpoint = sight.endpoint;
    let error = sight.fault().map(|fault| {
        let verdict = judge(fault);
        json!({ "kind": verdict.kind.as_str(), "status": verdict.status.to_string(), "text": fault.to_string() })
    });
    let mut words = sight.tls.as_deref().unwrap_or_default().split(' ');
    let connections: Vec<Value> = sight.probe.connections.iter().map(|observed| connection(observed, subject.now)).collect();
    let rcpt = sight.rehearsal.as_ref().map(|rehearsal| {
        let answers = rehearsal.answers.iter();
        answers
            .map(|(step, answer, time)| (step.as_str().to_owned(), json!({ "reply": reply(answer), "time": time.as_secs_f64() })))
            .collect::<Map<_, _>>()
    });
    let object = json!({
        "address": subject.address.to_string(),
        "source": subject.route.source.to_string(),
        "dns_time": subject.dns.as_secs_f64(),
        "number": sight.number,
        "host": &*endpoint.host,
        "ip": endpoint.address.ip().to_string(),
        "port": endpoint.address.port(),
        "preference": endpoint.preference,
        "tls_wanted": endpoint.tls.as_str(),
        "login": endpoint.credentials.as_ref().map(|credentials| &credentials.username),
        "works": error.is_none(),
        "error": error,
        "tls": sight.tls.as_ref().map(|_| json!({ "version": words.next(), "cipher": words.next() })),
        "connections": connections,
        "rcpt": rcpt,
    });
    table::json(out, &object)
}

fn connection(observed: &Observed, now: Timestamp) -> Value {
    let times: Map<String, Value> =
        observed.steps.iter().map(|(step, time)| (step.as_str().to_owned(), time.as_secs_f64().into())).collect();
    let offered = |hello: &Option<Reply>| hello.as_ref().map(|hello| extensions(hello).map(Value::from).collect::<Vec<_>>());
    json!({
        "greeting": observed.greeting.as_ref().map(reply),
        "extensions": offered(&observed.hello),
        "extensions_under_tls": offered(&observed.hello_again),
        "certificate": observed.chain.as_ref().map(|chain| certificate(chain, now)),
        "times": times,
        "failed_after": observed.failed_after.map(|time| time.as_secs_f64()),
    })
}

fn certificate(chain: &Chain, now: Timestamp) -> Value {
    let (root, problem) = (chain.proof.as_ref().ok(), chain.proof.as_ref().err());
    let certificates = chain.certificates.iter().map(|certificate| {
        json!({
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "names": certificate.names,
            "not_before": certificate.not_before.to_string(),
            "not_after": certificate.not_after.to_string(),
            "days_left": days_left(certificate, now),
        })
    });
    json!({
        "valid": root.is_some(),
        "problem": problem,
        "root": root.map(|root| &root.subject),
        "root_from": root.map(|root| if root.from_file { "ca_file" } else { "system" }),
        "chain": certificates.collect::<Vec<_>>(),
    })
}

fn reply(reply: &Reply) -> Value {
    json!({ "code": reply.code(), "text": reply.text() })
}

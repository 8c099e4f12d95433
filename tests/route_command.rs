//! `smtp-direct route`: what it prints and returns, against a scripted DNS server.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/dns.rs"]
mod dns;
#[path = "support/route.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dns::{DnsServer, Script};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use smtp_direct::cli::route::{RouteArgs, run};
use smtp_direct::config::{Action, Config, Credentials, Override};
use support::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: RouteArgs,
}

async fn server() -> DnsServer {
    let server = DnsServer::start().await;
    server.mx("example.test", 60, &[(10, "a.test"), (20, "b.test")]).host("a.test", 60, &["192.0.2.1"]).host(
        "b.test",
        60,
        &["2001:db8::2"],
    );
    server.host("smart.test", 60, &["198.51.100.1"]);
    server
}

struct Printed {
    code: ExitCode,
    out: String,
    err: String,
}

async fn route(server: &DnsServer, overrides: Vec<Override>, line: &[&str]) -> Printed {
    let mut config: Config = config();
    config.dns.servers = vec![server.address];
    config.dns.overrides = overrides;
    let command = Command::try_parse_from([&["route"], line].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = bounded(run(&command.args, &config, &mut out, &mut err)).await;
    Printed { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn exits(printed: &Printed, code: u8) {
    assert_eq!(printed.code, ExitCode::from(code), "{}{}", printed.out, printed.err);
}

#[tokio::test]
async fn a_route_is_a_table_and_its_reasons() {
    let printed = route(&server().await, Vec::new(), &["joe@example.test"]).await;
    exits(&printed, 0);
    let expected = "\
joe@example.test goes to (mx):

    PREFERENCE  HOST    ADDRESS             TLS            LOGIN
 1  10          a.test  192.0.2.1:25        opportunistic
 2  20          b.test  [2001:db8::2]:25    opportunistic

site: 1 a.test:25, 2 b.test:25

why:
  MX of example.test: 10 a.test, 20 b.test
  AAAA of a.test: no such record
  A of a.test: 192.0.2.1
  a.test [192.0.2.1]: used
  AAAA of b.test: 2001:db8::2
  A of b.test: no such record
  b.test [2001:db8::2]: used
";
    let squeezed = |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(squeezed(&printed.out).join("\n"), squeezed(expected).join("\n"));
    assert_eq!(printed.err, "");
}

#[tokio::test]
async fn json_is_one_object() {
    let printed = route(&server().await, Vec::new(), &["joe@example.test", "--json"]).await;
    exits(&printed, 0);
    assert_eq!(printed.out.lines().count(), 1);
    let object: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!((&object["decision"], &object["source"], &object["address"]), (&"send".into(), &"mx".into(), &"joe@example.test".into()));
    let first =
        serde_json::json!({ "preference": 10, "host": "a.test", "ip": "192.0.2.1", "port": 25, "tls": "opportunistic", "login": null });
    assert_eq!(object["endpoints"][0], first);
    assert_eq!(object["why"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn what_is_assumed_of_the_message_decides() {
    let server = server().await;
    let rules = |conditions| vec![rule(12, conditions, "smart.test:587")];
    let size = || smtp_direct::config::Conditions { min_size: Some(20 << 20), ..Default::default() };
    for (conditions, line) in [
        (size(), vec!["--size", "20 MiB"]),
        (smtp_direct::config::Conditions { sender: patterns(&["ceo@*"]), ..Default::default() }, vec!["--sender", "ceo@example.org"]),
        (smtp_direct::config::Conditions { failing_for: Some(seconds(7200)), ..Default::default() }, vec!["--failing-for", "2h"]),
        (smtp_direct::config::Conditions { min_attempts: Some(4), ..Default::default() }, vec!["--attempts", "4"]),
        (smtp_direct::config::Conditions { tag: patterns(&["x"]), ..Default::default() }, vec!["--tag", "x"]),
        (
            smtp_direct::config::Conditions { priority_class: vec![smtp_direct::message::Priority::Bulk], ..Default::default() },
            vec!["--priority", "bulk"],
        ),
    ] {
        let with = route(&server, rules(conditions.clone()), &[&["joe@example.test"], &line[..]].concat()).await;
        assert!(with.out.contains("(override:12)") && with.out.contains("override at line 12: matches"), "{line:?}: {}", with.out);
        let without = route(&server, rules(conditions), &["joe@example.test"]).await;
        assert!(without.out.contains("goes to (mx)") && without.out.contains("override at line 12: no match"), "{line:?}: {}", without.out);
    }
}

#[tokio::test]
async fn a_password_is_never_shown() {
    let mut login = rule(12, everything(), "smart.test:587");
    if let Action::Send { credentials, .. } = &mut login.action {
        *credentials = Some(Arc::new(Credentials::new("joe", "hunter2", false)));
    }
    let server = server().await;
    for line in [&["joe@example.test"][..], &["joe@example.test", "--json"]] {
        let printed = route(&server, vec![login.clone()], line).await;
        assert!(printed.out.contains("joe") && !printed.out.contains("hunter2"), "{}", printed.out);
    }
}

#[tokio::test]
async fn exit_codes_tell_whether_there_is_a_route() {
    let server = server().await;
    server.on("gone.test", RecordType::MX, Script::nxdomain(60, 60)).on("sick.test", RecordType::MX, Script::code(ResponseCode::ServFail));

    let printed = route(&server, Vec::new(), &["joe@gone.test"]).await;
    exits(&printed, 69);
    assert!(printed.out.starts_with("joe@gone.test: the domain does not exist (failed 5.1.2)\n"), "{}", printed.out);

    let printed = route(&server, Vec::new(), &["joe@sick.test", "--json"]).await;
    exits(&printed, 75);
    let object: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!((&object["decision"], &object["status"]), (&"deferred".into(), &"4.4.3".into()));

    let printed = route(&server, Vec::new(), &["no-address"]).await;
    exits(&printed, 64);
    assert!(printed.out.is_empty() && printed.err.contains("no-address"), "{}", printed.err);
    exits(&route(&server, Vec::new(), &["joe@example.test", "--sender", "nobody"]).await, 64);
}

#[tokio::test]
async fn actions_are_told_with_their_rule() {
    let server = server().await;
    let reason = || "moving house".to_owned();
    for (action, word, code) in [
        (Action::Hold { reason: reason() }, "held", 75),
        (Action::Reject { reason: reason() }, "returned", 69),
        (Action::Discard { reason: reason() }, "discarded", 69),
    ] {
        let rule = Override { line: 7, conditions: everything(), action, is_final: false };
        let printed = route(&server, vec![rule], &["joe@example.test"]).await;
        exits(&printed, code);
        assert!(printed.out.contains(word) && printed.out.contains("line 7: moving house"), "{}", printed.out);
    }
}

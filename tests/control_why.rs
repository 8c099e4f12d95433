//! `queue why` beside a running daemon: what the daemon tells of its own copies, and that the command line says just that.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/api.rs"]
mod api;
#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;
#[path = "support/schema.rs"]
mod schema;

use std::process::ExitCode;
use std::time::Duration;

use api::{call, get, post, until};
use clap::{Parser, Subcommand};
use daemon::Daemon;
use net::{Host, Net, answers, friendly};
use serde_json::{Value, json};
use smtp_direct::cli::queue::why::{Question, Sources, run};
use smtp_direct::cli::queue::{QueueArgs, QueueCommand};
use smtp_direct::clock::Timestamp;
use smtp_direct::control::client::Client;
use smtp_direct::route::Family;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Queue(QueueArgs),
}

/// What `queue why` prints, on a thread that may wait: the time as the daemon has it, words joined by single blanks.
async fn says(daemon: &Daemon, words: &str) -> String {
    let Command::Queue(QueueArgs { command: Some(QueueCommand::Why(args)), .. }) =
        Line::parse_from(format!("smtp-direct queue why {words}").split(' ')).command
    else {
        panic!("{words}")
    };
    let now: Timestamp = get(daemon, "/v1/status").await["now"].as_str().unwrap().parse().unwrap();
    let (database, client) = (daemon.layout.database(), Client::new(daemon.layout.root().join("control.sock")));
    let config = daemon.config("");
    let run = move || {
        let (mut out, mut err) = (anstream::StripStream::new(Vec::new()), Vec::new());
        let ask = |question: &Question| question.ask(&client);
        let code = run(&args, Sources { database: &database, config: Some(&config), ask: &ask }, now, &mut out, &mut err);
        assert_eq!((code, String::from_utf8(err).unwrap().as_str()), (ExitCode::SUCCESS, ""));
        String::from_utf8(out.into_inner()).unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The API's answer for the only copy of a message.
async fn why(daemon: &Daemon, id: &str) -> Value {
    get(daemon, &format!("/v1/messages/{id}/why")).await["copies"][0].clone()
}

fn ids(daemon: &mut Daemon) -> Vec<String> {
    daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect()
}

async fn is(daemon: &Daemon, id: &str, state: &str) {
    until(daemon, &format!("/v1/messages/{id}/now"), |now| now["copies"][0]["state"] == state).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_never_tried_names_the_site_that_is_down() {
    let net = Net::default();
    // Two domains at one site: the second one has no history at all.
    net.mx("x.test", &[(10, "mx.x.test")]).mx("y.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[sending]\nsite_down_min = \"3h\"\nsite_down_max = \"9h\"\n[retry]\nschedule = [\"1h\"]\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    daemon.drop_message("two", &["b@y.test"]);
    daemon.wait_for("deferred", 2).await;
    assert_eq!(net.dialled().len(), 1, "the second one was not tried");
    let second = ids(&mut daemon).remove(1);
    is(&daemon, &second, "deferred").await;

    let site = get(&daemon, "/v1/sites/mx.x.test").await;
    let copy = why(&daemon, &second).await;
    assert_eq!((&copy["attempts"], &copy["standing"]["cause"]), (&json!([]), &json!("site_down")));
    let health = &site["health"];
    assert_eq!(
        copy["live"],
        json!({"place": "deferred", "site": {
            "site": site["name"], "down": {"since": health["since"], "until": health["until"], "reason": health["error"]}
        }})
    );
    assert_eq!(get(&daemon, &format!("/v1/messages/{second}/now")).await["copies"][0]["site"], site["name"]);
    let words = says(&daemon, &second).await;
    let name = site["name"].as_str().unwrap();
    for part in [
        "as its site is down",
        &format!("it waits for its time its site is {name} which is down since 20"),
        "(now) and left alone until 20",
        "h): mx.x.test [192.0.2.1]:25: cannot connect: connection refused Route now",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    // Without any way to the resolver's answers either.
    post(&daemon, "/v1/cache/flush", json!({})).await;
    let unasked = &get(&daemon, &format!("/v1/messages/{second}/why?dns=no")).await["copies"][0];
    assert_eq!((&unasked["live"], &unasked["route"]["decisions"]), (&copy["live"], &json!([])));
}

#[tokio::test(start_paused = true)]
async fn a_site_that_was_left_alone_for_long_enough_is_still_to_prove_itself() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).mx("y.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[sending]\nsite_down_min = \"1m\"\nsite_down_max = \"1m\"\n[retry]\nschedule = [\"1h\"]\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    daemon.drop_message("two", &["b@y.test"]);
    daemon.wait_for("deferred", 2).await;
    let second = ids(&mut daemon).remove(1);
    is(&daemon, &second, "deferred").await;
    let site = get(&daemon, "/v1/sites/mx.x.test").await["name"].as_str().unwrap().to_owned();
    // The site's down time passes (paused time, as in all of these tests).
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(get(&daemon, "/v1/sites/mx.x.test").await["health"]["state"], "unproven");
    let words = says(&daemon, &second).await;
    for part in [
        &*format!("its site is {site} which is down since 20"),
        "and was left alone until 20",
        "; one copy is to look whether it is back Route",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_tells_whose_reply_is_whose() {
    let net = Net::default();
    let mixed = Host::Answers(std::sync::Arc::new(|line| {
        let reply = |(name, reply): &(&str, &str)| line.contains(name).then(|| (*reply).to_owned());
        [("<no@", "550 5.1.1 no such user"), ("<full@", "452 4.2.2 full"), ("<big@", "452 4.2.2 full"), ("<late@", "452 4.2.2 full")]
            .iter()
            .find_map(reply)
    }));
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", mixed);
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["yes@x.test", "full@x.test", "no@x.test", "big@x.test", "late@x.test"]);
    daemon.wait_for("deferred", 3).await;
    let id = ids(&mut daemon).remove(0);
    is(&daemon, &id, "deferred").await;
    let trail = why(&daemon, &id).await["attempts"][0]["trail"].clone();
    let expected = "mx.x.test [192.0.2.1]:25: yes@x.test: 250 2.0.0 queued | \
                    full@x.test, big@x.test and 1 more: RCPT TO was answered 452 4.2.2 full | \
                    no@x.test: RCPT TO was answered 550 5.1.1 no such user";
    assert_eq!(trail, json!([expected]));
    // Where all are told the same, it is said once.
    daemon.drop_message("two", &["full@x.test", "big@x.test"]);
    daemon.wait_for("deferred", 5).await;
    let id = ids(&mut daemon).pop().unwrap();
    is(&daemon, &id, "deferred").await;
    let trail = why(&daemon, &id).await["attempts"][0]["trail"].clone();
    assert_eq!(trail, json!(["mx.x.test [192.0.2.1]:25: RCPT TO was answered 452 4.2.2 full"]));
}

#[tokio::test(start_paused = true)]
async fn the_route_is_the_daemons_and_its_answers_have_their_age() {
    let net = Net::default();
    net.mx("x.test", &[(10, "old.x.test")]).host("old.x.test", "192.0.2.1", answers("RCPT", "450 4.2.0 later"));
    net.host("new.x.test", "192.0.2.2", friendly());
    let mut daemon = Daemon::start(&net, "[retry]\nschedule = [\"1h\"]\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    let id = ids(&mut daemon).remove(0);
    is(&daemon, &id, "deferred").await;
    net.mx("x.test", &[(10, "new.x.test")]);
    // So that what the daemon remembers has an age, and is not stale yet.
    tokio::time::sleep(Duration::from_secs(28)).await;

    let route = why(&daemon, &id).await["route"].clone();
    let endpoint = &route["decisions"][0]["endpoints"][0];
    assert_eq!((&endpoint["host"], &route["by"], &route["asked_dns"]), (&json!("old.x.test"), &json!("daemon"), &json!(true)));
    let ages: Vec<(&str, &str, bool)> = route["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| (answer["type"].as_str().unwrap(), answer["state"].as_str().unwrap(), answer["age"].as_f64().unwrap() >= 28.0))
        .collect();
    assert_eq!(ages, [("MX", "cached", true), ("AAAA", "cached", true), ("A", "cached", true)]);
    let words = says(&daemon, &id).await;
    let expected = "Route now old.x.test 192.0.2.1:25 (mx-cached) MX of x.test: 10 old.x.test (cached 28s ago)";
    assert!(words.contains(expected), "{words}");
    // From memory alone it is the same, and what the daemon would do after a flush is something else.
    assert_eq!(get(&daemon, &format!("/v1/messages/{id}/why?dns=no")).await["copies"][0]["route"]["decisions"], route["decisions"]);
    post(&daemon, "/v1/cache/flush", json!({})).await;
    let before = net.mx_queries("x.test");
    let words = says(&daemon, &format!("--no-dns {id}")).await;
    assert!(words.contains("Route now by its MX records; DNS was not asked Next"), "{words}");
    assert_eq!(net.mx_queries("x.test"), before);
    let words = says(&daemon, "a@x.test").await;
    assert!(words.contains("Route now new.x.test 192.0.2.2:25 (mx) MX of x.test: 10 new.x.test AAAA of"), "{words}");
    assert_eq!(net.mx_queries("x.test"), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_overrides_servers_have_their_answers_too() {
    let net = Net::default();
    net.host("relay.test", "192.0.2.9", answers("RCPT", "450 4.2.0 later"));
    let rules = "[[dns.override]]\ndomain = \"y.test\"\nserver = \"other.test\"\n[[dns.override]]\ndomain = \"x.test\"\nserver = \"relay.test:587\"\n";
    let mut daemon = Daemon::start(&net, rules);
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    let id = ids(&mut daemon).remove(0);
    is(&daemon, &id, "deferred").await;
    let route = why(&daemon, &id).await["route"].clone();
    let known: Vec<_> =
        route["answers"].as_array().unwrap().iter().map(|answer| (&answer["name"], &answer["type"], &answer["state"])).collect();
    let answer = |kind: &str| (json!("relay.test"), json!(kind), json!("cached"));
    let (v6, v4) = (answer(Family::V6.record_type()), answer(Family::V4.record_type()));
    assert_eq!(known, [(&v6.0, &v6.1, &v6.2), (&v4.0, &v4.1, &v4.2)]);
    let lines: Vec<&str> = route["why"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let source = route["decisions"][0]["source"].as_str().unwrap();
    let line = source.strip_prefix("override:").unwrap();
    assert!(lines.contains(&format!("override at line {line}: matches").as_str()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn administrators_orders_stand_in_the_chain() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", answers("RCPT", "450 4.2.0 later"));
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test", "b@x.test"]);
    daemon.wait_for("deferred", 2).await;
    let id = ids(&mut daemon).remove(0);
    is(&daemon, &id, "deferred").await;
    // Each order at a time of its own: the chain is in the order of time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    post(&daemon, "/v1/queue/hold", json!({"ids": [id], "reason": "asked for by Bob"})).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    post(&daemon, "/v1/queue/release", json!({"ids": [id], "reason": "Bob is done"})).await;
    daemon.wait_for("deferred", 4).await;
    is(&daemon, &id, "deferred").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Of one recipient only: it becomes a copy of its own, with all that was ordered before.
    post(&daemon, "/v1/queue/hold", json!({"recipient": "a@x.test", "reason": "wait"})).await;

    let answer = get(&daemon, &format!("/v1/messages/{id}/why")).await;
    let copy_of = |to: &str| answer["copies"].as_array().unwrap().iter().find(|copy| copy["recipients"][0]["to"] == to).unwrap();
    let (held, other) = (copy_of("a@x.test"), copy_of("b@x.test"));
    let by = format!("uid {}", nix::unistd::geteuid());
    let orders = |copy: &Value| -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        copy["orders"].as_array().unwrap().iter().map(|one| (text(&one["action"]), text(&one["by"]), text(&one["reason"]))).collect()
    };
    let told = |list: &[(&str, &str)]| -> Vec<_> {
        list.iter().map(|(action, why)| ((*action).to_owned(), by.clone(), (*why).to_owned())).collect()
    };
    assert_eq!(orders(held), told(&[("hold", "asked for by Bob"), ("release", "Bob is done"), ("hold", "wait")]));
    assert_eq!(orders(other), told(&[("hold", "asked for by Bob"), ("release", "Bob is done")]));
    let standing = &held["standing"];
    assert_eq!(
        (&standing["kind"], &standing["by"], &standing["who"], &standing["reason"]),
        (&json!("held"), &json!("administrator"), &json!(by), &json!("wait"))
    );
    assert_eq!(standing["since"], held["orders"][2]["at"]);
    let steps: Vec<&str> = other["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps[..5], ["accepted", "attempt", "order", "order", "attempt"]);
    let words = says(&daemon, "a@x.test").await;
    assert!(words.contains(&format!("Copy to x.test: on hold by {by} since 20")), "{words}");
    assert!(words.contains(&format!("(now): wait Held by {by}, 20")) || words.contains("(now): wait Attempt 1, 20"), "{words}");
    let at = |words: &str, part: &str| words.find(part).unwrap_or_else(|| panic!("{part}: {words}"));
    let order = ["Attempt 1, ", &format!("Held by {by}, "), &format!("Released by {by}, "), "Attempt 2, "].map(|part| at(&words, part));
    assert!(order.is_sorted(), "{words}");
}

#[tokio::test(start_paused = true)]
async fn who_was_told_is_what_was_sent() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]);
    net.host("mx.x.test", "192.0.2.1", answers("RCPT", "450 4.2.0 later"));
    let discards = "[[dns.override]]\ndomain = \"gone.test\"\naction = \"discard\"\nreason = \"nobody wants it\"\n";
    let mut daemon = Daemon::start(&net, discards);
    daemon.drop_message("one", &["a@x.test", "b@x.test", "c@gone.test"]);
    daemon.wait_for("deferred", 2).await;
    daemon.wait_for("discarded", 1).await;
    let id = ids(&mut daemon).remove(0);
    let waits = |now: &Value| now["copies"].as_array().unwrap().iter().any(|copy| copy["state"] == "deferred");
    until(&daemon, &format!("/v1/messages/{id}/now"), waits).await;
    post(&daemon, "/v1/queue/bounce", json!({"recipient": "a@x.test", "reason": "moved away"})).await;
    post(&daemon, "/v1/queue/remove", json!({"recipient": "b@x.test", "reason": "spam"})).await;
    // The report of the first one, and the message.
    daemon.wait_for("finished", 2).await;
    let told = |answer: &Value, to: &str| {
        let all = answer["copies"].as_array().unwrap().iter().flat_map(|copy| copy["recipients"].as_array().unwrap());
        all.clone().find(|recipient| recipient["to"] == to).unwrap()["told"].clone()
    };
    let answer = get(&daemon, &format!("/v1/messages/{id}/why")).await;
    let reports = net.transactions();
    let report = String::from_utf8(reports[0].data.clone()).unwrap();
    assert_eq!(reports.len(), 1);
    for (to, reported, expected) in [
        ("a@x.test", true, json!({"action": "failed", "to": "alice@sender.test", "done": true, "kept": false, "nobody": null})),
        ("b@x.test", false, json!({"action": null, "to": null, "done": false, "kept": false, "nobody": "removed"})),
        ("c@gone.test", false, json!({"action": null, "to": null, "done": false, "kept": false, "nobody": "discarded"})),
    ] {
        assert_eq!(report.contains(&format!("Final-Recipient: rfc822; {to}")), reported, "{to}: {report}");
        assert_eq!(told(&answer, to), expected, "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_copy_of_many_and_questions_that_make_no_sense() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).mx("y.test", &[(10, "mx.x.test")]).host(
        "mx.x.test",
        "192.0.2.1",
        answers("RCPT", "450 4.2.0 later"),
    );
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test", "b@y.test"]);
    daemon.wait_for("deferred", 2).await;
    let id = ids(&mut daemon).remove(0);
    let all = get(&daemon, &format!("/v1/messages/{id}/why")).await;
    let (first, second) = (&all["copies"][0], &all["copies"][1]);
    assert_ne!(first["domain"], second["domain"]);
    let one = get(&daemon, &format!("/v1/messages/{id}/why?copy={}", second["copy"])).await;
    assert_eq!((one["copies"].as_array().unwrap().len(), &one["copies"][0]["domain"]), (1, &second["domain"]));
    let words = says(&daemon, second["recipients"][0]["to"].as_str().unwrap()).await;
    assert_eq!(words.matches("Copy to ").count(), 1, "{words}");
    for (query, status, words) in
        [("why?copy=x", 400, "a copy's number"), ("why?dns=perhaps", 400, "yes or no"), ("why?dns_timeout=-1", 400, "a number of seconds")]
    {
        let (given, answer) = call(&daemon, "GET", &format!("/v1/messages/{id}/{query}"), Value::Null).await;
        assert_eq!(given, status, "{query}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{query}: {answer}");
    }
}

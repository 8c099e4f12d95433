//! The control socket of a running daemon: what it shows, and what each action does to copies in each state.
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

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use api::{call, get, post, until};
use daemon::Daemon;
use net::{Host, Net};
use schema::Description;
use serde_json::{Value, json};
use smtp_direct::control::client::encoded;
use smtp_direct::control::{Listener, ROUTES, SocketError};
use smtp_direct::queue::{HistoryFilter, Inspect};
use tokio::sync::watch;
use tokio::time::Instant;

fn copy_is(state: &str) -> impl Fn(&Value) -> bool {
    let state = state.to_owned();
    move |answer| answer["copies"][0]["state"] == state.as_str()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let mut routes: Vec<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    routes.sort();
    let description = Description::load();
    assert_eq!(routes, description.operations());
    for route in ROUTES {
        assert_eq!(route.query, description.query((route.method, route.path)), "{} {}", route.method, route.path);
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_has_delivered_shows_what_it_did() {
    let net = Net::default();
    net.domain("a.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["x@a.test"]);
    daemon.wait_for("finished", 1).await;

    let status = get(&daemon, "/v1/status").await;
    assert_eq!(status["state"], "running");
    assert_eq!(status["throughput"]["total"], json!({"accepted": 1, "delivered": 1, "deferred": 0, "failed": 0}));
    assert_eq!((status["queue"]["messages"].clone(), status["workers"]["total"].clone()), (json!(0), json!(10)));
    assert!(status["memory"].as_u64().unwrap() > 1_000_000);

    let sites = get(&daemon, "/v1/sites").await;
    let name = sites["sites"][0]["name"].as_str().unwrap();
    let site = get(&daemon, &format!("/v1/sites/{}", encoded(name))).await;
    assert_eq!((site["delivered"].clone(), site["health"]["state"].clone()), (json!(1), json!("up")));
    assert_eq!((site["last"]["outcome"].clone(), site["last"]["host"].clone()), (json!("delivered"), json!("mx.a.test")));

    let outcomes = get(&daemon, "/v1/outcomes/recent").await;
    let outcome = &outcomes["outcomes"][0];
    assert_eq!(
        (outcome["to"].clone(), outcome["outcome"].clone(), outcome["site"].clone()),
        (json!("x@a.test"), json!("delivered"), json!(name))
    );
    assert_eq!(get(&daemon, "/v1/outcomes/recent?after=1").await["outcomes"], json!([]));

    let cache = get(&daemon, "/v1/cache").await;
    let names: Vec<&str> = cache["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"a.test") && names.contains(&"mx.a.test"), "{cache}");
    assert_eq!(post(&daemon, "/v1/cache/flush", json!({"name": "A.Test"})).await, json!({"flushed": 1}));
    assert_eq!(post(&daemon, "/v1/cache/flush", json!({})).await["flushed"], json!(names.len() - 1));

    let id = daemon.seen("accepted")[0].field("id").to_owned();
    assert_eq!(get(&daemon, &format!("/v1/messages/{id}/now")).await["copies"][0]["state"], "finished");
    assert_eq!(get(&daemon, "/openapi.json").await, Description::load().0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn intake_that_lacks_space_says_so_until_there_is_some() {
    let net = Net::default();
    net.domain("x.test", "192.0.2.1");
    let mut daemon = Daemon::start(&net, "[spool]\nmin_free = \"1000 TB\"\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("started", 1).await;
    let status = until(&daemon, "/v1/status", |status| status["intake"] == "paused").await;
    let reason = status["intake_reason"].as_str().unwrap();
    assert!(reason.starts_with("too little space: ") && reason.ends_with(" wanted (spool.min_free)"), "{reason}");
    assert!(daemon.metrics().await.contains("\nsmtp_direct_intake_paused 1\n"));
    daemon.reloads.send(daemon.config("[spool]\nmin_free = \"0\"\n")).await.unwrap();
    daemon.wait_for("finished", 1).await;
    let status = until(&daemon, "/v1/status", |status| status["intake"] == "running").await;
    assert_eq!(status["intake_reason"], Value::Null);
    assert!(daemon.metrics().await.contains("\nsmtp_direct_intake_paused 0\n"));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let mut daemon = Daemon::start(&Net::default(), "");
    daemon.wait_for("started", 1).await;
    for (method, target, body, status, words) in [
        ("GET", "/v1/nothing", Value::Null, 404, "there is no /v1/nothing"),
        ("POST", "/v1/status", Value::Null, 405, "this path has no POST"),
        ("GET", "/v1/sites/none", Value::Null, 404, "no site 1 none:25 is known"),
        ("GET", "/v1/messages/x/now", Value::Null, 400, "no id"),
        ("GET", "/v1/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV/now", Value::Null, 404, "there is no message"),
        ("POST", "/v1/queue/burn", json!({"all": true}), 404, "nothing called \"burn\""),
        ("POST", "/v1/queue/hold", json!({}), 400, "which copies?"),
        ("POST", "/v1/queue/hold", json!({"all": true, "domain": "a.test"}), 400, "goes with no condition"),
        ("POST", "/v1/queue/hold", json!({"domain": ""}), 400, "an empty condition"),
        ("POST", "/v1/queue/hold", json!({"domian": "a.test"}), 400, "unknown field `domian`"),
        ("POST", "/v1/queue/hold", json!({"ids": ["x"]}), 400, "\"x\" is no id"),
        ("POST", "/v1/queue/hold", json!({"all": true, "reason": "a\nb"}), 400, "one line"),
        ("POST", "/v1/queue/hold", json!({"older_than": -1.0}), 400, "number of seconds"),
        ("GET", "/v1/outcomes/recent?after=x", Value::Null, 400, "after=x: "),
        ("GET", "/v1/outcomes/recent?before=1", Value::Null, 400, "has \"before\"; this path takes after"),
        ("GET", "/v1/status?a=1", Value::Null, 400, "has \"a\"; this path takes nothing"),
        ("POST", "/v1/queue/hold?id=x", json!({"all": true}), 400, "has \"id\"; this path takes nothing"),
        (
            "GET",
            "/v1/queue?outcome=failed",
            Value::Null,
            400,
            "has \"outcome\"; this path takes id, to, from, domain, site, tag, message_id, state,",
        ),
        ("GET", "/v1/history?domian=a.test", Value::Null, 400, "has \"domian\"; this path takes id, to, from, domain, message_id, since,"),
        ("GET", "/v1/history?domain", Value::Null, 400, "\"domain\" is no NAME=VALUE"),
        ("GET", "/v1/history?domain=", Value::Null, 400, "domain: it is empty"),
        ("GET", "/v1/history?limit=1&limit=2", Value::Null, 400, "limit: it is given more than once"),
        (
            "GET",
            "/v1/history?outcome=lost",
            Value::Null,
            400,
            "outcome=lost: write delivered, failed, expired, discarded, bounced or removed",
        ),
        ("GET", "/v1/queue?state=finished", Value::Null, 400, "state=finished: write queued, sending or held"),
        ("GET", "/v1/history?since=soon", Value::Null, 400, "since=soon: write it as \"2h\""),
        ("GET", "/v1/history?cursor=7", Value::Null, 400, "cursor=7: write it as the page before"),
        ("GET", "/v1/queue?cursor=7", Value::Null, 400, "cursor=7: write it as the page before"),
        ("GET", "/v1/queue?count=yes", Value::Null, 400, "count=yes: "),
        ("GET", "/v1/queue?until=1h&older_than=1h", Value::Null, 400, "says the same as until"),
        ("POST", "/v1/cache/flush", json!({"name": "a b"}), 400, "is no name"),
        ("POST", "/v1/cache/flush", json!({"name": "x".repeat(2 << 20)}), 413, "larger than"),
    ] {
        let (given, answer) = call(&daemon, method, target, body).await;
        assert_eq!(given, status, "{target}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{target}: {answer}");
    }
}

/// How many of the queue (or of the history) answer to a query: as it counts them, after going through its pages, two lines each.
async fn found(daemon: &Daemon, what: &str, query: &str) -> u64 {
    let lines = if what == "queue" { "copies" } else { "outcomes" };
    let (mut cursor, mut count, mut seen) = (String::new(), None, Vec::new());
    loop {
        let counting = if cursor.is_empty() { "&count=true" } else { "" };
        let page = get(daemon, &format!("/v1/{what}?limit=2{counting}{query}{cursor}")).await;
        count = count.or(page["count"].as_u64());
        let rows = page[lines].as_array().unwrap();
        seen.extend(rows.iter().map(|row| format!("{} {} {}", row["id"], row["domain"], row["to"])));
        assert_eq!(page["more"], page["next"].is_string());
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(rows.len(), 2);
        cursor = format!("&cursor={next}");
    }
    assert_eq!(Some(seen.len() as u64), count, "{what} {query}: {seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(Some(seen.len() as u64), count, "{what} {query}: a line is on two pages");
    seen.len() as u64
}

#[tokio::test(start_paused = true)]
async fn queue_and_history_are_searched_by_what_the_command_line_searches_by() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").domain("good.test", "192.0.2.1");
    net.mx("bad.test", &[(10, "mx.bad.test")]).host("mx.bad.test", "192.0.2.2", net::answers("RCPT TO:<N", "550 5.1.1 nobody"));
    net.mx("grey.test", &[(10, "mx.grey.test")]).host("mx.grey.test", "192.0.2.3", net::answers("RCPT", "451 4.7.1 later"));
    net.mx("grey2.test", &[(10, "mx.grey.test")]);
    let mut daemon = Daemon::start(&net, "[[dns.override]]\ndomain = \"held.test\"\naction = \"hold\"\nreason = \"for the test\"\n");
    daemon.drop_message("one", &["a@good.test", "b@good.test", "c@good.test", "n@bad.test"]);
    daemon.drop_message("two", &["d@grey.test", "e@held.test", "f@grey2.test"]);
    daemon.wait_for("accepted", 2).await;
    // The one that is not taken is reported to its sender.
    daemon.wait_for("delivered", 4).await;
    daemon.wait_for("deferred", 2).await;
    let id =
        daemon.seen("accepted").iter().find(|event| event.field("from") == "alice@sender.test").map(|event| event.field("id").to_owned());
    let id = id.unwrap();
    until(&daemon, "/v1/queue?domain=held.test", copy_is("held")).await;
    until(&daemon, "/v1/queue?state=queued&count=true", |found| found["count"] == 2).await;
    let field = get(&daemon, "/v1/history?to=a@*").await["outcomes"][0]["message_id"].as_str().unwrap().to_owned();
    let (field, bare) = (encoded(&field), encoded(field.trim_matches(['<', '>'])));
    for (query, count) in [
        ("", 5),
        ("&domain=good.test", 3),
        ("&domain=*.test&outcome=delivered", 4),
        ("&outcome=failed", 1),
        ("&outcome=expired", 0),
        ("&outcome=bounced", 0),
        ("&outcome=removed", 0),
        ("&in_doubt=true", 0),
        ("&in_doubt=false", 5),
        ("&from=%3C%3E", 1),
        ("&to=*@good.test&from=alice@sender.test", 3),
        (&format!("&id={id}"), 4),
        (&format!("&message_id={field}"), 4),
        (&format!("&message_id={bare}"), 4),
        ("&since=1h", 5),
        ("&since=3600&until=2100-01-01", 5),
        ("&until=1h", 0),
        ("&since=2100-01-01", 0),
    ] {
        assert_eq!(found(&daemon, "history", query).await, count, "{query}");
    }
    for (query, count) in [
        ("", 3),
        ("&state=held", 1),
        ("&state=queued", 2),
        ("&state=sending", 0),
        ("&domain=grey*", 2),
        ("&to=d@*", 1),
        ("&from=%3C%3E", 0),
        (&format!("&message_id={field}"), 0),
        ("&message_id=*", 3),
        ("&since=1h", 3),
        ("&until=1h", 0),
        ("&older_than=3600", 0),
        ("&until=2100-01-01T00:00:00Z&since=2h", 3),
    ] {
        assert_eq!(found(&daemon, "queue", query).await, count, "{query}");
    }
    daemon.stop().await;
}

/// Domain `x.test` with one host, and one session to it at a time.
const ONE_SESSION: &str = "[smtp]\ngreeting_timeout = \"1d\"\n[sending]\nworkers = 1\nper_site = 1\n";

/// A host that takes connections and greets once the switch is on, and a daemon that has one copy there and two that wait.
async fn at_the_gate() -> (Net, watch::Sender<bool>, Daemon, Vec<String>) {
    let net = Net::default();
    let (open, gate) = watch::channel(false);
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Gate(gate)).domain("sender.test", "192.0.2.8");
    let mut daemon = Daemon::start(&net, ONE_SESSION);
    let mut ids = Vec::new();
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        daemon.drop_message(name, &[&format!("{name}@x.test")]);
        ids.push(daemon.wait_for("accepted", n + 1).await[n].field("id").to_owned());
        // The worker takes no more along once it is at the gate.
        until(&daemon, &format!("/v1/messages/{}/now", ids[0]), |now| now["copies"][0]["phase"] == "connecting").await;
    }
    until(&daemon, &format!("/v1/messages/{}/now", ids[2]), copy_is("waiting")).await;
    (net, open, daemon, ids)
}

async fn now(daemon: &Daemon, id: &str) -> Value {
    get(daemon, &format!("/v1/messages/{id}/now")).await["copies"][0].clone()
}

fn result(answer: &Value) -> (&str, &str) {
    (answer["results"][0]["result"].as_str().unwrap(), answer["results"][0]["text"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn where_each_copy_is_and_what_it_waits_for() {
    let (_net, open, mut daemon, ids) = at_the_gate().await;
    let first = now(&daemon, &ids[0]).await;
    assert_eq!(
        (first["state"].as_str(), first["host"].as_str(), first["address"].as_str()),
        (Some("sending"), Some("mx.x.test"), Some("192.0.2.1:25"))
    );
    let third = now(&daemon, &ids[2]).await;
    assert_eq!((third["place"].clone(), third["of"].clone()), (json!(2), json!(2)));
    assert_eq!((third["waits_for"].as_str(), third["sessions"].clone(), third["limit"].clone()), (Some("site-limit"), json!(1), json!(1)));
    let status = get(&daemon, "/v1/status").await;
    assert_eq!(status["workers"], json!({"total": 1, "busy": 1, "sessions": 0, "idle": 0}));
    assert_eq!((status["queue"]["sending"].clone(), status["queue"]["due"].clone()), (json!(1), json!(2)));
    let session = get(&daemon, "/v1/sessions").await["sessions"][0].clone();
    assert_eq!(
        (session["state"].as_str(), session["host"].as_str(), session["copies"].clone()),
        (Some("opening"), Some("mx.x.test"), json!(1))
    );
    // No attempt has ended: it is the board that knows the site.
    let shape = &get(&daemon, "/v1/queue/shape").await["sites"][0];
    assert_eq!((shape["site"].clone(), shape["copies"].clone()), (json!("1 mx.x.test:25"), json!(3)));
    let site = &get(&daemon, "/v1/sites").await["sites"][0];
    assert_eq!((site["sessions"].clone(), site["waiting"].clone(), site["connected"].clone()), (json!(1), json!(2), json!(0)));
    open.send_replace(true);
    daemon.wait_for("finished", 3).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_sent_is_left_alone_and_what_waits_is_held_and_released() {
    let (net, open, mut daemon, ids) = at_the_gate().await;
    for action in ["retry", "hold", "release", "bounce", "remove"] {
        let answer = post(&daemon, &format!("/v1/queue/{action}"), json!({"ids": [ids[0]]})).await;
        assert_eq!(result(&answer).0, "being-sent", "{answer}");
        assert_eq!(answer["copies"], 0);
    }
    let answer = post(&daemon, "/v1/queue/hold", json!({"ids": [ids[1]], "reason": "let me look"})).await;
    assert_eq!((result(&answer), answer["recipients"].clone()), (("done", "held"), json!(1)));
    let held = now(&daemon, &ids[1]).await;
    assert_eq!((held["state"].as_str(), held["reason"].as_str()), (Some("held"), Some("let me look")));
    assert_eq!(result(&post(&daemon, "/v1/queue/hold", json!({"ids": [ids[1]]})).await).0, "already");
    assert_eq!(result(&post(&daemon, "/v1/queue/retry", json!({"ids": [ids[1]]})).await), ("on-hold", "is on hold: release it"));
    assert_eq!(now(&daemon, &ids[2]).await["of"], 1, "it has left the line");

    open.send_replace(true);
    daemon.wait_for("finished", 2).await;
    assert_eq!(net.transactions().len(), 2);
    let answer = post(&daemon, "/v1/queue/release", json!({"recipient": "two@*"})).await;
    assert_eq!(result(&answer), ("done", "released"));
    daemon.wait_for("finished", 3).await;
    assert_eq!(net.transactions().len(), 3);
    let answer = post(&daemon, "/v1/queue/release", json!({"ids": [ids[1], "01ARZ3NDEKTSV4RRFFQ69G5FAV"]})).await;
    assert_eq!(answer["counts"], json!({"finished": 1, "unknown": 1}));
    let log: Vec<_> = ["held", "released"].into_iter().flat_map(|verb| daemon.seen(verb)).collect();
    assert_eq!(log.len(), 2);
    assert_eq!((log[0].field("id"), log[0].field("domain"), log[0].field("reason")), (ids[1].as_str(), "x.test", "let me look"));
    assert_eq!(log[0].field("by"), format!("uid {}", nix::unistd::geteuid()));
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_at_once_also_where_the_site_was_down() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", Host::Refuses);
    let mut daemon = Daemon::start(&net, "[sending]\nsite_down_min = \"3h\"\nsite_down_max = \"9h\"\n[retry]\nschedule = [\"1h\"]\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    daemon.drop_message("two", &["b@x.test"]);
    daemon.wait_for("deferred", 2).await;
    let began = Instant::now();
    let ids: Vec<String> = daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect();
    until(&daemon, &format!("/v1/messages/{}/now", ids[1]), copy_is("deferred")).await;
    let site = get(&daemon, "/v1/sites").await["sites"][0].clone();
    assert_eq!(site["health"]["state"], "down");
    let target = format!("/v1/sites/{}/retry", encoded(site["name"].as_str().unwrap()));

    // Still down: the one that looks finds out, and both are deferred again.
    let answer = post(&daemon, &target, json!({})).await;
    assert_eq!((answer["copies"].clone(), answer["changed"].clone()), (json!(2), json!(true)));
    daemon.wait_for("deferred", 4).await;
    assert_eq!(net.dialled().len(), 2);
    net.becomes("192.0.2.1", net::friendly());
    until(&daemon, &format!("/v1/messages/{}/now", ids[0]), copy_is("deferred")).await;
    until(&daemon, &format!("/v1/messages/{}/now", ids[1]), copy_is("deferred")).await;
    assert_eq!(post(&daemon, "/v1/queue/retry", json!({"site": "mx.x.test", "reason": "they are back"})).await["copies"], 2);
    daemon.wait_for("finished", 2).await;
    assert!(began.elapsed() < Duration::from_secs(60), "nothing was waited for");
    assert_eq!(daemon.seen("retried").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_bounced_is_returned_and_what_is_removed_is_gone() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8").mx("x.test", &[(10, "mx.x.test")]);
    net.host("mx.x.test", "192.0.2.1", net::answers("RCPT", "450 4.2.0 later"));
    let mut daemon = Daemon::start(&net, "");
    daemon.drop_message("one", &["a@x.test", "b@x.test", "c@x.test"]);
    daemon.wait_for("deferred", 3).await;
    let id = daemon.seen("accepted")[0].field("id").to_owned();
    until(&daemon, &format!("/v1/messages/{id}/now"), copy_is("deferred")).await;

    let answer = post(&daemon, "/v1/queue/bounce", json!({"recipient": "a@x.test", "reason": "moved away"})).await;
    assert_eq!(
        (result(&answer).0, answer["results"][0]["to"].clone(), answer["finished"].clone()),
        ("done", json!(["a@x.test"]), json!(0))
    );
    daemon.wait_for("finished", 1).await;
    let report = String::from_utf8(net.transactions()[0].data.clone()).unwrap();
    for words in ["Final-Recipient: rfc822; a@x.test", "Status: 5.7.1", "returned by the administrator of this server: moved away"] {
        assert!(report.contains(words), "{words}\n{report}");
    }
    assert!(!report.contains("b@x.test"));

    let answer = post(&daemon, "/v1/queue/remove", json!({"ids": [id], "reason": "spam"})).await;
    assert_eq!((answer["recipients"].clone(), answer["finished"].clone()), (json!(2), json!(1)));
    daemon.wait_for("finished", 2).await;
    assert!(!daemon.layout.message_file(id.parse().unwrap()).exists());
    assert_eq!(daemon.seen("removed").iter().map(|event| event.field("to").to_owned()).collect::<Vec<_>>(), ["b@x.test", "c@x.test"]);
    assert_eq!(daemon.seen("bounced").len(), 1);
    assert_eq!(net.transactions().len(), 1, "nobody is told of what is removed");
    let history = daemon.inspect().history(&HistoryFilter { id: Some(id.parse().unwrap()), ..HistoryFilter::default() }).unwrap();
    assert_eq!(history.iter().filter(|row| row.outcome.text.contains("removed by the administrator of this server: spam")).count(), 2);
    for (outcome, to) in [("bounced", &["a@x.test"][..]), ("removed", &["b@x.test", "c@x.test"])] {
        let listed = get(&daemon, &format!("/v1/history?outcome={outcome}&count=true")).await;
        let mut found: Vec<&str> = listed["outcomes"].as_array().unwrap().iter().map(|line| line["to"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!((&*found, &listed["count"]), (to, &json!(to.len())), "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_override_holds_is_released_for_good() {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", net::answers_at_first(1, "RCPT", "450 4.2.0 later"));
    let mut daemon = Daemon::start(&net, "[[dns.override]]\ndomain = \"x.test\"\naction = \"hold\"\nreason = \"wait\"\n");
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("held", 1).await;
    let id = daemon.seen("accepted")[0].field("id").to_owned();
    until(&daemon, &format!("/v1/messages/{id}/now"), copy_is("held")).await;
    post(&daemon, "/v1/queue/release", json!({"all": true})).await;
    daemon.wait_for("deferred", 1).await;
    // Also after a restart, and at the next attempt.
    daemon.stop().await;
    daemon.resume();
    daemon.wait_for("finished", 1).await;
    assert_eq!((daemon.seen("held").len(), net.transactions().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_site_gets_nothing_until_it_is_resumed_also_after_a_restart() {
    let (net, open, mut daemon, ids) = at_the_gate().await;
    let name = get(&daemon, "/v1/sites").await["sites"][0]["name"].as_str().unwrap().to_owned();
    let site = format!("/v1/sites/{}", encoded(&name));
    let answer = post(&daemon, &format!("{site}/pause"), json!({"reason": "they asked"})).await;
    assert_eq!(answer, json!({"name": name, "known": true, "changed": true, "copies": 0}));
    assert_eq!(post(&daemon, &format!("{site}/pause"), json!({})).await["changed"], false);
    let waits = now(&daemon, &ids[2]).await;
    assert_eq!(
        (waits["state"].as_str(), waits["waits_for"].as_str(), waits["reason"].as_str()),
        (Some("due"), Some("paused"), Some("they asked"))
    );
    open.send_replace(true);
    daemon.wait_for("finished", 1).await;
    // Others are sent to, and new mail for the site waits with the rest.
    net.domain("y.test", "192.0.2.2");
    daemon.drop_message("four", &["d@x.test", "e@y.test"]);
    daemon.wait_for("delivered", 2).await;
    let line = get(&daemon, &site).await;
    assert_eq!(
        (line["paused"]["reason"].as_str(), line["parked_domains"].clone(), line["delivered"].clone()),
        (Some("they asked"), json!(1), json!(1))
    );
    assert_eq!(get(&daemon, "/v1/status").await["sites"]["paused"], 1);

    daemon.stop().await;
    daemon.resume();
    daemon.wait_for("started", 2).await;
    until(&daemon, &format!("/v1/messages/{}/now", ids[2]), |now| now["copies"][0]["waits_for"] == "paused").await;
    assert_eq!(net.transactions().iter().filter(|transaction| transaction.rcpts[0].ends_with("@x.test")).count(), 1);
    // A server of it names it, too.
    let server = name.strip_prefix("1 ").unwrap().strip_suffix(":25").unwrap();
    assert_eq!(get(&daemon, &format!("/v1/sites/{server}")).await["name"], name);
    let answer = post(&daemon, &format!("/v1/sites/{server}/resume"), json!({})).await;
    assert_eq!((answer["name"].clone(), answer["changed"].clone()), (json!(name), json!(true)));
    assert_eq!(post(&daemon, &format!("{site}/resume"), json!({})).await["changed"], false);
    daemon.wait_for("finished", 4).await;
    // One that nothing was sent to yet is paused before anything is.
    let answer = post(&daemon, "/v1/sites/mx.z.test/pause", json!({})).await;
    assert_eq!(answer, json!({"name": "1 mx.z.test:25", "known": false, "changed": true, "copies": 0}));
    net.mx("z.test", &[(5, "mx.z.test")]).host("mx.z.test", "192.0.2.3", net::friendly());
    daemon.drop_message("five", &["f@z.test"]);
    let id = daemon.wait_for("accepted", 5).await[4].field("id").to_owned();
    until(&daemon, &format!("/v1/messages/{id}/now"), |now| now["copies"][0]["waits_for"] == "paused").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_socket_is_replaced_a_live_one_and_other_files_are_not() {
    let mut daemon = Daemon::start(&Net::default(), "");
    daemon.wait_for("started", 1).await;
    let socket = daemon.layout.root().join("control.sock");
    let mode = std::fs::symlink_metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = Listener::bind(&socket, None).unwrap_err();
    assert!(error.to_string().contains("is in use by a running program"), "{error}");
    daemon.stop().await;
    assert!(!socket.exists());
    // As a killed one leaves it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    daemon.resume();
    daemon.wait_for("started", 2).await;
    assert_eq!(get(&daemon, "/v1/status").await["state"], "running");
    daemon.stop().await;
    std::fs::write(&socket, "mine").unwrap();
    assert!(matches!(Listener::bind(&socket, None), Err(SocketError::NoSocket { .. })));
    let long = socket.with_file_name("x".repeat(108));
    let error = Listener::bind(&long, None).map(drop).unwrap_err().to_string();
    assert!(error.contains("at most 107: set control.socket to a shorter one"), "{error}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
    assert!(matches!(Listener::bind(&socket.with_extension("x"), Some("no-such-group")), Err(SocketError::NoGroup { .. })));
}

/// Orders of every kind, in every state that copies come through, with sessions that refuse, defer and deliver: whatever comes first,
/// everybody gets the message once or is given up, and never both.
#[tokio::test(start_paused = true)]
async fn whatever_is_ordered_meanwhile_nobody_is_lost_or_served_twice() {
    const DOMAINS: usize = 6;
    let net = Net::default();
    net.domain("sender.test", "192.0.2.200");
    for n in 0..DOMAINS {
        let (mx, ip) = (format!("mx.d{n}.test"), format!("192.0.2.{}", n + 1));
        let host = match n % 3 {
            0 => Host::Slow(Duration::from_millis(150)),
            1 => net::answers_at_first(20, "RCPT TO:<B", "450 4.2.0 later"),
            _ => net::answers_at_first(10, ".", "451 4.3.0 not now"),
        };
        net.mx(&format!("d{n}.test"), &[(10, &mx)]).host(&mx, &ip, host);
    }
    let mut daemon = Daemon::start(&net, "[sending]\nworkers = 4\nper_site = 1\n[retry]\nschedule = [\"1s\", \"5s\"]\n");
    daemon.wait_for("started", 1).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let mut everybody = Vec::new();
    for n in 0..80 {
        let to: Vec<String> = ["a", "b", "c"].iter().map(|who| format!("{who}{n}@d{}.test", rng.usize(..DOMAINS))).collect();
        daemon.drop_message(&format!("m{n}"), &to.iter().map(String::as_str).collect::<Vec<_>>());
        everybody.extend(to);
    }
    daemon.wait_for("accepted", 10).await;
    for n in 0..120 {
        let open: Vec<&String> = everybody.iter().filter(|who| ended(&net, &mut daemon, who) == 0).collect();
        let Some(who) = open.get(rng.usize(..open.len().max(1))) else { break };
        let action = ["retry", "hold", "hold", "release", "bounce", "remove"][rng.usize(..6)];
        let selection = match (action, rng.usize(..3)) {
            ("bounce" | "remove", _) | (_, 0) => json!({"recipient": who}),
            (_, 1) => json!({"domain": who.split('@').nth(1)}),
            _ => json!({"all": true}),
        };
        post(&daemon, &format!("/v1/queue/{action}"), selection).await;
        let sites = get(&daemon, "/v1/sites").await;
        if let Some(site) = sites["sites"].get(rng.usize(..DOMAINS)) {
            let site = encoded(site["name"].as_str().unwrap());
            post(&daemon, &format!("/v1/sites/{site}/{}", ["pause", "resume", "resume"][n % 3]), json!({})).await;
        }
        // Time goes on: sessions come to different places between two orders.
        tokio::time::advance(Duration::from_millis(rng.u64(..60))).await;
    }
    daemon.wait_for("accepted", 80).await;
    // Reports come on top; everything that was dropped ends.
    let mut rounds = 0;
    while !(everybody.iter().all(|who| ended(&net, &mut daemon, who) > 0)) {
        rounds += 1;
        assert!(rounds < 200, "{:#?}", get(&daemon, "/v1/status").await);
        for site in get(&daemon, "/v1/sites").await["sites"].as_array().unwrap() {
            post(&daemon, &format!("/v1/sites/{}/resume", encoded(site["name"].as_str().unwrap())), json!({})).await;
        }
        post(&daemon, "/v1/queue/release", json!({"all": true})).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    daemon.stop().await;
    for who in &everybody {
        assert_eq!(ended(&net, &mut daemon, who), 1, "{who}");
    }
    let delivered = everybody.iter().filter(|who| net.transactions().iter().any(|transaction| transaction.rcpts.contains(who))).count();
    let given_up = daemon.seen("bounced").len() + daemon.seen("removed").len();
    assert!(given_up > 10 && delivered > 100, "it went both ways: {delivered} and {given_up}");
    assert_eq!(daemon.seen("delivered").iter().filter(|event| !event.field("to").contains("@sender.test")).count(), delivered);
}

/// How often this recipient's message was taken by a host, or was given up.
fn ended(net: &Net, daemon: &mut Daemon, who: &str) -> usize {
    let taken = net.transactions().iter().filter(|transaction| transaction.rcpts.iter().any(|rcpt| rcpt == who)).count();
    let given_up = ["bounced", "removed"].into_iter().flat_map(|verb| daemon.seen(verb)).filter(|event| event.field("to") == who).count();
    taken + given_up
}

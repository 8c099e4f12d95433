//! The control socket of a running daemon: what it shows, and what each action does to copies in each state.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;
#[path = "support/schema.rs"]
mod schema;

use daemon::Daemon;
use net::Net;
use schema::Description;
use serde_json::{Value, json};
use smtp_direct::control::ROUTES;
use smtp_direct::control::client::{Client, encoded};

/// The route that a target is of.
fn route_of(method: &str, target: &str) -> &'static str {
    let path = target.split('?').next().unwrap();
    let is_of = |route: &str| {
        let (own, given): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
        own.len() == given.len() && own.iter().zip(given).all(|(own, given)| own.starts_with('{') || *own == given)
    };
    ROUTES.iter().find(|route| route.method == method && is_of(route.path)).map_or("/v1/status", |route| route.path)
}

/// Asks on a thread that may wait, which also keeps paused time from running on. Every answer is held against the description.
async fn call(daemon: &Daemon, method: &'static str, target: &str, body: Value) -> (u16, Value) {
    let client = Client::new(daemon.layout.root().join("control.sock"));
    let place = (method, route_of(method, target));
    let target = target.to_owned();
    let sent = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let asked = target.clone();
    let (status, answer) = tokio::task::spawn_blocking(move || client.request(method, &asked, &sent)).await.unwrap().unwrap();
    let answer = serde_json::from_slice(&answer).unwrap();
    let description = Description::load();
    description.answer(place, status, &answer).unwrap();
    if status == 200 && !body.is_null() {
        description.body(place, &body).unwrap();
    }
    (status, answer)
}

async fn get(daemon: &Daemon, target: &str) -> Value {
    let (status, body) = call(daemon, "GET", target, Value::Null).await;
    assert_eq!(status, 200, "{target}: {body}");
    body
}

async fn post(daemon: &Daemon, target: &str, body: Value) -> Value {
    let (status, body) = call(daemon, "POST", target, body).await;
    assert_eq!(status, 200, "{target}: {body}");
    body
}

/// The id of the only message that was accepted.
async fn accepted(daemon: &mut Daemon, count: usize) -> Vec<String> {
    daemon.wait_for("accepted", count).await.iter().map(|event| event.field("id").to_owned()).collect()
}

/// Waits until `target` answers with something that `is` so. The daemon's clock stands still meanwhile.
async fn until(daemon: &Daemon, target: &str, is: impl Fn(&Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        let answer = get(daemon, target).await;
        if is(&answer) {
            return answer;
        }
        assert!(began.elapsed().as_secs() < 30, "{target} stays {answer:#}");
        tokio::task::yield_now().await;
    }
}

fn copy_is(state: &str) -> impl Fn(&Value) -> bool {
    let state = state.to_owned();
    move |answer| answer["copies"][0]["state"] == state.as_str()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let mut routes: Vec<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    routes.sort();
    assert_eq!(routes, Description::load().operations());
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
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let mut daemon = Daemon::start(&Net::default(), "");
    daemon.wait_for("started", 1).await;
    for (method, target, body, status, words) in [
        ("GET", "/v1/nothing", Value::Null, 404, "there is no /v1/nothing"),
        ("POST", "/v1/status", Value::Null, 405, "this path has no POST"),
        ("GET", "/v1/sites/none", Value::Null, 404, "no site none is known"),
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
        ("GET", "/v1/outcomes/recent?after=x", Value::Null, 400, "a number is wanted"),
        ("POST", "/v1/cache/flush", json!({"name": "a b"}), 400, "is no name"),
        ("POST", "/v1/cache/flush", json!({"name": "x".repeat(2 << 20)}), 413, "larger than"),
    ] {
        let (given, answer) = call(&daemon, method, target, body).await;
        assert_eq!(given, status, "{target}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{target}: {answer}");
    }
}

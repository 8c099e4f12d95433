//! Asks a daemon under test over its control socket, and holds every answer against the description.

#![allow(dead_code, unreachable_pub)]

use serde_json::Value;
use smtp_direct::control::ROUTES;
use smtp_direct::control::client::Client;

use crate::daemon::Daemon;
use crate::schema::Description;

/// The route that a target is of; errors look the same everywhere.
fn route_of(method: &str, target: &str) -> (&'static str, &'static str) {
    let path = target.split('?').next().unwrap();
    let is_of = |route: &str| {
        let (own, given): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
        own.len() == given.len() && own.iter().zip(given).all(|(own, given)| own.starts_with('{') || *own == given)
    };
    ROUTES
        .iter()
        .find(|route| route.method == method && is_of(route.path))
        .map_or(("GET", "/v1/status"), |route| (route.method, route.path))
}

/// Asks on a thread that may wait, which also keeps paused time from running on. Every answer is held against the description.
pub async fn call(daemon: &Daemon, method: &'static str, target: &str, body: Value) -> (u16, Value) {
    let client = Client::new(daemon.layout.root().join("control.sock"));
    let place = route_of(method, target);
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

pub async fn get(daemon: &Daemon, target: &str) -> Value {
    let (status, body) = call(daemon, "GET", target, Value::Null).await;
    assert_eq!(status, 200, "{target}: {body}");
    body
}

pub async fn post(daemon: &Daemon, target: &str, body: Value) -> Value {
    let (status, body) = call(daemon, "POST", target, body).await;
    assert_eq!(status, 200, "{target}: {body}");
    body
}

/// Waits until `target` answers with something that `is` so. The daemon's clock stands still meanwhile.
pub async fn until(daemon: &Daemon, target: &str, is: impl Fn(&Value) -> bool) -> Value {
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

//! Sites over the control socket: what belongs to each, and that an order means its own copies and no others.
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

use api::{get, post};
use daemon::Daemon;
use net::{Host, Net};
use serde_json::{Value, json};
use smtp_direct::control::client::encoded;

/// Sites that are down stay so, and what is put off stays put off.
const LONG: &str = "[sending]\nsite_down_min = \"90d\"\nsite_down_max = \"90d\"\n[retry]\nschedule = [\"60d\"]\nlifetime = \"300d\"\nwarn_after = \"200d\"\n";

async fn site(daemon: &Daemon, name: &str) -> Value {
    get(daemon, &format!("/v1/sites/{}", encoded(name))).await
}

/// Two domains whose servers refuse connections, with a deferred copy each, and their ids.
async fn two_down() -> (Net, Daemon, Vec<String>) {
    let net = Net::default();
    for (name, ip) in [("x", "192.0.2.1"), ("y", "192.0.2.2")] {
        net.mx(&format!("{name}.test"), &[(10, &format!("mx.{name}.test"))]).host(&format!("mx.{name}.test"), ip, Host::Refuses);
    }
    let mut daemon = Daemon::start(&net, LONG);
    daemon.drop_message("one", &["a@x.test"]);
    daemon.wait_for("deferred", 1).await;
    daemon.drop_message("two", &["b@y.test"]);
    daemon.wait_for("deferred", 2).await;
    let ids = daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect();
    (net, daemon, ids)
}

#[tokio::test(start_paused = true)]
async fn who_retries_one_copy_ends_the_down_time_of_its_site_alone() {
    let (net, mut daemon, ids) = two_down().await;
    let before = site(&daemon, "mx.y.test").await["health"].clone();
    assert_eq!(before["state"], "down");
    assert_eq!(post(&daemon, "/v1/queue/hold", json!({"ids": [ids[0]]})).await["copies"], 1);
    assert_eq!(post(&daemon, "/v1/queue/release", json!({"recipient": "a@x.test"})).await["copies"], 1);
    daemon.wait_for("deferred", 3).await;
    assert_eq!(net.dialled().len(), 3, "it was tried at once");
    assert_eq!(site(&daemon, "mx.y.test").await["health"], before);
    // Who wants everything tried means every site.
    assert_eq!(post(&daemon, "/v1/queue/retry", json!({"all": true})).await["copies"], 2);
    daemon.wait_for("deferred", 5).await;
    assert_eq!(net.dialled().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_order_for_a_site_means_all_that_waits_for_it_also_after_a_restart() {
    let net = Net::default();
    net.host("mx.down.test", "192.0.2.1", Host::Refuses);
    // More than one domain, and more than the one that was tried.
    let domains: Vec<String> = (0..20).map(|n| format!("d{n}.test")).collect();
    for domain in &domains {
        net.mx(domain, &[(10, "mx.down.test")]);
    }
    net.host("mx.busy.test", "192.0.2.3", net::answers("RCPT", "450 4.2.0 later")).mx("busy.test", &[(10, "mx.busy.test")]);
    let mut daemon = Daemon::start(&net, LONG);
    daemon.drop_message("m0", &["a@d0.test"]);
    daemon.wait_for("deferred", 1).await;
    domains[1..].iter().for_each(|domain| daemon.drop_message(domain, &[&format!("a@{domain}")]));
    daemon.drop_message("busy", &["a@busy.test"]);
    daemon.wait_for("deferred", 21).await;
    // Never tried: one for a domain of which the cache knows where its mail goes, and one for a domain that it knows nothing of.
    for (name, to) in [("later", "b@d0.test"), ("unknown", "b@fresh.test")] {
        let sidecar = format!("from = \"alice@sender.test\"\nto = [\"{to}\"]\nnot_before = \"30d\"\n");
        daemon.drop_with(name, &sidecar, "Subject: x\r\n\r\nlater\r\n");
    }
    daemon.wait_for("accepted", 23).await;
    let listed = get(&daemon, "/v1/sites").await;
    let down = listed["sites"].as_array().unwrap().iter().find(|site| site["name"] == "1 mx.down.test:25").unwrap();
    assert_eq!((&down["copies"], &down["waiting"]), (&json!(20), &json!(0)), "{down}");
    let metrics = daemon.metrics().await;
    assert!(metrics.contains("smtp_direct_site_copies{site=\"1 mx.down.test:25\"} 20\n"), "{metrics}");
    assert_eq!(net.dialled().len(), 2, "the others were put off untried: {:?}", net.dialled());
    for action in ["hold", "release"] {
        let answer = post(&daemon, &format!("/v1/queue/{action}"), json!({"site": "mx.down.test"})).await;
        assert_eq!(answer["counts"], json!({"done": 21}), "{action}");
    }
    daemon.wait_for("deferred", 42).await;
    daemon.stop().await;
    daemon.resume();
    daemon.wait_for("started", 2).await;
    // Delivery has had nothing to do with it yet.
    let down = site(&daemon, "mx.down.test").await;
    assert_eq!((&down["copies"], &down["last_error"]["outcome"]), (&json!(21), &json!("deferred")), "{down}");
    assert!(down["last_error"]["text"].as_str().unwrap().contains("connection refused"), "{down}");
    let answer = post(&daemon, "/v1/queue/remove", json!({"site": "mx.down.test"})).await;
    assert_eq!(answer["counts"], json!({"done": 21}), "what was put off is known to be");
}

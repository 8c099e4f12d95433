//! `sendmail -q`: which copies the running daemon tries, and what is said where it cannot.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::fs;
use std::process::{Command, Output};

use daemon::Daemon;
use net::Net;
use smtp_direct::control::MessageNow;
use smtp_direct::control::client::Client;

/// `sendmail` with a configuration of this daemon's spool, on a thread that may wait.
async fn sendmail(daemon: &Daemon, words: &[&str]) -> Output {
    let config = daemon.layout.root().join("sendmail.toml");
    fs::write(&config, format!("hostname = \"mail.sender.test\"\nspool.path = {:?}\n", daemon.layout.root())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-direct"));
    command.arg("sendmail").arg("-C").arg(config).args(words);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Waits until what came of the last attempts of a message is recorded.
async fn until_deferred(daemon: &Daemon, id: &str) {
    let began = std::time::Instant::now();
    loop {
        let (client, target) = (Client::new(daemon.layout.root().join("control.sock")), format!("/v1/messages/{id}/now"));
        let now: MessageNow = tokio::task::spawn_blocking(move || client.get(&target)).await.unwrap().unwrap();
        if now.copies.iter().all(|copy| copy.state == "deferred") {
            return;
        }
        assert!(began.elapsed().as_secs() < 30, "{now:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_run_tries_what_is_meant() {
    let net = Net::default();
    net.domain("sender.test", "192.0.2.8");
    net.mx("a.test", &[(10, "mx.a.test")]).host("mx.a.test", "192.0.2.1", net::answers("RCPT", "451 4.7.1 later"));
    net.mx("b.test", &[(10, "mx.b.test")]).host("mx.b.test", "192.0.2.2", net::answers("RCPT", "451 4.7.1 later"));
    let hold = "[[dns.override]]\ndomain = \"held.test\"\naction = \"hold\"\nreason = \"for the test\"\n";
    let mut daemon = Daemon::start(&net, &format!("[retry]\nschedule = [\"1d\"]\n{hold}"));
    daemon.drop_from("one", "alice@sender.test", &["x@a.test", "y@b.test"]);
    daemon.wait_for("deferred", 2).await;
    daemon.drop_from("two", "bob@sender.test", &["z@b.test"]);
    let mut deferred = 3;
    daemon.wait_for("deferred", deferred).await;
    let ids: Vec<String> = daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect();
    let one = format!("-qI{}", ids[0]);
    for (words, tried) in [
        (&["-q"][..], &["x@a.test", "y@b.test", "z@b.test"][..]),
        (&[&one], &["x@a.test", "y@b.test"]),
        (&["-qRB.TEST"], &["y@b.test", "z@b.test"]),
        (&["-qSbob@"], &["z@b.test"]),
        (&["-qRb.test", "-qSalice"], &["y@b.test"]),
        (&["-qRnobody"], &[]),
    ] {
        for id in &ids {
            until_deferred(&daemon, id).await;
        }
        let done = sendmail(&daemon, words).await;
        assert_eq!((done.status.code(), done.stderr.as_slice()), (Some(0), &b""[..]), "{words:?}: {done:?}");
        deferred += tried.len();
        let events = daemon.wait_for("deferred", deferred).await;
        let mut to: Vec<String> = events[deferred - tried.len()..].iter().map(|event| event.field("to").to_owned()).collect();
        to.sort();
        assert_eq!(to, tried, "{words:?}");
    }

    daemon.drop_message("three", &["w@held.test"]);
    let held = daemon.wait_for("held", 1).await[0].field("id").to_owned();
    for (id, words) in [(held.as_str(), "is on hold: release it"), ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "there is no such message")] {
        let done = sendmail(&daemon, &[&format!("-qI{id}")]).await;
        assert_eq!(
            (done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()),
            (Some(65), format!("sendmail: {id}: {words}\n").as_str())
        );
    }
    daemon.stop().await;
    let done = sendmail(&daemon, &["-q"]).await;
    assert_eq!(done.status.code(), Some(75), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).starts_with("sendmail: the daemon does not run (nobody listens at "), "{done:?}");
}

//! Directories of the spool that cannot be written for a while: what was to go there is not given up, and the log is not filled.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;

use std::fs;

use daemon::Daemon;
use net::{Net, answers};
use smtp_direct::queue::{Inspect, ListFilter};

fn refuses_everyone() -> Net {
    let net = Net::default();
    net.mx("x.test", &[(10, "mx.x.test")]).host("mx.x.test", "192.0.2.1", answers("RCPT", "550 5.1.1 no such user"));
    net.domain("sender.test", "192.0.2.8");
    net
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_in_failed_is_not_finished() {
    let net = refuses_everyone();
    let mut daemon = Daemon::start(&net, "");
    daemon.wait_for("started", 1).await;
    let failed = daemon.layout.failed();
    fs::remove_dir(&failed).unwrap();
    daemon.drop_from("m", "", &["a@x.test"]);
    let said = "a message that cannot be delivered cannot be kept in failed/ either, trying again";
    daemon.wait_for(said, 1).await;
    // An hour of tries.
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert_eq!(daemon.seen("finished").len(), 0);
    assert_eq!(daemon.inspect().list(&ListFilter::default()).unwrap().len(), 1, "it is still in the queue");
    fs::create_dir(&failed).unwrap();
    daemon.wait_for("finished", 1).await;
    assert_eq!(daemon.names(&failed).len(), 2, "the message and its reason");
    assert_eq!(daemon.seen(said).len(), 1);
    assert_eq!(net.transactions().len(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_written_is_written_later() {
    let net = refuses_everyone();
    let mut daemon = Daemon::start(&net, "");
    daemon.wait_for("started", 1).await;
    let staging = daemon.layout.staging();
    fs::remove_dir(&staging).unwrap();
    daemon.drop_message("m", &["a@x.test"]);
    let said = "a report cannot be made now; it is tried again";
    daemon.wait_for(said, 1).await;
    // An hour of tries.
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert_eq!(daemon.seen(said).len(), 1, "one line, however long it lasts");
    fs::create_dir(&staging).unwrap();
    daemon.wait_for("finished", 2).await;
    assert_eq!(net.transactions().len(), 1, "the report");
    assert!(daemon.names(&staging).is_empty());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_moved_to_its_place_is_moved_later() {
    let net = refuses_everyone();
    let mut daemon = Daemon::start(&net, "");
    daemon.wait_for("started", 1).await;
    let messages = daemon.layout.messages();
    daemon.drop_message("m", &["a@x.test"]);
    daemon.wait_for("failed", 1).await;
    // Before the report is composed: it does without the original, and then has no place to go.
    fs::rename(&messages, messages.with_extension("away")).unwrap();
    let said = "a report cannot be moved to its place in the queue, trying again";
    daemon.wait_for(said, 1).await;
    fs::rename(messages.with_extension("away"), &messages).unwrap();
    daemon.wait_for("finished", 2).await;
    assert_eq!((daemon.seen(said).len(), net.transactions().len()), (1, 1));
    daemon.stop().await;
}

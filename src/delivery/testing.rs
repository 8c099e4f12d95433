//! Samples for the tests of this module's pure parts.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{InDoubt, Order, Retry, Sending, TlsMode};
use crate::message::{Address, Content, Domain, MessageId, Notify, Priority, ReversePath};
use crate::queue::{CopyId, Message, QueuedCopy, QueuedRecipient, RecipientId};
use crate::route::{Endpoint, Route, RouteSource, Site};

pub(super) fn sending() -> Sending {
    Sending {
        workers: 10,
        per_site: 5,
        order: Order::Arrival,
        messages_per_connection: 100,
        connection_lifetime: Duration::from_secs(300),
        keep_idle: Duration::from_secs(2),
        rate: None,
        site_down_min: Duration::from_secs(60),
        site_down_max: Duration::from_secs(3600),
        shutdown_grace: Duration::from_secs(30),
    }
}

pub(super) fn retry() -> Retry {
    Retry {
        schedule: vec![Duration::from_secs(300), Duration::from_secs(600)],
        lifetime: Duration::from_secs(86_400),
        warn_after: Some(Duration::from_secs(14_400)),
        in_doubt: InDoubt::Retry,
    }
}

/// A copy for `rcpt<id>@example.test`, accepted at the epoch, which expires a day later.
pub(super) fn copy(id: i64) -> QueuedCopy {
    let message = Message {
        id: MessageId::new(Timestamp::UNIX_EPOCH),
        source: format!("{id}.eml"),
        sender: ReversePath::parse("sender@example.org").unwrap(),
        content: Content::default(),
        accepted_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::from_second(86_400).unwrap(),
        priority: Priority::Normal,
        ret: None,
        envid: None,
        tag: None,
    };
    let recipient = QueuedRecipient {
        id: RecipientId(id),
        address: Address::parse(&format!("rcpt{id}@example.test")).unwrap(),
        notify: Notify::default(),
        last: None,
    };
    QueuedCopy {
        id: CopyId(id),
        message: Arc::new(message),
        domain: Domain::parse("example.test").unwrap(),
        recipients: vec![recipient],
        due_at: Timestamp::UNIX_EPOCH,
        attempts: 0,
        first_failed_at: None,
        warned: false,
        released: false,
    }
}

/// A route with one endpoint, of a site with this name.
pub(super) fn route(site: &str) -> Arc<Route> {
    let endpoint = Endpoint {
        host: "mx.example.test".into(),
        address: ([192, 0, 2, 1], 25).into(),
        preference: 10,
        tls: TlsMode::None,
        window: 1,
        credentials: None,
    };
    Arc::new(Route { endpoints: vec![endpoint], site: Site::new(site), source: RouteSource::Mx { cached: false }, rate: None })
}

//! The status page at the level of HTTP: who is let in, what browsers are told, and that it shows only, unless it is told otherwise.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/net.rs"]
mod net;
#[path = "support/schema.rs"]
mod schema;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use daemon::Daemon;
use net::Net;
use schema::Description;
use serde_json::{Value, json};

const TOKEN: &str = "a-token.of_the~test-1";

/// Fields of a request.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// Status line and fields in lower case, and the body.
#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn field(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request with exactly these fields; `target` has the method before it.
async fn ask(address: SocketAddr, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("{target} HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Response { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

/// A daemon with the page, and where that is.
async fn start(net: &Net, keys: &str) -> (Daemon, SocketAddr) {
    let mut daemon = Daemon::start(net, &format!("[control]\nlisten = \"127.0.0.1:0\"\n{keys}"));
    let address = daemon.wait_for("status page", 1).await[0].field("address").parse().unwrap();
    daemon.wait_for("started", 1).await;
    (daemon, address)
}

/// The same with a token.
async fn start_with_token(net: &Net, keys: &str) -> (Daemon, SocketAddr, tempfile::File) {
    let file = tempfile::File::new(TOKEN);
    let (daemon, address) = start(net, &format!("token_file = {:?}\n{keys}", file.0)).await;
    (daemon, address, file)
}

mod tempfile {
    use std::path::PathBuf;

    /// Gone at its end.
    pub(crate) struct File(pub(crate) PathBuf);

    impl File {
        pub(crate) fn new(content: &str) -> Self {
            let path = std::env::temp_dir().join(format!("smtp-direct-test-{}-{:x}", std::process::id(), fastrand::u64(..)));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_no_page_unless_it_is_configured() {
    let mut daemon = Daemon::start(&Net::default(), "");
    daemon.wait_for("started", 1).await;
    assert_eq!(daemon.seen("status page").len(), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_page_is_whole_and_nothing_but_its_own_script_and_style_may_run() {
    let (mut daemon, address) = start(&Net::default(), "").await;
    let page = ask(address, "GET /", &[("Host", "127.0.0.1")], "").await;
    assert_eq!((page.status, page.field("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.field("content-security-policy");
    let part = |tag: &str| {
        let (_, rest) = page.body.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once(&format!("</{tag}>")).unwrap().0
    };
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let text = part(tag);
        assert!(text.len() > 1000, "{tag}: {text}");
        assert_eq!(page.body.matches(&format!("<{tag}")).count(), 1);
        let hash = base64::engine::general_purpose::STANDARD.encode(digest(&SHA256, text.as_bytes()));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{policy}");
    }
    for directive in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // Nothing comes from elsewhere, and nobody makes HTML of what peers say.
    for word in ["src=", "innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", "@import", "url(", " style=", " onclick="] {
        assert!(!page.body.contains(word), "{word}");
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.field(name), value);
    }
    assert!(page.body.contains("data-actions=\"no\""));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn other_hosts_and_other_sites_are_refused() {
    let (mut daemon, address) = start(&Net::default(), "").await;
    let own = address.to_string();
    let cases: [(Fields, u16, &str); 8] = [
        (&[("Host", &own)], 200, ""),
        (&[("Host", "mail.sender.test")], 200, ""),
        (&[("Host", &own), ("Origin", &format!("http://{own}"))], 200, ""),
        (&[("Host", "rebound.evil.test")], 403, "the Host field names another host"),
        (&[], 403, "the Host field names another host"),
        (&[("Host", &own), ("Origin", "http://evil.test")], 403, "another site"),
        (&[("Host", &own), ("Origin", "null")], 403, "another site"),
        (&[("Host", &own), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], 403, "another site"),
    ];
    for (fields, status, words) in cases {
        let answer = ask(address, "GET /v1/status", fields, "").await;
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        if status != 200 {
            assert!(answer.json()["error"].as_str().unwrap().contains(words), "{answer:?}");
        }
        // No other origin is ever told that it may read.
        assert!(!answer.head.contains("access-control-"), "{answer:?}");
    }
    // A link to the page may stand anywhere.
    let link = [("Host", own.as_str()), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")];
    assert_eq!(ask(address, "GET /", &link, "").await.status, 200);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_opens_the_page_once_and_is_never_shown() {
    let (mut daemon, address, _file) = start_with_token(&Net::default(), "").await;
    let host = ("Host", "127.0.0.1");
    for target in
        ["GET /", "GET /v1/status", "GET /?token=", "GET /?token=a-token.of_the~test-2", "GET /v1/status?token=a-token.of_the~test-1"]
    {
        let answer = ask(address, target, &[host], "").await;
        assert_eq!(answer.status, 401, "{target}: {answer:?}");
        assert!(!answer.head.contains("set-cookie"), "{answer:?}");
    }
    let opened = ask(address, &format!("GET /?token={TOKEN}"), &[host], "").await;
    assert_eq!((opened.status, opened.field("location")), (303, "/"));
    let cookie = opened.field("set-cookie");
    assert_eq!(cookie, format!("smtp-direct-token={TOKEN}; Path=/; HttpOnly; SameSite=Strict"));
    let cookie = cookie.split(';').next().unwrap();
    let bearer = format!("Bearer {TOKEN}");
    for (field, status) in [
        (("Cookie", format!("other=1; {cookie}").as_str()), 200),
        (("Authorization", bearer.as_str()), 200),
        (("Cookie", "smtp-direct-token=wrong"), 401),
        (("Authorization", "Bearer wrong"), 401),
        (("Authorization", TOKEN), 401),
    ] {
        for target in ["GET /", "GET /v1/status", "GET /openapi.json"] {
            let answer = ask(address, target, &[host, field], "").await;
            assert_eq!(answer.status, status, "{target} with {field:?}");
            assert!(!answer.body.contains(TOKEN));
        }
    }
    assert!(daemon.log.iter().all(|event| !format!("{event:?}").contains(TOKEN)), "the log shows it");
    daemon.stop().await;
}

/// A message on hold: its id.
async fn held(daemon: &mut Daemon) -> String {
    daemon.drop_message("held", &["x@held.test"]);
    daemon.wait_for("accepted", 1).await[0].field("id").to_owned()
}

const HOLD: &str = "[[dns.override]]\ndomain = \"held.test\"\naction = \"hold\"\nreason = \"for the test\"\n";

#[tokio::test(start_paused = true)]
async fn it_shows_only_unless_it_is_told_otherwise() {
    let (mut daemon, address, _file) = start_with_token(&Net::default(), HOLD).await;
    let id = held(&mut daemon).await;
    let bearer = format!("Bearer {TOKEN}");
    let fields = [("Host", "127.0.0.1"), ("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    for target in ["POST /v1/queue/hold", "POST /v1/queue/remove", "POST /v1/cache/flush", "POST /v1/sites/x/pause", "POST /"] {
        let answer = ask(address, target, &fields, &json!({"ids": [id]}).to_string()).await;
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains("changes nothing"), "{answer:?}");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn with_actions_copies_are_released_by_the_page_itself_and_by_nobody_else() {
    let (mut daemon, address, _file) = start_with_token(&Net::default(), &format!("allow_actions = true\n{HOLD}")).await;
    let id = held(&mut daemon).await;
    let page = ask(address, "GET /", &[("Host", "127.0.0.1"), ("Cookie", &format!("smtp-direct-token={TOKEN}"))], "").await;
    assert!(page.body.contains("data-actions=\"yes\""));

    let body = json!({"ids": [id], "reason": "on the page"}).to_string();
    let (host, cookie) = (("Host", "127.0.0.1"), format!("smtp-direct-token={TOKEN}"));
    let (cookie, json) = (("Cookie", cookie.as_str()), ("Content-Type", "application/json"));
    let origin = ("Origin", "http://127.0.0.1");
    let cases: [(&str, Fields, u16); 6] = [
        ("POST /v1/queue/hold", &[host, json, origin], 401),
        ("POST /v1/queue/hold", &[host, cookie, json], 403),
        ("POST /v1/queue/hold", &[host, cookie, json, ("Origin", "http://evil.test")], 403),
        ("POST /v1/queue/hold", &[host, cookie, origin, ("Content-Type", "text/plain")], 415),
        ("POST /v1/queue/remove", &[host, cookie, json, origin], 403),
        ("POST /v1/sites/x/pause", &[host, cookie, json, origin], 403),
    ];
    for (target, fields, status) in cases {
        let answer = ask(address, target, fields, &body).await;
        assert_eq!(answer.status, status, "{target} {fields:?}: {answer:?}");
    }
    let answer = ask(address, "POST /v1/queue/hold", &[host, cookie, json, origin], &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let shown = ask(address, &format!("GET /v1/messages/{id}"), &[host, cookie], "").await.json();
    let done = shown["actions"].as_array().unwrap();
    // It may have been on hold already, by the override: then nothing was done to it.
    assert!(done.iter().all(|action| action["by"] == "status page, 127.0.0.1" && action["reason"] == "on the page"), "{done:?}");
    daemon.stop().await;
}

/// What is asked over the page's port and described.
async fn described(address: SocketAddr, path: &str, target: &str) -> Value {
    let answer = ask(address, &format!("GET {target}"), &[("Host", "127.0.0.1")], "").await;
    let value = answer.json();
    Description::load().answer(("GET", path), answer.status, &value).unwrap();
    assert_eq!(answer.status, 200, "{target}: {value}");
    value
}

#[tokio::test(start_paused = true)]
async fn the_queue_and_the_history_can_be_searched_and_a_message_shows_its_way() {
    let net = Net::default();
    net.domain("good.test", "192.0.2.1");
    net.domain("bad.test", "192.0.2.2").becomes("192.0.2.2", net::answers("RCPT", "451 4.3.0 not now"));
    let (mut daemon, address) = start(&net, "").await;
    daemon.drop_message("one", &["x+y@good.test"]);
    daemon.wait_for("finished", 1).await;
    daemon.drop_message("two", &["z@bad.test", "w@bad.test"]);
    daemon.wait_for("deferred", 2).await;
    let ids: Vec<String> = daemon.seen("accepted").iter().map(|event| event.field("id").to_owned()).collect();

    let queue = described(address, "/v1/queue", "/v1/queue?to=z%40bad.*&limit=5").await;
    assert_eq!(
        (&queue["copies"][0]["id"], &queue["copies"][0]["to"], &queue["more"]),
        (&json!(ids[1]), &json!(["z@bad.test", "w@bad.test"]), &json!(false))
    );
    for target in ["/v1/queue?to=nobody", "/v1/queue?from=nobody", "/v1/queue?domain=good.test", "/v1/queue?older_than=3600"] {
        assert_eq!(described(address, "/v1/queue", target).await["copies"], json!([]), "{target}");
    }
    let history = described(address, "/v1/history", "/v1/history?to=x%2By%40good.test&since=3600").await;
    assert_eq!((&history["outcomes"][0]["id"], &history["outcomes"][0]["outcome"]), (&json!(ids[0]), &json!("delivered")));
    assert_eq!(described(address, "/v1/history", &format!("/v1/history?id={}", ids[1])).await["outcomes"], json!([]));

    let shape = described(address, "/v1/queue/shape", "/v1/queue/shape").await;
    let line = &shape["sites"][0];
    assert_eq!((&line["site"], &line["copies"], &line["by_age"]), (&json!("1 mx.bad.test:25"), &json!(1), &json!([1, 0, 0, 0, 0, 0])));
    assert_eq!((&line["domains"][0]["domain"], &line["other_domains"], &shape["others"]), (&json!("bad.test"), &json!(0), &Value::Null));

    let message = described(address, "/v1/messages/{id}", &format!("/v1/messages/{}", ids[1])).await;
    let copy = &message["copies"][0];
    assert!(copy["history"][0]["trail"][0].as_str().unwrap().contains("mx.bad.test"), "{copy}");
    assert_eq!(copy["recipients"][0]["last"]["text"].as_str().map(|text| text.contains("not now")), Some(true), "{copy}");
    assert_eq!(message["now"]["copies"][0]["state"], "deferred");

    let why = described(address, "/v1/messages/{id}/why", &format!("/v1/messages/{}/why", ids[1])).await;
    assert_eq!((&why["copies"][0]["standing"]["cause"], &why["copies"][0]["live"]["place"]), (&json!("failed"), &json!("deferred")));

    let throughput = described(address, "/v1/throughput", "/v1/throughput").await;
    assert_eq!(throughput["seconds"].as_array().unwrap().len(), 60);
    for (target, words) in [
        ("/v1/queue?limit=0", "1 to 1000"),
        ("/v1/queue?limit=1001", "1 to 1000"),
        ("/v1/queue?to=%ff", "%XX"),
        ("/v1/queue?id=x", "no id"),
        ("/v1/history?since=x", "seconds"),
        ("/v1/history?domian=good.test", "domian"),
    ] {
        let answer = ask(address, &format!("GET {target}"), &[("Host", "127.0.0.1")], "").await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.json()["error"].as_str().unwrap().contains(words), "{target}: {answer:?}");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn passwords_of_the_configuration_are_nowhere() {
    let net = Net::default();
    net.domain("relay.test", "192.0.2.1");
    let rule = "[[dns.override]]\ndomain = \"*\"\nserver = \"mx.relay.test\"\nusername = \"joe\"\npassword = \"hunter2hunter2\"\nauth_in_clear = true\n";
    let (mut daemon, address) = start(&net, rule).await;
    daemon.drop_message("one", &["x@a.test"]);
    let id = daemon.wait_for("accepted", 1).await[0].field("id").to_owned();
    daemon.wait_for("attempt", 1).await;
    for target in [
        "/",
        "/openapi.json",
        "/v1/status",
        "/v1/sites",
        "/v1/queue",
        "/v1/history",
        "/v1/cache",
        "/v1/outcomes/recent",
        &format!("/v1/messages/{id}"),
        &format!("/v1/messages/{id}/why"),
    ] {
        let answer = ask(address, &format!("GET {target}"), &[("Host", "127.0.0.1")], "").await;
        assert_eq!(answer.status, 200, "{target}");
        assert!(!answer.body.contains("hunter2"), "{target}");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_address_in_use_keeps_the_daemon_from_starting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let daemon = Daemon::start(&Net::default(), "");
    let mut config = daemon.config(&format!("[control]\nlisten = \"{address}\"\n"));
    let other = daemon::Directory::new();
    config.spool.path = other.0.clone();
    config.control.socket = None;
    fs::create_dir_all(&config.spool.path).unwrap();
    let (_reloads, receiver) = tokio::sync::mpsc::channel(1);
    let world = smtp_direct::daemon::World { addresses: Some(Vec::new()), ..Default::default() };
    let ended = smtp_direct::daemon::run(config, world, receiver, std::future::pending()).await;
    assert!(ended.unwrap_err().to_string().starts_with(&format!("control.listen: {address}: ")));
}

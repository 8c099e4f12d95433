//! `smtp-direct probe`: the real binary, a scripted DNS server, scripted peers on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/dns.rs"]
mod dns;
#[path = "support/peer.rs"]
mod peer;

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dns::DnsServer;
use peer::{Script, Step, TcpPeer, friendly, server_tls, within};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;

const HOSTNAME: &str = "client.test";

/// A configuration file, removed at the end.
struct Configured(PathBuf, Vec<PathBuf>);

impl Configured {
    fn new(text: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("probe-{}-{}.toml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, format!("hostname = \"{HOSTNAME}\"\n{text}")).unwrap();
        Self(path, Vec::new())
    }

    /// Everything for example.test goes to `mx.test`, which is `peer`. `text`: more sections.
    async fn by_mx(peer: &TcpPeer, text: &str) -> (Self, DnsServer) {
        let server = DnsServer::start().await;
        server.mx("example.test", 60, &[(10, "mx.test")]).host("mx.test", 60, &["127.0.0.1"]);
        let (dns, port) = (server.address, peer.address.port());
        let all = format!("[dns]\nservers = [\"{dns}\"]\nblocked_targets = []\n[smtp]\nport = {port}\n{text}");
        (Self::new(&all), server)
    }

    /// Everything goes to these peers, in this order; `keys`: more of each rule.
    fn by_overrides(peers: &[&TcpPeer], keys: &str) -> Self {
        let rules = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| format!("[[dns.override]]\ndomain = \"*\"\nserver = \"{}\"\npriority = {at}\n{keys}\n", peer.address));
        Self::new(&format!("[dns]\nblocked_targets = []\n{}", rules.collect::<String>()))
    }

    /// A file beside it.
    fn beside(&mut self, text: &str) -> PathBuf {
        let path = self.0.with_extension("pem");
        std::fs::write(&path, text).unwrap();
        self.1.push(path.clone());
        path
    }

    fn add(&self, text: &str) {
        let all = std::fs::read_to_string(&self.0).unwrap() + text;
        std::fs::write(&self.0, all).unwrap();
    }

    async fn probe(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-direct"));
        command.args(["probe", "--config"]).arg(&self.0).args(words).kill_on_drop(true);
        within(command.output()).await.unwrap()
    }

    /// The objects that are printed, and the exit code.
    async fn json(&self, words: &[&str]) -> (Vec<Value>, i32) {
        let output = self.probe(&[&["--json"], words].concat()).await;
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.code().unwrap())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        for file in self.1.iter().chain([&self.0]) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A peer that encrypts, and then takes everything.
fn encrypting(tls: &Arc<rustls::ServerConfig>) -> Script {
    Script::offering(&["STARTTLS"]).on("STARTTLS", "220 go").step(Step::Tls(tls.clone())).ehlo(&["PIPELINING", "SIZE 1000"]).serve(friendly)
}

/// The names of the steps that were timed, in the order of the alphabet.
fn steps(connection: &Value) -> Vec<&str> {
    let times = connection["times"].as_object().unwrap();
    assert!(times.values().all(|time| time.as_f64().is_some_and(|time| (0.0..20.0).contains(&time))), "{times:?}");
    let mut names: Vec<&str> = times.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// What the peer was told, but for the handshake.
async fn told(peer: TcpPeer) -> Vec<String> {
    peer.finish().await.iter().map(peer::Record::text).collect()
}

#[tokio::test]
async fn people_see_what_a_peer_says() {
    let peer = TcpPeer::start(vec![Script::offering(&["PIPELINING", "SIZE 10000"]).serve(friendly)]).await;
    let (configured, _dns) = Configured::by_mx(&peer, "").await;
    let address = peer.address;
    let output = configured.probe(&["joe@example.test", "--rcpt", "--sender", "me@client.test"]).await;
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let text = String::from_utf8(output.stdout).unwrap();
    // Times are another each run.
    let masked: Vec<String> = text
        .lines()
        .map(|line| line.split(' ').map(|word| if word.starts_with("0.") { "T" } else { word }).collect::<Vec<_>>().join(" "))
        .collect();
    let expected = format!(
        "joe@example.test goes to 1 address (mx), found in T

1. mx.test {address}, preference 10, tls opportunistic
  greeting    220 mx.test ESMTP
  extensions  PIPELINING, SIZE 10000
  times       connect T greeting T ehlo T mail T rcpt T rset T
  mail        250 2.0.0 ok
  rcpt        250 2.0.0 ok
  rset        250 2.0.0 ok
  works, in clear text"
    );
    assert_eq!(masked.join("\n"), expected);
    let expected = "EHLO client.test\r\nMAIL FROM:<me@client.test> SIZE=2048\r\nRCPT TO:<joe@example.test>\r\nRSET\r\nQUIT\r\n";
    assert_eq!(told(peer).await, [expected]);
}

#[tokio::test]
async fn programs_get_an_object_a_target() {
    let peer = TcpPeer::start(vec![Script::offering(&["PIPELINING"]).serve(friendly)]).await;
    let (configured, _dns) = Configured::by_mx(&peer, "").await;
    let (seen, code) = configured.json(&["joe@example.test"]).await;
    let [target] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((code, &target["works"], &target["error"], &target["tls"]), (0, &true.into(), &Value::Null, &Value::Null));
    assert_eq!((&target["host"], &target["ip"], &target["source"]), (&"mx.test".into(), &"127.0.0.1".into(), &"mx".into()));
    let connection = &target["connections"][0];
    assert_eq!((&connection["greeting"]["code"], &connection["extensions"]), (&220.into(), &serde_json::json!(["PIPELINING"])));
    assert_eq!((steps(connection), &connection["certificate"]), (vec!["connect", "ehlo", "greeting"], &Value::Null));
    assert_eq!(told(peer).await, ["EHLO client.test\r\nQUIT\r\n"]);
}

#[tokio::test]
async fn a_certificate_is_read_and_judged() {
    let (tls, pem) = server_tls(&["mx.test", "other.test"]);
    for mode in ["opportunistic", "verify"] {
        let peer = TcpPeer::start(vec![encrypting(&tls)]).await;
        let (mut configured, _dns) = Configured::by_mx(&peer, "").await;
        let ca = configured.beside(&pem);
        configured.add(&format!("[tls]\nmode = \"{mode}\"\nca_file = {ca:?}\n"));
        let (seen, code) = configured.json(&["joe@example.test"]).await;
        let (target, connection) = (&seen[0], &seen[0]["connections"][0]);
        assert_eq!((code, &target["tls"]["version"]), (0, &"TLSv1.3".into()), "{target}");
        assert!(target["tls"]["cipher"].as_str().unwrap().starts_with("TLS13_"), "{target}");
        assert_eq!(connection["extensions_under_tls"], serde_json::json!(["PIPELINING", "SIZE 1000"]));
        assert_eq!(steps(connection), ["connect", "ehlo", "ehlo_again", "greeting", "handshake", "starttls"]);
        let certificate = &connection["certificate"];
        assert_eq!((&certificate["valid"], &certificate["root_from"]), (&true.into(), &"ca_file".into()), "{certificate}");
        assert_eq!(certificate["root"], "CN=rcgen self signed cert", "{certificate}");
        let own = &certificate["chain"][0];
        assert_eq!((&own["names"], &own["subject"]), (&serde_json::json!(["mx.test", "other.test"]), &"CN=rcgen self signed cert".into()));
        // rcgen's own dates: 1975 to 4096.
        assert_eq!((&own["not_before"], &own["not_after"]), (&"1975-01-01T00:00:00Z".into(), &"4096-01-01T00:00:00Z".into()));
        assert!(told(peer).await[0].ends_with("QUIT\r\n"));
    }
}

/// A leaf for `mx.test` until `year`, its server's side, and the authority's certificate in PEM.
fn issued(year: i32) -> (Arc<rustls::ServerConfig>, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "Probe authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let mut leaf = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "mx\u{1b}[31m.test");
    leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()), pem)
}

#[tokio::test]
async fn the_root_that_proves_a_certificate_is_named() {
    let (tls, pem) = issued(4000);
    let peer = TcpPeer::start(vec![encrypting(&tls)]).await;
    let (mut configured, _dns) = Configured::by_mx(&peer, "").await;
    // Beside another one that proves nothing.
    let ca = configured.beside(&(issued(4000).1.replace("\r", "") + &pem));
    configured.add(&format!("[tls]\nca_file = {ca:?}\n"));
    let output = configured.probe(&["joe@example.test"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  certificate proves mx.test, by the root CN=Probe authority of tls.ca_file\n"), "{text}");
    // What a certificate says does not drive the terminal.
    assert!(text.contains("[31m.test") && !text.contains('\u{1b}'), "{text:?}");
    assert!(text.ends_with("\n  works\n"), "{text}");
    told(peer).await;
}

#[tokio::test]
async fn what_a_certificate_fails_at_is_told_and_counts_where_proof_is_wanted() {
    let expired = issued(2001);
    let stranger = server_tls(&["somebody-else.test"]);
    let unknown = server_tls(&["mx.test"]);
    for ((tls, pem), trusted, problem, days) in [
        (&expired, true, "certificate expired", -1),
        (&stranger, true, "certificate not valid for name \"mx.test\"", 1),
        (&unknown, false, "UnknownIssuer", 1),
    ] {
        for (mode, works) in [("opportunistic", true), ("verify", false)] {
            let peer = TcpPeer::start(vec![encrypting(tls)]).await;
            let (mut configured, _dns) = Configured::by_mx(&peer, "").await;
            // There must be a root of some kind to verify with.
            let ca = configured.beside(if trusted { pem } else { &expired.1 });
            configured.add(&format!("[tls]\nmode = \"{mode}\"\nca_file = {ca:?}\n"));
            let (seen, code) = configured.json(&["joe@example.test"]).await;
            let certificate = &seen[0]["connections"][0]["certificate"];
            assert_eq!((code == 0, &seen[0]["works"]), (works, &works.into()), "{problem} {mode}: {seen:?}");
            assert_eq!(code, if works { 0 } else { 75 });
            assert!(certificate["valid"] == false && certificate["problem"].as_str().unwrap().contains(problem), "{certificate}");
            // Seen although it was refused.
            assert_eq!(certificate["chain"][0]["days_left"].as_i64().unwrap().signum(), days, "{certificate}");
            if !works {
                assert!(seen[0]["connections"][0]["failed_after"].is_number(), "{seen:?}");
            }
            told(peer).await;
        }
    }
}

#[tokio::test]
async fn every_target_is_looked_at() {
    let refusing = || Script::new().say("421 4.7.1 go away").step(Step::Close);
    for (all, code) in [(false, 0), (true, 75)] {
        let first = TcpPeer::start(vec![refusing()]).await;
        let second = TcpPeer::start(vec![Script::offering(&[]).serve(friendly)]).await;
        let third = TcpPeer::start(vec![Script::offering(&[]).serve(friendly)]).await;
        let configured = Configured::by_overrides(&[&first, &second, &third], "");
        let words: &[&str] = if all { &["a@b.test", "--all-addresses"] } else { &["a@b.test"] };
        let (seen, found) = configured.json(words).await;
        assert_eq!((found, seen.len()), (code, 3), "{seen:?}");
        let works: Vec<_> = seen.iter().map(|target| &target["works"]).collect();
        assert_eq!(works, [false, true, true]);
        assert_eq!(seen[0]["error"]["text"], "waiting for the greeting was answered 421 4.7.1 go away");
        assert_eq!(seen[0]["connections"][0]["greeting"], serde_json::json!({ "code": 421, "text": "4.7.1 go away" }));
        assert_eq!(told(second).await, ["EHLO client.test\r\nQUIT\r\n"]);
        assert_eq!(told(third).await, ["EHLO client.test\r\nQUIT\r\n"]);
    }
}

/// Listeners at the same port of these addresses.
async fn listeners(addresses: &[&str]) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind((addresses[0], 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for address in &addresses[1..] {
            all.extend(TcpListener::bind((*address, port)).await);
        }
        // Somebody else may have the port at one of them.
        if all.len() == addresses.len() {
            return all;
        }
    }
}

#[tokio::test]
async fn of_each_target_the_first_address_that_works_is_shown_or_all() {
    for (words, code, expected) in [
        (&["a@x.test"][..], 0, &[("one.test", false), ("one.test", true), ("two.test", true)][..]),
        (&["a@x.test", "--all-addresses"], 75, &[("one.test", false), ("one.test", true), ("one.test", true), ("two.test", true)]),
    ] {
        let server = DnsServer::start().await;
        server.mx("x.test", 60, &[(10, "one.test"), (20, "two.test")]);
        server.host("one.test", 60, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]).host("two.test", 60, &["127.0.0.5"]);
        let listeners = listeners(&["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]).await;
        let (dns, port) = (server.address, listeners[0].local_addr().unwrap().port());
        let configured = Configured::new(&format!("[dns]\nservers = [\"{dns}\"]\nblocked_targets = []\n[smtp]\nport = {port}\n"));
        // Whichever address of one.test is asked first.
        let visits = Arc::new(AtomicU32::new(0));
        let mut peers = tokio::task::JoinSet::new();
        for listener in listeners {
            let visits = visits.clone();
            peers.spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let busy = visits.fetch_add(1, Ordering::Relaxed) == 0;
                let script = if busy { Script::new().say("421 busy").step(Step::Close) } else { Script::offering(&[]).serve(friendly) };
                peer::play(stream, script).await;
            });
        }
        let (seen, found) = configured.json(words).await;
        let shown: Vec<_> = seen.iter().map(|target| (target["host"].as_str().unwrap(), target["works"].as_bool().unwrap())).collect();
        assert_eq!((found, shown.as_slice()), (code, expected), "{seen:?}");
    }
}

#[tokio::test]
async fn a_refusal_that_is_for_all_counts_though_a_later_target_works() {
    let refusing = Script::offering(&[]).serve(|line| match line {
        "RCPT TO:<a@b.test>" => "550 5.1.1 no such user".to_owned(),
        line => friendly(line),
    });
    let first = TcpPeer::start(vec![refusing]).await;
    let second = TcpPeer::start(vec![Script::offering(&[]).serve(friendly)]).await;
    let configured = Configured::by_overrides(&[&first, &second], "");
    let (seen, code) = configured.json(&["a@b.test", "--rcpt"]).await;
    assert_eq!((code, &seen[0]["works"], &seen[1]["works"]), (69, &false.into(), &true.into()), "{seen:?}");
}

#[tokio::test]
async fn a_recipient_is_asked_for_and_never_written_to() {
    for (answer, code, kind) in [("550 5.1.1 no such user", 69, "failed"), ("451 4.7.1 greylisted", 75, "deferred")] {
        let script = Script::offering(&["DSN"]).serve(move |line| match line {
            "RCPT TO:<a@b.test>" => answer.to_owned(),
            line => friendly(line),
        });
        let peer = TcpPeer::start(vec![script]).await;
        let configured = Configured::by_overrides(&[&peer], "");
        let (seen, found) = configured.json(&["a@b.test", "--rcpt"]).await;
        assert_eq!((found, &seen[0]["error"]["kind"]), (code, &kind.into()), "{seen:?}");
        assert_eq!((&seen[0]["rcpt"]["mail"]["reply"]["code"], &seen[0]["rcpt"]["rset"]["reply"]["code"]), (&250.into(), &250.into()));
        let text = seen[0]["rcpt"]["rcpt"]["reply"]["text"].as_str().unwrap();
        assert!(answer.ends_with(text), "{seen:?}");
        assert_eq!(told(peer).await, ["EHLO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRSET\r\nQUIT\r\n"]);
    }
    // What the peer cannot take is known without asking.
    let peer = TcpPeer::start(vec![Script::offering(&["SIZE 1000"]).serve(friendly)]).await;
    let configured = Configured::by_overrides(&[&peer], "");
    let (seen, code) = configured.json(&["a@b.test", "--rcpt", "--size", "1 MiB"]).await;
    assert_eq!((code, &seen[0]["works"]), (69, &false.into()), "{seen:?}");
    assert_eq!(told(peer).await, ["EHLO client.test\r\nQUIT\r\n"]);
}

#[tokio::test]
async fn a_login_is_tried_and_never_shown() {
    let keys = "username = \"joe\"\npassword = \"s3cret!\"\nauth_in_clear = true\n";
    for (answer, code) in [("235 2.7.0 welcome", 0), ("535 5.7.8 wrong", 75)] {
        let script = Script::offering(&["AUTH PLAIN"]).on("AUTH PLAIN AGpvZQBzM2NyZXQh", answer).serve(friendly);
        let peer = TcpPeer::start(vec![script]).await;
        let configured = Configured::by_overrides(&[&peer], keys);
        let output = configured.probe(&["a@b.test", "--json"]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        let seen: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((output.status.code(), &seen["login"]), (Some(code), &"joe".into()), "{seen}");
        assert_eq!(steps(&seen["connections"][0]).contains(&"auth"), code == 0, "{seen}");
        assert!(!text.contains("s3cret") && !text.contains("AGpvZ"), "{text}");
        told(peer).await;
    }
}

#[tokio::test]
async fn a_second_connection_is_told_where_tls_broke() {
    let broken = Script::offering(&["STARTTLS"]).on("STARTTLS", "220 go").step(Step::Close);
    let peer = TcpPeer::start(vec![broken, Script::offering(&["STARTTLS"]).serve(friendly)]).await;
    let configured = Configured::by_overrides(&[&peer], "");
    let output = configured.probe(&["a@b.test"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\n  TLS broke: a second connection, in clear text\n") && text.ends_with("works, in clear text\n"), "{text}");
    assert_eq!(text.matches("\n  greeting ").count(), 2, "{text}");
    told(peer).await;
}

#[tokio::test]
async fn a_silent_peer_is_left_after_the_time_that_was_given() {
    let peer = TcpPeer::start(vec![Script::new()]).await;
    let configured = Configured::by_overrides(&[&peer], "");
    let (seen, code) = configured.json(&["a@b.test", "--timeout", "50ms"]).await;
    assert_eq!(code, 75, "{seen:?}");
    assert!(seen[0]["error"]["text"].as_str().unwrap().contains("waiting for the greeting"), "{seen:?}");
    let connection = &seen[0]["connections"][0];
    assert!(connection["failed_after"].as_f64().is_some_and(|time| time >= 0.05) && steps(connection) == ["connect"], "{seen:?}");
    assert_eq!(told(peer).await, [""]);
}

#[tokio::test]
async fn the_configured_source_address_is_used() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let rule = format!("[[dns.override]]\ndomain = \"*\"\nserver = \"{address}\"\n");
    let configured = Configured::new(&format!("[dns]\nblocked_targets = []\n[smtp]\nsource_ipv4 = \"127.0.0.9\"\n{rule}"));
    let accepted = async {
        let (stream, from) = listener.accept().await.unwrap();
        peer::play(stream, Script::offering(&[]).serve(friendly)).await;
        from
    };
    let (output, from) = within(async { tokio::join!(configured.probe(&["a@b.test"]), accepted) }).await;
    assert_eq!((output.status.code(), from.ip().to_string().as_str()), (Some(0), "127.0.0.9"));
}

#[tokio::test]
async fn without_a_route_it_says_what_route_says() {
    let server = DnsServer::start().await;
    server.mx("null.test", 60, &[(0, ".")]);
    let dns = format!("[dns]\nservers = [\"{}\"]\n", server.address);
    let held = "[[dns.override]]\ndomain = \"held.test\"\naction = \"hold\"\nreason = \"later\"\n";
    let configured = Configured::new(&format!("{dns}{held}"));
    for (address, code, said) in [("a@null.test", 69, "null MX"), ("a@held.test", 75, "would be held by the override")] {
        let output = configured.probe(&[address]).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{text}");
    }
    let output = configured.probe(&["nobody"]).await;
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(64), &b""[..]));
    let help = configured.probe(&["--help"]).await;
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Exit codes: 0 mail would get through"), "{help:?}");
}

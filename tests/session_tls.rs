//! The row "STARTTLS" of SMTP-RULES.md, for each requirement, and TLS from the first byte.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/peer.rs"]
mod peer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peer::{Dial, Letter, MemoryDialer, Script, Step, config, endpoint, endpoint_with_login, friendly, server_tls};
use smtp_direct::config::{Config, TlsMode};
use smtp_direct::outcome::{Fault, Kind, NextStep, Phase, judge};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Client, ConnectError, Session, Stage, TlsSetupError};
use tokio::time::Instant;

const MODES_WITHOUT_CLEAR_TEXT: [TlsMode; 2] = [TlsMode::Require, TlsMode::Verify];

fn client(dialer: &Arc<MemoryDialer>) -> Client {
    Client::new(&config(), dialer.clone()).unwrap()
}

/// A client that trusts this certificate.
fn trusting(pem: &str, dialer: &Arc<MemoryDialer>) -> Client {
    let file = write("ca", pem);
    let mut config = config();
    config.tls.ca_file = Some(file.clone());
    let client = Client::new(&config, dialer.clone()).unwrap();
    std::fs::remove_file(file).unwrap();
    client
}

fn write(name: &str, text: &str) -> PathBuf {
    let unique = format!("{name}-{}-{:?}.pem", std::process::id(), std::thread::current().id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique);
    std::fs::write(&path, text).unwrap();
    path
}

/// A peer that offers STARTTLS, shakes hands, and then accepts everything.
fn encrypting(tls: &Arc<rustls::ServerConfig>) -> Script {
    Script::offering(&["STARTTLS"]).on("STARTTLS", "220 go").step(Step::Tls(tls.clone())).ehlo(&["PIPELINING"]).serve(friendly)
}

/// Greets and accepts everything in clear text, STARTTLS offered or not.
fn clear(extensions: &[&str]) -> Script {
    Script::offering(extensions).serve(friendly)
}

fn next_address_then_deferred_for_security(error: &ConnectError) {
    let verdict = judge(&error.fault);
    assert_eq!((verdict.kind, verdict.next), (Kind::Deferred, NextStep::NextAddress), "{error:?}");
    assert_eq!((verdict.status.class, verdict.status.subject), (4, 7), "{error:?}");
}

/// Sends a message and takes leave; what the peers saw.
async fn deliver(mut session: Session, dialer: &MemoryDialer) -> Vec<peer::Record> {
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    session.quit().await;
    dialer.finish().await
}

#[tokio::test(start_paused = true)]
async fn opportunistic_takes_any_certificate_for_any_name() {
    let (tls, _) = server_tls(&["somebody-else.example"]);
    let dialer = MemoryDialer::peer(encrypting(&tls));
    let client = client(&dialer);
    let session = client.connect(&endpoint(TlsMode::Opportunistic)).await.unwrap();
    assert_eq!(client.traffic().tls_handshake_seconds.count(), 1);
    let described = session.peer().tls.clone().unwrap();
    assert!(described.starts_with("TLSv1.3 TLS13_AES_"), "{described}");
    assert!(!described.contains("verified"));
    assert!(session.capabilities().pipelining, "what was said under TLS counts");
    assert!(!session.capabilities().starttls, "what was said in clear text does not");
    let records = deliver(session, &dialer).await;
    assert_eq!(records[0].ended, Some(Ok(())), "TLS was closed properly");
    assert!(records[0].text().ends_with("QUIT\r\n"));
}

#[tokio::test(start_paused = true)]
async fn opportunistic_without_an_offer_goes_on_in_clear_on_the_same_connection() {
    let dialer = MemoryDialer::peer(clear(&[]));
    let session = client(&dialer).connect(&endpoint(TlsMode::Opportunistic)).await.unwrap();
    assert_eq!((session.peer().tls.as_deref(), dialer.dials()), (None, 1));
    deliver(session, &dialer).await;
}

#[tokio::test(start_paused = true)]
async fn opportunistic_refused_goes_on_in_clear_on_the_same_connection_and_is_not_remembered() {
    for refusal in ["454 4.7.0 TLS not available", "502 no", "554 5.7.3 no"] {
        let script = || Script::offering(&["STARTTLS", "PIPELINING"]).on("STARTTLS", refusal).serve(friendly);
        let dialer = MemoryDialer::new([Dial::Peer(script()), Dial::Peer(script())]);
        let client = client(&dialer);
        for _ in 0..2 {
            let session = client.connect(&endpoint(TlsMode::Opportunistic)).await.unwrap();
            assert_eq!(session.peer().tls, None);
            assert!(session.capabilities().pipelining);
            session.quit().await;
        }
        assert_eq!(dialer.dials(), 2);
        dialer.finish().await;
    }
}

/// Ways to break TLS after which the same connection cannot be used.
fn broken_handshakes() -> Vec<(&'static str, Script)> {
    let offering = || Script::offering(&["STARTTLS"]).expect("STARTTLS");
    vec![
        ("garbage for a handshake", offering().say("220 go").step(Step::Swallow(5)).say("NO TLS HERE, SORRY")),
        ("closed in the handshake", offering().say("220 go").step(Step::Swallow(5)).step(Step::Close)),
        ("closed at STARTTLS", offering().step(Step::Close)),
        ("421 at STARTTLS", offering().say("421 4.7.0 no TLS today").step(Step::Close)),
        ("garbage at STARTTLS", offering().say("hmm")),
        ("silence in the handshake", offering().say("220 go").step(Step::Stall)),
        ("closed when TLS stood", offering().say("220 go").step(Step::Tls(server_tls(&["mx.test"]).0)).step(Step::Close)),
    ]
}

#[tokio::test(start_paused = true)]
async fn opportunistic_with_a_broken_handshake_goes_on_in_clear_on_a_new_connection() {
    for (name, script) in broken_handshakes() {
        let dialer = MemoryDialer::new([Dial::Peer(script), Dial::Peer(clear(&["STARTTLS"]))]);
        let client = client(&dialer);
        let session = client.connect(&endpoint(TlsMode::Opportunistic)).await;
        let session = session.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let traffic = client.traffic();
        let failed = traffic.sessions_failed.get(Stage::Tls) + traffic.sessions_failed.get(Stage::Ehlo);
        assert_eq!((failed, traffic.sessions_opened.get()), (1, 1), "{name}");
        assert_eq!((session.peer().tls.as_deref(), dialer.dials()), (None, 2), "{name}");
        let records = deliver(session, &dialer).await;
        assert!(!records[1].text().contains("STARTTLS"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_tls_is_broken_is_remembered_for_a_while_and_over_a_reload() {
    let (tls, _) = server_tls(&["mx.test"]);
    let (_, broken) = broken_handshakes().swap_remove(1);
    let dials = [broken, clear(&["STARTTLS"]), clear(&["STARTTLS"]), encrypting(&tls), encrypting(&tls)];
    let dialer = MemoryDialer::new(dials.map(Dial::Peer));
    let mut client = client(&dialer);
    let there = endpoint(TlsMode::Opportunistic);

    assert_eq!(client.connect(&there).await.unwrap().peer().tls, None);
    assert_eq!(dialer.dials(), 2);

    // The next session does not even ask, after a reload neither; another host at once does.
    client = client.reconfigured(&config()).unwrap();
    tokio::time::advance(config().tls.remember_broken - Duration::from_secs(1)).await;
    assert_eq!(client.connect(&there).await.unwrap().peer().tls, None);
    assert_eq!(dialer.dials(), 3);
    let elsewhere = Endpoint { host: "mx2.test".into(), ..there.clone() };
    assert!(client.connect(&elsewhere).await.unwrap().peer().tls.is_some());

    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(client.connect(&there).await.unwrap().peer().tls.is_some());
    assert_eq!(dialer.dials(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_broken_is_not_remembered_against_those_who_require_tls() {
    let (tls, _) = server_tls(&["mx.test"]);
    let (_, broken) = broken_handshakes().swap_remove(1);
    let dialer = MemoryDialer::new([broken, clear(&["STARTTLS"]), encrypting(&tls)].map(Dial::Peer));
    let client = client(&dialer);
    client.connect(&endpoint(TlsMode::Opportunistic)).await.unwrap();
    assert!(client.connect(&endpoint(TlsMode::Require)).await.unwrap().peer().tls.is_some());
}

#[tokio::test(start_paused = true)]
async fn opportunistic_whose_second_connection_fails_too_reports_that_one() {
    let (_, broken) = broken_handshakes().swap_remove(1);
    let dialer = MemoryDialer::new([Dial::Peer(broken), Dial::Peer(Script::new().say("421 4.7.0 too fast"))]);
    let error = client(&dialer).connect(&endpoint(TlsMode::Opportunistic)).await.err().unwrap();
    assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Greeting, .. }), "{error:?}");
    assert!(error.greeted, "the first connection was");
}

#[tokio::test(start_paused = true)]
async fn credentials_stay_at_home_when_tls_is_broken() {
    let (_, broken) = broken_handshakes().swap_remove(1);
    let dialer = MemoryDialer::new([Dial::Peer(broken), Dial::Peer(Script::offering(&["AUTH PLAIN"]))]);
    let error = client(&dialer).connect(&endpoint_with_login(TlsMode::Opportunistic, false)).await.err().unwrap();
    assert!(matches!(error.fault, Fault::AuthImpossible { .. }), "{error:?}");
    assert!(!dialer.finish().await[1].text().contains("AUTH"));
}

#[tokio::test(start_paused = true)]
async fn require_and_verify_never_go_on_in_clear() {
    for mode in MODES_WITHOUT_CLEAR_TEXT {
        let dialer = MemoryDialer::peer(Script::offering(&["PIPELINING"]));
        let error = client(&dialer).connect(&endpoint(mode)).await.err().unwrap();
        assert_eq!(error.fault, Fault::TlsNotOffered);
        next_address_then_deferred_for_security(&error);
        assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");

        let dialer = MemoryDialer::peer(Script::offering(&["STARTTLS"]).on("STARTTLS", "454 4.3.0 not now"));
        let error = client(&dialer).connect(&endpoint(mode)).await.err().unwrap();
        assert!(matches!(&error.fault, Fault::Reply { phase: Phase::StartTls, reply } if reply.code() == 454));
        assert!(error.greeted);
        next_address_then_deferred_for_security(&error);
        assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");

        for (name, script) in broken_handshakes() {
            let dialer = MemoryDialer::peer(script);
            let error = client(&dialer).connect(&endpoint(mode)).await.err().unwrap();
            assert_eq!(judge(&error.fault).kind, Kind::Deferred, "{name}");
            assert_eq!((dialer.dials(), judge(&error.fault).next), (1, NextStep::NextAddress), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn require_takes_any_certificate() {
    let (tls, _) = server_tls(&["somebody-else.example"]);
    let dialer = MemoryDialer::peer(encrypting(&tls));
    let session = client(&dialer).connect(&endpoint(TlsMode::Require)).await.unwrap();
    assert!(session.peer().tls.is_some());
    deliver(session, &dialer).await;
}

#[tokio::test(start_paused = true)]
async fn verify_wants_a_certificate_that_proves_the_name() {
    let (tls, pem) = server_tls(&["mx.test"]);
    let dialer = MemoryDialer::new([encrypting(&tls), encrypting(&tls)].map(Dial::Peer));
    let client = trusting(&pem, &dialer);
    let session = client.connect(&endpoint(TlsMode::Verify)).await.unwrap();
    assert!(session.peer().tls.as_deref().unwrap().ends_with(" verified"));
    session.quit().await;

    let other_name = Endpoint { host: "mx.other.test".into(), ..endpoint(TlsMode::Verify) };
    let error = client.connect(&other_name).await.err().unwrap();
    assert!(matches!(&error.fault, Fault::TlsHandshake { detail } if detail.contains("certificate")), "{error:?}");
    next_address_then_deferred_for_security(&error);
}

#[tokio::test(start_paused = true)]
async fn verify_wants_a_certificate_of_somebody_trusted() {
    let (tls, _) = server_tls(&["mx.test"]);
    let (_, another) = server_tls(&["mx.test"]);
    let dialer = MemoryDialer::peer(encrypting(&tls));
    let error = trusting(&another, &dialer).connect(&endpoint(TlsMode::Verify)).await.err().unwrap();
    assert!(matches!(&error.fault, Fault::TlsHandshake { detail } if detail.contains("certificate")), "{error:?}");
    next_address_then_deferred_for_security(&error);
    assert_eq!(dialer.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn verify_of_a_literal_proves_the_address() {
    let (tls, pem) = server_tls(&["192.0.2.25"]);
    for host in ["[192.0.2.25]", "192.0.2.25"] {
        let dialer = MemoryDialer::peer(encrypting(&tls));
        let there = Endpoint { host: host.into(), ..endpoint(TlsMode::Verify) };
        let session = trusting(&pem, &dialer).connect(&there).await;
        assert!(session.unwrap().peer().tls.as_deref().unwrap().ends_with(" verified"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_certificate_can_prove() {
    let (tls, pem) = server_tls(&["mx.test"]);
    let dialer = MemoryDialer::new([encrypting(&tls), encrypting(&tls)].map(Dial::Peer));
    let client = trusting(&pem, &dialer);
    let odd = |tls| Endpoint { host: "mx..test".into(), ..endpoint(tls) };
    assert!(client.connect(&odd(TlsMode::Opportunistic)).await.unwrap().peer().tls.is_some());
    let error = client.connect(&odd(TlsMode::Verify)).await.err().unwrap();
    assert!(matches!(&error.fault, Fault::TlsHandshake { detail } if detail.contains("mx..test")), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn implicit_encrypts_from_the_first_byte_and_verifies() {
    let (tls, pem) = server_tls(&["mx.test"]);
    let script = || Script::new().step(Step::Tls(tls.clone())).say("220 mx.test").ehlo(&["STARTTLS", "PIPELINING"]).serve(friendly);
    let dialer = MemoryDialer::peer(script());
    let session = trusting(&pem, &dialer).connect(&endpoint(TlsMode::Implicit)).await.unwrap();
    assert!(session.peer().tls.as_deref().unwrap().ends_with(" verified"));
    let records = deliver(session, &dialer).await;
    assert!(!records[0].text().contains("STARTTLS"));

    let dialer = MemoryDialer::peer(script());
    let error = client(&dialer).connect(&endpoint(TlsMode::Implicit)).await.err().unwrap();
    assert!(matches!(error.fault, Fault::TlsHandshake { .. }) && !error.greeted, "{error:?}");
    next_address_then_deferred_for_security(&error);

    let dialer = MemoryDialer::peer(Script::new().say("220 mx.test speaks first"));
    let error = client_only(&dialer, TlsMode::Implicit).await;
    assert!(matches!(error.fault, Fault::TlsHandshake { .. }), "{error:?}");
}

async fn client_only(dialer: &Arc<MemoryDialer>, mode: TlsMode) -> ConnectError {
    client(dialer).connect(&endpoint(mode)).await.err().unwrap()
}

#[tokio::test(start_paused = true)]
async fn plain_text_after_the_starttls_reply_ends_the_session() {
    for mode in [TlsMode::Opportunistic, TlsMode::Require, TlsMode::Verify] {
        for injected in ["220 go\r\n250 you may send in clear\r\n", "220 go\r\n250-par"] {
            let dialer = MemoryDialer::peer(Script::offering(&["STARTTLS"]).expect("STARTTLS").raw(injected.as_bytes()));
            let error = client_only(&dialer, mode).await;
            assert_eq!(error.fault, Fault::TlsInjection);
            next_address_then_deferred_for_security(&error);
            assert_eq!(dialer.dials(), 1, "not tried in clear text either");
            assert_eq!(dialer.finish().await[0].rest(), "", "the session ends without another word");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn none_does_not_use_what_is_offered() {
    let dialer = MemoryDialer::peer(clear(&["STARTTLS"]));
    let session = client(&dialer).connect(&endpoint(TlsMode::None)).await.unwrap();
    assert_eq!(session.peer().tls, None);
}

#[tokio::test(start_paused = true)]
async fn starttls_and_the_handshake_are_given_up_after_their_limit() {
    let started = Instant::now();
    let dialer = MemoryDialer::peer(Script::offering(&["STARTTLS"]).expect("STARTTLS").step(Step::Stall));
    let error = client_only(&dialer, TlsMode::Require).await;
    assert_eq!((error.fault, started.elapsed().as_secs()), (Fault::TimedOut { phase: Phase::StartTls }, 300));
    assert_eq!(error.handshake, Duration::ZERO);

    let started = Instant::now();
    let dialer = MemoryDialer::peer(Script::offering(&["STARTTLS"]).on("STARTTLS", "220 go").step(Step::Stall));
    let error = client_only(&dialer, TlsMode::Require).await;
    assert_eq!((error.fault, started.elapsed().as_secs()), (Fault::TlsHandshake { detail: "not finished within 5m".to_owned() }, 300));
    assert_eq!(error.handshake.as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn this_host_is_recognised_under_tls_too() {
    let (tls, _) = server_tls(&["mx.test"]);
    let script = Script::offering(&["STARTTLS"])
        .on("STARTTLS", "220 go")
        .step(Step::Tls(tls))
        .on(&format!("EHLO {}", peer::HOSTNAME), "250 client.test");
    let dialer = MemoryDialer::peer(script);
    assert_eq!(client_only(&dialer, TlsMode::Opportunistic).await.fault, Fault::PeerIsSelf);
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let with = |path: PathBuf| {
        let mut config: Config = config();
        config.tls.ca_file = Some(path);
        Client::new(&config, MemoryDialer::new([])).err().unwrap()
    };
    let missing = with("/nowhere/ca.pem".into());
    assert!(matches!(missing, TlsSetupError::CaFile { .. }) && missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    let path = write("empty", "no certificate here\n");
    assert!(with(path.clone()).to_string().contains("no certificate in it"));
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(with(path.clone()), TlsSetupError::CaFile { .. }));
    std::fs::remove_file(path).unwrap();
}

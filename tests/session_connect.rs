//! From the dial to the moment when MAIL could be said: the rows "connect", "greeting" and "EHLO" of SMTP-RULES.md, and logging in.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/peer.rs"]
mod peer;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use peer::{Dial, HOSTNAME, Letter, MemoryDialer, Script, Step, TcpPeer, config, endpoint, endpoint_with_login, friendly, within};
use smtp_direct::config::TlsMode;
use smtp_direct::observe::figure::Label;
use smtp_direct::outcome::{Fault, Kind, NextStep, Phase, judge};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Client, ConnectError, Session, Stage, TcpDialer};
use tokio::time::Instant;

async fn connect_to(dialer: &Arc<MemoryDialer>, endpoint: &Endpoint) -> Result<Session, ConnectError> {
    Client::new(&config(), dialer.clone()).unwrap().connect(endpoint).await
}

async fn connect(script: Script) -> (Result<Session, ConnectError>, Arc<MemoryDialer>) {
    let dialer = MemoryDialer::peer(script);
    (connect_to(&dialer, &endpoint(TlsMode::None)).await, dialer)
}

async fn fault(script: Script) -> ConnectError {
    connect(script).await.0.expect_err("no session")
}

/// Every fault before MAIL is the host's, not the recipient's: the next address, then deferred.
fn goes_to_the_next_address(fault: &Fault) {
    let verdict = judge(fault);
    assert_eq!((verdict.kind, verdict.next), (Kind::Deferred, NextStep::NextAddress), "{fault}");
    assert_eq!(verdict.status.class, 4, "{fault}");
}

// ---- connect, 30 s

#[tokio::test]
async fn connect_refused() {
    let port = TcpPeer::start(vec![]).await;
    let address = port.address;
    port.finish().await;
    let client = Client::new(&config(), Arc::new(TcpDialer::default())).unwrap();
    let error = within(client.connect(&Endpoint { address, ..endpoint(TlsMode::None) })).await.err().unwrap();
    assert!(matches!(&error.fault, Fault::Connect { detail } if detail.contains("refused")), "{error:?}");
    assert!(!error.greeted && error.fault.is_unreachable());
    assert_eq!((&*error.peer.host, error.peer.address), ("mx.test", address));
    goes_to_the_next_address(&error.fault);
    assert_eq!(judge(&error.fault).status.to_string(), "4.4.1");
}

#[tokio::test]
async fn connect_unreachable() {
    let dialer = MemoryDialer::new([Dial::Fail(io::ErrorKind::NetworkUnreachable)]);
    let error = connect_to(&dialer, &endpoint(TlsMode::None)).await.err().unwrap();
    assert!(matches!(error.fault, Fault::Connect { .. }));
}

#[tokio::test(start_paused = true)]
async fn connect_is_given_up_after_its_limit() {
    let started = Instant::now();
    let dialer = MemoryDialer::new([Dial::Hang]);
    let error = connect_to(&dialer, &endpoint(TlsMode::None)).await.err().unwrap();
    assert_eq!(error.fault, Fault::Connect { detail: "no answer within 30s".to_owned() });
    assert_eq!(started.elapsed().as_secs(), 30);
}

// ---- greeting, 5 min

#[tokio::test(start_paused = true)]
async fn greeting_4xx_and_5xx_are_the_hosts_and_never_final() {
    for code in [421, 450, 554] {
        let error = fault(Script::new().say(&format!("{code} 5.3.2 go away"))).await;
        assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Greeting, reply } if reply.code() == code), "{error:?}");
        assert!(!error.greeted && error.fault.is_unreachable());
        goes_to_the_next_address(&error.fault);
    }
}

#[tokio::test(start_paused = true)]
async fn greeting_that_is_refused_is_left_with_quit_and_a_421_without() {
    let (result, dialer) = connect(Script::new().say("554 no")).await;
    drop(result);
    assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");
    let (result, dialer) = connect(Script::new().say("421 busy")).await;
    drop(result);
    assert_eq!(dialer.finish().await[0].rest(), "");
}

#[tokio::test(start_paused = true)]
async fn greeting_garbage() {
    for greeting in ["HTTP/1.1 400 Bad Request", "SSH-2.0-OpenSSH_9.6", "354 go ahead", "120 soon", ""] {
        let error = fault(Script::new().say(greeting)).await;
        assert!(matches!(error.fault, Fault::Protocol { phase: Phase::Greeting, .. }), "{greeting}: {error:?}");
        goes_to_the_next_address(&error.fault);
    }
    let error = fault(Script::new().raw(&[b'2'; 10_000])).await;
    assert!(matches!(error.fault, Fault::Protocol { phase: Phase::Greeting, .. }), "an endless line: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn greeting_close() {
    for script in [Script::new().step(Step::Close), Script::new().raw(b"220-mx.test\r\n").step(Step::Close)] {
        let error = fault(script).await;
        assert_eq!(error.fault, Fault::Closed { phase: Phase::Greeting, detail: "closed by the peer".to_owned() });
        assert!(error.fault.is_unreachable());
        goes_to_the_next_address(&error.fault);
    }
}

#[tokio::test]
async fn greeting_reset() {
    let peer = TcpPeer::start(vec![Script::new().step(Step::Reset)]).await;
    let client = Client::new(&config(), Arc::new(TcpDialer::default())).unwrap();
    let error = within(client.connect(&Endpoint { address: peer.address, ..endpoint(TlsMode::None) })).await.err().unwrap();
    // The reset may overtake the answer to the connection itself.
    assert!(matches!(error.fault, Fault::Closed { phase: Phase::Greeting, .. } | Fault::Connect { .. }), "{error:?}");
    peer.finish().await;
}

#[tokio::test(start_paused = true)]
async fn greeting_is_given_up_after_its_limit() {
    let started = Instant::now();
    // One line now and then does not prolong it.
    let trickle = (0..9).fold(Script::new(), |script, _| script.say("220-wait").step(Step::Wait(Duration::from_secs(60))));
    let error = fault(trickle).await;
    assert_eq!(error.fault, Fault::TimedOut { phase: Phase::Greeting });
    assert_eq!(started.elapsed().as_secs(), 300);
    goes_to_the_next_address(&error.fault);
}

// ---- EHLO, 5 min

#[tokio::test(start_paused = true)]
async fn ehlo_5xx_is_followed_by_helo_on_the_same_connection() {
    let script = Script::new()
        .say("220-mx.test\r\n220 old")
        .on(&format!("EHLO {HOSTNAME}"), "500 what?")
        .on(&format!("HELO {HOSTNAME}"), "250 mx.test\r\n");
    let (session, dialer) = connect(script).await;
    let session = session.unwrap();
    assert_eq!(session.capabilities(), &smtp_direct::smtp::Capabilities::default());
    assert_eq!(dialer.dials(), 1);
    assert_eq!(session.greeting().text(), "mx.test\nold");
}

#[tokio::test(start_paused = true)]
async fn helo_refused_too() {
    let script = Script::new().say("220 x").on(&format!("EHLO {HOSTNAME}"), "502 no").on(&format!("HELO {HOSTNAME}"), "550 5.7.1 nor this");
    let error = fault(script).await;
    assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Ehlo, reply } if reply.code() == 550));
    assert!(error.greeted, "such attempts count against max_sessions");
    assert!(!error.fault.is_unreachable());
    goes_to_the_next_address(&error.fault);
}

#[tokio::test(start_paused = true)]
async fn ehlo_421_and_close_and_garbage() {
    let begin = || Script::new().say("220 x").expect(&format!("EHLO {HOSTNAME}"));
    let error = fault(begin().say("421 4.3.2 closing")).await;
    assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Ehlo, reply } if reply.code() == 421));
    goes_to_the_next_address(&error.fault);
    let error = fault(begin().step(Step::Close)).await;
    assert!(matches!(error.fault, Fault::Closed { phase: Phase::Ehlo, .. }));
    goes_to_the_next_address(&error.fault);
    for nonsense in ["what?", "354 go ahead", "250-mx.test\r\nPIPELINING"] {
        let error = fault(begin().say(nonsense)).await;
        assert!(matches!(error.fault, Fault::Protocol { phase: Phase::Ehlo, .. }), "{error:?}");
        goes_to_the_next_address(&error.fault);
    }
}

#[tokio::test(start_paused = true)]
async fn ehlo_is_given_up_after_its_limit() {
    let started = Instant::now();
    let error = fault(Script::new().say("220 x").step(Step::Stall)).await;
    assert_eq!(error.fault, Fault::TimedOut { phase: Phase::Ehlo });
    assert_eq!(started.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn ehlo_reply_that_names_this_host_is_a_loop() {
    for reply in ["250 CLIENT.test", "250-client.test. Hello\r\n250 PIPELINING"] {
        let error = fault(Script::new().say("220 client.test ESMTP").on(&format!("EHLO {HOSTNAME}"), reply)).await;
        assert_eq!(error.fault, Fault::PeerIsSelf, "{reply}");
        let verdict = judge(&error.fault);
        assert_eq!((verdict.kind, verdict.status.to_string(), verdict.next), (Kind::Failed, "5.4.6".to_owned(), NextStep::Stop));
    }
    let (session, _) = connect(Script::new().say("220 x").on(&format!("EHLO {HOSTNAME}"), "250 mail.client.test")).await;
    assert!(session.is_ok(), "a longer name is another host");
}

#[tokio::test(start_paused = true)]
async fn a_session_knows_its_peer_and_what_it_offers() {
    let (session, dialer) = connect(Script::offering(&["pipelining", "SIZE 1000", "8BITMIME"])).await;
    let session = session.unwrap();
    let offered = session.capabilities();
    assert!(offered.pipelining && offered.eight_bit_mime && !offered.starttls);
    assert_eq!(offered.size, Some(Some(1000)));
    assert_eq!((&*session.peer().host, session.peer().tls.as_deref()), ("mx.test", None));
    assert_eq!(session.peer().address, endpoint(TlsMode::None).address);
    assert!(session.is_reusable() && session.transactions() == 0 && session.opened_at() <= Instant::now());
    session.quit().await;
    let record = &dialer.finish().await[0];
    assert_eq!((record.rest().as_str(), record.ended), ("QUIT\r\n", Some(Ok(()))));
}

#[tokio::test]
async fn a_session_can_go_to_another_thread() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let dialer = MemoryDialer::peer(Script::offering(&[]).serve(friendly));
    let client = Client::new(&config(), dialer.clone()).unwrap();
    let mut session = sendable(client.connect(&endpoint(TlsMode::None))).await.unwrap();
    let letter = Letter::short();
    let mail = letter.mail();
    assert!(sendable(session.send(&mail)).await[0].is_ok());
    sendable(session.quit()).await;
}

// ---- AUTH, 5 min

/// `\0joe\0s3cret!` in base64.
const PLAIN: &str = "AGpvZQBzM2NyZXQh";

async fn log_in(script: Script, in_clear: bool) -> (Result<Session, ConnectError>, Arc<MemoryDialer>) {
    let dialer = MemoryDialer::peer(script);
    (connect_to(&dialer, &endpoint_with_login(TlsMode::None, in_clear)).await, dialer)
}

#[tokio::test(start_paused = true)]
async fn auth_plain_in_one_step_with_the_initial_response() {
    let script = Script::offering(&["AUTH LOGIN PLAIN"]).on(&format!("AUTH PLAIN {PLAIN}"), "235 2.7.0 welcome");
    let (session, dialer) = log_in(script, true).await;
    session.unwrap().quit().await;
    assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn auth_plain_asked_for_again() {
    let script = Script::offering(&["AUTH PLAIN"]).on(&format!("AUTH PLAIN {PLAIN}"), "334 ").on(PLAIN, "235 welcome");
    assert!(log_in(script, true).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn auth_login_where_plain_is_not_offered() {
    let script = Script::offering(&["AUTH=LOGIN GSSAPI"])
        .on("AUTH LOGIN", "334 VXNlcm5hbWU6")
        .on("am9l", "334 UGFzc3dvcmQ6")
        .on("czNjcmV0IQ==", "235 welcome");
    assert!(log_in(script, true).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn auth_5xx_is_deferred_and_its_text_has_no_password() {
    let script = Script::offering(&["AUTH PLAIN"]).on(&format!("AUTH PLAIN {PLAIN}"), &format!("535 5.7.8 no: {PLAIN} s3cret!"));
    let (result, dialer) = log_in(script, true).await;
    let error = result.err().unwrap();
    assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Auth, reply } if reply.code() == 535));
    goes_to_the_next_address(&error.fault);
    assert_eq!(judge(&error.fault).status.to_string(), "4.7.8");
    let shown = format!("{error:?} {}", error.fault);
    assert!(!shown.contains("s3cret") && !shown.contains(PLAIN), "{shown}");
    assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn auth_4xx_close_and_endless_prompts() {
    let begin = || Script::offering(&["AUTH PLAIN"]).expect(&format!("AUTH PLAIN {PLAIN}"));
    let error = log_in(begin().say("454 4.7.0 later"), true).await.0.err().unwrap();
    assert!(matches!(&error.fault, Fault::Reply { phase: Phase::Auth, .. }));
    goes_to_the_next_address(&error.fault);
    let error = log_in(begin().step(Step::Close), true).await.0.err().unwrap();
    assert!(matches!(error.fault, Fault::Closed { phase: Phase::Auth, .. }));
    let error = log_in(begin().say("334 ").on(PLAIN, "334 "), true).await.0.err().unwrap();
    assert!(matches!(error.fault, Fault::Protocol { phase: Phase::Auth, .. }));
}

#[tokio::test(start_paused = true)]
async fn auth_is_given_up_after_its_limit() {
    let started = Instant::now();
    let (result, _) = log_in(Script::offering(&["AUTH PLAIN"]).step(Step::Stall), true).await;
    assert_eq!(result.err().unwrap().fault, Fault::TimedOut { phase: Phase::Auth });
    assert_eq!(started.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn credentials_do_not_go_over_clear_text_unless_the_target_says_so() {
    let (result, dialer) = log_in(Script::offering(&["AUTH PLAIN"]), false).await;
    let error = result.err().unwrap();
    assert!(matches!(&error.fault, Fault::AuthImpossible { detail } if detail.contains("not encrypted")), "{error:?}");
    goes_to_the_next_address(&error.fault);
    assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn auth_that_cannot_be_done() {
    for (offered, said) in [(&[][..], "does not offer AUTH"), (&["AUTH CRAM-MD5"][..], "only CRAM-MD5")] {
        let error = log_in(Script::offering(offered), true).await.0.err().unwrap();
        assert!(matches!(&error.fault, Fault::AuthImpossible { detail } if detail.contains(said)), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_leads_to_no_session_is_counted_by_where_it_ended() {
    let ways = [
        (Stage::Connect, Dial::Fail(io::ErrorKind::NetworkUnreachable)),
        (Stage::Connect, Dial::Hang),
        (Stage::Greeting, Dial::Peer(Script::new().say("554 5.7.1 not you"))),
        (Stage::Greeting, Dial::Peer(Script::new().step(Step::Close))),
        (Stage::Ehlo, Dial::Peer(Script::new().say("220 mx.test").expect(&format!("EHLO {HOSTNAME}")).say("421 bye").step(Step::Close))),
        (Stage::Auth, Dial::Peer(Script::offering(&["AUTH PLAIN"]).on(&format!("AUTH PLAIN {PLAIN}"), "535 5.7.8 wrong"))),
        (Stage::Auth, Dial::Peer(Script::offering(&[]))),
    ];
    for (number, (stage, dial)) in ways.into_iter().enumerate() {
        let dialer = MemoryDialer::new([dial]);
        let client = Client::new(&config(), dialer.clone()).unwrap();
        client.connect(&endpoint_with_login(TlsMode::None, true)).await.unwrap_err();
        let traffic = client.traffic();
        let counted: Vec<u64> = Stage::ALL.iter().map(|stage| traffic.sessions_failed.get(*stage)).collect();
        let expected: Vec<u64> = Stage::ALL.iter().map(|one| u64::from(*one == stage)).collect();
        assert_eq!(counted, expected, "{number}: {stage:?}");
        assert_eq!((traffic.sessions_opened.get(), traffic.sessions_open.get()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_open_until_it_is_left_or_dropped() {
    let dialer = MemoryDialer::new([0, 1].map(|_| Dial::Peer(Script::offering(&[]).serve(friendly))));
    let client = Client::new(&config(), dialer.clone()).unwrap();
    let traffic = client.traffic();
    let first = client.connect(&endpoint(TlsMode::None)).await.unwrap();
    let second = client.reconfigured(&config()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    assert_eq!((traffic.sessions_opened.get(), traffic.sessions_open.get()), (2, 2));
    first.quit().await;
    assert_eq!(traffic.sessions_open.get(), 1);
    drop(second);
    assert_eq!(traffic.sessions_open.get(), 0);
    let said: usize = dialer.finish().await.iter().map(|record| record.text().len()).sum();
    assert_eq!(traffic.sent_bytes.get(), said as u64);
}

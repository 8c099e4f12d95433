//! The content and its end: the rows "block", "final dot" and "QUIT" of SMTP-RULES.md, and what is in doubt and what is not.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/peer.rs"]
mod peer;

use std::sync::Arc;
use std::time::Duration;

use peer::{Dial, Letter, MemoryDialer, Record, SHORT, Script, Step, TcpPeer, config, endpoint, friendly, server_tls, within};
use smtp_direct::config::TlsMode;
use smtp_direct::outcome::{Fault, Kind, NextStep, Outcome, Phase, judge};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Accepted, Client, Session, TcpDialer};
use tokio::time::Instant;

type Answer = Result<Accepted, Fault>;

fn pipelining() -> Script {
    Script::offering(&["PIPELINING"])
}

async fn open(dialer: &Arc<MemoryDialer>) -> Session {
    Client::new(&config(), dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap()
}

/// One letter to one recipient over a connection with buffers of this size; whether the session can go on.
async fn send(letter: &Letter, script: Script, buffer: usize) -> (Answer, bool, Record) {
    let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], buffer);
    let mut session = open(&dialer).await;
    let answer = letter.send(&mut session).await.remove(0);
    let reusable = session.is_reusable();
    session.quit().await;
    (answer, reusable, dialer.finish().await.remove(0))
}

/// The same over TCP.
async fn send_over_tcp(letter: &Letter, script: Script) -> (Answer, bool) {
    let peer = TcpPeer::start(vec![script]).await;
    let there = Endpoint { address: peer.address, ..endpoint(TlsMode::None) };
    let client = Client::new(&config(), Arc::new(TcpDialer::default())).unwrap();
    let mut session = within(client.connect(&there)).await.unwrap();
    let answer = within(letter.send(&mut session)).await.remove(0);
    let reusable = session.is_reusable();
    drop(session);
    peer.finish().await;
    (answer, reusable)
}

/// Canonical text of this many octets, with dots where they hurt.
fn text(octets: usize) -> String {
    let mut text = String::with_capacity(octets);
    let lines = ["..\r\n", ".\r\n", "a line of some length, as they come in messages.\r\n", "\r\n", ".hidden\r\n"];
    let mut line = lines.iter().cycle();
    while text.len() + 60 < octets {
        text.push_str(line.next().unwrap());
    }
    let rest = octets - text.len() - 2;
    text.push_str(&"x".repeat(rest));
    text + "\r\n"
}

fn unstuffed(content: &[u8]) -> String {
    let text = std::str::from_utf8(content).unwrap();
    text.split_inclusive("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line)).collect()
}

#[track_caller]
fn elsewhere(answer: &Answer) {
    let fault = answer.as_ref().unwrap_err();
    let verdict = judge(fault);
    assert_eq!((verdict.kind, verdict.next), (Kind::Deferred, NextStep::NextAddress), "{fault}");
    assert!(!Outcome::of(fault, None).in_doubt, "{fault}");
}

#[track_caller]
fn in_doubt(answer: &Answer) {
    let fault = answer.as_ref().unwrap_err();
    let verdict = judge(fault);
    assert_eq!((verdict.kind, verdict.next), (Kind::Deferred, NextStep::Stop), "{fault}");
    assert!(Outcome::of(fault, None).in_doubt, "{fault}");
}

#[track_caller]
fn failed(answer: &Answer) {
    let fault = answer.as_ref().unwrap_err();
    assert_eq!((judge(fault).kind, judge(fault).next), (Kind::Failed, NextStep::Stop), "{fault}");
}

// ---- what arrives

#[tokio::test(start_paused = true)]
async fn content_arrives_as_it_is_whatever_its_size_and_the_connections() {
    const BLOCK: usize = 64 * 1024;
    for octets in [60, 1_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 7] {
        for buffer in [1_000, 1024 * 1024] {
            let text = text(octets);
            assert_eq!(text.len(), octets);
            let (answer, reusable, record) = send(&Letter::new(1, &text), pipelining().serve(friendly), buffer).await;
            assert!(answer.is_ok() && reusable, "{octets} {buffer}: {answer:?}");
            assert_eq!(unstuffed(&record.contents[0]), text, "{octets} {buffer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_top_goes_on_top() {
    let mut letter = Letter::short();
    letter.content.prepend = "Received: by client.test\r\n".to_owned();
    letter.content.wire_size += letter.content.prepend.len() as u64;
    let (_, _, record) = send(&letter, pipelining().serve(friendly), 1024).await;
    assert_eq!(unstuffed(&record.contents[0]), format!("Received: by client.test\r\n{SHORT}"));
}

#[tokio::test(start_paused = true)]
async fn large_content_goes_in_blocks_and_small_content_in_one_write() {
    let dialer = MemoryDialer::peer(pipelining().serve(friendly));
    let mut session = open(&dialer).await;
    Letter::new(1, &text(60_000)).send(&mut session).await.remove(0).unwrap();
    assert_eq!(dialer.turns().len(), 3, "EHLO, envelope, content");
    Letter::new(1, &text(200_000)).send(&mut session).await.remove(0).unwrap();
    let turns = dialer.turns();
    assert_eq!(turns.len(), 3 + 1 + 4);
    // A block of 64 KiB, with room for the doubled dots.
    assert!(turns.iter().all(|turn| turn.len() < 80 * 1024));
}

#[tokio::test(start_paused = true)]
async fn content_arrives_over_tls_through_a_narrow_connection() {
    let (tls, _) = server_tls(&["mx.test"]);
    let script = Script::offering(&["STARTTLS"]).on("STARTTLS", "220 go").step(Step::Tls(tls)).ehlo(&["PIPELINING"]).serve(friendly);
    let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], 500);
    let client = Client::new(&config(), dialer.clone()).unwrap();
    let mut session = client.connect(&endpoint(TlsMode::Require)).await.unwrap();
    let (long, short) = (text(300_000), text(2_000));
    for text in [&long, &short, &long] {
        assert!(Letter::new(1, text).send(&mut session).await[0].is_ok());
    }
    session.quit().await;
    let record = &dialer.finish().await[0];
    assert_eq!(record.contents.iter().map(|content| unstuffed(content).len()).collect::<Vec<_>>(), [300_000, 2_000, 300_000]);
    assert_eq!(unstuffed(&record.contents[2]), long);
}

// ---- the file

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_or_damaged_is_found_before_the_peer_hears_of_it() {
    let missing = Letter::short();
    std::fs::remove_file(&missing.file).unwrap();
    let damaged = Letter::short();
    std::fs::write(&damaged.file, "another size").unwrap();
    for letter in [missing, damaged] {
        let (answer, reusable, record) = send(&letter, pipelining(), 1024).await;
        assert!(matches!(answer, Err(Fault::Damaged { .. })), "{answer:?}");
        failed(&answer);
        assert_eq!((reusable, record.rest().as_str()), (true, "QUIT\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_while_it_is_sent_is_never_ended_with_a_dot() {
    for left in [100_000, 0] {
        let letter = Letter::new(1, &text(200_000));
        let file = letter.file.clone();
        let cutting = pipelining().serve(move |line| {
            if line == "DATA" {
                std::fs::File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
            }
            friendly(line)
        });
        let (answer, reusable, record) = send(&letter, cutting, 1024 * 1024).await;
        assert!(matches!(answer, Err(Fault::Damaged { .. })), "{answer:?}");
        let verdict = judge(answer.as_ref().unwrap_err());
        assert_eq!((verdict.kind, verdict.next, reusable), (Kind::Failed, NextStep::Stop, false));
        assert!(record.text().contains("DATA\r\n"));
        assert!(record.contents.is_empty() && !record.text().contains("\r\n.\r\n") && !record.text().contains("QUIT"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_file_is_read_before_the_peer_hears_of_it() {
    let letter = Letter::new(1, &text(2_000));
    let file = letter.file.clone();
    let cutting = pipelining().serve(move |line| {
        if line == "DATA" {
            std::fs::File::options().write(true).open(&file).unwrap().set_len(1_000).unwrap();
        }
        friendly(line)
    });
    let (answer, _, record) = send(&letter, cutting, 1024 * 1024).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(unstuffed(&record.contents[0]), text(2_000));
}

// ---- block, 3 min each and at least 500 B/s

#[tokio::test(start_paused = true)]
async fn a_stalled_block_is_given_up_after_its_limit() {
    let dialer = MemoryDialer::with_buffer([Dial::Peer(pipelining().envelope().step(Step::Stall))], 1_000);
    let mut session = open(&dialer).await;
    let started = Instant::now();
    let answer = Letter::new(1, &text(200_000)).send(&mut session).await.remove(0);
    assert_eq!(answer, Err(Fault::TimedOut { phase: Phase::Content }));
    assert_eq!(started.elapsed().as_secs(), 180);
    elsewhere(&answer);
    assert!(!session.is_reusable());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_each_block_in_time_but_too_little_on_the_whole_is_given_up() {
    // 400 octets a second: 164 s a block, under the limit of 180 s.
    let slow = |octets_a_second: u64| {
        let script = pipelining().envelope().step(Step::ContentSlowly(Duration::from_millis(1_000_000 / octets_a_second))).say("250 ok");
        MemoryDialer::with_buffer([Dial::Peer(script)], 1_000)
    };
    let started = Instant::now();
    let mut session = open(&slow(400)).await;
    let answer = Letter::new(1, &text(800_000)).send(&mut session).await.remove(0);
    assert_eq!(answer, Err(Fault::TimedOut { phase: Phase::Content }));
    assert!((800..1_100).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let started = Instant::now();
    let mut session = open(&slow(550)).await;
    assert!(Letter::new(1, &text(800_000)).send(&mut session).await[0].is_ok());
    assert!(started.elapsed().as_secs() > 1_400);
}

#[tokio::test(start_paused = true)]
async fn a_5xx_said_while_the_content_is_under_way_counts() {
    let letter = Letter::new(1, &text(200_000));
    for (reply, last_step) in
        [("552 5.3.4 too large", Step::Stall), ("552 5.3.4 too large", Step::Close), ("554-5.7.1 spam\r\n554 5.7.1 and so on", Step::Close)]
    {
        let script = pipelining().envelope().step(Step::Swallow(70_000)).say(reply).step(last_step);
        let (answer, reusable, _) = send(&letter, script, 1_000).await;
        assert!(matches!(&answer, Err(Fault::Reply { phase: Phase::Content, reply }) if reply.code() >= 552), "{answer:?}");
        failed(&answer);
        assert!(!reusable);
    }
}

#[tokio::test(start_paused = true)]
async fn other_answers_while_the_content_is_under_way() {
    let letter = Letter::new(1, &text(200_000));
    for code in [421, 451] {
        let script = pipelining().envelope().step(Step::Swallow(70_000)).say(&format!("{code} 4.3.1 full")).step(Step::Stall);
        let (answer, reusable, _) = send(&letter, script, 1_000).await;
        assert!(matches!(&answer, Err(Fault::Reply { phase: Phase::Content, .. })), "{answer:?}");
        elsewhere(&answer);
        assert!(!reusable);
    }
    for said in ["250 thanks, that will do", "354 more", "nonsense"] {
        let script = pipelining().envelope().step(Step::Swallow(70_000)).say(said).step(Step::Stall);
        let (answer, reusable, record) = send(&letter, script, 1_000).await;
        assert!(matches!(&answer, Err(Fault::Protocol { phase: Phase::Content, .. })), "{answer:?}");
        elsewhere(&answer);
        assert!(!reusable && record.contents.is_empty());
    }
}

#[tokio::test]
async fn a_5xx_before_a_reset_counts() {
    // Closing with unread octets makes the kernel send a reset, which follows the reply on its heels.
    for end in [Step::Close, Step::Reset] {
        let script = pipelining().envelope().step(Step::Swallow(70_000)).say("552 5.3.4 too large").step(end);
        let (answer, reusable) = send_over_tcp(&Letter::new(1, &text(30_000_000)), script).await;
        assert!(!reusable);
        match &answer {
            Err(Fault::Reply { phase: Phase::Content, reply }) => assert_eq!(reply.code(), 552),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_closes_in_the_content_is_not_in_doubt() {
    let letter = Letter::new(1, &text(200_000));
    for step in [Step::Close, Step::Say(b"552 half a line".to_vec())] {
        let script = pipelining().envelope().step(Step::Swallow(70_000)).step(step).step(Step::Close);
        let (answer, reusable, _) = send(&letter, script, 1_000).await;
        assert!(matches!(answer, Err(Fault::Closed { phase: Phase::Content, .. })), "{answer:?}");
        elsewhere(&answer);
        assert!(!reusable);
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_in_the_content_is_not_in_doubt() {
    let script = pipelining().envelope().step(Step::Swallow(70_000)).step(Step::Reset);
    let (answer, reusable) = send_over_tcp(&Letter::new(1, &text(30_000_000)), script).await;
    assert!(matches!(answer, Err(Fault::Closed { phase: Phase::Content, .. })), "{answer:?}");
    elsewhere(&answer);
    assert!(!reusable);
}

/// The peer closes after each possible octet of the content. It is in doubt if and only if the end of the content may have got there.
#[tokio::test(start_paused = true)]
async fn doubt_begins_with_the_last_octet_of_the_end() {
    let wire = format!("{SHORT}.\r\n").len();
    for read in 0..=wire {
        for buffer in [1, 5, 1_000] {
            let script = pipelining().envelope().step(Step::Swallow(read)).step(Step::Close);
            let (answer, reusable, record) = send(&Letter::short(), script, buffer).await;
            assert!(!reusable);
            if record.text().ends_with("\r\n.\r\n") {
                assert!(matches!(answer, Err(Fault::InDoubt { .. })), "{read} {buffer}: {answer:?}");
                in_doubt(&answer);
            } else if read + buffer < wire {
                assert!(matches!(answer, Err(Fault::Closed { phase: Phase::Content, .. })), "{read} {buffer}: {answer:?}");
                elsewhere(&answer);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_before_the_last_octet_is_no_doubt_and_one_after_it_is() {
    let wire = format!("{SHORT}.\r\n").len();
    for (read, doubt) in [(wire - 11, false), (wire - 10, true)] {
        let script = pipelining().envelope().step(Step::Swallow(read)).step(Step::Stall);
        let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], 10);
        let answer = Letter::short().send(&mut open(&dialer).await).await.remove(0);
        if doubt { in_doubt(&answer) } else { elsewhere(&answer) }
    }
}

// ---- final dot, 10 min

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_end_is_the_outcome() {
    let with = |reply: &str| pipelining().envelope().content().say(reply);
    let (answer, reusable, _) = send(&Letter::short(), with("250-2.0.0 ok\r\n250 queued as ABC123"), 1_000).await;
    assert_eq!((answer.unwrap().reply.text(), reusable), ("2.0.0 ok\nqueued as ABC123", true));

    let (answer, reusable, _) = send(&Letter::short(), with("451 4.7.1 greylisted"), 1_000).await;
    assert!(matches!(answer, Err(Fault::Reply { phase: Phase::FinalDot, .. })) && reusable);
    elsewhere(&answer);

    let (answer, reusable, _) = send(&Letter::short(), with("554 5.7.1 spam"), 1_000).await;
    assert!(matches!(answer, Err(Fault::Reply { phase: Phase::FinalDot, .. })) && reusable);
    failed(&answer);

    let (answer, reusable, record) = send(&Letter::short(), with("421 4.3.2 shutting down"), 1_000).await;
    assert!(matches!(answer, Err(Fault::Reply { phase: Phase::FinalDot, .. })) && !reusable);
    elsewhere(&answer);
    assert_eq!(record.rest(), "");
}

#[tokio::test(start_paused = true)]
async fn after_the_end_a_close_or_an_answer_out_of_step_leaves_doubt() {
    for (step, said) in [
        (Step::Close, "lost"),
        (Step::Say(b"250 o".to_vec()), "lost"),
        (Step::Say(b"354 go on\r\n".to_vec()), "out of step"),
        (Step::Say(b"thank you\r\n".to_vec()), "out of step"),
        (Step::Say(vec![b'2'; 10_000]), "out of step"),
    ] {
        let script = pipelining().envelope().content().step(step).step(Step::Close);
        let (answer, reusable, _) = send(&Letter::short(), script, 20_000).await;
        assert!(matches!(&answer, Err(Fault::InDoubt { how }) if how.contains(said)), "{answer:?}");
        in_doubt(&answer);
        assert!(!reusable);
    }
}

#[tokio::test]
async fn after_the_end_a_reset_leaves_doubt() {
    let script = pipelining().envelope().content().step(Step::Reset);
    let (answer, reusable) = send_over_tcp(&Letter::short(), script).await;
    assert!(matches!(&answer, Err(Fault::InDoubt { how }) if how.contains("lost")), "{answer:?}");
    in_doubt(&answer);
    assert!(!reusable);
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_end_is_given_up_after_its_limit() {
    let dialer = MemoryDialer::peer(pipelining().envelope().content().step(Step::Stall));
    let mut session = open(&dialer).await;
    let started = Instant::now();
    let answer = Letter::short().send(&mut session).await.remove(0);
    assert_eq!(answer, Err(Fault::InDoubt { how: "no answer came in time".to_owned() }));
    assert_eq!(started.elapsed().as_secs(), 600);
    in_doubt(&answer);
}

#[tokio::test(start_paused = true)]
async fn doubt_is_only_about_those_who_were_in_that_transaction() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    let dialer = MemoryDialer::peer(pipelining().envelope().content().step(Step::Close));
    let mut session = Client::new(&config, dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    let mut answers = Letter::new(3, SHORT).send(&mut session).await;
    in_doubt(&answers.remove(0));
    for answer in answers {
        assert!(matches!(&answer, Err(Fault::Closed { phase: Phase::Mail, detail }) if detail.contains("had ended")), "{answer:?}");
        elsewhere(&answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_the_middle_of_the_content_does_not_fail_those_who_were_not_tried() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    let script = pipelining().envelope().step(Step::Swallow(70_000)).say("552 too large").step(Step::Stall);
    let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], 1_000);
    let mut session = Client::new(&config, dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    let answers = Letter::new(2, &text(200_000)).send(&mut session).await;
    failed(&answers[0]);
    elsewhere(&answers[1]);
}

// ---- QUIT

#[tokio::test(start_paused = true)]
async fn quit_is_said_and_its_answer_not_waited_for() {
    let dialer = MemoryDialer::peer(pipelining().envelope().content().say("250 ok").expect("QUIT").step(Step::Stall));
    let mut session = open(&dialer).await;
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    let started = Instant::now();
    session.quit().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn quit_does_not_hang_on_a_peer_that_reads_nothing() {
    let dialer = MemoryDialer::with_buffer([Dial::Peer(pipelining().envelope().content().say("250 ok").step(Step::Stall))], 2);
    let mut session = open(&dialer).await;
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    let started = Instant::now();
    session.quit().await;
    assert_eq!(started.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn quit_closes_without_a_reset() {
    let peer = TcpPeer::start(vec![pipelining().envelope().content().say("250 ok").expect("QUIT")]).await;
    let there = Endpoint { address: peer.address, ..endpoint(TlsMode::None) };
    let client = Client::new(&config(), Arc::new(TcpDialer::default())).unwrap();
    let mut session = within(client.connect(&there)).await.unwrap();
    assert!(within(Letter::short().send(&mut session)).await[0].is_ok());
    within(session.quit()).await;
    assert_eq!(peer.finish().await[0].ended, Some(Ok(())));
}

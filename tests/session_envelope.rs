//! MAIL, RCPT and DATA: the rows of SMTP-RULES.md, and what a session can be used for afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/dialogue.rs"]
mod dialogue;
#[path = "support/peer.rs"]
mod peer;

use dialogue::{open, open_with, pipelining, rcpt, send};

use peer::{ELSEWHERE, FAILED, Letter, MemoryDialer, Record, SHORT, Script, Step, config, endpoint, friendly, verdict, words};
use smtp_direct::config::TlsMode;
use smtp_direct::outcome::Fault;
use smtp_direct::smtp::{Accepted, Client};
use tokio::time::Instant;

const MAIL: &str = "MAIL FROM:<sender@example.org>";

// ---- turns

#[tokio::test(start_paused = true)]
async fn with_pipelining_a_message_is_an_envelope_turn_and_a_content_turn() {
    let (mut session, dialer) = open(pipelining().serve(friendly)).await;
    for _ in 0..3 {
        assert!(Letter::new(2, SHORT).send(&mut session).await.iter().all(Result::is_ok));
    }
    assert_eq!((session.transactions(), session.is_reusable()), (3, true));
    session.quit().await;
    let envelope = format!("{MAIL}\r\n{}\r\n{}\r\nDATA\r\n", rcpt(0), rcpt(1));
    let content = format!("{SHORT}.\r\n");
    let mut expected = vec![format!("EHLO {}\r\n", peer::HOSTNAME)];
    for _ in 0..3 {
        expected.extend([envelope.clone(), content.clone()]);
    }
    expected.push("QUIT\r\n".to_owned());
    assert_eq!(dialer.turns(), expected);
}

#[tokio::test(start_paused = true)]
async fn without_pipelining_every_command_waits_for_its_answer() {
    let script = Script::offering(&[])
        .on(MAIL, "250 ok")
        .on(&rcpt(0), "250 ok")
        .on(&rcpt(1), "251 will forward")
        .on("DATA", "354 go")
        .content()
        .say("250 2.0.0 queued as 1");
    let (mut session, dialer) = open(script).await;
    let results = Letter::new(2, SHORT).send(&mut session).await;
    assert_eq!(words(&results), ["250", "250"]);
    assert_eq!(results[0].as_ref().unwrap().reply.text(), "2.0.0 queued as 1");
    assert_eq!(dialer.turns()[1..].len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_nothing_until_it_has_read_everything_and_has_small_buffers() {
    // 300 RCPTs and their answers both exceed the connection's buffers: each side has to read while it writes.
    let mut config = config();
    config.smtp.recipients_per_transaction = 300;
    let dialer = MemoryDialer::with_buffer([peer::Dial::Peer(pipelining().serve(friendly))], 1024);
    let mut session = Client::new(&config, dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    let results = Letter::new(300, SHORT).send(&mut session).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(session.transactions(), 1);
}

// ---- MAIL, 5 min

#[tokio::test(start_paused = true)]
async fn mail_5xx_fails_all_recipients_and_the_answers_behind_it_are_read() {
    let script = pipelining()
        .expect(MAIL)
        .expect(&rcpt(0))
        .expect(&rcpt(1))
        .expect("DATA")
        .say("550 5.7.1 not from you\r\n503 no MAIL\r\n503 no MAIL\r\n503 no RCPT")
        .serve(friendly);
    let (mut session, _) = open(script).await;
    let results = Letter::new(2, SHORT).send(&mut session).await;
    assert_eq!(words(&results), ["550 MAIL FROM", "550 MAIL FROM"]);
    assert_eq!((verdict(&results[0]), verdict(&results[1])), (FAILED, FAILED));
    assert!(session.is_reusable());
    // In step, and no RSET: no transaction was opened.
    assert!(Letter::short().send(&mut session).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn mail_4xx_goes_to_the_next_address_and_holds_for_all_transactions() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    let script = Script::offering(&[]).on(MAIL, "451 4.7.1 greylisted");
    let (mut session, dialer) = open_with(&config, script).await;
    let results = Letter::new(3, SHORT).send(&mut session).await;
    assert_eq!(words(&results), ["451 MAIL FROM"; 3]);
    assert_eq!(verdict(&results[2]), ELSEWHERE);
    assert!(session.is_reusable());
    session.quit().await;
    assert_eq!(dialer.finish().await[0].rest(), "QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn mail_is_given_up_after_its_limit() {
    let started = Instant::now();
    let (mut session, _) = open(pipelining().step(Step::Stall)).await;
    let results = Letter::short().send(&mut session).await;
    assert_eq!(words(&results), ["timed out MAIL FROM"]);
    assert_eq!((verdict(&results[0]), session.is_reusable()), (ELSEWHERE, false));
    assert_eq!(started.elapsed().as_secs(), 300);
}

// ---- RCPT, 5 min

#[tokio::test(start_paused = true)]
async fn each_rcpt_has_its_own_outcome() {
    let script = pipelining()
        .expect(MAIL)
        .expect(&rcpt(0))
        .expect(&rcpt(1))
        .expect(&rcpt(2))
        .expect(&rcpt(3))
        .expect("DATA")
        .say("250 ok\r\n250 ok\r\n550 5.1.1 nobody\r\n450 4.2.1 later\r\n252 perhaps\r\n354 go")
        .content()
        .say("250 queued");
    let (results, reusable, record) = send(&Letter::new(4, SHORT), script).await;
    assert_eq!(words(&results), ["250", "550 RCPT TO", "450 RCPT TO", "250"]);
    assert_eq!((verdict(&results[1]), verdict(&results[2])), (FAILED, ELSEWHERE));
    assert!(reusable);
    assert_eq!(record.contents, [SHORT.as_bytes()]);
    assert_eq!(record.rest(), "QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn no_accepted_recipient_no_content_and_rset_before_the_next_mail() {
    for (script, rset_turn) in [
        (
            pipelining()
                .expect(MAIL)
                .expect(&rcpt(0))
                .expect("DATA")
                .say("250 ok\r\n550 5.1.1 nobody\r\n554 no valid recipients")
                .expect("RSET")
                .expect(MAIL)
                .expect(&rcpt(0))
                .expect("DATA")
                .say("250 flushed\r\n250 ok\r\n250 ok\r\n354 go"),
            format!("RSET\r\n{MAIL}\r\n{}\r\nDATA\r\n", rcpt(0)),
        ),
        (
            Script::offering(&[])
                .on(MAIL, "250 ok")
                .on(&rcpt(0), "550 5.1.1 nobody")
                .on("RSET", "250 flushed")
                .on(MAIL, "250 ok")
                .on(&rcpt(0), "250 ok")
                .on("DATA", "354 go"),
            "RSET\r\n".to_owned(),
        ),
    ] {
        let (mut session, dialer) = open(script.content().say("250 queued")).await;
        let results = Letter::short().send(&mut session).await;
        assert_eq!(words(&results), ["550 RCPT TO"]);
        assert!(session.is_reusable());
        assert_eq!(words(&Letter::short().send(&mut session).await), ["250"]);
        assert!(dialer.turns().contains(&rset_turn), "{:?}", dialer.turns());
        session.quit().await;
        assert_eq!(dialer.finish().await[0].contents.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_rset_says_nothing_of_the_recipients() {
    let script = Script::offering(&[]).on(MAIL, "250 ok").on(&rcpt(0), "550 nobody").on("RSET", "500 no such command");
    let (mut session, _) = open(script).await;
    Letter::short().send(&mut session).await;
    let results = Letter::short().send(&mut session).await;
    assert_eq!(words(&results), ["protocol MAIL FROM"]);
    assert_eq!(verdict(&results[0]), ELSEWHERE);
    assert!(!session.is_reusable());
}

#[tokio::test(start_paused = true)]
async fn rcpt_is_given_up_after_its_limit_and_takes_the_accepted_with_it() {
    let started = Instant::now();
    let script = Script::offering(&[]).on(MAIL, "250 ok").on(&rcpt(0), "250 ok").on(&rcpt(1), "550 no").step(Step::Stall);
    let (mut session, _) = open(script).await;
    let results = Letter::new(4, SHORT).send(&mut session).await;
    assert_eq!(words(&results), ["timed out RCPT TO", "550 RCPT TO", "timed out RCPT TO", "timed out RCPT TO"]);
    assert_eq!(started.elapsed().as_secs(), 300);
    assert_eq!(verdict(&results[0]), ELSEWHERE);
    assert!(!session.is_reusable());
}

// ---- DATA, 2 min

#[tokio::test(start_paused = true)]
async fn data_refused_is_the_outcome_of_the_accepted() {
    for (code, expected) in [(554, FAILED), (451, ELSEWHERE)] {
        let answer = format!("250 ok\r\n250 ok\r\n550 5.1.1 nobody\r\n{code} 5.7.1 no");
        let script = pipelining().expect(MAIL).expect(&rcpt(0)).expect(&rcpt(1)).expect("DATA").say(&answer);
        let (mut session, dialer) = open(script.expect("RSET").step(Step::Close)).await;
        let results = Letter::new(2, SHORT).send(&mut session).await;
        assert_eq!(words(&results), [format!("{code} DATA").as_str(), "550 RCPT TO"]);
        assert_eq!(verdict(&results[0]), expected);
        assert!(session.is_reusable());
        Letter::short().send(&mut session).await;
        dialer.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_354_with_no_accepted_recipient_gets_a_lone_dot_whose_answer_is_ignored() {
    for answer in ["554 nothing for nobody", "250 thanks", "451 hm"] {
        let script = pipelining()
            .expect(MAIL)
            .expect(&rcpt(0))
            .expect("DATA")
            .say("250 ok\r\n550 5.1.1 nobody\r\n354 go on anyway")
            .expect(".")
            .say(answer)
            .serve(friendly);
        let (mut session, dialer) = open(script).await;
        let results = Letter::short().send(&mut session).await;
        assert_eq!(words(&results), ["550 RCPT TO"]);
        assert!(session.is_reusable(), "{answer}");
        assert!(Letter::short().send(&mut session).await[0].is_ok());
        session.quit().await;
        let record = &dialer.finish().await[0];
        assert!(!record.text().contains("RSET"), "the dot ended the transaction");
        assert_eq!(record.contents.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_354_after_a_refused_mail_gets_a_lone_dot_too() {
    let script = pipelining()
        .expect(MAIL)
        .expect(&rcpt(0))
        .expect("DATA")
        .say("550 5.7.1 not from you\r\n250 ok\r\n354 go on anyway")
        .expect(".")
        .say("554 no");
    let (results, reusable, _) = send(&Letter::short(), script).await;
    assert_eq!((words(&results), reusable), (vec!["550 MAIL FROM".to_owned()], true));
}

#[tokio::test(start_paused = true)]
async fn a_lone_dot_without_an_answer_ends_the_session_and_changes_no_outcome() {
    for step in [Step::Stall, Step::Close, Step::Say(b"garbage\r\n".to_vec()), Step::Say(b"421 bye\r\n".to_vec())] {
        let script = pipelining().expect(MAIL).expect(&rcpt(0)).expect("DATA").say("250 ok\r\n550 no\r\n354 go").expect(".").step(step);
        let (mut session, _) = open(script).await;
        let results = Letter::short().send(&mut session).await;
        assert_eq!((words(&results), session.is_reusable()), (vec!["550 RCPT TO".to_owned()], false));
    }
}

#[tokio::test(start_paused = true)]
async fn data_is_given_up_after_its_limit() {
    let started = Instant::now();
    let script = pipelining().expect(MAIL).expect(&rcpt(0)).expect("DATA").say("250 ok\r\n250 ok").step(Step::Stall);
    let (mut session, _) = open(script).await;
    let results = Letter::short().send(&mut session).await;
    assert_eq!(words(&results), ["timed out DATA"]);
    assert_eq!(started.elapsed().as_secs(), 120);
    assert_eq!(verdict(&results[0]), ELSEWHERE);
}

// ---- any phase

#[tokio::test(start_paused = true)]
async fn a_421_anywhere_is_a_4xx_and_the_end_of_the_session() {
    let (mail, rcpt, data) = ("421 at MAIL", "250 ok\r\n421 at RCPT", "250 ok\r\n250 ok\r\n250 ok\r\n421 at DATA");
    for (answer, expected) in
        [(mail, ["421 MAIL FROM", "421 MAIL FROM"]), (rcpt, ["421 RCPT TO", "421 RCPT TO"]), (data, ["421 DATA", "421 DATA"])]
    {
        let (results, reusable, record) = send_after_envelope(answer).await;
        assert_eq!(words(&results), expected);
        assert_eq!((verdict(&results[0]), reusable), (ELSEWHERE, false));
        assert!(!record.text().contains("QUIT"));
    }
}

/// Two recipients; the peer answers the whole envelope turn with `answer`.
async fn send_after_envelope(answer: &str) -> (Vec<Result<Accepted, Fault>>, bool, Record) {
    let script = pipelining().expect(MAIL).expect(&rcpt(0)).expect(&rcpt(1)).expect("DATA").say(answer);
    send(&Letter::new(2, SHORT), script).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_step_ends_the_session() {
    let cases = [
        ("354 go", "protocol MAIL FROM"),
        ("nonsense", "protocol MAIL FROM"),
        ("650 what", "protocol MAIL FROM"),
        ("250 ok\r\n354 go", "protocol RCPT TO"),
        ("250 ok\r\n250 ok\r\n250 ok\r\n250 ok", "protocol DATA"),
        ("250 ok\r\n250 ok\r\n250 ok\r\n199 odd", "protocol DATA"),
    ];
    for (answer, expected) in cases {
        let (results, reusable, record) = send_after_envelope(answer).await;
        assert_eq!(words(&results), [expected; 2], "{answer}");
        assert_eq!((verdict(&results[0]), reusable), (ELSEWHERE, false));
        assert!(record.contents.is_empty() && record.rest().is_empty(), "{answer}: nothing more is said");
    }
}

#[tokio::test(start_paused = true)]
async fn one_answer_too_many_is_noticed_before_content_goes_out() {
    let (results, reusable, record) = send_after_envelope("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok").await;
    assert_eq!(words(&results), ["protocol sending the content"; 2]);
    assert!(!reusable && record.rest().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_closes_during_the_envelope() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "closed MAIL FROM"),
        (b"250 ok\r\n", "closed RCPT TO"),
        (b"250 ok\r\n250 half a l", "closed RCPT TO"),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n", "closed DATA"),
    ];
    for (answer, expected) in cases {
        let script = pipelining().expect(MAIL).expect(&rcpt(0)).expect(&rcpt(1)).expect("DATA").raw(answer);
        let (results, reusable, _) = send(&Letter::new(2, SHORT), script.step(Step::Close)).await;
        assert_eq!(words(&results), [expected; 2]);
        assert_eq!((verdict(&results[0]), reusable), (ELSEWHERE, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_that_the_peer_ended_is_stale_and_nothing_is_lost() {
    for (parting, expected) in [("421 4.4.2 idle too long", "421 MAIL FROM"), ("", "closed MAIL FROM"), ("554 idle", "protocol MAIL FROM")]
    {
        let mut script = pipelining().envelope().content().say("250 queued");
        if !parting.is_empty() {
            script = script.say(parting);
        }
        let (mut session, dialer) = open(script.step(Step::Close)).await;
        assert!(Letter::short().send(&mut session).await[0].is_ok());
        assert!(!session.was_stale());
        dialer.finish().await;
        assert!(session.is_reusable(), "not heard of yet");
        let results = Letter::short().send(&mut session).await;
        assert_eq!(words(&results), [expected]);
        assert_eq!(verdict(&results[0]), ELSEWHERE);
        assert!(session.was_stale() && !session.is_reusable());
        assert_eq!(dialer.turns().len(), 3, "nothing was sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_that_ends_as_mail_is_said_is_stale_too() {
    let script = pipelining().envelope().content().say("250 queued").expect(MAIL).step(Step::Close);
    let (mut session, _) = open(script).await;
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    assert_eq!(words(&Letter::short().send(&mut session).await), ["closed MAIL FROM"]);
    assert!(session.was_stale());
    // A session that is gone stays gone.
    assert_eq!(words(&Letter::short().send(&mut session).await), ["closed MAIL FROM"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_that_ends_at_once_is_not_stale() {
    let (mut session, _) = open(pipelining().expect(MAIL).step(Step::Close)).await;
    assert_eq!(words(&Letter::short().send(&mut session).await), ["closed MAIL FROM"]);
    assert!(!session.was_stale());
}

#[tokio::test(start_paused = true)]
async fn whether_a_kept_session_is_still_open_can_be_seen_without_waiting() {
    let (mut session, _) = open(pipelining().envelope().content().say("250 queued")).await;
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    assert!(session.is_still_open());
    let (mut session, dialer) = open(pipelining().envelope().content().say("250 queued").step(Step::Close)).await;
    assert!(Letter::short().send(&mut session).await[0].is_ok());
    dialer.finish().await;
    assert!(!session.is_still_open());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_dropped_leaves_no_session_to_reuse() {
    let (mut session, dialer) = open(pipelining().envelope().step(Step::Stall)).await;
    let letter = Letter::short();
    let cut = tokio::time::timeout(std::time::Duration::from_secs(1), letter.send(&mut session)).await;
    assert!(cut.is_err() && !session.is_reusable() && !session.is_still_open());
    session.quit().await;
    assert!(!dialer.turns().concat().contains("QUIT"));
}

//! Extensions as SMTP-RULES.md has them, and copies that need several transactions.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/dialogue.rs"]
mod dialogue;
#[path = "support/peer.rs"]
mod peer;

use dialogue::{open, open_with, pipelining, rcpt, send};

use peer::{ELSEWHERE, FAILED, Letter, SHORT, Script, config, friendly, verdict, words};
use smtp_direct::message::{Notify, Ret, ReversePath};
use smtp_direct::outcome::{Fault, Kind, NextStep};

const MAIL: &str = "MAIL FROM:<sender@example.org>";

// ---- too many recipients

#[tokio::test(start_paused = true)]
async fn too_many_recipients_go_in_further_transactions_at_once() {
    for full in ["452 4.5.3 too many", "452 Too many recipients", "550 5.5.3 enough", "451 too many recipients, sorry"] {
        // Takes two at a time.
        let mut taken = 0;
        let (mut session, dialer) = open(pipelining().serve(move |line| {
            if line.starts_with("MAIL") {
                taken = 0;
            }
            if line.starts_with("RCPT") {
                taken += 1;
                if taken > 2 {
                    return full.to_owned();
                }
            }
            friendly(line)
        }))
        .await;
        let results = Letter::new(5, SHORT).send(&mut session).await;
        assert_eq!(words(&results), ["250"; 5], "{full}");
        assert_eq!((session.transactions(), session.is_reusable()), (3, true));
        // The limit is learned: the second transaction offers no more than fit.
        let rcpts: Vec<usize> =
            dialer.turns().iter().filter(|turn| turn.contains("MAIL")).map(|turn| turn.matches("RCPT").count()).collect();
        assert_eq!(rcpts, [5, 2, 1], "{full}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_recipients_with_none_accepted_is_a_refusal() {
    let (results, _, record) = send(
        &Letter::new(2, SHORT),
        pipelining().serve(|line| if line.starts_with("RCPT") { "452 4.5.3 no".to_owned() } else { friendly(line) }),
    )
    .await;
    assert_eq!(words(&results), ["452 RCPT TO"; 2]);
    assert_eq!(record.text().matches("MAIL").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_is_not_too_many_recipients() {
    for reply in ["452 4.2.2 mailbox full", "452 4.3.1 no space", "550 5.1.1 nobody"] {
        let (results, _, record) = send(
            &Letter::new(2, SHORT),
            pipelining().serve(move |line| if line.contains("r1@") { reply.to_owned() } else { friendly(line) }),
        )
        .await;
        assert!(results[0].is_ok() && results[1].is_err(), "{reply}");
        assert_eq!(record.text().matches("MAIL").count(), 1, "{reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_not_tried_when_the_content_was_refused() {
    let (results, reusable, record) = send(
        &Letter::new(2, SHORT),
        pipelining().serve(|line| match line {
            "." => "554 5.6.0 spam".to_owned(),
            line if line.contains("r1@") => "452 4.5.3 one at a time".to_owned(),
            line => friendly(line),
        }),
    )
    .await;
    assert_eq!(words(&results), ["554 the end of the content", "452 RCPT TO"]);
    assert_eq!((verdict(&results[0]), verdict(&results[1])), (FAILED, ELSEWHERE));
    assert!(reusable);
    assert_eq!(record.text().matches("MAIL").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn recipients_per_transaction_and_rcptmax_split_a_copy() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 3;
    for (extensions, expected) in [(&["PIPELINING"][..], vec![3, 3, 1]), (&["PIPELINING", "LIMITS RCPTMAX=2"][..], vec![2, 2, 2, 1])] {
        let (mut session, dialer) = open_with(&config, Script::offering(extensions).serve(friendly)).await;
        assert!(Letter::new(7, SHORT).send(&mut session).await.iter().all(Result::is_ok));
        let rcpts: Vec<usize> =
            dialer.turns().iter().filter(|turn| turn.contains("MAIL")).map(|turn| turn.matches("RCPT").count()).collect();
        assert_eq!(rcpts, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn each_transaction_has_its_own_outcome() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    let mut contents = 0;
    let (mut session, _) = open_with(
        &config,
        pipelining().serve(move |line| {
            if line == "." {
                contents += 1;
                return ["250 one", "554 5.7.1 two", "451 three", "250 four"][contents - 1].to_owned();
            }
            friendly(line)
        }),
    )
    .await;
    let results = Letter::new(4, SHORT).send(&mut session).await;
    assert_eq!(words(&results), ["250", "554 the end of the content", "451 the end of the content", "250"]);
}

#[tokio::test(start_paused = true)]
async fn mailmax_ends_the_session_cleanly() {
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    let script = Script::offering(&["PIPELINING", "LIMITS MAILMAX=2"]).serve(friendly);
    let (mut session, dialer) = open_with(&config, script).await;
    let results = Letter::new(3, SHORT).send(&mut session).await;
    assert!(results[0].is_ok() && results[1].is_ok());
    assert_eq!(results[2], Err(Fault::SessionFull { limit: 2 }));
    assert_eq!(verdict(&results[2]), ELSEWHERE);
    assert!(!session.is_reusable());
    session.quit().await;
    let record = &dialer.finish().await[0];
    assert!(record.text().ends_with("QUIT\r\n"));
    assert_eq!(record.contents.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn rcptdomainmax_is_of_the_session() {
    let script = || Script::offering(&["PIPELINING", "LIMITS RCPTDOMAINMAX=2"]).serve(friendly);
    let (mut session, _dialer) = open(script()).await;
    for (domain, taken) in [("a.test", true), ("b.test", true), ("a.test", true), ("c.test", false)] {
        let mut letter = Letter::new(1, SHORT);
        letter.recipients[0].0 = smtp_direct::message::Address::parse(&format!("u@{domain}")).unwrap();
        let results = letter.send(&mut session).await;
        assert_eq!((results[0].is_ok(), session.is_reusable(), session.was_stale()), (taken, taken, !taken), "{domain}");
    }
    let (mut session, _dialer) = open(script()).await;
    let mut letter = Letter::new(3, SHORT);
    for (rcpt, domain) in letter.recipients.iter_mut().zip(["a.test", "b.test", "c.test"]) {
        rcpt.0 = smtp_direct::message::Address::parse(&format!("u@{domain}")).unwrap();
    }
    assert!(letter.send(&mut session).await.iter().all(Result::is_ok), "no other session would take it either");
}

// ---- extensions

#[tokio::test(start_paused = true)]
async fn size_is_declared_and_a_message_over_the_limit_is_not_sent() {
    let letter = Letter::short();
    let size = letter.content.wire_size;
    let script = Script::offering(&[&format!("SIZE {size}")]).on(&format!("{MAIL} SIZE={size}"), "552 5.3.4 too large after all");
    let (results, _, _) = send(&letter, script).await;
    assert_eq!(words(&results), ["552 MAIL FROM"]);

    let (results, reusable, record) = send(&letter, Script::offering(&[&format!("SIZE {}", size - 1)])).await;
    assert_eq!(results, [Err(Fault::TooLarge { size, limit: size - 1 })]);
    assert_eq!(verdict(&results[0]), (Kind::Failed, NextStep::NextAddress));
    assert_eq!((reusable, record.rest().as_str()), (true, "QUIT\r\n"));

    let (results, _, _) = send(&letter, Script::offering(&["SIZE 0"]).on(&format!("{MAIL} SIZE={size}"), "550 x")).await;
    assert_eq!(words(&results), ["550 MAIL FROM"]);
}

#[tokio::test(start_paused = true)]
async fn eight_bit_content_is_announced_where_that_is_offered_and_sent_unchanged_where_not() {
    for (extensions, mail) in [(&["8BITMIME"][..], format!("{MAIL} BODY=8BITMIME")), (&[][..], MAIL.to_owned())] {
        let text = "Subject: x\r\n\r\nGrüße\r\n";
        let mut letter = Letter::new(1, text);
        letter.content.eight_bit = true;
        let script = Script::offering(extensions).on(&mail, "250 ok").on(&rcpt(0), "250 ok").on("DATA", "354 go").content().say("250 ok");
        let (results, _, record) = send(&letter, script).await;
        assert!(results[0].is_ok());
        assert_eq!(record.contents, [text.as_bytes()]);
    }
}

#[tokio::test(start_paused = true)]
async fn smtputf8_where_a_local_part_needs_it_and_only_that_recipient_fails_without() {
    let letter = Letter::new(1, SHORT).to("jürgen@example.com").to("r2@bücher.example");
    let script = Script::offering(&["SMTPUTF8", "8BITMIME"])
        .on(&format!("{MAIL} BODY=8BITMIME SMTPUTF8"), "250 ok")
        .on(&rcpt(0), "250 ok")
        .on("RCPT TO:<jürgen@example.com>", "250 ok")
        .on("RCPT TO:<r2@xn--bcher-kva.example>", "250 ok")
        .on("DATA", "354 go")
        .content()
        .say("250 ok");
    let (results, ..) = send(&letter, script).await;
    assert!(results.iter().all(Result::is_ok));

    let script = Script::offering(&[])
        .on(MAIL, "250 ok")
        .on(&rcpt(0), "250 ok")
        .on("RCPT TO:<r2@xn--bcher-kva.example>", "250 ok")
        .on("DATA", "354 go")
        .content()
        .say("250 ok");
    let (results, ..) = send(&letter, script).await;
    assert_eq!(words(&results), ["250", &Fault::NeedsSmtpUtf8.to_string(), "250"]);
    assert_eq!(verdict(&results[1]), (Kind::Failed, NextStep::NextAddress));
}

#[tokio::test(start_paused = true)]
async fn smtputf8_that_a_header_or_the_sender_needs_is_needed_for_everyone() {
    let mut header = Letter::new(2, SHORT);
    header.content.header_utf8 = true;
    let mut sender = Letter::new(2, SHORT);
    sender.sender = ReversePath::parse("jürgen@example.org").unwrap();
    for letter in [header, sender] {
        let (results, reusable, record) = send(&letter, pipelining()).await;
        assert_eq!(results, [Err(Fault::NeedsSmtpUtf8), Err(Fault::NeedsSmtpUtf8)]);
        assert_eq!((reusable, record.rest().as_str()), (true, "QUIT\r\n"), "nothing is sent");
    }
}

#[tokio::test(start_paused = true)]
async fn dsn_parameters_go_along_where_they_are_offered() {
    let mut letter = Letter::new(2, SHORT);
    letter.ret = Some(Ret::Full);
    letter.envid = Some("id=1".to_owned());
    letter.recipients[0].1 = Notify { failure: false, delay: false, success: true, explicit: true };
    let script = Script::offering(&["DSN"])
        .on(&format!("{MAIL} RET=FULL ENVID=id+3D1"), "250 ok")
        .on("RCPT TO:<r0@example.com> NOTIFY=SUCCESS ORCPT=rfc822;r0@example.com", "250 ok")
        .on("RCPT TO:<r1@example.com> ORCPT=rfc822;r1@example.com", "250 ok")
        .on("DATA", "354 go")
        .content()
        .say("250 ok");
    let (results, ..) = send(&letter, script).await;
    let relayed: Vec<bool> = results.iter().map(|result| result.as_ref().unwrap().dsn_relayed).collect();
    assert_eq!(relayed, [true, false]);

    let (results, _, record) = send(&letter, Script::offering(&[]).serve(friendly)).await;
    assert!(results.iter().all(|result| !result.as_ref().unwrap().dsn_relayed));
    assert!(!record.text().contains("NOTIFY") && !record.text().contains("ORCPT") && !record.text().contains("RET"));
}

#[tokio::test(start_paused = true)]
async fn the_null_sender_and_nobody_at_all() {
    let mut letter = Letter::short();
    letter.sender = ReversePath::Null;
    let (mut session, dialer) = open(pipelining().serve(friendly)).await;
    assert!(letter.send(&mut session).await[0].is_ok());
    assert!(dialer.turns()[1].starts_with("MAIL FROM:<>\r\n"));
    assert!(Letter::new(0, SHORT).send(&mut session).await.is_empty());
    assert_eq!(session.transactions(), 1);
}

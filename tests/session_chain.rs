//! Mail after mail on one session, by DATA: what leaves together, and what becomes of a mail's neighbours when something goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/chain.rs"]
mod chain;
#[path = "support/log.rs"]
mod log;
#[path = "support/peer.rs"]
mod peer;

use std::time::Duration;

use chain::{
    Post, Strict, Taken, addresses, client, content, ehlo, envelope, long_text, numbered, one, peers, recipients_of, run, run_on,
    silent_from, strict, text, windowed, with_text,
};
use log::Log;
use peer::{Dial, HANG_UP, Letter, MemoryDialer, Script, Step, config, friendly};
use smtp_direct::smtp::Client;
use tokio::time::Instant;

const ONE_DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn pipelining() -> Script {
    Script::offering(&["PIPELINING"])
}

/// Runs `count` letters to one recipient each against a strict peer that pipelines, but for `odd`.
async fn words_of(count: usize, odd: impl FnMut(usize, &str) -> Option<String> + Send + 'static) -> (Vec<String>, bool) {
    let mut post = Post::of(count, 1);
    let (reusable, _) = run(&mut post, pipelining().serve(strict(odd)), 1).await;
    (post.words(), reusable)
}

// ---- round trips

#[tokio::test(start_paused = true)]
async fn a_message_costs_one_turn() {
    const COUNT: usize = 100;
    for recipients in [1, 2] {
        let mut post = Post::of(COUNT, recipients);
        let (reusable, dialer) = run(&mut post, pipelining().serve(strict(|_, _| None)), 1).await;
        assert!(reusable);
        let mut expected = vec![ehlo(), envelope(0, recipients)];
        expected.extend((1..COUNT).map(|number| content(number - 1) + &envelope(number, recipients)));
        expected.extend([content(COUNT - 1), "QUIT\r\n".to_owned()]);
        assert_eq!(dialer.turns(), expected);
        assert_eq!(post.words(), vec![vec!["250"; recipients].join(", "); COUNT]);
        assert_eq!(post.order(), (0..COUNT).collect::<Vec<_>>());
        assert_eq!(post.begun, (0..COUNT as u32).collect::<Vec<_>>(), "the feed is told what the session carries");
        let contents: Vec<Vec<u8>> = (0..COUNT).map(|number| text(number).into_bytes()).collect();
        assert_eq!(dialer.finish().await[0].contents, contents);
    }
}

#[tokio::test(start_paused = true)]
async fn without_pipelining_nothing_goes_ahead() {
    let mut post = Post::of(5, 2);
    let (_, dialer) = run(&mut post, Script::offering(&[]).serve(strict(|_, _| None)), 8).await;
    let mut expected = vec![ehlo()];
    for number in 0..5 {
        expected.extend(envelope(number, 2).split_inclusive("\r\n").map(str::to_owned));
        expected.push(content(number));
    }
    expected.push("QUIT\r\n".to_owned());
    assert_eq!(dialer.turns(), expected);
    assert_eq!(post.words(), ["250, 250"; 5]);
}

#[tokio::test(start_paused = true)]
async fn each_reply_is_its_own_mails() {
    let mut post = Post::of(5, 1);
    run(&mut post, pipelining().serve_slowly(Duration::from_secs(1), strict(|_, _| None)), 1).await;
    for (posted, end) in post.ended {
        let smtp_direct::smtp::End::Answered(results) = end else { panic!("{end:?}") };
        assert_eq!(results[0].as_ref().unwrap().reply.text(), format!("2.0.0 queued m{}", posted.number));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_mail_goes_in_blocks_and_the_next_envelope_goes_with_the_last_one() {
    let long = long_text(200_000);
    let mut post = Post::new((0..5).map(|number| if number == 2 { with_text(2, 1, &long) } else { numbered(number, 1) }));
    let (_, dialer) = run(&mut post, pipelining().serve(strict(|_, _| None)), 1).await;
    assert_eq!(post.words(), ["250"; 5]);
    let turns = dialer.turns();
    assert_eq!(turns[3], content(1) + &envelope(2, 1));
    assert!(turns[7].ends_with(&format!("\r\n.\r\n{}", envelope(3, 1))), "{:?}", &turns[7][turns[7].len() - 100..]);
    assert_eq!(turns[8..], [content(3) + &envelope(4, 1), content(4), "QUIT\r\n".to_owned()]);
    let contents = &dialer.finish().await[0].contents;
    assert_eq!(String::from_utf8_lossy(&contents[2]).replace("\r\n.", "\r\n")[1..], long);
}

#[tokio::test(start_paused = true)]
async fn a_mail_with_many_recipients_is_a_chain_within_the_chain() {
    let mut small = config();
    small.smtp.recipients_per_transaction = 2;
    for (config, extension) in [(small, "X"), (config(), "LIMITS RCPTMAX=2")] {
        let mut post = Post::new([numbered(0, 1), numbered(1, 5), numbered(2, 1)]);
        let dialer = peers([Script::offering(&["PIPELINING", extension]).serve(strict(|_, _| None))]);
        run_on(&Client::new(&config, dialer.clone()).unwrap(), &mut post, 1).await;
        let part = |recipients| addresses(1, recipients) + "DATA\r\n";
        let expected = [
            envelope(0, 1),
            content(0) + &part(0..2),
            content(1) + &part(2..4),
            content(1) + &part(4..5),
            content(1) + &envelope(2, 1),
            content(2),
            "QUIT\r\n".to_owned(),
        ];
        assert_eq!(dialer.turns()[1..], expected, "{extension}");
        assert_eq!(post.words(), ["250", "250, 250, 250, 250, 250", "250"]);
    }
}

#[tokio::test(start_paused = true)]
async fn recipients_that_are_too_many_go_behind_the_mail_that_is_under_way() {
    let mut taken = 0;
    let two_at_a_time = move |_: usize, line: &str| {
        taken = if line.starts_with("RCPT") { taken + 1 } else { 0 };
        (taken > 2).then(|| "452 4.5.3 too many".to_owned())
    };
    let mut post = Post::new([numbered(0, 1), numbered(1, 5), numbered(2, 1), numbered(3, 1)]);
    let (reusable, dialer) = run(&mut post, pipelining().serve(strict(two_at_a_time)), 1).await;
    let part = |recipients| addresses(1, recipients) + "DATA\r\n";
    let expected = [
        envelope(0, 1),
        content(0) + &envelope(1, 5),
        content(1) + &envelope(2, 1),
        content(2) + &part(2..4),
        content(1) + &part(4..5),
        content(1) + &envelope(3, 1),
        content(3),
        "QUIT\r\n".to_owned(),
    ];
    assert_eq!(dialer.turns()[1..], expected);
    assert_eq!(post.words(), ["250", "250, 250, 250, 250, 250", "250", "250"]);
    assert_eq!(post.order(), [0, 2, 1, 3]);
    assert!(reusable);
}

#[tokio::test(start_paused = true)]
async fn a_session_serves_one_feed_after_the_other() {
    let dialer = peers([pipelining().serve(strict(one(1, "RCPT", "550 5.1.1 nobody")))]);
    let mut session = client(&dialer).connect(&windowed(1)).await.unwrap();
    let mut post = Post::of(2, 1);
    session.run(&mut post).await;
    assert_eq!(post.words(), ["250", "550 RCPT TO"]);
    assert!(session.is_reusable());
    let mut post = Post::of(1, 1);
    session.run(&mut post).await;
    assert_eq!((post.words(), post.begun), (vec!["250".to_owned()], vec![2]));
    assert_eq!(dialer.turns()[3], "RSET\r\n".to_owned() + &envelope(0, 1), "m1 was left open");
}

// ---- LIMITS MAILMAX

#[tokio::test(start_paused = true)]
async fn a_session_takes_no_more_mail_than_the_peer_does() {
    let mailmax = || Script::offering(&["PIPELINING", "LIMITS MAILMAX=3"]).serve(strict(|_, _| None));
    let mut post = Post::of(5, 1);
    let (reusable, dialer) = run(&mut post, mailmax(), 1).await;
    assert_eq!(post.words(), ["250", "250", "250", "waiting", "waiting"]);
    assert!(!reusable);
    assert_eq!(dialer.turns().last().unwrap(), "QUIT\r\n");

    // What is not sent does not count, and what does not fit is not lost.
    let mut post = Post::new([numbered(0, 1), numbered(1, 1), numbered(2, 3), numbered(3, 1)]);
    std::fs::remove_file(&post.letter(0).file).unwrap();
    let mut config = config();
    config.smtp.recipients_per_transaction = 1;
    run_on(&Client::new(&config, peers([mailmax()])).unwrap(), &mut post, 1).await;
    let full = "the peer takes no more than 3 messages in one session";
    assert_eq!(post.words(), ["damaged", "250", &format!("250, 250, {full}"), "waiting"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_when_it_has_had_enough_gets_the_rest_in_a_new_session() {
    // As OpenSMTPD does after a hundred messages.
    const ENOUGH: &str = "452 4.5.3 Too many recipients: Too many messages sent";
    for (window, extension) in [(1, "PIPELINING"), (4, "CHUNKING")] {
        let enough = || {
            let mut mails = 0;
            Script::offering(&["PIPELINING", extension]).serve(strict(move |_, line| {
                mails += usize::from(line.starts_with("MAIL"));
                (line.starts_with("MAIL") && mails > 3).then(|| ENOUGH.to_owned())
            }))
        };
        let client = client(&peers([enough(), enough()]));
        let mut post = Post::of(6, 1);
        assert!(!run_on(&client, &mut post, window).await, "the session is full");
        post.take_back();
        run_on(&client, &mut post, window).await;
        assert_eq!(post.words(), ["250"; 6], "{extension}");
        // One that has not had any is no session that is full.
        let mut post = Post::of(1, 1);
        run(&mut post, Script::offering(&["PIPELINING"]).serve(strict(one(0, "MAIL", ENOUGH))), 1).await;
        assert_eq!(post.words(), ["452 MAIL FROM"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mail_that_is_partly_under_way_is_not_taken_elsewhere_whole() {
    let mut small = config();
    small.smtp.recipients_per_transaction = 1;
    let mut mails = 0;
    let second = move |_: usize, line: &str| {
        mails += usize::from(line.starts_with("MAIL"));
        (line.starts_with("MAIL") && mails == 2).then(|| "452 4.5.3 too many".to_owned())
    };
    let taken = Taken::default();
    let script = Script::offering(&["PIPELINING", "CHUNKING"]).serve(Strict::new(&taken).but(second));
    let client = Client::new(&small, peers([script, Script::offering(&["PIPELINING"]).serve(strict(|_, _| None))])).unwrap();
    let mut post = Post::new([numbered(0, 1), numbered(1, 2)]);
    // Its second recipient's transaction is on the way when the first one's MAIL is refused.
    run_on(&client, &mut post, 3).await;
    assert_eq!(recipients_of(&taken), [(0, 0), (1, 1)]);
    assert_eq!(post.words(), ["250", "452 MAIL FROM, 250"]);
}

// ---- neighbours

#[tokio::test(start_paused = true)]
async fn a_refusal_is_of_one_mail_and_its_neighbours_are_delivered() {
    let cases = [
        ("MAIL", "450 4.7.1 later", "450 MAIL FROM"),
        ("MAIL", "550 5.7.1 never", "550 MAIL FROM"),
        ("RCPT", "450 4.2.1 later", "450 RCPT TO"),
        ("RCPT", "550 5.1.1 nobody", "550 RCPT TO"),
        ("DATA", "451 4.3.0 later", "451 DATA"),
        ("DATA", "554 5.7.1 never", "554 DATA"),
        (".", "451 4.3.0 later", "451 the end of the content"),
        (".", "554 5.6.0 spam", "554 the end of the content"),
    ];
    for (verb, reply, expected) in cases {
        for extensions in [&["PIPELINING"][..], &[]] {
            for odd in [0, 2, 4] {
                let taken = Taken::default();
                let mut post = Post::of(5, 1);
                let script = Script::offering(extensions).serve(Strict::new(&taken).but(one(odd, verb, reply)));
                let (reusable, _) = run(&mut post, script, 1).await;
                let mut words = vec!["250"; 5];
                words[odd] = expected;
                assert_eq!(post.words(), words, "{verb} {reply}");
                assert!(reusable);
                let others: Vec<(usize, usize)> = (0..5).filter(|&number| number != odd).map(|number| (number, 0)).collect();
                assert_eq!(recipients_of(&taken), others);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_354_for_nobody_gets_its_lone_dot_together_with_the_next_envelope() {
    let odd = |number: usize, line: &str| match (number, line.split(' ').next()) {
        (2, Some("RCPT")) => Some("550 5.1.1 nobody".to_owned()),
        (2, Some("DATA")) => Some("354 go on anyway".to_owned()),
        _ => None,
    };
    let mut post = Post::of(4, 1);
    let (_, dialer) = run(&mut post, pipelining().serve(strict(odd)), 1).await;
    assert_eq!(post.words(), ["250", "250", "550 RCPT TO", "250"]);
    assert_eq!(dialer.turns()[4], ".\r\n".to_owned() + &envelope(3, 1));
}

#[tokio::test(start_paused = true)]
async fn refused_recipients_do_not_keep_the_others_from_getting_it() {
    let odd = |number: usize, line: &str| (number == 1 && line.contains("r0@")).then(|| "550 5.1.1 nobody".to_owned());
    let mut post = Post::of(3, 3);
    run(&mut post, pipelining().serve(strict(odd)), 1).await;
    assert_eq!(post.words(), ["250, 250, 250", "550 RCPT TO, 250, 250", "250, 250, 250"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_there_is_not_said_to_the_peer() {
    for (bad, window) in [(vec![2], 1), (vec![0, 1], 1), (vec![2, 3, 4], 1), (vec![0, 1, 2, 3, 4], 1)] {
        let mut post = Post::of(5, 1);
        for &number in &bad {
            let file = &post.letter(number).file;
            if number % 2 == 0 { std::fs::remove_file(file).unwrap() } else { std::fs::write(file, "cut").unwrap() }
        }
        let (reusable, dialer) = run(&mut post, pipelining().serve(strict(|_, _| None)), window).await;
        let words: Vec<&str> = (0..5).map(|number| if bad.contains(&number) { "damaged" } else { "250" }).collect();
        assert_eq!(post.words(), words);
        assert!(reusable);
        let said = dialer.turns().concat();
        assert!(bad.iter().all(|number| !said.contains(&format!("m{number}"))), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_while_it_is_sent_ends_the_session_for_those_behind_only() {
    let mut post = Post::new((0..4).map(|number| if number == 2 { with_text(2, 1, &long_text(200_000)) } else { numbered(number, 1) }));
    let file = post.letter(2).file.clone();
    let cut = move |number: usize, line: &str| {
        if number == 2 && line == "DATA" {
            std::fs::File::options().write(true).open(&file).unwrap().set_len(100_000).unwrap();
        }
        None
    };
    let (reusable, dialer) = run(&mut post, pipelining().serve(strict(cut)), 1).await;
    assert_eq!(post.words(), ["250", "250", "damaged", "waiting"]);
    assert!(!reusable);
    assert_eq!(dialer.finish().await[0].contents.len(), 2);
}

// ---- out of step

#[tokio::test(start_paused = true)]
async fn a_reply_of_the_wrong_kind_or_number_ends_the_session_and_what_was_answered_counts() {
    let untried = "untried: protocol the end of the content";
    let cases = [
        ("MAIL", "354 go", ["250", "250", "protocol MAIL FROM", "waiting", "waiting"]),
        ("MAIL", "hello", ["250", "250", "protocol MAIL FROM", "waiting", "waiting"]),
        ("RCPT", "354 go", ["250", "250", "protocol RCPT TO", "waiting", "waiting"]),
        ("DATA", "250 what", ["250", "250", "protocol DATA", "waiting", "waiting"]),
        (".", "354 go", ["250", "250", "in doubt", untried, "waiting"]),
        (".", "hello", ["250", "250", "in doubt", untried, "waiting"]),
        // One too few: 354 comes where the recipient's reply is due.
        ("RCPT", "", ["250", "250", "protocol RCPT TO", "waiting", "waiting"]),
        // One too many: a recipient's reply comes where 354 is due.
        ("MAIL", "250 one\r\n250 two", ["250", "250", "protocol DATA", "waiting", "waiting"]),
        ("RCPT", "250 one\r\n250 two", ["250", "250", "protocol DATA", "waiting", "waiting"]),
        ("DATA", "354 one\r\n250 two", ["250", "250", "protocol sending the content", "untried: protocol sending the content", "waiting"]),
        (".", "250 one\r\n250 two", ["250", "250", "250", "protocol DATA", "waiting"]),
    ];
    for (verb, reply, expected) in cases {
        assert_eq!(words_of(5, one(2, verb, reply)).await, (expected.map(str::to_owned).to_vec(), false), "{verb} {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_got_out_of_step_is_spoken_to_in_lockstep_for_a_day() {
    let (log, _guard) = Log::here();
    let broken = || pipelining().serve(strict(one(1, "DATA", "250 what")));
    let sound = || pipelining().serve(strict(|_, _| None));
    let dialer = peers([broken(), broken(), sound(), broken(), sound()]);
    let client = client(&dialer);
    // Two that were open together: it is said once.
    let (mut one, mut other) = (client.connect(&windowed(1)).await.unwrap(), client.connect(&windowed(1)).await.unwrap());
    for session in [&mut one, &mut other] {
        let mut post = Post::of(3, 1);
        session.run(&mut post).await;
        assert_eq!(post.words(), ["250", "protocol DATA", "waiting"]);
    }
    assert_eq!(log.count("PIPELINING broke"), 1);

    let turns_of_three = async || {
        let before = dialer.turns().len();
        let mut post = Post::of(3, 1);
        run_on(&client, &mut post, 1).await;
        (post.words().join(", "), dialer.turns().len() - before)
    };
    // EHLO, four a message, QUIT.
    assert_eq!(turns_of_three().await, ("250, 250, 250".to_owned(), 14));
    // Broken in lockstep, too: nothing new.
    tokio::time::advance(ONE_DAY - Duration::from_secs(60)).await;
    assert_eq!(turns_of_three().await, ("250, protocol DATA, waiting".to_owned(), 8));
    tokio::time::advance(Duration::from_secs(61)).await;
    // EHLO, an envelope, one a message, QUIT.
    assert_eq!(turns_of_three().await, ("250, 250, 250".to_owned(), 6));
    assert_eq!(log.count("PIPELINING broke"), 1);
}

/// EHLO, two a message, QUIT: nothing goes out ahead of the reply to a message's end.
const ONE_AT_A_TIME: usize = 8;
/// EHLO, an envelope, one a message, QUIT.
const AHEAD: usize = 6;

/// The turns of three messages to the next peer, which are delivered.
async fn turns_of_three(client: &Client, dialer: &MemoryDialer) -> usize {
    let before = dialer.turns().len();
    let mut post = Post::of(3, 1);
    run_on(client, &mut post, 1).await;
    assert_eq!(post.words(), ["250", "250", "250"]);
    dialer.turns().len() - before
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_loses_what_comes_behind_the_dot_gets_one_message_at_a_time_for_a_day() {
    for verb in ["MAIL", "RCPT", "DATA"] {
        let (log, _guard) = Log::here();
        let sound = || pipelining().serve(strict(|_, _| None));
        let dialer = peers([pipelining().serve(strict(silent_from(1, verb))), sound(), sound(), sound()]);
        let client = client(&dialer);
        let mut post = Post::of(3, 1);
        run_on(&client, &mut post, 1).await;
        assert!(post.words()[1].starts_with("timed out"), "{:?}", post.words());
        // Where it had answered something of the second message, it had that, and is slow.
        let expected = if verb == "MAIL" { ONE_AT_A_TIME } else { AHEAD };
        assert_eq!(turns_of_three(&client, &dialer).await, expected, "{verb}");
        tokio::time::advance(ONE_DAY - Duration::from_secs(60)).await;
        assert_eq!(turns_of_three(&client, &dialer).await, expected, "{verb}");
        tokio::time::advance(Duration::from_secs(120)).await;
        assert_eq!(turns_of_three(&client, &dialer).await, AHEAD, "{verb}");
        assert_eq!(log.count("one message at a time"), usize::from(verb == "MAIL"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_twice_on_what_comes_behind_the_dot_gets_one_message_at_a_time() {
    // At the end of a message with another one behind it, and right behind the first message.
    for (at, verb) in [(0, "."), (1, "MAIL")] {
        for (apart, remembered) in [(0, false), (60, true), (2 * 60 * 60, false)] {
            let sound = || pipelining().serve(strict(|_, _| None));
            let closes = || pipelining().serve(strict(one(at, verb, "\u{4}")));
            let dialer = peers([closes(), closes(), sound()]);
            let client = client(&dialer);
            run_on(&client, &mut Post::of(3, 1), 1).await;
            tokio::time::advance(Duration::from_secs(apart)).await;
            run_on(&client, &mut Post::of(3, 1), 1).await;
            let expected = if remembered { ONE_AT_A_TIME } else { AHEAD };
            assert_eq!(turns_of_three(&client, &dialer).await, expected, "{verb} {apart}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_many_at_the_end_is_found_by_the_next_mail_and_a_farewell_is_not_one() {
    for (last, remembered) in [("250 one\r\n250 two", true), ("250 one\r\n221 idle", false), ("250 one\r\n451 idle", false)] {
        let dialer = peers([pipelining().serve(strict(one(1, ".", last))), pipelining()]);
        let client = client(&dialer);
        let mut session = client.connect(&windowed(1)).await.unwrap();
        let mut post = Post::of(2, 1);
        session.run(&mut post).await;
        assert_eq!(post.words(), ["250", "250"]);
        let mut post = Post::of(2, 1);
        session.run(&mut post).await;
        assert_eq!(post.words(), ["untried: protocol MAIL FROM", "waiting"]);
        assert_eq!(client.connect(&windowed(1)).await.unwrap().capabilities().pipelining, !remembered, "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_peer_is_not_held_to_it() {
    let sound = || pipelining().serve(strict(|_, _| None));
    let dialer = peers([pipelining().serve(strict(one(0, "MAIL", "354 go"))), sound()]);
    let client = client(&dialer);
    run_on(&client, &mut Post::of(1, 1), 1).await;
    let elsewhere = smtp_direct::route::Endpoint { address: ([192, 0, 2, 26], 25).into(), ..windowed(1) };
    assert!(client.connect(&elsewhere).await.unwrap().capabilities().pipelining);
}

// ---- the end of the session

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_after_every_so_many_messages_gets_them_all_once() {
    for every in [1, 3] {
        for (extensions, parting) in
            [(&["PIPELINING"][..], ""), (&["PIPELINING"], "\r\n421 4.7.0 enough"), (&[], ""), (&[], "\r\n421 enough")]
        {
            const COUNT: usize = 10;
            let taken = Taken::default();
            let scripts = (0..COUNT).map(|_| {
                let mut contents = 0;
                Script::offering(extensions).serve(Strict::new(&taken).but(move |number, line| {
                    contents += usize::from(line == ".");
                    (line == "." && contents == every).then(|| format!("250 queued m{number}{parting}{HANG_UP}"))
                }))
            });
            let dialer = peers(scripts.collect::<Vec<_>>());
            let client = client(&dialer);
            let mut post = Post::of(COUNT, 1);
            while !post.all_taken() {
                run_on(&client, &mut post, 1).await;
                post.take_back();
            }
            assert_eq!(post.words(), ["250"; COUNT], "{every} {extensions:?} {parting}");
            assert_eq!(recipients_of(&taken), (0..COUNT).map(|number| (number, 0)).collect::<Vec<_>>());
            assert_eq!(dialer.dials(), COUNT.div_ceil(every));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_421_is_of_the_mail_that_it_answers_and_those_behind_are_untried() {
    let cases = [
        // Nothing was said of it: a new session is worth a try.
        ("MAIL", ["250", "250", "untried: 421 MAIL FROM", "waiting", "waiting"]),
        ("RCPT", ["250", "250", "421 RCPT TO", "waiting", "waiting"]),
        ("DATA", ["250", "250", "421 DATA", "waiting", "waiting"]),
        (".", ["250", "250", "421 the end of the content", "untried: 421 the end of the content", "waiting"]),
    ];
    for (verb, expected) in cases {
        let (words, reusable) = words_of(5, one(2, verb, "421 4.7.0 enough\u{4}")).await;
        assert_eq!((words, reusable), (expected.map(str::to_owned).to_vec(), false), "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_without_a_word() {
    let cases = [
        ("MAIL", ["250", "250", "untried: closed MAIL FROM", "waiting", "waiting"]),
        ("RCPT", ["250", "250", "closed RCPT TO", "waiting", "waiting"]),
        ("DATA", ["250", "250", "closed DATA", "waiting", "waiting"]),
        (".", ["250", "250", "in doubt", "untried: closed the end of the content", "waiting"]),
    ];
    for (verb, expected) in cases {
        let (words, reusable) = words_of(5, one(2, verb, "\u{4}")).await;
        assert_eq!((words, reusable), (expected.map(str::to_owned).to_vec(), false), "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_ended_the_session_is_not_what_recipients_met_whose_part_was_not_its_cause() {
    let ended = "closed MAIL FROM, closed MAIL FROM, closed MAIL FROM";
    let cases = [
        // The content of the first two, the envelope of the next two ahead, the last one not begun.
        (".", "421 4.7.0 enough\u{4}", format!("421 the end of the content, 421 the end of the content, {ended}")),
        (".", "\u{4}", format!("in doubt, in doubt, {ended}")),
        // Of the envelope: all would meet it.
        ("RCPT", "421 4.7.0 enough\u{4}", ["421 RCPT TO"; 5].join(", ")),
    ];
    for (verb, reply, expected) in cases {
        let mut post = Post::new([numbered(0, 1), numbered(1, 5), numbered(2, 1)]);
        let script = Script::offering(&["PIPELINING", "LIMITS RCPTMAX=2"]).serve(strict(one(1, verb, reply)));
        run(&mut post, script, 1).await;
        assert_eq!(post.words(), ["250", expected.as_str(), "waiting"], "{verb} {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_has_not_left_whole_is_not_in_doubt() {
    // The second content is in the connection but for its last octets, or but for the envelope behind it, when the peer goes.
    let long = long_text(3_000);
    let stuffed = 3_000 + 3_000 / 18;
    for (room, expected) in [(stuffed + 2, "closed sending the content"), (stuffed + 3, "in doubt"), (stuffed + 10, "in doubt")] {
        let mut script = pipelining();
        for number in [0, 1] {
            for line in envelope(number, 1).lines() {
                script = script.expect(line);
            }
            script = script.say("250 ok\r\n250 ok\r\n354 go");
            if number == 0 {
                script = script.content().say("250 queued");
            }
        }
        // It reads nothing of the content.
        let script = script.step(Step::Wait(Duration::from_secs(10))).step(Step::Close);
        let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], room);
        let mut post = Post::new([numbered(0, 1), with_text(1, 1, &long), numbered(2, 1)]);
        run_on(&client(&dialer), &mut post, 1).await;
        let words = post.words();
        assert_eq!(words[..2], ["250", expected], "{room}");
        assert!(words[2].starts_with("untried: closed"), "{words:?}");
    }
}

// ---- time

#[tokio::test(start_paused = true)]
async fn each_phase_has_its_limit_within_a_chain() {
    let cases = [
        ("MAIL", 300, ["250", "250", "timed out MAIL FROM", "waiting"]),
        ("RCPT", 300, ["250", "250", "timed out RCPT TO", "waiting"]),
        ("DATA", 120, ["250", "250", "timed out DATA", "waiting"]),
        (".", 600, ["250", "250", "in doubt", "untried: timed out the end of the content"]),
    ];
    for (verb, seconds, expected) in cases {
        let started = Instant::now();
        let (words, reusable) = words_of(4, silent_from(2, verb)).await;
        assert_eq!((words, reusable), (expected.map(str::to_owned).to_vec(), false), "{verb}");
        assert_eq!(started.elapsed().as_secs(), seconds, "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_each_mails_own() {
    // An hour and more in all, and no answer comes too late.
    let started = Instant::now();
    let mut post = Post::of(10, 1);
    let (reusable, _) = run(&mut post, pipelining().serve_slowly(Duration::from_secs(110), friendly), 1).await;
    assert_eq!((post.words(), reusable), (vec!["250".to_owned(); 10], true));
    assert!(started.elapsed() > Duration::from_secs(3_600));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_leaves_a_session_that_takes_nothing_more() {
    let dialer = peers([pipelining().serve(strict(silent_from(1, ".")))]);
    let mut session = client(&dialer).connect(&windowed(1)).await.unwrap();
    let mut post = Post::of(3, 1);
    assert!(tokio::time::timeout(Duration::from_secs(1), session.run(&mut post)).await.is_err());
    assert!(!session.is_reusable());
    let mut later = Post::new([Letter::short()]);
    session.run(&mut later).await;
    assert_eq!(later.words(), ["waiting"]);
}

//! Mail after mail on one session, by BDAT: the window, whose reply is whose, what is in doubt when a session ends and what is not.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/chain.rs"]
mod chain;
#[path = "support/log.rs"]
mod log;
#[path = "support/peer.rs"]
mod peer;

use std::time::Duration;

use chain::{
    Post, Strict, Taken, addresses, chunk, client, ehlo, long_text, numbered, one, peers, recipients_of, run, run_on, silent_from, strict,
    text, windowed, with_text,
};
use log::Log;
use peer::{Dial, HANG_UP, MemoryDialer, Script, Step};
use smtp_direct::outcome::Fault;
use smtp_direct::smtp::End;
use tokio::time::Instant;

const ONE_DAY: Duration = Duration::from_secs(24 * 60 * 60);
const QUIT: &str = "QUIT\r\n";

fn chunking() -> Script {
    Script::offering(&["PIPELINING", "CHUNKING"])
}

/// A short letter to one recipient, as it goes over.
fn whole(number: usize) -> String {
    addresses(number, 0..1) + &chunk(&text(number))
}

/// The same behind another one that is not answered.
fn behind(number: usize) -> String {
    "RSET\r\n".to_owned() + &whole(number)
}

/// A window as it goes over.
fn window(numbers: std::ops::Range<usize>) -> String {
    whole(numbers.start) + &(numbers.start + 1..numbers.end).map(behind).collect::<String>()
}

/// "250" for the first two letters of so many, this for the third one and this for those behind it.
fn words(count: usize, third: &str, behind: &str) -> Vec<String> {
    let word = |number| match number {
        0 | 1 => "250",
        2 => third,
        _ => behind,
    };
    (0..count).map(|number| word(number).to_owned()).collect()
}

// ---- the window

#[tokio::test(start_paused = true)]
async fn a_message_is_one_write_and_nothing_in_it_is_doubled() {
    let dots = ".\r\n..\r\n.hidden\r\n\r\n.\r\n";
    let mut post = Post::new((0..5).map(|number| with_text(number, 2, dots)));
    let (reusable, dialer) = run(&mut post, chunking().serve(strict(|_, _| None)), 1).await;
    let mut expected = vec![ehlo()];
    expected.extend((0..5).map(|number| addresses(number, 0..2) + &chunk(dots)));
    expected.push(QUIT.to_owned());
    assert_eq!(dialer.turns(), expected);
    assert_eq!((post.words(), reusable), (vec!["250, 250".to_owned(); 5], true));
    assert_eq!(dialer.finish().await[0].contents, vec![dots.as_bytes(); 5]);
}

#[tokio::test(start_paused = true)]
async fn each_answered_message_lets_one_more_into_the_window() {
    let mut post = Post::of(20, 1);
    let slow = chunking().serve_slowly(Duration::from_secs(1), strict(|_, _| None));
    let (_, dialer) = run(&mut post, slow, 8).await;
    let mut expected = vec![ehlo(), window(0..8)];
    expected.extend((8..20).map(behind));
    expected.push(QUIT.to_owned());
    assert_eq!(dialer.turns(), expected);
    assert_eq!(post.words(), ["250"; 20]);
    assert_eq!(post.order(), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_sees_one_window_and_nothing_more() {
    for size in [1, 8] {
        let started = Instant::now();
        let mut post = Post::of(20, 1);
        let (reusable, dialer) = run(&mut post, chunking().serve(|_| String::new()), size).await;
        assert_eq!(dialer.turns(), [ehlo(), window(0..size)]);
        let expected: Vec<&str> = (0..20).map(|number| if number < size { "in doubt" } else { "waiting" }).collect();
        assert_eq!((post.words(), reusable), (expected.into_iter().map(str::to_owned).collect(), false));
        assert_eq!(started.elapsed().as_secs(), 300, "the limit of MAIL");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_that_come_all_together_are_each_their_own_mails() {
    let mut answer = strict(|number, line| match (number, line.split(' ').next()?) {
        (1, "MAIL") => Some("550 5.7.1 not m1".to_owned()),
        (2, "RCPT") => Some("550 5.1.1 not m2".to_owned()),
        (4, "RCPT") if line.contains("r1@") => Some("450 4.2.1 not r1 of m4".to_owned()),
        (5, "BDAT") => Some("452 4.3.1 not m5".to_owned()),
        (14, "BDAT") => Some("554 5.6.0 not m14".to_owned()),
        _ => None,
    });
    let (mut held, mut contents) = (Vec::new(), 0);
    let by_the_window = move |line: &str| {
        held.push(answer(line));
        contents += usize::from(line.starts_with("BDAT"));
        if line.starts_with("BDAT") && contents % 8 == 0 { std::mem::take(&mut held).join("\r\n") } else { String::new() }
    };
    let mut post = Post::of(16, 2);
    let (_, dialer) = run(&mut post, chunking().serve(by_the_window), 8).await;
    assert_eq!(dialer.turns().len(), 4, "EHLO, two windows, QUIT");
    for (posted, end) in &post.ended {
        let End::Answered(results) = end else { panic!("{end:?}") };
        let reply_of = |at: usize| match &results[at] {
            Ok(accepted) => accepted.reply.to_string(),
            Err(fault) => fault.reply().unwrap().to_string(),
        };
        let number = posted.number;
        let expected = match number {
            1 => ["550 5.7.1 not m1"; 2].map(str::to_owned),
            2 => ["550 5.1.1 not m2"; 2].map(str::to_owned),
            4 => ["250 2.0.0 queued m4".to_owned(), "450 4.2.1 not r1 of m4".to_owned()],
            5 => ["452 4.3.1 not m5"; 2].map(str::to_owned),
            14 => ["554 5.6.0 not m14"; 2].map(str::to_owned),
            _ => [format!("250 2.0.0 queued m{number}"), format!("250 2.0.0 queued m{number}")],
        };
        assert_eq!([reply_of(0), reply_of(1)], expected);
    }
    assert_eq!(post.order(), (0..16).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn without_pipelining_chunks_go_in_lockstep() {
    let mut post = Post::of(3, 1);
    let (_, dialer) = run(&mut post, Script::offering(&["CHUNKING"]).serve(strict(|_, _| None)), 8).await;
    let mut expected = vec![ehlo()];
    for number in 0..3 {
        expected.extend(addresses(number, 0..1).split_inclusive("\r\n").map(str::to_owned));
        expected.push(chunk(&text(number)));
    }
    expected.push(QUIT.to_owned());
    assert_eq!(dialer.turns(), expected);
    assert_eq!(post.words(), ["250"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_large_message_waits_for_its_envelope_and_goes_as_one_chunk_in_blocks() {
    const BLOCK: usize = 64 * 1024;
    let long = long_text(200_000);
    let large = chunk(&long);
    let (head, rest) = large.split_at(large.len() - (200_000 - 3 * BLOCK));
    for size in [1, 8] {
        let mut post = Post::new((0..5).map(|number| if number == 2 { with_text(2, 1, &long) } else { numbered(number, 1) }));
        let (_, dialer) = run(&mut post, chunking().serve(strict(|_, _| None)), size).await;
        let turns = dialer.turns();
        let (before, after) = if size == 1 {
            (vec![whole(0), whole(1), addresses(2, 0..1)], vec![rest.to_owned(), whole(3), whole(4)])
        } else {
            (vec![window(0..2) + "RSET\r\n" + &addresses(2, 0..1)], vec![rest.to_owned() + &behind(3) + &behind(4)])
        };
        assert_eq!(turns[1..=before.len()], before);
        let at = before.len() + 1;
        assert_eq!(turns[at..at + 3].concat(), head);
        assert_eq!(turns[at + 3..turns.len() - 1], after);
        assert_eq!(post.words(), ["250"; 5]);
        assert_eq!(dialer.finish().await[0].contents[2], long.as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn rset_comes_before_mail_where_a_transaction_may_be_open() {
    for (verb, reply, reset) in
        [("MAIL", "250 ok", false), ("MAIL", "550 no", false), ("RCPT", "550 no", true), ("BDAT", "552 no", true), ("BDAT", "452 no", true)]
    {
        let mut post = Post::of(3, 1);
        let (_, dialer) = run(&mut post, chunking().serve(strict(one(1, verb, reply))), 1).await;
        let next = if reset { behind(2) } else { whole(2) };
        assert_eq!(dialer.turns()[1..], [whole(0), whole(1), next, QUIT.to_owned()], "{verb} {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mail_with_many_recipients_is_in_the_window_more_than_once() {
    let mut post = Post::new([numbered(0, 1), numbered(1, 5), numbered(2, 1)]);
    let script = Script::offering(&["PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2"])
        .serve(strict(|number, line| (number == 1 && line.contains("r3@")).then(|| "550 5.1.1 nobody".to_owned())));
    let (_, dialer) = run(&mut post, script, 8).await;
    let part = |recipients| "RSET\r\n".to_owned() + &addresses(1, recipients) + &chunk(&text(1));
    assert_eq!(dialer.turns()[1], whole(0) + &part(0..2) + &part(2..4) + &part(4..5) + &behind(2));
    assert_eq!(post.words(), ["250", "250, 250, 250, 550 RCPT TO, 250", "250"]);
}

// ---- neighbours

#[tokio::test(start_paused = true)]
async fn a_refusal_is_of_one_mail_and_its_neighbours_are_delivered() {
    let cases = [
        ("MAIL", "450 4.7.1 later", "450 MAIL FROM"),
        ("MAIL", "550 5.7.1 never", "550 MAIL FROM"),
        ("RCPT", "450 4.2.1 later", "450 RCPT TO"),
        ("RCPT", "550 5.1.1 nobody", "550 RCPT TO"),
        ("BDAT", "452 4.3.1 no space", "452 the end of the content"),
        ("BDAT", "554 5.6.0 spam", "554 the end of the content"),
    ];
    for (verb, reply, expected) in cases {
        for size in [1, 2, 8] {
            for odd in [0, 2, 4] {
                let taken = Taken::default();
                let mut post = Post::of(5, 1);
                let (reusable, _) = run(&mut post, chunking().serve(Strict::new(&taken).but(one(odd, verb, reply))), size).await;
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
async fn a_file_that_is_not_there_is_not_said_to_the_peer() {
    let mut post = Post::of(5, 1);
    std::fs::remove_file(&post.letter(0).file).unwrap();
    std::fs::write(&post.letter(2).file, "cut").unwrap();
    let (reusable, dialer) = run(&mut post, chunking().serve(strict(|_, _| None)), 8).await;
    assert_eq!((post.words(), reusable), (["damaged", "250", "damaged", "250", "250"].map(str::to_owned).to_vec(), true));
    assert_eq!(dialer.turns()[1..], [whole(1) + &behind(3) + &behind(4), QUIT.to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_large_file_that_is_cut_while_it_is_sent_ends_the_session_in_the_middle_of_the_chunk() {
    let mut post = Post::new((0..4).map(|number| if number == 2 { with_text(2, 1, &long_text(200_000)) } else { numbered(number, 1) }));
    let file = post.letter(2).file.clone();
    let cut = move |number: usize, line: &str| {
        if number == 2 && line.starts_with("RCPT") {
            std::fs::File::options().write(true).open(&file).unwrap().set_len(100_000).unwrap();
        }
        None
    };
    let (reusable, dialer) = run(&mut post, chunking().serve(strict(cut)), 8).await;
    assert_eq!((post.words(), reusable), (words(4, "damaged", "waiting"), false));
    let record = &dialer.finish().await[0];
    assert_eq!((record.contents.len(), record.text().contains(QUIT)), (2, false));
}

// ---- out of step

#[tokio::test(start_paused = true)]
async fn a_reply_of_the_wrong_kind_leaves_those_in_doubt_whose_content_has_left() {
    // The peer answers no more: it waits for content.
    for (verb, reply) in [("RSET", "500 what"), ("MAIL", "354 go"), ("RCPT", "354 go"), ("BDAT", "354 go"), ("BDAT", "hello")] {
        let mut post = Post::of(8, 1);
        // RSET goes before MAIL, by which the peer knows the letter.
        let number = if verb == "RSET" { 1 } else { 2 };
        let (reusable, _) = run(&mut post, chunking().serve(strict(one(number, verb, reply))), 8).await;
        assert_eq!((post.words(), reusable), (words(8, "in doubt", "in doubt"), false), "{verb} {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_few_leaves_the_last_one_in_doubt() {
    // Whose it was cannot be known: replies to BDAT look like others. Nothing is taken for delivered that is not answered at all.
    let started = Instant::now();
    let mut post = Post::of(5, 1);
    let (reusable, _) = run(&mut post, chunking().serve(strict(one(2, "RCPT", ""))), 8).await;
    assert_eq!((post.words(), reusable), (["250", "250", "250", "250", "in doubt"].map(str::to_owned).to_vec(), false));
    assert_eq!(started.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_reply_too_many_is_found_before_the_next_mail_goes_out() {
    let dialer = peers([chunking().serve(strict(one(1, "BDAT", "250 one\r\n250 two"))), chunking()]);
    let client = client(&dialer);
    let mut session = client.connect(&windowed(1)).await.unwrap();
    let mut post = Post::of(3, 1);
    session.run(&mut post).await;
    assert_eq!(post.words(), ["250", "250", "untried: protocol MAIL FROM"]);
    assert!(!session.is_reusable());
    assert_eq!(dialer.turns()[1..], [whole(0), whole(1)]);
    assert!(!client.connect(&windowed(1)).await.unwrap().capabilities().chunking, "it is remembered");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_too_many_is_found_within_the_window() {
    // A peer that takes the chunk for commands once it has refused it.
    let mut post = Post::of(5, 1);
    let (reusable, _) = run(&mut post, chunking().serve(strict(one(2, "BDAT", "552 5.3.4 no\r\n500 5.5.1 what"))), 8).await;
    assert_eq!((post.words(), reusable), (words(5, "552 the end of the content", "in doubt"), false));
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_bdat_does_not_work_gets_data_for_a_day() {
    let (log, _guard) = Log::here();
    let unknown = || chunking().serve(strict(one(1, "BDAT", "500 5.5.1 what?")));
    let sound = || chunking().serve(strict(|_, _| None));
    let dialer = peers([unknown(), unknown(), sound(), sound(), sound()]);
    let client = client(&dialer);
    let (mut one, mut other) = (client.connect(&windowed(8)).await.unwrap(), client.connect(&windowed(8)).await.unwrap());
    for session in [&mut one, &mut other] {
        let mut post = Post::of(3, 1);
        session.run(&mut post).await;
        assert_eq!(post.words(), ["250", "protocol the end of the content", "in doubt"]);
        assert!(!session.is_reusable());
    }
    assert_eq!(log.count("CHUNKING broke"), 1);
    let mut bdats = Vec::new();
    for later in [Duration::ZERO, ONE_DAY - Duration::from_secs(1), Duration::from_secs(2)] {
        tokio::time::advance(later).await;
        let before = dialer.turns().len();
        let mut post = Post::of(3, 1);
        run_on(&client, &mut post, 8).await;
        assert_eq!(post.words(), ["250"; 3]);
        let turns = &dialer.turns()[before..];
        bdats.push((turns.len(), turns.concat().matches("BDAT").count()));
    }
    // By DATA, still ahead of replies: EHLO, an envelope, one a message, QUIT. By BDAT all at once.
    assert_eq!(bdats, [(6, 0), (6, 0), (3, 3)]);
    assert_eq!(log.count("CHUNKING broke"), 1);
}

#[tokio::test(start_paused = true)]
async fn silence_and_replies_out_of_step_are_remembered_too() {
    for (at, verb, reply) in [(2, "BDAT", ""), (2, "MAIL", "354 go"), (2, "MAIL", ""), (0, "RCPT", "")] {
        let dialer = peers([chunking().serve(strict(one(at, verb, reply))), chunking()]);
        let client = client(&dialer);
        run_on(&client, &mut Post::of(3, 1), 8).await;
        let session = client.connect(&windowed(8)).await.unwrap();
        assert_eq!((session.capabilities().pipelining, session.capabilities().chunking), (true, false), "{verb} {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_with_several_in_doubt_is_remembered_too() {
    for (at, remembered) in [(0, true), (2, false)] {
        let dialer = peers([chunking().serve(strict(one(at, "BDAT", "\u{4}"))), chunking()]);
        let client = client(&dialer);
        run_on(&client, &mut Post::of(3, 1), 8).await;
        assert_eq!(client.connect(&windowed(8)).await.unwrap().capabilities().chunking, !remembered, "{at}");
    }
}

// ---- the end of the session

#[tokio::test(start_paused = true)]
async fn a_421_says_that_nothing_behind_it_is_taken() {
    let cases = [
        // Nothing was said of it: a new session is worth a try.
        ("RSET", "untried: 421 MAIL FROM", "untried: 421 MAIL FROM"),
        ("MAIL", "untried: 421 MAIL FROM", "untried: 421 MAIL FROM"),
        ("RCPT", "421 RCPT TO", "untried: 421 RCPT TO"),
        ("BDAT", "421 the end of the content", "untried: 421 the end of the content"),
    ];
    for (verb, third, behind) in cases {
        let mut post = Post::of(8, 1);
        let number = if verb == "RSET" { 1 } else { 2 };
        let (reusable, _) = run(&mut post, chunking().serve(strict(one(number, verb, "421 4.7.0 enough\u{4}"))), 8).await;
        assert_eq!((post.words(), reusable), (words(8, third, behind), false), "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_mail_of_a_session_is_never_untried() {
    for (verb, expected) in [("MAIL", "421 MAIL FROM"), ("RCPT", "421 RCPT TO"), ("BDAT", "421 the end of the content")] {
        let mut post = Post::of(3, 1);
        run(&mut post, chunking().serve(strict(one(0, verb, "421 4.7.0 enough\u{4}"))), 8).await;
        let untried = format!("untried: {expected}");
        assert_eq!(post.words(), [expected, &untried, &untried], "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_421_changes_nothing_for_recipients_with_an_answer() {
    let odd = |number: usize, line: &str| match (number, line.split(' ').next()?) {
        (1, "RCPT") if line.contains("r0@") => Some("550 5.1.1 nobody".to_owned()),
        (1, "RCPT") if line.contains("r2@") => Some(format!("421 4.7.0 enough{HANG_UP}")),
        _ => None,
    };
    let mut post = Post::of(3, 4);
    run(&mut post, chunking().serve(strict(odd)), 8).await;
    let expected = ["250, 250, 250, 250", "550 RCPT TO, 421 RCPT TO, 421 RCPT TO, 421 RCPT TO", "untried: 421 RCPT TO"];
    assert_eq!(post.words(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_without_a_word_leaves_the_window_in_doubt() {
    for verb in ["MAIL", "RCPT", "BDAT"] {
        let mut post = Post::of(8, 1);
        let (reusable, _) = run(&mut post, chunking().serve(strict(one(2, verb, "\u{4}"))), 8).await;
        assert_eq!((post.words(), reusable), (words(8, "in doubt", "in doubt"), false), "{verb}");
    }
    // Not those that nobody was to get.
    for (verb, reply, expected) in [("RCPT", "550 no\r\n\u{4}", "550 RCPT TO"), ("MAIL", "550 no\u{4}", "550 MAIL FROM")] {
        let mut post = Post::of(4, 1);
        run(&mut post, chunking().serve(strict(one(2, verb, reply))), 8).await;
        assert_eq!(post.words(), ["250", "250", expected, "in doubt"], "{verb}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_has_not_left_whole_is_not_in_doubt() {
    let two = window(0..2).len();
    let closed = "untried: closed MAIL FROM";
    let cases = [
        (two - 1, ["in doubt", closed, closed, closed]),
        (two, ["in doubt", "in doubt", closed, closed]),
        (two + behind(2).len() - 1, ["in doubt", "in doubt", closed, closed]),
        (two + behind(2).len(), ["in doubt", "in doubt", "in doubt", closed]),
        (whole(0).len() - 1, ["closed MAIL FROM", closed, closed, closed]),
    ];
    for (room, expected) in cases {
        // It reads nothing of it.
        let script = chunking().step(Step::Wait(Duration::from_secs(10))).step(Step::Close);
        let dialer = MemoryDialer::with_buffer([Dial::Peer(script)], room);
        let mut post = Post::of(4, 1);
        run_on(&client(&dialer), &mut post, 8).await;
        assert_eq!(post.words(), expected, "{room}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_its_leave_after_every_so_many_messages_gets_them_all_once() {
    const COUNT: usize = 10;
    for every in [1, 3] {
        for (size, parting) in [(1, ""), (1, "\r\n421 4.7.0 enough"), (2, "\r\n421 4.7.0 enough"), (8, "\r\n421 4.7.0 enough")] {
            let taken = Taken::default();
            let scripts = (0..COUNT).map(|_| {
                let mut contents = 0;
                chunking().serve(Strict::new(&taken).but(move |number, line| {
                    contents += usize::from(line.starts_with("BDAT"));
                    (line.starts_with("BDAT") && contents == every).then(|| format!("250 queued m{number}{parting}{HANG_UP}"))
                }))
            });
            let dialer = peers(scripts.collect::<Vec<_>>());
            let client = client(&dialer);
            let mut post = Post::of(COUNT, 1);
            while !post.all_taken() {
                run_on(&client, &mut post, size).await;
                post.take_back();
            }
            assert_eq!(post.words(), ["250"; COUNT], "{every} {size} {parting}");
            assert_eq!(recipients_of(&taken), (0..COUNT).map(|number| (number, 0)).collect::<Vec<_>>());
            assert_eq!(dialer.dials(), COUNT.div_ceil(every));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_phase_has_its_limit_within_a_window() {
    for (verb, seconds) in [("MAIL", 300), ("RCPT", 300), ("BDAT", 600)] {
        let started = Instant::now();
        let mut post = Post::of(8, 1);
        let (reusable, _) = run(&mut post, chunking().serve(strict(silent_from(2, verb))), 8).await;
        assert_eq!((post.words(), reusable), (words(8, "in doubt", "in doubt"), false), "{verb}");
        assert_eq!(started.elapsed().as_secs(), seconds, "{verb}");
        let End::Answered(results) = &post.ended[2].1 else { panic!("{:?}", post.ended[2].1) };
        assert!(matches!(&results[0], Err(Fault::InDoubt { how }) if how == "no answer came in time"), "{results:?}");
    }
}

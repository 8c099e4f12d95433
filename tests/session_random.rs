//! Chains of mail against peers that answer anything: nobody is lost, nobody is told twice, and delivered is what the peer took.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/chain.rs"]
mod chain;
#[path = "support/peer.rs"]
mod peer;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chain::{Post, Strict, Taken, client, long_text, numbered, recipients_of, run_on, with_text};
use peer::{Dial, MemoryDialer, Script};
use proptest::prelude::*;
use smtp_direct::outcome::Fault;
use smtp_direct::smtp::End;

/// What a peer says where it does not keep to the rules. After the last ones it is gone: by the very last one without a word for what it
/// took.
const ODD: [&str; 9] =
    ["250 ok", "354 go", "450 4.2.1 later", "451 4.3.0 later", "452 4.5.3 too many", "503 what", "550 5.1.1 no", "421 bye\u{4}", "\u{4}"];

/// Longer than all limits together.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone)]
struct Case {
    /// Recipients of each letter, and whether it is a large one.
    letters: Vec<(usize, bool)>,
    extensions: Vec<String>,
    window: usize,
    /// Octets that a connection holds.
    buffer: usize,
    /// One answer a command, over all sessions; as the rules ask where there is none.
    answers: Vec<Option<&'static str>>,
}

fn case() -> impl Strategy<Value = Case> {
    let answer = prop_oneof![8 => Just(None), 1 => prop::sample::select(&ODD[..]).prop_map(Some)];
    let limit = |name| prop_oneof![4 => Just(String::new()), 1 => (1..=4).prop_map(move |limit| format!("LIMITS {name}={limit}"))];
    let extension = |name: &'static str| prop_oneof![1 => Just(String::new()), 3 => Just(name.to_owned())];
    (
        prop::collection::vec((1..=3usize, prop::bool::weighted(0.05)), 1..8),
        (extension("PIPELINING"), extension("CHUNKING"), limit("RCPTMAX"), limit("MAILMAX")),
        1..=4usize,
        prop::sample::select(vec![100, 400, 1024 * 1024]),
        prop::collection::vec(answer, 0..80),
    )
        .prop_map(|(letters, extensions, window, buffer, answers)| {
            let extensions = <[String; 4]>::from(extensions).into();
            Case { letters, extensions, window, buffer, answers }
        })
}

/// Sends it all, on as many sessions as that takes: what became of the letters, what the peers took, how many sessions there were.
async fn send(case: Case) -> (Post, Taken, usize) {
    let extensions: Vec<&str> = case.extensions.iter().map(String::as_str).collect();
    let taken = Taken::default();
    let answers = Arc::new(Mutex::new(case.answers.into_iter()));
    let peers = (0..case.letters.len()).map(|_| {
        let answers = answers.clone();
        let odd = move |_: usize, _: &str| answers.lock().unwrap().next()?.map(str::to_owned);
        Dial::Peer(Script::offering(&extensions).serve(Strict::new(&taken).but(odd)))
    });
    let dialer = MemoryDialer::with_buffer(peers, case.buffer);
    let client = client(&dialer);
    let letter = |(number, &(recipients, large)): (usize, &(usize, bool))| {
        if large { with_text(number, recipients, &long_text(70_000)) } else { numbered(number, recipients) }
    };
    let mut post = Post::new(case.letters.iter().enumerate().map(letter));
    // Each session is the last one for one letter at least: the dialer has no more peers than that.
    while !post.all_taken() {
        tokio::time::timeout(LONG, run_on(&client, &mut post, case.window)).await.expect("the session hangs");
        post.take_back();
    }
    dialer.finish().await;
    (post, taken, dialer.dials())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_letter_is_in_one_place_and_delivered_is_what_was_taken(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let letters = case.letters.len();
        let (post, taken, sessions) = runtime.block_on(send(case));
        prop_assert!(sessions <= letters);
        // Looks for letters that are missing or back twice.
        let words = post.words();
        let all_taken = recipients_of(&taken);
        let taken: BTreeSet<(usize, usize)> = all_taken.iter().copied().collect();
        prop_assert_eq!(taken.len(), all_taken.len(), "somebody got it twice: {:?}, {:?}", words, all_taken);
        let (mut delivered, mut in_doubt) = (BTreeSet::new(), BTreeSet::new());
        for (posted, end) in &post.ended {
            let End::Answered(results) = end else { unreachable!("taken back") };
            for (at, result) in results.iter().enumerate() {
                match result {
                    Ok(accepted) => {
                        prop_assert!(accepted.reply.is_positive());
                        delivered.insert((posted.number, at));
                    }
                    Err(Fault::InDoubt { .. }) => {
                        in_doubt.insert((posted.number, at));
                    }
                    Err(fault) => prop_assert!(*fault != Fault::Internal && !matches!(fault, Fault::Damaged { .. }), "{:?}", words),
                }
            }
        }
        // A note came before each content was ended: whoever may have it is known after a crash as well.
        prop_assert!(taken.is_subset(&post.ending), "not noted: {:?}, {:?}, {:?}", words, taken, post.ending);
        prop_assert!(in_doubt.is_subset(&post.ending), "in doubt, not noted: {:?}, {:?}", words, post.ending);
        prop_assert!(delivered.is_subset(&taken), "not taken: {:?}, {:?}", words, taken);
        let known: BTreeSet<_> = delivered.union(&in_doubt).copied().collect();
        prop_assert!(taken.is_subset(&known), "taken, and not said so: {:?}, {:?}", words, taken);
    }
}

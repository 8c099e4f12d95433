//! Any file, over any connection: what a receiver puts together from DATA or BDAT is the canonical form, and ends where it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fuzz/checks/lib.rs"]
mod checks;
#[path = "support/peer.rs"]
mod peer;

use checks::canonical::{assert_canonical, model, scanned};
use checks::wire::received;
use peer::{Dial, Letter, MemoryDialer, Record, Script, config, endpoint, friendly};
use proptest::prelude::*;
use smtp_direct::config::TlsMode;
use smtp_direct::smtp::Client;

/// Line ends of all kinds, dots beside them, and what would follow a smuggled end.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let ends = ["\r\n", "\n", "\r", "\r\r\n", "\n\r"];
    let tricks = [
        ".",
        "..",
        "\r\n.\r\n",
        "\n.\n",
        "\r.\r",
        "\n.\r\n",
        "\r\n.\r",
        "\r.\r\n",
        "\r\n.\n",
        "MAIL FROM:<evil@example.org>",
        "BDAT 5 LAST",
    ];
    let text = |texts: &[&'static str]| prop::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let piece = prop_oneof![
        3 => text(&ends),
        3 => text(&tricks),
        1 => text(&["Bcc: a@b", "Subject: s", "\u{feff}", "\0", " "]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    // So often that it is sent in one write, or in many blocks.
    let times = prop_oneof![4 => Just(1usize), 1 => 2_000usize..6_000];
    (prop::collection::vec(piece, 0..30), times).prop_map(|(pieces, times)| pieces.concat().repeat(times))
}

/// Sends the file over a connection that holds so many octets.
async fn send(octets: &[u8], extensions: &[&str], buffer: usize) -> (Vec<u8>, Record) {
    let mut letter = Letter::new(1, "");
    std::fs::write(&letter.file, octets).unwrap();
    letter.content = scanned(octets).unwrap().content;
    let expected = model(octets, &letter.content);
    let dialer = MemoryDialer::with_buffer([Dial::Peer(Script::offering(extensions).serve(friendly))], buffer);
    let mut session = Client::new(&config(), dialer.clone()).unwrap().connect(&endpoint(TlsMode::None)).await.unwrap();
    letter.send(&mut session).await.remove(0).unwrap();
    session.quit().await;
    (expected, dialer.finish().await.remove(0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_receiver_has_the_canonical_form_and_no_second_end(
        octets in octets(), chunking in any::<bool>(), buffer in prop::sample::select(vec![61usize, 1_000, 1024 * 1024]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        // SMTPUTF8: some of these headers have UTF-8.
        let extensions = ["PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING"];
        let extensions = &extensions[..if chunking { 4 } else { 3 }];
        let (expected, record) = runtime.block_on(send(&octets, extensions, buffer));
        prop_assert_eq!(record.contents.len(), 1);
        assert_canonical(&record.received);
        let content = &record.contents[0];
        if chunking {
            prop_assert!(*content == expected, "{}", content.escape_ascii());
        } else {
            // The peer takes the first end for the end: there must be no other one, for any receiver.
            let wire = [&content[..], b".\r\n"].concat();
            prop_assert!(received(&wire) == expected, "{}", content.escape_ascii());
        }
        assert_canonical(&expected);
        // Nothing that stands in the content was a command.
        let commands = if chunking { "EHLO MAIL RCPT BDAT QUIT" } else { "EHLO MAIL RCPT DATA QUIT" };
        prop_assert_eq!(verbs(&record, chunking), commands);
    }
}

/// The verbs that the peer was told, without the content.
fn verbs(record: &Record, chunking: bool) -> String {
    let content = &record.contents[0];
    let at = record.received.windows(content.len()).position(|window| window == content).unwrap();
    let end = at + content.len() + if chunking { 0 } else { b".\r\n".len() };
    let commands = [&record.received[..at], &record.received[end..]].concat();
    let text = String::from_utf8(commands).unwrap();
    text.lines().map(|line| line.split([' ', ':']).next().unwrap()).collect::<Vec<_>>().join(" ")
}

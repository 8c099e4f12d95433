//! The in-doubt journal: what a daemon noted is what the next one finds, and what cannot be believed is not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "support/clock.rs"]
mod clock;
#[path = "support/queue.rs"]
mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clock::TestClock;
use proptest::prelude::*;
use smtp_direct::clock::Timestamp;
use smtp_direct::outcome::{Outcome, Peer};
use smtp_direct::queue::{AttemptId, CopyId, Evidence, Journal, Notes, RecipientId, Trace};
use smtp_direct::smtp::Reply;
use support::Folder;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn journal(folder: &Path) -> Journal {
    Journal::open(folder.join("journal"), Arc::new(TestClock::from(second(0)))).unwrap()
}

fn evidence(folder: &Path) -> Evidence {
    Evidence::read(&folder.join("journal"))
}

fn attempt(copy: i64, began: i64) -> AttemptId {
    AttemptId { copy: CopyId(copy), began_at: second(began) }
}

fn ids(numbers: &[i64]) -> Vec<RecipientId> {
    numbers.iter().copied().map(RecipientId).collect()
}

fn peer() -> Peer {
    Peer { host: "mx.test".into(), address: "[2001:db8::1]:25".parse().unwrap(), tls: Some("TLSv1.3 X verified".into()) }
}

fn write(journal: &Journal, fill: impl FnOnce(&mut Notes)) {
    let mut notes = Notes::default();
    fill(&mut notes);
    journal.write(&mut notes).unwrap();
    assert!(notes.is_empty());
}

fn traces(of: &[(i64, Trace)]) -> Option<HashMap<RecipientId, Trace>> {
    Some(of.iter().map(|(id, trace)| (RecipientId(*id), trace.clone())).collect())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_noted_is_found() {
    let folder = Folder::new("journal");
    let journal = journal(folder.path());
    let reply = Reply::new(250, "2.0.0 \"queued\"\nas é");
    write(&journal, |notes| notes.ending(attempt(7, 5), ids(&[1, 2, 3])));
    write(&journal, |notes| {
        notes.delivered(attempt(7, 5), &ids(&[1]), (&reply, true), &peer());
        notes.refused(attempt(7, 5), &ids(&[3]));
        notes.ending(attempt(8, 5), ids(&[9]));
    });
    let found = evidence(folder.path());
    let delivered = Trace::Delivered(Outcome::delivered(reply, Arc::new(peer()), true));
    assert_eq!(found.about(attempt(7, 5)), traces(&[(1, delivered), (2, Trace::Ended)]));
    assert_eq!(found.about(attempt(8, 5)), traces(&[(9, Trace::Ended)]));
    // Another attempt of the same copy; a copy of which nothing was noted: nobody has it.
    assert_eq!((found.about(attempt(7, 6)), found.about(attempt(1, 5))), (traces(&[]), traces(&[])));
    // It had begun before the journal did.
    assert_eq!(found.about(attempt(1, -1)), None);
}

#[test]
fn without_a_journal_nothing_is_known() {
    let folder = Folder::new("journal-none");
    assert_eq!(evidence(folder.path()).about(attempt(1, 1)), None);
    // Nothing was noted: the folder alone says nothing either.
    let _journal = journal(folder.path());
    assert_eq!(evidence(folder.path()).about(attempt(1, 1)), None);
}

#[test]
fn another_start_of_the_system_or_a_damaged_line_and_nothing_is_believed() {
    let folder = Folder::new("journal-boot");
    let journal = journal(folder.path());
    write(&journal, |notes| notes.ending(attempt(1, 1), ids(&[1])));
    write(&journal, |notes| notes.ending(attempt(2, 1), ids(&[2])));
    let file = files(folder.path()).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    let boot = fs::read_to_string(BOOT).unwrap();
    fs::write(&file, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000")).unwrap();
    assert_eq!(evidence(folder.path()).about(attempt(1, 1)), None);
    fs::write(&file, text.replacen("{\"ending\"", "{\"end", 1)).unwrap();
    assert_eq!(evidence(folder.path()).about(attempt(1, 1)), None);
    fs::write(&file, &text).unwrap();
    assert_eq!(evidence(folder.path()).about(attempt(1, 1)), traces(&[(1, Trace::Ended)]));
}

#[test]
fn a_line_that_the_end_cut_off_did_not_happen() {
    let folder = Folder::new("journal-torn");
    let journal = journal(folder.path());
    write(&journal, |notes| notes.ending(attempt(1, 1), ids(&[1])));
    let file = files(folder.path()).remove(0);
    let whole = fs::read(&file).unwrap();
    write(&journal, |notes| notes.ending(attempt(2, 1), ids(&[2])));
    let both = fs::read(&file).unwrap();
    for end in whole.len()..both.len() {
        fs::write(&file, &both[..end]).unwrap();
        let found = evidence(folder.path());
        assert_eq!((found.about(attempt(1, 1)), found.about(attempt(2, 1))), (traces(&[(1, Trace::Ended)]), traces(&[])), "{end}");
    }
}

#[test]
fn files_go_once_the_database_has_what_they_tell() {
    let folder = Folder::new("journal-files");
    let journal = journal(folder.path());
    let fill = |copies: std::ops::Range<i64>| {
        for copy in copies {
            write(&journal, |notes| notes.ending(attempt(copy, 1), (0..500).map(RecipientId)));
        }
    };
    // More than two files of four megabytes.
    fill(0..6000);
    assert_eq!(files(folder.path()).len(), 3);
    journal.settled((1..6000).map(CopyId));
    assert_eq!(files(folder.path()).len(), 3, "copy 0 is told of in the first one");
    assert_eq!(evidence(folder.path()).about(attempt(0, 1)).unwrap().len(), 500);
    journal.settled([CopyId(0)]);
    assert_eq!(files(folder.path()).len(), 1);
    // The next daemon begins anew.
    drop(journal);
    let _next = self::journal(folder.path());
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_is_given_up_and_begun_anew() {
    let folder = Folder::new("journal-full");
    let clock = Arc::new(TestClock::from(second(0)));
    let journal = Journal::open(folder.path().join("journal"), clock.clone()).unwrap();
    write(&journal, |notes| notes.ending(attempt(1, 1), ids(&[1])));
    // Its folder is gone, and no file can be made where there is none; what was written is not to be taken for all there was.
    journal.settled([CopyId(1)]);
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    fs::write(folder.path().join("journal"), "in the way").unwrap();
    let fill = |from: i64| {
        for copy in from..from + 3000 {
            write(&journal, |notes| notes.ending(attempt(copy, 1), (0..500).map(RecipientId)));
        }
    };
    // The open file takes them until it is full.
    fill(100);
    fs::remove_file(folder.path().join("journal")).unwrap();
    fs::create_dir(folder.path().join("journal")).unwrap();
    assert_eq!(evidence(folder.path()).about(attempt(100, 1)), None);
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    write(&journal, |notes| notes.ending(attempt(9000, 3), ids(&[1])));
    let found = evidence(folder.path());
    assert_eq!(found.about(attempt(9000, 3)), traces(&[(1, Trace::Ended)]));
    // Attempts that began before the new journal did are not told of in full.
    assert_eq!(found.about(attempt(101, 1)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the folder: reading it is no panic, and a journal can be begun there.
    #[test]
    fn anything_can_be_read(octets in prop::collection::vec(any::<u8>(), 0..300), name in "[0-9]{1,3}|[a-z]{1,3}") {
        let folder = Folder::new("journal-any");
        fs::create_dir(folder.path().join("journal")).unwrap();
        fs::write(folder.path().join("journal").join(name), octets).unwrap();
        prop_assert_eq!(evidence(folder.path()).about(attempt(1, 1)), None);
        let journal = journal(folder.path());
        write(&journal, |notes| notes.ending(attempt(1, 1), ids(&[1])));
        prop_assert_eq!(evidence(folder.path()).about(attempt(1, 1)), traces(&[(1, Trace::Ended)]));
    }
}

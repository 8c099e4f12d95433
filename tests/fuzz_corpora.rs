//! Every input that the fuzz targets' corpora keep, and so every one that once went wrong, passes the target's check.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fuzz/checks/lib.rs"]
mod checks;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

const FUZZ: &str = "tests/fuzz";

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn stems(directory: &str) -> BTreeSet<String> {
    let directory = Path::new(FUZZ).join(directory);
    entries(&directory).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn all_that_the_corpora_keep_passes() {
    let mut failing = Vec::new();
    for (target, check) in checks::TARGETS {
        let inputs = entries(&Path::new(FUZZ).join("corpus").join(target));
        assert!(inputs.len() >= 5, "{target}: {} inputs", inputs.len());
        for input in inputs {
            let octets = fs::read(&input).unwrap();
            if catch_unwind(|| check(&octets)).is_err() {
                failing.push(input);
            }
        }
    }
    assert!(failing.is_empty(), "see above: {failing:?}");
}

#[test]
fn each_check_has_its_target_and_its_corpus() {
    let checks: BTreeSet<String> = checks::TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(stems("fuzz_targets"), checks);
    assert_eq!(stems("corpus"), checks);
}

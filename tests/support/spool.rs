//! A spool in a directory of its own, removed at the end, and what writers do to it.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use smtp_direct::spool::Layout;

/// A spool of one test.
pub struct TestSpool {
    layout: Layout,
}

impl TestSpool {
    /// A fresh spool with its directories.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = std::env::temp_dir().join(format!("smtp-direct-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&root).unwrap();
        let layout = Layout::new(root);
        layout.create().unwrap();
        Self { layout }
    }

    pub fn layout(&self) -> Layout {
        self.layout.clone()
    }

    /// As writers should: built in `tmp/`, renamed into `drop/`.
    pub fn rename_in(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let built = self.layout.tmp().join(name);
        fs::write(&built, content).unwrap();
        let dropped = self.layout.drop().join(name);
        fs::rename(built, &dropped).unwrap();
        dropped
    }

    /// As lettre and shell scripts do: written in `drop/` itself.
    pub fn write_in(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let dropped = self.layout.drop().join(name);
        fs::write(&dropped, content).unwrap();
        dropped
    }

    /// A file outside the public directories, for the tests' own use.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.layout.root().join(name)
    }

    /// The names in a directory, sorted; hidden ones too.
    pub fn names(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn dropped(&self) -> Vec<String> {
        self.names(&self.layout.drop())
    }

    pub fn rejected(&self) -> Vec<String> {
        self.names(&self.layout.rejected())
    }

    /// The one line of `rejected/NAME.reason`.
    pub fn reason(&self, stem: &str) -> String {
        let text = fs::read_to_string(self.layout.rejected().join(format!("{stem}.reason"))).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
        text.trim_end().to_owned()
    }

    /// Every message file of the queue.
    pub fn message_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for shard in fs::read_dir(self.layout.messages()).unwrap() {
            files.extend(fs::read_dir(shard.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
        }
        files.sort();
        files
    }
}

impl Drop for TestSpool {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.layout.root());
    }
}

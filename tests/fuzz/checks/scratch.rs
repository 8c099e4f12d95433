//! Files that checks need on a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that is gone when this is.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(octets: &[u8]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Cargo has a directory for what tests write; beside a fuzz target there is none.
        let directory = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let name = format!("check-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        fs::write(&path, octets).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

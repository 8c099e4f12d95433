//! Log lines on their way to standard error: one write a line, or one for all that are told together.

use std::cell::RefCell;
use std::io::{self, Stderr, Write};

/// Lines that are told together leave when they come to this many octets.
const ENOUGH: usize = 64 * 1024;

thread_local! {
    /// What this thread tells together; `None`: each line leaves at once.
    static TOGETHER: RefCell<Option<Batch<Stderr>>> = const { RefCell::new(None) };
}

/// Standard error, for a log's writer.
#[derive(Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        TOGETHER.with_borrow_mut(|together| match together {
            None => io::stderr().write(octets),
            Some(batch) => {
                batch.add(octets);
                Ok(octets.len())
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `tell` logs to standard error leaves in one write at its end, also where it panics: a system call less for each line.
pub fn together<T>(tell: impl FnOnce() -> T) -> T {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            TOGETHER.set(None);
        }
    }
    // Within another one, that one's end is this one's too.
    if TOGETHER.with_borrow(Option::is_some) {
        return tell();
    }
    TOGETHER.set(Some(Batch { lines: Vec::new(), to: io::stderr() }));
    let _end = End;
    tell()
}

/// Lines that leave together.
struct Batch<W: Write> {
    lines: Vec<u8>,
    to: W,
}

impl<W: Write> Batch<W> {
    fn add(&mut self, octets: &[u8]) {
        self.lines.extend_from_slice(octets);
        if self.lines.len() >= ENOUGH {
            self.leave();
        }
    }

    /// A log that cannot be written has nobody to be told to.
    fn leave(&mut self) {
        let _ = self.to.write_all(&self.lines);
        self.lines.clear();
    }
}

impl<W: Write> Drop for Batch<W> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_leave_at_the_end_and_when_they_are_many() {
        let mut written = Vec::new();
        let mut batch = Batch { lines: Vec::new(), to: &mut written };
        batch.add(b"one\n");
        batch.add(b"two\n");
        assert!(batch.to.is_empty());
        batch.add(&vec![b'.'; ENOUGH - 8]);
        assert_eq!(batch.to.len(), ENOUGH);
        batch.add(b"three\n");
        assert_eq!(batch.to.len(), ENOUGH);
        drop(batch);
        assert!(written.starts_with(b"one\ntwo\n.") && written.ends_with(b".three\n"));
    }

    #[test]
    fn the_outermost_end_counts_and_a_panic_is_one() {
        let open = || TOGETHER.with_borrow(Option::is_some);
        together(|| {
            together(|| assert!(open()));
            assert!(open());
        });
        assert!(!open());
        assert!(std::panic::catch_unwind(|| together(|| panic!("on purpose"))).is_err());
        assert!(!open());
    }
}

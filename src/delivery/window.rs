//! Which due copies are in memory: a window over the queue, so that memory does not grow with it. Pure bookkeeping.
//!
//! Copies come from two sides: offered by intake the moment they are accepted, and read from the queue by a cursor per priority class that
//! moves forward only. A domain that has its share of the window is remembered as backlogged instead, and read by itself once it has room:
//! so neither a domain nor a class can fill the window, and nothing is read again and again.

use std::collections::{HashMap, HashSet};

use crate::message::{Domain, MessageId, Priority};
use crate::queue::{CopyId, Cursor, QueuedCopy};

/// Recipients in memory, and how many of them may be of one domain.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of all domains together.
    pub recipients: usize,
    /// Of one domain.
    pub of_domain: usize,
}

impl Size {
    /// For so many workers: enough that each finds work while the next page is read.
    pub fn for_workers(workers: usize) -> Self {
        let recipients = (workers * 8).max(4_000);
        Self { recipients, of_domain: recipients / 4 }
    }

    /// What a class may use: urgent copies find room where the others have taken theirs.
    fn open_to(self, class: Priority) -> Self {
        let more = |size: usize| if class == Priority::Urgent { size.saturating_add(size / 4) } else { size };
        Self { recipients: more(self.recipients), of_domain: more(self.of_domain) }
    }
}

/// Why a copy did not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is in.
    Admitted,
    /// It was in already.
    Known,
    /// Its domain has its share; it will be read again when there is room.
    DomainFull,
    /// The window is full.
    Full,
}

/// What to read next from the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A backlogged domain that has room now.
    Domain(Domain),
    /// The next page of a class.
    Page(Cursor),
}

/// The window.
#[derive(Debug)]
pub struct Window {
    size: Size,
    copies: HashMap<CopyId, Held>,
    recipients: usize,
    domains: HashMap<Domain, usize>,
    messages: HashMap<MessageId, usize>,
    backlog: HashSet<Domain>,
    cursors: [ClassCursor; 3],
}

#[derive(Debug)]
struct Held {
    domain: Domain,
    message: MessageId,
    recipients: usize,
}

#[derive(Debug, Clone, Copy)]
struct ClassCursor {
    at: Cursor,
    exhausted: bool,
}

const CLASSES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Bulk];

impl Window {
    /// An empty window; everything is still to be read.
    pub fn new(size: Size) -> Self {
        Self {
            size,
            copies: HashMap::new(),
            recipients: 0,
            domains: HashMap::new(),
            messages: HashMap::new(),
            backlog: HashSet::new(),
            cursors: CLASSES.map(ClassCursor::start),
        }
    }

    /// New bounds, from the next copy on.
    pub fn resize(&mut self, size: Size) {
        self.size = size;
    }

    /// Lets a copy in, if there is room for it.
    pub fn admit(&mut self, copy: &QueuedCopy) -> Admission {
        if self.copies.contains_key(&copy.id) {
            return Admission::Known;
        }
        let weight = copy.recipients.len();
        let size = self.size.open_to(copy.message.priority);
        if !fits(self.recipients, weight, size.recipients) {
            return Admission::Full;
        }
        let of_domain = self.domains.get(&copy.domain).copied().unwrap_or(0);
        if !fits(of_domain, weight, size.of_domain) {
            self.backlog.insert(copy.domain.clone());
            return Admission::DomainFull;
        }
        self.recipients += weight;
        *self.domains.entry(copy.domain.clone()).or_default() += weight;
        *self.messages.entry(copy.message.id).or_default() += 1;
        self.copies.insert(copy.id, Held { domain: copy.domain.clone(), message: copy.message.id, recipients: weight });
        Admission::Admitted
    }

    /// A copy was settled, or is given back to the queue.
    pub fn release(&mut self, id: CopyId) {
        let Some(held) = self.copies.remove(&id) else { return };
        self.recipients -= held.recipients;
        lessen(&mut self.domains, &held.domain, held.recipients);
        lessen(&mut self.messages, &held.message, 1);
    }

    /// Copies of this domain are due, and there is no use in reading them now: the caller says when there is.
    pub(super) fn forget_backlog(&mut self, domain: &Domain) {
        self.backlog.remove(domain);
    }

    /// Copies of this domain were left in the queue though they are due: they are read when there is room.
    pub fn leave_in_queue(&mut self, domain: Domain) {
        self.backlog.insert(domain);
    }

    /// Whether a copy of this message is in memory.
    pub fn has_message(&self, id: MessageId) -> bool {
        self.messages.contains_key(&id)
    }

    /// Whether this copy is in memory.
    pub fn has(&self, id: CopyId) -> bool {
        self.copies.contains_key(&id)
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// What to read now; `None` while there is enough, or nothing is known to be there.
    pub fn wants(&self) -> Option<Read> {
        if self.recipients > self.size.recipients / 2 {
            return None;
        }
        let has_room = |domain: &&Domain| self.domains.get(*domain).copied().unwrap_or(0) <= self.size.of_domain / 2;
        if let Some(domain) = self.backlog.iter().find(has_room) {
            return Some(Read::Domain(domain.clone()));
        }
        self.cursors.iter().find(|cursor| !cursor.exhausted).map(|cursor| Read::Page(cursor.at))
    }

    /// How many recipients the next read should bring.
    pub fn page(&self) -> usize {
        self.size.of_domain
    }

    /// Domains that a page need not bring.
    pub fn backlogged(&self) -> Vec<Domain> {
        self.backlog.iter().cloned().collect()
    }

    /// A read of one domain came back; `complete` if it brought everything that is due.
    pub fn domain_was_read(&mut self, domain: &Domain, complete: bool) {
        if complete {
            self.forget_backlog(domain);
        }
    }

    /// A page came back and was let in up to `to`, or to its end where `next` is `None` and everything was let in.
    pub fn page_was_read(&mut self, from: Cursor, to: Option<Cursor>) {
        // One that was rewound meanwhile stays at the start.
        if let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.at == from) {
            match to {
                Some(next) => cursor.at = next,
                None => cursor.exhausted = true,
            }
        }
    }

    /// Time has passed: copies may have become due behind what was read to the end.
    pub fn look_again(&mut self) {
        for cursor in &mut self.cursors {
            cursor.exhausted = false;
        }
    }

    /// Reads everything from the start: nothing hangs on the cursors alone.
    pub fn rewind(&mut self) {
        self.cursors = CLASSES.map(ClassCursor::start);
    }
}

impl ClassCursor {
    fn start(priority: Priority) -> Self {
        Self { at: Cursor::start_of(priority), exhausted: false }
    }
}

/// Whether `weight` more may come in where `present` are, of at most `limit`. While there is no more than half, anything may, also a copy that
/// is larger than the limit: what [`Window::wants`] asks for must find its way in, or it would be asked for again and again.
fn fits(present: usize, weight: usize, limit: usize) -> bool {
    present <= limit / 2 || present + weight <= limit
}

fn lessen<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K, by: usize) {
    if let Some(count) = counts.get_mut(key) {
        *count -= by;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::copy;

    fn of_domain(id: i64, domain: &str) -> QueuedCopy {
        let mut copy = copy(id);
        copy.domain = Domain::parse(domain).unwrap();
        copy
    }

    #[test]
    fn a_domain_gets_its_share_and_no_more() {
        let mut window = Window::new(Size { recipients: 10, of_domain: 2 });
        let admissions = [1, 2, 3].map(|id| window.admit(&of_domain(id, "big.test")));
        assert_eq!(admissions, [Admission::Admitted, Admission::Admitted, Admission::DomainFull]);
        assert_eq!(window.admit(&of_domain(4, "small.test")), Admission::Admitted);
        assert!(matches!(window.wants(), Some(Read::Page(_))), "big.test has no room yet");
        window.release(CopyId(1));
        assert_eq!(window.wants(), Some(Read::Domain(Domain::parse("big.test").unwrap())));
        window.domain_was_read(&Domain::parse("big.test").unwrap(), true);
        assert!(matches!(window.wants(), Some(Read::Page(_))));
    }

    #[test]
    fn urgent_copies_find_room_where_others_have_taken_theirs() {
        let mut window = Window::new(Size { recipients: 8, of_domain: 4 });
        for id in 1..=4 {
            assert_eq!(window.admit(&of_domain(id, "big.test")), Admission::Admitted);
        }
        let mut urgent = of_domain(5, "big.test");
        assert_eq!(window.admit(&urgent), Admission::DomainFull);
        std::sync::Arc::make_mut(&mut urgent.message).priority = Priority::Urgent;
        assert_eq!(window.admit(&urgent), Admission::Admitted);
        urgent.id = CopyId(6);
        assert_eq!(window.admit(&urgent), Admission::DomainFull, "a quarter more, no more");
    }

    #[test]
    fn a_page_that_was_asked_for_before_a_rewind_does_not_undo_it() {
        let mut window = Window::new(Size { recipients: 4, of_domain: 4 });
        let start = Cursor::start_of(Priority::Urgent);
        let further = Cursor { due_at: 7, ..start };
        window.page_was_read(start, Some(further));
        window.rewind();
        window.page_was_read(further, Some(Cursor { due_at: 9, ..start }));
        assert_eq!(window.wants(), Some(Read::Page(start)));
    }

    #[test]
    fn a_full_window_reads_nothing() {
        let mut window = Window::new(Size { recipients: 4, of_domain: 4 });
        for id in 1..=4 {
            assert_eq!(window.admit(&of_domain(id, &format!("d{id}.test"))), Admission::Admitted);
        }
        assert_eq!(window.admit(&of_domain(5, "d5.test")), Admission::Full);
        assert_eq!(window.wants(), None);
        window.release(CopyId(1));
        window.release(CopyId(2));
        assert!(window.wants().is_some());
    }

    #[test]
    fn a_huge_copy_comes_in_when_there_is_room_for_others() {
        let mut window = Window::new(Size { recipients: 4, of_domain: 2 });
        let mut huge = of_domain(1, "huge.test");
        huge.recipients = vec![huge.recipients[0].clone(); 10_000];
        for id in 2..=4 {
            assert_eq!(window.admit(&of_domain(id, &format!("d{id}.test"))), Admission::Admitted);
        }
        assert_eq!(window.admit(&huge), Admission::Full);
        window.release(CopyId(2));
        assert!(window.wants().is_some(), "something is asked for, ...");
        assert_eq!(window.admit(&huge), Admission::Admitted, "... and so the huge one comes in");
        assert_eq!(window.admit(&of_domain(5, "d5.test")), Admission::Full);
        assert_eq!(window.wants(), None);
    }

    proptest::proptest! {
        /// Whatever is in memory: what is read because it is wanted changes something, so that reading ends.
        #[test]
        fn what_is_wanted_comes_in(
            weights in proptest::collection::vec((1_usize..40, 0_usize..4), 1..40),
            wanted in 1_usize..60,
        ) {
            let mut window = Window::new(Size { recipients: 40, of_domain: 10 });
            for (id, (weight, domain)) in (1_i64..).zip(weights) {
                let mut copy = of_domain(id, &format!("d{domain}.test"));
                copy.recipients = vec![copy.recipients[0].clone(); weight];
                window.admit(&copy);
            }
            let mut copy = of_domain(1000, "new.test");
            copy.recipients = vec![copy.recipients[0].clone(); wanted];
            match window.wants() {
                Some(Read::Domain(domain)) => {
                    copy.domain = domain;
                    proptest::prop_assert_eq!(window.admit(&copy), Admission::Admitted);
                }
                Some(Read::Page(_)) => proptest::prop_assert_eq!(window.admit(&copy), Admission::Admitted),
                None => {}
            }
        }
    }

    #[test]
    fn a_copy_is_in_once() {
        let mut window = Window::new(Size { recipients: 4, of_domain: 4 });
        let copy = copy(1);
        assert_eq!(window.admit(&copy), Admission::Admitted);
        assert_eq!(window.admit(&copy), Admission::Known);
        assert!(window.has_message(copy.message.id));
        window.release(copy.id);
        window.release(copy.id);
        assert!(!window.has_message(copy.message.id));
    }

    #[test]
    fn classes_are_read_one_after_the_other() {
        let mut window = Window::new(Size { recipients: 4, of_domain: 4 });
        let mut seen = Vec::new();
        while let Some(Read::Page(cursor)) = window.wants() {
            seen.push(cursor.priority);
            window.page_was_read(cursor, None);
        }
        assert_eq!(seen, CLASSES);
        window.look_again();
        assert!(matches!(window.wants(), Some(Read::Page(Cursor { priority: Priority::Urgent, .. }))));
    }
}

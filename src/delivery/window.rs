//! Which due copies are in memory: a window over the queue, so that memory does not grow with it. Pure bookkeeping.
//!
//! Copies come from two sides: offered by intake the moment they are accepted, and read from the queue by a cursor per priority class that
//! moves forward only. Each class has a window of its own, so that none waits for the room of a less urgent one. Within it, a domain may have
//! three times as many as there is room left: alone, three quarters, and there is room for the next one whatever the others do. One that has
//! its share is remembered as backlogged, and read by itself once it has room: nothing is read again and again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Domain, MessageId, Priority};
use crate::queue::{CopyId, Cursor, QueuedCopy};

/// A domain, or a site, may have so many times as many recipients in memory as there is room left in its class's window.
const TIMES_THE_ROOM: usize = 3;

/// With more than half of a window taken, what lies behind that in the queue is looked at this often: those who have taken it may be slow, and
/// others would wait for them. Where they are fast, it is half empty again before that.
const LOOK_PAST: Duration = Duration::from_millis(250);

/// Recipients that each class has in memory at most, for so many workers: enough that each finds work while the next page is read.
pub(super) fn size_for(workers: usize) -> usize {
    (workers * 8).max(4_000)
}

/// Why a copy did not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is in.
    Admitted,
    /// It was in already.
    Known,
    /// It is too much for now; its domain will be read again when there is room.
    DomainFull,
    /// The window is full.
    Full,
}

/// What to read next from the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A backlogged domain that has room now, and in which class.
    Domain(Priority, Domain),
    /// The next page of a class.
    Page(Cursor),
}

/// The window.
#[derive(Debug)]
pub struct Window {
    size: usize,
    copies: HashMap<CopyId, Held>,
    messages: HashMap<MessageId, usize>,
    classes: [Class; 3],
}

#[derive(Debug)]
struct Held {
    domain: Domain,
    message: MessageId,
    class: Priority,
    recipients: usize,
}

/// The window of one class.
#[derive(Debug)]
struct Class {
    cursor: Cursor,
    /// Everything that is due was read.
    exhausted: bool,
    /// Copies behind this place were passed over, and are not remembered by their domains.
    passed_over: Option<Cursor>,
    recipients: usize,
    domains: HashMap<Domain, usize>,
    backlog: HashSet<Domain>,
    /// The last read.
    read_at: Option<Instant>,
}

const CLASSES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Bulk];

impl Window {
    /// An empty window for so many recipients of each class; everything is still to be read.
    pub fn new(size: usize) -> Self {
        Self { size, copies: HashMap::new(), messages: HashMap::new(), classes: CLASSES.map(Class::new) }
    }

    /// New bounds, from the next copy on.
    pub fn resize(&mut self, size: usize) {
        self.size = size;
    }

    /// Lets a copy in, if there is room for it.
    pub fn admit(&mut self, copy: &QueuedCopy) -> Admission {
        if self.copies.contains_key(&copy.id) {
            return Admission::Known;
        }
        let (size, weight, priority) = (self.size, copy.recipients.len(), copy.message.priority);
        let class = &mut self.classes[priority as usize];
        let present = class.domains.get(&copy.domain).copied().unwrap_or(0);
        // What is read without delay comes in, also a copy that is larger than everything: it would be read again and again.
        let comes_in_anyway = class.is_open(size) && class.has_room(present, size);
        if !comes_in_anyway {
            let left = size.saturating_sub(class.recipients + weight);
            let fits = class.recipients + weight <= size;
            if !fits && !class.has_room_for_others(size) {
                return Admission::Full;
            }
            if !fits || (present > 0 && present + weight > left * TIMES_THE_ROOM) {
                class.backlog.insert(copy.domain.clone());
                return Admission::DomainFull;
            }
        }
        class.recipients += weight;
        *class.domains.entry(copy.domain.clone()).or_default() += weight;
        *self.messages.entry(copy.message.id).or_default() += 1;
        let held = Held { domain: copy.domain.clone(), message: copy.message.id, class: priority, recipients: weight };
        self.copies.insert(copy.id, held);
        Admission::Admitted
    }

    /// A copy was settled, or is given back to the queue.
    pub fn release(&mut self, id: CopyId) {
        let Some(held) = self.copies.remove(&id) else { return };
        let class = &mut self.classes[held.class as usize];
        class.recipients -= held.recipients;
        lessen(&mut class.domains, &held.domain, held.recipients);
        lessen(&mut self.messages, &held.message, 1);
    }

    /// Copies of this domain are due, and there is no use in reading them now: the caller says when there is.
    pub(super) fn forget_backlog(&mut self, class: Priority, domain: &Domain) {
        self.classes[class as usize].backlog.remove(domain);
    }

    /// Copies of this domain were left in the queue though they are due: they are read when there is room.
    pub fn leave_in_queue(&mut self, class: Priority, domain: Domain) {
        self.classes[class as usize].backlog.insert(domain);
    }

    /// The same of a domain whose copies may be of any class.
    pub fn leave_all_in_queue(&mut self, domain: &Domain) {
        CLASSES.into_iter().for_each(|class| self.leave_in_queue(class, domain.clone()));
    }

    /// A due copy is left in the queue, and nothing is to be remembered of it but its place: [`Self::go_back`] has it read again.
    pub(super) fn pass_over(&mut self, place: Cursor) {
        let class = &mut self.classes[place.priority as usize];
        class.passed_over = Some(class.passed_over.map_or(place, |first| first.min(place)));
    }

    /// Reads again from the first copy on that was passed over.
    pub(super) fn go_back(&mut self) {
        for class in &mut self.classes {
            if let Some(place) = class.passed_over.take() {
                // The copy itself, too.
                class.cursor = class.cursor.min(Cursor { copy: place.copy - 1, ..place });
                class.exhausted = false;
            }
        }
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
    pub fn wants(&self, now: Instant) -> Option<Read> {
        let may_read = |class: &&Class| class.has_room_for_others(self.size) && class.rests_until(self.size).is_none_or(|at| at <= now);
        self.classes.iter().filter(may_read).find_map(|class| class.next(self.size))
    }

    /// When to ask again, where [`Self::wants`] has nothing now and will have something then.
    pub fn wants_at(&self) -> Option<Instant> {
        let will_read = |class: &&Class| class.has_room_for_others(self.size) && class.next(self.size).is_some();
        self.classes.iter().filter(will_read).filter_map(|class| class.rests_until(self.size)).min()
    }

    /// How many recipients the next page of a class should bring.
    pub fn page(&self, class: Priority) -> usize {
        self.classes[class as usize].room(self.size).clamp(1, (self.size / 4).max(1))
    }

    /// How many recipients of this domain the next read of it should bring, and which of its copies it need not bring.
    pub fn page_of(&self, class: Priority, domain: &Domain) -> (usize, Vec<CopyId>) {
        let within = &self.classes[class as usize];
        let present = within.domains.get(domain).copied().unwrap_or(0);
        let known = self.copies.iter().filter(|(_, held)| held.class == class && held.domain == *domain).map(|(id, _)| *id);
        // So many that it has three times what is left then.
        let more = (within.room(self.size) * TIMES_THE_ROOM).saturating_sub(present) / (TIMES_THE_ROOM + 1);
        (more.max(1), known.collect())
    }

    /// How many recipients a domain, or a site, may have in memory, of this class and what is more urgent.
    pub fn share(&self, class: Priority) -> usize {
        self.classes[class as usize].room(self.size) * TIMES_THE_ROOM
    }

    /// Domains that a page need not bring.
    pub fn backlogged(&self, class: Priority) -> impl Iterator<Item = &Domain> {
        self.classes[class as usize].backlog.iter()
    }

    /// A read of one domain came back; `complete` if it brought everything that is due.
    pub fn domain_was_read(&mut self, class: Priority, domain: &Domain, complete: bool, now: Instant) {
        self.classes[class as usize].read_at = Some(now);
        if complete {
            self.forget_backlog(class, domain);
        }
    }

    /// A page came back and was let in up to `to`, or to its end where `to` is `None` and everything was let in.
    pub fn page_was_read(&mut self, from: Cursor, to: Option<Cursor>, now: Instant) {
        let class = &mut self.classes[from.priority as usize];
        class.read_at = Some(now);
        // One that was set back meanwhile stays there.
        if class.cursor == from {
            match to {
                Some(next) => class.cursor = next,
                None => class.exhausted = true,
            }
        }
    }

    /// Time has passed: copies may have become due behind what was read to the end.
    pub fn look_again(&mut self) {
        for class in &mut self.classes {
            class.exhausted = false;
        }
    }

    /// Reads everything from the start: nothing hangs on the cursors alone.
    pub fn rewind(&mut self) {
        for class in &mut self.classes {
            class.cursor = Cursor::start_of(class.cursor.priority);
            class.exhausted = false;
        }
    }
}

impl Class {
    fn new(priority: Priority) -> Self {
        Self {
            cursor: Cursor::start_of(priority),
            exhausted: false,
            passed_over: None,
            recipients: 0,
            domains: HashMap::new(),
            backlog: HashSet::new(),
            read_at: None,
        }
    }

    fn room(&self, size: usize) -> usize {
        size.saturating_sub(self.recipients)
    }

    /// Whether it is to be filled without delay.
    fn is_open(&self, size: usize) -> bool {
        self.recipients <= size / 2
    }

    /// Whether there is enough room for reading to be worth while.
    fn has_room_for_others(&self, size: usize) -> bool {
        self.room(size) > 0 && self.room(size) >= size / 16
    }

    /// Whether a domain that has `present` in memory has so little that reading more is worth while.
    fn has_room(&self, present: usize, size: usize) -> bool {
        present <= self.room(size) * TIMES_THE_ROOM / 4
    }

    /// Nothing is read before then.
    fn rests_until(&self, size: usize) -> Option<Instant> {
        self.read_at.filter(|_| !self.is_open(size)).map(|at| at + LOOK_PAST)
    }

    /// What comes next.
    fn next(&self, size: usize) -> Option<Read> {
        let has_room = |domain: &&Domain| self.has_room(self.domains.get(*domain).copied().unwrap_or(0), size);
        let domain = self.backlog.iter().find(has_room);
        let of_domain = domain.map(|domain| Read::Domain(self.cursor.priority, domain.clone()));
        of_domain.or_else(|| (!self.exhausted).then_some(Read::Page(self.cursor)))
    }
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

    const NORMAL: Priority = Priority::Normal;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn of_domain(id: i64, name: &str) -> QueuedCopy {
        let mut copy = copy(id);
        copy.domain = domain(name);
        copy
    }

    fn of_class(id: i64, name: &str, class: Priority) -> QueuedCopy {
        let mut copy = of_domain(id, name);
        std::sync::Arc::make_mut(&mut copy.message).priority = class;
        copy
    }

    /// As many copies of a domain as come in, from this id on.
    fn fill(window: &mut Window, name: &str, from: i64) -> usize {
        (from..).take_while(|&id| window.admit(&of_domain(id, name)) == Admission::Admitted).count()
    }

    #[test]
    fn a_domain_has_three_times_what_is_left_and_there_is_room_for_the_next() {
        let mut window = Window::new(64);
        let shares = [1, 2, 3, 4].map(|n| fill(&mut window, &format!("d{n}.test"), n * 1000));
        assert_eq!(shares, [48, 12, 3, 1]);
        assert_eq!(window.admit(&of_domain(1, "last.test")), Admission::Full);
        (1000..1024).for_each(|id| window.release(CopyId(id)));
        assert_eq!(fill(&mut window, "d5.test", 5000), 18, "of 24 that are free again");
    }

    #[test]
    fn a_domain_with_its_share_is_read_again_when_it_has_room() {
        let mut window = Window::new(64);
        let start = Instant::now();
        assert_eq!(fill(&mut window, "big.test", 1), 48);
        window.page_was_read(Cursor::start_of(Priority::Urgent), None, start);
        window.page_was_read(Cursor::start_of(NORMAL), None, start);
        window.page_was_read(Cursor::start_of(Priority::Bulk), None, start);
        (1..=20).for_each(|id| window.release(CopyId(id)));
        assert_eq!(window.wants(start), None, "28 of it are there still");
        window.release(CopyId(21));
        assert_eq!(window.wants(start), Some(Read::Domain(NORMAL, domain("big.test"))));
        let (more, known) = window.page_of(NORMAL, &domain("big.test"));
        assert_eq!((more, known.len()), (21, 27), "48 together, three times the 16 that are left then");
        window.domain_was_read(NORMAL, &domain("big.test"), true, start);
        assert_eq!(window.wants(start), None);
    }

    #[test]
    fn who_takes_more_than_half_is_looked_past_now_and_then() {
        let mut window = Window::new(64);
        let start = Instant::now();
        window.page_was_read(Cursor::start_of(Priority::Urgent), None, start);
        assert_eq!(window.wants(start), Some(Read::Page(Cursor::start_of(NORMAL))));
        fill(&mut window, "big.test", 1);
        let next = Cursor { due_at: 1, ..Cursor::start_of(NORMAL) };
        window.page_was_read(Cursor::start_of(NORMAL), Some(next), start);
        window.page_was_read(Cursor::start_of(Priority::Bulk), None, start);
        assert_eq!((window.wants(start), window.wants_at()), (None, Some(start + LOOK_PAST)));
        assert_eq!(window.wants(start + LOOK_PAST), Some(Read::Page(next)));
        assert_eq!(window.backlogged(NORMAL).collect::<Vec<_>>(), [&domain("big.test")]);
        assert_eq!((window.page(NORMAL), window.page(Priority::Bulk)), (16, 16));
        window.page_was_read(next, None, start + LOOK_PAST);
        assert_eq!((window.wants(start + LOOK_PAST), window.wants_at()), (None, None), "everything was read");
    }

    #[test]
    fn no_class_waits_for_the_room_of_another() {
        let mut window = Window::new(64);
        for (n, class) in [(1, Priority::Bulk), (2, NORMAL), (3, Priority::Urgent)] {
            let came_in = (n * 1000..).take_while(|&id| window.admit(&of_class(id, "x.test", class)) == Admission::Admitted).count();
            assert_eq!(came_in, 48, "{class:?}");
        }
    }

    #[test]
    fn a_page_that_was_asked_for_before_a_rewind_does_not_undo_it() {
        let mut window = Window::new(64);
        let (start, now) = (Cursor::start_of(Priority::Urgent), Instant::now());
        let further = Cursor { due_at: 7, ..start };
        window.page_was_read(start, Some(further), now);
        window.rewind();
        window.page_was_read(further, Some(Cursor { due_at: 9, ..start }), now);
        assert_eq!(window.wants(now), Some(Read::Page(start)));
    }

    #[test]
    fn what_was_passed_over_is_read_again_from_the_first_on() {
        let mut window = Window::new(64);
        let (start, now) = (Cursor::start_of(Priority::Urgent), Instant::now());
        let place = |due_at, copy| Cursor { due_at, copy, ..start };
        window.page_was_read(start, Some(place(9, 3)), now);
        window.pass_over(place(8, 5));
        window.pass_over(place(7, 6));
        window.pass_over(place(8, 1));
        assert_eq!(window.wants(now), Some(Read::Page(place(9, 3))));
        window.go_back();
        assert_eq!(window.wants(now), Some(Read::Page(place(7, 5))));
        window.page_was_read(place(7, 5), Some(place(9, 9)), now);
        window.go_back();
        assert_eq!(window.wants(now), Some(Read::Page(place(9, 9))), "once");
    }

    #[test]
    fn a_full_window_reads_nothing() {
        let mut window = Window::new(4);
        for id in 1..=4 {
            assert_eq!(window.admit(&of_domain(id, &format!("d{id}.test"))), Admission::Admitted);
        }
        assert_eq!(window.admit(&of_domain(5, "d5.test")), Admission::Full);
        let now = Instant::now();
        window.page_was_read(Cursor::start_of(Priority::Urgent), None, now);
        window.page_was_read(Cursor::start_of(Priority::Bulk), None, now);
        assert_eq!((window.wants(now + LOOK_PAST), window.wants_at()), (None, None));
        window.release(CopyId(1));
        window.release(CopyId(2));
        assert!(window.wants(now).is_some());
    }

    #[test]
    fn a_huge_copy_comes_in_when_half_is_free_and_holds_up_nobody_before() {
        let mut window = Window::new(16);
        let mut huge = of_domain(1, "huge.test");
        huge.recipients = vec![huge.recipients[0].clone(); 10_000];
        for id in 2..=10 {
            assert_eq!(window.admit(&of_domain(id, &format!("d{id}.test"))), Admission::Admitted);
        }
        assert_eq!(window.admit(&huge), Admission::DomainFull, "it is remembered, and reading goes on");
        assert_eq!(window.admit(&of_domain(11, "d11.test")), Admission::Admitted);
        (2..=4).for_each(|id| window.release(CopyId(id)));
        window.page_was_read(Cursor::start_of(Priority::Urgent), None, Instant::now());
        assert_eq!(window.wants(Instant::now()), Some(Read::Domain(NORMAL, domain("huge.test"))));
        assert_eq!(window.admit(&huge), Admission::Admitted);
        assert_eq!(window.admit(&of_domain(12, "d12.test")), Admission::Full);
        assert_eq!(window.wants(Instant::now()), Some(Read::Page(Cursor::start_of(Priority::Bulk))), "of another class");
    }

    proptest::proptest! {
        /// Whatever is in memory: what is read because it is wanted changes something, or is not asked for again at once, so that reading ends.
        #[test]
        fn what_is_wanted_comes_in(
            weights in proptest::collection::vec((1_usize..40, 0_usize..4), 1..40),
            wanted in 1_usize..60,
        ) {
            let mut window = Window::new(40);
            for (id, (weight, domain)) in (1_i64..).zip(weights) {
                let mut copy = of_domain(id, &format!("d{domain}.test"));
                copy.recipients = vec![copy.recipients[0].clone(); weight];
                window.admit(&copy);
            }
            let now = Instant::now();
            window.page_was_read(Cursor::start_of(Priority::Urgent), None, now);
            let mut copy = of_domain(1000, "new.test");
            copy.recipients = vec![copy.recipients[0].clone(); wanted];
            match window.wants(now) {
                Some(Read::Domain(class, domain)) => {
                    copy.domain = domain.clone();
                    let came_in = window.admit(&copy) == Admission::Admitted;
                    window.domain_was_read(class, &domain, false, now);
                    proptest::prop_assert!(came_in || window.wants(now) != Some(Read::Domain(class, domain)));
                }
                Some(Read::Page(from)) if from.priority == NORMAL => {
                    let came_in = window.admit(&copy) == Admission::Admitted;
                    window.page_was_read(from, Some(from), now);
                    proptest::prop_assert!(came_in || window.wants(now) != Some(Read::Page(from)));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_copy_is_in_once() {
        let mut window = Window::new(4);
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
        let mut window = Window::new(4);
        let (mut seen, now) = (Vec::new(), Instant::now());
        while let Some(Read::Page(cursor)) = window.wants(now) {
            seen.push(cursor.priority);
            window.page_was_read(cursor, None, now);
        }
        assert_eq!(seen, CLASSES);
        window.look_again();
        assert!(matches!(window.wants(now), Some(Read::Page(Cursor { priority: Priority::Urgent, .. }))));
    }
}
